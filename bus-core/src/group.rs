//! Groups of consumers: joining, acknowledging, leaving, taking over. Members write these words, producers read them.
//!
//! ```text
//!            join (1)       cursors in place (3)         start known (7)
//!   FREE ------------> JOINING ------------> STARTING ------------> ACTIVE --leave, ephemeral--> FREE
//!                         |                     |                    |  ^
//!                         +---- proof of death -+--> FREE            |  | take over: proof of death, or HELD
//!                                                                    |  |
//!              join           position saved           start known    |  |
//!   DETACHED ------> REJOINING -------------> RESTARTING ------------> ACTIVE
//!      ^                |                       ^  |                 |  |
//!      +-proof of death-+   ASTRAY ------join---+  |                 |  |
//!                             ^---- proof of death-+                 |  |
//!                                                                    +--+--leave, named--> HELD --let go--> DETACHED
//!                                                                    |
//!                                                                    +--evict--> EVICTED --its process says so, or dies--> FREE; DETACHED if named
//! ```
//!
//! Why STARTING: a joiner that dies after its cursors hold the gate, and before it has read the gate, leaves cursors that
//! may point at overwritten messages. Whoever inherited them would read those; so such an entry is freed. One that was
//! DETACHED goes astray: whoever joins it next reads the gate anew, begins where it stood, and is told what it missed.
//!
//! A named group that was let go while its member lives goes the same way once that member has said so: from DETACHED on it comes
//! back, by itself or by whoever joins it.
//!
//! STARTING, ACTIVE and HELD entries hold the gate. An evicted entry does not, and it is not handed to anybody else while
//! its process may still store to it: that store would land in the next owner's cursor.
//!
//! Every transition is one compare-and-swap on the word that was seen.

use crate::holder::{Holder, HolderWord};
use crate::layout::groups::state;
use crate::seq::later;
use crate::sync::{AtomicU64, Ordering, compiler_fence, fence};

/// Takes an entry, as it was `seen`, from FREE to JOINING, from DETACHED to REJOINING or from ASTRAY to RESTARTING, for `me`.
/// `None` if it is none of these, or somebody was quicker.
pub fn reserve(word: &AtomicU64, seen: HolderWord, me: Holder) -> Option<HolderWord> {
    let joining = match seen.state {
        state::FREE => state::JOINING,
        state::DETACHED => state::REJOINING,
        state::ASTRAY => state::RESTARTING,
        _ => return None,
    };
    change(word, seen, seen.next(joining, me))
}

/// One lane of a join: where the group would like to start.
pub struct LaneJoin<'a> {
    /// The lane's gate.
    pub gate: &'a AtomicU64,
    /// The group's cursor in this lane.
    pub low_water: &'a AtomicU64,
    /// Sequence wished for, at most the lane's end.
    pub wished: u64,
    /// Where it starts: `wished`, or the gate if that has gone further. Filled in by [`join`].
    pub start: u64,
}

