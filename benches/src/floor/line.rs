//! `line`: two cache lines, one a direction, passed back and forth. One way is half of a round trip.

use std::sync::atomic::Ordering;

use super::Turn;
use crate::blocks::{BLOCK_OPS, Blocks};
use crate::histogram::Nanos;
use crate::protocol::Outcome;

/// Tells the other side that the slice is over.
const STOP: u64 = u64::MAX;

/// Role 0 starts each round trip, role 1 answers.
pub(crate) fn run(turn: &Turn<'_>, histogram: &mut Nanos) -> Outcome {
    if turn.role == 0 { ping(turn, histogram) } else { pong(turn) }
}

/// Blocks without a clock reading inside (for the value) alternate with blocks in which each round trip is timed.
fn ping(turn: &Turn<'_>, histogram: &mut Nanos) -> Outcome {
    let page = turn.control.page();
    let (clock, until) = (turn.clock, turn.deadline());
    let mut blocks = Blocks::new();
    let mut sequence = 0;
    let mut now = clock.now();
    let started = now;
    while now < until {
        for _ in 0..BLOCK_OPS {
            sequence += 1;
            // Release and Acquire, both ways: the value itself is the message.
            page.forward.store(sequence, Ordering::Release);
            while page.backward.load(Ordering::Acquire) != sequence {
                turn.relax();
            }
        }
        let plain_end = clock.now();
        blocks.push(clock.ns_f64(plain_end - now), 2 * BLOCK_OPS);
        now = plain_end;
        for _ in 0..BLOCK_OPS {
            sequence += 1;
            page.forward.store(sequence, Ordering::Release);
            while page.backward.load(Ordering::Acquire) != sequence {
                turn.relax();
            }
            let arrived = clock.now();
            histogram.record(clock.ns_between(now, arrived) / 2);
            now = arrived;
        }
    }
    page.forward.store(STOP, Ordering::Release);
    let mut outcome = Outcome::of("producer");
    outcome.ops = 2 * sequence;
    outcome.block_ns = blocks.median_ns();
    outcome.mean_ns = Some(clock.ns_f64(now - started) / outcome.ops.max(1) as f64);
    outcome.histogram = histogram.to_sparse();
    outcome
}

fn pong(turn: &Turn<'_>) -> Outcome {
    let page = turn.control.page();
    let mut expected = 1;
    loop {
        let seen = page.forward.load(Ordering::Acquire);
        if seen == expected {
            page.backward.store(expected, Ordering::Release);
            expected += 1;
        } else if seen == STOP {
            break;
        } else {
            turn.relax();
        }
    }
    let mut outcome = Outcome::of("consumer");
    outcome.ops = expected - 1;
    outcome
}
