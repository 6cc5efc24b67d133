//! A group's aside store: messages that left the ring to be tried again later, and dead letters.
//!
//! ```text
//! bit   0..8     8..18         18..32                       32..40     40..64
//!       state    participant   incarnation of participant   attempts   tag (counts fillings, claims and extensions)
//! ```
//!
//! ```text
//!   FREE --allocate--> FILLING --contents, stage--> STAGED --commit--> ~ --finish, anyone--> WAITING, or DEAD by the verdict
//!    ^                   |  ^                         |
//!    +-------free--------+  |        withdraw --> FREE
//!    |                      |
//!    |   WAITING --claim, attempt counted--> CLAIMED --release, expire, repair--> WAITING
//!    +------------acknowledge-----------------+  |
//!    |                      +------take----------+--dead (worn out)--> DEAD
//!    |                      |                    +--amend--> AMENDING --again--> WAITING, --dead--> DEAD
//!    |                      |                                   +------repair------^
//!    +----------purge-------+--take-- DEAD --announce--> ANNOUNCED
//!    |                      |           |                    |
//!    +--------replayed------+--take-- REPLAYING <--replay----+    put back, repair: DEAD
//! ```
//!
//! **Commit.** A staged entry counts for nothing until its message leaves the ring: in a shared group when the owner word
//! becomes PARKED and names it ([`Store::commit_shared`]), in a group of one member when `low_water` passes the
//! message. From then on anybody may finish it. An entry that is not committed goes with its member.
//!
//! **Who may store what.** A claim may be taken back from a member that is only slow. So whoever has claimed an entry changes
//! nothing but its word, by compare-and-swap; the attempts are in it for that reason. Contents are stored in FILLING
//! and AMENDING, which no observer ends, only the holder or the proof of its death. The same holds for clearing away
//! a payload behind the table: a claim is turned into FILLING first ([`Store::take`]).
//!
//! And so whoever reads a claimed message must copy it and then ask [`Store::is_mine`], before it looks at the copy: a slow
//! reader's entry may have been finished by another and filled anew.
//!
//! **What is due.** One word of the group says when the earliest entry is due, 0 for none (`DUE-SCAN`). Who makes an
//! entry wait does so first and swaps that word afterwards, even to the value that it has; who finds that the time has come
//! swaps it to 0 first and looks at the entries afterwards. Both swap the same word, so the later of the two
//! sees what the earlier one did, and no entry is forgotten. It is only a hint: a scanner that dies after its swap takes it
//! along, and [`Store::census`] sets it anew.
//!
//! Nothing here copies payloads or texts, or knows how the entries lie in memory; [`Table`] hides that.

use crate::holder::Holder;
use crate::layout::aside::{ENTRY_WORDS, flags, state, word};
use crate::owner::{self, OwnerWord, Owners, ParkedEntry};
use crate::seq::distance;
use crate::sync::{AtomicU64, Ordering, fence};

/// Bits of a tag that a PARKED owner word has room for.
const PARKED_TAG_MASK: u32 = 0x3ff;
/// Looks at an entry that keeps changing. One under loom, which tries every value that each load may return.
const READ_TRIES: usize = if cfg!(loom) { 1 } else { 8 };
const TAG_SHIFT: u32 = 40;
const TAG_MASK: u32 = (1 << (64 - TAG_SHIFT)) - 1;

/// The word of an entry, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsideWord {
    /// One of [`state`].
    pub state: u8,
    /// Who holds the entry. Meaningless where nobody does.
    pub holder: Holder,
    /// How often the message has been handed out, saturating.
    pub attempts: u8,
    /// Counts fillings, claims and extensions of this entry, wrapping; 24 bits.
    pub tag: u32,
}

impl AsideWord {
    /// The word as it lies in memory.
    #[inline]
    pub const fn pack(self) -> u64 {
        self.state as u64
            | (self.holder.participant as u64 & 0x3ff) << 8
            | (self.holder.incarnation as u64 & Holder::INCARNATION_MASK) << 18
            | (self.attempts as u64) << 32
            | (self.tag as u64) << TAG_SHIFT
    }

    /// Reads a word from memory; every bit pattern is a word, the state may be one that does not exist.
    #[inline]
    pub const fn unpack(word: u64) -> Self {
        Self {
            state: word as u8,
            holder: Holder {
                participant: (word >> 8) as u16 & 0x3ff,
                incarnation: ((word >> 18) & Holder::INCARNATION_MASK) as u16,
            },
            attempts: (word >> 32) as u8,
            tag: (word >> TAG_SHIFT) as u32,
        }
    }

