//! The engine: scenarios cut into slices, each between two short slices of the floor, several scenarios in turn.
//!
//! On many virtual machines the way between two cores has modes that differ by a factor of four and change within
//! seconds, and everything follows them. A slice counts only if the floor just before and just after it agree, and
//! its value is compared with that floor and no other.

use std::time::{Duration, Instant, SystemTime};

use crate::error::Result;
use crate::floor_log::FloorLog;
use crate::process::Pool;
use crate::protocol::{Outcome, Subject, Work};
use crate::stats::paired_ratios;

/// The two floors of a slice may differ by this share of the smaller one.
const FLOORS_AGREE_WITHIN: f64 = 0.10;

/// Slices below which a row has no verdict.
pub(crate) const SLICES_MIN: usize = 5;

/// A slice before the first that counts, so that caches, pages and branch predictors know the code.
const WARM_UP: Duration = Duration::from_millis(30);

/// The two processes that measure the floor.
const PAIR: [usize; 2] = [0, 1];

/// Which floor a scenario is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloorKind {
    /// Nanoseconds one way.
    Line,
    /// Messages a second of this payload size.
    Ring(usize),
    /// Nanoseconds one way.
    Wake,
    /// Bytes a second, copied in blocks of this size.
    Memcpy(usize),
    /// Nanoseconds one way, measured just long enough to tell the machine's mode.
    Glance,
}

impl FloorKind {
    /// The name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Line | Self::Glance => "line",
            Self::Ring(_) => "ring",
            Self::Wake => "wake",
            Self::Memcpy(_) => "memcpy",
        }
    }

    /// The steps of one floor slice, each with the workers that take part.
    fn steps(self) -> Vec<(&'static [usize], Work)> {
        const MS: u64 = 1_000_000;
        match self {
            Self::Line => vec![(&PAIR, Work::Line { ns: 15 * MS })],
            Self::Glance => vec![(&PAIR, Work::Line { ns: 3 * MS })],
            Self::Wake => vec![(&PAIR, Work::Wake { ns: 20 * MS })],
            Self::Memcpy(block_bytes) => vec![(&PAIR[..1], Work::Memcpy { block_bytes, ns: 15 * MS })],
            Self::Ring(payload_bytes) => {
                // A block of large messages takes longer, and there must be several.
                let ms = match payload_bytes {
                    0..=1_024 => 8,
                    1_025..=65_536 => 15,
                    _ => 40,
                };
                // Both readers; the faster one is the floor.
                let ring = |ahead| Work::Ring { payload_bytes, ahead, ns: ms * MS };
                vec![(&PAIR, ring(false)), (&PAIR, ring(true))]
            }
        }
    }

    /// How long one floor slice takes.
    pub(crate) fn length(self) -> Duration {
        self.steps().iter().map(|(_, work)| work.length()).sum()
    }

    /// The value of one step, in the unit of the kind.
    fn value(self, outcomes: &[Outcome]) -> Option<f64> {
        let per_op = outcomes.iter().rev().find_map(|outcome| outcome.block_ns).filter(|ns| *ns > 0.0)?;
        Some(match self {
            Self::Line | Self::Wake | Self::Glance => per_op,
            Self::Ring(_) => 1e9 / per_op,
            Self::Memcpy(block_bytes) => block_bytes as f64 * 1e9 / per_op,
        })
    }
}

/// What one floor slice has shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    /// In the unit of its kind.
    value: f64,
    /// 99 of 100 single operations take at most so many nanoseconds, where they are timed (line).
    p99_ns: Option<f64>,
}

/// Runs one floor slice.
pub(crate) fn floor(pool: &mut Pool, log: &mut FloorLog, kind: FloorKind) -> Result<Option<Floor>> {
    let mut best: Option<f64> = None;
    let mut p99_ns = None;
    for (parts, work) in kind.steps() {
        let outcomes = pool.run(parts, &work)?;
        let value = kind.value(&outcomes);
        log.corrupt += outcomes.iter().map(|outcome| outcome.corrupt).sum::<u64>();
        if matches!(kind, FloorKind::Line | FloorKind::Glance) {
            log.line_histogram.merge_sparse(&outcomes[0].histogram);
            p99_ns = Some(outcomes[0].histogram.to_nanos().quantile(0.99) as f64).filter(|ns| *ns > 0.0);
        } else if kind == FloorKind::Wake {
            log.wake_histogram.merge_sparse(&outcomes[1].histogram);
        }
        best = [best, value].into_iter().flatten().reduce(f64::max);
    }
    if let Some(value) = best {
        log.note(kind, value);
    }
    Ok(best.map(|value| Floor { value, p99_ns }))
}

