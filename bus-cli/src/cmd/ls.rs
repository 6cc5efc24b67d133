//! `shmbus ls`: topics of a bus, or buses.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::report;
use crate::table::columns;
use crate::units;
use crate::watch::types_text;
use bus_shm::brief::TopicBrief;
use bus_shm::inspect::BusView;
use bus_shm::{BusError, TopicError, mailbox};
use serde_json::json;

/// Flags of `ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List your buses instead of the topics of one
    #[arg(long)]
    buses: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    if args.buses { buses(place, args) } else { topics(place, args) }
}

fn topics(place: &Place, args: &Args) -> Outcome {
    let mut briefs = Vec::new();
    let mut outcome = Ok(());
    for (name, brief) in open(place)?.briefs() {
        match brief {
            Ok(brief) => briefs.push(brief),
            // It was removed after the directory was read.
            Err(TopicError::NotFound { .. }) => {}
            Err(error) => {
                output::complain(&format!("topic {name:?} cannot be read: {error}"));
                outcome = Err(Failure::Quiet(Code::Error as u8));
            }
        }
    }
    if args.json {
        let topics: Vec<_> = briefs.iter().map(topic_json).collect();
        output::print_json(&json!({ "bus": place.bus, "topics": topics }))?;
        return outcome;
    }
    if briefs.is_empty() {
        outcome?;
        place.note(format_args!(
            "bus {:?} has no topics yet; `shmbus create NAME` makes one, so does `shmbus pub NAME hello`",
            place.bus
        ));
        return Ok(());
    }
    let mut table =
        columns(&["TOPIC", "TYPE", ">LANES", ">GROUPS", ">PUBLISHERS", ">MESSAGES", ">UNREAD", ">MEMORY"]);
    for brief in &briefs {
        table.row([
            mailbox::display(&brief.name).into_owned(),
            types_text(&brief.settings),
            brief.settings.lanes.to_string(),
            brief.groups.to_string(),
            brief.publishers.to_string(),
            units::count(brief.message_count),
            units::count(brief.unread_count),
            units::bytes(brief.memory_bytes),
        ]);
    }
    output::print(&table.render())?;
    outcome
}

/// The bus, or an error that names those that exist.
fn open(place: &Place) -> Result<BusView, Failure> {
    match BusView::open(&place.bus, place.dir.as_deref()) {
        Err(error @ BusError::NotFound { .. }) => {
            let others = BusView::list(place.dir.as_deref());
            if !others.is_empty() {
                place.note(format_args!("there are these buses: {}", others.join(", ")));
            }
            Err(error.into())
        }
        other => Ok(other?),
    }
}

fn topic_json(brief: &TopicBrief) -> serde_json::Value {
    json!({
        "topic": brief.name,
        "settings": report::settings(&brief.settings),
        "groups": brief.groups,
        "publishers": brief.publishers,
        "message_count": brief.message_count,
        "unread_count": brief.unread_count,
        "memory_bytes": brief.memory_bytes,
    })
}

fn buses(place: &Place, args: &Args) -> Outcome {
    let names = BusView::list(place.dir.as_deref());
    let mut table = columns(&["BUS", "SUPERVISOR", ">AGENTS", ">TOPICS", ">MEMORY", ">AGE"]);
    let mut list = Vec::new();
    let mut outcome = Ok(());
    for name in names {
        let bus = match BusView::open(&name, place.dir.as_deref()) {
            Ok(bus) => bus,
            // It was taken down after the directory was read.
            Err(BusError::NotFound { .. }) => continue,
            Err(error) => {
                output::complain(&format!("bus {name:?} cannot be read: {error}"));
                outcome = Err(Failure::Quiet(Code::Error as u8));
                continue;
            }
        };
        let memory_bytes = super::gc::memory_bytes(bus.path());
        let (agents, topics) = (bus.participants().len(), bus.topic_names().len());
        list.push(json!({
            "bus": name,
            "path": bus.path(),
            "supervisor_pid": bus.supervisor_pid(),
            "agents": agents,
            "topics": topics,
            "memory_bytes": memory_bytes,
            "temporary": bus.is_temporary(),
            "created": units::rfc3339(bus.created_ns()),
        }));
        table.row([
            name,
            super::info::supervisor_text(&bus),
            agents.to_string(),
            topics.to_string(),
            units::bytes(memory_bytes),
            units::ago(bus.created_ns()),
        ]);
    }
    if args.json {
        output::print_json(&json!({ "buses": list }))?;
        return outcome;
    }
    if table.is_empty() {
        outcome?;
        place.note("you have no buses; `shmbus up` starts one, so does `shmbus pub NAME hello`");
        return Ok(());
    }
    output::print(&table.render())?;
    outcome
}
