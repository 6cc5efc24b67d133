//! Messages put aside: each keeps one end, whoever finishes, repairs, expires or scans at the same time.

use crate::{Payload, explore, explore_within, words};
use bus_core::aside::{AsideClaim, AsideWord, Contents, Counter, Held, Store, Table, lower_due};
use bus_core::holder::Holder;
use bus_core::layout::aside::{ENTRY_WORDS, state, word};
use bus_core::owner::{self, OwnerWord, Owners};
use bus_core::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

const ME: Holder = Holder { participant: 1, incarnation: 1 };
const OTHER: Holder = Holder { participant: 2, incarnation: 1 };
const ATTEMPTS_MAX: u8 = 9;
const NOT_BEFORE_NS: u64 = 5;
const NOW_NS: u64 = 10;

/// A store of one entry, a lane of two slots, and what the entry's payload stands for.
struct Group {
    owners: [AtomicU64; 2],
    low_water: AtomicU64,
    entry: [AtomicU64; ENTRY_WORDS],
    counters: [AtomicU64; 4],
    due: AtomicU64,
    payload: Payload,
    /// A payload that is copied while it may be overwritten.
    bytes: [AtomicU64; 2],
}

impl Table for Group {
    fn reserved(&self) -> usize {
        1
    }
    fn bound(&self) -> usize {
        1
    }
    fn entry(&self, index: usize) -> Option<&[AtomicU64; ENTRY_WORDS]> {
        (index == 0).then_some(&self.entry)
    }
    fn counter(&self, which: Counter) -> &AtomicU64 {
        &self.counters[which as usize]
    }
}

impl Group {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            owners: words(),
            low_water: AtomicU64::new(0),
            entry: words(),
            counters: words(),
            due: AtomicU64::new(0),
            payload: Payload::new(0),
            bytes: words(),
        })
    }

    fn store(&self) -> Store<'_, Self> {
        Store::attach(self, &self.due)
    }

    fn owners(&self) -> Owners<'_> {
        Owners::attach(&self.owners).unwrap()
    }

    fn claim(&self, sequence: u64, member: Holder) -> OwnerWord {
        match self.owners().claim(sequence, member.participant, ATTEMPTS_MAX, &self.low_water) {
            owner::Claim::Mine(claim) => claim,
            other => panic!("not claimed: {other:?}"),
        }
    }

    /// An entry for message 0 that its holder may stage.
    fn filled(&self) -> Held {
        let store = self.store();
        let filling = store.allocate(ME, 1, false, &mut 0).unwrap();
        store.describe(filling, &Contents { not_before_ns: NOT_BEFORE_NS, ..Contents::default() });
        filling
    }

    fn staged(&self) -> Held {
        self.store().stage(self.filled()).unwrap()
    }

    /// An entry that waits.
    fn waiting(&self) {
        assert!(self.store().finish(self.staged()));
    }

    fn look(&self) -> AsideWord {
        self.store().look(0).unwrap()
    }

    fn claim_due(&self, me: Holder) -> Option<Held> {
        match self.store().claim_due(me, ATTEMPTS_MAX, NOW_NS, &mut 0) {
            Some(AsideClaim::Mine(held)) => Some(held),
            None => None,
            other => panic!("not worn out: {other:?}"),
        }
    }

    /// A walk that finishes parked messages.
    fn walk(&self) -> u64 {
        self.owners().walk_with(&self.low_water, 1, |sequence, parked| {
            self.store().finish_parked(&self.owners(), 0, sequence, parked)
        })
    }
}

/// The member that parks a message and another one that walks: whoever is first, the entry is valid once.
#[test]
fn park_and_help() {
    explore_within(3, || {
        let group = Group::new();
        let claim = group.claim(0, ME);
        let staged = group.staged();
        let helper = {
            let group = group.clone();
            thread::spawn(move || group.walk())
        };
        assert!(group.store().commit_shared(&group.owners(), 0, claim, staged));
        assert_eq!(group.walk(), 1, "the member's own walk");
        helper.join().unwrap();
        assert_eq!(group.look(), staged.word.with_state(state::WAITING));
        assert_eq!(group.due.load(Ordering::Relaxed), NOT_BEFORE_NS);
    });
}

