//! Payload memory lent to the caller before it is published.
#![allow(unsafe_code)]

use super::{Failure, RawPublisher, gate_with_room, likely_bytes};
use crate::arena::{Cell, Draft, Source};
use crate::error::{FullOf, PublishError};
use crate::sys::clock::Clock;
use crate::sys::prefetch::{self, SLOTS_AHEAD};
use crate::topic::LaneRing;
use bus_core::header::{HEADER_BYTES, Header, flags};
use bus_core::layout::wake::state::is_closed;
use bus_core::ring::spsc;
use bus_core::seq::distance;
use bus_core::sync::{AtomicU64, Ordering};
use std::mem::MaybeUninit;
use std::time::Duration;

/// A payload that the caller fills in later. Memory of a file is never uninitialised, so there is nothing to write.
struct Blank(usize);

impl Source for Blank {
    const KIND: &'static str = "loan";
    const IS_EXACT: bool = true;

    fn least_bytes(&self) -> usize {
        self.0
    }

    fn fill(&self, memory: &mut [MaybeUninit<u8>]) -> Option<usize> {
        (memory.len() >= self.0).then_some(self.0)
    }

    fn measure(&self, _: usize) -> Option<usize> {
        Some(self.0)
    }
}

/// Payload memory in the bus, to be filled and published. It dereferences to the bytes, which hold whatever the memory
/// held before.
pub struct Loan<'p> {
    publisher: &'p mut RawPublisher,
    lane: usize,
    cell: Option<Cell>,
}

impl std::fmt::Debug for Loan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loan").field("len_bytes", &self.len()).finish_non_exhaustive()
    }
}

impl Loan<'_> {
    /// Publishes it, waiting for room up to the publisher's deadline. Returns the sequence.
    ///
    /// # Errors
    /// See [`super::Publisher::publish_to`].
    pub fn publish(mut self) -> Result<u64, PublishError> {
        let (lane, deadline) = (self.lane, self.publisher.deadline);
        if self.publisher.fork.is_child() || is_closed(self.publisher.state.load(Ordering::Relaxed)) {
            return Err(self.publisher.unusable(lane));
        }
        let Some(cell) = self.cell.take() else { unreachable!("a loan is published once") };
        let published = match self.publisher.lanes[lane].ring {
            LaneRing::Mpmc(_) => self.publisher.publish_cell(lane, &cell, deadline),
            LaneRing::Spsc(_) => self.publisher.publish_loaned_slot(lane, &cell, deadline),
        };
        let sequence = match published {
            Ok(sequence) => sequence,
            Err(failure) => return Err(self.publisher.failed(lane, deadline, failure)),
        };
        if self.publisher.is_guarded() {
            self.publisher.published(lane, sequence);
        }
        self.publisher.ring_bell();
        Ok(sequence)
    }
}

