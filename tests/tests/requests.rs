//! Requests and answers between processes, with kills and stops in the middle.

use bus_core::name::REPLY_TOPICS;
use bus_shm::requests::Nobody;
use bus_shm::{
    Ask, Bus, Bytes, Meta, Pending, ReplyError, RequestError, Requester, Subscriber, Topic, TopicError,
};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Text, Words, assert_clean, eventually, in_fork};

const ENTRY: &str = "child";
/// Longer than anything here takes that goes well.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn child() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "replier" => replier(role),
        "hoarder" => hoarder(role),
        "requester" => requester(role),
        "forker" => forker(role),
        "writer" => writer(role),
        "answerer" => answerer(role),
        other => panic!("no such role: {other}"),
    }
}

fn spawn(role: &str, test: &TestBus, argument: &str) -> Agent {
    Agent::spawn(ENTRY, role, &test.name, argument)
}

/// Answers each number with itself until it is told to end; tells how many it has answered.
fn replier(mut role: Role) {
    let mut subscriber = role.open().topic::<Words>("ask").unwrap().group("crew").shared().join().unwrap();
    role.parent.tell("ready");
    let stop = subscriber.interrupter();
    let Role { mut parent, .. } = role;
    let ears = std::thread::spawn(move || {
        parent.try_hear();
        stop.interrupt();
        parent
    });
    let mut answered = 0_u64;
    while let Ok(message) = subscriber.receive() {
        let number = message.value().unwrap().number();
        answered += u64::from(message.reply(&Words::numbered(number)).is_ok());
        message.ack().unwrap();
    }
    ears.join().unwrap().tell(answered);
}

/// Takes as many requests as it is told to, and sits on them.
fn hoarder(mut role: Role) {
    let mut subscriber = role.open().topic::<Words>("ask").unwrap().group("crew").shared().join().unwrap();
    role.parent.tell("ready");
    let count = role.number() as usize;
    let mut batch = subscriber.receive_batch(count, count, LONG).unwrap();
    for _ in 0..count {
        assert!(batch.next_message().unwrap().is_some());
    }
    role.parent.tell("full");
    role.parent.hear();
}

/// Sends as many requests as it is told to, perhaps with so many seconds for each, and takes their answers when it is told to.
fn requester(mut role: Role) {
    let bus = role.open();
    let client = bus.requester().unwrap();
    let (count, timeout_s) = role.argument.split_once(' ').unwrap_or((&role.argument, "20"));
    let (count, timeout) = (count.parse().unwrap(), Duration::from_secs(timeout_s.parse().unwrap()));
    let pending: Vec<Pending<Words>> =
        (0..count).map(|number| ask(&client, number, timeout).unwrap()).collect();
    role.parent.tell("sent");
    role.parent.expect("take");
    let answers = pending.into_iter().filter_map(|pending| pending.wait().ok()).count();
    role.parent.tell(answers);
    role.parent.tell(client.late_count());
    role.parent.hear();
}

/// Answers one request, says so, and is killed before it acknowledges it.
fn answerer(mut role: Role) {
    let mut subscriber = role.open().topic::<Words>("ask").unwrap().group("crew").shared().join().unwrap();
    role.parent.tell("ready");
    let message = subscriber.receive().unwrap();
    message.reply(&Words::numbered(role.number())).unwrap();
    role.parent.tell("answered");
    role.parent.hear();
}

/// Writes to many mailboxes as one who asks, and tells how much it holds.
fn writer(mut role: Role) {
    let bus = role.open();
    let client = bus.requester().unwrap();
    let ask = Ask::within(LONG).create_mailbox();
    let held = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        (descriptors, mappings)
    };
    let count = role.number();
    let mut first = None;
    for number in 0..count {
        let name = format!("@agent-{number}");
        let pending: Pending<Bytes> = client.send_bytes::<Bytes, _>(&name, b"?", &ask).unwrap();
        assert_eq!(pending.id().sequence, 0, "{name} is its own");
        if number == count / 4 {
            first = Some(held());
        }
    }
    let ((descriptors, mappings), now) = (first.unwrap(), held());
    role.parent.tell(now.0.saturating_sub(descriptors));
    role.parent.tell(now.1.saturating_sub(mappings));
    // One that had to make room is found again, and its messages are where they were.
    let pending: Pending<Bytes> = client.send_bytes::<Bytes, _>("@agent-0", b"?", &ask).unwrap();
    role.parent.tell(pending.id().sequence);
}

