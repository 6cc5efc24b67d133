//! Which groups stand still, found out by looking at their cursors from time to time.
//!
//! Nothing is stored for it by anybody on the data path: whoever looks remembers where each group stood. A group stands still
//! from the first look that found it with messages to read and with cursors that have not moved since, in any lane; one that
//! waits for messages does not. It is stalled once it has stood still for longer than it may, or is further behind than it may.

use crate::layout::groups::stall;
use crate::limits::LANES_MAX;
use crate::seq::distance;

/// What a group may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Stand still for so long, in ms; `None`: for ever.
    pub after_ms: Option<u64>,
    /// Be so many messages behind in a lane; `None`: any number.
    pub lag: Option<u64>,
}

impl Limits {
    /// What the words of a group entry say.
    pub const fn of(after: u64, lag: u64) -> Self {
        Self { after_ms: stall::after_ms(after), lag: if lag == 0 { None } else { Some(lag) } }
    }
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has nothing to read.
    Idle,
    /// It has, and gets on with it, or has not stood still for long.
    Lags,
    /// It does what it may not.
    Stalled {
        /// Since when it stands still, or is too far behind, in ms.
        since_ms: u64,
        /// How far behind it is in the lane in which that is most.
        lag: u64,
    },
}

/// What is remembered of one group between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracker {
    /// Its state word: in other hands it is another.
    word: u64,
    low_water: [u64; LANES_MAX],
    /// Since when it has stood there; `None`: it had nothing to read.
    since_ms: Option<u64>,
}

impl Tracker {
    /// Looks at a group: its word, and cursor and end of each lane.
    pub fn look(&mut self, word: u64, lanes: &[(u64, u64)], limits: Limits, now_ms: u64) -> Found {
        let lag = lanes.iter().map(|&(low, end)| distance(end, low).max(0) as u64).max().unwrap_or(0);
        let mut low_water = [0; LANES_MAX];
        for (to, &(low, _)) in low_water.iter_mut().zip(lanes) {
            *to = low;
        }
        if lag == 0 {
            *self = Self { word, low_water, since_ms: None };
            return Found::Idle;
        }
        let stands = self.word == word && self.low_water == low_water;
        let since_ms = self.since_ms.filter(|_| stands).unwrap_or(now_ms);
        *self = Self { word, low_water, since_ms: Some(since_ms) };
        let is_long = limits.after_ms.is_some_and(|after_ms| now_ms.saturating_sub(since_ms) >= after_ms);
        let is_far = limits.lag.is_some_and(|most| lag > most);
        if is_long || is_far { Found::Stalled { since_ms, lag } } else { Found::Lags }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { after_ms: Some(100), lag: Some(50) };

    #[test]
    fn a_group_is_stalled_when_no_cursor_moves_for_its_time() {
        let mut tracker = Tracker::default();
        let mut look = |lanes: &[(u64, u64)], now_ms| tracker.look(7, lanes, LIMITS, now_ms);
        assert_eq!(look(&[(5, 5), (2, 2)], 1_000), Found::Idle);
        assert_eq!(look(&[(5, 9), (2, 2)], 5_000), Found::Lags, "it had nothing to read before");
        assert_eq!(look(&[(5, 12), (2, 2)], 5_099), Found::Lags);
        assert_eq!(look(&[(5, 12), (2, 2)], 5_100), Found::Stalled { since_ms: 5_000, lag: 7 });
        assert_eq!(look(&[(6, 12), (2, 2)], 5_150), Found::Lags, "it has moved");
        assert_eq!(look(&[(6, 12), (2, 4)], 5_200), Found::Lags);
        assert_eq!(look(&[(6, 12), (3, 4)], 5_249), Found::Lags, "in another lane");
        assert_eq!(look(&[(6, 12), (3, 4)], 5_300), Found::Lags);
        assert_eq!(look(&[(6, 12), (3, 4)], 5_349), Found::Stalled { since_ms: 5_249, lag: 6 });
    }

    #[test]
    fn too_far_behind_is_at_once_and_other_hands_begin_anew() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.look(7, &[(0, 50)], LIMITS, 1_000), Found::Lags);
        assert_eq!(tracker.look(7, &[(0, 51)], LIMITS, 1_010), Found::Stalled { since_ms: 1_000, lag: 51 });
        assert_eq!(tracker.look(8, &[(0, 9)], LIMITS, 1_200), Found::Lags, "a successor");
        let patient = Limits::of(stall::NEVER, 0);
        assert_eq!(tracker.look(8, &[(0, 9)], patient, 99_999), Found::Lags);
        assert_eq!(Limits::of(0, 3), Limits { after_ms: Some(stall::AFTER_DEFAULT_MS), lag: Some(3) });
    }

    #[test]
    fn a_cursor_beyond_the_end_and_a_clock_that_goes_back_are_no_stall() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.look(7, &[(9, 5)], LIMITS, 1_000), Found::Idle);
        assert_eq!(tracker.look(7, &[(5, 9)], LIMITS, 1_000), Found::Lags);
        assert_eq!(tracker.look(7, &[(5, 9)], LIMITS, 0), Found::Lags);
    }
}
