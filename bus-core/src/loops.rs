//! Cutting off topics that cause each other's messages for ever: what one publishing process remembers of a pair of topics, and of one
//! conversation across it.
//!
//! ```text
//!   CLOSED --HITS within WINDOW--> OPEN --its time is over--> HALF_OPEN --PROBATION without a hit--> CLOSED
//!                                   ^                              |
//!                                   +-------a hit, twice as long---+
//! ```
//!
//! A hit is a publication with more causes behind it than its topic allows. The breaker of a conversation counts each of its own; that of
//! the pair counts each conversation once, and only one in which the pair is seen to feed itself. So one conversation, however often it
//! is tried again, shuts nobody else out. While a breaker is OPEN, what it is about is refused at once, so that a loop does not
//! run its 64 hops again and again. Each process cuts its own side, which is enough to cut the loop.

use crate::limits::LOOP_HITS_MAX;

/// Hits count together for so long.
pub const WINDOW_MS: u64 = 10_000;
/// It is open for so long the first time ...
pub const OPEN_MS: u64 = 5_000;
/// ... and twice as long each time after, up to this.
pub const OPEN_MAX_MS: u64 = 60_000;
/// Half-open for so long without a hit, it closes.
pub const PROBATION_MS: u64 = 10_000;
/// A conversation that has counted for its pair counts again only after so long without a hit: one that is tried again and again is one.
pub const CONVERSATION_MS: u64 = 600_000;

/// What a breaker does at a moment. All but CLOSED end by time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything is let through.
    Closed,
    /// Nothing is, for so many milliseconds more.
    Open {
        /// Until the next trial.
        left_ms: u64,
    },
    /// Everything is, and the next hit opens it again.
    HalfOpen,
}

impl Phase {
    /// Of a breaker that is open, or was, until `until_ms`.
    pub const fn at(until_ms: u64, now_ms: u64) -> Self {
        if now_ms < until_ms {
            Phase::Open { left_ms: until_ms - now_ms }
        } else if now_ms - until_ms < PROBATION_MS {
            Phase::HalfOpen
        } else {
            Phase::Closed
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { hits: u8, since_ms: u64 },
    Open { until_ms: u64 },
}

/// The breaker of a pair, or of a conversation across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopBreaker {
    state: State,
    open_ms: u64,
}

impl Default for LoopBreaker {
    fn default() -> Self {
        Self { state: State::Closed { hits: 0, since_ms: 0 }, open_ms: OPEN_MS }
    }
}

impl LoopBreaker {
    /// What it does now.
    pub const fn phase(&self, now_ms: u64) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { until_ms } => Phase::at(until_ms, now_ms),
        }
    }

    /// A publication had too many hops. Until when it is open, if it opens by this.
    pub fn hit(&mut self, now_ms: u64) -> Option<u64> {
        match (self.state, self.phase(now_ms)) {
            (State::Open { .. }, Phase::Open { .. }) => return None,
            (State::Open { .. }, Phase::HalfOpen) => self.open_ms = (self.open_ms * 2).min(OPEN_MAX_MS),
            (State::Open { .. }, Phase::Closed) => {
                *self = Self { state: State::Closed { hits: 1, since_ms: now_ms }, ..Self::default() };
                return None;
            }
            (State::Closed { hits, since_ms }, _) => {
                let counts = hits > 0 && now_ms.saturating_sub(since_ms) < WINDOW_MS;
                let (hits, since_ms) = if counts { (hits + 1, since_ms) } else { (1, now_ms) };
                if hits < LOOP_HITS_MAX {
                    self.state = State::Closed { hits, since_ms };
                    return None;
                }
            }
        }
        let until_ms = now_ms.saturating_add(self.open_ms);
        self.state = State::Open { until_ms };
        Some(until_ms)
    }

    /// Is there nothing to remember?
    pub const fn is_idle(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { hits, since_ms } => hits == 0 || now_ms.saturating_sub(since_ms) >= WINDOW_MS,
            State::Open { until_ms } => matches!(Phase::at(until_ms, now_ms), Phase::Closed),
        }
    }
}

/// What a publisher's entry says of a cut, so that others can see it. Its publisher stores it; any bits are read without harm.
///
/// ```text
/// bit   0..40                        40           41..64
///       until, CLOCK_MONOTONIC ms    whole pair   low bits of the epoch of the cause's topic
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutWord {
    /// When it is half-open; 0 where there was never a cut.
    pub until_ms: u64,
    /// Is it about everything that the one topic causes in the other, and not about one conversation?
    pub whole_pair: bool,
    cause: u32,
}

