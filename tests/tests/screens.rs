//! What messages say of themselves, and which of them a subscriber does not want to see: time to live, filters, samples.

#![allow(unsafe_code)]

use bus_shm::dead_letters::{self, Filter};
use bus_shm::inspect::BusView;
use bus_shm::{
    AttachError, Bytes, Expired, Lane, Meta, PublishError, ReceiveError, Subscriber, Topic, TopicError,
};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use tests::harness::{self, Agent, Role, TestBus, Words, eventually};

const ENTRY: &str = "child";

#[test]
fn child() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "teller" => teller(role),
        "answerer" => answerer(role),
        "toucher" => toucher(role),
        other => panic!("no such role: {other}"),
    }
}

fn spawn(role: &str, test: &TestBus, argument: &str) -> Agent {
    Agent::spawn(ENTRY, role, &test.name, argument)
}

fn topic(test: &TestBus, producers: u32) -> Topic<Words> {
    test.open("main").topic_builder("t").producers(producers).open().unwrap()
}

fn view(test: &TestBus) -> BusView {
    BusView::open(&test.name, None).unwrap()
}

/// Numbers of the messages that are there now.
fn numbers(subscriber: &mut Subscriber<Words>) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(message) = subscriber.try_receive().unwrap() {
        numbers.push(message.value().unwrap().number());
        message.ack().unwrap();
    }
    numbers
}

/// Publishes one message of each kind: plain, with a key, with everything.
fn teller(mut role: Role) {
    let topic = role.open().topic::<Words>("t").unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    publisher.publish_with(Lane::NORMAL, &Words::numbered(1), &Meta::new().key("customer-7")).unwrap();
    let all = Meta::new().key("customer-8").correlation(77).ttl(Duration::from_secs(3600));
    publisher.publish_with(Lane::HIGH, &Words::numbered(2), &all).unwrap();
    role.parent.tell(std::process::id());
    role.parent.hear();
    drop(publisher);
    role.parent.tell("gone");
}

#[test]
fn messages_of_another_process_say_who_they_are_from_and_what_about() {
    for producers in [1, 64] {
        for copied in [false, true] {
            let test = TestBus::new("metadata");
            let topic = topic(&test, producers);
            let group = topic.group("reader");
            let mut subscriber = if copied { group.copied() } else { group }.join().unwrap();
            let mut tap = topic.tap().unwrap();
            let mut agent = spawn("teller", &test, "");
            let pid = agent.line.hear_number() as u32;
            let bus = test.open("main");
            let me = bus.participants().into_iter().find(|info| info.pid == pid).unwrap();
            for subscriber in [&mut subscriber, &mut tap] {
                let mut ids = Vec::new();
                for number in [2, 0, 1] {
                    let message = subscriber.receive().unwrap();
                    assert_eq!(message.value().unwrap().number(), number);
                    let said = message.metadata();
                    let origin = said.origin().unwrap();
                    assert_eq!((origin.pid, origin.service.as_str()), (pid, "teller"));
                    assert_eq!(origin.participant, me.participant);
                    assert_eq!(said.key_hash().is_some(), number != 0);
                    assert_eq!(said.has_key("customer-7"), number == 1);
                    assert_eq!(said.has_key("customer-8"), number == 2);
                    assert_eq!(said.correlation(), (number == 2).then_some(77));
                    assert_eq!(said.expiry_ns().is_some_and(|at_ns| at_ns > bus.now_ns()), number == 2);
                    assert_eq!((said.cause(), said.hops()), (None, 0));
                    assert!(said.stamp_ns() != 0);
                    ids.push(said.id());
                    message.ack().unwrap();
                }
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), 3, "no two messages have one identity");
            }
            agent.line.tell("leave");
            agent.line.expect("gone");
            agent.join();
            harness::assert_clean(&test);
        }
    }
}