/// Uses in a forked child what waits for answers, while a thread of the parent reads.
fn forker(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Words>("ask").unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let mut answered = ask(&client, 1, LONG).unwrap();
    let mut gather = client.gather::<Words>();
    gather.add(2, ask(&client, 2, LONG).unwrap()).unwrap();
    let reads = ask(&client, 3, LONG).unwrap();
    let reader = std::thread::Builder::new().name("reads".into()).spawn(move || reads.wait().map(|_| ()));
    let is_asleep = |task: std::fs::DirEntry| {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        read("comm") == "reads\n" && read("stat").contains(") S ")
    };
    eventually("the thread reads", || std::fs::read_dir("/proc/self/task").unwrap().flatten().any(is_asleep));
    let code = in_fork(|| {
        let is_told = |told: String| if told.contains("before a fork") { Ok(()) } else { Err(told) };
        let said =
            |taken: Result<_, RequestError>| taken.map_or_else(|error| error.to_string(), |_| "taken".into());
        is_told(said(answered.next().map(|_| ())))?;
        is_told(said(answered.try_next().map(|_| ())))?;
        is_told(said(gather.try_next().map_or(Ok(()), |(_, taken)| taken.map(|_| ()))))?;
        is_told(said(ask(&client, 4, LONG).map(|_| ())))?;
        is_told(said(bus.requester().map(|_| ())))?;
        drop((gather, client.clone()));
        Ok(())
    });
    assert_eq!(code, 0);
    for number in 1..=3 {
        assert_eq!(answer_one(&mut subscriber), number);
    }
    assert_eq!(answered.next().unwrap().unwrap().value().unwrap().number(), 1);
    reader.unwrap().join().unwrap().unwrap();
    role.parent.tell("done");
}

fn ask(client: &Requester, number: u64, timeout: Duration) -> Result<Pending<Words>, RequestError> {
    client.send("ask", &Words::numbered(number), &Ask::within(timeout))
}

fn topic(bus: &Bus) -> Topic<Words> {
    bus.topic("ask").unwrap()
}

/// Answers one request in this process.
fn answer_one(subscriber: &mut Subscriber<Words>) -> u64 {
    let message = subscriber.receive_timeout(LONG).unwrap().expect("a request");
    let number = message.value().unwrap().number();
    message.reply(&Words::numbered(number)).unwrap();
    message.ack().unwrap();
    number
}

/// Names of the reply topics that there are.
fn reply_topics(test: &TestBus) -> Vec<String> {
    let names = std::fs::read_dir(test.path().join("topics")).into_iter().flatten();
    let names = names.flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(REPLY_TOPICS) || name.starts_with(".tmp-")).collect()
}

#[test]
fn a_request_is_answered_by_value_by_error_and_several_times() {
    let test = TestBus::new("answers");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let pending = ask(&client, 7, LONG).unwrap();
    let id = pending.id();
    {
        let message = subscriber.receive().unwrap();
        assert!(message.wants_reply());
        assert_eq!(message.metadata().id(), id);
        message.reply(&Words::numbered(8)).unwrap();
        message.ack().unwrap();
    }
    let answer = pending.wait().unwrap();
    assert_eq!(answer.value().unwrap().number(), 8);
    assert_eq!(answer.origin().unwrap().service, "main");

    let pending = ask(&client, 9, LONG).unwrap();
    let message = subscriber.receive().unwrap();
    message.reply_error("not today").unwrap();
    message.ack().unwrap();
    let error = pending.wait().unwrap_err();
    assert!(matches!(&error, RequestError::Replied { text, .. } if text == "not today"), "{error}");

    // A type that was not asked for.
    let pending = ask(&client, 10, LONG).unwrap();
    let message = subscriber.receive().unwrap();
    message.reply(&Text { id: 1, text: "ten".into() }).unwrap();
    message.ack().unwrap();
    assert!(matches!(pending.wait().unwrap_err(), RequestError::OtherType { .. }));

    // Several answers of one replier, the last of which nobody wants.
    let asked = Ask::within(LONG).replies(3);
    let mut pending: Pending<Bytes> = client.send("ask", &Words::numbered(11), &asked).unwrap();
    let message = subscriber.receive().unwrap();
    for word in ["one", "two", "three", "four"] {
        message.reply_bytes(word.as_bytes()).unwrap();
    }
    message.ack().unwrap();
    for word in ["one", "two", "three"] {
        assert_eq!(pending.next().unwrap().unwrap().payload(), word.as_bytes());
    }
    assert!(pending.next().unwrap().is_none());
    drop(pending);
    let pending = ask(&client, 12, LONG).unwrap();
    answer_one(&mut subscriber);
    pending.wait().unwrap();
    assert_eq!(client.late_count(), 1);
    assert_eq!(client.in_flight(), 0);

    // Nobody asked for an answer to this one.
    topic.publisher().unwrap().publish(&Words::numbered(13)).unwrap();
    let message = subscriber.receive().unwrap();
    assert!(!message.wants_reply());
    let error = message.reply_bytes(b"x").unwrap_err();
    assert!(matches!(error, ReplyError::NotARequest { sequence, .. } if sequence == message.sequence()));
    drop(message);
    assert_clean(&test);
    drop((subscriber, topic, client, bus));
    test.assert_gone();
}

