//! Memory that a worker and the checker share: the worker's log, which outlives it, and a few words of either.
//!
//! The checker makes one for each place of a worker, as a file without a name, and keeps it while processes come and go in that
//! place. A record that a worker has appended is there whatever happens to the worker afterwards.
#![allow(unsafe_code)]

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Records that a log has room for.
const RECORDS: u64 = 1 << 15;
/// Words of a record.
const RECORD_WORDS: usize = 4;
/// The log begins after a page of single words.
const LOG_AT: usize = 512;
const WORDS: usize = LOG_AT + RECORDS as usize * RECORD_WORDS;

/// Single words of a page; those that different sides write stand in different lines.
pub(crate) mod word {
    /// Records appended, by the worker.
    pub(crate) const HEAD: usize = 0;
    /// Raised by the worker whenever it has nothing in hand.
    pub(crate) const TURNS: usize = 1;
    /// 1 while a producer waits for a quota.
    pub(crate) const RESTS: usize = 2;
    /// The last number that a producer meant to publish, stored before it is.
    pub(crate) const INTENDED: usize = 3;
    /// How many messages a producer knows to be accepted.
    pub(crate) const ACCEPTED: usize = 4;
    /// Records read, by the checker.
    pub(crate) const TAIL: usize = 16;
    /// Not 0: leave in good order.
    pub(crate) const LEAVE: usize = 17;
    /// How many messages a producer may publish altogether.
    pub(crate) const QUOTA: usize = 18;
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A process begins here.
    Started = 1,
    /// `publish` has returned Ok.
    Accepted,
    /// A message was received; nothing has been done with it yet.
    Handed,
    /// About to acknowledge it ...
    Acking,
    /// ... or to do something else with it.
    Ending,
    /// The acknowledgement has returned Ok.
    Acked,
    /// It was given back, or put aside: Ok.
    Returned,
    /// It was rejected: Ok.
    Rejected,
    /// Another member has it.
    Refused,
    /// A tap missed messages from `sequence` up to `id`.
    Missed,
    /// A dead letter was announced; `id` names topic and group.
    Dead,
    /// The content is not that of any message.
    Torn,
    /// `publish_batch` has returned, and this one is among those that it has published; it does not say where.
    Batched,
    /// A member has been granted more time; `at_ns` is from before it asked.
    Extended,
    /// The group's store has no room for it, so it stays in its batch.
    NoRoom,
    /// A reader that yields has joined: from `sequence` on it is held for, for `id` nanoseconds at a time.
    Begins,
    /// What a reader says that it has missed, `id` messages in all.
    Counted,
}

/// Something that a worker says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// What.
    pub(crate) kind: Kind,
    /// Lane of the message.
    pub(crate) lane: u8,
    /// How often it has been handed out.
    pub(crate) attempts: u8,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// Who published it, and its number there.
    pub(crate) id: u64,
    /// CLOCK_MONOTONIC nanoseconds.
    pub(crate) at_ns: u64,
}

const KINDS: [Kind; 17] = [
    Kind::Started,
    Kind::Accepted,
    Kind::Handed,
    Kind::Acking,
    Kind::Ending,
    Kind::Acked,
    Kind::Returned,
    Kind::Rejected,
    Kind::Refused,
    Kind::Missed,
    Kind::Dead,
    Kind::Torn,
    Kind::Batched,
    Kind::Extended,
    Kind::NoRoom,
    Kind::Begins,
    Kind::Counted,
];

/// A page, mapped for as long as the process lives.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    words: &'static [AtomicU64],
}

impl Page {
    /// A new one, and the path at which a worker finds it.
    pub(crate) fn make() -> (Self, OwnedFd, String) {
        let file = memfd_create("soak", MemfdFlags::CLOEXEC).expect("memory for a log");
        ftruncate(&file, (WORDS * 8) as u64).expect("memory for a log");
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        (Self::map(&file), file, path)
    }

    /// The checker's, in a worker.
    pub(crate) fn open(path: &str) -> Self {
        Self::map(File::options().read(true).write(true).open(path).expect("the checker's page"))
    }

    fn map(file: impl AsFd) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at whatever address is free, which is never removed.
        let start = unsafe { mmap(std::ptr::null_mut(), WORDS * 8, access, MapFlags::SHARED, file, 0) };
        let start = start.expect("memory for a log").cast::<AtomicU64>();
        // SAFETY: the mapping is that long, aligned to a page, and both sides use atomics.
        Self { words: unsafe { std::slice::from_raw_parts(start, WORDS) } }
    }

    pub(crate) fn get(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
    }

    /// Worker: appends a record, waiting for the checker if need be.
    pub(crate) fn append(&self, record: Record) {
        let head = self.words[word::HEAD].load(Ordering::Relaxed);
        while head - self.get(word::TAIL) >= RECORDS {
            std::thread::sleep(Duration::from_micros(200));
        }
        let at = LOG_AT + (head % RECORDS) as usize * RECORD_WORDS;
        let first = record.kind as u64 | u64::from(record.lane) << 8 | u64::from(record.attempts) << 16;
        for (offset, value) in [first, record.sequence, record.id, record.at_ns].into_iter().enumerate() {
            self.words[at + offset].store(value, Ordering::Relaxed);
        }
        // Release: whoever sees the count sees the record.
        self.set(word::HEAD, head + 1);
    }

    /// Checker: the next record.
    pub(crate) fn take(&self) -> Option<Record> {
        let tail = self.words[word::TAIL].load(Ordering::Relaxed);
        if tail == self.get(word::HEAD) {
            return None;
        }
        let at = LOG_AT + (tail % RECORDS) as usize * RECORD_WORDS;
        let [first, sequence, id, at_ns] =
            std::array::from_fn(|offset| self.words[at + offset].load(Ordering::Relaxed));
        self.set(word::TAIL, tail + 1);
        let kind = *KINDS.get((first & 0xff).wrapping_sub(1) as usize).expect("a kind of record");
        Some(Record { kind, lane: (first >> 8) as u8, attempts: (first >> 16) as u8, sequence, id, at_ns })
    }

    /// Does the worker have to wait for the checker soon?
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.get(word::HEAD) - self.get(word::TAIL) > RECORDS / 4 * 3
    }
}
