//! Publishing in a lane of one producer: in place, lossily, and after a take-over.

use crate::{Payload, explore, words};
use bus_core::header::WRITING;
use bus_core::ring::Slot;
use bus_core::ring::spsc::Ring;
use bus_core::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

/// Two slots of one cache line, and what stands for their payload where a reader reads in place.
struct Lane {
    slots: [AtomicU64; 16],
    tail: AtomicU64,
    payloads: [Payload; 2],
    /// The producer's death, proven by means that order nothing.
    dead: AtomicU64,
}

impl Lane {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            slots: words(),
            tail: AtomicU64::new(0),
            payloads: [Payload::new(0), Payload::new(0)],
            dead: AtomicU64::new(0),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::attach(&self.slots, 2, 0).unwrap()
    }

    fn publish(&self, sequence: u64) {
        let ring = self.ring();
        let slot = ring.begin(sequence);
        self.payloads[sequence as usize].write(10 + sequence);
        slot.publish(&self.tail);
    }

    fn look(&self, sequence: u64) -> bool {
        match self.ring().slot(sequence) {
            Slot::Filled(_) => {
                assert_eq!(self.payloads[sequence as usize].read(), 10 + sequence, "payload not visible");
                true
            }
            Slot::Empty => false,
            Slot::Lapped => panic!("overtaken in a lane that is not full"),
        }
    }

    /// A reader that looks ahead, and then takes what lies before without ordering of its own.
    fn read_ahead(&self) {
        if self.look(1) {
            let publication = self.ring().slot_words(0)[0].load(Ordering::Relaxed);
            assert_eq!(publication, 1, "a hole before a filled slot");
            assert_eq!(self.payloads[0].read(), 10, "payload not visible");
        }
    }
}

#[test]
fn publish_read() {
    explore(|| {
        let lane = Lane::new();
        let producer = {
            let lane = lane.clone();
            thread::spawn(move || {
                lane.publish(0);
                lane.publish(1);
            })
        };
        lane.read_ahead();
        producer.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn publish_read_breaks_with_a_relaxed_publication() {
    explore(|| {
        let lane = Lane::new();
        let producer = {
            let lane = lane.clone();
            thread::spawn(move || {
                lane.payloads[0].write(10);
                lane.ring().slot_words(0)[0].store(1, Ordering::Relaxed);
            })
        };
        lane.look(0);
        producer.join().unwrap();
    });
}

/// The first producer publishes one message and dies; a successor, who knows that from outside, publishes another.
fn succession(end: fn(&Lane) -> u64) {
    let lane = Lane::new();
    let first = {
        let lane = lane.clone();
        thread::spawn(move || {
            lane.publish(0);
            lane.dead.store(1, Ordering::Relaxed);
        })
    };
    let successor = {
        let lane = lane.clone();
        thread::spawn(move || {
            if lane.dead.load(Ordering::Relaxed) == 1 && end(&lane) == 1 {
                lane.publish(1);
            }
        })
    };
    lane.read_ahead();
    first.join().unwrap();
    successor.join().unwrap();
}

#[test]
fn take_over() {
    explore(|| succession(|lane| lane.ring().end(&lane.tail)));
}

#[test]
#[should_panic(expected = "a hole before a filled slot")]
fn take_over_breaks_when_the_predecessor_is_not_looked_at() {
    explore(|| succession(|lane| lane.tail.load(Ordering::Relaxed)));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn take_over_breaks_when_the_predecessor_is_looked_at_relaxed() {
    explore(|| succession(|lane| lane.ring().slot_words(0)[0].load(Ordering::Relaxed)));
}

/// What the writer of a lossy lane does before it writes over a message.
#[derive(Clone, Copy)]
struct Overwrite {
    writing: bool,
    release: bool,
    acquire: bool,
}

const ALL: Overwrite = Overwrite { writing: true, release: true, acquire: true };

/// A ring of one slot, in which the second message overwrites the first.
fn lossy_ring(memory: &[AtomicU64; 8]) -> Ring<'_> {
    Ring::attach(memory, 1, 0).unwrap()
}

fn fill(body: &[AtomicU64], value: u64) {
    body[0].store(value, Ordering::Relaxed);
    body[1].store(value, Ordering::Relaxed);
}

/// A copy of both payload words that passed the check is of one message and of the right one.
fn copy(memory: &[AtomicU64; 8], still: impl Fn() -> bool) {
    let Slot::Filled(slot) = lossy_ring(memory).slot(0) else { return };
    let copied = (slot[4].load(Ordering::Relaxed), slot[5].load(Ordering::Relaxed));
    if still() {
        assert_eq!(copied, (1, 1), "torn copy");
    }
}

#[test]
fn lossy_copy() {
    explore(|| {
        let memory = Arc::new(words::<8>());
        let producer = {
            let memory = memory.clone();
            thread::spawn(move || {
                let (ring, tail) = (lossy_ring(&memory), AtomicU64::new(0));
                for sequence in 0..2 {
                    let slot = ring.begin(sequence);
                    fill(slot.body, sequence + 1);
                    slot.publish(&tail);
                }
            })
        };
        copy(&memory, || lossy_ring(&memory).still(0));
        producer.join().unwrap();
    });
}

fn lossy_copy_with(steps: Overwrite) {
    explore(move || {
        let memory = Arc::new(words::<8>());
        let producer = {
            let memory = memory.clone();
            thread::spawn(move || {
                for sequence in 0..2 {
                    if steps.writing {
                        memory[0].store(WRITING, Ordering::Relaxed);
                    }
                    if steps.release {
                        fence(Ordering::Release);
                    }
                    fill(&memory[4..], sequence + 1);
                    memory[0].store(sequence + 1, Ordering::Release);
                }
            })
        };
        copy(&memory, || {
            if steps.acquire {
                fence(Ordering::Acquire);
            }
            memory[0].load(Ordering::Relaxed) == 1
        });
        producer.join().unwrap();
    });
}

#[test]
fn lossy_copy_in_small_holds() {
    lossy_copy_with(ALL);
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_copy_breaks_without_invalidation() {
    lossy_copy_with(Overwrite { writing: false, ..ALL });
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_copy_breaks_without_the_writers_fence() {
    lossy_copy_with(Overwrite { release: false, ..ALL });
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_copy_breaks_without_the_readers_fence() {
    lossy_copy_with(Overwrite { acquire: false, ..ALL });
}
