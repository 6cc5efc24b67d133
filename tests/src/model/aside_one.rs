//! A group of one member puts messages aside: the commit is its cursor.
//!
//! **Processes.** A chain of members, each of which takes over when the group is free; all but the last may be
//! killed at any step. One or two repairers act for the dead, after the proof of death; any process could be
//! one. An operator purges dead letters.
//!
//! **State and who writes it.** Who holds the group (compare-and-swap). `low_water`, `trial` (the message
//! handed out last, and how often) and `marked` are plain stores of the member in office, as in the model of
//! take-overs. The state word of an entry is changed by compare-and-swap; it has an incarnation that fillings
//! and claims count, and the number of attempts. Its contents (which message, and whether it becomes a dead
//! letter) are stored by the member that fills it.
//!
//! **The protocol.** A member that wants to try a message again later, or gives it up, fills an entry and
//! stages it at once, while the message is still in its hand. It goes on with its batch, and what it then
//! acknowledges moves `low_water` past all of it: that store commits every entry staged for a message before
//! it. Then the entries become valid. A batch that is dropped frees what it staged. An entry that waits is
//! claimed, and the attempt counted by the same step, before its message is handed out again.
//!
//! Who repairs finds the entries of the dead member: half-filled ones are freed, claimed ones wait again, and
//! a staged one is valid if `low_water` has passed its message and freed if not. Only when none is left does
//! the group leave the dead member's hands, and only then can a successor move `low_water`.
//!
//! **Left out.** Slow members and amended entries (see the model of owner words), delays, leaves in good
//! order (see the model of take-overs), weak memory.
//!
//! **Invariants.** Each message before `low_water` came to exactly one end: acknowledged, in one valid entry,
//! or purged; a message at or after it has no valid entry. No message is handed out more often than its
//! attempts allow, plus once where members take batches, since the first death of a batch counts for its last
//! message. `low_water` never goes back. Progress: the last member brings `low_water` to the end, and no entry
//! stays half-filled, staged or claimed.
//!
//! **Broken variants.** [`Variant::SettleLate`]: the group leaves the dead member's hands first; its successor
//! handed the message out and acknowledged it when the entry is looked at, and `low_water` looks like a
//! commit. [`Variant::CommitEarly`]: `low_water` moves while the entry is still being filled; its member dies,
//! and the entry is freed. [`Variant::ValidEarly`]: the entry is valid while the message is still in hand; the
//! member dies before its acknowledgement, and the message comes from the ring as well.
//! [`Variant::AttemptAfter`]: the attempt at an entry is counted after the hand-out. [`Variant::JoinBatch`]: a
//! message that was handed out before takes a fresh one into its batch, whose record wipes its count out.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The group is free before the dead member's entries are settled.
    SettleLate,
    /// `low_water` moves before the entry is staged.
    CommitEarly,
    /// The entry is valid before `low_water` moves.
    ValidEarly,
    /// The attempt at an entry is counted after its message was handed out.
    AttemptAfter,
    /// A message below `marked` may be the first of a batch.
    JoinBatch,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct AsideOne {
    /// The protocol.
    pub variant: Variant,
    /// How many messages a member may have in hand.
    pub batch: u8,
    /// Whether members drop batches unfinished, other than for want of room in the store.
    pub drops: bool,
    /// How many members there are, one after the other.
    pub members: usize,
    /// How many repairers there are.
    pub repairers: usize,
    /// How many entries the store has.
    pub entries: usize,
}

const MESSAGES: u8 = 2;
const MEMBERS: usize = 3;
const ENTRIES: usize = 2;
const ATTEMPTS_MAX: u8 = 2;
const NAMES: [&str; MEMBERS] = ["M0", "M1", "M2"];
const REPAIRER_NAMES: [&str; 2] = ["R0", "R1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Filling,
    Staged,
    Waiting,
    Claimed,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    mark: Mark,
    member: u8,
    incarnation: u8,
    attempts: u8,
    message: u8,
    verdict: bool,
}

/// Who holds the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Office {
    /// This member.
    Active(u8),
    /// Nobody, after this member.
    Held(u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Absent,
    RaiseMark,
    Next,
    Record,
    HandOut,
    Holding,
    Fill,
    Copy,
    Stage,
    Commit,
    LateStage,
    Validate,
    Drop,
    ClaimedHandOut,
    LateCount,
    Retrying,
    Bury,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    at: At,
    /// The next message to hand out.
    next: u8,
    /// Everything below is handed out one at a time.
    marked: u8,
    /// How often each message in hand has been handed out.
    times: [u8; MESSAGES as usize],
    /// The entry staged for each message in hand, with its word.
    staged: [Option<(u8, Entry)>; MESSAGES as usize],
    /// The entry that it works on, and the message that it fills it with.
    entry: u8,
    held: Entry,
    message: u8,
    verdict: bool,
}

