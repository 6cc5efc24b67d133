//! Who takes part: the participant table, the leases, and the question that other checks ask, whether a holder has left.

use super::{Invariant, Look, Place};
use crate::directory::{BusDir, TEMPORARY};
use crate::lease::{Participants, entry_offset};
use crate::region::{Access, Region};
use crate::sys::file;
use bus_core::holder::{Holder, HolderWord, participant};
use bus_core::layout::superblock::{self, at, told};
use bus_core::limits::PARTICIPANTS_MAX;
use bus_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;

/// The superblock, if it can be read, and the table in it.
pub(super) struct Roll {
    open: Option<(Arc<Region>, Participants)>,
}

impl Roll {
    pub(super) fn open(dir: &BusDir) -> Self {
        let most = superblock::footprint_bytes(PARTICIPANTS_MAX as usize);
        let attached = Region::attach(&dir.superblock(), superblock::MAGIC, Access::Read, Some(most));
        let open = attached.ok().map(|(region, _)| {
            let region = Arc::new(region);
            (region.clone(), Participants::new(region, dir.clone()))
        });
        Self { open }
    }

    pub(super) fn superblock(&self) -> Option<&Region> {
        self.open.as_ref().map(|(region, _)| &**region)
    }

    /// A word of the superblock.
    pub(super) fn word(&self, offset_bytes: usize) -> Option<&AtomicU64> {
        self.superblock()?.look(offset_bytes)
    }

    /// Entries backed by memory; `None` without a superblock.
    fn reserved(&self) -> Option<u16> {
        self.open.as_ref().map(|(_, participants)| participants.reserved())
    }

    fn entry(&self, number: u16) -> Option<HolderWord> {
        let word = self.word(entry_offset(number) as usize)?;
        // Acquire: pairs with the Release that frees the entry; what its former owner held has been repaired before.
        Some(HolderWord::unpack(word.load(Ordering::Acquire)))
    }

    /// Is this number nobody's? Everything that its last owner held has then been repaired.
    fn is_free(&self, number: u16) -> bool {
        match self.reserved() {
            None => false,
            Some(reserved) if number >= reserved => true,
            Some(_) => self.entry(number).is_some_and(|word| word.state == participant::FREE),
        }
    }

    /// Does a word name a holder whose registration is over, repair included? `holds` tells whether it still does: a number is
    /// freed only after all that its owner held was repaired, so a word that names it before and after is wrong.
    pub(super) fn has_left(&self, holder: Holder, holds: impl Fn() -> bool) -> bool {
        let is_over = || {
            let Some(reserved) = self.reserved() else { return false };
            if holder.participant >= reserved {
                return true;
            }
            self.entry(holder.participant).is_some_and(|word| match word.state {
                participant::FREE => true,
                participant::LIVE | participant::SWEEPING => {
                    Holder::new(holder.participant, u64::from(word.tag)) != holder
                }
                // Reported by itself.
                _ => false,
            })
        };
        is_over() && holds()
    }

    /// The same for a word that names a number without its incarnation: the entry must be free for as long as that takes.
    pub(super) fn number_has_left(&self, number: u16, holds: impl Fn() -> bool) -> bool {
        let before = self.entry(number);
        self.is_free(number) && holds() && self.is_free(number) && self.entry(number) == before
    }

    /// Does nobody move? All who take part are asleep, and nobody is dead whose repair is due.
    pub(super) fn is_quiet(&self) -> bool {
        let Some((_, participants)) = &self.open else { return false };
        let is_sweeping = |number| self.entry(number).is_some_and(|word| word.state == participant::SWEEPING);
        !(0..participants.reserved()).any(is_sweeping)
            && participants
                .all()
                .iter()
                .all(|info| !participants.is_gone(info) && participants.is_asleep(info))
    }
}

pub(super) fn check(look: &mut Look<'_>) {
    check_table(look);
    let Some(reserved) = look.roll.reserved() else { return };
    let mut registered = false;
    for number in 0..reserved {
        // Before the entry's word, whose incarnation only grows.
        let told = told_of(look, number);
        let Some(word) = look.roll.entry(number) else { break };
        check_told(look, number, told, word.tag);
        registered |= word.tag != 0;
        let place = Place::bus().file("bus").entry(u64::from(number));
        if word.state > participant::QUARANTINED {
            let (found, expected) = (format!("state {}", word.state), "0 to 4");
            look.suspect(Invariant::ParticipantState, place, [word.pack(), 0], found, expected);
            continue;
        }
        if matches!(word.state, participant::REGISTERING | participant::QUARANTINED) {
            // It names whoever fills it, and nobody reads what it says.
            continue;
        }
        let own = Holder::new(number, u64::from(word.tag));
        if word.state != participant::FREE && word.holder != own {
            let (found, expected) = (format!("{:?}", word.holder), format!("{own:?}"));
            look.suspect(Invariant::ParticipantNumber, place, [word.pack(), 0], found, expected);
            continue;
        }
        check_lease(look, number, word, place);
    }
    // The epoch last: it is raised before anybody registers, and only grows.
    let epoch = look.roll.word(at::ROLE_EPOCH).map_or(1, |epoch| epoch.load(Ordering::Acquire));
    if registered && epoch == 0 {
        look.suspect(
            Invariant::RoleEpoch,
            Place::bus().file("bus"),
            [0; 2],
            "epoch 0 and a registration",
            "1 or more",
        );
    }
    check_stray_leases(look);
    check_reply_topics(look);
}

