//! The supervisor's role: registers processes and topics, notices deaths, cleans up, notes how far lanes have come and which groups
//! stand still. Nothing on the data path calls it.
//!
//! The role belongs to whoever a word of the superblock names: a dedicated process (`shmbus up`), or a thread of
//! the first process that opened the bus. When the holder ends, or stands still for a second, the next process that needs a
//! registration takes it. Whatever the holder knows stands in the regions, so a successor starts from them, and what a
//! holder does after it was superseded changes nothing.

mod breakers;
pub(crate) mod client;
pub(crate) mod create;
pub mod events;
mod presence;
pub(crate) mod protocol;
mod quotas;
pub(crate) mod role;
mod sampler;
mod stalls;
mod watchlist;

use crate::attached;
use crate::dead_letters;
use crate::directory::{BusDir, TEMPORARY, reply_topic, unique_name};
use crate::error::{BusError, RegionError, TopicError};
use crate::lease::{ParticipantInfo, Participants, entry_offset};
use crate::region::{Access, Region, reserve};
use crate::repair;
use crate::sys::error::SysError;
use crate::sys::map::Map;
use crate::sys::process::{Pidfd, Withheld};
use crate::sys::socket::{self, Received};
use crate::sys::{clock, file, futex, lock};
use crate::topic::{self, LaneRing, TopicCore};
use breakers::Breakers;
use bus_core::holder::{Holder, HolderWord, participant};
use bus_core::layout::put_name;
use bus_core::layout::ring;
use bus_core::layout::superblock::{self, PARTICIPANT_BYTES, Participant, at};
use bus_core::limits::{PARTICIPANTS_MAX, SERVICE_NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use bus_core::name::{BUS_TOPICS, MAIL_TOPICS, REPLY_TOPICS};
use bus_core::sync::{AtomicU64, Ordering};
use events::Events;
use protocol::{Garbled, Reply, Request};
use role::{Lock, Role};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use sampler::Sampler;
use stalls::Stalls;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use watchlist::Watchlist;

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
    /// A forked child of an agent does not hold it.
    _withheld: Withheld,
    listener: OwnedFd,
    role: Role,
    /// A thread of an agent hands the role over to whoever asks.
    dedicated: bool,
    /// The bus goes with its last participant, and this process with the bus.
    temporary: bool,
    /// Has anybody taken part since this process has the role?
    joined: bool,
    stop: StopHandle,
    /// Those whose end shows on a descriptor, and those who must be asked after.
    watched: Vec<(ParticipantInfo, Option<Pidfd>)>,
    /// Are there entries that a superseded holder may still store into? When they were last looked at.
    quarantine: Option<Instant>,
    /// In which topics anything can happen.
    watchlist: RefCell<Watchlist>,
    sampler: Sampler,
    breakers: Breakers,
    events: Events,
    stalls: Stalls,
    /// When they were last given a turn.
    turn_ns: u64,
    /// Did a sweep end early? It is tried again with the next turn.
    unswept: Cell<bool>,
    /// Are there dead letters that nobody was told of?
    unannounced: Cell<bool>,
    /// When somebody was last sent to do that, and whether it is being done.
    announcing: (Option<Instant>, Arc<AtomicBool>),
}

/// Between two attempts to announce what could not be announced. The one who does it takes part in the bus, and each time that
/// it leaves the question comes up again.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(2);

/// How long the thread that publishes events may take to leave before its process does.
const EVENTS_PATIENCE: Duration = Duration::from_millis(500);

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

/// Turns of what looks after topics are not taken sooner than this after one another, however many requests there are.
const TURN_MIN_NS: u64 = 80_000_000;

enum Turn {
    Go(Reply),
    Stop(Reply, Stopped),
}

