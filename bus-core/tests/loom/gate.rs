//! The gate against groups that join and leave while producers scan, and the reuse of cells that it allows.

use crate::{Payload, explore, explore_within, words};
use bus_core::gate::{Cursors, recompute};
use bus_core::group::{LaneJoin, acknowledge, change, join, reserve};
use bus_core::holder::{Holder, HolderWord};
use bus_core::layout::groups::state;
use bus_core::ring::Slot;
use bus_core::ring::mpmc::{CellName, Ring};
use bus_core::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

/// A lane of two slots and a table of two groups. The message of sequence `q` says `100 + q` and lies in cell `q % 2`.
struct Lane {
    slots: [AtomicU64; 2],
    hint: AtomicU64,
    gate: AtomicU64,
    generation: AtomicU64,
    used: AtomicU64,
    states: [AtomicU64; 2],
    low_water: [AtomicU64; 2],
    cells: [Payload; 2],
}

/// The table with the entries that a model uses.
impl Cursors for Lane {
    fn generation(&self) -> &AtomicU64 {
        &self.generation
    }
    fn used(&self) -> &AtomicU64 {
        &self.used
    }
    fn state(&self, entry: usize) -> Option<&AtomicU64> {
        self.states.get(entry)
    }
    fn low_water(&self, entry: usize) -> Option<&AtomicU64> {
        self.low_water.get(entry)
    }
}

/// Finds out what may be overwritten, given that everything before a sequence is published.
trait Scan: Fn(&Lane, u64) -> u64 + Copy + Send + Sync + 'static {}
impl<F: Fn(&Lane, u64) -> u64 + Copy + Send + Sync + 'static> Scan for F {}
/// Joins as a group, wishing to start at the first message; returns where it starts.
trait Join: Fn(&Lane, usize) -> u64 + Copy + Send + Sync + 'static {}
impl<F: Fn(&Lane, usize) -> u64 + Copy + Send + Sync + 'static> Join for F {}

fn scan(lane: &Lane, s: u64) -> u64 {
    recompute(&lane.gate, lane, s)
}

/// What [`reserve`] has made of an entry before the models begin, to keep them small.
fn reserved(group: usize) -> HolderWord {
    HolderWord::unpack(0).next(state::JOINING, Holder::new(group as u16, 1))
}

fn join_at_0(lane: &Lane, group: usize) -> u64 {
    let mut lanes =
        [LaneJoin { gate: &lane.gate, low_water: &lane.low_water[group], wished: 0, start: u64::MAX }];
    assert!(join(&lane.states[group], reserved(group), &lane.generation, &mut lanes));
    lanes[0].start
}

/// The same by a group that had let go: it holds the gate from the first step on, at whatever cursor it finds.
fn rejoin_at_0(lane: &Lane, group: usize) -> u64 {
    let reserved = reserved(group);
    lane.low_water[group].store(1, Ordering::Relaxed);
    let restarting = change(&lane.states[group], reserved, reserved.with_state(state::RESTARTING)).unwrap();
    let mut lanes =
        [LaneJoin { gate: &lane.gate, low_water: &lane.low_water[group], wished: 0, start: u64::MAX }];
    assert!(join(&lane.states[group], restarting, &lane.generation, &mut lanes));
    lanes[0].start
}

fn leave(lane: &Lane, group: usize) {
    let seen = HolderWord::unpack(lane.states[group].load(Ordering::Relaxed));
    change(&lane.states[group], seen, seen.with_state(state::FREE)).unwrap();
}

impl Lane {
    /// A lane in which messages 0 and 1 are published and all entries are reserved.
    fn new(groups: u64) -> Arc<Self> {
        let lane = Self {
            slots: words(),
            hint: AtomicU64::new(0),
            gate: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            used: AtomicU64::new(groups),
            states: words(),
            // Left behind by groups that had the entries before: far ahead of everything.
            low_water: [AtomicU64::new(99), AtomicU64::new(99)],
            cells: [Payload::new(100), Payload::new(101)],
        };
        for index in 0..2 {
            assert!(lane.publish(index as u32, 0));
            let seen = HolderWord::unpack(0);
            let joining = reserve(&lane.states[index], seen, Holder::new(index as u16, 1));
            assert_eq!(joining, Some(reserved(index)));
        }
        Arc::new(lane)
    }

