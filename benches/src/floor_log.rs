//! All floor slices of a run: the floor section of the report.

use std::collections::BTreeMap;

use crate::histogram::Nanos;
use crate::report::{FloorReport, LineFloor, MedianNs};
use crate::slices::FloorKind;
use crate::stats::{Spread, median};

/// What the floor slices of a run have shown.
#[derive(Debug, Default)]
pub(crate) struct FloorLog {
    line: Vec<f64>,
    ring: BTreeMap<usize, Vec<f64>>,
    wake: Vec<f64>,
    memcpy: BTreeMap<usize, Vec<f64>>,
    pub(crate) line_histogram: Nanos,
    pub(crate) wake_histogram: Nanos,
    /// Floor slices whose sum was wrong: the machine or this crate is broken.
    pub(crate) corrupt: u64,
}

impl FloorLog {
    /// Notes the value of one floor slice.
    pub(crate) fn note(&mut self, kind: FloorKind, value: f64) {
        match kind {
            FloorKind::Line | FloorKind::Glance => self.line.push(value),
            FloorKind::Ring(payload) => self.ring.entry(payload).or_default().push(value),
            FloorKind::Wake => self.wake.push(value),
            FloorKind::Memcpy(block) => self.memcpy.entry(block).or_default().push(value),
        }
    }

    /// The section of the report.
    pub(crate) fn report(&self) -> FloorReport {
        let line = Spread::of(&self.line).unwrap_or_default();
        let medians = |of: &BTreeMap<usize, Vec<f64>>, unit: f64| {
            of.iter()
                .filter_map(|(bytes, values)| Some((bytes.to_string(), median(values)? / unit)))
                .collect()
        };
        FloorReport {
            line_ns: LineFloor {
                p50: line.median,
                p99: self.line_histogram.summary().p99,
                lowest: line.min,
                highest: line.max,
            },
            ring_msgs_per_s: medians(&self.ring, 1.0),
            wake_ns: MedianNs { p50: median(&self.wake).unwrap_or(0.0) },
            memcpy_gb_per_s: medians(&self.memcpy, 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_shows_medians_and_the_modes() {
        let mut log = FloorLog::default();
        for ns in [55.0, 52.0, 210.0] {
            log.note(FloorKind::Line, ns);
        }
        log.note(FloorKind::Ring(64), 1.5e8);
        log.note(FloorKind::Memcpy(65_536), 2.6e10);
        let report = log.report();
        assert_eq!((report.line_ns.p50, report.line_ns.lowest, report.line_ns.highest), (55.0, 52.0, 210.0));
        assert_eq!(report.ring_msgs_per_s["64"], 1.5e8);
        assert_eq!(report.memcpy_gb_per_s["65536"], 26.0);
    }
}
