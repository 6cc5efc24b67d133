//! A topic: its regions, its configuration, and the handles that programs get.
#![allow(unsafe_code)]

use crate::bus::BusInner;
use crate::dead_letters::{self, DeadLetterNotice};
use crate::directory::{BusDir, TopicDir};
use crate::error::{AttachError, BusError, RegionError, TopicError};
use crate::payload::{Speak, TypeIdentity};
use crate::publisher::Publisher;
use crate::quota::Quota;
use crate::receipts::{ReceiptError, ReceiptSet, Receipts};
use crate::region::{Access, Region};
use crate::subscriber::{Subscriber, SubscriberBuilder};
use crate::supervisor::create;
use crate::supervisor::protocol::{GroupSpec, Reply, Request, TopicSpec};
use crate::sys::clock::{monotonic_ns, realtime_ns};
use bus_core::doorbell::Doorbell;
use bus_core::gate::{self, Cursors};
use bus_core::layout::{get_name, groups, owners, ring, wake};
use bus_core::limits;
use bus_core::listener::Table;
use bus_core::name::MAIL_TOPICS;
use bus_core::ring::{Slot, mpmc, spsc};
use bus_core::sync::{AtomicU32, AtomicU64, Ordering};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// The slots of a lane, by whichever protocol it publishes.
#[derive(Clone, Copy)]
pub(crate) enum LaneRing<'a> {
    Mpmc(mpmc::Ring<'a>),
    Spsc(spsc::Ring<'a>),
}

impl<'a> LaneRing<'a> {
    /// Views the words of a lane's slots. `None` if their number does not fit.
    pub(crate) fn attach(words: &'a [AtomicU64], config: &ring::Config) -> Option<Self> {
        if config.one_producer() {
            spsc::Ring::attach(words, config.capacity, config.inline_bytes).map(LaneRing::Spsc)
        } else {
            mpmc::Ring::attach(words).map(LaneRing::Mpmc)
        }
    }

    /// The sequence of the next message.
    pub(crate) fn end(&self, hint: &AtomicU64) -> u64 {
        match self {
            LaneRing::Mpmc(ring) => ring.end(hint),
            LaneRing::Spsc(ring) => ring.end(hint),
        }
    }

    /// Is this sequence, which was the lane's end once, its end still?
    pub(crate) fn is_still_end(&self, sequence: u64) -> bool {
        match self {
            LaneRing::Mpmc(ring) => matches!(ring.slot(sequence), Slot::Empty),
            LaneRing::Spsc(ring) => matches!(ring.slot(sequence), Slot::Empty),
        }
    }
}

/// What a process does with a topic, which decides what it may store to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Looks only: everything is mapped read-only.
    Observer,
    /// Stores to the group table and to the bells.
    Subscriber,
    /// Stores to the ring as well; so does repair.
    Publisher,
}

/// The mapped regions of one topic.
#[derive(Debug)]
pub(crate) struct TopicCore {
    name: String,
    dir: TopicDir,
    fixed: ring::Fixed,
    ring: Region,
    groups: Region,
    wake: Region,
    /// No descriptors are kept: this is one of very many.
    frugal: bool,
}

/// The group cursors of one lane, as the gate scan wants them.
struct LaneCursors<'a> {
    topic: &'a TopicCore,
    lane: usize,
    generation: &'a AtomicU64,
    used: &'a AtomicU64,
}

impl Cursors for LaneCursors<'_> {
    fn generation(&self) -> &AtomicU64 {
        self.generation
    }

    fn used(&self) -> &AtomicU64 {
        self.used
    }

    fn state(&self, entry: usize) -> Option<&AtomicU64> {
        self.topic.group_word(entry, groups::in_entry::STATE)
    }

    fn low_water(&self, entry: usize) -> Option<&AtomicU64> {
        self.topic.group_lane_word(entry, self.lane, groups::in_lane::LOW_WATER)
    }
}