    fn ring(&self) -> Ring<'_> {
        Ring::attach(&self.slots).unwrap()
    }

    fn publish(&self, cell: u32, gate: u64) -> bool {
        self.ring()
            .publish(&self.hint, CellName { producer: 0, cell }, &mut gate.clone(), |_| gate, |_| {})
            .is_ok()
    }

    /// Publishes message `sequence` in the cell and the slot of the message two before it, if the gate allows it.
    fn overwrite(&self, sequence: u64, scan: impl Scan) -> bool {
        let gate = scan(self, sequence);
        let may = gate + 2 > sequence;
        if may {
            self.cells[sequence as usize % 2].write(100 + sequence);
            assert!(self.publish(sequence as u32 % 2, gate));
        }
        may
    }

    /// Reads what a group that begins at `start` has been promised: all there, each the right one.
    fn read_from(&self, start: u64) -> u64 {
        let mut next = start;
        loop {
            match self.ring().slot(next) {
                Slot::Filled(name) => {
                    assert_eq!(self.cells[name.cell as usize].read(), 100 + next, "another message's cell")
                }
                Slot::Empty => return next,
                Slot::Lapped => panic!("overwritten before it was read"),
            }
            next += 1;
        }
    }
}

/// One producer that would overwrite both messages, one group that joins.
fn producer_and_joiner(scan: impl Scan, join: impl Join) {
    let lane = Lane::new(1);
    let producer = {
        let lane = lane.clone();
        thread::spawn(move || lane.overwrite(2, scan) && lane.overwrite(3, scan))
    };
    let start = join(&lane, 0);
    lane.read_from(start);
    producer.join().unwrap();
    lane.read_from(start);
}

#[test]
fn join_while_a_producer_scans() {
    explore_within(3, || producer_and_joiner(scan, join_at_0));
}

#[test]
fn a_group_that_had_let_go_joins_while_a_producer_scans() {
    explore_within(3, || producer_and_joiner(scan, rejoin_at_0));
}

#[test]
fn join_read_acknowledge_and_leave_while_a_producer_scans() {
    explore_within(3, || {
        let lane = Lane::new(1);
        let producer = {
            let lane = lane.clone();
            thread::spawn(move || lane.overwrite(2, scan) && lane.overwrite(3, scan))
        };
        let mut next = join_at_0(&lane, 0);
        for _ in 0..2 {
            if let Slot::Filled(name) = lane.ring().slot(next) {
                assert_eq!(lane.cells[name.cell as usize].read(), 100 + next);
                next += 1;
                acknowledge(&lane.low_water[0], next);
            }
        }
        leave(&lane, 0);
        producer.join().unwrap();
    });
}

#[test]
fn two_join_while_a_producer_scans() {
    explore_within(2, || {
        let lane = Lane::new(2);
        let producer = {
            let lane = lane.clone();
            thread::spawn(move || lane.overwrite(2, scan))
        };
        let other = {
            let lane = lane.clone();
            thread::spawn(move || join_at_0(&lane, 1))
        };
        let start = join_at_0(&lane, 0);
        let other = other.join().unwrap();
        producer.join().unwrap();
        lane.read_from(start.min(other));
    });
}

/// Two producers, of which the first only scans, and the second, whose messages these are, overwrites.
fn two_producers_and_joiner(other_scan: impl Scan, scan: impl Scan) {
    let lane = Lane::new(1);
    let other = {
        let lane = lane.clone();
        thread::spawn(move || other_scan(&lane, 2))
    };
    let producer = {
        let lane = lane.clone();
        thread::spawn(move || lane.overwrite(2, scan))
    };
    let start = join_at_0(&lane, 0);
    lane.read_from(start);
    other.join().unwrap();
    producer.join().unwrap();
    lane.read_from(start);
}

#[test]
fn join_while_two_producers_scan() {
    explore_within(2, || two_producers_and_joiner(scan, scan));
}

/// The scan of a producer that takes over what others have stored in the gate word, which scans that were not confirmed
/// have raised too.
#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_when_the_gate_word_is_trusted() {
    explore_within(2, || {
        two_producers_and_joiner(scan, |lane, s| scan(lane, s).max(lane.gate.load(Ordering::Acquire)));
    });
}

