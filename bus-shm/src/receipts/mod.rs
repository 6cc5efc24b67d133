//! Following publications to what becomes of them in a group: handled, refused, expired, dead, missed.
//!
//! Publishers and members do nothing for it. What has become of a message is read off the group's own state, in an order in which nothing
//! moves past unseen:
//!
//! 1. The group's cursor, or in a shared group the message's owner word: is it finished at all?
//! 2. Its aside store: does it wait there for another attempt, or is it a dead letter? It came there before 1 could say that it is
//!    finished, stays in one entry all the time, and leaves it only handled, or with a record.
//! 3. The records of what was finished without being handled ([`bus_core::outcome`]), each stored before the message was settled, or its
//!    dead letter went.
//! 4. The group's entry once more: a cursor that a joining member puts in place has handled nothing.
//!
//! What is in none of them was handled. Read the other way round, a message could be put aside, or purged, between the two looks.
#![allow(unsafe_code)]

mod outcome;
mod set;

pub use outcome::{Failed, Outcome, ReceiptError};
pub use set::ReceiptSet;

use crate::aside::AsideFile;
use crate::bus::BusInner;
use crate::dead_letters;
use crate::error::RegionError;
use crate::group::{display_name, owners_of};
use crate::outcomes::{OutcomesFile, is_of_former};
use crate::region::{Access, Region};
use crate::repair;
use crate::topic::TopicCore;
use crate::wait::{self, Wait, Waiter};
use bus_core::aside::{Held, Table};
use bus_core::holder::HolderWord;
use bus_core::lane::Lane;
use bus_core::layout::aside::{self, word};
use bus_core::layout::groups::{in_entry, in_lane, kind, state};
use bus_core::layout::outcomes::mark;
use bus_core::layout::wake::state::is_closed;
use bus_core::layout::{owners, wake};
use bus_core::limits::PARTICIPANTS_MAX;
use bus_core::outcome::{EXPIRED, FINAL, GONE, MISSED, SKIPPED, Said};
use bus_core::owner;
use bus_core::seq::distance;
use bus_core::sync::{AtomicU64, Ordering, fence, spin_pause};
use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Looks at a message whose group changes hands meanwhile.
const LOOKS_MAX: usize = 8;
/// Looks before a waiter does anything that takes longer.
const QUICK_LOOKS: u32 = 128;
/// A waiter looks round this often: a member may die between its last step and its ring, and a retry rings for others.
const ROUND: Duration = Duration::from_millis(50);

/// Follows publications of one topic to what becomes of them in one group. Costs the group and the publishers nothing: open it once, and
/// ask about as many messages as you like.
///
/// ```rust,ignore
/// let receipts = topic.receipts("billing")?;
/// let sequence = publisher.publish(&order)?;
/// match receipts.receipt(Lane::NORMAL, sequence).wait(Duration::from_secs(2))? {
///     Outcome::Handled => {}
///     other => eprintln!("order {sequence}: {}", other.name()),
/// }
/// ```
pub struct Receipts {
    entry: usize,
    group: String,
    /// Of a group without a name: which one of those that have had the entry.
    tag: Option<u32>,
    state: &'static AtomicU64,
    kind: &'static AtomicU64,
    lanes: Vec<LaneWords>,
    outcomes: OutcomesFile,
    aside: OnceCell<AsideFile>,
    owners: OnceCell<Region>,
    gives_up: bool,
    /// That the files are gone is said once.
    told_unlinked: Cell<bool>,
    bus: Arc<BusInner>,
    /// Owns every `'static` reference above; dropped after them.
    core: Arc<TopicCore>,
}

#[derive(Clone, Copy)]
struct LaneWords {
    low_water: &'static AtomicU64,
    start: &'static AtomicU64,
    missed: &'static AtomicU64,
    stood: &'static AtomicU64,
}

