//! Processes: which are alive, which number stands for which, and whether this one is a forked child.
//!
//! A pid proves nothing by itself: it is given out again, and means something else in another pid namespace.
//! Together with the time of its start, inside one namespace, it names one process of this boot.
#![allow(unsafe_code)]

use super::error::{Result, SysError};
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// When a process was started, in clock ticks (usually of 10 ms) since boot; `None` when it cannot be seen.
///
/// A process that has ended but has not been waited for can still be seen.
#[must_use]
pub fn start_time_ticks(pid: u32) -> Option<u64> {
    start_time_in(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of a `stat` line, the time of its start. Field 2 is the program's name in parentheses and may hold anything, spaces and
/// parentheses and bytes that are no text included; after the last `)` only numbers and the state follow.
fn start_time_in(stat: &[u8]) -> Option<u64> {
    field(stat, 22)?.parse().ok()
}

/// The letter that the kernel has for what a process does: `T` is stopped. `None` when it cannot be seen, or is another that was given
/// the number.
#[must_use]
pub fn state_of(pid: u32, start_ticks: u64) -> Option<char> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    (start_time_in(&stat) == Some(start_ticks)).then(|| field(&stat, 3)?.chars().next()).flatten()
}

/// How a process ended that nobody has waited for yet, as `wait` will give it. `None` when that cannot be seen.
#[must_use]
pub fn end_status(pid: u32, start_ticks: u64) -> Option<u16> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let is_over = start_time_in(&stat) == Some(start_ticks) && field(&stat, 3) == Some("Z");
    is_over.then(|| field(&stat, 52)?.parse().ok()).flatten()
}

/// A field of a `stat` line behind the name, by its number in proc(5).
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    core::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace().nth(number - 3)
}

/// Do all threads of a process sleep, of their own accord, or wait to be buried? Whoever runs, is about to, or was stopped may be
/// in the middle of something. The calling thread does not count. False where it cannot be seen.
#[must_use]
pub fn is_asleep(pid: u32) -> bool {
    let own = rustix::thread::gettid().as_raw_nonzero().get().to_string();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().filter(|task| task.file_name() != own.as_str()).all(|task| {
        // One that has ended since the directory was read is not in the middle of anything.
        std::fs::read(task.path().join("stat")).map_or(true, |stat| {
            let state = stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2));
            matches!(state, Some(b'S' | b'Z' | b'X'))
        })
    })
}

/// Number of this process's pid namespace: pids may be compared only where it is equal. 0 when `/proc` does
/// not say.
#[must_use]
pub fn pid_namespace_inode() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// File name of the running program, `"unknown"` when it cannot be told.
#[must_use]
pub fn executable_name() -> String {
    let of = |path: std::path::PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = std::env::current_exe()
        .ok()
        .and_then(of)
        .or_else(|| of(std::env::args_os().next()?.into()))
        .unwrap_or_else(|| "unknown".to_owned());
    // The kernel marks a program whose file was replaced while it runs.
    name.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(name)
}

