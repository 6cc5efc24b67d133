//! What a handler is given besides its message.

use super::{HandlerError, Stopper};
use crate::bus::Bus;
use crate::metadata::{Meta, Metadata};
use crate::payload::{Bytes, Message, Speak};
use crate::publisher::Publisher;
use bus_core::lane::Lane;
use std::any::{Any, TypeId};
use std::collections::HashMap;

/// Publishers that are kept of one type; beyond that the one that was not used for longest is let go.
const PUBLISHERS_MAX: usize = 64;

/// Publishers of one type, by their topics, and when each was last used.
type Publishers<T> = HashMap<String, (Publisher<T>, u64)>;

/// What a handler can do besides handling its message: publish what follows from it, and see that it is time to end. Each thread of a
/// handler has its own.
pub struct Context {
    bus: Bus,
    /// [`Publishers`] by the type of their messages.
    publishers: HashMap<TypeId, Box<dyn Any + Send>>,
    /// How often a publisher was asked for.
    used_count: u64,
    meta: Meta,
    stopper: Stopper,
    has_done: bool,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(bus: Bus, stopper: Stopper) -> Self {
        Self { bus, publishers: HashMap::new(), used_count: 0, meta: Meta::new(), stopper, has_done: false }
    }

    /// The bus.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Publishes what follows from the message: in the topic's usual lane, with the message as its cause. The topic is opened at the
    /// first call, and made with default options if there is none.
    ///
    /// # Errors
    /// Of [`Bus::topic`], [`crate::Topic::publisher`] or [`Publisher::publish`]. A handler that returns it has the message come
    /// again.
    pub fn publish<V: Message + 'static>(&mut self, topic: &str, value: &V) -> Result<u64, HandlerError> {
        let meta = self.meta;
        let publisher = self.publisher::<V>(topic)?;
        Ok(publisher.publish_with(publisher.default_lane(), value, &meta)?)
    }

    /// The same in this lane.
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn publish_to<V: Message + 'static>(
        &mut self,
        topic: &str,
        lane: Lane,
        value: &V,
    ) -> Result<u64, HandlerError> {
        let meta = self.meta;
        self.publish_with(topic, lane, value, &meta)
    }

    /// The same, in this lane and with what `meta` says; begin with [`Context::meta`] to keep the cause.
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn publish_with<V: Message + 'static>(
        &mut self,
        topic: &str,
        lane: Lane,
        value: &V,
        meta: &Meta,
    ) -> Result<u64, HandlerError> {
        Ok(self.publisher::<V>(topic)?.publish_with(lane, value, meta)?)
    }

    /// Publishes bytes that follow from the message, as [`Context::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish_bytes(&mut self, topic: &str, payload: &[u8]) -> Result<u64, HandlerError> {
        let meta = self.meta;
        let publisher = self.publisher::<Bytes>(topic)?;
        Ok(publisher.publish_bytes_with(publisher.default_lane(), payload, &meta)?)
    }

    /// What publications of this handler say of themselves: that the message caused them.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// From here on this message is the cause of what is published. Set before each message; a handler of batches says it itself.
    pub fn caused_by(&mut self, cause: &Metadata<'_>) {
        self.meta = Meta::new().caused_by(cause);
    }

    pub(super) fn no_cause(&mut self) {
        self.meta = Meta::new();
    }

    /// Is it time to end? A handler that works for long looks at it now and then.
    pub fn shutdown_requested(&self) -> bool {
        self.stopper.is_requested()
    }

    /// Has all handlers end, as a signal does: each finishes what it has in hand, this message included.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// The same if `it_is_time`.
    pub fn stop_if(&self, it_is_time: bool) {
        if it_is_time {
            self.stop();
        }
    }

    /// Has this thread of the handler take no further message. The others go on; this message is settled as ever.
    pub fn take_no_more(&mut self) {
        self.has_done = true;
    }

    pub(super) fn takes_no_more(&self) -> bool {
        self.has_done || self.shutdown_requested()
    }

    /// The publisher for a topic, kept for as long as the handler lives and uses no more than 63 others of its type.
    ///
    /// # Errors
    /// Of [`Bus::topic`] or [`crate::Topic::publisher`].
    pub fn publisher<V: Speak + 'static>(&mut self, topic: &str) -> Result<&mut Publisher<V>, HandlerError> {
        let of_type = self
            .publishers
            .entry(TypeId::of::<V>())
            .or_insert_with(|| Box::new(Publishers::<V>::new()))
            .downcast_mut::<Publishers<V>>();
        let Some(of_type) = of_type else { unreachable!("they are kept by their type") };
        self.used_count += 1;
        if !of_type.contains_key(topic) {
            if of_type.len() >= PUBLISHERS_MAX {
                let oldest = of_type.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
                oldest.map(|name| of_type.remove(&name));
            }
            let publisher = self.bus.topic::<V>(topic)?.publisher()?;
            of_type.insert(topic.to_owned(), (publisher, 0));
        }
        match of_type.get_mut(topic) {
            Some((publisher, used)) => {
                *used = self.used_count;
                Ok(publisher)
            }
            None => unreachable!("it was inserted above"),
        }
    }
}
