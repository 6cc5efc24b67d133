//! The supervisor's role: registers processes and topics, notices deaths, cleans up. Nothing on the data path calls it.
//!
//! The role belongs to whoever holds the lock on the bus's `role` file: a dedicated process (`shmbus up`), or a thread of
//! the first process that opened the bus. When the holder ends, the next process that needs a registration takes the lock.
//! Whatever the holder knows stands in the regions, so a successor starts from them.

pub(crate) mod client;
pub(crate) mod create;
pub(crate) mod protocol;

use crate::directory::{BusDir, DOOMED, TEMPORARY, unique_name};
use crate::error::{BusError, RegionError, TopicError};
use crate::lease::{ParticipantInfo, Participants, entry_offset};
use crate::region::{Access, Region, reserve};
use crate::repair;
use crate::sys::error::SysError;
use crate::sys::process::{Pidfd, Withheld};
use crate::sys::socket::{self, Received};
use crate::sys::{clock, file, futex, lock};
use bus_core::holder::{HolderWord, participant};
use bus_core::layout::superblock::{self, PARTICIPANT_BYTES, Participant, at};
use bus_core::layout::{put_name, wake};
use bus_core::limits::{PARTICIPANTS_MAX, TOPIC_NAME_BYTES_MAX};
use bus_core::sync::Ordering;
use protocol::{Garbled, Reply, Request};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// What the names of the bus's own topics begin with.
const BUS_TOPICS: &str = "_bus.";

/// Tells a serving supervisor to stop; any number of times, from anywhere.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<OwnedFd>);

impl StopHandle {
    fn new() -> Result<Self, BusError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SysError::new("eventfd", "the supervisor's stop", errno))?;
        Ok(Self(Arc::new(fd)))
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// A holder of the role.
#[derive(Debug)]
pub struct Supervisor {
    dir: BusDir,
    superblock: Arc<Region>,
    participants: Participants,
    /// A forked child of an agent holds neither of the two.
    _withheld: [Withheld; 2],
    listener: OwnedFd,
    /// The lock on it is the role.
    role: File,
    /// A thread of an agent hands the role over to whoever asks.
    dedicated: bool,
    /// The bus goes with its last participant, and this process with the bus.
    temporary: bool,
    /// Has anybody taken part since this process has the role?
    joined: bool,
    stop: StopHandle,
    /// Those whose end shows on a descriptor, and those who must be asked after.
    watched: Vec<(ParticipantInfo, Option<Pidfd>)>,
}

/// Why a supervisor stopped serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to.
    Asked,
    /// The bus was taken down.
    Down,
    /// Another process has the role now.
    HandedOver,
}

enum Turn {
    Go(Reply),
    Stop(Reply, Stopped),
}

