//! A message as it is printed.

use crate::exit::Failure;
use crate::place::Place;
use crate::text;
use crate::units;
use bus_shm::{Lane, Metadata, mailbox};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};

/// Bytes of a message of a type that are shown to people; `--raw` and `--json` give all.
const SHOWN_BYTES: usize = 256;
/// What messages carry as the number of their type if they are plain bytes.
const PLAIN: u8 = 255;

/// How messages are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// For people, one a line.
    Text {
        /// Several topics share the output.
        with_topic: bool,
    },
    /// For programs, one object a line.
    Json,
    /// The payload and nothing else.
    Raw,
}

/// What is known of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) topic: &'a str,
    pub(super) lane: Lane,
    pub(super) lanes: usize,
    pub(super) sequence: u64,
    pub(super) stamp_ns: u64,
    pub(super) producer: u16,
    pub(super) kind: u8,
    pub(super) redelivered: bool,
    pub(super) payload: &'a [u8],
    /// What else it says of itself.
    pub(super) said: Option<Metadata<'a>>,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    topic: &'a str,
    lane: &'a str,
    sequence: u64,
    /// `null` on topics without stamps.
    time: Option<String>,
    producer: u16,
    r#type: &'a str,
    redelivered: bool,
    #[serde(flatten)]
    said: Option<Said>,
    bytes: usize,
    /// How `payload` is to be read.
    encoding: &'a str,
    payload: Cow<'a, str>,
}

/// What a message says of itself beside its payload.
#[derive(Serialize)]
struct Said {
    id: String,
    /// The service that published it, as long as that is known.
    service: Option<String>,
    /// The hash of its key.
    key: Option<String>,
    correlation: Option<String>,
    cause: Option<String>,
    hops: u16,
}

impl Said {
    fn new(said: &Metadata<'_>) -> Self {
        Self {
            id: said.id().to_string(),
            service: said.origin().map(|origin| origin.service),
            key: said.key_hash().map(|key| format!("{key:016x}")),
            correlation: said.correlation().map(|correlation| format!("{correlation:x}")),
            cause: said.cause().map(|cause| cause.to_string()),
            hops: said.hops(),
        }
    }
}

/// Names of a topic's payload types by number.
#[derive(Debug)]
pub(super) struct TypeNames {
    place: Place,
    topic: String,
    names: Vec<String>,
}

impl TypeNames {
    pub(super) fn new(place: &Place, topic: &str) -> Result<Self, Failure> {
        let mut this = Self { place: place.clone(), topic: topic.to_owned(), names: Vec::new() };
        this.names = this.read()?;
        Ok(this)
    }

    fn read(&self) -> Result<Vec<String>, Failure> {
        let types = self.place.view()?.topic(&self.topic)?.settings()?.types;
        Ok(types.iter().map(|identity| format!("{} v{}", identity.name, identity.version)).collect())
    }

    pub(super) fn of(&mut self, kind: u8) -> &str {
        let index = usize::from(kind);
        if index >= self.names.len() && kind != PLAIN {
            // It has been added since the topic was opened.
            self.names = self.read().unwrap_or_default();
        }
        self.names.get(index).map_or(if kind == PLAIN { "bytes" } else { "unknown" }, String::as_str)
    }
}

/// Writes one message.
pub(super) fn write(
    out: &mut impl Write,
    format: Format,
    facts: &Facts<'_>,
    types: &mut TypeNames,
) -> io::Result<()> {
    match format {
        Format::Raw => out.write_all(facts.payload),
        Format::Json => {
            serde_json::to_writer(&mut *out, &json_line(facts, types.of(facts.kind)))?;
            out.write_all(b"\n")
        }
        Format::Text { with_topic } => {
            let mut line = Vec::with_capacity(facts.payload.len() + 64);
            if with_topic {
                line.extend_from_slice(mailbox::display(facts.topic).as_bytes());
                line.extend_from_slice(b": ");
            }
            push_text(&mut line, facts, types);
            line.push(b'\n');
            out.write_all(&line)
        }
    }
}

fn push_text(line: &mut Vec<u8>, facts: &Facts<'_>, types: &mut TypeNames) {
    if facts.kind == PLAIN {
        return text::push_escaped(line, facts.payload);
    }
    let shown = &facts.payload[..facts.payload.len().min(SHOWN_BYTES)];
    line.extend_from_slice(
        format!("{}, {}: ", types.of(facts.kind), units::bytes(facts.payload.len() as u64)).as_bytes(),
    );
    text::push_escaped(line, shown);
    if shown.len() < facts.payload.len() {
        line.extend_from_slice(" ...".as_bytes());
    }
}

fn json_line<'a>(facts: &Facts<'a>, type_name: &'a str) -> JsonLine<'a> {
    let (encoding, payload) = match std::str::from_utf8(facts.payload) {
        // An archive that happens to be text is still no text.
        Ok(text) if facts.kind == PLAIN => ("utf-8", Cow::Borrowed(text)),
        _ => ("base64", Cow::Owned(text::base64(facts.payload))),
    };
    JsonLine {
        topic: facts.topic,
        lane: facts.lane.name(facts.lanes),
        sequence: facts.sequence,
        time: (facts.stamp_ns != 0).then(|| units::rfc3339(units::realtime_of(facts.stamp_ns))),
        producer: facts.producer,
        r#type: type_name,
        redelivered: facts.redelivered,
        said: facts.said.as_ref().map(Said::new),
        bytes: facts.payload.len(),
        encoding,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(payload: &[u8], kind: u8) -> Facts<'_> {
        Facts {
            topic: "a.b",
            lane: Lane::HIGH,
            lanes: 3,
            sequence: 7,
            stamp_ns: 0,
            producer: 2,
            kind,
            redelivered: true,
            payload,
            said: None,
        }
    }

    #[test]
    fn json_says_how_the_payload_is_to_be_read() {
        let text = serde_json::to_string(&json_line(&facts(b"hi \"there\"", PLAIN), "bytes")).unwrap();
        assert_eq!(
            text,
            "{\"topic\":\"a.b\",\"lane\":\"high\",\"sequence\":7,\"time\":null,\"producer\":2,\"type\":\"bytes\",\
             \"redelivered\":true,\"bytes\":10,\"encoding\":\"utf-8\",\"payload\":\"hi \\\"there\\\"\"}"
        );
        assert_eq!(json_line(&facts(b"\xff", PLAIN), "bytes").encoding, "base64");
        assert_eq!(json_line(&facts(b"text", 0), "Words v1").encoding, "base64");
    }
}
