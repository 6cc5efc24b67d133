//! The aside stores of groups: retries and dead letters.
//!
//! What the layout fixes is checked: states, holders, what an entry says of its message, and that a message has one entry.

use super::{Invariant, Look, Place, files};
use crate::group::display_name;
use crate::region::{Access, Region};
use crate::topic::TopicCore;
use bus_core::holder::HolderWord;
use bus_core::layout::aside::{ENTRIES, Entry, MAGIC, state};
use bus_core::owner::ParkedEntry;
use bus_core::sync::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::path::PathBuf;

/// Bytes from one entry to the next.
const STRIDE_BYTES: usize = size_of::<Entry>();
/// Entries that a PARKED word can name.
const ENTRIES_MAX: usize = 1 << 16;

fn path(core: &TopicCore, group: usize) -> PathBuf {
    core.dir().0.join(format!("aside-{group}"))
}

/// The words of an entry: state, sequence, description.
fn words(region: &Region, index: usize) -> Option<&[AtomicU64]> {
    region.look_words(ENTRIES + index * STRIDE_BYTES, 3)
}

fn open(core: &TopicCore, group: usize) -> Option<Region> {
    let most = (ENTRIES + ENTRIES_MAX * STRIDE_BYTES) as u64;
    Region::attach(&path(core, group), MAGIC, Access::Read, Some(most)).ok().map(|(region, _)| region)
}

/// Lane and sequence of an entry.
fn message(words: &[AtomicU64]) -> (usize, u64) {
    let description = words[2].load(Ordering::Relaxed);
    ((description & 0xff) as usize, words[1].load(Ordering::Relaxed))
}

/// Does the store of a group hold this message in this entry, or has the entry been used anew since it did? What is there
/// instead, if not.
pub(super) fn holds(
    core: &TopicCore,
    group: usize,
    lane: usize,
    sequence: u64,
    parked: ParkedEntry,
) -> Result<(), String> {
    let region = open(core, group).ok_or("a group without an aside store")?;
    let index = usize::from(parked.index);
    let words = words(&region, index).ok_or_else(|| format!("no entry {index}"))?;
    let word = HolderWord::unpack(words[0].load(Ordering::Acquire));
    if word.tag & 0x3ff != u32::from(parked.incarnation) {
        return Ok(());
    }
    let (of_lane, of_sequence) = message(words);
    match word.state {
        // Settled, and its owner word not yet.
        state::FREE => Ok(()),
        state::FILLING => Err(format!("entry {index} is being filled")),
        _ if (of_lane, of_sequence) != (lane, sequence) => {
            Err(format!("entry {index} holds message {of_sequence} of lane {of_lane}"))
        }
        _ => Ok(()),
    }
}

pub(super) fn check(look: &mut Look<'_>, core: &TopicCore, ends: &[Option<u64>]) {
    for group in 0..core.groups_reserved() {
        let path = path(core, group);
        if !path.exists() {
            continue;
        }
        let file = format!("aside-{group}");
        let place = Place::topic(core.name()).group(display_name(core, group)).file(file);
        match Region::attach(&path, MAGIC, Access::Read, None) {
            Ok((_, preamble)) if !files::check_epoch(look, &place, preamble.epoch, core.epoch()) => continue,
            Ok(_) => {}
            Err(_) if !path.exists() => continue,
            Err(error) => {
                files::unreadable(look, place, 0, &error);
                continue;
            }
        }
        let Some(region) = open(core, group) else { continue };
        let mut kept: HashMap<(usize, u64), usize> = HashMap::new();
        for index in 0..ENTRIES_MAX {
            let Some(words) = words(&region, index) else { break };
            let place = place.clone().entry(index as u64);
            if let Some(message) = check_entry(look, core, ends, words, &place)
                && let Some(other) = kept.insert(message, index)
            {
                let found =
                    format!("entries {other} and {index} of message {} of lane {}", message.1, message.0);
                let witness = [words[0].load(Ordering::Relaxed), other as u64];
                look.suspect(Invariant::AsideTwins, place, witness, found, "one entry");
            }
        }
    }
}

/// The message of an entry that counts: one that is only staged counts from its commit on.
fn check_entry(
    look: &mut Look<'_>,
    core: &TopicCore,
    ends: &[Option<u64>],
    words: &[AtomicU64],
    place: &Place,
) -> Option<(usize, u64)> {
    // Acquire: the contents are complete before the state says so.
    let raw = words[0].load(Ordering::Acquire);
    let word = HolderWord::unpack(raw);
    let holds = || words[0].load(Ordering::Acquire) == raw;
    if word.state > state::DEAD {
        let found = format!("state {}", word.state);
        look.suspect(Invariant::AsideState, place.clone(), [raw, 0], found, "0 to 5");
        return None;
    }
    let is_in_hand = matches!(word.state, state::FILLING | state::STAGED | state::CLAIMED);
    if is_in_hand && look.roll.has_left(word.holder, holds) {
        let found = format!("participant {} at {}", word.holder.participant, word.holder.incarnation);
        look.suspect(Invariant::AsideHolder, place.clone(), [raw, 0], found, "one that is registered");
    }
    if matches!(word.state, state::FREE | state::FILLING) {
        return None;
    }
    let (lane, sequence) = message(words);
    let len_bytes = words[2].load(Ordering::Relaxed) >> 32;
    let is_unknown = lane < ends.len() && ends[lane].is_none();
    let is_good = lane < core.lanes()
        && (is_unknown || sequence < core.end(lane))
        && len_bytes <= core.config().message_bytes;
    if !is_good && holds() {
        let found = format!("{len_bytes} bytes, sequence {sequence}, lane {lane}");
        let witness = [raw, sequence];
        look.suspect(
            Invariant::AsideMessage,
            place.clone(),
            witness,
            found,
            "a published message of the topic",
        );
        return None;
    }
    (word.state != state::STAGED && holds()).then_some((lane, sequence))
}
