//! Groups that stand still: marked, reported, and let go by those who have agreed to it. What a member that was let go has
//! missed, it is told exactly.
//!
//! Every child is this test binary again, in the test [`agent`].

use bus_shm::inspect::{BusView, GroupState};
use bus_shm::{
    AttachError, Bus, Bytes, Lane, PublishError, Publisher, Stall, StallPolicy, Subscriber, Topic,
};
use std::time::{Duration, Instant};
use tests::cli::CliBus;
use tests::harness::{self, Agent, Role, TestBus, assert_clean, eventually};

/// Slots of the only lane.
const CAPACITY: u32 = 64;
/// How long a group of these tests may stand still.
const LIMIT: Duration = Duration::from_millis(300);
/// What a machine with other work may add to that.
const SLACK: Duration = Duration::from_secs(2);

fn let_go() -> Stall {
    Stall { after: Some(LIMIT), lag: None, policy: StallPolicy::LetGo }
}

fn stall(argument: &str) -> Stall {
    match argument {
        "let-go" => let_go(),
        "report" => Stall { policy: StallPolicy::Report, ..let_go() },
        "lag" => Stall { after: None, lag: Some(20), policy: StallPolicy::LetGo },
        other => panic!("no stall {other:?}"),
    }
}

fn topic(bus: &Bus) -> Topic<Bytes> {
    bus.topic_builder::<Bytes>("t").lanes(1).capacity(CAPACITY).open().unwrap()
}

fn group(test: &TestBus, name: &str) -> GroupState {
    let groups = BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample().groups;
    groups.into_iter().find(|group| group.name == name).expect("the group")
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "member" => member(role),
        "member-at" => member_at(role),
        "poisoned" => poisoned(role),
        other => panic!("no role {other:?}"),
    }
}

/// What a subscriber has got and missed, in order and without a gap.
struct Account {
    at: u64,
    missed: u64,
    runs: Vec<(u64, u64)>,
}

impl Account {
    fn missed(&mut self, subscriber: &mut Subscriber<Bytes>) {
        while let Some((lane, from, until)) = subscriber.take_missed() {
            assert_eq!((lane, from), (Lane(0), self.at), "missed up to {until}");
            self.missed += until - from;
            self.runs.push((from, until));
            self.at = until;
        }
    }

    /// Reads until everything before `end` is accounted for.
    fn drain(&mut self, subscriber: &mut Subscriber<Bytes>, end: u64, mut got: impl FnMut(u64)) {
        let begun = Instant::now();
        while self.at < end {
            assert!(begun.elapsed() < Duration::from_secs(20), "at {} of {end}", self.at);
            let sequence = match subscriber.receive_timeout(Duration::from_millis(100)).unwrap() {
                Some(message) => {
                    let sequence = message.sequence();
                    assert_eq!(message.payload(), sequence.to_le_bytes());
                    got(sequence);
                    message.ack().unwrap();
                    Some(sequence)
                }
                None => None,
            };
            self.missed(subscriber);
            if let Some(sequence) = sequence {
                assert_eq!(sequence, self.at, "in order, and once");
                self.at += 1;
            }
        }
        assert_eq!(subscriber.missed_count(), self.missed);
    }
}

/// Reads as a group of one: told how far, says what it has missed. Told a negative number, it says what it gets.
fn member(mut role: Role) {
    let bus = role.open();
    let mut subscriber = topic(&bus).group("g").stall(stall(&role.argument)).join().unwrap();
    let mut account = Account { at: 0, missed: 0, runs: Vec::new() };
    role.parent.tell("joined");
    while let Some(line) = role.parent.try_hear() {
        let end: i64 = line.parse().unwrap();
        let parent = &mut role.parent;
        account.drain(&mut subscriber, end.unsigned_abs(), |sequence| {
            if end < 0 {
                parent.tell(format!("got {sequence}"));
            }
        });
        role.parent.tell(format!("{:?}", std::mem::take(&mut account.runs)));
    }
}

/// Reads as the group that is let go, and says of each message and each run that it missed from where to where, before it finishes
/// what came.
fn member_at(mut role: Role) {
    let bus = role.open();
    let mut subscriber = topic(&bus).group("g").stall(let_go()).join().unwrap();
    role.parent.tell("joined");
    role.parent.expect("go");
    loop {
        let mut batch = subscriber.receive_batch(1, 8, Duration::from_secs(1)).unwrap();
        while let Some(sequence) = batch.next_message().unwrap().map(|message| message.sequence()) {
            while let Some((_, from, until)) = batch.take_missed() {
                role.parent.tell(format!("{from} {until}"));
            }
            role.parent.tell(format!("{sequence} {}", sequence + 1));
        }
        batch.ack();
    }
}

