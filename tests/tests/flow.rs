//! Flow control: breakers, quotas, and what a full lane does to a publisher.

use bus_shm::directory::BusDir;
use bus_shm::inspect::{BreakerState, BusView, TopicState};
use bus_shm::supervisor::Supervisor;
use bus_shm::supervisor::events::EVENTS_TOPIC;
use bus_shm::{
    AttachError, BreakerReason, Bus, Bytes, Lane, Loan, Overflow, PublishError, Publisher, Quota, Subscriber,
    Topic, TopicError,
};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::cli::CliBus;
use tests::harness::{self, Agent, Role, TestBus, assert_clean, eventually};

/// What a test that is loaded with others still calls "at once"; a deadline that is not to be waited for is far longer.
const AT_ONCE: Duration = Duration::from_millis(150);
/// A deadline that passes.
const SHORT: Duration = Duration::from_millis(20);
/// Slots of a lane that is to be full.
const CAPACITY: u32 = 8;

/// The other processes of the tests here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "supervisor" => supervisor(role),
        "tap" => tap(role),
        other => panic!("no role {other:?}"),
    }
}

/// Serves until it is killed.
fn supervisor(mut role: Role) {
    let dir = BusDir::new(&role.bus, None).unwrap();
    let supervisor = Supervisor::take(&dir, false).unwrap();
    role.parent.tell("serving");
    let _ = supervisor.serve();
}

/// Attaches a tap, and reads on until told to stop.
fn tap(mut role: Role) {
    let bus = role.open();
    let mut tap = bus.topic::<Bytes>("t").unwrap().tap().unwrap();
    role.parent.tell("ready");
    role.parent.expect("read");
    let mut count = 0;
    while let Some(message) = tap.try_receive().unwrap() {
        message.ack().unwrap();
        count += 1;
    }
    role.parent.tell(format!("{count} {}", tap.missed_count()));
    role.parent.hear();
}

fn open(bus: &Bus, producers: u32) -> Topic<Bytes> {
    bus.topic_builder("t").producers(producers).capacity(CAPACITY).open().unwrap()
}

/// A publisher whose normal lane is full, and who holds it.
fn full(topic: &Topic<Bytes>) -> (Publisher<Bytes>, Subscriber<Bytes>) {
    let slow = topic.group("slow").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(SHORT);
    for _ in 0..CAPACITY {
        publisher.publish(b"x").unwrap();
    }
    (publisher, slow)
}

fn trip(publisher: &mut Publisher<Bytes>) {
    let error = publisher.publish(b"x").unwrap_err();
    assert!(matches!(error, PublishError::Full(_)), "{error}");
}

/// The breaker that refuses a publication: why, whether it is the topic's, and for how long.
fn refused(publisher: &mut Publisher<Bytes>) -> (BreakerReason, bool, Duration) {
    let begun = Instant::now();
    match publisher.publish(b"x").unwrap_err() {
        PublishError::CircuitOpen { reason, whole_topic, retry_after, producer, .. } => {
            assert!(begun.elapsed() < AT_ONCE, "refused after {:?}", begun.elapsed());
            assert_eq!(producer, publisher.producer());
            assert!(retry_after <= Duration::from_secs(1) && !retry_after.is_zero(), "{retry_after:?}");
            (reason, whole_topic, retry_after)
        }
        error => panic!("{error}"),
    }
}

fn drain(subscriber: &mut Subscriber<Bytes>) {
    while let Some(message) = subscriber.try_receive().unwrap() {
        message.ack().unwrap();
    }
}

fn state(test: &TestBus) -> TopicState {
    BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample()
}

fn breaker(test: &TestBus) -> BreakerState {
    state(test).publishers[0].breaker.clone()
}

