//! Causes: conversations that are followed over topics, and loops that are cut.

use bus_core::extension::Extension;
use bus_shm::dead_letters::{self, Filter};
use bus_shm::inspect::BusView;
use bus_shm::trace::{self, Trace, TraceId};
use bus_shm::{
    Ask, Bus, Bytes, Lane, MessageId, Meta, PublishError, Publisher, ReplyError, RequestError, Subscriber,
    Topic, TopicError,
};
use std::time::{Duration, Instant};
use tests::cli::CliBus;
use tests::harness::{self, Agent, Role, TestBus, assert_clean, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

fn view(test: &TestBus) -> BusView {
    BusView::open(&test.name, None).unwrap()
}

fn next(subscriber: &mut Subscriber<Bytes>) -> bus_shm::Received<'_, Bytes> {
    subscriber.receive_timeout(PATIENCE).unwrap().expect("a message")
}

/// The tree as text: topic, payload length and depth.
fn drawn(trace: &Trace) -> Vec<String> {
    let line = |place: &trace::Place| {
        let message = &trace.messages[place.index];
        let gone = if place.cause_is_gone { " ?" } else { "" };
        let dead: String = message.dead.iter().map(|dead| format!(" dead in {}", dead.group)).collect();
        format!("{}{} {}{gone}{dead}", "  ".repeat(place.depth), message.topic, message.len_bytes)
    };
    trace.tree.iter().map(line).collect()
}

// ------------------------------------------------------------------ following

/// An agent that answers each message of a topic with one in each of two others.
fn answer(from: &Topic<Bytes>, to: &[&Topic<Bytes>]) {
    let mut subscriber = from.group("agent").join().unwrap();
    let message = next(&mut subscriber);
    for (index, topic) in to.iter().enumerate() {
        let payload = vec![0; message.payload().len() + index + 1];
        let meta = Meta::new().caused_by(&message.metadata());
        topic.publisher().unwrap().publish_bytes_with(Lane::NORMAL, &payload, &meta).unwrap();
    }
    message.ack().unwrap();
}

fn fan_out(bus: &Bus) -> (Vec<Topic<Bytes>>, MessageId) {
    let topics: Vec<Topic<Bytes>> = ["ask", "plan", "look", "act", "log"]
        .map(|name| bus.topic_builder(name).capacity(8).with_group("agent").open().unwrap())
        .into();
    topics[0].publisher().unwrap().publish(&[0]).unwrap();
    let first =
        next(&mut topics[0].subscriber().from(bus_shm::Start::Oldest).tap().join().unwrap()).metadata().id();
    answer(&topics[0], &[&topics[1], &topics[2]]);
    answer(&topics[1], &[&topics[3], &topics[4]]);
    answer(&topics[2], &[&topics[4]]);
    (topics, first)
}

#[test]
fn a_fan_out_over_five_topics_is_one_tree() {
    let test = TestBus::new("trace-tree");
    let bus = test.open("asker");
    let (topics, first) = fan_out(&bus);
    // Another conversation at the same time.
    topics[3].publisher().unwrap().publish(&[9; 9]).unwrap();
    let tree = ["ask 1", "  plan 2", "    act 3", "    log 4", "  look 3", "    log 4"];
    for id in [TraceId::Message(first), TraceId::Correlation(first.as_correlation())] {
        let found = trace::trace(&view(&test), id).expect("the conversation");
        assert_eq!(drawn(&found), tree);
        assert!(found.gone.is_empty() && found.left_out == 0 && found.unread.is_empty());
        let hops: Vec<u16> = found.tree.iter().map(|place| found.messages[place.index].hops).collect();
        assert_eq!(hops, [0, 1, 2, 2, 1, 2]);
        let root = &found.messages[found.tree[0].index];
        assert_eq!((root.lane_name, root.type_name.as_str(), root.in_ring), ("normal", "bytes", true));
        assert!(root.age_ns.is_some_and(|age| age < 60_000_000_000));
    }
    // One in the middle of it leads to the same.
    let of_plan = MessageId { topic_epoch: trace_epoch(&test, first, "plan"), lane: 2, sequence: 0 };
    let found = trace::trace(&view(&test), TraceId::Message(of_plan)).expect("the conversation");
    assert_eq!(drawn(&found), tree);
    let nobody = MessageId { topic_epoch: 1, lane: 0, sequence: 0 };
    assert!(trace::trace(&view(&test), TraceId::Message(nobody)).is_none());
    let none = trace::trace(&view(&test), TraceId::Correlation(7)).expect("an empty one");
    assert!(none.messages.is_empty());
    assert_clean(&test);
}