/// Gets a message in the group that may be let go, says what it is, and dies of it.
fn poisoned(mut role: Role) {
    let bus = role.open();
    let mut subscriber = topic(&bus).group("g").stall(let_go()).attempts(3).join().unwrap();
    let message = subscriber.receive().unwrap();
    role.parent.tell(format!("{} {}", message.sequence(), message.attempts()));
    role.parent.try_hear();
}

/// Publishes the numbers of the messages; how long the longest publication took.
fn publish(publisher: &mut Publisher<Bytes>, from: u64, until: u64, mut after: impl FnMut()) -> Duration {
    let mut longest = Duration::ZERO;
    for number in from..until {
        let begun = Instant::now();
        assert_eq!(publisher.publish(&number.to_le_bytes()).unwrap(), number);
        longest = longest.max(begun.elapsed());
        after();
    }
    longest
}

#[test]
fn a_stopped_member_lets_the_others_live_and_is_told_exactly_what_it_missed() {
    let test = TestBus::new("stall-let-go");
    let bus = test.open("publisher");
    let topic = topic(&bus);
    let mut other = topic.group("h").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(LIMIT + SLACK);
    let mut member = Agent::spawn("agent", "member", &test.name, "let-go");
    member.line.expect("joined");
    assert!(group(&test, "g").lets_go && !group(&test, "h").lets_go);
    for round in 0..3 {
        let begin = round * 1_000;
        publish(&mut publisher, begin, begin + 5, || other.receive().unwrap().ack().unwrap());
        member.line.tell(begin + 5);
        member.line.expect("[]");
        member.stop();
        let mut read = 0;
        let longest = publish(&mut publisher, begin + 5, begin + 505, || {
            other.receive().unwrap().ack().unwrap();
            read += 1;
        });
        assert!(longest >= LIMIT / 2 && longest < LIMIT + SLACK, "{longest:?}");
        assert_eq!(read, 500, "the other group got everything");
        let stalled = group(&test, "g");
        assert_eq!(stalled.state, "evicted");
        assert!(stalled.stalled_ns.is_some(), "it says since when");
        member.go_on();
        member.line.tell(begin + 505);
        let runs = member.line.hear();
        // One run, from the first that it had not got, and at most as far as the ring does not reach.
        let (from, until) = runs.trim_matches(['[', ']', '(', ')']).split_once(", ").expect(&runs);
        assert_eq!(from.parse::<u64>().unwrap(), begin + 5, "{runs}");
        let until: u64 = until.parse().unwrap();
        assert!(until >= begin + 505 - u64::from(CAPACITY) && until <= begin + 505, "{runs}");
        // Reliable again: a full ring of messages is kept for it while it does not read.
        eventually("it is back", || group(&test, "g").state == "active");
        assert_eq!(group(&test, "g").stalled_ns, None);
        let full = begin + 505 + u64::from(CAPACITY);
        publish(&mut publisher, begin + 505, full, || other.receive().unwrap().ack().unwrap());
        publisher.set_deadline(Duration::ZERO);
        match publisher.publish(b"one too many").unwrap_err() {
            PublishError::Full(full) => assert_eq!(full.group.as_deref(), Some("g")),
            error => panic!("{error}"),
        }
        publisher.set_deadline(LIMIT + SLACK);
        member.line.tell(full);
        member.line.expect("[]");
        publish(&mut publisher, full, begin + 1_000, || {
            other.receive().unwrap().ack().unwrap();
            if other.lag_count(Lane(0)) == 0 && group(&test, "g").lanes[0].lag_count > 32 {
                let end = group(&test, "g").lanes[0].low_water + group(&test, "g").lanes[0].lag_count;
                member.line.tell(end);
                member.line.expect("[]");
            }
        });
        member.line.tell(begin + 1_000);
        member.line.expect("[]");
    }
    drop(other);
    assert_clean(&test);
}

