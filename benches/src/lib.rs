//! Bench
