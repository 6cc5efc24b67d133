//! Which topics a process has attached to: their names, a line each, in its lease file, behind its head.
//!
//! A topic is noted before anything is held in it, and its line stays as long as the lease. So whoever sweeps a dead process
//! walks the topics of its list and no others, and the holder of the role knows in which topics anything can happen. The list
//! is written by its process alone, which may die between any two bytes: a last line without its end is a topic in which
//! nothing was held yet. A list that does not begin as it should says nothing, and then all topics are meant: one of a process
//! that found no memory for it, or of another build.

use crate::error::RegionError;
use crate::sys::error::SysError;
use bus_core::layout::lease::{HEAD, LIST};
use bus_core::limits::TOPIC_NAME_BYTES_MAX;
use bus_core::name::{REPLY_TOPICS, check_dotted};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What stands for all reply topics in which a process answers: a line for each would never end. Whoever sweeps it looks into those of
/// all who take part.
pub(crate) const REPLIES: &str = "_reply";

/// The line for a topic.
pub(crate) fn line_of(topic: &str) -> &str {
    if topic.starts_with(REPLY_TOPICS) { REPLIES } else { topic }
}

/// The list that this process keeps.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// `None`: no list is kept.
    len_bytes: Option<u64>,
    names: HashSet<String>,
}

impl Noted {
    /// Begins the list in a new lease file, behind a head that says nothing yet. Where there is no memory for it, none is kept.
    pub(crate) fn begin(file: &File) -> Self {
        let mut head = [0; LIST];
        head[..HEAD.len()].copy_from_slice(&HEAD);
        let is_begun = file.write_all_at(&head, 0).is_ok();
        if !is_begun {
            // Half a beginning is none either.
            let _ = rustix::fs::ftruncate(file, 0);
        }
        Self { len_bytes: is_begun.then_some(LIST as u64), names: HashSet::new() }
    }

    /// Is a list kept, and so a head?
    pub(crate) fn is_kept(&self) -> bool {
        self.len_bytes.is_some()
    }

    /// Notes a topic. False if it stands there already, or no list is kept.
    ///
    /// # Errors
    /// The list is incomplete and could not be given up: then nothing may be held in the topic.
    pub(crate) fn note(&mut self, file: &File, path: &Path, name: &str) -> Result<bool, RegionError> {
        let Some(len_bytes) = self.len_bytes else { return Ok(false) };
        if self.names.contains(name) {
            return Ok(false);
        }
        let line = format!("{name}\n");
        if file.write_all_at(line.as_bytes(), len_bytes).is_err() {
            // No list, instead of one that is not complete. It takes no memory; the head stays, since it is mapped.
            self.len_bytes = None;
            let fail = |call, error| SysError::from_io(call, path.display(), &error);
            file.write_all_at(&[0; HEAD.len()], 0).map_err(|error| fail("pwrite", error))?;
            // Of a length that no list has, so that it is read again.
            file.set_len(LIST as u64 + 1).map_err(|error| fail("ftruncate", error))?;
            return Ok(true);
        }
        self.len_bytes = Some(len_bytes + line.len() as u64);
        self.names.insert(name.to_owned());
        Ok(true)
    }
}

/// The topics that the process with this lease file has attached to. `None` if that is not known: all, then.
pub(crate) fn topics_of(lease: &Path) -> Option<Vec<String>> {
    let bytes = std::fs::read(lease).ok()?;
    let lines = bytes.get(LIST..).filter(|_| bytes.starts_with(&HEAD))?;
    let end = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    lines[..end]
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let name = std::str::from_utf8(line).ok()?;
            check_dotted(name, TOPIC_NAME_BYTES_MAX).ok()?;
            Some(name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{file, scratch::Scratch};

    #[test]
    fn a_list_says_what_was_noted_and_half_a_line_is_none() {
        let scratch = Scratch::new();
        let path = scratch.path("lease");
        let file = file::create_new(&path, 0o600).unwrap();
        assert_eq!(topics_of(&path), None, "a lease without a list");
        let mut noted = Noted::begin(&file);
        assert_eq!(topics_of(&path), Some(vec![]));
        assert!(noted.note(&file, &path, "a.b").unwrap());
        assert!(!noted.note(&file, &path, "a.b").unwrap(), "once");
        assert!(noted.note(&file, &path, "_bus.dlq.a").unwrap());
        assert_eq!(topics_of(&path), Some(vec!["a.b".into(), "_bus.dlq.a".into()]));
        let len_bytes = file::len_bytes(&file).unwrap();
        file.write_all_at(b"half", len_bytes).unwrap();
        assert_eq!(topics_of(&path).unwrap().len(), 2);
    }

    #[test]
    fn a_list_that_is_damaged_or_given_up_means_all_topics() {
        let scratch = Scratch::new();
        let path = scratch.path("lease");
        let file = file::create_new(&path, 0o600).unwrap();
        let mut noted = Noted::begin(&file);
        assert!(noted.note(&file, &path, "a.b").unwrap());
        file.write_all_at(b"../etc\n", LIST as u64).unwrap();
        assert_eq!(topics_of(&path), None);
        // A file that cannot be written to stands for a full file system.
        let other = scratch.path("full");
        drop(file::create_new(&other, 0o600).unwrap());
        let read_only = file::open_ro(&other).unwrap();
        let mut none = Noted::begin(&read_only);
        assert!(!none.note(&read_only, &other, "a.b").unwrap(), "no list is kept");
        assert_eq!(topics_of(&other), None);
        assert!(noted.note(&read_only, &other, "a.c").is_err(), "incomplete, and not given up");
    }
}
