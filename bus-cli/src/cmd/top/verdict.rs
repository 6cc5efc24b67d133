//! Does a group keep up, and when will it be through?

use crate::units;

/// What is known of a group in one lane over the last few looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Messages per second that come in.
    pub(super) rate_in: f64,
    /// Messages per second that the group finishes.
    pub(super) rate_out: f64,
    /// Messages that it has not finished.
    pub(super) lag_count: u64,
    /// Age of the oldest of them in seconds, if known.
    pub(super) lag_s: Option<f64>,
    /// Most that the lane holds.
    pub(super) capacity: u64,
    /// Is anybody reading?
    pub(super) has_reader: bool,
}

/// What is to be said of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing comes and nothing waits.
    Idle,
    /// What comes is finished at once.
    KeepsUp,
    /// As much is finished as comes; what waits stays.
    Steady,
    /// The lag becomes smaller, and is gone in so many seconds.
    Drains(f64),
    /// The lag grows; the lane is full in so many seconds.
    FallsBehind(f64),
    /// Messages wait and none is finished.
    Stalled,
    /// Messages are kept and nobody reads them; the lane is full in so many seconds, if any come.
    NoReader(f64),
    /// The lane is full: publishers wait for this group.
    Full,
}

/// Rates that differ by less than this are equal: a window cuts through bursts.
const SAME: f64 = 0.03;
/// A lag worth less time than this is what is in hand.
const IN_HAND_S: f64 = 0.1;
/// A message that has waited for less than this is no sign of a stall.
const PATIENCE_S: f64 = 1.0;

impl Verdict {
    pub(super) fn of(facts: &Facts) -> Self {
        let Facts { rate_in, rate_out, lag_count, lag_s, capacity, has_reader } = *facts;
        if lag_count == 0 {
            return if rate_in > 0.0 || rate_out > 0.0 { Verdict::KeepsUp } else { Verdict::Idle };
        }
        if lag_count >= capacity {
            return Verdict::Full;
        }
        let lag = lag_count as f64;
        if !has_reader {
            return Verdict::NoReader((capacity as f64 - lag) / rate_in);
        }
        if rate_out == 0.0 {
            let waits = lag_s.is_none_or(|seconds| seconds >= PATIENCE_S);
            return if waits { Verdict::Stalled } else { Verdict::KeepsUp };
        }
        if lag <= rate_out * IN_HAND_S {
            return Verdict::KeepsUp;
        }
        if rate_out > rate_in * (1.0 + SAME) {
            return Verdict::Drains(lag / (rate_out - rate_in));
        }
        if rate_out < rate_in * (1.0 - SAME) {
            return Verdict::FallsBehind((capacity as f64 - lag) / (rate_in - rate_out));
        }
        Verdict::Steady
    }

    /// Can it go on like this?
    pub(super) fn is_sustainable(self) -> bool {
        matches!(self, Verdict::Idle | Verdict::KeepsUp | Verdict::Steady | Verdict::Drains(_))
    }

    /// Seconds until nothing waits any more, where that will be.
    pub(super) fn drain_s(self) -> Option<f64> {
        match self {
            Verdict::Idle | Verdict::KeepsUp => Some(0.0),
            Verdict::Drains(seconds) => Some(seconds),
            _ => None,
        }
    }

    /// One word for programs.
    pub(super) fn key(self) -> &'static str {
        match self {
            Verdict::Idle => "idle",
            Verdict::KeepsUp => "keeps-up",
            Verdict::Steady => "steady",
            Verdict::Drains(_) => "drains",
            Verdict::FallsBehind(_) => "falls-behind",
            Verdict::Stalled => "stalled",
            Verdict::NoReader(_) => "no-reader",
            Verdict::Full => "full",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Idle => f.write_str("idle"),
            Verdict::KeepsUp => f.write_str("keeps up"),
            Verdict::Steady => f.write_str("steady lag"),
            Verdict::Drains(in_s) => write!(f, "drained in {}", units::seconds(*in_s)),
            Verdict::FallsBehind(in_s) => write!(f, "falls behind, full in {}", units::seconds(*in_s)),
            Verdict::Stalled => f.write_str("stalled"),
            Verdict::NoReader(in_s) if in_s.is_finite() => {
                write!(f, "nobody reads, full in {}", units::seconds(*in_s))
            }
            Verdict::NoReader(_) => f.write_str("nobody reads"),
            Verdict::Full => f.write_str("full, publishers wait"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Facts = Facts {
        rate_in: 100.0,
        rate_out: 100.0,
        lag_count: 0,
        lag_s: Some(0.5),
        capacity: 1_024,
        has_reader: true,
    };

    fn of(change: impl FnOnce(&mut Facts)) -> Verdict {
        let mut facts = CALM;
        change(&mut facts);
        Verdict::of(&facts)
    }

    #[test]
    fn what_keeps_up_is_left_alone() {
        assert_eq!(of(|_| ()), Verdict::KeepsUp);
        assert_eq!(of(|facts| (facts.rate_in, facts.rate_out) = (0.0, 0.0)), Verdict::Idle);
        assert_eq!(of(|facts| facts.lag_count = 10), Verdict::KeepsUp, "a tenth of a second in hand");
        let first = of(|facts| (facts.rate_out, facts.lag_count, facts.lag_s) = (0.0, 1, Some(0.01)));
        assert_eq!(first, Verdict::KeepsUp, "it has only just come");
        assert_eq!(of(|facts| facts.lag_count = 500), Verdict::Steady);
    }

    #[test]
    fn a_lag_that_shrinks_says_when_it_is_gone() {
        let verdict = of(|facts| (facts.rate_out, facts.lag_count) = (150.0, 500));
        assert_eq!(verdict, Verdict::Drains(10.0));
        assert_eq!((verdict.drain_s(), verdict.is_sustainable()), (Some(10.0), true));
        assert_eq!(verdict.to_string(), "drained in 10 s");
    }

    #[test]
    fn a_lag_that_grows_says_when_the_lane_is_full() {
        let verdict = of(|facts| (facts.rate_out, facts.lag_count) = (50.0, 524));
        assert_eq!(verdict, Verdict::FallsBehind(10.0));
        assert_eq!((verdict.drain_s(), verdict.is_sustainable()), (None, false));
        assert_eq!(of(|facts| (facts.rate_out, facts.lag_count) = (0.0, 5)), Verdict::KeepsUp);
        let stalled = of(|facts| (facts.rate_out, facts.lag_count, facts.lag_s) = (0.0, 5, Some(3.0)));
        assert_eq!(stalled, Verdict::Stalled);
        let unread = of(|facts| (facts.has_reader, facts.lag_count) = (false, 24));
        assert_eq!(unread.to_string(), "nobody reads, full in 10 s");
        let quiet = of(|facts| (facts.has_reader, facts.lag_count, facts.rate_in) = (false, 24, 0.0));
        assert_eq!(quiet.to_string(), "nobody reads");
        assert_eq!(of(|facts| facts.lag_count = 1_024), Verdict::Full);
    }
}
