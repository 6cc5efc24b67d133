//! The next message where nothing has to be decided about it, and what a cell says of itself.

use super::LaneReader;
use crate::finding::Finding;
use crate::topic::LaneRing;
use bus_core::group::{self, Handed};
use bus_core::header::{HEADER_WORDS, Header, flags, producer_entry, producer_tag, tag_names};
use bus_core::owner::{OwnerWord, Owners, QuickLook};
use bus_core::ring::Slot;
use bus_core::sync::{AtomicU64, Ordering};

/// In the description of a slot: the payload does not begin right behind its header.
const ELSEWHERE: u64 = ((flags::ARENA | flags::EXTENSION) as u64) << 56;

/// A message in a cell: that it is the right one, and inside of the mapping, has been checked of the word that is kept here. Two words, which
/// travel in registers.
pub(super) struct InCell {
    words: &'static [AtomicU64; HEADER_WORDS],
    /// Word 1 of its header.
    description: u64,
}

impl InCell {
    /// What that word says; the rest is 0.
    pub(super) fn described(&self) -> Header {
        Header::from_words([self.description, 0, 0])
    }

    pub(super) fn header(&self) -> Header {
        let [_, _, stamp, reference] = self.words;
        Header::from_words([
            self.description,
            stamp.load(Ordering::Relaxed),
            reference.load(Ordering::Relaxed),
        ])
    }

    /// It follows the header and, where there is one, the extension.
    pub(super) fn payload(&self) -> *const u8 {
        self.words.as_ptr_range().end.cast::<u8>().wrapping_add(self.described().extension_bytes())
    }
}

impl LaneReader {
    /// Takes the message at the reader's position where it is known to be there and nothing has to be decided: kept for this reader, new to
    /// its group, in its slot or in a cell whose arena is known, and `is_usual` by the description in its header. False if
    /// [`LaneReader::take`] has to look; nothing has been recorded then.
    #[inline(always)]
    pub(crate) fn take_direct(&mut self, is_usual: impl Fn(u64) -> bool, finding: &mut Finding) -> bool {
        let Some(handed) = self.direct else { return false };
        if self.ahead.known_count() == 0 {
            return false;
        }
        let sequence = self.ahead.next();
        let now = self.now.next(sequence);
        if now.times != 1 {
            return false;
        }
        let Some(found) = self.find_direct(sequence, is_usual) else { return false };
        *finding = found;
        self.hand_out_direct(handed, now, sequence);
        true
    }

    /// Shared: takes the message at the reader's position, or one behind others that are taken, where it is known to be there, nobody has had it,
    /// and it `is_usual` as above. `None` if more has to be decided; nothing has been claimed then.
    #[inline]
    pub(crate) fn claim_direct(
        &mut self,
        owners: &Owners<'_>,
        member: u16,
        is_usual: impl Fn(u64) -> bool,
        finding: &mut Finding,
    ) -> Option<OwnerWord> {
        loop {
            if self.ahead.known_count() == 0 {
                return None;
            }
            let sequence = self.ahead.next();
            let untouched = match owners.quick_look(sequence) {
                QuickLook::Untouched(word) if !self.copies_at(sequence) => word,
                QuickLook::Taken if self.ahead.known_count() > 1 => {
                    self.ahead.advance();
                    continue;
                }
                _ => return None,
            };
            self.ask_for_claims(owners, sequence);
            let found = self.find_direct(sequence, &is_usual)?;
            let Some(claim) = owners.claim_untouched(sequence, member, untouched) else { continue };
            *finding = found;
            self.ahead.advance();
            return Some(claim);
        }
    }

    /// Where a message lies that is known to be there, and what it says of itself. `None` if that takes more than a look, or it is none of the usual
    /// ones.
    #[inline(always)]
    fn find_direct(&mut self, sequence: u64, is_usual: impl Fn(u64) -> bool) -> Option<Finding> {
        let found = match self.ring {
            LaneRing::Spsc(ring) => {
                self.ask_ahead(ring, sequence);
                let (words, body) = ring.published(sequence)?;
                let header = Header::load(words);
                let description = header.description();
                if description & ELSEWHERE == 0 {
                    // Not put together with the other cases below: what they have in common would go through memory.
                    if description as u32 as usize > ring.inline_bytes() || !is_usual(description) {
                        return None;
                    }
                    return Some(Finding { sequence, header, payload: body.as_ptr().cast::<u8>(), times: 1 });
                }
                self.named_cell(sequence, description, header.reference)
            }
            LaneRing::Mpmc(ring) => {
                let Slot::Filled(name) = ring.slot(sequence) else { return None };
                self.try_cell(sequence, name.producer, None, name.cell)
            }
        };
        let found = found.filter(|found| is_usual(found.description))?;
        Some(Finding { sequence, header: found.header(), payload: found.payload(), times: 1 })
    }

    /// What `take_direct` has found is handed out.
    #[inline(always)]
    fn hand_out_direct(&mut self, handed: &AtomicU64, now: Handed, sequence: u64) {
        if !bus_core::is_broken("known_hand_out_late") {
            group::hand_out(handed, now);
        }
        self.now = now;
        if bus_core::is_broken("known_acknowledge_early") {
            self.acknowledge(sequence);
        }
        self.ahead.advance();
    }

    /// What a slot names in the arena, by two words of its header. `None` if that takes more than a look.
    #[inline(never)]
    fn named_cell(&mut self, sequence: u64, description: u64, cell: u64) -> Option<InCell> {
        // One with an extension is none of the usual ones.
        if description & ELSEWHERE != u64::from(flags::ARENA) << 56 {
            return None;
        }
        let mark = (description >> 32) as u16;
        self.try_cell(sequence, producer_entry(mark), Some(mark), cell as u32)
    }

    #[inline(always)]
    pub(super) fn try_cell(
        &mut self,
        sequence: u64,
        producer: u16,
        mark: Option<u16>,
        cell: u32,
    ) -> Option<InCell> {
        let (tag, view) = self.arenas.get_mut(usize::from(producer))?.as_mut()?;
        if mark.is_some_and(|mark| producer_tag(mark, *tag) != *tag) {
            return None;
        }
        let words = view.header_words(cell)?;
        let found = InCell { words, description: words[1].load(Ordering::Relaxed) };
        let header = found.described();
        // A view of a former producer's arena shows in the tag.
        (tag_names(words[0].load(Ordering::Relaxed), sequence)
            && header.len_bytes <= self.max_bytes
            && producer_entry(header.producer) == producer
            && view.has_body(cell, u64::from(header.len_bytes) + header.extension_bytes() as u64))
        .then_some(found)
    }
}
