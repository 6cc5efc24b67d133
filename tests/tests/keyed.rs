//! Keyed groups: all messages of a key to one member at a time, in order, whoever comes, goes, stops or dies.
//!
//! Every child is this test binary again, in the test [`child`].

use bus_core::keyed::PartitionWord;
use bus_core::layout::keys::{GENERATION, in_partition, in_seat, partition_word, seat_word};
use bus_core::layout::owners;
use bus_core::owner::{OwnerWord, state as owner};
use bus_shm::inspect::BusView;
use bus_shm::keys::{KeyedState, partition_of_key};
use bus_shm::{AttachError, Bus, Lane, Meta, OtherTypes, Publisher, ReceiveError, Subscriber, Topic};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Text, Words, assert_clean, eventually};
use tests::keyed::{Journal, Record, What, check};

const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(50);

#[test]
fn child() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "member" => member(role),
        "publisher" => publisher(role),
        "holder" => holder(role),
        "starved" => starved(role),
        other => panic!("no role {other:?}"),
    }
}

fn spawn(role: &str, test: &TestBus, argument: impl std::fmt::Display) -> Agent {
    Agent::spawn("child", role, &test.name, argument)
}

fn topic(bus: &Bus) -> Topic<Words> {
    bus.topic("t").expect("the topic")
}

fn publish(publisher: &mut Publisher<Words>, key: &str, number: u64) -> u64 {
    publisher.publish_with(Lane::NORMAL, &Words::numbered(number), &Meta::new().key(key)).unwrap()
}

fn state(test: &TestBus) -> KeyedState {
    let view = BusView::open(&test.name, None).unwrap();
    let groups = view.topic("t").unwrap().sample().groups;
    groups.into_iter().find_map(|group| group.keyed).expect("a keyed group")
}

/// Takes all that a member can have now, in order.
fn drain(subscriber: &mut Subscriber<Words>) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(message) = subscriber.try_receive().unwrap() {
        numbers.push(message.value().unwrap().number());
        message.ack().unwrap();
    }
    numbers
}

/// A key of each of the partitions that a member has.
fn keys_in(partitions: std::ops::Range<u32>, count: usize) -> Vec<String> {
    let keys = (0..).map(|number| format!("key-{number}"));
    keys.filter(|key| partitions.contains(&partition_of_key(key))).take(count).collect()
}

#[test]
fn one_member_gets_everything_and_a_second_one_half_of_the_keys() {
    let test = TestBus::new("keyed-two");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut first = topic.group("g").keyed().join().unwrap();
    for number in 0..500 {
        publish(&mut publisher, &format!("k{}", number % 100), number);
    }
    assert_eq!(
        drain(&mut first),
        (0..500).collect::<Vec<_>>(),
        "in the order of the lane, while there is one"
    );
    assert_eq!(state(&test).members[0].partition_count, 256);
    let mut second = topic.group("g").keyed().join().unwrap();
    assert!(second.try_receive().unwrap().is_none() && first.try_receive().unwrap().is_none());
    assert!(second.try_receive().unwrap().is_none());
    let counts: Vec<_> = state(&test).members.iter().map(|member| member.partition_count).collect();
    assert_eq!((counts, state(&test).vacant_count), (vec![128, 128], 0));
    for number in 0..1_000 {
        publish(&mut publisher, &format!("k{}", number % 100), number);
    }
    let (ours, theirs) = (drain(&mut first), drain(&mut second));
    assert_eq!(ours.len() + theirs.len(), 1_000);
    let keys = |numbers: &[u64]| numbers.iter().map(|number| number % 100).collect::<BTreeSet<_>>();
    assert!(keys(&ours).is_disjoint(&keys(&theirs)));
    assert!(ours.is_sorted() && theirs.is_sorted());
    assert!(keys(&ours).len() > 20 && keys(&theirs).len() > 20);
    drop(second);
    for number in 0..100 {
        publish(&mut publisher, &format!("k{}", number % 100), number);
    }
    assert_eq!(drain(&mut first).len(), 100, "all of them are the first one's again");
    assert_eq!(first.lag_count(Lane::NORMAL), 0);
    assert_clean(&test);
}

#[test]
fn shares_by_how_busy_the_keys_are_when_somebody_asks() {
    let test = TestBus::new("keyed-rebalance");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let refused = topic.rebalance("g").unwrap_err();
    assert!(matches!(&refused, AttachError::NotKeyed { .. }), "{refused}");
    let mut publisher = topic.publisher().unwrap();
    let mut members: Vec<_> = (0..2).map(|_| topic.group("g").keyed().join().unwrap()).collect();
    let look = |members: &mut Vec<Subscriber<Words>>| {
        (0..4).for_each(|_| members.iter_mut().for_each(|member| _ = drain(member)));
        let counts = state(&test).members.iter().map(|member| member.partition_count).collect::<Vec<_>>();
        assert_eq!(state(&test).vacant_count, 0);
        counts
    };
    assert_eq!(look(&mut members), [128, 128]);
    // One key that is as busy as all others together.
    for number in 0..800 {
        let key = if number % 2 == 0 { "hot".into() } else { format!("k{number}") };
        publish(&mut publisher, &key, number);
        members.iter_mut().for_each(|member| _ = drain(member));
    }
    let hottest = state(&test).hottest[0];
    assert_eq!(hottest.partition, partition_of_key("hot"));
    assert!(hottest.handed_count >= 400);
    let done = topic.rebalance("g").unwrap();
    assert!(done.member_count == 2 && done.moved_count > 20 && done.counted == 800, "{done:?}");
    assert!(done.most - done.fewest < 20, "{done:?}");
    let counts = look(&mut members);
    let hot = counts.iter().position(|&count| count < 90).expect("who has the hot one has few others");
    let before: Vec<_> = state(&test).members.iter().map(|member| member.handed_count).collect();
    for number in 0..100 {
        publish(&mut publisher, "hot", number);
    }
    let counts_again = look(&mut members);
    let after: Vec<_> = state(&test).members.iter().map(|member| member.handed_count).collect();
    assert_eq!((after[hot] - before[hot], counts_again), (100, counts));
    // Whoever joins makes it as it was: by number.
    members.push(topic.group("g").keyed().join().unwrap());
    let counts = look(&mut members);
    assert!(counts.iter().all(|count| (85..=86).contains(count)), "{counts:?}");
    assert_clean(&test);
}

