//! The files: how they begin, whether they belong together, whether their memory is there, and what is left half-made.

use super::{Invariant, Look, Place};
use crate::directory::TEMPORARY;
use crate::region::{Access, Region};
use crate::supervisor::role;
use crate::sys::{file, lock, process};
use crate::topic::TopicCore;
use bus_core::layout::superblock::RoleWord;
use bus_core::layout::superblock::{self, at, spin};
use bus_core::layout::{Preamble, ring, samples, wake};
use bus_core::sync::Ordering;
use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A name younger than this much before the supervisor took its role may belong to one who was still at it then.
const REQUEST_SECONDS_MAX: i64 = 10;

/// A file that cannot be mapped.
pub(super) fn unreadable(look: &mut Look<'_>, place: Place, witness: u64, why: &impl Display) {
    look.suspect(Invariant::FileUnreadable, place, [witness, 0], why.to_string(), "a file of this layout");
}

/// True if it belongs.
pub(super) fn check_epoch(look: &mut Look<'_>, place: &Place, found: u64, expected: u64) -> bool {
    if found != expected {
        let (witness, text) = ([found, expected], format!("epoch {found:#x}"));
        look.suspect(Invariant::FileEpoch, place.clone(), witness, text, format!("{expected:#x}"));
    }
    found == expected
}

/// Are all pages of the first `bytes` there? Touching one that is not is SIGBUS when memory has run out. Certain at the first
/// look: pages are there before the file is as long, and stay; and whoever looks at a hole fills it.
pub(super) fn check_backed(look: &mut Look<'_>, place: &Place, path: &Path, bytes: u64) {
    let Ok(status) = path.metadata() else { return };
    if status.blocks() * 512 < bytes {
        let found = format!("{} bytes backed", status.blocks() * 512);
        look.saw(Invariant::FileSparse, place.clone(), found, format!("{bytes}"));
    }
}

/// Is this a file whose maker has not come to its first page yet?
pub(super) fn is_unfinished(path: &Path) -> bool {
    let Ok(opened) = file::open_ro(path) else { return false };
    crate::region::read_at::<Preamble>(&opened, path, 0)
        .map_or(true, |preamble| bytemuck::bytes_of(&preamble).iter().all(|&byte| byte == 0))
}

pub(super) fn check_bus(look: &mut Look<'_>) {
    let (bus, spins) = (look.dir.superblock(), look.dir.spin());
    let epoch = match Region::attach(&bus, superblock::MAGIC, Access::Read, None) {
        Ok((region, preamble)) => {
            check_backed(look, &Place::bus().file("bus"), &bus, region.file_bytes());
            Some(preamble.epoch)
        }
        Err(error) => {
            unreadable(look, Place::bus().file("bus"), 0, &error);
            None
        }
    };
    match Region::attach(&spins, spin::MAGIC, Access::Read, None) {
        Ok((_, preamble)) => {
            if let Some(epoch) = epoch {
                check_epoch(look, &Place::bus().file("spin"), preamble.epoch, epoch);
            }
            check_backed(look, &Place::bus().file("spin"), &spins, spin::FILE_BYTES);
        }
        Err(error) => unreadable(look, Place::bus().file("spin"), 0, &error),
    }
    super::listeners::check(look, epoch);
    for (place, dir) in [("topics", look.dir.topics()), ("leases", look.dir.leases())] {
        check_temporary(look, place, &dir);
    }
}

pub(super) fn check_topic(look: &mut Look<'_>, core: &TopicCore) {
    let name = core.recorded_name();
    if name != core.name() {
        let found = format!("{name:?}");
        let witness = [bus_core::name::key(&name), 0];
        let place = Place::topic(core.name()).file("ring");
        look.suspect(Invariant::FileName, place, witness, found, format!("{:?}", core.name()));
    }
    for (file, path, bytes) in [
        ("ring", core.dir().ring(), core.config().footprint_bytes()),
        ("groups", core.dir().groups(), core.groups_region().file_bytes()),
        ("wake", core.dir().wake(), wake::FILE_BYTES),
    ] {
        check_backed(look, &Place::topic(core.name()).file(file), &path, bytes);
    }
    if core.config().flags & ring::FLAG_STAMPS == 0 {
        check_samples(look, core);
    }
}

/// Samples that are not true are no damage: readers leave out what contradicts the rest.
fn check_samples(look: &mut Look<'_>, core: &TopicCore) {
    let (path, place) = (core.dir().samples(), Place::topic(core.name()).file("samples"));
    match Region::attach(&path, samples::MAGIC, Access::Read, None) {
        Ok((_, preamble)) => {
            check_epoch(look, &place, preamble.epoch, core.epoch());
            check_backed(look, &place, &path, samples::FILE_BYTES);
        }
        Err(error) => unreadable(look, place, 0, &error),
    }
}

/// Who takes the role removes what the dead have left half-made. What came later waits for the next one, and without a holder
/// everything does.
fn check_temporary(look: &mut Look<'_>, place: &str, dir: &Path) {
    let Some(since) = role_taken_at(look) else { return };
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(TEMPORARY) || is_maker_alive(&name) || is_locked(&entry.path()) {
            continue;
        }
        let Ok(status) = entry.metadata() else { continue };
        if status.mtime() < since - REQUEST_SECONDS_MAX {
            let witness = [status.ino(), 0];
            let found = "a name of a dead process from before the supervisor took its role";
            let place = Place::bus().file(format!("{place}/{name}"));
            look.suspect(Invariant::FileTemporary, place, witness, found, "none");
        }
    }
}

/// When the present holder of the role took it, in seconds; `None` if there is none.
fn role_taken_at(look: &Look<'_>) -> Option<i64> {
    let word = look.roll.word(at::ROLE_EPOCH)?.load(Ordering::Acquire);
    if !role::is_held(look.dir, word) {
        return None;
    }
    let socket = look.dir.socket(RoleWord::unpack(word).mark);
    Some(std::fs::symlink_metadata(socket).ok()?.mtime())
}

fn is_maker_alive(name: &str) -> bool {
    let pid = name.trim_start_matches(TEMPORARY).split('-').next().and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| process::start_time_ticks(pid).is_some())
}

fn is_locked(path: &Path) -> bool {
    path.is_file() && file::open_ro(path).is_ok_and(|opened| lock::is_locked(&opened, path).unwrap_or(true))
}
