//! A process that takes part in the bus, writes down what it is told there, and may be killed at any instruction.

mod batch;
mod member;
mod producer;
mod readers;

use crate::page::{Kind, Page, Record, word};
use crate::plan::{GroupPlan, Job, LANES, Load, Random, TOPICS};
use bus_shm::dead_letters::{self, DeadLetterNotice, Filter};
use bus_shm::directory::BusDir;
use bus_shm::inspect::BusView;
use bus_shm::supervisor::{Stopped, Supervisor};
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{Bus, Subscriber, Topic};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a worker tries to take part before it says that it cannot.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a member waits for a message before it looks around.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks for dead letters in the stores that are kept small.
const PURGE_EVERY: Duration = Duration::from_millis(100);
/// Sabotage happens to one in so many messages.
const SABOTAGE_ONE_IN: u64 = 1_000;

/// What is done wrong on purpose, to see whether the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A member finishes messages that it never gets.
    Drop,
    /// A message comes again after it was acknowledged.
    Duplicate,
    /// Two messages change places.
    Reorder,
    /// What comes again does not say so.
    Unmarked,
    /// The acknowledgement returns and did nothing.
    EarlyAck,
    /// `publish` returns Ok and did nothing.
    Lose,
    /// A message is not as it was published.
    Torn,
    /// A message comes that nobody published.
    Forge,
    /// A member stands still.
    Stall,
}

/// All of them, as they are called.
pub(crate) const SABOTAGES: [(&str, Sabotage); 9] = [
    ("drop", Sabotage::Drop),
    ("duplicate", Sabotage::Duplicate),
    ("reorder", Sabotage::Reorder),
    ("unmarked", Sabotage::Unmarked),
    ("early-ack", Sabotage::EarlyAck),
    ("lose", Sabotage::Lose),
    ("torn", Sabotage::Torn),
    ("forge", Sabotage::Forge),
    ("stall", Sabotage::Stall),
];

/// What a worker is told when it starts.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) job: Job,
    pub(crate) page: String,
    pub(crate) dir: PathBuf,
    pub(crate) bus: String,
    pub(crate) seed: u64,
    /// One in so many messages never succeeds.
    pub(crate) poison_one_in: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

struct Worker {
    orders: Orders,
    page: Page,
    random: Random,
    withheld: Vec<Record>,
}

/// Plays the part. Returns when it is told to leave.
pub(crate) fn work(orders: Orders) {
    let page = Page::open(&orders.page);
    let random = Random(orders.seed);
    let mut worker = Worker { page, random, orders, withheld: Vec::new() };
    worker.log(Kind::Started, 0, 0, 0, 0);
    match worker.orders.job {
        Job::Setup => worker.set_up(),
        Job::Supervisor => worker.supervise(),
        Job::Producer { topic, number } => worker.produce(topic, number),
        Job::Member { topic, group } => worker.consume(topic, group),
        Job::Tap { topic } => worker.tap(topic),
        Job::Yielder { topic } => worker.yielding(topic),
        Job::Undertaker => worker.bury(),
    }
}

impl Worker {
    fn log(&self, kind: Kind, lane: u8, sequence: u64, attempts: u8, id: u64) {
        self.log_at(monotonic_ns(), kind, lane, sequence, attempts, id);
    }

    fn log_at(&self, at_ns: u64, kind: Kind, lane: u8, sequence: u64, attempts: u8, id: u64) {
        self.page.append(Record { kind, lane, attempts, sequence, id, at_ns });
    }

    /// Nothing is in hand here. False when it is time to leave.
    fn turn(&self) -> bool {
        self.page.set(word::TURNS, self.page.get(word::TURNS) + 1);
        self.page.get(word::LEAVE) == 0
    }

    fn sabotages(&mut self, what: Sabotage) -> bool {
        self.orders.sabotage == Some(what) && self.random.once_in(SABOTAGE_ONE_IN)
    }

