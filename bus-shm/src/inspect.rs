//! Looking at a bus from outside: who takes part, what lies in the rings, who lags. Nothing here takes part, stores
//! anything, or creates anything.

use crate::aside::AsideFile;
use crate::directory::{BusDir, visible_names};
use crate::error::{BusError, MailboxOwner, TopicError};
use crate::keys::KeyedState;
use crate::lease::{ParticipantInfo, Participants};
use crate::mailbox;
use crate::payload::TypeIdentity;
use crate::quota::Quota;
use crate::reader::LaneReader;
use crate::region::{Access, Region};
use crate::supervisor::role;
use crate::sys::clock::monotonic_ns;
use crate::sys::socket;
use crate::topic::{Overflow, Role, TopicCore};
use bus_core::aside::{Counter, Table};
use bus_core::breaker::BreakerWord;
use bus_core::holder::{HolderWord, producer};
use bus_core::lane::Lane;
use bus_core::layout::aside::state as aside;
use bus_core::layout::groups::{in_entry, in_lane, kind, stall, state};
use bus_core::layout::superblock::{self, FLAG_MEMBARRIER, FLAG_TEMPORARY, RoleWord, at};
use bus_core::layout::{get_name, ring, samples, wake};
use bus_core::limits::PARTICIPANTS_MAX;
use bus_core::loops::{CutWord, Phase};
use bus_core::name::key;
use bus_core::quota::Limits;
use bus_core::samples::History;
use bus_core::seq::{distance, later};
use bus_core::sync::Ordering;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Unread messages whose lengths are added up one by one; beyond, the sum is extrapolated.
const EXACT_LAG_COUNT: u64 = 4096;

/// A bus, seen from outside.
#[derive(Debug)]
pub struct BusView {
    dir: BusDir,
    superblock: Arc<Region>,
    fixed: superblock::Fixed,
    participants: Participants,
}

/// A topic, seen from outside.
pub struct TopicView {
    dir: BusDir,
    core: Arc<TopicCore>,
    readers: Vec<LaneReader>,
    participants: Participants,
    /// Stores of groups that have one, by the group's entry.
    asides: Vec<Option<AsideFile>>,
    /// What the supervisor has noted, on topics without stamps.
    samples: Option<Region>,
}

impl std::fmt::Debug for TopicView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicView").field("name", &self.core.name()).finish_non_exhaustive()
    }
}

/// A process, as listings name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Service name.
    pub service: String,
}

/// What does not change in a topic.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Slots of each lane.
    pub capacity: u32,
    /// Lanes.
    pub lanes: u32,
    /// Most publishers at a time.
    pub producers: u32,
    /// Largest message in bytes.
    pub message_bytes_max: u64,
    /// Bound of one publisher's payload memory in one lane, in bytes.
    pub arena_bytes_max: u64,
    /// Do messages carry the time of their publication?
    pub stamps: bool,
    /// Time to live of the topic's messages in nanoseconds; 0 for ever.
    pub ttl_ns: u64,
    /// What a full lane does to a publisher.
    pub overflow: Overflow,
    /// Have publishers circuit breakers?
    pub breakers: bool,
    /// How many causes may lie behind a message.
    pub hops_max: u16,
    /// Types that it accepts; none means plain bytes.
    pub types: Vec<TypeIdentity>,
    /// Who created it.
    pub creator: String,
    /// CLOCK_REALTIME ns of its creation.
    pub created_ns: u64,
}

impl TopicSettings {
    pub(crate) fn new(
        config: &ring::Config,
        ttl_ns: u64,
        types: Vec<TypeIdentity>,
        (creator, created_ns): (String, u64),
    ) -> Self {
        Self {
            capacity: config.capacity,
            lanes: config.lanes,
            producers: config.producers,
            message_bytes_max: config.message_bytes,
            arena_bytes_max: config.arena_bound_bytes,
            stamps: config.flags & ring::FLAG_STAMPS != 0,
            ttl_ns,
            overflow: Overflow::of(config),
            breakers: config.flags & ring::FLAG_NO_BREAKERS == 0,
            hops_max: config.hops_max(),
            types,
            creator,
            created_ns,
        }
    }
}

