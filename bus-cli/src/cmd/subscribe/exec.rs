//! `sub --exec`: a command for each message, on the library's handlers.
//!
//! A run acknowledges its message by status 0, makes it a dead letter by [`run::REJECT`], and has it come again by any other. While it
//! runs, the claim of its message is extended. Who ends the commands of a `sub` that was killed stands in `guard`.

use super::guard::Guard;
use super::run::{self, Finished, Meanwhile, OWNER, Program};
use super::{Args, line::TypeNames};
use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::signals::Signals;
use bus_shm::handlers::{HandlerError, Handlers, give_back, reject};
use bus_shm::{Bus, Bytes, Context, Incoming, ManyError, Registration};
use signal_hook::consts::SIGCHLD;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A claim is extended, and a signal noticed, at least so often while a command runs.
const TICK: Duration = Duration::from_millis(200);
/// Beyond the time that commands are given to end: for what is left to do then.
const GRACE: Duration = Duration::from_secs(5);

/// What all runs share.
struct Shared {
    program: Program,
    /// What is the same in the environment of all.
    environment: Vec<(&'static str, String)>,
    place: Place,
    timeout: Option<Duration>,
    drain: Duration,
    /// End after so many messages that are done.
    count: Option<u64>,
    done: AtomicU64,
    /// Messages that no job has set about yet, of those.
    tickets: AtomicU64,
    types: Mutex<HashMap<String, TypeNames>>,
    topics: Mutex<HashMap<String, Limits>>,
    /// When it was first seen that it is time to end.
    ending: Mutex<Option<Instant>>,
}

/// What is known of a topic.
#[derive(Clone, Copy)]
struct Limits {
    lanes: usize,
    message_bytes_max: usize,
}

/// Runs commands until there is a reason to end. `options` are those of the subscription.
pub(super) fn run(
    place: &Place,
    bus: &Bus,
    signals: Signals,
    args: &Args,
    command: &str,
    options: impl Fn(Registration<Bytes>) -> Registration<Bytes>,
) -> Outcome {
    if args.count == Some(0) {
        return Ok(());
    }
    let program = Program::new(command)?;
    // Where this process was started with SIGCHLD ignored, nobody could be waited for.
    signal_hook::flag::register(SIGCHLD, Arc::default())
        .map_err(|error| Failure::new(Code::Error, format_args!("cannot catch signals: {error}")))?;
    // No more than there are messages for: each begins with a ticket for one.
    let jobs = usize::from(args.jobs).min(args.count.map_or(usize::MAX, |count| count as usize));
    let guard = Guard::start()?;
    let mut environment = vec![("SHMBUS_BUS", place.bus.clone()), (OWNER, guard.owner().to_owned())];
    if let Some(dir) = &place.dir {
        environment.push(("SHMBUS_DIR", dir.display().to_string()));
    }
    let shared = Arc::new(Shared {
        program,
        environment,
        place: place.clone(),
        timeout: args.exec_timeout,
        drain: args.drain,
        count: args.count,
        done: AtomicU64::new(0),
        tickets: AtomicU64::new(args.count.map_or(0, |count| count.saturating_sub(jobs as u64))),
        types: Mutex::default(),
        topics: Mutex::default(),
        ending: Mutex::default(),
    });
    let mut handlers = Handlers::new().drain_within(args.drain.saturating_add(GRACE));
    let stopper = handlers.stopper();
    let each = {
        let shared = shared.clone();
        move |message: &mut Incoming<'_, Bytes>, context: &mut Context| handle(&shared, message, context)
    };
    // Replaced by the subscription's own patterns.
    let registration = options(bus.on_concurrently::<Bytes, _>("exec", jobs, each).name(command));
    handlers.add(registration).map_err(|error| match error {
        ManyError::Bus(error) => error.into(),
        ManyError::Join { source, .. } => source.into(),
        other => Failure::new(Code::Error, other),
    })?;
    let signals = Arc::new(signals);
    let waiting = signals.clone();
    std::thread::spawn(move || {
        waiting.wait();
        stopper.stop();
    });
    let handled = handlers.wait();
    handled.iter().flat_map(|handled| &handled.troubles).for_each(|trouble| output::complain(trouble));
    if handled.iter().any(|handled| handled.unfinished_count > 0) {
        output::complain("a command could not be ended in time; its message comes again");
        guard.leave_the_rest();
    } else {
        drop(guard);
    }
    let ended_by = handled.into_iter().find_map(|handled| handled.ended_by);
    match ended_by {
        Some(ManyError::Receive(error)) => Err(error.into()),
        Some(ManyError::Bus(error)) => Err(error.into()),
        Some(error) => Err(Failure::new(Code::Error, error)),
        None if signals.raised()
            && args.count.is_some_and(|count| shared.done.load(Ordering::Relaxed) < count) =>
        {
            Err(signals.interrupted())
        }
        None => Ok(()),
    }
}

fn handle(
    shared: &Shared,
    message: &mut Incoming<'_, Bytes>,
    context: &mut Context,
) -> Result<(), HandlerError> {
    let environment = environment_of(shared, message);
    // No process or descriptor to be had, or no such file any more: another time, perhaps.
    let cannot = |error| HandlerError::from(format!("the command cannot be started: {error}"));
    let input = run::input_of(message.payload()).map_err(cannot)?;
    let begun = Instant::now();
    let kept_max = message.wants_reply().then(|| shared.limits(message.topic()).message_bytes_max);
    let mut running = Running { shared, message, context, begun, is_late: false };
    let finished = run::run(&shared.program, &environment, input, kept_max, &mut running).map_err(cannot)?;
    let is_late = running.is_late;
    let outcome = if is_late {
        let limit = crate::units::duration(shared.timeout.unwrap_or_default());
        Err(format!("took longer than {limit}{}", said(&finished)).into())
    } else if finished.was_ended {
        Err(give_back())
    } else {
        settle(&finished)
    };
    let is_rejected = !is_late && !finished.was_ended && finished.status.code() == Some(run::REJECT);
    let is_done = outcome.is_ok() || is_rejected;
    let is_left = !is_late && finished.was_ended;
    if is_done || message.is_last_attempt() && !is_left {
        answer(message, &finished, outcome.as_ref().err());
    }
    if is_done && let Some(count) = shared.count {
        if shared.done.fetch_add(1, Ordering::Relaxed) + 1 >= count {
            context.stop();
        } else if !shared.take_ticket() {
            context.take_no_more();
        }
    }
    outcome
}

/// Answers a message whose sender waits for that: with the command's output, or why there is none. Before it is acknowledged, so
/// that the next one answers if this process dies in between.
fn answer(message: &Incoming<'_, Bytes>, finished: &Finished, error: Option<&HandlerError>) {
    let Some(output) = &finished.output else { return };
    let sent = match error {
        Some(error) => message.reply_outcome(Err(&error.to_string())),
        None if output.is_cut => {
            let most = output.most;
            message.reply_outcome(Err(&format!("the answer has more than the {most} bytes of a message")))
        }
        None => message.reply_outcome(Ok(&output.bytes)).inspect_err(|error| {
            // Too long for the asker, say.
            let _ = message.reply_outcome(Err(&error.to_string()));
        }),
    };
    if let Err(error) = sent {
        // What the command did is done all the same.
        output::complain(&format!("message {} was not answered: {error}", message.metadata().id()));
    }
}

fn said(finished: &Finished) -> String {
    if finished.said.is_empty() { String::new() } else { format!(": {}", finished.said) }
}

/// What becomes of a message whose command has ended by itself. Everything that a command can say by its end is decided here.
fn settle(finished: &Finished) -> Result<(), HandlerError> {
    match finished.status.code() {
        Some(0) => Ok(()),
        Some(run::REJECT) => Err(reject(finished.text())),
        _ => Err(finished.text().into()),
    }
}

/// A command that runs, and the message that it is for.
struct Running<'a, 'm> {
    shared: &'a Shared,
    message: &'a mut Incoming<'m, Bytes>,
    context: &'a Context,
    begun: Instant,
    is_late: bool,
}

impl Meanwhile for Running<'_, '_> {
    fn tick(&self) -> Duration {
        let left = self.shared.timeout.map_or(TICK, |limit| limit.saturating_sub(self.begun.elapsed()));
        // Another process may have changed it.
        let wait = self.message.ack_wait().map_or(TICK, |wait| (wait / 3).max(Duration::from_millis(1)));
        left.min(wait).min(TICK)
    }

