//! What tests of the command line share: the real binary, run on a bus of its own.

use crate::harness::{TestBus, eventually};
use bus_shm::inspect::{BusView, TopicState};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The `shmbus` binary of this build, made once if it is not there yet.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("the test's own path");
        // <target>/<profile>/deps/<test>, or <target>/<profile>/<program>
        let place = test.parent().expect("a program lies somewhere");
        let is_test = place.file_name() == Some(OsStr::new("deps"));
        let profile_dir = if is_test { place.parent().expect("a test lies in deps") } else { place };
        let target_dir = profile_dir.parent().expect("profiles lie in the target directory");
        let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        // The whole workspace decides features, as it did for this test, so that nothing is built twice.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bin", "shmbus", "--profile", profile])
            .arg("--target-dir")
            .arg(target_dir)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo");
        assert!(status.success(), "the binary could not be built");
        profile_dir.join("shmbus")
    })
}

/// A bus of its own for the binary to work on. What is left of it is removed at the end.
#[derive(Debug)]
pub struct CliBus {
    /// Its name.
    pub bus: TestBus,
    /// Where it lies, if not beside the buses of other tests.
    dir: Option<PathBuf>,
}

/// What a run of the binary came to.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 and more for signals, as a shell says it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Fails unless it ended with this code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Fails unless this was said on standard error.
    pub fn says(self, words: &str) -> Self {
        assert!(self.err.contains(words), "not {words:?} but: {}", self.err);
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }
}

impl CliBus {
    /// Makes up a bus; nothing is created yet. The binary is there afterwards: what a test has begun before it first runs a command does
    /// not wait for as long as that takes to build.
    pub fn new(what: &str) -> Self {
        binary();
        Self { bus: TestBus::new(what), dir: None }
    }

    /// The same in a directory of its own, where no other test cleans up.
    pub fn apart(what: &str) -> Self {
        binary();
        let bus = TestBus::new(what);
        let dir = Path::new("/dev/shm").join(&bus.name);
        std::fs::create_dir(&dir).expect("a directory");
        Self { bus, dir: Some(dir) }
    }

    /// The directory of the bus.
    pub fn path(&self) -> PathBuf {
        bus_shm::directory::base_dir(self.dir.as_deref()).join(&self.bus.name)
    }

    /// The binary with these arguments, on this bus.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["--bus", &self.bus.name])
            .args(arguments)
            .env_remove("SHMBUS_BUS")
            .env_remove("SHMBUS_DIR")
            .env_remove("NOTIFY_SOCKET");
        if let Some(dir) = &self.dir {
            command.arg("--dir").arg(dir);
        }
        command
    }

    /// Runs it to its end, without input.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).finish()
    }

    /// Runs it with this on standard input.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut running = Running::spawn(self.command(arguments).stdin(Stdio::piped()));
        running.write(input);
        running.finish()
    }

    /// Starts it.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::spawn(self.command(arguments).stdin(Stdio::null()))
    }

    /// The bus for looking at it.
    pub fn view(&self) -> BusView {
        BusView::open(&self.bus.name, self.dir.as_deref()).expect("the bus of the test")
    }

    /// A topic as it is now; `None` while there is none.
    pub fn topic(&self, topic: &str) -> Option<TopicState> {
        Some(BusView::open(&self.bus.name, self.dir.as_deref()).ok()?.topic(topic).ok()?.sample())
    }

    /// Waits until a topic has so many groups with a reader.
    pub fn wait_for_readers(&self, topic: &str, count: u64) {
        eventually("readers have joined", || {
            self.topic(topic).is_some_and(|state| {
                let readers = state.groups.iter().filter(|group| group.state == "active");
                readers.map(|group| group.members).sum::<u64>() == count
            })
        });
    }

    /// Fails if a process still takes part. Where a supervisor serves, no trace of one is left; without, the lease file of the
    /// last one stays, unlocked, until somebody has the role again.
    pub fn assert_nobody(&self) {
        assert!(self.view().participants().is_empty(), "{:?}", self.view().participants());
        if !self.view().is_served() {
            return;
        }
        let leases = std::fs::read_dir(self.path().join("leases")).expect("the leases");
        assert_eq!(leases.count(), 0, "a lease is left");
    }
}

