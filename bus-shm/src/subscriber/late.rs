//! Messages that failed: put aside to be handed out again later, or as dead letters, and what comes back from there.
//!
//! The ring goes on meanwhile. [`bus_core::aside`] has the states; here stands who does what when.
#![allow(unsafe_code)]

use super::{Delivery, Membership, Proof, RawSubscriber};
use crate::aside::{AsideFile, Note};
use crate::dead_letters::{Announcer, Full as DeadFull};
use crate::error::{AttachError, NotOwner, ReceiveError};
use crate::finding::Finding;
use crate::group;
use crate::listeners::wake_readers;
use crate::observe::{Observer, Place};
use crate::outcomes::OutcomesFile;
use crate::subscriber::Failure;
use crate::sys::clock::{Clock, monotonic_ns, realtime_ns};
use crate::topic::TopicCore;
use bus_core::aside::{AsideClaim, Contents, Held, Store, due_ns};
use bus_core::header::{Header, flags};
use bus_core::holder::Holder;
use bus_core::layout::aside::state;
use bus_core::layout::groups::{in_entry, in_lane, kind};
use bus_core::layout::outcomes::mark;
use bus_core::outcome;
use bus_core::owner::{OwnerWord, Owners};
use bus_core::retry::{Backoff, SplitMix64};
use bus_core::sync::{AtomicU64, Ordering};
use std::cell::OnceCell;
use std::time::{Duration, Instant};

/// What a subscriber does with messages that fail.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) attempts_max: u8,
    pub(super) backoff: Backoff,
    pub(super) handler: String,
    pub(super) dead_full: DeadFull,
    /// Entries that the group's store may have, if this subscriber makes it.
    pub(super) bound: usize,
}

/// What a handler says of a message that it could not handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Again, after this long, or after what the back-off says.
    Retry(Option<Duration>),
    /// Never again.
    Dead,
}

/// A message of a shared group that found no room in the store: this member keeps its claim, and tries again.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) delivery: Delivery,
    dead: bool,
    not_before_ns: u64,
    error: String,
    /// Extension and payload, where the delivery points to a copy that the next message will overwrite.
    payload: Option<Box<[u8]>>,
}

/// A group's aside store, as one of its members sees it.
pub(super) struct Late {
    pub(super) entry: usize,
    /// When the earliest entry is due, 0 for none.
    due: &'static AtomicU64,
    file: OnceCell<AsideFile>,
    /// What the group finished without handling.
    outcomes: OnceCell<OutcomesFile>,
    pub(super) me: Holder,
    service: String,
    pub(super) settings: Settings,
    random: SplitMix64,
    /// Where the search for a free entry goes on, and that for one that is due.
    free_hint: usize,
    due_cursor: usize,
    copy: Vec<u128>,
    pub(super) kept: Vec<Kept>,
    /// A group of one member whose store is full stands still until then.
    paused_until_ns: u64,
    /// When the entries were last counted.
    counted: Instant,
    announcer: Announcer,
    /// When room for what is kept is looked for again.
    stage_at_ns: u64,
    pub(super) observer: Observer,
    /// Where claims may be taken back: a busy member asks it every few messages whether it is time to look.
    clock: Option<Clock>,
    /// When it looks again, and when the first claim that it has seen expires.
    pub(super) observe_at_ns: u64,
    pub(super) expires_at_ns: Option<u64>,
    /// Of a member of a keyed group: it does everything by itself, and this is when.
    is_keyed: bool,
    pub(super) keyed_at_ns: Option<u64>,
    /// And when the first of its messages in the store is due.
    pub(super) keyed_due_ns: Option<u64>,
}

/// How often an idle member counts the entries, for what a death has left wrong.
const COUNT_PERIOD: Duration = Duration::from_secs(1);
/// A member that waits looks at the others' claims this often within their time ...
const LOOKS_PER_ACK_WAIT: u64 = 8;
/// ... and at most, and at least this often.
const OBSERVE_PERIOD_NS: std::ops::RangeInclusive<u64> = 5_000_000..=500_000_000;
/// A message that found no room is tried again this often.
const FULL_PAUSE_NS: u64 = 20_000_000;
/// A group of one whose store is full stands still for at most so long, however late the message was to come again.
const STANDSTILL_NS_MAX: u64 = 1_000_000_000;

