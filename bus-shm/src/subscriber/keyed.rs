//! A member of a keyed group: the partitions that it has, and the messages of theirs that it may hand out.
//!
//! [`bus_core::keyed`] has the protocol. What a member knows beyond the shared words is its own and can be found again: the
//! messages that it has passed and that are still to be handed out, those that others hold back, and what waits in the group's store
//! ([`queue`]). Of each key and lane the first of these is handed out, and nothing behind it.
//!
//! A keyed member takes messages one by one, wherever they lie; the readers' positions say how far it has looked at a lane.

mod hands;
mod queue;
mod shares;
mod store;
mod watch;

use super::late::Late;
use super::settle::InHand;
use super::{ASK_PERIOD, Delivery, Membership, Proof, RawSubscriber};
use crate::bus::BusInner;
use crate::error::AttachError;
use crate::finding::Finding;
use crate::keys::Seated;
use crate::listeners::wake_readers;
use crate::observe::Observer;
use crate::reader::{LaneReader, Peek};
use crate::subscriber::Failure;
use crate::sys::clock::monotonic_ns;
use crate::topic::TopicCore;
use bus_core::keyed::PartitionWord;
use bus_core::layout::keys::in_seat;
use bus_core::limits::PARTITIONS;
use bus_core::owner::{Claim, OwnerWord, Owners, state};
use bus_core::seq::later;
use bus_core::sync::Ordering;
use hands::Hands;
use queue::{Aside, Place, Queue};
use std::collections::HashMap;

const PARTS: usize = PARTITIONS as usize;
/// A member that has done nothing for so long has no share: what it does not have yet, others take. What it has it keeps.
const SILENT_NS: u64 = 2_000_000_000;
/// So often it is looked who is silent.
const WATCH_PERIOD_NS: u64 = 100_000_000;
/// A partition that nobody takes for so long is taken by whoever sees that, whatever its share.
const VACANT_NS: u64 = 500_000_000;
/// So often it is looked who has what, whether somebody has said that it changed or not.
const CHECK_PERIOD_NS: u64 = 500_000_000;
/// An entry that a former member still writes to is looked at again after so long, and a store or a message that could not be looked at.
const RESCAN_NS: u64 = 20_000_000;
/// A member that waits until its batch is complete says so often within `ack_wait` that it lives.
const BEATS_PER_ACK_WAIT: u64 = 4;
/// Looks at messages, most of them of others, before something else is looked at.
const LOOKS_MAX: usize = 1 << 16;
/// A busy member looks round after so many messages.
const LOOK_PERIOD: u32 = 64;

/// What a member of a keyed group keeps in mind.
pub(super) struct Keyed {
    seated: Seated,
    /// The generation that it has looked at.
    generation: u64,
    /// The words with which it took the partitions that it has.
    owned: Vec<Option<PartitionWord>>,
    owned_count: usize,
    /// Partitions that it has taken and of which it could not yet see every message. Nothing of them is handed out.
    unsettled: [bool; PARTS],
    unsettled_count: usize,
    /// A message of each lane that it could not see.
    refused: Option<(usize, u64)>,
    queue: Queue,
    hands: Hands,
    /// Partitions of which a message of the batch in hand was found lost.
    lost: [bool; PARTS],
    must_scan: bool,
    must_balance: bool,
    until_look: u32,
    /// Seats, and whether they were found silent with the beat that they had.
    shares: Observer,
    silent: HashMap<u8, u64>,
    watch_at_ns: u64,
    /// Seats and partitions that have not changed for `ack_wait`.
    watch: Observer,
    vacant_since_ns: Option<u64>,
    rescan_at_ns: Option<u64>,
    /// Something could not be looked at: when that is tried again.
    retry_at_ns: Option<u64>,
    /// When it looks who has what although nobody has said that anything changed: who was to say it may have died.
    check_at_ns: u64,
    /// While messages wait for a batch to be complete: when to show that it lives.
    beat_at_ns: Option<u64>,
}

/// What is handed out next.
enum Next {
    Ring(Place),
    Entry(Place, usize),
}

