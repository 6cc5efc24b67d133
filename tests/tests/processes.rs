//! The bus between real processes: who talks, who dies, who is stopped, and what the others see of it.
//!
//! Every child is this test binary again, in the test [`agent`], playing one of the roles below.

use bus_shm::directory::BusDir;
use bus_shm::inspect::BusView;
use bus_shm::supervisor::{Stopped, Supervisor};
use bus_shm::sys::clock::monotonic_ns;
use bus_shm::{
    AttachError, Bus, BusError, Bytes, Lane, PublishError, Received, Start, Subscriber, Topic, TopicError,
    Wait,
};
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Words, assert_clean, eventually};

/// What a test that is loaded with others still calls "at once": far below the second after which a sleeper looks for itself.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Number of a message that ends a stream.
const LAST: u64 = u64::MAX >> 1;
/// The bits of a message's number that count.
const COUNT_MASK: u64 = (1 << 40) - 1;

fn spawn(role: &str, test: &TestBus, argument: impl std::fmt::Display) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "publisher" => publisher(role),
        "endless" | "telling" => endless(role),
        "half" => half_published(role),
        "reader" => reader(role),
        "member" => member(role),
        "tap" => tap(role),
        "holder" => holder(role),
        "sleeper" => sleeper(role),
        "predecessor" => predecessor(role),
        "supervisor" => supervisor(role),
        "guest" => guest(role),
        "churn" => churn(role),
        other => panic!("no role {other:?}"),
    }
}

fn topic(bus: &Bus) -> Topic<Words> {
    bus.topic("t").expect("the topic")
}

/// Publishes messages `0..count` of producer `index`.
fn publisher(mut role: Role) {
    let (index, count) = role.argument.split_once(' ').expect("index and count");
    let (index, count): (u64, u64) = (index.parse().unwrap(), count.parse().unwrap());
    let bus = role.open();
    let mut publisher = topic(&bus).publisher().unwrap();
    publisher.set_deadline(Duration::from_secs(20));
    role.parent.tell("ready");
    role.parent.expect("go");
    for n in 0..count {
        publisher.publish(&Words::of(index, n)).unwrap();
    }
    role.parent.tell("done");
}

/// Publishes without end; as "telling", it tells the number of each message that was accepted.
fn endless(mut role: Role) {
    let is_telling = role.name == "telling";
    let index = role.number();
    let bus = role.open();
    let mut publisher = topic(&bus).publisher().unwrap();
    publisher.set_deadline(Duration::from_secs(20));
    role.parent.tell("ready");
    role.parent.expect("go");
    for n in 0.. {
        publisher.publish(&Words::of(index, n)).unwrap();
        if is_telling {
            role.parent.tell(n);
        }
    }
}

/// Publishes a message and stands still before it wakes anybody.
fn half_published(mut role: Role) {
    let bus = role.open();
    let mut publisher = topic(&bus).publisher().unwrap();
    let value = Words::numbered(role.number());
    role.parent.tell("ready");
    role.parent.expect("go");
    let mut taken = 0;
    let values = std::iter::from_fn(|| {
        taken += 1;
        if taken == 2 {
            role.parent.tell("published");
            role.parent.hear();
        }
        (taken == 1).then_some(&value)
    });
    let _ = publisher.publish_batch(Lane::NORMAL, values);
}

/// Counts what each producer sent and checks its order.
#[derive(Default)]
struct Ledger {
    next: [u64; 16],
    count: u64,
}

impl Ledger {
    /// Every message of every producer comes, in its order.
    fn note(&mut self, number: u64) {
        let next = &mut self.next[(number >> 40) as usize];
        assert_eq!(number & COUNT_MASK, *next, "of producer {}", number >> 40);
        *next += 1;
        self.count += 1;
    }

    /// Messages may be missing, but none comes out of order.
    fn note_with_gaps(&mut self, number: u64) {
        let next = &mut self.next[(number >> 40) as usize];
        assert!(number & COUNT_MASK >= *next, "of producer {}", number >> 40);
        *next = (number & COUNT_MASK) + 1;
        self.count += 1;
    }
}

fn number(message: &Received<'_, Words>) -> u64 {
    message.value().unwrap().number()
}

/// A named group of one member that reads to the end of the stream.
fn reader(mut role: Role) {
    let bus = role.open();
    let mut subscriber = topic(&bus).group(&role.argument).join().unwrap();
    role.parent.tell("ready");
    let mut ledger = Ledger::default();
    for expected in 0.. {
        let message = subscriber.receive().unwrap();
        assert_eq!(message.sequence(), expected);
        assert!(!message.is_redelivered());
        let number = number(&message);
        message.ack().unwrap();
        if number == LAST {
            break;
        }
        ledger.note(number);
    }
    role.parent.tell(ledger.count);
}

/// Something that no other set of as many numbers is likely to add up to.
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^ number >> 33
}

