//! What became of messages that a group finished without handling them: one record for each residue of the sequence.
//!
//! ```text
//! bit   0..4      4..12                         12..64
//!       outcome   attempts of the owner's claim   sequence / records
//! ```
//!
//! Who follows a message sees from the group's cursor that it is finished. What is not said here, and does not lie in the
//! aside store, was handled. So a record is stored **before** the message is settled (`OUTCOME`): whoever sees the cursor beyond the
//! message, or its owner word DONE, sees the record, or a later message's in its place. In the latter case nothing is known any
//! more, and that is the answer; it is never "handled".
//!
//! **Whose record counts.** In a shared group a claim may be taken back at any time, so a slow member may store the record of
//! a message that another handles. Each claim of a message counts one attempt more, the record has the attempts of its claim, and
//! DONE has those of the claim that settled the message: what does not agree is not meant. Words only grow, so a late record
//! does not overwrite that of a later claim. What comes out of the aside store is of no such claim: it is recorded as
//! [`FINAL`], in a state of its entry that only its holder or the proof of its death ends, with the attempts of the entry. Whoever
//! has the entry next clears the records of fewer attempts than its own, and no others: it may be slow too. In a group of one there is one
//! writer at a time; what a dead one has left of a message that comes again is cleared before that is handed out.
//!
//! [`GONE`] is above all others of its message: a dead letter of a group is never anything else.

use crate::sync::{AtomicU64, Ordering};

/// Nothing is said.
pub const NONE: u8 = 0;
/// Its time to live was over.
pub const EXPIRED: u8 = 1;
/// The group did not want it: a filter, or another type.
pub const SKIPPED: u8 = 2;
/// It was overwritten before the group came to it.
pub const MISSED: u8 = 3;
/// It was a dead letter, which has been purged, replayed, or has made room for another.
pub const GONE: u8 = 4 | FINAL;
/// It may have been a dead letter, of this group or of one that had its entry before: nobody can tell.
pub const UNKNOWN: u8 = 5 | FINAL;
/// Bit of an outcome that was decided while nobody else could settle the message: it counts whoever had claimed it.
pub const FINAL: u8 = 8;

const ATTEMPTS_SHIFT: u32 = 4;
const SEQUENCE_SHIFT: u32 = 12;

/// What the records say of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// This outcome, by the claim that counted so many attempts.
    Is {
        /// One of the constants of this module.
        outcome: u8,
        /// Of the claim in a shared group; 0 in others.
        attempts: u8,
    },
    /// A later message has taken its place: nothing is known.
    Later,
}

/// The records of one lane.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    words: &'a [AtomicU64],
    records_log2: u32,
}

const fn pack(high: u64, outcome: u8, attempts: u8) -> u64 {
    high << SEQUENCE_SHIFT | (attempts as u64) << ATTEMPTS_SHIFT | outcome as u64
}

const fn outcome_of(word: u64) -> u8 {
    word as u8 & 0xf
}

impl<'a> Records<'a> {
    /// Views `words`. `None` if their number is not a power of two.
    pub fn attach(words: &'a [AtomicU64]) -> Option<Self> {
        words.len().is_power_of_two().then(|| Self { words, records_log2: words.len().trailing_zeros() })
    }

    fn word(&self, sequence: u64) -> &AtomicU64 {
        &self.words[sequence as usize & (self.words.len() - 1)]
    }

    fn high(&self, sequence: u64) -> u64 {
        // 52 bits: with 64 records, 2^58 messages of a lane.
        sequence >> self.records_log2 & (u64::MAX >> SEQUENCE_SHIFT)
    }

    /// Records what is about to become of a message, before it is settled: by the claim that counted so many attempts, 0 in a group of one. What
    /// a later claim, or a later message, has left there stays.
    pub fn record(&self, sequence: u64, outcome: u8, attempts: u8) {
        // Above whatever a claim may still say of the message.
        let attempts = if matches!(outcome, GONE | UNKNOWN) { u8::MAX } else { attempts };
        // Release, OUTCOME: for whoever finds it here; that a follower does is the settlement's Release.
        self.word(sequence).fetch_max(pack(self.high(sequence), outcome, attempts), Ordering::AcqRel);
    }

    /// A group of one: a message comes again, and what a former member was about to do with it does not count.
    pub fn clear(&self, sequence: u64) {
        self.clear_if(sequence, |outcome, _| outcome != GONE);
    }

    /// A message comes again out of the aside store, for so many attempts: what a former holder of its entry was about to do with it does
    /// not count.
    pub fn clear_entry(&self, sequence: u64, attempts: u8) {
        self.clear_if(sequence, |outcome, by| outcome != GONE && outcome & FINAL != 0 && by < attempts);
    }