/// Keys are shared in groups that have a name.
pub(super) fn check(topic: &str, keyed: bool, is_named: bool) -> Result<(), AttachError> {
    if keyed && !is_named {
        return Err(AttachError::Option {
            topic: topic.to_owned(),
            option: "keyed",
            allowed: "a group with a name, which has members that share its keys".into(),
        });
    }
    Ok(())
}

impl Keyed {
    /// Takes a seat in the group of which `late` has the store.
    pub(super) fn join(
        (bus, core): (&BusInner, &TopicCore),
        late: &mut Late,
        ack_wait_ms: u32,
    ) -> Result<Box<Self>, AttachError> {
        let is_dead = |holder| bus.participants().is_dead(holder);
        let seated = Seated::join(core, late.entry, late.me, is_dead)?;
        late.be_keyed();
        Ok(Box::new(Self::new(seated, core.lanes(), ack_wait_ms)))
    }

    fn new(seated: Seated, lanes: usize, ack_wait_ms: u32) -> Self {
        Self {
            seated,
            generation: 0,
            owned: vec![None; PARTS],
            owned_count: 0,
            unsettled: [false; PARTS],
            unsettled_count: 0,
            refused: None,
            queue: Queue::new(lanes),
            hands: Hands::new(),
            lost: [false; PARTS],
            must_scan: true,
            must_balance: true,
            until_look: LOOK_PERIOD,
            shares: Observer::new(SILENT_NS),
            silent: HashMap::new(),
            watch_at_ns: 0,
            watch: Observer::new(u64::from(ack_wait_ms) * 1_000_000),
            vacant_since_ns: None,
            rescan_at_ns: None,
            retry_at_ns: None,
            check_at_ns: 0,
            beat_at_ns: None,
        }
    }

    /// It does something.
    pub(super) fn beat(&self) {
        self.count(in_seat::BEAT);
    }

    fn count(&self, which: usize) {
        // Relaxed: this member's alone to store; those who read it only look whether it changes.
        self.seated.keys().seat_counter(self.seated.seat.index, which).fetch_add(1, Ordering::Relaxed);
    }

    /// A message in hand was said to have failed, or to be a dead letter.
    pub(super) fn note_put_aside(&mut self, delivery: &Delivery, is_failure: bool) {
        self.touch(delivery.lane, delivery.found.sequence);
        self.beat();
        if is_failure {
            self.count(in_seat::FAILED);
        }
    }

    /// Something has been done with a message in hand.
    pub(super) fn touch(&mut self, lane: usize, sequence: u64) {
        self.hands.touch(lane, sequence);
    }

    /// It lies in the store from now on, in this entry, and waits until its time, or is a dead letter.
    pub(super) fn note_stored(&mut self, delivery: &Delivery, index: usize, not_before_ns: Option<u64>) {
        let place = place_of(&delivery.in_hand());
        self.hands.end(place);
        match not_before_ns {
            Some(_) if self.owned[place.partition()].is_some() => {
                self.queue.insert_aside(place, Aside::Stored { index, not_before_ns });
            }
            _ => self.queue.remove(place),
        }
    }

    /// It is kept for lack of room in the store.
    pub(super) fn note_kept(&mut self, delivery: &Delivery) {
        self.queue.insert_aside(place_of(&delivery.in_hand()), Aside::Kept);
    }

    /// The batch in hand was given back.
    pub(super) fn note_batch_ends(&mut self) {
        self.lost = [false; PARTS];
    }

    pub(super) fn leave(&mut self) {
        self.seated.leave();
    }

    /// Something to look at that the readers' positions do not show.
    pub(super) fn has_news(&self, lanes: &[LaneReader]) -> bool {
        self.seated.keys().generation() != self.generation || lanes.iter().any(LaneReader::is_filled)
    }

    /// The lane of something that may be handed out, as far as is known.
    pub(super) fn first_ready(&self) -> Option<usize> {
        self.queue.first_lane()
    }