/// A member of a shared group that reads to the end of the stream.
fn member(mut role: Role) {
    let bus = role.open();
    let mut subscriber = topic(&bus).group(&role.argument).shared().join().unwrap();
    role.parent.tell("ready");
    let mut ledger = Ledger::default();
    let mut sum = 0_u64;
    loop {
        let message = subscriber.receive().unwrap();
        assert_eq!(message.attempts(), 1);
        let number = number(&message);
        message.ack().unwrap();
        if number == LAST {
            break;
        }
        ledger.note_with_gaps(number);
        sum = sum.wrapping_add(mixed(number));
    }
    role.parent.tell(ledger.count);
    role.parent.tell(sum);
}

/// Reads to the end of the stream without holding anybody.
fn tap(mut role: Role) {
    let bus = role.open();
    let mut tap = topic(&bus).tap().unwrap();
    role.parent.tell("ready");
    let mut ledger = Ledger::default();
    let mut read = 0;
    let end = loop {
        let message = tap.receive().unwrap();
        let (sequence, number) = (message.sequence(), number(&message));
        read += 1;
        message.ack().unwrap();
        if number == LAST {
            break sequence + 1;
        }
        ledger.note_with_gaps(number);
    };
    assert_eq!(read + tap.missed_count(), end, "each message was read or counted as missed");
    role.parent.tell(ledger.count);
}

/// Takes messages of group `g` and dies with them in hand. The argument: how many it acknowledges, how many it holds, and
/// "shared" or not.
fn holder(mut role: Role) {
    let mut words = role.argument.split(' ');
    let mut next = || words.next().unwrap().parse::<usize>();
    let (finished, held) = (next().unwrap(), next().unwrap());
    let is_shared = role.argument.ends_with("shared");
    let bus = role.open();
    let builder = topic(&bus).group("g");
    let mut subscriber = if is_shared { builder.shared().join() } else { builder.join() }.unwrap();
    role.parent.tell("ready");
    for _ in 0..finished {
        subscriber.receive().unwrap().ack().unwrap();
    }
    let mut batch = subscriber.receive_batch(held, held, Duration::from_secs(20)).unwrap();
    while batch.next_message().unwrap().is_some() {}
    assert_eq!(batch.len(), held);
    role.parent.tell("holding");
    role.parent.hear();
}

/// Sleeps until a message comes and tells how long that took, until it is killed.
fn sleeper(mut role: Role) {
    let bus = role.open();
    let mut subscriber = topic(&bus).subscriber().wait(Wait::Park).join().unwrap();
    role.parent.tell("ready");
    loop {
        let message = subscriber.receive().unwrap();
        role.parent.tell(monotonic_ns() - message.stamp_ns());
        message.ack().unwrap();
    }
}

/// The bytes of message `n` of a topic of bytes: some fit into a slot, some do not.
fn bytes_of(n: u64) -> Vec<u8> {
    let len = [24, 3_000, 90, 70_000][n as usize % 4];
    (0..len).map(|at| (n * 31 + at) as u8).collect()
}

/// The only producer of a topic of bytes.
fn predecessor(mut role: Role) {
    let count = role.number();
    let bus = role.open();
    let mut publisher = bus.topic::<Bytes>("one").unwrap().publisher().unwrap();
    for n in 0..count {
        publisher.publish(&bytes_of(n)).unwrap();
    }
    role.parent.tell("published");
    // Until it is killed; what it is in the middle of then, nobody has been told.
    if role.parent.hear() == "go on" {
        for n in count.. {
            publisher.publish(&bytes_of(n)).unwrap();
            role.parent.tell(n);
        }
    }
}

/// A dedicated supervisor. The argument: whether it takes over from another one.
fn supervisor(mut role: Role) {
    let dir = BusDir::new(&role.bus, None).unwrap();
    let supervisor = Supervisor::take(&dir, role.argument == "replace").unwrap();
    role.parent.tell("serving");
    let stopped = supervisor.serve().unwrap();
    role.parent.tell(format!("{stopped:?}"));
}

/// Opens the bus, tells whether it hosts the role, registers a topic of the argument's name, and leaves when told.
fn guest(mut role: Role) {
    let bus = role.open();
    bus.topic::<Words>(&role.argument).unwrap();
    role.parent.tell(bus.is_host());
    while role.parent.hear() == "host?" {
        role.parent.tell(bus.is_host());
    }
}

/// Comes, publishes, and goes, over and over.
fn churn(mut role: Role) {
    for _ in 0..role.number() {
        let bus = role.open();
        let topic = topic(&bus);
        let mut subscriber = topic.subscribe().unwrap();
        topic.publisher().unwrap().publish(&Words::numbered(1)).unwrap();
        subscriber.receive().unwrap().ack().unwrap();
    }
    role.parent.tell("done");
}

/// Starts `count` publishers of `each` messages, ready to go.
fn publishers(test: &TestBus, count: u64, each: u64) -> Vec<Agent> {
    let mut agents: Vec<_> =
        (0..count).map(|index| spawn("publisher", test, format!("{index} {each}"))).collect();
    agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
    agents
}

