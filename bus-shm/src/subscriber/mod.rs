//! Receiving: the reading side of a topic.
//!
//! A message is read where it lies: [`Received`] borrows it from the subscriber, and until it is acknowledged or dropped
//! nobody can overwrite it. Three kinds of reader share one path:
//!
//! | kind | cursor | reads | overtaken? |
//! |---|---|---|---|
//! | group of one member | its own | in place | never |
//! | shared group | owner words | in place | never |
//! | tap, and a group that yields or may be let go | none, or let go | a checked copy | counted as missed |
#![allow(unsafe_code)]

mod failure;
mod interrupt;
mod keyed;
mod known;
mod late;
mod look;
mod many;
mod options;
mod outcomes;
mod received;
mod replying;
mod screen;
mod settle;
mod shared;
mod stall;
pub(crate) mod start;

pub(crate) use failure::Failure;
pub use interrupt::Interrupter;
pub use options::{OtherTypes, Start, SubscriberBuilder};
pub use received::{Batch, BatchItem, Received};
pub use screen::Expired;
pub use stall::{Stall, StallPolicy};

use crate::bus::BusInner;
use crate::dead_letters::Announcer;
use crate::error::{AttachError, ReceiveError};
use crate::finding::Finding;
use crate::group::{LaneStand, Seat, Wanted};
use crate::payload::{Bytes, Speak, TypeIdentity};
use crate::reader::{Found, LaneReader};
use crate::region::Region;
use crate::repair;
use crate::requests::Replies;
use crate::sys::process::ForkMark;
use crate::topic::{Kinds, Topic, TopicCore};
use crate::wait::{Wait, Waiter};
use bus_core::aside::Held;
use bus_core::doorbell::{Barrier, Doorbell};
use bus_core::header::TYPE_BYTES;
use bus_core::lane::{Lane, Picker};
use bus_core::layout::wake::state::is_closed;
use bus_core::layout::{groups, owners, ring, wake};
use bus_core::limits::LANES_MAX;
use bus_core::outcome;
use bus_core::owner::{Owners, PackedOwner};
use bus_core::sync::{AtomicU32, AtomicU64, Ordering};
use keyed::Keyed;
use late::{Late, Settings, Verdict};
use look::is_ready;
use screen::Screen;
use settle::InHand;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A message as it was found, without its lifetime: valid until it is settled.
#[derive(Clone, Copy, Debug)]
struct Delivery {
    lane: usize,
    found: Finding,
    proof: Proof,
}

/// What makes a message in hand this subscriber's.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// Its place behind the group's cursor. A tap has no other.
    Position,
    /// The claim in a shared group.
    Claim(PackedOwner),
    /// The claim of an entry of the group's aside store.
    Entry(Held),
    /// It has been put aside, which counts once the batch that it is part of is acknowledged.
    Staged(Held),
    /// Nothing any more: it has been settled.
    Settled,
}

impl Delivery {
    const NONE: Self = Self { lane: 0, found: Finding::NONE, proof: Proof::Settled };
}

