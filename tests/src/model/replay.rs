//! A dead letter is published again, or purged, by whoever comes first.
//!
//! **Processes.** Two replayers and a purger, each of which may be killed at any step, and whose number a new process may get
//! when nothing names the old one any more; a member that fills entries with dead letters; one who announces them; one or two
//! repairers, who act for the dead after the proof of death.
//!
//! **State and who writes it.** The word of an entry, changed by compare-and-swap on the value seen: state, holder with the
//! incarnation of its number, and a tag that fillings count. Its contents are stored by whoever fills it, and cleared by whoever
//! has taken it away, where they lie behind the table.
//!
//! **The protocol.** A replayer that has seen a dead letter takes it in hand: DEAD or ANNOUNCED becomes REPLAYING with its name
//! and the same tag. It copies the payload, publishes it, and then frees the entry; behind the table it takes the entry to FILLING
//! first, clears it, and frees it. Where the target stays full it puts the letter back. A purger frees an entry from DEAD or
//! ANNOUNCED, never from REPLAYING. Repair puts the letter of a dead replayer back, since nobody can tell whether it was published,
//! and frees an entry that a dead one was clearing.
//!
//! **A process that was thought dead and goes on** ([`Replay::unproven`]) may find its entry purged and filled anew. Its swaps
//! fail then; but what it copied may be another letter's. So a replayer must ask, after the copy and before it publishes,
//! whether it still holds the entry ([`Replay::looks`]). With proof of death nothing needs that. FILLING is never ended without
//! proof, here as in the bus: whoever clears an entry stores into it.
//!
//! **Left out.** Attempts, delays, weak memory, a second lane; that tags and incarnations come round again.
//!
//! **Invariants.** A dead letter is in an entry, or was published, or was purged. The number of its ends (publications, and a
//! purge) is at most one more than how often it was taken from a dead holder. What is published is the letter that was meant, and so
//! is what is purged. Progress: while one replayer lives all letters come to an end, and no entry stays in hand of the dead.
//!
//! **Broken variants.** [`Variant::FreedFirst`]: the entry is freed before the publication; a death between loses the letter.
//! [`Variant::RepairFrees`]: repair frees the entry of a dead replayer. [`Variant::NotInHand`]: it is published while it is still
//! DEAD; two publish it. [`Variant::NoTag`]: words are compared without the tag; an entry filled anew passes for the old one.
//! [`Variant::NoIncarnation`]: words are compared without the incarnation; a slow repairer takes the letter from the successor of
//! the dead one. [`Variant::NoProof`]: repair takes letters from the living. [`Variant::PurgedInHand`]: a purge takes away what a
//! replayer is about to copy. [`Variant::NotCompared`]: what a replayer does at the end is a plain store; one that was thought dead
//! frees another letter. [`Variant::NotRepaired`]: repair leaves REPLAYING alone.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// The entry is free before its letter is published.
    FreedFirst,
    /// What a dead replayer had in hand is freed.
    RepairFrees,
    /// What a dead replayer had in hand stays there.
    NotRepaired,
    /// A letter is published without being taken in hand, and purged afterwards.
    NotInHand,
    /// Words are compared without the tag.
    NoTag,
    /// Words are compared without the holder's incarnation.
    NoIncarnation,
    /// Repair does not ask whether a replayer lives.
    NoProof,
    /// A purge takes letters out of a replayer's hand.
    PurgedInHand,
    /// A replayer stores its last step whatever the entry is by then.
    NotCompared,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// The protocol.
    pub variant: Variant,
    /// How many replayers there are.
    pub replayers: usize,
    /// Whether somebody purges.
    pub purges: bool,
    /// Whether letters are announced.
    pub announces: bool,
    /// How many repairers there are.
    pub repairers: usize,
    /// How many entries the store has.
    pub entries: usize,
    /// How many letters come into it.
    pub letters: u8,
    /// Payloads lie behind the table, and are cleared away before an entry is free.
    pub spilled: bool,
    /// How many processes are killed.
    pub kills: u8,
    /// How many numbers of dead processes are given to new ones.
    pub reuses: u8,
    /// The first replayer may be taken for dead while it lives.
    pub unproven: bool,
    /// A replayer asks after its copy whether it still holds the entry.
    pub looks: bool,
}

const ENTRIES: usize = 2;
const LETTERS: usize = 3;
const WORKERS: usize = 3;
/// The place of the purger among the workers.
const PURGER: usize = 2;
/// Holder of what is being filled.
const MEMBER: u8 = 3;
const NAMES: [&str; WORKERS] = ["R0", "R1", "P"];
const REPAIRER_NAMES: [&str; 2] = ["F0", "F1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Filling,
    Dead,
    Announced,
    Replaying,
}

impl Mark {
    /// A dead letter that nobody publishes again.
    fn is_free_letter(self) -> bool {
        matches!(self, Mark::Dead | Mark::Announced)
    }
}