#[test]
fn several_groups_answer_one_request_until_its_time_is_over() {
    let test = TestBus::new("scatter");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut groups: Vec<_> = ["a", "b", "c"].iter().map(|name| topic.group(name).join().unwrap()).collect();
    let client = bus.requester().unwrap();
    let asked = Ask::within(Duration::from_secs(2)).replies(10);
    let mut pending: Pending<Words> = client.send("ask", &Words::numbered(1), &asked).unwrap();
    for group in &mut groups {
        answer_one(group);
    }
    let mut answers = 0;
    while let Some(answer) = pending.next().unwrap() {
        assert_eq!(answer.value().unwrap().number(), 1);
        answers += 1;
    }
    assert_eq!(answers, 3);
    drop(pending);
    // With no answer at all, the deadline says who had it.
    let pending = ask(&client, 2, Duration::from_secs(2)).unwrap();
    let message = groups[0].receive_timeout(LONG).unwrap().expect("the request");
    let error = pending.wait().unwrap_err();
    assert!(
        matches!(&error, RequestError::Timeout { topic, groups: 3, got: 1, .. } if topic == "ask"),
        "{error}"
    );
    drop(message);
}

#[test]
fn without_a_live_replier_the_error_comes_at_once() {
    let test = TestBus::new("nobody");
    let bus = test.open("main");
    let client = bus.requester().unwrap();
    let nobody = |expected: Nobody| {
        let begun = Instant::now();
        match ask(&client, 1, LONG) {
            Err(error @ RequestError::NoReplier { .. }) => {
                let said = error.to_string();
                assert!(said.contains("ask") && said.contains(&expected.to_string()), "{said}");
            }
            other => panic!("expected {expected}: {other:?}"),
        }
        assert!(begun.elapsed() < LONG / 2);
    };
    nobody(Nobody::NoTopic);
    let topic = topic(&bus);
    nobody(Nobody::NoGroup);
    let _tap = topic.tap().unwrap();
    nobody(Nobody::NoGroup);
    // A shared group whose only member is killed, and one of one whose member has left.
    let mut agent = spawn("replier", &test, "");
    agent.line.expect("ready");
    let answer = ask(&client, 5, LONG).unwrap().wait().unwrap();
    assert_eq!(answer.value().unwrap().number(), 5);
    agent.kill();
    eventually("its death is known", || bus.participants().len() == 1);
    nobody(Nobody::NoMember);
    drop(topic.group("one").join().unwrap());
    nobody(Nobody::NoMember);
    // Nothing was published for those.
    let sent = Ask::within(LONG).even_if_away();
    let pending: Pending<Words> = client.send("ask", &Words::numbered(6), &sent).unwrap();
    assert_eq!(pending.id().sequence, 1);
    let mut one = topic.group("one").join().unwrap();
    assert_eq!(answer_one(&mut one), 6);
    assert_eq!(pending.wait().unwrap().value().unwrap().number(), 6);
}

