//! Proof that another process sleeps: its state as the kernel reports it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Turn;
use crate::error::{BenchError, Result};

/// How long a sleeper is left alone after it was seen asleep, so that its core has gone idle.
const SETTLE: Duration = Duration::from_micros(50);

/// How long to wait for somebody to fall asleep before giving up on the measurement.
const PATIENCE: Duration = Duration::from_secs(2);

/// Word: process id of the sleeper.
pub(crate) const SLEEPER_PID: usize = 0;
/// Word: number of the round for which the sleeper is about to sleep.
pub(crate) const SLEEPER_ROUND: usize = 1;
/// Word: ticks at which it was woken.
pub(crate) const WOKEN_AT: usize = 2;

/// Watches one process.
#[derive(Debug)]
pub(crate) struct Watch {
    state: File,
    pid: u64,
}

impl Watch {
    /// Opens the state of the process that announced itself in [`SLEEPER_PID`].
    pub(crate) fn open(turn: &Turn<'_>) -> Result<Self> {
        let until = turn.clock.now() + turn.clock.ticks(PATIENCE);
        let pid = loop {
            match turn.control.word(SLEEPER_PID).load(Ordering::Acquire) {
                0 if turn.clock.now() < until => std::thread::yield_now(),
                pid => break pid,
            }
        };
        let path = format!("/proc/{pid}/stat");
        let state = File::open(&path).map_err(|error| BenchError::os(format!("opening {path}"), error))?;
        Ok(Self { state, pid })
    }

    /// Returns once the process has announced `round` and sleeps, and its core had time to go idle.
    pub(crate) fn until_asleep(&self, turn: &Turn<'_>, round: u64) -> Result<()> {
        let (clock, word) = (turn.clock, turn.control.word(SLEEPER_ROUND));
        let until = clock.now() + clock.ticks(PATIENCE);
        while word.load(Ordering::Acquire) < round || !self.asleep()? {
            if clock.now() > until {
                let text =
                    format!("process {} was not seen asleep within {} s", self.pid, PATIENCE.as_secs());
                return Err(BenchError::os(text, std::io::ErrorKind::TimedOut));
            }
            turn.relax();
            std::hint::spin_loop();
        }
        let settled = clock.now() + clock.ticks(SETTLE);
        while clock.now() < settled {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn asleep(&self) -> Result<bool> {
        let mut text = [0; 256];
        let length = self
            .state
            .read_at(&mut text, 0)
            .map_err(|error| BenchError::os(format!("reading the state of process {}", self.pid), error))?;
        Ok(state_of(&text[..length]) == Some(b'S'))
    }
}

/// Announces the calling process as the sleeper of the step.
pub(crate) fn announce(turn: &Turn<'_>) {
    turn.control.word(SLEEPER_PID).store(u64::from(std::process::id()), Ordering::Release);
}

/// The state letter of a `stat` line; the name before it may hold any character, so the last bracket counts.
fn state_of(stat: &[u8]) -> Option<u8> {
    let bracket = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(bracket + 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_the_last_bracket() {
        assert_eq!(state_of(b"17 (a) b) S 1 17"), Some(b'S'));
        assert_eq!(state_of(b"17 (x) R 1"), Some(b'R'));
        assert_eq!(state_of(b""), None);
    }
}
