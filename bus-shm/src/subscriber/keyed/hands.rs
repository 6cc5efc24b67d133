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
    /// One, where there is no other: the usual case, which costs no tree.
    alone: Option<(Place, Hand)>,
    all: BTreeMap<(usize, u64), Hand>,
    touched: Vec<(usize, u64)>,
    /// The same for the next time.
    again: Vec<(usize, u64)>,
    of_partition: [u32; PARTS],
}

const fn at(place: Place) -> (usize, u64) {
    (place.lane(), place.sequence)
}

impl Hands {
    pub(super) const fn new() -> Self {
        Self {
            alone: None,
            all: BTreeMap::new(),
            touched: Vec::new(),
            again: Vec::new(),
            of_partition: [0; PARTS],
        }
    }

    /// Whoever hands a message out looks at it once more before the next.
    pub(super) fn add(&mut self, place: Place, attempts: u8, entry: Option<usize>) {
        self.end(place);
        let hand = Hand { attempts, entry, key: place.key };
        if self.alone.is_none() && self.all.is_empty() {
            self.alone = Some((place, hand));
        } else {
            let alone = self.alone.take().map(|(alone, hand)| (at(alone), hand));
            self.all.extend(alone);
            self.all.insert(at(place), hand);
        }
        self.of_partition[place.partition()] += 1;
        self.touched.push(at(place));
    }

    /// Something has been done with a message.
    pub(super) fn touch(&mut self, lane: usize, sequence: u64) {
        self.touched.push((lane, sequence));
    }

    /// It is to be looked at once more the next time.
    pub(super) fn touch_again(&mut self, place: Place) {
        self.again.push(at(place));
    }

    /// One of the touched that is in hand as far as is known. `None`: that were all.
    pub(super) fn next_touched(&mut self) -> Option<(Place, Hand)> {
        while let Some((lane, sequence)) = self.touched.pop() {
            if let Some(alone) = self.alone.filter(|(place, _)| at(*place) == (lane, sequence)) {
                return Some(alone);
            }
            if let Some(hand) = self.all.get(&(lane, sequence)) {
                return Some((Place::new(lane, hand.key, sequence), *hand));
            }
        }
        std::mem::swap(&mut self.touched, &mut self.again);
        None
    }

    /// It is no longer in hand.
    pub(super) fn end(&mut self, place: Place) {
        let was_alone = self.alone.take_if(|(alone, _)| *alone == place).is_some();
        if was_alone || !self.all.is_empty() && self.all.remove(&at(place)).is_some() {
            self.of_partition[place.partition()] -= 1;
        }
    }

    pub(super) fn has(&self, lane: usize, sequence: u64) -> bool {
        self.alone.is_some_and(|(alone, _)| at(alone) == (lane, sequence))
            || self.all.contains_key(&(lane, sequence))
    }

    /// Is anything of a partition in hand?
    pub(super) fn is_any_of(&self, partition: usize) -> bool {
        self.of_partition[partition] > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_looked_at_once_and_partitions_are_counted() {
        let mut hands = Hands::new();
        let places: Vec<Place> = (0..3).map(|sequence| Place::new(0, 9, sequence)).collect();
        let partition = places[0].partition();
        let touched = |hands: &mut Hands| {
            let mut sequences = Vec::new();
            while let Some((place, _)) = hands.next_touched() {
                sequences.push(place.sequence);
            }
            sequences.sort_unstable();
            sequences
        };
        for (index, &place) in places.iter().enumerate() {
            hands.add(place, 1, None);
            assert!(hands.has(0, place.sequence) && hands.is_any_of(partition));
            assert_eq!(touched(&mut hands), [index as u64]);
        }
        hands.touch(0, 1);
        hands.touch(0, 7);
        hands.touch_again(places[2]);
        assert_eq!(touched(&mut hands), [1]);
        assert_eq!(touched(&mut hands), [2], "the next time");
        hands.add(places[0], 2, None);
        for &place in &places {
            assert!(hands.is_any_of(partition));
            hands.end(place);
            hands.end(place);
        }
        assert!(!hands.is_any_of(partition) && !hands.has(0, 0) && touched(&mut hands).is_empty());
    }
}