/// Topics of requesters that take part no more. A sweep removes the topic before it frees the entry.
fn check_reply_topics(look: &mut Look<'_>) {
    for name in crate::directory::visible_names(&look.dir.topics()) {
        let Some((number, tag)) = bus_core::name::reply_topic_of(&name) else { continue };
        let entry = look.roll.entry(number);
        let is_its = entry.is_some_and(|word| {
            word.tag == tag && matches!(word.state, participant::LIVE | participant::SWEEPING)
        });
        // The name last, as above.
        if !is_its && look.dir.topics().join(&name).exists() {
            let witness = [bus_core::name::key(&name), entry.map_or(0, HolderWord::pack)];
            let found = entry.map_or("no participant of that number".into(), |word| {
                format!("participant at incarnation {}, state {}", word.tag, word.state)
            });
            let place = Place::bus().file(format!("topics/{name}"));
            look.suspect(Invariant::ReplyTopic, place, witness, found, "the participant of that incarnation");
        }
    }
}

/// Incarnations that the entry's words about events name.
fn told_of(look: &Look<'_>, number: u16) -> [u32; 3] {
    let word = |offset: usize| {
        let word = look.roll.word(entry_offset(number) as usize + offset);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    };
    [word(told::JOINED) as u32, (word(told::ENDED) >> 32) as u32, word(told::END) as u32]
}

fn check_told(look: &mut Look<'_>, number: u16, told: [u32; 3], tag: u32) {
    if let Some(&later) = told.iter().find(|&&told| told.wrapping_sub(tag).cast_signed() > 0) {
        let place = Place::bus().file("bus").entry(u64::from(number));
        let (found, expected) = (format!("incarnation {later}"), format!("at most {tag}"));
        look.suspect(Invariant::ParticipantTold, place, [u64::from(later), u64::from(tag)], found, expected);
    }
}

fn check_table(look: &mut Look<'_>) {
    // The file last: entries are backed by memory before they are counted.
    let Some(count) = look.roll.word(at::PARTICIPANTS_RESERVED).map(|word| word.load(Ordering::Acquire))
    else {
        return;
    };
    let bytes = look.roll.superblock().map_or(0, Region::file_bytes);
    let fits = count <= u64::from(PARTICIPANTS_MAX) && superblock::footprint_bytes(count as usize) <= bytes;
    if !fits {
        let expected = format!("at most {PARTICIPANTS_MAX}, and what fits into {bytes} bytes");
        let place = Place::bus().file("bus");
        look.suspect(Invariant::ParticipantTable, place, [count, 0], format!("{count} entries"), expected);
    }
}

/// A LIVE entry names the inode of its lease file, which goes only after the entry is no longer LIVE.
fn check_lease(look: &mut Look<'_>, number: u16, word: HolderWord, place: Place) {
    let live = look.roll.open.as_ref().and_then(|(_, participants)| participants.live(number));
    let Some(info) = live.filter(|info| info.tag == word.tag) else { return };
    let path = look.dir.lease(number, info.tag);
    let found = file::open_ro(&path).and_then(|lease| file::inode(&lease)).ok();
    if found != Some(info.lease_inode()) && look.roll.entry(number) == Some(word) {
        let found_text = found.map_or_else(|| "no such file".into(), |inode| format!("inode {inode}"));
        let expected = format!("{}.{} with inode {}", number, info.tag, info.lease_inode());
        let witness = [word.pack(), found.unwrap_or(0)];
        look.suspect(Invariant::ParticipantLease, place, witness, found_text, expected);
    }
}

/// Lease files of nobody. A registration names the file before the entry counts, and may be cut off there; a sweep removes
/// the file before it frees the entry.
fn check_stray_leases(look: &mut Look<'_>) {
    for name in crate::directory::visible_names(&look.dir.leases()) {
        debug_assert!(!name.starts_with(TEMPORARY));
        let parsed = name
            .split_once('.')
            .and_then(|(number, tag)| Some((number.parse::<u16>().ok()?, tag.parse::<u32>().ok()?)));
        let entry = parsed.and_then(|(number, _)| look.roll.entry(number));
        let is_known = match (parsed, entry) {
            (Some((_, tag)), Some(word)) if word.state == participant::FREE => {
                tag == word.tag.wrapping_add(1)
            }
            (Some((_, tag)), Some(word)) => tag == word.tag,
            // The first entry of a page that has just been added.
            (Some((_, tag)), None) => tag == 1,
            (None, _) => false,
        };
        // The name last: it may have gone with its participant since the directory was read.
        if !is_known && look.dir.leases().join(&name).exists() {
            let witness = [bus_core::name::key(&name), entry.map_or(0, HolderWord::pack)];
            let found = entry.map_or("no participant of that number".into(), |word| {
                format!("participant at incarnation {}, state {}", word.tag, word.state)
            });
            let place = Place::bus().file(format!("leases/{name}"));
            look.suspect(Invariant::LeaseStray, place, witness, found, "the participant of that incarnation");
        }
    }
}
