//! Following a conversation: the messages of one correlation over all topics, as far as rings and stores of dead letters still have them, in
//! the order of their causes.
//!
//! It is read like a list is: nobody is held, nothing is stored, payloads are not touched. What is overwritten meanwhile is not found.
//!
//! Causes are what publishers say, and may be anything: a message that is its own cause, circles, a cause that was never published. Each
//! message stands in the tree once. One whose cause is no longer in any window begins a tree of its own, under the name of what is gone;
//! of a circle the oldest message does.
//!
//! Memory is bounded by [`MESSAGES_MAX`] messages, some 300 bytes each; how many more there were is counted.

use crate::aside::AsideFile;
use crate::dead_letters::{self, LetterId};
use crate::directory::BusDir;
use crate::error::TopicError;
use crate::group::display_name;
use crate::inspect::BusView;
use crate::lease::Participants;
use crate::reader::LaneReader;
use crate::region::Access;
use crate::sys::clock::{monotonic_ns, realtime_ns};
use crate::topic::{Role, TopicCore};
use bus_core::aside::{Held, Table};
use bus_core::extension::{Extension, MessageId};
use bus_core::header::{producer_entry, producer_tag};
use bus_core::holder::HolderWord;
use bus_core::lane::Lane;
use bus_core::layout::aside::state;
use bus_core::layout::ring;
use bus_core::sync::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Messages of one trace.
pub const MESSAGES_MAX: usize = 20_000;
/// Topics that are searched for the topic of a cause.
const TOPICS_MAX: usize = 16_384;

/// Which conversation: a correlation, or a message that is part of it. As text, `beef`, or `97db55e2a0f21b4c-2-17`, as
/// `sub --json` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceId {
    /// What all its messages carry.
    Correlation(u128),
    /// One of its messages.
    Message(MessageId),
}

/// A text that names no conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a correlation (1 to 32 hexadecimal digits) nor a message (like 97db55e2a0f21b4c-2-17); `shmbus sub --json` prints both"
)]
pub struct TraceIdError(String);

impl FromStr for TraceId {
    type Err = TraceIdError;

