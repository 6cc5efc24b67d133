//! A group of many members: who works on which message, and the entries that are put aside.
//!
//! **Processes.** Up to four members and one or two repairers. Members claim messages, acknowledge or reject
//! them, retry what was put aside, and may be killed at any step. A repairer acts for the dead, and only
//! after the proof of death; any process could be it. A dead member's index may be given to a new process. An
//! operator purges dead letters, so that a store of one entry is enough to see it reused.
//!
//! **State and who writes it.** One owner word a message and one state word an entry of the store, both
//! changed by compare-and-swap on the value seen, by members and repairers. An owner word is free, claimed
//! (by which member, with a nonce and the number of attempts), released (keeping nonce and attempts), parked
//! (in which filling of which entry) or done. An entry is free, being filled, staged, waiting, claimed,
//! being amended or dead; its state word has the number of attempts and an incarnation that every filling
//! and every claim counts. Its contents, which say what becomes of it once it is committed, are plain stores
//! of the member that fills or amends it: those two states end by their member's own step or by its death,
//! while a claim may be taken back from a member that lives and is slow. `low_water` is raised by anyone.
//! Hand-outs, acknowledgements and purges are counted by the observer.
//!
//! **Left out.** Laps (every message is published from the start), delays before a retry, the read before a
//! compare-and-swap that depends on no other word, wrapping of nonces and incarnations, weak memory (the
//! fence between acknowledging and walking is the loom tests' business).
//!
//! **Invariants.** A message that is done is acknowledged, or has one valid entry, or was purged; never two
//! of them, and never two entries. No message is handed out more often than its attempts allow, and no two
//! live members hold the same one. Only who claimed last may acknowledge. Progress while a member lives:
//! `low_water` reaches the end and no entry stays half-filled or claimed by the dead.
//!
//! **Broken variants.** [`Variant::NoWalkOnRepair`]: one member acknowledges behind another, which then
//! acknowledges and dies before its walk; everything is done and the cursor stays. [`Variant::ParkToDone`]: a
//! message is done before its entry is valid, and its member dies in between. [`Variant::AttemptAfter`]: the
//! attempt is recorded after the hand-out, and a message that kills is handed out once more than it should
//! be. [`Variant::NoNonce`]: a stopped member was taken for dead, its index went to another process, which
//! claims the same message; the late acknowledgement of the first marks it done.
//! [`Variant::ReuseBeforeRepair`]: a dead member's index is given to a new process before its claims are
//! repaired, and as that index is alive again, nobody ever repairs them. [`Variant::NoIncarnation`]: a parked
//! owner word names the entry and not which filling of it. Who helps to finish a message then takes the next
//! filling for the one that was committed, and makes an entry valid whose message is still somebody's; or a
//! slow repairer, which means a filling that was abandoned since, finishes a message whose entry is only
//! staged, and if its member dies now the message is lost. [`Variant::WaitWhenFull`]: a member that finds the
//! store full waits for room, while all entries wait for a member. [`Variant::BlindRelease`]: a repairer
//! releases a dead member's claim by a store; another one did so before, and the message was claimed and
//! acknowledged since. [`Variant::CommitEarly`]: the message is parked in an entry that is still being
//! filled; its member dies, and whoever helps finds nothing staged. [`Variant::AmendInPlace`]: a member
//! writes the failure into an entry that it believes to be its own; its claim was taken back meanwhile, and
//! the entry holds another message.

use super::explorer::{Model, Step, Successors};

/// Which protocol is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The protocol of the bus.
    Correct,
    /// Only who acknowledges walks, not idle members and not repair.
    NoWalkOnRepair,
    /// The commit of a parked message marks it done at once.
    ParkToDone,
    /// A claim keeps the number of attempts, which is increased after the hand-out.
    AttemptAfter,
    /// Claims have no nonce.
    NoNonce,
    /// An index is reused before everything that names it is repaired.
    ReuseBeforeRepair,
    /// A parked owner word names its entry without the incarnation.
    NoIncarnation,
    /// A member that finds no free entry does nothing else until there is one.
    WaitWhenFull,
    /// A dead member's claim is released by a store instead of a compare-and-swap.
    BlindRelease,
    /// The owner word is parked before the entry is staged.
    CommitEarly,
    /// A failed retry is written into the entry while it is only claimed.
    AmendInPlace,
}

