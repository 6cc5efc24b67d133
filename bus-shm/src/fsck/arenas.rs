//! Producers, their payload memory, and the messages in it.

use super::{Invariant, Look, Place, files};
use crate::region::{Access, Region};
use crate::topic::{LaneRing, TopicCore};
use bus_core::arena::{CHUNKS, Geometry, intact_position};
use bus_core::header::{
    EXTENSION_LEN, HEADER_BYTES, HEADER_WORDS, Header, TYPE_BYTES, flags, producer_entry, producer_tag,
    tag_names,
};
use bus_core::holder::{HolderWord, producer};
use bus_core::layout::wake::breaker;
use bus_core::layout::{PAGE_BYTES, arena as layout, ring as ring_layout};
use bus_core::limits::TYPES_MAX;
use bus_core::ring::Slot;
use bus_core::sync::Ordering;
use std::collections::HashMap;

/// Flags of a header that mean something.
const FLAGS_KNOWN: u8 = flags::ARENA | flags::EXTENSION | flags::REPLAYED | flags::TOMBSTONE;
/// Unread messages of a lane whose memory is compared; more would take more memory than they are worth.
const COMPARED_MAX: usize = 1 << 20;

/// Producer, incarnation and lane of a payload file's name.
fn parse(name: &str) -> Option<(usize, u32, usize)> {
    let (producer, rest) = name.strip_prefix("arena-")?.split_once('.')?;
    let (tag, lane) = rest.split_once('-')?;
    Some((producer.parse().ok()?, tag.parse().ok()?, lane.parse().ok()?))
}

fn entry_word(core: &TopicCore, index: usize) -> Option<HolderWord> {
    Some(HolderWord::unpack(core.ring_word(ring_layout::producer_state(index))?.load(Ordering::Acquire)))
}

/// Producer entries, and the names of payload files.
pub(super) fn check_producers(look: &mut Look<'_>, core: &TopicCore) {
    let count = core.config().producers as usize;
    for index in 0..count {
        let Some(word) = entry_word(core, index) else { break };
        let place = || Place::topic(core.name()).file("ring").entry(index as u64);
        if word.state > producer::RETIRED {
            let found = format!("state {}", word.state);
            look.suspect(Invariant::ProducerState, place(), [word.pack(), 0], found, "0 to 2");
            continue;
        }
        let holds = || entry_word(core, index) == Some(word);
        if word.state == producer::LIVE && look.roll.has_left(word.holder, holds) {
            let found = format!("participant {} at {}", word.holder.participant, word.holder.incarnation);
            look.suspect(
                Invariant::ProducerHolder,
                place(),
                [word.pack(), 0],
                found,
                "one that is registered",
            );
        }
        let load = |offset| core.ring_word(offset).map_or(0, |word| word.load(Ordering::Acquire));
        let (state, ..) = breaker::unpack(load(ring_layout::producer_breaker(index)));
        if state > breaker::HALF_OPEN {
            let witness = [u64::from(state), 0];
            look.suspect(Invariant::ProducerBreaker, place(), witness, format!("state {state}"), "0 to 2");
        }
        for lane in 0..core.lanes() {
            // The mark before the end, which only grows.
            let mark = load(ring_layout::producer_retire_at(index, lane));
            let end = core.end(lane);
            if mark > end.saturating_add(1) {
                let (found, expected) =
                    (format!("mark {mark}"), format!("at most {}", end.saturating_add(1)));
                look.suspect(Invariant::ProducerMark, place().lane(lane), [mark, 0], found, expected);
            }
        }
    }
    let types = core.ring_word(ring_layout::at::TYPES_COUNT).map_or(0, |word| word.load(Ordering::Acquire));
    if types > TYPES_MAX as u64 {
        let place = Place::topic(core.name()).file("ring");
        let (found, expected) = (format!("{types} types"), format!("at most {TYPES_MAX}"));
        look.suspect(Invariant::TopicTypes, place, [types, 0], found, expected);
    }
    for offset in [ring_layout::at::QUOTA, ring_layout::at::QUOTA + 8] {
        let word = core.ring_word(offset).map_or(0, |word| word.load(Ordering::Acquire));
        let (rate, _, mark) = ring_layout::quota::unpack(word);
        if word != 0 && (rate == 0 || mark != 0) {
            let place = Place::topic(core.name()).file("ring");
            let found = format!("rate {rate}, mark {mark}");
            look.suspect(Invariant::TopicQuota, place, [word, 0], found, "a rate, and mark 0");
        }
    }
    for name in crate::directory::visible_names(&core.dir().0) {
        if name.starts_with("arena-") {
            check_name(look, core, &name);
        }
    }
}

