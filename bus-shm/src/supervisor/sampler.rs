//! Lag in seconds without stamps: the holder of the role notes from time to time how far each lane has come.
//!
//! Only topics whose messages carry no stamps are looked at, and of these only such to which a live process has attached: ten
//! times a second while messages come, then twice, with the holder's beat, and less often the longer nothing has come. One that
//! nobody has attached to any more is looked at once, and again when somebody has: nothing came in between, and a sample says
//! so. [`bus_core::samples`] says what is kept of that, and why a late store does no harm: so nothing here is fenced by the
//! role's word.
//!
//! A turn may take [`BUDGET_NS`], which is a fiftieth of a core at the most. Where there are so many topics that it ends
//! sooner, the next turn goes on from there: each topic is looked at less often, and ages are coarser by as much. Beyond
//! [`TOPICS_MAX`] topics none are added, and the ages of their messages stay unknown.

use super::lane_end;
use super::role::BEAT;
use super::watchlist::Watchlist;
use crate::directory::{BusDir, TEMPORARY};
use crate::error::RegionError;
use crate::region::{Access, Region};
use crate::sys::clock::monotonic_ns;
use crate::sys::map::Map;
use bus_core::layout::ring::{self, Config};
use bus_core::layout::{Mismatch, samples};
use bus_core::limits::LANES_MAX;
use bus_core::samples::{History, Recorder};
use std::collections::HashMap;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::time::Duration;

/// From one turn to the next while messages come.
const TURN: Duration = Duration::from_millis(100);
/// A topic that rests is looked at again after this, with the next beat ...
const REST_NS: u64 = 400_000_000;
/// ... and later the longer it rests, by this share of the time; ...
const REST_SHARE: u64 = 8;
/// ... but after this at the latest. What comes first after half a minute of rest is then told to be at least so old, until it is old enough
/// for a gap of this width: [`bus_core::samples`] makes nothing up.
const REST_NS_MAX: u64 = 4_400_000_000;
/// A topic rests when nothing has come for so long.
const AWAKE_NS: u64 = 10_000_000_000;
/// What a turn may take.
const BUDGET_NS: u64 = 2_000_000;
/// A look that took longer does not say when it was, and is left out.
const LOOK_NS_MAX: u64 = 10_000_000;
/// Times between two looks at which topics there are.
const LIST_NS: u64 = 1_000_000_000;
/// Topics that are looked at: two mappings each, of the 65,530 that a process has.
const TOPICS_MAX: usize = 10_000;

/// What the holder of the role does about times.
#[derive(Debug)]
pub(super) struct Sampler {
    dir: BusDir,
    /// Inodes of the topics of which it is known whether they carry stamps.
    known: HashMap<String, u64>,
    /// The others.
    found: Vec<(String, u64)>,
    topics: Vec<Sampled>,
    /// Those of them that are to be looked at: with thousands, a glance at each is too much.
    active: Vec<usize>,
    /// Where the next turn goes on.
    next: usize,
    /// The list of attached topics as it was when it was last gone through.
    version: u64,
    listed_ns: u64,
    /// The directory of topics as it was when it was read: changed at this time (seconds, nanoseconds).
    listed: Option<(i64, i64)>,
    /// The last turn ended before it was through, or messages come somewhere; or there was none yet.
    is_busy: bool,
}

/// A topic that is looked at. Descriptors are not kept: there may be thousands.
#[derive(Debug)]
struct Sampled {
    name: String,
    inode: u64,
    config: Config,
    ring: Map,
    samples: Map,
    lanes: [Recorder; LANES_MAX],
    /// What the last look found.
    ends: [Option<u64>; LANES_MAX],
    /// Can anything happen in it?
    is_attached: bool,
    /// It has been looked at since nothing can.
    is_settled: bool,
    looked_ns: u64,
    moved_ns: u64,
}

