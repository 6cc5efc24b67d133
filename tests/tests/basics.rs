//! The bus from one process: publish, receive, acknowledge, lanes, groups, limits.

use bus_shm::{Bytes, Lane, PublishError, Start, Wait};
use std::time::Duration;
use tests::harness::{TestBus, Text, Words};

#[test]
fn what_is_published_is_read_in_order_and_acknowledged() {
    for producers in [1, 8] {
        let test = TestBus::new("order");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Words>("a.b").producers(producers).capacity(64).open().unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut read = 0;
        for sequence in 0..1_000 {
            assert_eq!(publisher.publish(&Words::numbered(sequence)).unwrap(), sequence);
            if sequence % 3 == 2 {
                for _ in 0..3 {
                    let message = subscriber.receive().unwrap();
                    assert_eq!(message.sequence(), read);
                    assert!(message.value().unwrap().is_numbered(read));
                    assert!(!message.is_redelivered());
                    message.ack().unwrap();
                    read += 1;
                }
            }
        }
        assert_eq!(subscriber.lag_count(Lane::NORMAL), 1);
        drop((subscriber, publisher, topic, bus));
        test.assert_gone();
    }
}

#[test]
fn long_messages_and_short_ones_share_a_topic() {
    for producers in [1, 8] {
        let test = TestBus::new("lengths");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Text>("a").producers(producers).capacity(64).open().unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for round in 0..400_u64 {
            let len = [3, 60, 100, 5_000, 300_000][round as usize % 5];
            let text = Text { id: round, text: "x".repeat(len) };
            publisher.publish(&text).unwrap();
            let message = subscriber.receive().unwrap();
            let value = message.value().unwrap();
            assert_eq!((value.id.to_native(), value.text.len()), (round, len));
            assert!(value.text.bytes().all(|byte| byte == b'x'));
            message.ack().unwrap();
        }
        let too_large = Text { id: 0, text: "x".repeat(2 << 20) };
        let error = publisher.publish(&too_large).unwrap_err();
        assert!(matches!(error, PublishError::TooLarge { max: 1_048_576, .. }), "{error}");
        publisher.publish(&Text { id: 9, text: "after it".into() }).unwrap();
        assert_eq!(subscriber.receive().unwrap().value().unwrap().id.to_native(), 9);
    }
}

#[test]
fn a_full_ring_refuses_and_names_the_group_that_holds_it() {
    for producers in [1, 8] {
        let test = TestBus::new("full");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Words>("a").producers(producers).capacity(8).open().unwrap();
        let mut subscriber = topic.group("slow").join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        publisher.set_deadline(Duration::from_millis(30));
        publisher.set_breaker(false);
        for sequence in 0..8 {
            publisher.publish(&Words::numbered(sequence)).unwrap();
        }
        let error = publisher.publish(&Words::numbered(8)).unwrap_err();
        let PublishError::Full(full) = &error else { panic!("{error}") };
        assert_eq!((full.group.as_deref(), full.lag_count, full.limit), (Some("slow"), 8, 8));
        assert!(full.waited >= Duration::from_millis(30));
        subscriber.receive().unwrap().ack().unwrap();
        assert_eq!(publisher.publish(&Words::numbered(8)).unwrap(), 8);
        for sequence in 1..9 {
            let message = subscriber.receive().unwrap();
            assert!(message.value().unwrap().is_numbered(sequence), "nothing was overwritten");
            message.ack().unwrap();
        }
    }
}

#[test]
fn a_message_dropped_without_acknowledgement_comes_again_marked() {
    let test = TestBus::new("again");
    let bus = test.open("basics");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for sequence in 0..3 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
    }
    drop(subscriber.receive().unwrap());
    let message = subscriber.receive().unwrap();
    assert_eq!((message.sequence(), message.is_redelivered()), (0, true));
    message.ack().unwrap();
    let message = subscriber.receive().unwrap();
    assert_eq!((message.sequence(), message.is_redelivered()), (1, false));
}

