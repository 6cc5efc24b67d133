//! Dead letters: looked at, published again, removed; by programs and from the command line.

use bus_core::header::flags;
use bus_core::layout::ring;
use bus_shm::dead_letters::{self, DeadLetter, Filter, ReplayRefused};
use bus_shm::inspect::BusView;
use bus_shm::{Bus, Bytes, Lane, PublishError, Subscriber, Topic, TypeIdentity};
use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::cli::{CliBus, InTerminal};
use tests::harness::{self, Agent, TestBus, Text, Words, assert_clean, eventually};

const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(50);
/// Bytes of a message that lies behind the table of its store.
const LARGE: usize = 5_000;

fn view(test: &TestBus) -> BusView {
    BusView::open(&test.name, None).unwrap()
}

fn all(test: &TestBus) -> Vec<DeadLetter> {
    dead_letters::list(&view(test), &Filter::default()).unwrap()
}

fn join(topic: &Topic<Bytes>, group: &str) -> Subscriber<Bytes> {
    let builder = topic.group(group).handler("handle");
    if group == "many" { builder.shared() } else { builder }.join().unwrap()
}

/// A payload that depends on its number, every other one large.
fn payload(number: u32) -> Vec<u8> {
    let len = if number.is_multiple_of(2) { 12 } else { LARGE + number as usize };
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn number_of(payload: &[u8]) -> u32 {
    let number = u32::from_le_bytes(payload[..4].try_into().unwrap());
    assert!(payload == self::payload(number), "torn: {number}, {} bytes", payload.len());
    number
}

/// Publishes messages with these numbers and has a group reject them.
fn kill_messages(topic: &Topic<Bytes>, group: &str, numbers: std::ops::Range<u32>) {
    let mut subscriber = join(topic, group);
    let mut publisher = topic.publisher().unwrap();
    for number in numbers {
        publisher.publish(&payload(number)).unwrap();
        subscriber.receive_timeout(PATIENCE).unwrap().unwrap().reject(&format!("no {number}")).unwrap();
    }
}

fn drain(subscriber: &mut Subscriber<Bytes>) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(message) = subscriber.receive_timeout(SOON).unwrap() {
        numbers.push(number_of(message.payload()));
        message.ack().unwrap();
    }
    numbers
}

/// Bytes of memory that the store of a topic's first group takes.
fn store_bytes(test: &TestBus, topic: &str) -> u64 {
    std::fs::metadata(test.path().join("topics").join(topic).join("aside-0")).unwrap().blocks() * 512
}

