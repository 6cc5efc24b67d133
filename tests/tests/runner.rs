//! The handler runner: patterns, concurrency, causes, rejections, and an orderly end.
//!
//! Every child is this test binary again, in the test [`agent`].

use bus_shm::dead_letters::{self, Filter};
use bus_shm::handlers::{Handled, HandlerError, Handlers, give_back, reject};
use bus_shm::inspect::BusView;
use bus_shm::{Batch, Bus, Bytes, Context, Incoming, Lane, ManyError, Meta, Registration, Start};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Words, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

fn spawn(role: &str, test: &TestBus, argument: &str) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "slow" => slow(role),
        "after" => after(role),
        other => panic!("no role {other:?}"),
    }
}

/// Tells of each message that it takes, and has done with it when it is told so. The argument is how long it may take to end, in
/// milliseconds, and in how many threads it works.
fn slow(role: Role) {
    let bus = role.builder().temporary(false).open().unwrap();
    let (drain, threads) = role.argument.split_once(' ').unwrap();
    let parent = Arc::new(Mutex::new(role.parent));
    let mut handlers = Handlers::new().drain_within(Duration::from_millis(drain.parse().unwrap()));
    let line = parent.clone();
    let work = move |message: &mut Incoming<'_, Bytes>, context: &mut Context| {
        let mut parent = line.lock().unwrap();
        parent.tell(format!("{} {}", message.sequence(), message.attempts()));
        if parent.hear() == "until told to end" {
            eventually("it is time to end", || context.shutdown_requested());
        }
        parent.tell(format!("done, shutdown {}", context.shutdown_requested()));
        Ok(())
    };
    handlers
        .add(bus.on_concurrently::<Bytes, _>("task.*", threads.parse().unwrap(), work).group("workers"))
        .unwrap();
    let handled: Vec<Handled> = handlers.run().unwrap();
    let said = format!("handled {} unfinished {}", handled[0].handled_count, handled[0].unfinished_count);
    match parent.try_lock() {
        Ok(mut parent) => parent.tell(said),
        // The handler that has not finished holds the line.
        Err(_) => assert_eq!(said, "handled 0 unfinished 1"),
    }
}

/// Runs handlers twice, which end by themselves, and then does something else for long.
fn after(mut role: Role) {
    let bus = role.builder().temporary(false).open().unwrap();
    for _ in 0..2 {
        let mut handlers = Handlers::new();
        let end = |_: &mut Incoming<'_, Bytes>, context: &mut Context| {
            context.stop();
            Ok(())
        };
        handlers.add(bus.on::<Bytes, _>("task.a", end).from(Start::Oldest)).unwrap();
        let mut publisher = bus.topic::<Bytes>("task.a").unwrap().publisher().unwrap();
        publisher.publish(b"1").unwrap();
        assert_eq!(handlers.run().unwrap()[0].handled_count, 1);
    }
    // And once more, until a signal comes.
    let mut handlers = Handlers::new();
    handlers.add(bus.on::<Bytes, _>("task.a", |_, _| Ok(()))).unwrap();
    role.parent.tell("again");
    handlers.run().unwrap();
    role.parent.tell("has run");
    role.parent.hear();
}

/// Waits until the child catches SIGTERM; its handlers have begun before that.
fn wait_until_caught(agent: &Agent) {
    let status = format!("/proc/{}/status", agent.pid());
    eventually("signals are caught", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
    });
}

fn publish(bus: &Bus, topic: &str, texts: &[&str]) {
    let mut publisher = bus.topic::<Bytes>(topic).unwrap().publisher().unwrap();
    texts.iter().for_each(|text| _ = publisher.publish(text.as_bytes()).unwrap());
}

fn lag(test: &TestBus, topic: &str) -> u64 {
    let state = BusView::open(&test.name, None).unwrap().topic(topic).unwrap().sample();
    state.groups.iter().flat_map(|group| &group.lanes).map(|lane| lane.lag_count).sum()
}

fn text_of(message: &Incoming<'_, Bytes>) -> String {
    String::from_utf8_lossy(message.payload()).into_owned()
}

