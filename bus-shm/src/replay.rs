//! Publishing what a topic still holds once more, in another topic: the messages of a window of time, as they lie.
//!
//! The source is read like a tap: nobody is held, and what is overwritten meanwhile is counted. The window ends where the lanes ended
//! when it began, so a replay ends however much is published meanwhile. Messages of several lanes go in the order of their stamps, as far
//! as they have any.

use crate::bus::Bus;
use crate::dead_letters::kind_in;
use crate::error::{AttachError, PublishError, ReceiveError, TopicError};
use crate::finding::Finding;
use crate::group::LaneStand;
use crate::payload::{Bytes, TypeIdentity};
use crate::publisher::Republisher;
use crate::reader::{Found, LaneReader, Look};
use crate::subscriber::Start;
use crate::subscriber::start::begin_at;
use crate::topic::{Topic, TopicBuilder};
use bus_core::header::{TYPE_BYTES, flags};
use bus_core::lane::Lane;
use bus_core::ring::Poll;
use std::time::{Duration, Instant};

/// What is to be published once more, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// From where on. Default: latest, which is nothing.
    pub from: Start,
    /// Where that is no longer there, from the oldest message that is.
    pub or_oldest: bool,
    /// Up to this CLOCK_MONOTONIC time in nanoseconds ([`Bus::now_ns`]), without it; needs stamps. Default: all.
    pub until_ns: Option<u64>,
    /// At most so many messages a second. Default: as fast as it goes.
    pub rate: Option<f64>,
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages that were published again.
    pub count: u64,
    /// Messages of the window that were overwritten before they were read.
    pub missed: u64,
}

/// Why a window could not be replayed, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayWindowError {
    /// A topic cannot replay into itself.
    #[error("topic {topic:?} is both source and target; replay to another topic")]
    SameTopic {
        /// The topic.
        topic: String,
    },
    /// The target lacks types of the source.
    #[error(
        "topic {from:?} carries {lacking}, and topic {to:?} accepts {accepts}; replay to a topic that accepts them"
    )]
    Types {
        /// The source.
        from: String,
        /// The target.
        to: String,
        /// The types of the source that the target lacks.
        lacking: String,
        /// What the target accepts.
        accepts: String,
    },
    /// An end of the window on a topic without stamps.
    #[error(
        "topic {topic:?}: its messages carry no time, so that a window of it cannot end at one; leave the end out"
    )]
    NoStamps {
        /// The topic.
        topic: String,
    },
    /// An end of the window that is not after its beginning.
    #[error("topic {topic:?}: the window ends before it begins")]
    Empty {
        /// The topic.
        topic: String,
    },
    /// A rate at which nothing would ever be published.
    #[error("a rate of {rate} messages a second; it must be above 0")]
    Rate {
        /// What was said.
        rate: f64,
    },
    /// The source or the target cannot be used, or the start of the window is not there.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The source could not be read.
    #[error("{} replayed, then: {source}", done.count)]
    Receive {
        /// How far it had come.
        done: Replayed,
        /// Why it ended.
        source: Box<ReceiveError>,
    },
    /// The target took no more.
    #[error("{} replayed, then: {source}", done.count)]
    Publish {
        /// How far it had come.
        done: Replayed,
        /// Why it ended.
        source: Box<PublishError>,
    },
}

impl From<TopicError> for ReplayWindowError {
    fn from(error: TopicError) -> Self {
        AttachError::from(error).into()
    }
}

