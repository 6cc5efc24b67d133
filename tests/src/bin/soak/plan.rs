//! Who takes part: topics, groups, and the places of processes. What a message looks like.

use bus_shm::Lane;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A bijection of numbers that leaves no pattern.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers that only look random: splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What is published: everything in it follows from `id`.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub(crate) struct Load {
    /// Number of the producer, and of the message there.
    pub(crate) id: u64,
    /// As many as `id` says.
    pub(crate) words: Vec<u64>,
}
bus_shm::message!(Load, version 1, { id, words });

/// Bits of an id that number a producer's messages.
const COUNT_BITS: u32 = 48;

/// The id of message `count` (from 1) of a producer.
pub(crate) fn id_of(producer: usize, count: u64) -> u64 {
    (producer as u64) << COUNT_BITS | count
}

/// The producer and the count of an id.
pub(crate) fn parts_of(id: u64) -> (usize, u64) {
    ((id >> COUNT_BITS) as usize, id & ((1 << COUNT_BITS) - 1))
}

/// Numbers that a producer may publish together.
pub(crate) const BLOCK: u64 = 12;
/// One in so many blocks of numbers is published in batches, one a lane.
const BATCHES_ONE_IN: u64 = 8;

/// The numbers that a producer publishes in batches together with this one. That follows from the number, so that the checker
/// knows it of a batch whose producer was killed before it could say anything.
pub(crate) fn block_of(producer: usize, count: u64) -> Option<RangeInclusive<u64>> {
    let first = count.checked_sub(1)? / BLOCK * BLOCK + 1;
    mix(id_of(producer, first) ^ 0x00ba_7c4e)
        .is_multiple_of(BATCHES_ONE_IN)
        .then_some(first..=first + BLOCK - 1)
}

/// Lane of a message.
pub(crate) fn lane_of(id: u64) -> Lane {
    Lane(match mix(id) % 16 {
        0 => 0,
        1..4 => 1,
        _ => 2,
    })
}

/// How long the messages of a topic are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sizes {
    /// Up to 64 bytes.
    Small,
    /// The same, and some that do not fit into a slot.
    Mixed,
    /// A few KiB, and some that make an arena grow.
    Large,
}

fn len_of(sizes: Sizes, id: u64) -> usize {
    let random = mix(id ^ 0x5851_f42d) as usize;
    let (rare, rest) = (random.is_multiple_of(64), random >> 8);
    match (sizes, rare) {
        (Sizes::Mixed, true) => 16 + rest % 500,
        (Sizes::Small | Sizes::Mixed, _) => rest % 8,
        (Sizes::Large, true) => 8_192 + rest % 4_096,
        (Sizes::Large, false) => 16 + rest % 256,
    }
}

impl Load {
    /// The message of an id.
    pub(crate) fn new(sizes: Sizes, id: u64) -> Self {
        let words = (0..len_of(sizes, id) as u64).map(|index| mix(id ^ index << 20)).collect();
        Self { id, words }
    }
}

impl ArchivedLoad {
    /// Its id, if all of it is that message.
    pub(crate) fn checked(&self, sizes: Sizes) -> Option<u64> {
        let id = self.id.to_native();
        let good = self.words.len() == len_of(sizes, id)
            && (0..).zip(self.words.iter()).all(|(index, word)| word.to_native() == mix(id ^ index << 20));
        good.then_some(id)
    }
}

/// A topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicPlan {
    pub(crate) name: &'static str,
    /// 1: a ring of the one-producer kind.
    pub(crate) producers: u32,
    pub(crate) capacity: u32,
    pub(crate) sizes: Sizes,
    pub(crate) groups: &'static [GroupPlan],
    pub(crate) has_tap: bool,
    /// One reader without a name that has agreed to be let go.
    pub(crate) has_yielder: bool,
}

/// A reliable group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupPlan {
    pub(crate) name: &'static str,
    /// Processes; one makes it a group of one member.
    pub(crate) members: usize,
    pub(crate) ack_wait: Duration,
    pub(crate) attempts: u8,
    /// Its members share the keys.
    pub(crate) keyed: bool,
    /// One in so many receives is a batch; 0 for none.
    pub(crate) batches: u64,
    /// Entries of its aside store, 0 for as many as there are by default.
    pub(crate) aside_entries: u32,
}

impl GroupPlan {
    pub(crate) fn is_shared(&self) -> bool {
        self.members > 1
    }

    /// Its aside store runs full now and then: what was put aside may come again, for want of room.
    pub(crate) fn has_small_store(&self) -> bool {
        self.aside_entries != 0
    }
}

/// Lanes of every topic.
pub(crate) const LANES: usize = 3;

