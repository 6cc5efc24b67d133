//! One consumer that waits on topics through a bell of its own. A lost wake-up shows as a deadlock, which loom reports.
//!
//! The ceiling on every sleep, which would hide a lost wake-up, is left out, as in `doorbell`.

use crate::{explore, explore_within, words};
use bus_core::doorbell::{Barrier, Doorbell};
use bus_core::listener::{Listener, Table, Ticket};
use bus_core::sync::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;

const TICKET: Ticket = Ticket { entry: 0, index: 0, tag: 1 };
const EPOCH: u32 = 1 << 16;
const ARMED: u32 = 1;

/// One topic, of which only the number of messages counts, and one listener.
struct Place {
    published: AtomicU64,
    bell: AtomicU32,
    used: AtomicU64,
    table: [AtomicU64; 1],
    top: AtomicU64,
    summary: [AtomicU64; 1],
    ready: [AtomicU64; 1],
    own_bell: AtomicU32,
    asleep: Mutex<()>,
    woken: Condvar,
}

/// What a broken variant leaves out or does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The topic's bell is disarmed before the bit is set.
    DisarmedFirst,
    /// No look at the topic after its bell was armed.
    NoLook,
    /// No look at the top word after the own bell was armed.
    NoLookAtTop,
    /// The table is joined after the look.
    JoinedLate,
    /// The bell is rung without Acquire before the table is read.
    RelaxedBell,
    /// Bits are taken before the top word is cleared.
    TakenUpwards,
}

