//! Runaway publishers: ten processes that publish as fast as they can, or ten thousand messages a second each, to a topic whose
//! consumer does not keep up, beside a topic whose agents behave. The first must hurt only themselves. docs/flow-control.md
//! says how to read the table.

mod parts;
mod run;

use run::{Options, Outcome};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: runaway [--seconds T] [--rounds R] [--small]";

fn options() -> Result<Options, String> {
    let mut options = Options { slice: Duration::from_secs(4), rounds: 3, judges_latency: true };
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        if option == "--small" {
            options = Options { slice: Duration::from_millis(1_500), rounds: 1, judges_latency: false };
            continue;
        }
        let value = words.next().ok_or(USAGE)?;
        let number = value.parse::<u64>().map_err(|_| format!("{value}? {USAGE}"))?.max(1);
        match option.as_str() {
            "--seconds" => options.slice = Duration::from_secs(number),
            "--rounds" => options.rounds = number as usize,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [part, name, bus, argument] = words.as_slice()
        && part == parts::PART
    {
        parts::play(name, bus, argument);
        return ExitCode::SUCCESS;
    }
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    println!(
        "10 spammers of 1 kB messages, one consumer of 2.5 messages/s; a topic of 500 messages/s beside them\n\
         {:<12} {:>10} {:>12} {:>12} {:>7} {:>10} {:>12} {:>10}",
        "variant", "open in", "p99 beside", "p99 burners", "ratio", "memory", "closed in", "verdict"
    );
    let mut failures = Vec::new();
    for (variant, pace) in [("10,000/s", "paced"), ("unthrottled", "free")] {
        let outcome = run::run(pace, &options);
        let found = judge(&outcome, &options);
        println!("{}", line(variant, &outcome, if found.is_empty() { "ok" } else { "FAILED" }));
        failures.extend(found.into_iter().map(|failure| format!("{variant}: {failure}")));
    }
    for failure in &failures {
        println!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(variant: &str, outcome: &Outcome, verdict: &str) -> String {
    format!(
        "{variant:<12} {:>7} ms {:>9} us {:>9} us {:>7.2} {:>6} KiB {:>9} ms {verdict:>10}",
        outcome.opened.map_or(-1, |opened| opened.as_millis() as i64),
        outcome.beside_ns / 1_000,
        outcome.burners_ns / 1_000,
        outcome.ratio(),
        outcome.grown_bytes / 1024,
        outcome.closed.map_or(-1, |closed| closed.as_millis() as i64),
    )
}

/// What is not as it must be.
fn judge(outcome: &Outcome, options: &Options) -> Vec<String> {
    let limit = Duration::from_secs(2);
    let mut failures = Vec::new();
    if outcome.opened.is_none_or(|opened| opened > limit) {
        failures.push("not every spammer was refused by a breaker within 2 s".into());
    }
    if outcome.others_opened {
        failures.push("a breaker opened on the topic that behaves".into());
    }
    if outcome.closed.is_none_or(|closed| closed > limit) {
        failures.push("not all breakers were closed within 2 s after the spammers had stopped".into());
    }
    if outcome.grown_bytes > 2 << 20 {
        failures.push(format!("memory has grown by {} KiB", outcome.grown_bytes / 1024));
    }
    if outcome.good_count == 0 {
        failures.push("nothing came on the topic that behaves".into());
    }
    if options.judges_latency && outcome.ratio() > 2.0 {
        failures.push(format!("the other topic's p99 was {:.2} times that beside burners", outcome.ratio()));
    }
    failures
}