#[test]
fn messages_without_a_key_go_to_all_members_and_lanes_are_in_order_each() {
    let test = TestBus::new("keyed-none");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut members: Vec<_> = (0..2).map(|_| topic.group("g").keyed().join().unwrap()).collect();
    for _ in 0..3 {
        members.iter_mut().for_each(|member| assert!(member.try_receive().unwrap().is_none()));
    }
    for number in 0..400 {
        publisher.publish(&Words::numbered(number)).unwrap();
    }
    let counts: Vec<_> = members.iter_mut().map(|member| drain(member).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 400);
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
    for lane in [2_u8, 0, 1] {
        for number in 0..20 {
            let value = Words::of(u64::from(lane), number);
            publisher.publish_with(Lane(lane), &value, &Meta::new().key("a")).unwrap();
        }
    }
    let got: Vec<Vec<u64>> = members.iter_mut().map(drain).collect();
    assert!(got[0].is_empty() != got[1].is_empty(), "one member for a key, in all lanes");
    let all = got.concat();
    let mut expected = Vec::new();
    for lane in 0..3 {
        expected.extend((0..20).map(|number| lane << 40 | number));
    }
    assert_eq!(all, expected, "urgent lanes first, each in order");
}

#[test]
fn a_retry_holds_back_its_key_only_and_a_dead_letter_frees_it() {
    let test = TestBus::new("keyed-retry");
    let bus = test.open("tester");
    for producers in [64, 1] {
        let topic = bus.topic_builder::<Words>(&format!("t{producers}")).producers(producers).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let delay = Duration::from_millis(40);
        let mut member = topic.group("g").keyed().attempts(3).retry_delays(delay, delay).join().unwrap();
        let keys = ["a", "b"];
        for number in 0..6 {
            publish(&mut publisher, keys[number as usize % 2], number);
        }
        let message = member.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(message.value().unwrap().number(), 0);
        message.retry("not now").unwrap();
        assert_eq!(drain(&mut member), [1, 3, 5], "the other key goes on");
        for attempts in 2..=3 {
            let message = member.receive_timeout(PATIENCE).unwrap().expect("the retry");
            assert_eq!((message.value().unwrap().number(), message.attempts()), (0, attempts));
            if attempts == 3 {
                message.ack().unwrap();
            } else {
                message.retry("not yet").unwrap();
                assert!(member.try_receive().unwrap().is_none(), "nothing of its key overtakes it");
            }
        }
        let message = member.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(message.value().unwrap().number(), 2);
        message.reject("never").unwrap();
        assert_eq!(drain(&mut member), [4], "a dead letter holds nothing back");
        // Worn out in the store.
        publish(&mut publisher, "a", 10);
        publish(&mut publisher, "a", 11);
        for _ in 0..3 {
            member.receive_timeout(PATIENCE).unwrap().expect("an attempt").retry("no").unwrap();
        }
        let message = member.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(message.value().unwrap().number(), 11);
        message.ack().unwrap();
        // Given back: it comes again before the next one.
        publish(&mut publisher, "a", 20);
        publish(&mut publisher, "a", 21);
        drop(member.receive_timeout(PATIENCE).unwrap().unwrap());
        let message = member.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!((message.value().unwrap().number(), message.is_redelivered()), (20, true));
        message.ack().unwrap();
        assert_eq!(drain(&mut member), [21]);
        assert_eq!(member.lag_count(Lane::NORMAL), 0);
    }
    assert_clean(&test);
}

#[test]
fn what_waits_in_the_store_goes_with_its_key() {
    let test = TestBus::new("keyed-retry-moves");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut first = topic.group("g").keyed().join().unwrap();
    let keys = keys_in(0..256, 40);
    for (number, key) in keys.iter().enumerate() {
        publish(&mut publisher, key, number as u64);
        publish(&mut publisher, key, 1_000 + number as u64);
    }
    for _ in &keys {
        first.try_receive().unwrap().unwrap().retry_after(SOON, "later").unwrap();
    }
    assert!(first.try_receive().unwrap().is_none());
    let mut second = topic.group("g").keyed().join().unwrap();
    let mut got: Vec<Vec<u64>> = vec![Vec::new(), Vec::new()];
    eventually("all are handled", || {
        got[0].extend(drain(&mut first));
        got[1].extend(drain(&mut second));
        got[0].len() + got[1].len() == 2 * keys.len()
    });
    assert!(got.iter().all(|numbers| numbers.len() > 10), "{got:?}");
    for numbers in &got {
        let at = |number: u64| numbers.iter().position(|&other| other == number);
        for number in 0..keys.len() as u64 {
            assert!(at(number) <= at(number + 1_000), "{number}: {numbers:?}");
        }
    }
    assert_eq!(first.lag_count(Lane::NORMAL), 0);
    assert_clean(&test);
}