#[test]
fn a_dead_letter_says_everything_about_itself() {
    let test = TestBus::new("dlq-list");
    let bus = test.open("tester");
    for group in ["one", "many"] {
        let topic = bus.topic::<Text>(group).unwrap();
        let builder = topic.group(group).handler("handle").attempts(3);
        let builder = builder.retry_delays(Duration::from_millis(1), Duration::from_millis(1));
        let mut subscriber = if group == "many" { builder.shared() } else { builder }.join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for len in [0, 200, 300_000] {
            publisher.publish_to(Lane::HIGH, &Text { id: 7, text: "x".repeat(len) }).unwrap();
            for attempt in 1..=3 {
                let message = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
                message.retry(&format!("Failure {attempt} of {len}")).unwrap();
            }
        }
        publisher.publish_bytes(Lane::NORMAL, b"no archive").unwrap();
        subscriber.receive_timeout(PATIENCE).unwrap().unwrap().reject("broken").unwrap();
        let letters = dead_letters::list(&view(&test), &Filter::topic(group)).unwrap();
        let facts: Vec<_> =
            letters.iter().map(|l| (l.lane, l.sequence, l.attempts, l.error.as_str())).collect();
        assert_eq!(facts[0], (Lane::HIGH, letters[0].sequence, 3, "Failure 3 of 0"));
        assert_eq!(facts[2].3, "Failure 3 of 300000");
        assert_eq!((facts[3].0, facts[3].2, facts[3].3), (Lane::NORMAL, 1, "broken"));
        assert!(letters.is_sorted_by_key(|letter| (letter.lane, letter.sequence)));
        assert_eq!(letters.iter().map(|letter| letter.id).collect::<BTreeSet<_>>().len(), 4);
        for letter in &letters {
            assert_eq!((letter.topic.as_str(), letter.group.as_str()), (group, group));
            assert_eq!((letter.service.as_str(), letter.handler.as_str()), ("tester", "handle"));
            assert!(letter.stamp_ns > 0 && letter.first_ns > 0 && letter.first_ns <= letter.last_ns);
            assert_eq!(letter.kind, Some(TypeIdentity::of::<Text>()), "bytes under the topic's type");
            assert_eq!((letter.type_name.as_str(), letter.lane_name), ("Text v1", letter.lane.name(3)));
            let (again, bytes) = dead_letters::payload(&view(&test), letter.id).unwrap().unwrap();
            assert_eq!((again.id, bytes.len()), (letter.id, letter.len_bytes as usize));
            assert_eq!(bytes.iter().filter(|&&byte| byte == b'x').count() >= 200, letter.len_bytes > 200);
            assert_eq!(letter.id.to_string().parse(), Ok(letter.id));
        }
        eventually("they are announced", || {
            dead_letters::list(&view(&test), &Filter::topic(group)).unwrap().iter().all(|l| l.announced)
        });
    }
    let count = |filter: Filter| dead_letters::list(&view(&test), &filter).unwrap().len();
    assert_eq!(count(Filter::default()), 8);
    assert_eq!(count(Filter { group: Some("many".into()), ..Filter::default() }), 4);
    assert_eq!(count(Filter { error: Some("failure 3".into()), ..Filter::default() }), 6);
    assert_eq!(count(Filter { error: Some("broken".into()), ..Filter::topic("one") }), 1);
    assert!(dead_letters::list(&view(&test), &Filter::topic("nothing")).is_err());
    let state = view(&test).topic("one").unwrap().sample();
    let group = state.groups.iter().find(|group| group.name == "one").unwrap();
    assert_eq!((group.dead_count, group.waiting_count, group.full_count), (4, 0, 0));
    assert_eq!(group.lanes.iter().map(|lane| lane.dead_count).collect::<Vec<_>>(), [0, 3, 1]);
}

#[test]
fn a_replay_is_the_same_bytes_again_and_the_letter_goes() {
    let test = TestBus::new("dlq-replay");
    let bus = test.open("tester");
    for group in ["one", "many"] {
        for producers in [1, 8] {
            let name = format!("{group}.{producers}");
            let topic =
                bus.topic_builder::<Bytes>(&name).producers(producers).capacity(8).lanes(2).open().unwrap();
            // Nobody else publishes while letters are replayed: there may be one place only.
            kill_messages(&topic, group, 0..6);
            let used_bytes = store_bytes(&test, &name);
            let mut subscriber = join(&topic, group);
            assert_eq!(dead_letters::replay(&bus, &Filter::topic(&name), None).unwrap(), 6);
            let first = subscriber.receive_timeout(PATIENCE).unwrap().unwrap();
            assert_eq!((first.attempts(), first.lane(), first.kind()), (1, Lane(1), 255));
            assert_eq!(number_of(first.payload()), 0);
            first.ack().unwrap();
            assert_eq!(drain(&mut subscriber), [1, 2, 3, 4, 5], "in their order, large ones too");
            assert_eq!(dead_letters::replay(&bus, &Filter::topic(&name), None).unwrap(), 0);
            assert_eq!(dead_letters::list(&view(&test), &Filter::topic(&name)).unwrap(), []);
            assert!(
                store_bytes(&test, &name) + 3 * 4_096 <= used_bytes,
                "{used_bytes} bytes were given back"
            );
            if producers == 1 {
                assert_eq!(slot_flags(&test, &name, 5), flags::ARENA, "published as ever");
                assert_eq!(slot_flags(&test, &name, 6), flags::REPLAYED);
                assert_eq!(slot_flags(&test, &name, 7), flags::REPLAYED | flags::ARENA);
            }
        }
    }
    assert_clean(&test);
}

