//! The topic on which a process is answered: made by the holder of the role, removed when the process is buried, while its participant
//! number is given to the next one. Is it there for nobody else, and gone with its process?
//!
//! **Processes.** Two registrations of one participant number, one after the other: each may ask for its topic and be killed at any
//! step; what it has asked may be served after its death. Two holders of the role: the second takes it at any moment, while the
//! first is only stopped, or killed. A replier that holds requests of both.
//!
//! **State and who writes it.** The participant's entry (FREE, LIVE, SWEEPING, with its incarnation), changed by holders, by
//! compare-and-swap. Names of topics: appear by a rename of what a holder has built, disappear by a rename. The role's word.
//!
//! **Steps.** *Make:* see that the entry is LIVE in this incarnation; build under a temporary name; see that the role is still one's own; rename
//! to the name, which carries number and incarnation. *Bury:* LIVE to SWEEPING; the name goes; FREE. *Take over:* the role's word; then
//! whatever others have built is moved away; only then is anybody buried. *Answer:* see that the requester is registered; open the
//! name; publish.
//!
//! **Invariants.** A topic is there only while its process takes part or is being swept. A live process that has got its topic keeps it. No
//! answer comes to another incarnation than the one that asked. Progress: when both have ended, everything can be cleaned up.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The name carries the participant's number alone.
    NameWithoutIncarnation,
    /// A topic is made for whoever asks, without a look at its entry.
    NotLooked,
    /// The number is free before the topic is gone.
    FreedFirst,
    /// Who takes the role leaves what others have built where it is.
    NotMoved,
    /// The role is not looked at between building and the rename.
    NoBeat,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTopic {
    /// The protocol.
    pub variant: Variant,
    /// May the first holder be killed, besides being stopped?
    pub holder_dies: bool,
}

const HOLDERS: [&str; 2] = ["H0", "H1"];
const PROCESSES: [&str; 2] = ["P0", "P1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Live,
    Sweeping,
}

/// What a holder is about. Numbers are incarnations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    Looked(u8),
    Built(u8),
    Beaten(u8),
    Swept(u8),
    Removed(u8),
    /// Has taken the role, and moves away what is half made.
    Recovering,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Life {
    #[default]
    Out,
    In,
    Asked,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Replier {
    #[default]
    Idle,
    Looked(u8),
    Opened {
        asked_by: u8,
        topic_of: u8,
    },
}

/// A state of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    mark: Mark,
    incarnation: u8,
    newest: u8,
    holders: [At; 2],
    /// What each has built under a temporary name that is still where it was.
    built: [Option<u8>; 2],
    processes: [Life; 2],
    /// Whose topic stands under each name.
    there: [Option<u8>; 2],
    /// Has had its topic.
    had: [bool; 2],
    replier: Replier,
    astray: bool,
}

impl State {
    fn is_registered(&self, who: u8) -> bool {
        self.mark == Mark::Live && self.incarnation == who
    }
}

impl ReplyTopic {
    fn name(&self, who: u8) -> usize {
        if self.variant == Variant::NameWithoutIncarnation { 0 } else { who.into() }
    }

