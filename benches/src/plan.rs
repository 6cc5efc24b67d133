//! Which scenarios are measured, with which settings, next to which floor, and for how long.

use std::path::Path;
use std::time::Duration;

use crate::cores::Cores;
use crate::error::Result;
use crate::options::Options;
use crate::scenarios::STAGES;
use crate::slices::{Entry, FloorKind};
use crate::spec::{Scenario, Sender, Spec, Step, WaitMode};

/// The two processes of most scenarios.
const PAIR: [usize; 2] = [0, 1];

/// Messages a second of `paced`: slow enough that nothing queues in the slow mode of the machines seen so far.
const PACED_HZ: u64 = 100_000;

/// Critical messages a second: a sender that sleeps between two must be able to keep the rate.
const CRITICAL_HZ: u64 = 10_000;

/// Slots of a long ring, where a row has one.
const LONG_SLOTS: u32 = 16_384;

/// Messages of a batch, where a row takes batches.
const BATCH: usize = 64;

/// Entries that are measured in turn, next to the same floor.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) floor: FloorKind,
    pub(crate) entries: Vec<Entry<Spec>>,
    /// Slices wanted of each.
    pub(crate) goal: usize,
}

impl Group {
    /// The time it takes if no slice is dropped.
    pub(crate) fn planned(&self) -> Duration {
        let overhead = Duration::from_millis(2);
        let round: Duration =
            self.entries.iter().map(|entry| entry.slice + self.floor.length() + overhead).sum();
        round * self.goal as u32 + Duration::from_millis(60) * self.entries.len() as u32
    }

    /// The bus that all entries share.
    pub(crate) fn bus(&self) -> &str {
        &self.entries[0].spec.bus
    }

    /// The scenario that all entries belong to.
    pub(crate) fn scenario(&self) -> Scenario {
        self.entries[0].spec.scenario
    }
}

/// Draws up the groups of a run, in the order in which they are measured.
pub(crate) fn groups(options: &Options, cores: &Cores, directory: &Path) -> Result<Vec<Group>> {
    // Spinning against a process on the same core would measure the scheduler's time slice.
    let alone = cores.oversubscribed(2);
    let spin = if alone { WaitMode::Adaptive } else { WaitMode::Spin };
    let planner = Planner { options, cores, waits: waits(options, spin), spin };
    let mut groups = Vec::new();
    for scenario in options.chosen()? {
        groups.extend(planner.scenario(scenario)?);
    }
    let mut rows = 0..;
    for (index, group) in groups.iter_mut().enumerate() {
        for (entry, row) in group.entries.iter_mut().zip(&mut rows) {
            entry.spec.directory = directory.to_owned();
            entry.spec.bus = format!("bench{index}");
            entry.spec.topic = format!("bench.row{row}");
        }
    }
    Ok(groups)
}

fn waits(options: &Options, spin: WaitMode) -> Vec<WaitMode> {
    match options.wait {
        Some(wait) => vec![wait],
        None if options.full => vec![spin, WaitMode::Adaptive],
        None => vec![spin],
    }
}

/// Payload of the bare ring that throughput of large payloads is compared with.
pub(crate) const BARE_PAYLOAD_BYTES: usize = 1_024;

struct Planner<'a> {
    options: &'a Options,
    cores: &'a Cores,
    waits: Vec<WaitMode>,
    spin: WaitMode,
}

