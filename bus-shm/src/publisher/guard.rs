//! Breaker, quota and error window of one publisher.
//!
//! A publisher for which nothing is set and which has not failed of late looks at none of this: its handle remembers the topic's
//! state word, and compares. Where something must be looked at, the handle expects a state that the topic never has, so that
//! each publication comes by here first.
#![allow(unsafe_code)]

use super::loops::Loops;
use super::{Failure, RawPublisher};
use crate::bus::BusInner;
use crate::error::{BreakerReason, PublishError, RegionError, ThrottledBy};
use crate::supervisor::protocol::Request;
use crate::sys::clock::monotonic_ns;
use crate::topic::{LaneRing, TopicCore};
use bus_core::breaker::{Answer, Breaker, TRIALS, Window};
use bus_core::header::Header;
use bus_core::layout::wake::{self, state};
use bus_core::layout::{ring, wake::breaker};
use bus_core::limits::LANES_MAX;
use bus_core::name::key;
use bus_core::quota::{Bucket, Limits};
use bus_core::sync::{AtomicU64, Ordering};
use std::path::PathBuf;
use std::time::Duration;

pub(super) struct Guard {
    /// The topic's state word, without the bit that closes it, when quotas were last read.
    seen: u32,
    own: Breaker<'static>,
    topic: Breaker<'static>,
    /// Publications of this producer that were refused (statistics).
    refused: &'static AtomicU64,
    has_breakers: bool,
    /// A full lane is an error at once, and the caller could not have waited.
    fails_at_once: bool,
    /// Of the service's name.
    key: u64,
    limits: Limits,
    messages: Bucket,
    bytes: Bucket,
    /// When the caller was told to come again.
    told_ns: u64,
    window: Option<Window>,
    /// Trials that each lane has passed since the breaker opened.
    trials: [u8; LANES_MAX],
    pub(super) loops: Loops,
    /// That the files are gone is said once.
    told_unlinked: bool,
}

/// Why nothing was tried.
enum Refusal {
    Open { reason: BreakerReason, retry_ms: u64, whole_topic: bool },
    Throttled { limit: ThrottledBy, retry_ns: u64, trips: bool },
}

impl Guard {
    /// For a producer entry that has just been claimed. Whoever had it before is gone, and so are its failures.
    pub(super) fn attach(core: &TopicCore, entry: u16, service: &str) -> Result<Self, RegionError> {
        let entry = usize::from(entry);
        let config = core.config();
        let own = Breaker::attach(core.held_ring_word(ring::producer_breaker(entry))?);
        own.reset();
        let refused = core.held_ring_word(ring::producer_refused(entry))?;
        refused.store(0, Ordering::Relaxed);
        let mut this = Self {
            seen: 0,
            own,
            topic: Breaker::attach(core.held_wake_long(wake::at::BREAKER)?),
            refused,
            has_breakers: config.flags & ring::FLAG_NO_BREAKERS == 0,
            fails_at_once: config.overflow == ring::overflow::FAIL,
            key: key(service),
            limits: Limits::default(),
            messages: Bucket::default(),
            bytes: Bucket::default(),
            told_ns: 0,
            window: None,
            trials: [0; LANES_MAX],
            loops: Loops::attach(core, entry)?,
            told_unlinked: false,
        };
        let state = core.wake_half(wake::at::STATE).map_or(0, |word| word.load(Ordering::Acquire));
        this.read_again(core, state);
        Ok(this)
    }

    /// Counts a publication that was refused.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the files of the bus, or of the topic, were that have been deleted under it; once.
    pub(super) fn first_unlinked(&mut self, bus: &BusInner, core: &TopicCore) -> Option<PathBuf> {
        let path = bus.unlinked(core).filter(|_| !self.told_unlinked)?;
        self.told_unlinked = true;
        Some(path)
    }

    pub(super) fn fails_at_once(&self) -> bool {
        self.fails_at_once
    }

    /// What changes is changed before the generation is raised, see `admit`.
    fn read_again(&mut self, core: &TopicCore, state: u32) {
        self.seen = state & !state::CLOSED;
        let load = |offset| core.ring_word(offset).map_or(0, |word| word.load(Ordering::Relaxed));
        let limits = Limits::of_service(self.key, load);
        if limits != self.limits {
            // What was published under another limit says nothing about this one.
            (self.messages, self.bytes, self.told_ns) = (Bucket::default(), Bucket::default(), 0);
        }
        self.limits = limits;
    }

