//! Promises that can be counted: what a message costs, who cannot change it, and what nobody pays for.

use bus_shm::dead_letters::{self, Filter};
use bus_shm::inspect::BusView;
use bus_shm::sys::cpu::thread_cpu_ns;
use bus_shm::{
    Ask, Bytes, Lane, Message, OtherTypes, Publisher, ReceiveError, Start, Subscriber, Topic, TopicError,
    Wait,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::harness::{self, Agent, Role, TestBus, Text, Words};

/// Counts what the current thread allocates.
struct Counting;

#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Allocated {
    count: u64,
    largest_bytes: usize,
}

thread_local! {
    static ALLOCATED: Cell<Allocated> = const { Cell::new(Allocated { count: 0, largest_bytes: 0 }) };
}

fn note(bytes: usize) {
    // A thread that ends has no cell any more, and nobody asks.
    let _ = ALLOCATED.try_with(|cell| {
        let Allocated { count, largest_bytes } = cell.get();
        cell.set(Allocated { count: count + 1, largest_bytes: largest_bytes.max(bytes) });
    });
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: likewise.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What this thread allocates while `body` runs.
fn allocated(body: impl FnOnce()) -> Allocated {
    ALLOCATED.set(Allocated::default());
    body();
    ALLOCATED.get()
}

/// The second version of a payload whose first version is the harness's.
mod second {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) struct Words {
        pub(super) words: [u64; 8],
        pub(super) more: u32,
    }
    bus_shm::message!(Words, version 2, { words, more });
}

/// A payload of about a mebibyte.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Large {
    numbers: Vec<u64>,
}
bus_shm::message!(Large, version 1, { numbers });

fn spawn(role: &str, test: &TestBus, argument: impl std::fmt::Display) -> Agent {
    Agent::spawn("agent", role, &test.name, argument)
}

/// The other processes of every test here.
#[test]
fn agent() {
    let Some(role) = harness::role() else { return };
    match role.name.as_str() {
        "vandal" => vandal(role),
        "quiet" => quiet(role),
        "asking" => asking(role),
        "adaptive" => adaptive(role),
        other => panic!("no role {other:?}"),
    }
}

// ---- Nobody changes what is published ----

/// Receives a message and stores to its first byte.
fn vandal(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Bytes>(&role.argument).unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    role.parent.tell("ready");
    let message = subscriber.receive().unwrap();
    let first = message.payload().as_ptr().cast_mut();
    role.parent.tell(message.payload()[0]);
    // SAFETY: none. It is what this process is for.
    unsafe { first.write_volatile(99) };
    role.parent.tell("unharmed");
}

#[test]
fn a_write_through_a_subscribers_pointer_faults() {
    let test = TestBus::new("vandal");
    let bus = test.open("publisher");
    for (name, producers, len) in [("slot", 1, 50), ("arena", 1, 5_000), ("cell", 8, 50)] {
        let topic = bus.topic_builder::<Bytes>(name).producers(producers).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut witness = topic.subscribe().unwrap();
        let mut agent = spawn("vandal", &test, name);
        agent.line.expect("ready");
        publisher.publish(&vec![7; len]).unwrap();
        agent.line.expect("7");
        assert_eq!(agent.wait().signal(), Some(libc::SIGSEGV), "{name}");
        assert!(agent.line.try_hear().is_none());
        assert!(witness.receive().unwrap().payload() == vec![7; len]);
    }
}

// ---- A message costs no allocation and no copy ----

fn topic<T: bus_shm::Speak>(test: &TestBus, producers: u32) -> Topic<T> {
    test.open("counted").topic_builder("t").producers(producers).open().unwrap()
}

/// Publishes `values` in turn; each is read by a group of one member as it comes, and later by a member of a shared group.
fn exchange<T: Message>(publisher: &mut Publisher<T>, readers: &mut [Subscriber<T>; 2], values: &[T]) {
    let [subscriber, member] = readers;
    for value in values.iter().cycle().take(500) {
        publisher.publish(value).unwrap();
        let message = subscriber.receive().unwrap();
        message.value().unwrap();
        message.ack().unwrap();
    }
    while let Some(message) = member.try_receive().unwrap() {
        message.value().unwrap();
        message.ack().unwrap();
    }
}

