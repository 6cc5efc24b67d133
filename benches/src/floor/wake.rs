//! `wake`: a futex in shared memory. One way: from just before the wake to the first instruction of the sleeper.

use std::sync::atomic::Ordering;

use rustix::thread::futex;

use super::Turn;
use super::sleeper::{SLEEPER_ROUND, WOKEN_AT, Watch, announce};
use crate::error::Result;
use crate::histogram::Nanos;
use crate::protocol::Outcome;

/// Value of the bell that ends the slice.
const STOP: u32 = u32::MAX;

/// Role 0 wakes, role 1 sleeps.
pub(crate) fn run(turn: &Turn<'_>, histogram: &mut Nanos) -> Result<Outcome> {
    if turn.role == 0 { wake(turn) } else { Ok(sleep(turn, histogram)) }
}

fn wake(turn: &Turn<'_>) -> Result<Outcome> {
    let page = turn.control.page();
    let clock = turn.clock;
    let watch = Watch::open(turn)?;
    let until = turn.deadline();
    let mut round = 0_u32;
    while clock.now() < until {
        watch.until_asleep(turn, u64::from(round) + 1)?;
        round += 1;
        turn.control.word(WOKEN_AT).store(clock.now(), Ordering::Relaxed);
        // Release: carries the time above to the sleeper.
        page.bell.store(round, Ordering::Release);
        // A failed wake shows as a sleeper that never answers, which the parent's deadline ends.
        let _ = futex::wake(&page.bell, futex::Flags::empty(), 1);
    }
    watch.until_asleep(turn, u64::from(round) + 1)?;
    page.bell.store(STOP, Ordering::Release);
    let _ = futex::wake(&page.bell, futex::Flags::empty(), 1);
    let mut outcome = Outcome::of("producer");
    outcome.ops = u64::from(round);
    Ok(outcome)
}

fn sleep(turn: &Turn<'_>, histogram: &mut Nanos) -> Outcome {
    let page = turn.control.page();
    announce(turn);
    let mut round = 0_u32;
    loop {
        turn.control.word(SLEEPER_ROUND).store(u64::from(round) + 1, Ordering::Release);
        // Shared, not private: the waker is another process. Early returns lead to another wait.
        while page.bell.load(Ordering::Acquire) == round {
            let _ = futex::wait(&page.bell, futex::Flags::empty(), round, None);
        }
        let awake = turn.clock.now();
        if page.bell.load(Ordering::Acquire) == STOP {
            break;
        }
        histogram.record(turn.clock.ns_between(turn.control.word(WOKEN_AT).load(Ordering::Relaxed), awake));
        round += 1;
    }
    let mut outcome = Outcome::of("consumer");
    outcome.ops = u64::from(round);
    outcome.block_ns = (round > 0).then(|| histogram.quantile(0.5) as f64);
    outcome.histogram = histogram.to_sparse();
    outcome
}
