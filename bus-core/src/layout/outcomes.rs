//! The file `topics/<name>/outcomes-<entry>`: what became of messages that a group finished without handling them. Written by
//! members of that group, and by whoever purges or replays its dead letters.
//!
//! One page at first. The records come behind it when the first one is to be written.

use super::{PAGE_BYTES, Preamble};
use crate::limits::LANES_MAX;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0C";

/// Byte offsets in the file's first page.
pub mod at {
    /// Records of each lane; a power of two.
    pub const RECORDS: usize = 32;
    /// [`super::mark`]. Bits are only ever set.
    pub const MARKS: usize = 64;
    /// One word a lane: messages before it may have been finished without a record, for lack of memory. Only grows.
    pub const LOST: usize = 128;
}

/// Bits of the word [`at::MARKS`], each set before the first time that it speaks of.
pub mod mark {
    /// A message of the group has been put aside: it may have an aside store.
    pub const ASIDE: u64 = 1;
    /// The records are there.
    pub const RECORDS: u64 = 2;
    /// A message has been finished without a record: [`super::at::LOST`] says how far.
    pub const LOST: u64 = 4;
}

/// Fewest records of a lane.
pub const RECORDS_MIN: u32 = 64;
/// Most: 32 KiB a lane. A message's record stands until as many have been published after it.
pub const RECORDS_MAX: u32 = 4_096;

/// Records of a lane with so many slots.
pub const fn records(capacity: u32) -> usize {
    let records = if capacity < RECORDS_MIN { RECORDS_MIN } else { capacity };
    if records > RECORDS_MAX { RECORDS_MAX as usize } else { records as usize }
}

/// Byte offset of a lane's word [`at::LOST`].
pub const fn lost(lane: usize) -> usize {
    at::LOST + lane * 8
}

/// Byte offset of a lane's records.
pub const fn lane(lane: usize, records: usize) -> usize {
    PAGE_BYTES as usize + lane * records * 8
}

/// Bytes of the file with its records.
pub const fn footprint_bytes(lanes: usize, records: usize) -> u64 {
    (lane(lanes, records) as u64).next_multiple_of(PAGE_BYTES)
}

const _: () = assert!(size_of::<Preamble>() <= at::RECORDS);
const _: () = assert!(lost(LANES_MAX) <= PAGE_BYTES as usize);
const _: () = assert!(RECORDS_MIN.is_power_of_two() && RECORDS_MAX.is_power_of_two());