impl Supervisor {
    /// Takes the role of an existing bus, or returns `None` if somebody else has it, unless that one is the `silent` one.
    pub(crate) fn claim(
        dir: &BusDir,
        dedicated: bool,
        silent: Option<u64>,
    ) -> Result<Option<Self>, BusError> {
        let most = superblock::footprint_bytes(PARTICIPANTS_MAX as usize);
        let (region, _) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Write, Some(most))?;
        crate::bus::check_participants(&region)?;
        let fixed: superblock::Fixed = region.read(0)?;
        let seen = role::newest(&region);
        if role::is_closed(seen) {
            return Err(BusError::Closed { bus: dir.name().into() });
        }
        if silent != Some(seen) && role::is_held(dir, seen) {
            return Ok(None);
        }
        let superblock = Arc::new(region);
        // Lock and socket are there before anybody can be told of them.
        let lock = Lock::new(dir)?;
        let socket = dir.socket(lock.mark());
        let _ = std::fs::remove_file(&socket);
        let listener = socket::listen(&socket)?;
        let Some(role) = Role::take(lock, superblock.clone(), seen) else { return Ok(None) };
        let mut this = Self {
            participants: Participants::new(superblock.clone(), dir.clone()),
            dir: dir.clone(),
            superblock: superblock.clone(),
            _withheld: Withheld::new(&listener),
            listener,
            role,
            dedicated,
            temporary: fixed.flags & superblock::FLAG_TEMPORARY != 0,
            joined: false,
            stop: StopHandle::new()?,
            watched: Vec::new(),
            quarantine: None,
            watchlist: RefCell::new(Watchlist::new(dir.clone())),
            sampler: Sampler::new(dir.clone()),
            breakers: Breakers::default(),
            events: Events::new(dir.clone(), superblock.clone()),
            stalls: Stalls::new(dir.clone()),
            turn_ns: 0,
            unswept: Cell::new(false),
            unannounced: Cell::new(false),
            announcing: (None, Arc::default()),
        };
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
        let begun = Instant::now();
        let mut silent = None;
        loop {
            crate::bus::remove_if_abandoned(dir);
            if !dir.superblock().exists() {
                create::bus(dir, temporary)?;
            }
            match Self::claim(dir, true, silent.take()) {
                Ok(Some(supervisor)) => return Ok(supervisor),
                Ok(None) => {}
                // A temporary bus that nobody uses yet may be collected by another process.
                Err(_) if !dir.superblock().exists() && begun.elapsed() < client::REQUEST_TIMEOUT => continue,
                Err(error) => return Err(error),
            }
            let (region, _) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, None)?;
            // Nobody listens for a moment while the holder changes; the answer of the holder decides, if it has one.
            let answer = client::ask(dir, &region, &Request::HandOver { replace }, |word| {
                silent = word;
                match word {
                    None => Ok(role::is_held(dir, role::newest(&region))),
                    Some(_) => Err(BusError::NoSupervisor { bus: dir.name().into() }),
                }
            });
            match answer {
                Ok(Reply::Refused { reason }) => {
                    return Err(BusError::Refused { bus: dir.name().into(), reason });
                }
                Ok(_) | Err(BusError::NoSupervisor { .. } | BusError::Closed { .. })
                    if begun.elapsed() < client::REQUEST_TIMEOUT =>
                {
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

    /// Removes what half-made things predecessors left, and finds out who lives.
    fn recover(&mut self) {
        self.role.clear_predecessors();
        for place in [self.dir.topics(), self.dir.leases()] {
            let Ok(entries) = std::fs::read_dir(&place) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if !name.to_str().is_some_and(|name| name.starts_with(TEMPORARY)) {
                    continue;
                }
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                // A lease that is being prepared is locked by its live owner.
                let in_use = file::open_ro(&entry.path())
                    .is_ok_and(|file| lock::is_locked(&file, &entry.path()).unwrap_or(true));
                if is_file && in_use || !self.role.beat() {
                    continue;
                }
                // Moved first: whoever is building it may only be stopped, and must not give a name to what is half removed.
                let moved = place.join(unique_name(TEMPORARY));
                if file::rename_noreplace(&entry.path(), &moved).is_ok() {
                    let _ = file::remove_tree(&moved);
                }
            }
        }
        self.reclaim_entries();
        let (gone, here): (Vec<_>, Vec<_>) =
            self.participants.all().into_iter().partition(|info| self.participants.is_gone(info));
        here.into_iter().for_each(|info| self.watch(info));
        gone.iter().for_each(|info| self.bury(info, false));
        self.tell_left_over();
        self.breakers.find(&self.dir, &|| self.role.beat());
        // A predecessor may have died between a topic's name and this.
        self.ring_topics_bell();
    }

    fn entry_word(&self, number: u16) -> Option<(&AtomicU64, HolderWord)> {
        let word = self.superblock.look(entry_offset(number) as usize)?;
        Some((word, HolderWord::unpack(word.load(Ordering::Acquire))))
    }

    /// Completes what others have begun with entries: sweeps, and registrations, which are never completed but taken back.
    ///
    /// Whoever was filling an entry may only be stopped. Its word no longer lets that holder make the entry LIVE; its plain
    /// stores may still come, so the entry is kept out of use until that holder's end is proven.
    fn reclaim_entries(&mut self) {
        let mut quarantine = None;
        for number in 0..self.participants.reserved() {
            let Some((word, seen)) = self.entry_word(number) else { break };
            match seen.state {
                participant::SWEEPING => self.finish_sweep(number),
                participant::REGISTERING | participant::QUARANTINED => {
                    let mark = participant::mark(seen.holder);
                    if mark != self.role.mark() && role::is_mark_held(&self.dir, mark) {
                        quarantine = Some(Instant::now());
                        change(word, seen, seen.with_state(participant::QUARANTINED));
                    } else {
                        let _ = std::fs::remove_file(self.dir.lease(number, seen.tag));
                        change(word, seen, seen.with_state(participant::FREE));
                    }
                }
                _ => {}
            }
        }
        self.quarantine = quarantine;
    }

    fn watch(&mut self, info: ParticipantInfo) {
        self.joined = true;
        self.watchlist.get_mut().changed();
        let process = Pidfd::open(info.pid).ok();
        self.watched.push((info, process));
    }

    /// A participant has ended, or says that it leaves: repairs what it held, then gives its number back.
    fn bury(&mut self, info: &ParticipantInfo, says_so: bool) {
        let Some((word, seen)) = self.entry_word(info.participant) else { return };
        if seen.tag != info.tag || !self.role.beat() {
            return;
        }
        // SWEEPING already: a superseded holder has got that far.
        if seen.state == participant::LIVE {
            self.note_end(info, says_so);
            change(word, seen, seen.with_state(participant::SWEEPING));
        }
        self.finish_sweep(info.participant);
    }

    /// Completes a sweep, perhaps one that a predecessor began.
    fn finish_sweep(&self, number: u16) {
        let Some((word, seen)) = self.entry_word(number) else { return };
        if seen.state != participant::SWEEPING {
            // Another holder has completed it, and may not come to tell the end.
            if seen.state == participant::FREE {
                self.tell_end(number, seen.tag, &presence::Held::default());
            }
            return;
        }
        // Another holder may do the same meanwhile; when it has handed the number out again, nothing under it is the dead one's.
        let is_its = || word.load(Ordering::Acquire) == seen.pack();
        let dead = Holder::new(number, u64::from(seen.tag));
        let mut swept = repair::Swept { is_counted: self.is_told_to_any(), ..repair::Swept::default() };
        let noted = attached::topics_of(&self.dir.lease(number, seen.tag));
        let Some(topics) = noted.or_else(|| self.dir.topics_if_readable()) else {
            return self.unswept.set(true);
        };
        let goes_on = || self.role.beat();
        let mut walked = topics.clone();
        if topics.iter().any(|topic| topic == attached::REPLIES) {
            walked.extend(self.reply_topics());
        }
        let is_complete = repair::sweep(&self.dir, &walked, dead, &goes_on, &is_its, &mut swept);
        let held = presence::Held { in_hand: swept.in_hand, topics: topics.clone() };
        self.watchlist.borrow_mut().left(topics);
        if swept.unannounced {
            self.unannounced.set(true);
        }
        if !is_complete {
            self.unswept.set(true);
            return;
        }
        // Before the number is free: as long as the topic is there, its process takes part or is being swept.
        repair::remove_reply_topic(&self.dir, number, seen.tag);
        if let Ok((spin, _)) = Region::attach(&self.dir.spin(), superblock::spin::MAGIC, Access::Write, None)
            && is_its()
        {
            crate::wait::release_spin_slots(&spin, number);
        }
        // No other registration ever has this name.
        let _ = std::fs::remove_file(self.dir.lease(number, seen.tag));
        change(word, seen, seen.with_state(participant::FREE));
        // Also where another holder was faster, for the same reason.
        if HolderWord::unpack(word.load(Ordering::Acquire)) == seen.with_state(participant::FREE) {
            self.tell_end(number, seen.tag, &held);
        }
    }

    /// The reply topics of those who take part.
    fn reply_topics(&self) -> impl Iterator<Item = String> + use<'_> {
        (0..self.participants.reserved()).filter_map(|number| {
            let (_, word) = self.entry_word(number)?;
            let name = reply_topic(number, word.tag);
            (word.state == participant::LIVE && self.dir.topic(&name).0.exists()).then_some(name)
        })
    }

