//! `ring`: one producer, one reader, 4,096 slots (fewer of large payloads) with publication word and payload side by side, every
//! byte written and summed, the reader's cursor stored every 64 messages (after every message of fewer slots). Nothing that a bus needs on top: no header, no second
//! reader, no check of what is read.
//!
//! [`hop`] passes single messages there and back over such slots: what one message costs where each goes into lines that
//! the other core read last. `line` keeps two lines in motion, which some machines do twice as fast.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Turn;
use crate::blocks::{BLOCK_OPS, Blocks, Stream};
use crate::control::{ring_slots, slot_bytes};
use crate::error::{BenchError, Result};
use crate::histogram::Nanos;
use crate::protocol::Outcome;
use crate::spec::{IN_PLACE_ONLY_BYTES, PAYLOAD_BYTES};

/// Bits of a publication word that count messages; the rest tells slices apart, so that words left over from an
/// earlier slice are never taken for new ones.
const COUNT_BITS: u32 = 36;

/// An odd number whose multiples differ in many bits.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The ring of one payload size, as both sides see it. `RUN` is the number of messages between two stores of the cursor, and how
/// far ahead the second kind of reader waits.
struct Slots<const WORDS: usize, const RUN: u64> {
    first: *mut u8,
    /// Added to the numbers of this slice.
    base: u64,
}

/// Role 0 writes, role 1 reads; `ahead` chooses the reader.
pub(crate) fn run(turn: &Turn<'_>, payload_bytes: usize, ahead: bool) -> Result<Outcome> {
    let Some(first) = turn.control.ring(payload_bytes) else {
        let text = format!("no ring for payloads of {payload_bytes} bytes");
        return Err(BenchError::WorkerArguments(text));
    };
    let base = turn.gate << COUNT_BITS;
    match payload_bytes {
        64 => Ok(side(turn, &Slots::<8, 64> { first, base }, ahead)),
        1_024 => Ok(side(turn, &Slots::<128, 64> { first, base }, ahead)),
        65_536 => Ok(side(turn, &Slots::<8_192, 1> { first, base }, ahead)),
        IN_PLACE_ONLY_BYTES => {
            Ok(side(turn, &Slots::<{ IN_PLACE_ONLY_BYTES / 8 }, 1> { first, base }, ahead))
        }
        bytes => Err(BenchError::Payload { bytes, offered: PAYLOAD_BYTES.to_vec() }),
    }
}

fn side<const WORDS: usize, const RUN: u64>(
    turn: &Turn<'_>,
    slots: &Slots<WORDS, RUN>,
    ahead: bool,
) -> Outcome {
    match (turn.role, ahead) {
        (0, _) => write(turn, slots),
        (_, false) => read::<WORDS, RUN, 1>(turn, slots),
        (_, true) => read::<WORDS, RUN, RUN>(turn, slots),
    }
}

impl<const WORDS: usize, const RUN: u64> Slots<WORDS, RUN> {
    const COUNT: usize = ring_slots(WORDS * 8);

    /// Messages between two looks at the clock: about a thousand, in whole runs; fewer of large ones.
    const BLOCK: u64 = 16 * RUN;

    fn slot(&self, number: u64) -> *mut u8 {
        let index = number as usize % Self::COUNT;
        // SAFETY: the ring has so many slots of this size behind `first`.
        unsafe { self.first.add(index * slot_bytes(WORDS * 8)) }
    }

    #[inline(always)]
    fn word(&self, number: u64) -> &AtomicU64 {
        // SAFETY: a slot starts with its publication word, aligned to a cache line, only ever accessed atomically; the
        // mapping outlives the step.
        unsafe { &*self.slot(number).cast::<AtomicU64>() }
    }

    #[inline(always)]
    fn payload(&self, number: u64) -> *mut [u64; WORDS] {
        // SAFETY: the payload follows the publication word inside the slot.
        unsafe { self.slot(number).add(8).cast() }
    }

    /// The publication word of a message.
    #[inline(always)]
    fn published(&self, number: u64) -> u64 {
        self.base + number + 1
    }

    /// Writes and publishes a message. The reader is past the last one in its slot and does not read this one before it is
    /// published; there is one writer.
    #[inline(always)]
    fn put(&self, number: u64) {
        let seed = number.wrapping_mul(ODD);
        // SAFETY: see above.
        let payload = unsafe { &mut *self.payload(number) };
        for (index, word) in payload.iter_mut().enumerate() {
            *word = seed.wrapping_add(index as u64);
        }
        // Release: publishes the payload; pairs with the Acquire in `wait`.
        self.word(number).store(self.published(number), Ordering::Release);
    }

    /// Waits until a message is published: its payload and that of all before it are visible.
    #[inline(always)]
    fn wait(&self, turn: &Turn<'_>, number: u64) {
        while self.word(number).load(Ordering::Acquire) != self.published(number) {
            turn.relax();
        }
    }

    /// Adds up a message that was waited for and is not overwritten yet.
    #[inline(always)]
    fn sum(&self, number: u64, sum: u64) -> u64 {
        // SAFETY: see above.
        let payload = unsafe { &*self.payload(number) };
        payload.iter().fold(sum, |sum, word| sum.wrapping_add(*word))
    }
}

