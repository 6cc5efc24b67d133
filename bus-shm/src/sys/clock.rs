//! Time in nanoseconds of `CLOCK_MONOTONIC`, read through the time-stamp counter where it can be trusted.
//!
//! Reading the counter costs less than half of the clock call. Its values are private to a handle: what is stored
//! in shared memory is always nanoseconds, which every process reads the same way.
#![allow(unsafe_code)]

use core::time::Duration;
use rustix::thread::ClockId;
use std::sync::OnceLock;
use std::time::Instant;

/// After how much time by the counter a [`Clock`] asks the kernel again, in nanoseconds.
const REBASE_NS: u64 = 100_000_000;

/// Readings of which the tightest is taken at each end of a calibration.
const CALIBRATION_READINGS: u32 = 32;

/// Readings of which the tightest is taken when a [`Clock`] asks the kernel again.
const REBASE_READINGS: u32 = 3;

/// A reading this tight is taken without trying for a better one, in counter ticks.
const TIGHT_TICKS: u64 = 100;

/// How far a rate measured by a handle may differ from the calibration, as a fraction: 1 / this. The kernel slews
/// by 1/2,000 at most; more is a counter that stopped or jumped.
const RATE_DRIFT_DIVISOR: u64 = 1_000;

/// Now by `CLOCK_MONOTONIC`, in nanoseconds since an arbitrary point (boot), without time spent suspended.
#[inline]
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// What [`monotonic_ns`] said at this moment, give or take how long it takes to ask: for who has asked for the time already.
#[must_use]
pub fn monotonic_ns_at(moment: Instant) -> u64 {
    static ANCHOR: OnceLock<(Instant, u64)> = OnceLock::new();
    // `Instant` runs by the same clock, and does not say how it stands.
    let (then, ns) = ANCHOR.get_or_init(|| {
        // The tightest of several, since this thread may lose its core in between.
        let read = || (Instant::now(), monotonic_ns(), Instant::now());
        let readings = (0..CALIBRATION_READINGS).map(|_| read());
        let tightest = readings.min_by_key(|(before, _, after)| after.duration_since(*before));
        let (before, ns, _) = tightest.unwrap_or_else(read);
        (before, ns)
    });
    match moment.checked_duration_since(*then) {
        Some(since) => ns.saturating_add(since.as_nanos() as u64),
        None => ns.saturating_sub(then.duration_since(moment).as_nanos() as u64),
    }
}

/// Now by `CLOCK_REALTIME`, in nanoseconds since 1970. May jump when the machine's time is set.
#[inline]
#[must_use]
pub fn realtime_ns() -> u64 {
    clock_ns(ClockId::Realtime)
}

#[inline]
pub(super) fn clock_ns(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Whether the counter runs at one rate on all cores, in all power states: the processor says so, the kernel
/// itself keeps time by it, and this process may read it. Looked up once.
#[must_use]
pub fn has_reliable_tsc() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        is_tsc_invariant() && std::fs::read_to_string(SOURCE).is_ok_and(|name| name.trim() == "tsc")
    })
}

#[cfg(target_arch = "x86_64")]
fn is_tsc_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    const LEAF_MAX: u32 = 0x8000_0000;
    const LEAF_POWER: u32 = 0x8000_0007;
    const INVARIANT_TSC: u32 = 1 << 8;
    let mut mode = 0;
    // SAFETY: writes one number into a local. A process may be forbidden to read the counter (it would be killed).
    let is_readable =
        unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) } != 0 || mode == libc::PR_TSC_ENABLE;
    // SAFETY: every x86_64 processor has the instruction. (Newer compilers take the call as safe.)
    #[allow(unused_unsafe)]
    let power = unsafe {
        if __cpuid(LEAF_MAX).eax < LEAF_POWER {
            return false;
        }
        __cpuid(LEAF_POWER).edx
    };
    is_readable && power & INVARIANT_TSC != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn is_tsc_invariant() -> bool {
    false
}

/// The time-stamp counter in ticks; 0 on processors other than x86_64.
///
/// Not ordered with the loads and stores around it: it may be read a few nanoseconds early.
#[inline(always)]
#[must_use]
pub fn rdtsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 processor has the instruction.
    #[allow(unused_unsafe)]
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// The counter and the clock at (nearly) one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    ns: u64,
    /// Between reading the counter before and after the clock; the smaller, the closer the two belong together.
    width_ticks: u64,
}

impl Reading {
    /// The tightest of at most `count` readings: whoever is interrupted between the two is not believed.
    fn tightest(count: u32) -> Reading {
        let mut best = Reading { ticks: 0, ns: 0, width_ticks: u64::MAX };
        for _ in 0..count {
            let before = rdtsc();
            let ns = monotonic_ns();
            let width_ticks = rdtsc().wrapping_sub(before);
            if width_ticks < best.width_ticks || best.ns == 0 {
                best = Reading { ticks: before.wrapping_add(width_ticks / 2), ns, width_ticks };
            }
            if width_ticks <= TIGHT_TICKS {
                break;
            }
        }
        best
    }
}

