//! Messages that fail: retried later, dead letters, who owns them meanwhile.

use bus_shm::dead_letters::{DeadLetterNotice, Full};
use bus_shm::inspect::BusView;
use bus_shm::{Batch, Lane, Publisher, ReceiveError, Start, Subscriber, Topic, Wait};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tests::harness::{Agent, TestBus, Text, Words, assert_clean, eventually, role};

const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(50);

fn next(subscriber: &mut Subscriber<Words>) -> (u64, u8) {
    let message = subscriber.receive_timeout(PATIENCE).unwrap().expect("a message");
    assert!(message.value().unwrap().is_numbered(message.sequence()));
    let found = (message.sequence(), message.attempts());
    message.ack().unwrap();
    found
}

fn publish(publisher: &mut Publisher<Words>, sequences: std::ops::Range<u64>) {
    for sequence in sequences {
        assert_eq!(publisher.publish(&Words::numbered(sequence)).unwrap(), sequence);
    }
}

const KINDS: [&str; 2] = ["one", "many"];

/// A group of either kind, which it is called after, with three attempts and short delays.
fn join(topic: &Topic<Words>, kind: &str) -> Subscriber<Words> {
    let delay = Duration::from_millis(40);
    let group = topic.group(kind).retry_delays(delay, delay).attempts(3).handler(kind);
    if kind == "many" { group.shared() } else { group }.join().unwrap()
}

#[test]
fn a_retry_comes_again_later_and_later_messages_go_on_meanwhile() {
    let test = TestBus::new("retry");
    let bus = test.open("tester");
    for producers in [64, 1] {
        for kind in KINDS {
            let name = format!("{kind}.{producers}");
            let topic = bus.topic_builder::<Words>(&name).producers(producers).open().unwrap();
            let mut subscriber = join(&topic, kind);
            let mut publisher = topic.publisher().unwrap();
            let first = publisher.publish(&Words::numbered(0)).unwrap();
            publisher.publish(&Words::numbered(1)).unwrap();
            let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
            let failed = Instant::now();
            message.retry("not now").unwrap();
            let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
            assert_eq!(
                (message.sequence(), message.attempts()),
                (first + 1, 1),
                "the next one does not wait"
            );
            message.ack().unwrap();
            assert!(subscriber.try_receive().unwrap().is_none(), "its time has not come");
            assert_eq!(subscriber.lag_count(Lane::NORMAL), 0, "the ring is not held");
            let message = subscriber.receive_timeout(PATIENCE).unwrap().expect("the retry");
            assert!(failed.elapsed() >= Duration::from_millis(20), "{:?}", failed.elapsed());
            assert_eq!((message.sequence(), message.attempts(), message.lane()), (first, 2, Lane::NORMAL));
            assert!(message.is_redelivered() && message.value().unwrap().is_numbered(0));
            assert_ne!(message.stamp_ns(), 0);
            message.ack().unwrap();
            assert!(subscriber.receive_timeout(2 * SOON).unwrap().is_none(), "once");
        }
    }
}

#[test]
fn payloads_of_any_length_survive_being_put_aside() {
    let test = TestBus::new("retry-lengths");
    let bus = test.open("tester");
    for producers in [64, 1] {
        let topic = bus.topic_builder::<Text>(&format!("t{producers}")).producers(producers).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        for len in [0, 1, 40, 63, 64, 65, 200, 256, 257, 5_000, 300_000] {
            let text = "x".repeat(len);
            publisher.publish(&Text { id: len as u64, text: text.clone() }).unwrap();
            for attempt in 1..=3 {
                let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
                assert_eq!(message.attempts(), attempt);
                let value = message.value().unwrap();
                assert_eq!((value.id.to_native(), value.text.as_str()), (len as u64, text.as_str()));
                match attempt {
                    3 => message.ack().unwrap(),
                    _ => message.retry_after(Duration::from_millis(1), "again").unwrap(),
                }
            }
        }
    }
}

