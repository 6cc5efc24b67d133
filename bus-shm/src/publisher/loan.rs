//! Payload memory lent to the caller before it is published.
#![allow(unsafe_code)]

use super::{Failure, RawPublisher, gate_with_room};
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
        let stamp_ns = self.stamp_ns();
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
