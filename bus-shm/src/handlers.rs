//! Handlers: functions that are called for each message of a group, each at its own pace.
//!
//! Every handler has a group and a thread of its own, so that several handlers of one topic see the same message at the same time, and
//! one that is slow, fails or panics holds up neither the others nor whoever added them. What a handler could not do comes again,
//! as [`Received::retry`] says, and becomes a dead letter in the end; its error, or what it said when it panicked, stands there.

use crate::error::{AttachError, ReceiveError};
use crate::payload::Speak;
use crate::subscriber::{Interrupter, Received, Subscriber, SubscriberBuilder};
use crate::sys::error::SysError;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// Why a handler could not handle a message.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// What a handler has done in its life.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handled {
    /// Its name.
    pub name: String,
    /// Messages that it handled.
    pub handled_count: u64,
    /// How often it returned an error.
    pub failed_count: u64,
    /// How often it panicked.
    pub panicked_count: u64,
    /// What ended it, if it was not asked to end.
    pub ended_by: Option<ReceiveError>,
}

/// A handler that runs.
#[derive(Debug)]
struct Running {
    name: String,
    interrupter: Interrupter,
    thread: JoinHandle<Handled>,
}

/// Handlers that run. Dropped, they end: each finishes the message that it has in hand.
#[derive(Debug, Default)]
pub struct Handlers {
    running: Vec<Running>,
}

impl Handlers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a handler: `handle` is called for each message of the group that `group` joins, one at a time, in a thread that has
    /// the handler's name. Returned, it is done; an error has the message come again.
    ///
    /// After a panic it is called again with the next message: what it has half changed by then is its own affair.
    ///
    /// # Errors
    /// As [`SubscriberBuilder::join`], or no thread could be started.
    pub fn on<T, F>(&mut self, name: &str, group: SubscriberBuilder<T>, handle: F) -> Result<(), AttachError>
    where
        T: Speak + Send + 'static,
        F: FnMut(&Received<'_, T>) -> Result<(), HandlerError> + Send + 'static,
    {
        let mut subscriber = group.handler(name).join()?;
        let interrupter = subscriber.interrupter();
        let handled = Handled {
            name: name.to_owned(),
            handled_count: 0,
            failed_count: 0,
            panicked_count: 0,
            ended_by: None,
        };
        let thread = std::thread::Builder::new()
            .name(name.replace('\0', " "))
            .spawn(move || run(subscriber, handle, handled))
            .map_err(|error| SysError::from_io("clone", "a handler's thread", &error))?;
        self.running.push(Running { name: name.to_owned(), interrupter, thread });
        Ok(())
    }

    /// Have all of them ended by themselves, because the bus has been taken down, say?
    pub fn have_ended(&self) -> bool {
        self.running.iter().all(|running| running.thread.is_finished())
    }

    /// Ends them and says what they have done. Each finishes the message that it has in hand; what is left stays for whoever joins
    /// its group next.
    pub fn stop(mut self) -> Vec<Handled> {
        self.end()
    }

    fn end(&mut self) -> Vec<Handled> {
        // All of them before one is waited for.
        self.running.iter().for_each(|running| running.interrupter.interrupt());
        let ended = self.running.drain(..).map(|Running { name, thread, .. }| {
            // The thread catches what handlers do; it has nothing else that could panic.
            thread.join().unwrap_or(Handled {
                name,
                handled_count: 0,
                failed_count: 0,
                panicked_count: 1,
                ended_by: None,
            })
        });
        ended.collect()
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        self.end();
    }
}

fn run<T, F>(mut subscriber: Subscriber<T>, mut handle: F, mut handled: Handled) -> Handled
where
    T: Speak,
    F: FnMut(&Received<'_, T>) -> Result<(), HandlerError>,
{
    loop {
        let message = match subscriber.receive() {
            Ok(message) => message,
            Err(ReceiveError::Interrupted { .. }) => return handled,
            // One message is not for this handler, or is another's by now.
            Err(
                ReceiveError::OtherType { .. }
                | ReceiveError::FilterPanicked { .. }
                | ReceiveError::NotOwner(_)
                | ReceiveError::BusUnlinked { .. },
            ) => continue,
            Err(error) => {
                handled.ended_by = Some(error);
                return handled;
            }
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| handle(&message)));
        let settled = match outcome {
            Ok(Ok(())) => {
                handled.handled_count += 1;
                message.ack().map_err(ReceiveError::from)
            }
            Ok(Err(_)) if message.is_invalid() => {
                handled.failed_count += 1;
                // It can never be handled: dropped, it is a dead letter.
                drop(message);
                Ok(())
            }
            Ok(Err(error)) => {
                handled.failed_count += 1;
                message.retry(&error.to_string())
            }
            Err(panic) => {
                handled.panicked_count += 1;
                message.retry(&format!("panicked: {}", text_of(&*panic)))
            }
        };
        match settled {
            // It took so long that another member has the message: that one's work counts.
            Ok(()) | Err(ReceiveError::NotOwner(_)) => {}
            Err(error) => {
                handled.ended_by = Some(error);
                return handled;
            }
        }
    }
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
