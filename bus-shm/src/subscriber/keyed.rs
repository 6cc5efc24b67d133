//! A member of a keyed group: the partitions that it has, and the messages of theirs that it may hand out.
//!
//! [`bus_core::keyed`] has the protocol. What a member knows beyond the shared words is its own and can be found again: the
//! messages that it has passed and that are still to be handed out, those that others hold back, and what waits in the group's store. Of
//! each key and lane the first of these is handed out, and nothing behind it.
//!
//! A keyed member takes messages one by one, wherever they lie; the readers' positions say how far it has looked at a lane.

mod watch;

use super::late::{Kept, Late};
use super::{ASK_PERIOD, Delivery, Membership, Proof, RawSubscriber};
use crate::bus::BusInner;
use crate::error::AttachError;
use crate::keys::Seated;
use crate::listeners::wake_readers;
use crate::observe::{Observer, Place};
use crate::reader::{Finding, LaneReader, Peek};
use crate::repair;
use crate::subscriber::Failure;
use crate::sys::clock::monotonic_ns;
use crate::topic::TopicCore;
use bus_core::aside::AsideClaim;
use bus_core::keyed::{PartitionWord, partition_of, share};
use bus_core::layout::aside::state as aside;
use bus_core::layout::keys::in_seat;
use bus_core::limits::PARTITIONS;
use bus_core::owner::{Claim, OwnerWord, Owners, state};
use bus_core::seq::{distance, later};
use bus_core::sync::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

const PARTS: usize = PARTITIONS as usize;
/// A member that has done nothing for so long has no share: what it does not have yet, others take. What it has it keeps.
const SILENT_NS: u64 = 2_000_000_000;
/// So often it is looked who is silent.
const WATCH_PERIOD_NS: u64 = 100_000_000;
/// A partition that nobody takes for so long is taken by whoever sees that, whatever its share.
const VACANT_NS: u64 = 500_000_000;
/// So often it is looked who has what, whether somebody has said that it changed or not.
const CHECK_PERIOD_NS: u64 = 500_000_000;
/// An entry that a former member still writes to is looked at again after so long.
const RESCAN_NS: u64 = 20_000_000;
/// A member that waits until its batch is complete says so often within `ack_wait` that it lives.
const BEATS_PER_ACK_WAIT: u64 = 4;
/// Looks at messages, most of them of others, before something else is looked at.
const LOOKS_MAX: usize = 1 << 16;
/// A busy member looks round after so many messages.
const LOOK_PERIOD: u32 = 64;

/// A message that was handed out, and may still be in hand.
#[derive(Clone, Copy, Debug)]
struct Hand {
    lane: usize,
    sequence: u64,
    key: u64,
    attempts: u8,
    /// Where it is an entry of the store.
    entry: Option<usize>,
}

/// A message in the store that is not in this member's hand.
#[derive(Clone, Copy, Debug)]
struct Stored {
    index: usize,
    /// `None`: somebody else is still at it.
    not_before_ns: Option<u64>,
}

/// What a member of a keyed group keeps in mind.
pub(super) struct Keyed {
    seated: Seated,
    /// The generation that it has looked at.
    generation: u64,
    /// The words with which it took the partitions that it has.
    owned: Vec<Option<PartitionWord>>,
    owned_count: usize,
    /// Partitions that it has taken and of which it could not yet see every message.
    unsettled: Vec<usize>,
    /// A message of each lane that it could not see.
    refused: Option<(usize, u64)>,
    /// Of each lane: sequence and key of messages that it has passed and may hand out.
    ready: Vec<BTreeMap<u64, u64>>,
    /// By lane and key: messages behind one that waits.
    behind: HashMap<(usize, u64), Vec<u64>>,
    /// By lane, key and sequence: what lies in the store.
    stored: BTreeMap<(usize, u64, u64), Stored>,
    hands: Vec<Hand>,
    must_sweep: bool,
    must_scan: bool,
    must_balance: bool,
    kept_count: usize,
    until_look: u32,
    /// Seats, and whether they were found silent with the beat that they had.
    shares: Observer,
    silent: HashMap<u8, u64>,
    watch_at_ns: u64,
    /// Seats and partitions that have not changed for `ack_wait`.
    watch: Observer,
    vacant_since_ns: Option<u64>,
    rescan_at_ns: Option<u64>,
    /// When it looks who has what although nobody has said that anything changed: who was to say it may have died.
    check_at_ns: u64,
    /// While messages wait for a batch to be complete: when to show that it lives.
    beat_at_ns: Option<u64>,
}

