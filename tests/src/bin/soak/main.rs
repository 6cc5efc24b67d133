//! Traffic under faults: many processes on one bus, killed, stopped and started again several times a second, and a checker outside
//! of the bus that holds what they heard against what was promised. docs/reliability.md says how to read it.

mod history;
mod page;
mod plan;
mod processes;
mod report;
mod run;
mod worker;

use run::Options;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const USAGE: &str = "usage: soak [--messages N] [--seconds T] [--seed S] [--producers P] [--json]";

fn options() -> Result<Options, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mut options = Options {
        messages: None,
        seconds: None,
        // Short enough to be typed again.
        seed: plan::mix(since ^ u64::from(std::process::id())) >> 32,
        producers: 3,
        json: false,
        sabotage: String::new(),
        patience: Duration::from_secs(5),
    };
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        if option == "--json" {
            options.json = true;
            continue;
        }
        let value = words.next().ok_or(USAGE)?;
        let number = || value.replace([',', '_'], "").parse::<u64>().map_err(|_| format!("{value}? {USAGE}"));
        match option.as_str() {
            "--messages" => options.messages = Some(number()?.max(1)),
            "--seconds" => options.seconds = Some(number()?.max(1)),
            "--seed" => options.seed = number()?,
            "--producers" => options.producers = number()?.clamp(1, 32) as usize,
            // Not for users: the checker's own tests.
            "--sabotage" => options.sabotage = value.clone(),
            "--patience-ms" => options.patience = Duration::from_millis(number()?),
            _ => return Err(USAGE.into()),
        }
    }
    let known = worker::SABOTAGES.iter().any(|(name, _)| *name == options.sabotage);
    if !options.sabotage.is_empty() && !known {
        return Err(format!("no such sabotage: {}", options.sabotage));
    }
    Ok(options)
}

/// A worker's orders, in the order in which [`processes::Place::begin`] gives them.
fn orders() -> Option<worker::Orders> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [first, place, page, dir, bus, seed, poison, producers, sabotage] = words.as_slice() else {
        return None;
    };
    if first != "worker" {
        return None;
    }
    let jobs = plan::jobs(producers.parse().ok()?);
    Some(worker::Orders {
        job: jobs.get(place.parse::<usize>().ok()?).copied().unwrap_or(plan::Job::Setup),
        page: page.clone(),
        dir: dir.into(),
        bus: bus.clone(),
        seed: seed.parse().ok()?,
        poison_one_in: poison.parse().ok()?,
        sabotage: worker::SABOTAGES.iter().find(|(name, _)| name == sabotage).map(|(_, what)| *what),
    })
}

fn main() -> ExitCode {
    if let Some(orders) = orders() {
        processes::end_with_parent();
        worker::work(orders);
        return ExitCode::SUCCESS;
    }
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}", options.seed);
    let _ = std::io::stdout().flush();
    let is_json = options.json;
    let report = run::run(options);
    if is_json {
        println!("{}", report.json());
    } else {
        println!("{}", report.table());
    }
    println!("{}", report.last_line());
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
