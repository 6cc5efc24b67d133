//! Many topics at one glance: what a list of them shows, without mapping anything.
//!
//! Of a topic whose files are small, and most are, two are read: a copy by the kernel, in which a number that is being changed may be
//! the one before or after. Whatever is not as expected is left to [`BusView::topic`], which says what is wrong.

use crate::directory::BusDir;
use crate::error::TopicError;
use crate::inspect::{BusView, TopicSettings};
use crate::payload::TypeIdentity;
use crate::sys::file;
use crate::topic::LaneRing;
use bus_core::holder::{HolderWord, producer};
use bus_core::layout::groups::{self, in_entry, in_lane, state};
use bus_core::layout::ring::{self, type_state};
use bus_core::layout::{Preamble, get_name, samples, wake};
use bus_core::limits::{GROUPS_MAX, TYPES_MAX};
use bus_core::seq::distance;
use bus_core::sync::AtomicU64;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A topic as a list shows it.
#[derive(Clone, Debug)]
pub struct TopicBrief {
    /// Its name.
    pub name: String,
    /// What does not change.
    pub settings: TopicSettings,
    /// Groups that have not let go.
    pub groups: usize,
    /// Publishers that are attached.
    pub publishers: usize,
    /// Messages published so far.
    pub message_count: u64,
    /// Messages that the group which is furthest behind has not finished.
    pub unread_count: u64,
    /// Memory of all its files in bytes.
    pub memory_bytes: u64,
}

/// Rings up to this size are read; a larger one is mapped.
const RING_BYTES_MAX: usize = 64 << 10;
/// Topics for which another thread is worth its start.
const SHARE_MIN: usize = 500;
/// Threads that list at once.
const THREADS_MAX: usize = 4;

/// Buffers that are used again from topic to topic.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    words: Vec<AtomicU64>,
}

impl BusView {
    /// All topics, sorted by name, each with what a list shows, or why it cannot be read.
    pub fn briefs(&self) -> Vec<(String, Result<TopicBrief, TopicError>)> {
        let names = self.topic_names();
        let topics = file::open_dir(&self.dir().topics()).ok();
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let share = names.len().div_ceil(cores).max(SHARE_MIN);
        let list = |names: &[String]| -> Vec<_> {
            let mut scratch = Scratch::default();
            let one = |name: &String| {
                let quick = topics.as_ref().and_then(|topics| quick(self.dir(), topics, name, &mut scratch));
                let brief = quick.map_or_else(|| self.thorough(name), Ok);
                (name.clone(), brief)
            };
            names.iter().map(one).collect()
        };
        let list = &list;
        std::thread::scope(|scope| {
            let mut shares = names.chunks(share);
            let first = shares.next().unwrap_or_default();
            let threads: Vec<_> = shares.map(|names| scope.spawn(move || list(names))).collect();
            let mut all = list(first);
            for thread in threads {
                all.extend(thread.join().unwrap_or_default());
            }
            all
        })
    }

    /// One topic, by everything that there is to see.
    fn thorough(&self, name: &str) -> Result<TopicBrief, TopicError> {
        let mut topic = self.topic(name)?;
        let (settings, state) = (topic.settings()?, topic.sample());
        let present: Vec<_> = state.groups.iter().filter(|group| group.state != "detached").collect();
        let lag = |group: &&crate::inspect::GroupState| sum(group.lanes.iter().map(|lane| lane.lag_count));
        Ok(TopicBrief {
            name: state.name,
            settings,
            groups: present.len(),
            publishers: state.producers.len(),
            message_count: sum(state.lanes.iter().map(|lane| lane.end)),
            unread_count: present.iter().map(lag).max().unwrap_or(0),
            memory_bytes: state.memory_bytes,
        })
    }
}

/// A sum of what a damaged file may say to be anything.
fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// The first bytes of a file, up to `most`. Less is all that it has: one call, where there are thousands of files.
fn read<'a>(file: &File, bytes: &'a mut Vec<u8>, most: usize) -> Option<&'a [u8]> {
    if bytes.len() < most {
        bytes.resize(most, 0);
    }
    let have = file.read_at(&mut bytes[..most], 0).ok()?;
    Some(&bytes[..have])
}

fn number(bytes: &[u8], offset_bytes: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(offset_bytes..offset_bytes + 8)?.try_into().ok()?))
}

fn plain<T: bytemuck::Pod>(bytes: &[u8], offset_bytes: usize) -> Option<T> {
    Some(bytemuck::pod_read_unaligned(bytes.get(offset_bytes..offset_bytes + size_of::<T>())?))
}