#[test]
fn a_thousand_requests_in_flight_from_several_threads_lose_no_answer() {
    const THREADS: u64 = 4;
    const EACH: u64 = 250;
    const ROUNDS: u64 = 4;
    let test = TestBus::new("thousand");
    let bus = test.open("main");
    topic(&bus);
    let mut agents: Vec<_> = (0..2).map(|_| spawn("replier", &test, "")).collect();
    agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
    let client = bus.requester().unwrap();
    // All are sent before the first is waited for.
    let all_sent = std::sync::Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, all_sent) = (client.clone(), &all_sent);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let first = (thread * ROUNDS + round) * EACH;
                    let pending: Vec<_> =
                        (first..first + EACH).map(|number| ask(&client, number, LONG).unwrap()).collect();
                    all_sent.wait();
                    // Half of them the other way round, so that threads wait for what others read.
                    let numbered: Vec<_> = (first..).zip(pending).collect();
                    let order: Vec<_> = match thread % 2 {
                        0 => numbered,
                        _ => numbered.into_iter().rev().collect(),
                    };
                    for (number, pending) in order {
                        let answer = pending.wait().unwrap();
                        assert_eq!(answer.value().unwrap().number(), number);
                    }
                }
            });
        }
    });
    assert_eq!((client.late_count(), client.in_flight()), (0, 0));
    let mut answered = 0;
    for mut agent in agents {
        agent.line.tell("stop");
        answered += agent.line.hear_number();
        agent.join();
    }
    assert_eq!(answered, THREADS * EACH * ROUNDS);
    assert_clean(&test);
}

#[test]
fn more_requests_than_can_wait_are_an_error_and_a_place_is_free_again() {
    let test = TestBus::new("limit");
    let bus = test.open("main");
    let topic = bus.topic_builder::<Words>("ask").capacity(4_096).open().unwrap();
    let _group = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let most = bus_core::limits::REQUESTS_MAX;
    let mut pending: Vec<_> = (0..most).map(|number| ask(&client, number.into(), LONG).unwrap()).collect();
    let error = ask(&client, 0, LONG).unwrap_err();
    assert!(matches!(error, RequestError::TooMany { max, .. } if max == most), "{error}");
    pending.pop();
    ask(&client, 0, LONG).unwrap();
}

#[test]
fn whichever_is_answered_first_is_gathered_first() {
    let test = TestBus::new("gather");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").shared().join().unwrap();
    let client = bus.requester().unwrap();
    let mut gather = client.gather::<Words>();
    for number in 0..4 {
        gather.add(100 + number, ask(&client, number, LONG).unwrap()).unwrap();
    }
    let short = ask(&client, 4, Duration::from_secs(2)).unwrap();
    gather.add(104, short).unwrap();
    assert!(gather.try_next().is_none());
    {
        let mut batch = subscriber.receive_batch(5, 5, LONG).unwrap();
        let mut order = Vec::new();
        while let Some(message) = batch.next_message().unwrap() {
            let number = message.value().unwrap().number();
            // The second and the fourth are answered while the others wait.
            if number % 2 == 1 {
                message.reply(&Words::numbered(number)).unwrap();
                order.push(100 + number);
            }
        }
        for expected in order {
            let (number, answer) = gather.next(LONG).unwrap();
            assert_eq!((number, answer.unwrap().value().unwrap().number()), (expected, expected - 100));
        }
        let (number, over) = gather.next(LONG).unwrap();
        assert!(number == 104 && matches!(over, Err(RequestError::Timeout { .. })), "{number} {over:?}");
        batch.ack();
    }
    assert_eq!(gather.len(), 2);
    assert!(gather.next(Duration::from_millis(20)).is_none());
}

#[test]
fn late_answers_are_counted_and_an_expired_request_is_not_handed_out() {
    let test = TestBus::new("late");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let pending = ask(&client, 1, Duration::from_secs(1)).unwrap();
    {
        let message = subscriber.receive_timeout(LONG).unwrap().expect("the request");
        assert!(matches!(pending.wait(), Err(RequestError::Timeout { .. })));
        message.reply(&Words::numbered(1)).unwrap();
        message.ack().unwrap();
    }
    // One that nobody took in time, and one that is dropped with its answer.
    let over = ask(&client, 2, Duration::from_millis(20)).unwrap();
    assert!(over.wait().is_err());
    let dropped = ask(&client, 3, LONG).unwrap();
    assert_eq!(answer_one(&mut subscriber), 3, "the second is passed over");
    drop(dropped);
    let pending = ask(&client, 4, LONG).unwrap();
    answer_one(&mut subscriber);
    pending.wait().unwrap();
    assert_eq!((subscriber.expired_count(), client.late_count()), (1, 2));
}

