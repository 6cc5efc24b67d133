//! The library's examples, each run as the program that it is.

use bus_shm::inspect::BusView;
use bus_shm::{Bus, Bytes};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tests::harness::{TestBus, assert_clean, eventually};

/// Longest time that a program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names of the agents and of the topics between them, in the order in which a request goes through them.
const ROLES: [&str; 5] = ["observer", "reasoner", "guardian", "actor", "learner"];
const TOPICS: [&str; 5] =
    ["observation.request", "reasoning.plan", "guard.approved", "action.done", "learning.noted"];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this crate")
}

/// Where the examples are. The first caller builds them, with the profile of this test and beside it.
fn examples() -> &'static Path {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let test = std::env::current_exe().expect("the test's own path");
        // <target>/<profile>/deps/<test>
        let profile_dir = test.parent().and_then(Path::parent).expect("a profile's directory");
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()).expect("its name") {
            "debug" => "dev",
            other => other,
        };
        let built = Command::new(env!("CARGO"))
            // All of the workspace, as `cargo test --workspace` has built it: of one package alone, whatever others ask of its
            // dependencies would be built once more without.
            .args(["build", "--quiet", "--workspace", "--examples", "--profile", profile])
            .arg("--target-dir")
            .arg(profile_dir.parent().expect("the target directory"))
            .current_dir(workspace())
            .status()
            .expect("cargo");
        assert!(built.success(), "the examples could not be built");
        profile_dir.join("examples")
    })
}

/// A directory for buses of its own, so that programs with a fixed bus name do not meet those of other tests.
struct Shelf(PathBuf);

