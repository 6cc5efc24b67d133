//! What can go wrong with a subscription over many topics.

use crate::error::{AttachError, BusError, NotOwner, ReceiveError, RegionError};
use crate::sys::error::SysError;
use bus_core::pattern::PatternError;

/// A subscription over many topics could not be made, or one of its topics failed. The other topics go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManyError {
    /// A pattern that is not allowed.
    #[error("{pattern:?} is no pattern of topics: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: PatternError,
    },
    /// Too many patterns, or none.
    #[error("a subscription takes 1 to {max} patterns, not {count}; use wider ones")]
    Patterns {
        /// How many were given.
        count: usize,
        /// How many it takes.
        max: usize,
    },
    /// Options that exclude each other.
    #[error("a subscription cannot be {first} and {second}; choose one")]
    Conflict {
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// The bus has no place for another subscription over many topics.
    #[error(
        "bus {bus:?} has {max} subscriptions over many topics already; close one, or subscribe to single topics"
    )]
    ListenerLimit {
        /// The bus.
        bus: String,
        /// How many there can be.
        max: u32,
    },
    /// A topic beyond what one subscription can take. Told once for each topic.
    #[error("topic {topic:?} is left out: this subscription has {max} topics already; use narrower patterns")]
    TopicLimit {
        /// The topic.
        topic: String,
        /// How many there can be.
        max: u32,
    },
    /// A topic that has no place for another such subscription. Told once for each topic; it is tried again about once a second.
    #[error("topic {topic:?} is left out: {max} subscriptions over many topics listen there already")]
    TopicListeners {
        /// The topic.
        topic: String,
        /// How many it takes.
        max: u32,
    },
    /// A topic could not be joined. Told once for each topic; it is tried again about once a second, where that can help.
    #[error("topic {topic:?} is left out for now: {source}")]
    Join {
        /// The topic.
        topic: String,
        /// Why.
        source: AttachError,
    },
    /// A subscription for tasks was made outside of a tokio runtime.
    #[error("this is no thread of a tokio runtime; join from a task, or enter the runtime first")]
    NoRuntime,
    /// A topic failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The bus is gone.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The file of listeners could not be used.
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl From<SysError> for ManyError {
    fn from(error: SysError) -> Self {
        ManyError::Region(error.into())
    }
}

impl From<NotOwner> for ManyError {
    fn from(error: NotOwner) -> Self {
        ManyError::Receive(error.into())
    }
}
