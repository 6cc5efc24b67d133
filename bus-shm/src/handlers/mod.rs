//! Handlers: functions that are called for each message of a group, each at its own pace, until the program is told to end.
//!
//! Every handler has a group and threads of its own, so that several handlers of one topic see the same message at the same time, and
//! one that is slow, fails or panics holds up neither the others nor whoever added them. What a handler could not do comes again,
//! as [`Received::retry`] says, and becomes a dead letter in the end; its error, or what it said when it panicked, stands there.
//!
//! [`Bus::on`] says which topics a handler is for, [`Handlers::run`] has them work until SIGTERM or SIGINT.

mod context;
mod registration;
#[cfg(feature = "signals")]
mod signals;
mod stop;
mod work;

pub use context::Context;
pub use registration::Registration;
pub use stop::Stopper;

use crate::bus::Bus;
use crate::error::AttachError;
use crate::many::ManyError;
use crate::payload::Speak;
use crate::subscriber::{Received, SubscriberBuilder};
use crate::sys::error::SysError;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use work::{Each, Source, Tally, Work};

/// Why a handler could not handle a message. [`reject`] and [`give_back`] make two that mean more.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// How long handlers may take to finish what they have in hand when they are to end, unless told otherwise.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(10);

/// What a handler returns of a message that can never be handled: it becomes a dead letter at once.
pub fn reject(why: impl Into<String>) -> HandlerError {
    Box::new(Reject(why.into()))
}

/// What a handler returns of a message that it has not worked on: it comes again at once, to whoever is next. That it was handed out
/// counts as an attempt all the same: one that everybody gives back is a dead letter in the end.
pub fn give_back() -> HandlerError {
    Box::new(GiveBack)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reject(String);

#[derive(Debug, thiserror::Error)]
#[error("given back")]
struct GiveBack;

/// What a handler has done in its life.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handled {
    /// Its name.
    pub name: String,
    /// Messages that it handled.
    pub handled_count: u64,
    /// How often it returned an error, rejections included.
    pub failed_count: u64,
    /// Of these, how often it rejected a message.
    pub rejected_count: u64,
    /// How often it panicked.
    pub panicked_count: u64,
    /// Threads that had not finished when the time for it was over. What they have in hand comes again when this process ends.
    pub unfinished_count: usize,
    /// The first few of what went wrong with its topics and did not end it.
    pub troubles: Vec<String>,
    /// What ended it, if it was not asked to end.
    pub ended_by: Option<ManyError>,
}

/// A handler that runs.
#[derive(Debug)]
struct Running {
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

/// Handlers that run. Dropped, they end: each finishes the message that it has in hand.
#[derive(Debug)]
pub struct Handlers {
    running: Vec<Running>,
    stopper: Stopper,
    drain: Duration,
    has_ended: bool,
}

impl Default for Handlers {
    fn default() -> Self {
        Self { running: Vec::new(), stopper: Stopper::new(), drain: DRAIN_DEFAULT, has_ended: false }
    }
}

impl Handlers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long they may take to finish what they have in hand when they are to end. Default 10 s.
    pub fn drain_within(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// What tells them to end, from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Starts what [`Bus::on`] and its like have described.
    ///
    /// # Errors
    /// As [`crate::ManyBuilder::join`]; a topic that was named and could not be joined; a topic whose group this process has already, by
    /// another handler; no thread could be started.
    pub fn add<T: Speak + Send + 'static>(&mut self, registration: Registration<T>) -> Result<(), ManyError> {
        let (name, bus, parts) = registration.join()?;
        self.start(&name, bus, parts)?;
        Ok(())
    }

