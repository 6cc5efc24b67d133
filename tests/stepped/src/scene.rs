//! What an operation finds when it begins.

use crate::body::{number_of, parts};
use crate::told::Facts;
use bus_shm::dead_letters::Full;
use bus_shm::{
    Bus, Bytes, Lane, Meta, PublishError, Publisher, Subscriber, SubscriberBuilder, Topic, TopicError,
};
use std::path::Path;
use std::time::Duration;

/// Name of the bus, in a directory of its own.
pub const BUS: &str = "stepped";
/// Name of the topic.
pub const TOPIC: &str = "t";
/// Another topic, to which dead letters are replayed.
pub const ELSEWHERE: &str = "u";
/// A group that nobody but survivors reads, and that holds every message for them.
pub const WITNESS: &str = "w";
/// The group that the child is a member of, if the scene has one.
pub const GROUP: &str = "g";

/// What the group of the scene is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// There is none.
    None,
    /// It has one member.
    One,
    /// It is shared.
    Shared,
    /// It has one member, and is made when the first one joins.
    New,
    /// It is shared, and made when the first member joins.
    NewShared,
    /// It is keyed.
    Keyed,
}

impl Group {
    /// Has it many members?
    pub fn is_shared(self) -> bool {
        matches!(self, Group::Shared | Group::NewShared | Group::Keyed)
    }

    /// Is it there from the beginning, and has many members?
    pub fn has_room(self) -> bool {
        matches!(self, Group::Shared | Group::Keyed)
    }
}

/// Topic, group, and what lies in the lane.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Producer entries; 1: the other protocol.
    pub producers: u32,
    /// Slots of the lane.
    pub capacity: u32,
    /// Payload bytes in a slot of a one-producer lane.
    pub inline_bytes: u32,
    /// Length of the messages.
    pub body_bytes: usize,
    /// Messages carry a type.
    pub typed: bool,
    /// The group of the child.
    pub group: Group,
    /// Messages that are there before the child prepares; by a publisher that has left.
    pub ready: u64,
    /// Bus and topic are there.
    pub exists: bool,
    /// Messages of the group fail, and are put aside.
    pub late: Option<Late>,
    /// Messages have so many keys in turn; 0: none.
    pub keys: u64,
}

/// The keys: of the lower and of the upper half of the partitions. Those of the upper one go to another member that comes.
pub const KEYS: [&str; 2] = ["b", "a"];

/// What a group does with messages that fail.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// How often a message is handed out at most.
    pub attempts: u8,
    /// How long a member may be silent; `None`: as long as nobody will wait for.
    pub ack_wait: Option<Duration>,
    /// Entries of the store.
    pub entries: u32,
    /// The oldest dead letter makes room for the newest.
    pub drops: bool,
}

impl Late {
    /// As many attempts as nobody makes, and more room than anybody needs.
    pub const PLAIN: Self = Self { attempts: 10, ack_wait: None, entries: 32, drops: false };
}

/// How long a message waits at most that failed.
pub const RETRY_DELAY: Duration = Duration::from_millis(12);

impl Scene {
    /// Many producers, no group but the witness's.
    pub const MANY: Self = Self {
        producers: 4,
        capacity: 16,
        inline_bytes: 96,
        body_bytes: 64,
        typed: false,
        group: Group::None,
        ready: 0,
        exists: true,
        late: None,
        keys: 0,
    };
    /// One producer, messages in the slot.
    pub const ONE: Self = Self { producers: 1, ..Self::MANY };

    /// The same with a group and messages for it.
    pub const fn with_group(self, group: Group, ready: u64) -> Self {
        Self { group, ready, ..self }
    }

    /// The same with messages that fail.
    pub const fn with_late(self, late: Late) -> Self {
        Self { late: Some(late), ..self }
    }

    /// The same with so many keys, two at most.
    pub const fn with_keys(self, keys: u64) -> Self {
        Self { keys, ..self }
    }