/// Answers the first message, and with that says what it follows from.
fn answerer(mut role: Role) {
    let bus = role.open();
    let mut subscriber = bus.topic::<Words>("t").unwrap().group("answerer").join().unwrap();
    let mut publisher = bus.topic::<Words>("answers").unwrap().publisher().unwrap();
    role.parent.tell("ready");
    let question = subscriber.receive().unwrap();
    let meta = Meta::new().caused_by(&question.metadata());
    publisher.publish_with(Lane::NORMAL, &Words::numbered(9), &meta).unwrap();
    question.ack().unwrap();
}

#[test]
fn an_answer_names_its_question_and_carries_its_correlation() {
    let test = TestBus::new("causes");
    let topic = topic(&test, 64);
    let mut answers = test.open("main").topic::<Words>("answers").unwrap().subscribe().unwrap();
    let mut own = topic.subscribe().unwrap();
    for correlation in [None, Some(1_u128 << 100)] {
        let mut agent = spawn("answerer", &test, "");
        agent.line.expect("ready");
        let mut publisher = topic.publisher().unwrap();
        let meta = correlation.map_or(Meta::new(), |correlation| Meta::new().correlation(correlation));
        publisher.publish_with(Lane::NORMAL, &Words::numbered(1), &meta).unwrap();
        let question = own.receive().unwrap();
        let asked = question.metadata().id();
        let answer = answers.receive().unwrap();
        let said = answer.metadata();
        assert_eq!(said.cause(), Some(asked));
        assert_eq!(said.correlation(), Some(correlation.unwrap_or(asked.as_correlation())));
        assert_eq!(said.hops(), 1);
        answer.ack().unwrap();
        question.ack().unwrap();
        agent.join();
    }
}

#[test]
fn what_a_message_says_survives_a_retry_and_a_dead_letter() {
    for (producers, shared) in [(1, false), (64, false), (64, true)] {
        for len in [8, 300, 5_000] {
            let test = TestBus::new("kept");
            let bus = test.open("main");
            let topic = bus.topic_builder::<Bytes>("t").producers(producers).open().unwrap();
            let group = topic.group("g").retry_delays(Duration::ZERO, Duration::ZERO);
            let mut subscriber = if shared { group.shared() } else { group }.join().unwrap();
            let meta = Meta::new().key("k").correlation(5).ttl(Duration::from_millis(1_500));
            let payload = vec![7_u8; len];
            let mut publisher = topic.publisher().unwrap();
            publisher.publish_bytes_with(Lane::NORMAL, &payload, &meta).unwrap();
            subscriber.receive().unwrap().retry("once").unwrap();
            let again = subscriber.receive().unwrap();
            let said = again.metadata();
            assert_eq!((again.attempts(), said.correlation(), said.has_key("k")), (2, Some(5), true));
            assert_eq!((said.origin(), again.payload()), (None, payload.as_slice()));
            let expiry_ns = said.expiry_ns().unwrap();
            again.reject("never").unwrap();
            let letters = dead_letters::list(&view(&test), &Filter::default()).unwrap();
            let shown = dead_letters::payload(&view(&test), letters[0].id).unwrap().unwrap();
            assert_eq!(shown.1, payload);
            harness::assert_clean(&test);
            // A topic of one producer has no other place.
            drop(publisher);
            // Its time is over by the time that somebody replays it, and it is handed out all the same.
            eventually("its time to live is over", || bus.now_ns() > expiry_ns);
            assert_eq!(dead_letters::replay(&bus, &Filter::default(), None).unwrap(), 1);
            let replayed = subscriber.receive().unwrap();
            let said = replayed.metadata();
            assert_eq!((said.correlation(), said.has_key("k"), said.expiry_ns()), (Some(5), true, None));
            assert_eq!(replayed.payload(), payload);
            replayed.ack().unwrap();
            assert_eq!(subscriber.expired_count(), 0);
        }
    }
}

