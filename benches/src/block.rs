//! The payload of every message that is measured.
#![allow(unsafe_code)]

use bus_shm::payload::Fingerprint;
use rkyv::munge::munge;
use rkyv::rancor::Fallible;
use rkyv::traits::CopyOptimization;
use rkyv::{Archive, Archived, Place, Serialize};

/// Words and nothing else.
#[derive(Debug)]
#[repr(C)]
pub struct Block<const WORDS: usize> {
    /// What [`crate::content::fill`] writes.
    pub words: [u64; WORDS],
}

/// The same as it travels.
#[derive(Debug, rkyv::Portable, rkyv::bytecheck::CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct ArchivedBlock<const WORDS: usize> {
    /// What [`crate::content::check`] reads.
    pub words: Archived<[u64; WORDS]>,
}

impl<const WORDS: usize> Default for Block<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const WORDS: usize> Block<WORDS> {
    /// All words 0.
    #[must_use]
    pub fn new() -> Self {
        Self { words: [0; WORDS] }
    }
}

// By hand: rkyv's derive leaves out, where a type has parameters, that its archive is a plain copy. Types of programs are
// measured, and the bus takes those without parameters alone.
impl<const WORDS: usize> Archive for Block<WORDS> {
    // SAFETY: it is its words, without padding, in both forms, and they lie at the same place in both.
    const COPY_OPTIMIZATION: CopyOptimization<Self> =
        unsafe { CopyOptimization::enable_if(<[u64; WORDS]>::COPY_OPTIMIZATION.is_enabled()) };

    type Archived = ArchivedBlock<WORDS>;
    type Resolver = [(); WORDS];

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        munge!(let ArchivedBlock { words } = out);
        self.words.resolve(resolver, words);
    }
}

impl<const WORDS: usize, S: Fallible + ?Sized> Serialize<S> for Block<WORDS> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        self.words.serialize(serializer)
    }
}

// By hand as well: the bus's macro is for types without parameters.
impl<const WORDS: usize> bus_shm::Message for Block<WORDS> {
    const NAME: &'static str = match WORDS {
        8 => "Block64",
        128 => "Block1024",
        8_192 => "Block65536",
        131_072 => "Block1048576",
        _ => "Block",
    };
    const VERSION: u32 = 1;

    fn fingerprint() -> u64 {
        Fingerprint::new::<Self>(Self::NAME, Self::VERSION)
            .field::<Self, _>(
                "words",
                |block| &block.words,
                core::mem::offset_of!(ArchivedBlock<WORDS>, words),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::rancor::Error;

    #[test]
    fn its_archive_is_a_plain_copy() {
        let block = Block::<8> { words: [1, 2, 3, 4, 5, 6, 7, u64::MAX] };
        assert!(<Block<8> as Archive>::COPY_OPTIMIZATION.is_enabled());
        let archive = rkyv::to_bytes::<Error>(&block).unwrap();
        assert_eq!(archive[..], block.words.map(u64::to_le_bytes).concat()[..]);
        let seen = rkyv::access::<ArchivedBlock<8>, Error>(&archive).unwrap();
        assert_eq!(seen.words.map(|word| word.to_native()), block.words);
    }
}
