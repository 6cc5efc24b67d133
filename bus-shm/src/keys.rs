//! The words of keyed groups as files: made by the first member, attached by members, repair and those who look.

use crate::error::{AttachError, RegionError};
use crate::group::display_name;
use crate::inspect::ProcessInfo;
use crate::lease::Participants;
use crate::listeners::wake_readers_after_repair;
use crate::region::{Access, Region};
use crate::repair::making_prefix;
use crate::sys::file;
use crate::sys::process::ForkMark;
use crate::topic::{Topic, TopicCore};
use bus_core::holder::{Holder, HolderWord};
use bus_core::keyed::PartitionWord;
use bus_core::keyed::{Keys, Seat, spread};
use bus_core::layout::groups::{in_entry, kind, state};
use bus_core::layout::keys::{FOOTPRINT_BYTES, MAGIC, WORDS, in_seat};
use bus_core::layout::{Mismatch, Preamble};
use bus_core::limits::{KEYED_MEMBERS_MAX, PARTITIONS};
use bus_core::sync::Ordering;
use rustix::io::Errno;
use std::path::Path;

/// The file of one keyed group, mapped.
#[derive(Debug)]
pub(crate) struct KeysFile {
    region: Region,
}

impl KeysFile {
    /// Maps the file of a group entry.
    pub(crate) fn attach(core: &TopicCore, entry: usize, access: Access) -> Result<Self, RegionError> {
        let path = core.dir().keys(entry);
        let (region, preamble) = Region::attach(&path, MAGIC, access, None)?;
        if preamble.epoch != core.epoch() {
            return Err(RegionError::Mismatch {
                path,
                why: Mismatch::Field { name: "epoch", value: preamble.epoch },
            });
        }
        if preamble.file_bytes < FOOTPRINT_BYTES {
            let why = Mismatch::Truncated { len_bytes: preamble.file_bytes, need_bytes: FOOTPRINT_BYTES };
            return Err(RegionError::Mismatch { path, why });
        }
        // Nobody makes it shorter or longer: no descriptor is needed after this.
        if region.look_words(0, WORDS).is_none() {
            let why = Mismatch::Truncated { len_bytes: region.file_bytes(), need_bytes: FOOTPRINT_BYTES };
            return Err(RegionError::Mismatch { path, why });
        }
        Ok(Self { region })
    }

    /// Makes it, complete before it gets its name, if there is none.
    pub(crate) fn make(core: &TopicCore, entry: usize, me: Holder) -> Result<(), RegionError> {
        let path = core.dir().keys(entry);
        if path.exists() {
            return Ok(());
        }
        let making = core.dir().0.join(crate::directory::unique_name(&making_prefix(me)));
        let made =
            Self::create(&making, core.epoch()).and_then(|()| Ok(file::rename_noreplace(&making, &path)?));
        if made.is_err() {
            let _ = std::fs::remove_file(&making);
        }
        match made {
            Err(RegionError::System(error)) if error.is(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Makes an empty one under this name.
    pub(crate) fn create(path: &Path, epoch: u64) -> Result<(), RegionError> {
        let region = Region::create(path, FOOTPRINT_BYTES, FOOTPRINT_BYTES)?;
        region.write(0, &Preamble::new(MAGIC, FOOTPRINT_BYTES, epoch))
    }

    /// Its words.
    pub(crate) fn keys(&self) -> Keys<'_> {
        let words = self.region.look_words(0, WORDS);
        words.and_then(Keys::attach).expect("the file had its length when it was attached")
    }
}

/// A member's seat in a keyed group: given back when dropped.
#[derive(Debug)]
pub(crate) struct Seated {
    pub(crate) file: KeysFile,
    pub(crate) seat: Seat,
    word: HolderWord,
    is_left: bool,
}

impl Seated {
    /// Takes a seat in the group of this entry. Who has more than its share then is told by the generation; the caller rings.
    pub(crate) fn join(
        core: &TopicCore,
        entry: usize,
        me: Holder,
        is_dead: impl Fn(Holder) -> bool,
    ) -> Result<Self, AttachError> {
        let mut file = KeysFile::attach(core, entry, Access::Write)?;
        if core.is_frugal() {
            file.region.close_file();
        }
        let taken = file.keys().sit(me).or_else(|| {
            release_seats(&file, is_dead);
            file.keys().sit(me)
        });
        let Some((index, word)) = taken else {
            return Err(AttachError::KeyedMembers {
                topic: core.name().into(),
                group: display_name(core, entry),
                max: KEYED_MEMBERS_MAX,
            });
        };
        file.keys().raise_generation();
        Ok(Self { file, seat: Seat::new(index, word), word, is_left: false })
    }

    pub(crate) fn keys(&self) -> Keys<'_> {
        self.file.keys()
    }

    /// Gives the seat back, with nothing in hand: what it had may be taken. The caller rings.
    pub(crate) fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_left, true) && self.keys().rise(self.seat.index, self.word) {
            self.keys().raise_generation();
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        // In a forked child nothing of the bus is mapped.
        if !ForkMark::global().is_child() {
            self.leave();
        }
    }
}