/// One scenario with its settings (or what a guest brings instead), as one of a group that is measured in turn.
#[derive(Debug, Clone)]
pub struct Entry<S> {
    /// What the workers open.
    pub spec: S,
    /// The workers that take part, from 0; the place in the list is the role.
    pub parts: Vec<usize>,
    /// Length of a slice (scenarios of a fixed number of messages ignore it).
    pub slice: Duration,
}

/// A slice that counts.
#[derive(Debug)]
pub struct Slice {
    /// Mean of the two floors around it.
    pub floor: f64,
    /// The same of what 99 of 100 single operations of those floors take at most, where they are timed.
    pub floor_p99_ns: Option<f64>,
    /// Slices of the same round were measured right after each other.
    pub round: usize,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// One a worker, in the order of the roles.
    pub outcomes: Vec<Outcome>,
}

/// What came of one entry.
#[derive(Debug, Default)]
pub struct Measured {
    /// Slices whose two floors agree.
    pub used: Vec<Slice>,
    /// How many others there were.
    pub dropped: usize,
    /// Messages that did not arrive, over all slices, used or not.
    pub lost: u64,
    /// Messages that arrived after a later one, likewise.
    pub out_of_order: u64,
    /// Messages whose content was not what their number says, likewise.
    pub corrupt: u64,
}

impl Measured {
    /// One number a slice that counts.
    pub(crate) fn values(&self, of: impl Fn(&Slice) -> Option<f64>) -> Vec<f64> {
        self.used.iter().filter_map(of).collect()
    }

    /// The number of each slice in relation to its own floor.
    pub(crate) fn to_floor(&self, of: impl Fn(&Slice) -> Option<f64>) -> Vec<f64> {
        let pairs: Vec<(f64, f64)> =
            self.used.iter().filter_map(|slice| Some((of(slice)?, slice.floor))).collect();
        let (values, floors): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        paired_ratios(&values, &floors)
    }

    /// The number of each slice in relation to that of the other entry in the same round, both taken relative to
    /// their floors where `by_floor` says so.
    pub(crate) fn to_other(
        &self,
        other: &Self,
        by_floor: bool,
        of: impl Fn(&Slice) -> Option<f64>,
    ) -> Vec<f64> {
        let number = |slice: &Slice| Some(of(slice)? / if by_floor { slice.floor } else { 1.0 });
        let (ours, theirs): (Vec<f64>, Vec<f64>) = self.pairs(other, number).into_iter().unzip();
        paired_ratios(&ours, &theirs)
    }

    /// The number of each slice, and that of the other entry in the same round.
    pub(crate) fn pairs(&self, other: &Self, of: impl Fn(&Slice) -> Option<f64>) -> Vec<(f64, f64)> {
        let pair = |slice: &Slice| {
            let partner = other.used.iter().find(|partner| partner.round == slice.round)?;
            Some((of(slice)?, of(partner)?))
        };
        self.used.iter().filter_map(pair).collect()
    }

    fn take(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            self.lost += outcome.lost;
            self.out_of_order += outcome.out_of_order;
            self.corrupt += outcome.corrupt;
        }
    }
}

/// How far a group goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Slices wanted of each entry.
    pub goal: usize,
    /// Time after which no further round is begun, except for a verdict.
    pub budget: Duration,
    /// Time after which no further round is begun at all.
    pub hard: Duration,
}

