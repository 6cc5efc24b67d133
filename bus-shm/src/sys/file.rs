//! Files of the bus: their names, their length and the pages behind them.
//!
//! A page of tmpfs that was never reserved is allocated when it is first touched, and a full file system turns
//! that touch into SIGBUS. [`reserve`] moves the failure to where it can be reported.

use super::error::{Result, SysError};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;

/// How much is reserved per call once a signal has interrupted the reservation of the whole, in bytes.
///
/// tmpfs gives back everything when it is interrupted, so a large request under a profiling timer of 100 Hz
/// would start over for ever. This much takes a millisecond or two.
pub const RESERVE_STEP_BYTES: u64 = 4 << 20;

/// How often one step is tried again after a signal before `EINTR` is reported.
const RESERVE_TRIES_MAX: u32 = 1_000;

/// Creates a file that must not exist yet and opens it for reading and writing.
///
/// `mode` holds the permission bits, from which the umask is taken away. The descriptor is closed by exec.
///
/// # Errors
/// `EEXIST` when the name is taken, by a symbolic link too; whatever else `open` reports.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)
}

/// Opens an existing file for reading and writing.
///
/// # Errors
/// `ELOOP` when the name is a symbolic link; whatever else `open` reports.
pub fn open_rw(path: &Path) -> Result<File> {
    open(path, OFlags::RDWR, 0)
}

/// Opens an existing file for reading.
///
/// # Errors
/// `ELOOP` when the name is a symbolic link; whatever else `open` reports.
pub fn open_ro(path: &Path) -> Result<File> {
    open(path, OFlags::RDONLY, 0)
}

fn open(path: &Path, flags: OFlags, mode: u32) -> Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::from_raw_mode(mode)))
        .map(File::from)
        .map_err(|errno| SysError::new("open", path.display(), errno))
}

/// Opens a directory; what is done through it concerns this one, whatever has its name meanwhile.
///
/// # Errors
/// `ENOTDIR`; whatever else `open` reports.
pub fn open_dir(path: &Path) -> Result<File> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
}

/// As [`create_new`], in an open directory.
///
/// # Errors
/// `EEXIST` when the name is taken, `ENOENT` when the directory has been removed; whatever else `openat` reports.
pub fn create_new_in(dir: &File, name: &str, mode: u32) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode)))
        .map(File::from)
        .map_err(|errno| SysError::new("openat", name, errno))
}

/// As [`open_ro`], of a path below an open directory.
///
/// # Errors
/// Whatever `openat` reports.
pub fn open_ro_in(dir: &File, path: &str) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, path, flags, Mode::empty()))
        .map(File::from)
        .map_err(|errno| SysError::new("openat", path, errno))
}

/// Unlinks a file of an open directory.
///
/// # Errors
/// What `unlinkat` reports.
pub fn unlink_in(dir: &File, name: &str) -> Result<()> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(|errno| SysError::new("unlinkat", name, errno))
}

/// Allocates the pages of `[offset_bytes, offset_bytes + len_bytes)` and extends the file to hold them.
///
/// Pages that exist keep their content, new ones are zero. Signals are survived. If it is more than
/// [`RESERVE_STEP_BYTES`], the caller must be the only one that changes the length of the file meanwhile: a
/// reservation past the end that fails half-way is taken back by restoring the old length.
///
/// # Errors
/// `ENOSPC` when the file system is full (the length is then what it was), `EFBIG`, `EBADF` for a file opened
/// for reading, `EINTR` only under an endless storm of signals.
pub fn reserve(file: &File, path_for_error: &Path, offset_bytes: u64, len_bytes: u64) -> Result<()> {
    let fail = |errno| SysError::new("fallocate", path_for_error.display(), errno);
    // The whole in one call first, so that the kernel can refuse at once what can never fit.
    match rustix::fs::fallocate(file, FallocateFlags::empty(), offset_bytes, len_bytes) {
        Err(Errno::INTR) => {}
        outcome => return outcome.map_err(fail),
    }
    let old_len_bytes = self::len_bytes(file)?;
    reserve_by_steps(file, offset_bytes, len_bytes).map_err(|errno| {
        // A single step has changed nothing when it fails, and others may have reserved the same since.
        if offset_bytes >= old_len_bytes && len_bytes > RESERVE_STEP_BYTES {
            // The reservation's failure is what the caller hears about, not the clean-up's.
            let _ = rustix::fs::ftruncate(file, old_len_bytes);
        }
        fail(errno)
    })
}

fn reserve_by_steps(file: &File, offset_bytes: u64, len_bytes: u64) -> rustix::io::Result<()> {
    let end_bytes = offset_bytes.checked_add(len_bytes).ok_or(Errno::FBIG)?;
    let mut at_bytes = offset_bytes;
    let mut try_count = 0;
    while at_bytes < end_bytes {
        let step_bytes = RESERVE_STEP_BYTES.min(end_bytes - at_bytes);
        match rustix::fs::fallocate(file, FallocateFlags::empty(), at_bytes, step_bytes) {
            Ok(()) => {
                at_bytes += step_bytes;
                try_count = 0;
            }
            Err(Errno::INTR) if try_count < RESERVE_TRIES_MAX => try_count += 1,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives back the pages that lie wholly inside the range, in bytes; the length stays and the range reads as
/// zeros.
///
/// Touching the range for writing afterwards allocates again, unreserved.
///
/// # Errors
/// `EBADF` for a file opened for reading, `EINVAL` for an empty range.
pub fn punch(file: &File, offset_bytes: u64, len_bytes: u64) -> Result<()> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, mode, offset_bytes, len_bytes))
        .map_err(|errno| SysError::on_fd("fallocate", file, errno))
}