/// An entry: its word, and the letter that is in it; 0 where it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    mark: Mark,
    holder: u8,
    incarnation: u8,
    tag: u8,
    letter: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    /// Has seen a dead letter.
    Seen,
    /// Is to copy it.
    Copy,
    /// Is to ask whether it still holds it.
    Look,
    Publish,
    /// Published: the entry is to go.
    End,
    /// Not published.
    PutBack,
    /// Has taken the entry away.
    Clear,
    Free,
    Dead,
    /// Was thought dead, and has found out.
    Gone,
}

/// A replayer, or the purger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Worker {
    at: At,
    entry: u8,
    /// The word that it has seen or holds, and the letter that it meant.
    held: Entry,
    was_announced: bool,
    copied: u8,
    incarnation: u8,
    given_up: bool,
}

/// The member that fills entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Filler {
    letters: u8,
    filling: Option<(u8, Entry)>,
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    entries: [Entry; ENTRIES],
    workers: [Worker; WORKERS],
    filler: Filler,
    /// The letter that is being announced.
    announcing: Option<(u8, Entry)>,
    /// What each repairer is about to repair.
    repairs: [Option<(u8, Entry)>; 2],
    published: [u8; LETTERS],
    purged: [u8; LETTERS],
    /// How often a letter was taken from a holder that was dead, or thought to be.
    interrupted: [u8; LETTERS],
    kills: u8,
    reuses: u8,
    /// A letter was published with the payload of another, or purged instead of another.
    mixed_up: bool,
}

fn index(letter: u8) -> usize {
    usize::from(letter) - 1
}

impl State {
    /// Is the holder of an entry dead, or thought to be? What somebody stores into is taken from nobody without proof.
    fn is_dead(&self, entry: Entry) -> bool {
        self.workers.get(usize::from(entry.holder)).is_some_and(|worker| {
            let is_gone = worker.at == At::Dead || worker.incarnation != entry.incarnation;
            is_gone || (worker.given_up && entry.mark == Mark::Replaying)
        })
    }
}

impl Replay {
    /// Compare-and-swap of an entry's word; the contents stay until somebody stores others.
    fn swap(&self, next: &mut State, entry: u8, seen: Entry, new: Entry) -> bool {
        let place = &mut next.entries[usize::from(entry)];
        let word = |entry: Entry| {
            let tag = if self.variant == Variant::NoTag { 0 } else { entry.tag };
            let incarnation = if self.variant == Variant::NoIncarnation { 0 } else { entry.incarnation };
            (entry.mark, entry.holder, incarnation, tag)
        };
        let same = word(*place) == word(seen);
        if same {
            *place = Entry { letter: place.letter, ..new };
        }
        same
    }

    /// The last step of a replayer.
    fn end(&self, next: &mut State, entry: u8, seen: Entry, new: Entry) -> bool {
        if self.variant == Variant::NotCompared {
            let place = &mut next.entries[usize::from(entry)];
            *place = Entry { letter: place.letter, ..new };
            return true;
        }
        self.swap(next, entry, seen, new)
    }

