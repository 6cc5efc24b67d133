//! What the bus takes beside the time of messages: time to attach, the size of the program, memory of processes.

use crate::cli::{CliBus, binary};
use crate::harness::{Agent, Role, eventually};
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{Bus, Bytes, Publisher, Topic};
use std::fmt::{self, Display};
use std::process::Command;
use std::time::Duration;

/// The topic of which everything is measured.
const TOPIC: &str = "footprint.t";
const BODY: [u8; 64] = [7; 64];

/// How often each is measured.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Processes that attach.
    pub attaches: usize,
    /// Processes that publish twice, and supervisors of each number of topics.
    pub processes: usize,
    /// The larger number of topics.
    pub topics: usize,
    /// How long a supervisor is left alone before it is looked at: what it had to do with new topics is done by then.
    pub rest: Duration,
}

/// What the numbers of a figure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    /// Bytes.
    Memory,
}

/// A line of the report.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    unit: Unit,
    /// What came of it, sorted; empty where it could not be measured.
    pub values: Vec<u64>,
    /// The median is to be below this.
    pub limit: Option<u64>,
}

impl Figure {
    fn new(what: impl Into<String>, unit: Unit, mut values: Vec<u64>, limit: Option<u64>) -> Self {
        values.sort_unstable();
        Self { what: what.into(), unit, values, limit }
    }

    /// The middle one of its values.
    pub fn median(&self) -> Option<u64> {
        self.values.get(self.values.len() / 2).copied()
    }

    /// Was it missed?
    pub fn is_missed(&self) -> bool {
        self.limit.zip(self.median()).is_some_and(|(limit, median)| median >= limit)
    }

    fn show(&self, value: u64) -> String {
        match self.unit {
            Unit::Time => format!("{:.3}", value as f64 / 1e6),
            Unit::Memory if value < 1 << 20 => format!("{:.0} KiB", value as f64 / 1024.0),
            Unit::Memory => format!("{:.2} MiB", value as f64 / f64::from(1 << 20)),
        }
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.unit == Unit::Time { " ms" } else { "" };
        let measured = match (&self.values[..], self.median()) {
            ([], _) | (_, None) => "skipped: `strip` is not installed".to_owned(),
            ([one], _) => format!("{}{unit}", self.show(*one)),
            ([least, .., most], Some(median)) => {
                format!("{}{unit} ({}-{})", self.show(median), self.show(*least), self.show(*most))
            }
        };
        let aim = self.limit.map_or(String::new(), |limit| match self.unit {
            Unit::Time => format!("below {} ms", limit / 1_000_000),
            Unit::Memory => format!("below {} MiB", limit >> 20),
        });
        let verdict = match (self.limit, self.values.is_empty()) {
            (None, _) | (_, true) => "",
            _ if self.is_missed() => "MISSED",
            _ => "met",
        };
        write!(f, "{:48} {measured:36} {aim:12} {verdict}", self.what)
    }
}

/// A number of `/proc/<pid>/smaps_rollup`, in bytes; of a process that has ended, 0.
pub fn rollup_bytes(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines().filter_map(|line| kib_of(line, field)).sum::<u64>() << 10
}

fn kib_of(line: &str, field: &str) -> Option<u64> {
    line.strip_prefix(field)?.strip_prefix(':')?.trim().trim_end_matches("kB").trim().parse().ok()
}

/// Pages that a process has to itself, shared memory left out.
fn own_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process that runs");
    let mut is_shared = false;
    let mut kib = 0;
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.ends_with(':') {
            let of_line = kib_of(line, "Private_Clean").or_else(|| kib_of(line, "Private_Dirty"));
            kib += of_line.filter(|_| !is_shared).unwrap_or(0);
        } else {
            is_shared = line.contains(" /dev/shm/");
        }
    }
    kib << 10
}

fn topic(bus: &Bus, name: &str) -> Topic<Bytes> {
    bus.topic_builder::<Bytes>(name).open().expect("a topic")
}

/// One of the processes.
///
/// # Panics
/// Where something does not work.
pub fn agent(role: Role) {
    match role.name.as_str() {
        "reader" => read(role),
        "newcomer" => attach(role),
        "publisher" => publish(role),
        other => panic!("no role {other:?}"),
    }
}

