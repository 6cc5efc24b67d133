//! Slices of spammers and of burners by turns, beside agents that behave.

use crate::parts::{GOOD, PART, SPAM, spam_topic};
use bus_shm::inspect::{BusView, TopicState};
use bus_shm::sys::cpu::process_cpu_ns;
use bus_shm::{Bus, Bytes};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SPAMMERS: usize = 10;
/// What any step may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Traffic settles for so long before latency is measured.
const SETTLE: Duration = Duration::from_millis(1_000);

pub(crate) struct Options {
    pub(crate) slice: Duration,
    pub(crate) rounds: usize,
    pub(crate) judges_latency: bool,
}

/// What came of one variant: the worst of all rounds, and medians of latencies.
pub(crate) struct Outcome {
    /// Until the last spammer was refused by a breaker; `None` if one was not.
    pub(crate) opened: Option<Duration>,
    /// Until all breakers were closed after the spammers had stopped.
    pub(crate) closed: Option<Duration>,
    /// A breaker opened on the topic that behaves.
    pub(crate) others_opened: bool,
    /// 99th percentiles of the topic that behaves.
    pub(crate) beside_ns: u64,
    pub(crate) burners_ns: u64,
    /// Messages that came there.
    pub(crate) good_count: u64,
    /// Memory of bus and spammers, from a second after the beginning to the end.
    pub(crate) grown_bytes: u64,
}

impl Outcome {
    pub(crate) fn ratio(&self) -> f64 {
        self.beside_ns as f64 / self.burners_ns.max(1) as f64
    }
}

/// One of the processes around. Killed when dropped.
struct Part {
    child: Child,
    orders: ChildStdin,
    said: Receiver<String>,
}

impl Part {
    fn start(name: &str, bus: &str, argument: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([PART, name, bus, argument]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let stdout = child.stdout.take().expect("its output");
        let (sender, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let orders = child.stdin.take().expect("its input");
        let part = Self { child, orders, said };
        assert_eq!(part.hear(), "ready");
        part
    }

    fn tell(&mut self, order: &str) {
        let _ = self.orders.write_all(format!("{order}\n").as_bytes());
    }

    fn hear(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("a part that answers")
    }

    /// Its resident memory.
    fn memory_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Stage {
    spammers: Vec<Part>,
    burners: Vec<Part>,
    receiver: Part,
    view: BusView,
}

/// Runs one variant: spammers that are `paced`, or `free`.
pub(crate) fn run(pace: &str, options: &Options) -> Outcome {
    let name = format!("runaway-{}-{pace}", std::process::id());
    let bus = Bus::builder(&name).temporary(true).service("runaway").open().expect("a bus");
    let _topics = (spam_topic(&bus), bus.topic::<Bytes>(GOOD).expect("the topic"));
    let _consumer = Part::start("consumer", &name, "");
    let receiver = Part::start("receiver", &name, "");
    let _sender = Part::start("sender", &name, "");
    let many = |part: &str| (0..SPAMMERS).map(|_| Part::start(part, &name, pace)).collect();
    let mut stage = Stage {
        spammers: many("spammer"),
        burners: many("burner"),
        receiver,
        view: BusView::open(&name, None).expect("the bus"),
    };
    let mut outcome = Outcome {
        opened: Some(Duration::ZERO),
        closed: Some(Duration::ZERO),
        others_opened: false,
        beside_ns: 0,
        burners_ns: 0,
        good_count: u64::MAX,
        grown_bytes: 0,
    };
    let (mut beside, mut burners) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let (p99, share) = stage.spam(options.slice, &mut outcome);
        beside.push(p99);
        // Who never sleeps gets what the others leave, and so must who is compared with it.
        burners.push(stage.burn(options.slice, if pace == "free" { 1_000 } else { share.min(999) }));
    }
    outcome.beside_ns = median(beside);
    outcome.burners_ns = median(burners);
    outcome
}

impl Stage {
    fn state(&self, topic: &str) -> TopicState {
        self.view.topic(topic).expect("the topic").sample()
    }

    /// Lets the spammers go: the other topic's latency, and what share of a processor each spammer used, in thousandths.
    fn spam(&mut self, slice: Duration, outcome: &mut Outcome) -> (u64, u64) {
        self.spammers.iter_mut().for_each(|part| part.tell("go"));
        std::thread::sleep(SETTLE);
        let (begun, memory, cpu) = (Instant::now(), self.memory_bytes(), self.cpu_ns());
        self.receiver.tell("reset");
        while begun.elapsed() < slice {
            outcome.others_opened |= !is_closed(&self.state(GOOD));
            std::thread::sleep(Duration::from_millis(100));
        }
        let (p99, count) = self.report();
        outcome.good_count = outcome.good_count.min(count);
        let share = (self.cpu_ns() - cpu) * 1_000 / (begun.elapsed().as_nanos() as u64 * SPAMMERS as u64);
        outcome.grown_bytes = outcome.grown_bytes.max(self.memory_bytes().saturating_sub(memory));
        for part in &mut self.spammers {
            part.tell("rest");
        }
        for part in &self.spammers {
            let mut opened = None;
            loop {
                let said = part.hear();
                match said.strip_prefix("open ") {
                    Some(ms) => opened = ms.parse().ok().map(Duration::from_millis),
                    None => break,
                }
            }
            outcome.opened = outcome.opened.zip(opened).map(|(worst, opened)| worst.max(opened));
        }
        let stopped = Instant::now();
        while !is_closed(&self.state(SPAM)) && stopped.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let closed = is_closed(&self.state(SPAM)).then(|| stopped.elapsed());
        outcome.closed = outcome.closed.zip(closed).map(|(worst, closed)| worst.max(closed));
        (p99, share)
    }

    /// The same latency beside as many processes that use as much of a processor.
    fn burn(&mut self, slice: Duration, share: u64) -> u64 {
        self.burners.iter_mut().for_each(|part| part.tell(&share.to_string()));
        std::thread::sleep(SETTLE);
        self.receiver.tell("reset");
        std::thread::sleep(slice);
        let (p99, _) = self.report();
        self.burners.iter_mut().for_each(|part| part.tell("rest"));
        self.burners.iter().for_each(|part| assert_eq!(part.hear(), "resting"));
        p99
    }

    fn report(&mut self) -> (u64, u64) {
        self.receiver.tell("report");
        let said = self.receiver.hear();
        let (p99, count) = said.split_once(' ').expect("two numbers");
        (p99.parse().expect("a number"), count.parse().expect("a number"))
    }

    fn memory_bytes(&self) -> u64 {
        let of_bus = [SPAM, GOOD].map(|topic| self.state(topic).memory_bytes).iter().sum::<u64>();
        of_bus + self.spammers.iter().map(Part::memory_bytes).sum::<u64>()
    }

    fn cpu_ns(&self) -> u64 {
        self.spammers.iter().filter_map(|part| process_cpu_ns(part.child.id()).ok()).sum()
    }
}

fn is_closed(state: &TopicState) -> bool {
    state.breaker.is_closed() && state.publishers.iter().all(|publisher| publisher.breaker.is_closed())
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}
