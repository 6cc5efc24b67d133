//! `shmbus create`: a topic with options of its own, and groups that keep its messages from the first one on.

use crate::exit::{Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::units;
use bus_shm::{AttachError, Bytes, Overflow, Topic};

/// Flags of `create`. What is not given takes the default on a new topic, and whatever exists on an old one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the topic: letters, digits, `_`, `-`, with dots between parts
    topic: String,
    /// Messages that each lane holds, rounded up to a power of two [default: 1024]
    #[arg(long, value_name = "SLOTS", value_parser = units::parse_count32)]
    capacity: Option<u32>,
    /// Lanes, 1 to 4 [default: 3, critical, high and normal]
    #[arg(long)]
    lanes: Option<u32>,
    /// Most publishers at a time; 1 makes the fastest ring [default: 64]
    #[arg(long)]
    producers: Option<u32>,
    /// Payload bytes inside a slot, where there is one producer [default: 96]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_count32)]
    inline_bytes: Option<u32>,
    /// Largest message [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    max_message: Option<u64>,
    /// Payload memory of one publisher in one lane, at most [default: 16M, or four times the largest message]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    arena_bytes: Option<u64>,
    /// Messages carry no time, which saves 2 to 45 ns each, by processor; lag in seconds is then an estimate
    #[arg(long)]
    no_stamps: bool,
    /// How long its messages are wanted; older ones are passed over [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    ttl: Option<std::time::Duration>,
    /// What a full lane does to a publisher [default: wait]
    #[arg(long, value_enum)]
    overflow: Option<OnOverflow>,
    /// Publishers that keep failing are not refused for a while, but fail each time
    #[arg(long)]
    no_breakers: bool,
    /// How many causes may lie behind a message; what has more is a loop, and is refused [default: 64]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    max_hops: Option<u16>,
    /// A group of one member that exists from the start; may be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// The same, shared by any number of members
    #[arg(long, value_name = "NAME")]
    shared_group: Vec<String>,
    /// The same, keyed: all messages of a key go to one of its members
    #[arg(long, value_name = "NAME")]
    keyed_group: Vec<String>,
}

/// As `--overflow` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnOverflow {
    /// It waits for room up to its deadline
    Wait,
    /// It is told at once
    Fail,
    /// The oldest messages go; there are no groups, only taps
    Newest,
}

impl From<OnOverflow> for Overflow {
    fn from(policy: OnOverflow) -> Self {
        match policy {
            OnOverflow::Wait => Overflow::Wait,
            OnOverflow::Fail => Overflow::Fail,
            OnOverflow::Newest => Overflow::KeepNewest,
        }
    }
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    Place::check_topic(&args.topic)?;
    let bus = place.join("shmbus-create", true)?;
    let existed = place.view()?.topic_names().contains(&args.topic);
    let mut topic = bus.topic_builder::<Bytes>(&args.topic);
    if let Some(slots) = args.capacity {
        topic = topic.capacity(slots);
    }
    if let Some(lanes) = args.lanes {
        topic = topic.lanes(lanes);
    }
    if let Some(producers) = args.producers {
        topic = topic.producers(producers);
    }
    if let Some(bytes) = args.inline_bytes {
        topic = topic.inline_bytes(bytes);
    }
    if let Some(bytes) = args.max_message {
        topic = topic.max_message(bytes);
    }
    if let Some(bytes) = args.arena_bytes {
        topic = topic.arena_bytes(bytes);
    }
    if args.no_stamps {
        topic = topic.stamps(false);
    }
    if let Some(ttl) = args.ttl {
        topic = topic.ttl(ttl);
    }
    if let Some(policy) = args.overflow {
        topic = topic.overflow(policy.into());
    }
    if args.no_breakers {
        topic = topic.breakers(false);
    }
    if let Some(hops) = args.max_hops {
        topic = topic.hops_max(hops);
    }
    for name in &args.group {
        topic = topic.with_group(name);
    }
    for name in &args.shared_group {
        topic = topic.with_shared_group(name);
    }
    for name in &args.keyed_group {
        topic = topic.with_keyed_group(name);
    }
    let topic = topic.open()?;
    ensure_groups(place, &topic, args)?;
    if place.quiet {
        return Ok(());
    }
    let memory_bytes = place.view()?.topic(&args.topic)?.sample().memory_bytes;
    output::print(&format!(
        "topic {} {}: {} of {} messages, {}\n",
        args.topic,
        if existed { "exists as asked for" } else { "created" },
        units::counted(topic.lanes() as u64, "lane"),
        units::count(u64::from(topic.capacity())),
        units::bytes(memory_bytes),
    ))
}

/// Groups that were asked for on a topic that had been created before.
fn ensure_groups(place: &Place, topic: &Topic<Bytes>, args: &Args) -> Outcome {
    let there: Vec<String> = place
        .view()?
        .topic(&args.topic)?
        .sample()
        .groups
        .into_iter()
        .filter(|group| group.state != "detached")
        .map(|group| group.name)
        .collect();
    let kinds =
        [(&args.group, false, false), (&args.shared_group, true, false), (&args.keyed_group, true, true)];
    for (names, shared, keyed) in kinds {
        for name in names.iter().filter(|name| !there.contains(name)) {
            let group = topic.group(name);
            let group = if shared { group.shared() } else { group };
            match if keyed { group.keyed() } else { group }.join() {
                Ok(joined) => joined.close(),
                // Somebody else was quicker.
                Err(AttachError::GroupBusy { .. }) => {}
                Err(error) => return Err(Failure::from(error)),
            }
        }
    }
    Ok(())
}
