//! Many topics and many subscribers on one bus: what making, listing, watching and leaving them costs.

use crate::cli::CliBus;
use crate::harness::eventually;
use bus_shm::inspect::BusView;
use bus_shm::{Bus, Bytes, Subscriber};
use std::fmt::Display;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Topics on the bus.
    pub topics: usize,
    /// Groups of one, each in a topic of its own, all in this process.
    pub subscribers: usize,
    /// Do messages carry their time?
    pub stamps: bool,
    /// For how long the idle supervisor is watched.
    pub idle: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Time to make a topic, as the process sees it that asks for it.
    pub create: Duration,
    /// `shmbus ls`, from its start to its end, the best of five.
    pub list: Duration,
    /// Share of a core that the supervisor takes while nothing happens.
    pub idle_share: f64,
    /// Most memory of a topic beyond its ring.
    pub beside_ring_bytes: u64,
    /// Memory of all topics.
    pub memory_bytes: u64,
    /// From the kill of a process in three topics until its groups are gone.
    pub sweep: Duration,
    /// Until a process with all those subscribers has left.
    pub leave: Duration,
}

/// Slots of a lane.
const CAPACITY: u32 = 64;

fn name(index: usize) -> String {
    format!("scale.t{index:05}")
}

/// Lets this process have as many open files as it may.
pub fn raise_descriptor_limit() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let to = rustix::process::Rlimit { current: limits.maximum, maximum: limits.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, to);
}

/// Time on a core, of all threads of a process.
pub fn time_on_core(pid: u32) -> Duration {
    let of_one = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs");
    Duration::from_nanos(tasks.flatten().filter_map(of_one).sum())
}

/// Measures on a bus of its own, with a supervisor of its own.
pub fn measure(scale: Scale, say: &mut dyn FnMut(&dyn Display)) -> Figures {
    raise_descriptor_limit();
    let cli = CliBus::new("scale");
    cli.run(&["up"]).expect(0);
    let bus = Bus::builder(&cli.bus.name).service("many").host(false).open().expect("the bus");
    let topic = |index: usize| {
        bus.topic_builder::<Bytes>(&name(index))
            .capacity(CAPACITY)
            .stamps(scale.stamps)
            .open()
            .expect("a topic")
    };
    let begun = Instant::now();
    for index in 0..scale.topics {
        topic(index);
    }
    let create = begun.elapsed() / scale.topics as u32;
    say(&format_args!("{} topics made, {create:?} each", scale.topics));
    let view = BusView::open(&cli.bus.name, None).expect("the bus");
    let (mut beside_ring_bytes, mut memory_bytes) = (0, 0);
    for (name, brief) in view.briefs() {
        let ring = cli.path().join("topics").join(&name).join("ring");
        let ring_bytes = std::fs::metadata(ring).expect("a ring").len();
        let bytes = brief.expect("a topic").memory_bytes;
        beside_ring_bytes = beside_ring_bytes.max(bytes - ring_bytes);
        memory_bytes += bytes;
    }
    let begun = Instant::now();
    let subscribers: Vec<Subscriber<Bytes>> =
        (0..scale.subscribers).map(|index| topic(index).group("g").join().expect("a place")).collect();
    say(&format_args!(
        "{} subscribers, {:?} each",
        subscribers.len(),
        begun.elapsed() / scale.subscribers as u32
    ));
    let list = (0..5)
        .map(|_| {
            let begun = Instant::now();
            let listed = cli.run(&["ls"]).expect(0).out.lines().count();
            assert!(listed > scale.topics, "{listed} lines");
            begun.elapsed()
        })
        .min()
        .expect("five of them");
    say(&format_args!("listed in {list:?}"));
    let pid = view.supervisor_pid().expect("a supervisor");
    // Topics that were made just now are looked at more often, and mapped little by little.
    std::thread::sleep(3 * scale.idle);
    let (begun, before) = (Instant::now(), time_on_core(pid));
    std::thread::sleep(scale.idle);
    let idle_share = (time_on_core(pid) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    say(&format_args!("idle: {:.4} of a core", idle_share));
    let sweep = sweep(&cli, &view, scale.topics);
    say(&format_args!("swept in {sweep:?}"));
    let begun = Instant::now();
    drop(subscribers);
    drop(bus);
    let leave = begun.elapsed();
    cli.run(&["down", "--force"]).expect(0);
    Figures { create, list, idle_share, beside_ring_bytes, memory_bytes, sweep, leave }
}

/// Kills a process that reads three topics, and waits until its groups are gone.
fn sweep(cli: &CliBus, view: &BusView, topics: usize) -> Duration {
    let names: Vec<_> = (1..=3).map(|index| name(topics - index)).collect();
    let groups = |name: &str| view.topic(name).expect("a topic").sample().groups.len();
    let mut command = cli.command(&["sub", "--hold", &names[0], &names[1], &names[2]]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("a child");
    eventually("it reads all three", || names.iter().all(|name| groups(name) == 1));
    child.kill().expect("the child");
    let begun = Instant::now();
    let _ = child.wait();
    eventually("its groups are gone", || names.iter().all(|name| groups(name) == 0));
    begun.elapsed()
}
