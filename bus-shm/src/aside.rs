//! The file behind a group's aside store: making, growing, and copying messages in and out. What its words mean is
//! [`bus_core::aside`]'s affair.

use crate::directory::{TopicDir, unique_name};
use crate::error::RegionError;
use crate::region::{Access, Region, reserve};
use crate::repair::making_prefix;
use crate::sys::file;
use crate::sys::load::copy_words;
use crate::topic::TopicCore;
use bus_core::aside::{AsideWord, Contents, Counter, Held, Store, Table};
use bus_core::holder::Holder;
use bus_core::layout::aside::{ENTRIES_FIRST, ENTRY_WORDS, Entry, MAGIC, Shape, at, state};
use bus_core::layout::groups::in_lane;
use bus_core::layout::{Mismatch, Preamble, get_name, put_name};
use bus_core::sync::{AtomicU64, Ordering};
use rustix::io::Errno;
use std::os::unix::fs::FileExt;

/// A group's aside store, mapped.
#[derive(Debug)]
pub(crate) struct AsideFile {
    region: Region,
    shape: Shape,
}

/// Who failed, and why: the texts of an entry, cut to what they have room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) service: String,
    pub(crate) handler: String,
    pub(crate) error: String,
}

/// Looks at a dead letter that keeps changing: it is announced, or taken in hand, and that is all that happens to one.
const LETTER_READS: usize = 8;

const SERVICE_AT: usize = core::mem::offset_of!(Entry, service) / 8;
const HANDLER_AT: usize = core::mem::offset_of!(Entry, handler) / 8;
const ERROR_AT: usize = core::mem::offset_of!(Entry, error) / 8;

impl AsideFile {
    /// Maps the store of a group entry, if it has one.
    pub(crate) fn attach(
        dir: &TopicDir,
        entry: usize,
        epoch: u64,
        access: Access,
    ) -> Result<Option<Self>, RegionError> {
        let path = dir.aside(entry);
        if !path.exists() {
            return Ok(None);
        }
        let mismatch = |why| RegionError::Mismatch { path: path.clone(), why };
        let (region, preamble) = Region::attach(&path, MAGIC, Access::Read, None)?;
        if preamble.epoch != epoch {
            return Err(mismatch(Mismatch::Field { name: "epoch", value: preamble.epoch }));
        }
        let number = |offset: usize| region.read::<u64>(offset as u64);
        let shape = Shape::check(number(at::BOUND)?, number(at::INLINE_BYTES)?, number(at::SPILL_BYTES)?)
            .map_err(mismatch)?;
        let (region, _) = Region::attach(&path, MAGIC, access, Some(shape.footprint_bytes(shape.bound)))?;
        Ok(Some(Self { region, shape }))
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes that the file has.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.region.file_bytes()
    }

