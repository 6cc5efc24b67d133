//! What has happened, kept outside of the bus, and the rules that it is held against. Knows nothing of processes.
//!
//! Messages are kept in chunks of a lane. A chunk is forgotten when every message in it is known and finished by every group,
//! and everybody who might still have something to say about it has been heard since; so memory stays bounded.

mod keys;
mod order;
mod readers;
#[cfg(test)]
mod tests;

pub(crate) use readers::ReaderCount;

use crate::page::{Kind, Record};
use crate::plan::{self, LANES, TOPICS};
use keys::Keys;
use order::Told;
use readers::Reader;
use std::collections::{HashMap, VecDeque};

const CHUNK: u64 = 1_024;
/// Sequences that far beyond what is known make no sense.
const FAR: u64 = 1 << 22;
/// Violations whose text is kept.
const TEXTS: usize = 40;
/// After this long, what was acknowledged at the moment of a kill is not expected any more.
const DOUBT_NS: u64 = 10_000_000_000;

/// A message's state in a group.
mod state {
    /// One bit for each attempt, 15 and more being one.
    pub(super) const ATTEMPTS: u32 = 0xffff;
    /// The attempt that finished it, 0 for none.
    pub(super) const DONE: u32 = 0xf << DONE_SHIFT;
    pub(super) const DONE_SHIFT: u32 = 16;
    /// It ended as a dead letter.
    pub(super) const DEAD: u32 = 1 << 20;
    /// Killed in the middle of the acknowledgement: it may come again or not.
    pub(super) const DOUBT: u32 = 1 << 21;
    /// So it was, and it has not come again for long.
    pub(super) const SETTLED: u32 = 1 << 22;
    /// Rejected; the announcement is still to come.
    pub(super) const REJECTED: u32 = 1 << 23;
    /// The attempt that was rejected.
    pub(super) const REJECTING: u32 = 0xf << REJECTING_SHIFT;
    pub(super) const REJECTING_SHIFT: u32 = 24;

    pub(super) fn is_finished(state: u32) -> bool {
        state & (DONE | DEAD | SETTLED) != 0
    }

    pub(super) fn bit(attempts: u8) -> u32 {
        1 << attempts.min(15)
    }
}

/// What a group did.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupCount {
    pub(crate) delivered: u64,
    pub(crate) redelivered: u64,
    pub(crate) unmarked: u64,
    pub(crate) acked: u64,
    pub(crate) dead: u64,
    /// Acknowledged at the moment of a kill: finished, but nobody lived to say so.
    pub(crate) doubtful: u64,
    pub(crate) rejected_pending: u64,
    /// Acknowledged too late.
    pub(crate) refused: u64,
    /// Nanoseconds from kills to redeliveries.
    pub(crate) repairs_ns: Vec<u64>,
    /// Kills of members.
    pub(crate) kills: u64,
}

/// How often what is tried only now and then has happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Messages that were published in a batch.
    pub(crate) batched: u64,
    /// Grants of more time.
    pub(crate) extended: u64,
    /// Messages acknowledged by a member that had held them for longer than its group waits, thanks to them.
    pub(crate) outlived: u64,
    /// Messages of a batch for which the store had no room.
    pub(crate) no_room: u64,
    /// Rejected messages that came again because the store had none.
    pub(crate) came_again: u64,
}

/// What did not hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) lost: u64,
    pub(crate) out_of_order: u64,
    pub(crate) other: u64,
    pub(crate) texts: Vec<String>,
}

impl Findings {
    fn text(&mut self, text: String) {
        if self.texts.len() < TEXTS {
            self.texts.push(text);
        }
    }

    /// Something else than a loss or a wrong order.
    pub(crate) fn note(&mut self, text: String) {
        self.other += 1;
        self.text(text);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.out_of_order + self.other == 0
    }
}