/// Frees the seats of the dead: their partitions may be taken. Their claims are taken back by whoever does so. True if there were any.
fn release_seats(file: &KeysFile, is_dead: impl Fn(Holder) -> bool) -> bool {
    let keys = file.keys();
    let mut changed = false;
    for (index, word) in keys.taken() {
        changed |= is_dead(word.holder) && keys.rise(index, word);
    }
    if changed {
        keys.raise_generation();
    }
    changed
}

/// Repair, after proof of death, in one group entry: as above, where the group is keyed.
pub(crate) fn release_dead_seats(core: &TopicCore, entry: usize, is_dead: impl Fn(Holder) -> bool) -> bool {
    core.group_number(entry, in_entry::KIND) & kind::KEYED != 0
        && KeysFile::attach(core, entry, Access::Write).is_ok_and(|file| release_seats(&file, is_dead))
}

/// A keyed group at one moment: who has which keys.
#[derive(Clone, Debug)]
pub struct KeyedState {
    /// Its members, by their seats.
    pub members: Vec<KeyedMember>,
    /// How many partitions there are.
    pub partitions: u32,
    /// How many of them nobody has at this moment.
    pub vacant_count: u32,
    /// The partitions of which the most messages were handed out, the most first; at most [`HOTTEST`].
    pub hottest: Vec<KeyedPartition>,
    /// Messages of all partitions that were handed out since the group is keyed.
    pub handed_count: u64,
}

/// A member of a keyed group.
#[derive(Clone, Debug)]
pub struct KeyedMember {
    /// Whose it is; one process may have several.
    pub process: ProcessInfo,
    /// Its seat.
    pub seat: u8,
    /// Partitions that it has.
    pub partition_count: u32,
    /// Messages that it was handed since it joined, those that came again included.
    pub handed_count: u64,
    /// Of those, how many it said had failed.
    pub failed_count: u64,
}

/// A partition that is busier than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedPartition {
    /// Its number.
    pub partition: u32,
    /// Messages of it that were handed out.
    pub handed_count: u64,
    /// The seat of the member that has it.
    pub seat: Option<u8>,
}

/// Partitions that [`KeyedState::hottest`] names.
pub const HOTTEST: usize = 5;

/// The partition that messages with this key belong to, in every keyed group.
pub fn partition_of_key(key: &str) -> u32 {
    bus_core::keyed::partition_of(bus_core::name::key(key), 0) as u32
}

