//! The allocator of one producer's payload memory for one lane: pure bookkeeping, kept in the producer's own process.
//!
//! An arena is a file of segments, each twice as large as the one before, that grows when unread messages fill it, and to a certain size
//! where messages stream. Only its producer writes to it, and a full arena of one lane never holds another lane.
//!
//! Each segment is a ring of bytes cut into 16 chunks. Blocks are contiguous and are handed out in order; a chunk comes
//! back when the gate has passed the last message that touches it. Keeping one sequence a chunk instead of one
//! a block makes allocation a compare and an add, and the producer never reads what it wrote.
//!
//! Positions are counted in bytes from the segment's first use and never repeat; `position % capacity` is
//! the offset. `limit` is the position up to which the producer may write. It is published in the arena's header
//! before the first byte that it allows is written, so a reader that holds no gate can tell, after copying, whether its
//! block was still intact ([`intact_position`]).

use crate::limits::{ARENA_FIRST_BYTES, ARENA_SEGMENTS_MAX, ARENA_STREAM_BYTES};
use crate::seq::distance;
use crate::sync::{AtomicU64, Ordering, fence};

/// Chunks of a segment.
pub const CHUNKS: usize = 16;
/// Smallest unit of allocation: payloads are 16-byte aligned behind a 32-byte header, one cell one cache line.
pub const GRANULE_MIN_BYTES: u64 = 64;

/// Sizes of an arena, fixed when the topic is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of segment 0, a power of two, at least a granule a chunk.
    pub first_bytes: u64,
    /// Total bytes of all segments may not exceed it.
    pub bound_bytes: u64,
    /// log2 of the unit in which cells are counted.
    pub granule_shift: u32,
}

impl Geometry {
    /// The sizes for messages of at most `message_bytes` (header and extension included) and the given bound.
    pub fn new(first_bytes: u64, bound_bytes: u64, message_bytes: u64) -> Self {
        let first_bytes = first_bytes.next_power_of_two().max(CHUNKS as u64 * GRANULE_MIN_BYTES);
        // A block may fill half of a segment, and a segment half of the arena.
        let least = message_bytes.next_power_of_two().saturating_mul(4);
        let bound_bytes = bound_bytes.max(least).max(first_bytes.saturating_mul(2)).next_power_of_two();
        let cells = bound_bytes / GRANULE_MIN_BYTES;
        let granule_shift = GRANULE_MIN_BYTES.trailing_zeros()
            + (cells / crate::ring::mpmc::CELLS_MAX).max(1).trailing_zeros();
        // A large bound makes large granules, and a chunk is at least one: 16 of them are far below half the bound.
        let first_bytes = first_bytes.max((CHUNKS as u64) << granule_shift);
        Self { first_bytes, bound_bytes, granule_shift }
    }

    /// Bytes of segment `index`.
    pub const fn segment_bytes(&self, index: usize) -> u64 {
        self.first_bytes << index
    }

    /// Where segment `index` begins, counted from the first payload byte of the arena.
    pub const fn segment_base(&self, index: usize) -> u64 {
        self.first_bytes * ((1 << index) - 1)
    }

    /// How many segments fit into the bound.
    pub const fn segments(&self) -> usize {
        let mut count = 0;
        while count < ARENA_SEGMENTS_MAX && self.segment_base(count + 1) <= self.bound_bytes {
            count += 1;
        }
        count
    }

    /// The segment that holds this offset from the first payload byte, or `None` beyond the last.
    pub const fn segment_of(&self, offset_bytes: u64) -> Option<usize> {
        let index = (offset_bytes / self.first_bytes + 1).ilog2() as usize;
        if index < self.segments() { Some(index) } else { None }
    }

    /// Largest block, in bytes.
    pub const fn block_bytes_max(&self) -> u64 {
        self.segment_bytes(self.segments() - 1) / 2
    }

    /// Rounds a length up to whole granules.
    #[inline]
    pub const fn round_up(&self, len_bytes: u64) -> u64 {
        let granule = 1 << self.granule_shift;
        (len_bytes + granule - 1) & !(granule - 1)
    }
}

