//! Which messages a consumer has handled already: redeliveries arrive more than once, and only the consumer can tell.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Messages that a [`Dedup`] remembers unless told otherwise.
pub const WINDOW_DEFAULT: usize = 100_000;

/// What names a message for ever: a topic that is made anew has another epoch, and sequences are never repeated. A message
/// keeps its identity when it is tried again and when it was a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Epoch of the topic.
    pub epoch: u64,
    /// Lane of the message.
    pub lane: u8,
    /// Its sequence in the lane.
    pub sequence: u64,
}

/// Remembers the messages that were handled last, as many as its window has room for.
///
/// Each call takes constant time. At the default window it uses at most 7 MiB (about 65 bytes a message), and only as much
/// as has been handled. It is private memory: what it knows goes with its process, so a handler whose effect must happen once
/// whatever dies keeps the identities where it keeps the effect.
#[derive(Clone, Debug)]
pub struct Dedup {
    window: usize,
    /// In the order in which they were handled.
    order: VecDeque<(u32, u64)>,
    handled: HashSet<(u32, u64), BuildHasherDefault<Mix>>,
    streams: Vec<Stream>,
}

/// A lane of a topic. Its place is its number.
#[derive(Clone, Copy, Debug)]
struct Stream {
    epoch: u64,
    lane: u8,
    /// Messages of it that are remembered; the place is free at 0.
    count: usize,
}

impl Default for Dedup {
    fn default() -> Self {
        Self::new(WINDOW_DEFAULT)
    }
}

impl Dedup {
    /// Remembers the last `window` messages, at least one.
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            order: VecDeque::new(),
            handled: HashSet::default(),
            streams: Vec::new(),
        }
    }

    /// How many messages it remembers now.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Does it remember nothing?
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn stream(&self, identity: &Identity) -> Option<u32> {
        let is_it = |stream: &Stream| {
            stream.count > 0 && (stream.epoch, stream.lane) == (identity.epoch, identity.lane)
        };
        // A consumer reads a handful of lanes.
        self.streams.iter().position(is_it).map(|place| place as u32)
    }

    /// Was this message handled, as far as the window goes back?
    pub fn is_known(&self, identity: &Identity) -> bool {
        self.stream(identity).is_some_and(|stream| self.handled.contains(&(stream, identity.sequence)))
    }

    /// This message has been handled. False: it was known already.
    pub fn remember(&mut self, identity: &Identity) -> bool {
        if self.is_known(identity) {
            return false;
        }
        if self.order.len() == self.window {
            self.forget_oldest();
        }
        let stream = self.stream(identity).unwrap_or_else(|| {
            let new = Stream { epoch: identity.epoch, lane: identity.lane, count: 0 };
            let place = self.streams.iter().position(|stream| stream.count == 0);
            let place = place.unwrap_or(self.streams.len());
            if place == self.streams.len() {
                self.streams.push(new);
            } else {
                self.streams[place] = new;
            }
            place as u32
        });
        self.streams[stream as usize].count += 1;
        self.order.push_back((stream, identity.sequence));
        self.handled.insert((stream, identity.sequence))
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.handled.remove(&oldest);
            self.streams[oldest.0 as usize].count -= 1;
        }
    }
}

/// Sequences come one after the other, and nobody chooses them to collide.
#[derive(Clone, Copy, Debug, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0.rotate_left(29) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table takes its place from the low bits and its tag from the high ones.
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(epoch: u64, lane: u8, sequence: u64) -> Identity {
        Identity { epoch, lane, sequence }
    }

    #[test]
    fn a_message_is_handled_once_and_lanes_and_epochs_are_apart() {
        let mut dedup = Dedup::default();
        let message = identity(7, 1, 5);
        assert!(!dedup.is_known(&message) && dedup.remember(&message));
        assert!(dedup.is_known(&message) && !dedup.remember(&message));
        for other in [identity(7, 1, 6), identity(7, 2, 5), identity(8, 1, 5)] {
            assert!(!dedup.is_known(&other) && dedup.remember(&other));
        }
        assert_eq!(dedup.len(), 4);
    }

    #[test]
    fn the_window_holds_exactly_the_last_ones_in_whatever_order_they_come() {
        let mut dedup = Dedup::new(100);
        let at = |index: u64| identity(index % 3, (index % 2) as u8, index * 7_919 % 10_007);
        for index in 0..5_000 {
            assert!(dedup.remember(&at(index)));
            assert_eq!(dedup.len() as u64, (index + 1).min(100));
            assert!(dedup.is_known(&at(index.saturating_sub(99))));
            assert!(index < 100 || !dedup.is_known(&at(index - 100)));
        }
        assert_eq!(dedup.handled.len(), 100);
    }

    #[test]
    fn topics_that_come_and_go_take_no_room() {
        let mut dedup = Dedup::new(4);
        for epoch in 0..10_000 {
            assert!(dedup.remember(&identity(epoch, 0, 3)));
        }
        assert!(dedup.streams.len() <= 5);
        assert!(!dedup.is_known(&identity(9_000, 0, 3)) && dedup.is_known(&identity(9_999, 0, 3)));
    }

    #[test]
    fn a_full_window_stays_within_the_memory_that_is_stated() {
        let mut dedup = Dedup::default();
        for sequence in 0..300_000 {
            dedup.remember(&identity(1, 0, sequence));
        }
        let bytes = (dedup.order.capacity() + dedup.handled.capacity() * 8 / 7) * 16
            + dedup.handled.capacity() * 8 / 7;
        assert!(bytes <= 7 << 20, "{bytes}");
    }
}
