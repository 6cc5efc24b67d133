//! A run: starts the workers, disturbs them, hears what they say, and holds it against the rules.

use crate::history::History;
use crate::page::{Kind, word};
use crate::plan::{self, GroupPlan, Job, LANES, Random, TOPICS};
use crate::processes::{Common, Place};
use crate::report::{GroupRow, Report, Sample};
use bus_shm::directory::BusDir;
use bus_shm::inspect::BusView;
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{Bus, fsck};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) messages: Option<u64>,
    pub(crate) seconds: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) producers: usize,
    pub(crate) json: bool,
    pub(crate) sabotage: String,
    /// Nobody who could go on may stand still for longer.
    pub(crate) patience: Duration,
}

const BUS: &str = "soak";
const MESSAGES_DEFAULT: u64 = 1_000_000;
/// Mean time between two disturbances.
const DISTURB_EVERY_MS: u64 = 110;
/// One disturbance in so many is of several at once.
const STORM_ONE_IN: u64 = 16;
const STORM: u64 = 6;
/// How long the bus may take to come to rest once nobody publishes.
const DRAIN: Duration = Duration::from_secs(30);
/// How long it must be at rest before that is believed: members look for what a death has left once a second.
const REST: Duration = Duration::from_millis(2_500);
/// Between two looks of `fsck` at the bus in use.
const FSCK_EVERY: Duration = Duration::from_secs(1);
/// Somebody may be watching.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A gap between two rounds of the checker that says that the machine had no time for anybody.
const ROUND: Duration = Duration::from_millis(100);

/// Removes what is left when the run ends, however it does.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Run {
    options: Options,
    common: Common,
    dir: Directory,
    places: Vec<Place>,
    /// The place of each producer, and what it may publish and has.
    producers: Vec<(usize, u64, u64)>,
    history: History,
    random: Random,
    /// Apart, so that the faults do not depend on when processes end.
    pauses: Random,
    disturb_at: Instant,
    is_disturbed: bool,
    limit: u64,
    kills: u64,
    stops: u64,
    restarts: u64,
    /// Which process stood where in its turns when the period began.
    marks: Vec<(Option<u32>, u64)>,
    /// For how long who could go on has not, and how far it was: places of producers, then groups.
    idle: Vec<(Duration, u64)>,
    round: Instant,
}

/// Runs, and reports.
pub(crate) fn run(options: Options) -> Report {
    let dir = Directory(PathBuf::from(format!("/dev/shm/soak-{}", std::process::id())));
    std::fs::create_dir_all(&dir.0).expect("a directory in /dev/shm");
    let mut run = Run::new(options, dir);
    let begun = Instant::now();
    run.set_up();
    let stop = Arc::new(AtomicBool::new(false));
    let problems = Arc::new(Mutex::new(Vec::new()));
    let watching = {
        let (stop, problems, dir) = (stop.clone(), problems.clone(), run.bus_dir());
        std::thread::spawn(move || watch(&dir, &stop, &problems))
    };
    let first = run.traffic(begun);
    let is_at_rest = run.come_to_rest();
    let last = run.sample();
    stop.store(true, Ordering::Relaxed);
    let _ = watching.join();
    for problem in problems.lock().expect("the problems").drain(..) {
        run.history.findings.note(format!("fsck in use: {problem}"));
    }
    if !is_at_rest {
        run.history.findings.note(format!("not at rest {DRAIN:?} after the last publication"));
        run.dump();
    }
    if is_at_rest {
        run.history.readers_are_at_the_end();
    }
    let groups = run.end();
    Report::new(&run.history, groups, first, last)
        .with_faults(run.kills, run.stops, run.restarts)
        .with_run(run.options.seed, begun.elapsed())
}

