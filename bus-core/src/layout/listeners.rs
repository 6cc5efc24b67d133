//! The file `listeners`: consumers that wait on many topics through one bell. Written by all.
//!
//! An entry's pages are reserved by who claims it; the file grows, and is mapped at its bound.

use super::{LINE_BYTES, PAGE_BYTES, Preamble};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0L";
/// Bytes of the file of a new bus.
pub const FILE_BYTES_FIRST: u64 = PAGE_BYTES;
/// Bytes of an entry: a page of words and a page of bits.
pub const ENTRY_BYTES: usize = 2 * PAGE_BYTES as usize;
/// Words of bits, one bit a topic.
pub const READY_WORDS: usize = PAGE_BYTES as usize / 8;
/// Words that say which of those are not zero.
pub const SUMMARY_WORDS: usize = READY_WORDS / 64;

/// Byte offsets in the file.
pub mod at {
    /// Entries that are backed by memory. Grows.
    pub const RESERVED: usize = 64;
    /// First entry.
    pub const ENTRIES: usize = 4096;
}

/// Byte offsets in an entry. What publishers store to is not on the line that tells them whose the entry is.
pub mod in_entry {
    /// [`crate::holder::HolderWord`] ([`super::state`]).
    pub const STATE: usize = 0;
    /// See [`super::flags`].
    pub const FLAGS: usize = 8;
    /// Its bell (u32), see [`crate::doorbell`].
    pub const BELL: usize = 64;
    /// Which summary words are not zero, and [`crate::listener::TOPICS`].
    pub const TOP: usize = 128;
    /// Which words of bits are not zero.
    pub const SUMMARY: usize = 192;
    /// One bit a topic: something may have come there.
    pub const READY: usize = 4096;
}

/// States of an entry.
pub mod state {
    /// Nobody has it.
    pub const FREE: u8 = 0;
    /// A consumer has it.
    pub const LIVE: u8 = 1;
}

/// Flags of an entry.
pub mod flags {
    /// Ringing its bell writes a byte into `pipes/<entry>.<tag>` as well.
    pub const PIPE: u64 = 1;
}

/// Byte offset of entry `index`.
pub const fn entry(index: usize) -> usize {
    at::ENTRIES + index * ENTRY_BYTES
}

/// Bytes of the file with room for `entries`.
pub const fn footprint_bytes(entries: usize) -> u64 {
    entry(entries) as u64
}

const _: () = assert!(size_of::<Preamble>() <= at::RESERVED);
const _: () = assert!(SUMMARY_WORDS == 8 && READY_WORDS * 64 == crate::limits::LISTENER_TOPICS_MAX as usize);
const _: () = assert!(in_entry::SUMMARY + SUMMARY_WORDS * 8 <= in_entry::READY);
const _: () = assert!(in_entry::BELL / LINE_BYTES != in_entry::STATE / LINE_BYTES);
const _: () = assert!(in_entry::READY + READY_WORDS * 8 == ENTRY_BYTES);
