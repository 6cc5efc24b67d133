//! A named group that is let go while its member lives, and comes back: is every message either delivered or told to be missed?
//!
//! **Processes.** A producer; a member that reads, and comes back when it has been let go; a second one that takes the group over when
//! the first is dead, or joins it when it is found to have let go. Either may be killed at any step. Somebody lets the group
//! go at any moment at which it is ACTIVE: a supervisor, or a publisher that waits.
//!
//! **State and who writes it.** `end`, `gate` and `generation` as in the model `gate`. One entry: a state by compare-and-swap, the
//! cursor by plain stores of the member, and where the group stood, stored by who joins it before the cursor.
//!
//! **The way back.** EVICTED, the member says that it stores nothing more (DETACHED), takes the entry (REJOINING), saves where it
//! stood, changes to RESTARTING, and starts like a new group: a cursor, the generation, the gate, a start. Below the start it reads what
//! is still there, by copies that it checks, and tells what is not. The cursor passes what was missed only with the next
//! acknowledgement, so that after a death it is told again rather than never.
//!
//! **Invariants.** Where the group stands (the cursor, or what was saved while the cursor may be anything), everything before has been
//! delivered or told to be missed. While it is ACTIVE nothing from its cursor on is overwritten, and no confirmed gate is
//! beyond it. No member is told that it missed what it got. Progress: all messages can be published and told of.
//!
//! **Broken variants.** See [`Variant`].

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// Whoever lets the group go gives its entry to others, although its member may still store to the cursor.
    DetachedAtOnce,
    /// The entry of a member that dies while its group has let go is freed: the next one begins with what comes.
    FreedAfterDeath,
    /// The cursor passes what was missed before that is told.
    CursorBeforeTold,
    /// Where it stood is not saved before the cursor changes.
    NotSaved,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct LetGo {
    /// The protocol.
    pub variant: Variant,
    /// How many messages are published.
    pub messages: u8,
    /// How often the group is let go.
    pub evictions: u8,
    /// How many members may be killed.
    pub kills: u8,
}

const MEMBERS: usize = 2;
const SLOTS: u8 = 2;
const NAMES: [&str; MEMBERS] = ["M0", "M1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Joining,
    Active,
    Evicted,
    Detached,
    Rejoining,
    Restarting,
    Astray,
}

