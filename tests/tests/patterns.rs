//! One subscription over many topics: what joins it, in which order it hands out, how it sleeps, and what is left of it.

use bus_shm::{AttachError, Bus, Bytes, Lane, ManyError, ManySubscriber, Start, Wait};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use tests::harness::{Agent, Role, TestBus, Words, assert_clean, eventually, role};

const PATIENCE: Duration = Duration::from_secs(20);

/// A publisher in a process of its own, which does what it is told: `create NAME`, `send TOPIC LANE NUMBER`, `everywhere NUMBER`,
/// `half TOPIC NUMBER` (published, and never rung), `end`. It says when each is done, and at what time that was.
fn publish(mut role: Role) {
    let bus = role.open();
    let mut publishers = std::collections::HashMap::new();
    role.parent.tell("here");
    while let Some(line) = role.parent.try_hear() {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let mut publisher = |topic: &str| {
            let open = || bus.topic::<Bytes>(topic).unwrap().publisher().unwrap();
            publishers.entry(topic.to_owned()).or_insert_with(open) as *mut bus_shm::Publisher<Bytes>
        };
        match words[0] {
            "create" => _ = publisher(words[1]),
            "send" => {
                let publisher = publisher(words[1]);
                // SAFETY: the map is not touched while it is used, and nobody else has it.
                #[allow(unsafe_code)]
                let publisher = unsafe { &mut *publisher };
                publisher.publish_bytes(Lane(number(2) as u8), &number(3).to_le_bytes()).unwrap();
            }
            "everywhere" => {
                for publisher in publishers.values_mut() {
                    publisher.publish(&number(1).to_le_bytes()).unwrap();
                }
            }
            "half" => {
                let mut publisher = bus.topic::<Words>(words[1]).unwrap().publisher().unwrap();
                let value = Words::numbered(number(2));
                let mut parts = 0;
                // A batch rings at its end, which does not come.
                let endless = std::iter::from_fn(|| {
                    parts += 1;
                    if parts == 2 {
                        role.parent.tell(bus.now_ns());
                        role.parent.try_hear();
                    }
                    Some(&value)
                });
                let _ = publisher.publish_batch(Lane::NORMAL, endless.take(2));
            }
            "end" => return,
            other => panic!("what is {other}?"),
        }
        role.parent.tell(bus.now_ns());
    }
}

struct Publisher(Agent);

impl Publisher {
    fn spawn(test: &TestBus, entry: &str) -> Self {
        let mut agent = Agent::spawn(entry, "publisher", &test.name, 0);
        agent.line.expect("here");
        Self(agent)
    }

    /// Has it do something; when it was done.
    fn does(&mut self, what: &str) -> u64 {
        self.0.line.tell(what);
        self.0.line.hear_number()
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload.try_into().expect("eight bytes"))
}

/// Topic and number of the next message, which is acknowledged.
fn next(many: &mut ManySubscriber<Bytes>) -> (String, u64) {
    let incoming = many.receive_timeout(PATIENCE).unwrap().expect("a message in time");
    let got = (incoming.topic().to_owned(), number(incoming.payload()));
    incoming.ack().unwrap();
    got
}

