//! What waits in the store of a keyed group's partitions, and what has become of what was in hand.

use super::queue::{Aside, Place};
use super::{Membership, RESCAN_NS, RawSubscriber, place_of};
use crate::subscriber::Failure;
use crate::sys::clock::monotonic_ns;
use bus_core::aside::{AsideClaim, AsideWord, Contents, Held};
use bus_core::layout::aside::state as aside;
use bus_core::owner::state;
use std::collections::BTreeMap;

/// An entry that somebody else is still at.
const fn busy(index: usize) -> Aside {
    Aside::Stored { index, not_before_ns: None }
}

const fn waiting(index: usize, contents: &Contents) -> Aside {
    Aside::Stored { index, not_before_ns: Some(contents.not_before_ns) }
}

/// What has become of a message.
enum Fate {
    InHand,
    /// It is to be handed out again.
    Open,
    Aside(Aside),
    /// It is finished, or was put aside and that is known.
    Over,
}

fn is_at(contents: &Contents, place: Place) -> bool {
    let at = (usize::from(contents.lane), contents.key, contents.sequence);
    at == (place.lane(), place.key, place.sequence)
}

impl RawSubscriber {
    /// What lies in the store of this member's partitions? False: not all of it could be seen, and nothing has changed.
    pub(super) fn scan_store(&mut self) -> bool {
        let Self { keyed: Some(keyed), late: Some(late), core, membership, .. } = self else { return true };
        let Membership::Shared(_, owners) = &*membership else { return true };
        let mut found = BTreeMap::new();
        let mut again = false;
        let store = match late.try_store(core) {
            Ok(store) => store.map(|(_, store)| store),
            Err(_) => return false,
        };
        for index in 0..store.map_or(0, |store| store.len()) {
            let Some((store, word)) = store.and_then(|store| Some((store, store.look(index)?))) else {
                break;
            };
            let is_unfinished =
                matches!(word.state, aside::STAGED | aside::WAITING | aside::CLAIMED | aside::AMENDING);
            if !is_unfinished {
                continue;
            }
            let Some((word, contents)) = store.read(index) else { return false };
            let lane = usize::from(contents.lane);
            if lane >= core.lanes() {
                continue;
            }
            let place = Place::new(lane, contents.key, contents.sequence);
            let Some(mine) = keyed.owned[place.partition()] else { continue };
            let entry = match word.state {
                aside::WAITING => waiting(index, &contents),
                aside::CLAIMED if keyed.hands.has(lane, contents.sequence) => continue,
                aside::CLAIMED => {
                    // A former owner's.
                    if !keyed.seated.keys().is_mine(place.partition(), mine) {
                        keyed.lose(place.partition());
                        continue;
                    }
                    let _ = store.expire(index, word);
                    again = true;
                    busy(index)
                }
                aside::STAGED => {
                    // Counts when the message's owner word names it. Else it was prepared by one who has lost the message since.
                    let word = owners[lane].look(contents.sequence);
                    if word.state == state::PARKED {
                        late.finish(core, &owners[lane], lane, contents.sequence, word);
                    } else if store.look(index).is_some_and(|now| now.state == aside::STAGED) {
                        continue;
                    }
                    // Somebody has finished it, or this member.
                    again = true;
                    busy(index)
                }
                aside::AMENDING => {
                    again = true;
                    busy(index)
                }
                _ => continue,
            };
            found.insert(place, entry);
        }
        keyed.queue.set_stored(&found, |partition| keyed.owned[partition].is_some());
        keyed.rescan_at_ns = again.then(|| monotonic_ns() + RESCAN_NS);
        true
    }

    /// Claims an entry of the store, sees that its partition is still this member's, and hands it out, as with a message of the ring.
    pub(super) fn take_entry(&mut self, place: Place, index: usize) -> Result<bool, Failure> {
        let Some((held, is_worn_out)) = self.claim_entry(place, index) else { return Ok(false) };
        if is_worn_out {
            let Some(late) = &self.late else { return Ok(false) };
            let pause_ns = late.settings.backoff.max_ns.min(u64::MAX / 2);
            self.end_entry(held, true, monotonic_ns() + pause_ns);
            return Ok(false);
        }
        if !self.load_entry(held) || !self.deliver_unusual()? {
            return Ok(false);
        }
        self.count_handed(place);
        Ok(true)
    }

