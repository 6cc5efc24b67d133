//! The group table: entries, names, and cursors.

use super::{Invariant, Look, Place};
use crate::group::display_name;
use crate::topic::TopicCore;
use bus_core::group::Handed;
use bus_core::holder::HolderWord;
use bus_core::layout::groups::{KEY_EPHEMERAL, in_entry, in_lane, kind, state};
use bus_core::name::key;
use bus_core::seq::distance;
use std::collections::HashMap;

/// Bits of a kind word that mean something: flags, attempts, seconds, milliseconds.
const KIND_BITS: u64 = kind::EPHEMERAL | kind::SHARED | kind::KEYED | COPIES | !0 << 8;
/// Groups whose member copies what it reads, since it may be let go.
const COPIES: u64 = kind::YIELDS | kind::LETS_GO;

/// A group that keeps messages in a lane, as it was at one moment.
pub(super) struct Holding {
    entry: usize,
    word: u64,
    pub(super) low_water: u64,
}

impl Holding {
    /// The groups whose members read in place what their cursor has not passed. One in STARTING does not know yet where it
    /// begins; one that yields reads copies, and may have gone back to what was no longer kept when it joined.
    pub(super) fn capture(core: &TopicCore, lane: usize) -> Vec<Self> {
        (0..core.groups_used())
            .filter_map(|entry| {
                let word = core.group_number(entry, in_entry::STATE);
                let bits = core.group_number(entry, in_entry::KIND);
                let low_water = core.group_lane_number(entry, lane, in_lane::LOW_WATER);
                let reads = matches!(HolderWord::unpack(word).state, state::ACTIVE | state::HELD);
                (reads && bits & COPIES == 0 && is_still(core, entry, word)).then_some(Self {
                    entry,
                    word,
                    low_water,
                })
            })
            .collect()
    }

    /// Did it keep a message then, and does it still?
    pub(super) fn keeps(&self, core: &TopicCore, lane: usize, sequence: u64) -> bool {
        distance(sequence, self.low_water) >= 0
            && distance(sequence, core.group_lane_number(self.entry, lane, in_lane::LOW_WATER)) >= 0
            && is_still(core, self.entry, self.word)
    }
}

/// Is an entry in the same hands and in the same state as before?
pub(super) fn is_still(core: &TopicCore, entry: usize, word: u64) -> bool {
    core.group_number(entry, in_entry::STATE) == word
}

pub(super) fn check(look: &mut Look<'_>, core: &TopicCore) {
    let mut keys: HashMap<u64, usize> = HashMap::new();
    for entry in 0..core.groups_reserved() {
        let packed = core.group_number(entry, in_entry::STATE);
        let word = HolderWord::unpack(packed);
        let name = display_name(core, entry);
        let place = Place::topic(core.name()).group(name.clone()).entry(entry as u64);
        if word.state > state::ASTRAY {
            let found = format!("state {}", word.state);
            look.suspect(Invariant::GroupState, place, [packed, 0], found, "0 to 9");
            continue;
        }
        check_key(look, core, entry, (&place, &name), &mut keys);
        if word.state == state::FREE {
            continue;
        }
        look.groups += 1;
        // Counted after its state was seen: an entry is counted before it is taken, and stays so.
        if entry >= core.groups_used() {
            let found = format!("state {}, {} entries in use", word.state, core.groups_used());
            look.suspect(Invariant::GroupUncounted, place, [packed, 0], found, "a free entry");
            continue;
        }
        check_hands(look, core, entry, word, &place);
    }
}

/// A key is set once, and stays. A name is written after it, by whoever set it.
fn check_key(
    look: &mut Look<'_>,
    core: &TopicCore,
    entry: usize,
    (place, name): (&Place, &str),
    keys: &mut HashMap<u64, usize>,
) {
    let found = core.group_number(entry, in_entry::KEY);
    if found == 0 || found == KEY_EPHEMERAL {
        let word = core.group_number(entry, in_entry::STATE);
        let is_free = HolderWord::unpack(word).state == state::FREE;
        if found == 0 && !is_free && core.group_number(entry, in_entry::KEY) == 0 {
            look.suspect(
                Invariant::GroupKey,
                place.clone(),
                [word, 0],
                "an entry in use without a key",
                "one",
            );
        }
        return;
    }
    if let Some(other) = keys.insert(found, entry) {
        let (found, witness) = (format!("entries {other} and {entry} of one name"), [found, entry as u64]);
        look.suspect(Invariant::GroupTwins, place.clone(), witness, found, "one entry");
        return;
    }
    let word = core.group_number(entry, in_entry::STATE);
    // A free entry may be between its key and its name, for as long as its process likes.
    if HolderWord::unpack(word).state != state::FREE && key(name) != found {
        let text = format!("key {found:#x}, name {name:?}");
        let expected = format!("key {:#x}", key(name));
        look.suspect(Invariant::GroupKey, place.clone(), [found, key(name)], text, expected);
    }
}

