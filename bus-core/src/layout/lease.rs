//! A file `leases/<participant>.<incarnation>`: what a process says of itself. Written by that process alone, read by whoever looks.

/// What the file begins with. One that does not says nothing: its process may be in all topics, and tells nothing of itself.
pub const HEAD: [u8; 8] = *b"lease 2\n";
/// CLOCK_MONOTONIC ns at which the process last went to sleep after it had received something, or set its status; 0 never.
pub const BEAT: usize = 8;
/// 1 once it has begun to leave the bus in an orderly way.
pub const LEFT: usize = 16;
/// Its status: [`check`] of what follows up to [`LIST`], when it was set (CLOCK_MONOTONIC ns), length, text. All zero is none.
pub const STATUS: usize = 24;
/// Bytes of a status at most.
pub const STATUS_BYTES_MAX: usize = 200;
/// From here on the names of topics, each with a line's end.
pub const LIST: usize = 256;

/// Offsets inside of a status.
pub mod in_status {
    /// When it was set.
    pub const SET: usize = 8;
    /// Bytes of the text.
    pub const LENGTH: usize = 16;
    /// The text.
    pub const TEXT: usize = 24;
}

/// Tells a whole status from one that is being changed. Never 0.
pub fn check(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step) | 1
}

const _: () = assert!(STATUS + in_status::TEXT + STATUS_BYTES_MAX <= LIST);
