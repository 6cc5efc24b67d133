//! `latency`: a message there and one back; one way is half of it. Blocks without a clock reading inside (for the
//! ratio) alternate with blocks in which both sides time each round trip (for the histograms).

use crate::block::Block;
use crate::blocks::Blocks;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::{self, Turn};
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part, block_ops};

/// Stamp of a message in a block that is timed as a whole.
const PLAIN: u64 = 0;
/// Stamp of a message whose round trip is timed.
const TIMED: u64 = 1;

/// The same over the slots of a bare ring: no bus.
#[derive(Default)]
pub(crate) struct Bare {
    histogram: Nanos,
}

impl Part for Bare {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        self.histogram.clear();
        floor::ring::hop(turn, &mut self.histogram)
    }
}

/// One end of the line, either of them.
struct End<const WORDS: usize> {
    role: usize,
    to: Publisher<WORDS>,
    from: Subscriber<WORDS>,
    block: Block<WORDS>,
    number: u64,
    order: Order,
    histogram: Nanos,
}

/// Role 0 calls, role 1 answers.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let settings = Settings::of(spec);
    let there = bus.topic::<WORDS>(&format!("{}.there", spec.topic), &settings)?;
    let back = bus.topic::<WORDS>(&format!("{}.back", spec.topic), &settings)?;
    let (to, from) = if role == 0 { (&there, &back) } else { (&back, &there) };
    Ok(Box::new(End {
        role,
        to: to.publisher()?,
        from: from.subscriber(spec.wait)?,
        block: Block::new(),
        number: 0,
        order: Order::default(),
        histogram: Nanos::new(),
    }))
}

impl<const WORDS: usize> Part for End<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        self.order = Order::starting_at(self.number);
        self.histogram.clear();
        let mut outcome = if self.role == 0 { self.call(turn)? } else { self.answer(turn)? };
        outcome.histogram = self.histogram.to_sparse();
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        Ok(outcome)
    }
}

impl<const WORDS: usize> End<WORDS> {
    fn call(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let mut blocks = Blocks::new();
        let mut corrupt = 0;
        let mut ops = 0;
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
                corrupt += u64::from(!self.round_trip(TIMED)?);
                let end = clock.now();
                self.histogram.record(clock.ns_between(now, end) / 2);
                now = end;
            }
            ops += 4 * per_block;
        }
        self.round_trip(LAST)?;
        let mut outcome = Outcome::of("producer");
        outcome.ops = ops;
        outcome.block_ns = blocks.median_ns();
        outcome.corrupt = corrupt;
        Ok(outcome)
    }

    /// Whether the answer's content was what it should be.
    #[inline(always)]
    fn round_trip(&mut self, stamp: u64) -> Result<bool> {
        fill(&mut self.block.words, self.number, stamp);
        self.to.publish(&self.block)?;
        let message = self.from.receive()?;
        let seen = message.content();
        message.ack();
        self.number += 1;
        if let Some((identity, _)) = seen {
            self.order.note(identity);
        }
        Ok(seen.is_some())
    }

    fn answer(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        let mut corrupt = 0;
        let mut answered = None;
        loop {
            let message = self.from.receive()?;
            let seen = message.content();
            message.ack();
            // A message that cannot be read is answered all the same, so that the other side goes on.
            corrupt += u64::from(seen.is_none());
            let (identity, stamp) = seen.unwrap_or((self.number, PLAIN));
            if let (Some(before), TIMED) = (answered, stamp) {
                self.histogram.record(clock.ns_between(before, clock.now()) / 2);
            }
            self.order.note(identity);
            self.number = identity + 1;
            fill(&mut self.block.words, identity, stamp);
            // Read before the answer leaves: the way back starts here.
            answered = (stamp == TIMED).then(|| clock.now());
            self.to.publish(&self.block)?;
            if stamp == LAST {
                break;
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = self.histogram.count();
        outcome.corrupt = corrupt;
        Ok(outcome)
    }
}
