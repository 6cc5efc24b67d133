//! Promises that can be counted: what is copied, allocated, called, touched, and burnt.

use bus_shm::{Bytes, Lane, OtherTypes, ReceiveError, Wait};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};
use tests::harness::{Agent, TestBus, Text, Words, role};

thread_local! {
    /// Allocations of this thread, and their bytes.
    static ALLOCATED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Counts what each thread allocates.
struct Counting;

// SAFETY: everything is passed on to the system's allocator; counting touches a cell of this thread only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|cell| {
            let (count, bytes) = cell.get();
            cell.set((count + 1, bytes + layout.size() as u64));
        });
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` allocates: count and bytes.
fn allocated(work: impl FnOnce()) -> (u64, u64) {
    let before = ALLOCATED.get();
    work();
    let after = ALLOCATED.get();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn nothing_is_allocated_for_a_message() {
    for producers in [1, 8] {
        let test = TestBus::new("allocations");
        let bus = test.open("promises");
        let words = bus.topic_builder::<Words>("words").producers(producers).capacity(64).open().unwrap();
        let texts = bus.topic_builder::<Text>("texts").producers(producers).capacity(64).open().unwrap();
        let mut of_words = (words.publisher().unwrap(), words.subscribe().unwrap());
        let mut of_texts = (texts.publisher().unwrap(), texts.subscribe().unwrap());
        let text = Text { id: 1, text: "some text that does not fit into a word".repeat(5) };
        let mut round = || {
            of_words.0.publish(&Words::numbered(7)).unwrap();
            let message = of_words.1.receive().unwrap();
            assert!(message.value().unwrap().is_numbered(7));
            message.ack();
            of_texts.0.publish(&text).unwrap();
            let message = of_texts.1.receive().unwrap();
            assert_eq!(message.value().unwrap().text.len(), text.text.len());
            message.ack();
        };
        (0..2_000).for_each(|_| round());
        assert_eq!(allocated(|| (0..2_000).for_each(|_| round())).0, 0, "producers({producers})");
    }
}

/// The file that the page of `address` belongs to, and its permissions.
fn mapping_of(address: usize) -> (String, String) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| {
            let range = line.split(' ').next().unwrap();
            let (from, to) = range.split_once('-').unwrap();
            (usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap())
                .contains(&address)
        })
        .expect("a mapping");
    let mut parts = line.split_whitespace();
    let permissions = parts.nth(1).unwrap().to_owned();
    (parts.last().unwrap().to_owned(), permissions)
}

#[test]
fn a_mebibyte_is_archived_and_read_in_place() {
    for producers in [1, 8] {
        let test = TestBus::new("in-place");
        let bus = test.open("promises");
        let topic = bus.topic_builder::<Text>("a").producers(producers).max_message(2 << 20).open().unwrap();
        let (mut publisher, mut subscriber) = (topic.publisher().unwrap(), topic.subscribe().unwrap());
        let text = Text { id: 9, text: "z".repeat(1 << 20) };
        publisher.publish(&text).unwrap();
        subscriber.receive().unwrap().ack();
        let (_, bytes) = allocated(|| {
            publisher.publish(&text).unwrap();
            let message = subscriber.receive().unwrap();
            let value = message.value().unwrap();
            assert_eq!(value.text.len(), 1 << 20);
            let (file, permissions) = mapping_of(value.text.as_bytes().as_ptr() as usize);
            assert!(file.contains("/arena-"), "the text lies in {file}");
            assert_eq!(permissions, "r--s", "mapped for reading only");
            message.ack();
        });
        // What `mapping_of` reads is small; a copy of the payload would not be.
        assert!(bytes < 1 << 19, "{bytes} bytes were allocated, as for a copy");
    }
}

#[test]
fn child_that_writes_through_a_payload() {
    let Some(role) = role() else { return };
    let bus = role.open();
    let topic = bus.topic_builder::<Words>("a").producers(role.number() as u32).open().unwrap();
    let mut subscriber = topic.group("g").join().unwrap();
    let message = subscriber.receive().unwrap();
    let pointer = message.payload().as_ptr().cast_mut();
    // SAFETY: it is not sound, which is the point: the page is read-only and the store must end this process.
    unsafe { pointer.write_volatile(1) };
    std::process::exit(0);
}

#[test]
fn a_write_through_a_subscribers_payload_faults() {
    use std::os::unix::process::ExitStatusExt;
    for producers in [1, 8] {
        let test = TestBus::new("fault");
        let bus = test.open("promises");
        let topic = bus.topic_builder::<Words>("a").producers(producers).with_group("g").open().unwrap();
        topic.publisher().unwrap().publish(&Words::numbered(0)).unwrap();
        let mut child = Agent::spawn("child_that_writes_through_a_payload", "writer", &test.name, producers);
        let status = child.wait();
        assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
        let mut subscriber = topic.group("g").join().unwrap();
        let message = subscriber.receive().unwrap();
        assert!(message.value().unwrap().is_numbered(0), "nothing was changed");
        assert!(message.is_redelivered(), "it was in hand when its reader died");
    }
}

#[test]
fn child_that_publishes_under_a_counter() {
    let Some(role) = role() else { return };
    let bus = role.builder().host(false).open().unwrap();
    let topic = bus.topic::<Words>("a").unwrap();
    let (mut publisher, mut subscriber) = (topic.publisher().unwrap(), topic.subscribe().unwrap());
    subscriber.set_wait(Wait::Spin);
    let mut rounds = |count: u64| {
        for number in 0..count {
            publisher.publish(&Words::numbered(number)).unwrap();
            subscriber.receive().unwrap().ack();
        }
    };
    rounds(5_000);
    // Two calls that nothing else makes mark the part that counts.
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() };
    rounds(100_000);
    // SAFETY: as above.
    unsafe { libc::getppid() };
}

#[test]
fn traffic_makes_no_system_call() {
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let test = TestBus::new("calls");
    let _bus = test.open("promises");
    let log = std::env::temp_dir().join(format!("{}.strace", test.name));
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-o"]).arg(&log).arg(std::env::current_exe().unwrap());
    Agent::spawn_as(strace, "child_that_publishes_under_a_counter", "publisher", &test.name, "").join();
    let text = std::fs::read_to_string(&log).unwrap();
    let _ = std::fs::remove_file(&log);
    let marks: Vec<usize> =
        text.lines().enumerate().filter(|(_, line)| line.contains("getppid()")).map(|(at, _)| at).collect();
    assert_eq!(marks.len(), 2, "{text}");
    let between: Vec<&str> = text.lines().skip(marks[0] + 1).take(marks[1] - marks[0] - 1).collect();
    // The main thread of the test harness may wake up for itself; the thread that publishes makes no call.
    let thread = text.lines().nth(marks[0]).unwrap().split_whitespace().next().unwrap();
    let own: Vec<_> = between.iter().filter(|line| line.starts_with(thread)).collect();
    assert!(own.is_empty(), "100,000 messages and these calls: {own:#?}");
}

/// CPU time of this thread.
fn cpu() -> Duration {
    Duration::from_nanos(bus_shm::sys::cpu::thread_cpu_ns())
}

#[test]
fn a_parked_subscriber_burns_nothing() {
    let test = TestBus::new("parked");
    let bus = test.open("promises");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.subscriber().wait(Wait::Park).join().unwrap();
    assert!(subscriber.receive_timeout(Duration::from_millis(5)).unwrap().is_none());
    let before = cpu();
    assert!(subscriber.receive_timeout(Duration::from_secs(1)).unwrap().is_none());
    let burnt = cpu() - before;
    assert!(burnt < Duration::from_millis(1), "{burnt:?} in a second of waiting");
}

#[test]
fn an_adaptive_subscriber_at_a_thousand_messages_a_second_burns_little() {
    let test = TestBus::new("adaptive");
    let bus = test.open("promises");
    let topic = bus.topic::<Words>("a").unwrap();
    let mut subscriber = topic.subscriber().wait(Wait::Adaptive).join().unwrap();
    let mut publisher = topic.publisher().unwrap();
    let count = 1_000;
    let sender = std::thread::spawn(move || {
        let begun = Instant::now();
        for number in 0..count {
            let due = begun + Duration::from_millis(number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            publisher.publish(&Words::numbered(number)).unwrap();
        }
    });
    let (before, begun) = (cpu(), Instant::now());
    for _ in 0..count {
        subscriber.receive().unwrap().ack();
    }
    let share = (cpu() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    sender.join().unwrap();
    assert!(share < 0.05, "{:.1} % of a core", share * 100.0);
}

#[test]
fn an_archive_that_is_none_is_an_error_and_can_be_passed_over() {
    let test = TestBus::new("invalid");
    let bus = test.open("promises");
    let topic = bus.topic::<Text>("a").unwrap();
    let (mut publisher, mut subscriber) = (topic.publisher().unwrap(), topic.subscribe().unwrap());
    for garbage in [&[0x91_u8; 40][..], &[0; 3], &[]] {
        publisher.publish_bytes(Lane::NORMAL, garbage).unwrap();
        let message = subscriber.receive().unwrap();
        let error = message.value().err().expect("no archive");
        assert!(matches!(error, ReceiveError::Invalid { kind: "Text", .. }), "{error}");
        assert!(message.ack());
    }
    publisher.publish(&Text { id: 3, text: "good".into() }).unwrap();
    assert_eq!(subscriber.receive().unwrap().value().unwrap().id.to_native(), 3);
}

mod second {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) struct Text {
        pub(super) id: u64,
        pub(super) text: String,
        pub(super) urgent: bool,
    }
    bus_shm::message!(Text, version 2, { id, text, urgent });
}

#[test]
fn two_versions_are_in_flight_and_each_reader_chooses() {
    let test = TestBus::new("versions");
    let bus = test.open("promises");
    let old = bus.topic::<Text>("a").unwrap();
    let error = bus.topic::<second::Text>("a").unwrap_err().to_string();
    assert!(error.contains("Text v1") && error.contains("Text v2"), "{error}");
    let new = bus.topic_builder::<second::Text>("a").accepts::<Text>().open().unwrap();
    let mut skips = old.subscribe().unwrap();
    let mut fails = old.subscriber().other_types(OtherTypes::Error).join().unwrap();
    let mut reads_new = new.subscribe().unwrap();
    let mut bytes = bus.topic::<Bytes>("a").unwrap().subscribe().unwrap();
    old.publisher().unwrap().publish(&Text { id: 1, text: "first".into() }).unwrap();
    new.publisher().unwrap().publish(&second::Text { id: 2, text: "second".into(), urgent: true }).unwrap();
    old.publisher().unwrap().publish(&Text { id: 3, text: "third".into() }).unwrap();
    for id in [1, 3] {
        let message = skips.receive().unwrap();
        assert_eq!(message.value().unwrap().id.to_native(), id);
        message.ack();
    }
    let message = reads_new.receive().unwrap();
    assert!(message.value().unwrap().urgent);
    message.ack();
    fails.receive().unwrap().ack();
    let error = fails.receive().unwrap_err();
    assert!(matches!(error, ReceiveError::OtherType { sequence: 1, .. }), "{error}");
    assert_eq!(fails.receive().unwrap().value().unwrap().id.to_native(), 3, "it was passed over");
    let kinds: Vec<String> = (0..3)
        .map(|_| {
            let message = bytes.receive().unwrap();
            let kind = message.kind();
            message.ack();
            bytes.type_name(kind)
        })
        .collect();
    assert!(kinds[0].starts_with("Text v1") && kinds[1].starts_with("Text v2"), "{kinds:?}");
}

#[test]
fn a_default_topic_takes_less_than_half_a_mebibyte() {
    let test = TestBus::new("memory");
    let bus = test.open("promises");
    let topic = bus.topic::<Words>("a").unwrap();
    let view = bus_shm::inspect::BusView::open(&test.name, None).unwrap();
    let mut topic_view = view.topic("a").unwrap();
    let idle = topic_view.sample().memory_bytes;
    assert!(idle <= 64 << 10, "{idle} bytes before anybody publishes");
    let mut subscriber = topic.subscribe().unwrap();
    let mut publisher = topic.publisher().unwrap();
    for number in 0..20_000 {
        publisher.publish(&Words::numbered(number)).unwrap();
        subscriber.receive().unwrap().ack();
    }
    let used = topic_view.sample().memory_bytes;
    assert!(used < 512 << 10, "{used} bytes after 20,000 messages");
}
