//! When an idle member looks at what was put aside: one word says when the earliest entry is due.
//!
//! **Processes.** Stagers, each of which puts one message aside and may put it aside again; scanners, which
//! look for what is due; a clock. Nobody dies: deaths are what the rescan once a second is for, and this model
//! shows that nothing else needs it.
//!
//! **State and who writes it.** One state word an entry (empty, waiting, taken) with the time at which it is due;
//! and `due`, the earliest such time, 0 for none, changed by compare-and-swap.
//!
//! **The protocol.** Who puts an entry aside makes it wait first, and lowers `due` to its time afterwards,
//! unless it is as low already. Who finds that `due` has passed swaps it to 0 and goes through the table. The
//! first entry that is due is claimed, and `due` lowered to now, since there may be more; after the whole table
//! it is lowered to the earliest time that was seen.
//!
//! **Left out.** Weak memory: that a stager which finds `due` low enough must still swap the value for itself is
//! shown under loom.
//!
//! **Progress.** Every entry that waits is taken in the end.
//!
//! **Broken variants.** [`Variant::LowerFirst`]: `due` is lowered before the entry waits; a scanner clears it
//! and finds nothing. [`Variant::NoRest`]: a scanner that has claimed one entry forgets the others.
//! [`Variant::ClearLast`]: `due` is set after the scan instead of cleared before it, which wipes out what came
//! in between.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The time is announced before the entry waits.
    LowerFirst,
    /// A claim ends the scan, and `due` stays cleared.
    NoRest,
    /// A scanner stores what it found over whatever `due` is by then.
    ClearLast,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct AsideDue {
    /// The protocol.
    pub variant: Variant,
    /// When the entry of each stager is due; 0: no such stager.
    pub times: [u8; STAGERS],
    /// How many scanners there are.
    pub scanners: usize,
    /// How often an entry that was taken is put aside again, in all.
    pub again: u8,
}

const STAGERS: usize = 3;
const TIME_MAX: u8 = 3;
const STAGER_NAMES: [&str; STAGERS] = ["P0", "P1", "P2"];
const SCANNER_NAMES: [&str; 2] = ["S0", "S1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Entry {
    #[default]
    Empty,
    Waiting(u8),
    Taken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    /// Is to make the entry wait until then.
    Put(u8, u8),
    /// Is to lower `due` to this; the entry and its time follow for the variant that lowers first.
    Lower(u8),
    /// Has seen `due` at the second value.
    Swap(u8, u8),
    /// Has seen `due` passed.
    Clear(u8),
    /// At this entry, with the earliest time so far (0: none) and the time at which it began.
    Scan(u8, u8, u8),
    /// Has this entry in hand.
    Holds(u8),
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Process {
    at: At,
    /// After `due` is lowered: an entry to make wait (only the broken order), or one in hand.
    put: Option<(u8, u8)>,
    holds: Option<u8>,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    now: u8,
    due: u8,
    entries: [Entry; STAGERS],
    stagers: [Process; STAGERS],
    scanners: [Process; 2],
    again: u8,
}

fn earlier(a: u8, b: u8) -> u8 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        _ => a.min(b),
    }
}

