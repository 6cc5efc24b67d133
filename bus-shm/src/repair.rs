//! What is done about the dead. Each step is one compare-and-swap that anybody may try, any number of times, after proof of
//! death; the supervisor only does it sooner. Every function here leaves a healthy topic as it was.

use crate::aside::AsideFile;
use crate::directory::{BusDir, TEMPORARY, TopicDir, unique_name};
use crate::error::{RegionError, TopicError};
use crate::lease::Participants;
use crate::listeners::{Listeners, wake_readers_after_repair};
use crate::publisher::is_refused;
use crate::region::{Access, Region};
use crate::supervisor::role;
use crate::sys::{file, futex};
use crate::topic::{Role, TopicCore};
use bus_core::aside::{AsideClaim, Counter, Table};
use bus_core::group;
use bus_core::holder::{Holder, HolderWord, producer};
use bus_core::layout::aside::state as aside;
use bus_core::layout::{PAGE_BYTES, arena, groups, ring, wake};
use bus_core::limits::PARTICIPANTS_MAX;
use bus_core::owner;
use bus_core::seq::distance;
use bus_core::sync::{AtomicU64, Ordering};
use std::path::Path;

/// What a sweep has come upon.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Swept {
    /// A topic has dead letters that nobody was told of.
    pub(crate) unannounced: bool,
    /// Somebody is to be told how many messages the dead process had in hand.
    pub(crate) is_counted: bool,
    /// How many that were.
    pub(crate) in_hand: u64,
}

/// Lets go of whatever `dead` held in `topics`: those that it has noted with its lease, or all. `goes_on` is asked before each: false if another has the role now, then the
/// rest is left to that one, and the answer is false; so it is where descriptors or memory are wanting, and then it is to be tried
/// again. `is_its` says whether the number is still the dead one's: a claim that was seen before carries no incarnation. `swept` is
/// told of dead letters that nobody was told of: members announce what they make, and this one may have ended first.
pub(crate) fn sweep(
    dir: &BusDir,
    topics: &[String],
    dead: Holder,
    goes_on: &dyn Fn() -> bool,
    is_its: &dyn Fn() -> bool,
    swept: &mut Swept,
) -> bool {
    let listeners = Listeners::attach(dir.path()).ok();
    let mut is_short = false;
    for name in topics {
        if !goes_on() {
            return false;
        }
        match TopicCore::attach(dir, name, Role::Publisher) {
            Ok(topic) => {
                if let (Some(listeners), Some(table)) = (&listeners, topic.listener_table()) {
                    table.clear(|ticket| listeners.is_of(ticket, dead));
                }
                if swept.is_counted {
                    swept.in_hand += in_hand(&topic, dead, is_its);
                }
                sweep_topic(&topic, dead, is_its);
                swept.unannounced |= has_unannounced(&topic);
            }
            // What the dead one holds there would be taken for that of the number's next owner.
            Err(TopicError::Region(RegionError::System(error))) if error.is_shortage() => is_short = true,
            // One that is damaged is reported to whoever wants to use it.
            Err(_) => {}
        }
    }
    if is_short {
        return false;
    }
    if let Some(listeners) = listeners {
        listeners.release_dead(dead);
    }
    goes_on()
}

/// Removes the topic on which the dead `participant` of this incarnation was answered. The name goes first, in one step: nobody opens it
/// any more. Then those who answer are told, and then the files go. No other registration ever has this name.
pub(crate) fn remove_reply_topic(dir: &BusDir, participant: u16, tag: u32) {
    let home = dir.topic(&crate::directory::reply_topic(participant, tag));
    let doomed = TopicDir(dir.topics().join(unique_name(TEMPORARY)));
    if file::rename_noreplace(&home.0, &doomed.0).is_err() {
        return;
    }
    if let Ok((wake, _)) = Region::attach(&doomed.wake(), wake::MAGIC, Access::Write, None) {
        if let Some(state) = wake.look32(wake::at::STATE) {
            state.fetch_or(wake::state::CLOSED, Ordering::AcqRel);
        }
        if let Some(bell) = wake.look32(wake::at::SPACE_BELL) {
            futex::wake_all(bell);
        }
    }
    let _ = file::remove_tree(&doomed.0);
}

