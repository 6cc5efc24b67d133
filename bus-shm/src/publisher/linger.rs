//! Publishing many small messages to readers that sleep between them: they are woken once for several.

use super::{Patience, Publisher, Target};
use crate::error::PublishError;
use crate::payload::{Message, Speak};
use bus_core::lane::Lane;
use std::time::{Duration, Instant};

/// A publisher that rings the bell for several messages at once: see [`Publisher::lingering`].
#[derive(Debug)]
pub struct Lingering<'p, T: Speak> {
    publisher: &'p mut Publisher<T>,
    batch_max: u32,
    wait_max: Duration,
    /// Messages that the bell has not been rung for, and when the first of them was published.
    unrung: u32,
    since: Option<Instant>,
}

impl<T: Speak> Publisher<T> {
    /// From here on, readers that sleep are woken once for up to `batch_max` messages, and at most `wait_max` after the first of
    /// them as long as messages keep coming or [`Lingering::ring_due`] is called; they are rung for when it is dropped, too.
    ///
    /// Each message is published at once: a reader that is awake gets it at once, and nothing is lost if this process dies
    /// meanwhile; sleepers then look for themselves within a second. What is saved is a system call a message, while
    /// readers sleep.
    pub fn lingering(&mut self, batch_max: u32, wait_max: Duration) -> Lingering<'_, T> {
        Lingering { publisher: self, batch_max: batch_max.max(1), wait_max, unrung: 0, since: None }
    }
}

impl<T: Speak> Lingering<'_, T> {
    /// Publishes payload bytes: see [`Publisher::publish_bytes`]. Urgent lanes, all but the lowest, are rung for at once.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    pub fn publish_bytes(&mut self, lane: Lane, payload: &[u8]) -> Result<u64, PublishError> {
        let published =
            self.publisher.raw.publish(Target::Lane(lane.index()), payload, Patience::Deadline, false);
        self.note(lane, published.map_err(PublishError::from))
    }

    fn note(&mut self, lane: Lane, published: Result<u64, PublishError>) -> Result<u64, PublishError> {
        if published.is_err() {
            // What was published before does not wait any longer for that.
            self.ring_due();
            return published;
        }
        self.unrung += 1;
        let is_urgent = lane.index() + 1 < self.publisher.raw.lanes.len();
        if is_urgent || self.unrung >= self.batch_max {
            self.ring();
        } else if self.unrung == 1 {
            self.since = Some(Instant::now());
        } else {
            self.ring_due();
        }
        published
    }

    /// Rings if it is time to. Returns how long that is off, if messages wait for it.
    pub fn ring_due(&mut self) -> Option<Duration> {
        let left = self.wait_max.saturating_sub(self.since?.elapsed());
        if left.is_zero() {
            self.ring();
            return None;
        }
        Some(left)
    }

    /// Rings now, if there is anything to ring for.
    pub fn ring(&mut self) {
        if std::mem::take(&mut self.unrung) > 0 {
            self.publisher.raw.ring_unless_forked();
        }
        self.since = None;
    }
}

impl<T: Message> Lingering<'_, T> {
    /// Publishes a value: see [`Publisher::publish_to`]. Urgent lanes, all but the lowest, are rung for at once.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    pub fn publish(&mut self, lane: Lane, value: &T) -> Result<u64, PublishError> {
        let published =
            self.publisher.raw.publish(Target::Lane(lane.index()), value, Patience::Deadline, false);
        self.note(lane, published.map_err(PublishError::from))
    }
}

impl<T: Speak> Drop for Lingering<'_, T> {
    fn drop(&mut self) {
        self.ring();
    }
}