/// A bounded run of one variant.
#[derive(Clone, Copy, Debug)]
pub struct OwnerWords {
    /// The protocol.
    pub variant: Variant,
    /// How many messages there are.
    pub messages: usize,
    /// How many members there are.
    pub members: usize,
    /// How many repairers there are.
    pub repairers: usize,
    /// How many entries the store has.
    pub entries: usize,
    /// How often a message may be handed out. One means without limit: the count saturates at once.
    pub attempts_max: u8,
    /// Whether members reject messages.
    pub rejects: bool,
    /// How many members may be killed.
    pub kills: u8,
    /// How many dead members' indices may be given to new processes.
    pub reuses: u8,
    /// How many claims may be taken back from members that live and are slow.
    pub expiries: u8,
    /// Members 0 and 1 have the same index; 1 starts when 0, which is alive, has been taken for dead.
    pub unproven: bool,
}

const MESSAGES: usize = 2;
const MEMBERS: usize = 4;
const REPAIRERS: usize = 2;
const ENTRIES: usize = 2;
const MEMBER_NAMES: [&str; MEMBERS] = ["M0", "M1", "M2", "M3"];
const REPAIRER_NAMES: [&str; REPAIRERS] = ["R0", "R1"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Owner {
    #[default]
    Free,
    Claimed {
        member: u8,
        nonce: u8,
        attempts: u8,
    },
    Released {
        nonce: u8,
        attempts: u8,
    },
    Parked {
        entry: u8,
        incarnation: u8,
    },
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Mark {
    #[default]
    Free,
    Filling,
    Staged,
    Waiting,
    Claimed,
    Amending,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    mark: Mark,
    member: u8,
    incarnation: u8,
    attempts: u8,
    /// Contents: the message, whether it becomes a dead letter, and the message (plus one) whose failure was
    /// written here last.
    message: u8,
    verdict: bool,
    note: u8,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    /// Not started yet.
    Absent,
    HandOut,
    /// The broken variant's late count.
    CountAttempt,
    Working,
    Park,
    Copy,
    Stage,
    Commit,
    Unstage,
    Validate,
    Finish,
    Walk,
    Advance,
    RetryHandOut,
    Retrying,
    /// Claimed an entry whose attempts are used up.
    Bury,
    Amend,
    Settle,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    at: At,
    message: u8,
    entry: u8,
    /// The claim that it made, and the state it gave its entry.
    claim: Owner,
    held: Entry,
    walked: u8,
    /// A claim that waits for room in the store while the member works on entries of the store.
    kept: Option<(u8, Owner)>,
}

/// What a repairer is in the middle of: steps that depend on a word read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Repair {
    #[default]
    Idle,
    /// Saw this entry staged by a dead member.
    Staged(u8, Entry),
    /// Found it not committed.
    Abandon(u8, Entry),
    /// The broken variant's release: what to store into which message's word.
    Release(u8, Owner),
    /// Found this message parked so.
    Parked(u8, Owner),
    /// Is to make this entry valid and finish the message.
    Validate(u8, Owner, u8, Entry),
    /// Is to mark the message done.
    Finish(u8, Owner),
}

/// A state of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    owners: [Owner; MESSAGES],
    entries: [Entry; ENTRIES],
    low_water: u8,
    members: [Member; MEMBERS],
    repairs: [Repair; REPAIRERS],
    kills: u8,
    reuses: u8,
    expiries: u8,
    handed: [u8; MESSAGES],
    acknowledged: [u8; MESSAGES],
    purged: [bool; MESSAGES],
    /// The process that claimed each message last.
    claimant: [u8; MESSAGES],
    late: bool,
}

impl State {
    /// The end of the run of done messages that starts at `low_water`.
    fn done_until(&self, messages: usize) -> u8 {
        let mut end = usize::from(self.low_water);
        while end < messages && self.owners[end] == Owner::Done {
            end += 1;
        }
        end as u8
    }

