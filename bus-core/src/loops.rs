//! Cutting off two topics that cause each other's messages for ever: what one publishing process remembers of such a pair.
//!
//! ```text
//!   CLOSED --HITS within WINDOW--> OPEN --its time is over--> HALF_OPEN --PROBATION without a hit--> CLOSED
//!                                   ^                              |
//!                                   +-------a hit, twice as long---+
//! ```
//!
//! A hit is a publication with more causes behind it than its publisher allows. While it is OPEN, whatever is caused across the pair
//! is refused at once, so that a loop does not run its 64 hops again and again. Nothing of it is shared: each process
//! cuts its own side, which is enough to cut the loop.

use crate::limits::LOOP_HITS_MAX;

/// Hits count together for so long.
pub const WINDOW_MS: u64 = 10_000;
/// It is open for so long the first time ...
pub const OPEN_MS: u64 = 5_000;
/// ... and twice as long each time after, up to this.
pub const OPEN_MAX_MS: u64 = 60_000;
/// Half-open for so long without a hit, it closes.
pub const PROBATION_MS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { hits: u8, since_ms: u64 },
    Open { until_ms: u64 },
    HalfOpen { since_ms: u64 },
}

/// The breaker of one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairBreaker {
    state: State,
    open_ms: u64,
}

impl Default for PairBreaker {
    fn default() -> Self {
        Self { state: State::Closed { hits: 0, since_ms: 0 }, open_ms: OPEN_MS }
    }
}

impl PairBreaker {
    /// May something be published across the pair? If not, for how many milliseconds not.
    pub fn ask(&mut self, now_ms: u64) -> Result<(), u64> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until_ms } if now_ms < until_ms => Err(until_ms - now_ms),
            State::Open { .. } => {
                self.state = State::HalfOpen { since_ms: now_ms };
                Ok(())
            }
            State::HalfOpen { since_ms } => {
                if now_ms.saturating_sub(since_ms) >= PROBATION_MS {
                    *self = Self::default();
                }
                Ok(())
            }
        }
    }

    /// A publication across the pair had too many hops. For how many milliseconds the pair is cut, if it is by this.
    pub fn hit(&mut self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Closed { hits, since_ms } => {
                let counts = hits > 0 && now_ms.saturating_sub(since_ms) < WINDOW_MS;
                let hits = if counts { hits + 1 } else { 1 };
                let since_ms = if counts { since_ms } else { now_ms };
                if hits < LOOP_HITS_MAX {
                    self.state = State::Closed { hits, since_ms };
                    return None;
                }
            }
            State::HalfOpen { .. } => self.open_ms = (self.open_ms * 2).min(OPEN_MAX_MS),
            State::Open { .. } => return None,
        }
        self.state = State::Open { until_ms: now_ms.saturating_add(self.open_ms) };
        Some(self.open_ms)
    }

    /// Is there nothing to remember?
    pub fn is_idle(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { hits, since_ms } => hits == 0 || now_ms.saturating_sub(since_ms) >= WINDOW_MS,
            State::Open { .. } => false,
            State::HalfOpen { since_ms } => now_ms.saturating_sub(since_ms) >= PROBATION_MS,
        }
    }

    /// Does it cut anything, or would it at the next hit?
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_within_a_window_open_it_and_time_closes_it() {
        let mut pair = PairBreaker::default();
        for hit in 1..LOOP_HITS_MAX {
            assert_eq!(pair.hit(u64::from(hit)), None);
            assert_eq!(pair.ask(u64::from(hit)), Ok(()));
        }
        assert_eq!(pair.hit(100), Some(OPEN_MS));
        assert_eq!(pair.ask(100), Err(OPEN_MS));
        assert_eq!((pair.ask(99 + OPEN_MS), pair.ask(100 + OPEN_MS)), (Err(1), Ok(())));
        let since = 100 + OPEN_MS;
        assert!(!pair.is_closed() && !pair.is_idle(since));
        assert_eq!(pair.ask(since + PROBATION_MS), Ok(()));
        assert!(pair.is_closed() && pair.is_idle(since + PROBATION_MS));
    }

    #[test]
    fn a_hit_while_half_open_opens_it_for_longer_up_to_a_bound() {
        let mut pair = PairBreaker::default();
        let (mut now, mut opened) = (0, None);
        while opened.is_none() {
            opened = pair.hit(now);
        }
        let mut times = Vec::new();
        for _ in 0..6 {
            now += opened.unwrap();
            assert_eq!(pair.ask(now), Ok(()));
            opened = pair.hit(now);
            times.push(opened.unwrap());
        }
        assert_eq!(times, [10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn hits_far_apart_do_not_add_up() {
        let mut pair = PairBreaker::default();
        for hit in 0..20_u64 {
            assert_eq!(pair.hit(hit * WINDOW_MS), None);
        }
        assert!(pair.is_idle(20 * WINDOW_MS));
    }

    use std::vec::Vec;
}