    fn from_str(text: &str) -> Result<Self, TraceIdError> {
        let text = text.trim();
        let message = || {
            let mut parts = text.split('-');
            let epoch = parts.next().filter(|epoch| epoch.len() == 16)?;
            let id = MessageId {
                topic_epoch: u64::from_str_radix(epoch, 16).ok()?,
                lane: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(TraceId::Message(id))
        };
        let correlation = || {
            let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
            number.filter(|&number| number != 0).map(TraceId::Correlation)
        };
        message().or_else(correlation).ok_or_else(|| TraceIdError(text.to_owned()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceId::Correlation(correlation) => write!(f, "{correlation:x}"),
            TraceId::Message(id) => id.fmt(f),
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Traced {
    /// Its identity.
    pub id: MessageId,
    /// Its topic.
    pub topic: String,
    /// Its lane.
    pub lane: Lane,
    /// How the lane is called.
    pub lane_name: &'static str,
    /// Its type in words.
    pub type_name: String,
    /// Bytes of its payload.
    pub len_bytes: u32,
    /// CLOCK_MONOTONIC ns of its publication; 0 on topics without stamps.
    pub stamp_ns: u64,
    /// For how many nanoseconds it has been there; `None` on topics without stamps.
    pub age_ns: Option<u64>,
    /// The service that published it, as long as that is known.
    pub service: Option<String>,
    /// Its cause.
    pub cause: Option<MessageId>,
    /// How many causes lie behind it, as it says itself.
    pub hops: u16,
    /// Is it still in its ring? If not, a dead letter is what is left of it.
    pub in_ring: bool,
    /// The groups of which it is a dead letter.
    pub dead: Vec<TracedDead>,
}

/// That a message of a conversation is a dead letter.
#[derive(Clone, Debug)]
pub struct TracedDead {
    /// Of which group.
    pub group: String,
    /// Why.
    pub error: String,
    /// How often it was handed out.
    pub attempts: u8,
    /// By what it is named.
    pub letter: LetterId,
}

/// A message's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of the trace's messages.
    pub index: usize,
    /// How deep below the beginning of its tree.
    pub depth: usize,
    /// It has a cause that is no longer in any window.
    pub cause_is_gone: bool,
    /// It begins its tree only because its causes run in a circle.
    pub in_circle: bool,
}

/// A conversation, as far as it is still there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trace {
    /// What its messages carry. That of a message without one is the message's identity.
    pub correlation: u128,
    /// Its messages: see [`Trace::tree`] for their order.
    pub messages: Vec<Traced>,
    /// The messages in the order of their causes: each behind the one that it follows from.
    pub tree: Vec<Place>,
    /// Causes that are no longer in any window.
    pub gone: Vec<MessageId>,
    /// Messages that there were no room for.
    pub left_out: u64,
    /// Topics that could not be read, with the reason.
    pub unread: Vec<(String, String)>,
}

/// Follows a conversation. Takes no part in the bus. `None`: a message was asked for that is no longer there, and nothing is known that
/// followed from it.
pub fn trace(bus: &BusView, id: TraceId) -> Option<Trace> {
    let correlation = match id {
        TraceId::Correlation(correlation) => correlation,
        TraceId::Message(id) => correlation_of(bus.dir(), id).unwrap_or(id.as_correlation()),
    };
    let mut search = Search {
        correlation,
        participants: bus.table().clone(),
        now: (monotonic_ns(), realtime_ns()),
        found: Found::default(),
    };
    let mut unread = Vec::new();
    for name in bus.topic_names() {
        match TopicCore::attach(bus.dir(), &name, Role::Observer) {
            Ok(core) => {
                if let Err(error) = search.topic(&Arc::new(core)) {
                    unread.push((name, error.to_string()));
                }
            }
            // It went after the names were read.
            Err(TopicError::NotFound { .. }) => {}
            Err(error) => unread.push((name, error.to_string())),
        }
    }
    let Found { messages, by_id, left_out } = search.found;
    if messages.is_empty() && matches!(id, TraceId::Message(_)) {
        return None;
    }
    let (tree, gone) = order(&messages, &by_id);
    Some(Trace { correlation, messages, tree, gone, left_out, unread })
}

struct Search {
    correlation: u128,
    participants: Participants,
    /// CLOCK_MONOTONIC and CLOCK_REALTIME ns.
    now: (u64, u64),
    found: Found,
}

/// Messages, as many as there is room for.
#[derive(Default)]
struct Found {
    messages: Vec<Traced>,
    by_id: HashMap<MessageId, usize>,
    left_out: u64,
}

impl Found {
    fn add(&mut self, traced: Traced) {
        if self.messages.len() < MESSAGES_MAX {
            self.by_id.entry(traced.id).or_insert(self.messages.len());
        }
        self.add_unnamed(traced);
    }

    /// One that is not found as a cause.
    fn add_unnamed(&mut self, traced: Traced) {
        if self.messages.len() < MESSAGES_MAX {
            self.messages.push(traced);
        } else {
            self.left_out += 1;
        }
    }
}

impl Search {
    fn is_meant(&self, id: MessageId, extension: Option<&Extension>) -> bool {
        // Whoever began the task carries no correlation: its identity became that of the others.
        extension
            .and_then(Extension::correlation)
            .map_or(id.as_correlation() == self.correlation, |its| its == self.correlation)
    }

    fn topic(&mut self, core: &Arc<TopicCore>) -> Result<(), TopicError> {
        let types = core.types()?;
        let type_name = |kind| dead_letters::type_name(&types, kind);
        for lane in 0..core.lanes() {
            let mut reader = LaneReader::attach(core.clone(), lane)?;
            let end = reader.end();
            for sequence in end.saturating_sub(u64::from(core.config().capacity))..end {
                let Some((header, extension)) = reader.glance(sequence) else { continue };
                let id = MessageId { topic_epoch: core.epoch(), lane: lane as u8, sequence };
                if !self.is_meant(id, extension.as_ref()) {
                    continue;
                }
                let age_ns = (header.stamp_ns != 0).then(|| self.now.0.saturating_sub(header.stamp_ns));
                let service = self.service(core, header.producer);
                self.found.add(Traced {
                    id,
                    topic: core.name().to_owned(),
                    lane: Lane(lane as u8),
                    lane_name: Lane(lane as u8).name(core.lanes()),
                    type_name: type_name(header.kind),
                    len_bytes: header.len_bytes,
                    stamp_ns: header.stamp_ns,
                    age_ns,
                    service,
                    cause: extension.and_then(|extension| extension.cause()),
                    hops: extension.map_or(0, |extension| extension.hops),
                    in_ring: true,
                    dead: Vec::new(),
                });
            }
        }
        for entry in 0..core.groups_used() {
            self.letters(core, entry, &type_name)?;
        }
        Ok(())
    }

    /// The dead letters of a group. Those of publications that were refused have no place in a ring.
    fn letters(
        &mut self,
        core: &TopicCore,
        entry: usize,
        type_name: &dyn Fn(u8) -> String,
    ) -> Result<(), TopicError> {
        let Some(file) = AsideFile::attach(core.dir(), entry, core.epoch(), Access::Read)? else {
            return Ok(());
        };
        let Some(store) = file.store(core, entry) else { return Ok(()) };
        let is_refused = crate::publisher::is_refused(core, entry);
        let mut copy = Vec::new();
        for index in 0..file.reserved() {
            if store.look(index).is_none_or(|word| !state::is_dead(word.state)) {
                continue;
            }
            let Some((word, contents, note)) = file.read_letter(store, index) else { continue };
            let lane = usize::from(contents.lane);
            if lane >= core.lanes() {
                continue;
            }
            let is_copied = file.copy_payload(index, &contents, &mut copy);
            if !store.is_mine(Held { index, word }) {
                continue;
            }
            let extension = is_copied.then(|| dead_letters::extension_in(&contents, &copy)).flatten();
            let id =
                MessageId { topic_epoch: core.epoch(), lane: contents.lane, sequence: contents.sequence };
            if !self.is_meant(id, extension.as_ref()) || is_refused && extension.is_none() {
                continue;
            }
            let dead = TracedDead {
                group: display_name(core, entry),
                error: note.error,
                attempts: word.attempts,
                letter: dead_letters::id(core, entry, index, word),
            };
            if !is_refused && let Some(&known) = self.found.by_id.get(&id) {
                self.found.messages[known].dead.push(dead);
                continue;
            }
            let failed_ago_ns = self.now.1.saturating_sub(contents.first_ns);
            let age_ns = match contents.stamp_ns {
                0 => Some(failed_ago_ns),
                stamp_ns => Some(self.now.0.saturating_sub(stamp_ns)),
            };
            let traced = Traced {
                id,
                topic: core.name().to_owned(),
                lane: Lane(contents.lane),
                lane_name: Lane(contents.lane).name(core.lanes()),
                type_name: type_name(contents.kind),
                len_bytes: contents.len_bytes,
                stamp_ns: contents.stamp_ns,
                age_ns,
                service: is_refused.then_some(note.service),
                cause: extension.and_then(|extension| extension.cause()),
                hops: extension.map_or(0, |extension| extension.hops),
                in_ring: false,
                dead: vec![dead],
            };
            if is_refused { self.found.add_unnamed(traced) } else { self.found.add(traced) }
        }
        Ok(())
    }

    fn service(&self, core: &TopicCore, mark: u16) -> Option<String> {
        let entry = usize::from(producer_entry(mark));
        let seen = HolderWord::unpack(core.ring_word(ring::producer_state(entry))?.load(Ordering::Acquire));
        let is_its = producer_tag(mark, seen.tag) == seen.tag;
        is_its.then(|| self.participants.describe_last(seen.holder)).flatten().map(|(_, service)| service)
    }
}

/// The messages by their causes, and the causes that are not among them.
fn order(messages: &[Traced], by_id: &HashMap<MessageId, usize>) -> (Vec<Place>, Vec<MessageId>) {
    let mut by_age: Vec<usize> = (0..messages.len()).collect();
    // Without stamps the hops say something of the order.
    by_age.sort_by_key(|&index| {
        let message = &messages[index];
        (message.stamp_ns, message.hops, message.id)
    });
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); messages.len()];
    let (mut roots, mut gone, mut seen_gone) = (Vec::new(), Vec::new(), HashSet::new());
    for &index in &by_age {
        match messages[index].cause.map(|cause| (cause, by_id.get(&cause).copied())) {
            Some((_, Some(parent))) => children[parent].push(index),
            Some((cause, None)) => {
                if seen_gone.insert(cause) {
                    gone.push(cause);
                }
                roots.push((index, true));
            }
            None => roots.push((index, false)),
        }
    }
    let mut placed = vec![false; messages.len()];
    let mut tree = Vec::with_capacity(messages.len());
    let mut place = |begin: Place, tree: &mut Vec<Place>| {
        let mut open = vec![begin];
        while let Some(next) = open.pop() {
            if std::mem::replace(&mut placed[next.index], true) {
                continue;
            }
            tree.push(next);
            // The oldest comes off the stack first.
            open.extend(children[next.index].iter().rev().map(|&index| Place {
                index,
                depth: next.depth + 1,
                cause_is_gone: false,
                in_circle: false,
            }));
        }
    };
    for (index, cause_is_gone) in roots {
        place(Place { index, depth: 0, cause_is_gone, in_circle: false }, &mut tree);
    }
    // Whatever is left is in a circle, or hangs from one.
    for index in by_age {
        place(Place { index, depth: 0, cause_is_gone: false, in_circle: true }, &mut tree);
    }
    (tree, gone)
}

/// The topics of a bus by their epochs, each looked at once, and only as far as they are asked for.
struct Topics<'d> {
    dir: &'d BusDir,
    unseen: std::vec::IntoIter<String>,
    seen: HashMap<u64, String>,
    /// Those that were asked for.
    known: HashMap<u64, Arc<TopicCore>>,
}