/// What a repairer is in the middle of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Repair {
    #[default]
    Idle,
    Staged(u8, Entry),
    /// Has looked at `low_water`: valid, or free.
    Decided(u8, Entry, bool),
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    office: Office,
    low_water: u8,
    /// One past the message handed out last, and how often.
    trial: (u8, u8),
    marked: u8,
    entries: [Entry; ENTRIES],
    members: [Member; MEMBERS],
    repairs: [Repair; 2],
    handed: [u8; MESSAGES as usize],
    acknowledged: [u8; MESSAGES as usize],
    purged: [bool; MESSAGES as usize],
    backwards: bool,
}

impl State {
    fn trial_of(&self, message: u8) -> u8 {
        if self.trial.0 == message + 1 { self.trial.1 } else { 0 }
    }

    /// Compare-and-swap of an entry's state word; the contents stay, and are forgotten with the message.
    fn swap(&mut self, entry: u8, seen: Entry, new: Entry) -> bool {
        let place = &mut self.entries[usize::from(entry)];
        let word = |entry: &Entry| (entry.mark, entry.member, entry.incarnation, entry.attempts);
        let same = word(place) == word(&seen);
        if same {
            *place = new;
        }
        same
    }
}

/// A freed entry remembers nothing but its incarnation.
fn freed(entry: Entry) -> Entry {
    Entry { incarnation: entry.incarnation, ..Entry::default() }
}

/// What a committed entry becomes: its contents say so.
fn valid(entry: Entry) -> Entry {
    Entry { mark: if entry.verdict { Mark::Dead } else { Mark::Waiting }, member: 0, ..entry }
}

