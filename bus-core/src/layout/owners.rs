//! The file `topics/<name>/owners-<entry>`: the owner words of a group of many members. Written by its members.

use super::Preamble;
use crate::limits::PARTICIPANTS_MAX;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0O";
/// Byte offset of the counts of attached subscribers, 16 bits for each participant number. Each is changed by its process,
/// and cleared by repair after its death; for people.
pub const MEMBERS: usize = 64;
/// Byte offset of lane 0's words.
pub const WORDS: usize = 4096;

/// Words that hold the counts.
pub const MEMBER_WORDS: usize = (PARTICIPANTS_MAX as usize + 1) / 4;

/// Index of the word with a participant's count, and the bit at which the count begins.
pub const fn member(participant: u16) -> (usize, u32) {
    (participant as usize % (4 * MEMBER_WORDS) / 4, participant as u32 % 4 * 16)
}

/// A participant's count in its word.
pub const fn member_count(word: u64, participant: u16) -> u64 {
    word >> member(participant).1 & 0xffff
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
            let (word, shift) = member(participant);
            assert_eq!(member_count(words[word], participant), 0);
            words[word] += u64::from(participant % 7) << shift;
        }
        for participant in 0..PARTICIPANTS_MAX as u16 {
            assert_eq!(member_count(words[member(participant).0], participant), u64::from(participant % 7));
        }
    }
}