/// What is handed out next.
enum Next {
    Ring { lane: usize, sequence: u64, key: u64 },
    Entry { lane: usize, sequence: u64, key: u64, index: usize },
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
            ready: vec![BTreeMap::new(); lanes],
            behind: HashMap::new(),
            stored: BTreeMap::new(),
            hands: Vec::new(),
            unsettled: Vec::new(),
            refused: None,
            must_sweep: false,
            must_scan: true,
            must_balance: true,
            kept_count: 0,
            until_look: LOOK_PERIOD,
            shares: Observer::new(SILENT_NS),
            silent: HashMap::new(),
            watch_at_ns: 0,
            watch: Observer::new(u64::from(ack_wait_ms) * 1_000_000),
            vacant_since_ns: None,
            rescan_at_ns: None,
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

    /// A message in hand was said to have failed; it may be in the store from now on.
    pub(super) fn note_put_aside(&mut self, is_failure: bool) {
        self.must_sweep = true;
        self.must_scan = true;
        self.beat();
        if is_failure {
            self.count(in_seat::FAILED);
        }
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
        self.ready.iter().position(|ready| !ready.is_empty())
    }

    fn has(&self, key: u64, sequence: u64) -> Option<(usize, PartitionWord)> {
        let partition = partition_of(key, sequence);
        let mine = self.owned[partition].filter(|_| !self.unsettled.contains(&partition));
        mine.map(|mine| (partition, mine))
    }

    fn is_in_hand(&self, partition: usize) -> bool {
        self.hands.iter().any(|hand| partition_of(hand.key, hand.sequence) == partition)
    }

    fn is_hand(&self, lane: usize, sequence: u64) -> bool {
        self.hands.iter().any(|hand| hand.lane == lane && hand.sequence == sequence)
    }

    /// Does an earlier message of the key wait in the store, or for room there?
    fn is_held_back(&self, kept: &[Kept], lane: usize, key: u64, sequence: u64) -> bool {
        key != 0
            && (self.stored.range((lane, key, 0)..(lane, key, sequence)).next().is_some()
                || kept.iter().any(|kept| {
                    let found = &kept.delivery.found;
                    kept.delivery.lane == lane && found.header.reference == key && found.sequence < sequence
                }))
    }

    /// Forgets a partition that it no longer has; [`Keyed::prune`] must follow.
    fn drop_partition(&mut self, partition: usize) {
        if self.owned[partition].take().is_some() {
            self.owned_count -= 1;
        }
    }

    /// Forgets messages of partitions that it no longer has.
    fn prune(&mut self) {
        let owned = &self.owned;
        let has = |key, sequence| owned[partition_of(key, sequence)].is_some();
        for ready in &mut self.ready {
            ready.retain(|&sequence, &mut key| has(key, sequence));
        }
        self.behind.retain(|&(_, key), _| has(key, 0));
        self.stored.retain(|&(_, key, sequence), _| has(key, sequence));
    }

    fn lose(&mut self, partition: usize) {
        self.drop_partition(partition);
        self.prune();
        self.must_balance = true;
    }

    /// What was held back may go on.
    fn free_held_back(&mut self) {
        for ((lane, key), sequences) in self.behind.drain() {
            self.ready[lane].extend(sequences.into_iter().map(|sequence| (sequence, key)));
        }
    }

