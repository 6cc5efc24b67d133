//! Python's queues: a program of their own, which is told how long a slice is and says what it measured.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bus_bench::guest::{Outcome, Part, Turn};
use rustix::thread::sched_getcpu;
use serde::Deserialize;

use crate::way::{Cell, Kind, Result, failed};

const SOURCE: &str = include_str!("queue.py");

pub(crate) fn open(cell: &Cell, queue: &str) -> Result<Box<dyn Part>> {
    let path = cell.path("queue.py");
    std::fs::write(&path, SOURCE).map_err(|error| failed("writing the program", error))?;
    let work = if cell.kind == Kind::Latency { "latency" } else { "throughput" };
    // The worker is pinned: the core it is on is its own.
    let cores = [sched_getcpu(), cell.other_core];
    let mut command = Command::new(&cell.server);
    command
        .arg(&path)
        .args([queue, work, &cell.bytes.to_string(), &cores[0].to_string(), &cores[1].to_string()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed("starting Python", error))?;
    let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed("starting Python", "no pipes"));
    };
    Ok(Box::new(Script { child, to: Some(to), from: BufReader::new(from), kind: cell.kind }))
}

struct Script {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    kind: Kind,
}

/// What the program says.
#[derive(Deserialize)]
struct Answer {
    ns: f64,
    ops: u64,
    lost: u64,
    out_of_order: u64,
    corrupt: u64,
}

impl Part for Script {
    fn slice(&mut self, turn: &Turn<'_>) -> Result<Outcome> {
        let clock = turn.clock();
        let ns = clock.ns_f64(turn.deadline().saturating_sub(clock.now())) as u64;
        let to = self.to.as_mut().ok_or_else(|| failed("telling Python", "it has ended"))?;
        writeln!(to, "{ns}").map_err(|error| failed("telling Python", error))?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|error| failed("hearing from Python", error))?;
        let answer: Answer =
            serde_json::from_str(&line).map_err(|error| failed("hearing from Python", error))?;
        let role = if self.kind == Kind::Latency { "producer" } else { "consumer" };
        Ok(Outcome {
            ops: answer.ops,
            block_ns: Some(answer.ns),
            lost: answer.lost,
            out_of_order: answer.out_of_order,
            corrupt: answer.corrupt,
            ..Outcome::of(role)
        })
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // The end of its input ends it, and both its processes; it comes as well if this process is killed.
        drop(self.to.take());
        let _ = self.child.wait();
    }
}
