//! The checker of buses: silent about every bus that only the bus's own code has written to, whatever is going on in it, and
//! about each rule it has, loud when that one is broken.

use bus_core::aside::AsideWord;
use bus_core::header::WRITING;
use bus_core::holder::{Holder, HolderWord, participant, producer};
use bus_core::layout::groups::{in_entry, in_lane, state as group_state};
use bus_core::layout::{
    Preamble, arena, aside, groups, keys, listeners, outcomes, owners, ring, superblock, wake,
};
use bus_core::name::key;
use bus_core::owner::{OwnerWord, ParkedEntry, state as owner_state};
use bus_shm::dead_letters::{self, Filter, Full};
use bus_shm::directory::BusDir;
use bus_shm::fsck::{self, Invariant};
use bus_shm::{Bus, Bytes, Lane, Start, Subscriber, SubscriberBuilder, Topic};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tests::harness::{self, Agent, Role, TestBus, assert_clean};

/// Slots of the lanes that are damaged.
const CAPACITY: u32 = 16;
/// Messages in each: the first four have been overwritten.
const END: u64 = 20;
/// Messages that both groups have finished.
const FINISHED: u64 = 8;

// ---- Buses in use ----

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(mut role) = harness::role() else { return };
    let bus = role.open();
    let (what, name) = role.argument.split_once(' ').expect("what, and on which topic");
    let topic = bus.topic::<Bytes>(name).expect("the topic");
    match what {
        "publish" => publish(&topic, &mut role),
        "one" => read(fails(topic.group("g")).join(), &mut role),
        "shared" => {
            let builder = topic.group("s").shared().ack_wait(Duration::from_millis(100));
            read(fails(builder).join(), &mut role);
        }
        "own" => read(fails(topic.subscriber()).join(), &mut role),
        "letters" => handle_letters(&bus, &topic, &mut role),
        "yields" => {
            let builder = topic.subscriber().from(Start::Oldest);
            read(builder.yield_after(Duration::from_millis(5)).join(), &mut role);
        }
        "tap" => read(topic.tap(), &mut role),
        other => panic!("no part {other:?}"),
    }
}

/// A subscriber that puts messages aside, in a small store with short delays.
fn fails(builder: SubscriberBuilder<Bytes>) -> SubscriberBuilder<Bytes> {
    let (first, max) = (Duration::from_millis(1), Duration::from_millis(20));
    builder.attempts(3).retry_delays(first, max).aside_entries(48).dead_letters_full(Full::DropOldest)
}

/// Replays and purges dead letters until it is killed.
fn handle_letters(bus: &Bus, topic: &Topic<Bytes>, role: &mut Role) {
    role.parent.tell("ready");
    let all = Filter::topic(topic.name());
    for n in 0_u64.. {
        // Where there is one place for a publisher it is taken.
        if n % 3 > 0 || dead_letters::replay(bus, &all, None).is_err() {
            let some = Filter { error: Some("even".into()), ..all.clone() };
            dead_letters::purge(bus, &some).expect("a topic");
        }
    }
}

/// Publishes until it is killed, in all lanes, of lengths that do and do not fit into a slot.
fn publish(topic: &Topic<Bytes>, role: &mut Role) {
    // The only place may be taken.
    let Ok(mut publisher) = topic.publisher() else {
        role.parent.tell("busy");
        return;
    };
    publisher.set_deadline(Duration::from_millis(200));
    role.parent.tell("ready");
    for n in 0_usize.. {
        let lane = Lane((n % 7 % topic.lanes()) as u8);
        let _ = publisher.publish_bytes(lane, &vec![n as u8; [10, 700, 60, 6_000][n % 4]]);
    }
}

/// Reads until it is killed; gives some messages back, retries and rejects some, and takes some as a batch.
fn read(joined: Result<Subscriber<Bytes>, bus_shm::AttachError>, role: &mut Role) {
    let Ok(mut subscriber) = joined else {
        role.parent.tell("busy");
        return;
    };
    role.parent.tell("ready");
    for n in 0_u64.. {
        if n % 5 == 0 {
            let mut batch = subscriber.receive_batch(1, 8, Duration::from_secs(1)).expect("a batch");
            let mut item_number = 0;
            while let Some(item) = batch.next_message().expect("a message") {
                item_number += 1;
                if item_number == 3 && n % 4 == 0 {
                    // A full store leaves it in the batch.
                    let _ = item.retry("of a batch");
                }
            }
            if n % 3 > 0 {
                batch.ack();
            }
            continue;
        }
        let message = subscriber.receive().expect("a message");
        // Another may have the message by now, whatever is said of it.
        let _ = match n % 11 {
            0 => continue,
            1 | 2 => message.retry("odd").is_ok(),
            3 => message.reject(if n % 2 == 0 { "even" } else { "odd" }).is_ok(),
            _ => message.ack().is_ok(),
        };
    }
}

