//! Who joins, leaves and dies, told on `_bus.events`, once that topic exists.
//!
//! What has been told stands in the participant's entry, so that a successor tells what its predecessor could not: it finds entries
//! whose joining or end nobody was told of. A word there names an incarnation and only grows, since a holder that was superseded, or its
//! thread, may be late. It is changed after the event is published: a holder that dies between the two has its successor tell it once
//! more, never not at all.

use super::Supervisor;
use super::events::{Event, Receipt, SERVICE};
use crate::lease::{ParticipantInfo, entry_offset};
use crate::presence::head;
use crate::region::Region;
use crate::sys::process;
use bus_core::holder::participant;
use bus_core::layout::superblock::told;
use bus_core::sync::{AtomicU64, Ordering};

/// Names of topics in an event of a death.
const TOPICS_MAX: usize = 12;

/// How a process ended, as its entry keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    has_left: bool,
    /// As `wait` gives it, where that was to be seen.
    status: Option<u16>,
}

impl End {
    fn pack(self, tag: u32) -> u64 {
        let status = self.status.map_or(0, |status| 1 << 8 | u64::from(status) << 16);
        u64::from(tag) << 32 | status | if self.has_left { 1 } else { 2 }
    }

    /// That of this incarnation.
    fn unpack(word: u64, tag: u32) -> Option<Self> {
        let kind = word & 0xff;
        ((word >> 32) as u32 == tag && matches!(kind, 1 | 2)).then_some(Self {
            has_left: kind == 1,
            status: (word >> 8 & 1 == 1).then_some((word >> 16) as u16),
        })
    }
}

/// What a death was about, for people.
fn cause_of(status: Option<u16>) -> String {
    match status {
        None => "unknown".into(),
        Some(status) if status & 0x7f != 0 => format!("signal {}", status & 0x7f),
        Some(status) => format!("exit {}", status >> 8),
    }
}

/// What the sweep of a dead process has found.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) topics: Vec<String>,
    /// Messages in hand.
    pub(super) in_hand: u64,
}

fn word(superblock: &Region, number: u16, offset: usize) -> Option<&AtomicU64> {
    superblock.look(entry_offset(number) as usize + offset)
}

/// Has this incarnation's event been told?
pub(super) fn is_told(superblock: &Region, receipt: Receipt) -> bool {
    word(superblock, receipt.participant, receipt.offset)
        .is_none_or(|word| !is_later(receipt.incarnation, word.load(Ordering::Acquire) as u32))
}

/// It has been told.
pub(super) fn tell(superblock: &Region, receipt: Receipt) {
    if let Some(word) = word(superblock, receipt.participant, receipt.offset) {
        raise(word, u64::from(receipt.incarnation), |seen| seen as u32, receipt.incarnation);
    }
}

/// Is this incarnation later than the other? They count on, and wrap.
fn is_later(tag: u32, than: u32) -> bool {
    tag.wrapping_sub(than).cast_signed() > 0
}