    /// Looks at a lane until at least `want` messages may be handed out, or there are no more. The first of them.
    fn find(
        &mut self,
        (lane, reader): (usize, &mut LaneReader),
        owners: &Owners<'_>,
        kept: &[Kept],
        want: usize,
    ) -> Option<(u64, u64)> {
        // Few: what has just been given back.
        while let Some((&sequence, &key)) = self.ready[lane].first_key_value() {
            if !self.is_held_back(kept, lane, key, sequence) {
                break;
            }
            self.ready[lane].remove(&sequence);
            self.behind.entry((lane, key)).or_default().push(sequence);
        }
        for _ in 0..LOOKS_MAX {
            if self.ready[lane].len() >= want {
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
            let is_open = !matches!(owners.look(sequence).state, state::DONE | state::PARKED);
            if self.has(key, sequence).is_none() || !is_open {
                continue;
            }
            if self.behind.contains_key(&(lane, key)) || self.is_held_back(kept, lane, key, sequence) {
                self.behind.entry((lane, key)).or_default().push(sequence);
            } else {
                self.ready[lane].insert(sequence, key);
            }
        }
        self.ready[lane].first_key_value().map(|(&sequence, &key)| (sequence, key))
    }

    /// The first entry whose time has come, and before which nothing of its key is to be handed out.
    fn due_entry(&self, kept: &[Kept], now_ns: u64) -> Option<Next> {
        let mut last = None;
        for (&(lane, key, sequence), stored) in &self.stored {
            let is_later = key != 0 && last.replace((lane, key)) == Some((lane, key));
            if is_later || stored.not_before_ns.is_none_or(|at_ns| at_ns > now_ns) {
                continue;
            }
            let is_second = key != 0
                && (self.ready[lane].range(..sequence).any(|(_, &other)| other == key)
                    || self.behind.get(&(lane, key)).is_some_and(|all| all.iter().any(|&s| s < sequence))
                    || self.is_held_back(kept, lane, key, sequence));
            if !is_second {
                return Some(Next::Entry { lane, sequence, key, index: stored.index });
            }
        }
        None
    }

    /// When the first message in the store is due.
    fn due_ns(&self) -> Option<u64> {
        let mut last = None;
        let heads = self.stored.iter().filter(|&(&(lane, key, sequence), _)| {
            // What stands behind another of its key is not due before that has gone.
            let is_later = key != 0 && last.replace((lane, key)) == Some((lane, key));
            let is_second = key != 0
                && (self.ready[lane].range(..sequence).any(|(_, &other)| other == key)
                    || self.behind.get(&(lane, key)).is_some_and(|all| all.iter().any(|&s| s < sequence)));
            !is_later && !is_second
        });
        heads.filter_map(|(_, stored)| stored.not_before_ns).min()
    }

    /// When something here is to be done by itself.
    fn next_ns(&self) -> Option<u64> {
        let due = self.due_ns();
        let vacant = self.vacant_since_ns.map(|since_ns| since_ns + VACANT_NS);
        [due, vacant, self.rescan_at_ns, self.beat_at_ns].into_iter().flatten().min()
    }
}

impl RawSubscriber {
    /// Keyed: takes the next message, if there is one, into `current`.
    #[cold]
    pub(super) fn poll_keyed(&mut self) -> Result<bool, Failure> {
        let mut is_idle = false;
        self.tend_keyed(false);
        loop {
            let is_taken = match self.next_keyed() {
                Some(Next::Ring { lane, sequence, key }) => self.take_keyed(lane, sequence, key)?,
                Some(Next::Entry { lane, sequence, key, index }) => {
                    self.take_entry((lane, sequence, key), index)?
                }
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
        let kept = late.as_ref().map_or(&[][..], |late| &late.kept);
        let mut count = 0;
        for (lane, (reader, owners)) in lanes.iter_mut().zip(owners.iter()).enumerate() {
            keyed.find((lane, reader), owners, kept, most);
            count += keyed.ready[lane].len();
        }
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
        let Self {
            keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), late, picker, ..
        } = self
        else {
            return None;
        };
        let kept = late.as_ref().map_or(&[][..], |late| &late.kept);
        if !keyed.stored.is_empty()
            && let Some(next) = keyed.due_entry(kept, monotonic_ns())
        {
            return Some(next);
        }
        let mut found = None;
        let lane = picker.pick(|lane| {
            found = keyed.find((lane, &mut lanes[lane]), &owners[lane], kept, 1);
            found.is_some()
        })?;
        found.map(|(sequence, key)| Next::Ring { lane, sequence, key })
    }

    /// Claims a message of the ring, sees that its partition is still this member's, and hands it out. False: it is not to be
    /// handed out, or not by this member.
    fn take_keyed(&mut self, lane: usize, sequence: u64, key: u64) -> Result<bool, Failure> {
        let Some((claim, is_worn_out)) = self.claim_keyed(lane, sequence, key) else { return Ok(false) };
        let found = self.lanes[lane].take_at(sequence, &mut self.current.found);
        self.current.lane = lane;
        self.current.proof = Proof::Claim(claim);
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
            // It stays the next one of its key.
            if let Some(keyed) = &mut self.keyed {
                keyed.must_sweep = true;
            }
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
        let is_usual = self.screen.is_usual(&self.current.found.header);
        if (!is_usual || self.current.found.times > 1) && !self.deliver_unusual()? {
            self.left_out_most = self.left_out_most.saturating_sub(1);
            return Ok(false);
        }
        self.count_handed(key, sequence);
        Ok(true)
    }

    fn count_handed(&mut self, key: u64, sequence: u64) {
        if let Some(keyed) = &self.keyed {
            keyed.count(in_seat::HANDED);
            let keys = keyed.seated.keys();
            keys.partition_counter(partition_of(key, sequence)).fetch_add(1, Ordering::Relaxed);
        }
    }

    fn claim_keyed(&mut self, lane: usize, sequence: u64, key: u64) -> Option<(OwnerWord, bool)> {
        let attempts_max = self.late.as_ref().map_or(bus_core::limits::ATTEMPTS_MAX, |l| l.attempts_max());
        let Self {
            keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), participant, ..
        } = self
        else {
            return None;
        };
        let (owners, reader) = (&owners[lane], &lanes[lane]);
        let low_water = reader.low_water()?;
        let Some((partition, mine)) = keyed.has(key, sequence) else {
            keyed.ready[lane].remove(&sequence);
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
                    || distance(low_water.load(Ordering::Acquire), sequence) > 0;
            if is_finished {
                keyed.ready[lane].remove(&sequence);
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
                self.message_bell.ring_if(self.barrier, || wake_readers(&self.bus, &self.core));
            }
            return None;
        }
        keyed.ready[lane].remove(&sequence);
        keyed.hands.push(Hand { lane, sequence, key, attempts: word.attempts, entry: None });
        Some((word, is_worn_out))
    }

