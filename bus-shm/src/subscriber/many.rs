//! What a subscription over many topics does with the subscriber of each.

use super::{LaneReader, Membership, RawSubscriber, Received, Subscriber};
use crate::error::ReceiveError;
use crate::sys::clock::monotonic_ns;
use crate::topic::TopicCore;
use bus_core::layout::wake::state::is_closed;
use bus_core::limits::LANES_DEFAULT;
use bus_core::sync::Ordering;
use std::sync::Arc;
use std::time::Instant;

/// Messages in a row that filters leave out before other topics, and other tasks, get a turn.
const LEFT_OUT_MAX: u32 = 64;

impl RawSubscriber {
    /// How urgent the lane of the next message is, as topics of three lanes count: 0 is critical, 2 is normal. `None` if
    /// there is nothing to do.
    #[inline]
    fn urgency(&mut self) -> Option<usize> {
        let lanes = self.lanes.len();
        let below = LANES_DEFAULT.saturating_sub(lanes);
        let lowest = lanes - 1 + below;
        let is_filled = |lane: &LaneReader| lane.has_known() || !lane.is_quiet() && lane.is_filled();
        let filled = self.lanes.iter().position(is_filled).map(|lane| lane + below);
        if self.late.as_ref().is_some_and(|late| late.has_work()) {
            if let Some(keyed) = &self.keyed {
                let has_more = self.late.as_ref().is_some_and(|late| late.is_due())
                    || is_closed(self.state.load(Ordering::Relaxed))
                    || keyed.has_news(&self.lanes);
                let ready = keyed.first_ready().map(|lane| lane + below);
                return ready.into_iter().chain(filled).min().or(has_more.then_some(lowest));
            }
            if self.late.as_ref().is_some_and(|late| late.is_due()) {
                // What comes again is as urgent as the least, and hides nothing that is more so.
                return filled.or(Some(lowest));
            }
            if self.is_paused() {
                return None;
            }
        }
        if filled.is_some() {
            return filled;
        }
        // The bus is closed, or a claim was given back: taking a message finds out.
        let has_more =
            is_closed(self.state.load(Ordering::Relaxed)) || self.lanes.iter().any(LaneReader::has_releases);
        has_more.then_some(lowest)
    }
}

impl<T> Subscriber<T> {
    pub(crate) fn core(&self) -> &Arc<TopicCore> {
        &self.raw.core
    }

    /// How urgent the next message is: 0 is critical, 2 is normal. `None` if there is nothing to do.
    #[inline]
    pub(crate) fn urgency(&mut self) -> Option<usize> {
        self.raw.urgency()
    }

    /// Takes the next message, if one is there. It is in hand then, and must be settled before the next is taken. False, too, after
    /// many that were not for the program: other topics have their turn.
    pub(crate) fn take_in_hand(&mut self) -> Result<bool, ReceiveError> {
        self.raw.settle_before()?;
        self.raw.left_out_most = LEFT_OUT_MAX;
        let is_taken = self.raw.poll();
        self.raw.left_out_most = u32::MAX;
        Ok(is_taken?)
    }

    /// The message that was taken last.
    pub(crate) fn in_hand(&mut self) -> Received<'_, T> {
        Received { subscriber: self, settled: false }
    }

    /// Looks at the message that was taken last, which stays in hand.
    #[cfg(feature = "tokio")]
    pub(crate) fn look_in_hand<R>(&mut self, look: impl FnOnce(&Received<'_, T>) -> R) -> R {
        // Settled as far as its end goes, so that it is not given back.
        look(&Received { subscriber: self, settled: true })
    }

    /// Gives the message that was taken last back.
    pub(crate) fn release_in_hand(&mut self) {
        let message = self.raw.current.in_hand();
        self.raw.release(&message);
    }

    /// The topic is about to rest: whoever publishes there has to ring from now on. A fence must follow, and another look.
    pub(crate) fn arm(&mut self) {
        self.raw.walk();
        self.raw.message_bell.arm();
    }

    /// When something is to be done here although nobody publishes.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.raw.wait_until(None)
    }

    /// Has that moment come? Compared on the clock that it is kept on: turned into an [`Instant`] it would always lie ahead.
    pub(crate) fn is_due(&self) -> bool {
        self.raw.late.as_ref().and_then(|late| late.next_ns()).is_some_and(|at_ns| at_ns <= monotonic_ns())
    }

    /// That moment has come. What other members were silent about for too long is taken back here; a message of its own account
    /// shows as urgency.
    pub(crate) fn observe(&mut self) {
        self.raw.observe_claims();
    }

    /// Is there something that its group's members have to look for while nobody publishes?
    pub(crate) fn has_ack_wait(&self) -> bool {
        self.raw.keyed.is_some()
            || matches!(self.raw.membership, Membership::Shared(..)) && self.raw.may_lose_claims
    }

    /// What a wait in vain ends with.
    pub(crate) fn look_around(&mut self) -> Result<(), ReceiveError> {
        self.raw.look_around()?;
        self.raw.lanes.iter_mut().for_each(LaneReader::distrust);
        Ok(())
    }
}