    /// Entries backed by memory, as the file says it, whether that can be or not.
    pub(crate) fn claims_reserved(&self) -> u64 {
        self.region.look(at::RESERVED).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Maps the store of a group entry for writing, making it with room for `bound` entries at most if there is none.
    pub(crate) fn make(
        core: &TopicCore,
        (entry, me): (usize, Holder),
        bound: usize,
    ) -> Result<Self, RegionError> {
        if let Some(file) = Self::attach(core.dir(), entry, core.epoch(), Access::Write)? {
            return Ok(file);
        }
        let shape = Shape::new(bound.max(1), core.config().message_bytes);
        let making = core.dir().0.join(unique_name(&making_prefix(me)));
        let bytes = shape.footprint_bytes(ENTRIES_FIRST.min(shape.bound));
        let made = Region::create(&making, bytes, bytes).and_then(|region| {
            for (offset, value) in [
                (at::BOUND, shape.bound as u64),
                (at::INLINE_BYTES, shape.inline_bytes as u64),
                (at::SPILL_BYTES, shape.spill_bytes),
                (at::RESERVED, shape.entries_in(bytes) as u64),
            ] {
                region.write(offset as u64, &value)?;
            }
            region.write(0, &Preamble::new(MAGIC, bytes, core.epoch()))?;
            Ok(file::rename_noreplace(&making, &core.dir().aside(entry))?)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&making);
        }
        match made {
            Err(RegionError::System(error)) if error.is(Errno::EXIST) => {}
            other => other?,
        }
        Self::attach(core.dir(), entry, core.epoch(), Access::Write)?.ok_or_else(|| RegionError::Mismatch {
            path: core.dir().aside(entry),
            why: Mismatch::Truncated { len_bytes: 0, need_bytes: bytes },
        })
    }

    /// The store's algorithm over this file. `None` where the group's entry is not backed by memory.
    pub(crate) fn store<'a>(&'a self, core: &'a TopicCore, entry: usize) -> Option<Store<'a, Self>> {
        Some(Store::attach(self, core.group_lane_word(entry, 0, in_lane::ASIDE_DUE)?))
    }

    /// Makes the table longer. False: it has its full length, or there is no memory.
    fn grow(&self) -> bool {
        let have = self.reserved();
        let grown = self.shape.grown(have);
        if grown <= have {
            return false;
        }
        let (from, to) = (self.shape.footprint_bytes(have), self.shape.footprint_bytes(grown));
        if reserve(self.region.file(), self.region.path(), from, (to - from).max(1)).is_err() {
            return false;
        }
        if let Some(reserved) = self.region.look(at::RESERVED) {
            // Release: pairs with `reserved`; who sees the count finds the memory there.
            reserved.fetch_max(grown as u64, Ordering::AcqRel);
        }
        true
    }

    /// Puts a message into a free entry and stages it. `None`: there is no room, and nothing has changed.
    pub(crate) fn put(
        &self,
        store: Store<'_, Self>,
        (me, attempts): (Holder, u8),
        (contents, note): (&Contents, &Note),
        payload: &[u8],
        hint: &mut usize,
    ) -> Option<Held> {
        let filling = loop {
            if let Some(filling) = store.allocate(me, attempts, contents.dead, hint) {
                break filling;
            }
            let is_dead_full = contents.dead && store.has_dead_max();
            if is_dead_full || !self.grow() {
                return None;
            }
        };
        store.describe(filling, contents);
        self.write_note(filling.index, note);
        if !self.write_payload(filling.index, contents, payload) {
            self.clear_payload(filling.index, contents);
            store.free(filling);
            return None;
        }
        store.stage(filling)
    }

    /// Writes the texts of an entry that the caller fills or amends.
    pub(crate) fn write_note(&self, index: usize, note: &Note) {
        let Some(words) = self.region.look_words(self.shape.entry(index), size_of::<Entry>() / 8) else {
            return;
        };
        put_words(&words[SERVICE_AT..HANDLER_AT], &put_name::<48>(&note.service));
        put_words(&words[HANDLER_AT..ERROR_AT], &put_name::<48>(&note.handler));
        put_words(&words[ERROR_AT..], &put_name::<96>(&note.error));
    }

    /// The texts of an entry; whether they belong together, a second look at its word tells.
    pub(crate) fn read_note(&self, index: usize) -> Note {
        let Some(words) = self.region.look_words(self.shape.entry(index), size_of::<Entry>() / 8) else {
            return Note::default();
        };
        Note {
            service: get_name(&take_words::<48>(&words[SERVICE_AT..HANDLER_AT])).to_owned(),
            handler: get_name(&take_words::<48>(&words[HANDLER_AT..ERROR_AT])).to_owned(),
            error: get_name(&take_words::<96>(&words[ERROR_AT..])).to_owned(),
        }
    }

    /// A dead letter: its word, and contents and texts that belong to it. `None`: there is none, or it changes too fast.
    pub(crate) fn read_letter(
        &self,
        store: Store<'_, Self>,
        index: usize,
    ) -> Option<(AsideWord, Contents, Note)> {
        for _ in 0..LETTER_READS {
            let (word, contents) = store.read(index)?;
            if !state::is_dead(word.state) {
                return None;
            }
            let note = self.read_note(index);
            if store.is_mine(Held { index, word }) {
                return Some((word, contents, note));
            }
        }
        None
    }

    fn write_payload(&self, index: usize, contents: &Contents, payload: &[u8]) -> bool {
        if !self.shape.is_inline(contents.stored_bytes()) {
            // No memory is an error here, where a store through a mapping would be a signal.
            return self.region.file().write_all_at(payload, self.shape.spill(index)).is_ok();
        }
        let words = self.region.look_words(self.shape.payload(index), self.shape.inline_bytes / 8);
        words.is_some_and(|words| {
            put_words(words, payload);
            true
        })
    }

    /// Copies the payload of an entry, and before it the extension block if it has one. False where it cannot be read. What is
    /// copied counts once the entry's word has been seen unchanged.
    pub(crate) fn copy_payload(&self, index: usize, contents: &Contents, copy: &mut Vec<u128>) -> bool {
        let len_bytes = contents.stored_bytes() as usize;
        copy.clear();
        if self.shape.is_inline(contents.stored_bytes()) {
            let words = self.region.look_words(self.shape.payload(index), self.shape.inline_bytes / 8);
            return words.is_some_and(|words| {
                copy_words(words, len_bytes, copy);
                true
            });
        }
        if len_bytes as u64 > self.shape.spill_bytes {
            return false;
        }
        copy.resize(len_bytes.div_ceil(16), 0);
        let bytes = &mut bytemuck::cast_slice_mut(copy.as_mut_slice())[..len_bytes];
        self.region.file().read_exact_at(bytes, self.shape.spill(index)).is_ok()
    }

    fn clear_payload(&self, index: usize, contents: &Contents) {
        if !self.shape.is_inline(contents.stored_bytes()) {
            let _ = file::punch(self.region.file(), self.shape.spill(index), self.shape.spill_bytes);
        }
    }

    /// A claimed message is done, or a dead letter is to go: its entry becomes free. False: it was lost, or has changed.
    pub(crate) fn clear(&self, store: Store<'_, Self>, held: Held, me: Holder) -> bool {
        let Some((_, contents)) = store.read(held.index) else { return false };
        if self.shape.is_inline(contents.stored_bytes()) {
            return store.acknowledge(held) || store.purge(held.index, held.word) || store.replayed(held);
        }
        if bus_core::is_broken("punch_before_take") {
            self.clear_payload(held.index, &contents);
        }
        let Some(taken) = store.take(held, me) else { return false };
        if bus_core::is_broken("free_before_clear") {
            store.free(taken);
        }
        self.clear_payload(taken.index, &contents);
        store.free(taken) || bus_core::is_broken("free_before_clear")
    }

    /// An amended message is done: its entry becomes free.
    pub(crate) fn end_amended(&self, store: Store<'_, Self>, amending: Held) {
        let Some((_, contents)) = store.read(amending.index) else { return };
        if let Some(taken) = store.finish_amended(amending) {
            self.clear_payload(taken.index, &contents);
            store.free(taken);
        }
    }

    /// A staged entry of the caller will not be committed.
    pub(crate) fn withdraw(&self, store: Store<'_, Self>, staged: Held) {
        // It stands for no message, and nobody but the caller ends it: what lies behind the table may go first.
        if let Some((_, contents)) = store.read(staged.index) {
            self.clear_payload(staged.index, &contents);
        }
        store.free(staged);
    }

    /// Makes room for a dead letter by the oldest that there is. `gone` is told what it is before that goes. False: there is none.
    pub(crate) fn drop_oldest_dead(
        &self,
        store: Store<'_, Self>,
        me: Holder,
        gone: impl Fn(&Contents),
    ) -> bool {
        let tell = |index: usize| {
            if let Some((word, contents)) = store.read(index)
                && state::is_dead(word.state)
            {
                gone(&contents);
            }
        };
        let Some(taken) = store.take_oldest_dead(me, tell) else { return false };
        if let Some((_, contents)) = store.read(taken.index) {
            self.clear_payload(taken.index, &contents);
        }
        store.free(taken)
    }
}

impl Table for AsideFile {
    fn reserved(&self) -> usize {
        // Acquire: pairs with the Release of `grow`.
        let reserved = self.region.look(at::RESERVED).map_or(0, |word| word.load(Ordering::Acquire));
        (reserved as usize).min(self.shape.bound)
    }

    fn bound(&self) -> usize {
        self.shape.bound
    }

    fn entry(&self, index: usize) -> Option<&[AtomicU64; ENTRY_WORDS]> {
        if index >= self.reserved() {
            return None;
        }
        self.region.look_words(self.shape.entry(index), ENTRY_WORDS)?.try_into().ok()
    }

    fn counter(&self, which: Counter) -> &AtomicU64 {
        let offset = match which {
            Counter::Full => at::FULL_COUNT,
            Counter::Dropped => at::DROPPED_COUNT,
            Counter::Dead => at::DEAD_COUNT,
            Counter::Waiting => at::WAITING_COUNT,
        };
        self.region.look(offset).expect("the first page is mapped, and the file had it at attach")
    }
}

/// Stores bytes into words that others may read meanwhile.
fn put_words(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut value = [0_u8; 8];
        value[..chunk.len()].copy_from_slice(chunk);
        // Relaxed: the step that ends FILLING or AMENDING publishes them.
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
}

fn take_words<const BYTES: usize>(words: &[AtomicU64]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (chunk, word) in bytes.chunks_mut(8).zip(words) {
        chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
    }
    bytes
}
