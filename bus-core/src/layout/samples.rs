//! The file `topics/<name>/samples`: how far each lane had come at which time. One page, written by the supervisor, and only
//! there on topics whose messages carry no stamps. [`crate::samples`] has the algorithm.

use super::{PAGE_BYTES, Preamble};
use crate::limits::LANES_MAX;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0T";
/// Bytes of the file.
pub const FILE_BYTES: u64 = 4096;
/// Samples of one lane that are kept beside its newest.
pub const KEPT: usize = 124;

/// Byte offsets. The newest samples of all lanes share a line: a topic that rests costs one store a lane and look.
pub mod at {
    /// Newest sample of lane 0.
    pub const NEWEST: usize = 64;
    /// First kept sample of lane 0.
    pub const KEPT: usize = 128;
}

/// Byte offset of a lane's newest sample.
pub const fn newest(lane: usize) -> usize {
    at::NEWEST + lane * 8
}

/// Byte offset of a lane's kept samples, which are in no order.
pub const fn kept(lane: usize) -> usize {
    at::KEPT + lane * KEPT * 8
}

const _: () = assert!(size_of::<Preamble>() <= at::NEWEST);
const _: () = assert!(newest(LANES_MAX) <= at::KEPT);
const _: () = assert!(kept(LANES_MAX) as u64 == FILE_BYTES && FILE_BYTES == PAGE_BYTES);
