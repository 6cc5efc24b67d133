//! The rings under real threads: order, content and loss, with the gate moved by a reader. `ci/tsan` runs this under
//! ThreadSanitizer, which sees a payload that is read before it is published.
#![cfg(not(loom))]

use bus_core::gate::{Cursors, recompute};
use bus_core::group;
use bus_core::holder::{Holder, HolderWord};
use bus_core::layout::groups::state;
use bus_core::ring::{Poll, ReadAhead, Slot, mpmc, spsc};
use bus_core::sync::{AtomicU64, Ordering};
use std::cell::UnsafeCell;

const MESSAGES: u64 = if cfg!(miri) { 200 } else { 50_000 };
const CAPACITY: u32 = 64;

/// One group.
struct Table {
    generation: AtomicU64,
    used: AtomicU64,
    state: AtomicU64,
    low_water: AtomicU64,
}

impl Table {
    fn new() -> Self {
        let active = HolderWord { state: state::ACTIVE, holder: Holder::new(1, 1), tag: 1 };
        Self {
            generation: AtomicU64::new(0),
            used: AtomicU64::new(1),
            state: AtomicU64::new(active.pack()),
            low_water: AtomicU64::new(0),
        }
    }
}

impl Cursors for Table {
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

/// Payload memory without any ordering of its own: what makes reading it sound is the ring.
struct Plain(UnsafeCell<u64>);

// SAFETY: that is what the test is about. ThreadSanitizer reports an access that the ring does not order.
unsafe impl Sync for Plain {}

impl Plain {
    fn set(&self, value: u64) {
        // SAFETY: the producer owns the cell: nobody has it yet, or the gate has passed its last message.
        unsafe { *self.0.get() = value }
    }

    fn get(&self) -> u64 {
        // SAFETY: the slot names the cell, and the gate keeps it.
        unsafe { *self.0.get() }
    }
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn many_producers_and_a_reader_that_looks_ahead() {
    const PRODUCERS: usize = 3;
    const CELLS: usize = CAPACITY as usize;
    let slots = words(CAPACITY as usize);
    let cells: Vec<_> = (0..PRODUCERS * CELLS).map(|_| Plain(UnsafeCell::new(0))).collect();
    let (hint, gate, table) = (AtomicU64::new(0), AtomicU64::new(0), Table::new());
    let ring = mpmc::Ring::attach(&slots).expect("a power of two");
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (cells, hint, gate, table) = (&cells, &hint, &gate, &table);
            scope.spawn(move || {
                let mut cached_gate = 0;
                // Which message each cell carries: it is reused once the gate is beyond it.
                let mut carried = [None::<u64>; CELLS];
                for number in 0..MESSAGES {
                    let mine = number as usize % CELLS;
                    while carried[mine].is_some_and(|sequence| cached_gate <= sequence) {
                        std::thread::yield_now();
                        cached_gate = cached_gate.max(recompute(gate, table, ring.end(hint)));
                    }
                    let cell = producer * CELLS + mine;
                    cells[cell].set(number * 8 + producer as u64);
                    let name = mpmc::CellName { producer: producer as u16, cell: cell as u32 };
                    carried[mine] = loop {
                        let scan = |s| recompute(gate, table, s);
                        match ring.publish(hint, name, &mut cached_gate, scan, |_| {}) {
                            Ok(sequence) => break Some(sequence),
                            Err(mpmc::Refused::Full { .. }) => std::thread::yield_now(),
                            Err(other) => panic!("{other:?}"),
                        }
                    };
                }
            });
        }
        let mut ahead = ReadAhead::new(0, u64::from(CAPACITY), 8);
        let mut next = [0_u64; PRODUCERS];
        while next.iter().sum::<u64>() < PRODUCERS as u64 * MESSAGES {
            if ahead.poll(|s| ring.slot(s), || false) != Poll::Ready {
                std::thread::yield_now();
                continue;
            }
            let Slot::Filled(name) = ring.slot(ahead.next()) else { panic!("known to be there") };
            let value = cells[name.cell as usize].get();
            let producer = (value % 8) as usize;
            assert_eq!((producer, value / 8), (name.producer as usize, next[producer]));
            next[producer] += 1;
            group::acknowledge(&table.low_water, ahead.next() + 1);
            ahead.advance();
        }
    });
}

#[test]
fn one_producer_and_a_reader_that_looks_ahead() {
    let memory = words(spsc::Ring::footprint_bytes(CAPACITY, 32) as usize / 8);
    let (tail, gate, table) = (AtomicU64::new(0), AtomicU64::new(0), Table::new());
    let ring = spsc::Ring::attach(&memory, CAPACITY, 32).expect("fitting sizes");
    std::thread::scope(|scope| {
        let (tail, gate, table) = (&tail, &gate, &table);
        scope.spawn(move || {
            let mut cached_gate = 0;
            for sequence in 0..MESSAGES {
                while !ring.has_room(sequence, &mut cached_gate, |s| recompute(gate, table, s)) {
                    std::thread::yield_now();
                }
                let slot = ring.begin(sequence);
                for word in slot.body {
                    word.store(sequence * 3, Ordering::Relaxed);
                }
                slot.publish(tail);
            }
        });
        let mut ahead = ReadAhead::new(0, u64::from(CAPACITY), 1);
        while ahead.next() < MESSAGES {
            if ahead.poll(|s| ring.slot(s), || false) != Poll::Ready {
                std::thread::yield_now();
                continue;
            }
            let Slot::Filled(words) = ring.slot(ahead.next()) else { panic!("known to be there") };
            assert!(words[4..].iter().all(|word| word.load(Ordering::Relaxed) == ahead.next() * 3));
            group::acknowledge(&table.low_water, ahead.next() + 1);
            ahead.advance();
        }
    });
}
