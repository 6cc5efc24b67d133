//! The ring of one producer: publication word, lossy readers, and takeover of the producer's role.
//!
//! **Processes.** A chain of producers, of which each may take over when the one before it is dead, one
//! reliable consumer that reads in place and holds the producer back, or one lossy reader that copies and
//! checks, or both. Producers and the consumer may be killed at any step.
//!
//! **State and who writes it.** Per slot the publication word (never written, WRITING, or the sequence plus
//! one) and a body of two halves, and the tail: all by plain stores of the producer in office. The consumer's
//! `low_water`: its owner. `log` is the observer's list of published messages; every attempt to write a
//! message has a number of its own, so that bytes of an abandoned attempt are told from those that count.
//!
//! **Left out.** The gate's scan (the producer reads `low_water` itself) and weak memory: the fences between
//! these stores are the loom tests' business.
//!
//! **Takeover.** The tail is advice: a producer may die between publishing and storing it, and so may the
//! next. The successor finds the first sequence that is not published from the slots themselves: a later
//! message in a slot sends it forward, a missing predecessor sends it to wherever the slots say the lane has
//! come. ([`Variant::TailRepaired`], which is as good: a plain walk from the tail, and the successor stores
//! the tail before it writes anything, so that it never lags by more than one.)
//!
//! **Invariants.** A sequence is published once, and in order. Everything from `low_water` to the end is in
//! its slot, whole. What a reader accepts is what was published under that sequence. Progress: a live
//! producer can publish everything while the consumer lives; live readers can reach the end.
//!
//! **Broken variants.** [`Variant::NoInvalidation`]: the slot is rewritten without WRITING, and the check
//! after the copy sees the old word around a torn body. [`Variant::TakeoverWithoutProof`]: the old producer
//! was stopped, not dead, and goes on. [`Variant::TakeoverAtTail`]: the successor publishes at the tail
//! without the walk, over a message that was published. [`Variant::TailNotRepaired`]: a plain walk from a
//! tail that nobody repaired lags by one more message with each death, until the slot at the tail belongs to
//! a later lap and the walk stops before it has begun; it takes one death more than there are slots.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// As good: a plain walk from the tail, which every successor repairs.
    TailRepaired,
    /// The publication word is not set to WRITING before the body is rewritten.
    NoInvalidation,
    /// A successor starts while the producer before it may only be stopped.
    TakeoverWithoutProof,
    /// A successor starts at the tail that it finds.
    TakeoverAtTail,
    /// A plain walk from the tail, which a successor leaves as it is.
    TailNotRepaired,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct SingleProducer {
    /// The protocol.
    pub variant: Variant,
    /// How many messages are published in all.
    pub messages: u8,
    /// Whether there is a reliable consumer.
    pub reliable: bool,
    /// Whether there is a lossy reader.
    pub lossy: bool,
}

const PRODUCERS: usize = 4;
const SLOTS: u8 = 2;
const LOG: usize = 6;
const NAMES: [&str; PRODUCERS] = ["P0", "P1", "P2", "P3"];
/// The publication word of a slot that is being written.
const WRITING: u8 = 255;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    publication: u8,
    body: [u8; 2],
}

