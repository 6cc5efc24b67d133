//! Handlers beside each other, waits that end when they are told to, and bells that ring once for several messages.

use bus_shm::dead_letters::{self, Filter};
use bus_shm::handlers::Handlers;
use bus_shm::inspect::BusView;
use bus_shm::{Lane, ManyError, ReceiveError, Topic, Wait};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Words};

const ENTRY: &str = "child";

#[test]
fn child() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "publisher" => publisher(role),
        "sleeper" => sleeper(role),
        other => panic!("no such role: {other}"),
    }
}

fn spawn(role: &str, test: &TestBus, argument: &str) -> Agent {
    Agent::spawn(ENTRY, role, &test.name, argument)
}

/// Publishes as many messages as it is told to.
fn publisher(mut role: Role) {
    let mut publisher = role.open().topic::<Words>("t").unwrap().publisher().unwrap();
    let count = role.number();
    (0..count).for_each(|number| _ = publisher.publish(&Words::numbered(number)).unwrap());
    role.parent.tell("published");
    role.parent.hear();
}

fn topic(test: &TestBus) -> Topic<Words> {
    test.open("main").topic("t").unwrap()
}

fn heard(receiver: &Receiver<u64>, count: usize) -> Vec<u64> {
    (0..count).map(|_| receiver.recv_timeout(Duration::from_secs(20)).expect("a message")).collect()
}

#[test]
fn handlers_of_one_topic_run_at_the_same_time_and_a_panic_harms_none_of_the_others() {
    const MESSAGES: u64 = 50;
    let test = TestBus::new("handlers");
    let topic = topic(&test);
    let group = |name: &str| topic.group(name).retry_delays(Duration::ZERO, Duration::ZERO).attempts(3);
    let mut handlers = Handlers::new();
    let (sender, receiver): (Sender<u64>, Receiver<u64>) = channel();
    // Each of the two waits in its first message until the other one has it as well.
    let both = Arc::new(Barrier::new(2));
    for name in ["one", "two"] {
        let (sender, both) = (sender.clone(), both.clone());
        handlers
            .on(name, group(name), move |message| {
                let number = message.value()?.number();
                if number == 0 {
                    both.wait();
                }
                sender.send(number)?;
                Ok(())
            })
            .unwrap();
    }
    handlers
        .on("fails", group("fails"), |message| match message.value()?.number() % 10 {
            0 => Err("every tenth is too much".into()),
            _ => Ok(()),
        })
        .unwrap();
    let (panicker, panicked) = channel();
    handlers
        .on("panics", group("panics"), move |message| {
            let number = message.value()?.number();
            panicker.send(number)?;
            assert!(number != 7, "seven, of all numbers");
            Ok(())
        })
        .unwrap();
    let mut agent = spawn("publisher", &test, &MESSAGES.to_string());
    agent.line.expect("published");
    let mut numbers = heard(&receiver, 2 * MESSAGES as usize);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..2 * MESSAGES).map(|index| index / 2).collect::<Vec<_>>());
    // Number 7 comes three times.
    let mut numbers = heard(&panicked, MESSAGES as usize + 2);
    numbers.sort_unstable();
    assert_eq!(numbers.iter().filter(|&&number| number == 7).count(), 3);
    let view = BusView::open(&test.name, None).unwrap();
    let letters = || dead_letters::list(&view, &Filter::default()).unwrap();
    harness::eventually("the dead letters are there", || letters().len() == 6);
    for letter in letters() {
        let expected = match letter.group.as_str() {
            "panics" => "panicked: seven, of all numbers",
            _ => "every tenth is too much",
        };
        assert_eq!((letter.error.as_str(), letter.handler.as_str()), (expected, letter.group.as_str()));
    }
    let begun = Instant::now();
    for handled in handlers.stop() {
        let counts = (handled.handled_count, handled.failed_count, handled.panicked_count);
        let expected = match handled.name.as_str() {
            "fails" => (45, 15, 0),
            "panics" => (49, 0, 3),
            _ => (50, 0, 0),
        };
        assert_eq!(counts, expected, "{}", handled.name);
        assert!(handled.ended_by.is_none());
    }
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "nobody waited for the end of a sleep: {:?}",
        begun.elapsed()
    );
    agent.line.tell("leave");
    agent.join();
    harness::assert_clean(&test);
}

#[test]
fn handlers_end_by_themselves_when_the_bus_goes() {
    let test = TestBus::new("handlers-end");
    let bus = test.open("main");
    let topic = topic(&test);
    let mut handlers = Handlers::new();
    handlers.on("h", topic.group("h"), |_| Ok(())).unwrap();
    let busy = topic.group("h").join().map(drop);
    assert!(busy.is_err(), "its group is held");
    assert!(handlers.on("again", topic.group("h"), |_| Ok(())).is_err());
    bus.down(true).unwrap();
    harness::eventually("they have ended", || handlers.have_ended());
    let handled = handlers.stop();
    assert!(
        matches!(handled[0].ended_by, Some(ManyError::Receive(ReceiveError::BusClosed { .. }))),
        "{handled:?}"
    );
}

