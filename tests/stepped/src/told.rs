//! What the stepped process tells of its own progress, in a page that outlives it: the truth that survivors are measured by.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of the page that are compared after each step.
const WORDS: usize = 1024;
/// Words behind them, for why an operation failed.
const WHY_WORDS: usize = 64;
const INTENDED: usize = 0;
const ACCEPTED: usize = 1;
const ASKED: usize = 2;
const RECEIVED: usize = 3;
const ACKS_BEGUN: usize = 4;
const ACKS_DONE: usize = 5;
const FAILED: usize = 6;
const STOP: usize = 7;
const WITNESSED: usize = 8;
const VERDICTS_BEGUN: usize = 9;
const VERDICTS_DONE: usize = 10;
const LETTERS: usize = 11;
const LETTERS_DONE: usize = 12;
/// Where received sequences stand, each with its attempts in the low byte; where acknowledged ones; and where those that failed,
/// like the received ones and with the verdict in the top bit.
const RECEIVED_AT: usize = 16;
const ACKS_AT: usize = 448;
const VERDICTS_AT: usize = 880;
const WHY_AT: usize = WORDS;
const LIST_MAX: u64 = 430;
const VERDICTS_MAX: u64 = 140;
const DEAD: u64 = 1 << 63;

/// The page, mapped by both sides until they end.
#[derive(Clone, Copy, Debug)]
pub struct Told(&'static [AtomicU64; WORDS + WHY_WORDS]);

/// What it does to the dead letters of the messages that it rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Letters {
    /// Nothing.
    #[default]
    Kept,
    /// It publishes them again in their topic.
    Replayed,
    /// It publishes them again in the other topic.
    Elsewhere,
    /// It purges them.
    Purged,
}

/// What had been told at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Messages that it was about to publish, had published, or both.
    pub intended: u64,
    /// Of these, those of which it was told that they are accepted.
    pub accepted: u64,
    /// How often it has asked for a message.
    pub asked: u64,
    /// Sequences that it was handed, and at which attempt.
    pub received: Vec<(u64, u8)>,
    /// Sequences that it was about to acknowledge, or had.
    pub acks_begun: Vec<u64>,
    /// How many of these it knew to be acknowledged.
    pub acks_done: usize,
    /// Messages of which it was about to say that they failed, or had.
    pub verdicts_begun: Vec<Failed>,
    /// For how many of these that counts, as far as it knew.
    pub verdicts_done: usize,
    /// What it was about to do, or had done, to its dead letters.
    pub letters: Letters,
    /// To how many, once it was told.
    pub letters_done: Option<u64>,
    /// The first error that an operation returned.
    pub failed: Option<String>,
    /// How far it had read for the group of the witness.
    pub witnessed: u64,
}

/// What it said of a message that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its sequence.
    pub sequence: u64,
    /// At which attempt.
    pub attempts: u8,
    /// Never again.
    pub dead: bool,
}

impl Facts {
    /// Messages that failed, where saying so had returned.
    pub fn failed_for_good(&self) -> &[Failed] {
        &self.verdicts_begun[..self.verdicts_done]
    }

    /// Sequences whose acknowledgement had returned.
    pub fn done(&self) -> &[u64] {
        &self.acks_begun[..self.acks_done]
    }
}

