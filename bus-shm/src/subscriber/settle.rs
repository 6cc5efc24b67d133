//! What a subscriber does with messages that it has handed out: acknowledged, given back, forgotten.

use super::{Delivery, Failure, Membership, Proof, RawSubscriber};
use crate::listeners::wake_readers;
use crate::sys::futex;
use bus_core::seq::distance;

/// What is remembered of a message in a batch, or of a run of them, until the batch is settled; of the last one `current` says the rest.
///
/// Less than a whole [`Delivery`], and put together from its fields: a copy in one piece would wait until the pieces, which were
/// stored just before, have left the core.
#[derive(Clone, Copy, Debug)]
pub(super) struct InHand {
    pub(super) lane: usize,
    /// The last one of a run.
    pub(super) sequence: u64,
    /// Messages of the lane in a row, up to `sequence`: more than one only of those whose place is their proof.
    pub(super) count: u32,
    /// Hash of its key, or 0; of a run, that of its first message. For keyed groups, whose messages are no run.
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
            count: 1,
            key: self.found.header.reference,
            is_shown: true,
            proof: self.proof,
        }
    }
}

impl InHand {
    /// The part that those of `lane` up to `sequence` are, and the rest.
    pub(super) fn split(self, lane: usize, sequence: u64) -> (Option<Self>, Option<Self>) {
        let beyond = distance(sequence, self.sequence);
        if self.lane == lane && beyond >= 0 {
            return (Some(self), None);
        }
        let behind = u32::try_from(beyond.unsigned_abs()).unwrap_or(u32::MAX);
        if self.lane != lane || behind >= self.count {
            return (None, Some(self));
        }
        (Some(Self { sequence, count: self.count - behind, ..self }), Some(Self { count: behind, ..self }))
    }
}

impl RawSubscriber {
    /// The message in `current` is part of the batch in hand.
    #[inline]
    pub(super) fn add_to_batch(&mut self) {
        let (lane, sequence) = (self.current.lane, self.current.found.sequence);
        if self.is_plain
            && let Some(last) = self.batch.last_mut()
            && (last.lane, last.sequence.wrapping_add(1)) == (lane, sequence)
            && last.is_shown
            && last.count < u32::MAX
            && matches!((last.proof, self.current.proof), (Proof::Position, Proof::Position))
        {
            last.sequence = sequence;
            last.count += 1;
            return;
        }
        self.batch.push(self.current.in_hand());
    }

    /// The last message of the batch by itself, not as a part of a run.
    pub(super) fn last_of_batch(&mut self) -> Option<&mut InHand> {
        let last = self.batch.last_mut()?;
        if last.count > 1 {
            let single = InHand { count: 1, ..*last };
            last.sequence = last.sequence.wrapping_sub(1);
            last.count -= 1;
            self.batch.push(single);
        }
        self.batch.last_mut()
    }

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
            Proof::Claim(claim) => self.acknowledge_claim(message.lane, message.sequence, claim.unpack()),
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
            return self.acknowledge_claim(self.current.lane, self.current.found.sequence, claim.unpack());
        }
        let message = self.current.in_hand();
        self.acknowledge(&message)
    }

    /// A publisher may wait for what was just finished.
    #[inline]
    pub(super) fn ring_space_bell(&self) {
        self.space_bell.ring(self.ringing, || {
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
                let released = lane.release_claim(&owners[message.lane], message.sequence, claim.unpack());
                let wake = || wake_readers(&self.bus, &self.core);
                // Another member may be asleep.
                let _ = released && self.message_bell.ring_if(self.ringing, wake);
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

    /// What has to be settled before another message is handed out.
    #[inline(always)]
    pub(super) fn settle_before(&mut self) -> Result<(), Failure> {
        // Whose group is never let go, and who has nothing in hand, has nothing to settle.
        let is_never_let_go = self.is_plain || self.claims_plainly;
        if is_never_let_go && self.batch.is_empty() { Ok(()) } else { self.settle_all() }
    }

    #[inline(never)]
    fn settle_all(&mut self) -> Result<(), Failure> {
        self.give_back_forgotten();
        self.notice_eviction()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_split_behind_what_is_done() {
        let run = InHand {
            lane: 1,
            sequence: u64::MAX.wrapping_add(3),
            count: 4,
            key: 0,
            is_shown: true,
            proof: Proof::Position,
        };
        let places = |(done, rest): (Option<InHand>, Option<InHand>)| {
            let place = |part: InHand| (part.sequence, part.count);
            (done.map(place), rest.map(place))
        };
        // It holds the last sequence that there is, and 0 to 2.
        assert_eq!(places(run.split(0, 2)), (None, Some((2, 4))), "another lane");
        assert_eq!(places(run.split(1, u64::MAX - 1)), (None, Some((2, 4))));
        assert_eq!(places(run.split(1, u64::MAX)), (Some((u64::MAX, 1)), Some((2, 3))));
        assert_eq!(places(run.split(1, 1)), (Some((1, 3)), Some((2, 1))));
        assert_eq!(places(run.split(1, 2)), (Some((2, 4)), None));
        assert_eq!(places(run.split(1, 9)), (Some((2, 4)), None));
        assert_eq!(places(run.split(1, 2 + (1 << 63))), (None, Some((2, 4))), "as far ahead as behind");
    }
}