/// The member parks a message while an observer takes its claim back: one of them wins, and the entry follows.
#[test]
fn park_and_expire() {
    explore(|| {
        let group = Group::new();
        let claim = group.claim(0, ME);
        let staged = group.staged();
        let observer = {
            let group = group.clone();
            thread::spawn(move || group.owners().release(0, claim))
        };
        let committed = group.store().commit_shared(&group.owners(), 0, claim, staged);
        assert!(committed != observer.join().unwrap());
        let end = if committed { state::WAITING } else { state::FREE };
        assert_eq!(group.look().state, end);
        assert_eq!(group.owners().look(0).state == owner::state::DONE, committed);
    });
}

/// A member died with its entry staged. Two others repair, one of them walks.
fn repaired_twice(committed: bool) {
    let group = Group::new();
    let claim = group.claim(0, ME);
    let staged = group.staged();
    if committed {
        assert!(group.owners().park(0, claim, staged.parked_entry()));
    }
    let repair = |group: &Group| {
        group.owners().release_of_dead(0, ME.participant);
        group.store().settle_shared(|holder| holder == ME, |_| Some(group.owners()))
    };
    let other = {
        let group = group.clone();
        thread::spawn(move || {
            repair(&group);
            group.walk();
        })
    };
    repair(&group);
    group.walk();
    other.join().unwrap();
    let (end, low_water) = if committed { (state::WAITING, 1) } else { (state::FREE, 0) };
    assert_eq!((group.look().state, group.low_water.load(Ordering::Relaxed)), (end, low_water));
}

#[test]
fn repair_of_a_committed_message() {
    explore_within(3, || repaired_twice(true));
}

#[test]
fn repair_of_an_uncommitted_message() {
    explore_within(3, || repaired_twice(false));
}

/// A member stages and parks, and dies; a helper meets the message.
fn parked_and_left(help: fn(&Group)) {
    let group = Group::new();
    let claim = group.claim(0, ME);
    let filling = group.filled();
    let member = {
        let group = group.clone();
        thread::spawn(move || {
            let staged = group.store().stage(filling).unwrap();
            assert!(group.owners().park(0, claim, staged.parked_entry()));
        })
    };
    help(&group);
    member.join().unwrap();
    let done = group.owners().look(0).state == owner::state::DONE;
    assert!(!done || group.look().state == state::WAITING, "lost");
}

#[test]
fn help_after_a_death() {
    explore(|| {
        parked_and_left(|group| {
            group.walk();
        })
    });
}

/// [`Owners::walk_with`] with one message, in small.
fn help_in_small(group: &Group, load: Ordering) {
    let parked = OwnerWord::unpack(group.owners[0].load(load));
    if parked.state == owner::state::PARKED {
        group.store().finish_parked(&group.owners(), 0, 0, parked);
    }
}

#[test]
fn help_in_small_holds() {
    explore(|| parked_and_left(|group| help_in_small(group, Ordering::Acquire)));
}

#[test]
#[should_panic(expected = "lost")]
fn help_breaks_when_the_owner_word_is_loaded_relaxed() {
    explore(|| parked_and_left(|group| help_in_small(group, Ordering::Relaxed)));
}

