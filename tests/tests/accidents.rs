//! Bad input and accidents: each ends in an error that says what is wrong, and leaves nothing behind.

use bus_core::layout::{groups, ring, superblock};
use bus_shm::directory::BusDir;
use bus_shm::error::FullOf;
use bus_shm::inspect::BusView;
use bus_shm::supervisor::Supervisor;
use bus_shm::{
    AttachError, Bus, BusError, Bytes, Lane, PublishError, ReceiveError, RegionError, Start, Subscriber,
    Topic, TopicError, Wait,
};
use std::any::Any;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Text, Words, assert_clean, eventually, in_fork};
use tests::memory::{free_bytes, mount_tmpfs, take_memory};

/// The second version of a payload whose first version is the harness's.
mod second {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) struct Words {
        pub(super) words: [u64; 8],
        pub(super) more: u32,
    }
    bus_shm::message!(Words, version 2, { words, more });
}

fn spawn(role: &str, test: &TestBus, argument: impl std::fmt::Display) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "visitor" => visitor(role),
        "tormentor" => tormentor(role),
        "blocked" => blocked(role),
        "supervisor" => supervisor(role),
        "creator" => creator(role),
        "forker" => forker(role),
        "parent" => forked_parent(role),
        "small" => small_memory(role),
        "sealed" => sealed_memory(role),
        other => panic!("no role {other:?}"),
    }
}

/// Every name below a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

// ---- What a caller asks for ----

#[test]
fn a_wrong_type_or_version_is_refused_with_both_named() {
    let test = TestBus::new("types");
    let bus = test.open("types");
    bus.topic::<Words>("a").unwrap();
    let error = bus.topic::<Text>("a").unwrap_err();
    let TopicError::TypeMismatch { topic, ours, theirs } = &error else { panic!("{error}") };
    assert!(topic == "a" && ours.contains("Text v1") && theirs.contains("Words v1"), "{error}");
    let error = bus.topic::<second::Words>("a").unwrap_err();
    let TopicError::TypeMismatch { ours, theirs, .. } = &error else { panic!("{error}") };
    assert!(ours.contains("Words v2") && theirs.contains("Words v1"), "{error}");
    // Bytes are for tools and read everything; a topic of bytes is for nobody's type.
    bus.topic::<Bytes>("a").unwrap();
    bus.topic::<Bytes>("b").unwrap();
    let error = bus.topic::<Words>("b").unwrap_err();
    assert!(error.to_string().contains("plain bytes"), "{error}");
}

#[test]
fn a_message_over_the_maximum_claims_nothing() {
    for producers in [1, 8] {
        let test = TestBus::new("large");
        let bus = test.open("large");
        let topic = bus.topic_builder::<Bytes>("a").producers(producers).max_message(1_000).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let lane = publisher.default_lane();
        for round in 0..3 {
            assert_eq!(publisher.publish(&[7; 1_000]).unwrap(), round);
            for error in
                [publisher.publish(&[7; 1_001]).unwrap_err(), publisher.loan(lane, 1_001).unwrap_err()]
            {
                assert!(matches!(error, PublishError::TooLarge { len: 1_001, max: 1_000, .. }), "{error}");
                assert!(error.to_string().contains("\"a\"") && error.to_string().contains("--max-message"));
            }
        }
        let topic = bus.topic_builder::<Text>("b").producers(producers).max_message(1_000).open().unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for round in 0..3 {
            let error = publisher.publish(&Text { id: 1, text: "x".repeat(5_000) }).unwrap_err();
            assert!(matches!(error, PublishError::TooLarge { len: 5_016, max: 1_000, .. }), "{error}");
            assert_eq!(publisher.publish(&Text { id: 1, text: "x".repeat(500) }).unwrap(), round);
            subscriber.receive().unwrap().ack().unwrap();
        }
    }
}

#[test]
fn a_lane_out_of_range_is_refused_everywhere() {
    let test = TestBus::new("lane");
    let bus = test.open("lane");
    for (producers, lanes) in [(1, 1), (8, 2), (8, 4)] {
        let name = format!("t{lanes}");
        let topic = bus.topic_builder::<Bytes>(&name).producers(producers).lanes(lanes).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        for lane in [Lane(lanes as u8), Lane(255)] {
            for error in
                [publisher.publish_bytes(lane, b"x").unwrap_err(), publisher.loan(lane, 1).unwrap_err()]
            {
                let PublishError::Lane { lane: found, lanes: most, .. } = error else { panic!("{error}") };
                assert_eq!((found, most), (lane.0, lanes));
            }
            let error = topic.subscriber().from(Start::Sequence(lane, 0)).join().unwrap_err();
            assert!(matches!(error, AttachError::Lane { .. }), "{error}");
        }
        assert_eq!(publisher.publish(b"x").unwrap(), 0, "nothing was claimed");
    }
    for lanes in [0, 5] {
        let error = bus.topic_builder::<Bytes>("many").lanes(lanes).open().unwrap_err();
        assert!(error.to_string().contains("1 to 4"), "{error}");
    }
}

#[test]
fn full_says_what_is_full_and_who_holds_it() {
    for producers in [1, 8] {
        let test = TestBus::new("full");
        let bus = test.open("full");
        let topic = bus
            .topic_builder::<Bytes>("a")
            .producers(producers)
            .max_message(16 << 10)
            .arena_bytes(128 << 10)
            .open()
            .unwrap();
        let mut quick = topic.group("quick").join().unwrap();
        let mut slow = topic.group("slow").join().unwrap();
        let mut publisher = topic.publisher().unwrap();
        publisher.set_deadline(Duration::from_millis(20));
        publisher.set_breaker(false);
        let mut published = 0;
        let error = loop {
            match publisher.publish(&[1; 10_000]) {
                Ok(_) => published += 1,
                Err(error) => break error,
            }
            quick.receive().unwrap().ack().unwrap();
        };
        let PublishError::Full(full) = &error else { panic!("{error}") };
        assert_eq!(
            (full.what, full.group.as_deref(), full.lag_count),
            (FullOf::Arena, Some("slow"), published)
        );
        assert!(published >= 6 && full.waited >= Duration::from_millis(20), "{error}");
        assert!(error.to_string().contains("the arena (131072 bytes)"), "{error}");
        // The other lanes have memory of their own.
        publisher.publish_bytes(Lane::CRITICAL, &[2; 10_000]).unwrap();
        assert_eq!(slow.receive().unwrap().lane(), Lane::CRITICAL);
        for _ in 0..published {
            slow.receive().unwrap().ack().unwrap();
            if slow.lag_count(Lane::NORMAL) == 0 {
                break;
            }
        }
        publisher.publish(&[1; 10_000]).unwrap();
    }
}