/// One group reads all messages of `processes` publishers.
fn stream(producers: u32, capacity: u32, processes: u64, each: u64) {
    let test = TestBus::new("stream");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Words>("t").producers(producers).capacity(capacity).open().unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut agents = publishers(&test, processes, each);
    agents.iter_mut().for_each(|agent| agent.line.tell("go"));
    let mut ledger = Ledger::default();
    for expected in 0..processes * each {
        let message = subscriber.receive().unwrap();
        assert_eq!(message.sequence(), expected);
        assert!(!message.is_redelivered());
        ledger.note(number(&message));
        message.ack().unwrap();
    }
    for mut agent in agents {
        agent.line.expect("done");
        agent.join();
    }
    assert!(subscriber.try_receive().unwrap().is_none());
    drop((subscriber, topic, bus));
    test.assert_gone();
}

#[test]
fn one_producer_lane_between_two_processes() {
    stream(1, 1024, 1, 200_000);
}

#[test]
fn one_producer_lane_that_is_full_most_of_the_time() {
    stream(1, 8, 1, 20_000);
}

#[test]
fn many_producer_lane_between_two_processes() {
    stream(64, 1024, 1, 200_000);
}

#[test]
fn many_producer_lane_with_two_publishing_processes() {
    stream(2, 256, 2, 100_000);
}

#[test]
fn many_producer_lane_with_more_processes_than_cores() {
    stream(64, 1024, 4, 50_000);
}

#[test]
fn several_groups_read_one_stream_at_once() {
    const EACH: u64 = 50_000;
    let test = TestBus::new("groups");
    let bus = test.open("observer");
    let topic = topic(&bus);
    let mut readers = [
        spawn("reader", &test, "alone"),
        spawn("tap", &test, ""),
        spawn("member", &test, "team"),
        spawn("member", &test, "team"),
    ];
    readers.iter_mut().for_each(|agent| agent.line.expect("ready"));
    let mut agents = publishers(&test, 2, EACH);
    agents.iter_mut().for_each(|agent| agent.line.tell("go"));
    agents.iter_mut().for_each(|agent| agent.line.expect("done"));
    let mut publisher = topic.publisher().unwrap();
    for _ in 0..2 {
        // One for each member of the team.
        publisher.publish(&Words::numbered(LAST)).unwrap();
    }
    let [alone, tap, first, second] = &mut readers;
    assert_eq!(alone.line.hear_number(), 2 * EACH);
    assert!(tap.line.hear_number() > 0);
    let count = first.line.hear_number() + second.line.hear_number();
    let sum = first.line.hear_number().wrapping_add(second.line.hear_number());
    let expected = (0..2).flat_map(|index| (0..EACH).map(move |n| index << 40 | n));
    let expected = expected.fold(0_u64, |sum, number| sum.wrapping_add(mixed(number)));
    assert_eq!((count, sum), (2 * EACH, expected), "each message went to one member of the team");
    readers.into_iter().chain(agents).for_each(Agent::join);
    assert_clean(&test);
}

/// A bus, and a child that takes part in it. The supervisor's role is with the child, and dies with it, or with this process.
fn with_child(what: &str, child_hosts: bool, role: &str, argument: &str) -> (TestBus, Bus, Agent) {
    let test = TestBus::new(what);
    if child_hosts {
        let mut agent = spawn(role, &test, argument);
        agent.line.expect("ready");
        let bus = test.open("survivor");
        assert!(!bus.is_host());
        (test, bus, agent)
    } else {
        let bus = test.open("survivor");
        assert!(bus.is_host());
        let mut agent = spawn(role, &test, argument);
        agent.line.expect("ready");
        (test, bus, agent)
    }
}

#[test]
fn a_named_group_is_taken_over_at_once_when_its_member_is_killed() {
    for child_hosts in [false, true] {
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            let (test, bus, mut agent) = with_child("takeover", child_hosts, "holder", "3 2");
            let topic = topic(&bus);
            let mut publisher = topic.publisher().unwrap();
            for sequence in 0..10 {
                publisher.publish(&Words::numbered(sequence)).unwrap();
            }
            agent.line.expect("holding");
            let busy = topic.group("g").join().unwrap_err();
            let AttachError::GroupBusy { pid, service, group, .. } = &busy else { panic!("{busy}") };
            assert_eq!((*pid, service.as_str(), group.as_str()), (agent.pid(), "holder", "g"));
            agent.kill();
            let dead = Instant::now();
            let mut subscriber = topic.group("g").join().unwrap();
            let message = subscriber.receive().unwrap();
            fastest = fastest.min(dead.elapsed());
            assert_eq!((message.sequence(), message.is_redelivered()), (3, true));
            assert!(message.value().unwrap().is_numbered(3));
            message.ack().unwrap();
            for sequence in 4..10 {
                let message = subscriber.receive().unwrap();
                assert_eq!((message.sequence(), message.is_redelivered()), (sequence, sequence == 4));
                message.ack().unwrap();
            }
            assert_clean(&test);
        }
        assert!(fastest < AT_ONCE, "{fastest:?}");
    }
}