fn count_messages<T: Message>(values: &[T]) {
    for producers in [1, 8] {
        let test = TestBus::new("allocations");
        let topic = topic::<T>(&test, producers);
        let mut publisher = topic.publisher().unwrap();
        let mut readers = [topic.subscribe().unwrap(), topic.group("team").shared().join().unwrap()];
        // Until the arena has grown to what it keeps for late readers, and every buffer has its size.
        (0..10).for_each(|_| exchange(&mut publisher, &mut readers, values));
        let counted = allocated(|| (0..4).for_each(|_| exchange(&mut publisher, &mut readers, values)));
        assert_eq!(counted, Allocated::default(), "in 2,000 messages, {producers} producer(s)");
    }
}

#[test]
fn a_message_of_64_bytes_allocates_nothing() {
    count_messages(&(0..100).map(Words::numbered).collect::<Vec<_>>());
}

#[test]
fn a_message_that_carries_a_string_allocates_nothing() {
    let text = |id: u64| Text { id, text: "x".repeat(200) };
    count_messages(&(0..100).map(text).collect::<Vec<_>>());
}

#[test]
fn messages_of_different_lengths_allocate_nothing() {
    let text = |id: u64| Text { id, text: "x".repeat(id as usize * 37 % 700) };
    count_messages(&(0..100).map(text).collect::<Vec<_>>());
}

#[test]
fn a_batch_allocates_nothing() {
    let test = TestBus::new("batch");
    let topic = topic::<Words>(&test, 8);
    // One remembers runs, the other each message.
    batches_allocate_nothing(&topic, &mut topic.subscribe().unwrap());
    batches_allocate_nothing(&topic, &mut topic.group("shared").shared().join().unwrap());
}

fn batches_allocate_nothing(topic: &Topic<Words>, subscriber: &mut Subscriber<Words>) {
    let mut publisher = topic.publisher().unwrap();
    let values: Vec<_> = (0..64).map(Words::numbered).collect();
    let mut exchange = || {
        publisher.publish_batch(Lane::NORMAL, &values).unwrap();
        let mut batch = subscriber.receive_batch(64, 64, Duration::from_secs(1)).unwrap();
        while let Some(message) = batch.next_message().unwrap() {
            message.value().unwrap();
        }
        assert_eq!(batch.ack(), 64);
    };
    (0..300).for_each(|_| exchange());
    assert_eq!(allocated(|| (0..100).for_each(|_| exchange())), Allocated::default());
}

/// The line of `/proc/self/maps` that holds an address.
fn mapping_of(address: *const u8) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (range, _) = line.split_once(' ').unwrap();
        let (begin, end) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(begin)..number(end)).contains(&(address as usize))
    };
    maps.lines().find(holds).expect("a mapping").to_owned()
}

#[test]
fn a_mebibyte_is_archived_in_place_and_read_in_place() {
    for producers in [1, 8] {
        let test = TestBus::new("mebibyte");
        let bus = test.open("counted");
        let topic = bus.topic_builder::<Large>("t").producers(producers).max_message(2 << 20).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut subscriber = topic.subscribe().unwrap();
        let value = Large { numbers: (0..131_072).collect() };
        let mut exchange = || {
            publisher.publish(&value).unwrap();
            let message = subscriber.receive().unwrap();
            let archived = message.value().unwrap();
            assert!(
                archived.numbers.iter().zip(&value.numbers).all(|(have, want)| have.to_native() == *want)
            );
            let first = (&raw const archived.numbers[0]).cast::<u8>();
            assert!(message.payload().as_ptr_range().contains(&first));
            message.ack().unwrap();
            first
        };
        let mut first = std::ptr::null();
        (0..40).for_each(|_| first = exchange());
        let counted = allocated(|| (0..20).for_each(|_| first = exchange()));
        assert_eq!(counted, Allocated::default(), "nothing of that size, nor anything else");
        let mapping = mapping_of(first);
        assert!(mapping.contains(" r--s ") && mapping.contains("/topics/t/arena-"), "{mapping}");
        // The publisher's own mapping of the same file is another one.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.lines().any(|line| line.contains(" rw-s ") && line.contains("/topics/t/arena-")));
    }
}

// ---- Who does not wait pays nothing ----

/// A system call that nothing else makes, to find the place in a trace.
fn mark(number: i32) {
    // SAFETY: asks for the group of a process that does not exist.
    unsafe { libc::getpgid(0x00de_ad00 + number) };
}

