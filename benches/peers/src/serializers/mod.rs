//! What it costs to turn a value into bytes and back: rkyv, which the bus uses, beside MessagePack, Protocol Buffers and
//! Cap'n Proto. One thread, one core, blocks of all of them in turn.
//!
//! Decoding ends when every field has been read: rkyv checks the archive and reads it where it lies, Cap'n Proto reads
//! where it lies, the others build the value first.

mod capnp_event;

use std::hint::black_box;
use std::time::Instant;

use bus_bench::BenchError;
use bus_bench::guest::pin;
use bus_bench::stats::{Interval, bootstrap_median, median, paired_ratios};
use capnp::message::{Builder, ReaderOptions, ScratchSpaceHeapAllocator};
use prost::Message as _;
use rkyv::api::high::to_bytes_in;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use serde::{Deserialize, Serialize};

use capnp_event::{EventBuilder, EventReader};

use crate::way::{Result, failed};

/// Operations between two readings of the clock.
const BLOCK: usize = 2_000;

/// Bytes of the two events' bodies.
const BODIES: [usize; 2] = [32, 1_024];

/// What an agent tells another: the same fields for everybody.
#[derive(Clone, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, prost::Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(fixed64, tag = "2")]
    at_ns: u64,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(double, tag = "4")]
    score: f64,
    #[prost(string, tag = "5")]
    source: String,
    #[prost(string, tag = "6")]
    subject: String,
    #[prost(string, repeated, tag = "7")]
    tags: Vec<String>,
    #[prost(bytes = "vec", tag = "8")]
    #[serde(with = "as_bytes")]
    body: Vec<u8>,
}

/// MessagePack has a type for bytes, which serde does not use for a vector by itself.
mod as_bytes {
    use serde::de::{Deserializer, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

fn event(body_bytes: usize) -> Event {
    Event {
        id: 0x0123_4567_89ab_cdef,
        at_ns: 1_764_000_000_000_000_000,
        kind: 7,
        score: 0.875,
        source: "agent.reasoner".into(),
        subject: "An invoice that nobody has seen".into(),
        tags: ["invoice", "urgent", "customer-7"].map(String::from).to_vec(),
        body: (0..body_bytes).map(|index| index as u8).collect(),
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) serializer: &'static str,
    pub(crate) body_bytes: usize,
    pub(crate) size_bytes: usize,
    pub(crate) encode_ns: f64,
    pub(crate) decode_ns: f64,
    /// Their time over rkyv's, encoding and decoding together.
    pub(crate) ratio: Option<f64>,
    pub(crate) interval_95: Option<Interval>,
}

/// A sum that depends on every field, so that all of them are read.
fn sum(numbers: (u64, u64, u32, f64)) -> u64 {
    numbers.0 ^ numbers.1 ^ u64::from(numbers.2) ^ numbers.3.to_bits()
}

/// The sum with one more text.
fn plus(sum: u64, text: &[u8]) -> u64 {
    text.iter().fold(sum.wrapping_add(text.len() as u64), |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

fn sum_of(event: &Event) -> u64 {
    let start = sum((event.id, event.at_ns, event.kind, event.score));
    let texts = [event.source.as_bytes(), event.subject.as_bytes(), &event.body];
    texts.into_iter().chain(event.tags.iter().map(String::as_bytes)).fold(start, plus)
}

/// A way to bytes and back, with the memory that it uses again and again.
trait Serializer {
    fn name(&self) -> &'static str;
    /// The bytes' number; they are kept for [`Serializer::decode`].
    fn encode(&mut self, event: &Event) -> Result<usize>;
    /// The sum of what the kept bytes say.
    fn decode(&self) -> Result<u64>;
}

#[derive(Default)]
struct Rkyv(AlignedVec);

impl Serializer for Rkyv {
    fn name(&self) -> &'static str {
        "rkyv"
    }

    fn encode(&mut self, event: &Event) -> Result<usize> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        self.0 = to_bytes_in::<_, rancor::Error>(event, bytes).map_err(|error| failed("rkyv", error))?;
        Ok(self.0.len())
    }

    fn decode(&self) -> Result<u64> {
        let event =
            rkyv::access::<ArchivedEvent, rancor::Error>(&self.0).map_err(|error| failed("rkyv", error))?;
        let numbers =
            (event.id.to_native(), event.at_ns.to_native(), event.kind.to_native(), event.score.to_native());
        let texts = [event.source.as_bytes(), event.subject.as_bytes(), event.body.as_slice()];
        Ok(texts.into_iter().chain(event.tags.iter().map(|tag| tag.as_bytes())).fold(sum(numbers), plus))
    }
}

#[derive(Default)]
struct MessagePack(Vec<u8>);

impl Serializer for MessagePack {
    fn name(&self) -> &'static str {
        "MessagePack (rmp-serde)"
    }

    fn encode(&mut self, event: &Event) -> Result<usize> {
        self.0.clear();
        rmp_serde::encode::write(&mut self.0, event).map_err(|error| failed("MessagePack", error))?;
        Ok(self.0.len())
    }

    fn decode(&self) -> Result<u64> {
        let event: Event = rmp_serde::from_slice(&self.0).map_err(|error| failed("MessagePack", error))?;
        Ok(sum_of(&event))
    }
}

#[derive(Default)]
struct ProtocolBuffers(Vec<u8>);

impl Serializer for ProtocolBuffers {
    fn name(&self) -> &'static str {
        "Protocol Buffers (prost)"
    }

    fn encode(&mut self, event: &Event) -> Result<usize> {
        self.0.clear();
        event.encode(&mut self.0).map_err(|error| failed("Protocol Buffers", error))?;
        Ok(self.0.len())
    }