#[test]
fn one_subscription_reads_what_matches_and_nothing_else() {
    const ENTRY: &str = "one_subscription_reads_what_matches_and_nothing_else";
    if let Some(role) = role() {
        return publish(role);
    }
    let test = TestBus::new("patterns-match");
    let bus = test.open("reader");
    let mut publisher = Publisher::spawn(&test, ENTRY);
    for topic in ["observation.email", "observation.email.sent", "observation", "action.done"] {
        publisher.does(&format!("create {topic}"));
    }
    // Made by the bus for itself, and matched by no wildcard in the first place.
    let notices = bus.topic::<Bytes>("action.done").unwrap().dead_letter_notices().unwrap();
    let mut below: ManySubscriber<Bytes> = bus.subscribe_pattern("observation.*").join().unwrap();
    let mut all: ManySubscriber<Bytes> = bus.subscribe_pattern("*").group("all").join().unwrap();
    let mut named: ManySubscriber<Bytes> =
        bus.subscribe_patterns(["action.+", "observation", "not.there"]).join().unwrap();
    assert_eq!((below.topic_count(), all.topic_count(), named.topic_count()), (2, 4, 2));
    assert!(!all.topics().any(|topic| topic == notices.name()));
    let own: ManySubscriber<Bytes> = bus.subscribe_pattern("_bus.*").join().unwrap();
    assert_eq!(own.topic_count(), 1);
    for number in 0..50 {
        publisher.does(&format!("everywhere {number}"));
    }
    for (many, topics) in [(&mut below, 2), (&mut all, 4), (&mut named, 2)] {
        let mut expected = std::collections::HashMap::new();
        for _ in 0..50 * topics {
            let (topic, got) = next(many);
            let expected = expected.entry(topic).or_insert(0);
            assert_eq!(got, *expected);
            *expected += 1;
        }
        assert_eq!(expected.len(), topics);
        assert!(many.try_receive().unwrap().is_none());
    }
    // Topics of another type are not for this one.
    bus.topic::<Words>("observation.typed").unwrap();
    let mut typed: ManySubscriber<Words> = bus.subscribe_pattern("observation.*").join().unwrap();
    assert_eq!(typed.topics().collect::<Vec<_>>(), ["observation.typed"]);
    bus.topic::<Words>("observation.typed")
        .unwrap()
        .publisher()
        .unwrap()
        .publish(&Words::numbered(7))
        .unwrap();
    let incoming = typed.receive_timeout(PATIENCE).unwrap().unwrap();
    assert!(incoming.value().unwrap().is_numbered(7));
    incoming.ack().unwrap();
    assert_clean(&test);
}

#[test]
fn topics_that_are_created_later_join_by_themselves() {
    const ENTRY: &str = "topics_that_are_created_later_join_by_themselves";
    if let Some(role) = role() {
        return publish(role);
    }
    let test = TestBus::new("patterns-later");
    let bus = test.open("reader");
    let mut publisher = Publisher::spawn(&test, ENTRY);
    let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("late.*").wait(Wait::Park).join().unwrap();
    assert!(many.receive_timeout(Duration::from_millis(20)).unwrap().is_none());
    let mut took_us = Vec::new();
    for round in 0..20_u64 {
        let thread = std::thread::spawn(move || {
            let begun = publisher.does(&format!("create late.{round}"));
            // At once: what is published before the subscription knows of the topic must not be lost.
            for part in 0..3 {
                publisher.does(&format!("send late.{round} 2 {part}"));
            }
            (publisher, begun)
        });
        assert_eq!(next(&mut many), (format!("late.{round}"), 0));
        let now_ns = bus.now_ns();
        assert_eq!(next(&mut many).1, 1);
        assert_eq!(next(&mut many).1, 2);
        let begun;
        (publisher, begun) = thread.join().unwrap();
        took_us.push(now_ns.saturating_sub(begun) / 1_000);
    }
    took_us.sort_unstable();
    println!(
        "from a topic's creation to its first message here: p50 {} us, max {} us",
        took_us[10], took_us[19]
    );
    assert!(took_us[10] <= 10_000, "{took_us:?}");
    // And without anybody publishing: the group holds what comes.
    publisher.does("create late.quiet");
    eventually("it has joined", || {
        assert!(many.try_receive().unwrap().is_none());
        many.topics().any(|topic| topic == "late.quiet")
    });
    publisher.does("create other.quiet");
    assert_eq!(many.topic_count(), 21);
    drop(many);
    assert_clean(&test);
}

fn thread_cpu() -> Duration {
    // SAFETY: it is a plain structure that the call fills.
    #[allow(unsafe_code)]
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Descriptors that this process has of files of a bus.
fn descriptors(test: &TestBus) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    links
        .filter(|link| std::fs::read_link(link.path()).is_ok_and(|path| path.starts_with(test.path())))
        .count()
}

