//! What a publisher that has found no room is told.

use super::RawPublisher;
use crate::error::{Full, FullOf, PublishError};
use crate::mailbox;
use bus_core::sync::Ordering;
use std::time::Duration;

impl RawPublisher {
    #[cold]
    pub(super) fn full(&self, lane: usize, what: FullOf, gate: u64, waited: Duration) -> PublishError {
        self.lanes[lane].refused.fetch_add(1, Ordering::Relaxed);
        let end = self.core.end(lane);
        let holder = self.holders(lane, gate).next();
        PublishError::Full(Box::new(Full {
            topic: self.core.name().to_owned(),
            lane: lane as u8,
            what,
            limit: match what {
                FullOf::Ring => u64::from(self.core.config().capacity),
                FullOf::Arena => self.core.config().arena_bound_bytes,
            },
            group: holder.as_ref().map(|&(entry, ..)| crate::group::display_name(&self.core, entry)),
            lag_count: end.wrapping_sub(gate),
            waited,
            owner: holder.and_then(|(.., word, _)| mailbox::owner_of(&self.core, word.state)),
        }))
    }
}
