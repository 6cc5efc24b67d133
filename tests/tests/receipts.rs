//! Receipts: what a publisher is told of its messages, whatever becomes of them and of whoever has them in hand.

use bus_core::holder::HolderWord;
use bus_core::layout::groups;
use bus_shm::dead_letters::{self, Filter};
use bus_shm::{
    Bytes, Expired, Lane, Meta, Outcome, ReceiptError, Receipts, ReceiveError, Stall, StallPolicy, Start,
    Subscriber, SubscriberBuilder, Topic,
};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tests::cli::CliBus;
use tests::harness::{self, Agent, Role, TestBus, Text, Words, assert_clean};
use tests::memory::{mount_tmpfs, take_memory};

const PATIENCE: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::ZERO;
const GROUPS: [&str; 2] = ["one", "many"];

fn builder(topic: &Topic<Bytes>, group: &str) -> SubscriberBuilder<Bytes> {
    let delay = Duration::from_millis(1);
    let builder = topic.group(group).handler("handle").retry_delays(delay, delay);
    if group == "many" { builder.shared() } else { builder }
}

fn publish(topic: &Topic<Bytes>, payload: &[u8]) -> u64 {
    topic.publisher().unwrap().publish(payload).unwrap()
}

fn settled_within(receipts: &Receipts, sequence: u64, timeout: Duration) -> Outcome {
    receipts.receipt(Lane::NORMAL, sequence).wait(timeout).unwrap()
}

fn settled(receipts: &Receipts, sequence: u64) -> Outcome {
    receipts.receipt(Lane::NORMAL, sequence).wait(PATIENCE).unwrap()
}

fn look(receipts: &Receipts, sequence: u64) -> Outcome {
    receipts.look(Lane::NORMAL, sequence)
}

/// The next message, which must come.
fn next(subscriber: &mut Subscriber<Bytes>) -> bus_shm::Received<'_, Bytes> {
    subscriber.receive_timeout(PATIENCE).unwrap().expect("a message")
}

#[test]
fn each_end_of_a_message_is_told_in_both_kinds_of_group() {
    let test = TestBus::new("receipt-ends");
    let bus = test.open("tester");
    for group in GROUPS {
        let topic = bus.topic::<Bytes>(group).unwrap();
        let mut subscriber =
            builder(&topic, group).filter_bytes(|bytes| bytes != b"not this").join().unwrap();
        let receipts = topic.receipts(group).unwrap();
        // Not published yet, published, in hand, handled.
        assert_eq!(look(&receipts, 0), Outcome::Pending);
        let handled = publish(&topic, b"a");
        assert_eq!(look(&receipts, handled), Outcome::Pending);
        let message = next(&mut subscriber);
        assert_eq!(receipts.receipt(Lane::NORMAL, handled).wait(AT_ONCE).unwrap(), Outcome::Pending);
        message.ack().unwrap();
        assert_eq!(look(&receipts, handled), Outcome::Handled);
        // Put aside it is finished for the ring, and not handled.
        let retried = publish(&topic, b"b");
        next(&mut subscriber).retry_after(Duration::from_millis(50), "not now").unwrap();
        let Outcome::Retrying(failed) = look(&receipts, retried) else {
            panic!("{:?}", look(&receipts, retried))
        };
        assert_eq!(
            (failed.error.as_str(), failed.attempts, failed.handler.as_str()),
            ("not now", 1, "handle")
        );
        assert_eq!(failed.service, "tester");
        let message = next(&mut subscriber);
        assert!(matches!(look(&receipts, retried), Outcome::Retrying(_)));
        message.ack().unwrap();
        assert_eq!(look(&receipts, retried), Outcome::Handled);
        // Left out, by the filter and because nobody wants it any more.
        let skipped = publish(&topic, b"not this");
        let mut publisher = topic.publisher().unwrap();
        let short = Meta::new().ttl(Duration::from_nanos(1));
        let expired = publisher.publish_bytes_with(Lane::NORMAL, b"c", &short).unwrap();
        assert!(subscriber.try_receive().unwrap().is_none());
        assert_eq!(
            (look(&receipts, skipped), look(&receipts, expired)),
            (Outcome::Skipped, Outcome::Expired)
        );
        // A dead letter, and then that it was one.
        let mut letters = Vec::new();
        for error in ["rejected", "to be replayed"] {
            let dead = publish(&topic, b"d");
            next(&mut subscriber).reject(error).unwrap();
            let Outcome::DeadLettered(Some(failed)) = look(&receipts, dead) else {
                panic!("{:?}", look(&receipts, dead))
            };
            assert_eq!((failed.error.as_str(), failed.attempts), (error, 1));
            letters.push((dead, failed.letter.expect("a letter's name")));
        }
        assert_eq!(dead_letters::purge(&bus, &Filter::id(letters[0].1)).unwrap(), 1);
        assert_eq!(dead_letters::replay(&bus, &Filter::id(letters[1].1), None).unwrap(), 1);
        for (dead, _) in &letters {
            assert_eq!(look(&receipts, *dead), Outcome::DeadLettered(None));
        }
        next(&mut subscriber).ack().unwrap();
        // It is still known of all of them.
        assert_eq!(look(&receipts, skipped), Outcome::Skipped);
        assert_eq!(look(&receipts, handled), Outcome::Handled);
    }
    assert_clean(&test);
}

