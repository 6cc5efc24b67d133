//! What a member of a shared group does that nobody else does: it claims messages, looks round for what others gave back or were
//! silent about, and walks over what is finished.

use super::settle::InHand;
use super::{LOOK_PERIOD_CLAIMS, Membership, Proof, RawSubscriber};
use crate::reader::LaneReader;
use bus_core::limits::{ATTEMPTS_MAX, LANES_MAX};
use bus_core::owner::{Claim, OwnerWord};

impl RawSubscriber {
    /// Shared: has the claim of the message at this lane's position been taken back?
    #[cold]
    pub(super) fn has_lost(&self, lane: usize, claim: Option<OwnerWord>) -> bool {
        let (Membership::Shared(_, owners), Some(claim)) = (&self.membership, claim) else { return false };
        !owners[lane].is_mine(self.lanes[lane].next(), claim)
    }

    /// The same of the message in `current`, after it was copied.
    #[inline]
    pub(super) fn has_lost_current(&self, lane: usize, claim: Option<OwnerWord>) -> bool {
        let (Membership::Shared(_, owners), Some(claim)) = (&self.membership, claim) else { return false };
        !owners[lane].is_mine(self.current.found.sequence, claim)
    }

    /// A message that could not be read is not kept from the other members.
    #[cold]
    pub(super) fn give_back(&mut self, lane: usize, claim: Option<OwnerWord>) {
        let lane = &mut self.lanes[lane];
        if let (Membership::Shared(_, owners), Some(claim)) = (&self.membership, claim) {
            let sequence = lane.next();
            lane.release_claim(&owners[lane.index()], sequence, claim);
        }
    }

    /// Shared: while there is always another message, a member looks now and then for what others were silent about for too
    /// long, and for what was given back. True if its positions have moved.
    #[inline]
    pub(super) fn look_round(&mut self) -> bool {
        self.until_look = self.until_look.wrapping_sub(1);
        if self.until_look != 0 {
            return false;
        }
        self.until_look = LOOK_PERIOD_CLAIMS;
        if self.may_lose_claims {
            // Before they look silent, to this member too. What goes wrong shows when it is tried again.
            let _ = self.stage_kept();
            self.observe_claims();
        }
        self.lanes.iter().any(LaneReader::has_releases) && self.look_back()
    }

    /// Shared group: claims the next message of a lane that no other member has. True beside it: not to hand it out, it has been
    /// as often as is allowed.
    pub(super) fn claim(&mut self, lane: usize) -> Option<(OwnerWord, bool)> {
        let Membership::Shared(_, owners) = &self.membership else { return None };
        let reader = &self.lanes[lane];
        let (low_water, sequence) = (reader.low_water()?, reader.next());
        let attempts_max = self.late.as_ref().map_or(ATTEMPTS_MAX, |late| late.attempts_max());
        let claimed = match owners[lane].claim(sequence, self.participant, attempts_max, low_water) {
            Claim::Mine(word) => Some((word, false)),
            Claim::Taken => None,
            Claim::Exhausted(seen) => {
                owners[lane].claim_exhausted(sequence, seen, self.participant).map(|word| (word, true))
            }
        };
        if claimed.is_none() {
            self.lanes[lane].pass_over();
        }
        claimed
    }

    /// Shared group with nothing new: was something given back? True if there is something to look at again.
    pub(super) fn look_back(&mut self) -> bool {
        let Membership::Shared(_, owners) = &self.membership else { return false };
        if self.keyed.is_some() {
            // It knows by itself what comes again.
            return false;
        }
        let mut found = false;
        for (lane, owners) in self.lanes.iter_mut().zip(owners) {
            found |= lane.look_back(owners);
        }
        found
    }

    /// Shared: takes the next message of a known run in the lowest lane where nobody has had it and nothing has to be decided about it, in
    /// few steps.
    #[inline(never)]
    pub(super) fn take_unclaimed(&mut self) -> bool {
        let is_due = self.until_look == 1;
        if !self.may_take() || is_due && self.look_round() {
            return false;
        }
        let Self { membership, lanes, screen, current, participant, until_look, may_lose_claims, .. } = self;
        let (Membership::Shared(_, owners), Some((lowest, above))) = (membership, lanes.split_last_mut())
        else {
            return false;
        };
        if !LaneReader::are_quiet(above) {
            return false;
        }
        let lane = above.len();
        let owners = &owners[lane];
        let is_usual = |description| screen.is_usual(description);
        let Some(claim) = lowest.claim_direct(owners, *participant, is_usual, &mut current.found) else {
            return false;
        };
        if !is_due {
            *until_look -= 1;
        }
        current.lane = lane;
        current.proof = Proof::Claim(claim.packed());
        if *may_lose_claims {
            lowest.copy_claimed(&mut current.found);
            return owners.is_mine(current.found.sequence, claim);
        }
        true
    }

    /// Shared: this message is done.
    pub(super) fn acknowledge_claim(&mut self, lane: usize, sequence: u64, claim: OwnerWord) -> bool {
        let Self { membership: Membership::Shared(_, owners), lanes, late, core, .. } = self else {
            return false;
        };
        let owners = &owners[lane];
        let kept = lanes[lane].acknowledge_claim(owners, sequence, claim, |sequence, parked| {
            late.as_ref().is_some_and(|late| late.finish(core, owners, lane, sequence, parked))
        });
        self.ring_space_bell();
        kept
    }

    /// Shared: the messages of a batch are done, each by itself, and then the group's cursor moves once a lane. How many were still this member's.
    pub(super) fn acknowledge_batch(&mut self, batch: &[InHand]) -> usize {
        let mut last: [Option<u64>; LANES_MAX] = [None; LANES_MAX];
        let mut kept_count = 0;
        for message in batch {
            let is_kept = match (&self.membership, message.proof) {
                (Membership::Shared(_, owners), Proof::Claim(claim)) => {
                    let is_kept = owners[message.lane].finish(message.sequence, claim.unpack());
                    if is_kept {
                        last[message.lane] = Some(message.sequence);
                    }
                    is_kept
                }
                _ => self.acknowledge(message),
            };
            kept_count += usize::from(is_kept);
        }
        let Self { membership: Membership::Shared(_, owners), lanes, late, core, .. } = self else {
            return kept_count;
        };
        for (lane, sequence) in last.iter().enumerate().filter_map(|(lane, last)| Some((lane, (*last)?))) {
            let owners = &owners[lane];
            lanes[lane].walk_behind(owners, sequence, |sequence, parked| {
                late.as_ref().is_some_and(|late| late.finish(core, owners, lane, sequence, parked))
            });
        }
        self.ring_space_bell();
        kept_count
    }

    /// Shared group with nothing to do: the member that finished the first gap may have died before its own walk.
    pub(super) fn walk(&mut self) {
        let Self { membership: Membership::Shared(_, owners), lanes, late, core, .. } = self else { return };
        for (lane, (reader, owners)) in lanes.iter().zip(owners).enumerate() {
            reader.walk(owners, |sequence, parked| {
                late.as_ref().is_some_and(|late| late.finish(core, owners, lane, sequence, parked))
            });
        }
    }
}
