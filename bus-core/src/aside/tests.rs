//! Each transition of an entry, and what must not change it.

use super::*;
use std::collections::BTreeSet;
use std::vec::Vec;

struct Memory {
    entries: Vec<[AtomicU64; ENTRY_WORDS]>,
    counters: [AtomicU64; 4],
}

impl Memory {
    fn new(entries: usize) -> Self {
        Self { entries: (0..entries).map(|_| Default::default()).collect(), counters: Default::default() }
    }

    fn count(&self, which: Counter) -> u64 {
        self.counter(which).load(Ordering::Relaxed)
    }
}

impl Table for Memory {
    fn reserved(&self) -> usize {
        self.entries.len()
    }
    fn bound(&self) -> usize {
        self.entries.len()
    }
    fn entry(&self, index: usize) -> Option<&[AtomicU64; ENTRY_WORDS]> {
        self.entries.get(index)
    }
    fn counter(&self, which: Counter) -> &AtomicU64 {
        &self.counters[match which {
            Counter::Full => 0,
            Counter::Dropped => 1,
            Counter::Dead => 2,
            Counter::Waiting => 3,
        }]
    }
}

const ME: Holder = Holder { participant: 4, incarnation: 9 };
const OTHER: Holder = Holder { participant: 5, incarnation: 1 };

fn contents(sequence: u64, dead: bool, not_before_ns: u64) -> Contents {
    Contents { sequence, lane: 0, dead, not_before_ns, len_bytes: 7, ..Contents::default() }
}

/// An entry of `holder`, staged.
fn staged(store: &Store<'_, Memory>, holder: Holder, contents: Contents) -> Held {
    let filling = store.allocate(holder, 1, contents.dead, &mut 0).unwrap();
    store.describe(filling, &contents);
    store.stage(filling).unwrap()
}

fn waiting(store: &Store<'_, Memory>, sequence: u64, not_before_ns: u64) -> usize {
    let held = staged(store, ME, contents(sequence, false, not_before_ns));
    assert!(store.finish(held));
    held.index
}

fn mine(claim: Option<AsideClaim>) -> Held {
    match claim {
        Some(AsideClaim::Mine(held)) => held,
        other => panic!("not claimed: {other:?}"),
    }
}

#[test]
fn every_field_survives_at_its_extremes() {
    for state in [0, 7, 255] {
        for participant in [0, 1_023] {
            for incarnation in [0, 16_383] {
                for attempts in [0, 255] {
                    for tag in [0, TAG_MASK] {
                        let holder = Holder { participant, incarnation };
                        let word = AsideWord { state, holder, attempts, tag };
                        assert_eq!(AsideWord::unpack(word.pack()), word);
                    }
                }
            }
        }
    }
    let word = AsideWord { tag: TAG_MASK, ..AsideWord::unpack(0) };
    assert_eq!(word.next_tag().tag, 0, "wraps");
    let words = Default::default();
    let full = Contents {
        sequence: u64::MAX,
        lane: 255,
        header_flags: 255,
        kind: 255,
        dead: true,
        len_bytes: u32::MAX,
        not_before_ns: 1,
        first_ns: 2,
        last_ns: 3,
        stamp_ns: 4,
        key: u64::MAX,
    };
    full.store(&words);
    assert_eq!(Contents::load(&words), full);
    assert_eq!(full.stored_bytes(), u64::from(u32::MAX) + 64);
}

