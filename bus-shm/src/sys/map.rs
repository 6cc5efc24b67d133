//! Shared mappings of the bus's files.
//!
//! # SIGBUS
//! A page of a mapping that lies past the end of the file cannot be touched: the kernel answers with SIGBUS,
//! and no library can turn that signal into an error. So a mapping may be longer than its file (room to grow
//! into without moving), but whoever hands out offsets must compare the length of the file when attaching and
//! stay inside what [`super::file::reserve`] has filled. A file of the bus is never shortened while it has a
//! name; another program that truncates one kills the processes that have it mapped.
//!
//! # Fork
//! A forked child does not inherit the mappings (MADV_DONTFORK): what it touches faults, instead of writing
//! beside its parent under the parent's identity.
#![allow(unsafe_code)]

use super::error::{Result, SysError};
use super::process::ForkMark;
use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::Pid;
use std::fs::File;
use std::path::Path;

/// A shared mapping of a file from its beginning, unmapped when dropped.
///
/// Offsets are in bytes from the start of the file. All access is through atomics or raw pointers: other
/// processes write to the same bytes at any time.
#[derive(Debug)]
pub struct Map {
    base: NonNull<u8>,
    len_bytes: usize,
    is_writable: bool,
    /// Who mapped it. A forked child holds this value without the mapping, at addresses that may have become
    /// something else, and must not unmap them.
    owner: Pid,
    /// The owner's mark, for children whose pid namespace repeats the number.
    mark: &'static ForkMark,
}

