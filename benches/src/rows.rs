//! From slices to rows: what each scenario's row says, and what it is judged by.

use std::path::Path;

use crate::aims;
use crate::control::ring_bytes;
use crate::cores::Cores;
use crate::histogram::{LoggedInterval, Nanos};
use crate::machine::directory_bytes;
use crate::plan::{BARE_PAYLOAD_BYTES, Group};
use crate::protocol::Outcome;
use crate::report::{Memory, PerCore, Ratio, RingBytes, ScenarioReport, Slices, Target};
use crate::scenarios::{HOPS, REQUESTS};
use crate::slices::{Entry, FloorKind, Measured, SLICES_MIN, Slice};
use crate::spec::{Crew, Scenario, Sender, Spec, WaitMode};
use crate::stats::{Spread, bootstrap_median, median};
use crate::targets;

/// What the rows need to know beside the slices.
pub(crate) struct Surroundings<'a> {
    pub(crate) cores: &'a Cores,
    pub(crate) directory: &'a Path,
    /// Whether figures are shown beside what is aimed at.
    pub(crate) aims: bool,
}

/// One entry of a group with what came of it.
pub(crate) struct Row<'a> {
    pub(crate) spec: &'a Spec,
    parts: &'a [usize],
    pub(crate) measured: &'a Measured,
    floor: FloorKind,
    cores: &'a Cores,
}

/// The rows of a group that could be measured.
pub(crate) fn build(group: &Group, all: &[Measured], around: &Surroundings<'_>) -> Vec<ScenarioReport> {
    let rows: Vec<Row<'_>> = group
        .entries
        .iter()
        .zip(all)
        .map(|(entry, measured)| Row {
            spec: &entry.spec,
            parts: &entry.parts,
            measured,
            floor: group.floor,
            cores: around.cores,
        })
        .collect();
    let mut reports: Vec<ScenarioReport> = match group.scenario() {
        Scenario::Latency => rows.iter().map(|row| latency(row, &rows)).collect(),
        Scenario::Paced => rows.iter().map(paced).collect(),
        Scenario::Throughput => rows.iter().map(|row| throughput(row, &rows)).collect(),
        Scenario::Fanout => rows.iter().map(|row| fanout(row, &rows[0], around.aims)).collect(),
        Scenario::Mpmc => rows.iter().map(mpmc).collect(),
        Scenario::Priority => rows.iter().map(|row| priority(row, &rows)).collect(),
        Scenario::Wake => rows.iter().map(wake).collect(),
        Scenario::Bus100k => rows.iter().map(|row| bus100k(row, around.directory)).collect(),
        Scenario::Pipeline => vec![pipeline(&rows)],
        Scenario::Cost => rows.iter().map(cost).collect(),
    };
    // The pipeline makes one row of several entries, and has no aims.
    if around.aims && reports.len() == rows.len() {
        for (report, row) in reports.iter_mut().zip(&rows) {
            aims::add(report, row, &rows);
        }
    }
    reports
}

/// The rows of a group that failed.
pub(crate) fn failed(group: &Group, error: &str) -> Vec<ScenarioReport> {
    unmeasured(group).into_iter().map(|row| ScenarioReport { error: Some(error.to_owned()), ..row }).collect()
}

/// The rows of a group that was left out.
pub(crate) fn skipped(group: &Group, reason: &str) -> Vec<ScenarioReport> {
    let row = |row| ScenarioReport { skipped: Some(reason.to_owned()), ..row };
    unmeasured(group).into_iter().map(row).collect()
}

fn unmeasured(group: &Group) -> Vec<ScenarioReport> {
    let row = |entry: &Entry<Spec>| ScenarioReport {
        name: entry.spec.row_name(),
        variant: entry.spec.variant(),
        payload_bytes: entry.spec.payload_bytes,
        wait: Some(entry.spec.wait),
        ..ScenarioReport::default()
    };
    group.entries.iter().filter(|entry| !entry.spec.bare).map(row).collect()
}

