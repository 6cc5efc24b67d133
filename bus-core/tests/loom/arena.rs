//! Reading from an arena without a gate: the writer raises the limit and overwrites, the reader copies and looks at it.

use crate::{explore, words};
use bus_core::arena::{Allocator, Geometry, Horizon, intact_position, is_intact, raise_limit};
use bus_core::header::{cell_tag, tag_names};
use bus_core::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

const GEOMETRY: Geometry = Geometry { first_bytes: 1024, bound_bytes: 1024, granule_shift: 6 };

/// The block at offset 0 (tag and two words of payload), the segment's limit, and the slot that names the block's message.
struct Arena {
    block: [AtomicU64; 3],
    limit: AtomicU64,
    slot: AtomicU64,
}

impl Arena {
    fn fill(&self, sequence: u64, position_bytes: u64) {
        self.block[0]
            .store(cell_tag(sequence, (position_bytes >> GEOMETRY.granule_shift) as u32), Ordering::Relaxed);
        self.block[1].store(sequence, Ordering::Relaxed);
        self.block[2].store(sequence, Ordering::Relaxed);
    }

    /// Copies message 0, and demands that a copy that passed the check is whole.
    fn read(&self, is_intact: impl Fn(u64) -> bool) {
        if self.slot.load(Ordering::Acquire) == 0 {
            return;
        }
        let tag = self.block[0].load(Ordering::Relaxed);
        let copied = [1, 2].map(|word: usize| self.block[word].load(Ordering::Relaxed));
        let intact = is_intact(tag);
        if tag_names(tag, 0) && intact {
            assert_eq!(copied, [0, 0], "torn copy");
        }
    }
}

/// A writer fills the segment with 16 messages and then overwrites the first.
fn overwriting(
    raise: impl Fn(&AtomicU64, u64) + Send + Sync + Copy + 'static,
    is_intact: impl Fn(&AtomicU64, u64) -> bool + Send + Sync + Copy + 'static,
) {
    explore(move || {
        let arena = Arc::new(Arena { block: words(), limit: AtomicU64::new(0), slot: AtomicU64::new(0) });
        // Something that is neither message, so that a copy made too early does not look right by accident.
        arena.block[1].store(99, Ordering::Relaxed);
        arena.block[2].store(99, Ordering::Relaxed);
        let writer = {
            let arena = arena.clone();
            thread::spawn(move || {
                let mut allocator = Allocator::new(GEOMETRY);
                for sequence in 0..17 {
                    let horizon = Horizon { gate: sequence, keep_from: sequence, history_bytes: 0 };
                    let span = allocator.span(64, horizon).unwrap();
                    if let Some(limit) = span.new_limit {
                        raise(&arena.limit, limit);
                    }
                    if span.offset_bytes == 0 {
                        arena.fill(sequence, span.position_bytes);
                        arena.slot.store(1, Ordering::Release);
                    }
                    let block = allocator.commit(64);
                    allocator.published(block, sequence);
                }
            })
        };
        arena.read(|tag| is_intact(&arena.limit, tag));
        writer.join().unwrap();
    });
}

/// The reader's check without its fence.
fn looks_intact(limit: &AtomicU64, tag: u64) -> bool {
    let position = intact_position(limit.load(Ordering::Relaxed), 1024, 0);
    tag >> 32 == position >> GEOMETRY.granule_shift
}

#[test]
fn lossy_read() {
    overwriting(raise_limit, |limit, tag| is_intact(limit, 1024, 0, tag, GEOMETRY.granule_shift));
}

#[test]
fn lossy_read_in_small_holds() {
    overwriting(
        |word, limit| {
            word.store(limit, Ordering::Relaxed);
            fence(Ordering::Release);
        },
        |limit, tag| {
            fence(Ordering::Acquire);
            looks_intact(limit, tag)
        },
    );
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_read_breaks_when_the_limit_is_not_raised() {
    overwriting(|_, _| {}, |limit, tag| is_intact(limit, 1024, 0, tag, GEOMETRY.granule_shift));
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_read_breaks_without_the_writers_fence() {
    overwriting(
        |word, limit| word.store(limit, Ordering::Relaxed),
        |limit, tag| is_intact(limit, 1024, 0, tag, GEOMETRY.granule_shift),
    );
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_read_breaks_without_the_readers_fence() {
    overwriting(raise_limit, looks_intact);
}

#[test]
#[should_panic(expected = "torn copy")]
fn lossy_read_breaks_when_only_the_tag_is_looked_at() {
    overwriting(raise_limit, |_, tag| tag >> 32 == 0);
}
