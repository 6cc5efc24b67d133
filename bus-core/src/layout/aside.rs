//! The file `topics/<name>/aside-<entry>`: messages that left the ring to be tried again later, and dead letters. Written
//! by members of the group, and by whoever purges its dead letters. [`crate::aside`] has the algorithm.
//!
//! ```text
//! 0        preamble, bound, inline bytes, spill bytes, reserved, counts
//! 4096     entries: record (256 bytes) and inline payload
//! spill    one place an entry for a payload that is larger; sparse, written by `pwrite`, read by `pread`
//! ```
//!
//! The file is mapped as far as the table goes at its bound, and its first [`at::RESERVED`] entries are backed by memory.
//! What lies in the spill places is not mapped: a write that finds no memory is then an error and not a signal.

use super::{EXTENSION_BYTES, LINE_BYTES, Mismatch, PAGE_BYTES, Preamble};
use crate::limits::{ASIDE_ENTRIES_MAX, ASIDE_INLINE_BYTES_MAX, MESSAGE_BYTES_MAX};
use bytemuck::{Pod, Zeroable};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0A";
/// Byte offset of the first entry.
pub const ENTRIES: usize = 4096;
/// Entries that a new file has memory for.
pub const ENTRIES_FIRST: usize = 16;

/// Byte offsets in the file's first page. The first three words are written before the file gets its name.
pub mod at {
    /// Entries that the table may ever have.
    pub const BOUND: usize = 32;
    /// Payload bytes inside an entry.
    pub const INLINE_BYTES: usize = 40;
    /// Bytes of an entry's place behind the table, for a payload that is larger: whole pages.
    pub const SPILL_BYTES: usize = 48;
    /// Entries backed by memory. Only grows.
    pub const RESERVED: usize = 64;
    /// How often a message found no entry (statistics).
    pub const FULL_COUNT: usize = 128;
    /// Dead letters that made room for others (statistics).
    pub const DROPPED_COUNT: usize = 136;
    /// Dead letters; off by as many as processes died between a step and its count, until the next census.
    pub const DEAD_COUNT: usize = 144;
    /// Entries that wait or are in hand; as exact as the dead letters.
    pub const WAITING_COUNT: usize = 152;
}

/// States in an entry's word; [`crate::aside`] draws the machine.
pub mod state {
    /// Nobody's.
    pub const FREE: u8 = 0;
    /// Its holder copies a message into it, or clears away what was in it. It stands for no message.
    pub const FILLING: u8 = 1;
    /// The copy is complete; it counts once it is committed: when the owner word names it, or the cursor has passed.
    pub const STAGED: u8 = 2;
    /// To be handed out again, not before its time.
    pub const WAITING: u8 = 3;
    /// A member has it in hand. May be taken back from one that is slow.
    pub const CLAIMED: u8 = 4;
    /// A dead letter.
    pub const DEAD: u8 = 5;
    /// Its holder writes down why it failed. Ends by its holder's next step or by that one's death only.
    pub const AMENDING: u8 = 6;
    /// A dead letter of which the announcement has been published.
    pub const ANNOUNCED: u8 = 7;
    /// A dead letter that its holder publishes again: nobody else does meanwhile, or takes it away. A dead letter as before
    /// if that one dies.
    pub const REPLAYING: u8 = 8;

    /// Does an entry in this state keep a message, whatever has become of the owner word or the cursor?
    pub const fn is_valid(state: u8) -> bool {
        matches!(state, WAITING | CLAIMED | DEAD | AMENDING | ANNOUNCED | REPLAYING)
    }

    /// Is it a dead letter that nobody is publishing again?
    pub const fn is_dead_and_free(state: u8) -> bool {
        matches!(state, DEAD | ANNOUNCED)
    }

    /// Is it a dead letter, in whoever's hands?
    pub const fn is_dead(state: u8) -> bool {
        matches!(state, DEAD | ANNOUNCED | REPLAYING)
    }
}

/// Bits of an entry's own flags byte.
pub mod flags {
    /// The verdict: committed, it becomes a dead letter and does not wait.
    pub const DEAD: u8 = 1;
}

/// Words of an entry that are read by others than its holder, all of them atomic: see [`Entry`].
pub const ENTRY_WORDS: usize = 8;

/// Indices of those words.
pub mod word {
    /// [`crate::aside::AsideWord`].
    pub const STATE: usize = 0;
    /// Sequence of the message.
    pub const SEQUENCE: usize = 1;
    /// Lane, header flags, type, flags, length.
    pub const DESCRIPTION: usize = 2;
    /// CLOCK_MONOTONIC ns before which it is not handed out.
    pub const NOT_BEFORE_NS: usize = 3;
    /// CLOCK_REALTIME ns of the first failure.
    pub const FIRST_NS: usize = 4;
    /// CLOCK_REALTIME ns of the last failure.
    pub const LAST_NS: usize = 5;
    /// The message's stamp.
    pub const STAMP_NS: usize = 6;
    /// The message's key hash.
    pub const KEY: usize = 7;
}