struct Chunk {
    ids: Vec<u64>,
    known: u64,
    groups: Vec<(Vec<u32>, u64)>,
    /// The period in which it was found complete.
    complete: Option<u64>,
}

struct Lane {
    /// Number of the first chunk that is kept.
    floor: u64,
    chunks: VecDeque<Chunk>,
    /// The sequence after the highest that is known.
    end: u64,
    /// Everything before it has been looked at in order.
    walked: u64,
    /// What is known of each producer.
    producers: HashMap<usize, Told>,
}

struct Topic {
    lanes: [Lane; LANES],
    groups: Vec<GroupCount>,
    published: u64,
    accepted: u64,
}

/// A message in a worker's hands.
struct InHand {
    attempts: u8,
    is_acking: bool,
    /// When its member was about to be done with it.
    ending_ns: u64,
    /// Of a keyed group.
    key: Option<u64>,
    since_ns: u64,
    /// When more time was last granted.
    extended_ns: Option<u64>,
}

/// What is known of the process in one place.
#[derive(Default)]
struct Place {
    /// Topic and group, if it is a member.
    member: Option<(usize, usize)>,
    in_hand: HashMap<(u8, u64), InHand>,
    last: [Option<u64>; LANES],
    /// If it may be overtaken.
    reader: Reader,
}

struct Doubt {
    at_ns: u64,
    message: Message,
}

type Message = (usize, usize, u8, u64);

/// The history of a run.
pub(crate) struct History {
    topics: Vec<Topic>,
    places: Vec<Place>,
    doubts: VecDeque<Doubt>,
    /// By topic, group and lane, of keyed groups.
    keys: HashMap<(usize, usize, u8), Keys>,
    /// Messages that a killed member had in hand, and when it was killed.
    orphans: HashMap<Message, u64>,
    period: u64,
    pub(crate) taps: Vec<ReaderCount>,
    pub(crate) yielders: Vec<ReaderCount>,
    pub(crate) tally: Tally,
    pub(crate) findings: Findings,
}

impl Lane {
    fn slot(&mut self, groups: usize, sequence: u64) -> Option<(&mut Chunk, usize)> {
        let index = (sequence / CHUNK).checked_sub(self.floor)?;
        if sequence > self.end + FAR {
            return None;
        }
        while self.chunks.len() as u64 <= index {
            self.chunks.push_back(Chunk {
                ids: vec![0; CHUNK as usize],
                known: 0,
                groups: vec![(vec![0; CHUNK as usize], 0); groups],
                complete: None,
            });
        }
        Some((&mut self.chunks[index as usize], (sequence % CHUNK) as usize))
    }

    fn id(&self, sequence: u64) -> u64 {
        let index = (sequence / CHUNK).checked_sub(self.floor);
        let chunk = index.and_then(|index| self.chunks.get(index as usize));
        chunk.map_or(0, |chunk| chunk.ids[(sequence % CHUNK) as usize])
    }
}

fn name(topic: usize, group: usize) -> String {
    format!("{}/{}", TOPICS[topic].name, TOPICS[topic].groups[group].name)
}

impl History {
    /// Of as many places; `members` tells which group a place belongs to.
    pub(crate) fn new(members: impl IntoIterator<Item = Option<(usize, usize)>>) -> Self {
        let lane =
            || Lane { floor: 0, chunks: VecDeque::new(), end: 0, walked: 0, producers: HashMap::new() };
        let topics = TOPICS.iter().map(|plan| Topic {
            lanes: std::array::from_fn(|_| lane()),
            groups: vec![GroupCount::default(); plan.groups.len()],
            published: 0,
            accepted: 0,
        });
        Self {
            topics: topics.collect(),
            places: members.into_iter().map(|member| Place { member, ..Place::default() }).collect(),
            doubts: VecDeque::new(),
            keys: HashMap::new(),
            orphans: HashMap::new(),
            period: 0,
            taps: vec![ReaderCount::default(); TOPICS.len()],
            yielders: vec![ReaderCount::default(); TOPICS.len()],
            tally: Tally::default(),
            findings: Findings::default(),
        }
    }

