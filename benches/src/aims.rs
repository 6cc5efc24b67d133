//! What the bus is meant to reach some day, beside what it does. Full runs show these figures; they are never part of the verdict.
//! Everything is for stamps switched off and readers that spin, where a row does not say otherwise.

use crate::report::{Aim, ScenarioReport};
use crate::rows::{Row, block, crew_rate};
use crate::slices::Slice;
use crate::spec::{Crew, Scenario, Spec, WaitMode};
use crate::stats::{bootstrap_median, median};

/// One way to the line, with `producers(1)` and with many.
const LATENCY_TO_LINE: [f64; 2] = [1.15, 1.8];
/// What 99 of 100 single messages take at most, to the same of the line.
const P99_TO_LINE: f64 = 1.6;
/// Messages a second one by one, to the ring, with `producers(1)` and with many.
const ONE_BY_ONE_TO_RING: [f64; 2] = [0.65, 0.4];
/// The same in batches on both sides.
const IN_BATCHES_TO_RING: [f64; 2] = [0.9, 0.5];
/// What a stamp adds to a message, in nanoseconds.
const STAMP_NS: f64 = 10.0;
/// Messages a second that are written where they are read, to the ring of that payload.
const IN_PLACE_TO_RING: f64 = 0.8;
/// Publish cost with several groups, to that with one.
const FANOUT_TO_ONE: f64 = 1.1;
/// Numbers of groups for which deliveries a second are shown.
const DELIVERIES_GROUPS: [usize; 2] = [4, 8];
/// What two producers bring together, to what one brings; where each process has a core.
const TWO_PRODUCERS_TO_ONE: f64 = 0.5;
/// Messages a second of a shared group with two members, acknowledged one by one.
const SHARED_MSGS_PER_S: f64 = 10e6;
/// The same in batches that are acknowledged together.
const SHARED_IN_BATCHES_MSGS_PER_S: f64 = 40e6;
/// Half of the messages of a fast reader that may sleep, one way, in nanoseconds.
const PACED_NS: f64 = 1_000.0;
/// The share of a core that a reader takes for a thousand messages a second, in percent.
const SPARSE_CPU_PERCENT: f64 = 5.0;

/// Rate up to which a reader is expected to sleep between messages.
const SPARSE_HZ_MAX: u64 = 10_000;

/// Adds to a row the figures for which something is aimed at.
pub(crate) fn add(report: &mut ScenarioReport, row: &Row<'_>, rows: &[Row<'_>]) {
    let spec = row.spec;
    report.aims = match spec.scenario {
        _ if spec.bare || spec.asks => Vec::new(),
        Scenario::Latency if is_headline(spec) => latency(report, row),
        Scenario::Throughput if spec.total => total(report, row),
        Scenario::Throughput if spec.in_place => {
            let what = "messages/s to a bare ring of this payload";
            vec![to_floor(report, what).at_least(IN_PLACE_TO_RING)]
        }
        Scenario::Throughput if is_headline(spec) => throughput(report, row, rows),
        Scenario::Fanout => fanout(report, row),
        Scenario::Mpmc => crew(row),
        Scenario::Paced if spec.payload_bytes == 64 && spec.wait == WaitMode::Adaptive => paced(row),
        _ => Vec::new(),
    };
}

/// The settings that aims are for.
fn is_headline(spec: &Spec) -> bool {
    spec.no_stamps && spec.wait == WaitMode::Spin && spec.payload_bytes == 64 && spec.capacity == 0
}

/// The one of two limits that is for this number of producers.
fn limit(spec: &Spec, limits: [f64; 2]) -> f64 {
    limits[usize::from(!spec.one_producer)]
}

/// A figure with one value a slice.
fn figure(what: &str, unit: &str, values: &[f64]) -> Aim {
    let (value, interval_95) = (median(values), bootstrap_median(values));
    Aim { what: what.into(), unit: unit.into(), value, interval_95, ..Aim::default() }
}

/// The row's own ratio to its floor.
fn to_floor(report: &ScenarioReport, what: &str) -> Aim {
    let (value, interval_95) = (report.to_floor, report.to_floor_95);
    Aim { what: what.into(), value, interval_95, ..Aim::default() }
}

