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

/// Opens one worker's share.
pub(crate) fn open(host: &mut Host, spec: &Spec, role: usize) -> Result<Box<dyn Part>> {
    if spec.bare {
        return Ok(match spec.scenario {
            Scenario::Latency => Box::new(latency::Bare::default()),
            Scenario::Throughput => Box::new(throughput::Bare { payload_bytes: spec.payload_bytes }),
            _ => Box::new(pipeline::Bare::new()),
        });
    }
    let open = opener(spec)?;
    open(host.connect(spec, role)?, spec, role)
}

type Open = fn(&Connection, &Spec, usize) -> Result<Box<dyn Part>>;

/// What opens a share of this scenario. The payload size is a constant of the code that runs, as it is in a user's program; each
/// scenario is compiled for the sizes that rows have, and for no other, because each copy counts in the size of `shmbus`.
fn opener(spec: &Spec) -> Result<Open> {
    let open: Open = match (spec.scenario, spec.payload_bytes) {
        (Scenario::Latency, 64) if spec.asks => request::open::<8>,
        (Scenario::Latency, 64) => latency::open::<8>,
        (Scenario::Latency, 1_024) => latency::open::<128>,
        (Scenario::Latency, 65_536) => latency::open::<8_192>,
        (Scenario::Paced, 64) => paced::open::<8>,
        (Scenario::Paced, 1_024) => paced::open::<128>,
        (Scenario::Throughput, 1_024) if spec.in_place => throughput::open_in_place::<128>,
        (Scenario::Throughput, 65_536) if spec.in_place => throughput::open_in_place::<8_192>,
        (Scenario::Throughput, IN_PLACE_ONLY_BYTES) => {
            throughput::open_in_place::<{ IN_PLACE_ONLY_BYTES / 8 }>
        }
        (Scenario::Throughput, 64) if spec.total => total::open::<8>,
        (Scenario::Throughput, 64) => throughput::open::<8>,
        (Scenario::Throughput, 1_024) => throughput::open::<128>,
        (Scenario::Throughput, 65_536) => throughput::open::<8_192>,
        (Scenario::Fanout, 64) => fanout::open::<8>,
        (Scenario::Mpmc, 64) if spec.crew == Crew::Calls => mpmc::open::<8>,
        (Scenario::Mpmc, 64) => crew::open::<8>,
        (Scenario::Priority, 64) => priority::open::<8>,
        (Scenario::Wake, 64) => wake::open::<8>,
        (Scenario::Wake, 1_024) => wake::open::<128>,
        (Scenario::Wake, 65_536) => wake::open::<8_192>,
        (Scenario::Bus100k, 64) => bus100k::open::<8>,
        (Scenario::Pipeline, 64) => pipeline::open::<8>,
        (Scenario::Cost, 64) => cost::open::<8>,
        (Scenario::Cost, 1_024) => cost::open::<128>,
        (Scenario::Cost, 65_536) => cost::open::<8_192>,
        (_, bytes) => return Err(BenchError::Payload { bytes, offered: PAYLOAD_BYTES.to_vec() }),
    };
    Ok(open)
}

/// Messages between two readings of the clock.
const fn block_ops(words: usize) -> u64 {
    match words {
        0..=1_024 => crate::blocks::BLOCK_OPS,
        1_025..=8_192 => 50,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::Cores;
    use crate::options::Options;
    use crate::plan;
    use std::path::Path;

    #[test]
    fn every_row_is_compiled_for_its_payload() {
        let cores = Cores { list: vec![0, 1], pinned: true, physical: true };
        let mut rows = 0;
        for scenario in Scenario::ALL {
            for payloads in [vec![], vec![64], vec![1_024], vec![65_536], PAYLOAD_BYTES.to_vec()] {
                for full in [false, true] {
                    let scenarios = vec![scenario.name().to_owned()];
                    let options =
                        Options { full, scenarios, payloads: payloads.clone(), ..Options::default() };
                    // Of the largest payload there is throughput alone.
                    let groups = plan::groups(&options, &cores, Path::new("/dev/shm")).unwrap_or_default();
                    for spec in groups.iter().flat_map(|group| &group.entries).map(|entry| &entry.spec) {
                        assert!(spec.bare || opener(spec).is_ok(), "{spec:?}");
                        rows += 1;
                    }
                }
            }
        }
        assert!(rows > 200, "{rows} rows");
    }
}