    /// Whether the entry counts as the message's one valid copy.
    fn is_valid(&self, entry: usize) -> bool {
        let Entry { mark, message, incarnation, .. } = self.entries[entry];
        match mark {
            Mark::Waiting | Mark::Claimed | Mark::Amending | Mark::Dead => true,
            Mark::Staged => self.owners[usize::from(message)] == parked(entry as u8, incarnation),
            Mark::Free | Mark::Filling => false,
        }
    }

    fn acknowledge(&mut self, message: u8, who: usize) {
        self.acknowledged[usize::from(message)] += 1;
        self.late |= usize::from(self.claimant[usize::from(message)]) != who;
    }
}

impl OwnerWords {
    /// The index under which the process `who` appears in the words.
    fn index(&self, who: usize) -> u8 {
        if self.unproven && who == 1 { 0 } else { who as u8 }
    }

    fn limited(&self) -> bool {
        self.attempts_max > 1
    }

    fn exhausted(&self, attempts: u8) -> bool {
        self.limited() && attempts >= self.attempts_max
    }

    /// What a staged entry becomes: its contents say so, for others may have to do it.
    fn validated(&self, entry: Entry) -> Entry {
        let mark = if entry.verdict { Mark::Dead } else { Mark::Waiting };
        Entry { mark, member: 0, ..entry }
    }

    /// Whether a claim of this member may be taken back although it lives.
    fn expires(&self, state: &State, member: u8) -> bool {
        state.expiries < self.expiries && state.members[usize::from(member)].at != At::Dead
    }

    /// Whether a parked owner word means this filling of the entry, as far as it can tell.
    fn names(&self, owner: Owner, entry: u8, seen: Entry) -> bool {
        let Owner::Parked { entry: named, incarnation } = owner else { return false };
        named == entry && (incarnation == seen.incarnation || self.variant == Variant::NoIncarnation)
    }

    fn is_dead(&self, state: &State, index: u8) -> bool {
        state.members[usize::from(index)].at == At::Dead
    }

    /// An idle member's choices.
    fn choose(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let name = MEMBER_NAMES[who];
        let kept = state.members[who].kept;
        if let Some((message, claim)) = kept {
            let mut next = state.clone();
            next.members[who] = Member { at: At::Park, message, claim, ..Member::default() };
            out.push((Step::with(name, "comes back to the parking of message", message), next));
        }
        for message in 0..self.messages {
            let (nonce, attempts) = match state.owners[message] {
                _ if kept.is_some() => continue,
                Owner::Free => (0, 0),
                Owner::Released { nonce, attempts } => (nonce, attempts),
                _ => continue,
            };
            let spent = self.exhausted(attempts);
            let counted = !spent && self.variant != Variant::AttemptAfter;
            let attempts = if counted { (attempts + 1).min(self.attempts_max) } else { attempts };
            let nonce = if self.variant == Variant::NoNonce { 0 } else { nonce + 1 };
            let claim = Owner::Claimed { member: self.index(who), nonce, attempts };
            let mut next = state.clone();
            next.owners[message] = claim;
            next.claimant[message] = who as u8;
            let at = if spent { At::Park } else { At::HandOut };
            next.members[who] = Member { at, message: message as u8, claim, ..Member::default() };
            out.push((Step::with(name, "claims message", message as u8), next));
        }
        for entry in 0..self.entries {
            let seen = state.entries[entry];
            if seen.mark == Mark::Waiting {
                let spent = self.exhausted(seen.attempts);
                let attempts = if spent { seen.attempts } else { (seen.attempts + 1).min(self.attempts_max) };
                let (member, incarnation) = (self.index(who), seen.incarnation + 1);
                let held = Entry { mark: Mark::Claimed, member, incarnation, attempts, ..seen };
                let mut next = state.clone();
                next.entries[entry] = held;
                next.claimant[usize::from(seen.message)] = who as u8;
                let at = if spent { At::Bury } else { At::RetryHandOut };
                let message = seen.message;
                next.members[who] =
                    Member { at, message, entry: entry as u8, held, kept, ..Member::default() };
                out.push((Step::with(name, "claims the entry of message", message), next));
            }
        }
        let walks = self.variant != Variant::NoWalkOnRepair;
        if walks && state.done_until(self.messages) > state.low_water {
            let mut next = state.clone();
            next.members[who] = Member { at: At::Walk, walked: state.low_water, kept, ..Member::default() };
            out.push((Step::with(name, "is idle and walks from", state.low_water), next));
        }
    }

