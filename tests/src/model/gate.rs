//! The gate against groups that come and go: which messages may producers overwrite, while groups join at the
//! end or at an old position, leave, join again, die half-way or are evicted?
//!
//! **Processes.** One or two producers and up to two members, each a group by itself. A member owns an entry
//! of the group table; two members may contend for the same entry. A member may be joined from the start,
//! acknowledge, leave and join again, and may be killed at any step; another may then inherit its group,
//! unread messages included. Producers may be delayed for ever, which for the others is the same as being
//! killed.
//!
//! **State and who writes it.** `end`: the number of published messages (producers, by compare-and-swap from
//! the sequence that they read as the end; this is what the one-word publication comes to). `gate`: raised by
//! every scan. `generation`: counted by every join. Per entry a state and `low_water`: the state by
//! compare-and-swap, `low_water` by plain stores of the member whose entry it is. Each producer keeps the
//! highest gate that a completed scan of its own confirmed, and trusts no other.
//!
//! **Left out.** Slots, cells and payloads: overwriting means that a message was published a whole lane or
//! more above `low_water`, or that a producer holds a confirmed gate above `low_water`, which is what frees
//! slots and cells. Named groups that are held while nobody is attached count like active ones. Weak memory:
//! see the loom tests.
//!
//! **Starting.** A joining member is visible to scans before it knows its start. If it dies in between, its
//! `low_water` is a wish, below the gate, and messages behind it may be gone; if it dies later, `low_water`
//! is a promise that the next member inherits. Whoever comes next has to tell the two apart: trusting the
//! cursor reads what was overwritten, and joining again from it skips unread messages, because scans that are
//! discarded leave the gate above the cursors of groups they missed. Two ways work. [`Variant::Correct`]: an
//! entry is STARTING until its start is stored, and ACTIVE from then on; both are scanned, after a death the
//! first is freed and the second inherited. [`Variant::TentativeCursor`]: the wish carries a flag in the
//! cursor word itself, and one compare-and-swap of that word turns the wish into the start. Then anyone can
//! complete a join that it finds half done, without waiting for a member that is stopped: count the
//! generation, read the gate, swap. That is what a group with many members needs.
//!
//! **Invariants**, from the moment a joining member has computed its start until it leaves or is evicted: no
//! message from its cursor on is overwritten, and no confirmed gate is beyond its cursor. The gate never
//! passes the end, and a group's `low_water` is moved by nothing but the acknowledgements of its members.
//! Whoever inherits a group goes on where it stands. Progress: everything can still be published unless a
//! dead member's active entry holds the gate and nobody may inherit it.
//!
//! **Broken variants.** [`Variant::NoGeneration`]: a scan sees the entry inactive, the member joins, another
//! group moves on, and the scan confirms a gate above the new group's unread messages.
//! [`Variant::NoSecondRead`]: the member starts where it asked to, although a scan that missed it had already
//! raised the gate further. [`Variant::TailAfterCheck`]: a scan of an empty table takes a fresh reading of
//! the end after it has checked the generation. [`Variant::EvictedEntryFree`]: the entry of a stopped member
//! is given to the next one, whose cursor the late store of the stopped member then moves.
//! [`Variant::InheritCursor`] and [`Variant::InheritGate`]: no STARTING state, see above.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// As good: a wish is marked in the cursor word, and others may complete the join.
    TentativeCursor,
    /// Scans do not check whether a group joined meanwhile.
    NoGeneration,
    /// A joining member does not read the gate again after it has become visible.
    NoSecondRead,
    /// A scan that finds no group uses the end as read after the generation check.
    TailAfterCheck,
    /// Eviction frees the entry, instead of leaving that to the member or to the proof of its death.
    EvictedEntryFree,
    /// A joining member is ACTIVE before it has a start, and who inherits trusts the cursor.
    InheritCursor,
    /// A joining member is ACTIVE before it has a start, and who inherits joins again from the cursor on.
    InheritGate,
}

/// How a member takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The entry of the group table that it uses.
    pub entry: usize,
    /// Whether it is joined from the start.
    pub joined: bool,
    /// How often it may join; one that may is also free to leave.
    pub joins: u8,
    /// Whether its joins ask for the oldest message instead of the newest.
    pub historic: bool,
    /// Whether it takes over the group in its entry when that one's member is dead, or, with tentative
    /// cursors, becomes a further member of it at any time.
    pub inherits: bool,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// The protocol.
    pub variant: Variant,
    /// How many producers publish.
    pub producers: usize,
    /// How many messages are published in all.
    pub messages: u8,
    /// The members.
    pub members: [Option<Membership>; MEMBERS],
    /// How many members may be killed.
    pub kills: u8,
    /// Whether members may be evicted while they live.
    pub evict: bool,
}

