//! What a handler's thread does.

use super::{Context, GiveBack, Handled, HandlerError, Reject};
use crate::error::ReceiveError;
use crate::many::{Incoming, ManyError, ManySubscriber};
use crate::payload::Speak;
use crate::subscriber::{Batch, Subscriber};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Texts that are kept of what went wrong and did not end a handler.
const TROUBLES_MAX: usize = 8;
/// A group of one stands still for so long when its store is full.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Called for each message.
pub(super) type Each<T> =
    Box<dyn FnMut(&mut Incoming<'_, T>, &mut Context) -> Result<(), HandlerError> + Send>;
/// Called for what there is.
type All<T> = Box<dyn FnMut(&mut Batch<'_, T>, &mut Context) -> Result<(), HandlerError> + Send>;

/// What is to be called.
pub(super) enum Work<T> {
    Each(Each<T>),
    /// For so many messages at most.
    Batch(usize, All<T>),
}

/// Where messages come from.
pub(super) enum Source<T> {
    One(Box<Subscriber<T>>, Arc<str>),
    Many(ManySubscriber<T>),
}

impl<T: Speak> Source<T> {
    pub(super) fn one(subscriber: Subscriber<T>) -> Self {
        let name = subscriber.topic().into();
        Source::One(Box::new(subscriber), name)
    }

    /// What ends its waits.
    pub(super) fn waker(&mut self) -> Box<dyn Fn() + Send> {
        match self {
            Source::One(subscriber, _) => {
                let interrupter = subscriber.interrupter();
                Box::new(move || interrupter.interrupt())
            }
            Source::Many(many) => {
                let interrupter = many.interrupter();
                Box::new(move || interrupter.interrupt())
            }
        }
    }

    /// The next message; `None` when the wait was ended.
    fn next(&mut self) -> Result<Option<Incoming<'_, T>>, ManyError> {
        match self {
            Source::One(subscriber, topic) => match subscriber.receive() {
                Ok(message) => Ok(Some(Incoming::new(topic, message))),
                Err(ReceiveError::Interrupted { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Source::Many(many) => match many.receive() {
                Ok(message) => Ok(Some(message)),
                Err(ManyError::Receive(ReceiveError::Interrupted { .. })) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// The subscriber in whose topic something may have come; `None` when the wait was ended.
    fn ready(&mut self) -> Result<Option<&mut Subscriber<T>>, ManyError> {
        match self {
            Source::One(subscriber, _) => Ok(Some(subscriber)),
            Source::Many(many) => many.ready(Duration::MAX),
        }
    }
}

/// What a handler has done, counted by its threads.
#[derive(Debug)]
pub(super) struct Tally {
    name: String,
    handled: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    panicked: AtomicU64,
    ends: Mutex<(Vec<String>, Option<ManyError>)>,
}

impl Tally {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            ends: Mutex::default(),
        }
    }

    pub(super) fn handled(&self, unfinished_count: usize) -> Handled {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        Handled {
            name: self.name.clone(),
            handled_count: count(&self.handled),
            failed_count: count(&self.failed),
            rejected_count: count(&self.rejected),
            panicked_count: count(&self.panicked),
            unfinished_count,
            troubles: std::mem::take(&mut ends.0),
            ended_by: ends.1.take(),
        }
    }

    /// Something went wrong. True if the handler goes on.
    fn goes_on_after(&self, error: ManyError) -> bool {
        let is_of_one_topic = match &error {
            // One message is not for this handler, or is another's by now.
            ManyError::Receive(
                ReceiveError::OtherType { .. }
                | ReceiveError::FilterPanicked { .. }
                | ReceiveError::NotOwner(_),
            ) => return true,
            ManyError::Receive(ReceiveError::AsideFull { .. }) => {
                std::thread::sleep(FULL_PAUSE);
                true
            }
            ManyError::Receive(ReceiveError::BusUnlinked { .. })
            | ManyError::Join { .. }
            | ManyError::TopicLimit { .. }
            | ManyError::TopicListeners { .. } => true,
            _ => false,
        };
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_of_one_topic {
            ends.1 = Some(error);
        } else if ends.0.len() < TROUBLES_MAX {
            ends.0.push(error.to_string());
        }
        is_of_one_topic
    }
}

/// Handles what comes until it is told to end, or something ends it.
pub(super) fn run<T: Speak>(mut source: Source<T>, mut work: Work<T>, mut context: Context, tally: &Tally) {
    while !context.shutdown_requested() {
        let done = match &mut work {
            Work::Each(handle) => each(&mut source, handle, &mut context, tally),
            Work::Batch(most, handle) => batch(&mut source, *most, handle, &mut context, tally),
        };
        if let Err(error) = done
            && !tally.goes_on_after(error)
        {
            return;
        }
    }
}

fn each<T: Speak>(
    source: &mut Source<T>,
    handle: &mut Each<T>,
    context: &mut Context,
    tally: &Tally,
) -> Result<(), ManyError> {
    let Some(mut message) = source.next()? else { return Ok(()) };
    context.caused_by(&message.metadata());
    let outcome = catch_unwind(AssertUnwindSafe(|| handle(&mut message, context)));
    match outcome {
        Ok(Ok(())) => {
            tally.handled.fetch_add(1, Ordering::Relaxed);
            message.ack()?;
        }
        Ok(Err(error)) if error.is::<GiveBack>() => drop(message),
        Ok(Err(error)) => {
            tally.failed.fetch_add(1, Ordering::Relaxed);
            if message.is_invalid() {
                // It can never be handled: dropped, it is a dead letter.
                drop(message);
            } else if error.is::<Reject>() {
                tally.rejected.fetch_add(1, Ordering::Relaxed);
                message.reject(&error.to_string())?;
            } else {
                message.retry(&error.to_string())?;
            }
        }
        Err(panic) => {
            tally.panicked.fetch_add(1, Ordering::Relaxed);
            message.retry(&format!("panicked: {}", text_of(&*panic)))?;
        }
    }
    Ok(())
}

fn batch<T: Speak>(
    source: &mut Source<T>,
    most: usize,
    handle: &mut All<T>,
    context: &mut Context,
    tally: &Tally,
) -> Result<(), ManyError> {
    let Some(subscriber) = source.ready()? else { return Ok(()) };
    let mut batch = subscriber.receive_batch(1, most, Duration::ZERO)?;
    context.no_cause();
    let outcome = catch_unwind(AssertUnwindSafe(|| handle(&mut batch, context)));
    let count = batch.len() as u64;
    match outcome {
        Ok(Ok(())) => {
            tally.handled.fetch_add(count, Ordering::Relaxed);
            batch.ack();
        }
        Ok(Err(_)) => _ = tally.failed.fetch_add(count.max(1), Ordering::Relaxed),
        Err(_) => _ = tally.panicked.fetch_add(1, Ordering::Relaxed),
    }
    Ok(())
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
