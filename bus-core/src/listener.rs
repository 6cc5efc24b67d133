//! A consumer that waits on many topics through one bell.
//!
//! It has an entry in the file `listeners`: a bell of its own, and one bit a topic. Each of its topics names the entry in a
//! table beside the topic's bell. While it reads a topic, it polls it, and nobody does anything for it. A topic that has
//! nothing it lets rest: it arms that topic's bell, makes sure that every publisher sees it, and looks once more. Who rings
//! the topic's bell then walks the table: sets the topic's bit, and rings the listener's bell. So the consumer looks at one
//! word before each message, and sleeps on one, whatever the number of its topics.
//!
//! ```text
//! top       bit 0..8    which summary words are not zero     bit 63  topics have been created
//! summary   512 bits    which ready words are not zero
//! ready     32,768 bits something may have come in that topic
//! ```
//!
//! A ringer sets bits upwards, the consumer clears them downwards: a bit that is set behind its back shows in the top again.
//! They are set before the topic's bell is disarmed ([`Doorbell::ring`]), so that a ringer's death between the two leaves
//! the bell armed for the next publisher.

use crate::doorbell::{Barrier, Doorbell};
use crate::limits::{LISTENER_TOPICS_MAX, LISTENERS_MAX};
use crate::sync::{AtomicU64, Ordering};

/// Bit of the top word: topics have been created, or the bus has been closed.
pub const TOPICS: u64 = 1 << 63;

/// A view of the words of one listener's entry.
#[derive(Clone, Copy)]
pub struct Listener<'a> {
    top: &'a AtomicU64,
    summary: &'a [AtomicU64],
    ready: &'a [AtomicU64],
    bell: Doorbell<'a>,
}

impl<'a> Listener<'a> {
    /// Views an entry: its top word, words of summary and of bits (64 of the latter a word of the former), and its bell.
    pub fn attach(
        top: &'a AtomicU64,
        summary: &'a [AtomicU64],
        ready: &'a [AtomicU64],
        bell: Doorbell<'a>,
    ) -> Self {
        Self { top, summary, ready, bell }
    }

    /// Its bell.
    pub fn bell(&self) -> Doorbell<'a> {
        self.bell
    }

    /// Ringer: something may have come in the topic of this index. [`Listener::ring`] must follow.
    pub fn mark(&self, index: usize) {
        let (word, group) = (index / 64, index / 4096);
        let (Some(ready), Some(summary)) = (self.ready.get(word), self.summary.get(group)) else { return };
        // Release: READY. Upwards, so that whoever takes the top finds the rest.
        ready.fetch_or(1 << (index % 64), Ordering::Release);
        summary.fetch_or(1 << (word % 64), Ordering::Release);
        self.top.fetch_or(1 << group, Ordering::Release);
    }

    /// Ringer: topics have been created. [`Listener::ring`] must follow.
    pub fn mark_topics(&self) {
        // Release: READY; the new topic has its name.
        self.top.fetch_or(TOPICS, Ordering::Release);
    }

    /// Ringer: wakes the consumer if it sleeps. Where `wake` fails, and says so by false, its bell stays armed.
    pub fn ring(&self, barrier: Barrier, wake: impl FnOnce() -> bool) -> bool {
        self.bell.ring_if(barrier, wake)
    }

    /// Consumer: has anything been marked? One load, of a line that is stored to only when a topic that rests is rung.
    #[inline]
    pub fn has_news(&self) -> bool {
        // Relaxed: who sees something takes it, with Acquire; who goes to sleep has a fence before this look.
        self.top.load(Ordering::Relaxed) != 0
    }

    /// Consumer: takes what was marked. True if topics have been created.
    pub fn take(&self, mut found: impl FnMut(usize)) -> bool {
        // Acquire: READY, on each word. Downwards.
        let top = self.top.swap(0, Ordering::Acquire);
        for group in bits(top & !TOPICS) {
            let Some(summary) = self.summary.get(group) else { continue };
            for bit in bits(summary.swap(0, Ordering::Acquire)) {
                let word = group * 64 + bit;
                let Some(ready) = self.ready.get(word) else { continue };
                for bit in bits(ready.swap(0, Ordering::Acquire)) {
                    found(word * 64 + bit);
                }
            }
        }
        top & TOPICS != 0
    }
}

/// The set bits of a word.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

/// Names a listener, and its index for this topic, in the topic's table.
///
/// ```text
/// bit   0..10            10..25                  25      32..64
///       entry            index of the topic      1       tag of the entry's holder word
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Entry of the listener.
    pub entry: u16,
    /// Which of the listener's bits is this topic's.
    pub index: u16,
    /// Incarnation of the entry.
    pub tag: u32,
}

impl Ticket {
    const VALID: u64 = 1 << 25;

    /// The word as it lies in memory; never 0.
    pub const fn pack(self) -> u64 {
        (self.entry as u64 & 0x3ff)
            | (self.index as u64 & 0x7fff) << 10
            | Self::VALID
            | (self.tag as u64) << 32
    }

