//! A process that takes part in the bus, writes down what it is told there, and may be killed at any instruction.

use crate::page::{Kind, Page, Record, word};
use crate::plan::{self, GroupPlan, Job, LANES, Load, Random, Sizes, TOPICS};
use bus_shm::dead_letters::DeadLetterNotice;
use bus_shm::directory::BusDir;
use bus_shm::supervisor::{Stopped, Supervisor};
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{Batch, Bus, NotOwner, PublishError, Publisher, ReceiveError, Received, Subscriber, Topic};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a worker tries to take part before it says that it cannot.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a member waits for a message before it looks around.
const LOOK: Duration = Duration::from_millis(20);
/// Most messages of a batch.
const BATCH: usize = 16;
/// One in so many messages is tried again later, or given back.
const RETRY_ONE_IN: u64 = 128;
/// One in so many messages takes a while, so that who is killed is likely to have some in hand.
const WORK_ONE_IN: u64 = 32;
const WORK: Duration = Duration::from_micros(500);
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
        Job::Undertaker => worker.bury(),
    }
}

impl Worker {
    fn log(&self, kind: Kind, lane: u8, sequence: u64, attempts: u8, id: u64) {
        self.page.append(Record { kind, lane, attempts, sequence, id, at_ns: monotonic_ns() });
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

    fn produce(&mut self, topic: usize, number: usize) {
        let bus = self.open();
        let sizes = TOPICS[topic].sizes;
        let handle = self.topic(&bus, topic);
        let mut publisher = self.insist("publisher", || handle.publisher());
        publisher.set_deadline(Duration::from_millis(200));
        let mut accepted = self.page.get(word::ACCEPTED);
        while self.turn() {
            if accepted >= self.page.get(word::QUOTA) {
                self.page.set(word::RESTS, 1);
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            self.page.set(word::RESTS, 0);
            let count = self.page.get(word::INTENDED) + 1;
            self.page.set(word::INTENDED, count);
            let id = plan::id_of(number, count);
            if self.publish(&mut publisher, sizes, id) {
                accepted += 1;
                self.page.set(word::ACCEPTED, accepted);
            }
        }
    }

    /// False if it is time to leave.
    fn publish(&mut self, publisher: &mut Publisher<Load>, sizes: Sizes, id: u64) -> bool {
        let lane = plan::lane_of(id);
        let mut load = Load::new(sizes, id);
        if self.sabotages(Sabotage::Torn) {
            load.words.push(1);
        }
        if self.sabotages(Sabotage::Forge) {
            let forged = plan::id_of(plan::parts_of(id).0, u64::from(u32::MAX));
            let _ = publisher.publish_to(plan::lane_of(forged), &Load::new(sizes, forged));
        }
        loop {
            match publisher.publish_to(lane, &load) {
                Ok(sequence) => {
                    self.log(Kind::Accepted, lane.0, sequence, 0, id);
                    if self.sabotages(Sabotage::Lose) {
                        let lost = self.page.get(word::INTENDED) + 1;
                        self.page.set(word::INTENDED, lost);
                        let lost = plan::id_of(plan::parts_of(id).0, lost);
                        self.log(Kind::Accepted, lane.0, sequence + 1, 0, lost);
                    }
                    return true;
                }
                // Nothing was claimed: the same message again.
                Err(PublishError::Full { .. }) if self.turn() => {}
                Err(PublishError::Full { .. }) => return false,
                Err(error) => panic!("publish: {error}"),
            }
        }
    }

    fn tap(&mut self, topic: usize) {
        let bus = self.open();
        let handle = self.topic(&bus, topic);
        let mut tap = self.insist("tap", || handle.tap());
        while self.turn() {
            let found = tap.receive_timeout(LOOK).unwrap_or_else(|error| panic!("tap: {error}"));
            let got = found.map(|message| {
                let id = message.value().ok().and_then(|value| value.checked(TOPICS[topic].sizes));
                let got = (message.lane(), message.sequence(), id);
                let _ = message.ack();
                got
            });
            while let Some((lane, from, until)) = tap.take_missed() {
                self.log(Kind::Missed, lane.0, from, 0, until);
            }
            match got {
                Some((lane, sequence, Some(id))) => self.log(Kind::Handed, lane.0, sequence, 1, id),
                Some((lane, sequence, None)) => self.log(Kind::Torn, lane.0, sequence, 1, 0),
                None => {}
            }
        }
    }

    fn bury(&mut self) {
        let bus = self.open();
        let mut graves: Vec<_> =
            (0..TOPICS.len()).map(|topic| self.notices(&self.topic(&bus, topic))).collect();
        while self.turn() {
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

    fn consume(&mut self, topic: usize, group: usize) {
        let (sizes, plan) = (TOPICS[topic].sizes, &TOPICS[topic].groups[group]);
        let bus = self.open();
        let handle = self.topic(&bus, topic);
        let mut subscriber = self.join(&handle, plan);
        while self.turn() {
            if self.sabotages(Sabotage::Stall) {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            if plan.batches != 0 && self.random.once_in(plan.batches) {
                let batch = subscriber
                    .receive_batch(1, BATCH, LOOK)
                    .unwrap_or_else(|error| panic!("receive_batch: {error}"));
                self.handle_batch(batch, sizes);
            } else {
                let found = subscriber.receive_timeout(LOOK);
                if let Some(message) = found.unwrap_or_else(|error| panic!("receive: {error}")) {
                    self.handle(message, sizes);
                }
            }
        }
    }

    fn work_on_it(&mut self) {
        if self.random.once_in(WORK_ONE_IN) {
            std::thread::sleep(WORK);
        }
    }

    fn is_poison(&self, id: u64) -> bool {
        plan::mix(id ^ 0x0bad).is_multiple_of(self.orders.poison_one_in)
    }

    fn handle(&mut self, message: Received<'_, Load>, sizes: Sizes) {
        let (lane, sequence, attempts) = (message.lane().0, message.sequence(), message.attempts());
        let Some(id) = message.value().ok().and_then(|value| value.checked(sizes)) else {
            self.log(Kind::Torn, lane, sequence, attempts, 0);
            let _ = message.ack();
            return;
        };
        if self.orders.sabotage.is_some() && self.spoil((lane, sequence, attempts, id)) {
            if self.orders.sabotage == Some(Sabotage::EarlyAck) {
                drop(message);
            } else {
                let _ = message.ack();
            }
            return;
        }
        self.log(Kind::Handed, lane, sequence, attempts, id);
        let tell = |worker: &Self, kind| worker.log(kind, lane, sequence, attempts, id);
        self.work_on_it();
        let is_poison = self.is_poison(id);
        if is_poison || self.random.once_in(RETRY_ONE_IN) {
            tell(self, Kind::Ending);
            if !is_poison && self.random.once_in(4) {
                drop(message);
                tell(self, Kind::Returned);
                return;
            }
            self.settled(message.retry("not yet"), Kind::Returned, (lane, sequence, attempts, id));
        } else if self.random.once_in(self.orders.poison_one_in) {
            tell(self, Kind::Ending);
            self.settled(message.reject("never"), Kind::Rejected, (lane, sequence, attempts, id));
        } else {
            tell(self, Kind::Acking);
            let outcome: Result<(), NotOwner> = message.ack();
            self.settled(outcome.map_err(ReceiveError::from), Kind::Acked, (lane, sequence, attempts, id));
        }
        for record in std::mem::take(&mut self.withheld) {
            self.page.append(record);
        }
    }

    fn settled(
        &self,
        outcome: Result<(), ReceiveError>,
        kind: Kind,
        (lane, sequence, attempts, id): (u8, u64, u8, u64),
    ) {
        match outcome {
            Ok(()) => self.log(kind, lane, sequence, attempts, id),
            Err(ReceiveError::NotOwner(_)) => self.log(Kind::Refused, lane, sequence, attempts, id),
            Err(error) => panic!("{kind:?} of message {sequence} in lane {lane}: {error}"),
        }
    }

    /// Lies about a message. False: not about this one.
    fn spoil(&mut self, (lane, sequence, attempts, id): (u8, u64, u8, u64)) -> bool {
        let make = |kind, attempts| Record { kind, lane, attempts, sequence, id, at_ns: monotonic_ns() };
        let story: &[Record] = match self.orders.sabotage {
            Some(Sabotage::Drop) => &[],
            Some(Sabotage::Duplicate) => {
                &[make(Kind::Handed, attempts), make(Kind::Acked, attempts), make(Kind::Handed, attempts + 1)]
            }
            Some(Sabotage::Reorder) if attempts == 1 => {
                if self.withheld.is_empty() && self.random.once_in(SABOTAGE_ONE_IN) {
                    self.withheld =
                        [Kind::Handed, Kind::Acking, Kind::Acked].map(|kind| make(kind, 1)).into();
                    return true;
                }
                return false;
            }
            Some(Sabotage::Unmarked) if attempts > 1 => &[make(Kind::Handed, 1), make(Kind::Acked, 1)],
            Some(Sabotage::EarlyAck) => &[make(Kind::Handed, attempts), make(Kind::Acked, attempts)],
            _ => return false,
        };
        if self.orders.sabotage != Some(Sabotage::Unmarked) && !self.random.once_in(SABOTAGE_ONE_IN) {
            return false;
        }
        story.iter().for_each(|record| self.page.append(*record));
        true
    }

    fn handle_batch(&mut self, mut batch: Batch<'_, Load>, sizes: Sizes) {
        // What has been handed out, and what is to become of it.
        let mut all: Vec<(u8, u64, u8, u64, Kind)> = Vec::with_capacity(BATCH);
        loop {
            let item = batch.next_message().unwrap_or_else(|error| panic!("batch: {error}"));
            let Some(item) = item else { break };
            let (lane, sequence, attempts) = (item.lane().0, item.sequence(), item.attempts());
            let Some(id) = item.value().ok().and_then(|value| value.checked(sizes)) else {
                self.log(Kind::Torn, lane, sequence, attempts, 0);
                continue;
            };
            self.log(Kind::Handed, lane, sequence, attempts, id);
            self.work_on_it();
            let mut fate = Kind::Acked;
            if self.is_poison(id) || self.random.once_in(RETRY_ONE_IN) {
                self.log(Kind::Ending, lane, sequence, attempts, id);
                fate = match item.retry("not in this batch") {
                    Ok(()) => Kind::Returned,
                    Err(ReceiveError::NotOwner(_)) => Kind::Refused,
                    Err(error) => panic!("retry in a batch: {error}"),
                };
            }
            all.push((lane, sequence, attempts, id, fate));
        }
        let tell_all = |worker: &Self, some: &[(u8, u64, u8, u64, Kind)], acked: Kind, other: bool| {
            for &(lane, sequence, attempts, id, fate) in some {
                if fate == Kind::Acked {
                    // Which of a batch were another's is not told; no id says so.
                    let id = if acked == Kind::Refused { 0 } else { id };
                    worker.log(acked, lane, sequence, attempts, id);
                } else if other {
                    worker.log(fate, lane, sequence, attempts, id);
                }
            }
        };
        if self.random.once_in(16) {
            drop(batch);
            // Whatever had been said of them goes for nothing, or has been done already.
            for &(lane, sequence, attempts, id, _) in &all {
                self.log(Kind::Returned, lane, sequence, attempts, id);
            }
            return;
        }
        if self.random.once_in(8)
            && let Some(&(lane, sequence, ..)) = all.get(all.len() / 2)
        {
            let (first, rest): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|item| item.0 == lane && item.1 <= sequence);
            tell_all(self, &first, Kind::Acking, false);
            let kept = batch.ack_up_to(bus_shm::Lane(lane), sequence);
            let outcome = if kept == first.len() { Kind::Acked } else { Kind::Refused };
            tell_all(self, &first, outcome, true);
            all = rest;
        }
        tell_all(self, &all, Kind::Acking, false);
        let kept = batch.ack();
        let outcome = if kept == all.len() { Kind::Acked } else { Kind::Refused };
        tell_all(self, &all, outcome, true);
    }
}
