//! `shmbus down`: the bus goes, unless somebody would miss it. One that cannot be read any more goes with `--force`.

use crate::exit::Outcome;
use crate::output;
use crate::place::Place;
use bus_shm::{BusError, RegionError, supervisor};

/// Flags of `down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Even while others are attached (they get an error) or messages are unread (they are lost)
    #[arg(long, short)]
    force: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    match place.builder("shmbus-down", false).open() {
        Ok(bus) => bus.down(args.force)?,
        Err(BusError::Region(RegionError::Mismatch { .. })) if args.force => {
            supervisor::remove_unreadable(&place.directory()?)?;
        }
        Err(error) => return Err(error.into()),
    }
    if place.quiet {
        return Ok(());
    }
    output::print(&format!("bus {} is down\n", place.bus))
}