    /// True beside it: it has been handed out as often as is allowed.
    fn claim_entry(&mut self, place: Place, index: usize) -> Option<(Held, bool)> {
        let Self { keyed: Some(keyed), late: Some(late), core, .. } = self else { return None };
        let claimed = keyed.has(place.partition()).and_then(|mine| {
            let store = late.store(core)?.1;
            let (seen, _) = store.read(index).filter(|(_, contents)| is_at(contents, place))?;
            match store.claim(index, seen, late.me, late.attempts_max()) {
                AsideClaim::Mine(held) => Some((store, mine, held, false)),
                AsideClaim::Exhausted(held) => Some((store, mine, held, true)),
                AsideClaim::Taken => None,
            }
        });
        let Some((store, mine, held, is_worn_out)) = claimed else {
            // Not as it was: it holds back what stands behind it until that is known.
            keyed.queue.insert_aside(place, busy(index));
            keyed.must_scan = true;
            return None;
        };
        if !keyed.seated.keys().confirm(place.partition(), mine) {
            if is_worn_out {
                store.release(held);
            } else {
                store.unclaim(held);
            }
            keyed.lose(place.partition());
            return None;
        }
        keyed.queue.remove(place);
        keyed.hands.add(place, held.word.attempts, Some(index));
        Some((held, is_worn_out))
    }

    /// What has become of what was handed out? What was given back is to be handed out again.
    pub(super) fn sweep_hands(&mut self) {
        let Self {
            keyed: Some(keyed),
            membership: Membership::Shared(_, owners),
            late: Some(late),
            lanes,
            ..
        } = self
        else {
            return;
        };
        while let Some((place, hand)) = keyed.hands.next_touched() {
            let fate = match hand.entry {
                None => {
                    let word = owners[place.lane()].look(place.sequence);
                    let is_mine = word.member == self.participant && word.attempts == hand.attempts;
                    match word.state {
                        state::CLAIMED if is_mine => Fate::InHand,
                        state::DONE | state::PARKED => Fate::Over,
                        // Finished so long ago that its word is in use again.
                        _ if lanes[place.lane()].is_finished(place.sequence) => Fate::Over,
                        // A claim that somebody who lost the partition makes in vain comes to nothing: it is this member's next, too.
                        _ => Fate::Open,
                    }
                }
                Some(index) => {
                    let seen = late.store(&self.core).map(|(_, store)| store.read(index));
                    let is_mine = |word: AsideWord| word.holder == late.me && word.attempts == hand.attempts;
                    match seen {
                        Some(Some((word, contents))) if is_at(&contents, place) => match word.state {
                            aside::CLAIMED if is_mine(word) => Fate::InHand,
                            aside::WAITING => Fate::Aside(waiting(index, &contents)),
                            aside::STAGED | aside::CLAIMED | aside::AMENDING => Fate::Aside(busy(index)),
                            _ => Fate::Over,
                        },
                        Some(Some(_)) => Fate::Over,
                        Some(None) | None => Fate::Aside(busy(index)),
                    }
                }
            };
            let is_kept = keyed.queue.is_kept(place);
            if let Fate::InHand = fate {
                // What is neither in the batch nor kept was forgotten by its reader, and is looked at until that has an end.
                let is_known = is_kept || self.batch.last().is_some_and(|last| place_of(last) == place);
                if !is_known {
                    keyed.hands.touch_again(place);
                }
                continue;
            }
            keyed.hands.end(place);
            let is_owned = keyed.owned[place.partition()].is_some();
            match fate {
                Fate::Open if is_owned => keyed.queue.insert(place),
                Fate::Aside(entry) if is_owned => {
                    keyed.must_scan |= matches!(entry, Aside::Stored { not_before_ns: None, .. });
                    keyed.queue.insert_aside(place, entry);
                }
                _ if is_kept => keyed.queue.remove(place),
                _ => {}
            }
        }
    }
}