#[test]
fn ten_thousand_retries_wait_and_publishing_goes_on() {
    const COUNT: u64 = 10_000;
    let test = TestBus::new("retry-many");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic_builder::<Words>(kind).capacity(1_024).open().unwrap();
        let mut subscriber = join(&topic, kind);
        let mut publisher = topic.publisher().unwrap();
        let first = publisher.publish(&Words::numbered(0)).unwrap();
        for count in 1..=COUNT {
            let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
            assert_eq!((message.sequence(), message.attempts()), (first + count - 1, 1));
            message.retry_after(Duration::from_secs(2), "later").unwrap();
            publisher.try_publish_to(Lane::NORMAL, &Words::numbered(count)).unwrap();
        }
        // They have all left the ring: it takes as many as it has slots.
        let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!((message.sequence(), message.attempts()), (first + COUNT, 1));
        message.ack().unwrap();
        for count in 0..1_024 {
            publisher.try_publish_to(Lane::NORMAL, &Words::numbered(count)).unwrap();
        }
        let (mut again, mut fresh) = (BTreeSet::new(), 0);
        while again.len() < COUNT as usize {
            let message = subscriber.receive_timeout(PATIENCE).unwrap().expect("they all come again");
            match message.attempts() {
                1 => fresh += 1,
                2 => assert!(again.insert(message.sequence()), "once"),
                other => panic!("{other} attempts"),
            }
            message.ack().unwrap();
        }
        assert_eq!(fresh, 1_024);
        assert_eq!(again.range(first..first + COUNT).count(), COUNT as usize);
        assert!(subscriber.try_receive().unwrap().is_none());
    }
}

#[test]
fn after_the_last_attempt_it_is_a_dead_letter_and_announced() {
    let test = TestBus::new("dead");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Words>(kind).unwrap();
        let mut notices = topic.dead_letter_notices().unwrap().group("watcher").join().unwrap();
        let mut subscriber = join(&topic, kind);
        let mut publisher = topic.publisher().unwrap();
        let sequence = publisher.publish(&Words::numbered(0)).unwrap();
        for attempt in 1..=3 {
            let message = subscriber.receive_timeout(PATIENCE).unwrap().expect("an attempt");
            assert_eq!((message.sequence(), message.attempts()), (sequence, attempt));
            message.retry(&format!("failure {attempt}")).unwrap();
        }
        assert!(subscriber.receive_timeout(2 * SOON).unwrap().is_none(), "no fourth");
        let notice = notices.receive_timeout(PATIENCE).unwrap().expect("an announcement");
        let value = notice.value().unwrap();
        assert_eq!((value.topic.as_str(), value.group.as_str()), (kind, kind));
        assert_eq!((value.sequence.to_native(), value.attempts, value.lane), (sequence, 3, Lane::NORMAL.0));
        assert_eq!((value.error.as_str(), value.service.as_str()), ("failure 3", "tester"));
        assert_eq!(value.handler.as_str(), kind);
        assert!(value.first_ns.to_native() < value.last_ns.to_native());
        notice.ack().unwrap();
        assert!(notices.receive_timeout(2 * SOON).unwrap().is_none(), "once");
    }
}

#[test]
fn rejected_and_invalid_messages_are_dead_at_once() {
    let test = TestBus::new("reject");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Text>(kind).unwrap();
        let mut notices = topic.dead_letter_notices().unwrap().subscribe().unwrap();
        let mut text = move || {
            let notice = notices.receive_timeout(PATIENCE).unwrap().expect("an announcement");
            let error = notice.value().unwrap().error.as_str().to_owned();
            notice.ack().unwrap();
            error
        };
        let mut publisher = topic.publisher().unwrap();
        let group = topic.group(kind);
        let mut subscriber = if kind == "many" { group.shared() } else { group }.join().unwrap();
        publisher.publish(&Text { id: 1, text: "good".into() }).unwrap();
        publisher.publish_bytes(Lane::NORMAL, &[1, 2, 3]).unwrap();
        publisher.publish(&Text { id: 2, text: "good".into() }).unwrap();
        subscriber.receive().unwrap().reject("not for me").unwrap();
        assert_eq!(text(), "not for me");
        let message = subscriber.receive().unwrap();
        assert!(matches!(message.value(), Err(ReceiveError::Invalid { .. })));
        drop(message);
        assert_eq!(text(), "its archive does not validate");
        let message = subscriber.receive().unwrap();
        assert_eq!(message.value().unwrap().id.to_native(), 2);
        message.ack().unwrap();
        assert!(subscriber.try_receive().unwrap().is_none());
        // The same in a batch.
        publisher.publish_bytes(Lane::NORMAL, &[1, 2, 3]).unwrap();
        publisher.publish(&Text { id: 3, text: "good".into() }).unwrap();
        publisher.publish(&Text { id: 4, text: "good".into() }).unwrap();
        let mut batch = subscriber.receive_batch(3, 3, PATIENCE).unwrap();
        assert!(batch.next_message().unwrap().unwrap().value().is_err());
        batch.next_message().unwrap().unwrap().reject("of a batch").unwrap();
        assert_eq!(batch.next_message().unwrap().unwrap().value().unwrap().id.to_native(), 4);
        assert_eq!(batch.ack(), 3);
        let mut both = [text(), text()];
        both.sort();
        assert_eq!(both, ["its archive does not validate", "of a batch"]);
        assert!(subscriber.receive_timeout(SOON).unwrap().is_none());
        assert_eq!(subscriber.lag_count(Lane::NORMAL), 0);
    }
}