    /// Does a member of its keyed group lose its keys when it stands still?
    pub fn is_fenced(&self) -> bool {
        self.group == Group::Keyed && self.late.is_some_and(|late| late.ack_wait.is_some())
    }

    /// The key of a message by its number.
    pub fn key_of(&self, number: u64) -> Option<&'static str> {
        (self.keys > 0).then(|| KEYS[(parts(number).1 % self.keys) as usize])
    }

    /// How far beyond the last message that it told of one may have been handed to whoever asked and was not told: one for each time that
    /// it asked, and in a keyed group as far as the next of its key.
    pub fn unknown(&self, facts: &Facts) -> u64 {
        facts.asked.saturating_sub(facts.received.len() as u64) * self.keys.max(1)
    }

    /// Publishes a message, with its key if it has one.
    ///
    /// # Errors
    /// What publishing says.
    #[inline]
    pub fn publish(&self, publisher: &mut Publisher<Bytes>, body: &[u8]) -> Result<u64, PublishError> {
        match number_of(body).and_then(|number| self.key_of(number)) {
            Some(key) => publisher.publish_bytes_with(Lane::CRITICAL, body, &Meta::new().key(key)),
            None => publisher.publish(body),
        }
    }

    /// How a member of the group joins.
    pub fn group_of(&self, topic: &Topic<Bytes>) -> SubscriberBuilder<Bytes> {
        let builder = topic.group(GROUP);
        let builder = if self.group.is_shared() { builder.shared() } else { builder };
        let builder = if self.group == Group::Keyed { builder.keyed() } else { builder };
        let Some(late) = self.late else { return builder };
        let builder = match late.ack_wait {
            Some(wait) => builder.ack_wait(wait),
            None => builder,
        };
        builder
            .attempts(late.attempts)
            .aside_entries(late.entries)
            .retry_delays(RETRY_DELAY, RETRY_DELAY)
            .dead_letters_full(if late.drops { Full::DropOldest } else { Full::Hold })
    }

    /// A member of the group.
    ///
    /// # Panics
    /// Where it cannot join.
    pub fn member(&self, topic: &Topic<Bytes>) -> Subscriber<Bytes> {
        self.group_of(topic).join().expect("a member")
    }

    /// Opens the topic, or creates it.
    ///
    /// # Errors
    /// What opening it says.
    pub fn topic(&self, bus: &Bus) -> Result<Topic<Bytes>, TopicError> {
        self.typed_topic::<Bytes>(bus)
    }

    /// The same with a type.
    ///
    /// # Errors
    /// What opening it says.
    pub fn typed_topic<T: bus_shm::Speak>(&self, bus: &Bus) -> Result<Topic<T>, TopicError> {
        let builder = bus.topic_builder::<T>(TOPIC);
        let builder = if self.typed { builder.accepts::<crate::body::Words>() } else { builder };
        let builder = builder
            .lanes(1)
            .producers(self.producers)
            .capacity(self.capacity)
            .inline_bytes(self.inline_bytes)
            .with_group(WITNESS);
        // Payloads behind the table are compared byte by byte with what they were, so there is little room for them.
        let builder = if self.late.is_some() { builder.max_message(1024) } else { builder };
        let builder = match self.group {
            Group::None | Group::New | Group::NewShared => builder,
            Group::One => builder.with_group(GROUP),
            Group::Shared => builder.with_shared_group(GROUP),
            Group::Keyed => builder.with_keyed_group(GROUP),
        };
        builder.open()
    }

    /// Opens the bus without ever taking the supervisor's role.
    ///
    /// # Panics
    /// Where it cannot be opened.
    pub fn bus(dir: &Path, service: &str) -> Bus {
        Bus::builder(BUS).dir(dir).service(service).host(false).open().expect("the bus of the scene")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_shm::keys::partition_of_key;

    #[test]
    fn the_keys_lie_in_both_halves() {
        let [lower, upper] = KEYS.map(partition_of_key);
        assert!(upper >= 128 && lower < 86, "{upper} {lower}");
    }
}