    /// The same of an entry of the store.
    fn take_entry(
        &mut self,
        (lane, sequence, key): (usize, u64, u64),
        index: usize,
    ) -> Result<bool, Failure> {
        let Self { keyed: Some(keyed), late: Some(late), core, .. } = self else { return Ok(false) };
        keyed.must_scan = true;
        let Some((partition, mine)) = keyed.has(key, sequence) else { return Ok(false) };
        let Some((_, store)) = late.store(core) else { return Ok(false) };
        let Some((seen, contents)) = store.read(index) else { return Ok(false) };
        if (contents.sequence, usize::from(contents.lane), contents.key) != (sequence, lane, key) {
            return Ok(false);
        }
        let (held, is_worn_out) = match store.claim(index, seen, late.me, late.attempts_max()) {
            AsideClaim::Mine(held) => (held, false),
            AsideClaim::Exhausted(held) => (held, true),
            AsideClaim::Taken => return Ok(false),
        };
        if !keyed.seated.keys().confirm(partition, mine) {
            store.release(held);
            keyed.lose(partition);
            return Ok(false);
        }
        keyed.stored.remove(&(lane, key, sequence));
        if is_worn_out {
            let pause_ns = late.settings.backoff.max_ns.min(u64::MAX / 2);
            self.end_entry(held, true, monotonic_ns() + pause_ns);
            return Ok(false);
        }
        keyed.hands.push(Hand { lane, sequence, key, attempts: held.word.attempts, entry: Some(index) });
        if !self.load_entry(held) || !self.deliver_unusual()? {
            return Ok(false);
        }
        self.count_handed(key, sequence);
        Ok(true)
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
        if self.keyed.as_ref().is_some_and(|keyed| !keyed.unsettled.is_empty()) {
            self.settle(&[]);
        }
        if self.keyed.as_ref().is_some_and(|keyed| keyed.must_scan) {
            self.scan_store();
        }
        if let (Some(keyed), Some(late)) = (&self.keyed, &mut self.late) {
            late.keyed_at_ns = keyed.next_ns();
            late.keyed_due_ns = keyed.due_ns();
        }
    }

