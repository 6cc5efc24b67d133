//! What can stop a benchmark run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error that ends the run, or the one row that it is noted on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A call to the operating system failed.
    #[error("{call}: {source}")]
    Os {
        /// The call and what it was applied to.
        call: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The HDR log could not be written.
    #[error("cannot write the HDR log {}: {text}", path.display())]
    HdrLog {
        /// The file named by the caller.
        path: PathBuf,
        /// What went wrong.
        text: String,
    },
    /// A worker process reported an error.
    #[error("worker {part} failed in {step}: {text}")]
    Worker {
        /// Number of the worker, from 0.
        part: usize,
        /// The step that it was asked to do.
        step: String,
        /// Its own words.
        text: String,
    },
    /// A worker process ended although nobody had told it to.
    #[error("worker {part} ended during {step}")]
    WorkerDied {
        /// Number of the worker, from 0.
        part: usize,
        /// The step that it was asked to do.
        step: String,
    },
    /// A step did not finish in time; the workers were killed.
    #[error("{step} did not finish within {} ms; the workers were stopped", waited.as_millis())]
    Stuck {
        /// The step that did not finish.
        step: String,
        /// How long it was given.
        waited: Duration,
    },
    /// Cores that were asked for are not there.
    #[error("cannot pin to core {core}: this process may run on {allowed:?}")]
    Core {
        /// The core that was asked for.
        core: usize,
        /// The cores that the process may use.
        allowed: Vec<usize>,
    },
    /// A scenario that does not exist was asked for.
    #[error("no scenario is called {name:?}; there are: {known}")]
    UnknownScenario {
        /// The name as given.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// A payload size that is not offered was asked for.
    #[error("payloads of {bytes} bytes are not offered; choose from {offered:?}")]
    Payload {
        /// The size as given.
        bytes: usize,
        /// The sizes that exist.
        offered: Vec<usize>,
    },
    /// The command line of a worker process could not be understood.
    #[error("worker arguments: {0}")]
    WorkerArguments(String),
    /// What a guest measures refused something.
    #[error("{call}: {text}")]
    Guest {
        /// What was asked of it.
        call: String,
        /// Its own words.
        text: String,
    },
    /// The bus refused something.
    #[error("{call}: {text}")]
    Bus {
        /// What was asked of the bus.
        call: &'static str,
        /// The error of the bus.
        text: String,
    },
}

impl BenchError {
    /// Wraps an error of the operating system with the call that gave it.
    pub(crate) fn os(call: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os { call: call.into(), source: source.into() }
    }
}

/// Result of everything in this crate that can fail.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;