    fn look(&mut self) -> bool {
        self.is_late = self.shared.timeout.is_some_and(|limit| self.begun.elapsed() >= limit);
        // Not this member's any more: what the command does counts for nothing, but it is not cut off.
        let _ = self.message.extend();
        self.is_late || self.context.shutdown_requested() && self.shared.is_drained()
    }
}

impl Shared {
    /// Is the time over that commands are given to end?
    fn is_drained(&self) -> bool {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        ending.get_or_insert_with(Instant::now).elapsed() >= self.drain
    }

    fn type_name(&self, topic: &str, kind: u8) -> String {
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        if !types.contains_key(topic)
            && let Ok(names) = TypeNames::new(&self.place, topic)
        {
            types.insert(topic.to_owned(), names);
        }
        types.get_mut(topic).map_or_else(|| "unknown".into(), |names| names.of(kind).to_owned())
    }

    fn limits(&self, topic: &str) -> Limits {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&limits) = topics.get(topic) {
            return limits;
        }
        let settings = self.place.view().ok().and_then(|view| view.topic(topic).ok()?.settings().ok());
        let limits = Limits {
            lanes: settings.as_ref().map_or(bus_core::limits::LANES_MAX, |settings| settings.lanes as usize),
            message_bytes_max: settings.map_or(0, |settings| settings.message_bytes_max as usize),
        };
        topics.insert(topic.to_owned(), limits);
        limits
    }

    /// A job is done with its message: is there another one for it?
    fn take_ticket(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        self.tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// What a command is told of its message.
fn environment_of(shared: &Shared, message: &Incoming<'_, Bytes>) -> Vec<(&'static str, String)> {
    let (topic, metadata) = (message.topic(), message.metadata());
    let lane = message.lane().name(shared.limits(topic).lanes);
    let mut environment = shared.environment.clone();
    environment.extend([
        ("SHMBUS_TOPIC", topic.to_owned()),
        ("SHMBUS_LANE", lane.to_owned()),
        ("SHMBUS_SEQUENCE", message.sequence().to_string()),
        ("SHMBUS_ID", metadata.id().to_string()),
        ("SHMBUS_TYPE", shared.type_name(topic, message.kind())),
        ("SHMBUS_ATTEMPT", message.attempts().to_string()),
        ("SHMBUS_BYTES", message.payload().len().to_string()),
    ]);
    // What is not said of a message is empty, and not what this process was started with.
    let origin = metadata.origin();
    let hex = |number: u128| format!("{number:x}");
    environment.extend([
        ("SHMBUS_KEY_HASH", metadata.key_hash().map_or_else(String::new, |key| format!("{key:016x}"))),
        ("SHMBUS_CORRELATION", metadata.correlation().map_or_else(String::new, hex)),
        ("SHMBUS_SERVICE", origin.as_ref().map_or_else(String::new, |origin| origin.service.clone())),
        ("SHMBUS_PID", origin.as_ref().map_or_else(String::new, |origin| origin.pid.to_string())),
    ]);
    environment
}