    /// What has become of what was handed out? What was given back is to be handed out again.
    fn sweep_hands(&mut self) {
        let Self { keyed: Some(keyed), membership: Membership::Shared(_, owners), late: Some(late), .. } =
            self
        else {
            return;
        };
        if late.kept.len() != keyed.kept_count {
            keyed.kept_count = late.kept.len();
            keyed.must_scan = true;
        }
        // In a batch most are in hand all the while.
        if !keyed.must_sweep && keyed.hands.len() == self.batch.len() + late.kept.len() {
            return;
        }
        keyed.must_sweep = false;
        // A group without a store is asked for it at every look, by a system call.
        let is_any_stored = keyed.hands.iter().any(|hand| hand.entry.is_some());
        let store = if is_any_stored { late.store(&self.core).map(|(_, store)| store) } else { None };
        let mut hands = std::mem::take(&mut keyed.hands);
        hands.retain(|hand| match hand.entry {
            None => {
                let word = owners[hand.lane].look(hand.sequence);
                let is_mine = word.state == state::CLAIMED
                    && word.member == self.participant
                    && word.attempts == hand.attempts;
                // A claim that somebody who lost the partition makes in vain comes to nothing: it is this member's next, too.
                let is_open = !matches!(word.state, state::DONE | state::PARKED);
                if !is_mine && is_open && keyed.owned[partition_of(hand.key, hand.sequence)].is_some() {
                    keyed.ready[hand.lane].insert(hand.sequence, hand.key);
                }
                is_mine
            }
            Some(index) => {
                let word = store.and_then(|store| store.look(index));
                let is_mine = word.is_some_and(|word| {
                    word.state == aside::CLAIMED && word.holder == late.me && word.attempts == hand.attempts
                });
                keyed.must_scan |= !is_mine;
                is_mine
            }
        });
        keyed.hands = hands;
    }

    fn look_about_keyed(&mut self) {
        let now_ns = monotonic_ns();
        self.observe_claims();
        let Some(keyed) = &mut self.keyed else { return };
        if now_ns >= keyed.watch_at_ns {
            keyed.watch_at_ns = now_ns + WATCH_PERIOD_NS;
            let keys = keyed.seated.keys();
            for (index, word) in keys.taken().filter(|(index, _)| *index != keyed.seated.seat.index) {
                let beat = keys.seat_counter(index, in_seat::BEAT).load(Ordering::Relaxed);
                let beat = beat ^ u64::from(word.tag) << 40;
                if keyed.shares.is_expired(Place::Seat { index }, beat, now_ns) {
                    keyed.must_balance |= keyed.silent.insert(index, beat) != Some(beat);
                } else if keyed.silent.get(&index).is_some_and(|&silent| silent != beat) {
                    keyed.silent.remove(&index);
                    keyed.must_balance = true;
                }
            }
            keyed.shares.end_pass();
        }
        if now_ns >= keyed.check_at_ns {
            keyed.check_at_ns = now_ns + CHECK_PERIOD_NS;
            keyed.must_balance = true;
        }
        keyed.must_balance |= keyed.vacant_since_ns.is_some_and(|since_ns| now_ns >= since_ns + VACANT_NS);
        keyed.must_scan |= keyed.rescan_at_ns.is_some_and(|at_ns| now_ns >= at_ns);
        if self.asked.elapsed() >= ASK_PERIOD {
            self.asked = Instant::now();
            repair::release_dead_claims(&self.core, self.bus.participants());
        }
    }

