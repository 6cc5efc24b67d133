//! What a failed system call leaves behind.

use core::fmt::Display;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// The outcome of a system call.
pub type Result<T> = core::result::Result<T, SysError>;

/// A system call that failed: which one, on what, and the kernel's reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} {subject}: {}", std::io::Error::from(*.errno))]
pub struct SysError {
    /// Name of the call as in section 2 of the manual.
    pub call: &'static str,
    /// What it was made on: a path, `pid 12`, `fd 3`.
    pub subject: String,
    /// The kernel's reason.
    pub errno: Errno,
}

impl SysError {
    /// Records that `call` on `subject` failed with `errno`.
    #[cold]
    pub fn new(call: &'static str, subject: impl Display, errno: Errno) -> SysError {
        SysError { call, subject: subject.to_string(), errno }
    }

    /// The same, with the errno that the C library left in this thread or that std found there.
    #[cold]
    pub(crate) fn from_io(call: &'static str, subject: impl Display, error: &std::io::Error) -> SysError {
        SysError::new(call, subject, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// The same, for a call known only by its descriptor.
    #[cold]
    pub(super) fn on_fd(call: &'static str, fd: impl AsFd, errno: Errno) -> SysError {
        SysError::new(call, format_args!("fd {}", fd.as_fd().as_raw_fd()), errno)
    }

    /// Whether the kernel's reason was `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }

    /// Was something wanting that may be there later: descriptors, mappings or memory?
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self.errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_call_subject_and_reason() {
        let error = SysError::new("fallocate", "/dev/shm/x", Errno::NOSPC);
        assert_eq!(error.to_string(), "fallocate /dev/shm/x: No space left on device (os error 28)");
        assert!(error.is(Errno::NOSPC) && !error.is(Errno::INTR) && !error.is_shortage());
        assert!(SysError::new("open", "/dev/shm/x", Errno::MFILE).is_shortage());
    }

    #[test]
    fn error_without_a_number_is_an_input_output_error() {
        let error = SysError::from_io("unlink", "x", &std::io::Error::other("no number"));
        assert!(error.is(Errno::IO));
    }
}