/// What the group of a subscriber is like.
enum Membership {
    /// No entry in the table.
    Tap,
    /// One member: the cursor is a plain store.
    One(Seat),
    /// One member that can be let go.
    Yielding(Seat),
    /// Many members.
    Shared(Seat, Vec<Owners<'static>>),
}

/// Why a message is a dead letter that nobody rejected.
const WORN_OUT: &str =
    "handed out as often as is allowed, and never finished: its consumers died or gave it back";

/// How often a member of a shared group that waits in vain asks whether the others live. The supervisor does it sooner, where
/// there is one.
const ASK_PERIOD: Duration = Duration::from_millis(500);

/// And one that is busy looks after so many messages for what others have given back, or were silent about for too long.
const LOOK_PERIOD_CLAIMS: u32 = 8;

/// A subscriber without its type.
struct RawSubscriber {
    lanes: Vec<LaneReader>,
    picker: Picker,
    waiter: Waiter,
    /// What it does before it looks at a bell.
    ringing: Barrier,
    membership: Membership,
    state: &'static AtomicU32,
    message_bell: Doorbell<'static>,
    space_bell: Doorbell<'static>,
    skipped: Option<&'static AtomicU64>,
    redelivered: Option<&'static AtomicU64>,
    kinds: Kinds,
    other: OtherTypes,
    screen: Box<Screen>,
    copied: bool,
    /// Claims of the group may be taken back from a member that is slow: what is theirs is copied.
    may_lose_claims: bool,
    /// The only member of a group that is never let go, and it reads in place what is kept for it.
    is_plain: bool,
    /// A member of a shared group that is not keyed, copies only what it may lose, and does not look at each message first.
    claims_plainly: bool,
    missed_count: u64,
    /// A named group that may be let go, and comes back then.
    comes_back: bool,
    /// Its batch ends before messages that it has missed.
    is_cut: bool,
    /// Runs that nobody has asked for yet: the first sequence, and the one after the last.
    missed: [Option<(u64, u64)>; LANES_MAX],
    batch: Vec<InHand>,
    /// Lane and sequence of the message that was found invalid last.
    invalid: Cell<Option<(usize, u64)>>,
    /// The group's aside store; a tap has none.
    late: Option<Box<Late>>,
    /// What a member of a keyed group keeps in mind.
    keyed: Option<Box<Keyed>>,
    /// When the other members of a shared group were last asked after.
    asked: Instant,
    /// Messages until a busy member of a shared group looks round.
    until_look: u32,
    /// After so many messages that were left out one look for a message ends.
    left_out_most: u32,
    /// Publishers for those who asked.
    replies: RefCell<Option<Box<Replies>>>,
    /// Set by who wants it to wait no more.
    interrupted: Option<Arc<AtomicBool>>,
    /// That the files are gone is said once.
    told_unlinked: bool,
    /// How far the lanes had been read when it last went to sleep.
    rested_at: u64,
    /// The message that was handed out last.
    current: Delivery,
    participant: u16,
    fork: ForkMark,
    bus: Arc<BusInner>,
    /// Own every `'static` reference above; dropped after them.
    _owners: Option<Region>,
    core: Arc<TopicCore>,
}

// SAFETY: the raw pointers of deliveries point into mappings that the subscriber owns; nothing is tied to a thread.
unsafe impl Send for RawSubscriber {}

/// Reads messages of a topic. Belongs to one thread at a time.
pub struct Subscriber<T> {
    raw: RawSubscriber,
    trusted: bool,
    speaks: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("topic", &self.raw.core.name()).finish_non_exhaustive()
    }
}