/// The intervals that go into the HDR log: the one-way histograms of each slice.
pub(crate) fn intervals(group: &Group, all: &[Measured]) -> Vec<LoggedInterval> {
    let role = match group.scenario() {
        Scenario::Latency => 0,
        Scenario::Paced | Scenario::Priority | Scenario::Wake => 1,
        _ => return Vec::new(),
    };
    let mut intervals = Vec::new();
    for (entry, measured) in group.entries.iter().zip(all) {
        let spec = &entry.spec;
        let variant = spec.variant().map_or(String::new(), |variant| format!(" {variant}"));
        let tag = format!("{}{variant} {} {}", spec.row_name(), spec.payload_bytes, spec.wait.name());
        intervals.extend(measured.used.iter().map(|slice| LoggedInterval {
            tag: tag.clone(),
            start: slice.started,
            length: slice.took,
            histogram: slice.outcomes[role].histogram.to_nanos(),
        }));
    }
    intervals
}

impl Row<'_> {
    /// What all rows have in common.
    fn common(&self) -> ScenarioReport {
        let measured = self.measured;
        ScenarioReport {
            name: self.spec.row_name(),
            variant: self.spec.variant(),
            payload_bytes: self.spec.payload_bytes,
            wait: Some(self.spec.wait),
            lost: measured.lost,
            out_of_order: measured.out_of_order,
            corrupt: measured.corrupt,
            floor: Some(self.floor.name().to_owned()),
            slices: Slices { used: measured.used.len(), dropped: measured.dropped },
            oversubscribed: self.cores.oversubscribed(self.parts.len()),
            ..ScenarioReport::default()
        }
    }

    /// Whether enough slices count, and each process has a core.
    fn judged(&self) -> bool {
        self.measured.used.len() >= SLICES_MIN && self.has_its_cores()
    }

    /// Whether each process has a core.
    pub(crate) fn has_its_cores(&self) -> bool {
        !self.cores.oversubscribed(self.parts.len())
    }

    /// All samples of a role.
    pub(crate) fn histogram(&self, role: usize) -> Nanos {
        let mut all = Nanos::new();
        for slice in &self.measured.used {
            all.merge_sparse(&slice.outcomes[role].histogram);
        }
        all
    }

    fn per_core(&self, role: usize, what: &str) -> PerCore {
        let histogram = self.histogram(role);
        let name = self.measured.used.first().map_or("", |slice| slice.outcomes[role].role.as_str());
        PerCore {
            core: self.cores.of(self.parts[role]),
            role: name.to_owned(),
            what: what.to_owned(),
            ns: histogram.summary(),
            histogram,
        }
    }

    /// Fills in the comparison with the floor: the median slice and its interval.
    fn compare(&self, report: &mut ScenarioReport, value: impl Fn(&Slice) -> Option<f64>) {
        let ratios = self.measured.to_floor(value);
        report.to_floor = median(&ratios);
        report.to_floor_95 = bootstrap_median(&ratios);
    }
}

pub(crate) fn block(role: usize) -> impl Fn(&Slice) -> Option<f64> {
    move |slice| slice.outcomes.get(role)?.block_ns
}

/// Messages a second that a role has seen, by the median block of a slice.
fn block_rate(slice: &Slice, role: usize) -> Option<f64> {
    block(role)(slice).filter(|ns| *ns > 0.0).map(|ns| 1e9 / ns)
}

/// What several producers bring together, to what one brings in the same round. Each has its own consumer's place.
fn total_to_one(row: &Row<'_>, one: &Row<'_>) -> Vec<f64> {
    let consumers_rate = |slice: &Slice| block_rate(slice, slice.outcomes.len().checked_sub(1)?);
    row.measured.to_other(one.measured, true, consumers_rate)
}

fn mean_rate(outcome: &Outcome) -> Option<f64> {
    outcome.mean_ns.filter(|ns| *ns > 0.0).map(|ns| 1e9 / ns)
}

