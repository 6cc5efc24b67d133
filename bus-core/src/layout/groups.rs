//! The file `topics/<name>/groups`: the group table. Written by members, read by producers.

use super::{LINE_BYTES, Preamble};
use crate::limits::LANES_MAX;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"SHMBUS\0G";

/// States of a group entry; [`crate::group`] draws the machine.
pub mod state {
    /// Nobody's.
    pub const FREE: u8 = 0;
    /// Somebody is putting its cursors in place.
    pub const JOINING: u8 = 1;
    /// A member reads.
    pub const ACTIVE: u8 = 2;
    /// Named, without a member, and holding its messages.
    pub const HELD: u8 = 3;
    /// Named, without a member, and not holding.
    pub const DETACHED: u8 = 4;
    /// Let go while its member lives; the entry waits for that member.
    pub const EVICTED: u8 = 5;
    /// The cursors are in place and hold the gate, but it is not known yet where the group starts. After a death here
    /// nobody can tell, so the entry is freed, not inherited.
    pub const STARTING: u8 = 6;
    /// Somebody joins a group that was DETACHED, and has changed nothing yet but where its cursors are saved. DETACHED again
    /// after a death here.
    pub const REJOINING: u8 = 7;
    /// As JOINING and STARTING, of a group that was DETACHED: where it stood is saved, its cursors may be anything. ASTRAY after
    /// a death here.
    pub const RESTARTING: u8 = 8;
    /// As DETACHED, but it stands where is saved, not where its cursors are.
    pub const ASTRAY: u8 = 9;

    /// Does an entry in this state keep messages from being overwritten?
    pub const fn holds_gate(state: u8) -> bool {
        matches!(state, STARTING | RESTARTING | ACTIVE | HELD)
    }

    /// Is somebody putting its cursors in place, before they hold anything?
    pub const fn is_joining(state: u8) -> bool {
        matches!(state, JOINING | REJOINING)
    }

    /// Named, without a member, and not holding?
    pub const fn has_let_go(state: u8) -> bool {
        matches!(state, DETACHED | ASTRAY)
    }

    /// Do its cursors hold the gate, and is it not known yet where it starts?
    pub const fn is_starting(state: u8) -> bool {
        matches!(state, STARTING | RESTARTING)
    }
}

/// Bits of an entry's `kind` word.
///
/// ```text
/// bit   0           1        2        3         4       8..16          16..32   32..64
///       ephemeral   shared   yields   lets go   keyed   attempts_max   hold, s  limit (yields) or ack_wait (shared), ms
/// ```
pub mod kind {
    use crate::limits::ATTEMPTS_DEFAULT;

    /// Goes when its member goes.
    pub const EPHEMERAL: u64 = 1;
    /// Many members share it by owner words.
    pub const SHARED: u64 = 1 << 1;
    /// Lets go instead of holding others back for longer than its stall limit (milliseconds in bits 32..64).
    pub const YIELDS: u64 = 1 << 2;

    /// A group of one that is let go when it has stood still for its limit, and comes back: see [`super::stall`].
    pub const LETS_GO: u64 = 1 << 3;

    /// A shared group in which all messages of a key go to one member, in order: see [`crate::keyed`].
    pub const KEYED: u64 = 1 << 4;

    /// What makes two groups different in kind: one does not become the other.
    pub const KINDS: u64 = SHARED | KEYED;

    /// How often a message is handed out before it is a dead letter.
    pub const fn attempts_max(kind: u64) -> u8 {
        match (kind >> 8) as u8 {
            // A group from before it was said.
            0 => ATTEMPTS_DEFAULT,
            attempts => attempts,
        }
    }

    /// The word with this many attempts, at least one.
    pub const fn with_attempts_max(kind: u64, attempts: u8) -> u64 {
        let attempts = if attempts == 0 { 1 } else { attempts };
        kind & !(0xff << 8) | (attempts as u64) << 8
    }

    /// How long a named group without a member may keep a publisher waiting before it lets go, in seconds. 0: for ever.
    pub const fn hold_s(kind: u64) -> u16 {
        (kind >> 16) as u16
    }

    /// The word with this time.
    pub const fn with_hold_s(kind: u64, hold_s: u16) -> u64 {
        kind & !(0xffff << 16) | (hold_s as u64) << 16
    }

    /// How long a member of a shared group may be silent about a message before another gets it, in ms. 0: for ever. A
    /// group that is not shared has none.
    pub const fn ack_wait_ms(kind: u64) -> u32 {
        if kind & SHARED == 0 { 0 } else { (kind >> 32) as u32 }
    }

    /// The word of a shared group with this wait; another's is left as it is, its bits mean something else.
    pub const fn with_ack_wait_ms(kind: u64, wait_ms: u32) -> u64 {
        if kind & SHARED == 0 { kind } else { kind & 0xffff_ffff | (wait_ms as u64) << 32 }
    }
}

/// Byte offsets in the file's first 256 bytes.
pub mod at {
    /// Raised by every join.
    pub const GENERATION: usize = 64;
    /// Entries ever used. Only grows.
    pub const USED: usize = 128;
    /// Entries backed by memory. Only grows.
    pub const RESERVED: usize = 136;
    /// First entry.
    pub const ENTRIES: usize = 256;
}

/// Key of entries for groups without a name.
pub const KEY_EPHEMERAL: u64 = 1;

/// Bytes of an entry: identity, name, and one line a lane.
pub const ENTRY_BYTES: usize = (2 + LANES_MAX) * LINE_BYTES;
/// Entries that fit into the first page.
pub const ENTRIES_FIRST: usize = 10;

