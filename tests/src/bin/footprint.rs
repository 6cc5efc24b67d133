//! `cargo run --release -p tests --bin footprint [quick]`: what the bus takes beside the time of messages, against what it may. `quick`
//! measures little of everything, and judges nothing.

use std::process::ExitCode;
use std::time::Duration;
use tests::footprint::{Footprint, agent, measure};
use tests::harness;

fn main() -> ExitCode {
    if let Some(role) = harness::role() {
        agent(role);
        return ExitCode::SUCCESS;
    }
    let is_quick = std::env::args().nth(1).is_some_and(|word| word == "quick");
    let footprint = if is_quick {
        Footprint { attaches: 3, processes: 1, topics: 10, rest: Duration::from_millis(100) }
    } else {
        Footprint { attaches: 50, processes: 5, topics: 100, rest: Duration::from_secs(3) }
    };
    let figures = measure(footprint, "");
    figures.iter().for_each(|figure| println!("{figure}"));
    let is_met = is_quick || !figures.iter().any(|figure| figure.is_missed());
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
