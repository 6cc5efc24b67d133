//! Making buses and topics: everything is built under a temporary name and renamed when it is complete, so nobody ever sees
//! half of one. Whoever dies half-way leaves a temporary name, which the next holder of the role removes.

use super::protocol::{BUILD, GroupSpec, TopicSpec};
use crate::directory::{BusDir, TEMPORARY, TopicDir, unique_name};
use crate::error::{BusError, RegionError, TopicError};
use crate::listeners::{LISTENERS_NAME, PIPES_NAME};
use crate::payload::TypeIdentity;
use crate::region::{Access, Region};
use crate::sys::process::pid_namespace_inode;
use crate::sys::{barrier, clock, file};
use bus_core::holder::{Holder, HolderWord};
use bus_core::layout::ring::type_state;
use bus_core::layout::{
    PAGE_BYTES, Preamble, get_name, groups, listeners, owners, put_name, ring, samples, superblock, wake,
};
use bus_core::limits::TYPES_MAX;
use bus_core::name::key;
use bus_core::sync::Ordering;
use rustix::io::Errno;
use std::mem::offset_of;
use std::path::Path;
use std::time::Duration;

/// How long the TSC is compared with the clock when a bus is made. Each handle corrects its own rate afterwards.
const CALIBRATION: Duration = Duration::from_millis(2);

/// A number that no other bus or topic has.
fn epoch() -> u64 {
    let mut state = clock::realtime_ns() ^ (u64::from(std::process::id()) << 40);
    state ^= clock::monotonic_ns().rotate_left(32);
    bus_core::name::fnv1a(&state.to_le_bytes(), bus_core::name::FNV1A_START) | 1
}

/// Makes the directory of a bus. Fine if another process is quicker.
pub(crate) fn bus(dir: &BusDir, temporary: bool) -> Result<(), BusError> {
    let making = dir.base().join(unique_name(TEMPORARY));
    let made =
        fill_bus(dir, &making, temporary).and_then(|()| match file::rename_noreplace(&making, dir.path()) {
            Err(error) if !error.is(Errno::EXIST) => Err(error.into()),
            _ => Ok(()),
        });
    let _ = file::remove_tree(&making);
    made
}

fn fill_bus(dir: &BusDir, making: &Path, temporary: bool) -> Result<(), BusError> {
    for part in ["", "leases", "topics", PIPES_NAME] {
        file::make_dir(&making.join(part), 0o700)?;
    }
    let epoch = epoch();
    let bytes = superblock::footprint_bytes(superblock::PARTICIPANTS_FIRST);
    let region = Region::create(&making.join("bus"), bytes, bytes)?;
    let membarrier = barrier::is_supported() && barrier::register().is_ok();
    let calibration = clock::Calibration::measure(CALIBRATION);
    region.write(
        0,
        &superblock::Fixed {
            preamble: Preamble::new(superblock::MAGIC, bytes, epoch),
            name: put_name(dir.name()),
            flags: (u32::from(temporary) * superblock::FLAG_TEMPORARY)
                | (u32::from(membarrier) * superblock::FLAG_MEMBARRIER),
            uid: rustix::process::geteuid().as_raw(),
            created_ns: clock::realtime_ns(),
            ns_per_tick_q32: calibration.map_or(0, |rate| rate.ns_per_tick_q32),
            pid_namespace: pid_namespace_inode(),
            build: put_name(BUILD),
        },
    )?;
    region.write(superblock::at::PARTICIPANTS_RESERVED as u64, &(superblock::PARTICIPANTS_FIRST as u64))?;
    let spin =
        Region::create(&making.join("spin"), superblock::spin::FILE_BYTES, superblock::spin::FILE_BYTES)?;
    spin.write(0, &Preamble::new(superblock::spin::MAGIC, superblock::spin::FILE_BYTES, epoch))?;
    let bytes = listeners::FILE_BYTES_FIRST;
    let region = Region::create(&making.join(LISTENERS_NAME), bytes, bytes)?;
    region.write(0, &Preamble::new(listeners::MAGIC, bytes, epoch))?;
    Ok(())
}