/// A topic of each kind, with a group of each kind.
fn set_up(bus: &Bus) {
    for (name, producers) in [("many", 8), ("one", 1)] {
        let builder = bus.topic_builder::<Bytes>(name).producers(producers).capacity(64).lanes(3);
        builder.with_group("g").with_shared_group("s").open().expect("a topic");
    }
}

fn start(test: &TestBus, what: &str, topic: &str) -> Agent {
    Agent::spawn("agent", what, &test.name, format!("{what} {topic}"))
}

#[test]
fn buses_at_rest_are_clean() {
    let test = TestBus::new("fsck-rest");
    let bus = Bus::builder(&test.name).open().unwrap();
    let dir = BusDir::new(&test.name, None).unwrap();
    let report = fsck::check(&dir).unwrap();
    assert_eq!((report.problems.len(), report.topics, report.lanes, report.groups), (0, 0, 0, 0));
    set_up(&bus);
    let report = fsck::check(&dir).unwrap();
    assert_eq!((report.problems.len(), report.topics, report.lanes, report.groups), (0, 2, 6, 4));
    drop(bus);
    assert_clean(&test);
    std::fs::remove_dir_all(test.path()).unwrap();
    assert!(fsck::check(&dir).unwrap_err().to_string().contains(&test.name));
}

#[test]
fn a_bus_in_full_use_is_clean_at_every_moment_and_after_everybody_was_killed() {
    let test = TestBus::new("fsck-busy");
    let bus = test.open("setup");
    set_up(&bus);
    let mut agents = Vec::new();
    for (what, topic, count) in [
        ("one", "many", 1),
        ("one", "one", 1),
        ("shared", "many", 2),
        ("shared", "one", 2),
        ("yields", "many", 1),
        ("yields", "one", 1),
        ("own", "many", 1),
        ("tap", "many", 1),
        ("tap", "one", 1),
        ("publish", "many", 2),
        ("publish", "one", 1),
        ("letters", "many", 2),
        ("letters", "one", 1),
    ] {
        agents.extend((0..count).map(|_| start(&test, what, topic)));
    }
    agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
    let begun = Instant::now();
    let mut checks = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        assert_clean(&test);
        checks += 1;
    }
    assert!(checks > 10, "only {checks} checks");
    for topic in ["many", "one"] {
        for group in 0..2 {
            let store = test.path().join(format!("topics/{topic}/aside-{group}"));
            assert!(store.exists(), "nothing has been put aside in group {group} of {topic}");
        }
        let state = bus_shm::inspect::BusView::open(&test.name, None).unwrap().topic(topic).unwrap().sample();
        assert!(state.lanes.iter().all(|lane| lane.end > 64), "too little traffic: {:?}", state.lanes);
    }
    agents.iter_mut().for_each(Agent::kill);
    assert_clean(&test);
    drop(bus);
}

#[test]
fn coming_and_going_and_being_killed_leaves_nothing_that_is_not_as_it_must_be() {
    let test = TestBus::new("fsck-churn");
    let bus = test.open("setup");
    set_up(&bus);
    let stop = AtomicBool::new(false);
    let checks = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_clean(&test);
                checks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let parts = ["publish", "one", "shared", "yields", "letters", "own", "tap", "shared", "publish"];
        let mut agents: Vec<Agent> = Vec::new();
        let begun = Instant::now();
        for turn in 0_usize.. {
            if begun.elapsed() > Duration::from_secs(6) {
                break;
            }
            let topic = if turn % 3 == 0 { "one" } else { "many" };
            agents.push(start(&test, parts[turn % parts.len()], topic));
            if agents.len() > 6 {
                let mut victim = agents.remove(turn * 7 % agents.len());
                // Some are killed while they join.
                if turn % 3 > 0 {
                    victim.line.try_hear();
                }
                if turn % 5 == 0 {
                    victim.stop();
                    std::thread::sleep(Duration::from_millis(250));
                }
                victim.kill();
            }
        }
        drop(agents);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(checks.load(Ordering::Relaxed) > 10, "{checks:?} checks");
    assert_clean(&test);
}

#[test]
fn a_bus_whose_host_was_killed_with_everybody_else_is_clean() {
    let test = TestBus::new("fsck-killed");
    // Made as one that stays, so that nobody collects what is left of it.
    set_up(&Bus::builder(&test.name).open().unwrap());
    for round in 0..4 {
        let mut agents: Vec<_> =
            [("publish", "many"), ("publish", "one"), ("shared", "many"), ("one", "one")]
                .map(|(what, topic)| start(&test, what, topic))
                .into_iter()
                .collect();
        agents.push(start(&test, "yields", "many"));
        agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
        std::thread::sleep(Duration::from_millis(5 * round));
        agents.iter_mut().for_each(Agent::kill);
        assert_clean(&test);
    }
}

// ---- Damage ----

