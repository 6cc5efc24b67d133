//! Members of a keyed group that are silent: who sees that takes their partitions.

use super::PARTS;
use crate::observe::{Observer, Place};
use crate::reader::Peek;
use crate::subscriber::{Membership, RawSubscriber};
use bus_core::keyed::{PartitionWord, partition_of};
use bus_core::layout::aside::state as aside;
use bus_core::layout::keys::in_seat;
use bus_core::owner::state;
use bus_core::seq::distance;
use bus_core::sync::Ordering;

/// Messages of a lane that nobody has claimed and that are looked at for whose they are, when silent members are looked for.
const OPEN_PEEKS_MAX: usize = 1_024;

impl RawSubscriber {
    /// Keyed: takes the partitions of members that have been silent for too long. Called now and then, by [`RawSubscriber::observe_claims`].
    pub(in crate::subscriber) fn observe_keyed(&mut self, now_ns: u64) {
        let Self { keyed: Some(keyed), late: Some(late), lanes, core, membership, .. } = self else { return };
        let Membership::Shared(_, owners) = &*membership else { return };
        let keys = keyed.seated.keys();
        let me = keyed.seated.seat;
        // The words as they are before anything is judged: what is taken is what was seen.
        let words: Vec<PartitionWord> = (0..PARTS).map(|partition| keys.partition(partition)).collect();
        let mut is_stale = [false; PARTS];
        for (index, word) in words.iter().enumerate() {
            is_stale[index] = keyed.watch.is_expired(Place::Partition { index }, word.pack(), now_ns)
                && word.owner.is_some_and(|owner| owner != me);
        }
        let mut is_silent = [false; 256];
        for (index, word) in keys.taken() {
            let beat = keys.seat_counter(index, in_seat::BEAT).load(Ordering::Relaxed);
            let beat = beat ^ u64::from(word.tag) << 40;
            is_silent[usize::from(index)] =
                index != me.index && keyed.watch.is_expired(Place::Seat { index }, beat, now_ns);
        }
        keyed.watch.end_pass();
        let is_owner_silent = |partition: usize| {
            words[partition].owner.is_some_and(|owner| is_silent[usize::from(owner.index)])
        };
        let mut fenced = Vec::new();
        for (lane, (reader, owners)) in lanes.iter_mut().zip(owners.iter()).enumerate() {
            let from = reader.low_water().map_or(0, |word| word.load(Ordering::Acquire));
            let count = distance(reader.end(), from).clamp(0, core.config().capacity.into()) as u64;
            // Of each seat, the first message that its owner does not take.
            let mut is_met = [false; 256];
            let mut peeks_left = OPEN_PEEKS_MAX;
            for sequence in (0..count).map(|index| from.wrapping_add(index)) {
                let seen = owners.look(sequence);
                let is_open = matches!(seen.state, state::FREE | state::RELEASED);
                if !(seen.state == state::CLAIMED || is_open && peeks_left > 0)
                    || keyed.hands.has(lane, sequence)
                {
                    continue;
                }
                let place = Place::Owner { lane: lane as u8, sequence };
                if is_open {
                    // One message that its owner does not take is enough to show that it is silent.
                    peeks_left -= 1;
                    let Peek::Key(key) = reader.peek(sequence) else { continue };
                    let partition = partition_of(key, sequence);
                    if keyed.owned[partition].is_some() {
                        continue;
                    }
                    let Some(owner) = words[partition].owner else { continue };
                    if std::mem::replace(&mut is_met[usize::from(owner.index)], true) {
                        continue;
                    }
                    if late.observer.is_expired(place, seen.pack(), now_ns)
                        && is_stale[partition]
                        && is_owner_silent(partition)
                    {
                        let owner = words[partition].owner;
                        fenced.extend((0..PARTS).filter(|&other| words[other].owner == owner));
                    }
                    continue;
                }
                if late.observer.is_expired(place, seen.pack(), now_ns) {
                    let Peek::Key(key) = reader.peek(sequence) else { continue };
                    let partition = partition_of(key, sequence);
                    if is_stale[partition] {
                        fenced.push(partition);
                        if is_owner_silent(partition) {
                            let owner = words[partition].owner;
                            fenced.extend((0..PARTS).filter(|&other| words[other].owner == owner));
                        }
                    }
                }
            }
        }
        let mut observer = std::mem::replace(&mut late.observer, Observer::new(0));
        if let Some((_, store)) = late.store(core) {
            for index in 0..store.len() {
                let Some(word) = store.look(index) else { break };
                if !matches!(word.state, aside::CLAIMED | aside::WAITING) {
                    continue;
                }
                let Some((word, contents)) = store.read(index) else { continue };
                let partition = partition_of(contents.key, contents.sequence);
                let is_due = word.state == aside::WAITING && contents.not_before_ns <= now_ns;
                if keyed.owned[partition].is_some() || !(word.state == aside::CLAIMED || is_due) {
                    continue;
                }
                let is_expired = observer.is_expired(Place::Aside { index }, word.pack(), now_ns);
                if is_expired && is_stale[partition] && (!is_due || is_owner_silent(partition)) {
                    fenced.push(partition);
                }
            }
        }
        let wait_ns = observer.ack_wait_ns();
        late.observe_at_ns = now_ns + crate::subscriber::late::observe_period_ns(wait_ns);
        late.expires_at_ns = observer.end_pass();
        late.observer = observer;
        fenced.sort_unstable();
        fenced.dedup();
        let mut is_any_taken = false;
        for partition in fenced {
            if keyed.owned[partition].is_some() || keyed.hands.is_any_of(partition) || !is_stale[partition] {
                continue;
            }
            let keys = keyed.seated.keys();
            if let Some(mine) = keys.take(partition, words[partition], me) {
                keyed.own(partition, mine);
                is_any_taken = true;
                // It has no share until it does something.
                let keys = keyed.seated.keys();
                if let Some(owner) =
                    words[partition].owner.filter(|owner| is_silent[usize::from(owner.index)])
                {
                    let beat = keys.seat_counter(owner.index, in_seat::BEAT).load(Ordering::Relaxed);
                    let tag = keys.seat(owner.index).tag;
                    keyed.silent.insert(owner.index, beat ^ u64::from(tag) << 40);
                }
            }
        }
        if is_any_taken {
            keyed.seated.keys().raise_generation();
            self.settle();
            self.ring_members();
        }
    }
}
