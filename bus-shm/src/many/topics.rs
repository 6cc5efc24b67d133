//! Which topics a subscription has, and how those join that are created later.

use super::options::ManyBuilder;
use super::{ManyError, ManySubscriber, Slot};
use crate::error::{AttachError, TopicError};
use crate::payload::Speak;
use crate::topic::TopicBuilder;
use bus_core::holder::HolderWord;
use bus_core::limits::{LISTENER_TOPICS_MAX, TOPIC_LISTENERS_MAX};
use bus_core::listener::Ticket;
use bus_core::pattern::Pattern;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// The directory of topics is not read more often than this, however fast topics are created.
const LIST_PERIOD: Duration = Duration::from_millis(5);
/// Topics that could not be joined, tried again whenever all topics are looked at.
const RETRIED: usize = 16;

/// The subscription's name of a topic, for that topic's table.
pub(super) fn ticket(entry: u16, held: HolderWord, index: usize) -> Ticket {
    Ticket { entry, index: index as u16, tag: held.tag }
}

/// What is known of the bus's topics.
pub(super) struct Topics<T> {
    options: ManyBuilder<T>,
    /// Those that have been looked at, joined or not.
    known: HashSet<String>,
    /// Those that could not be joined, and whether they came after the subscription.
    failed: Vec<(String, bool)>,
    /// How often topics had been created when the directory was last read, and when that was.
    generation: u64,
    listed: Option<Instant>,
    /// Are there new topics, perhaps?
    is_expecting: bool,
}

impl<T: Speak> Topics<T> {
    pub(super) fn new(options: ManyBuilder<T>) -> Self {
        Self {
            options,
            known: HashSet::new(),
            failed: Vec::new(),
            generation: 0,
            listed: None,
            is_expecting: false,
        }
    }

    /// What it was asked for, for error messages.
    pub(super) fn names(&self) -> String {
        self.options.patterns.join(" ")
    }

    pub(super) fn expect_topics(&mut self) {
        self.is_expecting = true;
    }

    /// When the directory is to be read.
    pub(super) fn list_at(&self) -> Option<Instant> {
        self.is_expecting.then(|| self.listed.map_or_else(Instant::now, |listed| listed + LIST_PERIOD))
    }

    pub(super) fn is_list_due(&self) -> bool {
        self.is_expecting && self.list_at().is_some_and(|at| at <= Instant::now())
    }

    /// Are there topics that could not be joined?
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// A topic that was joined is not any more.
    pub(super) fn give_up(&mut self, name: String) {
        self.failed.push((name, true));
    }
}

impl<T: Speak> ManySubscriber<T> {
    /// Joins the topics that match and are new. Those that are found after the subscription was made are `late`.
    pub(super) fn look_for_topics(&mut self, is_late: bool) {
        let topics = &mut self.topics;
        topics.is_expecting = false;
        topics.listed = Some(Instant::now());
        // Before the names: a topic that is created meanwhile is found now or makes the number differ.
        let generation = self.bus.topics_generation();
        if is_late && generation == topics.generation {
            return;
        }
        topics.generation = generation;
        let patterns: Vec<Pattern<'_>> =
            topics.options.patterns.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        let mut found = Vec::new();
        for name in self.bus.dir().topic_names() {
            if !topics.known.contains(&name) && patterns.iter().any(|pattern| pattern.matches(&name)) {
                found.push(name);
            }
        }
        for name in found {
            self.topics.known.insert(name.clone());
            if let Err(error) = self.join_topic(&name, is_late) {
                self.reports.push_back(error);
            }
        }
    }

    /// Topics that could not be joined: a group may be free now. That they still cannot has been told.
    pub(super) fn retry_topics(&mut self) {
        let count = self.topics.failed.len().min(RETRIED);
        let again: Vec<_> = self.topics.failed.drain(..count).collect();
        for (name, is_late) in again {
            let _ = self.join_topic(&name, is_late);
        }
    }

    fn join_topic(&mut self, name: &str, is_late: bool) -> Result<(), ManyError> {
        let index = self.vacant.last().copied().unwrap_or(self.slots.len());
        if index >= LISTENER_TOPICS_MAX as usize {
            return Err(ManyError::TopicLimit { topic: name.to_owned(), max: LISTENER_TOPICS_MAX });
        }
        let topic = match TopicBuilder::<T>::new(self.bus.clone(), name).create(false).frugal().open() {
            Ok(topic) => topic,
            Err(source) => return self.refused(name, is_late, source.into()),
        };
        // First of all: whoever sweeps this process then clears the table, too.
        if let Err(source) = self.bus.note_topic(name) {
            return self.refused(name, is_late, source.into());
        }
        let core = topic.core.clone();
        let mine = ticket(self.entry, self.held, index);
        // Before the group: one that was joined keeps its messages, and nobody would read them.
        let place = core.listener_table().and_then(|table| {
            let listeners = self.bus.listeners()?;
            table.join(mine, |other| listeners.is_stale(other))
        });
        let Some(place) = place else {
            self.topics.failed.push((name.to_owned(), is_late));
            return Err(ManyError::TopicListeners { topic: name.to_owned(), max: TOPIC_LISTENERS_MAX });
        };
        let subscriber = match self.topics.options.apply(topic.subscriber(), is_late).join() {
            Ok(subscriber) => subscriber,
            Err(source) => {
                if let Some(table) = core.listener_table() {
                    table.leave(place, mine);
                }
                return self.refused(name, is_late, source);
            }
        };
        self.is_watching |= subscriber.has_ack_wait();
        let slot = Slot {
            subscriber: Some(subscriber),
            name: name.into(),
            is_active: false,
            is_timed: false,
            served: 0,
            place,
        };
        // A late ring for the topic that was there before is one look too many.
        match self.vacant.pop() {
            Some(index) => self.slots[index] = slot,
            None => self.slots.push(slot),
        }
        self.activate(index);
        Ok(())
    }

    /// A topic could not be joined: it is tried again if that can change.
    fn refused(&mut self, name: &str, is_late: bool, source: AttachError) -> Result<(), ManyError> {
        // What is wrong with the options, or with the topic for good.
        let is_lasting = matches!(
            source,
            AttachError::KeepsNewest { .. }
                | AttachError::Stall { .. }
                | AttachError::GroupName { .. }
                | AttachError::Lane { .. }
                | AttachError::Option { .. }
        );
        if !is_lasting {
            self.topics.failed.push((name.to_owned(), is_late));
        }
        if matches!(source, AttachError::Topic(TopicError::TypeMismatch { .. })) {
            // Not for this subscription, unless its type is added.
            return Ok(());
        }
        Err(ManyError::Join { topic: name.to_owned(), source })
    }
}