    /// Tries until it succeeds, at most as long as there is patience: others may be in the middle of dying.
    fn insist<R, E: Display>(&self, what: &str, mut attempt: impl FnMut() -> Result<R, E>) -> R {
        let begun = Instant::now();
        loop {
            match attempt() {
                Ok(done) => return done,
                Err(error) if begun.elapsed() > ATTACH_PATIENCE => panic!("{what}: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn open(&self) -> Bus {
        let service = format!("{:?}", self.orders.job).split([' ', '{']).next().unwrap_or("").to_lowercase();
        self.insist("bus", || Bus::builder(&self.orders.bus).dir(&self.orders.dir).service(&service).open())
    }

    fn topic(&self, bus: &Bus, topic: usize) -> Topic<Load> {
        let plan = &TOPICS[topic];
        self.insist(plan.name, || {
            bus.topic_builder::<Load>(plan.name)
                .producers(plan.producers)
                .capacity(plan.capacity)
                .lanes(LANES as u32)
                .open()
        })
    }

    fn join(&self, topic: &Topic<Load>, plan: &GroupPlan) -> Subscriber<Load> {
        self.insist(plan.name, || {
            let builder = topic
                .group(plan.name)
                .attempts(plan.attempts)
                .retry_delays(Duration::from_millis(2), Duration::from_millis(50))
                .handler("soak");
            let builder = match plan.aside_entries {
                0 => builder,
                entries => builder.aside_entries(entries),
            };
            let builder = if plan.keyed { builder.keyed() } else { builder };
            if plan.is_shared() { builder.shared().ack_wait(plan.ack_wait).join() } else { builder.join() }
        })
    }

    fn notices(&self, topic: &Topic<Load>) -> Subscriber<DeadLetterNotice> {
        let notices = self.insist("notices", || topic.dead_letter_notices());
        self.insist("notices", || notices.group("undertaker").join())
    }

    fn set_up(&self) {
        let bus = self.open();
        for (topic, plan) in TOPICS.iter().enumerate() {
            let topic = self.topic(&bus, topic);
            plan.groups.iter().for_each(|group| self.join(&topic, group).close());
            self.notices(&topic).close();
        }
    }

    fn supervise(&mut self) {
        let dir = BusDir::new(&self.orders.bus, Some(&self.orders.dir)).expect("the bus");
        while self.turn() {
            // Of an agent that hosts the role it is taken only sometimes.
            let replace = self.random.once_in(4);
            let Ok(supervisor) = Supervisor::take(&dir, replace) else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let (handle, page) = (supervisor.stop_handle(), self.page);
            std::thread::spawn(move || {
                while page.get(word::LEAVE) == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                handle.stop();
            });
            match supervisor.serve() {
                Ok(Stopped::HandedOver) => std::thread::sleep(Duration::from_millis(200)),
                Ok(Stopped::Asked | Stopped::Down) => return,
                Err(error) => panic!("supervisor: {error}"),
            }
        }
    }

    fn bury(&mut self) {
        let bus = self.open();
        let mut graves: Vec<_> =
            (0..TOPICS.len()).map(|topic| self.notices(&self.topic(&bus, topic))).collect();
        let mut purged: Option<Instant> = None;
        while self.turn() {
            if purged.is_none_or(|purged| purged.elapsed() >= PURGE_EVERY) {
                purged = Some(Instant::now());
                self.purge(&bus);
            }
            for (topic, notices) in graves.iter_mut().enumerate() {
                let found =
                    notices.receive_timeout(LOOK / 4).unwrap_or_else(|error| panic!("notice: {error}"));
                let Some(notice) = found else { continue };
                let value = notice.value().expect("a notice");
                let of_group = |group: &GroupPlan| group.name == value.group.as_str();
                let group = TOPICS[topic].groups.iter().position(of_group).expect("a group");
                let id = (topic << 8 | group) as u64;
                self.log(Kind::Dead, value.lane, value.sequence.to_native(), value.attempts, id);
                notice.ack().expect("its only reader");
            }
        }
    }

    /// Makes room in the stores that are kept small. Each dead letter is told of before it goes, and by its name, so that none goes
    /// that nobody has told of.
    fn purge(&self, bus: &Bus) {
        let small = |group: &&GroupPlan| group.has_small_store();
        for (topic, plan) in
            TOPICS.iter().enumerate().filter(|(_, plan)| plan.groups.iter().any(|g| small(&g)))
        {
            let view = self.insist("view", || BusView::open(&self.orders.bus, Some(&self.orders.dir)));
            let letters = self.insist("letters", || dead_letters::list(&view, &Filter::topic(plan.name)));
            let mut ids = Vec::new();
            for letter in letters {
                let of_group = |group: &GroupPlan| group.name == letter.group;
                let Some(group) = plan.groups.iter().position(of_group) else { continue };
                if !plan.groups[group].has_small_store() {
                    continue;
                }
                let id = (topic << 8 | group) as u64;
                self.log(Kind::Dead, letter.lane.0, letter.sequence, letter.attempts, id);
                ids.push(letter.id);
            }
            if !ids.is_empty() {
                let filter = Filter { ids, ..Filter::default() };
                self.insist("purge", || dead_letters::purge(bus, &filter));
            }
        }
    }
}
