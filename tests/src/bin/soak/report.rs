//! What a run came to, for people and for programs.

use crate::history::{Findings, GroupCount, History, ReaderCount, Tally};
use crate::plan::{TOPICS, TopicPlan};
use std::fmt::Write;
use std::time::Duration;

/// Memory at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Kilobytes of each process: its own, and all that it has touched.
    pub(crate) processes: Vec<(String, (u64, u64))>,
    pub(crate) shm_kib: u64,
}

/// A group at the end.
#[derive(Clone, Debug)]
pub(crate) struct GroupRow {
    pub(crate) name: String,
    pub(crate) published: u64,
    pub(crate) count: GroupCount,
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    groups: Vec<GroupRow>,
    taps: Vec<ReaderCount>,
    yielders: Vec<ReaderCount>,
    tally: Tally,
    accepted: u64,
    first: Sample,
    last: Sample,
    findings: Findings,
    kills: u64,
    stops: u64,
    restarts: u64,
    seed: u64,
    lasted: Duration,
}

impl Report {
    pub(crate) fn new(history: &History, groups: Vec<GroupRow>, first: Sample, last: Sample) -> Self {
        Self {
            groups,
            taps: history.taps.clone(),
            yielders: history.yielders.clone(),
            tally: history.tally.clone(),
            accepted: history.accepted(),
            first,
            last,
            findings: history.findings.clone(),
            kills: 0,
            stops: 0,
            restarts: 0,
            seed: 0,
            lasted: Duration::ZERO,
        }
    }

    pub(crate) fn with_faults(self, kills: u64, stops: u64, restarts: u64) -> Self {
        Self { kills, stops, restarts, ..self }
    }

    pub(crate) fn with_run(self, seed: u64, lasted: Duration) -> Self {
        Self { seed, lasted, ..self }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_clean()
    }

    /// The line that sums it up.
    pub(crate) fn last_line(&self) -> String {
        let redelivered: u64 = self.groups.iter().map(|row| row.count.redelivered).sum();
        format!(
            "messages={} kills={} stops={} redelivered={redelivered} lost={} out_of_order={}",
            self.accepted, self.kills, self.stops, self.findings.lost, self.findings.out_of_order
        )
    }

