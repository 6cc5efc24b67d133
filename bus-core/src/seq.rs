//! Sequence numbers: the position of a message in its lane, counted from 0.
//!
//! Two sequences are compared by their signed distance. A reader may hold a gate that is newer than the tail it
//! read; an unsigned `tail - gate` would then be enormous and a producer would wait for ever.

/// How far `a` is ahead of `b`; negative when it is behind.
#[inline]
pub const fn distance(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

/// The later of two sequences.
#[inline]
pub const fn later(a: u64, b: u64) -> u64 {
    if distance(a, b) > 0 { a } else { b }
}

/// The earlier of two sequences.
#[inline]
pub const fn earlier(a: u64, b: u64) -> u64 {
    if distance(a, b) < 0 { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_gate_is_a_negative_distance_not_a_huge_one() {
        assert_eq!(distance(5, 9), -4);
        assert_eq!(distance(0, u64::MAX), 1);
        assert_eq!(later(u64::MAX, 1), 1);
        assert_eq!(earlier(u64::MAX, 1), u64::MAX);
    }
}
