//! Answering a message in hand.

use super::{BatchItem, Delivery, RawSubscriber, Received};
use crate::arena::Source;
use crate::payload::Message;
use crate::requests::{Replies, ReplyError};
use bus_core::extension::{Extension, MessageId, Reply};

/// The answer's extension: whom it goes to, and what it says of itself.
fn address(raw: &RawSubscriber, delivery: &Delivery, flags: u8) -> Option<(Reply, Extension)> {
    let asked = delivery.found.extension()?;
    let to = asked.reply().filter(|reply| reply.is_request())?;
    let id = MessageId {
        topic_epoch: raw.core.epoch(),
        lane: delivery.lane as u8,
        sequence: delivery.found.sequence,
    };
    let mut extension = Extension::default().with_hops(asked.hops.saturating_add(1));
    extension.set_cause(id);
    extension.set_correlation(asked.correlation().unwrap_or(id.as_correlation()));
    extension.set_reply(Reply { process: raw.bus.me(), flags: Reply::ANSWER | flags, serial: to.serial });
    Some((to, extension))
}

fn answer<S: Source>(
    raw: &RawSubscriber,
    delivery: &Delivery,
    source: &S,
    kind: impl FnOnce(&mut Replies) -> u64,
    flags: u8,
) -> Result<(), ReplyError> {
    let (topic, sequence) = (raw.core.name(), delivery.found.sequence);
    let Some((to, extension)) = address(raw, delivery, flags) else {
        return Err(ReplyError::NotARequest { topic: topic.to_owned(), sequence });
    };
    let (hops, limit) = (extension.hops, raw.core.config().hops_max());
    // An error ends a conversation, and tells who asked at once.
    if hops > limit && flags & Reply::ERROR == 0 {
        return Err(ReplyError::TooDeep { topic: topic.to_owned(), sequence, hops, limit });
    }
    let mut replies = raw.replies.borrow_mut();
    let replies = replies.get_or_insert_default();
    let kind = kind(replies);
    let asked = crate::requests::Asked { topic, sequence, by: to.process };
    replies.answer(&raw.bus, asked, source, (kind, extension))
}

fn wants_reply(delivery: &Delivery) -> bool {
    delivery.found.extension().and_then(|asked| asked.reply()).is_some_and(Reply::is_request)
}

macro_rules! replying {
    ($name:ident) => {
        impl<T> $name<'_, T> {
            /// Does somebody wait for an answer to it?
            pub fn wants_reply(&self) -> bool {
                wants_reply(self.delivery())
            }

            /// Answers it, and leaves it in hand: acknowledge it afterwards. May be called again for who takes several answers. Waits for
            /// room for at most 100 ms.
            ///
            /// # Errors
            /// See [`ReplyError`]. Whether somebody still waits is not known here: an answer that is too late is counted by who asked.
            pub fn reply<A: Message>(&self, value: &A) -> Result<(), ReplyError> {
                answer(&self.subscriber.raw, self.delivery(), &value, |replies| replies.kind_of::<A>(), 0)
            }

            /// The same with bytes as they are.
            ///
            /// # Errors
            /// As `reply`.
            pub fn reply_bytes(&self, payload: &[u8]) -> Result<(), ReplyError> {
                answer(&self.subscriber.raw, self.delivery(), &payload, |_| 0, 0)
            }

            /// Answers with what a piece of work came to: its output, or why it failed. `Ok(false)` where nobody waits, or nobody is left to be
            /// answered.
            ///
            /// # Errors
            /// As `reply`, but for those two.
            pub fn reply_outcome(&self, outcome: Result<&[u8], &str>) -> Result<bool, ReplyError> {
                let sent = match outcome {
                    Ok(payload) => self.reply_bytes(payload),
                    Err(why) => self.reply_error(why),
                };
                match sent {
                    Ok(()) => Ok(true),
                    Err(ReplyError::NotARequest { .. } | ReplyError::Gone { .. }) => Ok(false),
                    Err(error) => Err(error),
                }
            }

            /// Answers that there is no answer, and why: who asked gets [`RequestError::Replied`](crate::RequestError::Replied).
            ///
            /// # Errors
            /// As `reply`.
            pub fn reply_error(&self, why: &str) -> Result<(), ReplyError> {
                answer(&self.subscriber.raw, self.delivery(), &why.as_bytes(), |_| 0, Reply::ERROR)
            }
        }
    };
}

replying!(Received);
replying!(BatchItem);
