//! A publisher's place in its topic.

use crate::bus::BusInner;
use crate::error::AttachError;
use crate::repair::{self, Keep};
use crate::topic::TopicCore;
use bus_core::group;
use bus_core::holder::{HolderWord, producer};
use bus_core::layout::ring;
use bus_core::sync::Ordering;

/// Takes a free producer entry. A one-producer topic has one, taken over only after proof of its holder's death.
pub(super) fn claim_entry(bus: &BusInner, core: &TopicCore) -> Result<(u16, HolderWord), AttachError> {
    let count = core.config().producers as usize;
    for keep in [Keep::Retained, Keep::Unread] {
        for index in 0..count {
            let Some(word) = core.ring_word(ring::producer_state(index)) else { break };
            let mut seen = HolderWord::unpack(word.load(Ordering::Acquire));
            if seen.state == producer::LIVE && bus.participants().is_dead(seen.holder) {
                repair::retire(core, index, word, seen);
                seen = HolderWord::unpack(word.load(Ordering::Acquire));
            }
            // The successor in a one-producer lane takes the entry while its predecessor's messages are still unread:
            // the old arenas keep their names, which carry the predecessor's tag.
            let free = seen.state == producer::FREE || (count == 1 && seen.state == producer::RETIRED);
            if free && let Some(live) = group::change(word, seen, seen.next(producer::LIVE, bus.me())) {
                if count == 1 {
                    repair::reclaim_producers(core, Keep::Retained);
                }
                return Ok((index as u16, live));
            }
        }
        // Nothing free: give up what late readers could still ask for, and at last only what nobody waits for.
        if keep == Keep::Retained || count > 1 {
            repair::reclaim_producers(core, keep);
        }
    }
    for index in 0..count {
        let Some(word) = core.ring_word(ring::producer_state(index)) else { break };
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if seen.state == producer::FREE
            && let Some(live) = group::change(word, seen, seen.next(producer::LIVE, bus.me()))
        {
            return Ok((index as u16, live));
        }
    }
    // As in a one-producer lane: succeed one that has left, whose unread messages stay in arenas of their own.
    for index in 0..count {
        let Some(word) = core.ring_word(ring::producer_state(index)) else { break };
        let seen = HolderWord::unpack(word.load(Ordering::Acquire));
        if seen.state == producer::RETIRED
            && let Some(live) = group::change(word, seen, seen.next(producer::LIVE, bus.me()))
        {
            return Ok((index as u16, live));
        }
    }
    // A live holder can be asked to leave; of the others, unread messages are left, which only their readers can end.
    let live = (0..count).find_map(|index| {
        let seen = HolderWord::unpack(core.ring_word(ring::producer_state(index))?.load(Ordering::Acquire));
        (seen.state == producer::LIVE).then_some(seen.holder)
    });
    let holder = match live {
        Some(holder) => {
            let (pid, service) = bus.participants().describe(holder);
            format!("{service} (pid {pid})")
        }
        None => "unread messages of a publisher that has left".into(),
    };
    Err(AttachError::ProducerLimit { topic: core.name().to_owned(), max: count as u32, holder })
}
