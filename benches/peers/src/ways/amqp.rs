//! RabbitMQ by AMQP 0-9-1, as little of it as is needed: a transient queue, confirms for the publisher,
//! acknowledgements from the consumer. To several readers a fanout exchange, and a queue for each.

use std::collections::BTreeSet;

use bus_bench::guest::Part;

use super::wire::{Wire, unexpected};
use crate::parts;
use crate::way::{Cell, Inbox, Kind, Outbox, Result, Seen, bytes_of, failed, seen_bytes};

/// Publications that may wait for their confirm, and messages that may wait for our acknowledgement, at the best settings.
const PENDING: u64 = 1_000;
/// Messages acknowledged in one go, at the best settings.
const ACK_EVERY: u64 = 100;

const FRAME_METHOD: u8 = 1;
const FRAME_HEADER: u8 = 2;
const FRAME_BODY: u8 = 3;
const FRAME_END: u8 = 0xce;

/// Class and number of a method.
type Method = (u16, u16);
const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const EXCHANGE: Method = (40, 10);
const EXCHANGE_OK: Method = (40, 11);
const DECLARE: Method = (50, 10);
const DECLARE_OK: Method = (50, 11);
const BIND: Method = (50, 20);
const BIND_OK: Method = (50, 21);
const QOS: Method = (60, 10);
const QOS_OK: Method = (60, 11);
const CONSUME: Method = (60, 20);
const CONSUME_OK: Method = (60, 21);
const PUBLISH: Method = (60, 40);
const DELIVER: Method = (60, 60);
const ACK: Method = (60, 80);
const CONFIRM: Method = (85, 10);
const CONFIRM_OK: Method = (85, 11);

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[&[u8]]) {
    let length: usize = payload.iter().map(|piece| piece.len()).sum();
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(length as u32).to_be_bytes());
    payload.iter().for_each(|piece| out.extend_from_slice(piece));
    out.push(FRAME_END);
}

fn method(out: &mut Vec<u8>, channel: u16, (class, number): Method, arguments: &[&[u8]]) {
    let (class, number) = (class.to_be_bytes(), number.to_be_bytes());
    let mut pieces: Vec<&[u8]> = vec![&class, &number];
    pieces.extend_from_slice(arguments);
    frame(out, FRAME_METHOD, channel, &pieces);
}

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![text.len() as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn long(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

/// The next frame: its kind, and what it carries.
fn take(wire: &mut Wire) -> Result<(u8, &[u8])> {
    let head = wire.take(7)?;
    let (kind, length) = (head[0], u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize);
    let payload = wire.take(length + 1)?;
    Ok((kind, &payload[..length]))
}

/// Class and number of a method frame, and its arguments.
fn split(kind: u8, payload: &[u8]) -> Result<(Method, &[u8])> {
    match payload {
        [a, b, c, d, arguments @ ..] if kind == FRAME_METHOD => {
            Ok(((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])), arguments))
        }
        _ => Err(failed("reading from the server", format!("a frame of kind {kind}"))),
    }
}

fn expect(wire: &mut Wire, expected: Method) -> Result<()> {
    let (kind, payload) = take(wire)?;
    match split(kind, payload)? {
        (found, _) if found == expected => Ok(()),
        // Somebody who closes says why.
        (_, arguments) => Err(unexpected(arguments)),
    }
}

fn call(wire: &mut Wire, channel: u16, asked: Method, arguments: &[&[u8]], answer: Method) -> Result<()> {
    method(&mut wire.out, channel, asked, arguments);
    wire.flush()?;
    expect(wire, answer)
}

/// A number of eight bytes in arguments.
fn tag(arguments: &[u8], at: usize) -> Result<u64> {
    let bytes = arguments.get(at..).and_then(|rest| rest.first_chunk());
    bytes
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| failed("reading from the server", "a short method"))
}

/// A connection with one channel.
fn connect(cell: &Cell) -> Result<Wire> {
    let mut wire = Wire::connect(&cell.server)?;
    wire.out.extend_from_slice(b"AMQP\0\0\x09\x01");
    wire.flush()?;
    expect(&mut wire, START)?;
    let arguments: [&[u8]; 4] = [&[0; 4], &short("PLAIN"), &long(b"\0guest\0guest"), &short("en_US")];
    call(&mut wire, 0, START_OK, &arguments, TUNE)?;
    // One channel, frames of 128 KiB, no heartbeat.
    method(&mut wire.out, 0, TUNE_OK, &[&1_u16.to_be_bytes(), &131_072_u32.to_be_bytes(), &[0, 0]]);
    call(&mut wire, 0, OPEN, &[&short("/"), &[0, 0]], OPEN_OK)?;
    call(&mut wire, 1, CHANNEL_OPEN, &[&[0]], CHANNEL_OPEN_OK)?;
    Ok(wire)
}

fn declare_queue(wire: &mut Wire, queue: &str) -> Result<()> {
    call(wire, 1, DECLARE, &[&[0, 0], &short(queue), &[0], &[0; 4]], DECLARE_OK)
}

