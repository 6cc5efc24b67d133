//! ipc-channel: bytes (best), or values by serde (as it comes).

use std::fmt::Display;

use bus_bench::guest::Part;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender, bytes_channel, channel,
};
use serde::{Deserialize, Serialize};

use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed, retry, seen_bytes};

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    if cell.tuned {
        let outbox = |way: &str| take_sender::<IpcBytesSender>(cell, way);
        let inbox = |way: &str| {
            let (to, from) = bytes_channel().map_err(|error| failed("making a channel", error))?;
            give_sender(cell, way, to)?;
            Ok(from)
        };
        return parts::open::<W, _, _>(cell, role, outbox, inbox);
    }
    let outbox = |way: &str| take_sender::<IpcSender<Vec<u64>>>(cell, way);
    let inbox = |way: &str| {
        let (to, from) = channel::<Vec<u64>>().map_err(|error| failed("making a channel", error))?;
        give_sender(cell, way, to)?;
        Ok(from)
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

/// Says where it waits, and takes the sender that the other side brings.
fn take_sender<S: Serialize + for<'de> Deserialize<'de>>(cell: &Cell, way: &str) -> Result<S> {
    let (server, name) = IpcOneShotServer::<S>::new().map_err(|error| failed("making a server", error))?;
    let (draft, path) = (cell.path(&format!("{way}.draft")), cell.path(way));
    std::fs::write(&draft, name)
        .and_then(|()| std::fs::rename(&draft, &path))
        .map_err(|error| failed("telling where the server is", error))?;
    Ok(server.accept().map_err(|error| failed("accepting", Text(error)))?.1)
}

fn give_sender<S: Serialize>(cell: &Cell, way: &str, sender: S) -> Result<()> {
    let name = retry("finding the server", || std::fs::read_to_string(cell.path(way)))?;
    let server = IpcSender::<S>::connect(name).map_err(|error| failed("connecting", error))?;
    server.send(sender).map_err(|error| failed("handing the sender over", Text(error)))
}

/// Errors that are not made for display.
struct Text<E>(E);

impl<E: std::fmt::Debug> Display for Text<E> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{:?}", self.0)
    }
}

impl<const W: usize> Outbox<W> for IpcBytesSender {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        Self::send(self, bytes_of(&words)).map_err(|error| failed("sending", error))
    }
}

impl<const W: usize> Inbox<W> for IpcBytesReceiver {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let bytes = self.recv().map_err(|error| failed("receiving", Text(error)))?;
        see(seen_bytes::<W>(&bytes));
        Ok(())
    }
}

impl<const W: usize> Outbox<W> for IpcSender<Vec<u64>> {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        Self::send(self, words.to_vec()).map_err(|error| failed("sending", Text(error)))
    }
}

impl<const W: usize> Inbox<W> for IpcReceiver<Vec<u64>> {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let words = self.recv().map_err(|error| failed("receiving", Text(error)))?;
        see(words.first_chunk::<W>().and_then(crate::way::seen));
        Ok(())
    }
}