impl Late {
    pub(super) fn new(
        core: &TopicCore,
        (entry, me, service): (usize, Holder, &str),
        settings: Settings,
        (announcer, ack_wait_ms): (Announcer, u32),
        clock: impl FnOnce() -> Clock,
    ) -> Result<Self, crate::error::RegionError> {
        let at = bus_core::layout::groups::lane(entry, 0);
        Ok(Self {
            entry,
            due: core.held_group_word(at + in_lane::ASIDE_DUE)?,
            file: OnceCell::new(),
            outcomes: OnceCell::new(),
            me,
            service: service.to_owned(),
            settings,
            random: SplitMix64::new(monotonic_ns() ^ u64::from(me.participant) << 48),
            free_hint: 0,
            due_cursor: 0,
            copy: Vec::new(),
            kept: Vec::new(),
            paused_until_ns: 0,
            counted: Instant::now(),
            announcer,
            observer: Observer::new(u64::from(ack_wait_ms) * 1_000_000),
            clock: (ack_wait_ms != 0).then(clock),
            stage_at_ns: 0,
            observe_at_ns: 0,
            expires_at_ns: None,
            is_keyed: false,
            keyed_at_ns: None,
            keyed_due_ns: None,
        })
    }

    /// Its member is one of a keyed group: whenever there is no run to take, there is work here.
    pub(super) fn be_keyed(&mut self) {
        self.is_keyed = true;
        self.paused_until_ns = u64::MAX;
    }

    pub(super) fn attempts_max(&self) -> u8 {
        self.settings.attempts_max
    }

    /// The group's store, if it has one.
    fn try_file(&self, core: &TopicCore) -> Result<Option<&AsideFile>, crate::error::RegionError> {
        if let Some(file) = self.file.get() {
            return Ok(Some(file));
        }
        let access = crate::region::Access::Write;
        let file = AsideFile::attach(core.dir(), self.entry, core.epoch(), access)?;
        Ok(file.map(|file| self.file.get_or_init(|| file)))
    }

    /// The same, where it makes no difference whether there is none or it cannot be had.
    fn file(&self, core: &TopicCore) -> Option<&AsideFile> {
        self.try_file(core).ok().flatten()
    }

    /// The group's records, if it has any.
    pub(super) fn outcomes(&self, core: &TopicCore) -> Option<&OutcomesFile> {
        if let Some(file) = self.outcomes.get() {
            return Some(file);
        }
        let file = OutcomesFile::attach(core, self.entry, crate::region::Access::Write).ok()??;
        Some(self.outcomes.get_or_init(|| file))
    }

    /// The same, made if there are none.
    pub(super) fn make_outcomes(&self, core: &TopicCore) -> Result<&OutcomesFile, crate::error::RegionError> {
        if self.outcomes.get().is_none() {
            let _ = self.outcomes.set(OutcomesFile::make(core, self.entry, self.me)?);
        }
        Ok(self.outcomes.get_or_init(|| unreachable!("it was set above")))
    }

    /// Makes the group's store if it has none. Who follows the group learns of it before anything is in it.
    fn make_file(&self, core: &TopicCore) -> Result<(), crate::error::RegionError> {
        self.make_outcomes(core)?.set_mark(mark::ASIDE);
        if self.file(core).is_none() {
            let _ = self.file.set(AsideFile::make(core, (self.entry, self.me), self.settings.bound)?);
        }
        Ok(())
    }