/// A lane at one moment.
#[derive(Clone, Debug)]
pub struct LaneState {
    /// Which.
    pub lane: Lane,
    /// How it is called.
    pub name: &'static str,
    /// Messages published so far.
    pub end: u64,
    /// Below it, nothing is kept for a reliable group.
    pub gate: u64,
    /// Publications that were refused because it was full.
    pub refused_count: u64,
    /// Slots that hold messages which some reliable group has not finished.
    pub fill_count: u64,
}

/// A group's position in one lane at one moment.
#[derive(Clone, Debug)]
pub struct GroupLane {
    /// Which lane.
    pub lane: Lane,
    /// Everything before it is finished.
    pub low_water: u64,
    /// Messages published and not finished.
    pub lag_count: u64,
    /// Their payload bytes; extrapolated beyond 4,096 messages.
    pub lag_bytes: u64,
    /// Messages that failed and wait for another attempt, or are at it. They are no lag.
    pub waiting_count: u64,
    /// Dead letters.
    pub dead_count: u64,
    /// Age of the oldest of them; `None` without a lag, or where nothing is known of it.
    pub age: Option<Age>,
}

/// An age in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// So many.
    pub ns: u64,
    /// How well it is known.
    pub precision: Precision,
}

/// How well an age is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// The message's stamp says it.
    Exact,
    /// From what the supervisor notes of topics without stamps: to some tenths of a second, of messages older than about two
    /// seconds to some tenths of their age.
    Sampled,
    /// It is this or more: older than what is remembered, or nobody noted anything at the time.
    AtLeast,
}

/// A group at one moment.
#[derive(Clone, Debug)]
pub struct GroupState {
    /// Its name; `~` and a number for one without a name.
    pub name: String,
    /// `active`, `held` (named, nobody reads, messages are kept), `joining`, `detached`, `evicted`.
    pub state: &'static str,
    /// Many members share it.
    pub shared: bool,
    /// Of a keyed group: who has which keys.
    pub keyed: Option<KeyedState>,
    /// It goes with its member.
    pub ephemeral: bool,
    /// Its member, if it has a single one.
    pub holder: Option<ProcessInfo>,
    /// How many members it has.
    pub members: u64,
    /// Its position in each lane.
    pub lanes: Vec<GroupLane>,
    /// Messages that were handed out again.
    pub redelivered_count: u64,
    /// Messages of other types that were passed over.
    pub skipped_count: u64,
    /// How often it let go of the ring while it had no member.
    pub let_go_count: u64,
    /// For how many nanoseconds it has stood still, if that is longer than it may, or since when it is too far behind.
    pub stalled_ns: Option<u64>,
    /// Is it let go when it is stalled?
    pub lets_go: bool,
    /// Messages that failed and wait for another attempt, or are at it.
    pub waiting_count: u64,
    /// Dead letters.
    pub dead_count: u64,
    /// How often a message that failed found the group's store full.
    pub full_count: u64,
    /// Dead letters that made room for others.
    pub dropped_count: u64,
}

/// A topic at one moment.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Its name.
    pub name: String,
    /// Of a mailbox, where its owner is.
    pub mailbox: Option<MailboxOwner>,
    /// CLOCK_MONOTONIC ns at which this was read.
    pub at_ns: u64,
    /// Memory of all its files in bytes.
    pub memory_bytes: u64,
    /// Its lanes.
    pub lanes: Vec<LaneState>,
    /// Its groups.
    pub groups: Vec<GroupState>,
    /// Its publishers.
    pub producers: Vec<ProcessInfo>,
    /// What keeps them from publishing, one by one.
    pub publishers: Vec<PublisherState>,
    /// The topic's breaker: `closed`, or `open` for every publisher.
    pub breaker: BreakerState,
    /// What each publisher may publish whose service has no quota of its own.
    pub quota: Option<Quota>,
    /// Quotas of services. One of which no process takes part is named by a number.
    pub service_quotas: Vec<(String, Quota)>,
}

