//! Publishing: one by one, from a loan, and in batches.

use super::{Sabotage, Worker};
use crate::page::{Kind, word};
use crate::plan::{self, BLOCK, LANES, Load, Sizes, TOPICS};
use bus_shm::{Lane, Meta, PublishError, Publisher};
use std::ops::RangeInclusive;
use std::time::Duration;

/// One in so many messages is written into a loan.
const LOAN_ONE_IN: u64 = 6;
/// Before one in so many a loan is taken, filled and dropped.
const DROPPED_LOAN_ONE_IN: u64 = 64;
/// A producer whose breaker is open looks at its orders so often.
const KEPT_OUT: Duration = Duration::from_millis(5);
/// Numbers of messages that are never published: no producer comes that far.
const NEVER: u64 = 1 << 46;

impl Worker {
    pub(super) fn produce(&mut self, topic: usize, number: usize) {
        let bus = self.open();
        let sizes = TOPICS[topic].sizes;
        let handle = self.topic(&bus, topic);
        let mut publisher = self.insist("publisher", || handle.publisher());
        publisher.set_deadline(Duration::from_millis(200));
        let mut accepted = self.page.get(word::ACCEPTED);
        while self.turn() {
            let left = self.page.get(word::QUOTA).saturating_sub(accepted);
            if left == 0 {
                self.page.set(word::RESTS, 1);
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            self.page.set(word::RESTS, 0);
            let count = self.page.get(word::INTENDED) + 1;
            if let Some(block) = plan::block_of(number, count)
                && *block.start() == count
            {
                // All of them: whoever comes after a death begins behind the block, so what is there of it is one batch's.
                self.page.set(word::INTENDED, *block.end());
                // More than may be published: these numbers are left out.
                if left >= BLOCK {
                    accepted += self.publish_block(&mut publisher, sizes, number, &block);
                }
            } else {
                self.page.set(word::INTENDED, count);
                let id = plan::id_of(number, count);
                accepted += u64::from(self.publish(&mut publisher, topic, id));
            }
            self.page.set(word::ACCEPTED, accepted);
        }
    }

    /// False if it is time to leave.
    fn publish(&mut self, publisher: &mut Publisher<Load>, topic: usize, id: u64) -> bool {
        let (lane, sizes) = (plan::lane_of(id), TOPICS[topic].sizes);
        let key = plan::key_of(topic, id).map(|key| Meta::new().key(&format!("key-{key}")));
        let mut load = Load::new(sizes, id);
        if self.sabotages(Sabotage::Torn) {
            load.words.push(1);
        }
        if self.sabotages(Sabotage::Forge) {
            let forged = plan::id_of(plan::parts_of(id).0, u64::from(u32::MAX));
            let _ = publisher.publish_to(plan::lane_of(forged), &Load::new(sizes, forged));
        }
        if self.random.once_in(DROPPED_LOAN_ONE_IN) {
            self.drop_a_loan(publisher, sizes, id);
        }
        let is_loan = self.random.once_in(LOAN_ONE_IN);
        loop {
            let outcome = match &key {
                Some(meta) => publisher.publish_with(lane, &load, meta),
                None if is_loan => publish_loan(publisher, lane, &load),
                None => publisher.publish_to(lane, &load),
            };
            match outcome {
                Ok(sequence) => {
                    self.log(Kind::Accepted, lane.0, sequence, 0, id);
                    if self.sabotages(Sabotage::Lose) {
                        let lost = self.page.get(word::INTENDED) + 1;
                        self.page.set(word::INTENDED, lost);
                        let lost = plan::id_of(plan::parts_of(id).0, lost);
                        self.log(Kind::Accepted, lane.0, sequence + 1, 0, lost);
                    }
                    return true;
                }
                // Nothing was claimed: the same message again.
                Err(PublishError::Full { .. }) if self.turn() => {}
                Err(PublishError::CircuitOpen { .. }) if self.turn() => std::thread::sleep(KEPT_OUT),
                Err(PublishError::Full { .. } | PublishError::CircuitOpen { .. }) => return false,
                Err(error) => panic!("publish: {error}"),
            }
        }
    }

    /// A message that is whole, or half written, and never published: whoever gets it says so.
    fn drop_a_loan(&mut self, publisher: &mut Publisher<Load>, sizes: Sizes, id: u64) {
        let never = plan::id_of(plan::parts_of(id).0, NEVER | plan::parts_of(id).1);
        let archive = archive(&Load::new(sizes, never));
        let part = if self.random.once_in(2) { archive.len() } else { archive.len() / 2 };
        match publisher.loan(plan::lane_of(id), archive.len()) {
            Ok(mut loan) => loan[..part].copy_from_slice(&archive[..part]),
            Err(PublishError::Full { .. } | PublishError::CircuitOpen { .. }) => {}
            Err(error) => panic!("loan: {error}"),
        }
    }

    /// Publishes a block of numbers, those of one lane together. Returns how many are known to be accepted: not all if it is
    /// time to leave.
    fn publish_block(
        &mut self,
        publisher: &mut Publisher<Load>,
        sizes: Sizes,
        number: usize,
        block: &RangeInclusive<u64>,
    ) -> u64 {
        let mut accepted = 0;
        for lane in (0..LANES as u8).map(Lane) {
            let ids = block.clone().map(|count| plan::id_of(number, count));
            let loads: Vec<Load> =
                ids.filter(|&id| plan::lane_of(id) == lane).map(|id| Load::new(sizes, id)).collect();
            let mut rest = loads.as_slice();
            while !rest.is_empty() {
                let (published, error) = match publisher.publish_batch(lane, rest) {
                    Ok(published) => (published, None),
                    Err(error) => (error.published, Some(error.source)),
                };
                assert!(
                    published < rest.len() || published == rest.len() && error.is_none(),
                    "{published} of a batch of {}, and {error:?}",
                    rest.len()
                );
                let (done, left) = rest.split_at(published);
                done.iter().for_each(|load| self.log(Kind::Batched, lane.0, 0, 0, load.id));
                accepted += published as u64;
                rest = left;
                match error {
                    None => assert!(rest.is_empty(), "{published} of a batch, and it was Ok"),
                    // What is left was not claimed.
                    Some(PublishError::Full { .. }) if self.turn() => {}
                    Some(PublishError::CircuitOpen { .. }) if self.turn() => std::thread::sleep(KEPT_OUT),
                    Some(PublishError::Full { .. } | PublishError::CircuitOpen { .. }) => return accepted,
                    Some(error) => panic!("publish_batch: {error}"),
                }
            }
        }
        accepted
    }
}

fn archive(load: &Load) -> rkyv::util::AlignedVec {
    rkyv::to_bytes::<rkyv::rancor::Error>(load).expect("an archive")
}

fn publish_loan(publisher: &mut Publisher<Load>, lane: Lane, load: &Load) -> Result<u64, PublishError> {
    let archive = archive(load);
    let mut loan = publisher.loan(lane, archive.len())?;
    loan.copy_from_slice(&archive);
    loan.publish()
}
