//! Single operations of the bus in one process and one thread: instructions and allocations, no traffic between cores.
//! What processes reach with each other is measured by `shmbus bench`.

use std::hint::black_box;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus_bench::content::fill;
use bus_core::limits::PATTERNS_MAX;
use bus_shm::sys::cpu;
use bus_shm::{Bus, ManySubscriber, Publisher, Subscriber, Topic, Wait};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

/// Messages of a batch.
const BATCH: u64 = 64;

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Small {
    words: [u64; 8],
}
bus_shm::message!(Small, version 1, { words });

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Large {
    words: [u64; 8_192],
}
bus_shm::message!(Large, version 1, { words });

fn bus() -> Bus {
    Bus::builder(&format!("criterion-{}", std::process::id())).temporary(true).open().expect("a private bus")
}

fn pair<T: bus_shm::Message>(topic: &Topic<T>) -> (Publisher<T>, Subscriber<T>) {
    (topic.publisher().expect("a publisher"), topic.subscribe().expect("a subscriber"))
}

fn one_at_a_time(criterion: &mut Criterion) {
    let bus = bus();
    let mut group = criterion.benchmark_group("publish_receive_ack");
    group.throughput(Throughput::Elements(1));
    for (name, producers) in [("64 default", None), ("64 producers(1)", Some(1))] {
        let mut builder = bus.topic_builder::<Small>(if producers.is_some() { "one" } else { "many" });
        if let Some(producers) = producers {
            builder = builder.producers(producers);
        }
        let (mut publisher, mut subscriber) = pair(&builder.open().expect("a topic"));
        let mut value = Small { words: [0; 8] };
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                number += 1;
                fill(&mut value.words, number, 0);
                publisher.publish(black_box(&value)).expect("room");
                let message = subscriber.receive().expect("a message");
                black_box(message.value().expect("a valid archive").words[0]);
                message.ack()
            });
        });
    }
    let (mut publisher, mut subscriber) = pair(&bus.topic::<Large>("large").expect("a topic"));
    let value = Box::new(Large { words: [7; 8_192] });
    group.bench_function(BenchmarkId::from_parameter("65536 default"), |bencher| {
        bencher.iter(|| {
            publisher.publish(black_box(&*value)).expect("room");
            let message = subscriber.receive().expect("a message");
            black_box(message.value().expect("a valid archive").words[0]);
            message.ack()
        });
    });
    group.finish();
}

/// Receiving and acknowledging alone, by the kind of group: what sharing costs where nobody contends.
fn receive(criterion: &mut Criterion) {
    let bus = bus();
    let mut group = criterion.benchmark_group("receive, acknowledge");
    for kind in ["one member", "shared, in place", "shared"] {
        let topic = bus.topic::<Small>(&kind.replace([' ', ','], "-")).expect("a topic");
        let builder = topic.group("g");
        let builder = match kind {
            "one member" => builder,
            "shared, in place" => builder.shared().ack_wait(Duration::ZERO),
            _ => builder.shared(),
        };
        let (mut publisher, mut subscriber) =
            (topic.publisher().expect("a publisher"), builder.join().expect("a subscriber"));
        let value = Small { words: [7; 8] };
        group.bench_function(BenchmarkId::from_parameter(kind), |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let run = left.min(512);
                    for _ in 0..run {
                        publisher.publish(&value).expect("room");
                    }
                    let begun = Instant::now();
                    for _ in 0..run {
                        let message = subscriber.receive().expect("a message");
                        black_box(message.value().expect("a valid archive").words[0]);
                        message.ack().expect("its own");
                    }
                    spent += begun.elapsed();
                    left -= run;
                }
                spent
            });
        });
    }
    group.finish();
}

/// A compare-and-swap on a line that is there: most of what taking many places with one of them could save of each.
fn locked(criterion: &mut Criterion) {
    let word = AtomicU64::new(0);
    let mut now = 0;
    criterion.bench_function("compare_exchange", |bencher| {
        bencher.iter(|| {
            let was = word.compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Relaxed);
            now += 1;
            black_box(was)
        });
    });
}

fn batches(criterion: &mut Criterion) {
    let bus = bus();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH));
    let (mut publisher, mut subscriber) = pair(&bus.topic::<Small>("batch").expect("a topic"));
    let lane = publisher.default_lane();
    let values: Vec<Small> = (0..BATCH).map(|number| Small { words: [number; 8] }).collect();
    group.bench_function("publish_batch, receive_batch", |bencher| {
        bencher.iter(|| {
            publisher.publish_batch(lane, black_box(&values)).expect("room");
            let mut batch = subscriber
                .receive_batch(BATCH as usize, BATCH as usize, Duration::from_secs(1))
                .expect("a batch");
            while let Some(message) = batch.next_message().expect("a message") {
                black_box(message.value().expect("a valid archive").words[0]);
            }
            batch.ack()
        });
    });
    group.finish();
}