const UNTIL_BITS: u32 = 40;
const CAUSE_MASK: u64 = (1 << 23) - 1;

impl CutWord {
    /// A cut from the topic with this epoch.
    pub const fn new(until_ms: u64, whole_pair: bool, cause_epoch: u64) -> Self {
        Self { until_ms, whole_pair, cause: (cause_epoch & CAUSE_MASK) as u32 }
    }

    /// The word as it lies in memory.
    pub const fn pack(self) -> u64 {
        self.until_ms & ((1 << UNTIL_BITS) - 1)
            | (self.whole_pair as u64) << UNTIL_BITS
            | (self.cause as u64) << (UNTIL_BITS + 1)
    }

    /// Reads a word from memory.
    pub const fn unpack(word: u64) -> Self {
        Self {
            until_ms: word & ((1 << UNTIL_BITS) - 1),
            whole_pair: word >> UNTIL_BITS & 1 != 0,
            cause: (word >> (UNTIL_BITS + 1)) as u32,
        }
    }

    /// What the cut does now.
    pub const fn phase(self, now_ms: u64) -> Phase {
        if self.until_ms == 0 { Phase::Closed } else { Phase::at(self.until_ms, now_ms) }
    }

    /// Can it be a cut from the topic with this epoch?
    pub const fn is_from(self, topic_epoch: u64) -> bool {
        self.cause == (topic_epoch & CAUSE_MASK) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn hits_within_a_window_open_it_and_time_closes_it() {
        let mut pair = LoopBreaker::default();
        for hit in 1..LOOP_HITS_MAX {
            assert_eq!(pair.hit(u64::from(hit)), None);
            assert_eq!(pair.phase(u64::from(hit)), Phase::Closed);
        }
        let until = 100 + OPEN_MS;
        assert_eq!(pair.hit(100), Some(until));
        assert_eq!(pair.hit(101), None, "it is open already");
        assert_eq!(pair.phase(100), Phase::Open { left_ms: OPEN_MS });
        assert_eq!((pair.phase(until - 1), pair.phase(until)), (Phase::Open { left_ms: 1 }, Phase::HalfOpen));
        assert!(!pair.is_idle(until));
        let over = until + PROBATION_MS;
        assert_eq!((pair.phase(over - 1), pair.phase(over)), (Phase::HalfOpen, Phase::Closed));
        assert!(!pair.is_idle(over - 1) && pair.is_idle(over), "nobody has to ask for that");
        // Then it counts anew, and the first time is the shortest again.
        assert_eq!((pair.hit(over), pair.hit(over)), (None, None));
        assert_eq!(pair.hit(over), Some(over + OPEN_MS));
    }

    #[test]
    fn a_hit_while_half_open_opens_it_for_longer_up_to_a_bound() {
        let mut pair = LoopBreaker::default();
        let (mut now, mut opened) = (0, None);
        while opened.is_none() {
            opened = pair.hit(now);
        }
        let mut times = Vec::new();
        for _ in 0..6 {
            now = opened.unwrap();
            assert_eq!(pair.phase(now), Phase::HalfOpen);
            opened = pair.hit(now);
            times.push(opened.unwrap() - now);
        }
        assert_eq!(times, [10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn hits_far_apart_do_not_add_up() {
        let mut pair = LoopBreaker::default();
        for hit in 0..20_u64 {
            assert_eq!(pair.hit(hit * WINDOW_MS), None);
        }
        assert!(pair.is_idle(20 * WINDOW_MS));
    }

    #[test]
    fn a_cut_survives_memory_and_any_bits_are_one() {
        let cut = CutWord::new((1 << 40) - 1, true, 0xdead_beef_cafe_f00d);
        assert_eq!(CutWord::unpack(cut.pack()), cut);
        assert!(cut.is_from(0xdead_beef_cafe_f00d) && !cut.is_from(0xdead_beef_cafe_f00e));
        assert_eq!(CutWord::unpack(0).phase(0), Phase::Closed);
        let any = CutWord::unpack(u64::MAX);
        assert_eq!(any.phase(0), Phase::Open { left_ms: (1 << 40) - 1 });
        assert_eq!(CutWord::unpack(any.pack()), any);
    }
}
