//! What a member of a keyed group has passed and nobody has finished: of each key and lane in order, and which of it may be handed out.
//!
//! A message is in the ring or aside: in the store, or kept for lack of room there. Of the messages of a key and lane (its line) those
//! of the ring may be handed out that stand before the first aside; that one when its time has come and nothing
//! stands before it. A message without a key is a line of its own. Nothing here costs more than a search, however much waits.

use super::PARTS;
use bus_core::keyed::partition_of;
use std::collections::{BTreeMap, BTreeSet};

/// Where a message stands. The order is that of lines, and within a line that of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    partition: u16,
    lane: u8,
    pub(super) key: u64,
    pub(super) sequence: u64,
}

impl Place {
    pub(super) fn new(lane: usize, key: u64, sequence: u64) -> Self {
        Self { partition: partition_of(key, sequence) as u16, lane: lane as u8, key, sequence }
    }

    pub(super) const fn lane(self) -> usize {
        self.lane as usize
    }

    pub(super) const fn partition(self) -> usize {
        self.partition as usize
    }

    /// First and last place that its line may have.
    fn line(self) -> (Self, Self) {
        match self.key {
            0 => (self, self),
            _ => (Self { sequence: 0, ..self }, Self { sequence: u64::MAX, ..self }),
        }
    }
}

/// A message that is not to be had from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aside {
    /// It found no room in the store: this member has its claim.
    Kept,
    /// In the store. No time: somebody else is still at it.
    Stored { index: usize, not_before_ns: Option<u64> },
}

/// The first message of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Ring(Place),
    Aside(Place, Aside),
}

/// See above.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// One message of the ring, where there is nothing else: the usual case, which costs no trees.
    alone: Option<Place>,
    ring: BTreeSet<Place>,
    aside: BTreeMap<Place, Aside>,
    /// Of each lane, the lines that begin in the ring: sequence and key of their first messages.
    heads: Vec<BTreeMap<u64, u64>>,
    /// The lines that begin in the store, by their time.
    due: BTreeSet<(u64, Place)>,
}

impl Queue {
    pub(super) fn new(lanes: usize) -> Self {
        Self { heads: vec![BTreeMap::new(); lanes], ..Self::default() }
    }

    fn head(&self, of: Place) -> Option<Head> {
        let (from, to) = of.line();
        let aside = match self.aside.is_empty() {
            true => None,
            false => self.aside.range(from..=to).next().map(|(place, aside)| (*place, *aside)),
        };
        let ring = self.ring.range(from..=to).next();
        match (ring, aside) {
            (Some(&place), Some((other, _))) if place < other => Some(Head::Ring(place)),
            (Some(&place), None) => Some(Head::Ring(place)),
            (_, Some((place, aside))) => Some(Head::Aside(place, aside)),
            (None, None) => None,
        }
    }

    /// A line begins with this, or no longer.
    fn enter(&mut self, head: Option<Head>) {
        match head {
            Some(Head::Ring(place)) => _ = self.heads[place.lane()].insert(place.sequence, place.key),
            Some(Head::Aside(place, Aside::Stored { not_before_ns: Some(at_ns), .. })) => {
                self.due.insert((at_ns, place));
            }
            _ => {}
        }
    }

    fn leave(&mut self, head: Option<Head>) {
        match head {
            Some(Head::Ring(place)) => _ = self.heads[place.lane()].remove(&place.sequence),
            Some(Head::Aside(place, Aside::Stored { not_before_ns: Some(at_ns), .. })) => {
                self.due.remove(&(at_ns, place));
            }
            _ => {}
        }
    }

    /// Changes one line.
    fn change(&mut self, place: Place, change: impl FnOnce(&mut Self)) {
        if let Some(alone) = self.alone.take() {
            self.ring.insert(alone);
            self.enter(Some(Head::Ring(alone)));
        }
        let before = self.head(place);
        change(self);
        let after = self.head(place);
        if before != after {
            self.leave(before);
            self.enter(after);
        }
    }

    /// A message of the ring is to be handed out.
    #[inline]
    pub(super) fn insert(&mut self, place: Place) {
        let is_empty = self.ring.is_empty() && self.aside.is_empty();
        if is_empty && self.alone.is_none_or(|alone| alone == place) {
            self.alone = Some(place);
            return;
        }
        self.change(place, |queue| {
            queue.aside.remove(&place);
            queue.ring.insert(place);
        });
    }

    /// A message is aside.
    pub(super) fn insert_aside(&mut self, place: Place, aside: Aside) {
        self.change(place, |queue| {
            queue.ring.remove(&place);
            queue.aside.insert(place, aside);
        });
    }

