//! Sleeping on a 32-bit word of shared memory.
//!
//! All calls use the shared form of the futex, which finds the page behind the address: the private form
//! is quicker, but its wake-ups never leave the process. Waiting works on read-only mappings.
//!
//! # Ordering
//! The kernel compares the word with the expected value under its own lock, after which a [`wake_all`] finds
//! the sleeper. Nothing else is ordered: what a woken thread reads must be published by Release and read by
//! Acquire on the data itself, and a waker that looks before it wakes needs the barrier of the protocol above.

use super::{clock, timespec};
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use rustix::io::Errno;
use rustix::thread::futex::{self, ClockId, Flags, WaitFlags, WaitvFlags};

/// Most words that one [`wait_any`] can sleep on (`FUTEX_WAITV_MAX`).
pub const WAIT_ANY_WORDS_MAX: usize = 128;

/// How long a wait that the kernel refuses sleeps instead, so that its caller polls without burning a core.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// Why a wait ended. None of them proves anything about the word: look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitOutcome {
    /// Somebody woke the word (or the kernel did so spuriously).
    Woken,
    /// A word did not hold the expected value, so nobody slept.
    Changed,
    /// The time limit passed.
    TimedOut,
    /// A signal arrived, or the kernel refused and a pause of a millisecond was made instead.
    Interrupted,
}

/// Sleeps while `word` holds `expected`, until woken or for `timeout` (`None`: without limit).
///
/// The limit is measured by `CLOCK_MONOTONIC`.
#[must_use = "a wait ends for reasons that call for different steps"]
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> WaitOutcome {
    let limit = timeout.map(timespec);
    outcome(futex::wait(word, Flags::empty(), expected, limit.as_ref()), timeout)
}

/// Wakes every thread of every process that sleeps on `word`; returns how many.
///
/// 0 also when the page has gone, because then nobody can sleep there.
pub fn wake_all(word: &AtomicU32) -> usize {
    futex::wake(word, Flags::empty(), i32::MAX.cast_unsigned()).unwrap_or(0)
}

/// Whether this kernel has `futex_waitv` (5.16 and later, unless a sandbox forbids it).
#[must_use]
pub fn is_wait_any_supported() -> bool {
    // A word that differs from what is expected returns at once with EAGAIN where the call exists.
    let word = AtomicU32::new(0);
    wait_any_once(&[(&word, 1)], Some(Duration::ZERO)) == Err(Errno::AGAIN)
}

