//! Copies of memory that other processes may be writing to. A plain copy would promise the compiler that nobody does; atomic loads, which the
//! compiler leaves as they are, take several times as long.
#![allow(unsafe_code)]

use bus_core::sync::{AtomicU64, Ordering};
use core::mem::MaybeUninit;

/// Words that are copied in one go.
const BLOCK_WORDS: usize = 8;

/// Copies `len_bytes`, rounded up to words, into `copy`, in place of what it held. What others store meanwhile may show in part: who
/// needs a whole copy looks afterwards whether it can be one.
///
/// # Panics
/// If there are fewer words.
#[inline]
pub(crate) fn copy_words(words: &[AtomicU64], len_bytes: usize, copy: &mut Vec<u128>) {
    let words = &words[..len_bytes.div_ceil(8)];
    let pairs = words.len().div_ceil(2);
    copy.clear();
    copy.reserve(pairs);
    let room = copy.spare_capacity_mut()[..pairs].as_mut_ptr().cast::<MaybeUninit<u64>>();
    // SAFETY: a pair has room for two words.
    let target = unsafe { core::slice::from_raw_parts_mut(room, 2 * pairs) };
    let (blocks, rest) = words.as_chunks::<BLOCK_WORDS>();
    let (in_blocks, behind) = target.split_at_mut(words.len() - rest.len());
    for (block, to) in blocks.iter().zip(in_blocks.as_chunks_mut::<BLOCK_WORDS>().0) {
        copy_block(block, to);
    }
    let mut rest = rest.iter().map(|word| word.load(Ordering::Relaxed));
    // With an odd number of words half a pair is left over.
    behind.iter_mut().for_each(|to| _ = to.write(rest.next().unwrap_or(0)));
    // SAFETY: each of its words was written above.
    unsafe { copy.set_len(pairs) };
}

/// One block, in four loads and four stores.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn copy_block(block: &[AtomicU64; BLOCK_WORDS], to: &mut [MaybeUninit<u64>; BLOCK_WORDS]) {
    // SAFETY: both are as long as what is loaded and stored, and any alignment will do. Written out, the loads are nobody's business but the
    // machine's, which may return some words as they were before a store of somebody else and some as after it, and keeps loads in order.
    unsafe {
        core::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            from = in(reg) block.as_ptr(),
            to = in(reg) to.as_mut_ptr(),
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// One block, word by word.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
fn copy_block(block: &[AtomicU64; BLOCK_WORDS], to: &mut [MaybeUninit<u64>; BLOCK_WORDS]) {
    for (word, to) in block.iter().zip(to) {
        to.write(word.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_and_what_was_there_is_gone() {
        let words: Vec<AtomicU64> =
            (0..40_u64).map(|index| AtomicU64::new(index.wrapping_mul(0x0123_4567_89ab_cdef) ^ !0)).collect();
        let bytes: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let mut copy = vec![u128::MAX; 3];
        for len_bytes in (0..=320).chain([5, 0, 64]) {
            copy_words(&words, len_bytes, &mut copy);
            let copied = bytemuck::cast_slice::<u128, u8>(&copy);
            let rounded = len_bytes.next_multiple_of(8);
            assert_eq!(copied.len(), len_bytes.next_multiple_of(16));
            assert_eq!(copied[..rounded], bytes[..rounded]);
            assert!(copied[rounded..].iter().all(|byte| *byte == 0), "{len_bytes}");
        }
    }
}
