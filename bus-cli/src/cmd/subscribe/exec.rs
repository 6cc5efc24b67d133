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
    tick: Duration,
    /// End after so many messages that are done.
    count: Option<u64>,
    done: AtomicU64,
    types: Mutex<HashMap<String, TypeNames>>,
    lanes: Mutex<HashMap<String, usize>>,
    /// When it was first seen that it is time to end.
    ending: Mutex<Option<Instant>>,
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
    let program = Program::new(command)?;
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
        tick: args.ack_wait.map_or(TICK, |wait| (wait / 3).clamp(Duration::from_millis(1), TICK)),
        count: args.count,
        done: AtomicU64::new(0),
        types: Mutex::default(),
        lanes: Mutex::default(),
        ending: Mutex::default(),
    });
    let mut handlers = Handlers::new().drain_within(args.drain.saturating_add(GRACE));
    let stopper = handlers.stopper();
    let each = {
        let shared = shared.clone();
        move |message: &mut Incoming<'_, Bytes>, context: &mut Context| handle(&shared, message, context)
    };
    // Replaced by the subscription's own patterns.
    let registration =
        options(bus.on_concurrently::<Bytes, _>("exec", usize::from(args.jobs), each).name(command));
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
    if shared.count == Some(0)
        || shared.count.is_some_and(|count| shared.done.load(Ordering::Relaxed) >= count)
    {
        context.stop();
        return Err(give_back());
    }
    let environment = environment_of(shared, message);
    // No process or descriptor to be had, or no such file any more: another time, perhaps.
    let cannot = |error| HandlerError::from(format!("the command cannot be started: {error}"));
    let input = run::input_of(message.payload()).map_err(cannot)?;
    let begun = Instant::now();
    let mut running = Running { shared, message, context, begun, is_late: false };
    let finished = run::run(&shared.program, &environment, input, &mut running).map_err(cannot)?;
    let outcome = if running.is_late {
        let limit = crate::units::duration(shared.timeout.unwrap_or_default());
        Err(format!("took longer than {limit}{}", said(&finished)).into())
    } else if finished.was_ended {
        Err(give_back())
    } else {
        settle(&finished)
    };
    let is_done = outcome.is_ok() || finished.status.code() == Some(run::REJECT);
    if is_done && shared.count.is_some_and(|count| shared.done.fetch_add(1, Ordering::Relaxed) + 1 >= count) {
        context.stop();
    }
    outcome
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
        let left = self.shared.timeout.map(|limit| limit.saturating_sub(self.begun.elapsed()));
        left.unwrap_or(self.shared.tick).min(self.shared.tick)
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

    /// How many lanes a topic has.
    fn lanes(&self, topic: &str) -> usize {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&count) = lanes.get(topic) {
            return count;
        }
        let settings = self.place.view().ok().and_then(|view| view.topic(topic).ok()?.settings().ok());
        let count = settings.map_or(bus_core::limits::LANES_MAX, |settings| settings.lanes as usize);
        lanes.insert(topic.to_owned(), count);
        count
    }
}

/// What a command is told of its message.
fn environment_of(shared: &Shared, message: &Incoming<'_, Bytes>) -> Vec<(&'static str, String)> {
    let (topic, metadata) = (message.topic(), message.metadata());
    let lane = message.lane().name(shared.lanes(topic));
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
