//! Which lane the next message comes from.

use super::RawSubscriber;
use crate::reader::{LaneReader, Look};
use bus_core::ring::Poll;

impl RawSubscriber {
    /// The lane of the next message in the common case, in few steps: a run in the lowest lane, and nothing new above. The
    /// lowest passes nobody over, so the guard has no say in it.
    #[inline]
    pub(super) fn pick_known(&self) -> Option<usize> {
        let (lowest, above) = self.lanes.split_last()?;
        (lowest.has_known() && LaneReader::are_quiet(above)).then_some(above.len())
    }

    /// The lane of the next message.
    #[inline]
    pub(super) fn pick(&mut self) -> Option<usize> {
        let Self { picker, lanes, .. } = self;
        let mut is_interrupted = false;
        let picked = picker.pick(|lane, is_due| match look(lanes, lane, is_due) {
            Poll::Ready | Poll::Lapped => true,
            Poll::Empty => false,
            Poll::Interrupted => {
                is_interrupted = true;
                false
            }
        });
        // What interrupted it came to a lane that had been looked at.
        picked.or_else(|| is_interrupted.then(|| picker.pick(|lane, _| is_ready(lanes, lane))).flatten())
    }
}

/// Does this lane have a message?
#[inline]
pub(super) fn is_ready(lanes: &mut [LaneReader], lane: usize) -> bool {
    matches!(look(lanes, lane, false), Poll::Ready | Poll::Lapped)
}

/// What is in this lane? While a stream is awaited, more urgent lanes are watched, unless it `is_due` whatever they have.
#[inline]
fn look(lanes: &mut [LaneReader], lane: usize, is_due: bool) -> Poll {
    let (above, rest) = lanes.split_at_mut(lane);
    match rest.first_mut() {
        Some(this) if is_due => this.poll(Look::<fn() -> bool>::AtOnce),
        Some(this) => this.poll(Look::InTurn(|| above.iter().any(LaneReader::is_filled))),
        None => Poll::Empty,
    }
}