/// Publishes the messages of a window of topic `from` once more in topic `to`: the same bytes of the same type in the same lane, or the
/// lowest that there is, marked as replayed. They are new messages there, with sequences and stamps of their own. `goes_on` is
/// asked after each: false ends it.
///
/// # Errors
/// See [`ReplayWindowError`]. Those about topics, types and the window come before anything is published.
pub fn replay(
    bus: &Bus,
    from: &str,
    to: &str,
    window: &Window,
    goes_on: &mut dyn FnMut(&Replayed) -> bool,
) -> Result<Replayed, ReplayWindowError> {
    if from == to {
        return Err(ReplayWindowError::SameTopic { topic: from.to_owned() });
    }
    if let Some(rate) = window.rate.filter(|rate| rate.is_nan() || *rate <= 0.0) {
        return Err(ReplayWindowError::Rate { rate });
    }
    let open = |name| TopicBuilder::<Bytes>::new(bus.inner().clone(), name).create(false).open();
    let (source, target) = (open(from)?, open(to)?);
    let has_stamps = source.core.config().flags & bus_core::layout::ring::FLAG_STAMPS != 0;
    if window.until_ns.is_some() && !has_stamps {
        return Err(ReplayWindowError::NoStamps { topic: from.to_owned() });
    }
    let begin_ns = match window.from {
        Start::Time(from_ns) => from_ns,
        Start::Ago(ago) => bus.now_ns().saturating_sub(ago.as_nanos() as u64),
        _ => 0,
    };
    if window.until_ns.is_some_and(|until_ns| until_ns <= begin_ns) {
        return Err(ReplayWindowError::Empty { topic: from.to_owned() });
    }
    let mut known = kinds(&source, &target)?;
    let mut reader = Reader::new(&source, window)?;
    let mut publisher = Republisher::attach(&target)?;
    let begun = Instant::now();
    let mut done = Replayed::default();
    loop {
        let next = reader
            .next(&mut done.missed)
            .map_err(|source| ReplayWindowError::Receive { done, source: Box::new(source) })?;
        let Some((lane, found)) = next else { return Ok(done) };
        if let Some(rate) = window.rate {
            let due = Duration::try_from_secs_f64(done.count as f64 / rate).unwrap_or(Duration::MAX);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let kind = match found.header.kind {
            TYPE_BYTES => TYPE_BYTES,
            kind => {
                if usize::from(kind) >= known.len() {
                    // It has been added since.
                    known = kinds(&open(from)?, &open(to)?)?;
                }
                known.get(usize::from(kind)).copied().flatten().unwrap_or(TYPE_BYTES)
            }
        };
        let flags = found.header.flags & flags::TOMBSTONE | flags::REPLAYED;
        // Somebody has asked for it: its time is not over.
        let extension = found.extension().map(|block| block.with_expiry_ns(0));
        let lane = Lane(lane.min(target.lanes() - 1) as u8);
        publisher
            .publish(lane, (kind, flags, found.header.reference, extension), reader.payload())
            .map_err(|source| ReplayWindowError::Publish { done, source: Box::new(source) })?;
        done.count += 1;
        if !goes_on(&done) {
            return Ok(done);
        }
    }
}

/// The numbers that the target gives to the types of the source.
fn kinds(source: &Topic<Bytes>, target: &Topic<Bytes>) -> Result<Vec<Option<u8>>, ReplayWindowError> {
    let types = &source.kinds.table;
    let is_plain = types.is_empty();
    let named = |identity: &TypeIdentity| !identity.name.is_empty();
    let mut lacking = Vec::new();
    let mut accepts = String::new();
    let mut kinds = Vec::new();
    if is_plain && let Err(theirs) = kind_in(target, false, types, TYPE_BYTES) {
        lacking.push("plain bytes".to_owned());
        accepts = theirs;
    }
    for (number, identity) in types.iter().enumerate() {
        match kind_in(target, false, types, number as u8) {
            Ok(kind) => kinds.push(Some(kind)),
            Err(theirs) => {
                kinds.push(None);
                if named(identity) {
                    lacking.push(identity.to_string());
                    accepts = theirs;
                }
            }
        }
    }
    if lacking.is_empty() {
        return Ok(kinds);
    }
    let (from, to) = (source.name().to_owned(), target.name().to_owned());
    Err(ReplayWindowError::Types { from, to, lacking: lacking.join(", "), accepts })
}

/// Reads the window, lane by lane, the oldest message first.
struct Reader {
    lanes: Vec<LaneReader>,
    /// Where each lane ended at the beginning, or where the window has ended in it.
    ends: Vec<u64>,
    until_ns: u64,
    payload: Vec<u8>,
}

impl Reader {
    fn new(source: &Topic<Bytes>, window: &Window) -> Result<Self, AttachError> {
        let core = &source.core;
        let mut lanes = (0..core.lanes())
            .map(|lane| LaneReader::attach(core.clone(), lane))
            .collect::<Result<Vec<_>, _>>()?;
        let ends: Vec<u64> = lanes.iter().map(LaneReader::end).collect();
        let mut wished = ends.clone();
        begin_at(core, window.from, window.or_oldest, &mut lanes, &mut wished)?;
        for (lane, begin) in lanes.iter_mut().zip(wished) {
            lane.begin(begin, LaneStand::new(begin));
            lane.always_copy();
        }
        Ok(Self { lanes, ends, until_ns: window.until_ns.unwrap_or(u64::MAX), payload: Vec::new() })
    }

    /// The next message of the window.
    fn next(&mut self, missed: &mut u64) -> Result<Option<(usize, Finding)>, ReceiveError> {
        loop {
            let mut oldest: Option<(u64, usize)> = None;
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                let at = lane.next();
                if at >= self.ends[index] {
                    continue;
                }
                // One that is gone is found to be gone below.
                let stamp_ns = lane.header_at(at).map_or(0, |header| header.stamp_ns);
                if oldest.is_none_or(|(oldest_ns, _)| stamp_ns < oldest_ns) {
                    oldest = Some((stamp_ns, index));
                }
            }
            let Some((_, index)) = oldest else { return Ok(None) };
            let lane = &mut self.lanes[index];
            if !matches!(lane.poll(Look::InTurn(|| false)), Poll::Ready | Poll::Lapped) {
                // Not there, although it was published: a damaged ring.
                self.ends[index] = lane.next();
                continue;
            }
            let mut found = Finding::NONE;
            match lane.take(&mut found)? {
                Found::Message if found.header.stamp_ns >= self.until_ns => self.ends[index] = found.sequence,
                Found::Message => {
                    self.payload = lane.copied(&found);
                    return Ok(Some((index, found)));
                }
                Found::Missed { from, .. } => {
                    *missed += lane.next().min(self.ends[index]).saturating_sub(from);
                }
            }
        }
    }

    fn payload(&self) -> &[u8] {
        &self.payload
    }
}