/// A directory for buses, removed with them.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/shm/test-fsck-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn dir(&self) -> BusDir {
        BusDir::new("b", Some(&self.0)).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir().path().to_owned()
    }

    /// A copy of the bus, of which nobody is left, under the same name in another place.
    fn copy(&self) -> Self {
        let copied = Self::new();
        copy(&self.0, &copied.0);
        copied
    }

    fn check(&self) -> BTreeSet<Invariant> {
        let problems = fsck::check(&self.dir()).unwrap().problems;
        problems.iter().map(|problem| problem.invariant).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::create_dir(to);
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::write(target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn furnish(bus: &Bus) {
    for (name, producers) in [("many", 8), ("one", 1)] {
        let builder = bus.topic_builder::<Bytes>(name).producers(producers).capacity(CAPACITY).lanes(1);
        let topic = builder.with_group("g").with_shared_group("s").open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut readers = [topic.group("g").join().unwrap(), topic.group("s").shared().join().unwrap()];
        for n in 0..END {
            if n < FINISHED {
                publisher.publish(&[1; 50]).unwrap();
                for reader in &mut readers {
                    reader.receive().unwrap().ack().unwrap();
                }
            } else {
                publisher.publish(&vec![1; if n == 15 { 5_000 } else { 50 }]).unwrap();
            }
        }
    }
    let keyed = bus.topic_builder::<Bytes>("keyed").capacity(CAPACITY).lanes(1).open().unwrap();
    drop(keyed.group("k").keyed().ack_wait(Duration::ZERO).join().unwrap());
    let mut publisher = keyed.publisher().unwrap();
    let meta = bus_shm::Meta::new().key("a");
    (0..4).for_each(|_| _ = publisher.publish_bytes_with(Lane(0), &[1; 50], &meta).unwrap());
    bus.topic_builder::<Bytes>("empty").capacity(4_096).open().unwrap();
}

fn furnished() -> Home {
    let home = Home::new();
    furnish(&Bus::builder("b").dir(&home.0).open().unwrap());
    home
}

fn load(path: &Path, offset_bytes: u64) -> u64 {
    let mut word = [0; 8];
    File::open(path).unwrap().read_exact_at(&mut word, offset_bytes).unwrap();
    u64::from_ne_bytes(word)
}

fn store(path: &Path, offset_bytes: u64, word: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&word.to_ne_bytes(), offset_bytes).unwrap();
}

/// One wrong thing, and what must be said about it.
struct Damage {
    what: &'static str,
    expected: Vec<Invariant>,
    act: Box<dyn Fn(&Path) + Sync>,
}

/// Overwrites a word of a file.
fn word(
    what: &'static str,
    expected: Invariant,
    file: &'static str,
    at: usize,
    change: impl Fn(u64) -> u64 + Sync + 'static,
) -> Damage {
    let act = move |bus: &Path| {
        let path = bus.join(file);
        store(&path, at as u64, change(load(&path, at as u64)));
    };
    Damage { what, expected: vec![expected], act: Box::new(act) }
}

fn act(what: &'static str, expected: &[Invariant], act: impl Fn(&Path) + Sync + 'static) -> Damage {
    Damage { what, expected: expected.to_vec(), act: Box::new(act) }
}

/// Where the slot of a sequence begins.
fn slot(producers: u32, sequence: u64) -> usize {
    let config = ring::Config {
        capacity: CAPACITY,
        lanes: 1,
        producers,
        inline_bytes: bus_core::limits::INLINE_BYTES_DEFAULT,
        message_bytes: 0,
        arena_first_bytes: 0,
        arena_bound_bytes: 0,
        arena_history_bytes: 0,
        flags: 0,
        overflow: 0,
    };
    let index = sequence % u64::from(CAPACITY);
    (config.slots(0) + index * config.lane_slots_bytes() / u64::from(CAPACITY)) as usize
}

/// Changes a word of the cell of a message of the topic of many producers.
fn cell(
    what: &'static str,
    expected: Invariant,
    number: u64,
    change: impl Fn(u64) -> u64 + Sync + 'static,
) -> Damage {
    act(what, &[expected], move |bus| {
        let cell = load(&bus.join("topics/many/ring"), slot(8, 10) as u64) & 0xf_ffff;
        let (path, at) = (bus.join(ARENA), arena::SEGMENTS as u64 + cell * 64 + number * 8);
        store(&path, at, change(load(&path, at)));
    })
}

const ARENA: &str = "topics/many/arena-0.1-0";
const RING: &str = "topics/many/ring";
const GROUPS: &str = "topics/many/groups";
const OWNERS: &str = "topics/many/owners-1";
const ASIDE: &str = "topics/many/aside-1";
const OUTCOMES: &str = "topics/many/outcomes-1";
const KEYS: &str = "topics/keyed/keys-0";
/// A process that has never registered.
const NOBODY: Holder = Holder { participant: 5, incarnation: 1 };

fn held(state: u8, tag: u32) -> u64 {
    HolderWord { state, holder: NOBODY, tag }.pack()
}

/// An owner word of the first lap.
fn owner(state: u8, attempts: u8, lap: u32) -> u64 {
    OwnerWord { state, member: NOBODY.participant, nonce: 1, attempts, lap }.pack()
}

/// Offset of an owner word.
fn claim(sequence: u64) -> usize {
    owners::words(0, CAPACITY) + (sequence % u64::from(CAPACITY)) as usize * 8
}

fn participant_at(number: usize) -> usize {
    superblock::at::PARTICIPANTS + number * superblock::PARTICIPANT_BYTES
}

/// The word of an entry of an aside store.
fn aside_word(state: u8, tag: u32) -> u64 {
    AsideWord { state, holder: NOBODY, attempts: 1, tag }.pack()
}

/// Entries of the store that is made here.
const ASIDE_ENTRIES: usize = 4;

/// The measures of that store.
fn aside_shape() -> aside::Shape {
    aside::Shape::new(ASIDE_ENTRIES, bus_core::limits::MESSAGE_BYTES_DEFAULT)
}

/// Puts an aside store beside the shared group, with these entries: state word, sequence, description.
fn make_aside(bus: &Path, entries: &[(u64, u64, u64)]) {
    let epoch = load(&bus.join(RING), 24);
    let shape = aside_shape();
    let bytes = shape.footprint_bytes(ASIDE_ENTRIES) as usize;
    let preamble = Preamble::new(aside::MAGIC, bytes as u64, epoch);
    let mut file = vec![0; bytes];
    file[..8].copy_from_slice(&preamble.magic);
    file[8..12].copy_from_slice(&preamble.version.to_ne_bytes());
    file[12..16].copy_from_slice(&preamble.endian.to_ne_bytes());
    file[16..24].copy_from_slice(&preamble.file_bytes.to_ne_bytes());
    file[24..32].copy_from_slice(&preamble.epoch.to_ne_bytes());
    for (at, value) in [
        (aside::at::BOUND, ASIDE_ENTRIES as u64),
        (aside::at::INLINE_BYTES, shape.inline_bytes as u64),
        (aside::at::SPILL_BYTES, shape.spill_bytes),
        (aside::at::RESERVED, ASIDE_ENTRIES as u64),
    ] {
        file[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    for (index, &(state, sequence, description)) in entries.iter().enumerate() {
        for (word, value) in [state, sequence, description].into_iter().enumerate() {
            let at = shape.entry(index) + word * 8;
            file[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
    }
    std::fs::write(bus.join(ASIDE), file).unwrap();
}

/// Puts records of outcomes beside the shared group, with this word as the first.
fn make_outcomes(bus: &Path, word: u64) {
    let epoch = load(&bus.join(RING), 24);
    let lanes = load(&bus.join(RING), 32) >> 32;
    let records = outcomes::records(CAPACITY);
    let bytes = outcomes::footprint_bytes(lanes as usize, records);
    let mut file = vec![0; bytes as usize];
    let preamble = Preamble::new(outcomes::MAGIC, bytes, epoch);
    file[..8].copy_from_slice(&preamble.magic);
    file[8..12].copy_from_slice(&preamble.version.to_ne_bytes());
    file[12..16].copy_from_slice(&preamble.endian.to_ne_bytes());
    file[16..24].copy_from_slice(&preamble.file_bytes.to_ne_bytes());
    file[24..32].copy_from_slice(&preamble.epoch.to_ne_bytes());
    for (at, value) in [
        (outcomes::at::RECORDS, records as u64),
        (outcomes::at::MARKS, outcomes::mark::RECORDS),
        (outcomes::lane(0, records), word),
    ] {
        file[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    std::fs::write(bus.join(OUTCOMES), file).unwrap();
}

/// Puts an entry with this word into the table of listeners.
fn make_listener(bus: &Path, word: u64) {
    let path = bus.join("listeners");
    let mut file = std::fs::read(&path).unwrap();
    file.resize(listeners::footprint_bytes(1) as usize, 0);
    file[listeners::at::RESERVED..][..8].copy_from_slice(&1_u64.to_ne_bytes());
    file[listeners::entry(0)..][..8].copy_from_slice(&word.to_ne_bytes());
    std::fs::write(&path, file).unwrap();
}

fn parked(index: u16, incarnation: u16) -> u64 {
    OwnerWord::unpack(owner(owner_state::CLAIMED, 1, 1)).parked(ParkedEntry { index, incarnation }).pack()
}

/// A message of 10 plain bytes in lane 0.
const DESCRIPTION: u64 = 10 << 32 | 255 << 16;

fn damages() -> Vec<Damage> {
    use Invariant::*;
    let group = |offset| groups::entry(0) + offset;
    let cursor = |offset| groups::lane(0, 0) + offset;
    let waiting = |tag| aside_word(aside::state::WAITING, tag);
    vec![
        word("a slot of the next lap", RingRun, RING, slot(8, 5), |word| word + (1 << 30)),
        word("a slot of an older lap", RingRun, RING, slot(8, 17), |word| word - (1 << 30)),
        word("a slot of nothing", RingRun, RING, slot(8, 6), |_| 0),
        word("a publication of another slot", RingRun, "topics/one/ring", slot(1, 6), |word| word + 1),
        word("a publication beyond the end", RingRun, "topics/one/ring", slot(1, 6), |word| word + 16),
        word("a slot that is written", RingWriting, "topics/one/ring", slot(1, 6), |_| WRITING),
        word("hint", RingHint, RING, ring::hint(0), |_| 1_000),
        word("gate beyond the end", GateAhead, RING, ring::gate(0), |_| END + 1),
        word("gate too far behind", GateBack, RING, ring::gate(0), |_| END - 17),
        word("producer without a file", MessageProducer, RING, slot(8, 10), |word| word ^ 7 << 20),
        word("producer 2 of 1", MessageProducer, "topics/one/ring", slot(1, 10) + 8, |word| word | 1 << 33),
        word("cell outside", MessageCell, RING, slot(8, 10), |word| word | 0xf_ffff),
        cell("another sequence", MessageHeader, 0, |word| word + 1),
        cell("another producer", MessageHeader, 1, |word| word ^ 1 << 32),
        word("unknown flags", MessageHeader, "topics/one/ring", slot(1, 10) + 8, |word| word | 1 << 62),
        word("cell of another", MessageHeader, RING, slot(8, 10), |word| word + 1),
        cell("too long", MessageLength, 1, |word| word | 0xffff_ffff),
        word("longer than a slot", MessageLength, "topics/one/ring", slot(1, 10) + 8, |word| word | 0xfff),
        cell("no such type", MessageType, 1, |word| word & !(0xff << 48) | 3 << 48),
        word("memory given up", MessagePosition, ARENA, arena::limit(0), |limit| limit + (64 << 10)),
        cell("into the next one", ArenaOverlap, 1, |word| word & !0xffff_ffff | 200),
        act("a file of a later incarnation", &[ArenaOrphan], |bus| {
            std::fs::copy(bus.join(ARENA), bus.join("topics/many/arena-0.2-0")).unwrap();
        }),
        act("a file of a free entry", &[ArenaOrphan], |bus| {
            std::fs::copy(bus.join(ARENA), bus.join("topics/many/arena-3.0-0")).unwrap();
        }),
        act("a file of no lane", &[ArenaOrphan], |bus| {
            std::fs::copy(bus.join(ARENA), bus.join("topics/many/arena-0.1-1")).unwrap();
        }),
        word("limit", ArenaLimit, ARENA, arena::limit(1), |limit| limit + 1),
        word("producer state", ProducerState, RING, ring::producer_state(3), |_| 9),
        word("producer", ProducerHolder, RING, ring::producer_state(3), |_| held(producer::LIVE, 1)),
        word("mark", ProducerMark, RING, ring::producer_retire_at(0, 0), |_| END + 2),
        word("producer's breaker", ProducerBreaker, RING, ring::producer_breaker(0), |_| 3),
        word("types", TopicTypes, RING, ring::at::TYPES_COUNT, |_| 17),
        word("quota of nothing", TopicQuota, RING, ring::at::QUOTA, |_| 5 << 36),
        word("group state", GroupState, GROUPS, group(in_entry::STATE), |word| word | 15),
        word("unknown kind", GroupKind, GROUPS, group(in_entry::KIND), |_| 1 << 5),
        word("keyed and not shared", GroupKind, GROUPS, group(in_entry::KIND), |_| 1 << 4),
        word("a name that goes", GroupKind, GROUPS, group(in_entry::KIND), |_| groups::kind::EPHEMERAL),
        word("another name", GroupKey, GROUPS, group(in_entry::NAME), |word| word + 1),
        word("no key", GroupKey, GROUPS, group(in_entry::KEY), |_| 0),
        word("one name twice", GroupTwins, GROUPS, groups::entry(1) + in_entry::KEY, |_| key("g")),
        word("not counted", GroupUncounted, GROUPS, groups::at::USED, |_| 1),
        word("member", GroupHolder, GROUPS, group(in_entry::STATE), |_| held(group_state::ACTIVE, 3)),
        word("cursor beyond the end", GroupAhead, GROUPS, cursor(in_lane::LOW_WATER), |_| END + 1),
        word("cursor overtaken", GroupBehind, GROUPS, cursor(in_lane::LOW_WATER), |_| END - 17),
        word("handed beyond the end", GroupHanded, GROUPS, cursor(in_lane::HANDED), |_| END + 1),
        word("marked beyond the end", GroupHanded, GROUPS, cursor(in_lane::MARKED), |_| END + 1),
        word("owner state", OwnerState, OWNERS, claim(12), |_| owner(7, 1, 1)),
        word("owner of no message", OwnerLap, OWNERS, claim(12), |_| owner(owner_state::DONE, 1, 2)),
        word("not finished", OwnerBelow, OWNERS, claim(7), |word| word & !7 | 2),
        word("claimed", OwnerMember, OWNERS, claim(12), |_| owner(owner_state::CLAIMED, 1, 1)),
        word("no attempt", OwnerAttempts, OWNERS, claim(12), |_| owner(owner_state::DONE, 0, 1)),
        word("walk", OwnerWalk, OWNERS, claim(8), |_| owner(owner_state::DONE, 1, 1)),
        word("parked nowhere", OwnerParked, OWNERS, claim(12), |_| parked(0, 1)),
        act("parked with another", &[OwnerParked], move |bus| {
            make_aside(bus, &[(waiting(1), 3, DESCRIPTION)]);
            store(&bus.join(OWNERS), claim(12) as u64, parked(0, 1));
        }),
        word("seat state", KeySeat, KEYS, keys::seat_word(3, keys::in_seat::HOLDER) * 8, |_| 9),
        word("seat of nobody", KeyHolder, KEYS, keys::seat_word(3, keys::in_seat::HOLDER) * 8, |_| {
            held(keys::seat::TAKEN, 1)
        }),
        word("partition", KeyPartition, KEYS, keys::partition_word(9, keys::in_partition::WORD) * 8, |_| 4),
        act("two at one key", &[OwnerMember, KeyClaims], |bus| {
            let path = bus.join("topics/keyed/owners-0");
            let claimed =
                |member| OwnerWord { member, ..OwnerWord::unpack(owner(owner_state::CLAIMED, 1, 1)) };
            store(&path, claim(1) as u64, claimed(5).pack());
            store(&path, claim(2) as u64, claimed(6).pack());
        }),
        word("keys", FileUnreadable, KEYS, 0, |word| word ^ 1),
        word("keys of another topic", FileUnreadable, KEYS, 24, |word| word ^ 1),
        act("keys missing", &[FileUnreadable], |bus| std::fs::remove_file(bus.join(KEYS)).unwrap()),
        act("aside state", &[AsideState], |bus| make_aside(bus, &[(aside_word(9, 1), 3, DESCRIPTION)])),
        act("aside of a later sequence", &[AsideMessage], move |bus| {
            make_aside(bus, &[(waiting(1), END, DESCRIPTION)]);
        }),
        act("aside of no lane", &[AsideMessage], move |bus| {
            make_aside(bus, &[(waiting(1), 3, DESCRIPTION | 1)]);
        }),
        act("aside of any length", &[AsideMessage], move |bus| {
            make_aside(bus, &[(waiting(1), 3, DESCRIPTION | 0xff00 << 48)]);
        }),
        act("aside twice", &[AsideTwins], move |bus| {
            make_aside(
                bus,
                &[(waiting(1), 3, DESCRIPTION), (aside_word(aside::state::DEAD, 1), 3, DESCRIPTION)],
            );
        }),
        act("aside of no type", &[AsideMessage], move |bus| {
            make_aside(bus, &[(waiting(1), 3, DESCRIPTION & !(0xff << 16))]);
        }),
        act("aside in hand", &[AsideHolder], |bus| {
            make_aside(bus, &[(aside_word(aside::state::CLAIMED, 1), 3, DESCRIPTION)]);
        }),
        act("aside being replayed", &[AsideHolder], |bus| {
            make_aside(bus, &[(aside_word(aside::state::REPLAYING, 1), 3, DESCRIPTION)]);
        }),
        act("aside beyond its memory", &[AsideTable], |bus| {
            make_aside(bus, &[]);
            let path = bus.join(ASIDE);
            store(&path, aside::at::BOUND as u64, 1_000);
            store(&path, aside::at::RESERVED as u64, 100);
        }),
        act("aside of another length of messages", &[AsideTable], |bus| {
            make_aside(bus, &[]);
            store(&bus.join(ASIDE), aside::at::INLINE_BYTES as u64, 64);
        }),
        act("outcome of a later sequence", &[OutcomeRecord], |bus| {
            make_outcomes(bus, (END / 64 + 1) << 12 | 1)
        }),
        act("outcome that is none", &[OutcomeRecord], |bus| make_outcomes(bus, 7)),
        act("outcomes", &[FileUnreadable], |bus| {
            make_outcomes(bus, 0);
            store(&bus.join(OUTCOMES), 0, 7);
        }),
        word("participant state", ParticipantState, "bus", participant_at(3), |_| 9),
        word("participant", ParticipantNumber, "bus", participant_at(3), |_| held(participant::LIVE, 1)),
        word("participants", ParticipantTable, "bus", superblock::at::PARTICIPANTS_RESERVED, |_| 1_000),
        word("told too early", ParticipantTold, "bus", participant_at(3) + superblock::told::JOINED, |_| {
            70_000
        }),
        word("no lease", ParticipantLease, "bus", participant_at(5), |_| held(participant::LIVE, 1)),
        act("lease of nobody", &[LeaseStray], |bus| drop(File::create(bus.join("leases/3.7")).unwrap())),
        word("role", RoleEpoch, "bus", superblock::at::ROLE_EPOCH, |_| 0),
        act("reply topic of nobody", &[ReplyTopic, FileName], |bus| {
            std::fs::create_dir(bus.join("topics/_reply.3.7")).unwrap();
            for file in std::fs::read_dir(bus.join("topics/many")).unwrap().flatten() {
                let _ = std::fs::copy(file.path(), bus.join("topics/_reply.3.7").join(file.file_name()));
            }
        }),
        word("closed alone", WakeState, "topics/many/wake", 64, |word| word | 1 << 32),
        word("wake state", WakeState, "topics/many/wake", 64, |word| word | 5 << 32),
        word("breaker", WakeBreaker, "topics/many/wake", wake::at::BREAKER, |_| 3),
        word("spinning", SpinHolder, "spin", superblock::spin::slot(2), |_| 6),
        word("spinning far out", SpinHolder, "spin", superblock::spin::slot(2), |_| 1 << 40),
        act("listener", &[ListenerHolder], |bus| make_listener(bus, held(listeners::state::LIVE, 3))),
        act("listener state", &[ListenerTable], |bus| make_listener(bus, 7)),
        word("listeners", ListenerTable, "listeners", listeners::at::RESERVED, |_| 1),
        word("bus", FileUnreadable, "bus", 0, |word| word ^ 1),
        word("spin", FileUnreadable, "spin", 0, |word| word ^ 1),
        word("ring", FileUnreadable, RING, 0, |word| word ^ 1),
        word("capacity", FileUnreadable, RING, 32, |word| word + 1),
        word("groups", FileUnreadable, GROUPS, 8, |word| word + 1),
        word("wake", FileUnreadable, "topics/many/wake", 16, |word| word + 1),
        word("owners", FileUnreadable, OWNERS, 0, |word| word ^ 1),
        act("owners missing", &[FileUnreadable], |bus| std::fs::remove_file(bus.join(OWNERS)).unwrap()),
        act("arena", &[MessageProducer, FileUnreadable], |bus| store(&bus.join(ARENA), 0, 7)),
        act("arena missing", &[MessageProducer], |bus| std::fs::remove_file(bus.join(ARENA)).unwrap()),
        act("aside", &[FileUnreadable], |bus| {
            make_aside(bus, &[]);
            store(&bus.join(ASIDE), 0, 7);
        }),
        word("owners of another topic", FileEpoch, OWNERS, 24, |word| word ^ 1),
        word("spin of another bus", FileEpoch, "spin", 24, |word| word ^ 1),
        act("arena of another topic", &[MessageProducer, FileEpoch], |bus| store(&bus.join(ARENA), 24, 7)),
        act("a hole", &[FileSparse], |bus| {
            let file = File::options().write(true).open(bus.join("topics/empty/ring")).unwrap();
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, 16_384, 4_096).unwrap();
        }),
        word("another topic's ring", FileName, RING, 152, |word| word + 1),
    ]
}

/// What is wrong with a bus that somebody uses, and what must be said.
fn live_damages() -> Vec<Damage> {
    use Invariant::*;
    vec![
        act("let go without having agreed", &[GroupEvicted], |bus| {
            let (path, at) = (bus.join(GROUPS), groups::entry(0) as u64);
            let mut word = HolderWord::unpack(load(&path, at));
            (word.state, word.holder) = (group_state::EVICTED, Holder::new(0, 1));
            store(&path, at, word.pack());
        }),
        act("left half-made", &[FileTemporary], |bus| {
            let path = bus.join("topics/.tmp-4194399-1-1");
            std::fs::create_dir(&path).unwrap();
            let long_ago = SystemTime::now() - Duration::from_secs(3_600);
            File::open(path).unwrap().set_modified(long_ago).unwrap();
        }),
    ]
}

/// Calls `each` with every item, from several threads, since checks mostly wait.
fn in_parallel<T: Sync>(items: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(item);
                }
            });
        }
    });
}

