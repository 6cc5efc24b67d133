//! The 64 bytes between header and payload of messages that say more of themselves than the header has room for.
//!
//! ```text
//! byte  0..16   correlation: what belongs together, 0 none
//!       16..24  cause: epoch of the topic, 0 none
//!       24..32  cause: sequence (56 bits), lane (8 bits)
//!       32..40  reply: where to answer, or which request this answers; 0 neither
//!       40..48  expiry, CLOCK_MONOTONIC ns, 0 never
//!       48..50  hops: how many causes lie behind it
//!       50..64  zero
//! ```
//!
//! Written and read like a payload: by its producer before the message is published, by readers afterwards.

use crate::holder::Holder;
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
    /// A [`Reply`], or 0.
    reply: u64,
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

    /// Where to answer, or what is answered. `None` also for what no process ever writes there.
    pub const fn reply(&self) -> Option<Reply> {
        Reply::unpack(self.reply)
    }

    /// Sets it.
    pub const fn set_reply(&mut self, reply: Reply) {
        self.reply = reply.pack();
    }

    /// The same, but for how many causes lie behind it.
    #[must_use]
    pub const fn with_hops(self, hops: u16) -> Self {
        Self { hops, ..self }
    }

    /// The same, but for when its time is over.
    #[must_use]
    pub const fn with_expiry_ns(self, expiry_ns: u64) -> Self {
        Self { expiry_ns, ..self }
    }
}

/// What the word at 32 says: of a request where to answer, of an answer which request it answers and who does.
///
/// ```text
/// bit   0..10         10..24                       24..32   32..64
///       participant   incarnation of participant   flags    serial
/// ```
///
/// The process is the one that asks in a request, and the one that answers in an answer. The serial is the requester's, and comes back
/// with the answer. Whoever reads it checks who that is: any bit pattern may stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The process.
    pub process: Holder,
    /// One of [`Reply::WANTED`] and [`Reply::ANSWER`], and more.
    pub flags: u8,
    /// The requester's number for the request.
    pub serial: u32,
}

impl Reply {
    /// A request: somebody waits for an answer.
    pub const WANTED: u8 = 1;
    /// An answer.
    pub const ANSWER: u8 = 2;
    /// Of an answer: the payload says why there is none.
    pub const ERROR: u8 = 4;

    const fn pack(self) -> u64 {
        self.process.participant as u64 & 0x3ff
            | (self.process.incarnation as u64 & Holder::INCARNATION_MASK) << 10
            | (self.flags as u64) << 24
            | (self.serial as u64) << 32
    }

    const fn unpack(word: u64) -> Option<Self> {
        let this = Self {
            process: Holder {
                participant: word as u16 & 0x3ff,
                incarnation: (word >> 10 & Holder::INCARNATION_MASK) as u16,
            },
            flags: (word >> 24) as u8,
            serial: (word >> 32) as u32,
        };
        match this.flags {
            Self::WANTED | Self::ANSWER => Some(this),
            flags if flags == Self::ANSWER | Self::ERROR => Some(this),
            _ => None,
        }
    }

    /// Does somebody wait for an answer?
    pub const fn is_request(self) -> bool {
        self.flags == Self::WANTED
    }
}

const _: () = assert!(size_of::<Extension>() == EXTENSION_BYTES);
const _: () = assert!(core::mem::offset_of!(Extension, reply) == 32);
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
    fn where_to_answer_survives_and_what_nobody_writes_is_nothing() {
        let process = Holder { participant: 1_022, incarnation: 16_383 };
        for flags in [Reply::WANTED, Reply::ANSWER, Reply::ANSWER | Reply::ERROR] {
            let reply = Reply { process, flags, serial: u32::MAX };
            let mut block = Extension::default();
            assert_eq!(block.reply(), None);
            block.set_reply(reply);
            assert_eq!(block.reply(), Some(reply));
            assert_eq!((block.expiry_ns, block.cause(), block.correlation()), (0, None, None));
        }
        for flags in [0_u64, 3, 4, 5, 7, 8, 9, 0xff] {
            let word = !(0xff_u64 << 24) | flags << 24;
            assert_eq!(Extension { reply: word, ..Extension::default() }.reply(), None, "flags {flags}");
        }
    }

    #[test]
    fn ids_of_two_lanes_are_two_correlations() {
        let id = |lane| MessageId { topic_epoch: 9, lane, sequence: 5 };
        assert_ne!(id(0).as_correlation(), id(1).as_correlation());
    }
}
