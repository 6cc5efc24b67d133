//! The file `listeners`, and ringing: whoever rings a topic's message bell tells those who wait on many topics at once too.
#![allow(unsafe_code)]

use crate::bus::BusInner;
use crate::error::RegionError;
use crate::region::{Access, Region, reserve};
use crate::sys::{futex, pipe};
use crate::topic::TopicCore;
use bus_core::doorbell::{Barrier, Doorbell};
use bus_core::group;
use bus_core::holder::{Holder, HolderWord};
use bus_core::layout::listeners::{self, at, flags, in_entry, state};
use bus_core::limits::LISTENERS_MAX;
use bus_core::listener::{Listener, Ticket};
use bus_core::sync::{AtomicU64, Ordering};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The file of listeners, mapped for storing.
#[derive(Debug)]
pub(crate) struct Listeners {
    region: Region,
    /// Directory of the pipes.
    pipes: PathBuf,
}

/// Pipes that this process has open for writing, by entry, with the tag that they belong to.
pub(crate) type OpenPipes = Mutex<HashMap<u16, (u32, OwnedFd)>>;

impl Listeners {
    /// Maps the file in the directory of a bus.
    pub(crate) fn attach(bus: &Path) -> Result<Self, RegionError> {
        let most = listeners::footprint_bytes(LISTENERS_MAX as usize);
        let (region, _) =
            Region::attach(&bus.join(LISTENERS_NAME), listeners::MAGIC, Access::Write, Some(most))?;
        Ok(Self { region, pipes: bus.join(PIPES_NAME) })
    }

    fn reserved(&self) -> usize {
        // Acquire: entries that are counted are backed by memory.
        let reserved = self.region.look(at::RESERVED).map_or(0, |word| word.load(Ordering::Acquire));
        (reserved as usize).min(LISTENERS_MAX as usize)
    }

    fn word(&self, entry: usize, offset: usize) -> Option<&AtomicU64> {
        self.region.look(listeners::entry(entry) + offset)
    }

    /// The entry's holder word as it is.
    pub(crate) fn holder(&self, entry: usize) -> Option<HolderWord> {
        if entry >= self.reserved() {
            return None;
        }
        // Acquire: a LIVE entry's flags are complete.
        self.word(entry, in_entry::STATE).map(|word| HolderWord::unpack(word.load(Ordering::Acquire)))
    }

