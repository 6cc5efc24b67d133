//! The report as data: what `--json` prints, schema 1. Fields are only ever added within a schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::{Nanos, Summary};
use crate::spec::WaitMode;
use crate::stats::{Interval, Spread};

/// Version of the report's form.
pub const SCHEMA: u32 = 1;

/// Everything that a run has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
    /// Where it was measured.
    pub machine: Machine,
    /// What the machine can do at best.
    pub floor: FloorReport,
    /// One row for each scenario and setting.
    pub scenarios: Vec<ScenarioReport>,
    /// The one line at the end.
    pub verdict: Verdict,
    /// How long the run took, in seconds.
    pub seconds: f64,
}

/// The machine, as far as the figures depend on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Cores that are online.
    pub cores: usize,
    /// Name and release of the kernel.
    pub kernel: String,
    /// `tsc` or `monotonic`.
    pub clock: String,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// The smallest step that the clock makes, in nanoseconds.
    pub clock_step_ns: f64,
    /// Cores that the workers are pinned to, in their order; empty if they are not pinned.
    pub pinned: Vec<usize>,
    /// Whether the first two of them are different physical cores.
    pub physical_cores: bool,
}

/// The floor: medians over all its slices in the run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FloorReport {
    /// A cache line passed between two cores, one way.
    pub line_ns: LineFloor,
    /// Messages a second through the smallest possible ring, by payload size.
    pub ring_msgs_per_s: BTreeMap<String, f64>,
    /// A futex wake, one way.
    pub wake_ns: MedianNs,
    /// Copying, in 10^9 bytes a second, by block size.
    pub memcpy_gb_per_s: BTreeMap<String, f64>,
}

/// The line floor.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LineFloor {
    /// Median of the slices, each from blocks of 1,000 round trips.
    pub p50: f64,
    /// 99 of 100 single round trips take at most twice this.
    pub p99: u64,
    /// The fastest slice.
    pub lowest: f64,
    /// The slowest slice: if it is several times the fastest, the machine changes its mode by itself.
    pub highest: f64,
}

/// A median in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct MedianNs {
    /// Half of the slices are at most this.
    pub p50: f64,
}

/// One row. What a scenario does not measure is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// The scenario, and every setting that differs from a user's defaults.
    pub name: String,
    /// The scenario's shape where it has several: `groups=8`, `2x2`, `saturated sender=same`, `100000/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// How the consumers wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitMode>,
    /// Producing processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producers: Option<usize>,
    /// Consuming processes of one group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<usize>,
    /// Groups that see every message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// Times of single messages, one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_ns: Option<Summary>,
    /// One way, from blocks of 1,000: the spread over the slices. The ratio to the floor comes from this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_ns: Option<Spread>,
    /// Messages a second, from the median block of each slice, the median slice. The ratio comes from this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msgs_per_s: Option<f64>,
    /// Messages a second: all messages of a slice over all its time, interruptions by other processes included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_msgs_per_s: Option<f64>,
    /// Payload in 10^9 bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// CPU time of a publish on the producer's core, over the slices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_cpu_ns: Option<Spread>,
    /// Time inside single publish calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_call_ns: Option<Summary>,
    /// Time inside single receive calls that had a message waiting, acknowledgement included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_call_ns: Option<Summary>,
    /// Requests a second (pipeline).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<f64>,
    /// What the bus adds for each hop of each request, in nanoseconds (pipeline).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hop_ns: Option<Spread>,
    /// What the step takes by itself, in nanoseconds; of what is a difference it may be below zero (cost).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ns: Option<Spread>,
    /// Messages a second that all groups together have read (fanout).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries_per_s: Option<f64>,
    /// The share of a core that the consuming process took (paced).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_cpu_share: Option<f64>,
    /// Bytes of the topic that the messages went through, and of the floor's ring beside it (throughput in place).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_bytes: Option<RingBytes>,
    /// Memory while the scenario ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Messages that did not arrive, over all slices.
    pub lost: u64,
    /// Messages that arrived after a later one, over all slices.
    pub out_of_order: u64,
    /// Messages with wrong content, over all slices.
    pub corrupt: u64,
    /// The floor that the row is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// The row in relation to the floor measured around each of its slices, the median slice.
    pub to_floor: Option<f64>,
    /// Where that median lies with 95 % confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_floor_95: Option<Interval>,
    /// The row in relation to another row, slice by slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// How many slices count.
    pub slices: Slices,
    /// Histograms of each process, by its core.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_core: Vec<PerCore>,
    /// More processes that never sleep than cores: only times inside calls mean anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oversubscribed: bool,
    /// What the row should reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What the bus is meant to reach some day; never part of the verdict. Runs with everything have these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aims: Vec<Aim>,
    /// Why the row was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Why the row could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A row in relation to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The other row's variant.
    pub to: String,
    /// The median pair of slices.
    pub value: f64,
    /// Where that median lies with 95 % confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_95: Option<Interval>,
}