/// Receiving by windows: what a message costs where so many may be in hand and are acknowledged together.
fn windows(criterion: &mut Criterion) {
    let bus = bus();
    let mut group = criterion.benchmark_group("receive by windows");
    group.throughput(Throughput::Elements(1));
    let topic = bus.topic_builder::<Small>("windows").capacity(1_024).open().expect("a topic");
    let (mut publisher, mut subscriber) = pair(&topic);
    let value = Small { words: [7; 8] };
    for window in [1_usize, 16, 64, 256] {
        group.bench_function(BenchmarkId::from_parameter(window), |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let run = left.min(512);
                    for _ in 0..run {
                        publisher.publish(&value).expect("room");
                    }
                    let begun = Instant::now();
                    let mut to_come = run as usize;
                    while to_come > 0 {
                        let want = window.min(to_come);
                        let mut batch =
                            subscriber.receive_batch(want, want, Duration::from_secs(1)).expect("a batch");
                        while let Some(message) = batch.next_message().expect("a message") {
                            black_box(message.value().expect("a valid archive").words[0]);
                            to_come -= 1;
                        }
                        batch.ack();
                    }
                    spent += begun.elapsed();
                    left -= run;
                }
                spent
            });
        });
    }
    group.finish();
}

/// Publishing bursts to a reader that sleeps between them, by how many messages it is woken for at once: what the publisher
/// spends on a message.
fn lingering(criterion: &mut Criterion) {
    let bus = bus();
    let mut group = criterion.benchmark_group("publish to a sleeper");
    group.throughput(Throughput::Elements(1));
    let topic = bus.topic::<Small>("lingering").expect("a topic");
    let mut publisher = topic.publisher().expect("a publisher");
    let lane = publisher.default_lane();
    let mut subscriber = topic.subscriber().wait(Wait::Park).join().expect("a subscriber");
    let interrupter = subscriber.interrupter();
    let read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(message) = subscriber.receive() {
                message.ack().expect("its own");
                read.fetch_add(1, Ordering::Release);
            }
        });
        let value = Small { words: [7; 8] };
        let mut sent = 0;
        for linger in [1_u32, 16, 64] {
            group.bench_function(BenchmarkId::from_parameter(linger), |bencher| {
                bencher.iter_custom(|count| {
                    let mut spent = Duration::ZERO;
                    let mut left = count;
                    while left > 0 {
                        let run = left.min(BATCH);
                        let begun = Instant::now();
                        let mut lingering = publisher.lingering(linger, Duration::from_millis(1));
                        for _ in 0..run {
                            lingering.publish(lane, &value).expect("room");
                        }
                        drop(lingering);
                        spent += begun.elapsed();
                        (sent, left) = (sent + run, left - run);
                        // The reader goes to sleep again.
                        while read.load(Ordering::Acquire) < sent {
                            std::thread::yield_now();
                        }
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    spent
                });
            });
        }
        interrupter.interrupt();
    });
    group.finish();
}

fn empty(criterion: &mut Criterion) {
    let bus = bus();
    let (_publisher, mut subscriber) = pair(&bus.topic::<Small>("empty").expect("a topic"));
    criterion.bench_function("try_receive of nothing", |bencher| {
        bencher.iter(|| subscriber.try_receive().expect("an answer").is_none());
    });
}

/// A message to a subscription over many topics, by how many patterns others of the bus have. The figures are to be the same.
fn patterns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish_receive_ack of a pattern");
    for count in [1, 100, 10_000] {
        let bus = bus();
        let topic = bus.topic::<Small>("read.here").expect("a topic");
        let names: Vec<String> = (1..count).map(|number| format!("other.{number}.*")).collect();
        let others: Vec<ManySubscriber<Small>> = names
            .chunks(PATTERNS_MAX)
            .map(|names| bus.subscribe_patterns(names).join().expect("a subscription"))
            .collect();
        let mut many: ManySubscriber<Small> = bus.subscribe_pattern("read.*").join().expect("a subscription");
        let mut publisher = topic.publisher().expect("a publisher");
        let value = Small { words: [7; 8] };
        group.bench_function(BenchmarkId::new("patterns", count), |bencher| {
            bencher.iter(|| {
                publisher.publish(black_box(&value)).expect("room");
                let incoming = many.receive().expect("a message");
                black_box(incoming.value().expect("a valid archive").words[0]);
                incoming.ack()
            });
        });
        drop(others);
    }
    group.finish();
}

/// Waits until a descriptor is readable.
fn await_readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, None).expect("a wait");
}

