//! Publishing dead letters again.
//!
//! A letter is taken in hand first, so that of all who replay or purge it one comes to it; then it is published; then its entry
//! goes. Who dies between the last two leaves both: at least once.

use super::letter::{Filter, Letters, extension_in, find, payload_in, type_of};
use crate::bus::Bus;
use crate::error::{AttachError, BusError, PublishError, RegionError, TopicError};
use crate::outcomes::of_letters;
use crate::payload::{Bytes, TypeIdentity};
use crate::publisher::Republisher;
use crate::region::Access;
use crate::topic::{Role, Topic, TopicBuilder};
use bus_core::header::{TYPE_BYTES, flags};
use bus_core::lane::Lane;
use bus_core::layout::aside::state;

/// Why a dead letter is not published again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayRefused {
    /// The target does not accept its type.
    #[error(
        "dead letter {id} of topic {from:?} is a {kind}, and topic {to:?} accepts {accepts}; \
         replay it to {from:?}, or to a topic that accepts {kind}"
    )]
    Type {
        /// The letter.
        id: String,
        /// Its topic.
        from: String,
        /// Where it was to go.
        to: String,
        /// Its type.
        kind: String,
        /// What the target accepts.
        accepts: String,
    },
    /// Its payload cannot be read.
    #[error("dead letter {id} of topic {from:?}: its payload of {len_bytes} bytes cannot be read; purge it")]
    Payload {
        /// The letter.
        id: String,
        /// Its topic.
        from: String,
        /// How long it says to be.
        len_bytes: u32,
    },
    /// A topic cannot be used, or takes no further publisher.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<TopicError> for ReplayRefused {
    fn from(error: TopicError) -> Self {
        AttachError::from(error).into()
    }
}

impl From<BusError> for ReplayRefused {
    fn from(error: BusError) -> Self {
        AttachError::from(error).into()
    }
}

impl From<RegionError> for ReplayRefused {
    fn from(error: RegionError) -> Self {
        AttachError::from(error).into()
    }
}

/// Not every letter was published again.
#[derive(Debug, thiserror::Error)]
#[error("{}{source}", if *replayed > 0 { format!("{replayed} replayed, then: ") } else { String::new() })]
pub struct ReplayError {
    /// How many were, and are no dead letters any more.
    pub replayed: u64,
    /// Why the next one was not. It, and whatever follows it, is a dead letter as before.
    pub source: Box<ReplayRefused>,
}

/// The number that the target gives to a message's type. `same`: it is the topic that the message is from.
pub(crate) fn kind_in(
    target: &Topic<Bytes>,
    same: bool,
    types: &[TypeIdentity],
    kind: u8,
) -> Result<u8, String> {
    let accepted = &target.kinds.table;
    let found = match type_of(types, kind).0 {
        _ if same && (kind == TYPE_BYTES || usize::from(kind) < accepted.len()) => Some(kind),
        // Plain bytes are for topics of plain bytes.
        None if kind == TYPE_BYTES && accepted.is_empty() => Some(TYPE_BYTES),
        None => None,
        Some(own) => accepted.iter().position(|known| *known == own).map(|number| number as u8),
    };
    found.ok_or_else(|| match accepted.as_slice() {
        [] => "plain bytes".into(),
        accepted => accepted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    })
}

/// One group's letters, and what their types are called where they go.
struct Plan {
    letters: Letters,
    target: Topic<Bytes>,
    kinds: Vec<u8>,
}

fn plan(bus: &Bus, letters: Letters, to: Option<&str>) -> Result<Plan, ReplayRefused> {
    let from = letters.core.name();
    let to = to.unwrap_or(from);
    let target = TopicBuilder::<Bytes>::new(bus.inner().clone(), to).create(false).open()?;
    let types = letters.core.types()?;
    let kind = |letter: &super::letter::Letter| {
        let kind = letter.contents.kind;
        kind_in(&target, to == from, &types, kind).map_err(|accepts| ReplayRefused::Type {
            id: letters.id(letter.held).to_string(),
            from: from.to_owned(),
            to: to.to_owned(),
            kind: match type_of(&types, kind) {
                (Some(identity), _) => identity.to_string(),
                (None, name) => name,
            },
            accepts,
        })
    };
    let kinds = letters.found.iter().map(kind).collect::<Result<_, _>>()?;
    Ok(Plan { letters, target, kinds })
}

