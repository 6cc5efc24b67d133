//! Latency histograms: recording, the summary that the report prints, small text bars, and the standard HDR log.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result};

/// The longest time that a histogram tells apart; anything longer counts as this.
const LONGEST_NS: u64 = 60_000_000_000;

/// Decimal digits that a histogram keeps of every value.
const DIGITS: u8 = 3;

/// Most rows that [`bars`] draws.
const BAR_ROWS: u64 = 10;

/// Width of the longest bar, in characters.
const BAR_WIDTH: f64 = 40.0;

/// A histogram of nanoseconds.
#[derive(Debug, Clone)]
pub struct Nanos(Histogram<u64>);

/// The usual percentiles of a histogram, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of samples.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// Half of the samples are at most this.
    pub p50: u64,
    /// Nine of ten are at most this.
    pub p90: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1,000 are at most this.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

/// A histogram as it travels between processes: pairs of value and count, without the empty places.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sparse(Vec<(u64, u64)>);

impl Default for Nanos {
    fn default() -> Self {
        Self::new()
    }
}

impl Nanos {
    /// An empty histogram; its memory is allocated here, not while recording.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("the bounds are constant and valid"))
    }

    /// Adds one sample.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds all samples of another histogram.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, for which adding cannot fail.
        let _ = self.0.add(&other.0);
    }

    /// Forgets all samples and keeps the memory.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// Number of samples.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value at or below which the share `q` of the samples lies.
    #[must_use]
    pub fn quantile(&self, q: f64) -> u64 {
        self.0.value_at_quantile(q)
    }

    /// The usual percentiles.
    #[must_use]
    pub fn summary(&self) -> Summary {
        if self.0.is_empty() {
            return Summary::default();
        }
        Summary {
            count: self.0.len(),
            min: self.0.min(),
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.0.max(),
        }
    }

    /// The samples without the empty places.
    #[must_use]
    pub fn to_sparse(&self) -> Sparse {
        Sparse(self.0.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect())
    }

    /// Adds samples that came from another process.
    pub fn merge_sparse(&mut self, sparse: &Sparse) {
        for &(value, count) in &sparse.0 {
            self.0.saturating_record_n(value, count);
        }
    }
}

impl Sparse {
    /// The whole histogram again.
    pub(crate) fn to_nanos(&self) -> Nanos {
        let mut nanos = Nanos::new();
        nanos.merge_sparse(self);
        nanos
    }

    /// Whether it has no sample.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One row of a drawn histogram.
struct Row {
    label: String,
    count: u64,
}

/// Draws a histogram as rows of text, each with its range, a bar and its share; the rarest and longest samples
/// share the last row. `step_ns` is the step of the clock: rows are never narrower.
#[must_use]
pub fn bars(histogram: &Nanos, step_ns: f64) -> Vec<String> {
    let total = histogram.count();
    if total == 0 {
        return Vec::new();
    }
    let rows = rows(histogram, step_ns);
    let label_width = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
    let most = rows.iter().map(|row| row.count).max().unwrap_or(1).max(1);
    rows.iter()
        .map(|row| {
            let share = row.count as f64 / total as f64;
            let bar = bar(row.count as f64 / most as f64);
            let mut line = String::new();
            let _ = write!(line, "{:>label_width$}  {bar:<40}  {}", row.label, percent(share));
            line
        })
        .collect()
}

/// Rows of equal width up to the 99th percentile, then one for the rest.
fn rows(histogram: &Nanos, step_ns: f64) -> Vec<Row> {
    let (low, high) = (histogram.0.min(), histogram.quantile(0.99));
    let width = round_width((high.saturating_sub(low) / BAR_ROWS).max(step_ns.ceil() as u64).max(1));
    let first = low / width * width;
    let mut rows = Vec::new();
    let mut start = first;
    while start <= high && rows.len() as u64 <= 2 * BAR_ROWS {
        let end = start + width;
        let count = histogram.0.count_between(start, end - 1);
        rows.push(Row { label: format!("{} to {}", time(start as f64), time(end as f64)), count });
        start = end;
    }
    let counted: u64 = rows.iter().map(|row| row.count).sum();
    let rest = histogram.count().saturating_sub(counted);
    if rest > 0 {
        rows.push(Row { label: format!("up to {}", time(histogram.0.max() as f64)), count: rest });
    }
    rows
}

/// The next of 1, 2, 5, 10, 20, 50 … that is at least `width`.
fn round_width(width: u64) -> u64 {
    let mut power = 1;
    loop {
        for factor in [1, 2, 5] {
            if factor * power >= width {
                return factor * power;
            }
        }
        power *= 10;
    }
}

/// A bar of a share of the full width, in eighths of a character.
fn bar(share: f64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (share * BAR_WIDTH * 8.0).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    if bar.is_empty() && share > 0.0 {
        bar.push(EIGHTHS[1]);
    }
    bar
}

fn percent(share: f64) -> String {
    match share {
        0.0 => "0 %".into(),
        share if share < 0.0001 => "< 0.01 %".into(),
        share if share < 0.1 => format!("{:.2} %", share * 100.0),
        share => format!("{:.1} %", share * 100.0),
    }
}

/// A time with a unit that fits it, three digits or so.
#[must_use]
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns < 9_999.5 => format!("{ns:.0} ns"),
        ns if ns < 99_950.0 => format!("{:.1} us", ns / 1e3),
        ns if ns < 9_999_500.0 => format!("{:.0} us", ns / 1e3),
        ns if ns < 9_999_500_000.0 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.1} s", ns / 1e9),
    }
}