#[test]
fn a_request_that_becomes_a_dead_letter_ends_its_wait() {
    let test = TestBus::new("dead");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let pending = ask(&client, 1, LONG).unwrap();
    let begun = Instant::now();
    subscriber.receive().unwrap().reject("cannot be done").unwrap();
    let error = pending.wait().unwrap_err();
    let is_it = matches!(&error, RequestError::DeadLetter { group, error, .. } if group == "g" && error == "cannot be done");
    assert!(is_it, "{error}");
    assert!(begun.elapsed() < LONG / 2);
}

#[test]
fn requests_of_a_killed_replier_are_answered_by_another_member() {
    const COUNT: u64 = 50;
    let test = TestBus::new("killed-replier");
    let bus = test.open("main");
    topic(&bus);
    let mut hoarder = spawn("hoarder", &test, &COUNT.to_string());
    hoarder.line.expect("ready");
    let client = bus.requester().unwrap();
    let pending: Vec<_> = (0..COUNT).map(|number| ask(&client, number, LONG).unwrap()).collect();
    hoarder.line.expect("full");
    let mut other = spawn("replier", &test, "");
    other.line.expect("ready");
    hoarder.kill();
    for (number, pending) in (0..).zip(pending) {
        assert_eq!(pending.wait().unwrap().value().unwrap().number(), number);
    }
    // Without another member it is the deadline.
    other.kill();
    let mut last = spawn("hoarder", &test, "1");
    last.line.expect("ready");
    let pending = ask(&client, 99, Duration::from_secs(2)).unwrap();
    last.line.expect("full");
    last.kill();
    assert!(matches!(pending.wait(), Err(RequestError::Timeout { .. })));
    assert_clean(&test);
}

#[test]
fn of_a_killed_requester_nothing_is_left_and_repliers_go_on() {
    let test = TestBus::new("killed-requester");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").join().unwrap();
    for round in 0..3 {
        let mut agent = spawn("requester", &test, "100");
        agent.line.expect("sent");
        let participants = bus.participants();
        let number = participants.iter().find(|info| info.pid == agent.pid()).unwrap().participant;
        assert_eq!(reply_topics(&test).len(), 1);
        for _ in 0..50 {
            answer_one(&mut subscriber);
        }
        agent.kill();
        eventually("the reply topic is gone", || reply_topics(&test).is_empty());
        let mut gone = 0;
        for _ in 0..50 {
            let message = subscriber.receive_timeout(LONG).unwrap().expect("the other requests");
            match message.reply_bytes(b"too late") {
                Err(ReplyError::Gone { .. }) => gone += 1,
                other => panic!("{other:?}"),
            }
            message.ack().unwrap();
        }
        assert_eq!(gone, 50);
        assert_clean(&test);
        // The next one gets its number, and a topic of its own.
        let next = spawn_and_ask(&test, &mut subscriber);
        assert_eq!(next, number, "round {round}");
    }
    drop((subscriber, topic, bus));
    test.assert_gone();
}

/// A requester that asks once, is answered and leaves; its participant number.
fn spawn_and_ask(test: &TestBus, subscriber: &mut Subscriber<Words>) -> u16 {
    let mut agent = spawn("requester", test, "1");
    agent.line.expect("sent");
    answer_one(subscriber);
    agent.line.tell("take");
    assert_eq!(agent.line.hear_number(), 1);
    assert_eq!(agent.line.hear_number(), 0, "late answers");
    let name = reply_topics(test).pop().expect("its reply topic");
    agent.line.tell("end");
    agent.join();
    eventually("the reply topic went with it", || reply_topics(test).is_empty());
    bus_core::name::reply_topic_of(&name).expect("a reply topic").0
}

