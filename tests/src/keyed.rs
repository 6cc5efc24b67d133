//! What the members of a keyed group did, in one order, and whether that keeps the order of every key.
//!
//! Every member writes into memory that outlives it: that it was handed a message, that it is about to acknowledge it, and that the
//! acknowledgement has returned. A record gets its place by one addition, so the places tell what was before what.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most keys of a run.
pub const KEYS_MAX: usize = 4096;
const RECORDS_MAX: usize = 1 << 21;
const HEAD_WORDS: usize = 8;
const BYTES: usize = (HEAD_WORDS + KEYS_MAX + RECORDS_MAX) * 8;

/// What happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A member got it.
    Handed,
    /// The same, and it was told that it had been handed out before.
    HandedAgain,
    /// Its member is about to finish it.
    Finishing,
    /// The group has taken that.
    Finished,
    /// The group has refused that: it is another's.
    Refused,
    /// Its member says that it failed; it comes again.
    Failed,
    /// The member is about to be killed. No message.
    Gone,
}

const WHATS: [What; 7] = [
    What::Handed,
    What::HandedAgain,
    What::Finishing,
    What::Finished,
    What::Refused,
    What::Failed,
    What::Gone,
];

/// One record: who, what, which message of which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub what: What,
    /// Process and thread, by a number that no other has.
    pub who: u32,
    /// The key's number.
    pub key: u16,
    /// The message's number among those of its key.
    pub count: u16,
}

impl Record {
    fn pack(self) -> u64 {
        1 << 63
            | (self.what as u64) << 56
            | u64::from(self.who & 0xff_ffff) << 32
            | u64::from(self.key) << 16
            | u64::from(self.count)
    }

    fn unpack(word: u64) -> Option<Self> {
        let what = *WHATS.get((word >> 56 & 0x7f) as usize)?;
        (word >> 63 == 1).then_some(Self {
            what,
            who: (word >> 32) as u32 & 0xff_ffff,
            key: (word >> 16) as u16,
            count: word as u16,
        })
    }
}

/// The memory that all share.
pub struct Journal {
    base: *mut AtomicU64,
    path: PathBuf,
    is_maker: bool,
}

// SAFETY: the memory is atomic words.
#[allow(unsafe_code)]
unsafe impl Send for Journal {}

impl Journal {
    /// Makes it.
    pub fn create(path: &Path) -> Self {
        let file = File::options().create_new(true).read(true).write(true).open(path).expect("a new file");
        file.set_len(BYTES as u64).expect("room for the journal");
        Self::map(&file, path, true)
    }