    /// A table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "seed {}, {:.1} s, {} restarts\n\n{:<14} {:>10} {:>10} {:>11} {:>8} {:>6} {:>8} {:>8} {:>10} {:>10} {:>7}",
            self.seed,
            self.lasted.as_secs_f64(),
            self.restarts,
            "group",
            "published",
            "delivered",
            "redelivered",
            "unmarked",
            "dead",
            "in doubt",
            "too late",
            "repair p50",
            "p99",
            "max ms"
        );
        for row in &self.groups {
            let count = &row.count;
            let [median, most, max] = repairs_ms(count);
            let _ = writeln!(
                text,
                "{:<14} {:>10} {:>10} {:>11} {:>8} {:>6} {:>8} {:>8} {median:>10.1} {most:>10.1} {max:>7.0}",
                row.name,
                row.published,
                count.delivered,
                count.redelivered,
                count.unmarked,
                count.dead,
                count.doubtful,
                count.refused
            );
        }
        for (plan, tap) in TOPICS.iter().zip(&self.taps).filter(|(plan, _)| plan.has_tap) {
            let name = format!("{}/tap", plan.name);
            let _ = writeln!(text, "{name:<14} {:>10} {:>10}   missed {}", "", tap.delivered, tap.missed);
        }
        for (plan, reader) in TOPICS.iter().zip(&self.yielders).filter(|(plan, _)| plan.has_yielder) {
            let name = format!("{}/yielder", plan.name);
            let _ =
                writeln!(text, "{name:<14} {:>10} {:>10}   missed {}", "", reader.delivered, reader.missed);
        }
        let Tally { batched, extended, outlived, no_room, came_again } = self.tally;
        let _ = writeln!(
            text,
            "published in batches {batched}; granted more time {extended} times, acknowledged after more than ack_wait {outlived}; \
             no room in a batch {no_room}, rejected and came again for want of room {came_again}"
        );
        let _ = writeln!(text, "\n{:<20} {:>22} {:>22}", "memory, KiB", "at 10 %: own, all", "at the end");
        for (name, (own, all)) in &self.last.processes {
            let before = self.first.processes.iter().find(|(other, _)| other == name);
            let (own_before, all_before) = before.map_or((0, 0), |(_, memory)| *memory);
            let _ = writeln!(text, "{name:<20} {own_before:>11} {all_before:>10} {own:>11} {all:>10}");
        }
        let _ = writeln!(text, "{:<20} {:>22} {:>22}", "/dev/shm", self.first.shm_kib, self.last.shm_kib);
        for wrong in &self.findings.texts {
            let _ = writeln!(text, "WRONG: {wrong}");
        }
        let more = self.findings.lost + self.findings.out_of_order + self.findings.other;
        if more > self.findings.texts.len() as u64 {
            let _ = writeln!(text, "WRONG: {more} things in all");
        }
        text
    }

    /// The same for programs, in one line.
    pub(crate) fn json(&self) -> String {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|row| {
                let [median, most, max] = repairs_ms(&row.count);
                serde_json::json!({
                    "group": row.name,
                    "published": row.published,
                    "delivered": row.count.delivered,
                    "redelivered": row.count.redelivered,
                    "unmarked": row.count.unmarked,
                    "dead": row.count.dead,
                    "in_doubt": row.count.doubtful,
                    "too_late": row.count.refused,
                    "repairs": row.count.repairs_ns.len(),
                    "repair_ms": { "p50": median, "p99": most, "max": max },
                })
            })
            .collect();
        let sample = |sample: &Sample| {
            let of_process = |(name, (own, all)): &(String, (u64, u64))| {
                (name.clone(), serde_json::json!({ "own_kib": own, "all_kib": all }))
            };
            let processes: serde_json::Map<_, _> = sample.processes.iter().map(of_process).collect();
            serde_json::json!({ "processes": processes, "shm_kib": sample.shm_kib })
        };
        let taps = TOPICS.iter().zip(&self.taps).filter(|(plan, _)| plan.has_tap);
        let of_reader = |(plan, reader): (&TopicPlan, &ReaderCount)| {
            let ReaderCount { delivered, missed } = reader;
            serde_json::json!({ "topic": plan.name, "delivered": delivered, "missed": missed })
        };
        let yielders = TOPICS.iter().zip(&self.yielders).filter(|(plan, _)| plan.has_yielder);
        serde_json::json!({
            "seed": self.seed,
            "seconds": self.lasted.as_secs_f64(),
            "messages": self.accepted,
            "kills": self.kills,
            "stops": self.stops,
            "restarts": self.restarts,
            "lost": self.findings.lost,
            "out_of_order": self.findings.out_of_order,
            "wrong": self.findings.other,
            "texts": self.findings.texts,
            "groups": groups,
            "taps": taps.map(of_reader).collect::<Vec<_>>(),
            "yielders": yielders.map(of_reader).collect::<Vec<_>>(),
            "batched": self.tally.batched,
            "extended": self.tally.extended,
            "outlived_ack_wait": self.tally.outlived,
            "no_room_in_batch": self.tally.no_room,
            "rejected_came_again": self.tally.came_again,
            "at_10_percent": sample(&self.first),
            "at_the_end": sample(&self.last),
        })
        .to_string()
    }
}

/// Half of the repairs took at most so long, 99 of a hundred, and all.
fn repairs_ms(count: &GroupCount) -> [f64; 3] {
    let mut sorted = count.repairs_ns.clone();
    sorted.sort_unstable();
    let at = |share: f64| {
        let index = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(index.clamp(1, sorted.len().max(1)) - 1).map_or(0.0, |&ns| ns as f64 / 1e6)
    };
    [at(0.5), at(0.99), at(1.0)]
}