fn sweep_topic(topic: &TopicCore, dead: Holder, is_its: &dyn Fn() -> bool) {
    for entry in 0..topic.groups_used() {
        release_group(topic, entry, dead);
        release_claims(topic, entry, |member| member == dead.participant && is_its());
        crate::keys::release_dead_seats(topic, entry, |holder| holder == dead);
        release_letters(topic, entry, dead);
    }
    for producer in 0..topic.config().producers as usize {
        retire_producer(topic, producer, dead);
    }
    reclaim_producers(topic, Keep::Retained);
    remove_half_made(topic, dead);
    // Whoever slept when the dead one published, or waits for room that has just been made, looks again.
    wake_readers_after_repair(topic);
    futex::wake_all(topic.space_bell().word());
}

/// How many messages of a topic `dead` has in hand: handed out and not finished. Claims count that name its number, as long as
/// `is_its`.
fn in_hand(topic: &TopicCore, dead: Holder, is_its: &dyn Fn() -> bool) -> u64 {
    let mut count = 0;
    for entry in 0..topic.groups_used() {
        let is_shared = topic.group_number(entry, groups::in_entry::KIND) & groups::kind::SHARED != 0;
        let seen = HolderWord::unpack(topic.group_number(entry, groups::in_entry::STATE));
        let owners = if is_shared { topic.attach_owners(entry).ok() } else { None };
        for lane in 0..topic.lanes() {
            let from = topic.group_lane_number(entry, lane, groups::in_lane::LOW_WATER);
            if let Some(owners) =
                owners.as_ref().and_then(|region| crate::group::owners_of(topic, region, lane))
            {
                let most =
                    distance(topic.end(lane), from).clamp(0, i64::from(topic.config().capacity)) as u64;
                let is_claimed = |index: &u64| {
                    let word = owners.look(from.wrapping_add(*index));
                    word.state == owner::state::CLAIMED && word.member == dead.participant
                };
                count += (0..most).filter(is_claimed).count() as u64;
            } else if !is_shared && seen.holder == dead && seen.state == groups::state::ACTIVE {
                let handed = topic.group_lane_number(entry, lane, groups::in_lane::HANDED) & (u64::MAX >> 8);
                count += distance(handed, from & (u64::MAX >> 8)).max(0) as u64;
            }
        }
        if let Some(file) = aside_of(topic, entry)
            && let Some(store) = file.store(topic, entry)
        {
            let is_held = |index: &usize| {
                let held = store.look(*index);
                held.is_some_and(|word| word.state == aside::CLAIMED && word.holder == dead)
            };
            count += (0..store.len()).filter(is_held).count() as u64;
        }
    }
    if is_its() { count } else { 0 }
}

/// Has the topic dead letters that nobody was told of?
pub(crate) fn has_unannounced(topic: &TopicCore) -> bool {
    crate::dead_letters::are_announced(topic.name())
        && (0..topic.groups_used()).any(|entry| {
            let Some(file) = aside_of(topic, entry) else { return false };
            let has_dead = file.counter(Counter::Dead).load(Ordering::Relaxed) != 0;
            has_dead && file.store(topic, entry).is_some_and(|store| store.census().unannounced > 0)
        })
}

/// What the temporary names of files begin with that `maker` makes in a topic, so that they are told from those of the living.
pub(crate) fn making_prefix(maker: Holder) -> String {
    format!("{}{}.{}-", crate::directory::TEMPORARY, maker.participant, maker.incarnation)
}

