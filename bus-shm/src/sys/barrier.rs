//! A memory barrier executed on behalf of every other process of the bus.
//!
//! A publisher stores a message and then looks whether somebody sleeps; a sleeper announces itself and then
//! looks for messages. One of the two must see the other, which needs a full barrier on both sides between the
//! store and the load. The sleeper, who is in no hurry, pays for both: [`global_expedited`] runs a barrier on
//! each core that executes a process that has called [`register`], so that the publisher needs no more than
//! a compiler fence.
//!
//! # Ordering
//! Pairs with `compiler_fence(SeqCst)` between the publisher's store and its load. A publisher that is not
//! registered is not reached: it needs `fence(SeqCst)`, and then the sleeper needs one as well.

use super::error::{Result, SysError};
use core::sync::atomic::{Ordering, compiler_fence};
use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

/// Whether this kernel offers the barrier (4.16 and later, unless a sandbox forbids it).
#[must_use]
pub fn is_supported() -> bool {
    let needed = MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED;
    membarrier_query().contains(needed)
}

/// Makes this process one that [`global_expedited`] reaches. May be repeated; lost by exec.
///
/// # Errors
/// `EINVAL` or `ENOSYS` where there is no such barrier.
pub fn register() -> Result<()> {
    call(MembarrierCommand::RegisterGlobalExpedited)
}

/// Runs a full barrier on this thread and on every running thread of every registered process.
///
/// Takes about 0.4 us when the others are idle. The caller need not be registered itself.
///
/// # Errors
/// `EINVAL` or `ENOSYS` where there is no such barrier: then no barrier was made, on this thread either.
pub fn global_expedited() -> Result<()> {
    compiler_fence(Ordering::SeqCst);
    let outcome = call(MembarrierCommand::GlobalExpedited);
    compiler_fence(Ordering::SeqCst);
    outcome
}

fn call(command: MembarrierCommand) -> Result<()> {
    membarrier(command).map_err(|errno| SysError::new("membarrier", format_args!("{command:?}"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;

    #[test]
    fn registered_twice_it_still_works() {
        if !is_supported() {
            assert!(register().is_err());
            return;
        }
        register().unwrap();
        register().unwrap();
        global_expedited().unwrap();
    }

    /// Store buffering with the barrier on one side only: both sides missing the other must not happen.
    #[test]
    fn one_sided_barrier_forbids_both_missing_each_other() {
        if register().is_err() {
            return;
        }
        const ROUNDS: u32 = 2_000;
        let (published, armed, round) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let seen_by_publisher = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=ROUNDS {
                    while round.load(Ordering::Acquire) != number {
                        std::thread::yield_now();
                    }
                    published.store(number, Ordering::Relaxed);
                    compiler_fence(Ordering::SeqCst);
                    let armed_now = armed.load(Ordering::Relaxed);
                    seen_by_publisher.store(armed_now, Ordering::Relaxed);
                    // Release: the sleeper reads what was seen once the round has ended.
                    round.store(0, Ordering::Release);
                }
            });
            for number in 1..=ROUNDS {
                round.store(number, Ordering::Release);
                armed.store(number, Ordering::Relaxed);
                global_expedited().unwrap();
                let published_now = published.load(Ordering::Relaxed);
                while round.load(Ordering::Acquire) != 0 {
                    std::thread::yield_now();
                }
                let armed_seen = seen_by_publisher.load(Ordering::Relaxed);
                assert!(published_now == number || armed_seen == number, "round {number}");
            }
        });
    }
}
