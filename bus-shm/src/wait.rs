//! How a reader waits: it spins at most as long as one wake-up costs, then sleeps on the topic's bell.

use crate::region::Region;
use crate::sys::{barrier, cpu, futex};
use bus_core::doorbell::{Barrier, Doorbell};
use bus_core::layout::superblock::spin;
use bus_core::sync::{AtomicU64, Ordering, fence, spin_pause};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a reader does while there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wait {
    /// Never sleeps: lowest latency, one core in full.
    Spin,
    /// Spins as long as one wake-up costs while that tends to succeed and a core is idle, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once: least CPU.
    Park,
}

/// About what a wake-up from another core costs on a virtual machine. Spinning longer than this can only lose.
const SPIN_BUDGET: Duration = Duration::from_micros(25);
/// A sleeper looks for itself this often: a publisher may die between its publication and its wake.
pub(crate) const PARK_CEILING: Duration = Duration::from_secs(1);
/// After this many spins in a row that found nothing, spinning pauses ...
const MISSES_MAX: u32 = 4;
/// ... except every so many waits, to see whether traffic has become dense.
const PROBE_EVERY: u32 = 16;
/// Pauses between two looks at the clock.
const PAUSES_PER_LOOK: u32 = 32;
/// A wait that is over within so many pauses is no gap in a stream: at that pace, as many messages as make it worth holding back come
/// while [`bus_core::ring::ReadAhead`] does.
const SHORT_PAUSES: u32 = 4;
/// Looks between two pauses, where one is short. A pause takes as long as half the way of a line from core to core on some processors.
const LOOKS_PER_PAUSE: u32 = 4;
/// A reader that spins without limit lets others run after this many pauses, for machines with fewer cores than spinners.
const PAUSES_PER_YIELD: u32 = 1 << 14;

/// The waiting state of one reader.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) mode: Wait,
    barrier: Barrier,
    participant: u16,
    misses: u32,
    skipped: u32,
    looks_per_pause: u32,
    /// Was the last wait over within a few pauses?
    was_short: bool,
}

fn spin_slots() -> usize {
    static SLOTS: OnceLock<usize> = OnceLock::new();
    // One core is left to whoever publishes.
    *SLOTS.get_or_init(|| cpu::online().len().saturating_sub(1).clamp(1, spin::SLOTS))
}

/// A place among those who may spin; given back when dropped.
struct SpinSlot<'a>(&'a AtomicU64);

impl<'a> SpinSlot<'a> {
    fn take(region: &'a Region, participant: u16) -> Option<Self> {
        (0..spin_slots()).find_map(|index| {
            let word = region.look(spin::slot(index))?;
            let mine = u64::from(participant) + 1;
            // Relaxed: a counter of places, it orders nothing.
            (word.load(Ordering::Relaxed) == 0
                && word.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed).is_ok())
            .then_some(Self(word))
        })
    }
}