/// `None`: nobody has joined yet, or the file cannot be read.
pub(crate) fn now(core: &TopicCore, entry: usize, participants: &Participants) -> Option<KeyedState> {
    let file = KeysFile::attach(core, entry, Access::Read).ok()?;
    let keys = file.keys();
    let words: Vec<PartitionWord> = (0..PARTITIONS as usize).map(|index| keys.partition(index)).collect();
    let members = keys.taken().map(|(index, word)| {
        let (pid, service) = participants.describe(word.holder);
        let me = Some(Seat::new(index, word));
        let count = |which| keys.seat_counter(index, which).load(Ordering::Relaxed);
        KeyedMember {
            process: ProcessInfo { pid, service },
            seat: index,
            partition_count: words.iter().filter(|word| word.owner == me).count() as u32,
            handed_count: count(in_seat::HANDED),
            failed_count: count(in_seat::FAILED),
        }
    });
    let members = members.collect();
    let handed = |index: usize| keys.partition_counter(index).load(Ordering::Relaxed);
    let mut hottest: Vec<KeyedPartition> = (0..words.len())
        .map(|index| KeyedPartition {
            partition: index as u32,
            handed_count: handed(index),
            seat: words[index].owner.filter(|_| !keys.is_vacant(words[index])).map(|seat| seat.index),
        })
        .collect();
    hottest.sort_by_key(|partition| std::cmp::Reverse(partition.handed_count));
    // What a damaged file says may add up to anything.
    let add = |sum: u64, partition: &KeyedPartition| sum.saturating_add(partition.handed_count);
    let handed_count = hottest.iter().fold(0, add);
    hottest.truncate(HOTTEST);
    hottest.retain(|partition| partition.handed_count > 0);
    let vacant_count = words.iter().filter(|&&word| keys.is_vacant(word)).count() as u32;
    Some(KeyedState { members, partitions: PARTITIONS, vacant_count, hottest, handed_count })
}

/// What asking for new shares has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalanced {
    /// Members that there are.
    pub member_count: u32,
    /// Partitions that go to another member, as soon as nothing of them is in hand.
    pub moved_count: u32,
    /// Messages that the shares go by: those that were handed out since this was last asked for.
    pub counted: u64,
    /// Of these, the most and the fewest that one member would have had with the new shares.
    pub most: u64,
    /// See `most`.
    pub fewest: u64,
}

impl<T> Topic<T> {
    /// Asks the members of a keyed group to share its partitions by how busy those have been since this was last asked for, instead of by their
    /// number. That holds until a member comes or goes. Returns at once; each partition moves when its member has nothing of it in hand.
    ///
    /// # Errors
    /// [`AttachError::NotKeyed`]: there is no such group, it is not keyed, or it has no members.
    pub fn rebalance(&self, group: &str) -> Result<Rebalanced, AttachError> {
        let core = &self.core;
        let refuse = |why: &'static str| {
            Err(AttachError::NotKeyed { topic: core.name().to_owned(), group: group.to_owned(), why })
        };
        let entry = (0..core.groups_used()).find(|&entry| {
            let word = HolderWord::unpack(core.group_number(entry, in_entry::STATE));
            word.state != state::FREE && core.group_name(entry) == group
        });
        let Some(entry) = entry else { return refuse("there is no such group; `shmbus info` lists them") };
        if core.group_number(entry, in_entry::KIND) & kind::KEYED == 0 {
            return refuse("it is not keyed, so its members have no shares");
        }
        let file = KeysFile::attach(core, entry, Access::Write)?;
        let keys = file.keys();
        let mark = keys.members_mark();
        let seats: Vec<(u8, HolderWord)> = keys.taken().collect();
        if seats.is_empty() {
            return refuse("it has no members");
        }
        // As many as can be added up, whatever a damaged file says.
        let weights = std::array::from_fn(|partition| keys.handed_since_plan(partition).min(1 << 48));
        let mut homes = std::array::from_fn(|partition| {
            let owner = keys.partition(partition).owner?;
            seats.iter().position(|&(index, word)| Seat::new(index, word) == owner)
        });
        let mut loads = vec![0; seats.len()];
        let moved_count = spread(&weights, &mut homes, &mut loads) as u32;
        keys.set_plan(mark, |partition| homes[partition].map_or(0, |member| seats[member].0));
        wake_readers_after_repair(core);
        Ok(Rebalanced {
            member_count: seats.len() as u32,
            moved_count,
            counted: weights.iter().sum(),
            most: loads.iter().copied().max().unwrap_or(0),
            fewest: loads.iter().copied().min().unwrap_or(0),
        })
    }
}
