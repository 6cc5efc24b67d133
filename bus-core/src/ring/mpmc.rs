//! The ring of a lane that many producers may publish to: one word a slot, one atomic step to publish.
//!
//! ```text
//! bit   0..20   20..30     30..64
//!       cell    producer   lap (sequence / capacity + 1; 0 = never filled)
//! ```
//!
//! The message itself is written beforehand into a cell of the producer's own arena. The compare-and-swap that
//! puts the cell's name into the slot claims the sequence and publishes the message in the same step, so a
//! producer that stops or dies anywhere leaves either nothing or a whole message, and delays nobody.
//!
//! Vyukov's bounded queue and LMAX Disruptor claim a sequence first and fill the slot afterwards; a producer
//! stopped between the two blocks every reader, and no repair of that window is safe while the producer may go
//! on (the models in `tests/` show both). The price here is a second dependent cache miss for the reader.
//!
//! Ordering pairs (docs/memory-model.md lists them all):
//! - `PUBLISH` (AcqRel success of the CAS) with `OBSERVE` (Acquire load of a slot): publishes header and
//!   payload of the cell. Without it a reader sees the slot filled and the cell's old bytes.
//! - `OBSERVE` of the predecessor before the CAS: whoever sees sequence s has, through s's producer, also s-1, and
//!   so on. Without it reading ahead could see a slot filled whose predecessor's cell is not visible yet.

use super::Slot;
use crate::seq::distance;
use crate::sync::{AtomicU64, Ordering};

const CELL_BITS: u32 = 20;
const PRODUCER_BITS: u32 = 10;
const LAP_SHIFT: u32 = CELL_BITS + PRODUCER_BITS;
const LAP_MASK: u64 = (1 << (64 - LAP_SHIFT)) - 1;

/// Cells that a slot word can name.
pub const CELLS_MAX: u64 = 1 << CELL_BITS;

/// Where a message lies: a producer's arena and a cell in it, counted in granules of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellName {
    /// Producer entry of the topic, below 1,023.
    pub producer: u16,
    /// Granule at which the cell begins, below [`CELLS_MAX`].
    pub cell: u32,
}

/// Why a message could not be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All slots hold messages that some reliable group has not finished. Nothing was claimed.
    Full {
        /// The sequence that the message would have had.
        sequence: u64,
        /// The gate that it met.
        gate: u64,
    },
    /// The words contradict each other: somebody wrote to the region who should not have.
    Corrupt {
        /// The sequence at which the contradiction was met.
        sequence: u64,
    },
}

/// A view of the slots of one lane.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    slots: &'a [AtomicU64],
    capacity_log2: u32,
}

impl<'a> Ring<'a> {
    /// Bytes that a ring of `capacity` slots takes.
    pub const fn footprint_bytes(capacity: u32) -> u64 {
        capacity as u64 * 8
    }

    /// Views `slots`, whose number is a power of two, as a ring. `None` if it is not one.
    pub fn attach(slots: &'a [AtomicU64]) -> Option<Self> {
        slots.len().is_power_of_two().then(|| Self { slots, capacity_log2: slots.len().trailing_zeros() })
    }

    /// Number of slots.
    #[inline]
    pub fn capacity(&self) -> u64 {
        1 << self.capacity_log2
    }

