//! The parent's side of the worker processes: starting them, running one step on some of them at a time, and making
//! sure that none of them outlives the run.
//!
//! While a step runs, the parent sleeps in `poll`; it does not take time on the cores that are being measured.

use std::fs;
use std::io::PipeWriter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::process::Signal;

use crate::clock::Clock;
use crate::control::Control;
use crate::cores::Cores;
use crate::error::{BenchError, Result};
use crate::protocol::{self, Command, Outcome, Reply, Work};
use crate::worker::{Arguments, DIRECTORY_PREFIX, WORKER_COMMAND, is_bench_directory};

/// How much longer than planned a step may take. Opening a scenario may have to reserve and touch much memory.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long workers get to end by themselves.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// The worker processes of a run.
#[derive(Debug)]
pub(crate) struct Pool {
    control: Control,
    page: OwnedFd,
    rings: Vec<usize>,
    clock: Clock,
    cores: Cores,
    workers: Vec<Worker>,
    /// Arrivals that all steps so far have counted.
    arrivals: u64,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    socket: UnixStream,
}

impl Pool {
    /// Reserves the shared memory; workers are started by [`Pool::grow`].
    pub(crate) fn new(clock: Clock, cores: Cores, ring_payloads: &[usize]) -> Result<Self> {
        let (control, page) = Control::create(ring_payloads)?;
        Ok(Self {
            control,
            page,
            rings: ring_payloads.to_vec(),
            clock,
            cores,
            workers: Vec::new(),
            arrivals: 0,
        })
    }