    /// The same in another state.
    #[inline]
    pub const fn with_state(self, state: u8) -> Self {
        Self { state, ..self }
    }

    const fn next_tag(self) -> Self {
        Self { tag: self.tag.wrapping_add(1) & TAG_MASK, ..self }
    }

    /// Does a PARKED owner word with these low bits mean this filling?
    const fn is_named(self, incarnation: u16) -> bool {
        self.tag & PARKED_TAG_MASK == incarnation as u32
    }
}

/// What an entry says of its message, apart from its state, its attempts, the texts and the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Sequence of the message.
    pub sequence: u64,
    /// Its lane.
    pub lane: u8,
    /// The flags of its header.
    pub header_flags: u8,
    /// Its type.
    pub kind: u8,
    /// The verdict of who put it aside: a dead letter.
    pub dead: bool,
    /// Bytes of its payload, without an extension block.
    pub len_bytes: u32,
    /// CLOCK_MONOTONIC ns before which it is not handed out.
    pub not_before_ns: u64,
    /// CLOCK_REALTIME ns of its first failure.
    pub first_ns: u64,
    /// CLOCK_REALTIME ns of its last failure.
    pub last_ns: u64,
    /// Its stamp.
    pub stamp_ns: u64,
    /// Hash of its key, or 0.
    pub key: u64,
}

impl Contents {
    const fn pack_description(&self) -> u64 {
        let flags = if self.dead { flags::DEAD } else { 0 };
        self.lane as u64
            | (self.header_flags as u64) << 8
            | (self.kind as u64) << 16
            | (flags as u64) << 24
            | (self.len_bytes as u64) << 32
    }

    /// Bytes that are kept of the message: its payload, and an extension block if it has one.
    pub const fn stored_bytes(&self) -> u64 {
        let extension = self.header_flags & crate::header::flags::EXTENSION != 0;
        self.len_bytes as u64 + if extension { crate::header::EXTENSION_LEN } else { 0 }
    }

    /// Relaxed: the step that ends FILLING or AMENDING publishes them.
    fn store(&self, words: &[AtomicU64; ENTRY_WORDS]) {
        for (index, value) in [
            (word::SEQUENCE, self.sequence),
            (word::DESCRIPTION, self.pack_description()),
            (word::NOT_BEFORE_NS, self.not_before_ns),
            (word::FIRST_NS, self.first_ns),
            (word::LAST_NS, self.last_ns),
            (word::STAMP_NS, self.stamp_ns),
            (word::KEY, self.key),
        ] {
            words[index].store(value, Ordering::Relaxed);
        }
    }

    /// Relaxed: the caller has acquired the state, and swaps or looks at it again afterwards.
    fn load(words: &[AtomicU64; ENTRY_WORDS]) -> Self {
        let load = |index: usize| words[index].load(Ordering::Relaxed);
        let description = load(word::DESCRIPTION);
        Self {
            sequence: load(word::SEQUENCE),
            lane: description as u8,
            header_flags: (description >> 8) as u8,
            kind: (description >> 16) as u8,
            dead: (description >> 24) as u8 & flags::DEAD != 0,
            len_bytes: (description >> 32) as u32,
            not_before_ns: load(word::NOT_BEFORE_NS),
            first_ns: load(word::FIRST_NS),
            last_ns: load(word::LAST_NS),
            stamp_ns: load(word::STAMP_NS),
            key: load(word::KEY),
        }
    }
}

/// Counts that a store keeps for people; see [`crate::layout::aside::at`] for how exact they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Messages that found no entry.
    Full,
    /// Dead letters that made room for others.
    Dropped,
    /// Dead letters.
    Dead,
    /// Entries that wait or are in hand.
    Waiting,
}

/// Where the entries lie.
pub trait Table {
    /// Entries backed by memory. The implementation loads the count with Acquire, which pairs with the Release of whoever
    /// made the file longer, and returns at most the bound.
    fn reserved(&self) -> usize;
    /// Entries that the table may ever have.
    fn bound(&self) -> usize;
    /// The words of an entry, `None` from [`Table::reserved`] on.
    fn entry(&self, index: usize) -> Option<&[AtomicU64; ENTRY_WORDS]>;
    /// A count of the first page.
    fn counter(&self, which: Counter) -> &AtomicU64;
}

