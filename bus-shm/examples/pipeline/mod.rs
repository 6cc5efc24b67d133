//! Five agents that pass requests on to each other through one bus, each in a process of its own.
//!
//! ```text
//! observer --observation.request--> reasoner --reasoning.plan--> guardian --guard.approved--> actor
//!     ^                                                                                         |
//!     +------------learning.noted------------ learner <---------------action.done---------------+
//! ```
//!
//! The observer lets a window of requests be under way at a time. The reasoner and the actor each stand for a call that
//! somebody else answers after a while; the calls of all messages that they took together run side by side. The guardian
//! lets a plan pass or vetoes it, and a veto overtakes everything else on its way. The learner measures.
//!
//! What makes it safe to start the agents in any order, and to start one again that was killed:
//! - A topic is created together with the group that reads it, so nothing is published before its reader exists.
//! - Each agent is one handler (`Bus::on`, `Bus::on_batch`). A message is acknowledged after whatever follows from it has been published. An agent that dies in between finds the
//!   message again, marked as redelivered, and the learner counts a request once.
//! - The end travels the same way as everything else: when all requests are through, the observer sends a closing one,
//!   and each agent passes it on and ends. SIGTERM ends one sooner; started again, it goes on where it stood.
//!
//! The five programs `agent_*.rs` and the command `shmbus demo` both consist of this code.

pub(crate) mod actor;
pub(crate) mod guardian;
pub(crate) mod learner;
pub(crate) mod messages;
pub(crate) mod observer;
pub(crate) mod options;
pub(crate) mod reasoner;
pub(crate) mod report;

use bus_shm::handlers::HandlerError;
use bus_shm::{Bus, Handlers};
use options::Options;
use report::{Book, Report};
use std::process::ExitCode;

/// What an agent's work can end with.
type Outcome<T> = Result<T, HandlerError>;

/// Adds an agent's handler.
pub(crate) type Start = fn(&Bus, &Options, &mut Handlers, Book) -> Outcome<()>;

/// All that one of the five programs does.
pub(crate) fn main(role: &str, start: Start, arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{role}: {text}");
            return ExitCode::from(2);
        }
    };
    let cleanup = options.until_eof.then(|| options::take_bus_down_at_eof(&options));
    let outcome = run(role, start, &options);
    let failed = outcome.is_err();
    report::print(role, outcome, &options);
    if !failed {
        return ExitCode::SUCCESS;
    }
    if let Some(cleanup) = cleanup {
        // Perhaps it failed because the bus is just being taken down, by that thread. It must come to its end.
        let _ = cleanup.join();
    }
    ExitCode::FAILURE
}

fn run(role: &str, start: Start, options: &Options) -> Outcome<Report> {
    // Made by whichever agent comes first, gone with the last. A parent process has made it before, and nobody may make it
    // again when that has ended.
    let bus = Bus::builder(&options.bus).service(role).temporary(true).create(!options.until_eof).open()?;
    let (mut handlers, book) = (Handlers::new(), Book::default());
    start(&bus, options, &mut handlers, book.clone())?;
    // Until the closing request, or SIGTERM.
    for handled in handlers.run()? {
        if let Some(error) = handled.ended_by {
            return Err(error.into());
        }
    }
    Ok(std::mem::take(&mut book.lock().expect("no panic")))
}
