//! What can be wrong with a bus: the invariants by name, and where one does not hold.

use bus_core::lane::Lane;
use std::fmt;

/// What to do about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// Words that carry messages are wrong.
    Anew,
    /// The next one who needs it repairs it.
    Repairs,
    /// Costs time or memory, no message.
    Harmless,
    /// Something that nobody removes any more.
    Delete,
}

macro_rules! invariants {
    ($($name:ident $id:literal $advice:ident $sentence:literal;)*) => {
        /// Something that always holds in a bus that only the bus's own code has written to. docs/fsck.md has the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Invariant {
            $(#[doc = $sentence] $name,)*
        }

        impl Invariant {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$name,)*];

            /// Its short name, which stays the same from version to version.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Invariant::$name => $id,)*
                }
            }

            /// What holds.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Invariant::$name => $sentence,)*
                }
            }

            const fn kind_of_advice(self) -> Advice {
                match self {
                    $(Invariant::$name => Advice::$advice,)*
                }
            }
        }
    };
}

invariants! {
    RingRun "ring.run" Anew "The filled slots of a lane are one run that ends at the lane's end, with a single boundary between two laps.";
    RingWriting "ring.writing" Anew "Only the slot at the end of a one-producer lane is marked as being written.";
    RingHint "ring.hint" Harmless "The hint of a lane is not beyond its end.";
    GateAhead "gate.ahead" Anew "The gate of a lane is not beyond its end.";
    GateBack "gate.back" Anew "The gate of a lane never goes back, and is at most a ring behind the end.";
    MessageProducer "message.producer" Anew "An unread message names a producer of the topic whose payload memory is there.";
    MessageCell "message.cell" Anew "An unread message lies inside of its producer's payload memory.";
    MessageHeader "message.header" Anew "The header of an unread message repeats the sequence and the producer that its slot names.";
    MessageLength "message.length" Anew "An unread message is no longer than is allowed, and ends where its slot or segment ends at the latest.";
    MessageType "message.type" Anew "An unread message is of a type that the topic accepts, or bytes.";
    MessagePosition "message.position" Anew "The memory of an unread message has not been given up for overwriting.";
    ArenaOverlap "arena.overlap" Anew "No two unread messages share memory.";
    ArenaOrphan "arena.orphan" Delete "Payload memory belongs to an incarnation of a producer that publishes, or has left messages.";
    ArenaLimit "arena.limit" Anew "The limit of a segment of payload memory is a whole number of chunks, and no less than a segment.";
    ProducerState "producer.state" Anew "A producer entry is in a state that exists.";
    ProducerHolder "producer.holder" Repairs "A producer entry in use is held by a process that is registered.";
    ProducerMark "producer.mark" Harmless "No former producer's memory waits for a sequence beyond the lane's end.";
    ProducerBreaker "producer.breaker" Harmless "The breaker of a producer is in a state that exists.";
    TopicTypes "topic.types" Anew "A topic counts no more types than it has room for.";
    TopicQuota "topic.quota" Harmless "The quota of a topic has a rate, and no service's mark.";
    GroupState "group.state" Anew "A group entry is in a state that exists.";
    GroupKind "group.kind" Anew "A group is of a kind that exists: without a name exactly if it goes with its member, and never shared then; keyed only if it is shared.";
    GroupKey "group.key" Harmless "The key of a group is the hash of its name.";
    GroupTwins "group.twins" Anew "No two entries have the same name.";
    GroupUncounted "group.uncounted" Anew "Every entry in use is among those that publishers look at.";
    GroupHolder "group.holder" Repairs "A group entry that a member holds is held by a process that is registered.";
    GroupEvicted "group.evicted" Anew "Only a group that agreed to yield, or to be let go when it stands still, is let go while its member lives.";
    GroupAhead "group.ahead" Anew "The cursor of a group that holds messages is not beyond the lane's end.";
    GroupBehind "group.behind" Anew "The cursor of a group that holds messages is at most a ring behind the lane's end.";
    GroupHanded "group.handed" Harmless "No group has been handed a message that is not published.";
    OwnerState "owner.state" Anew "An owner word is in a state that exists.";
    OwnerLap "owner.lap" Anew "No owner word is of a message that is not published.";
    OwnerBelow "owner.below" Anew "Every message before the cursor of a shared group is finished.";
    OwnerMember "owner.member" Repairs "A claimed message is claimed by a process that is registered.";
    OwnerAttempts "owner.attempts" Harmless "A message that was claimed counts at least one attempt.";
    OwnerWalk "owner.walk" Repairs "While nobody moves, the cursor of a shared group stands at a message that is not finished.";
    OwnerParked "owner.parked" Anew "A parked message lies in the group's aside store, or has been settled since.";
    AsideState "aside.state" Anew "An entry of an aside store is in a state that exists.";
    KeySeat "key.seat" Anew "A seat of a keyed group is in a state that exists.";
    KeyHolder "key.holder" Repairs "A seat of a keyed group that is taken is held by a process that is registered.";
    KeyPartition "key.partition" Anew "The word of a partition has no bits that mean nothing.";
    KeyClaims "key.claims" Anew "In a keyed group that waits for ever for its members, all messages of a partition that are in hand are in one process's.";
    AsideTable "aside.table" Anew "An aside store has the measures of its topic's messages, and no more entries than are allowed and backed by memory.";
    AsideMessage "aside.message" Anew "A message in an aside store names a lane and a type of the topic and a published sequence, and is not too long.";
    AsideTwins "aside.twins" Anew "A message has at most one entry in an aside store that counts.";
    AsideHolder "aside.holder" Repairs "An entry of an aside store that somebody has in hand is held by a process that is registered.";
    OutcomeRecord "outcome.record" Harmless "A record of what became of a message is of an outcome that exists, and of a published message.";
    ParticipantState "participant.state" Anew "A participant entry is in a state that exists.";
    ParticipantNumber "participant.number" Anew "A participant entry in use names its own number and incarnation.";
    ParticipantTable "participant.table" Anew "The participant table has no more entries than are allowed and backed by memory.";
    ParticipantLease "participant.lease" Anew "The lease file of a participant is the one that it registered with.";
    ParticipantTold "participant.told" Harmless "What has been told of a participant entry is of no later incarnation than it has.";
    LeaseStray "lease.stray" Delete "Every lease file belongs to a participant.";
    ReplyTopic "reply.topic" Delete "A topic for answers is there while the process that it is named after takes part, or is being swept.";
    RoleEpoch "role.epoch" Anew "The supervisor's role has been taken if anybody ever registered.";
    WakeState "wake.state" Anew "A topic is open, or closed with its bus.";
    WakeBreaker "wake.breaker" Harmless "The breaker of a topic is in a state that exists.";
    SpinHolder "spin.holder" Harmless "A place among those who spin is taken by a process that is registered.";
    ListenerTable "listener.table" Anew "The table of listeners has no more entries than are allowed and backed by memory, each in a state that exists.";
    ListenerHolder "listener.holder" Harmless "A listener's entry is held by a process that is registered.";
    FileUnreadable "file.unreadable" Anew "Every file begins as its kind does and is as long as it says.";
    FileEpoch "file.epoch" Anew "All files of a topic, and of a bus, were made for it.";
    FileSparse "file.sparse" Anew "Every page of a file that is not payload memory is backed by memory.";
    FileName "file.name" Anew "A topic has the name of its directory.";
    FileTemporary "file.temporary" Delete "What a dead process left half-made has been removed by the next holder of the supervisor's role.";
}

