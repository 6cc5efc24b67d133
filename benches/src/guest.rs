//! The engine for a program that measures other things beside the bus: the same processes, floors, slices and statistics.
//!
//! The program implements [`Part`] for what it measures, hands [`crate::guest::worker_main_with`] a function that opens
//! such parts, and lets [`Engine::measure`] run several of them in turn.

use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::cores::{Cores, Pinning};
use crate::error::BenchError;
use crate::floor_log::FloorLog;
use crate::machine;
use crate::process::{Directory, Pool};
use crate::report::{FloorReport, Machine};
use crate::slices::{FloorKind, measure};

pub use crate::block::{ArchivedBlock, Block};
pub use crate::blocks::{Blocks, Stream};
pub use crate::cores::pin;
pub use crate::floor::Turn;
pub use crate::histogram::{Nanos, Sparse};
pub use crate::protocol::Outcome;
pub use crate::scenarios::Part;
pub use crate::slices::{Entry, Limits, Measured, Slice};
pub use crate::worker::{OpenGuest, worker_main_with};

/// A run: worker processes, their shared memory, a directory in memory that is gone afterwards.
#[derive(Debug)]
pub struct Engine {
    pool: Pool,
    log: FloorLog,
    clock: Clock,
    directory: Directory,
    next_slot: u32,
}

impl Engine {
    /// Prepares a run; `directory` is where its own directory is made. The workers end with the thread that called this.
    ///
    /// # Errors
    /// Cores that are not there; an operating system that refuses memory or processes.
    pub fn start(pinning: &Pinning, directory: &Path) -> std::result::Result<Self, BenchError> {
        let clock = Clock::calibrate();
        let cores = Cores::plan(pinning)?;
        let directory = Directory::create(directory)?;
        let pool = Pool::new(clock, cores, &[])?;
        Ok(Self { pool, log: FloorLog::default(), clock, directory, next_slot: 0 })
    }

    /// The directory of this run.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The cores of the first two workers.
    #[must_use]
    pub fn cores(&self) -> [usize; 2] {
        [self.pool.cores().of(0), self.pool.cores().of(1)]
    }

    /// The machine that is measured on.
    #[must_use]
    pub fn machine(&self) -> Machine {
        machine::describe(&self.clock, self.pool.cores())
    }

    /// The floors of the whole run: how the machine was.
    #[must_use]
    pub fn floors(&self) -> FloorReport {
        self.log.report()
    }

    /// Measures the entries in turn (A B A B), each slice between two short looks at the line floor. After an error the
    /// workers are new ones, and the run can go on with something else.
    ///
    /// # Errors
    /// What is measured failed, ended its process, or did not finish in time.
    pub fn measure(
        &mut self,
        entries: &[Entry<String>],
        limits: Limits,
    ) -> std::result::Result<Vec<Measured>, BenchError> {
        let slot = self.next_slot;
        self.next_slot += entries.len() as u32;
        // Floors need both workers, whatever the entries take.
        self.pool.grow(2)?;
        measure(&mut self.pool, &mut self.log, entries, FloorKind::Glance, slot, limits)
    }

    /// Lets the workers end, and removes the directory.
    pub fn quit(self) {
        self.pool.quit();
    }
}