impl TopicCore {
    pub(crate) fn attach(dir: &BusDir, name: &str, role: Role) -> Result<Self, TopicError> {
        let home = dir.topic(name);
        if !home.0.is_dir() {
            return Err(TopicError::NotFound { bus: dir.name().into(), topic: name.into() });
        }
        let access = |store: bool| if store { Access::Write } else { Access::Read };
        let (of_ring, of_rest) = (access(role == Role::Publisher), access(role != Role::Observer));
        let (ring_region, preamble) = Region::attach(&home.ring(), ring::MAGIC, of_ring, None)?;
        let fixed: ring::Fixed = ring_region.read(0)?;
        let mismatch = |region: &Region, why| {
            TopicError::Region(RegionError::Mismatch { path: region.path().to_owned(), why })
        };
        fixed.config.check().map_err(|why| mismatch(&ring_region, why))?;
        if fixed.config.footprint_bytes() != preamble.file_bytes {
            let why = bus_core::layout::Mismatch::Truncated {
                len_bytes: preamble.file_bytes,
                need_bytes: fixed.config.footprint_bytes(),
            };
            return Err(mismatch(&ring_region, why));
        }
        let most = groups::footprint_bytes(limits::GROUPS_MAX as usize);
        let (groups_region, of_groups) = Region::attach(&home.groups(), groups::MAGIC, of_rest, Some(most))?;
        let (wake_region, of_wake) = Region::attach(&home.wake(), wake::MAGIC, of_rest, None)?;
        for (region, epoch) in [(&groups_region, of_groups.epoch), (&wake_region, of_wake.epoch)] {
            if epoch != preamble.epoch {
                let why = bus_core::layout::Mismatch::Field { name: "epoch", value: epoch };
                return Err(mismatch(region, why));
            }
        }
        if wake_region.map_bytes() < wake::FILE_BYTES as usize {
            let why = bus_core::layout::Mismatch::Truncated {
                len_bytes: wake_region.map_bytes() as u64,
                need_bytes: wake::FILE_BYTES,
            };
            return Err(mismatch(&wake_region, why));
        }
        let number = |offset| groups_region.look(offset).map_or(0, |word| word.load(Ordering::Acquire));
        // Used first: both only grow, and an entry is backed by memory before it is used.
        let (used, reserved) = (number(groups::at::USED), number(groups::at::RESERVED));
        let fits = |count: u64| {
            count <= limits::GROUPS_MAX as u64
                && groups::footprint_bytes(count as usize) <= groups_region.file_bytes()
        };
        for (name, value) in [("groups used", used), ("groups reserved", reserved)] {
            if !fits(value) {
                let why = bus_core::layout::Mismatch::Field { name, value };
                return Err(mismatch(&groups_region, why));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            dir: home,
            fixed,
            ring: ring_region,
            groups: groups_region,
            wake: wake_region,
            frugal: false,
        })
    }

    /// Keeps no descriptors open, for one who has very many topics.
    fn be_frugal(&mut self) {
        self.frugal = true;
        [&mut self.ring, &mut self.groups, &mut self.wake].into_iter().for_each(Region::close_file);
    }

    pub(crate) fn is_frugal(&self) -> bool {
        self.frugal
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dir(&self) -> &TopicDir {
        &self.dir
    }

    pub(crate) fn config(&self) -> &ring::Config {
        &self.fixed.config
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.fixed.preamble.epoch
    }

    pub(crate) fn created_ns(&self) -> u64 {
        self.fixed.created_ns
    }

    pub(crate) fn creator(&self) -> String {
        format!("{} (pid {})", get_name(&self.fixed.creator_service), self.fixed.creator_pid)
    }

    /// Time to live of its messages; 0 for ever.
    pub(crate) fn ttl_ns(&self) -> u64 {
        self.ring.look(ring::at::TTL_NS).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The name in the ring file, which is that of the directory.
    pub(crate) fn recorded_name(&self) -> String {
        get_name(&self.fixed.name).to_owned()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.fixed.config.lanes as usize
    }

    pub(crate) fn types(&self) -> Result<Vec<TypeIdentity>, RegionError> {
        create::read_types(&self.ring)
    }

    pub(crate) fn is_unlinked(&self) -> bool {
        [&self.ring, &self.groups, &self.wake].iter().any(|region| region.is_unlinked())
    }

    pub(crate) fn ring_word(&self, offset_bytes: usize) -> Option<&AtomicU64> {
        self.ring.look(offset_bytes)
    }

    pub(crate) fn lane_ring(&self, lane: usize) -> Result<LaneRing<'static>, RegionError> {
        let config = self.config();
        // SAFETY: callers keep the Arc of this TopicCore beside what they get; see the fields of Publisher and Subscriber.
        let words = unsafe { self.ring.words(config.slots(lane), (config.lane_slots_bytes() / 8) as usize) }?;
        LaneRing::attach(words, config).ok_or_else(|| RegionError::Mismatch {
            path: self.ring.path().to_owned(),
            why: bus_core::layout::Mismatch::Field { name: "capacity", value: u64::from(config.capacity) },
        })
    }

    /// A word of the ring file for a handle that keeps the Arc of this core.
    pub(crate) fn held_ring_word(&self, offset_bytes: usize) -> Result<&'static AtomicU64, RegionError> {
        // SAFETY: as above.
        unsafe { self.ring.word(offset_bytes) }
    }

