//! Keyed groups: all messages of a key go to one member, in order, however many members there are.
//!
//! A keyed group is a shared group ([`crate::owner`]) whose messages belong to partitions, by the hash of their key; one
//! without a key belongs to a partition by its sequence. A member has a seat, and claims messages of the partitions that it has. The word of a
//! partition:
//!
//! ```text
//! bit   0       8..16   16..40        40..64
//!       owned   seat    tag of seat   generation (counts changes of hands)
//! ```
//!
//! ```text
//!         take                          give up, by its member, with nothing of it in hand
//!   FREE ------> OWNED by seat and tag ------> FREE
//!                  |   ^
//!                  +---+ take, by another: the seat is free or taken anew (its member left, or is dead and repaired),
//!                        or its member was silent for `ack_wait`
//! ```
//!
//! Nobody may take a partition of which it has something in hand, left from when it had it before.
//!
//! **Claims.** A member may be stopped between its look at the partition and its claim, and be fenced meanwhile. So the look comes
//! after the claim (`KEYED-CLAIM`): the member claims a message, then sees that the partition's word is still
//! exactly the one with which it took it ([`Keys::confirm`]), and only then hands the message out; else it takes the claim
//! back. Whoever takes a partition takes it first and looks at the claims of its messages afterwards, and takes back those
//! of others. Of the two, one sees the other: either the fenced member finds the partition gone, or its
//! claim is found.
//!
//! **Claims of others.** A member that meets one in a partition of its own takes it back: it is of a former owner. It looks at the
//! message's word first, then sees that the partition is still its own ([`Keys::is_mine`]), and then changes exactly the word that it saw. The other way round a member that does not know yet
//! that it was fenced would take a message from its successor.
//!
//! `tests/src/model/keyed.rs` explores it.
//!
//! **Balance.** Every member counts the seats that are taken by members which are not silent, and its own place among them; that gives each its share
//! ([`share`]) without a word between them. Who has more gives up, who has less takes.
//!
//! Somebody may ask for shares by how busy the partitions are: then each partition's line names the seat that is to have it, and one word
//! says for which members that was meant ([`Keys::members_mark`]). As soon as others are there it means nothing any more. It is a hint: it says who is to take and to give up, and
//! takes nothing from anybody.

mod plan;

pub use plan::spread;

use crate::holder::{Holder, HolderWord};
use crate::layout::keys::{GENERATION, PLAN, WORDS, in_partition, in_seat, partition_word, seat, seat_word};
use crate::limits::{KEYED_MEMBERS_MAX, PARTITIONS};
use crate::sync::{AtomicU64, Ordering, fence_after_swap};

const OWNED: u64 = 1;
const SEAT_TAG_MASK: u32 = (1 << 24) - 1;
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// The word of a partition, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionWord {
    /// Whose it is; `None`: nobody's.
    pub owner: Option<Seat>,
    /// Counts changes of hands, 24 bits, wrapping.
    pub generation: u32,
}

/// A member's seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its index.
    pub index: u8,
    /// Low 24 bits of the tag of its word: which of those who have had it.
    pub tag: u32,
}

impl Seat {
    /// The seat with this word.
    pub const fn new(index: u8, word: HolderWord) -> Self {
        Self { index, tag: word.tag & SEAT_TAG_MASK }
    }
}

impl PartitionWord {
    /// The word as it lies in memory.
    #[inline]
    pub const fn pack(self) -> u64 {
        let owner = match self.owner {
            Some(seat) => OWNED | (seat.index as u64) << 8 | ((seat.tag & SEAT_TAG_MASK) as u64) << 16,
            None => 0,
        };
        owner | (self.generation as u64) << 40
    }

    /// Reads a word from memory; every bit pattern is a word.
    #[inline]
    pub const fn unpack(word: u64) -> Self {
        let seat = Seat { index: (word >> 8) as u8, tag: (word >> 16) as u32 & SEAT_TAG_MASK };
        let owner = if word & OWNED != 0 { Some(seat) } else { None };
        Self { owner, generation: (word >> 40) as u32 }
    }

    const fn next(self, owner: Option<Seat>) -> Self {
        Self { owner, generation: self.generation.wrapping_add(1) & GENERATION_MASK }
    }
}

