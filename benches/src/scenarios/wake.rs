//! `wake`: a consumer that sleeps in `receive` is woken by a publish, after it was proved asleep. One way: from just
//! before the publish to the return of the receive. Same proof and same pauses as in the floor.

use std::sync::atomic::Ordering;

use crate::block::Block;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::floor::sleeper::{SLEEPER_ROUND, Watch, announce};
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part};

/// Role 0 publishes, role 1 sleeps.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.sleep", spec.topic), &Settings::of(spec))?;
    if role == 0 {
        return Ok(Box::new(Waker { to: topic.publisher()?, block: Block::new(), number: 0 }));
    }
    let from = topic.subscriber(spec.wait)?;
    Ok(Box::new(Sleeper { from, order: Order::default(), histogram: Nanos::new() }))
}

struct Waker<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
}

impl<const WORDS: usize> Part for Waker<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        let watch = Watch::open(turn)?;
        let until = turn.deadline();
        let mut round = 0;
        loop {
            let last = clock.now() >= until;
            round += 1;
            watch.until_asleep(turn, round)?;
            let stamp = if last { LAST } else { clock.now() };
            fill(&mut self.block.words, self.number, stamp);
            self.to.publish(&self.block)?;
            self.number += 1;
            if last {
                break;
            }
        }
        let mut outcome = Outcome::of("producer");
        outcome.ops = round;
        Ok(outcome)
    }
}

struct Sleeper<const WORDS: usize> {
    from: Subscriber<WORDS>,
    order: Order,
    histogram: Nanos,
}

impl<const WORDS: usize> Part for Sleeper<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        announce(turn);
        self.order = Order::starting_at(self.order.next());
        self.histogram.clear();
        let (mut round, mut corrupt) = (0, 0);
        loop {
            round += 1;
            turn.control.word(SLEEPER_ROUND).store(round, Ordering::Release);
            let message = self.from.receive()?;
            let awake = clock.now();
            let seen = message.content();
            message.ack();
            let Some((number, stamp)) = seen else {
                corrupt += 1;
                continue;
            };
            self.order.note(number);
            if stamp == LAST {
                break;
            }
            self.histogram.record(clock.ns_between(stamp, awake));
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = self.histogram.count();
        outcome.block_ns = (outcome.ops > 0).then(|| self.histogram.quantile(0.5) as f64);
        outcome.histogram = self.histogram.to_sparse();
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        outcome.corrupt = corrupt;
        Ok(outcome)
    }
}
