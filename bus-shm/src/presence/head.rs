//! The head of a lease file: when its process last did something, whether it leaves, and what it says of itself.
//!
//! Its process is the only writer. Two words are stored through a mapping; the status is written by one `pwrite` inside of one page,
//! which a kill does not cut in two, and carries a check, so that whoever reads in the middle of it reads again. Nobody waits for
//! what stands here, and a sweep does not look at it.

use crate::error::RegionError;
use crate::sys::clock::monotonic_ns;
use crate::sys::error::SysError;
use crate::sys::file;
use crate::sys::map::Map;
use bus_core::layout::PAGE_BYTES;
use bus_core::layout::lease::{self, HEAD, LIST, STATUS, STATUS_BYTES_MAX, in_status};
use bus_core::sync::{AtomicU64, Ordering};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// How often a status is read again that was being changed.
const LOOKS_MAX: usize = 16;

/// The head of this process's own lease.
#[derive(Debug)]
pub(crate) struct Head {
    /// `None` where there was no memory for it, or none to map it.
    map: Option<Map>,
    /// One thread at a time sets the status.
    setting: Mutex<()>,
}

impl Head {
    /// Maps the head of a file that has one.
    pub(crate) fn attach(file: &File, path: &Path, is_there: bool) -> Self {
        let map = is_there.then(|| Map::writable(file, PAGE_BYTES as usize, path).ok()).flatten();
        Self { map, setting: Mutex::new(()) }
    }

    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        self.map.as_ref()?.words(offset, 1)?.first()
    }

    /// It has just done something.
    pub(crate) fn beat(&self) {
        if let Some(word) = self.word(lease::BEAT) {
            // Relaxed: told to people, and nothing follows from it.
            word.store(monotonic_ns(), Ordering::Relaxed);
        }
    }

    /// It begins to leave. Whoever finds its lease free knows how it ended.
    pub(crate) fn leave(&self) {
        if let Some(word) = self.word(lease::LEFT) {
            // Release: before the lease is free, which is what a reader has seen first.
            word.store(1, Ordering::Release);
        }
    }

    /// Says something of itself; an empty text takes that back. No longer than the limit.
    pub(crate) fn set_status(&self, file: &File, path: &Path, text: &str) -> Result<(), RegionError> {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.map.is_none() {
            return Err(SysError::new("pwrite", path.display(), rustix::io::Errno::NOSPC).into());
        }
        let text = &text.as_bytes()[..text.len().min(STATUS_BYTES_MAX)];
        let mut record = [0_u8; LIST - STATUS];
        if !text.is_empty() {
            record[in_status::SET..][..8].copy_from_slice(&monotonic_ns().to_ne_bytes());
            record[in_status::LENGTH..][..8].copy_from_slice(&(text.len() as u64).to_ne_bytes());
            record[in_status::TEXT..][..text.len()].copy_from_slice(text);
            let check = lease::check(&record[8..]);
            record[..8].copy_from_slice(&check.to_ne_bytes());
        }
        file.write_all_at(&record, STATUS as u64)
            .map_err(|error| SysError::from_io("pwrite", path.display(), &error))?;
        self.beat();
        Ok(())
    }
}

/// What a process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) beat_ns: u64,
    pub(crate) has_left: bool,
    /// Text, and when it was set.
    pub(crate) status: Option<(String, u64)>,
}

fn word_of(bytes: &[u8], offset: usize) -> u64 {
    let word = bytes.get(offset..offset + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_ne_bytes)
}

/// Reads the head of a process's lease. One that says nothing, or cannot be read, is like that of a process that has said nothing.
pub(crate) fn read(path: &Path) -> Said {
    let Ok(file) = file::open_ro(path) else { return Said::default() };
    let mut said = Said::default();
    for _ in 0..LOOKS_MAX {
        let mut head = [0_u8; LIST];
        if file.read_exact_at(&mut head, 0).is_err() || !head.starts_with(&HEAD) {
            return Said::default();
        }
        said = Said {
            beat_ns: word_of(&head, lease::BEAT),
            has_left: word_of(&head, lease::LEFT) == 1,
            status: None,
        };
        match status_in(&head[STATUS..]) {
            Ok(status) => {
                said.status = status;
                break;
            }
            // It is being changed, or damaged.
            Err(()) => std::thread::yield_now(),
        }
    }
    said
}