    pub(crate) fn group(&self, topic: usize, group: usize) -> &GroupCount {
        &self.topics[topic].groups[group]
    }

    /// Messages that are known to be published: accepted, or delivered to somebody.
    pub(crate) fn published(&self, topic: usize) -> u64 {
        self.topics[topic].published
    }

    /// Messages for which `publish` returned Ok.
    pub(crate) fn accepted(&self) -> u64 {
        self.topics.iter().map(|topic| topic.accepted).sum()
    }

    /// The sequence after the last that is known.
    pub(crate) fn end(&self, topic: usize, lane: usize) -> u64 {
        self.topics[topic].lanes[lane].end
    }

    /// Messages that a group has not finished, as far as anybody can know.
    pub(crate) fn pending(&self, topic: usize, group: usize) -> u64 {
        let count = &self.topics[topic].groups[group];
        let done = count.acked + count.dead + count.doubtful + count.rejected_pending;
        self.topics[topic].published.saturating_sub(done)
    }

    /// A message of this sequence has this content.
    fn content(&mut self, topic: usize, lane: u8, sequence: u64, id: u64, whence: &str) -> bool {
        let plan = &TOPICS[topic];
        let at = &mut self.topics[topic];
        let Some(of_lane) = at.lanes.get_mut(usize::from(lane)) else {
            self.findings.note(format!("{whence}: {} has no lane {lane}", plan.name));
            return false;
        };
        let Some((chunk, index)) = of_lane.slot(plan.groups.len(), sequence) else {
            let text =
                format!("{whence}: {} lane {lane} message {sequence} was finished long ago", plan.name);
            self.findings.note(text);
            return false;
        };
        let known = chunk.ids[index];
        if known == id {
            return true;
        }
        if known != 0 {
            let text =
                format!("{whence}: {} lane {lane} message {sequence} is {id:x}, was {known:x}", plan.name);
            self.findings.note(text);
            return false;
        }
        chunk.ids[index] = id;
        chunk.known += 1;
        of_lane.end = of_lane.end.max(sequence + 1);
        at.published += 1;
        if plan::lane_of(id).0 != lane {
            self.findings.note(format!("{whence}: {} {id:x} is in lane {lane}", plan.name));
        }
        true
    }

