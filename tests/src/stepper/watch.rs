//! Shared memory as it is between two steps: what changed, and a copy of all of it.
#![allow(unsafe_code)]

use bus_core::holder::{HolderWord, participant};
use bus_core::layout::superblock::at::{PARTICIPANTS, PARTICIPANTS_RESERVED, ROLE_BEAT};
use bus_core::layout::superblock::{PARTICIPANT_BYTES, Participant};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use stepped::told::Told;

/// A file as it was when it was last looked at.
struct Watched {
    path: PathBuf,
    inode: u64,
    map: *const u8,
    seen: Vec<u8>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.map.is_null() {
            // SAFETY: mapped by `Watch::scan` with this length, and nobody has a reference into it.
            unsafe { libc::munmap(self.map.cast_mut().cast(), self.seen.len()) };
        }
    }
}

impl Watched {
    /// Has it changed since the last look?
    #[inline]
    fn look(&mut self) -> bool {
        if self.map.is_null() {
            return false;
        }
        // SAFETY: mapped with this length, which the file never loses. Its bytes change only while the child runs, or
        // somebody whom it asks; both stand still now.
        let now = unsafe { core::slice::from_raw_parts(self.map, self.seen.len()) };
        if now == self.seen {
            return false;
        }
        let mut changed = true;
        if self.path.ends_with("bus") {
            // The supervisor's beat is a clock.
            self.seen[ROLE_BEAT..ROLE_BEAT + 8].copy_from_slice(&now[ROLE_BEAT..ROLE_BEAT + 8]);
            changed = now != self.seen;
        }
        self.seen.copy_from_slice(now);
        changed
    }
}

/// Everything below a directory, and what the child has told.
pub struct Watch {
    root: PathBuf,
    told: Told,
    told_seen: Vec<u64>,
    dirs: Vec<PathBuf>,
    files: Vec<Watched>,
}

/// A copy of a directory.
#[derive(Clone, Debug)]
pub struct Snapshot {
    dirs: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Watch {
    /// Looks at everything for the first time.
    pub fn new(root: &Path, told: Told) -> Self {
        let mut this =
            Self { root: root.to_owned(), told, told_seen: Vec::new(), dirs: Vec::new(), files: Vec::new() };
        this.scan();
        this.look();
        this
    }

    /// Finds the files anew, after a system call. True if there are others, or one has grown.
    pub fn scan(&mut self) -> bool {
        let (mut dirs, mut files, mut open) = (Vec::new(), Vec::new(), vec![self.root.clone()]);
        while let Some(dir) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                let (path, Ok(status)) = (entry.path(), entry.metadata()) else { continue };
                if status.is_dir() {
                    open.push(path.clone());
                    dirs.push(path);
                } else if status.is_file() {
                    files.push((path, status.ino(), status.len() as usize));
                }
            }
        }
        dirs.sort();
        files.sort();
        let same = dirs == self.dirs
            && files.len() == self.files.len()
            && files
                .iter()
                .zip(&self.files)
                .all(|(now, seen)| now.0 == seen.path && now.1 == seen.inode && now.2 == seen.seen.len());
        if same {
            return false;
        }
        self.dirs = dirs;
        self.files = files.into_iter().filter_map(|(path, inode, len)| watch(path, inode, len)).collect();
        true
    }

    /// Has any byte changed since the last look?
    pub fn look(&mut self) -> bool {
        let mut changed = false;
        for file in &mut self.files {
            changed |= file.look();
        }
        use std::sync::atomic::Ordering::Relaxed;
        let words = self.told.words();
        let is_same = self.told_seen.len() == words.len()
            && words.iter().zip(&self.told_seen).all(|(now, seen)| now.load(Relaxed) == *seen);
        if !is_same {
            self.told_seen = words.iter().map(|word| word.load(Relaxed)).collect();
            changed = true;
        }
        changed
    }

    /// A copy of what was seen last.
    pub fn snapshot(&self) -> Snapshot {
        let below = |path: &Path| path.strip_prefix(&self.root).expect("below the root").to_owned();
        Snapshot {
            dirs: self.dirs.iter().map(|path| below(path)).collect(),
            files: self.files.iter().map(|file| (below(&file.path), file.seen.clone())).collect(),
        }
    }
}