impl AsideOne {
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
        let index = usize::from(me.message);
        let free = (0..self.entries as u8).filter(|&at| state.entries[usize::from(at)].mark == Mark::Free);
        match me.at {
            At::Absent => {
                if let Office::Held(last) = state.office
                    && usize::from(last) + 1 == who
                {
                    go("takes over from member", last, &|n, m| {
                        n.office = Office::Active(who as u8);
                        m.at = At::RaiseMark;
                    });
                }
            }
            At::RaiseMark => go("marks messages below", state.trial.0.max(state.marked), &|n, m| {
                n.marked = n.marked.max(n.trial.0);
                *m = Member { at: At::Next, next: n.low_water, marked: n.marked, ..Member::default() };
            }),
            At::Next => {
                let in_hand = me.next > state.low_water;
                let spent = me.next < MESSAGES && state.trial_of(me.next) >= ATTEMPTS_MAX;
                if spent && !in_hand {
                    go("gives up message", me.next, &|_, m| {
                        let times = m.next;
                        m.times[usize::from(times)] = ATTEMPTS_MAX;
                        *m = Member { at: At::Fill, message: m.next, next: m.next + 1, verdict: true, ..*m };
                    });
                } else if spent {
                    go("has enough in hand before", me.next, &|_, m| m.at = At::Holding);
                } else if me.next < MESSAGES {
                    go("goes on to message", me.next, &|_, m| m.at = At::Record);
                }
                for entry in (0..self.entries as u8).filter(|_| !in_hand) {
                    let seen = state.entries[usize::from(entry)];
                    if seen.mark != Mark::Waiting {
                        continue;
                    }
                    go("claims the entry of message", seen.message, &|n, m| {
                        let spent = seen.attempts >= ATTEMPTS_MAX;
                        let late = self.variant == Variant::AttemptAfter;
                        let attempts = seen.attempts + u8::from(!spent && !late);
                        let (member, incarnation) = (who as u8, seen.incarnation + 1);
                        let held = Entry { mark: Mark::Claimed, member, incarnation, attempts, ..seen };
                        n.entries[usize::from(entry)] = held;
                        let at = if spent { At::Bury } else { At::ClaimedHandOut };
                        *m = Member { at, entry, held, message: seen.message, ..*m };
                    });
                }
            }
            At::Record => go("records the hand-out of message", me.next, &|n, m| {
                n.trial = (m.next + 1, n.trial_of(m.next) + 1);
                m.times[usize::from(m.next)] = n.trial.1;
                m.at = At::HandOut;
            }),
            At::HandOut => go("hands out message", me.next, &|n, m| {
                n.handed[usize::from(m.next)] += 1;
                *m = Member { at: At::Holding, next: m.next + 1, ..*m };
            }),
            At::Holding => {
                let from = if self.variant == Variant::JoinBatch { me.next } else { state.low_water };
                let fresh = from >= me.marked;
                go("acknowledges all before", me.next, &|_, m| m.at = At::Commit);
                let more = me.next < MESSAGES
                    && me.next - state.low_water < self.batch
                    && fresh
                    && state.trial_of(me.next) < ATTEMPTS_MAX;
                if more {
                    go("takes another message", me.next, &|_, m| m.at = At::Record);
                }
                for message in state.low_water..me.next {
                    if me.staged[usize::from(message)].is_none() {
                        go("wants to try again message", message, &|_, m| {
                            let verdict = m.times[usize::from(message)] >= ATTEMPTS_MAX;
                            *m = Member { at: At::Fill, message, verdict, ..*m };
                        });
                    }
                }
                if self.drops {
                    go("drops what it has in hand before", me.next, &|_, m| m.at = At::Drop);
                }
            }
            At::Fill => {
                for entry in free {
                    go("takes an entry to fill for message", me.message, &|n, m| {
                        let seen = n.entries[usize::from(entry)];
                        let attempts = m.times[index];
                        let (member, incarnation) = (who as u8, seen.incarnation + 1);
                        let held = Entry { mark: Mark::Filling, member, incarnation, attempts, ..seen };
                        n.entries[usize::from(entry)] = held;
                        *m = Member { at: At::Copy, entry, held, ..*m };
                    });
                }
                if !state.entries[..self.entries].iter().any(|entry| entry.mark == Mark::Free) {
                    go("finds the store full and drops what it has before", me.next, &|_, m| m.at = At::Drop);
                }
            }
            At::Copy => go("copies message", me.message, &|n, m| {
                m.held = Entry { message: m.message, verdict: m.verdict, ..m.held };
                n.entries[usize::from(m.entry)] = m.held;
                m.at = At::Stage;
            }),
            At::Stage => go("stages message", me.message, &|n, m| {
                if self.variant != Variant::CommitEarly {
                    let staged = Entry { mark: Mark::Staged, ..m.held };
                    let seen = m.held;
                    n.swap(m.entry, seen, staged);
                    m.held = staged;
                }
                if self.variant == Variant::ValidEarly {
                    let seen = m.held;
                    n.swap(m.entry, seen, valid(seen));
                }
                m.staged[index] = Some((m.entry, m.held));
                // Who gives up a message does not keep it in hand.
                let given_up = m.verdict && m.next == n.low_water + 1;
                m.at = if given_up { At::Commit } else { At::Holding };
            }),
            At::Commit => go("moves low_water to", me.next, &|n, m| {
                n.backwards |= m.next < n.low_water;
                for message in n.low_water..m.next {
                    let kept = m.staged[usize::from(message)].is_some();
                    n.acknowledged[usize::from(message)] += u8::from(!kept);
                }
                n.low_water = m.next;
                m.at = if self.variant == Variant::CommitEarly { At::LateStage } else { At::Validate };
            }),
            At::LateStage => go("stages what it has committed", 0, &|n, m| {
                for (entry, held) in m.staged.iter_mut().flatten() {
                    let staged = Entry { mark: Mark::Staged, ..*held };
                    n.swap(*entry, *held, staged);
                    *held = staged;
                }
                m.at = At::Validate;
            }),
            At::Validate | At::Drop => match me.staged.iter().position(Option::is_some) {
                Some(message) => {
                    let commits = me.at == At::Validate;
                    let what = if commits {
                        "makes valid the entry of message"
                    } else {
                        "frees the entry of message"
                    };
                    go(what, message as u8, &|n, m| {
                        if let Some((entry, held)) = m.staged[message].take() {
                            n.swap(entry, held, if commits { valid(held) } else { freed(held) });
                        }
                    });
                }
                None if me.at == At::Validate => go("is done with its batch before", me.next, &|_, m| {
                    *m = Member { at: At::Next, next: m.next, marked: m.marked, ..Member::default() };
                }),
                None => go("marks and goes back to", state.low_water, &|n, m| {
                    n.marked = n.marked.max(m.next);
                    let marked = n.marked;
                    *m = Member { at: At::Next, next: n.low_water, marked, ..Member::default() };
                }),
            },
            At::ClaimedHandOut => go("hands out again message", me.message, &|n, m| {
                n.handed[index] += 1;
                let late = self.variant == Variant::AttemptAfter;
                m.at = if late { At::LateCount } else { At::Retrying };
            }),
            At::LateCount => go("counts the attempt at message", me.message, &|n, m| {
                let counted = Entry { attempts: m.held.attempts + 1, ..m.held };
                n.swap(m.entry, m.held, counted);
                *m = Member { at: At::Retrying, held: counted, ..*m };
            }),
            At::Retrying => {
                go("acknowledges the entry of message", me.message, &|n, m| {
                    if n.swap(m.entry, m.held, freed(m.held)) {
                        n.acknowledged[index] += 1;
                    }
                    m.at = At::Next;
                });
                go("wants to try again the entry of message", me.message, &|n, m| {
                    let verdict = m.held.attempts >= ATTEMPTS_MAX;
                    n.swap(m.entry, m.held, valid(Entry { verdict, ..m.held }));
                    m.at = At::Next;
                });
            }
            At::Bury => go("makes a dead letter of message", me.message, &|n, m| {
                n.swap(m.entry, m.held, valid(Entry { verdict: true, ..m.held }));
                m.at = At::Next;
            }),
            At::Dead => {}
        }
        if who + 1 < self.members && !matches!(me.at, At::Absent | At::Dead) {
            let mut next = state.clone();
            next.members[who] = Member { at: At::Dead, ..Member::default() };
            out.push((Step::kill(name), next));
        }
    }

    fn is_dead(&self, state: &State, member: u8) -> bool {
        state.members[usize::from(member)].at == At::Dead
    }

    fn repair(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let name = REPAIRER_NAMES[who];
        let mut go = |what: &'static str, value: u8, then: Repair, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            next.repairs[who] = then;
            out.push((Step::with(name, what, value), next));
        };
        match state.repairs[who] {
            Repair::Staged(entry, seen) => {
                let keep = state.low_water > seen.message;
                go(
                    "compares low_water with message",
                    seen.message,
                    Repair::Decided(entry, seen, keep),
                    &|_| {},
                )
            }
            Repair::Decided(entry, seen, keep) => {
                go("settles, if it is the same, the entry", entry, Repair::Idle, &|n| {
                    n.swap(entry, seen, if keep { valid(seen) } else { freed(seen) });
                })
            }
            Repair::Idle => {
                let mut open = false;
                for entry in 0..self.entries as u8 {
                    let seen = state.entries[usize::from(entry)];
                    if matches!(seen.mark, Mark::Free | Mark::Waiting | Mark::Dead)
                        || !self.is_dead(state, seen.member)
                    {
                        continue;
                    }
                    open |= seen.mark != Mark::Claimed;
                    match seen.mark {
                        Mark::Filling => go("frees the half-filled entry", entry, Repair::Idle, &|n| {
                            n.swap(entry, seen, freed(seen));
                        }),
                        Mark::Staged => {
                            go("finds staged the entry", entry, Repair::Staged(entry, seen), &|_| {})
                        }
                        _ => go("releases the entry", entry, Repair::Idle, &|n| {
                            n.swap(entry, seen, Entry { mark: Mark::Waiting, member: 0, ..seen });
                        }),
                    }
                }
                if let Office::Active(holder) = state.office
                    && self.is_dead(state, holder)
                    && (!open || self.variant == Variant::SettleLate)
                {
                    go("frees the group of member", holder, Repair::Idle, &|n| {
                        n.office = Office::Held(holder)
                    });
                }
            }
        }
    }
}