impl RawPublisher {
    pub(super) fn loan(&mut self, lane: usize, len_bytes: usize) -> Result<Loan<'_>, PublishError> {
        if lane >= self.lanes.len()
            || self.bus.is_forked()
            || self.state.load(Ordering::Relaxed) != self.expected_state
        {
            self.admit(lane, len_bytes)?;
        }
        let stamp_ns = self.clock.as_mut().map_or(0, Clock::now_ns);
        let (blank, max_bytes) = (Blank(len_bytes), self.max_bytes);
        let header = Header { stamp_ns, ..self.header };
        let arena = self.lanes[lane].arena.as_mut().filter(|_| len_bytes <= max_bytes);
        let cell = match arena.and_then(|arena| arena.write_here(&blank, len_bytes, max_bytes, header)) {
            Some(cell) => {
                self.lanes[lane].expected_bytes = len_bytes;
                Ok(cell)
            }
            None => self.write_cell(lane, &blank, stamp_ns, self.deadline),
        };
        match cell {
            Ok(cell) => Ok(Loan { publisher: self, lane, cell: Some(cell) }),
            Err(failure) => Err(self.failed(lane, self.deadline, failure)),
        }
    }

    fn publish_loaned_slot(&mut self, lane: usize, cell: &Cell, deadline: Duration) -> Result<u64, Failure> {
        let LaneRing::Spsc(ring) = self.lanes[lane].ring else { unreachable!("the caller has matched it") };
        let sequence = self.lanes[lane].next;
        let mut since = None;
        while !self.has_room(lane, sequence, |publisher, s| gate_with_room(&publisher.core, lane, s)) {
            if let Err(error) = self.wait_for_room(lane, FullOf::Ring, &mut since, deadline) {
                if let Some(arena) = &mut self.lanes[lane].arena {
                    arena.rollback(cell.block);
                }
                return Err(error);
            }
        }
        self.name_cell_in_slot(lane, ring, sequence, cell);
        Ok(sequence)
    }

    /// One producer: publishes a message that the next slot had no room for, or that there was no room for in the lane.
    #[inline(never)]
    pub(super) fn publish_slot_otherwise<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        stamp_ns: u64,
        deadline: Duration,
    ) -> Result<u64, Failure> {
        match self.publish_named_here(lane, source, stamp_ns) {
            Some(sequence) => Ok(sequence),
            None => self.publish_slot_slowly(lane, source, stamp_ns, deadline),
        }
    }

    /// Writes what is too long for a slot into the arena, where both have room right away, and publishes the slot that names it.
    #[inline]
    fn publish_named_here<S: Source>(&mut self, lane: usize, source: &S, stamp_ns: u64) -> Option<u64> {
        let max_bytes = self.max_bytes;
        let header = Header { stamp_ns, ..self.header };
        let this = &mut self.lanes[lane];
        let LaneRing::Spsc(ring) = this.ring else { return None };
        let sequence = this.next;
        let want = likely_bytes(source, this.expected_bytes);
        // Whoever has to look for room goes on from there.
        if want > max_bytes
            || S::EXTENSION_BYTES + want <= ring.inline_bytes()
            || distance(sequence, this.cached_gate) >= ring.capacity() as i64
        {
            return None;
        }
        let arena = this.arena.as_mut()?;
        let draft = arena.draft(source, want, max_bytes, header)?;
        prefetch::line_for_writing(ring.slot_address(sequence.wrapping_add(SLOTS_AHEAD)));
        name_in_slot(ring, sequence, &draft, this.hint);
        this.next = sequence.wrapping_add(1);
        // Back to the slot once messages fit again.
        this.expected_bytes = if draft.body_bytes <= ring.inline_bytes() { 0 } else { draft.len_bytes };
        arena.commit_published(draft.body_bytes, sequence);
        Some(sequence)
    }

    /// One producer: publishes a slot that names a cell.
    pub(super) fn name_cell_in_slot(
        &mut self,
        lane: usize,
        ring: spsc::Ring<'static>,
        sequence: u64,
        cell: &Cell,
    ) {
        let lane = &mut self.lanes[lane];
        name_in_slot(ring, sequence, &cell.draft, lane.hint);
        lane.next = sequence.wrapping_add(1);
        // Back to the slot once messages fit again.
        if cell.draft.body_bytes <= ring.inline_bytes() {
            lane.expected_bytes = 0;
        }
        if let Some(arena) = &mut lane.arena {
            arena.published(cell.block, sequence);
        }
    }
}

/// One producer: publishes as `sequence` a slot that names what was written into the arena.
#[inline]
fn name_in_slot(ring: spsc::Ring<'static>, sequence: u64, draft: &Draft, hint: &AtomicU64) {
    draft.address(sequence);
    let filled = Header::load(draft.header);
    let header = Header { flags: filled.flags | flags::ARENA, reference: u64::from(draft.cell), ..filled };
    let slot = ring.begin(sequence);
    header.store(slot.header);
    slot.publish(hint);
}

impl std::ops::Deref for Loan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let Some(cell) = &self.cell else { return &[] };
        // SAFETY: the cell's body follows its header for `len_bytes`; it is this publisher's alone until it is published,
        // and memory of a file is always initialised.
        unsafe {
            core::slice::from_raw_parts(
                cell.draft.header.as_ptr().cast::<u8>().add(HEADER_BYTES),
                cell.draft.len_bytes,
            )
        }
    }
}

impl std::ops::DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let Some(cell) = &self.cell else { return &mut [] };
        // SAFETY: as above; the loan is borrowed mutably.
        unsafe {
            core::slice::from_raw_parts_mut(
                cell.draft.header.as_ptr().cast::<u8>().cast_mut().add(HEADER_BYTES),
                cell.draft.len_bytes,
            )
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take()
            && let Some(arena) = &mut self.publisher.lanes[self.lane].arena
        {
            arena.rollback(cell.block);
        }
    }
}
