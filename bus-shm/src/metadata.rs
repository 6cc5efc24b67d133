//! What a message says of itself besides its payload.

use crate::topic::TopicCore;
use bus_core::extension::{Extension, MessageId};
use bus_core::header::{Header, producer_entry, producer_tag};
use bus_core::holder::HolderWord;
use bus_core::lane::Lane;
use bus_core::layout::ring;
use bus_core::name;
use bus_core::sync::Ordering;
use std::time::Duration;

/// What a publisher says of a message. Nothing of it costs anything where it is not set; a key alone stands in the header, the
/// rest takes 64 bytes before the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says nothing until it is published"]
pub struct Meta {
    pub(crate) key: u64,
    pub(crate) ttl: Option<Duration>,
    pub(crate) extension: Extension,
    pub(crate) is_extended: bool,
}

impl Meta {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the message is about: a customer, a file, a session. Only a hash of it travels.
    pub fn key(mut self, key: &str) -> Self {
        self.key = name::key(key);
        self
    }

    /// After this long nobody wants it any more: it is passed over, and counted.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self.is_extended = true;
        self
    }

    /// A number that all messages of one task carry; 0 is none.
    pub fn correlation(mut self, correlation: u128) -> Self {
        self.extension.set_correlation(correlation);
        self.is_extended = true;
        self
    }

    /// The message that this one answers or follows from. It takes over that one's correlation; if that one has none, it began
    /// the task, and its identity is the correlation. Its hops are one more.
    pub fn caused_by(mut self, cause: &Metadata<'_>) -> Self {
        let id = cause.id();
        self.extension.set_cause(id);
        self.extension.set_correlation(cause.correlation().unwrap_or(id.as_correlation()));
        self.extension.hops = cause.hops().saturating_add(1);
        self.is_extended = true;
        self
    }
}

/// Who published a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its number on the bus.
    pub participant: u16,
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub service: String,
}

/// What a message in hand says of itself: see [`crate::Received::metadata`].
#[derive(Clone, Copy)]
pub struct Metadata<'m> {
    pub(crate) core: &'m TopicCore,
    pub(crate) bus: &'m crate::bus::BusInner,
    pub(crate) lane: usize,
    pub(crate) sequence: u64,
    pub(crate) header: &'m Header,
    /// Is it where its publisher put it? A message that comes from the group's store has no publisher any more.
    pub(crate) is_in_ring: bool,
    pub(crate) extension: Option<Extension>,
}

impl std::fmt::Debug for Metadata<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metadata")
            .field("id", &self.id())
            .field("key", &self.key_hash())
            .field("extension", &self.extension)
            .finish_non_exhaustive()
    }
}

impl Metadata<'_> {
    /// Its identity: topic, lane and number. No other message ever has it.
    pub fn id(&self) -> MessageId {
        MessageId { topic_epoch: self.core.epoch(), lane: self.lane as u8, sequence: self.sequence }
    }

    /// Its lane.
    pub fn lane(&self) -> Lane {
        Lane(self.lane as u8)
    }

    /// What all messages of its task carry.
    pub fn correlation(&self) -> Option<u128> {
        self.extension.and_then(|extension| extension.correlation())
    }

    /// The message that it answers or follows from.
    pub fn cause(&self) -> Option<MessageId> {
        self.extension.and_then(|extension| extension.cause())
    }

    /// How many causes lie behind it.
    pub fn hops(&self) -> u16 {
        self.extension.map_or(0, |extension| extension.hops)
    }

    /// Hash of its key.
    pub fn key_hash(&self) -> Option<u64> {
        Some(self.header.reference).filter(|&key| key != 0)
    }

    /// Is this its key?
    pub fn has_key(&self, key: &str) -> bool {
        self.header.reference == name::key(key)
    }

    /// CLOCK_MONOTONIC nanoseconds when its publication began; 0 on topics without stamps.
    pub fn stamp_ns(&self) -> u64 {
        self.header.stamp_ns
    }

    /// CLOCK_MONOTONIC nanoseconds after which it would not have been handed out.
    pub fn expiry_ns(&self) -> Option<u64> {
        self.extension.map(|extension| extension.expiry_ns).filter(|&at_ns| at_ns != 0)
    }

    /// The process that published it, as long as that is known: `None` once another publisher or process has its place, and for
    /// messages that come again from the group's store.
    pub fn origin(&self) -> Option<Origin> {
        if !self.is_in_ring {
            return None;
        }
        let mark = self.header.producer;
        let entry = usize::from(producer_entry(mark));
        let word = self.core.ring_word(ring::producer_state(entry))?.load(Ordering::Acquire);
        let seen = HolderWord::unpack(word);
        if producer_tag(mark, seen.tag) != seen.tag {
            return None;
        }
        let (pid, service) = self.bus.participants().describe_last(seen.holder)?;
        Some(Origin { participant: seen.holder.participant, pid, service })
    }
}
