//! What can go wrong, one enum for each family of operations. Every message names the bus or topic, the limit, the value,
//! and what to do.

use crate::dead_letters::LetterId;
use crate::sys::error::SysError;
pub use bus_core::breaker::Reason as BreakerReason;
use bus_core::layout::Mismatch;
use bus_core::name::NameError;
use std::path::PathBuf;
use std::time::Duration;

/// A region file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The operating system refused.
    #[error(transparent)]
    System(#[from] SysError),
    /// The file is not what it should be.
    #[error(
        "{}: {why}. The file is damaged or of another build; `shmbus down --force` removes the bus with its topics",
        path.display()
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: Mismatch,
    },
    /// There is not enough memory under `/dev/shm`.
    #[error(
        "{}: {need_bytes} bytes are needed and {free_bytes} of {total_bytes} are free; \
         free some, or mount it larger (docker: --shm-size)",
        path.display()
    )]
    NoSpace {
        /// What was to be created.
        path: PathBuf,
        /// Bytes that were asked for.
        need_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that the file system has.
        total_bytes: u64,
    },
}

/// The bus could not be opened, or a control request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// A bus name that is not allowed.
    #[error("{name:?} cannot name a bus: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// A service name that is not allowed.
    #[error("{name:?} cannot name a service: {why}")]
    Service {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// A status that is too long.
    #[error("a status takes at most {max} bytes, not {bytes}; shorten it")]
    Status {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The directory for buses is not a memory file system.
    #[error(
        "{} is not a tmpfs; a bus lives in shared memory. Mount a tmpfs there, or leave --dir and SHMBUS_DIR out",
        dir.display()
    )]
    NotTmpfs {
        /// The directory.
        dir: PathBuf,
    },
    /// Another user's directory, or one that others may write to.
    #[error(
        "{} belongs to uid {owner} with mode {mode:o}, and you are uid {uid}; \
         a bus directory must be your own and closed to others",
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// The caller.
        uid: u32,
    },
    /// No such bus, and the caller did not want to create one.
    #[error("no bus {bus:?} under {}; start one with `shmbus up -b {bus}`", dir.display())]
    NotFound {
        /// Its name.
        bus: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// Nobody holds the supervisor's role, and this process is not to host it.
    #[error("bus {bus:?} has no supervisor and hosting is off; start one with `shmbus up -b {bus}`")]
    NoSupervisor {
        /// The bus.
        bus: String,
    },
    /// The holder of the role does not answer.
    #[error(
        "bus {bus:?}: the supervisor has not answered within {waited:?}; look at it with `shmbus ls -b {bus}`"
    )]
    Timeout {
        /// The bus.
        bus: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The supervisor refused.
    #[error("bus {bus:?}: {reason}")]
    Refused {
        /// The bus.
        bus: String,
        /// Why, in its words.
        reason: String,
    },
    /// The path of the control socket is too long for the kernel.
    #[error(
        "the control socket's path {} has {len_bytes} bytes, the kernel allows {max_bytes}; \
         use a shorter --dir or bus name",
        path.display()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        len_bytes: usize,
        /// What is allowed.
        max_bytes: usize,
    },
    /// Another build speaks another protocol.
    #[error(
        "bus {bus:?} is served by build {theirs} (protocol {their_protocol}); this is build {ours} ({our_protocol})"
    )]
    Build {
        /// The bus.
        bus: String,
        /// Their build.
        theirs: String,
        /// Their protocol version.
        their_protocol: u32,
        /// This build.
        ours: &'static str,
        /// This build's protocol version.
        our_protocol: u32,
    },
    /// The bus asks for membarrier, which this process cannot register for.
    #[error("bus {bus:?} wakes sleepers through membarrier, which this process cannot use: {source}")]
    Barrier {
        /// The bus.
        bus: String,
        /// What the kernel said.
        source: SysError,
    },
    /// The bus has been taken down.
    #[error("bus {bus:?} has been taken down")]
    Closed {
        /// The bus.
        bus: String,
    },
    /// A handle that came from the parent process by fork.
    #[error("this handle of bus {bus:?} was made before a fork; open the bus again in the child")]
    UsedAfterFork {
        /// The bus.
        bus: String,
    },
    /// A region could not be used or made.
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl From<SysError> for BusError {
    fn from(error: SysError) -> Self {
        BusError::Region(RegionError::System(error))
    }
}

