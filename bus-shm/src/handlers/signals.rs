//! SIGTERM and SIGINT tell handlers to end.

use super::Stopper;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

/// Both signals, caught until this is dropped.
pub(super) struct Caught {
    registered: Vec<SigId>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Caught {
    pub(super) fn new(stopper: &Stopper) -> io::Result<Self> {
        let (mut wake, waker) = UnixStream::pair()?;
        let mut this = Self { registered: Vec::new(), waker, thread: None };
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the second signal finds the flag set and ends the process.
            let second =
                signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, raised.clone())?;
            let first = signal_hook::flag::register(signal, raised.clone())?;
            let told = signal_hook::low_level::pipe::register(signal, this.waker.try_clone()?)?;
            this.registered.extend([second, first, told]);
        }
        let stopper = stopper.clone();
        let work = move || {
            // A byte is a signal, or the end of the wait for one.
            let _ = wake.read(&mut [0]);
            stopper.stop();
        };
        this.thread = Some(std::thread::Builder::new().name("shmbus-signals".into()).spawn(work)?);
        Ok(this)
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.registered.drain(..).for_each(|id| _ = signal_hook::low_level::unregister(id));
        let _ = self.waker.write(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
