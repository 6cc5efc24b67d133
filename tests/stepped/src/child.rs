//! The side of the process that is stepped: where its operation begins and ends, and what it does before and after.

use crate::body::{Stream, body};
use crate::scene::{Scene, WITNESS};
use crate::told::Told;
use bus_shm::{Bus, Bytes, Publisher, ReceiveError, Received, Subscriber, Topic};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

/// How long a child lives at most, in seconds, should its parent have ended.
const LIFETIME_S: u32 = 120;

/// What is said of a message that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Again, after the group's delay.
    Retry,
    /// Again, after so long.
    At(Duration),
    /// Never again.
    Dead,
}

/// What an operation is given.
#[derive(Debug)]
pub struct Child {
    /// Directory of its bus.
    pub dir: PathBuf,
    /// What it finds there.
    pub scene: Scene,
    /// What it tells.
    pub told: Told,
}

/// Stops a process that is traced, and tells its tracer where it is.
#[inline(always)]
fn mark() {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    // SAFETY: a breakpoint instruction has no operands; it may be taken to read and write all memory.
    unsafe {
        core::arch::asm!("int3");
    }
}

impl Child {
    /// For a process that a test has started.
    pub fn new(dir: PathBuf, scene: Scene, told: Told) -> Self {
        // SAFETY: takes a number.
        #[allow(unsafe_code)]
        unsafe {
            libc::alarm(LIFETIME_S);
        }
        Self { dir, scene, told }
    }

    /// Says a word to the parent, and waits for one.
    pub fn meet(&self, word: &str) {
        println!("{word}");
        std::io::stdout().flush().expect("the parent listens");
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).expect("the parent speaks");
    }

    /// Everything is prepared: what follows is stepped.
    #[inline(always)]
    pub fn begin(&self) {
        self.meet("ready");
        mark();
    }

    /// The same, after something that is to be done when survivors are there already.
    #[inline(always)]
    pub fn begin_after(&self, prepare: impl FnOnce()) {
        self.meet("ready");
        prepare();
        mark();
    }

    /// The operation is over.
    #[inline(always)]
    pub fn end(&self) {
        mark();
    }

    /// Its bus.
    pub fn bus(&self) -> Bus {
        Scene::bus(&self.dir, "child")
    }

    /// Its topic.
    pub fn topic(&self, bus: &Bus) -> Topic<Bytes> {
        self.scene.topic(bus).expect("the topic of the scene")
    }

    /// A publisher.
    pub fn publisher(&self) -> Publisher<Bytes> {
        self.topic(&self.bus()).publisher().expect("a publisher")
    }

    /// A member of the scene's group.
    pub fn member(&self) -> Subscriber<Bytes> {
        self.scene.member(&self.topic(&self.bus()))
    }

    /// The next message of this process, `after` others.
    pub fn body(&self, after: u64) -> Vec<u8> {
        body(Stream::Child.number(self.told.intended() + after), self.scene.body_bytes)
    }

    /// Publishes a message and tells of it.
    #[inline]
    pub fn publish(&self, publisher: &mut Publisher<Bytes>, body: &[u8]) {
        self.told.intend(1);
        match self.scene.publish(publisher, body) {
            Ok(_) => self.told.accepted(1),
            Err(error) => self.failed(&error),
        }
    }

    /// Publishes so many messages.
    pub fn publish_many(&self, publisher: &mut Publisher<Bytes>, count: u64) {
        for _ in 0..count {
            let body = self.body(0);
            self.publish(publisher, &body);
        }
    }

    /// Publishes so many, and reads them for the group of the witness.
    pub fn publish_and_read(&self, publisher: &mut Publisher<Bytes>, count: u64) {
        let topic = self.topic(&self.bus());
        let mut witness = topic.group(WITNESS).join().expect("the witness's place");
        for _ in 0..count {
            self.publish_many(publisher, 1);
            witness.receive().expect("a message").ack().expect("the witness is alone");
            self.told.witnessed(1);
        }
    }

    /// Receives a message and tells of it.
    #[inline]
    pub fn receive<'s>(&self, subscriber: &'s mut Subscriber<Bytes>) -> Option<Received<'s, Bytes>> {
        self.told.ask();
        match subscriber.try_receive() {
            Ok(message) => {
                if let Some(message) = &message {
                    self.told.received(message.sequence(), message.attempts());
                }
                message
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Acknowledges a message and tells of it.
    #[inline]
    pub fn acknowledge(&self, message: Received<'_, Bytes>) {
        self.told.acknowledge(&[message.sequence()]);
        match message.ack() {
            Ok(()) => self.told.acknowledged(1),
            Err(_) if self.may_lose() => self.told.acknowledgement_lost(),
            Err(error) => self.failed(&error),
        }
    }

    /// May a message be taken from it that it is too slow with?
    fn may_lose(&self) -> bool {
        self.scene.late.is_some_and(|late| late.ack_wait.is_some())
    }

    /// Puts a message aside and tells of it.
    #[inline]
    pub fn fail(&self, message: Received<'_, Bytes>, verdict: Verdict) {
        self.told.fail(message.sequence(), message.attempts(), verdict == Verdict::Dead);
        let put = match verdict {
            Verdict::Retry => message.retry("it failed"),
            Verdict::At(delay) => message.retry_after(delay, "it failed"),
            Verdict::Dead => message.reject("it is bad"),
        };
        match put {
            Ok(()) => self.told.put_aside(1),
            Err(ReceiveError::NotOwner(_)) if self.may_lose() => self.told.fail_lost(),
            Err(error) => self.failed(&error),
        }
    }

    /// Receives a message and puts it aside.
    pub fn put_aside(&self, subscriber: &mut Subscriber<Bytes>, verdict: Verdict) {
        let message = self.receive(subscriber).expect("a message");
        self.fail(message, verdict);
    }

    /// Receives and acknowledges so many messages.
    pub fn consume(&self, subscriber: &mut Subscriber<Bytes>, count: u64) {
        for _ in 0..count {
            let message = self.receive(subscriber).expect("a message");
            self.acknowledge(message);
        }
    }

    /// An operation did not do what it was to do.
    #[cold]
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        self.told.failed(&error.to_string());
    }

    /// After the operation: publishes on, more than the ring holds.
    pub fn publish_on(&self, mut publisher: Publisher<Bytes>) {
        publisher.set_deadline(Duration::from_secs(10));
        self.publish_many(&mut publisher, u64::from(2 * self.scene.capacity + 3));
    }

    /// After the operation: reads on, until it is told to stop and there is nothing left.
    pub fn read_on(&self, mut subscriber: Subscriber<Bytes>) {
        loop {
            self.told.ask();
            let is_last = self.told.is_stopped();
            match subscriber.receive_timeout(Duration::from_millis(2)) {
                Ok(Some(message)) => {
                    self.told.received(message.sequence(), message.attempts());
                    self.acknowledge(message);
                }
                Ok(None) if is_last => return,
                Ok(None) => {}
                Err(error) => return self.failed(&error),
            }
        }
    }
}
