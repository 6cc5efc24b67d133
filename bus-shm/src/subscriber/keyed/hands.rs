//! What a member of a keyed group has in hand.

use super::PARTS;
use super::queue::Place;
use std::collections::BTreeMap;

/// A message that was handed out, and may still be in hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hand {
    pub(super) attempts: u8,
    /// Where it is an entry of the store.
    pub(super) entry: Option<usize>,
    key: u64,
}

/// All of them. What has become of one is looked at only when something may have.
#[derive(Debug)]
pub(super) struct Hands {
    all: BTreeMap<(usize, u64), Hand>,
    touched: Vec<(usize, u64)>,
    of_partition: [u32; PARTS],
}

impl Hands {
    pub(super) const fn new() -> Self {
        Self { all: BTreeMap::new(), touched: Vec::new(), of_partition: [0; PARTS] }
    }

    /// Whoever hands a message out looks at it once more before the next.
    pub(super) fn add(&mut self, place: Place, attempts: u8, entry: Option<usize>) {
        let at = (place.lane(), place.sequence);
        if self.all.insert(at, Hand { attempts, entry, key: place.key }).is_none() {
            self.of_partition[place.partition()] += 1;
        }
        self.touched.push(at);
    }

    /// Something has been done with a message.
    pub(super) fn touch(&mut self, lane: usize, sequence: u64) {
        self.touched.push((lane, sequence));
    }

    pub(super) fn is_any_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Those of the touched that are in hand as far as is known, once each.
    pub(super) fn take_touched(&mut self) -> Vec<(Place, Hand)> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let hand = |(lane, sequence)| {
            let hand = *self.all.get(&(lane, sequence))?;
            Some((Place::new(lane, hand.key, sequence), hand))
        };
        touched.into_iter().filter_map(hand).collect()
    }

    /// It is no longer in hand.
    pub(super) fn end(&mut self, place: Place) {
        if self.all.remove(&(place.lane(), place.sequence)).is_some() {
            self.of_partition[place.partition()] -= 1;
        }
    }

    pub(super) fn has(&self, lane: usize, sequence: u64) -> bool {
        self.all.contains_key(&(lane, sequence))
    }

    /// Is anything of a partition in hand?
    pub(super) fn is_any_of(&self, partition: usize) -> bool {
        self.of_partition[partition] > 0
    }
}