/// Flags in the header of a message in the lowest of two lanes of a one-producer topic of 8 slots.
fn slot_flags(test: &TestBus, topic: &str, sequence: u64) -> u8 {
    let config = ring::Config {
        capacity: 8,
        lanes: 2,
        producers: 1,
        inline_bytes: bus_core::limits::INLINE_BYTES_DEFAULT,
        message_bytes: 0,
        arena_first_bytes: 0,
        arena_bound_bytes: 0,
        arena_history_bytes: 0,
        flags: 0,
        overflow: 0,
    };
    let at = config.slots(1) + sequence % 8 * config.lane_slots_bytes() / 8;
    let mut word = [0; 8];
    let ring = std::fs::File::open(test.path().join("topics").join(topic).join("ring")).unwrap();
    ring.read_exact_at(&mut word, at + 8).unwrap();
    word[7]
}

#[test]
fn another_topic_gets_it_under_its_own_number_of_the_type() {
    let test = TestBus::new("dlq-to");
    let bus = test.open("tester");
    let from = bus.topic_builder::<Text>("from").accepts::<Words>().lanes(4).open().unwrap();
    let to = bus.topic_builder::<Words>("to").accepts::<Text>().lanes(1).open().unwrap();
    bus.topic::<Words>("other").unwrap();
    bus.topic::<Bytes>("plain").unwrap();
    let mut subscriber = from.group("g").join().unwrap();
    let mut publisher = from.publisher().unwrap();
    for id in 1..=2 {
        publisher.publish_to(Lane(3), &Text { id, text: "y".repeat(400) }).unwrap();
        subscriber.receive_timeout(PATIENCE).unwrap().unwrap().reject("no").unwrap();
    }
    let mut reader = bus.topic::<Text>("to").unwrap().group("g").join().unwrap();
    for (target, accepts) in [("other", "Words v1"), ("plain", "plain bytes")] {
        let error = dead_letters::replay(&bus, &Filter::topic("from"), Some(target)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(*error.source, ReplayRefused::Type { .. }) && error.replayed == 0, "{text}");
        for words in ["\"from\"", &format!("{target:?}"), "Text v1", accepts] {
            assert!(text.contains(words), "{words} in {text}");
        }
    }
    let missing = dead_letters::replay(&bus, &Filter::topic("from"), Some("missing")).unwrap_err();
    assert!(missing.to_string().contains("\"missing\""), "{missing}");
    assert_eq!(all(&test).len(), 2, "they are all still there");
    let second = Filter::id(all(&test)[1].id);
    assert_eq!(dead_letters::replay(&bus, &second, Some("to")).unwrap(), 1);
    assert_eq!(all(&test).len(), 1);
    let message = reader.receive_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((message.lane(), message.kind()), (Lane(0), 1), "the lowest that there is");
    assert_eq!(message.value().unwrap().id.to_native(), 2);
    message.ack().unwrap();
    drop((to, publisher));
    // Bytes that claim no type go where bytes are taken, and back, and nowhere else.
    let plain = bus.topic::<Bytes>("bytes").unwrap();
    kill_messages(&plain, "one", 0..1);
    let error = dead_letters::replay(&bus, &Filter::topic("bytes"), Some("from")).unwrap_err();
    assert!(error.to_string().contains("is a bytes, and topic \"from\" accepts Text v1"), "{error}");
    assert_eq!(dead_letters::replay(&bus, &Filter::topic("bytes"), Some("plain")).unwrap(), 1);
}