#[test]
fn what_is_left_out_of_a_batch_or_of_the_store_is_told_too() {
    let test = TestBus::new("receipt-batch");
    let bus = test.open("tester");
    for group in GROUPS {
        let topic = bus.topic::<Bytes>(group).unwrap();
        let filter = |bytes: &[u8]| bytes[0] != b'-';
        let mut subscriber = builder(&topic, group).filter_bytes(filter).join().unwrap();
        let receipts = topic.receipts(group).unwrap();
        let sequences: Vec<u64> = ["a", "-", "b"].map(|text| publish(&topic, text.as_bytes())).into();
        let mut batch = subscriber.receive_batch(1, 3, PATIENCE).unwrap();
        while batch.next_message().unwrap().is_some() {}
        assert_eq!(look(&receipts, sequences[0]), Outcome::Pending);
        // Dropped, everything comes again, and what was written down does not count.
        drop(batch);
        // In a group of one, one by one: each may have been the cause.
        while settled_within(&receipts, sequences[2], AT_ONCE) == Outcome::Pending {
            let mut batch = subscriber.receive_batch(1, 3, PATIENCE).unwrap();
            while batch.next_message().unwrap().is_some() {}
            batch.ack();
        }
        drop(subscriber);
        let told: Vec<_> = sequences.iter().map(|&sequence| look(&receipts, sequence)).collect();
        assert_eq!(told, [Outcome::Handled, Outcome::Skipped, Outcome::Handled], "{group}");
        // It failed once, and its time is over before it comes again.
        let mut subscriber = builder(&topic, group).join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let short = Meta::new().ttl(Duration::from_secs(1));
        let expired = publisher.publish_bytes_with(Lane::NORMAL, b"c", &short).unwrap();
        next(&mut subscriber).retry_after(Duration::from_millis(1_100), "later").unwrap();
        assert!(matches!(look(&receipts, expired), Outcome::Retrying(_)));
        assert!(subscriber.receive_timeout(Duration::from_secs(2)).unwrap().is_none());
        assert_eq!(look(&receipts, expired), Outcome::Expired, "{group}");
        drop(subscriber);
        // The same as a dead letter.
        let mut subscriber = builder(&topic, group).expired(Expired::DeadLetter).join().unwrap();
        let short = Meta::new().ttl(Duration::from_nanos(1));
        let expired = publisher.publish_bytes_with(Lane::NORMAL, b"c", &short).unwrap();
        assert!(subscriber.try_receive().unwrap().is_none());
        assert!(matches!(look(&receipts, expired), Outcome::DeadLettered(Some(_))));
    }
    assert_clean(&test);
}

#[test]
fn what_a_member_was_about_to_leave_out_counts_for_nothing_when_its_successor_handles_it() {
    let test = TestBus::new("receipt-successor");
    let bus = test.open("tester");
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut picky = builder(&topic, "one").filter_bytes(|bytes| bytes[0] != b'-').join().unwrap();
    let receipts = topic.receipts("one").unwrap();
    let sequences: Vec<u64> = ["a", "-", "b"].map(|text| publish(&topic, text.as_bytes())).into();
    let mut batch = picky.receive_batch(1, 3, PATIENCE).unwrap();
    while batch.next_message().unwrap().is_some() {}
    // It has written down that it leaves the second out, and goes before that is settled.
    drop(batch);
    drop(picky);
    let mut successor = builder(&topic, "one").join().unwrap();
    for &sequence in &sequences {
        assert_eq!(look(&receipts, sequence), Outcome::Pending);
        next(&mut successor).ack().unwrap();
        assert_eq!(look(&receipts, sequence), Outcome::Handled, "message {sequence}");
    }
}