#[test]
fn a_batch_hands_out_in_order_and_comes_again_in_order() {
    let test = TestBus::new("keyed-batch");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut member = topic.group("g").keyed().join().unwrap();
    for number in 0..20 {
        publish(&mut publisher, if number % 2 == 0 { "a" } else { "b" }, number);
    }
    let take = |member: &mut Subscriber<Words>, most: usize, acks: bool| {
        let mut batch = member.receive_batch(most, most, PATIENCE).unwrap();
        let mut numbers = Vec::new();
        while let Some(item) = batch.next_message().unwrap() {
            numbers.push(item.value().unwrap().number());
        }
        if acks {
            assert_eq!(batch.ack(), numbers.len());
        }
        numbers
    };
    assert_eq!(take(&mut member, 8, false), (0..8).collect::<Vec<_>>());
    assert_eq!(take(&mut member, 12, true), (0..12).collect::<Vec<_>>(), "given back, and in order again");
    // One of a key fails while an earlier one of it is in the batch: what comes after it waits, the other key does not.
    let mut batch = member.receive_batch(8, 8, PATIENCE).unwrap();
    assert_eq!(batch.next_message().unwrap().unwrap().value().unwrap().number(), 12);
    batch.next_message().unwrap().unwrap();
    batch.next_message().unwrap().unwrap().retry("14 fails").unwrap();
    let mut rest = Vec::new();
    while let Some(item) = batch.next_message().unwrap() {
        rest.push(item.value().unwrap().number());
    }
    assert_eq!(rest, [15, 17, 19]);
    drop(batch);
    let mut again = Vec::new();
    eventually("all come", || {
        again.extend(drain(&mut member));
        again.len() == 8
    });
    let even: Vec<_> = again.iter().copied().filter(|number| number % 2 == 0).collect();
    assert_eq!(even, [12, 14, 16, 18]);
    assert_clean(&test);
}

#[test]
fn a_key_of_which_something_is_in_hand_stays_where_it_is_until_that_is_settled() {
    let test = TestBus::new("keyed-in-hand");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut first = topic.group("g").keyed().join().unwrap();
    // Whichever half it is that goes to the second one, one of these is of it.
    let (low, high) = (keys_in(0..128, 1).remove(0), keys_in(128..256, 1).remove(0));
    for number in 0..4 {
        publish(&mut publisher, &low, number);
        publish(&mut publisher, &high, 10 + number);
    }
    let mut batch = first.receive_batch(2, 8, PATIENCE).unwrap();
    for number in [0, 10] {
        assert_eq!(batch.next_message().unwrap().unwrap().value().unwrap().number(), number);
    }
    let mut second = topic.group("g").keyed().join().unwrap();
    assert!(second.try_receive().unwrap().is_none());
    assert_eq!(batch.next_message().unwrap().unwrap().value().unwrap().number(), 1);
    assert!(second.receive_timeout(SOON).unwrap().is_none(), "both keys are in the first one's hand");
    assert_eq!(batch.ack(), 3, "and nothing of them was taken from it");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    eventually("both have their share", || {
        theirs.extend(drain(&mut second));
        ours.extend(drain(&mut first));
        ours.len() + theirs.len() == 5
    });
    let all: BTreeSet<_> = ours.iter().chain(&theirs).copied().collect();
    assert_eq!(all, BTreeSet::from([2, 3, 11, 12, 13]));
    for is_high in [false, true] {
        let of_key = |numbers: &[u64]| numbers.iter().copied().filter(|n| (*n >= 10) == is_high).collect();
        let of_key: [Vec<u64>; 2] = [of_key(&ours), of_key(&theirs)];
        assert!(of_key.iter().any(Vec::is_empty) && of_key.concat().is_sorted(), "{of_key:?}");
    }
    assert_clean(&test);
}

#[test]
fn a_group_is_keyed_for_its_life() {
    let test = TestBus::new("keyed-kind");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let keyed = topic.group("g").keyed().join().unwrap();
    let refused = topic.group("g").shared().join().unwrap_err();
    assert!(
        matches!(&refused, AttachError::GroupKind { theirs, .. } if theirs.starts_with("keyed")),
        "{refused}"
    );
    assert!(matches!(topic.group("g").join().unwrap_err(), AttachError::GroupKind { .. }));
    drop(keyed);
    assert!(matches!(topic.group("g").shared().join().unwrap_err(), AttachError::GroupKind { .. }));
    let shared = topic.group("s").shared().join().unwrap();
    let refused = topic.group("s").keyed().join().unwrap_err();
    assert!(refused.to_string().contains("not keyed"), "{refused}");
    drop(shared);
    let refused = topic.subscriber().keyed().join().unwrap_err();
    assert!(matches!(&refused, AttachError::Option { option: "keyed", .. }), "{refused}");
}