/// Slices of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slices {
    /// Slices whose two floors agree.
    pub used: usize,
    /// Slices that were thrown away.
    pub dropped: usize,
}

/// One process of a row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PerCore {
    /// The core that it ran on.
    pub core: usize,
    /// `producer` or `consumer`.
    pub role: String,
    /// What `ns` counts.
    pub what: String,
    /// Percentiles.
    pub ns: Summary,
    /// The whole histogram, for drawing; not part of the JSON.
    #[serde(skip)]
    pub histogram: Nanos,
}

/// Memory of both processes and of the bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory of the processes themselves, added up.
    pub own_bytes: u64,
    /// Shared memory that they have mapped and touched, added up: pages mapped by both count twice.
    pub shared_bytes: u64,
    /// Memory that the files of the bus take.
    pub bus_bytes: u64,
}

/// What a row should reach, and whether it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What is compared, in words.
    pub what: String,
    /// The value is to be at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// The value is to be at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// What was measured.
    pub value: Option<f64>,
    /// `None` if too few slices count for a verdict.
    pub met: Option<bool>,
}

/// A figure beside what is aimed at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Aim {
    /// The figure, in words.
    pub what: String,
    /// Its unit; empty for ratios.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// What was measured.
    pub value: Option<f64>,
    /// Where it lies with 95 % confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_95: Option<Interval>,
    /// At most this is aimed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// At least this is aimed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
}

/// How much memory messages went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RingBytes {
    /// All files of the topic.
    pub topic: u64,
    /// The floor's ring for payloads of this size.
    pub floor: u64,
}

/// The end of the report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether every row that could be judged reaches its target, and nothing was lost.
    pub pass: bool,
    /// The same in one line.
    pub text: String,
}

impl ScenarioReport {
    /// Name and variant.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{} {variant}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Report {
    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Nothing in the structures can fail to serialise: names are strings and numbers are finite.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_promised_form() {
        let mut histogram = Nanos::new();
        histogram.record(100);
        let row = ScenarioReport {
            name: "latency".into(),
            payload_bytes: 64,
            wait: Some(WaitMode::Spin),
            one_way_ns: Some(histogram.summary()),
            to_floor: Some(2.0),
            slices: Slices { used: 7, dropped: 1 },
            per_core: vec![PerCore {
                core: 0,
                role: "producer".into(),
                what: "round trip / 2".into(),
                ns: histogram.summary(),
                histogram: histogram.clone(),
            }],
            ..ScenarioReport::default()
        };
        let report = Report {
            schema: SCHEMA,
            machine: Machine { clock: "tsc".into(), page_bytes: 4_096, ..Machine::default() },
            floor: FloorReport {
                ring_msgs_per_s: [("64".to_owned(), 1.5e8)].into(),
                ..FloorReport::default()
            },
            scenarios: vec![row],
            verdict: Verdict { pass: true, text: "all met".into() },
            seconds: 1.0,
        };
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        for path in [
            "/schema",
            "/machine/cpu",
            "/machine/cores",
            "/machine/kernel",
            "/machine/clock",
            "/machine/page_bytes",
            "/floor/line_ns/p50",
            "/floor/line_ns/p99",
            "/floor/ring_msgs_per_s/64",
            "/floor/wake_ns/p50",
            "/scenarios/0/name",
            "/scenarios/0/payload_bytes",
            "/scenarios/0/wait",
            "/scenarios/0/one_way_ns/count",
            "/scenarios/0/one_way_ns/p999",
            "/scenarios/0/to_floor",
            "/scenarios/0/slices/used",
            "/scenarios/0/slices/dropped",
            "/scenarios/0/per_core/0/core",
            "/scenarios/0/per_core/0/role",
            "/scenarios/0/per_core/0/ns/max",
            "/verdict/pass",
            "/verdict/text",
        ] {
            assert!(json.pointer(path).is_some(), "{path} is missing in {json:#}");
        }
        assert_eq!(json["scenarios"][0]["wait"], "spin");
        assert!(json.pointer("/scenarios/0/msgs_per_s").is_none());
        let back: Report = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(back.scenarios[0].slices, Slices { used: 7, dropped: 1 });
    }
}
