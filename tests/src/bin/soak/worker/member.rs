//! Members of groups: they work, acknowledge, give back, try again, reject, and ask for more time.

use super::{LOOK, SABOTAGE_ONE_IN, Sabotage, Worker};
use crate::page::{Kind, Record};
use crate::plan::{self, GroupPlan, Load, SHORT_WAIT, Sizes, TOPICS};
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{NotOwner, ReceiveError, Received};
use std::time::{Duration, Instant};

/// Most messages of a batch.
const BATCH: usize = 16;
/// One in so many messages is tried again later, or given back.
pub(super) const RETRY_ONE_IN: u64 = 128;
/// One in so many messages takes a while, so that who is killed is likely to have some in hand.
const WORK_ONE_IN: u64 = 32;
const WORK: Duration = Duration::from_micros(500);
/// One in so many messages is held for longer than its group waits, where that is short.
const HOLD_ONE_IN: u64 = 2_000;

impl Worker {
    pub(super) fn consume(&mut self, topic: usize, group: usize) {
        let (sizes, plan) = (TOPICS[topic].sizes, &TOPICS[topic].groups[group]);
        let bus = self.open();
        let handle = self.topic(&bus, topic);
        let mut subscriber = self.join(&handle, plan);
        while self.turn() {
            if self.sabotages(Sabotage::Stall) {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
            if plan.batches != 0 && self.random.once_in(plan.batches) {
                let batch = subscriber
                    .receive_batch(1, BATCH, LOOK)
                    .unwrap_or_else(|error| panic!("receive_batch: {error}"));
                self.handle_batch(batch, sizes);
            } else {
                let found = subscriber.receive_timeout(LOOK);
                if let Some(message) = found.unwrap_or_else(|error| panic!("receive: {error}")) {
                    self.handle(message, sizes, plan);
                }
            }
        }
    }

    pub(super) fn work_on_it(&mut self) {
        if self.random.once_in(WORK_ONE_IN) {
            std::thread::sleep(WORK);
        }
    }

    pub(super) fn is_poison(&self, id: u64) -> bool {
        plan::mix(id ^ 0x0bad).is_multiple_of(self.orders.poison_one_in)
    }

    fn handle(&mut self, mut message: Received<'_, Load>, sizes: Sizes, plan: &GroupPlan) {
        let (lane, sequence, attempts) = (message.lane().0, message.sequence(), message.attempts());
        let Some(id) = message.value().ok().and_then(|value| value.checked(sizes)) else {
            self.log(Kind::Torn, lane, sequence, attempts, 0);
            let _ = message.ack();
            return;
        };
        if self.orders.sabotage.is_some() && self.spoil((lane, sequence, attempts, id)) {
            if self.orders.sabotage == Some(Sabotage::EarlyAck) {
                drop(message);
            } else {
                let _ = message.ack();
            }
            return;
        }
        self.log(Kind::Handed, lane, sequence, attempts, id);
        let tell = |worker: &Self, kind| worker.log(kind, lane, sequence, attempts, id);
        self.work_on_it();
        if !plan.ack_wait.is_zero() && plan.ack_wait <= SHORT_WAIT && self.random.once_in(HOLD_ONE_IN) {
            // Once in a while without a word: it may be given to another meanwhile.
            let is_silent = self.random.once_in(4);
            if !self.hold(&mut message, plan.ack_wait, is_silent, (lane, sequence, attempts, id)) {
                return;
            }
        }
        let is_poison = self.is_poison(id);
        if is_poison || self.random.once_in(RETRY_ONE_IN) {
            tell(self, Kind::Ending);
            if !is_poison && self.random.once_in(4) {
                drop(message);
                tell(self, Kind::Returned);
                return;
            }
            self.settled(message.retry("not yet"), Kind::Returned, (lane, sequence, attempts, id));
        } else if self.random.once_in(self.orders.poison_one_in) {
            tell(self, Kind::Ending);
            self.settled(message.reject("never"), Kind::Rejected, (lane, sequence, attempts, id));
        } else {
            tell(self, Kind::Acking);
            let outcome: Result<(), NotOwner> = message.ack();
            self.settled(outcome.map_err(ReceiveError::from), Kind::Acked, (lane, sequence, attempts, id));
        }
        for record in std::mem::take(&mut self.withheld) {
            self.page.append(record);
        }
    }

    /// Holds a message for longer than its group waits, asking for more time, or silently. False: it is another's.
    fn hold(
        &mut self,
        message: &mut Received<'_, Load>,
        ack_wait: Duration,
        is_silent: bool,
        (lane, sequence, attempts, id): (u8, u64, u8, u64),
    ) -> bool {
        let lasts_ms = ack_wait.as_millis() as u64 * 5 / 4;
        let until = Instant::now() + Duration::from_millis(lasts_ms + self.random.below(lasts_ms));
        while Instant::now() < until {
            if !is_silent {
                // From before it is asked, so that nobody is said to have been granted more than he was.
                let before_ns = monotonic_ns();
                match message.extend() {
                    Ok(()) => self.log_at(before_ns, Kind::Extended, lane, sequence, attempts, id),
                    Err(_) => {
                        self.log(Kind::Refused, lane, sequence, attempts, id);
                        return false;
                    }
                }
            }
            std::thread::sleep(ack_wait / 5);
        }
        true
    }

    fn settled(
        &self,
        outcome: Result<(), ReceiveError>,
        kind: Kind,
        (lane, sequence, attempts, id): (u8, u64, u8, u64),
    ) {
        match outcome {
            Ok(()) => self.log(kind, lane, sequence, attempts, id),
            Err(ReceiveError::NotOwner(_)) => self.log(Kind::Refused, lane, sequence, attempts, id),
            Err(error) => panic!("{kind:?} of message {sequence} in lane {lane}: {error}"),
        }
    }

    /// Lies about a message. False: not about this one.
    fn spoil(&mut self, (lane, sequence, attempts, id): (u8, u64, u8, u64)) -> bool {
        let make = |kind, attempts| Record { kind, lane, attempts, sequence, id, at_ns: monotonic_ns() };
        let story: &[Record] = match self.orders.sabotage {
            Some(Sabotage::Drop) => &[],
            Some(Sabotage::Duplicate) => {
                &[make(Kind::Handed, attempts), make(Kind::Acked, attempts), make(Kind::Handed, attempts + 1)]
            }
            Some(Sabotage::Reorder) if attempts == 1 => {
                if self.withheld.is_empty() && self.random.once_in(SABOTAGE_ONE_IN) {
                    self.withheld =
                        [Kind::Handed, Kind::Acking, Kind::Acked].map(|kind| make(kind, 1)).into();
                    return true;
                }
                return false;
            }
            Some(Sabotage::Unmarked) if attempts > 1 => &[make(Kind::Handed, 1), make(Kind::Acked, 1)],
            Some(Sabotage::EarlyAck) => &[make(Kind::Handed, attempts), make(Kind::Acked, attempts)],
            _ => return false,
        };
        if self.orders.sabotage != Some(Sabotage::Unmarked) && !self.random.once_in(SABOTAGE_ONE_IN) {
            return false;
        }
        story.iter().for_each(|record| self.page.append(*record));
        true
    }
}
