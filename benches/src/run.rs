//! A whole run: the machine, the floor, the groups one after the other, the report.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::bus::Connection;
use crate::clock::Clock;
use crate::cores::Cores;
use crate::error::{BenchError, Result};
use crate::floor_log::FloorLog;
use crate::histogram::{LoggedInterval, write_log};
use crate::machine;
use crate::options::Options;
use crate::plan::{self, FULL_SECONDS, Group};
use crate::process::{Directory, Pool};
use crate::report::{Report, SCHEMA, ScenarioReport};
use crate::rows::{self, Surroundings};
use crate::slices::{FloorKind, Limits, floor, measure};
use crate::targets;

/// Floor slices of each kind at the start, beside those around the scenarios.
const FLOOR_SLICES: usize = 3;

/// Share of the time left over that one group may use up for dropped slices.
const SPARE_SHARE: f64 = 0.4;

/// How far a group may overrun its time to reach the number of slices that a verdict needs.
const HARD_STRETCH: f64 = 1.3;
const HARD_EXTRA: Duration = Duration::from_millis(150);

/// With `full`, a group may take so many times as long as planned, if there is time.
const FULL_STRETCH: f64 = 3.0;

/// Measures what the options ask for. The calling program must pass its arguments to [`crate::worker_main`] when the
/// first of them is [`crate::WORKER_COMMAND`]: the workers are the same program again. They end with the thread that
/// called this.
///
/// # Errors
/// Options that name what does not exist; an operating system that refuses memory or processes; an HDR log that
/// cannot be written. A scenario that fails is reported in its row instead.
pub fn run(options: &Options) -> std::result::Result<Report, BenchError> {
    let begun = Instant::now();
    let started = SystemTime::now();
    let clock = Clock::calibrate();
    let cores = Cores::plan(&options.pin_cores)?;
    let directory = Directory::create(&options.directory)?;
    let groups = plan::groups(options, &cores, directory.path())?;
    let machine = machine::describe(&clock, &cores);
    let mut session = Session {
        pool: Pool::new(clock, cores, &ring_payloads(&groups))?,
        log: FloorLog::default(),
        rows: Vec::new(),
        intervals: Vec::new(),
        next_slot: 0,
    };
    session.first_floors(options)?;
    let mut planned: Duration =
        groups.iter().filter(|group| group.skipped.is_none()).map(Group::planned).sum();
    let seconds_max = if options.full { FULL_SECONDS } else { options.seconds.max(0.0) };
    for group in &groups {
        if let Some(progress) = options.progress {
            progress(group.scenario().name());
        }
        if let Some(reason) = &group.skipped {
            session.rows.extend(rows::skipped(group, reason));
            continue;
        }
        let left = Duration::from_secs_f64(seconds_max).saturating_sub(begun.elapsed());
        let spare = left.saturating_sub(planned);
        // Fewer seconds than the plan needs shorten every group alike.
        let scale = (left.as_secs_f64() / planned.as_secs_f64().max(1e-9)).min(1.0);
        let mut budget = group.planned().mul_f64(scale) + spare.mul_f64(SPARE_SHARE);
        if options.full {
            // What it does not need is left to those that come later.
            budget = budget.min(group.planned().mul_f64(FULL_STRETCH));
        }
        session.group(group, budget, directory.path(), options.full)?;
        planned = planned.saturating_sub(group.planned());
    }
    let Session { pool, log, mut rows, mut intervals, .. } = session;
    pool.quit();
    drop(directory);
    if let Some(path) = &options.hdr {
        write_log(path, started, &mut intervals)?;
    }
    rows.iter_mut().filter_map(|row| row.target.as_mut()).for_each(|target| target.loosen(options.slack));
    let verdict = targets::verdict(&rows, log.corrupt == 0);
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Report { schema: SCHEMA, machine, floor: log.report(), scenarios: rows, verdict, seconds })
}

/// Payload sizes that need a floor ring; 64 and 1,024 are always shown.
fn ring_payloads(groups: &[Group]) -> Vec<usize> {
    let mut payloads = vec![64, 1_024];
    for group in groups.iter().filter(|group| group.skipped.is_none()) {
        if let FloorKind::Ring(payload) = group.floor
            && !payloads.contains(&payload)
        {
            payloads.push(payload);
        }
    }
    payloads
}

struct Session {
    pool: Pool,
    log: FloorLog,
    rows: Vec<ScenarioReport>,
    intervals: Vec<LoggedInterval>,
    next_slot: u32,
}

impl Session {
    /// Every kind of floor, so that the report shows them all whatever scenarios were chosen.
    fn first_floors(&mut self, options: &Options) -> Result<()> {
        let mut kinds = vec![FloorKind::Line, FloorKind::Ring(64), FloorKind::Ring(1_024), FloorKind::Wake];
        kinds.extend([FloorKind::Memcpy(65_536), FloorKind::Memcpy(1 << 20)]);
        if let Some(progress) = options.progress {
            progress("floor");
        }
        let mut warm_up = FloorLog::default();
        for kind in kinds {
            floor(&mut self.pool, &mut warm_up, kind)?;
            for _ in 0..FLOOR_SLICES {
                floor(&mut self.pool, &mut self.log, kind)?;
            }
        }
        Ok(())
    }

    /// Measures one group. What goes wrong in it is told in its rows; the next group gets new workers.
    fn group(&mut self, group: &Group, budget: Duration, directory: &Path, aims: bool) -> Result<()> {
        // This process opens the bus first and hosts its supervisor, away from the cores that are measured.
        let host = match Connection::open(directory, group.bus(), "bench", true) {
            Ok(host) => host,
            Err(error) => {
                self.rows.extend(rows::failed(group, &error.to_string()));
                return Ok(());
            }
        };
        let limits = Limits { goal: group.goal, budget, hard: budget.mul_f64(HARD_STRETCH) + HARD_EXTRA };
        let slot = self.next_slot;
        self.next_slot += group.entries.len() as u32;
        match measure(&mut self.pool, &mut self.log, &group.entries, group.floor, slot, limits) {
            Ok(all) => {
                let around = Surroundings { cores: self.pool.cores(), directory, aims };
                self.rows.extend(rows::build(group, &all, &around));
                self.intervals.extend(rows::intervals(group, &all));
            }
            Err(error @ (BenchError::Os { .. } | BenchError::Core { .. })) => return Err(error),
            Err(error) => self.rows.extend(rows::failed(group, &error.to_string())),
        }
        drop(host);
        Ok(())
    }
}
