//! The file `bus`: what the bus is, and who takes part. Written by the supervisor, mapped read-only by all others.

use super::Preamble;
use bytemuck::{Pod, Zeroable};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0B";
/// The bus lives until its last participant leaves, instead of until `down` or reboot.
pub const FLAG_TEMPORARY: u32 = 1;
/// Sleepers run membarrier and publishers no fence.
pub const FLAG_MEMBARRIER: u32 = 1 << 1;

/// What is written once, before the bus directory gets its name.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Fixed {
    /// The file's beginning.
    pub preamble: Preamble,
    /// Name of the bus.
    pub name: [u8; 64],
    /// See the `FLAG_` constants.
    pub flags: u32,
    /// User that created it.
    pub uid: u32,
    /// CLOCK_REALTIME ns of the creation.
    pub created_ns: u64,
    /// Nanoseconds of a TSC tick times 2^32; 0 where stamps come from the clock call.
    pub ns_per_tick_q32: u64,
    /// Inode of the creator's pid namespace.
    pub pid_namespace: u64,
    /// Build that created it, as text.
    pub build: [u8; 32],
}

/// Byte offsets of the words that change.
pub mod at {
    /// The newest holder of the supervisor's role ([`super::RoleWord`]); changed by compare-and-swap only.
    pub const ROLE_EPOCH: usize = 256;
    /// CLOCK_MONOTONIC ns of the holder's last sign of life; stored by its serving loop.
    pub const ROLE_BEAT: usize = 264;
    /// 0 open, 1 closed: `down` has removed the bus.
    pub const STATE: usize = 320;
    /// Raised whenever a topic appears or goes.
    pub const TOPICS_GENERATION: usize = 328;
    /// Futex word rung with it (u32).
    pub const TOPICS_BELL: usize = 336;
    /// Participant entries that are backed by memory. Grows.
    pub const PARTICIPANTS_RESERVED: usize = 344;
    /// First participant entry.
    pub const PARTICIPANTS: usize = 4096;
}

/// Which holder of the supervisor's role is the newest.
///
/// ```text
/// bit   0..16                                   16..64
///       mark of the holder, names its files     epoch, raised by each holder
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleWord {
    /// How many holders there have been.
    pub epoch: u64,
    /// Names `role.<mark>` and `control.<mark>`; 0 where there has been no holder.
    pub mark: u16,
}

impl RoleWord {
    /// Stands in the word for good once the bus is closed. Nothing that anybody would store by accident.
    pub const CLOSED: u64 = u64::from_le_bytes(*b"closed\0\xff");

    /// The word as it lies in memory.
    pub const fn pack(self) -> u64 {
        self.epoch << 16 | self.mark as u64
    }

    /// Reads a word from memory.
    pub const fn unpack(word: u64) -> Self {
        Self { epoch: word >> 16, mark: word as u16 }
    }

    /// The next holder.
    pub const fn next(self, mark: u16) -> Self {
        Self { epoch: self.epoch.wrapping_add(1) & (u64::MAX >> 16), mark }
    }
}

/// Bytes of a participant entry.
pub const PARTICIPANT_BYTES: usize = 128;
/// Participant entries of a new bus: one page.
pub const PARTICIPANTS_FIRST: usize = 32;

/// A participant entry. `state` is an atomic word ([`crate::holder::participant`]); the rest is written while the entry
/// is REGISTERING, by the holder of the role that made it so.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Participant {
    /// [`crate::holder::HolderWord`]: state, own number, incarnation in the tag.
    pub state: u64,
    /// Process id as the socket's peer credentials gave it.
    pub pid: u32,
    /// User id, likewise.
    pub uid: u32,
    /// Start time of the process in clock ticks since boot; with the pid it names one process.
    pub start_ticks: u64,
    /// Inode of its pid namespace; pids of another one prove nothing.
    pub pid_namespace: u64,
    /// Inode of its lease file.
    pub lease_inode: u64,
    /// CLOCK_REALTIME ns of its registration.
    pub since_ns: u64,
    /// Service name.
    pub service: [u8; 48],
    /// What has been told of it: see [`told`]. Words of their own, not written with the rest.
    pub told: [u64; 3],
    /// Zero.
    pub reserved: u64,
}

/// Offsets in a participant entry of what the holder of the role has told on `_bus.events`. Changed by compare-and-swap, and only to
/// later incarnations: a holder that was superseded may be late.
pub mod told {
    /// Incarnation whose joining has been told.
    pub const JOINED: usize = 96;
    /// How the last incarnation ended: bits 0..8 1 it left, 2 it died; 32..64 its incarnation.
    pub const ENDED: usize = 104;
    /// Incarnation whose end has been told.
    pub const END: usize = 112;
}

/// Bytes of the file with room for `participants` entries.
pub const fn footprint_bytes(participants: usize) -> u64 {
    (at::PARTICIPANTS + participants * PARTICIPANT_BYTES) as u64
}

const _: () = assert!(size_of::<Fixed>() == 160);
const _: () = assert!(core::mem::offset_of!(Fixed, name) == 32);
const _: () = assert!(core::mem::offset_of!(Fixed, flags) == 96);
const _: () = assert!(core::mem::offset_of!(Fixed, ns_per_tick_q32) == 112);
const _: () = assert!(size_of::<Fixed>() <= at::ROLE_EPOCH);
const _: () = assert!(size_of::<Participant>() == PARTICIPANT_BYTES);
const _: () = assert!(core::mem::offset_of!(Participant, service) == 48);
const _: () = assert!(core::mem::offset_of!(Participant, told) == told::JOINED);
const _: () = assert!(footprint_bytes(PARTICIPANTS_FIRST) == 8192);

/// The file `spin`: who is spinning, so that no more do than there are idle cores, and how often a process has attached to a
/// topic. Written by all.
pub mod spin {
    /// Raised by whoever has attached to a topic for the first time, after it has noted that with its lease.
    pub const ATTACHED: usize = 32;
    /// Slots: a spinner takes one by compare-and-swap from 0 to participant + 1; a dead one's is taken over.
    pub const SLOTS: usize = 64;
    /// Bytes of the file.
    pub const FILE_BYTES: u64 = 4096;
    /// First bytes of the file.
    pub const MAGIC: [u8; 8] = *b"SHMBUS\0S";
    /// Byte offset of slot `index`, each on its own line is not needed: taken and left around a sleep only.
    pub const fn slot(index: usize) -> usize {
        64 + index * 8
    }
    const _: () = assert!(slot(SLOTS) as u64 <= FILE_BYTES);
    const _: () = assert!(size_of::<super::super::Preamble>() <= ATTACHED && ATTACHED + 8 <= slot(0));
}
