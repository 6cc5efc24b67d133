//! What a peer has to offer to be measured: one end to send into, one end to receive from.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bus_bench::BenchError;
use bus_bench::content::check;
use serde::{Deserialize, Serialize};

/// Result of everything in this crate that can fail.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// How long an end waits for the other one to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Identity and stamp of a message, or `None` if it is not what was sent.
pub(crate) type Seen = Option<(u64, u64)>;

/// The sending end, for messages of `W` words.
pub(crate) trait Outbox<const W: usize> {
    /// Has the message written where the peer wants to have it, and sends it or puts it into the peer's batch. Waits
    /// for room.
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()>;

    /// Sends what is still in the batch.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The receiving end.
pub(crate) trait Inbox<const W: usize> {
    /// Waits for a message and shows it and those that came with it, `max` at most where the peer lets us choose;
    /// acknowledges them where it knows acknowledgements.
    fn receive(&mut self, max: usize, see: impl FnMut(Seen)) -> Result<()>;
}

/// The one reader of all peers whose payloads are plain words.
#[inline(always)]
pub(crate) fn seen<const W: usize>(words: &[u64; W]) -> Seen {
    check(W, |index| words[index])
}

/// The words of a payload that lies in bytes; `None` if it has another length.
#[inline(always)]
pub(crate) fn seen_bytes<const W: usize>(bytes: &[u8]) -> Seen {
    if bytes.len() != W * 8 {
        return None;
    }
    let word = |index: usize| bytes[index * 8..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    check(W, word)
}

/// A message as bytes, for peers that take those.
#[inline(always)]
pub(crate) fn bytes_of<const W: usize>(words: &[u64; W]) -> &[u8] {
    // SAFETY: words are W * 8 initialised bytes without padding, borrowed for as long as the result.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), W * 8) }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Single messages there and back.
    Latency,
    /// As many as go through.
    Throughput,
    /// The same to several readers that each see all.
    FanOut,
}

/// What one row measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
    /// More than one for a fan-out.
    pub(crate) readers: usize,
}

/// Which of our own rows a peer is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ours {
    /// A topic of one producer.
    pub(crate) one_producer: bool,
    /// No time stamps, messages taken in batches.
    pub(crate) tuned: bool,
    /// The reader spins instead of waiting adaptively.
    pub(crate) spin: bool,
    /// A tap: holds nobody back, may miss messages, acknowledges nothing.
    pub(crate) tap: bool,
}

/// One peer, one kind, one size: what the parent tells a worker to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// The peer's name.
    pub(crate) peer: String,
    /// At its best documented settings, or at its defaults.
    pub(crate) tuned: bool,
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
    /// Readers that each see all: more than one for a fan-out.
    pub(crate) readers: usize,
    /// Directory of the run, in memory.
    pub(crate) directory: PathBuf,
    /// No other cell of this machine has this name: a start for names of all kinds.
    pub(crate) name: String,
    /// Messages between two looks at the clock.
    pub(crate) block: u64,
    /// Messages that may be under way where the peer itself sets no limit before it drops them; 0 for no limit.
    pub(crate) window: u64,
    /// Whether messages may be lost.
    pub(crate) lossy: bool,
    /// Core of the second thread of peers inside one process.
    pub(crate) other_core: usize,
    /// How we are set, where we are the peer.
    pub(crate) ours: Ours,
    /// Set as the peer's own benchmark sets it, to be compared with that.
    pub(crate) as_its_own: bool,
    /// Where the peer's server is.
    pub(crate) server: String,
}

impl Cell {
    /// A name of the run's own for one direction.
    pub(crate) fn path(&self, way: &str) -> PathBuf {
        self.directory.join(format!("{}-{way}", self.name))
    }
}

/// An error of a peer.
#[cold]
pub(crate) fn failed(call: impl Into<String>, error: impl Display) -> BenchError {
    BenchError::Guest { call: call.into(), text: error.to_string() }
}

/// The error of the last system call.
#[cold]
pub(crate) fn failed_call(call: &str) -> BenchError {
    failed(call, std::io::Error::last_os_error())
}

/// Tries until the other side is there.
pub(crate) fn retry<T, E: Display>(
    call: &str,
    mut attempt: impl FnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > PATIENCE => return Err(failed(call, error)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
