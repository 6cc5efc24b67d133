//! Publishing: the writing side of a topic.
//!
//! The way of a message, many producers: archive it into a cell of this publisher's arena, put the cell's name into the next
//! slot by one compare-and-swap, look at the bell. One producer: archive it into the slot itself if it fits.
//! Until that last step nothing is claimed, so whatever fails before leaves nothing behind.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod asynchronous;
mod entry;
mod extended;
mod full;
mod guard;
mod linger;
mod loan;
mod loops;
mod slot;

#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncPublisher, Payload};
pub(crate) use extended::{Addressed, Republisher};
pub use linger::Lingering;
pub use loan::Loan;
pub(crate) use loops::{Pairs, REFUSED, is_refused};

use crate::arena::{Cell, NoRoom, ProducerArena, Source};
use crate::bus::BusInner;
use crate::error::{AttachError, BatchError, FullOf, PublishError};
use crate::listeners::wake_readers;
use crate::payload::{Bytes, Message, Speak, encode, encoded_bytes, is_copied};
use crate::repair::{self, Keep};
use crate::sys::clock::Clock;
use crate::sys::prefetch::{self, LINE_WORDS};
use crate::sys::process::ForkMark;
use crate::topic::{LaneRing, Role, Topic, TopicCore};
use crate::wait;
use bus_core::arena::{Horizon, Shortage};
use bus_core::doorbell::{Barrier, Doorbell};
use bus_core::group;
use bus_core::header::{Header, TYPE_BYTES, producer_mark};
use bus_core::holder::HolderWord;
use bus_core::lane::Lane;
use bus_core::layout::wake::state::is_closed;
use bus_core::layout::{groups, ring, wake};
use bus_core::limits::LANES_MAX;
use bus_core::ring::mpmc::{self, CellName, Refused};
use bus_core::seq::{distance, earlier, later};
use bus_core::sync::{AtomicU32, AtomicU64, Ordering, spin_pause};
use guard::Guard;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long `publish` waits for room unless set.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(1);
/// Pauses between two looks at the gate while a publisher spins for room.
const ROOM_PAUSES: u32 = 64;
/// A publisher that finds the lane full goes on when one slot in so many is free.
const ROOM_SHARE: i64 = 8;
/// How often it looks before it sleeps.
const ROOM_LOOKS: u32 = 32;
/// Longest sleep before the groups that hold the lane are asked whether they live.
const ROOM_PARK: Duration = Duration::from_millis(20);

impl<T: Message> Source for &T {
    const KIND: &'static str = T::NAME;
    const IS_EXACT: bool = is_copied::<T>();

    #[inline]
    fn least_bytes(&self) -> usize {
        size_of::<T::Archived>()
    }

    #[inline]
    fn fill(&self, memory: &mut [MaybeUninit<u8>]) -> Option<usize> {
        encode(*self, memory)
    }

    fn measure(&self, most_bytes: usize) -> Option<usize> {
        encoded_bytes(*self, most_bytes)
    }
}

impl Source for &[u8] {
    const KIND: &'static str = "bytes";
    const IS_EXACT: bool = true;

    #[inline]
    fn least_bytes(&self) -> usize {
        self.len()
    }

    #[inline]
    fn fill(&self, memory: &mut [MaybeUninit<u8>]) -> Option<usize> {
        let target = memory.get_mut(..self.len())?;
        // SAFETY: both are valid for the length, and a payload being written is nobody's slice.
        unsafe { core::ptr::copy_nonoverlapping(self.as_ptr(), target.as_mut_ptr().cast(), self.len()) };
        Some(self.len())
    }

    fn measure(&self, _: usize) -> Option<usize> {
        Some(self.len())
    }
}

/// The publisher's side of one lane.
struct LanePublisher {
    ring: LaneRing<'static>,
    hint: &'static AtomicU64,
    refused: &'static AtomicU64,
    cached_gate: u64,
    /// The lane's end as this publisher last saw it; exact in a one-producer lane.
    next: u64,
    arena: Option<ProducerArena>,
    /// Length of the last message: where the next one is tried first.
    expected_bytes: usize,
    /// When this lane was first found full at this gate.
    full_since: Option<(u64, Instant)>,
    /// Groups without a member that hold the lane and will let go: entry, its word, and when that was first seen.
    memberless: Vec<(usize, u64, Instant)>,
    /// Groups with a member that hold the lane and have agreed to be let go.
    standing: Vec<Sighting>,
}