/// Spreads what may have little in its upper bits.
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (value ^ value >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The partition of a message with this hash of its key, or, where that is 0, of this sequence.
#[inline]
pub const fn partition_of(key: u64, sequence: u64) -> usize {
    let value = if key != 0 { key } else { sequence };
    (mix(value) >> 32) as usize % PARTITIONS as usize
}

/// How many partitions the member in this place among `members` is to have.
pub const fn share(place: usize, members: usize) -> usize {
    let all = PARTITIONS as usize;
    if members == 0 {
        return all;
    }
    all / members + (place < all % members) as usize
}

/// The words of one keyed group.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Keys<'a> {
    /// Views the words of the whole file. `None` if they are fewer.
    pub fn attach(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() >= WORDS).then_some(Self { words })
    }

    // ---------------------------------------------------------------- the generation

    /// Changes whenever somebody ought to look who has what.
    #[inline]
    pub fn generation(&self) -> u64 {
        // Acquire: pairs with the Release of `raise_generation`; who sees it sees the change.
        self.words[GENERATION / 8].load(Ordering::Acquire)
    }

    /// Says that something has changed. The caller rings afterwards.
    pub fn raise_generation(&self) {
        self.words[GENERATION / 8].fetch_add(1, Ordering::AcqRel);
    }

    // ---------------------------------------------------------------- seats

    fn holder(&self, index: u8) -> &'a AtomicU64 {
        &self.words[seat_word(index as usize, in_seat::HOLDER)]
    }

    /// Who has a seat. Acquire: pairs with the change of it.
    pub fn seat(&self, index: u8) -> HolderWord {
        HolderWord::unpack(self.holder(index).load(Ordering::Acquire))
    }

    /// Is it taken?
    pub fn is_taken(&self, index: u8) -> bool {
        self.seat(index).state == seat::TAKEN
    }

    /// All seats that are taken.
    pub fn taken(&self) -> impl Iterator<Item = (u8, HolderWord)> + use<'a> {
        let keys = *self;
        (0..KEYED_MEMBERS_MAX as usize)
            .map(move |index| (index as u8, keys.seat(index as u8)))
            .filter(|(_, word)| word.state == seat::TAKEN)
    }

    /// Takes a free seat. `None`: all are taken.
    pub fn sit(&self, me: Holder) -> Option<(u8, HolderWord)> {
        for index in 0..KEYED_MEMBERS_MAX as usize {
            let index = index as u8;
            let seen = self.seat(index);
            if seen.state != seat::FREE {
                continue;
            }
            let mine = seen.next(seat::TAKEN, me);
            // AcqRel: whoever sees the seat taken, or freed before, sees what led to it.
            let changed = self.holder(index).compare_exchange(
                seen.pack(),
                mine.pack(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if changed.is_ok() {
                for word in [in_seat::BEAT, in_seat::HANDED, in_seat::FAILED] {
                    self.seat_counter(index, word).store(0, Ordering::Relaxed);
                }
                return Some((index, mine));
            }
        }
        None
    }

    /// Frees a seat, as it was `seen`: its member leaves with nothing in hand, or is proven dead. What it had may be taken. False: it had
    /// changed.
    pub fn rise(&self, index: u8, seen: HolderWord) -> bool {
        let free = seen.with_state(seat::FREE);
        seen.state == seat::TAKEN
            && self
                .holder(index)
                .compare_exchange(seen.pack(), free.pack(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// A number that is another when other members have seats; never 0.
    pub fn members_mark(&self) -> u64 {
        let fold = |mark: u64, (index, word): (u8, HolderWord)| {
            mix(mark ^ u64::from(index) << 32 ^ u64::from(word.tag)).rotate_left(7)
        };
        self.taken().fold(1, fold) | 1
    }

    /// A count of a seat: one of [`in_seat`].
    pub fn seat_counter(&self, index: u8, which: usize) -> &'a AtomicU64 {
        &self.words[seat_word(index as usize, which)]
    }

    // ---------------------------------------------------------------- partitions

    fn word(&self, partition: usize) -> &'a AtomicU64 {
        &self.words[partition_word(partition % PARTITIONS as usize, in_partition::WORD)]
    }

    /// Messages of a partition that were handed out.
    pub fn partition_counter(&self, partition: usize) -> &'a AtomicU64 {
        &self.words[partition_word(partition % PARTITIONS as usize, in_partition::HANDED)]
    }

    /// The word of a partition.
    pub fn partition(&self, partition: usize) -> PartitionWord {
        // Acquire: pairs with `take` and `give_up`; who finds it given up sees all that its member did.
        PartitionWord::unpack(self.word(partition).load(Ordering::Acquire))
    }

    /// The same as it lies in memory, for who checks it.
    pub fn partition_raw(&self, partition: usize) -> u64 {
        self.word(partition).load(Ordering::Acquire)
    }

    /// For which members the plan is; 0: there is none.
    pub fn plan_mark(&self) -> u64 {
        // Acquire: pairs with the Release of `set_plan`.
        self.words[PLAN / 8].load(Ordering::Acquire)
    }

    /// The seat that is to have a partition.
    pub fn planned(&self, partition: usize) -> u8 {
        // Relaxed: after the mark; a hint.
        self.words[partition_word(partition % PARTITIONS as usize, in_partition::PLANNED)]
            .load(Ordering::Relaxed) as u8
    }

    /// Says which seat is to have each partition, as long as the members are those of `mark`, and begins to count anew.
    pub fn set_plan(&self, mark: u64, seats: impl Fn(usize) -> u8) {
        let plan = &self.words[PLAN / 8];
        plan.store(0, Ordering::Release);
        for partition in 0..PARTITIONS as usize {
            let word = |which| &self.words[partition_word(partition, which)];
            word(in_partition::PLANNED).store(u64::from(seats(partition)), Ordering::Relaxed);
            let handed = word(in_partition::HANDED).load(Ordering::Relaxed);
            word(in_partition::COUNTED).store(handed, Ordering::Relaxed);
        }
        // Release: pairs with `plan_mark`.
        plan.store(mark, Ordering::Release);
        self.raise_generation();
    }

    /// Messages of a partition that were handed out since the last plan was made.
    pub fn handed_since_plan(&self, partition: usize) -> u64 {
        let word = |which| {
            self.words[partition_word(partition % PARTITIONS as usize, which)].load(Ordering::Relaxed)
        };
        // Whoever set the plan may have been slow.
        word(in_partition::HANDED).saturating_sub(word(in_partition::COUNTED))
    }

    /// Has a partition with this word no owner any more?
    pub fn is_vacant(&self, word: PartitionWord) -> bool {
        word.owner.is_none_or(|owner| {
            let holder = self.seat(owner.index);
            holder.state != seat::TAKEN || Seat::new(owner.index, holder).tag != owner.tag
        })
    }

    /// Takes a partition, as it was `seen`: see [`Partition::take`].
    pub fn take(&self, partition: usize, seen: PartitionWord, me: Seat) -> Option<PartitionWord> {
        Partition(self.word(partition)).take(seen, me)
    }

    /// After a claim: is the partition still the caller's? See [`Partition::confirm`].
    #[inline]
    pub fn confirm(&self, partition: usize, mine: PartitionWord) -> bool {
        Partition(self.word(partition)).confirm(mine)
    }

    /// Is the partition still the caller's, as it took it? Asked between a look at a message's claim by another, and taking it back.
    #[inline]
    pub fn is_mine(&self, partition: usize, mine: PartitionWord) -> bool {
        Partition(self.word(partition)).is_mine(mine)
    }

    /// Gives a partition up, with nothing of it in hand. False: it was taken away.
    pub fn give_up(&self, partition: usize, mine: PartitionWord) -> bool {
        Partition(self.word(partition)).give_up(mine)
    }
}

/// The word of one partition.
#[derive(Clone, Copy)]
pub struct Partition<'a>(pub &'a AtomicU64);