/// What making a topic needs to know of the holder of the role that makes it.
pub(crate) struct Maker<'a> {
    /// Names it where it claims something.
    pub(crate) mark: u16,
    /// Shows that it gets on; is it still the newest?
    pub(crate) beat: &'a dyn Fn() -> bool,
}

/// Makes a topic. `Ok(false)` if it exists already, or if another has the role meanwhile.
pub(crate) fn topic(
    dir: &BusDir,
    spec: &TopicSpec,
    creator: (u32, &str),
    maker: &Maker<'_>,
) -> Result<bool, TopicError> {
    let home = dir.topic(&spec.name);
    if home.0.exists() {
        return Ok(false);
    }
    let making = TopicDir(dir.topics().join(unique_name(TEMPORARY)));
    // A rename that comes late all the same finds that a successor has moved what it would rename, or that the topic exists.
    let made = fill_topic(&making, spec, creator, maker).and_then(|()| match (maker.beat)() {
        false => Ok(false),
        true => match file::rename_noreplace(&making.0, &home.0) {
            Ok(()) => Ok(true),
            Err(error) if error.is(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        },
    });
    if !matches!(made, Ok(true)) {
        let _ = file::remove_tree(&making.0);
    }
    made
}

/// The configuration that a specification asks for, checked.
pub(crate) fn config(spec: &TopicSpec) -> Result<ring::Config, TopicError> {
    let option = |option, value, allowed: String| TopicError::Option {
        topic: spec.name.clone(),
        option,
        value,
        allowed,
    };
    use bus_core::limits::*;
    if spec.message_bytes == 0 || spec.message_bytes > MESSAGE_BYTES_MAX {
        return Err(option("max-message", spec.message_bytes, format!("1 to {MESSAGE_BYTES_MAX} bytes")));
    }
    if spec.ttl_ns != 0 && spec.flags & ring::FLAG_STAMPS == 0 {
        return Err(option("ttl", spec.ttl_ns, "none where messages carry no stamps".into()));
    }
    if spec.types.len() > TYPES_MAX {
        return Err(option("types", spec.types.len() as u64, format!("at most {TYPES_MAX}")));
    }
    if spec.groups.len() > groups::ENTRIES_FIRST {
        let allowed = format!("at most {} at creation; others can join later", groups::ENTRIES_FIRST);
        return Err(option("groups", spec.groups.len() as u64, allowed));
    }
    if spec.overflow == ring::overflow::NEWEST && !spec.groups.is_empty() {
        let allowed = "none on a topic that keeps the newest; read it with `tap()`".into();
        return Err(option("groups", spec.groups.len() as u64, allowed));
    }
    let mut config = ring::Config {
        capacity: spec.capacity,
        lanes: spec.lanes,
        producers: spec.producers,
        inline_bytes: spec.inline_bytes,
        message_bytes: spec.message_bytes,
        arena_first_bytes: spec.arena_first_bytes.min(1 << 32),
        arena_bound_bytes: spec.arena_bound_bytes.min(1 << 34),
        arena_history_bytes: spec.arena_history_bytes,
        flags: spec.flags,
        overflow: spec.overflow,
    };
    let arena = config.arena();
    config.arena_first_bytes = arena.first_bytes;
    config.arena_bound_bytes = arena.bound_bytes;
    match config.check() {
        Ok(()) => Ok(config),
        Err(bus_core::layout::Mismatch::Field { name, value }) => Err(option(
            name,
            value,
            match name {
                "capacity" => format!("a power of two from {CAPACITY_MIN} to {CAPACITY_MAX}"),
                "lanes" => format!("1 to {LANES_MAX}"),
                "producers" => format!("1 to {PRODUCERS_MAX}"),
                "overflow" => "0 to 2".into(),
                "inline_bytes" => format!("at most {INLINE_BYTES_MAX}"),
                _ => "within the table of limits in README.md".into(),
            },
        )),
        Err(_) => Err(option("configuration", 0, "within the table of limits in README.md".into())),
    }
}

fn fill_topic(
    making: &TopicDir,
    spec: &TopicSpec,
    creator: (u32, &str),
    maker: &Maker<'_>,
) -> Result<(), TopicError> {
    let on_step = &|| {
        (maker.beat)();
    };
    let config = config(spec)?;
    let epoch = epoch();
    file::make_dir(&making.0, 0o700)?;
    let bytes = config.footprint_bytes();
    let region = Region::create_in_steps(&making.ring(), bytes, on_step)?;
    region.write(
        0,
        &ring::Fixed {
            preamble: Preamble::new(ring::MAGIC, bytes, epoch),
            config,
            created_ns: clock::realtime_ns(),
            creator_pid: creator.0,
            reserved: 0,
            creator_service: put_name(creator.1),
            name: put_name(&spec.name),
        },
    )?;
    region.write(ring::at::TTL_NS as u64, &spec.ttl_ns)?;
    region.write(ring::at::QUOTA as u64, &spec.quota)?;
    add_types(&region, &spec.types, maker, &|_| true)?;
    let bytes = groups::footprint_bytes(groups::ENTRIES_FIRST).next_multiple_of(PAGE_BYTES);
    let region = Region::create(&making.groups(), bytes, bytes)?;
    region.write(0, &Preamble::new(groups::MAGIC, bytes, epoch))?;
    region.write(groups::at::RESERVED as u64, &(groups::ENTRIES_FIRST as u64))?;
    fill_groups(&region, spec)?;
    for index in (0..spec.groups.len()).filter(|&index| spec.groups[index].shared) {
        let bytes = owners::footprint_bytes(config.lanes as usize, config.capacity);
        let region = Region::create_in_steps(&making.owners(index), bytes, on_step)?;
        region.write(0, &Preamble::new(owners::MAGIC, bytes, epoch))?;
    }
    for index in (0..spec.groups.len()).filter(|&index| spec.groups[index].keyed) {
        crate::keys::KeysFile::create(&making.keys(index), epoch)?;
    }
    let region = Region::create(&making.wake(), wake::FILE_BYTES, wake::FILE_BYTES)?;
    region.write(0, &Preamble::new(wake::MAGIC, wake::FILE_BYTES, epoch))?;
    // With stamps, ages are known exactly.
    if config.flags & ring::FLAG_STAMPS == 0 {
        fill_samples(&making.samples(), config.lanes as usize, epoch)?;
    }
    Ok(())
}

/// The history of a new topic, which begins with its first moment.
fn fill_samples(path: &Path, lanes: usize, epoch: u64) -> Result<(), RegionError> {
    let region = Region::create(path, samples::FILE_BYTES, samples::FILE_BYTES)?;
    region.write(0, &Preamble::new(samples::MAGIC, samples::FILE_BYTES, epoch))?;
    let first = bus_core::samples::first(clock::monotonic_ns());
    (0..lanes).try_for_each(|lane| region.write(samples::newest(lane) as u64, &first))
}

/// Groups that hold messages from the topic's first one on.
fn fill_groups(region: &Region, spec: &TopicSpec) -> Result<(), RegionError> {
    for (index, GroupSpec { name, shared, keyed }) in spec.groups.iter().enumerate() {
        let at = groups::entry(index) as u64;
        let word = HolderWord { state: groups::state::HELD, holder: Holder::new(0, 0), tag: 1 };
        region.write(at + groups::in_entry::STATE as u64, &word.pack())?;
        region.write(at + groups::in_entry::KEY as u64, &key(name))?;
        region.write(at + groups::in_entry::KIND as u64, &crate::group::kind_bits(*shared, *keyed))?;
        region.write(at + groups::in_entry::SINCE_NS as u64, &clock::realtime_ns())?;
        region.write(at + groups::in_entry::NAME as u64, &put_name::<64>(name))?;
    }
    region.write(groups::at::USED as u64, &(spec.groups.len() as u64))
}

/// Adds types that the table lacks; each entry is complete before it is counted.
///
/// A holder that was superseded while it filled an entry may still store into it, so that the entry is used only if that one's
/// end is proven (`is_over`, by its mark), and else left out for good.
pub(crate) fn add_types(
    region: &Region,
    types: &[TypeIdentity],
    maker: &Maker<'_>,
    is_over: &dyn Fn(u16) -> bool,
) -> Result<(), RegionError> {
    let mut known = read_types(region)?;
    for identity in types {
        if known.contains(identity) {
            continue;
        }
        while known.len() < TYPES_MAX && (maker.beat)() {
            let index = known.len();
            let is_mine = fill_type(region, index, identity, maker.mark, is_over)?;
            if let Some(word) = region.look(ring::at::TYPES_COUNT) {
                // Release: pairs with the Acquire in `read_types`. By the maximum: another holder may be further.
                word.fetch_max(index as u64 + 1, Ordering::AcqRel);
            }
            known = read_types(region)?;
            if is_mine || known.contains(identity) {
                break;
            }
        }
    }
    Ok(())
}

/// Puts a type into an entry. False if the entry is another's, or nobody's for good.
fn fill_type(
    region: &Region,
    index: usize,
    identity: &TypeIdentity,
    mark: u16,
    is_over: &dyn Fn(u16) -> bool,
) -> Result<bool, RegionError> {
    let at = ring::at::TYPES + index * size_of::<ring::TypeEntry>();
    let Some(state) = region.look32(at + offset_of!(ring::TypeEntry, state)) else { return Ok(false) };
    let mine = type_state::claimed(mark);
    let change = |seen, next| state.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire).is_ok();
    let seen = state.load(Ordering::Acquire);
    match seen & 0xff {
        type_state::FREE => {}
        type_state::CLAIMED if is_over((seen >> 8) as u16) => {}
        type_state::CLAIMED => {
            change(seen, type_state::BURNT);
            return Ok(false);
        }
        _ => return Ok(false),
    }
    if !change(seen, mine) {
        return Ok(false);
    }
    let mut head = [0_u8; 12];
    head[..8].copy_from_slice(&identity.fingerprint.to_ne_bytes());
    head[8..].copy_from_slice(&identity.version.to_ne_bytes());
    region.write(at as u64, &head)?;
    region.write((at + offset_of!(ring::TypeEntry, name)) as u64, &put_name::<72>(&identity.name))?;
    Ok(change(mine, type_state::COMPLETE))
}

