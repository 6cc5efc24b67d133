//! The file `topics/<name>/ring`: configuration, types, producers, and the slots of every lane. Written by publishers.

use super::{LINE_BYTES, PAGE_BYTES, Preamble};
use crate::limits::{LANES_MAX, TYPES_MAX};
use crate::ring::{mpmc, spsc};
use bytemuck::{Pod, Zeroable};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0R";
/// Messages carry the time at which their publication began.
pub const FLAG_STAMPS: u32 = 1;
/// Publishers have no breakers: who meets a full lane again and again waits again and again.
pub const FLAG_NO_BREAKERS: u32 = 2;
/// Upper half of the flags: how many causes may lie behind a message of the topic, 0 for the default.
pub const HOPS_MAX_SHIFT: u32 = 16;

/// What a full lane does to a publisher: see [`Config::overflow`].
pub mod overflow {
    /// It waits until its deadline.
    pub const WAIT: u32 = 0;
    /// It is told at once.
    pub const FAIL: u32 = 1;
    /// There is none: nobody holds messages back, so that there are no reliable groups.
    pub const NEWEST: u32 = 2;
}

/// Configuration of a topic: written once, before its directory gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Config {
    /// Slots of each lane, a power of two.
    pub capacity: u32,
    /// Lanes, 1 to 4.
    pub lanes: u32,
    /// Producer entries. 1 means that each lane is a one-producer ring.
    pub producers: u32,
    /// Payload bytes in a slot of a one-producer ring.
    pub inline_bytes: u32,
    /// Largest payload.
    pub message_bytes: u64,
    /// Segment 0 of an arena.
    pub arena_first_bytes: u64,
    /// Bound of an arena.
    pub arena_bound_bytes: u64,
    /// Bytes up to which an arena grows for the sake of finished messages.
    pub arena_history_bytes: u64,
    /// See the `FLAG_` constants; the upper half is [`Config::hops_max`].
    pub flags: u32,
    /// What a full lane does to a publisher: one of [`overflow`].
    pub overflow: u32,
}

/// What is written once.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Fixed {
    /// The file's beginning; its epoch is the topic's.
    pub preamble: Preamble,
    /// The configuration.
    pub config: Config,
    /// CLOCK_REALTIME ns of the creation.
    pub created_ns: u64,
    /// Process that asked for the topic.
    pub creator_pid: u32,
    /// Zero.
    pub reserved: u32,
    /// Its service name.
    pub creator_service: [u8; 48],
    /// The topic's name, which is the directory's name too.
    pub name: [u8; 208],
}

/// States of a [`TypeEntry`], a word (u32) that changes by compare-and-swap.
///
/// ```text
/// FREE --claim--> CLAIMED(holder of the role) --entry filled--> COMPLETE
///                     +--another holder of the role--> BURNT
/// ```
pub mod type_state {
    /// Never used.
    pub const FREE: u32 = 0;
    /// In the low 8 bits: a holder of the role fills it; its mark stands in bits 8..24.
    pub const CLAIMED: u32 = 1;
    /// Filled.
    pub const COMPLETE: u32 = 2;
    /// Its filler was superseded and may still store into it: never used.
    pub const BURNT: u32 = 3;

    /// CLAIMED by the holder of this mark.
    pub const fn claimed(mark: u16) -> u32 {
        CLAIMED | (mark as u32) << 8
    }
}

/// A type that the topic accepts. Entries are added at the end, by the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TypeEntry {
    /// Structural fingerprint.
    pub fingerprint: u64,
    /// Version given by the program.
    pub version: u32,
    /// One of [`type_state`].
    pub state: u32,
    /// Name given by the program.
    pub name: [u8; 72],
}

/// Byte offsets of the words that change, and of the tables.
pub mod at {
    /// Type entries in use (u64 word). An entry is complete, or burnt, before it is counted.
    pub const TYPES_COUNT: usize = 448;
    /// Time to live of the topic's messages in nanoseconds, 0 for ever (u64, written once). Needs stamps.
    pub const TTL_NS: usize = 504;
    /// Quota of each producer whose service has none of its own (supervisor): two words of [`super::quota`], messages and bytes.
    pub const QUOTA: usize = 456;
    /// First type entry.
    pub const TYPES: usize = 512;
    /// Quotas of services (supervisor): [`super::QUOTA_SERVICES`] entries.
    pub const SERVICE_QUOTAS: usize = 1920;
    /// First lane block: hint on line 0, gate on line 1, counters on line 2.
    pub const LANES: usize = 2048;
    /// First producer entry.
    pub const PRODUCERS: usize = 4096;
}