    /// Gives up what is more than its share and takes what nobody has, up to its share.
    fn balance(&mut self) {
        let Some(keyed) = &mut self.keyed else { return };
        let now_ns = monotonic_ns();
        let keys = keyed.seated.keys();
        let me = keyed.seated.seat;
        keyed.must_balance = false;
        // Before the looks: what changes after it is another generation.
        keyed.generation = keys.generation();
        let mut is_pruned = false;
        for partition in 0..PARTS {
            if keyed.owned[partition].is_some_and(|mine| !keys.is_mine(partition, mine)) {
                keyed.owned[partition] = None;
                keyed.owned_count -= 1;
                is_pruned = true;
            }
        }
        let (mut place, mut members) = (0, 0);
        let mut is_silent_seat = [false; 256];
        for (index, word) in keys.taken() {
            let beat = keys.seat_counter(index, in_seat::BEAT).load(Ordering::Relaxed);
            let is_silent = keyed.silent.get(&index) == Some(&(beat ^ u64::from(word.tag) << 40));
            is_silent_seat[usize::from(index)] = is_silent;
            if index == me.index {
                place = members;
            } else if is_silent {
                continue;
            }
            members += 1;
        }
        // By how busy they are, where somebody has asked for that and nobody has come or gone since; else by their number.
        let is_planned = keys.plan_mark() == keys.members_mark();
        let mut target = if is_planned { PARTS } else { share(place, members) };
        let is_others = |partition: usize| {
            let planned = keys.planned(partition);
            is_planned && planned != me.index && !is_silent_seat[usize::from(planned)]
        };
        let mut given_up = 0;
        for partition in (0..PARTS).rev() {
            let is_too_many = keyed.owned_count > target || is_others(partition);
            let Some(mine) = keyed.owned[partition].filter(|_| is_too_many) else { continue };
            let is_in_hand =
                keyed.hands.iter().any(|hand| partition_of(hand.key, hand.sequence) == partition);
            if is_in_hand {
                // When it is no longer in hand.
                keyed.must_balance = true;
                continue;
            }
            keyed.owned[partition] = None;
            keyed.owned_count -= 1;
            is_pruned = true;
            given_up += u32::from(keys.give_up(partition, mine));
        }
        let is_overdue =
            given_up == 0 && keyed.vacant_since_ns.is_some_and(|since_ns| now_ns >= since_ns + VACANT_NS);
        if is_overdue {
            target = PARTS;
        }
        let mut taken = Vec::new();
        let mut is_left = false;
        for offset in 0..PARTS {
            let partition = (place * PARTS / members.max(1) + offset) % PARTS;
            let seen = keys.partition(partition);
            if keyed.owned[partition].is_some() || !keys.is_vacant(seen) {
                continue;
            }
            let is_for_others = keyed.owned_count >= target || !is_overdue && is_others(partition);
            if is_for_others || keyed.is_in_hand(partition) {
                is_left = true;
            } else if let Some(mine) = keys.take(partition, seen, me) {
                keyed.owned[partition] = Some(mine);
                keyed.owned_count += 1;
                taken.push(partition);
            }
        }
        keyed.vacant_since_ns = match (is_left, is_overdue) {
            (false, _) => None,
            (true, true) => Some(now_ns),
            (true, false) => keyed.vacant_since_ns.or(Some(now_ns)),
        };
        if given_up > 0 {
            keys.raise_generation();
        }
        if is_pruned {
            keyed.prune();
            self.ring_members();
        }
        self.settle(&taken);
    }

    /// Somebody ought to look who has what.
    pub(super) fn ring_members(&self) {
        self.message_bell.ring_if(self.barrier, || wake_readers(&self.bus, &self.core));
    }

