//! Messages that cause each other in a circle: refused beyond a number of hops, kept as dead letters, and the pair of topics cut.
//!
//! **Where the letter goes.** What would be lost is the publication that is refused, and no group has it. So it is kept in the topic
//! that it was meant for, in the store of a group of the bus's own, [`REFUSED`], which nobody reads and which never holds a
//! message: `dlq ls` shows it with its chain, it is announced like any other, keeps its payload, and `dlq replay` publishes it. The
//! message in hand, the cause, is left alone: its handler has the error, and acknowledges, tries again or rejects as it sees fit.
//!
//! The pair's breaker lives in the memory of the process that publishes: each cuts its own side, which cuts the loop.
#![allow(unsafe_code)]

use super::RawPublisher;
use crate::arena::Source;
use crate::aside::{AsideFile, Note};
use crate::bus::BusInner;
use crate::dead_letters::{self, Announcer, LetterId};
use crate::error::{Looped, PairCut, PublishError};
use crate::group;
use crate::metadata::Meta;
use crate::supervisor::protocol::Request;
use crate::sys::clock::{monotonic_ns, realtime_ns};
use crate::topic::TopicCore;
use crate::trace;
use bus_core::aside::Contents;
use bus_core::extension::{Extension, MessageId};
use bus_core::header::flags;
use bus_core::limits::{ASIDE_ENTRIES_DEFAULT, HOPS_MAX_DEFAULT, LOOP_PAIRS_MAX};
use bus_core::loops::PairBreaker;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The group whose store keeps what was refused.
pub(crate) const REFUSED: &str = "_loops";
/// Topics of a chain that are told.
const CHAIN_MAX: usize = 8;
/// Bytes of an error text that a letter keeps.
const TEXT_BYTES_MAX: usize = 96;

/// The pairs of topics that this process has met too many hops between. Shared by its publishers.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// How many are remembered. While there are none nobody asks further.
    count: AtomicU32,
    /// By the epochs of the cause's topic and of the publication's.
    breakers: Mutex<HashMap<(u64, u64), PairBreaker>>,
}

impl Pairs {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), PairBreaker>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, pair: (u64, u64)) -> Result<(), u64> {
        // Relaxed: a pair that another thread is just about to cut is cut for the next publication.
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let now_ms = monotonic_ns() / 1_000_000;
        let mut breakers = self.lock();
        let asked = breakers.get_mut(&pair).map_or(Ok(()), |breaker| breaker.ask(now_ms));
        if breakers.get(&pair).is_some_and(|breaker| breaker.is_idle(now_ms)) {
            breakers.remove(&pair);
            self.count.store(breakers.len() as u32, Ordering::Relaxed);
        }
        asked
    }

    /// For how long the pair is cut, if it is by this hit.
    fn hit(&self, pair: (u64, u64)) -> Option<u64> {
        let now_ms = monotonic_ns() / 1_000_000;
        let mut breakers = self.lock();
        if breakers.len() >= LOOP_PAIRS_MAX && !breakers.contains_key(&pair) {
            breakers.retain(|_, breaker| !breaker.is_idle(now_ms));
            if breakers.len() >= LOOP_PAIRS_MAX {
                return None;
            }
        }
        let opened = breakers.entry(pair).or_default().hit(now_ms);
        self.count.store(breakers.len() as u32, Ordering::Relaxed);
        opened
    }
}

/// What a publisher has for it, in the box of what the hot path has no use for.
pub(super) struct Loops {
    /// How many causes may lie behind a publication.
    pub(super) hops_max: u16,
    /// Of its topic's letters, once there has been one.
    announcer: Option<Announcer>,
}

impl Default for Loops {
    fn default() -> Self {
        Self { hops_max: HOPS_MAX_DEFAULT, announcer: None }
    }
}