impl<'d> Topics<'d> {
    fn new(dir: &'d BusDir) -> Self {
        let mut names = dir.topic_names();
        names.truncate(TOPICS_MAX);
        Self { dir, unseen: names.into_iter(), seen: HashMap::new(), known: HashMap::new() }
    }

    fn find(&mut self, topic_epoch: u64) -> Option<Arc<TopicCore>> {
        if let Some(core) = self.known.get(&topic_epoch) {
            return Some(core.clone());
        }
        let attach = |name: &str| TopicCore::attach(self.dir, name, Role::Observer).ok();
        let found = match self.seen.get(&topic_epoch) {
            Some(name) => attach(name).filter(|core| core.epoch() == topic_epoch),
            None => loop {
                let Some(name) = self.unseen.next() else { break None };
                let Some(core) = attach(&name) else { continue };
                if core.epoch() == topic_epoch {
                    break Some(core);
                }
                self.seen.insert(core.epoch(), name);
            },
        };
        let core = Arc::new(found?);
        self.known.insert(topic_epoch, core.clone());
        Some(core)
    }
}

fn glance(core: &Arc<TopicCore>, id: MessageId) -> Option<Option<Extension>> {
    let lane = usize::from(id.lane);
    if lane >= core.lanes() {
        return None;
    }
    LaneReader::attach(core.clone(), lane).ok()?.glance(id.sequence).map(|(_, extension)| extension)
}

