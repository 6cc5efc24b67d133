//! How a subscriber joins.
#![allow(unsafe_code)]

use super::screen::Wishes;
use super::{RawSubscriber, Stall, Subscriber};
use crate::bus::Bus;
use crate::dead_letters::Full;
use crate::error::AttachError;
use crate::payload::Speak;
use crate::topic::{Overflow, Topic};
use crate::wait::Wait;
use bus_core::lane::Lane;
use bus_core::limits::{ASIDE_ENTRIES_DEFAULT, ASIDE_ENTRIES_MAX, STARVATION_GUARD_DEFAULT};
use bus_core::retry::Backoff;
use std::marker::PhantomData;
use std::time::Duration;

/// Where a group that is new begins. A group that exists goes on where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Latest,
    /// With the oldest message that the ring still has.
    Oldest,
    /// With this message of this lane; the other lanes begin with the latest.
    Sequence(Lane, u64),
    /// With the first message published at or after this CLOCK_MONOTONIC time in nanoseconds ([`crate::Bus::now_ns`]). Without
    /// stamps, with what came after the supervisor's last look before: perhaps with some that are a little older.
    Time(u64),
    /// The same, as long ago as this.
    Ago(Duration),
}

/// What becomes of messages whose type this subscriber does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OtherTypes {
    /// They are acknowledged, counted, and passed over.
    #[default]
    Skip,
    /// Each is passed over with [`crate::ReceiveError::OtherType`].
    Error,
    /// They become dead letters of the group, counted as skipped. A tap skips them.
    DeadLetter,
}

/// Options of a subscriber.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `join`"]
pub struct SubscriberBuilder<T> {
    pub(super) topic: Topic<T>,
    pub(super) group: Option<String>,
    pub(super) shared: bool,
    pub(super) keyed: bool,
    pub(super) tap: bool,
    pub(super) yields: Option<Duration>,
    pub(super) start: Start,
    /// Where that is no longer there, with the oldest message that is.
    pub(super) or_oldest: bool,
    pub(super) wait: Wait,
    pub(super) guard: u32,
    pub(super) other: OtherTypes,
    pub(super) copied: bool,
    pub(super) trusted: bool,
    pub(super) attempts_max: Option<u8>,
    pub(super) ack_wait: Option<Duration>,
    pub(super) hold: Option<Duration>,
    pub(super) backoff: Backoff,
    pub(super) handler: Option<String>,
    pub(super) dead_full: Full,
    pub(super) aside_bound: usize,
    pub(super) wishes: Wishes,
    pub(super) stall: Option<Stall>,
}

impl<T: Speak> SubscriberBuilder<T> {
    pub(crate) fn new(topic: Topic<T>) -> Self {
        Self {
            topic,
            group: None,
            shared: false,
            keyed: false,
            tap: false,
            yields: None,
            start: Start::Latest,
            or_oldest: false,
            wait: Wait::Adaptive,
            guard: STARVATION_GUARD_DEFAULT,
            other: OtherTypes::Skip,
            copied: false,
            trusted: false,
            attempts_max: None,
            ack_wait: None,
            hold: None,
            backoff: Backoff::default(),
            handler: None,
            dead_full: Full::default(),
            aside_bound: ASIDE_ENTRIES_DEFAULT as usize,
            wishes: Wishes::default(),
            stall: None,
        }
    }

    pub(crate) fn bus(&self) -> Bus {
        Bus::of(self.topic.bus.clone())
    }

    /// Name of the topic.
    pub fn topic(&self) -> &str {
        self.topic.core.name()
    }

    /// Number of lanes of the topic.
    pub fn lanes(&self) -> usize {
        self.topic.lanes()
    }

    /// Does the topic keep the newest messages and wait for nobody, so that it takes taps only?
    pub fn keeps_newest(&self) -> bool {
        self.topic.overflow() == Overflow::KeepNewest
    }

    /// Joins a named group, which keeps its cursor while nobody reads.
    pub fn group(mut self, name: &str) -> Self {
        self.group = Some(name.to_owned());
        self
    }

    /// The named group is shared by many members, each message going to one of them.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The named group is keyed: shared by many members, and all messages of a key go to one of them, in order. Whoever joins takes over
    /// some of the keys, whoever leaves or dies leaves its keys to the others, and no key is ever handled by two at once. Implies
    /// [`SubscriberBuilder::shared`]. A group is keyed or not for its life. docs/keyed-groups.md says what is promised.
    pub fn keyed(mut self) -> Self {
        self.shared = true;
        self.keyed = true;
        self
    }

    /// Reads without holding anybody back.
    pub fn tap(mut self) -> Self {
        self.tap = true;
        self
    }

