//! The file behind an arena: its producer's writable mapping, and the read-only view of everybody else.
#![allow(unsafe_code)]

use crate::directory::TopicDir;
use crate::error::RegionError;
use crate::region::{Access, Region, reserve};
use crate::sys::file;
use crate::sys::prefetch::{self, LINE_BYTES};
use crate::sys::tmpfs;
use bus_core::arena::{Allocator, Block, Geometry, Horizon, Shortage, Span, is_intact, raise_limit};
use bus_core::extension::Extension;
use bus_core::header::{HEADER_BYTES, HEADER_WORDS, Header, cell_tag};
use bus_core::layout::{Preamble, arena as layout};
use bus_core::limits::ARENA_STREAM_BYTES_PER_S;
use bus_core::sync::{AtomicU64, Ordering};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// How many messages ahead a producer asks for its lines.
const PREFETCH_CELLS: usize = 4;
/// Longer messages are left to the hardware, which sees their lines follow each other.
const PREFETCH_BYTES_MAX: usize = 2 * LINE_BYTES;

/// A producer's own arena.
#[derive(Debug)]
pub(crate) struct ProducerArena {
    region: Region,
    allocator: Allocator,
    pace: Pace,
}

/// How fast an arena's segment is gone round.
#[derive(Debug)]
struct Pace {
    /// The revolution that it was in when that was last looked at.
    revolution: u64,
    /// When that began.
    since: Instant,
    /// So many before it, in a row, were fast.
    fast_count: u32,
}

impl Pace {
    /// In the first revolution of a segment.
    fn begin() -> Self {
        Self { revolution: 0, since: Instant::now(), fast_count: 0 }
    }
}

/// So many revolutions in a row are a stream, and not a burst.
const FAST_REVOLUTIONS: u32 = 8;
/// What is only faster may take one byte in so many of the memory that is free.
const PLENTY: u64 = 16;

/// What can be written as a message: a reference to it, mostly.
pub(crate) trait Source: Copy {
    /// Name for error messages.
    const KIND: &'static str;
    /// Bytes of the extension block before it.
    const EXTENSION_BYTES: usize = 0;
    /// That block, where it has one.
    fn extension(&self) -> Option<&Extension> {
        None
    }
    /// Whether `least_bytes` is the length itself.
    const IS_EXACT: bool;
    /// A length below which there is no use in trying.
    fn least_bytes(&self) -> usize;
    /// Writes it; the length, or `None` if it does not fit.
    fn fill(&self, memory: &mut [MaybeUninit<u8>]) -> Option<usize>;
    /// Its length, found the slow way; `None` if it cannot be written at all.
    fn measure(&self, most_bytes: usize) -> Option<usize>;
}

/// Why a message could not be written.
pub(crate) enum NoRoom {
    /// Something must happen first.
    Shortage(Shortage),
    /// `/dev/shm` has no memory for a message of this size.
    Memory(RegionError),
}

/// A message that is complete but for its sequence.
#[derive(Clone, Copy)]
pub(crate) struct Draft {
    /// Granule of the arena at which it begins.
    pub(crate) cell: u32,
    /// Its position in the segment, in granules: what the cell's tag says.
    granule: u32,
    pub(crate) header: &'static [AtomicU64; HEADER_WORDS],
    /// Bytes of its payload.
    pub(crate) len_bytes: usize,
    /// Bytes that follow its header: the payload, and an extension block if it has one.
    pub(crate) body_bytes: usize,
}

impl Draft {
    /// Writes for which sequence it is.
    #[inline]
    pub(crate) fn address(&self, sequence: u64) {
        // Relaxed: what publishes the slot publishes it.
        self.header[0].store(cell_tag(sequence, self.granule), Ordering::Relaxed);
    }
}

/// A draft, and the memory that has been cut off for it.
pub(crate) struct Cell {
    pub(crate) draft: Draft,
    pub(crate) block: Block,
}

