//! `shmbus request`: a question, and its answers.

use super::publish::{check_bytes, lane_named, read_file};
use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::signals::Signals;
use crate::text;
use crate::units;
use bus_shm::{Answer, Ask, Bytes, Meta, Pending};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// A signal is noticed after at most this long while no answer comes.
const SLICE: Duration = Duration::from_millis(150);

/// Flags of `request`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic that repliers read, or a mailbox: @NAME
    topic: String,
    /// The request; left out, or `-`, it is what standard input has
    #[arg(allow_negative_numbers = true)]
    payload: Option<String>,
    /// How long to wait for the answer; nobody is handed the request after that
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = units::parse_duration)]
    timeout: Duration,
    /// Take up to so many answers, until the time is over
    #[arg(long, default_value = "1", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    replies: u32,
    /// Lane, by name or number [default: normal]
    #[arg(long, short)]
    lane: Option<String>,
    /// What the request is about; subscribers can ask for one key
    #[arg(long)]
    key: Option<String>,
    /// Where no replier is alive, leave it to a group that keeps its messages, such as a mailbox's owner
    #[arg(long)]
    even_if_away: bool,
    /// Make the mailbox if there is none, and leave the request there for an owner that has yet to come
    #[arg(long)]
    create: bool,
    /// The answer as it is, with nothing behind it
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// One JSON object an answer
    #[arg(long)]
    json: bool,
    /// Name of this process in listings
    #[arg(long, default_value = "shmbus-request", value_name = "NAME")]
    service: String,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let topic = Place::resolve(&args.topic)?;
    let signals = Signals::catch()?;
    let payload = match args.payload.as_deref() {
        None | Some("-") => read_file(Path::new("-"), &signals)?,
        Some(text) => text.as_bytes().to_vec(),
    };
    let bus = place.join(&args.service, false)?;
    if place.view()?.topic_names().contains(&topic) {
        check_bytes(place, &topic)?;
    }
    let mut ask = Ask::within(args.timeout).replies(args.replies);
    if let Some(key) = &args.key {
        ask = ask.meta(&Meta::new().key(key));
    }
    if args.even_if_away {
        ask = ask.even_if_away();
    }
    if args.create {
        if !args.topic.starts_with('@') {
            let hint = "topics are made by their repliers, or by `shmbus create`";
            let message = format!("--create is for mailboxes, and {:?} is none; {hint}", args.topic);
            return Err(Failure::new(Code::Usage, message));
        }
        ask = ask.create_mailbox();
    }
    if let Some(name) = &args.lane {
        let topic = bus.topic_builder::<Bytes>(&topic).create(false).open()?;
        ask = ask.lane(lane_named(&topic, name)?);
    }
    let client = bus.requester()?;
    // A mailbox goes by its own name, since it may have to be made.
    let mut pending: Pending<Bytes> = client.send_bytes::<Bytes, _>(&args.topic, &payload, &ask)?;
    for number in 0..args.replies {
        loop {
            if signals.raised() {
                return Err(signals.interrupted());
            }
            match pending.wait_at_most(SLICE)? {
                Some(answer) => {
                    print(args, &pending, &answer)?;
                    break;
                }
                // Some have come, and the time is over.
                None if number > 0 && pending.is_over() => return Ok(()),
                None => {}
            }
        }
    }
    Ok(())
}

fn print(args: &Args, pending: &Pending<Bytes>, answer: &Answer<Bytes>) -> Outcome {
    let payload = answer.payload();
    if args.json {
        let origin = answer.origin();
        let (encoding, text) = match std::str::from_utf8(payload) {
            Ok(text) => ("utf-8", text.to_owned()),
            Err(_) => ("base64", text::base64(payload)),
        };
        return output::print_json_line(&json!({
            "topic": args.topic,
            "request": pending.id().to_string(),
            "service": origin.as_ref().map(|origin| &origin.service),
            "pid": origin.as_ref().map(|origin| origin.pid),
            "bytes": payload.len(),
            "encoding": encoding,
            "payload": text,
        }));
    }
    let mut line = Vec::with_capacity(payload.len() + 1);
    if args.raw {
        line.extend_from_slice(payload);
    } else {
        text::push_escaped(&mut line, payload);
        line.push(b'\n');
    }
    output::print_bytes(&line)
}

impl From<bus_shm::RequestError> for Failure {
    fn from(error: bus_shm::RequestError) -> Self {
        use bus_shm::RequestError as E;
        match error {
            E::Publish(error) => error.into(),
            E::Attach(error) => error.into(),
            E::Mailbox(error) => error.into(),
            E::Receive(error) => error.into(),
            E::NoReplier { .. } => Failure::new(Code::NotFound, error),
            E::DeadLetter { .. } => Failure::new(Code::DeadLettered, error),
            E::Timeout { .. } | E::TooMany { .. } => Failure::new(Code::TimedOut, error),
            E::OtherType { .. } | E::Invalid { .. } => Failure::new(Code::Refused, error),
            error => Failure::new(Code::Error, error),
        }
    }
}