/// How long a tick of the counter takes. One for the whole bus: the counter is the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calibration {
    /// Nanoseconds per tick in units of 2^-32: `ns = ticks * ns_per_tick_q32 >> 32`. Never 0.
    pub ns_per_tick_q32: u64,
}

impl Calibration {
    /// Compares the counter with the clock over `duration`, asleep meanwhile.
    ///
    /// 10 ms give about 10 parts in a million, more give proportionally better. `None` where the counter cannot
    /// be trusted.
    #[must_use]
    pub fn measure(duration: Duration) -> Option<Calibration> {
        if !has_reliable_tsc() {
            return None;
        }
        let start = Reading::tightest(CALIBRATION_READINGS);
        std::thread::sleep(duration);
        let end = Reading::tightest(CALIBRATION_READINGS);
        Calibration::between(start, end)
    }

    /// `None` when the counter did not advance between the two, or the rate cannot be expressed.
    fn between(start: Reading, end: Reading) -> Option<Calibration> {
        let ns = end.ns.checked_sub(start.ns)?;
        let ticks = end.ticks.checked_sub(start.ticks)?;
        let rate = (u128::from(ns) << 32).checked_div(u128::from(ticks))?;
        let ns_per_tick_q32 = u64::try_from(rate).ok().filter(|&rate| rate != 0)?;
        Some(Calibration { ns_per_tick_q32 })
    }
}

/// A source of time stamps for one handle: `CLOCK_MONOTONIC` in nanoseconds, mostly without the clock call.
///
/// From a pair (counter, clock) it counts on by the calibration. Whenever 100 ms have passed since that pair it
/// takes a new one, and corrects its rate by the two, so that it stays within about 1 us of the clock and follows
/// a clock that is being slewed. It never goes back: where the clock turns out to be behind, it stands still until
/// the clock has caught up.
#[derive(Debug, Clone)]
pub struct Clock {
    base_ticks: u64,
    base_ns: u64,
    /// The rate in use, near the calibration.
    ns_per_tick_q32: u64,
    /// Ticks after which to ask the kernel; 0 when the counter is not used at all.
    rebase_ticks: u64,
    /// The last answer.
    last_ns: u64,
    calibrated_q32: u64,
}

impl Clock {
    /// A clock by the counter, or by the clock call when there is no calibration or this process cannot trust
    /// the counter.
    #[must_use]
    pub fn new(calibration: Option<Calibration>) -> Clock {
        let rate = calibration.filter(|_| has_reliable_tsc()).map_or(0, |found| found.ns_per_tick_q32);
        let mut clock = Clock {
            base_ticks: 0,
            base_ns: 0,
            ns_per_tick_q32: rate,
            rebase_ticks: ticks_in(REBASE_NS, rate),
            last_ns: 0,
            calibrated_q32: rate,
        };
        if clock.rebase_ticks != 0 {
            clock.take_base(Reading::tightest(CALIBRATION_READINGS));
        }
        clock
    }

    /// Now in nanoseconds of `CLOCK_MONOTONIC`; never less than this handle has answered before.
    #[inline(always)]
    #[must_use]
    pub fn now_ns(&mut self) -> u64 {
        let ticks = rdtsc().wrapping_sub(self.base_ticks);
        // A counter behind the base wraps to a large number and lands here as well, and so does any where there is no rate.
        if ticks >= self.rebase_ticks {
            return self.rebase();
        }
        // No overflow: the product is REBASE_NS << 32 at most.
        self.answer(self.base_ns + ((ticks * self.ns_per_tick_q32) >> 32))
    }

    #[inline(always)]
    fn answer(&mut self, ns: u64) -> u64 {
        self.last_ns = self.last_ns.max(ns);
        self.last_ns
    }

    #[cold]
    #[inline(never)]
    fn rebase(&mut self) -> u64 {
        if self.rebase_ticks == 0 {
            return self.answer(monotonic_ns());
        }
        let reading = Reading::tightest(REBASE_READINGS);
        let base = Reading { ticks: self.base_ticks, ns: self.base_ns, width_ticks: 0 };
        let rate = Calibration::between(base, reading).map_or(0, |found| found.ns_per_tick_q32);
        let is_plausible = rate.abs_diff(self.calibrated_q32) <= self.calibrated_q32 / RATE_DRIFT_DIVISOR;
        self.ns_per_tick_q32 = if is_plausible { rate } else { self.calibrated_q32 };
        self.rebase_ticks = ticks_in(REBASE_NS, self.ns_per_tick_q32);
        self.take_base(reading);
        self.answer(reading.ns)
    }