/// What stands before the payload of an entry.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// [`crate::aside::AsideWord`] with one of [`state`].
    pub state: u64,
    /// Sequence of the message. The topic's epoch, its lane and this are its identity.
    pub sequence: u64,
    /// Lane (8 bits), flags of the header (8), type (8), [`flags`] (8), bytes of the payload (32).
    pub description: u64,
    /// CLOCK_MONOTONIC ns before which it is not handed out.
    pub not_before_ns: u64,
    /// CLOCK_REALTIME ns of the first failure.
    pub first_ns: u64,
    /// CLOCK_REALTIME ns of the last failure.
    pub last_ns: u64,
    /// The message's stamp.
    pub stamp_ns: u64,
    /// The message's key hash, or 0.
    pub key: u64,
    /// Service of the member that failed.
    pub service: [u8; 48],
    /// Handler that failed.
    pub handler: [u8; 48],
    /// Error text, cut off.
    pub error: [u8; 96],
}

/// The measures of one file, as its first page states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Entries that the table may ever have.
    pub bound: usize,
    /// Payload bytes inside an entry.
    pub inline_bytes: usize,
    /// Bytes of an entry's place behind the table; 0 where every payload fits into its entry.
    pub spill_bytes: u64,
}

impl Shape {
    /// The measures for a topic whose messages have up to `message_bytes`. `bound` is cut to the limit.
    pub const fn new(bound: usize, message_bytes: u64) -> Self {
        let stored_bytes = message_bytes + EXTENSION_BYTES as u64;
        let lines_bytes = message_bytes.next_multiple_of(LINE_BYTES as u64);
        let inline_max = ASIDE_INLINE_BYTES_MAX as u64;
        let inline_bytes = if lines_bytes < inline_max { lines_bytes } else { inline_max } as usize;
        let spill_bytes =
            if stored_bytes <= inline_bytes as u64 { 0 } else { stored_bytes.next_multiple_of(PAGE_BYTES) };
        let bound = if bound > ASIDE_ENTRIES_MAX as usize { ASIDE_ENTRIES_MAX as usize } else { bound };
        Self { bound, inline_bytes, spill_bytes }
    }

    /// Measures as read from a file.
    ///
    /// # Errors
    /// A measure that no creator writes.
    pub const fn check(bound: u64, inline_bytes: u64, spill_bytes: u64) -> Result<Self, Mismatch> {
        if bound == 0 || bound > ASIDE_ENTRIES_MAX as u64 {
            return Err(Mismatch::Field { name: "bound", value: bound });
        }
        if !inline_bytes.is_multiple_of(LINE_BYTES as u64) || inline_bytes > ASIDE_INLINE_BYTES_MAX as u64 {
            return Err(Mismatch::Field { name: "inline bytes", value: inline_bytes });
        }
        let spill_max = (MESSAGE_BYTES_MAX + EXTENSION_BYTES as u64).next_multiple_of(PAGE_BYTES);
        if !spill_bytes.is_multiple_of(PAGE_BYTES) || spill_bytes > spill_max {
            return Err(Mismatch::Field { name: "spill bytes", value: spill_bytes });
        }
        Ok(Self { bound: bound as usize, inline_bytes: inline_bytes as usize, spill_bytes })
    }

    /// Bytes from one entry to the next.
    pub const fn stride_bytes(&self) -> usize {
        size_of::<Entry>() + self.inline_bytes
    }

    /// Byte offset of an entry.
    pub const fn entry(&self, index: usize) -> usize {
        ENTRIES + index * self.stride_bytes()
    }

    /// Byte offset of an entry's inline payload.
    pub const fn payload(&self, index: usize) -> usize {
        self.entry(index) + size_of::<Entry>()
    }

    /// Bytes of a file with room for `entries`, in whole pages and without spilled payloads.
    pub const fn footprint_bytes(&self, entries: usize) -> u64 {
        (self.entry(entries) as u64).next_multiple_of(PAGE_BYTES)
    }

    /// Entries that so many bytes have room for, at most the bound.
    pub const fn entries_in(&self, bytes: u64) -> usize {
        let fit = bytes.saturating_sub(ENTRIES as u64) as usize / self.stride_bytes();
        if fit < self.bound { fit } else { self.bound }
    }

