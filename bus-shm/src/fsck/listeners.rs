//! Who waits on many topics. A ticket in a topic's table that is nobody's any more is no damage: ringers compare its tag.

use super::files::{check_backed, check_epoch, unreadable};
use super::{Invariant, Look, Place};
use crate::region::{Access, Region};
use bus_core::holder::HolderWord;
use bus_core::layout::listeners::{self, at, in_entry, state};
use bus_core::limits::LISTENERS_MAX;
use bus_core::sync::Ordering;

pub(super) fn check(look: &mut Look<'_>, epoch: Option<u64>) {
    let path = look.dir.path().join(crate::listeners::LISTENERS_NAME);
    let place = || Place::bus().file("listeners");
    let most = listeners::footprint_bytes(LISTENERS_MAX as usize);
    let region = match Region::attach(&path, listeners::MAGIC, Access::Read, Some(most)) {
        Ok((region, preamble)) => {
            if let Some(epoch) = epoch {
                check_epoch(look, &place(), preamble.epoch, epoch);
            }
            region
        }
        Err(error) => return unreadable(look, place(), 0, &error),
    };
    // Counted before the length is looked at: entries are backed before they are counted.
    let reserved = region.look(at::RESERVED).map_or(0, |word| word.load(Ordering::Acquire));
    if reserved > u64::from(LISTENERS_MAX)
        || listeners::footprint_bytes(reserved as usize) > region.file_bytes()
    {
        let expected = format!("as many as there is room for, at most {LISTENERS_MAX}");
        look.suspect(
            Invariant::ListenerTable,
            place(),
            [reserved, 0],
            format!("{reserved} entries"),
            expected,
        );
        return;
    }
    check_backed(look, &place(), &path, region.file_bytes());
    for entry in 0..reserved as usize {
        let Some(word) = region.look(listeners::entry(entry) + in_entry::STATE) else { break };
        let packed = word.load(Ordering::Acquire);
        let seen = HolderWord::unpack(packed);
        let place = place().entry(entry as u64);
        let still = || word.load(Ordering::Acquire) == packed;
        if seen.state > state::LIVE {
            let found = format!("state {}", seen.state);
            look.suspect(Invariant::ListenerTable, place, [packed, 0], found, "0 or 1");
        } else if seen.state == state::LIVE && look.roll.has_left(seen.holder, still) {
            let found = format!("participant {} at {}", seen.holder.participant, seen.holder.incarnation);
            look.suspect(Invariant::ListenerHolder, place, [packed, 0], found, "one that is registered");
        }
    }
}
