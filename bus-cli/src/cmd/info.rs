//! `shmbus info`: everything about a topic, or about the bus and who takes part in it.

use crate::exit::Outcome;
use crate::output;
use crate::place::Place;
use crate::report;
use crate::table::columns;
use crate::units::{self, facts};
use crate::watch::{Sample, Watch, hottest_text, is_present, members_text, stalled_text, total_lag};
use bus_shm::inspect::{
    BreakerState, BusView, LoopCut, ProcessInfo, PublisherState, TopicSettings, TopicState,
};
use bus_shm::keys::KeyedState;
use bus_shm::{Overflow, ParticipantInfo, mailbox};
use serde_json::{Value, json};

/// Flags of `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic; left out, the bus and its agents are shown
    topic: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let topic = args.topic.as_deref().map(Place::resolve).transpose()?;
    let mut watch = Watch::new(place.view()?, topic.as_deref());
    let samples = watch.sample()?;
    match (&args.topic, samples.first()) {
        (Some(_), Some(sample)) if args.json => output::print_json(&topic_json(place, sample)),
        (Some(_), Some(sample)) => output::print(&topic_text(sample)),
        _ if args.json => output::print_json(&bus_json(&watch.bus, &samples)),
        _ => output::print(&bus_text(&watch.bus, &samples)),
    }
}

fn topic_text(sample: &Sample) -> String {
    let (settings, state) = (&sample.settings, &sample.state);
    let types = match settings.types.as_slice() {
        [] => "bytes".into(),
        types => types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut text = facts(&[
        match &state.mailbox {
            Some(owner) => ("mailbox", format!("{}; {owner}", mailbox::display(&state.name))),
            None => ("topic", state.name.clone()),
        },
        ("carries", types),
        ("created", format!("{} ago by {}", units::ago(settings.created_ns), settings.creator)),
        ("memory", units::bytes(state.memory_bytes)),
        ("message, at most", units::bytes(settings.message_bytes_max)),
        (
            "publishers",
            format!("{} of {}{}", state.producers.len(), settings.producers, services(&state.producers)),
        ),
        ("arena, at most", format!("{} a publisher and lane", units::bytes(settings.arena_bytes_max))),
        ("time stamps", if settings.stamps { "yes" } else { "no" }.into()),
        (
            "time to live",
            match settings.ttl_ns {
                0 => "for ever".into(),
                ns => units::nanoseconds(ns),
            },
        ),
        ("full lanes", overflow_text(settings.overflow).into()),
        ("causes behind a message", format!("{} at most", settings.hops_max)),
        ("breaker", breaker_of_topic(settings, state)),
        ("quota", super::quota::text(state.quota.as_ref())),
    ]);
    let mut lanes =
        columns(&["LANE", ">PUBLISHED", ">OLDEST KEPT", ">UNREAD", ">CAPACITY", ">FILL", ">REFUSED"]);
    for lane in &state.lanes {
        let capacity = u64::from(settings.capacity);
        lanes.row([
            lane.name.to_owned(),
            units::count(lane.end),
            units::count(lane.end.saturating_sub(capacity)),
            units::count(lane.fill_count),
            units::count(capacity),
            units::percent(lane.fill_count, capacity),
            units::count(lane.refused_count),
        ]);
    }
    text += &format!("\n{}", lanes.render());
    if state.publishers.iter().any(has_something_to_say) || !state.service_quotas.is_empty() {
        text += &format!("\n{}", publishers_table(state));
    }
    let mut groups = columns(&[
        "GROUP",
        "STATE",
        "READ BY",
        ">LAG",
        ">BYTES",
        ">OLDEST",
        ">REDELIVERED",
        ">RETRIES",
        ">DEAD",
        ">STALLED",
    ]);
    for group in state.groups.iter().filter(|group| is_present(group)) {
        let (count, bytes, age) = total_lag(group);
        groups.row([
            group.name.clone(),
            group.state.to_owned(),
            members_text(group),
            units::count(count),
            units::bytes(bytes),
            units::age(age),
            units::count(group.redelivered_count),
            units::count(group.waiting_count),
            units::count(group.dead_count),
            stalled_text(group),
        ]);
    }
    if groups.is_empty() {
        text += "\nno groups: nobody holds messages back, the last of each lane stay readable\n";
    } else {
        text += &format!("\n{}", groups.render());
    }
    for group in state.groups.iter().filter(|group| is_present(group)) {
        if let Some(keyed) = &group.keyed {
            text += &keyed_text(&group.name, keyed);
        }
        if group.full_count > 0 {
            text += &format!(
                "\ngroup {}: its store for retries and dead letters was full for {}; `shmbus dlq purge {}` makes room\n",
                group.name,
                units::counted(group.full_count, "message"),
                state.name
            );
        }
        if group.dropped_count > 0 {
            let dropped = units::counted(group.dropped_count, "dead letter");
            text += &format!("\ngroup {}: {dropped} made room for others\n", group.name);
        }
    }
    text
}

/// Who has which keys.
fn keyed_text(group: &str, keyed: &KeyedState) -> String {
    let mut members = columns(&["MEMBER", ">PID", ">PARTITIONS", ">HANDED OUT", ">SHARE", ">FAILED"]);
    let all = keyed.members.iter().fold(0, |all: u64, member| all.saturating_add(member.handed_count));
    for member in &keyed.members {
        members.row([
            member.process.service.clone(),
            member.process.pid.to_string(),
            format!("{} of {}", member.partition_count, keyed.partitions),
            units::count(member.handed_count),
            units::percent(member.handed_count, all),
            units::count(member.failed_count),
        ]);
    }
    let mut text = format!("\ngroup {group} is keyed\n{}", members.render());
    if keyed.vacant_count > 0 && !keyed.members.is_empty() {
        text += &format!(
            "{} that nobody has at this moment\n",
            units::counted(keyed.vacant_count.into(), "partition")
        );
    }
    if let Some(hottest) = hottest_text(keyed, usize::MAX) {
        text += &format!("hottest partitions: {hottest}\n");
    }
    text
}

fn overflow_text(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Wait => "wait: publishers wait for room up to their deadline",
        Overflow::Fail => "fail: publishers are told at once",
        Overflow::KeepNewest => "newest: the oldest messages go, nobody waits",
    }
}

