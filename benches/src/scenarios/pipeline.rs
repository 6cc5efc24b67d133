//! `pipeline`: 10,000 requests through five processes, Observer, Reasoner, Guardian, Actor and Learner. Reasoner and
//! Actor simulate a millisecond of work on each request, as a call that somebody else answers: up to a window of
//! requests is under way in each of them. The same handlers without the bus, in one process with plain queues between
//! them, give what the bus's hops are compared with.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::block::Block;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, check, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::Part;

/// Requests of a run.
pub(crate) const REQUESTS: u64 = 10_000;

/// Ways from one process to the next.
pub(crate) const HOPS: u64 = 4;

/// The processes.
pub(crate) const STAGES: usize = 5;

/// Requests under way in a stage that works.
const WINDOW: usize = 256;

/// Simulated work.
const WORK: Duration = Duration::from_millis(1);

/// Wait of a stage that has nothing under way. If nothing ever comes, the parent's deadline ends the run.
const LONG: Duration = Duration::from_secs(1);

/// Topics between the stages.
const TOPICS: [&str; STAGES - 1] = ["observed", "reasoned", "guarded", "acted"];

/// Requests that wait between two stages without the bus; as many as in a ring by default.
const QUEUE: usize = 1_024;

/// Word: ticks at which the first request was published.
const START: usize = 0;

/// Whether a stage simulates work.
fn works(stage: usize) -> bool {
    stage == 1 || stage == 3
}

/// Requests under way in a stage, in the order in which they will be done.
#[derive(Default)]
struct UnderWay(VecDeque<(Instant, u64)>);

impl UnderWay {
    fn begin(&mut self, number: u64) {
        self.0.push_back((Instant::now() + WORK, number));
    }

    /// The next request that is done.
    fn done(&mut self) -> Option<u64> {
        let (due, number) = *self.0.front()?;
        (due <= Instant::now()).then(|| {
            self.0.pop_front();
            number
        })
    }

    /// How long until the next one is done; `None` if nothing is under way.
    fn next_in(&self) -> Option<Duration> {
        self.0.front().map(|(due, _)| due.saturating_duration_since(Instant::now()))
    }

    fn has_room(&self) -> bool {
        self.0.len() < WINDOW
    }
}

/// Role is the stage.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic =
        |index: usize| bus.topic::<WORDS>(&format!("{}.{}", spec.topic, TOPICS[index]), &Settings::of(spec));
    let from = if role > 0 { Some(topic(role - 1)?.subscriber(spec.wait)?) } else { None };
    let to = if role + 1 < STAGES { Some(topic(role)?.publisher()?) } else { None };
    Ok(Box::new(Stage { role, from, to, block: Block::new(), next: 0, order: Order::default(), corrupt: 0 }))
}

struct Stage<const WORDS: usize> {
    role: usize,
    from: Option<Subscriber<WORDS>>,
    to: Option<Publisher<WORDS>>,
    block: Block<WORDS>,
    /// The observer's next number.
    next: u64,
    order: Order,
    corrupt: u64,
}

impl<const WORDS: usize> Part for Stage<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        self.order = Order::starting_at(self.order.next());
        self.corrupt = 0;
        match self.role {
            0 => self.observe(turn)?,
            stage if works(stage) => self.work()?,
            _ => self.pass_on()?,
        }
        let mut outcome = Outcome::of(if self.role == 0 { "producer" } else { "stage" });
        if self.role == STAGES - 1 {
            let start = turn.control.word(START).load(Ordering::Acquire);
            let wall_ns = turn.clock.ns_f64(turn.clock.now().saturating_sub(start));
            outcome.figures.insert("wall_ns".into(), wall_ns);
        }
        outcome.ops = REQUESTS;
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        outcome.corrupt = self.corrupt;
        Ok(outcome)
    }
}

impl<const WORDS: usize> Stage<WORDS> {
    fn observe(&mut self, turn: &Turn<'_>) -> Result<()> {
        turn.control.word(START).store(turn.clock.now(), Ordering::Release);
        for _ in 0..REQUESTS {
            let number = self.next;
            self.send(number)?;
            self.next += 1;
        }
        Ok(())
    }

