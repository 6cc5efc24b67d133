//! One run of the command of `sub --exec`: from its start to its end.
//!
//! The payload is a file in memory that the command finds as its standard input: it may read it, a part of it, or nothing, and nobody
//! waits for anybody. Standard error is a pipe that is passed on and whose last line is kept; standard output is one where somebody waits
//! for an answer. However much comes there, and however slowly it is read here, the command is looked after. It leads a process group
//! of its own, so that it can be ended with whatever it has started.

use crate::exit::{Code, Failure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Exit status by which a command says that its message can never be handled: EX_DATAERR of sysexits.h.
pub(super) const REJECT: i32 = 65;
/// Names the process for which a command runs, for whoever ends what that one leaves behind.
pub(super) const OWNER: &str = "SHMBUS_EXEC_OWNER";
/// Reads from one pipe before everything else is looked at again: what a pipe holds that its writer has not made larger.
const READS_MAX: usize = 16;
/// Bytes of a read, and of a write that a pipe with room takes at once.
const READ_BYTES: usize = 4096;
/// How long what a command has left in its pipe waits for a reader of standard error that is slow.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Bytes of the last line of standard error that are kept.
const LINE_BYTES_MAX: usize = 200;

/// What is to be run for each message.
#[derive(Clone, Debug)]
pub(super) struct Program {
    words: Vec<String>,
}

/// Characters that mean something to a shell; a command without any of them means the same without one.
fn is_special(character: char) -> bool {
    !(character.is_alphanumeric() || " ./_-+,:@%^".contains(character))
}

impl Program {
    /// What CMD means: `sh -c CMD`, or the same without a shell where that makes no difference. Fails if there is no such command.
    pub(super) fn new(command: &str) -> Result<Self, Failure> {
        let shell = || vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()];
        let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        let Some(first) = words.first() else {
            return Err(Failure::new(Code::Usage, "--exec wants a command"));
        };
        // What the shell would have to make something of is the shell's to find.
        let is_plain = !first.contains(is_special);
        let found = if is_plain { find(first)? } else { Found::ByShell };
        let words = match found {
            Found::At(path) if !command.contains(is_special) && is_run_by_kernel(&path) => {
                std::iter::once(path).chain(words.into_iter().skip(1)).collect()
            }
            _ => shell(),
        };
        Ok(Self { words })
    }

    /// Starts it.
    fn start(&self, environment: &[(&str, String)], input: File, is_kept: bool) -> io::Result<Child> {
        // Nothing here may keep the library from posix_spawn, which is much faster than a fork of this process.
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(input))
            .stdout(if is_kept { Stdio::piped() } else { Stdio::inherit() })
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
    }
}

/// Does the kernel know what to do with it? A script without a first line that says so is the shell's.
fn is_run_by_kernel(path: &str) -> bool {
    let mut begin = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    // One that may be executed and not read is no script: a shell could not read it either.
    read.map_or_else(
        |error| error.kind() == io::ErrorKind::PermissionDenied,
        |()| begin == *b"\x7fELF" || begin.starts_with(b"#!"),
    )
}

/// Where a command is.
enum Found {
    At(String),
    /// It is a part of the shell.
    ByShell,
}