/// [`recompute`] and [`join`] in small, with switches. STARTING, which only repair tells from ACTIVE, is left out.
#[derive(Clone, Copy)]
struct Steps {
    /// JOIN-SCAN's fence.
    fence: bool,
    /// The second look at the generation.
    second_look: bool,
    /// A scan returns what it found itself, not what lies in the gate word.
    own_result: bool,
    generation_load: Ordering,
    generation_raise: Ordering,
    state_load: Ordering,
}

const ALL: Steps = Steps {
    fence: true,
    second_look: true,
    own_result: true,
    generation_load: Ordering::Acquire,
    generation_raise: Ordering::AcqRel,
    state_load: Ordering::Acquire,
};

impl Steps {
    fn scan(self) -> impl Scan {
        move |lane: &Lane, s: u64| {
            loop {
                let generation = lane.generation.load(self.generation_load);
                let mut lowest = s;
                if HolderWord::unpack(lane.states[0].load(self.state_load)).state == state::ACTIVE {
                    lowest = lowest.min(lane.low_water[0].load(Ordering::Acquire));
                }
                let stored = lane.gate.fetch_max(lowest, Ordering::AcqRel);
                if self.fence {
                    fence(Ordering::SeqCst);
                }
                if !self.second_look || lane.generation.load(Ordering::Acquire) == generation {
                    return if self.own_result { lowest } else { lowest.max(stored) };
                }
            }
        }
    }

    fn join(self) -> impl Join {
        move |lane: &Lane, group: usize| {
            let reserved = reserved(group);
            lane.low_water[group].store(0, Ordering::Relaxed);
            change(&lane.states[group], reserved, reserved.with_state(state::ACTIVE)).unwrap();
            lane.generation.fetch_add(1, self.generation_raise);
            if self.fence {
                fence(Ordering::SeqCst);
            }
            let start = lane.gate.load(Ordering::Acquire);
            lane.low_water[group].fetch_max(start, Ordering::AcqRel);
            start
        }
    }
}

