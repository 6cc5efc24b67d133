//! Seats and partitions of keyed groups.

use super::groups::is_still;
use super::{Invariant, Look, Place, files};
use crate::group::{display_name, owners_of};
use crate::keys::KeysFile;
use crate::reader::LaneReader;
use crate::region::Access;
use crate::topic::TopicCore;
use bus_core::header::flags;
use bus_core::holder::HolderWord;
use bus_core::keyed::{PartitionWord, partition_of};
use bus_core::layout::groups::{in_entry, in_lane, kind, state as group_state};
use bus_core::layout::keys::seat;
use bus_core::limits::{KEYED_MEMBERS_MAX, PARTITIONS};
use bus_core::owner::state;
use bus_core::seq::distance;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn check(look: &mut Look<'_>, core: &Arc<TopicCore>) {
    for entry in 0..core.groups_used() {
        let packed = core.group_number(entry, in_entry::STATE);
        let bits = core.group_number(entry, in_entry::KIND);
        let is_keyed =
            bits & kind::KINDS == kind::KINDS && group_state::holds_gate(HolderWord::unpack(packed).state);
        // The file is there before the cursors are put in place.
        if !is_keyed || !is_still(core, entry, packed) {
            continue;
        }
        let place = Place::topic(core.name()).group(display_name(core, entry));
        let file = match KeysFile::attach(core, entry, Access::Read) {
            Ok(file) => file,
            Err(error) => {
                files::unreadable(look, place.file(format!("keys-{entry}")), 0, &error);
                continue;
            }
        };
        check_seats(look, &file, &place);
        if kind::ack_wait_ms(bits) == 0 {
            check_claims(look, core, entry, &file, &place);
        }
    }
}

fn check_seats(look: &mut Look<'_>, file: &KeysFile, place: &Place) {
    let keys = file.keys();
    for index in 0..KEYED_MEMBERS_MAX as usize {
        let index = index as u8;
        let word = keys.seat(index);
        let place = || place.clone().entry(u64::from(index));
        if word.state > seat::TAKEN {
            let found = format!("state {}", word.state);
            look.suspect(Invariant::KeySeat, place(), [word.pack(), 0], found, "0 or 1");
        } else if word.state == seat::TAKEN && look.roll.has_left(word.holder, || keys.seat(index) == word) {
            let found = format!("participant {} at {}", word.holder.participant, word.holder.incarnation);
            look.suspect(Invariant::KeyHolder, place(), [word.pack(), 0], found, "one that is registered");
        }
    }
    for partition in 0..PARTITIONS as usize {
        let raw = keys.partition_raw(partition);
        if PartitionWord::unpack(raw).pack() != raw {
            let found = format!("{raw:#x}");
            let place = place.clone().entry(partition as u64);
            look.suspect(Invariant::KeyPartition, place, [raw, 0], found, "a word that exists");
        }
    }
}

/// Where nobody is fenced, claims of one partition are all of one process.
fn check_claims(look: &mut Look<'_>, core: &Arc<TopicCore>, entry: usize, file: &KeysFile, place: &Place) {
    let Ok(region) = core.look_owners(entry) else { return };
    let mut claims: HashMap<usize, (u64, u16)> = HashMap::new();
    for lane in 0..core.lanes() {
        let (Some(owners), Ok(mut reader)) =
            (owners_of(core, &region, lane), LaneReader::attach(core.clone(), lane))
        else {
            continue;
        };
        let low_water = || core.group_lane_number(entry, lane, in_lane::LOW_WATER);
        let from = low_water();
        let count = distance(core.end(lane), from).clamp(0, core.config().capacity.into()) as u64;
        for sequence in (0..count).map(|index| from.wrapping_add(index)) {
            let seen = owners.look(sequence);
            if seen.state != state::CLAIMED {
                continue;
            }
            // One that names a cell keeps its key there.
            let header = reader.header_at(sequence).filter(|header| header.flags & flags::ARENA == 0);
            let Some(header) = header else { continue };
            if owners.look(sequence) != seen || distance(low_water(), sequence) > 0 {
                continue;
            }
            let partition = partition_of(header.reference, sequence);
            let (other, member) = *claims.entry(partition).or_insert((sequence, seen.member));
            if member != seen.member {
                let found = format!(
                    "message {other} in the hands of participant {member}, message {sequence} in those of {}",
                    seen.member
                );
                let witness = [file.keys().partition_raw(partition), seen.pack()];
                let place = place.clone().lane(lane).entry(partition as u64);
                look.suspect(Invariant::KeyClaims, place, witness, found, "one process");
            }
        }
    }
}