    /// Holds publishers back for at most this long; then the group is let go and goes on like a tap, counting
    /// what it missed. Only for groups without a name. It reads copies, since it can be overtaken.
    pub fn yield_after(mut self, limit: Duration) -> Self {
        self.yields = Some(limit);
        self
    }

    /// When the group is stalled, and whether it is let go then. A setting of the group, like [`SubscriberBuilder::attempts`]. A
    /// shared group can only be reported. Default: reported when it has stood still for 10 s.
    pub fn stall(mut self, stall: Stall) -> Self {
        self.stall = Some(stall);
        self
    }

    /// Where a group that is new, or has let go, begins. Default: latest, and where it stood if it has let go. What a shared group has
    /// finished stays finished, wherever it begins.
    ///
    /// A sequence or a time of which something may have been overwritten is an error that names the oldest message;
    /// [`SubscriberBuilder::from_or_oldest`] begins with that one instead.
    pub fn from(mut self, start: Start) -> Self {
        (self.start, self.or_oldest) = (start, false);
        self
    }

    /// As [`SubscriberBuilder::from`], but with the oldest message that is there, where the start is before it.
    pub fn from_or_oldest(mut self, start: Start) -> Self {
        (self.start, self.or_oldest) = (start, true);
        self
    }

    /// What to do while there is nothing to read. Default: adaptive.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// A waiting lower lane gets one message after this many from above. Default 256; 0 lets it starve.
    pub fn starvation_guard(mut self, messages: u32) -> Self {
        self.guard = messages;
        self
    }

    /// What to do with messages of other types. Default: skip them, counted.
    pub fn other_types(mut self, other: OtherTypes) -> Self {
        self.other = other;
        self
    }

    /// Copies each message, looks again whether it is still the same, and only then checks and hands it out: for publishers
    /// that are not trusted to leave a message alone once it is published.
    pub fn copied(mut self) -> Self {
        self.copied = true;
        self
    }

    /// How often a message is handed out before it becomes a dead letter, 1 to 255; deaths count like failures. A setting of the
    /// group: the last member that sets it sets it for those who join after it. Default 10.
    pub fn attempts(mut self, most: u8) -> Self {
        self.attempts_max = Some(most.max(1));
        self
    }

    /// How long a member of a shared group may be silent about a message before another member gets it;
    /// [`Received::extend`](super::Received::extend) asks for more. A setting of the group. Default 30 s; zero means for ever.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.ack_wait = Some(wait);
        self
    }

    /// How long the named group may keep a publisher waiting while it has no member, in whole seconds up to 65,535. After that it
    /// lets go: publishing goes on, and whoever joins next is told what was missed. A setting of the group. Default: it holds
    /// the ring for ever.
    pub fn hold_for(mut self, limit: Duration) -> Self {
        self.hold = Some(limit);
        self
    }

    /// How long a message that failed waits: `first` after the first attempt, twice as long after each further one, at
    /// most `max`; of that, a random half to the whole. Default 100 ms and 30 s.
    pub fn retry_delays(mut self, first: Duration, max: Duration) -> Self {
        let ns = |delay: Duration| delay.as_nanos().min(u128::from(u64::MAX)) as u64;
        self.backoff = Backoff { first_ns: ns(first), max_ns: ns(max) };
        self
    }

    /// Name of the handler, for dead letters; at most 48 bytes of it are kept.
    pub fn handler(mut self, name: &str) -> Self {
        self.handler = Some(name.to_owned());
        self
    }

    /// What becomes of a dead letter that finds the store full of others. Default: it is kept in the ring.
    pub fn dead_letters_full(mut self, policy: Full) -> Self {
        self.dead_full = policy;
        self
    }

    /// Most messages of the group that wait to be tried again or are dead letters, 1 to 65,536, if this subscriber is the first
    /// that needs the store; dead letters take at most three quarters. Default 16,384.
    pub fn aside_entries(mut self, most: u32) -> Self {
        self.aside_bound = most.clamp(1, ASIDE_ENTRIES_MAX) as usize;
        self
    }

    /// Reads archives without checking them.
    ///
    /// # Safety
    /// Every publisher of this topic, of any process, is trusted to write valid archives of the types that it
    /// names. One that does not makes reading undefined behaviour.
    pub unsafe fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Joins.
    ///
    /// # Errors
    /// The group is held by a live process, or is of another kind; the table of groups is full; the start is no longer, or not
    /// yet, there.
    pub fn join(self) -> Result<Subscriber<T>, AttachError> {
        let trusted = self.trusted;
        Ok(Subscriber { raw: RawSubscriber::join(self)?, trusted, speaks: PhantomData })
    }
}
