//! The file `topics/<name>/owners-<entry>`: the owner words of a group of many members. Written by its members.

use super::Preamble;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0O";
/// Byte offset of lane 0's words.
pub const WORDS: usize = 4096;

/// Byte offset of a lane's words.
pub const fn words(lane: usize, capacity: u32) -> usize {
    WORDS + lane * capacity as usize * 8
}

/// Bytes of the file.
pub const fn footprint_bytes(lanes: usize, capacity: u32) -> u64 {
    words(lanes, capacity) as u64
}

const _: () = assert!(size_of::<Preamble>() <= WORDS);