#[test]
fn what_finds_no_room_stays_a_dead_letter() {
    let test = TestBus::new("dlq-full");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Bytes>("t").open().unwrap();
    kill_messages(&topic, "one", 0..12);
    eventually("announced", || all(&test).iter().all(|letter| letter.announced));
    bus.topic_builder::<Bytes>("small").capacity(8).with_group("slow").open().unwrap();
    let error = dead_letters::replay(&bus, &Filter::topic("t"), Some("small")).unwrap_err();
    assert!(matches!(&*error.source, ReplayRefused::Publish(PublishError::Full(_))), "{error}");
    assert!(
        error.replayed == 8 && error.to_string().starts_with("8 replayed, then: topic \"small\""),
        "{error}"
    );
    let left = all(&test);
    assert_eq!(left.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [8, 9, 10, 11]);
    assert!(left.iter().all(|letter| letter.announced && !letter.replaying));
    assert_eq!(dead_letters::purge(&bus, &Filter::id(left[1].id)).unwrap(), 1);
    assert_eq!(dead_letters::purge(&bus, &Filter::id(left[1].id)).unwrap(), 0, "it has gone");
    assert_eq!(dead_letters::purge(&bus, &Filter::topic("t")).unwrap(), 3);
    assert_eq!(dead_letters::payload(&view(&test), left[0].id).unwrap(), None);
    // The next letter in the same place is another one.
    kill_messages(&topic, "one", 0..12);
    assert!(all(&test).iter().all(|letter| left.iter().all(|old| old.id != letter.id)));
    assert_eq!(dead_letters::purge(&bus, &Filter { ids: vec![left[0].id], ..Filter::default() }).unwrap(), 0);
}

/// The other processes of the tests here.
#[test]
fn agent() {
    let Some(mut role) = harness::role() else { return };
    let bus = role.open();
    role.parent.tell("ready");
    role.parent.expect("go");
    let count = match role.argument.as_str() {
        // One in three or so.
        "purge" => {
            let some = Filter { error: Some("3".into()), ..Filter::topic("t") };
            dead_letters::purge(&bus, &some).unwrap()
        }
        "replay" => dead_letters::replay(&bus, &Filter::topic("t"), Some("to")).unwrap(),
        other => panic!("no part {other:?}"),
    };
    role.parent.tell(count);
}

#[test]
fn of_those_who_purge_and_replay_at_once_one_comes_to_each_letter() {
    const COUNT: u32 = 400;
    for group in ["one", "many"] {
        let test = TestBus::new("dlq-race");
        let bus = test.open("tester");
        let topic = bus.topic::<Bytes>("t").unwrap();
        // A small target that is read slowly, so that each has letters in hand for a while.
        let to = bus.topic_builder::<Bytes>("to").capacity(8).open().unwrap();
        let mut reader = to.group("g").join().unwrap();
        kill_messages(&topic, group, 0..COUNT);
        let parts = ["purge", "replay", "replay"];
        let mut agents = parts.map(|part| Agent::spawn("agent", part, &test.name, part));
        agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
        let ended = AtomicBool::new(false);
        let (counts, replayed) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut numbers = Vec::new();
                while !ended.load(Ordering::SeqCst) || reader.lag_count(Lane::NORMAL) > 0 {
                    let Some(message) = reader.receive_timeout(SOON).unwrap() else { continue };
                    numbers.push(number_of(message.payload()));
                    message.ack().unwrap();
                    std::thread::sleep(Duration::from_micros(200));
                }
                numbers
            });
            agents.iter_mut().for_each(|agent| agent.line.tell("go"));
            let counts = agents.each_mut().map(|agent| agent.line.hear().parse::<u32>().unwrap());
            ended.store(true, Ordering::SeqCst);
            (counts, reading.join().unwrap())
        });
        assert_eq!(counts.iter().sum::<u32>(), COUNT, "{counts:?}");
        assert!(counts.iter().all(|&count| count > 0), "all had their share: {counts:?}");
        assert_eq!(replayed.len() as u32, counts[1] + counts[2], "{counts:?}");
        assert_eq!(replayed.iter().collect::<BTreeSet<_>>().len(), replayed.len(), "none twice");
        assert_eq!(all(&test), []);
        assert_clean(&test);
    }
}