#[test]
fn hostile_names_are_refused_and_make_no_file() {
    let test = TestBus::new("names");
    let bus = test.open("names");
    let topic = bus.topic::<Bytes>("good").unwrap();
    let before = names(test.path().parent().unwrap()).len();
    let long = "x".repeat(4_000);
    let hostile = [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "../../x",
        "a/b",
        "/etc/x",
        "a\0b",
        "a b",
        "a\n",
        "caf\u{e9}",
        "*",
        "~1",
        "$HOME",
        "a;b",
        &long,
    ];
    for name in hostile {
        let error = bus.topic::<Bytes>(name).unwrap_err();
        assert!(matches!(&error, TopicError::Name { name: found, .. } if found == name), "{name:?}: {error}");
        let error = topic.group(name).join().unwrap_err();
        assert!(matches!(error, AttachError::GroupName { .. }), "{name:?}: {error}");
        let error = Bus::builder(name).temporary(true).open().unwrap_err();
        assert!(matches!(error, BusError::Name { .. }), "{name:?}: {error}");
        let error = test.builder().service(name).open().unwrap_err();
        assert!(matches!(error, BusError::Service { .. }), "{name:?}: {error}");
        assert!(BusView::open(name, None).is_err());
        assert!(BusView::open(&test.name, None).unwrap().topic(name).is_err());
    }
    for (name, what) in [("_mine", "bus itself"), (&long[..201], "at most 200")] {
        let error = bus.topic::<Bytes>(name).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    assert!(bus.topic_builder::<Bytes>("ok").with_group("a/b").open().is_err());
    // Others work in the same directory, so only what these names would have made is looked for.
    let after = names(&test.path()).len();
    assert!(after < before + 20 && !test.path().join("topics/ok").exists());
    assert_eq!(BusView::open(&test.name, None).unwrap().topic_names(), ["good"]);
    // The longest that are allowed.
    let name = format!("{}-{}", "n".repeat(35 - 10), std::process::id());
    drop(Bus::builder(&name).temporary(true).open().unwrap());
    let long = &long[..200];
    bus.topic::<Bytes>(long).unwrap().group(&long[..64]).join().unwrap();
}

#[test]
fn options_that_differ_name_both_values_and_the_creator() {
    let test = TestBus::new("options");
    let bus = test.open("maker");
    bus.topic_builder::<Bytes>("a").capacity(64).lanes(2).producers(3).open().unwrap();
    let ask = || bus.topic_builder::<Bytes>("a");
    ask().open().unwrap();
    ask().capacity(64).lanes(2).producers(3).open().unwrap();
    let pid = std::process::id();
    for (builder, option, ours, theirs) in [
        (ask().capacity(128), "capacity", 128, 64),
        (ask().lanes(3), "lanes", 3, 2),
        (ask().producers(1), "producers", 1, 3),
        (ask().max_message(10), "max-message", 10, 1 << 20),
        (ask().stamps(false), "stamps", 0, 1),
    ] {
        let error = builder.open().unwrap_err();
        let TopicError::Differs { option: found, ours: asked, theirs: is, creator, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*found, *asked, *is), (option, ours, theirs));
        assert_eq!(*creator, format!("maker (pid {pid})"));
    }
    for builder in [
        bus.topic_builder::<Bytes>("b").capacity(4),
        bus.topic_builder("b").capacity(u32::MAX),
        bus.topic_builder("b").producers(0),
        bus.topic_builder("b").producers(5_000),
        bus.topic_builder("b").max_message(0),
        bus.topic_builder("b").max_message(2 << 30),
        bus.topic_builder("b").inline_bytes(100_000),
    ] {
        let error = builder.open().unwrap_err();
        assert!(matches!(error, TopicError::Option { .. }), "{error}");
    }
    let error = bus.topic_builder::<Bytes>("b").create(false).open().unwrap_err();
    assert!(matches!(error, TopicError::NotFound { .. }), "{error}");
}

// ---- Where a bus may be ----

#[test]
fn a_directory_that_is_no_tmpfs_or_not_there_is_refused() {
    let error = Bus::builder("x").dir("/proc").open().unwrap_err();
    assert!(matches!(&error, BusError::NotTmpfs { dir } if dir == Path::new("/proc")), "{error}");
    let missing = format!("/dev/shm/no-such-directory-{}", std::process::id());
    let error = Bus::builder("x").dir(&missing).open().unwrap_err();
    assert!(error.to_string().contains(&missing), "{error}");
    let error = Bus::builder("no-such-bus").create(false).open().unwrap_err();
    assert!(matches!(error, BusError::NotFound { .. }), "{error}");
}

#[test]
fn a_control_socket_whose_path_is_too_long_is_refused() {
    let dir = format!("/dev/shm/{}", "d".repeat(90));
    let error = Bus::builder("bus").dir(&dir).open().unwrap_err();
    let BusError::SocketPath { len_bytes, max_bytes: 107, path } = &error else { panic!("{error}") };
    assert_eq!(*len_bytes, path.as_os_str().len());
    assert!(!Path::new(&dir).exists() && error.to_string().contains("shorter"), "{error}");
}

/// A directory of its own under `/dev/shm`, removed at the end.
struct OwnDir(PathBuf);

impl OwnDir {
    fn new(what: &str) -> Self {
        let path = PathBuf::from(format!("/dev/shm/test-{what}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn another_users_directory_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = OwnDir::new("foreign");
    let base = bus_shm::directory::base_dir(Some(&dir.0));
    let uid = rustix::process::geteuid().as_raw();
    let open = || Bus::builder("b").dir(&dir.0).temporary(true).open();
    drop(open().unwrap());
    assert_eq!(std::fs::metadata(&base).unwrap().mode() & 0o7777, 0o700);
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, BusError::Foreign { mode: 0o770, .. }), "{error}");
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o700)).unwrap();
    if uid == 0 {
        std::os::unix::fs::chown(&base, Some(12_345), None).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(error, BusError::Foreign { owner: 12_345, uid: 0, .. }), "{error}");
        assert!(BusView::open("b", Some(&dir.0)).is_err());
    } else {
        println!("skipped: only root can give a directory away");
    }
    std::fs::remove_dir(&base).unwrap();
    // A link that somebody has put there leads anywhere.
    std::os::unix::fs::symlink("/dev/shm", &base).unwrap();
    assert!(matches!(open().unwrap_err(), BusError::Foreign { .. }));
    assert_eq!(names(&dir.0).len(), 1);
}

