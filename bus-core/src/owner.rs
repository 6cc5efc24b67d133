//! Owner words: how the members of one group share a lane, each message to one of them.
//!
//! A group of many members has one word for each slot of the lane:
//!
//! ```text
//! bit   0..3    3..13                 13..29   29..37     37..64
//!       state   member (participant)  nonce    attempts   lap (sequence / capacity + 1)
//! ```
//!
//! A word of an older lap than the sequence's means FREE: the slot has been published anew and nobody has touched its
//! word since. A word of a later lap means that the sequence is finished, and a member that was stopped before its claim
//! comes too late. Laps wrap, and a group that was away finds words of any age, so it is `low_water` that tells the two
//! apart: whoever has seen a word of a later lap sees `low_water` beyond the sequence too.
//!
//! ```text
//!   FREE -----------claim----------> CLAIMED --acknowledge--> DONE --walk--> (low_water passes)
//!   RELEASED <--release, or repair----+  |
//!      +---------------claim-------------^
//!                                     CLAIMED --park--> PARKED --entry valid--> DONE
//! ```
//!
//! The attempt is counted by the claim, before the payload is handed out. `attempts` saturates and `nonce` wraps; both
//! are needed, or a member that was stopped for 256 attempts could acknowledge for another.
//!
//! A claim ends by its member's own step, by its death, or by `ack_wait`: whoever has seen the same CLAIMED word for that
//! long releases it. A member that needs more time counts the nonce up, which makes it another word. Who has used
//! up its attempts is claimed once more without counting, not handed out, and parked as a dead letter.
//!
//! PARKED holds `low_water` until the store's entry is valid. That step is anyone's ([`crate::aside`]), so a walk takes a
//! function that does it: nobody waits for the member that parked.
//!
//! Acknowledging and walking is Dekker's pattern between two members (`ACK-WALK`): each stores DONE and then looks
//! whether its neighbour is DONE, the one from its predecessor's side and the other from its successor's; without a full fence between the
//! two, both can miss the other and `low_water` stays behind for ever.

use crate::seq::distance;
use crate::sync::{AtomicU64, Ordering, fence, fence_after_swap};

/// States of an owner word. A word of another lap is FREE whatever it says, as long as `low_water` has not passed it.
pub mod state {
    /// Nobody has had the message.
    pub const FREE: u8 = 0;
    /// A member has it in hand.
    pub const CLAIMED: u8 = 1;
    /// A member had it and gave it back, or died.
    pub const RELEASED: u8 = 2;
    /// It lies in the group's aside store; the member and nonce fields name the entry.
    pub const PARKED: u8 = 3;
    /// Finished.
    pub const DONE: u8 = 4;
}

const LAP_SHIFT: u32 = 37;
const LAP_MASK: u64 = (1 << (64 - LAP_SHIFT)) - 1;

/// An owner word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerWord {
    /// One of [`state`].
    pub state: u8,
    /// Participant number of the member that claimed it.
    pub member: u16,
    /// Counts claims of this word, wrapping.
    pub nonce: u16,
    /// Counts hand-outs of this message, saturating.
    pub attempts: u8,
    /// `sequence / capacity + 1`, low 27 bits.
    pub lap: u32,
}

impl OwnerWord {
    /// The word as it lies in memory.
    #[inline]
    pub const fn pack(self) -> u64 {
        // The state last: words that differ in it alone share the rest of the work.
        (self.member as u64 & 0x3ff) << 3
            | (self.nonce as u64) << 13
            | (self.attempts as u64) << 29
            | (self.lap as u64) << LAP_SHIFT
            | (self.state as u64 & 7)
    }

    /// Reads a word from memory.
    #[inline]
    pub const fn unpack(word: u64) -> Self {
        Self {
            state: word as u8 & 7,
            member: (word >> 3) as u16 & 0x3ff,
            nonce: (word >> 13) as u16,
            attempts: (word >> 29) as u8,
            lap: (word >> LAP_SHIFT) as u32,
        }
    }

    /// The word as it lies in memory, to be kept.
    #[inline]
    pub const fn packed(self) -> PackedOwner {
        PackedOwner(self.pack())
    }