impl Shelf {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/shm/test-examples-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory under /dev/shm");
        Self(path)
    }

    fn start(&self, example: &str) -> Program {
        let mut command = Command::new(examples().join(example));
        command.env(bus_shm::directory::DIR_VARIABLE, &self.0);
        Program::start(command)
    }

    /// Runs an example and fails unless each of these texts is in what it prints, in this order.
    fn expect(&self, example: &str, texts: &[&str]) {
        self.start(example).expect(texts);
    }

    fn assert_empty(&self) {
        let base = bus_shm::directory::base_dir(Some(&self.0));
        let left: Vec<_> = std::fs::read_dir(base).expect("the directory").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program; killed when dropped.
struct Program {
    name: String,
    child: Child,
    said: Receiver<String>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the program");
        let mut stdout = child.stdout.take().expect("its output");
        let (sender, said) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            let _ = sender.send(text);
        });
        Self { name, child, said }
    }

    /// Waits for its end and fails unless it ended well. What it has printed.
    fn finish(mut self) -> String {
        let said = self.said.recv_timeout(PATIENCE);
        let said = said.unwrap_or_else(|_| panic!("{} has not ended within {PATIENCE:?}", self.name));
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{} ended with {status} and said:\n{said}", self.name);
        said
    }

    fn expect(self, texts: &[&str]) {
        let name = self.name.clone();
        let said = self.finish();
        let mut rest = said.as_str();
        for text in texts {
            let at =
                rest.find(text).unwrap_or_else(|| panic!("{name}: no {text:?}, or not here, in:\n{said}"));
            rest = &rest[at + text.len()..];
        }
    }

    fn kill(mut self) {
        self.child.kill().expect("a running program");
        self.child.wait().expect("its end");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_programs_of_the_readme_have_twelve_lines() {
    let readme = std::fs::read_to_string(workspace().join("README.md")).expect("README.md");
    for example in ["publisher", "subscriber"] {
        let path = workspace().join("bus-shm/examples").join(example).with_extension("rs");
        let text = std::fs::read_to_string(path).expect("the example");
        let code: Vec<_> = text.lines().filter(|line| !line.starts_with("//!")).collect();
        assert_eq!(code.len(), 12, "{example}");
        assert!(readme.contains(&code.join("\n")), "README.md shows another {example}");
    }
}

#[test]
fn a_published_message_waits_for_its_subscriber() {
    let shelf = Shelf::new();
    shelf.expect("publisher", &["published message 0"]);
    shelf.expect("publisher", &["published message 1"]);
    shelf.expect("subscriber", &["received \"An invoice\""]);
    let mut topic = view(&shelf).topic("email.received").expect("the topic");
    let group = topic.sample().groups.pop().expect("the group");
    let lag: u64 = group.lanes.iter().map(|lane| lane.lag_count).sum();
    assert_eq!((group.name.as_str(), group.state, lag), ("reasoner", "held", 1));
    take_down(&shelf);
}

#[test]
fn a_subscriber_waits_for_its_message() {
    let shelf = Shelf::new();
    let subscriber = shelf.start("subscriber");
    eventually("the subscriber has joined", || {
        let bus = BusView::open("demo", Some(&shelf.0));
        let topic = bus.ok().and_then(|bus| bus.topic("email.received").ok());
        topic.is_some_and(|mut topic| topic.sample().groups.iter().any(|group| group.state == "active"))
    });
    shelf.expect("publisher", &["published message 0"]);
    subscriber.expect(&["received \"An invoice\""]);
    take_down(&shelf);
}

fn view(shelf: &Shelf) -> BusView {
    BusView::open("demo", Some(&shelf.0)).expect("a bus that outlives its programs")
}

/// The bus of the short programs lives until it is taken down.
fn take_down(shelf: &Shelf) {
    let bus = Bus::builder("demo").dir(&shelf.0).create(false).open().expect("the bus");
    bus.down(true).expect("force takes every bus down");
    drop(bus);
    shelf.assert_empty();
}

#[test]
fn messages_say_more_of_themselves() {
    let shelf = Shelf::new();
    let texts = [
        "a question from clerk about customer-7: true",
        "the answer names the question: true",
        "correlation beef, 1 hop",
        "the offer has expired: true",
    ];
    shelf.expect("metadata", &texts);
    shelf.assert_empty();
}

#[test]
fn a_publisher_is_told_what_became_of_its_messages() {
    let shelf = Shelf::new();
    let texts = [
        "before anybody has looked: pending",
        "the books are paid for",
        "the elephant: no price for elephants (handler charge, 1 attempt)",
        "billing: handled",
        "shipping: handled",
        "billing is through: true",
    ];
    shelf.expect("receipt", &texts);
    shelf.assert_empty();
}

#[test]
fn two_who_answer_each_other_for_ever_are_cut() {
    let shelf = Shelf::new();
    let texts = [
        "round 1: refused at 65 hops, cut: false",
        "round 3: refused at 65 hops, cut: true",
        "round 4: talk.question causes nothing in talk.answer for a while",
        "dead letter of _loops: .. -> ",
        "talk.question -> talk.answer (65 hops, 64 allowed)",
    ];
    shelf.expect("loop_cut", &texts);
    shelf.assert_empty();
}

#[test]
fn subscribers_are_handed_only_what_they_want() {
    let shelf = Shelf::new();
    let texts = [
        "spot check: 50 handed out, 450 left out",
        "too hot: 5 handed out, 495 left out",
        "boiler: 100 handed out, 400 left out",
    ];
    shelf.expect("filters", &texts);
    shelf.assert_empty();
}

#[test]
fn handlers_work_beside_each_other() {
    let shelf = Shelf::new();
    let texts =
        ["orders that add up to 15", "invoice: handled 5, panicked 0", "careless: handled 4, panicked 2"];
    shelf.expect("handlers", &texts);
    shelf.assert_empty();
}

#[test]
fn an_agent_on_the_runner_ends_at_a_signal() {
    let shelf = Shelf::new();
    let agent = shelf.start("runner");
    let bus = |create| {
        let builder = Bus::builder("example-runner").dir(&shelf.0).service("asker").temporary(true);
        builder.host(false).create(create).open()
    };
    eventually("the agent is there", || bus(false).is_ok());
    let bus = bus(false).expect("the agent's bus");
    let mut answers = bus.topic::<Bytes>("answer").expect("a topic").group("asker").join().expect("a place");
    let mut questions =
        bus.topic::<Bytes>("question.sum").map(|topic| topic.publisher().expect("a place")).expect("a topic");
    questions.publish(b"2 3 4").expect("room");
    questions.publish(b"2 and 3").expect("room");
    questions.publish(b"\xff").expect("room");
    let answer = answers.receive_timeout(PATIENCE).expect("the bus").expect("an answer");
    assert_eq!(answer.payload(), b"question.sum: 9");
    assert_eq!(answer.metadata().hops(), 1);
    answer.ack().expect("its message");
    let view = BusView::open("example-runner", Some(&shelf.0)).expect("the bus");
    let letters = || bus_shm::dead_letters::list(&view, &Default::default()).expect("dead letters").len();
    eventually("two dead letters", || letters() == 2);
    let pid = rustix::process::Pid::from_child(&agent.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    agent.expect(&["handled 1, failed 4 times, rejected 1"]);
    drop((questions, answers, bus, view));
    eventually("the bus has gone", || {
        !bus_shm::directory::base_dir(Some(&shelf.0)).join("example-runner").exists()
    });
    shelf.assert_empty();
}

#[test]
fn each_of_the_five_agents_is_short() {
    for role in ROLES {
        let path = workspace().join(format!("bus-shm/examples/pipeline/{role}.rs"));
        let lines = std::fs::read_to_string(path).expect("an agent").lines().count();
        assert!(lines < 40, "{role} has {lines} lines");
    }
}

#[test]
fn a_publisher_lingers() {
    let shelf = Shelf::new();
    shelf.expect("linger", &["1000 messages in fewer batches: true"]);
    shelf.assert_empty();
}

#[test]
fn urgent_commands_overtake_ordinary_ones() {
    let shelf = Shelf::new();
    let order =
        ["high     look around", "normal   step 1", "critical stop", "normal   step 2", "normal   step 3"];
    shelf.expect("priority_lanes", &order);
    shelf.assert_empty();
}

#[test]
fn members_of_a_shared_group_divide_the_work() {
    let shelf = Shelf::new();
    shelf.expect("shared_group", &["is given back", "member 1 did 20 messages", "all 400, each once"]);
    shelf.assert_empty();
}

#[test]
fn members_of_a_keyed_group_have_each_key_for_themselves() {
    Shelf::new().expect("keyed_group", &["worker 2:", "20 accounts, 400 bookings, each account in order"]);
}

#[test]
fn batches_are_received_dropped_and_received_again() {
    let shelf = Shelf::new();
    let texts = [
        "published 100 at once",
        "received 64, on average 20.5 degrees",
        "received 36 and dropped them",
        "received 36 again, 36 of them marked",
        "then nothing",
    ];
    shelf.expect("batch", &texts);
    shelf.assert_empty();
}

#[test]
fn loans_are_filled_in_place() {
    let shelf = Shelf::new();
    let texts = ["frame 0: 64000 bytes, from 10 ", "frame 2: 64000 bytes, from 30 ", "leaves no message"];
    shelf.expect("loan_bytes", &texts);
    shelf.assert_empty();
}

#[test]
fn two_versions_of_a_type_share_a_topic() {
    let shelf = Shelf::new();
    let texts = [
        "old reader: x 1 y 2\n",
        "new reader: x 1 y 2 z 3\n",
        "old-reader: 1 of another type",
        "new-reader: 1 of another type",
        "refused: ",
        "Position v1",
        "Position v2",
        "Battery v1",
    ];
    shelf.expect("two_versions", &texts);
    shelf.assert_empty();
}

#[test]
fn a_group_that_stands_still_is_let_go_and_told_what_it_missed() {
    let shelf = Shelf::new();
    shelf.expect("stalled_group", &["received all 1000", "and missed ", "it missed 0.."]);
    shelf.assert_empty();
}

#[test]
fn a_window_of_time_is_published_once_more() {
    let shelf = Shelf::new();
    let texts =
        ["since then: first", "since then: second", "five minutes: 3", "replayed 2, gone meanwhile 0"];
    shelf.expect("replay_window", &[&texts[..], &["again: first", "again: second"]].concat());
    shelf.assert_empty();
}

#[test]
fn a_tap_misses_what_a_group_receives() {
    let shelf = Shelf::new();
    shelf.expect("tap", &["received all 1000", "and missed ", "the last gap was 0.."]);
    shelf.assert_empty();
}

#[test]
fn one_subscription_reads_many_topics() {
    let shelf = Shelf::new();
    shelf.expect("patterns", &["observation.email: fire", "2 topics"]);
    shelf.expect("patterns", &["observation.voice.call: ring", "2 topics"]);
    shelf.assert_empty();
}

#[test]
fn a_stream_and_a_sink_in_tasks() {
    let shelf = Shelf::new();
    shelf.expect("tokio_stream", &["observation.email: message 0", "message 1", "message 2", "all read"]);
    shelf.assert_empty();
}

/// One of the five agents.
fn agent(role: &str, bus: &str, requests: u64, work: Duration) -> Program {
    let mut command = Command::new(examples().join(format!("agent_{role}")));
    command
        .env("SHMBUS_BUS", bus)
        .args(["--requests", &requests.to_string()])
        .args(["--work-us", &work.as_micros().to_string()])
        .args(["--window", "32", "--json"]);
    Program::start(command)
}

/// What an agent says at its end.
fn report(program: Program) -> Value {
    let said = program.finish();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said:?}"))
}

/// For each topic how many messages were published, and how many of them its group has not finished.
fn counts(bus: &str) -> [(u64, u64); 5] {
    let bus = BusView::open(bus, None).expect("the bus");
    TOPICS.map(|name| {
        let Ok(mut topic) = bus.topic(name) else { return (0, 0) };
        let state = topic.sample();
        assert_eq!(state.groups.len(), 1, "{name}");
        let lag = state.groups[0].lanes.iter().map(|lane| lane.lag_count).sum();
        (state.lanes.iter().map(|lane| lane.end).sum(), lag)
    })
}

#[test]
fn five_agents_bring_every_request_through() {
    const REQUESTS: u64 = 300;
    const WORK: Duration = Duration::from_millis(1);
    // Those who wait first and the one who begins last, then the other way round: it must not matter.
    for order in [[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]] {
        let test = TestBus::new("pipeline");
        let bus = test.open("witness");
        let agents = order.map(|index| (ROLES[index], agent(ROLES[index], &test.name, REQUESTS, WORK)));
        for (role, agent) in agents {
            let report = report(agent);
            assert_eq!(report["role"], role);
            assert_eq!(report["handled"], REQUESTS, "{report}");
            assert_eq!(report["out_of_order"], 0, "{report}");
            assert_eq!(report["redelivered"], 0, "{report}");
            if role == "learner" {
                check_learned(&report["learned"], REQUESTS, WORK);
            }
        }
        let counts = counts(&test.name);
        // The closing request is one more.
        let through = |&(published, lag): &(u64, u64)| published == REQUESTS + 1 && lag == 0;
        assert!(counts[..4].iter().all(through), "{counts:?}");
        assert_clean(&test);
        drop(bus);
        test.assert_gone();
    }
}

fn check_learned(learned: &Value, requests: u64, work: Duration) {
    assert_eq!(learned["requests"], requests);
    assert_eq!(learned["repeated"], 0);
    assert!(learned["vetoed"].as_u64().is_some_and(|vetoed| vetoed > 0), "{learned}");
    // Two of the five work on each request.
    let median = learned["end_to_end_ns"]["p50"].as_u64().map(Duration::from_nanos);
    assert!(median.is_some_and(|median| median >= 2 * work), "{learned}");
}

#[test]
fn agents_end_without_a_witness_and_leave_nothing() {
    let test = TestBus::new("pipeline-alone");
    let agents = ROLES.map(|role| agent(role, &test.name, 50, Duration::ZERO));
    for agent in agents {
        assert_eq!(report(agent)["handled"], 50);
    }
    test.assert_gone();
}

#[test]
fn an_agent_that_is_killed_and_started_again_loses_nothing() {
    const REQUESTS: u64 = 4_000;
    // Long enough that they are still at it when the last of them is killed.
    const WORK: Duration = Duration::from_millis(3);
    let test = TestBus::new("pipeline-killed");
    let bus = test.open("witness");
    let mut agents = ROLES.map(|role| Some(agent(role, &test.name, REQUESTS, WORK)));
    for (index, after) in [(1, 300), (3, 900), (2, 1_500)] {
        eventually("requests go through", || counts(&test.name)[index].0 > after);
        agents[index].take().expect("an agent").kill();
        assert_clean(&test);
        agents[index] = Some(agent(ROLES[index], &test.name, REQUESTS, WORK));
    }
    let reports: Vec<_> = agents.into_iter().flatten().map(report).collect();
    assert_eq!(reports[0]["handled"], REQUESTS);
    assert_eq!(reports[4]["learned"]["requests"], REQUESTS, "{}", reports[4]);
    assert!(reports.iter().all(|report| report["out_of_order"] == 0), "{reports:?}");
    drop(bus);
    test.assert_gone();
}

#[test]
fn an_agent_that_is_called_wrongly_says_what_it_takes() {
    for arguments in [["--colour", "red"], ["--requests", "many"], ["--window", "0"]] {
        let called = Command::new(examples().join("agent_observer")).args(arguments).output().expect("it");
        assert_eq!(called.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&called.stderr).contains(arguments[0]), "{called:?}");
    }
}

