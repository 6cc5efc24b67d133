//! The owner words of shared groups.

use super::groups::is_still;
use super::{Invariant, Look, Place, aside, files};
use crate::group::display_name;
use crate::region::{Access, Region};
use crate::topic::TopicCore;
use bus_core::holder::HolderWord;
use bus_core::layout::groups::{in_entry, in_lane, kind, state as group_state};
use bus_core::layout::owners as layout;
use bus_core::owner::{OwnerWord, state};
use bus_core::sync::{AtomicU64, Ordering};

/// Width of a lap in an owner word.
const LAP_BITS: u32 = 27;

/// One lane of one shared group.
struct Lane<'a> {
    core: &'a TopicCore,
    entry: usize,
    lane: usize,
    capacity: u64,
    words: &'a [AtomicU64],
}

pub(super) fn check(look: &mut Look<'_>, core: &TopicCore, ends: &[Option<u64>]) {
    for entry in 0..core.groups_used() {
        let packed = core.group_number(entry, in_entry::STATE);
        let is_shared = core.group_number(entry, in_entry::KIND) & kind::SHARED != 0;
        // The words are there before the cursors are put in place.
        let has_words = group_state::holds_gate(HolderWord::unpack(packed).state);
        if !is_shared || !has_words || !is_still(core, entry, packed) {
            continue;
        }
        let place = Place::topic(core.name()).group(display_name(core, entry));
        let Some(region) = attach(look, core, entry, &place) else { continue };
        for (lane, end) in ends.iter().enumerate() {
            let capacity = core.config().capacity;
            let words = region.look_words(layout::words(lane, capacity), capacity as usize);
            // Nothing can be said of a lane whose end is not known.
            let (Some(words), Some(end)) = (words, end) else { continue };
            let lane = Lane { core, entry, lane, capacity: u64::from(capacity), words };
            lane.check(look, *end, &place);
        }
    }
}

fn attach(look: &mut Look<'_>, core: &TopicCore, entry: usize, place: &Place) -> Option<Region> {
    let path = core.dir().owners(entry);
    let place = place.clone().file(format!("owners-{entry}"));
    match Region::attach(&path, bus_core::layout::owners::MAGIC, Access::Read, None) {
        Ok((region, preamble)) => {
            let need = layout::footprint_bytes(core.lanes(), core.config().capacity);
            if !files::check_epoch(look, &place, preamble.epoch, core.epoch()) {
                return None;
            }
            if preamble.file_bytes < need {
                let why = format!("{} bytes where {need} are needed", preamble.file_bytes);
                files::unreadable(look, place, preamble.file_bytes, &why);
                return None;
            }
            files::check_backed(look, &place, &path, need);
            Some(region)
        }
        Err(error) => {
            files::unreadable(look, place, 0, &error);
            None
        }
    }
}