/// Renames `from` to `to` in one step that never replaces.
///
/// # Errors
/// `EEXIST` when `to` exists; `EINVAL` on a file system that cannot do it (tmpfs can).
pub fn rename_noreplace(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(|errno| {
        SysError::new("renameat2", format_args!("{} -> {}", from.display(), to.display()), errno)
    })
}

/// Length of the file in bytes, as of now.
///
/// # Errors
/// What `fstat` reports.
pub fn len_bytes(file: &File) -> Result<u64> {
    Ok(stat(file)?.st_size.cast_unsigned())
}

/// Number of the file inside its file system; it may be given out again once the file is gone.
///
/// # Errors
/// What `fstat` reports.
pub fn inode(file: &File) -> Result<u64> {
    Ok(stat(file)?.st_ino)
}

/// Whether the file has lost its last name: no other process can find it any more.
///
/// # Errors
/// What `fstat` reports.
pub fn is_unlinked(file: &File) -> Result<bool> {
    Ok(stat(file)?.st_nlink == 0)
}

fn stat(file: &File) -> Result<rustix::fs::Stat> {
    rustix::fs::fstat(file).map_err(|errno| SysError::on_fd("fstat", file, errno))
}

/// Makes a directory; `mode` holds the permission bits, from which the umask is taken away.
///
/// # Errors
/// `EEXIST` when the name is taken; whatever else `mkdir` reports.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode))
        .map_err(|errno| SysError::new("mkdir", path.display(), errno))
}

/// Removes a file, a symbolic link (not what it points to) or a directory with all it holds.
///
/// A path that does not exist is removed already. Mappings of removed files stay usable.
///
/// # Errors
/// What `unlink` or `rmdir` report first; the rest of the tree may then be left.
pub fn remove_tree(path: &Path) -> Result<()> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A directory: EISDIR on Linux, EPERM as POSIX has it.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(SysError::new("unlink", path.display(), errno)),
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SysError::from_io("rmdir", path.display(), &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn a_name_is_created_once_and_renamed_only_to_a_free_one() {
        let scratch = Scratch::new();
        let (first, second) = (scratch.path("first"), scratch.path("second"));
        let file = create_new(&first, 0o600).unwrap();
        assert!(create_new(&first, 0o600).unwrap_err().is(Errno::EXIST));
        create_new(&second, 0o600).unwrap();
        let error = rename_noreplace(&first, &second).unwrap_err();
        assert!(error.is(Errno::EXIST) && error.subject.contains("second"));
        rename_noreplace(&first, &scratch.path("third")).unwrap();
        assert_eq!(inode(&open_ro(&scratch.path("third")).unwrap()).unwrap(), inode(&file).unwrap());
        assert!(open_rw(&first).unwrap_err().is(Errno::NOENT));
    }

    #[test]
    fn links_are_not_followed() {
        let scratch = Scratch::new();
        create_new(&scratch.path("target"), 0o600).unwrap();
        std::os::unix::fs::symlink(scratch.path("target"), scratch.path("link")).unwrap();
        assert!(open_rw(&scratch.path("link")).unwrap_err().is(Errno::LOOP));
        remove_tree(&scratch.path("link")).unwrap();
        open_ro(&scratch.path("target")).unwrap();
    }

    #[test]
    fn reserving_extends_and_punching_gives_back() {
        use std::os::unix::fs::MetadataExt;
        let scratch = Scratch::new();
        let path = scratch.path("pages");
        let file = create_new(&path, 0o600).unwrap();
        reserve(&file, &path, 0, 1 << 16).unwrap();
        reserve_by_steps(&file, 1 << 16, RESERVE_STEP_BYTES + 4_096).unwrap();
        let total_bytes = (1 << 16) + RESERVE_STEP_BYTES + 4_096;
        assert_eq!(len_bytes(&file).unwrap(), total_bytes);
        assert_eq!(file.metadata().unwrap().blocks() * 512, total_bytes);
        punch(&file, 0, 1 << 16).unwrap();
        assert_eq!(len_bytes(&file).unwrap(), total_bytes);
        assert_eq!(file.metadata().unwrap().blocks() * 512, RESERVE_STEP_BYTES + 4_096);
    }

    #[test]
    fn what_cannot_fit_is_refused_and_leaves_nothing() {
        let scratch = Scratch::new();
        let path = scratch.path("huge");
        let file = create_new(&path, 0o600).unwrap();
        let total_bytes = super::super::tmpfs::space(&path).unwrap().total_bytes;
        if total_bytes == u64::MAX {
            return;
        }
        let error = reserve(&file, &path, 0, total_bytes + (1 << 20)).unwrap_err();
        assert!(error.is(Errno::NOSPC), "{error}");
        assert!(error.to_string().starts_with("fallocate /dev/shm/"));
        assert_eq!(len_bytes(&file).unwrap(), 0);
    }

    #[test]
    fn an_unlinked_file_says_so() {
        let scratch = Scratch::new();
        let path = scratch.path("gone");
        let file = create_new(&path, 0o600).unwrap();
        assert!(!is_unlinked(&file).unwrap());
        remove_tree(&path).unwrap();
        assert!(is_unlinked(&file).unwrap());
        remove_tree(&path).unwrap();
    }

    #[test]
    fn a_tree_goes_with_all_it_holds() {
        let scratch = Scratch::new();
        let dir = scratch.path("dir");
        make_dir(&dir, 0o700).unwrap();
        assert!(make_dir(&dir, 0o700).unwrap_err().is(Errno::EXIST));
        make_dir(&dir.join("inner"), 0o700).unwrap();
        create_new(&dir.join("inner/file"), 0o600).unwrap();
        remove_tree(&dir).unwrap();
        assert!(!dir.exists() && scratch.dir().exists());
    }
}