impl Sampler {
    pub(super) fn new(dir: BusDir) -> Self {
        Self {
            dir,
            known: HashMap::new(),
            found: Vec::new(),
            topics: Vec::new(),
            active: Vec::new(),
            next: 0,
            version: 0,
            listed_ns: 0,
            listed: None,
            is_busy: true,
        }
    }

    /// How long the holder may sleep.
    pub(super) fn pause(&self) -> Duration {
        if self.is_busy || !self.found.is_empty() { TURN } else { BEAT }
    }

    /// A topic has been made: its first messages may come at once.
    pub(super) fn made(&mut self, name: &str) {
        if let Ok(status) = std::fs::metadata(&self.dir.topic(name).0) {
            self.found.push((name.to_owned(), status.ino()));
        }
    }

    /// Looks at the topics whose time has come.
    pub(super) fn turn(&mut self, watchlist: &Watchlist) {
        let begun_ns = monotonic_ns();
        if begun_ns >= self.listed_ns + LIST_NS {
            self.listed_ns = begun_ns;
            self.list();
        }
        let is_over = |now_ns: u64| now_ns > begun_ns + BUDGET_NS;
        while self.topics.len() < TOPICS_MAX
            && let Some((name, inode)) = self.found.pop()
        {
            if self.known.get(&name) == Some(&inode) {
                continue;
            }
            // One that cannot be read is found again when the directory changes.
            if let Ok(topic) = Sampled::attach(&self.dir, &name, inode) {
                self.topics.extend(topic);
                self.version = 0;
                self.known.insert(name, inode);
            }
            if is_over(monotonic_ns()) {
                break;
            }
        }
        if self.topics.len() >= TOPICS_MAX {
            self.found.clear();
        }
        if self.version != watchlist.version() {
            self.version = watchlist.version();
            for topic in &mut self.topics {
                topic.attach_to(watchlist);
            }
            self.active = (0..self.topics.len()).filter(|&index| !self.topics[index].is_settled).collect();
        }
        let (count, mut now_ns) = (self.active.len(), monotonic_ns());
        self.is_busy = false;
        for _ in 0..count {
            if is_over(now_ns) {
                self.is_busy = true;
                break;
            }
            self.next = (self.next + 1) % count;
            let topic = &mut self.topics[self.active[self.next]];
            if topic.is_settled {
                continue;
            }
            let is_awake = topic.is_attached && begun_ns < topic.moved_ns + AWAKE_NS;
            self.is_busy |= is_awake;
            let rest_ns = (begun_ns.saturating_sub(topic.moved_ns) / REST_SHARE).clamp(REST_NS, REST_NS_MAX);
            if is_awake || !topic.is_attached || begun_ns >= topic.looked_ns + rest_ns {
                now_ns = topic.look(now_ns);
                topic.is_settled = !topic.is_attached;
            }
        }
        let topics = &self.topics;
        self.active.retain(|&index| !topics[index].is_settled);
    }

    /// Finds out which topics there are, if the directory has changed.
    fn list(&mut self) {
        let place = self.dir.topics();
        let Ok(status) = std::fs::metadata(&place) else { return };
        let changed = (status.mtime(), status.mtime_nsec());
        if self.listed == Some(changed) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(&place) else { return };
        let now: HashMap<String, u64> = entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.ino())))
            .filter(|(name, _)| !name.starts_with(TEMPORARY))
            .collect();
        // Times of files are some milliseconds coarse: one more change may have the same.
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let is_settled = age.saturating_sub(Duration::new(changed.0 as u64, changed.1 as u32)) > TURN;
        self.listed = is_settled.then_some(changed);
        self.topics.retain(|topic| now.get(&topic.name) == Some(&topic.inode));
        // Their places are others now.
        self.version = 0;
        self.known.retain(|name, inode| now.get(name) == Some(inode));
        self.found = now.into_iter().filter(|(name, _)| !self.known.contains_key(name)).collect();
    }
}