fn latency(row: &Row<'_>, rows: &[Row<'_>]) -> ScenarioReport {
    let mut report = row.common();
    row.compare(&mut report, block(0));
    report.block_ns = Spread::of(&row.measured.values(block(0)));
    if row.spec.bare {
        if !row.measured.used.is_empty() {
            report.one_way_ns = Some(row.histogram(0).summary());
        }
        return report;
    }
    if !row.measured.used.is_empty() {
        report.one_way_ns = Some(row.histogram(0).summary());
        report.per_core =
            vec![row.per_core(0, "round trip / 2"), row.per_core(1, "round trip / 2, seen from the answer")];
    }
    if row.spec.asks {
        // Both are one way, half of a round trip.
        let is_plain = |row: &&Row<'_>| {
            let spec = row.spec;
            !spec.asks && !spec.bare && !spec.one_producer && !spec.no_stamps
        };
        let p50 = |row: &Row<'_>| row.histogram(0).summary().p50 as f64;
        let plain = rows.iter().find(is_plain).filter(|row| !row.measured.used.is_empty());
        let ratio =
            plain.map(|plain| p50(row) / p50(plain)).filter(|ratio| ratio.is_finite() && *ratio > 0.0);
        let judged = row.judged() && plain.is_some_and(Row::judged);
        report.target = Some(Target::at_most(
            "round trip p50 to the ping-pong's",
            targets::REQUEST_TO_PING_PONG,
            ratio,
            judged,
        ));
        return report;
    }
    // Targets are for 64 bytes: the line floor carries no payload.
    if row.spec.payload_bytes == 64 && !row.spec.no_stamps {
        let limit = if row.spec.one_producer {
            targets::LATENCY_ONE_PRODUCER_TO_LINE
        } else {
            targets::LATENCY_TO_LINE
        };
        // Two lines that are kept in motion may be much faster than lines that the other core read last, which a ring
        // cannot do without. Where a bare ring is slower than the line, it is the measure.
        let bare = rows.iter().find(|row| row.spec.bare).map(|bare| bare.measured);
        let bare_to_line = bare.and_then(|bare| median(&bare.to_floor(block(0))));
        report.target = Some(match bare_to_line.zip(report.to_floor).filter(|(bare, _)| *bare > 1.0) {
            Some((bare, to_line)) => {
                Target::at_most("one way to a bare ring's", limit, Some(to_line / bare), row.judged())
            }
            None => Target::at_most("one way to the line", limit, report.to_floor, row.judged()),
        });
    }
    report
}

fn paced(row: &Row<'_>) -> ScenarioReport {
    let mut report = row.common();
    row.compare(&mut report, block(1));
    report.block_ns = Spread::of(&row.measured.values(block(1)));
    if row.spec.wait != WaitMode::Spin {
        let share = row.measured.values(|slice| slice.outcomes[1].figure("cpu_share"));
        report.consumer_cpu_share = median(&share);
    }
    if !row.measured.used.is_empty() {
        report.one_way_ns = Some(row.histogram(1).summary());
        report.per_core =
            vec![row.per_core(0, "inside the publish call"), row.per_core(1, "due to received")];
    }
    report
}

