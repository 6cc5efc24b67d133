//! Measures the bus against the floor of the machine it runs on.
//!
//! [`run()`] starts real processes, pins them, and measures every scenario in slices, each between two short slices of
//! the floor: what two processes on those cores can do with as little code as possible. On many virtual machines that
//! floor changes by a factor of four within seconds, and everything follows it, so a slice counts only if the floors
//! around it agree, and is compared with those and no others. [`Report`] holds the figures, [`render`] draws them.
//!
//! What it does not do: compare with other buses (a crate of its own does, through [`guest`]), or measure anything
//! inside one process (that is what the criterion benches are for).
//!
//! The workers are the calling program again. It must begin with
//! ```no_run
//! let mut args = std::env::args_os().skip(1);
//! if args.next().is_some_and(|first| first == bus_bench::WORKER_COMMAND) {
//!     std::process::exit(bus_bench::worker_main(args));
//! }
//! ```

mod aims;
mod block;
mod blocks;
mod bus;
pub mod clock;
pub mod content;
mod control;
mod cores;
mod error;
mod floor;
mod floor_log;
pub mod guest;
pub mod histogram;
mod machine;
mod options;
mod plan;
mod process;
mod protocol;
pub mod report;
mod rows;
mod run;
mod scenarios;
mod slices;
mod spec;
pub mod stats;
mod targets;
mod text;
mod worker;

pub use cores::Pinning;
pub use error::BenchError;
pub use options::Options;
pub use report::Report;
pub use run::run;
pub use spec::{PAYLOAD_BYTES, Scenario, WaitMode};
pub use text::render;
pub use worker::{WORKER_COMMAND, worker_main};