impl std::fmt::Debug for Receipts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipts")
            .field("topic", &self.core.name())
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// Groups of a topic that hold its messages, or have held them: by entry.
fn groups(core: &TopicCore) -> impl Iterator<Item = (usize, HolderWord)> + use<'_> {
    (0..core.groups_used()).filter_map(|entry| {
        let word = HolderWord::unpack(core.group_number(entry, in_entry::STATE));
        (word.state != state::FREE).then_some((entry, word))
    })
}

/// Is it clear where the group stands, and that it is this one?
fn is_settled(word: HolderWord) -> bool {
    !state::is_joining(word.state) && !state::is_starting(word.state)
}

impl Receipts {
    pub(crate) fn open(
        bus: &Arc<BusInner>,
        core: &Arc<TopicCore>,
        group: &str,
    ) -> Result<Self, ReceiptError> {
        let topic = || core.name().to_owned();
        if bus.is_forked() {
            return Err(ReceiptError::UsedAfterFork { topic: topic() });
        }
        if core.config().overflow == bus_core::layout::ring::overflow::NEWEST {
            return Err(ReceiptError::KeepsNewest { topic: topic() });
        }
        // A group with a name is itself whatever happens to its entry.
        let is_certain = |word| !group.starts_with('~') || is_settled(word);
        for _ in 0..LOOKS_MAX {
            let found = groups(core).find(|&(entry, _)| display_name(core, entry) == group);
            let Some((entry, word)) = found else { break };
            if !is_certain(word) {
                std::thread::yield_now();
                continue;
            }
            let this = Self::of_entry(bus, core, entry, word)?;
            // Whoever joins removes what a group without a name has left in the entry, and that is what may have been opened.
            let after = HolderWord::unpack(core.group_number(entry, in_entry::STATE));
            if is_certain(after) && (this.tag.is_none() || after.tag == word.tag) {
                return Ok(this);
            }
        }
        let groups: Vec<_> = groups(core).map(|(entry, _)| display_name(core, entry)).collect();
        Err(ReceiptError::NoGroup { topic: topic(), group: group.into(), groups: groups.join(", ") })
    }

    fn of_entry(
        bus: &Arc<BusInner>,
        core: &Arc<TopicCore>,
        entry: usize,
        word: HolderWord,
    ) -> Result<Self, ReceiptError> {
        // A death while the file is made is swept like any other.
        bus.note_topic(core.name())?;
        let held = |offset| core.held_group_word(bus_core::layout::groups::entry(entry) + offset);
        let of_lane = |lane| {
            let at = bus_core::layout::groups::lane(entry, lane);
            Ok(LaneWords {
                low_water: core.held_group_word(at + in_lane::LOW_WATER)?,
                start: core.held_group_word(at + in_lane::START)?,
                missed: core.held_group_word(at + in_lane::MISSED)?,
                stood: core.held_group_word(at + in_lane::STOOD)?,
            })
        };
        let is_ephemeral = core.group_number(entry, in_entry::KEY) == bus_core::layout::groups::KEY_EPHEMERAL;
        Ok(Self {
            entry,
            group: display_name(core, entry),
            tag: is_ephemeral.then_some(word.tag),
            state: held(in_entry::STATE)?,
            kind: held(in_entry::KIND)?,
            lanes: (0..core.lanes()).map(of_lane).collect::<Result<_, RegionError>>()?,
            outcomes: OutcomesFile::make(core, entry, bus.me())?,
            aside: OnceCell::new(),
            owners: OnceCell::new(),
            gives_up: false,
            told_unlinked: Cell::new(false),
            bus: bus.clone(),
            core: core.clone(),
        })
    }

    /// Waits end with [`ReceiptError::Unattended`] as soon as it is known that nobody reads for the group. Default: they go on, since
    /// somebody may join.
    #[must_use]
    pub fn give_up_when_unattended(mut self, gives_up: bool) -> Self {
        self.gives_up = gives_up;
        self
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.core.name()
    }