impl Supervisor {
    /// Takes the role of an existing bus, or returns `None` if somebody has it.
    pub(crate) fn claim(dir: &BusDir, dedicated: bool) -> Result<Option<Self>, BusError> {
        let Some(role) = lock::try_lock_path(&dir.role())? else { return Ok(None) };
        let most = superblock::footprint_bytes(PARTICIPANTS_MAX as usize);
        let (region, _) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Write, Some(most))?;
        crate::bus::check_participants(&region)?;
        let fixed: superblock::Fixed = region.read(0)?;
        let superblock = Arc::new(region);
        let _ = std::fs::remove_file(dir.socket());
        let listener = socket::listen(&dir.socket())?;
        let mut this = Self {
            participants: Participants::new(superblock.clone(), dir.clone()),
            dir: dir.clone(),
            superblock,
            _withheld: [Withheld::new(&listener), Withheld::new(&role)],
            listener,
            role,
            dedicated,
            temporary: fixed.flags & superblock::FLAG_TEMPORARY != 0,
            joined: false,
            stop: StopHandle::new()?,
            watched: Vec::new(),
        };
        if let Some(epoch) = this.superblock.look(at::ROLE_EPOCH) {
            // AcqRel: this holder's acts come after those of the holders before it.
            epoch.fetch_add(1, Ordering::AcqRel);
        }
        this.recover();
        Ok(Some(this))
    }

    /// Takes the role of a bus for a dedicated process, making the bus if there is none. An agent that
    /// holds the role hands it over; another dedicated supervisor does so only if `replace`.
    ///
    /// # Errors
    /// [`BusError::Refused`] where another dedicated supervisor keeps it; no memory; another layout.
    pub fn take(dir: &BusDir, replace: bool) -> Result<Self, BusError> {
        Self::take_or_make(dir, replace, false)
    }

    /// The same, but a bus that this call makes is a temporary one: when its last participant leaves, it goes, and
    /// [`Supervisor::serve`] returns [`Stopped::Down`].
    ///
    /// # Errors
    /// As [`Supervisor::take`].
    pub fn take_temporary(dir: &BusDir, replace: bool) -> Result<Self, BusError> {
        Self::take_or_make(dir, replace, true)
    }

    fn take_or_make(dir: &BusDir, replace: bool, temporary: bool) -> Result<Self, BusError> {
        dir.prepare_base()?;
        repair::collect_garbage(dir.base().parent(), false);
        let begun = std::time::Instant::now();
        loop {
            if !dir.superblock().exists() {
                create::bus(dir, temporary)?;
            }
            match Self::claim(dir, true) {
                Ok(Some(supervisor)) => return Ok(supervisor),
                Ok(None) => {}
                // A temporary bus that nobody uses yet may be collected by another process.
                Err(_) if !dir.superblock().exists() && begun.elapsed() < client::REQUEST_TIMEOUT => continue,
                Err(error) => return Err(error),
            }
            // Nobody listens for a moment while the holder changes; the answer of the holder decides.
            let answer = client::ask(dir, &Request::HandOver { replace }, || Ok(!lock_is_free(dir)));
            match answer {
                Ok(Reply::Refused { reason }) => {
                    return Err(BusError::Refused { bus: dir.name().into(), reason });
                }
                Ok(_) | Err(BusError::NoSupervisor { .. }) if begun.elapsed() < client::REQUEST_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(_) => {
                    let waited = client::REQUEST_TIMEOUT;
                    return Err(BusError::Timeout { bus: dir.name().into(), waited });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What stops it.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Removes what half-made things a dead predecessor left, and finds out who lives.
    fn recover(&mut self) {
        for place in [self.dir.topics(), self.dir.leases()] {
            let Ok(entries) = std::fs::read_dir(&place) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let stale = name.to_str().is_some_and(|name| name.starts_with(TEMPORARY));
                // A lease that is being prepared is locked by its live owner.
                let in_use = file::open_ro(&entry.path())
                    .is_ok_and(|file| lock::is_locked(&file, &entry.path()).unwrap_or(true));
                if stale && !(entry.file_type().is_ok_and(|kind| kind.is_file()) && in_use) {
                    let _ = file::remove_tree(&entry.path());
                }
            }
        }
        for number in 0..self.participants.reserved() {
            self.finish_sweep(number);
        }
        for info in self.participants.all() {
            if self.participants.is_gone(&info) {
                self.bury(&info);
            } else {
                self.watch(info);
            }
        }
    }

    fn watch(&mut self, info: ParticipantInfo) {
        self.joined = true;
        let process = Pidfd::open(info.pid).ok();
        self.watched.push((info, process));
    }

    /// A participant has ended: repairs what it held, then gives its number back.
    fn bury(&mut self, info: &ParticipantInfo) {
        let Some(word) = self.superblock.look(entry_offset(info.participant) as usize) else { return };
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if seen.state != participant::LIVE || seen.tag != info.tag {
            return;
        }
        word.store(seen.with_state(participant::SWEEPING).pack(), Ordering::Release);
        self.finish_sweep(info.participant);
    }

    /// Completes a sweep, perhaps one that a predecessor began.
    fn finish_sweep(&self, number: u16) {
        let Some(word) = self.superblock.look(entry_offset(number) as usize) else { return };
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if seen.state != participant::SWEEPING {
            return;
        }
        repair::sweep(&self.dir, bus_core::holder::Holder::new(number, u64::from(seen.tag)));
        if let Ok((spin, _)) = Region::attach(&self.dir.spin(), superblock::spin::MAGIC, Access::Write, None)
        {
            crate::wait::release_spin_slots(&spin, number);
        }
        let _ = std::fs::remove_file(self.dir.lease(number, seen.tag));
        word.store(seen.with_state(participant::FREE).pack(), Ordering::Release);
    }

    /// Serves until it is told to stop, the bus goes down, or another takes over.
    ///
    /// # Errors
    /// Only what makes serving impossible; a client's mistakes are answered to that client.
    pub fn serve(mut self) -> Result<Stopped, BusError> {
        let mut connections: Vec<OwnedFd> = Vec::new();
        loop {
            if let Some(beat) = self.superblock.look(at::ROLE_BEAT) {
                beat.store(clock::monotonic_ns(), Ordering::Relaxed);
            }
            if self.is_left() && connections.is_empty() && !crate::bus::are_leases_held(&self.dir) {
                remove_bus(&self.dir);
                return self.finish(Stopped::Down);
            }
            let (stop, accept, readable, ended) = self.wait(&connections)?;
            if stop {
                return self.finish(Stopped::Asked);
            }
            for index in ended.into_iter().rev() {
                let (info, _) = self.watched.swap_remove(index);
                self.bury(&info);
            }
            for index in readable.into_iter().rev() {
                let connection = connections.swap_remove(index);
                if let Some(stopped) = self.serve_one(&connection) {
                    return self.finish(stopped);
                }
            }
            if accept && let Ok(connection) = socket::accept(&self.listener) {
                connections.push(connection);
            }
        }
    }

    /// Has the last participant of a temporary bus said that it leaves? It may still hold its lease for a moment.
    fn is_left(&self) -> bool {
        self.dedicated && self.temporary && self.joined && self.watched.is_empty()
    }

    /// Sleeps until something happens: (stop, a new connection, connections with a request, participants that ended).
    #[allow(clippy::type_complexity)]
    fn wait(&self, connections: &[OwnedFd]) -> Result<(bool, bool, Vec<usize>, Vec<usize>), BusError> {
        let processes: Vec<_> = self
            .watched
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| Some((index, entry.1.as_ref()?)))
            .collect();
        let mut fds: Vec<PollFd<'_>> = vec![
            PollFd::from_borrowed_fd(self.stop.0.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        fds.extend(connections.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        fds.extend(
            processes.iter().map(|(_, process)| PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)),
        );
        // Those without a descriptor (another pid namespace) are asked after ten times a second.
        let blind = processes.len() < self.watched.len();
        let timeout_ms = match (self.is_left(), blind) {
            (true, _) => 5,
            (false, true) => 100,
            (false, false) => 1000,
        };
        let timeout = crate::sys::timespec(Duration::from_millis(timeout_ms));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("poll", "the supervisor's descriptors", errno).into()),
        }
        let hot: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (fixed, rest) = hot.split_at(2);
        let (clients, exits) = rest.split_at(connections.len());
        let readable = clients.iter().enumerate().filter(|entry| *entry.1).map(|entry| entry.0).collect();
        let mut ended: Vec<usize> =
            processes.iter().zip(exits).filter(|entry| *entry.1).map(|entry| entry.0.0).collect();
        if blind {
            ended.extend(self.watched.iter().enumerate().filter_map(|(index, (info, process))| {
                (process.is_none() && self.participants.is_gone(info)).then_some(index)
            }));
            ended.sort_unstable();
        }
        Ok((fixed[0], fixed[1], readable, ended))
    }

    fn serve_one(&mut self, connection: &OwnedFd) -> Option<Stopped> {
        let mut packet = Vec::new();
        let Ok(Received::Packet) = socket::receive(connection, &mut packet, Some(Duration::ZERO)) else {
            return None;
        };
        let turn = match Request::from_packet(&packet) {
            Ok(request) => self.answer(connection, request),
            Err(Garbled::Version(theirs, build)) => Turn::Go(Reply::Refused {
                reason: format!(
                    "build {build} speaks protocol {theirs}, the supervisor {}",
                    protocol::PROTOCOL
                ),
            }),
            Err(Garbled::Bytes) => Turn::Go(Reply::Refused { reason: "that was no request".into() }),
        };
        let (reply, stopped) = match turn {
            Turn::Go(reply) => (reply, None),
            Turn::Stop(reply, stopped) => (reply, Some(stopped)),
        };
        if stopped == Some(Stopped::HandedOver) {
            // The caller tries for the lock as soon as it has the answer.
            let _ = std::fs::remove_file(self.dir.socket());
            let _ = lock::unlock(&self.role, &self.dir.role());
        }
        // A client that is gone or does not read has itself to blame.
        let _ = socket::try_send(connection, &reply.to_packet());
        stopped
    }

    fn answer(&mut self, connection: &OwnedFd, request: Request) -> Turn {
        let refuse = |reason: String| Turn::Go(Reply::Refused { reason });
        let Ok(peer) = socket::peer(connection) else { return refuse("who are you?".into()) };
        if peer.uid != rustix::process::geteuid().as_raw() {
            return refuse(format!("uid {} is not this bus's user", peer.uid));
        }
        let outcome = match request {
            Request::Register { service, pid_namespace, start_ticks, lease_name } => {
                self.register(&peer, &service, pid_namespace, start_ticks, &lease_name)
            }
            Request::Leave { participant, tag } => {
                if let Some(index) = self
                    .watched
                    .iter()
                    .position(|(info, _)| info.participant == participant && info.tag == tag)
                {
                    let (info, _) = self.watched.swap_remove(index);
                    self.bury(&info);
                }
                Ok(Reply::Done)
            }
            Request::CreateTopic { participant, spec } => self.create_topic(participant, &spec),
            Request::AddTypes { topic, types } => {
                create::extend_types(&self.dir, &topic, &types).map(|()| Reply::Done)
            }
            Request::Down { force } => return self.down(peer.pid, force),
            Request::HandOver { replace } if replace || !self.dedicated => {
                return Turn::Stop(Reply::Done, Stopped::HandedOver);
            }
            Request::HandOver { .. } => {
                return refuse(format!(
                    "a supervisor is running already (pid {}, build {}); `shmbus up --replace` takes over",
                    std::process::id(),
                    protocol::BUILD
                ));
            }
        };
        Turn::Go(outcome.unwrap_or_else(|error| reply_to_error(&error)))
    }

    fn register(
        &mut self,
        peer: &socket::Peer,
        service: &str,
        pid_namespace: u64,
        start_ticks: u64,
        lease_name: &str,
    ) -> Result<Reply, TopicError> {
        let refuse = |reason: &str| Ok(Reply::Refused { reason: reason.into() });
        if !lease_name.starts_with(TEMPORARY) || lease_name.contains('/') {
            return refuse("that is no name of a lease");
        }
        let prepared = self.dir.leases().join(lease_name);
        let file = file::open_ro(&prepared)?;
        if !lock::is_locked(&file, &prepared)? {
            return refuse("the lease file is not locked");
        }
        let Some((number, word)) = self.free_participant()? else {
            return refuse(&format!("{PARTICIPANTS_MAX} processes take part already"));
        };
        let next = word.next(participant::LIVE, bus_core::holder::Holder::new(number, 0));
        let next = HolderWord { holder: bus_core::holder::Holder::new(number, u64::from(next.tag)), ..next };
        let entry = Participant {
            state: word.pack(),
            pid: peer.pid,
            uid: peer.uid,
            start_ticks,
            pid_namespace,
            lease_inode: file::inode(&file)?,
            since_ns: clock::realtime_ns(),
            service: put_name(service),
            reserved: [0; 32],
        };
        let lease = self.dir.lease(number, next.tag);
        let _ = std::fs::remove_file(&lease);
        file::rename_noreplace(&prepared, &lease)?;
        self.superblock.write(entry_offset(number), &entry)?;
        if let Some(state) = self.superblock.look(entry_offset(number) as usize) {
            // Release: the entry's other fields are complete before it counts as LIVE.
            state.store(next.pack(), Ordering::Release);
        }
        if let Some(info) = self.participants.live(number) {
            self.watch(info);
        }
        Ok(Reply::Registered { participant: number, tag: next.tag })
    }

    /// A free participant entry, from memory added to the table if need be.
    fn free_participant(&self) -> Result<Option<(u16, HolderWord)>, RegionError> {
        let reserved = self.participants.reserved();
        for number in 0..reserved {
            let Some(word) = self.superblock.look(entry_offset(number) as usize) else { break };
            let word = HolderWord::unpack(word.load(Ordering::Acquire));
            if word.state == participant::FREE {
                return Ok(Some((number, word)));
            }
        }
        if u32::from(reserved) >= PARTICIPANTS_MAX {
            return Ok(None);
        }
        let more = (bus_core::layout::PAGE_BYTES as usize / PARTICIPANT_BYTES) as u64;
        let bytes = more * PARTICIPANT_BYTES as u64;
        reserve(self.superblock.file(), self.superblock.path(), entry_offset(reserved), bytes)?;
        if let Some(count) = self.superblock.look(at::PARTICIPANTS_RESERVED) {
            count.store((u64::from(reserved) + more).min(u64::from(PARTICIPANTS_MAX)), Ordering::Release);
        }
        Ok(Some((reserved, HolderWord::unpack(0))))
    }

    fn create_topic(&self, participant: u16, spec: &protocol::TopicSpec) -> Result<Reply, TopicError> {
        let checked = match spec.name.strip_prefix(BUS_TOPICS) {
            // Libraries ask for these on their own account.
            Some(_) => bus_core::name::check_dotted(&spec.name, TOPIC_NAME_BYTES_MAX),
            None => bus_core::name::check_topic(&spec.name),
        };
        checked.map_err(|why| TopicError::Name { name: spec.name.clone(), why })?;
        let creator = self.participants.live(participant);
        let (pid, service) =
            creator.as_ref().map_or((0, "unknown"), |info| (info.pid, info.service.as_str()));
        if create::topic(&self.dir, spec, (pid, service))? {
            self.ring_topics_bell();
        }
        Ok(Reply::Done)
    }

    fn ring_topics_bell(&self) {
        if let Some(generation) = self.superblock.look(at::TOPICS_GENERATION) {
            generation.fetch_add(1, Ordering::Release);
        }
        if let Some(bell) = self.superblock.look32(at::TOPICS_BELL) {
            bell.fetch_add(1, Ordering::Release);
            futex::wake_all(bell);
        }
    }

    /// Takes the bus down, unless somebody would miss it.
    fn down(&mut self, asker_pid: u32, force: bool) -> Turn {
        let others: Vec<_> = self
            .participants
            .all()
            .into_iter()
            .filter(|info| info.pid != asker_pid && !self.participants.is_gone(info))
            .map(|info| format!("{} (pid {})", info.service, info.pid))
            .collect();
        let unread = crate::inspect::unread(&self.dir);
        let is_missed = !others.is_empty() || !unread.is_empty();
        if is_missed && !force {
            let mut reason = String::from("not taken down:");
            if !others.is_empty() {
                reason += &format!("\n  attached: {}", others.join(", "));
            }
            for line in unread {
                reason += &format!("\n  unread: {line}");
            }
            reason += "\n`shmbus down --force` takes it down all the same; those attached get an error";
            return Turn::Go(Reply::Refused { reason });
        }
        remove_bus(&self.dir);
        Turn::Stop(Reply::Done, Stopped::Down)
    }

    fn finish(self, stopped: Stopped) -> Result<Stopped, BusError> {
        if stopped == Stopped::Asked {
            let _ = std::fs::remove_file(self.dir.socket());
        }
        Ok(stopped)
    }
}