#[test]
fn a_message_of_another_type_is_skipped() {
    let test = TestBus::new("receipt-type");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").accepts::<Text>().open().unwrap();
    let texts = bus.topic::<Text>("t").unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let sequence = texts.publisher().unwrap().publish(&Text { id: 1, text: "x".into() }).unwrap();
    assert!(subscriber.try_receive().unwrap().is_none());
    assert_eq!(look(&topic.receipts("g").unwrap(), sequence), Outcome::Skipped);
}

#[test]
fn what_is_no_longer_known_is_never_handled() {
    let test = TestBus::new("receipt-unknown");
    let bus = test.open("tester");
    for group in GROUPS {
        let topic = bus.topic_builder::<Bytes>(group).capacity(8).open().unwrap();
        let mut subscriber = builder(&topic, group).filter_bytes(|bytes| bytes == b"yes").join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for number in 0..200_u64 {
            let sequence = publisher.publish(if number % 10 == 3 { b"yes" } else { b"no" }).unwrap();
            assert_eq!(sequence, number);
            while let Some(message) = subscriber.try_receive().unwrap() {
                message.ack().unwrap();
            }
        }
        let receipts = topic.receipts(group).unwrap();
        let mut counts = [0; 3];
        for number in 0..200 {
            match (look(&receipts, number), number % 10 == 3) {
                (Outcome::Handled, true) => counts[0] += 1,
                (Outcome::Skipped, false) => counts[1] += 1,
                (Outcome::Unknown, _) => counts[2] += 1,
                other => panic!("message {number}: {other:?}"),
            }
        }
        assert!(counts.iter().all(|&count| count > 0), "{group}: {counts:?}");
    }
}

#[test]
fn a_group_that_was_let_go_says_what_it_missed() {
    let test = TestBus::new("receipt-missed");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").capacity(8).lanes(1).open().unwrap();
    let stall = Stall { after: Some(Duration::from_millis(20)), lag: None, policy: StallPolicy::LetGo };
    let mut subscriber = topic.group("g").stall(stall).join().unwrap();
    let receipts = topic.receipts("g").unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(b"first").unwrap();
    next(&mut subscriber).ack().unwrap();
    for _ in 0..40 {
        publisher.publish(b"more").unwrap();
    }
    let lane = Lane(0);
    assert_eq!(receipts.look(lane, 0), Outcome::Handled);
    assert_eq!(receipts.look(lane, 3), Outcome::LetGo);
    let (mut handled, mut missed) = (Vec::new(), Vec::new());
    loop {
        match subscriber.receive_timeout(Duration::from_millis(200)).unwrap() {
            Some(message) => {
                handled.push(message.sequence());
                message.ack().unwrap();
            }
            None => break,
        }
        if let Some((_, from, until)) = subscriber.take_missed() {
            missed.extend(from..until);
        }
    }
    assert!(!missed.is_empty() && !handled.is_empty());
    for sequence in missed {
        assert_eq!(receipts.look(lane, sequence), Outcome::Missed, "message {sequence}");
    }
    for sequence in handled {
        // It was read when nothing kept it: nobody can say more.
        assert!(matches!(receipts.look(lane, sequence), Outcome::Unknown | Outcome::Handled));
    }
    let last = publisher.publish(b"again").unwrap();
    next(&mut subscriber).ack().unwrap();
    assert_eq!(receipts.look(lane, last), Outcome::Handled);
    assert_clean(&test);
}

#[test]
fn errors_say_what_is_wrong() {
    let test = TestBus::new("receipt-errors");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").with_group("g").open().unwrap();
    let error = topic.receipts("h").unwrap_err();
    assert_eq!(error.to_string(), "topic \"t\" has no group \"h\"; it has g");
    let receipts = topic.receipts("g").unwrap().give_up_when_unattended(true);
    let sequence = publish(&topic, b"a");
    let begun = Instant::now();
    let error = receipts.receipt(Lane::NORMAL, sequence).wait(PATIENCE).unwrap_err();
    assert!(matches!(error, ReceiptError::Unattended { .. }) && begun.elapsed() < PATIENCE / 2, "{error}");
    let error = receipts.receipt(Lane(9), sequence).wait(PATIENCE).unwrap_err();
    assert!(matches!(error, ReceiptError::Lane { lane: 9, lanes: 3, .. }), "{error}");
    let newest = bus.topic_builder::<Bytes>("n").overflow(bus_shm::Overflow::KeepNewest).open().unwrap();
    assert!(matches!(newest.receipts("g"), Err(ReceiptError::KeepsNewest { .. })));
    let patient = topic.receipts("g").unwrap();
    let waiter = std::thread::spawn(move || patient.receipt(Lane::NORMAL, sequence).wait(PATIENCE));
    std::thread::sleep(Duration::from_millis(20));
    bus.down(true).unwrap();
    assert!(matches!(waiter.join().unwrap(), Err(ReceiptError::BusClosed { .. })));
}