/// The epoch of a topic, from a message of the conversation in it.
fn trace_epoch(test: &TestBus, first: MessageId, topic: &str) -> u64 {
    let found = trace::trace(&view(test), TraceId::Message(first)).expect("the conversation");
    found.messages.iter().find(|message| message.topic == topic).expect("a message there").id.topic_epoch
}

#[test]
fn what_is_overwritten_is_named_and_what_is_dead_is_marked() {
    let test = TestBus::new("trace-gone");
    let bus = test.open("asker");
    let (topics, first) = fan_out(&bus);
    // The letter stays when its message has left the ring, and while it is there the message is marked.
    let mut subscriber = topics[4].group("agent").join().unwrap();
    next(&mut subscriber).reject("cannot log this").unwrap();
    let found = trace::trace(&view(&test), TraceId::Message(first)).unwrap();
    assert_eq!(drawn(&found)[3], "    log 4 dead in agent");
    next(&mut subscriber).ack().unwrap();
    for topic in [&topics[1], &topics[4]] {
        let mut publisher = topic.publisher().unwrap();
        let mut reader = topic.group("agent").join();
        for _ in 0..8 {
            publisher.publish(b"something else").unwrap();
            let subscriber = match &mut reader {
                Ok(reader) => reader,
                Err(_) => &mut subscriber,
            };
            next(subscriber).ack().unwrap();
        }
    }
    let found = trace::trace(&view(&test), TraceId::Correlation(first.as_correlation())).unwrap();
    // `plan` is gone, and with it the way to what followed from it.
    assert_eq!(drawn(&found), ["ask 1", "  look 3", "act 3 ?", "log 4 ? dead in agent"]);
    assert_eq!(found.gone.len(), 1);
    let letter = &found.messages[found.tree[3].index];
    assert!(!letter.in_ring && letter.dead[0].error == "cannot log this" && letter.dead[0].attempts == 1);
    assert_clean(&test);
}

#[test]
fn hostile_extensions_neither_loop_nor_break_anything() {
    let test = TestBus::new("trace-hostile");
    let bus = test.open("attacker");
    for producers in [1, 4] {
        let topic = bus
            .topic_builder::<Bytes>(&format!("t{producers}"))
            .producers(producers)
            .capacity(64)
            .lanes(1)
            .open();
        let topic = topic.unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let meta = Meta::new().correlation(0xbad);
        for _ in 0..32 {
            publisher.publish_bytes_with(Lane(0), b"x", &meta).unwrap();
        }
        let epoch = next(&mut subscriber).metadata().id().topic_epoch;
        // Somebody stores what he likes into the blocks: the correlation stays, so that they are found.
        let dir = test.path().join("topics").join(topic.name());
        let mut written = 0;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !name.starts_with("arena-") && name != "ring" {
                continue;
            }
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let mark: Vec<u8> = [0xbad_u128.to_le_bytes()].concat();
            let starts: Vec<usize> = (0..bytes.len().saturating_sub(64))
                .step_by(8)
                .filter(|&at| bytes[at..at + 16] == mark[..])
                .collect();
            written += starts.len();
            for (number, &at) in starts.iter().enumerate() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let block = &mut bytes[at + 16..at + 64];
                match number % 4 {
                    // Itself, a circle of two, anything, the other lane that is not there.
                    0 => block[..16].copy_from_slice(&cause(epoch, 0, number as u64)),
                    1 => block[..16].copy_from_slice(&cause(epoch, 0, (number ^ 3) as u64)),
                    2 => block
                        .iter_mut()
                        .enumerate()
                        .for_each(|(i, byte)| *byte = (random >> (i % 8 * 8)) as u8),
                    _ => block[..16].copy_from_slice(&cause(epoch, 255, u64::MAX >> 8)),
                }
                block[32..34].copy_from_slice(&u16::MAX.to_le_bytes());
            }
            std::fs::write(entry.path(), bytes).unwrap();
        }
        assert_eq!(written, 32, "blocks of the messages");
        let begun = Instant::now();
        let found = trace::trace(&view(&test), TraceId::Correlation(0xbad)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(found.messages.len() >= 32, "{}", found.messages.len());
        assert_eq!(found.tree.len(), found.messages.len(), "each once");
        // What follows from such a message is one hop too many, and the chain ends.
        let cause = next(&mut subscriber);
        let meta = Meta::new().caused_by(&cause.metadata());
        match publisher.publish_bytes_with(Lane(0), b"y", &meta) {
            Err(PublishError::Loop(looped)) => assert!(looped.hops > 64 && looped.chain.len() <= 8),
            other => panic!("{other:?}"),
        }
        drop(cause);
    }
    assert_eq!(size_of::<Extension>(), 64);
}

