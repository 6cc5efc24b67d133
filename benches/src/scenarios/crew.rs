//! `mpmc` as fast as it goes: a group whose members share a producer's messages, acknowledged one by one or in batches. Nothing is timed
//! inside. Where processes have to share a core, a second way tells what a member itself costs: the producer fills the lane and rests
//! while the only member drains it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::block::Block;
use crate::blocks::Blocks;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::protocol::Outcome;
use crate::spec::{Crew, Spec};

use super::{Part, block_ops};

/// Word: 1 when the producer has sent everything (stream), or nothing more comes (drain).
const OVER: usize = 0;
/// Word: messages sent.
const SENT: usize = 1;
/// Word: messages received.
const RECEIVED: usize = 2;

/// Messages that a member counts by itself before it tells the others.
const TELL_EVERY: u64 = 1_024;

/// How long a member waits before it looks whether all is over.
const NAP: Duration = Duration::from_micros(200);

/// How long after the producer the members wait for messages that do not come.
const MISSING_AFTER: Duration = Duration::from_millis(500);

/// Messages that fill the lane: a ring of default size, but for a few.
const FILL: u64 = 1_000;

/// Role 0 produces, the others are members.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.crew", spec.topic), &Settings::of(spec))?;
    let is_drained = spec.crew == Crew::Drain;
    if role == 0 {
        return Ok(Box::new(Producer { to: topic.publisher()?, block: Block::new(), number: 0, is_drained }));
    }
    let take = Take { from: topic.member("crew", spec.wait)?, batch: spec.batch, order: Order::default() };
    Ok(if is_drained { Box::new(Drainer(take)) } else { Box::new(Member(take)) })
}

struct Producer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
    /// Whether it rests while the lane is drained.
    is_drained: bool,
}

impl<const WORDS: usize> Producer<WORDS> {
    fn send(&mut self, messages: u64) -> Result<()> {
        for _ in 0..messages {
            fill(&mut self.block.words, self.number, 0);
            self.to.publish(&self.block)?;
            self.number += 1;
        }
        Ok(())
    }
}

impl<const WORDS: usize> Part for Producer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let first = self.number;
        while clock.now() < until {
            if self.is_drained {
                self.send(FILL)?;
                let sent = self.number - first;
                // Release: all of it is there before the member looks.
                turn.control.word(SENT).store(sent, Ordering::Release);
                while turn.control.word(RECEIVED).load(Ordering::Acquire) < sent {
                    turn.relax();
                    std::hint::spin_loop();
                }
            } else {
                self.send(block_ops(WORDS))?;
            }
        }
        turn.control.word(SENT).store(self.number - first, Ordering::Release);
        turn.control.word(OVER).store(1, Ordering::Release);
        let mut outcome = Outcome::of("producer");
        outcome.ops = self.number - first;
        Ok(outcome)
    }
}

/// How a member takes messages.
struct Take<const WORDS: usize> {
    from: Subscriber<WORDS>,
    /// Messages in one call, acknowledged together; 0 for one at a time.
    batch: usize,
    order: Order,
}

impl<const WORDS: usize> Take<WORDS> {
    /// Takes what one call gives, waiting for it at most this long. How many messages that are, and how many of them corrupt.
    #[inline(always)]
    fn take(&mut self, timeout: Duration) -> Result<(u64, u64)> {
        let order = &mut self.order;
        let (mut ops, mut corrupt) = (0, 0);
        let mut note = |content: Option<(u64, u64)>| {
            ops += 1;
            match content {
                Some((number, _)) => order.note_sparse(number),
                None => corrupt += 1,
            }
        };
        if self.batch > 0 {
            self.from.receive_batch_timeout(self.batch, timeout, note)?;
        } else if let Some(message) = self.from.try_receive()? {
            note(message.content());
            message.ack();
        } else if !timeout.is_zero()
            && let Some(message) = self.from.receive_timeout(timeout)?
        {
            note(message.content());
            message.ack();
        }
        Ok((ops, corrupt))
    }
}

struct Member<const WORDS: usize>(Take<WORDS>);

impl<const WORDS: usize> Part for Member<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        self.0.order.out_of_order = 0;
        let (mut ops, mut corrupt, mut told) = (0, 0, 0);
        let started = clock.now();
        let mut last_at = started;
        let mut over_since = None;
        loop {
            let (took, wrong) = self.0.take(NAP)?;
            ops += took;
            corrupt += wrong;
            if took > 0 && ops - told < TELL_EVERY {
                continue;
            }
            let now = clock.now();
            if ops > told {
                turn.control.word(RECEIVED).fetch_add(ops - told, Ordering::AcqRel);
                told = ops;
                last_at = now;
            }
            if turn.control.word(OVER).load(Ordering::Acquire) == 1 {
                let all_came = turn.control.word(RECEIVED).load(Ordering::Acquire)
                    >= turn.control.word(SENT).load(Ordering::Acquire);
                let since = *over_since.get_or_insert(now);
                if all_came || now > since + clock.ticks(MISSING_AFTER) {
                    break;
                }
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = ops;
        outcome.corrupt = corrupt;
        outcome.out_of_order = self.0.order.out_of_order;
        outcome.figures.insert("elapsed_ns".into(), clock.ns_f64(last_at - started));
        Ok(outcome)
    }
}

/// The only member: it begins when the lane is full, and the producer rests until it is empty.
struct Drainer<const WORDS: usize>(Take<WORDS>);

impl<const WORDS: usize> Part for Drainer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock;
        self.0.order = Order::starting_at(self.0.order.next());
        let mut blocks = Blocks::new();
        let (mut ops, mut corrupt) = (0, 0);
        loop {
            let sent = turn.control.word(SENT).load(Ordering::Acquire);
            if sent > ops {
                let (start, before) = (clock.now(), ops);
                while ops < sent {
                    let (took, wrong) = self.0.take(NAP)?;
                    ops += took;
                    corrupt += wrong;
                }
                blocks.push(clock.ns_f64(clock.now() - start), ops - before);
                turn.control.word(RECEIVED).store(ops, Ordering::Release);
            } else if turn.control.word(OVER).load(Ordering::Acquire) == 1 {
                break;
            } else {
                turn.relax();
                std::hint::spin_loop();
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = ops;
        outcome.block_ns = blocks.median_ns();
        outcome.corrupt = corrupt;
        outcome.out_of_order = self.0.order.out_of_order;
        Ok(outcome)
    }
}