/// A group that was seen to stand somewhere: in other hands, or with another cursor, it is another sighting.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    entry: usize,
    word: u64,
    cursors: [u64; LANES_MAX],
    since: Instant,
}

/// Where a publication goes.
#[derive(Clone, Copy)]
enum Target {
    /// Into the publisher's default lane.
    Default,
    Lane(usize),
}

/// How long a publication waits for room.
#[derive(Clone, Copy)]
enum Patience {
    /// Until the publisher's deadline.
    Deadline,
    /// Not at all.
    None,
}

/// An error on its way out of the hot path: one pointer, so that results without an error stay in registers.
struct Failure(Box<PublishError>);

impl From<PublishError> for Failure {
    #[cold]
    fn from(error: PublishError) -> Self {
        Self(Box::new(error))
    }
}

impl From<crate::error::RegionError> for Failure {
    #[cold]
    fn from(error: crate::error::RegionError) -> Self {
        PublishError::from(error).into()
    }
}

impl From<Failure> for PublishError {
    #[cold]
    fn from(failure: Failure) -> Self {
        *failure.0
    }
}

/// A publisher without its type.
pub(crate) struct RawPublisher {
    lanes: Vec<LanePublisher>,
    default_lane: usize,
    entry: u16,
    /// What is the same in the headers of all its messages.
    header: Header,
    max_bytes: usize,
    clock: Option<Clock>,
    deadline: Duration,
    /// What it does before it looks at a bell.
    ringing: Barrier,
    state: &'static AtomicU32,
    /// What `state` is while there is nothing to look at before a publication.
    expected_state: u32,
    message_bell: Doorbell<'static>,
    space_bell: Doorbell<'static>,
    entry_word: &'static AtomicU64,
    live: HolderWord,
    fork: ForkMark,
    /// In a box: the hot path has no use for it.
    guard: Box<Guard>,
    bus: Arc<BusInner>,
    /// Owns every `'static` reference above; dropped after them.
    core: Arc<TopicCore>,
}

/// Writes messages to a topic. Belongs to one thread at a time.
pub struct Publisher<T> {
    raw: RawPublisher,
    speaks: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("topic", &self.raw.core.name())
            .field("producer", &self.raw.entry)
            .finish_non_exhaustive()
    }
}

impl<T: Speak> Publisher<T> {
    pub(crate) fn attach(topic: &Topic<T>) -> Result<Self, AttachError> {
        Ok(Self { raw: RawPublisher::attach(topic)?, speaks: PhantomData })
    }

    /// How long `publish` waits for room before it returns [`PublishError::Full`]. Default 1 s. Not at all on topics that fail
    /// at once, whatever is set here.
    pub fn set_deadline(&mut self, deadline: Duration) {
        if !self.raw.guard.fails_at_once() {
            self.raw.deadline = deadline;
        }
    }

    /// Whether this publisher has a circuit breaker, where its topic has them. For one that waits in steps of its own, and
    /// so meets its deadline again and again. Default: yes.
    pub fn set_breaker(&mut self, breaker: bool) {
        self.raw.set_breaker(breaker);
    }

    /// Lane that `publish` uses: normal.
    pub fn default_lane(&self) -> Lane {
        Lane(self.raw.default_lane as u8)
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        self.raw.core.name()
    }

    /// Number under which messages name this publisher.
    pub fn producer(&self) -> u16 {
        self.raw.entry
    }

    /// Waits until every reliable group has finished what was published here, for at most `timeout`. True if they have.
    pub fn flush(&mut self, timeout: Duration) -> bool {
        self.raw.flush(timeout)
    }

    /// Leaves in good order: waits for the groups like [`Publisher::flush`], then gives the place back. True if they had
    /// finished; if not, nothing is lost, the messages stay for them.
    pub fn close(mut self, timeout: Duration) -> bool {
        self.raw.flush(timeout)
    }

    /// Publishes payload bytes as they are, under the topic handle's type. For tools, and for archives made elsewhere.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    pub fn publish_bytes(&mut self, lane: Lane, payload: &[u8]) -> Result<u64, PublishError> {
        Ok(self.raw.publish(Target::Lane(lane.index()), payload, Patience::Deadline, true)?)
    }

    /// Borrows memory for a payload of `len_bytes`, to be filled in place and published. Dropped unpublished, it is as if it
    /// had never been.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    // Always, as `receive`.
    #[inline(always)]
    pub fn loan(&mut self, lane: Lane, len_bytes: usize) -> Result<Loan<'_>, PublishError> {
        self.raw.loan(lane.index(), len_bytes)
    }
}

