//! `mpmc`: several producers, several consumers of one group, each message to one of them. Calls are timed one in a
//! few; where the processes outnumber the cores only the time inside such calls says anything about the bus.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::block::Block;
use crate::bus::{Connection, Message, Publisher, Settings, Subscriber};
use crate::content::{Order, fill, identity, split};
use crate::error::Result;
use crate::floor::Turn;
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::Part;

/// Word: producers that have sent everything.
const PRODUCERS_DONE: usize = 0;
/// Word: messages sent by those.
const SENT: usize = 1;
/// Word: messages received.
const RECEIVED: usize = 2;

/// One call in so many is timed.
const TIMED_ONE_IN: u64 = 8;

/// Messages that a consumer counts by itself before it tells the others.
const TELL_EVERY: u64 = 256;

/// How long a consumer waits before it looks whether all is over.
const NAP: Duration = Duration::from_micros(200);

/// How long after the last producer the consumers wait for messages that do not come.
const MISSING_AFTER: Duration = Duration::from_millis(500);

/// The first roles produce, the others consume.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.many", spec.topic), &Settings::of(spec))?;
    if role < spec.producers {
        return Ok(Box::new(Producer {
            to: topic.publisher()?,
            block: Block::new(),
            number: 0,
            histogram: Nanos::new(),
        }));
    }
    Ok(Box::new(Consumer {
        from: topic.member("crew", spec.wait)?,
        producers: spec.producers as u64,
        orders: vec![Order::default(); spec.producers],
        histogram: Nanos::new(),
    }))
}

struct Producer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
    histogram: Nanos,
}

impl<const WORDS: usize> Part for Producer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        self.histogram.clear();
        let mut sent = 0_u64;
        let mut full = 0_u64;
        while clock.now() < until {
            fill(&mut self.block.words, identity(turn.role, self.number), 0);
            let start = clock.now();
            let mut taken = self.to.try_publish(&self.block)?;
            if taken && sent.is_multiple_of(TIMED_ONE_IN) {
                self.histogram.record(clock.ns_between(start, clock.now()));
            }
            while !taken && clock.now() < until {
                full += 1;
                std::thread::yield_now();
                taken = self.to.try_publish(&self.block)?;
            }
            if taken {
                self.number += 1;
                sent += 1;
            }
        }
        turn.control.word(SENT).fetch_add(sent, Ordering::AcqRel);
        turn.control.word(PRODUCERS_DONE).fetch_add(1, Ordering::AcqRel);
        let mut outcome = Outcome::of("producer");
        outcome.ops = sent;
        outcome.histogram = self.histogram.to_sparse();
        outcome.figures.insert("full".into(), full as f64);
        Ok(outcome)
    }
}

struct Consumer<const WORDS: usize> {
    from: Subscriber<WORDS>,
    producers: u64,
    /// One a producer.
    orders: Vec<Order>,
    histogram: Nanos,
}

/// What a consumer has seen in a slice.
struct Tally<'a> {
    /// One a producer.
    orders: &'a mut [Order],
    ops: u64,
    corrupt: u64,
    /// Messages that the others know of.
    told: u64,
    last_at: u64,
}

impl Tally<'_> {
    #[inline(always)]
    fn take<const WORDS: usize>(&mut self, turn: &Turn<'_>, message: Message<'_, WORDS>) {
        let seen = message.content();
        message.ack();
        self.last_at = turn.clock.now();
        self.ops += 1;
        match seen.map(|(identity, _)| split(identity)) {
            Some((producer, number)) if producer < self.orders.len() => {
                self.orders[producer].note_sparse(number)
            }
            _ => self.corrupt += 1,
        }
        if self.ops - self.told >= TELL_EVERY {
            self.tell(turn);
        }
    }

    fn tell(&mut self, turn: &Turn<'_>) {
        turn.control.word(RECEIVED).fetch_add(self.ops - self.told, Ordering::AcqRel);
        self.told = self.ops;
    }
}

impl<const WORDS: usize> Part for Consumer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        self.histogram.clear();
        for order in &mut self.orders {
            order.out_of_order = 0;
        }
        let started = clock.now();
        let mut tally = Tally { orders: &mut self.orders, ops: 0, corrupt: 0, told: 0, last_at: started };
        let mut over_since = None;
        loop {
            let before = clock.now();
            let timed = tally.ops.is_multiple_of(TIMED_ONE_IN);
            if let Some(message) = self.from.try_receive()? {
                tally.take(turn, message);
                if timed {
                    self.histogram.record(clock.ns_between(before, tally.last_at));
                }
                continue;
            }
            tally.tell(turn);
            if turn.control.word(PRODUCERS_DONE).load(Ordering::Acquire) == self.producers {
                let all_came = turn.control.word(RECEIVED).load(Ordering::Acquire)
                    >= turn.control.word(SENT).load(Ordering::Acquire);
                let since = *over_since.get_or_insert(before);
                if all_came || before > since + clock.ticks(MISSING_AFTER) {
                    break;
                }
            }
            if let Some(message) = self.from.receive_timeout(NAP)? {
                tally.take(turn, message);
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = tally.ops;
        outcome.corrupt = tally.corrupt;
        outcome.figures.insert("elapsed_ns".into(), clock.ns_f64(tally.last_at - started));
        outcome.out_of_order = self.orders.iter().map(|order| order.out_of_order).sum();
        outcome.histogram = self.histogram.to_sparse();
        Ok(outcome)
    }
}
