//! The floor: what this machine can do at best, with as little code as possible, between the same two processes that
//! run the scenarios. Each floor is a short slice of its own, run just before and just after a slice of a scenario.

pub(crate) mod line;
pub(crate) mod memcpy;
pub(crate) mod ring;
pub(crate) mod sleeper;
pub(crate) mod wake;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::clock::Clock;
use crate::control::Control;

/// What one participant of a step gets to know.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Place among the participants, from 0.
    pub(crate) role: usize,
    /// Whether participants that never sleep outnumber the cores.
    pub(crate) share_core: bool,
    /// A number that no other step of the run has.
    pub(crate) gate: u64,
    /// How long to go on.
    pub(crate) length: Duration,
    pub(crate) clock: &'a Clock,
    pub(crate) control: &'a Control,
}

impl Turn<'_> {
    /// Between two looks at a word that somebody else is to change: gives way only where both share a core.
    #[inline(always)]
    pub(crate) fn relax(&self) {
        if self.share_core {
            std::thread::yield_now();
        }
    }

    /// The clock of the run.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.clock
    }

    /// A word that the participants share, 0 when the step starts. There are 64.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        self.control.word(index)
    }

    /// When to stop, for a step that starts now.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.clock.now() + self.clock.ticks(self.length)
    }
}