/// Publishes with nobody parked, between marks.
fn quiet(mut role: Role) {
    let bus = role.open();
    let mut number = 0;
    for producers in [1, 8] {
        let name = format!("t{producers}");
        // Arenas of this bound do not grow because messages stream, which takes a few calls for memory, five times at most.
        let builder = bus.topic_builder::<Words>(&name).producers(producers);
        let topic = builder.max_message(4096).arena_bytes(128 << 10).open().unwrap();
        let mut publisher = topic.publisher().unwrap();
        let mut tap = topic.tap().unwrap();
        let mut publish = |subscriber: &mut Option<Subscriber<Words>>, count: u64| {
            for sequence in 0..count {
                publisher.publish(&Words::numbered(sequence)).unwrap();
                if let Some(subscriber) = subscriber {
                    let message = subscriber.try_receive().unwrap().unwrap();
                    assert!(message.value().unwrap().is_numbered(sequence));
                    message.ack().unwrap();
                }
                if let Some(message) = tap.try_receive().unwrap() {
                    message.ack().unwrap();
                }
            }
        };
        for group in [None, Some("one"), Some("many")] {
            let mut subscriber = group.map(|name| {
                let builder = topic.group(name);
                if name == "many" { builder.shared().join() } else { builder.join() }.unwrap()
            });
            publish(&mut subscriber, 20_000);
            mark(number);
            publish(&mut subscriber, 10_000);
            mark(number + 1);
            number += 2;
            // It would hold the ring from here on.
            drop(subscriber);
            if group.is_some() {
                break;
            }
        }
    }
    role.parent.tell(number / 2);
}

/// Asks a replier that spins, between marks.
fn asking(mut role: Role) {
    let bus = role.open();
    let topic = bus.topic::<Words>("asked").unwrap();
    let mut subscriber = topic.group("replier").wait(Wait::Spin).join().unwrap();
    let replier = std::thread::spawn(move || {
        loop {
            let message = subscriber.receive().unwrap();
            let is_last = message.value().unwrap().is_numbered(0);
            message.reply(&Words::numbered(1)).unwrap();
            message.ack().unwrap();
            if is_last {
                return;
            }
        }
    });
    let mut requester = bus.requester().unwrap();
    requester.set_wait(Wait::Spin);
    let ask = Ask::within(Duration::from_secs(20));
    let ask_times = |count: u64| {
        for left in (0..count).rev() {
            let pending = requester.send::<Words, Words>("asked", &Words::numbered(left + 1), &ask).unwrap();
            assert!(pending.wait().unwrap().value().unwrap().is_numbered(1));
        }
    };
    ask_times(20);
    mark(0);
    ask_times(200);
    mark(1);
    let last = requester.send::<Words, Words>("asked", &Words::numbered(0), &ask).unwrap();
    last.wait().unwrap();
    replier.join().unwrap();
    role.parent.tell(1);
}

/// The system calls that a child makes between each two marks, or `None` where they cannot be traced.
fn calls_between_marks(role: &str) -> Option<Vec<Vec<String>>> {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("skipped: strace is not there, or may not trace");
        return None;
    }
    let test = TestBus::new(role);
    let trace = std::env::temp_dir().join(&test.name);
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(&trace).arg(std::env::current_exe().unwrap());
    let mut agent = Agent::spawn_as(command, "agent", role, &test.name, "");
    let windows = agent.line.hear_number();
    agent.join();
    let lines = std::fs::read_to_string(&trace).unwrap();
    std::fs::remove_file(&trace).unwrap();
    // Another thread may stop while it is made, which splits its line.
    let marked = |number: u64| format!("getpgid({}", 0x00de_ad00 + number);
    let calls = |window: u64| {
        let (begin, end) = (marked(2 * window), marked(2 * window + 1));
        assert!(lines.contains(&end), "window {window} does not end");
        let thread =
            lines.lines().find(|line| line.contains(&begin)).expect("a mark").split(' ').next().unwrap();
        lines
            .lines()
            .skip_while(|line| !line.contains(&begin))
            .take_while(|line| !line.contains(&end))
            .filter(|line| line.split(' ').next() == Some(thread))
            .skip(1)
            .filter(|line| !line.contains("resumed>"))
            .map(str::to_owned)
            .collect()
    };
    Some((0..windows).map(calls).collect())
}

#[test]
fn publishing_with_nobody_parked_makes_no_system_call() {
    for (window, calls) in calls_between_marks("quiet").into_iter().flatten().enumerate() {
        assert!(calls.is_empty(), "window {window}: {calls:?}");
    }
}

