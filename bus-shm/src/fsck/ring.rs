//! The slots of a lane, its hint and its gate, and what the slots name.

use super::arenas::LaneArenas;
use super::groups::{self, Holding};
use super::{Invariant, Look, Place};
use crate::topic::{LaneRing, TopicCore};
use bus_core::header::WRITING;
use bus_core::layout::ring as layout;
use bus_core::ring::{mpmc, spsc};
use bus_core::seq::distance;
use bus_core::sync::Ordering;

/// Width of a slot word's lap, and where it begins.
const LAP_BITS: u32 = 34;
const LAP_SHIFT: u32 = 30;

/// A slot of which the newest message before the end is known: `sequence` of that message, or what it would be one lap before
/// the first.
#[derive(Clone, Copy)]
struct Newest {
    index: u64,
    sequence: i128,
}

/// For each slot the newest sequence before `end` that it has, or would have.
fn newest(capacity: u64, end: u64) -> impl Iterator<Item = Newest> {
    (0..capacity).map(move |index| {
        let back = end.wrapping_sub(1).wrapping_sub(index) & (capacity - 1);
        Newest { index, sequence: i128::from(end) - 1 - i128::from(back) }
    })
}

/// Checks a lane. Its end, or `None` if the slots contradict each other, so that nothing can be said about it.
pub(super) fn check(look: &mut Look<'_>, core: &TopicCore, lane: usize) -> Option<u64> {
    let ring = core.lane_ring(lane).ok()?;
    let hint_word = core.ring_word(layout::hint(lane))?;
    let gate_word = core.ring_word(layout::gate(lane))?;
    let capacity = u64::from(core.config().capacity);
    let place = || Place::topic(core.name()).lane(lane);
    // Hint and gate before the end, which bounds them and only grows.
    let (hint, gate) = (hint_word.load(Ordering::Acquire), gate_word.load(Ordering::Acquire));
    let end = ring.end(hint_word);
    let before = look.found.len();
    match ring {
        LaneRing::Mpmc(ring) => check_words(look, &place(), ring, end, || ring.end(hint_word)),
        LaneRing::Spsc(ring) => check_publications(look, &place(), ring, end, || ring.end(hint_word)),
    }
    if look.found.len() > before {
        return None;
    }
    if hint > end {
        let found = format!("hint {hint}");
        look.suspect(Invariant::RingHint, place(), [hint, 0], found, format!("at most the end, {end}"));
    }
    if gate > end {
        let found = format!("gate {gate}");
        look.suspect(Invariant::GateAhead, place(), [gate, 0], found, format!("at most the end, {end}"));
    }
    // The gate after the end: who published it had a gate that was at most a ring behind, and had raised the word to it.
    let later = gate_word.load(Ordering::Acquire);
    if later < end.saturating_sub(capacity) {
        let expected = format!("at least {}, a ring before the end", end.saturating_sub(capacity));
        look.suspect(Invariant::GateBack, place(), [later, 0], format!("gate {later}"), expected);
    } else if later < gate {
        look.saw(Invariant::GateBack, place(), format!("gate {later} after {gate}"), "never less".into());
    }
    groups::check_cursors(look, core, lane, end);
    check_messages(look, core, lane, (ring, end));
    Some(end)
}

/// The lap of a sequence in a slot word, as many bits of it as there are.
fn lap(sequence: i128, capacity: u64) -> u64 {
    (sequence.div_euclid(i128::from(capacity)) + 1) as u64 & ((1 << LAP_BITS) - 1)
}

/// Many producers. `end` was the end before the words are loaded, and `end_now` is after: a slot holds its newest message
/// before `end`, or a later one before the end of now.
fn check_words(
    look: &mut Look<'_>,
    place: &Place,
    ring: mpmc::Ring<'_>,
    end: u64,
    end_now: impl Fn() -> u64,
) {
    let capacity = ring.capacity();
    for Newest { index, sequence } in newest(capacity, end) {
        let word = ring.word(index).load(Ordering::Acquire);
        let difference = (word >> LAP_SHIFT).wrapping_sub(lap(sequence, capacity)) & ((1 << LAP_BITS) - 1);
        if difference == 0 {
            continue;
        }
        // Sign-extended from the width of the lap.
        let ahead = ((difference << LAP_SHIFT) as i64) >> LAP_SHIFT;
        let holds = sequence + i128::from(ahead) * i128::from(capacity);
        let now = end_now();
        if ahead < 0 || holds >= i128::from(now) {
            let found = format!("a word of lap {}", word >> LAP_SHIFT);
            let expected = format!("lap {} (end {now})", lap(sequence, capacity));
            look.suspect(Invariant::RingRun, place.clone().entry(index), [word, 0], found, expected);
        }
    }
}

/// One producer, likewise. A slot that is being written is the one at the end, as of some moment of the look.
fn check_publications(
    look: &mut Look<'_>,
    place: &Place,
    ring: spsc::Ring<'_>,
    end: u64,
    end_now: impl Fn() -> u64,
) {
    let capacity = i128::from(ring.capacity());
    for Newest { index, sequence } in newest(ring.capacity(), end) {
        let word = ring.slot_words(index)[0].load(Ordering::Acquire);
        let expected = if sequence < 0 { 0 } else { sequence + 1 };
        if i128::from(word) == expected {
            continue;
        }
        let now = end_now();
        let place = place.clone().entry(index);
        if word == WRITING {
            if sequence + capacity > i128::from(now) {
                let expected = format!("{expected}, as the end is {now}");
                look.suspect(
                    Invariant::RingWriting,
                    place,
                    [word, 0],
                    "a slot that is being written",
                    expected,
                );
            }
            continue;
        }
        let holds = i128::from(word) - 1;
        let is_later = holds >= sequence && (holds - sequence) % capacity == 0 && holds < i128::from(now);
        if !is_later || word == 0 {
            let found = format!("publication word {word:#x}");
            let expected = format!("{expected} (end {now})");
            look.suspect(Invariant::RingRun, place, [word, 0], found, expected);
        }
    }
}

/// Everything that some reliable group has not finished. Groups are captured before the messages are looked at; what is wrong
/// with a message counts if a group that had not finished it before has not finished it afterwards either.
fn check_messages(look: &mut Look<'_>, core: &TopicCore, lane: usize, (ring, end): (LaneRing, u64)) {
    let capacity = u64::from(core.config().capacity);
    let holding = Holding::capture(core, lane);
    let Some(lowest) = holding.iter().map(|holding| holding.low_water).min() else { return };
    let count = distance(end, lowest);
    // A cursor that is out of bounds is reported by itself.
    if !(1..=capacity as i64).contains(&count) {
        return;
    }
    // Listed after the end: payload memory is there before its first message is published.
    let mut arenas = LaneArenas::list(core, lane);
    let is_kept = |sequence| holding.iter().any(|holding| holding.keeps(core, lane, sequence));
    for sequence in (0..count as u64).map(|index| lowest.wrapping_add(index)) {
        let outcome = arenas.examine(&ring, sequence);
        if let Err(bad) = outcome
            && is_kept(sequence)
        {
            let place = Place::topic(core.name()).lane(lane).entry(sequence);
            look.suspect(bad.invariant, place, bad.witness, bad.found, bad.expected);
        }
    }
    arenas.check_overlap(look, is_kept);
}