fn correlation_of(dir: &BusDir, id: MessageId) -> Option<u128> {
    glance(&Topics::new(dir).find(id.topic_epoch)?, id)??.correlation()
}

/// A message of a chain of causes: its topic.
pub(crate) struct Link {
    pub(crate) topic_epoch: u64,
    pub(crate) topic: Arc<str>,
}

/// The topics of a message and its causes, back from this one, at most so many: as far as the messages are still in a ring.
pub(crate) fn chain(dir: &BusDir, from: MessageId, most: usize) -> Vec<Link> {
    let (mut topics, mut links) = (Topics::new(dir), Vec::new());
    let mut at = Some(from);
    // Whatever they say, it ends after so many.
    while let Some(id) = at.filter(|_| links.len() < most) {
        let Some(core) = topics.find(id.topic_epoch) else { break };
        links.push(Link { topic_epoch: id.topic_epoch, topic: core.name().into() });
        at = glance(&core, id).flatten().and_then(|extension| extension.cause());
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId { topic_epoch: 9, lane: 0, sequence }
    }

    fn traced(sequence: u64, cause: Option<u64>) -> Traced {
        Traced {
            id: id(sequence),
            topic: "t".into(),
            lane: Lane(0),
            lane_name: "normal",
            type_name: "bytes".into(),
            len_bytes: 0,
            stamp_ns: sequence,
            age_ns: None,
            service: None,
            cause: cause.map(id),
            hops: 0,
            in_ring: true,
            dead: Vec::new(),
        }
    }

    /// Sequence, depth, is its cause gone, is it in a circle?
    type Placed = (u64, usize, bool, bool);

    fn ordered(links: &[(u64, Option<u64>)]) -> (Vec<Placed>, Vec<MessageId>) {
        let messages: Vec<_> = links.iter().map(|&(sequence, cause)| traced(sequence, cause)).collect();
        let by_id = messages.iter().enumerate().map(|(index, message)| (message.id, index)).collect();
        let (tree, gone) = order(&messages, &by_id);
        let seen = |place: &Place| {
            (messages[place.index].id.sequence, place.depth, place.cause_is_gone, place.in_circle)
        };
        (tree.iter().map(seen).collect(), gone)
    }

    #[test]
    fn children_stand_behind_their_cause_the_oldest_first() {
        let (tree, gone) = ordered(&[(5, Some(1)), (1, None), (2, Some(1)), (3, Some(2)), (7, Some(99))]);
        let plain = |sequence, depth| (sequence, depth, false, false);
        assert_eq!(tree, [plain(1, 0), plain(2, 1), plain(3, 2), plain(5, 1), (7, 0, true, false)]);
        assert_eq!(gone, [id(99)]);
    }

    #[test]
    fn circles_end_and_leave_nothing_out() {
        let (tree, gone) = ordered(&[(1, Some(1)), (2, Some(3)), (3, Some(4)), (4, Some(2)), (5, Some(4))]);
        let circle = |sequence| (sequence, 0, false, true);
        let plain = |sequence, depth| (sequence, depth, false, false);
        assert_eq!(tree, [circle(1), circle(2), plain(4, 1), plain(3, 2), plain(5, 2)]);
        assert!(gone.is_empty());
    }

    /// Far more than the sorting of so many takes, and far less than a look at all of them for each.
    const SOON: std::time::Duration = std::time::Duration::from_secs(4);

    #[test]
    fn very_many_messages_are_no_more_work_each() {
        const COUNT: u64 = 400_000;
        let begun = std::time::Instant::now();
        let mut found = Found::default();
        (0..COUNT).for_each(|sequence| found.add(traced(sequence, None)));
        assert_eq!((found.messages.len(), found.left_out), (MESSAGES_MAX, COUNT - MESSAGES_MAX as u64));
        assert!(found.by_id.len() == MESSAGES_MAX && begun.elapsed() < SOON, "{:?}", begun.elapsed());
        // Each with a cause of its own that is gone.
        let links: Vec<_> = (0..300_000).map(|sequence| (sequence, Some(COUNT + sequence))).collect();
        let begun = std::time::Instant::now();
        let (tree, gone) = ordered(&links);
        assert_eq!((tree.len(), gone.len()), (300_000, 300_000));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        // One chain of all of them, the youngest first.
        let links: Vec<_> = (1..=100_000).rev().map(|sequence| (sequence, Some(sequence - 1))).collect();
        let begun = std::time::Instant::now();
        let (tree, gone) = ordered(&links);
        assert_eq!((tree[99_999].1, gone), (99_999, vec![id(0)]));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    #[test]
    fn ids_are_read_as_they_are_printed() {
        let message = MessageId { topic_epoch: 0xbeef, lane: 2, sequence: 17 };
        for id in [TraceId::Message(message), TraceId::Correlation(0xbeef), TraceId::Correlation(u128::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for wrong in ["", "0", "xyz", "beef-1-2", "000000000000beef-1", "+1", &"f".repeat(33)] {
            assert!(wrong.parse::<TraceId>().is_err(), "{wrong}");
        }
    }
}
