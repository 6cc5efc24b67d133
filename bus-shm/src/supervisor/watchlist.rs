//! The topics in which anything can happen: those that some live process has attached to, by the lists in their leases.
//!
//! Nobody publishes to any other, or reads from it as a member of a group, so they need no look. Whoever attaches raises a word
//! after it has noted that; lists are read again when it has changed. A process whose list says nothing may be in all of them.

use crate::attached::topics_of;
use crate::directory::BusDir;
use crate::lease::ParticipantInfo;
use crate::region::{Access, Region};
use crate::sys::clock::monotonic_ns;
use bus_core::layout::superblock::spin;
use bus_core::sync::Ordering;
use std::collections::{HashMap, HashSet};

/// What is known of one process.
#[derive(Debug)]
struct List {
    len_bytes: u64,
    /// `None`: it may be in all topics.
    topics: Option<Vec<String>>,
}

/// Which topics are attached to.
#[derive(Debug)]
pub(super) struct Watchlist {
    dir: BusDir,
    spin: Option<Region>,
    /// The word at the last reading.
    count: u64,
    is_stale: bool,
    lists: HashMap<(u16, u32), List>,
    topics: HashSet<String>,
    is_all: bool,
    /// Topics of processes that have ended since the last turn.
    left: HashSet<String>,
    version: u64,
    checked_ns: u64,
    before_ns: u64,
}

impl Watchlist {
    pub(super) fn new(dir: BusDir) -> Self {
        let attached = Region::attach(&dir.spin(), spin::MAGIC, Access::Read, None);
        Self {
            dir,
            spin: attached.ok().map(|(region, _)| region),
            count: 0,
            is_stale: true,
            lists: HashMap::new(),
            topics: HashSet::new(),
            is_all: false,
            left: HashSet::new(),
            version: 0,
            checked_ns: 0,
            before_ns: 0,
        }
    }

    /// Somebody takes part now.
    pub(super) fn changed(&mut self) {
        self.is_stale = true;
    }

    /// Somebody has ended that had attached to these.
    pub(super) fn left(&mut self, topics: Vec<String>) {
        self.is_stale = true;
        self.left.extend(topics);
    }

    /// Reads the lists of those who live, if any has changed.
    pub(super) fn refresh<'a>(&mut self, live: impl Iterator<Item = &'a ParticipantInfo>) {
        self.before_ns = self.checked_ns;
        // Before the word: who attaches later is seen the next time, as one who was not there at this time.
        self.checked_ns = monotonic_ns();
        let word = self.spin.as_ref().and_then(|region| region.look(spin::ATTACHED));
        // Acquire: pairs with the Release in `BusInner::note_topic`; the topic stands in the list.
        let count = word.map_or(self.count.wrapping_add(1), |word| word.load(Ordering::Acquire));
        if count == self.count && !self.is_stale {
            return;
        }
        (self.count, self.is_stale) = (count, false);
        let mut before = std::mem::take(&mut self.lists);
        for info in live {
            let (place, lease) = ((info.participant, info.tag), self.dir.lease(info.participant, info.tag));
            let len_bytes = std::fs::metadata(&lease).map_or(0, |status| status.len());
            // A list only grows, or is given up.
            let known = before.remove(&place).filter(|list| list.len_bytes == len_bytes);
            let list = known.unwrap_or_else(|| List { len_bytes, topics: topics_of(&lease) });
            self.lists.insert(place, list);
        }
        self.is_all = self.lists.values().any(|list| list.topics.is_none());
        self.topics =
            self.lists.values().filter_map(|list| list.topics.as_ref()).flatten().cloned().collect();
        // No topic: a requester that stands still is no business of the bus.
        self.topics.remove(crate::attached::REPLIES);
        self.version += 1;
    }

    /// Everybody who had to know has looked.
    pub(super) fn seen(&mut self) {
        if !self.left.is_empty() {
            self.left.clear();
            self.version += 1;
        }
    }

    /// Changes when the answers below may have.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Can anything happen in this topic, or has it since the last turn?
    pub(super) fn is_attached(&self, topic: &str) -> bool {
        self.is_all || self.topics.contains(topic) || self.left.contains(topic)
    }

    /// Topics that somebody has attached to. `None`: perhaps all.
    pub(super) fn topics(&self) -> Option<&HashSet<String>> {
        (!self.is_all).then_some(&self.topics)
    }

    /// CLOCK_MONOTONIC ns of the turn before this one: what is attached now and was not then, was not before it either.
    pub(super) fn before_ns(&self) -> u64 {
        self.before_ns
    }
}