/// A handle on one process, not on its number: it stays with that process when the number is given out again.
///
/// Whether it is the process meant must be settled after opening, by [`start_time_ticks`].
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens a handle on the process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` when there is none; `ENOSYS` before Linux 5.3.
    pub fn open(pid: u32) -> Result<Pidfd> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        raw.ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map(Pidfd)
            .map_err(|errno| SysError::new("pidfd_open", format_args!("pid {pid}"), errno))
    }

    /// Whether the process still runs. One that has ended is dead although nobody has waited for it yet.
    ///
    /// When the kernel does not answer, the process counts as alive: death needs proof.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut entries = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::io::retry_on_intr(|| poll(&mut entries, Some(&now))), Ok(1..))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells a forked child that it is one: a byte that holds 1 in the process that made it and 0 in its children.
///
/// The byte lies in a private page that the kernel clears in every child (MADV_WIPEONFORK), so that the
/// question costs one load, and forks that bypass the C library count as well. A child made by vfork shares all
/// memory until its exec and is not told. Where the kernel has no such page (before 4.14), the C library's
/// fork handler clears the byte.
#[derive(Clone, Copy, Debug)]
pub struct ForkMark {
    byte: &'static AtomicU8,
}

/// The byte of the latest mark that needs the fallback.
static HANDLED: AtomicPtr<AtomicU8> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn clear_handled() {
    // SAFETY: null, or a byte that is never given back.
    if let Some(byte) = unsafe { HANDLED.load(Ordering::Relaxed).as_ref() } {
        byte.store(0, Ordering::Relaxed);
    }
}

impl ForkMark {
    /// The mark of this process, made at the first call: a fork before that goes unnoticed. A forked child gets one of its
    /// own, so that what it makes itself is not taken for its parent's.
    pub fn global() -> &'static ForkMark {
        static GLOBAL: AtomicPtr<ForkMark> = AtomicPtr::new(core::ptr::null_mut());
        // Acquire: pairs with the Release of whoever made it.
        let seen = GLOBAL.load(Ordering::Acquire);
        // SAFETY: null, or a mark that is never given back.
        if let Some(mark) = unsafe { seen.as_ref() }
            && !mark.is_child()
        {
            return mark;
        }
        let made = Box::new(ForkMark::wiped().unwrap_or_else(|_| ForkMark::handled()));
        let made = Box::into_raw(made);
        match GLOBAL.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and never given back.
            Ok(_) => unsafe { &*made },
            // SAFETY: another thread's, likewise; nobody has seen this one, whose byte is not worth giving back.
            Err(theirs) => unsafe { &*theirs },
        }
    }

    fn wiped() -> rustix::io::Result<ForkMark> {
        let len_bytes = rustix::param::page_size();
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        // SAFETY: the range is the page just made.
        if let Err(errno) = unsafe { rustix::mm::madvise(page, len_bytes, Advice::LinuxWipeOnFork) } {
            // SAFETY: nothing refers to the page yet.
            let _ = unsafe { rustix::mm::munmap(page, len_bytes) };
            return Err(errno);
        }
        // SAFETY: the page is never unmapped from here on, holds zeros, and is only used as this atomic.
        let byte: &'static AtomicU8 = unsafe { &*page.cast::<AtomicU8>() };
        // Relaxed: the mark reaches other threads through whatever hands it to them.
        byte.store(1, Ordering::Relaxed);
        Ok(ForkMark { byte })
    }

    fn handled() -> ForkMark {
        let byte = Box::leak(Box::new(AtomicU8::new(1)));
        HANDLED.store(byte, Ordering::Relaxed);
        at_fork_in_child(clear_handled);
        ForkMark { byte }
    }

    /// Whether this process was forked from the one that made the mark.
    ///
    /// # Ordering
    /// Relaxed is enough: the byte never changes while a process lives, and a child's first thread starts with it
    /// cleared.
    #[inline(always)]
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.byte.load(Ordering::Relaxed) == 0
    }
}

/// Runs `handler`, which may do no more than a signal handler, in every child that is forked through the C library.
fn at_fork_in_child(handler: extern "C" fn()) {
    // SAFETY: the handler is never unloaded. It can fail only for want of memory.
    let error = unsafe { libc::pthread_atfork(None, None, Some(handler)) };
    assert_eq!(error, 0, "no memory for a fork handler");
}

/// Descriptors that forked children must not keep; -1 in free places.
static WITHHELD: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];
/// What such a child finds under their numbers.
static NOWHERE: OnceLock<Option<OwnedFd>> = OnceLock::new();

extern "C" fn withhold() {
    let Some(Some(nowhere)) = NOWHERE.get() else { return };
    for place in &WITHHELD {
        let fd = place.load(Ordering::Relaxed);
        if fd >= 0 {
            // SAFETY: both are numbers of descriptors; the one that is replaced is the parent's affair.
            unsafe { libc::dup3(nowhere.as_raw_fd(), fd, libc::O_CLOEXEC) };
            place.store(-1, Ordering::Relaxed);
        }
    }
}

/// Keeps a descriptor from forked children, who would keep a lock or a listening socket alive that is to end with this
/// process. Under its number they find `/dev/null`, so that it may be closed there as here. Dropped before the descriptor is.
///
/// A help, not a promise: there are 64 places, and forks that bypass the C library do not ask.
#[derive(Debug)]
pub struct Withheld(Option<&'static AtomicI32>);

impl Withheld {
    /// Withholds `fd` from now on.
    pub fn new(fd: &impl AsFd) -> Withheld {
        NOWHERE.get_or_init(|| {
            at_fork_in_child(withhold);
            std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
        });
        let fd = fd.as_fd().as_raw_fd();
        let is_free = |place: &&AtomicI32| {
            // Relaxed: a fork copies what this process sees.
            place.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        Withheld(WITHHELD.iter().find(is_free))
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(-1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Forks, leaves the child with what `body` returns, and returns that. `body` must not allocate or lock:
    /// the other threads of the test process, and what they held, do not exist in the child.
    pub(in super::super) fn exit_code_of_child(body: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child runs `body` and leaves without running anything that belongs to the parent.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            let code = body();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status), "child was killed: {status:#x}");
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn start_time_survives_any_program_name() {
        let line = b"7 (a) S (b \xff) R 1 7 7 0 -1 4194304 9 0 0 0 1 2 0 0 20 0 1 0 123456 99 3\n";
        assert_eq!(start_time_in(line), Some(123_456));
        assert_eq!(start_time_in(b"7 (short) R 1"), None);
        assert_eq!(start_time_in(b""), None);
    }

    #[test]
    fn a_live_process_has_one_start_time_and_an_absent_one_none() {
        let pid = std::process::id();
        assert!(start_time_ticks(pid).is_some());
        assert_eq!(start_time_ticks(pid), start_time_ticks(pid));
        assert_eq!(start_time_ticks(u32::MAX), None);
        assert_ne!(pid_namespace_inode(), 0);
    }

    #[test]
    fn a_pidfd_knows_a_dead_process_before_it_is_waited_for() {
        let own = Pidfd::open(std::process::id()).unwrap();
        assert!(own.is_alive());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let handle = Pidfd::open(child.id()).unwrap();
        assert!(handle.is_alive());
        child.kill().unwrap();
        let mut entries = [PollFd::new(&handle, PollFlags::IN)];
        poll(&mut entries, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
        assert!(!handle.is_alive());
        child.wait().unwrap();
        assert!(!handle.is_alive());
        for absent in [0, u32::MAX] {
            assert!(Pidfd::open(absent).unwrap_err().is(Errno::SRCH));
        }
    }

    #[test]
    fn the_mark_is_set_in_children_only() {
        for mark in [ForkMark::global(), &ForkMark::wiped().unwrap(), &ForkMark::handled()] {
            assert!(!mark.is_child());
            assert_eq!(exit_code_of_child(|| i32::from(mark.is_child())), 1);
            assert!(!mark.is_child());
        }
    }

    #[test]
    fn a_child_has_a_mark_of_its_own() {
        let mark = ForkMark::global();
        let child = exit_code_of_child(|| i32::from(mark.is_child() && !ForkMark::global().is_child()));
        assert_eq!((child, ForkMark::global().is_child()), (1, false));
    }

    #[test]
    fn a_withheld_descriptor_is_nobody_elses() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let withheld = Withheld::new(&writer);
        let is_a_pipe = |fd: &OwnedFd| {
            let kind = rustix::fs::fstat(fd).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
            kind == Ok(rustix::fs::FileType::Fifo)
        };
        assert_eq!(
            exit_code_of_child(|| i32::from(is_a_pipe(&writer)) + 2 * i32::from(is_a_pipe(&reader))),
            2
        );
        assert!(is_a_pipe(&writer));
        drop(withheld);
        assert_eq!(exit_code_of_child(|| i32::from(is_a_pipe(&writer))), 1);
    }

    #[test]
    fn the_program_has_a_name() {
        let name = executable_name();
        assert!(!name.is_empty() && !name.contains('/') && name != "unknown");
    }
}
