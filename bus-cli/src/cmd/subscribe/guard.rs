//! What ends the commands of a `sub --exec` that was killed.
//!
//! Beside it runs this program once more, which waits for the end of a pipe. It ends without a word when it is told that all is well. When
//! the pipe ends without that, its writer was killed, and every process that carries its mark in the environment is killed too:
//! the commands, and what they have started, wherever it has got to. Nothing has to be done for this when a command starts, so no death
//! falls between a start and a note of it.

use crate::exit::{Code, Failure};
use crate::output;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Between two looks for processes that are left.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A look finds nothing this often before there is nothing: one that is being started shows its mark a moment later.
const LOOKS_IN_VAIN: u32 = 3;
/// How long it goes on with one that does not go.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the pipe says when all is well.
const WELL: &[u8] = b"well";

/// What `sub --exec` starts its guard with.
#[derive(Debug, clap::Args)]
pub(crate) struct GuardArgs {
    owner: String,
}

/// The guard of this process.
pub(super) struct Guard {
    child: Child,
    owner: String,
}

impl Guard {
    pub(super) fn start() -> Result<Self, Failure> {
        let pid = std::process::id();
        let owner = format!("{pid}.{}", bus_shm::sys::process::start_time_ticks(pid).unwrap_or(0));
        // Stays right when the program's file has been replaced meanwhile. Not in this process group, nor with the mark of another
        // `sub --exec` that has started this one: it is to outlive both.
        let child = Command::new("/proc/self/exe")
            .arg0("shmbus")
            .args(["exec-guard", &owner])
            .env_remove(super::run::OWNER)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let text =
                    format_args!("cannot start what ends the commands if this process is killed: {error}");
                Failure::new(Code::Error, text)
            })?;
        Ok(Self { child, owner })
    }

    /// What the environment of commands says of whom they run for.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }
}

impl Guard {
    /// Ends without a word of it, and so has the guard kill what is left.
    pub(super) fn leave_the_rest(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(WELL);
        }
        let _ = self.child.wait();
    }
}

/// The guard's own life.
pub(crate) fn watch(args: &GuardArgs) -> ExitCode {
    let mut said = Vec::new();
    let _ = std::io::stdin().lock().read_to_end(&mut said);
    if said == WELL {
        return ExitCode::SUCCESS;
    }
    let mark = format!("{}={}", super::run::OWNER, args.owner);
    let begun = Instant::now();
    let mut in_vain = 0;
    while in_vain < LOOKS_IN_VAIN && begun.elapsed() < PATIENCE {
        in_vain = if end_marked(mark.as_bytes()) { 0 } else { in_vain + 1 };
        std::thread::sleep(LOOK_EVERY);
    }
    if in_vain < LOOKS_IN_VAIN {
        output::complain("what a killed `sub --exec` has started does not end");
    }
    ExitCode::SUCCESS
}

/// Kills every process with this in its environment. True if there was one.
fn end_marked(mark: &[u8]) -> bool {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    let mut found = false;
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw).filter(|_| number != own) else {
            continue;
        };
        // The descriptor first: what is read is then of the process that is meant, or the kill of one that is gone fails.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|&byte| byte == 0).any(|variable| variable == mark) {
            found = true;
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
    found
}