    fn decode(&self) -> Result<u64> {
        let event = Event::decode(self.0.as_slice()).map_err(|error| failed("Protocol Buffers", error))?;
        Ok(sum_of(&event))
    }
}

struct CapnProto<'s> {
    allocator: ScratchSpaceHeapAllocator<'s>,
    bytes: Vec<u8>,
}

impl Serializer for CapnProto<'_> {
    fn name(&self) -> &'static str {
        "Cap'n Proto"
    }

    fn encode(&mut self, event: &Event) -> Result<usize> {
        let mut message = Builder::new(&mut self.allocator);
        let mut root = message.init_root::<EventBuilder<'_>>();
        root.set_numbers(event.id, event.at_ns, event.kind, event.score);
        root.set_source(&event.source);
        root.set_subject(&event.subject);
        root.set_tags(&event.tags);
        root.set_body(&event.body);
        self.bytes.clear();
        capnp::serialize::write_message(&mut self.bytes, &message)
            .map_err(|error| failed("Cap'n Proto", error))?;
        Ok(self.bytes.len())
    }

    fn decode(&self) -> Result<u64> {
        let read = || -> capnp::Result<u64> {
            let mut bytes = self.bytes.as_slice();
            let message =
                capnp::serialize::read_message_from_flat_slice_no_alloc(&mut bytes, ReaderOptions::new())?;
            let event = message.get_root::<EventReader<'_>>()?;
            let texts = [event.source()?.as_bytes(), event.subject()?.as_bytes(), event.body()?];
            let mut total = texts.into_iter().fold(sum(event.numbers()), plus);
            for tag in event.tags()?.iter() {
                total = plus(total, tag?.as_bytes());
            }
            Ok(total)
        };
        read().map_err(|error| failed("Cap'n Proto", error))
    }
}

/// Times of one serializer: nanoseconds an operation, a block each.
#[derive(Default)]
struct Times {
    encode: Vec<f64>,
    decode: Vec<f64>,
}

/// Measures all of them in turn.
pub(crate) fn measure(core: usize, rounds: usize) -> std::result::Result<Vec<Row>, BenchError> {
    // A thread of its own, so that nothing else is pinned.
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            pin(core)?;
            let mut rows = Vec::new();
            for body in BODIES {
                rows.extend(measure_one(&event(body), rounds)?);
            }
            Ok(rows)
        });
        thread.join().unwrap_or_else(|_| Err(failed("the serializers", "their thread panicked")))
    })
}

fn measure_one(event: &Event, rounds: usize) -> Result<Vec<Row>> {
    let mut scratch = vec![0; 16 * 1024];
    let mut all: Vec<Box<dyn Serializer + '_>> = vec![
        Box::<Rkyv>::default(),
        Box::<MessagePack>::default(),
        Box::<ProtocolBuffers>::default(),
        Box::new(CapnProto { allocator: ScratchSpaceHeapAllocator::new(&mut scratch), bytes: Vec::new() }),
    ];
    let mut sizes = Vec::new();
    for serializer in &mut all {
        sizes.push(serializer.encode(event)?);
        if serializer.decode()? != sum_of(event) {
            return Err(failed(serializer.name(), "what came back is not what was encoded"));
        }
    }
    let mut times: Vec<Times> = all.iter().map(|_| Times::default()).collect();
    for round in 0..=rounds {
        for (serializer, times) in all.iter_mut().zip(&mut times) {
            let (encode, decode) = block(&mut **serializer, event)?;
            // The first round is for the caches.
            if round > 0 {
                times.encode.push(encode);
                times.decode.push(decode);
            }
        }
    }
    let total = |times: &Times| -> Vec<f64> {
        times.encode.iter().zip(&times.decode).map(|(encode, decode)| encode + decode).collect()
    };
    let ours = total(&times[0]);
    Ok(all
        .iter()
        .zip(sizes)
        .zip(&times)
        .map(|((serializer, size_bytes), times)| {
            let ratios = paired_ratios(&total(times), &ours);
            Row {
                serializer: serializer.name(),
                body_bytes: event.body.len(),
                size_bytes,
                encode_ns: median(&times.encode).unwrap_or(0.0),
                decode_ns: median(&times.decode).unwrap_or(0.0),
                ratio: median(&ratios),
                interval_95: bootstrap_median(&ratios),
            }
        })
        .collect())
}

/// Nanoseconds to encode, and to decode.
fn block(serializer: &mut dyn Serializer, event: &Event) -> Result<(f64, f64)> {
    let begun = Instant::now();
    for _ in 0..BLOCK {
        black_box(serializer.encode(black_box(event))?);
    }
    let encoded = Instant::now();
    for _ in 0..BLOCK {
        black_box(black_box(&*serializer).decode()?);
    }
    let per_op = |time: std::time::Duration| time.as_nanos() as f64 / BLOCK as f64;
    Ok((per_op(encoded - begun), per_op(encoded.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_brings_back_what_was_encoded() {
        let rows = measure_one(&event(100), 3).unwrap();
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| row.size_bytes > 100 && row.encode_ns > 0.0), "{rows:?}");
    }

    #[test]
    fn the_sum_depends_on_every_field() {
        let base = event(100);
        let changes: [fn(&mut Event); 8] = [
            |event| event.id += 1,
            |event| event.at_ns += 1,
            |event| event.kind += 1,
            |event| event.score += 1.0,
            |event| event.source.push('x'),
            |event| event.subject.push('x'),
            |event| event.tags[2].push('x'),
            |event| event.body[99] ^= 1,
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(sum_of(&other), sum_of(&base));
        }
    }
}