#[test]
fn a_thousand_topics_are_waited_on_without_a_look_at_each() {
    const ENTRY: &str = "a_thousand_topics_are_waited_on_without_a_look_at_each";
    const TOPICS: usize = 1_000;
    if let Some(role) = role() {
        return publish(role);
    }
    let test = TestBus::new("patterns-thousand");
    let bus = test.open("reader");
    for index in 0..TOPICS {
        bus.topic_builder::<Bytes>(&format!("many.{index}")).capacity(16).open().unwrap();
    }
    let mut publisher = Publisher::spawn(&test, ENTRY);
    for index in 0..TOPICS {
        publisher.does(&format!("create many.{index}"));
    }
    let before = descriptors(&test);
    let begun = Instant::now();
    let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("many.+").join().unwrap();
    let join = begun.elapsed();
    assert_eq!(many.topic_count(), TOPICS);

    // It sleeps, and uses nothing for it.
    assert!(many.receive_timeout(Duration::from_millis(100)).unwrap().is_none());
    assert_eq!(many.active_count(), 0);
    let cpu = thread_cpu();
    assert!(many.receive_timeout(Duration::from_secs(3)).unwrap().is_none());
    let idle = thread_cpu() - cpu;
    println!("{TOPICS} topics: joined in {join:?}, {idle:?} of CPU in 3 s of waiting");
    assert!(idle < Duration::from_millis(60), "{idle:?}");

    // All of them are heard.
    publisher.does("everywhere 1");
    let mut heard = std::collections::HashSet::new();
    for _ in 0..TOPICS {
        assert!(heard.insert(next(&mut many).0));
    }
    assert!(many.receive_timeout(Duration::from_millis(50)).unwrap().is_none());
    let now = descriptors(&test);
    println!("{} descriptors more, with an arena of each topic", now - before);
    assert!(now - before < 50, "{before} and {now}");

    // One of a thousand wakes it, and only that one is read.
    publisher.does("send many.500 2 7");
    assert_eq!(next(&mut many), ("many.500".into(), 7));
    assert!(many.active_count() <= 2);
    drop(many);
    assert_clean(&test);
}

#[test]
fn urgent_messages_of_any_topic_come_first_and_topics_take_turns() {
    let test = TestBus::new("patterns-urgent");
    let bus = test.open("reader");
    let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("u.*").starvation_guard(0).join().unwrap();
    let publishers: Vec<_> = (0..40)
        .map(|index| bus.topic::<Bytes>(&format!("u.{index}")).unwrap().publisher().unwrap())
        .collect();
    let mut publishers = publishers;
    eventually("all have joined", || {
        assert!(many.try_receive().unwrap().is_none());
        many.topic_count() == 40
    });
    // As many as are looked at for a message: the order is exact.
    for publisher in &mut publishers[..32] {
        for round in 0..3_u64 {
            publisher.publish(&round.to_le_bytes()).unwrap();
        }
    }
    for index in [31, 7, 19] {
        publishers[index].publish_bytes(Lane::HIGH, &10_u64.to_le_bytes()).unwrap();
        publishers[index].publish_bytes(Lane::CRITICAL, &20_u64.to_le_bytes()).unwrap();
    }
    let got: Vec<_> = (0..32 * 3 + 6).map(|_| next(&mut many)).collect();
    assert!(got[..3].iter().all(|(_, number)| *number == 20), "{got:?}");
    assert!(got[3..6].iter().all(|(_, number)| *number == 10), "{got:?}");
    for (round, turn) in got[6..].chunks(32).enumerate() {
        let topics: std::collections::HashSet<_> = turn.iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics.len(), 32, "each topic once a turn");
        assert!(turn.iter().all(|(_, number)| *number == round as u64));
    }
    // A topic of one lane has no critical messages, only normal ones.
    let plain = bus.topic_builder::<Bytes>("u.plain").lanes(1).open().unwrap();
    plain.publisher().unwrap().publish(&1_u64.to_le_bytes()).unwrap();
    publishers[3].publish_bytes(Lane::HIGH, &2_u64.to_le_bytes()).unwrap();
    eventually("it has joined", || {
        many.topic_count() == 41 || many.prepare_to_wait() || {
            std::thread::sleep(Duration::from_millis(6));
            let incoming = many.try_receive().unwrap().expect("two are there");
            drop(incoming);
            many.topic_count() == 41
        }
    });
    assert_eq!(next(&mut many), ("u.3".into(), 2));
    assert_eq!(next(&mut many), ("u.plain".into(), 1));
    // With more than are looked at for one message, an urgent one waits for a few turns at most.
    for publisher in &mut publishers {
        for round in 0..4_u64 {
            publisher.publish(&round.to_le_bytes()).unwrap();
        }
    }
    publishers[39].publish_bytes(Lane::CRITICAL, &20_u64.to_le_bytes()).unwrap();
    let first = (0..161).position(|_| next(&mut many).1 == 20).unwrap();
    assert!(first <= 2, "it came after {first} others");
}

