//! Dead letters: messages that were handed out too often, rejected, or could not be read.
//!
//! A dead letter is an entry of its group's aside store; there is no second copy to lose or to double. [`list`] shows them
//! without taking part in the bus; [`purge`] removes them; [`replay()`] publishes them again.

mod announce;
mod letter;
mod replay;

pub(crate) use announce::{Announcer, announce_left_over};
pub use letter::{DeadLetter, Filter, LetterId, LetterIdError, list, payload, purge};
pub(crate) use letter::{extension_in, id, type_name};
pub(crate) use replay::kind_in;
pub use replay::{ReplayError, ReplayRefused, replay};

use crate::bus::BusInner;
use crate::error::TopicError;
use crate::topic::{Topic, TopicBuilder};
use bus_core::name::LETTER_TOPICS;
use std::sync::Arc;

/// What becomes of a dead letter that finds the store full of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Full {
    /// It is kept where it is: in the ring, which it holds, or among the messages that wait.
    #[default]
    Hold,
    /// The oldest makes room for it, and is counted.
    DropOldest,
}

/// What is published on `_bus.dlq.<topic>` for each dead letter, at least once.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize)]
pub struct DeadLetterNotice {
    /// The topic.
    pub topic: String,
    /// The group that could not handle it.
    pub group: String,
    /// Its lane.
    pub lane: u8,
    /// Its number in the lane.
    pub sequence: u64,
    /// How often it was handed out.
    pub attempts: u8,
    /// Bytes of its payload.
    pub len_bytes: u32,
    /// Service that failed last.
    pub service: String,
    /// Handler that failed last.
    pub handler: String,
    /// Why.
    pub error: String,
    /// CLOCK_REALTIME ns of the first failure.
    pub first_ns: u64,
    /// CLOCK_REALTIME ns of the last.
    pub last_ns: u64,
}
crate::message!(
    DeadLetterNotice,
    version 1,
    { topic, group, lane, sequence, attempts, len_bytes, service, handler, error, first_ns, last_ns }
);

/// Slots of such a topic.
const CAPACITY: u32 = 256;

/// Is somebody told of this topic's dead letters? Not of announcements, nor of answers.
pub(crate) fn are_announced(topic: &str) -> bool {
    !topic.starts_with('_') || topic.starts_with(bus_core::name::MAIL_TOPICS)
}

/// The topic on which the dead letters of `topic` are announced, made if need be.
pub(crate) fn notices(bus: Arc<BusInner>, topic: &str) -> Result<Topic<DeadLetterNotice>, TopicError> {
    TopicBuilder::new(bus, &format!("{LETTER_TOPICS}{topic}"))
        .capacity(CAPACITY)
        .lanes(1)
        .for_the_bus()
        .open()
}
