//! `shmbus sub`: the messages of one or more topics, as they come, one a line, or a command for each.

mod exec;
mod feed;
mod guard;
mod line;
mod run;

pub(crate) use guard::{GuardArgs, watch};

use crate::exit::{Code, Failure, Outcome};
use crate::place::Place;
use crate::signals::Signals;
use crate::time::{self, Moment};
use crate::units;
use bus_core::pattern::Pattern;
use bus_shm::supervisor::events::EVENTS_TOPIC;
use bus_shm::{Bytes, Lane, Start, SubscriberBuilder, Topic, mailbox};
use feed::Feed;
use line::Format;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `sub`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topics, or patterns, or mailboxes, which this command owns while it runs: @NAME. In patterns '+' is one token, '*' one inside and one or more at the end; quote them. A topic that is named and does
    /// not exist is created for plain bytes; what a pattern matches joins when it is created
    #[arg(required_unless_present = "all", value_name = "PATTERN")]
    topics: Vec<String>,
    /// All topics, like the pattern '*'
    #[arg(long, conflicts_with = "topics")]
    all: bool,
    /// Read as this group, which keeps its place when the command ends
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// The group is shared: each message goes to one of its members
    #[arg(long, requires = "group")]
    shared: bool,
    /// The group is keyed: all messages of a key go to one of its members, in order
    #[arg(long, requires = "group", conflicts_with = "shared")]
    keyed: bool,
    /// Where to begin, unless the group exists: oldest, latest, SEQUENCE or LANE:SEQUENCE, or a time: 5m or 10s-ago, 14:30
    /// or 14:30:05 (UTC), 2026-11-28T14:30:05Z
    #[arg(long, default_value = "latest", value_name = "WHERE")]
    from: From,
    /// Begin with the oldest message, where that is no longer there
    #[arg(long)]
    or_oldest: bool,
    /// Only messages that were published with this key
    #[arg(long)]
    key: Option<String>,
    /// Only this share of the messages, such as 0.1; the same ones for everybody who takes the same share
    #[arg(long, value_name = "SHARE")]
    sample: Option<f64>,
    /// Only messages that are at most so old
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    max_age: Option<Duration>,
    /// Only messages of this lane, by name or number; may be repeated
    #[arg(long, value_name = "LANE")]
    only_lane: Vec<String>,
    /// End after this many messages
    #[arg(long, short = 'n', value_name = "MESSAGES", value_parser = units::parse_count)]
    count: Option<u64>,
    /// End when no message has come for this long
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// The payload as it is, with nothing before, between or after
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Fail if a topic does not exist, instead of creating it
    #[arg(long)]
    existing: bool,
    /// Without a group: publishers wait for this command at most so long, then it misses messages
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = units::parse_duration)]
    stall: Duration,
    /// Never hold publishers back; count what was missed
    #[arg(long, conflicts_with_all = ["group", "stall", "hold"])]
    tap: bool,
    /// Hold publishers back for as long as it takes, without a group's name
    #[arg(long, conflicts_with_all = ["group", "stall"])]
    hold: bool,
    /// Name of this process in listings
    #[arg(long, default_value = "shmbus-sub", value_name = "NAME")]
    service: String,
    /// Run CMD for each message, as `sh -c` does: the payload is its standard input, SHMBUS_TOPIC and others tell of the message.
    /// Status 0 acknowledges, 65 makes it a dead letter, any other has it come again
    #[arg(long, value_name = "CMD", conflicts_with_all = ["tap", "raw", "json", "timeout", "stall", "hold"], help_heading = "A command for each message")]
    exec: Option<String>,
    /// Run so many commands at a time, as members of a shared group; they begin in order, and end as they like
    #[arg(
        long, value_name = "N", default_value = "1", requires = "exec",
        value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "A command for each message"
    )]
    jobs: u16,
    /// End a command that takes longer, with all that it has started; its message comes again
    #[arg(long, value_name = "TIME", requires = "exec", value_parser = units::parse_duration, help_heading = "A command for each message")]
    exec_timeout: Option<Duration>,
    /// How long commands that run may go on after SIGTERM or Ctrl-C
    #[arg(
        long, value_name = "TIME", default_value = "10s", requires = "exec",
        value_parser = units::parse_duration, help_heading = "A command for each message"
    )]
    drain: Duration,
    /// How often a message is tried before it is a dead letter; a setting of the group [default: 10]
    #[arg(long, value_name = "N", requires = "exec", value_parser = clap::value_parser!(u8).range(1..), help_heading = "A command for each message")]
    attempts: Option<u8>,
    /// How long a message waits after its first failure; twice as long after each further one, up to --retry-max
    #[arg(long, value_name = "TIME", default_value = "100ms", requires = "exec", value_parser = units::parse_duration, help_heading = "A command for each message")]
    retry: Duration,
    /// How long a message waits at most
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "exec", value_parser = units::parse_duration, help_heading = "A command for each message")]
    retry_max: Duration,
    /// After how long another member gets what a silent one has; commands that run do not count as silent. A setting of the
    /// group [default: 30s]
    #[arg(long, value_name = "TIME", requires = "exec", value_parser = units::parse_duration, help_heading = "A command for each message")]
    ack_wait: Option<Duration>,
}

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Oldest,
    Latest,
    /// A lane by name or number (`None`: the normal one), and a sequence.
    Sequence(Option<String>, u64),
    Time(Moment),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => return Ok(From::Oldest),
            "latest" => return Ok(From::Latest),
            _ => {}
        }
        // A bare number is a sequence, and so is one behind a lane's name or number; a time of day has two digits on each side.
        if let Some(moment) = time::of_day(text) {
            return Ok(From::Time(moment));
        }
        let (lane, sequence) = match text.split_once(':') {
            Some((lane, sequence)) => (Some(lane.to_owned()), sequence),
            None => (None, text),
        };
        if let Ok(sequence) = sequence.parse() {
            return Ok(From::Sequence(lane, sequence));
        }
        text.parse().map(From::Time).map_err(|_: String| {
            "give `oldest`, `latest`, a sequence number, LANE:SEQUENCE, or a time (5m, 10s-ago, 14:30, 2026-11-28T14:30:05Z)"
                .to_owned()
        })
    }
}

