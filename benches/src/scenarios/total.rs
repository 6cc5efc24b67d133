//! `throughput` of several producers: what they bring to one consumer together, beside what one brings.

use crate::block::Block;
use crate::blocks::Stream;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill, identity, split};
use crate::error::Result;
use crate::floor::Turn;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part, block_ops};

/// The first roles produce, the last one consumes.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.total", spec.topic), &Settings::of(spec))?;
    if role < spec.producers {
        return Ok(Box::new(Producer { to: topic.publisher()?, block: Block::new(), number: 0 }));
    }
    let from = topic.subscriber(spec.wait)?;
    Ok(Box::new(Consumer { from, orders: vec![Order::default(); spec.producers] }))
}

struct Producer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
}

impl<const WORDS: usize> Producer<WORDS> {
    #[inline(always)]
    fn send(&mut self, role: usize, stamp: u64) -> Result<()> {
        fill(&mut self.block.words, identity(role, self.number), stamp);
        self.to.publish(&self.block)?;
        self.number += 1;
        Ok(())
    }
}

impl<const WORDS: usize> Part for Producer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let first = self.number;
        while clock.now() < until {
            for _ in 0..block_ops(WORDS) {
                self.send(turn.role, 0)?;
            }
        }
        self.send(turn.role, LAST)?;
        let mut outcome = Outcome::of("producer");
        outcome.ops = self.number - first;
        Ok(outcome)
    }
}

struct Consumer<const WORDS: usize> {
    from: Subscriber<WORDS>,
    /// One a producer.
    orders: Vec<Order>,
}

impl<const WORDS: usize> Part for Consumer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        for order in &mut self.orders {
            *order = Order::starting_at(order.next());
        }
        let mut stream = Stream::new();
        let (mut ops, mut ended, mut corrupt, mut mark_at) = (0, 0, 0, 1);
        while ended < self.orders.len() {
            let message = self.from.receive()?;
            let seen = message.content();
            message.ack();
            ops += 1;
            match seen.map(|(identity, stamp)| (split(identity), stamp)) {
                Some(((producer, number), stamp)) if producer < self.orders.len() => {
                    self.orders[producer].note(number);
                    ended += usize::from(stamp == LAST);
                }
                _ => corrupt += 1,
            }
            // What is left when the first producer has ended is not what all bring together.
            if ops >= mark_at && ended == 0 {
                stream.mark(clock.now(), ops);
                mark_at = ops + block_ops(WORDS);
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = ops;
        outcome.block_ns = stream.median_ns(clock);
        outcome.mean_ns = stream.mean_ns(clock);
        outcome.lost = self.orders.iter().map(|order| order.lost).sum();
        outcome.out_of_order = self.orders.iter().map(|order| order.out_of_order).sum();
        outcome.corrupt = corrupt;
        Ok(outcome)
    }
}
