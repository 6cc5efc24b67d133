//! What a follower is told of a message, while members, repair and a purge are at it.
//!
//! **Processes.** Two members, of which the first may be killed at any step; repair; an operator who purges dead letters; a
//! follower. In a shared group either member may be so slow that its claim, of the message or of the store's entry, is taken back at
//! any moment, and it goes on all the same. In a group of one the second member takes over from the first.
//!
//! **State and who writes it.** The owner word of the message, with the attempts that claims have counted (compare-and-swap); in a
//! group of one the cursor, a plain store of the member in office. One entry of the aside store: its word (compare-and-swap) and whether it
//! becomes a dead letter. One record of the message, with the attempts of the claim that it was stored by: a maximum, and what
//! is said of a dead letter is above all. In a group of one a successor clears it before it hands the message out again.
//! `truth` is what really became of the message, noted by the very step that settles it.
//!
//! **The protocol.** A member acknowledges, puts the message aside, or finishes it unhandled: then it records that first, and
//! settles afterwards. An entry of the store is finished unhandled in a state that only its holder or the proof of its death ends: in
//! hand, recorded, freed; whoever gets it after a death clears the record first. Who purges a dead letter records that it was one, and frees it afterwards. The follower looks whether the message
//! is finished, then for an entry of it, then at the record. What is in neither was handled.
//!
//! **Left out.** Messages that share a record: whoever finds a later one there answers that nothing is known. The group's
//! joining, and the second look at its entry (a cursor that a joiner moves). Weak memory.
//!
//! **Invariants.** A final answer is the truth. Progress: the follower gets a final answer.
//!
//! **Broken variants.** See [`Variant`].

use super::explorer::{Model, Step, Successors};

/// What is done otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    Protocol,
    /// Settles the message and records afterwards: a look in between, or a death, makes it handled.
    SettleFirst,
    /// The follower looks into the store before it looks at the cursor: the message is put aside in between.
    StoreBeforeCursor,
    /// The follower looks at the record before it looks into the store: the dead letter is purged in between.
    RecordBeforeStore,
    /// The follower does not look into the store: what waits there for its next attempt is finished for the ring.
    FinishedIsHandled,
    /// The record has no attempts: that of a slow member counts for the one that handled the message.
    NoAttempts,
    /// The record is stored whatever is there: that of a slow member takes the place of a later claim's.
    PlainStore,
    /// The successor in a group of one does not clear what the dead one was about to do.
    NotCleared,
    /// An entry is finished unhandled while it is only claimed: another has it meanwhile.
    SkipClaimed,
    /// Whoever takes an entry does not clear what a dead holder was about to do with it.
    EntryNotCleared,
    /// It clears whatever is said of the entry: also what a later holder has said, for it may be slow.
    ClearsAll,
    /// The dead letter is freed and recorded afterwards.
    PurgeFirst,
    /// What is said of a dead letter is not above what a slow member may say of the message.
    GoneNotFinal,
}

