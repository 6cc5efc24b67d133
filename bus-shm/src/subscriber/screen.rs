//! Messages that a subscriber does not want to see: too old, of no interest, or not in its sample.
//!
//! What the header says is looked at first; the payload is touched only for a predicate, and only where everything else has let the
//! message pass.

use super::{Delivery, Proof, RawSubscriber, SubscriberBuilder};
use crate::bus::BusInner;
use crate::error::{AttachError, ReceiveError};
use crate::payload::{Bytes, Message, Speak, access};
use crate::subscriber::Failure;
use crate::sys::clock::Clock;
use crate::topic::TopicCore;
use bus_core::header::{flags, producer_entry};
use bus_core::lane::Lane;
use bus_core::layout::ring;
use bus_core::limits::LANES_MAX;
use bus_core::name;
use bus_core::outcome;
use bus_core::sampling::Sampling;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// What becomes of messages whose time to live is over before they are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expired {
    /// They are acknowledged, counted, and passed over.
    #[default]
    Skip,
    /// They become dead letters of the group, counted as well. A tap skips them.
    DeadLetter,
}

/// A look at a payload: does the program want this message?
type Look = dyn Fn(&[u8]) -> bool + Send + Sync;

/// What a subscriber wants to see, as it was asked for.
#[derive(Clone, Default)]
pub(super) struct Wishes {
    expired: Expired,
    lanes: Option<u8>,
    key: Option<u64>,
    producer: Option<u16>,
    max_age: Option<Duration>,
    share: Option<f64>,
    look: Option<Arc<Look>>,
}

impl std::fmt::Debug for Wishes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wishes")
            .field("expired", &self.expired)
            .field("lanes", &self.lanes)
            .field("key", &self.key)
            .field("producer", &self.producer)
            .field("max_age", &self.max_age)
            .field("share", &self.share)
            .field("look", &self.look.is_some())
            .finish()
    }
}

impl<T: Speak> SubscriberBuilder<T> {
    /// What becomes of messages whose time to live is over. Default: they are skipped, counted.
    pub fn expired(mut self, expired: Expired) -> Self {
        self.wishes.expired = expired;
        self
    }

    /// Only messages of these lanes. The others are acknowledged and counted, like all that a filter leaves out: filters are meant to be
    /// the same for all members of a group.
    pub fn only_lanes(mut self, lanes: &[Lane]) -> Self {
        self.wishes.lanes =
            Some(lanes.iter().fold(0, |mask, lane| mask | 1_u8.checked_shl(lane.0.into()).unwrap_or(0)));
        self
    }

    /// Only messages that were published with this key.
    pub fn only_key(mut self, key: &str) -> Self {
        self.wishes.key = Some(name::key(key));
        self
    }

    /// Only messages of the publisher that has this number in the topic.
    pub fn only_producer(mut self, producer: u16) -> Self {
        self.wishes.producer = Some(producer);
        self
    }

    /// Only messages that were published at most so long before they are handed out. Needs stamps.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.wishes.max_age = Some(age);
        self
    }

    /// Only this share of each lane's messages, more than 0 and at most 1, chosen by their sequence: whoever takes the same share takes
    /// the same messages.
    pub fn sample(mut self, share: f64) -> Self {
        self.wishes.share = Some(share);
        self
    }
}

impl<T: Message> SubscriberBuilder<T> {
    /// Only messages whose value the program wants, read where it lies. Messages that do not validate are handed out, and say so. If
    /// it panics, the message becomes a dead letter (a tap passes it over), and receiving returns
    /// [`ReceiveError::FilterPanicked`].
    pub fn filter(mut self, wanted: impl Fn(&T::Archived) -> bool + Send + Sync + 'static) -> Self {
        self.wishes.look = Some(Arc::new(move |payload| access::<T>(payload).is_none_or(&wanted)));
        self
    }
}

impl SubscriberBuilder<Bytes> {
    /// Only messages whose bytes the program wants. If it panics: as with the filter of a typed topic.
    pub fn filter_bytes(mut self, wanted: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.wishes.look = Some(Arc::new(wanted));
        self
    }
}

/// What a subscriber looks at before it hands a message out.
pub(super) struct Screen {
    /// Type and flags of the messages that need no further look: those whose header has `usual` in the bits of `care`.
    care: u16,
    usual: u16,
    expired: Expired,
    topic_ttl_ns: u64,
    lanes: u8,
    key: Option<u64>,
    producer: Option<u16>,
    max_age_ns: u64,
    sampling: Option<Sampling>,
    look: Option<Arc<Look>>,
    clock: Clock,
    pub(super) expired_count: u64,
    pub(super) filtered_count: u64,
}

/// What becomes of a message after a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Wanted,
    Expired,
    Filtered,
    /// The program's own look at it panicked.
    Panicked,
}

/// Flags of messages that need a look.
const SPECIAL: u8 = flags::EXTENSION | flags::TOMBSTONE;

