//! A group of one member: deaths counted, redeliveries marked, dead letters.
//!
//! **Processes.** A chain of members, each of which takes over when the one before it is dead or has left.
//! All but the last may be killed at any step; a repairer exists only where a variant wants one, and an
//! operator purges dead letters.
//!
//! **State and who writes it.** The member in office (compare-and-swap by the successor, after the proof of
//! death). All else is written by the member in office alone, by plain stores: `low_water`, which
//! acknowledges everything before it; `trial`, the message handed out last and how often it has been handed
//! out; `marked`, the position below which messages may have been handed out by an earlier member; and one
//! entry of the store for dead letters and rejected messages (free, filling, staged, valid). What was handed
//! out, acknowledged or purged, and who died over what, is the observer's.
//!
//! **The protocol.** Before each hand-out the member stores the message and its number of hand-outs so far,
//! one more than `trial` says if that is about the same message. So the count is stored by its owner and
//! there is nothing that a repair could count twice. Who leaves in good order takes the last hand-out back
//! first. A successor first settles the entry, then raises `marked` past what may have been handed out, and
//! then, below `marked`, hands out one message at a time and waits for its acknowledgement. For `trial` has
//! room for one message: two in hand would wipe each other's count, and neither would ever reach the limit. A
//! message whose count has reached the limit is parked instead: fill the entry, stage it, move `low_water`
//! past the message (the commit), make the entry valid.
//!
//! **Left out.** Retries from the store (see the model of owner words), publication (all is published),
//! eviction, weak memory.
//!
//! **Invariants.** No message is handed out more often than its lives allow, plus once where members take
//! batches, since the first death of a batch counts for its last message. A message is only given up if as
//! many processes died over it. What is handed out again is marked. `low_water` never goes back, and each
//! message before it came to exactly one end: acknowledged, in the entry, or purged. Progress: the last
//! member can bring everything to an end.
//!
//! **Broken variants.** [`Variant::HandOutFirst`]: a member dies between the hand-out and the store; the next
//! hand-out has no mark, and the message gets a further life. [`Variant::CountByRepair`]: the successor
//! counts the death of the member before it; if it dies before its own first hand-out, the next one counts
//! the same death again, and a message is given up that killed once. [`Variant::BlameLast`]: a message that
//! kills and was handed out in a batch is never blamed, for the batch's last message is, which nobody reaches
//! any more. [`Variant::BatchAtOnce`]: redelivered messages are handed out in batches again.
//! [`Variant::MarkToTrial`]: only what `trial` reaches is marked; it went back when an earlier successor
//! started over. [`Variant::SettleLater`]: the entry that a dead member staged is settled at any later time;
//! the message was redelivered and acknowledged by then, and `low_water` looks like a commit.
//! [`Variant::NoProof`]: the member was only stopped, and goes on: it hands out what another already has, and
//! its late acknowledgement moves `low_water` back. [`Variant::LeaveCounted`]: good-order leaves wear a
//! message out.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The hand-out comes before the store that counts it.
    HandOutFirst,
    /// Hand-outs store the message only; a successor adds a death to it.
    CountByRepair,
    /// Redeliveries are not stored; a death, counted exactly once, goes to the last message ever handed out.
    BlameLast,
    /// Members hand out batches below `marked` too.
    BatchAtOnce,
    /// There is no `marked`; a successor marks what `trial` reaches.
    MarkToTrial,
    /// A successor starts before the dead member's entry is settled.
    SettleLater,
    /// A successor does not wait for the proof of death.
    NoProof,
    /// A member that leaves does not take its last hand-out back.
    LeaveCounted,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// The protocol.
    pub variant: Variant,
    /// How many messages a member may have in hand.
    pub batch: u8,
    /// Whether members may leave in good order with a message in hand.
    pub leaves: bool,
    /// Whether members may reject messages.
    pub rejects: bool,
    /// Whether marks and lives are checked. Where they are not, a broken variant shows what else it does.
    pub bookkeeping: bool,
}

const MESSAGES: u8 = 2;
const MEMBERS: usize = 6;
const LIVES: u8 = 2;
const NAMES: [&str; MEMBERS] = ["M0", "M1", "M2", "M3", "M4", "M5"];

/// A message and a count that goes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Count {
    /// The message plus one, 0 for none.
    reach: u8,
    count: u8,
}

