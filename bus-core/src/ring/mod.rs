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

use crate::limits::{READ_DISTANCE, READ_HOLD_PAUSES, READ_HOLDS};
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
    /// Slots whose words share a cache line.
    line_slots: u64,
    /// Messages come so fast that holding back pays.
    streaming: bool,
    /// Messages without a gap between them, each found by a look of its own.
    found: u32,
    /// Looks in a row that found nothing.
    missed: u32,
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
/// So many looks in a row may find nothing between two messages of a stream.
const MISSED_MAX: u32 = 3;
/// Most looks in a row that it takes to become a stream.
const NEEDED_MAX: u32 = 1 << 10;

impl ReadAhead {
    /// A reader that begins at `next` in a lane of `capacity` slots, of which each `line_slots`, a power of two, are looked at in one cache line.
    pub fn new(next: u64, capacity: u64, line_slots: u64) -> Self {
        let distance = READ_DISTANCE.min(capacity / 4).max(1);
        Self { next, known: next, distance, line_slots, streaming: false, found: 0, missed: 0, needed: 2 }
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
                self.note_missed();
                Poll::Empty
            }
            Slot::Lapped => Poll::Lapped,
            Slot::Filled(_) => {
                self.known = self.next.wrapping_add(1);
                self.missed = 0;
                self.found = self.found.saturating_add(1);
                self.streaming = self.found >= self.needed;
                Poll::Ready
            }
        }
    }

    /// Is the next message there? Looked for at once, stream or not.
    pub fn poll_at_once<T>(&mut self, slot: impl Fn(u64) -> Slot<T>) -> Poll {
        if self.known == self.next {
            match slot(self.next) {
                Slot::Empty => return Poll::Empty,
                Slot::Lapped => return Poll::Lapped,
                Slot::Filled(_) => self.known = self.next.wrapping_add(1),
            }
        }
        Poll::Ready
    }

    /// A look, be it the caller's, has found nothing. One or two are no gap: a reader that has caught up with its producer slows it down to
    /// the pace at which lines travel, and would find each message a moment late for good.
    #[inline]
    pub fn note_missed(&mut self) {
        self.missed = self.missed.saturating_add(1);
        if self.missed > MISSED_MAX {
            self.found = 0;
        }
    }

    /// The reader has waited for what comes next, and longer than a message of a stream takes.
    #[inline]
    pub fn note_gap(&mut self) {
        self.found = 0;
    }

    #[inline(never)]
    fn poll_stream<T>(&mut self, slot: impl Fn(u64) -> Slot<T>, urgent: impl Fn() -> bool) -> Poll {
        let ahead = self.next.wrapping_add(self.distance - 1);
        // The first slot of its line: looks at a later one would take the line from the producer at each of those before it.
        let ahead = if self.distance < 2 * self.line_slots { ahead } else { ahead & !(self.line_slots - 1) };
        for _ in 0..READ_HOLDS {
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
            // The stream is slower than a hold, or over: what has come is taken, so that the hold is paid once a run. Held back for
            // longer only while a good part of a run comes each time.
            let before = self.known;
            while self.known_count() < self.distance && matches!(slot(self.known), Slot::Filled(_)) {
                self.known = self.known.wrapping_add(1);
            }
            if self.known.wrapping_sub(before) < (self.distance / READ_HOLDS).max(RUN_MIN) {
                break;
            }
        }
        if self.known_count() < RUN_MIN {
            self.streaming = false;
            self.found = 0;
            self.needed = (self.needed * 2).min(NEEDED_MAX);
        } else {
            self.needed = 2;
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
        let mut reader = ReadAhead::new(0, 1024, 1);
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
        let mut reader = ReadAhead::new(0, 1024, 1);
        for expected in 0..3 {
            assert_eq!(reader.poll(filled_below(&end), || false), Poll::Ready);
            assert_eq!(reader.next(), expected);
            reader.advance();
        }
        assert_eq!(reader.poll(filled_below(&end), || false), Poll::Empty);
    }

    /// A reader that hands out what it finds, and meanwhile all but one of `pace` more come: so it never finds one at once.
    fn runs_at(reader: &mut ReadAhead, pace: u64, messages: u64) -> u64 {
        let end = Cell::new(reader.next());
        let mut looks = 0;
        while reader.next() < messages {
            looks += 1;
            match reader.poll(filled_below(&end), || false) {
                Poll::Ready => {
                    (0..reader.known_count()).for_each(|_| reader.advance());
                    // Meanwhile so many more.
                    end.set(end.get().max(reader.next() + pace - 1));
                }
                _ => {
                    end.set(end.get() + 1);
                }
            }
        }
        looks
    }

    #[test]
    fn who_finds_each_message_a_moment_late_does_not_chase_its_producer_for_good() {
        let mut reader = ReadAhead::new(0, 1024, 1);
        assert_eq!(runs_at(&mut reader, 1, 100), 200, "too slow to be a stream: each is waited for");
        assert!(reader.needed > 2);
        // As many as make a run come while one is handed out, but never before it is looked for.
        let looks = runs_at(&mut reader, RUN_MIN + 1, 10_000);
        assert!(looks < 10_000 / RUN_MIN * 2, "{looks} looks for 10,000 messages");
        assert_eq!(reader.needed, 2, "what pays is not held against it");
    }

    #[test]
    fn a_stream_that_is_on_its_way_is_waited_for_longer_and_none_that_has_ended() {
        let (end, looks) = (Cell::new(1000), Cell::new(0_u32));
        let mut reader = ReadAhead::new(0, 1024, 1);
        for _ in 0..2 {
            assert_eq!(reader.poll(filled_below(&end), || false), Poll::Ready);
            reader.advance();
        }
        // `messages` come, one in `looks_each` looks.
        let mut hold = |messages: u64, looks_each: u32| {
            let begin = reader.next();
            looks.set(0);
            let slot = |s| {
                looks.set(looks.get() + 1);
                let come = begin + messages.min(u64::from(looks.get() / looks_each));
                if s < come { Slot::Filled(()) } else { Slot::Empty }
            };
            assert_eq!(reader.poll(slot, || false), Poll::Ready);
            let found = reader.known_count();
            (0..found).for_each(|_| reader.advance());
            (found, looks.get())
        };
        assert_eq!(hold(u64::MAX, 1).0, READ_DISTANCE);
        assert_eq!(hold(u64::MAX, 2).0, READ_DISTANCE, "four holds are enough for it");
        let (found, looks) = hold(u64::MAX, 4);
        // One hold, and a look at each that has come and at the end.
        let most = READ_HOLD_PAUSES + 1 + found as u32;
        assert!(found < READ_DISTANCE / 4 && looks <= most, "slower than that: {found} in {looks} looks");
        let (found, looks) = hold(20, 1);
        assert_eq!(found, 20);
        assert!(looks < 2 * READ_HOLD_PAUSES + 30, "{looks} looks for the rest of a burst");
    }

    #[test]
    fn the_slot_that_is_waited_for_is_the_first_of_its_line() {
        for begin in 0..8 {
            let end = Cell::new(begin + 2);
            let mut reader = ReadAhead::new(begin, 1024, 8);
            for _ in 0..2 {
                assert_eq!(reader.poll(filled_below(&end), || false), Poll::Ready);
                reader.advance();
            }
            let first = Cell::new(None);
            let slot = |s| {
                first.set(first.get().or(Some(s)));
                Slot::Filled(())
            };
            assert_eq!(reader.poll(slot, || false), Poll::Ready);
            assert_eq!(first.get().map(|s| s % 8), Some(0));
            assert!(reader.known_count() > READ_DISTANCE - 8, "{} at once", reader.known_count());
        }
    }

    /// All shapes of lanes, small ones included.
    const SHAPES: [(u64, u64); 8] =
        [(8, 1), (8, 8), (16, 1), (32, 1), (32, 8), (64, 8), (1024, 1), (1024, 8)];

    #[test]
    fn who_always_finds_just_one_message_soon_stops_holding_back() {
        for (capacity, line_slots) in SHAPES {
            let end = Cell::new(0);
            let looks = Cell::new(0);
            let mut reader = ReadAhead::new(0, capacity, line_slots);
            for _ in 0..10_000 {
                end.set(end.get() + 1);
                let slot = |s| {
                    looks.set(looks.get() + 1);
                    filled_below(&end)(s)
                };
                assert_eq!(reader.poll(slot, || false), Poll::Ready);
                reader.advance();
            }
            assert!(
                looks.get() < 11_500,
                "{} looks for 10,000 messages of {capacity}, {line_slots}",
                looks.get()
            );
        }
    }

    #[test]
    fn gaps_end_a_stream_and_moments_do_not() {
        // So many looks that find nothing, and perhaps a wait: then a message. Is the third one waited for?
        let holds = |looks: u32, waits: bool| {
            let end = Cell::new(0);
            let mut reader = ReadAhead::new(0, 1024, 1);
            for _ in 0..2 {
                for _ in 0..looks {
                    assert_eq!(reader.poll(filled_below(&end), || false), Poll::Empty);
                }
                if waits {
                    reader.note_gap();
                }
                end.set(end.get() + 1);
                assert_eq!(reader.poll(filled_below(&end), || false), Poll::Ready);
                reader.advance();
            }
            reader.streaming
        };
        assert!(holds(0, false) && holds(1, false) && holds(MISSED_MAX, false));
        assert!(!holds(MISSED_MAX + 1, false), "it was looked for in vain");
        assert!(!holds(1, true), "it was waited for");
    }

    #[test]
    fn a_hold_is_as_long_as_what_has_come_is_worth() {
        for (capacity, line_slots) in SHAPES {
            let distance = (capacity / 4).min(READ_DISTANCE);
            for come in 0..distance.saturating_sub(8) {
                let mut reader = ReadAhead::new(0, capacity, line_slots);
                reader.streaming = true;
                let looks = Cell::new(0_u64);
                let slot = |s| {
                    looks.set(looks.get() + 1);
                    if s < come { Slot::Filled(()) } else { Slot::Empty }
                };
                let _ = reader.poll(slot, || false);
                assert_eq!(reader.known_count(), come, "all of it, {capacity}, {line_slots}");
                let holds = 1 + u64::from(come >= (distance / READ_HOLDS).max(RUN_MIN));
                // And a look at each message and, after each hold, at the end.
                let most = holds * u64::from(READ_HOLD_PAUSES) + come + holds + 1;
                assert!(looks.get() <= most, "{} looks for {come} of {capacity}, {line_slots}", looks.get());
            }
        }
    }

    #[test]
    fn a_lane_whose_turn_has_come_is_not_held_back() {
        let end = Cell::new(5);
        let mut reader = ReadAhead::new(0, 1024, 8);
        reader.streaming = true;
        assert_eq!(reader.poll(filled_below(&end), || true), Poll::Interrupted);
        for left in (0..5).rev() {
            assert_eq!(reader.poll_at_once(filled_below(&end)), Poll::Ready);
            assert_eq!(reader.known_count(), 1, "{left} left");
            reader.advance();
        }
        assert_eq!(reader.poll_at_once(filled_below(&end)), Poll::Empty);
        assert_eq!(reader.poll_at_once(|_| Slot::<()>::Lapped), Poll::Lapped);
    }

    #[test]
    fn something_urgent_ends_the_hold() {
        let end = Cell::new(4);
        let mut reader = ReadAhead::new(0, 1024, 1);
        for _ in 0..2 {
            assert_eq!(reader.poll(filled_below(&end), || true), Poll::Ready);
            reader.advance();
        }
        assert_eq!(reader.poll(filled_below(&end), || true), Poll::Interrupted);
        assert_eq!(reader.next(), 2);
    }
}
