//! `shmbus gc`: what killed processes have left behind.

use crate::exit::Outcome;
use crate::output;
use crate::place::Place;
use crate::units;
use serde_json::json;
use std::path::Path;

/// Flags of `gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let base = bus_shm::directory::base_dir(place.dir.as_deref());
    let sizes: Vec<(String, u64)> = bus_shm::collect_garbage(place.dir.as_deref(), true)
        .into_iter()
        .map(|name| {
            let bytes = memory_bytes(&base.join(&name));
            (name, bytes)
        })
        .collect();
    let removed = if args.dry_run {
        sizes.iter().map(|(name, _)| name.clone()).collect()
    } else {
        bus_shm::collect_garbage(place.dir.as_deref(), false)
    };
    let found: Vec<_> = sizes.into_iter().filter(|(name, _)| removed.contains(name)).collect();
    if args.json {
        let found: Vec<_> =
            found.iter().map(|(name, bytes)| json!({ "name": name, "memory_bytes": bytes })).collect();
        return output::print_json(&json!({ "dry_run": args.dry_run, "removed": found }));
    }
    if found.is_empty() {
        return output::print("nothing to remove\n");
    }
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for (name, bytes) in &found {
        let what = if name.starts_with('.') { "unfinished directory" } else { "temporary bus" };
        text += &format!("{verb} {what} {name} ({})\n", units::bytes(*bytes));
    }
    output::print(&text)
}

/// Memory that the files below a directory take.
pub(crate) fn memory_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(status) if status.is_dir() => memory_bytes(&entry.path()),
            Ok(status) => status.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