impl RawPublisher {
    /// A publication with a cause: is it one too many of a circle, or across a pair that has been cut?
    #[cold]
    #[inline(never)]
    pub(super) fn check_hops<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        meta: &Meta,
        cause: MessageId,
    ) -> Result<(), PublishError> {
        let limit = self.guard.loops.hops_max;
        let hops = meta.extension.hops;
        if self.bus.is_forked() || lane >= self.lanes.len() {
            // Told of as for any other publication.
            return Ok(());
        }
        let pair = (cause.topic_epoch, self.core.epoch());
        if let Err(left_ms) = self.bus.loops().ask(pair) {
            self.guard.count_refused();
            return Err(PublishError::PairCut(Box::new(PairCut {
                topic: self.core.name().to_owned(),
                cause: trace::topic_of(self.bus.dir(), cause.topic_epoch)
                    .unwrap_or_else(|| format!("{:016x}", cause.topic_epoch)),
                retry_after: Duration::from_millis(left_ms),
            })));
        }
        if hops <= limit {
            return Ok(());
        }
        self.guard.count_refused();
        let mut chain = trace::chain(self.bus.dir(), cause, CHAIN_MAX - 1);
        chain.reverse();
        chain.push(self.core.name().to_owned());
        let cut = self.bus.loops().hit(pair).map(Duration::from_millis);
        let text = chain_text(&chain, hops, limit, TEXT_BYTES_MAX);
        let letter = self.bury(lane, source, (meta.extension, meta.key), &text);
        if let Some(cut) = cut {
            self.bus.notify(&Request::LoopCut {
                topic: self.core.name().to_owned(),
                cause: chain.iter().rev().nth(1).cloned().unwrap_or_default(),
                service: self.bus.service().to_owned(),
                hops,
                open_ms: cut.as_millis() as u64,
            });
        }
        let topic = self.core.name().to_owned();
        Err(PublishError::Loop(Box::new(Looped { topic, hops, limit, chain, letter, cut })))
    }

    /// Keeps a publication that is refused as a dead letter of its topic. `None`: there was no room, or it cannot be archived.
    fn bury<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        (extension, key): (Extension, u64),
        error: &str,
    ) -> Option<LetterId> {
        let (core, bus) = (&self.core, &self.bus);
        let body = body(source, extension, self.max_bytes)?;
        let me = bus.me();
        let entry = group::find_named(core, REFUSED).ok()?;
        let file = AsideFile::make(core, (entry, me), ASIDE_ENTRIES_DEFAULT as usize).ok()?;
        let store = file.store(core, entry)?;
        let now_ns = realtime_ns();
        let contents = Contents {
            // It has none. So many had been published when it was refused.
            sequence: core.end(lane),
            lane: lane as u8,
            header_flags: flags::EXTENSION,
            kind: self.header.kind,
            dead: true,
            len_bytes: (body.len() - size_of::<Extension>()) as u32,
            not_before_ns: 0,
            first_ns: now_ns,
            last_ns: now_ns,
            stamp_ns: if self.clock.is_some() { monotonic_ns() } else { 0 },
            key,
        };
        let note =
            Note { service: bus.service().to_owned(), handler: "publisher".into(), error: error.to_owned() };
        let staged = file.put(store, (me, 0), (&contents, &note), &body, &mut 0)?;
        if !store.finish(staged) {
            return None;
        }
        let announcer = || Announcer::new(bus.clone(), core.clone(), entry);
        self.guard.loops.announcer.get_or_insert_with(announcer).announce();
        Some(dead_letters::id(core, entry, staged.index, staged.word))
    }
}

/// Extension and payload of a publication, in memory of its own.
fn body<S: Source>(source: &S, extension: Extension, max_bytes: usize) -> Option<Vec<u8>> {
    let len = source.measure(max_bytes).filter(|&len| len <= max_bytes)?;
    // Aligned like a cell, for archives that want it, and zeroed.
    let mut memory = vec![0_u128; len.div_ceil(16)];
    let bytes = &mut bytemuck::cast_slice_mut::<u128, u8>(&mut memory)[..len];
    // SAFETY: the same bytes under another type. What is written there is a message, initialised like any that is published.
    let slots = unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<MaybeUninit<u8>>(), len) };
    let written = source.fill(slots)?;
    let mut body = bytemuck::bytes_of(&extension).to_vec();
    body.extend_from_slice(bytes.get(..written)?);
    Some(body)
}

/// The last topics of a chain, as many as fit: `a -> b -> a (65 hops, 64 allowed)`.
pub(crate) fn chain_text(chain: &[String], hops: u16, limit: u16, most_bytes: usize) -> String {
    let end = format!(" ({hops} hops, {limit} allowed)");
    for skip in 0..chain.len() {
        let is_all = skip == 0 && usize::from(hops) < chain.len();
        let text = format!("{}{}{end}", if is_all { "" } else { ".. -> " }, chain[skip..].join(" -> "));
        if text.len() <= most_bytes || skip + 1 == chain.len() {
            return text;
        }
    }
    end
}

/// Is this topic's entry the one that keeps refused publications?
pub(crate) fn is_refused(core: &TopicCore, entry: usize) -> bool {
    core.group_number(entry, bus_core::layout::groups::in_entry::KEY) == bus_core::name::key(REFUSED)
}

impl BusInner {
    /// The pairs of topics that this process has cut, or is about to.
    pub(crate) fn loops(&self) -> &Pairs {
        &self.pairs
    }
}