    /// The cores that the workers are on.
    pub(crate) fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Starts workers until there are `count`.
    pub(crate) fn grow(&mut self, count: usize) -> Result<()> {
        while self.workers.len() < count {
            let worker = self.spawn(self.workers.len())?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn spawn(&self, part: usize) -> Result<Worker> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| BenchError::os("socketpair", error))?;
        let arguments = Arguments {
            part,
            parent: std::process::id().cast_signed(),
            core: self.cores.pinned.then(|| self.cores.of(part)),
            page: self.page.as_raw_fd(),
            rings: self.rings.clone(),
            clock: self.clock.to_bits(),
        };
        let page =
            self.page.try_clone().map_err(|error| BenchError::os("duplicating a descriptor", error))?;
        let mut program = Program::new("/proc/self/exe");
        program
            .arg0("shmbus-bench")
            .args([WORKER_COMMAND, "worker"])
            .args(Arguments { page: page.as_raw_fd(), ..arguments }.to_args())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null());
        // SAFETY: two system calls and nothing else between fork and exec: no allocation, no lock.
        unsafe {
            program.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // Cleared in the child only, so that no other process inherits the memory.
                rustix::io::fcntl_setfd(&page, FdFlags::empty())?;
                Ok(())
            });
        }
        let child = program.spawn().map_err(|error| BenchError::os("starting a worker process", error))?;
        Ok(Worker { child, socket: ours })
    }

    /// Runs a step on some workers and returns what each measured, in the order of `parts`. After an error the pool is
    /// of no use any more: its workers are killed.
    pub(crate) fn run(&mut self, parts: &[usize], work: &Work) -> Result<Vec<Outcome>> {
        let result = self.attempt(parts, work);
        if result.is_err() {
            self.kill();
        }
        result
    }

    fn attempt(&mut self, parts: &[usize], work: &Work) -> Result<Vec<Outcome>> {
        let count = parts.iter().max().map_or(0, |part| part + 1);
        self.grow(count)?;
        if work.is_timed() {
            self.control.clear();
            self.arrivals += parts.len() as u64;
        }
        let died = |part: usize| BenchError::WorkerDied { part, step: work.describe() };
        for (role, &part) in parts.iter().enumerate() {
            let command = Command {
                gate: self.arrivals,
                role,
                share_core: self.cores.oversubscribed(parts.len()),
                work: work.clone(),
            };
            protocol::send(&self.workers[part].socket, &command).map_err(|_| died(part))?;
        }
        let deadline = Instant::now() + work.length() + PATIENCE;
        let mut outcomes: Vec<Option<Outcome>> = parts.iter().map(|_| None).collect();
        while outcomes.iter().any(Option::is_none) {
            let waiting: Vec<usize> = (0..parts.len()).filter(|role| outcomes[*role].is_none()).collect();
            let ready = self.wait(&waiting.iter().map(|role| parts[*role]).collect::<Vec<_>>(), deadline)?;
            if ready.is_empty() {
                return Err(BenchError::Stuck { step: work.describe(), waited: work.length() + PATIENCE });
            }
            for index in ready {
                let role = waiting[index];
                let part = parts[role];
                match protocol::receive(&self.workers[part].socket) {
                    Ok(Reply::Done(outcome)) => outcomes[role] = Some(*outcome),
                    Ok(Reply::Failed(text)) => {
                        return Err(BenchError::Worker { part, step: work.describe(), text });
                    }
                    Err(_) => return Err(died(part)),
                }
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Sleeps until some of these workers have answered or ended; the places of those. Empty when the time is up.
    fn wait(&self, parts: &[usize], deadline: Instant) -> Result<Vec<usize>> {
        loop {
            let mut polled: Vec<PollFd<'_>> =
                parts.iter().map(|part| PollFd::new(&self.workers[*part].socket, PollFlags::IN)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) => {
                    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
                    return Ok((0..parts.len()).filter(|index| ready(&polled[*index])).collect());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(BenchError::os("poll", error)),
            }
        }
    }

    /// Lets the workers close what they have open and end.
    pub(crate) fn quit(mut self) {
        let parts: Vec<usize> = (0..self.workers.len()).collect();
        for part in &parts {
            let command = Command { gate: 0, role: 0, share_core: false, work: Work::Quit };
            let _ = protocol::send(&self.workers[*part].socket, &command);
        }
        let deadline = Instant::now() + QUIT_PATIENCE;
        for worker in &mut self.workers {
            while Instant::now() < deadline && matches!(worker.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.kill();
    }

    /// Kills and reaps every worker that is left.
    fn kill(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
        }
        for mut worker in self.workers.drain(..) {
            let _ = worker.child.wait();
        }
        // A step that was cut off has counted some of its participants; the next one starts from there.
        self.arrivals = self.control.arrivals();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The directory of the run's private bus. It is gone after the run however that ends: the parent removes it, and a
/// cleaner process does so if the parent is killed.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Held open for as long as this process lives; its end tells the cleaner.
    alive: Option<PipeWriter>,
    cleaner: Option<Child>,
}

impl Directory {
    /// Creates a directory below `base`, for this user alone.
    pub(crate) fn create(base: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = base.join(format!("{DIRECTORY_PREFIX}{}", std::process::id()));
        debug_assert!(is_bench_directory(&path) || !base.is_absolute());
        // Left over from a process of the same number that died together with its cleaner.
        let _ = fs::remove_dir_all(&path);
        let (end, alive) = std::io::pipe().map_err(|error| BenchError::os("pipe", error))?;
        let mut program = Program::new("/proc/self/exe");
        program
            .arg0("shmbus-bench")
            .args([WORKER_COMMAND, "cleaner"])
            .arg(&path)
            .stdin(Stdio::from(end))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: one system call and nothing else between fork and exec: no allocation, no lock.
        unsafe {
            // A session of its own: an interrupt from the terminal must not end it before its work.
            program.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        }
        let cleaner =
            program.spawn().map_err(|error| BenchError::os("starting the cleaner process", error))?;
        let directory = Self { path, alive: Some(alive), cleaner: Some(cleaner) };
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory.path)
            .map_err(|error| BenchError::os(format!("creating {}", directory.path.display()), error))?;
        Ok(directory)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        drop(self.alive.take());
        if let Some(mut cleaner) = self.cleaner.take() {
            let _ = cleaner.wait();
        }
    }
}