/// A circuit breaker at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerState {
    /// `closed`, `open` (publications are refused) or `half-open` (a few are let through).
    pub state: &'static str,
    /// Why it is not closed: `full`, `errors` or `quota`.
    pub reason: Option<&'static str>,
    /// Names of the lanes that it is about.
    pub lanes: Vec<&'static str>,
    /// How long the state lasts if nothing happens.
    pub left: Duration,
}

impl BreakerState {
    /// Does it let everything through?
    pub fn is_closed(&self) -> bool {
        self.state == "closed"
    }
}

/// A publisher at one moment.
#[derive(Clone, Debug)]
pub struct PublisherState {
    /// Whose it is.
    pub process: ProcessInfo,
    /// Its number in the topic.
    pub producer: u16,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Publications that its breaker, its quota, or a full lane refused.
    pub refused_count: u64,
    /// What it may publish.
    pub quota: Option<Quota>,
    /// What of other topics' consequences it does not publish: the longest such cut, where its process has met loops.
    pub loop_cut: Option<LoopCut>,
}

/// A publisher refuses what messages of another topic cause, since the two kept causing each other's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopCut {
    /// The topic of the causes; `?` if it is not there any more.
    pub cause: String,
    /// Is it all of them, and not one conversation?
    pub whole_pair: bool,
    /// `open`, or `half-open`: let through, until the next loop.
    pub state: &'static str,
    /// How long until the next trial.
    pub left: Duration,
}

impl BusView {
    /// Opens a bus for looking at it.
    ///
    /// # Errors
    /// [`BusError::NotFound`], or a region that cannot be read.
    pub fn open(name: &str, dir: Option<&Path>) -> Result<Self, BusError> {
        let dir = BusDir::new(name, dir)?;
        dir.check_base()?;
        if !dir.superblock().exists() {
            return Err(BusError::NotFound { bus: name.into(), dir: dir.base().into() });
        }
        let most = superblock::footprint_bytes(PARTICIPANTS_MAX as usize);
        let (region, _) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, Some(most))?;
        let superblock = Arc::new(region);
        let fixed = superblock.read(0)?;
        let participants = Participants::new(superblock.clone(), dir.clone());
        Ok(Self { dir, superblock, fixed, participants })
    }

    /// Names of this user's buses, sorted.
    pub fn list(dir: Option<&Path>) -> Vec<String> {
        let base = crate::directory::base_dir(dir);
        let mut names: Vec<_> =
            visible_names(&base).into_iter().filter(|name| base.join(name).join("bus").exists()).collect();
        names.sort();
        names
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.dir.name()
    }

    pub(crate) fn dir(&self) -> &BusDir {
        &self.dir
    }

    /// The table of those who take part.
    pub(crate) fn table(&self) -> &Participants {
        &self.participants
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// CLOCK_REALTIME ns of its creation.
    pub fn created_ns(&self) -> u64 {
        self.fixed.created_ns
    }

    /// Build that created it.
    pub fn build(&self) -> String {
        get_name(&self.fixed.build).to_owned()
    }

    /// Does it go with its last participant?
    pub fn is_temporary(&self) -> bool {
        self.fixed.flags & FLAG_TEMPORARY != 0
    }

    /// Do sleepers run membarrier, so that publishers need no fence?
    pub fn uses_membarrier(&self) -> bool {
        self.fixed.flags & FLAG_MEMBARRIER != 0
    }

    /// Has it been taken down since it was opened?
    pub fn is_closed(&self) -> bool {
        self.superblock.look(at::STATE).is_some_and(|state| state.load(Ordering::Acquire) != 0)
            || role::is_closed(role::newest(&self.superblock))
            || self.superblock.is_unlinked()
    }

    /// Does anybody hold the supervisor's role?
    pub fn is_served(&self) -> bool {
        role::is_held(&self.dir, role::newest(&self.superblock))
    }

    /// Process that holds the supervisor's role, if one answers. An agent that hosts the role is a participant too.
    pub fn supervisor_pid(&self) -> Option<u32> {
        let mark = RoleWord::unpack(role::newest(&self.superblock)).mark;
        let connection = socket::connect(&self.dir.socket(mark)).ok()?;
        Some(socket::peer(&connection).ok()?.pid)
    }

    /// How often the supervisor's role has changed hands.
    pub fn role_epoch(&self) -> u64 {
        RoleWord::unpack(role::newest(&self.superblock)).epoch
    }

    /// Processes that take part and have not ended.
    pub fn participants(&self) -> Vec<ParticipantInfo> {
        self.participants.all().into_iter().filter(|info| !self.participants.is_gone(info)).collect()
    }

    /// Names of its topics, sorted.
    pub fn topic_names(&self) -> Vec<String> {
        self.dir.topic_names()
    }

    /// Opens a topic for looking at it.
    ///
    /// # Errors
    /// [`TopicError::NotFound`], or a region that cannot be read.
    pub fn topic(&self, name: &str) -> Result<TopicView, TopicError> {
        bus_core::name::check_dotted(name, bus_core::limits::TOPIC_NAME_BYTES_MAX)
            .map_err(|why| TopicError::Name { name: name.into(), why })?;
        let core = Arc::new(TopicCore::attach(&self.dir, name, Role::Observer)?);
        let readers =
            (0..core.lanes()).map(|lane| LaneReader::attach(core.clone(), lane)).collect::<Result<_, _>>()?;
        let samples = open_samples(&core);
        let participants = self.participants.clone();
        Ok(TopicView { dir: self.dir.clone(), core, readers, participants, asides: Vec::new(), samples })
    }
}