fn cause(epoch: u64, lane: u8, sequence: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&epoch.to_le_bytes());
    bytes[8..].copy_from_slice(&(sequence | u64::from(lane) << 56).to_le_bytes());
    bytes
}

// ------------------------------------------------------------------ loops

#[test]
fn a_hop_too_many_is_refused_and_kept_with_its_chain() {
    let test = TestBus::new("loop-one");
    let bus = test.open("looper");
    let topics: Vec<Topic<Bytes>> =
        ["a.b", "c.d"].map(|name| bus.topic_builder(name).with_group("g").open().unwrap()).into();
    let mut subscribers: Vec<_> = topics.iter().map(|topic| topic.group("g").join().unwrap()).collect();
    let mut publishers: Vec<_> = topics.iter().map(|topic| topic.publisher().unwrap()).collect();
    publishers[0].set_hops_max(6);
    publishers[1].set_hops_max(6);
    publishers[0].publish(b"ping").unwrap();
    let mut at = 0;
    let looped = loop {
        let message = next(&mut subscribers[at]);
        let meta = Meta::new().caused_by(&message.metadata()).key("k");
        at = 1 - at;
        let published = publishers[at].publish_bytes_with(Lane::NORMAL, b"pong", &meta);
        message.ack().unwrap();
        match published {
            Ok(_) => {}
            Err(PublishError::Loop(looped)) => break looped,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((looped.hops, looped.limit, looped.topic.as_str(), looped.cut), (7, 6, "c.d", None));
    assert_eq!(looped.chain, ["a.b", "c.d", "a.b", "c.d", "a.b", "c.d", "a.b", "c.d"]);
    let id = looped.letter.expect("a letter");
    let letters = dead_letters::list(&view(&test), &Filter::id(id)).unwrap();
    let letter = &letters[0];
    assert_eq!((letter.topic.as_str(), letter.group.as_str(), letter.len_bytes), ("c.d", "_loops", 4));
    assert!(letter.error.ends_with("a.b -> c.d -> a.b -> c.d (7 hops, 6 allowed)"), "{}", letter.error);
    let (_, payload) = dead_letters::payload(&view(&test), id).unwrap().expect("the letter");
    assert_eq!(payload, b"pong");
    // It is announced like any other.
    let notices = topics[1].dead_letter_notices().unwrap().subscriber().from(bus_shm::Start::Oldest).tap();
    let mut notices = notices.join().unwrap();
    let notice = notices.receive_timeout(PATIENCE).unwrap().expect("an announcement");
    assert_eq!(notice.value().unwrap().group, "_loops");
    drop(notice);
    // And it is part of the conversation.
    let all = trace::trace(
        &view(&test),
        TraceId::Message(MessageId { topic_epoch: trace_root(&topics[0]), lane: 2, sequence: 0 }),
    )
    .unwrap();
    assert_eq!(all.messages.len(), 8);
    assert!(drawn(&all).last().unwrap().ends_with("c.d 4 dead in _loops"), "{:?}", drawn(&all));
    // Replayed it is published, whatever its hops.
    assert_eq!(dead_letters::replay(&bus, &Filter::id(id), None).unwrap(), 1);
    let message = next(&mut subscribers[1]);
    assert_eq!((message.payload(), message.metadata().hops()), (&b"pong"[..], 7));
    message.ack().unwrap();
    // Nor does it matter to the checker when such a letter goes.
    assert_eq!(
        dead_letters::purge(&bus, &Filter { group: Some("_loops".into()), ..Filter::default() }).unwrap(),
        0
    );
    // What has no cause costs nothing and is not counted.
    publishers[1].publish(b"free").unwrap();
    next(&mut subscribers[1]).ack().unwrap();
    assert_clean(&test);
}

fn trace_root(topic: &Topic<Bytes>) -> u64 {
    let mut tap = topic.subscriber().from(bus_shm::Start::Oldest).tap().join().unwrap();
    next(&mut tap).metadata().id().topic_epoch
}

/// One side of a ping-pong: publishes in the other topic whatever comes, for ever.
fn play(mut role: Role) {
    let bus = role.open();
    let (from, to) = match role.argument.as_str() {
        "ping" => ("ping", "pong"),
        _ => ("pong", "ping"),
    };
    let topic = bus.topic::<Bytes>(from).unwrap();
    let mut subscriber = topic.group("player").join().unwrap();
    let mut publisher = bus.topic::<Bytes>(to).unwrap().publisher().unwrap();
    role.parent.tell("ready");
    loop {
        let message = subscriber.receive().unwrap();
        let meta = Meta::new().caused_by(&message.metadata());
        match publisher.publish_bytes_with(Lane::NORMAL, message.payload(), &meta) {
            Ok(_) => {}
            Err(PublishError::Loop(looped)) => {
                let cut = looped.cut.is_some();
                role.parent.tell(format!("loop {} {cut} {}", looped.hops, looped.chain.join(" -> ")));
            }
            Err(PublishError::PairCut(cut)) => {
                assert!(cut.retry_after > Duration::ZERO);
                role.parent.tell(format!("cut {} {}", cut.cause, cut.topic));
            }
            Err(error) => panic!("{error}"),
        }
        message.ack().unwrap();
    }
}

/// The next two events that are about loops.
fn two_loops(events: &mut Subscriber<Bytes>) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = events.receive_timeout(PATIENCE).unwrap().expect("an event");
        let text = String::from_utf8(event.payload().to_vec()).unwrap();
        if text.contains("\"event\":\"loop\"") {
            seen.push(text);
        }
    }
    seen
}

