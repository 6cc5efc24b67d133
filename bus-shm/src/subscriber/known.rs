//! The next message where nothing has to be decided about it: what most messages are.

use super::look::is_ready;
use super::{Failure, Proof, RawSubscriber};
use crate::reader::LaneReader;
use bus_core::layout::wake::state::is_closed;
use bus_core::sync::Ordering;

impl RawSubscriber {
    /// Takes the next message, if one is there, into `current`. It counts as handed out.
    #[inline(always)]
    pub(super) fn poll(&mut self) -> Result<bool, Failure> {
        if self.take_known() { Ok(true) } else { self.poll_new() }
    }

    /// The same where no run is known: the first message after a gap is as plain as the next of a run, mostly.
    #[inline(always)]
    pub(super) fn poll_new(&mut self) -> Result<bool, Failure> {
        let is_taken = self.is_plain && self.take_first() || self.claims_plainly && self.take_unclaimed();
        if is_taken { Ok(true) } else { self.poll_all() }
    }

    /// Looks into the lowest lane where nothing is new above, and nothing that failed before waits for its time.
    #[inline(never)]
    fn take_first(&mut self) -> bool {
        if !self.may_take() {
            return false;
        }
        self.look_for_registration();
        let lowest = self.lanes.len() - 1;
        !self.late.as_ref().is_some_and(|late| late.has_work())
            && LaneReader::are_quiet(&self.lanes[..lowest])
            && is_ready(&mut self.lanes, lowest)
            && self.take_lowest()
    }

    /// Is this process registered for membarrier by now? Asked between two runs.
    #[inline]
    pub(super) fn look_for_registration(&mut self) {
        if self.ringing != self.bus.barrier() {
            self.ringing = self.bus.ringing_soon();
        }
    }

    /// The same where a run is known in the lowest lane, nothing is new above, and nothing has to be decided about its next message, in few
    /// steps. The lowest lane passes nobody over, so the guard has no say in it, and what failed before is looked for between two runs.
    #[inline(always)]
    pub(super) fn take_known(&mut self) -> bool {
        let Some((_, above)) = self.lanes.split_last() else { return false };
        self.is_plain && self.may_take() && LaneReader::are_quiet(above) && self.take_lowest()
    }

    /// Neither a forked child nor on a bus that has ended?
    #[inline(always)]
    pub(super) fn may_take(&self) -> bool {
        !self.fork.is_child() && !is_closed(self.state.load(Ordering::Relaxed))
    }

    /// Takes what is known to be in the lowest lane.
    #[inline(always)]
    fn take_lowest(&mut self) -> bool {
        let Self { screen, lanes, current, .. } = self;
        let Some((lowest, above)) = lanes.split_last_mut() else { return false };
        let is_taken = lowest.take_direct(|description| screen.is_usual(description), &mut current.found);
        if is_taken {
            current.lane = above.len();
            current.proof = Proof::Position;
        }
        is_taken
    }

    /// The same where no batch is in hand that was forgotten.
    #[inline(always)]
    pub(super) fn take_next_known(&mut self) -> bool {
        self.batch.is_empty() && self.take_known()
    }
}
