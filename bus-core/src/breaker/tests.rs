use super::*;
use proptest::prelude::*;

const LANE: usize = 2;

fn word() -> AtomicU64 {
    AtomicU64::new(0)
}

fn half_open(breaker: &Breaker<'_>, lanes: u8) {
    breaker.trip(Reason::Full, lanes, 0);
    assert!(breaker.open_half(OPEN_MS));
}

#[test]
fn full_opens_for_its_lane_alone_and_says_how_long() {
    let word = word();
    let breaker = Breaker::attach(&word);
    assert_eq!(breaker.ask(LANE, 5), Answer::Free);
    breaker.trip(Reason::Full, 1 << LANE, 100);
    assert_eq!(breaker.ask(LANE, 300), Answer::Refused { reason: Reason::Full, retry_ms: 800 });
    assert_eq!(breaker.ask(0, 300), Answer::Free);
    assert_eq!(breaker.look().name(300), "open");
    assert_eq!(breaker.look().name(1_100), "half-open", "also before anybody turns it");
    // Another lane is added; the time begins anew.
    breaker.trip(Reason::Full, 1, 600);
    assert_eq!(breaker.ask(0, 600), Answer::Refused { reason: Reason::Full, retry_ms: 1_000 });
    assert_eq!(breaker.look().lanes, 0b101);
}

#[test]
fn it_closes_when_each_lane_has_passed() {
    let word = word();
    let breaker = Breaker::attach(&word);
    half_open(&breaker, 0b101);
    assert_eq!(breaker.ask(LANE, OPEN_MS), Answer::Trial);
    breaker.pass(LANE);
    assert_eq!(breaker.ask(LANE, OPEN_MS), Answer::Free);
    assert_eq!(breaker.ask(0, OPEN_MS), Answer::Trial);
    breaker.pass(0);
    assert_eq!(word.load(Ordering::Relaxed), 0);
}

#[test]
fn a_trial_that_fails_opens_it_again() {
    let word = word();
    let breaker = Breaker::attach(&word);
    half_open(&breaker, 1 << LANE);
    breaker.trip(Reason::Full, 1 << LANE, 1_200);
    assert_eq!(breaker.look().state, OPEN);
    assert_eq!(breaker.ask(LANE, 1_200), Answer::Refused { reason: Reason::Full, retry_ms: 1_000 });
    // A trial that began before it says so after it: that is no longer asked.
    breaker.pass(LANE);
    assert_eq!(breaker.look().state, OPEN);
}

#[test]
fn the_supervisor_turns_it_on_time_and_closes_what_nobody_tries() {
    let word = word();
    let breaker = Breaker::attach(&word);
    breaker.trip(Reason::Full, 1 << LANE, 0);
    assert!(!breaker.open_half(OPEN_MS - 1) && breaker.open_half(OPEN_MS) && !breaker.open_half(OPEN_MS));
    assert!(!breaker.settle(OPEN_MS + HALF_OPEN_MS - 1, |_| true));
    assert!(!breaker.settle(OPEN_MS + HALF_OPEN_MS, |_| false), "its lane is still full");
    assert!(breaker.settle(OPEN_MS + HALF_OPEN_MS, |word| word.lanes == 1 << LANE));
    assert_eq!(word.load(Ordering::Relaxed), 0);
    assert!(!breaker.reset());
    breaker.trip(Reason::Errors, 1, 0);
    assert!(breaker.reset() && word.load(Ordering::Relaxed) == 0);
}

#[test]
fn the_topics_breaker_follows_its_lanes() {
    let word = word();
    let breaker = Breaker::attach(&word);
    assert!(!breaker.keep_open(0, 5));
    assert!(breaker.keep_open(0b100, 5) && !breaker.keep_open(0b100, 700));
    assert_eq!(breaker.look().left_ms(700), OPEN_MS, "kept open");
    assert!(breaker.keep_open(0b110, 700) && breaker.keep_open(0, 800) && !breaker.keep_open(0, 800));
}

#[test]
fn a_clock_that_jumps_keeps_nobody_out() {
    let word = word();
    let breaker = Breaker::attach(&word);
    breaker.trip(Reason::Errors, 1, 1_000_000);
    assert_eq!(breaker.ask(0, 10), Answer::Trial, "it jumped back: its time cannot be known");
    assert!(breaker.settle(10 + HALF_OPEN_MS, |_| true));
    breaker.trip(Reason::Errors, 1, 10);
    assert_eq!(breaker.ask(0, 1 << 40), Answer::Trial, "it jumped forward");
    let mut window = Window::new(1_000);
    assert!(window.failed(0, false).is_none() && window.is_over(999) && !window.is_over(1_999));
    assert!(window.is_over(2_000));
}