impl Invariant {
    /// What it means for those who use the bus, and what to do.
    pub const fn advice(self) -> &'static str {
        match self.kind_of_advice() {
            Advice::Anew => {
                "something wrote here that should not have: keep a copy of the bus's directory, \
                 then `shmbus down --force` and start anew"
            }
            Advice::Repairs => {
                "what it holds is not lost; whoever next joins or waits there repairs it, \
                 else `shmbus down --force` and start anew"
            }
            Advice::Harmless => "no message is lost by it; report it if it comes back",
            Advice::Delete => "no message is lost by it; the file takes memory and may be deleted",
        }
    }
}

/// Where something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Place {
    /// Topic.
    pub topic: Option<String>,
    /// Its lane.
    pub lane: Option<Lane>,
    /// Name of the group; `~` and a number for one without a name.
    pub group: Option<String>,
    /// Number in its table: of a slot's sequence, a group, a producer, a participant, an aside entry.
    pub entry: Option<u64>,
    /// File, from the directory of the bus on.
    pub file: Option<String>,
}

impl Place {
    pub(super) fn bus() -> Self {
        Self::default()
    }

    pub(super) fn topic(name: &str) -> Self {
        Self { topic: Some(name.to_owned()), ..Self::default() }
    }

    pub(super) fn lane(mut self, lane: usize) -> Self {
        self.lane = Some(Lane(lane as u8));
        self
    }

    pub(super) fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    pub(super) fn entry(mut self, entry: u64) -> Self {
        self.entry = Some(entry);
        self
    }

    pub(super) fn file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.topic.as_ref().map(|topic| format!("topic {topic}")));
        parts.extend(self.lane.map(|lane| format!("lane {}", lane.0)));
        parts.extend(self.group.as_ref().map(|group| format!("group {group}")));
        parts.extend(self.file.as_ref().map(|file| format!("file {file}")));
        parts.extend(self.entry.map(|entry| format!("number {entry}")));
        if parts.is_empty() { f.write_str("the bus") } else { f.write_str(&parts.join(", ")) }
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Bus.
    pub bus: String,
    /// Where in it.
    pub place: Place,
    /// What should hold.
    pub invariant: Invariant,
    /// What was found.
    pub found: String,
    /// What should have been.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} [{}]: found {}, expected {}. {} {}",
            self.place,
            self.invariant.id(),
            self.found,
            self.expected,
            self.invariant.sentence(),
            self.invariant.advice()
        )
    }
}
