//! Redis: publish and subscribe, and streams with a group that acknowledges.

use bus_bench::guest::Part;

use super::wire::{Wire, number, unexpected};
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, seen_bytes};

/// Commands on their way at once, and entries of one read, at the best settings.
const PIPELINE: usize = 100;

/// About how many entries a stream keeps: more than may be under way.
const KEPT: &[u8] = b"65536";

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The number behind a header of this kind.
fn header(wire: &mut Wire, kind: u8) -> Result<i64> {
    let line = wire.line()?;
    if line.first() == Some(&kind) { number(&line[1..]) } else { Err(unexpected(line)) }
}

/// A string of bytes.
fn bulk(wire: &mut Wire) -> Result<&[u8]> {
    let length = header(wire, b'$')?.max(0) as usize;
    let bytes = wire.take(length + 2)?;
    Ok(&bytes[..length])
}

/// Commands whose answers are counted, not read.
struct Out {
    wire: Wire,
    name: Vec<u8>,
    stream: bool,
    pipeline: usize,
    /// How many of one batch may be missing when the next is written.
    overlap: usize,
    open: usize,
}

impl Out {
    /// Waits until so many answers at most are missing.
    fn settle(&mut self, missing: usize) -> Result<()> {
        self.wire.flush()?;
        while self.open > missing {
            self.open -= 1;
            if self.stream {
                bulk(&mut self.wire)?;
            } else {
                header(&mut self.wire, b':')?;
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
        let out = &mut self.wire.out;
        if self.stream {
            command(out, &[b"XADD", &self.name, b"MAXLEN", b"~", KEPT, b"*", b"m", bytes]);
        } else {
            command(out, &[b"PUBLISH", &self.name, bytes]);
        }
        self.open += 1;
        if !self.open.is_multiple_of(self.pipeline) {
            return Ok(());
        }
        self.settle(self.overlap)
    }

    fn flush(&mut self) -> Result<()> {
        self.settle(0)
    }
}

fn outbox(cell: &Cell, way: &str, stream: bool) -> Result<Out> {
    let wire = Wire::connect(&cell.server)?;
    let pipeline = if cell.tuned { PIPELINE } else { 1 };
    // In a pipeline the server works on one batch while the next is written.
    let overlap = if cell.tuned && !cell.as_its_own { pipeline } else { 0 };
    Ok(Out { wire, name: format!("{}-{way}", cell.name).into_bytes(), stream, pipeline, overlap, open: 0 })
}

pub(crate) fn open_channel<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let inbox = |way: &str| {
        let mut wire = Wire::connect(&cell.server)?;
        command(&mut wire.out, &[b"SUBSCRIBE", format!("{}-{way}", cell.name).as_bytes()]);
        wire.flush()?;
        header(&mut wire, b'*')?;
        bulk(&mut wire)?;
        bulk(&mut wire)?;
        header(&mut wire, b':')?;
        Ok(Channel(wire))
    };
    parts::open::<W, _, _>(cell, role, |way| outbox(cell, way, false), inbox)
}

struct Channel(Wire);

impl<const W: usize> Inbox<W> for Channel {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        loop {
            header(&mut self.0, b'*')?;
            bulk(&mut self.0)?;
            bulk(&mut self.0)?;
            see(seen_bytes::<W>(bulk(&mut self.0)?));
            if self.0.is_empty() {
                return Ok(());
            }
        }
    }
}

pub(crate) fn open_stream<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let readers = std::cell::Cell::new(0);
    let inbox = |way: &str| {
        let mut wire = Wire::connect(&cell.server)?;
        let name = format!("{}-{way}", cell.name).into_bytes();
        // A group a reader: each sees all.
        readers.set(readers.get() + 1);
        let readers = format!("readers-{}", readers.get()).into_bytes();
        command(&mut wire.out, &[b"XGROUP", b"CREATE", &name, &readers, b"$", b"MKSTREAM"]);
        wire.flush()?;
        let answer = wire.line()?;
        if answer != b"+OK" {
            return Err(unexpected(answer));
        }
        let most = if cell.tuned { PIPELINE.to_string() } else { "1".into() };
        let mut group =
            Group { wire, name, readers, most, tuned: cell.tuned, ids: Vec::new(), acks_open: false };
        group.ask();
        Ok(group)
    };
    parts::open::<W, _, _>(cell, role, |way| outbox(cell, way, true), inbox)
}

/// A member of a group. At the best settings an acknowledgement travels with the next read.
struct Group {
    wire: Wire,
    name: Vec<u8>,
    /// The group's name.
    readers: Vec<u8>,
    most: String,
    tuned: bool,
    ids: Vec<Vec<u8>>,
    acks_open: bool,
}

impl Group {
    fn ask(&mut self) {
        let most = self.most.as_bytes();
        command(
            &mut self.wire.out,
            &[
                b"XREADGROUP",
                b"GROUP",
                &self.readers,
                b"reader",
                b"COUNT",
                most,
                b"BLOCK",
                b"0",
                b"STREAMS",
                &self.name,
                b">",
            ],
        );
    }

    fn acknowledge(&mut self) -> Result<()> {
        let mut words: Vec<&[u8]> = vec![b"XACK", &self.name, &self.readers];
        words.extend(self.ids.iter().map(Vec::as_slice));
        command(&mut self.wire.out, &words);
        self.ids.clear();
        self.acks_open = true;
        if !self.tuned {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.wire.flush()?;
        if std::mem::take(&mut self.acks_open) {
            header(&mut self.wire, b':')?;
        }
        Ok(())
    }
}

impl<const W: usize> Inbox<W> for Group {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        self.settle()?;
        header(&mut self.wire, b'*')?;
        header(&mut self.wire, b'*')?;
        bulk(&mut self.wire)?;
        let entries = header(&mut self.wire, b'*')?;
        for _ in 0..entries {
            header(&mut self.wire, b'*')?;
            let id = bulk(&mut self.wire)?.to_vec();
            self.ids.push(id);
            header(&mut self.wire, b'*')?;
            bulk(&mut self.wire)?;
            see(seen_bytes::<W>(bulk(&mut self.wire)?));
        }
        self.acknowledge()?;
        self.ask();
        // The next read must be on its way before the other side sends: it waits for nothing else.
        self.wire.flush()
    }
}
