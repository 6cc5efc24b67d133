//! A mailbox that is made by whoever comes first: is every message that was accepted kept for the owner?
//!
//! **Processes.** Two senders and an owner, each of which finds the mailbox, or makes it, and then sends or reads. Each may be killed at
//! any step.
//!
//! **State and who writes it.** A name that stands for nothing or for a topic; it appears by one rename, which fails where it is there
//! already. The topic has its group of one from the start: messages that are published are kept from the first on.
//!
//! **Invariants.** What was accepted is kept for the owner, or was read by one. Progress: as long as somebody lives who may own it, all that
//! was accepted can be read.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The topic first, then its group, which begins with what comes.
    GroupAfterwards,
    /// The rename replaces a mailbox that has come in between.
    Replaced,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox {
    /// The protocol.
    pub variant: Variant,
    /// How many may be killed.
    pub kills: u8,
}

const NAMES: [&str; 3] = ["S0", "S1", "O"];
const OWNER: usize = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Out,
    /// Has found no mailbox, and builds one.
    Builds,
    /// Has given it its name, and is about to make its group.
    Named,
    In,
    Done,
    Dead,
}

/// A state of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    at: [At; 3],
    is_there: bool,
    has_group: bool,
    /// A bit a sender: its message lies in the topic that has the name now.
    published: u8,
    /// Those that are kept for the group.
    kept: u8,
    /// Those whose senders were told that they are accepted.
    accepted: u8,
    read: u8,
    kills: u8,
}

impl Mailbox {
    fn step(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let mut push = |what, change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            out.push((Step::new(NAMES[who], what), next));
        };
        match state.at[who] {
            At::Out if state.is_there => push("finds the mailbox", &|n| n.at[who] = At::In),
            At::Out => push("finds no mailbox, and builds one", &|n| n.at[who] = At::Builds),
            At::Builds => push("renames what it has built", &|n| {
                n.at[who] = At::In;
                if n.is_there && self.variant != Variant::Replaced {
                    return;
                }
                // Whatever was in one that it replaces is gone.
                (n.is_there, n.published, n.kept) = (true, 0, 0);
                n.has_group = self.variant != Variant::GroupAfterwards;
                if !n.has_group {
                    n.at[who] = At::Named;
                }
            }),
            At::Named => push("makes the group", &|n| {
                n.has_group = true;
                n.at[who] = At::In;
            }),
            At::In if who == OWNER => {
                if !state.has_group {
                    push("makes the group", &|n| n.has_group = true);
                } else if state.kept & !state.read != 0 {
                    push("reads what is kept", &|n| n.read |= n.kept);
                }
            }
            At::In => push("sends", &|n| {
                n.published |= 1 << who;
                if n.has_group {
                    n.kept |= 1 << who;
                }
                n.accepted |= 1 << who;
                n.at[who] = At::Done;
            }),
            At::Done | At::Dead => {}
        }
    }
}

impl Model for Mailbox {
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in NAMES.iter().enumerate() {
            self.step(state, who, out);
            if state.kills < self.kills && state.at[who] != At::Dead {
                let mut next = *state;
                (next.at[who], next.kills) = (At::Dead, state.kills + 1);
                out.push((Step::kill(name), next));
            }
        }
    }

    fn violation(&self, state: &State) -> Option<String> {
        let lost = state.accepted & !state.kept & !state.read;
        (lost != 0).then(|| format!("messages {lost:b} were accepted, and nobody keeps them"))
    }

    fn goal(&self, state: &State) -> bool {
        state.at[OWNER] == At::Dead || state.is_there && state.accepted & !state.read == 0
    }
}
