//! Parking and waking: one doorbell word per topic, under total store order.
//!
//! **Processes.** Two publishers, each with a slot of its own (two lanes that share a doorbell), and one or
//! two sleepers that wait for both. Publishers may be killed at any step; after a death someone sweeps: it
//! wakes the sleepers of every doorbell that is armed.
//!
//! **State and who writes it.** Each slot counts the messages published in it: plain stores of its publisher,
//! which go through that publisher's store buffer and reach memory in order, at any later time. The doorbell
//! is an epoch, a count of arrivals and the armed bit, changed by compare-and-swap by all, which empties the
//! own store buffer first, as locked instructions do. Sleepers sleep on the exact value of the doorbell.
//!
//! **What is a fence.** In fence mode the publisher empties its buffer between publishing and looking at the
//! doorbell. In membarrier mode it does not, and the sleeper's membarrier empties the buffers of all
//! processes instead (of all that registered for it). The buffers of the dead still drain. Registering may take
//! long, and a process begins without: until it has been told that it is registered it runs fences.
//!
//! **Left out.** The read before a compare-and-swap that arms or rings: one that fails starts over and leaves
//! nothing behind, so both are one step. Publication by compare-and-swap (it is a fence by itself here),
//! sleeping on more than one doorbell, the check before arming (it only saves work), and the ceiling on every
//! sleep, which would hide every lost wake-up: only the sweep after a death is allowed to help. A sweep is
//! offered only when it finds a sleeper with something to read; others would only let it look and go back to
//! sleep.
//!
//! **Invariant.** From every state, live publishers can finish and live sleepers can get everything that was
//! published: no sleeper is asleep with a message in a slot and nobody left to wake it. The same is asserted
//! when a publisher died between publishing and waking.
//!
//! **Broken variants.** [`Variant::NoFence`]: a publisher without a fence looks at the doorbell before its
//! message is visible, in fence mode. [`Variant::Unregistered`]: the same in membarrier mode, by a publisher
//! that membarrier does not reach. [`Variant::EarlyFlag`]: by one that was told so before it is.
//! [`Variant::NoMembarrier`]: a sleeper that looks at the slots without it.
//! [`Variant::BlindClear`]: a publisher that disarms after its wake whatever the doorbell holds by then.
//! [`Variant::SwapThenWake`]: a publisher that disarms first and dies before it wakes: nobody finds the
//! doorbell armed, neither the sweep nor the next publisher. [`Variant::ArmWithoutArrival`]: arming that does
//! not change an armed word, so that an exact-value disarm also disarms a newcomer.

use super::explorer::{Model, Step, Successors};

/// Which side has the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Publishers have a fence between publishing and looking at the doorbell.
    Fence,
    /// Sleepers run a membarrier between arming and looking at the slots.
    Membarrier,
}

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The second publisher has no fence, in a bus of fences.
    NoFence,
    /// The second publisher is not reached by membarrier, in a bus of membarriers.
    Unregistered,
    /// The second publisher is told that it is registered before it is.
    EarlyFlag,
    /// Sleepers do without membarrier, in a bus of membarriers.
    NoMembarrier,
    /// A publisher disarms after its wake, whatever happened meanwhile.
    BlindClear,
    /// A publisher disarms before its wake.
    SwapThenWake,
    /// A sleeper that finds the doorbell armed leaves it as it is.
    ArmWithoutArrival,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    /// Which side has the fence.
    pub mode: Mode,
    /// The protocol.
    pub variant: Variant,
    /// How many messages each publisher publishes.
    pub messages: [u8; PUBLISHERS],
    /// How many processes wait.
    pub sleepers: usize,
    /// How many publishers may be killed.
    pub kills: u8,
    /// The second publisher's process is registered for membarrier only at some time.
    pub late: bool,
}

const PUBLISHERS: usize = 2;
const SLEEPERS: usize = 2;
const PUBLISHER_NAMES: [&str; PUBLISHERS] = ["P0", "P1"];
const SLEEPER_NAMES: [&str; SLEEPERS] = ["S0", "S1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Bell {
    epoch: u8,
    arrivals: u8,
    armed: bool,
}

/// Where a publisher is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Publish,
    Ask,
    Fence,
    Look,
    Wake,
    Disarm,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Publisher {
    at: At,
    stored: u8,
    /// How many of its stores are still in its buffer.
    buffered: u8,
    /// The doorbell as it saw or left it.
    seen: Option<Bell>,
}

