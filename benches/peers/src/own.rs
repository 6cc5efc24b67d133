//! Benchmarks that peers ship themselves, run beside what this harness measures at the same settings: two programs by
//! different authors that agree are more to be believed than one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bus_bench::guest::{Engine, Entry, Limits, Slice};
use bus_bench::stats::median;
use serde::Serialize;

use crate::compare::sweep;
use crate::peers::DEFAULT;
use crate::servers::{self, Need, program, run_to_end};
use crate::way::{Cell, Kind, Result, failed};

/// How many rounds are wanted of each: its own between two of ours.
const ROUNDS: usize = 5;

/// Fewer say nothing.
const ROUNDS_MIN: usize = 3;

/// Time after which no further round is begun.
const BUDGET: Duration = Duration::from_secs(40);

/// A round counts if our figures before and after differ by less than this factor: the machine stayed as it was.
const STAYED: f64 = 1.25;

/// Two figures agree when neither is above the other by more than this factor.
const AGREES: f64 = 1.2;

/// Our share of a round.
const HERE: Limits =
    Limits { goal: 8, budget: Duration::from_millis(800), hard: Duration::from_millis(1_600) };
const SLICE: Duration = Duration::from_millis(30);

/// How long one run of a peer's benchmark may take, and how long cargo may.
const PATIENCE: Duration = Duration::from_secs(60);
const BUILD_PATIENCE: Duration = Duration::from_secs(900);

/// Requests of one run of `redis-benchmark`, and those on their way at once.
const REQUESTS: &str = "300000";
const PIPELINE: &str = "100";

const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Which of a peer's benchmarks cannot be run here, and why.
pub(crate) const NOT_RUN: [&str; 8] = [
    "iceoryx2: its benchmark-publish-subscribe is in its git repository only, not in a package",
    "zeromq: Debian's libzmq5 comes without local_lat and inproc_thr",
    "nats, rabbitmq: nats bench and PerfTest are not packaged",
    "ipc-channel: sender and receiver are one thread in those for small messages",
    "nng, boost queue: Debian's packages come without one",
    "crossbeam-channel: needs a nightly compiler",
    "rtrb: single bytes in a ring that never fills",
    "disruptor: bursts of at most 100, each waited for, which no row does",
];

/// Where a figure comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// `redis-benchmark` with this command, before the payload.
    Redis(&'static [&'static str]),
    /// A program of the peer's package that uses Criterion.
    Criterion(Criterion),
}

#[derive(Debug, Clone, Copy)]
struct Criterion {
    program: &'static str,
    /// What the program is asked for.
    filter: &'static str,
    /// Where Criterion writes what came of it.
    saved: &'static str,
    /// It times a round trip, we one way.
    round_trip: bool,
}

/// A benchmark of a peer, and how ours is set to do the same.
#[derive(Debug, Clone, Copy)]
struct Own {
    peer: &'static str,
    benchmark: &'static str,
    /// What both time.
    work: &'static str,
    /// What is not the same.
    differs: &'static str,
    source: Source,
    need: Need,
    kind: Kind,
    tuned: bool,
    lossy: bool,
    /// Nobody receives.
    alone: bool,
}

/// One line of the table.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) peer: &'static str,
    pub(crate) benchmark: &'static str,
    pub(crate) work: &'static str,
    /// Nanoseconds a message, median of the rounds.
    pub(crate) theirs_ns: f64,
    pub(crate) here_ns: f64,
    /// What the peer's benchmark says over what we say: median, lowest and highest of the rounds.
    pub(crate) ratio: Option<f64>,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) within_20_percent: Option<bool>,
    pub(crate) differs: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

