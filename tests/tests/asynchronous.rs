//! Subscriptions as streams, publishers as sinks, in tasks of tokio, with publishers in processes of their own.

use bus_shm::{AsyncPublisher, Bytes, Lane, ManyError, PublishError};
use futures_core::Stream;
use futures_sink::Sink;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};
use tests::harness::{Agent, Role, TestBus, assert_clean, eventually, role};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload.try_into().expect("eight bytes"))
}

/// Publishes `argument` messages to `a.0` .. `a.2` in turn, each when it is told to, or all if told "all".
fn publish(mut role: Role) {
    let bus = role.open();
    let mut publishers: Vec<_> =
        (0..3).map(|index| bus.topic::<Bytes>(&format!("a.{index}")).unwrap().publisher().unwrap()).collect();
    role.parent.tell("here");
    let mut all = false;
    for count in 0..role.number() {
        all = all || role.parent.hear() == "all";
        publishers[count as usize % 3].publish(&count.to_le_bytes()).unwrap();
        if !all {
            role.parent.tell("sent");
        }
    }
    role.parent.tell("done");
}

/// Gives others of the runtime, and its driver, so many turns.
async fn let_others_run(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

#[test]
fn messages_of_other_processes_come_to_a_task() {
    const ENTRY: &str = "messages_of_other_processes_come_to_a_task";
    const COUNT: u64 = 10_000;
    if let Some(role) = role() {
        return publish(role);
    }
    let test = TestBus::new("async-next");
    let bus = test.open("reader");
    let mut agent = Agent::spawn(ENTRY, "publisher", &test.name, COUNT);
    agent.line.expect("here");
    runtime().block_on(async {
        let mut subscriber = bus.subscribe_pattern::<Bytes>("a.*").join_async().unwrap();
        // One by one, asleep before each; and cancelled again and again while it waits.
        for expected in 0..100_u64 {
            for _ in 0..3 {
                let mut waiting = pin!(subscriber.next());
                let polled =
                    poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
                assert!(polled, "nothing was sent");
            }
            agent.line.tell("one");
            agent.line.expect("sent");
            let incoming = timeout(PATIENCE, subscriber.next()).await.expect("in time").unwrap();
            assert_eq!(
                (incoming.topic(), number(incoming.payload())),
                (&*format!("a.{}", expected % 3), expected)
            );
            incoming.ack().unwrap();
        }
        // And as fast as they come, each topic in order, with waits that are cut off anywhere.
        agent.line.tell("all");
        let mut next: Vec<u64> =
            (0..3).map(|index| (100..).find(|count| count % 3 == index).unwrap()).collect();
        let mut count = 100;
        while count < COUNT {
            match timeout(Duration::from_micros(50), subscriber.next()).await {
                Ok(incoming) => {
                    let incoming = incoming.unwrap();
                    let got = number(incoming.payload());
                    assert_eq!(next[got as usize % 3], got);
                    next[got as usize % 3] += 3;
                    count += 1;
                    incoming.ack().unwrap();
                }
                Err(_) => let_others_run(1).await,
            }
        }
    });
    agent.line.expect("done");
    agent.join();
    assert_clean(&test);
}

#[test]
fn a_stream_acknowledges_a_message_when_the_next_is_asked_for() {
    let test = TestBus::new("async-stream");
    let bus = test.open("reader");
    let topic = bus.topic::<Bytes>("a.t").unwrap();
    let mut publisher = topic.publisher().unwrap();
    let watcher = bus.subscribe_pattern::<Bytes>("a.*").group("g");
    runtime().block_on(async {
        let mut stream = watcher.join_async().unwrap().into_stream();
        for count in 0..3_u64 {
            publisher.publish(&count.to_le_bytes()).unwrap();
        }
        let mut next = async || {
            let message = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await.unwrap().unwrap();
            (number(message.payload()), message.attempts())
        };
        assert_eq!(next().await, (0, 1));
        assert_eq!(next().await, (1, 1));
        // Dropped with the second in hand: that one is given back, the first is done.
    });
    let mut again = topic.group("g").join().unwrap();
    let message = again.receive_timeout(PATIENCE).unwrap().expect("the second");
    assert_eq!((number(message.payload()), message.is_redelivered()), (1, true));
    message.ack().unwrap();
    drop(again);
    runtime().block_on(async {
        let join = || bus.subscribe_pattern::<Bytes>("a.*").group("g").join_async().unwrap().into_stream();
        let mut stream = join();
        async fn next(stream: &mut bus_shm::Messages<Bytes>) -> bus_shm::OwnedMessage<Bytes> {
            let next = poll_fn(|context| Pin::new(&mut *stream).poll_next(context));
            timeout(PATIENCE, next).await.expect("in time").unwrap().unwrap()
        }
        assert_eq!(number(next(&mut stream).await.payload()), 2);
        // It comes again by itself, when its time has come: the task sleeps until then.
        stream.retry("not yet").unwrap();
        let begun = Instant::now();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let message = next(&mut stream).await;
        assert_eq!((number(message.payload()), message.attempts()), (2, 2));
        assert!(begun.elapsed() >= Duration::from_millis(40), "after its delay: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_millis(300), "not much later: {:?}", begun.elapsed());
        let cpu_ns = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_nsec - cpu.tv_nsec;
        assert!(cpu_ns.rem_euclid(1_000_000_000) < 30_000_000, "awake all the while: {cpu_ns} ns");
        stream.ack().unwrap();
        assert_eq!(message.topic(), "a.t");
    });
    assert_clean(&test);
}

#[test]
fn a_sink_waits_for_room_and_loses_nothing() {
    const ENTRY: &str = "a_sink_waits_for_room_and_loses_nothing";
    const COUNT: u64 = 2_000;
    if let Some(mut role) = role() {
        let bus = role.open();
        let mut subscriber = bus.topic::<Bytes>("s").unwrap().group("g").join().unwrap();
        role.parent.tell("here");
        role.parent.expect("read");
        for expected in 0..COUNT {
            let message = subscriber.receive_timeout(PATIENCE).unwrap().expect("a message");
            assert_eq!(number(message.payload()), expected);
            message.ack().unwrap();
        }
        return role.parent.tell("all");
    }
    let test = TestBus::new("async-sink");
    let bus = test.open("writer");
    let topic = bus.topic_builder::<Bytes>("s").capacity(16).lanes(1).open().unwrap();
    let mut agent = Agent::spawn(ENTRY, "reader", &test.name, 0);
    agent.line.expect("here");
    runtime().block_on(async {
        let mut sink: AsyncPublisher<Bytes, Vec<u8>> = topic.publisher().unwrap().into_async();
        let item = |count: u64| count.to_le_bytes().to_vec();
        for count in 0..16 {
            sink.publish(&item(count)).await.unwrap();
        }
        // Full. A publication that is cut off has not happened.
        let cut_off = timeout(Duration::from_millis(20), sink.publish(&item(999))).await;
        assert!(cut_off.is_err());
        // What the sink has taken stays with it when the wait is cut off.
        poll_fn(|context| Pin::new(&mut sink).poll_ready(context)).await.unwrap();
        Pin::new(&mut sink).start_send(item(16)).unwrap();
        let flush =
            timeout(Duration::from_millis(20), poll_fn(|context| Pin::new(&mut sink).poll_flush(context)));
        assert!(flush.await.is_err());
        agent.line.tell("read");
        for count in 17..COUNT {
            poll_fn(|context| Pin::new(&mut sink).poll_ready(context)).await.unwrap();
            Pin::new(&mut sink).start_send(item(count)).unwrap();
        }
        poll_fn(|context| Pin::new(&mut sink).poll_close(context)).await.unwrap();
        // Errors other than a full lane come through.
        let none: Result<u64, PublishError> =
            topic.publisher().unwrap().into_async_to(Lane(3)).publish(&item(0)).await;
        assert!(matches!(none, Err(PublishError::Lane { .. })));
    });
    agent.line.expect("all");
    agent.join();
    assert_clean(&test);
}

#[test]
fn nothing_runs_while_nothing_comes() {
    const ENTRY: &str = "nothing_runs_while_nothing_comes";
    if let Some(mut role) = role() {
        let bus = role.open();
        let topics: Vec<_> =
            (0..50).map(|index| bus.topic::<Bytes>(&format!("q.{index}")).unwrap()).collect();
        drop(topics);
        return runtime().block_on(async {
            let mut subscriber = bus.subscribe_pattern::<Bytes>("q.*").join_async().unwrap();
            role.parent.tell("here");
            for expected in 0..2_u64 {
                let incoming = subscriber.next().await.unwrap();
                assert_eq!(number(incoming.payload()), expected);
                incoming.ack().unwrap();
                role.parent.tell("got");
            }
        });
    }
    let test = TestBus::new("async-idle");
    // The role of the supervisor is here, so that the child has one thread that does anything.
    let bus = test.open("writer");
    let mut agent = Agent::spawn(ENTRY, "reader", &test.name, 0);
    agent.line.expect("here");
    let mut publisher = bus.topic::<Bytes>("q.7").unwrap().publisher().unwrap();
    publisher.publish(&0_u64.to_le_bytes()).unwrap();
    agent.line.expect("got");
    // How often its threads gave up the core by themselves: a sleep that is not a sleep for good shows here.
    let switches = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
        tasks
            .map(|task| {
                let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
                let line =
                    status.lines().find(|line| line.starts_with("voluntary")).unwrap_or("0").to_owned();
                line.rsplit('\t').next().unwrap().parse::<u64>().unwrap_or(0)
            })
            .sum()
    };
    let mut last = switches();
    eventually("it has come to rest", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = switches();
        std::mem::replace(&mut last, now) == now
    });
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(switches(), last, "it woke up by itself");
    publisher.publish(&1_u64.to_le_bytes()).unwrap();
    agent.line.expect("got");
    agent.join();
}

