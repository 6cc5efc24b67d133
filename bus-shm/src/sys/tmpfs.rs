//! How much room a file system has, and whether it lives in memory.

use super::error::{Result, SysError};
use std::path::Path;

/// `TMPFS_MAGIC`. ramfs (no limit, no accounting) and hugetlbfs (other page size) have numbers of their own.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Room in a file system, a snapshot that any other process may make stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system in bytes; `u64::MAX` for a tmpfs mounted without a limit.
    pub total_bytes: u64,
    /// Bytes that this user may still allocate; `u64::MAX` for a tmpfs mounted without a limit.
    pub free_bytes: u64,
    /// Whether it is tmpfs.
    pub is_tmpfs: bool,
}

/// Room in the file system that holds `path`, which must exist.
///
/// # Errors
/// What `statfs` reports.
pub fn space(path: &Path) -> Result<Space> {
    let stat = rustix::io::retry_on_intr(|| rustix::fs::statfs(path))
        .map_err(|errno| SysError::new("statfs", path.display(), errno))?;
    // The types of the fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let (kind, block_bytes, total, free) =
        (stat.f_type as u64, stat.f_bsize as u64, stat.f_blocks as u64, stat.f_bavail as u64);
    let is_tmpfs = kind == TMPFS_MAGIC;
    if is_tmpfs && total == 0 {
        return Ok(Space { total_bytes: u64::MAX, free_bytes: u64::MAX, is_tmpfs });
    }
    Ok(Space {
        total_bytes: total.saturating_mul(block_bytes),
        free_bytes: free.saturating_mul(block_bytes),
        is_tmpfs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_shm_is_tmpfs_and_proc_is_not() {
        let shm = space(Path::new("/dev/shm")).unwrap();
        assert!(shm.is_tmpfs && shm.total_bytes > 0 && shm.free_bytes <= shm.total_bytes);
        assert!(!space(Path::new("/proc")).unwrap().is_tmpfs);
        assert!(space(Path::new("/dev/shm/shmbus-no-such-file")).unwrap_err().is(rustix::io::Errno::NOENT));
    }
}