#[test]
fn half_of_at_least_twenty_failures_trip() {
    let mut window = Window::new(0);
    for _ in 0..19 {
        assert_eq!(window.failed(1, false), None);
    }
    // The other lane has failed once only.
    assert_eq!(window.failed(0, false), Some((Reason::Errors, 0b10)));
    let mut window = Window::new(0);
    for round in 0..19 {
        assert_eq!(window.failed(round % 2, false), None);
    }
    assert_eq!(window.failed(0, false), Some((Reason::Errors, 0b11)));
    let mut window = Window::new(0);
    (0..21).for_each(|_| window.succeeded());
    for _ in 0..20 {
        assert_eq!(window.failed(1, true), None);
    }
    assert_eq!(window.failed(1, true), Some((Reason::Quota, 0b10)));
}

#[test]
fn two_that_change_it_at_once_leave_one_state_of_the_two() {
    let word = word();
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let breaker = Breaker::attach(&word);
            scope.spawn(move || {
                for round in 0..5_000 {
                    let now_ms = round * 400;
                    match (writer + round) % 4 {
                        0 => breaker.trip(Reason::Full, 1 << (round % 4), now_ms),
                        1 => drop(breaker.open_half(now_ms)),
                        2 => breaker.pass((round % 4) as usize),
                        _ => drop(breaker.settle(now_ms, |_| true)),
                    }
                    let seen = breaker.look();
                    assert_eq!(seen.state == CLOSED, seen.lanes == 0, "{seen:?}");
                }
            });
        }
    });
}

/// What may happen to a breaker.
#[derive(Clone, Copy, Debug)]
enum Step {
    Trip(Reason, u8),
    Half,
    Pass(usize),
    Settle(bool),
    Reset,
    Time(u64),
    JumpBack(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reason = prop_oneof![Just(Reason::Full), Just(Reason::Errors), Just(Reason::Quota)];
    let step = prop_oneof![
        (reason, 1_u8..16).prop_map(|(reason, lanes)| Step::Trip(reason, lanes)),
        Just(Step::Half),
        (0_usize..4).prop_map(Step::Pass),
        any::<bool>().prop_map(Step::Settle),
        Just(Step::Reset),
        (0_u64..1_500).prop_map(Step::Time),
        (0_u64..5_000).prop_map(Step::JumpBack),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// The state follows the drawing at the top, and nobody is kept out for longer than a second.
    #[test]
    fn every_way_through_it_is_in_the_drawing(steps in steps()) {
        let word = word();
        let breaker = Breaker::attach(&word);
        let mut now_ms = 10_000_u64;
        for step in steps {
            let before = breaker.look();
            match step {
                Step::Trip(reason, lanes) => breaker.trip(reason, lanes, now_ms),
                Step::Half => drop(breaker.open_half(now_ms)),
                Step::Pass(lane) => breaker.pass(lane),
                Step::Settle(is_free) => drop(breaker.settle(now_ms, |_| is_free)),
                Step::Reset => drop(breaker.reset()),
                Step::Time(ms) => now_ms += ms,
                Step::JumpBack(ms) => now_ms = now_ms.saturating_sub(ms),
            }
            let after = breaker.look();
            let is_drawn = match (before.state, after.state) {
                (a, b) if a == b => true,
                (CLOSED | HALF_OPEN, OPEN) => matches!(step, Step::Trip(..)),
                (OPEN, HALF_OPEN) => matches!(step, Step::Half),
                (HALF_OPEN, CLOSED) => matches!(step, Step::Pass(_) | Step::Settle(true) | Step::Reset),
                (OPEN, CLOSED) => matches!(step, Step::Reset),
                _ => false,
            };
            prop_assert!(is_drawn, "{before:?} {step:?} {after:?}");
            prop_assert_eq!(after.state == CLOSED, word.load(Ordering::Relaxed) == 0);
            prop_assert!(after.left_ms(now_ms) <= OPEN_MS);
            for lane in 0..4 {
                let is_refused = matches!(Breaker::attach(&AtomicU64::new(word.load(Ordering::Relaxed))).ask(lane, now_ms), Answer::Refused { .. });
                prop_assert!(!is_refused || after.lanes & 1 << lane != 0, "a lane that it is not about");
            }
        }
    }
}