/// Entries of a store that runs full: about as many messages fail at a time.
const SMALL_STORE: u32 = 8;

/// Members may be asked to hold messages for longer than their group waits where that is short.
pub(crate) const SHORT_WAIT: Duration = Duration::from_millis(500);

pub(crate) const TOPICS: [TopicPlan; 4] = [
    TopicPlan {
        name: "single",
        producers: 1,
        capacity: 1_024,
        sizes: Sizes::Mixed,
        groups: &[
            GroupPlan {
                name: "solo",
                members: 1,
                ack_wait: Duration::ZERO,
                attempts: 12,
                keyed: false,
                batches: 3,
                aside_entries: 0,
            },
            GroupPlan {
                name: "team",
                members: 3,
                ack_wait: Duration::ZERO,
                attempts: 12,
                keyed: false,
                batches: 4,
                aside_entries: 0,
            },
        ],
        has_tap: true,
        has_yielder: true,
    },
    TopicPlan {
        name: "many",
        producers: 64,
        capacity: 1_024,
        sizes: Sizes::Small,
        groups: &[
            GroupPlan {
                name: "ledger",
                members: 1,
                ack_wait: Duration::ZERO,
                attempts: 12,
                keyed: false,
                batches: 4,
                aside_entries: SMALL_STORE,
            },
            GroupPlan {
                name: "crew",
                members: 4,
                ack_wait: Duration::from_millis(100),
                attempts: 12,
                keyed: false,
                batches: 4,
                aside_entries: SMALL_STORE,
            },
        ],
        has_tap: true,
        has_yielder: true,
    },
    TopicPlan {
        name: "bulk",
        producers: 8,
        capacity: 256,
        sizes: Sizes::Large,
        groups: &[
            GroupPlan {
                name: "keeper",
                members: 1,
                ack_wait: Duration::ZERO,
                attempts: 5,
                keyed: false,
                batches: 2,
                aside_entries: 0,
            },
            GroupPlan {
                name: "gang",
                members: 3,
                ack_wait: Duration::from_secs(30),
                attempts: 5,
                keyed: false,
                batches: 8,
                aside_entries: 0,
            },
        ],
        has_tap: false,
        has_yielder: false,
    },
    TopicPlan {
        name: "keys",
        producers: 8,
        capacity: 1_024,
        sizes: Sizes::Small,
        groups: &[GroupPlan {
            name: "accounts",
            members: 3,
            ack_wait: Duration::ZERO,
            attempts: 5,
            keyed: true,
            batches: 4,
            aside_entries: 0,
        }],
        has_tap: false,
        has_yielder: false,
    },
];

/// Processes that publish messages with keys.
const KEY_PRODUCERS: usize = 2;
/// Different keys.
const KEYS: u64 = 200;

/// The key of a message, where its topic has some. What is published in batches has none, and one in a few besides.
pub(crate) fn key_of(topic: usize, id: u64) -> Option<u64> {
    let (producer, count) = parts_of(id);
    let is_keyed =
        TOPICS[topic].groups.iter().any(|group| group.keyed) && block_of(producer, count).is_none();
    let random = mix(id ^ 0x6b65_7973);
    (is_keyed && !random.is_multiple_of(7)).then_some(random / 7 % KEYS)
}

/// Processes that publish large messages.
const BULK_PRODUCERS: usize = 2;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Makes bus, topics and groups, and leaves.
    Setup,
    /// Has the supervisor's role, as long as it lives.
    Supervisor,
    Producer {
        topic: usize,
        number: usize,
    },
    Member {
        topic: usize,
        group: usize,
    },
    Tap {
        topic: usize,
    },
    /// Holds publishers back for a moment at most, and is let go now and then.
    Yielder {
        topic: usize,
    },
    /// Reads the announcements of dead letters, and makes room in small stores.
    Undertaker,
}

/// All places but the setup's, in order.
pub(crate) fn jobs(producers: usize) -> Vec<Job> {
    let mut jobs = vec![Job::Supervisor, Job::Undertaker];
    for (topic, plan) in TOPICS.iter().enumerate() {
        for (group, members) in plan.groups.iter().map(|group| group.members).enumerate() {
            jobs.extend((0..members).map(|_| Job::Member { topic, group }));
        }
        if plan.has_tap {
            jobs.push(Job::Tap { topic });
        }
        if plan.has_yielder {
            jobs.push(Job::Yielder { topic });
        }
    }
    let counts = [1, producers, BULK_PRODUCERS, KEY_PRODUCERS];
    let publishing = counts.into_iter().enumerate().flat_map(|(topic, count)| (0..count).map(move |_| topic));
    jobs.extend(publishing.enumerate().map(|(number, topic)| Job::Producer { topic, number }));
    jobs
}