#[test]
fn who_dies_with_a_letter_in_hand_leaves_it() {
    for group in ["one", "many"] {
        let test = TestBus::new("dlq-killed");
        let bus = test.open("tester");
        let topic = bus.topic::<Bytes>("t").unwrap();
        let to = bus.topic_builder::<Bytes>("to").capacity(8).with_group("g").open().unwrap();
        kill_messages(&topic, group, 0..12);
        // A member of the group lives, and is not the one who dies.
        let member = join(&topic, group);
        let mut agent = Agent::spawn("agent", "replay", &test.name, "replay");
        agent.line.expect("ready");
        agent.line.tell("go");
        eventually("it waits for room with the ninth in hand", || {
            all(&test).iter().any(|letter| letter.replaying && letter.sequence == 8)
        });
        assert_eq!(
            dead_letters::purge(&bus, &Filter { error: Some("no 8".into()), ..Filter::topic("t") }).unwrap(),
            0
        );
        agent.kill();
        eventually("it is a dead letter again", || all(&test).iter().all(|letter| !letter.replaying));
        let left: Vec<_> = all(&test).iter().map(|letter| letter.sequence).collect();
        assert_eq!(left, [8, 9, 10, 11]);
        assert_eq!(drain(&mut to.group("g").join().unwrap()), (0..8).collect::<Vec<_>>());
        assert_eq!(dead_letters::replay(&bus, &Filter::topic("t"), Some("to")).unwrap(), 4);
        drop(member);
        assert_clean(&test);
    }
}

/// A bus that outlives those who use it, with three dead letters.
fn furnished(cli: &CliBus) -> Bus {
    let bus = Bus::builder(&cli.bus.name).service("worker").open().unwrap();
    let topic = bus.topic::<Bytes>("orders").unwrap();
    let mut subscriber = topic.group("billing").handler("charge").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for (text, error) in
        [("a \"b\"\n", "card\u{1b}[31m declined"), ("\u{fffd}c", "Timed out"), ("d", "timed out")]
    {
        publisher.publish(text.as_bytes()).unwrap();
        subscriber.receive_timeout(PATIENCE).unwrap().unwrap().reject(error).unwrap();
    }
    bus
}

