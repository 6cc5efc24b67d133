//! From the topics to standard output: whole lines, and nothing acknowledged that has not been written.

use super::line::{self, Facts, Format, TypeNames};
use super::{Place, is_pattern};
use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::signals::{self, Signals};
use crate::units;
use bus_shm::{Bytes, MailboxError, ManyError, ManySubscriber, ReceiveError, Subscriber, mailbox};
use std::collections::HashMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::time::{Duration, Instant};

/// A signal and a closed pipe are noticed after at most this long.
const SLICE: Duration = Duration::from_millis(150);
/// Messages that are written before the output is flushed and they are acknowledged together.
const BATCH_MAX: usize = 256;

/// The way of messages to standard output.
pub(super) struct Feed<'a> {
    place: &'a Place,
    signals: &'a Signals,
    format: Format,
    count: Option<u64>,
    timeout: Option<Duration>,
    /// Take no more than is being worked on: others share the group.
    one_by_one: bool,
    sink: Sink,
    done: bool,
    /// Names of each topic's types.
    types: HashMap<String, TypeNames>,
}

struct Sink {
    out: BufWriter<Stdout>,
    written: u64,
    /// When the last message was written, or the feed began.
    last: Instant,
}

/// Has a turn brought anything?
enum Turn {
    Something,
    Nothing,
}

impl<'a> Feed<'a> {
    pub(super) fn new(
        place: &'a Place,
        signals: &'a Signals,
        format: Format,
        (count, timeout): (Option<u64>, Option<Duration>),
        one_by_one: bool,
    ) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout());
        let sink = Sink { out, written: 0, last: Instant::now() };
        let done = count == Some(0);
        Self { place, signals, format, count, timeout, one_by_one, sink, done, types: HashMap::new() }
    }

    /// Feeds until there is a reason to end.
    pub(super) fn run(mut self, mut many: ManySubscriber<Bytes>, names: &[String]) -> Outcome {
        while !self.done && !self.signals.raised() {
            let slice = self.slice();
            let turn = match many.ready(slice) {
                Ok(Some(subscriber)) if self.one_by_one => self.one(subscriber)?,
                Ok(Some(subscriber)) => self.batch(subscriber)?,
                Ok(None) => Turn::Nothing,
                Err(error) => {
                    go_on_after(error, names)?;
                    Turn::Nothing
                }
            };
            if matches!(turn, Turn::Nothing) {
                self.look_around()?;
            }
        }
        let written = self.sink.written;
        if self.signals.raised() && self.count.is_some_and(|count| written < count) {
            return Err(self.signals.interrupted());
        }
        Ok(())
    }

    /// A slice has passed without a message.
    fn look_around(&mut self) -> Outcome {
        if signals::is_output_closed() {
            return Err(Failure::Quiet(0));
        }
        let sink = &self.sink;
        let Some(timeout) = self.timeout.filter(|timeout| sink.last.elapsed() >= *timeout) else {
            return Ok(());
        };
        self.done = true;
        if self.count.is_none() && sink.written > 0 {
            return Ok(());
        }
        let waited = units::duration(timeout);
        let message = match self.count {
            Some(count) => format!("no message for {waited}; {} of {count} have come", sink.written),
            None => format!("no message for {waited}"),
        };
        Err(Failure::new(Code::TimedOut, message))
    }

    /// How long to wait for the next message before looking around.
    fn slice(&self) -> Duration {
        match self.timeout {
            Some(timeout) => timeout.saturating_sub(self.sink.last.elapsed()).min(SLICE),
            None => SLICE,
        }
    }

    /// One message, acknowledged when it has been written.
    fn one(&mut self, subscriber: &mut Subscriber<Bytes>) -> Result<Turn, Failure> {
        let (topic, lanes) = (subscriber.topic().to_owned(), subscriber.lanes());
        let Some(message) = go_on(subscriber.try_receive())?.flatten() else {
            return Ok(Turn::Nothing);
        };
        let facts = Facts {
            topic: &topic,
            lane: message.lane(),
            lanes,
            sequence: message.sequence(),
            stamp_ns: message.stamp_ns(),
            producer: message.producer(),
            kind: message.kind(),
            redelivered: message.is_redelivered(),
            payload: message.payload(),
            said: Some(message.metadata()),
        };
        self.write(&facts)?;
        self.flush()?;
        message.ack().map_err(ReceiveError::from)?;
        Ok(Turn::Something)
    }

    /// All messages that are there, up to a limit, acknowledged together when they have been written.
    fn batch(&mut self, subscriber: &mut Subscriber<Bytes>) -> Result<Turn, Failure> {
        let (topic, lanes) = (subscriber.topic().to_owned(), subscriber.lanes());
        let Some(mut batch) = go_on(subscriber.receive_batch(1, BATCH_MAX, Duration::ZERO))? else {
            return Ok(Turn::Nothing);
        };
        let mut turn = Turn::Nothing;
        while self.left() > 0 {
            let more = match batch.next_message()? {
                Some(message) => {
                    let facts = Facts {
                        topic: &topic,
                        lane: message.lane(),
                        lanes,
                        sequence: message.sequence(),
                        stamp_ns: message.stamp_ns(),
                        producer: message.producer(),
                        kind: message.kind(),
                        redelivered: message.is_redelivered(),
                        payload: message.payload(),
                        said: Some(message.metadata()),
                    };
                    self.write(&facts)?;
                    turn = Turn::Something;
                    true
                }
                None => false,
            };
            while let Some((lane, from, until)) = batch.take_missed() {
                say_missed(&topic, lane.name(lanes), from, until);
            }
            if !more {
                break;
            }
        }
        self.flush()?;
        batch.ack();
        Ok(turn)
    }

    /// How many messages may still be written.
    fn left(&self) -> u64 {
        self.count.map_or(u64::MAX, |count| count.saturating_sub(self.sink.written))
    }

    fn write(&mut self, facts: &Facts<'_>) -> Outcome {
        let Self { place, types, sink, format, .. } = self;
        if !types.contains_key(facts.topic) {
            types.insert(facts.topic.to_owned(), TypeNames::new(place, facts.topic)?);
        }
        if let Some(types) = types.get_mut(facts.topic) {
            line::write(&mut sink.out, *format, facts, types).map_err(|error| Failure::output(&error))?;
        }
        sink.written += 1;
        sink.last = Instant::now();
        Ok(())
    }

    fn flush(&mut self) -> Outcome {
        self.sink.out.flush().map_err(|error| Failure::output(&error))?;
        self.done |= self.left() == 0;
        Ok(())
    }
}

