//! The ring of a lane that has one producer: header and short payloads in the slot itself.
//!
//! A slot is a header (see [`crate::header`]) and `inline` bytes behind it, rounded up to cache lines. Publication
//! is a plain store of `sequence + 1`; nothing is shared but the line that carries the message, so a reader pays
//! one cache miss. (Lamport's queue with the sequence in the slot, as in FastForward and Firedancer's mcache.)
//!
//! A producer that dies inside a slot leaves it [`WRITING`] or with its old publication word, which is the
//! same to a reader: not published. Its successor, who must hold proof that the predecessor is dead, begins at
//! that slot.
//!
//! Ordering pairs:
//! - `WRITE` (Relaxed store of WRITING, then `fence(Release)`) with `RECHECK` (`fence(Acquire)`, then a load of the
//!   publication word) of a reader that copies without holding the gate: a copy that saw any new byte sees WRITING or a
//!   later sequence. Without the first store, or without the fence, it can keep a torn copy.
//! - `PUBLISH` (Release store of `sequence + 1`) with `OBSERVE` (Acquire load): publishes header and payload.
//! - `OBSERVE` of the predecessor by [`Ring::end`]: a successor has seen what was published before its first message,
//!   so that who reads that one, looking ahead, sees the rest.

use super::Slot;
use crate::header::{HEADER_BYTES, HEADER_WORDS, WRITING};
use crate::seq::distance;
use crate::sync::{AtomicU64, Ordering, fence};

/// How many messages apart the advice about the end is renewed: as far as whoever asks for it has to look. The models with their few
/// messages want one that is right sometimes.
const HINT_STEP: u64 = if cfg!(loom) { 1 } else { 16 };

/// A slot that its producer has begun to write. Dropped, it stays in [`WRITING`], which readers take for not yet published.
pub struct Writing<'a> {
    /// The header's words.
    pub header: &'a [AtomicU64; HEADER_WORDS],
    /// What follows them in the slot.
    pub body: &'a [AtomicU64],
    sequence: u64,
}

impl Writing<'_> {
    /// Publishes the slot, which is filled now.
    #[inline]
    pub fn publish(self, tail_hint: &AtomicU64) {
        let next = self.sequence.wrapping_add(1);
        // PUBLISH: pairs with OBSERVE in `slot` and `published`.
        self.header[0].store(next, Ordering::Release);
        // Relaxed: advice, which lags anyway when the producer dies right here. `end` goes on from it by the slots. Not for each message: while
        // messages stream, stores are what a producer waits for.
        if next.is_multiple_of(HINT_STEP) {
            tail_hint.store(next, Ordering::Relaxed);
        }
    }
}

/// A view of the slots of one lane.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    words: &'a [AtomicU64],
    /// Capacity less one.
    mask: u64,
    slot_words: usize,
}

impl<'a> Ring<'a> {
    /// Bytes of a slot with room for `inline_bytes` of payload.
    pub const fn slot_bytes(inline_bytes: u32) -> u64 {
        (HEADER_BYTES as u64 + inline_bytes as u64).next_multiple_of(64)
    }

    /// Bytes that a ring of `capacity` such slots takes.
    pub const fn footprint_bytes(capacity: u32, inline_bytes: u32) -> u64 {
        capacity as u64 * Self::slot_bytes(inline_bytes)
    }

    /// Views `words` as `capacity` slots. `None` if the sizes do not fit.
    pub fn attach(words: &'a [AtomicU64], capacity: u32, inline_bytes: u32) -> Option<Self> {
        let slot_words = Self::slot_bytes(inline_bytes) as usize / 8;
        (capacity.is_power_of_two() && words.len() == slot_words * capacity as usize).then(|| Self {
            words,
            mask: u64::from(capacity) - 1,
            slot_words,
        })
    }

    /// Number of slots.
    #[inline]
    pub fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Payload bytes that fit into a slot.
    #[inline]
    pub fn inline_bytes(&self) -> usize {
        self.slot_words * 8 - HEADER_BYTES
    }