#[test]
fn from_the_command_line_they_are_listed_and_shown() {
    let cli = CliBus::new("dlq-cli");
    cli.run(&["dlq", "ls"]).expect(3).says("no bus");
    let bus = furnished(&cli);
    let ran = cli.run(&["dlq", "ls"]).expect(0);
    assert_eq!(ran.out.lines().count(), 4, "{}", ran.out);
    for words in
        ["ID", "orders", "billing", "normal", "bytes", "worker/charge", "card\\x1b[31m declined", " ago"]
    {
        assert!(ran.out.contains(words), "{words} in {}", ran.out);
    }
    let list = |arguments: &[&str]| {
        let ran = cli.run(&[&["dlq", "ls", "--json"], arguments].concat()).expect(0).json();
        ran["dead_letters"].as_array().unwrap().clone()
    };
    let letters = list(&["--all"]);
    assert_eq!((letters.len(), list(&["orders"]).len()), (3, 3));
    assert_eq!((list(&["-g", "billing", "-e", "TIMED"]).len(), list(&["-g", "other"]).len()), (2, 0));
    let letter = &letters[0];
    assert_eq!((&letter["topic"], &letter["group"]), (&"orders".into(), &"billing".into()));
    assert_eq!(
        (&letter["lane"], &letter["sequence"], &letter["attempts"]),
        (&"normal".into(), &0.into(), &1.into())
    );
    assert_eq!((&letter["service"], &letter["handler"]), (&"worker".into(), &"charge".into()));
    assert_eq!((&letter["bytes"], &letter["replaying"]), (&6.into(), &false.into()));
    assert!(letter["last_failed"].as_str().unwrap().starts_with("20"));
    cli.run(&["dlq", "ls", "--error", "nothing"]).expect(0).says("no dead letters like that");
    cli.run(&["dlq", "ls", "nowhere"]).expect(3).says("no topic \"nowhere\"");
    cli.run(&["dlq", "ls", "orders", "--all"]).expect(2);
    let id = letter["id"].as_str().unwrap();
    let shown = cli.run(&["dlq", "show", id]).expect(0).out;
    assert!(shown.contains("card\\x1b[31m declined") && !shown.contains("a \"b\""), "{shown}");
    let shown = cli.run(&["dlq", "show", id, "--payload"]).expect(0).out;
    assert!(shown.ends_with("\na \"b\"\\n\n"), "{shown}");
    let shown = cli.run(&["dlq", "show", id, "--payload", "--json"]).expect(0).json();
    assert_eq!((&shown["encoding"], &shown["payload"]), (&"utf-8".into(), &"a \"b\"\n".into()));
    assert!(cli.run(&["dlq", "show", id, "--json"]).expect(0).json().get("payload").is_none());
    cli.run(&["dlq", "show", "17"]).expect(2).says("shmbus dlq ls");
    cli.run(&["dlq", "show", &format!("{id}9")]).expect(3).says("no such dead letter");
    // The same figures wherever groups are shown.
    let info = cli.run(&["info", "orders", "--json"]).expect(0).json();
    let lag = cli.run(&["lag", "orders", "--json"]).expect(0).json();
    let top = cli.run(&["top", "--once", "--json", "--interval", "30ms"]).expect(0).json();
    let topic = top["topics"].as_array().unwrap().iter().find(|topic| topic["topic"] == "orders").unwrap();
    for groups in [&info["groups"], &lag["groups"], &topic["groups"]] {
        let group = &groups[0];
        assert_eq!((&group["dead_count"], &group["waiting_count"]), (&3.into(), &0.into()));
        assert_eq!((&group["full_count"], &group["dropped_count"]), (&0.into(), &0.into()));
        assert_eq!(group["lanes"][2]["dead_count"], 3);
    }
    let lag = cli.run(&["lag", "orders"]).expect(0).out;
    assert!(lag.contains("DEAD") && !lag.contains("RETRIES"), "{lag}");
    assert!(cli.run(&["info", "orders"]).expect(0).out.contains("DEAD"));
    assert!(cli.run(&["top", "-1", "--interval", "30ms"]).expect(0).out.contains(", 3 dead"));
    drop(bus);
}