    fn pass_on(&mut self) -> Result<()> {
        let mut passed = 0;
        while passed < REQUESTS {
            if let Some(number) = self.take(LONG)? {
                self.send(number)?;
                passed += 1;
            }
        }
        Ok(())
    }

    fn work(&mut self) -> Result<()> {
        let mut under_way = UnderWay::default();
        let (mut taken, mut sent) = (0, 0);
        while sent < REQUESTS {
            while let Some(number) = under_way.done() {
                self.send(number)?;
                sent += 1;
            }
            let pause = under_way.next_in();
            if taken < REQUESTS && under_way.has_room() {
                if let Some(number) = self.take(pause.unwrap_or(LONG))? {
                    under_way.begin(number);
                    taken += 1;
                }
            } else if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }

    fn take(&mut self, timeout: Duration) -> Result<Option<u64>> {
        let Some(from) = &mut self.from else { return Ok(None) };
        let Some(message) = from.receive_timeout(timeout)? else { return Ok(None) };
        let seen = message.content();
        message.ack();
        match seen {
            Some((number, _)) => {
                self.order.note(number);
                Ok(Some(number))
            }
            None => {
                self.corrupt += 1;
                Ok(Some(self.order.next()))
            }
        }
    }

    fn send(&mut self, number: u64) -> Result<()> {
        if let Some(to) = &mut self.to {
            fill(&mut self.block.words, number, 0);
            to.publish(&self.block)?;
        }
        Ok(())
    }
}

/// All stages in one process, with queues between them.
pub(crate) struct Bare {
    order: Order,
    next: u64,
}

impl Bare {
    pub(crate) fn new() -> Self {
        Self { order: Order::default(), next: 0 }
    }
}

impl Part for Bare {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let mut queues: [VecDeque<Block<8>>; STAGES - 1] =
            std::array::from_fn(|_| VecDeque::with_capacity(QUEUE));
        let mut under_way: [UnderWay; 2] = std::array::from_fn(|_| UnderWay::default());
        self.order = Order::starting_at(self.order.next());
        let (mut observed, mut learned, mut corrupt) = (0, 0, 0);
        let start = turn.clock.now();
        while learned < REQUESTS {
            let mut moved = false;
            while observed < REQUESTS && put(&mut queues[0], self.next) {
                self.next += 1;
                observed += 1;
                moved = true;
            }
            for (stage, under_way) in [1, 3].into_iter().zip(&mut under_way) {
                while queues[stage].len() < QUEUE
                    && let Some(number) = under_way.done()
                {
                    put(&mut queues[stage], number);
                    moved = true;
                }
                while under_way.has_room()
                    && let Some(number) = get(&mut queues[stage - 1], &mut corrupt)
                {
                    under_way.begin(number);
                    moved = true;
                }
            }
            while queues[2].len() < QUEUE
                && let Some(number) = get(&mut queues[1], &mut corrupt)
            {
                put(&mut queues[2], number);
                moved = true;
            }
            while let Some(number) = get(&mut queues[3], &mut corrupt) {
                self.order.note(number);
                learned += 1;
                moved = true;
            }
            if !moved && let Some(pause) = under_way.iter().filter_map(UnderWay::next_in).min() {
                std::thread::sleep(pause);
            }
        }
        let mut outcome = Outcome::of("bare");
        outcome.ops = REQUESTS;
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        outcome.corrupt = corrupt;
        outcome.figures.insert("wall_ns".into(), turn.clock.ns_f64(turn.clock.now() - start));
        Ok(outcome)
    }
}

/// Whether there was room.
fn put(queue: &mut VecDeque<Block<8>>, number: u64) -> bool {
    if queue.len() >= QUEUE {
        return false;
    }
    let mut block = Block::new();
    fill(&mut block.words, number, 0);
    queue.push_back(block);
    true
}

fn get(queue: &mut VecDeque<Block<8>>, corrupt: &mut u64) -> Option<u64> {
    let block = queue.pop_front()?;
    let seen = check(block.words.len(), |index| block.words[index]);
    *corrupt += u64::from(seen.is_none());
    Some(seen.map_or(0, |(number, _)| number))
}
