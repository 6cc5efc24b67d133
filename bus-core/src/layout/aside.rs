//! The file `topics/<name>/aside-<entry>`: messages that left the ring to be tried again later, and dead letters. Written
//! by members of the group. A dead letter is an entry in state DEAD; there is no second copy.
//!
//! ```text
//! FREE --> FILLING(me) --> STAGED(me) --owner word PARKED here--> WAITING or DEAD
//! WAITING --its time has come--> CLAIMED(me) --> FREE (done), WAITING (again) or DEAD (last attempt)
//! DEAD --purge--> FREE; DEAD --replay: published first--> FREE
//! ```

use bytemuck::{Pod, Zeroable};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0A";
/// Byte offset of the first entry.
pub const ENTRIES: usize = 4096;

/// States in an entry's [`crate::holder::HolderWord`].
pub mod state {
    /// Nobody's.
    pub const FREE: u8 = 0;
    /// Its holder copies a message into it.
    pub const FILLING: u8 = 1;
    /// The copy is complete; it counts once the owner word names it.
    pub const STAGED: u8 = 2;
    /// To be handed out again, not before its time.
    pub const WAITING: u8 = 3;
    /// A member has it in hand.
    pub const CLAIMED: u8 = 4;
    /// A dead letter.
    pub const DEAD: u8 = 5;
}

/// What stands before the payload of an entry.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// [`crate::holder::HolderWord`] with one of [`state`].
    pub state: u64,
    /// Sequence of the message.
    pub sequence: u64,
    /// Lane (8 bits), attempts (8), type (8), flags (8), bytes of the payload (32).
    pub description: u64,
    /// CLOCK_MONOTONIC ns before which it is not handed out.
    pub not_before_ns: u64,
    /// CLOCK_REALTIME ns of the first failure.
    pub first_ns: u64,
    /// CLOCK_REALTIME ns of the last failure.
    pub last_ns: u64,
    /// The message's stamp.
    pub stamp_ns: u64,
    /// Bytes of the payload's block behind the entry table, and where it begins.
    pub payload_offset: u64,
    /// Service of the member that failed.
    pub service: [u8; 48],
    /// Handler that failed.
    pub handler: [u8; 48],
    /// Error text, cut off.
    pub error: [u8; 96],
}

const _: () = assert!(size_of::<Entry>() == 256);

#[cfg(test)]
mod tests {
    use super::state;
    use crate::holder::{Holder, HolderWord};

    #[test]
    fn an_entry_goes_through_its_states() {
        let me = Holder::new(3, 1);
        let mut word = HolderWord::unpack(0);
        assert_eq!(word.state, state::FREE);
        for next in [state::FILLING, state::STAGED, state::WAITING, state::CLAIMED, state::DEAD, state::FREE]
        {
            word = if next == state::FILLING { word.next(next, me) } else { word.with_state(next) };
            assert_eq!(HolderWord::unpack(word.pack()), word);
        }
        assert_eq!(word.tag, 1, "one incarnation for one message");
    }
}
