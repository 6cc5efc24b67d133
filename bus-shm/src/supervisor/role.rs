//! Who holds the role, and how it goes to another although its holder is stopped.
//!
//! One word of the superblock names the newest holder by the mark of its lock file and socket. It changes by
//! compare-and-swap only: from the holder that was seen dead (its lock is free) or silent (its beat has not moved for
//! [`SILENCE`] while somebody wanted something) to a successor whose lock and socket are there already, or to "closed".
//! A holder looks at the word before every act, and each act is such that it does no harm if it comes late all the same.
//! The protocol is `tests/src/model/role.rs`.

use crate::directory::{BusDir, CONTROL, DOOMED, ROLE, role_name, socket_name, visible_names};
use crate::error::BusError;
use crate::region::{Access, Region};
use crate::sys::process::Withheld;
use crate::sys::{clock, file, futex, lock};
use bus_core::layout::superblock::{self, RoleWord, at};
use bus_core::layout::wake;
use bus_core::sync::{Ordering, fence};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A holder whose beat has not moved for this long, while somebody waits for it, is superseded.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);
/// How often an idle holder beats.
pub(crate) const BEAT: Duration = Duration::from_millis(500);
/// Marks that are tried before there are said to be none; one in 65,535 is taken.
const MARKS_TRIED: u32 = 100;

/// The word that names the newest holder.
pub(crate) fn newest(superblock: &Region) -> u64 {
    // Acquire: pairs with the AcqRel of whoever took the role; its files are there.
    superblock.look(at::ROLE_EPOCH).map_or(0, |word| word.load(Ordering::Acquire))
}

/// Has the bus been closed, for good?
pub(crate) fn is_closed(word: u64) -> bool {
    word == RoleWord::CLOSED
}

/// Does the holder that the word names run, or stand still? Not if it has ended.
pub(crate) fn is_held(dir: &BusDir, word: u64) -> bool {
    !is_closed(word) && is_mark_held(dir, RoleWord::unpack(word).mark)
}

/// The same for a holder of the past, by its mark.
pub(crate) fn is_mark_held(dir: &BusDir, mark: u16) -> bool {
    let path = dir.role(mark);
    match file::open_ro(&path) {
        // The end of a process needs proof.
        Ok(role) => lock::is_locked(&role, &path).unwrap_or(true),
        Err(error) => !error.is(Errno::NOENT),
    }
}

/// Does any process hold a lock that a holder of the role, or who wants to be one, has in the bus's directory?
pub(crate) fn is_any_held(dir: &BusDir) -> bool {
    visible_names(dir.path())
        .iter()
        .filter_map(|name| mark_in(name, ROLE))
        .any(|mark| is_mark_held(dir, mark))
}

fn mark_in(name: &str, prefix: &str) -> Option<u16> {
    u16::from_str_radix(name.strip_prefix(prefix)?, 16).ok()
}

/// A lock file with a mark of its own in the directory of a bus: made before the role is taken, and kept while this process
/// might still do something in its name.
#[derive(Debug)]
pub(crate) struct Lock {
    dir: BusDir,
    /// The directory, which need not have the bus's name any more.
    home: File,
    home_inode: u64,
    mark: u16,
    /// None once it is given back. A forked child does not hold it.
    held: Option<(Withheld, File)>,
}

