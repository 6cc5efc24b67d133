//! What can go wrong when one asks, and when one answers.

use crate::error::{AttachError, BusError, PublishError, ReceiveError, TopicError};
use crate::text::Escaped;
use std::time::Duration;

/// Why nobody can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// There is no such topic.
    NoTopic,
    /// There is no such mailbox.
    NoMailbox,
    /// No group reads it.
    NoGroup,
    /// Groups keep its messages, and none has a live member.
    NoMember,
}

impl std::fmt::Display for Nobody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Nobody::NoTopic => "there is no such topic; start a replier, which makes it",
            Nobody::NoMailbox => "there is no such mailbox; its owner makes it, or the first who sends to it, or a request that may (`create_mailbox`, `--create`)",
            Nobody::NoGroup => "no group reads it, and taps do not count; start a replier",
            Nobody::NoMember => "no member of its groups is alive; start a replier, or leave the request to those groups (`even_if_away`)",
        })
    }
}

/// A request was not sent, or has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nobody is there who could answer. Nothing was published.
    #[error("topic {topic:?}: nobody can answer: {why}")]
    NoReplier {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// Why.
        why: Nobody,
    },
    /// No answer came before the deadline.
    #[error(
        "topic {topic:?}: no answer within {waited:?}; {got} of {groups} group(s) had been handed the request"
    )]
    Timeout {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// The time that was allowed.
        waited: Duration,
        /// Groups that the request was for.
        groups: usize,
        /// Those of them that had it in hand, or were done with it.
        got: usize,
    },
    /// No answer can come any more: the request is a dead letter of every group that it was for.
    #[error(
        "topic {topic:?}: the request is a dead letter of group {group:?}: {}; see `shmbus dlq ls {topic}`",
        Escaped(error)
    )]
    DeadLetter {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// One of the groups.
        group: String,
        /// Why it could not be handled there.
        error: String,
    },
    /// The replier says why it does not answer.
    #[error("topic {topic:?}: the replier answered with an error: {}", Escaped(text))]
    Replied {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// Its words, as they are; the error's text shows them with escapes.
        text: String,
    },
    /// The answer is of another type than was asked for.
    #[error(
        "topic {topic:?}: the answer is no {expected}; ask for the type that the replier answers with, or for `Bytes`"
    )]
    OtherType {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// The type that was asked for.
        expected: String,
    },
    /// The bytes of the answer are no archive of the type that they claim to be.
    #[error(
        "topic {topic:?}: the answer's {len} bytes are not a valid {expected}; its replier is broken or of another build"
    )]
    Invalid {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// The type that was asked for.
        expected: String,
        /// How long the answer is.
        len: usize,
    },
    /// As many requests of this process as can wait at a time do.
    #[error(
        "topic {topic:?}: {max} requests of this process wait for answers already; take some, or drop those that nobody waits for"
    )]
    TooMany {
        /// The topic, or the mailbox with its `@`.
        topic: String,
        /// How many can.
        max: u32,
    },
    /// What was asked for makes no sense.
    #[error("topic {topic:?}: {why}")]
    Usage {
        /// The topic.
        topic: String,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// The request could not be published: the lane is full, a breaker or quota refused it, and so on.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The topic takes no more publishers, or the place for answers could not be joined.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The mailbox could not be opened.
    #[error(transparent)]
    Mailbox(#[from] crate::mailbox::MailboxError),
    /// Answers could not be received.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

impl From<TopicError> for RequestError {
    fn from(error: TopicError) -> Self {
        RequestError::Attach(error.into())
    }
}

impl From<BusError> for RequestError {
    fn from(error: BusError) -> Self {
        RequestError::Attach(error.into())
    }
}

/// An answer was not sent. The message is still in hand: acknowledge it, or give it back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Nobody waits for an answer to this message.
    #[error("topic {topic:?}: nobody asked for an answer to message {sequence}; see `wants_reply`")]
    NotARequest {
        /// The topic.
        topic: String,
        /// The message.
        sequence: u64,
    },
    /// More causes would lie behind the answer than the request's topic allows. An error can be answered all the same (`reply_error`).
    #[error(
        "topic {topic:?}: {hops} causes lie behind an answer to message {sequence}, and {limit} are allowed: such a conversation goes round in a circle; answer with an error"
    )]
    TooDeep {
        /// The topic.
        topic: String,
        /// The message.
        sequence: u64,
        /// Causes behind the answer.
        hops: u16,
        /// As many are allowed.
        limit: u16,
    },
    /// Whoever asked has ended since.
    #[error(
        "topic {topic:?}: whoever asked message {sequence} takes part no more; nobody is left to be answered"
    )]
    Gone {
        /// The topic.
        topic: String,
        /// The message.
        sequence: u64,
    },
    /// Whoever asked does not take its answers: it is stopped, or busy. The next answer to it waits no more until one has found room.
    #[error(
        "topic {topic:?}, message {sequence}: {} has not taken its answers for {waited:?}, and there is no room for more; answer again later (`retry`), or let it go",
        Escaped(requester)
    )]
    Full {
        /// The topic of the request.
        topic: String,
        /// The message.
        sequence: u64,
        /// Whoever asked: service and process.
        requester: String,
        /// How long was waited for room.
        waited: Duration,
    },
    /// The answer could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The place for answers takes no more publishers, or could not be opened.
    #[error(transparent)]
    Attach(#[from] AttachError),
}