/// An entry that the caller holds, with the word that proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Index of the entry.
    pub index: usize,
    /// Its word.
    pub word: AsideWord,
}

impl Held {
    /// How an owner word names it.
    pub const fn parked_entry(&self) -> ParkedEntry {
        ParkedEntry { index: self.index as u16, incarnation: (self.word.tag & PARKED_TAG_MASK) as u16 }
    }
}

/// What became of claiming an entry that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsideClaim {
    /// The attempt is counted; its message may be handed out.
    Mine(Held),
    /// It has been handed out as often as is allowed. It is the caller's all the same, to make it a dead letter.
    Exhausted(Held),
    /// Another has it.
    Taken,
}

/// What repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Entries that stood for no message and are free.
    pub freed: usize,
    /// Entries that were committed and are valid now.
    pub finished: usize,
    /// Entries in hand that wait again, or are dead letters again.
    pub released: usize,
    /// Entries that could not be judged: they name a lane that is not there.
    pub left: usize,
}

impl Repaired {
    /// Has anything changed?
    pub const fn any(&self) -> bool {
        self.freed + self.finished + self.released > 0
    }
}

/// How many entries are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Entries that somebody fills, or that are not committed yet.
    pub unfinished: usize,
    /// Entries that wait.
    pub waiting: usize,
    /// Entries in somebody's hand.
    pub claimed: usize,
    /// Dead letters.
    pub dead: usize,
    /// Of those, how many have not been announced.
    pub unannounced: usize,
    /// CLOCK_MONOTONIC ns at which the earliest entry that waits is due.
    pub due_ns: Option<u64>,
}

/// A view of one group's store.
pub struct Store<'a, T> {
    table: &'a T,
    /// The group's word for the earliest time.
    due: &'a AtomicU64,
}

impl<T> Clone for Store<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Store<'_, T> {}