#[test]
fn what_was_put_aside_in_a_batch_counts_with_the_batch() {
    let test = TestBus::new("retry-batch");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Words>(kind).unwrap();
        let mut subscriber = join(&topic, kind);
        let mut publisher = topic.publisher().unwrap();
        let first = publisher.publish(&Words::numbered(0)).unwrap();
        for count in 1..6 {
            publisher.publish(&Words::numbered(count)).unwrap();
        }
        let collect = |batch: &mut Batch<'_, Words>, retried: u64| {
            let mut seen = Vec::new();
            while let Some(item) = batch.next_message().unwrap() {
                seen.push(item.sequence());
                if item.sequence() == first + retried {
                    item.retry("later").unwrap();
                }
            }
            seen
        };
        let mut batch = subscriber.receive_batch(6, 6, PATIENCE).unwrap();
        assert_eq!(collect(&mut batch, 2), (first..first + 6).collect::<Vec<_>>());
        assert_eq!(batch.ack_up_to(Lane::NORMAL, first + 3), 4);
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.ack(), 2);
        assert_eq!(subscriber.lag_count(Lane::NORMAL), 0);
        let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!((message.sequence(), message.attempts()), (first + 2, 2));
        message.ack().unwrap();
    }
}

#[test]
fn what_is_left_of_a_run_comes_again() {
    let test = TestBus::new("run-left");
    let bus = test.open("tester");
    for producers in [64, 1] {
        let topic = bus.topic_builder::<Words>(&format!("t{producers}")).producers(producers).open().unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        publish(&mut topic.publisher().unwrap(), 0..12);
        {
            let mut batch = subscriber.receive_batch(12, 12, PATIENCE).unwrap();
            for sequence in 0..6 {
                assert_eq!(batch.next_message().unwrap().unwrap().sequence(), sequence);
            }
            assert_eq!((batch.ack_up_to(Lane::NORMAL, 2), batch.len()), (3, 3));
            assert_eq!((batch.ack_up_to(Lane::NORMAL, 2), batch.len()), (0, 3), "once");
            assert_eq!((batch.ack_up_to(Lane::HIGH, 9), batch.len()), (0, 3), "another lane");
            // The fourth of the run is put aside, and the run goes on behind it.
            batch.next_message().unwrap().unwrap().retry("undone").unwrap();
            assert_eq!(batch.next_message().unwrap().unwrap().sequence(), 7);
            assert_eq!(batch.len(), 5);
            // Not so far as to make that count.
            assert_eq!((batch.ack_up_to(Lane::NORMAL, 4), batch.len()), (2, 3));
        }
        assert_eq!(subscriber.lag_count(Lane::NORMAL), 7);
        let mut batch = subscriber.receive_batch(1, 12, PATIENCE).unwrap();
        // In doubt, one at a time.
        assert_eq!(
            batch.next_message().unwrap().map(|item| (item.sequence(), item.attempts())),
            Some((5, 2))
        );
        assert!(batch.next_message().unwrap().is_none());
        assert_eq!(batch.ack(), 1);
        let rest: Vec<_> = (6..12).map(|_| next(&mut subscriber)).collect();
        let expected: Vec<_> = (6..12).map(|sequence| (sequence, if sequence < 8 { 2 } else { 1 })).collect();
        assert_eq!(rest, expected);
        assert!(subscriber.receive_timeout(SOON).unwrap().is_none(), "it did not come twice");
    }
}

#[test]
fn a_batch_given_back_takes_its_retries_along() {
    let test = TestBus::new("retry-undone");
    let bus = test.open("tester");
    let topic = bus.topic::<Words>("t").unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    publish(&mut topic.publisher().unwrap(), 0..3);
    {
        let mut batch = subscriber.receive_batch(3, 3, PATIENCE).unwrap();
        batch.next_message().unwrap().unwrap().retry("undone").unwrap();
        batch.next_message().unwrap().unwrap();
    }
    assert_eq!((0..3).map(|_| next(&mut subscriber)).collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 1)]);
    assert!(subscriber.receive_timeout(SOON).unwrap().is_none(), "it did not come twice");
}

#[test]
fn a_batch_that_is_forgotten_is_given_back_with_the_next_call() {
    let test = TestBus::new("forgotten");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Words>(kind).unwrap();
        let mut subscriber = join(&topic, kind);
        publish(&mut topic.publisher().unwrap(), 0..3);
        let mut batch = subscriber.receive_batch(3, 3, PATIENCE).unwrap();
        batch.next_message().unwrap().unwrap();
        batch.next_message().unwrap().unwrap().retry("forgotten too").unwrap();
        std::mem::forget(batch);
        let mut again: Vec<_> = (0..3).map(|_| next(&mut subscriber)).collect();
        again.sort_unstable();
        assert_eq!(again, [(0, 2), (1, 2), (2, 1)], "{kind}");
        assert!(subscriber.receive_timeout(SOON).unwrap().is_none());
    }
}

