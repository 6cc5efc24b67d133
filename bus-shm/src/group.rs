//! Finding, making and taking over the entry of a group in a topic's group table.
#![allow(unsafe_code)]

use crate::bus::BusInner;
use crate::error::{AttachError, RegionError};
use crate::keys::KeysFile;
use crate::region::{Region, reserve};
use crate::repair;
use crate::sys::clock;
use crate::topic::TopicCore;
use bus_core::group::{self, Handed, LaneJoin};
use bus_core::holder::{Holder, HolderWord};
use bus_core::layout::groups::{self, KEY_EPHEMERAL, in_entry, in_lane, kind, stall, state};
use bus_core::layout::{PAGE_BYTES, Preamble, owners};
use bus_core::limits::{ACK_WAIT_DEFAULT_MS, ATTEMPTS_DEFAULT, GROUP_NAME_BYTES_MAX, GROUPS_MAX};
use bus_core::name::{check_dotted, key};
use bus_core::owner::Owners;
use bus_core::seq::distance;
use bus_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    /// `None`: a group of its own, without a name.
    pub(crate) name: Option<&'a str>,
    pub(crate) shared: bool,
    /// All messages of a key go to one member. Only with `shared`.
    pub(crate) keyed: bool,
    /// Lets go when it has held others back for this long.
    pub(crate) yields: Option<Duration>,
    /// How long a member of a shared group may be silent, if the group is made now.
    pub(crate) ack_wait: Option<Duration>,
    /// Where each lane would begin.
    pub(crate) wished: Vec<u64>,
    /// A group that let go while nobody read goes on where it stood, instead of there.
    pub(crate) goes_on: bool,
}

/// Where a group stands in a lane when a member takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneStand {
    /// Where its member begins to read: perhaps with messages that are there and not kept.
    pub(crate) begin: u64,
    /// The first sequence that is kept for the group.
    pub(crate) kept_from: u64,
    /// What was handed out last.
    pub(crate) handed: Handed,
    /// Messages before it have been handed out before.
    pub(crate) marked: u64,
}

impl LaneStand {
    /// A position at which nothing has been handed out.
    pub(crate) fn new(kept_from: u64) -> Self {
        Self { begin: kept_from, kept_from, handed: Handed::unpack(0), marked: 0 }
    }
}

/// A group entry that this process has joined.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) entry: usize,
    pub(crate) word: HolderWord,
    /// For each lane where it stands.
    pub(crate) lanes: Vec<LaneStand>,
}

/// How the group is called in listings.
pub(crate) fn display_name(core: &TopicCore, entry: usize) -> String {
    if core.group_number(entry, in_entry::KEY) == KEY_EPHEMERAL {
        format!("~{entry}")
    } else {
        core.group_name(entry)
    }
}

/// What a new named group is like.
pub(crate) fn kind_bits(shared: bool, keyed: bool) -> u64 {
    let bits = if shared { kind::SHARED } else { 0 } | if keyed { kind::KEYED } else { 0 };
    kind::with_ack_wait_ms(kind::with_attempts_max(bits, ATTEMPTS_DEFAULT), ACK_WAIT_DEFAULT_MS)
}

/// A wait as a group keeps it; what is not zero does not become it.
pub(crate) fn ack_wait_ms(wait: Duration) -> u32 {
    wait.as_nanos().div_ceil(1_000_000).min(u128::from(u32::MAX)) as u32
}

/// How long to wait for another process that is putting the group's cursors in place.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long it tries where others always come first.
const JOIN_MOST: Duration = Duration::from_secs(30);

/// A seat that was taken, and, of a shared group, where its member was counted.
type Taken = (Joined, Option<Region>);

/// What came of an attempt to take a seat.
enum Attempt {
    Taken(Taken),
    /// Another process is joining, or has changed the entry: it was found like this.
    Found(HolderWord),
}

