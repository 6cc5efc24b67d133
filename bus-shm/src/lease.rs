//! Leases: how a process shows that it lives, and how another proves that it does not.
//!
//! Each participant holds a kernel lock (OFD) on a file of its own. The kernel drops it when the process ends, after the
//! process's mappings are gone, so a free lock proves that nothing of that process can be stored any more. A
//! forked child keeps the lock alive; a pid and start time that no longer exist settle that case. The end of a
//! socket is only a hint.

use crate::attached::Noted;
use crate::directory::BusDir;
use crate::error::{BusError, RegionError};
use crate::presence::head::Head;
use crate::region::Region;
use crate::sys::process::{Pidfd, Withheld, is_asleep, pid_namespace_inode, start_time_ticks};
use crate::sys::{file, lock};
use bus_core::holder::{Holder, HolderWord, participant};
use bus_core::layout::superblock::{PARTICIPANT_BYTES, Participant, at};
use bus_core::limits::PARTICIPANTS_MAX;
use bus_core::sync::{Ordering, fence};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A lease file that this process holds locked.
#[derive(Debug)]
pub(crate) struct Lease {
    /// A forked child does not hold it.
    _withheld: Withheld,
    /// Keeps the lock; closing it in the last process that has it open gives the lease up.
    file: File,
    path: PathBuf,
    /// The topics that this process has attached to, as they stand in the file.
    noted: Mutex<Noted>,
    /// What this process says of itself there.
    head: Head,
}

impl Lease {
    /// Makes and locks a file under a temporary name, which the supervisor changes at registration.
    pub(crate) fn prepare(dir: &BusDir) -> Result<Self, BusError> {
        let name = crate::directory::unique_name(crate::directory::TEMPORARY);
        let path = dir.leases().join(&name);
        let file = file::create_new(&path, 0o600)?;
        if !lock::try_lock(&file, &path)? {
            return Err(BusError::Refused {
                bus: dir.name().into(),
                reason: format!("{} was locked by another process as soon as it was made", path.display()),
            });
        }
        let noted = Noted::begin(&file);
        let head = Head::attach(&file, &path, noted.is_kept());
        Ok(Self { _withheld: Withheld::new(&file), file, path, noted: Mutex::new(noted), head })
    }

    /// What this process says of itself.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Says something of itself.
    pub(crate) fn set_status(&self, text: &str) -> Result<(), RegionError> {
        self.head.set_status(&self.file, &self.path, text)
    }