#[test]
fn two_agents_that_answer_each_other_for_ever_are_cut() {
    if let Some(role) = harness::role() {
        return play(role);
    }
    let test = TestBus::new("loop-two");
    let bus = test.open("starter");
    let mut topics = Vec::new();
    for name in ["ping", "pong"] {
        topics.push(bus.topic_builder::<Bytes>(name).with_group("player").open().unwrap());
    }
    let mut events = bus.events().unwrap().tap().unwrap();
    let spawn = |side: &str| {
        let name = "two_agents_that_answer_each_other_for_ever_are_cut";
        let mut agent = Agent::spawn(name, side, &test.name, side);
        agent.line.expect("ready");
        agent
    };
    let mut agents = [spawn("ping"), spawn("pong")];
    let mut publishers: Vec<_> = topics.iter().map(|topic| topic.publisher().unwrap()).collect();
    // Begun in `ping` it is the answer to a message of `ping` that is one too many; begun in `pong`, the other.
    for (side, chain, cut) in [(0, "ping -> pong", "cut ping pong"), (1, "pong -> ping", "cut pong ping")] {
        for round in 1..=3 {
            publishers[side].publish(b"ball").unwrap();
            let heard = agents[side].line.hear();
            let mut words = heard.splitn(4, ' ');
            assert_eq!((words.next(), words.next()), (Some("loop"), Some("65")), "{heard}");
            assert_eq!(words.next(), Some(if round == 3 { "true" } else { "false" }), "{heard}");
            assert!(words.next().unwrap().ends_with(chain), "{heard}");
        }
        // From here on that side answers nothing, not even the first hop; which cuts what the other side begins, too.
        for topic in [side, 1 - side] {
            publishers[topic].publish(b"ball").unwrap();
            agents[side].line.expect(cut);
        }
        if side == 0 {
            // Killed and come again it begins anew.
            agents[0].kill();
            agents[0] = spawn("ping");
        }
    }
    let letters =
        dead_letters::list(&view(&test), &Filter { group: Some("_loops".into()), ..Filter::default() });
    let letters = letters.unwrap();
    assert_eq!(letters.len(), 6);
    for letter in &letters {
        assert!(
            letter.error.contains("ping -> pong -> ping") && letter.error.ends_with("(65 hops, 64 allowed)")
        );
        assert!(letter.len_bytes == 4 && letter.error.len() <= 96, "{}", letter.error);
    }
    // Both cuts are events.
    let seen = two_loops(&mut events);
    assert!(seen[0].contains("\"cause\":\"ping\"") && seen[0].contains("\"topic\":\"pong\""), "{seen:?}");
    assert!(seen[0].contains("\"service\":\"ping\"") && seen[0].contains("\"hops\":65"), "{seen:?}");
    // Other traffic goes on, with causes and without.
    let other = bus.topic::<Bytes>("other").unwrap();
    let mut reader = topics[0].subscriber().from(bus_shm::Start::Oldest).tap().join().unwrap();
    let cause = next(&mut reader);
    let meta = Meta::new().caused_by(&cause.metadata());
    other.publisher().unwrap().publish_bytes_with(Lane::NORMAL, b"x", &meta).unwrap();
    drop(cause);
    drop(agents);
    assert_clean(&test);
}