impl Count {
    fn of(self, message: u8) -> u8 {
        if self.reach == message + 1 { self.count } else { 0 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Filling,
    Staged,
    Valid,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    mark: Mark,
    member: u8,
    message: u8,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Absent,
    Settle,
    CountDeath,
    RaiseMark,
    Next,
    Record,
    HandOut,
    LateRecord,
    Holding,
    Leave,
    Fill,
    Copy,
    Stage,
    Commit,
    Validate,
    Gone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    at: At,
    /// The next message to hand out.
    next: u8,
    /// One past the last message that it began to hand out.
    begun: u8,
    /// Everything below is handed out with a mark.
    marked: u8,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    office: u8,
    low_water: u8,
    trial: Count,
    marked: u8,
    /// Only for the variant that counts deaths apart from hand-outs.
    deaths: Count,
    entry: Entry,
    members: [Member; MEMBERS],
    handed: [u8; MESSAGES as usize],
    died: [u8; MESSAGES as usize],
    acknowledged: [u8; MESSAGES as usize],
    purged: [bool; MESSAGES as usize],
    error: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    Backwards,
    GivenUp,
    Unmarked,
}

impl Takeover {
    fn count(&self, state: &State, message: u8) -> u8 {
        let apart = self.variant == Variant::CountByRepair;
        if apart { state.deaths.of(message) } else { state.trial.of(message) }
    }

    fn batch_continues(&self, state: &State, me: Member) -> bool {
        let fresh = me.next > me.marked || self.variant == Variant::BatchAtOnce;
        me.next < MESSAGES && me.next.saturating_sub(state.low_water) < self.batch && fresh
    }

    fn serve(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.members[who];
        let name = NAMES[who];
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Member)| {
            let mut next = state.clone();
            let mut member = me;
            change(&mut next, &mut member);
            next.members[who] = member;
            out.push((Step::with(name, what, value), next));
        };
        let message = me.next;
        let in_hand = message > state.low_water;
        match me.at {
            At::Absent => {
                let free = state.members[usize::from(state.office)].at == At::Gone;
                if usize::from(state.office) + 1 == who && (free || self.variant == Variant::NoProof) {
                    go("takes over from member", state.office, &|n, m| {
                        n.office = who as u8;
                        if self.variant == Variant::BlameLast && n.trial.reach > n.low_water {
                            n.trial.count += 1;
                        }
                        m.at = match self.variant {
                            Variant::SettleLater => At::RaiseMark,
                            _ => At::Settle,
                        };
                    });
                }
            }
            At::Settle => go("settles the entry", 0, &|n, m| {
                settle(n);
                m.at = if self.variant == Variant::CountByRepair { At::CountDeath } else { At::RaiseMark };
            }),
            At::CountDeath => go("counts the death, if one was in hand:", state.trial.reach, &|n, m| {
                if n.trial.reach > n.low_water {
                    n.deaths = Count { reach: n.trial.reach, count: n.deaths.of(n.trial.reach - 1) + 1 };
                }
                m.at = At::RaiseMark;
            }),
            At::RaiseMark => go("marks messages below", state.trial.reach.max(state.marked), &|n, m| {
                m.marked = n.trial.reach;
                if self.variant != Variant::MarkToTrial {
                    n.marked = n.marked.max(n.trial.reach);
                    m.marked = n.marked;
                }
                *m = Member { at: At::Next, next: n.low_water, begun: 0, ..*m };
            }),
            At::Next if message < MESSAGES && self.count(state, message) >= LIVES => {
                if in_hand {
                    go("acknowledges all before", message, &|n, m| acknowledge(n, m));
                } else {
                    go("gives up message", message, &|n, m| {
                        if self.bookkeeping && n.died[usize::from(message)] < LIVES {
                            n.error = Some(Fault::GivenUp);
                        }
                        m.at = At::Fill;
                    });
                }
            }
            At::Next if message < MESSAGES => {
                let first = self.variant == Variant::HandOutFirst;
                go("goes on to message", message, &|_, m| {
                    m.at = if first { At::HandOut } else { At::Record };
                });
            }
            At::Record | At::LateRecord => go("records the hand-out of message", message, &|n, m| {
                let index = if m.at == At::LateRecord { message - 1 } else { message };
                if self.variant != Variant::BlameLast {
                    n.trial = Count { reach: index + 1, count: n.trial.of(index) + 1 };
                } else if n.trial.reach < index + 1 {
                    n.trial = Count { reach: index + 1, count: 0 };
                }
                m.begun = index + 1;
                m.at = if m.at == At::LateRecord { At::Holding } else { At::HandOut };
            }),
            At::HandOut => go("hands out message", message, &|n, m| {
                let handed = &mut n.handed[usize::from(message)];
                if self.bookkeeping && *handed > 0 && message >= m.marked {
                    n.error = Some(Fault::Unmarked);
                }
                *handed += 1;
                let late = self.variant == Variant::HandOutFirst;
                let at = if late { At::LateRecord } else { At::Holding };
                *m = Member { at, next: message + 1, begun: message + 1, ..*m };
            }),
            At::Holding => {
                go("acknowledges all before", message, &|n, m| acknowledge(n, m));
                if self.batch_continues(state, me) {
                    go("takes another message", message, &|_, m| m.at = At::Next);
                }
                let single = message == state.low_water + 1;
                if self.leaves && single && who + 1 < MEMBERS {
                    go("takes back its hand-out and leaves: message", message - 1, &|n, m| {
                        if self.variant != Variant::LeaveCounted {
                            n.trial.count -= 1;
                        }
                        *m = Member { at: At::Leave, begun: 0, ..*m };
                    });
                }
                if self.rejects && single {
                    go("rejects message", message - 1, &|_, m| {
                        *m = Member { at: At::Fill, next: message - 1, ..*m };
                    });
                }
            }
            At::Leave => go("has left", 0, &|_, m| *m = Member { at: At::Gone, ..Member::default() }),
            At::Fill if state.entry.mark == Mark::Free => {
                go("fills the entry for message", message, &|n, m| {
                    n.entry = Entry { mark: Mark::Filling, member: who as u8, message: 0 };
                    m.at = At::Copy;
                })
            }
            At::Copy => go("copies message", message, &|n, m| {
                n.entry.message = message;
                m.at = At::Stage;
            }),
            At::Stage => go("stages message", message, &|n, m| {
                n.entry.mark = Mark::Staged;
                m.at = At::Commit;
            }),
            At::Commit => go("moves low_water past message", message, &|n, m| {
                n.low_water = message + 1;
                *m = Member { at: At::Validate, next: message + 1, begun: 0, ..*m };
            }),
            At::Validate => go("makes the entry valid", 0, &|n, m| {
                n.entry.mark = Mark::Valid;
                m.at = At::Next;
            }),
            At::Next | At::Fill | At::Gone => {}
        }
        if who + 1 < MEMBERS && !matches!(me.at, At::Absent | At::Gone) {
            let mut next = state.clone();
            for message in state.low_water..me.begun.max(state.low_water) {
                next.died[usize::from(message)] += 1;
            }
            next.members[who] = Member { at: At::Gone, ..Member::default() };
            out.push((Step::kill(name), next));
        }
    }
}

/// Acknowledges everything before the next message.
fn acknowledge(state: &mut State, me: &mut Member) {
    if me.next < state.low_water {
        state.error = Some(Fault::Backwards);
    }
    for message in state.low_water..me.next.max(state.low_water) {
        state.acknowledged[usize::from(message)] += 1;
    }
    state.low_water = me.next;
    me.at = At::Next;
    me.begun = 0;
}

/// Brings the entry of a member that is gone to the end that `low_water` asks for.
fn settle(state: &mut State) {
    let committed = state.entry.mark == Mark::Staged && state.low_water > state.entry.message;
    if committed {
        state.entry.mark = Mark::Valid;
    } else if matches!(state.entry.mark, Mark::Filling | Mark::Staged) {
        state.entry = Entry::default();
    }
}

impl Model for Takeover {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        state.members[0].at = At::Next;
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..MEMBERS {
            self.serve(state, who, out);
        }
        let gone = state.members[usize::from(state.entry.member)].at == At::Gone;
        let open = matches!(state.entry.mark, Mark::Filling | Mark::Staged);
        if self.variant == Variant::SettleLater && open && gone {
            let mut next = state.clone();
            settle(&mut next);
            out.push((Step::new("R", "settles the entry"), next));
        }
        if state.entry.mark == Mark::Valid {
            let mut next = state.clone();
            next.purged[usize::from(state.entry.message)] = true;
            next.entry = Entry::default();
            out.push((Step::with("operator", "purges message", state.entry.message), next));
        }
    }

    fn violation(&self, state: &State) -> Option<String> {
        match state.error {
            Some(Fault::Backwards) => return Some("low_water went back".into()),
            Some(Fault::GivenUp) => return Some("a message was given up over too few deaths".into()),
            Some(Fault::Unmarked) => return Some("a message was handed out again without a mark".into()),
            None => {}
        }
        let allowed = LIVES + u8::from(self.batch > 1);
        // Members that leave in good order may be handed a message as often as they like.
        if !self.leaves && state.handed.iter().any(|&handed| handed > allowed) {
            return Some("a message was handed out more often than its lives allow".into());
        }
        for message in 0..MESSAGES {
            let Entry { mark, message: kept, .. } = state.entry;
            let committed = mark == Mark::Valid || (mark == Mark::Staged && state.low_water > message);
            let index = usize::from(message);
            let outcomes = u8::from(committed && kept == message)
                + state.acknowledged[index]
                + u8::from(state.purged[index]);
            if outcomes > 1 {
                return Some(format!("message {message} came to more than one end"));
            }
            if outcomes == 0 && message < state.low_water {
                return Some(format!("message {message} is lost"));
            }
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        state.low_water == MESSAGES && !matches!(state.entry.mark, Mark::Filling | Mark::Staged)
    }
}
