//! The file `topics/<name>/wake`: the words that sleepers and wakers share. One page.

use super::{LINE_BYTES, Preamble};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0W";
/// Bytes of the file.
pub const FILE_BYTES: u64 = 4096;

/// Byte offsets. A publisher reads bell, state and breaker, which share a line, and nothing else here.
pub mod at {
    /// Bell of sleeping consumers (u32), see [`crate::doorbell`].
    pub const MESSAGE_BELL: usize = 64;
    /// Bit 0: closed, the bus has been taken down. Bits 1..32: a generation, raised whenever a quota or the breaker of
    /// the topic has changed (u32; supervisor).
    pub const STATE: usize = 68;
    /// Breaker of the topic, see [`super::breaker`]; supervisor.
    pub const BREAKER: usize = 72;
    /// Bell of publishers that wait for room (u32).
    pub const SPACE_BELL: usize = 128;
    /// Entries of the table of listeners that were ever used. Grows.
    pub const LISTENERS_USED: usize = 192;
    /// Of a mailbox: CLOCK_REALTIME ns of the moment when its last owner left, or was found dead; 0: it never had one. Raised
    /// by the maximum, by who leaves and by who repairs; says nothing while there is an owner.
    pub const AWAY_SINCE: usize = 208;
    /// The table of listeners, one [`crate::listener::Ticket`] an entry; read by who rings an armed bell.
    pub const LISTENERS: usize = 256;
}

/// Entries of the table of listeners.
pub const LISTENERS_MAX: usize = (FILE_BYTES as usize - at::LISTENERS) / 8;

/// The word at [`at::STATE`].
pub mod state {
    /// The bus has been taken down; handles report it. Set, never taken back.
    pub const CLOSED: u32 = 1;
    /// What is added when something has changed that publishers must read again. It wraps without touching bit 0.
    pub const GENERATION: u32 = 2;

    /// Has the bus been taken down?
    #[inline]
    pub const fn is_closed(word: u32) -> bool {
        word & CLOSED != 0
    }

    /// A word that the topic does not have now or soon, whatever it becomes: half a turn of the generation away, and closed.
    pub const fn never(word: u32) -> u32 {
        word.wrapping_add(1 << 31) | CLOSED
    }
}

/// States of a breaker word.
///
/// ```text
/// CLOSED --full until the deadline, errors, or over quota--> OPEN --its time is over--> HALF_OPEN
///   ^------------------trials succeed------------------------------------------------------+
///                                                            ^------a trial fails----------+
/// ```
pub mod breaker {
    /// Publishing is allowed.
    pub const CLOSED: u8 = 0;
    /// Publishing is refused until the word's time.
    pub const OPEN: u8 = 1;
    /// A few publications are let through to see.
    pub const HALF_OPEN: u8 = 2;

    /// The word as it lies in memory: state (8 bits), reason (4), a bit for each lane that it is about (4), until in
    /// CLOCK_MONOTONIC ms (48). See [`crate::breaker`].
    pub const fn pack(state: u8, reason: u8, lanes: u8, until_ms: u64) -> u64 {
        state as u64 | (reason as u64 & 15) << 8 | (lanes as u64 & 15) << 12 | until_ms << 16
    }

    /// State, reason, lanes, and time.
    pub const fn unpack(word: u64) -> (u8, u8, u8, u64) {
        (word as u8, (word >> 8) as u8 & 15, (word >> 12) as u8 & 15, word >> 16)
    }
}

const _: () = assert!(size_of::<Preamble>() <= at::MESSAGE_BELL);
const _: () = assert!(at::BREAKER + 8 <= at::MESSAGE_BELL + LINE_BYTES);
const _: () = assert!(at::MESSAGE_BELL / LINE_BYTES != at::SPACE_BELL / LINE_BYTES);
const _: () = assert!(LISTENERS_MAX == 480);

#[cfg(test)]
mod tests {
    use super::breaker::{CLOSED, HALF_OPEN, OPEN, pack, unpack};

    #[test]
    fn a_breaker_goes_through_its_states() {
        for (state, reason, lanes, until_ms) in
            [(CLOSED, 0, 0, 0), (OPEN, 3, 9, (1 << 48) - 1), (HALF_OPEN, 15, 15, 1)]
        {
            assert_eq!(unpack(pack(state, reason, lanes, until_ms)), (state, reason, lanes, until_ms));
        }
    }

    #[test]
    fn no_state_is_near_the_one_that_never_comes() {
        use super::state::{CLOSED, GENERATION, never};
        for word in [0, 2, u32::MAX - 1, 1 << 31, (1 << 31) - 2] {
            for step in 0..100_u32 {
                let later = word.wrapping_add(step * GENERATION);
                assert!(never(word) != later && never(word) != later | CLOSED);
            }
        }
    }
}