    /// A word of the group file, likewise.
    pub(crate) fn held_group_word(&self, offset_bytes: usize) -> Result<&'static AtomicU64, RegionError> {
        // SAFETY: as above.
        unsafe { self.groups.word(offset_bytes) }
    }

    /// A half word of the wake file, likewise.
    pub(crate) fn held_wake_word(&self, offset_bytes: usize) -> Result<&'static AtomicU32, RegionError> {
        // SAFETY: as above.
        unsafe { self.wake.word32(offset_bytes) }
    }

    /// A word of the wake file, likewise.
    pub(crate) fn held_wake_long(&self, offset_bytes: usize) -> Result<&'static AtomicU64, RegionError> {
        // SAFETY: as above.
        unsafe { self.wake.word(offset_bytes) }
    }

    /// The lane's end: the sequence of the next message.
    pub(crate) fn end(&self, lane: usize) -> u64 {
        match (self.lane_ring(lane), self.ring.look(ring::hint(lane))) {
            (Ok(slots), Some(hint)) => slots.end(hint),
            _ => 0,
        }
    }

    /// The lane's gate as it was last computed.
    pub(crate) fn gate(&self, lane: usize) -> u64 {
        self.ring.look(ring::gate(lane)).map_or(0, |gate| gate.load(Ordering::Acquire))
    }

    /// Computes the gate anew; the ring is mapped writable.
    pub(crate) fn recompute_gate(&self, lane: usize) -> u64 {
        self.recompute_gate_at(lane, self.end(lane))
    }

    /// Computes the gate as of end `s`.
    pub(crate) fn recompute_gate_at(&self, lane: usize, s: u64) -> u64 {
        let (Some(gate), Some(generation), Some(used)) = (
            self.ring.look(ring::gate(lane)),
            self.groups.look(groups::at::GENERATION),
            self.groups.look(groups::at::USED),
        ) else {
            return 0;
        };
        gate::recompute(gate, &LaneCursors { topic: self, lane, generation, used }, s)
    }

    /// Group entries that have ever been used and are backed by memory.
    pub(crate) fn groups_used(&self) -> usize {
        let used = self.groups.look(groups::at::USED).map_or(0, |used| used.load(Ordering::Acquire));
        (used as usize).min(self.groups_reserved())
    }

    pub(crate) fn groups_reserved(&self) -> usize {
        let reserved = self.groups.look(groups::at::RESERVED).map_or(0, |word| word.load(Ordering::Acquire));
        (reserved as usize).min(limits::GROUPS_MAX as usize)
    }

    pub(crate) fn groups_region(&self) -> &Region {
        &self.groups
    }

    pub(crate) fn group_word(&self, entry: usize, offset_bytes: usize) -> Option<&AtomicU64> {
        self.groups.look(groups::entry(entry) + offset_bytes)
    }

    pub(crate) fn group_lane_word(
        &self,
        entry: usize,
        lane: usize,
        offset_bytes: usize,
    ) -> Option<&AtomicU64> {
        self.groups.look(groups::lane(entry, lane) + offset_bytes)
    }

    pub(crate) fn group_number(&self, entry: usize, offset_bytes: usize) -> u64 {
        self.group_word(entry, offset_bytes).map_or(0, |word| word.load(Ordering::Acquire))
    }

    pub(crate) fn group_lane_number(&self, entry: usize, lane: usize, offset_bytes: usize) -> u64 {
        self.group_lane_word(entry, lane, offset_bytes).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// How long a group may stand still, in ms.
    pub(crate) fn stall_after_ms(&self, entry: usize) -> Option<u64> {
        let word = self.groups.look(groups::stall::after(entry))?;
        // Acquire: pairs with the Release of the member that set it.
        groups::stall::after_ms(word.load(Ordering::Acquire))
    }

    /// Says since when a group stands still, unless that is known. The mark, if it was set.
    pub(crate) fn mark_stalled(&self, entry: usize, stood_still: Duration) -> Option<u64> {
        let since_ms = (monotonic_ns() / 1_000_000).saturating_sub(stood_still.as_millis() as u64).max(1);
        let mark = self.groups.look(groups::stall::since(entry))?;
        // Relaxed: a hint, complete in itself.
        mark.compare_exchange(0, since_ms, Ordering::Relaxed, Ordering::Relaxed).ok().map(|_| since_ms)
    }

    /// Takes a mark back.
    pub(crate) fn unmark_stalled(&self, entry: usize, since_ms: u64) {
        if let Some(mark) = self.groups.look(groups::stall::since(entry)) {
            // Relaxed: as above. Fails where another has changed it meanwhile.
            let _ = mark.compare_exchange(since_ms, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn group_name(&self, entry: usize) -> String {
        let at = groups::entry(entry) + groups::in_entry::NAME;
        let field: [u8; 64] = self.groups.read(at as u64).unwrap_or([0; 64]);
        get_name(&field).to_owned()
    }

    /// Subscribers attached to a shared group; `None` where that cannot be read.
    pub(crate) fn members(&self, entry: usize) -> Option<u64> {
        let region = self.map_owners(entry, Access::Read).ok()?;
        let words = region.look_words(owners::MEMBERS, owners::MEMBER_WORDS)?;
        let count = |participant: u16| {
            let word = words[owners::member(participant).0].load(Ordering::Relaxed);
            owners::member_count(word, participant)
        };
        Some((0..limits::PARTICIPANTS_MAX as u16).map(count).sum())
    }

    /// The owner words of a shared group, for looking at them.
    pub(crate) fn look_at_owners(&self, entry: usize) -> Option<Region> {
        self.map_owners(entry, Access::Read).ok()
    }

    pub(crate) fn attach_owners(&self, entry: usize) -> Result<Region, RegionError> {
        self.map_owners(entry, Access::Write)
    }

    pub(crate) fn look_owners(&self, entry: usize) -> Result<Region, RegionError> {
        self.map_owners(entry, Access::Read)
    }

    fn map_owners(&self, entry: usize, access: Access) -> Result<Region, RegionError> {
        let path = self.dir.owners(entry);
        let (region, preamble) = Region::attach(&path, owners::MAGIC, access, None)?;
        let need_bytes = owners::footprint_bytes(self.lanes(), self.config().capacity);
        if preamble.file_bytes < need_bytes || preamble.epoch != self.epoch() {
            let why = bus_core::layout::Mismatch::Truncated { len_bytes: preamble.file_bytes, need_bytes };
            return Err(RegionError::Mismatch { path, why });
        }
        Ok(region)
    }

    /// A word of the wake file.
    pub(crate) fn wake_word(&self, offset_bytes: usize) -> u64 {
        self.wake.look(offset_bytes).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The owner of this mailbox is gone from now on; nothing for other topics.
    pub(crate) fn note_owner_left(&self) {
        if self.name.starts_with(MAIL_TOPICS)
            && let Some(word) = self.wake.look(wake::at::AWAY_SINCE)
        {
            // Relaxed: a time to show, complete in itself. By the maximum: whoever repairs may come late.
            word.fetch_max(realtime_ns(), Ordering::Relaxed);
        }
    }

    /// A half word of the wake file.
    pub(crate) fn wake_half(&self, offset_bytes: usize) -> Option<&AtomicU32> {
        self.wake.look32(offset_bytes)
    }

    /// A word of the wake file.
    pub(crate) fn wake_long(&self, offset_bytes: usize) -> Option<&AtomicU64> {
        self.wake.look(offset_bytes)
    }

    /// Who waits on this topic among others; `None` if the page is not there.
    pub(crate) fn listener_table(&self) -> Option<Table<'_>> {
        let words = self.wake.look_words(wake::at::LISTENERS, wake::LISTENERS_MAX)?;
        Some(Table::attach(self.wake.look(wake::at::LISTENERS_USED)?, words))
    }

    pub(crate) fn message_bell(&self) -> Doorbell<'_> {
        Doorbell::attach(
            self.wake.look32(wake::at::MESSAGE_BELL).expect("checked at attach: the file has a page"),
        )
    }

    pub(crate) fn space_bell(&self) -> Doorbell<'_> {
        Doorbell::attach(
            self.wake.look32(wake::at::SPACE_BELL).expect("checked at attach: the file has a page"),
        )
    }
}

/// What a full lane does to a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It waits for room up to its deadline.
    #[default]
    Wait,
    /// It is told at once, whatever its deadline.
    Fail,
    /// No lane is ever full: the oldest messages go. There are no reliable groups on such a topic; taps read it, and count what they
    /// missed.
    KeepNewest,
}

