//! `shmbus`: publish, subscribe, watch and measure a shared-memory message bus from the shell.
//!
//! `main` parses, `run` does, and whatever comes of it becomes an exit code in `exit`. One file for each command under
//! `cmd`; what several of them need stands beside this file.
#![forbid(unsafe_code)]

mod cmd;
mod exit;
mod flags;
mod output;
mod place;
mod report;
mod signals;
mod table;
mod text;
mod time;
mod units;
mod watch;

use clap::Parser;
use exit::Outcome;
use flags::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The bench's workers are this program again.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|first| first == bus_bench::WORKER_COMMAND) {
        return ExitCode::from(u8::try_from(bus_bench::worker_main(words)).unwrap_or(1));
    }
    match Cli::try_parse() {
        // An agent of the demo is a program of its own, with its own way to end.
        Ok(Cli { command: Command::DemoAgent(args), .. }) => cmd::demo::run_agent(&args),
        Ok(Cli { command: Command::ExecGuard(args), .. }) => cmd::subscribe::watch(&args),
        Ok(cli) => exit::code_of(run(&cli)),
        Err(error) => {
            // Help that nobody reads to its end is no error.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::Code::Usage as u8))
        }
    }
}

fn run(cli: &Cli) -> Outcome {
    let place = &cli.place;
    match &cli.command {
        Command::Up(args) => cmd::up::run(place, args),
        Command::Down(args) => cmd::down::run(place, args),
        Command::Create(args) => cmd::create::run(place, args),
        Command::Ls(args) => cmd::ls::run(place, args),
        Command::Info(args) => cmd::info::run(place, args),
        Command::Pub(args) => cmd::publish::run(place, args),
        Command::Request(args) => cmd::request::run(place, args),
        Command::Sub(args) => cmd::subscribe::run(place, args),
        Command::Ps(args) => cmd::ps::run(place, args),
        Command::Dlq(args) => cmd::dlq::run(place, args),
        Command::Group(args) => cmd::group::run(place, args),
        Command::Quota(args) => cmd::quota::run(place, args),
        Command::Replay(args) => cmd::replay::run(place, args),
        Command::Trace(args) => cmd::trace::run(place, args),
        Command::Lag(args) => cmd::lag::run(place, args),
        Command::Top(args) => cmd::top::run(place, args),
        Command::Bench(args) => cmd::bench::run(place, args),
        Command::Demo(args) => cmd::demo::run(place, args),
        Command::DemoAgent(_) | Command::ExecGuard(_) => Ok(()),
        Command::Fsck(args) => cmd::fsck::run(place, args),
        Command::Gc(args) => cmd::gc::run(place, args),
    }
}
