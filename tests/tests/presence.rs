//! Who takes part, and who has joined, left and died: `shmbus ps`, `Bus::set_status`, and events on `_bus.events`.
//!
//! Every child is this test binary again, in the test [`agent`].

use bus_core::layout::superblock::{PARTICIPANT_BYTES, at, told};
use bus_shm::directory::BusDir;
use bus_shm::inspect::BusView;
use bus_shm::presence::{Life, ProcessState};
use bus_shm::supervisor::Supervisor;
use bus_shm::{Bus, BusError, Bytes, Subscriber};
use serde_json::Value;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tests::cli::CliBus;
use tests::harness::{self, Agent, Role, TestBus, eventually};

/// From an act to its event.
const SOON: Duration = Duration::from_millis(100);
/// How much later an event may be because the machine had other work: a process that waits for its turn among many others.
const LOADED: Duration = Duration::from_millis(900);

fn spawn(role: &str, test: &TestBus, argument: impl std::fmt::Display) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "supervisor" => supervisor(role),
        "worker" => worker(role),
        _ => guest(role),
    }
}

/// A dedicated supervisor.
fn supervisor(mut role: Role) {
    let supervisor = Supervisor::take(&BusDir::new(&role.bus, None).unwrap(), true).unwrap();
    role.parent.tell("serving");
    let _ = supervisor.serve();
}

/// Joins, and leaves when it is told to, with the times at which it has done so.
fn guest(mut role: Role) {
    let bus = role.builder().temporary(false).host(role.argument == "host").open().unwrap();
    role.parent.tell(bus.now_ns());
    if role.parent.try_hear().as_deref() == Some("leave") {
        let begun = bus.now_ns();
        drop(bus);
        role.parent.tell(begun);
    }
}

/// Does as it is told with topics, and with its status.
fn worker(mut role: Role) {
    let bus = role.builder().temporary(false).host(false).open().unwrap();
    let mut publisher = bus.topic::<Bytes>("out").unwrap().publisher().unwrap();
    let mut reader = bus.topic::<Bytes>("in").unwrap().group("workers").shared().join().unwrap();
    role.parent.tell("ready");
    while let Some(asked) = role.parent.try_hear() {
        match asked.split_once(' ').unwrap_or((&asked, "")) {
            ("status", text) => bus.set_status(text).unwrap(),
            ("hold", _) => {
                let message = reader.receive().unwrap();
                role.parent.tell("holding");
                role.parent.hear();
                drop(message);
            }
            ("work", count) => {
                for _ in 0..count.parse::<u32>().unwrap() {
                    let message = reader.receive().unwrap();
                    publisher.publish(message.payload()).unwrap();
                    message.ack().unwrap();
                }
            }
            ("leave", _) => break,
            other => panic!("{other:?}"),
        }
        role.parent.tell("done");
    }
}

/// What was told, as it came, with the times of publication.
struct Told {
    tap: Subscriber<Bytes>,
    all: Vec<(Value, u64)>,
}

impl Told {
    fn new(bus: &Bus) -> Self {
        Self { tap: bus.events().unwrap().tap().unwrap(), all: Vec::new() }
    }

    /// Takes what is there.
    fn take(&mut self) {
        while let Some(message) = self.tap.receive_timeout(Duration::from_millis(1)).unwrap() {
            let event = serde_json::from_slice(message.payload()).unwrap();
            self.all.push((event, message.stamp_ns()));
            message.ack().unwrap();
        }
    }

