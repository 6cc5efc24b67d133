//! The worker process: the current executable again, with a hidden subcommand. It does what it is told over its
//! standard input (a socket) until that closes, and dies with its parent.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::clock::Clock;
use crate::control::Control;
use crate::cores::pin;
use crate::error::{BenchError, Result};
use crate::floor::{self, Turn};
use crate::histogram::Nanos;
use crate::protocol::{self, Command, Outcome, Reply, Subject, Work};
use crate::scenarios::{self, Host, Part};

/// First argument of a worker process. A program that calls [`crate::run()`] must pass everything behind it to
/// [`worker_main`] before it does anything else with its arguments.
pub const WORKER_COMMAND: &str = "__bench-worker";

/// Start of the name of a directory that the cleaner may remove.
pub(crate) const DIRECTORY_PREFIX: &str = "shmbus-bench-";

/// How often and how long apart the cleaner looks for what dying workers may still have created.
const CLEANER_ROUNDS: u32 = 5;
const CLEANER_PAUSE: Duration = Duration::from_millis(60);

/// Runs a worker process: `args` is everything behind [`WORKER_COMMAND`]. Returns the exit code.
pub fn worker_main<I, S>(args: I) -> i32
where
    I: IntoIterator<Item = S>,
    S: Into<OsString>,
{
    worker_main_with(args, |text, _| Err(BenchError::WorkerArguments(format!("no guest opens {text}"))))
}

/// Opens one worker's share of what a guest measures, from the text of its entry and the role.
pub type OpenGuest = fn(&str, usize) -> std::result::Result<Box<dyn Part>, BenchError>;

/// [`worker_main`] of a program that measures more than the bus.
pub fn worker_main_with<I, S>(args: I, guests: OpenGuest) -> i32
where
    I: IntoIterator<Item = S>,
    S: Into<OsString>,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let result = match args.first().and_then(|role| role.to_str()) {
        Some("worker") => Arguments::parse(&args[1..]).and_then(|arguments| work(&arguments, guests)),
        Some("cleaner") => clean(&args[1..]),
        role => Err(BenchError::WorkerArguments(format!("unknown role {role:?}"))),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("bench worker: {error}");
            1
        }
    }
}

/// What a worker is told on its command line.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) part: usize,
    pub(crate) parent: i32,
    pub(crate) core: Option<usize>,
    pub(crate) page: RawFd,
    pub(crate) rings: Vec<usize>,
    pub(crate) clock: u64,
}

impl Arguments {
    /// The command line.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let rings: Vec<String> = self.rings.iter().map(ToString::to_string).collect();
        let mut args = vec![
            format!("part={}", self.part),
            format!("parent={}", self.parent),
            format!("page={}", self.page),
            format!("rings={}", rings.join(",")),
            format!("clock={}", self.clock),
        ];
        args.extend(self.core.map(|core| format!("core={core}")));
        args
    }

    fn parse(args: &[OsString]) -> Result<Self> {
        let mut values = HashMap::new();
        for arg in args {
            let text = arg.to_str().unwrap_or_default();
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| BenchError::WorkerArguments(format!("{} is not key=value", arg.display())))?;
            values.insert(key, value);
        }
        let rings = values.get("rings").copied().unwrap_or_default();
        Ok(Self {
            part: number(&values, "part")?,
            parent: number(&values, "parent")?,
            core: values.contains_key("core").then(|| number(&values, "core")).transpose()?,
            page: number(&values, "page")?,
            rings: rings
                .split(',')
                .filter(|size| !size.is_empty())
                .map(|size| size.parse().map_err(|_| BenchError::WorkerArguments(format!("rings={rings}"))))
                .collect::<Result<_>>()?,
            clock: number(&values, "clock")?,
        })
    }
}

fn number<T: std::str::FromStr>(values: &HashMap<&str, &str>, key: &str) -> Result<T> {
    let text = values.get(key).ok_or_else(|| BenchError::WorkerArguments(format!("{key} is missing")))?;
    text.parse().map_err(|_| BenchError::WorkerArguments(format!("{key}={text} is not a number")))
}

fn work(arguments: &Arguments, guests: OpenGuest) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| BenchError::os("prctl(PR_SET_PDEATHSIG)", error))?;
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(arguments.parent) {
        // The parent died before the line above took effect.
        return Ok(());
    }
    if let Ok(name) = std::ffi::CString::new(format!("bench-worker-{}", arguments.part)) {
        let _ = rustix::thread::set_name(&name);
    }
    if let Some(core) = arguments.core {
        pin(core)?;
    }
    // SAFETY: the parent passed this descriptor for the worker alone; nothing else here knows or closes it.
    let page = unsafe { OwnedFd::from_raw_fd(arguments.page) };
    let control = Control::attach(&page, &arguments.rings)?;
    drop(page);
    let commands = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| BenchError::os("dup of stdin", error))?;
    let mut worker = Worker {
        control,
        clock: Clock::from_bits(arguments.clock),
        histogram: Nanos::new(),
        memcpy: None,
        host: Host::default(),
        open: HashMap::new(),
        guests,
    };
    worker.serve(&UnixStream::from(commands))
}

/// A worker between its commands.
struct Worker {
    control: Control,
    clock: Clock,
    /// Used by the floors; memory is allocated once.
    histogram: Nanos,
    memcpy: Option<floor::memcpy::Buffers>,
    // Parts are declared before the host: they are dropped first.
    open: HashMap<u32, Box<dyn Part>>,
    host: Host,
    guests: OpenGuest,
}