    /// A message is finished, or in hand.
    #[inline]
    pub(super) fn remove(&mut self, place: Place) {
        if self.alone == Some(place) {
            self.alone = None;
            return;
        }
        self.change(place, |queue| {
            queue.ring.remove(&place);
            queue.aside.remove(&place);
        });
    }

    pub(super) fn is_kept(&self, place: Place) -> bool {
        self.aside.get(&place) == Some(&Aside::Kept)
    }

    /// Forgets a partition that another has.
    pub(super) fn remove_partition(&mut self, partition: usize) {
        self.alone = self.alone.filter(|alone| alone.partition() != partition);
        let at = |partition| Place { partition, lane: 0, key: 0, sequence: 0 };
        let (from, to) = (at(partition as u16), at(partition as u16 + 1));
        let places: Vec<Place> = self
            .ring
            .range(from..to)
            .chain(self.aside.range(from..to).map(|(place, _)| place))
            .copied()
            .collect();
        places.into_iter().for_each(|place| self.remove(place));
    }

    /// What the store has was looked through: of the partitions that were meant this is all.
    pub(super) fn set_stored(&mut self, found: &BTreeMap<Place, Aside>, is_meant: impl Fn(usize) -> bool) {
        let is_gone = |(place, aside): &(&Place, &Aside)| {
            matches!(aside, Aside::Stored { .. }) && is_meant(place.partition()) && !found.contains_key(place)
        };
        let gone: Vec<Place> = self.aside.iter().filter(is_gone).map(|(place, _)| *place).collect();
        gone.into_iter().for_each(|place| self.remove(place));
        for (&place, &aside) in found.iter().filter(|(place, _)| is_meant(place.partition())) {
            self.insert_aside(place, aside);
        }
    }

    /// Does nothing that is aside stand before this place?
    pub(super) fn is_free(&self, place: Place) -> bool {
        self.aside.is_empty() || self.aside.range(place.line().0..place).next().is_none()
    }

    /// The first message of a lane of the ring that may be handed out.
    pub(super) fn first(&self, lane: usize) -> Option<Place> {
        if self.alone.is_some() {
            return self.alone.filter(|alone| alone.lane() == lane);
        }
        self.heads[lane].first_key_value().map(|(&sequence, &key)| Place::new(lane, key, sequence))
    }

    /// The first lane that has one.
    pub(super) fn first_lane(&self) -> Option<usize> {
        let alone = self.alone.map(Place::lane);
        alone.or_else(|| self.heads.iter().position(|heads| !heads.is_empty()))
    }

    /// How many of a lane of the ring may be handed out, at most `most`.
    pub(super) fn count(&self, lane: usize, most: usize) -> usize {
        if self.alone.is_some() {
            return usize::from(self.first(lane).is_some()).min(most);
        }
        let mut count = 0;
        for (&sequence, &key) in &self.heads[lane] {
            if count >= most {
                break;
            }
            let place = Place::new(lane, key, sequence);
            let to = place.line().1;
            let until = self.aside.range(place..=to).next().map_or(to, |(aside, _)| *aside);
            count += self.ring.range(place..=until).take(most - count).count();
        }
        count
    }

    /// The message of the store whose time has come first, and its entry.
    pub(super) fn first_due(&self, now_ns: u64) -> Option<(Place, usize)> {
        let (_, place) = self.due.first().filter(|(at_ns, _)| *at_ns <= now_ns)?;
        match self.aside.get(place) {
            Some(&Aside::Stored { index, .. }) => Some((*place, index)),
            _ => None,
        }
    }

    /// When the first message of the store is due.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due.first().map(|(at_ns, _)| *at_ns)
    }
}