#[test]
fn a_named_groups_retries_wait_for_its_next_member() {
    let test = TestBus::new("retry-away");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Words>(kind).unwrap();
        let mut subscriber = join(&topic, kind);
        topic.publisher().unwrap().publish(&Words::numbered(0)).unwrap();
        subscriber.receive().unwrap().retry("later").unwrap();
        drop(subscriber);
        assert_eq!(next(&mut join(&topic, kind)), (0, 2));
    }
    let topic = bus.topic::<Words>("t").unwrap();
    // A group without a name takes them along.
    let mut subscriber = topic.subscribe().unwrap();
    topic.publisher().unwrap().publish(&Words::numbered(0)).unwrap();
    subscriber.receive().unwrap().retry("later").unwrap();
    drop(subscriber);
    assert!(topic.subscribe().unwrap().receive_timeout(Duration::from_millis(200)).unwrap().is_none());
}

#[test]
fn a_full_store_loses_nothing_and_blocks_nobody_for_ever() {
    let test = TestBus::new("retry-full");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Words>(kind).unwrap();
        let group = topic.group(kind).aside_entries(4).attempts(200);
        let mut subscriber = if kind == "many" { group.shared() } else { group }.join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let first = publisher.publish(&Words::numbered(0)).unwrap();
        for count in 1..8 {
            publisher.publish(&Words::numbered(count)).unwrap();
        }
        let mut tries: BTreeMap<u64, u32> = BTreeMap::new();
        let begun = Instant::now();
        let mut done = 0;
        while done < 8 && begun.elapsed() < PATIENCE {
            let Some(message) = subscriber.receive_timeout(PATIENCE).unwrap() else { break };
            let count = tries.entry(message.sequence()).or_default();
            *count += 1;
            if *count < 3 {
                message.retry_after(Duration::from_millis(30), "full").unwrap();
            } else {
                message.ack().unwrap();
                done += 1;
            }
        }
        assert_eq!(tries.keys().copied().collect::<Vec<_>>(), (first..first + 8).collect::<Vec<_>>());
        assert_eq!(done, 8);
        eventually("the cursor is at the end", || subscriber.lag_count(Lane::NORMAL) == 0);
    }
}

#[test]
fn dead_letters_that_find_no_room_are_held_or_push_out_the_oldest() {
    let test = TestBus::new("dead-full");
    let bus = test.open("tester");
    let topic = bus.topic::<Words>("t").unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut oldest =
        topic.group("oldest").aside_entries(4).dead_letters_full(Full::DropOldest).join().unwrap();
    let mut hold = topic.group("hold").aside_entries(4).shared().join().unwrap();
    publish(&mut publisher, 0..6);
    for _ in 0..6 {
        oldest.receive_timeout(PATIENCE).unwrap().unwrap().reject("no").unwrap();
    }
    assert_eq!(oldest.lag_count(Lane::NORMAL), 0);
    for _ in 0..6 {
        hold.receive_timeout(PATIENCE).unwrap().unwrap().reject("no").unwrap();
    }
    assert_eq!(
        hold.lag_count(Lane::NORMAL),
        3,
        "three of four entries may be dead letters, and the others hold the ring"
    );
    assert!(hold.receive_timeout(SOON).unwrap().is_none(), "they are not handed out again");
}

#[test]
fn who_is_silent_too_long_loses_the_message_and_learns_it() {
    let test = TestBus::new("ack-wait");
    let bus = test.open("tester");
    let topic = bus.topic::<Words>("t").unwrap();
    let join =
        || topic.group("g").shared().ack_wait(Duration::from_millis(150)).wait(Wait::Park).join().unwrap();
    let (mut slow, mut quick) = (join(), join());
    publish(&mut topic.publisher().unwrap(), 0..1);
    let mut message = slow.receive_timeout(PATIENCE).unwrap().expect("the message");
    // As long as it asks for more time, nobody else gets it.
    for _ in 0..6 {
        assert!(quick.receive_timeout(Duration::from_millis(60)).unwrap().is_none());
        message.extend().unwrap();
    }
    let waited = Instant::now();
    let again = quick.receive_timeout(PATIENCE).unwrap().expect("it went to another member");
    assert!(waited.elapsed() >= Duration::from_millis(140), "{:?}", waited.elapsed());
    assert!(waited.elapsed() < Duration::from_secs(1), "{:?}", waited.elapsed());
    assert_eq!((again.sequence(), again.attempts()), (0, 2));
    assert!(message.extend().is_err());
    let error = message.ack().unwrap_err();
    assert_eq!((error.details().sequence, error.details().group.as_str()), (0, "g"));
    again.ack().unwrap();
    assert!(slow.receive_timeout(SOON).unwrap().is_none());
    assert_eq!(slow.lag_count(Lane::NORMAL), 0);
}