fn throughput(row: &Row<'_>, rows: &[Row<'_>]) -> ScenarioReport {
    let mut report = row.common();
    let bytes = row.spec.payload_bytes as f64;
    let to_memcpy = matches!(row.floor, FloorKind::Memcpy(_));
    let consumer = row.spec.producers;
    let rate = |slice: &Slice| block_rate(slice, consumer);
    row.compare(&mut report, |slice| Some(rate(slice)? * if to_memcpy { bytes } else { 1.0 }));
    report.producers = Some(row.spec.producers);
    report.groups = Some(1);
    report.msgs_per_s = median(&row.measured.values(rate));
    report.mean_msgs_per_s = median(&row.measured.values(|slice| mean_rate(&slice.outcomes[consumer])));
    report.gb_per_s = report.msgs_per_s.map(|rate| rate * bytes / 1e9);
    if row.spec.in_place {
        let topic = row.measured.values(|slice| slice.outcomes[0].figure("topic_bytes"));
        report.ring_bytes = topic
            .into_iter()
            .reduce(f64::max)
            .map(|topic| RingBytes { topic: topic as u64, floor: ring_bytes(row.spec.payload_bytes) as u64 });
    }
    if let (true, Some(one)) = (row.spec.total && row.spec.producers > 1, rows.first()) {
        report.ratio = ratio(one, &total_to_one(row, one));
    }
    let spec = row.spec;
    let is_plain = !(spec.no_stamps || spec.bare || spec.in_place || spec.total);
    if !is_plain || spec.capacity > 0 || spec.batch > 0 {
        return report;
    }
    let (what, limit) = match (to_memcpy, row.spec.one_producer) {
        (true, _) => ("bytes/s to memcpy", targets::LARGE_TO_MEMCPY),
        (false, false) => ("messages/s to the ring", targets::THROUGHPUT_TO_RING),
        (false, true) => ("messages/s to the ring", targets::THROUGHPUT_ONE_PRODUCER_TO_RING),
    };
    if row.spec.payload_bytes != 1_024 {
        // memcpy is one core's affair. Where bytes come over from another core more slowly, a bare ring is the measure.
        let bare = rows.iter().find(|row| row.spec.bare).map(|bare| bare.measured);
        let bare_share = bare
            .and_then(|bare| median(&bare.to_floor(|slice| Some(rate(slice)? * BARE_PAYLOAD_BYTES as f64))));
        report.target = Some(match bare_share.zip(report.to_floor).filter(|(bare, _)| *bare < 1.0) {
            Some((bare, to_memcpy)) => {
                Target::at_least("bytes/s to a bare ring's", limit, Some(to_memcpy / bare), row.judged())
            }
            None => Target::at_least(what, limit, report.to_floor, row.judged()),
        });
    }
    report
}

fn fanout(row: &Row<'_>, one: &Row<'_>, aims: bool) -> ScenarioReport {
    let mut report = row.common();
    row.compare(&mut report, block(0));
    report.groups = Some(row.spec.groups);
    report.publish_cpu_ns = Spread::of(&row.measured.values(block(0)));
    if aims {
        report.deliveries_per_s = median(&row.measured.values(|slice| {
            let readers = slice.outcomes.get(1)?;
            readers.figure("elapsed_ns").filter(|ns| *ns > 0.0).map(|ns| readers.ops as f64 * 1e9 / ns)
        }));
    }
    if row.spec.groups == one.spec.groups {
        return report;
    }
    let pairs = row.measured.to_other(one.measured, true, block(0));
    report.ratio = ratio(one, &pairs);
    if row.spec.groups == 8 {
        let value = report.ratio.as_ref().map(|ratio| ratio.value);
        let judged = row.judged() && pairs.len() >= SLICES_MIN;
        report.target = Some(Target::at_most(
            "publish cost to that with one group",
            targets::FANOUT_8_TO_1,
            value,
            judged,
        ));
    }
    report
}

fn ratio(to: &Row<'_>, pairs: &[f64]) -> Option<Ratio> {
    Some(Ratio {
        to: to.spec.variant().unwrap_or_else(|| to.spec.row_name()),
        value: median(pairs)?,
        interval_95: bootstrap_median(pairs),
    })
}

/// Messages a second that all members of a shared group took together.
pub(crate) fn crew_rate(spec: &Spec, slice: &Slice) -> Option<f64> {
    if spec.crew == Crew::Drain {
        // The producer's part of the time is none of the member's.
        return block_rate(slice, spec.producers);
    }
    let consumers = &slice.outcomes[spec.producers..];
    let received: u64 = consumers.iter().map(|outcome| outcome.ops).sum();
    let longest = consumers.iter().filter_map(|outcome| outcome.figure("elapsed_ns")).fold(0.0, f64::max);
    (longest > 0.0).then(|| received as f64 * 1e9 / longest)
}

