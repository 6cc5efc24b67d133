//! The operations that `tests/tests/instructions.rs` steps through one instruction at a time, and what it takes to run one in a
//! process of its own.
//!
//! A crate by itself, so that it can be optimised in full while the rest of the tests is not: the hot paths of the bus are
//! generic or inlined, so it is the crate that calls them whose optimisation counts.

pub mod body;
pub mod child;
mod keyed;
mod late;
mod letters;
pub mod operations;
pub mod scene;
pub mod told;
