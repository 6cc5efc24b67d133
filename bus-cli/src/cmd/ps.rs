//! `shmbus ps`: the processes on a bus, and what each does.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::table::columns;
use crate::text;
use crate::units;
use bus_shm::presence::{Life, ProcessState};
use serde_json::{Value, json};
use std::time::Duration;

/// Topics that are named in a line; of more, the number.
const NAMED: usize = 3;

/// Flags of `ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to look before rates are told; 0 for none
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = units::parse_duration)]
    interval: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let view = place.view()?;
    let look = view.look_at_processes();
    std::thread::sleep(args.interval);
    let mut processes = look.finish();
    if view.is_closed() {
        return Err(Failure::new(Code::NotFound, format_args!("bus {:?} has been taken down", view.name())));
    }
    processes.sort_by(|a, b| (&a.info.service, a.info.pid).cmp(&(&b.info.service, b.info.pid)));
    let has_rates = !args.interval.is_zero();
    if args.json {
        let list: Vec<_> = processes.iter().map(|process| to_json(process, has_rates)).collect();
        return output::print_json(&json!({ "bus": view.name(), "processes": list }));
    }
    if processes.is_empty() {
        place.note(format_args!("nobody takes part in bus {:?}", view.name()));
        return Ok(());
    }
    let mut table = columns(&[
        "SERVICE", ">PID", "USER", "SINCE", "STATE", ">PUB/S", ">DONE/S", "BEAT", "TOPICS", "STATUS",
    ]);
    for process in &processes {
        let rate = |rate| if has_rates { units::rate(rate) } else { "-".into() };
        table.row([
            text::escaped_cell(&process.info.service),
            process.info.pid.to_string(),
            user(process.info.uid),
            units::ago(process.info.since_ns),
            process.life.name().into(),
            rate(process.published_per_s),
            rate(process.handled_per_s),
            process.beat_ns.map_or_else(|| "-".into(), |beat| units::ago(units::realtime_of(beat))),
            topics(process),
            process.status.as_deref().map_or_else(|| "-".into(), text::escaped_cell),
        ]);
    }
    output::print(&table.render())?;
    let ended = processes.iter().filter(|process| process.life == Life::Ended).count();
    if ended > 0 && !view.is_served() {
        place.note(format_args!(
            "nobody has the supervisor's role, so what ended processes held waits for the next who joins"
        ));
    }
    Ok(())
}

/// `>` what it publishes, `<` what it reads, with the group.
fn topics(process: &ProcessState) -> String {
    let publishes = process.publishes.iter().map(|topic| format!(">{topic}"));
    // What a group's entry says may have been written by anybody.
    let reads = process
        .member_of
        .iter()
        .map(|member| format!("<{}/{}", member.topic, text::escaped_cell(&member.group)));
    let all: Vec<_> = publishes.chain(reads).collect();
    match all.len() {
        0 => "-".into(),
        count if count <= NAMED => all.join(" "),
        count => format!("{} and {} more", all[..NAMED].join(" "), count - NAMED),
    }
}

/// Name of a user of this machine, or the number.
fn user(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&number)).then(|| name.to_owned())
    });
    named.unwrap_or(number)
}

fn to_json(process: &ProcessState, has_rates: bool) -> Value {
    let time = |at_ns: Option<u64>| at_ns.map(|at_ns| units::rfc3339(units::realtime_of(at_ns)));
    let members: Vec<_> = process
        .member_of
        .iter()
        .map(|member| {
            json!({
                "topic": member.topic,
                "group": member.group,
                "shared": member.shared,
                "members": member.members,
            })
        })
        .collect();
    json!({
        "service": process.info.service,
        "pid": process.info.pid,
        "uid": process.info.uid,
        "user": user(process.info.uid),
        "participant": process.info.participant,
        "incarnation": process.info.tag,
        "since": units::rfc3339(process.info.since_ns),
        "since_ns": process.info.since_ns,
        "state": process.life.name(),
        "publishes": process.publishes,
        "member_of": members,
        "attached": process.attached,
        "published_per_s": has_rates.then_some(process.published_per_s),
        "handled_per_s": has_rates.then_some(process.handled_per_s),
        "last_beat": time(process.beat_ns),
        "status": process.status,
        "status_set": time(process.status_set_ns),
    })
}