#[test]
fn a_yielding_group_with_a_backlog_holds_only_what_it_was_promised() {
    let test = TestBus::new("yield-backlog");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(16).open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    // Nobody listened: all but the last has been given up, and most of it is still there.
    publish(&mut publisher, 0..33);
    let mut subscriber =
        topic.subscriber().from(Start::Oldest).yield_after(Duration::from_secs(60)).join().unwrap();
    assert_eq!(subscriber.reliable_from(Lane::NORMAL), 32);
    for sequence in 17..22 {
        assert_eq!(next(&mut subscriber).0, sequence);
    }
    for sequence in 33..48 {
        publisher.try_publish_to(Lane::NORMAL, &Words::numbered(sequence)).unwrap();
    }
}

#[test]
fn a_batch_larger_than_the_ring_wakes_a_parked_reader_as_it_goes() {
    let test = TestBus::new("batch-wakes");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(16).with_group("g").open().unwrap();
    let mut subscriber = topic.group("g").wait(Wait::Park).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let reader = std::thread::spawn(move || (0..200).map(|_| next(&mut subscriber)).collect::<Vec<_>>());
    let values: Vec<_> = (0..200).map(Words::numbered).collect();
    let begun = Instant::now();
    publisher.set_deadline(PATIENCE);
    assert_eq!(publisher.publish_batch(Lane::NORMAL, &values).unwrap(), 200);
    reader.join().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn a_group_without_a_member_lets_go_when_it_has_said_so_and_learns_what_it_missed() {
    let test = TestBus::new("hold");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic_builder::<Words>(kind).capacity(16).open().unwrap();
        let make = || {
            let group = topic.group(kind);
            if kind == "many" { group.shared() } else { group }
        };
        let mut publisher = topic.publisher().unwrap();
        let mut first = make().hold_for(Duration::from_secs(1)).join().unwrap();
        publish(&mut publisher, 0..16);
        // With a member it holds the ring however long it takes.
        publisher.set_deadline(Duration::from_millis(1_500));
        publisher.set_breaker(false);
        assert!(publisher.publish(&Words::numbered(16)).is_err());
        assert_eq!(next(&mut first), (0, 1));
        drop(first.receive().unwrap());
        drop(first);
        publisher.set_deadline(PATIENCE);
        publish(&mut publisher, 16..17);
        let begun = Instant::now();
        publish(&mut publisher, 17..40);
        assert!(begun.elapsed() >= Duration::from_millis(900) && begun.elapsed() < PATIENCE / 2);
        let group =
            || BusView::open(&test.name, None).unwrap().topic(kind).unwrap().sample().groups.remove(0);
        assert_eq!((group().state, group().let_go_count), ("detached", 1));
        let mut again = make().join().unwrap();
        let mut seen = Vec::new();
        while let Some(message) = again.receive_timeout(SOON).unwrap() {
            seen.push(message.sequence());
            message.ack().unwrap();
        }
        assert_eq!(seen.last(), Some(&39), "{kind}");
        assert!(seen.is_sorted() && seen[0] > 1, "{kind}: {seen:?}");
        if kind == "one" {
            assert_eq!(again.missed_count() as usize + seen.len(), 39, "{seen:?}");
        }
        publish(&mut publisher, 40..41);
        assert_eq!(next(&mut again), (40, 1));
    }
}

#[test]
fn how_long_a_group_holds_counts_from_when_it_had_no_member() {
    let test = TestBus::new("hold-from");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic_builder::<Words>(kind).capacity(16).open().unwrap();
        let group = topic.group(kind).hold_for(Duration::from_secs(1));
        let member = if kind == "many" { group.shared() } else { group }.join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        publish(&mut publisher, 0..16);
        publisher.set_deadline(Duration::from_millis(1_200));
        publisher.set_breaker(false);
        assert!(publisher.publish(&Words::numbered(16)).is_err(), "{kind}: a member holds for ever");
        let begun = Instant::now();
        drop(member);
        publisher.set_deadline(PATIENCE);
        publish(&mut publisher, 16..17);
        let held = begun.elapsed();
        assert!(held >= Duration::from_millis(950) && held < PATIENCE / 2, "{kind}: {held:?}");
    }
}