impl Overflow {
    const fn code(self) -> u32 {
        match self {
            Overflow::Wait => ring::overflow::WAIT,
            Overflow::Fail => ring::overflow::FAIL,
            Overflow::KeepNewest => ring::overflow::NEWEST,
        }
    }

    /// Of a topic's configuration.
    pub(crate) const fn of(config: &ring::Config) -> Self {
        match config.overflow {
            ring::overflow::FAIL => Overflow::Fail,
            ring::overflow::NEWEST => Overflow::KeepNewest,
            _ => Overflow::Wait,
        }
    }

    /// `wait`, `fail` or `newest`.
    pub const fn name(self) -> &'static str {
        match self {
            Overflow::Wait => "wait",
            Overflow::Fail => "fail",
            Overflow::KeepNewest => "newest",
        }
    }
}

/// Options of a topic. What is not set accepts whatever exists.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct TopicBuilder<T> {
    bus: Arc<BusInner>,
    name: String,
    create: bool,
    /// A topic of the bus itself, whose name begins with `_`.
    reserved: bool,
    frugal: bool,
    capacity: Option<u32>,
    lanes: Option<u32>,
    producers: Option<u32>,
    inline_bytes: Option<u32>,
    message_bytes: Option<u64>,
    arena_bytes: Option<u64>,
    arena_first_bytes: u64,
    stamps: Option<bool>,
    ttl: Option<Duration>,
    breakers: Option<bool>,
    hops_max: Option<u16>,
    overflow: Option<Overflow>,
    quota: Option<Quota>,
    types: Vec<TypeIdentity>,
    groups: Vec<GroupSpec>,
    speaks: PhantomData<fn() -> T>,
}

