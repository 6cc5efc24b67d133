//! A burst, smaller than `cargo run --release -p tests --bin burst` has it, with limits that hold on a busy machine.

use std::time::Duration;
use tests::burst::{self, Burst};
use tests::harness;

/// The agents.
#[test]
fn agent() {
    if let Some(role) = harness::role() {
        burst::agent(role);
    }
}

#[test]
fn a_backlog_is_gone_soon_after_the_spike_that_made_it() {
    let figures = burst::measure(Burst { rate: 4, factor: 10, part: Duration::from_secs(1) }, "agent");
    println!("{figures:?}");
    assert!(figures.requests >= 40, "{figures:?}");
    assert!(figures.drained < Duration::from_secs(3), "{figures:?}");
    assert!(figures.agents_bytes < 200 << 20, "{figures:?}");
}
