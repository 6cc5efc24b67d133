//! Publication by many producers: the message goes into a cell of the producer's own arena, and one
//! compare-and-swap on the slot's word claims the sequence and publishes the message at once.
//!
//! **Processes.** Two producers, one consumer that is a group by itself and may be joined from the start,
//! join later (at the end of the lane or at its oldest message), leave and join again, and optionally a
//! repairer that removes the arena of a dead producer. Any of the first three may be killed anywhere.
//!
//! **State and who writes it.** Two slot words, each a lap and a producer (producers, by compare-and-swap on
//! the value seen). The gate and the generation (whoever scans the groups raises the gate, the joining
//! consumer counts the generation). The group's state and `low_water` (the consumer). One cell a producer, so
//! that every message after the first has to reuse it (its producer). Removed arenas and the end seen after a
//! death (the repairer). Everything else is private to a process. `log` is the observer's list of what was
//! published at which sequence; no process reads it, except that its length stands for a walk to the end of
//! the lane.
//!
//! **What releases memory.** A scan raises the gate word before it knows whether it missed a group; if it
//! did, it starts over, but the word stays high. So the gate word says where a group may start, and not what
//! may be overwritten. That is known only to the one whose scan ended with an unchanged generation, who keeps
//! it for itself ([`Variant::Correct`]) or raises a second word with it, which others may use
//! ([`Variant::ReleasedWord`]).
//!
//! **The hint** is not stored at all: a producer that reads it gets any sequence whatever, from the first one
//! to one past everything that will ever be published. So nothing here rests on it, neither in time nor in
//! value.
//!
//! **Left out.** Payload sizes and arena layout (a cell is rewritten in two steps, between which it is torn),
//! batches, more than one group (see the gate's own model), weak memory. Sequences start with the first lap,
//! so that fresh slot words, which are of lap 0, count as published for the sequences before it and the
//! predecessor check needs no special case.
//!
//! **Invariants.** A message is published at the end of the lane, never beyond it or twice. All unread
//! messages of a joined group are in their slots, with their cells intact and their arenas present. What the
//! consumer reads is what the log says. No gate that a process acts on passes a joined group, and the gate
//! word never passes the end. Progress: whatever has died, every live producer can still publish everything
//! (unless the consumer died while its group is active: that is backpressure), and a live, joined consumer
//! can still read everything.
//!
//! **Broken variants.** [`Variant::GateWord`]: a cell is rewritten on the strength of a gate that a scan
//! raised and then discarded, and the group that had just joined reads foreign bytes.
//! [`Variant::NoPredecessorCheck`]: a hint that is ahead lets a producer publish with a gap behind it.
//! [`Variant::ReuseBeforeRelease`]: a cell is rewritten after its message was overtaken by newer ones but
//! before the group has let go of it. [`Variant::UnlinkAtDeath`]: an arena disappears with its producer while
//! messages in it are unread.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus: each producer acts on the gates that its own scans confirmed.
    Correct,
    /// As good: confirmed gates are also published in a word of their own, from which all may profit.
    ReleasedWord,
    /// What is free is read from the gate word, which unconfirmed scans raise too.
    GateWord,
    /// A producer that finds its slot free publishes there, whatever the slot before it holds.
    NoPredecessorCheck,
    /// A producer rewrites its cell without asking the gate.
    ReuseBeforeRelease,
    /// A dead producer's arena is removed at once, not when the gate has passed what it may hold.
    UnlinkAtDeath,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Publish {
    /// The protocol.
    pub variant: Variant,
    /// How many messages each producer publishes.
    pub quota: [u8; 2],
    /// Whether the consumer's group exists from the start.
    pub joined: bool,
    /// How often the consumer may join (again).
    pub joins: u8,
    /// Whether a join asks for the oldest message, not the newest.
    pub historic: bool,
    /// Whether a repairer removes the arenas of dead producers.
    pub unlink: bool,
    /// How many processes may be killed.
    pub kills: u8,
}

const PRODUCERS: usize = 2;
const SLOTS: u8 = 2;
/// The first sequence: the first of lap 1.
const FIRST: u8 = SLOTS;
const LOG: usize = 5;
/// The repairer scans groups like a producer and takes the place after them.
const REPAIRER: usize = PRODUCERS;
const NAMES: [&str; PRODUCERS + 1] = ["P0", "P1", "R"];
const CONSUMER: &str = "C";

/// Contents of a cell that is being written.
const TORN: u8 = 255;
/// Contents of a cell whose arena was removed.
const REMOVED: u8 = 254;

/// A slot's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Word {
    lap: u8,
    producer: u8,
}

