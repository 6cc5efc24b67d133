//! The system calls that the bus makes, one file per kernel object.
//!
//! Nothing above this module talks to the kernel, and nothing in it knows what a topic is. Each function is
//! one call (or one idiom of calls) whose failure is a [`error::SysError`] that keeps the call, what it was
//! made on, and the errno. Linux only.
//!
//! | module | object |
//! |---|---|
//! | [`mod@file`] | names and pages of `/dev/shm` files |
//! | [`tmpfs`] | how much room the file system has |
//! | [`map`] | shared mappings |
//! | [`pipe`] | named pipes, for who waits on descriptors |
//! | [`futex`] | sleeping on a word of shared memory |
//! | [`barrier`] | a memory barrier on every other process of the bus |
//! | [`cpu`] | cores, pinning, CPU time |
//! | [`lock`] | locks that the kernel drops with their owner |
//! | [`process`] | who is alive, and whether this process is a forked child |
//! | [`clock`] | `CLOCK_MONOTONIC`, read through the time-stamp counter where it can be trusted |
//! | [`socket`] | control sockets that keep packet boundaries |

pub mod barrier;
pub mod clock;
pub mod cpu;
pub mod error;
pub mod file;
pub mod futex;
pub(crate) mod load;
pub mod lock;
pub mod map;
pub mod pipe;
pub mod prefetch;
pub mod process;
pub mod socket;
pub mod store;
pub mod tmpfs;

use core::time::Duration;
use rustix::time::Timespec;

/// Longest time limit handed to the kernel, about 34 years: larger ones would overflow when the present is added.
const TIMEOUT_SECONDS_MAX: u64 = 1 << 30;

/// `timeout` in the kernel's form, cut at [`TIMEOUT_SECONDS_MAX`].
pub(crate) fn timespec(timeout: Duration) -> Timespec {
    let timeout = timeout.min(Duration::from_secs(TIMEOUT_SECONDS_MAX));
    Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() }
}

#[cfg(test)]
pub(crate) mod scratch {
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::path::{Path, PathBuf};

    /// A directory of one test under `/dev/shm`, removed with everything in it when dropped.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Scratch {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            // Relaxed: only the uniqueness of the number counts.
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = PathBuf::from(format!("/dev/shm/shmbus-test-{}-{number}", std::process::id()));
            super::file::make_dir(&path, 0o700).expect("scratch directory");
            Scratch(path)
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        pub(crate) fn dir(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = super::file::remove_tree(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_longest_timeout_is_cut_not_wrapped() {
        let cut = super::timespec(core::time::Duration::MAX);
        assert_eq!(cut.tv_sec, super::TIMEOUT_SECONDS_MAX as i64);
        let kept = super::timespec(core::time::Duration::from_millis(1_500));
        assert_eq!((kept.tv_sec, kept.tv_nsec), (1, 500_000_000));
    }
}