fn find(name: &str) -> Result<Found, Failure> {
    let is_program =
        |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let path = Path::new(name);
        return match (path.exists(), is_program(path)) {
            (_, true) => Ok(Found::At(name.to_owned())),
            (true, false) => Err(Failure::new(
                Code::Refused,
                format_args!(
                    "{name:?} cannot be executed; is it a program, and is its mode right (chmod +x)?"
                ),
            )),
            (false, _) => Err(Failure::new(Code::NotFound, format_args!("there is no command {name:?}"))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| is_program(path));
    if let Some(path) = found.and_then(|path| path.into_os_string().into_string().ok()) {
        return Ok(Found::At(path));
    }
    let asked = Command::new("/bin/sh")
        .args(["-c", "command -v -- \"$1\"", "sh", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match asked {
        Ok(status) if status.success() => Ok(Found::ByShell),
        _ => Err(Failure::new(
            Code::NotFound,
            format_args!("there is no command {name:?} in PATH; give its path, as in ./{name}"),
        )),
    }
}

/// A payload as standard input: a file that nobody else has, at its beginning.
pub(super) fn input_of(payload: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("payload", MemfdFlags::CLOEXEC)?);
    file.write_all(payload)?;
    file.rewind()?;
    Ok(file)
}

/// What is done while a command runs: more often than this it is not looked at.
pub(super) trait Meanwhile {
    /// How long until it is to be asked again.
    fn tick(&self) -> Duration;
    /// Called now and then. True ends the command.
    fn look(&mut self) -> bool;
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    /// The last line that it wrote to standard error.
    pub(super) said: String,
    /// It was ended from here: for taking too long, or since the time to end was over.
    pub(super) was_ended: bool,
    /// Its standard output, where that was to be kept.
    pub(super) output: Option<Output>,
}

impl Finished {
    /// In a line, for people and for dead letters.
    pub(super) fn text(&self) -> String {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "ended".into(),
        };
        if self.said.is_empty() { how } else { format!("{how}: {}", self.said) }
    }
}

/// What a command wrote to standard output.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    /// How many may be kept.
    pub(super) most: usize,
    /// There was more.
    pub(super) is_cut: bool,
}

/// Runs the command with this as its standard input, and waits for its end. Of its standard output, so many bytes are kept; `None`: it
/// goes where this process's goes.
pub(super) fn run(
    program: &Program,
    environment: &[(&str, String)],
    input: File,
    kept_max: Option<usize>,
    meanwhile: &mut impl Meanwhile,
) -> io::Result<Finished> {
    let mut child = program.start(environment, input, kept_max.is_some())?;
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        unreachable!("a child has a number")
    };
    let mut watch = Watch {
        errors: child.stderr.take().map(not_waited_for),
        tail: Tail::default(),
        is_held_up: false,
        words: child.stdout.take().map(not_waited_for),
        output: kept_max.map(|most| Output { bytes: Vec::new(), most, is_cut: false }),
    };
    let watched = watch.until_end(pid, meanwhile);
    let was_ended = !matches!(watched, Ok(true));
    if was_ended {
        // With whatever it has started. It has not been waited for, so the number is still its own.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait()?;
    watch.take_the_rest();
    watched?;
    Ok(Finished { status, said: watch.tail.line(), was_ended, output: watch.output })
}

/// A child's pipe as a file that is never waited for: somebody whom the command has left behind may keep it open.
fn not_waited_for(pipe: impl Into<OwnedFd>) -> File {
    let file = File::from(pipe.into());
    let _ = rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK);
    file
}

struct Watch {
    errors: Option<File>,
    tail: Tail,
    /// Standard error of this process takes nothing at the moment: the command waits for its reader too.
    is_held_up: bool,
    words: Option<File>,
    output: Option<Output>,
}

/// What there is to be read from a pipe.
enum Took {
    Bytes(usize),
    Nothing,
    End,
}

fn read_once(pipe: &mut File, buffer: &mut [u8]) -> Took {
    loop {
        return match pipe.read(buffer) {
            Ok(0) => Took::End,
            Ok(count) => Took::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Took::Nothing,
            Err(_) => Took::End,
        };
    }
}

/// Does a stream take something within this time? One whose reader has gone does: an error.
fn takes(stream: &impl std::os::fd::AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    let ready = poll(&mut fds, Some(&crate::signals::timespec(time)));
    !matches!(ready, Ok(0) | Err(rustix::io::Errno::INTR))
}

