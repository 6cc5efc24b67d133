//! Tests of shmbus across real processes, its protocol models, and the house rules.

pub mod burst;
pub mod cli;
pub mod footprint;
pub mod harness;
pub mod keyed;
pub mod memory;
pub mod model;
pub mod scale;
pub mod stepper;
