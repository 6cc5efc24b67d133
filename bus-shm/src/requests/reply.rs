//! Answering: the publishers of one subscriber on the topics of those who asked.

use super::ReplyError;
use crate::arena::Source;
use crate::bus::BusInner;
use crate::directory::reply_topic;
use crate::error::{AttachError, PublishError, TopicError};
use crate::payload::{Bytes, Message};
use crate::publisher::Addressed;
use crate::topic::TopicBuilder;
use bus_core::extension::Extension;
use bus_core::holder::Holder;
use bus_core::lane::Lane;
use std::any::TypeId;
use std::sync::Arc;
use std::time::Duration;

/// Those who asked that are kept; the one that was answered longest ago makes room.
const KEPT_MAX: usize = 64;
/// How long an answer waits for room with who asked. A process that takes none costs that once, until it has taken some.
const DEADLINE: Duration = Duration::from_millis(100);

/// A publisher for one who asked.
struct Kept {
    to: Holder,
    publisher: Addressed,
    /// The last answer found no room.
    is_full: bool,
    turn: u64,
}

/// Publishers for those who asked.
#[derive(Default)]
pub(crate) struct Replies {
    kept: Vec<Kept>,
    turn: u64,
    /// The type of the last answer, and its fingerprint, which takes a while to compute.
    kind: Option<(TypeId, u64)>,
}

/// Which message is answered.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) topic: &'a str,
    pub(crate) sequence: u64,
    /// Whoever asked.
    pub(crate) by: Holder,
}

impl Asked<'_> {
    fn gone(&self) -> ReplyError {
        ReplyError::Gone { topic: self.topic.to_owned(), sequence: self.sequence }
    }
}

impl Replies {
    /// Fingerprint of the type of an answer.
    pub(crate) fn kind_of<A: Message>(&mut self) -> u64 {
        match self.kind {
            Some((kind, fingerprint)) if kind == TypeId::of::<A>() => fingerprint,
            _ => {
                let fingerprint = A::fingerprint();
                self.kind = Some((TypeId::of::<A>(), fingerprint));
                fingerprint
            }
        }
    }

    /// Publishes an answer.
    pub(crate) fn answer<S: Source>(
        &mut self,
        bus: &Arc<BusInner>,
        asked: Asked<'_>,
        source: &S,
        (kind, extension): (u64, Extension),
    ) -> Result<(), ReplyError> {
        let index = self.publisher(bus, asked)?;
        let kept = &mut self.kept[index];
        let deadline = if kept.is_full { Duration::ZERO } else { DEADLINE };
        match kept.publisher.publish(Lane(0), source, kind, extension, deadline) {
            Ok(_) => {
                kept.is_full = false;
                Ok(())
            }
            Err(PublishError::Full(full)) => {
                kept.is_full = true;
                if !bus.participants().is_registered(asked.by) {
                    self.kept.swap_remove(index);
                    return Err(asked.gone());
                }
                let (pid, service) = bus.participants().describe(asked.by);
                Err(ReplyError::Full {
                    topic: asked.topic.to_owned(),
                    sequence: asked.sequence,
                    requester: format!("{service} (pid {pid})"),
                    waited: full.waited,
                })
            }
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Encode { .. })) => Err(error.into()),
            Err(error) => {
                // Its topic went with it, or the bus did.
                self.kept.swap_remove(index);
                bus.check_usable().map_err(AttachError::from)?;
                match bus.participants().is_registered(asked.by) {
                    true => Err(error.into()),
                    false => Err(asked.gone()),
                }
            }
        }
    }

    /// Place of the publisher for whoever asked.
    fn publisher(&mut self, bus: &Arc<BusInner>, asked: Asked<'_>) -> Result<usize, ReplyError> {
        self.turn += 1;
        let Some(tag) = bus.participants().tag_of(asked.by) else {
            self.kept.retain(|kept| kept.to != asked.by);
            bus.check_usable().map_err(AttachError::from)?;
            return Err(asked.gone());
        };
        if let Some(index) = self.kept.iter().position(|kept| kept.to == asked.by) {
            self.kept[index].turn = self.turn;
            return Ok(index);
        }
        self.drop_gone(bus);
        if self.kept.len() >= KEPT_MAX
            && let Some(oldest) = (0..self.kept.len()).min_by_key(|&index| self.kept[index].turn)
        {
            self.kept.swap_remove(oldest);
        }
        let name = reply_topic(asked.by.participant, tag);
        let topic = match TopicBuilder::<Bytes>::new(bus.clone(), &name).create(false).open() {
            // It has gone meanwhile, or has never asked: then somebody has written over the message.
            Err(TopicError::NotFound { .. }) => return Err(asked.gone()),
            opened => opened.map_err(AttachError::from)?,
        };
        let publisher = Addressed::attach(&topic)?;
        self.kept.push(Kept { to: asked.by, publisher, is_full: false, turn: self.turn });
        Ok(self.kept.len() - 1)
    }

    /// Those who have ended keep no memory here.
    pub(crate) fn drop_gone(&mut self, bus: &BusInner) {
        self.kept.retain(|kept| bus.participants().is_registered(kept.to));
    }
}
