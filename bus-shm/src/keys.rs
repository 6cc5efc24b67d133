//! The words of keyed groups as files: made by the first member, attached by members, repair and those who look.

use crate::error::{AttachError, RegionError};
use crate::group::display_name;
use crate::region::{Access, Region};
use crate::repair::making_prefix;
use crate::sys::file;
use crate::topic::TopicCore;
use bus_core::holder::{Holder, HolderWord};
use bus_core::keyed::{Keys, Seat};
use bus_core::layout::groups::{in_entry, kind};
use bus_core::layout::keys::{FOOTPRINT_BYTES, MAGIC, WORDS};
use bus_core::layout::{Mismatch, Preamble};
use bus_core::limits::KEYED_MEMBERS_MAX;
use rustix::io::Errno;

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

    /// Maps it for writing, making it if there is none.
    fn make(core: &TopicCore, entry: usize, me: Holder) -> Result<Self, RegionError> {
        let path = core.dir().keys(entry);
        if !path.exists() {
            let making = core.dir().0.join(crate::directory::unique_name(&making_prefix(me)));
            let made = Region::create(&making, FOOTPRINT_BYTES, FOOTPRINT_BYTES).and_then(|region| {
                region.write(0, &Preamble::new(MAGIC, FOOTPRINT_BYTES, core.epoch()))?;
                Ok(file::rename_noreplace(&making, &path)?)
            });
            if made.is_err() {
                let _ = std::fs::remove_file(&making);
            }
            match made {
                Err(RegionError::System(error)) if error.is(Errno::EXIST) => {}
                other => other?,
            }
        }
        Self::attach(core, entry, Access::Write)
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
        let mut file = KeysFile::make(core, entry, me)?;
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