    /// The receipt of one message.
    pub fn receipt(&self, lane: Lane, sequence: u64) -> Receipt<'_> {
        Receipt { receipts: self, lane, sequence }
    }

    /// What has become of a message by now. Waits for nobody.
    pub fn look(&self, lane: Lane, sequence: u64) -> Outcome {
        if self.bus.is_forked() || lane.index() >= self.lanes.len() {
            return Outcome::Unknown;
        }
        for _ in 0..LOOKS_MAX {
            // Acquire: START belongs to it.
            let before = HolderWord::unpack(self.state.load(Ordering::Acquire));
            if !self.is_there(before) {
                return Outcome::LetGo;
            }
            if !is_settled(before) {
                // Where it begins is being settled.
                std::thread::yield_now();
                continue;
            }
            let Some(outcome) = self.judge(before, lane.index(), sequence) else { continue };
            // FOLLOW: the looks come before this one; pairs with the fence before a joining member's cursors.
            fence(Ordering::Acquire);
            let after = HolderWord::unpack(self.state.load(Ordering::Relaxed));
            if after.tag == before.tag && is_settled(after) {
                return outcome;
            }
        }
        // It changes hands again and again: for the next look.
        Outcome::Pending
    }

    /// Is it the group that was asked for, and has it begun?
    fn is_there(&self, word: HolderWord) -> bool {
        word.state != state::FREE && self.tag.is_none_or(|tag| tag == word.tag)
    }

    /// Has the group finished it, whatever became of it? As quick as a look at a word can be.
    #[inline]
    fn is_past(&self, lane: usize, sequence: u64) -> bool {
        let words = self.lanes[lane];
        // Acquire: with it comes what was recorded, and put aside, before.
        distance(words.low_water.load(Ordering::Acquire), sequence) > 0
            || self.is_shared() && self.owner_state(lane, sequence).0 == owner::state::DONE
    }

    #[inline]
    fn is_shared(&self) -> bool {
        // Relaxed: it changes with the group's state, which is looked at again.
        self.kind.load(Ordering::Relaxed) & kind::SHARED != 0
    }

    /// State and attempts of the owner word of a message of a shared group; FREE where it is of another message.
    fn owner_state(&self, lane: usize, sequence: u64) -> (u8, u8) {
        let region = match self.owners.get() {
            Some(region) => region,
            None => match self.core.attach_owners(self.entry) {
                Ok(region) => self.owners.get_or_init(|| region),
                Err(_) => return (owner::state::FREE, 0),
            },
        };
        match owners_of(&self.core, region, lane) {
            Some(owners) => {
                let seen = owners.look(sequence);
                (seen.state, seen.attempts)
            }
            None => (owner::state::FREE, 0),
        }
    }

    /// Does the owner word of a message say that nobody has finished it? Not where it is in use again: what it said is gone then, and a member
    /// may have finished the message out of its turn.
    fn is_unfinished(&self, lane: usize, sequence: u64) -> bool {
        let is_done = self.owner_state(lane, sequence).0 == owner::state::DONE;
        let region = self.owners.get();
        let owners = region.and_then(|region| owners_of(&self.core, region, lane));
        !is_done && owners.is_some_and(|owners| !owners.is_reused(sequence))
    }

    /// What has become of it, if the group's entry is the same before and afterwards. `None`: something changed under the look.
    fn judge(&self, seen: HolderWord, lane: usize, sequence: u64) -> Option<Outcome> {
        let words = self.lanes[lane];
        let is_shared = self.is_shared();
        if seen.state == state::ASTRAY {
            // It stands where that is saved, not where its cursors are: a member that joined has ended half-way.
            let is_beyond = distance(sequence, words.stood.load(Ordering::Relaxed)) >= 0;
            return if is_beyond {
                Some(Outcome::LetGo)
            } else {
                self.settled(lane, sequence, is_shared, Outcome::Unknown)
            };
        }
        let low_water = words.low_water.load(Ordering::Acquire);
        let start = words.start.load(Ordering::Relaxed);
        let not_yet = match seen.state {
            state::ACTIVE | state::HELD => Outcome::Pending,
            _ => Outcome::LetGo,
        };
        if distance(sequence, start) < 0 {
            return self.judge_before_start((lane, sequence), (low_water, start), is_shared, not_yet);
        }
        let is_passed = distance(low_water, sequence) > 0;
        if !is_passed && (!is_shared || self.owner_state(lane, sequence).0 != owner::state::DONE) {
            return Some(not_yet);
        }
        self.settled(lane, sequence, is_shared, Outcome::Handled)
    }

    /// Of a message before the group's reliable start nobody can say that it was handled, only what else became of it.
    fn judge_before_start(
        &self,
        (lane, sequence): (usize, u64),
        (low_water, start): (u64, u64),
        is_shared: bool,
        not_yet: Outcome,
    ) -> Option<Outcome> {
        let words = self.lanes[lane];
        if is_shared {
            // Members of a shared group begin at the start. Where the group stood before is what it had finished.
            let stood = words.stood.load(Ordering::Relaxed);
            let is_left_out = distance(sequence, stood) >= 0 && self.is_unfinished(lane, sequence);
            let rest = if is_left_out { Outcome::Missed } else { Outcome::Unknown };
            return self.settled(lane, sequence, true, rest);
        }
        // Acquire, OUTCOME: with it comes what was recorded before.
        let missed = words.missed.load(Ordering::Acquire);
        let finished = if low_water == start { start.saturating_sub(missed) } else { low_water };
        if distance(finished, sequence) <= 0 {
            return Some(not_yet);
        }
        self.settled(lane, sequence, false, Outcome::Unknown)
    }

    /// A message that was seen to be finished: how? `rest` if nothing says otherwise.
    fn settled(&self, lane: usize, sequence: u64, is_shared: bool, rest: Outcome) -> Option<Outcome> {
        let marks = self.outcomes.marks();
        if marks == 0 {
            return Some(rest);
        }
        if marks & mark::ASIDE != 0 {
            let aside = self.look_aside(lane, sequence, is_shared)?;
            if aside.is_some() {
                return aside;
            }
        }
        let said = self.outcomes.records(lane).map_or(Said::Nothing, |records| records.look(sequence));
        Some(match said {
            Said::Is { outcome: GONE, .. } => Outcome::DeadLettered(None),
            Said::Is { outcome: MISSED, .. } => Outcome::Missed,
            Said::Is { outcome, attempts } => {
                match (outcome & !FINAL, self.is_record_of((lane, sequence), (outcome, attempts), is_shared))
                {
                    // The word of its owner is in use again.
                    (_, None) => Outcome::Unknown,
                    // It was stored by one who had lost the message to another.
                    (_, Some(false)) => rest,
                    (EXPIRED, _) => Outcome::Expired,
                    (SKIPPED, _) => Outcome::Skipped,
                    // No bytes that anybody has stored.
                    _ => Outcome::Unknown,
                }
            }
            Said::Later => Outcome::Unknown,
            Said::Nothing if marks & mark::LOST != 0 && self.outcomes.is_lost(lane, sequence) => {
                Outcome::Unknown
            }
            Said::Nothing => rest,
        })
    }

    /// Is a record by the claim that settled the message? `None`: nobody can tell any more.
    fn is_record_of(
        &self,
        (lane, sequence): (usize, u64),
        (outcome, attempts): (u8, u8),
        is_shared: bool,
    ) -> Option<bool> {
        if !is_shared || outcome & FINAL != 0 {
            return Some(true);
        }
        let (state, by) = self.owner_state(lane, sequence);
        (state == owner::state::DONE).then_some(by == attempts)
    }

    /// A finished message in the group's store. Outer `None`: what is there changes too fast, or cannot be read.
    #[allow(clippy::option_option)]
    fn look_aside(&self, lane: usize, sequence: u64, is_shared: bool) -> Option<Option<Outcome>> {
        let file = match self.aside.get() {
            Some(file) => file,
            None => {
                match AsideFile::attach(self.core.dir(), self.entry, self.core.epoch(), Access::Read) {
                    Ok(Some(file)) => self.aside.get_or_init(|| file),
                    // Members still have what has lost its name.
                    Ok(None) if self.core.is_unlinked() => return Some(Some(Outcome::Unknown)),
                    // The mark comes first. Nothing of the group that has been finished is there then.
                    Ok(None) => return Some(None),
                    Err(_) => return Some(Some(Outcome::Unknown)),
                }
            }
        };
        let Some(store) = file.store(&self.core, self.entry) else { return Some(None) };
        for index in 0..store.len() {
            let is_of_another = file.entry(index).is_none_or(|words| {
                // Relaxed: after the cursor, which came after them. What is stored anew is another message's.
                words[word::SEQUENCE].load(Ordering::Relaxed) != sequence
            });
            if is_of_another {
                continue;
            }
            let (word, contents) = store.read(index)?;
            if (usize::from(contents.lane), contents.sequence) != (lane, sequence) {
                continue;
            }
            if is_of_former(&self.core, self.entry, &contents) {
                // Two times of a clock that may have been set back: no proof that it is another group's.
                return Some(Some(Outcome::Unknown));
            }
            let is_dead = match word.state {
                // Of a shared group's message that is finished a staged entry is one that another member prepared in vain.
                aside::state::STAGED if !is_shared => contents.dead,
                aside::state::FREE | aside::state::FILLING | aside::state::STAGED => continue,
                other => aside::state::is_dead(other),
            };
            let note = file.read_note(index);
            if !store.is_mine(Held { index, word }) {
                return None;
            }
            let letter = is_dead.then(|| dead_letters::id(&self.core, self.entry, index, word));
            let failed = Failed {
                error: note.error,
                attempts: word.attempts,
                service: note.service,
                handler: note.handler,
                letter,
            };
            return Some(Some(match is_dead {
                true => Outcome::DeadLettered(Some(failed)),
                false => Outcome::Retrying(failed),
            }));
        }
        Some(None)
    }

    /// Does anybody read for the group at this moment?
    pub fn is_attended(&self) -> bool {
        if self.bus.is_forked() {
            return false;
        }
        let seen = HolderWord::unpack(self.state.load(Ordering::Acquire));
        let participants = self.bus.participants();
        if !self.is_shared() {
            return match seen.state {
                state::HELD => false,
                state::ACTIVE | state::EVICTED => !participants.is_dead(seen.holder),
                _ => true,
            };
        }
        let Ok(region) = self.core.attach_owners(self.entry) else { return true };
        let Some(words) = region.look_words(owners::MEMBERS, owners::MEMBER_WORDS) else { return true };
        seen.state != state::HELD
            || (0..PARTICIPANTS_MAX as u16).any(|participant| {
                let word = words[owners::member(participant).0].load(Ordering::Relaxed);
                owners::member_count(word, participant) != 0 && !participants.is_vacant(participant)
            })
    }

    fn check(&self, lane: Lane, sequence: u64) -> Result<(), ReceiptError> {
        let topic = || self.core.name().to_owned();
        if self.bus.is_forked() {
            return Err(ReceiptError::UsedAfterFork { topic: topic() });
        }
        if lane.index() >= self.lanes.len() {
            return Err(ReceiptError::Lane { topic: topic(), lane: lane.0, lanes: self.lanes.len() });
        }
        if self.is_closed() {
            return Err(ReceiptError::BusClosed { topic: topic() });
        }
        if let Some(path) = self.bus.unlinked(&self.core).filter(|_| !self.told_unlinked.replace(true)) {
            return Err(ReceiptError::BusUnlinked { topic: topic(), path });
        }
        if self.gives_up && !self.is_attended() {
            let group = self.group.clone();
            return Err(ReceiptError::Unattended { topic: topic(), group, lane: lane.0, sequence });
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.core.wake_half(wake::at::STATE).is_none_or(|word| is_closed(word.load(Ordering::Relaxed)))
    }

    /// Looks for about as long as a message takes to be handled next door. What it costs is a load and a pause.
    #[inline]
    fn look_often(&self, is_over: impl Fn() -> bool) -> bool {
        (0..QUICK_LOOKS).any(|_| {
            let found = is_over();
            if !found {
                spin_pause();
            }
            found
        })
    }

    /// Spins and then sleeps until `is_over`, for at most a round. `is_quick` is a look for spinning, if there is one.
    fn sleep(
        &self,
        deadline: Option<Instant>,
        is_quick: Option<&dyn Fn() -> bool>,
        is_over: impl Fn() -> bool,
    ) {
        let until = Instant::now() + ROUND;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        if let Some(is_quick) = is_quick {
            let mut waiter = Waiter::new(Wait::Adaptive, self.bus.barrier(), self.bus.me().participant);
            if waiter.spin(self.bus.spin(), Some(until), || is_quick() || self.is_closed()) {
                return;
            }
        }
        let most = until.saturating_duration_since(Instant::now());
        // Rung by whatever the group finishes, as for publishers that wait for room.
        wait::park(self.core.space_bell(), self.bus.barrier(), most, || is_over() || self.is_closed());
    }

    fn wait(&self, lane: Lane, sequence: u64, timeout: Duration) -> Result<Outcome, ReceiptError> {
        if lane.index() >= self.lanes.len() || self.bus.is_forked() {
            self.check(lane, sequence)?;
        }
        let is_past = || self.is_past(lane.index(), sequence);
        let mut outcome = self.look(lane, sequence);
        if outcome == Outcome::Pending && !timeout.is_zero() && self.look_often(is_past) {
            outcome = self.look(lane, sequence);
        }
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if outcome.is_settled() {
                return Ok(outcome);
            }
            if let Err(error) = self.check(lane, sequence) {
                // It may have been handled just before.
                let last = self.look(lane, sequence);
                return if last.is_settled() { Ok(last) } else { Err(error) };
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(outcome);
            }
            // What has left the ring and waits in the store takes more than a quick look.
            let is_quick: Option<&dyn Fn() -> bool> = if is_past() { None } else { Some(&is_past) };
            self.sleep(deadline, is_quick, || self.look(lane, sequence).is_settled());
            // Where no supervisor does it, and no publisher waits for room.
            if !is_past() {
                repair::release_dead_groups(&self.core, self.bus.participants());
            }
            outcome = self.look(lane, sequence);
        }
    }

    /// Waits until the group has finished everything in a lane up to `last`, for at most `timeout`: for a batch. True if it has; what became of
    /// each, [`Receipts::look`] tells. A message that failed and waits for another attempt does not hold the others up.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn wait_past(&self, lane: Lane, last: u64, timeout: Duration) -> Result<bool, ReceiptError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.check(lane, last)?;
            let is_past = || {
                let low_water = self.lanes[lane.index()].low_water.load(Ordering::Acquire);
                let seen = HolderWord::unpack(self.state.load(Ordering::Acquire));
                distance(low_water, last) > 0 || !state::holds_gate(seen.state)
            };
            // A cursor may stand where the group began, with a backlog before it that it has yet to read.
            let is_over = || is_past() && self.look(lane, last) != Outcome::Pending;
            if is_over() {
                return Ok(self.look(lane, last) != Outcome::LetGo);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            let is_quick: Option<&dyn Fn() -> bool> = if is_past() { None } else { Some(&is_past) };
            self.sleep(deadline, is_quick, is_over);
            repair::release_dead_groups(&self.core, self.bus.participants());
        }
    }
}

/// The receipt of one message: see [`Receipts::receipt`].
#[derive(Clone, Copy, Debug)]
pub struct Receipt<'r> {
    receipts: &'r Receipts,
    lane: Lane,
    sequence: u64,
}

impl Receipt<'_> {
    /// What has become of it by now.
    pub fn look(&self) -> Outcome {
        self.receipts.look(self.lane, self.sequence)
    }

    /// Waits until it is settled, for at most `timeout`: [`Outcome::Pending`] or [`Outcome::Retrying`] after that.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn wait(&self, timeout: Duration) -> Result<Outcome, ReceiptError> {
        self.receipts.wait(self.lane, self.sequence, timeout)
    }
}
