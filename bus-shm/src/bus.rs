//! A bus as a process sees it: opened by name, with a lease that shows that the process lives.

use crate::attached;
use crate::directory::{BusDir, reply_topic};
use crate::error::{BusError, RegionError, TopicError};
use crate::lease::{Lease, ParticipantInfo, Participants};
use crate::listeners::{Listeners, OpenPipes};
use crate::mailbox::{Mailbox, MailboxError};
use crate::payload::{Bytes, Message, Speak};
use crate::publisher::Pairs;
use crate::region::{Access, Region};
use crate::requests::{Answer, Ask, Desk, RequestError, Requester};
use crate::supervisor::protocol::{Reply, Request};
use crate::supervisor::role::{self, Role};
use crate::supervisor::{Host, client, create, events};
use crate::sys::clock::{Calibration, Clock};
use crate::sys::process::{ForkMark, executable_name, pid_namespace_inode, start_time_ticks};
use crate::sys::{barrier, file, lock};
use crate::topic::{Topic, TopicBuilder, TopicCore};
use bus_core::doorbell::Barrier;
use bus_core::holder::Holder;
use bus_core::layout::lease::STATUS_BYTES_MAX;
use bus_core::layout::superblock::{self, FLAG_MEMBARRIER, FLAG_TEMPORARY, at};
use bus_core::limits::{PARTICIPANTS_MAX, SERVICE_NAME_BYTES_MAX};
use bus_core::name::{REPLY_TOPICS, check_dotted};
use bus_core::sync::Ordering;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often a process registers anew because the supervisor died before it answered.
const REGISTRATIONS_MAX: u32 = 3;

/// How to open a bus.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct BusBuilder {
    name: String,
    service: Option<String>,
    dir: Option<PathBuf>,
    temporary: bool,
    create: bool,
    host: bool,
    is_of_the_bus: bool,
}

impl BusBuilder {
    /// Name under which this process appears in listings, and under which it takes its groups over after a restart.
    /// Default: the program's name.
    pub fn service(mut self, name: &str) -> Self {
        self.service = Some(name.to_owned());
        self
    }

    /// Directory in which buses live. Default: `SHMBUS_DIR`, or `/dev/shm`.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// A bus made by this call goes when its last participant leaves. Default: it lives until `down` or reboot.
    pub fn temporary(mut self, temporary: bool) -> Self {
        self.temporary = temporary;
        self
    }

    /// By the thread that publishes events: with its name.
    pub(crate) fn for_the_bus(mut self) -> Self {
        self.is_of_the_bus = true;
        self
    }

    /// Whether to make the bus if there is none. Default: yes.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether this process may host the supervisor's role in a thread when nobody else holds it. Default: yes.
    pub fn host(mut self, host: bool) -> Self {
        self.host = host;
        self
    }

    /// Opens the bus.
    ///
    /// # Errors
    /// A name that is not allowed, a directory that is not shared memory or somebody else's, no memory, no
    /// supervisor and no permission to host one, or regions of another layout.
    pub fn open(self) -> Result<Bus, BusError> {
        let dir = BusDir::new(&self.name, self.dir.as_deref())?;
        let service = self.service.unwrap_or_else(default_service);
        check_dotted(&service, SERVICE_NAME_BYTES_MAX)
            .map_err(|why| BusError::Service { name: service.clone(), why })?;
        if service == events::SERVICE && !self.is_of_the_bus {
            let reason = format!("{service:?} is the name of its own thread; use another one");
            return Err(BusError::Refused { bus: dir.name().into(), reason });
        }
        if self.create {
            dir.prepare_base()?;
        } else {
            dir.check_base()?;
        }
        // A temporary bus may go away between two steps when its last participant leaves: then there is none, again.
        let begun = Instant::now();
        loop {
            // One whose participants were all killed is not the one that is meant either.
            remove_if_abandoned(&dir);
            if !dir.superblock().exists() {
                if !self.create {
                    return Err(BusError::NotFound { bus: dir.name().into(), dir: dir.base().into() });
                }
                crate::repair::collect_garbage(self.dir.as_deref(), false);
                create::bus(&dir, self.temporary)?;
            }
            let found = identity(&dir);
            let opened = BusInner::open(&dir, &service, self.host);
            let is_same = found == identity(&dir);
            // A bus goes as a whole; a directory without this file is what is left of one.
            let is_broken = found.is_none() && dir.path().exists();
            match opened {
                Ok(inner) if is_same => return Ok(Bus { inner: Arc::new(inner) }),
                Err(error) if is_same && (found.is_some() || is_broken) => {
                    let is_gone = remove_if_abandoned(&dir) && matches!(error, BusError::Closed { .. });
                    if !is_gone || begun.elapsed() >= client::REQUEST_TIMEOUT {
                        return Err(error);
                    }
                }
                Err(error) if begun.elapsed() >= client::REQUEST_TIMEOUT => return Err(error),
                _ => {}
            }
        }
    }
}