    /// May this process have a topic of this name made? Those of the bus are asked for by the library; one on which a process is answered by
    /// that process, while it takes part: whoever buries it removes the topic, once.
    fn check_name(&self, asker_pid: u32, name: &str) -> Result<(), TopicError> {
        let is_its_own = || {
            let (number, tag) = bus_core::name::reply_topic_of(name)?;
            self.participants.live(number).filter(|info| info.tag == tag && info.pid == asker_pid)
        };
        let checked = if name.starts_with(BUS_TOPICS)
            || name.starts_with(MAIL_TOPICS)
            || name.starts_with(REPLY_TOPICS) && is_its_own().is_some()
        {
            bus_core::name::check_dotted(name, TOPIC_NAME_BYTES_MAX)
        } else {
            bus_core::name::check_topic(name)
        };
        checked.map_err(|why| TopicError::Name { name: name.to_owned(), why })
    }

    /// Has dead letters announced whose members ended before they did it. By a thread that takes part like any other process: it
    /// may have to ask this one for a topic.
    fn announce_left_over(&mut self) {
        let (last, running) = &mut self.announcing;
        let is_early = last.is_some_and(|last| last.elapsed() < ANNOUNCE_PERIOD);
        // A temporary bus ends with its last participant; nobody is left to be told.
        if !self.unannounced.get() || is_early || self.temporary && self.watched.is_empty() {
            return;
        }
        if running.swap(true, Ordering::AcqRel) {
            return;
        }
        *last = Some(Instant::now());
        self.unannounced.set(false);
        let (dir, running) = (self.dir.clone(), running.clone());
        let work = move || {
            /// Also where it panics.
            struct Running(Arc<AtomicBool>);
            impl Drop for Running {
                fn drop(&mut self) {
                    self.0.store(false, Ordering::Release);
                }
            }
            let _running = Running(running);
            dead_letters::announce_left_over(&dir);
        };
        if std::thread::Builder::new().name("shmbus-announce".into()).spawn(work).is_err() {
            self.announcing.1.store(false, Ordering::Release);
        }
    }