fn join(bus: &BusInner, core: &TopicCore, wanted: &Wanted<'_>) -> Result<Taken, AttachError> {
    if let Some(name) = wanted.name {
        check_dotted(name, GROUP_NAME_BYTES_MAX)
            .map_err(|why| AttachError::GroupName { name: name.into(), why })?;
        if name == crate::publisher::REFUSED {
            let theirs = "kept by the bus, for publications that were refused";
            return Err(AttachError::GroupKind { topic: core.name().into(), group: name.into(), theirs });
        }
    }
    let Some(name) = wanted.name else { return join_ephemeral(bus, core, wanted) };
    // How the entry was found, and since when. This process may itself have stood still meanwhile, so what counts is that the entry is
    // still the same in a look that began when the time was over.
    let mut before: Option<(HolderWord, Instant)> = None;
    let first = Instant::now();
    loop {
        let begun = Instant::now();
        let found = match try_named(bus, core, wanted, name)? {
            Attempt::Taken(taken) => return Ok(taken),
            Attempt::Found(found) => found,
        };
        if begun.saturating_duration_since(first) > JOIN_MOST {
            return Err(busy_joining(core, name));
        }
        match before {
            Some((same, since)) if same == found => {
                if begun.saturating_duration_since(since) > JOIN_PATIENCE {
                    return Err(busy_joining(core, name));
                }
            }
            _ => before = Some((found, Instant::now())),
        }
        std::thread::yield_now();
    }
}

/// An entry that others take is passed over for the next, so an attempt fails only where this process is thought dead.
fn join_ephemeral(bus: &BusInner, core: &TopicCore, wanted: &Wanted<'_>) -> Result<Taken, AttachError> {
    let begun = Instant::now();
    loop {
        if let Some(joined) = try_ephemeral(bus, core, wanted)? {
            return Ok((joined, None));
        }
        if begun.elapsed() > JOIN_PATIENCE {
            return Err(busy_joining(core, ""));
        }
        std::thread::yield_now();
    }
}

fn busy_joining(core: &TopicCore, group: &str) -> AttachError {
    AttachError::GroupBusy {
        topic: core.name().into(),
        group: group.into(),
        pid: 0,
        service: "a process that is joining".into(),
    }
}

fn word_of(core: &TopicCore, entry: usize, offset: usize) -> Result<&AtomicU64, AttachError> {
    core.group_word(entry, offset)
        .ok_or_else(|| AttachError::GroupLimit { topic: core.name().into(), max: GROUPS_MAX as usize })
}

/// Makes sure that `entry` is backed by memory and counted as used.
fn back(core: &TopicCore, entry: usize) -> Result<(), AttachError> {
    if entry >= GROUPS_MAX as usize {
        return Err(AttachError::GroupLimit { topic: core.name().into(), max: GROUPS_MAX as usize });
    }
    let region = core.groups_region();
    if entry >= core.groups_reserved() {
        let have = groups::footprint_bytes(core.groups_reserved()).next_multiple_of(PAGE_BYTES);
        let bytes = groups::footprint_bytes(entry + 1).next_multiple_of(PAGE_BYTES);
        let more = bytes.saturating_sub(have).max(PAGE_BYTES);
        region.with_file(|file| reserve(file, region.path(), have, more))??;
        let fit = (bytes as usize - groups::at::ENTRIES) / groups::ENTRY_BYTES;
        if let Some(reserved) = region.look(groups::at::RESERVED) {
            reserved.fetch_max(fit as u64, Ordering::AcqRel);
        }
    }
    if let Some(used) = region.look(groups::at::USED) {
        // AcqRel: a gate scan that does not count this entry yet began before the join raises the generation.
        used.fetch_max(entry as u64 + 1, Ordering::AcqRel);
    }
    Ok(())
}

fn try_ephemeral(
    bus: &BusInner,
    core: &TopicCore,
    wanted: &Wanted<'_>,
) -> Result<Option<Joined>, AttachError> {
    for entry in 0..GROUPS_MAX as usize {
        if entry >= core.groups_reserved() {
            back(core, entry)?;
        }
        let key = word_of(core, entry, in_entry::KEY)?;
        let found = key.compare_exchange(0, KEY_EPHEMERAL, Ordering::AcqRel, Ordering::Acquire);
        if !matches!(found, Ok(_) | Err(KEY_EPHEMERAL)) {
            continue;
        }
        back(core, entry)?;
        let word = word_of(core, entry, in_entry::STATE)?;
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if seen.state != state::FREE && bus.participants().is_dead(seen.holder) {
            repair::release_group(core, entry, seen.holder);
        }
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if let Some(reserved) = group::reserve(word, seen, bus.me()) {
            // The group that had the entry before is gone, and with it what waited for it.
            repair::empty_aside(core, entry, bus.me(), bus.participants());
            let _ = std::fs::remove_file(core.dir().outcomes(entry));
            let mut bits = kind::with_attempts_max(kind::EPHEMERAL, ATTEMPTS_DEFAULT);
            if let Some(limit) = wanted.yields {
                bits |= kind::YIELDS | (limit.as_millis().min(u128::from(u32::MAX)) as u64) << 32;
            }
            return place(core, entry, word, reserved, (bits, false), wanted).inspect_err(|_| {
                group::change(word, reserved, reserved.with_state(state::FREE));
            });
        }
    }
    Err(AttachError::GroupLimit { topic: core.name().into(), max: GROUPS_MAX as usize })
}

