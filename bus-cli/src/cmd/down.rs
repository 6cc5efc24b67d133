//! `shmbus down`: the bus goes, unless somebody would miss it.

use crate::exit::Outcome;
use crate::output;
use crate::place::Place;

/// Flags of `down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Even while others are attached (they get an error) or messages are unread (they are lost)
    #[arg(long, short)]
    force: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let bus = place.open("shmbus-down", false)?;
    bus.down(args.force)?;
    drop(bus);
    if place.quiet {
        return Ok(());
    }
    output::print(&format!("bus {} is down\n", place.bus))
}
