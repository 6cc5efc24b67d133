//! The aside stores of groups: retries and dead letters.
//!
//! Checked is what the layout fixes: the measures, states, holders, what an entry says of its message, and that a message has
//! one entry. The counts of the first page are not: a census that runs while others work may leave them off by some until
//! the next one, which a group without members does not have.

use super::{Invariant, Look, Place, files};
use crate::aside::AsideFile;
use crate::group::display_name;
use crate::publisher::is_refused;
use crate::region::{Access, Region};
use crate::topic::TopicCore;
use bus_core::aside::{AsideWord, Contents, Store};
use bus_core::header::TYPE_BYTES;
use bus_core::layout::aside::{MAGIC, Shape, state};
use bus_core::layout::groups::{in_entry, kind};
use bus_core::owner::ParkedEntry;
use std::collections::HashMap;

/// Does the store of a group hold this message in this entry, or has the entry been used anew since it did? What is there
/// instead, if not.
pub(super) fn holds(
    core: &TopicCore,
    group: usize,
    lane: usize,
    sequence: u64,
    parked: ParkedEntry,
) -> Result<(), String> {
    let file = AsideFile::attach(core.dir(), group, core.epoch(), Access::Read);
    let file = file.map_err(|error| error.to_string())?.ok_or("a group without an aside store")?;
    let store = file.store(core, group).ok_or("a group that is not there")?;
    let index = usize::from(parked.index);
    if index >= store.len() {
        return Err(format!("no entry {index}"));
    }
    // What changes all the time is in use.
    let Some((word, contents)) = store.read(index) else { return Ok(()) };
    if word.tag & 0x3ff != u32::from(parked.incarnation) {
        return Ok(());
    }
    match word.state {
        // Settled, and its owner word not yet.
        state::FREE => Ok(()),
        state::FILLING => Err(format!("entry {index} is being filled")),
        _ if (usize::from(contents.lane), contents.sequence) != (lane, sequence) => {
            Err(format!("entry {index} holds message {} of lane {}", contents.sequence, contents.lane))
        }
        _ => Ok(()),
    }
}

pub(super) fn check(look: &mut Look<'_>, core: &TopicCore, ends: &[Option<u64>]) {
    for group in 0..core.groups_reserved() {
        let path = core.dir().aside(group);
        if !path.exists() {
            continue;
        }
        let place = Place::topic(core.name()).group(display_name(core, group)).file(format!("aside-{group}"));
        match Region::attach(&path, MAGIC, Access::Read, None) {
            Ok((_, preamble)) if !files::check_epoch(look, &place, preamble.epoch, core.epoch()) => continue,
            Ok(_) => {}
            Err(_) if !path.exists() => continue,
            Err(error) => {
                files::unreadable(look, place, 0, &error);
                continue;
            }
        }
        match AsideFile::attach(core.dir(), group, core.epoch(), Access::Read) {
            Ok(Some(file)) => Check { core, ends, group, file: &file }.run(look, &place),
            // The topic is being removed.
            Ok(None) => {}
            Err(error) => files::unreadable(look, place, 0, &error),
        }
    }
}

/// One store.
struct Check<'a> {
    core: &'a TopicCore,
    ends: &'a [Option<u64>],
    group: usize,
    file: &'a AsideFile,
}

