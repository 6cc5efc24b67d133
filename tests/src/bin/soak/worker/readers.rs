//! Readers that may be overtaken, and count what they missed: taps, and groups that yield.

use super::{LOOK, Worker};
use crate::page::Kind;
use crate::plan::{LANES, Load, Sizes, TOPICS};
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{Lane, Subscriber};
use std::time::Duration;

/// How long a group that yields may hold publishers back.
const YIELD_AFTER: Duration = Duration::from_millis(100);
/// Once in so many messages it stands still for so long: sometimes long enough for the ring to be full and not to be let go.
const STAND_ONE_IN: u64 = 6_000;
const STAND_MS: std::ops::Range<u64> = 40..240;
/// It joins anew after so many messages at the least, and twice as many at the most.
const STAYS: u64 = 5_000;

impl Worker {
    pub(super) fn tap(&mut self, topic: usize) {
        let bus = self.open();
        let handle = self.topic(&bus, topic);
        let mut tap = self.insist("tap", || handle.tap());
        while self.turn() {
            self.read(&mut tap, TOPICS[topic].sizes);
        }
        self.log(Kind::Counted, 0, 0, 0, tap.missed_count());
    }

    pub(super) fn yielding(&mut self, topic: usize) {
        let bus = self.open();
        let handle = self.topic(&bus, topic);
        let mut goes_on = true;
        while goes_on {
            let before_ns = monotonic_ns();
            let mut reader = self.insist("yielder", || handle.subscriber().yield_after(YIELD_AFTER).join());
            let limit_ns = YIELD_AFTER.as_nanos() as u64;
            for lane in (0..LANES as u8).map(Lane) {
                let from = reader.reliable_from(lane);
                self.log_at(before_ns, Kind::Begins, lane.0, from, 0, limit_ns);
            }
            let mut left = STAYS + self.random.below(STAYS);
            goes_on = self.turn();
            while goes_on && left > 0 {
                left -= u64::from(self.read(&mut reader, TOPICS[topic].sizes));
                if self.random.once_in(STAND_ONE_IN) {
                    let more_ms = self.random.below(STAND_MS.end - STAND_MS.start);
                    std::thread::sleep(Duration::from_millis(STAND_MS.start + more_ms));
                }
                goes_on = self.turn();
            }
            self.log(Kind::Counted, 0, 0, 0, reader.missed_count());
        }
    }

    /// Takes the next message, and what was missed before it. True if there was one.
    fn read(&self, reader: &mut Subscriber<Load>, sizes: Sizes) -> bool {
        let found = reader.receive_timeout(LOOK).unwrap_or_else(|error| panic!("reader: {error}"));
        let got = found.map(|message| {
            let id = message.value().ok().and_then(|value| value.checked(sizes));
            // From before the acknowledgement, so that nobody is said to have stood still for less than he has.
            let got = (message.lane().0, message.sequence(), message.attempts(), id, monotonic_ns());
            message.ack().expect("its only reader");
            got
        });
        while let Some((lane, from, until)) = reader.take_missed() {
            self.log(Kind::Missed, lane.0, from, 0, until);
        }
        match got {
            Some((lane, sequence, attempts, Some(id), at_ns)) => {
                self.log_at(at_ns, Kind::Handed, lane, sequence, attempts, id);
            }
            Some((lane, sequence, attempts, None, _)) => self.log(Kind::Torn, lane, sequence, attempts, 0),
            None => {}
        }
        got.is_some()
    }
}
