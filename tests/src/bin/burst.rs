//! `cargo run --release -p tests --bin burst [REQUESTS]`: nine agents, 50 to 200 messages a request, and for two seconds ten times
//! as many requests as before: is the backlog gone within a second after it?

use std::process::ExitCode;
use std::time::Duration;
use tests::burst::{self, Burst};
use tests::harness;

fn main() -> ExitCode {
    if let Some(role) = harness::role() {
        burst::agent(role);
        return ExitCode::SUCCESS;
    }
    let rate = std::env::args().nth(1).map_or(20, |text| text.parse().expect("requests a second"));
    let figures = burst::measure(Burst { rate, factor: 10, part: Duration::from_secs(2) }, "");
    println!("{} requests, {} internal messages, nine agents", figures.requests, figures.messages);
    println!(
        "under way at most: {} at {rate} requests/s, {} at ten times as many",
        figures.before_max, figures.spike_max
    );
    println!("backlog gone {:?} after the spike (at most 1 s)", figures.drained);
    println!("cores of all agents: {:.2} before, {:.2} in the spike", figures.cores.0, figures.cores.1);
    println!(
        "memory: {} KiB of the agents, {} KiB of the bus",
        figures.agents_bytes >> 10,
        figures.bus_bytes >> 10
    );
    if figures.drained <= Duration::from_secs(1) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