    /// The state that the handle goes on to expect: one that never comes while there is something to look at or to count.
    pub(super) fn expected(&self) -> u32 {
        let is_held = |word: &Breaker<'_>| word.look().state != breaker::CLOSED;
        let is_busy = self.limits.is_some()
            || self.window.is_some()
            || self.has_breakers && (is_held(&self.own) || is_held(&self.topic));
        if is_busy { state::never(self.seen) } else { self.seen }
    }

    fn ask(&mut self, lane: usize, least_bytes: usize, now_ns: u64) -> Result<(), Refusal> {
        let now_ms = now_ns / 1_000_000;
        if self.window.is_some_and(|window| window.is_over(now_ms)) {
            self.window = None;
        }
        if self.has_breakers {
            match self.own.ask(lane, now_ms) {
                Answer::Refused { reason, retry_ms } => {
                    return Err(Refusal::Open { reason, retry_ms, whole_topic: false });
                }
                // Whatever the topic's says: a trial that waits for room is what makes groups let go that have agreed to.
                Answer::Trial => {}
                Answer::Free => {
                    // The supervisor keeps it open by saying so again; without a supervisor it is over with its time.
                    let whole = self.topic.look();
                    let retry_ms = whole.left_ms(now_ms);
                    if whole.holds(lane) && retry_ms > 0 {
                        return Err(Refusal::Open { reason: whole.reason, retry_ms, whole_topic: true });
                    }
                }
            }
        }
        let Limits { messages, bytes } = self.limits;
        let least_bytes = least_bytes as u64;
        let by_messages = messages.and_then(|limit| {
            let wait_ns = self.messages.admit(limit, 1, now_ns).err()?;
            Some((ThrottledBy::Messages { per_second: limit.rate }, wait_ns))
        });
        let by_bytes = bytes.and_then(|limit| {
            let wait_ns = self.bytes.admit(limit, least_bytes, now_ns).err()?;
            Some((ThrottledBy::Bytes { per_second: limit.rate }, wait_ns))
        });
        // The one that takes longer, so that who comes then gets through.
        let throttled = [by_messages, by_bytes].into_iter().flatten().max_by_key(|&(_, wait_ns)| wait_ns);
        let Some((limit, retry_ns)) = throttled else { return Ok(()) };
        // Who comes when he was told to has done nothing wrong.
        let came_early = now_ns < self.told_ns;
        self.told_ns = now_ns.saturating_add(retry_ns);
        let trips = came_early && self.count_failure(lane, true, now_ms);
        Err(Refusal::Throttled { limit, retry_ns, trips })
    }

    /// Counts a failure. True if the breaker opens by it.
    fn count_failure(&mut self, lane: usize, throttled: bool, now_ms: u64) -> bool {
        if !self.has_breakers {
            return false;
        }
        if self.own.look().holds(lane) && !throttled {
            self.trip(BreakerReason::Errors, 1 << lane, now_ms);
            return true;
        }
        let window = self.window.get_or_insert(Window::new(now_ms));
        let Some((reason, lanes)) = window.failed(lane, throttled) else { return false };
        self.trip(reason, lanes, now_ms);
        true
    }

    fn trip(&mut self, reason: BreakerReason, lanes: u8, now_ms: u64) {
        // A lane that has passed a trial meanwhile does not go on suffering for another one.
        for lane in (0..LANES_MAX).filter(|&lane| lanes & 1 << lane == 0 && self.trials[lane] > 0) {
            self.own.pass(lane);
        }
        self.own.trip(reason, lanes, now_ms);
        self.trials = [0; LANES_MAX];
        self.window = None;
    }

    /// A publication of so many bytes has succeeded.
    fn succeeded(&mut self, lane: usize, len_bytes: usize) {
        if self.limits.is_some() {
            self.messages.charge(1);
            self.bytes.charge(len_bytes as u64);
        }
        if let Some(window) = &mut self.window {
            window.succeeded();
        }
        if self.has_breakers && self.own.look().holds(lane) {
            self.trials[lane] += 1;
            if self.trials[lane] >= TRIALS {
                self.trials[lane] = 0;
                self.own.pass(lane);
            }
        }
    }
}

