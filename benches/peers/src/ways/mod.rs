//! One module for each way to pass messages.

pub(crate) mod amqp;
pub(crate) mod boost;
pub(crate) mod crossbar;
pub(crate) mod iceoryx;
pub(crate) mod in_process;
pub(crate) mod ipc_channel;
pub(crate) mod library;
pub(crate) mod mq;
pub(crate) mod nats;
pub(crate) mod nng;
pub(crate) mod packet;
pub(crate) mod python;
pub(crate) mod redis;
pub(crate) mod ring;
pub(crate) mod ringfire;
pub(crate) mod shmbus;
pub(crate) mod stream;
pub(crate) mod wire;
pub(crate) mod zeromq;

use bus_bench::BenchError;
use bus_bench::guest::Part;

use crate::way::{Cell, Result, failed};

/// Slots of every ring whose size can be chosen: as many as a topic of ours has.
pub(crate) const SLOTS: u64 = 1_024;

/// Opens one worker's share of a cell, from its text.
pub(crate) fn open(text: &str, role: usize) -> Result<Box<dyn Part>> {
    let cell: Cell =
        serde_json::from_str(text).map_err(|error| BenchError::WorkerArguments(error.to_string()))?;
    match cell.bytes {
        64 => open_sized::<8>(&cell, role),
        1_024 => open_sized::<128>(&cell, role),
        bytes => Err(failed("opening a cell", format!("{bytes} bytes are not offered"))),
    }
}

fn open_sized<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    match cell.peer.as_str() {
        "shmbus" => shmbus::open::<W>(cell, role),
        "pipe" => stream::open_pipe::<W>(cell, role),
        "unix stream" => stream::open_unix::<W>(cell, role),
        "unix seqpacket" => packet::open::<W>(cell, role),
        "posix mq" => mq::open::<W>(cell, role),
        "ring + eventfd" => ring::open::<W>(cell, role),
        "ringfire" => ringfire::open::<W>(cell, role),
        "iceoryx2" => iceoryx::open::<W>(cell, role),
        "crossbar" => crossbar::open::<W>(cell, role),
        "ipc-channel" => ipc_channel::open::<W>(cell, role),
        "rtrb" => in_process::open_rtrb::<W>(cell),
        "crossbeam-channel" => in_process::open_crossbeam::<W>(cell),
        "disruptor" => in_process::open_disruptor::<W>(cell),
        "zeromq" => zeromq::open::<W>(cell, role),
        "nng" => nng::open::<W>(cell, role),
        "boost queue" => boost::open::<W>(cell, role),
        "redis pub/sub" => redis::open_channel::<W>(cell, role),
        "redis streams" => redis::open_stream::<W>(cell, role),
        "nats" => nats::open_core::<W>(cell, role),
        "nats jetstream" => nats::open_jetstream::<W>(cell, role),
        "rabbitmq" => amqp::open::<W>(cell, role),
        "python multiprocessing" => python::open(cell, "multiprocessing"),
        "python asyncio" => python::open(cell, "asyncio"),
        name => Err(failed("opening a cell", format!("no peer is called {name}"))),
    }
}
