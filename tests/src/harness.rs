//! What tests of real buses share: a bus of their own, and child processes that are this test binary again.

use bus_shm::{Bus, BusBuilder};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A payload of eight words.
#[derive(rkyv::Archive, rkyv::Serialize, Debug, PartialEq, Clone, Copy)]
pub struct Words {
    /// The first tells which message it is.
    pub words: [u64; 8],
}
bus_shm::message!(Words, version 1, { words });

impl Words {
    /// The message number `sequence`, every word of which depends on it.
    pub fn numbered(sequence: u64) -> Self {
        Self { words: std::array::from_fn(|index| sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) + index as u64) }
    }
}

impl ArchivedWords {
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
        assert!(!self.path().exists(), "{} is left behind", self.path().display());
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        if std::process::id() == self.owner_pid {
            let _ = std::fs::remove_dir_all(self.path());
        }
    }
}

/// Environment variable that tells a child process of a test what to be.
const ROLE: &str = "SHMBUS_TEST_ROLE";
/// And on which bus.
const BUS: &str = "SHMBUS_TEST_BUS";
/// And how.
const ARGUMENT: &str = "SHMBUS_TEST_ARGUMENT";

/// A child process that is killed when dropped.
#[derive(Debug)]
pub struct Agent(pub Child);

impl Agent {
    /// Starts this test binary again to run test `entry`, which must call [`role`] first.
    pub fn spawn(entry: &str, role: &str, bus: &str, argument: &str) -> Self {
        let program = std::env::current_exe().expect("the test's own path");
        let child = Command::new(program)
            .args([entry, "--exact", "--nocapture", "--test-threads=1", "--include-ignored"])
            .env(ROLE, role)
            .env(BUS, bus)
            .env(ARGUMENT, argument)
            .stdout(Stdio::null())
            .spawn()
            .expect("a child process");
        Self(child)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its pid is its own.
        #[allow(unsafe_code)]
        let sent = unsafe { libc::kill(self.0.id() as i32, signal) };
        assert_eq!(sent, 0, "signal {signal}");
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits for its end and fails unless it ended well.
    pub fn join(mut self) {
        let status = self.0.wait().expect("the child's end");
        assert!(status.success(), "the child process ended with {status}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// In a child process: role, bus and argument. `None` in the test itself.
pub fn role() -> Option<(String, String, String)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, std::env::var(BUS).ok()?, std::env::var(ARGUMENT).ok()?))
}

/// Waits until `condition` holds; fails after ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