    /// Waits for an event of this kind about this process.
    fn wait(&mut self, kind: &str, pid: u32) -> (Value, u64) {
        let mut found = None;
        eventually(&format!("{kind} of {pid}"), || {
            self.take();
            let is_it = |(event, _): &&(Value, u64)| event["event"] == kind && event["pid"] == pid;
            found = self.all.iter().find(is_it).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    fn count(&self, kind: &str, pid: u32) -> usize {
        self.all.iter().filter(|(event, _)| event["event"] == kind && event["pid"] == pid).count()
    }
}

#[test]
fn every_join_leave_and_death_is_told_once_and_soon() {
    const ROUNDS: usize = 100;
    let test = TestBus::new("presence-events");
    let mut supervisor = spawn("supervisor", &test, "");
    supervisor.line.expect("serving");
    let bus = test.builder().service("witness").host(false).open().unwrap();
    let mut told = Told::new(&bus);
    let mut acts: Vec<(&str, u32, u64)> = Vec::new();
    let mut agents = Vec::new();
    for round in 0..ROUNDS {
        let mut agent = spawn("guest", &test, "");
        acts.push(("join", agent.pid(), agent.line.hear_number()));
        agents.push((round, agent));
        // Some live for a while beside each other.
        if round % 4 == 3 {
            for (round, mut agent) in agents.drain(..) {
                if round % 2 == 0 {
                    agent.line.tell("leave");
                    acts.push(("leave", agent.pid(), agent.line.hear_number()));
                    agent.join();
                } else {
                    let begun = bus.now_ns();
                    agent.signal(libc::SIGKILL);
                    acts.push(("death", agent.pid(), begun));
                    told.take();
                    agent.kill();
                }
            }
        }
    }
    let mut late = Vec::new();
    for &(kind, pid, act_ns) in &acts {
        let (event, at_ns) = told.wait(kind, pid);
        assert_eq!(event["service"], "guest", "{event}");
        assert!(event["participant"].is_u64() && event["incarnation"].is_u64() && event["since_ns"].is_u64());
        let took = Duration::from_nanos(at_ns.saturating_sub(act_ns));
        assert!(took <= SOON + LOADED, "{kind} of {pid} after {took:?}");
        if took > SOON {
            late.push(took);
        }
    }
    assert!(late.len() * 20 <= acts.len(), "later than {SOON:?}: {late:?}");
    // What comes after the last act would be told twice.
    let mut last = spawn("guest", &test, "");
    last.line.hear();
    told.wait("join", last.pid());
    for &(kind, pid, _) in &acts {
        assert_eq!(told.count(kind, pid), 1, "{kind} of {pid}");
    }
    let ends = |pid| told.count("leave", pid) + told.count("death", pid);
    assert!(acts.iter().all(|&(_, pid, _)| ends(pid) == 1), "a leave is no death");
    assert!(told.all.iter().all(|(event, _)| event["service"] != "shmbus-events"), "not of itself");
    last.kill();
    bus.down(true).unwrap();
}

#[test]
fn a_death_tells_of_its_cause_and_of_what_was_in_hand() {
    let test = TestBus::new("presence-death");
    let mut supervisor = spawn("supervisor", &test, "");
    supervisor.line.expect("serving");
    let bus = test.builder().service("witness").host(false).open().unwrap();
    let mut told = Told::new(&bus);
    let mut agent = spawn("worker", &test, "");
    agent.line.expect("ready");
    bus.topic::<Bytes>("in").unwrap().publisher().unwrap().publish(b"work").unwrap();
    agent.line.tell("hold");
    agent.line.expect("holding");
    agent.signal(libc::SIGKILL);
    // Nobody has waited for it yet, so that its status is to be seen.
    let (event, _) = told.wait("death", agent.pid());
    assert_eq!(event["cause"], "signal 9", "{event}");
    assert_eq!((&event["in_hand"], &event["topic_count"]), (&1.into(), &2.into()), "{event}");
    assert_eq!(event["topics"], serde_json::json!(["out", "in"]));
    agent.kill();
    let mut next = bus.topic::<Bytes>("in").unwrap().group("workers").shared().join().unwrap();
    assert_eq!(next.receive().unwrap().attempts(), 2, "repaired");
    bus.down(true).unwrap();
}

/// The word of a participant entry that says what has been told.
fn put_told(test: &TestBus, participant: u64, offset: usize, incarnation: u64) {
    let file = std::fs::File::options().write(true).open(test.path().join("bus")).unwrap();
    let at = at::PARTICIPANTS + participant as usize * PARTICIPANT_BYTES + offset;
    file.write_all_at(&incarnation.to_ne_bytes(), at as u64).unwrap();
}

#[test]
fn a_successor_tells_what_its_predecessor_could_not() {
    let test = TestBus::new("presence-successor");
    let mut supervisor = spawn("supervisor", &test, "");
    supervisor.line.expect("serving");
    let bus = test.builder().service("witness").host(false).open().unwrap();
    let mut told = Told::new(&bus);
    let mut agents: HashMap<&str, Agent> = HashMap::new();
    for name in ["stays", "dies", "leaves", "unheard"] {
        let mut agent = spawn("guest", &test, "");
        agent.line.hear();
        told.wait("join", agent.pid());
        agents.insert(name, agent);
    }
    let pid = |agents: &HashMap<&str, Agent>, name: &str| agents[name].pid();
    supervisor.kill();
    // Nobody serves. One dies, one leaves, and of one the dead supervisor had not come to tell that it has joined.
    agents.get_mut("dies").unwrap().kill();
    let leaving = agents.get_mut("leaves").unwrap();
    leaving.line.tell("leave");
    leaving.line.hear();
    assert!(leaving.wait().success());
    let (event, _) = told.wait("join", pid(&agents, "unheard"));
    put_told(&test, event["participant"].as_u64().unwrap(), told::JOINED, 0);
    told.all.clear();
    let mut successor = spawn("supervisor", &test, "");
    successor.line.expect("serving");
    let mut last = spawn("guest", &test, "");
    last.line.hear();
    told.wait("join", last.pid());
    told.wait("death", pid(&agents, "dies"));
    told.wait("leave", pid(&agents, "leaves"));
    told.wait("join", pid(&agents, "unheard"));
    let mut counts: Vec<_> = told
        .all
        .iter()
        .map(|(event, _)| {
            (event["event"].as_str().unwrap().to_owned(), event["pid"].as_u64().unwrap() as u32)
        })
        .collect();
    counts.sort();
    let mut expected: Vec<_> = [
        ("death", pid(&agents, "dies")),
        ("join", pid(&agents, "unheard")),
        ("join", last.pid()),
        ("leave", pid(&agents, "leaves")),
    ]
    .map(|(kind, pid)| (kind.to_owned(), pid))
    .into();
    expected.sort();
    assert_eq!(counts, expected, "each once, and nothing that had been told");
    harness::assert_clean(&test);
    bus.down(true).unwrap();
}

fn state_of(view: &BusView, pid: u32, look: Duration) -> ProcessState {
    let first = view.look_at_processes();
    std::thread::sleep(look);
    first.finish().into_iter().find(|process| process.info.pid == pid).expect("it takes part")
}

#[test]
fn what_a_process_does_is_seen_from_outside() {
    let test = TestBus::new("presence-ps");
    let mut supervisor = spawn("supervisor", &test, "");
    supervisor.line.expect("serving");
    let bus = test.builder().service("witness").host(false).open().unwrap();
    let mut agent = spawn("worker", &test, "");
    agent.line.expect("ready");
    let view = BusView::open(&test.name, None).unwrap();
    let at_first = state_of(&view, agent.pid(), Duration::ZERO);
    assert_eq!((at_first.life, at_first.status.clone()), (Life::Alive, None));
    assert_eq!(at_first.publishes, ["out"]);
    let member = &at_first.member_of[0];
    assert_eq!(
        (member.topic.as_str(), member.group.as_str(), member.shared, member.members),
        ("in", "workers", true, 1)
    );
    assert_eq!(at_first.attached, Some(vec!["in".into(), "out".into()]));
    agent.line.tell("status reading inbox 3/10\tof \u{1f4e8}");
    agent.line.expect("done");
    let with_status = state_of(&view, agent.pid(), Duration::ZERO);
    assert_eq!(with_status.status.as_deref(), Some("reading inbox 3/10\tof \u{1f4e8}"));
    assert!(with_status.beat_ns > at_first.beat_ns, "saying something is a sign of life");
    // What it does during a look.
    let mut asker = bus.topic::<Bytes>("in").unwrap().publisher().unwrap();
    (0..50).for_each(|_| _ = asker.publish(b"work").unwrap());
    let (look, begun) = (view.look_at_processes(), Instant::now());
    agent.line.tell("work 50");
    agent.line.expect("done");
    // Long enough that it does not matter which of the two is looked at first.
    std::thread::sleep(Duration::from_millis(200).saturating_sub(begun.elapsed()));
    let working = look.finish().into_iter().find(|process| process.info.pid == agent.pid()).unwrap();
    assert!(working.published_per_s > 0.0 && working.handled_per_s > 0.0, "{working:?}");
    let share = working.published_per_s / working.handled_per_s;
    assert!((0.8..1.25).contains(&share), "each is published and handled: {working:?}");
    assert!(working.beat_ns > with_status.beat_ns);
    // A process that does nothing is not seen to do anything.
    let idle = [(); 2].map(|()| state_of(&view, agent.pid(), Duration::from_millis(20)));
    assert_eq!(idle[0].beat_ns, idle[1].beat_ns);
    assert_eq!(idle[1].published_per_s + idle[1].handled_per_s, 0.0);
    agent.stop();
    assert_eq!(state_of(&view, agent.pid(), Duration::ZERO).life, Life::Stopped);
    agent.go_on();
    agent.line.tell("status ");
    agent.line.expect("done");
    assert_eq!(state_of(&view, agent.pid(), Duration::ZERO).status, None, "taken back");
    // Dead, and nobody there to sweep.
    supervisor.kill();
    agent.kill();
    assert_eq!(state_of(&view, agent.pid(), Duration::ZERO).life, Life::Ended);
    assert!(bus.down(true).is_err(), "it may not host the role");
}

#[test]
fn a_status_has_limits() {
    let test = TestBus::new("presence-status");
    let bus = test.open("talker");
    bus.set_status(&"x".repeat(200)).unwrap();
    assert!(matches!(bus.set_status(&"x".repeat(201)), Err(BusError::Status { bytes: 201, max: 200 })));
    let view = BusView::open(&test.name, None).unwrap();
    let status = || state_of(&view, std::process::id(), Duration::ZERO).status;
    assert_eq!(status(), Some("x".repeat(200)));
    // The list in the same file is whole: the sweep of this process would find its topics.
    bus.topic::<Bytes>("t").unwrap().subscribe().unwrap();
    assert_eq!(state_of(&view, std::process::id(), Duration::ZERO).attached, Some(vec!["t".into()]));
    harness::assert_clean(&test);
    drop(bus);
    test.assert_gone();
}

#[test]
fn ps_shows_a_line_a_process() {
    let cli = CliBus::new("presence-cli");
    cli.run(&["ps"]).expect(3);
    cli.run(&["up"]).expect(0);
    cli.run(&["ps"]).expect(0).says("nobody takes part");
    let bus = Bus::builder(&cli.bus.name).service("talker").open().unwrap();
    bus.set_status("two\nlines \x1b[31mred").unwrap();
    let topics = ["a", "b", "c", "d", "e"];
    let _publishers = topics.map(|topic| bus.topic::<Bytes>(topic).unwrap().publisher().unwrap());
    let ran = cli.run(&["ps", "--interval", "10ms"]).expect(0);
    let line = ran.out.lines().nth(1).unwrap();
    assert!(line.starts_with("talker "), "{}", ran.out);
    assert!(line.contains(">a >b >c and 2 more") && line.contains("alive"), "{line}");
    assert!(line.ends_with("two\\nlines \\x1b[31mred"), "{line}");
    let json = cli.run(&["ps", "--json", "--interval", "0"]).expect(0).json();
    let process = &json["processes"][0];
    assert_eq!(process["publishes"], serde_json::json!(topics));
    assert_eq!(process["status"], "two\nlines \x1b[31mred");
    assert_eq!((&process["pid"], &process["published_per_s"]), (&std::process::id().into(), &Value::Null));
    // What a lease says that somebody has damaged is nothing.
    let lease = std::fs::read_dir(cli.path().join("leases")).unwrap().flatten().next().unwrap().path();
    let file = std::fs::File::options().write(true).open(lease).unwrap();
    file.write_all_at(&[0xa5; 200], 24).unwrap();
    let json = cli.run(&["ps", "--json", "--interval", "0"]).expect(0).json();
    assert_eq!(json["processes"][0]["status"], Value::Null);
}

#[test]
fn the_name_of_the_bus_s_own_thread_is_nobody_elses() {
    let test = TestBus::new("presence-own");
    let refused = test.builder().service("shmbus-events").open();
    assert!(matches!(refused, Err(BusError::Refused { .. })), "{refused:?}");
}