impl Planner<'_> {
    fn scenario(&self, scenario: Scenario) -> Result<Vec<Group>> {
        match scenario {
            Scenario::Latency => self.latency(),
            Scenario::Paced => self.paced(),
            Scenario::Throughput => self.throughput(),
            Scenario::Fanout => Ok(vec![self.fanout()]),
            Scenario::Mpmc => Ok(self.mpmc()),
            Scenario::Priority => Ok(vec![self.priority()]),
            Scenario::Wake => self.wake(),
            Scenario::Bus100k => Ok(vec![self.bus100k()]),
            Scenario::Pipeline => Ok(vec![self.pipeline()]),
            Scenario::Cost => self.cost(),
        }
    }

    fn latency(&self) -> Result<Vec<Group>> {
        let payloads =
            self.options.payloads_or(if self.options.full { &[64, 1_024, 65_536] } else { &[64] })?;
        let mut groups = Vec::new();
        for &payload_bytes in &payloads {
            for &wait in &self.waits {
                let default = Spec { payload_bytes, wait, ..Spec::of(Scenario::Latency) };
                let mut specs = vec![default.clone(), Spec { one_producer: true, ..default.clone() }];
                if self.options.full {
                    specs.push(Spec { no_stamps: true, ..default.clone() });
                }
                let mut group = group(FloorKind::Line, specs, &PAIR, 200, 6);
                if payload_bytes == 64 {
                    group.entries.push(entry(Spec { asks: true, ..default.clone() }, &PAIR, 40));
                    group.entries.push(entry(Spec { bare: true, ..default }, &PAIR, 15));
                }
                groups.push(group);
            }
        }
        Ok(groups)
    }

    fn paced(&self) -> Result<Vec<Group>> {
        let payloads = self.options.payloads_or(if self.options.full { &[64, 1_024] } else { &[64] })?;
        let spec = |payload_bytes, wait| Spec {
            payload_bytes,
            wait,
            rate_hz: PACED_HZ,
            ..Spec::of(Scenario::Paced)
        };
        let mut groups = Vec::new();
        for &payload_bytes in payloads.iter().filter(|bytes| **bytes <= 1_024) {
            let specs = self.waits.iter().map(|wait| spec(payload_bytes, *wait)).collect();
            groups.push(group(FloorKind::Line, specs, &PAIR, 200, 5));
        }
        Ok(groups)
    }

    fn throughput(&self) -> Result<Vec<Group>> {
        let payloads =
            self.options.payloads_or(if self.options.full { &[64, 1_024, 65_536] } else { &[64, 65_536] })?;
        let mut groups = Vec::new();
        for &payload_bytes in &payloads {
            for &wait in &self.waits {
                let default = Spec { payload_bytes, wait, ..Spec::of(Scenario::Throughput) };
                // Large payloads are a matter of copying, whoever may publish.
                let large = payload_bytes > 1_024;
                let floor =
                    if large { FloorKind::Memcpy(payload_bytes) } else { FloorKind::Ring(payload_bytes) };
                let mut specs = vec![default.clone()];
                if !large || self.options.full {
                    specs.push(Spec { one_producer: true, ..default.clone() });
                }
                if self.options.full {
                    specs.push(Spec { no_stamps: true, ..default.clone() });
                    if !large {
                        // More than the second cache holds: its lines have left there when their turn comes again.
                        let long = Spec {
                            one_producer: true,
                            capacity: LONG_SLOTS,
                            no_stamps: true,
                            ..default.clone()
                        };
                        specs.push(Spec { capacity: 0, ..long.clone() });
                        specs.push(long);
                    }
                    specs.push(Spec { batch: BATCH, ..default });
                }
                let (slice_ms, goal) = if large { (80, 5) } else { (200, 6) };
                let mut group = group(floor, specs, &PAIR, slice_ms, goal);
                if large {
                    // How fast bytes come over at all: a ring of the largest payload whose bare ring is small.
                    let bare = Spec {
                        bare: true,
                        payload_bytes: BARE_PAYLOAD_BYTES,
                        wait,
                        ..Spec::of(Scenario::Throughput)
                    };
                    group.entries.push(entry(bare, &PAIR, 15));
                }
                groups.push(group);
            }
        }
        Ok(groups)
    }

    fn fanout(&self) -> Group {
        let counts: &[usize] = if self.options.full { &[1, 2, 4, 8, 50] } else { &[1, 8] };
        let spec = |groups: &usize| Spec { groups: *groups, wait: self.spin, ..Spec::of(Scenario::Fanout) };
        group(FloorKind::Line, counts.iter().map(spec).collect(), &PAIR, 100, 6)
    }

    fn mpmc(&self) -> Vec<Group> {
        let shapes: &[(usize, usize)] = if self.options.full { &[(2, 2), (4, 1), (1, 4)] } else { &[(2, 2)] };
        let of_shape = |&(producers, consumers): &(usize, usize)| {
            let shared = self.cores.oversubscribed(producers + consumers);
            let wait = if shared { WaitMode::Adaptive } else { self.spin };
            let spec = Spec { producers, consumers, wait, ..Spec::of(Scenario::Mpmc) };
            let parts: Vec<usize> = (0..producers + consumers).collect();
            group(FloorKind::Ring(64), vec![spec], &parts, 150, 5)
        };
        shapes.iter().map(of_shape).collect()
    }

    fn priority(&self) -> Group {
        let spec = |sender, saturated| Spec {
            sender,
            saturated,
            rate_hz: CRITICAL_HZ,
            wait: self.spin,
            ..Spec::of(Scenario::Priority)
        };
        let mut entries = Vec::new();
        for (sender, parts) in [(Sender::Same, &[0, 1][..]), (Sender::Other, &[0, 1, 2][..])] {
            for saturated in [false, true] {
                entries.push(entry(spec(sender, saturated), parts, 120));
            }
        }
        Group { floor: FloorKind::Line, entries, goal: 5 }
    }

    fn wake(&self) -> Result<Vec<Group>> {
        let payloads = self.options.payloads_or(&[64])?;
        let spec = |payload_bytes| Spec { payload_bytes, wait: WaitMode::Park, ..Spec::of(Scenario::Wake) };
        Ok(payloads.iter().map(|bytes| group(FloorKind::Wake, vec![spec(*bytes)], &PAIR, 120, 6)).collect())
    }

    fn bus100k(&self) -> Group {
        let spec = Spec { wait: self.spin, ..Spec::of(Scenario::Bus100k) };
        group(FloorKind::Ring(64), vec![spec], &PAIR, 10, 9)
    }

    fn cost(&self) -> Result<Vec<Group>> {
        let payloads = self.options.payloads_or(&[64])?;
        let of_size = |payload_bytes: &usize| {
            let spec = |step| Spec { payload_bytes: *payload_bytes, step, ..Spec::of(Scenario::Cost) };
            let mut specs = Step::ALL.map(spec).to_vec();
            let one = |step| Spec { one_producer: true, ..spec(step) };
            specs.extend([Step::Publish, Step::Receive, Step::ReceiveBatch].map(one));
            group(FloorKind::Line, specs, &PAIR[..1], 40, 5)
        };
        Ok(payloads.iter().map(of_size).collect())
    }

    fn pipeline(&self) -> Group {
        let spec = Spec { wait: WaitMode::Adaptive, ..Spec::of(Scenario::Pipeline) };
        let stages: Vec<usize> = (0..STAGES).collect();
        let entries =
            vec![entry(spec.clone(), &stages, 60), entry(Spec { bare: true, ..spec }, &PAIR[..1], 60)];
        Group { floor: FloorKind::Line, entries, goal: 5 }
    }
}