fn status_in(record: &[u8]) -> Result<Option<(String, u64)>, ()> {
    let check = word_of(record, 0);
    if check == 0 {
        return Ok(None);
    }
    if check != lease::check(&record[8..]) {
        return Err(());
    }
    let length = usize::try_from(word_of(record, in_status::LENGTH)).unwrap_or(usize::MAX);
    let text = record[in_status::TEXT..].get(..length.min(STATUS_BYTES_MAX)).ok_or(())?;
    Ok(Some((String::from_utf8_lossy(text).into_owned(), word_of(record, in_status::SET))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attached::Noted;
    use crate::sys::scratch::Scratch;
    use std::path::PathBuf;

    fn lease(scratch: &Scratch) -> (PathBuf, File) {
        let path = scratch.path("lease");
        let file = file::create_new(&path, 0o600).unwrap();
        (path, file)
    }

    #[test]
    fn what_is_said_is_read_and_taken_back() {
        let scratch = Scratch::new();
        let (path, file) = lease(&scratch);
        assert_eq!(read(&path), Said::default(), "a lease without a head");
        let mut noted = Noted::begin(&file);
        let head = Head::attach(&file, &path, noted.is_kept());
        assert_eq!(read(&path), Said::default());
        head.set_status(&file, &path, "reading inbox 3/10 \u{1f4e8}").unwrap();
        noted.note(&file, &path, "a.b").unwrap();
        let said = read(&path);
        assert_eq!(said.status.as_ref().map(|(text, _)| text.as_str()), Some("reading inbox 3/10 \u{1f4e8}"));
        assert!(said.beat_ns > 0 && said.beat_ns >= said.status.unwrap().1 && !said.has_left);
        assert_eq!(crate::attached::topics_of(&path), Some(vec!["a.b".into()]), "the list is whole");
        head.leave();
        head.set_status(&file, &path, "").unwrap();
        assert_eq!((read(&path).status, read(&path).has_left), (None, true));
    }

    #[test]
    fn half_a_status_is_none_and_harms_nobody() {
        let scratch = Scratch::new();
        let (path, file) = lease(&scratch);
        let mut noted = Noted::begin(&file);
        let head = Head::attach(&file, &path, true);
        noted.note(&file, &path, "a.b").unwrap();
        head.set_status(&file, &path, "whole").unwrap();
        for offset in STATUS..STATUS + in_status::TEXT + 5 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset as u64).unwrap();
            file.write_all_at(&[!byte[0]], offset as u64).unwrap();
            assert_eq!(read(&path).status, None, "byte {offset}");
            assert_eq!(crate::attached::topics_of(&path).unwrap().len(), 1);
            file.write_all_at(&byte, offset as u64).unwrap();
        }
        assert!(read(&path).status.is_some());
    }

    #[test]
    fn readers_never_see_a_mixture() {
        let scratch = Scratch::new();
        let (path, file) = lease(&scratch);
        let head = Head::attach(&file, &path, Noted::begin(&file).is_kept());
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..20_000_u32 {
                    let letter = char::from(b'a' + (round % 26) as u8);
                    let text: String = std::iter::repeat_n(letter, 1 + round as usize % 200).collect();
                    head.set_status(&file, &path, &text).unwrap();
                }
                is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some((text, _)) = read(&path).status {
                    let first = text.chars().next().unwrap();
                    assert!(text.chars().all(|letter| letter == first), "{text}");
                }
            }
        });
    }

    #[test]
    fn where_the_list_was_given_up_nothing_faults() {
        let scratch = Scratch::new();
        let (path, file) = lease(&scratch);
        let head = Head::attach(&file, &path, Noted::begin(&file).is_kept());
        file.write_all_at(&[0; 8], 0).unwrap();
        file.set_len(LIST as u64 + 1).unwrap();
        head.beat();
        head.set_status(&file, &path, "still there").unwrap();
        assert_eq!(read(&path), Said::default(), "it says nothing any more");
        assert_eq!(crate::attached::topics_of(&path), None);
    }
}