impl Watch {
    /// Until the process ends: true. False: it is to be ended.
    fn until_end(&mut self, pid: Pid, meanwhile: &mut impl Meanwhile) -> io::Result<bool> {
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let mut next = Instant::now() + meanwhile.tick();
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let timeout = crate::signals::timespec(left);
            let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
            let own = io::stderr();
            fds.extend(self.errors.as_ref().map(|errors| match self.is_held_up {
                true => PollFd::new(&own, PollFlags::OUT),
                false => PollFd::new(errors, PollFlags::IN),
            }));
            fds.extend(self.words.as_ref().map(|words| PollFd::new(words, PollFlags::IN)));
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let has_ended = !fds[0].revents().is_empty();
            if fds[1..].iter().any(|fd| !fd.revents().is_empty()) {
                self.pass_on();
                self.keep();
            }
            if has_ended {
                return Ok(true);
            }
            if Instant::now() >= next {
                if meanwhile.look() {
                    return Ok(false);
                }
                next = Instant::now() + meanwhile.tick();
            }
        }
    }

    /// Passes on some of what there is, if there is room for it.
    fn pass_on(&mut self) {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            let Some(errors) = &mut self.errors else { return };
            // Other commands of this process come in between the look and the write as little as between two writes.
            let mut own = io::stderr().lock();
            self.is_held_up = !takes(&own, Duration::ZERO);
            if self.is_held_up {
                return;
            }
            match read_once(errors, &mut buffer) {
                Took::Bytes(count) => {
                    // Nobody may be there to read it any more.
                    let _ = own.write_all(&buffer[..count]);
                    self.tail.push(&buffer[..count]);
                }
                Took::Nothing => return,
                Took::End => self.errors = None,
            }
        }
    }

    /// Keeps some of what there is of standard output.
    fn keep(&mut self) {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            let (Some(words), Some(output)) = (&mut self.words, &mut self.output) else { return };
            match read_once(words, &mut buffer) {
                Took::Bytes(count) => {
                    let room = output.most.saturating_sub(output.bytes.len());
                    output.bytes.extend_from_slice(&buffer[..count.min(room)]);
                    output.is_cut |= count > room;
                }
                Took::Nothing => return,
                Took::End => self.words = None,
            }
        }
    }

    /// What the command has left in its pipes. Somebody whom it has left behind may go on writing.
    fn take_the_rest(&mut self) {
        self.keep();
        let until = Instant::now() + LAST_WORDS;
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            let Some(errors) = &mut self.errors else { return };
            let Took::Bytes(count) = read_once(errors, &mut buffer) else { return };
            self.tail.push(&buffer[..count]);
            let mut own = io::stderr().lock();
            if takes(&own, until.saturating_duration_since(Instant::now())) {
                let _ = own.write_all(&buffer[..count]);
            }
        }
    }
}

/// The last line that is not empty, of what may be endless.
#[derive(Debug, Default)]
struct Tail {
    last: Vec<u8>,
    current: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for (index, part) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if index > 0 {
                self.end_line();
            }
            let room = LINE_BYTES_MAX.saturating_sub(self.current.len());
            self.current.extend_from_slice(&part[..part.len().min(room)]);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.current);
        if !line.trim_ascii().is_empty() {
            self.last = line;
        }
    }

    fn line(mut self) -> String {
        self.end_line();
        let mut text = Vec::new();
        crate::text::push_escaped(&mut text, self.last.trim_ascii());
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_kept_however_it_comes() {
        let line = |parts: &[&[u8]]| {
            let mut tail = Tail::default();
            parts.iter().for_each(|part| tail.push(part));
            tail.line()
        };
        assert_eq!(line(&[b"one\ntwo\n"]), "two");
        assert_eq!(line(&[b"one\ntw", b"o", b"\n\n  \n"]), "two");
        assert_eq!(line(&[b"no end"]), "no end");
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[b"a\x1b[31m\xff"]), "a\\x1b[31m\\xff");
        assert_eq!(line(&[&[b'x'; 10_000]]).len(), LINE_BYTES_MAX);
    }

    #[test]
    fn commands_without_a_shell_are_those_that_need_none() {
        let words = |command| Program::new(command).ok().map(|program| program.words);
        assert_eq!(words("/bin/echo a  b"), Some(vec!["/bin/echo".into(), "a".into(), "b".into()]));
        assert!(words("cat -").is_some_and(|words| words[0].ends_with("/cat") && words[1] == "-"));
        for command in ["cat | wc", "exit 3", "echo $HOME", "if true; then true; fi", "A=b cat", "cat 'a b'"]
        {
            assert_eq!(
                words(command),
                Some(vec!["/bin/sh".into(), "-c".into(), command.into()]),
                "{command}"
            );
        }
        for command in ["", "no-such-command", "./no-such-command", "/etc/passwd", "no-such-command | cat"] {
            assert_eq!(words(command), None, "{command}");
        }
    }
}
