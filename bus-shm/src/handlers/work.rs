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
pub(super) type All<T> = Box<dyn FnMut(&mut Batch<'_, T>, &mut Context) -> Result<(), HandlerError> + Send>;

/// What is to be called.
pub(super) enum Work<T> {
    Each(Each<T>),
    Batch(InBatches<T>),
}

/// Called for what there is.
pub(super) struct InBatches<T> {
    most: usize,
    handle: All<T>,
    /// So many messages are taken one by one: those of a batch that failed, each of which is then settled by itself.
    singly: usize,
}

impl<T> InBatches<T> {
    pub(super) fn new(most: usize, handle: All<T>) -> Self {
        Self { most: most.max(1), handle, singly: 0 }
    }
}

/// What a handler's call came to.
enum Came {
    Done,
    GivenBack,
    /// With the error's text; rejected, or to come again.
    Failed {
        text: String,
        is_rejected: bool,
    },
}

impl Came {
    /// Of what it returned. The text is another's code as well, and may panic.
    fn of(outcome: Result<(), HandlerError>) -> Self {
        match outcome {
            Ok(()) => Came::Done,
            Err(error) if error.is::<GiveBack>() => Came::GivenBack,
            Err(error) => Came::Failed { text: error.to_string(), is_rejected: error.is::<Reject>() },
        }
    }
}

/// Where messages come from.
pub(super) enum Source<T> {
    One(Box<Subscriber<T>>, Arc<str>),
    Many(Box<ManySubscriber<T>>),
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

    /// A thread has ended by a panic of its own, outside of the handler's calls.
    pub(super) fn thread_panicked(&self, panic: &(dyn Any + Send)) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.0.push(format!("a thread has panicked: {}", text_of(panic)));
    }

    /// How a call that failed is counted.
    fn count_failed(&self, is_rejected: bool) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.rejected.fetch_add(u64::from(is_rejected), Ordering::Relaxed);
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
    while !context.takes_no_more() {
        let done = match &mut work {
            Work::Each(handle) => each(&mut source, handle, &mut context, tally),
            Work::Batch(work) => batch(&mut source, work, &mut context, tally),
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
    match catch_unwind(AssertUnwindSafe(|| Came::of(handle(&mut message, context)))) {
        Ok(Came::Done) => {
            tally.handled.fetch_add(1, Ordering::Relaxed);
            message.ack()?;
        }
        Ok(Came::GivenBack) => drop(message),
        Ok(Came::Failed { text, is_rejected }) => {
            // One that is invalid can never be handled: dropped, it is a dead letter.
            tally.count_failed(is_rejected && !message.is_invalid());
            if message.is_invalid() {
                drop(message);
            } else if is_rejected {
                message.reject(&text)?;
            } else {
                message.retry(&text)?;
            }
        }
        Err(panic) => {
            tally.panicked.fetch_add(1, Ordering::Relaxed);
            message.retry(&panicked(&*panic))?;
        }
    }
    Ok(())
}

fn batch<T: Speak>(
    source: &mut Source<T>,
    work: &mut InBatches<T>,
    context: &mut Context,
    tally: &Tally,
) -> Result<(), ManyError> {
    let Some(subscriber) = source.ready()? else { return Ok(()) };
    let most = if work.singly > 0 { 1 } else { work.most };
    let mut batch = subscriber.receive_batch(1, most, Duration::ZERO)?;
    context.no_cause();
    let came = catch_unwind(AssertUnwindSafe(|| Came::of((work.handle)(&mut batch, context))));
    let count = batch.len();
    work.singly = work.singly.saturating_sub(count);
    let (text, is_rejected) = match came {
        Ok(Came::Done) => {
            tally.handled.fetch_add(count as u64, Ordering::Relaxed);
            batch.ack();
            return Ok(());
        }
        Ok(Came::GivenBack) => return Ok(()),
        Ok(Came::Failed { text, is_rejected }) => {
            tally.count_failed(is_rejected && count == 1);
            (text, is_rejected)
        }
        Err(panic) => {
            tally.panicked.fetch_add(1, Ordering::Relaxed);
            (panicked(&*panic), false)
        }
    };
    match count {
        // It cannot even take them. That is nothing to be tried again at once.
        0 => {
            drop(batch);
            std::thread::sleep(FULL_PAUSE);
        }
        // Where it has looked further, its one message comes again, alone.
        1 => work.singly = usize::from(!batch.settle_failed(&text, is_rejected)?),
        // Of several it is not known which one is to blame: they come one by one.
        _ => {
            drop(batch);
            work.singly = count;
        }
    }
    Ok(())
}

/// What is said of a message whose handler has panicked.
fn panicked(panic: &(dyn Any + Send)) -> String {
    format!("panicked: {}", text_of(panic))
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
