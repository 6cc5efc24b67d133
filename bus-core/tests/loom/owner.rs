//! Members of one group: each message claimed once, `low_water` never left behind, memory released through a walk.

use crate::{Payload, explore, explore_within, words};
use bus_core::owner::{Claim, OwnerWord, Owners, QuickLook, state};
use bus_core::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

const ATTEMPTS_MAX: u8 = 3;

/// Owner words of a lane of two slots, the group's cursor, and how often each message was handed out.
struct Group {
    words: [AtomicU64; 2],
    low_water: AtomicU64,
    handed_out: [AtomicU64; 2],
    payload: Payload,
}

impl Group {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: words(),
            low_water: AtomicU64::new(0),
            handed_out: words(),
            payload: Payload::new(0),
        })
    }

    fn owners(&self) -> Owners<'_> {
        Owners::attach(&self.words).unwrap()
    }

    fn claim(&self, sequence: u64, member: u16) -> Option<OwnerWord> {
        match self.owners().claim(sequence, member, ATTEMPTS_MAX, &self.low_water) {
            Claim::Mine(word) => Some(word),
            Claim::Taken => None,
            Claim::Exhausted(_) => panic!("fewer attempts than that"),
        }
    }

    fn acknowledge(&self, sequence: u64, mine: OwnerWord, end: u64) -> bool {
        self.owners().acknowledge(sequence, mine, &self.low_water, end)
    }

    /// What remains when all threads have ended.
    fn low_water(&self) -> u64 {
        self.low_water.load(Ordering::Relaxed)
    }
}