    fn work(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.workers[who];
        let is_purger = who == PURGER;
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Worker)| {
            let mut next = state.clone();
            let mut worker = me;
            change(&mut next, &mut worker);
            next.workers[who] = worker;
            out.push((Step::with(NAMES[who], what, value), next));
        };
        let done = |worker: &mut Worker| {
            let at = if worker.given_up { At::Gone } else { At::Idle };
            *worker = Worker {
                at,
                incarnation: worker.incarnation,
                given_up: worker.given_up,
                ..Worker::default()
            };
        };
        let mine = |mark: Mark, tag: u8| Entry {
            mark,
            holder: who as u8,
            incarnation: me.incarnation,
            tag,
            letter: me.held.letter,
        };
        match me.at {
            At::Idle => {
                for entry in 0..self.entries as u8 {
                    let seen = state.entries[usize::from(entry)];
                    let in_hand =
                        is_purger && self.variant == Variant::PurgedInHand && seen.mark == Mark::Replaying;
                    if seen.mark.is_free_letter() || in_hand {
                        go("sees letter", seen.letter, &|_, w| {
                            let at = match self.variant {
                                Variant::NotInHand if !is_purger => At::Copy,
                                _ => At::Seen,
                            };
                            let was_announced = seen.mark == Mark::Announced;
                            *w = Worker { at, entry, held: seen, was_announced, ..*w };
                        });
                    }
                }
            }
            At::Seen if is_purger && !self.spilled => {
                go("purges, if it is the same, letter", me.held.letter, &|n, w| {
                    let there = n.entries[usize::from(w.entry)].letter;
                    if self.swap(n, w.entry, w.held, Entry { mark: Mark::Free, ..w.held }) {
                        n.purged[index(there)] += 1;
                        n.mixed_up |= there != w.held.letter;
                    }
                    done(w);
                });
            }
            At::Seen if is_purger => {
                go("takes away, if it is the same, letter", me.held.letter, &|n, w| {
                    let there = n.entries[usize::from(w.entry)].letter;
                    let taken = mine(Mark::Filling, w.held.tag + 1);
                    if self.swap(n, w.entry, w.held, taken) {
                        n.purged[index(there)] += 1;
                        n.mixed_up |= there != w.held.letter;
                        *w = Worker { at: At::Clear, held: taken, ..*w };
                    } else {
                        done(w);
                    }
                });
            }
            At::Seen => go("takes in hand, if it is the same, letter", me.held.letter, &|n, w| {
                let taken = mine(Mark::Replaying, w.held.tag);
                if self.swap(n, w.entry, w.held, taken) {
                    *w = Worker { at: At::Copy, held: taken, ..*w };
                } else {
                    done(w);
                }
            }),
            At::Copy => go("copies, meaning letter", me.held.letter, &|n, w| {
                w.copied = n.entries[usize::from(w.entry)].letter;
                w.at = match self.variant {
                    Variant::FreedFirst => At::End,
                    _ if self.looks => At::Look,
                    _ => At::Publish,
                };
            }),
            At::Look => go("asks whether it still holds letter", me.held.letter, &|n, w| {
                let now = n.entries[usize::from(w.entry)];
                let is_same = Entry { letter: 0, ..now } == Entry { letter: 0, ..w.held };
                if is_same { w.at = At::Publish } else { done(w) }
            }),
            At::Publish => {
                go("publishes letter", me.copied, &|n, w| {
                    n.mixed_up |= w.copied != w.held.letter;
                    if w.copied != 0 {
                        n.published[index(w.copied)] += 1;
                    }
                    if self.variant == Variant::FreedFirst { done(w) } else { w.at = At::End }
                });
                if self.variant != Variant::FreedFirst {
                    go("finds the target full for letter", me.copied, &|_, w| w.at = At::PutBack);
                }
            }
            At::PutBack => go("puts back letter", me.held.letter, &|n, w| {
                let mark = if w.was_announced { Mark::Announced } else { Mark::Dead };
                if self.variant != Variant::NotInHand {
                    self.end(n, w.entry, w.held, Entry { mark, ..w.held });
                }
                done(w);
            }),
            At::End if self.spilled && self.variant != Variant::FreedFirst => {
                go("takes away letter", me.held.letter, &|n, w| {
                    let taken = mine(Mark::Filling, w.held.tag + 1);
                    if self.end(n, w.entry, w.held, taken) {
                        *w = Worker { at: At::Clear, held: taken, ..*w };
                    } else {
                        done(w);
                    }
                });
            }
            At::End => go("frees the entry of letter", me.held.letter, &|n, w| {
                self.end(n, w.entry, w.held, Entry { mark: Mark::Free, ..w.held });
                if self.variant == Variant::FreedFirst { w.at = At::Publish } else { done(w) }
            }),
            At::Clear => go("clears away letter", me.held.letter, &|n, w| {
                n.entries[usize::from(w.entry)].letter = 0;
                w.at = At::Free;
            }),
            At::Free => go("frees the cleared entry", me.entry, &|n, w| {
                self.swap(n, w.entry, w.held, Entry { mark: Mark::Free, ..w.held });
                done(w);
            }),
            At::Dead | At::Gone => {}
        }
    }

    fn fill(&self, state: &State, out: &mut Successors<State>) {
        let mut next = state.clone();
        if let Some((entry, filling)) = state.filler.filling {
            let letter = state.filler.letters;
            next.filler.filling = None;
            let place = &mut next.entries[usize::from(entry)];
            place.letter = letter;
            // Nobody takes an entry from it: what a death of the member leaves is the affair of other models.
            *place = Entry { mark: Mark::Dead, letter, ..filling };
            out.push((Step::with("member", "makes a dead letter of", letter), next));
            return;
        }
        if state.filler.letters == self.letters {
            return;
        }
        let free = (0..self.entries).find(|&entry| state.entries[entry].mark == Mark::Free);
        if let Some(entry) = free {
            let seen = state.entries[entry];
            let filling =
                Entry { mark: Mark::Filling, holder: MEMBER, incarnation: 0, tag: seen.tag + 1, ..seen };
            next.entries[entry] = filling;
            next.filler = Filler { letters: state.filler.letters + 1, filling: Some((entry as u8, filling)) };
            out.push((Step::with("member", "fills entry", entry as u8), next));
        }
    }

    fn announce(&self, state: &State, out: &mut Successors<State>) {
        let mut next = state.clone();
        if let Some((entry, seen)) = state.announcing {
            next.announcing = None;
            self.swap(&mut next, entry, seen, Entry { mark: Mark::Announced, ..seen });
            out.push((Step::with("N", "has announced letter", seen.letter), next));
            return;
        }
        for entry in (0..self.entries).filter(|&entry| state.entries[entry].mark == Mark::Dead) {
            let seen = state.entries[entry];
            let mut next = state.clone();
            next.announcing = Some((entry as u8, seen));
            out.push((Step::with("N", "announces letter", seen.letter), next));
        }
    }

    fn repair(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let name = REPAIRER_NAMES[who];
        if let Some((entry, seen)) = state.repairs[who] {
            let mut next = state.clone();
            let there = state.entries[usize::from(entry)];
            let mark = match seen.mark {
                Mark::Replaying if self.variant != Variant::RepairFrees => Mark::Dead,
                _ => Mark::Free,
            };
            let was_dead = state.is_dead(there);
            if self.swap(&mut next, entry, seen, Entry { mark, ..seen })
                && seen.mark == Mark::Replaying
                && was_dead
            {
                next.interrupted[index(there.letter)] += 1;
            }
            next.repairs[who] = None;
            out.push((Step::with(name, "repairs, if it is the same, entry", entry), next));
            return;
        }
        for entry in 0..self.entries {
            let seen = state.entries[entry];
            let is_its = match seen.mark {
                Mark::Replaying if self.variant == Variant::NotRepaired => false,
                Mark::Replaying => self.variant == Variant::NoProof || state.is_dead(seen),
                Mark::Filling => state.is_dead(seen),
                _ => false,
            };
            if is_its {
                let mut next = state.clone();
                next.repairs[who] = Some((entry as u8, seen));
                out.push((Step::with(name, "finds the holder dead of entry", entry as u8), next));
            }
        }
    }

    /// Deaths, numbers given to new processes, and one that is thought dead.
    fn interfere(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in NAMES.iter().enumerate().filter(|&(who, _)| self.takes_part(who)) {
            let me = state.workers[who];
            let mut next = state.clone();
            if me.at == At::Dead {
                let names = |entry: &Entry| {
                    matches!(entry.mark, Mark::Replaying | Mark::Filling) && usize::from(entry.holder) == who
                };
                if state.reuses < self.reuses && !state.entries.iter().any(names) {
                    next.reuses += 1;
                    next.workers[who] = Worker { incarnation: me.incarnation + 1, ..Worker::default() };
                    out.push((Step::new(name, "is the number of a new process"), next));
                }
                continue;
            }
            if state.kills < self.kills && me.at != At::Gone {
                next.kills += 1;
                next.workers[who] = Worker { at: At::Dead, incarnation: me.incarnation, ..Worker::default() };
                out.push((Step::kill(name), next));
            }
            if self.unproven && who == 0 && !me.given_up && me.at != At::Idle {
                let mut next = state.clone();
                next.workers[who].given_up = true;
                out.push((Step { fault: true, ..Step::new(name, "is thought dead") }, next));
            }
        }
    }

    fn takes_part(&self, who: usize) -> bool {
        if who == PURGER { self.purges } else { who < self.replayers }
    }
}