/// Sleeps while every word holds the value beside it, until one is woken or for `timeout` (`None`: no limit).
///
/// With no word, with more than [`WAIT_ANY_WORDS_MAX`], or on a kernel without the call, it pauses for at most
/// a millisecond and reports [`WaitOutcome::Interrupted`]: slow, but nothing is missed.
#[must_use = "a wait ends for reasons that call for different steps"]
pub fn wait_any(waiters: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> WaitOutcome {
    outcome(wait_any_once(waiters, timeout), timeout)
}

fn wait_any_once(waiters: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> rustix::io::Result<()> {
    if waiters.is_empty() || waiters.len() > WAIT_ANY_WORDS_MAX {
        return Err(Errno::INVAL);
    }
    let mut entries = [futex::Wait::new(); WAIT_ANY_WORDS_MAX];
    for (entry, (word, expected)) in entries.iter_mut().zip(waiters) {
        entry.val = u64::from(*expected);
        entry.uaddr = word.as_ptr().cast::<core::ffi::c_void>().into();
        entry.flags = WaitFlags::SIZE_U32;
    }
    // Unlike `wait`, this call takes the moment at which to give up, not the time until then.
    let limit = timeout.map(|timeout| {
        let timeout = timeout.min(Duration::from_secs(super::TIMEOUT_SECONDS_MAX));
        timespec(Duration::from_nanos(clock::monotonic_ns()).saturating_add(timeout))
    });
    let entries = &entries[..waiters.len()];
    futex::waitv(entries, WaitvFlags::empty(), limit.as_ref(), ClockId::Monotonic).map(|_| ())
}

fn outcome(answer: rustix::io::Result<()>, timeout: Option<Duration>) -> WaitOutcome {
    match answer {
        Ok(()) => WaitOutcome::Woken,
        Err(Errno::AGAIN) => WaitOutcome::Changed,
        Err(Errno::TIMEDOUT) => WaitOutcome::TimedOut,
        Err(Errno::INTR) => WaitOutcome::Interrupted,
        Err(_) => {
            std::thread::sleep(timeout.map_or(REFUSED_PAUSE, |timeout| timeout.min(REFUSED_PAUSE)));
            WaitOutcome::Interrupted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::Map;
    use super::super::scratch::Scratch;
    use super::super::{file, map};
    use super::*;
    use core::sync::atomic::Ordering;

    const SHORT: Option<Duration> = Some(Duration::from_millis(5));
    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    /// The same page twice: writable, and read-only as a subscriber has it.
    fn shared_page(scratch: &Scratch) -> (map::Map, map::Map) {
        let path = scratch.path("bell");
        let file = file::create_new(&path, 0o600).unwrap();
        file::reserve(&file, &path, 0, 4_096).unwrap();
        let reader = file::open_ro(&path).unwrap();
        (Map::writable(&file, 4_096, &path).unwrap(), Map::read_only(&reader, 4_096, &path).unwrap())
    }

    #[test]
    fn waits_end_by_change_and_by_time() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 0, None), WaitOutcome::Changed);
        assert_eq!(wait(&word, 1, SHORT), WaitOutcome::TimedOut);
        assert_eq!(wake_all(&word), 0);
    }

    #[test]
    fn wake_reaches_a_sleeper_through_another_mapping() {
        let scratch = Scratch::new();
        let (writer, reader) = shared_page(&scratch);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait(reader.word32(64).unwrap(), 0, LONG));
            let word = writer.word32(64).unwrap();
            // The word is left as it is, so only a wake that finds the sleeper ends the loop.
            while wake_all(word) == 0 && !sleeper.is_finished() {
                std::thread::yield_now();
            }
            assert_eq!(sleeper.join().unwrap(), WaitOutcome::Woken);
        });
    }

    #[test]
    fn wait_any_hears_each_of_its_words() {
        assert!(is_wait_any_supported());
        let scratch = Scratch::new();
        let (writer, reader) = shared_page(&scratch);
        for rung in [0, 64, 508] {
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| {
                    let words: Vec<_> =
                        (0..WAIT_ANY_WORDS_MAX).map(|i| (reader.word32(i * 4).unwrap(), 0)).collect();
                    wait_any(&words, LONG)
                });
                while wake_all(writer.word32(rung).unwrap()) == 0 && !sleeper.is_finished() {
                    std::thread::yield_now();
                }
                assert_eq!(sleeper.join().unwrap(), WaitOutcome::Woken);
            });
        }
    }

    #[test]
    fn wait_any_ends_by_change_and_by_time() {
        let (first, second) = (AtomicU32::new(1), AtomicU32::new(2));
        assert_eq!(wait_any(&[(&first, 1), (&second, 1)], None), WaitOutcome::Changed);
        assert_eq!(wait_any(&[(&first, 1), (&second, 2)], SHORT), WaitOutcome::TimedOut);
        first.store(5, Ordering::Relaxed);
        assert_eq!(wait_any(&[(&first, 1)], Some(Duration::MAX)), WaitOutcome::Changed);
    }

    #[test]
    fn a_wait_on_too_many_words_pauses_instead_of_spinning() {
        let word = AtomicU32::new(1);
        let start_ns = clock::monotonic_ns();
        assert_eq!(wait_any(&[(&word, 1); WAIT_ANY_WORDS_MAX + 1], None), WaitOutcome::Interrupted);
        assert_eq!(wait_any(&[], None), WaitOutcome::Interrupted);
        assert!(clock::monotonic_ns() - start_ns >= 2_000_000);
    }
}
