//! What a member writes down before it finishes a message without handling it, for those who follow messages.

use super::{Delivery, Proof, RawSubscriber};
use crate::error::ReceiveError;
use bus_core::outcome::MISSED;
use bus_core::seq::{distance, later};

impl RawSubscriber {
    /// Records what is about to become of a message in the ring. Where it cannot be recorded the message stays the next one.
    #[cold]
    pub(super) fn record_outcome(&mut self, delivery: &Delivery, outcome: u8) -> Result<(), ReceiveError> {
        let (lane, sequence) = (delivery.lane, delivery.found.sequence);
        let Some(late) = &self.late else { return Ok(()) };
        let attempts = match delivery.proof {
            Proof::Claim(claim) => claim.unpack().attempts,
            _ => 0,
        };
        match late.make_outcomes(&self.core) {
            Ok(outcomes) => {
                outcomes.record((lane, sequence), outcome, attempts);
                Ok(())
            }
            Err(error) => {
                if matches!(delivery.proof, Proof::Position) {
                    self.lanes[lane].seek(sequence);
                    self.lanes[lane].take_back_hand_out(sequence);
                } else {
                    self.release(&delivery.in_hand());
                }
                Err(error.into())
            }
        }
    }

    /// Records a run of messages that were overwritten before they were read, before the cursor can pass it.
    #[cold]
    pub(super) fn record_missed(&self, lane: usize, from: u64, until: u64) -> Result<(), ReceiveError> {
        let Some(late) = &self.late else { return Ok(()) };
        let outcomes = late.make_outcomes(&self.core)?;
        // Of a longer run the beginning is not known any more.
        let first = later(from, until.wrapping_sub(outcomes.records_count()));
        for index in 0..distance(until, first).max(0) as u64 {
            outcomes.record((lane, first.wrapping_add(index)), MISSED, 0);
        }
        Ok(())
    }

    /// A message comes again, from the store or in a group of one. What has been recorded of it was not carried out.
    #[cold]
    pub(super) fn clear_outcome(&self, delivery: &Delivery) {
        let is_new = matches!(delivery.proof, Proof::Position) && delivery.found.times <= 1;
        if is_new || !matches!(delivery.proof, Proof::Position | Proof::Entry(_)) {
            return;
        }
        let outcomes = self.late.as_ref().and_then(|late| late.outcomes(&self.core));
        let Some(records) = outcomes.and_then(|outcomes| outcomes.records(delivery.lane)) else { return };
        match delivery.proof {
            Proof::Entry(held) => records.clear_entry(delivery.found.sequence, held.word.attempts),
            _ => records.clear(delivery.found.sequence),
        }
    }
}