/// Two topics whose messages follow from each other until that is refused.
struct PingPong {
    topics: Vec<Topic<Bytes>>,
    subscribers: Vec<Subscriber<Bytes>>,
    publishers: Vec<Publisher<Bytes>>,
}

impl PingPong {
    /// At most `hops` causes lie behind a message.
    fn new(bus: &Bus, hops: u16) -> Self {
        let open = |name| bus.topic_builder(name).hops_max(hops).with_group("player").open().unwrap();
        let topics: Vec<Topic<Bytes>> = ["ping", "pong"].map(open).into();
        let subscribers = topics.iter().map(|topic| topic.group("player").join().unwrap()).collect();
        let publishers = topics.iter().map(|topic| topic.publisher().unwrap()).collect();
        Self { topics, subscribers, publishers }
    }

    /// Begins a conversation in `ping` and plays until a publication is refused.
    fn play(&mut self, correlation: u128) -> PublishError {
        let meta = Meta::new().correlation(correlation);
        self.publishers[0].publish_bytes_with(Lane::NORMAL, b"ball", &meta).unwrap();
        let mut at = 0;
        loop {
            let message = next(&mut self.subscribers[at]);
            let meta = Meta::new().caused_by(&message.metadata());
            at = 1 - at;
            let published = self.publishers[at].publish_bytes_with(Lane::NORMAL, b"ball", &meta);
            message.ack().unwrap();
            if let Err(error) = published {
                return error;
            }
        }
    }
}