#[test]
fn several_groups_and_several_messages_at_once() {
    let test = TestBus::new("receipt-many");
    let bus = test.open("tester");
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut subscribers: Vec<_> = ["a", "b"].map(|name| topic.group(name).join().unwrap()).into();
    let mut other = topic.subscribe().unwrap();
    let set = topic.receipts_of(&["a", "b"]).unwrap();
    let all = topic.receipts_of_all().unwrap();
    assert_eq!((set.groups().len(), all.groups().len()), (2, 3));
    let sequences: Vec<u64> = (0..50).map(|_| publish(&topic, b"x")).collect();
    let last = *sequences.last().unwrap();
    assert!(!set.groups()[0].wait_past(Lane::NORMAL, last, AT_ONCE).unwrap());
    let waiter = {
        let receipts = topic.receipts("a").unwrap();
        std::thread::spawn(move || receipts.wait_past(Lane::NORMAL, last, PATIENCE).unwrap())
    };
    for subscriber in subscribers.iter_mut().chain([&mut other]) {
        for _ in &sequences {
            next(subscriber).ack().unwrap();
        }
    }
    assert!(waiter.join().unwrap());
    let told = set.wait(Lane::NORMAL, last, PATIENCE).unwrap();
    assert_eq!(told, [("a", Outcome::Handled), ("b", Outcome::Handled)]);
    assert!(all.look(Lane::NORMAL, last).iter().all(|(_, outcome)| *outcome == Outcome::Handled));
    drop(other);
    assert_eq!(all.groups()[2].look(Lane::NORMAL, last), Outcome::LetGo, "a group without a name goes");
}

#[test]
fn a_batch_is_not_past_while_its_group_has_a_backlog_before_its_cursor() {
    let test = TestBus::new("receipt-backlog");
    let bus = test.open("tester");
    let topic = bus.topic::<Bytes>("t").unwrap();
    (0..9).for_each(|_| _ = publish(&topic, b"x"));
    let last = publish(&topic, b"x");
    // It begins where the lane ends, and reads what there is like any late joiner.
    let mut subscriber = topic.group("g").from(Start::Oldest).join().unwrap();
    let receipts = topic.receipts("g").unwrap();
    for _ in 0..=last {
        assert!(!receipts.wait_past(Lane::NORMAL, last, AT_ONCE).unwrap());
        next(&mut subscriber).ack().unwrap();
    }
    assert!(receipts.wait_past(Lane::NORMAL, last, PATIENCE).unwrap());
}

/// Stores a word in a file of topic `t`, as somebody else might have.
fn store(test: &TestBus, file: &str, offset: usize, word: u64) {
    let path = test.path().join("topics/t").join(file);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&word.to_le_bytes(), offset as u64).unwrap();
}

#[test]
fn a_letter_that_goes_after_the_clock_was_set_back_is_not_taken_for_handled() {
    let test = TestBus::new("receipt-clock");
    let bus = test.open("tester");
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let set = topic.receipts_of_all().unwrap();
    let receipts = &set.groups()[0];
    let (dead, handled) = (publish(&topic, b"a"), publish(&topic, b"b"));
    next(&mut subscriber).reject("no").unwrap();
    next(&mut subscriber).ack().unwrap();
    assert!(matches!(look(receipts, dead), Outcome::DeadLettered(Some(_))));
    // The group has joined later than its letter was made, by a clock that has gone back since.
    store(&test, "groups", groups::entry(0) + groups::in_entry::SINCE_NS, u64::MAX / 2);
    assert_eq!(look(receipts, dead), Outcome::Unknown);
    assert_eq!(dead_letters::purge(&bus, &Filter::default()).unwrap(), 1);
    // Nobody can tell whose letter it was, not even when its place has been given to others.
    for _ in 0..300 {
        let another = publish(&topic, b"c");
        next(&mut subscriber).reject("no").unwrap();
        assert_eq!(dead_letters::purge(&bus, &Filter::default()).unwrap(), 1);
        assert_eq!(look(receipts, another), Outcome::Unknown);
    }
    assert_eq!(look(receipts, dead), Outcome::Unknown);
    assert_eq!(look(receipts, handled), Outcome::Handled);
    assert_clean(&test);
}

