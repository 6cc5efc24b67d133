//! NATS: core, and JetStream in memory with acknowledgements on both sides.

use bus_bench::guest::Part;

use super::wire::{Wire, number, unexpected};
use crate::parts;
use crate::way::{Cell, Inbox, Kind, Outbox, Result, Seen, bytes_of, seen_bytes};

/// Bytes that are collected before they are written, at the best settings: what its clients do.
const BATCH_BYTES: usize = 32 * 1024;

/// Publications that may wait for their acknowledgement, at the best settings.
const PENDING: usize = 256;

/// Connects, and waits until the server has accepted us.
fn connect(address: &str) -> Result<Wire> {
    let mut wire = Wire::connect(address)?;
    wire.line()?;
    wire.out.extend_from_slice(
        b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\"}\r\n",
    );
    sync(&mut wire)?;
    Ok(wire)
}

/// Waits until the server has taken everything before.
fn sync(wire: &mut Wire) -> Result<()> {
    wire.out.extend_from_slice(b"PING\r\n");
    wire.flush()?;
    let answer = wire.line()?;
    if answer == b"PONG" { Ok(()) } else { Err(unexpected(answer)) }
}

fn publish(wire: &mut Wire, subject: &str, reply: &str, payload: &[u8]) {
    wire.out.extend_from_slice(format!("PUB {subject} {reply}{}\r\n", payload.len()).as_bytes());
    wire.out.extend_from_slice(payload);
    wire.out.extend_from_slice(b"\r\n");
}

/// The next message: shows subject for answers and payload.
fn message<T>(wire: &mut Wire, show: impl FnOnce(&str, &[u8]) -> T) -> Result<T> {
    loop {
        let line = wire.line()?;
        if line == b"PING" {
            wire.out.extend_from_slice(b"PONG\r\n");
            wire.flush()?;
            continue;
        }
        let text = String::from_utf8_lossy(line).into_owned();
        // MSG subject sid [reply-to] bytes
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if words.first() != Some(&"MSG") || words.len() < 4 {
            return Err(unexpected(text.as_bytes()));
        }
        let bytes = number(words[words.len() - 1].as_bytes())?.max(0) as usize;
        let reply = if words.len() == 5 { words[3] } else { "" };
        let payload = wire.take(bytes + 2)?;
        return Ok(show(reply, &payload[..bytes]));
    }
}

/// Asks the server's own subjects.
fn request(wire: &mut Wire, subject: &str, body: &str) -> Result<()> {
    let inbox = "_INBOX.setup";
    wire.out.extend_from_slice(format!("SUB {inbox} 1\r\nUNSUB 1 1\r\n").as_bytes());
    publish(wire, subject, &format!("{inbox} "), body.as_bytes());
    wire.flush()?;
    let answer = message(wire, |_, payload| String::from_utf8_lossy(payload).into_owned())?;
    if answer.contains("\"error\"") { Err(unexpected(answer.as_bytes())) } else { Ok(()) }
}

pub(crate) fn open_core<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let subject = |way: &str| format!("{}.{way}", cell.name);
    let outbox = |way: &str| {
        let batch_bytes = if cell.tuned { BATCH_BYTES } else { 0 };
        Ok(Core { wire: connect(&cell.server)?, subject: subject(way), batch_bytes })
    };
    let inbox = |way: &str| {
        let mut wire = connect(&cell.server)?;
        wire.out.extend_from_slice(format!("SUB {} 1\r\n", subject(way)).as_bytes());
        sync(&mut wire)?;
        Ok(CoreIn(wire))
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct Core {
    wire: Wire,
    subject: String,
    batch_bytes: usize,
}

impl<const W: usize> Outbox<W> for Core {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        publish(&mut self.wire, &self.subject, "", bytes_of(&words));
        if self.wire.out.len() >= self.batch_bytes { self.wire.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.wire.flush()
    }
}

struct CoreIn(Wire);

impl<const W: usize> Inbox<W> for CoreIn {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        loop {
            see(message(&mut self.0, |_, payload| seen_bytes::<W>(payload))?);
            if self.0.is_empty() {
                return Ok(());
            }
        }
    }
}

pub(crate) fn open_jetstream<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let stream = |way: &str| format!("{}-{way}", cell.name);
    let outbox = |way: &str| {
        // The reader makes the stream; nothing is published before both ends are open.
        let mut wire = connect(&cell.server)?;
        let inbox = format!("_INBOX.{}", stream(way));
        wire.out.extend_from_slice(format!("SUB {inbox} 2\r\n").as_bytes());
        sync(&mut wire)?;
        let pending = if cell.tuned { PENDING } else { 1 };
        Ok(Acknowledged { wire, subject: format!("{}.m", stream(way)), inbox: inbox + " ", pending, open: 0 })
    };
    // Of several readers each has a consumer, and a message stays until all have acknowledged it.
    let retention = if cell.kind == Kind::FanOut { "interest" } else { "workqueue" };
    let readers = std::cell::Cell::new(0);
    let inbox = |way: &str| {
        let mut wire = connect(&cell.server)?;
        readers.set(readers.get() + 1);
        let (name, to) = (stream(way), format!("deliver.{}.{}", stream(way), readers.get()));
        let body = format!(
            "{{\"name\":\"{name}\",\"subjects\":[\"{name}.m\"],\"storage\":\"memory\",\"retention\":\"{retention}\",\
             \"discard\":\"old\",\"num_replicas\":1}}"
        );
        request(&mut wire, &format!("$JS.API.STREAM.CREATE.{name}"), &body)?;
        wire.out.extend_from_slice(format!("SUB {to} 2\r\n").as_bytes());
        let body = format!(
            "{{\"stream_name\":\"{name}\",\"config\":{{\"deliver_subject\":\"{to}\",\"ack_policy\":\"explicit\",\
             \"deliver_policy\":\"all\",\"max_ack_pending\":20000}}}}"
        );
        request(&mut wire, &format!("$JS.API.CONSUMER.CREATE.{name}"), &body)?;
        Ok(Acknowledging { wire, tuned: cell.tuned })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

/// Publications that the stream acknowledges.
struct Acknowledged {
    wire: Wire,
    subject: String,
    inbox: String,
    pending: usize,
    open: usize,
}

impl Acknowledged {
    /// Waits until so many acknowledgements at most are missing.
    fn settle(&mut self, missing: usize) -> Result<()> {
        self.wire.flush()?;
        while self.open > missing {
            let refused = message(&mut self.wire, |_, payload| {
                payload.windows(7).any(|word| word == b"\"error\"").then(|| payload.to_vec())
            })?;
            if let Some(text) = refused {
                return Err(unexpected(&text));
            }
            self.open -= 1;
        }
        Ok(())
    }
}

impl<const W: usize> Outbox<W> for Acknowledged {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        publish(&mut self.wire, &self.subject, &self.inbox, bytes_of(&words));
        self.open += 1;
        if self.open >= self.pending { self.settle(self.pending / 2) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.settle(0)
    }
}

/// Acknowledges each message; at the best settings the acknowledgements of what came together travel together.
struct Acknowledging {
    wire: Wire,
    tuned: bool,
}

impl<const W: usize> Inbox<W> for Acknowledging {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        loop {
            let (reply, content) =
                message(&mut self.wire, |reply, payload| (reply.to_owned(), seen_bytes::<W>(payload)))?;
            see(content);
            publish(&mut self.wire, &reply, "", b"+ACK");
            if !self.tuned || self.wire.is_empty() {
                return self.wire.flush();
            }
        }
    }
}