/// A topic that a pattern found and that cannot be joined is reported, and the others go on; what was named must be there.
fn go_on_after(error: ManyError, names: &[String]) -> Outcome {
    match error {
        ManyError::Join { topic, source: bus_shm::AttachError::GroupBusy { pid, service, .. } }
            if mailbox::mailbox_of(&topic).is_some() =>
        {
            let mailbox = mailbox::mailbox_of(&topic).unwrap_or_default().to_owned();
            Err(MailboxError::Owned { mailbox, pid, service }.into())
        }
        ManyError::Join { topic, source } if names.iter().any(|name| !is_pattern(name) && *name == topic) => {
            Err(source.into())
        }
        ManyError::Join { .. } | ManyError::TopicLimit { .. } | ManyError::TopicListeners { .. } => {
            output::complain(&error.to_string());
            Ok(())
        }
        ManyError::Receive(error) => go_on::<()>(Err(error)).map(|_| ()),
        ManyError::Bus(error) => Err(error.into()),
        other => Err(Failure::new(Code::Error, other)),
    }
}

/// Losing the files of the bus is reported, and then it goes on; everything else ends the feed.
fn go_on<T>(received: Result<T, ReceiveError>) -> Result<Option<T>, Failure> {
    match received {
        Ok(received) => Ok(Some(received)),
        Err(error @ ReceiveError::BusUnlinked { .. }) => {
            output::complain(&error.to_string());
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn say_missed(topic: &str, lane_name: &str, from: u64, until: u64) {
    let lost = until.wrapping_sub(from);
    output::remark(format_args!("missed {from}..{until} ({lost}) in lane {lane_name} of {topic}"));
}
