//! Several groups at once.

use super::{Outcome, ReceiptError, Receipts, groups};
use crate::bus::BusInner;
use crate::topic::TopicCore;
use bus_core::lane::Lane;
use bus_core::layout::groups::state;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Follows publications of one topic to several groups.
#[derive(Debug)]
pub struct ReceiptSet(Vec<Receipts>);

impl ReceiptSet {
    pub(crate) fn open(
        bus: &Arc<BusInner>,
        core: &Arc<TopicCore>,
        groups: &[&str],
    ) -> Result<Self, ReceiptError> {
        groups.iter().map(|group| Receipts::open(bus, core, group)).collect::<Result<_, _>>().map(Self)
    }

    /// All groups that hold the topic's messages at this moment.
    pub(crate) fn open_all(bus: &Arc<BusInner>, core: &Arc<TopicCore>) -> Result<Self, ReceiptError> {
        let holding = groups(core).filter(|(_, word)| matches!(word.state, state::ACTIVE | state::HELD));
        holding
            .map(|(entry, word)| Receipts::of_entry(bus, core, entry, word))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The groups, one by one.
    pub fn groups(&self) -> &[Receipts] {
        &self.0
    }

    /// What has become of a message in each group by now.
    pub fn look(&self, lane: Lane, sequence: u64) -> Vec<(&str, Outcome)> {
        self.0.iter().map(|receipts| (receipts.group(), receipts.look(lane, sequence))).collect()
    }

    /// Waits until it is settled in all groups, for at most `timeout`, and tells what has become of it in each.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn wait(
        &self,
        lane: Lane,
        sequence: u64,
        timeout: Duration,
    ) -> Result<Vec<(&str, Outcome)>, ReceiptError> {
        let begun = Instant::now();
        let wait = |receipts: &'_ Receipts| {
            let left = timeout.saturating_sub(begun.elapsed());
            receipts.wait(lane, sequence, left)
        };
        self.0.iter().map(|receipts| Ok((receipts.group(), wait(receipts)?))).collect()
    }
}
