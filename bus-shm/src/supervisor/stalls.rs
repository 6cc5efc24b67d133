//! Groups that stand still: the holder of the role looks at the cursors of the topics in which anything can happen, marks in the
//! group table which groups have not moved for longer than they may, and lets those go that have agreed to it.
//!
//! A topic is looked at with every turn where a group has something to read, and else as often as the shortest limit of
//! its groups needs, at least every two and a half seconds. A mark is a hint, set and cleared by compare-and-swap, and a late one of a superseded holder is
//! cleared by the next. Letting go is one compare-and-swap on the state word that was seen before the cursors: a publisher
//! that waits for room does the same, and whoever joins meanwhile has changed the word.

use super::role::BEAT;
use super::watchlist::Watchlist;
use super::{lane_end, lane_ring};
use crate::directory::BusDir;
use crate::error::RegionError;
use crate::inspect::ProcessInfo;
use crate::lease::Participants;
use crate::region::{Access, Region};
use crate::sys::clock::monotonic_ns;
use crate::sys::futex;
use crate::sys::map::Map;
use crate::topic::{Role, TopicCore};
use bus_core::group;
use bus_core::holder::HolderWord;
use bus_core::layout::groups::{self, in_entry, in_lane, kind, stall, state};
use bus_core::layout::ring::{self, Config};
use bus_core::layout::{Mismatch, get_name, wake};
use bus_core::limits::{GROUPS_MAX, LANES_MAX};
use bus_core::stall::{Found, Limits, Tracker};
use bus_core::sync::{AtomicU64, Ordering};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// From one turn to the next while a group has something to read.
const TURN: Duration = Duration::from_millis(100);
/// Longest rest of a topic whose groups have nothing to read.
const REST_MS_MAX: u64 = 2_500;
/// A limit is passed by at most this share of it.
const REST_SHARE: u64 = 4;
/// What a turn may take.
const BUDGET_NS: u64 = 2_000_000;
/// Topics that are watched: two mappings each, of the 65,530 that a process has.
const TOPICS_MAX: usize = 10_000;

/// What has become of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has stood still for longer than it may, or is too far behind.
    Stalled,
    /// And was let go for it.
    LetGo,
    /// It gets on again.
    GoesOn,
}

impl Change {
    /// What the event says.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::LetGo => "let go",
            Self::GoesOn => "goes on",
        }
    }
}

/// A group that stands still, or goes on again.
#[derive(Clone, Debug)]
pub(super) struct StallReport {
    pub(super) change: Change,
    pub(super) topic: String,
    pub(super) group: String,
    /// Its member, if it has a single one.
    pub(super) member: Option<ProcessInfo>,
    /// Since when it stands still, CLOCK_MONOTONIC ms.
    pub(super) since_ms: u64,
    /// Messages in the lane in which it is furthest behind.
    pub(super) lag: u64,
}

/// What the holder of the role does about groups that stand still.
#[derive(Debug)]
pub(super) struct Stalls {
    dir: BusDir,
    topics: Vec<Watched>,
    /// Topics to be watched that are not mapped yet.
    found: Vec<String>,
    version: u64,
    next: usize,
    is_busy: bool,
}

/// A topic that is watched. Descriptors are not kept: there may be thousands.
#[derive(Debug)]
struct Watched {
    name: String,
    inode: u64,
    config: Config,
    ring: Map,
    groups: Map,
    /// Entries that are known to be backed by memory.
    backed: usize,
    trackers: Vec<Tracker>,
    /// Groups that were reported as let go and have not been found in order since: keys of their entries, 0 for the others.
    reported: Vec<u64>,
    looked_ms: u64,
    rest_ms: u64,
    /// If no group had anything to read at the last look: how many joins there had been, and the lanes' ends. As long as both are
    /// the same, none has.
    quiet: Option<(u64, [u64; LANES_MAX])>,
}

/// What a look needs to know of the supervisor.
struct Around<'a> {
    dir: &'a BusDir,
    participants: &'a Participants,
    goes_on: &'a dyn Fn() -> bool,
    report: &'a dyn Fn(&StallReport),
}