/// There and back between two threads, each on a core of its own, that sleep in poll(2): by messages and the descriptors of subscriptions, and by bare
/// eventfds, which is the least that it can cost.
fn descriptor(criterion: &mut Criterion) {
    let before = sched_getaffinity(None).expect("cores");
    let cores = cpu::online();
    let (near, far) = (cores[0], cores[cores.len() - 1]);
    let pin = |core| cpu::pin(core).expect("a core");
    pin(near);
    let mut group = criterion.benchmark_group("there and back, asleep");
    let bus = bus();
    let [there, back] = ["wake.there", "wake.back"].map(|name| bus.topic::<Small>(name).expect("a topic"));
    let read =
        |name| -> ManySubscriber<Small> { bus.subscribe_patterns([name]).join().expect("a subscription") };
    let (mut here, mut beyond) = (read("wake.back"), read("wake.there"));
    let (mut ask, mut answer) =
        (there.publisher().expect("a publisher"), back.publisher().expect("a publisher"));
    let value = |number| Small { words: [number; 8] };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pin(far);
            while await_message(&mut beyond) != 0 {
                answer.publish(&value(1)).expect("room");
            }
        });
        group.bench_function("descriptors of subscriptions", |bencher| {
            bencher.iter(|| {
                ask.publish(&value(1)).expect("room");
                await_message(&mut here)
            });
        });
        ask.publish(&value(0)).expect("room");
    });
    let [there, back] = [(); 2].map(|()| eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
    let send = |fd: &OwnedFd, count: u64| _ = rustix::io::write(fd, &count.to_ne_bytes()).expect("a write");
    let hear = |fd: &OwnedFd| {
        await_readable(fd.as_fd());
        let mut count = [0; 8];
        rustix::io::read(fd, &mut count).expect("a read");
        u64::from_ne_bytes(count)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(far);
            while hear(&there) == 1 {
                send(&back, 1);
            }
        });
        group.bench_function("eventfds", |bencher| {
            bencher.iter(|| {
                send(&there, 1);
                hear(&back)
            });
        });
        // Two of them: the end.
        send(&there, 2);
    });
    sched_setaffinity(None, &before).expect("the cores as before");
    group.finish();
}

/// The first word of the next message, waited for with the subscription's descriptor.
fn await_message(many: &mut ManySubscriber<Small>) -> u64 {
    let fd = many.descriptor().expect("a descriptor").try_clone_to_owned().expect("a copy of it");
    loop {
        if let Some(incoming) = many.try_receive().expect("an answer") {
            let word = incoming.value().expect("a valid archive").words[0].to_native();
            incoming.ack().expect("its own");
            return word;
        }
        if many.prepare_to_wait() {
            await_readable(fd.as_fd());
            many.drain_wakeups();
        }
    }
}

/// What the other thread is to do with a message.
const END: u64 = 0;
const ANSWER: u64 = 1;
const HANDLE: u64 = 2;

/// Publishing and waiting until the group has handled it, between two busy threads, and the same with an answer in another topic, of
/// which one way is half. The ratio of the two is what counts: below 3.
fn receipt(criterion: &mut Criterion) {
    const RUNS: usize = 200;
    const OPS: u64 = 1_000;
    let mut group = criterion.benchmark_group("receipt");
    let bus = bus();
    let [there, back] =
        ["receipt.there", "receipt.back"].map(|name| bus.topic::<Small>(name).expect("a topic"));
    let busy = |topic: &Topic<Small>| topic.group("g").wait(Wait::Spin).join().expect("a subscriber");
    let (mut worker, mut here) = (busy(&there), busy(&back));
    let (mut ask, mut answer) =
        (there.publisher().expect("a publisher"), back.publisher().expect("a publisher"));
    let receipts = there.receipts("g").expect("receipts");
    let lane = ask.default_lane();
    let value = |word| Small { words: [word; 8] };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                let message = worker.receive().expect("a message");
                let word = message.value().expect("a valid archive").words[0].to_native();
                message.ack().expect("its own");
                match word {
                    END => return,
                    ANSWER => _ = answer.publish(&value(ANSWER)).expect("room"),
                    _ => {}
                }
            }
        });
        let mut there_and_back = || {
            ask.publish(&value(ANSWER)).expect("room");
            here.receive().expect("an answer").ack().expect("its own");
        };
        group.bench_function("there and back, busy", |bencher| bencher.iter(&mut there_and_back));
        let mut ways = Vec::new();
        for _ in 0..RUNS {
            let begun = Instant::now();
            (0..OPS).for_each(|_| there_and_back());
            ways.push(begun.elapsed() / 2);
        }
        let mut handled = || {
            let sequence = ask.publish(&value(HANDLE)).expect("room");
            receipts.receipt(lane, sequence).wait(Duration::from_secs(5)).expect("an outcome")
        };
        group.bench_function("publish and wait until it is handled, busy", |bencher| {
            bencher.iter(&mut handled)
        });
        let mut waits = Vec::new();
        for _ in 0..RUNS {
            let begun = Instant::now();
            (0..OPS).for_each(|_| _ = black_box(handled()));
            waits.push(begun.elapsed());
        }
        ask.publish(&value(END)).expect("room");
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e9 / OPS as f64
        };
        let (way, wait) = (median(&mut ways), median(&mut waits));
        println!("receipt: {wait:.0} ns, one way {way:.0} ns, ratio {:.2} (aimed at: below 3)", wait / way);
    });
    group.finish();
}

criterion_group!(
    benches,
    one_at_a_time,
    receive,
    locked,
    batches,
    windows,
    lingering,
    empty,
    patterns,
    descriptor,
    receipt
);
criterion_main!(benches);
