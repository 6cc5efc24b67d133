//! The races of the bus, each explored by loom over every interleaving within the bound of preemptions and over every
//! value that the memory model lets a load return. `ci/loom` runs them; without `--cfg loom` this file is empty.
//!
//! Each module has two kinds of tests. The first kind runs the functions of `bus_core` and must hold. The second runs a
//! copy of the step in question that lacks one ordering, one fence or one check, and must fail: it shows that the first
//! kind would notice. Where a copy has several such switches, one test runs it with all of them on, so that
//! a failure is owed to the switch and not to the copy.
//!
//! What loom does not show: a load that returns a value stored later in the same interleaving (the reason for
//! some Releases that only order loads before a store), mixed plain and atomic access, and anything about several
//! processes. docs/memory-model.md says what covers those.
#![cfg(loom)]

mod arena;
mod aside;
mod doorbell;
mod flow;
mod gate;
mod keyed;
mod listener;
mod owner;
mod ring_mpmc;
mod ring_spsc;

use bus_core::sync::{AtomicU64, Ordering, switch_point};
use loom::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Explores `model`, whose threads are switched at most `LOOM_MAX_PREEMPTIONS` times where they need not be.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    explore_within(usize::MAX, model);
}

/// The same with at most `preemptions`, for models that are too large otherwise.
fn explore_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(4)).map(|bound| bound.min(preemptions));
    builder.max_branches = 10_000;
    let started = std::time::Instant::now();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        switch_point();
        model();
    });
    println!(
        "{}: {} interleavings, at most {} preemptions, {:.1?}",
        std::thread::current().name().unwrap_or("?"),
        runs.load(std::sync::atomic::Ordering::Relaxed),
        builder.preemption_bound.unwrap_or(0),
        started.elapsed(),
    );
}

/// Memory of a message, read in place by readers that hold a gate. loom reports a write that is not ordered
/// against every read, and a read that does not see the last write.
struct Payload {
    access: UnsafeCell<()>,
    word: AtomicU64,
}

// SAFETY: `access` is never dereferenced; it only tells loom who reads and who writes, and loom checks just that.
unsafe impl Sync for Payload {}

impl Payload {
    fn new(value: u64) -> Self {
        Self { access: UnsafeCell::new(()), word: AtomicU64::new(value) }
    }

    fn write(&self, value: u64) {
        self.access.with_mut(|_| self.word.store(value, Ordering::Relaxed));
    }

    fn read(&self) -> u64 {
        self.access.with(|_| self.word.load(Ordering::Relaxed))
    }
}

/// `N` words that are 0.
fn words<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}