    pub(super) fn store<'a>(&'a self, core: &'a TopicCore) -> Option<(&'a AsideFile, Store<'a, AsideFile>)> {
        self.try_store(core).ok().flatten()
    }

    /// The same, where it matters that there may be one that cannot be had at the moment.
    pub(super) fn try_store<'a>(
        &'a self,
        core: &'a TopicCore,
    ) -> Result<Option<(&'a AsideFile, Store<'a, AsideFile>)>, crate::error::RegionError> {
        Ok(self.try_file(core)?.map(|file| (file, Store::attach(file, self.due))))
    }

    /// Makes the entry valid that a parked owner word names: the step of a walk that nobody may wait for.
    pub(super) fn finish(
        &self,
        core: &TopicCore,
        owners: &Owners<'_>,
        lane: usize,
        sequence: u64,
        parked: OwnerWord,
    ) -> bool {
        self.store(core).is_some_and(|(_, store)| store.finish_parked(owners, lane as u8, sequence, parked))
    }

    /// Is there anything to do here? As quick as a look at nothing can be.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        // Relaxed: a hint.
        self.due.load(Ordering::Relaxed) != 0 || !self.kept.is_empty() || self.paused_until_ns != 0
    }

    /// The next moment at which something is to be done.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let expires = self.expires_at_ns.map(|at_ns| at_ns.max(self.observe_at_ns));
        [expires, self.next_message_ns()].into_iter().flatten().min()
    }

    fn next_message_ns(&self) -> Option<u64> {
        let kept = (!self.kept.is_empty()).then_some(self.stage_at_ns);
        if self.is_keyed {
            return [self.keyed_at_ns, kept].into_iter().flatten().min();
        }
        let paused = Some(self.paused_until_ns).filter(|&until| until != 0);
        [due_ns(self.due), paused, kept].into_iter().flatten().min()
    }

    /// Is there a message whose time has come?
    pub(super) fn has_message_due(&self) -> bool {
        let at_ns = if self.is_keyed { self.keyed_due_ns } else { due_ns(self.due) };
        at_ns.is_some_and(|at_ns| at_ns <= monotonic_ns())
    }

    /// Has that moment come?
    pub(super) fn is_due(&self) -> bool {
        self.has_work() && self.next_message_ns().is_some_and(|at_ns| at_ns <= monotonic_ns())
    }

    fn delay_ns(&mut self, verdict: Verdict, attempts: u8) -> u64 {
        match verdict {
            Verdict::Retry(Some(delay)) => delay.as_nanos().min(u128::from(u64::MAX / 2)) as u64,
            _ => self.settings.backoff.delay_ns(attempts, &mut self.random).min(u64::MAX / 2),
        }
    }

    /// A dead letter makes room for another: it is remembered that it was one.
    fn note_gone(&self, core: &TopicCore, gone: &Contents) {
        if let Ok(outcomes) = self.make_outcomes(core) {
            outcomes.note_gone(core, self.entry, gone);
        }
    }

    fn note(&self, error: &str) -> Note {
        Note {
            service: self.service.clone(),
            handler: self.settings.handler.clone(),
            error: error.to_owned(),
        }
    }

    /// Copies a message into the store and stages it. `None`: there is no room.
    fn put(&mut self, core: &TopicCore, kept: &Kept) -> Result<Option<Held>, crate::error::RegionError> {
        self.make_file(core)?;
        let found = &kept.delivery.found;
        let now_ns = realtime_ns();
        let contents = Contents {
            sequence: found.sequence,
            lane: kept.delivery.lane as u8,
            header_flags: found.header.flags & !flags::ARENA,
            kind: found.header.kind,
            dead: kept.dead,
            len_bytes: found.header.len_bytes,
            not_before_ns: kept.not_before_ns,
            first_ns: now_ns,
            last_ns: now_ns,
            stamp_ns: found.header.stamp_ns,
            key: found.header.reference,
        };
        let note = self.note(&kept.error);
        let payload = match &kept.payload {
            Some(payload) => payload,
            None => kept.delivery.found.body(),
        };
        let mut hint = self.free_hint;
        let Some((file, store)) = self.store(core) else { return Ok(None) };
        let who = (self.me, found.times);
        let mut put = file.put(store, who, (&contents, &note), payload, &mut hint);
        if put.is_none()
            && kept.dead
            && self.settings.dead_full == DeadFull::DropOldest
            && file.drop_oldest_dead(store, self.me, |gone| self.note_gone(core, gone))
        {
            put = file.put(store, who, (&contents, &note), payload, &mut hint);
        }
        self.free_hint = hint;
        Ok(put)
    }
}

