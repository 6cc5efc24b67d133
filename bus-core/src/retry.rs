//! When a message that failed is tried again.
//!
//! Exponential back-off with jitter: the n-th delay is `first * 2^(n-1)`, at most `max`, and of that something between a half
//! and the whole, so that messages that failed together do not come together again.

use crate::limits::{RETRY_FIRST_DEFAULT_MS, RETRY_MAX_DEFAULT_MS};

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first attempt, before jitter.
    pub first_ns: u64,
    /// No delay is longer. Less than `first_ns` makes every delay this one.
    pub max_ns: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        let ns = |ms: u32| u64::from(ms) * 1_000_000;
        Self { first_ns: ns(RETRY_FIRST_DEFAULT_MS), max_ns: ns(RETRY_MAX_DEFAULT_MS) }
    }
}

impl Backoff {
    /// The delay after `attempts` attempts, before jitter.
    pub const fn ceiling_ns(&self, attempts: u8) -> u64 {
        let doublings = attempts.saturating_sub(1) as u32;
        let grown = if self.first_ns == 0 || doublings <= self.first_ns.leading_zeros() {
            self.first_ns << (doublings & 63)
        } else {
            u64::MAX
        };
        if grown < self.max_ns { grown } else { self.max_ns }
    }

    /// The delay after `attempts` attempts: evenly from half of [`Backoff::ceiling_ns`] to the whole.
    pub fn delay_ns(&self, attempts: u8, random: &mut SplitMix64) -> u64 {
        let ceiling = self.ceiling_ns(attempts);
        let half = ceiling / 2;
        // The high half of a product: even enough, and without a division.
        let spread = u128::from(random.next()) * (u128::from(ceiling - half) + 1);
        half + (spread >> 64) as u64
    }
}

/// Steele, Lea and Flood's generator: a counter and a mix. Not for secrets.
#[derive(Clone, Copy, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Any seed will do; members of one group should have different ones.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait)]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let backoff = Backoff { first_ns: 100, max_ns: 1_000 };
        let delays: std::vec::Vec<_> = (0..=7).map(|attempts| backoff.ceiling_ns(attempts)).collect();
        assert_eq!(delays, [100, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
        assert_eq!(backoff.ceiling_ns(255), 1_000);
        assert_eq!(Backoff { first_ns: 0, max_ns: 5 }.ceiling_ns(255), 0);
        assert_eq!(Backoff { first_ns: 3, max_ns: u64::MAX }.ceiling_ns(255), u64::MAX);
        assert_eq!(Backoff { first_ns: 1 << 62, max_ns: u64::MAX }.ceiling_ns(2), 1 << 63);
        assert_eq!(Backoff { first_ns: 1 << 62, max_ns: u64::MAX }.ceiling_ns(3), u64::MAX);
        assert_eq!(Backoff { first_ns: 9, max_ns: 5 }.ceiling_ns(1), 5);
    }

    #[test]
    fn jitter_takes_from_half_to_all_of_it_and_evenly() {
        let backoff = Backoff { first_ns: 1_000, max_ns: 1_000 };
        let mut random = SplitMix64::new(7);
        let mut quarters = [0; 2];
        for _ in 0..10_000 {
            let delay = backoff.delay_ns(1, &mut random);
            assert!((500..=1_000).contains(&delay));
            quarters[usize::from(delay > 750)] += 1;
        }
        assert!(quarters.iter().all(|&count| (4_700..5_300).contains(&count)), "{quarters:?}");
        let mut ends = Backoff { first_ns: 3, max_ns: 3 };
        let seen: std::collections::BTreeSet<_> = (0..100).map(|_| ends.delay_ns(1, &mut random)).collect();
        assert_eq!(seen, [1, 2, 3].into());
        ends.max_ns = 0;
        assert_eq!(ends.delay_ns(9, &mut random), 0);
        assert!(Backoff { first_ns: 1, max_ns: u64::MAX }.delay_ns(255, &mut random) >= u64::MAX / 2);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(
            [random.next(), random.next(), random.next()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }
}