impl Mark {
    fn is_scanned(self) -> bool {
        matches!(self, Self::Active | Self::Restarting)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    mark: Mark,
    holder: u8,
    /// Counted by each change of hands.
    tag: u8,
    low_water: u8,
    stood: u8,
    /// Where it was reliable from when somebody last joined.
    start: u8,
}

/// Where the producer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Room,
    Generation,
    State,
    Cursor,
    Raise,
    Recheck,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Producer {
    at: At,
    cached: u8,
    generation: u8,
    candidate: u8,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Life {
    #[default]
    Out,
    Reserved,
    Saved,
    Restarting,
    CursorSet,
    Counted,
    GateRead,
    Started,
    Noted,
    In,
    /// Has a message in hand.
    Holding,
    /// Has met messages that are gone, up to its new position, and not told them yet.
    Overtaken,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    life: Life,
    /// The entry's tag when it was this member's.
    tag: u8,
    /// Next message that it reads.
    position: u8,
    /// Where it wants to start, and then does.
    start: u8,
    /// Messages that it got, a bit each.
    got: u8,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    end: u8,
    gate: u8,
    generation: u8,
    entry: Entry,
    producer: Producer,
    members: [Member; MEMBERS],
    /// Messages that were delivered, or told to be missed, a bit each.
    told: u8,
    contradicted: bool,
    kills: u8,
    evictions: u8,
}

impl State {
    fn is_whole(&self, sequence: u8) -> bool {
        self.end <= sequence + SLOTS
    }

    fn is_dead(&self, who: u8) -> bool {
        self.members[usize::from(who)].life == Life::Dead
    }

    /// Where the group stands: one that has not come to its start goes on before what it may have missed.
    fn stands(&self) -> u8 {
        let Entry { mark, low_water, stood, start, .. } = self.entry;
        match mark {
            Mark::Restarting | Mark::Astray => stood,
            _ if low_water == start => stood,
            _ => low_water,
        }
    }
}

fn below(sequence: u8) -> u8 {
    ((1_u16 << sequence) - 1) as u8
}

impl LetGo {
    fn produce(&self, state: &State, out: &mut Successors<State>) {
        let me = state.producer;
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::with("P", what, value), next));
        };
        match me.at {
            At::Room if state.end == self.messages => {}
            At::Room if state.end < me.cached + SLOTS => go("publishes", state.end, &|n| n.end += 1),
            At::Room => go("recomputes the gate at", state.end, &|n| n.producer.at = At::Generation),
            At::Generation => go("reads the generation", state.generation, &|n| {
                n.producer =
                    Producer { at: At::State, generation: n.generation, candidate: n.end, ..n.producer };
            }),
            At::State => go("reads the state of the entry", 0, &|n| {
                n.producer.at = if n.entry.mark.is_scanned() { At::Cursor } else { At::Raise };
            }),
            At::Cursor => go("reads low_water", state.entry.low_water, &|n| {
                n.producer.candidate = n.producer.candidate.min(n.entry.low_water);
                n.producer.at = At::Raise;
            }),
            At::Raise => go("raises the gate to", me.candidate, &|n| {
                n.gate = n.gate.max(n.producer.candidate);
                n.producer.at = At::Recheck;
            }),
            At::Recheck if me.generation != state.generation => {
                go("sees the new generation", state.generation, &|n| n.producer.at = At::Generation);
            }
            At::Recheck => go("confirms the gate", me.candidate, &|n| {
                let cached = n.producer.cached.max(n.producer.candidate);
                n.producer = Producer { cached, ..Producer::default() };
            }),
        }
    }

    fn take_part(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let (me, entry) = (state.members[who], state.entry);
        let is_mine = usize::from(entry.holder) == who && entry.tag == me.tag;
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Member)| {
            let (mut next, mut member) = (state.clone(), me);
            change(&mut next, &mut member);
            next.members[who] = member;
            out.push((Step::with(NAMES[who], what, value), next));
        };
        let reserve = |n: &mut State, m: &mut Member, mark: Mark, life: Life| {
            n.entry = Entry { mark, holder: who as u8, tag: n.entry.tag + 1, ..n.entry };
            *m = Member { life, tag: n.entry.tag, ..*m };
        };
        match me.life {
            Life::Dead => {}
            Life::Out => match entry.mark {
                Mark::Detached => {
                    go("takes the entry", 0, &|n, m| reserve(n, m, Mark::Rejoining, Life::Reserved))
                }
                Mark::Astray => go("takes the stray entry", 0, &|n, m| {
                    reserve(n, m, Mark::Restarting, Life::Restarting);
                }),
                // Only the broken repair leads here.
                Mark::Free => go("joins anew", state.end, &|n, m| {
                    reserve(n, m, Mark::Joining, Life::In);
                    n.entry = Entry { mark: Mark::Active, low_water: n.end, stood: n.end, ..n.entry };
                    (m.position, m.start) = (n.end, n.end);
                }),
                Mark::Active if state.is_dead(entry.holder) => {
                    go("inherits the group at", state.stands(), &|n, m| {
                        reserve(n, m, Mark::Active, Life::In);
                        (m.position, m.start) = (m.position.max(n.stands()), n.entry.low_water);
                    });
                }
                _ => {}
            },
            Life::Reserved => go("saves where it stood", state.stands(), &|n, m| {
                if self.variant != Variant::NotSaved {
                    n.entry.stood = n.stands();
                }
                m.life = Life::Saved;
            }),
            Life::Saved => go("is restarting", 0, &|n, m| {
                n.entry.mark = Mark::Restarting;
                m.life = Life::Restarting;
            }),
            Life::Restarting => go("sets low_water", entry.stood, &|n, m| {
                let stood = if self.variant == Variant::NotSaved { n.entry.low_water } else { n.entry.stood };
                // What it has been told of need not be told again.
                m.position = m.position.max(stood);
                m.start = stood.max(n.end.saturating_sub(SLOTS));
                n.entry.low_water = m.start;
                m.life = Life::CursorSet;
            }),
            Life::CursorSet => go("counts the generation", state.generation + 1, &|n, m| {
                n.generation += 1;
                m.life = Life::Counted;
            }),
            Life::Counted => go("reads the gate", state.gate, &|n, m| {
                m.start = m.start.max(n.gate);
                m.life = Life::GateRead;
            }),
            Life::GateRead => go("sets low_water to its start", me.start, &|n, m| {
                n.entry.low_water = n.entry.low_water.max(m.start);
                m.life = Life::Started;
            }),
            Life::Started => go("notes its start", me.start, &|n, m| {
                n.entry.start = m.start;
                m.life = Life::Noted;
            }),
            Life::Noted => go("is back, reliable from", me.start, &|n, m| {
                n.entry.mark = Mark::Active;
                m.life = Life::In;
            }),
            Life::In => {
                if !is_mine || entry.mark != Mark::Active {
                    go("says that it was let go", 0, &|n, m| {
                        if is_mine && n.entry.mark == Mark::Evicted {
                            n.entry.mark = Mark::Detached;
                        }
                        m.life = Life::Out;
                    });
                }
                // It need not have noticed.
                if me.position < state.end && state.is_whole(me.position) {
                    go("gets message", me.position, &|n, m| {
                        n.told |= 1 << m.position;
                        m.got |= 1 << m.position;
                        m.life = Life::Holding;
                    });
                } else if me.position < state.end {
                    let to = state.end - SLOTS;
                    // Never past what is kept for it.
                    let to = if me.position < me.start { to.min(me.start) } else { to };
                    go("was overtaken, and goes on at", to, &|n, m| {
                        m.life = Life::Overtaken;
                        if self.variant == Variant::CursorBeforeTold && m.position >= m.start {
                            n.entry.low_water = to;
                        }
                        m.tag = m.tag & 0xf | to << 4;
                    });
                }
            }
            Life::Overtaken => {
                let to = me.tag >> 4;
                go("tells what it missed, up to", to, &|n, m| {
                    let run = below(to) & !below(m.position);
                    n.contradicted |= m.got & run != 0;
                    n.told |= run;
                    *m = Member { life: Life::In, position: to, tag: m.tag & 0xf, ..*m };
                });
            }
            Life::Holding => go("acknowledges", me.position, &|n, m| {
                m.position += 1;
                m.life = Life::In;
                // Whoever has the entry now: it does not look.
                if m.position > m.start {
                    n.entry.low_water = m.position;
                }
            }),
        }
    }

    /// Deaths, letting go, and what is done about the dead.
    fn interfere(&self, state: &State, out: &mut Successors<State>) {
        let mut push = |step: Step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((step, next));
        };
        for (who, name) in NAMES.iter().enumerate() {
            if state.members[who].life != Life::Dead && state.kills < self.kills {
                push(Step::kill(name), &|n| {
                    n.kills += 1;
                    n.members[who] = Member { life: Life::Dead, ..Member::default() };
                });
            }
        }
        let Entry { mark, holder, .. } = state.entry;
        if mark == Mark::Active && state.evictions < self.evictions {
            let to = if self.variant == Variant::DetachedAtOnce { Mark::Detached } else { Mark::Evicted };
            let step = Step { fault: true, ..Step::new("R", "lets the group go") };
            push(step, &|n| {
                n.evictions += 1;
                n.entry.mark = to;
            });
        }
        if state.is_dead(holder) {
            let freed = self.variant == Variant::FreedAfterDeath;
            let to = match mark {
                Mark::Evicted if freed => Mark::Free,
                Mark::Evicted | Mark::Rejoining => Mark::Detached,
                Mark::Restarting => Mark::Astray,
                _ => return,
            };
            push(Step::new("R", "repairs the entry of a dead member"), &|n| n.entry.mark = to);
        }
    }
}

impl Model for LetGo {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        state.entry.mark = Mark::Active;
        state.members[0].life = Life::In;
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        self.produce(state, out);
        for who in 0..MEMBERS {
            self.take_part(state, who, out);
        }
        self.interfere(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        if state.contradicted {
            return Some("a member was told that it missed what it got".into());
        }
        let stands = state.stands();
        if below(stands) & !state.told != 0 {
            return Some(format!("the group stands at {stands}, and not all before it was told of"));
        }
        if state.entry.mark == Mark::Active {
            let low_water = state.entry.low_water;
            if state.end > low_water + SLOTS {
                return Some(format!("a group's unread message {low_water} was overwritten"));
            }
            if state.producer.cached > low_water {
                return Some(format!("a confirmed gate passed a group at {low_water}"));
            }
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        let all_dead = state.members.iter().all(|member| member.life == Life::Dead);
        all_dead || state.end == self.messages && state.told == below(self.messages)
    }
}