impl<T: Message> Publisher<T> {
    /// Publishes a value in the normal lane, waiting for room up to the deadline. Returns its sequence in the lane.
    ///
    /// When it returns `Ok`, the message is delivered at least once to every reliable group that existed, whatever
    /// process dies at whatever moment.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    // Always, as `receive`.
    #[inline(always)]
    pub fn publish(&mut self, value: &T) -> Result<u64, PublishError> {
        Ok(self.raw.publish(Target::Default, value, Patience::Deadline, true)?)
    }

    /// Publishes a value in a lane, waiting for room up to the deadline. Returns its sequence.
    ///
    /// # Errors
    /// The lane is full until the deadline, this publisher's breaker is open or its quota used up, the message is larger than
    /// the topic allows, the lane does not exist, the value cannot be archived, or the bus is gone. In each case nothing has
    /// been claimed or half-written.
    #[inline]
    pub fn publish_to(&mut self, lane: Lane, value: &T) -> Result<u64, PublishError> {
        Ok(self.raw.publish(Target::Lane(lane.index()), value, Patience::Deadline, true)?)
    }

    /// Publishes a value in a lane, or fails at once if there is no room.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    #[inline]
    pub fn try_publish_to(&mut self, lane: Lane, value: &T) -> Result<u64, PublishError> {
        Ok(self.raw.publish(Target::Lane(lane.index()), value, Patience::None, true)?)
    }

    /// Publishes values one after the other in a lane and looks at the bell once.
    ///
    /// # Errors
    /// As [`Publisher::publish_to`], and how many of the batch were published before.
    pub fn publish_batch<'v>(
        &mut self,
        lane: Lane,
        values: impl IntoIterator<Item = &'v T>,
    ) -> Result<usize, BatchError>
    where
        T: 'v,
    {
        let mut published = 0;
        for value in values {
            if let Err(failure) =
                self.raw.publish(Target::Lane(lane.index()), value, Patience::Deadline, false)
            {
                self.raw.ring_unless_forked();
                return Err(BatchError { published, source: failure.into() });
            }
            published += 1;
        }
        self.raw.ring_unless_forked();
        Ok(published)
    }
}

impl Publisher<Bytes> {
    /// Publishes bytes in the normal lane, waiting for room up to the deadline. Returns the sequence.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    #[inline]
    pub fn publish(&mut self, payload: &[u8]) -> Result<u64, PublishError> {
        Ok(self.raw.publish(Target::Default, payload, Patience::Deadline, true)?)
    }
}

impl RawPublisher {
    fn attach<T: Speak>(topic: &Topic<T>) -> Result<Self, AttachError> {
        let bus = topic.bus.clone();
        bus.check_usable()?;
        // A mapping of its own, writable: the topic handle's stays read-only.
        let core = Arc::new(TopicCore::attach(bus.dir(), topic.core.name(), Role::Publisher)?);
        bus.note_topic(core.name())?;
        let (entry, live) = entry::claim_entry(&bus, &core)?;
        let lanes: Result<Vec<_>, AttachError> = (0..core.lanes())
            .map(|lane| {
                let ring = core.lane_ring(lane)?;
                let hint = core.held_ring_word(ring::hint(lane))?;
                // Computed, not loaded: the word says where a group may start, not what may be overwritten.
                let gate = core.recompute_gate(lane);
                Ok(LanePublisher {
                    ring,
                    hint,
                    refused: core.held_ring_word(ring::refused_count(lane))?,
                    cached_gate: gate,
                    next: ring.end(hint),
                    arena: None,
                    expected_bytes: 0,
                    full_since: None,
                    memberless: Vec::new(),
                    standing: Vec::new(),
                })
            })
            .collect();
        let config = *core.config();
        let lanes = lanes?;
        let guard = Box::new(Guard::attach(&core, entry, bus.service())?);
        let header = Header {
            len_bytes: 0,
            producer: producer_mark(entry, live.tag),
            kind: topic.kinds.own.unwrap_or(TYPE_BYTES),
            flags: 0,
            stamp_ns: 0,
            reference: 0,
        };
        Ok(Self {
            default_lane: match lanes.len() {
                LANES_MAX => Lane::NORMAL.index(),
                count => count - 1,
            },
            lanes,
            entry,
            header,
            max_bytes: config.message_bytes as usize,
            clock: (config.flags & ring::FLAG_STAMPS != 0).then(|| bus.clock()),
            deadline: if guard.fails_at_once() { Duration::ZERO } else { DEADLINE_DEFAULT },
            ringing: bus.ringing(),
            state: core.held_wake_word(wake::at::STATE)?,
            expected_state: guard.expected(),
            message_bell: Doorbell::attach(core.held_wake_word(wake::at::MESSAGE_BELL)?),
            space_bell: Doorbell::attach(core.held_wake_word(wake::at::SPACE_BELL)?),
            entry_word: core.held_ring_word(ring::producer_state(usize::from(entry)))?,
            live,
            fork: *ForkMark::global(),
            guard,
            bus,
            core,
        })
    }

