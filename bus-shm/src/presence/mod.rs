//! Who takes part in a bus, and what each process does, seen from outside.
//!
//! Rates are those of a short look: what came between two looks at the rings and the groups. Nothing is counted for this by those who
//! publish and receive; which publisher a message is from stands in its slot, and who has finished one of a shared group in its
//! owner word.

pub(crate) mod head;

use crate::inspect::BusView;
use crate::lease::ParticipantInfo;
use crate::reader::LaneReader;
use crate::region::Region;
use crate::sys::clock::monotonic_ns;
use crate::sys::process;
use crate::topic::{Role, TopicCore};
use bus_core::header::{producer_entry, producer_tag};
use bus_core::holder::{HolderWord, producer};
use bus_core::layout::groups::{in_entry, in_lane, kind, state};
use bus_core::layout::{owners, ring};
use bus_core::owner;
use bus_core::seq::distance;
use bus_core::sync::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Newest messages of a lane that are looked at one by one; of more, the rate is extrapolated.
const LOOKED_AT: u64 = 16_384;
/// Newest messages of a lane among which a publisher's last one is looked for.
const LOOKED_BACK: u64 = 1_024;

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs, or sleeps.
    Alive,
    /// It was stopped (SIGSTOP, or a debugger).
    Stopped,
    /// It has ended, and what it held has not been swept yet.
    Ended,
}

impl Life {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Life::Alive => "alive",
            Life::Stopped => "stopped",
            Life::Ended => "ended",
        }
    }
}

/// A group that a process is a member of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// The topic.
    pub topic: String,
    /// The group; `~` and a number for one without a name.
    pub group: String,
    /// Do other members share it?
    pub shared: bool,
    /// Subscribers of this process in it.
    pub members: u64,
}

/// A process that takes part, at one moment.
#[derive(Clone, Debug)]
pub struct ProcessState {
    /// Who it is.
    pub info: ParticipantInfo,
    /// Does it live?
    pub life: Life,
    /// Topics that it is a publisher of, sorted.
    pub publishes: Vec<String>,
    /// Groups that it is a member of, sorted. Taps leave no trace.
    pub member_of: Vec<Membership>,
    /// Topics that it has attached to at some time, sorted; `None` where its list says nothing.
    pub attached: Option<Vec<String>>,
    /// Messages that it has published, a second.
    pub published_per_s: f64,
    /// Messages that it has finished, a second.
    pub handled_per_s: f64,
    /// CLOCK_MONOTONIC ns when it was last seen to do something: it published a message that is still in the ring and has a
    /// stamp, went to sleep after it had received something, set its status, or did any of this during the look. `None`: nothing
    /// of that is known.
    pub beat_ns: Option<u64>,
    /// What it says of itself.
    pub status: Option<String>,
    /// CLOCK_MONOTONIC ns when it has said so.
    pub status_set_ns: Option<u64>,
}

/// A group at the first look.
struct Group {
    entry: usize,
    name: String,
    /// Its owner words, if it is shared.
    owners: Option<Region>,
    low_water: Vec<u64>,
    /// Finished messages beyond that, by lane and member.
    done: HashMap<(usize, u16), u64>,
}

/// A topic at the first look.
struct Seen {
    core: Arc<TopicCore>,
    readers: Vec<LaneReader>,
    at_ns: u64,
    ends: Vec<u64>,
    groups: Vec<Group>,
}

/// The first of two looks at all processes of a bus.
#[must_use = "it says nothing until `finish`"]
pub struct Look<'v> {
    view: &'v BusView,
    topics: Vec<Seen>,
}

impl std::fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").field("topics", &self.topics.len()).finish_non_exhaustive()
    }
}