#[test]
fn there_are_only_so_many_members() {
    let test = TestBus::new("keyed-seats");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let members: Vec<_> = (0..256).map(|_| topic.group("g").keyed().join().unwrap()).collect();
    let refused = topic.group("g").keyed().join().unwrap_err();
    assert!(matches!(refused, AttachError::KeyedMembers { max: 256, .. }), "{refused}");
    drop(members);
    topic.group("g").keyed().join().unwrap();
}

#[test]
fn a_subscription_over_many_topics_is_keyed_in_each() {
    let test = TestBus::new("keyed-many");
    let bus = test.open("tester");
    let mut publishers: Vec<_> = ["many.a", "many.b"]
        .iter()
        .map(|name| bus.topic::<Words>(name).unwrap().publisher().unwrap())
        .collect();
    let join = || bus.subscribe_pattern::<Words>("many.*").group("g").keyed().join().unwrap();
    let mut members = [join(), join()];
    for number in 0..400 {
        for publisher in &mut publishers {
            publish(publisher, &format!("k{}", number % 50), number);
        }
    }
    let mut got: BTreeMap<(String, u64), Vec<(usize, u64)>> = BTreeMap::new();
    let mut count = 0;
    eventually("all are handled", || {
        for (index, member) in members.iter_mut().enumerate() {
            while let Some(incoming) = member.receive_timeout(Duration::from_millis(5)).unwrap() {
                let number = incoming.value().unwrap().number();
                got.entry((incoming.topic().to_owned(), number % 50)).or_default().push((index, number));
                incoming.ack().unwrap();
                count += 1;
            }
        }
        count == 800
    });
    let mut by_member = [0, 0];
    for numbers in got.values() {
        assert!(numbers.iter().all(|&(index, _)| index == numbers[0].0));
        assert!(numbers.is_sorted_by_key(|&(_, number)| number));
        by_member[numbers[0].0] += 1;
    }
    assert!(by_member.iter().all(|&keys| keys > 20), "{by_member:?}");
}

/// Holds the first message that it gets and tells so.
fn holder(mut role: Role) {
    let bus = role.open();
    let mut member = topic(&bus).group("g").keyed().join().unwrap();
    role.parent.tell("ready");
    let message = member.receive().unwrap();
    role.parent.tell(message.value().unwrap().number());
    role.parent.hear();
    role.parent.tell(if message.ack().is_ok() { "acknowledged" } else { "refused" });
    role.parent.hear();
}

#[test]
fn keys_of_a_dead_member_go_to_the_others_and_what_it_had_comes_first() {
    let test = TestBus::new("keyed-death");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut holder = spawn("holder", &test, "");
    holder.line.expect("ready");
    for number in 0..10 {
        publish(&mut publisher, "a", number);
    }
    assert_eq!(holder.line.hear_number(), 0);
    let mut member = topic.group("g").keyed().join().unwrap();
    assert!(member.receive_timeout(SOON).unwrap().is_none(), "its owner lives");
    holder.kill();
    let killed = Instant::now();
    let message = member.receive_timeout(PATIENCE).unwrap().expect("what the dead one had");
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    assert_eq!((message.value().unwrap().number(), message.is_redelivered()), (0, true));
    message.ack().unwrap();
    assert_eq!(drain(&mut member), (1..10).collect::<Vec<_>>());
    assert_clean(&test);
}

#[test]
fn a_stopped_member_keeps_its_keys_where_nobody_is_fenced_and_loses_them_where_one_is() {
    for ack_wait_ms in [0, 200] {
        let test = TestBus::new("keyed-stop");
        let bus = test.open("tester");
        let topic = topic(&bus);
        let mut publisher = topic.publisher().unwrap();
        // It sets the group's wait.
        drop(topic.group("g").keyed().ack_wait(Duration::from_millis(ack_wait_ms)).join().unwrap());
        let mut holder = spawn("holder", &test, "");
        holder.line.expect("ready");
        for number in 0..4 {
            publish(&mut publisher, "a", number);
        }
        assert_eq!(holder.line.hear_number(), 0);
        holder.stop();
        let mut member = topic.group("g").keyed().join().unwrap();
        let first = member.receive_timeout(Duration::from_millis(1_500)).unwrap().map(|message| {
            let seen = (message.value().unwrap().number(), message.is_redelivered());
            message.ack().unwrap();
            seen
        });
        if ack_wait_ms == 0 {
            assert!(first.is_none(), "a stopped member keeps its keys");
            holder.go_on();
            holder.line.tell("");
            holder.line.expect("acknowledged");
            holder.kill();
            let message = member.receive_timeout(PATIENCE).unwrap().unwrap();
            assert_eq!((message.value().unwrap().number(), message.is_redelivered()), (1, false));
            message.ack().unwrap();
        } else {
            assert_eq!(first, Some((0, true)), "the silent member was fenced");
            holder.go_on();
            holder.line.tell("");
            holder.line.expect("refused");
            assert_eq!(drain(&mut member), [1, 2, 3]);
        }
        assert_clean(&test);
    }
}