/// Where a producer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Start,
    WriteEnd,
    Hint,
    Slot,
    Predecessor,
    Room,
    Swap,
    Generation,
    GroupState,
    GroupCursor,
    RaiseGate,
    Recheck,
    Confirm,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Producer {
    at: At,
    /// Messages published.
    sent: u8,
    /// The sequence whose message is in the cell, 0 for none.
    last: u8,
    /// The highest gate that this process knows to be confirmed.
    cached: u8,
    /// The sequence it tries to publish at.
    s: u8,
    /// The word it saw there.
    word: Word,
    /// The generation it saw, and the gate it has computed so far.
    generation: u8,
    candidate: u8,
    /// Whether the message is written: tells a recompute for the cell from one for the slot.
    written: bool,
    /// Set by a recompute, so that a lack of room after it is final for this try.
    recomputed: bool,
}

/// Where the consumer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Reader {
    #[default]
    Out,
    SetState,
    SetCursor,
    Activate,
    Count,
    ReadGate,
    Start,
    Idle,
    Holding,
    Dead,
    DeadActive,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Group {
    #[default]
    Free,
    Joining,
    Active,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    slots: [Word; SLOTS as usize],
    gate: u8,
    released: u8,
    generation: u8,
    group: Group,
    low_water: u8,
    cells: [u8; PRODUCERS],
    producers: [Producer; PRODUCERS + 1],
    reader: Reader,
    /// The start the consumer asked for or got; while reading, the word in its hand.
    start: u8,
    word: Word,
    joins: u8,
    kills: u8,
    /// The end of the lane that the repairer saw after a producer's death, 0 before.
    unlink_at: [u8; PRODUCERS],
    log: [u8; LOG],
    published: u8,
    error: Option<Fault>,
}

/// What a step did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    Hole,
    WrongMessage,
    Overrun,
}

fn lap(sequence: u8) -> u8 {
    sequence / SLOTS
}

fn slot(sequence: u8) -> usize {
    usize::from(sequence % SLOTS)
}

/// The number that stands for a message: its producer and its place in that producer's stream.
fn message(producer: usize, number: u8) -> u8 {
    producer as u8 * 16 + number + 1
}

impl State {
    fn end(&self) -> u8 {
        FIRST + self.published
    }

    fn logged(&self, sequence: u8) -> u8 {
        self.log[usize::from(sequence - FIRST)]
    }

    /// Whether the group has been promised every message from `low_water` on.
    fn joined(&self) -> bool {
        matches!(self.reader, Reader::Idle | Reader::Holding | Reader::DeadActive)
    }
}

