//! `bus100k`: 100,000 messages to a handler that does nothing, from the first publish to the last message handled,
//! and the memory that both processes take. The workload of the in-process bus that is quoted with 42,387 messages/s.

use std::sync::atomic::Ordering;

use crate::block::Block;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::machine::resident_bytes;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::Part;

/// Messages of a run.
pub(crate) const MESSAGES: u64 = 100_000;

/// Word: ticks at which the first publish began.
const START: usize = 0;

/// Role 0 publishes, role 1 handles.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.hundred", spec.topic), &Settings::of(spec))?;
    if role == 0 {
        return Ok(Box::new(Producer { to: topic.publisher()?, block: Block::new(), number: 0 }));
    }
    Ok(Box::new(Handler { from: topic.subscriber(spec.wait)?, order: Order::default() }))
}

struct Producer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
}

impl<const WORDS: usize> Part for Producer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        turn.control.word(START).store(turn.clock.now(), Ordering::Release);
        for _ in 0..MESSAGES {
            fill(&mut self.block.words, self.number, 0);
            self.to.publish(&self.block)?;
            self.number += 1;
        }
        Ok(with_memory(turn, Outcome::of("producer")))
    }
}

struct Handler<const WORDS: usize> {
    from: Subscriber<WORDS>,
    order: Order,
}

impl<const WORDS: usize> Part for Handler<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        self.order = Order::starting_at(self.order.next());
        let mut corrupt = 0;
        for _ in 0..MESSAGES {
            let message = self.from.receive()?;
            match message.content() {
                Some((number, _)) => self.order.note(number),
                None => corrupt += 1,
            }
            message.ack();
        }
        let end = turn.clock.now();
        // Acquire: stored before the first message was published.
        let start = turn.control.word(START).load(Ordering::Acquire);
        let mut outcome = with_memory(turn, Outcome::of("consumer"));
        outcome.ops = MESSAGES;
        outcome.block_ns = Some(turn.clock.ns_f64(end.saturating_sub(start)) / MESSAGES as f64);
        outcome.mean_ns = outcome.block_ns;
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        outcome.corrupt = corrupt;
        Ok(outcome)
    }
}

fn with_memory(turn: &Turn<'_>, mut outcome: Outcome) -> Outcome {
    let (own, shared) = resident_bytes();
    // The floor's rings are not the bus's.
    let shared = shared.saturating_sub(turn.control.bytes() as u64);
    outcome.figures.insert("own_bytes".into(), own as f64);
    outcome.figures.insert("shared_bytes".into(), shared as f64);
    outcome
}