/// The file was there before its entry is looked at, so its producer had the entry already; and it goes before its entry
/// is freed. Files of former incarnations stay until somebody finds all their messages gone.
fn check_name(look: &mut Look<'_>, core: &TopicCore, name: &str) {
    let parsed = parse(name);
    let config = core.config();
    let word = parsed
        .filter(|&(index, _, lane)| index < config.producers as usize && lane < core.lanes())
        .and_then(|(index, ..)| entry_word(core, index));
    let is_owned = match (parsed, word) {
        (Some((_, tag, _)), Some(word)) => {
            // Whatever a wrong state means is reported by itself.
            word.tag.wrapping_sub(tag).cast_signed() >= 0 && word.state != producer::FREE
        }
        _ => false,
    };
    let path = core.dir().0.join(name);
    if !is_owned {
        // The name last: it may have gone with its entry meanwhile.
        if path.exists() {
            let witness = [bus_core::name::key(name), word.map_or(0, HolderWord::pack)];
            let found = word.map_or("no such producer or lane".into(), |word| {
                format!("producer at incarnation {}, state {}", word.tag, word.state)
            });
            let place = Place::topic(core.name()).file(name);
            look.suspect(Invariant::ArenaOrphan, place, witness, found, "a producer that has come that far");
        }
        return;
    }
    check_file(look, core, name);
}

/// The beginning of a payload file. One whose producer was killed, or is stopped, while it made the file has none.
fn check_file(look: &mut Look<'_>, core: &TopicCore, name: &str) {
    let path = core.dir().0.join(name);
    let place = Place::topic(core.name()).file(name);
    if files::is_unfinished(&path) {
        return;
    }
    let region = match Region::attach(&path, layout::MAGIC, Access::Read, Some(PAGE_BYTES)) {
        Ok((region, preamble)) => {
            files::check_epoch(look, &place, preamble.epoch, core.epoch());
            region
        }
        Err(_) if !path.exists() => return,
        Err(error) => return files::unreadable(look, place, 0, &error),
    };
    let geometry = core.config().arena();
    for segment in 0..geometry.segments() {
        let Some(limit) = region.look(layout::limit(segment)) else { break };
        let limit = limit.load(Ordering::Acquire);
        let (bytes, chunk) =
            (geometry.segment_bytes(segment), geometry.segment_bytes(segment) / CHUNKS as u64);
        if limit < bytes || !limit.is_multiple_of(chunk) {
            let place = place.clone().entry(segment as u64);
            let expected = format!("a multiple of {chunk}, {bytes} or more");
            look.suspect(Invariant::ArenaLimit, place, [limit, 0], format!("limit {limit}"), expected);
        }
    }
}

/// What is wrong with a message.
pub(super) struct Bad {
    pub(super) invariant: Invariant,
    pub(super) witness: [u64; 2],
    pub(super) found: String,
    pub(super) expected: String,
}

fn bad(invariant: Invariant, witness: [u64; 2], found: String, expected: impl Into<String>) -> Bad {
    Bad { invariant, witness, found, expected: expected.into() }
}

/// Memory of a message: which file, from where to where.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    producer: usize,
    tag: u32,
    begin: u64,
    end: u64,
    sequence: u64,
}

/// The payload files of one lane, mapped when a message needs them.
pub(super) struct LaneArenas<'a> {
    core: &'a TopicCore,
    lane: usize,
    geometry: Geometry,
    /// For each producer the incarnations that have a file, the latest first.
    tags: HashMap<usize, Vec<u32>>,
    regions: HashMap<(usize, u32), Option<Region>>,
    blocks: Vec<Block>,
}

impl<'a> LaneArenas<'a> {
    pub(super) fn list(core: &'a TopicCore, lane: usize) -> Self {
        let mut tags: HashMap<usize, Vec<u32>> = HashMap::new();
        for name in crate::directory::visible_names(&core.dir().0) {
            if let Some((producer, tag, of_lane)) = parse(&name)
                && of_lane == lane
            {
                tags.entry(producer).or_default().push(tag);
            }
        }
        tags.values_mut().for_each(|tags| tags.sort_unstable_by(|a, b| b.cmp(a)));
        let geometry = core.config().arena();
        Self { core, lane, geometry, tags, regions: HashMap::new(), blocks: Vec::new() }
    }