/// What becomes of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum End {
    Handled,
    Skipped,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Free,
    Claimed(u8),
    Parked,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mark {
    Free,
    Staged(u8),
    Waiting,
    Claimed(u8),
    Amending(u8),
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// In a group of one: the message comes again; the record is still to be cleared.
    Clear,
    Have,
    /// It has recorded, and will settle.
    Recorded,
    /// Broken: it has settled, and will record.
    Settled,
    Staged,
    Parked,
    /// The record is still to be cleared.
    ClearEntry,
    HaveEntry,
    Amending,
    AmendedRecorded,
    Killed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Member {
    at: At,
    /// Of its claim of the message, or of the entry.
    attempts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Look {
    Start,
    /// Seen so far: finished, entry (in the order of the variant).
    Finished(Option<u8>),
    Second(Option<u8>),
    Told(End),
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    owner: Owner,
    /// Claims of the message so far; of a finished one, those of the claim that finished it.
    attempts: u8,
    mark: Mark,
    entry_dead: bool,
    entry_attempts: u8,
    /// Attempts and outcome of the record, and whether it came out of the store.
    record: Option<(u8, End, bool)>,
    members: [Member; 2],
    /// In a group of one: who is in office.
    office: u8,
    handed: bool,
    follower: Look,
    truth: Option<End>,
    purging: bool,
    purged_unrecorded: bool,
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Receipts {
    /// Members share the group.
    pub shared: bool,
    /// What is broken.
    pub variant: Variant,
}

/// Claims of the message in the ring, and of all.
const CLAIMS_MAX: u8 = 2;
const ATTEMPTS_MAX: u8 = 4;
const WHO: [&str; 2] = ["member 0", "member 1"];

impl Receipts {
    fn write(&self, state: &mut State, attempts: u8, end: End, is_late: bool) {
        let attempts = match (end, self.variant) {
            (End::Skipped, Variant::NoAttempts) if !is_late => 0,
            (End::Dead, Variant::GoneNotFinal) => 0,
            (End::Dead, _) => u8::MAX,
            _ => attempts,
        };
        let new = (attempts, end, is_late);
        state.record = match state.record {
            Some(old) if self.variant != Variant::PlainStore => Some(old.max(new)),
            _ => Some(new),
        };
    }

    /// The claim of `who` is still the word of the message.
    fn is_mine(&self, state: &State, who: usize) -> bool {
        if self.shared {
            state.owner == Owner::Claimed(who as u8) && state.attempts == state.members[who].attempts
        } else {
            usize::from(state.office) == who && state.owner != Owner::Done
        }
    }

    fn is_my_entry(state: &State, who: usize) -> bool {
        state.mark == Mark::Claimed(who as u8) && state.entry_attempts == state.members[who].attempts
    }

    fn serve(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = who as u8;
        let name = WHO[who];
        let at = state.members[who].at;
        let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::new(name, what), next));
        };
        match at {
            At::Killed => return,
            At::Idle => {
                let may = if self.shared {
                    state.owner == Owner::Free && state.attempts < CLAIMS_MAX
                } else {
                    state.office == me && state.owner == Owner::Free
                };
                if may {
                    go("takes the message", &|s| {
                        s.attempts += u8::from(self.shared);
                        if self.shared {
                            s.owner = Owner::Claimed(me);
                        }
                        let again = !self.shared && s.handed && self.variant != Variant::NotCleared;
                        s.handed = true;
                        s.members[who] =
                            Member { at: if again { At::Clear } else { At::Have }, attempts: s.attempts };
                    });
                }
                let may_late = self.shared || state.office == me;
                if may_late && state.mark == Mark::Waiting && state.entry_attempts < ATTEMPTS_MAX {
                    go("takes the entry", &|s| {
                        s.entry_attempts += 1;
                        s.mark = Mark::Claimed(me);
                        let at = match self.variant {
                            Variant::EntryNotCleared => At::HaveEntry,
                            _ => At::ClearEntry,
                        };
                        s.members[who] = Member { at, attempts: s.entry_attempts };
                    });
                }
            }
            At::Clear => go("clears the record", &|s| {
                if !matches!(s.record, Some((_, End::Dead, _))) {
                    s.record = None;
                }
                s.members[who].at = At::Have;
            }),
            At::Have => {
                let attempts = state.members[who].attempts;
                go("acknowledges", &|s| {
                    if self.is_mine(s, who) {
                        (s.owner, s.truth) = (Owner::Done, Some(End::Handled));
                    }
                    s.members[who].at = At::Idle;
                });
                if self.variant == Variant::SettleFirst {
                    go("finishes it unhandled", &|s| {
                        let mine = self.is_mine(s, who);
                        if mine {
                            (s.owner, s.truth) = (Owner::Done, Some(End::Skipped));
                        }
                        s.members[who].at = if mine { At::Settled } else { At::Idle };
                    });
                } else {
                    go("records that it is not handled", &|s| {
                        self.write(s, attempts, End::Skipped, false);
                        s.members[who].at = At::Recorded;
                    });
                }
                if state.mark == Mark::Free {
                    for dead in [false, true] {
                        go(if dead { "stages a dead letter" } else { "stages a retry" }, &|s| {
                            (s.mark, s.entry_dead, s.entry_attempts) = (Mark::Staged(me), dead, attempts);
                            s.members[who].at = At::Staged;
                        });
                    }
                }
            }
            At::Recorded => go("settles it", &|s| {
                if self.is_mine(s, who) {
                    (s.owner, s.truth) = (Owner::Done, Some(End::Skipped));
                }
                s.members[who].at = At::Idle;
            }),
            At::Settled => go("records late", &|s| {
                let attempts = s.members[who].attempts;
                self.write(s, attempts, End::Skipped, false);
                s.members[who].at = At::Idle;
            }),
            At::Staged => go("commits the entry", &|s| {
                if self.is_mine(s, who) {
                    s.owner = if self.shared { Owner::Parked } else { Owner::Done };
                    s.members[who].at = At::Parked;
                } else {
                    if s.mark == Mark::Staged(me) {
                        s.mark = Mark::Free;
                    }
                    s.members[who].at = At::Idle;
                }
            }),
            // Its word has a tag: another filling of the entry is not meant.
            At::Parked => go("finishes the entry", &|s| {
                if s.mark == Mark::Staged(me) {
                    finish(s);
                }
                s.members[who].at = At::Idle;
            }),
            At::ClearEntry => go("clears the record of the entry", &|s| {
                let mine = s.members[who].attempts;
                let before = self.variant == Variant::ClearsAll;
                if matches!(s.record, Some((by, End::Skipped, true)) if before || by < mine) {
                    s.record = None;
                }
                s.members[who].at = At::HaveEntry;
            }),
            At::HaveEntry => {
                go("acknowledges the entry", &|s| {
                    if Self::is_my_entry(s, who) {
                        (s.mark, s.truth) = (Mark::Free, Some(End::Handled));
                    }
                    s.members[who].at = At::Idle;
                });
                go("makes the entry a dead letter", &|s| {
                    if Self::is_my_entry(s, who) {
                        (s.mark, s.truth) = (Mark::Dead, Some(End::Dead));
                    }
                    s.members[who].at = At::Idle;
                });
                if self.variant == Variant::SkipClaimed {
                    go("records of a claimed entry", &|s| {
                        self.write(s, s.members[who].attempts, End::Skipped, true);
                        s.members[who].at = At::AmendedRecorded;
                    });
                } else {
                    go("takes the entry in hand", &|s| {
                        let mine = Self::is_my_entry(s, who);
                        if mine {
                            s.mark = Mark::Amending(me);
                        }
                        s.members[who].at = if mine { At::Amending } else { At::Idle };
                    });
                }
            }
            At::Amending => go("records of the entry", &|s| {
                self.write(s, s.members[who].attempts, End::Skipped, true);
                s.members[who].at = At::AmendedRecorded;
            }),
            At::AmendedRecorded => go("frees the entry", &|s| {
                let mine = s.mark == Mark::Amending(me)
                    || self.variant == Variant::SkipClaimed && Self::is_my_entry(s, who);
                if mine {
                    (s.mark, s.truth) = (Mark::Free, Some(End::Skipped));
                }
                s.members[who].at = At::Idle;
            }),
        }
        if who == 0 {
            let mut next = state.clone();
            next.members[0].at = At::Killed;
            out.push((Step::kill(name), next));
        }
    }

    fn repair(&self, state: &State, out: &mut Successors<State>) {
        let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::new("repair", what), next));
        };
        let is_dead = |who: u8| state.members[usize::from(who)].at == At::Killed;
        // After `ack_wait` a claim is taken back from a member that lives.
        if let Owner::Claimed(who) = state.owner
            && (self.shared || is_dead(who))
        {
            go("takes the message back", &|s| s.owner = Owner::Free);
        }
        match state.mark {
            Mark::Claimed(who) if self.shared || is_dead(who) => {
                go("takes the entry back", &|s| s.mark = Mark::Waiting);
            }
            Mark::Amending(who) if is_dead(who) => go("releases the entry", &|s| s.mark = Mark::Waiting),
            Mark::Staged(who) if is_dead(who) => {
                let is_committed =
                    if self.shared { state.owner == Owner::Parked } else { state.owner == Owner::Done };
                let is_claimed = self.shared && state.owner == Owner::Claimed(who);
                if is_committed {
                    go("finishes the dead one's entry", &|s| finish(s));
                } else if !is_claimed {
                    go("frees the dead one's entry", &|s| s.mark = Mark::Free);
                }
            }
            _ => {}
        }
        // Anybody finishes what is parked.
        if state.owner == Owner::Parked {
            go("finishes what is parked", &|s| finish(s));
        }
        let is_settled = !matches!(state.mark, Mark::Staged(0) | Mark::Claimed(0) | Mark::Amending(0));
        if !self.shared && state.office == 0 && is_dead(0) && is_settled {
            go("hands the group on", &|s| s.office = 1);
        }
    }

    fn purge(&self, state: &State, out: &mut Successors<State>) {
        let mut go = |what: &'static str, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            out.push((Step::new("operator", what), next));
        };
        if state.purged_unrecorded {
            go("records late", &|s| {
                self.write(s, 0, End::Dead, true);
                s.purged_unrecorded = false;
            });
        }
        if state.mark != Mark::Dead {
            return;
        }
        if self.variant == Variant::PurgeFirst {
            go("purges first", &|s| (s.mark, s.purged_unrecorded) = (Mark::Free, true));
        } else if state.purging {
            go("purges", &|s| s.mark = Mark::Free);
        } else {
            go("records the dead letter", &|s| {
                self.write(s, 0, End::Dead, true);
                s.purging = true;
            });
        }
    }

    /// What an entry of the message tells the follower: 0 nothing, 1 not finished, 2 a dead letter.
    fn entry_says(&self, state: &State) -> u8 {
        match state.mark {
            Mark::Free => 0,
            Mark::Staged(_) if self.shared => 0,
            Mark::Staged(_) => 1 + u8::from(state.entry_dead),
            Mark::Waiting | Mark::Claimed(_) | Mark::Amending(_) => 1,
            Mark::Dead => 2,
        }
    }

    /// What the record tells it: nothing, or an end.
    fn record_says(&self, state: &State) -> Option<End> {
        let (attempts, end, is_late) = state.record?;
        let counts = !self.shared
            || end == End::Dead
            || is_late
            || self.variant == Variant::NoAttempts
            || attempts == state.attempts;
        counts.then_some(end)
    }

    fn follow(&self, state: &State, out: &mut Successors<State>) {
        let mut to = |what: &'static str, look: Look| {
            let mut next = state.clone();
            next.follower = look;
            out.push((Step::new("follower", what), next));
        };
        let is_finished = state.owner == Owner::Done;
        let answer = |entry: u8, record: Option<End>| match (entry, record) {
            (2, _) => Some(End::Dead),
            (1, _) => None,
            (_, Some(end)) => Some(end),
            _ => Some(End::Handled),
        };
        let told = |answer: Option<End>| answer.map_or(Look::Start, Look::Told);
        let code = |end: Option<End>| match end {
            None => 0,
            Some(End::Handled) => 1,
            Some(End::Skipped) => 2,
            Some(End::Dead) => 3,
        };
        match (state.follower, self.variant) {
            (Look::Told(_), _) => {}
            (Look::Start, Variant::StoreBeforeCursor) => {
                to("looks into the store", Look::Finished(Some(self.entry_says(state))));
            }
            (Look::Finished(entry), Variant::StoreBeforeCursor) => {
                to("looks at the cursor", if is_finished { Look::Second(entry) } else { Look::Start });
            }
            (Look::Start, _) if is_finished => to("sees that it is finished", Look::Finished(None)),
            (Look::Start, _) => {}
            (Look::Finished(_), Variant::RecordBeforeStore) => {
                to("looks at the record", Look::Second(Some(code(self.record_says(state)))));
            }
            (Look::Second(record), Variant::RecordBeforeStore) => {
                let record = match record {
                    Some(2) => Some(End::Skipped),
                    Some(3) => Some(End::Dead),
                    _ => None,
                };
                to("looks into the store", told(answer(self.entry_says(state), record)));
            }
            (Look::Finished(_), _) => {
                let entry =
                    if self.variant == Variant::FinishedIsHandled { 0 } else { self.entry_says(state) };
                to("looks into the store", Look::Second(Some(entry)));
            }
            (Look::Second(entry), _) => {
                to("looks at the record", told(answer(entry.unwrap_or(0), self.record_says(state))));
            }
        }
    }
}