#[test]
fn where_a_group_stood_is_what_counts_when_its_member_ended_while_it_came_back() {
    let test = TestBus::new("receipt-astray");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").lanes(1).open().unwrap();
    let mut subscriber = topic.group("g").filter_bytes(|bytes| bytes != b"no").join().unwrap();
    let receipts = topic.receipts("g").unwrap();
    for payload in [&b"yes"[..], b"no", b"yes", b"yes"] {
        publish(&topic, payload);
    }
    next(&mut subscriber).ack().unwrap();
    next(&mut subscriber).ack().unwrap();
    drop(subscriber);
    let told = || [0, 1, 2, 3].map(|sequence| receipts.look(Lane(0), sequence));
    assert_eq!(told(), [Outcome::Handled, Outcome::Skipped, Outcome::Handled, Outcome::Pending]);
    // Let go, taken by one that saved where it stood, put a cursor in place, and died.
    let (entry, lane) = (groups::entry(0), groups::lane(0, 0));
    store(&test, "groups", lane + groups::in_lane::STOOD, 3);
    store(&test, "groups", lane + groups::in_lane::LOW_WATER, 4);
    store(&test, "groups", lane + groups::in_lane::START, 4);
    let word = HolderWord { state: groups::state::ASTRAY, ..HolderWord::unpack(0) };
    store(&test, "groups", entry + groups::in_entry::STATE, word.pack());
    assert_eq!(told(), [Outcome::Unknown, Outcome::Skipped, Outcome::Unknown, Outcome::LetGo]);
    // Whoever joins next goes on there.
    let mut subscriber = topic.group("g").join().unwrap();
    let message = next(&mut subscriber);
    assert_eq!(message.sequence(), 3);
    message.ack().unwrap();
}

#[test]
fn what_a_shared_group_finished_out_of_its_turn_is_not_told_as_missed() {
    let test = TestBus::new("receipt-turn");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").capacity(8).lanes(1).open().unwrap();
    let group = || builder(&topic, "many").hold_for(Duration::from_secs(1));
    let mut members = [group().join().unwrap(), group().join().unwrap()];
    let mut publisher = topic.publisher().unwrap();
    publisher.set_deadline(PATIENCE);
    for _ in 0..8 {
        publisher.publish(b"x").unwrap();
    }
    let receipts = topic.receipts("many").unwrap();
    let [slow, quick] = &mut members;
    let in_hand = next(slow);
    assert_eq!(in_hand.sequence(), 0);
    let message = next(quick);
    assert_eq!(message.sequence(), 1);
    message.ack().unwrap();
    assert_eq!(receipts.look(Lane(0), 1), Outcome::Handled);
    drop(in_hand);
    // Both leave; a publisher that finds no room has the group let go, and goes on for more than a round.
    drop(members);
    for _ in 0..16 {
        publisher.publish(b"y").unwrap();
    }
    // It comes back at the end, and its words are in use for what comes then.
    let mut member = group().join().unwrap();
    while member.try_receive().unwrap().map(|message| message.ack().unwrap()).is_some() {}
    for _ in 0..8 {
        publisher.publish(b"z").unwrap();
        next(&mut member).ack().unwrap();
    }
    // The first was missed and the second handled; with their words gone nobody can say so.
    for sequence in [0, 1] {
        let told = receipts.look(Lane(0), sequence);
        assert_eq!(told, Outcome::Unknown, "message {sequence}");
    }
    assert_clean(&test);
}

