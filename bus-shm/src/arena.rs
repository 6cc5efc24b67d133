//! The file behind an arena: its producer's writable mapping, and the read-only view of everybody else.
#![allow(unsafe_code)]

use crate::directory::TopicDir;
use crate::error::RegionError;
use crate::region::{Access, Region, reserve};
use crate::sys::file;
use bus_core::arena::{Allocator, Block, Geometry, Horizon, Shortage, Span, is_intact, raise_limit};
use bus_core::header::{HEADER_BYTES, HEADER_WORDS};
use bus_core::layout::{Preamble, arena as layout};
use bus_core::sync::AtomicU64;
use std::mem::MaybeUninit;

/// A producer's own arena.
#[derive(Debug)]
pub(crate) struct ProducerArena {
    region: Region,
    allocator: Allocator,
}

/// Memory for one message, header and all.
pub(crate) struct CellMemory<'a> {
    pub(crate) span: Span,
    pub(crate) header: &'a [AtomicU64],
    pub(crate) payload: &'a mut [MaybeUninit<u8>],
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
        Ok(Self { region, allocator: Allocator::new(geometry) })
    }

    /// Finds memory for a cell of at least `want_bytes`, growing the file if that is what it takes.
    #[inline]
    pub(crate) fn cell(&mut self, want_bytes: u64, horizon: Horizon) -> Result<CellMemory<'_>, Shortage> {
        let span = match self.allocator.span(want_bytes, horizon) {
            Ok(span) => span,
            Err(shortage) => self.cell_slow(want_bytes, horizon, shortage)?,
        };
        if let Some(limit) = span.new_limit {
            if let Some(word) = self.region.look(layout::limit(span.segment)) {
                raise_limit(word, limit);
            }
        }
        // SAFETY: the allocator hands out each byte to one message at a time, inside of what is reserved; only this
        // handle, which is borrowed mutably, writes to the arena, and readers are kept away by the gate.
        unsafe {
            let start = self.region.base().add(layout::SEGMENTS + span.offset_bytes as usize);
            let header = core::slice::from_raw_parts(start.cast::<AtomicU64>(), HEADER_WORDS);
            let payload = core::slice::from_raw_parts_mut(
                start.add(HEADER_BYTES).cast::<MaybeUninit<u8>>(),
                span.len_bytes as usize - HEADER_BYTES,
            );
            Ok(CellMemory { span, header, payload })
        }
    }

    #[cold]
    fn cell_slow(&mut self, want: u64, horizon: Horizon, mut shortage: Shortage) -> Result<Span, Shortage> {
        loop {
            let Shortage::Grow { segment } = shortage else { return Err(shortage) };
            let geometry = self.allocator.geometry();
            let offset = layout::SEGMENTS as u64 + geometry.segment_base(segment);
            match reserve(self.region.file(), self.region.path(), offset, geometry.segment_bytes(segment)) {
                Ok(()) => self.allocator.grown(),
                // No memory to grow with: live with what there is, and wait for the readers.
                Err(_) => self.allocator.cannot_grow(),
            }
            match self.allocator.span(want, horizon) {
                Ok(span) => return Ok(span),
                Err(next) => shortage = next,
            }
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.allocator.geometry()
    }

    #[inline]
    pub(crate) fn commit(&mut self, used_bytes: u64) -> Block {
        self.allocator.commit(used_bytes)
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
        while let Some(segment) = self.allocator.drained(gate) {
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

    /// Are `len_bytes` from the cell on inside of the file?
    #[inline]
    fn covers(&mut self, offset_bytes: u64, len_bytes: u64) -> bool {
        let end = layout::SEGMENTS as u64 + offset_bytes + len_bytes;
        if end <= self.file_bytes {
            return true;
        }
        self.file_bytes = self.region.file_bytes().min(self.region.map_bytes() as u64);
        end <= self.file_bytes
    }

    /// Header words of a cell and, behind them, `len_bytes` of body as the header says. `None` if that leaves the file.
    #[inline]
    pub(crate) fn cell(
        &mut self,
        cell: u32,
        len_bytes: impl FnOnce(&[AtomicU64]) -> u64,
    ) -> Option<(&'static [AtomicU64], *const u8)> {
        let offset = u64::from(cell) << self.geometry.granule_shift;
        if !self.covers(offset, HEADER_BYTES as u64) {
            return None;
        }
        // SAFETY: the range is inside of the file and of the mapping; the subscriber that asks owns this view, and
        // keeps it for as long as it hands the words out.
        let header = unsafe { self.region.words(layout::SEGMENTS as u64 + offset, HEADER_WORDS) }.ok()?;
        if !self.covers(offset, HEADER_BYTES as u64 + len_bytes(header)) {
            return None;
        }
        // SAFETY: as above.
        let payload = unsafe { self.region.base().add(layout::SEGMENTS + offset as usize + HEADER_BYTES) };
        Some((header, payload.cast_const()))
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
