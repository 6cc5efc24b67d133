//! What tests of real buses share: a bus of their own, and child processes that are this test binary again.
//!
//! Parent and child talk in lines over a socket that the child finds as its standard input, so that each can wait for what
//! the other has done instead of sleeping.

use bus_shm::directory::BusDir;
use bus_shm::{Bus, BusBuilder, BusError, fsck};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A payload of eight words.
#[derive(rkyv::Archive, rkyv::Serialize, Debug, PartialEq, Clone, Copy)]
pub struct Words {
    /// The first tells which message it is.
    pub words: [u64; 8],
}
bus_shm::message!(Words, version 1, { words });

/// Odd, so that multiplying by it loses nothing.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Words {
    /// The message number `sequence`, every word of which depends on it.
    pub fn numbered(sequence: u64) -> Self {
        let first = sequence.wrapping_mul(SPREAD);
        Self { words: std::array::from_fn(|index| first.wrapping_add(index as u64)) }
    }

    /// Message `count` of producer `index`.
    pub fn of(index: u64, count: u64) -> Self {
        Self::numbered(index << 40 | count)
    }
}

impl ArchivedWords {
    /// The number that this message was made from, after checking that all of it is that message's.
    pub fn number(&self) -> u64 {
        // Newton's iteration for the inverse of an odd number; each round doubles the correct bits.
        let better = |x: u64, _| x.wrapping_mul(2_u64.wrapping_sub(SPREAD.wrapping_mul(x)));
        let inverse = (0..6).fold(1_u64, better);
        let number = self.words[0].to_native().wrapping_mul(inverse);
        assert!(self.is_numbered(number), "torn or foreign: {:x?}", self.words);
        number
    }

    /// Is this message number `sequence`, whole?
    pub fn is_numbered(&self, sequence: u64) -> bool {
        let expected = Words::numbered(sequence);
        self.words.iter().zip(expected.words).all(|(have, want)| have.to_native() == want)
    }
}

/// A payload of any length.
#[derive(rkyv::Archive, rkyv::Serialize, Debug, PartialEq)]
pub struct Text {
    /// A number.
    pub id: u64,
    /// And words.
    pub text: String,
}
bus_shm::message!(Text, version 1, { id, text });

/// The name of a bus that no other test uses; whatever is left of it is removed at the end.
#[derive(Debug)]
pub struct TestBus {
    /// Its name.
    pub name: String,
    owner_pid: u32,
}

impl TestBus {
    /// Makes up a name.
    pub fn new(what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let owner_pid = std::process::id();
        Self { name: format!("test-{what}-{owner_pid}-{count}"), owner_pid }
    }

    /// Options for opening it as a temporary bus.
    pub fn builder(&self) -> BusBuilder {
        Bus::builder(&self.name).temporary(true)
    }

    /// Opens it as a temporary bus.
    pub fn open(&self, service: &str) -> Bus {
        self.builder().service(service).open().expect("a bus for the test")
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        bus_shm::directory::base_dir(None).join(&self.name)
    }

    /// Fails unless nothing of the bus is left.
    pub fn assert_gone(&self) {
        // Who opens another bus meanwhile may have found it abandoned first, and be about to remove it.
        eventually(&format!("{} is removed", self.path().display()), || !self.path().exists());
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        if std::process::id() == self.owner_pid {
            let _ = std::fs::remove_dir_all(self.path());
        }
    }
}

/// Fails if something in a bus is not as it must be, whoever uses it meanwhile. A bus that is gone has no problems.
pub fn assert_clean(test: &TestBus) {
    let dir = BusDir::new(&test.name, None).expect("a name for a test");
    match fsck::check(&dir) {
        Ok(report) => {
            let lines: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
            assert!(lines.is_empty(), "fsck: {}", lines.join("\n"));
        }
        Err(BusError::NotFound { .. } | BusError::Closed { .. }) => {}
        Err(error) => panic!("fsck: {error}"),
    }
}

/// Environment variable that tells a child process of a test what to be.
const ROLE: &str = "SHMBUS_TEST_ROLE";
/// And on which bus.
const BUS: &str = "SHMBUS_TEST_BUS";
/// And how.
const ARGUMENT: &str = "SHMBUS_TEST_ARGUMENT";

/// Name of the thread that plays a role in a child.
const ROLE_THREAD: &str = "role";

/// How long one side waits for the other before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// A child that is still there after this many seconds ends by a signal: its parent was killed.
const LIFETIME_S: u32 = 120;

/// One end of the conversation between a test and its child.
#[derive(Debug)]
pub struct Line(BufReader<UnixStream>);

