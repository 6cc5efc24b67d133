//! What the rows should reach, as ratios inside one run, and the one-line verdict.

use crate::report::{ScenarioReport, Target, Verdict};

/// One way with default settings, to the line.
pub(crate) const LATENCY_TO_LINE: f64 = 2.2;
/// One way with `producers(1)`, to the line.
pub(crate) const LATENCY_ONE_PRODUCER_TO_LINE: f64 = 1.5;
/// Half of the round trips of requests, to half of those between two topics in the same run.
pub(crate) const REQUEST_TO_PING_PONG: f64 = 2.5;
/// Messages a second with default settings, to the ring.
pub(crate) const THROUGHPUT_TO_RING: f64 = 0.2;
/// Messages a second with `producers(1)`, to the ring.
pub(crate) const THROUGHPUT_ONE_PRODUCER_TO_RING: f64 = 0.3;
/// Bytes a second of 64 KiB payloads, to memcpy.
pub(crate) const LARGE_TO_MEMCPY: f64 = 0.5;
/// Publish cost with eight groups, to that with one.
pub(crate) const FANOUT_8_TO_1: f64 = 1.3;
/// Critical p99 with the normal lane full, to that with it idle.
pub(crate) const PRIORITY_SATURATED_TO_IDLE: f64 = 2.0;
/// A parked consumer woken, to the futex.
pub(crate) const WAKE_TO_FUTEX: f64 = 1.3;
/// The figure that the in-process bus is quoted with, in messages a second.
pub(crate) const QUOTED_MSGS_PER_S: f64 = 42_387.0;
/// Messages a second, to that figure.
pub(crate) const BUS100K_TO_QUOTED: f64 = 1_000.0;
/// What the bus may add for each hop.
pub(crate) const PIPELINE_PER_HOP_NS: f64 = 5_000.0;

impl Target {
    /// A value that should not be higher; `judged` says whether enough slices count.
    pub(crate) fn at_most(what: &str, limit: f64, value: Option<f64>, judged: bool) -> Self {
        let met = value.filter(|_| judged).map(|value| value <= limit);
        Self { what: what.into(), at_most: Some(limit), at_least: None, value, met }
    }

    /// A value that should not be lower.
    pub(crate) fn at_least(what: &str, limit: f64, value: Option<f64>, judged: bool) -> Self {
        let met = value.filter(|_| judged).map(|value| value >= limit);
        Self { what: what.into(), at_most: None, at_least: Some(limit), value, met }
    }

    /// Moves the limit away by a factor of at least 1.
    pub(crate) fn loosen(&mut self, factor: f64) {
        let factor = factor.max(1.0);
        self.at_most = self.at_most.map(|limit| limit * factor);
        self.at_least = self.at_least.map(|limit| limit / factor);
        let value = self.value.filter(|_| self.met.is_some());
        self.met = value.map(|value| {
            self.at_most.is_none_or(|limit| value <= limit)
                && self.at_least.is_none_or(|limit| value >= limit)
        });
    }

    /// The limit in words.
    pub(crate) fn limit_text(&self) -> String {
        match (self.at_most, self.at_least) {
            (Some(limit), _) => format!("at most {}", number(limit)),
            (_, Some(limit)) => format!("at least {}", number(limit)),
            _ => String::new(),
        }
    }
}

/// A ratio or a time with as many digits as it deserves.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The verdict over all rows. `floor_is_sound` is false if the floor's own sums were wrong.
pub(crate) fn verdict(rows: &[ScenarioReport], floor_is_sound: bool) -> Verdict {
    let mut problems: Vec<String> = Vec::new();
    if !floor_is_sound {
        problems.push("the floor read other bytes than it wrote".into());
    }
    let (mut met, mut undecided) = (0, 0);
    for row in rows {
        let name = format!("{} {} B", row.label(), row.payload_bytes);
        if row.error.is_some() {
            // Why stands in the row.
            problems.push(format!("{name} failed"));
        }
        if row.lost + row.out_of_order + row.corrupt > 0 {
            problems.push(format!(
                "{name}: {} lost, {} out of order, {} corrupt",
                row.lost, row.out_of_order, row.corrupt
            ));
        }
        let Some(target) = &row.target else { continue };
        match (target.met, target.value) {
            (Some(true), _) => met += 1,
            (Some(false), Some(value)) => {
                problems.push(format!("{name}: {} {} ({})", target.what, number(value), target.limit_text()))
            }
            _ => undecided += 1,
        }
    }
    let open = if undecided > 0 { format!("; {undecided} without a verdict") } else { String::new() };
    if !problems.is_empty() {
        return Verdict { pass: false, text: format!("FAIL: {}; {met} met{open}", problems.join("; ")) };
    }
    if met + undecided == 0 {
        return Verdict {
            pass: true,
            text: "PASS: no targets in these rows, nothing lost, order kept".into(),
        };
    }
    if met == 0 {
        return Verdict { pass: false, text: "no verdict: too few slices had a steady floor".into() };
    }
    let all = if undecided > 0 { "" } else { "all " };
    Verdict { pass: true, text: format!("PASS: {all}{met} targets met{open}, nothing lost, order kept") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: Option<Target>) -> ScenarioReport {
        ScenarioReport { name: "latency".into(), payload_bytes: 64, target, ..ScenarioReport::default() }
    }

    #[test]
    fn rows_that_reach_their_targets_pass() {
        let rows = [
            row(Some(Target::at_most("to line", 2.2, Some(2.0), true))),
            row(Some(Target::at_least("to ring", 0.2, Some(0.3), true))),
            row(None),
        ];
        let verdict = verdict(&rows, true);
        assert!(verdict.pass && verdict.text.contains("all 2 targets met"), "{verdict:?}");
    }

    #[test]
    fn a_missed_target_is_named_with_value_and_limit() {
        let verdict = verdict(&[row(Some(Target::at_most("to line", 2.2, Some(3.3), true)))], true);
        assert!(!verdict.pass);
        assert!(verdict.text.contains("latency 64 B: to line 3.30 (at most 2.20)"), "{verdict:?}");
    }

    #[test]
    fn a_limit_that_is_loosened_forgives_noise_and_no_collapse() {
        let met = |mut target: Target| {
            target.loosen(2.0);
            target.met
        };
        assert_eq!(met(Target::at_most("to line", 2.0, Some(3.9), true)), Some(true));
        assert_eq!(met(Target::at_most("to line", 2.0, Some(4.1), true)), Some(false));
        assert_eq!(met(Target::at_least("to the ring", 0.2, Some(0.11), true)), Some(true));
        assert_eq!(met(Target::at_least("to the ring", 0.2, Some(0.09), true)), Some(false));
        assert_eq!(met(Target::at_least("to the ring", 0.2, Some(0.09), false)), None);
    }

    #[test]
    fn too_few_slices_give_no_verdict() {
        let verdict = verdict(&[row(Some(Target::at_most("to line", 2.2, Some(3.0), false)))], true);
        assert!(!verdict.pass && verdict.text.starts_with("no verdict"), "{verdict:?}");
    }

    #[test]
    fn loss_fails_whatever_the_speed() {
        let mut lossy = row(Some(Target::at_most("to line", 2.2, Some(1.0), true)));
        lossy.lost = 3;
        assert!(!verdict(&[lossy], true).pass);
        assert!(!verdict(&[], false).pass);
    }
}
