//! A burst: nine agents that pass 50 to 200 messages among themselves for each request, and for a while ten times as many requests.
//!
//! Each internal message makes the next, in another agent's topic, so that a request is done when its chain is through. What is
//! measured is how soon after the spike no more is under way than before it.

use crate::footprint::rollup_bytes;
use crate::harness::{Agent, Role, TestBus};
use crate::scale::time_on_core;
use bus_shm::inspect::BusView;
use bus_shm::{Bus, Bytes, Topic};
use std::time::{Duration, Instant};

/// How many agents there are.
pub const AGENTS: usize = 9;
/// What an agent does with a message, in turns of a loop: a few microseconds.
const WORK: u32 = 2_000;
/// Slots of a topic's only lane.
const CAPACITY: u32 = 4_096;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Requests a second before and after the spike.
    pub rate: u32,
    /// How many times as many during the spike.
    pub factor: u32,
    /// How long each of the three parts takes.
    pub part: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Requests that were made, all of which were done.
    pub requests: u64,
    /// Internal messages that were handled for them.
    pub messages: u64,
    /// Most requests under way at a time, before the spike and during it.
    pub before_max: u64,
    /// During the spike.
    pub spike_max: u64,
    /// From the end of the spike until no more were under way than before it.
    pub drained: Duration,
    /// Cores that the agents took together, before the spike and during it.
    pub cores: (f64, f64),
    /// Memory of the agents' own, shared pages counted by share, and of the bus.
    pub agents_bytes: u64,
    /// Memory of the bus.
    pub bus_bytes: u64,
}

fn topic(bus: &Bus, name: &str) -> Topic<Bytes> {
    bus.topic_builder::<Bytes>(name).lanes(1).capacity(CAPACITY).open().expect("a topic")
}

fn agents_topic(index: u64) -> String {
    format!("burst.agent{}", index % AGENTS as u64)
}

/// How many internal messages a request takes: 50 to 200, the same for the same request.
fn length(request: u64) -> u64 {
    50 + request.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 151
}

fn words(payload: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("two words"));
    (word(0), word(8))
}

fn payload(request: u64, index: u64) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..8].copy_from_slice(&request.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes
}

/// One of the nine, in a process of its own: passes each message on.
pub fn agent(mut role: Role) {
    let me = role.number();
    let bus = role.open();
    let mut inbox = topic(&bus, &agents_topic(me)).group("agent").join().expect("a place");
    let mut next = topic(&bus, &agents_topic(me + 1)).publisher().expect("a place");
    let mut done = topic(&bus, "burst.done").publisher().expect("a place");
    role.parent.tell("ready");
    loop {
        let message = match inbox.receive() {
            Ok(message) => message,
            // The bus has been taken down: the measurement is over.
            Err(_) => return,
        };
        let (request, index) = words(message.payload());
        for turn in 0..WORK {
            std::hint::black_box(turn);
        }
        let outcome = match index + 1 < length(request) {
            true => next.publish(&payload(request, index + 1)),
            false => done.publish(&payload(request, index)),
        };
        outcome.expect("room");
        message.ack().expect("its message");
    }
}

/// Measures on a bus of its own. `entry` is what [`Agent::spawn`] needs to play the agents' role "burst".
pub fn measure(burst: Burst, entry: &str) -> Figures {
    let test = TestBus::new("burst");
    let bus = test.open("client");
    let mut done = topic(&bus, "burst.done").group("client").join().expect("a place");
    let mut agents: Vec<Agent> =
        (0..AGENTS).map(|index| Agent::spawn(entry, "burst", &test.name, index)).collect();
    for agent in &mut agents {
        agent.line.expect("ready");
    }
    let mut publisher = topic(&bus, &agents_topic(0)).publisher().expect("a place");
    let cores = || agents.iter().map(|agent| time_on_core(agent.pid())).sum::<Duration>();
    let (mut requests, mut finished, mut messages) = (0_u64, 0_u64, 0_u64);
    let mut under_way = [0_u64; 3];
    let mut shares = [0.0; 3];
    let mut drained = None;
    let mut spike_end = Instant::now();
    for (part, rate) in [burst.rate, burst.rate * burst.factor, burst.rate].into_iter().enumerate() {
        let (begun, before, first) = (Instant::now(), cores(), requests);
        if part == 2 {
            spike_end = begun;
        }
        while begun.elapsed() < burst.part {
            let due = first + (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            while requests < due {
                publisher.publish(&payload(requests, 0)).expect("room");
                messages += length(requests);
                requests += 1;
            }
            if let Some(message) = done.receive_timeout(Duration::from_millis(1)).expect("the bus") {
                finished += 1;
                message.ack().expect("its message");
            }
            let now = requests - finished;
            under_way[part] = under_way[part].max(now);
            if part == 2 && drained.is_none() && now <= under_way[0] {
                drained = Some(spike_end.elapsed());
            }
        }
        shares[part] = (cores() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    }
    while finished < requests {
        let message = done.receive_timeout(Duration::from_secs(20)).expect("the bus").expect("all are done");
        finished += 1;
        message.ack().expect("its message");
        if drained.is_none() && requests - finished <= under_way[0] {
            drained = Some(spike_end.elapsed());
        }
    }
    let view = BusView::open(&test.name, None).expect("the bus");
    let bus_bytes = view.briefs().into_iter().filter_map(|(_, brief)| Some(brief.ok()?.memory_bytes)).sum();
    let figures = Figures {
        requests,
        messages,
        before_max: under_way[0],
        spike_max: under_way[1],
        drained: drained.unwrap_or_else(|| spike_end.elapsed()),
        cores: (shares[0], shares[1]),
        agents_bytes: agents.iter().map(|agent| rollup_bytes(agent.pid(), "Pss")).sum(),
        bus_bytes,
    };
    bus.down(true).expect("it goes");
    for agent in agents {
        agent.join();
    }
    figures
}