    /// Publishes one message. Nothing happens before the lane and the handle are known to be good.
    // Always: what a call saves and restores are as many stores as a short message is, and those are what a publisher waits for while
    // messages stream. What is needed beside the common case is looked up again there, and not kept here.
    #[inline(always)]
    fn publish<S: Source>(
        &mut self,
        target: Target,
        source: S,
        patience: Patience,
        ring_bell: bool,
    ) -> Result<u64, Failure> {
        let lane = self.lane_of(target);
        if self.is_free_to_publish(lane)
            && let Some(sequence) = self.publish_right_away(lane, &source)
        {
            if ring_bell {
                self.ring_bell();
            }
            return Ok(sequence);
        }
        self.publish_otherwise(target, source, patience, ring_bell)
    }

    /// The same where there may be something in its way, or something to count, or no room.
    #[inline(never)]
    fn publish_otherwise<S: Source>(
        &mut self,
        target: Target,
        source: S,
        patience: Patience,
        ring_bell: bool,
    ) -> Result<u64, Failure> {
        let lane = self.lane_of(target);
        let is_guarded = !self.is_free_to_publish(lane);
        if is_guarded {
            self.admit(lane, source.least_bytes())?;
        }
        // Before it waits for anything.
        let stamp_ns = begun_ns(&mut self.clock);
        let deadline = match patience {
            Patience::Deadline => self.deadline,
            Patience::None => Duration::ZERO,
        };
        let published = match self.lanes[lane].ring {
            LaneRing::Mpmc(_) => self.publish_slowly(lane, &source, stamp_ns, deadline),
            LaneRing::Spsc(_) => self.publish_slot_otherwise(lane, &source, stamp_ns, deadline),
        };
        let sequence = published.map_err(|failure| self.failed(lane, deadline, failure))?;
        if is_guarded {
            self.published(lane, sequence);
        }
        if ring_bell {
            self.ring_bell();
        }
        self.look_for_registration();
        Ok(sequence)
    }

    #[inline(always)]
    fn lane_of(&self, target: Target) -> usize {
        match target {
            Target::Default => self.default_lane,
            Target::Lane(lane) => lane,
        }
    }

    /// Is there such a lane, and nothing in the way of a publication?
    #[inline(always)]
    fn is_free_to_publish(&self, lane: usize) -> bool {
        lane < self.lanes.len()
            && !self.fork.is_child()
            && self.state.load(Ordering::Relaxed) == self.expected_state
    }

    /// Publishes where there is room right away by the private copy of the gate, which is nearly always.
    #[inline(always)]
    fn publish_right_away<S: Source>(&mut self, lane: usize, source: &S) -> Option<u64> {
        match self.lanes[lane].ring {
            LaneRing::Mpmc(_) => self.publish_here(lane, source),
            LaneRing::Spsc(_) => self.publish_slot_here(lane, source, None),
        }
    }

    /// Many producers: publishes where arena and lane have room right away, which is nearly always.
    #[inline(always)]
    fn publish_here<S: Source>(&mut self, lane: usize, source: &S) -> Option<u64> {
        let (max_bytes, producer) = (self.max_bytes, self.entry);
        let header = Header { stamp_ns: begun_ns(&mut self.clock), ..self.header };
        let this = &mut self.lanes[lane];
        let LaneRing::Mpmc(ring) = &this.ring else { return None };
        let want = likely_bytes(source, this.expected_bytes);
        if want > max_bytes {
            return None;
        }
        let arena = this.arena.as_mut()?;
        let draft = arena.draft(source, want, max_bytes, header)?;
        let name = CellName { producer, cell: draft.cell };
        // The compare-and-swap that publishes waits for the line of the slot's word too, which readers have had since the last lap: the next
        // one is asked for while this one is filled.
        prefetch::line_for_writing(ring.word(this.next.wrapping_add(LINE_WORDS)).as_ptr().cast());
        // Whoever looks at the groups may have to wait, and by then this publication has begun.
        let recompute = |s| no_news(ring, s);
        let address = move |s| draft.address(s);
        let sequence = ring.publish(this.hint, name, &mut this.cached_gate, recompute, address).ok()?;
        this.next = sequence.wrapping_add(1);
        if this.expected_bytes != draft.len_bytes {
            this.expected_bytes = draft.len_bytes;
        }
        arena.commit_published(draft.body_bytes, sequence);
        Some(sequence)
    }