impl TopicView {
    /// What does not change.
    ///
    /// # Errors
    /// A region that cannot be read.
    pub fn settings(&self) -> Result<TopicSettings, TopicError> {
        let types = self.core.types()?.into_iter().filter(|identity| !identity.name.is_empty()).collect();
        let (ttl_ns, creator) = (self.core.ttl_ns(), self.core.creator());
        Ok(TopicSettings::new(self.core.config(), ttl_ns, types, (creator, self.core.created_ns())))
    }

    /// Has the topic gone?
    pub fn is_gone(&self) -> bool {
        self.core.is_unlinked()
    }

    /// The topic as it is now. Cursors are read before ends, so a lag is never too small by a message that was finished in
    /// between, and never negative.
    pub fn sample(&mut self) -> TopicState {
        let at_ns = monotonic_ns();
        self.attach_asides();
        let mut groups: Vec<GroupState> =
            (0..self.core.groups_used()).filter_map(|entry| self.group(entry)).collect();
        let lanes: Vec<LaneState> = (0..self.core.lanes()).map(|lane| self.lane(lane, &groups)).collect();
        for group in &mut groups {
            for position in &mut group.lanes {
                let end = lanes[position.lane.index()].end;
                self.measure(position, end, at_ns);
            }
        }
        let publishers = self.publishers(at_ns);
        let of_owner = groups.iter().find(|group| group.name == mailbox::OWNER).map(|group| group.state);
        let owner_state = if of_owner == Some("held") { state::HELD } else { state::ACTIVE };
        TopicState {
            mailbox: mailbox::owner_of(&self.core, owner_state),
            name: self.core.name().to_owned(),
            at_ns,
            memory_bytes: self.core.dir().memory_bytes(),
            lanes,
            groups,
            producers: publishers.iter().map(|publisher| publisher.process.clone()).collect(),
            publishers,
            breaker: self.breaker(self.core.wake_word(wake::at::BREAKER), at_ns, true),
            quota: Quota::of_limits(Limits::of_topic(|offset| self.ring_number(offset))),
            service_quotas: self.service_quotas(),
        }
    }

    /// Stores are made when they are first needed, and stay as long as the topic.
    fn attach_asides(&mut self) {
        self.asides.resize_with(self.core.groups_used().max(self.asides.len()), || None);
        for (entry, file) in self.asides.iter_mut().enumerate().filter(|(_, file)| file.is_none()) {
            // What cannot be read is the checker's to report.
            let epoch = self.core.epoch();
            *file = AsideFile::attach(self.core.dir(), entry, epoch, Access::Read).ok().flatten();
        }
    }