#[test]
fn what_a_killed_member_had_claimed_goes_to_another_member() {
    for child_hosts in [false, true] {
        let mut fastest = Duration::MAX;
        for wait in [Wait::Park, Wait::Spin, Wait::Adaptive] {
            let (test, bus, mut agent) = with_child("claims", child_hosts, "holder", "2 3 shared");
            let topic = topic(&bus);
            let mut publisher = topic.publisher().unwrap();
            for sequence in 0..5 {
                publisher.publish(&Words::numbered(sequence)).unwrap();
            }
            agent.line.expect("holding");
            let mut subscriber = topic.group("g").shared().wait(wait).join().unwrap();
            publisher.publish(&Words::numbered(5)).unwrap();
            let message = subscriber.receive().unwrap();
            assert_eq!((message.sequence(), message.is_redelivered()), (5, false));
            message.ack().unwrap();
            assert!(subscriber.try_receive().unwrap().is_none());
            assert_eq!(subscriber.lag_count(Lane::NORMAL), 4, "the holder has 2, 3 and 4 in hand");
            agent.kill();
            let dead = Instant::now();
            for sequence in 2..5 {
                let message = subscriber.receive_timeout(Duration::from_secs(10)).unwrap().expect("released");
                fastest = fastest.min(dead.elapsed());
                assert_eq!((message.sequence(), message.attempts()), (sequence, 2));
                assert!(message.is_redelivered());
                message.ack().unwrap();
            }
            assert!(subscriber.try_receive().unwrap().is_none());
            assert_eq!(subscriber.lag_count(Lane::NORMAL), 0);
            assert_clean(&test);
        }
        // Without a supervisor a member that waits finds out for itself when it looks round, once a second.
        let limit = if child_hosts { Duration::from_secs(3) } else { 2 * AT_ONCE };
        assert!(fastest < limit, "{fastest:?}");
    }
}

// The index is the publisher's number in its messages too.
#[allow(clippy::needless_range_loop)]
#[test]
fn what_a_killed_publisher_had_published_is_delivered_and_others_go_on() {
    let test = TestBus::new("killed-pub");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Words>("t").capacity(64).open().unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut ledger = Ledger::default();
    let mut survivor = publishers(&test, 1, 30_000).remove(0);
    survivor.line.tell("go");
    let mut accepted = [0; 4];
    for index in 1..4 {
        let mut victim = spawn("telling", &test, index as u64);
        victim.line.expect("ready");
        victim.line.tell("go");
        while ledger.next[index] < 2_000 {
            let message = subscriber.receive().unwrap();
            let number = number(&message);
            ledger.note(number);
            message.ack().unwrap();
            if number >> 40 == index as u64 {
                // What is read before its publisher has been told is not wrong, only quick.
                accepted[index] = accepted[index].max(victim.line.hear_number() + 1);
            }
        }
        victim.kill();
        while let Some(n) = victim.line.try_hear() {
            accepted[index] = n.parse::<u64>().unwrap() + 1;
        }
    }
    // The survivor may still be held up by the full ring; it ends only after everything before it was read.
    while ledger.next[0] < 30_000 || (1..4).any(|index| ledger.next[index] < accepted[index]) {
        let message = subscriber.receive_timeout(Duration::from_secs(10)).unwrap().expect("nothing is lost");
        ledger.note(number(&message));
        message.ack().unwrap();
    }
    for (index, &accepted) in accepted.iter().enumerate().skip(1) {
        let published = ledger.next[index];
        assert!(published == accepted || published == accepted + 1, "{published} of {accepted} and one");
    }
    survivor.line.expect("done");
    survivor.join();
    eventually("all deaths are noticed", || bus.participants().len() == 1);
    // Read, they stay for those who come late, until the ring has gone round.
    let mut publisher = topic.publisher().unwrap();
    for sequence in 0..u64::from(topic.capacity()) {
        publisher.publish(&Words::numbered(sequence)).unwrap();
        subscriber.receive().unwrap().ack().unwrap();
    }
    drop(publisher);
    assert_eq!(arenas(&test, "t").len(), 1, "{:?}", arenas(&test, "t"));
    assert_clean(&test);
}

#[test]
fn the_only_producer_may_be_killed_at_any_moment_and_the_next_one_goes_on() {
    let test = TestBus::new("killed-one");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Words>("t").producers(1).capacity(64).open().unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut ledger = Ledger::default();
    let mut sequence = 0;
    let mut read = |subscriber: &mut Subscriber<Words>, ledger: &mut Ledger| {
        let Some(message) = subscriber.receive_timeout(Duration::from_millis(1)).unwrap() else {
            return false;
        };
        assert_eq!(message.sequence(), sequence);
        sequence += 1;
        ledger.note(number(&message));
        message.ack().unwrap();
        true
    };
    for index in 0..12 {
        let mut victim = spawn("telling", &test, index as u64);
        victim.line.expect("ready");
        victim.line.tell("go");
        let mut accepted = 0;
        while accepted < 100 + 37 * index as u64 {
            read(&mut subscriber, &mut ledger);
            accepted = victim.line.hear_number() + 1;
        }
        victim.kill();
        while let Some(n) = victim.line.try_hear() {
            accepted = n.parse::<u64>().unwrap() + 1;
        }
        while read(&mut subscriber, &mut ledger) {}
        assert_clean(&test);
        let published = ledger.next[index];
        assert!(published == accepted || published == accepted + 1, "{published} of {accepted} and one");
    }
    assert_clean(&test);
}

fn arenas(test: &TestBus, topic: &str) -> Vec<String> {
    std::fs::read_dir(test.path().join("topics").join(topic))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("arena-"))
        .collect()
}