impl Stalls {
    pub(super) fn new(dir: BusDir) -> Self {
        Self { dir, topics: Vec::new(), found: Vec::new(), version: 0, next: 0, is_busy: false }
    }

    /// How long the holder may sleep.
    pub(super) fn pause(&self) -> Duration {
        if self.is_busy || !self.found.is_empty() { TURN } else { BEAT }
    }

    /// Looks at the topics whose time has come. `goes_on` is asked before a group is let go: false if another has the role.
    pub(super) fn turn(
        &mut self,
        watchlist: &Watchlist,
        participants: &Participants,
        goes_on: &dyn Fn() -> bool,
        report: &dyn Fn(&StallReport),
    ) {
        let begun_ns = monotonic_ns();
        if self.version != watchlist.version() {
            self.version = watchlist.version();
            self.list(watchlist);
        }
        let is_over = || monotonic_ns() > begun_ns + BUDGET_NS;
        while self.topics.len() < TOPICS_MAX
            && let Some(name) = self.found.pop()
        {
            // One that cannot be read is found again when the list changes.
            self.topics.extend(Watched::attach(&self.dir, &name));
            if is_over() {
                break;
            }
        }
        if self.topics.len() >= TOPICS_MAX {
            self.found.clear();
        }
        let Self { dir, topics, next, is_busy, .. } = self;
        let around = Around { dir, participants, goes_on, report };
        let (count, now_ms) = (topics.len(), begun_ns / 1_000_000);
        *is_busy = false;
        for done in 0..count {
            if done % 16 == 15 && is_over() {
                *is_busy = true;
                break;
            }
            *next = (*next + 1) % count;
            let topic = &mut topics[*next];
            if now_ms >= topic.looked_ms + topic.rest_ms {
                topic.look(now_ms, &around);
            }
            *is_busy |= topic.rest_ms == 0;
        }
    }

    /// Finds out which topics are to be watched.
    fn list(&mut self, watchlist: &Watchlist) {
        let inode = |name: &str| std::fs::metadata(&self.dir.topic(name).0).ok().map(|status| status.ino());
        self.topics
            .retain(|topic| watchlist.is_attached(&topic.name) && inode(&topic.name) == Some(topic.inode));
        let known: std::collections::HashSet<&str> =
            self.topics.iter().map(|topic| topic.name.as_str()).collect();
        self.found = match watchlist.topics() {
            Some(names) => names.iter().filter(|name| !known.contains(name.as_str())).cloned().collect(),
            None => {
                let mut names = self.dir.topic_names();
                names.retain(|name| !known.contains(name.as_str()));
                names
            }
        };
    }
}

impl Watched {
    fn attach(dir: &BusDir, name: &str) -> Result<Self, RegionError> {
        let home = dir.topic(name);
        let inode = std::fs::metadata(&home.0).map_or(0, |status| status.ino());
        let mismatch = |region: &Region, why| RegionError::Mismatch { path: region.path().to_owned(), why };
        let (of_ring, preamble) = Region::attach(&home.ring(), ring::MAGIC, Access::Read, None)?;
        let fixed: ring::Fixed = of_ring.read(0)?;
        fixed.config.check().map_err(|why| mismatch(&of_ring, why))?;
        let need_bytes = fixed.config.footprint_bytes();
        if preamble.file_bytes < need_bytes {
            let why = Mismatch::Truncated { len_bytes: preamble.file_bytes, need_bytes };
            return Err(mismatch(&of_ring, why));
        }
        let most = groups::footprint_bytes(GROUPS_MAX as usize);
        let (of_groups, beginning) =
            Region::attach(&home.groups(), groups::MAGIC, Access::Write, Some(most))?;
        if beginning.epoch != preamble.epoch {
            return Err(mismatch(&of_groups, Mismatch::Field { name: "epoch", value: beginning.epoch }));
        }
        let backed = backed(of_groups.file_bytes());
        Ok(Self {
            name: name.to_owned(),
            inode,
            config: fixed.config,
            ring: of_ring.into_map(),
            groups: of_groups.into_map(),
            backed,
            trackers: Vec::new(),
            reported: Vec::new(),
            looked_ms: 0,
            rest_ms: 0,
            quiet: None,
        })
    }