/// Removes a bus that cannot be opened: its files are damaged, or of another layout. Processes that still use it are not asked to
/// let go, they would not understand; they go on with what they have mapped.
///
/// # Errors
/// [`BusError::NotFound`], and [`BusError::Refused`] while a process holds its role or a lease.
pub fn remove_unreadable(dir: &BusDir) -> Result<(), BusError> {
    dir.check_base()?;
    if !dir.path().exists() {
        return Err(BusError::NotFound { bus: dir.name().into(), dir: dir.base().into() });
    }
    let in_use = !lock_is_free(dir) && dir.role().exists() || crate::bus::are_leases_held(dir);
    if in_use {
        let reason = "it cannot be read, and processes still use it; end those first".into();
        return Err(BusError::Refused { bus: dir.name().into(), reason });
    }
    remove_bus(dir);
    Ok(())
}

/// Marks a bus and its topics as closed, wakes whoever sleeps there, and removes its files.
pub(crate) fn remove_bus(dir: &BusDir) {
    if let Ok((region, _)) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Write, None)
        && let Some(state) = region.look(at::STATE)
    {
        state.store(1, Ordering::Release);
    }
    for name in dir.topic_names() {
        let Ok((region, _)) = Region::attach(&dir.topic(&name).wake(), wake::MAGIC, Access::Write, None)
        else {
            continue;
        };
        if let (Some(state), Some(messages), Some(space)) = (
            region.look32(wake::at::STATE),
            region.look32(wake::at::MESSAGE_BELL),
            region.look32(wake::at::SPACE_BELL),
        ) {
            state.store(wake::state::CLOSED, Ordering::Release);
            for bell in [messages, space] {
                // Not a ring of the bell: the value changes so that nobody who is about to sleep on it does.
                bell.fetch_add(1 << 16, Ordering::Release);
                futex::wake_all(bell);
            }
        }
    }
    // One rename, so that nobody finds half a bus under its name.
    let doomed = dir.base().join(unique_name(DOOMED));
    let target = if file::rename_noreplace(dir.path(), &doomed).is_ok() { &doomed } else { dir.path() };
    let _ = file::remove_tree(target);
}