/// Byte offset of an entry.
pub const fn entry(index: usize) -> usize {
    at::ENTRIES + index * ENTRY_BYTES
}

/// Bytes of the file with room for `entries`.
pub const fn footprint_bytes(entries: usize) -> u64 {
    entry(entries) as u64
}

/// Byte offsets in an entry.
pub mod in_entry {
    use super::LINE_BYTES;
    /// [`crate::holder::HolderWord`] with one of [`super::state`].
    pub const STATE: usize = 0;
    /// Hash of the name, 0 while the entry never had one. CAS from 0; stays while the topic lives, so that two who look
    /// for the same name from the table's start find the same entry. [`super::KEY_EPHEMERAL`] marks entries that
    /// only groups without a name use.
    pub const KEY: usize = 8;
    /// [`super::kind`].
    pub const KIND: usize = 16;
    /// CLOCK_REALTIME ns of the last join.
    pub const SINCE_NS: usize = 24;
    /// How often the group let go while it had no member (statistics).
    pub const LET_GO: usize = 32;
    /// Mark of a group that was let go: the sequence + 1 of lane 0's cursor then; see the lanes for the others.
    pub const ABANDONED: usize = 40;
    /// Messages handed out again (statistics).
    pub const REDELIVERED: usize = 48;
    /// Messages skipped because their type is not one that the group reads (statistics).
    pub const SKIPPED: usize = 56;
    /// Name, 64 bytes.
    pub const NAME: usize = LINE_BYTES;
    /// First lane line.
    pub const LANES: usize = 2 * LINE_BYTES;
}

/// Byte offsets in a lane line of an entry.
pub mod in_lane {
    /// Everything before it is finished.
    pub const LOW_WATER: usize = 0;
    /// [`crate::group::Handed`].
    pub const HANDED: usize = 8;
    /// Where reliability began at the last join.
    pub const START: usize = 16;
    /// How many messages before the start a group of one has neither finished nor been told to have missed.
    pub const MISSED: usize = 24;
    /// In RESTARTING and ASTRAY: where the group stood when it was let go.
    pub const STOOD: usize = 32;
    /// Claims given back in a shared group; raised after each, so that members look at earlier messages again.
    pub const RELEASES: usize = 40;
    /// One-member group: messages before it have been handed out before. Only grows; stored by the member.
    pub const MARKED: usize = 48;
    /// Lane 0's line only, for the whole group: CLOCK_MONOTONIC ns at which the earliest entry that waits in the aside
    /// store is due, 0 for none. A hint: see [`crate::aside`].
    pub const ASIDE_DUE: usize = 56;
}

/// Words about standing still. They are for the whole group, and lie where lane 0's line has
/// [`in_lane::ASIDE_DUE`]; every entry has all four lines.
pub mod stall {
    use super::{in_lane, lane};
    /// What is meant where [`after`] says nothing, in ms.
    pub const AFTER_DEFAULT_MS: u64 = 10_000;
    /// In the word of [`after`]: no time is too long.
    pub const NEVER: u64 = u64::MAX;

    /// How long the group may stand still with messages to read, in ms; 0: [`AFTER_DEFAULT_MS`]. Stored by a member.
    pub const fn after(entry: usize) -> usize {
        lane(entry, 1) + in_lane::ASIDE_DUE
    }

    /// How many messages it may be behind in a lane; 0: any number. Stored by a member.
    pub const fn lag(entry: usize) -> usize {
        lane(entry, 2) + in_lane::ASIDE_DUE
    }

    /// CLOCK_MONOTONIC ms since which it stands still, if it has for longer than it may; 0: it does not. Changed by
    /// compare-and-swap: set by the supervisor and by who lets the group go, cleared by the supervisor and by who joins.
    pub const fn since(entry: usize) -> usize {
        lane(entry, 3) + in_lane::ASIDE_DUE
    }

    /// What a word of [`after`] says.
    pub const fn after_ms(word: u64) -> Option<u64> {
        match word {
            0 => Some(AFTER_DEFAULT_MS),
            NEVER => None,
            ms => Some(ms),
        }
    }
}

/// Byte offset of a lane line.
pub const fn lane(index: usize, lane: usize) -> usize {
    entry(index) + in_entry::LANES + lane * LINE_BYTES
}

const _: () = assert!(size_of::<Preamble>() <= at::GENERATION);
const _: () = assert!(ENTRY_BYTES == 384);
const _: () = assert!(footprint_bytes(ENTRIES_FIRST) == 4096);
const _: () = assert!(in_lane::ASIDE_DUE + 8 == LINE_BYTES);
const _: () = assert!(LANES_MAX > 3 && stall::since(0) + 8 == entry(1));

#[cfg(test)]
mod tests {
    use super::kind::*;

    #[test]
    fn settings_do_not_touch_each_other() {
        let shared = with_ack_wait_ms(with_attempts_max(SHARED, 255), u32::MAX);
        assert_eq!((attempts_max(shared), ack_wait_ms(shared), shared & 7), (255, u32::MAX, SHARED));
        let holds = with_hold_s(shared, u16::MAX);
        assert_eq!((hold_s(holds), with_hold_s(holds, 0)), (u16::MAX, shared));
        let less = with_ack_wait_ms(with_attempts_max(shared, 0), 0);
        assert_eq!((attempts_max(less), ack_wait_ms(less), less & 7), (1, 0, SHARED));
        let yields = YIELDS | 5_000 << 32;
        assert_eq!(with_ack_wait_ms(yields, 7), yields, "its stall limit");
        assert_eq!((attempts_max(yields), ack_wait_ms(yields)), (10, 0));
    }
}