#[test]
fn each_of_several_waiters_is_told_that_the_files_are_gone() {
    let test = TestBus::new("receipt-unlinked");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").with_group("g").open().unwrap();
    let sequence = publish(&topic, b"a");
    let receipts = [(); 2].map(|()| topic.receipts("g").unwrap());
    let mut subscribers = [(); 2].map(|()| topic.tap().unwrap());
    std::fs::remove_dir_all(test.path()).unwrap();
    for receipts in &receipts {
        let told = receipts.receipt(Lane::NORMAL, sequence).wait(PATIENCE);
        assert!(matches!(told, Err(ReceiptError::BusUnlinked { .. })), "{told:?}");
        let told = receipts.receipt(Lane::NORMAL, sequence).wait(Duration::from_millis(1)).unwrap();
        assert_eq!(told, Outcome::Pending, "it is said once");
    }
    for subscriber in &mut subscribers {
        let told = subscriber.receive_timeout(PATIENCE).map(|_| ());
        assert!(matches!(told, Err(ReceiveError::BusUnlinked { .. })), "{told:?}");
        assert!(subscriber.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
    }
}

// ------------------------------------------------------------------ processes and kills

/// Holds the next message until it is told what to do with it.
fn consume(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut subscriber = builder(&topic, &role.argument).join().unwrap();
    role.parent.tell("ready");
    loop {
        let message = next(&mut subscriber);
        role.parent.tell(message.sequence());
        match role.parent.try_hear().as_deref() {
            Some("ack") => message.ack().unwrap(),
            Some("reject") => message.reject("because").unwrap(),
            _ => return,
        }
        role.parent.tell("done");
    }
}

#[test]
fn a_consumer_killed_before_and_after_it_acknowledges() {
    if let Some(role) = harness::role() {
        return consume(role);
    }
    for group in GROUPS {
        let test = TestBus::new("receipt-kill");
        let bus = test.open("tester");
        let topic = bus.topic::<Bytes>("t").unwrap();
        let spawn = || {
            let mut agent = Agent::spawn(
                "a_consumer_killed_before_and_after_it_acknowledges",
                "consumer",
                &test.name,
                group,
            );
            agent.line.expect("ready");
            agent
        };
        let mut agent = spawn();
        let receipts = topic.receipts(group).unwrap();
        let sequence = publish(&topic, b"a");
        assert_eq!(agent.line.hear_number(), sequence);
        agent.kill();
        assert_eq!(look(&receipts, sequence), Outcome::Pending);
        let gives_up = topic.receipts(group).unwrap().give_up_when_unattended(true);
        let told = gives_up.receipt(Lane::NORMAL, sequence).wait(PATIENCE);
        assert!(matches!(told, Err(ReceiptError::Unattended { .. })), "{told:?}");
        let mut agent = spawn();
        assert_eq!(agent.line.hear_number(), sequence);
        agent.line.tell("ack");
        agent.line.expect("done");
        agent.kill();
        assert_eq!(settled(&receipts, sequence), Outcome::Handled);
        assert_eq!(settled(&gives_up, sequence), Outcome::Handled);
        let mut agent = spawn();
        let rejected = publish(&topic, b"b");
        assert_eq!(agent.line.hear_number(), rejected);
        agent.line.tell("reject");
        let told = settled(&receipts, rejected);
        assert!(
            matches!(&told, Outcome::DeadLettered(Some(failed)) if failed.error == "because"),
            "{told:?}"
        );
        agent.line.expect("done");
        agent.kill();
        assert_clean(&test);
    }
}

/// Waits for a receipt, and says so.
fn wait(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Bytes>("t").unwrap();
    let receipts = topic.receipts("one").unwrap();
    role.parent.tell("ready");
    while let Some(sequence) = role.parent.try_hear() {
        let outcome = settled(&receipts, sequence.parse().unwrap());
        role.parent.tell(outcome.name());
    }
}

#[test]
fn a_parked_waiter_is_woken_and_a_dead_one_harms_nobody() {
    if let Some(role) = harness::role() {
        return wait(role);
    }
    let test = TestBus::new("receipt-park");
    let bus = test.open("tester");
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut subscriber = builder(&topic, "one").join().unwrap();
    let spawn = || {
        let name = "a_parked_waiter_is_woken_and_a_dead_one_harms_nobody";
        let mut agent = Agent::spawn(name, "waiter", &test.name, 0);
        agent.line.expect("ready");
        agent
    };
    let (mut waiter, mut doomed) = (spawn(), spawn());
    let (mut quick, mut took) = (0, Vec::new());
    while quick < 10 {
        let sequence = publish(&topic, b"a");
        waiter.line.tell(sequence);
        waiter.wait_until_parked();
        if took.len() == 5 {
            doomed.line.tell(sequence);
            doomed.wait_until_parked();
            doomed.kill();
        }
        let message = next(&mut subscriber);
        let begun = Instant::now();
        message.ack().unwrap();
        waiter.line.expect("handled");
        took.push(begun.elapsed());
        // Without the bell it would look for itself 50 ms after it has parked, just before. A busy machine makes some rounds as slow as
        // that, and not all of them.
        quick += usize::from(took[took.len() - 1] < Duration::from_millis(15));
        assert!(took.len() < 200, "{quick} of {} were quick: {took:?}", took.len());
    }
    assert!(took.iter().all(|took| *took < Duration::from_secs(2)), "{took:?}");
    drop(subscriber);
    assert_clean(&test);
}

/// What becomes of a message follows from its number, whoever has it.
fn fate(number: u64) -> &'static str {
    ["handled", "skipped", "dead-lettered", "handled", "skipped"][(number % 5) as usize]
}