/// A topic could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// A name that is not allowed.
    #[error("{name:?} cannot name a topic: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// No such topic, and the caller did not want to create one.
    #[error("bus {bus:?} has no topic {topic:?}; create it with `shmbus create {topic}`, or see `shmbus ls`")]
    NotFound {
        /// The bus.
        bus: String,
        /// The topic.
        topic: String,
    },
    /// An option that was set explicitly differs from the topic's.
    #[error(
        "topic {topic:?}: {option} was asked to be {ours}, but it was created with {theirs} by {creator}; \
         leave the option out to take what exists"
    )]
    Differs {
        /// The topic.
        topic: String,
        /// The option.
        option: &'static str,
        /// What was asked for.
        ours: u64,
        /// What it is.
        theirs: u64,
        /// Who created the topic.
        creator: String,
    },
    /// An option beyond its limits.
    #[error("topic {topic:?}: {option} {value} is not allowed; it must be {allowed}")]
    Option {
        /// The topic.
        topic: String,
        /// The option.
        option: &'static str,
        /// The value.
        value: u64,
        /// What is allowed.
        allowed: String,
    },
    /// The topic carries none of the types that the program speaks.
    #[error("topic {topic:?} carries {theirs}; this program speaks {ours}. Nothing is in common")]
    TypeMismatch {
        /// The topic.
        topic: String,
        /// What the program speaks.
        ours: String,
        /// What the topic accepts.
        theirs: String,
    },
    /// A region could not be used.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The control request failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl From<SysError> for TopicError {
    fn from(error: SysError) -> Self {
        TopicError::Region(RegionError::System(error))
    }
}

