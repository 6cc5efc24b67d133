//! The processes around: each is this program again, hears its orders in lines, and says what came of them.

use bus_shm::sys::clock::monotonic_ns;
use bus_shm::sys::cpu::thread_cpu_ns;
use bus_shm::{Bus, Bytes, Overflow, PublishError, Topic};
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// First word of a part's command line.
pub(crate) const PART: &str = "part";
/// The topic of the spammers, and the one that behaves.
pub(crate) const SPAM: &str = "spam";
pub(crate) const GOOD: &str = "good";
/// How long a spammer waits for room.
const DEADLINE: Duration = Duration::from_millis(200);
/// How long the consumer takes for a message.
const WORK: Duration = Duration::from_millis(400);
/// From one message of the topic that behaves to the next.
const GOOD_PERIOD: Duration = Duration::from_millis(2);
/// From one message of a spammer that keeps its pace to the next.
const SPAM_PERIOD: Duration = Duration::from_micros(100);
/// A burner that could not run for longer does not make good for it.
const TURN_MAX: Duration = Duration::from_millis(1);
/// A part looks at its orders at least so often.
const LOOK: Duration = Duration::from_millis(20);

/// Orders, line by line; the process ends with whoever gives them.
struct Orders(Receiver<String>);

impl Orders {
    fn new() -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
            std::process::exit(0);
        });
        Self(receiver)
    }

    fn hear(&self) -> String {
        self.0.recv().expect("the process ends when nobody gives orders")
    }

    fn has_come(&self) -> Option<String> {
        self.0.try_recv().ok()
    }
}

fn tell(what: impl std::fmt::Display) {
    println!("{what}");
    let _ = std::io::stdout().flush();
}

pub(crate) fn play(name: &str, bus: &str, argument: &str) {
    let orders = Orders::new();
    match name {
        "burner" => burn(&orders),
        _ => {
            let bus = Bus::builder(bus).temporary(true).service(name).open().expect("the bus");
            match name {
                "spammer" => spam(&bus, &orders, argument == "paced"),
                "consumer" => consume(&bus, &orders),
                "sender" => send(&bus, &orders),
                "receiver" => receive(&bus, &orders),
                other => panic!("no part {other:?}"),
            }
        }
    }
}

pub(crate) fn spam_topic(bus: &Bus) -> Topic<Bytes> {
    bus.topic_builder(SPAM).capacity(1_024).overflow(Overflow::Wait).open().expect("the topic")
}

/// Publishes when told "go", until told "rest"; says when it was first refused by a breaker.
fn spam(bus: &Bus, orders: &Orders, is_paced: bool) {
    let mut publisher = spam_topic(bus).publisher().expect("a publisher");
    publisher.set_deadline(DEADLINE);
    let payload = [7; 1_000];
    tell("ready");
    loop {
        assert_eq!(orders.hear(), "go");
        let begun = Instant::now();
        let mut due = begun;
        let mut is_refused = false;
        while orders.has_come().is_none() {
            match publisher.publish(&payload) {
                Ok(_) | Err(PublishError::Full(_)) => {}
                Err(PublishError::CircuitOpen { .. }) => {
                    if !is_refused {
                        is_refused = true;
                        tell(format_args!("open {}", begun.elapsed().as_millis()));
                    }
                }
                Err(error) => panic!("{error}"),
            }
            if is_paced {
                // What could not be kept is made good for, but for no more than a millisecond of it.
                let now = Instant::now();
                due = (due + SPAM_PERIOD).max(now - TURN_MAX);
                std::thread::sleep(due.saturating_duration_since(now));
            }
        }
        tell("resting");
    }
}

fn consume(bus: &Bus, orders: &Orders) {
    let mut subscriber = spam_topic(bus).group("slow").join().expect("a group");
    tell("ready");
    while orders.has_come().is_none() {
        if let Some(message) = subscriber.receive_timeout(LOOK).expect("a message") {
            std::thread::sleep(WORK);
            message.ack().expect("an acknowledgement");
        }
    }
}

fn send(bus: &Bus, orders: &Orders) {
    let mut publisher = bus.topic::<Bytes>(GOOD).expect("the topic").publisher().expect("a publisher");
    tell("ready");
    let mut due = Instant::now();
    while orders.has_come().is_none() {
        publisher.publish(&[1; 200]).expect("room");
        due = (due + GOOD_PERIOD).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Says on "report" how long messages took since "reset": the 99th percentile, and how many there were.
fn receive(bus: &Bus, orders: &Orders) {
    let mut subscriber = bus.topic::<Bytes>(GOOD).expect("the topic").subscribe().expect("a group");
    tell("ready");
    let mut taken_ns = Vec::new();
    loop {
        match orders.has_come().as_deref() {
            Some("reset") => taken_ns.clear(),
            Some("report") => {
                taken_ns.sort_unstable();
                let p99 = taken_ns.get(taken_ns.len() * 99 / 100).copied().unwrap_or(0);
                tell(format_args!("{p99} {}", taken_ns.len()));
            }
            Some(_) => return,
            None => {}
        }
        if let Some(message) = subscriber.receive_timeout(LOOK).expect("a message") {
            taken_ns.push(monotonic_ns().saturating_sub(message.stamp_ns()));
            message.ack().expect("an acknowledgement");
        }
    }
}

/// Uses so many thousandths of a processor when told how many, or all that it gets at 1,000, until told "rest"; knows no bus. It
/// wakes as often as a spammer that keeps its pace, and does as little each time.
fn burn(orders: &Orders) {
    tell("ready");
    loop {
        let share = orders.hear().parse::<u64>().expect("thousandths");
        let mut last = Instant::now();
        while orders.has_come().is_none() {
            if share >= 1_000 {
                // No system call, as a spammer makes none that is refused: the scheduler may let whoever makes one wait for those
                // it has woken, where it would leave the others alone until the next tick.
                std::hint::spin_loop();
                continue;
            }
            std::thread::sleep(SPAM_PERIOD);
            let turn = Instant::now();
            let due_ns = (turn - last).min(TURN_MAX).as_nanos() as u64 * share / 1_000;
            last = turn;
            let begun_ns = thread_cpu_ns();
            while thread_cpu_ns() - begun_ns < due_ns {
                std::hint::spin_loop();
            }
        }
        tell("resting");
    }
}
