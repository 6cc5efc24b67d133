//! `throughput`: one producer, one consumer, as fast as they can, every byte written and checked.

use crate::block::Block;
use crate::blocks::Stream;
use crate::bus::{Connection, Publisher, Settings, Subscriber, topic_bytes};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::{self, Turn};
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part, block_ops};

/// Role 0 produces, role 1 consumes.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let name = format!("{}.stream", spec.topic);
    let topic = bus.topic::<WORDS>(&name, &Settings::of(spec))?;
    if role == 0 {
        let to = topic.publisher()?;
        return Ok(match spec.publish_batch {
            0 => Box::new(Producer { put: Copied { to, block: Block::new() }, number: 0 }),
            size => {
                let blocks = (0..size).map(|_| Block::new()).collect();
                Box::new(Producer { put: InBatches { to, blocks }, number: 0 })
            }
        });
    }
    let from = topic.subscriber(spec.wait)?;
    Ok(Box::new(Consumer { from, batch: spec.batch, seen: Seen::default(), next: 0 }))
}

/// The same where messages are written into memory of the bus. No block is made, which may be larger than a stack.
pub(crate) fn open_in_place<const WORDS: usize>(
    bus: &Connection,
    spec: &Spec,
    role: usize,
) -> Result<Box<dyn Part>> {
    let name = format!("{}.stream", spec.topic);
    let topic = bus.topic::<WORDS>(&name, &Settings::of(spec))?;
    if role == 0 {
        let put = InPlace { to: topic.publisher()?, spec: spec.clone(), topic: name };
        return Ok(Box::new(Producer { put, number: 0 }));
    }
    let from = topic.subscriber(spec.wait)?;
    Ok(Box::new(Consumer { from, batch: 0, seen: Seen::default(), next: 0 }))
}

/// The same over a bare ring, which copies nothing: no bus.
pub(crate) struct Bare {
    pub(crate) payload_bytes: usize,
}

impl Part for Bare {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        floor::ring::run(turn, self.payload_bytes, true)
    }
}

/// How messages are handed to the bus.
trait Put {
    /// Bytes of a payload.
    const PAYLOAD_BYTES: usize;

    /// Publishes what one call takes, from message `number` on, the last of them with this stamp. How many they are.
    fn put(&mut self, number: u64, stamp: u64) -> Result<u64>;

    /// Memory of the topic, where the row shows it.
    fn topic_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Made by the program, copied by the bus.
struct Copied<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
}

impl<const WORDS: usize> Put for Copied<WORDS> {
    const PAYLOAD_BYTES: usize = WORDS * 8;

    #[inline(always)]
    fn put(&mut self, number: u64, stamp: u64) -> Result<u64> {
        fill(&mut self.block.words, number, stamp);
        self.to.publish(&self.block)?;
        Ok(1)
    }
}

/// The same, many in one call.
struct InBatches<const WORDS: usize> {
    to: Publisher<WORDS>,
    blocks: Vec<Block<WORDS>>,
}

impl<const WORDS: usize> Put for InBatches<WORDS> {
    const PAYLOAD_BYTES: usize = WORDS * 8;

    #[inline(always)]
    fn put(&mut self, number: u64, stamp: u64) -> Result<u64> {
        let last = self.blocks.len() - 1;
        for (index, block) in self.blocks.iter_mut().enumerate() {
            fill(&mut block.words, number + index as u64, if index == last { stamp } else { 0 });
        }
        self.to.publish_batch(&self.blocks)?;
        Ok(self.blocks.len() as u64)
    }
}

/// Written where it will be read.
struct InPlace<const WORDS: usize> {
    to: Publisher<WORDS>,
    spec: Spec,
    topic: String,
}

impl<const WORDS: usize> Put for InPlace<WORDS> {
    const PAYLOAD_BYTES: usize = WORDS * 8;

    #[inline(always)]
    fn put(&mut self, number: u64, stamp: u64) -> Result<u64> {
        self.to.publish_in_place(number, stamp)?;
        Ok(1)
    }

    fn topic_bytes(&self) -> Result<Option<u64>> {
        topic_bytes(&self.spec, &self.topic).map(Some)
    }
}

struct Producer<P> {
    put: P,
    number: u64,
}

impl<P: Put> Part for Producer<P> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let mut stream = Stream::new();
        let first = self.number;
        stream.mark(clock.now(), 0);
        loop {
            // In a variable: a store a message, to count them, would be a good part of what a short message takes.
            let mut number = self.number;
            let block_end = number + block_ops(P::PAYLOAD_BYTES / 8);
            while number < block_end {
                number += self.put.put(number, 0)?;
            }
            self.number = number;
            let now = clock.now();
            stream.mark(now, self.number - first);
            if now >= until {
                break;
            }
        }
        self.number += self.put.put(self.number, LAST)?;
        let mut outcome = Outcome::of("producer");
        outcome.ops = self.number - first;
        outcome.block_ns = stream.median_ns(clock);
        outcome.mean_ns = stream.mean_ns(clock);
        outcome.figures.extend(self.put.topic_bytes()?.map(|bytes| ("topic_bytes".to_owned(), bytes as f64)));
        Ok(outcome)
    }
}

/// What a consumer has seen in a slice.
#[derive(Default)]
struct Seen {
    order: Order,
    ops: u64,
    corrupt: u64,
    last: bool,
}

impl Seen {
    #[inline(always)]
    fn note(&mut self, content: Option<(u64, u64)>) {
        self.ops += 1;
        match content {
            Some((number, stamp)) => {
                self.order.note(number);
                self.last = stamp == LAST;
            }
            None => self.corrupt += 1,
        }
    }
}

struct Consumer<const WORDS: usize> {
    from: Subscriber<WORDS>,
    /// Messages in one call; 0 for one at a time.
    batch: usize,
    seen: Seen,
    /// Number of the next slice's first message.
    next: u64,
}

impl<const WORDS: usize> Part for Consumer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        let mut stream = Stream::new();
        self.seen = Seen { order: Order::starting_at(self.next), ..Seen::default() };
        let mut mark_at = 1;
        while !self.seen.last {
            if self.batch == 0 {
                let message = self.from.receive()?;
                self.seen.note(message.content());
                message.ack();
            } else {
                let seen = &mut self.seen;
                self.from.receive_batch(self.batch, |content| seen.note(content))?;
            }
            if self.seen.ops >= mark_at {
                stream.mark(clock.now(), self.seen.ops);
                mark_at = self.seen.ops + block_ops(WORDS);
            }
        }
        self.next = self.seen.order.next();
        let mut outcome = Outcome::of("consumer");
        outcome.ops = self.seen.ops;
        outcome.block_ns = stream.median_ns(clock);
        outcome.mean_ns = stream.mean_ns(clock);
        outcome.lost = self.seen.order.lost;
        outcome.out_of_order = self.seen.order.out_of_order;
        outcome.corrupt = self.seen.corrupt;
        Ok(outcome)
    }
}