#[test]
fn urgent_lanes_come_first_also_inside_a_batch() {
    let test = TestBus::new("lanes");
    let bus = test.open("basics");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for sequence in 0..4 {
        publisher.publish_to(Lane::NORMAL, &Words::numbered(sequence)).unwrap();
    }
    publisher.publish_to(Lane::HIGH, &Words::numbered(50)).unwrap();
    publisher.publish_to(Lane::CRITICAL, &Words::numbered(90)).unwrap();
    let mut batch = subscriber.receive_batch(1, 10, Duration::from_secs(1)).unwrap();
    let mut order = Vec::new();
    while let Some(message) = batch.next_message().unwrap() {
        order.push((message.lane().0, message.sequence()));
        if order.len() == 3 {
            publisher.publish_to(Lane::CRITICAL, &Words::numbered(91)).unwrap();
        }
    }
    assert_eq!(order, [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (2, 2), (2, 3)]);
    assert_eq!(batch.ack(), 7);
    assert_eq!(subscriber.lag_count(Lane::NORMAL), 0);
    let error = publisher.publish_to(Lane(3), &Words::numbered(0)).unwrap_err();
    assert!(matches!(error, PublishError::Lane { lane: 3, lanes: 3, .. }), "{error}");
}

#[test]
fn a_batch_dropped_without_acknowledgement_comes_again() {
    let test = TestBus::new("batch");
    let bus = test.open("basics");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let values: Vec<_> = (0..20).map(Words::numbered).collect();
    assert_eq!(publisher.publish_batch(Lane::NORMAL, &values).unwrap(), 20);
    let mut batch = subscriber.receive_batch(20, 20, Duration::from_secs(1)).unwrap();
    while batch.next_message().unwrap().is_some() {}
    assert_eq!(batch.len(), 20);
    drop(batch);
    for sequence in 0..20 {
        let message = subscriber.receive().unwrap();
        assert_eq!((message.sequence(), message.is_redelivered()), (sequence, true));
        message.ack().unwrap();
    }
    assert!(subscriber.try_receive().unwrap().is_none());
}

#[test]
fn every_group_sees_every_message_and_members_of_one_share_them() {
    let test = TestBus::new("groups");
    let bus = test.open("basics");
    let topic = bus.topic_builder::<Words>("a").capacity(64).open().unwrap();
    let mut alone = topic.group("alone").join().unwrap();
    let mut first = topic.group("team").shared().join().unwrap();
    let mut second = topic.group("team").shared().join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut seen = [0_u32; 500];
    for sequence in 0..500 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
        alone.receive().unwrap().ack().unwrap();
        let member = if sequence % 3 == 0 { &mut first } else { &mut second };
        let message = member.receive().unwrap();
        seen[message.sequence() as usize] += 1;
        if sequence % 10 == 5 {
            drop(message);
            // The other member gets what was given back, marked.
            let message = first.receive().unwrap();
            assert!(message.is_redelivered() && message.attempts() == 2);
            message.ack().unwrap();
        } else {
            message.ack().unwrap();
        }
    }
    assert!(seen.iter().all(|&count| count == 1));
    assert_eq!((alone.lag_count(Lane::NORMAL), first.lag_count(Lane::NORMAL)), (0, 0));
}

#[test]
fn a_named_group_goes_on_where_it_stood() {
    let test = TestBus::new("resume");
    let bus = test.open("basics");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    for sequence in 0..10 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
    }
    for _ in 0..4 {
        subscriber.receive().unwrap().ack().unwrap();
    }
    let in_hand = subscriber.receive().unwrap();
    assert_eq!(in_hand.sequence(), 4);
    drop(in_hand);
    let busy = topic.group("g").join().unwrap_err();
    assert!(matches!(busy, bus_shm::AttachError::GroupBusy { .. }), "{busy}");
    subscriber.close();
    let mut subscriber = topic.group("g").join().unwrap();
    for sequence in 4..10 {
        let message = subscriber.receive().unwrap();
        assert_eq!((message.sequence(), message.is_redelivered()), (sequence, sequence == 4));
        message.ack().unwrap();
    }
}