impl ProducerArena {
    pub(crate) fn create(
        dir: &TopicDir,
        (producer, tag): (usize, u32),
        lane: usize,
        geometry: Geometry,
        epoch: u64,
    ) -> Result<Self, RegionError> {
        let path = dir.arena(producer, tag, lane);
        let bytes = layout::SEGMENTS as u64 + geometry.segment_bytes(0);
        let region = Region::create(&path, bytes, layout::SEGMENTS as u64 + geometry.bound_bytes)?;
        for segment in 0..geometry.segments() {
            region.write(layout::limit(segment) as u64, &geometry.segment_bytes(segment))?;
        }
        region.write(0, &Preamble::new(layout::MAGIC, bytes, epoch))?;
        Ok(Self { region, allocator: Allocator::new(geometry), pace: Pace::begin() })
    }

    /// Writes a message of probably `want_bytes` where there is room right away. Nothing is taken: either it is published
    /// and [`ProducerArena::commit_published`], or it is as if it had never been.
    #[inline(always)]
    pub(crate) fn draft<S: Source>(
        &mut self,
        source: &S,
        want_bytes: usize,
        max_bytes: usize,
        header: Header,
    ) -> Option<Draft> {
        let bytes = HEADER_BYTES + S::EXTENSION_BYTES + want_bytes;
        let span = self.allocator.span_here(bytes as u64)?;
        if bytes <= PREFETCH_BYTES_MAX {
            // The compare-and-swap that publishes waits for these lines to come over from whoever read them last.
            let ahead = self.region.base().wrapping_add(
                layout::SEGMENTS
                    + span.offset_bytes as usize
                    + PREFETCH_CELLS * bytes.next_multiple_of(LINE_BYTES),
            );
            prefetch::for_writing(ahead);
        }
        self.fill(source, span, max_bytes, header)
    }

    /// [`ProducerArena::draft`], and its memory is taken.
    #[inline]
    pub(crate) fn write_here<S: Source>(
        &mut self,
        source: &S,
        want_bytes: usize,
        max_bytes: usize,
        header: Header,
    ) -> Option<Cell> {
        self.draft(source, want_bytes, max_bytes, header).map(|draft| self.cut_off(draft))
    }

    /// The memory of a draft is taken.
    #[inline]
    fn cut_off(&mut self, draft: Draft) -> Cell {
        let block = self.allocator.commit((HEADER_BYTES + draft.body_bytes) as u64);
        Cell { draft, block }
    }

    /// The draft was published as `sequence`.
    #[inline(always)]
    pub(crate) fn commit_published(&mut self, body_bytes: usize, sequence: u64) {
        self.allocator.commit_published((HEADER_BYTES + body_bytes) as u64, sequence);
    }

    /// [`ProducerArena::write_here`], moving the limit, or growing the file if `may_grow` and that is what it takes. `Ok(None)`:
    /// it is longer than `want_bytes`.
    #[cold]
    pub(crate) fn write<S: Source>(
        &mut self,
        source: &S,
        want_bytes: usize,
        max_bytes: usize,
        header: Header,
        (horizon, may_grow): (Horizon, bool),
    ) -> Result<Option<Cell>, NoRoom> {
        let want_bytes = (HEADER_BYTES + S::EXTENSION_BYTES + want_bytes) as u64;
        // Memory that was short at the last try may be there now.
        self.allocator.set_may_grow(true);
        self.grow_if_streaming(want_bytes);
        let span = loop {
            match self.allocator.span(want_bytes, horizon) {
                Ok(span) => break span,
                Err(Shortage::Grow { segment }) if may_grow => self.grow(segment, want_bytes)?,
                Err(shortage) => return Err(NoRoom::Shortage(shortage)),
            }
        };
        if let Some(limit) = span.new_limit
            && let Some(word) = self.region.look(layout::limit(span.segment))
        {
            raise_limit(word, limit);
        }
        Ok(self.fill(source, span, max_bytes, header).map(|draft| self.cut_off(draft)))
    }