#[test]
fn extended_messages_of_every_length_are_whole() {
    for producers in [1, 64] {
        let test = TestBus::new("lengths");
        let topic = test
            .open("main")
            .topic_builder::<Bytes>("t")
            .producers(producers)
            .max_message(4_096)
            .open()
            .unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for len in (0..200).chain(4_000..=4_096) {
            let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let meta = Meta::new().correlation(1 + len as u128);
            let meta = if len % 3 == 0 { Meta::new() } else { meta };
            publisher.publish_bytes_with(Lane::NORMAL, &payload, &meta).unwrap();
            let message = subscriber.receive().unwrap();
            assert_eq!(message.payload(), payload, "{len} bytes");
            assert_eq!(message.metadata().correlation(), (len % 3 != 0).then_some(1 + len as u128));
            message.ack().unwrap();
        }
        let too_long = publisher.publish_bytes_with(Lane::NORMAL, &[0; 4_097], &Meta::new().correlation(1));
        assert!(matches!(too_long, Err(PublishError::TooLarge { len: 4_097, max: 4_096, .. })));
    }
}

#[test]
fn what_a_message_says_survives_the_replay_of_its_window() {
    for producers in [1, 64] {
        for len in [8, 30, 5_000] {
            let test = TestBus::new("replayed");
            let bus = test.open("main");
            let source = bus.topic_builder::<Bytes>("t").producers(producers).open().unwrap();
            let mut subscriber = bus.topic::<Bytes>("u").unwrap().subscribe().unwrap();
            let payload: Vec<u8> = (0..len).map(|index| index as u8 ^ 0x55).collect();
            let meta = Meta::new().key("k").correlation(5).ttl(Duration::ZERO);
            let mut publisher = source.publisher().unwrap();
            publisher.publish_bytes_with(Lane::NORMAL, &payload, &meta).unwrap();
            publisher.publish(&payload).unwrap();
            let window = bus_shm::replay::Window { from: bus_shm::Start::Oldest, ..Default::default() };
            bus_shm::replay::replay(&bus, "t", "u", &window, &mut |_| true).unwrap();
            for correlation in [Some(5), None] {
                let message = subscriber.receive().unwrap();
                assert_eq!(message.payload(), payload, "{len} bytes");
                let said = message.metadata();
                assert_eq!((said.correlation(), said.has_key("k")), (correlation, correlation.is_some()));
                assert_eq!(said.expiry_ns(), None, "somebody asked for it");
                message.ack().unwrap();
            }
        }
    }
}

