//! Samples of all topics of a bus, as `ls`, `info`, `lag` and `top` need them.

use crate::exit::{Code, Failure};
use crate::units;
use bus_shm::TopicError;
use bus_shm::inspect::{Age, BusView, GroupState, TopicSettings, TopicState, TopicView};
use bus_shm::keys::{KeyedPartition, KeyedState};
use std::collections::BTreeMap;

/// A topic at one moment, with what does not change in it.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) settings: TopicSettings,
    pub(crate) state: TopicState,
}

/// A bus that is looked at again and again.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) bus: BusView,
    only: Option<String>,
    topics: BTreeMap<String, TopicView>,
    /// Topics that could not be read at the last look, and why.
    pub(crate) unreadable: Vec<(String, TopicError)>,
}

impl Watch {
    /// All topics of a bus, or just one.
    pub(crate) fn new(bus: BusView, only: Option<&str>) -> Self {
        Self { bus, only: only.map(str::to_owned), topics: BTreeMap::new(), unreadable: Vec::new() }
    }

    /// Looks at the topics that there are now, sorted by name.
    pub(crate) fn sample(&mut self) -> Result<Vec<Sample>, Failure> {
        self.topics.retain(|_, topic| !topic.is_gone());
        let names = match &self.only {
            Some(name) => vec![name.clone()],
            None => self.bus.topic_names(),
        };
        self.unreadable.clear();
        for name in names {
            if self.topics.contains_key(&name) {
                continue;
            }
            match self.bus.topic(&name) {
                Ok(topic) => {
                    self.topics.insert(name, topic);
                }
                Err(error) if self.only.is_some() => return Err(error.into()),
                // It was removed after the directory was read.
                Err(TopicError::NotFound { .. }) => {}
                Err(error) => self.unreadable.push((name, error)),
            }
        }
        let mut samples = Vec::with_capacity(self.topics.len());
        for topic in self.topics.values_mut() {
            samples.push(Sample { settings: topic.settings()?, state: topic.sample() });
        }
        Ok(samples)
    }

    /// Says which topics could not be read at the last look.
    pub(crate) fn complain(&self) {
        for (name, error) in &self.unreadable {
            crate::output::complain(&format!("topic {name:?} cannot be read: {error}"));
        }
    }

    /// Fails, without another word, if a topic could not be read.
    pub(crate) fn check_complete(&self) -> Result<(), Failure> {
        if self.unreadable.is_empty() { Ok(()) } else { Err(Failure::Quiet(Code::Error as u8)) }
    }

    /// Fails if the bus has been taken down.
    pub(crate) fn check_alive(&self) -> Result<(), Failure> {
        if self.bus.is_closed() {
            let message = format!("bus {:?} has been taken down", self.bus.name());
            return Err(Failure::new(Code::NotFound, message));
        }
        Ok(())
    }
}

/// What a topic carries, in a word or two.
pub(crate) fn types_text(settings: &TopicSettings) -> String {
    match settings.types.as_slice() {
        [] => "bytes".into(),
        types => types
            .iter()
            .map(|identity| format!("{} v{}", identity.name, identity.version))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// Does the group matter to anybody now?
pub(crate) fn is_present(group: &GroupState) -> bool {
    !matches!(group.state, "detached")
}

/// Lag of a group over all lanes: messages, bytes, and the age of the oldest.
pub(crate) fn total_lag(group: &GroupState) -> (u64, u64, Option<Age>) {
    let lanes = &group.lanes;
    (
        lanes.iter().map(|lane| lane.lag_count).sum(),
        lanes.iter().map(|lane| lane.lag_bytes).sum(),
        lanes.iter().filter_map(|lane| lane.age).max(),
    )
}

/// For how long it has stood still, if that is too long.
pub(crate) fn stalled_text(group: &GroupState) -> String {
    group.stalled_ns.map_or_else(|| "-".into(), units::nanoseconds)
}

/// Who reads a group, in a word or two.
pub(crate) fn members_text(group: &GroupState) -> String {
    let kind = if group.keyed.is_some() { "keyed " } else { "" };
    match (&group.holder, group.members) {
        (Some(holder), _) => format!("{} ({})", holder.service, holder.pid),
        (None, 0) => "nobody".into(),
        (None, 1) => format!("1 {kind}member"),
        (None, members) => format!("{members} {kind}members"),
    }
}

/// The partitions of a keyed group that were the busiest, at most so many, each with its part of all messages that were handed out.
pub(crate) fn hottest_text(keyed: &KeyedState, most: usize) -> Option<String> {
    let text = |partition: &KeyedPartition| {
        format!("{} ({})", partition.partition, units::percent(partition.handed_count, keyed.handed_count))
    };
    let hottest: Vec<String> = keyed.hottest.iter().take(most).map(text).collect();
    (!hottest.is_empty()).then(|| hottest.join(", "))
}

/// How a keyed group's work is spread, where there has been any: the part of its busiest member, and its hottest partition.
pub(crate) fn balance_text(keyed: &KeyedState) -> Option<String> {
    let hottest = hottest_text(keyed, 1)?;
    let counts = || keyed.members.iter().map(|member| member.handed_count);
    let all = counts().fold(0, u64::saturating_add);
    let most = counts().max().filter(|_| all > 0)?;
    Some(format!("busiest member {}, hottest partition {hottest}", units::percent(most, all)))
}