impl RawSubscriber {
    /// A message in hand failed. Afterwards it is no longer the caller's, whatever is returned.
    pub(super) fn put_aside(
        &mut self,
        delivery: &Delivery,
        verdict: Verdict,
        error: &str,
    ) -> Result<(), ReceiveError> {
        if let Some(keyed) = &mut self.keyed {
            keyed.note_put_aside(delivery, error != super::WORN_OUT);
        }
        let Some(late) = &mut self.late else { return Ok(()) };
        let times = delivery.found.times;
        let dead = verdict == Verdict::Dead || times >= late.settings.attempts_max;
        let not_before_ns = monotonic_ns() + late.delay_ns(verdict, times);
        if let Proof::Entry(held) = delivery.proof {
            return self.amend(held, dead, not_before_ns, error, delivery);
        }
        if bus_core::is_broken("cursor_before_stage") && matches!(delivery.proof, Proof::Position) {
            self.lanes[delivery.lane].acknowledge(delivery.found.sequence);
        }
        let kept = Kept { delivery: *delivery, dead, not_before_ns, error: error.to_owned(), payload: None };
        match late.put(&self.core, &kept) {
            Ok(Some(staged)) => self.commit(&kept, staged),
            Ok(None) => {
                self.keep(kept);
                Ok(())
            }
            Err(error) => {
                self.keep(kept);
                Err(error.into())
            }
        }
    }

    /// The message leaves the ring: from here on its entry counts.
    fn commit(&mut self, kept: &Kept, staged: Held) -> Result<(), ReceiveError> {
        let Self { late: Some(late), core, lanes, membership, keyed, .. } = self else { return Ok(()) };
        let Kept { delivery, dead, not_before_ns, .. } = kept;
        let lane = delivery.lane;
        let Some((file, store)) = late.store(core) else { return Ok(()) };
        match (delivery.proof, &*membership) {
            (Proof::Claim(claim), Membership::Shared(_, owners)) => {
                let (owners, sequence, claim) = (&owners[lane], delivery.found.sequence, claim.unpack());
                if !owners.park(sequence, claim, staged.parked_entry()) {
                    file.withdraw(store, staged);
                    return Err(self.not_owner(delivery).into());
                }
                store.finish(staged);
                owners.finish_parked(sequence, claim.parked(staged.parked_entry()));
                lanes[lane].walk(owners, |s, seen| late.finish(core, owners, lane, s, seen));
                if let Some(keyed) = keyed {
                    keyed.note_stored(delivery, staged.index, (!dead).then_some(*not_before_ns));
                }
            }
            _ => {
                lanes[lane].acknowledge(delivery.found.sequence);
                store.finish(staged);
            }
        }
        if *dead {
            late.announcer.announce();
        }
        self.ring_both_bells();
        Ok(())
    }

    /// A publisher may wait for room, and a member asleep does not know yet when the next entry is due.
    fn ring_both_bells(&self) {
        self.ring_space_bell();
        self.message_bell.ring_if(self.ringing, || wake_readers(&self.bus, &self.core));
    }

    /// There is no room in the store: nothing is lost, and this member goes on as far as it can.
    fn keep(&mut self, kept: Kept) {
        let Some(late) = &mut self.late else { return };
        if let Some((_, store)) = late.store(&self.core) {
            store.note_full();
        }
        if matches!(kept.delivery.proof, Proof::Claim(_)) {
            let payload = Some(kept.delivery.found.body().into());
            if let Some(keyed) = &mut self.keyed {
                keyed.note_kept(&kept.delivery);
            }
            late.kept.push(Kept { payload, ..kept });
        } else {
            // Its cursor cannot pass the message. It comes again, after a while.
            late.paused_until_ns = kept.not_before_ns.min(monotonic_ns() + STANDSTILL_NS_MAX).max(1);
            self.lanes[kept.delivery.lane].rewind();
        }
    }

    /// Does this group of one stand still for lack of room?
    pub(super) fn is_standing(&self) -> bool {
        self.late.as_ref().is_some_and(|late| late.paused_until_ns != 0)
    }

    /// A group of one whose store is full stands still for a moment.
    pub(super) fn pause(&mut self) {
        if let Some(late) = &mut self.late {
            late.paused_until_ns = monotonic_ns() + FULL_PAUSE_NS;
        }
    }

