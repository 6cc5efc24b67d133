//! Which claims have been held too long, without a time in shared memory.
//!
//! An observer remembers each word that says "claimed" and when it first saw it. A word that is still the same after
//! `ack_wait` is one whose member has said nothing for at least that long: whoever needs more time changes the word. Only a
//! compare-and-swap on exactly that word may follow. Each observer has its own clock and memory, so a claim
//! is taken back one `ack_wait` after somebody began to look, and not before.

use std::collections::HashMap;

/// Claims that one observer watches at once. What is beyond has to wait until others are finished.
const WATCHED_MAX: usize = 1 << 16;

/// Where a claimed word lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The owner word of a message.
    Owner {
        /// Its lane.
        lane: u8,
        /// Its sequence.
        sequence: u64,
    },
    /// An entry of the aside store.
    Aside {
        /// Its index.
        index: usize,
    },
    /// The beat of a keyed group's member.
    Seat {
        /// Its seat.
        index: u8,
    },
    /// The word of a keyed group's partition.
    Partition {
        /// Its index.
        index: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Sighting {
    word: u64,
    since_ns: u64,
    pass: u32,
}

/// The claims that this process has seen.
#[derive(Debug)]
pub(crate) struct Observer {
    /// 0: nothing ever expires.
    ack_wait_ns: u64,
    seen: HashMap<Place, Sighting>,
    pass: u32,
}

impl Observer {
    /// `ack_wait_ns` 0: nothing ever expires.
    pub(crate) fn new(ack_wait_ns: u64) -> Self {
        Self { ack_wait_ns, seen: HashMap::new(), pass: 0 }
    }

    /// How long a member may be silent; 0: for ever.
    pub(crate) fn ack_wait_ns(&self) -> u64 {
        self.ack_wait_ns
    }

    /// A claimed word was seen at `now_ns`. True: it has not changed for as long as a member may be silent; release exactly
    /// this word. The sighting stays until the pass ends without it, since the release may be refused.
    pub(crate) fn is_expired(&mut self, place: Place, word: u64, now_ns: u64) -> bool {
        if self.ack_wait_ns == 0 {
            return false;
        }
        let (pass, full) = (self.pass, self.seen.len() >= WATCHED_MAX);
        match self.seen.get_mut(&place) {
            Some(sighting) if sighting.word == word => {
                sighting.pass = pass;
                now_ns.saturating_sub(sighting.since_ns) >= self.ack_wait_ns
            }
            Some(sighting) => {
                *sighting = Sighting { word, since_ns: now_ns, pass };
                false
            }
            None if full => false,
            None => {
                self.seen.insert(place, Sighting { word, since_ns: now_ns, pass });
                false
            }
        }
    }

    /// Everything claimed has been shown since the last call: forgets the rest. Returns when the next claim expires if
    /// nothing changes, for the end of a wait.
    pub(crate) fn end_pass(&mut self) -> Option<u64> {
        let pass = self.pass;
        self.seen.retain(|_, sighting| sighting.pass == pass);
        self.pass = pass.wrapping_add(1);
        let first_ns = self.seen.values().map(|sighting| sighting.since_ns).min();
        first_ns.filter(|_| self.ack_wait_ns != 0).map(|first_ns| first_ns.saturating_add(self.ack_wait_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place::Owner { lane: 0, sequence: 7 };
    const B: Place = Place::Aside { index: 7 };

    #[test]
    fn a_word_expires_only_if_it_has_not_changed_for_the_whole_wait() {
        let mut observer = Observer::new(100);
        assert!(!observer.is_expired(A, 1, 1_000));
        assert!(!observer.is_expired(B, 1, 1_050));
        assert_eq!(observer.end_pass(), Some(1_100));
        assert!(!observer.is_expired(A, 1, 1_099));
        assert!(observer.is_expired(A, 1, 1_100));
        assert!(!observer.is_expired(B, 2, 1_100), "more time was asked for");
        assert!(observer.is_expired(A, 1, 1_101), "the release was refused, or has not been tried");
        assert_eq!(observer.end_pass(), Some(1_100));
        assert!(!observer.is_expired(B, 2, 1_199) && observer.is_expired(B, 2, 1_200));
        assert_eq!(observer.end_pass(), Some(1_200), "the other one is finished");
        assert_eq!(observer.end_pass(), None);
        assert!(!observer.is_expired(A, 1, 9_000), "seen anew");
    }

    #[test]
    fn a_clock_that_goes_back_and_no_wait_expire_nothing() {
        let mut observer = Observer::new(100);
        assert!(!observer.is_expired(A, 1, 1_000) && !observer.is_expired(A, 1, 0));
        let mut observer = Observer::new(0);
        assert!(!observer.is_expired(A, 1, u64::MAX));
        assert_eq!(observer.end_pass(), None);
    }

    #[test]
    fn what_it_watches_is_bounded() {
        let mut observer = Observer::new(100);
        for index in 0..WATCHED_MAX + 5 {
            assert!(!observer.is_expired(Place::Aside { index }, 1, 0));
        }
        observer.end_pass();
        assert!(!observer.is_expired(Place::Aside { index: WATCHED_MAX }, 1, 500), "not watched yet");
        assert!(observer.is_expired(Place::Aside { index: 0 }, 1, 500));
        observer.end_pass();
        assert!(observer.seen.len() == 1);
    }
}
