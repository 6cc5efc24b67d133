//! SIGTERM and SIGINT tell handlers to end.

use super::Stopper;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// What this process has done about signals. A handler that was installed once stays, so it is made to do what would happen without
/// it whenever nobody catches them.
#[derive(Default)]
struct Installed {
    /// How many [`Caught`] there are.
    caught_count: usize,
    /// Signals that are as the process was started with.
    default_for: Vec<i32>,
    /// Nobody catches them: they end the process.
    is_over: Arc<AtomicBool>,
}

fn installed() -> MutexGuard<'static, Installed> {
    static INSTALLED: OnceLock<Mutex<Installed>> = OnceLock::new();
    INSTALLED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Installed {
    /// From here on a signal that nobody catches does again what it did before.
    fn keep_default(&mut self, signal: i32) -> io::Result<()> {
        if !self.default_for.contains(&signal) && !is_in_mask("SigCgt:", signal) {
            signal_hook::flag::register_conditional_default(signal, self.is_over.clone())?;
            self.default_for.push(signal);
        }
        Ok(())
    }
}

/// Is a signal in one of the masks that the kernel keeps of this process?
fn is_in_mask(name: &str, signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix(name));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Both signals, caught until this is dropped.
pub(super) struct Caught {
    registered: Vec<SigId>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Caught {
    pub(super) fn new(stopper: &Stopper) -> io::Result<Self> {
        let (mut wake, waker) = UnixStream::pair()?;
        let mut installed = installed();
        installed.caught_count += 1;
        installed.is_over.store(false, Ordering::SeqCst);
        let mut this = Self { registered: Vec::new(), waker, thread: None };
        let raised = Arc::new(AtomicBool::new(false));
        let outcome = this.register(&mut installed, &raised);
        // What is returned, or dropped, takes the lock itself.
        drop(installed);
        outcome?;
        if raised.load(Ordering::SeqCst) {
            // Before there was anything to wake.
            stopper.stop();
        }
        let stopper = stopper.clone();
        let work = move || {
            // A byte is a signal, or the end of the wait for one. The signal may well interrupt the read.
            while wake.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {}
            stopper.stop();
        };
        this.thread = Some(std::thread::Builder::new().name("shmbus-signals".into()).spawn(work)?);
        Ok(this)
    }

    fn register(&mut self, installed: &mut Installed, raised: &Arc<AtomicBool>) -> io::Result<()> {
        for signal in [SIGTERM, SIGINT].into_iter().filter(|&signal| !is_in_mask("SigIgn:", signal)) {
            installed.keep_default(signal)?;
            // In this order: the second signal finds the flag set and ends the process.
            let second =
                signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, raised.clone())?;
            self.registered.push(second);
            self.registered.push(signal_hook::flag::register(signal, raised.clone())?);
            let told = signal_hook::low_level::pipe::register(signal, self.waker.try_clone()?)?;
            self.registered.push(told);
        }
        Ok(())
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        let mut installed = installed();
        installed.caught_count -= 1;
        // Before it is no longer caught here, so that none comes to nothing in between.
        installed.is_over.store(installed.caught_count == 0, Ordering::SeqCst);
        self.registered.drain(..).for_each(|id| _ = signal_hook::low_level::unregister(id));
        drop(installed);
        let _ = self.waker.write(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
