//! How soon what a dead process held is somebody else's: from the kill to the next hand-out, or the next publisher's place.

use std::time::{Duration, Instant};
use tests::harness::{Agent, Role, TestBus, Words, assert_clean, role};

const ENTRY: &str = "what_the_dead_held_is_somebody_elses_within_100_ms";
const KILLS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);
/// Asked of 99 in a hundred.
const LIMIT: Duration = Duration::from_millis(100);

#[test]
fn what_the_dead_held_is_somebody_elses_within_100_ms() {
    if let Some(role) = role() {
        return hold(role);
    }
    let test = TestBus::new("repair");
    let bus = test.open("tester");
    let report = |what: &str, mut took: Vec<Duration>| {
        took.sort();
        let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1];
        let text =
            format!("{what}: {} kills, p50 {:?}, p99 {:?}, max {:?}", took.len(), at(50), at(99), at(100));
        println!("{text}");
        assert!(at(99) <= LIMIT, "{text}");
    };

    let topic = bus.topic_builder::<Words>("shared").with_shared_group("many").open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut survivor = topic.group("many").shared().join().unwrap();
    let took = (0..KILLS as u64).map(|count| {
        let sequence = publisher.publish(&Words::numbered(count)).unwrap();
        let mut agent = holding("shared", &test);
        let killed = kill(&agent);
        let message = survivor.receive_timeout(PATIENCE).unwrap().expect("what the dead one held");
        let took = killed.elapsed();
        assert_eq!((message.sequence(), message.attempts()), (sequence, 2));
        message.ack().unwrap();
        agent.wait();
        took
    });
    report("a message of a shared group", took.collect());

    let topic = bus.topic_builder::<Words>("one").with_group("one").open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let took = (0..KILLS as u64).map(|count| {
        let sequence = publisher.publish(&Words::numbered(count)).unwrap();
        let mut agent = holding("one", &test);
        let killed = kill(&agent);
        let mut successor = until(|| topic.group("one").join().ok());
        let message = successor.receive_timeout(PATIENCE).unwrap().expect("what the dead one held");
        let took = killed.elapsed();
        assert_eq!((message.sequence(), message.attempts()), (sequence, 2));
        message.ack().unwrap();
        agent.wait();
        took
    });
    report("a message of a group of one", took.collect());

    let topic = bus.topic_builder::<Words>("publisher").producers(1).open().unwrap();
    let took = (0..KILLS as u64).map(|count| {
        let mut agent = holding("publisher", &test);
        let killed = kill(&agent);
        let mut successor = until(|| topic.publisher().ok());
        assert_eq!(successor.publish(&Words::numbered(count)).unwrap(), 2 * count + 1);
        let took = killed.elapsed();
        agent.wait();
        took
    });
    report("the place of a lane's only publisher", took.collect());
    assert_clean(&test);
}

/// A child that has in hand what it is called after.
fn holding(what: &str, test: &TestBus) -> Agent {
    let mut agent = Agent::spawn(ENTRY, what, &test.name, "");
    agent.line.expect("holding");
    agent
}

/// Kills it without waiting for its end.
fn kill(agent: &Agent) -> Instant {
    let killed = Instant::now();
    agent.signal(libc::SIGKILL);
    killed
}

fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn hold(mut role: Role) {
    let topic = role.open().topic::<Words>(&role.name).unwrap();
    if role.name == "publisher" {
        let mut publisher = topic.publisher().unwrap();
        publisher.publish(&Words::numbered(0)).unwrap();
        role.parent.tell("holding");
        role.parent.try_hear();
        return;
    }
    let group = if role.name == "shared" { topic.group("many").shared() } else { topic.group("one") };
    let mut subscriber = group.join().unwrap();
    let _message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
    role.parent.tell("holding");
    role.parent.try_hear();
}