/// Lowers the group's word for the earliest time to `at_ns`. Whoever makes an entry wait has done so before.
pub fn lower_due(due: &AtomicU64, at_ns: u64) {
    // 0 means none.
    let at_ns = at_ns.max(1);
    let mut seen = due.load(Ordering::Relaxed);
    loop {
        let to = if seen == 0 || at_ns < seen { at_ns } else { seen };
        // DUE-SCAN: the Release half publishes the entry that waits to whoever swaps the word to 0 afterwards. A swap even
        // where the value stays: a load that finds it low enough may be older than a scan that has passed the entry.
        match due.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

/// When the earliest entry is due, as far as the group's word knows. For ends of waits.
#[inline]
pub fn due_ns(due: &AtomicU64) -> Option<u64> {
    // Relaxed: a hint; whoever acts on it swaps the word.
    Some(due.load(Ordering::Relaxed)).filter(|&at_ns| at_ns != 0)
}

impl<'a, T: Table> Store<'a, T> {
    /// Views a store, and the group's word [`crate::layout::groups::in_lane::ASIDE_DUE`].
    pub fn attach(table: &'a T, due: &'a AtomicU64) -> Self {
        Self { table, due }
    }

    /// Entries that there are.
    pub fn len(&self) -> usize {
        self.table.reserved()
    }

    /// Has it no entries at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word of an entry.
    pub fn look(&self, index: usize) -> Option<AsideWord> {
        // Acquire, ASIDE-STATE: pairs with the Release half of `change`. Whoever sees STAGED or a later state sees the contents.
        let words = self.table.entry(index)?;
        Some(AsideWord::unpack(words[word::STATE].load(Ordering::Acquire)))
    }

    /// An entry's word and the contents that belong to it; `None` if it changes too fast, or is not there.
    pub fn read(&self, index: usize) -> Option<(AsideWord, Contents)> {
        let words = self.table.entry(index)?;
        for _ in 0..READ_TRIES {
            let seen = self.look(index)?;
            let contents = Contents::load(words);
            // ASIDE-RECHECK: keeps the loads of the contents before the second look at the state; pairs with the fence
            // between the swap to FILLING or AMENDING and what its holder stores.
            fence(Ordering::Acquire);
            if words[word::STATE].load(Ordering::Relaxed) == seen.pack() {
                return Some((seen, contents));
            }
        }
        None
    }

    /// Changes the word of an entry from exactly `from` to `to`. The one way in which it changes.
    fn change(&self, index: usize, from: AsideWord, to: AsideWord) -> bool {
        let Some(words) = self.table.entry(index) else { return false };
        // AcqRel, ASIDE-STATE: Release what was stored into the entry before; Acquire, for who takes it over, what its last
        // holder read or stored.
        let state = &words[word::STATE];
        let changed =
            state.compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if changed {
            self.count(Counter::Dead, state::is_dead(from.state), state::is_dead(to.state));
            let waits = |word: AsideWord| state::is_valid(word.state) && !state::is_dead(word.state);
            self.count(Counter::Waiting, waits(from), waits(to));
        }
        changed
    }

    fn count(&self, which: Counter, before: bool, after: bool) {
        // Relaxed: statistics. They wrap below zero when a death has left them too low, until the next census.
        match (before, after) {
            (false, true) => self.table.counter(which).fetch_add(1, Ordering::Relaxed),
            (true, false) => self.table.counter(which).fetch_add(u64::MAX, Ordering::Relaxed),
            _ => return,
        };
    }

    fn step(&self, held: Held, to: AsideWord) -> Option<Held> {
        self.change(held.index, held.word, to).then_some(Held { word: to, ..held })
    }

    /// The same to a state in which the caller stores into the entry.
    fn step_to_store(&self, held: Held, to: AsideWord) -> Option<Held> {
        let stepped = self.step(held, to);
        // ASIDE-RECHECK: the swap is visible before anything that is stored after it. Whoever copies from the entry and looks
        // at the word once more finds it changed; the swap's own Release speaks for what was before it only.
        fence(Ordering::Release);
        stepped
    }

    /// Entries in turn from `first` on, each once, with their words.
    fn entries_from(&self, first: usize) -> impl Iterator<Item = (usize, AsideWord)> + use<'_, 'a, T> {
        let len = self.len();
        let first = if first < len { first } else { 0 };
        (first..len).chain(0..first).filter_map(|index| Some((index, self.look(index)?)))
    }

    // ---------------------------------------------------------------- putting aside

    /// Takes a free entry, for a message that has been handed out `attempts` times; `dead`: as a dead letter. `hint` is the
    /// caller's own: where to begin, afterwards the place behind the entry. `None`: the store is full, or has as
    /// many dead letters as it may; nothing has changed then, and the caller keeps its claim. The table may still
    /// grow ([`crate::layout::aside::Shape::grown`]).
    pub fn allocate(&self, me: Holder, attempts: u8, dead: bool, hint: &mut usize) -> Option<Held> {
        if dead && self.has_dead_max() {
            return None;
        }
        for (index, seen) in self.entries_from(*hint) {
            if seen.state != state::FREE {
                continue;
            }
            let to = AsideWord { state: state::FILLING, holder: me, attempts, ..seen.next_tag() };
            if let Some(filling) = self.step_to_store(Held { index, word: seen }, to) {
                *hint = index + 1;
                return Some(filling);
            }
        }
        None
    }

    /// Are there as many dead letters as may be?
    pub fn has_dead_max(&self) -> bool {
        let dead = self.table.counter(Counter::Dead).load(Ordering::Relaxed);
        // A count below zero is one that a death has left behind.
        distance(dead, crate::layout::aside::dead_max(self.table.bound()) as u64) >= 0
    }

    /// Counts a message that found no entry, once for each message.
    pub fn note_full(&self) {
        self.table.counter(Counter::Full).fetch_add(1, Ordering::Relaxed);
    }

    /// Describes the message in an entry that the caller fills. Texts and payload go the same way, by the caller's own
    /// stores.
    pub fn describe(&self, filling: Held, contents: &Contents) {
        debug_assert_eq!(filling.word.state, state::FILLING);
        if let Some(words) = self.table.entry(filling.index) {
            contents.store(words);
        }
    }

    /// The copy is complete. From here on the entry can be committed. `None`: it was taken away, its holder was thought dead.
    pub fn stage(&self, filling: Held) -> Option<Held> {
        if filling.word.state != state::FILLING {
            return None;
        }
        self.step(filling, filling.word.with_state(state::STAGED))
    }

    /// Commits a staged entry in a shared group, makes it valid and marks the message as done; the caller walks and rings
    /// afterwards. False: the claim had been lost, and the entry is free.
    pub fn commit_shared(&self, owners: &Owners<'_>, sequence: u64, claim: OwnerWord, staged: Held) -> bool {
        if staged.word.state != state::STAGED || !owners.park(sequence, claim, staged.parked_entry()) {
            self.free(staged);
            return false;
        }
        self.finish(staged);
        owners.finish_parked(sequence, claim.parked(staged.parked_entry()));
        true
    }

    /// Makes a committed entry valid, as its contents say: it waits, or it is a dead letter. False: somebody did it before.
    pub fn finish(&self, staged: Held) -> bool {
        let Some(words) = self.table.entry(staged.index) else { return false };
        if staged.word.state != state::STAGED {
            return false;
        }
        // The contents belong to this word if the swap succeeds: whoever stores others has swapped it first.
        let contents = Contents::load(words);
        let to = if contents.dead { state::DEAD } else { state::WAITING };
        let finished = self.change(staged.index, staged.word, staged.word.with_state(to));
        if finished && !contents.dead {
            lower_due(self.due, contents.not_before_ns);
        }
        finished
    }

    /// Finishes a parked message of which the caller has seen the owner word: its entry becomes valid if it is not, and
    /// then the message is done. Anyone may do it, any number of times. False: the word names no entry of this
    /// store, or it has changed.
    pub fn finish_parked(&self, owners: &Owners<'_>, lane: u8, sequence: u64, parked: OwnerWord) -> bool {
        let named = parked.parked_entry();
        let index = usize::from(named.index);
        if parked.state != owner::state::PARKED {
            return false;
        }
        // ASIDE-STATE: who sees PARKED sees at least STAGED, for it was stored before. Another state or tag therefore means
        // that the entry has been valid since.
        let (Some(seen), Some(words)) = (self.look(index), self.table.entry(index)) else { return false };
        if seen.state == state::STAGED && seen.is_named(named.incarnation) {
            let contents = Contents::load(words);
            // Ten bits come round again. Nobody finishes another message by mistake.
            if (contents.sequence, contents.lane) == (sequence, lane) {
                self.finish(Held { index, word: seen });
            }
        }
        owners.finish_parked(sequence, parked)
    }

    /// Gives an entry back that stands for no message: one that is being filled or cleared, or one that is staged and whose
    /// commit was refused or will not be tried. False: it was taken away.
    pub fn free(&self, held: Held) -> bool {
        matches!(held.word.state, state::FILLING | state::STAGED)
            && self.change(held.index, held.word, held.word.with_state(state::FREE))
    }

    // ---------------------------------------------------------------- handing out again

    /// Claims an entry that was seen to wait, and counts the attempt by the same step.
    pub fn claim(&self, index: usize, seen: AsideWord, me: Holder, attempts_max: u8) -> AsideClaim {
        if seen.state != state::WAITING {
            return AsideClaim::Taken;
        }
        let exhausted = seen.attempts >= attempts_max;
        let counted = !exhausted && !crate::is_broken("attempt_late");
        let attempts = if counted { seen.attempts.saturating_add(1) } else { seen.attempts };
        let to = AsideWord { state: state::CLAIMED, holder: me, attempts, ..seen.next_tag() };
        let held = Held { index, word: to };
        match self.change(index, seen, to) {
            true if exhausted => AsideClaim::Exhausted(held),
            true => AsideClaim::Mine(held),
            false => AsideClaim::Taken,
        }
    }

    /// Claims an entry whose time has come, if the group's word says that there is one. `cursor` is the caller's own: where
    /// the search goes on. [`AsideClaim::Taken`] is never returned.
    pub fn claim_due(
        &self,
        me: Holder,
        attempts_max: u8,
        now_ns: u64,
        cursor: &mut usize,
    ) -> Option<AsideClaim> {
        let mut seen = due_ns(self.due).filter(|&at_ns| at_ns <= now_ns)?;
        // DUE-SCAN: the Acquire half shows the entries of whoever swapped the word before; who does so later finds 0 and
        // says so again.
        while let Err(now) = self.due.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed) {
            if now == 0 || now > now_ns {
                return None;
            }
            seen = now;
        }
        let mut rest_ns = None;
        for (index, word) in self.entries_from(*cursor) {
            if word.state != state::WAITING {
                continue;
            }
            let not_before_ns = self.not_before_ns(index);
            if not_before_ns > now_ns {
                rest_ns = Some(rest_ns.map_or(not_before_ns, |rest: u64| rest.min(not_before_ns)));
                continue;
            }
            let claim = self.claim(index, word, me, attempts_max);
            // Taken: whoever makes it wait again says so himself.
            if claim != AsideClaim::Taken {
                *cursor = index + 1;
                // There may be more, and the next search goes on from here instead of looking at all for the earliest.
                lower_due(self.due, seen);
                return Some(claim);
            }
        }
        if let Some(rest_ns) = rest_ns {
            lower_due(self.due, rest_ns);
        }
        None
    }

    fn not_before_ns(&self, index: usize) -> u64 {
        // Relaxed: follows an Acquire of the state, and a swap of the state follows where it matters.
        self.table.entry(index).map_or(u64::MAX, |words| words[word::NOT_BEFORE_NS].load(Ordering::Relaxed))
    }

    /// Is the entry still the caller's? Asked after a copy of its message has been made and before that is used.
    pub fn is_mine(&self, held: Held) -> bool {
        // ASIDE-RECHECK: the copy is made before this look; pairs with the fence
        // between the swap to FILLING and what overwrites it.
        fence(Ordering::Acquire);
        self.table
            .entry(held.index)
            .is_some_and(|words| words[word::STATE].load(Ordering::Relaxed) == held.word.pack())
    }

    /// Asks for more time with a claimed entry: whoever watches it begins anew. `None`: it had been lost.
    pub fn extend(&self, claimed: Held) -> Option<Held> {
        if claimed.word.state != state::CLAIMED {
            return None;
        }
        self.step(claimed, claimed.word.next_tag())
    }

    /// The message is done; its entry is free. False: the claim had been lost. Where a payload lies behind the table,
    /// [`Store::take`] and [`Store::free`] instead.
    pub fn acknowledge(&self, claimed: Held) -> bool {
        claimed.word.state == state::CLAIMED
            && self.change(claimed.index, claimed.word, claimed.word.with_state(state::FREE))
    }

    /// The message is done, or the dead letter is to go, which nobody else publishes again; the caller clears away what it has behind the table, and then
    /// frees the entry ([`Store::free`]). Nothing may be cleared before: the claim may have been lost. For a dead
    /// letter `held` is what was seen.
    pub fn take(&self, held: Held, me: Holder) -> Option<Held> {
        let may = match held.word.state {
            state::REPLAYING => held.word.holder == me,
            other => other == state::CLAIMED || state::is_dead(other),
        };
        let to = AsideWord { state: state::FILLING, holder: me, ..held.word.next_tag() };
        if may { self.step_to_store(held, to) } else { None }
    }

    /// Gives a claimed entry back untried: it waits again and is due. False: the claim had been lost.
    pub fn release(&self, claimed: Held) -> bool {
        if !matches!(claimed.word.state, state::CLAIMED | state::AMENDING) {
            return false;
        }
        let not_before_ns = self.not_before_ns(claimed.index);
        let released = self.change(claimed.index, claimed.word, claimed.word.with_state(state::WAITING));
        if released {
            lower_due(self.due, not_before_ns);
        }
        released
    }

    /// Takes a claim back that has not been handed out: as if it had never been made. False: it had been lost.
    pub fn unclaim(&self, claimed: Held) -> bool {
        if claimed.word.state != state::CLAIMED {
            return false;
        }
        let not_before_ns = self.not_before_ns(claimed.index);
        let attempts = claimed.word.attempts.saturating_sub(1);
        let waiting = AsideWord { attempts, ..claimed.word.with_state(state::WAITING) };
        let is_back = self.change(claimed.index, claimed.word, waiting);
        if is_back {
            lower_due(self.due, not_before_ns);
        }
        is_back
    }

    /// An observer has seen this claim for as long as a member may be silent: the entry waits again.
    pub fn expire(&self, index: usize, seen: AsideWord) -> bool {
        seen.state == state::CLAIMED && self.release(Held { index, word: seen })
    }

    /// Begins to write down why the message failed. From here on the caller may store texts; nobody but itself or the
    /// proof of its death ends that. `None`: the claim had been lost.
    pub fn amend(&self, claimed: Held) -> Option<Held> {
        if claimed.word.state != state::CLAIMED {
            return None;
        }
        let mut amending = claimed.word.with_state(state::AMENDING);
        if crate::is_broken("attempt_late") {
            amending.attempts = amending.attempts.saturating_add(1);
        }
        self.step_to_store(claimed, amending)
    }

    /// The amended entry waits again, until `not_before_ns`. `now_ns` is CLOCK_REALTIME.
    pub fn again(&self, amending: Held, not_before_ns: u64, now_ns: u64) -> bool {
        let Some(words) = self.table.entry(amending.index) else { return false };
        if amending.word.state != state::AMENDING {
            return false;
        }
        // Relaxed: the swap publishes them.
        words[word::NOT_BEFORE_NS].store(not_before_ns, Ordering::Relaxed);
        words[word::LAST_NS].store(now_ns, Ordering::Relaxed);
        self.release(amending)
    }

    /// An amended entry is done: the caller clears away what it has behind the table, and then frees it. False: it was taken away, its
    /// holder was thought dead.
    pub fn finish_amended(&self, amending: Held) -> Option<Held> {
        if amending.word.state != state::AMENDING {
            return None;
        }
        self.step(amending, amending.word.with_state(state::FILLING))
    }

    /// A claimed entry whose attempts are used up, or an amended one, becomes a dead letter. `now_ns` is CLOCK_REALTIME, and
    /// kept if the entry was amended. False: the claim had been lost.
    pub fn dead(&self, held: Held, now_ns: u64) -> bool {
        match (held.word.state, self.table.entry(held.index)) {
            (state::AMENDING, Some(words)) => words[word::LAST_NS].store(now_ns, Ordering::Relaxed),
            (state::CLAIMED, Some(_)) => {}
            _ => return false,
        }
        self.change(held.index, held.word, held.word.with_state(state::DEAD))
    }

    // ---------------------------------------------------------------- dead letters

    /// A dead letter's announcement has been published. False: it has changed, or was announced.
    pub fn announce(&self, index: usize, seen: AsideWord) -> bool {
        seen.state == state::DEAD && self.change(index, seen, seen.with_state(state::ANNOUNCED))
    }

    /// A dead letter goes: somebody said so, or it has been published again. False: it has changed. Where a payload lies
    /// behind the table, [`Store::take`] and [`Store::free`] instead.
    pub fn purge(&self, index: usize, seen: AsideWord) -> bool {
        state::is_dead_and_free(seen.state) && self.change(index, seen, seen.with_state(state::FREE))
    }

    /// Takes a dead letter in hand, to publish it again: of all who want to do that or to purge it, one comes to it. Its
    /// contents stay as they are. `None`: it has changed.
    pub fn replay(&self, seen: Held, me: Holder) -> Option<Held> {
        if !state::is_dead_and_free(seen.word.state) {
            return None;
        }
        self.step(seen, AsideWord { state: state::REPLAYING, holder: me, ..seen.word })
    }

    /// It was not published: a dead letter as before.
    pub fn put_back(&self, replaying: Held, announced: bool) -> bool {
        let to = if announced { state::ANNOUNCED } else { state::DEAD };
        replaying.word.state == state::REPLAYING
            && self.change(replaying.index, replaying.word, replaying.word.with_state(to))
    }

    /// It has been published: its entry is free. Where a payload lies behind the table, [`Store::take`] and
    /// [`Store::free`] instead.
    pub fn replayed(&self, replaying: Held) -> bool {
        replaying.word.state == state::REPLAYING
            && self.change(replaying.index, replaying.word, replaying.word.with_state(state::FREE))
    }

    /// Takes the oldest dead letter away to make room, counted; the caller clears and frees it. `before` is called with the one that is
    /// about to be taken, as far as can be seen. `None`: there is none.
    pub fn take_oldest_dead(&self, me: Holder, mut before: impl FnMut(usize)) -> Option<Held> {
        loop {
            let dead = self.entries_from(0).filter(|(_, word)| state::is_dead_and_free(word.state));
            let last_ns = |index: usize| {
                // Relaxed: follows an Acquire of the state; the swap below finds out if it belongs to another.
                self.table.entry(index).map_or(u64::MAX, |words| words[word::LAST_NS].load(Ordering::Relaxed))
            };
            let (index, word) = dead.min_by_key(|&(index, _)| last_ns(index))?;
            before(index);
            if let Some(taken) = self.take(Held { index, word }, me) {
                self.table.counter(Counter::Dropped).fetch_add(1, Ordering::Relaxed);
                return Some(taken);
            }
        }
    }

    // ---------------------------------------------------------------- repair

    /// Repair of a shared group's store, after proof of death: `is_dead` is asked about a holder after its entry was seen.
    /// Anybody may do it, any number of times. What the dead had claimed by owner words has been released before; a staged
    /// entry whose message is claimed by its holder all the same is left for the next time. `owners` gives
    /// the words of a lane. The caller walks and rings if anything changed.
    pub fn settle_shared<'o>(
        &self,
        is_dead: impl FnMut(Holder) -> bool,
        owners: impl Fn(u8) -> Option<Owners<'o>>,
    ) -> Repaired {
        self.settle(is_dead, |held, contents| {
            let owners = owners(contents.lane)?;
            // The Acquire of STAGED shows at least the claim under which it was filled, so anything but that claim is what its
            // holder, or somebody after it, made of it. Nobody can commit the entry any more.
            let seen = owners.look(contents.sequence);
            match seen.state {
                owner::state::CLAIMED if seen.member == held.word.holder.participant => None,
                owner::state::PARKED if seen.parked_entry() == held.parked_entry() => {
                    let finished = self.finish(held);
                    owners.finish_parked(contents.sequence, seen);
                    Some(finished)
                }
                _ => Some(false),
            }
        })
    }

    /// Repair of the store of a group of one member, after proof of its death and before the group's entry leaves the dead
    /// member's hands: a successor moves `low_water`, and afterwards nobody can tell what that member had committed.
    /// `passed` says up to where that member had finished a lane, by the last value there is, which a plain load need not
    /// read.
    pub fn settle_one_member(
        &self,
        is_dead: impl FnMut(Holder) -> bool,
        passed: impl Fn(u8) -> Option<u64>,
    ) -> Repaired {
        self.settle(is_dead, |held, contents| {
            let passed = passed(contents.lane)?;
            Some(distance(passed, contents.sequence) > 0 && self.finish(held))
        })
    }

    /// `committed` says of a staged entry whether it was, and has finished it then; `None`: it cannot tell.
    fn settle(
        &self,
        mut is_dead: impl FnMut(Holder) -> bool,
        mut committed: impl FnMut(Held, &Contents) -> Option<bool>,
    ) -> Repaired {
        let mut repaired = Repaired::default();
        for (index, word) in self.entries_from(0) {
            let held = Held { index, word };
            let held_by_one = matches!(
                word.state,
                state::FILLING | state::STAGED | state::CLAIMED | state::AMENDING | state::REPLAYING
            );
            let mut is_its = || crate::is_broken("settle_without_proof") || is_dead(word.holder);
            let Some(words) = self.table.entry(index).filter(|_| held_by_one && is_its()) else {
                continue;
            };
            match word.state {
                state::FILLING => repaired.freed += usize::from(self.free(held)),
                state::STAGED => match committed(held, &Contents::load(words)) {
                    None => repaired.left += 1,
                    Some(true) => repaired.finished += 1,
                    // Fails where another has finished it meanwhile.
                    Some(false) => repaired.freed += usize::from(self.free(held)),
                },
                // Whether it was published nobody can tell. It is there at least.
                state::REPLAYING => repaired.released += usize::from(self.put_back(held, false)),
                // Whoever claims it next sees whether its attempts are used up.
                _ => repaired.released += usize::from(self.release(held)),
            }
        }
        repaired
    }

    /// Counts the entries, puts the counts and the earliest time right that deaths may have left wrong. Once a second, by
    /// idle members and the supervisor.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (index, word) in self.entries_from(0) {
            match word.state {
                state::FILLING | state::STAGED => census.unfinished += 1,
                state::WAITING => {
                    census.waiting += 1;
                    let not_before_ns = self.not_before_ns(index);
                    census.due_ns =
                        Some(census.due_ns.map_or(not_before_ns, |due: u64| due.min(not_before_ns)));
                }
                state::CLAIMED | state::AMENDING => census.claimed += 1,
                state::DEAD | state::ANNOUNCED | state::REPLAYING => {
                    census.dead += 1;
                    census.unannounced += usize::from(word.state == state::DEAD);
                }
                _ => {}
            }
        }
        let waiting = census.waiting + census.claimed;
        // Relaxed: statistics, off by what changes meanwhile.
        self.table.counter(Counter::Dead).store(census.dead as u64, Ordering::Relaxed);
        self.table.counter(Counter::Waiting).store(waiting as u64, Ordering::Relaxed);
        if let Some(due_ns) = census.due_ns {
            lower_due(self.due, due_ns);
        }
        census
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
