//! The gate: the lowest sequence of a lane that some reliable group has not finished.
//!
//! A producer may overwrite what lies below it. It is computed by producers, from the groups' cursors, when
//! their private copy leaves no room, so publishing costs the same however many groups listen.
//!
//! The danger is a group that joins while the scan runs. Generation and gate settle it together: the joiner
//! raises the generation after its cursor is in place and then reads the gate; the scan publishes its result in
//! the gate and then reads the generation again. Either the scan sees the new generation and starts
//! over, or its result is in the gate before the joiner reads it, and the joiner starts above it. This is Dekker's
//! pattern, so both sides need a full fence between their store and their load (`JOIN-SCAN`): with AcqRel alone
//! both can miss each other, and messages are overwritten that the joiner believes to be its own.
//!
//! A scan that starts over has raised the gate word already, perhaps above the group that it missed. So the word says
//! where a group may start, and never what may be overwritten: that is what a confirmed scan returns, to the producer
//! that ran it and to nobody else.

use crate::holder::HolderWord;
use crate::layout::groups::state;
use crate::limits::GROUPS_MAX;
use crate::sync::{AtomicU64, Ordering, fence};

/// What the scan reads of a topic's group table.
pub trait Cursors {
    /// Raised by every join, after its cursors are in place.
    fn generation(&self) -> &AtomicU64;
    /// Entries that have ever been used. Only grows; at most [`GROUPS_MAX`].
    fn used(&self) -> &AtomicU64;
    /// The state word of an entry, or `None` where the table ends.
    fn state(&self, entry: usize) -> Option<&AtomicU64>;
    /// `low_water` of an entry in the lane that is scanned.
    fn low_water(&self, entry: usize) -> Option<&AtomicU64>;
}

/// Scans that [`recompute`] tries before it gives up for this time. Each try but the first means that a group has joined
/// meanwhile; only a process that writes what it should not can keep that up.
const SCANS_MAX: usize = 64;

/// Computes the gate as of end `s` (everything before `s` is published), raises the gate word to it, and returns it.
///
/// Never returns more than `s`, and never more than the cursor of any group that has joined or is about to. Returns 0,
/// which releases nothing, if the table does not hold still.
pub fn recompute(gate: &AtomicU64, table: &impl Cursors, s: u64) -> u64 {
    for _ in 0..SCANS_MAX {
        // Acquire: pairs with the joiner's raise; the cursors that it put in place are visible.
        let generation = table.generation().load(Ordering::Acquire);
        let used = table.used().load(Ordering::Acquire).min(GROUPS_MAX as u64) as usize;
        let mut lowest = s;
        for entry in 0..used {
            let (Some(word), Some(low_water)) = (table.state(entry), table.low_water(entry)) else { break };
            // Acquire: pairs with the Release that made the entry ACTIVE.
            if state::holds_gate(HolderWord::unpack(word.load(Ordering::Acquire)).state) {
                // Acquire: pairs with the Release of an acknowledgement; what the consumer read is read.
                // A plain minimum, as in `fetch_max` below: a corrupt cursor beyond all sequences holds nothing back,
                // where a signed distance would let it through and spoil the gate for every group.
                lowest = lowest.min(low_water.load(Ordering::Acquire));
            }
        }
        // AcqRel: Release to a group that starts here. What others have stored is not returned: it may come from a scan
        // that missed a group, was not confirmed and is being repeated.
        gate.fetch_max(lowest, Ordering::AcqRel);
        // JOIN-SCAN: pairs with the fence in `group::join`.
        fence(Ordering::SeqCst);
        if table.generation().load(Ordering::Acquire) == generation {
            return lowest;
        }
    }
    0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::group::{LaneJoin, join, reserve};
    use crate::holder::Holder;
    use core::cell::Cell;

    /// Two entries, both free. When the scan has passed the first, a group joins there.
    struct JoinedDuringTheScan {
        gate: AtomicU64,
        generation: AtomicU64,
        used: AtomicU64,
        states: [AtomicU64; 2],
        low_water: [AtomicU64; 2],
        joined: Cell<bool>,
        /// Joins go on for ever.
        storm: bool,
    }

    impl JoinedDuringTheScan {
        fn new(storm: bool) -> Self {
            Self {
                gate: AtomicU64::new(0),
                generation: AtomicU64::new(0),
                used: AtomicU64::new(2),
                states: Default::default(),
                low_water: Default::default(),
                joined: Cell::new(false),
                storm,
            }
        }
    }

    impl Cursors for JoinedDuringTheScan {
        fn generation(&self) -> &AtomicU64 {
            &self.generation
        }
        fn used(&self) -> &AtomicU64 {
            &self.used
        }
        fn state(&self, entry: usize) -> Option<&AtomicU64> {
            if entry == 1 && !self.joined.replace(true) {
                let seen = HolderWord::unpack(self.states[0].load(Ordering::Relaxed));
                let reserved = reserve(&self.states[0], seen, Holder::new(1, 1)).unwrap();
                let lane = LaneJoin { gate: &self.gate, low_water: &self.low_water[0], wished: 5, start: 0 };
                let mut lanes = [lane];
                assert!(join(&self.states[0], reserved, &self.generation, &mut lanes));
                assert_eq!(lanes[0].start, 5, "the gate has not been raised yet");
            }
            if self.storm {
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
            self.states.get(entry)
        }
        fn low_water(&self, entry: usize) -> Option<&AtomicU64> {
            self.low_water.get(entry)
        }
    }

    #[test]
    fn what_an_unconfirmed_scan_has_stored_releases_nothing() {
        let table = JoinedDuringTheScan::new(false);
        assert_eq!(recompute(&table.gate, &table, 20), 5, "the scan that missed the group was repeated");
        assert_eq!(table.gate.load(Ordering::Relaxed), 20, "its result stays in the word");
        assert_eq!(recompute(&table.gate, &table, 20), 5, "and means nothing to the next scan either");
    }

    #[test]
    fn a_table_that_never_holds_still_releases_nothing_and_hangs_nobody() {
        let table = JoinedDuringTheScan::new(true);
        assert_eq!(recompute(&table.gate, &table, 20), 0);
    }

    #[test]
    fn a_corrupt_cursor_does_not_spoil_the_gate_of_the_others() {
        let table = JoinedDuringTheScan::new(false);
        assert_eq!(recompute(&table.gate, &table, 20), 5);
        table.low_water[0].store(1 << 63 | 7, Ordering::Relaxed);
        assert_eq!(recompute(&table.gate, &table, 30), 30);
        assert_eq!(table.gate.load(Ordering::Relaxed), 30);
    }
}
