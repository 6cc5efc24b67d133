//! Who is compared, how each is set, what each promises, and which of our rows promises the same.

use serde::Serialize;

use crate::way::Ours;

/// What a peer does for the messages it carries, in a few words each.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Promises {
    /// How often a payload is copied between the sender's and the receiver's variables, the writing of it not counted.
    pub(crate) copies: &'static str,
    /// Whether the receiver's library checks what it hands out.
    pub(crate) validates: &'static str,
    pub(crate) order: &'static str,
    pub(crate) readers: &'static str,
    /// What happens to the others when one process is killed.
    pub(crate) survives_kill: &'static str,
    pub(crate) acknowledged: &'static str,
}

/// One way to pass messages in one setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// At its best documented settings, or at its defaults.
    pub(crate) tuned: bool,
    /// What was set.
    pub(crate) setting: &'static str,
    /// Which of our rows it is compared with.
    pub(crate) ours: Ours,
    /// Messages between two looks at the clock.
    pub(crate) block: u64,
    pub(crate) window: u64,
    pub(crate) lossy: bool,
    /// Both sides are threads of one process: shown as a reference, not as a competitor.
    pub(crate) in_process: bool,
    pub(crate) promises: Promises,
}

/// Many producers, as everybody gets it.
const DEFAULT: Ours = Ours { one_producer: false, tuned: false, spin: false, tap: false };
/// Many producers, no stamps, batches.
const MANY: Ours = Ours { tuned: true, ..DEFAULT };
/// The same with one producer.
const ONE: Ours = Ours { one_producer: true, ..MANY };

/// Blocks for what takes nanoseconds, microseconds, and tens of them.
const FAST: u64 = 256;
const MEDIUM: u64 = 64;
#[expect(dead_code)]
const SLOW: u64 = 16;

const SYSTEM: Promises = Promises {
    copies: "2",
    validates: "no",
    order: "total",
    readers: "one of many",
    survives_kill: "what is read is lost",
    acknowledged: "no",
};

const fn peer(name: &'static str, tuned: bool, setting: &'static str, ours: Ours, promises: Promises) -> Peer {
    Peer { name, tuned, setting, ours, block: MEDIUM, window: 0, lossy: false, in_process: false, promises }
}

/// Everybody, in the order of the table.
pub(crate) fn all() -> Vec<Peer> {
    let unix = Promises { order: "by sender", readers: "one", ..SYSTEM };
    let ring = Promises { copies: "0", order: "one sender", readers: "one", survives_kill: "no", ..SYSTEM };
    vec![
        peer("pipe", true, "64 KiB a call, 1 MiB pipe", MANY, SYSTEM),
        peer("pipe", false, "one call a message", DEFAULT, SYSTEM),
        peer("unix stream", true, "64 KiB a call, 1 MiB buffers", MANY, unix),
        peer("unix stream", false, "one call a message", DEFAULT, unix),
        peer("unix seqpacket", true, "64 messages a call, 1 MiB buffers", MANY, unix),
        peer("unix seqpacket", false, "one call a message", DEFAULT, unix),
        peer("posix mq", true, "queue of 4,096 or what the system allows", MANY, SYSTEM),
        peer("posix mq", false, "queue of 10", DEFAULT, SYSTEM),
        Peer { block: FAST, ..peer("ring + eventfd", true, "looks for 25 us, then sleeps", ONE, ring) },
        Peer { block: FAST, ..peer("ring + eventfd", false, "sleeps at once", ONE, ring) },
    ]
}
