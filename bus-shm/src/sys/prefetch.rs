//! Asking for cache lines before they are needed. Hints only: any address is allowed, and nothing depends on them.
#![allow(unsafe_code)]

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;
/// Words of one: as many slots of a lane of many producers share it.
pub const LINE_WORDS: u64 = (LINE_BYTES / size_of::<u64>()) as u64;

/// Slots of a one-producer lane between the one in hand and the one that is asked for: as many as cover the way of a line from core to
/// core with work. Twice or half as many made no difference.
pub const SLOTS_AHEAD: u64 = 8;

/// Messages of a lane of many producers between the one that a member of a shared group claims and the one whose lines it asks for.
pub const CLAIMS_AHEAD: u64 = 4;

/// Fetches the line of `address` and the next one for reading: a header, and the rest of a short message.
#[inline(always)]
pub fn for_reading(address: *const u8) {
    line_for_reading(address);
    line_for_reading(address.wrapping_add(LINE_BYTES));
}

/// Fetches the line of `address` alone for reading.
#[inline(always)]
pub fn line_for_reading(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on caches.
    #[allow(unused_unsafe)]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Fetches the same for writing, taking them from the core that read it last.
#[inline(always)]
pub fn for_writing(address: *const u8) {
    // Written out, because the compiler turns the intrinsic into a prefetch for reading unless it is told of a processor
    // that has this one; those that lack it ignore it.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on caches.
    unsafe {
        core::arch::asm!(
            "prefetchw [{address}]",
            "prefetchw [{address} + {line}]",
            address = in(reg) address,
            line = const LINE_BYTES,
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Fetches the line of `address` alone for writing.
#[inline(always)]
pub fn line_for_writing(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on caches.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