#[test]
fn a_report_marks_and_holds() {
    let cli = CliBus::new("stall-report");
    let test = &cli.bus;
    let bus = test.open("publisher");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(Duration::ZERO);
    let mut member = Agent::spawn("agent", "member", &test.name, "report");
    member.line.expect("joined");
    let end = u64::from(CAPACITY);
    publish(&mut publisher, 0, 5, || ());
    member.line.tell(5);
    member.line.expect("[]");
    member.stop();
    publish(&mut publisher, 5, end + 5, || ());
    eventually("it is marked", || group(test, "g").stalled_ns.is_some());
    let stalled = group(test, "g");
    assert!(Duration::from_nanos(stalled.stalled_ns.unwrap()) >= LIMIT);
    assert_eq!((stalled.state, stalled.lets_go), ("active", false));
    assert!(matches!(publisher.publish(b"no room"), Err(PublishError::Full(_))), "it holds");
    // Where people see it.
    let json = cli.run(&["lag", "--json"]).expect(0).json();
    assert!(json["groups"][0]["stalled_ns"].as_u64().is_some());
    assert!(cli.run(&["lag"]).expect(0).out.contains("STALLED"));
    assert!(cli.run(&["info", "t"]).expect(0).out.contains("STALLED"));
    let info = cli.run(&["info", "t", "--json"]).expect(0).json();
    assert!(info["groups"][0]["stalled_ns"].as_u64().is_some());
    assert!(cli.run(&["top", "--once", "--interval", "50ms"]).expect(0).out.contains("stalled for"));
    member.go_on();
    member.line.tell(end + 5);
    member.line.expect("[]");
    eventually("the mark goes", || group(test, "g").stalled_ns.is_none());
    assert_clean(test);
}

#[test]
fn too_far_behind_is_let_go_at_once_and_misses_nothing_that_is_there() {
    let test = TestBus::new("stall-lag");
    let bus = test.open("publisher");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(Duration::ZERO);
    let mut member = Agent::spawn("agent", "member", &test.name, "lag");
    member.line.expect("joined");
    publish(&mut publisher, 0, 20, || ());
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(group(&test, "g").state, "active", "as far behind as it may be");
    publish(&mut publisher, 20, 40, || ());
    eventually("it is let go", || group(&test, "g").state == "evicted");
    member.line.tell(40);
    member.line.expect("[]");
    eventually("it is back", || group(&test, "g").state == "active");
    publish(&mut publisher, 40, 50, || ());
    member.line.tell(50);
    member.line.expect("[]");
    assert_clean(&test);
}

#[test]
fn a_shared_group_is_marked_and_a_nameless_one_goes_on_as_a_tap() {
    let test = TestBus::new("stall-kinds");
    let bus = test.open("publisher");
    let topic = topic(&bus);
    let report = Stall { policy: StallPolicy::Report, ..let_go() };
    let mut shared = topic.group("s").shared().stall(report).join().unwrap();
    let mut nameless = topic.subscriber().stall(let_go()).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publish(&mut publisher, 0, 3, || ());
    eventually("the shared group is marked", || group(&test, "s").stalled_ns.is_some());
    eventually("the nameless one is let go", || {
        BusView::open(&test.name, None)
            .unwrap()
            .topic("t")
            .unwrap()
            .sample()
            .groups
            .iter()
            .any(|group| group.ephemeral && group.state == "evicted")
    });
    for number in 0..3 {
        for subscriber in [&mut shared, &mut nameless] {
            let message = subscriber.receive().unwrap();
            assert_eq!(message.sequence(), number);
            message.ack().unwrap();
        }
    }
    eventually("the mark goes", || group(&test, "s").stalled_ns.is_none());
    let groups = BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample().groups;
    assert!(groups.iter().all(|group| !group.ephemeral), "it has given its place back");
    assert_clean(&test);
}

#[test]
fn options_that_contradict_each_other_are_typed_errors_and_leave_nothing() {
    let test = TestBus::new("stall-options");
    let bus = test.open("member");
    let topic = topic(&bus);
    let lag_0 = Stall { lag: Some(0), ..let_go() };
    let after_0 = Stall { after: Some(Duration::ZERO), ..let_go() };
    let endless = Stall { after: None, ..let_go() };
    for builder in [
        topic.group("g").shared().stall(let_go()),
        topic.subscriber().yield_after(LIMIT).stall(let_go()),
        topic.subscriber().tap().stall(Stall::default()),
        topic.group("g").stall(lag_0),
        topic.group("g").stall(after_0),
        topic.group("g").stall(endless),
    ] {
        let error = builder.join().unwrap_err();
        assert!(matches!(&error, AttachError::Stall { topic, .. } if topic == "t"), "{error}");
    }
    let view = BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample();
    assert!(view.groups.is_empty());
    // A setting of the group: it stays when a member says nothing, and is taken back by one that says otherwise.
    drop(topic.group("g").stall(let_go()).join().unwrap());
    let member = topic.group("g").join().unwrap();
    assert!(group(&test, "g").lets_go);
    drop(member);
    drop(topic.group("g").stall(Stall::default()).join().unwrap());
    assert!(!group(&test, "g").lets_go);
    assert_clean(&test);
}