    /// Counts what is in the store of a group, lane by lane. Not its counters: those may be off by what died.
    fn count_aside(&self, entry: usize, group: &mut GroupState) {
        let Some(file) = self.asides.get(entry).and_then(Option::as_ref) else { return };
        let Some(store) = file.store(&self.core, entry) else { return };
        for index in 0..store.len() {
            if store.look(index).is_none_or(|word| !aside::is_valid(word.state)) {
                continue;
            }
            let Some((word, contents)) = store.read(index).filter(|(word, _)| aside::is_valid(word.state))
            else {
                continue;
            };
            let is_dead = aside::is_dead(word.state);
            *(if is_dead { &mut group.dead_count } else { &mut group.waiting_count }) += 1;
            if let Some(lane) = group.lanes.get_mut(usize::from(contents.lane)) {
                *(if is_dead { &mut lane.dead_count } else { &mut lane.waiting_count }) += 1;
            }
        }
        let counter = |which| file.counter(which).load(Ordering::Relaxed);
        (group.full_count, group.dropped_count) = (counter(Counter::Full), counter(Counter::Dropped));
    }

    fn group(&self, entry: usize) -> Option<GroupState> {
        let word = HolderWord::unpack(self.core.group_number(entry, in_entry::STATE));
        let bits = self.core.group_number(entry, in_entry::KIND);
        let shared = bits & kind::SHARED != 0;
        let members = if shared { self.core.members(entry).unwrap_or(0) } else { 0 };
        let name = match word.state {
            joining if state::is_joining(joining) || state::is_starting(joining) => "joining",
            state::ACTIVE => "active",
            state::HELD if shared && members > 0 => "active",
            state::HELD => "held",
            state::DETACHED | state::ASTRAY => "detached",
            state::EVICTED => "evicted",
            _ => return None,
        };
        let has_holder = !shared && word.state != state::HELD && !state::has_let_go(word.state);
        let holder = has_holder.then(|| {
            let (pid, service) = self.participants.describe(word.holder);
            ProcessInfo { pid, service }
        });
        let lanes = (0..self.core.lanes())
            .map(|lane| GroupLane {
                lane: Lane(lane as u8),
                low_water: self.core.group_lane_number(entry, lane, in_lane::LOW_WATER),
                lag_count: 0,
                lag_bytes: 0,
                age: None,
                waiting_count: 0,
                dead_count: 0,
            })
            .collect();
        let members = if shared { members } else { u64::from(has_holder) };
        let mut group = GroupState {
            name: crate::group::display_name(&self.core, entry),
            state: name,
            shared,
            keyed: (bits & kind::KEYED != 0)
                .then(|| crate::keys::now(&self.core, entry, &self.participants))
                .flatten(),
            ephemeral: bits & kind::EPHEMERAL != 0,
            holder,
            members,
            lanes,
            redelivered_count: self.core.group_number(entry, in_entry::REDELIVERED),
            skipped_count: self.core.group_number(entry, in_entry::SKIPPED),
            let_go_count: self.core.group_number(entry, in_entry::LET_GO),
            stalled_ns: self.stalled_ns(entry).filter(|_| matches!(name, "active" | "evicted")),
            lets_go: bits & kind::LETS_GO != 0,
            waiting_count: 0,
            dead_count: 0,
            full_count: 0,
            dropped_count: 0,
        };
        self.count_aside(entry, &mut group);
        Some(group)
    }

    fn stalled_ns(&self, entry: usize) -> Option<u64> {
        let since_ms = self.core.groups_region().look(stall::since(entry))?.load(Ordering::Relaxed);
        (since_ms != 0).then(|| monotonic_ns().saturating_sub(since_ms.saturating_mul(1_000_000)))
    }