impl<T: Speak> TopicBuilder<T> {
    pub(crate) fn new(bus: Arc<BusInner>, name: &str) -> Self {
        Self {
            bus,
            name: name.to_owned(),
            create: true,
            reserved: false,
            frugal: false,
            capacity: None,
            lanes: None,
            producers: None,
            inline_bytes: None,
            message_bytes: None,
            arena_bytes: None,
            arena_first_bytes: limits::ARENA_FIRST_BYTES,
            stamps: None,
            ttl: None,
            breakers: None,
            hops_max: None,
            overflow: None,
            quota: None,
            types: T::identity().into_iter().collect(),
            groups: Vec::new(),
            speaks: PhantomData,
        }
    }

    /// Whether to create the topic if it does not exist. Default: yes.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The name may be one of those that the bus keeps for itself.
    pub(crate) fn for_the_bus(mut self) -> Self {
        self.reserved = true;
        self
    }

    /// One of many topics that carry little: arenas begin small.
    pub(crate) fn small_arenas(mut self) -> Self {
        self.arena_first_bytes = limits::SMALL_ARENA_FIRST_BYTES;
        self
    }

    /// The handle is one of very many, and keeps no descriptors.
    pub(crate) fn frugal(mut self) -> Self {
        self.frugal = true;
        self
    }

    /// Slots of each lane; rounded up to a power of two. Default 1,024.
    pub fn capacity(mut self, slots: u32) -> Self {
        self.capacity = Some(slots.checked_next_power_of_two().unwrap_or(u32::MAX));
        self
    }