/// Contiguous memory that the producer may write to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Segment that it lies in.
    pub segment: usize,
    /// Offset from the arena's first payload byte.
    pub offset_bytes: u64,
    /// Position in the segment, never repeated.
    pub position_bytes: u64,
    /// How many bytes may be written; at least what was asked for.
    pub len_bytes: u64,
    /// The segment's limit has moved: [`raise_limit`] before writing. It is told once, so it is stored even if the
    /// span is not used after all.
    pub new_limit: Option<u64>,
}

/// Memory that has been cut off a span for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Segment that it lies in.
    pub segment: usize,
    /// Position in the segment, never repeated.
    pub position_bytes: u64,
    /// Its length in whole granules.
    pub used_bytes: u64,
    /// Where the block before it ends.
    previous_end: u64,
}

/// Why there is no memory right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Reserve this segment's bytes and call [`Allocator::grown`], or wait if that is impossible.
    Grow {
        /// Index of the next segment.
        segment: usize,
    },
    /// At the bound, and unread messages fill it: wait for the gate to pass this sequence.
    Unread {
        /// Last message of the chunk that is needed next.
        sequence: u64,
    },
    /// At the bound, and blocks fill it that have been cut off and not published: publish or roll them back first.
    Unpublished,
    /// Larger than half of the largest segment.
    TooLarge,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    capacity: u64,
    /// Where the segment begins, counted from the first payload byte of the arena.
    base: u64,
    /// log2 of a chunk's bytes.
    chunk_shift: u32,
    position: u64,
    limit: u64,
    /// Up to where a block that begins at `position` may reach: the limit, or the end of this revolution.
    window_end: u64,
    /// One more than the last sequence in the chunk; 0 = never used.
    chunk_end: [u64; CHUNKS],
    /// Position of the oldest block that has been cut off but not published, or of the padding before it.
    pending: Option<u64>,
    /// Where the last block that has been cut off ends. Padding may lie between it and `position`.
    cut_end: u64,
}

impl Segment {
    const fn new(capacity: u64, base: u64) -> Self {
        let chunk_shift = (capacity / CHUNKS as u64).trailing_zeros();
        Self {
            capacity,
            base,
            chunk_shift,
            position: 0,
            limit: capacity,
            window_end: capacity,
            chunk_end: [0; CHUNKS],
            pending: None,
            cut_end: 0,
        }
    }

    /// To be called whenever the limit has moved, or the position other than by a block.
    fn set_window(&mut self) {
        let revolution_end = (self.position & !(self.capacity - 1)) + self.capacity;
        self.window_end = self.limit.min(revolution_end);
    }

    /// The block from `position_bytes` to `end_bytes` is published as `sequence`.
    #[inline]
    fn note_published(&mut self, position_bytes: u64, end_bytes: u64, sequence: u64) {
        let mut chunk = self.chunk(position_bytes);
        let last = self.chunk(end_bytes - 1);
        self.chunk_end[chunk] = sequence.wrapping_add(1);
        while chunk != last {
            chunk = (chunk + 1) % CHUNKS;
            self.chunk_end[chunk] = sequence.wrapping_add(1);
        }
    }

    fn chunk_bytes(&self) -> u64 {
        self.capacity / CHUNKS as u64
    }

    #[inline]
    fn chunk(&self, position: u64) -> usize {
        // Both are powers of two, which the optimiser does not know: a shift instead of two divisions.
        (position >> self.chunk_shift) as usize % CHUNKS
    }
}

/// Which chunks may be overwritten.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// Messages below it are finished by every reliable group.
    pub gate: u64,
    /// Messages from here on are kept for readers who come later, as long as the history bound allows.
    pub keep_from: u64,
    /// Bytes up to which the arena grows for the sake of history.
    pub history_bytes: u64,
}

/// Hands out blocks of one arena.
#[derive(Clone, Debug)]
pub struct Allocator {
    geometry: Geometry,
    /// Where blocks come from now.
    current: Segment,
    /// The segments before it, by index.
    older: [Segment; ARENA_SEGMENTS_MAX],
    /// Segments `first..active` are drained and not written any more.
    first: usize,
    /// Index of the current segment.
    active: usize,
    may_grow: bool,
}

