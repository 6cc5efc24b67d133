//! Lines that are asked for before they are needed.

use super::LaneReader;
use crate::sys::prefetch::{self, CLAIMS_AHEAD, LINE_BYTES, LINE_WORDS, SLOTS_AHEAD};
use crate::topic::LaneRing;
use bus_core::header::HEADER_BYTES;
use bus_core::owner::Owners;
use bus_core::ring::{Slot, spsc};

impl LaneReader {
    /// Is there anything at the reader's position? As quick as a look at a lane that is empty can be. The first message after a gap is asked
    /// for as soon as it is seen: its lines come while the reader finds its way to them.
    #[inline(always)]
    pub(crate) fn is_filled(&self) -> bool {
        let next = self.ahead.next();
        let first_line = match &self.ring {
            LaneRing::Mpmc(ring) => match ring.slot(next) {
                Slot::Empty => return false,
                Slot::Lapped => return true,
                Slot::Filled(name) => match self.arenas.get(usize::from(name.producer)) {
                    Some(Some((_, view))) => view.address(name.cell),
                    _ => return true,
                },
            },
            LaneRing::Spsc(ring) => match ring.slot(next) {
                Slot::Empty => {
                    // Both lines of a message are waited for, so that the second is on its way when the first says that it is there.
                    if ring.inline_bytes() > LINE_BYTES - HEADER_BYTES {
                        prefetch::line_for_reading(ring.slot_address(next).wrapping_add(LINE_BYTES));
                    }
                    return false;
                }
                Slot::Lapped => return true,
                Slot::Filled(words) => words.as_ptr().cast::<u8>(),
            },
        };
        prefetch::for_reading(first_line);
        true
    }

    /// The work on a message keeps the processor from running ahead to the next ones by itself. Not beyond what is known to be
    /// published: those lines are being written.
    #[inline(always)]
    pub(super) fn ask_ahead(&self, ring: spsc::Ring<'static>, sequence: u64) {
        if self.known_count() > SLOTS_AHEAD {
            prefetch::for_reading(ring.slot_address(sequence.wrapping_add(SLOTS_AHEAD)));
        }
    }

    /// Shared: the same. A claim is a locked instruction, behind which the processor does not run ahead: with many producers it would find each
    /// cell only when its turn has come.
    #[inline(always)]
    pub(super) fn ask_for_claims(&self, owners: &Owners<'_>, sequence: u64) {
        if sequence.is_multiple_of(LINE_WORDS) {
            prefetch::line_for_writing(owners.address(sequence.wrapping_add(LINE_WORDS)).cast());
        }
        if let LaneRing::Mpmc(ring) = &self.ring
            && self.known_count() > CLAIMS_AHEAD
            && let Slot::Filled(name) = ring.slot(sequence.wrapping_add(CLAIMS_AHEAD))
            && let Some(Some((_, view))) = self.arenas.get(usize::from(name.producer))
        {
            prefetch::for_reading(view.address(name.cell));
        }
    }
}
