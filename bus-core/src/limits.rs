//! Every limit of the format and every default, each with its reason. README.md shows the same table.

/// Participants (processes) of one bus: ten bits name a participant in a group's and a producer's words.
pub const PARTICIPANTS_MAX: u32 = 1_023;
/// Producer entries of one topic: ten bits of a slot word name the producer.
pub const PRODUCERS_MAX: u32 = 1_023;
/// Producer entries of a topic unless set: 64 entries fill one page.
pub const PRODUCERS_DEFAULT: u32 = 64;
/// Groups on one topic. The gate scan visits every used entry, once a ring revolution.
pub const GROUPS_MAX: u32 = 256;
/// Partitions of a keyed group: enough that the shares of some dozens of members differ little, few enough to look at all of them.
pub const PARTITIONS: u32 = 256;
/// Members of a keyed group: with more, some would have no partition. Eight bits name a seat.
pub const KEYED_MEMBERS_MAX: u32 = 256;
/// Lanes of one topic: each has its own ring and arenas, so more would cost memory that few topics use.
pub const LANES_MAX: usize = 4;
/// Lanes unless set: critical, high, normal.
pub const LANES_DEFAULT: usize = 3;
/// Slots of a lane unless set.
pub const CAPACITY_DEFAULT: u32 = 1_024;
/// Fewest slots: the reader's look-ahead and the owner words want room to turn round in.
pub const CAPACITY_MIN: u32 = 8;
/// Most slots: 16 Mi words of 8 bytes are 128 MiB a lane.
pub const CAPACITY_MAX: u32 = 1 << 24;
/// Largest message unless set, in bytes.
pub const MESSAGE_BYTES_DEFAULT: u64 = 1 << 20;
/// Largest message at all, in bytes: the header keeps the length in 32 bits.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Payload bytes inside a slot of a one-producer lane unless set: two cache lines with the 32-byte header.
pub const INLINE_BYTES_DEFAULT: u32 = 96;
/// Most payload bytes inside a slot: beyond this the copy, not the second miss, decides.
pub const INLINE_BYTES_MAX: u32 = 4_064;
/// First segment of an arena, in bytes. Small, since most agents publish little on most lanes.
pub const ARENA_FIRST_BYTES: u64 = 64 << 10;
/// Total bytes of one arena unless the largest message asks for more.
pub const ARENA_BOUND_DEFAULT_BYTES: u64 = 16 << 20;
/// An arena grows only to this size for the sake of messages that everybody has finished; beyond it
/// the retained window shrinks instead.
pub const ARENA_HISTORY_BYTES: u64 = 1 << 20;
/// An arena whose producer streams grows to a segment of this size, unread messages or not: memory that neither the producer nor a reader still
/// has in its second cache, of 1 MiB or less mostly, changes hands several times as fast there as memory that both have.
pub const ARENA_STREAM_BYTES: u64 = 2 << 20;
/// Bytes a second from which a producer is said to stream: 130,000 short messages.
pub const ARENA_STREAM_BYTES_PER_S: u64 = 16 << 20;
/// Segments of one arena, each twice the one before: 64 KiB to 2 GiB and more.
pub const ARENA_SEGMENTS_MAX: usize = 20;
/// Payload types of one topic. One byte of the header names the type.
pub const TYPES_MAX: usize = 16;
/// Bytes of a topic's name: it is a directory name too.
pub const TOPIC_NAME_BYTES_MAX: usize = 200;
/// Bytes of a bus's name: the control socket's path has 108 bytes in all.
pub const BUS_NAME_BYTES_MAX: usize = 48;
/// Bytes of a group's name.
pub const GROUP_NAME_BYTES_MAX: usize = 64;
/// Bytes of a service's name.
pub const SERVICE_NAME_BYTES_MAX: usize = 48;
/// Bytes of a payload type's name.
pub const TYPE_NAME_BYTES_MAX: usize = 72;
/// How far ahead a streaming reader waits for a slot before it touches nearer ones. Chasing the line that is
/// being written makes both cores fight for it; 64 slots is where the gain flattens.
pub const READ_DISTANCE: u64 = 64;
/// How many pauses a streaming reader holds back for that slot.
pub const READ_HOLD_PAUSES: u32 = 32;
/// How often at most it does so for one run, as long as each time a quarter of it comes. So a message waits for four holds at most, and the
/// last of a burst for two.
pub const READ_HOLDS: u64 = 4;
/// A waiting lower lane gets one message after this many from higher ones, unless set.
pub const STARVATION_GUARD_DEFAULT: u32 = 256;
/// Handing a message out this often ends in a dead letter rather than in another death.
pub const ATTEMPTS_MAX: u8 = 255;
/// How often a message is handed out before it is a dead letter, unless set.
pub const ATTEMPTS_DEFAULT: u8 = 10;
/// How long a member of a shared group may be silent about a message before another gets it, unless set.
pub const ACK_WAIT_DEFAULT_MS: u32 = 30_000;
/// Entries of a group's aside store: the owner word of a parked message names one in 16 bits.
pub const ASIDE_ENTRIES_MAX: u32 = 1 << 16;
/// Entries of a group's aside store unless set: 8 MiB of address space, of which 12 KiB are backed at first.
pub const ASIDE_ENTRIES_DEFAULT: u32 = 16_384;
/// Most payload bytes inside an entry of an aside store; with the record they are eight cache lines.
pub const ASIDE_INLINE_BYTES_MAX: u32 = 256;
/// Delay before a message is tried for the second time, unless set. Each further one is twice as long.
pub const RETRY_FIRST_DEFAULT_MS: u32 = 100;
/// Longest such delay, unless set.
pub const RETRY_MAX_DEFAULT_MS: u32 = 30_000;
/// Listeners of one bus, that is, consumers that wait on many topics through one bell: ten bits name one in a topic's table.
pub const LISTENERS_MAX: u32 = 1_024;
/// Topics of one listener: as many as a page has bits.
pub const LISTENER_TOPICS_MAX: u32 = 32_768;
/// Listeners of one topic: as many as its page of bells has room for.
pub const TOPIC_LISTENERS_MAX: u32 = 480;
/// Patterns of one subscription.
pub const PATTERNS_MAX: usize = 1_024;
/// Requests of one process that may wait for answers: the low 11 bits of a serial name one, and the reply lane has as many slots,
/// so that one answer to each always has room.
pub const REQUESTS_MAX: u32 = 2_048;
/// Publishers of a reply topic: processes, and threads of them, that answer one process at a time.
pub const REPLY_PRODUCERS_MAX: u32 = 128;
/// Messages that a mailbox holds for its owner.
pub const MAILBOX_CAPACITY: u32 = 256;
/// First segment of an arena of a reply topic or a mailbox: there are many of them, and most carry little.
pub const SMALL_ARENA_FIRST_BYTES: u64 = 4 << 10;
/// Causes that may lie behind a message, unless set: no sensible conversation is as deep, and a loop is cut soon.
pub const HOPS_MAX_DEFAULT: u16 = 64;
/// Conversations between two topics that may run into a loop within ten seconds before what is caused across them is refused at
/// once; and how often one conversation may before it is.
pub const LOOP_HITS_MAX: u8 = 3;
/// Pairs of topics, and conversations across them, that one process remembers for that.
pub const LOOPS_MAX: usize = 256;