    /// Starts a handler of one topic: `handle` is called for each message of the group that `group` joins, one at a time, in a
    /// thread that has the handler's name. Returned, it is done; an error has the message come again.
    ///
    /// After a panic it is called again with the next message: what it has half changed by then is its own affair.
    ///
    /// # Errors
    /// As [`SubscriberBuilder::join`], or no thread could be started.
    pub fn on<T, F>(
        &mut self,
        name: &str,
        group: SubscriberBuilder<T>,
        mut handle: F,
    ) -> Result<(), AttachError>
    where
        T: Speak + Send + 'static,
        F: FnMut(&Received<'_, T>) -> Result<(), HandlerError> + Send + 'static,
    {
        let (bus, subscriber) = (group.bus(), group.handler(name).join()?);
        let each: Each<T> = Box::new(move |message, _| handle(message));
        self.start(name, bus, vec![(Source::one(subscriber), Work::Each(each))])?;
        Ok(())
    }

    /// A thread for each of these, which begin when there are all.
    fn start<T: Speak + Send + 'static>(
        &mut self,
        name: &str,
        bus: Bus,
        parts: Vec<(Source<T>, Work<T>)>,
    ) -> Result<(), SysError> {
        let tally = Arc::new(Tally::new(name));
        let (mut threads, mut begins) = (Vec::new(), Vec::new());
        for _ in &parts {
            let (begin, part) = std::sync::mpsc::channel();
            let tally = tally.clone();
            let thread = std::thread::Builder::new()
                .name(name.replace('\0', " "))
                .spawn(move || {
                    // Nothing comes where another thread could not be started.
                    let Ok((source, work, context, running)) = part.recv() else { return };
                    // Last of all: the place in the group has been left by then.
                    let _running = running;
                    work::run(source, work, context, &tally);
                })
                .map_err(|error| SysError::from_io("clone", "a handler's thread", &error))?;
            threads.push(thread);
            begins.push(begin);
        }
        for ((mut source, work), begin) in parts.into_iter().zip(begins) {
            let context = Context::new(bus.clone(), self.stopper.clone());
            self.stopper.wakes(source.waker());
            // It waits for this and for nothing else.
            let _ = begin.send((source, work, context, self.stopper.begin()));
        }
        self.running.push(Running { tally, threads });
        Ok(())
    }

    /// Have all of them ended by themselves, because the bus has been taken down, say?
    pub fn have_ended(&self) -> bool {
        self.running.iter().flat_map(|running| &running.threads).all(JoinHandle::is_finished)
    }

    /// Waits until they are told to end, by a [`Stopper`] or by one of them, or have all ended by themselves; then as
    /// [`Handlers::stop`].
    pub fn wait(mut self) -> Vec<Handled> {
        self.stopper.wait();
        self.end()
    }

    /// The same, and from this call on SIGTERM and SIGINT tell them to end too. A second one ends the process at once: what was in hand comes again.
    /// Afterwards they do what they did before. One that was ignored (`nohup`) stays so.
    ///
    /// # Errors
    /// The signals cannot be caught.
    #[cfg(feature = "signals")]
    pub fn run(self) -> std::io::Result<Vec<Handled>> {
        let _caught = signals::Caught::new(&self.stopper)?;
        Ok(self.wait())
    }

    /// Ends them and says what they have done. Each finishes the message that it has in hand; what is left stays for whoever joins
    /// its group next. One that takes longer than [`Handlers::drain_within`] allows is left alone, and its message comes again when
    /// this process ends.
    pub fn stop(mut self) -> Vec<Handled> {
        self.end()
    }

    fn end(&mut self) -> Vec<Handled> {
        self.has_ended = true;
        self.stopper.stop();
        let have_ended = self.stopper.wait_for_end(Instant::now().checked_add(self.drain));
        self.stopper.forget_wakers();
        let ended = self.running.drain(..).map(|Running { tally, threads }| {
            let mut unfinished_count = 0;
            for thread in threads {
                // One that has done its last is about to be finished.
                if have_ended || thread.is_finished() {
                    if let Err(panic) = thread.join() {
                        tally.thread_panicked(&*panic);
                    }
                } else {
                    unfinished_count += 1;
                }
            }
            tally.handled(unfinished_count)
        });
        ended.collect()
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        // What did not end in time is not waited for again.
        if !self.has_ended {
            self.end();
        }
    }
}
