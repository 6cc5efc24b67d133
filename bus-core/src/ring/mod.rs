//! Two ways to publish, one way to read.
//!
//! | lane | publication | a producer stopped or dead half-way leaves |
//! |---|---|---|
//! | [`mpmc`], any number of producers | one compare-and-swap on the slot's word | nothing: its cell is its own |
//! | [`spsc`], one producer | plain stores, then the publication word | an unpublished slot, the next one's first |
//!
//! In neither can a hole exist: if a slot is published, so is every one before it. Readers use that twice: to
//! look ahead ([`ReadAhead`]), and to know the lane's end from one empty slot.

pub mod mpmc;
pub mod spsc;

use crate::limits::{READ_DISTANCE, READ_HOLD_PAUSES};
use crate::sync::spin_pause;

/// What a slot holds for the sequence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<T> {
    /// Not published yet.
    Empty,
    /// Published, with what the slot says.
    Filled(T),
    /// The slot holds a later message: the reader was overtaken. Impossible for a reliable reader.
    Lapped,
}

/// A reader's position in one lane, and how much of what follows it is known to be published.
///
/// While traffic streams, a reader that takes each slot as it comes chases the line that the producer
/// is writing, and both cores fight for it. This one waits, for a bounded number of pauses, until a slot
/// some way ahead is published and then takes the run. After an idle gap it takes the first message
/// at once. (Firedancer's tango reads in the same spirit, by speculation; Disruptor takes the longest run.)
#[derive(Clone, Debug)]
pub struct ReadAhead {
    /// The next sequence to hand out.
    next: u64,
    /// Everything before it is published. At or after `next`.
    known: u64,
    distance: u64,
    /// Messages come so fast that holding back pays.
    streaming: bool,
    /// Looks in a row that found a message at once.
    found: u32,
    /// How many of those make a stream. Doubled whenever holding back found next to nothing: a program that publishes
    /// one message and then reads it always finds one at once, and is no stream.
    needed: u32,
}

/// Why [`ReadAhead::poll`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// [`ReadAhead::next`] is published.
    Ready,
    /// It is not.
    Empty,
    /// Something more urgent is there; this lane was not looked at to the end.
    Interrupted,
    /// The reader was overtaken: a later message is in the slot.
    Lapped,
}

/// A run as short as this was not worth holding back for.
const RUN_MIN: u64 = 8;
/// Most looks in a row that it takes to become a stream.
const NEEDED_MAX: u32 = 1 << 10;

impl ReadAhead {
    /// A reader that begins at `next` in a lane of `capacity` slots.
    pub fn new(next: u64, capacity: u64) -> Self {
        let distance = READ_DISTANCE.min(capacity / 4).max(1);
        Self { next, known: next, distance, streaming: false, found: 0, needed: 2 }
    }

    /// The sequence that comes next.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Goes to `next`, forgetting what is known. Used when messages come again, are passed over, or were missed.
    pub fn seek(&mut self, next: u64) {
        self.next = next;
        self.known = next;
    }

    /// The message at [`ReadAhead::next`], which [`ReadAhead::poll`] has found, was handed out.
    #[inline]
    pub fn advance(&mut self) {
        debug_assert!(self.known != self.next);
        self.next = self.next.wrapping_add(1);
    }

    /// How many messages, from the next on, are known to be there without looking.
    #[inline]
    pub fn known_count(&self) -> u64 {
        self.known.wrapping_sub(self.next)
    }

    /// Is the next message there? `slot` looks at one sequence, `urgent` asks whether a higher lane has one.
    #[inline]
    pub fn poll<T>(&mut self, slot: impl Fn(u64) -> Slot<T>, urgent: impl Fn() -> bool) -> Poll {
        if self.known != self.next {
            return Poll::Ready;
        }
        if self.streaming {
            return self.poll_stream(slot, urgent);
        }
        match slot(self.next) {
            Slot::Empty => {
                self.found = 0;
                Poll::Empty
            }
            Slot::Lapped => Poll::Lapped,
            Slot::Filled(_) => {
                self.known = self.next.wrapping_add(1);
                self.found = self.found.saturating_add(1);
                self.streaming = self.found >= self.needed;
                Poll::Ready
            }
        }
    }