#[test]
fn a_value_that_panics_while_it_is_archived_leaves_nothing_behind() {
    /// Panics when it is archived.
    struct Bomb;
    impl rkyv::Archive for Bomb {
        type Archived = rkyv::Archived<u64>;
        type Resolver = ();
        fn resolve(&self, (): (), out: rkyv::Place<Self::Archived>) {
            let _ = out;
            panic!("a value that cannot be archived");
        }
    }
    impl<S: rkyv::rancor::Fallible + ?Sized> rkyv::Serialize<S> for Bomb {
        fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
            panic!("a value that cannot be archived");
        }
    }
    bus_shm::message!(Bomb, version 1, {});
    let test = TestBus::new("bomb");
    let bus = test.open("main");
    let topic = bus.topic::<Bomb>("t").unwrap();
    let mut tap = topic.tap().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let meta = Meta::new().key("k").correlation(1);
    let published = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        publisher.publish_with(Lane::NORMAL, &Bomb, &meta).is_ok()
    }));
    assert!(published.is_err());
    publisher.publish_bytes(Lane::NORMAL, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let message = tap.receive().unwrap();
    assert_eq!(message.payload(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((message.metadata().correlation(), message.metadata().key_hash()), (None, None));
}

#[test]
fn a_message_that_was_wanted_is_wanted_when_it_comes_again() {
    let test = TestBus::new("wanted-again");
    let topic = topic(&test, 64);
    let _other = topic.publisher().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let group = topic.group("g").only_producer(publisher.producer());
    let mut subscriber = group.retry_delays(Duration::ZERO, Duration::ZERO).join().unwrap();
    publisher.publish(&Words::numbered(3)).unwrap();
    subscriber.receive().unwrap().retry("once").unwrap();
    let again = subscriber.receive_timeout(Duration::from_secs(10)).unwrap().expect("it comes again");
    assert_eq!((again.value().unwrap().number(), again.attempts()), (3, 2));
    again.ack().unwrap();
}

// ---- Time to live ----

#[test]
fn messages_whose_time_is_over_are_skipped_counted_and_wait_for_nobody() {
    for producers in [1, 64] {
        for shared in [false, true] {
            let test = TestBus::new("ttl");
            let topic = topic(&test, producers);
            let group = topic.group("g");
            let mut subscriber = if shared { group.shared() } else { group }.join().unwrap();
            let mut publisher = topic.publisher().unwrap();
            let short = Meta::new().ttl(Duration::ZERO);
            let long = Meta::new().ttl(Duration::from_secs(3600));
            for number in 0..30 {
                let meta = [Meta::new(), short, long][number as usize % 3];
                publisher.publish_with(Lane::NORMAL, &Words::numbered(number), &meta).unwrap();
            }
            let expected: Vec<u64> = (0..30).filter(|number| number % 3 != 1).collect();
            assert_eq!(numbers(&mut subscriber), expected);
            assert_eq!((subscriber.expired_count(), subscriber.lag_count(Lane::NORMAL)), (10, 0));
            assert!(publisher.flush(Duration::ZERO), "what was skipped is done");
        }
    }
}

#[test]
fn expired_messages_can_become_dead_letters() {
    let test = TestBus::new("ttl-dead");
    let topic = topic(&test, 64);
    let mut subscriber = topic.group("g").expired(Expired::DeadLetter).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish_with(Lane::NORMAL, &Words::numbered(0), &Meta::new().ttl(Duration::ZERO)).unwrap();
    publisher.publish(&Words::numbered(1)).unwrap();
    assert_eq!(numbers(&mut subscriber), [1]);
    let letters = dead_letters::list(&view(&test), &Filter::default()).unwrap();
    assert_eq!((letters.len(), subscriber.expired_count()), (1, 1));
    assert!(letters[0].error.contains("time to live"), "{}", letters[0].error);
}

#[test]
fn a_topic_gives_its_messages_a_time_to_live() {
    let test = TestBus::new("topic-ttl");
    let bus = test.open("main");
    let ttl = Duration::from_millis(200);
    let topic = bus.topic_builder::<Words>("t").ttl(ttl).open().unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    assert_eq!(numbers(&mut subscriber), [0]);
    publisher.publish(&Words::numbered(1)).unwrap();
    let over_ns = bus.now_ns() + ttl.as_nanos() as u64;
    eventually("its time is over", || bus.now_ns() > over_ns);
    publisher.publish(&Words::numbered(2)).unwrap();
    assert_eq!(numbers(&mut subscriber), [2]);
    assert_eq!(subscriber.expired_count(), 1);
    let differs = bus.topic_builder::<Words>("t").ttl(Duration::from_secs(1)).open();
    assert!(matches!(differs, Err(TopicError::Differs { option: "ttl", .. })));
    let unstamped = bus.topic_builder::<Words>("u").stamps(false).ttl(ttl).open();
    assert!(matches!(unstamped, Err(TopicError::Option { option: "ttl", .. })));
}

// ---- Filters and samples ----

#[test]
fn filters_on_headers_leave_out_what_is_not_wanted_and_count_it() {
    let test = TestBus::new("filters");
    let topic = topic(&test, 64);
    let mut by_key = topic.group("key").only_key("a").join().unwrap();
    let mut by_lane = topic.group("lane").only_lanes(&[Lane::CRITICAL, Lane::HIGH]).join().unwrap();
    let mut publishers = [topic.publisher().unwrap(), topic.publisher().unwrap()];
    let mut by_producer = topic.group("producer").only_producer(publishers[1].producer()).join().unwrap();
    for number in 0..60_u64 {
        let lane = Lane(number as u8 % 3);
        let meta = if number % 2 == 0 { Meta::new().key("a") } else { Meta::new() };
        publishers[number as usize / 30].publish_with(lane, &Words::numbered(number), &meta).unwrap();
    }
    let mut found = numbers(&mut by_key);
    found.sort_unstable();
    assert_eq!(found, (0..60).filter(|number| number % 2 == 0).collect::<Vec<_>>());
    assert_eq!(by_key.filtered_count(), 30);
    assert_eq!(numbers(&mut by_lane).len(), 40);
    assert_eq!(by_lane.filtered_count(), 20);
    let mut found = numbers(&mut by_producer);
    found.sort_unstable();
    assert_eq!(found, (30..60).collect::<Vec<_>>());
    for publisher in &mut publishers {
        assert!(publisher.flush(Duration::ZERO), "what was left out is done");
    }
}

#[test]
fn ten_percent_and_a_predicate() {
    let test = TestBus::new("sample");
    let topic = topic(&test, 64);
    let wanted = |value: &tests::harness::ArchivedWords| value.number().is_multiple_of(4);
    let mut first = topic.group("first").sample(0.1).join().unwrap();
    let mut second = topic.group("second").sample(0.1).join().unwrap();
    let mut both = topic.group("both").sample(0.1).filter(wanted).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for number in 0..1_000 {
        publisher.publish(&Words::numbered(number)).unwrap();
    }
    let sample = numbers(&mut first);
    assert_eq!((sample.len(), first.filtered_count()), (100, 900));
    assert_eq!(sample, numbers(&mut second), "the sample is decided by the sequence");
    let expected: Vec<u64> = sample.into_iter().filter(|number| number % 4 == 0).collect();
    assert_eq!(numbers(&mut both), expected);
    assert_eq!(both.filtered_count(), 1_000 - expected.len() as u64);
}

#[test]
fn a_batch_leaves_out_what_a_filter_leaves_out() {
    let test = TestBus::new("batch-filter");
    let topic = topic(&test, 64);
    let mut subscriber = topic.group("g").filter(|value| value.number() % 2 == 1).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for number in 0..20 {
        publisher.publish(&Words::numbered(number)).unwrap();
    }
    let mut batch = subscriber.receive_batch(1, 100, Duration::ZERO).unwrap();
    let mut found = Vec::new();
    while let Some(message) = batch.next_message().unwrap() {
        found.push(message.value().unwrap().number());
    }
    assert_eq!(found, (0..20).filter(|number| number % 2 == 1).collect::<Vec<_>>());
    assert_eq!(batch.len(), 10);
    batch.ack();
    assert!(publisher.flush(Duration::ZERO));
}

#[test]
fn a_filter_that_panics_harms_one_message_only() {
    let test = TestBus::new("panics");
    let topic = topic(&test, 64);
    let wanted = |value: &tests::harness::ArchivedWords| {
        assert!(value.number() != 1, "number 1 is more than this filter can bear");
        true
    };
    let mut subscriber = topic.group("g").filter(wanted).join().unwrap();
    let mut tap = topic.subscriber().tap().filter(wanted).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for number in 0..3 {
        publisher.publish(&Words::numbered(number)).unwrap();
    }
    for subscriber in [&mut subscriber, &mut tap] {
        subscriber.receive().unwrap().ack().unwrap();
        let error = subscriber.receive().unwrap_err();
        assert!(matches!(error, ReceiveError::FilterPanicked { sequence: 1, .. }), "{error}");
        let third = subscriber.receive().unwrap();
        assert_eq!(third.value().unwrap().number(), 2);
        third.ack().unwrap();
    }
    let letters = dead_letters::list(&view(&test), &Filter::default()).unwrap();
    assert_eq!((letters.len(), letters[0].sequence), (1, 1));
    assert!(publisher.flush(Duration::ZERO));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let test = TestBus::new("options");
    let bus = test.open("main");
    let topic = topic(&test, 64);
    let unstamped = bus.topic_builder::<Words>("u").stamps(false).open().unwrap();
    let zero = Duration::ZERO;
    for (builder, name) in [
        (topic.group("g").sample(0.0), "sample"),
        (topic.group("g").sample(f64::NAN), "sample"),
        (topic.group("g").sample(1.5), "sample"),
        (topic.group("g").only_lanes(&[]), "only_lanes"),
        (topic.group("g").only_lanes(&[Lane(3), Lane(200)]), "only_lanes"),
        (topic.group("g").max_age(zero), "max_age"),
        (unstamped.group("g").max_age(Duration::from_secs(1)), "max_age"),
    ] {
        let error = builder.join().unwrap_err();
        assert!(matches!(error, AttachError::Option { option, .. } if option == name), "{name}: {error}");
    }
    // Nothing was joined meanwhile.
    let mut publisher = topic.publisher().unwrap();
    for number in 0..2_000 {
        publisher.publish(&Words::numbered(number)).unwrap();
    }
}

#[test]
fn messages_that_are_too_old_for_a_subscriber_are_left_out() {
    let test = TestBus::new("age");
    let bus = test.open("main");
    let topic = topic(&test, 64);
    let age = Duration::from_millis(150);
    let mut subscriber = topic.group("g").max_age(age).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    let over_ns = bus.now_ns() + age.as_nanos() as u64;
    eventually("it is old", || bus.now_ns() > over_ns);
    publisher.publish(&Words::numbered(1)).unwrap();
    assert_eq!(numbers(&mut subscriber), [1]);
    assert_eq!(subscriber.filtered_count(), 1);
}

/// One cell of an arena: the payload's second half lies on a page of its own.
const CELL_BYTES: usize = 8_192;
const PAYLOAD_BYTES: usize = CELL_BYTES - 32;
const PAGE_BYTES: usize = 4_096;

/// Takes away the pages that hold the payloads of the messages 1 to 5 but not their headers, and receives.
fn toucher(mut role: Role) {
    let topic = role.open().topic::<Bytes>("t").unwrap();
    let group = topic.group("toucher").filter_bytes(|payload| payload[PAYLOAD_BYTES - 1] == 1);
    let group = if role.argument == "key" { group.only_key("wanted") } else { group };
    let mut subscriber = group.join().unwrap();
    role.parent.tell("ready");
    role.parent.expect("published");
    // The arena is mapped when the first message is looked at.
    let first = subscriber.receive().unwrap();
    role.parent.tell(first.sequence());
    first.ack().unwrap();
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        if !line.contains("/t/arena-") {
            continue;
        }
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
        for message in 1..6 {
            let at = start + PAGE_BYTES + message * CELL_BYTES + PAGE_BYTES;
            assert!(at + PAGE_BYTES <= end);
            // SAFETY: these pages are mapped; whoever touches them from now on ends by a signal, which is the test.
            assert_eq!(unsafe { libc::mprotect(at as *mut libc::c_void, PAGE_BYTES, libc::PROT_NONE) }, 0);
        }
    }
    let last = subscriber.receive().unwrap();
    role.parent.tell(last.sequence());
    assert_eq!(last.payload()[PAYLOAD_BYTES - 1], 1);
    last.ack().unwrap();
}

#[test]
fn payloads_of_rejected_messages_are_never_touched() {
    for (filter, survives) in [("key", true), ("predicate", false)] {
        let test = TestBus::new("untouched");
        let bus = test.open("publisher");
        let topic = bus.topic_builder::<Bytes>("t").open().unwrap();
        let mut agent = spawn("toucher", &test, filter);
        agent.line.expect("ready");
        let mut publisher = topic.publisher().unwrap();
        for number in 0..7_u8 {
            let is_wanted = matches!(number, 0 | 6);
            let meta = if is_wanted { Meta::new().key("wanted") } else { Meta::new() };
            let payload = vec![u8::from(is_wanted); PAYLOAD_BYTES];
            publisher.publish_bytes_with(Lane::NORMAL, &payload, &meta).unwrap();
        }
        agent.line.tell("published");
        agent.line.expect("0");
        if survives {
            agent.line.expect("6");
            agent.join();
        } else {
            assert_eq!(agent.wait().signal(), Some(libc::SIGSEGV), "a predicate reads the payload");
        }
    }
}
