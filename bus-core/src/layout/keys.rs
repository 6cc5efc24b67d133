//! The file `topics/<name>/keys-<entry>`: who has which keys in a keyed group. Written by its members, and by whoever repairs
//! what the dead have left.

use super::{LINE_BYTES, PAGE_BYTES, Preamble};
use crate::limits::{KEYED_MEMBERS_MAX, PARTITIONS};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0K";
/// Byte offset of the generation: raised whenever somebody ought to look who has what.
pub const GENERATION: usize = 64;
/// Byte offset of the word that says for which members the plan is: see [`crate::keyed::Keys::members_mark`]; 0: there is none. Stored by
/// whoever asks for a plan, like the seats that it names.
pub const PLAN: usize = 128;
/// Byte offset of the seats, one line each.
pub const SEATS: usize = 4096;
/// Byte offset of the partitions, one line each.
pub const PARTS: usize = SEATS + KEYED_MEMBERS_MAX as usize * LINE_BYTES;
/// Bytes of the file.
pub const FOOTPRINT_BYTES: u64 = (PARTS + PARTITIONS as usize * LINE_BYTES) as u64;
/// Words of the file.
pub const WORDS: usize = FOOTPRINT_BYTES as usize / 8;

/// States of a seat, which has a [`crate::holder::HolderWord`].
pub mod seat {
    /// Nobody's.
    pub const FREE: u8 = 0;
    /// A member's.
    pub const TAKEN: u8 = 1;
}

/// Words of a seat's line.
pub mod in_seat {
    /// [`crate::holder::HolderWord`].
    pub const HOLDER: usize = 0;
    /// Changes whenever the member does anything. Stored by the member.
    pub const BEAT: usize = 1;
    /// Messages that the member was handed (statistics).
    pub const HANDED: usize = 2;
    /// Of those, how many it said had failed (statistics).
    pub const FAILED: usize = 3;
}

/// Words of a partition's line.
pub mod in_partition {
    /// [`crate::keyed::PartitionWord`].
    pub const WORD: usize = 0;
    /// Messages of it that were handed out (statistics).
    pub const HANDED: usize = 1;
    /// The seat that is to have it, if there is a plan.
    pub const PLANNED: usize = 2;
    /// What [`HANDED`] was when the plan was made.
    pub const COUNTED: usize = 3;
}

/// Index of a word of a seat in the file.
pub const fn seat_word(index: usize, word: usize) -> usize {
    (SEATS + index * LINE_BYTES) / 8 + word
}

/// Index of a word of a partition in the file.
pub const fn partition_word(index: usize, word: usize) -> usize {
    (PARTS + index * LINE_BYTES) / 8 + word
}

const _: () = assert!(size_of::<Preamble>() <= GENERATION);
const _: () = assert!(SEATS == PAGE_BYTES as usize);
const _: () = assert!(FOOTPRINT_BYTES == 36_864);