/// A member that gives each message its fate, until it is killed.
fn work(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Bytes>("t").unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let mut subscriber = builder(&topic, &role.argument)
        .attempts(250)
        .filter_bytes(move |bytes| {
            let number = number(bytes);
            number % 5 != 1 && (number % 5 != 4 || bytes[8] != 1)
        })
        .join()
        .unwrap();
    role.parent.tell("ready");
    loop {
        let message = subscriber.receive().unwrap();
        let number = number(message.payload());
        let done = match number % 5 {
            2 => message.reject("its fate"),
            3 if message.attempts() == 1 => message.retry("once more"),
            _ => message.ack().map_err(Into::into),
        };
        assert!(done.is_ok(), "{done:?}");
    }
}

#[test]
fn what_is_told_is_true_whoever_is_killed() {
    if let Some(role) = harness::role() {
        return work(role);
    }
    const COUNT: u64 = 1_500;
    for group in GROUPS {
        let test = TestBus::new("receipt-truth");
        let bus = test.open("tester");
        let topic = bus.topic_builder::<Bytes>("t").capacity(2_048).open().unwrap();
        // Nothing is published before there is a group.
        drop(builder(&topic, group).attempts(250).join().unwrap());
        let spawn = || Agent::spawn("what_is_told_is_true_whoever_is_killed", "worker", &test.name, group);
        let mut agents: Vec<Agent> = (0..if group == "many" { 3 } else { 1 }).map(|_| spawn()).collect();
        let receipts = topic.receipts(group).unwrap();
        let mut publisher = topic.publisher().unwrap();
        for agent in &mut agents {
            agent.line.expect("ready");
        }
        for number in 0..COUNT {
            let mut payload = number.to_le_bytes().to_vec();
            payload.push(1);
            assert_eq!(publisher.publish(&payload).unwrap(), number);
            if number % 150 == 149 {
                // In the middle of it, at whatever message it is.
                let index = (number as usize / 150) % agents.len();
                agents[index].kill();
                agents[index] = spawn();
                agents[index].line.expect("ready");
            }
            // Asked all the time, whatever is going on, and what is final stays.
            let earlier = number / 2;
            let outcome = look(&receipts, earlier);
            assert!(
                !outcome.is_settled() || outcome.name() == fate(earlier),
                "message {earlier}: {outcome:?}"
            );
        }
        for number in 0..COUNT {
            let outcome = settled(&receipts, number);
            assert_eq!(outcome.name(), fate(number), "{group}, message {number}: {outcome:?}");
        }
        drop(agents);
        assert_clean(&test);
    }
}

/// In 16 MiB of shared memory: what cannot be recorded is not settled, or not known afterwards, and never handled.
fn no_memory(mut role: Role) {
    let dir = std::path::PathBuf::from(&role.argument);
    if !mount_tmpfs(&dir, "size=16m", 0) {
        role.parent.tell("skipped");
        return;
    }
    let bus = bus_shm::Bus::builder("b").dir(&dir).open().unwrap();
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut subscriber = topic.group("g").filter_bytes(|bytes| bytes == b"yes").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for payload in [b"yes", b"no "] {
        publisher.publish(payload).unwrap();
    }
    next(&mut subscriber).ack().unwrap();
    // Not even a page: the message stays the next one.
    let ballast = take_memory(&dir, 0);
    for _ in 0..3 {
        let error = subscriber.try_receive().unwrap_err();
        assert!(error.to_string().contains("--shm-size"), "{error}");
    }
    assert!(matches!(topic.receipts("g"), Err(ReceiptError::Region(_))));
    std::fs::remove_file(ballast).unwrap();
    // A page, and no records: what became of it is not known.
    let ballast = take_memory(&dir, 4_096);
    assert!(subscriber.try_receive().unwrap().is_none());
    let receipts = topic.receipts("g").unwrap();
    assert_eq!((look(&receipts, 0), look(&receipts, 1)), (Outcome::Unknown, Outcome::Unknown));
    std::fs::remove_file(ballast).unwrap();
    // And known again of what comes then.
    for payload in [b"yes", b"no "] {
        publisher.publish(payload).unwrap();
    }
    next(&mut subscriber).ack().unwrap();
    assert!(subscriber.try_receive().unwrap().is_none());
    assert_eq!((look(&receipts, 1), look(&receipts, 2)), (Outcome::Unknown, Outcome::Handled));
    assert_eq!(look(&receipts, 3), Outcome::Skipped);
    role.parent.tell("done");
}