    fn has(&self, partition: usize) -> Option<PartitionWord> {
        self.owned[partition].filter(|_| !self.unsettled[partition])
    }

    /// Has taken a partition: [`RawSubscriber::settle`] must follow.
    fn own(&mut self, partition: usize, mine: PartitionWord) {
        self.owned[partition] = Some(mine);
        self.owned_count += 1;
        self.set_unsettled(partition, true);
    }

    /// Forgets a partition that it no longer has.
    fn disown(&mut self, partition: usize) {
        if self.owned[partition].take().is_some() {
            self.owned_count -= 1;
            self.set_unsettled(partition, false);
            self.queue.remove_partition(partition);
        }
    }

    fn set_unsettled(&mut self, partition: usize, is_unsettled: bool) {
        self.unsettled_count -= usize::from(self.unsettled[partition]);
        self.unsettled[partition] = is_unsettled;
        self.unsettled_count += usize::from(is_unsettled);
    }

    fn lose(&mut self, partition: usize) {
        self.disown(partition);
        self.must_balance = true;
    }

    /// Looks at a lane until at least `want` messages may be handed out, or there are no more. How many there are, at most `want`.
    fn find(&mut self, (lane, reader): (usize, &mut LaneReader), owners: &Owners<'_>, want: usize) -> usize {
        let mut count = self.queue.count(lane, want);
        for _ in 0..LOOKS_MAX {
            if count >= want {
                break;
            }
            let sequence = reader.next();
            let key = match reader.peek(sequence) {
                Peek::Empty => break,
                Peek::Refused => {
                    self.refused = Some((lane, sequence));
                    break;
                }
                Peek::Gone => {
                    let low_water = reader.low_water().map_or(0, |word| word.load(Ordering::Acquire));
                    reader.seek(later(sequence.wrapping_add(1), low_water));
                    continue;
                }
                Peek::Key(key) => key,
            };
            reader.seek(sequence.wrapping_add(1));
            let place = Place::new(lane, key, sequence);
            let is_open = !matches!(owners.look(sequence).state, state::DONE | state::PARKED);
            if self.has(place.partition()).is_none() || !is_open {
                continue;
            }
            self.queue.insert(place);
            count += usize::from(self.queue.is_free(place));
        }
        count
    }

    /// When something here is to be done by itself.
    fn next_ns(&self) -> Option<u64> {
        let vacant = self.vacant_since_ns.map(|since_ns| since_ns + VACANT_NS);
        let all = [self.queue.due_ns(), vacant, self.rescan_at_ns, self.retry_at_ns, self.beat_at_ns];
        all.into_iter().flatten().min()
    }
}

fn place_of(message: &InHand) -> Place {
    Place::new(message.lane, message.key, message.sequence)
}

impl RawSubscriber {
    /// Keyed: takes the next message, if there is one, into `current`.
    #[cold]
    pub(super) fn poll_keyed(&mut self) -> Result<bool, Failure> {
        let mut is_idle = false;
        self.tend_keyed(false);
        loop {
            let is_taken = match self.next_keyed() {
                Some(Next::Ring(place)) => self.take_keyed(place)?,
                Some(Next::Entry(place, index)) => self.take_entry(place, index)?,
                None if is_idle => {
                    // Why there is nothing, if that is not because nothing has come.
                    let refused = self.keyed.as_mut().and_then(|keyed| keyed.refused.take());
                    if let Some((lane, sequence)) = refused {
                        let mut scratch = Finding::NONE;
                        self.lanes[lane].take_at(sequence, &mut scratch)?;
                    }
                    return Ok(false);
                }
                None => {
                    is_idle = true;
                    false
                }
            };
            if is_taken {
                return Ok(true);
            }
            if self.left_out_most == 0 {
                return Ok(false);
            }
            self.tend_keyed(is_idle);
        }
    }

    /// How many messages of a batch may be had at once, at most `most`.
    pub(super) fn ready_keyed(&mut self, most: usize) -> usize {
        self.tend_keyed(false);
        match self.count_ready(most) {
            count if count >= most => count,
            _ => {
                self.tend_keyed(true);
                self.count_ready(most)
            }
        }
    }

