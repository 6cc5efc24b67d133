//! Who has what: a member gives up what is more than its share, takes what nobody has, and looks at what it has taken before it
//! hands anything of it out.

use super::{
    ASK_PERIOD, CHECK_PERIOD_NS, Keyed, Membership, PARTS, Peek, Place, RESCAN_NS, RawSubscriber, VACANT_NS,
    WATCH_PERIOD_NS,
};
use crate::observe;
use crate::repair;
use crate::sys::clock::monotonic_ns;
use bus_core::keyed::share;
use bus_core::layout::keys::in_seat;
use bus_core::owner::state;
use bus_core::seq::distance;
use bus_core::sync::Ordering;
use std::time::Instant;

impl RawSubscriber {
    pub(super) fn look_about_keyed(&mut self) {
        let now_ns = monotonic_ns();
        self.observe_claims();
        let Some(keyed) = &mut self.keyed else { return };
        if now_ns >= keyed.watch_at_ns {
            keyed.watch_at_ns = now_ns + WATCH_PERIOD_NS;
            let keys = keyed.seated.keys();
            for (index, word) in keys.taken().filter(|(index, _)| *index != keyed.seated.seat.index) {
                let beat = keys.seat_counter(index, in_seat::BEAT).load(Ordering::Relaxed);
                let beat = beat ^ u64::from(word.tag) << 40;
                if keyed.shares.is_expired(observe::Place::Seat { index }, beat, now_ns) {
                    keyed.must_balance |= keyed.silent.insert(index, beat) != Some(beat);
                } else if keyed.silent.get(&index).is_some_and(|&silent| silent != beat) {
                    keyed.silent.remove(&index);
                    keyed.must_balance = true;
                }
            }
            keyed.shares.end_pass();
        }
        if now_ns >= keyed.check_at_ns {
            keyed.check_at_ns = now_ns + CHECK_PERIOD_NS;
            keyed.must_balance = true;
        }
        keyed.must_balance |= keyed.vacant_since_ns.is_some_and(|since_ns| now_ns >= since_ns + VACANT_NS);
        keyed.must_scan |= keyed.rescan_at_ns.is_some_and(|at_ns| now_ns >= at_ns);
        if self.asked.elapsed() >= ASK_PERIOD {
            self.asked = Instant::now();
            let Some(late) = &self.late else { return };
            let keys = keyed.seated.keys();
            let is_dead = |holder| self.bus.participants().is_dead(holder);
            // Only those of this group: a busy member is not the one to look after others.
            if keys.taken().any(|(index, word)| index != keyed.seated.seat.index && is_dead(word.holder)) {
                repair::release_dead_members(&self.core, late.entry, self.bus.participants());
            }
        }
    }

    /// Gives up what is more than its share and takes what nobody has, up to its share.
    pub(super) fn balance(&mut self) {
        let Some(keyed) = &mut self.keyed else { return };
        let now_ns = monotonic_ns();
        let me = keyed.seated.seat;
        keyed.must_balance = false;
        // Before the looks: what changes after it is another generation.
        keyed.generation = keyed.seated.keys().generation();
        let mut is_fewer = false;
        for partition in 0..PARTS {
            let is_gone = |mine| !keyed.seated.keys().is_mine(partition, mine);
            if keyed.owned[partition].is_some_and(is_gone) {
                keyed.disown(partition);
                is_fewer = true;
            }
        }
        let (place, members, is_for_others) = keyed.find_place();
        let is_planned = is_for_others.is_some();
        let is_for_others = is_for_others.unwrap_or([false; PARTS]);
        let mut target = if is_planned { PARTS } else { share(place, members) };
        let mut given_up = 0;
        for partition in (0..PARTS).rev() {
            let is_too_many = keyed.owned_count > target || is_for_others[partition];
            let Some(mine) = keyed.owned[partition].filter(|_| is_too_many) else { continue };
            if keyed.hands.is_any_of(partition) && !bus_core::is_broken("keyed_given_up_in_hand") {
                // When it is no longer in hand.
                keyed.must_balance = true;
                continue;
            }
            given_up += u32::from(keyed.seated.keys().give_up(partition, mine));
            keyed.disown(partition);
            is_fewer = true;
        }
        let is_overdue =
            given_up == 0 && keyed.vacant_since_ns.is_some_and(|since_ns| now_ns >= since_ns + VACANT_NS);
        if is_overdue {
            target = PARTS;
        }
        let mut is_left = false;
        for offset in 0..PARTS {
            let partition = (place * PARTS / members.max(1) + offset) % PARTS;
            let keys = keyed.seated.keys();
            let seen = keys.partition(partition);
            // A word that names this member without its having taken the partition is nobody else's to mend.
            let is_vacant = keys.is_vacant(seen) || seen.owner == Some(me);
            if keyed.owned[partition].is_some() || !is_vacant {
                continue;
            }
            let is_others = keyed.owned_count >= target || !is_overdue && is_for_others[partition];
            if is_others || keyed.hands.is_any_of(partition) {
                is_left = true;
            } else if let Some(mine) = keys.take(partition, seen, me) {
                keyed.own(partition, mine);
            }
        }
        keyed.vacant_since_ns = match (is_left, is_overdue) {
            (false, _) => None,
            (true, true) => Some(now_ns),
            (true, false) => keyed.vacant_since_ns.or(Some(now_ns)),
        };
        if given_up > 0 {
            keyed.seated.keys().raise_generation();
        }
        if is_fewer {
            self.ring_members();
        }
    }

