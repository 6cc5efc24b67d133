//! Us and a peer in turn, pair by pair, and what the pairs say.

use std::time::Duration;

use bus_bench::BenchError;
use bus_bench::guest::{Engine, Entry, Limits, Measured, Nanos, Slice};
use bus_bench::histogram::Summary;
use bus_bench::stats::{Interval, bootstrap_median, median, paired_ratios};
use serde::Serialize;

use crate::peers::{Peer, Promises};
use crate::way::{Cell, Kind, Ours, Work, failed};
use crate::ways::shmbus;

/// Pairs in one mode of the machine below which nothing is said.
pub(crate) const PAIRS_MIN: usize = 20;

/// The floors of the two slices of a pair differ by less than this factor.
const PAIR_AGREES: f64 = 1.25;

/// A gap this wide between the floors of two pairs separates two modes of the machine.
const MODE_GAP: f64 = 1.3;

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) slice: Duration,
    pub(crate) pairs: usize,
    /// For one attempt.
    pub(crate) budget: Duration,
    /// Attempts to get enough pairs in one mode.
    pub(crate) attempts: usize,
}

/// What the pairs say about us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The whole interval is at 1 or beyond: we are not slower.
    Won,
    /// The interval holds 1.
    Equal,
    /// The whole interval is below 1.
    Lost,
    /// Too few pairs in one mode of the machine.
    Unsettled,
    /// Shown, not judged: the peer promises something else.
    Reference,
}

/// One side of a comparison.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Side {
    /// Median of the slices, nanoseconds a message (one way, half of a round trip; or between two messages).
    pub(crate) ns: f64,
    /// Single messages, one way, by a clock that both processes share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) one_way_ns: Option<Summary>,
    /// Messages a second, those to all readers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) msgs_per_s: Option<f64>,
    /// Messages that were lost, of all.
    pub(crate) lost_share: f64,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) peer: &'static str,
    pub(crate) tuned: bool,
    pub(crate) setting: &'static str,
    pub(crate) compared_with: String,
    pub(crate) promises: Promises,
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
    pub(crate) readers: usize,
    pub(crate) theirs: Side,
    pub(crate) ours: Side,
    /// Their time over ours: above 1 we are faster.
    pub(crate) ratio: Option<f64>,
    pub(crate) interval_95: Option<Interval>,
    /// Pairs in the mode of the machine that had most of them, and in all modes.
    pub(crate) pairs: usize,
    pub(crate) pairs_of_all_modes: usize,
    /// A cache line from core to core in that mode.
    pub(crate) line_ns: f64,
    pub(crate) verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// How the row of ours is set.
pub(crate) fn name_of(ours: Ours) -> String {
    let mut name = String::from(if ours.one_producer { "producers(1)" } else { "producers(n)" });
    name.push_str(if ours.tuned { ", no stamps, batches" } else { ", defaults" });
    name.push_str(match (ours.tap, ours.spin) {
        (true, _) => ", tap",
        (false, true) => ", spin",
        (false, false) => "",
    });
    name
}

/// A slice of ours and the slice of the peer right after it.
struct Pair {
    line_ns: f64,
    ours: Slice,
    theirs: Slice,
}

/// Measures one peer at one work.
pub(crate) fn compare(
    engine: &mut Engine,
    peer: &Peer,
    work: Work,
    server: &str,
    pace: Pace,
    serial: &mut u64,
) -> Row {
    let mut row = Row {
        peer: peer.name,
        tuned: peer.tuned,
        setting: peer.setting,
        compared_with: name_of(peer.ours),
        promises: peer.promises,
        kind: work.kind,
        bytes: work.bytes,
        readers: work.readers,
        theirs: Side::default(),
        ours: Side::default(),
        ratio: None,
        interval_95: None,
        pairs: 0,
        pairs_of_all_modes: 0,
        line_ns: 0.0,
        verdict: Verdict::Unsettled,
        error: None,
    };
    let mut pairs = Vec::new();
    for _ in 0..pace.attempts {
        match attempt(engine, peer, work, server, pace, serial) {
            Ok(more) => pairs.extend(more),
            Err(error) => {
                row.error = Some(error.to_string());
                return row;
            }
        }
        if of_one_mode(&pairs).len() >= PAIRS_MIN {
            break;
        }
    }
    judge(&mut row, peer, &pairs);
    row
}

