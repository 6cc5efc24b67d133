//! The file `topics/<name>/owners-<entry>`: the owner words of a group of many members. Written by its members.

use super::Preamble;
use crate::limits::PARTICIPANTS_MAX;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0O";
/// Byte offset of the counts of attached subscribers, 16 bits for each participant number: 10 bits that count, and 6 that
/// tell how often somebody has joined, so that who clears the count of a dead process does not clear that of the next one
/// under its number. Each is changed by its process, by compare-and-swap, and cleared by repair after its death. A group
/// that has said so lets go of the ring while all are 0.
pub const MEMBERS: usize = 64;
/// Byte offset of lane 0's words.
pub const WORDS: usize = 4096;

/// Words that hold the counts.
pub const MEMBER_WORDS: usize = (PARTICIPANTS_MAX as usize + 1) / 4;

/// Index of the word with a participant's count, and the bit at which the count begins.
pub const fn member(participant: u16) -> (usize, u32) {
    (participant as usize % (4 * MEMBER_WORDS) / 4, participant as u32 % 4 * 16)
}

/// Most subscribers of one process that a group can count.
pub const MEMBERS_MAX: u64 = (1 << 10) - 1;
const JOINS_SHIFT: u32 = 10;
const FIELD_MASK: u64 = 0xffff;

/// A participant's count in its word.
pub const fn member_count(word: u64, participant: u16) -> u64 {
    word >> member(participant).1 & MEMBERS_MAX
}

const fn with_field(word: u64, participant: u16, field: u64) -> u64 {
    let (_, shift) = member(participant);
    word & !(FIELD_MASK << shift) | (field & FIELD_MASK) << shift
}

/// The word after one more has joined; `None` if there are as many as can be counted.
pub const fn with_member(word: u64, participant: u16) -> Option<u64> {
    let count = member_count(word, participant);
    if count == MEMBERS_MAX {
        return None;
    }
    let joins = (word >> member(participant).1 >> JOINS_SHIFT).wrapping_add(1);
    Some(with_field(word, participant, (count + 1) | (joins << JOINS_SHIFT)))
}

/// The word after one has left; as it was if none was counted.
pub const fn without_member(word: u64, participant: u16) -> u64 {
    let field = word >> member(participant).1 & FIELD_MASK;
    if field & MEMBERS_MAX == 0 { word } else { with_field(word, participant, field - 1) }
}

/// The word after the death of the process.
pub const fn without_members(word: u64, participant: u16) -> u64 {
    let field = word >> member(participant).1 & FIELD_MASK;
    with_field(word, participant, field & !MEMBERS_MAX)
}

/// Byte offset of a lane's words.
pub const fn words(lane: usize, capacity: u32) -> usize {
    WORDS + lane * capacity as usize * 8
}

/// Bytes of the file.
pub const fn footprint_bytes(lanes: usize, capacity: u32) -> u64 {
    words(lanes, capacity) as u64
}

const _: () = assert!(size_of::<Preamble>() <= MEMBERS);
const _: () = assert!(MEMBERS + MEMBER_WORDS * 8 <= WORDS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_participant_has_a_count_of_its_own() {
        let mut words = [0_u64; MEMBER_WORDS];
        for participant in 0..PARTICIPANTS_MAX as u16 {
            let word = &mut words[member(participant).0];
            assert_eq!(member_count(*word, participant), 0);
            for _ in 0..participant % 7 {
                *word = with_member(*word, participant).unwrap();
            }
        }
        for participant in 0..PARTICIPANTS_MAX as u16 {
            assert_eq!(member_count(words[member(participant).0], participant), u64::from(participant % 7));
        }
    }

    #[test]
    fn counts_end_at_their_bounds_and_a_new_join_is_another_word() {
        let mut word = !(FIELD_MASK << 16);
        assert_eq!(without_member(word, 1), word, "there is none");
        let empty = word;
        for count in 1..=MEMBERS_MAX {
            word = with_member(word, 1).unwrap();
            assert_eq!(member_count(word, 1), count);
        }
        assert_eq!(with_member(word, 1), None);
        let once = with_member(empty, 1).unwrap();
        let again = with_member(without_members(once, 1), 1).unwrap();
        assert_eq!(member_count(again, 1), 1);
        assert_ne!(once, again, "who has seen the dead one's word does not clear this one");
        assert_eq!(member_count(without_member(again, 1), 1), 0);
        assert_eq!(word | FIELD_MASK << 16, u64::MAX, "the neighbours stay as they are");
    }
}
