//! The supervisor's role: taken over from a holder that is dead, stopped or stuck, whose late acts change nothing.
//!
//! **Protocol.** One word names the newest holder; it changes by compare-and-swap only, from the holder that was seen dead
//! or silent to its successor, or to "closed". The successor then looks at every entry of the table: one that another
//! holder is filling goes to quarantine. A holder fills an entry in four steps: FREE -> REGISTERING(me), is the word still
//! mine, plain stores, REGISTERING(me) -> LIVE. So either the late holder sees the successor's word, or the successor sees
//! its entry and the last step fails. An entry in quarantine is handed out again only after its holder's proven end, since
//! plain stores may still hit it. The type table of a topic is filled in the same way.
//! A topic is built under a temporary name and renamed when complete, never over another; a successor takes away what
//! others are building by renaming it first. A bus is closed by the same word.
//!
//! **Processes.** Three holders, one after the other; each registers somebody, makes the topic, or closes the bus. Any of
//! them may be killed or stopped between two steps, for ever or for a while, and any may be superseded though healthy.
//!
//! **State and who writes it.** The word (compare-and-swap). Per entry a word (state, maker, incarnation) and two fields
//! (its maker, by plain stores). Per holder a temporary topic of two parts. The topic's name.
//!
//! **Invariants.** A LIVE entry holds its maker's fields. Nobody becomes LIVE by a holder whose successor has looked at
//! the table. The topic is complete when it has its name, and is never replaced. No bus is closed over a LIVE entry.
//! Progress: whoever is stopped, the last holder that is not gets everything done.
//!
//! **Broken variants** are those of [`Variant`]. [`Removal`] is the second part: how the files of a closed bus go, when
//! whoever removes them may be stopped until another bus has their name.

use super::explorer::{Model, Step, Successors};

/// The protocol, or a way to get it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As the bus does it.
    Correct,
    /// A holder fills the entry that it has claimed without a look at the word.
    Unchecked,
    /// An entry is written while it is FREE, and marked LIVE by a plain store.
    PlainStores,
    /// The successor leaves entries alone that another is filling.
    NoQuarantine,
    /// The successor frees them at once.
    EarlyReuse,
    /// A topic gets its name without a look at the word, and over one that has it.
    RenameOver,
    /// The successor empties temporary topics where they are.
    RemoveInPlace,
    /// A holder sees that it is the newest, then closes the bus by a plain store.
    CheckedClose,
    /// A thread of its own beats for a holder that is stuck.
    HelperBeats,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// The protocol.
    pub variant: Variant,
    /// How many holders follow each other, at most three.
    pub holders: usize,
    /// How many deaths, stops, and take-overs from a healthy holder.
    pub faults: u8,
}