impl Publish {
    fn produce(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.producers[who];
        let name = NAMES[who];
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Producer)| {
            let mut next = state.clone();
            let mut producer = me;
            change(&mut next, &mut producer);
            next.producers[who] = producer;
            out.push((Step::with(name, what, value), next));
        };
        let known = match self.variant {
            Variant::GateWord => me.cached.max(state.gate),
            Variant::ReleasedWord => me.cached.max(state.released),
            _ => me.cached,
        };
        let room = i16::from(me.s) - i16::from(known) < i16::from(SLOTS);
        match me.at {
            At::Start if who == REPAIRER || me.sent == self.quota[who] => {}
            At::Start => {
                let released = me.last == 0 || known > me.last;
                if released || self.variant == Variant::ReuseBeforeRelease {
                    go("starts to write its cell for message", me.sent, &|n, p| {
                        n.cells[who] = TORN;
                        *p = Producer { at: At::WriteEnd, last: 0, recomputed: false, ..*p };
                    });
                } else {
                    go("recomputes the gate for its cell, all published before", me.last + 1, &|_, p| {
                        *p = Producer { at: At::Generation, s: p.last + 1, ..*p };
                    });
                }
            }
            At::WriteEnd => go("ends writing its cell for message", me.sent, &|n, p| {
                n.cells[who] = message(who, p.sent);
                *p = Producer { at: At::Hint, written: true, ..*p };
            }),
            At::Hint => {
                let total: u8 = self.quota.iter().sum();
                for hint in FIRST..=FIRST + total + 1 {
                    go("reads a hint", hint, &|_, p| *p = Producer { at: At::Slot, s: hint, ..*p });
                }
            }
            At::Slot => go("reads the slot of", me.s, &|n, p| {
                let word = n.slots[slot(p.s)];
                match word.lap.cmp(&lap(p.s)) {
                    std::cmp::Ordering::Less => *p = Producer { at: At::Predecessor, word, ..*p },
                    std::cmp::Ordering::Equal => p.s += 1,
                    std::cmp::Ordering::Greater => *p = Producer { at: At::Hint, s: 0, ..*p },
                }
            }),
            At::Predecessor if self.variant == Variant::NoPredecessorCheck => {
                go("skips the predecessor of", me.s, &|_, p| p.at = At::Room);
            }
            At::Predecessor => go("checks the predecessor of", me.s, &|n, p| {
                if n.slots[slot(p.s - 1)].lap >= lap(p.s - 1) {
                    p.at = At::Room;
                } else {
                    *p = Producer { at: At::Slot, s: p.s - 1, word: Word::default(), ..*p };
                }
            }),
            At::Room if room => go("has room for", me.s, &|_, p| {
                *p = Producer { at: At::Swap, recomputed: false, ..*p };
            }),
            At::Room if me.recomputed => go("finds the lane full at", me.s, &|_, p| {
                *p = Producer { at: At::Hint, s: 0, word: Word::default(), recomputed: false, ..*p };
            }),
            At::Room => go("recomputes the gate for", me.s, &|_, p| p.at = At::Generation),
            At::Swap => go("swaps the word of", me.s, &|n, p| swap(n, p, who)),
            At::Generation => go("reads the generation", state.generation, &|n, p| {
                *p = Producer { at: At::GroupState, generation: n.generation, candidate: p.s, ..*p };
            }),
            At::GroupState => go("reads the group's state", 0, &|n, p| {
                p.at = if n.group == Group::Active { At::GroupCursor } else { At::RaiseGate };
            }),
            At::GroupCursor => go("reads low_water", state.low_water, &|n, p| {
                *p = Producer { at: At::RaiseGate, candidate: p.candidate.min(n.low_water), ..*p };
            }),
            At::RaiseGate => go("raises the gate to", me.candidate, &|n, p| {
                n.gate = n.gate.max(p.candidate);
                p.at = At::Recheck;
            }),
            At::Recheck if me.generation != state.generation => {
                go("sees a new generation", state.generation, &|_, p| {
                    *p = Producer { at: At::Generation, generation: 0, candidate: 0, ..*p };
                });
            }
            At::Recheck => go("confirms the gate", me.candidate, &|_, p| {
                p.cached = p.cached.max(p.candidate);
                *p = Producer { generation: 0, candidate: 0, ..*p };
                if self.variant == Variant::ReleasedWord {
                    p.at = At::Confirm;
                } else {
                    resume(p);
                }
            }),
            At::Confirm => go("publishes the confirmed gate", me.cached, &|n, p| {
                n.released = n.released.max(p.cached);
                resume(p);
            }),
            At::Dead => {}
        }
    }

    fn consume(&self, state: &State, out: &mut Successors<State>) {
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::with(CONSUMER, what, value), next));
        };
        match state.reader {
            Reader::Out if state.joins < self.joins => {
                let start = if self.historic { FIRST } else { state.end() };
                go("wants to join at", start, &|n| {
                    n.joins += 1;
                    n.start = start;
                    n.reader = Reader::SetState;
                });
            }
            Reader::SetState => go("announces that it joins", 0, &|n| {
                n.group = Group::Joining;
                n.reader = Reader::SetCursor;
            }),
            Reader::SetCursor => go("sets low_water", state.start, &|n| {
                n.low_water = n.start;
                n.reader = Reader::Activate;
            }),
            Reader::Activate => go("becomes active", 0, &|n| {
                n.group = Group::Active;
                n.reader = Reader::Count;
            }),
            Reader::Count => go("counts the generation", state.generation + 1, &|n| {
                n.generation += 1;
                n.reader = Reader::ReadGate;
            }),
            Reader::ReadGate => go("reads the gate", state.gate, &|n| {
                n.start = n.start.max(n.gate);
                n.reader = Reader::Start;
            }),
            Reader::Start => go("is joined at", state.start, &|n| {
                n.low_water = n.start;
                n.start = 0;
                n.reader = Reader::Idle;
            }),
            Reader::Idle => {
                let word = state.slots[slot(state.low_water)];
                if word.lap > lap(state.low_water) {
                    go("is overrun at", state.low_water, &|n| n.error = Some(Fault::Overrun));
                } else if word.lap == lap(state.low_water) {
                    go("takes the word of", state.low_water, &|n| {
                        n.word = word;
                        n.reader = Reader::Holding;
                    });
                }
                if state.joins < self.joins {
                    go("leaves", 0, &|n| {
                        n.group = Group::Free;
                        n.reader = Reader::Out;
                        n.low_water = 0;
                    });
                }
            }
            Reader::Holding => go("reads the cell and acknowledges", state.low_water, &|n| {
                if n.cells[usize::from(n.word.producer)] != n.logged(n.low_water) {
                    n.error = Some(Fault::WrongMessage);
                }
                n.low_water += 1;
                n.word = Word::default();
                n.reader = Reader::Idle;
            }),
            Reader::Out | Reader::Dead | Reader::DeadActive => {}
        }
    }

    fn kill(&self, state: &State, out: &mut Successors<State>) {
        if state.kills == self.kills {
            return;
        }
        for (who, name) in NAMES.iter().enumerate().take(PRODUCERS) {
            if state.producers[who].at != At::Dead {
                let mut next = state.clone();
                next.kills += 1;
                next.producers[who] = Producer { at: At::Dead, ..Producer::default() };
                out.push((Step::kill(name), next));
            }
        }
        if !matches!(state.reader, Reader::Dead | Reader::DeadActive) {
            let mut next = state.clone();
            next.kills += 1;
            next.start = 0;
            next.word = Word::default();
            let joined = matches!(state.reader, Reader::Idle | Reader::Holding);
            next.reader = if joined { Reader::DeadActive } else { Reader::Dead };
            out.push((Step::kill(CONSUMER), next));
        }
    }

    /// After the proof of a producer's death: note the end, scan until the confirmed gate has passed it, and
    /// remove the arena.
    fn repair(&self, state: &State, out: &mut Successors<State>) {
        let me = state.producers[REPAIRER];
        if me.at != At::Start {
            return;
        }
        let known = if self.variant == Variant::GateWord { me.cached.max(state.gate) } else { me.cached };
        for who in 0..PRODUCERS {
            if state.producers[who].at != At::Dead || state.cells[who] == REMOVED {
                continue;
            }
            let mut next = state.clone();
            let until = state.unlink_at[who];
            let what = if until == 0 {
                next.unlink_at[who] = state.end();
                "notes the end after the death of producer"
            } else if known >= until || self.variant == Variant::UnlinkAtDeath {
                next.cells[who] = REMOVED;
                "removes the arena of producer"
            } else {
                next.producers[REPAIRER] = Producer { at: At::Generation, s: until, ..me };
                "recomputes the gate to remove the arena of producer"
            };
            out.push((Step::with(NAMES[REPAIRER], what, who as u8), next));
        }
    }
}