    fn view(&self, entry: usize) -> Option<Listener<'_>> {
        let at = listeners::entry(entry);
        Some(Listener::attach(
            self.region.look(at + in_entry::TOP)?,
            self.region.look_words(at + in_entry::SUMMARY, listeners::SUMMARY_WORDS)?,
            self.region.look_words(at + in_entry::READY, listeners::READY_WORDS)?,
            Doorbell::attach(self.region.look32(at + in_entry::BELL)?),
        ))
    }

    /// Is this ticket nobody's any more?
    pub(crate) fn is_stale(&self, ticket: Ticket) -> bool {
        !self
            .holder(usize::from(ticket.entry))
            .is_some_and(|word| word.state == state::LIVE && word.tag == ticket.tag)
    }

    /// Claims an entry, from memory added to the file if need be. `None` if all are taken.
    pub(crate) fn claim(&self, me: Holder) -> Result<Option<(u16, HolderWord)>, RegionError> {
        loop {
            let reserved = self.reserved();
            for entry in 0..reserved {
                let Some(word) = self.word(entry, in_entry::STATE) else { break };
                let seen = HolderWord::unpack(word.load(Ordering::Acquire));
                let mine = seen.next(state::LIVE, me);
                if seen.state == state::FREE && group::change(word, seen, mine).is_some() {
                    self.clear(entry);
                    return Ok(Some((entry as u16, mine)));
                }
            }
            if reserved >= LISTENERS_MAX as usize {
                return Ok(None);
            }
            let offset = listeners::entry(reserved) as u64;
            reserve(self.region.file(), self.region.path(), offset, listeners::ENTRY_BYTES as u64)?;
            if let Some(count) = self.region.look(at::RESERVED) {
                // By the maximum: another process may have added more.
                count.fetch_max(reserved as u64 + 1, Ordering::AcqRel);
            }
        }
    }

    /// What the last holder of an entry left in it means nothing to the next. Late ringers of the last one may set a bit all the
    /// same; a bit too many only makes its owner look.
    fn clear(&self, entry: usize) {
        if let Some(flags) = self.word(entry, in_entry::FLAGS) {
            flags.store(0, Ordering::Relaxed);
        }
        if let Some(listener) = self.view(entry) {
            listener.take(|_| {});
        }
    }

    /// Gives an entry back, with its pipe.
    pub(crate) fn release(&self, entry: u16, held: HolderWord) {
        if let Some(word) = self.word(usize::from(entry), in_entry::STATE) {
            let _ = std::fs::remove_file(self.pipe(entry, held.tag));
            group::change(word, held, held.with_state(state::FREE));
        }
    }

    /// Gives back what `dead` held. Its topics' tables have been cleared before.
    pub(crate) fn release_dead(&self, dead: Holder) {
        for entry in 0..self.reserved() {
            if let Some(held) = self.holder(entry)
                && held.state == state::LIVE
                && held.holder == dead
            {
                self.release(entry as u16, held);
            }
        }
    }

    /// Is this ticket one of `dead`, or nobody's?
    pub(crate) fn is_of(&self, ticket: Ticket, dead: Holder) -> bool {
        self.is_stale(ticket)
            || self.holder(usize::from(ticket.entry)).is_some_and(|word| word.holder == dead)
    }

    /// Name of a listener's pipe.
    pub(crate) fn pipe(&self, entry: u16, tag: u32) -> PathBuf {
        self.pipes.join(format!("{entry}.{tag}"))
    }

    /// The words of an entry, for its holder.
    ///
    /// # Safety
    /// What is returned must not outlive this mapping.
    pub(crate) unsafe fn held(&self, entry: u16) -> Option<Listener<'static>> {
        let view = self.view(usize::from(entry))?;
        // SAFETY: only the lifetime changes, as the caller promises.
        Some(unsafe { core::mem::transmute::<Listener<'_>, Listener<'static>>(view) })
    }

    /// From now on whoever rings this entry writes to its pipe too.
    pub(crate) fn set_pipe(&self, entry: u16) {
        if let Some(word) = self.word(usize::from(entry), in_entry::FLAGS) {
            // Release: the pipe has its name.
            word.store(flags::PIPE, Ordering::Release);
        }
    }

    /// Wakes the holder of an entry that has just been marked, if it sleeps. False: it sleeps, and could not be told.
    fn ring(
        &self,
        entry: u16,
        tag: u32,
        listener: Listener<'_>,
        barrier: Barrier,
        open: Option<&OpenPipes>,
    ) -> bool {
        let mut is_told = true;
        listener.ring(barrier, || {
            futex::wake_all(listener.bell().word());
            let flags = self
                .word(usize::from(entry), in_entry::FLAGS)
                .map_or(0, |flags| flags.load(Ordering::Acquire));
            if flags & flags::PIPE != 0 {
                is_told = self.write_pipe(entry, tag, open);
            }
            is_told
        });
        is_told
    }

    /// One byte into a listener's pipe. A pipe that is full is readable as it is, and one that is gone has no reader. False: this
    /// process cannot open it at the moment.
    fn write_pipe(&self, entry: u16, tag: u32, open: Option<&OpenPipes>) -> bool {
        // Tried only: a thread of this process that is in the middle of it is not waited for.
        let mut open = open.and_then(|open| open.try_lock().ok());
        if let Some((of, pipe)) = open.as_ref().and_then(|open| open.get(&entry))
            && *of == tag
        {
            pipe::write_byte(pipe);
            return true;
        }
        match pipe::open(&self.pipe(entry, tag)) {
            Ok(pipe) => {
                pipe::write_byte(&pipe);
                if let Some(open) = &mut open {
                    open.insert(entry, (tag, pipe));
                }
                true
            }
            // What lasts must not make each publication ring for ever.
            Err(error) => ![Errno::MFILE, Errno::NFILE, Errno::NOMEM].iter().any(|&errno| error.is(errno)),
        }
    }

    /// Tells those who listen to a topic that something may have come there. False: one could not be told.
    fn tell(&self, topic: &TopicCore, barrier: Barrier, open: Option<&OpenPipes>) -> bool {
        let Some(table) = topic.listener_table() else { return true };
        let mut are_told = true;
        for ticket in table.tickets().filter(|&ticket| !self.is_stale(ticket)) {
            if let Some(listener) = self.view(usize::from(ticket.entry)) {
                listener.mark(usize::from(ticket.index));
                are_told &= self.ring(ticket.entry, ticket.tag, listener, barrier, open);
            }
        }
        are_told
    }

    /// Wakes the holder of an entry, if it is still that one and sleeps. It finds out by itself what for.
    pub(crate) fn wake(&self, entry: u16, tag: u32) {
        let word = self.holder(usize::from(entry));
        if word.is_some_and(|word| word.state == state::LIVE && word.tag == tag)
            && let Some(listener) = self.view(usize::from(entry))
        {
            self.ring(entry, tag, listener, Barrier::Fence, None);
        }
    }

    /// Tells everybody that topics have been created, or that the bus is closed.
    pub(crate) fn tell_all(&self) {
        for entry in 0..self.reserved() {
            if let Some(word) = self.holder(entry).filter(|word| word.state == state::LIVE)
                && let Some(listener) = self.view(entry)
            {
                listener.mark_topics();
                self.ring(entry as u16, word.tag, listener, Barrier::Fence, None);
            }
        }
    }
}

/// Name of the file in the directory of a bus.
pub(crate) const LISTENERS_NAME: &str = "listeners";
/// Name of the directory of pipes beside it.
pub(crate) const PIPES_NAME: &str = "pipes";

/// What ringing a topic's message bell does: wakes those who sleep on it, and tells those who wait on many topics. False: one of them
/// could not be told, and the bell has to stay armed.
pub(crate) fn wake_readers(bus: &BusInner, topic: &TopicCore) -> bool {
    futex::wake_all(topic.message_bell().word());
    if topic.listener_table().is_none_or(|table| table.is_unused()) {
        return true;
    }
    bus.listeners().is_some_and(|listeners| listeners.tell(topic, bus.ringing(), Some(bus.open_pipes())))
}

/// The same for one who repairs and may not take part in the bus. A full fence is right in either mode of the bus: a sleeper's
/// membarrier asks for nothing on this side.
pub(crate) fn wake_readers_after_repair(topic: &TopicCore) {
    futex::wake_all(topic.message_bell().word());
    if topic.listener_table().is_some_and(|table| !table.is_unused())
        && let Some(bus) = topic.dir().0.ancestors().nth(2)
        && let Ok(listeners) = Listeners::attach(bus)
    {
        listeners.tell(topic, Barrier::Fence, None);
    }
}

/// Tells everybody who listens on this bus that topics have been created, or that it is closed.
pub(crate) fn tell_all(bus: &Path) {
    if let Ok(listeners) = Listeners::attach(bus) {
        listeners.tell_all();
    }
}