    #[inline(always)]
    fn fill<S: Source>(&mut self, source: &S, span: Span, max_bytes: usize, header: Header) -> Option<Draft> {
        let before = HEADER_BYTES + S::EXTENSION_BYTES;
        let room = (span.len_bytes as usize - before).min(max_bytes);
        // SAFETY: the allocator hands out each byte to one message at a time, inside of what is reserved; only this
        // handle, which is borrowed mutably, writes to the arena, and readers are kept away by the gate. The words
        // are good for as long as the mapping: publishers hand them to nobody and own this arena.
        let (words, payload) = unsafe {
            let start = self.region.base().add(layout::SEGMENTS + span.offset_bytes as usize);
            (
                &*start.cast::<[AtomicU64; HEADER_WORDS]>(),
                core::slice::from_raw_parts_mut(start.add(before).cast::<MaybeUninit<u8>>(), room),
            )
        };
        let len_bytes = source.fill(payload)?;
        if let Some(extension) = source.extension() {
            // SAFETY: it lies between header and payload, in the same memory; it is aligned to 16 bytes.
            unsafe { words.as_ptr_range().end.cast_mut().cast::<Extension>().write(*extension) };
        }
        Header { len_bytes: len_bytes as u32, ..header }.store(words);
        let granule_shift = self.allocator.geometry().granule_shift;
        Some(Draft {
            cell: (span.offset_bytes >> granule_shift) as u32,
            granule: (span.position_bytes >> granule_shift) as u32,
            header: words,
            len_bytes,
            body_bytes: S::EXTENSION_BYTES + len_bytes,
        })
    }

    /// Has this arena been gone round fast, again and again, and is there memory in plenty? Then it goes on to a larger segment. What lies behind
    /// stays as it is until memory is short: a reader that nothing is kept for may be looking at it.
    #[inline]
    fn grow_if_streaming(&mut self, want_bytes: u64) {
        if self.allocator.revolutions().0 != self.pace.revolution {
            self.note_revolution(want_bytes, Instant::now());
        }
    }

    #[cold]
    fn note_revolution(&mut self, want_bytes: u64, now: Instant) {
        let (revolution, segment_bytes) = self.allocator.revolutions();
        let took = now.duration_since(self.pace.since);
        let is_fast = took < Duration::from_nanos(segment_bytes * 1_000_000_000 / ARENA_STREAM_BYTES_PER_S);
        let fast_count = if is_fast { self.pace.fast_count + 1 } else { 0 };
        self.pace = Pace { revolution, since: now, fast_count };
        if fast_count < FAST_REVOLUTIONS {
            return;
        }
        self.pace.fast_count = 0;
        if let Some(segment) = self.allocator.next_for_stream()
            && self.has_plenty(self.allocator.geometry().segment_bytes(segment))
        {
            let _ = self.grow(segment, want_bytes);
        }
    }

    /// Is there far more memory than this?
    fn has_plenty(&self, bytes: u64) -> bool {
        let space = self.region.path().parent().and_then(|dir| tmpfs::space(dir).ok());
        space.is_some_and(|space| space.free_bytes / PLENTY >= bytes)
    }

