//! The algorithms of shmbus, as pure functions over views of shared words.
//!
//! Nothing here makes a system call, allocates, or knows about files and processes: a ring is a slice of
//! atomic words, a group is a few of them, and time and wake-ups are passed in. That is what makes each
//! protocol testable under loom (`--cfg loom`), under ThreadSanitizer, and against a model.
//!
//! Read in this order: [`layout`] (what lies where and who may write it), [`seq`] and [`header`]
//! (what a message is), [`ring`] (how it is published and read), [`gate`] and [`group`] (why nothing unread is
//! overwritten), [`owner`] (how members of one group share it), [`aside`] and [`retry`] (what is tried again later, and
//! when), [`arena`] (where payloads live), [`doorbell`] (how a sleeping reader is woken), [`samples`] (how old a message
//! without a stamp is).
//!
//! What it is not: a queue for threads of one process. Inside one process a channel of the standard library
//! is simpler and needs no cursors.
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

pub mod arena;
pub mod aside;
pub mod doorbell;
pub mod gate;
pub mod group;
pub mod header;
pub mod holder;
pub mod lane;
pub mod layout;
pub mod limits;
pub mod name;
pub mod owner;
pub mod retry;
pub mod ring;
pub mod samples;
pub mod seq;
pub mod sync;
