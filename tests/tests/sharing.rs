//! How members of a shared group share: evenly, and twice as many do twice as much.

use bus_shm::Topic;
use std::time::{Duration, Instant};
use tests::harness::{Agent, TestBus, Words, role};

const ENTRY: &str = "members_share_evenly_and_two_do_nearly_twice_as_much_as_one";
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages shared out among members that compute for a moment, and among members that wait for something.
const MANY: u64 = 1_000_000;
const MOMENT: Duration = Duration::from_micros(2);
const SOME: u64 = 4_000;
/// How long the latter wait for each message.
const WORK: Duration = Duration::from_micros(100);

/// Until every member has had its last message, which it takes and keeps.
fn member(topic: &Topic<Words>, works: bool) -> u64 {
    let mut subscriber = topic.group("g").shared().join().unwrap();
    let mut count = 0;
    loop {
        let Some(message) = subscriber.receive_timeout(PATIENCE).unwrap() else { panic!("nothing came") };
        let last = message.value().unwrap().is_numbered(u64::MAX);
        message.ack().unwrap();
        if last {
            return count;
        }
        count += 1;
        if works {
            std::thread::sleep(WORK);
        } else {
            // With nothing at all to do, whoever is on a core takes everything before the other has woken up.
            let until = Instant::now() + MOMENT;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
    }
}

/// Publishes `count` messages to a group of `members` processes: how many each had, and how long it took.
fn share(members: usize, works: bool, count: u64) -> (Vec<u64>, Duration) {
    let test = TestBus::new("sharing");
    let bus = test.open("publisher");
    let topic = bus.topic_builder::<Words>("t").capacity(8_192).with_shared_group("g").open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(PATIENCE);
    let mut agents: Vec<_> = (0..members).map(|_| Agent::spawn(ENTRY, "member", &test.name, works)).collect();
    agents.iter_mut().for_each(|agent| agent.line.expect("here"));
    let begun = Instant::now();
    for number in 0..count {
        publisher.publish(&Words::numbered(number)).unwrap();
    }
    for _ in 0..members {
        publisher.publish(&Words::numbered(u64::MAX)).unwrap();
    }
    let counts: Vec<u64> = agents.iter_mut().map(|agent| agent.line.hear_number()).collect();
    let spent = begun.elapsed();
    assert_eq!(counts.iter().sum::<u64>(), count, "{counts:?}");
    agents.into_iter().for_each(Agent::join);
    (counts, spent)
}

#[test]
fn members_share_evenly_and_two_do_nearly_twice_as_much_as_one() {
    if let Some(mut role) = role() {
        let topic = role.open().topic::<Words>("t").unwrap();
        role.parent.tell("here");
        let count = member(&topic, role.argument == "true");
        role.parent.tell(count);
        return;
    }
    // A member that waits for its next turn on a core has fewer; the best of three tells what the group does.
    let spread = |counts: &[u64]| {
        let even = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        counts.iter().map(|&count| (count as f64 - even).abs() / even).fold(0.0, f64::max)
    };
    let splits: Vec<f64> = (0..3).map(|_| spread(&share(2, false, MANY).0)).collect();
    let (_, one) = share(1, true, SOME);
    let (counts, two) = share(2, true, SOME);
    let gain = one.as_secs_f64() / two.as_secs_f64();
    println!("off an even split: {splits:.2?}; two members to one: {gain:.2} ({counts:?})");
    assert!(splits.iter().any(|&split| split <= 0.2), "{splits:?}");
    assert!(gain >= 1.8, "{one:?} and {two:?}");
}