    /// Partitions that have just become this member's: claims that others still have there are taken back, the last first, and what
    /// this member has passed before, in the ring or the store, is to be handed out. Nothing of them is before all of them has been
    /// seen.
    pub(super) fn settle(&mut self) {
        let Self { keyed: Some(keyed), lanes, membership: Membership::Shared(_, owners), late, core, .. } =
            self
        else {
            return;
        };
        let mut passed = Vec::new();
        let mut is_refused = false;
        let is_any_new = keyed.unsettled_count > 0;
        for (lane, (reader, owners)) in lanes.iter_mut().zip(owners.iter()).enumerate() {
            if !is_any_new {
                break;
            }
            let from = reader.low_water().map_or(0, |word| word.load(Ordering::Acquire));
            let count = distance(reader.end(), from).clamp(0, core.config().capacity.into()) as u64;
            for sequence in (0..count).rev().map(|index| from.wrapping_add(index)) {
                loop {
                    let seen = owners.look(sequence);
                    if seen.state == state::PARKED
                        && let Some(late) = late
                    {
                        late.finish(core, owners, lane, sequence, seen);
                    }
                    if matches!(seen.state, state::DONE | state::PARKED) {
                        break;
                    }
                    let key = match reader.peek(sequence) {
                        Peek::Key(key) => key,
                        Peek::Refused => {
                            is_refused = true;
                            break;
                        }
                        Peek::Empty | Peek::Gone => break,
                    };
                    let place = Place::new(lane, key, sequence);
                    let partition = place.partition();
                    let Some(mine) = keyed.owned[partition].filter(|_| keyed.unsettled[partition]) else {
                        break;
                    };
                    if seen.state == state::CLAIMED {
                        // The look at the claim, then that at the partition, then the change.
                        if !keyed.seated.keys().is_mine(partition, mine) {
                            keyed.lose(partition);
                            break;
                        }
                        reader.release_claim(owners, sequence, seen);
                        continue;
                    }
                    if distance(sequence, reader.next()) < 0 && !bus_core::is_broken("keyed_passed_forgotten")
                    {
                        passed.push(place);
                    }
                    break;
                }
            }
        }
        let is_scanned = self.scan_store();
        let Some(keyed) = &mut self.keyed else { return };
        if is_refused || !is_scanned {
            keyed.retry_at_ns = Some(monotonic_ns() + RESCAN_NS);
            return;
        }
        keyed.retry_at_ns = None;
        keyed.must_scan = false;
        for place in passed.into_iter().filter(|place| keyed.unsettled[place.partition()]) {
            keyed.queue.insert(place);
        }
        (0..PARTS).for_each(|partition| keyed.set_unsettled(partition, false));
    }
}

impl Keyed {
    /// This member's place among those that do something, how many those are, and, where somebody has asked for shares by how busy
    /// the partitions are and nobody has come or gone since, which of them are for others.
    fn find_place(&self) -> (usize, usize, Option<[bool; PARTS]>) {
        let keys = self.seated.keys();
        let me = self.seated.seat.index;
        let (mut place, mut members) = (0, 0);
        let mut is_present = [false; 256];
        for (index, word) in keys.taken() {
            let beat = keys.seat_counter(index, in_seat::BEAT).load(Ordering::Relaxed);
            if self.silent.get(&index) == Some(&(beat ^ u64::from(word.tag) << 40)) {
                continue;
            }
            if index == me {
                place = members;
            }
            is_present[usize::from(index)] = true;
            members += 1;
        }
        let is_for_others = (keys.plan_mark() == keys.members_mark()).then(|| {
            std::array::from_fn(|partition| {
                let planned = keys.planned(partition);
                planned != me && is_present[usize::from(planned)]
            })
        });
        (place, members, is_for_others)
    }
}