/// A group that let go, in which message 0 to 9 are finished and the rest is not.
fn let_go(topic: &Topic<Words>, kind: &str) -> Publisher<Words> {
    let group = topic.group(kind).hold_for(Duration::from_secs(1));
    let mut member = if kind == "many" { group.shared() } else { group }.join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publish(&mut publisher, 0..16);
    (0..10).for_each(|sequence| assert_eq!(next(&mut member), (sequence, 1)));
    drop(member);
    publisher.set_deadline(PATIENCE);
    publish(&mut publisher, 16..27);
    publisher
}

#[test]
fn what_a_shared_group_has_finished_stays_finished_wherever_it_begins_again() {
    let test = TestBus::new("begin-again");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(16).open().unwrap();
    // Keeps messages from 4 on.
    let mut other = topic.group("other").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let make = || topic.group("many").shared();
    let mut member = make().hold_for(Duration::from_secs(1)).join().unwrap();
    publish(&mut publisher, 0..16);
    (0..4).for_each(|sequence| assert_eq!(next(&mut other), (sequence, 1)));
    // Finished out of order: 5 and 6 are done, 0 to 4 are not.
    let mut second = make().join().unwrap();
    let mut batch = member.receive_batch(5, 5, PATIENCE).unwrap();
    while batch.next_message().unwrap().is_some() {}
    (5..7).for_each(|sequence| assert_eq!(next(&mut second), (sequence, 1)));
    drop(batch);
    drop((member, second));
    publisher.set_deadline(PATIENCE);
    publish(&mut publisher, 16..20);
    let mut member = make().from(Start::Sequence(Lane::NORMAL, 4)).join().unwrap();
    let mut from_the_ring = Vec::new();
    while let Some(message) = member.receive_timeout(SOON).unwrap() {
        from_the_ring.push(message.sequence());
        message.ack().unwrap();
    }
    assert_eq!(from_the_ring, (4..20).filter(|sequence| !(5..7).contains(sequence)).collect::<Vec<_>>());
}

#[test]
fn who_dies_while_joining_a_group_that_let_go_does_not_make_it_forget_where_it_stood() {
    use bus_core::holder::{Holder, HolderWord};
    use bus_core::layout::groups::{self, in_entry, in_lane, state};
    use std::os::unix::fs::FileExt;
    let test = TestBus::new("rejoin-death");
    let bus = test.open("tester");
    for kind in KINDS {
        for died_in in [state::REJOINING, state::RESTARTING] {
            let topic = bus.topic_builder::<Words>(&format!("{kind}.{died_in}")).capacity(16).open().unwrap();
            let _publisher = let_go(&topic, kind);
            let path = test.path().join("topics").join(topic.name()).join("groups");
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let read = |at: usize| {
                let mut word = [0; 8];
                file.read_exact_at(&mut word, at as u64).unwrap();
                u64::from_ne_bytes(word)
            };
            let write = |at: usize, word: u64| file.write_all_at(&word.to_ne_bytes(), at as u64).unwrap();
            let at = groups::entry(0) + in_entry::STATE;
            let seen = HolderWord::unpack(read(at));
            assert_eq!(seen.state, state::DETACHED);
            if died_in == state::RESTARTING {
                // It would have begun at the lane's end.
                for lane in 0..3 {
                    let lane = groups::lane(0, lane);
                    write(lane + in_lane::STOOD, read(lane + in_lane::LOW_WATER));
                    write(lane + in_lane::LOW_WATER, if lane == groups::lane(0, 2) { 27 } else { 0 });
                }
            }
            // A number that is there and nobody's.
            write(at, seen.next(died_in, Holder::new(20, 1)).pack());
            let group = topic.group(kind);
            let mut member = if kind == "many" { group.shared() } else { group }.join().unwrap();
            let mut seen = Vec::new();
            while let Some(message) = member.receive_timeout(SOON).unwrap() {
                seen.push(message.sequence());
                message.ack().unwrap();
            }
            assert!(seen.is_sorted() && seen.last() == Some(&26), "{kind}, {died_in}: {seen:?}");
            if kind == "one" {
                assert_eq!(member.missed_count() as usize + seen.len(), 17, "{seen:?}");
            }
        }
    }
}