    fn clear_if(&self, sequence: u64, is_meant: impl Fn(u8, u8) -> bool) {
        let (word, high) = (self.word(sequence), self.high(sequence));
        let seen = word.load(Ordering::Acquire);
        let (outcome, attempts) = (outcome_of(seen), (seen >> ATTEMPTS_SHIFT) as u8);
        if seen >> SEQUENCE_SHIFT == high && outcome != NONE && is_meant(outcome, attempts) {
            // Fails where somebody else has recorded since.
            let _ = word.compare_exchange(seen, pack(high, NONE, 0), Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// The record at an index, and of which message it is; `None` where there never was one.
    pub fn at(&self, index: u64) -> Option<(u64, Said)> {
        let word = self.words.get(index as usize)?.load(Ordering::Acquire);
        let said = Said::Is { outcome: outcome_of(word), attempts: (word >> ATTEMPTS_SHIFT) as u8 };
        (word != 0).then_some(((word >> SEQUENCE_SHIFT) << self.records_log2 | index, said))
    }

    /// What is said of a message. Asked after it was seen to be finished.
    pub fn look(&self, sequence: u64) -> Said {
        // Acquire: keeps later looks at the group's state behind it.
        let seen = self.word(sequence).load(Ordering::Acquire);
        match (seen >> SEQUENCE_SHIFT).cmp(&self.high(sequence)) {
            core::cmp::Ordering::Greater => Said::Later,
            core::cmp::Ordering::Equal if outcome_of(seen) != NONE => {
                Said::Is { outcome: outcome_of(seen), attempts: (seen >> ATTEMPTS_SHIFT) as u8 }
            }
            _ => Said::Nothing,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn memory() -> Vec<AtomicU64> {
        (0..64).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_record_is_of_one_message_and_of_none_before_it() {
        let memory = memory();
        let records = Records::attach(&memory).unwrap();
        assert_eq!(records.look(5), Said::Nothing);
        records.record(5 + 64, EXPIRED, 7);
        assert_eq!(records.look(5 + 64), Said::Is { outcome: EXPIRED, attempts: 7 });
        assert_eq!((records.look(5), records.look(5 + 128)), (Said::Later, Said::Nothing));
        records.record(5, SKIPPED, 1);
        assert_eq!(records.look(5 + 64), Said::Is { outcome: EXPIRED, attempts: 7 }, "too late, and no harm");
        let far = 64 * ((1 << 52) - 1) + 5;
        records.record(far, MISSED, u8::MAX);
        assert_eq!(records.look(far), Said::Is { outcome: MISSED, attempts: u8::MAX });
    }

    #[test]
    fn a_late_record_does_not_overwrite_that_of_a_later_claim() {
        let memory = memory();
        let records = Records::attach(&memory).unwrap();
        records.record(5, EXPIRED, 3);
        records.record(5, SKIPPED, 2);
        assert_eq!(records.look(5), Said::Is { outcome: EXPIRED, attempts: 3 });
        records.clear(5);
        assert_eq!((records.look(5), records.look(5 + 64)), (Said::Nothing, Said::Nothing));
        records.record(5, SKIPPED, 0);
        assert_eq!(records.look(5), Said::Is { outcome: SKIPPED, attempts: 0 });
    }

    #[test]
    fn who_has_an_entry_clears_what_was_said_before_and_not_after() {
        let memory = memory();
        let records = Records::attach(&memory).unwrap();
        records.record(5, SKIPPED | FINAL, 3);
        records.clear_entry(5, 2);
        records.clear_entry(5, 3);
        assert_eq!(records.look(5), Said::Is { outcome: SKIPPED | FINAL, attempts: 3 });
        records.clear_entry(5, 4);
        assert_eq!(records.look(5), Said::Nothing);
        records.record(5, SKIPPED, 1);
        records.clear_entry(5, 4);
        assert_eq!(
            records.look(5),
            Said::Is { outcome: SKIPPED, attempts: 1 },
            "a claim's is told by its attempts"
        );
    }

    #[test]
    fn what_nobody_can_tell_is_above_what_claims_say_until_the_message_comes_again() {
        let memory = memory();
        let records = Records::attach(&memory).unwrap();
        let unknown = Said::Is { outcome: UNKNOWN, attempts: u8::MAX };
        records.record(9, UNKNOWN, 0);
        records.record(9, SKIPPED, 7);
        records.clear_entry(9, 8);
        assert_eq!(records.look(9), unknown);
        records.record(9, GONE, 0);
        assert_eq!(records.look(9), unknown);
        records.clear(9);
        assert_eq!(records.look(9), Said::Nothing);
    }

    #[test]
    fn a_dead_letter_that_is_gone_stays_one() {
        let memory = memory();
        let records = Records::attach(&memory).unwrap();
        records.record(9, GONE, 0);
        records.clear(9);
        records.record(9, SKIPPED, u8::MAX);
        assert!(matches!(records.look(9), Said::Is { outcome: GONE, .. }));
    }
}
