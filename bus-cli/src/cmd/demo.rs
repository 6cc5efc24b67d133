//! `shmbus demo`: five agents, each a process of its own, pass requests on to each other through a bus of their own.
//!
//! The agents are those of the library's examples; this program starts itself again as each of them. They are not in its
//! process group, so that an interrupt from the terminal comes to this process alone, which then ends them in order. Should it
//! be killed, their standard input ends, and the first of them to notice takes the bus down.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::signals::Signals;
use crate::units;
use bus_shm::Bus;
use bus_shm::inspect::{BusView, TopicView};
use pipeline::Start;
use pipeline::messages::TOPICS;
use pipeline::options::Options;
use pipeline::report::describe;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

#[path = "../../../bus-shm/examples/pipeline/mod.rs"]
mod pipeline;

/// Time between two looks at the lag.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long agents get to end by themselves once the bus is down.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many requests
    #[arg(long, value_name = "N", default_value = "10000", value_parser = units::parse_count)]
    requests: u64,
    /// Simulated work of two of the five agents on each request
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = units::parse_duration)]
    work: Duration,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// As JSON, an object a line
    #[arg(long)]
    json: bool,
}

/// What `demo` starts its agents with.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    role: String,
    #[arg(last = true)]
    options: Vec<String>,
}

/// The agents, in the order in which a request comes to them.
const ROLES: [(&str, Start); 5] = [
    ("observer", pipeline::observer::start),
    ("reasoner", pipeline::reasoner::start),
    ("guardian", pipeline::guardian::start),
    ("actor", pipeline::actor::start),
    ("learner", pipeline::learner::start),
];

/// One of the agents.
pub(crate) fn run_agent(args: &AgentArgs) -> ExitCode {
    let Some((role, start)) = ROLES.into_iter().find(|(role, _)| *role == args.role) else {
        eprintln!("no agent is called {:?}; there are {}", args.role, ROLES.map(|(role, _)| role).join(", "));
        return ExitCode::from(2);
    };
    pipeline::main(role, start, args.options.iter().cloned())
}

/// All five, and what they do.
pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let signals = Arc::new(Signals::catch()?);
    let options = Options {
        bus: format!("demo-{}", std::process::id()),
        requests: args.requests,
        work: args.work,
        window: args.window,
        json: true,
        until_eof: true,
    };
    let mut builder = Bus::builder(&options.bus).service("demo").temporary(true);
    if let Some(dir) = &place.dir {
        builder = builder.dir(dir);
    }
    let bus = builder.open()?;
    let mut lag = Lag::new(BusView::open(&options.bus, place.dir.as_deref())?);
    let (sender, events) = channel();
    let mut agents = Agents { bus, children: Vec::new() };
    for (role, _) in ROLES {
        agents.start(role, place, &options, &sender)?;
    }
    if !args.json {
        output::print(&agents.introduction(&options))?;
    }
    let waiting = signals.clone();
    std::thread::spawn(move || {
        waiting.wait();
        let _ = sender.send(Event::Interrupted);
    });
    let learned = agents.watch(&events, &signals, || output::print(&lag.line(args.json)))?;
    if args.json {
        output::print_json_line(&learned)
    } else {
        output::print(&format!("{}\n", describe(&learned, &options)))
    }
}

enum Event {
    /// The agent of this number is about to end, or has ended; this is what it said.
    Ended(usize, String),
    Interrupted,
}

/// The agents' processes. None of them outlives this.
struct Agents {
    bus: Bus,
    children: Vec<Child>,
}