#[test]
fn an_idle_member_that_is_stopped_is_fenced_when_messages_wait_for_it() {
    let test = TestBus::new("keyed-stop-idle");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    drop(topic.group("g").keyed().ack_wait(Duration::from_millis(200)).join().unwrap());
    let mut idle = spawn("holder", &test, "");
    idle.line.expect("ready");
    idle.wait_until_parked();
    let mut member = topic.group("g").keyed().join().unwrap();
    eventually("they share", || {
        assert!(member.try_receive().unwrap().is_none());
        state(&test).members.iter().all(|member| member.partition_count == 128)
    });
    idle.stop();
    let keys: Vec<_> = (0..100).map(|number| format!("k{number}")).collect();
    keys.iter().enumerate().for_each(|(number, key)| _ = publish(&mut publisher, key, number as u64));
    let mut got = Vec::new();
    while got.len() < keys.len() {
        let message = member.receive_timeout(PATIENCE).unwrap().expect("all of them");
        got.push(message.value().unwrap().number());
        message.ack().unwrap();
    }
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), keys.len());
    idle.go_on();
    eventually("it has its share again", || {
        let _ = member.try_receive().unwrap();
        state(&test).members.iter().all(|member| member.partition_count == 128)
    });
    assert_clean(&test);
}

// ---------------------------------------------------------------- what waits

/// Processor time of this thread.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What a message costs of which `count` fail once before the first comes again.
fn cost_of_a_retry(topic: &Topic<Words>, count: u64, keys: u64) -> Duration {
    let mut publisher = topic.publisher().unwrap();
    let delay = Duration::from_secs(2);
    let group = topic.group("g").keyed().ack_wait(Duration::ZERO).retry_delays(delay, delay);
    let mut member = group.join().unwrap();
    for number in 0..count {
        publish(&mut publisher, &format!("k{}", number % keys), number);
    }
    let begun = cpu();
    let mut batch = member.receive_batch(count as usize, count as usize, PATIENCE).unwrap();
    while let Some(item) = batch.next_message().unwrap() {
        item.retry("once").unwrap();
    }
    drop(batch);
    let mut numbers = Vec::new();
    while numbers.len() < count as usize {
        let message = member.receive_timeout(PATIENCE).unwrap().expect("they all come again");
        numbers.push(message.value().unwrap().number());
        message.ack().unwrap();
    }
    let cost = (cpu() - begun) / count as u32;
    for key in 0..keys {
        assert!(numbers.iter().filter(|&&number| number % keys == key).is_sorted(), "key {key}");
    }
    cost
}

#[test]
fn ten_thousand_messages_put_aside_cost_as_much_each_as_a_few_hundred() {
    let test = TestBus::new("keyed-many-retries");
    let bus = test.open("tester");
    for (name, keys) in [("each", 10_000), ("some", 7)] {
        let topic = |count| {
            let name = format!("{name}-{count}");
            bus.topic_builder::<Words>(&name).capacity(16_384).open().unwrap()
        };
        let few = cost_of_a_retry(&topic(500), 500, keys);
        let many = cost_of_a_retry(&topic(10_000), 10_000, keys);
        println!("{name}: {few:?} and {many:?} a message");
        // Where each looked at all others this would be twenty.
        assert!(many < 6 * few.max(Duration::from_micros(2)), "{name}: {few:?} and {many:?} a message");
    }
}

/// A file of the group in the test's topic, as it lies in memory.
fn group_file(test: &TestBus, prefix: &str) -> std::fs::File {
    let mut files = std::fs::read_dir(test.path().join("topics/t")).unwrap().flatten();
    let found = files.find(|file| file.file_name().to_string_lossy().starts_with(prefix)).expect("the file");
    std::fs::File::options().read(true).write(true).open(found.path()).unwrap()
}

fn word(file: &std::fs::File, index: usize) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, index as u64 * 8).unwrap();
    u64::from_le_bytes(bytes)
}

fn set_word(file: &std::fs::File, index: usize, value: u64) {
    file.write_all_at(&value.to_le_bytes(), index as u64 * 8).unwrap();
}

#[test]
fn a_member_sleeps_while_what_waits_is_not_due() {
    let test = TestBus::new("keyed-not-due");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut member = topic.group("g").keyed().join().unwrap();
    for number in 0..40 {
        publish(&mut publisher, &format!("k{}", number % 20), number);
    }
    let later = Duration::from_secs(3_600);
    for _ in 0..20 {
        member.try_receive().unwrap().unwrap().retry_after(later, "later").unwrap();
    }
    assert!(member.try_receive().unwrap().is_none(), "the others are behind them");
    let file = group_file(&test, "keys-");
    let beats = || word(&file, seat_word(0, in_seat::BEAT));
    let before = beats();
    assert!(member.receive_timeout(Duration::from_secs(1)).unwrap().is_none());
    let looks = beats() - before;
    assert!((1..200).contains(&looks), "{looks} looks in a second");
}