/// Completes a join begun by [`reserve`]. Afterwards each lane's `start` is the first sequence that the group gets, and
/// nothing from there on is overwritten before the group has finished it.
///
/// Returns false if the entry was taken away meanwhile (its process was thought dead); then nothing was joined.
pub fn join(
    word: &AtomicU64,
    reserved: HolderWord,
    generation: &AtomicU64,
    lanes: &mut [LaneJoin<'_>],
) -> bool {
    start(word, reserved, generation, lanes).is_some_and(|starting| activate(word, starting))
}

/// The second half of [`join`]: what a successor is to find has been stored, and the group has a member.
pub fn activate(word: &AtomicU64, starting: HolderWord) -> bool {
    change(word, starting, starting.with_state(state::ACTIVE)).is_some()
}

/// The first half of [`join`]: each lane's `start` is known afterwards, and the group holds it. The word as it is then.
pub fn start(
    word: &AtomicU64,
    reserved: HolderWord,
    generation: &AtomicU64,
    lanes: &mut [LaneJoin<'_>],
) -> Option<HolderWord> {
    // FOLLOW: pairs with the Acquire fence of who follows a message. Whoever sees a cursor that is put here sees that the entry has
    // changed hands, and does not take it for the group's progress.
    fence(Ordering::Release);
    for lane in lanes.iter() {
        // Relaxed: the Release below publishes it, and nobody scans a JOINING entry.
        lane.low_water.store(lane.wished, Ordering::Relaxed);
    }
    // AcqRel: Release publishes the cursors to a scan that acquires this word.
    let starting = match reserved.state {
        // It holds the gate already, at a cursor that was good enough for that.
        state::RESTARTING => Some(reserved),
        _ => change(word, reserved, reserved.with_state(state::STARTING)),
    };
    let starting = starting?;
    // AcqRel: Release, so that a scan that sees the new generation sees the STARTING entry too.
    generation.fetch_add(1, Ordering::AcqRel);
    // JOIN-SCAN: pairs with the fence in `gate::recompute`.
    fence(Ordering::SeqCst);
    for lane in lanes.iter_mut() {
        lane.start = later(lane.wished, lane.gate.load(Ordering::Acquire));
        // Release: pairs with the scan's Acquire, like an acknowledgement. A maximum, not a store: the cursor of
        // an entry that holds the gate never goes back, whoever has stored to it meanwhile.
        lane.low_water.fetch_max(lane.start, Ordering::AcqRel);
    }
    Some(starting)
}

/// Changes a state word from exactly `from` to `to`. The one way in which any of these words changes.
pub fn change(word: &AtomicU64, from: HolderWord, to: HolderWord) -> Option<HolderWord> {
    // AcqRel: whoever takes an entry over sees what its last holder stored, and the other way round. Failure needs
    // nothing: the caller loads again if it cares.
    word.compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Relaxed).ok().map(|_| to)
}

/// Acknowledges everything before `next` in a group of one member. A batch is one call.
#[inline]
pub fn acknowledge(low_water: &AtomicU64, next: u64) {
    // Release: pairs with the scan's Acquire; what was read before it is no longer needed.
    low_water.store(next, Ordering::Release);
}

/// The word that says which message a one-member group was handed last: sequence + 1 in 56 bits (0: none yet), and how often
/// in 8 bits, saturating.
///
/// It is stored before each hand-out, repeated ones too, so a message that kills its consumer is counted; nobody else
/// counts, or one death would be counted by each who finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// One more than the sequence.
    pub end: u64,
    /// How often that message has been handed out in a row.
    pub times: u8,
}

impl Handed {
    const END_MASK: u64 = (1 << 56) - 1;

    /// The word as it lies in memory.
    #[inline]
    pub const fn pack(self) -> u64 {
        (self.end & Self::END_MASK) | (self.times as u64) << 56
    }

    /// Reads a word from memory.
    #[inline]
    pub const fn unpack(word: u64) -> Self {
        Self { end: word & Self::END_MASK, times: (word >> 56) as u8 }
    }

    /// The word that handing out `sequence` makes of this one.
    #[inline]
    pub const fn next(self, sequence: u64) -> Self {
        let end = sequence.wrapping_add(1) & Self::END_MASK;
        Self { end, times: if end == self.end { self.times.saturating_add(1) } else { 1 } }
    }
}

/// Records, before it is handed out, that a message is in hand.
#[inline]
pub fn hand_out(handed: &AtomicU64, next: Handed) {
    // Release: a successor that acquires it after proof of death knows what was in doubt.
    handed.store(next.pack(), Ordering::Release);
    // Before whatever the program does with the message, which may kill it: a Release store alone keeps nothing behind it. Only for the
    // compiler; what a process has stored is there when it is dead.
    compiler_fence(Ordering::SeqCst);
}

