//! Quotas: how much a producer may publish, by token buckets, with the time passed in.
//!
//! A limit is one word (see [`crate::layout::ring::quota`]), so that it changes in one step. The bucket is the producer's own;
//! nothing of it is shared.

use crate::layout::ring::{QUOTA_SERVICES, at, quota, service_quota};

/// A rate, and how far one may be ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Per second; not 0.
    pub rate: u64,
    /// So much of the rate may come at once, in milliseconds; at least one message, whatever it is.
    pub burst_ms: u32,
}

impl Limit {
    /// Of a word in memory that belongs to `mark`; `None` if it sets none, or belongs to another.
    pub fn unpack(word: u64, mark: u8) -> Option<Self> {
        let (rate, burst_ms, its) = quota::unpack(word);
        (rate > 0 && its == mark).then_some(Self { rate, burst_ms })
    }

    /// Tokens that the bucket holds, in billionths.
    fn capacity(self) -> u128 {
        (u128::from(self.rate) * u128::from(self.burst_ms) * 1_000_000).max(UNIT)
    }
}

/// A token in billionths: what comes in a nanosecond at a rate of one a second is one.
const UNIT: u128 = 1_000_000_000;

/// Limits of a producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: Option<Limit>,
    /// Payload bytes.
    pub bytes: Option<Limit>,
}

impl Limits {
    /// Are there any?
    pub const fn is_some(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }

    /// Those of a service, which has its own or else the topic's. `load` reads a word of the ring file.
    pub fn of_service(key: u64, load: impl Fn(usize) -> u64) -> Self {
        (0..QUOTA_SERVICES)
            .filter(|&index| load(service_quota(index)) == key)
            .map(|index| Self::at(service_quota(index) + 8, quota::mark(key), &load))
            .find(Self::is_some)
            .unwrap_or_else(|| Self::of_topic(&load))
    }

    /// Those of every producer whose service has none of its own.
    pub fn of_topic(load: impl Fn(usize) -> u64) -> Self {
        Self::at(at::QUOTA, 0, &load)
    }

    /// Those at an offset.
    pub fn at(offset: usize, mark: u8, load: &impl Fn(usize) -> u64) -> Self {
        Self { messages: Limit::unpack(load(offset), mark), bytes: Limit::unpack(load(offset + 8), mark) }
    }
}

/// How much of a limit has been used: a bucket that fills with what is published and drains at the limit's rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// Billionths of a token.
    level: u128,
    at_ns: u64,
}

impl Bucket {
    /// Is there room for so much? If not, after how many nanoseconds. More than the bucket ever holds needs it empty.
    pub fn admit(&mut self, limit: Limit, cost: u64, now_ns: u64) -> Result<(), u64> {
        // After a jump back of the clock it drains from there on: nothing is given for the jump, and nobody waits for it.
        let drained = u128::from(now_ns.saturating_sub(self.at_ns)) * u128::from(limit.rate);
        self.at_ns = now_ns;
        self.level = self.level.saturating_sub(drained);
        let room_from = limit.capacity().saturating_sub(u128::from(cost) * UNIT);
        if self.level <= room_from {
            return Ok(());
        }
        let wait_ns = (self.level - room_from).div_ceil(u128::from(limit.rate));
        Err(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }

    /// So much has been published.
    pub fn charge(&mut self, cost: u64) {
        self.level += u128::from(cost) * UNIT;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { rate: 1_000, burst_ms: 10 };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::default();
        for _ in 0..10 {
            assert_eq!(bucket.admit(LIMIT, 1, 5), Ok(()));
            bucket.charge(1);
        }
        assert_eq!(bucket.admit(LIMIT, 1, 5), Err(1_000_000));
        assert_eq!(bucket.admit(LIMIT, 1, 1_000_004), Err(1));
        assert_eq!(bucket.admit(LIMIT, 1, 1_000_005), Ok(()));
    }

    #[test]
    fn what_is_larger_than_the_bucket_needs_it_empty() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.admit(LIMIT, 500, 0), Ok(()));
        bucket.charge(500);
        assert_eq!(bucket.admit(LIMIT, 500, 0), Err(500_000_000));
        assert_eq!(bucket.admit(LIMIT, 500, 500_000_000), Ok(()));
        // A burst too short for one message is one message.
        let slow = Limit { rate: 1, burst_ms: 1 };
        let mut bucket = Bucket::default();
        assert_eq!(bucket.admit(slow, 1, 0), Ok(()));
        bucket.charge(1);
        assert_eq!(bucket.admit(slow, 1, 0), Err(1_000_000_000));
    }

    #[test]
    fn a_clock_that_jumps_gives_no_more_than_a_burst_and_keeps_nobody_waiting() {
        let mut bucket = Bucket::default();
        let mut take = |now_ns: u64| {
            let mut count = 0;
            while bucket.admit(LIMIT, 1, now_ns).is_ok() {
                bucket.charge(1);
                count += 1;
            }
            count
        };
        assert_eq!((take(u64::MAX / 2), take(1_000), take(1_000_000_000)), (10, 0, 10));
        assert_eq!(take(u64::MAX), 10);
    }

    #[test]
    fn a_service_has_its_own_limits_or_the_topics() {
        let mut file = [0_u64; 512];
        let mut put = |offset: usize, word: u64| file[offset / 8] = word;
        put(at::QUOTA, quota::pack(7, 1, 0));
        put(service_quota(2), 0x9900);
        put(service_quota(2) + 16, quota::pack(5, 2, quota::mark(0x9900)));
        put(service_quota(3), 0x9800);
        put(service_quota(3) + 8, quota::pack(5, 2, quota::mark(0x9900)));
        let of = |key| Limits::of_service(key, |offset| file[offset / 8]);
        let topic = Limits { messages: Some(Limit { rate: 7, burst_ms: 1 }), bytes: None };
        assert_eq!(of(1), topic);
        assert_eq!(of(0x9900), Limits { messages: None, bytes: Some(Limit { rate: 5, burst_ms: 2 }) });
        assert_eq!(of(0x9800), topic, "a word left by another service is none of its");
    }

    proptest! {
        /// Never more than rate x time + burst, and whoever waits as long as it was told gets through.
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            rate in 1_u64..2_000_000,
            burst_ms in 0_u32..200,
            asks in proptest::collection::vec((1_u64..400, 0_u64..40_000_000), 1..200),
        ) {
            let limit = Limit { rate, burst_ms };
            let burst = (u128::from(rate) * u128::from(burst_ms) / 1_000).max(1);
            let mut bucket = Bucket::default();
            let (mut now_ns, mut passed) = (1_000_u64, 0_u128);
            for (cost, pause_ns) in asks {
                let cost = u128::from(cost).min(burst) as u64;
                now_ns += pause_ns;
                if let Err(wait_ns) = bucket.admit(limit, cost, now_ns) {
                    prop_assert!(wait_ns > 0);
                    prop_assert!(bucket.admit(limit, cost, now_ns + wait_ns - 1).is_err());
                    now_ns += wait_ns;
                    prop_assert_eq!(bucket.admit(limit, cost, now_ns), Ok(()));
                }
                bucket.charge(cost);
                passed += u128::from(cost);
                let allowed = u128::from(rate) * u128::from(now_ns - 1_000) / 1_000_000_000 + burst;
                prop_assert!(passed <= allowed + 1, "{} of {}", passed, allowed);
            }
        }
    }
}