    /// Looks at everything that the message of `sequence` says of itself. Nothing to say if its slot holds another: that is
    /// the ring's affair.
    pub(super) fn examine(&mut self, ring: &LaneRing, sequence: u64) -> Result<(), Bad> {
        match ring {
            LaneRing::Mpmc(ring) => match ring.slot(sequence) {
                Slot::Filled(name) => {
                    let seen = ring.word(sequence).load(Ordering::Relaxed);
                    self.cell(sequence, (usize::from(name.producer), None), name.cell, seen)
                }
                _ => Ok(()),
            },
            LaneRing::Spsc(ring) => match ring.slot(sequence) {
                Slot::Filled(words) => {
                    let header = Header::load(words);
                    let seen = header.description();
                    let index = usize::from(producer_entry(header.producer));
                    if header.flags & !FLAGS_KNOWN != 0 {
                        let found = format!("flags {:#x}", header.flags);
                        return Err(bad(Invariant::MessageHeader, [seen, 0], found, "flags that exist"));
                    }
                    if header.flags & flags::ARENA != 0 {
                        let cell = header.reference as u32;
                        return self.cell(sequence, (index, Some(header.producer)), cell, seen);
                    }
                    if index != 0 {
                        let found = format!("producer {index}");
                        return Err(bad(Invariant::MessageProducer, [seen, 0], found, "producer 0"));
                    }
                    let room = (ring.inline_bytes() as u64).min(self.core.config().message_bytes);
                    if body_bytes(&header) > room {
                        let found = format!("{} bytes", body_bytes(&header));
                        let expected = format!("at most {room}");
                        return Err(bad(Invariant::MessageLength, [seen, 0], found, expected));
                    }
                    self.kind(&header, seen)
                }
                _ => Ok(()),
            },
        }
    }

    /// The type of a message is counted before the message is published, so the count comes last.
    fn kind(&self, header: &Header, seen: u64) -> Result<(), Bad> {
        let count = self.core.ring_word(ring_layout::at::TYPES_COUNT);
        let count = count.map_or(0, |count| count.load(Ordering::Acquire));
        if header.kind == TYPE_BYTES || u64::from(header.kind) < count {
            return Ok(());
        }
        let expected = format!("below {count}, or {TYPE_BYTES} for bytes");
        Err(bad(Invariant::MessageType, [seen, 0], format!("type {}", header.kind), expected))
    }

    /// A message in a cell. A slot of many producers does not tell the incarnation, so every file of that producer may be
    /// meant; what is said is what is wrong in the one that comes nearest.
    fn cell(
        &mut self,
        sequence: u64,
        (producer, mark): (usize, Option<u16>),
        cell: u32,
        seen: u64,
    ) -> Result<(), Bad> {
        let tags = self.tags.get(&producer).cloned().unwrap_or_default();
        if tags.is_empty() || producer >= self.core.config().producers as usize {
            let found = format!("producer {producer} without a file for lane {}", self.lane);
            return Err(bad(Invariant::MessageProducer, [seen, 0], found, "a producer that has one"));
        }
        let mut nearest: Option<Bad> = None;
        for tag in tags {
            match self.cell_of(sequence, (producer, tag), mark, cell, seen) {
                Ok(block) => {
                    if self.blocks.len() < COMPARED_MAX {
                        self.blocks.push(block);
                    }
                    return Ok(());
                }
                // The order of the invariants is that of the checks.
                Err(bad) if nearest.as_ref().is_none_or(|known| known.invariant < bad.invariant) => {
                    nearest = Some(bad);
                }
                Err(_) => {}
            }
        }
        nearest.map_or(Ok(()), Err)
    }

    fn region(&mut self, producer: usize, tag: u32) -> Option<&Region> {
        let (core, lane, geometry) = (self.core, self.lane, self.geometry);
        let attach = || {
            let most = layout::SEGMENTS as u64 + geometry.bound_bytes;
            let path = core.dir().arena(producer, tag, lane);
            let (region, preamble) = Region::attach(&path, layout::MAGIC, Access::Read, Some(most)).ok()?;
            (preamble.epoch == core.epoch()).then_some(region)
        };
        self.regions.entry((producer, tag)).or_insert_with(attach).as_ref()
    }