impl Line {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self(BufReader::new(stream))
    }

    /// Sends a line. Nobody listening any more is fine: the listener's end shows elsewhere.
    pub fn tell(&mut self, what: impl Display) {
        let _ = self.0.get_mut().write_all(format!("{what}\n").as_bytes());
    }

    /// The next line; `None` when the other side has ended. Half a line, cut off by a kill, is none.
    pub fn try_hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(_) => line.strip_suffix('\n').map(str::to_owned),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing heard from the other side: {error}"),
        }
    }

    /// The next line.
    pub fn hear(&mut self) -> String {
        self.try_hear().expect("the other side has ended")
    }

    /// Hears exactly this.
    pub fn expect(&mut self, what: &str) {
        assert_eq!(self.hear(), what);
    }

    /// Hears a number.
    pub fn hear_number(&mut self) -> u64 {
        let heard = self.hear();
        heard.parse().unwrap_or_else(|_| panic!("{heard:?} is no number"))
    }
}

/// A child process that is killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// What it says, and what it is told.
    pub line: Line,
}

impl Agent {
    /// Starts this test binary again to run test `entry`, which must call [`role`] first.
    pub fn spawn(entry: &str, role: &str, bus: &str, argument: impl Display) -> Self {
        let program = std::env::current_exe().expect("the test's own path");
        Self::spawn_as(Command::new(program), entry, role, bus, argument)
    }

    /// The same, with a command that ends in the path of this test binary: for a child under another program.
    pub fn spawn_as(
        mut command: Command,
        entry: &str,
        role: &str,
        bus: &str,
        argument: impl Display,
    ) -> Self {
        let (ours, its) = UnixStream::pair().expect("a pair of sockets");
        let child = command
            .args([entry, "--exact", "--nocapture", "--test-threads=1", "--include-ignored"])
            .env(ROLE, role)
            .env(BUS, bus)
            .env(ARGUMENT, argument.to_string())
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .spawn()
            .expect("a child process");
        Self { child, line: Line::new(ours) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its pid is its own.
        #[allow(unsafe_code)]
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "signal {signal}");
    }

    /// Stops it, and returns when all its threads stand still.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        eventually("the child stands still", || {
            self.threads().iter().all(|task| matches!(state_of(task), Some('T' | 't' | 'Z') | None))
        });
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end and fails unless it ended well.
    pub fn join(mut self) {
        let status = self.wait();
        assert!(status.success(), "the child process ended with {status}");
    }

    /// Waits for its end, at most as long as a test has patience.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child's end") {
                return status;
            }
            if begun.elapsed() > PATIENCE {
                self.kill();
                panic!("the child process has not ended within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the thread that plays the role sleeps on a futex: it has nothing to read, or no room to write.
    pub fn wait_until_parked(&self) {
        let is_parked = |task: &PathBuf| {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            let is_in_futex = match std::fs::read_to_string(task.join("syscall")) {
                Ok(call) => call.starts_with(&format!("{} ", libc::SYS_futex)),
                // Where that is not told, any sleep will do.
                Err(_) => state_of(task) == Some('S'),
            };
            name.trim_end() == ROLE_THREAD && is_in_futex
        };
        eventually("the child is parked", || self.threads().iter().any(is_parked));
    }

    fn threads(&self) -> Vec<PathBuf> {
        std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// The letter that the kernel has for what a thread does.
fn state_of(task: &std::path::Path) -> Option<char> {
    let stat = std::fs::read_to_string(task.join("stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// What a child process is to be.
#[derive(Debug)]
pub struct Role {
    /// Which part it plays.
    pub name: String,
    /// On which bus.
    pub bus: String,
    /// How.
    pub argument: String,
    /// The test that started it.
    pub parent: Line,
}

impl Role {
    /// Options for opening its bus as a temporary one, under the name of its role.
    pub fn builder(&self) -> BusBuilder {
        Bus::builder(&self.bus).temporary(true).service(&self.name)
    }

    /// Opens its bus.
    pub fn open(&self) -> Bus {
        self.builder().open().expect("the test's bus")
    }

    /// Its argument as a number.
    pub fn number(&self) -> u64 {
        self.argument.parse().unwrap_or_else(|_| panic!("{:?} is no number", self.argument))
    }
}

/// In a child process: what it is to be. `None` in the test itself.
pub fn role() -> Option<Role> {
    let name = std::env::var(ROLE).ok()?;
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    // SAFETY: one takes a number, the other copies a name that ends in zero.
    #[allow(unsafe_code)]
    unsafe {
        libc::alarm(LIFETIME_S);
        libc::prctl(libc::PR_SET_NAME, c"role".as_ptr());
    }
    Some(Role {
        name,
        bus: std::env::var(BUS).ok()?,
        argument: std::env::var(ARGUMENT).ok()?,
        parent: Line::new(stream),
    })
}

/// Runs `body` in a forked child, which then ends without running anything else. What it returns is its exit code.
#[allow(unsafe_code)]
pub fn in_fork(body: impl FnOnce() -> Result<(), String>) -> i32 {
    // SAFETY: the child runs `body`, which uses no lock of another thread but the allocator's, which fork takes care
    // of, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let code = match outcome {
            Ok(Ok(())) => 0,
            Ok(Err(what)) => {
                eprintln!("in the forked child: {what}");
                1
            }
            Err(_) => 2,
        };
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 1_000 + libc::WTERMSIG(status) }
}

/// Waits until `condition` holds; fails after ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