    fn work(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let me = state.members[who];
        let message = usize::from(me.message);
        let mut go = |what: &'static str, value: u8, change: &dyn Fn(&mut State, &mut Member)| {
            let mut next = state.clone();
            let mut member = me;
            change(&mut next, &mut member);
            next.members[who] = member;
            out.push((Step::with(MEMBER_NAMES[who], what, value), next));
        };
        let walk = |next: &State| Member { at: At::Walk, walked: next.low_water, ..Member::default() };
        let idle = Member { kept: me.kept, ..Member::default() };
        match me.at {
            At::Idle => self.choose(state, who, out),
            At::HandOut => go("hands out message", me.message, &|n, m| {
                if self.limited() {
                    n.handed[message] += 1;
                }
                let late = self.variant == Variant::AttemptAfter;
                m.at = if late { At::CountAttempt } else { At::Working };
            }),
            At::CountAttempt => go("counts the attempt at message", me.message, &|n, m| {
                if let Owner::Claimed { member, nonce, attempts } = m.claim {
                    m.claim = Owner::Claimed { member, nonce, attempts: attempts + 1 };
                    n.owners[message] = m.claim;
                }
                m.at = At::Working;
            }),
            At::Working => {
                go("acknowledges message", me.message, &|n, m| {
                    if n.owners[message] == m.claim {
                        n.owners[message] = Owner::Done;
                        n.acknowledge(m.message, who);
                        *m = walk(n);
                    } else {
                        *m = Member::default();
                    }
                });
                if self.rejects {
                    go("rejects message", me.message, &|_, m| m.at = At::Park);
                }
            }
            At::Park => {
                let full = !state.entries[..self.entries].iter().any(|entry| entry.mark == Mark::Free);
                if full && self.variant != Variant::WaitWhenFull {
                    go("finds the store full and keeps message", me.message, &|_, m| {
                        *m = Member { kept: Some((m.message, m.claim)), ..Member::default() };
                    });
                }
                for entry in (0..self.entries).filter(|&entry| state.entries[entry].mark == Mark::Free) {
                    go("takes an entry to fill", entry as u8, &|n, m| {
                        let incarnation = n.entries[entry].incarnation + 1;
                        let member = self.index(who);
                        let filling = Entry { mark: Mark::Filling, member, incarnation, ..Entry::default() };
                        n.entries[entry] = filling;
                        let at = if self.variant == Variant::CommitEarly { At::Commit } else { At::Copy };
                        *m = Member { at, entry: entry as u8, held: filling, ..*m };
                    });
                }
            }
            At::Copy => go("copies into the entry message", me.message, &|n, m| {
                let entry = &mut n.entries[usize::from(m.entry)];
                let Owner::Claimed { attempts, .. } = m.claim else { return };
                let verdict = self.exhausted(attempts);
                *entry = Entry { message: m.message, attempts, verdict, note: 0, ..*entry };
                m.at = At::Stage;
            }),
            At::Stage => go("stages the entry", me.entry, &|n, m| {
                let entry = &mut n.entries[usize::from(m.entry)];
                entry.mark = Mark::Staged;
                let at = if self.variant == Variant::CommitEarly { At::Validate } else { At::Commit };
                *m = Member { at, held: *entry, ..*m };
            }),
            At::Commit => go("commits the parking of message", me.message, &|n, m| {
                let direct = self.variant == Variant::ParkToDone;
                if n.owners[message] == m.claim {
                    n.owners[message] =
                        if direct { Owner::Done } else { parked(m.entry, m.held.incarnation) };
                    m.at = if self.variant == Variant::CommitEarly { At::Copy } else { At::Validate };
                } else {
                    m.at = At::Unstage;
                }
            }),
            At::Unstage => go("is refused and frees its entry", me.entry, &|n, m| {
                swap_entry(n, m.entry, m.held, freed(m.held));
                *m = Member::default();
            }),
            At::Validate => go("makes its entry valid", me.entry, &|n, m| {
                swap_entry(n, m.entry, m.held, self.validated(m.held));
                m.at = At::Finish;
            }),
            At::Finish => go("finishes the parking of message", me.message, &|n, m| {
                finish(n, m.message, parked(m.entry, m.held.incarnation));
                *m = walk(n);
            }),
            At::Walk
                if usize::from(me.walked) < self.messages
                    && state.owners[usize::from(me.walked)] == Owner::Done =>
            {
                go("walks over", me.walked, &|_, m| m.walked += 1);
            }
            At::Walk => go("stops its walk at", me.walked, &|_, m| m.at = At::Advance),
            At::Advance => go("raises low_water to", me.walked, &|n, m| {
                n.low_water = n.low_water.max(m.walked);
                *m = idle;
            }),
            At::RetryHandOut => go("hands out again message", me.message, &|n, m| {
                if self.limited() {
                    n.handed[message] += 1;
                }
                m.at = At::Retrying;
            }),
            At::Retrying => {
                go("acknowledges the entry of message", me.message, &|n, m| {
                    if swap_entry(n, m.entry, m.held, freed(m.held)) {
                        n.acknowledge(m.message, who);
                    }
                    *m = idle;
                });
                if self.limited() {
                    go("begins to amend the entry of message", me.message, &|n, m| {
                        let amending = Entry { mark: Mark::Amending, ..m.held };
                        if self.variant == Variant::AmendInPlace {
                            m.at = At::Amend;
                        } else if swap_entry(n, m.entry, m.held, amending) {
                            *m = Member { at: At::Amend, held: amending, ..*m };
                        } else {
                            *m = idle;
                        }
                    });
                }
            }
            At::Amend => go("writes down the failure of message", me.message, &|n, m| {
                let verdict = self.exhausted(m.held.attempts);
                let entry = &mut n.entries[usize::from(m.entry)];
                *entry = Entry { note: m.message + 1, verdict, ..*entry };
                *m = Member { at: At::Settle, held: Entry { verdict, ..m.held }, ..*m };
            }),
            At::Settle => go("lets go of the entry of message", me.message, &|n, m| {
                swap_entry(n, m.entry, m.held, self.validated(m.held));
                *m = idle;
            }),
            At::Bury => go("makes a dead letter of message", me.message, &|n, m| {
                swap_entry(n, m.entry, m.held, Entry { mark: Mark::Dead, member: 0, ..m.held });
                *m = idle;
            }),
            At::Absent | At::Dead => {}
        }
    }

    /// What an idle repairer may start, one kind of damage after the other.
    fn inspect(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let name = REPAIRER_NAMES[who];
        let mut push = |what: &'static str, value: usize, next: State| {
            out.push((Step::with(name, what, value as u8), next));
        };
        for message in 0..self.messages {
            let mut next = state.clone();
            match state.owners[message] {
                Owner::Claimed { member, nonce, attempts } => {
                    // Taken for dead without a proof, once.
                    let mistaken = self.unproven && member == 0 && state.members[1].at == At::Absent;
                    if mistaken {
                        next.members[1].at = At::Idle;
                    }
                    let released = Owner::Released { nonce, attempts };
                    if mistaken || self.is_dead(state, member) {
                        if self.variant == Variant::BlindRelease {
                            next.repairs[who] = Repair::Release(message as u8, released);
                            push("finds claimed by a dead member message", message, next);
                        } else {
                            next.owners[message] = released;
                            push("releases message", message, next);
                        }
                    } else if self.expires(state, member) {
                        next.expiries += 1;
                        next.owners[message] = released;
                        push("has waited long enough for message", message, next);
                    }
                }
                seen @ Owner::Parked { .. } => {
                    next.repairs[who] = Repair::Parked(message as u8, seen);
                    push("finds parked message", message, next);
                }
                _ => {}
            }
        }
        for entry in 0..self.entries {
            let seen = state.entries[entry];
            let mut next = state.clone();
            if seen.mark == Mark::Claimed && self.expires(state, seen.member) {
                next.expiries += 1;
                swap_entry(&mut next, entry as u8, seen, waiting(seen));
                push("has waited long enough for the entry", entry, next);
                continue;
            }
            if !self.is_dead(state, seen.member) {
                continue;
            }
            match seen.mark {
                Mark::Filling => {
                    next.entries[entry] = freed(seen);
                    push("frees the half-filled entry", entry, next);
                }
                Mark::Staged => {
                    next.repairs[who] = Repair::Staged(entry as u8, seen);
                    push("finds staged by a dead member the entry", entry, next);
                }
                // Whoever claims it next sees whether its attempts are used up.
                Mark::Claimed | Mark::Amending => {
                    next.entries[entry] = waiting(seen);
                    push("releases the entry", entry, next);
                }
                Mark::Free | Mark::Waiting | Mark::Dead => {}
            }
        }
        let end = state.done_until(self.messages);
        if end > state.low_water && self.variant != Variant::NoWalkOnRepair {
            let mut next = state.clone();
            next.low_water = end;
            push("walks and raises low_water to", usize::from(end), next);
        }
    }

    fn repair(&self, state: &State, who: usize, out: &mut Successors<State>) {
        let mut next = state.clone();
        let (what, value, then) = match state.repairs[who] {
            Repair::Idle => return self.inspect(state, who, out),
            Repair::Staged(entry, seen) => {
                let owner = state.owners[usize::from(seen.message)];
                if self.names(owner, entry, seen) {
                    let then = Repair::Validate(seen.message, owner, entry, seen);
                    ("finds it committed: message", seen.message, then)
                } else {
                    ("finds it not committed: message", seen.message, Repair::Abandon(entry, seen))
                }
            }
            Repair::Abandon(entry, seen) => {
                swap_entry(&mut next, entry, seen, freed(seen));
                ("frees the entry, if it is the same, of message", seen.message, Repair::Idle)
            }
            Repair::Release(message, released) => {
                next.owners[usize::from(message)] = released;
                ("releases, whatever it is by now, message", message, Repair::Idle)
            }
            Repair::Parked(message, owner) => {
                let Owner::Parked { entry, .. } = owner else { return };
                let seen = state.entries[usize::from(entry)];
                if seen.mark == Mark::Staged && self.names(owner, entry, seen) {
                    ("finds the entry staged", entry, Repair::Validate(message, owner, entry, seen))
                } else {
                    ("finds the entry no longer staged", entry, Repair::Finish(message, owner))
                }
            }
            Repair::Validate(message, owner, entry, seen) => {
                swap_entry(&mut next, entry, seen, self.validated(seen));
                ("makes valid, if it is the same, the entry", entry, Repair::Finish(message, owner))
            }
            Repair::Finish(message, owner) => {
                finish(&mut next, message, owner);
                ("finishes the parking of message", message, Repair::Idle)
            }
        };
        next.repairs[who] = then;
        out.push((Step::with(REPAIRER_NAMES[who], what, value), next));
    }

    /// Deaths, reused indices, purged dead letters.
    fn interfere(&self, state: &State, out: &mut Successors<State>) {
        for (who, name) in MEMBER_NAMES.iter().enumerate().take(self.members) {
            let index = self.index(who);
            let mut next = state.clone();
            if state.members[who].at == At::Dead {
                let claimed =
                    |owner: &Owner| matches!(owner, Owner::Claimed { member, .. } if *member == index);
                let used = |entry: &Entry| {
                    let owned = !matches!(entry.mark, Mark::Free | Mark::Waiting | Mark::Dead);
                    owned && entry.member == index
                };
                let named = state.owners.iter().any(claimed) || state.entries.iter().any(used);
                if state.reuses < self.reuses && (!named || self.variant == Variant::ReuseBeforeRepair) {
                    next.reuses += 1;
                    next.members[who] = Member::default();
                    out.push((Step::new(name, "is the index of a new process"), next));
                }
            } else if state.kills < self.kills && state.members[who].at != At::Absent {
                next.kills += 1;
                next.members[who] = Member { at: At::Dead, ..Member::default() };
                out.push((Step::kill(name), next));
            }
        }
        for entry in (0..self.entries).filter(|&entry| state.entries[entry].mark == Mark::Dead) {
            let mut next = state.clone();
            next.entries[entry] = freed(state.entries[entry]);
            next.purged[usize::from(state.entries[entry].message)] = true;
            out.push((Step::with("operator", "purges the dead letter of entry", entry as u8), next));
        }
    }
}