impl RawPublisher {
    /// Does this publisher come by here with each publication?
    pub(super) fn is_guarded(&self) -> bool {
        state::is_closed(self.expected_state)
    }

    /// The topic's state is not the one that was expected, or the lane or the handle is none to publish with.
    #[cold]
    #[inline(never)]
    pub(super) fn admit(&mut self, lane: usize, least_bytes: usize) -> Result<(), PublishError> {
        // First of all: in a forked child nothing is mapped.
        if lane >= self.lanes.len() || self.bus.is_forked() {
            return Err(self.unusable(lane));
        }
        // Acquire: pairs with the Release of whoever raises the generation; quotas and the topic's breaker are read as they
        // are then, or later.
        let state = self.state.load(Ordering::Acquire);
        if state::is_closed(state) {
            return Err(self.unusable(lane));
        }
        if state != self.guard.seen {
            self.guard.read_again(&self.core, state);
        }
        let asked = self.guard.ask(lane, least_bytes, monotonic_ns());
        self.expected_state = self.guard.expected();
        asked.map_err(|refusal| self.refused(refusal))
    }

    #[cold]
    fn refused(&self, refusal: Refusal) -> PublishError {
        self.guard.refused.fetch_add(1, Ordering::Relaxed);
        let topic = self.core.name().to_owned();
        match refusal {
            Refusal::Open { reason, retry_ms, whole_topic } => PublishError::CircuitOpen {
                topic,
                producer: self.entry,
                reason,
                whole_topic,
                retry_after: Duration::from_millis(retry_ms),
            },
            Refusal::Throttled { limit, retry_ns, trips } => {
                if trips {
                    self.tell_of_trip();
                }
                PublishError::Throttled { topic, limit, retry_after: Duration::from_nanos(retry_ns) }
            }
        }
    }

    /// The words stand in memory; the supervisor turns them on time, and tells others.
    fn tell_of_trip(&self) {
        self.bus.notify(&Request::Tripped { topic: self.core.name().to_owned() });
    }

    /// A publication has failed: does the breaker open by it?
    #[cold]
    #[inline(never)]
    pub(super) fn failed(&mut self, lane: usize, deadline: Duration, failure: Failure) -> PublishError {
        let error = PublishError::from(failure);
        let is_full = matches!(error, PublishError::Full(_));
        let counts = match error {
            // Who does not wait for room polls, unless the topic has it so.
            PublishError::Full(_) => !deadline.is_zero() || self.guard.fails_at_once,
            PublishError::TooLarge { .. } | PublishError::Encode { .. } => true,
            _ => false,
        };
        if is_full {
            self.guard.refused.fetch_add(1, Ordering::Relaxed);
        }
        // The word of an entry that has been given to another is that one's.
        if !counts || self.entry_word.load(Ordering::Relaxed) != self.live.pack() {
            return error;
        }
        let now_ms = monotonic_ns() / 1_000_000;
        let trips = if is_full && !deadline.is_zero() && self.guard.has_breakers {
            self.guard.trip(BreakerReason::Full, 1 << lane, now_ms);
            true
        } else {
            self.guard.count_failure(lane, false, now_ms)
        };
        self.expected_state = self.guard.expected();
        if trips {
            self.tell_of_trip();
        }
        error
    }

    /// A publication that was admitted has succeeded.
    #[cold]
    pub(super) fn published(&mut self, lane: usize, sequence: u64) {
        let len_bytes = match self.lanes[lane].ring {
            LaneRing::Mpmc(_) => self.lanes[lane].expected_bytes,
            LaneRing::Spsc(ring) => Header::load(ring.slot_words(sequence)).len_bytes as usize,
        };
        self.guard.succeeded(lane, len_bytes);
        self.expected_state = self.guard.expected();
    }

    pub(super) fn set_breaker(&mut self, breaker: bool) {
        if self.bus.is_forked() {
            return;
        }
        self.guard.has_breakers = breaker && self.core.config().flags & ring::FLAG_NO_BREAKERS == 0;
        if !self.guard.has_breakers && self.entry_word.load(Ordering::Relaxed) == self.live.pack() {
            self.clear_breaker();
            self.guard.window = None;
        }
        self.expected_state = self.guard.expected();
    }

    /// This publisher leaves its place.
    pub(super) fn clear_breaker(&self) {
        self.guard.own.reset();
        self.guard.loops.clear_cut();
    }
}