    fn cell_of(
        &mut self,
        sequence: u64,
        (producer, tag): (usize, u32),
        mark: Option<u16>,
        cell: u32,
        seen: u64,
    ) -> Result<Block, Bad> {
        let (geometry, max_bytes) = (self.geometry, self.core.config().message_bytes);
        let name = format!("arena-{producer}.{tag}-{}", self.lane);
        let Some(region) = self.region(producer, tag) else {
            let found = format!("{name}, which cannot be read");
            return Err(bad(Invariant::MessageProducer, [seen, 0], found, "a file that can be read"));
        };
        let begin = u64::from(cell) << geometry.granule_shift;
        let segment = geometry.segment_of(begin);
        let words = region.look_words(layout::SEGMENTS + begin as usize, HEADER_WORDS);
        let (Some(segment), Some(words)) = (segment, words) else {
            let found = format!("cell {cell} of {name}");
            return Err(bad(Invariant::MessageCell, [seen, 0], found, "a cell inside of the file"));
        };
        let position_tag = words[0].load(Ordering::Relaxed);
        let header = Header::load(words);
        let description = header.description();
        let witness = [position_tag, description];
        let is_same = tag_names(position_tag, sequence)
            && usize::from(producer_entry(header.producer)) == producer
            && producer_tag(header.producer, tag) == tag
            && mark.is_none_or(|mark| mark == header.producer)
            && header.flags & !(FLAGS_KNOWN & !flags::ARENA) == 0;
        if !is_same {
            let found = format!(
                "in cell {cell} of {name} sequence + 1 = {} of producer {}, flags {:#x}",
                position_tag as u32,
                producer_entry(header.producer),
                header.flags
            );
            let expected = format!("{} of producer {producer}", sequence.wrapping_add(1) as u32);
            return Err(bad(Invariant::MessageHeader, witness, found, expected));
        }
        let offset_in_segment = begin - geometry.segment_base(segment);
        let capacity = geometry.segment_bytes(segment);
        let bytes = geometry.round_up(HEADER_BYTES as u64 + body_bytes(&header));
        let is_in_file = layout::SEGMENTS as u64 + begin + bytes <= region.file_bytes();
        if u64::from(header.len_bytes) > max_bytes || offset_in_segment + bytes > capacity || !is_in_file {
            let found = format!("{} bytes in cell {cell} of {name}", header.len_bytes);
            let expected = format!("at most {max_bytes}, ending in its segment");
            return Err(bad(Invariant::MessageLength, witness, found, expected));
        }
        let limit = region.look(layout::limit(segment)).map_or(0, |limit| limit.load(Ordering::Acquire));
        self.kind(&header, description)?;
        let position = intact_position(limit, capacity, offset_in_segment);
        if (position_tag >> 32) as u32 != (position >> geometry.granule_shift) as u32 {
            let found = format!("granule {} of {name}, limit {limit}", position_tag >> 32);
            let expected = format!("granule {}", (position >> geometry.granule_shift) as u32);
            return Err(bad(Invariant::MessagePosition, witness, found, expected));
        }
        Ok(Block { producer, tag, begin, end: begin + bytes, sequence })
    }

    /// Compares the memory of the messages that were found good.
    pub(super) fn check_overlap(&mut self, look: &mut Look<'_>, is_kept: impl Fn(u64) -> bool) {
        self.blocks.sort_unstable();
        for pair in self.blocks.windows(2) {
            let (one, next) = (pair[0], pair[1]);
            let is_shared = (one.producer, one.tag) == (next.producer, next.tag) && next.begin < one.end;
            // Whoever keeps the earlier message keeps the later one.
            if is_shared && is_kept(one.sequence.min(next.sequence)) {
                let place = Place::topic(self.core.name())
                    .lane(self.lane)
                    .file(format!("arena-{}.{}-{}", one.producer, one.tag, self.lane))
                    .entry(one.sequence);
                let found = format!("bytes {} to {}", one.begin, one.end);
                let expected =
                    format!("an end before {}, where message {} begins", next.begin, next.sequence);
                look.suspect(Invariant::ArenaOverlap, place, [one.end, next.begin], found, expected);
            }
        }
    }
}

/// Bytes behind a header.
fn body_bytes(header: &Header) -> u64 {
    let extension = if header.flags & flags::EXTENSION != 0 { EXTENSION_LEN } else { 0 };
    u64::from(header.len_bytes) + extension
}
