//! Circuit breakers: a publisher that keeps failing is refused at once for a while, so that it spends neither its own time
//! nor that of others. A breaker is one word, changed by compare-and-swap, with the time passed in.
//!
//! ```text
//! CLOSED --full until the deadline, errors, over quota--> OPEN(reason, lanes, until) --its time is over--> HALF_OPEN(until)
//!   ^                                                       ^                                                |   |
//!   |                                                       +---------------- a trial fails -----------------+   |
//!   +------------- every lane has passed three trials; or nobody tries, and nothing stands against it ----------+
//! ```
//!
//! The word holds the lanes that it is about: a publisher whose normal lane is full still sends what is critical. Two write
//! a producer's word: that producer, and the supervisor, which turns it on time for those who look, and closes it where
//! its producer has stopped publishing. The topic's word is the supervisor's.
//!
//! All orderings are relaxed: nothing is published by these words but themselves.

use crate::layout::wake::breaker::{CLOSED, HALF_OPEN, OPEN, pack, unpack};
use crate::limits::LANES_MAX;
use crate::sync::{AtomicU64, Ordering};

/// How long a breaker refuses.
pub const OPEN_MS: u64 = 1_000;
/// How long it waits for trials before the supervisor may close it without any.
pub const HALF_OPEN_MS: u64 = 500;
/// Publications that each lane must pass before it is closed again.
pub const TRIALS: u8 = 3;
/// Failures are counted over this time.
pub const WINDOW_MS: u64 = 1_000;
/// Fewer failures than this trip nothing.
pub const FAILURES_MIN: u32 = 20;
/// A breaker that opens for errors is about the lanes that had one in so many of them.
const LANE_SHARE: u32 = 4;

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A publication met a full lane until its deadline.
    Full,
    /// At least half of the publications failed.
    Errors,
    /// The publisher came back sooner than it was told, again and again, while it was over its quota.
    Quota,
}

impl Reason {
    const fn code(self) -> u8 {
        match self {
            Reason::Full => 1,
            Reason::Errors => 2,
            Reason::Quota => 3,
        }
    }

    /// As listings name it.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Errors => "errors",
            Reason::Quota => "quota",
        }
    }
}

/// A breaker's word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerWord {
    /// CLOSED, OPEN or HALF_OPEN.
    pub state: u8,
    /// Why it is not closed.
    pub reason: Reason,
    /// A bit for each lane that it is about.
    pub lanes: u8,
    /// When this state is over, CLOCK_MONOTONIC ms.
    pub until_ms: u64,
}

impl BreakerWord {
    /// Of a word in memory; a state that does not exist counts as closed.
    pub const fn unpack(word: u64) -> Self {
        let (state, reason, lanes, until_ms) = unpack(word);
        let reason = match reason {
            2 => Reason::Errors,
            3 => Reason::Quota,
            _ => Reason::Full,
        };
        Self { state: if state > HALF_OPEN { CLOSED } else { state }, reason, lanes, until_ms }
    }

    const fn pack(self) -> u64 {
        pack(self.state, self.reason.code(), self.lanes, self.until_ms)
    }

    /// Is it about this lane, and not closed?
    pub const fn holds(self, lane: usize) -> bool {
        self.state != CLOSED && self.lanes & 1 << lane != 0
    }

    /// How long the state goes on. No longer than any state does: the clock may have jumped back.
    pub const fn left_ms(self, now_ms: u64) -> u64 {
        let most_ms = if self.state == OPEN { OPEN_MS } else { HALF_OPEN_MS };
        let left_ms = self.until_ms.saturating_sub(now_ms);
        if self.state == CLOSED || left_ms > most_ms { 0 } else { left_ms }
    }

    /// As listings name the state at this moment: what is open and whose time is over lets a trial through.
    pub const fn name(self, now_ms: u64) -> &'static str {
        match self.state {
            CLOSED => "closed",
            OPEN if self.left_ms(now_ms) > 0 => "open",
            _ => "half-open",
        }
    }
}

/// What a publisher may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Publish.
    Free,
    /// Publish, and say what came of it.
    Trial,
    /// Come again when this time is over.
    Refused {
        /// Why.
        reason: Reason,
        /// After how long.
        retry_ms: u64,
    },
}

/// A breaker in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Breaker<'a>(&'a AtomicU64);

