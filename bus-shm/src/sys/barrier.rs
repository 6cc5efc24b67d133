//! A memory barrier executed on behalf of every other process of the bus.
//!
//! A publisher stores a message and then looks whether somebody sleeps; a sleeper announces itself and then
//! looks for messages. One of the two must see the other, which needs a full barrier on both sides between the
//! store and the load. The sleeper, who is in no hurry, pays for both: [`global_expedited`] runs a barrier on
//! each core that executes a process that is registered for it, so that the publisher needs no more than
//! a compiler fence.
//!
//! # Ordering
//! Pairs with `compiler_fence(SeqCst)` between the publisher's store and its load. A publisher that is not
//! registered is not reached: it needs `fence(SeqCst)`, and the sleeper has one in its own.
//!
//! # Registering
//! In a process of one thread that sets a flag. With more the kernel waits until every core has been elsewhere
//! (`synchronize_rcu`), which takes 8 to 14 ms, so a thread of its own does that when it turns out to be worth it, and until it is done this process
//! is one that is not registered ([`of_ringer`]). Model: `doorbell`.

use super::error::{Result, SysError};
use bus_core::doorbell::Barrier;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, compiler_fence};
use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier, membarrier_query};

/// Whether this kernel offers the barrier (4.16 and later, unless a sandbox forbids it).
#[must_use]
pub fn is_supported() -> bool {
    let needed = MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED;
    membarrier_query().contains(needed)
}

/// Is this process known to be registered? Once so it stays so, in forked children as well.
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
/// The process of which a thread has been started for that; 0 for none.
static REGISTERING: AtomicU32 = AtomicU32::new(0);
/// Links of a directory of one entry, itself a directory.
const LINKS_OF_ONE: u64 = 3;

/// Makes this process one that [`global_expedited`] reaches, if it has one thread; others are left to [`register_beside`]. May be repeated;
/// lost by exec.
///
/// # Errors
/// `EINVAL` or `ENOSYS` where there is no such barrier.
pub fn register_if_alone() -> Result<()> {
    if IS_REGISTERED.load(Ordering::Relaxed) || is_supported() && has_other_threads() {
        return Ok(());
    }
    register()
}

/// The same by a thread of its own, once for each process; `pid` is this one. What goes wrong there leaves a process that runs fences.
pub fn register_beside(pid: u32) {
    if REGISTERING.load(Ordering::Relaxed) != pid && REGISTERING.swap(pid, Ordering::Relaxed) != pid {
        let _ = std::thread::Builder::new().name("shmbus-register".into()).spawn(register);
    }
}

/// The same at once, however long it takes.
///
/// # Errors
/// As [`register_if_alone`].
pub fn register() -> Result<()> {
    call(MembarrierCommand::RegisterGlobalExpedited)?;
    // Release: pairs with `of_ringer`.
    IS_REGISTERED.store(true, Ordering::Release);
    Ok(())
}

/// Has this process more than one thread, as far as can be told?
fn has_other_threads() -> bool {
    rustix::fs::stat("/proc/self/task").map_or(true, |task| task.st_nlink > LINKS_OF_ONE)
}

/// What who rings a bell has to do in a bus of this mode: until this process is registered nobody's barrier reaches it, and it runs a
/// fence, which is enough for sleepers of either mode.
#[must_use]
pub fn of_ringer(mode: Barrier) -> Barrier {
    // Acquire: before the look at the bell. Whoever armed it before this process was registered has not reached it.
    if IS_REGISTERED.load(Ordering::Acquire) { mode } else { Barrier::Fence }
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
            assert_eq!(of_ringer(Barrier::Membarrier), Barrier::Fence);
            return;
        }
        register().unwrap();
        register().unwrap();
        global_expedited().unwrap();
        assert_eq!(of_ringer(Barrier::Membarrier), Barrier::Membarrier);
        assert_eq!(of_ringer(Barrier::Fence), Barrier::Fence);
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