#[test]
fn asking_with_nobody_parked_wakes_nobody() {
    for calls in calls_between_marks("asking").into_iter().flatten() {
        // Who spins lets others run now and then, on a busy machine.
        let wakes: Vec<_> = calls.iter().filter(|call| call.contains("futex(")).collect();
        assert!(wakes.is_empty(), "{} in 200 requests, such as {}", wakes.len(), wakes[0]);
    }
}

/// CPU time that a consumer uses which waits for longer than a second in vain.
fn parked_ns(wait: Wait) -> u64 {
    let test = TestBus::new("parked");
    let topic = topic::<Words>(&test, 8);
    let mut subscriber = topic.subscriber().wait(wait).join().unwrap();
    // An adaptive reader learns that spinning does not pay.
    for _ in 0..20 {
        assert!(subscriber.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
    }
    let (begun, used) = (Instant::now(), thread_cpu_ns());
    assert!(subscriber.receive_timeout(Duration::from_millis(1_200)).unwrap().is_none());
    assert!(begun.elapsed() >= Duration::from_millis(1_200));
    thread_cpu_ns() - used
}

#[test]
fn a_parked_consumer_uses_no_cpu() {
    // The time that a busy host takes from a virtual machine is counted too: the best of three is meant.
    let least = |wait| {
        let mut measured = (0..3).map(|_| parked_ns(wait));
        measured.find(|&used| used < 1_000_000).ok_or(wait)
    };
    let threads = [Wait::Park, Wait::Adaptive].map(|wait| std::thread::spawn(move || least(wait)));
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}

/// Receives as many messages as the argument says, and tells how much CPU time and how much time that took.
fn adaptive(mut role: Role) {
    let count = role.number();
    let bus = role.open();
    let mut subscriber = bus.topic::<Words>("t").unwrap().subscribe().unwrap();
    role.parent.tell("ready");
    let (mut begun, mut used) = (Instant::now(), 0);
    for sequence in 0..count {
        let message = subscriber.receive().unwrap();
        assert!(message.value().unwrap().is_numbered(sequence));
        message.ack().unwrap();
        if sequence == count / 10 {
            (begun, used) = (Instant::now(), thread_cpu_ns());
        }
    }
    role.parent.tell(thread_cpu_ns() - used);
    role.parent.tell(begun.elapsed().as_nanos());
}

#[test]
fn an_adaptive_consumer_at_a_thousand_messages_a_second_uses_little_cpu() {
    let test = TestBus::new("adaptive");
    let topic = topic::<Words>(&test, 8);
    let mut publisher = topic.publisher().unwrap();
    let mut agent = spawn("adaptive", &test, 2_000);
    agent.line.expect("ready");
    let begun = Instant::now();
    for sequence in 0..2_000 {
        let due = begun + Duration::from_millis(sequence);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        publisher.publish(&Words::numbered(sequence)).unwrap();
    }
    let (used, lasted) = (agent.line.hear_number(), agent.line.hear_number());
    agent.join();
    assert!(used * 20 < lasted, "{used} ns of CPU time in {lasted} ns");
}

// ---- What is no message of its type ----

#[test]
fn an_invalid_archive_is_an_error_and_can_be_passed_over() {
    for producers in [1, 8] {
        let test = TestBus::new("invalid");
        let topic = topic::<Text>(&test, producers);
        let mut publisher = topic.publisher().unwrap();
        let mut subscriber = topic.group("g").join().unwrap();
        let good = Text { id: 7, text: "a string that is not kept inside of its archive".into() };
        publisher.publish(&good).unwrap();
        let valid = subscriber.receive().unwrap();
        let archive = valid.payload().to_vec();
        valid.ack().unwrap();
        let mut broken = vec![vec![], vec![1], vec![0xfe; 64], archive[1..].to_vec(), archive[..20].to_vec()];
        // A string that is not where the archive says, or is none.
        let mut away = archive.clone();
        away[archive.len() - 4] ^= 0x40;
        let mut garbled = archive.clone();
        garbled[3] = 0xff;
        broken.extend([away, garbled]);
        for bytes in &broken {
            let sequence = publisher.publish_bytes(Lane::NORMAL, bytes).unwrap();
            let message = subscriber.receive().unwrap();
            let Err(error) = message.value() else { panic!("{bytes:?} is valid") };
            let ReceiveError::Invalid { topic, sequence: at, len, kind, producer, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((topic.as_str(), *at, *len as usize), ("t", sequence, bytes.len()));
            assert_eq!((*kind, *producer), ("Text", message.producer()));
            assert_eq!(message.payload(), bytes);
            // Acknowledged, it is done with; dropped, it is a dead letter. It does not come again.
            match bytes.len() % 2 {
                0 => message.ack().unwrap(),
                _ => drop(message),
            }
            assert!(subscriber.try_receive().unwrap().is_none());
        }
        publisher.publish(&good).unwrap();
        let message = subscriber.receive().unwrap();
        assert_eq!(message.value().unwrap().text, good.text.as_str());
    }
}

#[test]
fn two_versions_are_in_flight_and_each_reader_says_what_it_reads() {
    for producers in [2, 8] {
        let test = TestBus::new("versions");
        let bus = test.open("versions");
        let first =
            bus.topic_builder::<Words>("t").producers(producers).accepts::<second::Words>().open().unwrap();
        let second = bus.topic_builder::<second::Words>("t").accepts::<Words>().open().unwrap();
        let mut skipping = first.group("skipping").join().unwrap();
        let mut strict = first.group("strict").other_types(OtherTypes::Error).join().unwrap();
        let mut shared = first.group("shared").shared().join().unwrap();
        let mut burying = first.group("burying").other_types(OtherTypes::DeadLetter).join().unwrap();
        let mut newer = second.group("newer").join().unwrap();
        let (mut old, mut new) = (first.publisher().unwrap(), second.publisher().unwrap());
        for n in 0..10 {
            old.publish(&Words::numbered(n)).unwrap();
            new.publish(&second::Words { words: Words::numbered(n).words, more: n as u32 }).unwrap();
        }
        for n in 0..10 {
            for reader in [&mut skipping, &mut shared, &mut burying] {
                let message = reader.receive().unwrap();
                assert!(message.sequence() == 2 * n && message.value().unwrap().is_numbered(n));
                message.ack().unwrap();
            }
            let message = newer.receive().unwrap();
            assert_eq!(
                (message.sequence(), message.value().unwrap().more.to_native()),
                (2 * n + 1, n as u32)
            );
            message.ack().unwrap();
            strict.receive().unwrap().ack().unwrap();
            let error = strict.receive().unwrap_err();
            let ReceiveError::OtherType { sequence, found, reads, .. } = &error else { panic!("{error}") };
            assert!(*sequence == 2 * n + 1 && found.contains("Words v2") && reads.contains("Words v1"));
        }
        for reader in [&mut skipping, &mut strict, &mut shared, &mut burying] {
            assert!(reader.try_receive().unwrap().is_none());
            assert_eq!(reader.lag_count(Lane::NORMAL), 0, "what was passed over is done with");
        }
        let groups = BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample().groups;
        for group in groups {
            assert_eq!(group.skipped_count, 10, "{}", group.name);
            assert_eq!(group.dead_count, if group.name == "burying" { 10 } else { 0 }, "{}", group.name);
        }
    }
}

#[test]
fn a_message_of_another_type_that_finds_no_room_among_the_dead_letters_stays_in_the_ring() {
    let test = TestBus::new("other-full");
    let bus = test.open("versions");
    let first = bus.topic_builder::<Words>("t").accepts::<second::Words>().open().unwrap();
    let second = bus.topic_builder::<second::Words>("t").accepts::<Words>().open().unwrap();
    let group = || first.group("g").other_types(OtherTypes::DeadLetter).aside_entries(4);
    let mut subscriber = group().join().unwrap();
    let (mut old, mut new) = (first.publisher().unwrap(), second.publisher().unwrap());
    old.publish(&Words::numbered(0)).unwrap();
    for _ in 0..5 {
        new.publish(&second::Words { words: [0; 8], more: 1 }).unwrap();
    }
    old.publish(&Words::numbered(6)).unwrap();
    let group_state =
        || BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample().groups.remove(0);
    // There are four entries.
    let mut batch = subscriber.receive_batch(1, 8, Duration::from_millis(50)).unwrap();
    let mut seen = Vec::new();
    while let Some(message) = batch.next_message_timeout(Duration::from_millis(50)).unwrap() {
        seen.push(message.sequence());
    }
    batch.ack();
    assert_eq!((seen, group_state().dead_count), (vec![0], 4));
    assert_eq!(subscriber.lag_count(Lane::NORMAL), 2, "the fifth holds the ring, and what follows");
    assert!(subscriber.receive_timeout(Duration::from_millis(50)).unwrap().is_none());
    dead_letters::purge(&bus, &Filter::default()).unwrap();
    let message = subscriber.receive_timeout(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!(message.sequence(), 6);
    message.ack().unwrap();
    assert_eq!((subscriber.lag_count(Lane::NORMAL), group_state().dead_count), (0, 1));
}

#[test]
fn a_message_passed_over_in_a_batch_does_not_acknowledge_the_batch() {
    let test = TestBus::new("mixed-batch");
    let bus = test.open("versions");
    let first = bus.topic_builder::<Words>("t").accepts::<second::Words>().open().unwrap();
    let second = bus.topic_builder::<second::Words>("t").accepts::<Words>().open().unwrap();
    let mut subscriber = first.group("g").join().unwrap();
    let (mut old, mut new) = (first.publisher().unwrap(), second.publisher().unwrap());
    let mut publish = |is_new: bool| {
        if is_new {
            new.publish(&second::Words { words: [0; 8], more: 1 }).unwrap();
        } else {
            old.publish(&Words::numbered(5)).unwrap();
        }
    };
    for is_new in [false, true, false, true, true] {
        publish(is_new);
    }
    let mut batch = subscriber.receive_batch(5, 5, Duration::from_secs(1)).unwrap();
    let mut sequences = Vec::new();
    while let Some(message) = batch.next_message().unwrap() {
        assert!(!message.is_redelivered());
        sequences.push(message.sequence());
    }
    assert_eq!((sequences, batch.len()), (vec![0, 2], 2));
    drop(batch);
    assert_eq!(subscriber.lag_count(Lane::NORMAL), 5, "nothing was acknowledged");
    // What comes again comes one by one.
    for sequence in [0, 2] {
        let mut batch = subscriber.receive_batch(1, 5, Duration::from_secs(1)).unwrap();
        let message = batch.next_message().unwrap().unwrap();
        assert!(message.is_redelivered() && message.sequence() == sequence);
        assert!(batch.next_message().unwrap().is_none());
        assert_eq!(batch.ack(), 1);
    }
    assert!(subscriber.try_receive().unwrap().is_none());
    assert_eq!(subscriber.lag_count(Lane::NORMAL), 0, "and those of the other type are passed over");
}

#[test]
fn a_topic_learns_a_type_only_from_a_program_that_knows_one_of_its_own() {
    let test = TestBus::new("learn");
    let bus = test.open("versions");
    bus.topic::<Words>("t").unwrap();
    let error = bus.topic::<second::Words>("t").unwrap_err();
    assert!(matches!(error, TopicError::TypeMismatch { .. }), "{error}");
    bus.topic_builder::<second::Words>("t").accepts::<Words>().open().unwrap();
    bus.topic::<second::Words>("t").unwrap();
    let types = BusView::open(&test.name, None).unwrap().topic("t").unwrap().settings().unwrap().types;
    assert_eq!(types.iter().map(|kind| kind.version).collect::<Vec<_>>(), [1, 2]);
}

// ---- Memory ----

#[test]
fn a_default_topic_takes_less_than_512_kib() {
    let test = TestBus::new("memory");
    let bus = test.open("memory");
    let topic = bus.topic::<Words>("t").unwrap();
    let bytes = || BusView::open(&test.name, None).unwrap().topic("t").unwrap().sample().memory_bytes;
    assert!((4_096..64 << 10).contains(&bytes()), "{} as it is made", bytes());
    let mut publisher = topic.publisher().unwrap();
    let mut subscribers = [topic.subscribe().unwrap(), topic.group("s").shared().join().unwrap()];
    for lane in 0..3 {
        publisher.publish_to(Lane(lane), &Words::numbered(1)).unwrap();
    }
    for subscriber in &mut subscribers {
        (0..3).for_each(|_| subscriber.receive().unwrap().ack().unwrap());
    }
    assert!(bytes() < 512 << 10, "{} with a publisher and a shared group in use", bytes());
    drop(publisher);
    assert!(bytes() < 128 << 10, "{} when the publisher has gone", bytes());
    // What it kept of the publisher's is still there.
    let mut late = topic.subscriber().from(Start::Oldest).join().unwrap();
    assert!(late.receive().unwrap().value().unwrap().is_numbered(1));
}