/// Messages of 64 bytes there and back, each in the next slot: the even ones of role 0, the odd ones of role 1.
pub(crate) fn hop(turn: &Turn<'_>, histogram: &mut Nanos) -> Result<Outcome> {
    let Some(first) = turn.control.ring(64) else {
        return Err(BenchError::WorkerArguments("no ring for a hop".into()));
    };
    let slots = Slots::<8, 64> { first, base: turn.gate << COUNT_BITS };
    let page = turn.control.page();
    let (mut blocks, mut number, mut sum) = (Blocks::new(), 0, 0);
    let mut outcome;
    if turn.role == 0 {
        outcome = Outcome::of("producer");
        let (clock, until) = (turn.clock, turn.deadline());
        let mut now = clock.now();
        while now < until {
            for timed in [false, true] {
                let begun = now;
                for _ in 0..BLOCK_OPS {
                    slots.put(number);
                    slots.wait(turn, number + 1);
                    sum = slots.sum(number + 1, sum);
                    number += 2;
                    if timed {
                        let arrived = clock.now();
                        histogram.record(clock.ns_between(now, arrived) / 2);
                        now = arrived;
                    }
                }
                if !timed {
                    now = clock.now();
                    blocks.push(clock.ns_f64(now - begun), 2 * BLOCK_OPS);
                }
            }
        }
        // Release: the other side sees it with the message that it waits for, or after it.
        page.end.store(number + 1, Ordering::Release);
        slots.put(number);
        outcome.block_ns = blocks.median_ns();
    } else {
        outcome = Outcome::of("consumer");
        while page.end.load(Ordering::Acquire) != number + 1 {
            slots.wait(turn, number);
            sum = slots.sum(number, sum);
            if page.end.load(Ordering::Acquire) == number + 1 {
                break;
            }
            slots.put(number + 1);
            number += 2;
        }
    }
    outcome.ops = number;
    outcome.histogram = histogram.to_sparse();
    std::hint::black_box(sum);
    Ok(outcome)
}

fn write<const WORDS: usize, const RUN: u64>(turn: &Turn<'_>, slots: &Slots<WORDS, RUN>) -> Outcome {
    let page = turn.control.page();
    let (clock, until) = (turn.clock, turn.deadline());
    let (mut number, mut done) = (0, 0);
    let mut last = false;
    while !last {
        last = clock.now() >= until;
        if last {
            // Release: stored before the block's first message, so that the reader of its last one sees it.
            page.end.store(number + Slots::<WORDS, RUN>::BLOCK, Ordering::Release);
        }
        for _ in 0..Slots::<WORDS, RUN>::BLOCK {
            while number - done >= Slots::<WORDS, RUN>::COUNT as u64 {
                // Acquire: pairs with the reader's store; the slots before it have been read.
                done = page.cursor.load(Ordering::Acquire);
                turn.relax();
            }
            slots.put(number);
            number += 1;
        }
    }
    let mut outcome = Outcome::of("producer");
    outcome.ops = number;
    outcome
}

/// `AHEAD` is 1 for the reader that takes each slot as it comes, `RUN` for the one that waits for the last of a run.
fn read<const WORDS: usize, const RUN: u64, const AHEAD: u64>(
    turn: &Turn<'_>,
    slots: &Slots<WORDS, RUN>,
) -> Outcome {
    let page = turn.control.page();
    let clock = turn.clock;
    let mut stream = Stream::new();
    let (mut number, mut sum) = (0_u64, 0_u64);
    loop {
        for _ in 0..Slots::<WORDS, RUN>::BLOCK / RUN {
            for _ in 0..RUN / AHEAD {
                let far = number + AHEAD - 1;
                // Acquire: the payload of `far` and of all before it is visible.
                slots.wait(turn, far);
                for _ in 0..AHEAD {
                    sum = slots.sum(number, sum);
                    number += 1;
                }
            }
            // Release: the reads above are done; pairs with the writer's Acquire.
            page.cursor.store(number, Ordering::Release);
        }
        stream.mark(clock.now(), number);
        if page.end.load(Ordering::Acquire) == number {
            break;
        }
    }
    let mut outcome = Outcome::of("consumer");
    outcome.ops = number;
    outcome.block_ns = stream.median_ns(clock);
    outcome.mean_ns = stream.mean_ns(clock);
    outcome.corrupt = u64::from(sum != expected_sum(WORDS as u64, number));
    outcome
}

/// Sum of all words of the first `messages` messages.
fn expected_sum(words: u64, messages: u64) -> u64 {
    let numbers = (u128::from(messages) * u128::from(messages.saturating_sub(1)) / 2) as u64;
    let seeds = numbers.wrapping_mul(ODD).wrapping_mul(words);
    seeds.wrapping_add(messages.wrapping_mul(words * (words - 1) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_everything_written_is_known() {
        for (words, messages) in [(8_u64, 0_u64), (8, 1), (8, 1_000), (128, 77)] {
            let mut sum = 0_u64;
            for number in 0..messages {
                for index in 0..words {
                    sum = sum.wrapping_add(number.wrapping_mul(ODD).wrapping_add(index));
                }
            }
            assert_eq!(expected_sum(words, messages), sum);
        }
    }
}
