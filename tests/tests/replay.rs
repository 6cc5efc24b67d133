//! Beginning at a time, and publishing a window of time once more.

use bus_shm::inspect::BusView;
use bus_shm::replay::{self, ReplayWindowError, Replayed, Window};
use bus_shm::{AttachError, Bus, Bytes, Lane, Start, Subscriber, Topic};
use std::time::Duration;
use tests::cli::CliBus;
use tests::harness::{TestBus, Text, Words, assert_clean};

/// Slots of a lane.
const CAPACITY: u32 = 64;

fn topic(bus: &Bus, name: &str, stamps: bool) -> Topic<Bytes> {
    bus.topic_builder::<Bytes>(name).lanes(2).capacity(CAPACITY).stamps(stamps).open().unwrap()
}

/// Everything that is there: lane and payload.
fn drain(subscriber: &mut Subscriber<Bytes>) -> Vec<(u8, u64)> {
    let mut all = Vec::new();
    while let Some(message) = subscriber.try_receive().unwrap() {
        let number = u64::from_le_bytes(message.payload().try_into().unwrap());
        all.push((message.lane().0, number));
        message.ack().unwrap();
    }
    all
}

fn publish(topic: &Topic<Bytes>, lane: u8, numbers: std::ops::Range<u64>) {
    let mut publisher = topic.publisher().unwrap();
    for number in numbers {
        publisher.publish_bytes(Lane(lane), &number.to_le_bytes()).unwrap();
    }
}

/// A moment between what was published before and what comes.
fn between(bus: &Bus) -> u64 {
    std::thread::sleep(Duration::from_millis(5));
    let now_ns = bus.now_ns();
    std::thread::sleep(Duration::from_millis(5));
    now_ns
}

#[test]
fn a_reader_begins_at_a_time_and_hears_what_is_no_longer_there() {
    let test = TestBus::new("start-time");
    let bus = test.open("reader");
    let topic = topic(&bus, "t", true);
    let before = between(&bus);
    publish(&topic, 1, 0..10);
    let middle = between(&bus);
    publish(&topic, 1, 10..20);
    publish(&topic, 0, 100..103);
    let after = between(&bus);
    let read = |start| drain(&mut topic.subscriber().from(start).join().unwrap());
    let numbers = |range: std::ops::Range<u64>| range.map(|number| (1, number)).collect::<Vec<_>>();
    let urgent: Vec<_> = (100..103).map(|number| (0, number)).collect();
    assert_eq!(read(Start::Time(before)), [urgent.clone(), numbers(0..20)].concat(), "nothing has gone yet");
    assert_eq!(read(Start::Time(middle)), [urgent, numbers(10..20)].concat());
    assert_eq!(read(Start::Time(after)), []);
    assert_eq!(read(Start::Ago(Duration::from_secs(3_600))).len(), 23);
    assert_eq!(read(Start::Ago(Duration::ZERO)), []);
    let error = topic.subscriber().from(Start::Time(u64::MAX)).join().unwrap_err();
    assert!(matches!(error, AttachError::StartFuture { .. }), "{error}");
    // Over what the first ones were in.
    publish(&topic, 1, 20..100);
    for start in [Start::Time(middle), Start::Ago(Duration::from_secs(3_600))] {
        match topic.subscriber().from(start).join().unwrap_err() {
            AttachError::StartTime { topic, lane, oldest, age, .. } => {
                assert_eq!((topic.as_str(), lane, oldest), ("t", 1, 36));
                assert!(age.is_some_and(|age| age < Duration::from_secs(60)), "{age:?}");
            }
            error => panic!("{error}"),
        }
        let mut tolerant = topic.subscriber().from_or_oldest(start).join().unwrap();
        let numbers: Vec<_> = drain(&mut tolerant).into_iter().filter(|&(lane, _)| lane == 1).collect();
        assert_eq!(numbers, (36..100).map(|number| (1, number)).collect::<Vec<_>>());
    }
    let sequence = Start::Sequence(Lane(1), 3);
    assert!(matches!(topic.subscriber().from(sequence).join(), Err(AttachError::Start { oldest: 36, .. })));
    assert_eq!(drain(&mut topic.subscriber().from_or_oldest(sequence).join().unwrap()).len(), 64);
    assert_clean(&test);
}

