//! Quotas: how much each publisher of a topic may publish.

use crate::error::TopicError;
use bus_core::layout::ring::quota::{BURST_MS_MAX, RATE_MAX, pack};
use bus_core::quota::{Limit, Limits};
use std::time::Duration;

/// Burst of a quota that does not set one.
pub const BURST_DEFAULT: Duration = Duration::from_millis(50);

/// What one publisher of a topic may publish: so many messages a second, so many payload bytes a second, or both.
///
/// A publication beyond it fails at once with [`crate::PublishError::Throttled`], which says when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub(crate) messages_per_s: Option<u64>,
    pub(crate) bytes_per_s: Option<u64>,
    pub(crate) burst: Duration,
}

impl Default for Quota {
    fn default() -> Self {
        Self { messages_per_s: None, bytes_per_s: None, burst: BURST_DEFAULT }
    }
}

impl Quota {
    /// At most so many messages a second.
    pub fn messages(per_second: u64) -> Self {
        Self { messages_per_s: Some(per_second), ..Self::default() }
    }

    /// At most so many payload bytes a second.
    pub fn bytes(per_second: u64) -> Self {
        Self { bytes_per_s: Some(per_second), ..Self::default() }
    }

    /// And at most so many messages a second.
    #[must_use]
    pub fn and_messages(self, per_second: u64) -> Self {
        Self { messages_per_s: Some(per_second), ..self }
    }

    /// And at most so many payload bytes a second.
    #[must_use]
    pub fn and_bytes(self, per_second: u64) -> Self {
        Self { bytes_per_s: Some(per_second), ..self }
    }

    /// What comes in this time at the quota's rate may come at once, and at least one message. Default 50 ms.
    #[must_use]
    pub fn burst(self, burst: Duration) -> Self {
        Self { burst, ..self }
    }

    /// Messages a second, if they are limited.
    pub fn messages_per_s(&self) -> Option<u64> {
        self.messages_per_s
    }

    /// Payload bytes a second, if they are limited.
    pub fn bytes_per_s(&self) -> Option<u64> {
        self.bytes_per_s
    }

    /// How much may come at once.
    pub fn burst_time(&self) -> Duration {
        self.burst
    }

    /// What lies in memory, if it limits anything.
    pub(crate) fn of_limits(limits: Limits) -> Option<Self> {
        let rate = |limit: Option<Limit>| limit.map(|limit| limit.rate);
        let burst_ms = limits.messages.or(limits.bytes)?.burst_ms;
        Some(Self {
            messages_per_s: rate(limits.messages),
            bytes_per_s: rate(limits.bytes),
            burst: Duration::from_millis(burst_ms.into()),
        })
    }

    /// Its two words, without a service's mark.
    pub(crate) fn words(&self, topic: &str) -> Result<[u64; 2], TopicError> {
        let refuse = |option, value, allowed: String| TopicError::Option {
            topic: topic.to_owned(),
            option,
            value,
            allowed,
        };
        let burst_ms = self.burst.as_millis();
        if burst_ms > u128::from(BURST_MS_MAX) {
            let value = u64::try_from(burst_ms).unwrap_or(u64::MAX);
            return Err(refuse("quota burst in ms", value, format!("at most {BURST_MS_MAX}")));
        }
        let word = |option, rate: Option<u64>| match rate {
            None => Ok(0),
            Some(rate) if (1..=RATE_MAX).contains(&rate) => Ok(pack(rate, burst_ms as u32, 0)),
            Some(rate) => {
                Err(refuse(option, rate, format!("1 to {RATE_MAX}; without a quota there is no limit")))
            }
        };
        let words =
            [word("quota messages/s", self.messages_per_s)?, word("quota bytes/s", self.bytes_per_s)?];
        if words == [0, 0] {
            return Err(refuse("quota", 0, "messages, bytes, or both a second".into()));
        }
        Ok(words)
    }
}