    /// Number of lanes, 1 to 4. Default 3: critical, high, normal.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = Some(lanes);
        self
    }

    /// Most publishers at a time. 1 makes each lane a one-producer ring with short payloads in the slot. Default 64.
    pub fn producers(mut self, producers: u32) -> Self {
        self.producers = Some(producers);
        self
    }

    /// Payload bytes in a slot of a one-producer ring. Default 96: two cache lines with the header.
    pub fn inline_bytes(mut self, bytes: u32) -> Self {
        self.inline_bytes = Some(bytes);
        self
    }

    /// Largest message in bytes. Default 1 MiB, at most 1 GiB.
    pub fn max_message(mut self, bytes: u64) -> Self {
        self.message_bytes = Some(bytes);
        self
    }

    /// Bound of the payload memory of one publisher in one lane, in bytes. It grows to it only when unread messages fill it, and to a
    /// quarter of it, 4 MiB at most, where messages stream.
    /// Default 16 MiB, or four times the largest message.
    pub fn arena_bytes(mut self, bytes: u64) -> Self {
        self.arena_bytes = Some(bytes);
        self
    }

    /// Whether messages carry the time of their publication. Default: yes; it costs 2 to 45 ns a message, by processor. Without it, lag in
    /// seconds is an estimate.
    pub fn stamps(mut self, stamps: bool) -> Self {
        self.stamps = Some(stamps);
        self
    }

    /// How long its messages are wanted: older ones are passed over, and counted. Needs stamps. Default: for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    fn ttl_ns(&self) -> Option<u64> {
        self.ttl.map(|ttl| ttl.as_nanos().min(u128::from(u64::MAX)) as u64)
    }

    /// Whether publishers have circuit breakers: who keeps meeting a full lane until its deadline, or failing, is refused at
    /// once for a while. Default: yes.
    pub fn breakers(mut self, breakers: bool) -> Self {
        self.breakers = Some(breakers);
        self
    }

    /// How many causes may lie behind a message ([`Meta::caused_by`](crate::Meta::caused_by)), at least 1; a publication with more is
    /// refused. Default 64. A publisher may set less ([`Publisher::set_hops_max`]).
    pub fn hops_max(mut self, hops: u16) -> Self {
        self.hops_max = Some(hops);
        self
    }

    /// What a full lane does to a publisher. Default: it waits until its deadline.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// What each publisher may publish, unless its service has a quota of its own. Holds for a topic that this call creates;
    /// [`Topic::set_quota`] changes it.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Accepts another payload type as well: for a second version in flight, or several kinds in one topic.
    pub fn accepts<U: Speak>(mut self) -> Self {
        self.types.extend(U::identity());
        self
    }

    /// A named group that exists from the topic's creation on, so that nothing is published before it. At most 10.
    pub fn with_group(self, name: &str) -> Self {
        self.with(name, false, false)
    }

    /// The same for a group of many members.
    pub fn with_shared_group(self, name: &str) -> Self {
        self.with(name, true, false)
    }

    /// The same for a keyed group: [`crate::SubscriberBuilder::keyed`].
    pub fn with_keyed_group(self, name: &str) -> Self {
        self.with(name, true, true)
    }

    fn with(mut self, name: &str, shared: bool, keyed: bool) -> Self {
        // Two entries of one name would be one group that reads and one that holds everybody up.
        self.groups.retain(|group| group.name != name);
        self.groups.push(GroupSpec { name: name.to_owned(), shared, keyed });
        self
    }

    fn spec(&self) -> TopicSpec {
        let stamps = if self.stamps.unwrap_or(true) { ring::FLAG_STAMPS } else { 0 };
        let breakers = if self.breakers.unwrap_or(true) { 0 } else { ring::FLAG_NO_BREAKERS };
        TopicSpec {
            name: self.name.clone(),
            capacity: self.capacity.unwrap_or(limits::CAPACITY_DEFAULT),
            lanes: self.lanes.unwrap_or(limits::LANES_DEFAULT as u32),
            producers: self.producers.unwrap_or(limits::PRODUCERS_DEFAULT),
            inline_bytes: self.inline_bytes.unwrap_or(limits::INLINE_BYTES_DEFAULT),
            message_bytes: self.message_bytes.unwrap_or(limits::MESSAGE_BYTES_DEFAULT),
            arena_first_bytes: self.arena_first_bytes,
            arena_bound_bytes: self.arena_bytes.unwrap_or(limits::ARENA_BOUND_DEFAULT_BYTES),
            arena_history_bytes: limits::ARENA_HISTORY_BYTES,
            flags: stamps | breakers | u32::from(self.hops_max.unwrap_or(0)) << ring::HOPS_MAX_SHIFT,
            ttl_ns: self.ttl_ns().unwrap_or(0),
            overflow: self.overflow.unwrap_or_default().code(),
            // Checked when it is opened.
            quota: self.quota.and_then(|quota| quota.words(&self.name).ok()).unwrap_or_default(),
            types: self.types.clone(),
            groups: self.groups.clone(),
        }
    }

    /// Opens the topic, creating it if need be.
    ///
    /// # Errors
    /// A name or option that is not allowed, an option that was set and differs from what exists, no type in common, no
    /// memory, or no supervisor to register it.
    pub fn open(self) -> Result<Topic<T>, TopicError> {
        // Those of the bus are made by the bus; anybody may read them.
        let checked = if self.reserved || !self.create {
            bus_core::name::check_dotted(&self.name, limits::TOPIC_NAME_BYTES_MAX)
        } else {
            bus_core::name::check_topic(&self.name)
        };
        checked.map_err(|why| TopicError::Name { name: self.name.clone(), why })?;
        for group in &self.groups {
            bus_core::name::check_dotted(&group.name, limits::GROUP_NAME_BYTES_MAX)
                .map_err(|why| TopicError::Name { name: group.name.clone(), why })?;
        }
        if let Some(quota) = &self.quota {
            quota.words(&self.name)?;
        }
        if self.hops_max == Some(0) {
            let (topic, allowed) = (self.name, format!("1 to {}", u16::MAX));
            return Err(TopicError::Option { topic, option: "max-hops", value: 0, allowed });
        }
        let bus = &self.bus;
        bus.check_usable()?;
        let mut core = match TopicCore::attach(bus.dir(), &self.name, Role::Subscriber) {
            Err(TopicError::NotFound { .. }) if self.create => {
                let spec = self.spec();
                create::config(&spec)?;
                match bus.ask(&Request::CreateTopic { participant: bus.me().participant, spec })? {
                    Reply::Refused { reason } => {
                        return Err(BusError::Refused { bus: bus.dir().name().into(), reason }.into());
                    }
                    _ => TopicCore::attach(bus.dir(), &self.name, Role::Subscriber)?,
                }
            }
            other => other?,
        };
        self.compare(&core)?;
        let kinds = self.settle_types(&core)?;
        if self.frugal {
            core.be_frugal();
        }
        Ok(Topic { bus: self.bus, core: Arc::new(core), kinds, speaks: PhantomData })
    }

    /// What was set must be what is.
    fn compare(&self, core: &TopicCore) -> Result<(), TopicError> {
        let config = core.config();
        let have_stamps = u64::from(config.flags & ring::FLAG_STAMPS != 0);
        let have_breakers = u64::from(config.flags & ring::FLAG_NO_BREAKERS == 0);
        let overflow_asked = self.overflow.map(|overflow| u64::from(overflow.code()));
        let arena_asked = self.arena_bytes.and_then(|_| create::config(&self.spec()).ok());
        for (option, ours, theirs) in [
            ("capacity", self.capacity.map(u64::from), u64::from(config.capacity)),
            ("lanes", self.lanes.map(u64::from), u64::from(config.lanes)),
            ("producers", self.producers.map(u64::from), u64::from(config.producers)),
            ("inline-bytes", self.inline_bytes.map(u64::from), u64::from(config.inline_bytes)),
            ("max-message", self.message_bytes, config.message_bytes),
            ("arena-bytes", arena_asked.map(|asked| asked.arena_bound_bytes), config.arena_bound_bytes),
            ("stamps", self.stamps.map(u64::from), have_stamps),
            ("ttl", self.ttl_ns(), core.ttl_ns()),
            ("breakers", self.breakers.map(u64::from), have_breakers),
            ("max-hops", self.hops_max.map(u64::from), u64::from(config.hops_max())),
            ("overflow", overflow_asked, u64::from(config.overflow)),
        ] {
            if let Some(ours) = ours
                && ours != theirs
            {
                let (topic, creator) = (self.name.clone(), core.creator());
                return Err(TopicError::Differs { topic, option, ours, theirs, creator });
            }
        }
        Ok(())
    }

    /// Finds the numbers that the topic gives to this program's types; adds those that it lacks if it has any of them.
    fn settle_types(&self, core: &TopicCore) -> Result<Kinds, TopicError> {
        let mut theirs = core.types()?;
        if self.types.is_empty() {
            return Ok(Kinds { own: None, table: theirs });
        }
        let missing: Vec<_> = self.types.iter().filter(|ours| !theirs.contains(ours)).cloned().collect();
        if missing.len() == self.types.len() {
            let list = |types: &[TypeIdentity]| match types {
                [] => "plain bytes".to_owned(),
                types => types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            };
            return Err(TopicError::TypeMismatch {
                topic: self.name.clone(),
                ours: list(&self.types),
                theirs: list(&theirs),
            });
        }
        if !missing.is_empty() {
            self.bus.ask(&Request::AddTypes { topic: self.name.clone(), types: missing })?;
            theirs = core.types()?;
        }
        let own = T::identity().and_then(|own| theirs.iter().position(|known| *known == own));
        if T::identity().is_some() && own.is_none() {
            return Err(TopicError::Option {
                topic: self.name.clone(),
                option: "types",
                value: theirs.len() as u64 + 1,
                allowed: format!("at most {}", limits::TYPES_MAX),
            });
        }
        Ok(Kinds { own: own.map(|own| own as u8), table: theirs })
    }
}

