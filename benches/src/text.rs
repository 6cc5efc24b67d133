//! The report as text for people.

use std::fmt::Write as _;

use crate::histogram::{bars, time};
use crate::report::{Aim, FloorReport, Machine, PerCore, Report, ScenarioReport};
use crate::targets::number;

/// A rate over all the time is shown if it is below this share of the rate of the median block.
const MEAN_TELLS: f64 = 0.8;

/// Renders the whole report: machine, floor, one line a row, what is aimed at, histograms by core, verdict.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    machine(&mut text, &report.machine);
    floor(&mut text, &report.floor);
    rows(&mut text, &report.scenarios);
    aims(&mut text, &report.scenarios);
    histograms(&mut text, report);
    let _ = writeln!(text, "\n{}  ({:.1} s)", report.verdict.text, report.seconds);
    text
}

fn machine(text: &mut String, machine: &Machine) {
    let _ = writeln!(
        text,
        "machine   {}, {}, {}, clock {} in steps of {}, pages of {} KiB",
        machine.cpu,
        plural(machine.cores, "core"),
        machine.kernel,
        machine.clock,
        time(machine.clock_step_ns),
        machine.page_bytes / 1_024
    );
    let pinned = match machine.pinned.as_slice() {
        [] => "processes not pinned".to_owned(),
        [only] => format!("all processes on core {only}"),
        [first, second, ..] => {
            let kind = if machine.physical_cores { "two physical cores" } else { "one physical core" };
            format!("processes pinned, the first two to cores {first} and {second} ({kind})")
        }
    };
    let _ = writeln!(text, "          {pinned}");
}

fn floor(text: &mut String, floor: &FloorReport) {
    let line = &floor.line_ns;
    let _ = writeln!(
        text,
        "\nfloor     line    {:>9} one way, p99 {}; slices from {} to {}",
        time(line.p50),
        time(line.p99 as f64),
        time(line.lowest),
        time(line.highest)
    );
    for (payload, rate) in by_size(&floor.ring_msgs_per_s) {
        let _ = writeln!(text, "          ring    {:>9} messages/s of {}", count(rate), size(payload));
    }
    let _ = writeln!(text, "          wake    {:>9} one way", time(floor.wake_ns.p50));
    for (block, rate) in by_size(&floor.memcpy_gb_per_s) {
        let _ = writeln!(text, "          memcpy  {rate:>4.1} GB/s in blocks of {}", size(block));
    }
}

/// Sizes in their numeric order, not in that of their digits.
fn by_size(values: &std::collections::BTreeMap<String, f64>) -> Vec<(usize, f64)> {
    let mut pairs: Vec<(usize, f64)> =
        values.iter().filter_map(|(size, value)| Some((size.parse().ok()?, *value))).collect();
    pairs.sort_unstable_by_key(|(size, _)| *size);
    pairs
}

/// One cell a column; the widths follow the longest.
fn rows(text: &mut String, rows: &[ScenarioReport]) {
    let mut table =
        vec![["scenario", "payload", "wait", "result", "against", "target", "slices"].map(str::to_owned)];
    table.extend(rows.iter().map(cells));
    text.push('\n');
    for (index, line) in lines(&table, 1).into_iter().enumerate() {
        let _ = writeln!(text, "{line}");
        let Some(report) = index.checked_sub(1).map(|index| &rows[index]) else { continue };
        if let Some(why) = report.error.as_ref().or(report.skipped.as_ref()) {
            let _ = writeln!(text, "  {why}");
        }
        let (lost, late, corrupt) = (report.lost, report.out_of_order, report.corrupt);
        if lost + late + corrupt > 0 {
            let _ = writeln!(text, "  WRONG: {lost} lost, {late} out of order, {corrupt} corrupt");
        }
    }
}