fn group(floor: FloorKind, specs: Vec<Spec>, parts: &[usize], slice_ms: u64, goal: usize) -> Group {
    Group { floor, entries: specs.into_iter().map(|spec| entry(spec, parts, slice_ms)).collect(), goal }
}

fn entry(spec: Spec, parts: &[usize], slice_ms: u64) -> Entry<Spec> {
    Entry { spec, parts: parts.to_vec(), slice: Duration::from_millis(slice_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: &Options) -> Vec<Group> {
        let cores = Cores { list: vec![0, 1], pinned: true, physical: true };
        groups(options, &cores, Path::new("/dev/shm/x")).unwrap()
    }

    #[test]
    fn the_default_set_fits_its_time_with_some_to_spare() {
        let options = Options::default();
        let planned: Duration = plan(&options).iter().map(Group::planned).sum();
        assert!(planned.as_secs_f64() < 0.8 * options.seconds, "{planned:?}");
    }

    #[test]
    fn every_scenario_but_the_single_steps_is_in_the_default_set() {
        let groups = plan(&Options::default());
        for scenario in Scenario::ALL {
            let is_there = groups.iter().any(|group| group.scenario() == scenario);
            assert_eq!(is_there, scenario != Scenario::Cost, "{scenario:?}");
        }
    }

    #[test]
    fn topics_do_not_meet() {
        let groups = plan(&Options { full: true, ..Options::default() });
        let mut topics: Vec<_> =
            groups.iter().flat_map(|group| &group.entries).map(|entry| entry.spec.topic.clone()).collect();
        let count = topics.len();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), count);
    }

    #[test]
    fn payloads_that_were_asked_for_are_measured() {
        let options =
            Options { payloads: vec![1_024], scenarios: vec!["throughput".into()], ..Options::default() };
        let groups = plan(&options);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].floor, FloorKind::Ring(1_024));
        assert!(groups[0].entries.iter().all(|entry| entry.spec.payload_bytes == 1_024));
    }
}
