//! Which scenarios are measured, with which settings, next to which floor, and for how long.

use std::path::Path;
use std::time::Duration;

use crate::cores::Cores;
use crate::error::Result;
use crate::options::Options;
use crate::scenarios::STAGES;
use crate::slices::{Entry, FloorKind};
use crate::spec::{BATCH, Crew, IN_PLACE_ONLY_BYTES, PAYLOAD_BYTES, Scenario, Sender, Spec, Step, WaitMode};

/// The two processes of most scenarios.
const PAIR: [usize; 2] = [0, 1];

/// Messages a second of `paced`: slow enough that nothing queues in the slow mode of the machines seen so far.
const PACED_HZ: u64 = 100_000;

/// Messages a second of `paced` where what the reader takes of its core is of interest: so few that it sleeps in between.
const SPARSE_HZ: u64 = 1_000;

/// Critical messages a second: a sender that sleeps between two must be able to keep the rate.
const CRITICAL_HZ: u64 = 10_000;

/// Slots of a long ring, where a row has one.
const LONG_SLOTS: u32 = 16_384;

/// Sizes of batches where both sides take messages in batches.
const BATCHES: [usize; 2] = [16, BATCH];

/// What a topic of default settings takes at most, in bytes: the payload memory that its publisher may grow to, and a little more.
const TOPIC_BYTES: u64 = 17 << 20;