    fn word(&self, offset_bytes: usize) -> Option<&AtomicU64> {
        self.groups.words(offset_bytes, 1)?.first()
    }

    fn number(&self, offset_bytes: usize) -> u64 {
        self.word(offset_bytes).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Entries that have ever been used and are backed by memory.
    fn used(&mut self, dir: &BusDir) -> usize {
        let used = (self.number(groups::at::USED) as usize).min(GROUPS_MAX as usize);
        if used > self.backed {
            // Not what a word says: beyond the file's end nothing may be touched.
            let bytes = std::fs::metadata(dir.topic(&self.name).groups()).map_or(0, |status| status.len());
            self.backed = self.backed.max(backed(bytes));
        }
        used.min(self.backed)
    }

    /// Looks at its groups, and says when it wants to be looked at again.
    fn look(&mut self, now_ms: u64, around: &Around<'_>) {
        self.looked_ms = now_ms;
        // Before anything else is looked at: who joins meanwhile makes it differ the next time.
        let joins = self.number(groups::at::GENERATION);
        if self.is_still_quiet(joins) {
            return;
        }
        self.rest_ms = REST_MS_MAX;
        let mut ends = [0; LANES_MAX];
        for (lane, end) in ends.iter_mut().enumerate().take(self.config.lanes as usize) {
            *end = lane_end(&self.ring, &self.config, lane, None).unwrap_or(0);
        }
        let mut is_quiet = true;
        let used = self.used(around.dir);
        self.trackers.resize(used.max(self.trackers.len()), Tracker::default());
        self.reported.resize(self.trackers.len(), 0);
        for entry in 0..used {
            let at = groups::entry(entry);
            // The word first: what is read after it belongs to it, or its change fails.
            let Some(word) = self.word(at + in_entry::STATE) else { break };
            let seen = HolderWord::unpack(word.load(Ordering::Acquire));
            let bits = self.number(at + in_entry::KIND);
            let has_member = match seen.state {
                state::ACTIVE => true,
                // Whether anybody is there is looked at before it is marked.
                state::HELD => bits & kind::SHARED != 0,
                _ => false,
            };
            if !has_member {
                self.trackers[entry] = Tracker::default();
                continue;
            }
            let mut lanes = [(0, 0); LANES_MAX];
            let count = self.config.lanes as usize;
            for (lane, both) in lanes.iter_mut().enumerate().take(count) {
                // The cursor first, so that it is not beyond the end for a message that has just come.
                let low_water = self.number(groups::lane(entry, lane) + in_lane::LOW_WATER);
                let end = |known| lane_end(&self.ring, &self.config, lane, Some(known));
                *both = (low_water, end(low_water).unwrap_or(low_water));
            }
            let limits = Limits::of(self.number(stall::after(entry)), self.number(stall::lag(entry)));
            let mut tracker = self.trackers[entry];
            let found = tracker.look(seen.pack(), &lanes[..count], limits, now_ms);
            self.trackers[entry] = tracker;
            is_quiet &= found == Found::Idle;
            if found == Found::Idle {
                let wanted_ms = limits.after_ms.unwrap_or(REST_MS_MAX) / REST_SHARE;
                // How far it is behind can change at once.
                let wanted_ms =
                    if limits.lag.is_some() { wanted_ms.min(TURN.as_millis() as u64) } else { wanted_ms };
                self.rest_ms = self.rest_ms.min(wanted_ms);
            } else {
                self.rest_ms = 0;
            }
            if !self.act(entry, (seen, bits), found, around) {
                // Looked at again when its time is up once more.
                self.trackers[entry] = Tracker::default();
            }
        }
        self.quiet = is_quiet.then_some((joins, ends));
    }

    /// Has nothing come, and nobody joined, since no group had anything to read?
    fn is_still_quiet(&self, joins: u64) -> bool {
        self.quiet.is_some_and(|(seen, ends)| {
            let is_end = |(lane, end): (usize, u64)| {
                lane_ring(&self.ring, &self.config, lane).is_some_and(|ring| ring.is_still_end(end))
            };
            seen == joins && ends.into_iter().enumerate().take(self.config.lanes as usize).all(is_end)
        })
    }

    /// Marks a group, or lets it go, by what a look has found. False: it is a shared one without a member, which cannot stall.
    fn act(
        &mut self,
        entry: usize,
        (seen, bits): (HolderWord, u64),
        found: Found,
        around: &Around<'_>,
    ) -> bool {
        let key = self.number(groups::entry(entry) + in_entry::KEY);
        // One that comes back as far behind as before is let go each time, and that is one stall.
        let is_news = !matches!(self.reported.get(entry), Some(&reported) if reported == key && key != 0);
        if !matches!(found, Found::Stalled { .. })
            && let Some(reported) = self.reported.get_mut(entry)
        {
            *reported = 0;
        }
        let Some(mark) = self.word(stall::since(entry)) else { return true };
        // Relaxed: a hint, complete in itself.
        let marked = mark.load(Ordering::Relaxed);
        let change = |from: u64, to: u64| {
            mark.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let Found::Stalled { since_ms, lag } = found else {
            if marked != 0 && change(marked, 0) {
                self.say(Change::GoesOn, entry, seen, (marked, 0), around);
            }
            return true;
        };
        let is_shared = bits & kind::SHARED != 0;
        if marked == 0 {
            if is_shared && self.members(entry, around.dir) == 0 {
                return false;
            }
            if change(0, since_ms.max(1)) && is_news {
                self.say(Change::Stalled, entry, seen, (since_ms, lag), around);
            }
        }
        if !is_shared && bits & kind::LETS_GO != 0 && seen.state == state::ACTIVE && (around.goes_on)() {
            let word = self.word(groups::entry(entry) + in_entry::STATE);
            let evicted = seen.with_state(state::EVICTED);
            if word.is_some_and(|word| group::change(word, seen, evicted).is_some()) {
                self.wake_publishers(around.dir);
                if is_news {
                    self.say(Change::LetGo, entry, seen, (since_ms, lag), around);
                }
                if let Some(reported) = self.reported.get_mut(entry) {
                    // One without a name does not come back.
                    *reported = if key == groups::KEY_EPHEMERAL { 0 } else { key };
                }
            }
        }
        true
    }

    fn members(&self, entry: usize, dir: &BusDir) -> u64 {
        let topic = TopicCore::attach(dir, &self.name, Role::Observer);
        topic.ok().and_then(|topic| topic.members(entry)).unwrap_or(0)
    }

    /// There may be room now for those who wait.
    fn wake_publishers(&self, dir: &BusDir) {
        let attached = Region::attach(&dir.topic(&self.name).wake(), wake::MAGIC, Access::Write, None);
        if let Ok((region, _)) = attached
            && let Some(bell) = region.look32(wake::at::SPACE_BELL)
        {
            futex::wake_all(bell);
        }
    }

    fn say(
        &self,
        change: Change,
        entry: usize,
        seen: HolderWord,
        (since_ms, lag): (u64, u64),
        around: &Around<'_>,
    ) {
        let group = match self.number(groups::entry(entry) + in_entry::KEY) {
            groups::KEY_EPHEMERAL => format!("~{entry}"),
            _ => self.name_of(entry),
        };
        let member = (seen.state == state::ACTIVE).then(|| {
            let (pid, service) = around.participants.describe(seen.holder);
            ProcessInfo { pid, service }
        });
        (around.report)(&StallReport { change, topic: self.name.clone(), group, member, since_ms, lag });
    }

    fn name_of(&self, entry: usize) -> String {
        let words = self.groups.words(groups::entry(entry) + in_entry::NAME, 8).unwrap_or_default();
        let mut field = [0; 64];
        for (bytes, word) in field.chunks_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        get_name(&field).to_owned()
    }
}

/// Entries that a file of so many bytes has room for.
fn backed(file_bytes: u64) -> usize {
    let room = (file_bytes as usize).saturating_sub(groups::at::ENTRIES) / groups::ENTRY_BYTES;
    room.min(GROUPS_MAX as usize)
}