#[test]
fn a_full_lane_opens_the_breaker_and_it_says_when_to_come_again() {
    for producers in [1, 8] {
        let test = TestBus::new("flow-open");
        let bus = test.open("flow");
        let topic = open(&bus, producers);
        let (mut publisher, mut slow) = full(&topic);
        trip(&mut publisher);
        let (reason, whole_topic, retry_after) = refused(&mut publisher);
        assert_eq!((reason, whole_topic), (BreakerReason::Full, false));
        assert_eq!(breaker(&test).state, "open");
        // Not before that time.
        let told = Instant::now();
        while told.elapsed() + Duration::from_millis(5) < retry_after {
            let (_, _, left) = refused(&mut publisher);
            assert!(left <= retry_after.saturating_sub(told.elapsed()) + Duration::from_millis(5));
            std::thread::sleep(Duration::from_millis(20));
        }
        // Then it is let through, and the lane is still full.
        std::thread::sleep(retry_after.saturating_sub(told.elapsed()));
        trip(&mut publisher);
        let (_, _, retry_after) = refused(&mut publisher);
        drain(&mut slow);
        std::thread::sleep(retry_after);
        for _ in 0..5 {
            publisher.publish(b"x").unwrap();
            slow.receive().unwrap().ack().unwrap();
        }
        assert!(breaker(&test).is_closed());
        assert!(state(&test).publishers[0].refused_count >= 4);
        assert_clean(&test);
    }
}

#[test]
fn what_is_critical_passes_while_the_normal_lane_is_refused() {
    let test = TestBus::new("flow-lanes");
    let bus = test.open("flow");
    let topic = open(&bus, 8);
    let (mut publisher, mut slow) = full(&topic);
    trip(&mut publisher);
    refused(&mut publisher);
    for _ in 0..CAPACITY {
        publisher.publish_bytes(Lane::CRITICAL, b"now").unwrap();
        refused(&mut publisher);
    }
    let mut loan = publisher.loan(Lane::HIGH, 3).unwrap();
    loan.copy_from_slice(b"abc");
    loan.publish().unwrap();
    let error = publisher.loan(Lane::NORMAL, 3).unwrap_err();
    assert!(matches!(error, PublishError::CircuitOpen { .. }), "{error}");
    assert_eq!(breaker(&test).lanes, ["normal"]);
    assert_eq!(slow.receive().unwrap().lane(), Lane::CRITICAL);
}

#[test]
fn who_does_not_want_a_breaker_gets_full_again_and_again() {
    let test = TestBus::new("flow-none");
    let bus = test.open("flow");
    let topic = bus.topic_builder("t").capacity(CAPACITY).breakers(false).open().unwrap();
    let (mut publisher, _slow) = full(&topic);
    (0..5).for_each(|_| trip(&mut publisher));
    let error = bus.topic_builder::<Bytes>("t").breakers(true).open().unwrap_err();
    assert!(matches!(error, TopicError::Differs { option: "breakers", .. }), "{error}");
    let test = TestBus::new("flow-own");
    let bus = test.open("flow");
    let (mut publisher, _slow) = full(&open(&bus, 8));
    trip(&mut publisher);
    publisher.set_breaker(false);
    (0..5).for_each(|_| trip(&mut publisher));
    // Who does not wait polls, and is not refused for it.
    let test = TestBus::new("flow-poll");
    let bus = test.open("flow");
    let topic = open(&bus, 8);
    let (mut publisher, mut slow) = full(&topic);
    publisher.set_deadline(Duration::ZERO);
    (0..100).for_each(|_| trip(&mut publisher));
    slow.receive().unwrap().ack().unwrap();
    publisher.publish(b"x").unwrap();
}