    /// The word of the slot of `sequence`. To be looked at by [`Ring::slot`]; by itself it only tells that it has changed.
    #[inline]
    pub fn word(&self, sequence: u64) -> &'a AtomicU64 {
        &self.slots[sequence as usize & (self.slots.len() - 1)]
    }

    #[inline]
    fn lap(&self, sequence: u64) -> u64 {
        ((sequence >> self.capacity_log2) + 1) & LAP_MASK
    }

    /// How many laps `word` is ahead of the lap of `sequence`; negative: the slot is free for it.
    #[inline]
    fn laps_ahead(&self, word: u64, sequence: u64) -> i64 {
        let difference = (word >> LAP_SHIFT).wrapping_sub(self.lap(sequence)) & LAP_MASK;
        // Sign-extend from the width of the lap field.
        ((difference << LAP_SHIFT) as i64) >> LAP_SHIFT
    }

    /// What the slot of `sequence` holds for it.
    // Always: a call sends its result through memory.
    #[inline(always)]
    pub fn slot(&self, sequence: u64) -> Slot<CellName> {
        // OBSERVE: pairs with PUBLISH in `publish`; what the cell holds is visible after it.
        let word = self.word(sequence).load(Ordering::Acquire);
        match self.laps_ahead(word, sequence) {
            0 => Slot::Filled(CellName {
                producer: (word >> CELL_BITS) as u16 & ((1 << PRODUCER_BITS) - 1),
                cell: word as u32 & (CELLS_MAX as u32 - 1),
            }),
            ahead if ahead < 0 => Slot::Empty,
            _ => Slot::Lapped,
        }
    }

    /// What the slot of `s` holds if `s` is the lane's end and everything is as it nearly always is: this slot is one lap
    /// behind, and its predecessor is of its own.
    #[inline(always)]
    fn is_end(&self, s: u64) -> Option<u64> {
        // OBSERVE, of the slot and of its predecessor: the chain that reading ahead rests on.
        let seen = self.word(s).load(Ordering::Acquire);
        let before = s.wrapping_sub(1);
        let predecessor = self.word(before).load(Ordering::Acquire);
        (seen >> LAP_SHIFT == self.lap(s).wrapping_sub(1) & LAP_MASK
            && predecessor >> LAP_SHIFT == self.lap(before))
        .then_some(seen)
    }

    /// Is `s` the lane's end? If so, what its slot holds now, else where to look next.
    ///
    /// Slots alone decide, and in a lane that only publishers wrote each answer leads nearer to the end, from anywhere.
    fn look_for_end(&self, s: u64) -> Result<u64, u64> {
        // OBSERVE, as in `is_end`.
        let seen = self.word(s).load(Ordering::Acquire);
        let ahead = self.laps_ahead(seen, s);
        if ahead >= 0 {
            // Filled, or a lap and more further: the slot tells how far the lane has come at least.
            return Err(s.wrapping_add((ahead as u64) << self.capacity_log2).wrapping_add(1));
        }
        // A slot that was never filled is of lap 0, which is what the sequences before the first one have.
        let before = s.wrapping_sub(1);
        match self.laps_ahead(self.word(before).load(Ordering::Acquire), before) {
            0 if ahead == -1 => Ok(seen),
            // Overtaken between the two loads: what the predecessor's publisher saw here is visible now.
            0 => Err(s),
            // The lane is behind: `s` was bad advice. Whole laps can be skipped, the rest goes step by step.
            behind if behind < 0 && ahead < -1 => {
                Err(s.wrapping_sub((ahead.unsigned_abs() - 1) << self.capacity_log2))
            }
            behind if behind < 0 => Err(before),
            // Others have published a whole lap between the two loads.
            further => Err(s.wrapping_add((further as u64) << self.capacity_log2)),
        }
    }

    /// How many looks in a row may lead nowhere before the words must contradict each other. Honest ones lead to the end
    /// within two laps, and start again only when others publish a lap meanwhile.
    fn looks_max(&self) -> u64 {
        4 * self.capacity() + (1 << 16)
    }

    /// Publishes the message in `name` at the lane's end and returns its sequence.
    ///
    /// `hint` is advice about where the end is: it may be behind (its writer was stopped), and whatever it says costs
    /// time only. `cached_gate` is the caller's private copy of the gate; `recompute_gate(s)` makes it current when that
    /// copy does not leave room for `s`. `address(s)` is called before each attempt and writes the sequence into
    /// the cell's header.
    ///
    /// Lock-free: an attempt fails only when another producer has published.
    // Always: what a call saves and restores are stores, and the compare-and-swap waits for all that come before it.
    #[inline(always)]
    pub fn publish(
        &self,
        hint: &AtomicU64,
        name: CellName,
        cached_gate: &mut u64,
        recompute_gate: impl FnMut(u64) -> u64,
        mut address: impl FnMut(u64),
    ) -> Result<u64, Refused> {
        // Relaxed: only advice. What it advises is checked against the slots themselves.
        let s = hint.load(Ordering::Relaxed);
        if distance(s, *cached_gate) < self.slots.len() as i64
            && let Some(seen) = self.is_end(s)
            && self.place(s, seen, name, hint, &mut address)
        {
            return Ok(s);
        }
        self.publish_further(s, hint, name, cached_gate, recompute_gate, address)
    }

    /// The rest of [`Ring::publish`]: bad advice, no room by the caller's copy of the gate, or another producer was quicker.
    #[inline(never)]
    fn publish_further(
        &self,
        mut s: u64,
        hint: &AtomicU64,
        name: CellName,
        cached_gate: &mut u64,
        mut recompute_gate: impl FnMut(u64) -> u64,
        mut address: impl FnMut(u64),
    ) -> Result<u64, Refused> {
        let mut looks_count = 0;
        loop {
            let seen = match self.look_for_end(s) {
                Ok(seen) => seen,
                Err(_) if looks_count == self.looks_max() => return Err(Refused::Corrupt { sequence: s }),
                Err(next) => {
                    looks_count += 1;
                    s = next;
                    continue;
                }
            };
            if distance(s, *cached_gate) >= self.capacity() as i64 {
                *cached_gate = crate::seq::later(recompute_gate(s), *cached_gate);
                if distance(s, *cached_gate) >= self.capacity() as i64 {
                    return Err(Refused::Full { sequence: s, gate: *cached_gate });
                }
            }
            if self.place(s, seen, name, hint, &mut address) {
                return Ok(s);
            }
            looks_count = 0;
        }
    }

    /// Addresses the cell to `s`, then the one step that claims `s` and publishes `name` there. False: its slot no longer holds what
    /// was `seen`.
    #[inline(always)]
    fn place(
        &self,
        s: u64,
        seen: u64,
        name: CellName,
        hint: &AtomicU64,
        address: &mut impl FnMut(u64),
    ) -> bool {
        if !crate::is_broken("address_after_publish") {
            address(s);
        }
        let new = (name.cell as u64 & (CELLS_MAX - 1))
            | (name.producer as u64 & ((1 << PRODUCER_BITS) - 1)) << CELL_BITS
            | self.lap(s) << LAP_SHIFT;
        let word = self.word(s);
        let seen =
            if crate::is_broken("store_without_compare") { word.load(Ordering::Relaxed) } else { seen };
        // PUBLISH: Release publishes the cell, Acquire chains to the predecessor's producer. A failure
        // needs nothing: the word is loaded again.
        let placed = word.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if crate::is_broken("address_after_publish") {
            address(s);
        }
        if placed {
            // Relaxed: advice. A stopped producer may store it late and move it back.
            hint.store(s.wrapping_add(1), Ordering::Relaxed);
        }
        placed
    }

    /// The sequence that the next message will get, found from the advice in `hint`. Everything before it is published
    /// and visible to the caller. Stale when it returns if anybody publishes; without meaning if the words are corrupt.
    pub fn end(&self, hint: &AtomicU64) -> u64 {
        let mut s = hint.load(Ordering::Relaxed);
        for _ in 0..self.looks_max() {
            match self.look_for_end(s) {
                Ok(_) => break,
                Err(next) => s = next,
            }
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

    fn publish(ring: &Ring, hint: &AtomicU64, gate: &mut u64, truth: u64, cell: u32) -> Result<u64, Refused> {
        ring.publish(hint, CellName { producer: 3, cell }, gate, |_| truth, |_| {})
    }

    #[test]
    fn a_full_ring_refuses_and_takes_more_when_the_gate_moves() {
        let slots = words(8);
        let ring = Ring::attach(&slots).unwrap();
        let hint = AtomicU64::new(0);
        let mut gate = 0;
        for s in 0..8 {
            assert_eq!(publish(&ring, &hint, &mut gate, 0, s as u32), Ok(s));
        }
        assert_eq!(publish(&ring, &hint, &mut gate, 0, 9), Err(Refused::Full { sequence: 8, gate: 0 }));
        assert_eq!(publish(&ring, &hint, &mut gate, 1, 9), Ok(8));
        assert_eq!(ring.slot(8), Slot::Filled(CellName { producer: 3, cell: 9 }));
        assert_eq!(ring.slot(0), Slot::Lapped);
        assert_eq!(ring.slot(9), Slot::Empty);
    }

    #[test]
    fn a_hint_costs_time_only_whatever_it_says() {
        let slots = words(8);
        let ring = Ring::attach(&slots).unwrap();
        let hint = AtomicU64::new(0);
        let mut gate = 0;
        for s in 0..100 {
            assert_eq!(publish(&ring, &hint, &mut gate, s, 0), Ok(s));
        }
        hint.store(2, Ordering::Relaxed);
        assert_eq!(ring.end(&hint), 100);
        assert_eq!(publish(&ring, &hint, &mut gate, 100, 0), Ok(100));
        hint.store(104, Ordering::Relaxed);
        assert_eq!(publish(&ring, &hint, &mut gate, 101, 0), Ok(101), "a few ahead: it steps back");
        for (next, bad) in [5_000_000, 1 << 36, u64::MAX].into_iter().enumerate() {
            let next = 102 + next as u64;
            hint.store(bad, Ordering::Relaxed);
            assert_eq!(ring.end(&hint), next, "{bad}");
            assert_eq!(publish(&ring, &hint, &mut gate, next, 0), Ok(next), "{bad}");
        }
    }

    #[test]
    fn a_hint_ahead_of_a_lane_that_has_never_been_full() {
        let slots = words(8);
        let ring = Ring::attach(&slots).unwrap();
        for published in 0..8 {
            for bad in [published + 1, 7, 8, 9, 1_000_003, u64::MAX] {
                assert_eq!(ring.end(&AtomicU64::new(bad)), published, "{bad}");
            }
            let hint = AtomicU64::new(0);
            assert_eq!(publish(&ring, &hint, &mut 0, 0, 0), Ok(published));
        }
    }

    #[test]
    fn words_that_contradict_each_other_are_refused_and_hang_nobody() {
        let lap = |lap: u64| AtomicU64::new(lap << LAP_SHIFT);
        // The slot before the end is four laps further than the end itself.
        let slots = [lap(1), lap(1), lap(1), lap(1), lap(1), lap(1), lap(1), lap(6)];
        let ring = Ring::attach(&slots).unwrap();
        let hint = AtomicU64::new(8);
        assert!(matches!(publish(&ring, &hint, &mut 8, 8, 0), Err(Refused::Corrupt { .. })));
        ring.end(&hint);
        // Laps that are each ahead of the one before, all round.
        let third = LAP_MASK / 3;
        let slots =
            [lap(0), lap(third), lap(2 * third), lap(0), lap(third), lap(2 * third), lap(0), lap(third)];
        let ring = Ring::attach(&slots).unwrap();
        let hint = AtomicU64::new(1);
        assert!(matches!(publish(&ring, &hint, &mut 1, 1, 0), Err(Refused::Corrupt { .. })));
        ring.end(&hint);
    }

    #[test]
    fn a_gate_newer_than_the_tail_is_not_a_full_ring() {
        let slots = words(8);
        let ring = Ring::attach(&slots).unwrap();
        let hint = AtomicU64::new(0);
        let mut gate = 5;
        assert_eq!(publish(&ring, &hint, &mut gate, 5, 1), Ok(0));
    }

    proptest! {
        /// Against the obvious model: a queue of at most N unread messages.
        #[test]
        fn behaves_like_a_bounded_queue(steps in proptest::collection::vec(any::<u8>(), 1..400)) {
            let slots = words(16);
            let ring = Ring::attach(&slots).unwrap();
            let hint = AtomicU64::new(0);
            let (mut gate, mut read, mut written) = (0_u64, 0_u64, 0_u64);
            for step in steps {
                match step % 3 {
                    0 | 1 => {
                        let result = publish(&ring, &hint, &mut gate, read, (written % 97) as u32);
                        if written - read < 16 {
                            prop_assert_eq!(result, Ok(written));
                            written += 1;
                        } else {
                            prop_assert_eq!(result, Err(Refused::Full { sequence: written, gate: read }));
                        }
                    }
                    _ => {
                        let expected = if read < written {
                            Slot::Filled(CellName { producer: 3, cell: (read % 97) as u32 })
                        } else {
                            Slot::Empty
                        };
                        prop_assert_eq!(ring.slot(read), expected);
                        read += u64::from(read < written);
                    }
                }
                if step % 7 == 0 {
                    hint.store(hint.load(Ordering::Relaxed).saturating_sub(step as u64), Ordering::Relaxed);
                }
                prop_assert_eq!(ring.end(&hint), written);
            }
        }
    }
}