/// Starts one handler.
fn start<T: bus_shm::Speak + Send + 'static>(registration: Registration<T>) -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add(registration).unwrap();
    handlers
}

#[test]
fn a_pattern_is_handled_in_order_and_what_follows_names_its_cause() {
    let test = TestBus::new("runner-pattern");
    let bus = test.open("thinker");
    let (sender, heard) = channel();
    publish(&bus, "question.a", &["1", "2"]);
    let mut answers = bus.topic::<Bytes>("answer").unwrap().group("asker").join().unwrap();
    let handlers = start(
        bus.on::<Bytes, _>("question.*", move |question, context| {
            let text = text_of(question);
            sender.send(format!("{} {text}", question.topic()))?;
            context.publish_bytes("answer", format!("re {text}").as_bytes())?;
            Ok(())
        })
        .from(Start::Oldest),
    );
    let next = || heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!([next(), next()], ["question.a 1", "question.a 2"]);
    // One that is created later joins by itself.
    publish(&bus, "question.b", &["3"]);
    assert_eq!(next(), "question.b 3");
    for expected in ["re 1", "re 2", "re 3"] {
        let answer = answers.receive_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(answer.payload(), expected.as_bytes());
        let (cause, hops) = (answer.metadata().cause(), answer.metadata().hops());
        let lanes_first = if expected == "re 2" { 1 } else { 0 };
        assert_eq!((cause.unwrap().sequence, hops), (lanes_first, 1));
        answer.ack().unwrap();
    }
    let state = BusView::open(&test.name, None).unwrap().topic("question.a").unwrap().sample();
    assert_eq!(state.groups[0].name, "thinker", "the group has the service's name");
    let begun = Instant::now();
    let handled = handlers.stop();
    assert!(begun.elapsed() < Duration::from_millis(900), "a sleep was waited for: {:?}", begun.elapsed());
    assert_eq!((handled[0].name.as_str(), handled[0].handled_count), ("question.*", 3));
    harness::assert_clean(&test);
}

#[test]
fn errors_rejections_and_panics_become_what_they_should() {
    let test = TestBus::new("runner-errors");
    let bus = test.open("worker");
    bus.topic_builder::<Bytes>("task").with_group("worker").open().unwrap();
    publish(&bus, "task", &["good", "fails", "reject", "panic", "back", "good"]);
    let mut was_back = false;
    let handlers = start(
        bus.on::<Bytes, _>("task", move |task, _| match text_of(task).as_str() {
            "good" => Ok(()),
            "fails" => Err(format!("attempt {}", task.attempts()).into()),
            "reject" => Err(reject("never")),
            "back" if !std::mem::replace(&mut was_back, true) => Err(give_back()),
            "back" => Ok(()),
            other => panic!("no such task: {other}"),
        })
        .name("careful")
        .from(Start::Oldest)
        .attempts(3)
        .retry_delays(Duration::ZERO, Duration::ZERO),
    );
    let view = BusView::open(&test.name, None).unwrap();
    let letters = || dead_letters::list(&view, &Filter::default()).unwrap();
    eventually("all are settled", || letters().len() == 3 && lag(&test, "task") == 0);
    let mut found: Vec<_> =
        letters().into_iter().map(|letter| (letter.error, letter.attempts, letter.handler)).collect();
    found.sort();
    let expected = [("attempt 3", 3), ("never", 1), ("panicked: no such task: panic", 3)]
        .map(|(error, attempts)| (error.to_owned(), attempts, "careful".to_owned()));
    assert_eq!(found, expected);
    let handled = handlers.stop().remove(0);
    let counts =
        (handled.handled_count, handled.failed_count, handled.rejected_count, handled.panicked_count);
    assert_eq!(counts, (3, 4, 1, 3));
    assert!(handled.ended_by.is_none() && handled.troubles.is_empty(), "{handled:?}");
}

#[test]
fn so_many_are_handled_at_a_time_as_were_asked_for() {
    let test = TestBus::new("runner-many");
    let bus = test.open("worker");
    bus.topic_builder::<Bytes>("task").with_shared_group("worker").open().unwrap();
    publish(&bus, "task", &["1", "2", "3", "4"]);
    // Each waits until all four are in hand.
    let all = Arc::new(Barrier::new(4));
    let together = move |_: &mut Incoming<'_, Bytes>, _: &mut Context| {
        all.wait();
        Ok(())
    };
    let handlers = start(bus.on_concurrently::<Bytes, _>("task", 4, together).from(Start::Oldest));
    eventually("all are done", || lag(&test, "task") == 0);
    assert_eq!(handlers.stop()[0].handled_count, 4);
}