/// The types that a topic accepts, each at the place of its number. An entry that never became one has no name.
pub(crate) fn read_types(region: &Region) -> Result<Vec<TypeIdentity>, RegionError> {
    let count = region.look(ring::at::TYPES_COUNT).map_or(0, |word| word.load(Ordering::Acquire));
    (0..count.min(TYPES_MAX as u64))
        .map(|index| {
            let at = ring::at::TYPES as u64 + index * size_of::<ring::TypeEntry>() as u64;
            let entry: ring::TypeEntry = region.read(at)?;
            if entry.state != type_state::COMPLETE {
                return Ok(TypeIdentity { name: String::new(), version: 0, fingerprint: 0 });
            }
            Ok(TypeIdentity {
                name: get_name(&entry.name).to_owned(),
                version: entry.version,
                fingerprint: entry.fingerprint,
            })
        })
        .collect()
}

/// Adds types to an existing topic.
pub(crate) fn extend_types(
    dir: &BusDir,
    topic: &str,
    types: &[TypeIdentity],
    maker: &Maker<'_>,
) -> Result<(), TopicError> {
    let (region, _) = Region::attach(&dir.topic(topic).ring(), ring::MAGIC, Access::Write, None)?;
    Ok(add_types(&region, types, maker, &|other| !super::role::is_mark_held(dir, other))?)
}