fn all() -> Vec<Own> {
    let redis = Own {
        peer: "redis pub/sub",
        benchmark: "redis-benchmark -c 1 -P 100 publish",
        work: "the sender's time, nobody subscribed",
        differs: "it is not pinned and sends the same bytes each time",
        source: Source::Redis(&["publish", "own-benchmark"]),
        need: Need::Redis,
        kind: Kind::Throughput,
        tuned: true,
        lossy: false,
        alone: true,
    };
    let criterion = |own: Own, program, filter, saved, round_trip| Own {
        source: Source::Criterion(Criterion { program, filter, saved, round_trip }),
        need: Need::Nothing,
        alone: false,
        ..own
    };
    let round_trip = |peer, benchmark, filter, saved, tuned| {
        let own = Own {
            peer,
            benchmark,
            work: "one way of 64 B, half of a round trip",
            differs: "two threads that are not pinned",
            kind: Kind::Latency,
            tuned,
            ..redis
        };
        criterion(own, "ringfire-ipc_compare", filter, saved, true)
    };
    vec![
        redis,
        Own {
            peer: "redis streams",
            benchmark: "redis-benchmark -c 1 -P 100 xadd",
            work: "the sender's time, nobody reads",
            source: Source::Redis(&["xadd", "own-benchmark", "maxlen", "~", "65536", "*", "m"]),
            ..redis
        },
        criterion(
            Own {
                peer: "ringfire",
                benchmark: "throughput, spmc_push_with_reader_lossless",
                work: "the sender's time, 64 B, one reader, lossless",
                differs: "two threads that are not pinned; it checks no content",
                ..redis
            },
            "ringfire-throughput",
            "spmc_push_with_reader",
            "ringfire_throughput/spmc_push_with_reader_lossless",
            false,
        ),
        round_trip(
            "ringfire",
            "ipc_compare, ringfire_busy_spin",
            "ringfire_busy_spin",
            "ipc_rtt_64B_ringfire_busy_spin",
            true,
        ),
        round_trip(
            "ringfire",
            "ipc_compare, ringfire_futex_wait",
            "ringfire_futex_wait",
            "ipc_rtt_64B_ringfire_futex_wait",
            false,
        ),
        round_trip(
            "unix stream",
            "ringfire's ipc_compare, unix_domain_socket",
            "unix_domain_socket",
            "ipc_rtt_64B_unix_domain_socket",
            false,
        ),
        round_trip("pipe", "ringfire's ipc_compare, pipe", "pipe", "ipc_rtt_64B_pipe", false),
        criterion(
            Own {
                peer: "crossbar",
                benchmark: "spmc_contention, podbus/1_subs",
                work: "the sender's time, one reader, may lose",
                differs: "8 B, always the same, ours 64 B; two threads that are not pinned",
                lossy: true,
                ..redis
            },
            "crossbar-spmc_contention",
            "spmc_publish_throughput/podbus/1_subs",
            "spmc_publish_throughput/podbus/1_subs",
            false,
        ),
        criterion(
            Own {
                peer: "crossbar",
                benchmark: "spmc_contention, pool_ring/1_subs",
                work: "the sender's time, one reader, may lose",
                differs: "8 B, always the same, ours 64 B; two threads that are not pinned; its reader spins, ours may sleep",
                tuned: false,
                lossy: true,
                ..redis
            },
            "crossbar-spmc_contention",
            "spmc_publish_throughput/pool_ring/1_subs",
            "spmc_publish_throughput/pool_ring/1_subs",
            false,
        ),
    ]
}

/// Runs those of the peers that were asked for; none means all. What could not be run has a line.
pub(crate) fn measure(
    engine: &mut Engine,
    only: &[String],
    out: &Path,
    serial: &mut u64,
) -> Result<(Vec<Row>, Vec<String>)> {
    let wanted = |own: &Own| only.is_empty() || only.iter().any(|name| name == own.peer);
    let wanted: Vec<Own> = all().into_iter().filter(wanted).collect();
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let mut programs = None;
    for some in wanted.chunk_by(|a, b| a.need == b.need) {
        let server = match servers::start(some[0].need, &engine.directory()) {
            Ok(Ok(server)) => server,
            Ok(Err(why)) => {
                skipped.push(format!("{}, its own benchmark: {why}", some[0].peer));
                continue;
            }
            Err(error) => {
                skipped.push(format!("{}, its own benchmark: {error}", some[0].peer));
                continue;
            }
        };
        for own in some {
            eprintln!("{}: {}", own.peer, own.benchmark);
            let theirs = match own.source {
                Source::Redis(command) => Theirs::Redis { socket: server.address.clone(), command },
                Source::Criterion(criterion) => {
                    let built = programs.get_or_insert_with(|| build(out).map_err(|error| error.to_string()));
                    match built {
                        Ok(directory) => Theirs::Criterion { directory: directory.clone(), criterion },
                        Err(why) => {
                            skipped.push(format!("{}, {}: {why}", own.peer, own.benchmark));
                            continue;
                        }
                    }
                }
            };
            rows.push(in_turn(engine, own, &theirs, &server.address, serial));
        }
    }
    Ok((rows, skipped))
}

