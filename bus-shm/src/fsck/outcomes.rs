//! What groups finished without handling: the records of whoever follows messages.

use super::{Invariant, Look, Place, files};
use crate::group::display_name;
use crate::outcomes::OutcomesFile;
use crate::region::Access;
use crate::topic::TopicCore;
use bus_core::layout::outcomes::{footprint_bytes, mark};
use bus_core::layout::{PAGE_BYTES, outcomes as layout};
use bus_core::outcome::{EXPIRED, FINAL, GONE, MISSED, NONE, SKIPPED, Said, UNKNOWN};

pub(super) fn check(look: &mut Look<'_>, core: &TopicCore, ends: &[Option<u64>]) {
    for group in 0..core.groups_reserved() {
        let path = core.dir().outcomes(group);
        if !path.exists() {
            continue;
        }
        let place =
            Place::topic(core.name()).group(display_name(core, group)).file(format!("outcomes-{group}"));
        let file = match OutcomesFile::attach(core, group, Access::Read) {
            Ok(Some(file)) => file,
            // It, or the topic, is being removed.
            Ok(None) => continue,
            Err(_) if !path.exists() => continue,
            Err(error) => {
                files::unreadable(look, place, 0, &error);
                continue;
            }
        };
        let marks = file.marks();
        if marks & !(mark::ASIDE | mark::RECORDS | mark::LOST) != 0 {
            let found = format!("marks {marks:#x}");
            look.suspect(Invariant::OutcomeRecord, place.clone(), [marks, 0], found, "known marks");
        }
        let records = layout::records(core.config().capacity);
        let has_records = marks & mark::RECORDS != 0;
        let bytes = if has_records { footprint_bytes(core.lanes(), records) } else { PAGE_BYTES };
        files::check_backed(look, &place, &path, bytes);
        for (lane, end) in ends.iter().enumerate() {
            // Nothing can be said of a lane whose end is not known.
            let (Some(words), Some(_)) = (file.records(lane), end) else { continue };
            for index in 0..records as u64 {
                let Some((sequence, said)) = words.at(index) else { continue };
                let Said::Is { outcome, attempts } = said else { continue };
                let is_known = matches!(outcome, GONE | UNKNOWN)
                    || matches!(outcome & !FINAL, NONE | EXPIRED | SKIPPED | MISSED);
                // The record first: the end only grows.
                if is_known && sequence < core.end(lane) {
                    continue;
                }
                let found = format!("outcome {outcome} of message {sequence}");
                let witness = [sequence, u64::from(outcome) << 8 | u64::from(attempts)];
                let place = place.clone().lane(lane).entry(sequence);
                look.suspect(Invariant::OutcomeRecord, place, witness, found, "one that is published");
            }
        }
    }
}
