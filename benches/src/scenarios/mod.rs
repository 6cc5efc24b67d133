//! The scenarios as the workers run them: one file each, all against [`crate::bus`].
//!
//! A part is one worker's share of a scenario. It is opened once and then runs many slices; between slices nothing is
//! under way: a slice ends when its last message has been received and acknowledged.

mod bus100k;
mod cost;
mod crew;
mod fanout;
mod latency;
mod mpmc;
mod paced;
mod pipeline;
mod priority;
mod request;
mod throughput;
mod total;
mod wake;

use crate::bus::Connection;
use crate::error::{BenchError, Result};
use crate::floor::Turn;
use crate::protocol::Outcome;
use crate::spec::{Crew, IN_PLACE_ONLY_BYTES, PAYLOAD_BYTES, Scenario, Spec};

pub(crate) use pipeline::{HOPS, REQUESTS, STAGES};

/// Stamp of the message that ends a slice.
const LAST: u64 = u64::MAX;

/// One worker's share of a scenario.
pub trait Part {
    /// Runs for about the length of the turn, then until all that was sent has been received.
    ///
    /// # Errors
    /// What is measured failed; the run goes on without it.
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome>;
}

/// What a worker keeps for all its parts: its connection to the bus of the group that is being measured.
#[derive(Default)]
pub(crate) struct Host {
    connection: Option<Connection>,
}

impl Host {
    fn connect(&mut self, spec: &Spec, role: usize) -> Result<&Connection> {
        if self.connection.is_none() {
            self.connection =
                Some(Connection::open(&spec.directory, &spec.bus, &format!("worker-{role}"), false)?);
        }
        self.connection.as_ref().ok_or(BenchError::Bus { call: "open", text: "no connection".into() })
    }
}

/// Opens one worker's share. The payload size is a constant of the code that runs, as it is in a user's program.
pub(crate) fn open(host: &mut Host, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    if spec.bare {
        return Ok(match spec.scenario {
            Scenario::Latency => Box::new(latency::Bare::default()),
            Scenario::Throughput => Box::new(throughput::Bare { payload_bytes: spec.payload_bytes }),
            _ => Box::new(pipeline::Bare::new()),
        });
    }
    let bus = host.connect(spec, role)?;
    match spec.payload_bytes {
        64 => open_sized::<8>(bus, spec, role),
        1_024 => open_sized::<128>(bus, spec, role),
        65_536 => open_sized::<8_192>(bus, spec, role),
        IN_PLACE_ONLY_BYTES if spec.in_place => {
            throughput::open_in_place::<{ IN_PLACE_ONLY_BYTES / 8 }>(bus, spec, role)
        }
        bytes => Err(BenchError::Payload { bytes, offered: PAYLOAD_BYTES.to_vec() }),
    }
}

fn open_sized<const WORDS: usize>(bus: &Connection, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    match spec.scenario {
        Scenario::Latency if spec.asks => request::open::<WORDS>(bus, spec, role),
        Scenario::Latency => latency::open::<WORDS>(bus, spec, role),
        Scenario::Paced => paced::open::<WORDS>(bus, spec, role),
        Scenario::Throughput if spec.in_place => throughput::open_in_place::<WORDS>(bus, spec, role),
        Scenario::Throughput if spec.total => total::open::<WORDS>(bus, spec, role),
        Scenario::Throughput => throughput::open::<WORDS>(bus, spec, role),
        Scenario::Fanout => fanout::open::<WORDS>(bus, spec, role),
        Scenario::Mpmc if spec.crew == Crew::Calls => mpmc::open::<WORDS>(bus, spec, role),
        Scenario::Mpmc => crew::open::<WORDS>(bus, spec, role),
        Scenario::Priority => priority::open::<WORDS>(bus, spec, role),
        Scenario::Wake => wake::open::<WORDS>(bus, spec, role),
        Scenario::Bus100k => bus100k::open::<WORDS>(bus, spec, role),
        Scenario::Pipeline => pipeline::open::<WORDS>(bus, spec, role),
        Scenario::Cost => cost::open::<WORDS>(bus, spec, role),
    }
}

/// Messages between two readings of the clock.
const fn block_ops(words: usize) -> u64 {
    match words {
        0..=1_024 => crate::blocks::BLOCK_OPS,
        1_025..=8_192 => 50,
        _ => 8,
    }
}