/// Changes a word to one of a later incarnation.
fn raise(word: &AtomicU64, to: u64, tag_of: impl Fn(u64) -> u32, tag: u32) {
    let mut seen = word.load(Ordering::Acquire);
    while is_later(tag, tag_of(seen)) {
        match word.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

impl Supervisor {
    /// Is there anybody to be told?
    pub(super) fn is_told_to_any(&self) -> bool {
        self.events.has_topic()
            && !(self.temporary && self.watched.iter().all(|(info, _)| info.service == SERVICE))
    }

    fn push_told(&self, event: impl FnOnce() -> Event, service: &str, receipt: Receipt) {
        // The thread that publishes events would tell of itself for ever. Nor is that noted: it may have the entry of one whose joining
        // waits for it in the queue, and is not to be passed over.
        if service == SERVICE || is_told(&self.superblock, receipt) {
            return;
        }
        if self.is_told_to_any() {
            self.events.push_told(event(), receipt);
        } else {
            // Nobody is there to be told, now or later.
            tell(&self.superblock, receipt);
        }
    }

    /// A process takes part.
    pub(super) fn tell_joined(&self, info: &ParticipantInfo) {
        let receipt = Receipt { participant: info.participant, incarnation: info.tag, offset: told::JOINED };
        self.push_told(|| event_of("join", info), &info.service, receipt);
    }

    /// How it ended, before its sweep begins: whoever completes that one tells it.
    pub(super) fn note_end(&self, info: &ParticipantInfo, has_left: bool) {
        let has_left = has_left || head::read(&self.dir.lease(info.participant, info.tag)).has_left;
        let status = (!has_left && info.is_of_namespace())
            .then(|| process::end_status(info.pid, info.start_ticks()))
            .flatten();
        if let Some(word) = word(&self.superblock, info.participant, told::ENDED) {
            let to = End { has_left, status }.pack(info.tag);
            raise(word, to, |seen| (seen >> 32) as u32, info.tag);
        }
    }

    /// The entry has just become free.
    pub(super) fn tell_end(&self, number: u16, tag: u32, held: &Held) {
        let Some(ended) = word(&self.superblock, number, told::ENDED) else { return };
        let Some(end) = End::unpack(ended.load(Ordering::Acquire), tag) else { return };
        let Some(info) = self.participants.last(number).filter(|info| info.tag == tag) else { return };
        // One that was gone before anybody was told of it.
        self.tell_joined(&info);
        let receipt = Receipt { participant: number, incarnation: tag, offset: told::END };
        let event = || match end.has_left {
            true => event_of("leave", &info),
            false => {
                let names = held.topics.iter().take(TOPICS_MAX).map(String::as_str);
                let event = event_of("death", &info).text("cause", &cause_of(end.status));
                event
                    .number("in_hand", held.in_hand)
                    .number("topic_count", held.topics.len() as u64)
                    .list("topics", names)
            }
        };
        self.push_told(event, &info.service, receipt);
    }

    /// What a predecessor was not able to tell.
    pub(super) fn tell_left_over(&self) {
        for number in 0..self.participants.reserved() {
            let Some((_, seen)) = self.entry_word(number) else { break };
            match seen.state {
                participant::LIVE => {
                    if let Some(info) = self.participants.live(number) {
                        self.tell_joined(&info);
                    }
                }
                // Its sweep was completed by one that did not live to tell it.
                participant::FREE if seen.tag != 0 => self.tell_end(number, seen.tag, &Held::default()),
                _ => {}
            }
        }
    }
}

fn event_of(kind: &str, info: &ParticipantInfo) -> Event {
    Event::new(kind)
        .text("service", &info.service)
        .number("pid", info.pid.into())
        .number("participant", info.participant.into())
        .number("incarnation", info.tag.into())
        .number("since_ns", info.since_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_was_noted() {
        for end in [
            End { has_left: true, status: None },
            End { has_left: false, status: None },
            End { has_left: false, status: Some(9) },
            End { has_left: false, status: Some(3 << 8) },
        ] {
            assert_eq!(End::unpack(end.pack(7), 7), Some(end));
            assert_eq!(End::unpack(end.pack(7), 8), None, "of another incarnation");
        }
        assert_eq!(End::unpack(0, 0), None, "never noted");
        assert_eq!(
            (cause_of(None), cause_of(Some(9)), cause_of(Some(3 << 8))),
            ("unknown".into(), "signal 9".into(), "exit 3".into())
        );
    }

    #[test]
    fn a_late_holder_takes_nothing_back() {
        let word = AtomicU64::new(0);
        raise(&word, 5, |seen| seen as u32, 5);
        raise(&word, 4, |seen| seen as u32, 4);
        assert_eq!(word.load(Ordering::Relaxed), 5);
        word.store(u64::from(u32::MAX), Ordering::Relaxed);
        raise(&word, 1, |seen| seen as u32, 1);
        assert_eq!(word.load(Ordering::Relaxed), 1, "incarnations wrap");
    }
}