impl Args {
    fn format(&self) -> Format {
        match (self.raw, self.json) {
            (true, _) => Format::Raw,
            (_, true) => Format::Json,
            _ => Format::Text {
                with_topic: self.all
                    || self.topics.len() > 1
                    || self.topics.iter().any(|name| is_pattern(name)),
            },
        }
    }
}

/// Is this more than the name of a topic?
fn is_pattern(text: &str) -> bool {
    text.contains(['+', '*', '>'])
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let all = [String::from("*")];
    let named = if args.all { &all[..] } else { &args.topics[..] };
    let mailboxes = named.iter().filter(|name| name.starts_with('@')).count();
    if mailboxes > 0 {
        check_mailboxes(args, named, mailboxes)?;
    }
    // A tap looks into a mailbox without owning it.
    let owns = mailboxes > 0 && !args.tap;
    let patterns = &named.iter().map(|name| Place::resolve(name)).collect::<Result<Vec<_>, _>>()?[..];
    for (index, name) in patterns.iter().enumerate() {
        if is_pattern(name) {
            Pattern::parse(name).map_err(|why| {
                Failure::new(Code::Usage, format_args!("{name:?} is no pattern of topics: {why}"))
            })?;
            if matches!(args.from, From::Sequence(..)) {
                return Err(Failure::new(Code::Usage, "--from SEQUENCE wants topics by name, not patterns"));
            }
        } else if mailboxes == 0 && !is_of_the_bus(name) {
            // Those of the bus are made by the bus, and anybody may read them.
            Place::check_topic(name)?;
        }
        if patterns[..index].contains(name) {
            return Err(Failure::new(Code::Usage, format_args!("topic {name:?} is named twice")));
        }
    }
    if args.exec.is_some() && args.group.is_none() && args.jobs > 1 {
        let text = "--jobs above 1 wants a --group, whose members the jobs are";
        return Err(Failure::new(Code::Usage, text));
    }
    if let Some(command) = &args.exec {
        // Before anything is created, or taken.
        run::Program::new(command)?;
    }
    let signals = Signals::catch()?;
    let bus = place.join(&args.service, !args.existing)?;
    let mut starts = HashMap::new();
    for name in patterns.iter().filter(|name| !is_pattern(name)) {
        let existed = place.view()?.topic_names().contains(name);
        let topic = match name.as_str() {
            EVENTS_TOPIC if !args.existing => bus.events()?,
            _ if mailboxes > 0 && !args.existing => {
                bus.mailbox::<Bytes>(mailbox::mailbox_of(name).unwrap_or_default())?.topic().clone()
            }
            _ => bus.topic_builder::<Bytes>(name).create(!args.existing && !is_of_the_bus(name)).open()?,
        };
        if !existed && mailboxes > 0 {
            place.note(format_args!("created mailbox {}; waiting for messages", mailbox::display(name)));
        } else if !existed {
            place.note(format_args!("created topic {name:?} for plain bytes; waiting for messages"));
        }
        note_group(place, args, name)?;
        starts.insert(name.clone(), start(args, &topic)?);
    }
    // Topics that a pattern finds may be younger than the time that was asked for: then all of them is.
    let by_pattern = match &args.from {
        From::Oldest => Start::Oldest,
        From::Time(moment) => moment.start()?,
        From::Latest | From::Sequence(..) => Start::Latest,
    };
    // That of a mailbox is its owner's.
    let group = if owns { Some(mailbox::OWNER) } else { args.group.as_deref() };
    let (or_oldest, has_group) = (args.or_oldest, group.is_some());
    let is_time = matches!(args.from, From::Time(_));
    let (key, sample, max_age, lanes) = (args.key.clone(), args.sample, args.max_age, args.only_lane.clone());
    let each = move |mut one: SubscriberBuilder<Bytes>| {
        if let Some(key) = &key {
            one = one.only_key(key);
        }
        if let Some(share) = sample {
            one = one.sample(share);
        }
        if let Some(age) = max_age {
            one = one.max_age(age);
        }
        if !lanes.is_empty() {
            // A lane that the topic does not have is no lane of its: it then has none that is wanted.
            let lanes: Vec<_> = lanes.iter().filter_map(|lane| Lane::parse(lane, one.lanes())).collect();
            one = one.only_lanes(&lanes);
        }
        // Nobody waits on a topic that keeps the newest.
        let one = if one.keeps_newest() && !has_group { one.tap() } else { one };
        match starts.get(one.topic()) {
            Some(&start) if !or_oldest => one.from(start),
            Some(&start) => one.from_or_oldest(start),
            None if is_time => one.from_or_oldest(by_pattern),
            None => one,
        }
    };
    if let Some(command) = &args.exec {
        let each = Arc::new(each);
        return exec::run(place, &bus, signals, args, command, |registration| {
            let mut registration =
                registration.patterns(patterns).from(by_pattern).retry_delays(args.retry, args.retry_max);
            registration = match group {
                Some(name) => registration.group(name),
                None => registration.without_group(),
            };
            if args.shared || args.keyed || args.jobs > 1 {
                registration = registration.shared();
            }
            if let Some(most) = args.attempts {
                registration = registration.attempts(most);
            }
            if let Some(wait) = args.ack_wait {
                registration = registration.ack_wait(wait);
            }
            let each = each.clone();
            let is_keyed = args.keyed;
            registration.each(move |one| if is_keyed { each(one).keyed() } else { each(one) })
        });
    }
    let mut builder = bus.subscribe_patterns::<Bytes>(patterns).from(by_pattern);
    if let Some(name) = group {
        builder = builder.group(name);
        if args.shared {
            builder = builder.shared();
        }
        if args.keyed {
            builder = builder.keyed();
        }
    } else if args.tap {
        builder = builder.tap();
    } else if !args.hold {
        builder = builder.yield_after(args.stall);
    }
    let many = builder.each(each).join().map_err(|error| match error {
        bus_shm::ManyError::Bus(error) => error.into(),
        other => Failure::new(Code::Error, other),
    })?;
    if many.topic_count() == 0 && patterns.iter().all(|name| is_pattern(name)) {
        place.note(format_args!("no topic matches yet; waiting for one"));
    }
    let limits = (args.count, args.timeout);
    Feed::new(place, &signals, args.format(), limits, args.shared || args.keyed).run(many, patterns)
}

