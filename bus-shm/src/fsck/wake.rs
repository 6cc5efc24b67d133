//! The small words: a topic's state and breaker, and the places of those who spin.
//!
//! That nobody sleeps while a message waits is not checked: a bell stays armed when its last sleeper gives up by itself, so no
//! value of it is wrong; who sleeps where is known to the kernel alone.

use super::{Invariant, Look, Place};
use crate::region::{Access, Region};
use crate::topic::TopicCore;
use bus_core::layout::superblock::{at as bus_at, spin};
use bus_core::layout::wake::{at, breaker, state};
use bus_core::limits::PARTICIPANTS_MAX;
use bus_core::sync::Ordering;

pub(super) fn check_topic(look: &mut Look<'_>, core: &TopicCore) {
    let place = || Place::topic(core.name()).file("wake");
    // The topic before the bus: a bus is closed first.
    let found = core.wake_half(at::STATE).map_or(0, |word| word.load(Ordering::Acquire));
    let bus = look.roll.word(bus_at::STATE).map_or(1, |word| word.load(Ordering::Acquire));
    if state::is_closed(found) && bus == 0 {
        let expected = "bit 0 clear, as the bus is open";
        look.suspect(
            Invariant::WakeState,
            place(),
            [u64::from(found), 0],
            format!("state {found}"),
            expected,
        );
    }
    let word = core.wake_word(at::BREAKER);
    let (found, ..) = breaker::unpack(word);
    if found > breaker::HALF_OPEN {
        look.suspect(Invariant::WakeBreaker, place(), [word, 0], format!("state {found}"), "0 to 2");
    }
}

pub(super) fn check_spin(look: &mut Look<'_>) {
    let Ok((region, _)) = Region::attach(&look.dir.spin(), spin::MAGIC, Access::Read, None) else { return };
    for index in 0..spin::SLOTS {
        let Some(word) = region.look(spin::slot(index)) else { break };
        let seen = word.load(Ordering::Acquire);
        let holds = || word.load(Ordering::Acquire) == seen;
        let is_wrong = match seen.checked_sub(1) {
            None => false,
            Some(number) if number >= u64::from(PARTICIPANTS_MAX) => true,
            Some(number) => look.roll.number_has_left(number as u16, holds),
        };
        if is_wrong {
            let place = Place::bus().file("spin").entry(index as u64);
            let found = format!("participant {}", seen.wrapping_sub(1));
            look.suspect(Invariant::SpinHolder, place, [seen, 0], found, "nobody, or one that is registered");
        }
    }
}