#[test]
fn each_broken_rule_is_reported_and_no_other() {
    let template = furnished();
    assert!(template.check().is_empty() && template.copy().check().is_empty());
    let wrong = Mutex::new(Vec::new());
    let damages = damages();
    in_parallel(&damages, |damage| {
        let home = template.copy();
        (damage.act)(&home.path());
        let found = home.check();
        if !found.iter().eq(damage.expected.iter()) {
            wrong.lock().unwrap().push(format!("{}: {:?}, not {found:?}", damage.what, damage.expected));
        }
    });
    let mut told: BTreeSet<Invariant> = damages.iter().flat_map(|damage| damage.expected.clone()).collect();
    for damage in live_damages() {
        let home = Home::new();
        let bus = Bus::builder("b").dir(&home.0).open().unwrap();
        furnish(&bus);
        assert!(home.check().is_empty());
        (damage.act)(&home.path());
        let found = home.check();
        if !found.iter().eq(damage.expected.iter()) {
            wrong.lock().unwrap().push(format!("{}: {:?}, not {found:?}", damage.what, damage.expected));
        }
        told.extend(damage.expected);
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let untold: Vec<_> = Invariant::ALL.iter().filter(|known| !told.contains(known)).collect();
    assert!(untold.is_empty(), "never broken: {untold:?}");
}

#[test]
fn what_a_store_of_messages_holds_may_be_there() {
    let template = furnished();
    let (waiting, dead) = (aside_word(aside::state::WAITING, 1), aside_word(aside::state::ANNOUNCED, 1));
    make_aside(&template.path(), &[(waiting, 3, DESCRIPTION), (0, 0, 0), (dead, 12, DESCRIPTION)]);
    store(&template.path().join(OWNERS), claim(12) as u64, parked(2, 1));
    assert_eq!(template.check(), BTreeSet::new());
    // The entry was used anew since.
    store(&template.path().join(OWNERS), claim(12) as u64, parked(0, 0));
    assert_eq!(template.check(), BTreeSet::new());
}

#[test]
fn a_gate_that_goes_back_is_seen_while_it_does() {
    let home = furnished();
    let path = home.path().join(RING);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store(&path, ring::gate(0) as u64, 6);
                store(&path, ring::gate(0) as u64, 5);
            }
        });
        let begun = Instant::now();
        let mut found = BTreeSet::new();
        while found.is_empty() && begun.elapsed() < Duration::from_secs(20) {
            found = home.check();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(found.into_iter().eq([Invariant::GateBack]));
    });
}

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[test]
fn random_bytes_are_reported_and_crash_and_hang_nothing() {
    let template = furnished();
    make_aside(&template.path(), &[(aside_word(aside::state::WAITING, 1), 3, DESCRIPTION)]);
    let mut files = vec!["bus".to_owned(), "spin".to_owned(), "leases/0.1".to_owned(), ASIDE.to_owned()];
    for topic in ["many", "one"] {
        for file in ["ring", "groups", "wake", "owners-1", "arena-0.1-0"] {
            files.push(format!("topics/{topic}/{file}"));
        }
    }
    let cases: Vec<_> = files.iter().flat_map(|file| (1..=12_u64).map(move |seed| (file, seed))).collect();
    let reported = AtomicUsize::new(0);
    in_parallel(&cases, |&(file, seed)| {
        let home = template.copy();
        let path = home.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap_or_default();
        let mut random = Random(seed * 977 + file.len() as u64);
        match seed {
            // All of it, or all behind the file's beginning, or cut off, or some wrong words.
            1 => bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()])),
            2..=4 if bytes.len() > 32 => {
                let wrong = |c: &mut [u8]| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]);
                bytes[32..].chunks_mut(8).for_each(wrong);
            }
            5 => bytes.truncate(bytes.len() / 2),
            6 => bytes.fill(0xff),
            _ => {
                for _ in 0..1 << (seed % 4 * 2) {
                    let words = (bytes.len() as u64 / 8).max(1);
                    let at = (random.next() % words) as usize * 8;
                    if let Some(word) = bytes.get_mut(at..at + 8) {
                        word.copy_from_slice(&random.next().to_le_bytes());
                    }
                }
            }
        }
        std::fs::write(&path, bytes).unwrap();
        let begun = Instant::now();
        let outcome = fsck::check(&home.dir());
        assert!(begun.elapsed() < Duration::from_secs(10), "{file} seed {seed}: {:?}", begun.elapsed());
        let is_told = outcome.map_or(true, |report| !report.problems.is_empty());
        reported.fetch_add(usize::from(is_told), Ordering::Relaxed);
    });
    // Many words have no rule: payloads, statistics, what has been read.
    let reported = reported.into_inner();
    assert!(reported * 2 > cases.len(), "{reported} of {}", cases.len());
}

#[test]
fn the_document_has_every_rule_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = std::fs::read_to_string(root.join("docs/fsck.md")).unwrap();
    for rule in Invariant::ALL {
        let row = format!("| `{}` | {} |", rule.id(), rule.sentence());
        assert_eq!(document.matches(&row).count(), 1, "docs/fsck.md, {row}");
    }
    assert_eq!(document.matches("\n| `").count(), Invariant::ALL.len());
}
