//! The command as a user starts it, with real worker processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_bus-peers");

/// A directory for the files of one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bus-peers-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(args: &[&str], out: &Path) -> Output {
    Command::new(BINARY).args(args).arg("--out").arg(out).output().expect("the command")
}

/// What the process of that number has in shared memory.
fn left_in_memory(process: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm");
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| {
            name == &format!("shmbus-bench-{process}") || name.contains(&format!("shmbus-peers-{process}-"))
        })
        .collect()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_message_of_a_peer_without_a_server_arrives() {
    let scratch = Scratch::new("arrives");
    let peers = [
        "pipe",
        "unix seqpacket",
        "ring + eventfd",
        "ringfire",
        "iceoryx2",
        "crossbar",
        "ipc-channel",
        "rtrb",
    ];
    let mut args = vec!["--quick", "--json"];
    peers.iter().for_each(|peer| args.extend(["--only", peer]));
    let output = run(&args, &scratch.0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    for peer in peers {
        let of_peer: Vec<&Value> = rows.iter().filter(|row| row["peer"] == peer).collect();
        assert!(of_peer.len() >= 4, "{peer} has {} rows", of_peer.len());
        for row in of_peer {
            // A peer that lost, mixed up or changed a message says so as an error.
            assert_eq!(row["error"], Value::Null, "{row}");
            assert!(row["ours"]["ns"].as_f64() > Some(0.0) || row["pairs"] == 0, "{row}");
        }
    }
    for file in ["peers.json", "peers.svg"] {
        assert!(scratch.0.join(file).exists(), "{file} was not written");
    }
}

#[test]
fn every_reader_of_several_sees_every_message() {
    let scratch = Scratch::new("readers");
    let output = run(
        &["--json", "--only", "fan-out", "--only", "ringfire", "--only", "iceoryx2", "--only", "crossbar"],
        &scratch.0,
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    // Three peers in two settings, with four and with eight readers.
    assert_eq!(rows.len(), 12);
    for row in rows {
        assert_eq!((&row["kind"], &row["error"]), (&"fan_out".into(), &Value::Null), "{row}");
        assert!(row["readers"] == 4 || row["readers"] == 8, "{row}");
        let lost = row["theirs"]["lost_share"].as_f64();
        assert!(row["tuned"] == false || lost == Some(0.0), "{row}");
    }
}

#[test]
fn serializers_are_measured_without_a_peer() {
    let scratch = Scratch::new("serializers");
    let output = run(&["--only", "serializers"], &scratch.0);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["rkyv", "MessagePack", "Protocol Buffers", "Cap'n Proto"] {
        assert_eq!(text.matches(name).count(), if name == "rkyv" { 3 } else { 2 }, "{name} in\n{text}");
    }
}

#[test]
fn a_name_that_nobody_has_is_refused_with_those_that_exist() {
    let scratch = Scratch::new("refused");
    let output = run(&["--only", "pigeon"], &scratch.0);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("pigeon") && text.contains("iceoryx2"), "{text}");
    // Iceoryx2 has a benchmark of its own, but not in its package.
    let output = run(&["--own", "--only", "iceoryx2"], &scratch.0);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("iceoryx2"), "{text}");
}

/// Kills and reaps whatever becomes of the test.
struct Running(Child);

impl Running {
    fn start(peer: &str, out: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command
            .args(["--full", "--only", peer, "--out"])
            .arg(out)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("the command"))
    }

    fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/dev/shm/shmbus-bench-{}", self.0.id()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_of_the_bus_is_left_when_the_command_is_killed() {
    let scratch = Scratch::new("killed");
    let mut running = Running::start("pipe", &scratch.0);
    let process = running.0.id();
    let directory = running.directory();
    wait_until("a bus of the run", || {
        std::fs::read_dir(&directory).is_ok_and(|entries| entries.flatten().count() > 0)
    });
    running.0.kill().expect("a kill");
    running.0.wait().expect("its end");
    wait_until("the directory to be removed", || left_in_memory(process).is_empty());
}

/// Processes whose command line names a file in that directory.
fn users_of(directory: &Path) -> usize {
    let inside = format!("{}/", directory.display());
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    entries.flatten().map(line).filter(|line| String::from_utf8_lossy(line).contains(&inside)).count()
}

#[test]
fn servers_and_programs_end_with_the_command_that_is_killed() {
    for peer in ["redis pub/sub", "python multiprocessing"] {
        let scratch = Scratch::new("servers");
        let mut running = Running::start(peer, &scratch.0);
        let directory = running.directory();
        let begun = Instant::now();
        // Where the program is not installed the command ends by itself.
        while users_of(&directory) == 0 && matches!(running.0.try_wait(), Ok(None)) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{peer} did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        running.0.kill().expect("a kill");
        running.0.wait().expect("its end");
        wait_until(peer, || users_of(&directory) == 0);
    }
}