    /// These partitions have just become this member's: claims that others still have there are taken back, the last first, and what
    /// this member has passed before is to be handed out.
    fn settle(&mut self, taken: &[usize]) {
        let Self { keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), late, core, .. } =
            self
        else {
            return;
        };
        let mut is_new = [false; PARTS];
        let unsettled = std::mem::take(&mut keyed.unsettled);
        taken.iter().chain(&unsettled).for_each(|&partition| is_new[partition] = true);
        if is_new == [false; PARTS] {
            return;
        }
        let mut is_refused = false;
        for (lane, (reader, owners)) in lanes.iter_mut().zip(owners.iter()).enumerate() {
            let from = reader.low_water().map_or(0, |word| word.load(Ordering::Acquire));
            let count = distance(reader.end(), from).clamp(0, core.config().capacity.into()) as u64;
            for sequence in (0..count).rev().map(|index| from.wrapping_add(index)) {
                loop {
                    let seen = owners.look(sequence);
                    if seen.state == state::PARKED
                        && let Some(late) = late
                    {
                        late.finish(core, owners, lane, sequence, seen);
                    }
                    if matches!(seen.state, state::DONE | state::PARKED) {
                        break;
                    }
                    let key = match reader.peek(sequence) {
                        Peek::Key(key) => key,
                        Peek::Refused => {
                            is_refused = true;
                            break;
                        }
                        Peek::Empty | Peek::Gone => break,
                    };
                    let partition = partition_of(key, sequence);
                    let Some(mine) = keyed.owned[partition].filter(|_| is_new[partition]) else { break };
                    if seen.state == state::CLAIMED {
                        // The look at the claim, then that at the partition, then the change.
                        if !keyed.seated.keys().is_mine(partition, mine) {
                            keyed.lose(partition);
                            break;
                        }
                        reader.release_claim(owners, sequence, seen);
                        continue;
                    }
                    if distance(sequence, reader.next()) < 0 && !bus_core::is_broken("keyed_passed_forgotten")
                    {
                        keyed.ready[lane].insert(sequence, key);
                    }
                    break;
                }
            }
        }
        if is_refused {
            // Nothing of them is handed out before everything of them has been seen.
            keyed.unsettled =
                (0..PARTS).filter(|&index| is_new[index] && keyed.owned[index].is_some()).collect();
        }
        keyed.must_scan = true;
    }

    /// What lies in the store of this member's partitions?
    fn scan_store(&mut self) {
        let Self { keyed: Some(keyed), late: Some(late), core, membership, .. } = self else { return };
        let Membership::Shared(_, owners) = &*membership else { return };
        keyed.must_scan = false;
        keyed.rescan_at_ns = None;
        keyed.stored.clear();
        let mut again = false;
        if let Some((_, store)) = late.store(core) {
            for index in 0..store.len() {
                let Some(word) = store.look(index) else { break };
                let is_unfinished =
                    matches!(word.state, aside::STAGED | aside::WAITING | aside::CLAIMED | aside::AMENDING);
                if !is_unfinished {
                    continue;
                }
                let Some((word, contents)) = store.read(index) else {
                    again = true;
                    continue;
                };
                let (lane, sequence) = (usize::from(contents.lane), contents.sequence);
                let Some((partition, mine)) = keyed.has(contents.key, sequence) else { continue };
                if lane >= keyed.ready.len() {
                    continue;
                }
                let not_before_ns = match word.state {
                    aside::WAITING => Some(contents.not_before_ns),
                    aside::CLAIMED if keyed.is_hand(lane, sequence) => continue,
                    aside::CLAIMED => {
                        // A former owner's.
                        if !keyed.seated.keys().is_mine(partition, mine) {
                            keyed.lose(partition);
                            continue;
                        }
                        let _ = store.expire(index, word);
                        again = true;
                        None
                    }
                    aside::STAGED => {
                        // Counts when the message's owner word names it. Else it was prepared by one who has lost the message since.
                        let word = owners[lane].look(sequence);
                        if word.state != state::PARKED {
                            continue;
                        }
                        late.finish(core, &owners[lane], lane, sequence, word);
                        again = true;
                        None
                    }
                    aside::AMENDING => {
                        again = true;
                        None
                    }
                    _ => continue,
                };
                keyed.stored.insert((lane, contents.key, sequence), Stored { index, not_before_ns });
            }
        }
        if again {
            keyed.rescan_at_ns = Some(monotonic_ns() + RESCAN_NS);
        }
        keyed.free_held_back();
    }

    /// Keyed: what a batch has in hand is acknowledged in its order, and where a message was lost, the later ones of its partition are
    /// given back: they come again after it.
    pub(super) fn acknowledge_keyed(&mut self, batch: &[Delivery]) -> usize {
        let mut lost = [false; PARTS];
        let mut count = 0;
        for delivery in batch {
            let partition = partition_of(delivery.found.header.reference, delivery.found.sequence);
            if lost[partition] {
                self.release(delivery);
            } else if self.acknowledge(delivery) {
                count += 1;
            } else {
                lost[partition] = true;
            }
        }
        if let Some(keyed) = &mut self.keyed {
            keyed.must_sweep = true;
            keyed.beat();
        }
        count
    }
}
