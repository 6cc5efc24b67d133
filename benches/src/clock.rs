//! The clock of the measurements: the time-stamp counter where it can be trusted, else `CLOCK_MONOTONIC`.
//!
//! Ticks are raw counter values. They are compared between processes of one run only, which is sound where the
//! kernel itself found the counters of all cores in step (its clock source is the counter, or the processor says
//! that the counter is invariant). They are never stored beyond the run.

use std::time::{Duration, Instant};

/// Steps of the clock that are looked at to find its grain.
const STEPS: usize = 500;

/// Converts ticks of the counter into nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Nanoseconds a tick; 1.0 when the ticks already are nanoseconds.
    ns_per_tick: f64,
    counter: bool,
}

impl Clock {
    /// Finds out whether the counter can be trusted and measures its rate, which takes about 30 ms.
    #[must_use]
    pub fn calibrate() -> Self {
        if !counter_is_invariant() {
            return Self { ns_per_tick: 1.0, counter: false };
        }
        let first = paired_reading();
        std::thread::sleep(Duration::from_millis(30));
        let last = paired_reading();
        let ns = last.0.duration_since(first.0).as_nanos() as f64;
        Self { ns_per_tick: ns / (last.1 - first.1) as f64, counter: true }
    }

    /// The clock of another process of this run, from its [`Clock::to_bits`].
    pub(crate) fn from_bits(bits: u64) -> Self {
        if bits == 0 {
            Self { ns_per_tick: 1.0, counter: false }
        } else {
            Self { ns_per_tick: f64::from_bits(bits), counter: true }
        }
    }

    /// The calibration as one number, to hand to a worker process; 0 means `CLOCK_MONOTONIC`.
    pub(crate) fn to_bits(self) -> u64 {
        if self.counter { self.ns_per_tick.to_bits() } else { 0 }
    }

    /// `tsc` or `monotonic`, as the report calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.counter { "tsc" } else { "monotonic" }
    }

    /// The time now, in ticks.
    #[inline(always)]
    #[must_use]
    pub fn now(&self) -> u64 {
        if self.counter { counter() } else { monotonic_ns() }
    }

    /// Nanoseconds from `earlier` to `later`, 0 if they are the wrong way round.
    #[inline(always)]
    #[must_use]
    pub fn ns_between(&self, earlier: u64, later: u64) -> u64 {
        (later.saturating_sub(earlier) as f64 * self.ns_per_tick) as u64
    }

    /// The same with fractions of nanoseconds.
    #[inline(always)]
    #[must_use]
    pub fn ns_f64(&self, ticks: u64) -> f64 {
        ticks as f64 * self.ns_per_tick
    }

    /// How many ticks a duration takes.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> u64 {
        (duration.as_nanos() as f64 / self.ns_per_tick) as u64
    }

    /// The step that the clock makes between readings as close together as possible, in nanoseconds.
    #[must_use]
    pub fn step_ns(&self) -> f64 {
        let mut steps = Vec::with_capacity(STEPS);
        let mut last = self.now();
        while steps.len() < STEPS {
            let now = self.now();
            if now > last {
                steps.push(now - last);
            }
            last = now;
        }
        steps.sort_unstable();
        // Not the very smallest: a counter that is being corrected shows a step of a single tick now and then.
        self.ns_f64(steps[STEPS / 10])
    }
}

/// Nanoseconds of CPU time that the calling thread has used.
pub(crate) fn thread_cpu_ns() -> u64 {
    timespec_ns(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime))
}

/// Nanoseconds of CPU time that this process has used, all its threads together: what `getrusage` adds up.
pub(crate) fn process_cpu_ns() -> u64 {
    timespec_ns(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime))
}

fn monotonic_ns() -> u64 {
    timespec_ns(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

fn timespec_ns(time: rustix::time::Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One reading of both clocks as close together as a few tries allow.
fn paired_reading() -> (Instant, u64) {
    let mut best = None;
    let mut best_gap = u64::MAX;
    for _ in 0..50 {
        let before = counter();
        let instant = Instant::now();
        let after = counter();
        if after.wrapping_sub(before) < best_gap {
            best_gap = after.wrapping_sub(before);
            best = Some((instant, before + best_gap / 2));
        }
    }
    best.unwrap_or_else(|| (Instant::now(), counter()))
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 processor and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn counter() -> u64 {
    monotonic_ns()
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    let by_kernel =
        std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .is_ok_and(|name| matches!(name.trim(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page"));
    #[allow(unused_unsafe, reason = "CPUID became a safe function in newer toolchains")]
    // SAFETY: CPUID exists on every x86_64 processor; the leaf is asked for before it is used.
    let by_processor = unsafe {
        core::arch::x86_64::__cpuid(0x8000_0000).eax >= 0x8000_0007
            && core::arch::x86_64::__cpuid(0x8000_0007).edx & (1 << 8) != 0
    };
    by_processor && by_kernel
}

#[cfg(not(target_arch = "x86_64"))]
fn counter_is_invariant() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_measured_as_long_as_the_system_clock_says() {
        let clock = Clock::calibrate();
        let started = Instant::now();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(20));
        let ticks = clock.now() - first;
        let expected = started.elapsed().as_nanos() as f64;
        let ratio = clock.ns_f64(ticks) / expected;
        assert!((0.9..1.1).contains(&ratio), "counter / system clock = {ratio}");
    }

    #[test]
    fn the_calibration_survives_the_way_to_a_worker() {
        let clock = Clock::calibrate();
        let copy = Clock::from_bits(clock.to_bits());
        assert_eq!(copy.name(), clock.name());
        assert_eq!(copy.ns_between(1_000, 2_000), clock.ns_between(1_000, 2_000));
        assert_eq!(copy.ns_between(2_000, 1_000), 0);
    }

    #[test]
    fn ticks_and_nanoseconds_are_inverse() {
        let clock = Clock::calibrate();
        let ns = clock.ns_f64(clock.ticks(Duration::from_micros(500)));
        assert!((ns - 500_000.0).abs() < 10.0, "{ns}");
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = thread_cpu_ns();
        let mut sum = 0_u64;
        for i in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        assert!(thread_cpu_ns() > before, "{sum}");
    }
}
