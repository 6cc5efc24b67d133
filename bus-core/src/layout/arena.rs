//! The file `topics/<name>/arena-<producer>.<tag>-<lane>`: payloads of one producer in one lane. Written by it alone, mapped
//! read-only by everybody else, unlinked when its producer is gone and everything in it is read.

use super::{PAGE_BYTES, Preamble};
use crate::limits::ARENA_SEGMENTS_MAX;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0P";
/// Byte offset of the first segment.
pub const SEGMENTS: usize = PAGE_BYTES as usize;

/// Byte offset of the mark of an arena whose producer was followed by another in a one-producer lane: 0 unset, else the
/// sequence + 1 that gate and oldest kept message must reach before it goes. Stored by whoever finds the arena left.
pub const RETIRED_AT: usize = 32;

/// Byte offset of a segment's limit word: the position up to which its bytes may be overwritten. See [`crate::arena`].
pub const fn limit(segment: usize) -> usize {
    64 + segment * 8
}

const _: () = assert!(size_of::<Preamble>() <= RETIRED_AT && RETIRED_AT + 8 <= limit(0));
const _: () = assert!(limit(ARENA_SEGMENTS_MAX) <= SEGMENTS);