#[test]
fn half_open_is_seen_by_info_and_top() {
    let cli = CliBus::new("flow-seen");
    let bus = Bus::builder(&cli.bus.name).service("seen").open().unwrap();
    let topic = open(&bus, 8);
    let (mut publisher, mut slow) = full(&topic);
    trip(&mut publisher);
    let info = cli.run(&["info", "t", "--json"]).expect(0).json();
    let of_publisher = &info["publishers"][0];
    assert_eq!(of_publisher["service"], "seen");
    assert!(of_publisher["refused_count"].as_u64().unwrap() >= 1, "{of_publisher}");
    // Nobody tries, and the lane stays full: it waits for a trial.
    eventually("it is half open", || breaker(&cli.bus).state == "half-open");
    let info = cli.run(&["info", "t", "--json"]).expect(0).json();
    let shown = &info["publishers"][0]["breaker"];
    assert_eq!((&shown["state"], &shown["reason"]), (&"half-open".into(), &"full".into()));
    assert_eq!(shown["lanes"], serde_json::json!(["normal"]));
    let text = cli.run(&["info", "t"]).expect(0).out;
    assert!(text.contains("half-open for normal (full)"), "{text}");
    let text = cli.run(&["top", "--once", "-i", "20ms"]).expect(0).out;
    assert!(text.contains("breaker half-open (full)"), "{text}");
    let json = cli.run(&["top", "--once", "--json", "-i", "20ms"]).expect(0).json();
    let shown = json["topics"].as_array().unwrap().iter().find(|topic| topic["topic"] == "t").unwrap();
    assert_eq!(shown["publishers"][0]["breaker"]["state"], "half-open", "{json}");
    // Room is enough for the supervisor to close it, though nobody publishes.
    drain(&mut slow);
    eventually("it is closed", || breaker(&cli.bus).is_closed());
}

#[test]
fn the_topics_breaker_opens_when_most_are_kept_out() {
    let test = TestBus::new("flow-topic");
    let bus = test.open("flow");
    let topic = open(&bus, 8);
    let (mut first, mut slow) = full(&topic);
    let mut second = topic.publisher().unwrap();
    let mut third = topic.publisher().unwrap();
    second.set_deadline(SHORT);
    trip(&mut first);
    trip(&mut second);
    eventually("the topic's breaker is open", || !state(&test).breaker.is_closed());
    // It has never met the full lane itself, and would wait for long.
    third.set_deadline(Duration::from_secs(20));
    let (reason, whole_topic, _) = refused(&mut third);
    assert_eq!((reason, whole_topic), (BreakerReason::Full, true));
    third.publish_bytes(Lane::CRITICAL, b"now").unwrap();
    drain(&mut slow);
    eventually("it is closed", || state(&test).breaker.is_closed());
    third.publish(b"x").unwrap();
    eventually("all are closed", || state(&test).publishers.iter().all(|one| one.breaker.is_closed()));
    assert_clean(&test);
}

#[test]
fn groups_that_let_go_when_a_publisher_waits_are_waited_for_by_trials() {
    let test = TestBus::new("flow-hold");
    let bus = test.open("flow");
    let topic = open(&bus, 8);
    // It holds the ring for a second while it has no member, and it has none.
    topic.group("gone").hold_for(Duration::from_secs(1)).join().unwrap().close();
    let mut publishers = [topic.publisher().unwrap(), topic.publisher().unwrap()];
    for publisher in &mut publishers {
        publisher.set_deadline(Duration::from_millis(100));
    }
    for _ in 0..CAPACITY {
        publishers[0].publish(b"x").unwrap();
    }
    for publisher in &mut publishers {
        assert!(matches!(publisher.publish(b"x"), Err(PublishError::Full(_))));
    }
    eventually("the topic's breaker is open", || !state(&test).breaker.is_closed());
    let begun = Instant::now();
    while publishers[0].publish(b"x").is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits, so that the group never lets go");
        std::thread::sleep(SHORT);
    }
    eventually("the topic's breaker is closed", || state(&test).breaker.is_closed());
}

