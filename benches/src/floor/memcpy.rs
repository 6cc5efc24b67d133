//! `memcpy`: copies of blocks from a source larger than the caches into one block that stays in them, as a message
//! is built from data that was not just touched. A payload that its producer has only just written is still in the
//! cache and can move faster than this.

use std::hint::black_box;

use super::Turn;
use crate::blocks::Blocks;
use crate::protocol::Outcome;

/// Bytes of the source: larger than the last cache of most processors.
const SOURCE_BYTES: usize = 96 << 20;

/// Bytes that are copied between two readings of the clock.
const BLOCK_BYTES: usize = 4 << 20;

/// Source and destination, kept between slices.
#[derive(Debug)]
pub(crate) struct Buffers {
    source: Vec<u8>,
    destination: Vec<u8>,
    position: usize,
}

impl Buffers {
    /// Allocates and touches all pages.
    pub(crate) fn new() -> Self {
        let source = (0..SOURCE_BYTES).map(|index| (index >> 6) as u8).collect();
        Self { source, destination: vec![1; BLOCK_BYTES], position: 0 }
    }
}

/// One process copies; the value is nanoseconds a block.
pub(crate) fn run(turn: &Turn<'_>, buffers: &mut Buffers, block_bytes: usize) -> Outcome {
    let block_bytes = block_bytes.clamp(1, BLOCK_BYTES);
    let copies = (BLOCK_BYTES / block_bytes) as u64;
    let (clock, until) = (turn.clock, turn.deadline());
    let mut blocks = Blocks::new();
    let mut now = clock.now();
    let mut ops = 0;
    while now < until {
        for _ in 0..copies {
            if buffers.position + block_bytes > SOURCE_BYTES {
                buffers.position = 0;
            }
            let from = &buffers.source[buffers.position..buffers.position + block_bytes];
            black_box(&mut buffers.destination[..block_bytes]).copy_from_slice(black_box(from));
            buffers.position += block_bytes;
        }
        let end = clock.now();
        blocks.push(clock.ns_f64(end - now), copies);
        ops += copies;
        now = end;
    }
    black_box(&buffers.destination);
    let mut outcome = Outcome::of("copier");
    outcome.ops = ops;
    outcome.block_ns = blocks.median_ns();
    outcome
}
