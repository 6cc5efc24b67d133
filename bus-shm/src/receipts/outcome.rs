//! What has become of a message, and why that cannot be told.

use crate::dead_letters::LetterId;
use crate::error::RegionError;
use std::path::PathBuf;

/// What has become of a message in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Not finished: the group has not come to it, or has it in hand.
    Pending,
    /// It failed, and waits for another attempt or is at it.
    Retrying(Failed),
    /// The group has acknowledged it.
    Handled,
    /// Its time to live was over.
    Expired,
    /// The group did not want it: its filter, its sample, or another type.
    Skipped,
    /// It is a dead letter of the group, or was one: without the letter, that has been purged, replayed, or has made room for another.
    DeadLettered(Option<Failed>),
    /// It was overwritten before the group came to it, or the group began after it.
    Missed,
    /// The group has let go of it, or is not there any more, and nothing keeps the message for it. A named group may come back, and find it all
    /// the same.
    LetGo,
    /// The group is past it, and what became of it is no longer known: others have taken the place of its record, or there was no memory
    /// for one, or it was published before the group last began.
    Unknown,
}

impl Outcome {
    /// Is it over, so that waiting for more is in vain?
    pub const fn is_settled(&self) -> bool {
        !matches!(self, Outcome::Pending | Outcome::Retrying(_))
    }

    /// In a word: `pending`, `retrying`, `handled`, `expired`, `skipped`, `dead-lettered`, `missed`, `let-go`, `unknown`.
    pub const fn name(&self) -> &'static str {
        match self {
            Outcome::Pending => "pending",
            Outcome::Retrying(_) => "retrying",
            Outcome::Handled => "handled",
            Outcome::Expired => "expired",
            Outcome::Skipped => "skipped",
            Outcome::DeadLettered(_) => "dead-lettered",
            Outcome::Missed => "missed",
            Outcome::LetGo => "let-go",
            Outcome::Unknown => "unknown",
        }
    }

    /// What is known of its last failure.
    pub const fn failed(&self) -> Option<&Failed> {
        match self {
            Outcome::Retrying(failed) => Some(failed),
            Outcome::DeadLettered(failed) => failed.as_ref(),
            _ => None,
        }
    }
}

/// How a message failed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Why: the first 96 bytes.
    pub error: String,
    /// How often it has been handed out.
    pub attempts: u8,
    /// Service that failed.
    pub service: String,
    /// Its handler.
    pub handler: String,
    /// Of a dead letter: what it is named by.
    pub letter: Option<LetterId>,
}

/// Why a message cannot be followed, or not any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// There is no such group.
    #[error("topic {topic:?} has no group {group:?}; it has {}", if groups.is_empty() { "none" } else { groups.as_str() })]
    NoGroup {
        /// The topic.
        topic: String,
        /// What was asked for.
        group: String,
        /// The groups that there are.
        groups: String,
    },
    /// A topic that keeps the newest has no groups that anything could be followed to.
    #[error(
        "topic {topic:?} keeps the newest messages: it has no groups, and nobody can tell who has had which message"
    )]
    KeepsNewest {
        /// The topic.
        topic: String,
    },
    /// There is no such lane.
    #[error("topic {topic:?} has no lane {lane}, only 0 to {}", lanes - 1)]
    Lane {
        /// The topic.
        topic: String,
        /// What was asked for.
        lane: u8,
        /// Lanes that there are.
        lanes: usize,
    },
    /// Nobody reads for the group, and the caller did not want to wait for somebody.
    #[error(
        "topic {topic:?}: nobody reads for group {group:?}, so message {sequence} of lane {lane} is not handled now; it is kept, and whoever joins gets it"
    )]
    Unattended {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// The message's lane.
        lane: u8,
        /// Its number.
        sequence: u64,
    },
    /// The bus has been taken down.
    #[error("topic {topic:?}: the bus has been taken down")]
    BusClosed {
        /// The topic.
        topic: String,
    },
    /// The files are gone.
    #[error("topic {topic:?}: {} has been removed under the running bus", path.display())]
    BusUnlinked {
        /// The topic.
        topic: String,
        /// What has gone.
        path: PathBuf,
    },
    /// This process was forked from the one that opened the bus.
    #[error(
        "topic {topic:?} is used in a process forked after the bus was opened; open the bus in the child"
    )]
    UsedAfterFork {
        /// The topic.
        topic: String,
    },
    /// A file of the group cannot be used, or made.
    #[error(transparent)]
    Region(#[from] RegionError),
}
