//! Time of blocks of operations: what ratios are computed from.
//!
//! A single operation is shorter than the clock's step and than the reading of the clock itself, so operations are
//! timed by the thousand, and the median block stands for the slice: a block that the scheduler interrupted does not
//! count as the cost of the operation.

use crate::clock::Clock;
use crate::stats::median;

/// Operations between two readings of the clock.
pub(crate) const BLOCK_OPS: u64 = 1_000;

/// Shortest stretch that counts as one block of a stream. A ring fills and drains in waves; a block as short as a wave
/// would measure its crest.
const STREAM_BLOCK_NS: f64 = 1_000_000.0;

/// Blocks that are remembered; a slice that has more keeps the first ones.
const MOST_BLOCKS: usize = 1 << 16;

/// Nanoseconds an operation of each block of a slice.
#[derive(Debug)]
pub struct Blocks {
    per_op_ns: Vec<f64>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self::new()
    }
}

impl Blocks {
    /// No block yet.
    #[must_use]
    pub fn new() -> Self {
        Self { per_op_ns: Vec::with_capacity(MOST_BLOCKS) }
    }

    /// Adds a block that took so many nanoseconds.
    pub fn push(&mut self, ns: f64, ops: u64) {
        if self.per_op_ns.len() < MOST_BLOCKS && ops > 0 {
            self.per_op_ns.push(ns / ops as f64);
        }
    }

    /// The median block.
    #[must_use]
    pub fn median_ns(&self) -> Option<f64> {
        median(&self.per_op_ns)
    }
}

/// Readings of the clock along a stream of operations.
#[derive(Debug)]
pub struct Stream {
    marks: Vec<(u64, u64)>,
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    /// No reading yet.
    #[must_use]
    pub fn new() -> Self {
        Self { marks: Vec::with_capacity(MOST_BLOCKS) }
    }

    /// Notes that `ops` operations were done at `ticks`.
    #[inline(always)]
    pub fn mark(&mut self, ticks: u64, ops: u64) {
        if self.marks.len() < MOST_BLOCKS {
            self.marks.push((ticks, ops));
        }
    }

    /// The median block of at least a millisecond.
    #[must_use]
    pub fn median_ns(&self, clock: &Clock) -> Option<f64> {
        let mut blocks = Blocks::new();
        let mut from = *self.marks.first()?;
        for &(ticks, ops) in &self.marks {
            let ns = clock.ns_f64(ticks.saturating_sub(from.0));
            if ns >= STREAM_BLOCK_NS {
                blocks.push(ns, ops - from.1);
                from = (ticks, ops);
            }
        }
        blocks.median_ns().or_else(|| self.mean_ns(clock))
    }

    /// All operations over all the time.
    #[must_use]
    pub fn mean_ns(&self, clock: &Clock) -> Option<f64> {
        let (first, last) = (self.marks.first()?, self.marks.last()?);
        (last.1 > first.1).then(|| clock.ns_f64(last.0.saturating_sub(first.0)) / (last.1 - first.1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interrupted_block_does_not_count() {
        let mut blocks = Blocks::new();
        for ns in [50_000.0, 51_000.0, 4_000_000.0, 50_000.0, 49_000.0] {
            blocks.push(ns, BLOCK_OPS);
        }
        assert_eq!(blocks.median_ns(), Some(50.0));
        assert_eq!(Blocks::new().median_ns(), None);
    }

    #[test]
    fn a_stream_is_cut_into_blocks_of_a_millisecond() {
        let clock = Clock::from_bits(0);
        let mut stream = Stream::new();
        // Waves: a thousand operations in 10 us, then a thousand in 90 us.
        let mut now = 0;
        for wave in 0..100 {
            now += if wave % 2 == 0 { 10_000 } else { 90_000 };
            stream.mark(now, (wave + 1) * BLOCK_OPS);
        }
        let ns = stream.median_ns(&clock).unwrap();
        assert!((ns - 50.0).abs() < 3.0, "{ns}");
    }

    #[test]
    fn a_short_stream_falls_back_to_its_mean() {
        let clock = Clock::from_bits(0);
        let mut stream = Stream::new();
        assert_eq!(stream.median_ns(&clock), None);
        stream.mark(0, 0);
        stream.mark(2_000, 100);
        assert_eq!(stream.median_ns(&clock), Some(20.0));
    }
}