/// A topic by its two files. `None`: not like this.
fn quick(dir: &BusDir, topics: &File, name: &str, scratch: &mut Scratch) -> Option<TopicBrief> {
    let ring_file = file::open_ro_in(topics, &format!("{name}/ring")).ok()?;
    let Scratch { bytes: buffer, words } = scratch;
    let bytes = read(&ring_file, buffer, RING_BYTES_MAX + 1)?;
    if bytes.len() > RING_BYTES_MAX {
        return None;
    }
    // All its pages are reserved.
    let mut memory_bytes = bytes.len() as u64;
    let fixed: ring::Fixed = plain(bytes, 0)?;
    let config = fixed.config;
    fixed.preamble.check(ring::MAGIC, bytes.len() as u64).ok()?;
    config.check().ok()?;
    if config.footprint_bytes() != bytes.len() as u64 {
        return None;
    }
    let creator = format!("{} (pid {})", get_name(&fixed.creator_service), fixed.creator_pid);
    let ttl_ns = number(bytes, ring::at::TTL_NS)?;
    let settings = TopicSettings::new(&config, ttl_ns, types(bytes)?, (creator, fixed.created_ns));
    let ends = ends(&config, bytes, words)?;
    let mut has_published = false;
    let mut publishers = 0;
    for index in 0..config.producers as usize {
        let word = number(bytes, ring::producer_state(index))?;
        has_published |= word != 0;
        publishers += usize::from(HolderWord::unpack(word).state == producer::LIVE);
    }
    let groups_file = file::open_ro_in(topics, &format!("{name}/groups")).ok()?;
    let mut bytes = read(&groups_file, buffer, groups::footprint_bytes(groups::ENTRIES_FIRST) as usize)?;
    memory_bytes += bytes.len() as u64;
    let preamble: Preamble = plain(bytes, 0)?;
    let used = number(bytes, groups::at::USED)?;
    if preamble.magic != groups::MAGIC || preamble.epoch != fixed.preamble.epoch || used > GROUPS_MAX.into() {
        return None;
    }
    if used as usize > groups::ENTRIES_FIRST {
        bytes = read(&groups_file, buffer, groups::footprint_bytes(used as usize) as usize)?;
    }
    let (groups, unread_count) = count_groups(bytes, used as usize, &ends)?;
    // Arenas come with publishers; owner words and stores with groups.
    if has_published || used > 0 {
        memory_bytes = dir.topic(name).memory_bytes();
    } else {
        let stamps = config.flags & ring::FLAG_STAMPS != 0;
        memory_bytes += wake::FILE_BYTES + if stamps { 0 } else { samples::FILE_BYTES };
    }
    Some(TopicBrief {
        name: name.to_owned(),
        settings,
        groups,
        publishers,
        message_count: sum(ends.iter().copied()),
        unread_count,
        memory_bytes,
    })
}

fn types(bytes: &[u8]) -> Option<Vec<TypeIdentity>> {
    let count = (number(bytes, ring::at::TYPES_COUNT)? as usize).min(TYPES_MAX);
    let mut types = Vec::new();
    for index in 0..count {
        let entry: ring::TypeEntry = plain(bytes, ring::at::TYPES + index * size_of::<ring::TypeEntry>())?;
        if entry.state == type_state::COMPLETE && !get_name(&entry.name).is_empty() {
            let name = get_name(&entry.name).to_owned();
            types.push(TypeIdentity { name, version: entry.version, fingerprint: entry.fingerprint });
        }
    }
    Some(types)
}

/// The ends of the lanes, in a copy of the ring.
fn ends(config: &ring::Config, bytes: &[u8], words: &mut Vec<AtomicU64>) -> Option<Vec<u64>> {
    (0..config.lanes as usize)
        .map(|lane| {
            let hint = AtomicU64::new(number(bytes, ring::hint(lane))?);
            let at = config.slots(lane) as usize;
            let slots = bytes.get(at..at + config.lane_slots_bytes() as usize)?;
            words.clear();
            words.extend(
                slots
                    .chunks_exact(8)
                    .map(|word| AtomicU64::new(u64::from_ne_bytes(word.try_into().unwrap_or_default()))),
            );
            Some(LaneRing::attach(words, config)?.end(&hint))
        })
        .collect()
}

/// Groups that are there, and the lag of the one that is furthest behind.
fn count_groups(bytes: &[u8], used: usize, ends: &[u64]) -> Option<(usize, u64)> {
    let (mut count, mut most) = (0, 0);
    for entry in 0..used {
        let word = HolderWord::unpack(number(bytes, groups::entry(entry) + in_entry::STATE)?);
        if word.state == state::FREE || state::has_let_go(word.state) {
            continue;
        }
        count += 1;
        let mut lag: u64 = 0;
        for (lane, &end) in ends.iter().enumerate() {
            let low_water = number(bytes, groups::lane(entry, lane) + in_lane::LOW_WATER)?;
            lag = lag.saturating_add(distance(end, low_water).max(0) as u64);
        }
        most = most.max(lag);
    }
    Some((count, most))
}