fn mpmc(row: &Row<'_>) -> ScenarioReport {
    let mut report = row.common();
    let producers = row.spec.producers;
    let rate = |slice: &Slice| crew_rate(row.spec, slice);
    row.compare(&mut report, rate);
    report.producers = Some(producers);
    report.consumers = Some(row.spec.consumers);
    report.groups = Some(1);
    report.msgs_per_s = median(&row.measured.values(rate));
    let (mut publish, mut receive) = (Nanos::new(), Nanos::new());
    for slice in &row.measured.used {
        for (role, outcome) in slice.outcomes.iter().enumerate() {
            if role < producers { &mut publish } else { &mut receive }.merge_sparse(&outcome.histogram);
        }
        let (sent, received) = (sum(&slice.outcomes[..producers]), sum(&slice.outcomes[producers..]));
        report.lost += sent.saturating_sub(received);
        // More than was sent: somebody got a message twice.
        report.out_of_order += received.saturating_sub(sent);
    }
    report.publish_call_ns = Some(publish.summary()).filter(|summary| summary.count > 0);
    report.receive_call_ns = Some(receive.summary()).filter(|summary| summary.count > 0);
    report
}

fn sum(outcomes: &[Outcome]) -> u64 {
    outcomes.iter().map(|outcome| outcome.ops).sum()
}

fn priority(row: &Row<'_>, rows: &[Row<'_>]) -> ScenarioReport {
    let mut report = row.common();
    row.compare(&mut report, block(1));
    if !row.measured.used.is_empty() {
        report.one_way_ns = Some(row.histogram(1).summary());
    }
    // The sender of its own sleeps between two messages; it does not need a core all the time.
    report.oversubscribed = row.cores.oversubscribed(2);
    let idle = rows.iter().find(|other| other.spec.sender == row.spec.sender && !other.spec.saturated);
    if let (true, Some(idle)) = (row.spec.saturated, idle) {
        let pairs = row.measured.to_other(idle.measured, true, block(1));
        report.ratio = ratio(idle, &pairs);
        let value = report.ratio.as_ref().map(|ratio| ratio.value);
        let judged = pairs.len() >= SLICES_MIN && !report.oversubscribed;
        let what = match row.spec.sender {
            Sender::Same => "critical p99 to its idle p99",
            Sender::Other => "critical p99 (sent by another process) to its idle p99",
        };
        report.target = Some(Target::at_most(what, targets::PRIORITY_SATURATED_TO_IDLE, value, judged));
    }
    report
}

fn wake(row: &Row<'_>) -> ScenarioReport {
    let mut report = row.common();
    row.compare(&mut report, block(1));
    report.block_ns = Spread::of(&row.measured.values(block(1)));
    if !row.measured.used.is_empty() {
        report.one_way_ns = Some(row.histogram(1).summary());
    }
    report.target =
        Some(Target::at_most("one way to the futex", targets::WAKE_TO_FUTEX, report.to_floor, row.judged()));
    report
}

fn bus100k(row: &Row<'_>, directory: &Path) -> ScenarioReport {
    let mut report = row.common();
    let rate = |slice: &Slice| mean_rate(&slice.outcomes[1]);
    row.compare(&mut report, rate);
    report.producers = Some(1);
    report.groups = Some(1);
    report.msgs_per_s = median(&row.measured.values(rate));
    if let Some(slice) = row.measured.used.last() {
        let total =
            |name: &str| slice.outcomes.iter().filter_map(|outcome| outcome.figure(name)).sum::<f64>() as u64;
        report.memory = Some(Memory {
            own_bytes: total("own_bytes"),
            shared_bytes: total("shared_bytes"),
            bus_bytes: directory_bytes(directory),
        });
    }
    let value = report.msgs_per_s.map(|rate| rate / targets::QUOTED_MSGS_PER_S);
    // The quoted figure comes from another machine. Where the share of the bare ring that a throughput row is to reach does not
    // come so far beyond it, a miss says something of this machine and not of the bus.
    let share =
        value.zip(report.to_floor).map(|(value, to_floor)| value / to_floor * targets::THROUGHPUT_TO_RING);
    let is_met = value >= Some(targets::BUS100K_TO_QUOTED);
    let is_fair = share >= Some(targets::BUS100K_TO_QUOTED);
    report.target = Some(Target::at_least(
        "messages/s to the quoted 42,387",
        targets::BUS100K_TO_QUOTED,
        value,
        row.judged() && (is_met || is_fair),
    ));
    report
}