const MEMBERS: usize = 2;
const PRODUCERS: usize = 2;
const ENTRIES: usize = 2;
const SLOTS: u8 = 2;
const PRODUCER_NAMES: [&str; PRODUCERS] = ["P0", "P1"];
const MEMBER_NAMES: [&str; MEMBERS] = ["M0", "M1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Joining,
    Starting,
    Active,
    Evicted,
}

impl Mark {
    fn is_scanned(self) -> bool {
        matches!(self, Self::Starting | Self::Active)
    }
}

/// An entry of the group table. `holder` is the member that last claimed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    mark: Mark,
    holder: u8,
    low_water: u8,
    /// The cursor's flag: this is a wish.
    tentative: bool,
    /// The observer's note of where the group stands, once it has been joined.
    promised: Option<u8>,
}

/// Where a producer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Tail,
    Room,
    Swap,
    Generation,
    EntryState(u8),
    EntryCursor(u8),
    Raise,
    Recheck,
    LateTail,
    LateRaise,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Producer {
    at: At,
    s: u8,
    cached: u8,
    generation: u8,
    candidate: u8,
    /// Whether the scan met an active group.
    found: bool,
    recomputed: bool,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Life {
    #[default]
    Out,
    Claim,
    SetCursor,
    Activate,
    Count,
    ReadGate,
    Start,
    Finish,
    In,
    /// Has a message in its hand.
    Holding,
    /// A further member of a group, which has nothing to do here but to be promised its messages.
    Joined,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    life: Life,
    /// The position it asks for, then its start, then its cursor.
    position: u8,
    joins: u8,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    end: u8,
    gate: u8,
    generation: u8,
    entries: [Entry; ENTRIES],
    producers: [Producer; PRODUCERS],
    members: [Member; MEMBERS],
    kills: u8,
}

impl State {
    /// Whether `who` has computed its start and is about to be joined there.
    fn starting(&self, model: &Gate, who: usize) -> bool {
        let Some(membership) = model.members[who] else { return false };
        let entry = self.entries[membership.entry];
        let mine = entry.mark.is_scanned() && usize::from(entry.holder) == who;
        // What is computed for a wish counts only if the wish still stands.
        let stands = model.variant != Variant::TentativeCursor || entry.tentative;
        mine && stands && matches!(self.members[who].life, Life::Start | Life::Finish)
    }

    /// Whether the entry belongs to an active group whose member is dead.
    fn is_orphan(&self, entry: usize) -> bool {
        let Entry { mark, holder, .. } = self.entries[entry];
        mark == Mark::Active && self.members[usize::from(holder)].life == Life::Dead
    }
}

impl Gate {
    fn starts_active(&self) -> bool {
        matches!(self.variant, Variant::TentativeCursor | Variant::InheritCursor | Variant::InheritGate)
    }

    fn produce(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.producers[who];
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Producer)| {
            let mut next = state.clone();
            let mut producer = me;
            change(&mut next, &mut producer);
            next.producers[who] = producer;
            out.push((Step::with(PRODUCER_NAMES[who], what, value), next));
        };
        match me.at {
            At::Tail if state.end == self.messages => {}
            At::Tail => go("reads the end", state.end, &|n, p| {
                *p = Producer { at: At::Room, s: n.end, ..*p };
            }),
            At::Room if i16::from(me.s) - i16::from(me.cached) < i16::from(SLOTS) => {
                go("has room for", me.s, &|_, p| {
                    *p = Producer { at: At::Swap, recomputed: false, ..*p };
                });
            }
            At::Room if me.recomputed => go("finds the lane full at", me.s, &|_, p| {
                *p = Producer { cached: p.cached, ..Producer::default() };
            }),
            At::Room => go("recomputes the gate, all published before", me.s, &|_, p| p.at = At::Generation),
            At::Swap => go("tries to publish", me.s, &|n, p| {
                if n.end == p.s {
                    n.end += 1;
                }
                *p = Producer { cached: p.cached, ..Producer::default() };
            }),
            At::Generation => go("reads the generation", state.generation, &|n, p| {
                let candidate = if self.variant == Variant::TailAfterCheck { u8::MAX } else { p.s };
                let at = At::EntryState(0);
                *p = Producer { at, generation: n.generation, candidate, found: false, ..*p };
            }),
            At::EntryState(entry) => go("reads the state of entry", entry, &|n, p| {
                if n.entries[usize::from(entry)].mark.is_scanned() {
                    *p = Producer { at: At::EntryCursor(entry), found: true, ..*p };
                } else {
                    p.at = self.after_entry(entry, p.found);
                }
            }),
            At::EntryCursor(entry) => go("reads low_water of entry", entry, &|n, p| {
                p.candidate = p.candidate.min(n.entries[usize::from(entry)].low_water);
                p.at = self.after_entry(entry, p.found);
            }),
            At::Raise => go("raises the gate to", me.candidate, &|n, p| {
                n.gate = n.gate.max(p.candidate);
                p.at = At::Recheck;
            }),
            At::Recheck if me.generation != state.generation && self.variant != Variant::NoGeneration => {
                go("sees the new generation", state.generation, &|_, p| {
                    *p = Producer { at: At::Generation, candidate: 0, generation: 0, found: false, ..*p };
                });
            }
            At::Recheck if self.variant == Variant::TailAfterCheck && !me.found => {
                go("finds the generation unchanged", state.generation, &|_, p| p.at = At::LateTail);
            }
            At::Recheck => go("confirms the gate", me.candidate, &|_, p| confirm(p)),
            At::LateTail => go("reads the end again", state.end, &|n, p| {
                *p = Producer { at: At::LateRaise, candidate: n.end, ..*p };
            }),
            At::LateRaise => go("raises and confirms the gate", me.candidate, &|n, p| {
                n.gate = n.gate.max(p.candidate);
                confirm(p);
            }),
        }
    }

    fn after_entry(&self, entry: u8, found: bool) -> At {
        if usize::from(entry) + 1 < ENTRIES {
            At::EntryState(entry + 1)
        } else if self.variant == Variant::TailAfterCheck && !found {
            At::Recheck
        } else {
            At::Raise
        }
    }

    fn take_part(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let Some(membership) = self.members[who] else { return };
        let me = state.members[who];
        let entry = state.entries[membership.entry];
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut Entry, &mut Member)| {
            let mut next = state.clone();
            change(&mut next.entries[membership.entry], &mut next.members[who]);
            out.push((Step::with(MEMBER_NAMES[who], what, value), next));
        };
        match me.life {
            Life::Out if me.joins < membership.joins => {
                let position = if membership.historic { 0 } else { state.end };
                go("wants to join at", position, &|_, m| {
                    *m = Member { life: Life::Claim, position, joins: m.joins + 1 };
                });
            }
            Life::Claim if entry.mark == Mark::Free => go("claims entry", membership.entry as u8, &|e, m| {
                *e = Entry { mark: Mark::Joining, holder: who as u8, ..Entry::default() };
                m.life = Life::SetCursor;
            }),
            Life::SetCursor => go("sets low_water", me.position, &|e, m| {
                e.low_water = m.position;
                e.tentative = self.variant == Variant::TentativeCursor;
                m.life = Life::Activate;
            }),
            Life::Activate => go("becomes visible to scans", 0, &|e, m| {
                e.mark = if self.starts_active() { Mark::Active } else { Mark::Starting };
                m.life = Life::Count;
            }),
            Life::Count => {
                let mut next = state.clone();
                next.generation += 1;
                let read = self.variant != Variant::NoSecondRead;
                next.members[who].life = if read { Life::ReadGate } else { Life::Start };
                out.push((Step::with(MEMBER_NAMES[who], "counts the generation", next.generation), next));
            }
            Life::ReadGate => go("reads the gate", state.gate, &|_, m| {
                m.position = m.position.max(state.gate);
                m.life = Life::Start;
            }),
            Life::Start if self.variant == Variant::TentativeCursor => {
                go("turns the wish into its start", me.position, &|e, m| {
                    // The start follows from the wish, so the wish is the value to compare with.
                    if e.tentative && e.mark == Mark::Active {
                        *e = Entry { low_water: m.position, tentative: false, ..*e };
                        e.promised = Some(m.position);
                    }
                    let first = usize::from(e.holder) == who;
                    *m = Member {
                        life: if first { Life::In } else { Life::Joined },
                        position: e.low_water,
                        ..*m
                    };
                });
            }
            Life::Start => go("sets low_water to its start", me.position, &|e, m| {
                e.low_water = m.position;
                m.life = Life::Finish;
            }),
            Life::Finish => go("is joined at", me.position, &|e, m| {
                e.mark = Mark::Active;
                e.promised = Some(m.position);
                m.life = Life::In;
            }),
            Life::In if entry.mark == Mark::Evicted && usize::from(entry.holder) == who => {
                go("sees that it was evicted and lets go", 0, &|e, m| {
                    *e = Entry::default();
                    *m = Member { joins: m.joins, ..Member::default() };
                });
            }
            // Freed under its feet, or already another member's: only the broken eviction leads here.
            Life::In if entry.mark != Mark::Active || usize::from(entry.holder) != who => {
                go("sees that it was evicted", 0, &|_, m| {
                    *m = Member { joins: m.joins, ..Member::default() }
                });
            }
            Life::In => {
                if me.position < state.end {
                    go("takes message", me.position, &|_, m| m.life = Life::Holding);
                }
                if membership.joins > 0 && self.variant != Variant::TentativeCursor {
                    go("leaves", 0, &|e, m| {
                        *e = Entry::default();
                        *m = Member { joins: m.joins, ..Member::default() };
                    });
                }
            }
            Life::Holding => go("acknowledges", me.position, &|e, m| {
                m.position += 1;
                m.life = Life::In;
                e.low_water = m.position;
                if usize::from(e.holder) == who && e.promised.is_some() {
                    e.promised = Some(m.position);
                }
            }),
            Life::Out if membership.inherits && entry.tentative && entry.mark == Mark::Active => {
                go("finds a join half done at", entry.low_water, &|e, m| {
                    *m = Member { life: Life::Count, position: e.low_water, ..*m };
                });
            }
            Life::Out if membership.inherits && state.is_orphan(membership.entry) => {
                go("inherits the group at", entry.low_water, &|e, m| {
                    e.holder = who as u8;
                    m.position = e.low_water;
                    if self.variant == Variant::InheritGate {
                        m.life = Life::Count;
                    } else {
                        e.promised = Some(e.promised.unwrap_or(e.low_water));
                        m.life = Life::In;
                    }
                });
            }
            Life::Out | Life::Claim | Life::Joined | Life::Dead => {}
        }
    }

    /// Deaths, evictions, and what may be done to the entry of a dead member.
    fn interfere(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in MEMBER_NAMES.iter().enumerate() {
            let Some(membership) = self.members[who] else { continue };
            let me = state.members[who];
            if me.life != Life::Dead && state.kills < self.kills {
                let mut next = state.clone();
                next.kills += 1;
                next.members[who] = Member { life: Life::Dead, ..Member::default() };
                out.push((Step::kill(name), next));
            }
            let entry = state.entries[membership.entry];
            if usize::from(entry.holder) != who {
                continue;
            }
            let unjoined = matches!(entry.mark, Mark::Joining | Mark::Starting | Mark::Evicted);
            if me.life == Life::Dead && unjoined {
                let mut next = state.clone();
                next.entries[membership.entry] = Entry::default();
                out.push((Step::with("R", "frees the entry of dead member", who as u8), next));
            }
            if self.evict
                && entry.mark == Mark::Active
                && matches!(me.life, Life::In | Life::Holding | Life::Dead)
            {
                let mut next = state.clone();
                let free = self.variant == Variant::EvictedEntryFree;
                let entry = &mut next.entries[membership.entry];
                entry.mark = if free { Mark::Free } else { Mark::Evicted };
                entry.promised = None;
                out.push((Step::with("R", "evicts member", who as u8), next));
            }
        }
    }
}

