//! What a scenario is asked to do, as it is sent to the workers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Payload sizes that the scenarios are compiled for, in bytes. The last one is for throughput in place alone.
pub const PAYLOAD_BYTES: [usize; 4] = [64, 1_024, 65_536, IN_PLACE_ONLY_BYTES];

/// A payload that nobody copies: of this size there is throughput in place and nothing else.
pub(crate) const IN_PLACE_ONLY_BYTES: usize = 1 << 20;

/// Messages of a batch, where a row has no other number.
pub(crate) const BATCH: usize = 64;

/// How consumers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// Poll without pause.
    #[default]
    Spin,
    /// Poll for as long as a wake costs, then sleep.
    Adaptive,
    /// Sleep at once.
    Park,
}

impl WaitMode {
    /// The name in rows and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Park => "park",
        }
    }
}

/// The scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// Round trips between two processes.
    Latency,
    /// One way at a fixed rate, against the times at which the messages were due.
    Paced,
    /// One producer, one consumer, as fast as they can.
    Throughput,
    /// What a publish costs with many groups.
    Fanout,
    /// Several producers, several consumers of one group.
    Mpmc,
    /// Critical messages while the normal lane is full.
    Priority,
    /// A sleeping consumer is woken.
    Wake,
    /// 100,000 messages to a handler that does nothing.
    Bus100k,
    /// 10,000 requests through five processes.
    Pipeline,
    /// Each step of a message's way by itself, in one thread.
    Cost,
}

/// A step of a message's way (cost).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// rkyv writes the value's archive.
    Archive,
    /// rkyv checks an archive.
    Validate,
    /// Every byte of a checked archive is read.
    Access,
    /// What time stamps add to a publish.
    Stamp,
    /// A publish: archived, published, the bell looked at.
    #[default]
    Publish,
    /// A message found, recorded as handed out, checked but for its archive, and acknowledged, which is one store.
    Receive,
    /// The same in batches of 64, each acknowledged in one go.
    ReceiveBatch,
    /// Memory is lent and published as it is, whatever it holds.
    Lend,
    /// A value's words are computed and written, into memory that is the thread's own.
    Fill,
    /// What a shared group adds to a receive: claim, copy of what may be taken back, acknowledgement by message.
    Claim,
}

impl Step {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 10] = [
        Self::Archive,
        Self::Publish,
        Self::Stamp,
        Self::Receive,
        Self::Validate,
        Self::Access,
        Self::ReceiveBatch,
        Self::Claim,
        Self::Lend,
        Self::Fill,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Validate => "validate",
            Self::Access => "access",
            Self::Stamp => "stamp",
            Self::Publish => "publish",
            Self::Lend => "lend, publish",
            Self::Fill => "fill",
            Self::Receive => "receive, acknowledge",
            Self::ReceiveBatch => "receive, in batches",
            Self::Claim => "claim",
        }
    }
}

impl Scenario {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 10] = [
        Self::Latency,
        Self::Paced,
        Self::Throughput,
        Self::Fanout,
        Self::Mpmc,
        Self::Priority,
        Self::Wake,
        Self::Bus100k,
        Self::Pipeline,
        Self::Cost,
    ];

    /// The name in rows and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Paced => "paced",
            Self::Throughput => "throughput",
            Self::Fanout => "fanout",
            Self::Mpmc => "mpmc",
            Self::Priority => "priority",
            Self::Wake => "wake",
            Self::Bus100k => "bus100k",
            Self::Pipeline => "pipeline",
            Self::Cost => "cost",
        }
    }

    /// The scenario of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }
}

/// Who sends the critical messages of the priority scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sender {
    /// The process that also fills the normal lane.
    #[default]
    Same,
    /// A process of its own.
    Other,
}

/// What a shared group is asked to do (mpmc).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Crew {
    /// Single calls are timed.
    #[default]
    Calls,
    /// Everybody goes as fast as they can.
    Stream,
    /// The producer fills the lane and rests; then the only member drains it.
    Drain,
}

/// One row's settings. What is left at its default is what a user of the bus gets by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) scenario: Scenario,
    /// Directory in which the run's buses live.
    pub(crate) directory: PathBuf,
    /// Name of the bus; each group of rows has its own, which goes when the group is done.
    pub(crate) bus: String,
    /// First part of the topics' names; unique in the run.
    pub(crate) topic: String,
    pub(crate) payload_bytes: usize,
    pub(crate) wait: WaitMode,
    /// `producers(1)` instead of many producers allowed.
    pub(crate) one_producer: bool,
    /// Slots of a lane; 0 for the default.
    pub(crate) capacity: u32,
    /// Time stamps switched off.
    pub(crate) no_stamps: bool,
    /// Messages that the consumer takes in one call; 0 for one at a time.
    pub(crate) batch: usize,
    /// Messages that the producer publishes in one call; 0 for one at a time (throughput).
    pub(crate) publish_batch: usize,
    /// Written into memory of the bus, not copied there (throughput).
    pub(crate) in_place: bool,
    /// Producing processes.
    pub(crate) producers: usize,
    /// What all producing processes bring to one consumer together is compared with what one brings (throughput).
    pub(crate) total: bool,
    /// Consuming processes of one group.
    pub(crate) consumers: usize,
    /// Groups that all see every message.
    pub(crate) groups: usize,
    /// Messages a second, where a rate is kept.
    pub(crate) rate_hz: u64,
    /// What the members of the shared group do (mpmc).
    pub(crate) crew: Crew,
    /// Whether the normal lane is kept full (priority).
    pub(crate) saturated: bool,
    /// Who sends the critical messages (priority).
    pub(crate) sender: Sender,
    /// What is timed (cost).
    pub(crate) step: Step,
    /// By request and reply instead of two topics (latency).
    pub(crate) asks: bool,
    /// The same without the bus: handlers alone (pipeline), a bare ring (latency, throughput).
    pub(crate) bare: bool,
}