fn breaker_of_topic(settings: &TopicSettings, state: &TopicState) -> String {
    match settings.breakers {
        true => breaker_text(&state.breaker),
        false => "publishers have none".into(),
    }
}

/// `closed`, or `open for normal (full), 800 ms left`.
fn breaker_text(breaker: &BreakerState) -> String {
    let Some(reason) = breaker.reason else { return breaker.state.into() };
    let lanes = breaker.lanes.join(", ");
    format!("{} for {lanes} ({reason}), {} left", breaker.state, units::duration(breaker.left))
}

fn has_something_to_say(publisher: &PublisherState) -> bool {
    !publisher.breaker.is_closed()
        || publisher.refused_count > 0
        || publisher.quota.is_some()
        || publisher.loop_cut.is_some()
}

/// `open for what talk.answer causes (loop), 3 s to the next trial`.
fn loop_cut_text(cut: &LoopCut) -> String {
    let what = if cut.whole_pair { "what" } else { "one conversation that" };
    let when = match cut.left.is_zero() {
        true => "the next loop opens it again".into(),
        false => format!("{} to the next trial", units::duration(cut.left)),
    };
    format!("{} for {what} {} causes (loop), {when}", cut.state, mailbox::display(&cut.cause))
}

fn publishers_table(state: &TopicState) -> String {
    let mut table = columns(&["PUBLISHER", ">PID", ">REFUSED", "BREAKER", "QUOTA"]);
    for publisher in &state.publishers {
        let breakers = match &publisher.loop_cut {
            Some(cut) if publisher.breaker.is_closed() => loop_cut_text(cut),
            Some(cut) => format!("{}; {}", breaker_text(&publisher.breaker), loop_cut_text(cut)),
            None => breaker_text(&publisher.breaker),
        };
        table.row([
            publisher.process.service.clone(),
            publisher.process.pid.to_string(),
            units::count(publisher.refused_count),
            breakers,
            super::quota::text(publisher.quota.as_ref()),
        ]);
    }
    table.render()
}

/// Who publishes, behind a colon; a service with several processes once.
fn services(list: &[ProcessInfo]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let names: Vec<_> = list.iter().map(|info| format!("{} ({})", info.service, info.pid)).collect();
    format!(": {}", names.join(", "))
}