impl Lock {
    pub(crate) fn new(dir: &BusDir) -> Result<Self, BusError> {
        let home = file::open_dir(dir.path())?;
        let home_inode = file::inode(&home)?;
        for attempt in 0..MARKS_TRIED {
            let seed = clock::monotonic_ns() ^ u64::from(std::process::id()) << 32 ^ u64::from(attempt) << 56;
            let mark = bus_core::name::fnv1a(&seed.to_le_bytes(), bus_core::name::FNV1A_START) as u16;
            if mark == 0 {
                continue;
            }
            let file = match file::create_new_in(&home, &role_name(mark), 0o600) {
                Ok(file) => file,
                Err(error) if error.is(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            };
            // Whoever cleans up takes the lock before it removes the file.
            if lock::try_lock(&file, &dir.role(mark))? && !file::is_unlinked(&file)? {
                let held = Some((Withheld::new(&file), file));
                return Ok(Self { dir: dir.clone(), home, home_inode, mark, held });
            }
        }
        let reason = format!("no free name for a lock file was found in {} tries", MARKS_TRIED);
        Err(BusError::Refused { bus: dir.name().into(), reason })
    }

    pub(crate) fn mark(&self) -> u16 {
        self.mark
    }

    /// Does the directory in which this lock lies still have the bus's name?
    fn is_in_place(&self) -> bool {
        file::open_dir(self.dir.path())
            .and_then(|now| file::inode(&now))
            .is_ok_and(|inode| inode == self.home_inode)
    }

    /// Removes the files of the bus, which is closed, or was found damaged by one who made sure that nobody uses it.
    ///
    /// The name that the directory gets stands for this directory alone, and it keeps it until no lock is left in it. So
    /// one who is stopped before the rename finds the name taken when it goes on, and does not rename the bus that came after.
    pub(crate) fn remove_bus(&mut self) {
        let doomed = self.dir.base().join(format!("{DOOMED}{}", self.home_inode));
        if self.is_in_place() {
            let _ = file::rename_noreplace(self.dir.path(), &doomed);
        }
        clear_doomed(&doomed);
        self.release();
        clear_doomed(&doomed);
    }

    /// Gives the lock back: this process does nothing in its name any more.
    pub(crate) fn release(&mut self) {
        if self.held.is_some() {
            let _ = file::unlink_in(&self.home, &socket_name(self.mark));
            let _ = file::unlink_in(&self.home, &role_name(self.mark));
            self.held = None;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}

/// The role, as long as no other process has taken it.
#[derive(Debug)]
pub(crate) struct Role {
    lock: Lock,
    superblock: Arc<Region>,
    word: u64,
}

impl Role {
    /// Takes the role from the holder that `seen` names. `None` if another was quicker.
    pub(crate) fn take(lock: Lock, superblock: Arc<Region>, seen: u64) -> Option<Self> {
        let word = RoleWord::unpack(seen).next(lock.mark).pack();
        // AcqRel: this holder's acts come after those of the holders before it, and its files are there.
        superblock
            .look(at::ROLE_EPOCH)?
            .compare_exchange(seen, word, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        // Pairs with the fence in `is_newest`: either the predecessor sees this word when it looks, or the entry that it
        // had claimed before it looked is seen here.
        fence(Ordering::SeqCst);
        let this = Self { lock, superblock, word };
        this.beat();
        Some(this)
    }

    pub(crate) fn mark(&self) -> u16 {
        self.lock.mark
    }

    /// Has nobody taken the role since?
    pub(crate) fn is_newest(&self) -> bool {
        // Pairs with the fence in `take`.
        fence(Ordering::SeqCst);
        newest(&self.superblock) == self.word
    }

    /// Shows that the holder gets on with its work, and tells whether it is still the newest.
    pub(crate) fn beat(&self) -> bool {
        let is_newest = self.is_newest();
        if let (true, Some(beat)) = (is_newest, self.superblock.look(at::ROLE_BEAT)) {
            // Relaxed: only looked at for whether it moves.
            beat.store(clock::monotonic_ns(), Ordering::Relaxed);
        }
        is_newest
    }

    /// Closes the bus for good, unless another has the role: nobody takes it, or registers, from here on.
    pub(crate) fn close(&self) -> bool {
        self.superblock.look(at::ROLE_EPOCH).is_some_and(|word| {
            word.compare_exchange(self.word, RoleWord::CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
        })
    }

    /// After [`Role::close`].
    pub(crate) fn remove_bus(&mut self) {
        self.lock.remove_bus();
    }

    /// Gives the role back.
    pub(crate) fn release(&mut self) {
        self.lock.release();
    }

    /// Removes locks and sockets of holders, and of those who wanted to be one, that have ended.
    pub(crate) fn clear_predecessors(&self) {
        let dir = &self.lock.dir;
        let names = visible_names(dir.path());
        for mark in names.iter().filter_map(|name| mark_in(name, ROLE)) {
            if mark == self.mark() {
                continue;
            }
            // Held while the names go, so that nobody takes the lock in between.
            let Ok(Some(_held)) = lock::try_lock_path(&dir.role(mark)) else { continue };
            let _ = std::fs::remove_file(dir.socket(mark));
            let _ = std::fs::remove_file(dir.role(mark));
        }
        for mark in names.iter().filter_map(|name| mark_in(name, CONTROL)) {
            // A socket is made after its lock.
            if !dir.role(mark).exists() {
                let _ = std::fs::remove_file(dir.socket(mark));
            }
        }
    }
}

/// Completes the removal of a bus that was closed by a process that has not got further. True if there was one.
pub(crate) fn finish_closed(dir: &BusDir) -> bool {
    let Ok(mut lock) = Lock::new(dir) else { return false };
    // Looked at after the lock was made: if the directory has its name still, whoever removes it finds the lock in it.
    let is_closed = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, None)
        .is_ok_and(|(region, _)| is_closed(newest(&region)));
    if is_closed && lock.is_in_place() {
        lock.remove_bus();
    }
    is_closed
}

/// Removes a damaged bus, if no process is left that might use it. False if there is one.
pub(crate) fn remove_unused(dir: &BusDir) -> Result<bool, BusError> {
    let mut lock = Lock::new(dir)?;
    let mut others = visible_names(dir.path());
    others
        .retain(|name| mark_in(name, ROLE).is_some_and(|mark| mark != lock.mark && is_mark_held(dir, mark)));
    if !others.is_empty() || crate::bus::are_leases_held(dir) {
        return Ok(false);
    }
    if lock.is_in_place() {
        lock.remove_bus();
    }
    Ok(true)
}

/// Is there, under a doomed name, a lock that keeps the directory?
pub(crate) fn is_doomed_in_use(doomed: &Path) -> bool {
    visible_names(doomed).iter().filter(|name| mark_in(name, ROLE).is_some()).any(|name| {
        let path = doomed.join(name);
        file::open_ro(&path).is_ok_and(|file| lock::is_locked(&file, &path).unwrap_or(true))
    })
}

/// Removes what lies under a doomed name, after telling whoever uses it. The directory stays, empty but for locks, as long as
/// a process that may still want to rename it has not ended. True if nothing is left.
pub(crate) fn clear_doomed(doomed: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(doomed) else { return !doomed.exists() };
    tell_closed(doomed);
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_str().and_then(|name| mark_in(name, ROLE)).is_none() {
            let _ = file::remove_tree(&path);
        } else if let Ok(Some(_held)) = lock::try_lock_path(&path) {
            let _ = std::fs::remove_file(&path);
        }
    }
    let _ = std::fs::remove_dir(doomed);
    !doomed.exists()
}

/// Marks a bus and its topics as closed, and wakes whoever sleeps there.
fn tell_closed(doomed: &Path) {
    if let Ok((region, _)) = Region::attach(&doomed.join("bus"), superblock::MAGIC, Access::Write, None)
        && let Some(state) = region.look(at::STATE)
    {
        state.store(1, Ordering::Release);
    }
    let topics = doomed.join("topics");
    for name in visible_names(&topics) {
        let path = topics.join(name).join("wake");
        let Ok((region, _)) = Region::attach(&path, wake::MAGIC, Access::Write, None) else { continue };
        if let (Some(state), Some(messages), Some(space)) = (
            region.look32(wake::at::STATE),
            region.look32(wake::at::MESSAGE_BELL),
            region.look32(wake::at::SPACE_BELL),
        ) {
            // The other bits are a generation, which another may be raising.
            state.fetch_or(wake::state::CLOSED, Ordering::Release);
            for bell in [messages, space] {
                // Not a ring of the bell: the value changes so that nobody who is about to sleep on it does.
                bell.fetch_add(1 << 16, Ordering::Release);
                futex::wake_all(bell);
            }
        }
    }
    crate::listeners::tell_all(doomed);
}
