//! How a subscriber joins.
#![allow(unsafe_code)]

use super::{RawSubscriber, Subscriber};
use crate::error::AttachError;
use crate::payload::Speak;
use crate::topic::Topic;
use crate::wait::Wait;
use bus_core::lane::Lane;
use bus_core::limits::STARVATION_GUARD_DEFAULT;
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
    /// With the first message published at or after this CLOCK_MONOTONIC time in nanoseconds; needs stamps.
    Time(u64),
}

/// What becomes of messages whose type this subscriber does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OtherTypes {
    /// They are acknowledged, counted, and passed over.
    #[default]
    Skip,
    /// Each is passed over with [`crate::ReceiveError::OtherType`].
    Error,
}

/// Options of a subscriber.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `join`"]
pub struct SubscriberBuilder<T> {
    pub(super) topic: Topic<T>,
    pub(super) group: Option<String>,
    pub(super) shared: bool,
    pub(super) tap: bool,
    pub(super) yields: Option<Duration>,
    pub(super) start: Start,
    pub(super) wait: Wait,
    pub(super) guard: u32,
    pub(super) other: OtherTypes,
    pub(super) copied: bool,
    pub(super) trusted: bool,
}

impl<T: Speak> SubscriberBuilder<T> {
    pub(crate) fn new(topic: Topic<T>) -> Self {
        Self {
            topic,
            group: None,
            shared: false,
            tap: false,
            yields: None,
            start: Start::Latest,
            wait: Wait::Adaptive,
            guard: STARVATION_GUARD_DEFAULT,
            other: OtherTypes::Skip,
            copied: false,
            trusted: false,
        }
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

    /// Where a group that is new begins. Default: latest.
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
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