fn attempt(
    engine: &mut Engine,
    peer: &Peer,
    work: Work,
    server: &str,
    pace: Pace,
    serial: &mut u64,
) -> Result<Vec<Pair>, BenchError> {
    *serial += 1;
    let [_, other_core] = engine.cores();
    let ours = Cell {
        peer: "shmbus".into(),
        tuned: peer.ours.tuned,
        kind: work.kind,
        bytes: work.bytes,
        readers: work.readers,
        directory: engine.directory(),
        name: format!("shmbus-peers-{}-{serial}", std::process::id()),
        block: 256,
        window: 0,
        lossy: peer.ours.tap,
        other_core,
        ours: peer.ours,
        as_its_own: false,
        server: String::new(),
    };
    let theirs = Cell {
        peer: peer.name.into(),
        tuned: peer.tuned,
        name: format!("{}-peer", ours.name),
        block: peer.block,
        window: peer.window,
        lossy: peer.lossy,
        server: server.into(),
        ..ours.clone()
    };
    // This process hosts the supervisor, away from what is measured.
    let _bus = shmbus::bus(&ours, "bench", true)?;
    let entry = |cell: &Cell, parts: &[usize]| -> Result<Entry<String>, BenchError> {
        let spec = serde_json::to_string(cell).map_err(|error| failed("describing a cell", error))?;
        Ok(Entry { spec, parts: parts.to_vec(), slice: pace.slice })
    };
    let parts: &[usize] = if peer.alone { &[0] } else { &[0, 1] };
    let entries = [entry(&ours, &[0, 1])?, entry(&theirs, parts)?];
    let limits = Limits { goal: pace.pairs, budget: pace.budget, hard: pace.budget * 2 };
    let measured = engine.measure(&entries, limits);
    sweep(&ours.name);
    let mut measured = measured?;
    let (theirs, ours) = (measured.pop().unwrap_or_default(), measured.pop().unwrap_or_default());
    for (side, name, lossy) in [(&ours, "shmbus", peer.ours.tap), (&theirs, peer.name, peer.lossy)] {
        let wrong = side.corrupt + side.out_of_order + if lossy { 0 } else { side.lost };
        if wrong > 0 {
            let text = format!(
                "{} messages were lost, {} out of order, {} not what was sent",
                side.lost, side.out_of_order, side.corrupt
            );
            return Err(failed(name, text));
        }
    }
    Ok(paired(ours, theirs))
}

/// Removes what a peer has left in shared memory: its own clean-up knows only ends of its own choosing.
pub(crate) fn sweep(name: &str) {
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return };
    for entry in entries.flatten() {
        // Names go on with a dash or end: `-1` is not `-12`.
        let file = entry.file_name().to_string_lossy().into_owned();
        let ours = file.find(name).map(|at| &file[at + name.len()..]);
        if ours.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit())) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Slices of the same round whose floors agree.
fn paired(ours: Measured, theirs: Measured) -> Vec<Pair> {
    let mut theirs = theirs.used.into_iter().peekable();
    let mut pairs = Vec::new();
    for ours in ours.used {
        while theirs.next_if(|slice| slice.round < ours.round).is_some() {}
        let Some(theirs) = theirs.next_if(|slice| slice.round == ours.round) else { continue };
        if ours.floor.max(theirs.floor) < PAIR_AGREES * ours.floor.min(theirs.floor) {
            pairs.push(Pair { line_ns: f64::midpoint(ours.floor, theirs.floor), ours, theirs });
        }
    }
    pairs
}

/// The pairs of the mode that has most of them. Modes lie factors apart, so a gap in the sorted floors separates them.
fn of_one_mode(pairs: &[Pair]) -> Vec<&Pair> {
    let mut sorted: Vec<&Pair> = pairs.iter().collect();
    sorted.sort_by(|a, b| a.line_ns.total_cmp(&b.line_ns));
    let mut best: Vec<&Pair> = Vec::new();
    for mode in sorted.chunk_by(|a, b| b.line_ns < a.line_ns * MODE_GAP) {
        if mode.len() > best.len() {
            best = mode.to_vec();
        }
    }
    best
}

/// The time of a message in a slice: whoever of the two has measured it.
fn time(slice: &Slice) -> f64 {
    slice.outcomes.iter().find_map(|outcome| outcome.block_ns).unwrap_or(f64::NAN)
}