#[test]
fn join_in_small_holds() {
    explore_within(3, || producer_and_joiner(ALL.scan(), ALL.join()));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_with_acqrel_alone() {
    let steps = Steps { fence: false, ..ALL };
    explore(move || producer_and_joiner(steps.scan(), steps.join()));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_without_the_joiners_fence() {
    let steps = Steps { fence: false, ..ALL };
    explore(move || producer_and_joiner(scan, steps.join()));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_without_the_producers_fence() {
    let steps = Steps { fence: false, ..ALL };
    explore(move || producer_and_joiner(steps.scan(), join_at_0));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_without_a_second_look_at_the_generation() {
    let steps = Steps { second_look: false, ..ALL };
    explore(move || producer_and_joiner(steps.scan(), join_at_0));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_when_the_generation_is_loaded_relaxed() {
    let steps = Steps { generation_load: Ordering::Relaxed, ..ALL };
    explore(move || producer_and_joiner(steps.scan(), join_at_0));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_when_the_generation_is_raised_relaxed() {
    let steps = Steps { generation_raise: Ordering::Relaxed, ..ALL };
    explore(move || producer_and_joiner(scan, steps.join()));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn join_breaks_when_a_scan_returns_what_an_earlier_one_stored() {
    let steps = Steps { own_result: false, ..ALL };
    explore(move || producer_and_joiner(steps.scan(), join_at_0));
}

/// A group reads message 0 and leaves; the producer finds nobody and overwrites it.
fn leaving(swap: Ordering, scan: impl Scan) {
    let lane = Lane::new(1);
    join_at_0(&lane, 0);
    let reader = {
        let lane = lane.clone();
        thread::spawn(move || {
            assert_eq!(lane.cells[0].read(), 100);
            let word = &lane.states[0];
            if swap == Ordering::AcqRel {
                leave(&lane, 0);
            } else {
                word.compare_exchange(word.load(Ordering::Relaxed), 0, swap, Ordering::Relaxed).unwrap();
            }
        })
    };
    lane.overwrite(2, scan);
    reader.join().unwrap();
}

#[test]
fn a_group_that_leaves_has_read_what_is_overwritten() {
    explore(|| leaving(Ordering::AcqRel, scan));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn leaving_breaks_when_the_state_is_changed_relaxed() {
    explore(|| leaving(Ordering::Relaxed, scan));
}

/// JOIN-SCAN's fence would do for this pair too, so the copy has neither.
#[test]
#[should_panic(expected = "Causality violation")]
fn leaving_breaks_when_the_state_is_scanned_relaxed_and_without_a_fence() {
    let steps = Steps { state_load: Ordering::Relaxed, fence: false, ..ALL };
    explore(move || leaving(Ordering::AcqRel, steps.scan()));
}

/// One member hands its entry to the next: what it stored in it, whatever the ordering, is there.
fn hand_over(swap: Ordering) {
    let lane = Lane::new(1);
    join_at_0(&lane, 0);
    let first = {
        let lane = lane.clone();
        thread::spawn(move || {
            lane.low_water[0].store(1, Ordering::Relaxed);
            let seen = HolderWord::unpack(lane.states[0].load(Ordering::Relaxed));
            let held = seen.with_state(state::HELD);
            if swap == Ordering::AcqRel {
                change(&lane.states[0], seen, held).unwrap();
            } else {
                let word = &lane.states[0];
                word.compare_exchange(seen.pack(), held.pack(), swap, Ordering::Relaxed).unwrap();
            }
        })
    };
    let seen = HolderWord::unpack(lane.states[0].load(Ordering::Relaxed));
    if seen.state == state::HELD {
        change(&lane.states[0], seen, seen.next(state::ACTIVE, Holder::new(2, 1))).unwrap();
        assert_eq!(lane.low_water[0].load(Ordering::Relaxed), 1, "stale cursor");
    }
    first.join().unwrap();
}

#[test]
fn take_over_of_an_entry() {
    explore(|| hand_over(Ordering::AcqRel));
}

#[test]
#[should_panic(expected = "stale cursor")]
fn take_over_of_an_entry_breaks_when_it_is_changed_relaxed() {
    explore(|| hand_over(Ordering::Relaxed));
}

/// A group reads message 0 and acknowledges it; another producer scans; its own producer scans and reuses the cell.
fn reuse(acknowledge: fn(&AtomicU64, u64), scan: impl Scan) {
    let lane = Lane::new(1);
    join_at_0(&lane, 0);
    let reader = {
        let lane = lane.clone();
        thread::spawn(move || {
            assert_eq!(lane.cells[0].read(), 100);
            acknowledge(&lane.low_water[0], 1);
        })
    };
    let other = {
        let lane = lane.clone();
        thread::spawn(move || scan(&lane, 2))
    };
    lane.overwrite(2, scan);
    reader.join().unwrap();
    other.join().unwrap();
    lane.read_from(1);
}

#[test]
fn a_cell_is_reused_after_its_readers() {
    explore_within(3, || reuse(acknowledge, scan));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_cell_is_reused_too_early_when_the_acknowledgement_is_relaxed() {
    explore(|| reuse(|low_water, next| low_water.store(next, Ordering::Relaxed), scan));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_cell_is_reused_too_early_when_the_scan_is_relaxed() {
    explore(|| reuse(acknowledge, |lane, s| lane.low_water[0].load(Ordering::Relaxed).min(s)));
}

/// Reader, scanner and owner of the cell in a row: the gate word hands over what the scan has acquired.
fn reuse_through_the_word(raise: Ordering) {
    let lane = Lane::new(1);
    let reader = {
        let lane = lane.clone();
        thread::spawn(move || {
            assert_eq!(lane.cells[0].read(), 100);
            acknowledge(&lane.low_water[0], 1);
        })
    };
    let other = {
        let lane = lane.clone();
        thread::spawn(move || lane.gate.fetch_max(lane.low_water[0].load(Ordering::Acquire), raise))
    };
    if lane.gate.fetch_max(0, Ordering::AcqRel) == 1 {
        lane.cells[0].write(102);
    }
    reader.join().unwrap();
    other.join().unwrap();
}

#[test]
fn the_gate_word_hands_over_what_the_scan_acquired() {
    explore(|| reuse_through_the_word(Ordering::AcqRel));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_gate_word_hands_nothing_over_when_it_is_raised_relaxed() {
    explore(|| reuse_through_the_word(Ordering::Relaxed));
}
