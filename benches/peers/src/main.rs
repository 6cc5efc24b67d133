//! Measures shmbus beside other ways to pass messages between processes of one machine: one table, a JSON file, a
//! picture. `README.md` says what is measured how.

mod compare;
mod own;
mod parts;
mod peers;
mod picture;
mod serializers;
mod servers;
mod table;
mod way;
mod ways;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bus_bench::guest::{Engine, worker_main_with};
use bus_bench::report::{FloorReport, Machine};
use bus_bench::{BenchError, Pinning, WORKER_COMMAND};
use clap::Parser;
use serde::Serialize;

use compare::{Pace, Row, compare};
use peers::Peer;
use way::{Kind, Work, failed};

/// Measures shmbus beside other ways to pass messages.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// At most about three minutes; what is taken without a choice.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Longer slices and more pairs; at most about twenty minutes.
    #[arg(long)]
    full: bool,
    /// Only this peer, `serializers`, or `fan-out` (several readers); may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The benchmarks that peers ship themselves, beside what is measured here at their settings, and nothing else;
    /// about three minutes, and another the first time, when they are built.
    #[arg(long, conflicts_with_all = ["quick", "full"])]
    own: bool,
    /// Prints JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Where peers.json and peers.svg are written.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/peers")]
    out: PathBuf,
}

/// Everything that a run has found.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    floor: FloorReport,
    rows: Vec<Row>,
    /// Peers' own benchmarks beside ours.
    own: Vec<own::Row>,
    /// Peers that are not there, and why.
    skipped: Vec<String>,
    /// What is known from elsewhere, or not comparable here.
    not_measured_here: [&'static str; 3],
    serializers: Vec<serializers::Row>,
    seconds: f64,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == WORKER_COMMAND) {
        return ExitCode::from(worker_main_with(args, ways::open) as u8);
    }
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bus-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), BenchError> {
    let begun = Instant::now();
    let chosen = chosen(args)?;
    let mut engine = Engine::start(&Pinning::Chosen, Path::new("/dev/shm"))?;
    let had_registry = Path::new(CROSSBAR_REGISTRY).exists();
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let mut serial = 0;
    // Neighbours that need the same share it.
    for peers in chosen.chunk_by(|a, b| a.need == b.need) {
        let server = match servers::start(peers[0].need, &engine.directory()) {
            Ok(Ok(server)) => server,
            Ok(Err(why)) => {
                skipped.push(format!("{}: {why}", names(peers)));
                continue;
            }
            Err(error) => {
                skipped.push(format!("{}: {error}", names(peers)));
                continue;
            }
        };
        for peer in peers {
            eprintln!("{} ({})", peer.name, peer.setting);
            for work in cells(args, peer) {
                rows.push(compare(&mut engine, peer, work, &server.address, pace(args.full), &mut serial));
            }
        }
    }
    let mut own = Vec::new();
    if args.own {
        let (more, not_run) = own::measure(&mut engine, &args.only, &args.out, &mut serial)?;
        own = more;
        skipped.extend(not_run);
        skipped.extend(own::NOT_RUN.map(|line| format!("own benchmark of {line}")));
    }
    let serializers = if !args.own && wants_serializers(&args.only) {
        eprintln!("{SERIALIZERS}");
        serializers::measure(engine.cores()[0], if args.full { 400 } else { 100 })?
    } else {
        Vec::new()
    };
    let report = Report {
        machine: engine.machine(),
        floor: engine.floors(),
        rows,
        own,
        skipped,
        not_measured_here: peers::NOT_MEASURED,
        serializers,
        seconds: begun.elapsed().as_secs_f64(),
    };
    engine.quit();
    if !had_registry {
        let _ = std::fs::remove_file(CROSSBAR_REGISTRY);
    }
    write(args, &report)
}

/// What crossbar leaves on the machine; it goes with the run that made it.
const CROSSBAR_REGISTRY: &str = "/dev/shm/crossbar-registry";

/// The name by which the comparison of serializers is asked for.
const SERIALIZERS: &str = "serializers";

/// The name by which rows with several readers are asked for.
const FAN_OUT: &str = "fan-out";

/// How many readers those rows have.
const READERS: [usize; 2] = [4, 8];

fn wants_serializers(only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|name| name == SERIALIZERS)
}

fn names(peers: &[Peer]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for peer in peers {
        if !names.contains(&peer.name) {
            names.push(peer.name);
        }
    }
    names.join(", ")
}

/// The peers that were asked for; none means all. Those with several readers belong to a full run, or are asked for.
fn chosen(args: &Args) -> Result<Vec<Peer>, BenchError> {
    let (all, only) = (peers::all(), &args.only);
    if args.own {
        let Some(name) = only.iter().find(|name| !own::known(name)) else { return Ok(Vec::new()) };
        return Err(failed("--only", format!("{name:?} has no benchmark of its own that is run here")));
    }
    let is_peer = |name: &str| all.iter().any(|peer| peer.name == name);
    if let Some(name) =
        only.iter().find(|name| ![SERIALIZERS, FAN_OUT].contains(&name.as_str()) && !is_peer(name))
    {
        let text =
            format!("no peer is called {name:?}; there are: {}, {SERIALIZERS}, {FAN_OUT}", names(&all));
        return Err(failed("--only", text));
    }
    let fan_out = only.iter().any(|name| name == FAN_OUT);
    let any_peer = only.is_empty() || (fan_out && !only.iter().any(|name| is_peer(name)));
    let wanted = |peer: &Peer| {
        let rows = if fan_out { peer.fan_out } else { args.full || !peer.fan_out };
        rows && (any_peer || only.iter().any(|name| name == peer.name))
    };
    Ok(all.iter().copied().filter(wanted).collect())
}

/// What is measured of a peer: a quick run leaves the large messages of settings that are not the best out.
fn cells(args: &Args, peer: &Peer) -> Vec<Work> {
    if peer.fan_out {
        return READERS.map(|readers| Work { kind: Kind::FanOut, bytes: 64, readers }).to_vec();
    }
    let sizes: &[usize] = if peer.tuned || args.full { &[64, 1_024] } else { &[64] };
    let kinds = [Kind::Latency, Kind::Throughput];
    sizes.iter().flat_map(|&bytes| kinds.map(|kind| Work { kind, bytes, readers: 1 })).collect()
}

fn pace(full: bool) -> Pace {
    if full {
        let (slice, budget) = (Duration::from_millis(40), Duration::from_secs(6));
        Pace { slice, pairs: 40, budget, attempts: 3 }
    } else {
        let (slice, budget) = (Duration::from_millis(10), Duration::from_millis(1_200));
        Pace { slice, pairs: 22, budget, attempts: 2 }
    }
}

fn write(args: &Args, report: &Report) -> Result<(), BenchError> {
    let json = serde_json::to_string_pretty(report).map_err(|error| failed("writing JSON", error))?;
    std::fs::create_dir_all(&args.out)
        .and_then(|()| std::fs::write(args.out.join("peers.json"), &json))
        .map_err(|error| failed(format!("writing to {}", args.out.display()), error))?;
    picture::draw(report, &args.out.join("peers.svg"))?;
    if args.json {
        println!("{json}");
    } else {
        print!("{}", table::render(report));
    }
    Ok(())
}