#[test]
fn a_subscription_for_tasks_needs_a_runtime() {
    let test = TestBus::new("async-none");
    let bus = test.open("reader");
    let joined = bus.subscribe_pattern::<Bytes>("a.*").join_async();
    assert!(matches!(joined, Err(ManyError::NoRuntime)));
}

#[test]
fn a_busy_stream_lets_other_tasks_run() {
    let test = TestBus::new("async-turns");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Bytes>("a.t").capacity(4_096).open().unwrap();
    runtime().block_on(async {
        let mut subscriber = bus.subscribe_pattern::<Bytes>("a.*").join_async().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for count in 0..2_000_u64 {
            publisher.publish(&count.to_le_bytes()).unwrap();
        }
        let turns = std::rc::Rc::new(std::cell::Cell::new(0));
        let local = tokio::task::LocalSet::new();
        let counted = turns.clone();
        local.spawn_local(async move {
            loop {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        local
            .run_until(async {
                for _ in 0..2_000 {
                    subscriber.next().await.unwrap().ack().unwrap();
                }
            })
            .await;
        assert!(turns.get() >= 10, "{}", turns.get());
    });
}

#[test]
fn an_idle_task_takes_back_what_a_silent_member_holds() {
    let test = TestBus::new("async-silent");
    let bus = test.open("reader");
    let topic = bus.topic::<Bytes>("a.t").unwrap();
    let wait = Duration::from_millis(200);
    let mut silent = topic.group("g").shared().ack_wait(wait).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    publisher.publish(&7_u64.to_le_bytes()).unwrap();
    let held = silent.try_receive().unwrap().expect("the message");
    runtime().block_on(async {
        let many = bus.subscribe_pattern::<Bytes>("a.*").group("g").shared();
        let mut subscriber = many.join_async().unwrap();
        let incoming = timeout(Duration::from_secs(3), subscriber.next()).await.expect("in time").unwrap();
        assert_eq!((number(incoming.payload()), incoming.attempts()), (7, 2));
        incoming.ack().unwrap();
    });
    assert!(held.ack().is_err());
    drop(silent);
    assert_clean(&test);
}

#[test]
fn an_idle_task_joins_a_group_that_has_become_free() {
    let test = TestBus::new("async-freed");
    let bus = test.open("reader");
    let topic = bus.topic::<Bytes>("a.t").unwrap();
    let holder = topic.group("g").join().unwrap();
    runtime().block_on(async {
        let mut subscriber = bus.subscribe_pattern::<Bytes>("a.*").group("g").join_async().unwrap();
        assert!(matches!(subscriber.next().await, Err(ManyError::Join { .. })));
        assert!(timeout(Duration::from_millis(20), subscriber.next()).await.is_err());
        drop(holder);
        topic.publisher().unwrap().publish(&1_u64.to_le_bytes()).unwrap();
        let incoming = timeout(Duration::from_secs(5), subscriber.next()).await.expect("in time").unwrap();
        assert_eq!(number(incoming.payload()), 1);
        incoming.ack().unwrap();
    });
    assert_clean(&test);
}

#[test]
fn a_task_is_told_of_a_closed_bus_however_often_it_asks() {
    let test = TestBus::new("async-closed");
    let bus = test.open("reader");
    runtime().block_on(async {
        let mut subscriber = bus.subscribe_pattern::<Bytes>("a.*").join_async().unwrap();
        bus.down(true).unwrap();
        for _ in 0..3 {
            let told = timeout(PATIENCE, subscriber.next()).await.expect("in time");
            assert!(told.is_err());
        }
    });
}

#[test]
fn a_publisher_without_descriptors_rings_as_soon_as_it_has_some() {
    const ENTRY: &str = "a_publisher_without_descriptors_rings_as_soon_as_it_has_some";
    if let Some(mut role) = role() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let bus = role.open();
        let mut publisher = bus.topic::<Bytes>("a.t").unwrap().publisher().unwrap();
        // Its memory is open from now on.
        publisher.publish(&9_u64.to_le_bytes()).unwrap();
        role.parent.tell("here");
        role.parent.expect("go");
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
        publisher.publish(&0_u64.to_le_bytes()).unwrap();
        setrlimit(Resource::Nofile, before).unwrap();
        publisher.publish(&1_u64.to_le_bytes()).unwrap();
        return role.parent.tell("done");
    }
    let test = TestBus::new("async-emfile");
    let bus = test.open("reader");
    let mut agent = Agent::spawn(ENTRY, "publisher", &test.name, 0);
    agent.line.expect("here");
    runtime().block_on(async {
        let mut subscriber = bus.subscribe_pattern::<Bytes>("a.*").join_async().unwrap();
        assert!(timeout(Duration::from_millis(20), subscriber.next()).await.is_err(), "it is asleep");
        agent.line.tell("go");
        for expected in 0..2 {
            let incoming =
                timeout(Duration::from_secs(5), subscriber.next()).await.expect("in time").unwrap();
            assert_eq!(number(incoming.payload()), expected);
            incoming.ack().unwrap();
        }
    });
    agent.line.expect("done");
    agent.join();
    assert_clean(&test);
}

#[test]
fn a_flood_of_what_is_left_out_lets_other_tasks_run() {
    let test = TestBus::new("async-flood");
    let bus = test.open("reader");
    let topic = bus.topic_builder::<Bytes>("a.t").capacity(8_192).open().unwrap();
    runtime().block_on(async {
        let wanted = |payload: &[u8]| payload == 8_000_u64.to_le_bytes();
        let many = bus.subscribe_pattern::<Bytes>("a.*").each(move |one| one.filter_bytes(wanted));
        let mut subscriber = many.join_async().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for count in 0..=8_000_u64 {
            publisher.publish(&count.to_le_bytes()).unwrap();
        }
        let mut turns = 0;
        {
            let mut waiting = pin!(subscriber.next());
            while poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await {
                turns += 1;
                assert!(turns < 1_000, "it goes on");
            }
        }
        assert!(turns >= 2, "{turns}");
    });
}