    fn lane(&self, lane: usize, groups: &[GroupState]) -> LaneState {
        let end = self.core.end(lane);
        let lowest = groups
            .iter()
            .filter(|group| matches!(group.state, "active" | "held"))
            .map(|group| group.lanes[lane].low_water)
            .min_by(|&a, &b| distance(a, b).cmp(&0));
        LaneState {
            lane: Lane(lane as u8),
            name: Lane(lane as u8).name(self.core.lanes()),
            end,
            gate: later(self.core.gate(lane), lowest.unwrap_or(0)),
            refused_count: self
                .core
                .ring_word(ring::refused_count(lane))
                .map_or(0, |word| word.load(Ordering::Relaxed)),
            fill_count: lowest.map_or(0, |lowest| distance(end, lowest).max(0) as u64),
        }
    }

    fn measure(&mut self, position: &mut GroupLane, end: u64, at_ns: u64) {
        position.lag_count = distance(end, position.low_water).max(0) as u64;
        if position.lag_count == 0 {
            return;
        }
        let capacity = u64::from(self.core.config().capacity);
        let oldest = later(position.low_water, end.saturating_sub(capacity));
        let sampled = self.sampled_age(position.lane.index(), oldest);
        let reader = &mut self.readers[position.lane.index()];
        let stamp = reader.header_at(oldest).map_or(0, |header| header.stamp_ns);
        position.age = match stamp {
            0 => sampled,
            _ => Some(Age { ns: at_ns.saturating_sub(stamp), precision: Precision::Exact }),
        };
        let counted = position.lag_count.min(capacity).min(EXACT_LAG_COUNT);
        let sum: u64 = (0..counted)
            .filter_map(|index| reader.header_at(oldest + index))
            .map(|header| u64::from(header.len_bytes))
            .sum();
        position.lag_bytes =
            (u128::from(sum) * u128::from(position.lag_count) / u128::from(counted.max(1))) as u64;
    }

    /// Age of a message by what the supervisor has noted.
    fn sampled_age(&self, lane: usize, sequence: u64) -> Option<Age> {
        let snapshot = load_samples(self.samples.as_ref()?, lane)?;
        // End and time after the samples, so that none of those is from later.
        let (end, now_ns) = (self.core.end(lane), monotonic_ns());
        Some(match snapshot.age(sequence, end, now_ns)? {
            bus_core::samples::Age::About(ns) => Age { ns, precision: Precision::Sampled },
            bus_core::samples::Age::AtLeast(ns) => Age { ns, precision: Precision::AtLeast },
        })
    }