/// Finds the entry of a name: the first with its key, or the first that has none. Everybody looks in the same order and
/// keys stay, so two who look for one name at the same time find one entry.
pub(crate) fn find_named(core: &TopicCore, name: &str) -> Result<usize, AttachError> {
    let wanted = key(name);
    for entry in 0..GROUPS_MAX as usize {
        if entry >= core.groups_reserved() {
            back(core, entry)?;
        }
        let word = word_of(core, entry, in_entry::KEY)?;
        match word.compare_exchange(0, wanted, Ordering::AcqRel, Ordering::Acquire) {
            Err(found) if found != wanted => {}
            _ => {
                back(core, entry)?;
                // Also where the key is there already: whoever put it there may have died before the name.
                if core.group_name(entry) != name {
                    let at = groups::entry(entry) + in_entry::NAME;
                    core.groups_region().write(at as u64, &bus_core::layout::put_name::<64>(name))?;
                }
                return Ok(entry);
            }
        }
    }
    Err(AttachError::GroupLimit { topic: core.name().into(), max: GROUPS_MAX as usize })
}

fn try_named(
    bus: &BusInner,
    core: &TopicCore,
    wanted: &Wanted<'_>,
    name: &str,
) -> Result<Attempt, AttachError> {
    let entry = find_named(core, name)?;
    let word = word_of(core, entry, in_entry::STATE)?;
    let seen = HolderWord::unpack(word.load(Ordering::Acquire));
    let mut bits = kind_bits(wanted.shared, wanted.keyed);
    if let Some(wait) = wanted.ack_wait {
        bits = kind::with_ack_wait_ms(bits, ack_wait_ms(wait));
    }
    let theirs = core.group_number(entry, in_entry::KIND);
    let is_of_another_kind = (theirs ^ bits) & kind::KINDS != 0;
    if state::has_let_go(seen.state) && !is_of_another_kind {
        bits = theirs;
    }
    if matches!(seen.state, state::ACTIVE | state::HELD) && is_of_another_kind {
        let theirs = match theirs & kind::KINDS {
            0 => "a group of one member",
            kind::SHARED => "shared by many members, and not keyed",
            _ => "keyed: shared by many members, all messages of a key going to one of them",
        };
        return Err(AttachError::GroupKind { topic: core.name().into(), group: name.into(), theirs });
    }
    if (seen.state == state::HELD || state::has_let_go(seen.state))
        && !is_of_another_kind
        && wanted.ack_wait.is_some_and(|wait| wait.is_zero() != (kind::ack_wait_ms(theirs) == 0))
        && wanted.shared
    {
        return Err(AttachError::AckWait { topic: core.name().into(), group: name.into() });
    }
    let taken = match seen.state {
        state::FREE | state::DETACHED | state::ASTRAY => {
            enter(bus, core, wanted, (entry, word), (seen, bits))?
        }
        state::HELD if wanted.shared => {
            // Counted before the word changes: a publisher that would let a group without members go has seen the word before
            // it counts them, and one of the two steps fails.
            let owners = count_member(core, entry, bus.me())?;
            match group::change(word, seen, seen.next(state::HELD, bus.me())) {
                Some(mine) => Some((resume(core, entry, mine), Some(owners))),
                None => {
                    discount_member(core, &owners, bus.me());
                    None
                }
            }
        }
        state::HELD => group::change(word, seen, seen.next(state::ACTIVE, bus.me()))
            .map(|mine| (resume(core, entry, mine), None)),
        _ if !bus.participants().is_dead(seen.holder) => {
            if !state::is_joining(seen.state) && !state::is_starting(seen.state) && !wanted.shared {
                let (pid, service) = bus.participants().describe(seen.holder);
                let (topic, group) = (core.name().into(), name.into());
                return Err(AttachError::GroupBusy { topic, group, pid, service });
            }
            None
        }
        _ => {
            repair::release_group(core, entry, seen.holder);
            None
        }
    };
    Ok(taken.map_or(Attempt::Found(seen), Attempt::Taken))
}