/// Files that `dead` was making in a topic and that have not got their names.
fn remove_half_made(topic: &TopicCore, dead: Holder) {
    let prefix = making_prefix(dead);
    let Ok(entries) = std::fs::read_dir(&topic.dir().0) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A group entry that `dead` held: an ephemeral one goes, a named one holds on without a member.
pub(crate) fn release_group(topic: &TopicCore, entry: usize, dead: Holder) -> bool {
    let Some(word) = topic.group_word(entry, groups::in_entry::STATE) else { return false };
    // Again while others change it: a publisher may let the group go at this moment.
    loop {
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if seen.holder != dead {
            return false;
        }
        let kind = topic.group_number(entry, groups::in_entry::KIND);
        let next = match seen.state {
            // Where a group starts that died in STARTING is not known; it never got anything.
            groups::state::JOINING | groups::state::STARTING => groups::state::FREE,
            // Whoever joins it next is told what it missed.
            groups::state::EVICTED if kind & groups::kind::EPHEMERAL == 0 => groups::state::DETACHED,
            groups::state::EVICTED => groups::state::FREE,
            // One that went away before goes on where it stood, or says what it missed.
            groups::state::REJOINING => groups::state::DETACHED,
            groups::state::RESTARTING => groups::state::ASTRAY,
            groups::state::ACTIVE if kind & groups::kind::EPHEMERAL != 0 => groups::state::FREE,
            groups::state::ACTIVE => groups::state::HELD,
            _ => return false,
        };
        if matches!(seen.state, groups::state::ACTIVE | groups::state::EVICTED) {
            settle_one_member(topic, entry, dead);
        }
        if group::change(word, seen, seen.with_state(next)).is_some() {
            if next == groups::state::HELD {
                topic.note_owner_left();
            }
            return true;
        }
    }
}

/// What a dead member of a group of one had begun to put aside is finished or undone: before the group's entry leaves its hands,
/// since a successor moves the cursor, which tells the two apart.
fn settle_one_member(topic: &TopicCore, entry: usize, dead: Holder) {
    let Some(file) = aside_of(topic, entry) else { return };
    let Some(store) = file.store(topic, entry) else { return };
    store.settle_one_member(|holder| holder == dead, |lane| passed(topic, entry, lane));
    store.census();
}

/// Entries of a group of one that `dead` had in hand without being its member: whoever purges or replays dead letters. What it
/// had staged as a member is not touched; that has been settled with the group's entry.
fn release_letters(topic: &TopicCore, entry: usize, dead: Holder) {
    if topic.group_number(entry, groups::in_entry::KIND) & groups::kind::SHARED != 0 {
        // Settled with its claims, whoever has them.
        return;
    }
    let Some(file) = aside_of(topic, entry) else { return };
    let Some(store) = file.store(topic, entry) else { return };
    // What a publisher was about to keep there has no cursor to compare with: it was not kept.
    let passed = |_| is_refused(topic, entry).then_some(0);
    if store.settle_one_member(|holder| holder == dead, passed).any() {
        store.census();
    }
}

/// Up to where a group of one has finished a lane that an entry names, be it in the backlog before its cursor.
fn passed(topic: &TopicCore, entry: usize, lane: u8) -> Option<u64> {
    let lane = usize::from(lane);
    (lane < topic.lanes()).then(|| crate::group::standing(topic, entry, lane))
}

fn aside_of(topic: &TopicCore, entry: usize) -> Option<AsideFile> {
    AsideFile::attach(topic.dir(), entry, topic.epoch(), Access::Write).ok().flatten()
}

/// A new group without a name gets an entry that another such group had: what waits there waits for nobody. Dead letters stay
/// until somebody purges them.
pub(crate) fn empty_aside(topic: &TopicCore, entry: usize, me: Holder, participants: &Participants) {
    let Some(file) = aside_of(topic, entry) else { return };
    let Some(store) = file.store(topic, entry) else { return };
    store.settle_one_member(|holder| participants.is_dead(holder), |lane| passed(topic, entry, lane));
    for index in 0..store.len() {
        let Some(word) = store.look(index) else { break };
        if let AsideClaim::Mine(held) | AsideClaim::Exhausted(held) = store.claim(index, word, me, u8::MAX) {
            file.clear(store, held, me);
        }
    }
    store.census();
}

/// What dead members of a shared group had claimed goes to others. True if there was anything. `is_dead` is asked about a
/// member after its claim was seen, so that a claim of whoever gets its number next is not meant.
fn release_claims(topic: &TopicCore, entry: usize, mut is_dead: impl FnMut(u16) -> bool) -> bool {
    if topic.group_number(entry, groups::in_entry::KIND) & groups::kind::SHARED == 0 {
        return false;
    }
    let Ok(region) = topic.attach_owners(entry) else { return false };
    let capacity = topic.config().capacity;
    let owners = |lane: u8| crate::group::owners_of(topic, &region, usize::from(lane));
    let mut changed = false;
    for lane in 0..topic.lanes() {
        let (Some(owners), Some(low_water), Some(releases)) = (
            owners(lane as u8),
            topic.group_lane_word(entry, lane, groups::in_lane::LOW_WATER),
            topic.group_lane_word(entry, lane, groups::in_lane::RELEASES),
        ) else {
            break;
        };
        let from = low_water.load(Ordering::Acquire);
        let end = topic.end(lane);
        let end = if bus_core::is_broken("claims_not_released") { from } else { end };
        for index in 0..distance(end, from).clamp(0, i64::from(capacity)) as u64 {
            let sequence = from.wrapping_add(index);
            let seen = owners.look(sequence);
            if seen.state == owner::state::CLAIMED && is_dead(seen.member) && owners.release(sequence, seen) {
                // Release: whoever sees the count sees the word RELEASED.
                releases.fetch_add(1, Ordering::Release);
                changed = true;
            }
        }
    }
    for participant in 0..PARTICIPANTS_MAX as u16 {
        let (word, _) = bus_core::layout::owners::member(participant);
        let Some(word) = region.look(bus_core::layout::owners::MEMBERS + word * 8) else { break };
        let seen = word.load(Ordering::Relaxed);
        if bus_core::layout::owners::member_count(seen, participant) != 0 && is_dead(participant) {
            // Only if nobody has changed it since: the number may have been handed on.
            let to = bus_core::layout::owners::without_members(seen, participant);
            let _ = word.compare_exchange(seen, to, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
    let file = aside_of(topic, entry);
    let store = file.as_ref().and_then(|file| file.store(topic, entry));
    if let Some(store) = store {
        changed |= store.settle_shared(|holder| is_dead(holder.participant), owners).any();
        store.census();
    }
    // The dead member may have finished the first gap, or parked it, without walking over it.
    for lane in 0..topic.lanes() {
        let low_water = topic.group_lane_word(entry, lane, groups::in_lane::LOW_WATER);
        if let (Some(owners), Some(low_water)) = (owners(lane as u8), low_water) {
            owners.walk_with(low_water, topic.end(lane), |sequence, seen| {
                store.is_some_and(|store| store.finish_parked(&owners, lane as u8, sequence, seen))
            });
        }
    }
    changed
}

/// Claims of dead members, repaired on the spot: for a member that waits for messages, or a publisher that waits for room,
/// where no supervisor has done it. True if any changed.
pub(crate) fn release_dead_claims(topic: &TopicCore, participants: &Participants) -> bool {
    let mut changed = false;
    let mut is_dead = ask_once(participants);
    for entry in 0..topic.groups_used() {
        changed |= release_dead_of(topic, entry, participants, &mut is_dead);
    }
    if changed {
        wake_readers_after_repair(topic);
    }
    changed
}

/// The same in one group.
pub(crate) fn release_dead_members(topic: &TopicCore, entry: usize, participants: &Participants) {
    if release_dead_of(topic, entry, participants, &mut ask_once(participants)) {
        wake_readers_after_repair(topic);
    }
}

fn release_dead_of(
    topic: &TopicCore,
    entry: usize,
    participants: &Participants,
    is_dead: &mut impl FnMut(u16) -> bool,
) -> bool {
    let changed = release_claims(topic, entry, is_dead);
    crate::keys::release_dead_seats(topic, entry, |holder| participants.is_dead(holder)) || changed
}

/// A process may have claimed many messages; one that lives is asked after once. That it is dead must be found out after
/// each claim was seen: the number may have been handed on since the last one.
fn ask_once(participants: &Participants) -> impl FnMut(u16) -> bool + use<'_> {
    let mut alive: Vec<u16> = Vec::new();
    move |member: u16| {
        if alive.contains(&member) {
            return false;
        }
        let dead = participants.is_vacant(member);
        if !dead {
            alive.push(member);
        }
        dead
    }
}

/// A producer entry that `dead` held: its arenas stay until everything in them is read.
fn retire_producer(topic: &TopicCore, index: usize, dead: Holder) {
    let Some(word) = topic.ring_word(ring::producer_state(index)) else { return };
    let seen = HolderWord::unpack(word.load(Ordering::Acquire));
    if seen.state == producer::LIVE && seen.holder == dead {
        retire(topic, index, word, seen);
    }
}

/// Marks a producer entry as retired, with the sequences that the gate must reach before its arenas go. The caller is its
/// holder, or has proof of that one's death.
pub(crate) fn retire(topic: &TopicCore, index: usize, word: &AtomicU64, seen: HolderWord) {
    if group::change(word, seen, seen.with_state(producer::RETIRED)).is_none() {
        return;
    }
    for lane in 0..topic.lanes() {
        if let Some(mark) = topic.ring_word(ring::producer_retire_at(index, lane)) {
            // Nothing of it is published from here on, so the end as of now covers all its messages. A mark may be left
            // of a predecessor in a one-producer lane; the later one covers both.
            mark.fetch_max(topic.end(lane).wrapping_add(1), Ordering::AcqRel);
        }
    }
}

/// Incarnations of a producer entry that have an arena for this lane.
pub(crate) fn arenas(topic: &TopicCore, index: usize, lane: usize) -> Vec<u32> {
    let (prefix, suffix) = (format!("arena-{index}."), format!("-{lane}"));
    let names = crate::directory::visible_names(&topic.dir().0);
    let parse = |name: &String| name.strip_prefix(&prefix)?.strip_suffix(&suffix)?.parse().ok();
    names.iter().filter_map(parse).collect()
}

/// Unlinks the arenas of a producer entry up to incarnation `last`. Never a later one's: whoever calls this may have been
/// stopped since it looked, and the entry may have changed hands.
fn unlink_arenas(topic: &TopicCore, index: usize, last: u32) {
    for lane in 0..topic.lanes() {
        for tag in arenas(topic, index, lane) {
            if last.wrapping_sub(tag).cast_signed() >= 0 {
                let _ = std::fs::remove_file(topic.dir().arena(index, tag, lane));
            }
        }
    }
}

/// Unlinks the arenas of an entry's former producers whose messages are no longer to be kept. Each arena has a mark of its
/// own, since producers may follow each other faster than messages go; whoever finds an arena left sets it.
fn unlink_passed_arenas(topic: &TopicCore, index: usize, current: HolderWord) {
    let of_lane = |lane| arenas(topic, index, lane).into_iter().map(move |tag| (tag, lane));
    for (tag, lane) in (0..topic.lanes()).flat_map(of_lane) {
        if current.tag.wrapping_sub(tag).cast_signed() <= 0 {
            continue;
        }
        let path = topic.dir().arena(index, tag, lane);
        let attached = Region::attach(&path, arena::MAGIC, Access::Write, Some(PAGE_BYTES));
        let Ok((region, _)) = attached else { continue };
        let Some(mark) = region.look(arena::RETIRED_AT) else { continue };
        let end = topic.end(lane);
        // Relaxed: any mark that was set after the producer had gone covers all its messages.
        let until = match mark.load(Ordering::Relaxed) {
            0 => {
                mark.store(end.wrapping_add(1), Ordering::Relaxed);
                continue;
            }
            mark => mark.wrapping_sub(1),
        };
        let oldest = end.saturating_sub(u64::from(topic.config().capacity));
        if distance(oldest, until) >= 0 && distance(topic.recompute_gate(lane), until) >= 0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Which messages of a retired producer keep its arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Those that a late reader could still ask for: everything in the ring.
    Retained,
    /// Only those that some reliable group has not finished: somebody needs the entry.
    Unread,
}

/// Frees retired producer entries, with their arenas, whose messages are no longer to be kept. Returns how many.
pub(crate) fn reclaim_producers(topic: &TopicCore, keep: Keep) -> usize {
    let mut freed = 0;
    for index in 0..topic.config().producers as usize {
        let Some(word) = topic.ring_word(ring::producer_state(index)) else { continue };
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        let marks: Vec<_> = (0..topic.lanes())
            .filter_map(|lane| topic.ring_word(ring::producer_retire_at(index, lane)))
            .collect();
        // A live producer's entry has marks only if it succeeded another whose messages were unread.
        let succeeded =
            seen.state == producer::LIVE && marks.iter().any(|mark| mark.load(Ordering::Acquire) != 0);
        if topic.config().one_producer() || succeeded {
            unlink_passed_arenas(topic, index, seen);
        }
        if seen.state != producer::RETIRED {
            continue;
        }
        let passed = marks.iter().enumerate().all(|(lane, mark)| {
            let end = topic.end(lane);
            let until = match mark.load(Ordering::Acquire) {
                // Whoever retired it died before its marks: everything up to now counts.
                0 => mark.fetch_max(end.wrapping_add(1), Ordering::AcqRel).max(end.wrapping_add(1)),
                until => until,
            }
            .wrapping_sub(1);
            let oldest = end.saturating_sub(u64::from(topic.config().capacity));
            distance(topic.recompute_gate(lane), until) >= 0
                && (keep == Keep::Unread || until == 0 || distance(oldest, until) >= 0)
        });
        if !passed {
            continue;
        }
        unlink_arenas(topic, index, seen.tag);
        for mark in &marks {
            mark.store(0, Ordering::Relaxed);
        }
        // The holder stays in the word, so that nobody takes a free entry for one of a live process.
        freed += usize::from(group::change(word, seen, seen.with_state(producer::FREE)).is_some());
    }
    freed
}

/// Group entries whose holder is dead, repaired on the spot: for a publisher that waits for room. True if any changed.
pub(crate) fn release_dead_groups(topic: &TopicCore, participants: &Participants) -> bool {
    let mut changed = false;
    for entry in 0..topic.groups_used() {
        let Some(word) = topic.group_word(entry, groups::in_entry::STATE) else { continue };
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        let has_no_holder = matches!(seen.state, groups::state::FREE | groups::state::HELD)
            || groups::state::has_let_go(seen.state);
        if !has_no_holder && participants.is_dead(seen.holder) {
            changed |= release_group(topic, entry, seen.holder);
        }
    }
    changed
}

/// Removes temporary buses of which nobody is left, and half-made or half-removed ones. Returns what was removed.
pub fn collect_garbage(dir: Option<&Path>, dry_run: bool) -> Vec<String> {
    let base = crate::directory::base_dir(dir);
    let mut removed = Vec::new();
    let Ok(entries) = std::fs::read_dir(&base) else { return removed };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let doomed = base.join(&name);
        let gone = if name.starts_with(crate::directory::DOOMED) {
            match dry_run {
                true => !role::is_doomed_in_use(&doomed),
                false => role::clear_doomed(&doomed),
            }
        } else if name.starts_with(crate::directory::TEMPORARY) {
            let gone = temporary_name_is_stale(&name);
            if gone && !dry_run {
                let _ = crate::sys::file::remove_tree(&base.join(&name));
            }
            gone
        } else if dry_run {
            BusDir::new(&name, dir).is_ok_and(|dir| crate::bus::is_abandoned(&dir))
        } else {
            BusDir::new(&name, dir).is_ok_and(|dir| crate::bus::remove_if_abandoned(&dir))
        };
        if gone {
            removed.push(name);
        }
    }
    removed
}

/// Temporary names carry the pid of their maker.
pub(crate) fn maker_pid(name: &str) -> Option<u32> {
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split('-').next().and_then(|pid| pid.parse().ok())
}

fn temporary_name_is_stale(name: &str) -> bool {
    maker_pid(name).is_none_or(|pid| crate::sys::process::start_time_ticks(pid).is_none())
}