#[test]
fn a_lower_lane_does_not_starve_behind_another_topic() {
    let test = TestBus::new("patterns-guard");
    let bus = test.open("reader");
    let mut loud = bus.topic::<Bytes>("g.loud").unwrap().publisher().unwrap();
    let mut quiet = bus.topic::<Bytes>("g.quiet").unwrap().publisher().unwrap();
    let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("g.*").starvation_guard(8).join().unwrap();
    for number in 0..100_u64 {
        loud.publish_bytes(Lane::CRITICAL, &number.to_le_bytes()).unwrap();
    }
    quiet.publish(&1_u64.to_le_bytes()).unwrap();
    let place = (0..101).position(|_| next(&mut many).0 == "g.quiet").unwrap();
    assert_eq!(place, 8);
}

#[test]
fn a_killed_consumer_leaves_nothing_behind() {
    const ENTRY: &str = "a_killed_consumer_leaves_nothing_behind";
    if let Some(mut role) = role() {
        let bus = role.open();
        let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("k.*").join().unwrap();
        many.descriptor().unwrap();
        role.parent.tell(many.topic_count());
        loop {
            let _ = many.receive();
        }
    }
    let test = TestBus::new("patterns-killed");
    let bus = test.open("watcher");
    let mut publishers: Vec<_> =
        (0..3).map(|index| bus.topic::<Bytes>(&format!("k.{index}")).unwrap().publisher().unwrap()).collect();
    let pipes = || std::fs::read_dir(test.path().join("pipes")).unwrap().count();
    // The table of who listens is the words from 256 on in a page of the topic.
    let tickets = || -> usize {
        let used = |index| {
            let page = std::fs::read(test.path().join(format!("topics/k.{index}/wake"))).unwrap();
            page[256..].chunks(8).filter(|word| word.iter().any(|&byte| byte != 0)).count()
        };
        (0..3).map(used).sum()
    };
    for _ in 0..3 {
        let mut agent = Agent::spawn(ENTRY, "consumer", &test.name, 0);
        agent.line.expect("3");
        agent.wait_until_parked();
        assert_eq!((pipes(), tickets()), (1, 3));
        agent.kill();
        eventually("nothing is left", || (pipes(), tickets()) == (0, 0));
        for publisher in &mut publishers {
            publisher.publish(&[0; 8]).unwrap();
        }
        assert_clean(&test);
    }
    // The entry is used again.
    let listeners = std::fs::metadata(test.path().join("listeners")).unwrap().len();
    assert_eq!(listeners, 4_096 + 8_192);
}

#[test]
fn a_message_that_nobody_rang_for_is_found() {
    const ENTRY: &str = "a_message_that_nobody_rang_for_is_found";
    if let Some(role) = role() {
        return publish(role);
    }
    let test = TestBus::new("patterns-half");
    let bus = test.open("reader");
    bus.topic::<Words>("h.t").unwrap();
    let mut many: ManySubscriber<Words> = bus.subscribe_pattern("h.*").wait(Wait::Park).join().unwrap();
    for killed in [false, true] {
        let mut publisher = Publisher::spawn(&test, ENTRY);
        assert!(many.receive_timeout(Duration::from_millis(50)).unwrap().is_none());
        assert_eq!(many.active_count(), 0);
        publisher.does("half h.t 5");
        let begun = Instant::now();
        if killed {
            // Its end is noticed, and rung for.
            publisher.0.kill();
        }
        let incoming = many.receive_timeout(PATIENCE).unwrap().expect("the message");
        assert!(incoming.value().unwrap().is_numbered(5));
        incoming.ack().unwrap();
        let took = begun.elapsed();
        println!("found after {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        if !killed {
            publisher.0.kill();
        }
    }
}

fn poll(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    use std::os::fd::AsRawFd;
    let mut fds = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which is there.
    #[allow(unsafe_code)]
    let ready = unsafe { libc::poll(&mut fds, 1, limit.as_millis() as i32) };
    ready == 1 && fds.revents == libc::POLLIN
}