    /// The aside entry that a PARKED word names, and low bits of the entry's incarnation.
    pub const fn parked_entry(self) -> ParkedEntry {
        ParkedEntry { index: self.nonce, incarnation: self.member }
    }

    /// This word, PARKED in `entry`.
    pub const fn parked(self, entry: ParkedEntry) -> Self {
        Self { state: state::PARKED, member: entry.incarnation & 0x3ff, nonce: entry.index, ..self }
    }
}

/// An [`OwnerWord`] as it lies in memory: what a member keeps of a claim in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedOwner(u64);

impl PackedOwner {
    /// Takes it apart.
    #[inline]
    pub const fn unpack(self) -> OwnerWord {
        OwnerWord::unpack(self.0)
    }
}

/// What a PARKED word names. The incarnation is part of it, so that a slow repairer does not finish one message when the
/// entry already holds another that is only staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedEntry {
    /// Index of the aside entry.
    pub index: u16,
    /// Low 10 bits of its incarnation.
    pub incarnation: u16,
}

/// The owner words of one group in one lane.
#[derive(Clone, Copy)]
pub struct Owners<'a> {
    words: &'a [AtomicU64],
    capacity_log2: u32,
}

/// An owner word, as it was found, of a message that nobody has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untouched(u64);

/// What the word of a published message says of the common cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuickLook {
    /// Nobody has had it; [`Owners::claim_untouched`] claims it.
    Untouched(Untouched),
    /// A member has it in hand, or it is finished.
    Taken,
    /// [`Owners::claim`] has to look.
    Unclear,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The message is the caller's; the word proves it later.
    Mine(OwnerWord),
    /// Another member has it, or it is finished.
    Taken,
    /// It has been handed out as often as is allowed.
    Exhausted(OwnerWord),
}

impl<'a> Owners<'a> {
    /// Views `words`, one for each slot of the lane. `None` if their number is not a power of two.
    pub fn attach(words: &'a [AtomicU64]) -> Option<Self> {
        words.len().is_power_of_two().then(|| Self { words, capacity_log2: words.len().trailing_zeros() })
    }

    #[inline]
    fn word(&self, sequence: u64) -> &AtomicU64 {
        &self.words[sequence as usize & (self.words.len() - 1)]
    }

    #[inline]
    fn lap(&self, sequence: u64) -> u32 {
        (((sequence >> self.capacity_log2) + 1) & LAP_MASK) as u32
    }

    /// Is `sequence` in no member's way, PARKED or DONE? Not so of one whose word is in use for a later message.
    #[inline]
    fn is_parked_or_done(&self, sequence: u64) -> bool {
        const BETWEEN: u64 = (1 << LAP_SHIFT) - 1 - 7;
        // Relaxed: behind ACK-WALK's fence, and nothing is read that it would tell of.
        let word = self.word(sequence).load(Ordering::Relaxed);
        let parked = (self.lap(sequence) as u64) << LAP_SHIFT | state::PARKED as u64;
        (word & !BETWEEN).wrapping_sub(parked) <= u64::from(state::DONE - state::PARKED)
    }

    /// The word of `sequence`, FREE if it is of another lap.
    #[inline]
    pub fn look(&self, sequence: u64) -> OwnerWord {
        // Acquire: pairs with ACK-WALK's Release side, and with a claim of another member.
        let word = OwnerWord::unpack(self.word(sequence).load(Ordering::Acquire));
        if word.lap == self.lap(sequence) {
            word
        } else {
            OwnerWord { state: state::FREE, member: 0, nonce: word.nonce, attempts: 0, lap: word.lap }
        }
    }

    /// Is the word of `sequence` in use for a later message?
    pub fn is_reused(&self, sequence: u64) -> bool {
        let seen = OwnerWord::unpack(self.word(sequence).load(Ordering::Acquire));
        let ahead = seen.lap.wrapping_sub(self.lap(sequence)) & LAP_MASK as u32;
        ahead != 0 && ahead <= (LAP_MASK / 2) as u32
    }