/// A publisher or subscriber could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The topic takes no more publishers.
    #[error(
        "topic {topic:?} takes {max} publisher(s), and no place is free; one is held by {holder}. Wait for that, or create the topic with more producers"
    )]
    ProducerLimit {
        /// The topic.
        topic: String,
        /// How many it takes.
        max: u32,
        /// One of those that have it.
        holder: String,
    },
    /// All entries of the group table are taken.
    #[error("topic {topic:?} has {max} groups already; detach some with their owners")]
    GroupLimit {
        /// The topic.
        topic: String,
        /// How many there can be.
        max: usize,
    },
    /// A one-member group is held by a live process.
    #[error(
        "group {group:?} of topic {topic:?} is held by pid {pid} ({service}); use another name, or a shared group"
    )]
    GroupBusy {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// Its holder.
        pid: u32,
        /// The holder's service name.
        service: String,
    },
    /// The group exists with another number of members allowed.
    #[error("group {group:?} of topic {topic:?} is {theirs}; ask for it the same way")]
    GroupKind {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// What it is.
        theirs: &'static str,
    },
    /// A group has no keys to share.
    #[error("group {group:?} of topic {topic:?}: {why}")]
    NotKeyed {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// What it is instead.
        why: &'static str,
    },
    /// All seats of a keyed group are taken.
    #[error(
        "keyed group {group:?} of topic {topic:?} has {max} members already, and no more partitions than that; share one group among fewer, or use another"
    )]
    KeyedMembers {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// How many there can be.
        max: u32,
    },
    /// A group that waits for ever for its members cannot become one that does not, nor the other way round: its members read
    /// in place, and the others copy.
    #[error(
        "topic {topic:?}, group {group:?}: whether its messages go to another member after a time (`ack_wait`) was settled when it was made; join without saying so, or use another group"
    )]
    AckWait {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
    },
    /// A group on a topic that keeps the newest: nobody holds messages back there.
    #[error(
        "topic {topic:?} keeps the newest messages and waits for nobody, so that no group can be sure of them; read it with `tap()`, or create the topic with another overflow policy"
    )]
    KeepsNewest {
        /// The topic.
        topic: String,
    },
    /// What was said about stalls contradicts itself, or the rest.
    #[error("topic {topic:?}: `stall`: {why}")]
    Stall {
        /// The topic.
        topic: String,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// A group name that is not allowed.
    #[error("{name:?} cannot name a group: {why}")]
    GroupName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// A start position that no longer exists, or not yet.
    #[error(
        "topic {topic:?}, lane {lane}: start {wished} is outside of what is retained, {oldest}..{end}; start from `oldest` or `latest`"
    )]
    Start {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// Sequence that was asked for.
        wished: u64,
        /// Oldest that is retained.
        oldest: u64,
        /// The lane's end.
        end: u64,
    },
    /// A time from which on not everything is there any more.
    #[error(
        "topic {topic:?}, lane {lane}: of {wished_ago:?} ago not everything is there any more; the oldest message is {oldest}, {}; start from `oldest`, or from this time or the oldest",
        age.map_or_else(|| "of unknown age".into(), |age| format!("{age:?} old"))
    )]
    StartTime {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// How long ago the time was that was asked for.
        wished_ago: Duration,
        /// Sequence of the oldest message that is retained.
        oldest: u64,
        /// How old that one is, if that is known.
        age: Option<Duration>,
    },
    /// A time of which nothing is known, on a topic without stamps.
    #[error(
        "topic {topic:?}, lane {lane}: its messages carry no time, and nobody has noted how far the lane had come {wished_ago:?} ago; start from `oldest`, `latest` or a sequence"
    )]
    StartUnknown {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// How long ago the time was that was asked for.
        wished_ago: Duration,
    },
    /// A time that has not come yet, or one before the clock began.
    #[error("topic {topic:?}: a start {what}; give a time in the past, or `latest`")]
    StartFuture {
        /// The topic.
        topic: String,
        /// Which it is.
        what: &'static str,
    },
    /// A lane that the topic does not have.
    #[error("topic {topic:?} has lanes 0 to {}, not {lane}", lanes - 1)]
    Lane {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// How many there are.
        lanes: u32,
    },
    /// An option of the subscriber that makes no sense here.
    #[error("a subscriber of topic {topic:?} cannot have this `{option}`: it takes {allowed}")]
    Option {
        /// The topic.
        topic: String,
        /// The option.
        option: &'static str,
        /// What it takes.
        allowed: String,
    },
    /// The topic could not be used.
    #[error(transparent)]
    Topic(#[from] TopicError),
}

impl From<SysError> for AttachError {
    fn from(error: SysError) -> Self {
        AttachError::Topic(error.into())
    }
}
impl From<RegionError> for AttachError {
    fn from(error: RegionError) -> Self {
        AttachError::Topic(error.into())
    }
}
impl From<BusError> for AttachError {
    fn from(error: BusError) -> Self {
        AttachError::Topic(error.into())
    }
}

/// Which memory is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullOf {
    /// The lane's slots.
    Ring,
    /// The publisher's payload memory for the lane.
    Arena,
}

impl std::fmt::Display for FullOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FullOf::Ring => "ring",
            FullOf::Arena => "arena",
        })
    }
}

/// Details of [`PublishError::Full`].
#[derive(Debug)]
pub struct Full {
    /// The topic.
    pub topic: String,
    /// The lane.
    pub lane: u8,
    /// What is full.
    pub what: FullOf,
    /// Its size: slots of the ring, or bytes of the arena.
    pub limit: u64,
    /// The group that holds it, if one does.
    pub group: Option<String>,
    /// How many messages that group is behind.
    pub lag_count: u64,
    /// How long was waited.
    pub waited: Duration,
    /// Of a mailbox, where its owner is.
    pub owner: Option<MailboxOwner>,
}

/// Where the owner of a mailbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailboxOwner {
    /// It reads, or could.
    There,
    /// It left, or was found dead, at this CLOCK_REALTIME ns.
    AwaySince(u64),
    /// There has been none yet.
    None,
}

