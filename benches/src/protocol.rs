//! What the parent asks of its workers and what they answer: one JSON value each way, behind its length.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::histogram::Sparse;
use crate::spec::Spec;

/// Longest answer that is believed, in bytes. A full histogram takes about 100 KiB.
const FRAME_BYTES_MAX: u32 = 16 << 20;

/// One order to one worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Command {
    /// Arrivals at which the participants start together.
    pub(crate) gate: u64,
    /// Place of the worker among the participants of this step, from 0: it decides the role.
    pub(crate) role: usize,
    /// Whether the participants outnumber the cores.
    pub(crate) share_core: bool,
    /// What to do.
    pub(crate) work: Work,
}

/// What a worker can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Floor: a line back and forth.
    Line { ns: u64 },
    /// Floor: a ring, with a reader that takes each slot as it comes or waits for the 64th.
    Ring { payload_bytes: usize, ahead: bool, ns: u64 },
    /// Floor: a futex wake.
    Wake { ns: u64 },
    /// Floor: copying blocks.
    Memcpy { block_bytes: usize, ns: u64 },
    /// Opens what is to be measured under a number.
    Open { slot: u32, subject: Subject },
    /// Runs the scenario of that number for a while.
    Slice { slot: u32, ns: u64 },
    /// Closes what was opened.
    Close { slot: u32 },
    /// Ends the process.
    Quit,
}

impl Work {
    /// Whether the participants start together.
    pub(crate) fn is_timed(&self) -> bool {
        !matches!(self, Self::Open { .. } | Self::Close { .. } | Self::Quit)
    }

    /// How long it should take.
    pub(crate) fn length(&self) -> Duration {
        match self {
            Self::Line { ns }
            | Self::Ring { ns, .. }
            | Self::Wake { ns }
            | Self::Memcpy { ns, .. }
            | Self::Slice { ns, .. } => Duration::from_nanos(*ns),
            Self::Open { .. } | Self::Close { .. } | Self::Quit => Duration::ZERO,
        }
    }

    /// The step in words, for errors.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Line { .. } => "the line floor".into(),
            Self::Ring { payload_bytes, .. } => format!("the ring floor at {payload_bytes} bytes"),
            Self::Wake { .. } => "the wake floor".into(),
            Self::Memcpy { block_bytes, .. } => format!("the memcpy floor at {block_bytes} bytes"),
            Self::Open { subject: Subject::Scenario(spec), .. } => {
                format!("opening {}", spec.scenario.name())
            }
            Self::Open { subject: Subject::Guest(_), .. } => "opening its end".into(),
            Self::Slice { .. } => "a slice".into(),
            Self::Close { .. } => "closing".into(),
            Self::Quit => "quitting".into(),
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// A scenario of this crate.
    Scenario(Box<Spec>),
    /// What the program that this crate is linked into understands.
    Guest(String),
}

impl From<Spec> for Subject {
    fn from(spec: Spec) -> Self {
        Self::Scenario(Box::new(spec))
    }
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        Self::Guest(text)
    }
}

/// What a worker measured in one step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What this worker was in the step.
    pub role: String,
    /// Operations done.
    pub ops: u64,
    /// All operations over all the time, nanoseconds each.
    pub mean_ns: Option<f64>,
    /// The median block, nanoseconds an operation.
    pub block_ns: Option<f64>,
    /// Times of single operations.
    #[serde(default, skip_serializing_if = "Sparse::is_empty")]
    pub histogram: Sparse,
    /// Messages that did not arrive.
    pub lost: u64,
    /// Messages that arrived after a later one.
    pub out_of_order: u64,
    /// Messages whose content was not what their number says.
    pub corrupt: u64,
    /// Further figures of a scenario, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
}

impl Outcome {
    /// An empty outcome of a role.
    #[must_use]
    pub fn of(role: &str) -> Self {
        Self { role: role.into(), ..Self::default() }
    }

    /// A further figure.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }
}

/// The answer to a command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done, with what was measured.
    Done(Box<Outcome>),
    /// Failed, with the reason.
    Failed(String),
}

/// Writes one value.
pub(crate) fn send(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&frame)
}

/// Reads one value; `UnexpectedEof` when the other side has gone.
pub(crate) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {length} bytes")));
    }
    let mut frame = vec![0; length as usize];
    from.read_exact(&mut frame)?;
    Ok(serde_json::from_slice(&frame)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive_as_they_were_sent() {
        let command = Command {
            gate: 7,
            role: 1,
            share_core: false,
            work: Work::Ring { payload_bytes: 64, ahead: true, ns: 9 },
        };
        let mut bytes = Vec::new();
        send(&mut bytes, &command).unwrap();
        let copy: Command = receive(bytes.as_slice()).unwrap();
        assert_eq!((copy.gate, copy.role, copy.work), (7, 1, command.work));
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let error = receive::<Command>(&[0xff, 0xff, 0xff, 0xff, 0][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_end_of_the_other_side_is_seen() {
        let error = receive::<Command>(&[][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