#[test]
fn a_silent_members_message_comes_back_while_the_others_have_plenty_to_do() {
    let test = TestBus::new("ack-wait-busy");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(1 << 16).open().unwrap();
    let make = || topic.group("g").shared().ack_wait(Duration::from_millis(100));
    let (mut silent, mut busy) = (make().join().unwrap(), make().join().unwrap());
    let mut publisher = topic.publisher().unwrap();
    let values: Vec<_> = (0..40_000).map(Words::numbered).collect();
    publisher.publish_batch(Lane::NORMAL, &values).unwrap();
    let held = silent.receive_timeout(PATIENCE).unwrap().unwrap();
    let sequence = held.sequence();
    let begun = Instant::now();
    loop {
        let message = busy.try_receive().unwrap().expect("there is always another message");
        let (found, attempts) = (message.sequence(), message.attempts());
        message.ack().unwrap();
        if found == sequence {
            assert_eq!(attempts, 2);
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it has not come back");
        // A handler's work.
        while !begun.elapsed().subsec_micros().is_multiple_of(64) {
            std::hint::spin_loop();
        }
    }
    assert!(held.ack().is_err(), "it is another's");
}

#[test]
fn a_busy_member_does_not_take_its_own_message_back_that_found_no_room() {
    let test = TestBus::new("kept-busy");
    let bus = test.open("tester");
    let topic = bus.topic::<Words>("t").unwrap();
    let group = topic.group("g").shared().aside_entries(1).ack_wait(Duration::from_millis(60));
    let mut member = group.join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publish(&mut publisher, 0..100);
    let mut seen = BTreeSet::new();
    for count in 0..100 {
        let message = member.receive_timeout(PATIENCE).unwrap().expect("as many as were published");
        assert!(seen.insert(message.sequence()), "{} came again", message.sequence());
        // A handler's work, far longer in all than a member may be silent.
        std::thread::sleep(Duration::from_millis(4));
        match count {
            0..2 => message.retry_after(Duration::from_secs(60), "later").unwrap(),
            _ => message.ack().unwrap(),
        }
    }
}

#[test]
fn a_batch_that_is_forgotten_goes_with_its_subscriber() {
    let test = TestBus::new("forgotten");
    let bus = test.open("tester");
    for kind in KINDS {
        let topic = bus.topic::<Words>(kind).unwrap();
        let make = || {
            let group = topic.group(kind);
            if kind == "many" { group.shared().ack_wait(Duration::ZERO) } else { group }.join().unwrap()
        };
        let mut subscriber = make();
        let mut publisher = topic.publisher().unwrap();
        publish(&mut publisher, 0..3);
        let mut batch = subscriber.receive_batch(1, 3, PATIENCE).unwrap();
        while batch.next_message().unwrap().is_some() {}
        std::mem::forget(batch);
        drop(subscriber);
        let mut again = make();
        (0..3).for_each(|sequence| assert_eq!(next(&mut again), (sequence, 2), "{kind}"));
    }
}

#[test]
fn a_batch_does_not_come_back_early_for_what_found_no_room() {
    let test = TestBus::new("kept-batch");
    let bus = test.open("tester");
    let topic = bus.topic::<Words>("t").unwrap();
    let mut member = topic.group("g").shared().aside_entries(1).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publish(&mut publisher, 0..2);
    for _ in 0..2 {
        let message = member.receive_timeout(PATIENCE).unwrap().unwrap();
        message.retry_after(Duration::from_secs(60), "full").unwrap();
    }
    let begun = Instant::now();
    assert!(
        member.receive_batch(1, 8, Duration::from_millis(300)).unwrap().next_message().unwrap().is_none()
    );
    assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
}

#[test]
fn a_message_from_before_the_reliable_start_that_finds_no_room_comes_again() {
    let test = TestBus::new("retry-backlog");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(16).open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    // Nobody listened: the gate has passed nearly all of it, and it is still there.
    publish(&mut publisher, 0..33);
    let group = topic.group("g").from(Start::Oldest).aside_entries(1);
    let mut subscriber = group.retry_delays(SOON, SOON).join().unwrap();
    let mut tries: BTreeMap<u64, u32> = BTreeMap::new();
    while let Some(message) = subscriber.receive_timeout(10 * SOON).unwrap() {
        let count = tries.entry(message.sequence()).or_default();
        *count += 1;
        match (message.sequence(), *count) {
            (18 | 19, 1) => message.retry("again").unwrap(),
            _ => message.ack().unwrap(),
        }
    }
    assert!(tries[&18] >= 2 && tries[&19] >= 2, "{tries:?}");
    assert_eq!(tries.len(), 16, "{tries:?}");
}

#[test]
fn a_yielding_group_that_is_let_go_leaves_nothing_of_its_batch_behind() {
    let test = TestBus::new("yield-staged");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").capacity(16).open().unwrap();
    let mut subscriber = topic.subscriber().yield_after(SOON).aside_entries(1).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(PATIENCE);
    publish(&mut publisher, 0..16);
    let mut batch = subscriber.receive_batch(1, 100, PATIENCE).unwrap();
    batch.next_message().unwrap().unwrap().retry("no").unwrap();
    publish(&mut publisher, 16..48);
    // What the reader has before it is gone; it notices that when it waits.
    while batch.next_message_timeout(SOON).unwrap().is_some() {}
    drop(batch);
    assert!(subscriber.missed_count() > 0);
    assert_clean(&test);
    // The next group has its entry, and the store's only place.
    let mut next = topic.subscribe().unwrap();
    publish(&mut publisher, 48..49);
    next.receive_timeout(PATIENCE).unwrap().unwrap().retry_after(PATIENCE, "later").unwrap();
    let groups = BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample().groups;
    let counts: Vec<_> = groups.iter().map(|group| (group.full_count, group.waiting_count)).collect();
    assert_eq!(counts, [(0, 1)]);
}

/// Joins a shared group and stays until it is killed.
#[test]
fn a_shared_group_knows_how_many_members_live() {
    const ENTRY: &str = "a_shared_group_knows_how_many_members_live";
    if let Some(mut role) = role() {
        let topic = role.open().topic::<Words>("t").unwrap();
        let _both = [join(&topic, "many"), join(&topic, "many")];
        role.parent.tell("joined");
        role.parent.try_hear();
        return;
    }
    let test = TestBus::new("members");
    let bus = test.open("tester");
    let topic = bus.topic::<Words>("t").unwrap();
    let state = || {
        let sample = BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample();
        (sample.groups[0].members, sample.groups[0].state)
    };
    let own = join(&topic, "many");
    assert_eq!(state(), (1, "active"));
    let mut agents: Vec<_> = (0..3).map(|_| Agent::spawn(ENTRY, "member", &test.name, "")).collect();
    agents.iter_mut().for_each(|agent| agent.line.expect("joined"));
    assert_eq!(state(), (7, "active"));
    agents[0].kill();
    eventually("the dead one's are gone", || state() == (5, "active"));
    drop(own);
    agents.into_iter().for_each(drop);
    eventually("all are", || state() == (0, "held"));
}

const POISONED: &str = "a_message_that_kills_its_consumer_is_a_dead_letter_after_so_many_deaths";

#[test]
fn a_message_that_kills_its_consumer_is_a_dead_letter_after_so_many_deaths() {
    if let Some(mut role) = role() {
        let topic = role.open().topic::<Words>("t").unwrap();
        let group = topic.group(&role.argument);
        let mut subscriber = if role.argument == "many" { group.shared() } else { group }.join().unwrap();
        loop {
            let message = subscriber.receive().unwrap();
            let number = message.value().unwrap().number();
            if number == 5 {
                role.parent.tell(format!("poison {}", message.attempts()));
                std::process::abort();
            }
            role.parent.tell(format!("{number} {}", message.attempts()));
            message.ack().unwrap();
        }
    }
    for group in ["one", "many"] {
        let test = TestBus::new("poison");
        let bus = test.open("tester");
        let topic = bus.topic::<Words>("t").unwrap();
        let mut notices = topic.dead_letter_notices().unwrap().subscribe().unwrap();
        let make = || {
            let builder = topic.group(group).attempts(3);
            if group == "many" { builder.shared() } else { builder }
        };
        drop(make().join().unwrap());
        publish(&mut topic.publisher().unwrap(), 0..10);
        let mut seen = Vec::new();
        for attempt in 1..=3 {
            let mut agent = Agent::spawn(POISONED, "victim", &test.name, group);
            loop {
                let line = agent.line.hear();
                if let Some(found) = line.strip_prefix("poison ") {
                    assert_eq!(found, attempt.to_string(), "{group}");
                    break;
                }
                seen.push(line);
            }
            agent.wait();
        }
        let mut subscriber = make().join().unwrap();
        let rest: Vec<_> = (6..10).map(|_| next(&mut subscriber)).collect();
        assert_eq!(rest, [(6, 1), (7, 1), (8, 1), (9, 1)], "{group}: it does not come a fourth time");
        assert_eq!(seen, ["0 1", "1 1", "2 1", "3 1", "4 1"], "{group}");
        // The last death may be noticed only now.
        let waiting = Instant::now();
        while notices.lag_count(Lane::NORMAL) == 0 && notices.lag_count(Lane::CRITICAL) == 0 {
            assert!(waiting.elapsed() < PATIENCE, "announced");
            assert!(subscriber.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
        }
        let notice = notices.receive_timeout(PATIENCE).unwrap().expect("announced");
        let value: &<DeadLetterNotice as rkyv::Archive>::Archived = notice.value().unwrap();
        assert_eq!((value.sequence.to_native(), value.attempts), (5, 3), "{group}");
        notice.ack().unwrap();
    }
}