/// Tells a bus from one that was made under its name after it had gone.
fn identity(dir: &BusDir) -> Option<u64> {
    file::inode(&file::open_ro(&dir.superblock()).ok()?).ok()
}

/// The program's name with characters that a service name cannot have replaced.
fn default_service() -> String {
    let name: String = executable_name()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '-' })
        .take(SERVICE_NAME_BYTES_MAX)
        .collect();
    if name.is_empty() { "unnamed".into() } else { name }
}

/// A bus that this process takes part in. Cheap to clone; the process leaves when the last handle, topics and publishers
/// and subscribers included, is gone.
#[derive(Clone, Debug)]
pub struct Bus {
    inner: Arc<BusInner>,
}

impl Bus {
    /// Opens the bus of that name, making it if there is none.
    ///
    /// A process that opens it before it starts other threads is known to the kernel from then on as one whose publishers need no fences. In one with
    /// several threads that takes the kernel 8 to 14 ms; a thread that its first handle in use starts waits for it, and a message takes a fence until then.
    ///
    /// # Errors
    /// See [`BusBuilder::open`].
    pub fn open(name: &str) -> Result<Self, BusError> {
        Self::builder(name).open()
    }

    /// All options.
    pub fn builder(name: &str) -> BusBuilder {
        BusBuilder {
            name: name.to_owned(),
            service: None,
            dir: None,
            temporary: false,
            create: true,
            host: true,
            is_of_the_bus: false,
        }
    }

    /// Opens a topic, creating it with default options if there is none.
    ///
    /// # Errors
    /// See [`TopicBuilder::open`].
    pub fn topic<T: Speak>(&self, name: &str) -> Result<Topic<T>, TopicError> {
        self.topic_builder(name).open()
    }

    /// The topic `_bus.events`, on which the supervisor tells who joins, leaves and dies, and what breakers and groups do, a
    /// line of JSON each. It keeps the newest: read it with
    /// [`Topic::tap`]. Made if there is none yet.
    ///
    /// # Errors
    /// As [`TopicBuilder::open`].
    pub fn events(&self) -> Result<Topic<Bytes>, TopicError> {
        crate::supervisor::events::open(&self.inner)
    }

    /// Asks questions: many at once, from any thread. All handles of a process share one place where its answers come in.
    ///
    /// # Errors
    /// The place could not be made: see [`TopicBuilder::open`].
    pub fn requester(&self) -> Result<Requester, RequestError> {
        Requester::open(&self.inner)
    }

    /// Asks one question in a topic, and waits for the answer. Who asks more than once keeps a [`Bus::requester`].
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn request<Q: Message, A: Speak>(
        &self,
        topic: &str,
        value: &Q,
        timeout: Duration,
    ) -> Result<Answer<A>, RequestError> {
        self.requester()?.send(topic, value, &Ask::within(timeout))?.wait()
    }

    /// The mailbox of that name, made if there is none yet: a topic that keeps its owner's messages in order while it is away.
    ///
    /// # Errors
    /// A name that is not allowed; as [`TopicBuilder::open`].
    pub fn mailbox<T: Speak>(&self, name: &str) -> Result<Mailbox<T>, MailboxError> {
        Mailbox::open(&self.inner, name)
    }

    /// All options of a topic.
    pub fn topic_builder<T: Speak>(&self, name: &str) -> TopicBuilder<T> {
        TopicBuilder::new(self.inner.clone(), name)
    }

