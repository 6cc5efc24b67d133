//! `paced`: one way at a fixed rate. Each message counts from the moment at which it was due, not from the moment at
//! which it was sent: a producer that falls behind does not hide the delay it causes (no coordinated omission).

use std::sync::atomic::Ordering;

use crate::block::Block;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::clock::{Clock, process_cpu_ns};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::{LAST, Part};

/// Word: ticks at which the first message is due.
const START: usize = 0;
/// Word: number of the first message of the slice, plus one.
const FIRST: usize = 1;

/// Time between the agreement on the start and the start, in nanoseconds.
const LEAD_NS: f64 = 200_000.0;

/// When messages are due. Both sides compute it alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start: u64,
    ticks_per_message: f64,
}

impl Schedule {
    pub(super) fn new(clock: &Clock, start: u64, rate_hz: u64) -> Self {
        let ticks_per_second = clock.ticks(std::time::Duration::from_secs(1)) as f64;
        Self { start, ticks_per_message: ticks_per_second / rate_hz.max(1) as f64 }
    }

    #[inline(always)]
    pub(super) fn due(&self, index: u64) -> u64 {
        self.start + (index as f64 * self.ticks_per_message) as u64
    }
}

/// Role 0 sends, role 1 receives.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.paced", spec.topic), &Settings::of(spec))?;
    let rate_hz = spec.rate_hz;
    if role == 0 {
        return Ok(Box::new(Sender {
            to: topic.publisher()?,
            block: Block::new(),
            number: 0,
            rate_hz,
            histogram: Nanos::new(),
        }));
    }
    let from = topic.subscriber(spec.wait)?;
    Ok(Box::new(Receiver { from, order: Order::default(), rate_hz, histogram: Nanos::new() }))
}

struct Sender<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
    rate_hz: u64,
    /// Time inside each publish call.
    histogram: Nanos,
}

impl<const WORDS: usize> Part for Sender<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        let start = clock.now() + (LEAD_NS / clock.ns_f64(1)) as u64;
        turn.control.word(START).store(start, Ordering::Relaxed);
        // Release: carries the start to the receiver.
        turn.control.word(FIRST).store(self.number + 1, Ordering::Release);
        let schedule = Schedule::new(clock, start, self.rate_hz);
        let messages = (turn.length.as_secs_f64() * self.rate_hz as f64) as u64;
        self.histogram.clear();
        for index in 0..messages {
            fill(&mut self.block.words, self.number, 0);
            let due = schedule.due(index);
            let mut now = clock.now();
            while now < due {
                std::hint::spin_loop();
                now = clock.now();
            }
            self.to.publish(&self.block)?;
            self.histogram.record(clock.ns_between(now, clock.now()));
            self.number += 1;
        }
        fill(&mut self.block.words, self.number, LAST);
        self.to.publish(&self.block)?;
        self.number += 1;
        let mut outcome = Outcome::of("producer");
        outcome.ops = messages;
        outcome.histogram = self.histogram.to_sparse();
        Ok(outcome)
    }
}

struct Receiver<const WORDS: usize> {
    from: Subscriber<WORDS>,
    order: Order,
    rate_hz: u64,
    /// From the moment a message was due to the moment it was received.
    histogram: Nanos,
}

impl<const WORDS: usize> Part for Receiver<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        let first = loop {
            match turn.control.word(FIRST).load(Ordering::Acquire) {
                0 => turn.relax(),
                first => break first - 1,
            }
        };
        let schedule = Schedule::new(clock, turn.control.word(START).load(Ordering::Relaxed), self.rate_hz);
        self.order = Order::starting_at(first);
        self.histogram.clear();
        let mut corrupt = 0;
        let (cpu_start, started) = (process_cpu_ns(), clock.now());
        loop {
            let message = self.from.receive()?;
            let now = clock.now();
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
            self.histogram.record(clock.ns_between(schedule.due(number.saturating_sub(first)), now));
        }
        let cpu_ns = process_cpu_ns().saturating_sub(cpu_start) as f64;
        let wall_ns = clock.ns_f64(clock.now() - started);
        let mut outcome = Outcome::of("consumer");
        outcome.figures.insert("cpu_share".into(), cpu_ns / wall_ns.max(1.0));
        outcome.ops = self.histogram.count();
        outcome.block_ns = Some(self.histogram.quantile(0.5) as f64);
        outcome.histogram = self.histogram.to_sparse();
        outcome.lost = self.order.lost;
        outcome.out_of_order = self.order.out_of_order;
        outcome.corrupt = corrupt;
        Ok(outcome)
    }
}