impl Allocator {
    /// An arena whose segment 0 is reserved.
    pub fn new(geometry: Geometry) -> Self {
        let current = Segment::new(geometry.segment_bytes(0), 0);
        let older = [Segment::new(0, 0); ARENA_SEGMENTS_MAX];
        Self { geometry, current, older, first: 0, active: 0, may_grow: true }
    }

    /// Its sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Contiguous memory for at least `want_bytes`, if it can be had without moving the limit. Nothing is taken until
    /// [`Allocator::commit`].
    #[inline]
    pub fn span_here(&self, want_bytes: u64) -> Option<Span> {
        let fits = self.current.position + want_bytes <= self.current.window_end;
        fits.then(|| self.describe(None))
    }

    /// Finds contiguous memory for at least `want_bytes`. Nothing is taken until [`Allocator::commit`].
    pub fn span(&mut self, want_bytes: u64, horizon: Horizon) -> Result<Span, Shortage> {
        match self.span_here(want_bytes) {
            Some(span) => Ok(span),
            None => self.span_slow(want_bytes, horizon),
        }
    }

    #[inline]
    fn describe(&self, new_limit: Option<u64>) -> Span {
        let segment = &self.current;
        Span {
            segment: self.active,
            offset_bytes: segment.base + (segment.position & (segment.capacity - 1)),
            position_bytes: segment.position,
            len_bytes: segment.window_end - segment.position,
            new_limit,
        }
    }

    #[cold]
    fn span_slow(&mut self, want_bytes: u64, horizon: Horizon) -> Result<Span, Shortage> {
        if want_bytes > self.geometry.block_bytes_max() {
            return Err(Shortage::TooLarge);
        }
        let may_grow = self.may_grow && self.active + 1 < self.geometry.segments();
        let total = self.geometry.segment_base(self.active + 1);
        let segment = &mut self.current;
        if want_bytes > segment.capacity / 2 {
            return Err(Shortage::Grow { segment: self.active + 1 });
        }
        let offset = segment.position & (segment.capacity - 1);
        let pad = if offset + want_bytes > segment.capacity { segment.capacity - offset } else { 0 };
        // The limit moves at the end and at once: what it has moved by is told to the caller only with a span.
        let mut limit = segment.limit;
        while limit < segment.position + pad + want_bytes {
            let end = segment.chunk_end[segment.chunk(limit)];
            let unread = end != 0 && distance(end, horizon.gate) > 0;
            let unpublished =
                segment.pending.is_some_and(|p| limit + segment.chunk_bytes() > p + segment.capacity);
            let kept = end != 0 && distance(end, horizon.keep_from) > 0 && total < horizon.history_bytes;
            if (unread || unpublished || kept) && may_grow {
                return Err(Shortage::Grow { segment: self.active + 1 });
            }
            if unpublished {
                return Err(Shortage::Unpublished);
            }
            if unread {
                return Err(Shortage::Unread { sequence: end.wrapping_sub(1) });
            }
            limit += segment.chunk_bytes();
        }
        segment.position += pad;
        let new_limit = (limit != segment.limit).then_some(limit);
        segment.limit = limit;
        segment.set_window();
        Ok(self.describe(new_limit))
    }

    /// The segment after the active one is reserved; blocks come from it now.
    pub fn grown(&mut self) {
        debug_assert!(self.active + 1 < self.geometry.segments());
        let next = self.active + 1;
        let new = Segment::new(self.geometry.segment_bytes(next), self.geometry.segment_base(next));
        self.older[self.active] = core::mem::replace(&mut self.current, new);
        self.active = next;
    }

    fn segment_mut(&mut self, index: usize) -> &mut Segment {
        if index == self.active { &mut self.current } else { &mut self.older[index] }
    }

