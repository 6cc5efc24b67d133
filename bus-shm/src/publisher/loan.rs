//! Payload memory lent to the caller before it is published.
#![allow(unsafe_code)]

use super::{Failure, RawPublisher, begun_ns};
use crate::arena::{Cell, Source};
use crate::error::{FullOf, PublishError};
use crate::topic::LaneRing;
use bus_core::header::{HEADER_BYTES, Header};
use bus_core::layout::wake::state::is_closed;
use bus_core::sync::Ordering;
use std::mem::MaybeUninit;
use std::time::Duration;

/// A payload that the caller fills in later. Memory of a file is never uninitialised, so there is nothing to write.
#[derive(Clone, Copy)]
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
    // Always, as `loan`: on its way from there to here it stays in registers.
    #[inline(always)]
    pub fn publish(mut self) -> Result<u64, PublishError> {
        let Some(cell) = self.cell.take() else { unreachable!("a loan is published once") };
        Ok(self.publisher.publish_loaned(self.lane, cell)?)
    }
}

impl RawPublisher {
    #[inline(always)]
    pub(super) fn loan(&mut self, lane: usize, len_bytes: usize) -> Result<Loan<'_>, PublishError> {
        let cell = match self.cut_off_here(lane, len_bytes) {
            Some(cell) => cell,
            None => self.cut_off_otherwise(lane, len_bytes)?,
        };
        Ok(Loan { publisher: self, lane, cell: Some(cell) })
    }

    /// Memory for a loan, where nothing is in the way and the arena has room right away.
    #[inline(always)]
    fn cut_off_here(&mut self, lane: usize, len_bytes: usize) -> Option<Cell> {
        if !self.is_free_to_publish(lane) || len_bytes > self.max_bytes {
            return None;
        }
        let (stamp_ns, max_bytes) = (begun_ns(&mut self.clock), self.max_bytes);
        let header = Header { stamp_ns, ..self.header };
        let this = &mut self.lanes[lane];
        let cell = this.arena.as_mut()?.write_here(&Blank(len_bytes), len_bytes, max_bytes, header)?;
        this.expected_bytes = len_bytes;
        Some(cell)
    }

    /// The same in all cases.
    #[inline(never)]
    fn cut_off_otherwise(&mut self, lane: usize, len_bytes: usize) -> Result<Cell, Failure> {
        if !self.is_free_to_publish(lane) {
            self.admit(lane, len_bytes)?;
        }
        self.look_for_registration();
        let stamp_ns = begun_ns(&mut self.clock);
        let cell = self.write_cell(lane, &Blank(len_bytes), stamp_ns, self.deadline);
        cell.map_err(|failure| self.failed(lane, self.deadline, failure).into())
    }

    #[inline(always)]
    fn publish_loaned(&mut self, lane: usize, cell: Cell) -> Result<u64, Failure> {
        if self.is_free_to_publish(lane)
            && let Some(sequence) = self.publish_loaned_here(lane, &cell)
        {
            self.ring_bell();
            return Ok(sequence);
        }
        self.publish_loaned_otherwise(lane, cell)
    }

    /// Publishes what was lent where the lane has room right away.
    #[inline(always)]
    fn publish_loaned_here(&mut self, lane: usize, cell: &Cell) -> Option<u64> {
        let this = &mut self.lanes[lane];
        match this.ring {
            LaneRing::Spsc(ring) => {
                let sequence = this.next;
                if !ring.has_room_at(sequence, this.cached_gate) {
                    return None;
                }
                self.name_cell_in_slot(lane, ring, sequence, cell);
                Some(sequence)
            }
            LaneRing::Mpmc(_) => self.publish_cell_here(lane, cell, false).ok(),
        }
    }

    /// The same in all cases. What cannot be published is given back to the arena.
    #[inline(never)]
    fn publish_loaned_otherwise(&mut self, lane: usize, cell: Cell) -> Result<u64, Failure> {
        let deadline = self.deadline;
        if self.fork.is_child() || is_closed(self.state.load(Ordering::Relaxed)) {
            self.roll_back(lane, &cell);
            return Err(self.unusable(lane).into());
        }
        let published = match self.lanes[lane].ring {
            LaneRing::Mpmc(_) => self.publish_cell(lane, &cell, deadline),
            LaneRing::Spsc(_) => self.publish_loaned_slot(lane, &cell, deadline),
        };
        let sequence = published.map_err(|failure| self.failed(lane, deadline, failure))?;
        if self.is_guarded() {
            self.published(lane, sequence);
        }
        self.ring_bell();
        Ok(sequence)
    }

    fn publish_loaned_slot(&mut self, lane: usize, cell: &Cell, deadline: Duration) -> Result<u64, Failure> {
        let LaneRing::Spsc(ring) = self.lanes[lane].ring else { unreachable!("the caller has matched it") };
        let sequence = self.lanes[lane].next;
        let mut since = None;
        while !self.has_room_in(ring, lane, sequence) {
            if let Err(error) = self.wait_for_room(lane, FullOf::Ring, &mut since, deadline) {
                self.roll_back(lane, cell);
                return Err(error);
            }
        }
        self.name_cell_in_slot(lane, ring, sequence, cell);
        Ok(sequence)
    }

    /// What was cut off is not published.
    pub(super) fn roll_back(&mut self, lane: usize, cell: &Cell) {
        if let Some(arena) = &mut self.lanes[lane].arena {
            arena.rollback(cell.block);
        }
    }
}

impl std::ops::Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
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
    #[inline]
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
    #[inline]
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            self.publisher.roll_back(self.lane, &cell);
        }
    }
}
