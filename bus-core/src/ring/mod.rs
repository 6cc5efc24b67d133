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
    /// The last run was longer than one message.
    streaming: bool,
    /// The last look found nothing.
    idle: bool,
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

impl ReadAhead {
    /// A reader that begins at `next` in a lane of `capacity` slots.
    pub fn new(next: u64, capacity: u64) -> Self {
        Self {
            next,
            known: next,
            distance: READ_DISTANCE.min(capacity / 4).max(1),
            streaming: false,
            idle: true,
        }
    }

    /// The sequence that comes next.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Goes to `next`, forgetting what is known. Used when messages come again or were missed.
    pub fn seek(&mut self, next: u64) {
        self.next = next;
        self.known = next;
    }

    /// The message at [`ReadAhead::next`] was handed out.
    #[inline]
    pub fn advance(&mut self) {
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
        // Most looks are at a lane that is empty: the urgent ones, and all of them while idle.
        if !self.streaming && matches!(slot(self.next), Slot::Empty) {
            self.idle = true;
            return Poll::Empty;
        }
        self.poll_slow(slot, urgent)
    }

    #[inline(never)]
    fn poll_slow<T>(&mut self, slot: impl Fn(u64) -> Slot<T>, urgent: impl Fn() -> bool) -> Poll {
        if self.streaming {
            let ahead = self.next.wrapping_add(self.distance - 1);
            for _ in 0..READ_HOLD_PAUSES {
                match slot(ahead) {
                    Slot::Filled(_) => {
                        self.known = ahead.wrapping_add(1);
                        return Poll::Ready;
                    }
                    Slot::Lapped => break,
                    Slot::Empty => spin_pause(),
                }
                if urgent() {
                    return Poll::Interrupted;
                }
            }
        }
        match slot(self.next) {
            Slot::Empty => {
                self.streaming = false;
                self.idle = true;
                return Poll::Empty;
            }
            Slot::Lapped => return Poll::Lapped,
            Slot::Filled(_) => self.known = self.next.wrapping_add(1),
        }
        if self.streaming {
            // The stream is slower than the hold: take what has come, so that the hold is paid once a run.
            let most = self.next.wrapping_add(self.distance);
            while self.known != most && matches!(slot(self.known), Slot::Filled(_)) {
                self.known = self.known.wrapping_add(1);
            }
        }
        // Two polls in a row that found something make a stream; a run of one ends it.
        self.streaming = if self.streaming { self.known_count() > 1 } else { !self.idle };
        self.idle = false;
        Poll::Ready
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