impl Model for AsideOne {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State {
            office: Office::Active(0),
            low_water: 0,
            trial: (0, 0),
            marked: 0,
            entries: Default::default(),
            members: Default::default(),
            repairs: Default::default(),
            handed: Default::default(),
            acknowledged: Default::default(),
            purged: Default::default(),
            backwards: false,
        };
        state.members[0].at = At::Next;
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..self.members {
            self.serve(state, who, out);
        }
        for who in 0..self.repairers {
            self.repair(state, who, out);
        }
        for entry in (0..self.entries).filter(|&entry| state.entries[entry].mark == Mark::Dead) {
            let mut next = state.clone();
            next.entries[entry] = freed(state.entries[entry]);
            next.purged[usize::from(state.entries[entry].message)] = true;
            out.push((Step::with("operator", "purges the dead letter of entry", entry as u8), next));
        }
    }

    fn violation(&self, state: &State) -> Option<String> {
        if state.backwards {
            return Some("low_water went back".into());
        }
        let allowed = ATTEMPTS_MAX + u8::from(self.batch > 1);
        for message in 0..MESSAGES {
            let index = usize::from(message);
            let passed = state.low_water > message;
            let is_valid = |entry: &&Entry| {
                let kept = match entry.mark {
                    Mark::Waiting | Mark::Claimed | Mark::Dead => true,
                    Mark::Staged => passed,
                    Mark::Free | Mark::Filling => false,
                };
                kept && entry.message == message
            };
            let entries = state.entries[..self.entries].iter().filter(is_valid).count();
            let outcomes =
                entries + usize::from(state.acknowledged[index]) + usize::from(state.purged[index]);
            if outcomes > 1 {
                return Some(format!("message {message} came to more than one end"));
            }
            if passed && outcomes == 0 {
                return Some(format!("message {message} is lost"));
            }
            if !passed && outcomes > 0 {
                return Some(format!("message {message} came to an end before low_water passed it"));
            }
            if state.handed[index] > allowed {
                return Some(format!("message {message} was handed out more often than allowed"));
            }
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        let open = |entry: &Entry| !matches!(entry.mark, Mark::Free | Mark::Waiting | Mark::Dead);
        state.low_water == MESSAGES && !state.entries.iter().any(open)
    }
}