fn lock_is_free(dir: &BusDir) -> bool {
    file::open_ro(&dir.role())
        .is_ok_and(|role| lock::is_locked(&role, &dir.role()).is_ok_and(|locked| !locked))
}

fn reply_to_error(error: &TopicError) -> Reply {
    let region = match error {
        TopicError::Region(region) | TopicError::Bus(BusError::Region(region)) => Some(region),
        _ => None,
    };
    match region {
        Some(RegionError::NoSpace { path, need_bytes, free_bytes, total_bytes }) => Reply::NoSpace {
            path: path.display().to_string(),
            need_bytes: *need_bytes,
            free_bytes: *free_bytes,
            total_bytes: *total_bytes,
        },
        _ => Reply::Refused { reason: error.to_string() },
    }
}

/// A supervisor that runs in a thread of this process.
#[derive(Debug)]
pub(crate) struct Host {
    stop: StopHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Host {
    /// Takes the role, if it is free, and serves it in a thread.
    pub(crate) fn start(dir: &BusDir) -> Result<Option<Self>, BusError> {
        let Some(supervisor) = Supervisor::claim(dir, false)? else { return Ok(None) };
        let stop = supervisor.stop_handle();
        let thread = std::thread::Builder::new()
            .name("shmbus-supervisor".into())
            .spawn(move || {
                // What ends it is visible to everybody: the lock is free again.
                let _ = supervisor.serve();
            })
            .map_err(|error| {
                let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::AGAIN);
                SysError::new("clone", "the supervisor's thread", errno)
            })?;
        Ok(Some(Self { stop, thread: Some(thread) }))
    }

    /// Does the thread still serve? It does not after it handed the role over.
    pub(crate) fn is_serving(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops serving and gives the role back.
    pub(crate) fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