impl std::fmt::Display for MailboxOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MailboxOwner::There => write!(f, "its owner is there"),
            MailboxOwner::None => write!(f, "it has never had an owner"),
            MailboxOwner::AwaySince(since_ns) => {
                let away_ns = crate::sys::clock::realtime_ns().saturating_sub(*since_ns);
                let away_s = Duration::from_nanos(away_ns).as_secs_f64();
                write!(f, "its owner has been away for {away_s:.1} s")
            }
        }
    }
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Full { topic, lane, what, limit, group, lag_count, waited, owner } = self;
        let unit = if *what == FullOf::Ring { "slots" } else { "bytes" };
        if let Some(owner) = owner {
            let mailbox = crate::mailbox::display(topic);
            return write!(
                f,
                "mailbox {mailbox} is full: the {what} ({limit} {unit}) stayed full for {waited:?}, {lag_count} messages wait, and {owner}. Let it read (`shmbus sub {mailbox}`), or try again later"
            );
        }
        write!(f, "topic {topic:?}, lane {lane}: the {what} ({limit} {unit}) stayed full for {waited:?}")?;
        match group {
            Some(group) => write!(
                f,
                "; group {group:?} holds it, {lag_count} messages behind. Let it catch up, or create the topic larger"
            ),
            None => write!(f, "; no group holds it now, try again"),
        }
    }
}

/// Which limit of a quota was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThrottledBy {
    /// Messages.
    Messages {
        /// So many.
        per_second: u64,
    },
    /// Payload bytes.
    Bytes {
        /// So many.
        per_second: u64,
    },
}

impl std::fmt::Display for ThrottledBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ThrottledBy::Messages { per_second } => write!(f, "{per_second} messages/s"),
            ThrottledBy::Bytes { per_second } => write!(f, "{per_second} bytes/s"),
        }
    }
}

/// Of whom a breaker is.
const fn whose(whole_topic: &bool) -> &'static str {
    if *whole_topic { "the topic's breaker" } else { "this publisher's breaker" }
}

/// What to do about it.
const fn remedy(reason: &BreakerReason) -> &'static str {
    match reason {
        BreakerReason::Full => "let the group that holds the lane catch up",
        BreakerReason::Errors => "at least half of its publications failed; mend those",
        BreakerReason::Quota => {
            "it came back sooner than it was told, again and again; wait as `Throttled` says"
        }
    }
}

/// A message was not published. Nothing was claimed, nothing is half-written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The lane is full of messages that a group has not finished.
    #[error("{0}")]
    Full(Box<Full>),
    /// The circuit breaker is open: publications are refused at once for a while.
    #[error(
        "topic {topic:?}, producer {producer}: {} is open ({}), next trial in {retry_after:?}; {}",
        whose(whole_topic), reason.name(), remedy(reason)
    )]
    CircuitOpen {
        /// The topic.
        topic: String,
        /// The publisher's number in the topic.
        producer: u16,
        /// Why it opened.
        reason: BreakerReason,
        /// It is the topic's: most of its publishers have met the full lane.
        whole_topic: bool,
        /// How long until a publication is let through again.
        retry_after: Duration,
    },
    /// The publisher has used up its quota.
    #[error(
        "topic {topic:?}: over the quota of {limit}; come again in {retry_after:?}, or raise it with `shmbus quota {topic}`"
    )]
    Throttled {
        /// The topic.
        topic: String,
        /// The limit that was met.
        limit: ThrottledBy,
        /// How long until it is not met any more.
        retry_after: Duration,
    },
    /// More causes lie behind it than the publisher allows: messages cause each other in a circle. It is kept as a dead letter.
    #[error("{0}")]
    Loop(Box<Looped>),
    /// This process has met too many loops between two topics, and publishes nothing for a while that is caused across them, in one
    /// conversation or in any.
    #[error("{0}")]
    PairCut(Box<PairCut>),
    /// The message is larger than the topic allows.
    #[error(
        "topic {topic:?}: a message of {len} bytes is larger than its maximum of {max}; create it with a larger --max-message"
    )]
    TooLarge {
        /// The topic.
        topic: String,
        /// Bytes of the message.
        len: u64,
        /// What is allowed.
        max: u64,
    },
    /// A lane that the topic does not have.
    #[error("topic {topic:?} has lanes 0 to {}, not {lane}", lanes - 1)]
    Lane {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// How many there are.
        lanes: u32,
    },
    /// The value could not be archived.
    #[error("topic {topic:?}: the value could not be archived as {kind}")]
    Encode {
        /// The topic.
        topic: String,
        /// Its type.
        kind: &'static str,
    },
    /// The region's words contradict each other.
    #[error(
        "topic {topic:?}, lane {lane}: the ring is corrupt at sequence {sequence}; run `shmbus info {topic}` and recreate it"
    )]
    Corrupt {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// Where it was met.
        sequence: u64,
    },
    /// This publisher's place has been given to another: its process was thought dead.
    #[error("topic {topic:?}: this publisher lost its place; attach again")]
    Fenced {
        /// The topic.
        topic: String,
    },
    /// The bus has been taken down.
    #[error("topic {topic:?}: the bus has been taken down")]
    BusClosed {
        /// The topic.
        topic: String,
    },
    /// The bus's files were deleted under it. Reported once; those who are attached go on.
    #[error("topic {topic:?}: its files have been deleted ({}); those attached go on, nobody new can join. systemd-logind does that at logout unless RemoveIPC=no", path.display())]
    BusUnlinked {
        /// The topic.
        topic: String,
        /// Where they were.
        path: PathBuf,
    },
    /// The handle came from the parent process by fork.
    #[error("topic {topic:?}: this publisher was made before a fork; open the bus again in the child")]
    UsedAfterFork {
        /// The topic.
        topic: String,
    },
    /// Payload memory could not be reserved.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// A publication with too many causes behind it.