#[test]
fn the_descriptor_works_with_poll() {
    const ENTRY: &str = "the_descriptor_works_with_poll";
    if let Some(role) = role() {
        return publish(role);
    }
    let test = TestBus::new("patterns-poll");
    let bus = test.open("reader");
    let mut publisher = Publisher::spawn(&test, ENTRY);
    for topic in ["p.a", "p.b"] {
        publisher.does(&format!("create {topic}"));
    }
    let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("p.*").join().unwrap();
    let fd = many.descriptor().unwrap().try_clone_to_owned().unwrap();
    for round in 0..50_u64 {
        while !many.prepare_to_wait() {
            assert!(many.try_receive().unwrap().is_none());
        }
        assert!(!poll(fd.as_fd(), Duration::ZERO), "nothing has come");
        let topic = ["p.a", "p.b"][round as usize % 2];
        publisher.does(&format!("send {topic} 2 {round}"));
        assert!(poll(fd.as_fd(), PATIENCE));
        many.drain_wakeups();
        assert!(!poll(fd.as_fd(), Duration::ZERO), "it is drained");
        let incoming = many.try_receive().unwrap().expect("what made it readable");
        assert_eq!((incoming.topic(), number(incoming.payload())), (topic, round));
        incoming.ack().unwrap();
        // Not armed: nothing is written.
        publisher.does(&format!("send {topic} 2 {round}"));
        assert!(!poll(fd.as_fd(), Duration::ZERO));
        assert!(!many.prepare_to_wait(), "something is there");
        assert_eq!(next(&mut many).1, round);
    }
    // A new topic makes it readable too.
    while !many.prepare_to_wait() {
        assert!(many.try_receive().unwrap().is_none());
    }
    publisher.does("create p.c");
    assert!(poll(fd.as_fd(), PATIENCE));
    drop(many);
    assert_eq!(std::fs::read_dir(test.path().join("pipes")).unwrap().count(), 0);
}

#[test]
fn a_topic_that_cannot_be_joined_is_told_once_and_stops_nobody() {
    let test = TestBus::new("patterns-busy");
    let bus = test.open("reader");
    let mut publishers: Vec<_> =
        (0..3).map(|index| bus.topic::<Bytes>(&format!("b.{index}")).unwrap().publisher().unwrap()).collect();
    let holder = bus.topic::<Bytes>("b.1").unwrap().group("g").join().unwrap();
    let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern("b.*").group("g").join().unwrap();
    match many.try_receive() {
        Err(ManyError::Join { topic, source: AttachError::GroupBusy { .. } }) => assert_eq!(topic, "b.1"),
        other => panic!("{other:?}"),
    }
    for publisher in &mut publishers {
        publisher.publish(&3_u64.to_le_bytes()).unwrap();
    }
    let mut heard = [next(&mut many).0, next(&mut many).0];
    heard.sort();
    assert_eq!(heard, ["b.0", "b.2"]);
    assert!(many.receive_timeout(Duration::from_millis(1_200)).unwrap().is_none(), "told once");
    // Free now: it is joined, and its group goes on where it stands.
    drop(holder);
    assert_eq!(next(&mut many), ("b.1".into(), 3));
}

#[test]
fn a_topic_with_too_many_listeners_is_not_held_back_by_one_more() {
    let test = TestBus::new("patterns-full");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Bytes>("f.t").capacity(16).open().unwrap();
    let tap = || bus.subscribe_pattern::<Bytes>("f.*").tap().join().unwrap();
    let mut taps: Vec<ManySubscriber<Bytes>> =
        (0..bus_core::limits::TOPIC_LISTENERS_MAX).map(|_| tap()).collect();
    let mut many = bus.subscribe_pattern::<Bytes>("f.*").group("g").join().unwrap();
    let told = many.try_receive().map(|_| ());
    assert!(matches!(told, Err(ManyError::TopicListeners { .. })), "{told:?}");
    // Its group holds nothing back.
    let mut publisher = topic.publisher().unwrap();
    for number in 0..100_u64 {
        publisher.publish(&number.to_le_bytes()).unwrap();
    }
    // And it gets the next place that is free.
    taps.pop();
    assert!(many.receive_timeout(Duration::from_millis(1_500)).unwrap().is_none());
    publisher.publish(&100_u64.to_le_bytes()).unwrap();
    assert_eq!(next(&mut many), ("f.t".into(), 100));
}