impl Sampled {
    /// `None` for a topic whose messages carry stamps.
    fn attach(dir: &BusDir, name: &str, inode: u64) -> Result<Option<Self>, RegionError> {
        let home = dir.topic(name);
        if !home.samples().exists() {
            return Ok(None);
        }
        let (of_samples, beginning) =
            Region::attach(&home.samples(), samples::MAGIC, Access::Write, Some(samples::FILE_BYTES))?;
        let (of_ring, preamble) = Region::attach(&home.ring(), ring::MAGIC, Access::Read, None)?;
        let mismatch = |region: &Region, why| RegionError::Mismatch { path: region.path().to_owned(), why };
        let fixed: ring::Fixed = of_ring.read(0)?;
        fixed.config.check().map_err(|why| mismatch(&of_ring, why))?;
        for (region, len_bytes, need_bytes) in [
            (&of_ring, preamble.file_bytes, fixed.config.footprint_bytes()),
            (&of_samples, of_samples.file_bytes(), samples::FILE_BYTES),
        ] {
            if len_bytes < need_bytes {
                return Err(mismatch(region, Mismatch::Truncated { len_bytes, need_bytes }));
            }
        }
        if beginning.epoch != preamble.epoch {
            return Err(mismatch(&of_samples, Mismatch::Field { name: "epoch", value: beginning.epoch }));
        }
        let mut this = Self {
            name: name.to_owned(),
            inode,
            config: fixed.config,
            ring: of_ring.into_map(),
            samples: of_samples.into_map(),
            lanes: [Recorder::default(); LANES_MAX],
            ends: [None; LANES_MAX],
            is_attached: true,
            is_settled: false,
            looked_ns: 0,
            moved_ns: 0,
        };
        for lane in 0..this.config.lanes as usize {
            let resumed = this.history(lane).map(|history| Recorder::resume(&history));
            this.lanes[lane] = resumed.unwrap_or_default();
        }
        Ok(Some(this))
    }

    fn history(&self, lane: usize) -> Option<History<'_>> {
        history(&self.samples, lane)
    }

    /// Finds out whether anything can happen here.
    fn attach_to(&mut self, watchlist: &Watchlist) {
        let was_settled = self.is_settled;
        self.is_attached = watchlist.is_attached(&self.name);
        if !self.is_attached || !was_settled {
            return;
        }
        self.is_settled = false;
        // Nobody was there before, so the ends were then what they had been at the last look.
        let before_ns = watchlist.before_ns();
        if before_ns > self.looked_ns {
            self.record(before_ns, self.ends);
        }
        self.looked_ns = 0;
    }

    /// Notes how far its lanes have come. Takes the time, and returns it.
    fn look(&mut self, before_ns: u64) -> u64 {
        let lanes = self.config.lanes as usize;
        let ends: [Option<u64>; LANES_MAX] = std::array::from_fn(|lane| {
            (lane < lanes).then(|| lane_end(&self.ring, &self.config, lane, self.ends[lane])).flatten()
        });
        let now_ns = monotonic_ns();
        self.looked_ns = now_ns;
        // The ends are those of some moment in between. From here on it does not matter when the stores come.
        if now_ns - before_ns > LOOK_NS_MAX {
            return now_ns;
        }
        self.record(now_ns, ends);
        now_ns
    }

    fn record(&mut self, at_ns: u64, ends: [Option<u64>; LANES_MAX]) {
        for (lane, end) in ends.into_iter().take(self.config.lanes as usize).enumerate() {
            if let (Some(end), Some(history)) = (end, history(&self.samples, lane)) {
                self.ends[lane] = Some(end);
                if self.lanes[lane].record(&history, at_ns, end) {
                    self.moved_ns = at_ns;
                }
            }
        }
    }
}

/// The history of a lane in a mapped file of samples.
fn history(map: &Map, lane: usize) -> Option<History<'_>> {
    let newest = map.words(samples::newest(lane), 1)?.first()?;
    Some(History::attach(newest, map.words(samples::kept(lane), samples::KEPT)?))
}