    /// Whether there is memory to grow with. While there is none the arena lives with what it has, and says for which
    /// message it waits. Default: there is.
    pub fn set_may_grow(&mut self, may_grow: bool) {
        self.may_grow = may_grow;
    }

    /// Cuts `used_bytes` off the last span. [`Allocator::published`] or [`Allocator::rollback`] wants the block back.
    #[inline]
    pub fn commit(&mut self, used_bytes: u64) -> Block {
        let used_bytes = self.geometry.round_up(used_bytes);
        let segment = &mut self.current;
        let position_bytes = segment.position;
        debug_assert!(used_bytes > 0 && position_bytes + used_bytes <= segment.limit);
        segment.position += used_bytes;
        let previous_end = core::mem::replace(&mut segment.cut_end, segment.position);
        segment.pending.get_or_insert(position_bytes);
        Block { segment: self.active, position_bytes, used_bytes, previous_end }
    }

    /// `block` was published as `sequence`. Blocks are published in the order in which they were cut off.
    #[inline]
    pub fn published(&mut self, block: Block, sequence: u64) {
        let segment = self.segment_mut(block.segment);
        let next = block.position_bytes + block.used_bytes;
        segment.note_published(block.position_bytes, next, sequence);
        segment.pending = (next < segment.cut_end).then_some(next);
    }

    /// [`Allocator::commit`] and [`Allocator::published`] in one, for a message that was written into the last span and
    /// published at once. Nobody may have a block that is cut off and unpublished. One that was forgotten is
    /// passed over by the next [`Allocator::published`], and the next chunk begins with one.
    #[inline]
    pub fn commit_published(&mut self, used_bytes: u64, sequence: u64) {
        let position_bytes = self.current.position;
        let next = position_bytes + self.geometry.round_up(used_bytes);
        self.current.position = next;
        self.current.cut_end = next;
        self.current.note_published(position_bytes, next, sequence);
    }

    /// Takes back `block`, and all that were cut off after it, unpublished.
    pub fn rollback(&mut self, block: Block) {
        let first_later = block.segment + 1;
        let segment = self.segment_mut(block.segment);
        segment.position = block.position_bytes;
        segment.cut_end = block.previous_end;
        segment.pending = segment.pending.filter(|&pending| pending < block.previous_end);
        segment.set_window();
        for index in first_later..=self.active {
            let later = self.segment_mut(index);
            if let Some(pending) = later.pending.take() {
                later.position = pending;
                later.cut_end = pending;
                later.set_window();
            }
        }
    }

    /// How often the current segment has been gone round, and its bytes.
    pub fn revolutions(&self) -> (u64, u64) {
        (self.current.position / self.current.capacity, self.current.capacity)
    }

    /// The segment to go on to where messages stream, unless the current one is large enough for that. Those before it are not used again:
    /// with it they take a quarter of the bound at most. Not where arenas begin small because there are many of them.
    pub fn next_for_stream(&self) -> Option<usize> {
        let next = self.active + 1;
        let is_small =
            next < self.geometry.segments() && self.geometry.segment_bytes(next) <= ARENA_STREAM_BYTES;
        let is_one_of_many = self.geometry.first_bytes < ARENA_FIRST_BYTES;
        (is_small && !is_one_of_many && 4 * self.geometry.segment_base(next + 1) <= self.geometry.bound_bytes)
            .then_some(next)
    }

    /// Offset and length of the active segment's memory that no block has ever touched. `None` after its first revolution.
    pub fn never_used(&self) -> Option<(u64, u64)> {
        let segment = &self.current;
        (segment.position < segment.capacity).then(|| {
            (self.geometry.segment_base(self.active) + segment.position, segment.capacity - segment.position)
        })
    }

    /// A segment that is no longer written and whose last message lies below `gate`: its memory can be given back, once its limit is raised
    /// to the second number, by which none of its bytes is what it was. Call until `None`.
    pub fn drained(&mut self, gate: u64) -> Option<(usize, u64)> {
        if self.first >= self.active {
            return None;
        }
        let segment = &self.older[self.first];
        if segment.pending.is_some() || segment.chunk_end.iter().any(|&end| distance(end, gate) > 0) {
            return None;
        }
        let limit = segment.limit + segment.capacity;
        self.first += 1;
        Some((self.first - 1, limit))
    }
}

