//! Publishing by one compare-and-swap, and reading ahead.

use crate::{Payload, explore, explore_within, words};
use bus_core::ring::Slot;
use bus_core::ring::mpmc::{CellName, Ring};
use bus_core::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

/// A lane of two slots, and one cell for each of two producers.
struct Lane {
    slots: [AtomicU64; 2],
    hint: AtomicU64,
    cells: [Payload; 2],
}

impl Lane {
    fn new(hint: u64) -> Arc<Self> {
        let cells = [Payload::new(0), Payload::new(0)];
        Arc::new(Self { slots: words(), hint: AtomicU64::new(hint), cells })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::attach(&self.slots).unwrap()
    }

    /// Writes this producer's cell and publishes it.
    fn publish(&self, producer: u16) -> u64 {
        self.cells[producer as usize].write(10 + producer as u64);
        let name = CellName { producer, cell: producer as u32 };
        self.ring().publish(&self.hint, name, &mut 0, |_| 0, |_| {}).unwrap()
    }

    /// Looks at a slot; if it is filled, its cell must be visible. Returns the producer.
    fn look(&self, sequence: u64) -> Option<u16> {
        match self.ring().slot(sequence) {
            Slot::Filled(CellName { producer, cell }) => {
                assert_eq!(self.cells[cell as usize].read(), 10 + producer as u64, "cell not visible");
                Some(producer)
            }
            Slot::Empty => None,
            Slot::Lapped => panic!("overtaken in a lane that is not full"),
        }
    }

    /// A reader that looks ahead, and then takes what lies before without ordering of its own.
    fn read_ahead(&self) {
        if self.look(1).is_some() {
            let word = self.slots[0].load(Ordering::Relaxed);
            assert_ne!(word, 0, "a hole before a filled slot");
            let cell = word as usize & 1;
            assert_eq!(self.cells[cell].read(), 10 + cell as u64, "cell not visible");
        }
    }
}

/// Two producers of one message each, and a reader who looks ahead.
fn two_producers_and_a_reader(hint: u64) {
    let lane = Lane::new(hint);
    let producers: [_; 2] = std::array::from_fn(|producer| {
        let lane = lane.clone();
        thread::spawn(move || lane.publish(producer as u16))
    });
    lane.read_ahead();
    let mut sequences = producers.map(|producer| producer.join().unwrap());
    sequences.sort_unstable();
    assert_eq!(sequences, [0, 1]);
    assert_ne!(lane.look(0), lane.look(1));
    assert_eq!(lane.ring().end(&lane.hint), 2);
}

#[test]
fn publish_read() {
    explore(|| two_producers_and_a_reader(0));
}

/// Advice of any kind: one too far, and laps too far.
#[test]
fn publish_read_with_a_bad_hint() {
    explore_within(3, || two_producers_and_a_reader(1));
    explore_within(3, || two_producers_and_a_reader(7));
}

/// Who is told where the lane ends has everything before it in sight, though the hint is stored and loaded Relaxed.
fn look_at_the_end(end: fn(&Lane) -> u64) {
    let lane = Lane::new(0);
    let producer = {
        let lane = lane.clone();
        thread::spawn(move || {
            lane.publish(0);
            lane.publish(1);
        })
    };
    for sequence in 0..end(&lane) {
        assert!(lane.look(sequence).is_some(), "the end is beyond a slot that is not visible");
    }
    producer.join().unwrap();
}

#[test]
fn everything_before_the_end_is_visible() {
    explore(|| look_at_the_end(|lane| lane.ring().end(&lane.hint)));
}

#[test]
#[should_panic(expected = "the end is beyond a slot that is not visible")]
fn the_end_breaks_when_the_hint_is_believed() {
    explore(|| look_at_the_end(|lane| lane.hint.load(Ordering::Relaxed)));
}

/// The step of [`Ring::publish`] in small: publishes at `s` if the slot before it is filled.
fn publish_step(lane: &Lane, producer: u16, s: u64, predecessor: Ordering, swap: Ordering) {
    lane.cells[producer as usize].write(10 + producer as u64);
    if s > 0 && lane.slots[s as usize - 1].load(predecessor) == 0 {
        return;
    }
    let word = producer as u64 | (producer as u64) << 20 | 1 << 30;
    lane.slots[s as usize].compare_exchange(0, word, swap, Ordering::Relaxed).unwrap();
}

fn two_steps_and_a_reader(predecessor: Ordering, swap: Ordering) {
    let lane = Lane::new(0);
    let threads: [_; 2] = std::array::from_fn(|producer| {
        let lane = lane.clone();
        thread::spawn(move || publish_step(&lane, producer as u16, producer as u64, predecessor, swap))
    });
    lane.read_ahead();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn publish_step_holds() {
    explore(|| two_steps_and_a_reader(Ordering::Acquire, Ordering::AcqRel));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn publish_step_breaks_with_a_relaxed_predecessor() {
    explore(|| two_steps_and_a_reader(Ordering::Relaxed, Ordering::AcqRel));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn publish_step_breaks_with_a_relaxed_swap() {
    explore(|| two_steps_and_a_reader(Ordering::Acquire, Ordering::Relaxed));
}