/// Where a sleeper is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Nap {
    #[default]
    Arm,
    Membarrier,
    Check(u8),
    Wait,
    Again,
    Asleep,
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Sleeper {
    nap: Nap,
    seen: Option<Bell>,
    got: [u8; PUBLISHERS],
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The slots as memory has them.
    slots: [u8; PUBLISHERS],
    bell: Bell,
    publishers: [Publisher; PUBLISHERS],
    sleepers: [Sleeper; SLEEPERS],
    kills: u8,
    /// Does membarrier reach the second publisher, and does that know?
    registered: bool,
    told: bool,
}

impl State {
    /// Empties the store buffer of `who`.
    fn drain(&mut self, who: usize) {
        self.slots[who] += std::mem::take(&mut self.publishers[who].buffered);
    }

    /// Counts epochs and arrivals from the lowest that anybody remembers: only whether two are equal matters,
    /// and how often each was increased since. States that differ in forgotten history become one.
    fn forget(&mut self) {
        let publishers = self.publishers.iter_mut().filter_map(|publisher| publisher.seen.as_mut());
        let sleepers = self.sleepers.iter_mut().filter_map(|sleeper| sleeper.seen.as_mut());
        let mut bells: Vec<&mut Bell> = publishers.chain(sleepers).collect();
        bells.push(&mut self.bell);
        let epoch = bells.iter().map(|bell| bell.epoch).min().unwrap_or(0);
        let arrivals = bells.iter().map(|bell| bell.arrivals).min().unwrap_or(0);
        for bell in bells {
            bell.epoch -= epoch;
            bell.arrivals -= arrivals;
        }
    }

    fn wake_all(&mut self) {
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| sleeper.nap == Nap::Asleep) {
            sleeper.nap = Nap::Arm;
        }
    }
}