/// A benchmark that is ready to be run.
#[derive(Debug)]
enum Theirs {
    Redis { socket: String, command: &'static [&'static str] },
    Criterion { directory: PathBuf, criterion: Criterion },
}

fn in_turn(engine: &mut Engine, own: &Own, theirs: &Theirs, server: &str, serial: &mut u64) -> Row {
    let mut row = Row {
        peer: own.peer,
        benchmark: own.benchmark,
        work: own.work,
        differs: own.differs,
        ..Row::default()
    };
    let mut figures = Vec::new();
    match rounds(engine, own, theirs, server, serial, &mut figures) {
        Ok(()) => judge(&mut row, &figures),
        Err(error) => row.error = Some(error.to_string()),
    }
    row
}

fn rounds(
    engine: &mut Engine,
    own: &Own,
    theirs: &Theirs,
    server: &str,
    serial: &mut u64,
    figures: &mut Vec<(f64, f64)>,
) -> Result<()> {
    let begun = Instant::now();
    let mut before = here(engine, own, server, serial)?;
    while figures.len() < ROUNDS && begun.elapsed() < BUDGET {
        let it = theirs.run(&engine.directory())?;
        let after = here(engine, own, server, serial)?;
        if let (Some(before), Some(after)) = (before, after)
            && before.max(after) < STAYED * before.min(after)
        {
            figures.push((it, f64::midpoint(before, after)));
        }
        before = after;
    }
    Ok(())
}