/// Says when each message has come, until the bus is taken down.
fn read(mut role: Role) {
    let bus = role.builder().host(false).open().expect("the bus");
    let mut inbox = topic(&bus, TOPIC).subscribe().expect("a place");
    role.parent.tell("ready");
    while let Ok(message) = inbox.receive() {
        let now_ns = monotonic_ns();
        message.ack().expect("its message");
        role.parent.tell(now_ns);
    }
}

/// Publishes a first message, and says when it began and what each step took.
fn attach(mut role: Role) {
    // Other threads that the process has.
    for _ in 1..role.number() {
        std::thread::spawn(std::thread::park);
    }
    role.parent.tell("ready");
    role.parent.expect("go");
    let begun_ns = monotonic_ns();
    let bus = Bus::open(&role.bus).expect("the bus");
    let opened_ns = monotonic_ns();
    let topic = bus.topic::<Bytes>(TOPIC).expect("the topic");
    let topic_ns = monotonic_ns();
    let mut publisher = topic.publisher().expect("a publisher");
    let attached_ns = monotonic_ns();
    publisher.publish(&BODY).expect("room");
    let published_ns = monotonic_ns();
    for time_ns in [begun_ns, opened_ns, topic_ns, attached_ns, published_ns] {
        role.parent.tell(time_ns);
    }
}

/// Publishes as two publishers, one after the other, and has itself looked at before and after each.
fn publish(mut role: Role) {
    let bus = Bus::open(&role.bus).expect("the bus");
    let topic = topic(&bus, TOPIC);
    let mut publishers: Vec<Publisher<Bytes>> = Vec::with_capacity(2);
    for _ in 0..2 {
        role.parent.tell("ready");
        role.parent.expect("go");
        let mut publisher = topic.publisher().expect("a publisher");
        publisher.publish(&BODY).expect("room");
        publishers.push(publisher);
    }
    role.parent.tell("ready");
    role.parent.expect("go");
}

/// Measures everything on buses of its own, each with a supervisor of its own. `entry` is what [`Agent::spawn`] needs to play the
/// role of an agent.
pub fn measure(footprint: Footprint, entry: &str) -> Vec<Figure> {
    let mut figures = attaching(footprint, entry, 1);
    figures.extend(attaching(footprint, entry, 2).into_iter().next());
    figures.push(Figure::new("shmbus, stripped", Unit::Memory, stripped_bytes(), Some(6 << 20)));
    for topics in [1, footprint.topics] {
        figures.extend(supervisor(footprint, topics));
    }
    figures.extend(publishers(footprint, entry));
    figures.extend(laps(footprint));
    figures
}

/// From before a process opens the bus until a subscriber that waits in another process has its first message, and the parts of it.
fn attaching(footprint: Footprint, entry: &str, threads: u32) -> Vec<Figure> {
    let cli = CliBus::new("footprint");
    cli.run(&["up"]).expect(0);
    let view = cli.view();
    let mut reader = Agent::spawn(entry, "reader", &cli.bus.name, 0);
    reader.line.expect("ready");
    let mut parts: [Vec<u64>; 6] = Default::default();
    for _ in 0..footprint.attaches {
        let mut newcomer = Agent::spawn(entry, "newcomer", &cli.bus.name, threads);
        newcomer.line.expect("ready");
        reader.wait_until_parked();
        newcomer.line.tell("go");
        let mut times_ns: Vec<u64> = (0..5).map(|_| newcomer.line.hear_number()).collect();
        times_ns.push(reader.line.hear_number());
        parts[0].push(times_ns[5] - times_ns[0]);
        for (part, pair) in parts[1..].iter_mut().zip(times_ns.windows(2)) {
            // The reader may have its message before `publish` returns.
            part.push(pair[1].saturating_sub(pair[0]));
        }
        newcomer.join();
        eventually("nobody but the reader", || view.participants().len() == 1);
    }
    let kinds = if threads == 1 { "" } else { ", process of two threads" };
    let whats = [
        &format!("attach, publish, received elsewhere{kinds}"),
        "  of that: Bus::open",
        "  topic",
        "  publisher",
        "  first publish",
        "  until it is received",
    ];
    let limits = [Some(1_000_000), None, None, None, None, None];
    let figure = |((what, values), limit)| Figure::new(what, Unit::Time, values, limit);
    let figures = whats.into_iter().zip(parts).zip(limits).map(figure).collect();
    cli.run(&["down", "--force"]).expect(0);
    reader.join();
    figures
}

