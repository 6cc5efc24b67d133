//! A file of the bus, mapped: created with every page reserved, checked when attached.
#![allow(unsafe_code)]

use crate::error::RegionError;
use crate::sys::error::SysError;
use crate::sys::map::Map;
use crate::sys::{file, tmpfs};
use bus_core::layout::{Mismatch, Preamble};
use bus_core::sync::{AtomicU32, AtomicU64, Ordering};
use bytemuck::Pod;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// May the mapping be written to?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A mapped file of the bus.
#[derive(Debug)]
pub(crate) struct Region {
    map: Map,
    /// Bytes of the file when it was last asked; it only grows. What is mapped beyond is not there.
    reach_bytes: AtomicU64,
    /// `None` where there are so many regions that descriptors would run out.
    file: Option<File>,
    /// What tells the file from another one of its name.
    inode: u64,
    access: Access,
    path: PathBuf,
}

/// What a large file is reserved by: some 30 ms of work.
const STEP_BYTES: u64 = 64 << 20;

/// Reserves bytes of a file, and says how much there is if that fails.
pub(crate) fn reserve(
    file: &File,
    path: &Path,
    offset_bytes: u64,
    len_bytes: u64,
) -> Result<(), RegionError> {
    file::reserve(file, path, offset_bytes, len_bytes).map_err(|error| {
        match space_error(path, len_bytes, &error) {
            Some(no_space) => no_space,
            None => error.into(),
        }
    })
}

fn space_error(path: &Path, need_bytes: u64, error: &SysError) -> Option<RegionError> {
    if !error.is(Errno::NOSPC) {
        return None;
    }
    let space = tmpfs::space(path.parent()?).ok()?;
    Some(RegionError::NoSpace {
        path: path.to_owned(),
        need_bytes,
        free_bytes: space.free_bytes,
        total_bytes: space.total_bytes,
    })
}