    fn hold(&self, state: &State, h: usize, out: &mut Successors<State>) {
        let mut push = |what, value, change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            out.push((Step::with(HOLDERS[h], what, value), next));
        };
        let is_newest = usize::from(state.newest) == h;
        match state.holders[h] {
            At::Dead => {}
            At::Recovering => push("moves away what is half made", 0, &|n| {
                if self.variant != Variant::NotMoved {
                    n.built[1 - h] = None;
                }
                n.holders[h] = At::Idle;
            }),
            At::Idle => {
                for who in 0..2_u8 {
                    let life = state.processes[usize::from(who)];
                    // Served by whoever has the request, be it the newest or not, and its sender alive or not.
                    let was_asked =
                        matches!(life, Life::Asked | Life::Dead) && state.there[self.name(who)].is_none();
                    // A holder that was superseded may serve what it had before.
                    let serves = h == 0 || state.newest == 1;
                    if serves && was_asked && (state.is_registered(who) || self.variant == Variant::NotLooked)
                    {
                        push("is asked for a topic, and sees the entry", who, &|n| {
                            n.holders[h] = At::Looked(who);
                        });
                    }
                    let is_due = life == Life::Dead && state.incarnation == who && state.mark != Mark::Free;
                    if is_due && is_newest {
                        push("begins to sweep", who, &|n| {
                            n.mark = Mark::Sweeping;
                            n.holders[h] = At::Swept(who);
                        });
                    }
                    let may_register = who == 0 || state.processes[0] == Life::Dead;
                    if life == Life::Out && state.mark == Mark::Free && is_newest && may_register {
                        push("registers", who, &|n| {
                            (n.mark, n.incarnation) = (Mark::Live, who);
                            n.processes[usize::from(who)] = Life::In;
                        });
                    }
                }
            }
            At::Looked(who) => push("builds the topic", who, &|n| {
                n.built[h] = Some(who);
                n.holders[h] = At::Built(who);
            }),
            At::Built(who) => push("looks at the role", who, &|n| {
                if is_newest || self.variant == Variant::NoBeat {
                    n.holders[h] = At::Beaten(who);
                } else {
                    n.built[h] = None;
                    n.holders[h] = At::Idle;
                }
            }),
            At::Beaten(who) => push("renames it", who, &|n| {
                if n.built[h].take().is_some() && n.there[self.name(who)].is_none() {
                    n.there[self.name(who)] = Some(who);
                    n.had[usize::from(who)] = true;
                }
                n.holders[h] = At::Idle;
            }),
            At::Swept(who) if self.variant == Variant::FreedFirst => push("frees the number", who, &|n| {
                if n.mark == Mark::Sweeping && n.incarnation == who {
                    n.mark = Mark::Free;
                }
                n.holders[h] = At::Removed(who);
            }),
            At::Swept(who) => push("removes the topic", who, &|n| {
                n.there[self.name(who)] = None;
                n.holders[h] = At::Removed(who);
            }),
            At::Removed(who) => push("ends the sweep", who, &|n| {
                if self.variant == Variant::FreedFirst {
                    n.there[self.name(who)] = None;
                } else if n.mark == Mark::Sweeping && n.incarnation == who {
                    n.mark = Mark::Free;
                }
                n.holders[h] = At::Idle;
            }),
        }
    }

    fn answer(&self, state: &State, out: &mut Successors<State>) {
        let mut push = |what, value, change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            out.push((Step::with("R", what, value), next));
        };
        match state.replier {
            Replier::Idle => {
                for who in 0..2_u8 {
                    // It has a request of each that ever had a topic to be answered on.
                    if state.had[usize::from(who)] && state.is_registered(who) {
                        push("sees that the requester is registered", who, &|n| {
                            n.replier = Replier::Looked(who);
                        });
                    }
                }
            }
            Replier::Looked(who) => push("opens the name", who, &|n| {
                n.replier = match n.there[self.name(who)] {
                    Some(topic_of) => Replier::Opened { asked_by: who, topic_of },
                    None => Replier::Idle,
                };
            }),
            Replier::Opened { asked_by, topic_of } => push("publishes the answer", asked_by, &|n| {
                n.astray |= asked_by != topic_of;
                n.replier = Replier::Idle;
            }),
        }
    }
}

impl Model for ReplyTopic {
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for h in 0..2 {
            self.hold(state, h, out);
        }
        if state.newest == 0 {
            let mut next = *state;
            (next.newest, next.holders[1]) = (1, At::Recovering);
            out.push((Step::new("H1", "takes the role"), next));
            if self.holder_dies && state.holders[0] != At::Dead {
                let mut next = *state;
                next.holders[0] = At::Dead;
                out.push((Step::kill("H0"), next));
            }
        }
        for (who, name) in PROCESSES.iter().enumerate() {
            let life = state.processes[who];
            if life == Life::In {
                let mut next = *state;
                next.processes[who] = Life::Asked;
                out.push((Step::new(name, "asks for its topic"), next));
            }
            if matches!(life, Life::In | Life::Asked) {
                let mut next = *state;
                next.processes[who] = Life::Dead;
                // Its end is the goal of the run, and no fault.
                out.push((Step::new(name, "ends"), next));
            }
        }
        self.answer(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        for (name, owner) in state.there.iter().enumerate() {
            let Some(owner) = *owner else { continue };
            if state.mark == Mark::Free || state.incarnation != owner {
                return Some(format!("name {name} is the topic of {owner}, which takes part no more"));
            }
        }
        for who in 0..2_u8 {
            let is_alive = matches!(state.processes[usize::from(who)], Life::In | Life::Asked);
            if is_alive && state.had[usize::from(who)] && state.there[self.name(who)] != Some(who) {
                return Some(format!("{who} has lost its topic"));
            }
        }
        state.astray.then(|| "an answer came to another than who asked".into())
    }

    fn goal(&self, state: &State) -> bool {
        state.processes == [Life::Dead; 2] && state.mark == Mark::Free && state.there == [None; 2]
    }
}
