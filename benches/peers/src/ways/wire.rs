//! A connection to a server, with a buffer each way.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::way::{Result, failed, retry};

/// Bytes of the buffer for what comes in; it grows for a larger piece.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Wire {
    stream: File,
    /// What is to be written.
    pub(crate) out: Vec<u8>,
    buffer: Vec<u8>,
    /// What was read and not yet taken.
    at: usize,
    filled: usize,
}

impl Wire {
    /// Connects to `host:port`, or to the socket of that path.
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let stream: OwnedFd = if address.starts_with('/') {
            retry("connecting", || UnixStream::connect(address))?.into()
        } else {
            let stream = retry("connecting", || TcpStream::connect(address))?;
            stream.set_nodelay(true).map_err(|error| failed("TCP_NODELAY", error))?;
            stream.into()
        };
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { stream: File::from(stream), out: Vec::new(), buffer, at: 0, filled: 0 })
    }

    /// Writes what is to be written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).map_err(|error| failed("writing to the server", error))?;
        self.out.clear();
        Ok(())
    }

    /// Whether everything that was read has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.filled
    }

    /// Reads until so many bytes are there.
    fn need(&mut self, bytes: usize) -> Result<()> {
        if self.filled - self.at >= bytes {
            return Ok(());
        }
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes.next_power_of_two(), 0);
        }
        while self.filled < bytes {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(failed("reading from the server", "it has closed the connection")),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading from the server", error)),
            }
        }
        Ok(())
    }

    /// The next so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&[u8]> {
        self.need(bytes)?;
        self.at += bytes;
        Ok(&self.buffer[self.at - bytes..self.at])
    }

    /// The next line, without its end.
    pub(crate) fn line(&mut self) -> Result<&[u8]> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.at + searched..self.filled];
            if let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
                let length = searched + end;
                self.at += length + 2;
                return Ok(&self.buffer[self.at - length - 2..self.at - 2]);
            }
            // The last byte may be the first half of the line's end.
            searched += unread.len().saturating_sub(1);
            let wanted = self.filled - self.at + 1;
            self.need(wanted)?;
        }
    }
}

/// A number in a line of text.
pub(crate) fn number(text: &[u8]) -> Result<i64> {
    std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| unexpected(text))
}

/// An answer that does not belong here.
#[cold]
pub(crate) fn unexpected(text: &[u8]) -> bus_bench::BenchError {
    failed("reading from the server", String::from_utf8_lossy(&text[..text.len().min(200)]))
}