#[test]
fn a_lane_that_gets_on_does_not_suffer_for_another() {
    let test = TestBus::new("flow-lanes");
    let bus = test.open("flow");
    let topic = open(&bus, 8);
    let (mut publisher, mut slow) = full(&topic);
    for _ in 0..CAPACITY {
        publisher.publish_bytes(Lane::CRITICAL, b"x").unwrap();
    }
    publisher.set_deadline(SHORT);
    for lane in [Lane::CRITICAL, Lane::NORMAL] {
        assert!(matches!(publisher.publish_bytes(lane, b"x"), Err(PublishError::Full(_))), "{lane:?}");
    }
    // What is critical is read, and stays so; the normal lane stays full.
    for _ in 0..CAPACITY {
        let message = slow.receive().unwrap();
        assert_eq!(message.lane(), Lane::CRITICAL);
        message.ack().unwrap();
    }
    let begun = Instant::now();
    while publisher.publish_bytes(Lane::CRITICAL, b"x").is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "its time is over");
        std::thread::sleep(SHORT);
    }
    assert!(matches!(publisher.publish(b"x"), Err(PublishError::Full(_))), "a trial that fails");
    for _ in 0..5 {
        publisher.publish_bytes(Lane::CRITICAL, b"x").expect("only the normal lane is refused");
    }
    assert!(matches!(publisher.publish(b"x"), Err(PublishError::CircuitOpen { .. })));
}