const HOLDERS: usize = 3;
const ENTRIES: usize = 2;
const NAMES: [&str; HOLDERS] = ["A", "B", "C"];
const CLOSED: u8 = 9;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Entry {
    #[default]
    Free,
    Registering(u8),
    Quarantined(u8),
    Live(u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    word: Entry,
    tag: u8,
    fields: [u8; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    /// Does not have the role yet.
    #[default]
    Waits,
    /// Has taken it and looks at an entry.
    Scan(u8),
    /// Takes away what others are building; in two steps where it is done wrongly.
    Clean(u8),
    Serve,
    Claim(u8, u8),
    Check(u8, u8),
    Fill(u8, u8, u8),
    Publish(u8, u8),
    Begin,
    Build(u8),
    Rename,
    Close,
    /// Has seen that it is no longer the newest.
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Temporary {
    #[default]
    None,
    Parts(u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Holder {
    at: At,
    dead: bool,
    stopped: bool,
    registered: bool,
    making: Temporary,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    newest: u8,
    slots: [Slot; ENTRIES],
    holders: [Holder; HOLDERS],
    /// Parts of the topic that has the name.
    topic: Option<u8>,
    faults: u8,
    wrong: Option<&'static str>,
}

impl State {
    fn is_over(&self, holder: u8) -> bool {
        let holder = &self.holders[usize::from(holder)];
        holder.dead || holder.at == At::Ended
    }
}

impl Role {
    fn moves(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = who as u8;
        let variant = self.variant;
        let holder = state.holders[who];
        let is_newest = state.newest == me;
        let mut go = |what: &'static str, change: &dyn Fn(&mut State, &mut Holder)| {
            let mut next = state.clone();
            let mut holder = holder;
            change(&mut next, &mut holder);
            next.holders[who] = holder;
            out.push((Step::new(NAMES[who], what), next));
        };
        match holder.at {
            At::Waits => {}
            At::Scan(k) if usize::from(k) < ENTRIES => go("looks at an entry", &|n, h| {
                h.at = At::Scan(k + 1);
                let maker = match n.slots[usize::from(k)].word {
                    Entry::Registering(maker) | Entry::Quarantined(maker) => maker,
                    _ => return,
                };
                let over = n.is_over(maker);
                let slot = &mut n.slots[usize::from(k)];
                slot.word = match variant {
                    _ if over => Entry::Free,
                    Variant::NoQuarantine => slot.word,
                    Variant::EarlyReuse => Entry::Free,
                    _ => Entry::Quarantined(maker),
                };
            }),
            At::Scan(_) => go("has looked at all", &|_, h| h.at = At::Clean(0)),
            At::Clean(0) if variant == Variant::RemoveInPlace => go("removes a part", &|n, h| {
                for (index, other) in n.holders.iter_mut().enumerate() {
                    if let Temporary::Parts(2) = other.making
                        && index != who
                    {
                        other.making = Temporary::Parts(1);
                    }
                }
                h.at = At::Clean(1);
            }),
            At::Clean(_) => go("takes away what others build", &|n, h| {
                for (index, other) in n.holders.iter_mut().enumerate() {
                    if index != who {
                        other.making = Temporary::None;
                    }
                }
                h.at = At::Serve;
            }),
            At::Serve if !is_newest => go("sees that it is superseded", &|_, h| h.at = At::Ended),
            At::Serve => {
                for (index, slot) in state.slots.iter().enumerate() {
                    if !holder.registered && slot.word == Entry::Free {
                        go("finds a free entry", &|_, h| h.at = At::Claim(index as u8, slot.tag));
                    }
                    if let Entry::Quarantined(maker) | Entry::Registering(maker) = slot.word
                        && maker != me
                        && state.is_over(maker)
                    {
                        go("frees an entry", &|n, _| n.slots[index].word = Entry::Free);
                    }
                }
                if holder.registered && state.topic.is_none() {
                    go("finds no topic", &|_, h| h.at = At::Begin);
                }
                if state.slots.iter().all(|slot| !matches!(slot.word, Entry::Live(_))) && !holder.registered {
                    go("finds nobody registered", &|_, h| h.at = At::Close);
                }
            }
            At::Claim(k, tag) if variant == Variant::PlainStores => {
                go("takes the entry for its own", &|n, h| {
                    n.slots[usize::from(k)].tag = tag + 1;
                    h.at = At::Fill(k, tag + 1, 0);
                });
            }
            At::Claim(k, tag) => go("claims the entry", &|n, h| {
                let slot = &mut n.slots[usize::from(k)];
                if (slot.word, slot.tag) == (Entry::Free, tag) {
                    *slot = Slot { word: Entry::Registering(me), tag: tag + 1, ..*slot };
                    h.at = match variant {
                        Variant::Unchecked => At::Fill(k, tag + 1, 0),
                        _ => At::Check(k, tag + 1),
                    };
                } else {
                    h.at = At::Serve;
                }
            }),
            At::Check(k, tag) if is_newest => {
                go("is still the newest", &|_, h| h.at = At::Fill(k, tag, 0));
            }
            At::Check(k, tag) => go("gives the entry back", &|n, h| {
                let slot = &mut n.slots[usize::from(k)];
                if (slot.word, slot.tag) == (Entry::Registering(me), tag) {
                    slot.word = Entry::Free;
                }
                h.at = At::Serve;
            }),
            At::Fill(k, tag, field) => go("stores a field", &|n, h| {
                n.slots[usize::from(k)].fields[usize::from(field)] = me + 1;
                h.at = if field == 0 { At::Fill(k, tag, 1) } else { At::Publish(k, tag) };
            }),
            At::Publish(k, tag) => go("makes the entry LIVE", &|n, h| {
                let newest = n.newest;
                let slot = &mut n.slots[usize::from(k)];
                h.at = At::Serve;
                let claimed = (slot.word, slot.tag) == (Entry::Registering(me), tag);
                if claimed || variant == Variant::PlainStores {
                    slot.word = Entry::Live(me);
                    h.registered = true;
                    let looked = |holder: &Holder| !matches!(holder.at, At::Waits | At::Scan(0 | 1));
                    if newest != me && (newest == CLOSED || looked(&n.holders[usize::from(newest)])) {
                        n.wrong = Some("somebody was registered by a holder whose time was over");
                    }
                }
            }),
            At::Begin => go("makes a directory for the topic", &|_, h| {
                *h = Holder { at: At::Build(1), making: Temporary::Parts(0), ..*h };
            }),
            At::Build(part) => go("builds a part of the topic", &|n, h| match h.making {
                // Its directory has been moved away.
                Temporary::None => h.at = At::Serve,
                Temporary::Parts(_) => {
                    h.making = Temporary::Parts(part);
                    h.at = if part < 2 {
                        At::Build(part + 1)
                    } else if n.newest == me || variant == Variant::RenameOver {
                        At::Rename
                    } else {
                        h.making = Temporary::None;
                        At::Serve
                    };
                }
            }),
            At::Rename => go("gives the topic its name", &|n, h| {
                if let Temporary::Parts(parts) = h.making {
                    if n.topic.is_some() && variant == Variant::RenameOver {
                        n.wrong = Some("the topic was replaced by another");
                    }
                    n.topic = n.topic.or(Some(parts));
                }
                *h = Holder { at: At::Serve, making: Temporary::None, ..*h };
            }),
            At::Close => go("closes the bus", &|n, h| {
                if n.newest == me || (variant == Variant::CheckedClose && n.newest != CLOSED) {
                    n.newest = CLOSED;
                    if n.slots.iter().any(|slot| matches!(slot.word, Entry::Live(_))) {
                        n.wrong = Some("the bus was closed over somebody who is registered");
                    }
                }
                h.at = At::Serve;
            }),
            At::Ended => {}
        }
    }

    /// The next process finds the newest holder dead or silent, or believes it, and takes the role.
    fn take(&self, state: &State, out: &mut Successors<State>) {
        let Some(newest) = state.holders[..self.holders].get(usize::from(state.newest)) else { return };
        let successor = usize::from(state.newest) + 1;
        if successor >= self.holders || state.holders[successor].dead {
            return;
        }
        // A stopped process does not beat either way; one that is merely stuck does if another thread beats for it.
        let is_silent = newest.stopped && self.variant != Variant::HelperBeats;
        let is_healthy = !newest.dead && newest.at != At::Ended && !is_silent;
        if state.holders[successor].stopped || is_healthy && state.faults == 0 {
            return;
        }
        let mut next = state.clone();
        next.newest = successor as u8;
        next.holders[successor].at = At::Scan(0);
        next.faults -= u8::from(is_healthy);
        out.push((Step { fault: is_healthy, ..Step::new(NAMES[successor], "takes the role") }, next));
    }
}

impl Model for Role {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State { faults: self.faults, ..State::default() };
        state.holders[0].at = At::Serve;
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in NAMES.iter().enumerate().take(self.holders) {
            let holder = state.holders[who];
            if holder.dead || holder.at == At::Ended {
                continue;
            }
            if !holder.stopped {
                self.moves(state, who, out);
            }
            let mut fault = |what, cost, change: &dyn Fn(&mut Holder)| {
                if holder.at != At::Waits && state.faults >= cost {
                    let mut next = state.clone();
                    next.faults -= cost;
                    change(&mut next.holders[who]);
                    out.push((Step { fault: true, ..Step::new(name, what) }, next));
                }
            };
            fault("is killed", 1, &|h| h.dead = true);
            match holder.stopped {
                false => fault("is stopped", 1, &|h| h.stopped = true),
                true => fault("goes on", 0, &|h| h.stopped = false),
            }
        }
        self.take(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        let foreign = |slot: &Slot| matches!(slot.word, Entry::Live(maker) if slot.fields != [maker + 1; 2]);
        match state.wrong {
            Some(wrong) => Some(wrong.into()),
            None if state.slots.iter().any(foreign) => {
                Some("an entry holds fields of another holder's".into())
            }
            None if state.topic.is_some_and(|parts| parts < 2) => Some("half a topic has the name".into()),
            None => None,
        }
    }

    fn goal(&self, state: &State) -> bool {
        let Some(newest) = state.holders.get(usize::from(state.newest)) else { return true };
        // Nobody is left who could take over from the last one.
        let is_last = usize::from(state.newest) + 1 == self.holders;
        if newest.dead || newest.stopped {
            return is_last;
        }
        let is_full = state.slots.iter().all(|slot| slot.word != Entry::Free);
        newest.at == At::Serve && (is_full || newest.registered && state.topic.is_some())
    }
}

/// How the files of a closed bus go: renamed to a name that stands for that one directory, then emptied; the directory
/// itself goes when no process that might still try the rename is left.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// The protocol, or a way to get it wrong.
    pub variant: RemovalVariant,
}

/// Ways to remove a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalVariant {
    /// As the bus does it.
    Correct,
    /// The directory gets a name that no other has.
    UniqueName,
    /// The directory goes although another remover holds a lock in it.
    LocksIgnored,
    /// A remover does not look whether the directory that it holds a lock in still has the bus's name.
    PlaceUnchecked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Step2 {
    #[default]
    Open,
    Lock,
    Look,
    Rename,
    Release,
    Clear,
    Cleared,
    Done,
}

/// A state of [`Removal`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Removing {
    /// Which bus has the name: 0 none, 1 the closed one, 2 the next.
    named: u8,
    /// The closed one is under its doomed name.
    doomed: bool,
    /// The closed one's directory is gone.
    gone: bool,
    locks: [bool; 2],
    at: [Step2; 2],
    dead: [bool; 2],
    wrong: bool,
}

impl Model for Removal {
    type State = Removing;

    fn initial(&self) -> Removing {
        Removing { named: 1, ..Removing::default() }
    }

    fn successors(&self, state: &Removing, out: &mut Successors<Removing>) {
        for (who, name) in NAMES.iter().enumerate().take(2) {
            if state.dead[who] || state.at[who] == Step2::Done {
                continue;
            }
            let variant = self.variant;
            let others = state.locks[1 - who] && !state.dead[1 - who];
            let mut go = |what: &'static str, change: &dyn Fn(&mut Removing) -> Step2| {
                let mut next = state.clone();
                next.at[who] = change(&mut next);
                out.push((Step::new(name, what), next));
            };
            match state.at[who] {
                Step2::Open => go("opens the directory", &|n| match n.named {
                    1 => Step2::Lock,
                    _ => Step2::Done,
                }),
                Step2::Lock => go("makes a lock there", &|n| {
                    n.locks[who] = !n.gone;
                    match n.gone {
                        true => Step2::Done,
                        false if variant == RemovalVariant::PlaceUnchecked => Step2::Rename,
                        false => Step2::Look,
                    }
                }),
                Step2::Look => go("looks whether it has the name", &|n| match n.named {
                    1 => Step2::Rename,
                    _ => Step2::Release,
                }),
                Step2::Rename => go("renames what has the name", &|n| {
                    let is_free = !n.doomed || variant == RemovalVariant::UniqueName;
                    if is_free && n.named != 0 {
                        n.wrong = n.named == 2;
                        n.named = 0;
                        n.doomed = true;
                    }
                    Step2::Release
                }),
                Step2::Release => go("lets its lock go", &|n| {
                    n.locks[who] = false;
                    Step2::Clear
                }),
                Step2::Clear => go("looks for locks", &|n| match n.doomed {
                    true if !others || variant == RemovalVariant::LocksIgnored => Step2::Cleared,
                    _ => Step2::Done,
                }),
                Step2::Cleared => go("removes the directory", &|n| {
                    n.doomed = false;
                    n.gone = true;
                    Step2::Done
                }),
                Step2::Done => {}
            }
            let mut next = state.clone();
            next.dead[who] = true;
            out.push((Step::kill(name), next));
        }
        if state.named == 0 {
            out.push((Step::new("C", "makes the next bus"), Removing { named: 2, ..state.clone() }));
        }
    }

    fn violation(&self, state: &Removing) -> Option<String> {
        state.wrong.then(|| "the next bus was removed instead of the closed one".into())
    }
}