/// Takes an entry that has no member, as it was `seen`, for a group of this kind.
fn enter(
    bus: &BusInner,
    core: &TopicCore,
    wanted: &Wanted<'_>,
    (entry, word): (usize, &AtomicU64),
    (seen, bits): (HolderWord, u64),
) -> Result<Option<Taken>, AttachError> {
    let Some(mut reserved) = group::reserve(word, seen, bus.me()) else { return Ok(None) };
    let had_let_go = state::has_let_go(seen.state);
    let attempt = (|| {
        if wanted.shared {
            make_owners(core, entry, bus.me())?;
        }
        if wanted.keyed {
            KeysFile::make(core, entry, bus.me())?;
        }
        if reserved.state == state::REJOINING {
            for lane in 0..core.lanes() {
                let stood = standing(core, entry, lane);
                // Relaxed: the change to RESTARTING publishes it.
                core.group_lane_word(entry, lane, in_lane::STOOD)
                    .inspect(|word| word.store(stood, Ordering::Relaxed));
            }
            match group::change(word, reserved, reserved.with_state(state::RESTARTING)) {
                Some(restarting) => reserved = restarting,
                None => return Ok(None),
            }
        }
        let wanted = match had_let_go && wanted.goes_on {
            true => where_it_stood(core, entry, wanted),
            false => Wanted { goes_on: false, ..wanted.clone() },
        };
        place(core, entry, word, reserved, (bits, had_let_go), &wanted)
    })();
    if attempt.is_err() {
        // Not joining for as long as this process lives: others may have more luck.
        let before = if reserved.state == state::RESTARTING { state::ASTRAY } else { seen.state };
        group::change(word, reserved, reserved.with_state(before));
    }
    let Some(joined) = attempt? else { return Ok(None) };
    if wanted.shared {
        // It belongs to no single member and rests in HELD; nobody lets it go before that. Counted only now: what is counted in a
        // group that is not shared yet is not cleared after a death.
        let counted = count_member(core, entry, bus.me());
        group::change(word, joined.word, joined.word.with_state(state::HELD));
        return Ok(Some((joined, Some(counted?))));
    }
    Ok(Some((joined, None)))
}

/// The wish of a group that let go: to go on where it stood, as far as that is still there.
fn where_it_stood<'w>(core: &TopicCore, entry: usize, wanted: &Wanted<'w>) -> Wanted<'w> {
    let stood = |(lane, end): (usize, &u64)| {
        bus_core::seq::earlier(core.group_lane_number(entry, lane, in_lane::STOOD), *end)
    };
    Wanted { wished: wanted.wished.iter().enumerate().map(stood).collect(), ..wanted.clone() }
}