#[test]
fn without_a_supervisor_and_with_hosting_off_nothing_is_made() {
    let test = TestBus::new("no-host");
    let error = test.builder().host(false).open().unwrap_err();
    assert!(matches!(&error, BusError::NoSupervisor { bus } if *bus == test.name), "{error}");
    test.assert_gone();
    let host = test.open("host");
    let guest = test.builder().host(false).open().unwrap();
    drop(host);
    let error = guest.topic::<Bytes>("a").unwrap_err();
    assert!(matches!(error, TopicError::Bus(BusError::NoSupervisor { .. })), "{error}");
    drop(guest);
    test.assert_gone();
}

// ---- Damaged files ----

/// Visits buses, one a line, and tells what happened at each step, until it is told to go.
fn visitor(mut role: Role) {
    while let Some(name) = role.parent.try_hear() {
        for (step, outcome) in visit(&name) {
            role.parent.tell(format!("{step}: {}", outcome.replace('\n', " ")));
        }
        role.parent.tell("end");
    }
}

fn visit(name: &str) -> Vec<(&'static str, String)> {
    let mut steps = Vec::new();
    let mut note = |step, outcome: Result<(), String>| {
        steps.push((step, outcome.err().unwrap_or_else(|| "ok".into())));
    };
    let view = || -> Result<(), String> {
        let view = BusView::open(name, None).map_err(|error| error.to_string())?;
        view.participants();
        let mut topic = view.topic("t").map_err(|error| error.to_string())?;
        topic.settings().map_err(|error| error.to_string())?;
        topic.sample();
        Ok(())
    };
    note("view", view());
    let bus = match Bus::builder(name).service("visitor").open() {
        Ok(bus) => bus,
        Err(error) => {
            note("bus", Err(error.to_string()));
            return steps;
        }
    };
    note("bus", Ok(()));
    let topic = match bus.topic_builder::<Bytes>("t").create(false).open() {
        Ok(topic) => topic,
        Err(error) => {
            note("topic", Err(error.to_string()));
            return steps;
        }
    };
    note("topic", Ok(()));
    note("named", topic.group("g").join().map_err(|error| error.to_string()).and_then(read_some));
    note("shared", topic.group("s").shared().join().map_err(|error| error.to_string()).and_then(read_some));
    note("keyed", topic.group("k").keyed().join().map_err(|error| error.to_string()).and_then(read_some));
    note(
        "tap",
        topic.subscriber().tap().from(Start::Oldest).join().map_err(|e| e.to_string()).and_then(read_some),
    );
    note("many", read_many(&bus));
    note("publish", publish_some(&topic));
    note("own", topic.subscribe().map_err(|error| error.to_string()).and_then(read_some));
    note("view", view());
    steps
}