/// Where a producer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Waiting,
    Find,
    Walk,
    StoreTail,
    Room,
    WriteFirst,
    WriteSecond,
    Publish,
    AdvanceTail,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Producer {
    at: At,
    s: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Consumer {
    #[default]
    Idle,
    Holding,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Lossy {
    cursor: u8,
    copied: u8,
    copy: [u8; 2],
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    slots: [Slot; SLOTS as usize],
    tail: u8,
    producers: [Producer; PRODUCERS],
    consumer: Consumer,
    low_water: u8,
    lossy: Lossy,
    /// The attempt that was published at each sequence, and how many were.
    log: [u8; LOG],
    end: u8,
    error: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    OutOfOrder,
    WrongBytes,
}

fn slot(sequence: u8) -> usize {
    usize::from(sequence % SLOTS)
}

/// The bytes that `who` writes for `sequence`.
fn bytes(who: usize, sequence: u8) -> u8 {
    who as u8 * 16 + sequence + 1
}

impl State {
    /// Where a successor begins, whatever the tail says. One step: the slots of the dead do not change.
    fn find_end(&self, tail: u8) -> u8 {
        let mut s = tail;
        loop {
            let here = self.slots[slot(s)].publication;
            let before = self.slots[slot(s + SLOTS - 1)].publication;
            if here != WRITING && here > s {
                s = here;
            } else if before == s {
                return s;
            } else if before != WRITING && before > s {
                s = before;
            } else {
                s -= 1;
            }
        }
    }
}

impl SingleProducer {
    fn produce(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.producers[who];
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Producer)| {
            let mut next = state.clone();
            let mut producer = me;
            change(&mut next, &mut producer);
            next.producers[who] = producer;
            out.push((Step::with(NAMES[who], what, value), next));
        };
        let free = !self.reliable || me.s < state.low_water + SLOTS;
        match me.at {
            At::Waiting => {
                let before = state.producers[who - 1].at;
                let unproven = self.variant == Variant::TakeoverWithoutProof && before != At::Waiting;
                if before == At::Dead || unproven {
                    let at = match self.variant {
                        Variant::TakeoverAtTail => At::Room,
                        Variant::TailRepaired | Variant::TailNotRepaired => At::Walk,
                        _ => At::Find,
                    };
                    go("takes over and reads the tail", state.tail, &|n, p| *p = Producer { at, s: n.tail });
                }
            }
            At::Find => go("finds the end", state.find_end(me.s), &|n, p| {
                *p = Producer { at: At::Room, s: n.find_end(p.s) };
            }),
            At::Walk => {
                let published = state.slots[slot(me.s)].publication == me.s + 1;
                let skip = self.variant == Variant::TailNotRepaired;
                go("looks whether it is published:", me.s, &|_, p| match (published, skip) {
                    (true, _) => p.s += 1,
                    (false, true) => p.at = At::Room,
                    (false, false) => p.at = At::StoreTail,
                });
            }
            At::StoreTail => go("repairs the tail:", me.s, &|n, p| {
                n.tail = p.s;
                p.at = At::Room;
            }),
            At::Room if me.s < self.messages && free => {
                let silent = self.variant == Variant::NoInvalidation;
                let what = if silent { "has room for" } else { "marks as being written" };
                go(what, me.s, &|n, p| {
                    if !silent {
                        n.slots[slot(p.s)].publication = WRITING;
                    }
                    p.at = At::WriteFirst;
                });
            }
            At::WriteFirst => go("writes the first half of", me.s, &|n, p| {
                n.slots[slot(p.s)].body[0] = bytes(who, p.s);
                p.at = At::WriteSecond;
            }),
            At::WriteSecond => go("writes the second half of", me.s, &|n, p| {
                n.slots[slot(p.s)].body[1] = bytes(who, p.s);
                p.at = At::Publish;
            }),
            At::Publish => go("publishes", me.s, &|n, p| {
                n.slots[slot(p.s)].publication = p.s + 1;
                if p.s == n.end {
                    n.log[usize::from(p.s)] = bytes(who, p.s);
                    n.end += 1;
                } else {
                    n.error = Some(Fault::OutOfOrder);
                }
                p.at = At::AdvanceTail;
            }),
            At::AdvanceTail => go("stores the tail", me.s + 1, &|n, p| {
                n.tail = p.s + 1;
                *p = Producer { at: At::Room, s: p.s + 1 };
            }),
            At::Room | At::Dead => {}
        }
        if !matches!(me.at, At::Waiting | At::Dead) && who + 1 < PRODUCERS {
            let mut next = state.clone();
            next.producers[who] = Producer { at: At::Dead, s: 0 };
            out.push((Step::kill(NAMES[who]), next));
        }
    }

    fn consume(&self, state: &State, out: &mut Successors<State>) {
        let at = state.low_water;
        let mut go = |step: Step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((step, next));
        };
        match state.consumer {
            Consumer::Idle if state.slots[slot(at)].publication == at + 1 => {
                go(Step::with("C", "finds published", at), &|n| n.consumer = Consumer::Holding);
            }
            Consumer::Holding => go(Step::with("C", "reads and acknowledges", at), &|n| {
                if n.slots[slot(at)].body != [n.log[usize::from(at)]; 2] {
                    n.error = Some(Fault::WrongBytes);
                }
                n.low_water += 1;
                n.consumer = Consumer::Idle;
            }),
            _ => {}
        }
        if state.consumer != Consumer::Dead {
            go(Step::kill("C"), &|n| n.consumer = Consumer::Dead);
        }
    }

    fn copy(&self, state: &State, out: &mut Successors<State>) {
        let Lossy { cursor, copied, copy } = state.lossy;
        let seen = state.slots[slot(cursor)];
        let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::with("L", what, cursor), next));
        };
        match copied {
            0 if seen.publication == cursor + 1 => go("finds published", &|n| n.lossy.copied = 1),
            0 if seen.publication != WRITING && seen.publication > cursor + 1 => {
                go("was overtaken at", &|n| n.lossy.cursor = seen.publication - 1);
            }
            1 | 2 => go("copies a half of", &|n| {
                n.lossy.copy[usize::from(copied - 1)] = seen.body[usize::from(copied - 1)];
                n.lossy.copied += 1;
            }),
            3 => go("checks the publication word again and accepts or drops", &|n| {
                if seen.publication == cursor + 1 && copy != [n.log[usize::from(cursor)]; 2] {
                    n.error = Some(Fault::WrongBytes);
                }
                n.lossy = Lossy { cursor: cursor + 1, ..Lossy::default() };
            }),
            _ => {}
        }
    }
}

impl Model for SingleProducer {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        state.producers[0].at = At::Room;
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..PRODUCERS {
            self.produce(state, who, out);
        }
        if self.reliable {
            self.consume(state, out);
        }
        if self.lossy {
            self.copy(state, out);
        }
    }

    fn violation(&self, state: &State) -> Option<String> {
        match state.error {
            Some(Fault::OutOfOrder) => return Some("a sequence is published twice or out of order".into()),
            Some(Fault::WrongBytes) => return Some("a reader accepted torn or foreign bytes".into()),
            None => {}
        }
        let whole = |sequence: u8| {
            let Slot { publication, body } = state.slots[slot(sequence)];
            publication == sequence + 1 && body == [state.log[usize::from(sequence)]; 2]
        };
        let lost = (state.low_water..state.end).find(|&sequence| self.reliable && !whole(sequence));
        lost.map(|sequence| format!("unread message {sequence} is not in its slot"))
    }

    fn goal(&self, state: &State) -> bool {
        let published = state.end == self.messages;
        let read = !self.reliable || state.consumer == Consumer::Dead || state.low_water == state.end;
        let held = self.reliable && state.consumer == Consumer::Dead;
        (published || held) && read && (!self.lossy || state.lossy.cursor == state.end || held)
    }
}