impl Place {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            published: AtomicU64::new(0),
            bell: AtomicU32::new(0),
            used: AtomicU64::new(0),
            table: words(),
            top: AtomicU64::new(0),
            summary: words(),
            ready: words(),
            own_bell: AtomicU32::new(0),
            asleep: Mutex::new(()),
            woken: Condvar::new(),
        })
    }

    fn bell(&self) -> Doorbell<'_> {
        Doorbell::attach(&self.bell)
    }

    fn table(&self) -> Table<'_> {
        Table::attach(&self.used, &self.table)
    }

    fn listener(&self) -> Listener<'_> {
        Listener::attach(&self.top, &self.summary, &self.ready, Doorbell::attach(&self.own_bell))
    }

    fn publish(&self) {
        self.published.fetch_add(1, Ordering::Release);
    }

    fn wake(&self) -> bool {
        let _asleep = self.asleep.lock().unwrap();
        self.woken.notify_all();
        true
    }

    fn tell_listeners(&self) {
        for ticket in self.table().tickets() {
            self.listener().mark(usize::from(ticket.index));
            self.listener().ring(Barrier::Fence, || self.wake());
        }
    }

    fn publish_and_ring(&self, broken: Broken) {
        self.publish();
        match broken {
            Broken::DisarmedFirst => {
                fence(Ordering::SeqCst);
                let seen = self.bell.load(Ordering::Relaxed);
                let rung = seen.wrapping_add(EPOCH) & !ARMED;
                if seen & ARMED != 0
                    && self.bell.compare_exchange(seen, rung, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                {
                    self.tell_listeners();
                }
            }
            Broken::RelaxedBell => {
                fence(Ordering::SeqCst);
                let seen = self.bell.load(Ordering::Relaxed);
                let rung = seen.wrapping_add(EPOCH);
                if seen & ARMED != 0
                    && self.bell.compare_exchange(seen, rung, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                {
                    self.tell_listeners();
                    let _ =
                        self.bell.compare_exchange(rung, rung & !ARMED, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
            _ => _ = self.bell().ring(Barrier::Fence, || self.tell_listeners()),
        }
    }

    /// A publisher that dies while it rings, before it has told anybody.
    fn publish_and_die(&self, broken: Broken) {
        self.publish();
        fence(Ordering::SeqCst);
        let seen = self.bell.load(Ordering::Relaxed);
        if seen & ARMED != 0 {
            let armed = if broken == Broken::DisarmedFirst { 0 } else { ARMED };
            let rung = seen.wrapping_add(EPOCH) & !ARMED | armed;
            let _ = self.bell.compare_exchange(seen, rung, Ordering::Acquire, Ordering::Relaxed);
        }
    }

    /// The consumer: until it has got `count` messages.
    fn receive(&self, count: u64, broken: Broken) {
        if broken != Broken::JoinedLate {
            self.table().join(TICKET, |_| false);
        }
        let (mut got, mut is_resting) = (0, false);
        loop {
            self.take(broken, &mut is_resting);
            if !is_resting {
                got = got.max(self.published.load(Ordering::Acquire));
            }
            if got == count {
                return;
            }
            if !is_resting {
                self.bell().arm();
                fence(Ordering::SeqCst);
                if broken != Broken::NoLook && self.published.load(Ordering::Acquire) > got {
                    continue;
                }
                if broken == Broken::JoinedLate {
                    self.table().join(TICKET, |_| false);
                }
                is_resting = true;
            }
            self.sleep(broken);
        }
    }

    fn take(&self, broken: Broken, is_resting: &mut bool) {
        if broken == Broken::TakenUpwards {
            if self.ready[0].swap(0, Ordering::Acquire) != 0 {
                *is_resting = false;
            }
            self.summary[0].swap(0, Ordering::Acquire);
            self.top.swap(0, Ordering::Acquire);
        } else if self.listener().has_news() {
            self.listener().take(|_| *is_resting = false);
        }
    }

    fn sleep(&self, broken: Broken) {
        let own = self.listener().bell();
        let mut value = own.arm();
        fence(Ordering::SeqCst);
        if broken != Broken::NoLookAtTop && self.listener().has_news() {
            return;
        }
        loop {
            let asleep = self.asleep.lock().unwrap();
            fence(Ordering::SeqCst);
            if self.own_bell.load(Ordering::Relaxed) == value {
                drop(self.woken.wait(asleep).unwrap());
                return;
            }
            drop(asleep);
            match own.still_armed(value) {
                Some(now) => value = now,
                None => return,
            }
        }
    }
}

fn one_publisher(messages: u64, broken: Broken) {
    let place = Place::new();
    let consumer = {
        let place = place.clone();
        thread::spawn(move || place.receive(messages, broken))
    };
    for _ in 0..messages {
        place.publish_and_ring(broken);
    }
    consumer.join().unwrap();
}

/// One dies while it rings; the next one's message wakes for both.
fn after_a_death(broken: Broken) {
    let place = Place::new();
    let consumer = {
        let place = place.clone();
        thread::spawn(move || place.receive(2, broken))
    };
    place.publish_and_die(broken);
    place.publish_and_ring(broken);
    consumer.join().unwrap();
}

#[test]
fn one_message() {
    explore_within(3, || one_publisher(1, Broken::Nothing));
}

#[test]
fn two_messages() {
    explore_within(2, || one_publisher(2, Broken::Nothing));
}

#[test]
fn two_publishers() {
    explore_within(1, || {
        let place = Place::new();
        let publishers: [_; 2] = std::array::from_fn(|_| {
            let place = place.clone();
            thread::spawn(move || place.publish_and_ring(Broken::Nothing))
        });
        place.receive(2, Broken::Nothing);
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

#[test]
fn a_publisher_that_dies_while_it_rings() {
    explore_within(3, || after_a_death(Broken::Nothing));
}

#[test]
#[should_panic(expected = "deadlock")]
fn it_breaks_when_the_bell_is_disarmed_before_the_bit_is_set() {
    explore(|| after_a_death(Broken::DisarmedFirst));
}

#[test]
#[should_panic(expected = "deadlock")]
fn it_breaks_without_a_look_after_arming() {
    explore(|| one_publisher(1, Broken::NoLook));
}

#[test]
#[should_panic(expected = "deadlock")]
fn it_breaks_without_a_look_at_the_top_word() {
    explore(|| one_publisher(1, Broken::NoLookAtTop));
}

#[test]
#[should_panic(expected = "deadlock")]
fn it_breaks_when_the_table_is_joined_after_the_look() {
    explore(|| one_publisher(1, Broken::JoinedLate));
}

/// The ring for the first message ends an arming for the second, and has not seen who armed.
#[test]
#[should_panic(expected = "deadlock")]
fn it_breaks_when_the_bell_is_rung_relaxed() {
    explore(|| one_publisher(2, Broken::RelaxedBell));
}

#[test]
#[should_panic(expected = "deadlock")]
fn it_breaks_when_bits_are_taken_upwards() {
    explore(|| one_publisher(2, Broken::TakenUpwards));
}