#[test]
fn without_memory_for_records_nothing_is_said_that_is_not_known() {
    if let Some(role) = harness::role() {
        return no_memory(role);
    }
    let dir = std::path::Path::new("/dev/shm").join(format!("test-receipt-memory-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let name = "without_memory_for_records_nothing_is_said_that_is_not_known";
    let mut agent = Agent::spawn(name, "tenant", "none", dir.display());
    let heard = agent.line.try_hear();
    agent.wait();
    std::fs::remove_dir(&dir).unwrap();
    match heard.as_deref() {
        Some("done") => {}
        Some("skipped") => println!("skipped: no memory of one's own may be mounted here"),
        other => panic!("{other:?}"),
    }
}

// ------------------------------------------------------------------ the command

#[test]
fn the_command_waits_and_its_code_tells_what_became_of_the_message() {
    let cli = CliBus::new("receipt-cli");
    let bus = cli.bus.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").with_group("idle").open().unwrap();
    let mut subscriber = builder(&topic, "one").filter_bytes(|bytes| bytes != b"left out").join().unwrap();
    let consumer = std::thread::spawn(move || {
        loop {
            let message = next(&mut subscriber);
            match message.payload() {
                b"end" => return message.ack().unwrap(),
                b"bad" => message.reject("no such customer").unwrap(),
                b"slow" => message.retry_after(Duration::from_secs(60), "come back later").unwrap(),
                _ => message.ack().unwrap(),
            }
        }
    });
    let pub_ = |payload: &str, more: &[&str]| {
        let mut arguments = vec!["pub", "t", payload, "--wait-for", "one"];
        arguments.extend(more);
        cli.run(&arguments)
    };
    pub_("good", &[]).expect(0).says("handled by one");
    let told = pub_("good", &["--json"]).expect(0).json();
    assert_eq!(
        (&told["outcomes"][0]["outcome"], &told["outcomes"][0]["group"]),
        (&"handled".into(), &"one".into())
    );
    let ran =
        pub_("bad", &["--json"]).expect(7).says("no such customer").says("handler handle").says("dlq show");
    let told = ran.json();
    let letter = told["outcomes"][0]["letter"].as_str().expect("a letter").to_owned();
    assert_eq!(told["outcomes"][0]["attempts"], 1);
    cli.run(&["dlq", "show", &letter]).expect(0);
    pub_("old", &["--ttl", "1us"]).expect(8).says("time to live");
    pub_("left out", &[]).expect(9).says("passed it over");
    pub_("slow", &["--timeout", "200ms"]).expect(4).says("come back later");
    pub_("good", &["--wait-for", "idle", "--timeout", "100ms"]).expect(4).says("nobody reads for the group");
    let ran = pub_("good", &["--wait-for", "nobody"]).expect(3).says("no group \"nobody\"; it has idle, one");
    assert!(ran.out.is_empty());
    // Of several groups the one in which it is lost is told, whichever comes first.
    let mut picky = topic.group("picky").filter_bytes(|_| false).join().unwrap();
    let reading =
        std::thread::spawn(move || while picky.receive_timeout(PATIENCE / 2).is_ok_and(|it| it.is_some()) {});
    for groups in [["one", "picky"], ["picky", "one"]] {
        let [first, second] = groups;
        let arguments = ["pub", "t", "bad", "--wait-for", first, "--wait-for", second];
        cli.run(&arguments).expect(7).says("no such customer");
    }
    pub_("end", &[]).expect(0);
    reading.join().unwrap();
    consumer.join().unwrap();
    assert_clean(&cli.bus);
}