/// Services of a topic that can have quotas of their own.
pub const QUOTA_SERVICES: usize = 5;

/// Byte offset of an entry of the quotas of services: the service's key, then two words of [`quota`], messages and bytes.
pub const fn service_quota(index: usize) -> usize {
    at::SERVICE_QUOTAS + index * 24
}

/// A limit as a word: rate per second (36 bits, 0 none), burst in ms (20), mark of the service (8, 0 for the topic's own). Each
/// changes by compare-and-swap. The mark keeps a store that comes late from being taken for another service's.
pub mod quota {
    /// Largest rate.
    pub const RATE_MAX: u64 = (1 << 36) - 1;
    /// Longest burst.
    pub const BURST_MS_MAX: u32 = (1 << 20) - 1;

    /// The word as it lies in memory.
    pub const fn pack(rate: u64, burst_ms: u32, mark: u8) -> u64 {
        rate & RATE_MAX | ((burst_ms & BURST_MS_MAX) as u64) << 36 | (mark as u64) << 56
    }

    /// Rate, burst in ms, and mark.
    pub const fn unpack(word: u64) -> (u64, u32, u8) {
        (word & RATE_MAX, (word >> 36) as u32 & BURST_MS_MAX, (word >> 56) as u8)
    }

    /// The mark of a service by its key; never 0.
    pub const fn mark(key: u64) -> u8 {
        (key >> 8) as u8 | 0x80
    }
}

/// Bytes of a lane block.
pub const LANE_BYTES: usize = 4 * LINE_BYTES;

/// Byte offset of the lane's hint: where the end is, or was. May lag, and goes back when a stopped producer stores late.
pub const fn hint(lane: usize) -> usize {
    at::LANES + lane * LANE_BYTES
}

/// Byte offset of the lane's gate. Only grows.
pub const fn gate(lane: usize) -> usize {
    hint(lane) + LINE_BYTES
}

/// Byte offset of the lane's count of publications refused because it was full (statistics; stored by fetch_add).
pub const fn refused_count(lane: usize) -> usize {
    hint(lane) + 2 * LINE_BYTES
}

/// Bytes of a producer entry: a [`crate::holder::HolderWord`], then for each lane the sequence + 1 that
/// the gate must reach before a retired producer's arena goes.
pub const PRODUCER_BYTES: usize = LINE_BYTES;

/// Byte offset of a producer entry's state word.
pub const fn producer_state(producer: usize) -> usize {
    at::PRODUCERS + producer * PRODUCER_BYTES
}

/// Byte offset of a producer entry's retirement mark for a lane: 0 unset, else sequence + 1. Changed by CAS from 0.
pub const fn producer_retire_at(producer: usize, lane: usize) -> usize {
    producer_state(producer) + 8 + lane * 8
}

/// Byte offset of a producer entry's breaker word, see [`crate::breaker`]. Changed by CAS by its producer and the supervisor.
pub const fn producer_breaker(producer: usize) -> usize {
    producer_state(producer) + 40
}

/// Byte offset of a producer entry's count of publications refused by its breaker, its quota, or a full lane (statistics).
pub const fn producer_refused(producer: usize) -> usize {
    producer_state(producer) + 48
}

/// Byte offset of a producer entry's word about loops, see [`crate::loops::CutWord`]. Stored by its producer.
pub const fn producer_cut(producer: usize) -> usize {
    producer_state(producer) + 56
}

impl Config {
    /// Is every lane a one-producer ring?
    pub const fn one_producer(&self) -> bool {
        self.producers == 1
    }

    /// How many causes may lie behind a message.
    pub const fn hops_max(&self) -> u16 {
        match (self.flags >> HOPS_MAX_SHIFT) as u16 {
            0 => crate::limits::HOPS_MAX_DEFAULT,
            hops => hops,
        }
    }

