//! The 32 bytes in front of every payload: four words, written by the producer only.
//!
//! ```text
//! word  content
//! 0     publication: see below
//! 1     length (0..32) | producer entry (32..42) | low bits of its incarnation (42..48) | type (48..56) | flags (56..64)
//! 2     stamp: CLOCK_MONOTONIC nanoseconds when publishing began, 0 where the topic has no stamps
//! 3     reference: hash of the key, or 0; in a slot with flag ARENA the number of the cell, whose own header has the hash
//! ```
//!
//! In a slot of a one-producer lane the publication word is `sequence + 1`, or [`WRITING`]. In a cell it is
//! the tag that [`cell_tag`] makes: low halves of the sequence and of the position that the cell has in its
//! segment, so that one load tells a reader of a reused cell both that the message is the one it looked for and
//! that it has not been overwritten (see [`crate::arena`]).

use crate::sync::{AtomicU64, Ordering};
use bytemuck::{Pod, Zeroable};

/// Words of a header.
pub const HEADER_WORDS: usize = 4;
/// Bytes of a header; payloads begin 16-byte aligned behind it.
pub const HEADER_BYTES: usize = 32;
/// Bytes of the extension block behind headers that carry its flag.
pub const EXTENSION_LEN: u64 = crate::layout::EXTENSION_BYTES as u64;
/// Publication word of a slot that is being written. No sequence reaches it.
pub const WRITING: u64 = 1 << 63;

/// Bits of the header's flags byte.
pub mod flags {
    /// The slot carries a cell number; header and payload are in that cell of the producer's arena.
    pub const ARENA: u8 = 1;
    /// An extension block (see [`crate::layout::EXTENSION_BYTES`]) stands between header and payload.
    pub const EXTENSION: u8 = 1 << 1;
    /// Published again from a dead letter.
    pub const REPLAYED: u8 = 1 << 2;
    /// Withdrawn: readers skip and count it.
    pub const TOMBSTONE: u8 = 1 << 3;
}

/// Type number of a payload that is plain bytes.
pub const TYPE_BYTES: u8 = 255;

/// What a header says, apart from its publication word.
///
/// Its fields lie as they do in the words, so that it is loaded and stored as words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Bytes of the payload, without header and extension.
    pub len_bytes: u32,
    /// Producer entry of the topic and low bits of its incarnation: see [`producer_mark`].
    pub producer: u16,
    /// Index into the topic's type table, or [`TYPE_BYTES`].
    pub kind: u8,
    /// See [`flags`].
    pub flags: u8,
    /// CLOCK_MONOTONIC nanoseconds, or 0.
    pub stamp_ns: u64,
    /// Cell number or key hash, by the flags.
    pub reference: u64,
}

impl Header {
    /// Bytes of the extension block that stands before its payload.
    #[inline]
    pub const fn extension_bytes(&self) -> usize {
        if self.flags & flags::EXTENSION != 0 { EXTENSION_LEN as usize } else { 0 }
    }

    /// Word 1 as it lies in memory.
    #[inline]
    pub fn description(self) -> u64 {
        let [description, _, _]: [u64; HEADER_WORDS - 1] = bytemuck::cast(self);
        description
    }

    /// Stores all words but the publication word.
    ///
    /// Relaxed: readers see these words only through the publication word (slot) or the slot word (cell), whose
    /// Release store follows.
    #[inline]
    pub fn store(self, words: &[AtomicU64]) {
        let words = &words[..HEADER_WORDS];
        let [description, stamp, reference]: [u64; HEADER_WORDS - 1] = bytemuck::cast(self);
        words[1].store(description, Ordering::Relaxed);
        words[2].store(stamp, Ordering::Relaxed);
        words[3].store(reference, Ordering::Relaxed);
    }

    /// Loads all words but the publication word. The caller has acquired the publication.
    #[inline]
    pub fn load(words: &[AtomicU64]) -> Self {
        let words = &words[..HEADER_WORDS];
        Self::from_words([
            words[1].load(Ordering::Relaxed),
            words[2].load(Ordering::Relaxed),
            words[3].load(Ordering::Relaxed),
        ])
    }

    /// What words 1 to 3 say.
    #[inline]
    pub fn from_words(words: [u64; HEADER_WORDS - 1]) -> Self {
        bytemuck::cast(words)
    }
}

// The words are described by their bits, which is this order of bytes; the preamble of every file says the machine's.
#[cfg(target_endian = "big")]
compile_error!("shmbus knows little-endian machines only");

/// What a header says of its producer: the entry, and six bits of the entry's incarnation. In a one-producer lane a
/// successor publishes while messages of its predecessor are unread; the bits tell whose arena a slot refers to.
#[inline]
pub const fn producer_mark(entry: u16, tag: u32) -> u16 {
    (entry & 0x3ff) | ((tag as u16) << 10)
}

/// The producer entry in such a mark.
#[inline]
pub const fn producer_entry(mark: u16) -> u16 {
    mark & 0x3ff
}

/// The latest incarnation, not after `current`, that such a mark can mean.
#[inline]
pub const fn producer_tag(mark: u16, current: u32) -> u32 {
    let back = current.wrapping_sub((mark >> 10) as u32) & 0x3f;
    current.wrapping_sub(back)
}

/// Publication word of a cell that begins `granule` granules after its segment's first use.
#[inline]
pub const fn cell_tag(sequence: u64, granule: u32) -> u64 {
    (sequence.wrapping_add(1) & 0xffff_ffff) | (granule as u64) << 32
}

/// Does this publication word of a cell name `sequence`?
#[inline]
pub const fn tag_names(tag: u64, sequence: u64) -> bool {
    tag as u32 == sequence.wrapping_add(1) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_memory() {
        let words: [AtomicU64; 4] = Default::default();
        let header = Header {
            len_bytes: u32::MAX,
            producer: 1_023,
            kind: 254,
            flags: 0xff,
            stamp_ns: u64::MAX,
            reference: 77,
        };
        header.store(&words);
        assert_eq!(Header::load(&words), header);
    }

    #[test]
    fn a_mark_tells_the_incarnation_from_its_successors() {
        let mark = producer_mark(1_022, 130);
        assert_eq!(producer_entry(mark), 1_022);
        for later in 0..64 {
            assert_eq!(producer_tag(mark, 130 + later), 130);
        }
    }

    #[test]
    fn a_tag_names_one_sequence() {
        let tag = cell_tag(41, 64);
        assert!(tag_names(tag, 41) && !tag_names(tag, 42));
        assert_eq!(tag >> 32, 64);
        assert!(tag_names(cell_tag(u64::MAX, 0), u64::MAX));
    }
}
