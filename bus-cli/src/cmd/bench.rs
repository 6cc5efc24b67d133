//! `shmbus bench`: how far the bus is from the floor of this machine.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use bus_bench::{Options, Pinning, WaitMode};
use std::path::PathBuf;

/// How processes wait for messages.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum WaitFlag {
    /// Never sleep
    Spin,
    /// Spin as long as one wake-up costs, then sleep
    Adaptive,
    /// Sleep at once
    Park,
}

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scenarios to run, by name: latency, paced, throughput, fanout, mpmc, priority, wake, bus100k, pipeline, cost; all but the last, which
    /// times single steps, if none is given
    scenario: Vec<String>,
    /// Pin the processes to cores: to the given ones (--pin-cores=0,1), else to sensible ones
    #[arg(long, value_name = "CORES", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pin_cores: Option<String>,
    /// Everything: all payload sizes, ways of waiting and settings, and figures beside what the bus is meant to reach some day, which are
    /// not judged (at most three minutes; less with names of scenarios)
    #[arg(long)]
    full: bool,
    /// Only this payload size in bytes: 64, 1024 or 65536, for throughput alone 1048576 as well; may be repeated
    #[arg(long, value_name = "BYTES")]
    payload: Vec<usize>,
    /// How consumers wait where the scenario leaves it open
    #[arg(long, value_enum)]
    wait: Option<WaitFlag>,
    /// Write the latencies as a standard HDR log
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
    /// Seconds that the default set may take
    #[arg(long, default_value_t = 19.5)]
    seconds: f64,
    /// A figure counts as missed only when it is missed by this factor, 1 or more
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    slack: f64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn pinning(flag: Option<&str>) -> Result<Pinning, Failure> {
    match flag {
        None => Ok(Pinning::Off),
        Some("auto") => Ok(Pinning::Chosen),
        Some(list) => {
            let cores: Result<Vec<usize>, _> = list.split(',').map(|core| core.trim().parse()).collect();
            cores.map(Pinning::Given).map_err(|_| {
                let why = format!("--pin-cores {list}: give core numbers with commas between, such as 0,1");
                Failure::new(Code::Usage, why)
            })
        }
    }
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let mut options = Options {
        pin_cores: pinning(args.pin_cores.as_deref())?,
        full: args.full,
        scenarios: args.scenario.clone(),
        payloads: args.payload.clone(),
        wait: args.wait.map(|wait| match wait {
            WaitFlag::Spin => WaitMode::Spin,
            WaitFlag::Adaptive => WaitMode::Adaptive,
            WaitFlag::Park => WaitMode::Park,
        }),
        hdr: args.hdr.clone(),
        seconds: args.seconds,
        slack: args.slack,
        progress: (!place.quiet).then_some(|name| eprintln!("... {name}")),
        ..Options::default()
    };
    if let Some(dir) = &place.dir {
        options.directory.clone_from(dir);
    }
    let report = bus_bench::run(&options).map_err(|error| Failure::new(Code::Error, error))?;
    output::print(&if args.json { report.to_json() + "\n" } else { bus_bench::render(&report) })?;
    if report.verdict.pass { Ok(()) } else { Err(Failure::Quiet(Code::Threshold as u8)) }
}