impl<'a> Breaker<'a> {
    /// The breaker of this word.
    pub const fn attach(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// The word as it is.
    pub fn look(&self) -> BreakerWord {
        BreakerWord::unpack(self.0.load(Ordering::Relaxed))
    }

    /// One step, again on the value seen until nobody came in between. `None` from `next`: nothing is to be done. Returns what
    /// the word said before.
    fn change(&self, next: impl Fn(BreakerWord) -> Option<BreakerWord>) -> Option<BreakerWord> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let before = BreakerWord::unpack(seen);
            let after = match next(before)? {
                BreakerWord { state: CLOSED, .. } => 0,
                word => word.pack(),
            };
            match self.0.compare_exchange(seen, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(before),
                Err(now) => seen = now,
            }
        }
    }

    /// May its producer publish in this lane? Opens half where the time is over.
    pub fn ask(&self, lane: usize, now_ms: u64) -> Answer {
        let word = self.look();
        if !word.holds(lane) {
            return Answer::Free;
        }
        let retry_ms = word.left_ms(now_ms);
        if word.state == OPEN && retry_ms > 0 {
            return Answer::Refused { reason: word.reason, retry_ms };
        }
        self.open_half(now_ms);
        Answer::Trial
    }

    /// Opens it for these lanes, and keeps it open for those that it is about already.
    pub fn trip(&self, reason: Reason, lanes: u8, now_ms: u64) {
        self.change(|word| {
            let held = if word.state == CLOSED { 0 } else { word.lanes };
            Some(BreakerWord { state: OPEN, reason, lanes: held | lanes, until_ms: now_ms + OPEN_MS })
        });
    }

    /// OPEN becomes HALF_OPEN if its time is over. True if it did.
    pub fn open_half(&self, now_ms: u64) -> bool {
        let changed = self.change(|word| {
            let is_over = word.state == OPEN && word.left_ms(now_ms) == 0;
            is_over.then_some(BreakerWord { state: HALF_OPEN, until_ms: now_ms + HALF_OPEN_MS, ..word })
        });
        changed.is_some()
    }

    /// A lane has passed its trials: the breaker is no longer about it, and closes with its last lane.
    pub fn pass(&self, lane: usize) {
        self.change(|word| {
            let lanes = word.lanes & !(1 << lane);
            let state = if lanes == 0 { CLOSED } else { HALF_OPEN };
            (word.state == HALF_OPEN).then_some(BreakerWord { state, lanes, ..word })
        });
    }

    /// Nobody has tried while it was half open: closes it if `is_free` of its lanes. True if it did.
    pub fn settle(&self, now_ms: u64, is_free: impl Fn(BreakerWord) -> bool) -> bool {
        let changed = self.change(|word| {
            let is_over = word.state == HALF_OPEN && word.left_ms(now_ms) == 0;
            (is_over && is_free(word)).then_some(BreakerWord { state: CLOSED, ..word })
        });
        changed.is_some()
    }

    /// Closes it, whatever it was. True if it was not closed.
    pub fn reset(&self) -> bool {
        self.change(|word| (word.state != CLOSED).then_some(BreakerWord { state: CLOSED, ..word })).is_some()
    }

    /// Keeps the topic's breaker open for exactly these lanes, or closes it where there are none. True if that is new.
    pub fn keep_open(&self, lanes: u8, now_ms: u64) -> bool {
        let state = if lanes == 0 { CLOSED } else { OPEN };
        let word = BreakerWord { state, reason: Reason::Full, lanes, until_ms: now_ms + OPEN_MS };
        let before = self.change(|seen| (seen.state != CLOSED || lanes != 0).then_some(word));
        before.is_some_and(|before| before.state != state || lanes != 0 && before.lanes != lanes)
    }
}

/// How many publications of a producer failed of late. It begins with a failure, so that one whose publications succeed
/// counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    since_ms: u64,
    attempts: u32,
    failures: u32,
    throttled: u32,
    /// Failures of each lane.
    of_lane: [u32; LANES_MAX],
}

impl Window {
    /// One that begins now.
    pub const fn new(now_ms: u64) -> Self {
        Self { since_ms: now_ms, attempts: 0, failures: 0, throttled: 0, of_lane: [0; LANES_MAX] }
    }

    /// Is it over? So it is as well when the clock has jumped back.
    pub const fn is_over(&self, now_ms: u64) -> bool {
        now_ms < self.since_ms || now_ms - self.since_ms >= WINDOW_MS
    }

    /// A publication succeeded.
    pub fn succeeded(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// A publication failed. Returns for which reason and lanes that trips the breaker, if it does.
    pub fn failed(&mut self, lane: usize, throttled: bool) -> Option<(Reason, u8)> {
        self.attempts = self.attempts.saturating_add(1);
        self.failures = self.failures.saturating_add(1);
        self.throttled += u32::from(throttled);
        if let Some(count) = self.of_lane.get_mut(lane) {
            *count += 1;
        }
        let trips = self.failures >= FAILURES_MIN && self.failures >= self.attempts.div_ceil(2);
        let reason = if 2 * self.throttled >= self.failures { Reason::Quota } else { Reason::Errors };
        // A lane in which hardly anything went wrong is not shut for the others.
        let lanes = (0..LANES_MAX).filter(|&lane| LANE_SHARE * self.of_lane[lane] >= self.failures);
        let lanes = lanes.fold(0, |lanes, lane| lanes | 1 << lane);
        trips.then_some((reason, lanes))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