/// Types of a topic as its handles know them.
#[derive(Clone, Debug)]
pub(crate) struct Kinds {
    /// Number of the handle's own type; `None` for bytes.
    pub(crate) own: Option<u8>,
    /// All of them.
    pub(crate) table: Vec<TypeIdentity>,
}

/// A topic that this process has opened. Cheap to clone.
pub struct Topic<T> {
    pub(crate) bus: Arc<BusInner>,
    pub(crate) core: Arc<TopicCore>,
    pub(crate) kinds: Kinds,
    speaks: PhantomData<fn() -> T>,
}

// Not derived: the payload type need not be `Debug` for its topic to be.
impl<T> std::fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.core.name()).finish_non_exhaustive()
    }
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self {
            bus: self.bus.clone(),
            core: self.core.clone(),
            kinds: self.kinds.clone(),
            speaks: PhantomData,
        }
    }
}

impl<T: Speak> Topic<T> {
    /// Its name.
    pub fn name(&self) -> &str {
        self.core.name()
    }

    /// Number of lanes.
    pub fn lanes(&self) -> usize {
        self.core.lanes()
    }

    /// Slots of each lane.
    pub fn capacity(&self) -> u32 {
        self.core.config().capacity
    }

    /// Attaches a publisher. It writes to memory of its own, so it belongs to one thread at a time.
    ///
    /// # Errors
    /// [`AttachError::ProducerLimit`] where the topic takes no more.
    pub fn publisher(&self) -> Result<Publisher<T>, AttachError> {
        Publisher::attach(self)
    }