#[derive(Debug, thiserror::Error)]
#[error(
    "topic {topic:?}: {hops} causes lie behind this message, and {limit} are allowed: {}; {}{}",
    chain.join(" -> "),
    match letter {
        Some(letter) => format!("it is kept as dead letter {letter}"),
        None => "it could not be kept as a dead letter".into(),
    },
    match cut {
        Some(cut) if *whole_pair => format!("; whatever the one topic causes in the other is refused for {cut:?}"),
        Some(cut) => format!("; what this conversation causes there is refused for {cut:?}"),
        None => String::new(),
    }
)]
pub struct Looped {
    /// The topic.
    pub topic: String,
    /// Causes behind it.
    pub hops: u16,
    /// As many are allowed.
    pub limit: u16,
    /// The last topics of the chain, as far as their messages are still in a ring; this topic is the last one.
    pub chain: Vec<String>,
    /// By what the dead letter is named. `None`: there was no room for it.
    pub letter: Option<LetterId>,
    /// This conversation, or the pair of topics, is cut from here on, for so long.
    pub cut: Option<Duration>,
    /// It is the pair, for all conversations.
    pub whole_pair: bool,
}

/// A publication across a pair of topics that has been cut.
#[derive(Debug, thiserror::Error)]
#[error(
    "topic {topic:?}: {cause} and {topic} keep causing each other's messages, so {} is refused; next trial in {retry_after:?}. `shmbus dlq ls --group _loops` shows the chains",
    match conversation {
        Some(conversation) => format!("what conversation {conversation:x} causes from the one in the other"),
        None => "what the one causes in the other".into(),
    }
)]
pub struct PairCut {
    /// The topic.
    pub topic: String,
    /// The topic of the cause; a number if it is not there any more.
    pub cause: String,
    /// The correlation that is refused. `None`: all of them are.
    pub conversation: Option<u128>,
    /// How long until a publication is let through again.
    pub retry_after: Duration,
}

/// A batch that was published in part.
#[derive(Debug, thiserror::Error)]
#[error("{published} message(s) of the batch were published, then: {source}")]
pub struct BatchError {
    /// How many of the batch, from its beginning, were published.
    pub published: usize,
    /// Why the next one was not.
    pub source: PublishError,
}

/// A message was settled by somebody to whom it no longer belongs: its time was up, or its member was thought dead, and the
/// group has given it to another. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotOwner(Box<NotOwnerDetails>);