impl AsideDue {
    /// The steps of a stager, and of a scanner that has nothing else to do.
    fn step(
        &self,
        state: &State,
        name: &'static str,
        me: Process,
        scans: bool,
        out: &mut Successors<(State, Process)>,
    ) {
        let mut push = |what: &'static str, value: u8, next: State, process: Process| {
            out.push((Step::with(name, what, value), (next, process)));
        };
        let mut next = state.clone();
        match me.at {
            At::Put(entry, time) => {
                next.entries[usize::from(entry)] = Entry::Waiting(time);
                let at = if self.variant == Variant::LowerFirst { At::Idle } else { At::Lower(time) };
                push("makes wait the entry", entry, next, Process { at, ..Process::default() });
            }
            At::Lower(time) => {
                push("reads due", state.due, next, Process { at: At::Swap(time, state.due), ..me });
            }
            At::Swap(time, seen) if state.due != seen => {
                push(
                    "finds due changed to",
                    state.due,
                    next,
                    Process { at: At::Swap(time, state.due), ..me },
                );
            }
            At::Swap(time, seen) => {
                next.due = earlier(time, seen);
                let at = match (me.put, me.holds) {
                    (Some((entry, time)), _) => At::Put(entry, time),
                    (_, Some(entry)) => At::Holds(entry),
                    _ => At::Idle,
                };
                push("lowers due to", time, next, Process { at, ..Process::default() });
            }
            At::Clear(seen) => {
                let at = if state.due != seen {
                    At::Idle
                } else {
                    if self.variant != Variant::ClearLast {
                        next.due = 0;
                    }
                    At::Scan(0, 0, state.now)
                };
                push("clears due, if it is still", seen, next, Process { at, ..me });
            }
            At::Scan(entry, rest, began) if usize::from(entry) < STAGERS => {
                match state.entries[usize::from(entry)] {
                    Entry::Waiting(time) if time <= began => {
                        next.entries[usize::from(entry)] = Entry::Taken;
                        let process = match self.variant {
                            Variant::NoRest => Process { at: At::Holds(entry), ..me },
                            Variant::ClearLast => {
                                next.due = began;
                                Process { at: At::Holds(entry), ..me }
                            }
                            _ => Process { at: At::Lower(began), holds: Some(entry), ..me },
                        };
                        push("claims the entry", entry, next, process);
                    }
                    Entry::Waiting(time) => {
                        let at = At::Scan(entry + 1, earlier(rest, time), began);
                        push("sees waiting the entry", entry, next, Process { at, ..me });
                    }
                    _ => {
                        let at = At::Scan(entry + 1, rest, began);
                        push("passes over the entry", entry, next, Process { at, ..me });
                    }
                }
            }
            At::Scan(_, rest, _) => {
                let at = match rest {
                    _ if self.variant == Variant::ClearLast => {
                        next.due = rest;
                        At::Idle
                    }
                    0 => At::Idle,
                    time => At::Lower(time),
                };
                push("has seen all, and next is due", rest, next, Process { at, ..me });
            }
            At::Holds(entry) => {
                push("is done with entry", entry, next.clone(), Process::default());
                if state.again < self.again && state.now < TIME_MAX {
                    next.again += 1;
                    let time = state.now + 1;
                    push("puts aside again entry", entry, next, self.putting(entry, time));
                }
            }
            At::Idle if scans && state.due != 0 && state.due <= state.now => {
                push("finds due passed", state.due, next, Process { at: At::Clear(state.due), ..me });
            }
            At::Idle | At::Done => {}
        }
    }

    fn putting(&self, entry: u8, time: u8) -> Process {
        if self.variant == Variant::LowerFirst {
            Process { at: At::Lower(time), put: Some((entry, time)), holds: None }
        } else {
            Process { at: At::Put(entry, time), ..Process::default() }
        }
    }
}

impl Model for AsideDue {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State { now: 1, ..State::default() };
        for (who, &time) in self.times.iter().enumerate() {
            state.stagers[who] = if time == 0 {
                Process { at: At::Done, ..Process::default() }
            } else {
                self.putting(who as u8, time)
            };
        }
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        let mut found = Vec::new();
        for (who, name) in STAGER_NAMES.iter().enumerate() {
            self.step(state, name, state.stagers[who], false, &mut found);
            for (step, (mut next, process)) in found.drain(..) {
                next.stagers[who] = process;
                out.push((step, next));
            }
        }
        for (who, name) in SCANNER_NAMES.iter().enumerate().take(self.scanners) {
            self.step(state, name, state.scanners[who], true, &mut found);
            for (step, (mut next, process)) in found.drain(..) {
                next.scanners[who] = process;
                out.push((step, next));
            }
        }
        if state.now < TIME_MAX {
            let mut next = state.clone();
            next.now += 1;
            out.push((Step::with("clock", "moves on to", next.now), next));
        }
    }

    fn violation(&self, _state: &State) -> Option<String> {
        None
    }

    fn goal(&self, state: &State) -> bool {
        let quiet = |process: &Process| matches!(process.at, At::Idle | At::Done);
        let taken =
            state.entries.iter().zip(self.times).all(|(entry, time)| time == 0 || *entry == Entry::Taken);
        taken && state.stagers.iter().chain(&state.scanners).all(quiet)
    }
}
