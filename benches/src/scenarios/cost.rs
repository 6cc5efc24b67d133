//! `cost`: what each step of a message's way takes by itself. One thread publishes and receives, so nothing travels between cores: what is
//! left is the work. Steps that cannot be timed alone are the difference between two ways, taken in turn.

use std::hint::black_box;
use std::mem::MaybeUninit;

use bus_core::limits::ARENA_BOUND_DEFAULT_BYTES;
use rkyv::rancor::Failure;
use rkyv::ser::writer::Buffer;

use crate::block::{ArchivedBlock, Block};
use crate::blocks::Blocks;
use crate::bus::{Connection, Publisher, Settings, Subscriber, content};
use crate::clock::Clock;
use crate::content::fill;
use crate::error::{BenchError, Result};
use crate::floor::Turn;
use crate::protocol::Outcome;
use crate::spec::{BATCH, Spec, Step};

use super::Part;

/// Messages between two readings of the clock: half of a ring of default size, and of large ones what a quarter of a publisher's memory holds.
const fn burst_of(words: usize) -> usize {
    let fit = ARENA_BOUND_DEFAULT_BYTES as usize / 4 / (words * size_of::<u64>());
    if fit < 500 { fit } else { 500 }
}

/// Only role 0 has anything to do.
pub(crate) fn open<const WORDS: usize>(bus: &Connection, spec: &Spec, _: usize) -> Result<Box<dyn Part>> {
    let way = |name: &str, no_stamps: bool, is_shared: bool| {
        let settings = Settings { no_stamps, ..Settings::of(spec) };
        let topic = bus.topic::<WORDS>(&format!("{}.{name}", spec.topic), &settings)?;
        let from = if is_shared { topic.member("shared", spec.wait) } else { topic.subscriber(spec.wait) }?;
        Ok::<_, BenchError>(Way { to: topic.publisher()?, from, block: Block::new(), number: 0 })
    };
    let other = match spec.step {
        Step::Stamp => Some(way("unstamped", true, false)?),
        Step::Claim => Some(way("shared", false, true)?),
        _ => None,
    };
    Ok(Box::new(Cost { step: spec.step, plain: way("plain", spec.no_stamps, false)?, other }))
}

/// A topic with both of its ends.
struct Way<const WORDS: usize> {
    to: Publisher<WORDS>,
    from: Subscriber<WORDS>,
    block: Block<WORDS>,
    number: u64,
}

impl<const WORDS: usize> Way<WORDS> {
    fn publish(&mut self) -> Result<()> {
        for _ in 0..burst_of(WORDS) {
            fill(&mut self.block.words, self.number, 0);
            self.to.publish(&self.block)?;
            self.number += 1;
        }
        Ok(())
    }

    /// Takes and acknowledges a burst, one by one, without a look at what the messages carry.
    fn take(&mut self, clock: &Clock) -> Result<f64> {
        let start = clock.now();
        for _ in 0..burst_of(WORDS) {
            self.from.receive()?.ack();
        }
        Ok(clock.ns_f64(clock.now() - start))
    }

    /// The same in batches, each acknowledged in one go.
    fn take_batches(&mut self, clock: &Clock) -> Result<f64> {
        let start = clock.now();
        let mut count = 0;
        while count < burst_of(WORDS) {
            count += self.from.take_batch(BATCH.min(burst_of(WORDS) - count))?;
        }
        Ok(clock.ns_f64(clock.now() - start))
    }

    fn lend(&mut self, clock: &Clock) -> Result<f64> {
        let start = clock.now();
        for _ in 0..burst_of(WORDS) {
            self.to.publish_lent(|memory| _ = black_box(memory))?;
        }
        Ok(clock.ns_f64(clock.now() - start))
    }

    fn timed_publish(&mut self, clock: &Clock) -> Result<f64> {
        let start = clock.now();
        self.publish()?;
        Ok(clock.ns_f64(clock.now() - start))
    }
}

struct Cost<const WORDS: usize> {
    step: Step,
    plain: Way<WORDS>,
    /// The way that is compared, or compared with.
    other: Option<Way<WORDS>>,
}