#[test]
fn a_message_that_comes_again_hides_no_urgent_one() {
    let test = TestBus::new("patterns-again");
    let bus = test.open("reader");
    let topics = ["r.0", "r.1"].map(|name| bus.topic::<Bytes>(name).unwrap());
    let mut publishers = topics.each_ref().map(|topic| topic.publisher().unwrap());
    let mut many: ManySubscriber<Bytes> = bus
        .subscribe_pattern("r.*")
        .group("g")
        .each(|one| one.retry_delays(Duration::from_millis(1), Duration::from_millis(1)))
        .join()
        .unwrap();
    publishers[0].publish(&0_u64.to_le_bytes()).unwrap();
    many.receive().unwrap().retry("again").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    publishers[1].publish_bytes(Lane::HIGH, &2_u64.to_le_bytes()).unwrap();
    publishers[0].publish_bytes(Lane::CRITICAL, &1_u64.to_le_bytes()).unwrap();
    let order: Vec<u64> = (0..3).map(|_| next(&mut many).1).collect();
    assert_eq!(order.last(), Some(&2), "{order:?}");
}

#[test]
fn bad_patterns_and_options_are_typed_errors() {
    let test = TestBus::new("patterns-bad");
    let bus = test.open("reader");
    for pattern in ["", ".", "a..b", "foo*", "a.>.b", "a/b", "a.**", &"x".repeat(201), "a b", "+a"] {
        match bus.subscribe_pattern::<Bytes>(pattern).join() {
            Err(error @ ManyError::Pattern { .. }) => assert!(error.to_string().contains("is no pattern")),
            other => panic!("{pattern:?}: {other:?}"),
        }
    }
    for index in 0..10_000 {
        let text = format!("a{}.+.b{}.*", index % 100, index);
        let pattern = bus_core::pattern::Pattern::parse(&text).unwrap();
        assert!(pattern.matches(&format!("a{}.x.b{index}.y.z", index % 100)));
        assert!(!pattern.matches(&format!("a{}.b{index}", index % 100)));
    }
    let many =
        |count: usize| bus.subscribe_patterns::<Bytes>((0..count).map(|index| format!("a.{index}"))).join();
    assert!(matches!(many(0), Err(ManyError::Patterns { count: 0, .. })));
    assert!(matches!(many(1_025), Err(ManyError::Patterns { count: 1_025, max: 1_024 })));
    assert_eq!(many(1_024).unwrap().topic_count(), 0);
    let any = || bus.subscribe_pattern::<Bytes>("*");
    for conflicting in [any().tap().group("g"), any().shared(), any().tap().yield_after(PATIENCE)] {
        assert!(matches!(conflicting.join(), Err(ManyError::Conflict { .. })));
    }
    // What was taken by those that failed has been given back.
    let held: Vec<_> = (0..20).map(|_| any().from(Start::Oldest).join().unwrap()).collect();
    drop(held);
    assert_eq!(std::fs::metadata(test.path().join("listeners")).unwrap().len(), 4_096 + 20 * 8_192);
}

#[test]
fn a_closed_bus_ends_the_wait() {
    const ENTRY: &str = "a_closed_bus_ends_the_wait";
    if let Some(mut role) = role() {
        let bus = Bus::builder(&role.bus).service("sleeper").open().unwrap();
        let mut many: ManySubscriber<Bytes> = bus.subscribe_pattern(&role.argument).join().unwrap();
        role.parent.tell("here");
        let error = many.receive().map(|_| ()).unwrap_err();
        role.parent.tell(matches!(error, ManyError::Bus(_) | ManyError::Receive(_)));
        return;
    }
    let test = TestBus::new("patterns-closed");
    let bus = test.open("closer");
    bus.topic::<Bytes>("c.t").unwrap();
    let mut agents = ["c.*", "nothing.*"].map(|pattern| Agent::spawn(ENTRY, "sleeper", &test.name, pattern));
    for agent in &mut agents {
        agent.line.expect("here");
        agent.wait_until_parked();
    }
    let begun = Instant::now();
    bus.down(true).unwrap();
    for agent in &mut agents {
        agent.line.expect("true");
    }
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "rung, not found at the ceiling: {:?}",
        begun.elapsed()
    );
}