#[test]
fn a_wait_ends_when_it_is_interrupted_and_what_is_there_is_still_handed_out() {
    for wait in [Wait::Park, Wait::Adaptive, Wait::Spin] {
        let test = TestBus::new("interrupt");
        let topic = topic(&test);
        let mut subscriber = topic.group("g").wait(wait).join().unwrap();
        let interrupter = subscriber.interrupter();
        let mut publisher = topic.publisher().unwrap();
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            let error = loop {
                match subscriber.receive() {
                    Ok(message) => {
                        sender.send(message.value().unwrap().number()).unwrap();
                        message.ack().unwrap();
                    }
                    Err(error) => break error,
                }
            };
            let ended = Instant::now();
            let patience = Duration::from_secs(60);
            assert!(subscriber.receive_timeout(patience).unwrap().is_none());
            assert!(subscriber.receive_batch(1, 10, patience).unwrap().is_empty());
            (error, ended)
        });
        publisher.publish(&Words::numbered(1)).unwrap();
        assert_eq!(receiver.recv().unwrap(), 1);
        let asked = Instant::now();
        interrupter.interrupt();
        let (error, ended) = thread.join().unwrap();
        assert!(matches!(error, ReceiveError::Interrupted { .. }), "{error}");
        let took = ended.duration_since(asked);
        assert!(took < Duration::from_millis(500), "{wait:?}: {took:?}");
    }
}

#[test]
fn an_interrupt_leaves_those_awake_who_wait_on_many_topics() {
    let test = TestBus::new("interrupt-many");
    let bus = test.open("main");
    let topic = topic(&test);
    let mut other = topic.subscribe().unwrap();
    let interrupter = other.interrupter();
    let mut many = bus.subscribe_pattern::<Words>("*").wait(Wait::Park).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let (sender, receiver) = channel();
    let thread = std::thread::spawn(move || {
        for _ in 0..20 {
            let message = many.receive().unwrap().into_message();
            sender.send((message.value().unwrap().number(), Instant::now())).unwrap();
            message.ack().unwrap();
        }
    });
    let mut slowest = Vec::new();
    for number in 0..20 {
        // Long enough for the topic to come to rest.
        std::thread::sleep(Duration::from_millis(30));
        interrupter.interrupt();
        let begun = Instant::now();
        publisher.publish(&Words::numbered(number)).unwrap();
        slowest.push(receiver.recv_timeout(Duration::from_secs(20)).unwrap().1.duration_since(begun));
    }
    thread.join().unwrap();
    slowest.sort_unstable();
    // It would look for itself within a second; told, it is there at once.
    assert!(slowest[10] < Duration::from_millis(200), "{slowest:?}");
}

/// Says each message that it gets.
fn sleeper(mut role: Role) {
    let topic = role.open().topic::<Words>("t").unwrap();
    let mut subscriber = topic.group("sleeper").wait(Wait::Park).join().unwrap();
    role.parent.tell("ready");
    loop {
        let message = subscriber.receive().unwrap();
        let number = message.value().unwrap().number();
        message.ack().unwrap();
        role.parent.tell(number);
    }
}

#[test]
fn sleepers_are_woken_once_for_several_messages_and_at_once_for_urgent_ones() {
    let test = TestBus::new("linger");
    let topic = topic(&test);
    let mut agent = spawn("sleeper", &test, "");
    agent.line.expect("ready");
    let view = BusView::open(&test.name, None).unwrap();
    let mut view = view.topic("t").unwrap();
    let mut lag =
        || view.sample().groups.iter().flat_map(|group| &group.lanes).map(|lane| lane.lag_count).sum::<u64>();
    let mut publisher = topic.publisher().unwrap();
    let mut lingering = publisher.lingering(10, Duration::from_secs(3600));
    let mut has_slept = false;
    // A sleeper looks for itself once a second: on a busy machine that may come in between.
    for round in 0..10 {
        agent.wait_until_parked();
        for number in 0..9 {
            lingering.publish(Lane::NORMAL, &Words::numbered(10 * round + number)).unwrap();
        }
        has_slept |= lag() == 9 && lingering.ring_due().is_some_and(|left| left > Duration::from_secs(3500));
        lingering.publish(Lane::NORMAL, &Words::numbered(10 * round + 9)).unwrap();
        assert_eq!(lingering.ring_due(), None, "the tenth has rung");
        for number in 0..10 {
            assert_eq!(agent.line.hear_number(), 10 * round + number);
        }
    }
    assert!(has_slept, "nobody was woken before the tenth");
    agent.wait_until_parked();
    lingering.publish(Lane::HIGH, &Words::numbered(1_000)).unwrap();
    assert_eq!(agent.line.hear_number(), 1_000);
    agent.wait_until_parked();
    lingering.publish(Lane::NORMAL, &Words::numbered(1_001)).unwrap();
    drop(lingering);
    assert_eq!(agent.line.hear_number(), 1_001);
    agent.kill();
}