#[test]
fn batches_are_handled_side_by_side_and_come_again_after_an_error() {
    let test = TestBus::new("runner-batch");
    let bus = test.open("worker");
    let mut publisher = bus.topic::<Words>("task").unwrap().publisher().unwrap();
    (0..10).for_each(|number| _ = publisher.publish(&Words::numbered(number)).unwrap());
    let (sender, heard): (Sender<Vec<(u64, bool)>>, _) = channel();
    let mut fails = true;
    let handlers = start(
        bus.on_batch::<Words, _>("task", 6, move |batch, _| {
            let mut numbers = Vec::new();
            while let Some(message) = batch.next_message()? {
                numbers.push((message.value()?.number(), message.is_redelivered()));
            }
            sender.send(numbers)?;
            if std::mem::replace(&mut fails, false) {
                return Err("not yet".into());
            }
            Ok(())
        })
        .from(Start::Oldest),
    );
    let first = heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(first, (0..6).map(|number| (number, false)).collect::<Vec<_>>());
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend(heard.recv_timeout(PATIENCE).unwrap());
    }
    // What was given back is in doubt, one by one; what had not been handed out is not.
    assert_eq!(seen, (0..10).map(|number| (number, number < 6)).collect::<Vec<_>>());
    drop(handlers);
}

#[test]
fn a_topic_that_cannot_be_joined_is_told_at_once_if_it_was_named() {
    let test = TestBus::new("runner-busy");
    let bus = test.builder().temporary(false).service("workers").open().unwrap();
    bus.topic::<Bytes>("task.a").unwrap();
    let mut holder = spawn("slow", &test, "10000 1");
    wait_until_caught(&holder);
    let nothing = |_: &mut Incoming<'_, Bytes>, _: &mut Context| -> Result<(), HandlerError> { Ok(()) };
    let refused = Handlers::new().add(bus.on("task.a", nothing));
    assert!(matches!(refused, Err(ManyError::Join { .. })), "{refused:?}");
    // By a pattern the others go on, and it is said afterwards.
    let is_read = Arc::new(AtomicBool::new(false));
    let note = {
        let is_read = is_read.clone();
        move |_: &mut Incoming<'_, Bytes>, _: &mut Context| -> Result<(), HandlerError> {
            is_read.store(true, Ordering::Relaxed);
            Ok(())
        }
    };
    let handlers = start(bus.on("*", note));
    publish(&bus, "other", &["1"]);
    eventually("the other is read", || is_read.load(Ordering::Relaxed));
    let handled = handlers.stop().remove(0);
    assert!(handled.troubles[0].contains("\"task.a\""), "{handled:?}");
    assert!(Handlers::new().add(bus.on("a.+b", nothing)).is_err());
    holder.kill();
    bus.down(true).unwrap();
}

#[test]
fn a_signal_lets_a_handler_finish_and_take_no_more() {
    let test = TestBus::new("runner-drain");
    let bus = test.builder().temporary(false).service("boss").open().unwrap();
    let topic = bus.topic_builder::<Bytes>("task.a").with_group("workers").open().unwrap();
    publish(&bus, "task.a", &["1", "2"]);
    let mut agent = spawn("slow", &test, "10000 1");
    agent.line.expect("0 1");
    wait_until_caught(&agent);
    agent.signal(libc::SIGTERM);
    agent.line.tell("until told to end");
    agent.line.expect("done, shutdown true");
    agent.line.expect("handled 1 unfinished 0");
    agent.join();
    assert_eq!(lag(&test, "task.a"), 1);
    let mut next = topic.group("workers").join().unwrap();
    let message = next.receive().unwrap();
    assert_eq!((message.sequence(), message.attempts()), (1, 1), "it was not touched");
    drop(message);
    drop(next);
    bus.down(true).unwrap();
}