#[test]
fn a_death_on_the_way_back_loses_no_message_and_no_report() {
    let test = TestBus::new("stall-kill");
    let bus = test.open("publisher");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(LIMIT + SLACK);
    // What everybody before has surely been told of.
    let (mut told, mut end) = (0, 0);
    for round in 0..12 {
        let mut member = Agent::spawn("agent", "member-at", &test.name, told);
        member.line.expect("joined");
        member.stop();
        publish(&mut publisher, end, end + 200, || ());
        end += 200;
        assert_eq!(group(&test, "g").state, "evicted");
        member.line.tell("go");
        member.go_on();
        // From before the first step of the way back to the middle of what it reads.
        std::thread::sleep(Duration::from_micros(round * 150));
        member.signal(libc::SIGKILL);
        while let Some(line) = member.line.try_hear() {
            let (from, until) = line.split_once(' ').unwrap();
            let (from, until): (u64, u64) = (from.parse().unwrap(), until.parse().unwrap());
            // What it had not said that it finished may come again.
            assert!(from <= told, "a gap before {from}: told of up to {told}");
            told = told.max(until);
        }
        member.kill();
        eventually("the dead one is noticed", || {
            !matches!(group(&test, "g").state, "active" | "evicted" | "joining")
        });
    }
    let mut last = topic.group("g").join().unwrap();
    // The dead ones may have been told of everything.
    publish(&mut publisher, end, end + 10, || ());
    end += 10;
    let mut at = None;
    while at.is_none_or(|at| at < end) {
        let message = last.receive_timeout(Duration::from_secs(5)).unwrap().expect("a message");
        let sequence = message.sequence();
        message.ack().unwrap();
        while let Some((_, from, until)) = last.take_missed() {
            assert!(from <= at.unwrap_or(told), "a gap before {from}: told of up to {told}");
            at = Some(until);
        }
        assert!(sequence <= at.unwrap_or(told), "a gap before {sequence}: told of up to {told}");
        at = Some(sequence + 1);
    }
    assert_clean(&test);
}

/// A member that was let go in the middle of 200 messages: where it stood, and where its backlog begins.
fn left_behind(test: &TestBus) -> (Bus, Publisher<Bytes>, Subscriber<Bytes>) {
    let bus = test.open("both");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").stall(let_go()).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(LIMIT + SLACK);
    publish(&mut publisher, 0, 200, || ());
    assert_eq!(group(test, "g").state, "evicted");
    assert!(subscriber.try_receive().unwrap().is_some(), "it comes back, and gives the first one back");
    let reliable_from = subscriber.reliable_from(Lane(0));
    assert!(reliable_from > 190, "most is backlog: {reliable_from}");
    (bus, publisher, subscriber)
}

#[test]
fn what_is_given_back_from_the_backlog_comes_again() {
    let test = TestBus::new("stall-rewind");
    let (_bus, _publisher, mut subscriber) = left_behind(&test);
    let (_, 0, first) = subscriber.take_missed().unwrap() else { panic!("missed from the beginning") };
    let again = subscriber.try_receive().unwrap().unwrap();
    assert_eq!((again.sequence(), again.is_redelivered()), (first, true));
    again.ack().unwrap();
    let mut batch = subscriber.receive_batch(1, 8, Duration::ZERO).unwrap();
    for sequence in first + 1..first + 5 {
        assert_eq!(batch.next_message().unwrap().unwrap().sequence(), sequence);
    }
    drop(batch);
    for sequence in first + 1..200 {
        let message = subscriber.try_receive().unwrap().unwrap();
        assert_eq!((message.sequence(), message.is_redelivered()), (sequence, sequence < first + 5));
        message.ack().unwrap();
    }
    assert_eq!((subscriber.missed_count(), subscriber.take_missed()), (first, None));
    assert_clean(&test);
}