impl Doorbell {
    fn publish(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.publishers[who];
        let name = PUBLISHER_NAMES[who];
        let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::new(name, what), next));
        };
        let second = who == 1;
        let unfenced = self.mode == Mode::Membarrier || (second && self.variant == Variant::NoFence);
        let to = |next: &mut State, at: At, seen: Option<Bell>| {
            next.publishers[who] = Publisher { at, seen, ..next.publishers[who] };
        };
        match me.at {
            At::Publish if me.stored < self.messages[who] => go("publishes", &|n| {
                n.publishers[who].stored += 1;
                n.publishers[who].buffered += 1;
                n.publishers[who].at = match unfenced {
                    true if second && self.late => At::Ask,
                    true => At::Look,
                    false => At::Fence,
                };
            }),
            At::Ask => go("asks whether it is registered", &|n| {
                n.publishers[who].at = if n.told { At::Look } else { At::Fence };
            }),
            At::Fence => go("runs a fence", &|n| {
                n.drain(who);
                n.publishers[who].at = At::Look;
            }),
            At::Look if state.bell.armed => go("finds the doorbell armed and rings", &|n| {
                n.drain(who);
                n.bell.epoch += 1;
                n.bell.armed = self.variant != Variant::SwapThenWake;
                to(n, At::Wake, Some(n.bell));
            }),
            At::Look => go("finds nobody waiting", &|n| n.publishers[who].at = At::Publish),
            At::Wake => go("wakes all", &|n| {
                n.wake_all();
                match self.variant {
                    Variant::SwapThenWake => to(n, At::Publish, None),
                    Variant::BlindClear => to(n, At::Disarm, None),
                    _ => n.publishers[who].at = At::Disarm,
                }
            }),
            At::Disarm => go("disarms if the doorbell is unchanged", &|n| {
                n.drain(who);
                if me.seen == Some(n.bell) || self.variant == Variant::BlindClear {
                    n.bell.armed = false;
                }
                to(n, At::Publish, None);
            }),
            At::Publish | At::Dead => {}
        }
        if me.buffered > 0 {
            go("has its oldest store reach memory", &|n| {
                n.publishers[who].buffered -= 1;
                n.slots[who] += 1;
            });
        }
        if state.kills < self.kills && me.at != At::Dead {
            let mut next = state.clone();
            next.kills += 1;
            next.publishers[who] = Publisher { at: At::Dead, seen: None, ..me };
            out.push((Step::kill(name), next));
        }
    }

    fn sleep(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.sleepers[who];
        let mut go = |what: &'static str, change: &dyn Fn(&mut State, &mut Sleeper)| {
            let mut next = state.clone();
            let mut sleeper = me;
            change(&mut next, &mut sleeper);
            next.sleepers[who] = sleeper;
            out.push((Step::new(SLEEPER_NAMES[who], what), next));
        };
        match me.nap {
            Nap::Arm => go("arms the doorbell", &|n, s| {
                if !(n.bell.armed && self.variant == Variant::ArmWithoutArrival) {
                    n.bell.arrivals += 1;
                }
                n.bell.armed = true;
                let fenced = self.mode == Mode::Fence || self.variant == Variant::NoMembarrier;
                let nap = if fenced { Nap::Check(0) } else { Nap::Membarrier };
                *s = Sleeper { nap, seen: Some(n.bell), ..*s };
            }),
            Nap::Membarrier => go("runs a membarrier", &|n, s| {
                n.drain(0);
                if n.registered {
                    n.drain(1);
                }
                s.nap = Nap::Check(0);
            }),
            Nap::Check(slot) => {
                let slot = usize::from(slot);
                if state.slots[slot] > me.got[slot] {
                    go("takes the messages of a slot", &|n, s| {
                        s.got[slot] = n.slots[slot];
                        let all = s.got == self.messages;
                        let nap = if all { Nap::Done } else { Nap::Arm };
                        *s = Sleeper { nap, seen: None, ..*s };
                    });
                } else {
                    go("finds no new message in a slot", &|_, s| {
                        s.nap = if slot == 0 { Nap::Check(1) } else { Nap::Wait };
                    });
                }
            }
            Nap::Wait if me.seen == Some(state.bell) => go("falls asleep", &|_, s| {
                *s = Sleeper { nap: Nap::Asleep, seen: None, ..*s };
            }),
            Nap::Wait => go("finds the doorbell changed", &|_, s| s.nap = Nap::Again),
            Nap::Again if state.bell.armed && me.seen.is_some_and(|seen| seen.epoch == state.bell.epoch) => {
                go("sees another arrival and waits on", &|n, s| {
                    *s = Sleeper { nap: Nap::Wait, seen: Some(n.bell), ..*s };
                });
            }
            Nap::Again => go("starts over", &|_, s| {
                *s = Sleeper { nap: Nap::Arm, seen: None, ..*s };
            }),
            Nap::Asleep | Nap::Done => {}
        }
    }

    /// The second publisher's process is registered, and then told so.
    fn register(&self, state: &State, out: &mut Successors<State>) {
        let (told_first, mut next) = (self.variant == Variant::EarlyFlag, state.clone());
        let what = match (state.registered, state.told) {
            (true, true) => return,
            (false, _) if !told_first || state.told => {
                next.registered = true;
                "is registered"
            }
            _ => {
                next.told = true;
                "is told that it is registered"
            }
        };
        out.push((Step::new(PUBLISHER_NAMES[1], what), next));
    }

    /// After a death: wake whoever waits at an armed doorbell.
    fn sweep(&self, state: &State, out: &mut Successors<State>) {
        let misses = |sleeper: &Sleeper| sleeper.nap == Nap::Asleep && sleeper.got != state.slots;
        if state.kills > 0 && state.bell.armed && state.sleepers.iter().any(misses) {
            let mut next = state.clone();
            next.bell.epoch += 1;
            next.wake_all();
            out.push((Step::new("R", "sweeps the armed doorbell"), next));
        }
    }
}

impl Model for Doorbell {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State { told: !self.late, ..State::default() };
        state.registered = !self.late && self.variant != Variant::Unregistered;
        for sleeper in &mut state.sleepers[self.sleepers..] {
            sleeper.nap = Nap::Done;
        }
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..PUBLISHERS {
            self.publish(state, who, out);
        }
        for who in 0..self.sleepers {
            self.sleep(state, who, out);
        }
        self.sweep(state, out);
        if self.late {
            self.register(state, out);
        }
        for (_, next) in out {
            next.forget();
        }
    }

    fn violation(&self, _state: &State) -> Option<String> {
        None
    }

    fn goal(&self, state: &State) -> bool {
        let quiet = |(publisher, messages): (&Publisher, &u8)| {
            let finished = publisher.at == At::Publish && publisher.stored == *messages;
            publisher.buffered == 0 && (publisher.at == At::Dead || finished)
        };
        let fed = |sleeper: &Sleeper| sleeper.got == state.slots;
        state.publishers.iter().zip(&self.messages).all(quiet)
            && state.sleepers[..self.sleepers].iter().all(fed)
    }
}