/// Two members claim whatever they can of two messages and finish it.
#[test]
fn claim_and_acknowledge() {
    explore_within(3, || {
        let group = Group::new();
        let member = |number: u16, group: &Group| {
            for sequence in 0..2 {
                if let Some(mine) = group.claim(sequence, number) {
                    group.handed_out[sequence as usize].fetch_add(1, Ordering::Relaxed);
                    assert!(group.acknowledge(sequence, mine, 2));
                }
            }
        };
        let other = {
            let group = group.clone();
            thread::spawn(move || member(1, &group))
        };
        member(0, &group);
        other.join().unwrap();
        assert_eq!(group.low_water(), 2);
        assert!(group.handed_out.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    });
}

/// Finishes a message and walks.
type Finish = fn(&Group, sequence: u64, mine: OwnerWord) -> bool;

/// Both members have a message in hand and finish it at once.
fn finish_at_once(finish: Finish) {
    let group = Group::new();
    let hands = [0, 1].map(|sequence| group.claim(sequence, sequence as u16).unwrap());
    let other = {
        let group = group.clone();
        thread::spawn(move || finish(&group, 1, hands[1]))
    };
    assert!(finish(&group, 0, hands[0]));
    assert!(other.join().unwrap());
    assert_eq!(group.low_water(), 2, "left behind");
}

#[test]
fn acknowledge_and_walk() {
    explore(|| finish_at_once(|group, sequence, mine| group.acknowledge(sequence, mine, 2)));
}

/// Both members finish a batch, every second message each, and walk once.
#[test]
fn finish_several_and_walk() {
    explore_within(3, || {
        let lane: Arc<([AtomicU64; 4], AtomicU64)> = Arc::new((words(), AtomicU64::new(0)));
        let claim = |sequence| {
            let owners = Owners::attach(&lane.0).unwrap();
            let QuickLook::Untouched(word) = owners.quick_look(sequence) else { panic!("nobody has had it") };
            owners.claim_untouched(sequence, (sequence % 2) as u16, word).unwrap()
        };
        let hands = [0, 1, 2, 3].map(claim);
        let finish = move |(words, low_water): &([AtomicU64; 4], AtomicU64), member: usize| {
            let owners = Owners::attach(words).unwrap();
            for sequence in [member, member + 2] {
                assert!(owners.finish(sequence as u64, hands[sequence]));
            }
            owners.walk_with(low_water, 4, |_, _| false);
        };
        let other = {
            let lane = lane.clone();
            thread::spawn(move || finish(&lane, 1))
        };
        finish(&lane, 0);
        other.join().unwrap();
        assert_eq!(lane.1.load(Ordering::Relaxed), 4, "left behind");
    });
}

/// The same against a member that finishes what it has one by one.
#[test]
fn finish_several_against_one_by_one() {
    explore_within(3, || {
        let lane: Arc<([AtomicU64; 4], AtomicU64)> = Arc::new((words(), AtomicU64::new(0)));
        let owners = Owners::attach(&lane.0).unwrap();
        let hands = [0, 1, 2].map(|sequence| {
            match owners.claim(sequence, (sequence % 2) as u16, ATTEMPTS_MAX, &lane.1) {
                Claim::Mine(word) => word,
                other => panic!("nobody has had it: {other:?}"),
            }
        });
        let other = {
            let lane = lane.clone();
            thread::spawn(move || {
                let owners = Owners::attach(&lane.0).unwrap();
                assert!(owners.acknowledge(1, hands[1], &lane.1, 3));
            })
        };
        assert!(owners.finish(0, hands[0]) && owners.finish(2, hands[2]));
        owners.walk_with(&lane.1, 3, |_, _| false);
        other.join().unwrap();
        assert_eq!(lane.1.load(Ordering::Relaxed), 3, "left behind");
    });
}

/// Two members see a message that nobody has had: one claims it.
#[test]
fn who_saw_it_untouched_claims_it_once() {
    explore(|| {
        let group = Group::new();
        let claim = |group: &Group, member: u16| {
            let owners = group.owners();
            match owners.quick_look(0) {
                QuickLook::Untouched(word) => owners.claim_untouched(0, member, word),
                QuickLook::Taken => None,
                QuickLook::Unclear => panic!("nobody gives it back"),
            }
        };
        let other = {
            let group = group.clone();
            thread::spawn(move || claim(&group, 1))
        };
        let (mine, theirs) = (claim(&group, 0), other.join().unwrap());
        assert!(mine.is_some() != theirs.is_some(), "{mine:?} {theirs:?}");
    });
}

/// [`Owners::acknowledge`] in small, with switches: the fence, and whether the walk goes on when it was overtaken.
fn finish_in_small<const FENCE: bool, const GO_ON: bool>(
    group: &Group,
    sequence: u64,
    mine: OwnerWord,
) -> bool {
    let done = OwnerWord { state: state::DONE, ..mine };
    let word = &group.words[sequence as usize % 2];
    if word.compare_exchange(mine.pack(), done.pack(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return false;
    }
    if FENCE {
        fence(Ordering::SeqCst);
    }
    let mut l = group.low_water.load(Ordering::Acquire);
    while l < 2 {
        if group.owners().look(l).state == state::DONE {
            l += 1;
        } else if GO_ON && group.low_water.load(Ordering::Acquire) > l {
            l = group.low_water.load(Ordering::Acquire);
        } else {
            break;
        }
    }
    group.low_water.fetch_max(l, Ordering::AcqRel);
    true
}

#[test]
fn acknowledge_and_walk_in_small_holds() {
    explore(|| finish_at_once(finish_in_small::<true, true>));
}

#[test]
#[should_panic(expected = "left behind")]
fn acknowledge_and_walk_breaks_with_acqrel_alone() {
    explore(|| finish_at_once(finish_in_small::<false, true>));
}

/// One member finishes message 1; the other finishes message 0 and, when its slot has been published anew, takes the
/// message of the next lap. The walk of the first finds a word of the next lap where it wants to begin.
fn finish_while_a_lap_begins(finish: Finish) {
    let group = Group::new();
    let hands = [0, 1].map(|sequence| group.claim(sequence, sequence as u16).unwrap());
    let other = {
        let group = group.clone();
        thread::spawn(move || {
            assert!(group.acknowledge(0, hands[0], 2));
            if group.low_water.load(Ordering::Acquire) >= 1 {
                assert!(group.claim(2, 0).is_some());
            }
        })
    };
    assert!(finish(&group, 1, hands[1]));
    other.join().unwrap();
    assert_eq!(group.low_water(), 2, "left behind");
}

#[test]
fn walk_overtaken_by_a_lap() {
    explore(|| finish_while_a_lap_begins(|group, sequence, mine| group.acknowledge(sequence, mine, 2)));
}

#[test]
#[should_panic(expected = "left behind")]
fn walk_overtaken_by_a_lap_breaks_when_it_stops_there() {
    explore(|| finish_while_a_lap_begins(finish_in_small::<true, false>));
}

/// A member is about to claim message 0, while another does so, finishes it and takes the message of the next lap.
fn claim_too_late(claim: fn(&Group) -> Option<OwnerWord>) {
    let group = Group::new();
    let late = {
        let group = group.clone();
        thread::spawn(move || claim(&group))
    };
    if let Some(mine) = group.claim(0, 0) {
        assert!(group.acknowledge(0, mine, 1));
        let of_next_lap = group.claim(2, 0).unwrap();
        assert!(group.acknowledge(2, of_next_lap, 3), "claim lost to one of an older lap");
        assert!(late.join().unwrap().is_none(), "claim lost to one of an older lap");
    } else {
        assert!(late.join().unwrap().is_some());
    }
}

#[test]
fn late_claim() {
    explore(|| claim_too_late(|group| group.claim(0, 1)));
}

#[test]
fn late_claim_of_what_nobody_had() {
    explore(|| {
        claim_too_late(|group| match group.owners().quick_look(0) {
            QuickLook::Untouched(word) => group.owners().claim_untouched(0, 1, word),
            _ => None,
        })
    });
}

/// [`Owners::claim`] of message 0 in small, with switches.
fn claim_in_small(group: &Group, load: Ordering, look_at_low_water: bool) -> Option<OwnerWord> {
    let word = &group.words[0];
    let seen = OwnerWord::unpack(word.load(load));
    let finished = look_at_low_water && group.low_water.load(Ordering::Relaxed) > 0;
    if seen.lap == 1 || seen.lap > 1 && finished {
        return None;
    }
    let mine = OwnerWord {
        state: state::CLAIMED,
        member: 1,
        nonce: seen.nonce.wrapping_add(1),
        attempts: 1,
        lap: 1,
    };
    let swapped = word.compare_exchange(seen.pack(), mine.pack(), Ordering::AcqRel, Ordering::Relaxed);
    swapped.ok().map(|_| mine)
}

#[test]
fn late_claim_in_small_holds() {
    explore(|| claim_too_late(|group| claim_in_small(group, Ordering::Acquire, true)));
}

#[test]
#[should_panic(expected = "claim lost to one of an older lap")]
fn late_claim_breaks_when_every_other_lap_means_free() {
    explore(|| claim_too_late(|group| claim_in_small(group, Ordering::Acquire, false)));
}

#[test]
#[should_panic(expected = "claim lost to one of an older lap")]
fn late_claim_breaks_when_the_word_is_loaded_relaxed() {
    explore(|| claim_too_late(|group| claim_in_small(group, Ordering::Relaxed, true)));
}

/// A member that was taken for dead acknowledges late, while its message is released, claimed anew and finished.
#[test]
fn release_of_dead_against_a_late_acknowledgement() {
    explore(|| {
        let group = Group::new();
        let mine = group.claim(0, 0).unwrap();
        let late = {
            let group = group.clone();
            thread::spawn(move || group.acknowledge(0, mine, 1))
        };
        let released = group.owners().release_of_dead(0, 0);
        let again = group.claim(0, 1);
        assert_eq!(released, again.is_some());
        if let Some(again) = again {
            assert_eq!(again.attempts, 2);
            assert!(group.acknowledge(0, again, 1), "the late one must not touch another's claim");
        }
        assert_eq!(late.join().unwrap(), !released);
        assert_eq!(group.low_water(), 1);
    });
}

/// Two repairers and a member that claims in between: one release, one claim.
#[test]
fn two_release_the_same_dead_member() {
    explore(|| {
        let group = Group::new();
        group.claim(0, 0).unwrap();
        let other = {
            let group = group.clone();
            thread::spawn(move || {
                let released = group.owners().release_of_dead(0, 0);
                (released, group.claim(0, 1))
            })
        };
        let released = group.owners().release_of_dead(0, 0);
        let mine = group.claim(0, 2);
        let (other_released, others) = other.join().unwrap();
        assert!(released != other_released);
        assert!(mine.is_some() != others.is_some());
    });
}

/// One member reads message 1 and finishes it, another finishes message 0 and walks over both, and a producer that sees
/// `low_water` beyond message 1 overwrites it.
fn released_by_anothers_walk(finish: Finish) {
    let group = Group::new();
    let hands = [0, 1].map(|sequence| group.claim(sequence, sequence as u16).unwrap());
    let reader = {
        let group = group.clone();
        thread::spawn(move || {
            assert_eq!(group.payload.read(), 0);
            group.acknowledge(1, hands[1], 2);
        })
    };
    let walker = {
        let group = group.clone();
        thread::spawn(move || finish(&group, 0, hands[0]))
    };
    if group.low_water.load(Ordering::Acquire) == 2 {
        group.payload.write(1);
    }
    reader.join().unwrap();
    walker.join().unwrap();
}

#[test]
fn memory_is_released_by_anothers_walk() {
    explore_within(3, || {
        released_by_anothers_walk(|group, sequence, mine| group.acknowledge(sequence, mine, 2))
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn memory_is_released_too_early_when_the_walk_looks_relaxed() {
    explore_within(3, || {
        released_by_anothers_walk(|group, _, mine| {
            let done = OwnerWord { state: state::DONE, ..mine };
            group.words[0].store(done.pack(), Ordering::Release);
            let next = OwnerWord::unpack(group.words[1].load(Ordering::Relaxed));
            let to = if next.state == state::DONE { 2 } else { 1 };
            group.low_water.fetch_max(to, Ordering::AcqRel);
            true
        });
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn memory_is_released_too_early_when_low_water_is_raised_relaxed() {
    explore_within(3, || {
        released_by_anothers_walk(|group, _, mine| {
            let done = OwnerWord { state: state::DONE, ..mine };
            group.words[0].store(done.pack(), Ordering::Release);
            let to = if group.owners().look(1).state == state::DONE { 2 } else { 1 };
            group.low_water.fetch_max(to, Ordering::Relaxed);
            true
        });
    });
}
