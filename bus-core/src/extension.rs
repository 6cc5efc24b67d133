//! The 64 bytes between header and payload of messages that say more of themselves than the header has room for.
//!
//! ```text
//! byte  0..16   correlation: what belongs together, 0 none
//!       16..24  cause: epoch of the topic, 0 none
//!       24..32  cause: sequence (56 bits), lane (8 bits)
//!       32..40  zero
//!       40..48  expiry, CLOCK_MONOTONIC ns, 0 never
//!       48..50  hops: how many causes lie behind it
//!       50..64  zero
//! ```
//!
//! Written and read like a payload: by its producer before the message is published, by readers afterwards.

use crate::layout::EXTENSION_BYTES;
use bytemuck::{Pod, Zeroable};

/// Bits of a sequence in the name of a message.
const SEQUENCE_BITS: u32 = 56;

/// A message by its topic, lane and number: never the same for two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// Epoch of the topic: a random number that it got when it was made.
    pub topic_epoch: u64,
    /// The lane.
    pub lane: u8,
    /// Number in the lane.
    pub sequence: u64,
}

impl MessageId {
    /// As a number that others may use to say which messages belong together.
    pub const fn as_correlation(self) -> u128 {
        (self.topic_epoch as u128) << 64 | self.packed() as u128
    }

    const fn packed(self) -> u64 {
        self.sequence & ((1 << SEQUENCE_BITS) - 1) | (self.lane as u64) << SEQUENCE_BITS
    }
}

/// `<epoch>-<lane>-<sequence>`.
impl core::fmt::Display for MessageId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:016x}-{}-{}", self.topic_epoch, self.lane, self.sequence)
    }
}

/// The block as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Extension {
    correlation: [u64; 2],
    cause_epoch: u64,
    cause_message: u64,
    reserved_key: u64,
    /// CLOCK_MONOTONIC ns after which nobody wants it any more; 0 never.
    pub expiry_ns: u64,
    /// How many causes lie behind it; saturates.
    pub hops: u16,
    reserved: [u8; 14],
}

impl Extension {
    /// What belongs together with this message; none for 0.
    pub fn correlation(&self) -> Option<u128> {
        let [low, high] = self.correlation;
        Some(u128::from(low) | u128::from(high) << 64).filter(|&correlation| correlation != 0)
    }

    /// Sets it.
    pub fn set_correlation(&mut self, correlation: u128) {
        self.correlation = [correlation as u64, (correlation >> 64) as u64];
    }

    /// The message that this one answers, or follows from.
    pub fn cause(&self) -> Option<MessageId> {
        (self.cause_epoch != 0).then_some(MessageId {
            topic_epoch: self.cause_epoch,
            lane: (self.cause_message >> SEQUENCE_BITS) as u8,
            sequence: self.cause_message & ((1 << SEQUENCE_BITS) - 1),
        })
    }

    /// Sets it.
    pub fn set_cause(&mut self, cause: MessageId) {
        (self.cause_epoch, self.cause_message) = (cause.topic_epoch, cause.packed());
    }

    /// The same, but for when its time is over.
    #[must_use]
    pub const fn with_expiry_ns(self, expiry_ns: u64) -> Self {
        Self { expiry_ns, ..self }
    }
}

const _: () = assert!(size_of::<Extension>() == EXTENSION_BYTES);
const _: () = assert!(core::mem::offset_of!(Extension, cause_epoch) == 16);
const _: () = assert!(core::mem::offset_of!(Extension, cause_message) == 24);
const _: () = assert!(core::mem::offset_of!(Extension, expiry_ns) == 40);
const _: () = assert!(core::mem::offset_of!(Extension, hops) == 48);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_not_there() {
        let blank = Extension::default();
        assert_eq!((blank.correlation(), blank.cause(), blank.hops), (None, None, 0));
        assert_eq!(blank.expiry_ns, 0);
    }

    #[test]
    fn what_is_set_survives_memory() {
        let cause = MessageId { topic_epoch: u64::MAX, lane: 3, sequence: (1 << 56) - 1 };
        let mut block = Extension { expiry_ns: 7, hops: 64, ..Extension::default() };
        block.set_cause(cause);
        block.set_correlation(u128::MAX - 1);
        let words: [u64; 8] = bytemuck::cast(block);
        let read: Extension = bytemuck::cast(words);
        assert_eq!((read.cause(), read.correlation(), read.hops), (Some(cause), Some(u128::MAX - 1), 64));
        assert_eq!(read.expiry_ns, 7);
    }

    #[test]
    fn ids_of_two_lanes_are_two_correlations() {
        let id = |lane| MessageId { topic_epoch: 9, lane, sequence: 5 };
        assert_ne!(id(0).as_correlation(), id(1).as_correlation());
    }
}