    /// Reads a word; `None` for an unused one.
    pub const fn unpack(word: u64) -> Option<Self> {
        if word & Self::VALID == 0 {
            return None;
        }
        Some(Self {
            entry: word as u16 & 0x3ff,
            index: (word >> 10) as u16 & 0x7fff,
            tag: (word >> 32) as u32,
        })
    }
}

/// A view of a topic's table of listeners.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    used: &'a AtomicU64,
    words: &'a [AtomicU64],
}

impl<'a> Table<'a> {
    /// Views a table, which starts as zeros.
    pub fn attach(used: &'a AtomicU64, words: &'a [AtomicU64]) -> Self {
        Self { used, words }
    }

    fn used_words(&self) -> &'a [AtomicU64] {
        // Relaxed, like all of the table: LISTENER-TABLE, on the topic's bell, orders it.
        let used = self.used.load(Ordering::Relaxed);
        &self.words[..self.words.len().min(used as usize)]
    }

    /// Has nobody ever listened here?
    #[inline]
    pub fn is_unused(&self) -> bool {
        self.used.load(Ordering::Relaxed) == 0
    }

    /// Puts a ticket in, in place of one that `is_stale`, or into a word that was never used. Returns where; `None` if the
    /// table is full. The first arming of the topic's bell, its fence and the look come after it.
    pub fn join(&self, ticket: Ticket, is_stale: impl Fn(Ticket) -> bool) -> Option<usize> {
        for (at, word) in self.words.iter().enumerate() {
            let seen = word.load(Ordering::Relaxed);
            if Ticket::unpack(seen).is_some_and(|other| !is_stale(other)) {
                continue;
            }
            if word.compare_exchange(seen, ticket.pack(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.used.fetch_max(at as u64 + 1, Ordering::Relaxed);
                return Some(at);
            }
        }
        None
    }

    /// Takes a ticket out, if it is still there.
    pub fn leave(&self, at: usize, ticket: Ticket) {
        if let Some(word) = self.words.get(at) {
            let _ = word.compare_exchange(ticket.pack(), 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Takes out what is stale.
    pub fn clear(&self, is_stale: impl Fn(Ticket) -> bool) {
        for word in self.used_words() {
            let seen = word.load(Ordering::Relaxed);
            if Ticket::unpack(seen).is_some_and(&is_stale) {
                let _ = word.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Who listens here.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> + use<'a> {
        self.used_words().iter().filter_map(|word| Ticket::unpack(word.load(Ordering::Relaxed)))
    }
}

const _: () = assert!(LISTENERS_MAX == 1 << 10 && LISTENER_TOPICS_MAX == 1 << 15);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU32;
    use std::vec::Vec;

    fn words<const N: usize>() -> [AtomicU64; N] {
        core::array::from_fn(|_| AtomicU64::new(0))
    }

    #[test]
    fn what_is_marked_is_taken_once() {
        let (top, summary, ready) = (AtomicU64::new(0), words::<8>(), words::<512>());
        let bell = AtomicU32::new(0);
        let listener = Listener::attach(&top, &summary, &ready, Doorbell::attach(&bell));
        assert!(!listener.has_news());
        let marked = [0, 1, 63, 64, 4_095, 4_096, 32_767];
        for index in marked {
            listener.mark(index);
        }
        // Beyond its bits: a stale ticket's.
        listener.mark(32_768);
        listener.mark_topics();
        assert!(listener.has_news());
        let mut taken = Vec::new();
        assert!(listener.take(|index| taken.push(index)));
        assert_eq!(taken, marked);
        assert!(!listener.has_news() && !listener.take(|_| panic!("taken before")));
    }

    #[test]
    fn tickets_keep_their_fields() {
        for entry in [0, 1, 1_023] {
            for index in [0, 1, 32_767] {
                for tag in [0, 1, u32::MAX] {
                    let ticket = Ticket { entry, index, tag };
                    assert_eq!(Ticket::unpack(ticket.pack()), Some(ticket));
                }
            }
        }
        assert_eq!(Ticket::unpack(0), None);
    }

    #[test]
    fn a_table_takes_so_many_and_gives_places_on() {
        let (used, words) = (AtomicU64::new(0), words::<3>());
        let table = Table::attach(&used, &words);
        let ticket = |entry| Ticket { entry, index: 7, tag: 1 };
        assert!(table.is_unused());
        assert_eq!(
            (0..3).map(|entry| table.join(ticket(entry), |_| false)).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(table.join(ticket(3), |_| false), None);
        assert_eq!(table.join(ticket(3), |other| other.entry == 1), Some(1));
        table.leave(1, ticket(1));
        assert_eq!(table.tickets().count(), 3);
        table.leave(1, ticket(3));
        table.clear(|other| other.entry == 2);
        assert_eq!(table.tickets().collect::<Vec<_>>(), [ticket(0)]);
        assert!(!table.is_unused());
    }
}