/// Goes back to what the scan was for.
fn resume(me: &mut Producer) {
    if me.written {
        *me = Producer { at: At::Room, recomputed: true, ..*me };
    } else {
        *me = Producer { at: At::Start, s: 0, ..*me };
    }
}

/// The one step that claims and publishes.
fn swap(next: &mut State, me: &mut Producer, who: usize) {
    if next.slots[slot(me.s)] != me.word {
        *me = Producer { at: At::Slot, word: Word::default(), ..*me };
        return;
    }
    if me.s != next.end() {
        next.error = Some(Fault::Hole);
    } else {
        next.log[usize::from(next.published)] = message(who, me.sent);
        next.published += 1;
    }
    next.slots[slot(me.s)] = Word { lap: lap(me.s), producer: who as u8 };
    *me = Producer { sent: me.sent + 1, last: me.s, cached: me.cached, ..Producer::default() };
}

impl Model for Publish {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State { gate: FIRST, released: FIRST, ..State::default() };
        for producer in &mut state.producers {
            producer.cached = FIRST;
        }
        if self.joined {
            state.reader = Reader::Idle;
            state.group = Group::Active;
            state.low_water = FIRST;
        }
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..=REPAIRER {
            self.produce(state, who, out);
        }
        self.consume(state, out);
        if self.unlink {
            self.repair(state, out);
        }
        self.kill(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        match state.error {
            Some(Fault::Hole) => return Some("a message is published beyond or before the end".into()),
            Some(Fault::WrongMessage) => return Some("the consumer read another message".into()),
            Some(Fault::Overrun) => return Some("the consumer was overrun".into()),
            None => {}
        }
        if state.gate > state.end() {
            return Some("the gate is beyond the end".into());
        }
        if !state.joined() {
            return None;
        }
        if state.released > state.low_water || state.producers.iter().any(|p| p.cached > state.low_water) {
            return Some(format!("a confirmed gate passed the group at {}", state.low_water));
        }
        for sequence in state.low_water..state.end() {
            let word = state.slots[slot(sequence)];
            if word.lap != lap(sequence) {
                return Some(format!("unread slot {sequence} was overwritten"));
            }
            if state.cells[usize::from(word.producer)] != state.logged(sequence) {
                return Some(format!("the cell of unread message {sequence} was rewritten"));
            }
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        let sent = |who: usize| {
            let producer = state.producers[who];
            producer.at == At::Dead || (producer.at == At::Start && producer.sent == self.quota[who])
        };
        let read = match state.reader {
            Reader::DeadActive => return true,
            Reader::Idle => state.low_water == state.end(),
            Reader::Out => state.joins == self.joins,
            Reader::Dead if state.group == Group::Active => return true,
            Reader::Dead => true,
            _ => false,
        };
        let removed =
            |who: usize| !self.unlink || state.producers[who].at != At::Dead || state.cells[who] == REMOVED;
        read && (0..PRODUCERS).all(|who| sent(who) && removed(who))
    }
}