fn watch(path: PathBuf, inode: u64, len: usize) -> Option<Watched> {
    let mut map = core::ptr::null();
    if len > 0 {
        let file = File::open(&path).ok()?;
        // SAFETY: a new mapping of a file that is as long.
        let made = unsafe {
            libc::mmap(core::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if made == libc::MAP_FAILED {
            return None;
        }
        map = made.cast_const().cast::<u8>();
    }
    let mut seen = Vec::new();
    if !map.is_null() {
        // SAFETY: as in `look`.
        seen.extend_from_slice(unsafe { core::slice::from_raw_parts(map, len) });
    }
    Some(Watched { path, inode, map, seen })
}

impl Snapshot {
    /// Writes it out below `root`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lay_out(&self, root: &Path) -> std::io::Result<()> {
        let make = |path: &Path| DirBuilder::new().mode(0o700).recursive(true).create(path);
        make(root)?;
        for dir in &self.dirs {
            make(&root.join(dir))?;
        }
        for (path, bytes) in &self.files {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(root.join(path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if bytes.is_empty() || ["arena-", "aside-"].iter().any(|kind| name.starts_with(kind)) {
                file.set_len(bytes.len() as u64)?;
            } else {
                // All but payload memory has every page, and is checked for that.
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.len() as u64)?;
            }
            // Pages of zeros are there already, or stay holes.
            for (index, page) in bytes.chunks(4096).enumerate() {
                if page.iter().any(|&byte| byte != 0) {
                    file.write_all_at(page, index as u64 * 4096)?;
                }
            }
        }
        Ok(())
    }
}

/// What becomes of those who took part in the bus that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They live: their leases cannot be told, and their numbers are this process's.
    Live,
    /// They are dead: nobody holds a lock on their leases.
    Dead,
}

/// In a copy of a bus: decides whether everybody who took part in the original lives. The leases are there, but the table names
/// the inodes of the originals; for the dead it comes to name the copies'.
///
/// # Errors
/// What the file system says.
pub fn decide(bus: &Path, fate: Fate) -> std::io::Result<()> {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(bus.join("bus")) else { return Ok(()) };
    let number = |at: u64| -> std::io::Result<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_ne_bytes(bytes))
    };
    for index in 0..number(PARTICIPANTS_RESERVED as u64)? {
        let at = PARTICIPANTS as u64 + index * PARTICIPANT_BYTES as u64;
        let word = HolderWord::unpack(number(at)?);
        let service = number(at + core::mem::offset_of!(Participant, service) as u64)?;
        if word.state != participant::LIVE || service.to_ne_bytes() == *b"survivor" {
            continue;
        }
        let lease = bus.join("leases").join(format!("{index}.{}", word.tag));
        let inode = match fate {
            Fate::Live => 0,
            // Made where it lacks: the supervisor, which does not stand still, may have registered its thread for events since files were
            // last looked for. It has something to tell where the operation takes ten seconds: the group of the witness stands still.
            Fate::Dead => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(lease)?
                .metadata()?
                .ino(),
        };
        let pid = std::process::id();
        let ticks = bus_shm::sys::process::start_time_ticks(pid).unwrap_or(0);
        let write = |offset: usize, bytes: &[u8]| file.write_all_at(bytes, at + offset as u64);
        write(core::mem::offset_of!(Participant, lease_inode), &inode.to_ne_bytes())?;
        write(core::mem::offset_of!(Participant, pid), &pid.to_ne_bytes())?;
        write(core::mem::offset_of!(Participant, start_ticks), &ticks.to_ne_bytes())?;
    }
    Ok(())
}