#[test]
fn a_message_is_put_aside_tried_again_and_done() {
    let (memory, due) = (Memory::new(4), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    let index = waiting(&store, 12, 500);
    assert_eq!(due_ns(&due), Some(500));
    assert_eq!(memory.count(Counter::Waiting), 1);
    assert_eq!(store.claim_due(ME, 10, 499, &mut 0), None, "too early");
    let held = mine(store.claim_due(ME, 10, 500, &mut 0));
    assert_eq!((held.index, held.word.attempts), (index, 2));
    assert_eq!(store.read(index).unwrap().1.sequence, 12);
    assert!(store.is_mine(held));
    let amending = store.amend(held).unwrap();
    assert!(!store.expire(index, amending.word), "nobody ends that but its holder");
    assert!(!store.acknowledge(held), "the word is another");
    assert!(store.again(amending, 900, 77));
    assert_eq!(due_ns(&due), Some(500), "a word that is too early costs one look");
    assert_eq!(store.claim_due(ME, 10, 899, &mut 0), None);
    assert_eq!(due_ns(&due), Some(900));
    let held = mine(store.claim_due(OTHER, 10, 900, &mut 0));
    assert_eq!(store.read(index).unwrap().1.last_ns, 77);
    assert_eq!(held.word.attempts, 3);
    assert!(store.acknowledge(held));
    assert!(!store.acknowledge(held), "once");
    assert_eq!(memory.count(Counter::Waiting), 0);
    assert_eq!(store.look(index).unwrap().state, state::FREE);
}

#[test]
fn a_message_that_is_worn_out_becomes_a_dead_letter_without_another_attempt() {
    let (memory, due) = (Memory::new(4), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    let index = waiting(&store, 0, 1);
    assert_eq!(mine(store.claim_due(ME, 2, 1, &mut 0)).word.attempts, 2);
    assert_eq!(store.settle_one_member(|holder| holder == ME, |_| None).released, 1);
    let Some(AsideClaim::Exhausted(last)) = store.claim_due(OTHER, 2, 1, &mut 0) else { panic!("worn out") };
    assert_eq!(last.word.attempts, 2);
    assert!(store.dead(last, 5));
    let letter = store.look(index).unwrap();
    assert_eq!(
        (letter.state, memory.count(Counter::Dead), memory.count(Counter::Waiting)),
        (state::DEAD, 1, 0)
    );
    assert!(store.announce(index, letter));
    assert!(!store.announce(index, letter), "once");
    assert!(!store.purge(index, letter), "not as it was seen");
    assert!(store.purge(index, store.look(index).unwrap()));
    assert_eq!(memory.count(Counter::Dead), 0);
}

#[test]
fn one_of_many_publishes_a_dead_letter_again_and_a_death_leaves_it_there() {
    let (memory, due) = (Memory::new(4), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    assert!(store.finish(staged(&store, ME, contents(7, true, 0))));
    let seen = Held { index: 0, word: store.look(0).unwrap() };
    let held = store.replay(seen, ME).unwrap();
    assert_eq!((store.replay(seen, OTHER), store.replay(held, OTHER)), (None, None), "one only");
    assert!(!store.purge(0, seen.word) && !store.purge(0, held.word));
    assert!(store.take(seen, OTHER).is_none() && store.take(held, OTHER).is_none());
    assert!(store.take_oldest_dead(OTHER, |_| {}).is_none() && !store.announce(0, held.word));
    assert_eq!((memory.count(Counter::Dead), store.census().dead, store.census().unannounced), (1, 1, 0));
    assert_eq!(store.settle_one_member(|holder| holder == ME, |_| None).released, 1);
    assert_eq!(store.look(0).unwrap().state, state::DEAD);
    assert!(!store.replayed(held) && store.take(held, ME).is_none(), "thought dead");
    let held = store.replay(Held { index: 0, word: store.look(0).unwrap() }, OTHER).unwrap();
    assert!(store.put_back(held, true) && !store.put_back(held, true));
    let held = store.replay(Held { index: 0, word: store.look(0).unwrap() }, OTHER).unwrap();
    assert_eq!(store.read(0).unwrap().1.sequence, 7);
    assert!(store.replayed(held) && !store.replayed(held));
    assert_eq!((memory.count(Counter::Dead), memory.count(Counter::Waiting)), (0, 0));
}

#[test]
fn a_claim_that_was_taken_back_changes_nothing() {
    let (memory, due) = (Memory::new(4), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    let index = waiting(&store, 0, 3);
    let slow = mine(store.claim_due(ME, 10, 3, &mut 0));
    let longer = store.extend(slow).unwrap();
    assert!(!store.expire(index, slow.word), "it asked for more time");
    assert!(store.expire(index, longer.word));
    assert_eq!(due_ns(&due), Some(3), "and is due");
    assert!(!store.is_mine(longer) && store.extend(longer).is_none() && store.amend(longer).is_none());
    assert!(!store.acknowledge(longer) && store.take(longer, ME).is_none() && !store.release(longer));
    let next = mine(store.claim_due(OTHER, 10, 3, &mut 0));
    assert_eq!(next.word.attempts, 3);
    assert!(!store.acknowledge(longer) && store.acknowledge(next));
    let reused = staged(&store, OTHER, contents(9, false, 4));
    assert_eq!(reused.index, index);
    assert!(!store.acknowledge(next) && !store.dead(next, 0), "an entry that holds another message");
}

#[test]
fn a_claim_in_vain_is_taken_back_without_a_trace_but_its_tag() {
    let (memory, due) = (Memory::new(4), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    let index = waiting(&store, 0, 3);
    let before = store.look(index).unwrap();
    let vain = mine(store.claim_due(ME, 10, 3, &mut 0));
    assert!(store.unclaim(vain) && !store.unclaim(vain));
    let after = store.look(index).unwrap();
    assert_eq!((after.state, after.attempts), (state::WAITING, before.attempts));
    assert_eq!(due_ns(&due), Some(3), "and is due");
    assert_eq!(store.claim(index, before, OTHER, 10), AsideClaim::Taken, "as it was seen before");
    let next = mine(store.claim_due(OTHER, 10, 3, &mut 0));
    assert_eq!(next.word.attempts, before.attempts + 1);
    assert!(!store.unclaim(vain) && !store.acknowledge(vain) && store.acknowledge(next));
}

#[test]
fn what_lies_behind_the_table_is_cleared_by_one_who_holds_it_alone() {
    let (memory, due) = (Memory::new(4), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    let index = waiting(&store, 0, 1);
    let held = mine(store.claim_due(ME, 10, 1, &mut 0));
    let taken = store.take(held, ME).unwrap();
    assert_eq!(store.allocate(OTHER, 0, false, &mut 0).unwrap().index, index + 1, "not free yet");
    assert!(store.free(taken) && !store.free(taken));
    let waits = waiting(&store, 0, 1);
    assert_eq!(store.take(Held { index: waits, word: store.look(waits).unwrap() }, ME), None, "it waits");
}

#[test]
fn a_full_store_and_too_many_dead_letters_refuse() {
    let (memory, due) = (Memory::new(8), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    for sequence in 0..6 {
        let mut letter = contents(sequence, true, 0);
        letter.last_ns = 10 - sequence;
        assert!(store.finish(staged(&store, ME, letter)));
    }
    assert!(store.has_dead_max() && store.allocate(ME, 1, true, &mut 0).is_none());
    waiting(&store, 6, 1);
    waiting(&store, 7, 1);
    assert_eq!(store.allocate(ME, 1, false, &mut 3), None);
    store.note_full();
    assert_eq!(memory.count(Counter::Full), 1);
    let oldest = store.take_oldest_dead(ME, |_| {}).unwrap();
    assert_eq!(store.read(oldest.index).unwrap().1.sequence, 5);
    assert!(store.free(oldest));
    assert_eq!((memory.count(Counter::Dropped), memory.count(Counter::Dead)), (1, 5));
    let mut hint = 7;
    assert_eq!(store.allocate(ME, 1, true, &mut hint).unwrap().index, oldest.index);
    assert_eq!(hint, oldest.index + 1);
    // Deaths may leave a count too low, and even below zero.
    memory.counter(Counter::Dead).store(u64::MAX, Ordering::Relaxed);
    assert!(!store.has_dead_max());
    let census = store.census();
    assert_eq!((census.dead, census.unannounced, census.waiting, census.unfinished), (5, 5, 2, 1));
    assert_eq!((memory.count(Counter::Dead), memory.count(Counter::Waiting)), (5, 2));
}

#[test]
fn all_that_is_due_is_found_and_the_rest_is_remembered() {
    let (memory, due) = (Memory::new(64), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    for sequence in 0..60 {
        waiting(&store, sequence, 100 + sequence % 6);
    }
    let mut cursor = 40;
    let mut seen = BTreeSet::new();
    while let Some(claim) = store.claim_due(ME, 10, 102, &mut cursor) {
        seen.insert(mine(Some(claim)).index);
    }
    assert_eq!(seen.len(), 30);
    assert_eq!(due_ns(&due), Some(103));
    due.store(0, Ordering::Relaxed);
    assert_eq!(store.claim_due(ME, 10, 200, &mut cursor), None, "a scanner died with the word cleared");
    assert_eq!(store.census().due_ns, Some(103));
    assert!(store.claim_due(ME, 10, 200, &mut cursor).is_some());
    lower_due(&due, 0);
    assert_eq!(due_ns(&due), Some(1), "0 means none");
}

/// Owner words of a lane, and a message that a member has claimed.
fn claimed(words: &[AtomicU64], sequence: u64, member: u16) -> (Owners<'_>, OwnerWord) {
    let owners = Owners::attach(words).unwrap();
    let owner::Claim::Mine(claim) = owners.claim(sequence, member, 10, &AtomicU64::new(0)) else {
        panic!("claimed")
    };
    (owners, claim)
}

#[test]
fn a_commit_in_a_shared_group_lets_low_water_pass() {
    let (memory, due, words) = (Memory::new(4), AtomicU64::new(0), <[AtomicU64; 8]>::default());
    let store = Store::attach(&memory, &due);
    let low_water = AtomicU64::new(0);
    let (owners, claim) = claimed(&words, 0, 4);
    let held = staged(&store, ME, contents(0, false, 50));
    assert!(store.commit_shared(&owners, 0, claim, held));
    assert_eq!(owners.walk(&low_water, 1), 1);
    assert_eq!((store.look(held.index).unwrap().state, due_ns(&due)), (state::WAITING, Some(50)));

    let (owners, claim) = claimed(&words, 1, 4);
    let refused = staged(&store, ME, contents(1, false, 5));
    assert!(owners.release(1, claim), "an observer took it back");
    assert!(!store.commit_shared(&owners, 1, claim, refused));
    assert_eq!(store.look(refused.index).unwrap().state, state::FREE);
    assert_eq!(owners.walk(&low_water, 2), 1);
}

#[test]
fn whoever_meets_a_parked_message_finishes_it_and_no_other() {
    let (memory, due, words) = (Memory::new(4), AtomicU64::new(0), <[AtomicU64; 8]>::default());
    let store = Store::attach(&memory, &due);
    let low_water = AtomicU64::new(0);
    let (owners, claim) = claimed(&words, 0, 4);
    let held = staged(&store, ME, contents(0, true, 0));
    assert!(owners.park(0, claim, held.parked_entry()));
    let parked = owners.look(0);
    let finish = |sequence, seen| store.finish_parked(&owners, 0, sequence, seen);
    assert_eq!(owners.walk_with(&low_water, 1, finish), 1);
    assert_eq!(store.look(held.index).unwrap().state, state::DEAD);
    assert!(!store.finish(held) && !finish(0, parked), "its member comes too late");

    // The entry is filled for another message, and its tag comes round to the same ten bits.
    let mut other =
        store.take(Held { index: held.index, word: store.look(held.index).unwrap() }, ME).unwrap();
    while other.word.tag & PARKED_TAG_MASK != held.word.tag & PARKED_TAG_MASK
        || other.word.state != state::FILLING
    {
        assert!(store.free(other));
        other = store.allocate(ME, 1, false, &mut 0).unwrap();
    }
    store.describe(other, &contents(1, false, 0));
    let other = store.stage(other).unwrap();
    assert_eq!(other.parked_entry(), held.parked_entry());
    assert!(!finish(0, parked));
    assert_eq!(store.look(other.index), Some(other.word), "it is not committed");
    let nowhere = parked.parked(ParkedEntry { index: u16::MAX, incarnation: 0 });
    assert!(!finish(0, nowhere), "an entry that is not there");
}

#[test]
fn repair_of_a_shared_store_follows_the_owner_words() {
    let (memory, due, words) = (Memory::new(8), AtomicU64::new(0), <[AtomicU64; 8]>::default());
    let store = Store::attach(&memory, &due);
    let (owners, committed) = claimed(&words, 0, ME.participant);
    let (_, uncommitted) = claimed(&words, 1, ME.participant);
    let kept = staged(&store, ME, contents(0, false, 8));
    assert!(owners.park(0, committed, kept.parked_entry()));
    let lost = staged(&store, ME, contents(1, false, 8));
    let filling = store.allocate(ME, 1, false, &mut 0).unwrap();
    let alive = store.allocate(OTHER, 1, false, &mut 0).unwrap();
    let foreign = staged(&store, ME, Contents { lane: 9, ..contents(1, false, 8) });
    let settle = || {
        store.settle_shared(
            |holder| holder == ME,
            |lane| if lane == 0 { Owners::attach(&words) } else { None },
        )
    };
    let first = settle();
    assert_eq!(first, Repaired { freed: 1, finished: 1, released: 0, left: 2 });
    assert_eq!(store.look(lost.index), Some(lost.word), "its message is claimed by the dead member still");
    assert!(owners.release_of_dead(1, ME.participant));
    assert!(!owners.park(1, uncommitted, lost.parked_entry()));
    assert_eq!(settle(), Repaired { freed: 1, finished: 0, released: 0, left: 1 });
    assert_eq!(settle(), Repaired { left: 1, ..Repaired::default() }, "again and again");
    let state_of = |held: Held| store.look(held.index).unwrap().state;
    assert_eq!(
        [kept, lost, filling, alive, foreign].map(state_of),
        [state::WAITING, state::FREE, state::FREE, state::FILLING, state::STAGED]
    );
    assert_eq!(owners.look(0).state, owner::state::DONE);
    assert_eq!(due_ns(&due), Some(8));
}

#[test]
fn repair_of_a_group_of_one_follows_its_cursor() {
    let (memory, due) = (Memory::new(8), AtomicU64::new(0));
    let store = Store::attach(&memory, &due);
    let low_water = AtomicU64::new(6);
    let passed = staged(&store, ME, contents(5, false, 8));
    let letter = staged(&store, ME, contents(4, true, 8));
    let in_hand = staged(&store, ME, contents(6, false, 8));
    let tried = waiting(&store, 1, 3);
    let claim = mine(store.claim_due(ME, 10, 3, &mut 0));
    assert!(store.amend(claim).is_some());
    let repaired = store.settle_one_member(
        |holder| holder == ME,
        |lane| (lane == 0).then(|| low_water.load(Ordering::Relaxed)),
    );
    assert_eq!(repaired, Repaired { freed: 1, finished: 2, released: 1, left: 0 });
    assert!(repaired.any());
    let states = [passed.index, letter.index, in_hand.index, tried].map(|at| store.look(at).unwrap().state);
    assert_eq!(states, [state::WAITING, state::DEAD, state::FREE, state::WAITING]);
    assert_eq!(low_water.load(Ordering::Relaxed), 6);
}