impl Drop for SpinSlot<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Gives back the places of a participant that died while it spun.
pub(crate) fn release_spin_slots(region: &Region, participant: u16) {
    for index in 0..spin::SLOTS {
        if let Some(word) = region.look(spin::slot(index)) {
            let its = u64::from(participant) + 1;
            let _ = word.compare_exchange(its, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Puts a full fence into every process that may ring and runs none itself, as the bus's mode wants it.
pub(crate) fn sleeper_fence(mode: Barrier) {
    if mode == Barrier::Fence || barrier::global_expedited().is_err() {
        fence(Ordering::SeqCst);
    }
}

/// Sleeps on a bell until it rings, for at most `most`. `ready` is asked once more after the bell is armed.
pub(crate) fn park(bell: Doorbell<'_>, mode: Barrier, most: Duration, mut ready: impl FnMut() -> bool) {
    let slept_on = bell.arm();
    sleeper_fence(mode);
    if !ready() {
        sleep_on(bell, slept_on, most);
    }
}

/// Sleeps on a bell that was armed with this value, for at most `most`. The caller has run the fence and has looked again.
pub(crate) fn sleep_on(bell: Doorbell<'_>, mut slept_on: u32, most: Duration) {
    let begun = Instant::now();
    while let Some(left) = most.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        match futex::wait(bell.word(), slept_on, Some(left)) {
            futex::WaitOutcome::Changed => match bell.still_armed(slept_on) {
                Some(now) => slept_on = now,
                None => return,
            },
            _ => return,
        }
    }
}

impl Waiter {
    pub(crate) fn new(mode: Wait, barrier: Barrier, participant: u16) -> Self {
        Self {
            mode,
            barrier,
            participant,
            misses: 0,
            skipped: 0,
            looks_per_pause: LOOKS_PER_PAUSE,
            was_short: false,
        }
    }

    /// For whom a look is long, at many topics.
    pub(crate) fn with_long_looks(self) -> Self {
        Self { looks_per_pause: 1, ..self }
    }

    /// Waits until `ready`, or until `deadline`. True if ready. Returns at the latest after the park ceiling, ready or not.
    /// `before_sleep` is called if it comes to that.
    pub(crate) fn wait(
        &mut self,
        bell: Doorbell<'_>,
        spin_region: &Region,
        deadline: Option<Instant>,
        before_sleep: impl FnOnce(),
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        if self.spin(spin_region, deadline, &mut ready) {
            return true;
        }
        if self.mode == Wait::Spin {
            return false;
        }
        let now = Instant::now();
        let most = deadline
            .map_or(PARK_CEILING, |deadline| deadline.saturating_duration_since(now).min(PARK_CEILING));
        if !most.is_zero() {
            before_sleep();
            park(bell, self.barrier, most, &mut ready);
            self.slept(now);
        }
        ready()
    }

    /// Was the last wait over within a few pauses?
    pub(crate) fn was_short(&self) -> bool {
        self.was_short
    }

    /// A sleep that began at this moment is over: would spinning have been worth it?
    pub(crate) fn slept(&mut self, since: Instant) {
        if since.elapsed() < SPIN_BUDGET {
            self.misses = 0;
        }
    }

    /// Spins for as long as the mode has it, without limit in [`Wait::Spin`] but for the park ceiling. True if ready.
    pub(crate) fn spin(
        &mut self,
        spin_region: &Region,
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        let should_spin = match self.mode {
            Wait::Spin => true,
            Wait::Adaptive => self.should_spin(),
            Wait::Park => false,
        };
        // Before anything else: what comes at once is worth no look at the clock.
        self.was_short = should_spin && look_often(SHORT_PAUSES, self.looks_per_pause, &mut ready);
        if self.was_short {
            self.misses = 0;
            return true;
        }
        if self.mode == Wait::Spin {
            return spin_until(self.looks_per_pause, deadline, Instant::now() + PARK_CEILING, ready);
        }
        if should_spin {
            let mut slot = SpinSlot::take(spin_region, self.participant);
            if slot.is_none() {
                // Whoever has it may be about to receive what this process has just sent.
                if look_often(PAUSES_PER_LOOK, self.looks_per_pause, &mut ready) {
                    self.misses = 0;
                    return true;
                }
                slot = SpinSlot::take(spin_region, self.participant);
            }
            if slot.is_some() {
                let found =
                    spin_until(self.looks_per_pause, deadline, Instant::now() + SPIN_BUDGET, &mut ready);
                self.misses = if found { 0 } else { self.misses.saturating_add(1) };
                if found {
                    return true;
                }
            }
        }
        false
    }

    fn should_spin(&mut self) -> bool {
        if self.misses < MISSES_MAX {
            return true;
        }
        self.skipped = (self.skipped + 1) % PROBE_EVERY;
        self.skipped == 0
    }
}

/// Looks for so many pauses: one or two microseconds for [`PAUSES_PER_LOOK`], which is less than going to sleep takes. True if ready.
fn look_often(pauses: u32, looks_per_pause: u32, ready: &mut impl FnMut() -> bool) -> bool {
    (0..pauses).any(|_| {
        let found = (0..looks_per_pause).any(|_| ready());
        if !found {
            spin_pause();
        }
        found
    })
}

/// Spins until `ready`, the deadline, or `limit`. True if ready.
fn spin_until(
    looks_per_pause: u32,
    deadline: Option<Instant>,
    limit: Instant,
    mut ready: impl FnMut() -> bool,
) -> bool {
    let until = deadline.map_or(limit, |deadline| deadline.min(limit));
    let mut pauses = 0_u32;
    loop {
        if look_often(PAUSES_PER_LOOK, looks_per_pause, &mut ready) {
            return true;
        }
        pauses += PAUSES_PER_LOOK;
        if pauses.is_multiple_of(PAUSES_PER_YIELD) {
            std::thread::yield_now();
        }
        if Instant::now() >= until {
            return ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;
    use bus_core::sync::AtomicU32;
    use std::cell::Cell;

    /// A region with places to spin in; its file is gone.
    fn places() -> Region {
        Region::create(&Scratch::new().path("places"), 4096, 4096).expect("a file")
    }

    #[test]
    fn who_parks_looks_before_it_sleeps_and_after_and_no_more() {
        let (word, places) = (AtomicU32::new(0), places());
        let mut waiter = Waiter::new(Wait::Park, Barrier::Fence, 0);
        let looks = Cell::new(0);
        let deadline = Instant::now() + Duration::from_millis(1);
        let found = waiter.wait(
            Doorbell::attach(&word),
            &places,
            Some(deadline),
            || (),
            || {
                looks.set(looks.get() + 1);
                false
            },
        );
        assert_eq!((found, looks.get(), waiter.was_short()), (false, 2, false));
    }

    #[test]
    fn only_what_comes_within_a_few_pauses_was_a_short_wait() {
        let (word, places) = (AtomicU32::new(0), places());
        for mode in [Wait::Spin, Wait::Adaptive] {
            let mut waiter = Waiter::new(mode, Barrier::Fence, 0);
            let mut wait = |looks: u32| {
                let left = Cell::new(looks);
                let found = waiter.wait(
                    Doorbell::attach(&word),
                    &places,
                    None,
                    || (),
                    || {
                        left.set(left.get().saturating_sub(1));
                        left.get() == 0
                    },
                );
                (found, waiter.was_short())
            };
            let short = SHORT_PAUSES * LOOKS_PER_PAUSE;
            assert_eq!((wait(1), wait(short)), ((true, true), (true, true)), "{mode:?}");
            assert_eq!(
                (wait(short + 1), wait(short)),
                ((true, false), (true, true)),
                "{mode:?}: it is of each wait"
            );
        }
    }
}