fn confirm(me: &mut Producer) {
    let cached = me.cached.max(me.candidate);
    *me = Producer { at: At::Room, s: me.s, cached, recomputed: true, ..Producer::default() };
}

impl Model for Gate {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        for (who, membership) in self.members.iter().enumerate() {
            if let Some(Membership { entry, joined: true, .. }) = *membership {
                let promised = Some(0);
                state.entries[entry] =
                    Entry { mark: Mark::Active, holder: who as u8, promised, ..Entry::default() };
                state.members[who].life = Life::In;
            }
        }
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..self.producers {
            self.produce(state, who, out);
        }
        for who in 0..MEMBERS {
            self.take_part(state, who, out);
        }
        self.interfere(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        if state.gate > state.end {
            return Some(format!("the gate {} is beyond the end {}", state.gate, state.end));
        }
        let starting = (0..MEMBERS).filter(|&who| state.starting(self, who));
        let starts = starting.map(|who| state.members[who].position);
        for position in starts.chain(state.entries.iter().filter_map(|entry| entry.promised)) {
            if state.end > position + SLOTS {
                return Some(format!("a group's unread message {position} was overwritten"));
            }
            if state.producers.iter().any(|producer| producer.cached > position) {
                return Some(format!("a confirmed gate passed a group at {position}"));
            }
        }
        let moved = |entry: &Entry| entry.promised.is_some_and(|promised| promised != entry.low_water);
        state.entries.iter().any(moved).then(|| "a group's cursor moved past unread messages or back".into())
    }

    fn goal(&self, state: &State) -> bool {
        let held = |who: usize| {
            let entry = self.members[who].map(|membership| membership.entry);
            entry.is_some_and(|entry| {
                usize::from(state.entries[entry].holder) == who && state.is_orphan(entry)
            })
        };
        // A further member does not read, so its group may hold the gate; a join must not stay half done.
        let member = |member: &Member| matches!(member.life, Life::Joined | Life::Dead);
        let shared = state.members.iter().any(member) && !state.entries.iter().any(|entry| entry.tentative);
        state.end == self.messages
            || (0..MEMBERS).any(held)
            || (self.variant == Variant::TentativeCursor && shared)
    }
}
