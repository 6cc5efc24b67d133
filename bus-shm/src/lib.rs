//! A lock-free message bus in shared memory, for the processes of one Linux machine.
//!
//! ```no_run
//! #[derive(rkyv::Archive, rkyv::Serialize)]
//! struct Observation {
//!     sensor: u32,
//!     text: String,
//! }
//! bus_shm::message!(Observation, version 1, { sensor, text });
//!
//! // One process publishes ...
//! let bus = bus_shm::Bus::open("demo")?;
//! let topic = bus.topic::<Observation>("observation.email")?;
//! topic.publisher()?.publish(&Observation { sensor: 7, text: "hello".into() })?;
//!
//! // ... another one reads where it lies, and says when it is done.
//! let mut subscriber = topic.group("reasoner").join()?;
//! let message = subscriber.receive()?;
//! println!("{}", message.value()?.text);
//! message.ack()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is promised, and what is lost when a process dies, stands in README.md; how it is kept, in ARCHITECTURE.md.
//!
//! It is not for several machines, not a database (memory is gone after a reboot), and not for processes of different users.
#![deny(unsafe_code)]

mod arena;
mod aside;
mod attached;
pub mod brief;
pub mod bus;
pub mod dead_letters;
pub mod dedup;
pub mod directory;
pub mod error;
mod finding;
pub mod fsck;
mod group;
pub mod handlers;
pub mod inspect;
pub mod keys;
mod lease;
mod listeners;
pub mod mailbox;
pub mod many;
pub mod metadata;
mod observe;
mod outcomes;
pub mod payload;
pub mod presence;
pub mod publisher;
pub mod quota;
mod reader;
pub mod receipts;
mod region;
mod repair;
pub mod replay;
pub mod requests;
pub mod subscriber;
pub mod supervisor;
#[doc(hidden)]
pub mod sys;
pub mod text;
pub mod topic;
pub mod trace;
mod wait;

pub use bus::{Bus, BusBuilder};
pub use bus_core::extension::MessageId;
pub use bus_core::lane::Lane;
pub use error::{
    AttachError, BreakerReason, BusError, MailboxOwner, NotOwner, PublishError, ReceiveError, RegionError,
    TopicError,
};
pub use handlers::{Context, Handlers, Registration};
pub use lease::ParticipantInfo;
pub use mailbox::{Mailbox, MailboxError};
#[cfg(feature = "tokio")]
pub use many::{AsyncSubscriber, Messages, OwnedMessage};
pub use many::{Incoming, ManyBuilder, ManyError, ManyInterrupter, ManySubscriber};
pub use metadata::{Meta, Metadata};
pub use payload::{Bytes, Message, Speak, TypeIdentity};
#[cfg(feature = "tokio")]
pub use publisher::AsyncPublisher;
pub use publisher::{Loan, Publisher};
pub use quota::Quota;
pub use receipts::{Outcome, Receipt, ReceiptError, ReceiptSet, Receipts};
pub use repair::collect_garbage;
pub use requests::{Answer, Ask, Gather, Pending, ReplyError, RequestError, Requester};
pub use subscriber::{
    Batch, BatchItem, Expired, OtherTypes, Received, Stall, StallPolicy, Start, Subscriber, SubscriberBuilder,
};
pub use topic::{Overflow, Topic, TopicBuilder};
pub use wait::Wait;

/// The snippets of README.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeSnippets;