impl Model for Replay {
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in (0..WORKERS).filter(|&who| self.takes_part(who)) {
            self.work(state, who, out);
        }
        self.fill(state, out);
        if self.announces {
            self.announce(state, out);
        }
        for who in 0..self.repairers {
            self.repair(state, who, out);
        }
        self.interfere(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        if state.mixed_up {
            return Some("a letter was taken for another".into());
        }
        let entered = state.filler.letters - u8::from(state.filler.filling.is_some());
        for letter in 1..=entered {
            let at = index(letter);
            let is_kept = |entry: &Entry| {
                (entry.mark.is_free_letter() || entry.mark == Mark::Replaying) && entry.letter == letter
            };
            let kept = state.entries[..self.entries].iter().filter(|entry| is_kept(entry)).count();
            let ends = state.published[at] + state.purged[at];
            if kept == 0 && ends == 0 {
                return Some(format!("letter {letter} is lost"));
            }
            if kept > 1 {
                return Some(format!("letter {letter} is in two entries"));
            }
            if ends > 1 + state.interrupted[at] {
                return Some(format!("letter {letter} came to {ends} ends without a death between"));
            }
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        let in_hand = |entry: &Entry| matches!(entry.mark, Mark::Replaying | Mark::Filling);
        let entries = &state.entries[..self.entries];
        let goes_on = (0..self.replayers)
            .any(|who| !matches!(state.workers[who].at, At::Dead | At::Gone) && !state.workers[who].given_up);
        if goes_on {
            state.filler.letters == self.letters && entries.iter().all(|entry| entry.mark == Mark::Free)
        } else {
            !entries.iter().any(in_hand)
        }
    }
}