#[test]
fn without_a_group_the_last_messages_stay_readable() {
    for producers in [1, 8] {
        let test = TestBus::new("retained");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Words>("a").producers(producers).capacity(64).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for sequence in 0..1_000 {
            publisher.publish(&Words::numbered(sequence)).unwrap();
        }
        drop(publisher);
        let mut late = topic.subscriber().from(Start::Oldest).join().unwrap();
        for sequence in 936..1_000 {
            let message = late.receive().unwrap();
            assert_eq!(message.sequence(), sequence);
            assert!(message.value().unwrap().is_numbered(sequence));
            message.ack().unwrap();
        }
        assert_eq!(late.missed_count(), 0);
        assert!(late.try_receive().unwrap().is_none());
        let mut tap = topic.subscriber().tap().from(Start::Sequence(Lane::NORMAL, 990)).join().unwrap();
        assert_eq!(tap.receive().unwrap().sequence(), 990);
        let error = topic.subscriber().from(Start::Sequence(Lane::NORMAL, 900)).join().unwrap_err();
        assert!(error.to_string().contains("936..1000"), "{error}");
    }
}

#[test]
fn a_tap_never_holds_and_counts_what_it_missed() {
    for producers in [1, 8] {
        let test = TestBus::new("tap");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Words>("a").producers(producers).capacity(64).open().unwrap();
        let mut tap = topic.tap().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut expected = 0;
        let mut read = 0;
        for sequence in 0..1_000 {
            publisher.publish(&Words::numbered(sequence)).unwrap();
            if sequence % 100 == 99 {
                while let Some(message) = tap.try_receive().unwrap() {
                    assert!(message.sequence() >= expected);
                    assert!(message.value().unwrap().is_numbered(message.sequence()));
                    expected = message.sequence() + 1;
                    read += 1;
                    message.ack().unwrap();
                }
            }
        }
        assert_eq!(expected, 1_000);
        assert_eq!(read + tap.missed_count(), 1_000);
        assert!(tap.missed_count() >= 360, "{}", tap.missed_count());
    }
}

#[test]
fn a_yielding_subscriber_holds_for_its_limit_and_then_misses() {
    let test = TestBus::new("yield");
    let bus = test.open("basics");
    let topic = bus.topic_builder::<Words>("a").capacity(8).open().unwrap();
    let mut subscriber = topic.subscriber().yield_after(Duration::from_millis(50)).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let begun = std::time::Instant::now();
    for sequence in 0..30 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let mut last = None;
    while let Some(message) = subscriber.try_receive().unwrap() {
        last = Some(message.sequence());
        message.ack().unwrap();
    }
    assert_eq!(last, Some(29));
    let (_, from, until) = subscriber.take_missed().unwrap();
    assert_eq!((from, subscriber.missed_count()), (0, until));
}

#[test]
fn a_loan_is_filled_in_place_and_may_be_given_up() {
    for producers in [1, 8] {
        let test = TestBus::new("loan");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Bytes>("a").producers(producers).open().unwrap();
        let mut subscriber = topic.subscriber().wait(Wait::Park).join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let lane = publisher.default_lane();
        drop(publisher.loan(lane, 500).unwrap());
        for sequence in 0..3_000_u64 {
            let mut loan = publisher.loan(lane, 1_000).unwrap();
            loan.fill(sequence as u8);
            assert_eq!(loan.publish().unwrap(), sequence);
            let message = subscriber.receive().unwrap();
            assert_eq!(message.payload(), &[sequence as u8; 1_000][..]);
            message.ack().unwrap();
        }
    }
}