    /// Its file name.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Notes that this process is about to hold something in a topic. True if that is news.
    pub(crate) fn note(&self, topic: &str) -> Result<bool, RegionError> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.note(&self.file, &self.path, topic)
    }

    /// Has the file been renamed or removed by somebody else?
    pub(crate) fn is_lost(&self) -> bool {
        !self.path.exists()
    }

    /// The supervisor has given it this name.
    pub(crate) fn registered_as(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Gives the lease up. The file of a registered one stays until its entry is cleared: unlocked, it is the proof that the
    /// entry is nobody's, even while this process runs on.
    pub(crate) fn release(&self) {
        let _ = lock::unlock(&self.file, &self.path);
        if self.name().starts_with(crate::directory::TEMPORARY) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The participant table, as everybody may read it.
#[derive(Clone, Debug)]
pub(crate) struct Participants {
    superblock: Arc<Region>,
    dir: BusDir,
    pid_namespace: u64,
}

/// A participant that was read from the table.
#[derive(Clone, Debug)]
pub struct ParticipantInfo {
    /// Its number.
    pub participant: u16,
    /// How often the number has been handed out.
    pub tag: u32,
    /// Process id, in the supervisor's pid namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// CLOCK_REALTIME ns of its registration.
    pub since_ns: u64,
    /// Service name.
    pub service: String,
    start_ticks: u64,
    pid_namespace: u64,
    lease_inode: u64,
}

impl ParticipantInfo {
    pub(crate) fn lease_inode(&self) -> u64 {
        self.lease_inode
    }

    pub(crate) fn holder(&self) -> Holder {
        Holder::new(self.participant, u64::from(self.tag))
    }

    pub(crate) fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Is its pid one of this process's pid namespace?
    pub(crate) fn is_of_namespace(&self) -> bool {
        self.pid_namespace == pid_namespace_inode()
    }
}

/// Byte offset of a participant entry.
pub(crate) fn entry_offset(participant: u16) -> u64 {
    (at::PARTICIPANTS + participant as usize * PARTICIPANT_BYTES) as u64
}

impl Participants {
    pub(crate) fn new(superblock: Arc<Region>, dir: BusDir) -> Self {
        Self { superblock, dir, pid_namespace: pid_namespace_inode() }
    }

    /// How many entries there are, used or not.
    pub(crate) fn reserved(&self) -> u16 {
        let count =
            self.superblock.look(at::PARTICIPANTS_RESERVED).map_or(0, |word| word.load(Ordering::Acquire));
        count.min(u64::from(PARTICIPANTS_MAX)) as u16
    }

    /// The entry, if a process is registered there.
    pub(crate) fn live(&self, participant: u16) -> Option<ParticipantInfo> {
        self.entry(participant, |word| word.state == participant::LIVE)
    }

    /// Is `holder` registered? A look at one word: one that has just died may still be.
    #[inline]
    pub(crate) fn is_registered(&self, holder: Holder) -> bool {
        self.tag_of(holder).is_some()
    }

    /// The full incarnation of a registered process.
    #[inline]
    pub(crate) fn tag_of(&self, holder: Holder) -> Option<u32> {
        if holder.participant >= self.reserved() {
            return None;
        }
        // Acquire: pairs with the Release that made it LIVE; the name of its reply topic is that of this incarnation.
        let word = self.superblock.look(entry_offset(holder.participant) as usize)?.load(Ordering::Acquire);
        let word = HolderWord::unpack(word);
        (word.state == participant::LIVE && Holder::new(holder.participant, u64::from(word.tag)) == holder)
            .then_some(word.tag)
    }

    /// All registered participants, and those who are being swept.
    pub(crate) fn present(&self) -> Vec<ParticipantInfo> {
        let is_present = |word: HolderWord| matches!(word.state, participant::LIVE | participant::SWEEPING);
        (0..self.reserved()).filter_map(|participant| self.entry(participant, is_present)).collect()
    }

    /// The entry, also of one that has ended since.
    pub(crate) fn last(&self, participant: u16) -> Option<ParticipantInfo> {
        let is_any = |word: HolderWord| {
            matches!(word.state, participant::LIVE | participant::SWEEPING | participant::FREE)
        };
        self.entry(participant, is_any)
    }

    /// Process and name of `holder`, even if it has left, as long as nobody else has got its number.
    pub(crate) fn describe_last(&self, holder: Holder) -> Option<(u32, String)> {
        let is_its = |word: HolderWord| {
            Holder::new(holder.participant, u64::from(word.tag)) == holder
                && matches!(word.state, participant::LIVE | participant::SWEEPING | participant::FREE)
        };
        self.entry(holder.participant, is_its).map(|info| (info.pid, info.service))
    }

    fn entry(&self, participant: u16, is_meant: impl Fn(HolderWord) -> bool) -> Option<ParticipantInfo> {
        if participant >= self.reserved() {
            return None;
        }
        let state = self.superblock.look(entry_offset(participant) as usize)?;
        loop {
            // Acquire: pairs with the Release that made it LIVE; the other fields are complete.
            let seen = state.load(Ordering::Acquire);
            let word = HolderWord::unpack(seen);
            if !is_meant(word) {
                return None;
            }
            let entry: Participant = self.superblock.read(entry_offset(participant)).ok()?;
            // Copied one after the other, the fields belong together if the entry has not changed hands meanwhile.
            fence(Ordering::Acquire);
            if state.load(Ordering::Relaxed) == seen {
                return Some(Self::describe_entry(participant, word, &entry));
            }
        }
    }

    fn describe_entry(participant: u16, word: HolderWord, entry: &Participant) -> ParticipantInfo {
        ParticipantInfo {
            participant,
            tag: word.tag,
            pid: entry.pid,
            uid: entry.uid,
            since_ns: entry.since_ns,
            service: bus_core::layout::get_name(&entry.service).to_owned(),
            start_ticks: entry.start_ticks,
            pid_namespace: entry.pid_namespace,
            lease_inode: entry.lease_inode,
        }
    }

    /// All registered participants, dead ones that nobody has noticed yet included.
    pub(crate) fn all(&self) -> Vec<ParticipantInfo> {
        (0..self.reserved()).filter_map(|participant| self.live(participant)).collect()
    }

    /// Who `holder` is, for error messages.
    pub(crate) fn describe(&self, holder: Holder) -> (u32, String) {
        match self.live(holder.participant) {
            Some(info) if info.holder() == holder => (info.pid, info.service),
            _ => (0, "a process that has left".into()),
        }
    }

    /// Proof that `holder` can store nothing any more. False where that cannot be proved.
    pub(crate) fn is_dead(&self, holder: Holder) -> bool {
        match self.live(holder.participant) {
            // The number has been given back or handed to another: that happens only after its sweep began.
            None => holder.participant < self.reserved(),
            Some(info) if info.holder() != holder => true,
            Some(info) => self.is_gone(&info),
        }
    }

    /// Do all threads of this registered process sleep? False where that cannot be seen.
    pub(crate) fn is_asleep(&self, info: &ParticipantInfo) -> bool {
        info.pid_namespace == self.pid_namespace && is_asleep(info.pid)
    }

    /// Is there no live process under this number?
    pub(crate) fn is_vacant(&self, participant: u16) -> bool {
        match self.live(participant) {
            None => participant < self.reserved(),
            Some(info) => self.is_gone(&info),
        }
    }

    /// Has this registered process ended?
    pub(crate) fn is_gone(&self, info: &ParticipantInfo) -> bool {
        let path = self.dir.lease(info.participant, info.tag);
        if let Ok(file) = file::open_ro(&path)
            && file::inode(&file).is_ok_and(|inode| inode == info.lease_inode)
            && lock::is_locked(&file, &path).is_ok_and(|locked| !locked)
        {
            return true;
        }
        // Locked, perhaps by a forked child, or no longer to be found: ask for the process itself.
        if info.pid_namespace != self.pid_namespace || info.pid == 0 {
            return false;
        }
        match Pidfd::open(info.pid) {
            Ok(process) => !process.is_alive() || start_time_ticks(info.pid) != Some(info.start_ticks),
            Err(error) => error.is(rustix::io::Errno::SRCH),
        }
    }
}