impl Check<'_> {
    fn run(&self, look: &mut Look<'_>, place: &Place) {
        let shape = self.file.shape();
        let expected = Shape::new(shape.bound, self.core.config().message_bytes);
        if *shape != expected {
            let found = format!("{} and {} payload bytes", shape.inline_bytes, shape.spill_bytes);
            let witness = [shape.inline_bytes as u64, shape.spill_bytes];
            let expected = format!("{} and {}", expected.inline_bytes, expected.spill_bytes);
            return look.suspect(Invariant::AsideTable, place.clone(), witness, found, expected);
        }
        // The count before the length: the file is made longer before it is counted.
        let reserved = self.file.claims_reserved();
        let room = shape.entries_in(self.file.file_bytes());
        if reserved == 0 || reserved > room as u64 {
            let (found, expected) = (format!("{reserved} entries"), format!("1 to {room}"));
            return look.suspect(Invariant::AsideTable, place.clone(), [reserved, 0], found, expected);
        }
        let path = self.core.dir().aside(self.group);
        files::check_backed(look, place, &path, shape.footprint_bytes(reserved as usize));
        let Some(store) = self.file.store(self.core, self.group) else { return };
        let types = self.core.types().map_or(usize::MAX, |types| types.len());
        // A group without a name leaves its dead letters to the next one in its place, which may begin before them; one that
        // yields may be let go, and begin again.
        let kind_bits = self.core.group_number(self.group, in_entry::KIND);
        // Nor do publications that were refused have sequences of their own.
        let is_refused = is_refused(self.core, self.group);
        let keeps_all = !is_refused && kind_bits & (kind::EPHEMERAL | kind::YIELDS) == 0;
        let mut kept: HashMap<(u8, u64), usize> = HashMap::new();
        for index in 0..store.len() {
            let place = place.clone().entry(index as u64);
            let Some((word, contents)) = self.check_entry(look, store, (index, types), &place) else {
                continue;
            };
            if state::is_dead(word.state) && !keeps_all {
                continue;
            }
            let Some(other) = kept.insert((contents.lane, contents.sequence), index) else { continue };
            // It may have gone from the one before it came to the other.
            let still = store.read(other).is_some_and(|(word, of_other)| {
                state::is_valid(word.state)
                    && (of_other.lane, of_other.sequence) == (contents.lane, contents.sequence)
            });
            if still {
                let Contents { lane, sequence, .. } = contents;
                let found = format!("entries {other} and {index} of message {sequence} of lane {lane}");
                let witness = [word.pack(), other as u64];
                look.suspect(Invariant::AsideTwins, place, witness, found, "one entry");
            }
        }
    }

    /// The message of an entry that counts: one that is only staged counts from its commit on.
    fn check_entry(
        &self,
        look: &mut Look<'_>,
        store: Store<'_, AsideFile>,
        (index, types): (usize, usize),
        place: &Place,
    ) -> Option<(AsideWord, Contents)> {
        let word = store.look(index)?;
        let raw = word.pack();
        let holds = || store.look(index) == Some(word);
        if word.state > state::REPLAYING {
            let found = format!("state {}", word.state);
            look.suspect(Invariant::AsideState, place.clone(), [raw, 0], found, "0 to 8");
            return None;
        }
        let is_in_hand = matches!(
            word.state,
            state::FILLING | state::STAGED | state::CLAIMED | state::AMENDING | state::REPLAYING
        );
        if is_in_hand && look.roll.has_left(word.holder, holds) {
            let found = format!("participant {} at {}", word.holder.participant, word.holder.incarnation);
            look.suspect(Invariant::AsideHolder, place.clone(), [raw, 0], found, "one that is registered");
        }
        if matches!(word.state, state::FREE | state::FILLING) {
            return None;
        }
        // The contents belong to the word, or there is another by now.
        let (_, contents) = store.read(index).filter(|(again, _)| *again == word)?;
        let Contents { sequence, lane, len_bytes, kind, .. } = contents;
        let index_of_lane = usize::from(lane);
        let is_unknown = self.ends.get(index_of_lane).is_some_and(Option::is_none);
        let is_good = index_of_lane < self.core.lanes()
            && (is_unknown || sequence < self.core.end(index_of_lane) || is_refused(self.core, self.group))
            && u64::from(len_bytes) <= self.core.config().message_bytes
            && (kind == TYPE_BYTES || usize::from(kind) < types);
        if !is_good {
            let found = format!("{len_bytes} bytes of type {kind}, sequence {sequence}, lane {lane}");
            let expected = "a published message of the topic";
            look.suspect(Invariant::AsideMessage, place.clone(), [raw, sequence], found, expected);
            return None;
        }
        state::is_valid(word.state).then_some((word, contents))
    }
}
