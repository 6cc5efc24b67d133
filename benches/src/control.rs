//! The memory that all processes of a run share: words for starting together and for telling each other how far they
//! are, and the slots of the floor's ring. An unnamed file in memory, so that nothing of it can stay behind.
//!
//! Who writes: the parent before a step (it clears the words), the participants of the step while it runs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::error::{BenchError, Result};

/// Bytes before the first ring.
const HEADER_BYTES: usize = 64 * 1024;

/// Fewest slots of a floor's ring, and most.
const RING_SLOTS: (usize, usize) = (8, 4_096);

/// Bytes of payload that a ring holds in more than the fewest slots. A larger one has left the caches when its turn comes again,
/// and copies more slowly than a bus that needs less.
const RING_BYTES: usize = 4 << 20;

/// Slots of the floor's ring for payloads of this size.
pub(crate) const fn ring_slots(payload_bytes: usize) -> usize {
    let (fewest, most) = RING_SLOTS;
    match RING_BYTES / payload_bytes {
        slots if slots < fewest => fewest,
        slots if slots > most => most,
        slots => slots,
    }
}

/// Bytes of the floor's ring for payloads of this size.
pub(crate) fn ring_bytes(payload_bytes: usize) -> usize {
    ring_slots(payload_bytes) * slot_bytes(payload_bytes)
}

/// Words that a scenario may use as it likes; the parent sets them to 0 before each step.
pub(crate) const WORDS: usize = 64;

/// Spins of a meeting before a participant that has to share its core gives way.
const MEETING_SPINS: u32 = 20_000;

/// The shared words. Every one has a cache line (and its prefetched neighbour) to itself.
#[repr(C)]
pub(crate) struct Page {
    /// Counts up to the number that the parent names, then everybody starts.
    arrivals: CachePadded<AtomicU64>,
    /// `line`: written by part 0.
    pub(crate) forward: CachePadded<AtomicU64>,
    /// `line`: written by part 1.
    pub(crate) backward: CachePadded<AtomicU64>,
    /// `ring`: messages that the reader has done with; it lags by up to 63.
    pub(crate) cursor: CachePadded<AtomicU64>,
    /// `ring`: where the stream ends, 0 while that is open.
    pub(crate) end: CachePadded<AtomicU64>,
    /// `wake`: the futex word.
    pub(crate) bell: CachePadded<AtomicU32>,
    /// Used by scenarios.
    pub(crate) words: [CachePadded<AtomicU64>; WORDS],
}

const _: () = assert!(size_of::<Page>() <= HEADER_BYTES);

/// The shared memory as one process sees it.
#[derive(Debug)]
pub(crate) struct Control {
    map: MmapRaw,
    /// Payload size and offset of each ring.
    rings: Vec<(usize, usize)>,
}

impl Control {
    /// Creates the memory with one floor ring for each payload size; all pages are reserved here.
    pub(crate) fn create(ring_payloads: &[usize]) -> Result<(Self, OwnedFd)> {
        let fd = memfd_create("shmbus-bench", MemfdFlags::CLOEXEC)
            .map_err(|error| BenchError::os("memfd_create for the control page", error))?;
        let bytes = layout(ring_payloads).1;
        fallocate(&fd, FallocateFlags::empty(), 0, bytes as u64).map_err(|error| {
            BenchError::os(format!("reserving {bytes} bytes of memory for the floor"), error)
        })?;
        let control = Self::attach(fd.as_fd(), ring_payloads)?;
        Ok((control, fd))
    }