/// A committed entry becomes valid, and its message is done.
fn finish(state: &mut State) {
    if matches!(state.mark, Mark::Staged(_)) {
        state.mark = if state.entry_dead { Mark::Dead } else { Mark::Waiting };
        if state.entry_dead {
            state.truth = Some(End::Dead);
        }
    }
    if state.owner == Owner::Parked {
        state.owner = Owner::Done;
    }
}

impl Model for Receipts {
    type State = State;

    fn initial(&self) -> State {
        State {
            owner: Owner::Free,
            attempts: 0,
            mark: Mark::Free,
            entry_dead: false,
            entry_attempts: 0,
            record: None,
            members: [Member { at: At::Idle, attempts: 0 }; 2],
            office: 0,
            handed: false,
            follower: Look::Start,
            truth: None,
            purging: false,
            purged_unrecorded: false,
        }
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..2 {
            self.serve(state, who, out);
        }
        self.repair(state, out);
        self.purge(state, out);
        self.follow(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        // A committed entry that is only staged, of a group of one, is a dead letter already.
        let will_be_dead =
            matches!(state.mark, Mark::Staged(_)) && state.entry_dead && state.owner == Owner::Done;
        match (state.follower, state.truth) {
            (Look::Told(End::Dead), None) if will_be_dead && !self.shared => None,
            (Look::Told(told), truth) if truth != Some(told) => {
                Some(format!("the follower was told {told:?}, and it is {truth:?}"))
            }
            _ => None,
        }
    }

    fn goal(&self, state: &State) -> bool {
        // Where claims are used up nobody is left to make it a dead letter; that is not this model's affair.
        matches!(state.follower, Look::Told(_))
            || self.shared && state.attempts == CLAIMS_MAX && state.owner == Owner::Free
            || state.entry_attempts == ATTEMPTS_MAX && state.mark == Mark::Waiting
    }
}