impl RawSubscriber {
    fn join<T: Speak>(options: SubscriberBuilder<T>) -> Result<Self, AttachError> {
        let SubscriberBuilder {
            topic,
            group,
            shared,
            keyed,
            tap,
            yields,
            start,
            or_oldest,
            wait,
            guard,
            other,
            copied,
            attempts_max,
            ack_wait,
            hold,
            backoff,
            handler,
            dead_full,
            aside_bound,
            wishes,
            stall,
            ..
        } = options;
        let Topic { bus, core, kinds, .. } = topic;
        bus.check_usable()?;
        let screen = Box::new(Screen::new(wishes, (&core, &bus), kinds.own)?);
        if !tap && core.config().overflow == ring::overflow::NEWEST {
            return Err(AttachError::KeepsNewest { topic: core.name().into() });
        }
        if let Some(stall) = &stall {
            stall.check(core.name(), (tap, shared, yields.is_some()))?;
        }
        let mut lanes = (0..core.lanes())
            .map(|lane| LaneReader::attach(core.clone(), lane))
            .collect::<Result<Vec<_>, _>>()?;
        let mut wished: Vec<u64> = lanes.iter_mut().map(|lane| lane.end()).collect();
        start::begin_at(&core, start, or_oldest, &mut lanes, &mut wished)?;
        let name = group.as_deref();
        keyed::check(core.name(), keyed, name.is_some() && !tap)?;
        let shared = shared && name.is_some();
        let goes_on = start == Start::Latest;
        let wanted = Wanted { name, shared, keyed, yields, ack_wait, goes_on, wished: wished.clone() };
        let seat = if tap { None } else { Some(Seat::join(&bus, &core, &wanted)?) };
        let lets_go = seat.as_ref().is_some_and(|seat| stall::settle(&core, seat.joined.entry, stall));
        for (index, lane) in lanes.iter_mut().enumerate() {
            let Some(Seat { joined, .. }) = &seat else {
                lane.begin(wished[index], LaneStand::new(wished[index]));
                continue;
            };
            let stand = joined.lanes[index];
            lane.begin(stand.begin, stand);
            lane.hold(joined, wanted.shared)?;
        }
        let mut owners_region = None;
        let membership = match seat {
            None => Membership::Tap,
            Some(seat) if wanted.shared => {
                let mut region = core.attach_owners(seat.joined.entry)?;
                if core.is_frugal() {
                    region.close_file();
                }
                let capacity = core.config().capacity;
                let owners = (0..core.lanes())
                    .map(|lane| {
                        // SAFETY: the region is kept beside the view, in the same structure.
                        let words =
                            unsafe { region.words(owners::words(lane, capacity) as u64, capacity as usize) }?;
                        Owners::attach(words).ok_or_else(|| AttachError::GroupLimit {
                            topic: core.name().into(),
                            max: bus_core::limits::GROUPS_MAX as usize,
                        })
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                owners_region = Some(region);
                Membership::Shared(seat, owners)
            }
            Some(seat) if lets_go || yields.is_some() && name.is_none() => Membership::Yielding(seat),
            Some(seat) => Membership::One(seat),
        };
        let is_one = matches!(membership, Membership::One(_));
        let is_shared = matches!(membership, Membership::Shared(..));
        if matches!(membership, Membership::Tap | Membership::Yielding(_)) {
            lanes.iter_mut().for_each(LaneReader::always_copy);
        }
        let entry = membership.entry();
        let mut ack_wait_ms = 0;
        let mut late = match entry {
            None => None,
            Some(entry) => {
                let kind = late::settle_kind(&core, entry, attempts_max, ack_wait, hold)?;
                ack_wait_ms = groups::kind::ack_wait_ms(kind);
                let settings = Settings {
                    attempts_max: groups::kind::attempts_max(kind),
                    backoff,
                    handler: handler.unwrap_or_default(),
                    dead_full,
                    bound: aside_bound,
                };
                let announcer = Announcer::new(bus.clone(), core.clone(), entry);
                let who = (entry, bus.me(), bus.service());
                Some(Box::new(Late::new(&core, who, settings, (announcer, ack_wait_ms), || bus.clock())?))
            }
        };
        let keyed = late.as_mut().filter(|_| keyed);
        let keyed = keyed.map(|late| Keyed::join((&bus, &core), late, ack_wait_ms)).transpose()?;
        let counter =
            |offset| entry.map(|entry| core.held_group_word(groups::entry(entry) + offset)).transpose();
        let joined = Self {
            picker: Picker::new(lanes.len(), guard),
            waiter: Waiter::new(wait, bus.barrier(), bus.me().participant),
            ringing: bus.ringing(),
            state: core.held_wake_word(wake::at::STATE)?,
            message_bell: Doorbell::attach(core.held_wake_word(wake::at::MESSAGE_BELL)?),
            space_bell: Doorbell::attach(core.held_wake_word(wake::at::SPACE_BELL)?),
            skipped: counter(groups::in_entry::SKIPPED)?,
            redelivered: counter(groups::in_entry::REDELIVERED)?,
            lanes,
            membership,
            kinds,
            other,
            claims_plainly: is_shared && !copied && keyed.is_none() && !screen.looks_at_all(),
            screen,
            copied: copied && !tap && yields.is_none() && !lets_go,
            // What may be taken back from a member that is only slow, and then be overwritten, is not read in place.
            may_lose_claims: ack_wait_ms != 0,
            is_plain: is_one && !copied && ack_wait_ms == 0 && keyed.is_none(),
            missed_count: 0,
            comes_back: lets_go && name.is_some(),
            is_cut: false,
            missed: [None; LANES_MAX],
            batch: Vec::new(),
            invalid: Cell::new(None),
            late,
            asked: Instant::now(),
            until_look: LOOK_PERIOD_CLAIMS,
            left_out_most: u32::MAX,
            replies: RefCell::new(None),
            told_unlinked: false,
            interrupted: None,
            rested_at: u64::MAX,
            current: Delivery::NONE,
            participant: bus.me().participant,
            fork: *ForkMark::global(),
            bus,
            _owners: owners_region,
            keyed,
            core,
        };
        if joined.keyed.is_some() {
            // Whoever has more than its share now gives up some.
            joined.ring_members();
        }
        Ok(joined)
    }

    fn check(&self) -> Result<(), ReceiveError> {
        if self.bus.is_forked() {
            return Err(ReceiveError::UsedAfterFork { topic: self.core.name().to_owned() });
        }
        if is_closed(self.state.load(Ordering::Relaxed)) {
            return Err(ReceiveError::BusClosed { topic: self.core.name().to_owned() });
        }
        Ok(())
    }

    /// The next message, in all cases.
    #[inline(never)]
    fn poll_all(&mut self) -> Result<bool, Failure> {
        if !self.may_take() {
            self.check()?;
        }
        self.look_for_registration();
        loop {
            let lane = match self.pick_known() {
                Some(lane) => lane,
                None => {
                    // Between two runs: has the time of something that failed before come?
                    if self.late.as_ref().is_some_and(|late| late.has_work()) {
                        if self.take_late()? {
                            return Ok(true);
                        }
                        if self.is_paused() {
                            return Ok(false);
                        }
                    }
                    match self.pick() {
                        Some(lane) => lane,
                        None if self.look_back() => continue,
                        None => return Ok(false),
                    }
                }
            };
            let (claim, is_worn_out) = match &self.membership {
                Membership::Shared(..) => {
                    if self.look_round() {
                        continue;
                    }
                    match self.claim(lane) {
                        Some((claim, is_worn_out)) => (Some(claim), is_worn_out),
                        None => continue,
                    }
                }
                _ => (None, false),
            };
            let found = self.lanes[lane].take(&mut self.current.found);
            if found.is_err() {
                // Half written: it is no message of anybody's batch.
                self.current = Delivery::NONE;
                if self.may_lose_claims && self.has_lost(lane, claim) {
                    self.lanes[lane].pass_over();
                    continue;
                }
            }
            match found.inspect_err(|_| self.give_back(lane, claim))? {
                Found::Message => {
                    self.current.lane = lane;
                    self.current.proof = Proof::Position;
                    if let Some(claim) = claim {
                        self.current.proof = Proof::Claim(claim.packed());
                        self.current.found.times = claim.attempts;
                    }
                    if self.copied {
                        let copied = self.lanes[lane].copy(&mut self.current.found);
                        if copied.is_err() {
                            // It stays the next one, as where it cannot be found at all.
                            self.lanes[lane].seek(self.current.found.sequence);
                        }
                        copied.inspect_err(|_| self.give_back(lane, claim))?;
                    } else if self.may_lose_claims {
                        self.lanes[lane].copy_claimed(&mut self.current.found);
                    }
                    if self.may_lose_claims && self.has_lost_current(lane, claim) {
                        continue;
                    }
                    if is_worn_out {
                        self.bury_current()?;
                        continue;
                    }
                    let is_usual = self.screen.is_usual(self.current.found.header.description());
                    if (!is_usual || self.current.found.times > 1) && !self.deliver_unusual()? {
                        self.left_out_most = self.left_out_most.saturating_sub(1);
                        if self.left_out_most == 0 {
                            return Ok(false);
                        }
                        continue;
                    }
                    return Ok(true);
                }
                Found::Missed { at, from } => match self.note_missed(lane, at, from) {
                    Ok(true) => {}
                    ended => return ended,
                },
            }
        }
    }

    /// A run of messages was overwritten before they were read. False: its time to be told has not come, and the batch in hand ends.
    #[cold]
    #[inline(never)]
    fn note_missed(&mut self, lane: usize, at: u64, from: u64) -> Result<bool, Failure> {
        if self.comes_back && !self.batch.is_empty() && self.lanes[lane].has_unfinished(at) {
            // Not before what stands before them is settled: so they are told once, and exactly.
            self.lanes[lane].untell(at, from);
            self.is_cut = true;
            return Ok(false);
        }
        let until = self.lanes[lane].next();
        if let Err(error) = self.record_missed(lane, at, until) {
            self.lanes[lane].untell(at, from);
            return Err(error.into());
        }
        // What a damaged ring says may add up to anything.
        self.missed_count = self.missed_count.saturating_add(until.wrapping_sub(from));
        if until != from {
            let begin = self.missed[lane].map_or(from, |(begin, _)| begin);
            self.missed[lane] = Some((begin, until));
        }
        Ok(true)
    }

    /// A message that comes again, is of another type, or needs a look. False if it is passed over.
    #[cold]
    fn deliver_unusual(&mut self) -> Result<bool, Failure> {
        let delivery = self.current;
        let other = self.kinds.own.is_some_and(|own| delivery.found.header.kind != own);
        if delivery.found.times > 1
            && let Some(counter) = self.redelivered
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.clear_outcome(&delivery);
        // A shared group has looked at the attempts before.
        if matches!(delivery.proof, Proof::Position)
            && self.late.as_ref().is_some_and(|late| delivery.found.times > late.attempts_max())
        {
            self.current.found.times = delivery.found.times.saturating_sub(1);
            return self.bury_current().map(|()| false);
        }
        if other {
            return self.other_type(&delivery).map(|()| false).map_err(Failure::from);
        }
        if self.screen.is_usual(delivery.found.header.description()) { Ok(true) } else { self.is_wanted() }
    }

    /// The message in `current` has been handed out as often as is allowed: it becomes a dead letter.
    #[cold]
    fn bury_current(&mut self) -> Result<(), Failure> {
        let delivery = self.current;
        Ok(self.bury_unread(&delivery, WORN_OUT)?)
    }

    #[cold]
    fn other_type(&mut self, delivery: &Delivery) -> Result<(), ReceiveError> {
        match self.other {
            OtherTypes::DeadLetter if self.late.is_some() => {
                let kind = self.type_name(delivery.found.header.kind);
                self.bury_unread(delivery, &format!("a {kind}, which this group does not read"))?;
            }
            _ => self.pass_over(delivery, outcome::SKIPPED)?,
        }
        self.count_skipped();
        if self.other != OtherTypes::Error {
            return Ok(());
        }
        let found = self.type_name(delivery.found.header.kind);
        let reads = self.kinds.own.map_or_else(|| "bytes".into(), |own| self.type_name(own));
        Err(ReceiveError::OtherType {
            topic: self.core.name().to_owned(),
            lane: delivery.lane as u8,
            sequence: delivery.found.sequence,
            found,
            reads,
        })
    }

    fn count_skipped(&self) {
        if let Some(counter) = self.skipped {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A message that is not shown to the program is done, once it is recorded that it was not handled.
    fn pass_over(&mut self, delivery: &Delivery, outcome: u8) -> Result<(), ReceiveError> {
        if matches!(self.membership, Membership::Tap) {
            return Ok(());
        }
        if let Proof::Entry(held) = delivery.proof {
            return self.skip_entry(held, (delivery.lane, delivery.found.sequence), outcome);
        }
        self.record_outcome(delivery, outcome)?;
        if self.batch.is_empty() || !matches!(delivery.proof, Proof::Position) {
            self.acknowledge(&delivery.in_hand());
        } else {
            // A cursor cannot pass it before the messages of the batch that stand before it: it is settled with them.
            self.batch.push(InHand { is_shown: false, ..delivery.in_hand() });
        }
        Ok(())
    }

    /// A message that is not shown to the program becomes a dead letter. Where there is no room for it in a group of one, it stays
    /// the next, and the group stands still for a moment; no cursor passes it.
    fn bury_unread(&mut self, delivery: &Delivery, why: &str) -> Result<(), ReceiveError> {
        let lane = delivery.lane;
        if self.batch.is_empty() || !matches!(delivery.proof, Proof::Position) {
            return match self.put_aside(delivery, Verdict::Dead, why) {
                // Another member took it: its affair.
                Err(ReceiveError::NotOwner(_)) => Ok(()),
                other => {
                    if matches!(delivery.proof, Proof::Position) && self.is_standing() {
                        self.lanes[lane].take_back_hand_out(delivery.found.sequence);
                    }
                    other
                }
            };
        }
        // A cursor cannot pass it before the messages of the batch that stand before it: it is settled with them.
        match self.stage_for_batch(delivery, Verdict::Dead, why) {
            Ok(Some(staged)) => {
                let proof = Proof::Staged(staged);
                self.batch.push(InHand { is_shown: false, proof, ..delivery.in_hand() });
                Ok(())
            }
            refused => {
                self.lanes[lane].seek(delivery.found.sequence);
                self.lanes[lane].take_back_hand_out(delivery.found.sequence);
                self.pause();
                refused.map(|_| ())
            }
        }
    }

    fn type_name(&mut self, kind: u8) -> String {
        if kind == TYPE_BYTES {
            return "bytes".into();
        }
        if usize::from(kind) >= self.kinds.table.len() {
            // It may have been added since this handle was made.
            self.kinds.table = self.core.types().unwrap_or_default();
        }
        self.kinds
            .table
            .get(usize::from(kind))
            .map_or_else(|| format!("type {kind}"), TypeIdentity::to_string)
    }

    /// What every wait ends with: has something happened to this subscriber?
    #[cold]
    fn look_around(&mut self) -> Result<(), ReceiveError> {
        self.check()?;
        self.look_after_store();
        self.observe_claims();
        if let Some(replies) = self.replies.get_mut() {
            replies.drop_gone(&self.bus);
        }
        if let Some(path) = self.bus.unlinked(&self.core).filter(|_| !self.told_unlinked) {
            self.told_unlinked = true;
            return Err(ReceiveError::BusUnlinked { topic: self.core.name().to_owned(), path });
        }
        let joined = match &self.membership {
            Membership::One(seat) | Membership::Yielding(seat) => &seat.joined,
            Membership::Shared(..) => {
                if self.asked.elapsed() >= ASK_PERIOD {
                    self.asked = Instant::now();
                    repair::release_dead_claims(&self.core, self.bus.participants());
                }
                return Ok(());
            }
            Membership::Tap => return Ok(()),
        };
        let now = self.core.group_number(joined.entry, groups::in_entry::STATE);
        if now == joined.word.pack() {
            return Ok(());
        }
        if matches!(self.membership, Membership::Yielding(_)) {
            return self.was_let_go();
        }
        Err(ReceiveError::Fenced { topic: self.core.name().to_owned() })
    }

    /// Was the archive of this message found invalid?
    fn was_invalid(&self, lane: usize, sequence: u64) -> bool {
        self.invalid.get() == Some((lane, sequence))
    }

    fn take_missed(&mut self) -> Option<(Lane, u64, u64)> {
        let Self { missed, lanes, fork, .. } = self;
        missed.iter_mut().zip(lanes).enumerate().find_map(|(index, (run, lane))| {
            let (from, until) = run.take()?;
            if !fork.is_child() {
                lane.finish_told();
            }
            Some((Lane(index as u8), from, until))
        })
    }

    /// A group without a name has been let go: gives the entry back and goes on as a tap.
    fn let_go(&mut self) {
        // What was put aside in a batch in hand counts for nothing any more.
        let mut batch = std::mem::take(&mut self.batch);
        for delivery in &mut batch {
            match delivery.proof {
                Proof::Staged(held) => self.withdraw_staged(held),
                Proof::Entry(held) => _ = self.acknowledge_entry(held),
                _ => continue,
            }
            delivery.proof = Proof::Settled;
        }
        self.batch = batch;
        self.membership = Membership::Tap;
        self.late = None;
        self.skipped = None;
        self.redelivered = None;
        self.lanes.iter_mut().for_each(LaneReader::let_go);
    }

    /// Are so many messages there? Looked for as a reader of single messages does, where that tells: where a lane ends only a line can
    /// tell that its publisher is writing.
    fn is_there(&mut self, min: u64) -> bool {
        let known: u64 = self.lanes.iter().map(LaneReader::known_count).sum();
        match min {
            _ if known >= min => true,
            1 => (0..self.lanes.len()).any(|lane| is_ready(&mut self.lanes, lane)),
            _ => self.lanes.iter_mut().map(LaneReader::ready_count).sum::<u64>() >= min,
        }
    }

    /// Has it messages before it that were handed out before, perhaps to a process that died of one?
    fn is_in_doubt(&self) -> bool {
        self.lanes.iter().any(LaneReader::is_in_doubt)
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Waits until a message is in `current`, which it was not just before, or until `deadline`: false when that has passed, or the wait was
    /// interrupted.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, Failure> {
        loop {
            let is_cut = std::mem::take(&mut self.is_cut) || self.is_interrupted();
            if is_cut || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            self.walk();
            let until = self.wait_until(deadline);
            let is_paused = self.late.is_some() && self.is_paused();
            let Self { lanes, waiter, bus, message_bell, state, late, interrupted, rested_at, keyed, .. } =
                self;
            let beat = beat_of(lanes, rested_at, bus);
            let ready = || {
                keyed.as_ref().is_some_and(|keyed| keyed.has_news(lanes))
                    || !is_paused && lanes.iter().any(|lane| lane.is_filled() || lane.has_releases())
                    || late.as_ref().is_some_and(|late| late.is_due())
                    || interrupted.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
                    || is_closed(state.load(Ordering::Relaxed))
            };
            if !waiter.wait(*message_bell, bus.spin(), until, beat, ready) {
                self.look_around()?;
                self.lanes.iter_mut().for_each(LaneReader::distrust);
            } else if !waiter.was_short() {
                self.lanes.iter_mut().for_each(LaneReader::note_gap);
            }
            if self.poll_new()? {
                return Ok(true);
            }
        }
    }
}

/// What a reader does before it sleeps: if it has received anything since it last slept, that is its process's last beat.
fn beat_of<'a>(lanes: &[LaneReader], rested_at: &'a mut u64, bus: &'a BusInner) -> impl FnOnce() + 'a {
    let position = lanes.iter().fold(0_u64, |sum, lane| sum.wrapping_add(lane.next()));
    move || {
        if std::mem::replace(rested_at, position) != position {
            bus.beat();
        }
    }
}

impl Membership {
    fn entry(&self) -> Option<usize> {
        match self {
            Membership::Tap => None,
            Membership::One(seat) | Membership::Yielding(seat) | Membership::Shared(seat, _) => {
                Some(seat.joined.entry)
            }
        }
    }
}

impl Drop for RawSubscriber {
    fn drop(&mut self) {
        if self.bus.is_forked() {
            return;
        }
        self.give_back_forgotten();
        self.release_kept();
        if let Some(keyed) = &mut self.keyed {
            keyed.leave();
            self.ring_members();
        }
        // The seat in the group is given back here.
        self.membership = Membership::Tap;
        // Room may have been made for those who wait.
        self.ring_space_bell();
    }
}

impl<T: Speak> Subscriber<T> {
    /// The topic's name.
    pub fn topic(&self) -> &str {
        self.raw.core.name()
    }

    /// How many messages were overwritten before this subscriber came to them.
    pub fn missed_count(&self) -> u64 {
        self.raw.missed_count
    }

    /// A run of missed messages that has not been asked for yet: lane, first sequence, and the sequence after the last.
    /// Asked for after every message, the runs add up to [`Subscriber::missed_count`]; asked for less often, runs of one lane
    /// are taken together with what was read between them.
    pub fn take_missed(&mut self) -> Option<(Lane, u64, u64)> {
        self.raw.take_missed()
    }

    /// Messages whose time to live was over before they were handed out here. The group's count of skipped messages has them too, like
    /// those of [`Subscriber::filtered_count`].
    pub fn expired_count(&self) -> u64 {
        self.raw.screen.expired_count
    }

    /// Messages that this subscriber's filters and its sample have left out.
    pub fn filtered_count(&self) -> u64 {
        self.raw.screen.filtered_count
    }

    /// What to do while there is nothing to read.
    pub fn set_wait(&mut self, wait: Wait) {
        self.raw.waiter.mode = wait;
    }

    /// Messages published and not finished by this subscriber's group, in one lane.
    pub fn lag_count(&self, lane: Lane) -> u64 {
        let lane = self.raw.lanes.get(lane.index()).filter(|_| !self.raw.fork.is_child());
        lane.map_or(0, LaneReader::lag_count)
    }

    /// Where the group's reliability began in a lane: everything from there on is kept until it is finished. Messages
    /// before it may have been overwritten; those are counted as missed. Without meaning for a tap.
    pub fn reliable_from(&self, lane: Lane) -> u64 {
        self.raw.lanes.get(lane.index()).map_or(0, LaneReader::reliable_from)
    }

    /// Name of a payload type by the number that messages carry.
    pub fn type_name(&mut self, kind: u8) -> String {
        self.raw.type_name(kind)
    }

    /// Leaves the group. What was received and not acknowledged is given back; a named group keeps its cursor.
    pub fn close(self) {}

    #[inline]
    fn wrap(&mut self) -> Received<'_, T> {
        Received { subscriber: self, settled: false }
    }

    /// The next message, without waiting.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    #[inline]
    pub fn try_receive(&mut self) -> Result<Option<Received<'_, T>>, ReceiveError> {
        if !self.raw.take_next_known() {
            self.raw.settle_before()?;
            if !self.raw.poll_new()? {
                return Ok(None);
            }
        }
        Ok(Some(self.wrap()))
    }

    /// The next message, however long it takes.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    // Always: else the compiler makes a call of the few steps of the common case, depending on what else the program does.
    #[inline(always)]
    pub fn receive(&mut self) -> Result<Received<'_, T>, ReceiveError> {
        loop {
            if self.wait_for(None)? {
                return Ok(self.wrap());
            }
            if self.raw.is_interrupted() {
                return Err(ReceiveError::Interrupted { topic: self.raw.core.name().to_owned() });
            }
        }
    }

    /// The next message, if one comes within `timeout`.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Received<'_, T>>, ReceiveError> {
        let deadline = Instant::now().checked_add(timeout);
        Ok(if self.wait_for(deadline)? { Some(self.wrap()) } else { None })
    }

