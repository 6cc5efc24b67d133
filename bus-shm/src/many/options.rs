//! How a subscription over many topics joins each of them.

use super::{ManyError, ManySubscriber};
use crate::bus::{Bus, BusInner};
use crate::payload::Speak;
use crate::subscriber::{Start, SubscriberBuilder};
use crate::wait::Wait;
use bus_core::limits::{PATTERNS_MAX, STARVATION_GUARD_DEFAULT};
use bus_core::pattern::Pattern;
use std::sync::Arc;
use std::time::Duration;

/// Changes the options of one topic's subscriber.
type Each<T> = Box<dyn Fn(SubscriberBuilder<T>) -> SubscriberBuilder<T> + Send>;

/// Options of a subscription over many topics.
#[must_use = "a builder does nothing until `join`"]
pub struct ManyBuilder<T> {
    bus: Arc<BusInner>,
    pub(super) patterns: Vec<String>,
    group: Option<String>,
    shared: bool,
    keyed: bool,
    tap: bool,
    yields: Option<Duration>,
    start: Start,
    pub(super) wait: Wait,
    pub(super) guard: u32,
    each: Vec<Each<T>>,
}

impl<T> std::fmt::Debug for ManyBuilder<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManyBuilder").field("patterns", &self.patterns).finish_non_exhaustive()
    }
}

impl Bus {
    /// One subscription over all topics whose names match, those that will be created later included. `+` is exactly one
    /// token; `*` is exactly one inside, and one or more at the end. Topics that do not carry this type are passed over.
    pub fn subscribe_pattern<T: Speak>(&self, pattern: &str) -> ManyBuilder<T> {
        self.subscribe_patterns([pattern])
    }

    /// The same with several patterns or names; a topic that matches more than one is joined once. A topic that is named and
    /// does not exist is joined when it is created.
    pub fn subscribe_patterns<T: Speak>(
        &self,
        patterns: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> ManyBuilder<T> {
        ManyBuilder {
            bus: self.inner().clone(),
            patterns: patterns.into_iter().map(|pattern| pattern.as_ref().to_owned()).collect(),
            group: None,
            shared: false,
            keyed: false,
            tap: false,
            yields: None,
            start: Start::Latest,
            wait: Wait::Adaptive,
            guard: STARVATION_GUARD_DEFAULT,
            each: Vec::new(),
        }
    }
}

impl<T: Speak> ManyBuilder<T> {
    /// Joins the group of this name in each topic.
    pub fn group(mut self, name: &str) -> Self {
        self.group = Some(name.to_owned());
        self
    }

    /// That group is shared by many members, each message going to one of them.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// That group is keyed, in each topic by itself: see [`SubscriberBuilder::keyed`]. A key's messages of two topics may go to two members.
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

    /// See [`SubscriberBuilder::yield_after`].
    pub fn yield_after(mut self, limit: Duration) -> Self {
        self.yields = Some(limit);
        self
    }

    /// Where groups that are new begin in the topics that exist now. Default: latest. Topics that are created later are read from
    /// their first message on, and a group that exists goes on where it stands.
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What to do while there is nothing to read in any topic. Default: adaptive.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Messages of a lower lane that wait get one turn after this many from above, across all topics. Default 256; 0 lets them
    /// starve.
    pub fn starvation_guard(mut self, messages: u32) -> Self {
        self.guard = messages;
        self
    }

    /// Changes the other options of each topic's subscriber, by its name if need be.
    pub fn each(
        mut self,
        options: impl Fn(SubscriberBuilder<T>) -> SubscriberBuilder<T> + Send + 'static,
    ) -> Self {
        self.each.push(Box::new(options));
        self
    }

    /// Joins all topics that match now. One that cannot be joined is told of by the first calls that receive.
    ///
    /// # Errors
    /// A pattern that is not allowed, options that exclude each other, no place for another subscription, or the bus is gone.
    pub fn join(self) -> Result<ManySubscriber<T>, ManyError> {
        let count = self.patterns.len();
        if count == 0 || count > PATTERNS_MAX {
            return Err(ManyError::Patterns { count, max: PATTERNS_MAX });
        }
        for pattern in &self.patterns {
            if let Err(why) = Pattern::parse(pattern) {
                return Err(ManyError::Pattern { pattern: pattern.clone(), why });
            }
        }
        for (first, second, conflict) in [
            ("a tap", "a named group", self.tap && self.group.is_some()),
            ("a tap", "one that yields", self.tap && self.yields.is_some()),
            ("one that yields", "a named group", self.yields.is_some() && self.group.is_some()),
            ("shared", "without a group's name", self.shared && self.group.is_none()),
        ] {
            if conflict {
                return Err(ManyError::Conflict { first, second });
            }
        }
        let bus = self.bus.clone();
        ManySubscriber::new(bus, self)
    }

    /// Options of one topic's subscriber.
    pub(super) fn apply(&self, mut builder: SubscriberBuilder<T>, is_late: bool) -> SubscriberBuilder<T> {
        if let Some(group) = &self.group {
            builder = builder.group(group);
        }
        if self.shared {
            builder = if self.keyed { builder.keyed() } else { builder.shared() };
        }
        if self.tap {
            builder = builder.tap();
        }
        if let Some(limit) = self.yields {
            builder = builder.yield_after(limit);
        }
        builder = builder.from(if is_late { Start::Oldest } else { self.start }).wait(self.wait);
        builder = builder.starvation_guard(self.guard);
        self.each.iter().fold(builder, |builder, each| each(builder))
    }
}