    /// Maps the memory that another process created with the same payload sizes.
    pub(crate) fn attach(fd: impl AsFd, ring_payloads: &[usize]) -> Result<Self> {
        let (rings, bytes) = layout(ring_payloads);
        let file = fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| BenchError::os("duplicating a descriptor", error))?;
        let file = File::from(file);
        let length =
            file.metadata().map_err(|error| BenchError::os("fstat of the control page", error))?.len();
        if length < bytes as u64 {
            let text = format!("the control page has {length} bytes, not {bytes}");
            return Err(BenchError::WorkerArguments(text));
        }
        let map =
            MmapOptions::new().len(bytes).populate().map_raw(&file).map_err(|error| {
                BenchError::os(format!("mapping {bytes} bytes of the control page"), error)
            })?;
        Ok(Self { map, rings })
    }

    /// The shared words.
    #[inline(always)]
    pub(crate) fn page(&self) -> &Page {
        // SAFETY: the mapping is at least HEADER_BYTES long, page-aligned and lives as long as `self`; `Page` consists
        // of atomics only, for which every bit pattern is valid and which other processes may change at any time.
        unsafe { &*self.map.as_mut_ptr().cast::<Page>() }
    }

    /// A word of the scenario.
    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        &self.page().words[index]
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> usize {
        self.map.len()
    }

    /// First byte of the ring for a payload size.
    pub(crate) fn ring(&self, payload_bytes: usize) -> Option<*mut u8> {
        let &(_, offset) = self.rings.iter().find(|(payload, _)| *payload == payload_bytes)?;
        // SAFETY: `layout` placed the ring inside the mapping, whose length `attach` checked.
        Some(unsafe { self.map.as_mut_ptr().add(offset) })
    }

    /// Parent only, while no step runs: everything but the arrivals to 0.
    pub(crate) fn clear(&self) {
        // Relaxed: the command that follows goes through a socket, which orders it before the workers' reads.
        let page = self.page();
        for word in [&page.forward, &page.backward, &page.cursor, &page.end].into_iter().chain(&page.words) {
            word.store(0, Ordering::Relaxed);
        }
        page.bell.store(0, Ordering::Relaxed);
    }

    /// How many participants all steps have counted.
    pub(crate) fn arrivals(&self) -> u64 {
        self.page().arrivals.load(Ordering::Acquire)
    }

    /// Waits until `expected` arrivals were counted, this one included. Participants that have a core each only spin.
    pub(crate) fn meet(&self, expected: u64, share_core: bool) {
        let arrivals = &self.page().arrivals;
        // AcqRel and Acquire: what one participant did before the meeting is visible to the others after it.
        arrivals.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while arrivals.load(Ordering::Acquire) < expected {
            std::hint::spin_loop();
            spins += 1;
            if share_core || spins > MEETING_SPINS {
                std::thread::yield_now();
            }
        }
    }
}

/// Bytes of a slot of the floor's ring: payload and publication word, rounded up to cache lines.
pub(crate) fn slot_bytes(payload_bytes: usize) -> usize {
    (payload_bytes + 8).next_multiple_of(64)
}

/// Offset of each ring, and the length of everything.
fn layout(ring_payloads: &[usize]) -> (Vec<(usize, usize)>, usize) {
    let mut offset = HEADER_BYTES;
    let mut rings = Vec::new();
    for &payload in ring_payloads {
        rings.push((payload, offset));
        offset = (offset + ring_bytes(payload)).next_multiple_of(HEADER_BYTES);
    }
    (rings, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_payload_and_word_in_whole_lines() {
        assert_eq!((slot_bytes(64), slot_bytes(1_024), slot_bytes(65_536)), (128, 1_088, 65_600));
    }

    #[test]
    fn rings_of_large_payloads_have_fewer_slots() {
        assert_eq!([64, 1_024, 65_536, 1 << 20].map(ring_slots), [4_096, 4_096, 64, 8]);
        assert!(crate::spec::PAYLOAD_BYTES.iter().all(|&payload| ring_bytes(payload) < 9 << 20));
    }

    #[test]
    fn rings_do_not_overlap() {
        let (rings, bytes) = layout(&[64, 1_024]);
        assert_eq!(rings[0], (64, HEADER_BYTES));
        assert!(rings[1].1 >= HEADER_BYTES + 4_096 * 128);
        assert!(bytes >= rings[1].1 + 4_096 * 1_088);
    }

    #[test]
    fn two_mappings_show_the_same_words() {
        let (first, fd) = Control::create(&[64]).unwrap();
        let second = Control::attach(&fd, &[64]).unwrap();
        first.word(7).store(42, Ordering::Release);
        assert_eq!(second.word(7).load(Ordering::Acquire), 42);
        first.clear();
        assert_eq!(second.word(7).load(Ordering::Acquire), 0);
        assert!(second.ring(64).is_some());
        assert!(second.ring(100).is_none());
        assert!(Control::attach(&fd, &[65_536]).is_err());
    }

    #[test]
    fn nobody_leaves_a_meeting_early() {
        let (control, _fd) = Control::create(&[]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    control.word(0).fetch_add(1, Ordering::AcqRel);
                    control.meet(3, true);
                    assert_eq!(control.word(0).load(Ordering::Acquire), 3);
                });
            }
        });
    }
}