/// A message is put aside, and another member takes it from there.
fn handed_over(stage: fn(&Group, Held) -> Held) {
    let group = Group::new();
    let filling = group.filled();
    let member = {
        let group = group.clone();
        thread::spawn(move || {
            group.payload.write(7);
            let staged = stage(&group, filling);
            // Another one finishes it, whose own step would publish nothing of the payload.
            let waiting = staged.word.with_state(state::WAITING).pack();
            let swap = group.entry[word::STATE].compare_exchange(
                staged.word.pack(),
                waiting,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            assert!(swap.is_ok());
        })
    };
    let seen = group.look();
    if let AsideClaim::Mine(held) = group.store().claim(0, seen, OTHER, ATTEMPTS_MAX) {
        assert_eq!(group.payload.read(), 7);
        assert!(group.store().acknowledge(held));
    }
    member.join().unwrap();
}

#[test]
fn contents_come_with_the_state() {
    explore(|| handed_over(|group, filling| group.store().stage(filling).unwrap()));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn contents_are_left_behind_when_the_entry_is_staged_relaxed() {
    explore(|| {
        handed_over(|group, filling| {
            let word = filling.word.with_state(state::STAGED);
            group.entry[word::STATE].store(word.pack(), Ordering::Relaxed);
            Held { word, ..filling }
        })
    });
}

/// A member reads the entry that it has claimed, and finishes it; another one fills it anew.
fn filled_anew(acknowledge: fn(&Group, Held)) {
    let group = Group::new();
    group.waiting();
    let held = group.claim_due(ME).unwrap();
    let member = {
        let group = group.clone();
        thread::spawn(move || {
            assert_eq!(group.payload.read(), 0);
            acknowledge(&group, held);
        })
    };
    if group.store().allocate(OTHER, 1, false, &mut 0).is_some() {
        group.payload.write(1);
    }
    member.join().unwrap();
}

#[test]
fn an_entry_is_filled_anew_after_its_reader() {
    explore(|| filled_anew(|group, held| assert!(group.store().acknowledge(held))));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn an_entry_is_filled_too_early_when_it_is_freed_relaxed() {
    explore(|| {
        filled_anew(|group, held| {
            let free = held.word.with_state(state::FREE);
            group.entry[word::STATE].store(free.pack(), Ordering::Relaxed);
        })
    });
}

/// A slow member acknowledges while an observer takes its claim back and the message goes to another.
#[test]
fn acknowledge_and_expire() {
    explore_within(3, || {
        let group = Group::new();
        group.waiting();
        let slow = group.claim_due(ME).unwrap();
        let member = {
            let group = group.clone();
            thread::spawn(move || group.store().acknowledge(slow))
        };
        let expired = group.store().expire(0, slow.word);
        let again = group.claim_due(OTHER);
        assert_eq!(expired, again.is_some(), "what was taken back is due");
        if let Some(again) = again {
            assert_eq!(again.word.attempts, slow.word.attempts + 1);
            assert!(group.store().acknowledge(again), "the slow one must not touch another's claim");
        }
        assert_eq!(member.join().unwrap(), !expired);
        assert_eq!(group.look().state, state::FREE);
    });
}

/// A slow member asks for more time, writes down a failure, or is too late for either.
#[test]
fn amend_and_expire() {
    explore_within(3, || {
        let group = Group::new();
        group.waiting();
        let slow = group.claim_due(ME).unwrap();
        let member = {
            let group = group.clone();
            thread::spawn(move || {
                let amending = group.store().extend(slow).and_then(|held| group.store().amend(held));
                if let Some(amending) = amending {
                    group.payload.write(1);
                    assert!(group.store().again(amending, NOW_NS, 0));
                }
            })
        };
        group.store().expire(0, group.look());
        if let Some(held) = group.claim_due(OTHER) {
            group.payload.read();
            assert!(group.store().acknowledge(held));
        }
        member.join().unwrap();
    });
}

/// Two members claim the one entry that is due.
#[test]
fn claimed_once() {
    explore_within(3, || {
        let group = Group::new();
        group.waiting();
        let other = {
            let group = group.clone();
            thread::spawn(move || group.claim_due(OTHER))
        };
        let mine = group.claim_due(ME);
        let others = other.join().unwrap();
        assert!(mine.is_none() || others.is_none());
        assert!(mine.is_some() || others.is_some() || group.due.load(Ordering::Relaxed) != 0);
    });
}

/// One member puts a message aside while another looks for what is due, with the word for the earliest time at `due` already.
fn staged_while_scanned(due: u64, put: fn(&Group, Held)) {
    let group = Group::new();
    group.due.store(due, Ordering::Relaxed);
    let staged = group.staged();
    let member = {
        let group = group.clone();
        thread::spawn(move || put(&group, staged))
    };
    let found = group.claim_due(OTHER).is_some();
    member.join().unwrap();
    let waits = group.look().state == state::WAITING;
    assert_eq!(waits, !found);
    assert!(!waits || group.due.load(Ordering::Relaxed) != 0, "forgotten");
}

#[test]
fn nothing_that_waits_is_forgotten() {
    for due in [0, 1, NOW_NS] {
        explore(move || staged_while_scanned(due, |group, staged| assert!(group.store().finish(staged))));
    }
}

fn make_wait(group: &Group, staged: Held) {
    let to = staged.word.with_state(state::WAITING).pack();
    let state = &group.entry[word::STATE];
    let swapped = state.compare_exchange(staged.word.pack(), to, Ordering::AcqRel, Ordering::Relaxed);
    assert!(swapped.is_ok());
}

#[test]
#[should_panic(expected = "forgotten")]
fn an_entry_is_forgotten_when_its_time_is_said_before_it_waits() {
    explore(|| {
        staged_while_scanned(1, |group, staged| {
            lower_due(&group.due, NOT_BEFORE_NS);
            make_wait(group, staged);
        })
    });
}

#[test]
#[should_panic(expected = "forgotten")]
fn an_entry_is_forgotten_when_a_word_that_is_low_enough_is_only_loaded() {
    explore(|| {
        staged_while_scanned(1, |group, staged| {
            make_wait(group, staged);
            let seen = group.due.load(Ordering::Relaxed);
            if seen == 0 || seen > NOT_BEFORE_NS {
                lower_due(&group.due, NOT_BEFORE_NS);
            }
        })
    });
}

#[test]
#[should_panic(expected = "forgotten")]
fn an_entry_is_forgotten_when_the_word_is_swapped_relaxed() {
    explore(|| {
        staged_while_scanned(1, |group, staged| {
            make_wait(group, staged);
            let mut seen = group.due.load(Ordering::Relaxed);
            loop {
                let to = if seen == 0 { NOT_BEFORE_NS } else { seen };
                let swap = group.due.compare_exchange(seen, to, Ordering::Relaxed, Ordering::Relaxed);
                let Err(now) = swap else { break };
                seen = now;
            }
        })
    });
}

/// A slow member copies its message; its claim is taken back, another one finishes, and the entry is filled anew.
fn copied_too_late(fill: fn(&Group), is_mine: fn(&Group, Held) -> bool) {
    let group = Group::new();
    group.waiting();
    let slow = group.claim_due(ME).unwrap();
    let others = {
        let group = group.clone();
        thread::spawn(move || {
            assert!(group.store().expire(0, slow.word));
            let again = group.claim_due(OTHER).unwrap();
            assert!(group.store().acknowledge(again));
            fill(&group);
            for byte in &group.bytes {
                byte.store(1, Ordering::Relaxed);
            }
        })
    };
    let copy = [0, 1].map(|at: usize| group.bytes[at].load(Ordering::Relaxed));
    assert!(!is_mine(&group, slow) || copy == [0, 0], "another one's message");
    others.join().unwrap();
}

fn allocate(group: &Group) {
    group.store().allocate(OTHER, 1, false, &mut 0).unwrap();
}

#[test]
fn a_copy_that_is_still_mine_is_good() {
    explore_within(2, || copied_too_late(allocate, |group, held| group.store().is_mine(held)));
}

#[test]
#[should_panic(expected = "another one's message")]
fn a_copy_is_not_good_without_the_readers_fence() {
    explore_within(2, || {
        copied_too_late(allocate, |group, held| {
            group.entry[word::STATE].load(Ordering::Relaxed) == held.word.pack()
        })
    });
}

/// The swap of [`Store::allocate`], with and without the fence behind it.
fn allocate_in_small<const FENCE: bool>(group: &Group) {
    let seen = group.look();
    let to = AsideWord { state: state::FILLING, holder: OTHER, ..seen };
    let state = &group.entry[word::STATE];
    assert!(state.compare_exchange(seen.pack(), to.pack(), Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if FENCE {
        fence(Ordering::Release);
    }
}

#[test]
fn a_copy_in_small_is_good() {
    explore_within(2, || {
        copied_too_late(allocate_in_small::<true>, |group, held| group.store().is_mine(held))
    });
}

#[test]
#[should_panic(expected = "another one's message")]
fn a_copy_is_not_good_without_the_writers_fence() {
    explore_within(2, || {
        copied_too_late(allocate_in_small::<false>, |group, held| group.store().is_mine(held))
    });
}

/// An observer or a listing reads an entry that is being filled anew: what it gets belongs together.
#[test]
fn a_consistent_look() {
    explore_within(1, || {
        let group = Group::new();
        group.waiting();
        let held = group.claim_due(ME).unwrap();
        let member = {
            let group = group.clone();
            thread::spawn(move || {
                assert!(group.store().acknowledge(held));
                let filling = group.store().allocate(ME, 1, false, &mut 0).unwrap();
                let contents = Contents { sequence: 1, stamp_ns: 1, ..Contents::default() };
                group.store().describe(filling, &contents);
                group.store().stage(filling).unwrap();
            })
        };
        if let Some((seen, contents)) = group.store().read(0)
            && seen.state != state::FILLING
        {
            assert_eq!(contents.sequence, contents.stamp_ns, "parts of two messages");
            assert_eq!(contents.sequence == 1, seen.state == state::STAGED);
        }
        member.join().unwrap();
    });
}
