//! Streams of bytes: a pipe, a Unix socket. Every message has the same length, so no frame is needed.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use bus_bench::guest::Part;
use rustix::fs::{Mode, mkfifoat};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::pipe::fcntl_setpipe_size;

use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed, retry, seen_bytes};

/// Bytes that one call moves at most, and what the kernel is asked to buffer, at the best settings.
const BATCH_BYTES: usize = 64 * 1024;
const KERNEL_BYTES: usize = 1 << 20;

/// A named pipe.
pub(crate) fn open_pipe<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let batch = if cell.tuned { BATCH_BYTES } else { W * 8 };
    let outbox = |way: &str| {
        // A pipe's writer waits here until the reader has opened it.
        let pipe = retry("opening a pipe", || OpenOptions::new().write(true).open(cell.path(way)))?;
        Ok(Out::new(grown(cell, pipe), batch))
    };
    let inbox = |way: &str| {
        let path = cell.path(way);
        mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).map_err(|error| failed("mkfifo", error))?;
        let pipe = File::open(&path).map_err(|error| failed("opening a pipe", error))?;
        Ok(In::<_, W>::new(grown(cell, pipe), batch))
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

fn grown(cell: &Cell, pipe: File) -> File {
    if cell.tuned {
        // Beyond the limit of unprivileged users it stays as it was.
        let _ = fcntl_setpipe_size(&pipe, KERNEL_BYTES);
    }
    pipe
}

/// A Unix socket of bytes.
pub(crate) fn open_unix<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let batch = if cell.tuned { BATCH_BYTES } else { W * 8 };
    let outbox = |way: &str| {
        let socket = retry("connecting", || UnixStream::connect(cell.path(way)))?;
        if cell.tuned {
            let _ = set_socket_send_buffer_size(&socket, KERNEL_BYTES);
        }
        Ok(Out::new(socket, batch))
    };
    let inbox = |way: &str| {
        let listener = UnixListener::bind(cell.path(way)).map_err(|error| failed("listening", error))?;
        let (socket, _) = listener.accept().map_err(|error| failed("accepting", error))?;
        if cell.tuned {
            let _ = set_socket_recv_buffer_size(&socket, KERNEL_BYTES);
        }
        Ok(In::<_, W>::new(socket, batch))
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

/// Collects messages up to a batch and writes it in one call.
pub(crate) struct Out<S> {
    stream: S,
    batch: Vec<u8>,
    batch_bytes: usize,
}

impl<S> Out<S> {
    fn new(stream: S, batch_bytes: usize) -> Self {
        Self { stream, batch: Vec::with_capacity(batch_bytes), batch_bytes }
    }
}

impl<S: Write, const W: usize> Outbox<W> for Out<S> {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        if self.batch_bytes == W * 8 {
            return self.stream.write_all(bytes_of(&words)).map_err(|error| failed("writing", error));
        }
        self.batch.extend_from_slice(bytes_of(&words));
        if self.batch.len() + W * 8 > self.batch_bytes {
            <Self as Outbox<W>>::flush(self)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.batch).map_err(|error| failed("writing", error))?;
        self.batch.clear();
        Ok(())
    }
}

/// Reads what is there, up to a batch.
pub(crate) struct In<S, const W: usize> {
    stream: S,
    buffer: Vec<u8>,
    filled: usize,
}

impl<S, const W: usize> In<S, W> {
    fn new(stream: S, batch_bytes: usize) -> Self {
        Self { stream, buffer: vec![0; batch_bytes], filled: 0 }
    }
}

impl<S: Read, const W: usize> Inbox<W> for In<S, W> {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        while self.filled < W * 8 {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(failed("reading", "the other side has gone")),
                Ok(bytes) => self.filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading", error)),
            }
        }
        let whole = self.filled - self.filled % (W * 8);
        for message in self.buffer[..whole].chunks_exact(W * 8) {
            see(seen_bytes::<W>(message));
        }
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok(())
    }
}
