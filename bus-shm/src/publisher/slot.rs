//! Publishing in a lane of one producer: into the slot itself, or into the arena with a slot that names the cell.
#![allow(unsafe_code)]

use super::{Failure, RawPublisher, begun_ns, gate_with_room, likely_bytes};
use crate::arena::{Cell, Draft, Source};
use crate::error::FullOf;
use crate::sys::prefetch::{self, SLOTS_AHEAD};
use crate::sys::store::two_words;
use crate::topic::LaneRing;
use bus_core::header::{HEADER_WORDS, Header, flags};
use bus_core::layout::EXTENSION_BYTES;
use bus_core::ring::spsc;
use bus_core::sync::{AtomicU64, Ordering};
use std::mem::MaybeUninit;
use std::time::Duration;

impl RawPublisher {
    /// One producer: writes into the next slot where the lane has room right away and the message fits, which is nearly always. Without
    /// a stamp its publication begins now.
    #[inline(always)]
    pub(super) fn publish_slot_here<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        stamp_ns: Option<u64>,
    ) -> Option<u64> {
        let max_bytes = self.max_bytes;
        let this = &mut self.lanes[lane];
        let LaneRing::Spsc(ring) = &this.ring else { return None };
        let sequence = this.next;
        let want = likely_bytes(source, this.expected_bytes);
        if S::EXTENSION_BYTES + want > ring.inline_bytes()
            || want > max_bytes
            || !ring.has_room_at(sequence, this.cached_gate)
        {
            return None;
        }
        let stamp_ns = stamp_ns.unwrap_or_else(|| begun_ns(&mut self.clock));
        // Stores leave the core in order, and wait for lines that their reader has; asked for early, those come together.
        let ahead = ring.slot_address(sequence.wrapping_add(SLOTS_AHEAD));
        prefetch::for_writing(ahead);
        let slot = ring.begin(sequence);
        let body = &slot.body[S::EXTENSION_BYTES / 8..];
        // SAFETY: the slot is marked WRITING and lies above the gate, so no reader looks at its body; this handle is
        // the lane's only producer. The words are atomics, that is, interior mutable memory.
        let memory = unsafe {
            core::slice::from_raw_parts_mut(
                body.as_ptr().cast_mut().cast::<MaybeUninit<u8>>(),
                size_of_val(body),
            )
        };
        // What does not fit stays in WRITING, which readers take for not yet published.
        let len_bytes = source.fill(memory).filter(|&len| len <= max_bytes)?;
        if let Some(extension) = source.extension() {
            let block: [u64; EXTENSION_BYTES / 8] = bytemuck::cast(*extension);
            for (word, value) in slot.body.iter().zip(block) {
                word.store(value, Ordering::Relaxed);
            }
        }
        // Put together here: before, its parts would have to be kept somewhere while the payload is written.
        store_header(Header { len_bytes: len_bytes as u32, stamp_ns, ..self.header }, slot.header);
        slot.publish(this.hint);
        this.next = sequence.wrapping_add(1);
        Some(sequence)
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
            || !ring.has_room_at(sequence, this.cached_gate)
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

    /// The same with everything that may have to happen first: waiting for room, and the arena for what does not fit.
    #[cold]
    #[inline(never)]
    fn publish_slot_slowly<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        stamp_ns: u64,
        deadline: Duration,
    ) -> Result<u64, Failure> {
        let LaneRing::Spsc(ring) = self.lanes[lane].ring else { unreachable!("the caller has matched it") };
        let sequence = self.lanes[lane].next;
        let mut since = None;
        while !self.has_room_in(ring, lane, sequence) {
            self.wait_for_room(lane, FullOf::Ring, &mut since, deadline)?;
        }
        // It may have been room that was missing before. What cannot fit is refused at once.
        if let Some(sequence) = self.publish_slot_here(lane, source, Some(stamp_ns)) {
            return Ok(sequence);
        }
        let cell = self.write_cell(lane, source, stamp_ns, deadline)?;
        self.name_cell_in_slot(lane, ring, sequence, &cell);
        Ok(sequence)
    }

    /// One producer: is there room, if need be by the groups' cursors?
    pub(super) fn has_room_in(&mut self, ring: spsc::Ring<'static>, lane: usize, sequence: u64) -> bool {
        let (core, this) = (&self.core, &mut self.lanes[lane]);
        ring.has_room(sequence, &mut this.cached_gate, |s| gate_with_room(core, lane, s))
    }

    /// One producer: publishes a slot that names a cell.
    #[inline]
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
    store_header(header, slot.header);
    slot.publish(hint);
}

/// [`Header::store`] in two stores instead of three.
#[inline(always)]
fn store_header(header: Header, words: &[AtomicU64; HEADER_WORDS]) {
    let [_, description, rest @ ..] = words;
    description.store(header.description(), Ordering::Relaxed);
    // SAFETY: as for the payload, the slot is marked WRITING and lies above the gate, so that nobody but a lossy reader looks at these words,
    // which looks a second time; they are atomics, that is, interior mutable memory.
    unsafe { two_words(rest.as_ptr().cast_mut().cast(), header.stamp_ns, header.reference) };
}
