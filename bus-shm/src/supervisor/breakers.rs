//! Breakers that are not closed, as the holder of the role looks after them: turns them on time for whoever looks, closes
//! those whose producers have stopped, opens and closes the topic's own, and tells of it all.
//!
//! It hears of them from the publishers that trip, once a trip, and finds those that its predecessor knew when it takes the role. Publishers
//! need none of it: without a supervisor they turn their own.

use super::events::{Event, Events};
use super::quotas::raise_generation;
use crate::directory::BusDir;
use crate::lease::Participants;
use crate::sys::clock::monotonic_ns;
use crate::sys::file;
use crate::topic::{Role, TopicCore};
use bus_core::breaker::{Breaker, BreakerWord, Reason};
use bus_core::holder::{HolderWord, producer};
use bus_core::lane::Lane;
use bus_core::layout::wake::breaker::{CLOSED, HALF_OPEN, OPEN};
use bus_core::layout::{ring, wake};
use bus_core::limits::LANES_MAX;
use bus_core::seq::distance;
use bus_core::sync::Ordering;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Between two looks while a breaker is not closed.
const LOOK: Duration = Duration::from_millis(50);
/// Looks are not taken sooner than this after one another, however many requests there are.
const LOOK_MIN_NS: u64 = 10_000_000;
/// The topic's breaker opens when so many producers are kept from a lane, and half of those that publish.
const PRODUCERS_MIN: usize = 2;
/// A lane whose topic's breaker is open has room again when one slot in so many is free.
const ROOM_SHARE: u64 = 8;

/// Topics with breakers that are not closed.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    topics: Vec<Watched>,
    looked_ns: u64,
}

#[derive(Debug)]
struct Watched {
    core: TopicCore,
    /// What each producer's breaker, and at last the topic's, was like when it was last looked at.
    known: Vec<u8>,
}

impl Breakers {
    /// Somebody has said that a breaker of this topic has opened.
    pub(super) fn watch(&mut self, dir: &BusDir, topic: &str) {
        self.topics.retain(|watched| !watched.core.is_unlinked());
        if self.topics.iter().any(|watched| watched.core.name() == topic) {
            return;
        }
        // A topic that cannot be attached is reported to whoever wants to use it.
        if let Ok(core) = TopicCore::attach(dir, topic, Role::Publisher) {
            let known = vec![CLOSED; core.config().producers as usize + 1];
            self.topics.push(Watched { core, known });
        }
    }

    /// Finds what a predecessor knew, without mapping every topic.
    pub(super) fn find(&mut self, dir: &BusDir, goes_on: &dyn Fn() -> bool) {
        for name in dir.topic_names() {
            if !goes_on() {
                return;
            }
            if has_any(dir, &name) {
                self.watch(dir, &name);
            }
        }
    }

    /// How long the holder may sleep.
    pub(super) fn pause(&self) -> Duration {
        if self.topics.is_empty() { Duration::MAX } else { LOOK }
    }

    /// Looks at all of them.
    pub(super) fn turn(&mut self, participants: &Participants, events: &Events) {
        let now_ns = monotonic_ns();
        if self.topics.is_empty() || now_ns.saturating_sub(self.looked_ns) < LOOK_MIN_NS {
            return;
        }
        self.looked_ns = now_ns;
        self.topics.retain_mut(|topic| topic.turn(now_ns / 1_000_000, participants, events));
    }
}