/// Records that everything before `marked` has been handed out before, at a take-over and before messages come again. From
/// then on the word that says what is in hand may go back without marks getting lost.
pub fn mark(word: &AtomicU64, marked: u64) -> u64 {
    // AcqRel: for the next successor, like the word of what is in hand.
    word.fetch_max(marked, Ordering::AcqRel).max(marked)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::gate::{Cursors, recompute};

    struct One {
        generation: AtomicU64,
        used: AtomicU64,
        state: AtomicU64,
        low_water: AtomicU64,
    }

    impl Cursors for One {
        fn generation(&self) -> &AtomicU64 {
            &self.generation
        }
        fn used(&self) -> &AtomicU64 {
            &self.used
        }
        fn state(&self, entry: usize) -> Option<&AtomicU64> {
            (entry == 0).then_some(&self.state)
        }
        fn low_water(&self, entry: usize) -> Option<&AtomicU64> {
            (entry == 0).then_some(&self.low_water)
        }
    }

    fn table() -> One {
        One {
            generation: AtomicU64::new(0),
            used: AtomicU64::new(1),
            state: AtomicU64::new(0),
            low_water: AtomicU64::new(0),
        }
    }

    const ME: Holder = Holder { participant: 4, incarnation: 9 };

    fn take(word: &AtomicU64) -> Option<HolderWord> {
        reserve(word, HolderWord::unpack(word.load(Ordering::Relaxed)), ME)
    }

    #[test]
    fn a_group_that_joins_below_the_gate_starts_at_the_gate() {
        let table = table();
        let gate = AtomicU64::new(0);
        assert_eq!(recompute(&gate, &table, 20), 20, "no group: everything published may go");
        let reserved = take(&table.state).unwrap();
        assert!(take(&table.state).is_none(), "taken");
        let mut lanes = [LaneJoin { gate: &gate, low_water: &table.low_water, wished: 5, start: 0 }];
        assert!(join(&table.state, reserved, &table.generation, &mut lanes));
        assert_eq!(lanes[0].start, 20);
        assert_eq!(recompute(&gate, &table, 30), 20);
        acknowledge(&table.low_water, 25);
        assert_eq!(recompute(&gate, &table, 30), 25);
    }

    #[test]
    fn states_that_hold_the_gate_and_states_that_do_not() {
        for (value, holds) in [
            (state::FREE, false),
            (state::JOINING, false),
            (state::ACTIVE, true),
            (state::HELD, true),
            (state::DETACHED, false),
            (state::EVICTED, false),
            (state::STARTING, true),
            (state::REJOINING, false),
            (state::RESTARTING, true),
            (state::ASTRAY, false),
        ] {
            let table = table();
            let gate = AtomicU64::new(0);
            table.low_water.store(3, Ordering::Relaxed);
            table.state.store(HolderWord { state: value, holder: ME, tag: 1 }.pack(), Ordering::Relaxed);
            assert_eq!(recompute(&gate, &table, 10), if holds { 3 } else { 10 }, "state {value}");
        }
    }

    #[test]
    fn a_join_whose_process_was_thought_dead_changes_nothing() {
        let table = table();
        let reserved = take(&table.state).unwrap();
        assert!(change(&table.state, reserved, reserved.with_state(state::FREE)).is_some(), "repair");
        assert!(!join(&table.state, reserved, &table.generation, &mut []));
        assert_eq!(HolderWord::unpack(table.state.load(Ordering::Relaxed)).state, state::FREE);
    }

    #[test]
    fn each_hand_out_is_counted_once_and_marks_do_not_get_lost() {
        let (handed, marked) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut now = Handed::unpack(0);
        for (sequence, times) in [(7, 1), (7, 2), (8, 1), (7, 1)] {
            now = now.next(sequence);
            hand_out(&handed, now);
            assert_eq!(Handed::unpack(handed.load(Ordering::Relaxed)), Handed { end: sequence + 1, times });
        }
        assert_eq!(mark(&marked, 9), 9);
        assert_eq!(mark(&marked, 8), 9);
        let full = Handed { end: Handed::END_MASK, times: 255 };
        assert_eq!(Handed::unpack(full.pack()), full);
        assert_eq!(full.next(Handed::END_MASK - 1).times, 255);
    }

    #[test]
    fn a_group_that_let_go_and_whose_joiner_dies_has_still_let_go() {
        let table = table();
        let (gate, dead) = (AtomicU64::new(7), Holder { participant: 3, incarnation: 1 });
        let detached = HolderWord { state: state::DETACHED, holder: dead, tag: 3 };
        table.state.store(detached.pack(), Ordering::Relaxed);
        assert!(reserve(&table.state, detached.with_state(state::FREE), ME).is_none(), "not what was seen");
        let rejoining = take(&table.state).unwrap();
        assert!(rejoining.state == state::REJOINING && take(&table.state).is_none());
        let restarting = change(&table.state, rejoining, rejoining.with_state(state::RESTARTING)).unwrap();
        assert!(change(&table.state, restarting, restarting.with_state(state::ASTRAY)).is_some(), "repair");
        let mut lanes = [LaneJoin { gate: &gate, low_water: &table.low_water, wished: 5, start: 0 }];
        assert!(!join(&table.state, restarting, &table.generation, &mut lanes), "too late");
        let again = take(&table.state).unwrap();
        assert_eq!(again.state, state::RESTARTING);
        assert!(join(&table.state, again, &table.generation, &mut lanes));
        assert_eq!((lanes[0].start, table.low_water.load(Ordering::Relaxed)), (7, 7));
        assert_eq!(HolderWord::unpack(table.state.load(Ordering::Relaxed)).state, state::ACTIVE);
    }

    #[test]
    fn a_joiner_that_died_before_its_start_was_known_is_freed_not_inherited() {
        let table = table();
        let reserved = take(&table.state).unwrap();
        let starting = change(&table.state, reserved, reserved.with_state(state::STARTING)).unwrap();
        assert!(state::holds_gate(starting.state));
        assert!(take(&table.state).is_none());
        assert!(change(&table.state, starting, starting.with_state(state::FREE)).is_some());
        assert!(take(&table.state).is_some());
    }
}