/// What holds for an entry in use, while it stays in the same hands.
fn check_hands(look: &mut Look<'_>, core: &TopicCore, entry: usize, word: HolderWord, place: &Place) {
    let packed = word.pack();
    let still = || is_still(core, entry, packed);
    let is_held = matches!(word.state, state::ACTIVE | state::EVICTED)
        || state::is_joining(word.state)
        || state::is_starting(word.state);
    if is_held && look.roll.has_left(word.holder, still) {
        let found = format!("participant {} at {}", word.holder.participant, word.holder.incarnation);
        look.suspect(Invariant::GroupHolder, place.clone(), [packed, 0], found, "one that is registered");
    }
    // Who is joining is still writing the rest.
    if state::is_joining(word.state) {
        return;
    }
    let bits = core.group_number(entry, in_entry::KIND);
    let is_nameless = core.group_number(entry, in_entry::KEY) == KEY_EPHEMERAL;
    let (ephemeral, shared, yields) =
        (bits & kind::EPHEMERAL != 0, bits & kind::SHARED != 0, bits & kind::YIELDS != 0);
    let lets_go = bits & kind::LETS_GO != 0;
    let is_possible = bits & !KIND_BITS == 0
        && ephemeral == is_nameless
        && (shared || bits & kind::KEYED == 0)
        && !(lets_go && (shared || yields))
        && match (shared, ephemeral, yields) {
            (true, ephemeral, yields) => !ephemeral && !yields,
            (false, ephemeral, yields) => ephemeral || !yields,
        };
    if !is_possible && still() {
        let found = format!("kind {bits:#x}{}", if is_nameless { " without a name" } else { "" });
        look.suspect(Invariant::GroupKind, place.clone(), [packed, bits], found, "a kind that exists");
    } else if word.state == state::EVICTED && !yields && !lets_go && still() {
        let found = format!("let go, kind {bits:#x}");
        look.suspect(Invariant::GroupEvicted, place.clone(), [packed, bits], found, "a group that yields");
    }
}

/// Cursors of all groups in a lane whose slots are in order. `end` was the end before.
pub(super) fn check_cursors(look: &mut Look<'_>, core: &TopicCore, lane: usize, end: u64) {
    let capacity = u64::from(core.config().capacity);
    for entry in 0..core.groups_used() {
        let packed = core.group_number(entry, in_entry::STATE);
        let word = HolderWord::unpack(packed);
        if !state::holds_gate(word.state) {
            continue;
        }
        let bits = core.group_number(entry, in_entry::KIND);
        let low_water = core.group_lane_number(entry, lane, in_lane::LOW_WATER);
        let handed = Handed::unpack(core.group_lane_number(entry, lane, in_lane::HANDED)).end;
        let marked = core.group_lane_number(entry, lane, in_lane::MARKED);
        // The state before and after, so that the cursor is that of a group that held then; the end, an upper bound that
        // only grows, after the cursor.
        let now = core.end(lane);
        if !is_still(core, entry, packed) {
            continue;
        }
        let place =
            || Place::topic(core.name()).lane(lane).group(display_name(core, entry)).entry(entry as u64);
        if low_water > now {
            let expected = format!("at most the end, {now}");
            let found = format!("cursor {low_water}");
            look.suspect(Invariant::GroupAhead, place(), [packed, low_water], found, expected);
            continue;
        }
        // Before it knows where it begins, a group may stand where nothing is any more; and one that yields copies, and goes
        // back to whatever it finds.
        let is_bounded = !state::is_starting(word.state) && bits & COPIES == 0;
        if is_bounded && low_water < end.saturating_sub(capacity) {
            let expected = format!("at least {}, a ring before the end", end.saturating_sub(capacity));
            let found = format!("cursor {low_water}");
            look.suspect(Invariant::GroupBehind, place(), [packed, low_water], found, expected);
        }
        // What the joiner has not cleared yet may be of another group.
        if !state::is_starting(word.state) && (handed > now || marked > now) {
            let found = format!("handed out to {handed}, marked to {marked}");
            let expected = format!("at most the end, {now}");
            look.suspect(Invariant::GroupHanded, place(), [handed, marked], found, expected);
        }
    }
}