/// Changes this process's count of subscribers in a shared group.
fn change_count(
    core: &TopicCore,
    region: &Region,
    me: Holder,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<(), AttachError> {
    let limit = || AttachError::GroupLimit { topic: core.name().into(), max: owners::MEMBERS_MAX as usize };
    let (index, _) = owners::member(me.participant);
    let word = region.look(owners::MEMBERS + index * 8).ok_or_else(limit)?;
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let to = change(seen).ok_or_else(limit)?;
        // AcqRel: before, and after, whatever is done to the group's state.
        match word.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
}

/// Counts a subscriber that joins a shared group. Returns where: taking it back may need no descriptor, which may have run out.
fn count_member(core: &TopicCore, entry: usize, me: Holder) -> Result<Region, AttachError> {
    let mut region = core.attach_owners(entry)?;
    if core.is_frugal() {
        region.close_file();
    }
    change_count(core, &region, me, |word| owners::with_member(word, me.participant))?;
    Ok(region)
}

/// Counts a subscriber that leaves a shared group.
fn discount_member(core: &TopicCore, region: &Region, me: Holder) {
    let _ = change_count(core, region, me, |word| Some(owners::without_member(word, me.participant)));
}

/// Puts the cursors of a reserved entry in place.
fn place(
    core: &TopicCore,
    entry: usize,
    word: &AtomicU64,
    reserved: HolderWord,
    (bits, had_let_go): (u64, bool),
    wanted: &Wanted<'_>,
) -> Result<Option<Joined>, AttachError> {
    // Relaxed: the entry is JOINING or RESTARTING, this process's alone; the change to ACTIVE publishes them.
    word_of(core, entry, in_entry::KIND)?.store(bits, Ordering::Relaxed);
    word_of(core, entry, in_entry::SINCE_NS)?.store(clock::realtime_ns(), Ordering::Relaxed);
    word_of(core, entry, in_entry::REDELIVERED)?.store(0, Ordering::Relaxed);
    word_of(core, entry, in_entry::SKIPPED)?.store(0, Ordering::Relaxed);
    clear_stall(core, entry, !had_let_go);
    let no_room = || AttachError::GroupLimit { topic: core.name().into(), max: GROUPS_MAX as usize };
    let mut lanes = Vec::with_capacity(core.lanes());
    let mut stands = Vec::with_capacity(core.lanes());
    for (lane, &wished) in wanted.wished.iter().enumerate() {
        let gate = core.ring_word(bus_core::layout::ring::gate(lane)).ok_or_else(no_room)?;
        let low_water = core.group_lane_word(entry, lane, in_lane::LOW_WATER).ok_or_else(no_room)?;
        let handed = core.group_lane_word(entry, lane, in_lane::HANDED).ok_or_else(no_room)?;
        let marked = core.group_lane_word(entry, lane, in_lane::MARKED).ok_or_else(no_room)?;
        if had_let_go {
            // Wherever it begins, these have been handed out before.
            let before = Handed::unpack(handed.load(Ordering::Relaxed));
            stands.push(LaneStand {
                begin: wished,
                kept_from: wished,
                handed: before,
                marked: group::mark(marked, before.end),
            });
        } else {
            handed.store(0, Ordering::Relaxed);
            marked.store(0, Ordering::Relaxed);
            stands.push(LaneStand::new(wished));
        }
        // What is gone is not wished back: a cursor there would hold publishers up for a moment.
        let oldest = core.end(lane).saturating_sub(u64::from(core.config().capacity));
        let wished = bus_core::seq::later(wished, oldest);
        lanes.push(LaneJoin { gate, low_water, wished, start: wished });
    }
    let Some(generation) = core.groups_region().look(groups::at::GENERATION) else { return Err(no_room()) };
    let Some(starting) = group::start(word, reserved, generation, &mut lanes) else { return Ok(None) };
    for (lane, (join, stand)) in lanes.iter().zip(&mut stands).enumerate() {
        let missed = distance(join.start, stand.begin).max(0) as u64;
        for (offset, value) in [(in_lane::START, join.start), (in_lane::MISSED, missed)] {
            if let Some(word) = core.group_lane_word(entry, lane, offset) {
                // Relaxed: the change to ACTIVE publishes it. Before that, for who inherits a group that has not come to its start.
                word.store(value, Ordering::Relaxed);
            }
        }
        stand.kept_from = join.start;
        // A group of one reads the backlog before its reliable start too, as far as it is still there.
        stand.begin =
            if wanted.shared { join.start } else { bus_core::seq::earlier(stand.begin, join.start) };
    }
    let joined = Joined { entry, word: reserved.with_state(state::ACTIVE), lanes: stands };
    Ok(group::activate(word, starting).then_some(joined))
}

/// Where a group of one stands in a lane: at its cursor, or, of one that has not come through to its start since it joined or
/// came back, before the messages that it has not finished there. Those are told again rather than never.
pub(crate) fn standing(core: &TopicCore, entry: usize, lane: usize) -> u64 {
    // AcqRel, and a swap that changes nothing: after a death it reads the last value there is, which a load need not.
    let last = |offset| {
        core.group_lane_word(entry, lane, offset).map_or(0, |word| word.fetch_max(0, Ordering::AcqRel))
    };
    let low_water = last(in_lane::LOW_WATER);
    let is_shared = core.group_number(entry, in_entry::KIND) & kind::SHARED != 0;
    if !is_shared && low_water == last(in_lane::START) {
        low_water.saturating_sub(last(in_lane::MISSED))
    } else {
        low_water
    }
}

/// A group that somebody joins does not stand still; a new one has no limits of its own yet.
fn clear_stall(core: &TopicCore, entry: usize, is_new: bool) {
    let groups = core.groups_region();
    let limits = [stall::after(entry), stall::lag(entry)].into_iter().filter(|_| is_new);
    for word in limits.chain([stall::since(entry)]).filter_map(|offset| groups.look(offset)) {
        word.store(0, Ordering::Relaxed);
    }
}

/// Goes on where the group stands.
fn resume(core: &TopicCore, entry: usize, word: HolderWord) -> Joined {
    clear_stall(core, entry, false);
    let lanes = (0..core.lanes())
        .map(|lane| {
            let kept_from = core.group_lane_number(entry, lane, in_lane::LOW_WATER);
            let handed = Handed::unpack(core.group_lane_number(entry, lane, in_lane::HANDED));
            // Before anything is handed out again: what this member stores there may be less.
            let marked = core
                .group_lane_word(entry, lane, in_lane::MARKED)
                .map_or(handed.end, |word| group::mark(word, handed.end));
            LaneStand { begin: standing(core, entry, lane), kept_from, handed, marked }
        })
        .collect();
    Joined { entry, word, lanes }
}

/// The owner words of a lane.
pub(crate) fn owners_of<'r>(core: &TopicCore, region: &'r Region, lane: usize) -> Option<Owners<'r>> {
    let capacity = core.config().capacity;
    let words = region.look_words(owners::words(lane, capacity), capacity as usize);
    words.filter(|_| lane < core.lanes()).and_then(Owners::attach)
}