/// An exchange that copies what comes to each queue that is bound to it.
fn declare_exchange(wire: &mut Wire, exchange: &str) -> Result<()> {
    let arguments: [&[u8]; 5] = [&[0, 0], &short(exchange), &short("fanout"), &[0], &[0; 4]];
    call(wire, 1, EXCHANGE, &arguments, EXCHANGE_OK)
}

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let name = |way: &str| format!("{}-{way}", cell.name);
    let several = cell.kind == Kind::FanOut;
    let outbox = |way: &str| {
        let mut wire = connect(cell)?;
        let (exchange, key) = if several { (name(way), String::new()) } else { (String::new(), name(way)) };
        if several {
            declare_exchange(&mut wire, &exchange)?;
        } else {
            declare_queue(&mut wire, &key)?;
        }
        call(&mut wire, 1, CONFIRM, &[&[0]], CONFIRM_OK)?;
        let pending = if cell.tuned { PENDING } else { 1 };
        let confirmed = Confirmed::default();
        Ok(Out { wire, exchange: short(&exchange), key: short(&key), pending, sent: 0, confirmed })
    };
    let readers = std::cell::Cell::new(0);
    let inbox = |way: &str| {
        let mut wire = connect(cell)?;
        readers.set(readers.get() + 1);
        let queue = if several { format!("{}-{}", name(way), readers.get()) } else { name(way) };
        declare_queue(&mut wire, &queue)?;
        if several {
            declare_exchange(&mut wire, &name(way))?;
            let arguments: [&[u8]; 6] =
                [&[0, 0], &short(&queue), &short(&name(way)), &short(""), &[0], &[0; 4]];
            call(&mut wire, 1, BIND, &arguments, BIND_OK)?;
        }
        if cell.tuned {
            let most = (PENDING as u16).to_be_bytes();
            call(&mut wire, 1, QOS, &[&[0; 4], &most, &[0]], QOS_OK)?;
        }
        let arguments: [&[u8]; 5] = [&[0, 0], &short(&queue), &short("reader"), &[0], &[0; 4]];
        call(&mut wire, 1, CONSUME, &arguments, CONSUME_OK)?;
        Ok(In { wire, every: if cell.tuned { ACK_EVERY } else { 1 } })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

/// Which publications are confirmed: with several queues the confirms of single ones come in any order.
#[derive(Debug, Default)]
struct Confirmed {
    /// All up to this one.
    upto: u64,
    /// And these, all above.
    more: BTreeSet<u64>,
}

impl Confirmed {
    fn note(&mut self, tag: u64, and_all_before: bool) {
        if and_all_before {
            self.upto = self.upto.max(tag);
            self.more = self.more.split_off(&(self.upto + 1));
        } else if tag > self.upto {
            self.more.insert(tag);
        }
        while self.more.first() == Some(&(self.upto + 1)) {
            self.more.pop_first();
            self.upto += 1;
        }
    }

    fn count(&self) -> u64 {
        self.upto + self.more.len() as u64
    }
}

struct Out {
    wire: Wire,
    exchange: Vec<u8>,
    key: Vec<u8>,
    pending: u64,
    sent: u64,
    confirmed: Confirmed,
}

impl Out {
    /// Waits until so many confirms at most are missing.
    fn settle(&mut self, missing: u64) -> Result<()> {
        self.wire.flush()?;
        while self.sent - self.confirmed.count() > missing {
            let (kind, payload) = take(&mut self.wire)?;
            match split(kind, payload)? {
                (ACK, arguments) => {
                    let tag = tag(arguments, 0)?;
                    let several = arguments.get(8).is_some_and(|bits| bits & 1 != 0);
                    self.confirmed.note(tag, several);
                }
                (_, arguments) => return Err(unexpected(arguments)),
            }
        }
        Ok(())
    }
}

impl<const W: usize> Outbox<W> for Out {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        let bytes = bytes_of(&words);
        method(&mut self.wire.out, 1, PUBLISH, &[&[0, 0], &self.exchange, &self.key, &[0]]);
        let (class, size) = (60_u16.to_be_bytes(), (bytes.len() as u64).to_be_bytes());
        frame(&mut self.wire.out, FRAME_HEADER, 1, &[&class, &[0, 0], &size, &[0, 0]]);
        frame(&mut self.wire.out, FRAME_BODY, 1, &[bytes]);
        self.sent += 1;
        if self.sent - self.confirmed.count() >= self.pending {
            return self.settle(self.pending / 2);
        }
        // As much as fits one write comfortably.
        if self.wire.out.len() > 32 * 1024 { self.wire.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.settle(0)
    }
}

struct In {
    wire: Wire,
    every: u64,
}

impl<const W: usize> Inbox<W> for In {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut count = 0;
        loop {
            let (kind, payload) = take(&mut self.wire)?;
            let (found, arguments) = split(kind, payload)?;
            if found != DELIVER {
                return Err(unexpected(arguments));
            }
            let tag = tag(arguments, 1 + usize::from(arguments[0]))?;
            take(&mut self.wire)?;
            let (kind, body) = take(&mut self.wire)?;
            if kind != FRAME_BODY {
                return Err(failed("reading from the server", "a message without a body"));
            }
            see(seen_bytes::<W>(body));
            count += 1;
            if count == self.every || self.wire.is_empty() {
                method(&mut self.wire.out, 1, ACK, &[&tag.to_be_bytes(), &[u8::from(self.every > 1)]]);
                return self.wire.flush();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_count_once_in_whatever_order_they_come() {
        let mut confirmed = Confirmed::default();
        let counts: Vec<u64> =
            [(3, false), (5, false), (2, true), (4, true), (3, true), (7, false), (6, false)]
                .map(|(tag, and_all_before)| {
                    confirmed.note(tag, and_all_before);
                    confirmed.count()
                })
                .to_vec();
        assert_eq!(counts, [1, 2, 4, 5, 5, 6, 7]);
        assert_eq!((confirmed.upto, confirmed.more.len()), (7, 0));
    }
}
