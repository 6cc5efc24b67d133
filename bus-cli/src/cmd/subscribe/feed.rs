//! From the topics to standard output: one thread a topic, whole lines, and nothing acknowledged that has not been written.

use super::line::{self, Facts, Format, TypeNames};
use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::signals::{self, Signals};
use crate::units;
use bus_shm::{Bytes, ReceiveError, Subscriber};
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A signal, a closed pipe and the end of another thread are noticed after at most this long.
const SLICE: Duration = Duration::from_millis(150);
/// Messages that are written before the output is flushed and they are acknowledged together.
const BATCH_MAX: usize = 256;

/// One topic's side of the feed.
pub(super) struct Reader {
    pub(super) subscriber: Subscriber<Bytes>,
    pub(super) types: TypeNames,
    pub(super) lanes: usize,
    /// Take no more than is being worked on: others share the group.
    pub(super) one_by_one: bool,
}

/// What the threads share.
pub(super) struct Feed<'a> {
    signals: &'a Signals,
    format: Format,
    count: Option<u64>,
    timeout: Option<Duration>,
    sink: Mutex<Sink>,
    done: AtomicBool,
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
        signals: &'a Signals,
        format: Format,
        count: Option<u64>,
        timeout: Option<Duration>,
    ) -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout());
        let sink = Mutex::new(Sink { out, written: 0, last: Instant::now() });
        Self { signals, format, count, timeout, sink, done: AtomicBool::new(count == Some(0)) }
    }

    /// Feeds until there is a reason to end.
    pub(super) fn run(&self, readers: Vec<Reader>) -> Outcome {
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let threads: Vec<_> = readers
                .into_iter()
                .map(|mut reader| {
                    scope.spawn(move || {
                        let outcome = self.pump(&mut reader);
                        // Whatever ends one ends all.
                        self.done.store(true, Ordering::Relaxed);
                        outcome
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(Failure::new(Code::Error, "a reading thread panicked")))
                })
                .collect()
        });
        outcomes.into_iter().collect::<Outcome>()?;
        let written = self.sink().written;
        if self.signals.raised() && self.count.is_some_and(|count| written < count) {
            return Err(self.signals.interrupted());
        }
        Ok(())
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pump(&self, reader: &mut Reader) -> Outcome {
        while !self.done.load(Ordering::Relaxed) && !self.signals.raised() {
            let turn = match reader.one_by_one {
                true => self.one(reader),
                false => self.batch(reader),
            };
            match turn {
                Ok(Turn::Something) => {}
                Ok(Turn::Nothing) => self.look_around()?,
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// A slice has passed without a message.
    fn look_around(&self) -> Outcome {
        if signals::is_output_closed() {
            return Err(Failure::Quiet(0));
        }
        let sink = self.sink();
        let Some(timeout) = self.timeout.filter(|timeout| sink.last.elapsed() >= *timeout) else {
            return Ok(());
        };
        self.done.store(true, Ordering::Relaxed);
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
            Some(timeout) => timeout.saturating_sub(self.sink().last.elapsed()).min(SLICE),
            None => SLICE,
        }
    }

    /// One message, acknowledged when it has been written.
    fn one(&self, reader: &mut Reader) -> Result<Turn, Failure> {
        let Reader { subscriber, types, lanes, .. } = reader;
        let topic = subscriber.topic().to_owned();
        let Some(message) = go_on(subscriber.receive_timeout(self.slice()))?.flatten() else {
            return Ok(Turn::Nothing);
        };
        let mut sink = self.sink();
        if self.left(&sink) == 0 {
            return Ok(Turn::Nothing);
        }
        let facts = Facts {
            topic: &topic,
            lane: message.lane(),
            lanes: *lanes,
            sequence: message.sequence(),
            stamp_ns: message.stamp_ns(),
            producer: message.producer(),
            kind: message.kind(),
            redelivered: message.is_redelivered(),
            payload: message.payload(),
        };
        self.write(&mut sink, &facts, types)?;
        self.flush(&mut sink)?;
        message.ack().map_err(ReceiveError::from)?;
        Ok(Turn::Something)
    }

    /// All messages that are there, up to a limit, acknowledged together when they have been written.
    fn batch(&self, reader: &mut Reader) -> Result<Turn, Failure> {
        let Reader { subscriber, types, lanes, .. } = reader;
        let topic = subscriber.topic().to_owned();
        let Some(mut batch) = go_on(subscriber.receive_batch(1, BATCH_MAX, self.slice()))? else {
            return Ok(Turn::Nothing);
        };
        let mut sink = self.sink();
        let mut turn = Turn::Nothing;
        while self.left(&sink) > 0 {
            let more = match batch.next_message()? {
                Some(message) => {
                    let facts = Facts {
                        topic: &topic,
                        lane: message.lane(),
                        lanes: *lanes,
                        sequence: message.sequence(),
                        stamp_ns: message.stamp_ns(),
                        producer: message.producer(),
                        kind: message.kind(),
                        redelivered: message.is_redelivered(),
                        payload: message.payload(),
                    };
                    self.write(&mut sink, &facts, types)?;
                    turn = Turn::Something;
                    true
                }
                None => false,
            };
            while let Some((lane, from, until)) = batch.take_missed() {
                say_missed(&topic, lane.name(*lanes), from, until);
            }
            if !more {
                break;
            }
        }
        self.flush(&mut sink)?;
        batch.ack();
        Ok(turn)
    }

    /// How many messages may still be written.
    fn left(&self, sink: &Sink) -> u64 {
        self.count.map_or(u64::MAX, |count| count.saturating_sub(sink.written))
    }

    fn write(&self, sink: &mut Sink, facts: &Facts<'_>, types: &mut TypeNames) -> Outcome {
        line::write(&mut sink.out, self.format, facts, types).map_err(|error| Failure::output(&error))?;
        sink.written += 1;
        sink.last = Instant::now();
        Ok(())
    }

    fn flush(&self, sink: &mut Sink) -> Outcome {
        sink.out.flush().map_err(|error| Failure::output(&error))?;
        if self.left(sink) == 0 {
            self.done.store(true, Ordering::Relaxed);
        }
        Ok(())
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
