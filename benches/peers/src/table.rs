//! The table: a line for each peer, setting, kind and size.

use std::fmt::Write as _;

use bus_bench::stats::Interval;

use crate::Report;
use crate::compare::{PAIRS_MIN, Row, Verdict};
use crate::peers::{OURS, Promises};
use crate::way::Kind;

/// Where the headings of the promises begin.
const PROMISES_AT: usize = 10;

/// Headings; setting, our row and promises are told once for each setting of a peer.
const HEADINGS: [&str; 15] = [
    "peer",
    "setting",
    "work",
    "theirs",
    "ours",
    "ratio",
    "95 %",
    "pairs",
    "verdict",
    "our row",
    "copies",
    "validates",
    "order; readers",
    "when one is killed",
    "acknowledged",
];

pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    if !report.rows.is_empty() {
        text.push_str(&comparison(report));
    }
    if !report.own.is_empty() {
        text.push_str(&own(report));
    }
    if !report.serializers.is_empty() {
        text.push_str(&serializers(report));
    }
    for row in &report.rows {
        if let Some(error) = &row.error {
            let _ = writeln!(text, "failed: {}, {}: {error}", row.peer, work(row));
        }
    }
    for row in &report.own {
        if let Some(error) = &row.error {
            let _ = writeln!(text, "failed: {}, {}: {error}", row.peer, row.benchmark);
        }
    }
    for line in &report.skipped {
        let _ = writeln!(text, "not measured: {line}");
    }
    for line in &report.not_measured_here {
        let _ = writeln!(text, "not measured: {line}");
    }
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "\n{}, {} cores, {}; workers on cores {:?}; a line from core to core {:.0} ns (from {:.0} to {:.0}); {:.0} s",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.pinned,
        report.floor.line_ns.p50,
        report.floor.line_ns.lowest,
        report.floor.line_ns.highest,
        report.seconds
    );
    let _ = writeln!(
        text,
        "ratio: their time over ours, median of pairs of slices in one mode of the machine; {PAIRS_MIN} pairs for a verdict"
    );
    text
}

fn comparison(report: &Report) -> String {
    let mut lines = vec![HEADINGS.map(String::from).to_vec()];
    let mut us = vec![String::new(); PROMISES_AT];
    us[0] = "shmbus".into();
    us.extend(promises(&OURS));
    lines.push(us);
    let mut told = None;
    for row in &report.rows {
        let first = told != Some((row.peer, row.setting));
        told = Some((row.peer, row.setting));
        lines.push(line(row, first));
    }
    columns(&lines)
}

fn own(report: &Report) -> String {
    let headings = [
        "peer",
        "its own benchmark",
        "what is timed",
        "it says",
        "here",
        "it / here",
        "rounds",
        "within 20 %",
        "differs",
    ];
    let mut lines = vec![headings.map(String::from).to_vec()];
    for row in &report.own {
        let mut cells = [row.peer, row.benchmark, row.work].map(String::from).to_vec();
        match row.ratio {
            Some(middle) => cells.extend([
                bus_bench::histogram::time(row.theirs_ns),
                bus_bench::histogram::time(row.here_ns),
                ratio(middle),
                format!("{}-{}", ratio(row.lowest), ratio(row.highest)),
                if row.within_20_percent == Some(true) { "yes" } else { "no" }.into(),
            ]),
            None => cells.extend(["", "", "", "", "failed"].map(String::from)),
        }
        cells.push(row.differs.into());
        lines.push(cells);
    }
    columns(&lines)
}

fn serializers(report: &Report) -> String {
    let headings = ["serializer", "body", "size", "encode", "decode", "both, to rkyv", "95 %"];
    let mut lines = vec![headings.map(String::from).to_vec()];
    for row in &report.serializers {
        lines.push(vec![
            row.serializer.into(),
            format!("{} B", row.body_bytes),
            format!("{} B", row.size_bytes),
            format!("{:.0} ns", row.encode_ns),
            format!("{:.0} ns", row.decode_ns),
            row.ratio.map_or_else(String::new, ratio),
            row.interval_95.map_or_else(String::new, interval),
        ]);
    }
    columns(&lines)
}

/// Lines of cells with the columns aligned, and an empty line behind.
fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text.push('\n');
    text
}

/// A row; what is the same for all rows of a setting is told with the first one.
fn line(row: &Row, first: bool) -> Vec<String> {
    let once = |text: &str| if first { text.to_owned() } else { String::new() };
    let mut cells = vec![once(row.peer), once(row.setting), work(row)];
    if row.error.is_some() {
        cells.extend(["", "", "", "", "", "failed", ""].map(String::from));
    } else {
        cells.extend([
            value(row.kind, row.theirs.ns, row.theirs.lost_share),
            value(row.kind, row.ours.ns, row.ours.lost_share),
            row.ratio.map_or_else(String::new, ratio),
            row.interval_95.map_or_else(String::new, interval),
            format!("{} at {:.0} ns", row.pairs, row.line_ns),
            word(row.verdict).into(),
            once(&row.compared_with),
        ]);
    }
    if first {
        cells.extend(promises(&row.promises));
    } else {
        cells.extend(vec![String::new(); HEADINGS.len() - PROMISES_AT]);
    }
    cells
}

fn promises(promises: &Promises) -> [String; 5] {
    [
        promises.copies.into(),
        promises.validates.into(),
        format!("{}; {}", promises.order, promises.readers),
        promises.survives_kill.into(),
        promises.acknowledged.into(),
    ]
}

/// What was measured, and at which size.
pub(crate) fn work(row: &Row) -> String {
    let what = match row.kind {
        Kind::Latency => "one way".to_owned(),
        Kind::Throughput => "stream".to_owned(),
        Kind::FanOut => format!("fan-out to {},", row.readers),
    };
    if row.bytes < 1_024 {
        format!("{what} {} B", row.bytes)
    } else {
        format!("{what} {} KiB", row.bytes / 1_024)
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Won => "won",
        Verdict::Equal => "equal",
        Verdict::Lost => "lost",
        Verdict::Unsettled => "unsettled",
        Verdict::Reference => "reference",
    }
}

fn value(kind: Kind, ns: f64, lost: f64) -> String {
    let mut text = match kind {
        Kind::Latency => bus_bench::histogram::time(ns),
        Kind::Throughput | Kind::FanOut => rate(1e9 / ns),
    };
    if lost > 0.0 {
        let _ = write!(text, ", {:.1} % lost", lost * 100.0);
    }
    text
}

fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e7 => format!("{:.0} M/s", rate / 1e6),
        rate if rate >= 1e6 => format!("{:.1} M/s", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0} k/s", rate / 1e3),
        rate => format!("{:.1} k/s", rate / 1e3),
    }
}

fn interval(ends: Interval) -> String {
    format!("{}-{}", ratio(ends.low), ratio(ends.high))
}

fn ratio(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_at_most() {
        assert_eq!(
            (rate(23.4e6), rate(1.26e6), rate(162e3), rate(5_540.0)),
            ("23 M/s".into(), "1.3 M/s".into(), "162 k/s".into(), "5.5 k/s".into())
        );
        assert_eq!((ratio(0.953), ratio(148.2)), ("0.95".into(), "148".into()));
    }
}