impl<const WORDS: usize> Cost<WORDS> {
    /// Nanoseconds that a burst of the step takes.
    fn burst(&mut self, clock: &Clock) -> Result<f64> {
        let Self { step, plain, other } = self;
        match step {
            Step::Archive => return archive(clock, &plain.block),
            Step::Validate => return validate(clock, &plain.block),
            Step::Access => return access(clock, &mut plain.block),
            Step::Fill => return Ok(filling(clock, &mut plain.block)),
            Step::Lend => {
                let lent = plain.lend(clock)?;
                plain.take(clock)?;
                return Ok(lent);
            }
            Step::Publish | Step::Stamp | Step::Receive | Step::ReceiveBatch | Step::Claim => {}
        }
        let published = plain.timed_publish(clock)?;
        if *step == Step::ReceiveBatch {
            return plain.take_batches(clock);
        }
        let received = plain.take(clock)?;
        Ok(match (step, other) {
            (Step::Receive, _) => received,
            (Step::Stamp, Some(unstamped)) => {
                let without = unstamped.timed_publish(clock)?;
                unstamped.take(clock)?;
                published - without
            }
            (Step::Claim, Some(shared)) => {
                shared.publish()?;
                shared.take(clock)? - received
            }
            _ => published,
        })
    }
}

/// A message in the form in which it travels.
fn archived<const WORDS: usize>(block: &Block<WORDS>) -> Result<rkyv::util::AlignedVec> {
    rkyv::to_bytes::<Failure>(block)
        .map_err(|error| BenchError::Bus { call: "archive", text: error.to_string() })
}

fn archive<const WORDS: usize>(clock: &Clock, block: &Block<WORDS>) -> Result<f64> {
    let mut memory: Vec<MaybeUninit<u8>> = vec![MaybeUninit::uninit(); size_of::<Block<WORDS>>() + 64];
    let start = clock.now();
    for _ in 0..burst_of(WORDS) {
        let buffer = Buffer::from(memory.as_mut_slice());
        let written = rkyv::api::high::to_bytes_in::<_, Failure>(black_box(block), buffer)
            .map_err(|error| BenchError::Bus { call: "archive", text: error.to_string() })?;
        black_box(written.len());
    }
    Ok(clock.ns_f64(clock.now() - start))
}

fn validate<const WORDS: usize>(clock: &Clock, block: &Block<WORDS>) -> Result<f64> {
    let bytes = archived(block)?;
    let start = clock.now();
    for _ in 0..burst_of(WORDS) {
        let root = rkyv::access::<ArchivedBlock<WORDS>, Failure>(black_box(&bytes));
        black_box(root.is_ok());
    }
    Ok(clock.ns_f64(clock.now() - start))
}

fn access<const WORDS: usize>(clock: &Clock, block: &mut Block<WORDS>) -> Result<f64> {
    fill(&mut block.words, 1, 0);
    let bytes = archived(block)?;
    let root = rkyv::access::<ArchivedBlock<WORDS>, Failure>(&bytes)
        .map_err(|error| BenchError::Bus { call: "access", text: error.to_string() })?;
    let start = clock.now();
    for _ in 0..burst_of(WORDS) {
        black_box(content(black_box(root)));
    }
    Ok(clock.ns_f64(clock.now() - start))
}

fn filling<const WORDS: usize>(clock: &Clock, block: &mut Block<WORDS>) -> f64 {
    let start = clock.now();
    for number in 0..burst_of(WORDS) as u64 {
        fill(&mut black_box(&mut *block).words, number, 0);
    }
    black_box(block);
    clock.ns_f64(clock.now() - start)
}

impl<const WORDS: usize> Part for Cost<WORDS> {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let (clock, until) = (turn.clock, turn.deadline());
        let mut blocks = Blocks::new();
        let mut outcome = Outcome::of("both");
        while clock.now() < until {
            blocks.push(self.burst(clock)?, burst_of(WORDS) as u64);
            outcome.ops += burst_of(WORDS) as u64;
        }
        outcome.block_ns = blocks.median_ns();
        Ok(outcome)
    }
}
