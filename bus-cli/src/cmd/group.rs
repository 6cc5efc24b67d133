//! `shmbus group`: what can be said to a group.

use crate::exit::Outcome;
use crate::output;
use crate::place::Place;
use crate::units;
use bus_shm::Bytes;
use serde_json::json;

/// Flags of `group`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask the members of a keyed group to share its partitions by how busy those are, until a member comes or goes
    Rebalance(RebalanceArgs),
}

/// Flags of `group rebalance`.
#[derive(Debug, clap::Args)]
struct RebalanceArgs {
    /// Topic
    topic: String,
    /// Its group, which `shmbus info TOPIC` shows with its members and their shares
    group: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let Command::Rebalance(args) = &args.command;
    let bus = place.join("shmbus-group", false)?;
    let topic = bus.topic_builder::<Bytes>(&args.topic).create(false).open()?;
    let done = topic.rebalance(&args.group)?;
    if args.json {
        return output::print_json(&json!({
            "topic": args.topic,
            "group": args.group,
            "members": done.member_count,
            "moved_count": done.moved_count,
            "counted": done.counted,
            "most": done.most,
            "fewest": done.fewest,
        }));
    }
    output::print(&format!(
        "{} to move among {}; of the last {} one would have had {} at most and {} at least\n",
        units::counted(done.moved_count.into(), "partition"),
        units::counted(done.member_count.into(), "member"),
        units::counted(done.counted, "message"),
        units::count(done.most),
        units::count(done.fewest),
    ))
}