#[test]
fn a_stopped_requester_holds_a_replier_up_once_and_takes_what_found_room_afterwards() {
    let test = TestBus::new("stopped");
    let bus = test.open("main");
    let topic = bus.topic_builder::<Words>("ask").capacity(4_096).open().unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let room = u64::from(bus_core::limits::REQUESTS_MAX);
    let mut agent = spawn("requester", &test, "8 5");
    agent.line.expect("sent");
    agent.stop();
    // Far more answers than there is room for.
    let begun = Instant::now();
    let (mut sent, mut full) = (0, 0);
    for _ in 0..8 {
        let message = subscriber.receive_timeout(LONG).unwrap().expect("a request");
        for _ in 0..room / 4 {
            match message.reply(&Words::numbered(1)) {
                Ok(()) => sent += 1,
                Err(ReplyError::Full { requester, .. }) => {
                    assert!(requester.contains("requester"), "{requester}");
                    full += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        message.ack().unwrap();
    }
    assert_eq!(sent, room);
    assert_eq!(full, room);
    // It waited once, and not for each of them.
    assert!(begun.elapsed() < Duration::from_millis(100) * full as u32 / 10, "{:?}", begun.elapsed());
    agent.go_on();
    agent.line.tell("take");
    assert_eq!(agent.line.hear_number(), 4, "those of the first four requests");
    assert_eq!(agent.line.hear_number(), room - 4, "late ones");
    agent.line.tell("end");
    agent.join();
    eventually("the reply topic went with it", || reply_topics(&test).is_empty());
}

#[test]
fn hostile_bytes_where_the_address_stands_are_an_error() {
    let test = TestBus::new("hostile");
    let bus = test.open("main");
    let topic = bus.topic::<Bytes>("ask").unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let hostile = [
        0,
        u64::MAX,
        // A request of a participant that does not exist, of one that has another incarnation, an answer, and odd flags.
        1 << 24 | 1_022,
        1 << 24 | 0xfff << 10,
        2 << 24 | 3,
        0xff << 24,
        1 << 24 | 0x3ff,
    ];
    for (index, word) in hostile.into_iter().enumerate() {
        let correlation = 0xfeed_0000_dead_beef_0123_4567_89ab_0000 + index as u128;
        let ask = Ask::within(LONG).meta(&Meta::new().correlation(correlation));
        let _pending: Pending<Bytes> = client.send_bytes::<Bytes, _>("ask", b"?", &ask).unwrap();
        overwrite(&test, correlation, word);
        let message = subscriber.receive_timeout(LONG).unwrap().expect("a message");
        let error = message.reply_bytes(b"!").unwrap_err();
        assert!(
            matches!(error, ReplyError::NotARequest { .. } | ReplyError::Gone { .. }),
            "{word:x}: {error}"
        );
        message.ack().unwrap();
    }
    // An answer that is none, and answers with another's serial: counted, and the one that is meant comes through.
    let reply_topic = bus.topic_builder::<Bytes>(&reply_topics(&test)[0]).create(false).open().unwrap();
    let mut stranger = reply_topic.publisher().unwrap();
    stranger.publish(b"not an answer").unwrap();
    let pending: Pending<Bytes> = client.send_bytes::<Bytes, _>("ask", b"?", &Ask::within(LONG)).unwrap();
    let message = subscriber.receive_timeout(LONG).unwrap().expect("a message");
    message.reply_bytes(b"!").unwrap();
    message.ack().unwrap();
    assert_eq!(pending.wait().unwrap().payload(), b"!");
    assert_eq!(client.late_count(), 1);
}

/// Writes over the address in the extension with this correlation, wherever in the topic's payload memory it lies.
fn overwrite(test: &TestBus, correlation: u128, word: u64) {
    let mark = correlation.to_le_bytes();
    let mut found = 0;
    for entry in std::fs::read_dir(test.path().join("topics/ask")).unwrap().flatten() {
        if !entry.file_name().to_str().unwrap().starts_with("arena-") {
            continue;
        }
        let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.path()).unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        for at in (0..bytes.len() - 64).step_by(16).filter(|&at| bytes[at..at + 16] == mark) {
            file.write_all_at(&word.to_le_bytes(), at as u64 + 32).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1, "extensions with that correlation");
}

#[test]
fn reply_topics_belong_to_the_bus() {
    let test = TestBus::new("reserved");
    let bus = test.open("main");
    let client = bus.requester().unwrap();
    let mut all = bus.subscribe_pattern::<Bytes>("*").join().unwrap();
    assert!(all.try_receive().unwrap().is_none());
    assert_eq!(all.topic_count(), 0);
    let name = reply_topics(&test).pop().unwrap();
    for name in [name.as_str(), "_reply.900.1", "_reply.x", "_mail.y", "_other"] {
        let made = bus.topic::<Bytes>(name);
        assert!(matches!(made, Err(TopicError::Name { .. })), "{name}: {made:?}");
    }
    // One handle after the other has the same topic; it stays as long as the process takes part.
    drop(client);
    bus.requester().unwrap();
    assert_eq!(reply_topics(&test), [name]);
    drop((all, bus));
    test.assert_gone();
}

#[test]
fn what_waits_for_answers_is_an_error_in_a_forked_child_and_stays_the_parents() {
    let test = TestBus::new("fork");
    let mut agent = spawn("forker", &test, "");
    agent.line.expect("done");
    agent.join();
    test.assert_gone();
}

#[test]
fn whoever_asks_in_thousands_of_mailboxes_holds_some_of_them_open() {
    const MAILBOXES: u64 = 2_000;
    let test = TestBus::new("many-mailboxes");
    // It has the supervisor's role, which looks after all of them.
    let _host = test.open("host");
    let mut agent = spawn("writer", &test, &MAILBOXES.to_string());
    let (descriptors, mappings) = (agent.line.hear_number(), agent.line.hear_number());
    // Each that stayed open would be several.
    assert!(descriptors < MAILBOXES / 20 && mappings < MAILBOXES / 20, "{descriptors} and {mappings} more");
    assert_eq!(agent.line.hear_number(), 1, "the second message there");
    agent.join();
}

#[test]
fn an_answer_that_was_there_in_time_counts_however_late_it_is_read() {
    let test = TestBus::new("read-late");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let timeout = Duration::from_secs(1);
    let mut gather = client.gather::<Words>();
    let asked = Instant::now();
    gather.add(7, ask(&client, 1, timeout).unwrap()).unwrap();
    let mut polled = ask(&client, 2, timeout).unwrap();
    let waited = ask(&client, 3, timeout).unwrap();
    for number in 1..=3 {
        assert_eq!(answer_one(&mut subscriber), number);
    }
    // Nobody has read any of them yet.
    std::thread::sleep(timeout.saturating_sub(asked.elapsed()) + timeout);
    assert_eq!(waited.wait().unwrap().value().unwrap().number(), 3);
    assert!(polled.is_over());
    assert_eq!(polled.try_next().unwrap().unwrap().value().unwrap().number(), 2);
    let (number, answer) = gather.next(Duration::ZERO).expect("its answer");
    assert_eq!((number, answer.unwrap().value().unwrap().number()), (7, 1));
    assert_eq!(client.late_count(), 0);
}

#[test]
fn a_replier_killed_between_its_answer_and_its_acknowledgement_answers_twice() {
    let test = TestBus::new("astray");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut first = spawn("answerer", &test, "1");
    first.line.expect("ready");
    let client = bus.requester().unwrap();
    let pending = ask(&client, 0, LONG).unwrap();
    first.line.expect("answered");
    first.kill();
    assert_eq!(pending.wait().unwrap().value().unwrap().number(), 1);
    // The next member has the request again, and what it answers is a late one.
    let mut subscriber = topic.group("crew").shared().join().unwrap();
    let message = subscriber.receive_timeout(LONG).unwrap().expect("the request again");
    assert!(message.is_redelivered() && message.wants_reply());
    message.reply(&Words::numbered(2)).unwrap();
    message.ack().unwrap();
    let pending = ask(&client, 3, LONG).unwrap();
    assert_eq!(answer_one(&mut subscriber), 3);
    assert_eq!(pending.wait().unwrap().value().unwrap().number(), 3);
    assert_eq!(client.late_count(), 1);
    assert_clean(&test);
}

#[test]
fn what_a_replier_says_is_shown_so_that_a_terminal_acts_upon_none_of_it() {
    let test = TestBus::new("escapes");
    let bus = test.open("main");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let words = "\x1b[31mno\nshmbus: all is well\u{9b}2J";
    let replied = ask(&client, 1, LONG).unwrap();
    let message = subscriber.receive().unwrap();
    message.reply_error(words).unwrap();
    message.ack().unwrap();
    let error = replied.wait().unwrap_err();
    assert!(matches!(&error, RequestError::Replied { text, .. } if text == words));
    assert!(error.to_string().ends_with("\\x1b[31mno\\nshmbus: all is well\\u{9b}2J"), "{error}");
    let dead = ask(&client, 2, LONG).unwrap();
    subscriber.receive().unwrap().reject(words).unwrap();
    let error = dead.wait().unwrap_err();
    assert!(matches!(error, RequestError::DeadLetter { .. }), "{error}");
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}
