//! `shmbus lag`: how far each group is behind, in messages, bytes and seconds.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::report;
use crate::table::columns;
use crate::units;
use crate::watch::{Sample, Watch, is_present, members_text, stalled_text, total_lag};
use bus_shm::inspect::GroupState;
use bus_shm::mailbox;
use serde_json::json;
use std::time::Duration;

/// Flags of `lag`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this topic
    topic: Option<String>,
    /// Only this group
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Exit with 5 if a group is more messages behind than this
    #[arg(long, value_name = "MESSAGES", value_parser = units::parse_count)]
    max: Option<u64>,
    /// Exit with 5 if a group's oldest unread message is older than this
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    max_age: Option<Duration>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let topic = args.topic.as_deref().map(Place::resolve).transpose()?;
    let mut watch = Watch::new(place.view()?, topic.as_deref());
    let samples = watch.sample()?;
    watch.complain();
    let wanted =
        |group: &GroupState| is_present(group) && args.group.as_ref().is_none_or(|name| *name == group.name);
    let groups: Vec<(&Sample, &GroupState)> = samples
        .iter()
        .flat_map(|sample| sample.state.groups.iter().map(move |group| (sample, group)))
        .filter(|(_, group)| wanted(group))
        .collect();
    if let Some(name) = args.group.as_ref().filter(|_| groups.is_empty()) {
        let place = match &args.topic {
            Some(topic) => format!("topic {topic:?}"),
            None => format!("bus {:?}", place.bus),
        };
        return Err(Failure::new(
            Code::NotFound,
            format_args!("{place} has no group {name:?}; see `shmbus lag`"),
        ));
    }
    if args.json {
        print_json(place, &groups)?;
    } else if groups.is_empty() {
        watch.check_complete()?;
        place.note("no groups: nobody is behind, because nobody has to read");
    } else {
        output::print(&table(&groups))?;
    }
    check(args, &groups)?;
    watch.check_complete()
}

fn table(groups: &[(&Sample, &GroupState)]) -> String {
    // Columns that say nothing are left out.
    let any = |count: fn(&GroupState) -> u64| groups.iter().any(|(_, group)| count(group) > 0);
    let has_waiting = any(|group| group.waiting_count);
    let has_dead = any(|group| group.dead_count);
    let mut headings = vec!["TOPIC", "GROUP", "LANE", ">LAG", ">BYTES", ">OLDEST", ">FINISHED"];
    headings.extend(has_waiting.then_some(">RETRIES"));
    headings.extend(has_dead.then_some(">DEAD"));
    let has_stalled = groups.iter().any(|(_, group)| group.stalled_ns.is_some());
    headings.extend(has_stalled.then_some(">STALLED"));
    headings.extend(["STATE", "READ BY"]);
    let mut table = columns(&headings);
    for (sample, group) in groups {
        let lanes = sample.state.lanes.len();
        // Lanes that were never used say nothing, unless none has been used.
        let used = |index: usize| sample.state.lanes[index].end > 0;
        let unused = (0..lanes).all(|index| !used(index));
        let shown = group.lanes.iter().filter(|position| {
            used(position.lane.index()) || unused && position.lane.index() == lanes.min(3) - 1
        });
        for position in shown {
            let mut cells = vec![
                mailbox::display(&sample.state.name).into_owned(),
                group.name.clone(),
                position.lane.name(lanes).to_owned(),
                units::count(position.lag_count),
                units::bytes(position.lag_bytes),
                units::age(position.age),
                units::count(position.low_water),
            ];
            cells.extend(has_waiting.then(|| units::count(position.waiting_count)));
            cells.extend(has_dead.then(|| units::count(position.dead_count)));
            cells.extend(has_stalled.then(|| stalled_text(group)));
            cells.extend([group.state.to_owned(), members_text(group)]);
            table.row(cells);
        }
    }
    table.render()
}

fn print_json(place: &Place, groups: &[(&Sample, &GroupState)]) -> Outcome {
    let groups: Vec<_> = groups
        .iter()
        .map(|(sample, group)| {
            let mut value = report::group_now(sample, group);
            value["topic"] = json!(sample.state.name);
            value
        })
        .collect();
    output::print_json(&json!({ "bus": place.bus, "groups": groups }))
}

/// Has a group passed a threshold?
fn check(args: &Args, groups: &[(&Sample, &GroupState)]) -> Outcome {
    for (sample, group) in groups {
        let (count, _, age) = total_lag(group);
        let who = format!("topic {:?}, group {:?}", mailbox::display(&sample.state.name), group.name);
        if let Some(max) = args.max.filter(|&max| count > max) {
            let message =
                format!("{who}: {} messages behind, more than {}", units::count(count), units::count(max));
            return Err(Failure::new(Code::Threshold, message));
        }
        if let Some(max) = args.max_age
            && age.is_some_and(|age| Duration::from_nanos(age.ns) > max)
        {
            let (age, max) = (units::age(age), units::duration(max));
            return Err(Failure::new(Code::Threshold, format_args!("{who}: {age} behind, more than {max}")));
        }
    }
    Ok(())
}
