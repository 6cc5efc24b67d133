//! `shmbus sub`: the messages of one or more topics, as they come, one a line.

mod feed;
mod line;

use crate::exit::{Code, Failure, Outcome};
use crate::place::Place;
use crate::signals::Signals;
use crate::time::{self, Moment};
use crate::units;
use bus_core::pattern::Pattern;
use bus_shm::supervisor::events::EVENTS_TOPIC;
use bus_shm::{Bytes, Lane, Start, Topic};
use feed::Feed;
use line::Format;
use std::collections::HashMap;
use std::time::Duration;

/// Flags of `sub`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topics, or patterns: '+' is one token, '*' one inside and one or more at the end; quote them. A topic that is named and does
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
    let patterns = if args.all { &all[..] } else { &args.topics[..] };
    for (index, name) in patterns.iter().enumerate() {
        if is_pattern(name) {
            Pattern::parse(name).map_err(|why| {
                Failure::new(Code::Usage, format_args!("{name:?} is no pattern of topics: {why}"))
            })?;
            if matches!(args.from, From::Sequence(..)) {
                return Err(Failure::new(Code::Usage, "--from SEQUENCE wants topics by name, not patterns"));
            }
        } else if !is_of_the_bus(name) {
            // Those of the bus are made by the bus, and anybody may read them.
            Place::check_topic(name)?;
        }
        if patterns[..index].contains(name) {
            return Err(Failure::new(Code::Usage, format_args!("topic {name:?} is named twice")));
        }
    }
    let signals = Signals::catch()?;
    let bus = place.join(&args.service, !args.existing)?;
    let mut starts = HashMap::new();
    for name in patterns.iter().filter(|name| !is_pattern(name)) {
        let existed = place.view()?.topic_names().contains(name);
        let topic = match name.as_str() {
            EVENTS_TOPIC if !args.existing => bus.events()?,
            _ => bus.topic_builder::<Bytes>(name).create(!args.existing && !is_of_the_bus(name)).open()?,
        };
        if !existed {
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
    let mut builder = bus.subscribe_patterns::<Bytes>(patterns).from(by_pattern);
    if let Some(name) = &args.group {
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
    let (or_oldest, has_group) = (args.or_oldest, args.group.is_some());
    let is_time = matches!(args.from, From::Time(_));
    let (key, sample, max_age, lanes) = (args.key.clone(), args.sample, args.max_age, args.only_lane.clone());
    let many = builder.each(move |mut one| {
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
    });
    let many = many.join().map_err(|error| match error {
        bus_shm::ManyError::Bus(error) => error.into(),
        other => Failure::new(Code::Error, other),
    })?;
    if many.topic_count() == 0 && patterns.iter().all(|name| is_pattern(name)) {
        place.note(format_args!("no topic matches yet; waiting for one"));
    }
    let limits = (args.count, args.timeout);
    Feed::new(place, &signals, args.format(), limits, args.shared || args.keyed).run(many, patterns)
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