/// Looks at the bus while it is in use.
fn watch(dir: &BusDir, stop: &AtomicBool, problems: &Mutex<Vec<String>>) {
    while !stop.load(Ordering::Relaxed) {
        let found: Vec<String> = match fsck::check(dir) {
            Ok(report) => report.problems.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        problems.lock().expect("the problems").extend(found);
        std::thread::sleep(FSCK_EVERY);
    }
}

impl Run {
    fn new(options: Options, dir: Directory) -> Self {
        let limit = match (options.messages, options.seconds) {
            (Some(messages), _) => messages,
            (None, Some(_)) => 1 << 47,
            (None, None) => MESSAGES_DEFAULT,
        };
        // Few enough that dead letters find room for ever.
        let poison_one_in = match (options.messages, options.seconds) {
            (Some(messages), _) => messages / 2_000,
            (None, seconds) => 20 * seconds.unwrap_or(0),
        };
        let common = Common {
            dir: dir.0.display().to_string(),
            bus: BUS.into(),
            seed: options.seed,
            poison_one_in: poison_one_in.clamp(1_000, 100_000),
            sabotage: options.sabotage.clone(),
            producers: options.producers,
        };
        let jobs = plan::jobs(options.producers);
        let mut places: Vec<Place> = Vec::new();
        for (number, job) in jobs.iter().enumerate() {
            let same = places.iter().filter(|place| kind_of(place.job) == kind_of(*job)).count();
            places.push(Place::new(number, *job, format!("{} {}", kind_of(*job), same)));
        }
        let producers = (0..jobs.len()).filter(|&at| matches!(jobs[at], Job::Producer { .. }));
        let members = jobs.iter().map(|job| match job {
            Job::Member { topic, group } => Some((*topic, *group)),
            _ => None,
        });
        let groups: usize = TOPICS.iter().map(|plan| plan.groups.len()).sum();
        Self {
            producers: producers.map(|place| (place, 0, 0)).collect(),
            history: History::new(members),
            random: Random(options.seed),
            pauses: Random(!options.seed),
            disturb_at: Instant::now(),
            is_disturbed: true,
            limit,
            kills: 0,
            stops: 0,
            restarts: 0,
            marks: vec![(None, 0); places.len()],
            idle: vec![(Duration::ZERO, 0); places.len() + groups],
            round: Instant::now(),
            places,
            options,
            common,
            dir,
        }
    }

    fn bus_dir(&self) -> BusDir {
        BusDir::new(BUS, Some(&self.dir.0)).expect("a name for a bus")
    }

    /// Makes the bus, its topics and groups, and starts everybody.
    fn set_up(&mut self) {
        let mut maker = Place::new(self.places.len(), Job::Setup, "setup".into());
        maker.begin(&self.common);
        let status = loop {
            match maker.reap() {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        assert!(status.success(), "the setup ended with {status}");
        for place in &mut self.places {
            place.begin(&self.common);
        }
    }

    /// Until enough has been published. Returns a sample from early on.
    fn traffic(&mut self, begun: Instant) -> Sample {
        let lasts = self.options.seconds.map(Duration::from_secs);
        let (mut first, mut told) = (None, begun);
        loop {
            let accepted = self.history.accepted();
            let share = match lasts {
                Some(lasts) => begun.elapsed().as_secs_f64() / lasts.as_secs_f64(),
                None => 0.0,
            };
            let share = share.max(accepted as f64 / self.limit as f64);
            if share >= 0.1 && first.is_none() {
                first = Some(self.sample());
            }
            if share >= 1.0 || self.history.findings.lost > 0 || self.is_hopeless() {
                break;
            }
            self.grant();
            self.round();
            if told.elapsed() >= TELL_EVERY && std::io::stderr().is_terminal() {
                told = Instant::now();
                eprintln!("{accepted} messages, {} kills, {} s", self.kills, begun.elapsed().as_secs());
            }
        }
        self.is_disturbed = false;
        first.unwrap_or_else(|| self.sample())
    }

    /// More that is wrong helps nobody.
    fn is_hopeless(&self) -> bool {
        let most = if self.options.sabotage.is_empty() { 20 } else { 3 };
        self.history.findings.other + self.history.findings.out_of_order >= most
    }

    /// Lets the producers go on.
    fn grant(&mut self) {
        let granted: u64 = self.producers.iter().map(|(_, granted, _)| granted).sum();
        let mut left = self.limit.saturating_sub(granted);
        let most = (self.limit / (50 * self.producers.len() as u64)).clamp(1, 5_000);
        for (place, granted, accepted) in &mut self.producers {
            if left > 0 && granted.saturating_sub(*accepted) <= most / 2 {
                let more = most.min(left);
                *granted += more;
                left -= more;
                self.places[*place].page.set(word::QUOTA, *granted);
            }
        }
    }

    /// Hears everybody, buries, disturbs, and looks who stands still.
    fn round(&mut self) {
        let heard = self.hear_all();
        self.reap();
        if self.is_disturbed {
            self.disturb();
        }
        self.go_on_and_begin();
        self.end_period();
        self.look_for_idlers();
        if heard < 256 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn hear_all(&mut self) -> u64 {
        (0..self.places.len()).map(|place| self.hear(place)).sum()
    }

    fn hear(&mut self, at: usize) -> u64 {
        let mut count = 0;
        let topic = match self.places[at].job {
            Job::Producer { topic, .. }
            | Job::Member { topic, .. }
            | Job::Tap { topic }
            | Job::Yielder { topic } => topic,
            _ => 0,
        };
        while let Some(record) = self.places[at].page.take() {
            count += 1;
            if matches!(record.kind, Kind::Accepted | Kind::Batched)
                && let Job::Producer { number, .. } = self.places[at].job
            {
                self.producers[number].2 += 1;
            }
            let (places, producers) = (&self.places, &self.producers);
            let intended = |number: usize| {
                producers.get(number).map_or(0, |(place, ..)| places[*place].page.get(word::INTENDED))
            };
            self.history.record(at, topic, record, intended);
        }
        self.places[at].heard += count;
        count
    }

    fn reap(&mut self) {
        for at in 0..self.places.len() {
            let Some(status) = self.places[at].reap() else { continue };
            // What it had to say is complete now.
            self.hear(at);
            let (killed_ns, is_leaving) = (self.places[at].killed_ns, self.places[at].is_leaving);
            self.history.ended(at, killed_ns);
            if killed_ns.is_none() && !(is_leaving && status.success()) {
                let name = &self.places[at].name;
                self.history.findings.note(format!("{name} ended with {status}"));
            }
            let pause = Duration::from_millis(self.pauses.below(200));
            self.places[at].begins_at = Some(Instant::now() + pause);
        }
    }

    fn disturb(&mut self) {
        let now = Instant::now();
        if now < self.disturb_at {
            return;
        }
        let pause = DISTURB_EVERY_MS / 4 + self.random.below(DISTURB_EVERY_MS * 3 / 2);
        self.disturb_at = now + Duration::from_millis(pause);
        let count = if self.random.once_in(STORM_ONE_IN) { STORM } else { 1 };
        (0..count).for_each(|_| self.strike(now));
    }

    /// Something happens to somebody.
    fn strike(&mut self, now: Instant) {
        let at = self.random.below(self.places.len() as u64) as usize;
        let (what, long) = (self.random.below(20), self.random.number());
        let place = &mut self.places[at];
        if !place.is_alive() || place.killed_ns.is_some() {
            return;
        }
        match what {
            0..11 => {
                place.kill();
                self.kills += 1;
            }
            11..16 if place.stopped_until.is_none() => {
                let most_ms = if long.is_multiple_of(8) { 2_500 } else { 400 };
                place.stop(now + Duration::from_millis(5 + (long >> 8) % most_ms));
                self.stops += 1;
            }
            _ => {
                place.leave();
                self.restarts += 1;
            }
        }
    }

    fn go_on_and_begin(&mut self) {
        let now = Instant::now();
        for at in 0..self.places.len() {
            let place = &mut self.places[at];
            if place.stopped_until.is_some_and(|until| until <= now) {
                place.go_on();
            }
            let is_over = !self.is_disturbed && matches!(place.job, Job::Producer { .. });
            if place.begins_at.is_some_and(|begins| begins <= now) && !is_over {
                if let Job::Producer { number, .. } = place.job {
                    place.page.set(word::ACCEPTED, self.producers[number].2);
                }
                place.begin(&self.common);
            }
        }
    }

    /// When everybody has had nothing in hand since the last time, and been heard: nothing old can come any more.
    fn end_period(&mut self) {
        let is_heard = |(place, mark): (&Place, &(Option<u32>, u64))| {
            place.job == Job::Supervisor
                || place.pid() != mark.0
                || place.pid().is_none()
                || place.page.get(word::TURNS) != mark.1
        };
        if !self.places.iter().zip(&self.marks).all(is_heard) {
            return;
        }
        self.hear_all();
        self.history.next_period(monotonic_ns());
        self.marks = self.places.iter().map(|place| (place.pid(), place.page.get(word::TURNS))).collect();
    }

    /// Time counts against those who run, and of whom nobody that they may have to wait for does not.
    fn look_for_idlers(&mut self) {
        let lasted = self.round.elapsed();
        self.round = Instant::now();
        let lasted = if lasted > ROUND { Duration::ZERO } else { lasted };
        let runs = |place: &Place| place.is_running() && !place.page.is_nearly_full();
        let members_run = |topic: usize, group: Option<usize>| {
            self.places.iter().all(|place| match place.job {
                Job::Member { topic: of, group: member } => {
                    of != topic || group.is_some_and(|group| group != member) || runs(place)
                }
                // Where a store is full of dead letters somebody has to make room.
                Job::Undertaker => {
                    let is_small = |(at, of): (usize, &GroupPlan)| {
                        of.has_small_store() && group.is_none_or(|group| group == at)
                    };
                    !TOPICS[topic].groups.iter().enumerate().any(is_small) || runs(place)
                }
                _ => true,
            })
        };
        let mut now: Vec<(bool, u64)> = Vec::new();
        for place in &self.places {
            now.push(match place.job {
                Job::Producer { topic, .. } => {
                    let could = runs(place) && place.page.get(word::RESTS) == 0 && members_run(topic, None);
                    (could && self.is_disturbed, place.heard)
                }
                _ => (false, 0),
            });
        }
        for (topic, plan) in TOPICS.iter().enumerate() {
            for group in 0..plan.groups.len() {
                let count = self.history.group(topic, group);
                let could = members_run(topic, Some(group)) && self.history.pending(topic, group) > 0;
                now.push((could, count.delivered + count.acked + count.dead));
            }
        }
        let mut stuck = Vec::new();
        for (at, (idle, (could, progress))) in self.idle.iter_mut().zip(now).enumerate() {
            if progress != idle.1 {
                *idle = (Duration::ZERO, progress);
            } else if could {
                idle.0 += lasted;
                if idle.0 > self.options.patience {
                    idle.0 = Duration::ZERO;
                    stuck.push(at);
                }
            }
        }
        for at in stuck {
            let name = match self.places.get(at) {
                Some(place) => place.name.clone(),
                None => {
                    let all =
                        TOPICS.iter().flat_map(|plan| plan.groups.iter().map(move |group| (plan, group)));
                    let mut all = all.map(|(plan, group)| format!("{}/{}", plan.name, group.name));
                    all.nth(at - self.places.len()).unwrap_or_default()
                }
            };
            let patience = self.options.patience;
            self.history.findings.note(format!("{name} could go on and has not for {patience:?}"));
            self.dump();
        }
    }

    /// Everything that helps to see why.
    fn dump(&self) {
        eprintln!("---- dump");
        match fsck::check(&self.bus_dir()) {
            Ok(report) => report.problems.iter().for_each(|problem| eprintln!("fsck: {problem}")),
            Err(error) => eprintln!("fsck: {error}"),
        }
        let Ok(view) = BusView::open(BUS, Some(&self.dir.0)) else { return };
        eprintln!("supervisor: {:?}", view.supervisor_pid());
        for (topic, plan) in TOPICS.iter().enumerate() {
            let Ok(mut seen) = view.topic(plan.name) else { continue };
            let sample = seen.sample();
            for lane in &sample.lanes {
                eprintln!("{} {}: end {} gate {}", plan.name, lane.name, lane.end, lane.gate);
            }
            for group in &sample.groups {
                let lanes: Vec<_> = group.lanes.iter().map(|lane| (lane.low_water, lane.lag_count)).collect();
                eprintln!("  {} {} {} member(s): {lanes:?}", group.name, group.state, group.members);
            }
            for (group, of) in plan.groups.iter().enumerate() {
                let count = self.history.group(topic, group);
                let pending = self.history.pending(topic, group);
                eprintln!(
                    "  {} as told: acked {} dead {} doubtful {} rejected {} pending {pending}",
                    of.name, count.acked, count.dead, count.doubtful, count.rejected_pending
                );
            }
        }
        for place in &self.places {
            let stopped = if place.stopped_until.is_some() { ", stopped" } else { "" };
            eprintln!("{}: {}{stopped}", place.name, place.where_it_is());
        }
        eprintln!("---- end of dump");
    }

    /// Nobody publishes or dies any more: does everything get done?
    fn come_to_rest(&mut self) -> bool {
        for place in &mut self.places {
            if place.stopped_until.is_some() {
                place.go_on();
            }
            if matches!(place.job, Job::Producer { .. }) {
                place.leave();
            }
        }
        let begun = Instant::now();
        let mut since: Option<Instant> = None;
        let mut looked = Instant::now();
        while begun.elapsed() < self.drain() + REST {
            self.round();
            let is_quiet = self.is_quiet()
                && (since.is_some() && looked.elapsed() < ROUND || {
                    looked = Instant::now();
                    self.lag() == 0
                });
            since = if is_quiet { since.or_else(|| Some(Instant::now())) } else { None };
            if since.is_some_and(|since| since.elapsed() > REST) {
                return true;
            }
        }
        false
    }

    /// Of a bus that has broken its promises nobody expects that it gets everything done.
    fn drain(&self) -> Duration {
        if self.history.findings.is_clean() { DRAIN } else { DRAIN / 8 }
    }

    fn is_quiet(&self) -> bool {
        let is_done = |place: &Place| match place.job {
            Job::Producer { .. } => !place.is_alive(),
            _ => place.is_running(),
        };
        self.places.iter().all(is_done)
            && TOPICS.iter().enumerate().all(|(topic, plan)| {
                (0..plan.groups.len()).all(|group| {
                    let count = self.history.group(topic, group);
                    self.history.pending(topic, group) == 0 && count.rejected_pending == 0
                })
            })
    }

    /// Messages that the bus says are unfinished.
    fn lag(&self) -> u64 {
        let Ok(view) = BusView::open(BUS, Some(&self.dir.0)) else { return u64::MAX };
        let names = view.topic_names();
        let topics = names.iter().filter_map(|name| view.topic(name).ok());
        let groups = topics.flat_map(|mut topic| topic.sample().groups);
        groups.flat_map(|group| group.lanes).map(|lane| lane.lag_count).sum()
    }

    fn sample(&self) -> Sample {
        let of_places = self.places.iter().map(|place| (place.name.clone(), place.memory_kib()));
        let mut processes: Vec<_> = of_places.collect();
        let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        processes.push(("checker".into(), (4 * pages, 4 * pages)));
        Sample { processes, shm_kib: used_kib(&self.dir.0) }
    }

    /// Everybody leaves; what is left must be in order, and then nothing.
    fn end(&mut self) -> Vec<GroupRow> {
        self.places.iter_mut().for_each(Place::leave);
        let begun = Instant::now();
        while self.places.iter().any(Place::is_alive) {
            self.hear_all();
            // Not `reap`, which would start them again.
            for at in 0..self.places.len() {
                if let Some(status) = self.places[at].reap()
                    && !status.success()
                {
                    let name = &self.places[at].name;
                    self.history.findings.note(format!("{name} ended with {status} at the end"));
                }
            }
            if begun.elapsed() > self.drain() {
                self.history.findings.note("somebody does not leave".into());
                self.dump();
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.hear_all();
        self.history.finish();
        let rows = self.compare();
        match fsck::check(&self.bus_dir()) {
            Ok(report) => {
                for problem in &report.problems {
                    self.history.findings.note(format!("fsck at rest: {problem}"));
                }
            }
            Err(error) => self.history.findings.note(format!("fsck at rest: {error}")),
        }
        let down = Bus::builder(BUS)
            .dir(&self.dir.0)
            .service("checker")
            .open()
            .map_err(|error| error.to_string())
            .and_then(|bus| bus.down(false).map_err(|error| error.to_string()));
        if let Err(error) = down {
            self.history.findings.note(format!("the bus does not go: {error}"));
        }
        let left = files(&self.dir.0);
        if !left.is_empty() {
            self.history.findings.note(format!("left in /dev/shm: {left:?}"));
        }
        rows
    }

    /// What the bus says of itself, and what was heard.
    fn compare(&mut self) -> Vec<GroupRow> {
        let mut rows = Vec::new();
        let view = match BusView::open(BUS, Some(&self.dir.0)) {
            Ok(view) => view,
            Err(error) => {
                self.history.findings.note(format!("the bus cannot be read: {error}"));
                return rows;
            }
        };
        for (topic, plan) in TOPICS.iter().enumerate() {
            let sample = match view.topic(plan.name) {
                Ok(mut topic) => topic.sample(),
                Err(error) => {
                    self.history.findings.note(format!("{} cannot be read: {error}", plan.name));
                    continue;
                }
            };
            for lane in 0..LANES {
                let (told, there) = (self.history.end(topic, lane), sample.lanes[lane].end);
                if told != there {
                    let name = plan.name;
                    self.history
                        .findings
                        .note(format!("{name} lane {lane} ends at {there}, heard of {told}"));
                }
            }
            if !sample.producers.is_empty() {
                self.history.findings.note(format!("{}: publishers left {:?}", plan.name, sample.producers));
            }
            for (group, of) in plan.groups.iter().enumerate() {
                let name = format!("{}/{}", plan.name, of.name);
                let Some(seen) = sample.groups.iter().find(|seen| seen.name == of.name) else {
                    self.history.findings.note(format!("{name} is gone"));
                    continue;
                };
                let count = self.history.group(topic, group).clone();
                let lag: u64 = seen.lanes.iter().map(|lane| lane.lag_count).sum();
                if lag != 0 {
                    self.history.findings.note(format!("{name} lags by {lag} at the end"));
                }
                if seen.members != 0 {
                    let text = format!("{name} has {} member(s) that have left or died", seen.members);
                    self.history.findings.note(text);
                }
                // A member counts before it is told, and may be killed in between; worn-out messages are not handed out.
                let most = count.redelivered + count.kills + count.dead;
                // One member that finds no room for a worn-out message counts it each time that it tries.
                let most = if of.has_small_store() && !of.is_shared() { u64::MAX } else { most };
                if seen.redelivered_count < count.redelivered || seen.redelivered_count > most {
                    let (says, heard) = (seen.redelivered_count, count.redelivered);
                    let text = format!("{name} says {says} redeliveries, heard of {heard}");
                    self.history.findings.note(text);
                }
                let published = self.history.published(topic);
                rows.push(GroupRow { name, published, count });
            }
        }
        rows
    }
}

fn kind_of(job: Job) -> String {
    match job {
        Job::Setup => "setup".into(),
        Job::Supervisor => "supervisor".into(),
        Job::Undertaker => "undertaker".into(),
        Job::Tap { topic } => format!("{}/tap", TOPICS[topic].name),
        Job::Yielder { topic } => format!("{}/yielder", TOPICS[topic].name),
        Job::Producer { topic, .. } => format!("{}/producer", TOPICS[topic].name),
        Job::Member { topic, group } => {
            format!("{}/{}", TOPICS[topic].name, TOPICS[topic].groups[group].name)
        }
    }
}

/// Files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn used_kib(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let blocks = files(dir).into_iter().filter_map(|path| path.metadata().ok()).map(|file| file.blocks());
    blocks.sum::<u64>() / 2
}
