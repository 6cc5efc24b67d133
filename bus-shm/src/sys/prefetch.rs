//! Asking for cache lines before they are needed. Hints only: any address is allowed, and nothing depends on them.
#![allow(unsafe_code)]

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;

/// Fetches the line of `address` for writing, taking it from the core that read it last.
#[inline(always)]
pub fn for_writing(address: *const u8) {
    // Written out, because the compiler turns the intrinsic into a prefetch for reading unless it is told of a processor
    // that has this one; those that lack it ignore it.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on caches.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