    /// Serves until it is told to stop, the bus goes down, or another takes over.
    ///
    /// # Errors
    /// Only what makes serving impossible; a client's mistakes are answered to that client.
    pub fn serve(mut self) -> Result<Stopped, BusError> {
        let mut connections: Vec<OwnedFd> = Vec::new();
        loop {
            if !self.role.beat() {
                return Ok(Stopped::HandedOver);
            }
            if self.is_left()
                && connections.is_empty()
                && !crate::bus::are_leases_held(&self.dir)
                && self.role.close()
            {
                self.role.remove_bus();
                return Ok(Stopped::Down);
            }
            let (stop, accept, readable, ended) = self.wait(&connections)?;
            // It may have stood still for a long time.
            if !self.role.beat() {
                return Ok(Stopped::HandedOver);
            }
            if stop {
                return Ok(Stopped::Asked);
            }
            self.look_after_topics();
            self.breakers.turn(&self.participants, &self.events);
            if self.quarantine.is_some_and(|since| since.elapsed() >= role::SILENCE) {
                self.reclaim_entries();
            }
            for index in ended.into_iter().rev() {
                let (info, _) = self.watched.swap_remove(index);
                self.bury(&info, false);
            }
            self.announce_left_over();
            for index in readable.into_iter().rev() {
                let connection = connections.swap_remove(index);
                if let Some(stopped) = self.serve_one(&connection) {
                    return Ok(stopped);
                }
            }
            if accept && let Ok(connection) = socket::accept(&self.listener) {
                connections.push(connection);
            }
        }
    }