/// The lines of a table; the cells of one column are set to the right.
fn lines<const COLUMNS: usize>(table: &[[String; COLUMNS]], right: usize) -> Vec<String> {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == right {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        line.trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

/// What a full run shows beside what is aimed at. Nothing of it is in the verdict.
fn aims(text: &mut String, rows: &[ScenarioReport]) {
    let mut table = vec![["aimed at, not judged", "payload", "figure", "here", "aim"].map(str::to_owned)];
    for row in rows {
        let mut name = row.label();
        if row.oversubscribed {
            name.push_str(" (oversubscribed)");
        }
        table.extend(
            row.aims.iter().map(|aim| {
                [name.clone(), size(row.payload_bytes), aim.what.clone(), here(aim), aimed_at(aim)]
            }),
        );
    }
    if table.len() > 1 {
        let _ = writeln!(text, "\n{}", lines(&table, 1).join("\n"));
    }
}

fn here(aim: &Aim) -> String {
    let Some(value) = aim.value else { return "nothing measured".to_owned() };
    let interval = aim.interval_95.map_or(String::new(), |ends| {
        format!(" ({} to {})", amount(ends.low, &aim.unit), amount(ends.high, &aim.unit))
    });
    amount(value, &aim.unit) + &interval
}

fn aimed_at(aim: &Aim) -> String {
    match (aim.at_most, aim.at_least) {
        (Some(limit), _) => format!("at most {}", amount(limit, &aim.unit)),
        (_, Some(limit)) => format!("at least {}", amount(limit, &aim.unit)),
        _ => "no figure".to_owned(),
    }
}

/// A value with its unit.
fn amount(value: f64, unit: &str) -> String {
    match unit {
        "" => number(value),
        "ns" if value.abs() < 1_000.0 => step_time(value),
        "ns" => time(value),
        "messages/s" => format!("{} msg/s", count(value)),
        unit => format!("{} {unit}", number(value)),
    }
}

fn cells(row: &ScenarioReport) -> [String; 7] {
    let wait = row.wait.map_or("", |wait| wait.name());
    let mut name = row.label();
    if row.oversubscribed {
        name.push_str(" (oversubscribed)");
    }
    let slices = match (row.slices.used, row.slices.dropped) {
        (0, 0) => String::new(),
        (used, 0) => used.to_string(),
        (used, dropped) => format!("{used}, {dropped} dropped"),
    };
    [name, size(row.payload_bytes), wait.to_owned(), result(row), against(row), target(row), slices]
}

fn result(row: &ScenarioReport) -> String {
    if row.error.is_some() {
        return "failed".to_owned();
    }
    if row.skipped.is_some() {
        return "skipped".to_owned();
    }
    let mut parts = Vec::new();
    if let Some(spread) = row.publish_cpu_ns {
        parts.push(format!("{} a publish", time(spread.median)));
    }
    if let Some(spread) = row.per_hop_ns {
        parts.push(format!("{} a hop", time(spread.median)));
    }
    if let Some(spread) = row.step_ns {
        parts.push(format!(
            "{} each ({} to {})",
            step_time(spread.median),
            step_time(spread.q1),
            step_time(spread.q3)
        ));
    }
    if let Some(rate) = row.requests_per_s {
        parts.push(format!("{} requests/s", count(rate)));
    }
    // Processes that take turns on a core say nothing about what the bus carries; the calls are what is left.
    let calls_only = row.oversubscribed && row.publish_call_ns.is_some();
    if let Some(rate) = row.msgs_per_s.filter(|_| !calls_only) {
        parts.push(format!("{} msg/s", count(rate)));
    }
    let mean = row.mean_msgs_per_s.zip(row.msgs_per_s).filter(|(mean, rate)| *mean < MEAN_TELLS * rate);
    if let Some((mean, _)) = mean {
        parts.push(format!("{} with interruptions", count(mean)));
    }
    if let Some(rate) = row.gb_per_s.filter(|_| row.payload_bytes > 1_024) {
        parts.push(format!("{rate:.1} GB/s"));
    }
    if let Some(ring) = row.ring_bytes {
        parts.push(format!("topic of {}, ring of {}", bytes(ring.topic), bytes(ring.floor)));
    }
    if let Some(rate) = row.deliveries_per_s {
        parts.push(format!("{} msg/s read by all groups", count(rate)));
    }
    if let Some(call) = row.publish_call_ns {
        parts.push(format!("publish {}", time(call.p50 as f64)));
    }
    if let Some(call) = row.receive_call_ns {
        parts.push(format!("receive {}", time(call.p50 as f64)));
    }
    if let Some(way) = row.one_way_ns {
        let from_blocks = row.block_ns.map_or(way.p50 as f64, |spread| spread.median);
        parts.push(format!("{}, p99 {}", time(from_blocks), time(way.p99 as f64)));
    }
    if let Some(share) = row.consumer_cpu_share {
        parts.push(format!("reader {:.1} % of a core", 100.0 * share));
    }
    if let Some(memory) = row.memory {
        parts.push(format!("{} own, {} bus", bytes(memory.own_bytes), bytes(memory.bus_bytes)));
    }
    if parts.is_empty() { "nothing measured".to_owned() } else { parts.join(", ") }
}

fn against(row: &ScenarioReport) -> String {
    let (value, interval, to) = match (&row.ratio, row.to_floor, &row.floor) {
        _ if row.oversubscribed && row.publish_call_ns.is_some() => return String::new(),
        (Some(ratio), _, _) => (ratio.value, ratio.interval_95, other(row, &ratio.to)),
        (None, Some(value), Some(floor)) => (value, row.to_floor_95, floor.clone()),
        _ => return String::new(),
    };
    let interval =
        interval.map_or(String::new(), |ends| format!(" ({}-{})", number(ends.low), number(ends.high)));
    format!("{} x {to}{interval}", number(value))
}

/// The words of another row's variant that are not this one's: `idle`, not `idle sender=same`.
fn other(row: &ScenarioReport, to: &str) -> String {
    let ours: Vec<&str> = row.variant.iter().flat_map(|variant| variant.split(' ')).collect();
    to.split(' ').filter(|word| !ours.contains(word)).collect::<Vec<_>>().join(" ")
}

fn target(row: &ScenarioReport) -> String {
    let Some(target) = &row.target else { return String::new() };
    let met = match target.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "no verdict",
    };
    // Where the value is not in the row already, it is said here.
    let value =
        match (target.value, row.ratio.is_none() && target.value != row.to_floor && row.per_hop_ns.is_none())
        {
            (Some(value), true) => format!(", {}", number(value)),
            _ => String::new(),
        };
    let limit = match (target.at_most, target.at_least) {
        (Some(limit), _) => format!("<= {}", number(limit)),
        (_, Some(limit)) => format!(">= {}", number(limit)),
        _ => String::new(),
    };
    format!("{met}{value} ({limit})")
}

fn histograms(text: &mut String, report: &Report) {
    for row in &report.scenarios {
        // Rows with other settings have their percentiles in the JSON; drawing them all would bury these.
        if row.name.contains(' ') {
            continue;
        }
        for core in &row.per_core {
            histogram(text, row, core, report.machine.clock_step_ns);
        }
    }
}

fn histogram(text: &mut String, row: &ScenarioReport, core: &PerCore, step_ns: f64) {
    if core.ns.count == 0 {
        return;
    }
    let wait = row.wait.map_or("", |wait| wait.name());
    let _ = writeln!(
        text,
        "\n{} {} {wait}, core {} ({}): {}\n  p50 {}, p90 {}, p99 {}, p99.9 {}, max {}, {} samples",
        row.label(),
        size(row.payload_bytes),
        core.core,
        core.role,
        core.what,
        time(core.ns.p50 as f64),
        time(core.ns.p90 as f64),
        time(core.ns.p99 as f64),
        time(core.ns.p999 as f64),
        time(core.ns.max as f64),
        count(core.ns.count as f64)
    );
    for line in bars(&core.histogram, step_ns) {
        let _ = writeln!(text, "  {line}");
    }
}

/// Single steps are so short that tenths count.
fn step_time(ns: f64) -> String {
    format!("{ns:.1} ns")
}

/// A count with a unit: 94.3 M, 12.1 k.
fn count(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e8 => format!("{:.0} M", v / 1e6),
        v if v >= 1e6 => format!("{:.1} M", v / 1e6),
        v if v >= 1e5 => format!("{:.0} k", v / 1e3),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1_024 && b % 1_024 == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.0} kB", b / 1e3),
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Nanos;
    use crate::report::{Slices, Target, Verdict};
    use crate::spec::WaitMode;

    fn sample() -> Report {
        let mut histogram = Nanos::new();
        (90..140).for_each(|ns| histogram.record(ns));
        let row = ScenarioReport {
            name: "latency".into(),
            payload_bytes: 64,
            wait: Some(WaitMode::Spin),
            one_way_ns: Some(histogram.summary()),
            floor: Some("line".into()),
            to_floor: Some(2.04),
            slices: Slices { used: 7, dropped: 1 },
            per_core: vec![PerCore {
                core: 1,
                role: "consumer".into(),
                what: "round trip / 2".into(),
                ns: histogram.summary(),
                histogram,
            }],
            target: Some(Target::at_most("one way to the line", 2.2, Some(2.04), true)),
            ..ScenarioReport::default()
        };
        let failed = ScenarioReport {
            name: "wake".into(),
            error: Some("no room".into()),
            ..ScenarioReport::default()
        };
        Report {
            schema: 1,
            machine: Machine { cpu: "X".into(), cores: 2, pinned: vec![0, 1], ..Machine::default() },
            floor: FloorReport {
                ring_msgs_per_s: [("1024".to_owned(), 2e7), ("64".to_owned(), 1.9e8)].into(),
                ..FloorReport::default()
            },
            scenarios: vec![row, failed],
            verdict: Verdict { pass: true, text: "PASS".into() },
            seconds: 19.0,
        }
    }

    #[test]
    fn each_part_is_there_once_and_the_verdict_is_last() {
        let text = render(&sample());
        assert!(text.contains("2.04 x line"), "{text}");
        assert!(text.contains("met (<= 2.20)"), "{text}");
        assert!(text.contains("7, 1 dropped"), "{text}");
        assert!(text.contains("core 1 (consumer)"), "{text}");
        assert!(text.contains("no room"), "{text}");
        assert!(text.trim_end().ends_with("PASS  (19.0 s)"), "{text}");
        assert!(text.find("190 M").unwrap() < text.find("20.0 M").unwrap(), "{text}");
    }

    #[test]
    fn columns_are_aligned() {
        let text = render(&sample());
        let header = text.lines().find(|line| line.starts_with("scenario")).unwrap();
        let row = text.lines().find(|line| line.starts_with("latency") && line.contains("2.04")).unwrap();
        let column =
            |line: &str, what: &str| line.chars().count() - line[line.find(what).unwrap()..].chars().count();
        assert_eq!(column(header, "against"), column(row, "2.04 x line"));
    }

    #[test]
    fn what_is_aimed_at_stands_below_the_rows_and_out_of_the_verdict() {
        let mut report = sample();
        assert!(!render(&report).contains("aimed at"));
        let (what, unit) = ("one way p50".to_owned(), "ns".to_owned());
        let aim = Aim { what, unit, value: Some(1_234.0), at_most: Some(1_000.0), ..Aim::default() };
        let (what, unit) = ("read".to_owned(), "messages/s".to_owned());
        let free = Aim { what, unit, value: Some(3e7), ..Aim::default() };
        report.scenarios[0].aims = vec![aim, free];
        report.scenarios[1] = ScenarioReport {
            name: "throughput".into(),
            skipped: Some("skipped: no room".into()),
            ..ScenarioReport::default()
        };
        let text = render(&report);
        let line = |what: &str| text.lines().find(|line| line.contains(what)).unwrap().to_owned();
        assert!(line("one way p50").contains("1234 ns"), "{text}");
        assert!(line("one way p50").ends_with("at most 1000 ns"), "{text}");
        assert!(line("read").contains("30.0 M msg/s") && line("read").ends_with("no figure"), "{text}");
        assert!(text.contains("skipped: no room") && !text.contains("failed"), "{text}");
    }

    #[test]
    fn numbers_carry_fitting_units() {
        assert_eq!(count(94_300_000.0), "94.3 M");
        assert_eq!(count(12_100.0), "12.1 k");
        assert_eq!((size(64), size(65_536), size(1 << 20)), ("64 B".into(), "64 KiB".into(), "1 MiB".into()));
        assert_eq!(bytes(38_000_000), "38.0 MB");
    }
}