#[test]
fn a_stopped_publisher_stops_nobody() {
    for producers in [64, 2] {
        let test = TestBus::new("stopped-pub");
        let bus = test.open("reader");
        let topic = bus.topic_builder::<Words>("t").producers(producers).capacity(64).open().unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut agent = spawn("endless", &test, 1_u64);
        agent.line.expect("ready");
        agent.line.tell("go");
        let mut ledger = Ledger::default();
        let mut drain = |subscriber: &mut Subscriber<Words>| {
            while let Some(message) = subscriber.try_receive().unwrap() {
                ledger.note(number(&message));
                message.ack().unwrap();
            }
            ledger.next
        };
        let mut published = 0;
        for _ in 0..30 {
            let seen = drain(&mut subscriber)[1];
            eventually("the other publisher goes on", || drain(&mut subscriber)[1] > seen);
            agent.stop();
            assert_clean(&test);
            for _ in 0..300 {
                publisher.set_deadline(Duration::from_millis(500));
                drain(&mut subscriber);
                publisher.publish(&Words::of(0, published)).expect("nobody is in the way");
                published += 1;
            }
            assert_eq!(drain(&mut subscriber)[0], published);
            agent.go_on();
        }
        assert_clean(&test);
    }
}

#[test]
fn a_stopped_only_producer_goes_on_where_it_was() {
    let test = TestBus::new("stopped-one");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Words>("t").producers(1).capacity(64).open().unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut agent = spawn("endless", &test, 0_u64);
    agent.line.expect("ready");
    agent.line.tell("go");
    let mut ledger = Ledger::default();
    for _ in 0..30 {
        for _ in 0..100 {
            let message = subscriber.receive().unwrap();
            ledger.note(number(&message));
            message.ack().unwrap();
        }
        agent.stop();
        assert_clean(&test);
        while let Some(message) = subscriber.try_receive().unwrap() {
            ledger.note(number(&message));
            message.ack().unwrap();
        }
        assert!(subscriber.receive_timeout(Duration::from_millis(2)).unwrap().is_none());
        let busy = topic.publisher().unwrap_err();
        assert!(matches!(busy, AttachError::ProducerLimit { .. }), "a stopped process is not dead: {busy}");
        agent.go_on();
    }
    assert_clean(&test);
}

#[test]
fn a_stopped_subscriber_holds_the_ring_and_nothing_else() {
    let (test, bus, mut agent) = with_child("stopped-sub", false, "holder", "0 1");
    let topic = topic(&bus);
    let mut others = topic.group("others").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(Duration::from_millis(50));
    publisher.set_breaker(false);
    publisher.publish(&Words::numbered(0)).unwrap();
    agent.line.expect("holding");
    agent.stop();
    others.receive().unwrap().ack().unwrap();
    let capacity = u64::from(topic.capacity());
    for sequence in 1..capacity {
        publisher.publish(&Words::numbered(sequence)).unwrap();
        others.receive().unwrap().ack().unwrap();
    }
    let error = publisher.publish(&Words::numbered(capacity)).unwrap_err();
    let PublishError::Full(full) = &error else { panic!("{error}") };
    assert_eq!((full.group.as_deref(), full.lag_count), (Some("g"), capacity));
    // The other lanes are not touched by that.
    publisher.publish_to(Lane::CRITICAL, &Words::numbered(1)).unwrap();
    assert_eq!(others.receive().unwrap().lane(), Lane::CRITICAL);
    let busy = topic.group("g").join().unwrap_err();
    assert!(matches!(busy, AttachError::GroupBusy { .. }), "a stopped process is not dead: {busy}");
    agent.go_on();
    agent.line.tell("leave");
    agent.join();
    let mut subscriber = topic.group("g").join().unwrap();
    // The urgent one first.
    subscriber.receive().unwrap().ack().unwrap();
    let message = subscriber.receive().unwrap();
    assert_eq!((message.sequence(), message.is_redelivered()), (0, true));
    message.ack().unwrap();
    publisher.publish(&Words::numbered(capacity)).unwrap();
    assert_clean(&test);
}

#[test]
fn a_stopped_member_keeps_only_what_it_has_in_hand() {
    let (test, bus, mut agent) = with_child("stopped-member", false, "holder", "0 2 shared");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    for sequence in 0..2 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
    }
    agent.line.expect("holding");
    agent.stop();
    let mut subscriber = topic.group("g").shared().join().unwrap();
    for sequence in 2..500 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
        let message = subscriber.receive().unwrap();
        assert_eq!(message.sequence(), sequence);
        message.ack().unwrap();
    }
    assert_eq!(subscriber.lag_count(Lane::NORMAL), 500, "the cursor waits for the first two");
    agent.go_on();
    agent.line.tell("leave");
    agent.join();
    // It left without having acknowledged them.
    for sequence in 0..2 {
        let message = subscriber.receive().unwrap();
        assert_eq!((message.sequence(), message.attempts()), (sequence, 2));
        message.ack().unwrap();
    }
    // Whoever has nothing to do moves the group's cursor over what others have finished.
    assert!(subscriber.try_receive().unwrap().is_none());
    assert_eq!(subscriber.lag_count(Lane::NORMAL), 0);
    assert_clean(&test);
}