#[test]
fn one_conversation_that_loops_is_cut_alone_and_several_cut_the_pair() {
    let cli = CliBus::new("loop-whose");
    let bus = cli.bus.open("looper");
    let mut events = bus.events().unwrap().tap().unwrap();
    // With four causes at most it is the answer in `pong`, to a message of `ping`, that is one too many.
    let mut game = PingPong::new(&bus, 4);
    let looped = |error: PublishError| match error {
        PublishError::Loop(looped) => (looped.topic, looped.hops, looped.cut.map(|_| looped.whole_pair)),
        other => panic!("{other}"),
    };
    assert_eq!(looped(game.play(0xaa)), ("pong".into(), 5, None));
    assert_eq!(looped(game.play(0xaa)), ("pong".into(), 5, None));
    assert_eq!(looped(game.play(0xaa)), ("pong".into(), 5, Some(false)));
    // It is refused from its first hop on, and everybody can see that.
    match game.play(0xaa) {
        PublishError::PairCut(cut) => {
            assert_eq!((cut.cause.as_str(), cut.topic.as_str()), ("ping", "pong"));
            assert!(cut.conversation == Some(0xaa) && cut.retry_after > Duration::ZERO, "{cut}");
            assert!(cut.to_string().contains("what conversation aa causes"), "{cut}");
        }
        other => panic!("{other}"),
    }
    let shown = || {
        let publishers = view(&cli.bus).topic("pong").unwrap().sample().publishers;
        let cut = publishers.into_iter().find_map(|publisher| publisher.loop_cut).expect("a cut");
        assert!(cut.cause == "ping" && cut.state.ends_with("open"), "{cut:?}");
        assert!(cut.left <= Duration::from_secs(5), "{cut:?}");
        cut.whole_pair
    };
    assert!(!shown());
    // Others go on, and each of them counts for the pair once.
    assert_eq!(looped(game.play(0xbb)), ("pong".into(), 5, None));
    assert_eq!(looped(game.play(0xcc)), ("pong".into(), 5, Some(true)));
    match game.play(0xdd) {
        PublishError::PairCut(cut) => assert_eq!((cut.cause.as_str(), cut.conversation), ("ping", None)),
        other => panic!("{other}"),
    }
    assert!(shown());
    // The commands say so. What is over by the time that they look is cut again, for longer each time.
    let mut conversation = 0x100;
    let mut says = |arguments: &[&str], is_it: &dyn Fn(&str) -> bool| {
        eventually("it is shown", || {
            conversation += 1;
            game.play(conversation);
            is_it(&cli.run(arguments).expect(0).out)
        });
    };
    says(&["info", "pong"], &|out| {
        out.contains("open for what ping causes (loop)") && out.contains("to the next trial")
    });
    says(&["info", "pong", "--json"], &|out| {
        let json: serde_json::Value = serde_json::from_str(out).unwrap();
        let cut = &json["publishers"][0]["loop_cut"];
        let text = |name: &str| cut[name].as_str().unwrap_or_default();
        let is_it = (text("cause"), text("state"), text("reason")) == ("ping", "open", "loop");
        is_it && cut["whole_pair"] == true && cut["left_ms"].as_u64().is_some_and(|left| left > 0)
    });
    says(&["top", "--once"], &|out| out.contains("loop cut open from ping"));
    // The other way, and what has no cause, is let through.
    game.publishers[1].publish(b"free").unwrap();
    let message = next(&mut game.subscribers[1]);
    let meta = Meta::new().caused_by(&message.metadata());
    game.publishers[0].publish_bytes_with(Lane::NORMAL, b"back", &meta).unwrap();
    message.ack().unwrap();
    // Both cuts are events: that of the conversation names it.
    let seen = two_loops(&mut events);
    assert!(seen[0].contains("\"correlation\":\"aa\"") && !seen[1].contains("correlation"), "{seen:?}");
    // A publisher that leaves takes what its entry says with it.
    game.publishers.clear();
    let _new = game.topics[1].publisher().unwrap();
    let publishers = view(&cli.bus).topic("pong").unwrap().sample().publishers;
    assert!(publishers.iter().all(|publisher| publisher.loop_cut.is_none()), "{publishers:?}");
    assert_clean(&cli.bus);
}