fn judge(row: &mut Row, figures: &[(f64, f64)]) {
    if figures.len() < ROUNDS_MIN {
        row.error = Some(format!("in {} rounds only the machine stayed as it was", figures.len()));
        return;
    }
    let middle =
        |of: fn(&(f64, f64)) -> f64| median(&figures.iter().map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    let ratio = middle(|(theirs, here)| theirs / here);
    row.theirs_ns = middle(|(theirs, _)| *theirs);
    row.here_ns = middle(|(_, here)| *here);
    let ratios = figures.iter().map(|(theirs, here)| theirs / here);
    row.lowest = ratios.clone().fold(f64::INFINITY, f64::min);
    row.highest = ratios.fold(0.0, f64::max);
    row.ratio = Some(ratio);
    row.within_20_percent = Some((1.0 / AGREES..=AGREES).contains(&ratio));
}

/// What the harness says: nanoseconds a message.
fn here(engine: &mut Engine, own: &Own, server: &str, serial: &mut u64) -> Result<Option<f64>> {
    *serial += 1;
    let cell = Cell {
        peer: own.peer.into(),
        tuned: own.tuned,
        kind: own.kind,
        bytes: 64,
        readers: 1,
        directory: engine.directory(),
        name: format!("shmbus-peers-{}-{serial}", std::process::id()),
        block: 64,
        window: 0,
        lossy: own.lossy,
        other_core: engine.cores()[1],
        ours: DEFAULT,
        as_its_own: true,
        server: server.into(),
    };
    let spec = serde_json::to_string(&cell).map_err(|error| failed("describing a cell", error))?;
    let parts = if own.alone { vec![0] } else { vec![0, 1] };
    let measured = engine.measure(&[Entry { spec, parts, slice: SLICE }], HERE);
    sweep(&cell.name);
    let measured = measured?.pop().unwrap_or_default();
    let wrong = measured.corrupt + measured.out_of_order + if own.lossy { 0 } else { measured.lost };
    if wrong > 0 {
        return Err(failed(
            own.peer,
            format!("{wrong} messages are lost, out of order or not what was sent"),
        ));
    }
    let value = |slice: &Slice| match own.kind {
        Kind::Latency => slice.outcomes.iter().find_map(|outcome| outcome.block_ns),
        // The sender's clock, as the peers' benchmarks have it.
        Kind::Throughput | Kind::FanOut => slice.outcomes.first()?.mean_ns,
    };
    Ok(median(&measured.used.iter().filter_map(value).collect::<Vec<_>>()))
}

impl Theirs {
    /// Runs it once: nanoseconds a message.
    fn run(&self, scratch: &Path) -> Result<f64> {
        match self {
            Self::Redis { socket, command } => redis(socket, command, scratch),
            Self::Criterion { directory, criterion } => criterion.run(directory),
        }
    }
}

fn redis(socket: &str, command: &[&str], scratch: &Path) -> Result<f64> {
    let Some(path) = program("redis-benchmark") else {
        return Err(failed("redis-benchmark", "it is not installed"));
    };
    let output = scratch.join("redis-benchmark.csv");
    let file = File::create(&output).map_err(|error| failed("a file for redis-benchmark", error))?;
    let mut program = Command::new(path);
    program.stderr(Stdio::null()).args(["-s", socket, "-c", "1", "-P", PIPELINE, "-n", REQUESTS, "--csv"]);
    run_to_end(program.args(command).arg(PAYLOAD), Stdio::from(file), PATIENCE)?;
    let text = std::fs::read_to_string(&output).map_err(|error| failed("redis-benchmark", error))?;
    requests_per_s(&text).map(|rate| 1e9 / rate).ok_or_else(|| failed("reading from redis-benchmark", text))
}

/// The second column of the last line: `"name","rate",...`.
fn requests_per_s(csv: &str) -> Option<f64> {
    let cell = csv.lines().last()?.split("\",\"").nth(1)?;
    cell.parse().ok().filter(|rate| *rate > 0.0)
}

impl Criterion {
    fn run(self, directory: &Path) -> Result<f64> {
        let home = directory.join("criterion");
        let _ = std::fs::remove_dir_all(&home);
        let mut program = Command::new(directory.join("target/release").join(self.program));
        program
            .args(["--bench", "--noplot", "--warm-up-time", "0.5", "--measurement-time", "1", self.filter])
            .env("CRITERION_HOME", &home)
            .stderr(Stdio::null())
            .current_dir(directory);
        let process = run_to_end(&mut program, Stdio::null(), PATIENCE)?;
        sweep_crossbar(process);
        let path = home.join(self.saved).join("new/estimates.json");
        let text = std::fs::read_to_string(&path).map_err(|error| failed(self.program, error))?;
        let ns = estimate(&text).ok_or_else(|| failed(self.program, "no estimate"))?;
        Ok(if self.round_trip { ns / 2.0 } else { ns })
    }
}

/// Removes the lock files that crossbar's benchmark leaves in shared memory.
fn sweep_crossbar(process: u32) {
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("crossbar-bench-") && name.contains(&format!("-{process}-")) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The median that Criterion has found.
fn estimate(json: &str) -> Option<f64> {
    let estimates: serde_json::Value = serde_json::from_str(json).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}

/// Programs that are built from the benchmarks in the packages of these peers: package and benchmark.
const PROGRAMS: [(&str, &str); 3] =
    [("ringfire", "throughput"), ("ringfire", "ipc_compare"), ("crossbar", "spmc_contention")];

const LOCK: &str = include_str!("../Cargo.lock");

/// Builds the benchmarks from the very sources that cargo has unpacked for this program, in a package of their own.
/// Criterion, which they need, comes from the registry.
fn build(out: &Path) -> Result<PathBuf> {
    let out = std::path::absolute(out).map_err(|error| failed("the directory for benchmarks", error))?;
    let directory = out.join("own");
    let mut manifest = String::from(
        "[package]\nname = \"own-benchmarks\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n\
         [profile.release]\nlto = \"thin\"\ncodegen-units = 1\n\n[dependencies]\nlibc = \"0.2\"\n\
         criterion = { version = \"=0.5.1\", default-features = false, features = [\"cargo_bench_support\"] }\n",
    );
    for package in ["ringfire", "crossbar"] {
        let version = locked(LOCK, package).ok_or_else(|| failed(package, "it is not in the lock file"))?;
        manifest.push_str(&format!("{package} = \"={version}\"\n"));
    }
    for (package, benchmark) in PROGRAMS {
        let source = source(package, benchmark)?;
        manifest.push_str(&format!(
            "\n[[bin]]\nname = \"{package}-{benchmark}\"\npath = {:?}\n",
            source.display().to_string()
        ));
    }
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(directory.join("Cargo.toml"), manifest))
        .and_then(|()| std::fs::write(directory.join("Cargo.lock"), LOCK))
        .map_err(|error| failed("writing a package for benchmarks", error))?;
    let cargo = std::env::var_os("CARGO").map(PathBuf::from).or_else(|| program("cargo"));
    let mut command = Command::new(cargo.ok_or_else(|| failed("cargo", "it is not installed"))?);
    command
        .args(["build", "--quiet", "--release", "--target-dir"])
        .arg(directory.join("target"))
        .current_dir(&directory);
    let log = directory.join("build.log");
    let file = File::create(&log).map_err(|error| failed("a log for cargo", error))?;
    command.stderr(Stdio::from(file));
    run_to_end(&mut command, Stdio::null(), BUILD_PATIENCE)
        .map_err(|error| failed("building benchmarks", format!("{error}; see {}", log.display())))?;
    Ok(directory)
}

/// The version of a package in a lock file.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}

/// A benchmark's source in what cargo has unpacked.
fn source(package: &str, benchmark: &str) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let version = locked(LOCK, package).unwrap_or_default();
    let file = format!("{package}-{version}/benches/{benchmark}.rs");
    let registries = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    let mut found = registries.into_iter().flatten().flatten().map(|entry| entry.path().join(&file));
    found.find(|path| path.is_file()).ok_or_else(|| failed(file.clone(), "cargo has not unpacked it here"))
}