#[test]
fn from_the_command_line_they_are_replayed_and_purged() {
    let cli = CliBus::new("dlq-act");
    let bus = furnished(&cli);
    bus.topic::<Words>("words").unwrap();
    let count = || dead_letters::list(&cli.view(), &Filter::default()).unwrap().len();
    for command in ["replay", "purge"] {
        cli.run(&["dlq", command]).expect(2).says("--all");
        cli.run(&["dlq", command, "orders", "--all"]).expect(2);
    }
    cli.run(&["dlq", "purge", "orders"]).expect(2).says("--yes");
    cli.run(&["dlq", "replay", "orders", "--to", "words"]).expect(6).says("\"orders\"").says("\"words\"");
    cli.run(&["dlq", "replay", "orders", "--to", "missing"]).expect(3).says("missing");
    cli.run(&["dlq", "replay", "nowhere"]).expect(3);
    cli.run(&["dlq", "replay", "--id", "000000-0-0-1"]).expect(3).says("no such dead letter");
    assert_eq!(count(), 3, "nothing has happened yet");
    let ids: Vec<_> = dead_letters::list(&cli.view(), &Filter::default())
        .unwrap()
        .iter()
        .map(|l| l.id.to_string())
        .collect();
    assert_eq!(cli.run(&["dlq", "replay", "--id", &ids[2]]).expect(0).out, "replayed 1 dead letter\n");
    let ran = cli.run(&["sub", "orders", "-g", "billing", "-n", "1", "--json"]).expect(0).json();
    assert_eq!((&ran["payload"], &ran["sequence"]), (&"d".into(), &3.into()));
    // Asked, and answered in either way.
    for (answer, code, left) in [("n\n", 1, 2), ("yes\n", 0, 1)] {
        let mut terminal = InTerminal::start(&mut cli.command(&["dlq", "purge", "orders", "-e", "Timed"]));
        terminal.wait_for("purge 1 dead letter?");
        terminal.press(answer);
        assert_eq!(terminal.finish(), code);
        assert_eq!(count(), left);
    }
    let ran = cli.run(&["dlq", "purge", "--id", &ids[0], "--yes", "--json"]).expect(0);
    assert_eq!((&ran.json()["purged"], count()), (&1.into(), 0));
    cli.run(&["dlq", "purge", "--id", &ids[0], "--yes"]).expect(3);
    assert_eq!(cli.run(&["dlq", "purge", "--all", "--yes"]).expect(0).out, "purged 0 dead letters\n");
    let ran = cli.run(&["dlq", "replay", "-g", "billing", "--json"]).expect(0);
    assert_eq!(ran.json()["replayed"], 0);
    drop(bus);
}

#[test]
fn five_thousand_are_listed_and_purged_quickly() {
    let cli = CliBus::new("dlq-many");
    let bus = Bus::builder(&cli.bus.name).service("worker").open().unwrap();
    let topic = bus.topic::<Bytes>("t").unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for number in 0..5_000_u32 {
        publisher.publish(&payload(2 * number)).unwrap();
        subscriber.receive_timeout(PATIENCE).unwrap().unwrap().reject("no").unwrap();
    }
    cli.run(&["ls"]).expect(0);
    let begun = Instant::now();
    let listed = cli.run(&["dlq", "ls", "--json"]).expect(0).json();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(listed["dead_letters"].as_array().unwrap().len(), 5_000);
    let begun = Instant::now();
    assert_eq!(cli.run(&["dlq", "purge", "t", "--yes"]).expect(0).out, "purged 5,000 dead letters\n");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn dead_letters_of_a_member_that_ends_at_once_are_announced_by_the_supervisor() {
    const ENTRY: &str = "dead_letters_of_a_member_that_ends_at_once_are_announced_by_the_supervisor";
    const DEATHS: u64 = 10;
    if let Some(role) = harness::role() {
        let topic = role.open().topic::<Words>("t").unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        subscriber.receive_timeout(PATIENCE).unwrap().unwrap().reject("no").unwrap();
        // SAFETY: nothing is left to be done here.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
        return;
    }
    let test = TestBus::new("announce-left-over");
    let bus = test.open("tester");
    let topic = bus.topic_builder::<Words>("t").with_group("g").open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut seen = BTreeSet::new();
    let mut notices = topic.dead_letter_notices().unwrap().subscribe().unwrap();
    for number in 0..DEATHS {
        publisher.publish(&Words::numbered(number)).unwrap();
        // A supervisor that has just announced waits a while before the next time.
        let mut agent = Agent::spawn(ENTRY, "member", &test.name, "");
        agent.wait();
    }
    while seen.len() < DEATHS as usize {
        let notice = notices.receive_timeout(PATIENCE).unwrap().expect("an announcement");
        seen.insert(notice.value().unwrap().sequence.to_native());
        notice.ack().unwrap();
    }
    assert_eq!(seen, (0..DEATHS).collect());
}
