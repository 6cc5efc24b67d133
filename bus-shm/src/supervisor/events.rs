//! What happens on the bus, for whoever wants to know: JSON lines on the topic `_bus.events`.
//!
//! The holder of the role notes them; a thread of its process that takes part like any other publishes them. Nobody waits for
//! it. The topic keeps the newest, so that no reader holds it up.

use super::presence;
use crate::bus::{Bus, BusInner};
use crate::directory::BusDir;
use crate::error::TopicError;
use crate::payload::Bytes;
use crate::region::Region;
use crate::sys::clock::realtime_ns;
use crate::topic::{Overflow, Topic, TopicBuilder};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The topic.
pub const EVENTS_TOPIC: &str = "_bus.events";
/// Under which name they are published.
pub(crate) const SERVICE: &str = "shmbus-events";
/// Events that may wait; more are dropped, and their number is an event.
const QUEUE_MAX: usize = 1_024;
/// How long the thread stays for more: a breaker's next step comes within a second.
const LINGER: Duration = Duration::from_secs(2);
/// Slots of the topic.
const CAPACITY: u32 = 1_024;
/// Longest event.
const EVENT_BYTES_MAX: u64 = 4_096;

/// The topic, made if need be.
pub(crate) fn open(bus: &Arc<BusInner>) -> Result<Topic<Bytes>, TopicError> {
    TopicBuilder::new(bus.clone(), EVENTS_TOPIC)
        .capacity(CAPACITY)
        .lanes(1)
        .max_message(EVENT_BYTES_MAX)
        .overflow(Overflow::KeepNewest)
        .for_the_bus()
        .open()
}

/// One event: a line of JSON that begins with what it is and when it was noted.
#[derive(Clone, Debug)]
pub(crate) struct Event(String);

impl Event {
    /// An event of this kind, now.
    pub(crate) fn new(kind: &str) -> Self {
        Self(String::from("{")).text("event", kind).number("at_ns", realtime_ns())
    }

    /// Adds a field.
    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        write_text(&mut self.0, value);
        self
    }

    /// Adds a field.
    pub(crate) fn number(mut self, name: &str, value: u64) -> Self {
        self.name(name);
        self.0 += &value.to_string();
        self
    }

    /// Adds a field that is a list of words.
    pub(crate) fn list<'a>(mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.name(name);
        self.0.push('[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            write_text(&mut self.0, value);
        }
        self.0.push(']');
        self
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        write_text(&mut self.0, name);
        self.0.push(':');
    }

    fn line(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A JSON string: names come from other processes and may hold anything.
fn write_text(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            control if u32::from(control) < 0x20 => *line += &format!("\\u{:04x}", u32::from(control)),
            other => line.push(other),
        }
    }
    line.push('"');
}

/// What is noted in a participant's entry when an event about it has been published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) participant: u16,
    pub(super) incarnation: u32,
    /// Of the word, in the entry.
    pub(super) offset: usize,
}

/// An event that waits.
type Line = (String, Option<Receipt>);

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    dropped: u64,
    /// A thread takes what comes.
    running: bool,
    /// Threads that have not ended: those that no longer take anything leave the bus.
    threads: usize,
    /// The holder is about to end: nothing new, and no lingering.
    stopping: bool,
}

#[derive(Debug)]
struct Shared {
    dir: BusDir,
    /// For receipts.
    superblock: Arc<Region>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Events(Arc<Shared>);

impl Events {
    pub(crate) fn new(dir: BusDir, superblock: Arc<Region>) -> Self {
        Self(Arc::new(Shared { dir, superblock, queue: Mutex::default(), changed: Condvar::new() }))
    }

    /// Is there the topic, since somebody reads it or something has happened?
    pub(super) fn has_topic(&self) -> bool {
        self.0.dir.topics().join(EVENTS_TOPIC).exists()
    }

    /// Has an event published. Returns at once.
    pub(crate) fn push(&self, event: Event) {
        self.push_line((event.line(), None));
    }