impl Partition<'_> {
    /// Takes it, as it was `seen`. The caller has nothing of it in hand; it is vacant, or its member was silent for too long.
    /// Afterwards the caller looks at the claims of its messages. `None`: it had changed.
    pub fn take(self, seen: PartitionWord, me: Seat) -> Option<PartitionWord> {
        let mine = seen.next(Some(me));
        // AcqRel: Acquire what its last member did, if that one gave it up.
        self.0.compare_exchange(seen.pack(), mine.pack(), Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // KEYED-CLAIM: between this change and the look at the claims. Pairs with the fence in `confirm`: a fenced member that
        // still finds its own word there has made its claim before, and the claim is found.
        fence_after_swap();
        Some(mine)
    }

    /// After a claim: is it still the caller's, as it took it?
    #[inline]
    pub fn confirm(self, mine: PartitionWord) -> bool {
        // KEYED-CLAIM: between the claim, a compare-and-swap, and the look at the partition.
        fence_after_swap();
        self.is_mine(mine)
    }

    /// Is it still the caller's, as it took it?
    #[inline]
    pub fn is_mine(self, mine: PartitionWord) -> bool {
        // Acquire: not after what follows. Not before the look at the claim either, since that is an Acquire.
        self.0.load(Ordering::Acquire) == mine.pack()
    }

    /// Gives it up, with nothing of it in hand. False: it was taken away.
    pub fn give_up(self, mine: PartitionWord) -> bool {
        // AcqRel: Release what was done with its messages to whoever takes it.
        self.0
            .compare_exchange(mine.pack(), mine.next(None).pack(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    const ME: Holder = Holder { participant: 7, incarnation: 3 };

    fn memory() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn every_field_survives_at_its_extremes() {
        for owner in [None, Some(Seat { index: 0, tag: 0 }), Some(Seat { index: 255, tag: SEAT_TAG_MASK })] {
            for generation in [0, 1, GENERATION_MASK] {
                let word = PartitionWord { owner, generation };
                assert_eq!(PartitionWord::unpack(word.pack()), word);
                assert_ne!(word.next(owner), word);
            }
        }
        let last = PartitionWord { owner: None, generation: GENERATION_MASK };
        assert_eq!(last.next(None).generation, 0, "it wraps, and leaves the owner alone");
    }

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for members in 1..=KEYED_MEMBERS_MAX as usize {
            let shares: Vec<_> = (0..members).map(|place| share(place, members)).collect();
            assert_eq!(shares.iter().sum::<usize>(), PARTITIONS as usize);
            assert!(shares[0] - shares[members - 1] <= 1);
        }
    }

    #[test]
    fn keys_and_sequences_spread_over_all_partitions() {
        let mut hits = [0_u32; PARTITIONS as usize];
        for number in 0..256 * u64::from(PARTITIONS) {
            hits[partition_of(0, number)] += 1;
            hits[partition_of(crate::name::key(&std::format!("key-{number}")), 1)] += 1;
        }
        assert!(hits.iter().all(|&hits| (300..800).contains(&hits)), "{hits:?}");
        assert_eq!(partition_of(99, 1), partition_of(99, 2), "the key alone decides");
    }

    #[test]
    fn a_partition_changes_hands_only_as_it_was_seen() {
        let words = memory();
        let keys = Keys::attach(&words).unwrap();
        let (index, word) = keys.sit(ME).unwrap();
        let me = Seat::new(index, word);
        let (other_index, other_word) = keys.sit(Holder { participant: 8, incarnation: 1 }).unwrap();
        let other = Seat::new(other_index, other_word);
        assert_eq!(keys.taken().count(), 2);
        let free = keys.partition(5);
        assert!(keys.is_vacant(free));
        let mine = keys.take(5, free, me).unwrap();
        assert!(keys.take(5, free, other).is_none(), "as it was");
        assert!(keys.confirm(5, mine) && !keys.is_vacant(mine));
        let theirs = keys.take(5, mine, other).unwrap();
        assert!(!keys.confirm(5, mine) && !keys.give_up(5, mine), "fenced");
        assert!(keys.give_up(5, theirs));
        let again = keys.take(5, keys.partition(5), me).unwrap();
        assert_ne!(again, mine, "another generation");
        assert!(keys.rise(index, word) && !keys.rise(index, word));
        assert!(keys.is_vacant(keys.partition(5)));
        let (same, next) = keys.sit(ME).unwrap();
        assert_eq!(same, index);
        assert_ne!(Seat::new(same, next), me);
        assert!(keys.is_vacant(keys.partition(5)), "of the one that had the seat before");
    }

    #[test]
    fn there_are_only_so_many_seats() {
        let words = memory();
        let keys = Keys::attach(&words).unwrap();
        let seats = (0..2 * KEYED_MEMBERS_MAX).map_while(|_| keys.sit(ME)).count();
        assert_eq!(seats, KEYED_MEMBERS_MAX as usize);
        assert!(Keys::attach(&words[1..]).is_none());
    }
}
