//! Publishing with more than a payload: key, correlation, cause, time to live.

use super::{Patience, Publisher, RawPublisher, Target};
use crate::arena::Source;
use crate::error::{AttachError, PublishError};
use crate::metadata::Meta;
use crate::payload::{Bytes, Message, Speak};
use crate::receipts::{ReceiptError, Receipts};
use crate::sys::clock::monotonic_ns;
use crate::topic::Topic;
use bus_core::extension::{Extension, Reply};
use bus_core::header::{Header, flags};
use bus_core::lane::Lane;
use std::mem::MaybeUninit;
use std::time::Duration;

/// A payload and the extension block before it.
#[derive(Clone, Copy)]
struct Extended<S> {
    source: S,
    extension: Extension,
}

impl<S: Source> Source for Extended<S> {
    const KIND: &'static str = S::KIND;
    const EXTENSION_BYTES: usize = size_of::<Extension>();
    const IS_EXACT: bool = S::IS_EXACT;

    fn extension(&self) -> Option<&Extension> {
        Some(&self.extension)
    }

    fn least_bytes(&self) -> usize {
        self.source.least_bytes()
    }

    fn fill(&self, memory: &mut [MaybeUninit<u8>]) -> Option<usize> {
        self.source.fill(memory)
    }

    fn measure(&self, most_bytes: usize) -> Option<usize> {
        self.source.measure(most_bytes)
    }
}

/// While it lives, headers say more than usual. Serialising a value may panic, and the next message is a plain one again.
struct Described<'p> {
    publisher: &'p mut RawPublisher,
    plain: Header,
}

impl Drop for Described<'_> {
    fn drop(&mut self) {
        self.publisher.header = self.plain;
    }
}

/// Publishes requests and answers: messages whose extension says where to answer, or what is answered.
pub(crate) struct Addressed(RawPublisher);

impl Addressed {
    pub(crate) fn attach<T: Speak>(topic: &Topic<T>) -> Result<Self, AttachError> {
        RawPublisher::attach(topic).map(Self)
    }

    pub(crate) fn default_lane(&self) -> Lane {
        Lane(self.0.default_lane as u8)
    }

    pub(crate) fn publish<S: Source>(
        &mut self,
        lane: Lane,
        source: &S,
        key: u64,
        extension: Extension,
        deadline: Duration,
    ) -> Result<u64, PublishError> {
        let Self(raw) = self;
        let is_request = extension.reply().is_some_and(Reply::is_request);
        if let Some(cause) = extension.cause().filter(|_| is_request) {
            raw.check_hops(lane.index(), source, (extension, key), cause)?;
        }
        if !raw.guard.fails_at_once() {
            raw.deadline = deadline;
        }
        raw.publish_described(lane, source, (0, key), Some(extension))
    }
}

impl<T: Message> Publisher<T> {
    /// Publishes a value with what `meta` says of it, in a lane, waiting for room up to the deadline. Returns its sequence.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    pub fn publish_with(&mut self, lane: Lane, value: &T, meta: &Meta) -> Result<u64, PublishError> {
        self.raw.publish_with(lane, &value, meta)
    }
}

impl<T: Speak> Publisher<T> {
    /// The same for payload bytes: see [`Publisher::publish_bytes`].
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    pub fn publish_bytes_with(
        &mut self,
        lane: Lane,
        payload: &[u8],
        meta: &Meta,
    ) -> Result<u64, PublishError> {
        self.raw.publish_with(lane, &payload, meta)
    }
}

impl<T> Publisher<T> {
    /// Follows publications of this topic to what becomes of them in a group: see [`Receipts`].
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn receipts(&self, group: &str) -> Result<Receipts, ReceiptError> {
        Receipts::open(&self.raw.bus, &self.raw.core, group)
    }

    /// How many causes may lie behind a publication ([`Meta::caused_by`]): one with more is refused as
    /// [`PublishError::Loop`]. Default, and at most: what the topic allows
    /// ([`TopicBuilder::hops_max`](crate::TopicBuilder::hops_max)).
    pub fn set_hops_max(&mut self, hops: u16) {
        self.raw.limit_hops(hops);
    }
}

impl RawPublisher {
    fn publish_with<S: Source>(&mut self, lane: Lane, source: &S, meta: &Meta) -> Result<u64, PublishError> {
        if let Some(cause) = meta.extension.cause().filter(|_| meta.is_extended) {
            self.check_hops(lane.index(), source, (meta.extension, meta.key), cause)?;
        }
        let ttl_ns = meta.ttl.map(|ttl| ttl.as_nanos().min(u128::from(u64::MAX / 2)) as u64);
        let expiry_ns = ttl_ns.map_or(0, |ttl_ns| monotonic_ns() + ttl_ns);
        let extension = meta.is_extended.then_some(meta.extension.with_expiry_ns(expiry_ns));
        self.publish_described(lane, source, (0, meta.key), extension)
    }

    /// Publishes with these flags and this key in the header, and an extension block before the payload if there is one.
    pub(super) fn publish_described<S: Source>(
        &mut self,
        lane: Lane,
        source: &S,
        (header_flags, key): (u8, u64),
        extension: Option<Extension>,
    ) -> Result<u64, PublishError> {
        let described = Described { plain: self.header, publisher: self };
        let publisher = &mut *described.publisher;
        (publisher.header.flags, publisher.header.reference) = (described.plain.flags | header_flags, key);
        match extension {
            Some(extension) => {
                publisher.header.flags |= flags::EXTENSION;
                Ok(publisher.publish(
                    Target::Lane(lane.index()),
                    Extended { source: *source, extension },
                    Patience::Deadline,
                    true,
                )?)
            }
            None => Ok(publisher.publish(Target::Lane(lane.index()), *source, Patience::Deadline, true)?),
        }
    }
}

/// Publishes messages that come as bytes, with the number of their type and what else stood in their header: dead letters.
pub(crate) struct Republisher(RawPublisher);

impl Republisher {
    pub(crate) fn attach(topic: &Topic<Bytes>) -> Result<Self, AttachError> {
        RawPublisher::attach(topic).map(Self)
    }

    pub(crate) fn publish(
        &mut self,
        lane: Lane,
        (kind, flags, key, extension): (u8, u8, u64, Option<Extension>),
        payload: &[u8],
    ) -> Result<u64, PublishError> {
        let Self(raw) = self;
        raw.header.kind = kind;
        loop {
            match raw.publish_described(lane, &payload, (flags, key), extension) {
                // It has time.
                Err(PublishError::Throttled { retry_after, .. }) => std::thread::sleep(retry_after),
                done => return done,
            }
        }
    }
}