#[test]
fn a_handler_that_does_not_finish_is_left_alone_and_its_message_comes_again() {
    let test = TestBus::new("runner-limit");
    let bus = test.builder().temporary(false).service("boss").open().unwrap();
    let topic = bus.topic_builder::<Bytes>("task.a").with_group("workers").open().unwrap();
    publish(&bus, "task.a", &["1"]);
    let mut agent = spawn("slow", &test, "100 1");
    agent.line.expect("0 1");
    wait_until_caught(&agent);
    agent.signal(libc::SIGINT);
    assert!(agent.wait().success());
    let mut next = topic.group("workers").join().unwrap();
    let message = next.receive().unwrap();
    assert_eq!((message.sequence(), message.attempts()), (0, 2));
    drop(message);
    drop(next);
    bus.down(true).unwrap();
}

#[test]
fn a_second_signal_ends_at_once() {
    let test = TestBus::new("runner-second");
    let bus = test.builder().temporary(false).service("boss").open().unwrap();
    bus.topic_builder::<Bytes>("task.a").with_group("workers").open().unwrap();
    publish(&bus, "task.a", &["1"]);
    let mut agent = spawn("slow", &test, "10000 1");
    agent.line.expect("0 1");
    wait_until_caught(&agent);
    agent.signal(libc::SIGTERM);
    // Signals of one number that wait are one: until the first has been taken.
    let status = format!("/proc/{}/status", agent.pid());
    eventually("the first has been taken", || {
        let text = std::fs::read_to_string(&status).unwrap();
        text.lines()
            .filter(|line| line.starts_with("ShdPnd:") || line.starts_with("SigPnd:"))
            .all(|line| line.ends_with("0000000000000000"))
    });
    let begun = Instant::now();
    agent.signal(libc::SIGTERM);
    let status = agent.wait();
    assert_eq!((status.code(), status.signal()), (Some(128 + 15), None));
    assert!(begun.elapsed() < Duration::from_secs(5));
    bus.down(true).unwrap();
}

#[test]
fn what_a_killed_runner_had_in_hand_goes_to_the_next() {
    let test = TestBus::new("runner-killed");
    let bus = test.builder().temporary(false).service("boss").open().unwrap();
    bus.topic_builder::<Bytes>("task.a").with_shared_group("workers").open().unwrap();
    publish(&bus, "task.a", &["1", "2"]);
    let mut first = spawn("slow", &test, "10000 2");
    first.line.expect("0 1");
    first.kill();
    let mut next = spawn("slow", &test, "10000 2");
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push(next.line.hear());
        next.line.tell("go on");
        next.line.expect("done, shutdown false");
    }
    heard.sort();
    // The second thread of the first one may have had the second message, without a word yet.
    assert_eq!(heard[0], "0 2");
    assert!(heard[1] == "1 1" || heard[1] == "1 2", "{heard:?}");
    wait_until_caught(&next);
    next.signal(libc::SIGTERM);
    next.line.expect("handled 2 unfinished 0");
    next.join();
    bus.down(true).unwrap();
}

#[test]
fn signals_mean_what_they_did_once_handlers_have_run() {
    let test = TestBus::new("runner-after");
    let bus = test.builder().temporary(false).service("boss").open().unwrap();
    bus.topic::<Bytes>("task.a").unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut agent = spawn("after", &test, "");
        agent.line.expect("again");
        // The first one only ends the run, although others have ended before it: until that, it may come too early.
        std::thread::sleep(Duration::from_millis(100));
        agent.signal(signal);
        agent.line.expect("has run");
        agent.signal(signal);
        assert_eq!(agent.wait().signal(), Some(signal), "it is caught for ever");
    }
    bus.down(true).unwrap();
}