/// Which message it was.
#[derive(Debug, thiserror::Error)]
#[error(
    "topic {topic:?}, lane {lane}, sequence {sequence}: group {group:?} has given this message to another member; what was done about it may be done twice"
)]
pub struct NotOwnerDetails {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The lane.
    pub lane: u8,
    /// The message.
    pub sequence: u64,
}

impl NotOwner {
    pub(crate) fn new(topic: &str, group: &str, lane: u8, sequence: u64) -> Self {
        Self(Box::new(NotOwnerDetails { topic: topic.into(), group: group.into(), lane, sequence }))
    }

    /// Which message it was.
    pub fn details(&self) -> &NotOwnerDetails {
        &self.0
    }
}

/// No message could be received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The message that was to be settled belongs to another member by now.
    #[error(transparent)]
    NotOwner(#[from] NotOwner),
    /// A message of a batch could not be put aside: the group's store has no room. It is still part of the batch.
    #[error(
        "topic {topic:?}, lane {lane}, sequence {sequence}: the store of group {group:?} for retries and dead letters is full; purge its dead letters, or let its retries run"
    )]
    AsideFull {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// The lane.
        lane: u8,
        /// The message.
        sequence: u64,
    },
    /// The bytes are no archive of the type that they claim to be. The message has been passed over.
    #[error(
        "topic {topic:?}, lane {lane}, sequence {sequence}: {len} bytes are not a valid {kind}; its publisher (producer {producer}) is broken or of another build"
    )]
    Invalid {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// The message.
        sequence: u64,
        /// Its length.
        len: u32,
        /// The type that it claims.
        kind: &'static str,
        /// Its producer entry.
        producer: u16,
    },
    /// The program's filter panicked at this message. It is a dead letter of the group now; a tap has passed it over.
    #[error(
        "topic {topic:?}, lane {lane}, sequence {sequence}: the filter of this subscriber panicked at it; the message is a dead letter of its group, if it has one"
    )]
    FilterPanicked {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// The message.
        sequence: u64,
    },
    /// A message of a type that this subscriber does not read. It has been passed over.
    #[error(
        "topic {topic:?}, lane {lane}, sequence {sequence}: a {found}, and this subscriber reads {reads}"
    )]
    OtherType {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// The message.
        sequence: u64,
        /// Its type.
        found: String,
        /// What is read.
        reads: String,
    },
    /// The region's words contradict each other.
    #[error(
        "topic {topic:?}, lane {lane}: corrupt at sequence {sequence} ({why}); run `shmbus info {topic}` and recreate it"
    )]
    Corrupt {
        /// The topic.
        topic: String,
        /// The lane.
        lane: u8,
        /// Where it was met.
        sequence: u64,
        /// What contradicts.
        why: &'static str,
    },
    /// The wait was ended by an [`crate::subscriber::Interrupter`].
    #[error("topic {topic:?}: waiting for a message was interrupted, as was asked for")]
    Interrupted {
        /// The topic.
        topic: String,
    },
    /// This subscriber's group has been taken by another process, or let go.
    #[error("topic {topic:?}: this subscriber lost its place in the group; join again")]
    Fenced {
        /// The topic.
        topic: String,
    },
    /// The bus has been taken down.
    #[error("topic {topic:?}: the bus has been taken down")]
    BusClosed {
        /// The topic.
        topic: String,
    },
    /// The bus's files were deleted under it. Reported once; those who are attached go on.
    #[error("topic {topic:?}: its files have been deleted ({}); those attached go on, nobody new can join. systemd-logind does that at logout unless RemoveIPC=no", path.display())]
    BusUnlinked {
        /// The topic.
        topic: String,
        /// Where they were.
        path: PathBuf,
    },
    /// The handle came from the parent process by fork.
    #[error("topic {topic:?}: this subscriber was made before a fork; open the bus again in the child")]
    UsedAfterFork {
        /// The topic.
        topic: String,
    },
    /// An arena could not be mapped.
    #[error(transparent)]
    Region(#[from] RegionError),
}