#[test]
fn a_loan_that_is_forgotten_stops_nobody() {
    for producers in [1, 8] {
        let test = TestBus::new("forgotten");
        let bus = test.open("basics");
        let builder = bus.topic_builder::<Bytes>("a").producers(producers);
        let topic = builder.max_message(1_000).arena_bytes(1 << 17).open().unwrap();
        let mut subscriber = topic.subscriber().wait(Wait::Park).join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        publisher.set_deadline(Duration::from_millis(100));
        let lane = publisher.default_lane();
        for sequence in 0..1_000_u64 {
            if sequence % 300 == 10 {
                std::mem::forget(publisher.loan(lane, 500).unwrap());
            }
            let text = [sequence as u8; 1_000];
            assert_eq!(publisher.publish(&text).unwrap(), sequence, "{producers} producers");
            let message = subscriber.receive().unwrap();
            assert_eq!(message.payload(), &text);
            message.ack().unwrap();
        }
    }
}

#[test]
fn a_copying_subscriber_reads_what_was_published() {
    for producers in [1, 8] {
        let test = TestBus::new("copied");
        let bus = test.open("basics");
        let topic = bus.topic_builder::<Text>("a").producers(producers).open().unwrap();
        let mut subscriber = topic.subscriber().copied().join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for id in 0..200 {
            let len = if id % 2 == 0 { 20 } else { 3_000 };
            publisher.publish(&Text { id, text: "y".repeat(len) }).unwrap();
            let message = subscriber.receive().unwrap();
            assert!(!message.is_redelivered());
            let value = message.value().unwrap();
            assert_eq!((value.id.to_native(), value.text.len()), (id, len));
            message.ack().unwrap();
        }
    }
}

#[test]
fn a_publisher_that_closes_waits_for_its_groups() {
    let test = TestBus::new("close");
    let bus = test.open("basics");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    assert!(!publisher.flush(Duration::from_millis(30)), "the group has not read it");
    let reader = std::thread::spawn(move || {
        subscriber.receive().unwrap().ack().unwrap();
        subscriber
    });
    assert!(publisher.close(Duration::from_secs(10)));
    reader.join().unwrap().close();
}

#[test]
fn a_batch_can_wait_for_more_while_it_holds_some() {
    let test = TestBus::new("more");
    let bus = test.open("basics");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    let mut batch = subscriber.receive_batch(1, 10, Duration::from_secs(1)).unwrap();
    assert_eq!(batch.next_message().unwrap().unwrap().sequence(), 0);
    assert!(batch.next_message_timeout(Duration::from_millis(10)).unwrap().is_none());
    publisher.publish(&Words::numbered(1)).unwrap();
    let second = batch.next_message_timeout(Duration::from_secs(10)).unwrap().unwrap();
    assert!(second.value().unwrap().is_numbered(1));
    publisher.publish(&Words::numbered(2)).unwrap();
    let third = batch.next_message_timeout(Duration::ZERO).unwrap().expect("no time to wait is time to look");
    assert!(third.value().unwrap().is_numbered(2));
    assert_eq!(batch.ack(), 3);
    assert!(bus.now_ns() > 0);
}

#[test]
fn more_short_lived_publishers_than_places_leave_their_messages_behind() {
    let test = TestBus::new("short-lived");
    let bus = test.open("basics");
    let topic = bus.topic_builder::<Words>("a").producers(4).capacity(256).with_group("g").open().unwrap();
    let publish = |number| topic.publisher().unwrap().publish(&Words::numbered(number)).unwrap();
    for number in 0..150 {
        assert_eq!(publish(number), number);
    }
    let mut subscriber = topic.group("g").join().unwrap();
    for number in 0..150 {
        let message = subscriber.receive().unwrap();
        assert!(message.value().unwrap().is_numbered(number));
        message.ack().unwrap();
    }
    // What is read and has left the ring goes, whoever published it.
    for number in 150..1_000 {
        publish(number);
        subscriber.receive().unwrap().ack().unwrap();
    }
    let left = std::fs::read_dir(test.path().join("topics/a"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("arena-"))
        .count();
    assert!(left <= 260, "{left} arenas for at most 256 messages in the ring");
}