    /// The same with everything that may have to happen first: growing the arena, waiting for room.
    #[cold]
    #[inline(never)]
    fn publish_slowly<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        stamp_ns: u64,
        deadline: Duration,
    ) -> Result<u64, Failure> {
        let cell = self.write_cell(lane, source, stamp_ns, deadline)?;
        self.publish_cell(lane, &cell, deadline)
    }

    #[inline]
    fn ring_bell(&self) {
        self.message_bell.ring_if(self.ringing, || wake_readers(&self.bus, &self.core));
    }

    /// For where the handle may be a copy in a forked child, which has nothing mapped.
    fn ring_unless_forked(&self) {
        if !self.fork.is_child() {
            self.ring_bell();
        }
    }

    #[cold]
    fn unusable(&self, lane: usize) -> PublishError {
        let topic = self.core.name().to_owned();
        if self.bus.is_forked() {
            PublishError::UsedAfterFork { topic }
        } else if lane >= self.lanes.len() {
            PublishError::Lane { topic, lane: lane as u8, lanes: self.lanes.len() as u32 }
        } else {
            PublishError::BusClosed { topic }
        }
    }

    /// Writes a message, complete but for its sequence, into a cell of this publisher's arena, waiting for room.
    #[inline(never)]
    fn write_cell<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        stamp_ns: u64,
        deadline: Duration,
    ) -> Result<Cell, Failure> {
        let least = source.least_bytes();
        if least > self.max_bytes {
            return Err(self.too_large(least));
        }
        let mut want = likely_bytes(source, self.lanes[lane].expected_bytes).min(self.max_bytes);
        let mut since = None;
        // Looking at the groups again is cheaper than growing, and often enough.
        let mut may_grow = false;
        // Whether `want` is a guess that may be too much.
        let mut is_guess = false;
        loop {
            let (max_bytes, horizon) = (self.max_bytes, self.horizon(lane));
            let header = Header { stamp_ns, ..self.header };
            match self.arena(lane)?.write(source, want, max_bytes, header, (horizon, may_grow)) {
                Ok(Some(cell)) => {
                    self.lanes[lane].expected_bytes = cell.draft.len_bytes;
                    return Ok(cell);
                }
                // Tried again with more before it is measured: that takes an allocation.
                Ok(None) if want < max_bytes => {
                    (want, is_guess) = ((2 * want).clamp(64, max_bytes.max(64)), true)
                }
                Ok(None) => (want, is_guess) = (self.larger(source)?, false),
                Err(NoRoom::Shortage(_)) if is_guess => (want, is_guess) = (self.larger(source)?, false),
                Err(NoRoom::Memory(error)) => return Err(error.into()),
                Err(NoRoom::Shortage(Shortage::TooLarge)) => return Err(self.too_large(want)),
                // Nothing of this publisher is cut off and unpublished here, so `Unpublished` does not come.
                Err(NoRoom::Shortage(_)) => {
                    let moved = self.refresh_gate(lane);
                    if may_grow && !moved {
                        self.wait_for_room(lane, FullOf::Arena, &mut since, deadline)?;
                    }
                    may_grow = true;
                }
            }
        }
    }

    /// Is this process registered for membarrier by now? Asked where the common path does not come by, at least once a revolution of the ring
    /// or the arena.
    #[inline]
    fn look_for_registration(&mut self) {
        if self.ringing != self.bus.barrier() {
            self.ringing = self.bus.ringing_soon();
        }
    }

    /// A message did not fit where it was tried: how long is it?
    #[cold]
    fn larger<S: Source>(&self, source: &S) -> Result<usize, Failure> {
        match source.measure(self.max_bytes) {
            Some(len) if len <= self.max_bytes => Ok(len),
            Some(len) => Err(self.too_large(len)),
            None => Err(PublishError::Encode { topic: self.core.name().to_owned(), kind: S::KIND }.into()),
        }
    }

    #[cold]
    fn too_large(&self, len: usize) -> Failure {
        let (topic, max) = (self.core.name().to_owned(), self.max_bytes as u64);
        PublishError::TooLarge { topic, len: len as u64, max }.into()
    }

    /// Which of this arena's messages may be overwritten.
    #[inline]
    fn horizon(&self, lane: usize) -> Horizon {
        let config = self.core.config();
        let lane = &self.lanes[lane];
        Horizon {
            gate: lane.cached_gate,
            keep_from: lane.next.saturating_sub(u64::from(config.capacity)),
            history_bytes: config.arena_history_bytes,
        }
    }

    /// Computes the gate anew for the arena's sake. True if it moved.
    #[cold]
    fn refresh_gate(&mut self, lane: usize) -> bool {
        let gate = self.core.recompute_gate(lane);
        let this = &mut self.lanes[lane];
        let moved = distance(gate, this.cached_gate) > 0;
        this.cached_gate = later(gate, this.cached_gate);
        let Horizon { gate, keep_from, .. } = self.horizon(lane);
        if let Some(arena) = &mut self.lanes[lane].arena {
            // What slots still name stays for late readers.
            arena.give_back(earlier(gate, keep_from));
        }
        moved
    }

    /// The arena of a lane, made when it is first needed.
    #[inline]
    fn arena(&mut self, lane: usize) -> Result<&mut ProducerArena, Failure> {
        if self.lanes[lane].arena.is_none() {
            let arena = ProducerArena::create(
                self.core.dir(),
                (usize::from(self.entry), self.live.tag),
                lane,
                self.core.config().arena(),
                self.core.epoch(),
            )?;
            self.lanes[lane].arena = Some(arena);
        }
        match &mut self.lanes[lane].arena {
            Some(arena) => Ok(arena),
            None => unreachable!("it was made above"),
        }
    }

    /// Many producers: puts the cell's name into the next free slot, waiting for room.
    fn publish_cell(&mut self, lane: usize, cell: &Cell, deadline: Duration) -> Result<u64, Failure> {
        let mut since = None;
        loop {
            let outcome = match self.publish_cell_here(lane, cell, true) {
                Ok(sequence) => return Ok(sequence),
                Err(Refused::Full { .. }) => self.wait_for_room(lane, FullOf::Ring, &mut since, deadline),
                Err(Refused::Corrupt { sequence }) => {
                    let topic = self.core.name().to_owned();
                    Err(PublishError::Corrupt { topic, lane: lane as u8, sequence }.into())
                }
            };
            if let Err(error) = outcome {
                self.roll_back(lane, cell);
                return Err(error);
            }
        }
    }

    /// The same if there is room: by the private copy of the gate, or by a look at the groups where that says no and `looks`.
    #[inline(always)]
    fn publish_cell_here(&mut self, lane: usize, cell: &Cell, looks: bool) -> Result<u64, Refused> {
        let (producer, core) = (self.entry, &self.core);
        let this = &mut self.lanes[lane];
        let LaneRing::Mpmc(ring) = this.ring else { unreachable!("the caller has matched it") };
        let name = CellName { producer, cell: cell.draft.cell };
        let recompute = |s| if looks { gate_with_room(core, lane, s) } else { no_news(&ring, s) };
        let sequence =
            ring.publish(this.hint, name, &mut this.cached_gate, recompute, |s| cell.draft.address(s))?;
        this.next = sequence.wrapping_add(1);
        if let Some(arena) = &mut this.arena {
            arena.published(cell.block, sequence);
        }
        Ok(sequence)
    }

    /// The lane is full. Returns when it is worth another try, or with the error when the deadline has passed.
    #[cold]
    fn wait_for_room(
        &mut self,
        lane: usize,
        what: FullOf,
        since: &mut Option<Instant>,
        deadline: Duration,
    ) -> Result<(), Failure> {
        if is_closed(self.state.load(Ordering::Relaxed)) {
            return Err(self.unusable(lane).into());
        }
        if self.entry_word.load(Ordering::Relaxed) != self.live.pack() {
            return Err(PublishError::Fenced { topic: self.core.name().to_owned() }.into());
        }
        if let Some(path) = self.guard.first_unlinked(&self.bus, &self.core) {
            return Err(PublishError::BusUnlinked { topic: self.core.name().to_owned(), path }.into());
        }
        let first = since.is_none();
        if first {
            // A batch rings at its end, and the readers that it waits for may be asleep.
            self.ring_bell();
        }
        let begun = *since.get_or_insert_with(Instant::now);
        let gate = self.core.recompute_gate(lane);
        if distance(gate, self.lanes[lane].cached_gate) > 0 {
            self.lanes[lane].cached_gate = gate;
            self.lanes[lane].full_since = None;
            return Ok(());
        }
        let now = Instant::now();
        // From the beginning of the wait, so that a group which yields after as long as this publisher waits has had its time
        // when the publisher's is up.
        let found = if first { begun } else { now };
        let full_since = match self.lanes[lane].full_since {
            Some((at_gate, since)) if at_gate == gate => since,
            _ => {
                self.lanes[lane].full_since = Some((gate, found));
                found
            }
        };
        // Whoever holds the lane and is dead, or has agreed to yield and has stood still for long enough, lets go.
        let changed = repair::release_dead_groups(&self.core, self.bus.participants())
            | self.evict_yielding(lane, gate, (found, now))
            | self.detach_memberless(lane, gate, found);
        if now.duration_since(full_since) >= ROOM_PARK {
            // A member of a shared group may have died with messages in hand, and no other may look round.
            repair::release_dead_claims(&self.core, self.bus.participants());
        }
        let left = deadline.saturating_sub(now.duration_since(begun));
        if changed {
            return Ok(());
        }
        if left.is_zero() {
            return Err(self.full(lane, what, gate, begun.elapsed()).into());
        }
        let core = self.core.clone();
        let moved = || distance(core.recompute_gate(lane), gate) > 0;
        for _ in 0..ROOM_LOOKS {
            for _ in 0..ROOM_PAUSES {
                spin_pause();
            }
            if moved() {
                return Ok(());
            }
        }
        wait::park(self.space_bell, self.bus.barrier(), left.min(ROOM_PARK), moved);
        Ok(())
    }

    /// Lets groups go that hold this lane at `gate`, agreed to yield or to be let go, and have had their time. That time begins
    /// when a publisher that waits first finds this member standing there; one that may be let go is no burden while it gets on in
    /// any lane.
    fn evict_yielding(&mut self, lane: usize, gate: u64, (found, now): (Instant, Instant)) -> bool {
        let known = std::mem::take(&mut self.lanes[lane].standing);
        let mut still = Vec::new();
        let mut changed = false;
        for (entry, word, seen, kind) in self.holders(lane, gate) {
            let lets_go = kind & groups::kind::LETS_GO != 0;
            let limit_ms = match kind & (groups::kind::YIELDS | groups::kind::LETS_GO) {
                0 => None,
                groups::kind::YIELDS => Some(kind >> 32),
                _ => self.core.stall_after_ms(entry),
            };
            let Some(limit_ms) = limit_ms.filter(|_| seen.state == groups::state::ACTIVE) else { continue };
            let mut cursors = [0; LANES_MAX];
            for (at, cursor) in cursors.iter_mut().enumerate().take(self.core.lanes()) {
                if at == lane {
                    *cursor = gate;
                } else if lets_go {
                    *cursor = self.core.group_lane_number(entry, at, groups::in_lane::LOW_WATER);
                }
            }
            let packed = seen.pack();
            let is_known = |its: &&Sighting| (its.entry, its.word, its.cursors) == (entry, packed, cursors);
            let since = known.iter().find(is_known).map_or(found, |sighting| sighting.since);
            let stood_still = now.duration_since(since);
            if stood_still < Duration::from_millis(limit_ms) {
                still.push(Sighting { entry, word: packed, cursors, since });
                continue;
            }
            // Before it is let go: whoever sees that it was finds why, and one that comes back at once clears it.
            let mark = self.core.mark_stalled(entry, stood_still);
            let let_go = group::change(word, seen, seen.with_state(groups::state::EVICTED)).is_some();
            if let Some(mark) = mark.filter(|_| !let_go) {
                self.core.unmark_stalled(entry, mark);
            }
            changed |= let_go;
        }
        self.lanes[lane].standing = still;
        changed
    }

    /// Lets groups go that hold this lane at `gate`, have no member, and said for how long they would then. That time begins
    /// when a publisher that waits first finds them so; what changes in between, changes the word.
    fn detach_memberless(&mut self, lane: usize, gate: u64, found: Instant) -> bool {
        let known = std::mem::take(&mut self.lanes[lane].memberless);
        let mut still = Vec::new();
        let mut changed = false;
        for (entry, word, seen, kind) in self.holders(lane, gate) {
            let limit = Duration::from_secs(groups::kind::hold_s(kind).into());
            // Where members cannot be counted there may be some. One that has joined since has changed the word.
            let has_members = || kind & groups::kind::SHARED != 0 && self.core.members(entry) != Some(0);
            if limit.is_zero() || seen.state != groups::state::HELD || has_members() {
                continue;
            }
            let sighting = known.iter().find(|(at, its, _)| (*at, *its) == (entry, seen.pack()));
            let since = sighting.map_or(found, |&(_, _, since)| since);
            if since.elapsed() < limit {
                still.push((entry, seen.pack(), since));
                continue;
            }
            let let_go = group::change(word, seen, seen.with_state(groups::state::DETACHED)).is_some();
            if let Some(count) = self.core.group_word(entry, groups::in_entry::LET_GO).filter(|_| let_go) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            changed |= let_go;
        }
        self.lanes[lane].memberless = still;
        changed
    }

    /// Entries whose groups hold this lane at `gate`: their words, what those said, and their kinds.
    fn holders(
        &self,
        lane: usize,
        gate: u64,
    ) -> impl Iterator<Item = (usize, &AtomicU64, HolderWord, u64)> + use<'_> {
        (0..self.core.groups_used()).filter_map(move |entry| {
            // The word first: what is read after it belongs to it, or its change fails.
            let word = self.core.group_word(entry, groups::in_entry::STATE)?;
            let seen = HolderWord::unpack(word.load(Ordering::Acquire));
            let kind = self.core.group_number(entry, groups::in_entry::KIND);
            let low_water = self.core.group_lane_number(entry, lane, groups::in_lane::LOW_WATER);
            (groups::state::holds_gate(seen.state) && low_water == gate).then_some((entry, word, seen, kind))
        })
    }

    fn flush(&mut self, timeout: Duration) -> bool {
        if self.fork.is_child() {
            return false;
        }
        let begun = Instant::now();
        let finished = || {
            self.lanes.iter().enumerate().all(|(index, lane)| {
                distance(self.core.recompute_gate_at(index, self.core.end(index)), lane.next) >= 0
            })
        };
        while !finished() {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() || is_closed(self.state.load(Ordering::Relaxed)) {
                return false;
            }
            wait::park(self.space_bell, self.bus.barrier(), left.min(ROOM_PARK), finished);
        }
        true
    }
}