#[test]
fn what_is_finished_of_the_backlog_does_not_come_to_a_successor() {
    let test = TestBus::new("stall-successor");
    for policy in [StallPolicy::LetGo, StallPolicy::Report] {
        let test = if policy == StallPolicy::LetGo { &test } else { &TestBus::new("stall-successor-2") };
        let (bus, _publisher, mut subscriber) = left_behind(test);
        let (_, _, first) = subscriber.take_missed().unwrap();
        drop(subscriber);
        // Told of what it missed; nothing is finished.
        let topic = topic(&bus);
        let settings = Stall { policy, ..let_go() };
        let mut next = topic.group("g").stall(settings).join().unwrap();
        for sequence in first..first + 10 {
            let message = next.try_receive().unwrap().unwrap();
            assert_eq!((message.sequence(), message.is_redelivered()), (sequence, sequence == first));
            message.ack().unwrap();
        }
        drop(next);
        let mut last = topic.group("g").join().unwrap();
        for sequence in first + 10..200 {
            let message = last.try_receive().unwrap().unwrap();
            assert_eq!((message.sequence(), message.is_redelivered()), (sequence, false));
            message.ack().unwrap();
        }
        assert_eq!(last.missed_count(), 0);
        drop(last);
        assert!(topic.group("g").join().unwrap().try_receive().unwrap().is_none());
        assert_clean(test);
    }
}

#[test]
fn a_message_that_kills_its_consumers_becomes_a_dead_letter_where_it_is_copied_too() {
    let test = TestBus::new("stall-poison");
    let bus = test.open("publisher");
    let topic = topic(&bus);
    drop(topic.group("g").stall(Stall { after: Some(Duration::from_secs(60)), ..let_go() }).join().unwrap());
    let mut publisher = topic.publisher().unwrap();
    publish(&mut publisher, 0, 2, || ());
    for attempt in 1..=3 {
        let mut member = Agent::spawn("agent", "poisoned", &test.name, attempt);
        member.line.expect(&format!("0 {attempt}"));
        member.kill();
        eventually("the dead one is noticed", || group(&test, "g").state == "held");
    }
    let mut last = topic.group("g").attempts(3).join().unwrap();
    let message = last.receive_timeout(SLACK).unwrap().expect("the next message");
    assert_eq!((message.sequence(), message.attempts()), (1, 1));
    message.ack().unwrap();
    assert_eq!(group(&test, "g").dead_count, 1);
    assert_clean(&test);
}

#[test]
fn a_batch_in_hand_ends_at_once_before_what_is_missed_and_waits_for_nothing() {
    let test = TestBus::new("stall-cut");
    let bus = test.open("both");
    let topic = topic(&bus);
    let mut subscriber = topic.group("g").stall(let_go()).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(LIMIT + SLACK);
    publish(&mut publisher, 0, 5, || ());
    let mut batch = subscriber.receive_batch(3, 100, Duration::ZERO).unwrap();
    for sequence in 0..3 {
        assert_eq!(batch.next_message().unwrap().unwrap().sequence(), sequence);
    }
    publish(&mut publisher, 5, 200, || ());
    let begun = Instant::now();
    assert!(batch.next_message_timeout(Duration::MAX).unwrap().is_none());
    assert!(batch.next_message_timeout(Duration::from_secs(60)).unwrap().is_none());
    assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
    assert_eq!(batch.ack(), 3);
    let mut account = Account { at: 3, missed: 0, runs: Vec::new() };
    account.drain(&mut subscriber, 200, |_| ());
    assert_clean(&test);
}

#[test]
fn time_without_a_member_does_not_count_against_the_next_one() {
    let test = TestBus::new("stall-restart");
    let bus = test.open("both");
    let topic = topic(&bus);
    drop(topic.group("g").stall(let_go()).join().unwrap());
    let mut publisher = topic.publisher().unwrap();
    publish(&mut publisher, 0, u64::from(CAPACITY), || ());
    publisher.set_deadline(LIMIT * 10);
    let waiting = std::thread::spawn(move || publisher.publish(b"when there is room").unwrap());
    std::thread::sleep(LIMIT * 2);
    let begun = Instant::now();
    let mut subscriber = topic.group("g").join().unwrap();
    while begun.elapsed() < LIMIT / 2 {
        let state = group(&test, "g").state;
        assert!(state == "active" || begun.elapsed() >= LIMIT, "{state} after {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    subscriber.receive().unwrap().ack().unwrap();
    assert_eq!(waiting.join().unwrap(), u64::from(CAPACITY));
    drop(subscriber);
    assert_clean(&test);
}