/// A handler of batches that fails for some, in this kind of group: what becomes of each.
fn fail_in_batches(test: &TestBus, is_shared: bool) {
    let bus = test.open("worker");
    let builder = bus.topic_builder::<Bytes>("task");
    let builder = if is_shared { builder.with_shared_group("worker") } else { builder.with_group("worker") };
    builder.open().unwrap();
    publish(&bus, "task", &["good", "fails", "good", "reject", "panic", "good", "later", "good"]);
    let begun = Instant::now();
    let outage = Duration::from_millis(300);
    let work = move |batch: &mut bus_shm::Batch<'_, Bytes>, _: &mut Context| {
        let mut texts = Vec::new();
        while let Some(message) = batch.next_message()? {
            texts.push(String::from_utf8_lossy(message.payload()).into_owned());
        }
        for text in texts {
            match text.as_str() {
                "good" => {}
                "later" if begun.elapsed() > outage => {}
                "reject" => return Err(reject("never")),
                "panic" => panic!("what a task"),
                other => return Err(format!("cannot {other}").into()),
            }
        }
        Ok(())
    };
    let registration = bus
        .on_batch::<Bytes, _>("task", 8, work)
        .from(Start::Oldest)
        // Those that come again at the same time are a batch once more, which counts: even half of these outlast the outage.
        .attempts(40)
        .retry_delays(Duration::from_millis(5), Duration::from_millis(25));
    let handlers = start(if is_shared { registration.shared() } else { registration });
    let view = BusView::open(&test.name, None).unwrap();
    let letters = || dead_letters::list(&view, &Filter::default()).unwrap();
    let is_settled = || {
        let groups = view.topic("task").unwrap().sample().groups;
        lag(test, "task") == 0 && groups[0].waiting_count == 0
    };
    eventually("all are settled", || letters().len() == 3 && is_settled());
    let mut found: Vec<_> = letters().into_iter().map(|letter| letter.error).collect();
    found.sort();
    assert_eq!(found, ["cannot fails", "never", "panicked: what a task"]);
    assert!(begun.elapsed() >= outage, "nobody waited between two attempts");
    let handled = handlers.stop().remove(0);
    assert_eq!((handled.handled_count, handled.rejected_count), (5, 1), "{handled:?}");
}

#[test]
fn one_of_a_batch_that_fails_is_settled_by_itself() {
    fail_in_batches(&TestBus::new("runner-batch-one"), false);
    fail_in_batches(&TestBus::new("runner-batch-shared"), true);
}

/// A batch that fails when it has one message that was shown and looked for another, which it was not shown.
fn fail_after_a_look(name: &str, group: impl FnOnce(Registration<Bytes>) -> Registration<Bytes>) {
    let test = TestBus::new(name);
    let bus = test.open("worker");
    let mut publisher = bus.topic::<Bytes>("task").unwrap().publisher().unwrap();
    publisher.publish(b"shown").unwrap();
    let gone = Meta::new().ttl(Duration::from_nanos(1));
    publisher.publish_bytes_with(Lane::NORMAL, b"expired", &gone).unwrap();
    let (sender, heard) = channel();
    let mut fails = true;
    let registration = bus.on_batch::<Bytes, _>("task", 8, move |batch, _| {
        while let Some(message) = batch.next_message()? {
            sender.send(String::from_utf8_lossy(message.payload()).into_owned())?;
        }
        if std::mem::replace(&mut fails, false) { Err("not yet".into()) } else { Ok(()) }
    });
    let handlers = start(group(registration));
    for _ in 0..2 {
        assert_eq!(heard.recv_timeout(PATIENCE).as_deref(), Ok("shown"), "{name}");
    }
    eventually("all are settled", || lag(&test, "task") == 0);
    let handled = handlers.stop().remove(0);
    assert_eq!((handled.handled_count, handled.rejected_count), (1, 0), "{name}: {handled:?}");
}

#[test]
fn a_batch_that_fails_behind_a_message_that_nobody_sees_loses_neither() {
    fail_after_a_look("runner-look-one", |registration| registration.from(Start::Oldest));
    fail_after_a_look("runner-look-shared", |registration| registration.from(Start::Oldest).shared());
}