/// One interval of the HDR log: a slice of a scenario.
#[derive(Debug)]
pub(crate) struct LoggedInterval {
    pub(crate) tag: String,
    pub(crate) start: SystemTime,
    pub(crate) length: Duration,
    pub(crate) histogram: Nanos,
}

/// Writes the intervals as a standard HDR log (compressed V2 histograms, nanoseconds, one tag a row of the report).
pub(crate) fn write_log(path: &Path, started: SystemTime, intervals: &mut [LoggedInterval]) -> Result<()> {
    let failed = |text: String| BenchError::HdrLog { path: path.to_owned(), text };
    intervals.sort_by_key(|interval| interval.start);
    let mut file = BufWriter::new(File::create(path).map_err(|error| failed(error.to_string()))?);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[shmbus bench: one-way latencies in nanoseconds, one interval a slice]")
        .with_start_time(started)
        .with_base_time(started)
        .begin_log_with(&mut file, &mut serializer)
        .map_err(|error| failed(error.to_string()))?;
    for interval in intervals.iter() {
        let tag = tag_text(&interval.tag);
        let since = interval.start.duration_since(started).unwrap_or_default();
        log.write_histogram(&interval.histogram.0, since, interval.length, Tag::new(&tag))
            .map_err(|error| failed(error.to_string()))?;
    }
    file.flush().map_err(|error| failed(error.to_string()))
}

/// Tags must not hold commas, blanks or line ends.
fn tag_text(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "_-.()=".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn sample() -> Nanos {
        let mut histogram = Nanos::new();
        for ns in 1..=1_000 {
            histogram.record(ns);
        }
        histogram
    }

    #[test]
    fn the_summary_names_the_percentiles() {
        let summary = sample().summary();
        assert_eq!((summary.count, summary.min, summary.max), (1_000, 1, 1_000));
        assert_eq!((summary.p50, summary.p90, summary.p99, summary.p999), (500, 900, 990, 999));
        assert_eq!(Nanos::new().summary(), Summary::default());
    }

    #[test]
    fn nothing_is_lost_on_the_way_between_processes() {
        let histogram = sample();
        let json = serde_json::to_string(&histogram.to_sparse()).unwrap();
        let sparse: Sparse = serde_json::from_str(&json).unwrap();
        assert_eq!(sparse.to_nanos().summary(), histogram.summary());
    }

    #[test]
    fn samples_beyond_the_longest_are_counted() {
        let mut histogram = Nanos::new();
        histogram.record(u64::MAX);
        assert_eq!(histogram.count(), 1);
    }

    #[test]
    fn the_bars_cover_every_sample() {
        let mut histogram = sample();
        histogram.record(1_000_000);
        let lines = bars(&histogram, 10.0);
        assert!(lines.len() >= 5 && lines.len() <= 22, "{lines:#?}");
        assert!(lines.last().unwrap().contains("up to 1000 us"), "{lines:#?}");
        let rows = rows(&histogram, 10.0);
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 1_001);
    }

    #[test]
    fn times_carry_a_unit() {
        for (ns, text) in [
            (0.4, "0 ns"),
            (950.0, "950 ns"),
            (23_400.0, "23.4 us"),
            (2_100_000.0, "2100 us"),
            (4.2e7, "42.0 ms"),
        ] {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn the_log_can_be_read_back() {
        let started = SystemTime::now();
        let path = std::env::temp_dir().join(format!("bus-bench-{}.hdr", std::process::id()));
        let mut intervals = [LoggedInterval {
            tag: "latency 64, spin".into(),
            start: started + Duration::from_millis(1_500),
            length: Duration::from_millis(200),
            histogram: sample(),
        }];
        write_log(&path, started, &mut intervals).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut found = 0;
        for entry in IntervalLogIterator::new(&bytes) {
            let Ok(LogEntry::Interval(interval)) = entry else { continue };
            assert_eq!(interval.tag().unwrap().as_str(), "latency_64__spin");
            assert_eq!(interval.start_timestamp(), Duration::from_millis(1_500));
            let raw = interval.encoded_histogram();
            let decoded = base64_decode(raw);
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut decoded.as_slice()).unwrap();
            assert_eq!(histogram.len(), 1_000);
            found += 1;
        }
        assert_eq!(found, 1);
    }

    /// The crate that writes the log keeps its decoder to itself.
    fn base64_decode(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut bits, mut held) = (0_u32, 0);
        for byte in text.bytes().filter(|byte| *byte != b'=') {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                _ => 63,
            };
            bits = (bits << 6) | u32::from(value);
            held += 6;
            if held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
                bits &= (1 << held) - 1;
            }
        }
        out
    }
}
