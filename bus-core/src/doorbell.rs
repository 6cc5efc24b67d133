//! Waking a reader that sleeps on a futex, without a system call when nobody sleeps.
//!
//! ```text
//! bit   0       1..16      16..32
//!       armed   arrivals   epoch
//! ```
//!
//! A sleeper arms the bell, makes sure that every publisher will see it, looks at the slots once more, and sleeps on the
//! exact value that it stored. A publisher publishes and then loads the bell: not armed, nothing more to do.
//!
//! That is Dekker's pattern (`PARK-WAKE`): publisher stores slot and loads bell, sleeper stores bell and loads slot. Each
//! side needs its store to be visible before its load. In fence mode both run `fence(SeqCst)`. In membarrier
//! mode the publisher, who is the hot side, runs a compiler fence only, and the sleeper's membarrier puts a full fence
//! into every registered process. The mode belongs to the bus; a sleeper without membarrier misses a publisher without a fence. A publisher that
//! runs a fence is heard in either mode: one whose process is not registered yet does.
//!
//! Ringing goes: epoch + 1 with armed kept, wake, then that exact value to not armed. Clearing first would lose the sleepers
//! if the publisher died before its wake; clearing blindly would lose those who armed between.

use crate::sync::{AtomicU32, Ordering, compiler_fence, fence};

const ARMED: u32 = 1;
const ARRIVAL: u32 = 2;
const ARRIVALS_MASK: u32 = 0xfffe;
const EPOCH: u32 = 1 << 16;

/// How the two sides of `PARK-WAKE` order their store and their load; chosen once for the sleepers of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Sleepers run membarrier, publishers nothing.
    Membarrier,
    /// Both sides run a full fence.
    Fence,
}

/// A view of one bell.
#[derive(Clone, Copy)]
pub struct Doorbell<'a> {
    word: &'a AtomicU32,
}

impl<'a> Doorbell<'a> {
    /// Views a word, which starts at 0.
    pub fn attach(word: &'a AtomicU32) -> Self {
        Self { word }
    }

    /// The futex word.
    pub fn word(&self) -> &'a AtomicU32 {
        self.word
    }

    /// Sleeper, first step: arms the bell. Returns the value to sleep on. `membarrier` or a full fence must
    /// follow, and then another look at the slots.
    pub fn arm(&self) -> u32 {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let arrivals = seen.wrapping_add(ARRIVAL) & ARRIVALS_MASK;
            let new = (seen & !(ARRIVALS_MASK | ARMED)) | arrivals | ARMED;
            // Release: LISTENER-TABLE; whoever disarms this has seen who stands in the table of listeners. The look at the slots is
            // ordered by PARK-WAKE's fence.
            match self.word.compare_exchange_weak(seen, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return new,
                Err(now) => seen = now,
            }
        }
    }

    /// Sleeper, after a futex wait that did not sleep because the value had changed from `slept_on`: the value to sleep on
    /// now, or `None` if the bell was rung meanwhile.
    pub fn still_armed(&self, slept_on: u32) -> Option<u32> {
        let now = self.word.load(Ordering::Relaxed);
        (now & ARMED != 0 && now / EPOCH == slept_on / EPOCH).then_some(now)
    }

    /// Publisher, after publishing: rings if somebody is asleep. `wake` is the futex wake of everybody. Returns
    /// whether it rang.
    #[inline]
    pub fn ring(&self, barrier: Barrier, wake: impl FnOnce()) -> bool {
        self.ring_if(barrier, || {
            wake();
            true
        })
    }

    /// The same where `wake` can fail, and says so by false: then the bell stays armed, and whoever rings next tries again.
    #[inline]
    pub fn ring_if(&self, barrier: Barrier, wake: impl FnOnce() -> bool) -> bool {
        match barrier {
            // PARK-WAKE, hot side: the sleeper's membarrier makes this a full fence when it matters.
            Barrier::Membarrier => compiler_fence(Ordering::SeqCst),
            Barrier::Fence => fence(Ordering::SeqCst),
        }
        if self.word.load(Ordering::Relaxed) & ARMED == 0 {
            return false;
        }
        self.ring_slow(wake)
    }

    #[cold]
    fn ring_slow(&self, wake: impl FnOnce() -> bool) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        let rung = loop {
            if seen & ARMED == 0 {
                return false;
            }
            let new = seen.wrapping_add(EPOCH);
            // Acquire: LISTENER-TABLE; those whose arming this ring ends are in the table that is read next.
            match self.word.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break new,
                Err(now) => seen = now,
            }
        };
        if !wake() {
            return false;
        }
        // Only this exact value: whoever armed since is not asleep yet, or will find the value changed.
        let _ = self.word.compare_exchange(rung, rung & !ARMED, Ordering::Relaxed, Ordering::Relaxed);
        true
    }

    /// Is anybody asleep, or about to be?
    pub fn is_armed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & ARMED != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ringing_wakes_once_and_only_when_armed() {
        let word = AtomicU32::new(0);
        let bell = Doorbell::attach(&word);
        assert!(!bell.ring(Barrier::Fence, || panic!("nobody sleeps")));
        let slept_on = bell.arm();
        assert!(bell.is_armed());
        let mut woken = 0;
        assert!(bell.ring(Barrier::Fence, || woken += 1));
        assert_eq!((woken, bell.is_armed()), (1, false));
        assert_eq!(bell.still_armed(slept_on), None);
    }

    #[test]
    fn a_ring_that_failed_is_rung_again() {
        let word = AtomicU32::new(0);
        let bell = Doorbell::attach(&word);
        bell.arm();
        assert!(!bell.ring_if(Barrier::Fence, || false));
        assert!(bell.is_armed());
        assert!(bell.ring_if(Barrier::Fence, || true));
        assert!(!bell.is_armed());
    }

    #[test]
    fn a_second_sleeper_changes_the_value_but_not_the_epoch() {
        let word = AtomicU32::new(0);
        let bell = Doorbell::attach(&word);
        let first = bell.arm();
        let second = bell.arm();
        assert_ne!(first, second);
        assert_eq!(bell.still_armed(first), Some(second));
    }

    #[test]
    fn who_arms_while_the_bell_rings_stays_armed() {
        let word = AtomicU32::new(0);
        let bell = Doorbell::attach(&word);
        bell.arm();
        bell.ring(Barrier::Fence, || {
            bell.arm();
        });
        assert!(bell.is_armed());
    }

    #[test]
    fn arrivals_and_epoch_wrap_without_touching_each_other() {
        let word = AtomicU32::new(!ARMED);
        let bell = Doorbell::attach(&word);
        assert_eq!(bell.arm(), 0xffff_0001);
        assert!(bell.ring(Barrier::Fence, || {}));
        assert_eq!(word.load(Ordering::Relaxed), 0);
    }
}
