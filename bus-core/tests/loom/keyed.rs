//! Keyed groups: a partition is taken from a member that has just claimed one of its messages.
//!
//! A whole group has thousands of words; its steps are those of one, [`Partition`]. Without their fences they are written out here.

use crate::{explore, words};
use bus_core::keyed::{Partition, PartitionWord, Seat};
use bus_core::owner::{Claim, Owners, state};
use bus_core::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

const OLD: Seat = Seat { index: 0, tag: 1 };
const NEW: Seat = Seat { index: 1, tag: 1 };

struct Group {
    words: [AtomicU64; 2],
    low_water: AtomicU64,
    partition: AtomicU64,
}

const fn owned(seat: Seat, generation: u32) -> PartitionWord {
    PartitionWord { owner: Some(seat), generation }
}

/// One member claims a message of its partition and looks whether that is still its own; another takes the partition and looks at the claim. True
/// if the first hands the message out and the second does not know.
fn both_miss<const FENCE: bool>() {
    let group = Arc::new(Group {
        words: words(),
        low_water: AtomicU64::new(0),
        partition: AtomicU64::new(owned(OLD, 1).pack()),
    });
    let old = {
        let group = group.clone();
        thread::spawn(move || {
            let owners = Owners::attach(&group.words).unwrap();
            let claim = owners.claim(0, 0, 3, &group.low_water);
            assert!(matches!(claim, Claim::Mine(_)));
            let partition = Partition(&group.partition);
            if FENCE { partition.confirm(owned(OLD, 1)) } else { partition.is_mine(owned(OLD, 1)) }
        })
    };
    if FENCE {
        Partition(&group.partition).take(owned(OLD, 1), NEW).unwrap();
    } else {
        let (from, to) = (owned(OLD, 1).pack(), owned(NEW, 2).pack());
        group.partition.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).unwrap();
    }
    let is_found = Owners::attach(&group.words).unwrap().look(0).state == state::CLAIMED;
    let is_handed_out = old.join().unwrap();
    assert!(is_found || !is_handed_out, "handed out, and not known of");
}

#[test]
fn a_claim_and_a_partition_that_is_taken() {
    explore(both_miss::<true>);
}

#[test]
#[should_panic(expected = "not known of")]
fn a_claim_and_a_partition_that_is_taken_breaks_without_a_fence() {
    explore(both_miss::<false>);
}