    /// What the worker in a place says. `intended` tells how far a producer has meant to publish.
    pub(crate) fn record(
        &mut self,
        place: usize,
        topic: usize,
        record: Record,
        intended: impl Fn(usize) -> u64,
    ) {
        let Record { kind, lane, attempts, sequence, id, at_ns } = record;
        match kind {
            Kind::Started => {
                let member = self.places[place].member;
                self.places[place] = Place { member, ..Place::default() };
            }
            Kind::Accepted => {
                self.topics[topic].accepted += 1;
                self.content(topic, lane, sequence, id, "publish returned Ok");
                self.told(topic, lane, id, true);
            }
            Kind::Batched => {
                self.topics[topic].accepted += 1;
                self.tally.batched += 1;
                self.told(topic, lane, id, false);
            }
            Kind::Torn => {
                let plan = TOPICS[topic].name;
                self.findings.note(format!("{plan} lane {lane} message {sequence} is nobody's, or torn"));
            }
            Kind::Missed | Kind::Begins | Kind::Counted => self.reader_says(place, topic, record),
            Kind::NoRoom => self.tally.no_room += 1,
            Kind::Extended => {
                if let Some(in_hand) = self.places[place].in_hand.get_mut(&(lane, sequence)) {
                    in_hand.extended_ns = Some(at_ns);
                    self.tally.extended += 1;
                }
            }
            Kind::Dead => self.dead((id >> 8) as usize, (id & 0xff) as usize, lane, sequence, attempts),
            Kind::Handed => {
                let (producer, count) = plan::parts_of(id);
                if count > intended(producer) {
                    self.findings.note(format!("{id:x} was delivered and never published"));
                }
                if !self.content(topic, lane, sequence, id, "delivered") {
                    return;
                }
                match self.places[place].member {
                    Some((_, group)) => {
                        let message = (topic, group, lane, sequence);
                        let key = plan::key_of(topic, id).filter(|_| TOPICS[topic].groups[group].keyed);
                        if let Some(key) = key {
                            self.handed_of_key(place, message, key, at_ns);
                        }
                        self.handed(place, message, (attempts, key), at_ns);
                    }
                    None => self.reader_says(place, topic, record),
                }
            }
            Kind::Acking | Kind::Ending => {
                if let Some(in_hand) = self.places[place].in_hand.get_mut(&(lane, sequence)) {
                    in_hand.is_acking = kind == Kind::Acking;
                    in_hand.ending_ns = at_ns;
                }
            }
            Kind::Acked | Kind::Returned | Kind::Rejected | Kind::Refused => {
                let held = self.places[place].in_hand.remove(&(lane, sequence));
                let Some((_, group)) = self.places[place].member else { return };
                if let Some(held) = held {
                    self.let_go_of(&held, (topic, group, lane, sequence), kind, at_ns);
                }
                match kind {
                    Kind::Acked => self.acked((topic, group, lane, sequence), attempts),
                    Kind::Rejected => self.rejected((topic, group, lane, sequence), attempts),
                    Kind::Refused => {
                        self.topics[topic].groups[group].refused += 1;
                        if TOPICS[topic].groups[group].ack_wait.is_zero() {
                            let text = format!("{}: {sequence} was taken away", name(topic, group));
                            self.findings.note(text);
                        }
                        // Of a batch it is not known which were refused.
                        if id == 0 {
                            self.doubt((topic, group, lane, sequence), attempts, at_ns);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A producer was told that this message is published.
    fn told(&mut self, topic: usize, lane: u8, id: u64, is_placed: bool) {
        let Some(of_lane) = self.topics[topic].lanes.get_mut(usize::from(lane)) else { return };
        if !of_lane.told(id, is_placed) {
            self.findings.lost += 1;
            let text = format!("{} lane {lane}: {id:x} of a batch is lost", TOPICS[topic].name);
            self.findings.text(text);
        }
    }

    /// A member has settled a message, or could not. What was granted more time is its holder's for that long.
    fn let_go_of(&mut self, held: &InHand, message: Message, kind: Kind, at_ns: u64) {
        let (topic, group, lane, sequence) = message;
        if let Some(key) = held.key.filter(|_| matches!(kind, Kind::Acked | Kind::Rejected)) {
            let whence = (topic, group, lane);
            let keys = self.keys.entry(whence).or_default();
            keys.finished((key, sequence), held.ending_ns, whence, &mut self.findings);
        }
        let Some(extended_ns) = held.extended_ns else { return };
        let wait_ns = TOPICS[topic].groups[group].ack_wait.as_nanos() as u64;
        let since_ns = at_ns.saturating_sub(extended_ns);
        if kind == Kind::Refused && since_ns < wait_ns {
            let (who, ms) = (name(topic, group), since_ns / 1_000_000);
            let text = format!(
                "{who} lane {lane} message {sequence} was taken away {ms} ms after more time was granted"
            );
            self.findings.note(text);
        }
        if kind == Kind::Acked && at_ns.saturating_sub(held.since_ns) > wait_ns {
            self.tally.outlived += 1;
        }
    }

    fn state(
        &mut self,
        (topic, group, lane, sequence): Message,
    ) -> Option<(&mut u32, &mut u64, &mut GroupCount)> {
        let at = &mut self.topics[topic];
        let (chunk, index) = at.lanes[usize::from(lane)].slot(TOPICS[topic].groups.len(), sequence)?;
        let (states, finished) = &mut chunk.groups[group];
        Some((&mut states[index], finished, &mut at.groups[group]))
    }

    fn handed_of_key(&mut self, place: usize, message: Message, key: u64, at_ns: u64) {
        let (topic, group, lane, sequence) = message;
        let is_its = |held: &(&(u8, u64), &InHand)| held.0.0 == lane && held.1.key == Some(key);
        let in_hand = self.places[place].in_hand.iter().filter(is_its);
        let held = in_hand.map(|((_, sequence), _)| *sequence).collect();
        let whence = (topic, group, lane);
        let keys = self.keys.entry(whence).or_default();
        keys.handed((key, sequence), at_ns, held, whence, &mut self.findings);
    }

    fn handed(&mut self, place: usize, message: Message, (attempts, key): (u8, Option<u64>), at_ns: u64) {
        let (topic, group, lane, sequence) = message;
        let is_shared = TOPICS[topic].groups[group].is_shared();
        let has_small_store = TOPICS[topic].groups[group].has_small_store();
        let repaired_ns = (attempts > 1).then(|| self.orphans.remove(&message)).flatten();
        let Some((state, finished, count)) = self.state(message) else { return };
        let mut wrong = Vec::new();
        count.delivered += 1;
        if attempts > 1 {
            count.redelivered += 1;
        } else if *state & state::ATTEMPTS != 0 && (!is_shared || *state & state::bit(1) != 0) {
            count.unmarked += 1;
            wrong.push("came again without being marked");
        }
        if let Some(killed_ns) = repaired_ns {
            count.repairs_ns.push(at_ns.saturating_sub(killed_ns));
        }
        let done = (*state & state::DONE) >> state::DONE_SHIFT;
        // A member that was stopped may tell late of an attempt that came before.
        let by_position = !is_shared && *state & state::DEAD == 0;
        if done != 0 && (by_position || u32::from(attempts.min(15)) > done) {
            wrong.push("was finished, and was handed out again");
        }
        if *state & state::SETTLED != 0 {
            wrong.push("was acknowledged at a kill long ago, and was handed out again");
        }
        if is_shared && attempts < 15 && *state & state::bit(attempts) != 0 {
            wrong.push("was handed out twice as the same attempt");
        }
        if *state & state::DOUBT != 0 && (!is_shared || *state & state::ATTEMPTS < state::bit(attempts)) {
            *state &= !state::DOUBT;
            count.doubtful -= 1;
        }
        *state |= state::bit(attempts);
        let _ = finished;
        let rejecting = (*state & state::REJECTING) >> state::REJECTING_SHIFT;
        let mut came_again = 0;
        // One member's numbers may stay the same, but what it says stands in order.
        let is_after = !is_shared || u32::from(attempts.min(15)) > rejecting;
        if *state & state::REJECTED != 0 && is_after {
            if has_small_store {
                // There was no room for it as a dead letter, and its member has gone, or could not pass it.
                *state &= !(state::REJECTED | state::REJECTING);
                count.rejected_pending -= 1;
                came_again = 1;
            } else {
                wrong.push("was rejected, and was handed out again");
            }
        }
        self.tally.came_again += came_again;
        for wrong in wrong {
            let text = format!("{} lane {lane} message {sequence} {wrong} ({attempts})", name(topic, group));
            self.findings.note(text);
        }
        let place = &mut self.places[place];
        let last = &mut place.last[usize::from(lane)];
        // Members of a keyed group get what others have left, too.
        if attempts == 1 && !TOPICS[topic].groups[group].keyed {
            if last.is_some_and(|last| sequence <= last) {
                self.findings.out_of_order += 1;
                let text = format!("{} lane {lane}: {sequence} after {last:?}", name(topic, group));
                self.findings.text(text);
            }
            *last = Some(sequence);
        }
        place.in_hand.insert(
            (lane, sequence),
            InHand { attempts, is_acking: false, ending_ns: 0, key, since_ns: at_ns, extended_ns: None },
        );
    }

    fn acked(&mut self, message: Message, attempts: u8) {
        let (topic, group, lane, sequence) = message;
        let is_shared = TOPICS[topic].groups[group].is_shared();
        let Some((state, finished, count)) = self.state(message) else {
            self.findings.note(format!("{} {sequence} acknowledged long after", name(topic, group)));
            return;
        };
        let later = *state & state::ATTEMPTS & !(state::bit(attempts) * 2 - 1);
        let wrong = if *state & (state::DONE | state::DEAD) != 0 {
            Some("was acknowledged Ok and had been finished before")
        } else if is_shared && attempts < 15 && later != 0 {
            Some("was acknowledged Ok and had been given to another")
        } else {
            None
        };
        if *state & (state::DONE | state::DEAD) == 0 {
            *finished += u64::from(!state::is_finished(*state));
            count.acked += 1;
            *state |= u32::from(attempts.clamp(1, 15)) << state::DONE_SHIFT;
        }
        if let Some(wrong) = wrong {
            self.findings.note(format!("{} lane {lane} message {sequence} {wrong}", name(topic, group)));
        }
    }

    fn rejected(&mut self, message: Message, attempts: u8) {
        let (topic, group, lane, sequence) = message;
        let has_small_store = TOPICS[topic].groups[group].has_small_store();
        let Some((state, _, count)) = self.state(message) else { return };
        // Heard of late: it has come again since.
        let later = *state & state::ATTEMPTS & !(state::bit(attempts) * 2 - 1);
        let has_come_again = later != 0 && attempts < 15 && *state & state::DEAD == 0;
        if has_come_again {
            self.tally.came_again += u64::from(has_small_store);
            if !has_small_store {
                let text = format!("{} lane {lane} message {sequence} was rejected", name(topic, group));
                self.findings.note(format!("{text} ({attempts}), and was handed out again"));
            }
        } else if *state & (state::REJECTED | state::DEAD) == 0 {
            *state |= state::REJECTED | u32::from(attempts.min(15)) << state::REJECTING_SHIFT;
            count.rejected_pending += 1;
        }
    }

    fn dead(&mut self, topic: usize, group: usize, lane: u8, sequence: u64, attempts: u8) {
        let Some((state, finished, count)) = self.state((topic, group, lane, sequence)) else {
            // Announced at least once.
            return;
        };
        if *state & state::DEAD != 0 {
            return;
        }
        let later = *state & state::ATTEMPTS & !(state::bit(attempts) * 2 - 1);
        let is_acked = *state & state::DONE != 0;
        if *state & state::REJECTED != 0 {
            count.rejected_pending -= 1;
        }
        if *state & state::DOUBT != 0 {
            count.doubtful -= 1;
        }
        *state &= !(state::DOUBT | state::REJECTED | state::REJECTING);
        *finished += u64::from(!state::is_finished(*state));
        *state |= state::DEAD;
        if !is_acked {
            *state |= u32::from(attempts.clamp(1, 15)) << state::DONE_SHIFT;
            count.dead += 1;
        }
        if is_acked || (later != 0 && attempts < 15) {
            let text = format!("{} lane {lane} message {sequence} is a dead letter", name(topic, group));
            self.findings.note(format!("{text} ({attempts}) and was acknowledged, or handed out after that"));
        }
    }

    /// It may have been finished: whoever knows has been killed.
    fn doubt(&mut self, message: Message, attempts: u8, at_ns: u64) {
        let Some((state, _, count)) = self.state(message) else { return };
        let later = *state & state::ATTEMPTS & !(state::bit(attempts) * 2 - 1);
        if state::is_finished(*state) || *state & state::DOUBT != 0 || later != 0 {
            return;
        }
        *state |= state::DOUBT;
        count.doubtful += 1;
        self.doubts.push_back(Doubt { at_ns, message });
    }

    /// The process in a place has ended. `killed_ns` is when, if it did not leave by itself.
    pub(crate) fn ended(&mut self, place: usize, killed_ns: Option<u64>) {
        let in_hand = std::mem::take(&mut self.places[place].in_hand);
        let (Some((topic, group)), Some(at_ns)) = (self.places[place].member, killed_ns) else { return };
        self.topics[topic].groups[group].kills += 1;
        for ((lane, sequence), held) in in_hand {
            let message = (topic, group, lane, sequence);
            if held.is_acking {
                self.doubt(message, held.attempts, at_ns);
            } else {
                self.orphans.insert(message, at_ns);
            }
        }
    }

    /// Everybody has been heard since the last call: lets go of what is complete.
    pub(crate) fn next_period(&mut self, now_ns: u64) {
        self.period += 1;
        while self.doubts.front().is_some_and(|doubt| now_ns.saturating_sub(doubt.at_ns) > DOUBT_NS) {
            self.settle_doubt();
        }
        let period = self.period;
        for (plan, topic) in TOPICS.iter().zip(&mut self.topics) {
            for (number, lane) in topic.lanes.iter_mut().enumerate() {
                lane.walk(plan.name, number, &mut self.findings);
                let walked = lane.walked / CHUNK;
                for (index, chunk) in (lane.floor..).zip(&mut lane.chunks) {
                    let is_complete = chunk.known == CHUNK
                        && index < walked
                        && chunk.groups.iter().all(|(_, finished)| *finished == CHUNK);
                    if is_complete && chunk.complete.is_none() {
                        chunk.complete = Some(period);
                    }
                }
                while lane
                    .chunks
                    .front()
                    .is_some_and(|chunk| chunk.complete.is_some_and(|at| at + 2 < period))
                {
                    lane.chunks.pop_front();
                    lane.floor += 1;
                }
            }
        }
        let mut keys = std::mem::take(&mut self.keys);
        keys.iter_mut().for_each(|(&(topic, _, lane), keys)| keys.forget(self.floor(topic, lane)));
        self.keys = keys;
    }

    /// The first sequence of a lane that is kept.
    fn floor(&self, topic: usize, lane: u8) -> u64 {
        self.topics[topic].lanes[usize::from(lane)].floor * CHUNK
    }

    fn settle_doubt(&mut self) {
        let Some(doubt) = self.doubts.pop_front() else { return };
        if let Some((state, finished, _)) = self.state(doubt.message)
            && *state & state::DOUBT != 0
        {
            *finished += u64::from(!state::is_finished(*state));
            *state |= state::SETTLED;
        }
    }

    /// Nothing will happen any more: what has not been finished is lost.
    pub(crate) fn finish(&mut self) {
        while !self.doubts.is_empty() {
            self.settle_doubt();
        }
        for (topic, plan) in TOPICS.iter().enumerate() {
            for lane in 0..LANES {
                self.topics[topic].lanes[lane].walk(plan.name, lane, &mut self.findings);
                let of_lane = &self.topics[topic].lanes[lane];
                of_lane.nothing_is_owed(plan.name, lane, &mut self.findings);
                for sequence in of_lane.floor * CHUNK..of_lane.end {
                    let (index, at) = (sequence / CHUNK - of_lane.floor, (sequence % CHUNK) as usize);
                    let chunk = &of_lane.chunks[index as usize];
                    for (group, (states, _)) in chunk.groups.iter().enumerate() {
                        if !state::is_finished(states[at]) {
                            self.findings.lost += 1;
                            let (who, state) = (name(topic, group), states[at]);
                            let text = format!("{who} lane {lane} message {sequence} is lost ({state:x})");
                            self.findings.text(text);
                        }
                    }
                }
            }
        }
    }
}
