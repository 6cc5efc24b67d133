//! Sleeping and waking: nobody sleeps while a message waits. A lost wake-up shows as a deadlock, which loom reports.
//!
//! `Barrier::Membarrier` is modelled by what it guarantees: the publisher's compiler fence is a full fence under loom,
//! because the sleeper's membarrier makes it one whenever a sleeper is about.

use crate::{explore, explore_within, words};
use bus_core::doorbell::{Barrier, Doorbell};
use bus_core::ring::Slot;
use bus_core::ring::mpmc::{CellName, Ring};
use bus_core::sync::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;

/// The kernel's part: compares and sleeps in one step, and wakes all who sleep at that moment.
struct Futex {
    asleep: Mutex<()>,
    woken: Condvar,
}

impl Futex {
    /// Sleeps if the word still has this value; true if it slept.
    fn wait(&self, word: &AtomicU32, value: u32) -> bool {
        let asleep = self.asleep.lock().unwrap();
        // The kernel compares under its lock and with full ordering.
        fence(Ordering::SeqCst);
        if word.load(Ordering::Relaxed) != value {
            return false;
        }
        drop(self.woken.wait(asleep).unwrap());
        true
    }

    fn wake(&self) {
        let _asleep = self.asleep.lock().unwrap();
        self.woken.notify_all();
    }
}

struct Topic {
    slots: [AtomicU64; 2],
    hint: AtomicU64,
    bell: AtomicU32,
    futex: Futex,
}

impl Topic {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            slots: words(),
            hint: AtomicU64::new(0),
            bell: AtomicU32::new(0),
            futex: Futex { asleep: Mutex::new(()), woken: Condvar::new() },
        })
    }

    fn bell(&self) -> Doorbell<'_> {
        Doorbell::attach(&self.bell)
    }

    fn is_published(&self, sequence: u64) -> bool {
        !matches!(Ring::attach(&self.slots).unwrap().slot(sequence), Slot::Empty)
    }

    fn publish(&self) {
        let ring = Ring::attach(&self.slots).unwrap();
        ring.publish(&self.hint, CellName { producer: 0, cell: 0 }, &mut 0, |_| 0, |_| {}).unwrap();
    }

    fn publish_and_ring(&self, barrier: Barrier) {
        self.publish();
        self.bell().ring(barrier, || self.futex.wake());
    }

    /// Sleeps until `sequence` is published. `barrier` stands for membarrier or a fence.
    fn wait_for(&self, sequence: u64, barrier: fn()) {
        'start: while !self.is_published(sequence) {
            let mut value = self.bell().arm();
            barrier();
            if self.is_published(sequence) {
                return;
            }
            while !self.futex.wait(&self.bell, value) {
                match self.bell().still_armed(value) {
                    Some(now) => value = now,
                    None => continue 'start,
                }
            }
        }
    }
}

fn full_fence() {
    fence(Ordering::SeqCst);
}

/// `SLEEPERS` wait for one message.
fn one_message<const SLEEPERS: usize>(sleeper: fn(), publish: fn(&Topic)) {
    let topic = Topic::new();
    let sleepers: [_; SLEEPERS] = std::array::from_fn(|_| {
        let topic = topic.clone();
        thread::spawn(move || topic.wait_for(0, sleeper))
    });
    publish(&topic);
    for sleeper in sleepers {
        sleeper.join().unwrap();
    }
}

#[test]
fn park_wake() {
    explore(|| one_message::<1>(full_fence, |topic| topic.publish_and_ring(Barrier::Fence)));
}

#[test]
fn park_wake_with_membarrier() {
    explore(|| one_message::<1>(full_fence, |topic| topic.publish_and_ring(Barrier::Membarrier)));
}

#[test]
fn park_wake_of_two_sleepers() {
    explore_within(2, || one_message::<2>(full_fence, |topic| topic.publish_and_ring(Barrier::Fence)));
}

/// A sleeper that wants two messages, one after the other, from one publisher.
fn two_messages(publish: fn(&Topic)) {
    let topic = Topic::new();
    let sleeper = {
        let topic = topic.clone();
        thread::spawn(move || {
            topic.wait_for(0, full_fence);
            topic.wait_for(1, full_fence);
        })
    };
    publish(&topic);
    publish(&topic);
    sleeper.join().unwrap();
}

#[test]
fn park_wake_twice() {
    explore_within(3, || two_messages(|topic| topic.publish_and_ring(Barrier::Fence)));
}

#[test]
fn park_wake_by_two_publishers() {
    explore_within(2, || {
        let topic = Topic::new();
        let publishers: [_; 2] = std::array::from_fn(|_| {
            let topic = topic.clone();
            thread::spawn(move || topic.publish_and_ring(Barrier::Fence))
        });
        topic.wait_for(1, full_fence);
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn park_wake_breaks_without_the_sleepers_fence() {
    explore(|| one_message::<1>(|| {}, |topic| topic.publish_and_ring(Barrier::Fence)));
}

/// Rings as [`Doorbell::ring`] does, without the fence before it.
fn ring_without_a_fence(topic: &Topic) {
    if topic.bell.load(Ordering::Relaxed) & 1 != 0 {
        topic.bell().ring(Barrier::Fence, || topic.futex.wake());
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn park_wake_breaks_without_the_publishers_fence() {
    explore(|| {
        one_message::<1>(full_fence, |topic| {
            topic.publish();
            ring_without_a_fence(topic);
        });
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn park_wake_breaks_when_the_wake_comes_before_the_epoch() {
    explore(|| {
        one_message::<1>(full_fence, |topic| {
            topic.publish();
            fence(Ordering::SeqCst);
            let seen = topic.bell.load(Ordering::Relaxed);
            if seen & 1 != 0 {
                topic.futex.wake();
                let _ = topic.bell.compare_exchange(
                    seen,
                    seen.wrapping_add(1 << 16) & !1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        });
    });
}

/// Clears the bell after the wake whatever it says by then.
fn publish_and_ring_blindly(topic: &Topic) {
    topic.publish();
    fence(Ordering::SeqCst);
    if topic.bell.load(Ordering::Relaxed) & 1 != 0 {
        topic.bell.fetch_add(1 << 16, Ordering::Relaxed);
        topic.futex.wake();
        topic.bell.fetch_and(!1, Ordering::Relaxed);
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn park_wake_breaks_when_the_bell_is_cleared_blindly() {
    explore_within(3, || two_messages(publish_and_ring_blindly));
}
