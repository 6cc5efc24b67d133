//! Real worker processes: a short run from end to end, and runs whose parent or worker is killed.
//!
//! The workers are this test program again, hence a `main` of its own instead of the test harness.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bus_bench::{Options, Report, WORKER_COMMAND, render, run, worker_main};

/// Argument with which this program runs a bench until it is killed.
const VICTIM: &str = "victim";

/// Worker processes of a run with two of them, and the cleaner.
const HELPERS: usize = 3;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if first.as_ref().is_some_and(|first| first == WORKER_COMMAND) {
        std::process::exit(worker_main(args));
    }
    if first.as_ref().is_some_and(|first| first == VICTIM) {
        let report = run(&options(&["throughput"], 30.0));
        let errors = report.map_or_else(|error| error.to_string(), |report| errors_of(&report));
        println!("{errors}");
        return;
    }
    // Test runners that ask for the names of the tests find none to select from.
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let tests: [(&str, fn()); 5] = [
        ("a_short_run_measures_every_row_and_loses_nothing", short_run),
        ("rows_of_a_full_run_lose_nothing_and_have_their_figures", rows_of_a_full_run),
        ("a_killed_parent_leaves_nothing_behind", killed_parent),
        ("a_terminated_parent_leaves_nothing_behind", terminated_parent),
        ("a_killed_worker_fails_its_rows_and_no_more", killed_worker),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
}

fn options(scenarios: &[&str], seconds: f64) -> Options {
    let scenarios = scenarios.iter().map(|&name| name.to_owned()).collect();
    Options { scenarios, seconds, ..Options::default() }
}

fn errors_of(report: &Report) -> String {
    report.scenarios.iter().filter_map(|row| row.error.clone()).collect::<Vec<_>>().join("\n")
}

fn short_run() {
    let log = std::env::temp_dir().join(format!("bus-bench-test-{}.hdr", std::process::id()));
    let options = Options { hdr: Some(log.clone()), ..options(&["latency", "throughput", "bus100k"], 3.0) };
    let report = run(&options).unwrap();
    assert_eq!(errors_of(&report), "");
    assert!(report.floor.line_ns.p50 > 0.0 && report.floor.wake_ns.p50 > 0.0);
    assert!(
        report.floor.ring_msgs_per_s.contains_key("64") && report.floor.ring_msgs_per_s.contains_key("1024")
    );
    for row in &report.scenarios {
        let attempted = row.slices.used + row.slices.dropped;
        assert!(attempted > 0, "{} was not measured", row.label());
        assert_eq!((row.lost, row.out_of_order, row.corrupt), (0, 0, 0), "{}", row.label());
        assert_eq!(row.slices.used > 0, row.to_floor.is_some(), "{}", row.label());
    }
    let text = render(&report);
    assert!(text.contains("latency") && text.contains(&report.verdict.text), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["schema"], 1);
    assert!(fs::read_to_string(&log).unwrap().starts_with("#[Histogram log format version"));
    fs::remove_file(&log).unwrap();
    assert!(!directory_of(std::process::id()).exists());
}

/// Shared groups, and the largest payload.
fn rows_of_a_full_run() {
    for (scenario, payload_bytes, figures) in [("mpmc", 64, 4), ("throughput", 1 << 20, 2)] {
        let options = Options { full: true, payloads: vec![payload_bytes], ..options(&[scenario], 0.0) };
        let report = run(&options).unwrap();
        assert_eq!(errors_of(&report), "");
        for row in &report.scenarios {
            assert_eq!((row.lost, row.out_of_order, row.corrupt), (0, 0, 0), "{}", row.label());
            assert!(row.skipped.is_some() || row.slices.used + row.slices.dropped > 0, "{}", row.label());
        }
        let is_measured = report.scenarios.iter().all(|row| row.skipped.is_none() && row.slices.used > 0);
        let aims: Vec<_> = report.scenarios.iter().flat_map(|row| &row.aims).collect();
        assert!(!is_measured || aims.iter().filter(|aim| aim.value.is_some()).count() == figures, "{aims:?}");
    }
}

fn killed_parent() {
    assert_gone_after(libc::SIGKILL);
}

fn terminated_parent() {
    assert_gone_after(libc::SIGTERM);
}

fn assert_gone_after(signal: i32) {
    let mut victim = start_victim();
    let helpers = wait_for_helpers(&victim);
    let directory = directory_of(victim.id());
    assert!(directory.exists());
    send(victim.id(), signal);
    let status = victim.wait().unwrap();
    assert_eq!(status.signal(), Some(signal));
    let deadline = Instant::now() + Duration::from_secs(5);
    while directory.exists() || helpers.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < deadline, "{} or one of {helpers:?} is still there", directory.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn killed_worker() {
    let victim = start_victim();
    let helpers = wait_for_helpers(&victim);
    let worker = helpers.into_iter().find(|pid| name_of(*pid) == "bench-worker-1").unwrap();
    let id = victim.id();
    send(worker, libc::SIGKILL);
    let output = victim.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("worker 1 ended"), "{text:?}");
    assert!(!directory_of(id).exists());
}

fn start_victim() -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(VICTIM)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The processes that the victim has started, once its scenario is under way.
fn wait_for_helpers(victim: &Child) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let helpers = children_of(victim.id());
        let named = |prefix: &str| helpers.iter().filter(|pid| name_of(**pid).starts_with(prefix)).count();
        if helpers.len() == HELPERS && named("bench-worker") == 2 && named("bench-cleaner") == 1 {
            // Into the floors and, on most machines, the first slices.
            std::thread::sleep(Duration::from_millis(700));
            return helpers;
        }
        assert!(Instant::now() < deadline, "no workers within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat_field(*pid, 1).is_some_and(|field| field == parent.to_string())).collect()
}

/// A field of `/proc/<pid>/stat` behind the name: 0 is the state, 1 the parent.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(index).map(str::to_owned)
}

/// Whether the process exists and is more than a record that nobody has collected yet.
fn runs(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn directory_of(pid: u32) -> PathBuf {
    Path::new("/dev/shm").join(format!("shmbus-bench-{pid}"))
}

fn send(pid: u32, signal: i32) {
    // SAFETY: kill touches no memory; the process is one that this test has started.
    let result = unsafe { libc::kill(pid.cast_signed(), signal) };
    assert_eq!(result, 0, "kill {pid}");
}