// SAFETY: the memory belongs to no thread, and the value's own fields never change.
unsafe impl Send for Map {}
// SAFETY: shared access hands out atomics and raw pointers only.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len_bytes` of a file opened for reading and writing; may exceed the file.
    ///
    /// # Errors
    /// `EACCES` for a file opened for reading, `EINVAL` for length 0, `ENOMEM`.
    pub fn writable(file: &File, len_bytes: usize, subject: &Path) -> Result<Map> {
        Map::new(file, len_bytes, subject, true)
    }

    /// Maps `len_bytes` of a file for reading; may exceed the file. A store through it is SIGSEGV.
    ///
    /// # Errors
    /// `EINVAL` for length 0, `ENOMEM`.
    pub fn read_only(file: &File, len_bytes: usize, subject: &Path) -> Result<Map> {
        Map::new(file, len_bytes, subject, false)
    }

    fn new(file: &File, len_bytes: usize, subject: &Path, is_writable: bool) -> Result<Map> {
        let fail = |call, errno| SysError::new(call, subject.display(), errno);
        if isize::try_from(len_bytes).is_err() {
            return Err(fail("mmap", rustix::io::Errno::NOMEM));
        }
        let mark = ForkMark::global();
        let protection = if is_writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap(core::ptr::null_mut(), len_bytes, protection, MapFlags::SHARED, file, 0)
        }
        .map_err(|errno| fail("mmap", errno))?;
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(fail("mmap", rustix::io::Errno::FAULT));
        };
        let owner = rustix::process::getpid();
        let map = Map { base, len_bytes, is_writable, owner, mark };
        // SAFETY: the range is the mapping just made; the advice changes what children inherit, not its bytes.
        unsafe { rustix::mm::madvise(map.address(), len_bytes, Advice::LinuxDontFork) }
            .map_err(|errno| fail("madvise", errno))?;
        Ok(map)
    }

    fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    /// Length of the mapping in bytes, which may exceed that of the file. Never 0.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len_bytes
    }

    /// Whether stores are allowed.
    #[inline]
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// First byte of the mapping. Valid while the map lives; aligned to a page.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// `len_bytes` bytes from `offset_bytes`; `None` when they leave the mapping.
    #[inline]
    #[must_use]
    pub fn bytes_ptr(&self, offset_bytes: usize, len_bytes: usize) -> Option<*mut u8> {
        let end_bytes = offset_bytes.checked_add(len_bytes)?;
        if end_bytes > self.len_bytes {
            return None;
        }
        // SAFETY: the offset is at most the length of this one mapping, which fits an isize.
        Some(unsafe { self.as_ptr().add(offset_bytes) })
    }

    /// `count` words from `offset_bytes`; `None` when they leave the mapping or the offset is no multiple of 8.
    ///
    /// Of a read-only map the words may be loaded, not stored.
    #[inline]
    #[must_use]
    pub fn words(&self, offset_bytes: usize, count: usize) -> Option<&[AtomicU64]> {
        if !offset_bytes.is_multiple_of(align_of::<AtomicU64>()) {
            return None;
        }
        let first = self.bytes_ptr(offset_bytes, count.checked_mul(size_of::<AtomicU64>())?)?;
        // SAFETY: the range lies inside the mapping, which lives as long as `self`; it is aligned, because the
        // base is aligned to a page; every bit pattern is a word; whoever else writes there does so atomically
        // or is another process, against which no Rust type can protect.
        Some(unsafe { core::slice::from_raw_parts(first.cast::<AtomicU64>(), count) })
    }

    /// The half word at `offset_bytes`; `None` when it leaves the mapping or the offset is no multiple of 4.
    ///
    /// Of a read-only map it may be loaded and slept on, not stored.
    #[inline]
    #[must_use]
    pub fn word32(&self, offset_bytes: usize) -> Option<&AtomicU32> {
        if !offset_bytes.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        let word = self.bytes_ptr(offset_bytes, size_of::<AtomicU32>())?;
        // SAFETY: as in `words`.
        Some(unsafe { &*word.cast::<AtomicU32>() })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.mark.is_child() || rustix::process::getpid() != self.owner {
            return;
        }
        // SAFETY: the range is this process's mapping, and every borrow of it ends with `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.address(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::super::process::tests::exit_code_of_child;
    use super::super::scratch::Scratch;
    use super::*;
    use core::sync::atomic::Ordering;
    use rustix::io::Errno;

    fn one_page(scratch: &Scratch) -> (File, std::path::PathBuf) {
        let path = scratch.path("page");
        let file = file::create_new(&path, 0o600).unwrap();
        file::reserve(&file, &path, 0, 4_096).unwrap();
        (file, path)
    }

    #[test]
    fn what_one_map_stores_the_other_loads() {
        let scratch = Scratch::new();
        let (file, path) = one_page(&scratch);
        let writer = Map::writable(&file, 4_096, &path).unwrap();
        let reader = Map::read_only(&file::open_ro(&path).unwrap(), 4_096, &path).unwrap();
        assert!(writer.is_writable() && !reader.is_writable());
        writer.words(8, 2).unwrap()[1].store(7 << 32, Ordering::Release);
        assert_eq!(reader.words(16, 1).unwrap()[0].load(Ordering::Acquire), 7 << 32);
        assert_eq!(reader.word32(20).unwrap().load(Ordering::Acquire), 7);
    }

    #[test]
    fn ranges_are_checked() {
        let scratch = Scratch::new();
        let (file, path) = one_page(&scratch);
        let map = Map::writable(&file, 4_096, &path).unwrap();
        assert_eq!(map.words(0, 512).unwrap().len(), 512);
        assert_eq!(map.words(4_096, 0).unwrap().len(), 0);
        assert!(map.words(0, 513).is_none() && map.words(4, 1).is_none() && map.words(4_096, 1).is_none());
        assert!(map.words(8, usize::MAX / 8).is_none() && map.words(8, usize::MAX).is_none());
        assert!(map.word32(4_092).is_some() && map.word32(4_096).is_none() && map.word32(2).is_none());
        assert!(map.bytes_ptr(1, 4_095).is_some() && map.bytes_ptr(1, 4_096).is_none());
        assert!(map.bytes_ptr(usize::MAX, 2).is_none());
    }

    #[test]
    fn a_map_longer_than_its_file_grows_with_it() {
        let scratch = Scratch::new();
        let (file, path) = one_page(&scratch);
        let map = Map::writable(&file, 1 << 20, &path).unwrap();
        assert_eq!(map.len(), 1 << 20);
        file::reserve(&file, &path, 4_096, 4_096).unwrap();
        let word = &map.words(4_096, 1).unwrap()[0];
        word.store(1, Ordering::Relaxed);
        assert_eq!(word.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn refusals_name_the_file() {
        let scratch = Scratch::new();
        let (_, path) = one_page(&scratch);
        let reader = file::open_ro(&path).unwrap();
        let error = Map::writable(&reader, 4_096, &path).unwrap_err();
        assert!(error.is(Errno::ACCESS) && error.to_string().contains("/page"));
        assert!(Map::read_only(&reader, 0, &path).unwrap_err().is(Errno::INVAL));
        assert!(Map::read_only(&reader, usize::MAX, &path).unwrap_err().is(Errno::NOMEM));
    }

    #[test]
    fn a_forked_child_does_not_have_the_mapping() {
        let scratch = Scratch::new();
        let (file, path) = one_page(&scratch);
        let map = Map::writable(&file, 4_096, &path).unwrap();
        let is_mapped = || {
            let mut residency = 0_u8;
            // SAFETY: asks about one page and writes one byte; touches no page.
            unsafe { libc::mincore(map.as_ptr().cast(), 4_096, &raw mut residency) == 0 }
        };
        assert!(is_mapped());
        assert_eq!(exit_code_of_child(|| i32::from(is_mapped())), 0);
    }
}
