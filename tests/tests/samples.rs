//! Lag in seconds on topics without stamps: what the supervisor notes is near the truth, goes on under another holder, and
//! cannot be spoilt by what else lies in its file.
//!
//! Every child is this test binary again, in the test [`agent`].

use bus_core::layout::samples as layout;
use bus_shm::directory::BusDir;
use bus_shm::inspect::{Age, BusView, Precision, TopicView};
use bus_shm::supervisor::Supervisor;
use bus_shm::{Bus, BusBuilder, Bytes, Publisher, fsck};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::cli::CliBus;
use tests::harness::{self, Agent, Role, TestBus, assert_clean, eventually};

/// How far from the truth an age may be, of a holder that is on time.
const NEAR: Duration = Duration::from_millis(250);
/// What a test itself may be late by, where the holder is.
const LATE: Duration = Duration::from_millis(100);

fn spawn(role: &str, test: &TestBus, argument: &str) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "supervisor" => supervisor(role),
        "paced" => paced(role),
        other => panic!("no role {other:?}"),
    }
}

/// A dedicated supervisor.
fn supervisor(mut role: Role) {
    let supervisor = Supervisor::take(&BusDir::new(&role.bus, None).unwrap(), false).unwrap();
    role.parent.tell("serving");
    let stopped = supervisor.serve().unwrap();
    role.parent.tell(format!("{stopped:?}"));
}

/// Publishes a message each time it is told to, and says when.
fn paced(mut role: Role) {
    let bus = role.builder().temporary(false).open().unwrap();
    let mut publisher = topic(&bus, &role.argument).publisher().unwrap();
    role.parent.tell("ready");
    while role.parent.try_hear().is_some() {
        publisher.publish(b"x").unwrap();
        role.parent.tell("published");
    }
}

fn builder(test: &TestBus) -> BusBuilder {
    Bus::builder(&test.name)
}

fn topic(bus: &Bus, name: &str) -> bus_shm::Topic<Bytes> {
    bus.topic_builder::<Bytes>(name).stamps(false).lanes(1).capacity(1024).open().unwrap()
}

fn served(test: &TestBus) -> Agent {
    let mut chief = spawn("supervisor", test, "");
    chief.line.expect("serving");
    chief
}

fn view(test: &TestBus, name: &str) -> TopicView {
    BusView::open(&test.name, None).unwrap().topic(name).unwrap()
}

fn age(view: &mut TopicView) -> Option<Age> {
    age_in(view, "g")
}

fn age_in(view: &mut TopicView, name: &str) -> Option<Age> {
    let groups = view.sample().groups;
    groups.iter().find(|group| group.name == name).expect("the group").lanes[0].age
}

/// Fails unless the group's oldest message is as old as `published` says.
fn assert_near(view: &mut TopicView, group: &str, published: Instant, near: Duration) {
    let before = published.elapsed();
    let age = age_in(view, group).expect("it lags");
    let (ns, after) = (Duration::from_nanos(age.ns), published.elapsed());
    assert_eq!(age.precision, Precision::Sampled);
    assert!(ns + near >= before && ns <= after + near, "{ns:?} instead of {before:?}, {near:?}");
}

