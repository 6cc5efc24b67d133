//! `shmbus up`: a process that does nothing but hold the supervisor's role of a bus.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::signals::Signals;
use bus_shm::supervisor::{Stopped, Supervisor};
use sd_notify::NotifyState;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

/// What the background process says on its standard output when others can use the bus.
const READY: &str = "ready";

/// Flags of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stay in the foreground until SIGINT or SIGTERM; tells systemd when it is ready
    #[arg(long)]
    foreground: bool,
    /// Take over from a supervisor that is running already; traffic goes on meanwhile
    #[arg(long)]
    replace: bool,
    /// If there is no such bus yet, make one that goes with its last participant
    #[arg(long)]
    temporary: bool,
    /// This is the background process of another `up`.
    #[arg(long, hide = true, requires = "foreground")]
    detached: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    if args.foreground { serve(place, args) } else { start(place, args) }
}

/// Starts the background process and waits until it is ready.
fn start(place: &Place, args: &Args) -> Outcome {
    let dir = place.directory()?;
    let failed = |what: &str, error: &std::io::Error| {
        Failure::new(Code::Error, format_args!("cannot {what} the supervisor's process: {error}"))
    };
    let program = std::env::current_exe().map_err(|error| failed("find", &error))?;
    let mut command = Command::new(program);
    command.args(["--bus", &place.bus, "up", "--foreground", "--detached"]);
    if let Some(dir) = &place.dir {
        // The process leaves the current directory.
        command.arg("--dir").arg(std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
    }
    for (flag, wanted) in [("--replace", args.replace), ("--temporary", args.temporary)] {
        if wanted {
            command.arg(flag);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed("start", &error))?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).map_err(|error| failed("hear from", &error))?;
    }
    if said.trim_end() == READY {
        return announce(place, child.id(), dir.path());
    }
    let status = child.wait().map_err(|error| failed("wait for", &error))?;
    let mut complaint = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut complaint);
    }
    let complaint = complaint.trim().trim_start_matches("shmbus: ");
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if code != 0 && !complaint.is_empty() => {
            output::complain(complaint);
            Err(Failure::Quiet(code))
        }
        _ => Err(Failure::new(Code::Error, format_args!("the supervisor ended at once: {status}"))),
    }
}

fn announce(place: &Place, pid: u32, path: &std::path::Path) -> Outcome {
    if place.quiet {
        return Ok(());
    }
    output::print(&format!("bus {} is up, supervisor pid {pid}, {}\n", place.bus, path.display()))
}

/// Holds the role until it is told to stop, the bus goes, or another process takes over.
fn serve(place: &Place, args: &Args) -> Outcome {
    let dir = place.directory()?;
    if args.detached {
        // A session of its own: the terminal's signals and its end do not reach it.
        let _ = rustix::process::setsid();
        let _ = std::env::set_current_dir("/");
    }
    let signals = Signals::catch()?;
    let supervisor = if args.temporary {
        Supervisor::take_temporary(&dir, args.replace)?
    } else {
        Supervisor::take(&dir, args.replace)?
    };
    let stop = supervisor.stop_handle();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(64 << 10)
        .spawn(move || {
            signals.wait();
            stop.stop();
        })
        .map_err(|error| Failure::new(Code::Error, format_args!("cannot start a thread: {error}")))?;
    if args.detached {
        say_ready().map_err(|error| Failure::output(&error))?;
    } else {
        announce(place, std::process::id(), dir.path())?;
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let stopped = supervisor.serve()?;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    match stopped {
        Stopped::Asked => {
            // A temporary bus that nobody else uses goes at once.
            let gone = bus_shm::collect_garbage(place.dir.as_deref(), false);
            if !gone.contains(&place.bus) {
                place.note(format_args!(
                    "bus {:?} stays, without a supervisor; `shmbus down` removes it",
                    place.bus
                ));
            }
        }
        Stopped::Down => place.note(format_args!("bus {:?} has been taken down", place.bus)),
        Stopped::HandedOver => {
            place.note(format_args!("another supervisor has taken bus {:?} over", place.bus));
        }
    }
    Ok(())
}

/// Tells the waiting `up`, then lets go of its terminal.
fn say_ready() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let nowhere = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