    /// Opens it.
    pub fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).expect("the journal");
        Self::map(&file, path, false)
    }

    fn map(file: &File, path: &Path, is_maker: bool) -> Self {
        // SAFETY: a new mapping of a file that is as long, anywhere.
        #[allow(unsafe_code)]
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self { base: base.cast(), path: path.to_owned(), is_maker }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < BYTES / 8, "the journal is full");
        // SAFETY: inside of the mapping, which lives as long as this.
        #[allow(unsafe_code)]
        unsafe {
            &*self.base.add(index)
        }
    }

    /// Writes a record.
    pub fn note(&self, record: Record) {
        let place = self.word(0).fetch_add(1, Ordering::SeqCst) as usize;
        self.word(HEAD_WORDS + KEYS_MAX + place).store(record.pack(), Ordering::SeqCst);
    }

    /// How many records there are.
    pub fn count(&self) -> usize {
        self.word(0).load(Ordering::SeqCst) as usize
    }

    /// A number that the test uses for itself.
    pub fn number(&self, index: usize) -> &AtomicU64 {
        assert!((1..HEAD_WORDS).contains(&index));
        self.word(index)
    }

    /// The witness of a key: whose handler has it, 0 for nobody's.
    pub fn witness(&self, key: u16) -> &AtomicU64 {
        self.word(HEAD_WORDS + usize::from(key))
    }

    /// All records, in their order. One that was counted and not written is of somebody who was killed.
    pub fn records(&self) -> Vec<Record> {
        (0..self.count())
            .filter_map(|place| {
                Record::unpack(self.word(HEAD_WORDS + KEYS_MAX + place).load(Ordering::SeqCst))
            })
            .collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and nothing borrows it.
        #[allow(unsafe_code)]
        unsafe {
            libc::munmap(self.base.cast(), BYTES);
        }
        if self.is_maker {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// One message of a key.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// Who has it in hand, as far as is known.
    open: Option<u32>,
    handed: u32,
    /// So many were about to finish it, and were not refused.
    finishing: u32,
    is_finished: bool,
}

impl Fate {
    fn may_be_finished(&self) -> bool {
        self.is_finished || self.finishing > 0
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, a line each.
    pub wrong: Vec<String>,
    /// Messages handed out.
    pub handed: u64,
    /// Of those, how many had been before.
    pub again: u64,
    /// Messages finished for certain.
    pub finished: u64,
    /// Acknowledgements refused.
    pub refused: u64,
}

/// Checks that of every key the messages `0..counts[key]` were handled in order. `is_fenced`: members may be fenced, so that
/// their acknowledgements may be refused.
pub fn check(records: &[Record], counts: &[u16], is_fenced: bool) -> Verdict {
    let mut fates: HashMap<u16, Vec<Fate>> = HashMap::new();
    let mut gone = HashSet::new();
    let mut verdict = Verdict::default();
    for (place, record) in records.iter().enumerate() {
        let Record { what, who, key, count } = *record;
        if what == What::Gone {
            gone.insert(who);
            continue;
        }
        let fates = fates.entry(key).or_default();
        let index = usize::from(count);
        if fates.len() <= index {
            fates.resize(index + 1, Fate::default());
        }
        let mut complain = |why: String| {
            if verdict.wrong.len() < 20 {
                verdict.wrong.push(format!("record {place}, {record:?}: {why}"));
            }
        };
        match what {
            What::Handed | What::HandedAgain => {
                verdict.handed += 1;
                verdict.again += u64::from(what == What::HandedAgain);
                let missing =
                    fates[..index].iter().position(|fate| !fate.may_be_finished() && fate.open != Some(who));
                if let Some(missing) = missing {
                    complain(format!(
                        "message {missing} of the key is neither finished nor in the same hand"
                    ));
                }
                if fates[index].is_finished {
                    complain("it was finished".into());
                }
                let held = fates.iter().filter(|fate| !fate.may_be_finished()).filter_map(|fate| fate.open);
                let other = held.into_iter().find(|other| *other != who && !gone.contains(other));
                if let Some(other) = other.filter(|_| !is_fenced) {
                    complain(format!("{other} lives and has a message of the key in hand"));
                }
                if let Some(later) = fates[index + 1..].iter().position(|fate| fate.is_finished) {
                    complain(format!("a later one, {}, was finished before", index + 1 + later));
                }
                if fates[index].handed > 0 && what == What::Handed {
                    complain("it comes again, and is not marked".into());
                }
                fates[index].handed += 1;
                fates[index].open = Some(who);
            }
            What::Finishing => fates[index].finishing += 1,
            What::Finished => {
                verdict.finished += 1;
                if fates[index].is_finished {
                    complain("it was finished before".into());
                }
                fates[index].is_finished = true;
                if fates[index].open == Some(who) {
                    fates[index].open = None;
                }
            }
            What::Refused => {
                verdict.refused += 1;
                fates[index].finishing -= 1;
                if !is_fenced {
                    complain("it was refused, and nobody is fenced".into());
                }
                if fates[index].open == Some(who) {
                    fates[index].open = None;
                }
            }
            What::Failed => fates[index].open = None,
            What::Gone => {}
        }
    }
    for (key, &count) in counts.iter().enumerate() {
        let fates = fates.remove(&(key as u16)).unwrap_or_default();
        for index in 0..usize::from(count) {
            if fates.get(index).is_none_or(|fate| !fate.may_be_finished()) && verdict.wrong.len() < 40 {
                verdict.wrong.push(format!("message {index} of key {key} was never finished"));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::What::*;
    use super::*;

    fn run(events: &[(What, u32, u16)], is_fenced: bool) -> usize {
        let record = |&(what, who, count)| Record { what, who, key: 0, count };
        let records: Vec<_> = events.iter().map(record).collect();
        let count = events.iter().map(|event| event.2 + 1).max().unwrap_or(0);
        check(&records, &[count], is_fenced).wrong.len()
    }

    #[test]
    fn histories_that_keep_the_order() {
        let one_by_one =
            [(Handed, 1, 0), (Finishing, 1, 0), (Handed, 2, 1), (Finished, 1, 0), (Finishing, 2, 1)];
        assert_eq!(run(&one_by_one, false), 0);
        let killed_with_a_batch = [
            (Handed, 1, 0),
            (Handed, 1, 1),
            (Gone, 1, 0),
            (HandedAgain, 2, 0),
            (Finishing, 2, 0),
            (HandedAgain, 2, 1),
            (Finishing, 2, 1),
        ];
        assert_eq!(run(&killed_with_a_batch, false), 0);
        let fenced = [
            (Handed, 1, 0),
            (HandedAgain, 2, 0),
            (Finishing, 2, 0),
            (Finishing, 1, 0),
            (Refused, 1, 0),
            (Finished, 2, 0),
        ];
        assert_eq!((run(&fenced, true), run(&fenced, false)), (0, 2));
    }

    #[test]
    fn histories_that_do_not() {
        let overtaken = [(Handed, 1, 1), (Finishing, 1, 1), (Handed, 1, 0), (Finishing, 1, 0)];
        assert_eq!(run(&overtaken, false), 1);
        let two_hands = [(Handed, 1, 0), (Handed, 2, 1), (Finishing, 1, 0), (Finishing, 2, 1)];
        assert_eq!((run(&two_hands, false), run(&two_hands, true)), (2, 1));
        let taken_alive = [(Handed, 1, 0), (HandedAgain, 2, 0), (Finishing, 2, 0)];
        assert_eq!((run(&taken_alive, false), run(&taken_alive, true)), (1, 0));
        let behind = [
            (Handed, 1, 0),
            (Finishing, 1, 0),
            (Handed, 1, 1),
            (Finishing, 1, 1),
            (Finished, 1, 1),
            (HandedAgain, 2, 0),
        ];
        assert_eq!(run(&behind, false), 1);
        let unmarked = [(Handed, 1, 0), (Gone, 1, 0), (Handed, 2, 0), (Finishing, 2, 0)];
        assert_eq!(run(&unmarked, false), 1);
        assert_eq!(run(&[(Handed, 1, 0)], false), 1, "never finished");
        let twice = [
            (Handed, 1, 0),
            (Finishing, 1, 0),
            (Finished, 1, 0),
            (HandedAgain, 2, 0),
            (Finishing, 2, 0),
            (Finished, 2, 0),
        ];
        assert_eq!(run(&twice, false), 2);
    }
}
