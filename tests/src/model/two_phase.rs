//! Why the ring of many producers does not claim a slot first and write the message into it afterwards.
//!
//! **Processes.** Two producers and one reader, which is either a group and holds the producers back, or
//! lossy and holds nothing back. Each producer finds the end of the lane, claims the slot there with a
//! compare-and-swap, writes the message into the slot with two plain stores (so that it can be seen
//! half-written), and publishes it. One producer may be killed, and every process may be stopped between any
//! two of its steps.
//!
//! **State and who writes it.** Per slot a word (the lap, and whether the slot is claimed, published or a
//! tombstone; every producer, by compare-and-swap, and the reader that gives up waiting) and two halves of a
//! body (whoever won the claim, by plain stores, whenever it gets to them). The reader's cursor. `log` is the
//! observer's list of published messages.
//!
//! **Left out.** The gate's scan: the producer reads the group's cursor in the same step as the slot.
//!
//! **Invariants.** Those of the ring that works: what a reader accepts is what was published under its
//! sequence, and a live consumer can read everything that was published while live producers can publish.
//!
//! **No variant holds**, which is the point. [`Variant::Waiting`]: readers wait for the winner of the claim,
//! and one that was killed or stopped in the window blocks the lane for all. [`Variant::Tombstone`]: a reader
//! gives up waiting and marks the slot as dead; the winner, which was only stopped, later writes its body
//! into the same slot, which by then carries a message of the next lap. [`Variant::TombstoneLossy`]: the same
//! without any group, where a lossy reader accepts the foreign bytes, although it checks the word before and
//! after its copy.

use super::explorer::{Model, Step, Successors};

/// What readers do about a slot that is claimed and not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// They wait.
    Waiting,
    /// They wait a while, then replace the claim by a tombstone.
    Tombstone,
    /// As before, in a lane with a lossy reader and no group.
    TombstoneLossy,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct TwoPhase {
    /// The protocol.
    pub variant: Variant,
    /// How many messages each producer publishes.
    pub quota: [u8; PRODUCERS],
}

const PRODUCERS: usize = 2;
const SLOTS: u8 = 2;
/// The first sequence: the first of lap 1.
const FIRST: u8 = SLOTS;
const LOG: usize = 6;
const NAMES: [&str; PRODUCERS] = ["P0", "P1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Published,
    Claimed(u8),
    Tombstone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    lap: u8,
    mark: Mark,
    body: [u8; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Find,
    Claim,
    WriteFirst,
    WriteSecond,
    Publish,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Producer {
    at: At,
    sent: u8,
    s: u8,
}

/// A reader: its cursor and how far it is with the message there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    cursor: u8,
    copied: u8,
    copy: [u8; 2],
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    slots: [Slot; SLOTS as usize],
    producers: [Producer; PRODUCERS],
    reader: Reader,
    log: [u8; LOG],
    killed: bool,
    wrong: bool,
}

fn slot(sequence: u8) -> usize {
    usize::from(sequence % SLOTS)
}

fn lap(sequence: u8) -> u8 {
    sequence / SLOTS
}

impl State {
    fn at(&self, sequence: u8) -> Slot {
        self.slots[slot(sequence)]
    }

    /// The first sequence that nobody has claimed.
    fn end(&self) -> u8 {
        let mut end = FIRST;
        while self.at(end).lap >= lap(end) {
            end += 1;
        }
        end
    }
}

impl TwoPhase {
    fn lossy(&self) -> bool {
        self.variant == Variant::TombstoneLossy
    }

    fn produce(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.producers[who];
        let message = who as u8 * 16 + me.sent + 1;
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Producer)| {
            let mut next = state.clone();
            let mut producer = me;
            change(&mut next, &mut producer);
            next.producers[who] = producer;
            out.push((Step::with(NAMES[who], what, value), next));
        };
        let end = state.end();
        match me.at {
            At::Find if me.sent < self.quota[who] && (self.lossy() || end < state.reader.cursor + SLOTS) => {
                go("finds the end", end, &|_, p| *p = Producer { at: At::Claim, s: end, ..*p });
            }
            At::Claim => go("claims", me.s, &|n, p| {
                if n.end() == p.s {
                    let claimed = &mut n.slots[slot(p.s)];
                    *claimed = Slot { lap: lap(p.s), mark: Mark::Claimed(who as u8), ..*claimed };
                    p.at = At::WriteFirst;
                } else {
                    *p = Producer { at: At::Find, s: 0, ..*p };
                }
            }),
            At::WriteFirst => go("writes the first half of", me.s, &|n, p| {
                n.slots[slot(p.s)].body[0] = message;
                p.at = At::WriteSecond;
            }),
            At::WriteSecond => go("writes the second half of", me.s, &|n, p| {
                n.slots[slot(p.s)].body[1] = message;
                p.at = At::Publish;
            }),
            At::Publish => go("publishes", me.s, &|n, p| {
                let mine = &mut n.slots[slot(p.s)];
                if mine.lap == lap(p.s) && mine.mark == Mark::Claimed(who as u8) {
                    mine.mark = Mark::Published;
                    n.log[usize::from(p.s - FIRST)] = message;
                    p.sent += 1;
                }
                *p = Producer { at: At::Find, s: 0, ..*p };
            }),
            At::Find | At::Dead => {}
        }
    }

    fn read(&self, state: &State, out: &mut Successors<State>) {
        let Reader { cursor, copied, copy } = state.reader;
        let seen = state.at(cursor);
        let published = seen.lap == lap(cursor) && seen.mark == Mark::Published;
        let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::with("C", what, cursor), next));
        };
        match copied {
            0 if published => go("finds published", &|n| n.reader.copied = 1),
            0 if seen.lap > lap(cursor) => go("misses", &|n| n.reader.cursor += 1),
            0 if seen.lap == lap(cursor) && seen.mark == Mark::Tombstone => {
                go("skips the tombstone of", &|n| n.reader.cursor += 1);
            }
            0 if seen.lap == lap(cursor) && self.variant != Variant::Waiting => {
                go("gives up waiting for", &|n| n.slots[slot(cursor)].mark = Mark::Tombstone);
            }
            1 | 2 => go("copies a half of", &|n| {
                n.reader.copy[usize::from(copied - 1)] = seen.body[usize::from(copied - 1)];
                n.reader.copied += 1;
            }),
            3 => go("checks the word again and accepts or drops", &|n| {
                let logged = n.log[usize::from(cursor - FIRST)];
                n.wrong = published && copy != [logged; 2];
                n.reader = Reader { cursor: cursor + 1, ..Reader::default() };
            }),
            _ => {}
        }
    }
}

impl Model for TwoPhase {
    type State = State;

    fn initial(&self) -> State {
        State { reader: Reader { cursor: FIRST, ..Reader::default() }, ..State::default() }
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in NAMES.iter().enumerate() {
            self.produce(state, who, out);
            if !state.killed && state.producers[who].at != At::Dead {
                let mut next = state.clone();
                next.killed = true;
                next.producers[who] = Producer { at: At::Dead, ..Producer::default() };
                out.push((Step::kill(name), next));
            }
        }
        self.read(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        state.wrong.then(|| "the reader accepted bytes of another message".into())
    }

    fn goal(&self, state: &State) -> bool {
        let sent = |(producer, quota): (&Producer, &u8)| producer.at == At::Dead || producer.sent == *quota;
        state.reader.cursor >= state.end() && state.producers.iter().zip(&self.quota).all(sent)
    }
}