fn judge(row: &mut Row, peer: &Peer, pairs: &[Pair]) {
    let mode = of_one_mode(pairs);
    row.pairs = mode.len();
    row.pairs_of_all_modes = pairs.len();
    row.line_ns = median(&mode.iter().map(|pair| pair.line_ns).collect::<Vec<_>>()).unwrap_or(0.0);
    let slices = |of: fn(&Pair) -> &Slice| mode.iter().map(|pair| of(pair)).collect::<Vec<_>>();
    let (ours, theirs) = (slices(|pair| &pair.ours), slices(|pair| &pair.theirs));
    row.ours = side(row.kind, &ours);
    row.theirs = side(row.kind, &theirs);
    let times = |slices: &[&Slice]| slices.iter().map(|slice| time(slice)).collect::<Vec<_>>();
    let ratios = paired_ratios(&times(&theirs), &times(&ours));
    row.ratio = median(&ratios);
    row.interval_95 = bootstrap_median(&ratios);
    row.verdict = verdict(ratios.len(), row.interval_95, peer.reference);
}

fn verdict(pairs: usize, interval: Option<Interval>, reference: bool) -> Verdict {
    match interval {
        _ if reference => Verdict::Reference,
        Some(interval) if pairs >= PAIRS_MIN => {
            if interval.low >= 1.0 {
                Verdict::Won
            } else if interval.high >= 1.0 {
                Verdict::Equal
            } else {
                Verdict::Lost
            }
        }
        _ => Verdict::Unsettled,
    }
}

fn side(kind: Kind, slices: &[&Slice]) -> Side {
    let ns = median(&slices.iter().map(|slice| time(slice)).collect::<Vec<_>>()).unwrap_or(0.0);
    let mut times = Nanos::new();
    let (mut lost, mut received) = (0, 0);
    for outcome in slices.iter().flat_map(|slice| &slice.outcomes) {
        times.merge_sparse(&outcome.histogram);
        lost += outcome.lost;
        received += if outcome.role == "producer" { 0 } else { outcome.ops };
    }
    let throughput = kind != Kind::Latency && ns > 0.0;
    Side {
        ns,
        one_way_ns: (times.count() > 0).then(|| times.summary()),
        msgs_per_s: throughput.then(|| 1e9 / ns),
        lost_share: if lost > 0 { lost as f64 / (lost + received) as f64 } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_bench::guest::Outcome;
    use std::time::SystemTime;

    fn slice(round: usize, floor: f64, ns: f64) -> Slice {
        let outcomes =
            vec![Outcome::of("producer"), Outcome { block_ns: Some(ns), ..Outcome::of("consumer") }];
        Slice { floor, floor_p99_ns: None, round, started: SystemTime::now(), took: Duration::ZERO, outcomes }
    }

    fn measured(slices: &[(usize, f64, f64)]) -> Measured {
        let used = slices.iter().map(|&(round, floor, ns)| slice(round, floor, ns)).collect();
        Measured { used, ..Measured::default() }
    }

    #[test]
    fn pairs_are_of_one_round_and_one_mode() {
        let ours = measured(&[(0, 50.0, 10.0), (1, 50.0, 10.0), (3, 250.0, 40.0), (4, 50.0, 10.0)]);
        let theirs = measured(&[(0, 51.0, 20.0), (2, 50.0, 20.0), (3, 50.0, 20.0), (4, 52.0, 30.0)]);
        let pairs = paired(ours, theirs);
        let rounds: Vec<usize> = pairs.iter().map(|pair| pair.ours.round).collect();
        assert_eq!(rounds, vec![0, 4]);
    }

    #[test]
    fn the_mode_with_most_pairs_counts() {
        let floors = [50.0, 250.0, 52.0, 26.0, 245.0, 49.0];
        let rounds: Vec<(usize, f64, f64)> =
            floors.iter().enumerate().map(|(round, floor)| (round, *floor, 1.0)).collect();
        let pairs = paired(measured(&rounds), measured(&rounds));
        let mode: Vec<f64> = of_one_mode(&pairs).iter().map(|pair| pair.line_ns).collect();
        assert_eq!(mode, vec![49.0, 50.0, 52.0]);
    }

    #[test]
    fn verdicts_follow_the_interval_and_need_twenty_pairs() {
        let of = |low, high, pairs| verdict(pairs, Some(Interval { low, high }), false);
        assert_eq!(of(1.0, 1.2, 20), Verdict::Won);
        assert_eq!(of(0.9, 1.0, 20), Verdict::Equal);
        assert_eq!(of(0.8, 0.99, 20), Verdict::Lost);
        assert_eq!(of(2.0, 3.0, 19), Verdict::Unsettled);
        assert_eq!(verdict(40, Some(Interval { low: 2.0, high: 3.0 }), true), Verdict::Reference);
    }
}
