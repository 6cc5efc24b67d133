//! Lanes: which one is looked at first, and what keeps the lowest from starving.

use crate::limits::LANES_MAX;

/// A priority. 0 is the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u8);

impl Lane {
    /// Preempts everything: safety, cancellation.
    pub const CRITICAL: Lane = Lane(0);
    /// Before ordinary work.
    pub const HIGH: Lane = Lane(1);
    /// Ordinary work; what `publish` uses on a topic of three lanes. On other topics it is the lowest lane.
    pub const NORMAL: Lane = Lane(2);

    /// The lane's index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// How people call it, on a topic of `lanes` lanes.
    pub const fn name(self, lanes: usize) -> &'static str {
        match (lanes, self.0) {
            (1, 0) => "normal",
            (2, 0) => "high",
            (2, 1) => "normal",
            (_, 0) => "critical",
            (_, 1) => "high",
            (_, 2) => "normal",
            (_, 3) => "low",
            _ => "?",
        }
    }

    /// The lane of that name or number on a topic of `lanes` lanes.
    pub fn parse(text: &str, lanes: usize) -> Option<Lane> {
        (0..lanes as u8).map(Lane).find(|lane| lane.name(lanes) == text || text.parse() == Ok(lane.0))
    }
}

/// Chooses the lane of the next message: the most urgent that has one, but after `guard` messages in a row from
/// above, the lowest waiting lane gets one.
#[derive(Clone, Debug)]
pub struct Picker {
    lanes: usize,
    guard: u32,
    passed_over: u32,
}

impl Picker {
    /// `guard` 0 means strict priority: lower lanes may starve.
    pub fn new(lanes: usize, guard: u32) -> Self {
        Self { lanes: lanes.min(LANES_MAX), guard, passed_over: 0 }
    }

    /// The lane to take from, where it is known which have something, a bit each. Only a lane that waits is passed over.
    #[inline]
    pub fn pick_of(&mut self, waiting: u32) -> Option<usize> {
        let waiting = waiting & ((1 << self.lanes) - 1);
        let lowest = waiting.checked_ilog2()? as usize;
        let first = waiting.trailing_zeros() as usize;
        if lowest == first {
            return Some(first);
        }
        if self.guard != 0 && self.passed_over >= self.guard {
            self.passed_over = 0;
            return Some(lowest);
        }
        self.passed_over += 1;
        Some(first)
    }

    /// The lane to take from, given a look at each. `ready(lane, is_due)` is asked in order of urgency; the lower lanes only
    /// when the guard is due, and then whatever there is above.
    #[inline]
    pub fn pick(&mut self, mut ready: impl FnMut(usize, bool) -> bool) -> Option<usize> {
        if self.guard != 0 && self.passed_over >= self.guard {
            self.passed_over = 0;
            if let Some(lane) = (1..self.lanes).rev().find(|&lane| ready(lane, true)) {
                return Some(lane);
            }
        }
        for lane in 0..self.lanes {
            if ready(lane, false) {
                // The lowest lane passes nobody over.
                if lane + 1 < self.lanes {
                    self.passed_over += 1;
                }
                return Some(lane);
            }
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn urgent_lanes_come_first_and_the_lowest_does_not_starve() {
        let mut picker = Picker::new(3, 4);
        let picked: std::vec::Vec<_> = (0..10).map(|_| picker.pick(|lane, _| lane != 1).unwrap()).collect();
        assert_eq!(picked, [0, 0, 0, 0, 2, 0, 0, 0, 0, 2]);
        let mut strict = Picker::new(3, 0);
        assert!((0..1000).all(|_| strict.pick(|_, _| true) == Some(0)));
        assert_eq!(strict.pick(|_, _| false), None);
    }

    /// The end of a stream waits in the lowest lane, whose reader would hold back for more of it, while more urgent messages keep coming.
    #[test]
    fn the_rest_of_a_stream_does_not_starve() {
        use crate::ring::{Poll, ReadAhead, Slot};
        let slot = |s| if s < 200 { Slot::Filled(()) } else { Slot::Empty };
        let (mut picker, mut low) = (Picker::new(2, 16), ReadAhead::new(0, 1024, 1));
        while low.next() < 150 {
            assert_eq!(low.poll(slot, || false), Poll::Ready);
            low.advance();
        }
        let picked = (0..50 * 17).filter(|_| {
            let lane = picker.pick(|lane, is_due| match lane {
                0 => true,
                _ if is_due => low.poll_at_once(slot) == Poll::Ready,
                _ => low.poll(slot, || true) == Poll::Ready,
            });
            (lane == Some(1)).then(|| low.advance()).is_some()
        });
        assert_eq!((picked.count(), low.next()), (50, 200));
    }

    #[test]
    fn who_does_not_wait_is_not_passed_over() {
        let mut picker = Picker::new(4, 4);
        assert!((0..100).all(|_| picker.pick_of(0b0100) == Some(2)));
        let picked: std::vec::Vec<_> = (0..6).map(|_| picker.pick_of(0b0101).unwrap()).collect();
        assert_eq!(picked, [0, 0, 0, 0, 2, 0]);
        assert_eq!(picker.pick_of(0), None);
        assert_eq!(picker.pick_of(0b1_0000), None, "no lane of its own");
        let mut strict = Picker::new(4, 0);
        assert!((0..1000).all(|_| strict.pick_of(0b1001) == Some(0)));
    }

    #[test]
    fn names_and_numbers_both_parse() {
        assert_eq!(Lane::parse("critical", 3), Some(Lane::CRITICAL));
        assert_eq!(Lane::parse("2", 3), Some(Lane::NORMAL));
        assert_eq!(Lane::parse("3", 3), None);
        assert_eq!(Lane::parse("normal", 1), Some(Lane(0)));
        assert_eq!(Lane::parse("urgent", 3), None);
    }
}