    fn grow(&mut self, segment: usize, want_bytes: u64) -> Result<(), NoRoom> {
        let geometry = self.allocator.geometry();
        let offset = layout::SEGMENTS as u64 + geometry.segment_base(segment);
        match reserve(self.region.file(), self.region.path(), offset, geometry.segment_bytes(segment)) {
            Ok(()) => {
                self.allocator.grown();
                self.pace = Pace::begin();
            }
            // It would never fit into what there is.
            Err(error) if segment > 0 && want_bytes > geometry.segment_bytes(segment - 1) / 2 => {
                return Err(NoRoom::Memory(error));
            }
            // Live with what there is, and wait for the readers.
            Err(_) => self.allocator.set_may_grow(false),
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn published(&mut self, block: Block, sequence: u64) {
        self.allocator.published(block, sequence);
    }

    pub(crate) fn rollback(&mut self, block: Block) {
        self.allocator.rollback(block);
    }

    /// Gives back the memory of segments that were outgrown and are read.
    #[cold]
    pub(crate) fn give_back(&mut self, gate: u64) {
        while let Some((segment, limit)) = self.allocator.drained(gate) {
            // Before its bytes go: who copies from it without holding anybody back sees that they did.
            if let Some(word) = self.region.look(layout::limit(segment)) {
                raise_limit(word, limit);
            }
            let geometry = self.allocator.geometry();
            let offset = layout::SEGMENTS as u64 + geometry.segment_base(segment);
            let _ = file::punch(self.region.file(), offset, geometry.segment_bytes(segment));
        }
    }

    /// The producer leaves: gives back what was never used, so that a short-lived one leaves a page behind, not an arena.
    pub(crate) fn retire(&self) {
        if let Some((offset, bytes)) = self.allocator.never_used() {
            let first = (layout::SEGMENTS as u64 + offset).next_multiple_of(bus_core::layout::PAGE_BYTES);
            let end = layout::SEGMENTS as u64 + offset + bytes;
            if first < end {
                let _ = file::punch(self.region.file(), first, end - first);
            }
        }
    }
}

/// A reader's view of one producer's arena.
#[derive(Debug)]
pub(crate) struct ArenaView {
    region: Region,
    geometry: Geometry,
    /// Bytes of the file when it was last asked; it only grows.
    file_bytes: u64,
}

impl ArenaView {
    pub(crate) fn attach(
        dir: &TopicDir,
        (producer, tag): (usize, u32),
        lane: usize,
        geometry: Geometry,
        epoch: u64,
    ) -> Result<Self, RegionError> {
        let most = layout::SEGMENTS as u64 + geometry.bound_bytes;
        let path = dir.arena(producer, tag, lane);
        let (region, preamble) = Region::attach(&path, layout::MAGIC, Access::Read, Some(most))?;
        if preamble.epoch != epoch {
            let why = bus_core::layout::Mismatch::Field { name: "epoch", value: preamble.epoch };
            return Err(RegionError::Mismatch { path, why });
        }
        let file_bytes = region.file_bytes();
        Ok(Self { region, geometry, file_bytes })
    }

    /// Closes the descriptor, for a reader of very many topics.
    pub(crate) fn close_file(&mut self) {
        self.region.close_file();
    }

    /// Are the bytes up to `end_bytes`, counted from the start of the file, there?
    #[inline]
    fn covers(&mut self, end_bytes: u64) -> bool {
        end_bytes <= self.file_bytes || self.covers_slow(end_bytes)
    }

    #[cold]
    fn covers_slow(&mut self, end_bytes: u64) -> bool {
        let now_bytes = self.region.file_bytes().min(self.region.map_bytes() as u64);
        // Without a descriptor the file may not be found any more, and what is mapped stays.
        self.file_bytes = self.file_bytes.max(now_bytes);
        end_bytes <= self.file_bytes
    }

    /// Where a cell begins, if it is inside of the file: for a hint to the processor, not to be read through.
    #[inline]
    pub(crate) fn address(&self, cell: u32) -> *const u8 {
        self.region.base().wrapping_add(self.start_bytes(cell) as usize)
    }

    /// Where a cell begins, counted from the start of the file.
    #[inline]
    fn start_bytes(&self, cell: u32) -> u64 {
        layout::SEGMENTS as u64 + (u64::from(cell) << self.geometry.granule_shift)
    }

    /// Header words of a cell. `None` if they leave the file.
    ///
    /// The reference is good for as long as the view is kept, which is the subscriber's affair.
    #[inline]
    pub(crate) fn header_words(&mut self, cell: u32) -> Option<&'static [AtomicU64; HEADER_WORDS]> {
        let start = self.start_bytes(cell);
        if !self.covers(start + HEADER_BYTES as u64) {
            return None;
        }
        // SAFETY: the header is inside of the file and of the mapping, aligned to a granule, and every bit pattern is a
        // word; the subscriber that asks owns this view, and keeps it for as long as it hands the words out.
        Some(unsafe { &*self.region.base().add(start as usize).cast::<[AtomicU64; HEADER_WORDS]>() })
    }

    /// Are there `body_bytes` bytes behind the header of a cell?
    #[inline]
    pub(crate) fn has_body(&mut self, cell: u32, body_bytes: u64) -> bool {
        let start = self.start_bytes(cell);
        self.covers(start + HEADER_BYTES as u64 + body_bytes)
    }

    /// After copying from a cell: is the copy whole? `tag` is the publication word that was copied with it.
    pub(crate) fn intact(&self, cell: u32, tag: u64) -> bool {
        let offset = u64::from(cell) << self.geometry.granule_shift;
        let Some(segment) = self.geometry.segment_of(offset) else { return false };
        let Some(limit) = self.region.look(layout::limit(segment)) else { return false };
        let capacity = self.geometry.segment_bytes(segment);
        let offset_in_segment = offset - self.geometry.segment_base(segment);
        is_intact(limit, capacity, offset_in_segment, tag, self.geometry.granule_shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;
    use bus_core::limits::ARENA_STREAM_BYTES;

    fn topic_dir(scratch: &Scratch) -> TopicDir {
        TopicDir(scratch.dir().to_path_buf())
    }

    /// Publishes messages that everybody has read, until their segment has been gone round `times` times, each in `took`.
    fn go_round(arena: &mut ProducerArena, times: u32, took: impl Fn(u64) -> Duration) {
        let horizon = Horizon { gate: 1, keep_from: 1, history_bytes: 0 };
        for _ in 0..times {
            let (before, segment_bytes) = arena.allocator.revolutions();
            while arena.allocator.revolutions().0 == before {
                arena.allocator.span(64, horizon).unwrap();
                arena.allocator.commit_published(64, 0);
            }
            let now = arena.pace.since + took(segment_bytes);
            arena.note_revolution(64, now);
        }
    }

    fn at(bytes_per_s: u64) -> impl Fn(u64) -> Duration {
        move |bytes| Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_s)
    }

    const SLOW: u64 = ARENA_STREAM_BYTES_PER_S / 2;
    const FAST: u64 = ARENA_STREAM_BYTES_PER_S * 2;

    fn segment_bytes(arena: &ProducerArena) -> u64 {
        arena.allocator.revolutions().1
    }

    #[test]
    fn it_grows_where_messages_stream_and_not_in_a_burst() {
        let scratch = Scratch::new();
        let geometry = Geometry::new(64 << 10, 16 << 20, 1 << 20);
        let mut arena = ProducerArena::create(&topic_dir(&scratch), (0, 1), 0, geometry, 1).unwrap();
        for _ in 0..10 {
            go_round(&mut arena, 1, at(SLOW));
            go_round(&mut arena, FAST_REVOLUTIONS - 1, at(FAST));
        }
        assert_eq!(segment_bytes(&arena), 64 << 10, "bursts");
        go_round(&mut arena, FAST_REVOLUTIONS, at(FAST));
        assert_eq!(segment_bytes(&arena), 128 << 10);
        go_round(&mut arena, 100, at(FAST));
        assert_eq!(segment_bytes(&arena), ARENA_STREAM_BYTES);
    }

    #[test]
    fn who_has_grown_for_another_reason_begins_to_count_anew() {
        let scratch = Scratch::new();
        let geometry = Geometry::new(64 << 10, 16 << 20, 1 << 20);
        let mut arena = ProducerArena::create(&topic_dir(&scratch), (0, 1), 0, geometry, 1).unwrap();
        go_round(&mut arena, FAST_REVOLUTIONS - 1, at(FAST));
        assert!(arena.grow(1, 64).is_ok());
        go_round(&mut arena, FAST_REVOLUTIONS - 1, at(FAST));
        assert_eq!(segment_bytes(&arena), 128 << 10);
    }

    #[test]
    fn a_segment_that_is_given_back_is_intact_for_nobody() {
        let scratch = Scratch::new();
        let geometry = Geometry::new(64 << 10, 16 << 20, 1 << 20);
        let mut arena = ProducerArena::create(&topic_dir(&scratch), (0, 1), 0, geometry, 1).unwrap();
        let view = ArenaView::attach(&topic_dir(&scratch), (0, 1), 0, geometry, 1).unwrap();
        let tag = cell_tag(0, 0);
        assert!(view.intact(0, tag));
        assert!(arena.grow(1, 64).is_ok());
        arena.give_back(1);
        assert!(!view.intact(0, tag));
    }
}