    /// The same for one that a successor tells where this holder does not come to it.
    pub(super) fn push_told(&self, event: Event, receipt: Receipt) {
        self.push_line((event.line(), Some(receipt)));
    }

    fn push_line(&self, line: Line) {
        let mut queue = self.0.lock();
        if queue.stopping {
            return;
        }
        if queue.lines.len() >= QUEUE_MAX {
            queue.dropped += 1;
            return;
        }
        queue.lines.push_back(line);
        if !queue.running {
            let shared = self.0.clone();
            let work = move || {
                let _ended = Ended(shared.clone());
                shared.publish_all();
            };
            queue.running = std::thread::Builder::new().name("shmbus-events".into()).spawn(work).is_ok();
            queue.threads += usize::from(queue.running);
        }
        self.0.changed.notify_all();
    }

    /// Lets the thread leave the bus while somebody still answers it. Waits no longer than `most`.
    pub(crate) fn finish(&self, most: Duration) {
        let begun = Instant::now();
        let mut queue = self.0.lock();
        queue.stopping = true;
        self.0.changed.notify_all();
        while queue.threads > 0 && begun.elapsed() < most {
            let left = most.saturating_sub(begun.elapsed());
            queue =
                self.0.changed.wait_timeout(queue, left).map_or_else(|error| error.into_inner().0, |it| it.0);
        }
    }
}

/// A thread has ended, also where it panicked.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.threads -= 1;
        if std::thread::panicking() {
            queue.running = false;
        }
        drop(queue);
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_all(&self) {
        let mut builder =
            Bus::builder(self.dir.name()).service(SERVICE).for_the_bus().host(false).create(false);
        if let Some(parent) = self.dir.base().parent() {
            builder = builder.dir(parent);
        }
        // The bus is going down, or is full: nobody is to be told, or nobody can be.
        let opened = builder.open().ok().and_then(|bus| {
            let topic = open(bus.inner()).ok()?;
            Some((topic.publisher().ok()?, bus))
        });
        let Some((mut publisher, _bus)) = opened else {
            let mut queue = self.lock();
            queue.dropped += queue.lines.len() as u64;
            queue.lines.clear();
            queue.running = false;
            return;
        };
        while let Some((lines, dropped)) = self.next() {
            if dropped > 0 {
                let _ = publisher.publish(Event::new("dropped").number("count", dropped).line().as_bytes());
            }
            for (line, receipt) in lines {
                // A successor may have told it while this process stood still.
                if receipt.is_some_and(|receipt| presence::is_told(&self.superblock, receipt)) {
                    continue;
                }
                if publisher.publish(line.as_bytes()).is_err() {
                    self.lock().dropped += 1;
                } else if let Some(receipt) = receipt {
                    presence::tell(&self.superblock, receipt);
                }
            }
        }
    }

    /// What is to be published, and how many could not be; `None` when nothing has come for a while.
    fn next(&self) -> Option<(VecDeque<Line>, u64)> {
        let until = Instant::now() + LINGER;
        let mut queue = self.lock();
        loop {
            if !queue.lines.is_empty() {
                return Some((std::mem::take(&mut queue.lines), std::mem::take(&mut queue.dropped)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if queue.stopping || left.is_zero() {
                // Under the lock: what comes from here on starts another thread.
                queue.running = false;
                return None;
            }
            queue =
                self.changed.wait_timeout(queue, left).map_or_else(|error| error.into_inner().0, |it| it.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_of_json_whatever_is_in_it() {
        let event = Event::new("breaker").text("service", "a\"b\\c\n\u{1}é").number("pid", 7);
        let line = event.list("lanes", ["high", "no\"rmal"]).line();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["service"], "a\"b\\c\n\u{1}é");
        assert_eq!((&value["event"], &value["pid"]), (&"breaker".into(), &7.into()));
        assert_eq!(value["lanes"], serde_json::json!(["high", "no\"rmal"]));
        assert!(!line.contains('\n'), "{line}");
    }
}