impl Drop for CliBus {
    fn drop(&mut self) {
        if self.path().exists() {
            let _ = self.command(&["down", "--force"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// A running binary. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Option<Receiver<String>>,
    err: Receiver<String>,
    said: String,
    complained: String,
}

/// Reads a stream line by line in a thread of its own; ends when the receiver goes.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

impl Running {
    /// Starts a command with both outputs read.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shmbus");
        let out = child.stdout.take().map(lines);
        let err = lines(child.stderr.take().expect("it is piped"));
        let stdin = child.stdin.take();
        Self { child, stdin, out, err, said: String::new(), complained: String::new() }
    }

    /// The same, with standard output left to the caller.
    pub fn spawn_piped(command: &mut Command) -> (Self, ChildStdout) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shmbus");
        let out = child.stdout.take().expect("it is piped");
        let err = lines(child.stderr.take().expect("it is piped"));
        let stdin = child.stdin.take();
        (Self { child, stdin, out: None, err, said: String::new(), complained: String::new() }, out)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input was piped");
        // It may end before it has read everything.
        let _ = stdin.write_all(bytes);
    }

    /// The next line of its standard output, without the line end.
    pub fn line(&mut self) -> String {
        let out = self.out.as_ref().expect("standard output is still read");
        let line = out.recv_timeout(PATIENCE).expect("a line on standard output");
        self.said += &line;
        line.trim_end_matches('\n').to_owned()
    }

    /// Waits for a line on standard error that has these words.
    pub fn wait_for_remark(&mut self, words: &str) -> String {
        loop {
            let line = self.err.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{words:?} was not said"));
            self.complained += &line;
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ran {
        self.stdin = None;
        let code = code_of(wait(&mut self.child));
        if let Some(out) = self.out.take() {
            self.said.extend(out.iter());
        }
        self.complained.extend(self.err.iter());
        Ran { code, out: std::mem::take(&mut self.said), err: std::mem::take(&mut self.complained) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A process in a terminal of its own.
#[derive(Debug)]
pub struct InTerminal {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<String>>,
}

impl InTerminal {
    /// Starts a command in a terminal of 140 columns and 30 rows.
    pub fn start(command: &mut Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).expect("a terminal");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("the terminal's other side");
        let size = Winsize { ws_row: SIZE.0 as u16, ws_col: SIZE.1 as u16, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).expect("its size");
        let path = ptsname(&terminal, Vec::new()).expect("its name");
        let side = File::options()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOCTTY.bits() as i32)
            .open(OsStr::from_bytes(path.as_bytes()))
            .expect("its other side");
        let end = || Stdio::from(side.try_clone().expect("another descriptor"));
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("shmbus");
        let terminal = File::from(terminal);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, all) = (terminal.try_clone().expect("another descriptor"), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last one to close the other side ends it with an error.
            while let Ok(len) = reader.read(&mut bytes) {
                all.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        Self { child, terminal, shown }
    }

    /// Everything that has been written to the terminal, escape sequences included.
    pub fn written(&self) -> String {
        self.shown.lock().expect("no panic").clone()
    }

    /// What stands on the screen now, line by line.
    pub fn screen(&self) -> String {
        draw(&self.written())
    }

    /// Waits until these words stand on the screen.
    pub fn wait_for(&self, words: &str) {
        eventually(words, || self.screen().contains(words));
    }

    /// Waits until they do not.
    pub fn wait_until_gone(&self, words: &str) {
        eventually(words, || !self.screen().contains(words));
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits for the end of the process; its exit code.
    pub fn finish(mut self) -> i32 {
        code_of(wait(&mut self.child))
    }
}

/// Rows and columns of the terminal.
const SIZE: (usize, usize) = (30, 140);

/// Does what a terminal does with text, cursor positions and the order to clear the screen; passes over the rest.
fn draw(written: &str) -> String {
    let mut screen = vec![vec![' '; SIZE.1]; SIZE.0];
    let (mut row, mut column) = (0, 0);
    let mut rest = written.chars().peekable();
    while let Some(found) = rest.next() {
        match found {
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                let mut parameters = String::new();
                let order = loop {
                    match rest.next() {
                        Some(found @ '@'..='~') => break found,
                        Some(found) => parameters.push(found),
                        None => break '~',
                    }
                };
                let mut numbers = parameters.split(';').map(|number| number.parse::<usize>().unwrap_or(1));
                match order {
                    'H' => {
                        row = numbers.next().unwrap_or(1).clamp(1, SIZE.0) - 1;
                        column = numbers.next().unwrap_or(1).clamp(1, SIZE.1) - 1;
                    }
                    'J' => screen.iter_mut().for_each(|line| line.fill(' ')),
                    _ => {}
                }
            }
            '\u{1b}' => _ = rest.next(),
            '\r' => column = 0,
            '\n' => row = (row + 1).min(SIZE.0 - 1),
            found => {
                screen[row][column] = found;
                column = (column + 1).min(SIZE.1 - 1);
            }
        }
    }
    screen.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for the end of a process; kills it and fails if that takes too long.
pub fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child's status") {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it has not ended within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An exit code as a shell says it.
fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Has a process ended?
pub fn has_ended(pid: u32) -> bool {
    // A zombie that nobody has waited for yet has ended too.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}