impl Aim {
    fn at_most(self, limit: f64) -> Self {
        Self { at_most: Some(limit), ..self }
    }

    fn at_least(self, limit: f64) -> Self {
        Self { at_least: Some(limit), ..self }
    }
}

fn latency(report: &ScenarioReport, row: &Row<'_>) -> Vec<Aim> {
    let p99 = |slice: &Slice| {
        let ours = slice.outcomes[0].histogram.to_nanos().quantile(0.99);
        slice.floor_p99_ns.filter(|ns| ours > 0 && *ns > 0.0).map(|floor| ours as f64 / floor)
    };
    vec![
        to_floor(report, "one way to the line").at_most(limit(row.spec, LATENCY_TO_LINE)),
        figure("p99 of single messages to the line's p99", "", &row.measured.values(p99))
            .at_most(P99_TO_LINE),
    ]
}

fn throughput(report: &ScenarioReport, row: &Row<'_>, rows: &[Row<'_>]) -> Vec<Aim> {
    let spec = row.spec;
    let what = "messages/s to the ring";
    match (spec.batch, spec.publish_batch) {
        (0, 0) => {}
        (taken, sent) if taken == sent => {
            return vec![to_floor(report, what).at_least(limit(spec, IN_BATCHES_TO_RING))];
        }
        _ => return Vec::new(),
    }
    let mut aims = vec![to_floor(report, what).at_least(limit(spec, ONE_BY_ONE_TO_RING))];
    // Nothing but the stamp is different.
    let stamped = rows.iter().find(|other| {
        *other.spec == Spec { no_stamps: false, topic: other.spec.topic.clone(), ..spec.clone() }
    });
    if let Some(stamped) = stamped {
        let pairs = row.measured.pairs(stamped.measured, block(1));
        let differences: Vec<f64> = pairs.into_iter().map(|(without, with)| with - without).collect();
        aims.push(figure("what stamps add to a message", "ns", &differences).at_most(STAMP_NS));
    }
    aims
}

fn total(report: &ScenarioReport, row: &Row<'_>) -> Vec<Aim> {
    let Some(ratio) = &report.ratio else { return Vec::new() };
    let what = "messages/s to those of one producer".into();
    let aim = Aim { what, value: Some(ratio.value), interval_95: ratio.interval_95, ..Aim::default() };
    // Two producers that take turns on a core show nothing of what they do to each other.
    vec![if row.has_its_cores() { aim.at_least(TWO_PRODUCERS_TO_ONE) } else { aim }]
}

fn fanout(report: &ScenarioReport, row: &Row<'_>) -> Vec<Aim> {
    let mut aims = Vec::new();
    if let Some(ratio) = &report.ratio {
        let what = "publish cost to that with one group".into();
        let aim = Aim { what, value: Some(ratio.value), interval_95: ratio.interval_95, ..Aim::default() };
        aims.push(aim.at_most(FANOUT_TO_ONE));
    }
    if DELIVERIES_GROUPS.contains(&row.spec.groups) {
        let (what, unit) = ("read by all groups together, on one core".into(), "messages/s".into());
        aims.push(Aim { what, unit, value: report.deliveries_per_s, ..Aim::default() });
    }
    aims
}

fn crew(row: &Row<'_>) -> Vec<Aim> {
    let spec = row.spec;
    let rates = row.measured.values(|slice| crew_rate(spec, slice));
    match (spec.crew, spec.batch) {
        (Crew::Calls, _) => Vec::new(),
        (Crew::Stream, 0) => {
            vec![figure("acknowledged one by one", "messages/s", &rates).at_least(SHARED_MSGS_PER_S)]
        }
        (Crew::Stream, _) => vec![
            figure("acknowledged in batches", "messages/s", &rates).at_least(SHARED_IN_BATCHES_MSGS_PER_S),
        ],
        (Crew::Drain, 0) => vec![figure("one member, acknowledged one by one", "messages/s", &rates)],
        (Crew::Drain, _) => vec![figure("one member, acknowledged in batches", "messages/s", &rates)],
    }
}

