//! What a subscriber does with messages that it has handed out: acknowledged, given back, forgotten.

use super::{Delivery, Membership, Proof, RawSubscriber};
use crate::listeners::wake_readers;
use crate::sys::futex;

/// What is remembered of a message in a batch until the batch is settled; of the last one `current` says the rest.
///
/// Less than a whole [`Delivery`], and put together from its fields: a copy in one piece would wait until the pieces, which were
/// stored just before, have left the core.
#[derive(Clone, Copy, Debug)]
pub(super) struct InHand {
    pub(super) lane: usize,
    pub(super) sequence: u64,
    /// Hash of its key, or 0.
    pub(super) key: u64,
    /// False of what the program has not seen: it is settled with the others.
    pub(super) is_shown: bool,
    pub(super) proof: Proof,
}

impl Delivery {
    /// What is remembered of it.
    #[inline]
    pub(super) fn in_hand(&self) -> InHand {
        InHand {
            lane: self.lane,
            sequence: self.found.sequence,
            key: self.found.header.reference,
            is_shown: true,
            proof: self.proof,
        }
    }
}

impl RawSubscriber {
    /// Everything up to this message (one member), or this message (shared), is done. False if the group had given it to
    /// another member meanwhile.
    pub(super) fn acknowledge(&mut self, message: &InHand) -> bool {
        if self.fork.is_child() {
            return false;
        }
        match message.proof {
            Proof::Position => {
                self.lanes[message.lane].acknowledge(message.sequence);
                self.ring_space_bell();
                true
            }
            Proof::Claim(claim) => self.acknowledge_claim(message.lane, message.sequence, claim),
            Proof::Entry(held) => self.acknowledge_entry(held),
            Proof::Staged(_) | Proof::Settled => true,
        }
    }

    /// [`RawSubscriber::acknowledge`] of the message that was handed out last.
    #[inline]
    pub(super) fn acknowledge_current(&mut self) -> bool {
        if !matches!(self.current.proof, Proof::Position) || self.fork.is_child() {
            return self.acknowledge_unusual();
        }
        self.lanes[self.current.lane].acknowledge(self.current.found.sequence);
        self.ring_space_bell();
        true
    }

    #[inline(never)]
    pub(super) fn acknowledge_unusual(&mut self) -> bool {
        if let Proof::Claim(claim) = self.current.proof
            && !self.fork.is_child()
        {
            return self.acknowledge_claim(self.current.lane, self.current.found.sequence, claim);
        }
        let message = self.current.in_hand();
        self.acknowledge(&message)
    }

    /// A publisher may wait for what was just finished.
    #[inline]
    pub(super) fn ring_space_bell(&self) {
        self.space_bell.ring(self.barrier, || {
            futex::wake_all(self.space_bell.word());
        });
    }

    /// Gives a message back: it comes again, marked.
    pub(super) fn release(&mut self, message: &InHand) {
        if self.bus.is_forked() {
            return;
        }
        let lane = &mut self.lanes[message.lane];
        match (&self.membership, message.proof) {
            (Membership::Shared(_, owners), Proof::Claim(claim)) => {
                let released = lane.release_claim(&owners[message.lane], message.sequence, claim);
                let wake = || wake_readers(&self.bus, &self.core);
                // Another member may be asleep.
                let _ = released && self.message_bell.ring_if(self.barrier, wake);
            }
            (Membership::One(_) | Membership::Yielding(_), Proof::Position) => lane.rewind(),
            (_, Proof::Entry(held)) => self.release_entry(held),
            (_, Proof::Staged(held)) => {
                lane.rewind();
                self.withdraw_staged(held);
            }
            _ => {}
        }
    }

    /// Is the last message of the batch the one in `current`, whole, and shown to the program? `looked_on`: others have been looked for since it
    /// was handed out, and the copy of one may lie over its own.
    pub(super) fn has_last_in_hand(&self, looked_on: bool) -> bool {
        let (lane, sequence) = (self.current.lane, self.current.found.sequence);
        !matches!(self.current.proof, Proof::Settled)
            && self
                .batch
                .last()
                .is_some_and(|last| last.is_shown && (last.lane, last.sequence) == (lane, sequence))
            && !(looked_on && self.lanes[lane].copies_at(sequence))
    }

    /// A batch that was neither acknowledged nor dropped (`mem::forget`) is given back before anything else is handed out: what it
    /// points to may not stay where it is.
    #[inline]
    pub(super) fn give_back_forgotten(&mut self) {
        if !self.batch.is_empty() {
            self.give_back_batch();
        }
    }

    #[cold]
    pub(super) fn give_back_batch(&mut self) {
        self.invalid.set(None);
        let mut batch = std::mem::take(&mut self.batch);
        for message in batch.iter().rev() {
            self.release(message);
        }
        if let Some(keyed) = &mut self.keyed {
            batch.iter().for_each(|message| keyed.touch(message.lane, message.sequence));
            keyed.note_batch_ends();
        }
        batch.clear();
        self.batch = batch;
    }
}
