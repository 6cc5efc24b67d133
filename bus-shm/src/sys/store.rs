//! Two words in one store. While messages stream, stores are what a publisher waits for: each waits until its line has come over from whoever
//! read it last, in order, and no more than some sixty can wait.
#![allow(unsafe_code)]

/// Stores two adjacent words. No order between them is promised.
///
/// # Safety
/// `to` is valid for writes of two words, and aligned to one.
#[inline(always)]
pub unsafe fn two_words(to: *mut u64, first: u64, second: u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; the store takes any alignment, and every x86_64 processor has it.
    #[allow(unused_unsafe)]
    unsafe {
        use core::arch::x86_64::{_mm_set_epi64x, _mm_storeu_si128};
        _mm_storeu_si128(to.cast(), _mm_set_epi64x(second as i64, first as i64));
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe {
        to.cast::<[u64; 2]>().write([first, second]);
    }
}