    /// Notes how far the topics have come in which anything can happen, and which groups stand still.
    fn look_after_topics(&mut self) {
        let now_ns = clock::monotonic_ns();
        if now_ns < self.turn_ns + TURN_MIN_NS {
            return;
        }
        self.turn_ns = now_ns;
        if self.unswept.take() {
            (0..self.participants.reserved()).for_each(|number| self.finish_sweep(number));
        }
        let watchlist = self.watchlist.get_mut();
        watchlist.refresh(self.watched.iter().map(|(info, _)| info));
        self.sampler.turn(watchlist);
        let report = |stall: &stalls::StallReport| report_stall(&self.events, stall);
        self.stalls.turn(watchlist, &self.participants, &|| self.role.beat(), &report);
        watchlist.seen();
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
        let timeout = crate::sys::timespec(
            match (self.is_left(), blind) {
                (true, _) => Duration::from_millis(5),
                (false, true) => Duration::from_millis(100),
                (false, false) => self.sampler.pause().min(self.stalls.pause()),
            }
            .min(self.breakers.pause()),
        );
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
        let request = Request::from_packet(&packet);
        let wants_answer = !matches!(request, Ok(Request::Tripped { .. } | Request::LoopCut { .. }));
        if wants_answer && socket::is_deserted(connection) {
            // Nobody wants it any more: that one has given up, or has asked another holder.
            return None;
        }
        let turn = match request {
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
            // Whatever came of it, the newest holder is asked again.
            Turn::Go(_) if !self.role.is_newest() => return Some(Stopped::HandedOver),
            Turn::Go(reply) => (reply, None),
            Turn::Stop(reply, stopped) => (reply, Some(stopped)),
        };
        if stopped == Some(Stopped::HandedOver) {
            // The caller tries for the role as soon as it has the answer.
            self.role.release();
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
                    self.bury(&info, true);
                }
                Ok(Reply::Done)
            }
            Request::CreateTopic { participant, spec } => {
                self.check_name(peer.pid, &spec.name).and_then(|()| self.create_topic(participant, &spec))
            }
            Request::AddTypes { topic, types } => {
                let maker = create::Maker { mark: self.role.mark(), beat: &|| self.role.beat() };
                create::extend_types(&self.dir, &topic, &types, &maker).map(|()| Reply::Done)
            }
            Request::Tripped { topic } => {
                if self.is_topic(&topic) {
                    self.breakers.watch(&self.dir, &topic);
                    self.breakers.turn(&self.participants, &self.events);
                }
                Ok(Reply::Done)
            }
            Request::LoopCut { topic, cause, conversation, service, hops, open_ms } => {
                if self.is_topic(&topic) {
                    let mut event = events::Event::new("loop").text("topic", &topic).text("cause", &cause);
                    if !conversation.is_empty() {
                        event = event.text("correlation", &conversation);
                    }
                    let event = event.text("service", &service).number("pid", u64::from(peer.pid));
                    self.events.push(event.number("hops", u64::from(hops)).number("open_ms", open_ms));
                }
                Ok(Reply::Done)
            }
            Request::Quota { topic, service, words } => self.set_quota(&topic, service.as_deref(), words),
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
        if bus_core::name::check_dotted(service, SERVICE_NAME_BYTES_MAX).is_err() {
            return refuse("that is no name of a service");
        }
        let prepared = self.dir.leases().join(lease_name);
        let file = file::open_ro(&prepared)?;
        if !lock::is_locked(&file, &prepared)? {
            return refuse("the lease file is not locked");
        }
        // One who asks again, under another lease, because a holder ended before it answered: that one's entry is nobody's.
        let forgotten = |info: &ParticipantInfo| {
            info.pid == peer.pid && info.is_of_namespace() && self.participants.is_gone(info)
        };
        if let Some(index) = self.watched.iter().position(|(info, _)| forgotten(info)) {
            let (info, _) = self.watched.swap_remove(index);
            self.bury(&info, false);
        }
        let Some((number, claimed)) = self.claim_entry()? else {
            return refuse(&format!("{PARTICIPANTS_MAX} processes take part already"));
        };
        let made = self.fill_entry(number, claimed, &prepared, &|lease_inode| Participant {
            state: 0,
            pid: peer.pid,
            uid: peer.uid,
            start_ticks,
            pid_namespace,
            lease_inode,
            since_ns: clock::realtime_ns(),
            service: put_name(service),
            told: [0; 3],
            reserved: 0,
        });
        if !matches!(made, Ok(true))
            && let Some((word, _)) = self.entry_word(number)
        {
            change(word, claimed, claimed.with_state(participant::FREE));
        }
        if !made? {
            return refuse("another process has the supervisor's role now");
        }
        if let Some(info) = self.participants.live(number) {
            self.tell_joined(&info);
            self.watch(info);
        }
        Ok(Reply::Registered { participant: number, tag: claimed.tag })
    }

    /// Fills an entry that this holder has claimed, and makes it LIVE. False if another has the role now.
    fn fill_entry(
        &self,
        number: u16,
        claimed: HolderWord,
        prepared: &std::path::Path,
        entry: &dyn Fn(u64) -> Participant,
    ) -> Result<bool, TopicError> {
        // After the claim: a successor that took the role before this look at its word is seen; one that takes it later
        // sees the claim.
        if !self.role.is_newest() {
            return Ok(false);
        }
        let entry = entry(file::inode(&file::open_ro(prepared)?)?);
        // Nobody else ever gives a lease this name: no number is handed out twice in the same incarnation.
        let lease = self.dir.lease(number, claimed.tag);
        let _ = std::fs::remove_file(&lease);
        file::rename_noreplace(prepared, &lease)?;
        let fields = bytemuck::bytes_of(&entry);
        // Up to what has been told of former ones, which is not this entry's to take back.
        let mut rest = [0_u8; superblock::told::JOINED - 8];
        rest.copy_from_slice(&fields[8..superblock::told::JOINED]);
        self.superblock.write(entry_offset(number) + 8, &rest)?;
        let live = HolderWord {
            state: participant::LIVE,
            holder: Holder::new(number, u64::from(claimed.tag)),
            tag: claimed.tag,
        };
        // AcqRel: the entry's other fields are complete before it counts as LIVE.
        let is_live = self.entry_word(number).is_some_and(|(word, _)| change(word, claimed, live));
        if !is_live {
            let _ = std::fs::remove_file(&lease);
        }
        Ok(is_live)
    }

    /// Claims a free participant entry, from memory added to the table if need be: its number, and the word that it has now.
    fn claim_entry(&self) -> Result<Option<(u16, HolderWord)>, RegionError> {
        loop {
            let reserved = self.participants.reserved();
            for number in 0..reserved {
                let Some((word, seen)) = self.entry_word(number) else { break };
                let claimed = seen.next(participant::REGISTERING, participant::maker(self.role.mark()));
                if seen.state == participant::FREE && change(word, seen, claimed) {
                    return Ok(Some((number, claimed)));
                }
            }
            if u32::from(reserved) >= PARTICIPANTS_MAX {
                return Ok(None);
            }
            let more = (bus_core::layout::PAGE_BYTES as usize / PARTICIPANT_BYTES) as u64;
            let bytes = more * PARTICIPANT_BYTES as u64;
            reserve(self.superblock.file(), self.superblock.path(), entry_offset(reserved), bytes)?;
            let Some(count) = self.superblock.look(at::PARTICIPANTS_RESERVED) else { return Ok(None) };
            // By the maximum: another holder may have added more.
            count.fetch_max((u64::from(reserved) + more).min(u64::from(PARTICIPANTS_MAX)), Ordering::AcqRel);
        }
    }

    fn create_topic(&mut self, participant: u16, spec: &protocol::TopicSpec) -> Result<Reply, TopicError> {
        let creator = self.participants.live(participant);
        let (pid, service) =
            creator.as_ref().map_or((0, "unknown"), |info| (info.pid, info.service.as_str()));
        let maker = create::Maker { mark: self.role.mark(), beat: &|| self.role.beat() };
        if create::topic(&self.dir, spec, (pid, service), &maker)? {
            self.ring_topics_bell();
            self.sampler.made(&spec.name);
        }
        Ok(Reply::Done)
    }

    /// Names that come from others become paths.
    fn is_topic(&self, name: &str) -> bool {
        bus_core::name::check_dotted(name, TOPIC_NAME_BYTES_MAX).is_ok()
    }

    fn set_quota(&self, name: &str, service: Option<&str>, words: [u64; 2]) -> Result<Reply, TopicError> {
        if !self.is_topic(name) {
            return Err(TopicError::NotFound { bus: self.dir.name().into(), topic: name.into() });
        }
        let topic = TopicCore::attach(&self.dir, name, topic::Role::Publisher)?;
        if !self.role.beat() {
            return Ok(Reply::Refused { reason: "another process has the supervisor's role now".into() });
        }
        Ok(match quotas::set(&topic, service, words)? {
            None => Reply::Done,
            Some(reason) => Reply::Refused { reason },
        })
    }

    fn ring_topics_bell(&self) {
        if let Some(generation) = self.superblock.look(at::TOPICS_GENERATION) {
            generation.fetch_add(1, Ordering::Release);
        }
        if let Some(bell) = self.superblock.look32(at::TOPICS_BELL) {
            bell.fetch_add(1, Ordering::Release);
            futex::wake_all(bell);
        }
        // After the generation, which tells them whether to look.
        crate::listeners::tell_all(self.dir.path());
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
        if !self.role.close() {
            return Turn::Go(Reply::Refused {
                reason: "another process has the supervisor's role now".into(),
            });
        }
        self.role.remove_bus();
        Turn::Stop(Reply::Done, Stopped::Down)
    }
}

