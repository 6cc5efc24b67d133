//! `shmbus dlq show`: one dead letter, and how they look as JSON.

use crate::exit::Outcome;
use crate::output;
use crate::place::Place;
use crate::text;
use crate::units;
use bus_shm::dead_letters::{self, DeadLetter, LetterId};
use bus_shm::mailbox;
use serde_json::{Value, json};

/// Flags of `dlq show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its ID, as `dlq ls` shows it
    id: LetterId,
    /// The payload as well
    #[arg(long, short)]
    payload: bool,
    /// As JSON; the payload of what is no text comes in base64
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, args: &Args) -> Outcome {
    let Some((letter, payload)) = dead_letters::payload(&place.view()?, args.id)? else {
        return Err(super::not_found(place, args.id));
    };
    if args.json {
        let mut value = as_json(&letter);
        if args.payload {
            let (encoding, payload) = encode(&letter, &payload);
            (value["encoding"], value["payload"]) = (encoding.into(), payload.into());
        }
        return output::print_json(&value);
    }
    let mut out = facts(&letter).into_bytes();
    if args.payload {
        out.push(b'\n');
        text::push_escaped(&mut out, &payload);
        out.push(b'\n');
    }
    // Escaped text is UTF-8.
    output::print(&String::from_utf8_lossy(&out))
}

fn facts(letter: &DeadLetter) -> String {
    let time = |ns: u64| format!("{}, {} ago", units::rfc3339(ns), units::ago(ns));
    let published = match letter.stamp_ns {
        0 => "unknown, the topic has no stamps".into(),
        stamp_ns => time(units::realtime_of(stamp_ns)),
    };
    let status = match (letter.replaying, letter.announced) {
        (true, _) => "being replayed",
        (false, true) => "announced",
        (false, false) => "not announced yet",
    };
    units::facts(&[
        ("dead letter", letter.id.to_string()),
        ("topic", mailbox::display(&letter.topic).into_owned()),
        ("group", letter.group.clone()),
        ("lane", letter.lane_name.to_owned()),
        ("sequence", units::count(letter.sequence)),
        ("type", letter.kind.as_ref().map_or_else(|| letter.type_name.clone(), ToString::to_string)),
        ("payload", units::bytes(u64::from(letter.len_bytes))),
        ("published", published),
        ("attempts", letter.attempts.to_string()),
        ("first failed", time(letter.first_ns)),
        ("last failed", time(letter.last_ns)),
        ("in", place(letter)),
        ("error", text::escaped(&letter.error)),
        ("status", status.into()),
    ])
}

/// Who failed: the service, and its handler if that has a name.
pub(super) fn place(letter: &DeadLetter) -> String {
    match letter.handler.as_str() {
        "" => text::escaped(&letter.service),
        handler => format!("{}/{}", text::escaped(&letter.service), text::escaped(handler)),
    }
}

fn encode(letter: &DeadLetter, payload: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(payload) {
        // An archive that happens to be text is still no text.
        Ok(text) if letter.type_name == "bytes" => ("utf-8", text.to_owned()),
        _ => ("base64", text::base64(payload)),
    }
}

pub(super) fn as_json(letter: &DeadLetter) -> Value {
    let kind = letter.kind.as_ref();
    json!({
        "id": letter.id.to_string(),
        "topic": letter.topic,
        "group": letter.group,
        "lane": letter.lane_name,
        "sequence": letter.sequence,
        "type": letter.type_name,
        "fingerprint": kind.map(|identity| format!("{:016x}", identity.fingerprint)),
        "bytes": letter.len_bytes,
        "time": (letter.stamp_ns != 0).then(|| units::rfc3339(units::realtime_of(letter.stamp_ns))),
        "attempts": letter.attempts,
        "first_failed": units::rfc3339(letter.first_ns),
        "last_failed": units::rfc3339(letter.last_ns),
        "service": letter.service,
        "handler": letter.handler,
        "error": letter.error,
        "announced": letter.announced,
        "replaying": letter.replaying,
    })
}