    fn count_ready(&mut self, most: usize) -> usize {
        let Self { keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), late, .. } = self
        else {
            return 0;
        };
        let all = lanes.iter_mut().zip(owners.iter()).enumerate();
        let count = all.map(|(lane, (reader, owners))| keyed.find((lane, reader), owners, most)).sum();
        if let Some(late) = late
            && count > 0
            && late.observer.ack_wait_ns() != 0
        {
            keyed.beat_at_ns = Some(monotonic_ns() + late.observer.ack_wait_ns() / BEATS_PER_ACK_WAIT);
            late.keyed_at_ns = keyed.next_ns();
        }
        count
    }

    fn next_keyed(&mut self) -> Option<Next> {
        let Self { keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), picker, .. } = self
        else {
            return None;
        };
        if keyed.queue.due_ns().is_some()
            && let Some((place, index)) = keyed.queue.first_due(monotonic_ns())
        {
            return Some(Next::Entry(place, index));
        }
        let lane = picker.pick(|lane, _| keyed.find((lane, &mut lanes[lane]), &owners[lane], 1) > 0)?;
        keyed.queue.first(lane).map(Next::Ring)
    }

    /// Claims a message of the ring, sees that its partition is still this member's, and hands it out. False: it is not to be
    /// handed out, or not by this member.
    fn take_keyed(&mut self, place: Place) -> Result<bool, Failure> {
        let (lane, sequence) = (place.lane(), place.sequence);
        let Some((claim, is_worn_out)) = self.claim_keyed(place) else { return Ok(false) };
        let found = self.lanes[lane].take_at(sequence, &mut self.current.found);
        self.current.lane = lane;
        self.current.proof = Proof::Claim(claim.packed());
        self.current.found.times = claim.attempts;
        if found.is_err() && self.may_lose_claims && self.has_lost_current(lane, Some(claim)) {
            return Ok(false);
        }
        let copied = match found {
            Ok(()) if self.copied => self.lanes[lane].copy(&mut self.current.found),
            Ok(()) if self.may_lose_claims => {
                self.lanes[lane].copy_claimed(&mut self.current.found);
                Ok(())
            }
            other => other,
        };
        if let Err(failure) = copied {
            // It stays the next one of its key, as the look at what became of it will show.
            let Membership::Shared(_, owners) = &self.membership else { return Err(failure) };
            self.lanes[lane].release_claim(&owners[lane], sequence, claim);
            return Err(failure);
        }
        if self.may_lose_claims && self.has_lost_current(lane, Some(claim)) {
            return Ok(false);
        }
        if is_worn_out {
            self.bury_current()?;
            return Ok(false);
        }
        let is_usual = self.screen.is_usual(self.current.found.header.description());
        if (!is_usual || self.current.found.times > 1) && !self.deliver_unusual()? {
            self.left_out_most = self.left_out_most.saturating_sub(1);
            return Ok(false);
        }
        self.count_handed(place);
        Ok(true)
    }

    fn count_handed(&mut self, place: Place) {
        if let Some(keyed) = &self.keyed {
            keyed.count(in_seat::HANDED);
            let keys = keyed.seated.keys();
            keys.partition_counter(place.partition()).fetch_add(1, Ordering::Relaxed);
        }
    }

    fn claim_keyed(&mut self, place: Place) -> Option<(OwnerWord, bool)> {
        let (lane, sequence, partition) = (place.lane(), place.sequence, place.partition());
        let attempts_max = self.late.as_ref().map_or(bus_core::limits::ATTEMPTS_MAX, |l| l.attempts_max());
        let Self {
            keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), participant, ..
        } = self
        else {
            return None;
        };
        let (owners, reader) = (&owners[lane], &lanes[lane]);
        let low_water = reader.low_water()?;
        let Some(mine) = keyed.has(partition) else {
            keyed.queue.remove(place);
            return None;
        };
        let seen = owners.look(sequence);
        if seen.state == state::CLAIMED {
            // A former owner's, who was fenced or died. First the look at it, then the look at the partition.
            if !keyed.seated.keys().is_mine(partition, mine) {
                keyed.lose(partition);
                return None;
            }
            reader.release_claim(owners, sequence, seen);
            return None;
        }
        let claimed = match owners.claim(sequence, *participant, attempts_max, low_water) {
            Claim::Mine(word) => Some((word, false)),
            Claim::Exhausted(seen) => {
                owners.claim_exhausted(sequence, seen, *participant).map(|word| (word, true))
            }
            Claim::Taken => None,
        };
        let Some((word, is_worn_out)) = claimed else {
            // Or holds no word that anybody has stored.
            let is_finished =
                !matches!(owners.look(sequence).state, state::FREE | state::RELEASED | state::CLAIMED)
                    || reader.is_finished(sequence);
            if is_finished {
                keyed.queue.remove(place);
            }
            return None;
        };
        let is_mine = keyed.seated.keys().confirm(partition, mine);
        if !is_mine {
            let gave_back =
                if is_worn_out { owners.release(sequence, word) } else { owners.unclaim(sequence, word) };
            keyed.lose(partition);
            if gave_back {
                // Whoever has the partition now may have met the claim.
                keyed.seated.keys().raise_generation();
                self.message_bell.ring_if(self.ringing, || wake_readers(&self.bus, &self.core));
            }
            return None;
        }
        keyed.queue.remove(place);
        keyed.hands.add(place, word.attempts, None);
        Some((word, is_worn_out))
    }

    // ---------------------------------------------------------------- housekeeping

    fn tend_keyed(&mut self, is_idle: bool) {
        let Some(keyed) = &mut self.keyed else { return };
        keyed.beat();
        keyed.beat_at_ns = None;
        keyed.must_balance |= keyed.seated.keys().generation() != keyed.generation;
        keyed.until_look = keyed.until_look.wrapping_sub(1);
        let looks = is_idle || keyed.until_look == 0;
        if looks {
            keyed.until_look = LOOK_PERIOD;
        }
        if self.late.as_ref().is_some_and(|late| !late.kept.is_empty()) {
            let _ = self.stage_kept();
        }
        self.sweep_hands();
        if looks {
            self.look_about_keyed();
        }
        if self.keyed.as_ref().is_some_and(|keyed| keyed.must_balance) {
            self.balance();
        }
        let must_settle = |keyed: &Keyed| {
            (keyed.must_scan || keyed.unsettled_count > 0)
                && keyed.retry_at_ns.is_none_or(|at_ns| at_ns <= monotonic_ns())
        };
        if self.keyed.as_deref().is_some_and(must_settle) {
            self.settle();
        }
        if let (Some(keyed), Some(late)) = (&self.keyed, &mut self.late) {
            late.keyed_at_ns = keyed.next_ns();
            late.keyed_due_ns = keyed.queue.due_ns();
        }
    }

    /// Somebody ought to look who has what.
    pub(super) fn ring_members(&self) {
        self.message_bell.ring_if(self.ringing, || wake_readers(&self.bus, &self.core));
    }

    /// Keyed: what a batch has in hand is acknowledged in its order, and where a message was lost, the later ones of its partition are
    /// given back: they come again after it.
    pub(super) fn acknowledge_keyed(&mut self, batch: &[InHand]) -> usize {
        let Some(keyed) = &mut self.keyed else { return 0 };
        let mut lost = keyed.lost;
        let mut count = 0;
        for message in batch {
            let partition = place_of(message).partition();
            if lost[partition] {
                self.release(message);
            } else if self.acknowledge(message) {
                count += 1;
            } else {
                lost[partition] = true;
            }
        }
        // What is left of the batch may be acknowledged later.
        let is_over = self.batch.is_empty();
        if let Some(keyed) = &mut self.keyed {
            batch.iter().for_each(|message| keyed.touch(message.lane, message.sequence));
            keyed.lost = if is_over { [false; PARTS] } else { lost };
            keyed.beat();
        }
        count
    }
}