/// A lane of a topic of which only the ring is mapped.
fn lane_ring<'a>(map: &'a Map, config: &ring::Config, lane: usize) -> Option<LaneRing<'a>> {
    let slots = map.words(config.slots(lane) as usize, (config.lane_slots_bytes() / 8) as usize)?;
    LaneRing::attach(slots, config)
}

/// A lane's end, as `TopicCore::end` has it, of a topic of which only the ring is mapped. `known` is what was found the last
/// time: where nothing has come since, a look at one word tells.
fn lane_end(map: &Map, config: &ring::Config, lane: usize, known: Option<u64>) -> Option<u64> {
    let ring = lane_ring(map, config, lane)?;
    if let Some(known) = known.filter(|&known| ring.is_still_end(known)) {
        return Some(known);
    }
    Some(ring.end(map.words(ring::hint(lane), 1)?.first()?))
}

/// One step, on the value seen.
fn change(word: &AtomicU64, seen: HolderWord, next: HolderWord) -> bool {
    word.compare_exchange(seen.pack(), next.pack(), Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Says that a group stands still, was let go, or goes on again: its mark in the group table says so already, this is for those
/// who want to be told.
fn report_stall(events: &Events, stall: &stalls::StallReport) {
    let mut event = events::Event::new("stall")
        .text("topic", &stall.topic)
        .text("group", &stall.group)
        .text("change", stall.change.name())
        .number("since_ms", stall.since_ms)
        .number("lag", stall.lag);
    if let Some(member) = &stall.member {
        event = event.text("service", &member.service).number("pid", member.pid.into());
    }
    events.push(event);
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
    if role::is_any_held(dir) || crate::bus::are_leases_held(dir) || !role::remove_unused(dir)? {
        let reason = "it cannot be read, and processes still use it; end those first".into();
        return Err(BusError::Refused { bus: dir.name().into(), reason });
    }
    Ok(())
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
    events: Events,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Host {
    /// Takes the role, if it is free or its holder is the `silent` one, and serves it in a thread.
    pub(crate) fn start(dir: &BusDir, silent: Option<u64>) -> Result<Option<Self>, BusError> {
        let Some(supervisor) = Supervisor::claim(dir, false, silent)? else { return Ok(None) };
        let (stop, events) = (supervisor.stop_handle(), supervisor.events.clone());
        let thread = std::thread::Builder::new()
            .name("shmbus-supervisor".into())
            .spawn(move || {
                // What ends it is visible to everybody: its lock is free again, or another has the role.
                let _ = supervisor.serve();
            })
            .map_err(|error| {
                let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::AGAIN);
                SysError::new("clone", "the supervisor's thread", errno)
            })?;
        Ok(Some(Self { stop, events, thread: Some(thread) }))
    }

    /// Does the thread still serve? It does not after it handed the role over.
    pub(crate) fn is_serving(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops serving and gives the role back.
    pub(crate) fn stop(&mut self) {
        // Its thread takes part, and is answered as long as this one serves.
        self.events.finish(EVENTS_PATIENCE);
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