    /// Entries that a table with memory for `reserved` grows to: twice as many, at most the bound.
    pub const fn grown(&self, reserved: usize) -> usize {
        let doubled = if reserved < ENTRIES_FIRST { ENTRIES_FIRST } else { reserved.saturating_mul(2) };
        if doubled < self.bound { doubled } else { self.bound }
    }

    /// Byte offset of an entry's place for a payload that does not fit into it. The caller has checked the index.
    pub const fn spill(&self, index: usize) -> u64 {
        self.footprint_bytes(self.bound) + index as u64 * self.spill_bytes
    }

    /// Does a stored message of so many bytes, extension included, lie in the entry itself?
    pub const fn is_inline(&self, stored_bytes: u64) -> bool {
        stored_bytes <= self.inline_bytes as u64
    }

    /// Most dead letters: all but a quarter of the entries, so that there is room to try others again.
    pub const fn dead_max(&self) -> usize {
        dead_max(self.bound)
    }
}

/// Most dead letters of a table of `bound` entries.
pub const fn dead_max(bound: usize) -> usize {
    bound - bound / 4
}

const _: () = assert!(size_of::<Entry>() == 256);
const _: () = assert!(core::mem::offset_of!(Entry, state) == word::STATE * 8);
const _: () = assert!(core::mem::offset_of!(Entry, sequence) == word::SEQUENCE * 8);
const _: () = assert!(core::mem::offset_of!(Entry, description) == word::DESCRIPTION * 8);
const _: () = assert!(core::mem::offset_of!(Entry, not_before_ns) == word::NOT_BEFORE_NS * 8);
const _: () = assert!(core::mem::offset_of!(Entry, first_ns) == word::FIRST_NS * 8);
const _: () = assert!(core::mem::offset_of!(Entry, last_ns) == word::LAST_NS * 8);
const _: () = assert!(core::mem::offset_of!(Entry, stamp_ns) == word::STAMP_NS * 8);
const _: () = assert!(core::mem::offset_of!(Entry, key) == word::KEY * 8);
const _: () = assert!(core::mem::offset_of!(Entry, service) == ENTRY_WORDS * 8);
const _: () = assert!(core::mem::offset_of!(Entry, handler) == 112);
const _: () = assert!(core::mem::offset_of!(Entry, error) == 160);
const _: () = assert!(size_of::<Preamble>() <= at::BOUND && at::WAITING_COUNT + 8 <= ENTRIES);
const _: () = assert!(ENTRIES.is_multiple_of(LINE_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_lie_in_their_entries_and_large_ones_behind_the_table() {
        let tiny = Shape::new(100, 40);
        assert_eq!((tiny.inline_bytes, tiny.stride_bytes()), (64, 320));
        assert_eq!(tiny.spill_bytes, 4096, "one with an extension block does not fit");
        let large = Shape::new(1 << 30, 1 << 20);
        assert_eq!((large.bound, large.inline_bytes), (65_536, 256));
        assert_eq!(large.spill_bytes, (1 << 20) + 4096);
        assert!(large.is_inline(256) && !large.is_inline(257));
        assert_eq!(large.entry(1), 4096 + 512);
        assert_eq!(large.payload(1), 4096 + 512 + 256);
        assert_eq!(large.spill(0), 4096 + 65_536 * 512);
        assert_eq!(large.spill(2) - large.spill(0), 2 * large.spill_bytes);
    }

    #[test]
    fn a_table_doubles_to_its_bound() {
        let shape = Shape::new(100, 1000);
        let mut reserved = 0;
        let steps: std::vec::Vec<_> = core::iter::from_fn(|| {
            reserved = shape.grown(reserved);
            Some(reserved)
        })
        .take(5)
        .collect();
        assert_eq!(steps, [16, 32, 64, 100, 100]);
        for entries in [0, 1, 16, 99, 100] {
            let bytes = shape.footprint_bytes(entries);
            assert!(shape.entries_in(bytes) >= entries && bytes.is_multiple_of(4096));
        }
        assert_eq!(shape.entries_in(u64::MAX), 100);
        assert_eq!(shape.dead_max(), 75);
    }

    #[test]
    fn measures_that_nobody_writes_are_refused() {
        let shape = Shape::new(100, 1000);
        let good = Shape::check(100, shape.inline_bytes as u64, shape.spill_bytes);
        assert_eq!(good, Ok(shape));
        for (bound, inline, spill) in
            [(0, 64, 0), (65_537, 64, 0), (1, 63, 0), (1, 320, 0), (1, 64, 1), (1, 64, 1 << 62)]
        {
            assert!(Shape::check(bound, inline, spill).is_err(), "{bound} {inline} {spill}");
        }
    }
}
