//! The first SIGINT, SIGTERM or SIGHUP asks a command to end in an orderly way; the second ends it on the spot.

use crate::exit::{Code, Failure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The signals that a command has caught.
#[derive(Debug)]
pub(crate) struct Signals {
    raised: Arc<AtomicBool>,
    which: Arc<AtomicUsize>,
    /// Readable once a signal has come.
    wake: UnixStream,
}

impl Signals {
    /// Catches them from now on. Signals that the parent process has had ignored (`nohup`, background jobs) stay so.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let fail =
            |error: std::io::Error| Failure::new(Code::Error, format_args!("cannot catch signals: {error}"));
        let (wake, waker) = UnixStream::pair().map_err(fail)?;
        let this =
            Self { raised: Arc::new(AtomicBool::new(false)), which: Arc::new(AtomicUsize::new(0)), wake };
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            // In this order: the second signal finds the flag set and ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, this.raised.clone())
                .map_err(fail)?;
            signal_hook::flag::register_usize(signal, this.which.clone(), signal as usize).map_err(fail)?;
            signal_hook::flag::register(signal, this.raised.clone()).map_err(fail)?;
            signal_hook::low_level::pipe::register(signal, waker.try_clone().map_err(fail)?).map_err(fail)?;
        }
        Ok(this)
    }

    /// Has one come?
    pub(crate) fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// The way out for a command that has not done what it was asked to.
    pub(crate) fn interrupted(&self) -> Failure {
        Failure::Quiet(128 + self.which.load(Ordering::Relaxed) as u8)
    }

    /// Sleeps. True if a signal has ended it.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while !self.raised() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut fds = [PollFd::new(&self.wake, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&timespec(left)));
        }
        true
    }

    /// Waits for one.
    pub(crate) fn wait(&self) {
        while !self.sleep(Duration::from_secs(3_600)) {}
    }

    /// Waits until a stream can be read (or has ended). False if a signal came first.
    pub(crate) fn wait_readable(&self, stream: impl AsFd) -> bool {
        while !self.raised() {
            let mut fds = [PollFd::new(&self.wake, PollFlags::IN), PollFd::new(&stream, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return true,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // What cannot be polled can be read.
                Err(_) => return true,
            }
        }
        false
    }
}

/// Has the reader of standard output gone away? Known without writing, so that a quiet topic does not keep a pipeline open.
pub(crate) fn is_output_closed() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut fds, Some(&timespec(Duration::ZERO))).is_ok()
        && fds[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL)
}

pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

/// The set of ignored signals of this process, a bit each.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