impl Region {
    /// Creates a file of `len_bytes`, every page reserved, and maps `map_bytes` of it for writing. Its preamble is still
    /// to be written.
    pub(crate) fn create(path: &Path, len_bytes: u64, map_bytes: u64) -> Result<Self, RegionError> {
        let file = file::create_new(path, 0o600)?;
        let made = reserve(&file, path, 0, len_bytes)
            .and_then(|()| Ok(Map::writable(&file, map_bytes.max(len_bytes) as usize, path)?));
        match made {
            Ok(map) => Self::of(map, len_bytes, file, Access::Write, path),
            Err(error) => {
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Creates a file and maps all of it. A large one is reserved in steps, `on_step` called between them: for one who must show
    /// that it gets on.
    pub(crate) fn create_in_steps(
        path: &Path,
        len_bytes: u64,
        on_step: &dyn Fn(),
    ) -> Result<Self, RegionError> {
        on_step();
        if len_bytes <= STEP_BYTES {
            return Self::create(path, len_bytes, len_bytes);
        }
        // Refused at once if it can never fit.
        let space = tmpfs::space(path.parent().unwrap_or(path))?;
        if space.free_bytes < len_bytes {
            return Err(RegionError::NoSpace {
                path: path.to_owned(),
                need_bytes: len_bytes,
                free_bytes: space.free_bytes,
                total_bytes: space.total_bytes,
            });
        }
        let file = file::create_new(path, 0o600)?;
        let mut at_bytes = 0;
        while at_bytes < len_bytes {
            let step_bytes = STEP_BYTES.min(len_bytes - at_bytes);
            if let Err(error) = reserve(&file, path, at_bytes, step_bytes) {
                let _ = std::fs::remove_file(path);
                return Err(error);
            }
            at_bytes += step_bytes;
            on_step();
        }
        let map = Map::writable(&file, len_bytes as usize, path)?;
        Self::of(map, len_bytes, file, Access::Write, path)
    }

    /// Maps an existing file after checking its beginning. `map_bytes` may exceed the file, which then may grow.
    pub(crate) fn attach(
        path: &Path,
        magic: [u8; 8],
        access: Access,
        map_bytes: Option<u64>,
    ) -> Result<(Self, Preamble), RegionError> {
        let file = match access {
            Access::Read => file::open_ro(path)?,
            Access::Write => file::open_rw(path)?,
        };
        let len_bytes = file::len_bytes(&file)?;
        let preamble = read_fixed::<Preamble>(&file, path, len_bytes)?;
        let mismatch = |why| RegionError::Mismatch { path: path.to_owned(), why };
        preamble.check(magic, len_bytes).map_err(mismatch)?;
        if preamble.file_bytes < size_of::<Preamble>() as u64 {
            return Err(mismatch(Mismatch::Field { name: "file_bytes", value: preamble.file_bytes }));
        }
        let map_bytes = map_bytes.unwrap_or(preamble.file_bytes).max(preamble.file_bytes) as usize;
        let map = match access {
            Access::Read => Map::read_only(&file, map_bytes, path)?,
            Access::Write => Map::writable(&file, map_bytes, path)?,
        };
        Ok((Self::of(map, len_bytes, file, access, path)?, preamble))
    }

    fn of(map: Map, len_bytes: u64, file: File, access: Access, path: &Path) -> Result<Self, RegionError> {
        let inode = file::inode(&file)?;
        let (reach_bytes, path) = (AtomicU64::new(len_bytes), path.to_owned());
        Ok(Self { map, reach_bytes, file: Some(file), inode, access, path })
    }

    /// Closes the descriptor. What needs one opens the file again by its name, and refuses another file of that name.
    pub(crate) fn close_file(&mut self) {
        self.file = None;
    }

    /// Does something with the file, opened again if need be.
    pub(crate) fn with_file<R>(&self, use_it: impl FnOnce(&File) -> R) -> Result<R, RegionError> {
        if let Some(file) = &self.file {
            return Ok(use_it(file));
        }
        let file = match self.access {
            Access::Read => file::open_ro(&self.path),
            Access::Write => file::open_rw(&self.path),
        }?;
        if file::inode(&file)? != self.inode {
            return Err(SysError::new("open", self.path.display(), Errno::NOENT).into());
        }
        Ok(use_it(&file))
    }

    /// The mapping without the open file, for one who has so many that descriptors would run out. What lies beyond the file
    /// must not be touched; only files that never grow.
    pub(crate) fn into_map(self) -> Map {
        self.map
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, of a region that keeps it open: all but those of [`Region::close_file`].
    pub(crate) fn file(&self) -> &File {
        match &self.file {
            Some(file) => file,
            None => unreachable!("regions without a descriptor are used through `with_file`"),
        }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.with_file(|file| file::len_bytes(file).unwrap_or(0)).unwrap_or(0)
    }

    /// Has the file lost its name?
    pub(crate) fn is_unlinked(&self) -> bool {
        match &self.file {
            Some(file) => file::is_unlinked(file).unwrap_or(false),
            None => std::fs::symlink_metadata(&self.path).map_or(true, |status| status.ino() != self.inode),
        }
    }

    fn bad_offset(&self, offset_bytes: u64) -> RegionError {
        RegionError::Mismatch {
            path: self.path.clone(),
            why: Mismatch::Truncated { len_bytes: self.file_bytes(), need_bytes: offset_bytes },
        }
    }

    /// Are the bytes up to `end_bytes` there? Touching a mapping beyond its file is SIGBUS.
    #[inline]
    fn reaches(&self, end_bytes: usize) -> bool {
        // Relaxed: a number that only grows, about a file that only grows.
        end_bytes as u64 <= self.reach_bytes.load(Ordering::Relaxed) || self.reaches_now(end_bytes)
    }

    #[cold]
    fn reaches_now(&self, end_bytes: usize) -> bool {
        let file_bytes = self.file_bytes();
        // By the maximum: without a descriptor the file may not be found any more, and what is mapped stays.
        self.reach_bytes.fetch_max(file_bytes, Ordering::Relaxed);
        end_bytes as u64 <= file_bytes
    }

    fn map_words(&self, offset_bytes: usize, count: usize) -> Option<&[AtomicU64]> {
        let words = self.map.words(offset_bytes, count)?;
        self.reaches(offset_bytes + count * size_of::<AtomicU64>()).then_some(words)
    }

    /// The words from `offset_bytes`.
    ///
    /// # Safety
    /// The reference must not outlive this region; handles keep the `Arc` that owns it beside the reference and hand
    /// out nothing that lives longer than themselves.
    pub(crate) unsafe fn words(
        &self,
        offset_bytes: u64,
        count: usize,
    ) -> Result<&'static [AtomicU64], RegionError> {
        let words = self
            .map_words(offset_bytes as usize, count)
            .ok_or_else(|| self.bad_offset(offset_bytes.saturating_add(count as u64 * 8)))?;
        // SAFETY: only the lifetime changes, as the caller promises.
        Ok(unsafe { core::mem::transmute::<&[AtomicU64], &'static [AtomicU64]>(words) })
    }

    /// One word, likewise.
    ///
    /// # Safety
    /// As for [`Region::words`].
    pub(crate) unsafe fn word(&self, offset_bytes: usize) -> Result<&'static AtomicU64, RegionError> {
        // SAFETY: the caller promises it.
        Ok(unsafe { &self.words(offset_bytes as u64, 1)?[0] })
    }

    /// One half word, likewise.
    ///
    /// # Safety
    /// As for [`Region::words`].
    pub(crate) unsafe fn word32(&self, offset_bytes: usize) -> Result<&'static AtomicU32, RegionError> {
        let word = self.look32(offset_bytes).ok_or_else(|| self.bad_offset(offset_bytes as u64 + 4))?;
        // SAFETY: only the lifetime changes, as the caller promises.
        Ok(unsafe { core::mem::transmute::<&AtomicU32, &'static AtomicU32>(word) })
    }

    /// A word, borrowed from the region.
    pub(crate) fn look(&self, offset_bytes: usize) -> Option<&AtomicU64> {
        self.map_words(offset_bytes, 1).map(|words| &words[0])
    }

    /// Words, borrowed from the region.
    pub(crate) fn look_words(&self, offset_bytes: usize, count: usize) -> Option<&[AtomicU64]> {
        self.map_words(offset_bytes, count)
    }

    /// A half word, borrowed from the region.
    pub(crate) fn look32(&self, offset_bytes: usize) -> Option<&AtomicU32> {
        let word = self.map.word32(offset_bytes)?;
        self.reaches(offset_bytes + size_of::<AtomicU32>()).then_some(word)
    }

    /// Copies a plain structure out of the file.
    pub(crate) fn read<T: Pod>(&self, offset_bytes: u64) -> Result<T, RegionError> {
        self.with_file(|file| read_at(file, &self.path, offset_bytes))?
    }

    /// Copies a plain structure into the file. Only for memory that nobody reads yet.
    pub(crate) fn write<T: Pod>(&self, offset_bytes: u64, value: &T) -> Result<(), RegionError> {
        self.with_file(|file| file.write_all_at(bytemuck::bytes_of(value), offset_bytes))?.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            SysError::new("pwrite", self.path.display(), errno).into()
        })
    }

    /// First byte of the mapping.
    pub(crate) fn base(&self) -> *mut u8 {
        self.map.as_ptr()
    }

    /// Bytes of the mapping.
    pub(crate) fn map_bytes(&self) -> usize {
        self.map.len()
    }
}

/// Copies a plain structure out of a file.
pub(crate) fn read_at<T: Pod>(file: &File, path: &Path, offset_bytes: u64) -> Result<T, RegionError> {
    let mut value = T::zeroed();
    let len_bytes = file::len_bytes(file)?;
    file.read_exact_at(bytemuck::bytes_of_mut(&mut value), offset_bytes).map_err(|_| {
        RegionError::Mismatch {
            path: path.to_owned(),
            why: Mismatch::Truncated { len_bytes, need_bytes: offset_bytes + size_of::<T>() as u64 },
        }
    })?;
    Ok(value)
}

fn read_fixed<T: Pod>(file: &File, path: &Path, len_bytes: u64) -> Result<T, RegionError> {
    if len_bytes < size_of::<T>() as u64 {
        return Err(RegionError::Mismatch {
            path: path.to_owned(),
            why: Mismatch::Truncated { len_bytes, need_bytes: size_of::<T>() as u64 },
        });
    }
    read_at(file, path, 0)
}