#[test]
fn messages_of_another_type_lose_no_place_and_stay_with_their_key() {
    let test = TestBus::new("keyed-types");
    let bus = test.open("tester");
    for (name, other) in
        [("skip", OtherTypes::Skip), ("dead", OtherTypes::DeadLetter), ("error", OtherTypes::Error)]
    {
        let topic = bus.topic_builder::<Words>(name).accepts::<Text>().open().unwrap();
        let texts = bus.topic::<Text>(name).unwrap();
        let mut words = topic.publisher().unwrap();
        let mut text = texts.publisher().unwrap();
        let mut members: Vec<_> =
            (0..2).map(|_| topic.group("g").keyed().other_types(other).join().unwrap()).collect();
        (0..6).for_each(|index: usize| assert!(members[index % 2].try_receive().unwrap().is_none()));
        for number in 0..60 {
            let meta_key = format!("k{}", number % 4);
            if number / 4 % 3 == 1 {
                let value = Text { id: number, text: "another type".into() };
                text.publish_with(Lane::NORMAL, &value, &Meta::new().key(&meta_key)).unwrap();
            } else {
                publish(&mut words, &meta_key, number);
            }
        }
        let (mut got, mut refused) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (index, member) in members.iter_mut().enumerate() {
            loop {
                match member.try_receive() {
                    Ok(Some(message)) => {
                        got[index].push(message.value().unwrap().number());
                        message.ack().unwrap();
                    }
                    Ok(None) => break,
                    // Sequences begin at 0, and so do the numbers.
                    Err(ReceiveError::OtherType { sequence, .. }) => refused[index].push(sequence),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert_eq!(refused.concat().len(), if name == "error" { 20 } else { 0 });
        let keys = |index: usize| {
            let numbers = got[index].iter().chain(&refused[index]);
            numbers.map(|number| number % 4).collect::<BTreeSet<_>>()
        };
        assert!(keys(0).is_disjoint(&keys(1)), "{got:?} {refused:?}");
        let all: BTreeSet<_> = got.concat().into_iter().collect();
        assert_eq!(all, (0..60).filter(|number| number / 4 % 3 != 1).collect());
        for key in 0..4 {
            assert!(got.iter().all(|numbers| numbers.iter().filter(|&&n| n % 4 == key).is_sorted()));
        }
        assert!(members.iter().all(|member| member.lag_count(Lane::NORMAL) == 0), "{name}");
    }
    assert_clean(&test);
}

/// Opens no file from some moment on, until it may again; tells what it got before that, and the two that came then.
fn starved(mut role: Role) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let bus = role.open();
    let mut member = topic(&bus).group("g").keyed().join().unwrap();
    role.parent.tell("ready");
    member.receive().unwrap().ack().unwrap();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    role.parent.tell("starved");
    let mut parent = role.parent;
    let ends = std::thread::spawn(move || {
        parent.hear();
        parent
    });
    let mut got = Vec::new();
    while !ends.is_finished() {
        // What it cannot see is an error, and stays where it is.
        let Ok(Some(message)) = member.receive_timeout(SOON) else { continue };
        got.push(message.value().unwrap().number().to_string());
        message.ack().unwrap();
    }
    let mut parent = ends.join().unwrap();
    setrlimit(Resource::Nofile, before).unwrap();
    parent.tell(got.join(" "));
    for _ in 0..2 {
        let message = member.receive_timeout(PATIENCE).unwrap().expect("it may see it now");
        parent.tell(format!("{} {}", message.value().unwrap().number(), message.attempts()));
        message.ack().unwrap();
    }
    parent.hear();
}

#[test]
fn a_store_that_cannot_be_opened_is_not_taken_for_an_empty_one() {
    let test = TestBus::new("keyed-starved");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    drop(topic.group("g").keyed().ack_wait(Duration::ZERO).join().unwrap());
    let mut child = spawn("starved", &test, "");
    child.line.expect("ready");
    publish(&mut publisher, "warm", 100);
    child.line.expect("starved");
    let mut first = topic.group("g").keyed().join().unwrap();
    eventually("they share", || {
        assert!(first.try_receive().unwrap().is_none());
        state(&test).members.iter().all(|member| member.partition_count == 128)
    });
    // The first seat is the child's, so this one has what comes last.
    let key = (0..)
        .map(|number| format!("key-{number}"))
        .find(|key| {
            publish(&mut publisher, key, 0);
            first.receive_timeout(SOON).unwrap().is_some_and(|message| {
                message.retry_after(SOON, "later").unwrap();
                true
            })
        })
        .unwrap();
    publish(&mut publisher, &key, 1);
    drop(first);
    eventually("it has all", || state(&test).members.iter().all(|member| member.partition_count == 256));
    std::thread::sleep(Duration::from_millis(300));
    child.line.tell("eat");
    let early = child.line.hear();
    assert!(
        early.split(' ').all(|number| number != "1"),
        "{early:?}: 1 came before 0, which is in the store"
    );
    child.line.expect("0 2");
    child.line.expect("1 1");
    assert_clean(&test);
}

#[test]
fn a_message_that_a_member_cannot_see_keeps_its_place() {
    let test = TestBus::new("keyed-unseen");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut seen = topic.publisher().unwrap();
    let mut child = spawn("starved", &test, "");
    child.line.expect("ready");
    publish(&mut seen, "warm", 100);
    child.line.expect("starved");
    // Its arena is a file that the child has not opened.
    let mut unseen = topic.publisher().unwrap();
    publish(&mut unseen, "a", 0);
    publish(&mut seen, "a", 1);
    std::thread::sleep(Duration::from_millis(200));
    child.line.tell("eat");
    assert_eq!(child.line.hear(), "", "the first of its key cannot be seen");
    let first = child.line.hear();
    assert!(first.starts_with("0 "), "{first}");
    child.line.expect("1 1");
    assert_clean(&test);
}

// ---------------------------------------------------------------- words that say what is not so

#[test]
fn a_partition_whose_word_names_a_member_that_did_not_take_it_is_taken_again() {
    let test = TestBus::new("keyed-own-word");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut publisher = topic.publisher().unwrap();
    let mut member = topic.group("g").keyed().join().unwrap();
    assert!(member.try_receive().unwrap().is_none());
    let file = group_file(&test, "keys-");
    let at = partition_word(partition_of_key("a") as usize, in_partition::WORD);
    let taken = PartitionWord::unpack(word(&file, at));
    set_word(&file, at, PartitionWord { generation: taken.generation + 5, ..taken }.pack());
    publish(&mut publisher, "a", 7);
    let message = member.receive_timeout(PATIENCE).unwrap().expect("it is this member's");
    assert_eq!(message.value().unwrap().number(), 7);
    message.ack().unwrap();
    assert_ne!(word(&file, at), taken.pack());
    assert_clean(&test);
}

#[test]
fn a_plan_for_a_seat_that_nobody_has_gives_nothing_away() {
    let test = TestBus::new("keyed-nobodys-plan");
    let bus = test.open("tester");
    let topic = topic(&bus);
    let mut member = topic.group("g").keyed().join().unwrap();
    assert!(member.try_receive().unwrap().is_none());
    topic.rebalance("g").unwrap();
    let file = group_file(&test, "keys-");
    let words = || (0..256).map(|index| word(&file, partition_word(index, in_partition::WORD)));
    let before: Vec<_> = words().collect();
    (0..256).for_each(|index| set_word(&file, partition_word(index, in_partition::PLANNED), 200));
    set_word(&file, GENERATION / 8, word(&file, GENERATION / 8) + 1);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_200) {
        assert!(member.receive_timeout(SOON).unwrap().is_none());
    }
    assert!(words().eq(before), "partitions went away and came back");
    assert_clean(&test);
}

#[test]
fn what_stands_behind_a_lost_message_of_a_batch_stays_behind_it_in_a_later_acknowledgement() {
    let test = TestBus::new("keyed-lost-in-batch");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(64).open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut member = topic.group("g").keyed().join().unwrap();
    for number in 0..4 {
        publish(&mut publisher, if number == 1 { "b" } else { "a" }, number);
    }
    let mut batch = member.receive_batch(4, 4, PATIENCE).unwrap();
    let mut first = None;
    while let Some(item) = batch.next_message().unwrap() {
        first.get_or_insert(item.sequence());
    }
    // Somebody takes the first of them back.
    let file = group_file(&test, "owners-");
    let at = owners::words(usize::from(Lane::NORMAL.0), 64) / 8 + first.unwrap() as usize;
    let claimed = OwnerWord::unpack(word(&file, at));
    assert_eq!(claimed.state, owner::CLAIMED);
    set_word(&file, at, OwnerWord { state: owner::RELEASED, ..claimed }.pack());
    assert_eq!(batch.ack_up_to(Lane::NORMAL, first.unwrap()), 0, "it is lost");
    assert_eq!(batch.ack(), 1, "and of its key nothing is done, of the other key all");
    assert_eq!(drain(&mut member), [0, 2, 3]);
    assert_clean(&test);
}

// ---------------------------------------------------------------- at random

const KEYS: u64 = 1_000;

/// Publishes messages of each key, round after round in a mixed order, until it is told to end; tells how many rounds.
fn publisher(mut role: Role) {
    let journal = Journal::open(role.argument.as_ref());
    let bus = role.open();
    let mut publisher = topic(&bus).publisher().unwrap();
    publisher.set_deadline(Duration::from_secs(30));
    role.parent.tell("ready");
    let mut number = 0;
    while journal.number(1).load(Ordering::SeqCst) == 0 {
        for index in 0..KEYS {
            let key = (index * 7 + number * 13) % KEYS;
            publish(&mut publisher, &format!("k{key}"), key << 16 | number);
            if index % 20 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        number += 1;
    }
    role.parent.tell(number);
    role.parent.hear();
}

fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next())
        .is_some_and(|c| !matches!(c, 'Z' | 'X'))
}