impl Worker {
    fn serve(&mut self, socket: &UnixStream) -> Result<()> {
        loop {
            let command: Command = match protocol::receive(socket) {
                Ok(command) => command,
                // The parent has gone, and with it any reason to speak of it.
                Err(_) => return Ok(()),
            };
            if command.work == Work::Quit {
                self.open.clear();
                self.host = Host::default();
                let _ = protocol::send(socket, &Reply::Done(Box::default()));
                return Ok(());
            }
            let reply = match self.perform(&command) {
                Ok(outcome) => Reply::Done(Box::new(outcome)),
                Err(error) => Reply::Failed(error.to_string()),
            };
            if protocol::send(socket, &reply).is_err() {
                return Ok(());
            }
        }
    }

    fn perform(&mut self, command: &Command) -> Result<Outcome> {
        if command.work.is_timed() {
            self.prepare(&command.work);
            self.control.meet(command.gate, command.share_core);
        }
        let turn = Turn {
            role: command.role,
            share_core: command.share_core,
            gate: command.gate,
            length: command.work.length(),
            clock: &self.clock,
            control: &self.control,
        };
        match &command.work {
            Work::Line { .. } => Ok(floor::line::run(&turn, &mut self.histogram)),
            Work::Ring { payload_bytes, ahead, .. } => floor::ring::run(&turn, *payload_bytes, *ahead),
            Work::Wake { .. } => floor::wake::run(&turn, &mut self.histogram),
            Work::Memcpy { block_bytes, .. } => {
                let buffers = self.memcpy.get_or_insert_with(floor::memcpy::Buffers::new);
                Ok(floor::memcpy::run(&turn, buffers, *block_bytes))
            }
            Work::Open { slot, subject } => {
                // Memory of a floor must not count as the bus's.
                self.memcpy = None;
                let part = match subject {
                    Subject::Scenario(spec) => scenarios::open(&mut self.host, spec, command.role)?,
                    Subject::Guest(text) => (self.guests)(text, command.role)?,
                };
                self.open.insert(*slot, part);
                Ok(Outcome::default())
            }
            Work::Slice { slot, .. } => match self.open.get_mut(slot) {
                Some(part) => part.slice(&turn),
                None => Err(BenchError::WorkerArguments(format!("scenario {slot} is not open"))),
            },
            Work::Close { slot } => {
                self.open.remove(slot);
                if self.open.is_empty() {
                    // The group is done, and so is its bus.
                    self.host = Host::default();
                }
                Ok(Outcome::default())
            }
            Work::Quit => Ok(Outcome::default()),
        }
    }

    /// What takes long and must not happen after the meeting.
    fn prepare(&mut self, work: &Work) {
        self.histogram.clear();
        if matches!(work, Work::Memcpy { .. }) {
            self.memcpy.get_or_insert_with(floor::memcpy::Buffers::new);
        }
    }
}

/// Waits for the parent to end in whatever way, then removes the run's directory.
fn clean(args: &[OsString]) -> Result<()> {
    let directory = PathBuf::from(args.first().cloned().unwrap_or_default());
    if !is_bench_directory(&directory) {
        return Err(BenchError::WorkerArguments(format!(
            "{} is not a directory of a bench",
            directory.display()
        )));
    }
    let _ = rustix::thread::set_name(c"bench-cleaner");
    wait_for_end_of_file(std::io::stdin().as_fd());
    for round in 0..CLEANER_ROUNDS {
        let removed = std::fs::remove_dir_all(&directory);
        if round == 0 && removed.is_err() && !directory.exists() {
            // An orderly end: the parent had removed it itself.
            break;
        }
        std::thread::sleep(CLEANER_PAUSE);
    }
    Ok(())
}

fn wait_for_end_of_file(pipe: BorrowedFd<'_>) {
    let mut byte = [0_u8; 1];
    loop {
        match rustix::io::read(pipe, &mut byte) {
            Ok(0) => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Whether a path looks like what [`crate::run()`] creates. The cleaner removes nothing else.
pub(crate) fn is_bench_directory(path: &Path) -> bool {
    path.is_absolute()
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.len() > DIRECTORY_PREFIX.len() && name.starts_with(DIRECTORY_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_the_command_line() {
        let arguments = Arguments {
            part: 3,
            parent: 77,
            core: Some(1),
            page: 9,
            rings: vec![64, 1_024],
            clock: 4_611_686_018_427,
        };
        let args: Vec<OsString> = arguments.to_args().into_iter().map(Into::into).collect();
        assert_eq!(Arguments::parse(&args).unwrap(), arguments);
    }

    #[test]
    fn bad_arguments_are_named() {
        let error = Arguments::parse(&["part=x".into()]).unwrap_err();
        assert!(error.to_string().contains("part=x"), "{error}");
        assert_eq!(worker_main(["juggler"]), 1);
    }

    #[test]
    fn the_cleaner_refuses_other_directories() {
        assert!(is_bench_directory(Path::new("/dev/shm/shmbus-bench-17")));
        for path in
            ["/dev/shm", "/dev/shm/shmbus-bench-", "shmbus-bench-17", "/dev/shm/shmbus-bench-17/..", "/"]
        {
            assert!(!is_bench_directory(Path::new(path)), "{path}");
        }
    }
}
