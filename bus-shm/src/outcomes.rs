//! The file behind a group's records of what it finished without handling: making, growing, writing. What a record means, and why it
//! can be relied on, is [`bus_core::outcome`]'s affair.
//!
//! It is there before anything of the group is put aside or settled unhandled, made by whoever does that first, or follows the group. So
//! who follows has it mapped before it asks, and learns from one word of it whether there is anything else to look at.

use crate::directory::unique_name;
use crate::error::RegionError;
use crate::publisher::is_refused;
use crate::region::{Access, Region, reserve};
use crate::repair::making_prefix;
use crate::sys::file;
use crate::topic::TopicCore;
use bus_core::aside::Contents;
use bus_core::holder::Holder;
use bus_core::layout::groups::{in_entry, kind};
use bus_core::layout::outcomes::{MAGIC, at, footprint_bytes, lane as lane_at, lost, mark, records};
use bus_core::layout::{Mismatch, PAGE_BYTES, Preamble};
use bus_core::outcome::{GONE, Records, UNKNOWN};
use bus_core::sync::{AtomicU64, Ordering};
use rustix::io::Errno;

/// A group's records, mapped.
#[derive(Debug)]
pub(crate) struct OutcomesFile {
    region: Region,
    records: usize,
    lanes: usize,
}

impl OutcomesFile {
    /// Maps the file of a group's entry, if it has one.
    pub(crate) fn attach(
        core: &TopicCore,
        entry: usize,
        access: Access,
    ) -> Result<Option<Self>, RegionError> {
        let path = core.dir().outcomes(entry);
        if !path.exists() {
            return Ok(None);
        }
        let (lanes, records) = (core.lanes(), records(core.config().capacity));
        let most = footprint_bytes(lanes, records);
        let (region, preamble) = Region::attach(&path, MAGIC, access, Some(most))?;
        let mismatch = |why| RegionError::Mismatch { path: path.clone(), why };
        if preamble.epoch != core.epoch() {
            return Err(mismatch(Mismatch::Field { name: "epoch", value: preamble.epoch }));
        }
        let theirs: u64 = region.read(at::RECORDS as u64)?;
        if theirs != records as u64 {
            return Err(mismatch(Mismatch::Field { name: "records", value: theirs }));
        }
        if region.look(at::MARKS).is_none() {
            let len_bytes = preamble.file_bytes;
            return Err(mismatch(Mismatch::Truncated { len_bytes, need_bytes: PAGE_BYTES }));
        }
        Ok(Some(Self { region, records, lanes }))
    }

    /// Maps it for writing, made if there is none.
    pub(crate) fn make(core: &TopicCore, entry: usize, me: Holder) -> Result<Self, RegionError> {
        if let Some(file) = Self::attach(core, entry, Access::Write)? {
            return Ok(file);
        }
        let path = core.dir().outcomes(entry);
        let making = core.dir().0.join(unique_name(&making_prefix(me)));
        let made = Region::create(&making, PAGE_BYTES, PAGE_BYTES).and_then(|region| {
            region.write(at::RECORDS as u64, &(records(core.config().capacity) as u64))?;
            region.write(0, &Preamble::new(MAGIC, PAGE_BYTES, core.epoch()))?;
            Ok(file::rename_noreplace(&making, &path)?)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&making);
        }
        match made {
            Err(RegionError::System(error)) if error.is(Errno::EXIST) => {}
            other => other?,
        }
        let why = Mismatch::Truncated { len_bytes: 0, need_bytes: PAGE_BYTES };
        Self::attach(core, entry, Access::Write)?.ok_or(RegionError::Mismatch { path, why })
    }

    fn marks_word(&self) -> Option<&AtomicU64> {
        self.region.look(at::MARKS)
    }

    /// What there is to look at. Asked after a message was seen to be finished.
    #[inline]
    pub(crate) fn marks(&self) -> u64 {
        // Acquire: whoever sees that the records are there finds their memory.
        self.marks_word().map_or(mark::LOST, |word| word.load(Ordering::Acquire))
    }

    /// Sets a mark, before the first time that it speaks of.
    pub(crate) fn set_mark(&self, which: u64) {
        if let Some(word) = self.marks_word()
            && word.load(Ordering::Relaxed) & which == 0
        {
            // Release: comes with what it speaks of. That a follower sees it with the cursor, the settlement's Release sees to.
            word.fetch_or(which, Ordering::AcqRel);
        }
    }

    /// The records of a lane, if there are any.
    pub(crate) fn records(&self, lane: usize) -> Option<Records<'_>> {
        if self.marks() & mark::RECORDS == 0 || lane >= self.lanes {
            return None;
        }
        Records::attach(self.region.look_words(lane_at(lane, self.records), self.records)?)
    }

    /// The same, made if need be. `None`: there is no memory for them.
    fn made_records(&self, lane: usize) -> Option<Records<'_>> {
        if self.marks() & mark::RECORDS == 0 {
            let len_bytes = footprint_bytes(self.lanes, self.records) - PAGE_BYTES;
            reserve(self.region.file(), self.region.path(), PAGE_BYTES, len_bytes).ok()?;
            self.set_mark(mark::RECORDS);
        }
        self.records(lane)
    }

    /// Records what is about to become of a message. Where there is no memory for that, it is noted that what becomes of messages up to this
    /// one is not known.
    pub(crate) fn record(&self, (lane, sequence): (usize, u64), outcome: u8, attempts: u8) {
        if let Some(records) = self.made_records(lane) {
            return records.record(sequence, outcome, attempts);
        }
        if let Some(word) = self.region.look(lost(lane)).filter(|_| lane < self.lanes) {
            // Release: before the settlement, like a record.
            word.fetch_max(sequence.wrapping_add(1), Ordering::AcqRel);
        }
        self.set_mark(mark::LOST);
    }

    /// A dead letter of the group is about to go: afterwards it is known that it was one.
    pub(crate) fn note_gone(&self, core: &TopicCore, entry: usize, contents: &Contents) {
        // By two times of a clock that may have been set back: no proof that it is another group's, and so no proof that it is not.
        let outcome = if is_of_former(core, entry, contents) { UNKNOWN } else { GONE };
        self.record((usize::from(contents.lane), contents.sequence), outcome, 0);
    }

    /// How many records a lane has: a run of messages that is longer is recorded by its end.
    pub(crate) fn records_count(&self) -> u64 {
        self.records as u64
    }

    /// May a message have been finished without a record?
    pub(crate) fn is_lost(&self, lane: usize, sequence: u64) -> bool {
        let until = self.region.look(lost(lane)).map_or(u64::MAX, |word| word.load(Ordering::Acquire));
        bus_core::seq::distance(until, sequence) > 0
    }
}

/// The records of a group whose dead letters somebody purges or replays. `None`: there is no memory, which is no reason not to purge, or
/// the letters are no messages of the topic.
pub(crate) fn of_letters(core: &TopicCore, entry: usize, me: Holder) -> Option<OutcomesFile> {
    if is_refused(core, entry) { None } else { OutcomesFile::make(core, entry, me).ok() }
}

/// Is this a letter of a group without a name that had the entry before?
pub(crate) fn is_of_former(core: &TopicCore, entry: usize, contents: &Contents) -> bool {
    core.group_number(entry, in_entry::KIND) & kind::EPHEMERAL != 0
        && contents.first_ns < core.group_number(entry, in_entry::SINCE_NS)
}
