//! Named pipes: one byte makes them readable, for whoever waits on descriptors.
//!
//! Both sides open them for reading and writing, which Linux allows: opening never waits, writing to one that nobody reads is no
//! signal, and one whose writers have gone is not at its end. They are never read nor written in blocking mode.

use super::error::{Result, SysError};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Makes a pipe of that name, for its user alone.
///
/// # Errors
/// `EEXIST` when the name is taken; whatever else `mknod` reports.
pub fn create(path: &Path) -> Result<()> {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(|errno| SysError::new("mknod", path.display(), errno))
}

/// Opens an existing pipe.
///
/// # Errors
/// What `open` reports; `EINVAL` for what is no pipe.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fail = |errno| SysError::new("open", path.display(), errno);
    let fd = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())).map_err(fail)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd).map_err(fail)?.st_mode);
    if kind == FileType::Fifo { Ok(fd) } else { Err(fail(Errno::INVAL)) }
}

/// Makes it readable. One that is full is so already.
pub fn write_byte(pipe: &OwnedFd) {
    let _ = rustix::io::retry_on_intr(|| rustix::io::write(pipe, &[1]));
}

/// Takes everything out.
pub fn drain(pipe: &OwnedFd) {
    let mut bytes = [0_u8; 256];
    while rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut bytes))
        .is_ok_and(|count| count == bytes.len())
    {}
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;

    fn is_readable(pipe: &OwnedFd) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        let now = super::super::timespec(core::time::Duration::ZERO);
        poll(&mut fds, Some(&now)).unwrap() == 1
    }

    #[test]
    fn a_byte_makes_it_readable_until_it_is_drained() {
        let scratch = Scratch::new();
        let path = scratch.path("pipe");
        create(&path).unwrap();
        assert!(create(&path).unwrap_err().is(Errno::EXIST));
        let reader = open(&path).unwrap();
        assert!(!is_readable(&reader));
        let writer = open(&path).unwrap();
        for _ in 0..1_000 {
            write_byte(&writer);
        }
        drop(writer);
        assert!(is_readable(&reader));
        drain(&reader);
        assert!(!is_readable(&reader));
        // A full one does not block.
        (0..70_000).for_each(|_| write_byte(&reader));
        drain(&reader);
        assert!(!is_readable(&reader));
    }

    #[test]
    fn what_is_no_pipe_is_not_written_to() {
        let scratch = Scratch::new();
        super::super::file::create_new(&scratch.path("file"), 0o600).unwrap();
        assert!(open(&scratch.path("file")).unwrap_err().is(Errno::INVAL));
    }
}
