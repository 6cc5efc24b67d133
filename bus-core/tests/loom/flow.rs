//! Breakers that two change at once, and quotas that are changed while they are read.

use super::{explore, words};
use bus_core::breaker::{Breaker, HALF_OPEN_MS, OPEN_MS, Reason};
use bus_core::layout::wake::breaker::{CLOSED, HALF_OPEN, OPEN};
use bus_core::layout::wake::state::GENERATION;
use bus_core::sync::{AtomicU32, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;

/// As `quotas::set` and `RawPublisher::admit` of bus-shm do it.
fn quota_with_generation(raise: Ordering, look: Ordering) {
    explore(move || {
        let shared = Arc::new((AtomicU32::new(0), AtomicU64::new(1)));
        let supervisor = shared.clone();
        let other = thread::spawn(move || {
            let (state, quota) = &*supervisor;
            assert!(quota.compare_exchange(1, 2, Ordering::Relaxed, Ordering::Relaxed).is_ok());
            state.fetch_add(GENERATION, raise);
        });
        let (state, quota) = &*shared;
        if state.load(look) == GENERATION {
            assert_eq!(quota.load(Ordering::Relaxed), 2, "the new generation with the old quota");
        }
        other.join().unwrap();
    });
}

#[test]
fn a_changed_quota_comes_with_its_generation() {
    quota_with_generation(Ordering::Release, Ordering::Acquire);
}

#[test]
#[should_panic(expected = "the new generation with the old quota")]
fn a_changed_quota_breaks_when_the_generation_is_loaded_relaxed() {
    quota_with_generation(Ordering::Release, Ordering::Relaxed);
}

#[test]
#[should_panic(expected = "the new generation with the old quota")]
fn a_changed_quota_breaks_when_the_generation_is_raised_relaxed() {
    quota_with_generation(Ordering::Relaxed, Ordering::Acquire);
}

/// A producer's step and the supervisor's, at once, on a breaker that is half open.
fn at_once(
    producer: impl Fn(Breaker<'_>) + Send + Sync + Copy + 'static,
    supervisor: impl Fn(Breaker<'_>) + Send + Sync + Copy + 'static,
    allowed: &'static [u8],
) {
    explore(move || {
        let shared = Arc::new(words::<1>());
        Breaker::attach(&shared[0]).trip(Reason::Full, 0b11, 0);
        assert!(Breaker::attach(&shared[0]).open_half(OPEN_MS));
        let word = shared.clone();
        let other = thread::spawn(move || supervisor(Breaker::attach(&word[0])));
        producer(Breaker::attach(&shared[0]));
        other.join().unwrap();
        let state = Breaker::attach(&shared[0]).look().state;
        assert!(allowed.contains(&state), "state {state}");
    });
}

#[test]
fn a_trial_that_fails_is_never_settled_away() {
    let settle = |breaker: Breaker<'_>| drop(breaker.settle(OPEN_MS + HALF_OPEN_MS, |_| true));
    at_once(|breaker| breaker.trip(Reason::Full, 1, OPEN_MS + HALF_OPEN_MS), settle, &[OPEN]);
}

#[test]
fn trials_that_pass_and_a_supervisor_that_closes_come_to_the_same() {
    let settle = |breaker: Breaker<'_>| drop(breaker.settle(OPEN_MS + HALF_OPEN_MS, |_| true));
    at_once(|breaker| [0, 1].into_iter().for_each(|lane| breaker.pass(lane)), settle, &[CLOSED]);
}

#[test]
fn a_lane_that_passes_leaves_the_other() {
    at_once(|breaker| breaker.pass(0), |breaker| drop(breaker.open_half(2 * OPEN_MS)), &[HALF_OPEN]);
}