    /// Bytes of one lane's slots.
    pub const fn lane_slots_bytes(&self) -> u64 {
        if self.one_producer() {
            spsc::Ring::footprint_bytes(self.capacity, self.inline_bytes)
        } else {
            mpmc::Ring::footprint_bytes(self.capacity)
        }
    }

    /// Byte offset of a lane's slots.
    pub const fn slots(&self, lane: usize) -> u64 {
        let producers = at::PRODUCERS as u64 + self.producers as u64 * PRODUCER_BYTES as u64;
        producers.next_multiple_of(LINE_BYTES as u64) + lane as u64 * self.lane_slots_bytes()
    }

    /// Bytes of the whole file.
    pub const fn footprint_bytes(&self) -> u64 {
        self.slots(self.lanes as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Are the values such that offsets computed from them make sense? The name and value of the first that is not.
    pub fn check(&self) -> Result<(), super::Mismatch> {
        use crate::limits::*;
        let field =
            |name, value, good| if good { Ok(()) } else { Err(super::Mismatch::Field { name, value }) };
        field(
            "capacity",
            self.capacity as u64,
            self.capacity.is_power_of_two() && (CAPACITY_MIN..=CAPACITY_MAX).contains(&self.capacity),
        )?;
        field("lanes", self.lanes as u64, (1..=LANES_MAX as u32).contains(&self.lanes))?;
        field("producers", self.producers as u64, (1..=PRODUCERS_MAX).contains(&self.producers))?;
        field("inline_bytes", self.inline_bytes as u64, self.inline_bytes <= INLINE_BYTES_MAX)?;
        field("message_bytes", self.message_bytes, self.message_bytes <= MESSAGE_BYTES_MAX)?;
        field("overflow", self.overflow as u64, self.overflow <= overflow::NEWEST)?;
        let arena = self.arena();
        field(
            "arena_first_bytes",
            self.arena_first_bytes,
            self.arena_first_bytes <= 1 << 32 && arena.first_bytes == self.arena_first_bytes,
        )?;
        field(
            "arena_bound_bytes",
            self.arena_bound_bytes,
            self.arena_bound_bytes <= 1 << 34 && arena.bound_bytes == self.arena_bound_bytes,
        )
    }

    /// Sizes of the arenas.
    pub fn arena(&self) -> crate::arena::Geometry {
        crate::arena::Geometry::new(
            self.arena_first_bytes.min(1 << 32),
            self.arena_bound_bytes.min(1 << 34),
            self.message_bytes.min(crate::limits::MESSAGE_BYTES_MAX)
                + (crate::header::HEADER_BYTES + super::EXTENSION_BYTES) as u64,
        )
    }
}

const _: () = assert!(size_of::<Config>() == 56);
const _: () = assert!(size_of::<Fixed>() == 360 && size_of::<Fixed>() <= at::TYPES_COUNT);
const _: () = assert!(at::TYPES_COUNT + 8 <= at::TTL_NS && at::TTL_NS + 8 <= at::TYPES);
const _: () = assert!(core::mem::offset_of!(Fixed, config) == 32);
const _: () = assert!(core::mem::offset_of!(Fixed, created_ns) == 88);
const _: () = assert!(core::mem::offset_of!(Fixed, creator_service) == 104);
const _: () = assert!(core::mem::offset_of!(Fixed, name) == 152);
const _: () = assert!(size_of::<TypeEntry>() == 88);
const _: () =
    assert!(core::mem::offset_of!(TypeEntry, state) == 12 && core::mem::offset_of!(TypeEntry, name) == 16);
const _: () = assert!(at::TYPES_COUNT + 8 <= at::QUOTA && at::QUOTA + 16 <= at::TYPES);
const _: () = assert!(at::TYPES + TYPES_MAX * size_of::<TypeEntry>() <= at::SERVICE_QUOTAS);
const _: () = assert!(service_quota(QUOTA_SERVICES) <= at::LANES);
const _: () = assert!(at::LANES + LANES_MAX * LANE_BYTES <= at::PRODUCERS);
const _: () = assert!(producer_retire_at(0, LANES_MAX) <= producer_breaker(0));
const _: () = assert!(producer_refused(0) + 8 <= producer_cut(0) && producer_cut(0) + 8 <= producer_state(1));