#[test]
fn without_stamps_a_time_is_what_was_noted_or_an_error() {
    let test = TestBus::new("start-samples");
    let bus = test.open("reader");
    let topic = topic(&bus, "t", false);
    publish(&topic, 1, 0..10);
    let noted = |end: u64| {
        let view = BusView::open(&test.name, None).unwrap();
        let mut view = view.topic("t").unwrap();
        view.sample().lanes[1].end == end
    };
    assert!(noted(10));
    // The supervisor, a thread of this process, looks at least twice a second.
    std::thread::sleep(Duration::from_millis(1_500));
    let middle = bus.now_ns();
    std::thread::sleep(Duration::from_millis(300));
    publish(&topic, 1, 10..20);
    std::thread::sleep(Duration::from_millis(300));
    let read = |start| drain(&mut topic.subscriber().from(start).join().unwrap());
    let got = read(Start::Time(middle));
    assert_eq!(got, (10..20).map(|number| (1, number)).collect::<Vec<_>>());
    // Before the topic was made nobody can have noted anything.
    let error = topic.subscriber().from(Start::Ago(Duration::from_secs(3_600))).join().unwrap_err();
    assert!(
        matches!(error, AttachError::StartUnknown { lane: 1, .. } | AttachError::StartUnknown { .. }),
        "{error}"
    );
    let mut tolerant =
        topic.subscriber().from_or_oldest(Start::Ago(Duration::from_secs(3_600))).join().unwrap();
    assert_eq!(drain(&mut tolerant).len(), 20);
    assert_clean(&test);
}

fn replay(bus: &Bus, from: &str, to: &str, window: Window) -> Result<Replayed, ReplayWindowError> {
    replay::replay(bus, from, to, &window, &mut |_| true)
}

#[test]
fn a_window_is_published_once_more_in_the_order_of_its_time() {
    let test = TestBus::new("replay-window");
    let bus = test.open("replayer");
    let (source, target) = (topic(&bus, "source", true), topic(&bus, "target", true));
    let mut all = target.group("g").join().unwrap();
    publish(&source, 1, 0..5);
    let from_ns = between(&bus);
    publish(&source, 1, 5..10);
    publish(&source, 0, 100..102);
    publish(&source, 1, 10..15);
    let until_ns = between(&bus);
    publish(&source, 1, 15..20);
    let window = Window { from: Start::Time(from_ns), until_ns: Some(until_ns), ..Window::default() };
    let done = replay(&bus, "source", "target", window).unwrap();
    assert_eq!(done, Replayed { count: 12, missed: 0 });
    // Lanes are kept, and inside a lane the order.
    let got = drain(&mut all);
    let of = |wanted: u8| got.iter().filter(|(lane, _)| *lane == wanted).map(|&(_, n)| n).collect::<Vec<_>>();
    assert_eq!((of(0), of(1)), ((100..102).collect(), (5..15).collect()));
    // The source is as it was: nobody was held, and no group is left.
    let view = BusView::open(&test.name, None).unwrap();
    assert!(view.topic("source").unwrap().sample().groups.is_empty());
    // As slowly as is wanted, and no further than is wanted.
    let begun = std::time::Instant::now();
    let slow = Window { from: Start::Oldest, rate: Some(50.0), ..Window::default() };
    let done = replay::replay(&bus, "source", "target", &slow, &mut |done| done.count < 11).unwrap();
    assert_eq!(done.count, 11);
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
    assert_eq!(drain(&mut all).len(), 11);
    assert_clean(&test);
}

#[test]
fn what_was_overwritten_meanwhile_is_counted() {
    let test = TestBus::new("replay-missed");
    let bus = test.open("replayer");
    let (source, _target) = (topic(&bus, "source", true), topic(&bus, "target", true));
    publish(&source, 1, 0..60);
    let window = Window { from: Start::Oldest, ..Window::default() };
    let mut is_first = true;
    let done = replay::replay(&bus, "source", "target", &window, &mut |_| {
        if std::mem::take(&mut is_first) {
            publish(&source, 1, 60..110);
        }
        true
    })
    .unwrap();
    assert_eq!(done.count + done.missed, 60, "{done:?}");
    assert!(done.missed >= 45, "{done:?}");
    assert_clean(&test);
}