    #[inline(never)]
    fn poll_stream<T>(&mut self, slot: impl Fn(u64) -> Slot<T>, urgent: impl Fn() -> bool) -> Poll {
        let ahead = self.next.wrapping_add(self.distance - 1);
        for _ in 0..READ_HOLD_PAUSES {
            match slot(ahead) {
                Slot::Filled(_) => {
                    self.known = ahead.wrapping_add(1);
                    self.needed = 2;
                    return Poll::Ready;
                }
                // So is the next one, unless words are wrong: it decides.
                Slot::Lapped => break,
                Slot::Empty => spin_pause(),
            }
            if urgent() {
                return Poll::Interrupted;
            }
        }
        // The stream is slower than the hold, or over: take what has come, so that the hold is paid once a run.
        while self.known_count() < self.distance && matches!(slot(self.known), Slot::Filled(_)) {
            self.known = self.known.wrapping_add(1);
        }
        if self.known_count() < RUN_MIN {
            self.streaming = false;
            self.found = 0;
            self.needed = (self.needed * 2).min(NEEDED_MAX);
        }
        match self.known_count() {
            0 if matches!(slot(self.next), Slot::Lapped) => Poll::Lapped,
            0 => Poll::Empty,
            _ => Poll::Ready,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A lane in which everything below `end` is published.
    fn filled_below(end: &Cell<u64>) -> impl Fn(u64) -> Slot<()> + '_ {
        |s| if s < end.get() { Slot::Filled(()) } else { Slot::Empty }
    }

    #[test]
    fn the_first_message_after_a_gap_is_taken_at_once_and_a_stream_in_runs() {
        let end = Cell::new(0);
        let looks = Cell::new(0);
        let slot = |s| {
            looks.set(looks.get() + 1);
            filled_below(&end)(s)
        };
        let mut reader = ReadAhead::new(0, 1024);
        assert_eq!(reader.poll(slot, || false), Poll::Empty);
        end.set(1);
        looks.set(0);
        assert_eq!(reader.poll(slot, || false), Poll::Ready);
        assert_eq!((reader.known_count(), looks.get()), (1, 1), "no look-ahead after a gap");
        reader.advance();
        end.set(500);
        assert_eq!(reader.poll(slot, || false), Poll::Ready);
        reader.advance();
        looks.set(0);
        assert_eq!(reader.poll(slot, || false), Poll::Ready);
        assert_eq!((reader.known_count(), looks.get()), (READ_DISTANCE, 1), "a stream is taken in runs");
    }

    #[test]
    fn the_tail_of_a_burst_is_handed_out_after_a_bounded_hold() {
        let end = Cell::new(3);
        let mut reader = ReadAhead::new(0, 1024);
        for expected in 0..3 {
            assert_eq!(reader.poll(filled_below(&end), || false), Poll::Ready);
            assert_eq!(reader.next(), expected);
            reader.advance();
        }
        assert_eq!(reader.poll(filled_below(&end), || false), Poll::Empty);
    }

    #[test]
    fn who_always_finds_just_one_message_soon_stops_holding_back() {
        let end = Cell::new(0);
        let looks = Cell::new(0);
        let mut reader = ReadAhead::new(0, 1024);
        for _ in 0..10_000 {
            end.set(end.get() + 1);
            let slot = |s| {
                looks.set(looks.get() + 1);
                filled_below(&end)(s)
            };
            assert_eq!(reader.poll(slot, || false), Poll::Ready);
            reader.advance();
        }
        assert!(looks.get() < 11_500, "{} looks for 10,000 messages", looks.get());
    }

    #[test]
    fn something_urgent_ends_the_hold() {
        let end = Cell::new(4);
        let mut reader = ReadAhead::new(0, 1024);
        for _ in 0..2 {
            assert_eq!(reader.poll(filled_below(&end), || true), Poll::Ready);
            reader.advance();
        }
        assert_eq!(reader.poll(filled_below(&end), || true), Poll::Interrupted);
        assert_eq!(reader.next(), 2);
    }
}