#[test]
fn a_batch_that_fails_when_it_has_acknowledged_its_last_message_puts_the_other_aside() {
    let test = TestBus::new("runner-acked");
    let bus = test.open("worker");
    let topic = bus.topic_builder::<Bytes>("task").with_group("crew").open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(b"normal").unwrap();
    let (sender, heard) = channel();
    let mut fails = true;
    let work = move |batch: &mut Batch<'_, Bytes>, _: &mut Context| -> Result<(), HandlerError> {
        while let Some(message) = batch.next_message()? {
            let is_normal = message.payload() == b"normal";
            sender.send(String::from_utf8_lossy(message.payload()).into_owned())?;
            if is_normal && fails {
                publisher.publish_bytes(Lane::CRITICAL, b"critical")?;
            }
        }
        if std::mem::replace(&mut fails, false) {
            batch.ack_up_to(Lane::CRITICAL, 0);
            return Err("not yet".into());
        }
        Ok(())
    };
    let handlers = start(bus.on_batch::<Bytes, _>("task", 8, work).group("crew"));
    for expected in ["normal", "critical", "normal"] {
        assert_eq!(heard.recv_timeout(PATIENCE).as_deref(), Ok(expected));
    }
    eventually("all are settled", || lag(&test, "task") == 0);
    drop(handlers);
    assert!(heard.try_recv().is_err(), "something came once more");
}

#[test]
fn handlers_that_would_take_each_others_messages_are_refused() {
    let test = TestBus::new("runner-overlap");
    let bus = test.open("worker");
    bus.topic::<Bytes>("task.a").unwrap();
    let nothing = |_: &mut Incoming<'_, Bytes>, _: &mut Context| -> Result<(), HandlerError> { Ok(()) };
    let mut handlers = start(bus.on("task.a", nothing));
    let refused = handlers.add(bus.on("task.*", nothing)).unwrap_err().to_string();
    assert!(refused.contains("group \"worker\" of topic \"task.a\" is held by pid"), "{refused}");
    handlers.add(bus.on("task.*", nothing).group("another")).unwrap();
    // Neither is one that has nothing to take.
    bus.topic::<Words>("words").unwrap();
    let typed = |_: &mut Incoming<'_, Words>, _: &mut Context| -> Result<(), HandlerError> { Ok(()) };
    handlers.add(bus.on("words", typed)).unwrap();
    let refused = handlers.add(bus.on("task.a", typed).group("typed"));
    assert!(matches!(&refused, Err(ManyError::Join { topic, .. }) if topic == "task.a"), "{refused:?}");
}

#[test]
fn what_does_not_end_in_time_is_waited_for_once() {
    let test = TestBus::new("runner-once");
    let bus = test.open("worker");
    bus.topic_builder::<Bytes>("task").with_group("worker").open().unwrap();
    publish(&bus, "task", &["1"]);
    let (begins, began) = channel();
    let (go, wait) = channel::<()>();
    let mut handlers = Handlers::new().drain_within(Duration::from_millis(400));
    let work = move |_: &mut Incoming<'_, Bytes>, _: &mut Context| -> Result<(), HandlerError> {
        begins.send(())?;
        let _ = wait.recv();
        Ok(())
    };
    handlers.add(bus.on("task", work).from(Start::Oldest)).unwrap();
    began.recv_timeout(PATIENCE).unwrap();
    let begun = Instant::now();
    assert_eq!(handlers.stop()[0].unfinished_count, 1);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(780), "{took:?}");
    drop(go);
}

/// An error that cannot be told.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("no words")
    }
}

impl std::error::Error for Unspeakable {}

#[test]
fn an_error_that_panics_when_it_is_told_is_a_panic_like_any_other() {
    let test = TestBus::new("runner-words");
    let bus = test.open("worker");
    bus.topic_builder::<Bytes>("task").with_group("worker").open().unwrap();
    publish(&bus, "task", &["bad", "good"]);
    let work = |task: &mut Incoming<'_, Bytes>, _: &mut Context| -> Result<(), HandlerError> {
        if task.payload() == b"bad" { Err(Box::new(Unspeakable)) } else { Ok(()) }
    };
    let handlers = start(bus.on("task", work).from(Start::Oldest).attempts(1));
    let view = BusView::open(&test.name, None).unwrap();
    let letters = || dead_letters::list(&view, &Filter::default()).unwrap();
    eventually("both are settled", || letters().len() == 1 && lag(&test, "task") == 0);
    assert_eq!(letters()[0].error, "panicked: no words");
    assert_eq!(handlers.stop()[0].handled_count, 1);
}