    fn ring_number(&self, offset_bytes: usize) -> u64 {
        self.core.ring_word(offset_bytes).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn publishers(&self, at_ns: u64) -> Vec<PublisherState> {
        (0..self.core.config().producers as usize)
            .filter_map(|index| {
                let word = HolderWord::unpack(self.ring_number(ring::producer_state(index)));
                (word.state == producer::LIVE).then(|| {
                    let (pid, service) = self.participants.describe(word.holder);
                    let limits = Limits::of_service(key(&service), |offset| self.ring_number(offset));
                    PublisherState {
                        process: ProcessInfo { pid, service },
                        producer: index as u16,
                        breaker: self.breaker(self.ring_number(ring::producer_breaker(index)), at_ns, false),
                        refused_count: self.ring_number(ring::producer_refused(index)),
                        quota: Quota::of_limits(limits),
                        loop_cut: self.loop_cut(self.ring_number(ring::producer_cut(index)), at_ns),
                    }
                })
            })
            .collect()
    }

    fn loop_cut(&self, word: u64, at_ns: u64) -> Option<LoopCut> {
        let word = CutWord::unpack(word);
        let (state, left_ms) = match word.phase(at_ns / 1_000_000) {
            Phase::Closed => return None,
            Phase::Open { left_ms } => ("open", left_ms),
            Phase::HalfOpen => ("half-open", 0),
        };
        // This one first: many a loop is one of a topic with itself.
        let names = std::iter::once(self.core.name().to_owned()).chain(self.dir.topic_names());
        let mut cores = names.filter_map(|name| TopicCore::attach(&self.dir, &name, Role::Observer).ok());
        let cause = cores.find(|core| word.is_from(core.epoch()));
        let cause = cause.map_or_else(|| "?".into(), |core| core.name().to_owned());
        Some(LoopCut { cause, whole_pair: word.whole_pair, state, left: Duration::from_millis(left_ms) })
    }

    fn breaker(&self, word: u64, at_ns: u64, is_topic: bool) -> BreakerState {
        let word = BreakerWord::unpack(word);
        let now_ms = at_ns / 1_000_000;
        let count = self.core.lanes();
        let state = match word.name(now_ms) {
            // The supervisor keeps it open by saying so again; what it no longer says does not hold.
            "half-open" if is_topic => "closed",
            state => state,
        };
        let is_closed = state == "closed";
        let lanes = (0..count).filter(|&lane| !is_closed && word.holds(lane));
        BreakerState {
            state,
            reason: (!is_closed).then(|| word.reason.name()),
            lanes: lanes.map(|lane| Lane(lane as u8).name(count)).collect(),
            left: Duration::from_millis(if is_closed { 0 } else { word.left_ms(now_ms) }),
        }
    }

    fn service_quotas(&self) -> Vec<(String, Quota)> {
        let services: Vec<_> = self.participants.all().into_iter().map(|info| info.service).collect();
        (0..ring::QUOTA_SERVICES)
            .filter_map(|index| {
                let (at, load) = (ring::service_quota(index), |offset| self.ring_number(offset));
                let of = load(at);
                let quota = Quota::of_limits(Limits::at(at + 8, ring::quota::mark(of), &load))?;
                let name = services.iter().find(|service| key(service) == of);
                Some((name.cloned().unwrap_or_else(|| format!("#{of:016x}")), quota))
            })
            .collect()
    }
}

/// The file of samples, if the topic has one that can be read.
fn open_samples(core: &TopicCore) -> Option<Region> {
    let attached = Region::attach(&core.dir().samples(), samples::MAGIC, Access::Read, None);
    attached.ok().filter(|(_, preamble)| preamble.epoch == core.epoch()).map(|(region, _)| region)
}

/// Where the end of a lane without stamps was at some time, or a little before it.
pub(crate) fn end_before(core: &TopicCore, lane: usize, at_ns: u64) -> Option<u64> {
    let snapshot = load_samples(&open_samples(core)?, lane)?;
    // End and time after the samples, so that none of those is from later.
    let (end, now_ns) = (core.end(lane), monotonic_ns());
    snapshot.end_before(at_ns, end, now_ns)
}

/// About how old a message of a lane without stamps is.
pub(crate) fn sampled_age(core: &TopicCore, lane: usize, sequence: u64) -> Option<Duration> {
    let snapshot = load_samples(&open_samples(core)?, lane)?;
    let (end, now_ns) = (core.end(lane), monotonic_ns());
    match snapshot.age(sequence, end, now_ns)? {
        bus_core::samples::Age::About(ns) | bus_core::samples::Age::AtLeast(ns) => {
            Some(Duration::from_nanos(ns))
        }
    }
}

fn load_samples(region: &Region, lane: usize) -> Option<bus_core::samples::Snapshot> {
    let kept = region.look_words(samples::kept(lane), samples::KEPT)?;
    Some(History::attach(region.look(samples::newest(lane))?, kept).load())
}

/// Groups with unread messages, a line each.
pub(crate) fn unread(dir: &BusDir) -> Vec<String> {
    let Ok(view) = BusView::open(dir.name(), dir.base().parent()) else { return Vec::new() };
    let mut lines = Vec::new();
    for (name, brief) in view.briefs() {
        // Answers wait for a process that is attached, and is named as such.
        if name.starts_with(bus_core::name::REPLY_TOPICS) || brief.is_ok_and(|brief| brief.unread_count == 0)
        {
            continue;
        }
        let Ok(mut topic) = view.topic(&name) else { continue };
        for group in topic.sample().groups {
            let lag: u64 = group.lanes.iter().map(|lane| lane.lag_count).sum();
            if lag > 0 && matches!(group.state, "active" | "held") {
                lines.push(match mailbox::mailbox_of(&name) {
                    Some(_) => format!("mailbox {}: {lag} message(s)", mailbox::display(&name)),
                    None => format!("{name}, group {}: {lag} message(s)", group.name),
                });
            }
        }
    }
    lines
}