impl BusView {
    /// Begins a look at those who take part. After a while, [`Look::finish`] says who they are and what they do.
    pub fn look_at_processes(&self) -> Look<'_> {
        let mut names = BTreeSet::new();
        for info in self.table().present() {
            match crate::attached::topics_of(&self.dir().lease(info.participant, info.tag)) {
                Some(noted) => names.extend(noted),
                None => names.extend(self.topic_names()),
            }
        }
        Look { view: self, topics: names.iter().filter_map(|name| self.first_look(name)).collect() }
    }

    fn first_look(&self, name: &str) -> Option<Seen> {
        // What cannot be read is the checker's to report.
        let core = Arc::new(TopicCore::attach(self.dir(), name, Role::Observer).ok()?);
        let readers = (0..core.lanes()).map(|lane| LaneReader::attach(core.clone(), lane));
        let readers = readers.collect::<Result<Vec<_>, _>>().ok()?;
        let at_ns = monotonic_ns();
        let groups = (0..core.groups_used()).filter_map(|entry| first_look_at_group(&core, entry)).collect();
        let ends = (0..core.lanes()).map(|lane| core.end(lane)).collect();
        Some(Seen { core, readers, at_ns, ends, groups })
    }
}

fn first_look_at_group(core: &TopicCore, entry: usize) -> Option<Group> {
    let word = HolderWord::unpack(core.group_number(entry, in_entry::STATE));
    if word.state == state::FREE {
        return None;
    }
    let is_shared = core.group_number(entry, in_entry::KIND) & kind::SHARED != 0;
    let owners = if is_shared { core.look_at_owners(entry) } else { None };
    let low_water: Vec<_> =
        (0..core.lanes()).map(|lane| core.group_lane_number(entry, lane, in_lane::LOW_WATER)).collect();
    let mut group = Group {
        entry,
        name: crate::group::display_name(core, entry),
        owners,
        low_water,
        done: HashMap::new(),
    };
    for lane in 0..core.lanes() {
        for (member, count) in group.done_by_member(core, lane, core.end(lane)).0 {
            group.done.insert((lane, member), count);
        }
    }
    Some(group)
}

impl Group {
    /// How many messages of a lane each member has finished, from the low water of the first look up to `end`, and the share of
    /// them that could be looked at.
    fn done_by_member(&self, core: &TopicCore, lane: usize, end: u64) -> (HashMap<u16, u64>, f64) {
        let mut done = HashMap::new();
        let from = self.low_water[lane];
        let Some(words) = self.owners.as_ref().and_then(|region| crate::group::owners_of(core, region, lane))
        else {
            return (done, 1.0);
        };
        let all = distance(end, from).max(0) as u64;
        let looked = all.min(u64::from(core.config().capacity)).min(LOOKED_AT);
        for index in 0..looked {
            let word = words.look(end.wrapping_sub(1 + index));
            if word.state == owner::state::DONE {
                *done.entry(word.member).or_default() += 1;
            }
        }
        (done, if looked == 0 { 1.0 } else { all as f64 / looked as f64 })
    }
}

/// What a process has done between two looks, and since when that is known.
#[derive(Default)]
struct Deeds {
    publishes: BTreeSet<String>,
    member_of: BTreeSet<Membership>,
    published_per_s: f64,
    handled_per_s: f64,
    beat_ns: u64,
}

impl Look<'_> {
    /// Looks again, and says who takes part and what each does.
    pub fn finish(mut self) -> Vec<ProcessState> {
        let present = self.view.table().present();
        let mut deeds: Vec<Deeds> = present.iter().map(|_| Deeds::default()).collect();
        let find = |word: HolderWord| present.iter().position(|info| info.holder() == word.holder);
        for seen in &mut self.topics {
            let now_ns = monotonic_ns();
            let seconds = now_ns.saturating_sub(seen.at_ns).max(1) as f64 / 1e9;
            publishers(seen, seconds, now_ns, &find, &mut deeds);
            for group in &seen.groups {
                members(&seen.core, group, (seconds, now_ns), &present, &mut deeds);
            }
        }
        let state = |(info, deeds)| self.state_of(info, deeds);
        present.into_iter().zip(deeds).map(state).collect()
    }

    fn state_of(&self, info: ParticipantInfo, deeds: Deeds) -> ProcessState {
        let lease = self.view.dir().lease(info.participant, info.tag);
        let said = head::read(&lease);
        let life = if self.view.table().is_gone(&info) {
            Life::Ended
        } else if info.is_of_namespace()
            && matches!(process::state_of(info.pid, info.start_ticks()), Some('T' | 't'))
        {
            Life::Stopped
        } else {
            Life::Alive
        };
        let attached = crate::attached::topics_of(&lease).map(|mut topics| {
            topics.sort();
            topics
        });
        let beat_ns = deeds.beat_ns.max(said.beat_ns);
        let (status, status_set_ns) = said.status.unzip();
        ProcessState {
            life,
            publishes: deeds.publishes.into_iter().collect(),
            member_of: deeds.member_of.into_iter().collect(),
            attached,
            published_per_s: deeds.published_per_s,
            handled_per_s: deeds.handled_per_s,
            beat_ns: (beat_ns != 0).then_some(beat_ns),
            status,
            status_set_ns,
            info,
        }
    }
}