/// Measures the entries in turn (A B A B) until each has enough slices or the time is up.
pub(crate) fn measure<S: Clone + Into<Subject>>(
    pool: &mut Pool,
    log: &mut FloorLog,
    entries: &[Entry<S>],
    kind: FloorKind,
    first_slot: u32,
    limits: Limits,
) -> Result<Vec<Measured>> {
    let slots: Vec<u32> = (first_slot..).take(entries.len()).collect();
    for (entry, &slot) in entries.iter().zip(&slots) {
        pool.run(&entry.parts, &Work::Open { slot, subject: entry.spec.clone().into() })?;
        pool.run(&entry.parts, &Work::Slice { slot, ns: WARM_UP.as_nanos() as u64 })?;
    }
    let mut all: Vec<Measured> = entries.iter().map(|_| Measured::default()).collect();
    let begun = Instant::now();
    let mut before = floor(pool, log, kind)?;
    let mut round = 0;
    let wanted = |all: &[Measured]| all.iter().any(|measured| measured.used.len() < limits.goal);
    // At least one round, however late it is: a row without a figure helps nobody.
    let time_left = |round: usize| {
        let limit = if round < SLICES_MIN { limits.hard } else { limits.budget };
        round == 0 || begun.elapsed() < limit
    };
    while wanted(&all) && time_left(round) {
        for ((entry, &slot), measured) in entries.iter().zip(&slots).zip(&mut all) {
            let (started, instant) = (SystemTime::now(), Instant::now());
            let outcomes =
                pool.run(&entry.parts, &Work::Slice { slot, ns: entry.slice.as_nanos() as u64 })?;
            let took = instant.elapsed();
            let after = floor(pool, log, kind)?;
            measured.take(&outcomes);
            match agreed(before, after) {
                Some(Floor { value: floor, p99_ns: floor_p99_ns }) => {
                    measured.used.push(Slice { floor, floor_p99_ns, round, started, took, outcomes });
                }
                None => measured.dropped += 1,
            }
            before = after;
        }
        round += 1;
    }
    for (entry, &slot) in entries.iter().zip(&slots) {
        pool.run(&entry.parts, &Work::Close { slot })?;
    }
    Ok(all)
}

/// The mean of the two floors, if they agree.
fn agreed(before: Option<Floor>, after: Option<Floor>) -> Option<Floor> {
    let (before, after) = (before?, after?);
    let apart = (before.value - after.value).abs();
    (apart <= FLOORS_AGREE_WITHIN * before.value.min(after.value)).then(|| Floor {
        value: f64::midpoint(before.value, after.value),
        p99_ns: before.p99_ns.zip(after.p99_ns).map(|(before, after)| f64::midpoint(before, after)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(round: usize, floor: f64, value: f64) -> Slice {
        let outcomes = vec![Outcome { block_ns: Some(value), ..Outcome::default() }];
        Slice { floor, floor_p99_ns: None, round, started: SystemTime::now(), took: Duration::ZERO, outcomes }
    }

    fn value(slice: &Slice) -> Option<f64> {
        slice.outcomes[0].block_ns
    }

    #[test]
    fn floors_that_disagree_drop_the_slice() {
        let of = |value| Some(Floor { value, p99_ns: Some(2.0 * value) });
        let mean = |before, after| agreed(before, after).map(|floor| (floor.value, floor.p99_ns));
        assert_eq!(mean(of(50.0), of(54.0)), Some((52.0, Some(104.0))));
        assert_eq!(mean(of(50.0), of(56.0)), None);
        assert_eq!(mean(of(220.0), of(52.0)), None);
        assert_eq!(mean(None, of(52.0)), None);
    }

    #[test]
    fn each_slice_is_compared_with_its_own_floor() {
        let measured =
            Measured { used: vec![slice(0, 50.0, 100.0), slice(1, 200.0, 420.0)], ..Measured::default() };
        assert_eq!(measured.to_floor(value), vec![2.0, 2.1]);
    }

    #[test]
    fn pairs_come_from_the_same_round() {
        let one = Measured { used: vec![slice(0, 50.0, 20.0), slice(2, 50.0, 40.0)], ..Measured::default() };
        let eight =
            Measured { used: vec![slice(0, 50.0, 22.0), slice(1, 200.0, 90.0)], ..Measured::default() };
        assert_eq!(eight.to_other(&one, false, value), vec![1.1]);
    }

    #[test]
    fn the_value_of_a_ring_is_a_rate() {
        let outcomes = [Outcome::default(), Outcome { block_ns: Some(5.0), ..Outcome::default() }];
        assert_eq!(FloorKind::Ring(64).value(&outcomes), Some(2e8));
        assert_eq!(FloorKind::Memcpy(65_536).value(&outcomes[1..]), Some(65_536.0 * 2e8));
        assert_eq!(FloorKind::Line.value(&outcomes[..1]), None);
    }
}