/// Makes the owner words of a shared group, complete before they get their name.
fn make_owners(core: &TopicCore, entry: usize, me: Holder) -> Result<(), RegionError> {
    let path = core.dir().owners(entry);
    if path.exists() {
        return Ok(());
    }
    let making = core.dir().0.join(crate::directory::unique_name(&repair::making_prefix(me)));
    let bytes = owners::footprint_bytes(core.lanes(), core.config().capacity);
    let made = Region::create(&making, bytes, bytes).and_then(|region| {
        region.write(0, &Preamble::new(owners::MAGIC, bytes, core.epoch()))?;
        Ok(crate::sys::file::rename_noreplace(&making, &path)?)
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&making);
    }
    match made {
        Err(RegionError::System(error)) if error.is(rustix::io::Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// A subscriber's seat in a group: given back when dropped, also where the subscriber could not be completed.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) joined: Joined,
    /// Of a shared group: where its members are counted.
    owners: Option<Region>,
    bus: Arc<BusInner>,
    core: Arc<TopicCore>,
}

impl Seat {
    pub(crate) fn join(
        bus: &Arc<BusInner>,
        core: &Arc<TopicCore>,
        wanted: &Wanted<'_>,
    ) -> Result<Self, AttachError> {
        bus.note_topic(core.name())?;
        let (joined, owners) = join(bus, core, wanted)?;
        Ok(Self { joined, owners, bus: bus.clone(), core: core.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.bus.is_forked() {
            return;
        }
        match &self.owners {
            Some(region) => discount_member(&self.core, region, self.bus.me()),
            None => leave(&self.core, &self.joined),
        }
    }
}

/// Leaves a group of one: one without a name goes, a named one holds on.
fn leave(core: &TopicCore, joined: &Joined) {
    let Some(word) = core.group_word(joined.entry, in_entry::STATE) else { return };
    let ephemeral = core.group_number(joined.entry, in_entry::KIND) & kind::EPHEMERAL != 0;
    let next = if ephemeral { state::FREE } else { state::HELD };
    let left = group::change(word, joined.word, joined.word.with_state(next));
    if left.is_some() {
        core.note_owner_left();
    } else {
        // It was let go while it was held: the entry waits for its process to say so.
        let evicted = joined.word.with_state(state::EVICTED);
        let next = if ephemeral { state::FREE } else { state::DETACHED };
        group::change(word, evicted, evicted.with_state(next));
    }
}

/// The member of a named group that was let go says that it stores nothing there any more: whoever joins goes on where the
/// group stood.
pub(crate) fn detach(core: &TopicCore, joined: &Joined) {
    if let Some(word) = core.group_word(joined.entry, in_entry::STATE) {
        let evicted = joined.word.with_state(state::EVICTED);
        group::change(word, evicted, evicted.with_state(state::DETACHED));
    }
}