#[test]
fn a_breaker_refuses_at_once_and_closes_by_itself() {
    let shelf = Shelf::new();
    let texts = [
        "full after 16 tasks, 16 held by the worker",
        "then refused at once: full",
        "what is critical passes",
        "published again",
    ];
    shelf.expect("circuit_breaker", &texts);
    shelf.assert_empty();
}

#[test]
fn a_quota_is_kept_and_lifted() {
    let shelf = Shelf::new();
    let texts = ["over the quota of 200 messages/s", "100 lines kept to the quota", "10000 more without one"];
    shelf.expect("quota", &texts);
    shelf.assert_empty();
}

#[test]
fn what_keeps_the_newest_waits_for_nobody() {
    let shelf = Shelf::new();
    let texts = ["tap()", "published 100000 and waited for nobody", "the display saw the last of them"];
    shelf.expect("keep_newest", &texts);
    shelf.assert_empty();
}

#[test]
fn requests_are_answered_and_a_mailbox_waits_for_its_owner() {
    let shelf = Shelf::new();
    let program = |example: &str, words: &[&str]| {
        let mut command = Command::new(examples().join(example));
        command.env(bus_shm::directory::DIR_VARIABLE, &shelf.0).args(words);
        Program::start(command)
    };
    let replier = program("request_reply", &["answer"]);
    let has_group = || {
        let view = BusView::open("demo", Some(&shelf.0)).ok();
        let topic = view.and_then(|view| view.topic("squares").ok());
        topic.is_some_and(|mut topic| topic.sample().groups.iter().any(|group| group.members > 0))
    };
    eventually("the replier is there", has_group);
    let said = program("request_reply", &["ask", "12", "4294967296", "3"]).finish();
    for line in [
        "question 0: the square of 12 is 144",
        "question 1: topic \"squares\": the replier answered with an error: the square is too large",
        "question 2: the square of 3 is 9",
    ] {
        assert!(said.contains(line), "no {line:?} in:\n{said}");
    }
    replier.kill();
    program("mailbox", &["reasoner", "first", "second"]).finish();
    let bus = Bus::builder("demo").dir(&shelf.0).service("owner").open().unwrap();
    let mut owner = bus.mailbox::<bus_shm::Bytes>("reasoner").unwrap().own().unwrap();
    for text in ["first", "second"] {
        let message = owner.receive_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!(message.payload(), text.as_bytes());
        message.ack().unwrap();
    }
    bus.down(true).unwrap();
}
