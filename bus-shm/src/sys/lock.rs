//! Locks on whole files that the kernel drops with the process that holds them.
//!
//! Open-file-description locks: the lock belongs to the open file, not to the process as with the POSIX kind,
//! which vanishes when any descriptor of the file is closed. It goes when the last copy of the descriptor is
//! closed, at the latest when the process ends, by whatever cause, and after its mappings are gone.
//!
//! A forked child has copies of the descriptors and so keeps its parent's lock: a held lock alone does not
//! prove that the process that took it is alive. exec closes them.
#![allow(unsafe_code)]

use super::error::{Result, SysError};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Takes the exclusive lock without waiting; `false` when another open file holds it.
///
/// Taking it again through the same open file succeeds.
///
/// # Errors
/// `EBADF` for a file opened for reading, `ENOLCK`.
pub fn try_lock(file: &File, subject: &Path) -> Result<bool> {
    match fcntl(file, libc::F_OFD_SETLK, libc::F_WRLCK) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(fail(subject, errno)),
    }
}

/// Opens the file that has this name and takes its lock; `None` when another open file holds it, or when the name has gone
/// to another file meanwhile.
///
/// The lock is dropped with the file.
///
/// # Errors
/// What `open` and [`try_lock`] report.
pub fn try_lock_path(path: &Path) -> Result<Option<File>> {
    let file = super::file::open_rw(path)?;
    let is_named = |file: &File| {
        super::file::open_ro(path)
            .and_then(|named| Ok(super::file::inode(&named)? == super::file::inode(file)?))
            .unwrap_or(false)
    };
    Ok((try_lock(&file, path)? && is_named(&file)).then_some(file))
}

/// Whether another open file holds a lock on the file, asked without taking one.
///
/// Two processes that both probe by [`try_lock`] see each other's probe; this one leaves no trace. A lock held
/// through `file` itself does not count. A file opened for reading will do.
///
/// # Errors
/// What `fcntl` reports.
pub fn is_locked(file: &File, subject: &Path) -> Result<bool> {
    let lock = fcntl(file, libc::F_OFD_GETLK, libc::F_WRLCK).map_err(|errno| fail(subject, errno))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Drops the lock held through this open file, if any.
///
/// # Errors
/// What `fcntl` reports.
pub fn unlock(file: &File, subject: &Path) -> Result<()> {
    fcntl(file, libc::F_OFD_SETLK, libc::F_UNLCK).map(|_| ()).map_err(|errno| fail(subject, errno))
}

fn fail(subject: &Path, errno: Errno) -> SysError {
    SysError::new("fcntl", subject.display(), errno)
}

fn fcntl(file: &File, command: libc::c_int, kind: libc::c_int) -> rustix::io::Result<libc::flock> {
    // SAFETY: a plain C structure of integers. Start and length 0 mean the whole file however long it grows;
    // the pid must be 0 for this kind of lock.
    let mut lock: libc::flock = unsafe { core::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: both commands take a pointer to this structure, which outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } == 0 {
        return Ok(lock);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn a_lock_is_seen_by_others_and_goes_with_its_file() {
        let scratch = Scratch::new();
        let path = scratch.path("lease");
        let mine = file::create_new(&path, 0o600).unwrap();
        let other = file::open_rw(&path).unwrap();
        let observer = file::open_ro(&path).unwrap();
        assert!(!is_locked(&observer, &path).unwrap());
        assert!(try_lock(&mine, &path).unwrap() && try_lock(&mine, &path).unwrap());
        assert!(!is_locked(&mine, &path).unwrap());
        assert!(is_locked(&other, &path).unwrap() && is_locked(&observer, &path).unwrap());
        assert!(!try_lock(&other, &path).unwrap());
        // Closing another descriptor of the same file would drop a POSIX lock.
        drop(file::open_rw(&path).unwrap());
        assert!(is_locked(&other, &path).unwrap());
        unlock(&mine, &path).unwrap();
        assert!(try_lock(&other, &path).unwrap() && is_locked(&mine, &path).unwrap());
        drop(other);
        assert!(!is_locked(&mine, &path).unwrap());
    }

    #[test]
    fn a_file_opened_for_reading_cannot_be_locked() {
        let scratch = Scratch::new();
        let path = scratch.path("lease");
        file::create_new(&path, 0o600).unwrap();
        let error = try_lock(&file::open_ro(&path).unwrap(), &path).unwrap_err();
        assert!(error.is(Errno::BADF) && error.to_string().contains("/lease"));
    }
}