impl Lane<'_> {
    fn low_water(&self) -> u64 {
        self.core.group_lane_number(self.entry, self.lane, in_lane::LOW_WATER)
    }

    fn lap(&self, sequence: i128) -> u32 {
        ((sequence.div_euclid(i128::from(self.capacity)) + 1) & ((1 << LAP_BITS) - 1)) as u32
    }

    /// `end` is some end before now.
    fn check(&self, look: &mut Look<'_>, end: u64, place: &Place) {
        let place = |index: u64| place.clone().lane(self.lane).entry(index);
        // The cursor before the words: what is before it then is finished for ever.
        let start = self.core.group_lane_number(self.entry, self.lane, in_lane::START);
        let low_water = self.low_water();
        if low_water > self.core.end(self.lane) || low_water < end.saturating_sub(self.capacity) {
            // Reported by itself; nothing else fits then.
            return;
        }
        for (index, word) in self.words.iter().enumerate() {
            let raw = word.load(Ordering::Acquire);
            let seen = OwnerWord::unpack(raw);
            let index = index as u64;
            if raw == 0 {
                continue;
            }
            if seen.state > state::DONE {
                let found = format!("state {}", seen.state);
                look.suspect(Invariant::OwnerState, place(index), [raw, 0], found, "0 to 4");
                continue;
            }
            let Some(sequence) = self.sequence(index, seen.lap) else {
                let found = format!("lap {}", seen.lap);
                let expected =
                    format!("at most the lap of the newest message (end {})", self.core.end(self.lane));
                look.suspect(Invariant::OwnerLap, place(index), [raw, 0], found, expected);
                continue;
            };
            if seen.state != state::FREE && seen.attempts == 0 {
                let found = format!("state {} and no attempt", seen.state);
                look.suspect(Invariant::OwnerAttempts, place(index), [raw, 0], found, "one or more");
                continue;
            }
            if sequence < low_water {
                // A group that joined anew may have left words behind that are from before its start.
                let is_kept = sequence >= start && low_water - sequence <= self.capacity;
                if is_kept && seen.state != state::DONE {
                    let found = format!("state {} of message {sequence}, cursor {low_water}", seen.state);
                    look.suspect(Invariant::OwnerBelow, place(index), [raw, 0], found, "4, finished");
                }
                continue;
            }
            self.check_open(look, (word, raw), sequence, place(index));
        }
        self.check_walk(look, place(low_water));
    }

    /// A word of a message that is not before the cursor, or was not a moment ago.
    fn check_open(&self, look: &mut Look<'_>, (word, raw): (&AtomicU64, u64), sequence: u64, place: Place) {
        let seen = OwnerWord::unpack(raw);
        let holds = || word.load(Ordering::Acquire) == raw && self.low_water() <= sequence;
        match seen.state {
            state::CLAIMED if look.roll.number_has_left(seen.member, holds) => {
                let found = format!("message {sequence} in the hands of participant {}", seen.member);
                look.suspect(Invariant::OwnerMember, place, [raw, 0], found, "one that is registered");
            }
            state::PARKED => {
                let is_there = aside::holds(self.core, self.entry, self.lane, sequence, seen.parked_entry());
                if let Err(found) = is_there
                    && holds()
                {
                    let expected = format!("message {sequence} of lane {}", self.lane);
                    look.suspect(Invariant::OwnerParked, place, [raw, 0], found, expected);
                }
            }
            _ => {}
        }
    }

    /// The newest sequence of this lap that is published and has this slot; `None` if the lap is beyond all. The end is
    /// loaded after the word: what is claimed has been published before.
    fn sequence(&self, index: u64, lap: u32) -> Option<u64> {
        let end = self.core.end(self.lane);
        let back = end.wrapping_sub(1).wrapping_sub(index) & (self.capacity - 1);
        let newest = i128::from(end) - 1 - i128::from(back);
        let behind = self.lap(newest).wrapping_sub(lap) & ((1 << LAP_BITS) - 1);
        // Laps wrap: the half before is older, the half behind not yet.
        let is_older = behind < 1 << (LAP_BITS - 1);
        let sequence = newest - i128::from(behind) * i128::from(self.capacity);
        (is_older && sequence >= 0).then_some(sequence as u64)
    }

    /// A finished message at the cursor: somebody is between finishing it and moving the cursor, or nobody moves it any more.
    fn check_walk(&self, look: &mut Look<'_>, place: Place) {
        let low_water = self.low_water();
        let word = &self.words[(low_water & (self.capacity - 1)) as usize];
        let raw = word.load(Ordering::Acquire);
        let seen = OwnerWord::unpack(raw);
        let is_done = seen.state == state::DONE && seen.lap == self.lap(i128::from(low_water));
        let is_published = low_water < self.core.end(self.lane);
        // Whoever is asleep is not between the two, so the cursor has moved by then.
        if is_done && is_published && look.roll.is_quiet() && self.low_water() == low_water {
            let found = format!("cursor {low_water} at a finished message");
            look.suspect(Invariant::OwnerWalk, place, [raw, low_water], found, "a cursor beyond it");
        }
    }
}
