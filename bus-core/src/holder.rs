//! Which process holds something: the word that a group entry and a producer entry have in common.
//!
//! ```text
//! bit   0..8     8..18         18..32                       32..64
//!       state    participant   incarnation of participant   tag (incarnation of the entry)
//! ```
//!
//! The participant's incarnation is in the word, so an entry left behind by a dead process is not mistaken for
//! one of the process that got its participant number afterwards.

/// A process, named by its participant number and by how often that number has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Participant number, below [`crate::limits::PARTICIPANTS_MAX`].
    pub participant: u16,
    /// Low 14 bits of the participant entry's incarnation.
    pub incarnation: u16,
}

impl Holder {
    /// Bits of the incarnation that a word has room for.
    pub const INCARNATION_MASK: u64 = (1 << 14) - 1;

    /// Names a participant by its number and its full incarnation.
    pub const fn new(participant: u16, incarnation: u64) -> Self {
        Self { participant, incarnation: (incarnation & Self::INCARNATION_MASK) as u16 }
    }
}

/// A state, who brought it about, and the incarnation of the entry that the word belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderWord {
    /// One of the states of the entry's kind.
    pub state: u8,
    /// Who holds the entry. Meaningless in a free entry.
    pub holder: Holder,
    /// Incarnation of the entry: grows each time that the entry changes hands.
    pub tag: u32,
}

impl HolderWord {
    /// The word as it lies in memory.
    #[inline]
    pub const fn pack(self) -> u64 {
        self.state as u64
            | (self.holder.participant as u64 & 0x3ff) << 8
            | (self.holder.incarnation as u64 & Holder::INCARNATION_MASK) << 18
            | (self.tag as u64) << 32
    }

    /// Reads a word from memory; every bit pattern is a word, the state may be one that does not exist.
    #[inline]
    pub const fn unpack(word: u64) -> Self {
        Self {
            state: word as u8,
            holder: Holder {
                participant: (word >> 8) as u16 & 0x3ff,
                incarnation: ((word >> 18) & Holder::INCARNATION_MASK) as u16,
            },
            tag: (word >> 32) as u32,
        }
    }

    /// The same entry in another state, held by the same process.
    #[inline]
    pub const fn with_state(self, state: u8) -> Self {
        Self { state, ..self }
    }

    /// The entry's next incarnation, held by `holder`.
    #[inline]
    pub const fn next(self, state: u8, holder: Holder) -> Self {
        Self { state, holder, tag: self.tag.wrapping_add(1) }
    }
}

/// States of a participant entry (`bus` file; written by the supervisor).
///
/// ```text
/// FREE --register--> REGISTERING --entry filled--> LIVE --proof of death, or goodbye--> SWEEPING --all its claims repaired--> FREE
///                        |                                                                                              ^
///                        +--another holder of the role--> QUARANTINED --that one's proven end--------------------------+
/// ```
///
/// In REGISTERING and QUARANTINED the word names the holder of the role that fills the entry by plain stores, by the mark of
/// its files.
pub mod participant {
    /// Nobody has the number.
    pub const FREE: u8 = 0;
    /// A process has it and holds the lease.
    pub const LIVE: u8 = 1;
    /// The process is gone; what it held is being repaired. The number is not handed out.
    pub const SWEEPING: u8 = 2;
    /// A holder of the role fills the entry.
    pub const REGISTERING: u8 = 3;
    /// The holder that was filling it is no longer the newest, and may still store into it.
    pub const QUARANTINED: u8 = 4;

    use super::Holder;

    /// Names a holder of the role where the word has room for a participant.
    pub const fn maker(mark: u16) -> Holder {
        Holder { participant: mark & 0x3ff, incarnation: mark >> 10 }
    }

    /// The mark of the holder of the role that [`maker`] named.
    pub const fn mark(maker: Holder) -> u16 {
        maker.participant | maker.incarnation << 10
    }
}

/// States of a producer entry (`ring` file; written by publishers, and by whoever retires a dead one).
///
/// ```text
/// FREE --attach--> LIVE --detach, or proof of death--> RETIRED --gate passed its last message--> FREE
/// ```
pub mod producer {
    /// Nobody publishes under this number and no arena of it is left.
    pub const FREE: u8 = 0;
    /// A publisher has it.
    pub const LIVE: u8 = 1;
    /// Its publisher is gone, unread messages may still lie in its arenas.
    pub const RETIRED: u8 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_at_its_extremes() {
        for state in [0, 1, 255] {
            for participant in [0, 1, 1_022, 1_023] {
                for incarnation in [0, 1, 16_383] {
                    for tag in [0, 1, u32::MAX] {
                        let word = HolderWord { state, holder: Holder { participant, incarnation }, tag };
                        assert_eq!(HolderWord::unpack(word.pack()), word);
                    }
                }
            }
        }
        assert_eq!(Holder::new(7, 16_384 + 5).incarnation, 5);
    }

    #[test]
    fn a_holder_of_the_role_fits_into_the_word() {
        for mark in [0, 1, 0x3ff, 0x400, 0xfffe, 0xffff] {
            let maker = participant::maker(mark);
            let word = HolderWord { state: participant::REGISTERING, holder: maker, tag: 9 };
            assert_eq!(participant::mark(HolderWord::unpack(word.pack()).holder), mark);
        }
    }
}