/// Publishes the dead letters that a filter means again, in `to` or in the topics that they are from: the same bytes of the
/// same type, in the same lane or the lowest that there is, marked as replayed. Each is a dead letter no more once it is
/// published. Letters that others purge or replay at the same time are theirs. Returns how many were replayed.
///
/// A replayed message is a new one, with a sequence and a stamp of its own: every group of the topic gets it, and the count of
/// attempts begins anew. If this process dies between the publication and the removal of the letter, both
/// are there, and a second replay publishes it once more.
///
/// # Errors
/// A type that the target does not accept, which is found out before anything is published; a topic that is not there or takes
/// no publisher; a target that stays full. What was not published is a dead letter as before.
pub fn replay(bus: &Bus, filter: &Filter, to: Option<&str>) -> Result<u64, ReplayError> {
    let mut replayed = 0;
    match replay_counting(bus, filter, to, &mut replayed) {
        Ok(()) => Ok(replayed),
        Err(source) => Err(ReplayError { replayed, source: Box::new(source) }),
    }
}

fn replay_counting(
    bus: &Bus,
    filter: &Filter,
    to: Option<&str>,
    replayed: &mut u64,
) -> Result<(), ReplayRefused> {
    bus.inner().check_usable()?;
    let found = find(bus.inner().dir(), filter, (Role::Subscriber, Access::Write))?;
    let plans = found.into_iter().map(|letters| plan(bus, letters, to)).collect::<Result<Vec<_>, _>>()?;
    // One place among the publishers for all groups of a topic.
    let mut publisher: Option<(String, Republisher)> = None;
    for Plan { letters, target, kinds } in &plans {
        let known = publisher.take().filter(|(name, _)| name == target.name());
        let (name, mut republisher) = match known {
            Some(known) => known,
            None => (target.name().to_owned(), Republisher::attach(target)?),
        };
        replay_group(bus, letters, (target, kinds), &mut republisher, replayed)?;
        publisher = Some((name, republisher));
    }
    Ok(())
}

fn replay_group(
    bus: &Bus,
    letters: &Letters,
    (target, kinds): (&Topic<Bytes>, &[u8]),
    publisher: &mut Republisher,
    replayed: &mut u64,
) -> Result<(), ReplayRefused> {
    bus.inner().note_topic(letters.core.name())?;
    let (file, me) = (&letters.file, bus.inner().me());
    let Some(store) = file.store(&letters.core, letters.entry) else { return Ok(()) };
    let outcomes = of_letters(&letters.core, letters.entry, me);
    let mut copy = Vec::new();
    for (letter, &kind) in letters.found.iter().zip(kinds) {
        let mut seen = letter.held;
        let mut held = store.replay(seen, me);
        if held.is_none()
            && let Some(word) = store.look(seen.index).filter(|word| word.tag == seen.word.tag)
        {
            // Announced meanwhile it is the same letter.
            seen.word = word;
            held = store.replay(seen, me);
        }
        let Some(held) = held else { continue };
        let contents = &letter.contents;
        let is_copied = file.copy_payload(held.index, contents, &mut copy);
        // Who was thought dead meanwhile may have copied what is another letter by now.
        if !store.is_mine(held) {
            continue;
        }
        let published = if is_copied {
            let lane = usize::from(contents.lane).min(target.lanes() - 1);
            let flags = contents.header_flags & flags::TOMBSTONE | flags::REPLAYED;
            // It was kept because somebody is to see to it: its time is not over.
            let extension = extension_in(contents, &copy).map(|block| block.with_expiry_ns(0));
            let message = (kind, flags, contents.key, extension);
            let payload = payload_in(contents, &copy);
            publisher.publish(Lane(lane as u8), message, payload).map_err(ReplayRefused::from)
        } else {
            Err(ReplayRefused::Payload {
                id: letters.id(held).to_string(),
                from: letters.core.name().to_owned(),
                len_bytes: contents.len_bytes,
            })
        };
        if let Err(error) = published {
            store.put_back(held, seen.word.state == state::ANNOUNCED);
            return Err(error);
        }
        // First: whoever follows the message finds either the letter or this.
        if let Some(outcomes) = &outcomes {
            outcomes.note_gone(&letters.core, letters.entry, contents);
        }
        // Not its holder any more: this process was thought dead, and the letter is there again.
        file.clear(store, held, me);
        *replayed += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replayed_before_an_error_is_said() {
        let refused = || Box::new(ReplayRefused::Payload { id: "x".into(), from: "t".into(), len_bytes: 7 });
        let text = ReplayError { replayed: 0, source: refused() }.to_string();
        assert!(text.starts_with("dead letter x of topic"), "{text}");
        let text = ReplayError { replayed: 3, source: refused() }.to_string();
        assert!(text.starts_with("3 replayed, then: dead letter x"), "{text}");
    }
}