/// A member that handles messages until it is told to leave.
fn member(mut role: Role) {
    let words: Vec<_> = role.argument.split(' ').collect();
    let journal = Journal::open(words[0].as_ref());
    let (who, is_strict): (u32, bool) = (words[1].parse().unwrap(), words[2] == "strict");
    let bus = role.open();
    let delay = Duration::from_millis(10);
    let mut member = topic(&bus).group("g").keyed().retry_delays(delay, delay).join().unwrap();
    role.parent.tell("ready");
    let pid = u64::from(std::process::id());
    let ends = std::thread::spawn(move || role.parent.try_hear());
    let takes_batches = who.is_multiple_of(3);
    while !ends.is_finished() {
        if takes_batches {
            let mut batch = member.receive_batch(1, 16, SOON).unwrap();
            let mut records = Vec::new();
            while let Some(item) = batch.next_message().unwrap() {
                let number = item.value().unwrap().number();
                let (key, count) = ((number >> 16) as u16, number as u16);
                let record = |what| Record { what, who, key, count };
                let again = item.is_redelivered();
                journal.note(record(if again { What::HandedAgain } else { What::Handed }));
                records.push(record(What::Finishing));
            }
            // What a batch has kept it does not say one by one: all or in doubt.
            records.iter().for_each(|&record| journal.note(record));
            let kept = batch.ack();
            let what = if kept == records.len() { What::Finished } else { continue };
            records.iter().for_each(|&record| journal.note(Record { what, ..record }));
            continue;
        }
        let Some(message) = member.receive_timeout(SOON).unwrap() else { continue };
        let number = message.value().unwrap().number();
        let (key, count) = ((number >> 16) as u16, number as u16);
        let note = |what| journal.note(Record { what, who, key, count });
        note(if message.is_redelivered() { What::HandedAgain } else { What::Handed });
        let witness = journal.witness(key);
        let found = witness.swap(pid, Ordering::SeqCst);
        if is_strict && found != 0 && is_alive(found) {
            journal.number(2).fetch_add(1, Ordering::SeqCst);
        }
        if number.is_multiple_of(5) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if witness.compare_exchange(pid, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() && is_strict {
            journal.number(3).fetch_add(1, Ordering::SeqCst);
        }
        if (number ^ number >> 16).is_multiple_of(101) && message.attempts() < 3 {
            note(What::Failed);
            let _ = message.retry("at random");
            continue;
        }
        note(What::Finishing);
        note(if message.ack().is_ok() { What::Finished } else { What::Refused });
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Four members, a thousand keys, and for some seconds kills, stops, leaves and joins.
fn chaos(name: &str, ack_wait: Duration, seed: u64) {
    let test = TestBus::new(name);
    let bus = test.open("tester");
    let group = topic(&bus).group("g").keyed().attempts(200).ack_wait(ack_wait);
    drop(group.join().unwrap());
    let path = std::env::temp_dir().join(format!("{}.journal", test.name));
    let journal = Journal::create(&path);
    let mut random = Random(seed);
    let mut names = 0_u32;
    let kind = if ack_wait.is_zero() { "strict" } else { "fenced" };
    let mut join = || {
        names += 1;
        let mut agent = spawn("member", &test, format!("{} {names} {kind}", path.display()));
        agent.line.expect("ready");
        (names, agent)
    };
    // From here on what it has in hand may be another's.
    let kill = |(who, member): &mut (u32, Agent)| {
        journal.note(Record { what: What::Gone, who: *who, key: 0, count: 0 });
        member.kill();
    };
    let mut members: Vec<(u32, Agent)> = (0..4).map(|_| join()).collect();
    let mut publisher = spawn("publisher", &test, path.display());
    publisher.line.expect("ready");
    let begun = Instant::now();
    let (mut kills, mut stops, mut leaves) = (0, 0, 0);
    while begun.elapsed() < Duration::from_secs(6) {
        std::thread::sleep(Duration::from_millis(20 + random.below(60)));
        let index = random.below(4) as usize;
        match random.below(4) {
            0 => {
                kill(&mut members[index]);
                members[index] = join();
                kills += 1;
            }
            1 => {
                members[index].1.line.tell("leave");
                assert!(members[index].1.wait().success());
                members[index] = join();
                leaves += 1;
            }
            _ => {
                members[index].1.stop();
                std::thread::sleep(Duration::from_millis(10 + random.below(500)));
                if random.below(4) == 0 {
                    kill(&mut members[index]);
                    members[index] = join();
                    kills += 1;
                } else {
                    members[index].1.go_on();
                }
                stops += 1;
            }
        }
    }
    journal.number(1).store(1, Ordering::SeqCst);
    let rounds = publisher.line.hear_number() as u16;
    let mut view = BusView::open(&test.name, None).unwrap().topic("t").unwrap();
    let lag = |view: &mut bus_shm::inspect::TopicView| {
        let group = view.sample().groups.into_iter().find(|group| group.keyed.is_some()).unwrap();
        group.waiting_count + group.lanes.iter().map(|lane| lane.lag_count).sum::<u64>()
    };
    let waited = Instant::now();
    while lag(&mut view) > 0 {
        assert!(waited.elapsed() < PATIENCE, "{} messages stay: {:?}", lag(&mut view), state(&test));
        std::thread::sleep(Duration::from_millis(5));
    }
    eventually("keys are shared evenly", || {
        state(&test).members.iter().all(|member| member.partition_count == 64)
    });
    for (_, member) in &mut members {
        member.line.tell("leave");
        assert!(member.wait().success());
    }
    let verdict = check(&journal.records(), &[rounds; KEYS as usize], !ack_wait.is_zero());
    let said = format!(
        "seed {seed}, {kills} kills, {stops} stops, {leaves} leaves, handed {}, again {}, refused {}",
        verdict.handed, verdict.again, verdict.refused
    );
    println!("{said}, {rounds} rounds");
    assert!(rounds > 0 && kills > 0 && stops > 0 && leaves > 0, "{said}");
    assert!(verdict.wrong.is_empty(), "{said}:\n{}", verdict.wrong.join("\n"));
    assert_eq!(
        (journal.number(2).load(Ordering::SeqCst), journal.number(3).load(Ordering::SeqCst)),
        (0, 0),
        "two members in one key's handler: {said}"
    );
    assert_clean(&test);
}

fn seed() -> u64 {
    let set = std::env::var("SHMBUS_SEED").ok().and_then(|seed| seed.parse().ok());
    set.unwrap_or_else(|| (u64::from(std::process::id()) * 0x9e37_79b9) | 1)
}

#[test]
fn four_members_killed_stopped_and_joined_at_random_keep_the_order_of_a_thousand_keys() {
    chaos("keyed-chaos", Duration::ZERO, seed());
}

#[test]
fn four_members_that_are_fenced_when_they_are_silent_keep_it_too() {
    chaos("keyed-fenced", Duration::from_millis(150), seed() ^ 0x5555);
}