fn cost(row: &Row<'_>) -> ScenarioReport {
    let mut report = row.common();
    report.step_ns = Spread::of(&row.measured.values(block(0)));
    // Nothing crosses between cores: the floor only tells whether the machine was steady.
    report.floor = None;
    report
}

/// The two entries, with and without the bus, make one row.
fn pipeline(rows: &[Row<'_>]) -> ScenarioReport {
    let with = &rows[0];
    let bare = rows.iter().find(|row| row.spec.bare).map(|row| row.measured);
    let mut report = with.common();
    let wall = |slice: &Slice| slice.outcomes.iter().find_map(|outcome| outcome.figure("wall_ns"));
    let mut per_hop = Vec::new();
    for slice in &with.measured.used {
        let partner = bare.and_then(|bare| bare.used.iter().find(|partner| partner.round == slice.round));
        if let (Some(with_bus), Some(without)) = (wall(slice), partner.and_then(wall)) {
            per_hop.push((with_bus - without) / (REQUESTS * HOPS) as f64);
        }
    }
    report.requests_per_s = median(&with.measured.values(wall)).map(|ns| REQUESTS as f64 * 1e9 / ns);
    report.per_hop_ns = Spread::of(&per_hop);
    // The floor only tells whether the machine was steady: most of the time here is simulated work.
    report.floor = None;
    report.oversubscribed = false;
    let value = report.per_hop_ns.map(|spread| spread.median);
    let judged = per_hop.len() >= SLICES_MIN;
    report.target =
        Some(Target::at_most("ns a hop over the bare handlers", targets::PIPELINE_PER_HOP_NS, value, judged));
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Summary;
    use std::time::{Duration, SystemTime};

    fn cores() -> Cores {
        Cores { list: vec![0, 1], pinned: true, physical: true }
    }

    fn slice(round: usize, floor: f64, outcomes: Vec<Outcome>) -> Slice {
        let (started, took) = (SystemTime::now(), Duration::from_millis(200));
        Slice { floor, floor_p99_ns: None, round, started, took, outcomes }
    }

    fn outcome(block_ns: f64) -> Outcome {
        let mut histogram = Nanos::new();
        histogram.record(block_ns as u64);
        Outcome {
            block_ns: Some(block_ns),
            mean_ns: Some(block_ns * 1.1),
            histogram: histogram.to_sparse(),
            ..Outcome::of("producer")
        }
    }

    fn group(scenario: Scenario, floor: FloorKind, specs: Vec<Spec>) -> Group {
        assert!(specs.iter().all(|spec| spec.scenario == scenario));
        let entries = specs
            .into_iter()
            .map(|spec| Entry { spec, parts: vec![0, 1], slice: Duration::from_millis(200) })
            .collect();
        Group { floor, entries, goal: 5, skipped: None }
    }

    fn build_on(group: &Group, all: &[Measured]) -> Vec<ScenarioReport> {
        let directory = Path::new("/nonexistent");
        build(group, all, &Surroundings { cores: &cores(), directory, aims: false })
    }

    #[test]
    fn a_latency_row_compares_blocks_and_prints_histograms() {
        let group = group(Scenario::Latency, FloorKind::Line, vec![Spec::of(Scenario::Latency)]);
        let used = (0..5).map(|round| slice(round, 50.0, vec![outcome(100.0), outcome(104.0)])).collect();
        let rows = build_on(&group, &[Measured { used, dropped: 2, ..Measured::default() }]);
        assert_eq!(rows[0].to_floor, Some(2.0));
        assert_eq!(rows[0].slices, Slices { used: 5, dropped: 2 });
        assert_eq!(rows[0].one_way_ns.map(|summary: Summary| summary.count), Some(5));
        assert_eq!(rows[0].per_core.iter().map(|core| core.core).collect::<Vec<_>>(), vec![0, 1]);
        assert_eq!(rows[0].target.as_ref().unwrap().met, Some(true));
    }

    #[test]
    fn latency_is_judged_by_a_bare_ring_where_that_is_slower_than_the_line() {
        let spec = Spec::of(Scenario::Latency);
        let specs = vec![spec.clone(), Spec { bare: true, ..spec }];
        let group = group(Scenario::Latency, FloorKind::Line, specs);
        let all = |bare_ns| {
            [150.0, bare_ns].map(|ns| Measured {
                used: (0..5).map(|round| slice(round, 50.0, vec![outcome(ns), outcome(ns)])).collect(),
                ..Measured::default()
            })
        };
        let rows = build_on(&group, &all(100.0));
        assert_eq!((rows[0].to_floor, rows[1].to_floor), (Some(3.0), Some(2.0)));
        let target = rows[0].target.as_ref().unwrap();
        assert_eq!((target.value, target.met), (Some(1.5), Some(true)));
        assert!(rows[1].target.is_none() && rows[1].variant.as_deref() == Some("bare ring"));
        let target = build_on(&group, &all(45.0))[0].target.clone().unwrap();
        assert_eq!((target.value, target.met), (Some(3.0), Some(false)), "the line is slower: it counts");
    }

    #[test]
    fn requests_are_judged_by_the_ping_pong_of_the_same_run() {
        let spec = Spec::of(Scenario::Latency);
        let group =
            group(Scenario::Latency, FloorKind::Line, vec![spec.clone(), Spec { asks: true, ..spec }]);
        let timed = |ns: f64| Measured {
            used: (0..5).map(|round| slice(round, 50.0, vec![outcome(ns), outcome(ns)])).collect(),
            ..Measured::default()
        };
        let target = |ns| build_on(&group, &[timed(100.0), timed(ns)])[1].target.clone().unwrap();
        assert_eq!((target(200.0).value, target(200.0).met), (Some(2.0), Some(true)));
        assert_eq!(target(300.0).met, Some(false));
    }

    #[test]
    fn large_payloads_are_judged_by_a_bare_ring_where_that_is_slower_than_memcpy() {
        let spec = Spec { payload_bytes: 65_536, ..Spec::of(Scenario::Throughput) };
        let specs = vec![spec.clone(), Spec { bare: true, payload_bytes: 1_024, ..spec }];
        let group = group(Scenario::Throughput, FloorKind::Memcpy(65_536), specs);
        let target = |ns: f64, bare_ns: f64| {
            let all = [ns, bare_ns].map(|ns| Measured {
                used: (0..5).map(|round| slice(round, 16.384e9, vec![outcome(ns), outcome(ns)])).collect(),
                ..Measured::default()
            });
            build_on(&group, &all)[0].target.clone().unwrap()
        };
        // 2 GB/s where the bare ring does 2.56, and where it does 25.6.
        let ns = 65_536.0 / 2.0;
        assert!((target(ns, 400.0).value.unwrap() - 2.0 / 2.56).abs() < 1e-3);
        assert_eq!(target(ns, 400.0).met, Some(true));
        assert_eq!(target(ns, 40.0).met, Some(false));
    }

    #[test]
    fn the_quoted_rate_is_asked_of_machines_whose_ring_can_carry_it() {
        let group = group(Scenario::Bus100k, FloorKind::Ring(64), vec![Spec::of(Scenario::Bus100k)]);
        let met = |ring: f64, ns: f64| {
            let used = (0..5).map(|round| slice(round, ring, vec![outcome(ns), outcome(ns)])).collect();
            build_on(&group, &[Measured { used, ..Measured::default() }])[0].target.as_ref().unwrap().met
        };
        // The mean is a tenth slower than the blocks.
        assert_eq!(met(3e8, 20.0), Some(true));
        assert_eq!(met(3e8, 30.0), Some(false));
        assert_eq!(met(6e7, 50.0), None);
        assert_eq!(met(6e7, 20.0), Some(true));
    }

    #[test]
    fn four_slices_are_too_few_for_a_verdict() {
        let group = group(Scenario::Wake, FloorKind::Wake, vec![Spec::of(Scenario::Wake)]);
        let used = (0..4).map(|round| slice(round, 50.0, vec![outcome(1.0), outcome(500.0)])).collect();
        let rows = build_on(&group, &[Measured { used, ..Measured::default() }]);
        let target = rows[0].target.as_ref().unwrap();
        assert_eq!((target.value, target.met), (Some(10.0), None));
    }

    #[test]
    fn throughput_is_a_share_of_the_ring() {
        let group = group(Scenario::Throughput, FloorKind::Ring(64), vec![Spec::of(Scenario::Throughput)]);
        let used = (0..5).map(|round| slice(round, 1e8, vec![outcome(40.0), outcome(40.0)])).collect();
        let rows = build_on(&group, &[Measured { used, ..Measured::default() }]);
        assert_eq!(rows[0].to_floor, Some(0.25));
        assert_eq!(rows[0].msgs_per_s, Some(2.5e7));
        assert!((rows[0].mean_msgs_per_s.unwrap() - 1e9 / 44.0).abs() < 1.0);
    }

    #[test]
    fn eight_groups_are_compared_with_one() {
        let spec = |groups| Spec { groups, ..Spec::of(Scenario::Fanout) };
        let group = group(Scenario::Fanout, FloorKind::Line, vec![spec(1), spec(8)]);
        let all = [20.0, 24.0].map(|ns| Measured {
            used: (0..5).map(|round| slice(round, 50.0, vec![outcome(ns), outcome(1.0)])).collect(),
            ..Measured::default()
        });
        let rows = build_on(&group, &all);
        assert_eq!(rows[0].target, None);
        assert!((rows[1].ratio.as_ref().unwrap().value - 1.2).abs() < 1e-9);
        assert_eq!(rows[1].target.as_ref().unwrap().met, Some(true));
    }

    #[test]
    fn a_group_that_failed_says_why_in_each_row() {
        let group = group(Scenario::Latency, FloorKind::Line, vec![Spec::of(Scenario::Latency)]);
        let rows = failed(&group, "no room");
        assert_eq!(rows[0].error.as_deref(), Some("no room"));
    }

    #[test]
    fn a_group_that_was_left_out_says_why_and_fails_nothing() {
        let group = group(Scenario::Latency, FloorKind::Line, vec![Spec::of(Scenario::Latency)]);
        let rows = skipped(&group, "no room");
        assert_eq!((rows[0].skipped.as_deref(), rows[0].error.as_deref()), (Some("no room"), None));
        assert!(targets::verdict(&rows, true).pass);
    }

    #[test]
    fn a_row_in_place_says_how_much_memory_the_messages_went_through() {
        let spec = Spec { in_place: true, payload_bytes: 65_536, ..Spec::of(Scenario::Throughput) };
        let group = group(Scenario::Throughput, FloorKind::Ring(65_536), vec![spec]);
        let with_bytes = |bytes: f64| {
            let mut producer = outcome(10_000.0);
            producer.figures.insert("topic_bytes".into(), bytes);
            vec![producer, outcome(10_000.0)]
        };
        let used = (0..5).map(|round| slice(round, 1e5, with_bytes(1e6 + round as f64))).collect();
        let rows = build_on(&group, &[Measured { used, ..Measured::default() }]);
        let ring = rows[0].ring_bytes.unwrap();
        assert_eq!((ring.topic, ring.floor), (1_000_004, 64 * 65_600));
        assert_eq!((rows[0].to_floor, rows[0].target.clone()), (Some(1.0), None));
    }
}