fn topic_json(place: &Place, sample: &Sample) -> Value {
    let state = &sample.state;
    json!({
        "bus": place.bus,
        "topic": state.name,
        "settings": report::settings(&sample.settings),
        "memory_bytes": state.memory_bytes,
        "breaker": state.breaker.state,
        "breaker_now": report::breaker(&state.breaker),
        "quotas": report::quotas(state),
        "publishers": state.publishers.iter().map(report::publisher).collect::<Vec<_>>(),
        "lanes": state.lanes.iter().map(|lane| report::lane(lane, &sample.settings)).collect::<Vec<_>>(),
        "groups": state.groups.iter().map(|group| report::group_now(sample, group)).collect::<Vec<_>>(),
    })
}

/// Who holds the supervisor's role: a process of its own, an agent, or nobody.
pub(crate) fn supervisor_text(bus: &BusView) -> String {
    match bus.supervisor_pid() {
        None if bus.is_served() => "does not answer".into(),
        None => "none".into(),
        Some(pid) => match bus.participants().iter().find(|info| info.pid == pid) {
            Some(agent) => format!("in {} ({pid})", agent.service),
            None => format!("pid {pid}"),
        },
    }
}

fn bus_text(bus: &BusView, samples: &[Sample]) -> String {
    let wake = if bus.uses_membarrier() { "membarrier" } else { "a fence in every publication" };
    let life = if bus.is_temporary() { "goes with its last agent" } else { "stays until `down` or a reboot" };
    let mut text = facts(&[
        ("bus", bus.name().to_owned()),
        ("path", bus.path().display().to_string()),
        ("created", format!("{} ago by build {}", units::ago(bus.created_ns()), bus.build())),
        ("life", life.into()),
        ("supervisor", supervisor_text(bus)),
        ("role taken", units::counted(bus.role_epoch(), "time")),
        ("wakes sleepers by", wake.into()),
        ("topics", samples.len().to_string()),
        ("memory", units::bytes(super::gc::memory_bytes(bus.path()))),
    ]);
    let mut agents = columns(&["AGENT", ">PID", ">SINCE", "PUBLISHES", "READS"]);
    for agent in bus.participants() {
        let (publishes, reads) = activity(&agent, samples);
        let list = |names: Vec<String>| if names.is_empty() { "-".into() } else { names.join(", ") };
        agents.row([
            agent.service,
            agent.pid.to_string(),
            format!("{} ago", units::ago(agent.since_ns)),
            list(publishes),
            list(reads),
        ]);
    }
    if agents.is_empty() {
        text += "\nnobody takes part\n";
    } else {
        text += &format!("\n{}", agents.render());
    }
    text
}

/// Topics that an agent publishes to, and groups that it reads as the only member.
fn activity(agent: &ParticipantInfo, samples: &[Sample]) -> (Vec<String>, Vec<String>) {
    let is_it = |info: &ProcessInfo| info.pid == agent.pid && info.service == agent.service;
    let publishes = samples.iter().filter(|sample| sample.state.producers.iter().any(is_it));
    let reads = samples.iter().flat_map(|sample| {
        let groups = sample.state.groups.iter().filter(|group| group.holder.as_ref().is_some_and(is_it));
        groups.map(|group| match group.ephemeral {
            true => sample.state.name.clone(),
            false => format!("{} as {}", sample.state.name, group.name),
        })
    });
    (publishes.map(|sample| sample.state.name.clone()).collect(), reads.collect())
}

fn bus_json(bus: &BusView, samples: &[Sample]) -> Value {
    let agents: Vec<_> = bus
        .participants()
        .iter()
        .map(|agent| {
            let (publishes, reads) = activity(agent, samples);
            json!({
                "service": agent.service,
                "pid": agent.pid,
                "since": units::rfc3339(agent.since_ns),
                "publishes": publishes,
                "reads": reads,
            })
        })
        .collect();
    json!({
        "bus": bus.name(),
        "path": bus.path(),
        "created": units::rfc3339(bus.created_ns()),
        "build": bus.build(),
        "temporary": bus.is_temporary(),
        "supervisor_pid": bus.supervisor_pid(),
        "role_epoch": bus.role_epoch(),
        "topics": samples.iter().map(|sample| &sample.state.name).collect::<Vec<_>>(),
        "memory_bytes": super::gc::memory_bytes(bus.path()),
        "agents": agents,
    })
}