const _: () = assert!(PARTS < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: u64, sequence: u64) -> Place {
        Place::new(0, key, sequence)
    }

    const fn stored(index: usize, at_ns: u64) -> Aside {
        Aside::Stored { index, not_before_ns: Some(at_ns) }
    }

    /// Hands out all of the ring that may be.
    fn drain(queue: &mut Queue) -> Vec<u64> {
        let mut sequences = Vec::new();
        while let Some(place) = queue.first(0) {
            queue.remove(place);
            sequences.push(place.sequence);
        }
        sequences
    }

    #[test]
    fn what_is_aside_holds_back_its_key_and_no_other() {
        let mut queue = Queue::new(1);
        [at(1, 0), at(2, 1), at(1, 2), at(1, 4), at(0, 5)].into_iter().for_each(|place| queue.insert(place));
        assert_eq!((queue.count(0, 9), queue.count(0, 2)), (5, 2));
        queue.insert_aside(at(1, 2), stored(7, 50));
        assert_eq!(queue.due_ns(), None, "0 stands before it");
        assert_eq!(queue.count(0, 9), 3);
        assert!(queue.is_free(at(1, 2)) && !queue.is_free(at(1, 3)) && queue.is_free(at(2, 9)));
        assert_eq!(drain(&mut queue), [0, 1, 5]);
        assert_eq!((queue.first_due(49), queue.first_due(50)), (None, Some((at(1, 2), 7))));
        queue.insert(at(1, 1));
        assert_eq!(queue.due_ns(), None, "one before it was given back");
        assert_eq!(drain(&mut queue), [1]);
        queue.remove(at(1, 2));
        assert_eq!((drain(&mut queue), queue.due_ns()), (vec![4], None));
    }

    #[test]
    fn what_is_kept_or_in_work_holds_back_too_and_is_never_due() {
        let mut queue = Queue::new(1);
        queue.insert(at(1, 3));
        for aside in [Aside::Kept, Aside::Stored { index: 0, not_before_ns: None }] {
            queue.insert_aside(at(1, 2), aside);
            assert_eq!((queue.first(0), queue.due_ns()), (None, None));
            assert_eq!(queue.is_kept(at(1, 2)), aside == Aside::Kept);
        }
        queue.insert(at(1, 2));
        assert_eq!(drain(&mut queue), [2, 3], "in the ring again");
        queue.insert_aside(at(0, 8), stored(0, 5));
        queue.insert(at(0, 9));
        assert_eq!((queue.first(0), queue.due_ns()), (Some(at(0, 9)), Some(5)), "no key, no order");
    }

    #[test]
    fn a_look_through_the_store_and_a_lost_partition_leave_nothing_behind() {
        let mut queue = Queue::new(1);
        queue.insert_aside(at(1, 0), stored(0, 10));
        queue.insert_aside(at(2, 1), Aside::Kept);
        queue.insert(at(1, 4));
        let found = BTreeMap::from([(at(3, 2), stored(1, 20)), (at(9, 3), stored(2, 5))]);
        let meant = at(9, 3).partition();
        queue.set_stored(&found, |partition| partition != meant);
        assert_eq!((queue.due_ns(), queue.first(0)), (Some(20), Some(at(1, 4))));
        assert!(queue.is_kept(at(2, 1)), "that is not in the store");
        [1, 2, 3].into_iter().for_each(|key| queue.remove_partition(at(key, 0).partition()));
        assert!(queue.ring.is_empty() && queue.aside.is_empty() && queue.due.is_empty());
        assert!(queue.heads[0].is_empty() && queue.alone.is_none());
        queue.insert(at(1, 4));
        queue.remove_partition(at(1, 4).partition());
        assert_eq!((queue.first(0), queue.first_lane(), queue.count(0, 1)), (None, None, 0));
    }

    /// Held against a plain list at random.
    #[test]
    fn it_says_what_a_walk_over_everything_says() {
        let (mut queue, mut plain) = (Queue::new(1), BTreeMap::<u64, Option<Aside>>::new());
        let key_of = |sequence: u64| sequence * 7 % 5;
        let mut random = 1_u64;
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Now many, now few, so that one is often alone.
            let (sequence, what) = (random >> 33 & 31, random >> 50 & 7);
            let what = if round % 2_000 < 1_000 { what.min(6) } else { what };
            let what = if round % 2_000 >= 1_000 && what < 6 && random >> 60 & 1 == 0 { 6 } else { what };
            let place = at(key_of(sequence), sequence);
            let aside = if what == 1 { Aside::Kept } else { stored(sequence as usize, random >> 40 & 63) };
            match what {
                0..=2 => {
                    queue.insert_aside(place, aside);
                    plain.insert(sequence, Some(aside));
                }
                3..=5 => {
                    queue.insert(place);
                    plain.insert(sequence, None);
                }
                _ => {
                    queue.remove(place);
                    plain.remove(&sequence);
                }
            }
            let before = |sequence: u64| {
                let same = move |other: &u64| key_of(*other) == key_of(sequence) && key_of(sequence) != 0;
                plain.range(..sequence).filter(move |(other, _)| same(other))
            };
            let is_ready = |sequence: u64| before(sequence).all(|(_, aside)| aside.is_none());
            let ready: Vec<u64> =
                plain.iter().filter(|&(&s, aside)| aside.is_none() && is_ready(s)).map(|(&s, _)| s).collect();
            assert_eq!(queue.first(0).map(|place| place.sequence), ready.first().copied());
            assert_eq!((queue.count(0, 99), queue.count(0, 3)), (ready.len(), ready.len().min(3)));
            let times = plain.iter().filter_map(|(&sequence, aside)| match aside {
                Some(Aside::Stored { not_before_ns, .. }) if before(sequence).next().is_none() => {
                    *not_before_ns
                }
                _ => None,
            });
            assert_eq!(queue.due_ns(), times.min());
        }
    }
}