    /// Joins as a reliable group of its own, from the latest message on. The group goes with the subscriber.
    ///
    /// # Errors
    /// See [`SubscriberBuilder::join`].
    pub fn subscribe(&self) -> Result<Subscriber<T>, AttachError> {
        self.subscriber().join()
    }

    /// A named group that keeps its cursor while nobody reads.
    pub fn group(&self, name: &str) -> SubscriberBuilder<T> {
        self.subscriber().group(name)
    }

    /// Reads without holding anybody back: what is overwritten is counted as missed.
    ///
    /// # Errors
    /// See [`SubscriberBuilder::join`].
    pub fn tap(&self) -> Result<Subscriber<T>, AttachError> {
        self.subscriber().tap().join()
    }

    /// Sets what each publisher of this topic may publish, or only each of a service; `None` takes it away, so that a service
    /// has the topic's again. Publishers that run follow with their next publication.
    ///
    /// # Errors
    /// A rate of 0, or a burst of more than a quarter of an hour ([`TopicError::Option`]); five services have quotas of their own
    /// already; no supervisor.
    pub fn set_quota(&self, service: Option<&str>, quota: Option<Quota>) -> Result<(), TopicError> {
        let words = quota.map_or(Ok([0, 0]), |quota| quota.words(self.name()))?;
        let (topic, service) = (self.name().to_owned(), service.map(str::to_owned));
        match self.bus.ask(&Request::Quota { topic, service, words })? {
            Reply::Refused { reason } => {
                Err(BusError::Refused { bus: self.bus.dir().name().into(), reason }.into())
            }
            _ => Ok(()),
        }
    }

    /// What a full lane does to a publisher.
    pub fn overflow(&self) -> Overflow {
        Overflow::of(self.core.config())
    }

    /// The topic on which this one's dead letters are announced: `_bus.dlq.<topic>`. Made if there is none yet.
    ///
    /// # Errors
    /// As [`TopicBuilder::open`].
    pub fn dead_letter_notices(&self) -> Result<Topic<DeadLetterNotice>, TopicError> {
        dead_letters::notices(self.bus.clone(), self.name())
    }

    /// Follows publications to what becomes of them in a group that there is: see [`Receipts`].
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn receipts(&self, group: &str) -> Result<Receipts, ReceiptError> {
        Receipts::open(&self.bus, &self.core, group)
    }

    /// The same to several groups, all of which there must be.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn receipts_of(&self, groups: &[&str]) -> Result<ReceiptSet, ReceiptError> {
        ReceiptSet::open(&self.bus, &self.core, groups)
    }

    /// The same to every group that holds the topic's messages at this moment.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn receipts_of_all(&self) -> Result<ReceiptSet, ReceiptError> {
        ReceiptSet::open_all(&self.bus, &self.core)
    }

    /// All options of a subscriber.
    pub fn subscriber(&self) -> SubscriberBuilder<T> {
        SubscriberBuilder::new(self.clone())
    }
}
