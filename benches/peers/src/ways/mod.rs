//! One module for each way to pass messages.

pub(crate) mod mq;
pub(crate) mod packet;
pub(crate) mod ring;
pub(crate) mod shmbus;
pub(crate) mod stream;

use bus_bench::BenchError;
use bus_bench::guest::Part;

use crate::way::{Cell, Result, failed};

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
        name => Err(failed("opening a cell", format!("no peer is called {name}"))),
    }
}