    fn take_base(&mut self, reading: Reading) {
        self.base_ticks = reading.ticks;
        self.base_ns = reading.ns;
    }
}

/// Whole ticks in `ns` at a rate; 0 for rate 0 or for a tick longer than `ns`.
fn ticks_in(ns: u64, ns_per_tick_q32: u64) -> u64 {
    (ns << 32).checked_div(ns_per_tick_q32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (monotonic, realtime) = (monotonic_ns(), realtime_ns());
        std::thread::sleep(Duration::from_millis(1));
        assert!(monotonic_ns() - monotonic >= 1_000_000);
        assert!(realtime_ns() > realtime && realtime > 1_600_000_000_000_000_000);
    }

    #[test]
    fn a_moment_is_where_the_clock_was() {
        let past = Instant::now();
        // The anchor is there.
        let _ = monotonic_ns_at(past);
        for _ in 0..3 {
            let (before, moment, after) = (monotonic_ns(), Instant::now(), monotonic_ns());
            let at = monotonic_ns_at(moment);
            assert!(at + 100_000 >= before && at <= after + 100_000, "{before} {at} {after}");
            std::thread::sleep(Duration::from_millis(2));
        }
        let (earlier, now) = (monotonic_ns_at(past - Duration::from_millis(5)), monotonic_ns_at(past));
        assert_eq!(now - earlier, 5_000_000, "a moment before the anchor");
    }

    #[test]
    fn without_calibration_it_is_the_clock() {
        let mut clock = Clock::new(None);
        let (before, between, after) = (monotonic_ns(), clock.now_ns(), monotonic_ns());
        assert!(before <= between && between <= after);
    }

    #[test]
    fn rates_that_cannot_be_are_refused() {
        let reading = |ticks, ns| Reading { ticks, ns, width_ticks: 0 };
        assert_eq!(Calibration::between(reading(5, 5), reading(5, 9)), None);
        assert_eq!(Calibration::between(reading(9, 5), reading(5, 9)), None);
        assert_eq!(Calibration::between(reading(5, 5), reading(9, 5)), None);
        let half = Calibration::between(reading(0, 0), reading(2_000, 1_000)).unwrap();
        assert_eq!(half.ns_per_tick_q32, 1 << 31);
        assert_eq!((ticks_in(100, 1 << 31), ticks_in(100, 0)), (200, 0));
    }

    /// Over three bases. The clock call brackets each answer; of the answers that were not interrupted, nearly all
    /// must be within 1 us (a machine that is paused in the middle of a bracket shows a wide one).
    #[test]
    fn the_counter_agrees_with_the_clock_over_300_ms() {
        let Some(calibration) = Calibration::measure(Duration::from_millis(20)) else {
            assert!(!has_reliable_tsc());
            return;
        };
        let mut clock = Clock::new(Some(calibration));
        let start_ns = monotonic_ns();
        let (mut last_ns, mut good_count, mut far_count, mut worst_ns) = (0, 0_u64, 0_u64, 0);
        while last_ns < start_ns + 300_000_000 {
            let before = monotonic_ns();
            let now = clock.now_ns();
            let after = monotonic_ns();
            assert!(now >= last_ns, "went back from {last_ns} to {now}");
            last_ns = now;
            if after - before > 2_000 {
                continue;
            }
            let error_ns = before.saturating_sub(now).max(now.saturating_sub(after));
            worst_ns = worst_ns.max(error_ns);
            if error_ns <= 1_000 { good_count += 1 } else { far_count += 1 }
        }
        println!("{good_count} within 1 us, {far_count} not, worst {worst_ns} ns");
        assert!(far_count * 100 <= good_count, "{far_count} of {good_count}, worst {worst_ns} ns");
        assert!(worst_ns < 100_000, "worst {worst_ns} ns");
    }

    #[test]
    fn a_counter_that_jumps_costs_a_look_at_the_clock_and_nothing_else() {
        let Some(calibration) = Calibration::measure(Duration::from_millis(2)) else { return };
        let mut clock = Clock::new(Some(calibration));
        for jump in [1_u64 << 40, 0_u64.wrapping_sub(1 << 40), 1 << 63] {
            let answered_ns = clock.now_ns();
            clock.base_ticks = clock.base_ticks.wrapping_add(jump);
            let now_ns = clock.now_ns();
            assert!(now_ns >= answered_ns && now_ns <= monotonic_ns().max(answered_ns));
            assert!(
                clock.ns_per_tick_q32.abs_diff(calibration.ns_per_tick_q32)
                    <= calibration.ns_per_tick_q32 / RATE_DRIFT_DIVISOR
            );
        }
    }
}