    /// Claims `sequence`, which is published, for `member`. `attempts_max` is at least 1.
    #[inline]
    pub fn claim(&self, sequence: u64, member: u16, attempts_max: u8, low_water: &AtomicU64) -> Claim {
        let word = self.word(sequence);
        // Acquire, CLAIM-LAP: a word of a later lap was written by somebody who saw `low_water` beyond this sequence.
        let seen_raw = word.load(Ordering::Acquire);
        let seen = OwnerWord::unpack(seen_raw);
        let lap = self.lap(sequence);
        let attempts = match lap.wrapping_sub(seen.lap) & LAP_MASK as u32 {
            0 if seen.state == state::RELEASED => seen.attempts,
            0 if seen.state != state::FREE => return Claim::Taken,
            0 | 1 => 0,
            // Neither this lap nor the one before: of a later one, or from before the group was away.
            _ if distance(low_water.load(Ordering::Relaxed), sequence) > 0 => return Claim::Taken,
            _ => 0,
        };
        if attempts >= attempts_max {
            return Claim::Exhausted(seen);
        }
        let mine = OwnerWord {
            state: state::CLAIMED,
            member,
            nonce: seen.nonce.wrapping_add(1),
            attempts: attempts.saturating_add(1),
            lap,
        };
        // AcqRel: Acquire what a former claimant left, Release the count before the payload is handed out.
        match word.compare_exchange(seen_raw, mine.pack(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Claim::Mine(mine),
            Err(_) => Claim::Taken,
        }
    }

    /// What the word of `sequence`, which is published, says of the common cases.
    #[inline]
    pub fn quick_look(&self, sequence: u64) -> QuickLook {
        // Acquire, CLAIM-LAP: as in `claim`.
        let raw = self.word(sequence).load(Ordering::Acquire);
        let seen = OwnerWord::unpack(raw);
        match self.lap(sequence).wrapping_sub(seen.lap) & LAP_MASK as u32 {
            1 => QuickLook::Untouched(Untouched(raw)),
            0 => match seen.state {
                state::FREE => QuickLook::Untouched(Untouched(raw)),
                state::RELEASED => QuickLook::Unclear,
                _ => QuickLook::Taken,
            },
            _ => QuickLook::Unclear,
        }
    }

    /// [`Owners::claim`] of a message that nobody has had, as its word was found. What was read of the message since that look was
    /// its own: until it is claimed nobody finishes it. `None`: somebody was quicker.
    #[inline]
    pub fn claim_untouched(&self, sequence: u64, member: u16, found: Untouched) -> Option<OwnerWord> {
        let nonce = OwnerWord::unpack(found.0).nonce.wrapping_add(1);
        let mine = OwnerWord { state: state::CLAIMED, member, nonce, attempts: 1, lap: self.lap(sequence) };
        // AcqRel: as in `claim`. Release keeps what was read of the message before it: until here nobody else could finish it.
        let word = self.word(sequence);
        word.compare_exchange(found.0, mine.pack(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then_some(mine)
    }

    /// Where the word of `sequence` lies: for a hint to the processor.
    #[inline]
    pub fn address(&self, sequence: u64) -> *const AtomicU64 {
        self.word(sequence)
    }

    /// Moves `mine`, as it was claimed, to another state. False: it is no longer the caller's, and nothing changed.
    fn settle(&self, sequence: u64, mine: OwnerWord, to: OwnerWord) -> bool {
        // AcqRel: Release pairs with the Acquire of a walk or of the next claim.
        let word = self.word(sequence);
        word.compare_exchange(mine.pack(), to.pack(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Finishes a message and moves `low_water` over everything finished. False: the claim had been lost.
    #[inline]
    pub fn acknowledge(&self, sequence: u64, mine: OwnerWord, low_water: &AtomicU64, end: u64) -> bool {
        self.acknowledge_with(sequence, mine, low_water, end, |_, _| false)
    }

    /// [`Owners::acknowledge`] with a walk that gets past parked messages, see [`Owners::walk_with`].
    #[inline]
    pub fn acknowledge_with(
        &self,
        sequence: u64,
        mine: OwnerWord,
        low_water: &AtomicU64,
        end: u64,
        finish: impl FnMut(u64, OwnerWord) -> bool,
    ) -> bool {
        let done = self.finish(sequence, mine);
        if done {
            // ACK-WALK: between this member's DONE and its look at the others'.
            fence_after_swap();
            if !self.step_over(sequence, low_water) {
                self.walk_apart(low_water, end, finish);
            }
        }
        done
    }

    /// The walk where it is one step: `sequence`, which is finished, is the first of the lane that the group has not passed, and who has the
    /// next one has not finished it; that member's walk begins there. False: [`Owners::walk_on`] has to look.
    #[inline]
    fn step_over(&self, sequence: u64, low_water: &AtomicU64) -> bool {
        let next = sequence.wrapping_add(1);
        // AcqRel: as in `walk_on`. That it succeeds tells that nobody had passed the next one either, and that its word was its own.
        low_water.load(Ordering::Relaxed) == sequence
            && !self.is_parked_or_done(next)
            && low_water.compare_exchange(sequence, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// [`Owners::walk_on`], out of the way of those who need only a step.
    #[inline(never)]
    fn walk_apart(&self, low_water: &AtomicU64, end: u64, finish: impl FnMut(u64, OwnerWord) -> bool) {
        self.walk_on(low_water, end, finish);
    }

    /// The first half of [`Owners::acknowledge`], for who finishes several at once. [`Owners::walk_with`] must follow, after the last of
    /// them. False: the claim had been lost.
    #[inline]
    pub fn finish(&self, sequence: u64, mine: OwnerWord) -> bool {
        self.settle(sequence, mine, OwnerWord { state: state::DONE, ..mine })
    }

    /// Is the claim still the caller's? Asked after a copy of the message has been made and before that is used: a claim may be taken
    /// back from a member that is slow, its message finished by another and overwritten.
    #[inline]
    pub fn is_mine(&self, sequence: u64, mine: OwnerWord) -> bool {
        // CLAIM-COPY: the copy is made before this look. Pairs with the Release that every publisher puts between seeing the gate and
        // overwriting (OVERWRITE, WRITE): who copied one byte of that sees the word that let the gate pass.
        fence(Ordering::Acquire);
        self.word(sequence).load(Ordering::Relaxed) == mine.pack()
    }

    /// A message that has used up its attempts, as [`Owners::claim`] found it, is the caller's: not to hand it out, but to
    /// park it as a dead letter. The attempts stay as they are.
    pub fn claim_exhausted(&self, sequence: u64, seen: OwnerWord, member: u16) -> Option<OwnerWord> {
        if seen.state != state::RELEASED {
            return None;
        }
        let nonce = seen.nonce.wrapping_add(1);
        let mine = OwnerWord { state: state::CLAIMED, member, nonce, ..seen };
        self.settle(sequence, seen, mine).then_some(mine)
    }

    /// Asks for more time: whoever watches the claim begins anew. `None`: it had been lost.
    pub fn extend(&self, sequence: u64, mine: OwnerWord) -> Option<OwnerWord> {
        let again = OwnerWord { nonce: mine.nonce.wrapping_add(1), ..mine };
        (mine.state == state::CLAIMED && self.settle(sequence, mine, again)).then_some(again)
    }

    /// Gives a message back unfinished; its attempts stay counted. False: the claim had been lost.
    pub fn release(&self, sequence: u64, mine: OwnerWord) -> bool {
        self.settle(sequence, mine, OwnerWord { state: state::RELEASED, ..mine })
    }

    /// Takes a claim back that has not been handed out: as if it had never been made, but for the nonce. False: it had been lost.
    pub fn unclaim(&self, sequence: u64, mine: OwnerWord) -> bool {
        let attempts = mine.attempts.saturating_sub(1);
        let state = if attempts == 0 { state::FREE } else { state::RELEASED };
        self.settle(sequence, mine, OwnerWord { state, attempts, ..mine })
    }

    /// Commits a message to the aside store's `entry`, which is staged. False: the claim had been lost.
    pub fn park(&self, sequence: u64, mine: OwnerWord, entry: ParkedEntry) -> bool {
        let parked = mine.parked(entry);
        let done = OwnerWord { state: state::DONE, ..mine };
        self.settle(sequence, mine, if crate::is_broken("park_to_done") { done } else { parked })
    }

    /// Marks a parked message as done. The caller has made its entry valid, or seen that somebody did. False: it was not
    /// parked so any more.
    pub fn finish_parked(&self, sequence: u64, parked: OwnerWord) -> bool {
        let done = OwnerWord { state: state::DONE, ..parked };
        parked.state == state::PARKED && self.settle(sequence, parked, done)
    }

    /// Repair, after proof of death: what a dead member had claimed is released. Anybody may call it, any number of times.
    pub fn release_of_dead(&self, sequence: u64, dead_member: u16) -> bool {
        let seen = self.look(sequence);
        seen.state == state::CLAIMED && seen.member == dead_member && self.release(sequence, seen)
    }

    /// Moves `low_water` over the finished prefix, at most to `end`. Idle members call it before they park, and
    /// repair after a death: the member that finished the first gap may have died before its own walk.
    ///
    /// It ends at a parked message; [`Owners::walk_with`] does not.
    pub fn walk(&self, low_water: &AtomicU64, end: u64) -> u64 {
        self.walk_with(low_water, end, |_, _| false)
    }

    /// [`Owners::walk`] that gets past parked messages: `finish` makes the entry valid that the word names, marks the message
    /// as done ([`crate::aside::Store::finish_parked`]), and returns whether it could.
    #[inline]
    pub fn walk_with(
        &self,
        low_water: &AtomicU64,
        end: u64,
        finish: impl FnMut(u64, OwnerWord) -> bool,
    ) -> u64 {
        // ACK-WALK: between this member's DONE and its look at the others'.
        fence(Ordering::SeqCst);
        self.walk_on(low_water, end, finish)
    }

    /// The walk, after the fence.
    #[inline]
    fn walk_on(
        &self,
        low_water: &AtomicU64,
        end: u64,
        mut finish: impl FnMut(u64, OwnerWord) -> bool,
    ) -> u64 {
        let mut from = low_water.load(Ordering::Acquire);
        let mut l = from;
        while distance(end, l) > 0 {
            let seen = self.look(l);
            if seen.state == state::DONE {
                l = l.wrapping_add(1);
                continue;
            }
            // A function that says that it did and did not must not keep the walk here.
            if seen.state == state::PARKED && finish(l, seen) && self.look(l) != seen {
                continue;
            }
            // Not finished, or so long ago that the word is in use again: then others have gone past it, without having
            // seen this member's DONE perhaps, and the walk goes on from where they are.
            let now = low_water.load(Ordering::Acquire);
            if distance(now, l) <= 0 {
                break;
            }
            (from, l) = (now, now);
        }
        if l != from {
            // AcqRel: Release to the gate scan; Acquire chains the walks of other members.
            low_water.fetch_max(l, Ordering::AcqRel);
        }
        l
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn memory() -> Vec<AtomicU64> {
        (0..8).map(|_| AtomicU64::new(0)).collect()
    }

    fn mine(claim: Claim) -> OwnerWord {
        match claim {
            Claim::Mine(word) => word,
            other => panic!("not claimed: {other:?}"),
        }
    }

    #[test]
    fn every_field_survives_at_its_extremes() {
        for state in 0..=4 {
            for member in [0, 1_023] {
                for nonce in [0, u16::MAX] {
                    for attempts in [0, 255] {
                        for lap in [0, LAP_MASK as u32] {
                            let word = OwnerWord { state, member, nonce, attempts, lap };
                            assert_eq!(OwnerWord::unpack(word.pack()), word);
                        }
                    }
                }
            }
        }
        let entry = ParkedEntry { index: u16::MAX, incarnation: 1_023 };
        assert_eq!(mine(Claim::Mine(OwnerWord::unpack(0).parked(entry))).parked_entry(), entry);
    }

    #[test]
    fn each_message_goes_to_one_member_and_low_water_follows_the_finished_prefix() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        let first = mine(owners.claim(0, 1, 3, &low_water));
        assert_eq!(owners.claim(0, 2, 3, &low_water), Claim::Taken);
        let second = mine(owners.claim(1, 2, 3, &low_water));
        assert!(owners.acknowledge(1, second, &low_water, 2));
        assert_eq!(low_water.load(Ordering::Relaxed), 0, "0 is not finished");
        assert!(owners.acknowledge(0, first, &low_water, 2));
        assert_eq!(low_water.load(Ordering::Relaxed), 2);
        assert!(!owners.acknowledge(0, first, &low_water, 2), "once");
    }

    #[test]
    fn a_lost_claim_changes_nothing_and_attempts_are_kept() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        let stopped = mine(owners.claim(0, 1, 2, &low_water));
        assert!(!owners.release_of_dead(0, 7), "another member's death");
        assert!(owners.release_of_dead(0, 1));
        let next = mine(owners.claim(0, 2, 2, &low_water));
        assert_eq!(next.attempts, 2);
        assert!(!owners.release(0, stopped), "the stopped member goes on too late");
        assert!(owners.release(0, next));
        assert!(matches!(owners.claim(0, 3, 2, &low_water), Claim::Exhausted(_)));
    }

    #[test]
    fn a_quick_look_says_what_a_claim_finds() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let (low_water, sequence) = (AtomicU64::new(16), 16);
        let mut untouched = 0;
        for state in 0..=4 {
            for lap in [0, 1, 2, 3, 4, 5, LAP_MASK as u32] {
                for attempts in [0, 1, 2, 3] {
                    let before = OwnerWord { state, member: 7, nonce: u16::MAX, attempts, lap };
                    memory[0].store(before.pack(), Ordering::Relaxed);
                    let look = owners.quick_look(sequence);
                    let claim = owners.claim(sequence, 1, 3, &low_water);
                    match look {
                        QuickLook::Taken => assert_eq!(claim, Claim::Taken, "{before:?}"),
                        QuickLook::Unclear => {
                            assert!(lap != 2 && (lap != 3 || state == super::state::RELEASED), "{before:?}")
                        }
                        QuickLook::Untouched(word) => {
                            untouched += 1;
                            assert_eq!(owners.claim_untouched(sequence, 1, word), None, "claimed since");
                            memory[0].store(before.pack(), Ordering::Relaxed);
                            let mine = owners.claim_untouched(sequence, 1, word);
                            assert_eq!(mine.map(Claim::Mine), Some(claim), "{before:?}");
                        }
                    }
                }
            }
        }
        assert_eq!(untouched, 4 + 5 * 4, "new in this lap, and whatever the lap before has left");
    }

    #[test]
    fn a_step_stops_where_the_next_message_is_parked_or_done_and_the_walk_does_not() {
        let entry = ParkedEntry { index: 3, incarnation: 9 };
        for state in 0..=4 {
            for lap in [0, 1, 2, 3, LAP_MASK as u32] {
                let memory = memory();
                let owners = Owners::attach(&memory).unwrap();
                let low_water = AtomicU64::new(0);
                let first = mine(owners.claim(0, 1, 3, &low_water));
                let next = OwnerWord { state, member: 1, nonce: 1, attempts: 1, lap };
                let next = if state == super::state::PARKED { next.parked(entry) } else { next };
                memory[1].store(next.pack(), Ordering::Relaxed);
                let is_in_the_way = lap == 1 && state >= super::state::PARKED;
                assert!(owners.finish(0, first));
                assert_eq!(owners.step_over(0, &low_water), !is_in_the_way, "{next:?}");
                assert_eq!(low_water.load(Ordering::Relaxed), u64::from(!is_in_the_way));
                assert!(!owners.step_over(0, &low_water) || is_in_the_way, "once");
            }
        }
        // And together: the walk makes the entry valid that the word names.
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        let (first, second) =
            (mine(owners.claim(0, 1, 3, &low_water)), mine(owners.claim(1, 1, 3, &low_water)));
        assert!(owners.park(1, second, entry));
        assert!(owners.acknowledge_with(0, first, &low_water, 8, |sequence, parked| {
            owners.finish_parked(sequence, parked)
        }));
        assert_eq!(low_water.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_word_of_the_lap_before_is_free() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        for sequence in 0..40 {
            let word = mine(owners.claim(sequence, 5, 1, &low_water));
            assert_eq!(word.attempts, 1);
            assert!(owners.acknowledge(sequence, word, &low_water, sequence + 1));
            assert_eq!(low_water.load(Ordering::Relaxed), sequence + 1);
        }
    }

    #[test]
    fn a_claim_that_comes_a_lap_too_late_takes_nothing() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        for sequence in 0..8 {
            let word = mine(owners.claim(sequence, 1, 3, &low_water));
            assert!(owners.acknowledge(sequence, word, &low_water, 8));
        }
        let of_next_lap = mine(owners.claim(8, 1, 3, &low_water));
        assert_eq!(
            owners.claim(0, 2, 3, &low_water),
            Claim::Taken,
            "0 was finished while this member was stopped"
        );
        assert!(
            owners.park(8, of_next_lap, ParkedEntry { index: 5, incarnation: 0 }),
            "the claim of 8 is untouched"
        );
    }

    #[test]
    fn words_of_any_age_are_free_to_a_group_that_was_away() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        for stale in [1, 2, 1000, LAP_MASK / 2, LAP_MASK / 2 + 1, LAP_MASK - 1] {
            let sequence = 8 * 5_000;
            let low_water = AtomicU64::new(sequence);
            let lap = ((5_001 - stale as i64) as u64 & LAP_MASK) as u32;
            let word = OwnerWord { state: state::DONE, member: 3, nonce: 7, attempts: 2, lap };
            memory[0].store(word.pack(), Ordering::Relaxed);
            let claimed = mine(owners.claim(sequence, 2, 3, &low_water));
            assert_eq!((claimed.attempts, claimed.lap), (1, 5_001), "{stale} laps old");
        }
    }

    #[test]
    fn a_walk_that_was_overtaken_goes_on_where_the_others_are() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(3);
        for sequence in [3, 4] {
            let word = mine(owners.claim(sequence, 1, 3, &AtomicU64::new(0)));
            assert!(owners.acknowledge(sequence, word, &AtomicU64::new(0), 5));
        }
        assert_eq!(owners.walk(&low_water, 5), 5);
        assert_eq!(owners.walk(&low_water, 4), 5, "an end that is older than the cursor");
        low_water.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(owners.walk(&low_water, 5), u64::MAX, "a corrupt cursor ends the walk");
    }

    #[test]
    fn a_parked_message_holds_low_water_until_it_is_done() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        let word = mine(owners.claim(0, 1, 3, &low_water));
        let entry = ParkedEntry { index: 9, incarnation: 700 };
        assert!(owners.park(0, word, entry));
        assert_eq!(owners.walk(&low_water, 1), 0);
        let parked = owners.look(0);
        assert_eq!((parked.state, parked.parked_entry()), (state::PARKED, entry));
        assert_eq!(owners.walk_with(&low_water, 1, |_, _| true), 0, "it says so and has done nothing");
        let next = mine(owners.claim(1, 2, 3, &low_water));
        assert!(owners.acknowledge_with(1, next, &low_water, 2, |sequence, seen| {
            assert_eq!((sequence, seen), (0, parked));
            owners.finish_parked(sequence, seen)
        }));
        assert_eq!(low_water.load(Ordering::Relaxed), 2, "over both");
        assert!(!owners.finish_parked(0, parked), "once");
    }

    #[test]
    fn who_asks_for_more_time_has_another_word() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        let seen = mine(owners.claim(0, 1, 3, &low_water));
        let longer = owners.extend(0, seen).unwrap();
        assert_eq!(longer.attempts, seen.attempts);
        assert!(!owners.release(0, seen), "an observer that saw the word before");
        assert!(owners.extend(0, seen).is_none());
        assert!(owners.release(0, longer), "an observer that saw this one long enough");
        assert!(!owners.acknowledge(0, longer, &low_water, 1), "too late");
    }

    #[test]
    fn a_message_that_is_worn_out_is_claimed_without_counting() {
        let memory = memory();
        let owners = Owners::attach(&memory).unwrap();
        let low_water = AtomicU64::new(0);
        let first = mine(owners.claim(0, 1, 1, &low_water));
        assert_eq!(owners.claim_exhausted(0, first, 2), None, "in hand");
        assert!(owners.release(0, first));
        let Claim::Exhausted(seen) = owners.claim(0, 2, 1, &low_water) else { panic!("worn out") };
        let last = owners.claim_exhausted(0, seen, 2).unwrap();
        assert_eq!((last.attempts, last.member), (1, 2));
        assert_eq!(owners.claim_exhausted(0, seen, 3), None, "one of them");
        assert!(owners.release_of_dead(0, 2), "it died before it parked the message");
        assert!(matches!(owners.claim(0, 3, 1, &low_water), Claim::Exhausted(again) if again.attempts == 1));
    }
}