/// A freed entry remembers nothing but its incarnation.
fn freed(entry: Entry) -> Entry {
    Entry { incarnation: entry.incarnation, ..Entry::default() }
}

/// The owner word of a message that is parked in this filling of the entry.
fn parked(entry: u8, incarnation: u8) -> Owner {
    Owner::Parked { entry, incarnation }
}

/// A claimed entry that nobody has any more.
fn waiting(entry: Entry) -> Entry {
    Entry { mark: Mark::Waiting, member: 0, ..entry }
}

/// Compare-and-swap of an entry's state word. The contents stay, and are forgotten with the message.
fn swap_entry(next: &mut State, entry: u8, seen: Entry, new: Entry) -> bool {
    let place = &mut next.entries[usize::from(entry)];
    let word = |entry: &Entry| (entry.mark, entry.member, entry.incarnation, entry.attempts);
    let same = word(place) == word(&seen);
    if same {
        let Entry { mark, member, incarnation, attempts, .. } = new;
        *place =
            if mark == Mark::Free { new } else { Entry { mark, member, incarnation, attempts, ..*place } };
    }
    same
}

/// A parked message whose entry is valid is done.
fn finish(next: &mut State, message: u8, seen: Owner) {
    let owner = &mut next.owners[usize::from(message)];
    if *owner == seen {
        *owner = Owner::Done;
    }
}