impl Spec {
    /// A scenario with default settings.
    pub(crate) fn of(scenario: Scenario) -> Self {
        Self {
            scenario,
            directory: PathBuf::new(),
            bus: String::new(),
            topic: String::new(),
            payload_bytes: 64,
            wait: WaitMode::Spin,
            one_producer: false,
            capacity: 0,
            no_stamps: false,
            batch: 0,
            publish_batch: 0,
            in_place: false,
            producers: 1,
            total: false,
            consumers: 1,
            groups: 1,
            rate_hz: 0,
            crew: Crew::default(),
            saturated: false,
            sender: Sender::Same,
            step: Step::default(),
            asks: false,
            bare: false,
        }
    }

    /// The row's name: the scenario, and every setting that a user would have to change.
    pub(crate) fn row_name(&self) -> String {
        let mut name = self.scenario.name().to_owned();
        let mut add = |text: &str| {
            name.push(' ');
            name.push_str(text);
        };
        if self.one_producer {
            add("producers(1)");
        }
        if self.capacity > 0 {
            add(&format!("capacity({})", self.capacity));
        }
        if self.no_stamps {
            add("stamps(false)");
        }
        if self.publish_batch > 0 {
            add(&format!("publish_batch({})", self.publish_batch));
        }
        if self.batch > 0 {
            add(&format!("receive_batch({})", self.batch));
        }
        name
    }

    /// What tells rows of one scenario apart: its shape, not a setting of the bus.
    pub(crate) fn variant(&self) -> Option<String> {
        match self.scenario {
            Scenario::Fanout => Some(format!("groups={}", self.groups)),
            Scenario::Mpmc => Some(match self.crew {
                Crew::Calls => format!("{}x{}", self.producers, self.consumers),
                Crew::Stream => format!("{}x{} streaming", self.producers, self.consumers),
                Crew::Drain => "lane filled first, then 1 member alone".into(),
            }),
            Scenario::Priority => {
                let load = if self.saturated { "saturated" } else { "idle" };
                let sender = if self.sender == Sender::Same { "same" } else { "other" };
                Some(format!("{load} sender={sender}"))
            }
            Scenario::Paced => Some(format!("{}/s", self.rate_hz)),
            Scenario::Cost => Some(self.step.name().into()),
            Scenario::Latency if self.asks => Some("request and reply".into()),
            Scenario::Latency | Scenario::Throughput if self.bare => Some("bare ring".into()),
            Scenario::Throughput if self.in_place => Some("in place".into()),
            Scenario::Throughput if self.total && self.producers == 1 => Some("1 producer".into()),
            Scenario::Throughput if self.total => Some(format!("{} producers", self.producers)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_scenarios() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::from_name(scenario.name()), Some(scenario));
        }
        assert_eq!(Scenario::from_name("speed"), None);
    }

    #[test]
    fn the_headline_row_has_the_bare_name() {
        let mut spec = Spec::of(Scenario::Latency);
        assert_eq!(spec.row_name(), "latency");
        spec.one_producer = true;
        spec.no_stamps = true;
        assert_eq!(spec.row_name(), "latency producers(1) stamps(false)");
    }

    #[test]
    fn a_row_says_on_which_side_messages_go_in_batches() {
        let both = Spec { batch: 16, publish_batch: 16, ..Spec::of(Scenario::Throughput) };
        assert_eq!(both.row_name(), "throughput publish_batch(16) receive_batch(16)");
        let reader = Spec { publish_batch: 0, ..both };
        assert_eq!(reader.row_name(), "throughput receive_batch(16)");
    }

    #[test]
    fn rows_of_a_shared_group_cannot_be_confused() {
        let of = |crew, consumers| Spec { crew, consumers, ..Spec::of(Scenario::Mpmc) }.variant().unwrap();
        assert_eq!(of(Crew::Calls, 2), "1x2");
        assert_eq!(of(Crew::Stream, 2), "1x2 streaming");
        assert_eq!(of(Crew::Drain, 1), "lane filled first, then 1 member alone");
    }
}