    /// The words of the slot of `sequence`: four of header, the rest payload.
    #[inline]
    pub fn slot_words(&self, sequence: u64) -> &'a [AtomicU64] {
        let first = (sequence & self.mask) as usize * self.slot_words;
        &self.words[first..first + self.slot_words]
    }

    /// Where the slot of `sequence` begins: for a hint to the processor, not to be read through.
    #[inline]
    pub fn slot_address(&self, sequence: u64) -> *const u8 {
        let first = (sequence & self.mask) as usize * self.slot_words;
        self.words.as_ptr().wrapping_add(first).cast()
    }

    /// Is `sequence` published, and if so, in which words?
    #[inline]
    pub fn slot(&self, sequence: u64) -> Slot<&'a [AtomicU64]> {
        let words = self.slot_words(sequence);
        // OBSERVE: pairs with PUBLISH in `Writing::publish`.
        let publication = words[0].load(Ordering::Acquire);
        if publication == sequence.wrapping_add(1) {
            Slot::Filled(words)
        } else if publication & WRITING == 0 && distance(publication, sequence.wrapping_add(1)) > 0 {
            Slot::Lapped
        } else {
            Slot::Empty
        }
    }

    /// Is there room for `sequence`? Recomputes the gate only if the private copy says no.
    #[inline]
    pub fn has_room(
        &self,
        sequence: u64,
        cached_gate: &mut u64,
        recompute_gate: impl FnOnce(u64) -> u64,
    ) -> bool {
        if !self.has_room_at(sequence, *cached_gate) {
            *cached_gate = crate::seq::later(recompute_gate(sequence), *cached_gate);
        }
        self.has_room_at(sequence, *cached_gate)
    }

    /// Is there room for `sequence` where this is the gate?
    #[inline]
    pub fn has_room_at(&self, sequence: u64, gate: u64) -> bool {
        distance(sequence, gate) < self.capacity() as i64
    }

    /// Header and payload words of `sequence` if it is published; the words go on to the ring's end. For whoever need not know why it
    /// is not.
    #[inline]
    pub fn published(&self, sequence: u64) -> Option<(&'a [AtomicU64; HEADER_WORDS], &'a [AtomicU64])> {
        let (header, rest) = self.at(sequence);
        // OBSERVE: pairs with PUBLISH in `Writing::publish`.
        (header[0].load(Ordering::Acquire) == sequence.wrapping_add(1)).then_some((header, rest))
    }

    /// Header of the slot of `sequence`, and the words from there to the ring's end.
    // Always: a call sends the view through memory.
    #[inline(always)]
    fn at(&self, sequence: u64) -> (&'a [AtomicU64; HEADER_WORDS], &'a [AtomicU64]) {
        let first = (sequence & self.mask) as usize * self.slot_words;
        match self.words[first..].split_first_chunk() {
            Some(parts) => parts,
            None => unreachable!("a slot has room for its header"),
        }
    }

    /// Marks the slot of `sequence` as being written. The caller is the only producer and has checked [`Ring::has_room`].
    #[inline]
    pub fn begin(&self, sequence: u64) -> Writing<'a> {
        let (header, rest) = self.at(sequence);
        // WRITE: pairs with RECHECK in `still`.
        header[0].store(WRITING, Ordering::Relaxed);
        if crate::is_broken("publish_before_write") {
            header[0].store(sequence.wrapping_add(1), Ordering::Relaxed);
        }
        fence(Ordering::Release);
        Writing { header, body: &rest[..self.slot_words - HEADER_WORDS], sequence }
    }

    /// After copying from the slot: was it this message all the while?
    #[inline]
    pub fn still(&self, sequence: u64) -> bool {
        // RECHECK: pairs with WRITE in `begin`.
        fence(Ordering::Acquire);
        self.slot_words(sequence)[0].load(Ordering::Relaxed) == sequence.wrapping_add(1)
    }

    /// The sequence that the next message will get: where a successor begins. Everything before it is published and
    /// visible to the caller. Without meaning if the words are corrupt.
    pub fn end(&self, tail_hint: &AtomicU64) -> u64 {
        let mut s = tail_hint.load(Ordering::Relaxed);
        if crate::is_broken("successor_trusts_hint") {
            return s;
        }
        // From anywhere, honest slots lead to the end within two laps.
        for _ in 0..4 * self.capacity() {
            let publication = self.slot_words(s)[0].load(Ordering::Acquire);
            if publication & WRITING == 0 && distance(publication, s) > 0 {
                // This message, or a later one in its slot: the lane has come that far at least.
                s = publication;
                continue;
            }
            // Not published; the end if the one before is. A slot that was never written says 0, which is what
            // the slot before the first one should say.
            let before = s.wrapping_sub(1);
            // OBSERVE: even if the hint was right, the predecessor must be seen.
            let predecessor = self.slot_words(before)[0].load(Ordering::Acquire);
            if predecessor == s {
                break;
            }
            // Bad advice. Either slot may tell how far the lane has come, and at most one of them is being written.
            let next_here = publication.wrapping_add(self.capacity()).wrapping_sub(1);
            s = if predecessor & WRITING == 0 && distance(predecessor, s) > 0 {
                predecessor
            } else if publication & WRITING == 0 && distance(s, next_here) > 0 {
                next_here
            } else {
                before
            };
        }
        s
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn slots_are_whole_cache_lines() {
        assert_eq!(Ring::slot_bytes(0), 64);
        assert_eq!(Ring::slot_bytes(32), 64);
        assert_eq!(Ring::slot_bytes(33), 128);
        assert_eq!(Ring::slot_bytes(96), 128);
        assert_eq!(Ring::footprint_bytes(8, 96), 1_024);
    }

    #[test]
    fn a_slot_left_in_writing_is_empty_and_the_successor_starts_there() {
        let memory = words(16 * 8);
        let ring = Ring::attach(&memory, 8, 96).unwrap();
        let tail = AtomicU64::new(0);
        for s in 0..3 {
            ring.begin(s).publish(&tail);
        }
        ring.begin(3);
        assert!(matches!(ring.slot(3), Slot::Empty));
        tail.store(1, Ordering::Relaxed);
        assert_eq!(ring.end(&tail), 3);
    }

    #[test]
    fn the_end_is_found_whatever_the_hint_says() {
        for writing in [false, true] {
            let memory = words(8 * 8);
            let ring = Ring::attach(&memory, 8, 0).unwrap();
            for end in 0..40 {
                if writing {
                    ring.begin(end);
                }
                for bad in
                    [0, end.saturating_sub(9), end, end + 1, end + 3, end + 8, 5_000_000, 1 << 62, u64::MAX]
                {
                    assert_eq!(ring.end(&AtomicU64::new(bad)), end, "{bad}");
                }
                ring.begin(end).publish(&AtomicU64::new(0));
            }
        }
    }

    #[test]
    fn words_that_contradict_each_other_hang_nobody() {
        let memory = words(8 * 8);
        let ring = Ring::attach(&memory, 8, 0).unwrap();
        for (index, word) in memory.iter().step_by(8).enumerate() {
            word.store([u64::MAX, 3, WRITING, 1 << 62, 9, WRITING | 7, 0, 8][index], Ordering::Relaxed);
        }
        for hint in [0, 5, 8, 1 << 62, u64::MAX] {
            ring.end(&AtomicU64::new(hint));
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_bounded_queue(steps in proptest::collection::vec(any::<u8>(), 1..400)) {
            let memory = words(8 * 16);
            let ring = Ring::attach(&memory, 16, 32).unwrap();
            let tail = AtomicU64::new(0);
            let (mut gate, mut read, mut written) = (0_u64, 0_u64, 0_u64);
            for step in steps {
                if step % 3 != 2 {
                    let room = ring.has_room(written, &mut gate, |_| read);
                    prop_assert_eq!(room, written - read < 16);
                    if room {
                        let slot = ring.begin(written);
                        slot.body[0].store(written * 3, Ordering::Relaxed);
                        slot.publish(&tail);
                        written += 1;
                    }
                } else if read < written {
                    match ring.slot(read) {
                        Slot::Filled(words) => prop_assert_eq!(words[4].load(Ordering::Relaxed), read * 3),
                        _ => prop_assert!(false, "published slot not seen"),
                    }
                    prop_assert!(ring.still(read));
                    read += 1;
                }
                prop_assert_eq!(ring.end(&tail), written);
            }
        }
    }
}
