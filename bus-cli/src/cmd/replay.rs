//! `shmbus replay`: what a topic still holds of a time, once more in another topic.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::signals::Signals;
use crate::time::Moment;
use crate::units;
use bus_shm::Start;
use bus_shm::replay::{self, ReplayWindowError, Window};
use serde_json::json;

/// Flags of `replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic to read; nobody is held by that
    topic: String,
    /// Begin here: oldest, or a time like 5m, 10s-ago, 14:30 (UTC), 2026-11-28T14:30:05Z
    #[arg(long, value_name = "TIME", value_parser = begin)]
    from: Begin,
    /// Begin with the oldest message, where that time is no longer there
    #[arg(long)]
    or_oldest: bool,
    /// End here; left out, with what is there when the command starts
    #[arg(long, value_name = "TIME")]
    to_time: Option<Moment>,
    /// Topic to publish in; it must exist, and accept what the other carries
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// At most so many messages a second
    #[arg(long, value_name = "RATE", value_parser = units::parse_rate)]
    rate: Option<f64>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Name of this process in listings
    #[arg(long, default_value = "shmbus-replay", value_name = "NAME")]
    service: String,
}

/// Where a window begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    Oldest,
    At(Moment),
}

fn begin(text: &str) -> Result<Begin, String> {
    if text == "oldest" { Ok(Begin::Oldest) } else { text.parse().map(Begin::At) }
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let (from, to) = (Place::resolve_checked(&args.topic)?, Place::resolve_checked(&args.to)?);
    let window = Window {
        from: match args.from {
            Begin::Oldest => Start::Oldest,
            Begin::At(moment) => moment.start()?,
        },
        or_oldest: args.or_oldest,
        until_ns: args.to_time.map(Moment::monotonic_ns).transpose()?,
        rate: args.rate,
    };
    let signals = Signals::catch()?;
    let bus = place.join(&args.service, false)?;
    let outcome = replay::replay(&bus, &from, &to, &window, &mut |_| !signals.raised());
    let done = outcome.map_err(failure)?;
    if args.json {
        output::print_json(&json!({
            "bus": place.bus, "from": args.topic, "to": args.to,
            "replayed": done.count, "missed": done.missed,
        }))?;
    } else {
        output::print(&format!("replayed {} to {}\n", units::counted(done.count, "message"), args.to))?;
        if done.missed > 0 {
            let missed = units::counted(done.missed, "message");
            output::remark(format_args!(
                "{missed} of {} had gone before this command came to them",
                args.topic
            ));
        }
    }
    if signals.raised() { Err(signals.interrupted()) } else { Ok(()) }
}

fn failure(error: ReplayWindowError) -> Failure {
    match error {
        ReplayWindowError::Attach(error) => error.into(),
        ReplayWindowError::Types { .. } => Failure::new(Code::Refused, error),
        ReplayWindowError::Receive { .. } | ReplayWindowError::Publish { .. } => {
            Failure::new(Code::Error, error)
        }
        other => Failure::new(Code::Usage, other),
    }
}