/// When a publication begins; 0 on topics without stamps.
#[inline(always)]
fn begun_ns(clock: &mut Option<Clock>) -> u64 {
    clock.as_mut().map_or(0, Clock::now_ns)
}

/// A gate that tells a publisher of `s` nothing new: there is no room.
#[inline(always)]
fn no_news(ring: &mpmc::Ring<'_>, s: u64) -> u64 {
    s.wrapping_sub(ring.capacity())
}

/// How long a message will be: a guess, unless its length is known beforehand.
#[inline(always)]
fn likely_bytes<S: Source>(source: &S, expected_bytes: usize) -> usize {
    let least_bytes = source.least_bytes();
    if S::IS_EXACT { least_bytes } else { least_bytes.max(expected_bytes) }
}

/// The gate, computed when the private copy leaves no room for `s`. If the lane is nearly full and its readers move, waits a
/// moment for them to make more room: a publisher that asks for their cursors at every message takes those lines
/// away from them at every message, and slows down the very readers that it waits for.
#[cold]
fn gate_with_room(core: &TopicCore, lane: usize, s: u64) -> u64 {
    let capacity = i64::from(core.config().capacity);
    let mut gate = core.recompute_gate_at(lane, s);
    for _ in 0..ROOM_LOOKS {
        if capacity - distance(s, gate) >= capacity / ROOM_SHARE {
            break;
        }
        for _ in 0..ROOM_PAUSES {
            spin_pause();
        }
        let now = core.recompute_gate_at(lane, s);
        if now == gate {
            break;
        }
        gate = now;
    }
    gate
}

impl Drop for RawPublisher {
    fn drop(&mut self) {
        if self.bus.is_forked() {
            return;
        }
        for lane in &self.lanes {
            if let Some(arena) = &lane.arena {
                arena.retire();
            }
        }
        if self.entry_word.load(Ordering::Acquire) == self.live.pack() {
            self.clear_breaker();
            repair::retire(&self.core, usize::from(self.entry), self.entry_word, self.live);
            repair::reclaim_producers(&self.core, Keep::Retained);
        }
    }
}