/// What the publishers of a topic have done.
fn publishers(
    seen: &mut Seen,
    seconds: f64,
    now_ns: u64,
    find: &dyn Fn(HolderWord) -> Option<usize>,
    deeds: &mut [Deeds],
) {
    // By entry: whose it is, and its incarnation.
    let mut entries: HashMap<u16, (usize, u32)> = HashMap::new();
    for index in 0..seen.core.config().producers as usize {
        let word = seen.core.ring_word(ring::producer_state(index));
        let word = HolderWord::unpack(word.map_or(0, |word| word.load(Ordering::Acquire)));
        if word.state == producer::LIVE
            && let Some(process) = find(word)
        {
            entries.insert(index as u16, (process, word.tag));
            deeds[process].publishes.insert(seen.core.name().to_owned());
        }
    }
    if entries.is_empty() {
        return;
    }
    for (lane, reader) in seen.readers.iter_mut().enumerate() {
        let (end, before) = (seen.core.end(lane), seen.ends[lane]);
        let capacity = u64::from(seen.core.config().capacity);
        let come = distance(end, before).max(0) as u64;
        let looked = come.min(LOOKED_AT);
        let factor = if looked == 0 { 0.0 } else { come as f64 / looked as f64 / seconds };
        for index in 0..looked.max(LOOKED_BACK).min(capacity).min(end) {
            let Some(header) = reader.header_at(end - 1 - index) else { continue };
            let Some(&(process, tag)) = entries.get(&producer_entry(header.producer)) else { continue };
            if producer_tag(header.producer, tag) != tag {
                continue;
            }
            let deeds = &mut deeds[process];
            if index < looked {
                deeds.published_per_s += factor;
                deeds.beat_ns = now_ns;
            }
            deeds.beat_ns = deeds.beat_ns.max(header.stamp_ns.min(now_ns));
        }
    }
}

/// What the members of a group have done.
fn members(
    core: &TopicCore,
    group: &Group,
    (seconds, now_ns): (f64, u64),
    present: &[ParticipantInfo],
    deeds: &mut [Deeds],
) {
    let membership = |members| Membership {
        topic: core.name().to_owned(),
        group: group.name.clone(),
        shared: group.owners.is_some(),
        members,
    };
    let mut handled = |process: usize, count: f64| {
        if count > 0.0 {
            deeds[process].handled_per_s += count / seconds;
            deeds[process].beat_ns = now_ns;
        }
    };
    let Some(region) = &group.owners else {
        let word = HolderWord::unpack(core.group_number(group.entry, in_entry::STATE));
        let has_member = word.state == state::ACTIVE || word.state == state::EVICTED;
        let Some(process) = present.iter().position(|info| has_member && info.holder() == word.holder) else {
            return;
        };
        for (lane, &before) in group.low_water.iter().enumerate() {
            let now = core.group_lane_number(group.entry, lane, in_lane::LOW_WATER);
            handled(process, distance(now, before).max(0) as f64);
        }
        deeds[process].member_of.insert(membership(1));
        return;
    };
    for lane in 0..core.lanes() {
        let (done, factor) = group.done_by_member(core, lane, core.end(lane));
        for (member, count) in done {
            let before = group.done.get(&(lane, member)).copied().unwrap_or(0);
            if let Some(process) = present.iter().position(|info| info.participant == member) {
                handled(process, count.saturating_sub(before) as f64 * factor);
            }
        }
    }
    let Some(words) = region.look_words(owners::MEMBERS, owners::MEMBER_WORDS) else { return };
    for (process, info) in present.iter().enumerate() {
        let word = words[owners::member(info.participant).0].load(Ordering::Relaxed);
        let count = owners::member_count(word, info.participant);
        if count > 0 {
            deeds[process].member_of.insert(membership(count));
        }
    }
}