/// Reads `count` messages of an endless publisher. Returns the longest pause between two.
fn read_on(subscriber: &mut Subscriber<Words>, ledger: &mut Ledger, count: u64) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let begun = Instant::now();
        let message = subscriber.receive().unwrap();
        ledger.note(number(&message));
        message.ack().unwrap();
        longest = longest.max(begun.elapsed());
    }
    longest
}

#[test]
fn traffic_goes_on_without_the_supervisor_and_the_next_registration_hosts() {
    let test = TestBus::new("headless");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    // Made by the supervisor, so not a temporary bus: it is removed by the end of the test.
    let bus = test.open("reader");
    assert!(!bus.is_host());
    let topic = topic(&bus);
    let mut subscriber = topic.subscribe().unwrap();
    let mut agent = spawn("endless", &test, 0_u64);
    agent.line.expect("ready");
    agent.line.tell("go");
    let mut ledger = Ledger::default();
    read_on(&mut subscriber, &mut ledger, 2_000);
    chief.stop();
    assert!(read_on(&mut subscriber, &mut ledger, 2_000) < Duration::from_millis(900), "while it is stopped");
    chief.go_on();
    chief.kill();
    assert!(read_on(&mut subscriber, &mut ledger, 2_000) < Duration::from_millis(900), "after its death");
    assert!(!bus.is_host(), "no client watches the role");
    let mut guest = spawn("guest", &test, "other");
    guest.line.expect("true");
    read_on(&mut subscriber, &mut ledger, 100);
    // The guest hosts now, and ends; then this process takes the role for its next registration.
    guest.line.tell("leave");
    guest.join();
    assert!(!bus.is_host());
    bus.topic::<Words>("another").unwrap();
    assert!(bus.is_host());
    let view = BusView::open(&test.name, None).unwrap();
    assert_eq!(view.topic_names(), ["another", "other", "t"]);
    assert!(view.role_epoch() >= 3);
    read_on(&mut subscriber, &mut ledger, 100);
    assert_clean(&test);
}