impl Screen {
    pub(super) fn new(
        wishes: Wishes,
        (core, bus): (&TopicCore, &BusInner),
        own: Option<u8>,
    ) -> Result<Self, AttachError> {
        let refuse = |option: &'static str, allowed: String| {
            Err(AttachError::Option { topic: core.name().to_owned(), option, allowed })
        };
        let Wishes { expired, lanes, key, producer, max_age, share, look } = wishes;
        if max_age.is_some() && core.config().flags & ring::FLAG_STAMPS == 0 {
            return refuse("max_age", "a topic whose messages carry stamps".into());
        }
        if max_age.is_some_and(|age| age.is_zero()) {
            return refuse("max_age", "more than zero".into());
        }
        let all = (1_u8 << core.lanes().min(LANES_MAX)) - 1;
        if lanes.is_some_and(|lanes| lanes & all == 0) {
            return refuse(
                "only_lanes",
                format!("at least one of the topic's lanes, 0 to {}", core.lanes() - 1),
            );
        }
        let sampling = match share.map(Sampling::new) {
            Some(None) => return refuse("sample", "a share of more than 0 and at most 1".into()),
            sampling => sampling.flatten(),
        };
        let topic_ttl_ns = core.ttl_ns();
        let looks_at_all = topic_ttl_ns != 0
            || lanes.is_some()
            || key.is_some()
            || producer.is_some()
            || max_age.is_some()
            || sampling.is_some()
            || look.is_some();
        let care = u16::from_le_bytes([if own.is_some() { 0xff } else { 0 }, SPECIAL]);
        Ok(Self {
            // No bits of a header are equal to these.
            care: if looks_at_all { 0 } else { care },
            usual: if looks_at_all { 1 } else { u16::from(own.unwrap_or(0)) },
            expired,
            topic_ttl_ns,
            lanes: lanes.unwrap_or(all),
            key,
            producer,
            max_age_ns: max_age.map_or(0, |age| age.as_nanos().min(u128::from(u64::MAX)) as u64),
            sampling,
            look,
            clock: bus.clock(),
            expired_count: 0,
            filtered_count: 0,
        })
    }

    /// Does a message need no look beyond this one, by the description in its header?
    #[inline]
    pub(super) fn is_usual(&self, description: u64) -> bool {
        // Kind and flags are its upper two bytes.
        (description >> 48) as u16 & self.care == self.usual
    }

    /// Is no message usual?
    pub(super) fn looks_at_all(&self) -> bool {
        self.care & self.usual != self.usual
    }

    fn fate(&mut self, delivery: &Delivery) -> Fate {
        let header = &delivery.found.header;
        if self.is_expired(delivery) {
            return Fate::Expired;
        }
        let is_wanted = header.flags & flags::TOMBSTONE == 0
            && self.lanes & 1 << delivery.lane != 0
            && self.key.is_none_or(|key| key == header.reference)
            // One that comes from the group's store has been let pass before, and names its publisher no more.
            && (matches!(delivery.proof, Proof::Entry(_))
                || self.producer.is_none_or(|producer| producer == producer_entry(header.producer)))
            && self.sampling.is_none_or(|sampling| sampling.takes(delivery.found.sequence))
            && (self.max_age_ns == 0
                || header.stamp_ns == 0
                || self.clock.now_ns().saturating_sub(header.stamp_ns) <= self.max_age_ns);
        if !is_wanted {
            return Fate::Filtered;
        }
        let Some(look) = &self.look else { return Fate::Wanted };
        match catch_unwind(AssertUnwindSafe(|| look(delivery.found.payload()))) {
            Ok(true) => Fate::Wanted,
            Ok(false) => Fate::Filtered,
            Err(_) => Fate::Panicked,
        }
    }

    fn is_expired(&mut self, delivery: &Delivery) -> bool {
        let header = &delivery.found.header;
        let extension = delivery.found.extension();
        let by_topic_ns = match (self.topic_ttl_ns, header.stamp_ns) {
            (0, _) | (_, 0) => 0,
            (ttl_ns, stamp_ns) => stamp_ns.saturating_add(ttl_ns),
        };
        let by_message_ns = extension.map_or(0, |extension| extension.expiry_ns);
        if by_topic_ns == 0 && by_message_ns == 0 {
            return false;
        }
        let now_ns = self.clock.now_ns();
        [by_topic_ns, by_message_ns].into_iter().any(|at_ns| at_ns != 0 && now_ns >= at_ns)
    }
}

impl RawSubscriber {
    /// Looks at a message that is not one of the usual: is it wanted? If not, it is settled.
    pub(super) fn is_wanted(&mut self) -> Result<bool, Failure> {
        let delivery = self.current;
        let fate = self.screen.fate(&delivery);
        match fate {
            Fate::Wanted => return Ok(true),
            Fate::Expired => {
                self.screen.expired_count += 1;
                if self.screen.expired == Expired::DeadLetter && self.late.is_some() {
                    self.bury_unread(&delivery, "its time to live was over before it was handed out")?;
                } else {
                    self.pass_over(&delivery, outcome::EXPIRED)?;
                }
            }
            Fate::Filtered => {
                self.screen.filtered_count += 1;
                self.pass_over(&delivery, outcome::SKIPPED)?;
            }
            Fate::Panicked if self.late.is_some() => {
                self.bury_unread(&delivery, "the program's filter panicked at it")?;
            }
            Fate::Panicked => self.pass_over(&delivery, outcome::SKIPPED)?,
        }
        self.count_skipped();
        if fate == Fate::Panicked {
            let (lane, sequence) = (delivery.lane as u8, delivery.found.sequence);
            return Err(
                ReceiveError::FilterPanicked { topic: self.core.name().to_owned(), lane, sequence }.into()
            );
        }
        Ok(false)
    }
}