    /// Tries again to find room for what is kept.
    pub(super) fn stage_kept(&mut self) -> Result<(), ReceiveError> {
        let Some(late) = self.late.as_mut().filter(|late| !late.kept.is_empty()) else { return Ok(()) };
        let now_ns = monotonic_ns();
        if now_ns < late.stage_at_ns {
            return Ok(());
        }
        // Each time it asks for more time as well.
        late.stage_at_ns = now_ns
            + match late.observer.ack_wait_ns() {
                0 => FULL_PAUSE_NS,
                ack_wait_ns => FULL_PAUSE_NS.min(ack_wait_ns / 4),
            };
        let mut waiting = std::mem::take(&mut late.kept).into_iter();
        while let Some(kept) = waiting.next() {
            let Some(late) = &mut self.late else { break };
            match late.put(&self.core, &kept) {
                Ok(Some(staged)) => match self.commit(&kept, staged) {
                    Ok(()) => {}
                    // Another member has it, and will find room for it.
                    Err(ReceiveError::NotOwner(_)) => {
                        if let Some(keyed) = &mut self.keyed {
                            keyed.touch(kept.delivery.lane, kept.delivery.found.sequence);
                        }
                    }
                    Err(error) => return Err(error),
                },
                Ok(None) | Err(_) => {
                    late.kept.push(kept);
                    late.kept.extend(waiting);
                    self.extend_kept();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks for more time with what is kept; what others have by now is theirs.
    fn extend_kept(&mut self) {
        let Self { late: Some(late), membership: Membership::Shared(_, owners), keyed, .. } = self else {
            return;
        };
        late.kept.retain_mut(|kept| {
            let Proof::Claim(claim) = kept.delivery.proof else { return true };
            let extended = owners[kept.delivery.lane].extend(kept.delivery.found.sequence, claim.unpack());
            kept.delivery.proof = extended.map_or(Proof::Settled, |word| Proof::Claim(word.packed()));
            if let Some(keyed) = keyed.as_mut().filter(|_| extended.is_none()) {
                keyed.touch(kept.delivery.lane, kept.delivery.found.sequence);
            }
            extended.is_some()
        });
    }

    /// Gives back what is kept for lack of room: another member will find the store fuller or emptier.
    pub(super) fn release_kept(&mut self) {
        let kept = self.late.as_mut().map(|late| std::mem::take(&mut late.kept)).unwrap_or_default();
        for kept in kept {
            self.release(&kept.delivery.in_hand());
        }
    }

    /// An entry that was handed out failed again.
    fn amend(
        &mut self,
        held: Held,
        dead: bool,
        not_before_ns: u64,
        error: &str,
        delivery: &Delivery,
    ) -> Result<(), ReceiveError> {
        let Some(late) = &self.late else { return Ok(()) };
        let Some((file, store)) = late.store(&self.core) else { return Ok(()) };
        let Some(amending) = store.amend(held) else { return Err(self.not_owner(delivery).into()) };
        file.write_note(amending.index, &late.note(error));
        self.end_entry(amending, dead, not_before_ns);
        Ok(())
    }

    /// An entry in hand waits again, or is a dead letter if the store has room for one more.
    pub(super) fn end_entry(&self, held: Held, dead: bool, not_before_ns: u64) {
        let Some(late) = &self.late else { return };
        let Some((file, store)) = late.store(&self.core) else { return };
        let has_room = || {
            !store.has_dead_max()
                || late.settings.dead_full == DeadFull::DropOldest
                    && file.drop_oldest_dead(store, late.me, |gone| {
                        late.note_gone(&self.core, gone);
                    })
        };
        if dead && has_room() {
            if store.dead(held, realtime_ns()) {
                late.announcer.announce();
            }
            // Somebody may follow the message.
            self.ring_space_bell();
            return;
        }
        if dead {
            store.note_full();
        }
        // Only an amended entry may be told when to come again.
        let amended = store.amend(held).unwrap_or(held);
        store.again(amended, not_before_ns, realtime_ns());
        self.ring_both_bells();
    }

    /// A claimed entry is done.
    pub(super) fn acknowledge_entry(&self, held: Held) -> bool {
        let Some(late) = &self.late else { return false };
        let is_kept = late.store(&self.core).is_some_and(|(file, store)| file.clear(store, held, late.me));
        // Somebody may follow the message.
        self.ring_space_bell();
        is_kept
    }

    /// A claimed entry is done, without having been handled: nobody else may settle it between the record and the end.
    pub(super) fn skip_entry(
        &self,
        held: Held,
        (lane, sequence): (usize, u64),
        said: u8,
    ) -> Result<(), ReceiveError> {
        let Some(late) = &self.late else { return Ok(()) };
        let outcomes = late.make_outcomes(&self.core).inspect_err(|_| self.release_entry(held))?;
        let Some((file, store)) = late.store(&self.core) else { return Ok(()) };
        // Lost: another member's affair.
        let Some(amending) = store.amend(held) else { return Ok(()) };
        outcomes.record((lane, sequence), said | outcome::FINAL, amending.word.attempts);
        file.end_amended(store, amending);
        self.ring_space_bell();
        Ok(())
    }

    /// A claimed entry is given back.
    pub(super) fn release_entry(&self, held: Held) {
        let Some(late) = &self.late else { return };
        if late.store(&self.core).is_some_and(|(_, store)| store.release(held)) {
            self.ring_both_bells();
        }
    }

    /// Asks for more time with the message in hand.
    pub(super) fn extend_current(&mut self) -> Result<(), NotOwner> {
        let delivery = self.current;
        let proof = match (delivery.proof, &self.membership) {
            (Proof::Claim(claim), Membership::Shared(_, owners)) => {
                let extended = owners[delivery.lane].extend(delivery.found.sequence, claim.unpack());
                extended.map(|word| Proof::Claim(word.packed()))
            }
            (Proof::Entry(held), _) => {
                self.late.as_ref().and_then(|late| late.store(&self.core)?.1.extend(held)).map(Proof::Entry)
            }
            // A group of one member waits for it as long as it lives.
            (other, _) => Some(other),
        };
        match proof {
            Some(proof) if !self.fork.is_child() => {
                if let Some(keyed) = &self.keyed {
                    keyed.beat();
                }
                self.current.proof = proof;
                Ok(())
            }
            _ => Err(self.not_owner(&delivery)),
        }
    }

    /// Of a batch in a group of one member: the message is put aside, which counts once the batch is acknowledged. `None`:
    /// no room.
    pub(super) fn stage_for_batch(
        &mut self,
        delivery: &Delivery,
        verdict: Verdict,
        error: &str,
    ) -> Result<Option<Held>, ReceiveError> {
        let Some(late) = &mut self.late else { return Ok(None) };
        let times = delivery.found.times;
        let dead = verdict == Verdict::Dead || times >= late.settings.attempts_max;
        let not_before_ns = monotonic_ns() + late.delay_ns(verdict, times);
        let kept = Kept { delivery: *delivery, dead, not_before_ns, error: error.to_owned(), payload: None };
        let staged = late.put(&self.core, &kept)?;
        if staged.is_none()
            && let Some((_, store)) = late.store(&self.core)
        {
            store.note_full();
        }
        Ok(staged)
    }

    /// The last message of the batch failed.
    pub(super) fn put_item_aside(&mut self, verdict: Verdict, error: &str) -> Result<(), ReceiveError> {
        self.check()?;
        debug_assert!(
            self.batch.is_empty() || self.has_last_in_hand(false),
            "the last of the batch is in `current`"
        );
        let current = self.current;
        let Some(last) = self.last_of_batch() else { return Ok(()) };
        let delivery = Delivery { proof: last.proof, ..current };
        if !matches!(delivery.proof, Proof::Position) {
            last.proof = Proof::Settled;
            return self.put_aside(&delivery, verdict, error);
        }
        if self.late.is_none() {
            return Ok(());
        }
        match self.stage_for_batch(&delivery, verdict, error)? {
            Some(staged) => {
                if let Some(last) = self.batch.last_mut() {
                    last.proof = Proof::Staged(staged);
                }
                Ok(())
            }
            None => Err(ReceiveError::AsideFull {
                topic: self.core.name().to_owned(),
                group: self
                    .membership
                    .entry()
                    .map(|at| group::display_name(&self.core, at))
                    .unwrap_or_default(),
                lane: delivery.lane as u8,
                sequence: delivery.found.sequence,
            }),
        }
    }

    /// The cursor has passed the messages of a batch: those of them that were put aside count from here on.
    pub(super) fn finish_staged(&self, staged: Held) {
        let Some(late) = &self.late else { return };
        if let Some((_, store)) = late.store(&self.core)
            && store.finish(staged)
        {
            late.announcer.announce();
            self.ring_both_bells();
        }
    }

    /// The batch is given back.
    pub(super) fn withdraw_staged(&self, staged: Held) {
        if let Some((file, store)) = self.late.as_ref().and_then(|late| late.store(&self.core)) {
            file.withdraw(store, staged);
        }
    }

    /// Takes a message whose time has come, if there is one, into `current`. It counts as handed out.
    #[cold]
    pub(super) fn take_late(&mut self) -> Result<bool, Failure> {
        if self.keyed.is_some() {
            return self.poll_keyed();
        }
        self.stage_kept()?;
        loop {
            let Some(late) = &mut self.late else { return Ok(false) };
            let now_ns = monotonic_ns();
            if due_ns(late.due).is_none_or(|at_ns| at_ns > now_ns) {
                return Ok(false);
            }
            let mut cursor = late.due_cursor;
            let Some((_, store)) = late.store(&self.core) else { return Ok(false) };
            let claim = store.claim_due(late.me, late.settings.attempts_max, now_ns, &mut cursor);
            late.due_cursor = cursor;
            match claim {
                None | Some(AsideClaim::Taken) => return Ok(false),
                Some(AsideClaim::Exhausted(held)) => {
                    let pause_ns = late.settings.backoff.max_ns.min(u64::MAX / 2);
                    self.end_entry(held, true, now_ns + pause_ns);
                }
                Some(AsideClaim::Mine(held)) => {
                    if self.load_entry(held) && self.deliver_loaded()? {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Copies a claimed entry into `current`. False where it is lost, or makes no sense.
    pub(super) fn load_entry(&mut self, held: Held) -> bool {
        let Self { late: Some(late), core, lanes, .. } = self else { return false };
        let mut copy = std::mem::take(&mut late.copy);
        let Some((file, store)) = late.store(core) else { return false };
        let contents =
            store.read(held.index).filter(|(word, _)| *word == held.word).map(|(_, contents)| contents);
        let good = contents.filter(|contents| {
            usize::from(contents.lane) < lanes.len()
                && u64::from(contents.len_bytes) <= core.config().message_bytes
                && file.copy_payload(held.index, contents, &mut copy)
        });
        let is_mine = store.is_mine(held);
        if good.is_none() && is_mine {
            // Bytes that make no sense are kept for whoever wants to look at them.
            store.dead(held, realtime_ns());
        }
        late.copy = copy;
        let Some(contents) = good.filter(|_| is_mine) else { return false };
        let header = Header {
            len_bytes: contents.len_bytes,
            producer: 0,
            kind: contents.kind,
            flags: contents.header_flags,
            stamp_ns: contents.stamp_ns,
            reference: contents.key,
        };
        self.current = Delivery {
            lane: usize::from(contents.lane),
            found: Finding {
                sequence: contents.sequence,
                header,
                payload: bytemuck::cast_slice::<u128, u8>(&late.copy)[header.extension_bytes()..].as_ptr(),
                times: held.word.attempts + u8::from(bus_core::is_broken("attempt_late")),
            },
            proof: Proof::Entry(held),
        };
        true
    }

    fn deliver_loaded(&mut self) -> Result<bool, Failure> {
        self.deliver_unusual()
    }

    /// Does a full store make this group stand still? Ends the pause when its time has come.
    #[cold]
    pub(super) fn is_paused(&mut self) -> bool {
        let Some(late) = &mut self.late else { return false };
        if late.paused_until_ns != 0 && !late.is_keyed && late.paused_until_ns <= monotonic_ns() {
            late.paused_until_ns = 0;
        }
        late.paused_until_ns != 0
    }

    /// Until when to wait at most: `deadline`, or the time at which something here is due.
    pub(super) fn wait_until(&self, deadline: Option<Instant>) -> Option<Instant> {
        let Some(next_ns) = self.late.as_ref().and_then(|late| late.next_ns()) else { return deadline };
        let due = Instant::now() + Duration::from_nanos(next_ns.saturating_sub(monotonic_ns()));
        Some(deadline.map_or(due, |deadline| deadline.min(due)))
    }

    /// Idle: counts the entries, so that what a death has left wrong is put right, and announces what nobody has.
    pub(super) fn look_after_store(&mut self) {
        let Some(late) = &mut self.late else { return };
        if late.counted.elapsed() < COUNT_PERIOD {
            return;
        }
        late.counted = Instant::now();
        let unannounced = late.store(&self.core).is_some_and(|(_, store)| store.census().unannounced > 0);
        if unannounced {
            late.announcer.announce();
        }
    }

    /// Shared: a member that waits takes back what others have been silent about for too long.
    pub(super) fn observe_claims(&mut self) {
        let Self { late: Some(late), membership: Membership::Shared(_, owners), lanes, batch, .. } = self
        else {
            return;
        };
        let wait_ns = late.observer.ack_wait_ns();
        let Some(now_ns) = late.clock.as_mut().map(Clock::now_ns) else { return };
        if now_ns < late.observe_at_ns {
            return;
        }
        if self.keyed.is_some() {
            self.observe_keyed(now_ns);
            return;
        }
        let mut released = false;
        for (lane, (reader, owners)) in lanes.iter().zip(owners).enumerate() {
            for (sequence, word) in reader.claims(owners) {
                let kept = late.kept.iter().map(|kept| kept.delivery.in_hand());
                let is_own = batch.iter().copied().chain(kept).any(|mine| {
                    mine.lane == lane
                        && mine.sequence == sequence
                        && matches!(mine.proof, Proof::Claim(claim) if claim == word.packed())
                });
                let place = Place::Owner { lane: lane as u8, sequence };
                released |= !is_own
                    && late.observer.is_expired(place, word.pack(), now_ns)
                    && reader.release_claim(owners, sequence, word);
            }
        }
        let mut observer = std::mem::replace(&mut late.observer, Observer::new(0));
        if let Some((_, store)) = late.store(&self.core) {
            for index in 0..store.len() {
                let Some(word) = store.look(index).filter(|word| word.state == state::CLAIMED) else {
                    continue;
                };
                let own = Held { index, word };
                if batch.iter().any(|mine| matches!(mine.proof, Proof::Entry(held) if held == own)) {
                    continue;
                }
                released |= observer.is_expired(Place::Aside { index }, word.pack(), now_ns)
                    && store.expire(index, word);
            }
        }
        late.observe_at_ns = now_ns + observe_period_ns(wait_ns);
        late.expires_at_ns = observer.end_pass();
        late.observer = observer;
        if released {
            self.ring_both_bells();
        }
    }

    #[cold]
    pub(super) fn not_owner(&self, delivery: &Delivery) -> NotOwner {
        // In a forked child nothing of the bus is mapped.
        let entry = self.membership.entry().filter(|_| !self.fork.is_child());
        let group = entry.map(|entry| group::display_name(&self.core, entry));
        NotOwner::new(
            self.core.name(),
            &group.unwrap_or_default(),
            delivery.lane as u8,
            delivery.found.sequence,
        )
    }
}

/// How long a member waits between two looks at the others' claims.
pub(super) fn observe_period_ns(ack_wait_ns: u64) -> u64 {
    (ack_wait_ns / LOOKS_PER_ACK_WAIT).clamp(*OBSERVE_PERIOD_NS.start(), *OBSERVE_PERIOD_NS.end())
}

/// The settings that a group keeps, changed by a member that says so; returns them.
pub(super) fn settle_kind(
    core: &TopicCore,
    entry: usize,
    attempts_max: Option<u8>,
    ack_wait: Option<Duration>,
    hold: Option<Duration>,
) -> Result<u64, AttachError> {
    let Some(word) = core.group_word(entry, in_entry::KIND) else { return Ok(0) };
    let mut seen = word.load(Ordering::Acquire);
    loop {
        let mut to = seen;
        if let Some(attempts) = attempts_max {
            to = kind::with_attempts_max(to, attempts);
        }
        if let Some(hold) = hold {
            to = kind::with_hold_s(to, hold.as_millis().div_ceil(1_000).min(u128::from(u16::MAX)) as u16);
        }
        if let Some(wait) = ack_wait {
            to = kind::with_ack_wait_ms(to, group::ack_wait_ms(wait));
        }
        // Members of a group that waits for ever read in place: nothing may be taken back from them, not even by those who
        // joined before.
        if (kind::ack_wait_ms(seen) == 0) != (kind::ack_wait_ms(to) == 0) {
            let (topic, group) = (core.name().to_owned(), group::display_name(core, entry));
            return Err(AttachError::AckWait { topic, group });
        }
        if to == seen {
            return Ok(seen);
        }
        match word.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(to),
            Err(now) => seen = now,
        }
    }
}