    /// A batch of up to `max` messages, which are handed out one after the other and acknowledged together. Waits until `min`
    /// have come or `timeout` has passed since the call; returns what there is then, perhaps nothing.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    pub fn receive_batch(
        &mut self,
        min: usize,
        max: usize,
        timeout: Duration,
    ) -> Result<Batch<'_, T>, ReceiveError> {
        self.raw.check()?;
        self.raw.settle_before()?;
        let min = min.clamp(1, max.max(1)) as u64;
        // Asked for when it is needed: while messages stream, a look at the clock is a good part of a batch.
        let mut deadline = None;
        loop {
            self.raw.look_back();
            let is_paused = self.raw.is_paused();
            let is_there = match is_paused {
                true if self.raw.keyed.is_some() => self.raw.ready_keyed(min as usize) as u64 >= min,
                true => false,
                false => self.raw.is_there(min),
            };
            self.raw.stage_kept()?;
            let is_due = self.raw.late.as_ref().is_some_and(|late| late.has_message_due());
            let is_over = is_due || is_there || self.raw.is_interrupted();
            let deadline = match is_over {
                true => None,
                false => *deadline.get_or_insert_with(|| Instant::now().checked_add(timeout)),
            };
            if is_over || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Batch {
                    subscriber: self,
                    left: max,
                    in_doubt: false,
                    looked_on: false,
                    settled: false,
                });
            }
            self.raw.walk();
            let until = self.raw.wait_until(deadline);
            let RawSubscriber {
                lanes,
                waiter,
                bus,
                message_bell,
                state,
                late,
                interrupted,
                rested_at,
                keyed,
                ..
            } = &mut self.raw;
            let beat = beat_of(lanes, rested_at, bus);
            let ready = || {
                keyed.as_ref().is_some_and(|keyed| keyed.has_news(lanes))
                    || !is_paused
                        && match min {
                            1 => lanes.iter().any(LaneReader::is_filled),
                            _ => lanes.iter_mut().map(LaneReader::ready_count).sum::<u64>() >= min,
                        }
                    || keyed.is_none() && lanes.iter().any(LaneReader::has_releases)
                    || late.as_ref().is_some_and(|late| late.is_due())
                    || interrupted.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
                    || is_closed(state.load(Ordering::Relaxed))
            };
            if !waiter.wait(*message_bell, bus.spin(), until, beat, ready) {
                self.raw.look_around()?;
            } else if !waiter.was_short() {
                lanes.iter_mut().for_each(LaneReader::note_gap);
            }
            self.raw.check()?;
        }
    }

    #[inline(always)]
    fn wait_for(&mut self, deadline: Option<Instant>) -> Result<bool, Failure> {
        if self.raw.take_next_known() {
            return Ok(true);
        }
        self.raw.settle_before()?;
        Ok(self.raw.poll_new()? || self.raw.wait(deadline)?)
    }
}

impl Subscriber<Bytes> {
    /// Number of lanes of the topic.
    pub fn lanes(&self) -> usize {
        self.raw.lanes.len()
    }
}