/// Entries that are measured in turn, next to the same floor.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) floor: FloorKind,
    pub(crate) entries: Vec<Entry<Spec>>,
    /// Slices wanted of each.
    pub(crate) goal: usize,
    /// Why it is not measured at all.
    pub(crate) skipped: Option<String>,
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

    /// Memory that its topics may come to take.
    fn bytes(&self) -> u64 {
        self.entries.iter().filter(|entry| !entry.spec.bare).count() as u64 * TOPIC_BYTES
    }

    /// Leaves the group out if there is no room for its topics.
    fn fit(&mut self, available_bytes: u64, directory: &Path) {
        let (wanted, is_large) = (self.bytes(), self.entries.iter().any(|entry| entry.spec.in_place));
        if is_large && wanted > available_bytes {
            self.skipped = Some(format!(
                "skipped: it takes up to {} MiB, and {} has {} MiB left; make room there and run it again",
                wanted >> 20,
                directory.display(),
                available_bytes >> 20
            ));
        }
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
    let available_bytes = available_bytes(directory);
    groups.iter_mut().for_each(|group| group.fit(available_bytes, directory));
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

/// Time for everything with `full`, in seconds.
pub(crate) const FULL_SECONDS: f64 = 170.0;

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

    /// The first way of waiting is that of the rows that are measured with one only.
    fn is_headline(&self, wait: WaitMode) -> bool {
        self.waits.first() == Some(&wait)
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
                    if payload_bytes == 64 && self.is_headline(wait) {
                        specs.push(Spec { one_producer: true, no_stamps: true, ..default.clone() });
                    }
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
        if self.options.full && payloads.contains(&64) && self.waits.contains(&WaitMode::Adaptive) {
            let sparse = Spec { rate_hz: SPARSE_HZ, ..spec(64, WaitMode::Adaptive) };
            groups.push(group(FloorKind::Line, vec![sparse], &PAIR, 500, 5));
        }
        Ok(groups)
    }

    fn throughput(&self) -> Result<Vec<Group>> {
        let otherwise: &[usize] = if self.options.full { &PAYLOAD_BYTES } else { &[64, 65_536] };
        let payloads = self.options.payloads_of(&PAYLOAD_BYTES, otherwise)?;
        let mut groups = Vec::new();
        for &payload_bytes in &payloads {
            if payload_bytes < IN_PLACE_ONLY_BYTES {
                groups.extend(self.waits.iter().map(|wait| self.throughput_of(payload_bytes, *wait)));
            }
            let is_shown = self.options.full && payload_bytes >= BARE_PAYLOAD_BYTES;
            if is_shown || payload_bytes == IN_PLACE_ONLY_BYTES {
                let specs = in_place(payload_bytes, self.waits[0]);
                groups.push(group(FloorKind::Ring(payload_bytes), specs, &PAIR, 200, 5));
            }
        }
        if self.options.full && payloads.contains(&64) {
            groups.push(self.total());
        }
        Ok(groups)
    }

    fn throughput_of(&self, payload_bytes: usize, wait: WaitMode) -> Group {
        let default = Spec { payload_bytes, wait, ..Spec::of(Scenario::Throughput) };
        // Large payloads are a matter of copying, whoever may publish.
        let large = payload_bytes > BARE_PAYLOAD_BYTES;
        let floor = if large { FloorKind::Memcpy(payload_bytes) } else { FloorKind::Ring(payload_bytes) };
        let mut specs = vec![default.clone()];
        if !large || self.options.full {
            specs.push(Spec { one_producer: true, ..default.clone() });
        }
        if self.options.full {
            specs.push(Spec { no_stamps: true, ..default.clone() });
            if !large {
                // More than the second cache holds: its lines have left there when their turn comes again.
                let long =
                    Spec { one_producer: true, capacity: LONG_SLOTS, no_stamps: true, ..default.clone() };
                specs.push(Spec { capacity: 0, ..long.clone() });
                specs.push(long);
            }
            specs.push(Spec { batch: BATCH, ..default.clone() });
            if payload_bytes == 64 && self.is_headline(wait) {
                specs.extend(BATCHES.into_iter().flat_map(|batch| both_in_batches(&default, batch)));
            }
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
        group
    }

    /// One producer, and two with a core each where there are so many: otherwise it is the producers that share one.
    fn total(&self) -> Group {
        let wait = self.waits[0];
        let spec = |producers| Spec {
            total: true,
            producers,
            no_stamps: true,
            wait,
            ..Spec::of(Scenario::Throughput)
        };
        let entries = vec![entry(spec(1), &PAIR, 200), entry(spec(2), &[0, 2, 1], 200)];
        Group { floor: FloorKind::Ring(64), entries, goal: 6, skipped: None }
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
        let mut groups: Vec<Group> = shapes.iter().map(of_shape).collect();
        if self.options.full {
            groups.push(self.crew());
        }
        groups
    }

    /// A shared group as fast as it goes: with two members, and one member alone with a lane that is full.
    fn crew(&self) -> Group {
        let mut entries = Vec::new();
        for (crew, consumers, parts) in [(Crew::Stream, 2, &[0, 1, 2][..]), (Crew::Drain, 1, &PAIR[..])] {
            let shared = self.cores.oversubscribed(parts.len());
            let wait = if shared { WaitMode::Adaptive } else { self.spin };
            for batch in [0, BATCH] {
                let spec = Spec { crew, consumers, batch, wait, no_stamps: true, ..Spec::of(Scenario::Mpmc) };
                entries.push(entry(spec, parts, 150));
            }
        }
        Group { floor: FloorKind::Ring(64), entries, goal: 5, skipped: None }
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
        Group { floor: FloorKind::Line, entries, goal: 5, skipped: None }
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
            specs.extend([Step::Publish, Step::Receive, Step::ReceiveBatch, Step::Lend].map(one));
            group(FloorKind::Line, specs, &PAIR[..1], 40, 5)
        };
        Ok(payloads.iter().map(of_size).collect())
    }

    fn pipeline(&self) -> Group {
        let spec = Spec { wait: WaitMode::Adaptive, ..Spec::of(Scenario::Pipeline) };
        let stages: Vec<usize> = (0..STAGES).collect();
        let entries =
            vec![entry(spec.clone(), &stages, 60), entry(Spec { bare: true, ..spec }, &PAIR[..1], 60)];
        Group { floor: FloorKind::Line, entries, goal: 5, skipped: None }
    }
}

fn group(floor: FloorKind, specs: Vec<Spec>, parts: &[usize], slice_ms: u64, goal: usize) -> Group {
    let entries = specs.into_iter().map(|spec| entry(spec, parts, slice_ms)).collect();
    Group { floor, entries, goal, skipped: None }
}