/// Whether a peer has a benchmark of its own here.
pub(crate) fn known(name: &str) -> bool {
    all().iter().any(|own| own.peer == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_the_programs_write() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"publish a b\",\"500000.00\",\"0.1\"\n";
        assert_eq!(requests_per_s(csv), Some(500_000.0));
        assert_eq!(requests_per_s("Could not connect\n"), None);
        let json = r#"{"mean":{"point_estimate":9.0},"median":{"point_estimate":12.5}}"#;
        assert_eq!(estimate(json), Some(12.5));
        assert_eq!(estimate("{}"), None);
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"2.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n";
        assert_eq!((locked(lock, "a"), locked(lock, "b")), (Some("1.2.3"), None));
        assert!(PROGRAMS.iter().all(|(package, _)| locked(LOCK, package).is_some()));
    }

    #[test]
    fn figures_agree_within_a_fifth_in_either_direction() {
        let of = |figures: &[(f64, f64)]| {
            let mut row = in_no_round();
            judge(&mut row, figures);
            (row.within_20_percent, row.error.is_some())
        };
        assert_eq!(of(&[(119.0, 100.0), (90.0, 100.0), (400.0, 100.0)]), (Some(true), false));
        assert_eq!(of(&[(121.0, 100.0), (90.0, 100.0), (400.0, 100.0)]), (Some(false), false));
        assert_eq!(of(&[(82.0, 100.0); 3]), (Some(false), false));
        assert_eq!(of(&[(84.0, 100.0); 3]), (Some(true), false));
        assert_eq!(of(&[(100.0, 100.0); 2]), (None, true));
    }

    fn in_no_round() -> Row {
        Row { peer: "peer", ..Row::default() }
    }
}