#[test]
fn a_stopped_supervisor_is_reported_to_whoever_may_not_take_its_place() {
    let test = TestBus::new("silent");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let bus = test.builder().service("client").host(false).open().unwrap();
    let mut publisher = topic(&bus).publisher().unwrap();
    chief.stop();
    let begun = Instant::now();
    let error = bus.topic::<Words>("other").unwrap_err();
    assert!(matches!(error, TopicError::Bus(BusError::Timeout { .. })), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // What needs no supervisor goes on.
    let mut subscriber = topic(&bus).group("g").join().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    subscriber.receive().unwrap().ack().unwrap();
    chief.go_on();
    bus.topic::<Words>("other").unwrap();
}

#[test]
fn the_death_of_a_publisher_is_noticed_by_the_supervisor_that_comes_next() {
    let test = TestBus::new("late-sweep");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let bus = test.open("reader");
    let topic = topic(&bus);
    let mut subscriber = topic.subscribe().unwrap();
    let mut victim = spawn("endless", &test, 0_u64);
    victim.line.expect("ready");
    victim.line.tell("go");
    let mut ledger = Ledger::default();
    read_on(&mut subscriber, &mut ledger, 500);
    chief.kill();
    victim.kill();
    assert_eq!(bus.participants().len(), 2, "nobody has noticed yet");
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    assert_eq!(bus.participants().len(), 1);
    while let Some(message) = subscriber.try_receive().unwrap() {
        ledger.note(number(&message));
        message.ack().unwrap();
    }
    assert!(ledger.count >= 500);
    assert_clean(&test);
}

#[test]
fn the_role_goes_to_the_next_opener_when_the_hosting_process_ends() {
    let test = TestBus::new("host-ends");
    let mut first = spawn("guest", &test, "t");
    first.line.expect("true");
    let mut second = spawn("guest", &test, "t");
    second.line.expect("false");
    first.line.tell("leave");
    first.join();
    second.line.tell("host?");
    second.line.expect("false");
    let mut third = spawn("guest", &test, "t");
    third.line.expect("true");
    // Killed instead of leaving: the same.
    third.kill();
    assert_clean(&test);
    let mut fourth = spawn("guest", &test, "u");
    fourth.line.expect("true");
    for mut agent in [second, fourth] {
        agent.line.tell("leave");
        agent.join();
    }
    test.assert_gone();
}

#[test]
fn of_two_supervisors_one_wins_and_the_other_says_so() {
    let test = TestBus::new("two");
    let dir = BusDir::new(&test.name, None).unwrap();
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    let error = Supervisor::take(&dir, false).unwrap_err();
    let BusError::Refused { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains(&format!("pid {}", chief.pid())) && reason.contains("--replace"), "{reason}");
    let mut successor = spawn("supervisor", &test, "replace");
    successor.line.expect("serving");
    chief.line.expect("HandedOver");
    chief.join();
    let bus = test.open("client");
    bus.topic::<Words>("t").unwrap();
    assert!(!bus.is_host());
    bus.down(true).unwrap();
    successor.line.expect("Down");
    successor.join();
    test.assert_gone();
}

#[test]
fn an_agent_hands_the_role_over_to_a_dedicated_supervisor() {
    let test = TestBus::new("handover");
    let bus = test.open("agent");
    assert!(bus.is_host());
    let topic = topic(&bus);
    let mut subscriber = topic.subscribe().unwrap();
    let mut agent = spawn("endless", &test, 0_u64);
    agent.line.expect("ready");
    agent.line.tell("go");
    let mut ledger = Ledger::default();
    read_on(&mut subscriber, &mut ledger, 500);
    let mut chief = spawn("supervisor", &test, "");
    chief.line.expect("serving");
    eventually("the thread ends", || !bus.is_host());
    read_on(&mut subscriber, &mut ledger, 500);
    bus.topic::<Words>("u").unwrap();
    assert!(!bus.is_host(), "the supervisor has answered");
    // Deaths are noticed by the new one, who was not there when the dead registered.
    agent.kill();
    eventually("the dead publisher is noticed", || bus.participants().len() == 1);
    chief.kill();
    bus.topic::<Words>("v").unwrap();
    assert!(bus.is_host(), "it takes the role again");
    assert_clean(&test);
}

#[test]
fn a_supervisor_that_is_told_to_stop_leaves_the_bus_as_it_is() {
    let test = TestBus::new("asked");
    let dir = BusDir::new(&test.name, None).unwrap();
    let supervisor = Supervisor::take(&dir, false).unwrap();
    let stop = supervisor.stop_handle();
    let thread = std::thread::spawn(move || supervisor.serve().unwrap());
    let bus = Bus::builder(&test.name).host(false).open().unwrap();
    bus.topic::<Words>("t").unwrap();
    stop.stop();
    assert_eq!(thread.join().unwrap(), Stopped::Asked);
    let error = bus.topic::<Words>("u").unwrap_err();
    assert!(error.to_string().contains("no supervisor"), "{error}");
    bus.topic::<Words>("t").unwrap();
}

#[test]
fn a_one_producer_topic_is_taken_over_with_everything_unread() {
    for child_hosts in [false, true] {
        let test = TestBus::new("one-producer");
        // Not a temporary bus, so that it is there for the child whoever hosts.
        let setup = Bus::builder(&test.name).open().unwrap();
        setup.topic_builder::<Bytes>("one").producers(1).with_group("g").open().unwrap();
        let setup = (!child_hosts).then_some(setup);
        let mut agent = spawn("predecessor", &test, 40_u64);
        agent.line.expect("published");
        let bus = test.open("successor");
        assert!(!bus.is_host());
        let topic = bus.topic::<Bytes>("one").unwrap();
        let error = topic.publisher().unwrap_err();
        let AttachError::ProducerLimit { max: 1, holder, .. } = &error else { panic!("{error}") };
        assert_eq!(*holder, format!("predecessor (pid {})", agent.pid()));
        agent.line.tell("go on");
        let mut accepted = 40;
        while accepted < 300 {
            accepted = agent.line.hear_number() + 1;
        }
        agent.kill();
        let dead = Instant::now();
        while let Some(n) = agent.line.try_hear() {
            accepted = n.parse::<u64>().unwrap() + 1;
        }
        let mut publisher = topic.publisher().unwrap();
        assert!(dead.elapsed() < Duration::from_secs(2));
        let first = publisher.publish(&bytes_of(9_001)).unwrap();
        assert!(first == accepted || first == accepted + 1, "{first} after {accepted}");
        assert_eq!(publisher.publish(&bytes_of(9_003)).unwrap(), first + 1);
        assert_eq!(arenas(&test, "one").len(), 2, "the predecessor's is still needed");
        let mut subscriber = topic.group("g").join().unwrap();
        for sequence in 0..first + 2 {
            let message = subscriber.receive().unwrap();
            assert_eq!(message.sequence(), sequence);
            let n = if sequence < first { sequence } else { 9_001 + 2 * (sequence - first) };
            assert!(message.payload() == bytes_of(n), "message {sequence}");
            message.ack().unwrap();
        }
        // Read, it stays for those who come late, until the ring has gone round.
        for n in 0..u64::from(topic.capacity()) {
            publisher.publish(&bytes_of(4 * n)).unwrap();
            subscriber.receive().unwrap().ack().unwrap();
        }
        drop(publisher);
        assert!(arenas(&test, "one").iter().all(|name| !name.starts_with("arena-0.1-")), "reclaimed");
        drop(setup);
        assert_clean(&test);
    }
}

#[test]
fn many_producers_one_after_the_other_leave_neither_their_messages_unreadable_nor_their_memory() {
    let test = TestBus::new("one-by-one");
    let bus = test.open("all");
    let topic = bus.topic_builder::<Bytes>("one").producers(1).capacity(128).with_group("g").open().unwrap();
    // More than the bits of an incarnation that a message has room for.
    let publish = |n| topic.publisher().unwrap().publish(&bytes_of(n)).unwrap();
    for n in 0..100 {
        assert_eq!(publish(n), n);
    }
    let mut subscriber = topic.group("g").join().unwrap();
    for n in 0..100 {
        let message = subscriber.receive().unwrap();
        assert!(message.payload() == bytes_of(n), "message {n}");
        message.ack().unwrap();
    }
    for n in 100..600 {
        publish(n);
        let message = subscriber.receive().unwrap();
        assert!(message.payload() == bytes_of(n), "message {n}");
        message.ack().unwrap();
        // Two of four messages need an arena, and 128 messages are kept for late readers.
        assert!(arenas(&test, "one").len() <= 2 + 128 / 2 + 2, "{}", arenas(&test, "one").len());
    }
    assert_clean(&test);
}

#[test]
fn a_sleeping_reader_is_woken_by_another_process() {
    let (_test, bus, mut agent) = with_child("wake", false, "sleeper", "");
    let mut publisher = topic(&bus).publisher().unwrap();
    let mut latencies: Vec<_> = (0..40)
        .map(|sequence| {
            agent.wait_until_parked();
            publisher.publish(&Words::numbered(sequence)).unwrap();
            agent.line.hear_number()
        })
        .collect();
    latencies.sort_unstable();
    assert!(latencies[20] < 20_000_000, "median {} ns", latencies[20]);
    assert!(latencies[39] < 500_000_000, "one was not woken but woke by itself: {latencies:?}");
}

#[test]
fn a_reader_that_a_killed_publisher_did_not_wake_finds_its_message() {
    for child_hosts in [false, true] {
        let (test, bus, mut half) = with_child("half", child_hosts, "half", "7");
        let topic = topic(&bus);
        let mut sleeper = spawn("sleeper", &test, "");
        sleeper.line.expect("ready");
        sleeper.wait_until_parked();
        half.line.tell("go");
        half.line.expect("published");
        half.kill();
        let dead = Instant::now();
        sleeper.line.hear_number();
        // The sweep wakes everybody; without a supervisor the reader looks for itself after a second.
        let limit = Duration::from_millis(if child_hosts { 3_000 } else { 800 });
        assert!(dead.elapsed() < limit, "{:?}", dead.elapsed());
        drop(topic);
        assert_clean(&test);
    }
}

#[test]
fn a_temporary_bus_goes_with_its_last_participant() {
    let test = TestBus::new("temporary");
    let bus = test.open("first");
    let mut guest = spawn("guest", &test, "t");
    guest.line.expect("false");
    drop(bus);
    assert!(test.path().exists(), "somebody is left");
    guest.line.tell("leave");
    guest.join();
    test.assert_gone();
}

#[test]
fn a_temporary_bus_whose_participants_were_all_killed_is_collected() {
    let test = TestBus::new("collected");
    let mut guests = [spawn("guest", &test, "t"), spawn("guest", &test, "t")];
    guests.iter_mut().for_each(|guest| drop(guest.line.hear()));
    guests[0].kill();
    assert!(!bus_shm::collect_garbage(None, true).contains(&test.name));
    guests[1].kill();
    assert_clean(&test);
    assert!(bus_shm::collect_garbage(None, true).contains(&test.name));
    assert!(test.path().exists(), "a rehearsal removes nothing");
    // Another test may be quicker to collect it.
    bus_shm::collect_garbage(None, false);
    eventually("collected", || !test.path().exists());
}

#[test]
fn a_temporary_bus_whose_participants_were_all_killed_is_made_anew() {
    let test = TestBus::new("anew");
    let mut guest = spawn("guest", &test, "old");
    guest.line.expect("true");
    guest.kill();
    assert_clean(&test);
    let bus = test.open("later");
    assert!(BusView::open(&test.name, None).unwrap().topic_names().is_empty());
    drop(bus);
    test.assert_gone();
}

#[test]
fn a_temporary_bus_may_be_opened_while_its_last_participant_leaves() {
    let test = TestBus::new("churn");
    let mut agents: Vec<_> = (0..3).map(|_| spawn("churn", &test, 150_u64)).collect();
    agents.iter_mut().for_each(|agent| agent.line.expect("done"));
    agents.into_iter().for_each(Agent::join);
    test.assert_gone();
}

#[test]
fn a_killed_subscriber_without_a_name_no_longer_holds_the_ring() {
    for child_hosts in [false, true] {
        let (test, bus, mut agent) = with_child("ephemeral", child_hosts, "sleeper", "");
        let topic = topic(&bus);
        let mut publisher = topic.publisher().unwrap();
        agent.stop();
        publisher.set_deadline(Duration::ZERO);
        for sequence in 0..u64::from(topic.capacity()) {
            publisher.publish(&Words::numbered(sequence)).unwrap();
        }
        let error = publisher.publish(&Words::numbered(0)).unwrap_err();
        assert!(matches!(error, PublishError::Full(_)), "{error}");
        agent.kill();
        let dead = Instant::now();
        publisher.set_deadline(Duration::from_secs(5));
        publisher.publish(&Words::numbered(0)).unwrap();
        assert!(dead.elapsed() < Duration::from_millis(500), "{:?}", dead.elapsed());
        let mut late = topic.subscriber().from(Start::Oldest).join().unwrap();
        assert_eq!(late.receive().unwrap().sequence(), 1);
        assert_clean(&test);
    }
}