#[test]
fn windows_that_cannot_be_replayed_are_typed_errors() {
    let test = TestBus::new("replay-errors");
    let bus = test.open("replayer");
    let source = topic(&bus, "source", true);
    topic(&bus, "unstamped", false);
    bus.topic_builder::<Words>("words").accepts::<Text>().open().unwrap();
    bus.topic_builder::<Text>("texts").open().unwrap();
    publish(&source, 1, 0..200);
    let oldest = Window { from: Start::Oldest, ..Window::default() };
    let refused = |from, to, window| replay(&bus, from, to, window).unwrap_err();
    use ReplayWindowError as E;
    assert!(matches!(refused("source", "source", oldest), E::SameTopic { .. }));
    for (from, to) in [("none", "source"), ("source", "none")] {
        let error = refused(from, to, oldest);
        assert!(matches!(error, E::Attach(AttachError::Topic(_))), "{error}");
        assert!(error.to_string().contains("none"), "{error}");
    }
    let error = refused("words", "texts", oldest).to_string();
    assert!(error.contains("Words v1") && !error.contains("Text v1,"), "{error}");
    let error = refused("source", "texts", oldest).to_string();
    assert!(error.contains("plain bytes") && error.contains("Text v1"), "{error}");
    let ended = Window { until_ns: Some(bus.now_ns()), ..oldest };
    assert!(matches!(refused("unstamped", "source", ended), E::NoStamps { .. }));
    let empty = Window { from: Start::Ago(Duration::ZERO), until_ns: Some(1), ..Window::default() };
    assert!(matches!(refused("source", "unstamped", empty), E::Empty { .. }));
    let never = Window { rate: Some(0.0), ..oldest };
    assert!(matches!(refused("source", "unstamped", never), E::Rate { .. }));
    let gone = Window { from: Start::Ago(Duration::from_secs(60)), ..Window::default() };
    assert!(matches!(
        refused("source", "unstamped", gone),
        E::Attach(AttachError::StartTime { oldest: 136, .. })
    ));
    let done = replay(&bus, "source", "unstamped", Window { or_oldest: true, ..gone }).unwrap();
    assert_eq!(done.count, 64);
    assert_clean(&test);
}

#[test]
fn the_command_line_begins_at_times_and_replays() {
    let cli = CliBus::new("cli-replay");
    cli.run(&["up"]).expect(0);
    for name in ["a", "b"] {
        cli.run(&["create", name, "--lanes", "1", "--capacity", "64"]).expect(0);
    }
    for text in ["one", "two"] {
        cli.run(&["pub", "a", text]).expect(0);
    }
    std::thread::sleep(Duration::from_millis(1_100));
    let json = cli.run(&["sub", "a", "--tap", "--from", "oldest", "-n", "1", "--json"]).expect(0).json();
    let moment = json["time"].as_str().unwrap().to_owned();
    cli.run(&["pub", "a", "three"]).expect(0);
    // At once, before what has just come is a second old.
    let replay = |arguments: &[&str]| cli.run(&[&["replay", "a"], arguments].concat());
    assert_eq!(replay(&["--from", "1s", "--to", "b"]).expect(0).out, "replayed 1 message to b\n");
    let json = replay(&["--from", "oldest", "--to-time", "1s-ago", "--to", "b", "--json", "--rate", "100"]);
    let json = json.expect(0).json();
    assert_eq!((&json["replayed"], &json["missed"]), (&2.into(), &0.into()));
    let sub = |from: &str| cli.run(&["sub", "a", "--tap", "--from", from, "--timeout", "300ms"]);
    assert_eq!(sub("5m").expect(0).out, "one\ntwo\nthree\n");
    assert_eq!(sub("0.01s-ago").expect(4).out, "");
    sub("00:00").expect(0);
    assert!(sub(&moment).expect(0).out.ends_with("two\nthree\n"));
    sub("2400-01-01T00:00:00Z").expect(2).says("future");
    cli.run(&["sub", "a", "--from", "whenever"]).expect(2).says("10s-ago");
    let b = cli.run(&["sub", "b", "--tap", "--from", "oldest", "-n", "3"]).expect(0).out;
    assert_eq!(b, "three\none\ntwo\n");
    replay(&["--from", "5m", "--to", "a"]).expect(2).says("source and target");
    replay(&["--from", "5m", "--to", "c"]).expect(3).says("\"c\"");
    for _ in 0..2 {
        let many: String = (0..50).map(|number| format!("{number}\n")).collect();
        cli.run_with(&["pub", "a"], many.as_bytes());
    }
    sub("5m").expect(3).says("oldest message is");
    let all = cli.run(&["sub", "a", "--tap", "--from", "5m", "--or-oldest", "--timeout", "300ms"]);
    assert_eq!(all.expect(0).out.lines().count(), 64);
    cli.run(&["down", "--force"]).expect(0);
}