impl Agents {
    fn start(
        &mut self,
        role: &str,
        place: &Place,
        options: &Options,
        sender: &Sender<Event>,
    ) -> Result<(), Failure> {
        // Stays right when the program's file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("shmbus")
            .args(["demo-agent", role, "--"])
            .args(["--bus", &options.bus])
            .args(["--requests", &options.requests.to_string()])
            .args(["--work-us", &options.work.as_micros().to_string()])
            .args(["--window", &options.window.to_string()])
            .args(["--json", "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        if let Some(dir) = &place.dir {
            command.env(bus_shm::directory::DIR_VARIABLE, dir);
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::new(Code::Error, format_args!("cannot start the agent {role:?}: {error}"))
        })?;
        let number = self.children.len();
        if let Some(stdout) = child.stdout.take() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut said = String::new();
                let _ = BufReader::new(stdout).read_line(&mut said);
                let _ = sender.send(Event::Ended(number, said));
            });
        }
        self.children.push(child);
        Ok(())
    }

    fn introduction(&self, options: &Options) -> String {
        let agents: Vec<_> = ROLES
            .iter()
            .zip(&self.children)
            .map(|((role, _), child)| format!("{role} ({})", child.id()))
            .collect();
        format!(
            "{} requests, {} under way at a time, through {}\nbus {:?}, gone at the end; `shmbus top -b {}` shows more\n",
            options.requests,
            options.window,
            agents.join(", "),
            options.bus,
            options.bus,
        )
    }

    /// Until all have ended; what the learner has measured. `look` is called at the set intervals.
    fn watch(
        &mut self,
        events: &Receiver<Event>,
        signals: &Signals,
        mut look: impl FnMut() -> Outcome,
    ) -> Result<Value, Failure> {
        let mut learned = None;
        let mut running = self.children.len();
        let mut next_look = Instant::now() + LOOK_EVERY;
        while running > 0 {
            match events.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(number, said)) => {
                    let said: Value = serde_json::from_str(&said).unwrap_or_default();
                    self.check_end(number, &said)?;
                    running -= 1;
                    learned = said.get("learned").cloned().or(learned);
                }
                Ok(Event::Interrupted) => return Err(signals.interrupted()),
                Err(RecvTimeoutError::Timeout) => {
                    look()?;
                    next_look += LOOK_EVERY;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        learned.ok_or_else(|| Failure::new(Code::Error, "the learner has ended without a report"))
    }

    fn check_end(&mut self, number: usize, said: &Value) -> Outcome {
        let (role, _) = ROLES[number];
        let fail = |why: &dyn std::fmt::Display| {
            Failure::new(Code::Error, format_args!("the agent {role:?} has failed: {why}"))
        };
        // This ends its standard input too.
        let status = self.children[number].wait().map_err(|error| fail(&error))?;
        match said["error"].as_str() {
            Some(error) => Err(fail(&error)),
            None if !status.success() => Err(fail(&status)),
            None => Ok(()),
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let is_running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        if self.children.iter_mut().any(is_running) {
            let _ = self.bus.down(true);
        }
        self.children.iter_mut().for_each(|child| drop(child.stdin.take()));
        let deadline = Instant::now() + END_PATIENCE;
        while self.children.iter_mut().any(is_running) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The lag of each topic, in the order in which requests go through them.
struct Lag {
    bus: BusView,
    topics: [Option<TopicView>; TOPICS.len()],
    begun: Instant,
}

impl Lag {
    fn new(bus: BusView) -> Self {
        Self { bus, topics: [const { None }; TOPICS.len()], begun: Instant::now() }
    }

    fn line(&mut self, as_json: bool) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        let lags = self.sample();
        if as_json {
            let lag: serde_json::Map<_, _> =
                TOPICS.iter().zip(lags).map(|(topic, lag)| ((*topic).to_owned(), json!(lag))).collect();
            return format!("{}\n", json!({ "seconds": seconds, "lag": lag }));
        }
        let lags: Vec<_> =
            TOPICS.iter().zip(lags).map(|(topic, lag)| format!("{topic} {:<4}", lag.unwrap_or(0))).collect();
        format!("{seconds:>6.1} s  lag: {}\n", lags.join(" ").trim_end())
    }

    /// Messages published and not finished; `None` for a topic that nobody has created yet.
    fn sample(&mut self) -> [Option<u64>; TOPICS.len()] {
        let Self { bus, topics, .. } = self;
        std::array::from_fn(|index| {
            if topics[index].is_none() {
                topics[index] = bus.topic(TOPICS[index]).ok();
            }
            let groups = topics[index].as_mut()?.sample().groups;
            Some(groups.iter().flat_map(|group| &group.lanes).map(|lane| lane.lag_count).sum())
        })
    }
}
