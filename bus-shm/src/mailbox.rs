//! Mailboxes: addresses of agents that may be away.
//!
//! A mailbox `@reasoner` is the topic `_mail.reasoner`, whose one group `owner` is made with it, in the same rename: a message is
//! kept for the owner before it has ever come, and nobody can see a mailbox without its group. Whoever sends first or owns first
//! makes it; of several one does. Patterns leave it out, as all names of the bus.

use crate::bus::BusInner;
use crate::error::{AttachError, BusError, MailboxOwner, TopicError};
use crate::payload::Speak;
use crate::publisher::Publisher;
use crate::subscriber::{Subscriber, SubscriberBuilder};
use crate::topic::{Topic, TopicBuilder, TopicCore};
use bus_core::layout::{groups, wake};
use bus_core::limits::MAILBOX_CAPACITY;
use bus_core::name::{MAIL_TOPICS, MAILBOX_NAME_BYTES_MAX, NameError, check_dotted};
use std::borrow::Cow;
use std::sync::Arc;

/// The group of a mailbox's owner.
pub const OWNER: &str = "owner";

/// A mailbox could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailboxError {
    /// A name that is not allowed.
    #[error("{name:?} cannot name a mailbox: {why}")]
    Name {
        /// The name, without its `@`.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// Another process, or another handle of this one, owns it.
    #[error(
        "mailbox @{mailbox} is owned by pid {pid} ({service}); one at a time can, the next one when that one ends"
    )]
    Owned {
        /// The mailbox.
        mailbox: String,
        /// Its owner's process.
        pid: u32,
        /// Its owner's service name.
        service: String,
    },
    /// It could not be opened or joined.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl From<TopicError> for MailboxError {
    fn from(error: TopicError) -> Self {
        MailboxError::Attach(error.into())
    }
}

impl From<BusError> for MailboxError {
    fn from(error: BusError) -> Self {
        MailboxError::Attach(error.into())
    }
}

/// The topic of a mailbox.
///
/// # Errors
/// A name that is not allowed.
pub fn topic_of(name: &str) -> Result<String, MailboxError> {
    check_dotted(name, MAILBOX_NAME_BYTES_MAX)
        .map_err(|why| MailboxError::Name { name: name.to_owned(), why })?;
    Ok(format!("{MAIL_TOPICS}{name}"))
}

/// The mailbox that a topic is.
pub fn mailbox_of(topic: &str) -> Option<&str> {
    topic.strip_prefix(MAIL_TOPICS)
}

/// A topic's name as it is shown to people: a mailbox as `@name`.
pub fn display(topic: &str) -> Cow<'_, str> {
    mailbox_of(topic).map_or(Cow::Borrowed(topic), |name| Cow::Owned(format!("@{name}")))
}

/// Where the owner of this mailbox is, by the state of its group. `None` for other topics.
pub(crate) fn owner_of(core: &TopicCore, state: u8) -> Option<MailboxOwner> {
    mailbox_of(core.name())?;
    Some(match (state, core.wake_word(wake::at::AWAY_SINCE)) {
        (groups::state::HELD, 0) => MailboxOwner::None,
        (groups::state::HELD, since_ns) => MailboxOwner::AwaySince(since_ns),
        _ => MailboxOwner::There,
    })
}

/// A mailbox: see [`crate::Bus::mailbox`].
pub struct Mailbox<T> {
    topic: Topic<T>,
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("name", &display(self.topic.core.name())).finish_non_exhaustive()
    }
}

impl<T: Speak> Mailbox<T> {
    pub(crate) fn open(bus: &Arc<BusInner>, name: &str) -> Result<Self, MailboxError> {
        // One that is there is taken as it is.
        if let Some(found) = Self::find(bus, name)? {
            return Ok(found);
        }
        let topic = TopicBuilder::new(bus.clone(), &topic_of(name)?)
            .capacity(MAILBOX_CAPACITY)
            .lanes(1)
            .with_group(OWNER)
            .small_arenas()
            .for_the_bus()
            .open()?;
        Ok(Self { topic })
    }

    /// One that somebody has made.
    pub(crate) fn find(bus: &Arc<BusInner>, name: &str) -> Result<Option<Self>, MailboxError> {
        let found = TopicBuilder::new(bus.clone(), &topic_of(name)?).for_the_bus().create(false).open();
        match found {
            Err(TopicError::NotFound { .. }) => Ok(None),
            opened => Ok(Some(Self { topic: opened? })),
        }
    }

    /// Its name, without the `@`.
    pub fn name(&self) -> &str {
        mailbox_of(self.topic.name()).unwrap_or_default()
    }

    /// Its topic, for what can be said of any topic.
    pub fn topic(&self) -> &Topic<T> {
        &self.topic
    }

    pub(crate) fn into_topic(self) -> Topic<T> {
        self.topic
    }

    /// Sends to it, whether its owner is there or not.
    ///
    /// # Errors
    /// As [`Topic::publisher`]. A full mailbox is [`PublishError::Full`](crate::PublishError::Full), which says since when its owner is
    /// away.
    pub fn publisher(&self) -> Result<Publisher<T>, AttachError> {
        self.topic.publisher()
    }

    /// Owns it: reads what has come since it was made, in order. What the last owner had in hand when it ended comes again, marked.
    ///
    /// # Errors
    /// [`MailboxError::Owned`] names who has it.
    pub fn own(&self) -> Result<Subscriber<T>, MailboxError> {
        self.own_with(|owner| owner)
    }

    /// The same with more options of a subscriber.
    ///
    /// # Errors
    /// As [`Mailbox::own`].
    pub fn own_with(
        &self,
        options: impl FnOnce(SubscriberBuilder<T>) -> SubscriberBuilder<T>,
    ) -> Result<Subscriber<T>, MailboxError> {
        options(self.topic.subscriber()).group(OWNER).join().map_err(|error| match error {
            AttachError::GroupBusy { pid, service, .. } => {
                MailboxError::Owned { mailbox: self.name().to_owned(), pid, service }
            }
            other => other.into(),
        })
    }

    /// Where its owner is.
    pub fn owner(&self) -> MailboxOwner {
        let core = &self.topic.core;
        let key = bus_core::name::key(OWNER);
        let entry = (0..core.groups_used())
            .find(|&entry| core.group_number(entry, groups::in_entry::KEY) == key)
            .unwrap_or_default();
        let word = core.group_number(entry, groups::in_entry::STATE);
        let word = bus_core::holder::HolderWord::unpack(word);
        owner_of(core, word.state).unwrap_or(MailboxOwner::None)
    }
}
