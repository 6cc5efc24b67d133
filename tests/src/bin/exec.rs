//! `cargo run --release -p tests --bin exec [RUNS]`: how many commands a second `shmbus sub --exec true` runs, and a bare loop that starts
//! the same program and waits for it, in turns. At least 80 % is expected.

use bus_shm::{Bus, Bytes};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tests::cli::{CliBus, Running};

/// Turns of each of the two.
const TURNS: usize = 4;
/// The share that is expected.
const SHARE: f64 = 0.8;

fn rate(runs: u32, took: Duration) -> f64 {
    f64::from(runs) / took.as_secs_f64()
}

/// The bare loop.
fn bare(runs: u32) -> f64 {
    let begun = Instant::now();
    for _ in 0..runs {
        let mut child = Command::new("true").stdin(Stdio::null()).spawn().expect("true");
        assert!(child.wait().expect("its end").success());
    }
    rate(runs, begun.elapsed())
}

fn lag(cli: &CliBus) -> u64 {
    let groups = cli.topic("t").map(|state| state.groups).unwrap_or_default();
    groups.iter().flat_map(|group| &group.lanes).map(|lane| lane.lag_count).sum()
}

/// The same by messages that are there already when the clock starts.
fn by_messages(cli: &CliBus, runs: u32) -> f64 {
    let running: Running = cli.start(&["sub", "t", "--exec", "true", "--group", "g"]);
    cli.wait_for_readers("t", 1);
    let bus = Bus::builder(&cli.bus.name).service("asker").open().expect("the bus");
    let mut publisher = bus.topic::<Bytes>("t").expect("the topic").publisher().expect("a place");
    let begun = Instant::now();
    for number in 0..runs {
        publisher.publish(&number.to_le_bytes()).expect("room");
    }
    while lag(cli) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let rate = rate(runs, begun.elapsed());
    running.signal(rustix::process::Signal::TERM);
    running.finish().expect(0);
    rate
}

fn main() -> ExitCode {
    let runs = std::env::args().nth(1).map_or(1_000, |text| text.parse().expect("a number of runs"));
    let cli = CliBus::new("exec-rate");
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "t", "--capacity", "65536"]).expect(0);
    let mut shares = Vec::new();
    for turn in 1..=TURNS {
        let (bare, ours) = (bare(runs), by_messages(&cli, runs));
        println!("turn {turn}: bare {bare:.0}/s, sub --exec {ours:.0}/s, {:.0} %", 100.0 * ours / bare);
        shares.push(ours / bare);
    }
    shares.sort_by(f64::total_cmp);
    let median = (shares[(TURNS - 1) / 2] + shares[TURNS / 2]) / 2.0;
    println!(
        "median {:.0} % of the bare loop, {runs} runs a turn (at least {:.0} %)",
        100.0 * median,
        100.0 * SHARE
    );
    if median >= SHARE { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