/// Measures how late the holder's looks are: on a machine with other work an age cannot be better than they are.
struct Punctuality {
    worst_ns: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Punctuality {
    /// From now on; messages have come, so that the holder looks ten times a second.
    fn watch(test: &TestBus) -> Self {
        let (worst_ns, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (worst, over, name) = (worst_ns.clone(), is_over.clone(), test.path().join("topics/t/samples"));
        std::thread::spawn(move || {
            let file = std::fs::File::open(name).unwrap();
            let tick = || newest(&file) >> 32;
            let mut last = tick();
            while !over.load(Ordering::Relaxed) {
                let now = tick();
                worst.fetch_max(now.saturating_sub(last) << 23, Ordering::Relaxed);
                last = now;
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { worst_ns, is_over }
    }

    fn near(&self) -> Duration {
        NEAR.max(Duration::from_nanos(self.worst_ns.load(Ordering::Relaxed)) + LATE)
    }
}

impl Drop for Punctuality {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn newest(file: &std::fs::File) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, layout::newest(0) as u64).unwrap();
    u64::from_ne_bytes(word)
}

/// The end of the lane at the holder's last look.
fn noted(test: &TestBus) -> u64 {
    newest(&std::fs::File::open(test.path().join("topics/t/samples")).unwrap()) & 0xffff_ffff
}

/// From rest, a first message is seen half a second later at the worst: publishes one that nobody measures.
fn wake(test: &TestBus, publisher: &mut Publisher<Bytes>) {
    publisher.publish(b"x").unwrap();
    eventually("it is noted", || noted(test) == 1);
}

/// Publishes a message every 20 ms for so long; when each was.
fn publish_for(publisher: &mut Publisher<Bytes>, time: Duration) -> Vec<Instant> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < time {
        times.push(Instant::now());
        publisher.publish(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    times
}

#[test]
fn ages_are_near_the_truth_whatever_the_group_has_finished() {
    let test = TestBus::new("age");
    let _chief = served(&test);
    let bus = builder(&test).open().unwrap();
    let topic = topic(&bus, "t");
    let mut subscriber = topic.group("g").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut view = view(&test, "t");
    assert_eq!(age(&mut view), None, "no lag");
    wake(&test, &mut publisher);
    subscriber.receive().unwrap().ack().unwrap();
    let punctuality = Punctuality::watch(&test);
    let mut times = publish_for(&mut publisher, Duration::from_secs(2));
    // A silence, and a burst at its end.
    std::thread::sleep(Duration::from_millis(1_300));
    times.extend((0..100).map(|_| {
        publisher.publish(b"x").unwrap();
        Instant::now()
    }));
    times.extend(publish_for(&mut publisher, Duration::from_millis(500)));
    for (index, &published) in times.iter().enumerate() {
        assert_near(&mut view, "g", published, punctuality.near());
        let message = subscriber.receive().unwrap();
        assert_eq!(message.sequence(), index as u64 + 1);
        message.ack().unwrap();
    }
    assert_eq!(age(&mut view), None, "everything is finished");
    assert_clean(&test);
}

#[test]
fn a_topic_with_stamps_has_no_samples_and_tells_ages_exactly() {
    let test = TestBus::new("stamped");
    let bus = test.open("holder");
    let topic = bus.topic_builder::<Bytes>("t").lanes(1).with_group("g").open().unwrap();
    let begun = Instant::now();
    topic.publisher().unwrap().publish(b"x").unwrap();
    assert!(!test.path().join("topics/t/samples").exists());
    let age = age(&mut view(&test, "t")).expect("it lags");
    assert!(age.precision == Precision::Exact && Duration::from_nanos(age.ns) <= begun.elapsed());
}

#[test]
fn the_next_holder_goes_on_and_what_nobody_saw_is_not_made_up() {
    let test = TestBus::new("age-takeover");
    let mut chief = served(&test);
    let bus = builder(&test).open().unwrap();
    let mut subscriber = topic(&bus, "t").group("g").join().unwrap();
    let mut paced = spawn("paced", &test, "t");
    paced.line.expect("ready");
    let mut view = view(&test, "t");
    let mut publish = || {
        paced.line.tell("go");
        paced.line.expect("published");
        Instant::now()
    };
    // From rest, a first message is seen half a second later at the worst.
    publish();
    eventually("it is noted", || noted(&test) == 1);
    subscriber.receive().unwrap().ack().unwrap();
    let _held = topic(&bus, "t").group("h").join().unwrap();
    let punctuality = Punctuality::watch(&test);
    let first = publish();
    // That it has come stands in the holder's last look alone.
    eventually("it is noted", || noted(&test) == 2);
    let near = punctuality.near();
    chief.kill();
    // More than two looks could bridge: nobody holds the role.
    std::thread::sleep(Duration::from_millis(2_800));
    assert_near(&mut view, "g", first, near);
    let unseen = publish();
    subscriber.receive().unwrap().ack().unwrap();
    assert_eq!(age(&mut view), None, "it may have come at any time since");
    let _next = served(&test);
    eventually("the new holder has looked", || age(&mut view).is_some());
    let known = age(&mut view).unwrap();
    assert!(known.precision == Precision::AtLeast && Duration::from_nanos(known.ns) <= unseen.elapsed());
    assert_near(&mut view, "h", first, near);
    let punctuality = Punctuality::watch(&test);
    let seen = publish();
    subscriber.receive().unwrap().ack().unwrap();
    std::thread::sleep(Duration::from_millis(600));
    assert_near(&mut view, "g", seen, punctuality.near());
    drop(subscriber);
    assert_clean(&test);
}

#[test]
fn what_else_lies_in_the_file_is_ignored() {
    let test = TestBus::new("age-hostile");
    let _chief = served(&test);
    let bus = builder(&test).open().unwrap();
    let topic = topic(&bus, "t");
    let mut publisher = topic.publisher().unwrap();
    wake(&test, &mut publisher);
    let _group = topic.group("g").join().unwrap();
    let mut view = view(&test, "t");
    let punctuality = Punctuality::watch(&test);
    let times = publish_for(&mut publisher, Duration::from_millis(1_500));
    let file =
        std::fs::File::options().read(true).write(true).open(test.path().join("topics/t/samples")).unwrap();
    let put = |offset: usize, word: u64| file.write_all_at(&word.to_ne_bytes(), offset as u64).unwrap();
    let now = newest(&file);
    let (tick, end) = (now >> 32, now & 0xffff_ffff);
    // Beyond the end, of the future, of long ago with the end of now, of now with the end of long ago, and rubbish.
    let lies = [tick << 32 | (end + 5), (tick + 1_000) << 32 | end, (tick - 400) << 32 | end, tick << 32 | 1];
    for (place, lie) in lies.into_iter().chain((0..40).map(|n| !0 - n * 0x1234_5678_9abc)).enumerate() {
        put(layout::kept(0) + (layout::KEPT - 1 - place) * 8, lie);
    }
    let near = punctuality.near();
    drop(punctuality);
    assert_near(&mut view, "g", times[0], near);
    // In the word that says where the holder was at its last look, half of another sample.
    put(layout::newest(0), (tick + 77) << 32 | 3);
    publish_for(&mut publisher, Duration::from_millis(500));
    assert_near(&mut view, "g", times[0], near);
    // No such file at all.
    put(0, 0);
    let report = fsck::check(&BusDir::new(&test.name, None).unwrap()).unwrap();
    let told: Vec<_> = report.problems.iter().map(|problem| problem.invariant.id()).collect();
    assert_eq!(told, ["file.unreadable"], "{:?}", report.problems);
    let mut other = self::view(&test, "t");
    assert_eq!(age(&mut other), None, "unknown, and no error");
    assert_eq!(other.sample().groups[0].lanes[0].lag_count, other.sample().lanes[0].end - 1);
}

#[test]
fn a_stopped_holder_that_goes_on_spoils_nothing() {
    let test = TestBus::new("age-stopped");
    let mut chief = served(&test);
    let bus = builder(&test).open().unwrap();
    let topic = topic(&bus, "t");
    let mut subscriber = topic.group("g").join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut view = view(&test, "t");
    publish_for(&mut publisher, Duration::from_millis(500));
    chief.stop();
    let mut next = spawn("supervisor", &test, "");
    next.line.expect("serving");
    publisher.publish(b"x").unwrap();
    let begin = view.sample().lanes[0].end;
    eventually("the new holder has looked", || noted(&test) == begin);
    let punctuality = Punctuality::watch(&test);
    let times = publish_for(&mut publisher, Duration::from_secs(1));
    chief.go_on();
    chief.line.expect("HandedOver");
    chief.join();
    for _ in 0..begin {
        subscriber.receive().unwrap().ack().unwrap();
    }
    for published in times {
        assert_near(&mut view, "g", published, punctuality.near());
        subscriber.receive().unwrap().ack().unwrap();
    }
}

#[test]
fn the_command_line_says_that_an_age_is_sampled() {
    let cli = CliBus::new("cli-sampled");
    cli.run(&["up"]).expect(0);
    cli.run(&["create", "a", "--no-stamps", "--lanes", "1", "--group", "g"]).expect(0);
    cli.run(&["pub", "a", "x"]).expect(0);
    let lag = |arguments: &[&str]| cli.run(arguments).expect(0);
    eventually("it is noted", || lag(&["lag"]).out.contains('~'));
    let lag = cli.run(&["lag", "--json"]).expect(0).json();
    let info = cli.run(&["info", "a", "--json"]).expect(0).json();
    let top = cli.run(&["top", "--once", "--json", "--interval", "50ms"]).expect(0).json();
    for group in [&lag["groups"][0], &info["groups"][0], &top["topics"][0]["groups"][0]] {
        for place in [group, &group["lanes"][0]] {
            assert_eq!(place["lag_ns_is"], "sampled", "{group}");
            assert!(place["lag_ns"].as_u64().unwrap() > 0);
        }
    }
    for arguments in [&["info", "a"][..], &["top", "-1", "--interval", "50ms"]] {
        assert!(cli.run(arguments).expect(0).out.contains('~'), "{arguments:?}");
    }
    cli.run(&["lag", "--max-age", "1us"]).expect(5).says("behind, more than");
    cli.run(&["create", "b", "--group", "g"]).expect(0);
    cli.run(&["pub", "b", "x"]).expect(0);
    let exact = cli.run(&["lag", "b", "--json"]).expect(0).json();
    assert_eq!(exact["groups"][0]["lag_ns_is"], "exact");
    cli.run(&["sub", "b", "-g", "g", "-n", "1"]).expect(0);
    assert!(cli.run(&["lag", "b", "--json"]).expect(0).json()["groups"][0]["lag_ns_is"].is_null());
    cli.run(&["down", "--force"]).expect(0);
}

#[test]
fn many_topics_at_rest_cost_next_to_nothing_and_gone_ones_are_let_go() {
    let test = TestBus::new("age-idle");
    let chief = served(&test);
    let bus = builder(&test).open().unwrap();
    let count = 300;
    for index in 0..count {
        bus.topic_builder::<Bytes>(&format!("t{index}")).stamps(false).capacity(8).open().unwrap();
    }
    let process = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", chief.pid())).unwrap();
    let mapped = || process("maps").lines().filter(|line| line.ends_with("/samples")).count();
    eventually("all are looked at", || mapped() == count);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", chief.pid())).unwrap().count();
    assert!(descriptors < 50, "{descriptors} descriptors");
    // Time on a core, of all its threads; ticks are too coarse.
    let used = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", chief.pid())).unwrap();
        let of_one = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.flatten().filter_map(of_one).sum())
    };
    let before = used();
    assert!(!before.is_zero());
    std::thread::sleep(Duration::from_secs(5));
    let spent = used() - before;
    assert!(spent < Duration::from_millis(15), "{spent:?} in 5 s");
    std::fs::remove_dir_all(test.path().join("topics/t7")).unwrap();
    eventually("it is let go", || process("maps").lines().all(|line| !line.contains("/t7/")));
    assert_eq!(mapped(), count - 1);
}
