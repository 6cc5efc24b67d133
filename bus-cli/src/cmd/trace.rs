//! `shmbus trace`: one conversation over all topics, in the order of its causes.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::table::columns;
use crate::text;
use crate::units;
use bus_shm::trace::{self, Trace, TraceId, Traced};
use serde_json::{Value, json};
use std::time::Duration;

/// Deeper than this nothing is indented any further.
const INDENT_MAX: usize = 16;

/// Flags of `trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A correlation, as `pub --correlation` takes it, or a message's ID, as `sub --json` prints both
    id: TraceId,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let view = place.view()?;
    let not_found = |what: &str| {
        let hint = "rings hold a topic's last messages only, and dead letters stay";
        Failure::new(
            Code::NotFound,
            format_args!("nothing {what} {} on bus {:?}: {hint}", args.id, place.bus),
        )
    };
    let found = match trace::trace(&view, args.id) {
        Some(found) if !found.messages.is_empty() => found,
        _ => {
            return Err(not_found(match args.id {
                TraceId::Correlation(_) => "of correlation",
                TraceId::Message(_) => "is left of message",
            }));
        }
    };
    for (topic, why) in &found.unread {
        output::remark(format_args!("shmbus: topic {topic} was left out: {why}"));
    }
    if args.json {
        return output::print_json(&as_json(place, &found));
    }
    output::print(&as_text(&found))?;
    if found.left_out > 0 {
        output::remark(format_args!(
            "{} more of this conversation were left out",
            units::counted(found.left_out, "message")
        ));
    }
    Ok(())
}

fn as_text(found: &Trace) -> String {
    let headings = ["MESSAGE", "LANE", ">SEQUENCE", ">AGE", "FROM", "TYPE", ">SIZE", ">HOPS", "DEAD LETTER"];
    let has_marks =
        found.tree.iter().any(|place| place.in_circle || !found.messages[place.index].dead.is_empty());
    let mut table = columns(&headings[..if has_marks { 9 } else { 8 }]);
    for place in &found.tree {
        let message = &found.messages[place.index];
        if place.cause_is_gone
            && let Some(cause) = message.cause
        {
            let mut row = vec![format!("(gone: {cause})")];
            row.resize(8, String::new());
            table.row(row);
        }
        let depth = place.depth + usize::from(place.cause_is_gone);
        let mut marks = Vec::new();
        if place.in_circle {
            marks.push("its causes run in a circle".to_owned());
        }
        for dead in &message.dead {
            marks.push(format!("{} of {}: {}", dead.letter, dead.group, text::escaped_cell(&dead.error)));
        }
        let mut row = vec![
            format!("{}{}", "  ".repeat(depth.min(INDENT_MAX)), message.topic),
            message.lane_name.to_owned(),
            if !is_refused(message) { message.id.sequence.to_string() } else { "-".into() },
            message.age_ns.map_or_else(|| "-".into(), |ns| units::duration(Duration::from_nanos(ns))),
            message.service.as_deref().map_or_else(|| "?".into(), text::escaped_cell),
            message.type_name.clone(),
            units::bytes(u64::from(message.len_bytes)),
            message.hops.to_string(),
        ];
        if has_marks {
            row.push(marks.join("; "));
        }
        table.row(row);
    }
    table.render()
}

/// It was refused by its publisher, and has no sequence.
fn is_refused(message: &Traced) -> bool {
    !message.in_ring && message.dead.iter().any(|dead| dead.group == "_loops")
}

fn as_json(place: &Place, found: &Trace) -> Value {
    let messages: Vec<Value> = found
        .tree
        .iter()
        .map(|at| {
            let message = &found.messages[at.index];
            json!({
                "id": message.id.to_string(),
                "depth": at.depth,
                "cause": message.cause.map(|cause| cause.to_string()),
                "cause_gone": at.cause_is_gone,
                "circle": at.in_circle,
                "topic": message.topic,
                "lane": message.lane_name,
                "sequence": message.id.sequence,
                "age_ns": message.age_ns,
                "service": message.service,
                "type": message.type_name,
                "bytes": message.len_bytes,
                "hops": message.hops,
                "in_ring": message.in_ring,
                "dead": message.dead.iter().map(|dead| json!({
                    "id": dead.letter.to_string(), "group": dead.group,
                    "error": dead.error, "attempts": dead.attempts,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "bus": place.bus,
        "correlation": format!("{:x}", found.correlation),
        "messages": messages,
        "gone": found.gone.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "left_out": found.left_out,
        "unread": found.unread.iter().map(|(topic, why)| json!({"topic": topic, "why": why})).collect::<Vec<_>>(),
    })
}