/// Writer: publishes that a segment may be overwritten up to `limit`, before the first byte is.
#[inline]
pub fn raise_limit(word: &AtomicU64, limit: u64) {
    // OVERWRITE: pairs with `is_intact`; who copies a byte written after this sees this limit or a later one.
    word.store(limit, Ordering::Relaxed);
    fence(Ordering::Release);
}

/// Reader without a gate, after copying a block and its `tag` from `offset_in_segment`: was the block whole all the
/// while? Whether the tag names the right message is another question ([`crate::header::tag_names`]).
#[inline]
pub fn is_intact(
    word: &AtomicU64,
    capacity: u64,
    offset_in_segment: u64,
    tag: u64,
    granule_shift: u32,
) -> bool {
    // OVERWRITE: between the copy and the look at the limit; pairs with `raise_limit`.
    fence(Ordering::Acquire);
    let position = intact_position(word.load(Ordering::Relaxed), capacity, offset_in_segment);
    (tag >> 32) as u32 == (position >> granule_shift) as u32
}

/// Where the block at `offset_in_segment` lies if it has not been overwritten at a time when `limit` was the
/// segment's limit: the only position in the writable window with that offset. A reader that copied compares it with the
/// position in the cell's tag, and counts the message as missed if they differ. A limit below `capacity` is that of a
/// segment that has not been once round: a new one's word says 0.
pub fn intact_position(limit: u64, capacity: u64, offset_in_segment: u64) -> u64 {
    let window = limit.saturating_sub(capacity);
    window.wrapping_add(offset_in_segment.wrapping_sub(window) & (capacity - 1))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    fn horizon(gate: u64) -> Horizon {
        Horizon { gate, keep_from: gate, history_bytes: 0 }
    }

    #[test]
    fn geometry_leaves_room_for_the_largest_message_and_names_every_cell() {
        for message in [1, 64, 4096, 1 << 20, 1 << 30] {
            let geometry = Geometry::new(64 << 10, 16 << 20, message + 96);
            assert!(geometry.block_bytes_max() >= message + 96, "{message}: {geometry:?}");
            assert!(geometry.bound_bytes >> geometry.granule_shift <= crate::ring::mpmc::CELLS_MAX);
            assert_eq!(geometry.segment_of(0), Some(0));
            assert_eq!(geometry.segment_of(geometry.segment_base(2)), Some(2));
            assert_eq!(geometry.segment_of(geometry.segment_base(2) - 1), Some(1));
            assert_eq!(geometry.segment_of(geometry.bound_bytes), None);
        }
    }

    #[test]
    fn a_block_that_does_not_fit_to_the_end_is_padded() {
        let mut arena = Allocator::new(Geometry { first_bytes: 1024, bound_bytes: 1024, granule_shift: 6 });
        for sequence in 0..3 {
            arena.span(320, horizon(sequence)).unwrap();
            let block = arena.commit(320);
            arena.published(block, sequence);
        }
        let span = arena.span(320, horizon(3)).unwrap();
        assert_eq!((span.offset_bytes, span.position_bytes), (0, 1024));
        assert!(span.new_limit.is_some());
    }

    #[test]
    fn where_messages_stream_it_grows_to_a_certain_size_and_gives_up_a_quarter_of_the_bound_at_most() {
        let grow = |geometry: Geometry| {
            let mut arena = Allocator::new(geometry);
            while let Some(segment) = arena.next_for_stream() {
                assert_eq!(segment, arena.active + 1);
                arena.grown();
            }
            (arena.revolutions().1, geometry.segment_base(arena.active))
        };
        let default = Geometry::new(64 << 10, 16 << 20, 1 << 20);
        assert_eq!(grow(default), (ARENA_STREAM_BYTES, (2 << 20) - (64 << 10)));
        for bound_bytes in [256 << 10, 1 << 20, 4 << 20, 64 << 20] {
            let (segment_bytes, behind_bytes) = grow(Geometry::new(64 << 10, bound_bytes, 1 << 10));
            assert!(segment_bytes <= ARENA_STREAM_BYTES && 4 * behind_bytes <= bound_bytes, "{bound_bytes}");
        }
        assert_eq!(grow(Geometry::new(4 << 20, 16 << 20, 1 << 10)), (4 << 20, 0));
        assert_eq!(grow(Geometry::new(4 << 10, 16 << 20, 1 << 10)), (4 << 10, 0), "one of many");
    }

    #[test]
    fn unread_messages_make_it_grow_and_at_the_bound_it_names_the_sequence_to_wait_for() {
        let mut arena = Allocator::new(Geometry { first_bytes: 1024, bound_bytes: 3072, granule_shift: 6 });
        let mut sequence = 0;
        let shortage = loop {
            match arena.span(64, horizon(0)) {
                Ok(_) => {
                    let block = arena.commit(64);
                    arena.published(block, sequence);
                    sequence += 1;
                }
                Err(Shortage::Grow { segment }) => {
                    assert_eq!((segment, sequence), (1, 16));
                    arena.grown();
                }
                Err(other) => break other,
            }
        };
        assert_eq!((shortage, sequence), (Shortage::Unread { sequence: 17 }, 48));
        assert_eq!(arena.drained(15), None);
        assert_eq!(arena.drained(16), Some((0, 2048)));
        assert_eq!(arena.drained(48), None);
        assert!(arena.span(64, horizon(18)).is_ok());
    }

    #[test]
    fn finished_messages_are_kept_for_late_readers_as_far_as_the_history_goes() {
        let geometry = Geometry { first_bytes: 1024, bound_bytes: 1 << 20, granule_shift: 6 };
        let mut arena = Allocator::new(geometry);
        let mut grown = 0;
        for sequence in 0..1000_u64 {
            let kept =
                Horizon { gate: sequence, keep_from: sequence.saturating_sub(100), history_bytes: 4096 };
            while let Err(Shortage::Grow { .. }) = arena.span(64, kept) {
                arena.grown();
                grown += 1;
            }
            let block = arena.commit(64);
            arena.published(block, sequence);
        }
        assert_eq!(grown, 2, "1 + 2 + 4 KiB reach the history bound, then blocks are reused");
    }

    #[test]
    fn a_large_bound_makes_large_granules_and_chunks_hold_at_least_one() {
        for (first, bound, message) in [(1, 1 << 34, 64), (1024, 1 << 32, 64), (1, 1, 1 << 30), (1, 1, 1)] {
            let geometry = Geometry::new(first, bound, message);
            assert!(geometry.first_bytes / CHUNKS as u64 >= 1 << geometry.granule_shift, "{geometry:?}");
            assert!(geometry.block_bytes_max() >= message, "{geometry:?}");
            assert_eq!(
                Geometry::new(geometry.first_bytes, geometry.bound_bytes, message),
                geometry,
                "stable"
            );
            let mut arena = Allocator::new(geometry);
            arena.span(1, horizon(0)).unwrap();
            let block = arena.commit(1);
            assert!(block.used_bytes <= geometry.first_bytes);
        }
    }

    #[test]
    fn a_limit_that_moved_for_a_span_that_failed_is_told_with_the_next_one() {
        let mut arena = Allocator::new(Geometry { first_bytes: 1024, bound_bytes: 1024, granule_shift: 6 });
        for sequence in 0..16 {
            arena.span(64, horizon(0)).unwrap();
            let block = arena.commit(64);
            arena.published(block, sequence);
        }
        assert_eq!(arena.span(128, horizon(1)), Err(Shortage::Unread { sequence: 1 }));
        assert_eq!(arena.span(64, horizon(1)).unwrap().new_limit, Some(1024 + 64));
    }

    #[test]
    fn padding_is_not_mistaken_for_an_unpublished_block() {
        let mut arena = Allocator::new(Geometry { first_bytes: 1024, bound_bytes: 3072, granule_shift: 6 });
        arena.span(512, horizon(0)).unwrap();
        let block = arena.commit(512);
        arena.published(block, 0);
        arena.span(320, horizon(1)).unwrap();
        let block = arena.commit(320);
        // The next block does not fit to the end; it is padded for and then given up.
        assert_eq!(arena.span(320, horizon(1)).unwrap().position_bytes, 1024);
        let given_up = arena.commit(320);
        arena.published(block, 1);
        arena.rollback(given_up);
        assert_eq!(arena.span(512, horizon(0)), Err(Shortage::Grow { segment: 1 }));
        arena.grown();
        assert_eq!(arena.drained(1), None);
        assert_eq!(arena.drained(2).map(|(segment, _)| segment), Some(0));
        // And as a span that nothing was cut off.
        let mut arena = Allocator::new(Geometry { first_bytes: 1024, bound_bytes: 3072, granule_shift: 6 });
        arena.span(512, horizon(0)).unwrap();
        let first = arena.commit(512);
        arena.span(320, horizon(0)).unwrap();
        let second = arena.commit(320);
        arena.published(first, 0);
        assert_eq!(arena.span(320, horizon(1)).unwrap().position_bytes, 1024);
        arena.published(second, 1);
        arena.grown();
        assert_eq!(arena.drained(2).map(|(segment, _)| segment), Some(0));
    }

    #[test]
    fn a_segment_whose_limit_was_never_stored_is_intact() {
        assert_eq!(intact_position(0, 1024, 320), 320);
    }

    #[test]
    fn what_is_cut_off_and_not_published_is_not_overwritten() {
        let mut arena = Allocator::new(Geometry { first_bytes: 1024, bound_bytes: 1024, granule_shift: 6 });
        let mut blocks = Vec::new();
        while arena.span(64, horizon(1000)).is_ok() {
            blocks.push(arena.commit(64));
            assert!(blocks.len() <= 16, "the segment holds 16 blocks");
        }
        assert_eq!(arena.span(64, horizon(1000)), Err(Shortage::Unpublished));
        arena.rollback(blocks[8]);
        assert_eq!(arena.span(64, horizon(0)).unwrap().position_bytes, 512);
    }

    proptest! {
        /// Blocks of unread messages never overlap, whatever the lengths and however the gate moves.
        #[test]
        fn unread_blocks_never_overlap(steps in proptest::collection::vec((1_u64..500, 0_u64..6), 1..300)) {
            let geometry = Geometry { first_bytes: 2048, bound_bytes: 8192, granule_shift: 6 };
            let mut arena = Allocator::new(geometry);
            let mut unread: VecDeque<(u64, u64, u64)> = VecDeque::new();
            let (mut sequence, mut gate) = (0_u64, 0_u64);
            for (len, consumed) in steps {
                match arena.span(len, horizon(gate)) {
                    Ok(span) => {
                        prop_assert!(span.len_bytes >= len);
                        let used = geometry.round_up(len);
                        for &(_, start, end) in &unread {
                            prop_assert!(span.offset_bytes + used <= start || end <= span.offset_bytes,
                                "{:?} meets {}..{}", span, start, end);
                        }
                        prop_assert_eq!(geometry.segment_of(span.offset_bytes + used - 1), Some(span.segment));
                        let block = arena.commit(len);
                        let capacity = geometry.segment_bytes(span.segment);
                        let base = geometry.segment_base(span.segment);
                        prop_assert_eq!(span.offset_bytes - base, block.position_bytes % capacity);
                        arena.published(block, sequence);
                        unread.push_back((sequence, span.offset_bytes, span.offset_bytes + used));
                        sequence += 1;
                    }
                    Err(Shortage::Grow { .. }) => arena.grown(),
                    Err(Shortage::Unread { sequence: waits_for }) => prop_assert!(waits_for >= gate),
                    Err(Shortage::Unpublished) => prop_assert!(false, "all are published"),
                    Err(Shortage::TooLarge) => prop_assert!(len > geometry.block_bytes_max()),
                }
                gate = (gate + consumed).min(sequence);
                while unread.front().is_some_and(|front| front.0 < gate) {
                    unread.pop_front();
                }
            }
        }

        /// The same with blocks that wait for their publication, are given up, or are never cut off a span. And a reader
        /// who knows nothing but the limits that were told is right about every block.
        #[test]
        fn unfinished_blocks_never_overlap_and_the_told_limits_are_true(
            steps in proptest::collection::vec((0_u8..8, 1_u64..500, 0_u64..4), 1..300),
        ) {
            let geometry = Geometry { first_bytes: 1024, bound_bytes: 8192, granule_shift: 6 };
            let mut arena = Allocator::new(geometry);
            let mut cut: VecDeque<Block> = VecDeque::new();
            let mut published: Vec<(u64, Block)> = Vec::new();
            let mut told = [0_u64; ARENA_SEGMENTS_MAX];
            let (mut gate, mut drained) = (0_u64, 0);
            for (step, len, consumed) in steps {
                match step {
                    0..=3 => match arena.span(len, horizon(gate)) {
                        Ok(span) => {
                            if let Some(limit) = span.new_limit {
                                told[span.segment] = limit;
                            }
                            let capacity = geometry.segment_bytes(span.segment);
                            let end = span.position_bytes + span.len_bytes;
                            prop_assert!(span.len_bytes >= len && end <= told[span.segment].max(capacity));
                            let unread = published.iter().filter(|(s, _)| *s >= gate).map(|(_, block)| block);
                            for block in unread.chain(&cut).filter(|block| block.segment == span.segment) {
                                prop_assert!(block.position_bytes + capacity >= end, "{:?} meets {:?}", span, block);
                            }
                            if step != 0 {
                                cut.push_back(arena.commit(len));
                            }
                        }
                        Err(Shortage::Grow { .. }) => arena.grown(),
                        Err(Shortage::Unread { sequence }) => {
                            prop_assert!(gate <= sequence && sequence < published.len() as u64);
                        }
                        Err(Shortage::Unpublished) => prop_assert!(!cut.is_empty()),
                        Err(Shortage::TooLarge) => prop_assert!(len > geometry.block_bytes_max()),
                    },
                    4 | 5 => {
                        if let Some(block) = cut.pop_front() {
                            let sequence = published.len() as u64;
                            arena.published(block, sequence);
                            published.push((sequence, block));
                        }
                    }
                    6 => {
                        if !cut.is_empty() {
                            let kept = len as usize % cut.len();
                            arena.rollback(cut[kept]);
                            cut.truncate(kept);
                        }
                    }
                    _ => gate = (gate + consumed).min(published.len() as u64),
                }
                for &(_, block) in &published {
                    let capacity = geometry.segment_bytes(block.segment);
                    let found = intact_position(told[block.segment], capacity, block.position_bytes % capacity);
                    let intact = block.position_bytes + capacity >= told[block.segment];
                    prop_assert_eq!(found == block.position_bytes, intact);
                }
                while let Some((segment, _)) = arena.drained(gate) {
                    prop_assert_eq!(segment, drained);
                    drained += 1;
                    prop_assert!(cut.iter().all(|block| block.segment != segment));
                    prop_assert!(published.iter().all(|(s, block)| *s < gate || block.segment != segment));
                }
            }
            // Whatever happened, once all is published and read, the older segments go back.
            for block in cut.drain(..) {
                arena.published(block, published.len() as u64);
                published.push((published.len() as u64, block));
            }
            while arena.drained(published.len() as u64).is_some() {
                drained += 1;
            }
            prop_assert_eq!(drained, arena.active);
        }

        /// The position of an intact block is found from its offset and the limit alone.
        #[test]
        fn an_intact_block_is_recognised(position in 0_u64..100_000, ahead in 0_u64..8192) {
            let (capacity, position) = (4096, position / 64 * 64);
            let limit = (position + 64 + ahead).next_multiple_of(256).max(capacity);
            let found = intact_position(limit, capacity, position % capacity);
            prop_assert_eq!(found == position, position + capacity >= limit);
        }
    }
}