#[test]
fn a_long_conversation_that_does_not_come_back_cuts_nobody_else() {
    let test = TestBus::new("loop-none");
    let bus = test.open("walker");
    let topics: Vec<Topic<Bytes>> = ["a", "b", "c", "d"]
        .map(|name| bus.topic_builder(name).hops_max(2).with_group("g").open().unwrap())
        .into();
    let mut subscribers: Vec<_> = topics.iter().map(|topic| topic.group("g").join().unwrap()).collect();
    let mut publishers: Vec<_> = topics.iter().map(|topic| topic.publisher().unwrap()).collect();
    for round in 0..10 {
        publishers[0].publish(b"begin").unwrap();
        for at in 0..3 {
            let message = next(&mut subscribers[at]);
            let meta = Meta::new().caused_by(&message.metadata());
            let published = publishers[at + 1].publish_bytes_with(Lane::NORMAL, b"on", &meta);
            message.ack().unwrap();
            match (at, published) {
                (0 | 1, Ok(_)) => {}
                (2, Err(PublishError::Loop(looped))) => assert_eq!(looped.cut, None, "round {round}"),
                (_, other) => panic!("round {round}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_topic_says_how_many_causes_may_lie_behind_its_messages() {
    let cli = CliBus::new("loop-limit");
    let bus = cli.bus.open("tester");
    cli.run(&["create", "ping", "--max-hops", "3", "--group", "player"]).expect(0);
    assert!(cli.run(&["info", "ping"]).expect(0).out.contains("3 at most"));
    assert_eq!(cli.run(&["info", "ping", "--json"]).expect(0).json()["settings"]["hops_max"], 3);
    cli.run(&["create", "ping", "--max-hops", "4"]).expect(6).says("max-hops");
    cli.run(&["create", "other", "--max-hops", "0"]).expect(2);
    let none = bus.topic_builder::<Bytes>("other").hops_max(0).open();
    assert!(matches!(none, Err(TopicError::Option { option: "max-hops", .. })), "{none:?}");
    let other = bus.topic::<Bytes>("other").unwrap();
    assert_eq!(view(&cli.bus).topic(other.name()).unwrap().settings().unwrap().hops_max, 64);
    let mut game = PingPong::new(&bus, 3);
    // A publisher allows less, and no more.
    for (asked, limit) in [(None, 3), (Some(9), 3), (Some(1), 1)] {
        for publisher in &mut game.publishers {
            asked.into_iter().for_each(|hops| publisher.set_hops_max(hops));
        }
        match game.play(u128::from(limit)) {
            PublishError::Loop(looped) => assert_eq!((looped.limit, looped.hops), (limit, limit + 1)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn requests_and_answers_are_counted_like_other_messages() {
    let test = TestBus::new("loop-requests");
    let bus = test.open("asker");
    let topic = bus.topic_builder::<Bytes>("ask").hops_max(1).with_group("g").open().unwrap();
    let mut replier = topic.group("g").join().unwrap();
    let client = bus.requester().unwrap();
    let ask =
        |meta: &Meta| client.send_bytes::<Bytes, Bytes>("ask", b"why?", &Ask::within(PATIENCE).meta(meta));
    // What the first request causes has one cause, and is let through; its answer has two, and is not.
    let first = ask(&Meta::new()).unwrap();
    let message = next(&mut replier);
    let second = ask(&Meta::new().caused_by(&message.metadata())).unwrap();
    message.reply_bytes(b"because").unwrap();
    message.ack().unwrap();
    assert_eq!(first.wait().unwrap().payload(), b"because");
    let message = next(&mut replier);
    match message.reply_bytes(b"because") {
        Err(ReplyError::TooDeep { topic, hops: 2, limit: 1, .. }) => assert_eq!(topic, "ask"),
        other => panic!("{other:?}"),
    }
    // A third would have two as well.
    match ask(&Meta::new().caused_by(&message.metadata())) {
        Err(RequestError::Publish(PublishError::Loop(looped))) => {
            assert_eq!((looped.hops, looped.limit), (2, 1));
            let letter = looped.letter.expect("a letter");
            let letters = dead_letters::list(&view(&test), &Filter::id(letter)).unwrap();
            assert_eq!((letters[0].topic.as_str(), letters[0].group.as_str()), ("ask", "_loops"));
        }
        other => panic!("{other:?}"),
    }
    // An error ends the conversation, and may always be told.
    message.reply_error("this goes on for ever").unwrap();
    message.ack().unwrap();
    assert!(matches!(second.wait(), Err(RequestError::Replied { .. })));
    assert_eq!(client.in_flight(), 0, "a request that was refused waits for nothing");
    assert_clean(&test);
}

#[test]
fn the_command_prints_the_tree() {
    let cli = CliBus::new("trace-cli");
    let bus = cli.bus.open("asker");
    let (topics, first) = fan_out(&bus);
    let mut subscriber = topics[4].group("agent").join().unwrap();
    next(&mut subscriber).reject("cannot\nlog this").unwrap();
    let ran = cli.run(&["trace", &first.to_string()]).expect(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("MESSAGE") && lines[0].ends_with("HOPS  DEAD LETTER"), "{}", ran.out);
    let begins: Vec<&str> =
        lines[1..].iter().map(|line| line.split_once(" normal").unwrap().0.trim_end()).collect();
    assert_eq!(begins, ["ask", "  plan", "    act", "    log", "  look", "    log"]);
    assert!(lines[4].ends_with("of agent: cannot\\nlog this"), "{}", lines[4]);
    let told = cli.run(&["trace", &format!("{:x}", first.as_correlation()), "--json"]).expect(0).json();
    assert_eq!(
        (&told["messages"][0]["id"], &told["messages"][2]["depth"]),
        (&first.to_string().into(), &2.into())
    );
    assert_eq!(told["messages"][3]["dead"][0]["error"], "cannot\nlog this");
    cli.run(&["trace", "cafe"]).expect(3).says("nothing of correlation cafe");
    cli.run(&["trace", "nonsense"]).expect(2).says("sub --json");
}