#[test]
fn a_dead_supervisor_keeps_nobody_out() {
    let test = TestBus::new("flow-dead");
    let mut agent = Agent::spawn("agent", "supervisor", &test.name, "");
    agent.line.expect("serving");
    let bus = Bus::builder(&test.name).host(false).open().unwrap();
    let topic = open(&bus, 8);
    let (mut first, mut slow) = full(&topic);
    let mut second = topic.publisher().unwrap();
    second.set_deadline(SHORT);
    trip(&mut first);
    trip(&mut second);
    eventually("the topic's breaker is open", || !state(&test).breaker.is_closed());
    agent.kill();
    drain(&mut slow);
    // Both words stand open, and nobody turns them.
    let begun = Instant::now();
    for publisher in [&mut first, &mut second] {
        while let Err(error) = publisher.publish(b"x") {
            let PublishError::CircuitOpen { retry_after, .. } = error else { panic!("{error}") };
            assert!(begun.elapsed() < Duration::from_secs(5), "kept out");
            std::thread::sleep(retry_after);
        }
        drain(&mut slow);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_new_supervisor_finds_what_is_open() {
    let test = TestBus::new("flow-heir");
    let mut agent = Agent::spawn("agent", "supervisor", &test.name, "");
    agent.line.expect("serving");
    let bus = Bus::builder(&test.name).host(false).open().unwrap();
    let (mut publisher, mut slow) = full(&open(&bus, 8));
    agent.kill();
    // Nobody hears of it.
    trip(&mut publisher);
    drain(&mut slow);
    let mut heir = Agent::spawn("agent", "supervisor", &test.name, "");
    heir.line.expect("serving");
    eventually("it is closed, though its publisher rests", || breaker(&test).is_closed());
}

/// Publishes as fast as the quota lets it, for so long: what has passed.
fn publish_for(publisher: &mut Publisher<Bytes>, payload: &[u8], time: Duration) -> u64 {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < time {
        match publisher.publish(payload) {
            Ok(_) => count += 1,
            Err(PublishError::Throttled { retry_after, .. }) => {
                // Not asleep: on a loaded machine that takes longer than the burst makes good for.
                let told = Instant::now();
                while told.elapsed() < retry_after {
                    std::thread::yield_now();
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    count
}

/// Never more than a tenth above; not less than a tenth below in the best of some seconds, since other tests take the processor.
fn expect_rate(publisher: &mut Publisher<Bytes>, payload: &[u8], per_second: u64) {
    let mut best = 0;
    for _ in 0..5 {
        let begun = Instant::now();
        let count = publish_for(publisher, payload, Duration::from_secs(1));
        let took = begun.elapsed().as_secs_f64();
        assert!(count as f64 <= 1.1 * per_second as f64 * took, "{count} of {per_second} in {took} s");
        best = best.max(count);
        if 10 * best >= 9 * per_second {
            return;
        }
    }
    panic!("{best} of {per_second}");
}

#[test]
fn a_quota_is_kept_and_changed_while_its_publishers_run() {
    let cli = CliBus::new("flow-quota");
    let bus = Bus::builder(&cli.bus.name).service("steady").open().unwrap();
    let builder = bus.topic_builder::<Bytes>("t").overflow(Overflow::KeepNewest);
    let topic = builder.quota(Quota::messages(2_000)).open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    expect_rate(&mut publisher, b"x", 2_000);
    // Bytes, for this service.
    cli.run(&["quota", "t", "--service", "steady", "--bytes", "1000K"]).expect(0);
    expect_rate(&mut publisher, &[7; 1_024], 1_000);
    cli.run(&["quota", "t", "--service", "other", "--messages", "1"]).expect(0);
    let list = cli.run(&["quota", "t"]).expect(0).out;
    assert!(list.contains("(any)") && list.contains("2,000") && list.contains("steady"), "{list}");
    let info = cli.run(&["info", "t", "--json"]).expect(0).json();
    assert_eq!(info["publishers"][0]["quota"]["bytes_per_s"], 1_024_000, "{info}");
    cli.run(&["quota", "t", "--service", "steady", "--off"]).expect(0);
    expect_rate(&mut publisher, b"x", 2_000);
    cli.run(&["quota", "t", "--off"]).expect(0);
    for _ in 0..20_000 {
        publisher.publish(b"x").unwrap();
    }
    // The next publication follows.
    cli.run(&["quota", "t", "--messages", "10"]).expect(0);
    publisher.publish(b"x").unwrap();
    let error = publisher.publish(b"x").unwrap_err();
    assert!(matches!(error, PublishError::Throttled { .. }), "{error}");
    assert!(error.to_string().contains("10 messages/s"), "{error}");
    cli.run(&["quota", "t", "--messages", "0"]).expect(2).says("quota messages/s");
    cli.run(&["quota", "t", "--burst", "1s"]).expect(2);
    for service in ["a", "b", "c", "d"] {
        cli.run(&["quota", "t", "--service", service, "--messages", "1"]).expect(0);
    }
    cli.run(&["quota", "t", "--service", "sixth", "--messages", "1"]).expect(6).says("5 services");
    cli.run(&["quota", "t", "--service", "a", "--off"]).expect(0);
    cli.run(&["quota", "t", "--service", "sixth", "--messages", "1"]).expect(0);
    cli.run(&["quota", "gone", "--messages", "1"]).expect(3);
    // `pub` waits as long as it takes.
    cli.run(&["quota", "t", "--messages", "50"]).expect(0);
    cli.run_with(&["pub", "t"], "line\n".repeat(20).as_bytes()).expect(0).says("published 20 messages");
    assert_clean(&cli.bus);
}

#[test]
fn a_quota_counts_the_bytes_of_loans() {
    for producers in [1, 8] {
        let test = TestBus::new("flow-loans");
        let bus = test.open("flow");
        let quota = Quota::bytes(1_000_000).burst(Duration::from_millis(100));
        let builder = bus.topic_builder::<Bytes>("t").producers(producers);
        let mut publisher =
            builder.overflow(Overflow::KeepNewest).quota(quota).open().unwrap().publisher().unwrap();
        let lane = publisher.default_lane();
        let begun = Instant::now();
        // Long loans and short messages in turn.
        let mut lent_bytes = 0;
        let refused = loop {
            match publisher.loan(lane, 2_000).and_then(Loan::publish) {
                Ok(_) => lent_bytes += 2_000,
                Err(error) => break error,
            }
            if let Err(error) = publisher.publish(b"x") {
                break error;
            }
        };
        assert!(matches!(refused, PublishError::Throttled { .. }), "{producers} producers: {refused}");
        let allowed_bytes = 100_000 + begun.elapsed().as_micros();
        assert!(lent_bytes < allowed_bytes * 5 / 4, "{producers} producers: {lent_bytes} of {allowed_bytes}");
    }
}

#[test]
fn a_quota_of_nothing_is_refused_when_the_topic_is_made() {
    let test = TestBus::new("flow-zero");
    let bus = test.open("flow");
    for quota in [Quota::messages(0), Quota::bytes(0), Quota::messages(5).and_bytes(0), Quota::default()] {
        let error = bus.topic_builder::<Bytes>("t").quota(quota).open().unwrap_err();
        assert!(matches!(error, TopicError::Option { value: 0, .. }), "{error}");
    }
    let quota = Quota::messages(5).burst(Duration::from_secs(10_000));
    let error = bus.topic_builder::<Bytes>("t").quota(quota).open().unwrap_err();
    assert!(error.to_string().contains("burst"), "{error}");
}

#[test]
fn who_ignores_what_he_is_told_is_kept_out() {
    let test = TestBus::new("flow-spam");
    let bus = test.open("flow");
    let builder = bus.topic_builder::<Bytes>("t").overflow(Overflow::KeepNewest);
    let mut publisher = builder.quota(Quota::messages(100)).open().unwrap().publisher().unwrap();
    let mut throttled = 0;
    let reason = loop {
        match publisher.publish(b"x") {
            Ok(_) => {}
            Err(PublishError::Throttled { .. }) => throttled += 1,
            Err(PublishError::CircuitOpen { reason, .. }) => break reason,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(reason, BreakerReason::Quota);
    assert!((20..100).contains(&throttled), "{throttled}");
    // Errors likewise; a few do no harm.
    let topic = bus.topic_builder::<Bytes>("small").max_message(64).open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for round in 0..40 {
        publisher.publish(b"x").unwrap();
        publisher.publish(b"x").unwrap();
        let error = publisher.publish(&[0; 65]).unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { .. }), "{round}: {error}");
    }
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..20 {
        let error = publisher.publish(&[0; 65]).unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { .. }), "{error}");
    }
    assert_eq!(refused(&mut publisher).0, BreakerReason::Errors);
}

#[test]
fn a_topic_that_fails_at_once_waits_for_nobody() {
    let test = TestBus::new("flow-fail");
    let bus = test.open("flow");
    for producers in [1, 8] {
        let name = format!("t{producers}");
        let builder = bus.topic_builder::<Bytes>(&name).capacity(CAPACITY).producers(producers);
        let topic = builder.overflow(Overflow::Fail).open().unwrap();
        let (mut publisher, _slow) = full(&topic);
        publisher.set_deadline(Duration::from_secs(20));
        let begun = Instant::now();
        for _ in 0..20 {
            trip(&mut publisher);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(refused(&mut publisher).0, BreakerReason::Errors);
    }
}

#[test]
fn what_keeps_the_newest_never_waits_and_has_no_groups() {
    let cli = CliBus::new("flow-newest");
    let bus = Bus::builder(&cli.bus.name).service("newest").open().unwrap();
    let builder = || bus.topic_builder::<Bytes>("t").capacity(64).overflow(Overflow::KeepNewest);
    let error = builder().with_group("g").open().unwrap_err();
    assert!(matches!(error, TopicError::Option { option: "groups", .. }), "{error}");
    let topic = builder().open().unwrap();
    for error in
        [topic.subscribe().err(), topic.group("g").join().err(), topic.group("g").shared().join().err()]
    {
        let error = error.expect("groups are refused");
        assert!(
            matches!(error, AttachError::KeepsNewest { .. }) && error.to_string().contains("tap()"),
            "{error}"
        );
    }
    let mut agent = Agent::spawn("agent", "tap", &cli.bus.name, "");
    agent.line.expect("ready");
    agent.stop();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(Duration::from_secs(20));
    let begun = Instant::now();
    for _ in 0..10_000 {
        publisher.publish(&[1; 1_000]).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    agent.go_on();
    agent.line.tell("read");
    let said = agent.line.hear();
    let (read, missed) = said.split_once(' ').expect("two numbers");
    let (read, missed): (u64, u64) = (read.parse().unwrap(), missed.parse().unwrap());
    assert_eq!(read + missed, 10_000);
    assert!((1..=64).contains(&read), "{read}");
    let ran = cli.run(&["sub", "t", "--from", "oldest", "-n", "1", "--raw"]).expect(0);
    assert_eq!(ran.out.len(), 1_000);
    cli.run(&["sub", "t", "-g", "named", "-n", "1"]).expect(6).says("tap()");
    let info = cli.run(&["info", "t", "--json"]).expect(0).json();
    assert_eq!(info["settings"]["overflow"], "newest");
    agent.line.tell("end");
    agent.join();
    assert_clean(&cli.bus);
    cli.run(&["create", "quick", "--overflow", "fail", "--no-breakers"]).expect(0);
    let info = cli.run(&["info", "quick", "--json"]).expect(0).json();
    assert_eq!(
        (&info["settings"]["overflow"], &info["settings"]["breakers"]),
        (&"fail".into(), &false.into())
    );
}

#[test]
fn what_a_breaker_does_is_told_on_the_topic_of_events() {
    let cli = CliBus::new("flow-events");
    let bus = Bus::builder(&cli.bus.name).service("louder").open().unwrap();
    let mut tap = bus.events().unwrap().tap().unwrap();
    let (mut publisher, mut slow) = full(&open(&bus, 8));
    trip(&mut publisher);
    let mut steps = Vec::new();
    let mut hear = |count: usize| {
        while steps.len() < count {
            let message = tap.receive_timeout(Duration::from_secs(10)).unwrap().expect("an event");
            let event: Value = serde_json::from_slice(message.payload()).unwrap();
            message.ack().unwrap();
            assert_eq!((&event["event"], &event["topic"]), (&"breaker".into(), &"t".into()), "{event}");
            assert_eq!((&event["service"], &event["pid"]), (&"louder".into(), &std::process::id().into()));
            steps.push((event["from"].clone(), event["to"].clone(), event["reason"].clone()));
        }
        steps.clone()
    };
    let text = |from: &str, to: &str, reason: Value| (Value::from(from), Value::from(to), reason);
    let heard = hear(2);
    assert_eq!(heard[0], text("closed", "open", "full".into()));
    assert_eq!(heard[1], text("open", "half-open", "full".into()));
    drain(&mut slow);
    assert_eq!(hear(3)[2], text("half-open", "closed", Value::Null));
    let ran = cli.run(&["sub", EVENTS_TOPIC, "--from", "oldest", "-n", "3"]).expect(0);
    assert_eq!(ran.out.lines().count(), 3, "{}", ran.out);
    // Whoever published them leaves by himself.
    eventually("it has left", || {
        let services = cli.view().participants();
        !services.iter().any(|info| info.service == "shmbus-events")
    });
}

#[test]
fn a_bus_whose_breakers_were_open_goes_with_its_last_participant() {
    let test = TestBus::new("flow-gone");
    let bus = test.open("flow");
    let topic = open(&bus, 8);
    let (mut publisher, slow) = full(&topic);
    trip(&mut publisher);
    eventually("it is told", || BusView::open(&test.name, None).unwrap().topic_names().len() > 1);
    drop((publisher, slow, topic));
    drop(bus);
    test.assert_gone();
}

/// The command in small. Latency is printed, not judged: that takes a machine that is left alone.
#[test]
fn runaway_publishers_hurt_only_themselves() {
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_runaway")).arg("--small").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    println!("{said}");
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
}