impl Watched {
    /// False when all are closed, or the topic has gone.
    fn turn(&mut self, now_ms: u64, participants: &Participants, events: &Events) -> bool {
        let core = &self.core;
        let producers = core.config().producers as usize;
        let mut live_count = 0;
        let mut kept_out = [0_usize; LANES_MAX];
        let mut is_any_open = false;
        for index in 0..producers {
            let (Some(entry), Some(word)) =
                (core.ring_word(ring::producer_state(index)), core.ring_word(ring::producer_breaker(index)))
            else {
                break;
            };
            let holder = HolderWord::unpack(entry.load(Ordering::Acquire));
            let breaker = Breaker::attach(word);
            if holder.state == producer::LIVE {
                live_count += 1;
                if !breaker.open_half(now_ms) {
                    breaker.settle(now_ms, |word| is_free(core, word));
                }
            } else {
                breaker.reset();
            }
            let now = breaker.look();
            if now.state != CLOSED {
                is_any_open = true;
                for (lane, count) in kept_out.iter_mut().enumerate() {
                    *count += usize::from(now.reason == Reason::Full && now.holds(lane));
                }
            }
            let before = std::mem::replace(&mut self.known[index], now.state);
            if before != now.state {
                let (pid, service) = participants.describe(holder.holder);
                let event = transition(core, before, now).number("producer", index as u64);
                events.push(event.text("service", &service).number("pid", pid.into()));
            }
        }
        let Some(word) = core.wake_long(wake::at::BREAKER) else { return is_any_open };
        let breaker = Breaker::attach(word);
        let was_open = breaker.look();
        let lanes = (0..core.lanes()).filter(|&lane| match was_open.holds(lane) {
            // Nobody is kept from it any more, or there is room for those who are.
            true => {
                kept_out[lane] > 0
                    && room(core, lane) < (u64::from(core.config().capacity) / ROOM_SHARE).max(1)
            }
            false => {
                let is_tripped = kept_out[lane] >= PRODUCERS_MIN && 2 * kept_out[lane] >= live_count;
                is_tripped && room(core, lane) == 0
            }
        });
        let lanes = lanes.fold(0, |lanes, lane| lanes | 1 << lane);
        if breaker.keep_open(lanes, now_ms) {
            raise_generation(core);
        }
        let now = breaker.look();
        let before = std::mem::replace(&mut self.known[producers], now.state);
        if before != now.state {
            events.push(transition(core, before, now));
        }
        (is_any_open || lanes != 0) && !core.is_unlinked()
    }
}

/// Slots that a publisher of the lane would find free.
fn room(core: &TopicCore, lane: usize) -> u64 {
    let end = core.end(lane);
    let used = distance(end, core.recompute_gate_at(lane, end)).max(0) as u64;
    u64::from(core.config().capacity).saturating_sub(used)
}

/// Does nothing stand against closing it? Errors and quotas are their producer's, and it has stopped.
fn is_free(core: &TopicCore, word: BreakerWord) -> bool {
    word.reason != Reason::Full || (0..core.lanes()).all(|lane| !word.holds(lane) || room(core, lane) > 0)
}

fn state_name(state: u8) -> &'static str {
    match state {
        OPEN => "open",
        HALF_OPEN => "half-open",
        _ => "closed",
    }
}

fn transition(core: &TopicCore, before: u8, now: BreakerWord) -> Event {
    let event = Event::new("breaker")
        .text("topic", core.name())
        .text("from", state_name(before))
        .text("to", state_name(now.state));
    if now.state == CLOSED {
        return event;
    }
    let count = core.lanes();
    let lanes = (0..count).filter(|&lane| now.holds(lane)).map(|lane| Lane(lane as u8).name(count));
    event.text("reason", now.reason.name()).list("lanes", lanes)
}

/// Is a breaker of this topic not closed? Read from the files.
fn has_any(dir: &BusDir, topic: &str) -> bool {
    let home = dir.topic(topic);
    let is_not_closed = |word: u64| BreakerWord::unpack(word).state != CLOSED;
    let read_word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let Ok(file) = file::open_ro(&home.ring()) else { return false };
    let mut fixed = [0; size_of::<ring::Fixed>()];
    if file.read_exact_at(&mut fixed, 0).is_err() {
        return false;
    }
    let fixed: ring::Fixed = bytemuck::pod_read_unaligned(&fixed);
    if fixed.preamble.magic != ring::MAGIC || fixed.config.check().is_err() {
        return false;
    }
    let mut entries = vec![0; fixed.config.producers as usize * ring::PRODUCER_BYTES];
    let offset = ring::producer_breaker(0) - ring::producer_state(0);
    let mut word = [0; 8];
    let of_topic = file::open_ro(&home.wake())
        .is_ok_and(|wake| wake.read_exact_at(&mut word, wake::at::BREAKER as u64).is_ok());
    (of_topic && is_not_closed(u64::from_ne_bytes(word)))
        || file.read_exact_at(&mut entries, ring::producer_state(0) as u64).is_ok()
            && entries
                .chunks_exact(ring::PRODUCER_BYTES)
                .any(|entry| is_not_closed(read_word(&entry[offset..offset + 8])))
}
