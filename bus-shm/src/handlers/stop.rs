//! Telling handlers to end, and waiting until they have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Ends what waits for a message, from any thread.
type Waker = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Inside {
    wakers: Vec<Waker>,
    /// Threads that have not ended, and whether there was ever one.
    running: usize,
    began: bool,
}

#[derive(Default)]
struct Shared {
    requested: AtomicBool,
    inside: Mutex<Inside>,
    changed: Condvar,
}

/// Tells handlers to end: from any thread, any number of times.
#[derive(Clone, Default)]
pub struct Stopper(Arc<Shared>);

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopper").field("is_requested", &self.is_requested()).finish_non_exhaustive()
    }
}

impl Stopper {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no handler takes another message. Returns at once.
    pub fn stop(&self) {
        // Before the wakers: whoever is woken looks at it.
        self.0.requested.store(true, Ordering::Release);
        self.lock().wakers.iter().for_each(|wake| wake());
        self.0.changed.notify_all();
    }

    /// Have they been told to end?
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Acquire)
    }

    /// How to wake one that waits for a message.
    pub(super) fn wakes(&self, waker: Waker) {
        self.lock().wakers.push(waker);
    }

    /// Nobody waits any more. What would have been woken is let go.
    pub(super) fn forget_wakers(&self) {
        self.lock().wakers.clear();
    }

    /// A thread begins; it has ended when what is returned is dropped.
    pub(super) fn begin(&self) -> Begun {
        let mut inside = self.lock();
        inside.running += 1;
        inside.began = true;
        Begun(self.clone())
    }

    /// Waits until they are told to end, or have all ended.
    pub(super) fn wait(&self) {
        let mut inside = self.lock();
        while !self.is_requested() && (inside.running > 0 || !inside.began) {
            inside = self.0.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all have ended, or until then. True if all have.
    pub(super) fn wait_for_end(&self, until: Option<Instant>) -> bool {
        let mut inside = self.lock();
        while inside.running > 0 {
            inside = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.0.changed.wait(inside).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    let waited = self.0.changed.wait_timeout(inside, left);
                    waited.map_or_else(|error| error.into_inner().0, |(inside, _)| inside)
                }
            };
        }
        true
    }
}

/// A thread that has not ended.
pub(super) struct Begun(Stopper);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.0.changed.notify_all();
    }
}