impl Told {
    /// Maps the page, making it if there is none.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.expect("the page");
        let len = (WORDS + WHY_WORDS) * 8;
        file.set_len(len as u64).expect("room for it");
        // SAFETY: a new mapping, of a file that is long enough and is never cut.
        let page = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED, "the page cannot be mapped");
        // SAFETY: mapped for as long as the process lives; every bit pattern is a word.
        Self(unsafe { &*page.cast::<[AtomicU64; WORDS + WHY_WORDS]>() })
    }

    /// What it tells, to be compared with what it was.
    pub fn words(&self) -> &'static [AtomicU64] {
        &self.0[..WORDS]
    }

    fn add(&self, at: usize, count: u64) {
        // One writer at a time. SeqCst, so that the compiler leaves it where it stands between the steps of an operation.
        self.0[at].store(self.0[at].load(Ordering::SeqCst).wrapping_add(count), Ordering::SeqCst);
    }

    fn get(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::SeqCst)
    }

    /// So many messages are about to be published.
    #[inline]
    pub fn intend(&self, count: u64) {
        self.add(INTENDED, count);
    }

    /// They are.
    #[inline]
    pub fn accepted(&self, count: u64) {
        self.add(ACCEPTED, count);
    }

    /// How many messages were meant to be published so far.
    pub fn intended(&self) -> u64 {
        self.get(INTENDED)
    }

    /// A message is about to be asked for.
    #[inline]
    pub fn ask(&self) {
        self.add(ASKED, 1);
    }

    /// This one has come.
    #[inline]
    pub fn received(&self, sequence: u64, attempts: u8) {
        let count = self.get(RECEIVED);
        assert!(count < LIST_MAX, "the page is full");
        self.0[RECEIVED_AT + count as usize].store(sequence << 8 | u64::from(attempts), Ordering::SeqCst);
        self.add(RECEIVED, 1);
    }

    /// This one, handed out for the so-manieth time, is about to be put aside.
    #[inline]
    pub fn fail(&self, sequence: u64, attempts: u8, dead: bool) {
        let count = self.get(VERDICTS_BEGUN);
        assert!(count < VERDICTS_MAX, "the page is full");
        let word = sequence << 8 | u64::from(attempts) | if dead { DEAD } else { 0 };
        self.0[VERDICTS_AT + count as usize].store(word, Ordering::SeqCst);
        self.add(VERDICTS_BEGUN, 1);
    }

    /// So many of them are.
    #[inline]
    pub fn put_aside(&self, count: u64) {
        self.add(VERDICTS_DONE, count);
    }

    /// The last of them was not its own any more.
    pub fn fail_lost(&self) {
        self.add(VERDICTS_BEGUN, u64::MAX);
    }

    /// The last message whose acknowledgement was begun was not its own any more.
    pub fn acknowledgement_lost(&self) {
        self.add(ACKS_BEGUN, u64::MAX);
    }

    /// These are about to be acknowledged.
    #[inline]
    pub fn acknowledge(&self, sequences: &[u64]) {
        let count = self.get(ACKS_BEGUN);
        assert!(count + (sequences.len() as u64) < LIST_MAX, "the page is full");
        for (index, &sequence) in sequences.iter().enumerate() {
            self.0[ACKS_AT + count as usize + index].store(sequence, Ordering::SeqCst);
        }
        self.add(ACKS_BEGUN, sequences.len() as u64);
    }

    /// So many of them are.
    #[inline]
    pub fn acknowledged(&self, count: u64) {
        self.add(ACKS_DONE, count);
    }

    /// This is about to be done to the dead letters.
    #[inline]
    pub fn letters_begun(&self, letters: Letters) {
        self.0[LETTERS].store(letters as u64, Ordering::SeqCst);
    }

    /// It is, to so many of them.
    #[inline]
    pub fn letters_done(&self, count: u64) {
        self.0[LETTERS_DONE].store(count + 1, Ordering::SeqCst);
    }

    /// An operation returned an error. The first is kept, as far as there is room for its text: others may follow from it.
    #[cold]
    pub fn failed(&self, why: &str) {
        if self.get(FAILED) != 0 {
            return;
        }
        let bytes = &why.as_bytes()[..why.len().min(WHY_WORDS * 8)];
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0[WHY_AT + index].store(u64::from_le_bytes(word), Ordering::SeqCst);
        }
        self.0[FAILED].store(1 + bytes.len() as u64, Ordering::SeqCst);
    }

    /// The first error that an operation returned.
    pub fn failure(&self) -> Option<String> {
        let len = (self.get(FAILED).checked_sub(1)? as usize).min(WHY_WORDS * 8);
        let words = self.0[WHY_AT..].iter().map(|word| word.load(Ordering::SeqCst).to_le_bytes());
        let bytes: Vec<u8> = words.flatten().take(len).collect();
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The child has read so many messages for the group of the witness.
    pub fn witnessed(&self, count: u64) {
        self.add(WITNESSED, count);
    }

    /// Tells the child to read no further when it has nothing left to read.
    pub fn stop(&self) {
        self.0[STOP].store(1, Ordering::SeqCst);
    }

    /// Was it told?
    pub fn is_stopped(&self) -> bool {
        self.get(STOP) != 0
    }

    /// All of it, for the process that reads along.
    pub fn facts(&self) -> Facts {
        let list = |at: usize, count: u64| {
            (0..count.min(LIST_MAX) as usize).map(move |index| self.get(at + index)).collect::<Vec<_>>()
        };
        let received = list(RECEIVED_AT, self.get(RECEIVED));
        let verdicts = list(VERDICTS_AT, self.get(VERDICTS_BEGUN).min(VERDICTS_MAX));
        let failed = |word: u64| Failed {
            sequence: (word & !DEAD) >> 8,
            attempts: word as u8,
            dead: word & DEAD != 0,
        };
        Facts {
            intended: self.get(INTENDED),
            accepted: self.get(ACCEPTED),
            asked: self.get(ASKED),
            received: received.into_iter().map(|word| (word >> 8, word as u8)).collect(),
            acks_begun: list(ACKS_AT, self.get(ACKS_BEGUN)),
            acks_done: self.get(ACKS_DONE) as usize,
            verdicts_begun: verdicts.into_iter().map(failed).collect(),
            verdicts_done: self.get(VERDICTS_DONE) as usize,
            letters: match self.get(LETTERS) {
                1 => Letters::Replayed,
                2 => Letters::Elsewhere,
                3 => Letters::Purged,
                _ => Letters::Kept,
            },
            letters_done: self.get(LETTERS_DONE).checked_sub(1),
            failed: self.failure(),
            witnessed: self.get(WITNESSED),
        }
    }
}
