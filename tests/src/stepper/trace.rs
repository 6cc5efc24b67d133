//! A child process under ptrace: run to its operation, then one instruction at a time.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use stepped::told::Told;

/// How long a child may take for anything before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// A system call that has not come back after this long sleeps.
const ASLEEP_AFTER: Duration = Duration::from_millis(3);
/// The breakpoint with which an operation begins and ends.
const BREAKPOINT: u8 = 0xcc;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An instruction.
    Ran,
    /// A system call, of this number.
    Called(i64),
    /// A system call that has not come back; the next step waits for it.
    Asleep(i64),
    /// Nothing: the operation is over.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Plain,
    Call,
    Breakpoint,
}

/// A traced child; killed when dropped.
#[derive(Debug)]
pub struct Traced {
    child: Child,
    pid: i32,
    output: BufReader<ChildStdout>,
    told: Told,
    /// The call in which it sleeps.
    asleep: Option<i64>,
    is_traced: bool,
    /// Threads that it has started: they stand still where they begin, until it is let go.
    threads: Vec<i32>,
    /// What it was told to do last.
    doing: u32,
    seen: HashMap<u64, Instruction>,
    /// Where it stands.
    rip: u64,
}

impl std::fmt::Debug for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("instruction")
    }
}

fn request(kind: u32, pid: i32, address: u64, data: u64) -> std::io::Result<i64> {
    // SAFETY: no request here makes the kernel store through `data`, but for PTRACE_GETREGS, whose caller gives it room.
    let result = unsafe { libc::ptrace(kind as _, pid, address, data) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

impl Traced {
    /// Starts a child and waits until it is prepared.
    ///
    /// # Panics
    /// Where it does not get there.
    pub fn start(program: &Path, operation: &str, role: &str, dir: &Path, page: &Path) -> Self {
        let mut child = Command::new(program)
            .args([operation, role])
            .args([dir, page])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let pid = child.id() as i32;
        let told = Told::open(page);
        let mut this = Self {
            child,
            pid,
            output,
            told,
            asleep: None,
            is_traced: false,
            threads: Vec::new(),
            doing: libc::PTRACE_CONT,
            seen: HashMap::new(),
            rip: 0,
        };
        this.hear("ready");
        this
    }

    fn hear(&mut self, word: &str) {
        let mut line = String::new();
        let _ = self.output.read_line(&mut line);
        assert_eq!(line.trim_end(), word, "what the child says{}", self.why());
    }

    /// What the child told of an error, behind what is said of its consequences.
    fn why(&self) -> String {
        self.told.failure().map(|why| format!(": {why}")).unwrap_or_default()
    }

    fn expect_stopped(&self, status: i32) {
        assert!(libc::WIFSTOPPED(status), "the child ended, {status:#x}{}", self.why());
    }

    /// What it tells.
    pub fn told(&self) -> Told {
        self.told
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// Where it stands: the address of its next instruction.
    pub fn at(&self) -> u64 {
        self.rip
    }

    /// Goes to where the operation begins.
    ///
    /// # Panics
    /// Where it does not get there, or may not be traced.
    pub fn begin(&mut self) {
        const OPTIONS: i32 =
            libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
        request(libc::PTRACE_SEIZE, self.pid, 0, OPTIONS as u64).expect("permission to trace a child");
        self.is_traced = true;
        self.child.stdin.as_mut().expect("its input").write_all(b"go\n").expect("the child listens");
        self.wait_until_stopped();
        self.look();
    }

    fn wait_until_stopped(&mut self) {
        let status = self.wait(Some(PATIENCE)).expect("the child stops within a while");
        self.expect_stopped(status);
    }

    /// Waits for it to stop, at most so long; `None` waits for as long as a system call may take that does not sleep.
    fn wait(&mut self, limit: Option<Duration>) -> Option<i32> {
        let begun = Instant::now();
        let mut looks = 0_u32;
        loop {
            let mut status = 0;
            // SAFETY: waits for a child of this process and stores its status here.
            let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG | libc::__WALL) };
            assert!(pid >= 0, "waitpid: {}", std::io::Error::last_os_error());
            if pid == self.pid {
                if status >> 16 == libc::PTRACE_EVENT_CLONE {
                    self.note_thread();
                    continue;
                }
                return Some(status);
            }
            looks += 1;
            if looks < 200 {
                std::hint::spin_loop();
                continue;
            }
            if begun.elapsed() > limit.unwrap_or(ASLEEP_AFTER) && (limit.is_some() || self.sleeps()) {
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// It has started a thread, which is traced as well; it goes on with what it was told to do.
    fn note_thread(&mut self) {
        let mut thread: libc::c_ulong = 0;
        let room = &raw mut thread;
        request(libc::PTRACE_GETEVENTMSG, self.pid, 0, room as u64).expect("which thread it has started");
        self.threads.push(thread as i32);
        request(self.doing, self.pid, 0, 0).expect("to go on");
    }

    /// The threads that it has started begin.
    fn let_threads_go(&mut self) {
        for thread in self.threads.drain(..) {
            let mut status = 0;
            // SAFETY: waits for a traced thread, which has stopped or is about to, and stores its status here.
            unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
            request(libc::PTRACE_DETACH, thread, 0, 0).expect("to let a thread go");
        }
    }

    fn order(&mut self, what: u32) {
        self.doing = what;
        request(what, self.pid, 0, 0).expect("to go on");
    }

    fn sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
    }

    #[cfg(target_arch = "x86_64")]
    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: plain numbers, for which zero is one.
        let mut registers: libc::user_regs_struct = unsafe { core::mem::zeroed() };
        let room = &raw mut registers;
        request(libc::PTRACE_GETREGS, self.pid, 0, room as u64).expect("the registers of a stopped child");
        registers
    }

    #[cfg(target_arch = "x86_64")]
    fn look(&mut self) {
        self.rip = self.registers().rip;
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn look(&mut self) {}

    fn instruction(&mut self) -> Instruction {
        let at = self.rip;
        let pid = self.pid;
        *self.seen.entry(at).or_insert_with(|| {
            let word = request(libc::PTRACE_PEEKTEXT, pid, at, 0).map_or(0, i64::cast_unsigned);
            let bytes = word.to_le_bytes();
            if bytes[0] == BREAKPOINT {
                Instruction::Breakpoint
            } else if bytes[..2] == SYSCALL {
                Instruction::Call
            } else {
                Instruction::Plain
            }
        })
    }

    /// One instruction, or one system call. A call that sleeps is left sleeping; the next step waits for its end.
    ///
    /// # Panics
    /// Where the child ends, or a call takes too long.
    #[cfg(target_arch = "x86_64")]
    pub fn step(&mut self) -> Step {
        if let Some(number) = self.asleep {
            let Some(status) = self.wait(None) else { return Step::Asleep(number) };
            self.asleep = None;
            self.expect_stopped(status);
            self.look();
            return Step::Called(number);
        }
        let instruction = self.instruction();
        if instruction == Instruction::Breakpoint {
            return Step::Ended;
        }
        let call = (instruction == Instruction::Call).then(|| self.registers().rax.cast_signed());
        self.order(libc::PTRACE_SINGLESTEP);
        let limit = if call.is_some() { None } else { Some(PATIENCE) };
        match (self.wait(limit), call) {
            (Some(status), _) => self.expect_stopped(status),
            (None, Some(number)) => {
                self.asleep = Some(number);
                return Step::Asleep(number);
            }
            (None, None) => panic!("an instruction that does not end"),
        }
        self.look();
        call.map_or(Step::Ran, Step::Called)
    }

    /// Nothing can be stepped here.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn step(&mut self) -> Step {
        Step::Ended
    }

    /// Is it asleep in a system call?
    pub fn is_asleep(&self) -> bool {
        self.asleep.is_some()
    }

    /// Goes on at full speed, past so many system calls, to where the last of them has returned. False if the operation is
    /// over, or sleeps, before.
    ///
    /// # Panics
    /// Where the child ends.
    pub fn pass_calls(&mut self, count: usize) -> bool {
        // Each call stops it twice.
        for _ in 0..2 * count {
            self.order(libc::PTRACE_SYSCALL);
            let begun = Instant::now();
            let status = loop {
                match self.wait(None) {
                    Some(status) => break status,
                    None if begun.elapsed() > Duration::from_millis(1_500) => {
                        self.asleep = Some(-1);
                        return false;
                    }
                    None => {}
                }
            };
            self.expect_stopped(status);
            if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
                // The breakpoint at the end: back before it, as if it had been stepped there.
                self.step_back();
                return false;
            }
        }
        self.look();
        true
    }

    #[cfg(target_arch = "x86_64")]
    fn step_back(&mut self) {
        let mut registers = self.registers();
        registers.rip -= 1;
        let from = &raw const registers;
        request(libc::PTRACE_SETREGS, self.pid, 0, from as u64).expect("back before the breakpoint");
        self.rip = registers.rip;
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn step_back(&mut self) {}

    /// Lets it run to the end of its operation, where [`Traced::let_go`] meets it.
    ///
    /// # Panics
    /// Where it cannot be.
    pub fn resume(&mut self) {
        if self.asleep.is_none() {
            self.cont();
        }
    }

    fn cont(&mut self) {
        self.order(libc::PTRACE_CONT);
    }

    /// Waits for the end of its operation, and lets it go for good.
    ///
    /// # Panics
    /// Where the rest of the operation takes too long.
    pub fn let_go(&mut self) {
        loop {
            self.wait_until_stopped();
            self.look();
            // Behind the breakpoint. What else stops it is a sleeping call that was stepped into and has returned.
            if self.asleep.take().is_none() && self.peek(self.rip - 1) == BREAKPOINT {
                break;
            }
            self.cont();
        }
        self.let_threads_go();
        request(libc::PTRACE_DETACH, self.pid, 0, 0).expect("to let it go");
        self.is_traced = false;
    }

    fn peek(&self, at: u64) -> u8 {
        request(libc::PTRACE_PEEKTEXT, self.pid, at, 0).map_or(0, |word| word.cast_unsigned() as u8)
    }

    /// Kills it where it stands, and returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let begun = Instant::now();
        loop {
            let mut status = 0;
            // A process is gone once its traced threads have been waited for.
            self.threads.retain(|&thread| {
                // SAFETY: as above.
                let pid = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
                pid == 0 || (pid == thread && libc::WIFSTOPPED(status))
            });
            // SAFETY: as above.
            let pid = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if pid < 0 || (pid == self.pid && !libc::WIFSTOPPED(status)) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Waits for its end.
    pub fn join(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(format!("the child ended with {status}{}", self.why()));
                }
                Err(error) => return Err(format!("the child: {error}")),
                Ok(None) if begun.elapsed() > PATIENCE => return Err("the child does not end".into()),
                Ok(None) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The function that holds an address, where binutils can tell.
    pub fn name_of(&self, at: u64) -> String {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        let found = maps.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
            let (offset, file) = (words.nth(1)?, words.nth(2)?);
            let offset = u64::from_str_radix(offset, 16).ok()?;
            (from..to).contains(&at).then(|| (at - from + offset, file.to_owned()))
        });
        let Some((offset, file)) = found else { return format!("{at:#x}") };
        symbol(&file, offset).unwrap_or_else(|| format!("{file}+{offset:#x}"))
    }
}

/// The function that holds an offset of a program file, and the line that it came from.
fn symbol(file: &str, offset: u64) -> Option<String> {
    // Segments are not mapped at the addresses that symbols have: the program headers tell the difference.
    let bytes = std::fs::read(file).ok()?;
    let number = |at: usize, len: usize| {
        let bytes = bytes.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0_u64, |all, &byte| all << 8 | u64::from(byte)))
    };
    let (table, size, count) =
        (number(0x20, 8)? as usize, number(0x36, 2)? as usize, number(0x38, 2)? as usize);
    let address = (0..count).find_map(|index| {
        let at = table + index * size;
        let (begin, virtual_begin, len) = (number(at + 8, 8)?, number(at + 16, 8)?, number(at + 32, 8)?);
        (number(at, 4)? == 1 && (begin..begin + len).contains(&offset))
            .then(|| offset - begin + virtual_begin)
    })?;
    let output = Command::new("addr2line")
        .args(["-f", "-C", "-i", "-e", file, &format!("{address:#x}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let places: Vec<_> = lines
        .chunks(2)
        .filter_map(|pair| {
            let line = pair.get(1)?.rsplit('/').next()?;
            Some(format!("{} ({line})", pair.first()?))
        })
        .take(4)
        .collect();
    (!places.is_empty()).then(|| places.join(" < "))
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}
