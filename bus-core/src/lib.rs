//! The algorithms of shmbus, as pure functions over views of shared words.
//!
//! Nothing here makes a system call, allocates, or knows about files and processes: a ring is a slice of
//! atomic words, a group is a few of them, and time and wake-ups are passed in. That is what makes each
//! protocol testable under loom (`--cfg loom`), under ThreadSanitizer, and against a model.
//!
//! Read in this order: [`layout`] (what lies where and who may write it), [`seq`], [`header`]
//! and [`extension`] (what a message is), [`ring`] (how it is published and read), [`gate`] and [`group`] (why nothing unread is
//! overwritten), [`owner`] (how members of one group share it), [`aside`] and [`retry`] (what is tried again later, and
//! when), [`outcome`] (what was finished without being handled), [`arena`] (where payloads live), [`doorbell`] (how a sleeping reader is woken) and
//! [`listener`] (how one that waits on many topics is), [`pattern`] (which topics those are), [`samples`] (how old a message
//! without a stamp is), [`sampling`] (which messages make up a share of them), [`stall`] (which groups stand still), [`breaker`]
//! and [`quota`] (who may publish how much), [`loops`] (which topics cause each other for ever).
//!
//! What it is not: a queue for threads of one process. Inside one process a channel of the standard library
//! is simpler and needs no cursors.
#![cfg_attr(not(any(test, loom, shmbus_break)), no_std)]
#![forbid(unsafe_code)]

pub mod arena;
pub mod aside;
pub mod breaker;
pub mod doorbell;
pub mod extension;
pub mod gate;
pub mod group;
pub mod header;
pub mod holder;
pub mod keyed;
pub mod lane;
pub mod layout;
pub mod limits;
pub mod listener;
pub mod loops;
pub mod name;
pub mod outcome;
pub mod owner;
pub mod pattern;
pub mod quota;
pub mod retry;
pub mod ring;
pub mod samples;
pub mod sampling;
pub mod seq;
pub mod stall;
pub mod sync;

/// Is the code to be broken at the place of this name? Never, but for `ci/broken`, which shows that the tests would notice.
#[cfg(not(shmbus_break))]
#[doc(hidden)]
#[inline(always)]
pub const fn is_broken(_place: &str) -> bool {
    false
}

/// The same where `ci/broken` has compiled it: the environment names one place.
#[cfg(shmbus_break)]
#[doc(hidden)]
pub fn is_broken(place: &str) -> bool {
    static BROKEN: std::sync::OnceLock<std::string::String> = std::sync::OnceLock::new();
    BROKEN.get_or_init(|| std::env::var("SHMBUS_BREAK").unwrap_or_default()) == place
}
