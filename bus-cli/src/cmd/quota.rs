//! `shmbus quota`: what each publisher of a topic may publish.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::report;
use crate::table::columns;
use crate::units;
use bus_shm::{Bytes, Quota};
use std::time::Duration;

/// Flags of `quota`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic
    topic: String,
    /// Only publishers of this service; at most five services of a topic have quotas of their own
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Messages that each publisher may publish in a second
    #[arg(long, value_name = "NUMBER", value_parser = units::parse_count)]
    messages: Option<u64>,
    /// Payload bytes that each publisher may publish in a second
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    bytes: Option<u64>,
    /// What comes in this time at that rate may come at once [default: 50ms]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    burst: Option<Duration>,
    /// Take the quota away
    #[arg(long, conflicts_with_all = ["messages", "bytes", "burst"])]
    off: bool,
    /// As JSON, where nothing is set
    #[arg(long, conflicts_with_all = ["messages", "bytes", "burst", "off", "service"])]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let quota = match (args.messages, args.bytes) {
        (None, None) if args.burst.is_some() => {
            return Err(Failure::new(Code::Usage, "a burst needs --messages or --bytes"));
        }
        (None, None) => None,
        (Some(messages), None) => Some(Quota::messages(messages)),
        (None, Some(bytes)) => Some(Quota::bytes(bytes)),
        (Some(messages), Some(bytes)) => Some(Quota::messages(messages).and_bytes(bytes)),
    };
    if quota.is_none() && !args.off {
        if args.service.is_some() {
            return Err(Failure::new(Code::Usage, "--service needs --messages, --bytes or --off"));
        }
        return list(place, args);
    }
    let quota = match (quota, args.burst) {
        (Some(quota), Some(burst)) => Some(quota.burst(burst)),
        (quota, _) => quota,
    };
    let bus = place.join("shmbus-quota", false)?;
    let topic = bus.topic_builder::<Bytes>(&Place::resolve(&args.topic)?).create(false).open()?;
    topic.set_quota(args.service.as_deref(), quota)?;
    place.note(format_args!(
        "topic {}, {}: {}",
        args.topic,
        of_whom(args.service.as_deref()),
        text(quota.as_ref())
    ));
    Ok(())
}

fn of_whom(service: Option<&str>) -> String {
    service.map_or_else(|| "each publisher".into(), |service| format!("each publisher of {service}"))
}

fn list(place: &Place, args: &Args) -> Outcome {
    let state = place.view()?.topic(&Place::resolve(&args.topic)?)?.sample();
    if args.json {
        return output::print_json(&report::quotas(&state));
    }
    let mut table = columns(&["SERVICE", ">MESSAGES/S", ">BYTES/S", ">BURST"]);
    let all = state.quota.iter().map(|quota| ("(any)".to_owned(), *quota));
    for (service, quota) in all.chain(state.service_quotas.iter().cloned()) {
        table.row([
            service,
            quota.messages_per_s().map_or_else(|| "-".into(), units::count),
            quota.bytes_per_s().map_or_else(|| "-".into(), units::bytes),
            units::duration(quota.burst_time()),
        ]);
    }
    if table.is_empty() {
        place.note(format_args!("topic {} has no quotas", args.topic));
        return Ok(());
    }
    output::print(&table.render())
}

/// `1,000 messages/s, 1.0 MiB/s, burst 50 ms`, or `no quota`.
pub(crate) fn text(quota: Option<&Quota>) -> String {
    let Some(quota) = quota else { return "no quota".into() };
    let messages = quota.messages_per_s().map(|rate| format!("{} messages/s", units::count(rate)));
    let bytes = quota.bytes_per_s().map(|rate| format!("{}/s", units::bytes(rate)));
    let burst = format!("burst {}", units::duration(quota.burst_time()));
    messages.into_iter().chain(bytes).chain([burst]).collect::<Vec<_>>().join(", ")
}
