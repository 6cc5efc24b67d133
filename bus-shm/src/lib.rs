//! A lock-free message bus in shared memory.
#![deny(unsafe_code)]
pub mod sys;
