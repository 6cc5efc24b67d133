//! `latency` by request and reply: the ping-pong again, with a requester that spins on one side and a replier on the other.

use crate::block::Block;
use crate::blocks::Blocks;
use crate::bus::{Connection, Requester, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part, block_ops};

/// Stamp of every request but the last of a slice.
const PLAIN: u64 = 0;

/// Role 0 asks, role 1 answers.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&spec.topic, &Settings::of(spec))?;
    Ok(if role == 0 {
        Box::new(Asks {
            client: bus.requester(&spec.topic, spec.wait)?,
            block: Block::<WORDS>::new(),
            number: 0,
            order: Order::default(),
            histogram: Nanos::new(),
        })
    } else {
        Box::new(Answers { from: topic.subscriber(spec.wait)?, block: Block::<WORDS>::new() })
    })
}

struct Asks<const WORDS: usize> {
    client: Requester<WORDS>,
    block: Block<WORDS>,
    number: u64,
    order: Order,
    histogram: Nanos,
}

impl<const WORDS: usize> Asks<WORDS> {
    /// Whether the answer's content was what it should be.
    #[inline(always)]
    fn round_trip(&mut self, stamp: u64) -> Result<bool> {
        fill(&mut self.block.words, self.number, stamp);
        let seen = self.client.ask(&self.block)?;
        self.number += 1;
        if let Some((identity, _)) = seen {
            self.order.note(identity);
        }
        Ok(seen.is_some())
    }
}

impl<const WORDS: usize> Part for Asks<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        self.order = Order::starting_at(self.number);
        self.histogram.clear();
        let (clock, until) = (turn.clock, turn.deadline());
        let (mut blocks, mut corrupt, mut ops) = (Blocks::new(), 0, 0);
        let per_block = block_ops(WORDS);
        let mut now = clock.now();
        while now < until {
            for _ in 0..per_block {
                corrupt += u64::from(!self.round_trip(PLAIN)?);
            }
            let end = clock.now();
            blocks.push(clock.ns_f64(end - now), 2 * per_block);
            now = end;
            for _ in 0..per_block {
                corrupt += u64::from(!self.round_trip(PLAIN)?);
                let end = clock.now();
                self.histogram.record(clock.ns_between(now, end) / 2);
                now = end;
            }
            ops += 4 * per_block;
        }
        self.round_trip(LAST)?;
        let mut outcome = Outcome::of("requester");
        outcome.ops = ops;
        outcome.block_ns = blocks.median_ns();
        outcome.corrupt = corrupt;
        outcome.histogram = self.histogram.to_sparse();
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        Ok(outcome)
    }
}

struct Answers<const WORDS: usize> {
    from: Subscriber<WORDS>,
    block: Block<WORDS>,
}

impl<const WORDS: usize> Part for Answers<WORDS> {
    fn slice(&mut self, _: &Turn<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::of("replier");
        loop {
            let message = self.from.receive()?;
            let seen = message.content();
            outcome.corrupt += u64::from(seen.is_none());
            let (identity, stamp) = seen.unwrap_or((0, PLAIN));
            fill(&mut self.block.words, identity, stamp);
            message.reply(&self.block)?;
            message.ack();
            outcome.ops += 1;
            if stamp == LAST {
                return Ok(outcome);
            }
        }
    }
}
