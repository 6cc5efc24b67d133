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

use crate::holder::HolderWord;
use crate::layout::groups::state;
use crate::limits::GROUPS_MAX;
use crate::seq::{earlier, later};
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

/// Computes the gate as of end `s` (everything before `s` is published), stores it, and returns it.
///
/// Never returns more than `s`, and never more than the cursor of any group whose join was complete before the call.
pub fn recompute(gate: &AtomicU64, table: &impl Cursors, s: u64) -> u64 {
    loop {
        // Acquire: pairs with the joiner's raise; the cursors that it put in place are visible.
        let generation = table.generation().load(Ordering::Acquire);
        let used = table.used().load(Ordering::Acquire).min(GROUPS_MAX as u64) as usize;
        let mut lowest = s;
        for entry in 0..used {
            let (Some(word), Some(low_water)) = (table.state(entry), table.low_water(entry)) else { break };
            // Acquire: pairs with the Release that made the entry ACTIVE.
            if state::holds_gate(HolderWord::unpack(word.load(Ordering::Acquire)).state) {
                // Acquire: pairs with the Release of an acknowledgement; what the consumer read is read.
                lowest = earlier(lowest, low_water.load(Ordering::Acquire));
            }
        }
        // AcqRel: Release so that whoever takes the gate over reuses memory only after the scan's acquires, Acquire
        // so that this producer inherits them from whoever moved it further.
        let stored = gate.fetch_max(lowest, Ordering::AcqRel);
        // JOIN-SCAN: pairs with the fence in `group::join`.
        fence(Ordering::SeqCst);
        if table.generation().load(Ordering::Acquire) == generation {
            return later(stored, lowest);
        }
    }
}