    /// Another handle of a bus that this process takes part in.
    pub(crate) fn of(inner: Arc<BusInner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<BusInner> {
        &self.inner
    }

    /// Name of the bus.
    pub fn name(&self) -> &str {
        self.inner.dir.name()
    }

    /// Name of this process on the bus.
    pub fn service(&self) -> &str {
        &self.inner.service
    }

    /// The time now on the clock of messages' stamps, in nanoseconds: what [`crate::Start::Time`] is compared with.
    pub fn now_ns(&self) -> u64 {
        crate::sys::clock::monotonic_ns()
    }

    /// Does this process hold the supervisor's role?
    pub fn is_host(&self) -> bool {
        self.inner.lock_host().as_ref().is_some_and(Host::is_serving)
    }

    /// What this process is doing, in a line of at most 200 bytes, for `shmbus ps`. An empty text takes it back, and so does the end of
    /// the process. It costs one system call and wakes nobody.
    ///
    /// # Errors
    /// [`BusError::Status`] for a longer text; no memory; the bus is gone.
    pub fn set_status(&self, text: &str) -> Result<(), BusError> {
        self.inner.check_usable()?;
        if text.len() > STATUS_BYTES_MAX {
            return Err(BusError::Status { bytes: text.len(), max: STATUS_BYTES_MAX });
        }
        Ok(self.inner.lease.set_status(text)?)
    }

    /// Who takes part.
    pub fn participants(&self) -> Vec<ParticipantInfo> {
        // A forked child has nothing mapped.
        if self.inner.is_forked() { Vec::new() } else { self.inner.participants.all() }
    }

    /// Takes the bus down: its files go, and everybody attached gets an error. Refused, with the reasons, while others are
    /// attached or messages are unread, unless `force`.
    ///
    /// # Errors
    /// [`BusError::Refused`].
    pub fn down(&self, force: bool) -> Result<(), BusError> {
        self.inner.check_usable()?;
        match self.inner.ask(&Request::Down { force }) {
            Ok(Reply::Refused { reason }) => Err(BusError::Refused { bus: self.name().into(), reason }),
            // It was up when this began, and whoever took it down did not live to say so.
            Err(BusError::Closed { .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

/// What all handles of a process share.
#[derive(Debug)]
pub(crate) struct BusInner {
    dir: BusDir,
    superblock: Arc<Region>,
    spin: Region,
    participants: Participants,
    service: String,
    me: Holder,
    tag: u32,
    lease: Lease,
    barrier: Barrier,
    /// This process.
    pid: u32,
    calibration: Option<Calibration>,
    temporary: bool,
    may_host: bool,
    host: Mutex<Option<Host>>,
    fork: &'static ForkMark,
    /// Mapped when first needed.
    listeners: OnceLock<Listeners>,
    open_pipes: OpenPipes,
    /// Where this process is answered, while somebody asks.
    desk: Mutex<Weak<Desk>>,
    pub(crate) pairs: Pairs,
}

/// What a process maps of a bus before it takes part.
struct Attached {
    superblock: Region,
    fixed: superblock::Fixed,
    spin: Region,
    barrier: Barrier,
}

impl Attached {
    fn new(dir: &BusDir) -> Result<Self, BusError> {
        let most = superblock::footprint_bytes(PARTICIPANTS_MAX as usize);
        let (superblock, _) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, Some(most))?;
        check_participants(&superblock)?;
        let fixed: superblock::Fixed = superblock.read(0)?;
        let barrier = if fixed.flags & FLAG_MEMBARRIER != 0 {
            barrier::register_if_alone()
                .map_err(|source| BusError::Barrier { bus: dir.name().into(), source })?;
            Barrier::Membarrier
        } else {
            Barrier::Fence
        };
        let (spin, _) = Region::attach(&dir.spin(), superblock::spin::MAGIC, Access::Write, None)?;
        Ok(Self { superblock, fixed, spin, barrier })
    }
}

/// Is the table of participants where its size says?
pub(crate) fn check_participants(superblock: &Region) -> Result<(), RegionError> {
    let reserved =
        superblock.look(at::PARTICIPANTS_RESERVED).map_or(0, |reserved| reserved.load(Ordering::Acquire));
    let fits = reserved <= u64::from(PARTICIPANTS_MAX)
        && superblock::footprint_bytes(reserved as usize) <= superblock.file_bytes();
    if fits && reserved > 0 {
        return Ok(());
    }
    let why = bus_core::layout::Mismatch::Field { name: "participants", value: reserved };
    Err(RegionError::Mismatch { path: superblock.path().to_owned(), why })
}

/// Registers this process, which holds `lease` locked. Returns its participant number and how often that was handed out.
fn register(
    dir: &BusDir,
    superblock: &Region,
    service: &str,
    may_host: bool,
    host: &mut Option<Host>,
    lease: &mut Lease,
) -> Result<(u16, u32), BusError> {
    for _ in 0..REGISTRATIONS_MAX {
        let request = Request::Register {
            service: service.to_owned(),
            pid_namespace: pid_namespace_inode(),
            start_ticks: start_time_ticks(std::process::id()).unwrap_or(0),
            lease_name: lease.name(),
        };
        match client::ask(dir, superblock, &request, |silent| offer_to_host(dir, may_host, host, silent))? {
            Reply::Registered { participant, tag } => return Ok((participant, tag)),
            // A supervisor that died between registering this lease and saying so has renamed it. A new lease then: when
            // the old one is closed, its registration is that of a dead process.
            Reply::Refused { .. } if lease.is_lost() => {
                // Of that registration nobody is to think that it died.
                lease.head().leave();
                *lease = Lease::prepare(dir)?;
            }
            Reply::Refused { reason } => return Err(BusError::Refused { bus: dir.name().into(), reason }),
            _ => break,
        }
    }
    Err(BusError::Refused { bus: dir.name().into(), reason: "it does not answer what it is asked".into() })
}

impl BusInner {
    fn open(dir: &BusDir, service: &str, may_host: bool) -> Result<Self, BusError> {
        let fork = ForkMark::global();
        // First of all: as long as a lease is locked, nobody takes the bus for abandoned.
        let mut lease = Lease::prepare(dir)?;
        let mut host = None;
        let opened = Attached::new(dir).and_then(|attached| {
            host = if may_host { Host::start(dir, None)? } else { None };
            let number = register(dir, &attached.superblock, service, may_host, &mut host, &mut lease)?;
            Ok((attached, number))
        });
        let (Attached { superblock, fixed, spin, barrier }, (participant, tag)) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // It may be registered all the same, where the answer did not come.
                lease.head().leave();
                lease.release();
                if let Some(mut host) = host {
                    host.stop();
                }
                return Err(error);
            }
        };
        lease.registered_as(dir.lease(participant, tag));
        let superblock = Arc::new(superblock);
        Ok(Self {
            participants: Participants::new(superblock.clone(), dir.clone()),
            superblock,
            spin,
            dir: dir.clone(),
            service: service.to_owned(),
            me: Holder::new(participant, u64::from(tag)),
            tag,
            lease,
            barrier,
            pid: std::process::id(),
            calibration: (fixed.ns_per_tick_q32 != 0)
                .then_some(Calibration { ns_per_tick_q32: fixed.ns_per_tick_q32 }),
            temporary: fixed.flags & FLAG_TEMPORARY != 0,
            may_host,
            host: Mutex::new(host),
            fork,
            listeners: OnceLock::new(),
            open_pipes: OpenPipes::default(),
            desk: Mutex::default(),
            pairs: Pairs::default(),
        })
    }

    fn lock_host(&self) -> std::sync::MutexGuard<'_, Option<Host>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The desk of this process, for who opens it or asks there.
    pub(crate) fn lock_desk(&self) -> MutexGuard<'_, Weak<Desk>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name of the topic on which this process is answered.
    pub(crate) fn reply_topic(&self) -> String {
        reply_topic(self.me.participant, self.tag)
    }

    pub(crate) fn dir(&self) -> &BusDir {
        &self.dir
    }

    pub(crate) fn me(&self) -> Holder {
        self.me
    }

    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    pub(crate) fn participants(&self) -> &Participants {
        &self.participants
    }

    /// What a sleeper does between arming a bell and looking once more.
    pub(crate) fn barrier(&self) -> Barrier {
        self.barrier
    }

    /// What this process does before it looks at a bell, as things are: a fence, until it is registered for membarrier.
    pub(crate) fn ringing(&self) -> Barrier {
        barrier::of_ringer(self.barrier)
    }

    /// The same for a handle that is used again and again, and may not be one of a forked parent: sees to it that the process will be registered.
    #[cold]
    pub(crate) fn ringing_soon(&self) -> Barrier {
        let now = self.ringing();
        if now != self.barrier {
            barrier::register_beside(self.pid);
        }
        now
    }

    pub(crate) fn spin(&self) -> &Region {
        &self.spin
    }

    /// Those who wait on many topics, mapped at the first call. `None`: not now; a later call may have more luck.
    pub(crate) fn listeners(&self) -> Option<&Listeners> {
        if self.listeners.get().is_none() {
            let attached = self.attach_listeners().ok()?;
            let _ = self.listeners.set(attached);
        }
        self.listeners.get()
    }

    /// Maps their file, or says why not.
    pub(crate) fn attach_listeners(&self) -> Result<Listeners, RegionError> {
        Listeners::attach(self.dir.path())
    }

    /// Their pipes that this process has written to.
    pub(crate) fn open_pipes(&self) -> &OpenPipes {
        &self.open_pipes
    }

    /// How often topics have been created.
    pub(crate) fn topics_generation(&self) -> u64 {
        // Acquire: the topics that were counted have their names.
        self.superblock.look(at::TOPICS_GENERATION).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// This process has received something, and is about to sleep.
    pub(crate) fn beat(&self) {
        self.lease.head().beat();
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::new(self.calibration)
    }

    /// Before anything is held in a topic: whoever sweeps this process walks the topics that it has noted.
    pub(crate) fn note_topic(&self, topic: &str) -> Result<(), RegionError> {
        if self.lease.note(attached::line_of(topic))?
            && let Some(count) = self.spin.look(superblock::spin::ATTACHED)
        {
            // Release: the holder of the role that sees it reads the list with this topic.
            count.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Is this the child of the process that opened the bus? Then nothing is mapped here.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.fork.is_child()
    }

    /// Sends a control request, taking the role first if nobody has it.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, BusError> {
        self.check_usable()?;
        client::ask(&self.dir, &self.superblock, request, |silent| {
            offer_to_host(&self.dir, self.may_host, &mut self.lock_host(), silent)
        })
    }

    /// Sends the supervisor a request that wants no answer, if somebody serves and has room. Never waits.
    pub(crate) fn notify(&self, request: &Request) {
        if self.check_usable().is_ok() {
            client::notify(&self.dir, &self.superblock, request);
        }
    }

    /// In a forked child nothing is mapped, and what is in memory is the parent's.
    pub(crate) fn check_forked(&self) -> Result<(), BusError> {
        match self.is_forked() {
            true => Err(BusError::UsedAfterFork { bus: self.dir.name().into() }),
            false => Ok(()),
        }
    }

    pub(crate) fn check_usable(&self) -> Result<(), BusError> {
        self.check_forked()?;
        if self.superblock.look(at::STATE).is_some_and(|state| state.load(Ordering::Acquire) != 0) {
            return Err(BusError::Closed { bus: self.dir.name().into() });
        }
        Ok(())
    }

    /// Have the files of the bus, or of a topic, been deleted under it? Where they were. Each handle tells its user once.
    pub(crate) fn unlinked(&self, topic: &TopicCore) -> Option<PathBuf> {
        if topic.name().starts_with(REPLY_TOPICS) {
            // They go with their process.
            return None;
        }
        let path = match (self.superblock.is_unlinked(), topic.is_unlinked()) {
            (true, _) => self.dir.path(),
            (false, true) => &topic.dir().0,
            (false, false) => return None,
        };
        let is_open = self.superblock.look(at::STATE).is_some_and(|state| state.load(Ordering::Acquire) == 0);
        is_open.then(|| path.to_owned())
    }
}

/// Takes the role for this process if it may: if nobody has it, or its holder is the `silent` one. True if somebody will listen
/// soon.
fn offer_to_host(
    dir: &BusDir,
    may_host: bool,
    host: &mut Option<Host>,
    silent: Option<u64>,
) -> Result<bool, BusError> {
    if silent.is_none() && host.as_ref().is_some_and(Host::is_serving) {
        return Ok(true);
    }
    let Ok((superblock, _)) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, None) else {
        return Err(BusError::Closed { bus: dir.name().into() });
    };
    let newest = role::newest(&superblock);
    if role::is_closed(newest) {
        return Err(BusError::Closed { bus: dir.name().into() });
    }
    if may_host {
        if let Some(started) = Host::start(dir, silent)? {
            // Whatever thread of this process is stuck there ends when it goes on.
            *host = Some(started);
        }
        return Ok(true);
    }
    // Somebody else's: they are starting, or stopping, or silent.
    Ok(silent.is_none() && role::is_held(dir, newest))
}

impl Drop for BusInner {
    fn drop(&mut self) {
        if self.is_forked() {
            // The parent's lease, lock and thread are not this process's to end.
            if let Some(host) = self.lock_host().take() {
                std::mem::forget(host);
            }
            return;
        }
        let mut host = self.lock_host().take();
        self.lease.head().leave();
        if self.check_usable().is_ok() {
            let leave = Request::Leave { participant: self.me.participant, tag: self.tag };
            // Without a supervisor, or with one that stands still, the next one finds the lease free.
            let _ = client::ask(&self.dir, &self.superblock, &leave, |silent| match silent {
                None => Ok(false),
                Some(_) => Err(BusError::NoSupervisor { bus: self.dir.name().into() }),
            });
        }
        self.lease.release();
        if let Some(host) = &mut host {
            host.stop();
        }
        drop(host);
        if self.temporary {
            remove_if_abandoned(&self.dir);
        }
    }
}

/// Removes a temporary bus of which nobody is left, and what is left of a bus that was closed. True if it was.
///
/// Whoever removes a bus takes its role and closes it in that role's word, so that nobody can register meanwhile. One who leaves
/// while another looks, and so finds the role taken, relies on that other one to look again.
pub(crate) fn remove_if_abandoned(dir: &BusDir) -> bool {
    loop {
        let Ok((region, _)) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Write, None)
        else {
            return false;
        };
        let newest = role::newest(&region);
        if role::is_closed(newest) {
            return role::finish_closed(dir);
        }
        if !is_left(dir) || role::is_held(dir, newest) {
            return false;
        }
        let Ok(lock) = role::Lock::new(dir) else { return false };
        let Some(mut role) = Role::take(lock, Arc::new(region), newest) else { return false };
        if is_left(dir) && role.close() {
            role.remove_bus();
            return true;
        }
    }
}

/// Is this a temporary bus of which nobody is left, or a closed one?
pub(crate) fn is_abandoned(dir: &BusDir) -> bool {
    let newest = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, None)
        .map_or(0, |(region, _)| role::newest(&region));
    role::is_closed(newest) || is_left(dir) && !role::is_held(dir, newest)
}

/// The same, but for the role.
fn is_left(dir: &BusDir) -> bool {
    let most = superblock::footprint_bytes(PARTICIPANTS_MAX as usize);
    let Ok((region, _)) = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, Some(most))
    else {
        return false;
    };
    let Ok(fixed) = region.read::<superblock::Fixed>(0) else { return false };
    if fixed.flags & FLAG_TEMPORARY == 0 {
        return false;
    }
    let participants = Participants::new(Arc::new(region), dir.clone());
    !are_leases_held(dir) && participants.all().iter().all(|info| participants.is_gone(info))
}

/// Does any process hold a lease file of this bus? Whoever opens the bus holds one before it registers, so one who is between
/// the two counts.
pub(crate) fn are_leases_held(dir: &BusDir) -> bool {
    std::fs::read_dir(dir.leases()).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            file::open_ro(&entry.path())
                .is_ok_and(|file| lock::is_locked(&file, &entry.path()).unwrap_or(true))
        })
    })
}

/// Waits until somebody serves the bus, for at most `timeout`.
pub fn wait_until_served(name: &str, dir: Option<&Path>, timeout: Duration) -> Result<bool, BusError> {
    let dir = BusDir::new(name, dir)?;
    let begun = Instant::now();
    loop {
        let newest = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, None)
            .map_or(0, |(region, _)| role::newest(&region));
        let socket = dir.socket(superblock::RoleWord::unpack(newest).mark);
        if !role::is_closed(newest) && crate::sys::socket::connect(&socket).is_ok() {
            return Ok(true);
        }
        if begun.elapsed() >= timeout {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