/// What a subscriber does with a topic of which it does not know what is wrong with it.
fn read_some(mut subscriber: Subscriber<Bytes>) -> Result<(), String> {
    subscriber.set_wait(Wait::Park);
    for round in 0..20 {
        let timeout = Duration::from_millis(if round == 0 { 4 } else { 0 });
        match subscriber.receive_timeout(timeout) {
            Ok(Some(message)) => {
                let sum = message.payload().iter().fold(0_u64, |sum, &byte| sum + u64::from(byte));
                assert!(sum <= 255 * message.payload().len() as u64);
                message.ack().unwrap();
            }
            Ok(None) => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    subscriber.lag_count(Lane::NORMAL);
    let mut batch = subscriber.receive_batch(1, 8, Duration::ZERO).map_err(|error| error.to_string())?;
    while batch.next_message().map_err(|error| error.to_string())?.is_some() {}
    batch.ack();
    Ok(())
}

/// The same with all topics at once.
fn read_many(bus: &Bus) -> Result<(), String> {
    let mut many = bus.subscribe_pattern::<Bytes>("*").tap().join().map_err(|error| error.to_string())?;
    for _ in 0..3 {
        let received = many.receive_timeout(Duration::from_millis(2)).map_err(|error| error.to_string())?;
        if let Some(incoming) = received {
            incoming.into_message().ack().unwrap();
        }
    }
    Ok(())
}

fn publish_some(topic: &Topic<Bytes>) -> Result<(), String> {
    let mut publisher = topic.publisher().map_err(|error| error.to_string())?;
    publisher.set_deadline(Duration::from_millis(2));
    for len in [10, 5_000, 50] {
        publisher.publish(&vec![3; len]).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A bus of which nobody is left, with messages of all kinds.
fn furnished(test: &TestBus, producers: u32) {
    let bus = Bus::builder(&test.name).open().unwrap();
    let builder = bus.topic_builder::<Bytes>("t").producers(producers).capacity(64);
    let topic = builder.with_group("g").with_shared_group("s").with_keyed_group("k").open().unwrap();
    drop(topic.group("k").keyed().join().unwrap());
    let mut publisher = topic.publisher().unwrap();
    for n in 0..12_u8 {
        publisher.publish(&vec![n; if n % 3 == 0 { 5_000 } else { 50 }]).unwrap();
    }
}

/// Copies a bus of which nobody is left.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The regions of such a bus, and the step of a visit that has to notice what is wrong with them.
fn regions(bus: &Path) -> Vec<(PathBuf, &'static str)> {
    let files: Vec<_> = names(bus).into_iter().filter(|path| path.is_file()).collect();
    let step = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.split('-').next().unwrap() {
            "bus" | "spin" => "bus",
            "listeners" => "many",
            "ring" | "groups" | "wake" => "topic",
            "owners" if name == "owners-2" => "keyed",
            "owners" => "shared",
            "keys" => "keyed",
            "arena" => "named",
            other => panic!("what is {other}?"),
        }
    };
    let found: Vec<_> =
        files.iter().map(|path| (path.strip_prefix(bus).unwrap().to_owned(), step(path))).collect();
    assert_eq!(found.len(), 10, "{found:?}");
    found
}

/// Sends the visitor to a bus; what it says of each step.
fn send(agent: &mut Agent, name: &str, what: &str) -> Vec<String> {
    agent.line.tell(name);
    let mut said = Vec::new();
    loop {
        match agent.line.try_hear() {
            Some(line) if line == "end" => return said,
            Some(line) => said.push(line),
            None => panic!("{what}: the visitor died after {said:?}: {}", agent.wait()),
        }
    }
}

#[test]
fn a_region_with_a_damaged_beginning_is_refused_with_the_reason() {
    for producers in [1, 8] {
        let template = TestBus::new("template");
        furnished(&template, producers);
        let mut agent = spawn("visitor", &template, "");
        for (file, step) in regions(&template.path()) {
            for (damage, reason) in [
                ("half", "bytes where"),
                ("empty", "bytes where"),
                ("zeroed", "does not begin like a region"),
                ("magic", "does not begin like a region"),
                ("byte order", "another byte order"),
                ("version", "layout version 2, this build speaks version 1"),
                ("larger", "bytes where"),
                ("missing", "No such file"),
                ("random", "does not begin like a region"),
                ("table", "has the impossible value"),
            ] {
                // Only these grow a table beside the words that say how long it is.
                let table = match file.to_str() {
                    Some("bus") => superblock::at::PARTICIPANTS_RESERVED,
                    Some("topics/t/groups") => groups::at::RESERVED,
                    _ if damage == "table" => continue,
                    _ => 0,
                };
                let test = TestBus::new("damaged");
                copy(&template.path(), &test.path());
                let path = test.path().join(&file);
                let mut bytes = std::fs::read(&path).unwrap();
                match damage {
                    "half" => bytes.truncate(bytes.len() / 2),
                    "empty" => bytes.clear(),
                    "zeroed" => bytes.fill(0),
                    "magic" => bytes[3] ^= 1,
                    "byte order" => bytes[12..16].reverse(),
                    "version" => bytes[8] = 2,
                    "larger" => bytes[20] = 1,
                    "table" => bytes[table] = 200,
                    "random" => Random(7).fill(&mut bytes),
                    _ => {}
                }
                std::fs::write(&path, bytes).unwrap();
                if damage == "missing" {
                    std::fs::remove_file(&path).unwrap();
                }
                let what = format!("{} {damage}", file.display());
                let said = send(&mut agent, &test.name, &what);
                let found = said.iter().find(|line| line.starts_with(&format!("{step}:"))).unwrap();
                if file == Path::new("bus") && damage == "missing" {
                    // Then there is no such bus, and the name is taken by what is left of it.
                    assert!(!found.ends_with(": ok"), "{what}: {found}");
                    continue;
                }
                assert!(found.contains(reason) && found.contains(path.to_str().unwrap()), "{what}: {found}");
            }
        }
        agent.line.tell("");
        drop(agent);
    }
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

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// A word that somebody might have stored by mistake in place of `word`.
    fn instead_of(&mut self, word: u64) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => word ^ 1 << self.below(64),
            2 => self.below(8),
            3 => u64::MAX - self.below(8),
            4 => word.wrapping_add(self.below(5)).wrapping_sub(2),
            _ => word.wrapping_add(1 << self.below(64)),
        }
    }
}

#[test]
fn a_region_of_random_bytes_behind_a_good_beginning_crashes_and_hangs_nobody() {
    for producers in [1, 8] {
        let template = TestBus::new("template");
        furnished(&template, producers);
        let mut agent = spawn("visitor", &template, "");
        let mut refused = 0;
        for (file, _) in regions(&template.path()) {
            for seed in 1..=12 {
                let test = TestBus::new("random");
                copy(&template.path(), &test.path());
                let path = test.path().join(&file);
                let mut bytes = std::fs::read(&path).unwrap();
                let mut random = Random(seed * 1_000 + u64::from(producers));
                if seed <= 4 {
                    random.fill(&mut bytes[32..]);
                } else {
                    // A few wrong words get further than a whole wrong file.
                    for _ in 0..1 << (seed % 4 * 2) {
                        let at = 32 + random.below((bytes.len() as u64 - 32) / 8) as usize * 8;
                        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                        bytes[at..at + 8].copy_from_slice(&random.instead_of(word).to_le_bytes());
                    }
                }
                std::fs::write(&path, bytes).unwrap();
                let said = send(&mut agent, &test.name, &format!("{} seed {seed}", file.display()));
                refused += u32::from(said.iter().any(|line| !line.ends_with(": ok")));
            }
        }
        // Of a topic's state word, every generation is good: half of all wrong values.
        assert!(refused > 15, "only {refused} were noticed");
        drop(agent);
    }
}

/// Overwrites a word of a file.
fn overwrite(path: &Path, offset_bytes: u64, change: impl FnOnce(u64) -> u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut word = [0; 8];
    file.read_exact_at(&mut word, offset_bytes).unwrap();
    file.write_all_at(&change(u64::from_le_bytes(word)).to_le_bytes(), offset_bytes).unwrap();
}

#[test]
fn a_message_that_contradicts_itself_is_reported_with_its_place() {
    // What is overwritten: a word of the first slot of the normal lane, or of the first cell of the publisher's arena.
    type Change = fn(u64) -> u64;
    let wrong: [(u32, &str, u64, Change, &str); 7] = [
        (1, "ring", 1, |word| word | 0x00ff_ffff, "a length that leaves its slot"),
        (1, "ring", 1, |word| word | 1 << 56, "a cell that does not hold"),
        (8, "ring", 0, |word| word ^ 0x3ff << 20, "names no producer"),
        (8, "ring", 0, |word| word ^ 0x8_0000, "a cell that does not hold"),
        (8, "ring", 0, |word| word + (5 << 30), "overtaken"),
        (8, "arena-0.1-2", 0, |word| word + 1, "a cell that does not hold"),
        (8, "arena-0.1-2", 1, |word| word | 0xffff_ffff, "a cell that does not hold"),
    ];
    for (producers, file, word, change, why) in wrong {
        let test = TestBus::new("contradiction");
        let bus = test.open("reader");
        let topic = bus.topic_builder::<Bytes>("t").producers(producers).capacity(64).open().unwrap();
        let mut readers = [
            topic.group("g").join().unwrap(),
            topic.group("s").shared().join().unwrap(),
            topic.subscriber().yield_after(Duration::from_secs(9)).join().unwrap(),
            topic.tap().unwrap(),
        ];
        let mut publisher = topic.publisher().unwrap();
        // In one-producer lanes the second message is in an arena, so that there is one.
        for len in [50, 5_000] {
            publisher.publish(&vec![1; len]).unwrap();
        }
        let config = ring::Config {
            capacity: 64,
            lanes: 3,
            producers,
            inline_bytes: bus_core::limits::INLINE_BYTES_DEFAULT,
            message_bytes: 0,
            arena_first_bytes: 0,
            arena_bound_bytes: 0,
            arena_history_bytes: 0,
            flags: 0,
            overflow: 0,
        };
        let first = if file == "ring" { config.slots(2) } else { 4_096 };
        overwrite(&test.path().join("topics/t").join(file), first + 8 * word, change);
        for (index, reader) in readers.iter_mut().enumerate() {
            let received = reader.try_receive().map(|message| message.map(|message| message.sequence()));
            let Err(error) = received else {
                // Those who hold nothing may take what contradicts itself for overwritten, and count it.
                assert!(index >= 2 && !matches!(received, Ok(Some(0))), "{why}: reader {index}");
                assert!(reader.missed_count() > 0, "{why}: reader {index}");
                continue;
            };
            let text = error.to_string();
            assert!(text.contains("topic \"t\", lane 2") && text.contains("at sequence 0"), "{text}");
            assert!(text.contains(why), "{why}: {text}");
            assert!(reader.try_receive().is_err(), "{why}: it does not go away by itself");
        }
    }
}

/// Keeps a topic in use while its words change under it.
fn tormentor(mut role: Role) {
    let bus = role.open();
    let topics = BusDir::new(&role.bus, None).unwrap().path().join("topics");
    let mut errors = 0_u64;
    for seed in 0..role.number() {
        role.parent.tell(format!("seed {seed}"));
        let name = format!("t{seed}");
        let producers = if seed % 2 == 0 { 1 } else { 8 };
        let builder = bus.topic_builder::<Bytes>(&name).producers(producers).capacity(64);
        let topic = builder.with_group("g").with_shared_group("s").open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        publisher.set_deadline(Duration::from_millis(1));
        let mut readers = [
            topic.group("g").join().unwrap(),
            topic.group("s").shared().join().unwrap(),
            topic.group("s").shared().join().unwrap(),
            topic.tap().unwrap(),
            topic.subscriber().yield_after(Duration::ZERO).join().unwrap(),
        ];
        let mut random = Random(seed + 1);
        let mut step = |random: &mut Random| {
            let payload = vec![1; random.below(300) as usize];
            let mut failed = u64::from(publisher.publish(&payload).is_err());
            for reader in &mut readers {
                match reader.try_receive() {
                    Ok(Some(message)) if random.below(8) > 0 => drop(message.ack()),
                    Ok(_) => {}
                    Err(_) => failed += 1,
                }
            }
            failed
        };
        for _ in 0..100 {
            assert_eq!(step(&mut random), 0, "before anything is wrong");
        }
        let files: Vec<_> = names(&topics.join(&name));
        let file = &files[random.below(files.len() as u64) as usize];
        let handle = std::fs::File::options().read(true).write(true).open(file).unwrap();
        let words = handle.metadata().unwrap().len() / 8;
        // Some wrong words one after the other, or a whole page of them.
        for _ in 0..20 {
            let run = if random.below(10) == 0 { 512 } else { 1 };
            let at = 4 + random.below(words - 4);
            for at in at..(at + run).min(words) {
                let mut word = [0; 8];
                handle.read_exact_at(&mut word, at * 8).unwrap();
                let wrong = random.instead_of(u64::from_le_bytes(word));
                handle.write_all_at(&wrong.to_le_bytes(), at * 8).unwrap();
            }
            for _ in 0..4 {
                errors += step(&mut random);
            }
        }
        errors += u64::from(publish_some(&topic).is_err());
        for join in [topic.group("g"), topic.group("s").shared(), topic.subscriber().from(Start::Oldest)] {
            let outcome = join.join().map_err(|error| error.to_string()).and_then(read_some);
            errors += u64::from(outcome.is_err());
        }
    }
    role.parent.tell(format!("errors {errors}"));
}

#[test]
fn words_that_go_wrong_in_a_topic_in_use_crash_and_hang_nobody() {
    let test = TestBus::new("torment");
    let mut agent = spawn("tormentor", &test, 150);
    let mut last = String::new();
    loop {
        match agent.line.try_hear() {
            Some(line) if line.starts_with("errors ") => {
                assert!(line[7..].parse::<u64>().unwrap() > 100, "{line}");
                break;
            }
            Some(line) => last = line,
            None => panic!("{last}: died: {}", agent.wait()),
        }
    }
    agent.join();
}

// ---- Files that vanish ----

#[test]
fn those_attached_go_on_when_the_directory_is_deleted() {
    for producers in [1, 8] {
        let test = TestBus::new("rm-rf");
        let bus = test.open("attached");
        let topic = bus.topic_builder::<Words>("a").producers(producers).capacity(8).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        publisher.publish(&Words::numbered(0)).unwrap();
        // What a reader has not mapped yet it cannot map any more.
        drop(subscriber.receive().unwrap());
        std::fs::remove_dir_all(test.path()).unwrap();
        for sequence in 0..100 {
            let message = subscriber.receive().unwrap();
            assert!(message.value().unwrap().is_numbered(sequence));
            message.ack().unwrap();
            publisher.publish(&Words::numbered(sequence + 1)).unwrap();
        }
        subscriber.receive().unwrap().ack().unwrap();
        // Once: by whoever has nothing to do.
        let error = subscriber.receive_timeout(Duration::from_millis(1)).unwrap_err();
        let ReceiveError::BusUnlinked { path, .. } = &error else { panic!("{error}") };
        assert!(*path == test.path() && error.to_string().contains("RemoveIPC"), "{error}");
        assert!(subscriber.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
        publisher.publish(&Words::numbered(1)).unwrap();
        subscriber.receive().unwrap().ack().unwrap();
        // Who comes now gets a bus of its own under the same name.
        let other = test.open("other");
        assert!(BusView::open(&test.name, None).unwrap().topic_names().is_empty());
        drop((subscriber, publisher, topic, bus, other));
        test.assert_gone();
    }
}

#[test]
fn a_publisher_that_waits_for_room_reports_a_deleted_directory_once() {
    let test = TestBus::new("rm-full");
    let bus = test.open("attached");
    let topic = bus.topic_builder::<Words>("a").capacity(8).open().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    publisher.set_deadline(Duration::from_millis(1));
    publisher.set_breaker(false);
    for sequence in 0..8 {
        publisher.publish(&Words::numbered(sequence)).unwrap();
    }
    drop(subscriber.receive().unwrap());
    std::fs::remove_dir_all(test.path()).unwrap();
    let error = publisher.publish(&Words::numbered(8)).unwrap_err();
    assert!(matches!(&error, PublishError::BusUnlinked { path, .. } if *path == test.path()), "{error}");
    let error = publisher.publish(&Words::numbered(8)).unwrap_err();
    assert!(matches!(&error, PublishError::Full(_)), "{error}");
    subscriber.receive().unwrap().ack().unwrap();
    publisher.publish(&Words::numbered(8)).unwrap();
}

#[test]
fn those_attached_go_on_when_a_topics_file_is_deleted() {
    for file in ["ring", "groups", "wake"] {
        let test = TestBus::new("rm-file");
        let bus = test.open("attached");
        let topic = bus.topic::<Words>("a").unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        let path = test.path().join("topics/a").join(file);
        std::fs::remove_file(&path).unwrap();
        for sequence in 0..10 {
            publisher.publish(&Words::numbered(sequence)).unwrap();
            subscriber.receive().unwrap().ack().unwrap();
        }
        let error = subscriber.receive_timeout(Duration::from_millis(1)).unwrap_err();
        let ReceiveError::BusUnlinked { path: found, .. } = &error else { panic!("{error}") };
        assert_eq!(found, path.parent().unwrap());
        assert!(subscriber.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
        // Nobody new can join, and is told why.
        let error = bus.topic::<Words>("a").unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let error = topic.publisher().unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        // Other topics are as they were.
        bus.topic::<Words>("b").unwrap().publisher().unwrap().publish(&Words::numbered(0)).unwrap();
    }
}

// ---- Ends ----

/// Waits for a message, or for room, in a bus that is taken down meanwhile.
fn blocked(mut role: Role) {
    let bus = role.open();
    let closed = match role.argument.as_str() {
        "publisher" => {
            let mut publisher = bus.topic::<Words>("full").unwrap().publisher().unwrap();
            publisher.set_deadline(Duration::from_secs(20));
            role.parent.tell("ready");
            loop {
                if let Err(error) = publisher.publish(&Words::numbered(0)) {
                    break matches!(error, PublishError::BusClosed { .. });
                }
            }
        }
        wait => {
            let wait = if wait == "park" { Wait::Park } else { Wait::Adaptive };
            let topic = bus.topic::<Words>("empty").unwrap();
            let mut subscriber = topic.subscriber().wait(wait).join().unwrap();
            role.parent.tell("ready");
            let error = if role.argument == "batch" {
                subscriber.receive_batch(5, 5, Duration::from_secs(20)).map(|_| ()).unwrap_err()
            } else {
                subscriber.receive().map(|_| ()).unwrap_err()
            };
            matches!(error, ReceiveError::BusClosed { .. })
        }
    };
    role.parent.tell(closed);
    let error = bus.topic::<Words>("b").unwrap_err();
    role.parent.tell(matches!(error, TopicError::Bus(BusError::Closed { .. })));
}

#[test]
fn taking_the_bus_down_wakes_whoever_is_blocked() {
    let test = TestBus::new("down");
    let bus = Bus::builder(&test.name).open().unwrap();
    let topic = bus.topic_builder::<Words>("full").capacity(8).open().unwrap();
    let mut idle = topic.group("idle").join().unwrap();
    let mut agents = ["park", "adaptive", "batch", "publisher"].map(|what| spawn("blocked", &test, what));
    agents.iter_mut().for_each(|agent| agent.line.expect("ready"));
    eventually("the lane is full", || idle.lag_count(Lane::NORMAL) == 8);
    agents.iter().for_each(Agent::wait_until_parked);
    let error = bus.down(false).unwrap_err();
    let BusError::Refused { reason, .. } = &error else { panic!("{error}") };
    for agent in &agents {
        assert!(reason.contains(&format!("blocked (pid {})", agent.pid())), "{reason}");
    }
    assert!(reason.contains("full, group idle: 8 message(s)") && reason.contains("--force"), "{reason}");
    let begun = Instant::now();
    bus.down(true).unwrap();
    for agent in &mut agents {
        agent.line.expect("true");
    }
    // Nobody sleeps out its second.
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    agents.iter_mut().for_each(|agent| agent.line.expect("true"));
    agents.into_iter().for_each(Agent::join);
    assert!(matches!(idle.try_receive().unwrap_err(), ReceiveError::BusClosed { .. }));
    assert!(matches!(topic.publisher().unwrap_err(), AttachError::Topic(_)));
    assert!(matches!(bus.down(true).unwrap_err(), BusError::Closed { .. }));
    test.assert_gone();
    // The name is free again, also while handles of the old bus are there.
    let anew = Bus::builder(&test.name).temporary(true).open().unwrap();
    anew.topic::<Text>("full").unwrap();
    drop((idle, topic, bus));
    assert!(test.path().exists());
    drop(anew);
    test.assert_gone();
}

#[test]
fn handles_may_be_dropped_in_any_order() {
    let mut order = [0, 1, 2, 3, 4];
    // All permutations (Heap's algorithm).
    let mut counts = [0; 5];
    let mut index = 0;
    loop {
        drop_in_order(&order);
        while index < 5 && counts[index] >= index {
            counts[index] = 0;
            index += 1;
        }
        if index == 5 {
            return;
        }
        order.swap(if index % 2 == 0 { 0 } else { counts[index] }, index);
        counts[index] += 1;
        index = 0;
    }
}

fn drop_in_order(order: &[usize; 5]) {
    let test = TestBus::new("order");
    let bus = test.open("order");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    let shared = topic.group("s").shared().join().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    assert!(subscriber.receive().unwrap().value().unwrap().is_numbered(0));
    let handles: [Box<dyn Any>; 5] =
        [Box::new(bus), Box::new(topic), Box::new(publisher), Box::new(subscriber), Box::new(shared)];
    let mut handles = handles.map(Some);
    for &index in order {
        assert!(test.path().exists(), "{order:?}");
        assert_clean(&test);
        handles[index] = None;
    }
    test.assert_gone();
}

// ---- Supervisors that die at work ----

fn supervisor(mut role: Role) {
    let supervisor = Supervisor::take(&BusDir::new(&role.bus, None).unwrap(), false).unwrap();
    role.parent.tell("serving");
    supervisor.serve().unwrap();
}

/// Asks for a topic that takes a while to make.
fn creator(mut role: Role) {
    let bus = role.open();
    role.parent.tell("ready");
    while role.parent.hear() == "create" {
        let name = role.parent.hear();
        let made = bus.topic_builder::<Bytes>(&name).capacity(1 << 20).lanes(4).open();
        role.parent.tell(made.map_or_else(|error| error.to_string(), |_| "made".into()));
    }
}

#[test]
fn what_a_supervisor_killed_while_making_a_topic_leaves_is_removed() {
    let test = TestBus::new("half-made");
    let topics = test.path().join("topics");
    let is_half_made = || {
        let names = names(&topics);
        names.iter().any(|path| path.parent() == Some(&topics) && path.to_str().unwrap().contains("/.tmp-"))
    };
    let mut caught = 0;
    for round in 0..40 {
        let mut chief = spawn("supervisor", &test, "");
        chief.line.expect("serving");
        let mut agent = spawn("creator", &test, "");
        agent.line.expect("ready");
        let name = format!("t{round}");
        agent.line.tell(format!("create\n{name}"));
        while !is_half_made() && !topics.join(&name).exists() {
            std::hint::spin_loop();
        }
        chief.stop();
        caught += u32::from(is_half_made());
        chief.kill();
        // The client takes the role, cleans up, and asks itself.
        agent.line.expect("made");
        assert!(!is_half_made() && topics.join(&name).exists());
        assert_clean(&test);
        agent.line.tell("leave");
        agent.join();
        std::fs::remove_dir_all(topics.join(&name)).unwrap();
        if caught == 3 {
            return;
        }
    }
    panic!("the supervisor was never caught at it ({caught})");
}

#[test]
fn half_made_and_half_removed_buses_of_the_dead_are_collected() {
    let dir = OwnDir::new("half");
    let base = bus_shm::directory::base_dir(Some(&dir.0));
    drop(Bus::builder("b").dir(&dir.0).temporary(true).open().unwrap());
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let names =
        [(".tmp-", child.id(), true), (".dead-", child.id(), true), (".tmp-", std::process::id(), false)];
    let paths = names.map(|(prefix, pid, is_stale)| (base.join(format!("{prefix}{pid}-1f-0")), is_stale));
    for (path, _) in &paths {
        std::fs::create_dir_all(path.join("topics/a")).unwrap();
        std::fs::write(path.join("topics/a/ring"), "x").unwrap();
    }
    let found = bus_shm::collect_garbage(Some(&dir.0), false);
    assert_eq!(found.len(), 2, "{found:?}");
    for (path, is_stale) in &paths {
        assert_eq!(path.exists(), !is_stale, "{}", path.display());
    }
}

// ---- Forks ----

/// Uses every kind of handle in a forked child, and goes on itself.
fn forker(mut role: Role) {
    let bus = role.open();
    for producers in [1, 8] {
        let name = format!("t{producers}");
        let topic = bus.topic_builder::<Words>(&name).producers(producers).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut readers = [
            topic.group("g").join().unwrap(),
            topic.group("s").shared().join().unwrap(),
            topic.subscriber().yield_after(Duration::from_secs(9)).join().unwrap(),
            topic.tap().unwrap(),
        ];
        for sequence in 0..10 {
            publisher.publish(&Words::numbered(sequence)).unwrap();
        }
        // What is in hand when the process forks is the parent's.
        let message = readers[0].receive().unwrap();
        assert_eq!(in_fork(|| message.ack().map_or(Ok(()), |()| Err("acknowledged".into()))), 0);
        let batch = readers[1].receive_batch(5, 5, Duration::ZERO).unwrap();
        assert_eq!(in_fork(|| if batch.ack() > 0 { Err("acknowledged".into()) } else { Ok(()) }), 0);
        let loan = publisher.loan(Lane::NORMAL, 64).unwrap();
        let publish = || loan.publish().map_or_else(|_| Ok(()), |_| Err("published".into()));
        assert_eq!(in_fork(publish), 0);
        assert_eq!(readers[0].receive().map(|message| message.sequence()).unwrap(), 0);
        let code = in_fork(|| {
            let publish = |error: PublishError| matches!(error, PublishError::UsedAfterFork { .. });
            let receive = |error: ReceiveError| matches!(error, ReceiveError::UsedAfterFork { .. });
            let say = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
            say(publisher.publish(&Words::numbered(0)).is_err_and(publish), "publish")?;
            say(publisher.loan(Lane::NORMAL, 8).is_err_and(publish), "loan")?;
            for reader in &mut readers {
                say(reader.try_receive().is_err_and(receive), "try_receive")?;
                say(reader.receive().is_err_and(receive), "receive")?;
                say(reader.receive_timeout(Duration::ZERO).is_err_and(receive), "receive_timeout")?;
                say(reader.receive_batch(1, 1, Duration::ZERO).is_err_and(receive), "receive_batch")?;
                reader.lag_count(Lane::NORMAL);
            }
            let attach = |error: AttachError| error.to_string().contains("before a fork");
            say(topic.publisher().is_err_and(attach), "publisher")?;
            say(topic.subscribe().is_err_and(attach), "subscribe")?;
            say(topic.group("g").join().is_err_and(attach), "join")?;
            say(bus.topic::<Words>("u").is_err_and(|e| e.to_string().contains("before a fork")), "topic")?;
            say(matches!(bus.down(true), Err(BusError::UsedAfterFork { .. })), "down")?;
            bus.participants();
            // What the error says: a child opens the bus again.
            let own = role.builder().service("child").open().map_err(|error| error.to_string())?;
            say(!own.is_host(), "the parent hosts")?;
            let own_topic = own.topic::<Words>(&name).map_err(|error| error.to_string())?;
            let mut tap = own_topic.subscriber().tap().from(Start::Oldest).join().unwrap();
            let message = tap.receive().map_err(|error| error.to_string())?;
            say(message.value().is_ok_and(|value| value.is_numbered(0)), "read by the child")?;
            drop(message);
            let busy = own_topic.group("g").join().unwrap_err();
            say(matches!(busy, AttachError::GroupBusy { .. }), "the parent lives")?;
            drop((tap, own_topic, own));
            // Nothing of the parent's is given up.
            drop((publisher, readers, topic));
            Ok(())
        });
        assert_eq!(code, 0);
        // What the child dropped were copies. In the parent they have moved into the closure, so it takes new ones.
        assert!(bus.is_host());
        assert_eq!(bus.participants().len(), 1, "the child has come and gone");
        let topic = bus.topic::<Words>(&name).unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        assert!(subscriber.receive().unwrap().value().unwrap().is_numbered(0));
    }
    role.parent.tell("done");
    drop(bus);
}

#[test]
fn handles_in_a_forked_child_give_errors_and_harm_nobody() {
    let test = TestBus::new("fork");
    let mut agent = spawn("forker", &test, "");
    agent.line.expect("done");
    agent.join();
    test.assert_gone();
}

/// Leaves a forked child behind when it is killed.
fn forked_parent(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Words>("a").unwrap();
    let mut publisher = topic.publisher().unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    publisher.publish(&Words::numbered(0)).unwrap();
    let message = subscriber.receive().unwrap();
    // SAFETY: the child only sleeps until it is killed, or until its time is over.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number; alarms are not inherited.
        unsafe { libc::alarm(30) };
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    role.parent.tell(child);
    role.parent.hear();
    drop(message);
}

#[test]
fn a_process_that_left_a_forked_child_behind_is_as_dead_as_any() {
    let test = TestBus::new("fork-dead");
    let mut agent = spawn("parent", &test, "");
    let child = agent.line.hear_number() as i32;
    let bus = test.open("successor");
    assert!(!bus.is_host());
    let topic = bus.topic::<Words>("a").unwrap();
    assert!(matches!(topic.group("g").join().unwrap_err(), AttachError::GroupBusy { .. }));
    agent.kill();
    let dead = Instant::now();
    let mut subscriber = topic.group("g").join().unwrap();
    let message = subscriber.receive().unwrap();
    assert_eq!((message.sequence(), message.is_redelivered()), (0, true));
    message.ack().unwrap();
    // The role is free too.
    bus.topic::<Words>("b").unwrap();
    assert!(bus.is_host());
    assert!(dead.elapsed() < Duration::from_secs(1), "{:?}", dead.elapsed());
    assert_clean(&test);
    // SAFETY: the process was told to this one by its parent, and does nothing but wait for this.
    assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0);
}

// ---- Memory ----

fn expect_no_space(error: &RegionError, need_at_least: u64) {
    let RegionError::NoSpace { need_bytes, free_bytes, total_bytes: 67_108_864, .. } = error else {
        panic!("{error}")
    };
    assert!(*need_bytes >= need_at_least && free_bytes < need_bytes, "{error}");
    assert!(error.to_string().contains(&need_bytes.to_string()) && error.to_string().contains("--shm-size"));
}

/// Works in 64 MiB of shared memory, as a container has by default.
fn small_memory(mut role: Role) {
    let dir = PathBuf::from(&role.argument);
    if !mount_tmpfs(&dir, "size=64m", 0) {
        role.parent.tell("skipped");
        return;
    }
    // A hundred topics, each in use.
    let bus = Bus::builder("b").dir(&dir).open().unwrap();
    let made: Vec<_> = (0..100)
        .map(|number| {
            let topic = bus.topic::<Words>(&format!("t{number}")).unwrap();
            let mut publisher = topic.publisher().unwrap();
            publisher.publish(&Words::numbered(number)).unwrap();
            (topic, publisher)
        })
        .collect();
    let used = (64 << 20) - free_bytes(&dir);
    assert!(used < 100 * (512 << 10), "{used} bytes for 100 topics");
    drop(made);

    // A topic that does not fit, or fits only half, leaves nothing behind.
    let (before, free) = (names(&dir).len(), free_bytes(&dir));
    let error = bus.topic_builder::<Bytes>("huge").capacity(1 << 24).open().unwrap_err();
    let TopicError::Bus(BusError::Region(region)) = &error else { panic!("{error}") };
    expect_no_space(region, 3 * (8 << 24));
    let probe = bus.topic::<Bytes>("probe").unwrap();
    let need = free - free_bytes(&dir);
    drop(probe);
    std::fs::remove_dir_all(BusDir::new("b", Some(&dir)).unwrap().path().join("topics/probe")).unwrap();
    for left in [0, 4_096, need / 8_192 * 4_096, need - 8_192, need - 4_096] {
        let ballast = take_memory(&dir, left);
        let error = bus.topic::<Bytes>("half").unwrap_err();
        let TopicError::Bus(BusError::Region(region)) = &error else { panic!("{error}") };
        expect_no_space(region, 4_096);
        let error = Bus::builder("other").dir(&dir).open().map(drop);
        match error {
            Err(BusError::Region(region)) => expect_no_space(&region, 4_096),
            Err(error) => panic!("{error}"),
            // It has fewer pages than a topic.
            Ok(()) => std::fs::remove_dir_all(BusDir::new("other", Some(&dir)).unwrap().path()).unwrap(),
        }
        std::fs::remove_file(ballast).unwrap();
        assert_eq!((names(&dir).len(), free_bytes(&dir)), (before, free), "{left} bytes were left");
    }
    bus.topic::<Bytes>("half").unwrap();

    for producers in [1, 8] {
        // No memory for payloads at all.
        let name = format!("arena{producers}");
        let topic = bus.topic_builder::<Bytes>(&name).producers(producers).with_group("g").open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        publisher.set_deadline(Duration::from_millis(5));
        publisher.set_breaker(false);
        let ballast = take_memory(&dir, 8_192);
        let error = publisher.publish(&[1; 1_000]).unwrap_err();
        let PublishError::Region(region) = &error else { panic!("{error}") };
        expect_no_space(region, 64 << 10);
        std::fs::remove_file(&ballast).unwrap();
        publisher.publish(&[1; 1_000]).unwrap();

        // Some memory, and none to grow with.
        let ballast = take_memory(&dir, 8_192);
        let mut published = 1;
        let error = loop {
            match publisher.publish(&[1; 1_000]) {
                Ok(_) => published += 1,
                Err(error) => break error,
            }
        };
        let PublishError::Full(full) = &error else { panic!("{error}") };
        assert_eq!((full.what, full.group.as_deref(), full.lag_count), (FullOf::Arena, Some("g"), published));
        assert!((40..70).contains(&published), "{published} in 64 KiB");
        let mut subscriber = topic.group("g").join().unwrap();
        // Memory comes back in chunks.
        for _ in 0..10 {
            subscriber.receive().unwrap().ack().unwrap();
        }
        for _ in 0..500 {
            let message = subscriber.receive().unwrap();
            assert!(message.payload() == [1; 1_000]);
            message.ack().unwrap();
            publisher.publish(&[1; 1_000]).unwrap();
        }
        // One that would need more than there is, and fits as soon as there is more.
        let error = publisher.publish(&[2; 200_000]).unwrap_err();
        let PublishError::Region(region) = &error else { panic!("{error}") };
        expect_no_space(region, 64 << 10);
        while let Some(message) = subscriber.try_receive().unwrap() {
            message.ack().unwrap();
        }
        publisher.publish(&[3; 10]).unwrap();
        std::fs::remove_file(&ballast).unwrap();
        publisher.publish(&[2; 200_000]).unwrap();
        let mut last = 0;
        while let Some(message) = subscriber.try_receive().unwrap() {
            last = message.payload().len();
            message.ack().unwrap();
        }
        assert_eq!(last, 200_000);
    }
    role.parent.tell("done");
}

/// Starts a child that mounts file systems of its own over an empty directory.
fn with_private_mount(role: &str) {
    let test = TestBus::new("mount");
    let dir = std::env::temp_dir().join(&test.name);
    std::fs::create_dir(&dir).unwrap();
    let mut agent = spawn(role, &test, dir.display());
    let heard = agent.line.try_hear();
    let status = agent.wait();
    let _ = std::fs::remove_dir(&dir);
    match heard.as_deref() {
        Some("skipped") => println!("skipped: this user may not mount anything"),
        Some("done") => assert!(status.success(), "{status}"),
        _ => panic!("{status}"),
    }
}

#[test]
fn in_64_mib_a_hundred_topics_fit_and_what_does_not_leaves_nothing_behind() {
    with_private_mount("small");
}

/// Works in a memory file system that cannot be written to.
fn sealed_memory(mut role: Role) {
    let dir = PathBuf::from(&role.argument);
    if !mount_tmpfs(&dir, "size=1m", libc::MS_RDONLY) {
        role.parent.tell("skipped");
        return;
    }
    let error = Bus::builder("b").dir(&dir).open().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Read-only") && text.contains(dir.to_str().unwrap()), "{text}");
    role.parent.tell("done");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_refused() {
    with_private_mount("sealed");
}