impl Model for OwnerWords {
    type State = State;

    fn initial(&self) -> State {
        let mut state = State::default();
        for member in &mut state.members[self.members..] {
            member.at = At::Absent;
        }
        if self.unproven {
            state.members[1].at = At::Absent;
        }
        state
    }

    fn successors(&self, state: &State, out: &mut Successors<State>) {
        for who in 0..self.members {
            self.work(state, who, out);
        }
        for who in 0..self.repairers {
            self.repair(state, who, out);
        }
        self.interfere(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        if state.late {
            return Some("a claim was acknowledged by a process that no longer had it".into());
        }
        for message in 0..self.messages {
            let valid = |&entry: &usize| {
                state.is_valid(entry) && usize::from(state.entries[entry].message) == message
            };
            let entries = (0..self.entries).filter(valid).count();
            let acknowledged = usize::from(state.acknowledged[message]);
            let outcomes = entries + acknowledged + usize::from(state.purged[message]);
            if outcomes > 1 {
                return Some(format!("message {message} came to more than one end"));
            }
            let done = state.owners[message] == Owner::Done || message < usize::from(state.low_water);
            if done && outcomes == 0 {
                return Some(format!("message {message} is lost: done, not acknowledged, in no entry"));
            }
            let unclaimed = matches!(state.owners[message], Owner::Free | Owner::Claimed { .. });
            if unclaimed && entries > 0 {
                return Some(format!("message {message} has an entry before its parking is committed"));
            }
            if self.limited() && state.handed[message] > self.attempts_max {
                return Some(format!("message {message} was handed out more often than allowed"));
            }
            let working = |member: &&Member| {
                matches!(member.at, At::Working | At::Retrying) && usize::from(member.message) == message
            };
            let noted = |entry: &Entry| {
                usize::from(entry.message) == message && entry.note != 0 && entry.note != entry.message + 1
            };
            let kept = (0..self.entries).filter(|&entry| state.is_valid(entry));
            if kept.map(|entry| state.entries[entry]).any(|entry| noted(&entry)) {
                return Some(format!("the entry of message {message} tells another one's failure"));
            }
            if !self.unproven && self.expiries == 0 && state.members.iter().filter(working).count() > 1 {
                return Some(format!("two live members hold message {message}"));
            }
        }
        None
    }

    fn goal(&self, state: &State) -> bool {
        let alive = state.members[..self.members].iter().any(|member| member.at != At::Dead);
        let open = |entry: &Entry| !matches!(entry.mark, Mark::Free | Mark::Waiting | Mark::Dead);
        !alive || (usize::from(state.low_water) == self.messages && !state.entries.iter().any(open))
    }
}