/// The size of the program without symbols, in bytes. None where nothing is installed that takes them away.
fn stripped_bytes() -> Vec<u64> {
    let copy = binary().with_extension(format!("stripped-{}", std::process::id()));
    let stripped = Command::new("strip").arg("-o").arg(&copy).arg(binary()).status();
    let bytes = std::fs::metadata(&copy).map(|status| status.len());
    let _ = std::fs::remove_file(&copy);
    match stripped {
        Ok(status) => {
            assert!(status.success(), "strip ended with {status}");
            vec![bytes.expect("a stripped copy")]
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("strip: {error}"),
    }
}

/// Memory of a supervisor at rest, with so many topics that each have a publisher and a subscriber.
fn supervisor(footprint: Footprint, topics: usize) -> [Figure; 2] {
    let (mut shared, mut private) = (Vec::new(), Vec::new());
    for _ in 0..footprint.processes {
        let cli = CliBus::new("footprint");
        cli.run(&["up"]).expect(0);
        let pid = cli.view().supervisor_pid().expect("a supervisor");
        let bus = Bus::builder(&cli.bus.name).service("user").host(false).open().expect("the bus");
        let users: Vec<_> = (0..topics)
            .map(|index| {
                let topic = topic(&bus, &format!("footprint.t{index}"));
                let reader = topic.subscribe().expect("a place");
                let mut publisher = topic.publisher().expect("a publisher");
                publisher.publish(&BODY).expect("room");
                (publisher, reader)
            })
            .collect();
        std::thread::sleep(footprint.rest);
        shared.push(rollup_bytes(pid, "Pss"));
        private.push(rollup_bytes(pid, "Private_Clean") + rollup_bytes(pid, "Private_Dirty"));
        drop(users);
        drop(bus);
        cli.run(&["down", "--force"]).expect(0);
    }
    let what =
        |of: &str| format!("supervisor at rest, {topics} topic{}, {of}", if topics == 1 { "" } else { "s" });
    [
        Figure::new(what("PSS"), Unit::Memory, shared, Some(5 << 20)),
        Figure::new(what("private RSS"), Unit::Memory, private, Some(5 << 20)),
    ]
}

/// What the first and the second publisher of a process add to its own memory, their first message included.
fn publishers(footprint: Footprint, entry: &str) -> [Figure; 2] {
    let cli = CliBus::new("footprint");
    cli.run(&["up"]).expect(0);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..footprint.processes {
        let mut agent = Agent::spawn(entry, "publisher", &cli.bus.name, 0);
        let mut look = || {
            agent.line.expect("ready");
            let bytes = own_bytes(agent.pid());
            agent.line.tell("go");
            bytes
        };
        let looks = [look(), look(), look()];
        first.push(looks[1].saturating_sub(looks[0]));
        second.push(looks[2].saturating_sub(looks[1]));
        agent.join();
    }
    cli.run(&["down", "--force"]).expect(0);
    let figure = |what: &str, values| Figure::new(what, Unit::Memory, values, Some(1 << 20));
    [
        figure("first publisher of a process, without rings", first),
        figure("one more publisher, without rings", second),
    ]
}

/// Messages of a lap.
const LAP: u32 = 1 << 14;

/// How long it takes to fill a ring that no process has touched yet, and to fill it once more. What lies between the two is all that could be
/// saved by touching its pages beforehand.
fn laps(footprint: Footprint) -> [Figure; 2] {
    let cli = CliBus::new("footprint");
    cli.run(&["up"]).expect(0);
    let bus = Bus::builder(&cli.bus.name).service("laps").host(false).open().expect("the bus");
    let mut laps: [Vec<u64>; 2] = Default::default();
    for index in 0..footprint.processes {
        let builder = bus.topic_builder::<Bytes>(&format!("footprint.lap{index}"));
        let topic = builder.producers(1).capacity(LAP).open().expect("a topic");
        let mut publisher = topic.publisher().expect("a publisher");
        for lap in &mut laps {
            let begun_ns = monotonic_ns();
            for _ in 0..LAP {
                publisher.publish(&BODY).expect("nobody holds anything");
            }
            lap.push(monotonic_ns() - begun_ns);
        }
    }
    drop(bus);
    cli.run(&["down", "--force"]).expect(0);
    let [first, second] = laps;
    [
        Figure::new(format!("{LAP} messages, the first in their ring"), Unit::Time, first, None),
        Figure::new("as many once more", Unit::Time, second, None),
    ]
}
