//! `fanout`: what a publish costs the producer while 1, 2, 4, 8 or 50 groups listen. Messages go out in bursts that
//! never fill the ring; the next burst starts when the slowest group has read the last one. All groups are read by
//! one process on the other core, so that the cost is the bus's and not the scheduler's.

use std::sync::atomic::Ordering;

use crate::block::Block;
use crate::blocks::Blocks;
use crate::bus::{Connection, Publisher, Settings, Subscriber};
use crate::clock::thread_cpu_ns;
use crate::content::{Order, fill};
use crate::error::Result;
use crate::floor::Turn;
use crate::protocol::Outcome;
use crate::spec::Spec;

use super::Part;

/// Word: messages of the slice that every group has read.
const READ: usize = 0;
/// Word: 1 when nothing more comes.
const OVER: usize = 1;

/// Messages in a burst: half of a ring of default size.
const BURST: u64 = 500;

/// Role 0 publishes, role 1 reads for all groups.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    let topic = bus.topic::<WORDS>(&format!("{}.fan", spec.topic), &Settings::of(spec))?;
    if role == 0 {
        return Ok(Box::new(Producer { to: topic.publisher()?, block: Block::new(), number: 0 }));
    }
    let groups = (0..spec.groups)
        .map(|_| Ok(Group { from: topic.subscriber(spec.wait)?, order: Order::default(), read: 0 }))
        .collect::<Result<_>>()?;
    Ok(Box::new(Readers { groups }))
}

struct Producer<const WORDS: usize> {
    to: Publisher<WORDS>,
    block: Block<WORDS>,
    number: u64,
}

impl<const WORDS: usize> Part for Producer<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let (mut cpu, mut wall) = (Blocks::new(), Blocks::new());
        let mut sent = 0;
        while clock.now() < until {
            let (cpu_start, start) = (thread_cpu_ns(), clock.now());
            for _ in 0..BURST {
                fill(&mut self.block.words, self.number, 0);
                self.to.publish(&self.block)?;
                self.number += 1;
            }
            wall.push(clock.ns_f64(clock.now() - start), BURST);
            cpu.push(thread_cpu_ns().saturating_sub(cpu_start) as f64, BURST);
            sent += BURST;
            while turn.control.word(READ).load(Ordering::Acquire) < sent {
                turn.relax();
                std::hint::spin_loop();
            }
        }
        turn.control.word(OVER).store(1, Ordering::Release);
        let mut outcome = Outcome::of("producer");
        outcome.ops = sent;
        outcome.block_ns = cpu.median_ns();
        outcome.figures.extend(wall.median_ns().map(|ns| ("wall_ns".to_owned(), ns)));
        Ok(outcome)
    }
}

struct Group<const WORDS: usize> {
    from: Subscriber<WORDS>,
    order: Order,
    read: u64,
}

struct Readers<const WORDS: usize> {
    groups: Vec<Group<WORDS>>,
}

impl<const WORDS: usize> Part for Readers<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let mut corrupt = 0;
        for group in &mut self.groups {
            group.order = Order::starting_at(group.order.next());
            group.read = 0;
        }
        let started = turn.clock.now();
        while turn.control.word(OVER).load(Ordering::Acquire) == 0 {
            for group in &mut self.groups {
                while let Some(message) = group.from.try_receive()? {
                    let seen = message.content();
                    message.ack();
                    group.read += 1;
                    match seen {
                        Some((number, _)) => group.order.note(number),
                        None => corrupt += 1,
                    }
                }
            }
            let slowest = self.groups.iter().map(|group| group.read).min().unwrap_or(0);
            if slowest > turn.control.word(READ).load(Ordering::Relaxed) {
                turn.control.word(READ).store(slowest, Ordering::Release);
            } else {
                turn.relax();
            }
        }
        let mut outcome = Outcome::of("consumer");
        outcome.ops = self.groups.iter().map(|group| group.read).sum();
        outcome.figures.insert("elapsed_ns".into(), turn.clock.ns_f64(turn.clock.now() - started));
        outcome.lost = self.groups.iter().map(|group| group.order.lost).sum();
        outcome.out_of_order = self.groups.iter().map(|group| group.order.out_of_order).sum();
        outcome.corrupt = corrupt;
        Ok(outcome)
    }
}