/// Batches on both sides and nothing else: with one producer and with many, stamps off.
fn both_in_batches(default: &Spec, batch: usize) -> [Spec; 2] {
    let of =
        |one_producer| Spec { one_producer, batch, publish_batch: batch, no_stamps: true, ..default.clone() };
    [of(true), of(false)]
}

/// Messages that are written where they will be read: with one producer and with many, stamps off.
fn in_place(payload_bytes: usize, wait: WaitMode) -> Vec<Spec> {
    let of = |one_producer| Spec {
        payload_bytes,
        wait,
        one_producer,
        in_place: true,
        no_stamps: true,
        ..Spec::of(Scenario::Throughput)
    };
    vec![of(true), of(false)]
}

/// What is left in the file system of a directory. Where that cannot be told, whoever reserves will.
fn available_bytes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize))
}

fn entry(spec: Spec, parts: &[usize], slice_ms: u64) -> Entry<Spec> {
    Entry { spec, parts: parts.to_vec(), slice: Duration::from_millis(slice_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: &Options) -> Vec<Group> {
        plan_on(options, 2)
    }

    fn plan_on(options: &Options, cores: usize) -> Vec<Group> {
        let cores = Cores { list: (0..cores).collect(), pinned: true, physical: true };
        groups(options, &cores, Path::new("/dev/shm")).unwrap()
    }

    fn full(scenario: &str) -> Options {
        Options { full: true, scenarios: vec![scenario.into()], ..Options::default() }
    }

    /// Name, variant, payload and way of waiting of all rows of a full run of a scenario.
    fn rows(scenario: &str) -> Vec<String> {
        let row = |entry: &Entry<Spec>| {
            let spec = &entry.spec;
            let variant = spec.variant().map_or(String::new(), |variant| format!(" {variant}"));
            format!("{}{variant} {} {}", spec.row_name(), spec.payload_bytes, spec.wait.name())
        };
        plan(&full(scenario)).iter().flat_map(|group| &group.entries).map(row).collect()
    }

    fn assert_rows(scenario: &str, wanted: &[&str]) {
        let rows = rows(scenario);
        for row in wanted {
            let count = rows.iter().filter(|there| there == row).count();
            assert_eq!(count, 1, "{row:?} in {rows:#?}");
        }
    }

    #[test]
    fn the_default_set_fits_its_time_with_some_to_spare() {
        let options = Options::default();
        let planned: Duration = plan(&options).iter().map(Group::planned).sum();
        assert!(planned.as_secs_f64() < 0.8 * options.seconds, "{planned:?}");
    }

    #[test]
    fn the_full_set_fits_its_time_with_some_to_spare() {
        let planned: Duration =
            plan(&Options { full: true, ..Options::default() }).iter().map(Group::planned).sum();
        assert!(planned.as_secs_f64() < 0.75 * FULL_SECONDS, "{planned:?}");
    }

    #[test]
    fn the_default_set_has_none_of_the_rows_that_explain() {
        for entry in plan(&Options::default()).iter().flat_map(|group| &group.entries) {
            let spec = &entry.spec;
            let is_plain = !(spec.no_stamps || spec.in_place || spec.total || spec.batch > 0);
            assert!(is_plain && spec.crew == Crew::Calls, "{spec:?}");
        }
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
    fn a_full_run_has_a_row_for_every_aim() {
        assert_rows(
            "latency",
            &["latency stamps(false) 64 spin", "latency producers(1) stamps(false) 64 spin"],
        );
        assert_rows(
            "throughput",
            &[
                "throughput stamps(false) 64 spin",
                "throughput producers(1) stamps(false) 64 spin",
                "throughput stamps(false) publish_batch(16) receive_batch(16) 64 spin",
                "throughput producers(1) stamps(false) publish_batch(16) receive_batch(16) 64 spin",
                "throughput stamps(false) publish_batch(64) receive_batch(64) 64 spin",
                "throughput producers(1) stamps(false) publish_batch(64) receive_batch(64) 64 spin",
                "throughput stamps(false) in place 1024 spin",
                "throughput producers(1) stamps(false) in place 65536 spin",
                "throughput stamps(false) in place 1048576 spin",
                "throughput stamps(false) 1 producer 64 spin",
                "throughput stamps(false) 2 producers 64 spin",
            ],
        );
        assert_rows("paced", &["paced 100000/s 64 adaptive", "paced 1000/s 64 adaptive"]);
        assert_rows("fanout", &["fanout groups=4 64 spin", "fanout groups=8 64 spin"]);
        assert_rows(
            "mpmc",
            &[
                "mpmc stamps(false) 1x2 streaming 64 adaptive",
                "mpmc stamps(false) receive_batch(64) 1x2 streaming 64 adaptive",
                "mpmc stamps(false) lane filled first, then 1 member alone 64 spin",
                "mpmc stamps(false) receive_batch(64) lane filled first, then 1 member alone 64 spin",
            ],
        );
    }

    #[test]
    fn rows_that_are_compared_are_in_one_group_with_the_same_floor() {
        let groups = plan(&full("throughput"));
        let names = |group: &Group| {
            let name = |entry: &Entry<Spec>| {
                format!("{} {}", entry.spec.row_name(), entry.spec.variant().unwrap_or_default())
            };
            group.entries.iter().map(name).collect::<Vec<_>>()
        };
        for pair in [
            ["throughput ", "throughput stamps(false) "],
            ["throughput producers(1) ", "throughput producers(1) stamps(false) "],
            ["throughput stamps(false) 1 producer", "throughput stamps(false) 2 producers"],
        ] {
            let is_there = groups.iter().any(|group| {
                group.floor == FloorKind::Ring(64)
                    && pair.iter().all(|name| names(group).contains(&(*name).to_owned()))
            });
            assert!(is_there, "{pair:?}");
        }
        let in_place = groups.iter().filter(|group| group.entries.iter().any(|entry| entry.spec.in_place));
        for group in in_place {
            assert_eq!(group.floor, FloorKind::Ring(group.entries[0].spec.payload_bytes));
        }
    }

    #[test]
    fn two_producers_share_a_core_only_where_there_are_two() {
        let parts = |cores| {
            let groups = plan_on(&full("throughput"), cores);
            let mut entries = groups.iter().flat_map(|group| &group.entries);
            entries.find(|entry| entry.spec.producers == 2).unwrap().parts.clone()
        };
        let of = |cores| Cores { list: (0..cores).collect(), pinned: true, physical: true };
        let on = |count| parts(count).iter().map(|part| of(count).of(*part)).collect::<Vec<_>>();
        assert_eq!(on(2), vec![0, 0, 1]);
        assert_eq!(on(3), vec![0, 2, 1]);
    }

    #[test]
    fn a_group_for_which_there_is_no_room_is_left_out_with_the_reason() {
        let mut groups = plan(&full("throughput"));
        let directory = Path::new("/dev/shm");
        groups.iter_mut().for_each(|group| group.fit(1 << 20, directory));
        for group in &groups {
            let is_large = group.entries.iter().any(|entry| entry.spec.in_place);
            assert_eq!(group.skipped.is_some(), is_large, "{:?}", group.entries[0].spec);
        }
        let reason = groups.iter().find_map(|group| group.skipped.clone()).unwrap();
        assert!(reason.contains("has 1 MiB left"), "{reason}");
    }

    #[test]
    fn no_group_holds_more_than_a_gibibyte() {
        for group in plan(&Options { full: true, ..Options::default() }) {
            let floor = match group.floor {
                FloorKind::Ring(payload_bytes) => crate::control::ring_bytes(payload_bytes) as u64,
                _ => 0,
            };
            assert!(group.bytes() + floor < 1 << 30, "{:?}", group.entries[0].spec);
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

    #[test]
    fn the_largest_payload_is_for_throughput_in_place_alone() {
        let options = |scenario: &str| Options {
            payloads: vec![IN_PLACE_ONLY_BYTES],
            scenarios: vec![scenario.into()],
            ..Options::default()
        };
        let measured = plan(&options("throughput"));
        assert!(measured.len() == 1 && measured[0].entries.iter().all(|entry| entry.spec.in_place));
        let cores = Cores { list: vec![0, 1], pinned: true, physical: true };
        assert!(groups(&options("latency"), &cores, Path::new("/dev/shm")).is_err());
    }
}