fn paced(row: &Row<'_>) -> Vec<Aim> {
    if row.spec.rate_hz > SPARSE_HZ_MAX {
        return vec![figure("one way p50", "ns", &row.measured.values(block(1))).at_most(PACED_NS)];
    }
    let percent = |slice: &Slice| slice.outcomes[1].figure("cpu_share").map(|share| 100.0 * share);
    let what = "the reader's share of a core";
    vec![figure(what, "%", &row.measured.values(percent)).at_most(SPARSE_CPU_PERCENT)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::Cores;
    use crate::plan::Group;
    use crate::protocol::Outcome;
    use crate::rows::{Surroundings, build};
    use crate::slices::{Entry, FloorKind, Measured};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    /// Rows of entries whose slices all took so many nanoseconds a message, and as much again for other things, on so many cores.
    fn rows(entries: &[(Spec, f64)], floor: f64, cores: usize, aims: bool) -> Vec<ScenarioReport> {
        let slice = |spec: &Spec, ns: f64, round| {
            let mut outcome = Outcome { block_ns: Some(ns), ops: 1_000, ..Outcome::of("consumer") };
            let mut histogram = crate::histogram::Nanos::new();
            histogram.record(160);
            outcome.histogram = histogram.to_sparse();
            outcome.figures = [("elapsed_ns".into(), 2.0 * ns * 1_000.0), ("cpu_share".into(), 0.04)].into();
            let outcomes = vec![outcome; spec.producers + spec.consumers];
            let (started, took) = (SystemTime::now(), Duration::from_millis(200));
            Slice { floor, floor_p99_ns: Some(80.0), round, started, took, outcomes }
        };
        let measured: Vec<Measured> = entries
            .iter()
            .map(|(spec, ns)| Measured {
                used: (0..5).map(|round| slice(spec, *ns, round)).collect(),
                ..Measured::default()
            })
            .collect();
        let entry = |(spec, _): &(Spec, f64)| Entry {
            spec: spec.clone(),
            parts: (0..spec.producers + spec.consumers).collect(),
            slice: Duration::from_millis(200),
        };
        let entries = entries.iter().map(entry).collect();
        let group = Group { floor: FloorKind::Ring(64), entries, goal: 5, skipped: None };
        let cores = Cores { list: (0..cores).collect(), pinned: true, physical: true };
        build(&group, &measured, &Surroundings { cores: &cores, directory: Path::new("/nonexistent"), aims })
    }

    fn unstamped(scenario: Scenario) -> Spec {
        Spec { no_stamps: true, ..Spec::of(scenario) }
    }

    fn figures(report: &ScenarioReport) -> Vec<(&str, f64, Option<f64>)> {
        let limit = |aim: &Aim| aim.at_most.or(aim.at_least);
        report.aims.iter().map(|aim| (aim.what.as_str(), aim.value.unwrap(), limit(aim))).collect()
    }

    #[test]
    fn latency_and_its_p99_stand_beside_the_line() {
        let one = Spec { one_producer: true, ..unstamped(Scenario::Latency) };
        let rows = rows(&[(unstamped(Scenario::Latency), 80.0), (one, 60.0)], 40.0, 2, true);
        let p99 = "p99 of single messages to the line's p99";
        assert_eq!(figures(&rows[0]), [("one way to the line", 2.0, Some(1.8)), (p99, 2.0, Some(1.6))]);
        assert_eq!(figures(&rows[1])[0], ("one way to the line", 1.5, Some(1.15)));
        assert!(rows.iter().all(|row| row.target.is_none()), "an aim is no target");
    }

    #[test]
    fn only_a_full_run_has_aims() {
        let rows = rows(&[(unstamped(Scenario::Latency), 80.0)], 40.0, 2, false);
        assert!(rows[0].aims.is_empty());
    }

    #[test]
    fn what_stamps_add_is_the_difference_of_rows_that_differ_in_nothing_else() {
        let specs = [
            (Spec::of(Scenario::Throughput), 50.0),
            (Spec { one_producer: true, ..Spec::of(Scenario::Throughput) }, 40.0),
            (unstamped(Scenario::Throughput), 43.0),
            (Spec { one_producer: true, ..unstamped(Scenario::Throughput) }, 35.0),
            (Spec { batch: 64, ..Spec::of(Scenario::Throughput) }, 90.0),
        ];
        let specs = specs.into_iter().zip(["a", "b", "c", "d", "e"]);
        let specs: Vec<_> =
            specs.map(|((spec, ns), topic)| (Spec { topic: topic.into(), ..spec }, ns)).collect();
        let rows = rows(&specs, 1e8, 2, true);
        assert!(rows[0].aims.is_empty() && rows[1].aims.is_empty() && rows[4].aims.is_empty());
        assert_eq!(figures(&rows[2])[1], ("what stamps add to a message", 7.0, Some(10.0)));
        assert_eq!(figures(&rows[3])[1], ("what stamps add to a message", 5.0, Some(10.0)));
        assert_eq!(figures(&rows[3])[0].2, Some(0.65));
    }

    #[test]
    fn batches_have_an_aim_of_their_own_where_both_sides_take_them() {
        let reader = Spec { batch: 16, ..unstamped(Scenario::Throughput) };
        let both = Spec { publish_batch: 16, ..reader.clone() };
        let one = Spec { one_producer: true, ..both.clone() };
        let rows = rows(&[(reader, 20.0), (both, 20.0), (one, 20.0)], 1e8, 2, true);
        assert!(rows[0].aims.is_empty());
        assert_eq!(figures(&rows[1]), [("messages/s to the ring", 0.5, Some(0.5))]);
        assert_eq!(figures(&rows[2]), [("messages/s to the ring", 0.5, Some(0.9))]);
    }

    #[test]
    fn two_producers_are_reported_and_aimed_at_where_each_has_a_core() {
        let of = |producers| Spec { total: true, producers, ..unstamped(Scenario::Throughput) };
        let aims = |cores| {
            let rows = rows(&[(of(1), 40.0), (of(2), 50.0)], 1e8, cores, true);
            assert!(rows[0].aims.is_empty());
            rows[1].aims[0].clone()
        };
        assert!((aims(3).value.unwrap() - 0.8).abs() < 1e-9);
        assert_eq!((aims(3).at_least, aims(2).at_least), (Some(0.5), None));
        assert!((aims(2).value.unwrap() - 0.8).abs() < 1e-9);
    }

    #[test]
    fn shared_groups_count_all_members_and_a_member_alone_its_own_time() {
        let of = |crew, batch, consumers| {
            let spec = unstamped(Scenario::Mpmc);
            Spec { crew, batch, consumers, ..spec }
        };
        let specs = [of(Crew::Stream, 0, 2), of(Crew::Stream, 64, 2), of(Crew::Drain, 0, 1)];
        let rows = rows(&specs.map(|spec| (spec, 50.0)), 1e8, 2, true);
        // Two members with 1,000 messages each in 100 us.
        assert_eq!(figures(&rows[0]), [("acknowledged one by one", 2e7, Some(10e6))]);
        assert_eq!(figures(&rows[1]), [("acknowledged in batches", 2e7, Some(40e6))]);
        assert_eq!(figures(&rows[2]), [("one member, acknowledged one by one", 2e7, None)]);
        assert_eq!(rows[2].msgs_per_s, Some(2e7));
    }

    #[test]
    fn a_reader_that_may_sleep_is_asked_for_its_time_or_its_share_of_a_core() {
        let of = |rate_hz| Spec { rate_hz, wait: WaitMode::Adaptive, ..Spec::of(Scenario::Paced) };
        let rows = rows(&[(of(100_000), 400.0), (of(1_000), 30_000.0)], 50.0, 2, true);
        assert_eq!(figures(&rows[0]), [("one way p50", 400.0, Some(1_000.0))]);
        assert_eq!(figures(&rows[1]), [("the reader's share of a core", 4.0, Some(5.0))]);
        assert_eq!(rows[1].consumer_cpu_share, Some(0.04));
    }

    #[test]
    fn fanout_is_flat_or_not_and_says_how_much_was_read() {
        let of = |groups| Spec { groups, ..Spec::of(Scenario::Fanout) };
        let rows = rows(&[(of(1), 50.0), (of(2), 50.0), (of(4), 60.0)], 50.0, 2, true);
        assert!(rows[0].aims.is_empty());
        assert_eq!(figures(&rows[1]), [("publish cost to that with one group", 1.0, Some(1.1))]);
        assert_eq!(figures(&rows[2])[0].1, 1.2);
        // 1,000 messages in 120 us.
        assert!((figures(&rows[2])[1].1 - 1e9 / 120.0).abs() < 1.0);
    }
}
