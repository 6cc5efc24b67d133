//! `throughput`: one producer, one consumer, as fast as they can, every byte written and checked.

use crate::blocks::Stream;
use crate::bus::{Block, Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::{self, Turn};
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part, block_ops};

/// Role 0 produces, role 1 consumes.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.stream", spec.topic), &Settings::of(spec))?;
    if role == 0 {
        return Ok(Box::new(Producer { to: topic.publisher()?, block: Block::new(), number: 0 }));
    }
    let from = topic.subscriber(spec.wait)?;
    Ok(Box::new(Consumer { from, batch: spec.batch, seen: Seen::default(), next: 0 }))
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

struct Producer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
}

impl<const WORDS: usize> Producer<WORDS> {
    #[inline(always)]
    fn send(&mut self, stamp: u64) -> Result<()> {
        fill(&mut self.block.words, self.number, stamp);
        self.to.publish(&self.block)?;
        self.number += 1;
        Ok(())
    }
}

impl<const WORDS: usize> Part for Producer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let mut stream = Stream::new();
        let first = self.number;
        stream.mark(clock.now(), 0);
        loop {
            for _ in 0..block_ops(WORDS) {
                self.send(0)?;
            }
            let now = clock.now();
            stream.mark(now, self.number - first);
            if now >= until {
                break;
            }
        }
        self.send(LAST)?;
        let mut outcome = Outcome::of("producer");
        outcome.ops = self.number - first;
        outcome.block_ns = stream.median_ns(clock);
        outcome.mean_ns = stream.mean_ns(clock);
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