/// A mailbox has one group, which is joined as it stands.
fn check_mailboxes(args: &Args, named: &[String], mailboxes: usize) -> Outcome {
    let why = if args.group.is_some() || args.hold {
        "a mailbox has one group, its owner's; leave --group and --hold out, or look with --tap"
    } else if mailboxes < named.len() {
        "mailboxes are read by themselves; run another `shmbus sub` for the topics"
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::Usage, why))
}

fn is_of_the_bus(topic: &str) -> bool {
    topic.starts_with("_bus.")
}

/// A group that exists does not begin where it was asked to.
fn note_group(place: &Place, args: &Args, topic: &str) -> Outcome {
    let Some(name) = &args.group else { return Ok(()) };
    let groups = place.view()?.topic(topic)?.sample().groups;
    if args.from != From::Latest
        && groups.iter().any(|group| group.name == *name && group.state != "detached")
    {
        place.note(format_args!("group {name:?} exists and goes on where it stands; --from has no effect"));
    }
    Ok(())
}

fn start(args: &Args, topic: &Topic<Bytes>) -> Result<Start, Failure> {
    Ok(match &args.from {
        From::Oldest => Start::Oldest,
        From::Latest => Start::Latest,
        From::Time(moment) => moment.start()?,
        From::Sequence(lane, sequence) => {
            let lane = super::publish::lane(topic, lane.as_deref())?;
            // Where `pub` publishes unless told otherwise.
            let normal = Lane(topic.lanes().min(3) as u8 - 1);
            Start::Sequence(lane.unwrap_or(normal), *sequence)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_begin_at() {
        assert_eq!("oldest".parse(), Ok(From::Oldest));
        assert_eq!("17".parse(), Ok(From::Sequence(None, 17)));
        assert_eq!("high:17".parse(), Ok(From::Sequence(Some("high".into()), 17)));
        assert_eq!("2:17".parse(), Ok(From::Sequence(Some("2".into()), 17)));
        assert_eq!("5m".parse(), Ok(From::Time(Moment::Ago(Duration::from_secs(300)))));
        assert!(matches!("14:30".parse(), Ok(From::Time(Moment::OfDay(_)))));
        assert!("first".parse::<From>().is_err() && "high:".parse::<From>().is_err());
    }
}
