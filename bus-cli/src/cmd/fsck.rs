//! `shmbus fsck`: is everything in a bus as it must be?

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::units::counted;
use bus_shm::directory::BusDir;
use bus_shm::fsck::{self, Problem, Report};
use serde_json::{Value, json};

/// Flags of `fsck`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bus to check, instead of the one that --bus names
    #[arg(value_name = "BUS")]
    name: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let name = args.name.as_ref().unwrap_or(&place.bus);
    let dir = BusDir::new(name, place.dir.as_deref())?;
    let report = fsck::check(&dir)?;
    if args.json {
        output::print_json(&as_json(name, &report))?;
    } else {
        output::print(&as_text(&report))?;
    }
    if report.problems.is_empty() { Ok(()) } else { Err(Failure::Quiet(Code::Error as u8)) }
}

fn as_text(report: &Report) -> String {
    let checked = format!(
        "{}, {}, {} checked",
        counted(report.topics as u64, "topic"),
        counted(report.lanes as u64, "lane"),
        counted(report.groups as u64, "group")
    );
    let mut text: String = report.problems.iter().map(|problem| format!("{problem}\n")).collect();
    match report.problems.len() as u64 {
        0 => text += &format!("clean: {checked}\n"),
        count => text += &format!("{}: {checked}\n", counted(count, "problem")),
    }
    text
}

fn as_json(bus: &str, report: &Report) -> Value {
    json!({
        "bus": bus,
        "clean": report.problems.is_empty(),
        "topics": report.topics,
        "lanes": report.lanes,
        "groups": report.groups,
        "problems": report.problems.iter().map(problem_json).collect::<Vec<_>>(),
    })
}

fn problem_json(problem: &Problem) -> Value {
    let place = &problem.place;
    json!({
        "invariant": problem.invariant.id(),
        "topic": place.topic,
        "lane": place.lane.map(|lane| lane.0),
        "group": place.group,
        "entry": place.entry,
        "file": place.file,
        "found": problem.found,
        "expected": problem.expected,
        "meaning": problem.invariant.sentence(),
        "advice": problem.invariant.advice(),
    })
}
