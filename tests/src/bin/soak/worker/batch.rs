//! Batches: acknowledged whole or bit by bit, given back, and some of their messages put aside.

use super::Worker;
use super::member::RETRY_ONE_IN;
use crate::page::Kind;
use crate::plan::{Load, Sizes};
use bus_shm::{Batch, Lane, ReceiveError};

/// One in so many batches is acknowledged bit by bit, with more taken in between.
const BITS_ONE_IN: u64 = 4;
/// One in so many is given back, or what is left of it.
const GIVE_BACK_ONE_IN: u64 = 16;
/// One in so many messages that are put aside in a batch is rejected.
const REJECT_ONE_IN: u64 = 8;

/// A message of a batch, and what becomes of it when that is acknowledged.
#[derive(Clone, Copy)]
struct Item {
    lane: u8,
    sequence: u64,
    attempts: u8,
    id: u64,
    fate: Kind,
}

impl Worker {
    fn tell(&self, kind: Kind, item: Item) {
        self.log(kind, item.lane, item.sequence, item.attempts, item.id);
    }

    fn tell_all(&self, some: &[Item], acked: Kind, has_others: bool) {
        for &item in some {
            if item.fate == Kind::Acked {
                // Which of a batch were another's is not told; no id says so.
                let id = if acked == Kind::Refused { 0 } else { item.id };
                self.tell(acked, Item { id, ..item });
            } else if has_others {
                self.tell(item.fate, item);
            }
        }
    }

    pub(super) fn handle_batch(&mut self, mut batch: Batch<'_, Load>, sizes: Sizes) {
        let is_in_bits = self.random.once_in(BITS_ONE_IN);
        // What has been handed out and not been acknowledged yet.
        let mut all: Vec<Item> = Vec::new();
        loop {
            let most = if is_in_bits { 1 + self.random.below(6) } else { u64::MAX };
            let is_over = !self.take(&mut batch, sizes, most, &mut all);
            if !is_in_bits {
                break;
            }
            let at = self.random.below(all.len().max(1) as u64) as usize;
            if let Some(&Item { lane, sequence, .. }) = all.get(at) {
                let (first, rest): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|item| item.lane == lane && item.sequence <= sequence);
                self.tell_all(&first, Kind::Acking, false);
                let kept = batch.ack_up_to(Lane(lane), sequence);
                self.acknowledged(&first, kept);
                all = rest;
            }
            if is_over {
                break;
            }
        }
        if self.random.once_in(GIVE_BACK_ONE_IN) {
            drop(batch);
            // Whatever had been said of them goes for nothing, or has been done already.
            all.iter().for_each(|&item| self.tell(Kind::Returned, item));
            return;
        }
        self.tell_all(&all, Kind::Acking, false);
        let kept = batch.ack();
        self.acknowledged(&all, kept);
    }

    /// So many of them were still this member's.
    fn acknowledged(&self, some: &[Item], kept: usize) {
        assert!(kept <= some.len(), "{kept} acknowledged of {}", some.len());
        let outcome = if kept == some.len() { Kind::Acked } else { Kind::Refused };
        self.tell_all(some, outcome, true);
    }

    /// Takes up to `most` messages more. False if there are no more for this batch.
    fn take(&mut self, batch: &mut Batch<'_, Load>, sizes: Sizes, most: u64, all: &mut Vec<Item>) -> bool {
        for _ in 0..most {
            let found = batch.next_message().unwrap_or_else(|error| panic!("batch: {error}"));
            let Some(message) = found else { return false };
            let (lane, sequence, attempts) = (message.lane().0, message.sequence(), message.attempts());
            let Some(id) = message.value().ok().and_then(|value| value.checked(sizes)) else {
                self.log(Kind::Torn, lane, sequence, attempts, 0);
                continue;
            };
            let mut item = Item { lane, sequence, attempts, id, fate: Kind::Acked };
            self.tell(Kind::Handed, item);
            self.work_on_it();
            if self.is_poison(id) || self.random.once_in(RETRY_ONE_IN) {
                self.tell(Kind::Ending, item);
                let is_rejected = self.random.once_in(REJECT_ONE_IN);
                let outcome = match is_rejected {
                    true => message.reject("never, in this batch"),
                    false => message.retry("not in this batch"),
                };
                item.fate = match outcome {
                    Ok(()) if is_rejected => Kind::Rejected,
                    Ok(()) => Kind::Returned,
                    Err(ReceiveError::NotOwner(_)) => Kind::Refused,
                    // It stays in the batch, and is done with it.
                    Err(ReceiveError::AsideFull { .. }) => {
                        self.tell(Kind::NoRoom, item);
                        Kind::Acked
                    }
                    Err(error) => panic!("put aside in a batch: {error}"),
                };
            }
            all.push(item);
        }
        true
    }
}
