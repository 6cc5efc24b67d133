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
use crate::error::{Looped, PairCut, PublishError, RegionError};
use crate::group;
use crate::supervisor::protocol::Request;
use crate::sys::clock::{monotonic_ns, realtime_ns};
use crate::topic::TopicCore;
use crate::trace::{self, Link};
use bus_core::aside::Contents;
use bus_core::extension::{Extension, MessageId};
use bus_core::header::flags;
use bus_core::layout::ring;
use bus_core::limits::{ASIDE_ENTRIES_DEFAULT, LOOPS_MAX};
use bus_core::loops::{CONVERSATION_MS, CutWord, LoopBreaker, Phase};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The group whose store keeps what was refused.
pub(crate) const REFUSED: &str = "_loops";
/// Topics of a chain that are told.
const CHAIN_MAX: usize = 8;
/// Causes that are followed back to see whether a pair of topics feeds itself.
const FOLLOWED_MAX: usize = 64;
/// Bytes of an error text that a letter keeps.
const TEXT_BYTES_MAX: usize = 96;

/// What a breaker is about: the epochs of the cause's topic and of the publication's, and, where it is about one conversation only, that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct About {
    pair: (u64, u64),
    conversation: Option<u128>,
}

#[derive(Debug)]
struct Remembered {
    breaker: LoopBreaker,
    hit_ms: u64,
    /// The cause's topic, as far as its name was known at the last hit.
    cause: Arc<str>,
}

impl Remembered {
    /// Is there nothing to remember?
    fn is_idle(&self, about: About, now_ms: u64) -> bool {
        match about.conversation {
            None => self.breaker.is_idle(now_ms),
            Some(_) => now_ms.saturating_sub(self.hit_ms) >= CONVERSATION_MS,
        }
    }
}

/// A breaker that is open.
struct Cut {
    until_ms: u64,
    whole_pair: bool,
    cause: Arc<str>,
}

/// The pairs of topics, and the conversations across them, in which this process has met too many hops. Shared by its publishers.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// How many are remembered. While there are none nobody asks further.
    count: AtomicU32,
    known: Mutex<HashMap<About, Remembered>>,
}

impl Pairs {
    fn lock(&self) -> MutexGuard<'_, HashMap<About, Remembered>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, pair: (u64, u64), conversation: u128, now_ms: u64) -> Result<(), Cut> {
        // Relaxed: a pair that another thread is just about to cut is cut for the next publication.
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let mut known = self.lock();
        for conversation in [None, Some(conversation)] {
            let about = About { pair, conversation };
            let Some(its) = known.get(&about) else { continue };
            if let Phase::Open { left_ms } = its.breaker.phase(now_ms) {
                let (whole_pair, cause) = (conversation.is_none(), its.cause.clone());
                return Err(Cut { until_ms: now_ms + left_ms, whole_pair, cause });
            }
            if its.is_idle(about, now_ms) {
                known.remove(&about);
            }
        }
        self.count.store(known.len() as u32, Ordering::Relaxed);
        Ok(())
    }

    /// A conversation had too many hops. What is cut by that, if anything is. `feeds_itself`: the pair was seen more than once among its
    /// causes.
    fn hit(
        &self,
        pair: (u64, u64),
        conversation: u128,
        (feeds_itself, cause): (bool, &str),
        now_ms: u64,
    ) -> Option<Cut> {
        let mut known = self.lock();
        let about = About { pair, conversation: Some(conversation) };
        let is_new = known.get(&about).is_none_or(|its| its.is_idle(about, now_ms));
        let mut hit = |about: About| {
            make_room(&mut known, about, now_ms);
            let its = known.entry(about).or_insert_with(|| Remembered {
                breaker: LoopBreaker::default(),
                hit_ms: now_ms,
                cause: cause.into(),
            });
            its.hit_ms = now_ms;
            if *its.cause != *cause {
                its.cause = cause.into();
            }
            let until_ms = its.breaker.hit(now_ms)?;
            Some(Cut { until_ms, whole_pair: about.conversation.is_none(), cause: its.cause.clone() })
        };
        let of_conversation = hit(about);
        let of_pair = if is_new && feeds_itself { hit(About { conversation: None, ..about }) } else { None };
        self.count.store(known.len() as u32, Ordering::Relaxed);
        of_pair.or(of_conversation)
    }
}

/// Makes room for one more: what is idle goes, and else whatever was hit longest ago.
fn make_room(known: &mut HashMap<About, Remembered>, about: About, now_ms: u64) {
    if known.len() < LOOPS_MAX || known.contains_key(&about) {
        return;
    }
    known.retain(|&about, its| !its.is_idle(about, now_ms));
    if known.len() >= LOOPS_MAX
        && let Some(oldest) = known.iter().min_by_key(|(_, its)| its.hit_ms).map(|(&about, _)| about)
    {
        known.remove(&oldest);
    }
}

/// Does what a message of `cause` causes in this topic lead to more of the same? `chain` begins with the cause.
fn feeds_itself(chain: &[Link], topic_epoch: u64) -> bool {
    let Some(cause) = chain.first() else { return false };
    chain
        .windows(2)
        .any(|link| (link[1].topic_epoch, link[0].topic_epoch) == (cause.topic_epoch, topic_epoch))
}

/// What a publisher has for it, in the box of what the hot path has no use for.
pub(super) struct Loops {
    /// How many causes may lie behind a publication.
    hops_max: u16,
    /// Where others see that it has been cut: a [`CutWord`].
    cut: &'static AtomicU64,
    /// Of its topic's letters, once there has been one.
    announcer: Option<Announcer>,
}

impl Loops {
    /// For a producer entry that has just been claimed.
    pub(super) fn attach(core: &TopicCore, entry: usize) -> Result<Self, RegionError> {
        let this = Self {
            hops_max: core.config().hops_max(),
            cut: core.held_ring_word(ring::producer_cut(entry))?,
            announcer: None,
        };
        this.clear_cut();
        Ok(this)
    }

    /// Relaxed, here and in `show`: whoever looks is told what is so now, or was a moment ago.
    pub(super) fn clear_cut(&self) {
        self.cut.store(0, Ordering::Relaxed);
    }

    /// The longest cut is what others see, and that of a pair before that of a conversation.
    fn show(&self, cut: &Cut, cause_epoch: u64, now_ms: u64) {
        let seen = CutWord::unpack(self.cut.load(Ordering::Relaxed));
        let is_open = matches!(seen.phase(now_ms), Phase::Open { .. });
        if !is_open || (seen.whole_pair, seen.until_ms) < (cut.whole_pair, cut.until_ms) {
            self.cut.store(CutWord::new(cut.until_ms, cut.whole_pair, cause_epoch).pack(), Ordering::Relaxed);
        }
    }
}

impl RawPublisher {
    /// Fewer causes than the topic allows.
    pub(super) fn limit_hops(&mut self, hops: u16) {
        self.guard.loops.hops_max = hops.min(self.core.config().hops_max());
    }

    /// A publication with a cause: is it one too many of a circle, or across a pair that has been cut?
    #[cold]
    #[inline(never)]
    pub(super) fn check_hops<S: Source>(
        &mut self,
        lane: usize,
        source: &S,
        (extension, key): (Extension, u64),
        cause: MessageId,
    ) -> Result<(), PublishError> {
        let (limit, hops) = (self.guard.loops.hops_max, extension.hops);
        if self.bus.is_forked() || lane >= self.lanes.len() {
            // Told of as for any other publication.
            return Ok(());
        }
        let now_ms = monotonic_ns() / 1_000_000;
        let pair = (cause.topic_epoch, self.core.epoch());
        let conversation = extension.correlation().unwrap_or(cause.as_correlation());
        if let Err(cut) = self.bus.loops().ask(pair, conversation, now_ms) {
            self.guard.count_refused();
            self.show_cut(&cut, cause, now_ms);
            return Err(PublishError::PairCut(Box::new(PairCut {
                topic: self.core.name().to_owned(),
                cause: cut.cause.to_string(),
                conversation: (!cut.whole_pair).then_some(conversation),
                retry_after: Duration::from_millis(cut.until_ms - now_ms),
            })));
        }
        if hops <= limit {
            return Ok(());
        }
        self.guard.count_refused();
        let links = trace::chain(self.bus.dir(), cause, FOLLOWED_MAX);
        let told = links.iter().take(CHAIN_MAX - 1).rev().map(|link| link.topic.to_string());
        let chain: Vec<String> = told.chain([self.core.name().to_owned()]).collect();
        let name = match links.first() {
            Some(link) => link.topic.clone(),
            None => format!("{:016x}", cause.topic_epoch).into(),
        };
        let of_pair = (feeds_itself(&links, pair.1), &*name);
        let cut = self.bus.loops().hit(pair, conversation, of_pair, now_ms);
        let text = chain_text(&chain, hops, limit, TEXT_BYTES_MAX);
        let letter = self.bury(lane, source, (extension, key), &text);
        let whole_pair = cut.as_ref().is_some_and(|cut| cut.whole_pair);
        if let Some(cut) = &cut {
            self.show_cut(cut, cause, now_ms);
            self.bus.notify(&Request::LoopCut {
                topic: self.core.name().to_owned(),
                cause: cut.cause.to_string(),
                conversation: if whole_pair { String::new() } else { format!("{conversation:x}") },
                service: self.bus.service().to_owned(),
                hops,
                open_ms: cut.until_ms - now_ms,
            });
        }
        let cut = cut.map(|cut| Duration::from_millis(cut.until_ms - now_ms));
        let topic = self.core.name().to_owned();
        Err(PublishError::Loop(Box::new(Looped { topic, hops, limit, chain, letter, cut, whole_pair })))
    }

    fn show_cut(&self, cut: &Cut, cause: MessageId, now_ms: u64) {
        // The word of an entry that has been given to another is that one's.
        if self.entry_word.load(Ordering::Relaxed) == self.live.pack() {
            self.guard.loops.show(cut, cause.topic_epoch, now_ms);
        }
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
    /// What this process has cut, or is about to.
    pub(crate) fn loops(&self) -> &Pairs {
        &self.pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_core::limits::LOOP_HITS_MAX;
    use bus_core::loops::{OPEN_MS, PROBATION_MS, WINDOW_MS};

    const PAIR: (u64, u64) = (1, 2);

    fn is_cut(pairs: &Pairs, conversation: u128, now_ms: u64) -> Option<bool> {
        pairs.ask(PAIR, conversation, now_ms).err().map(|cut| cut.whole_pair)
    }

    #[test]
    fn one_conversation_is_cut_alone_however_often_it_comes() {
        let pairs = Pairs::default();
        for hit in 1..=LOOP_HITS_MAX {
            let cut = pairs.hit(PAIR, 7, (true, "a"), 0);
            assert_eq!(cut.map(|cut| cut.whole_pair), (hit == LOOP_HITS_MAX).then_some(false));
        }
        assert_eq!((is_cut(&pairs, 7, 0), is_cut(&pairs, 8, 0)), (Some(false), None));
        // Tried again whenever that is over, and where its pair was cut because of others, it stays one.
        let mut now_ms = OPEN_MS;
        for _ in 0..20 {
            if let Some(cut) = pairs.hit(PAIR, 7, (true, "a"), now_ms) {
                assert!(!cut.whole_pair && cut.until_ms > now_ms);
                now_ms = cut.until_ms;
            }
            now_ms += WINDOW_MS / 2;
            assert_eq!(is_cut(&pairs, 8, now_ms), None);
        }
    }

    #[test]
    fn several_conversations_cut_the_pair_if_it_feeds_itself() {
        for feeds_itself in [false, true] {
            let pairs = Pairs::default();
            for conversation in 1..=u128::from(LOOP_HITS_MAX) {
                pairs.hit(PAIR, conversation, (feeds_itself, "a"), 0);
            }
            assert_eq!(is_cut(&pairs, 99, 0), feeds_itself.then_some(true));
            assert!(pairs.ask((2, 1), 99, 0).is_ok(), "the other way is another pair");
            // One that is known already does not prolong it for all; a new one does.
            if feeds_itself {
                assert!(pairs.hit(PAIR, 1, (true, "a"), OPEN_MS).is_none());
                assert_eq!(is_cut(&pairs, 99, OPEN_MS), None);
                let cut = pairs.hit(PAIR, 50, (true, "a"), OPEN_MS).expect("the pair again");
                assert!(cut.whole_pair && cut.until_ms == OPEN_MS + 2 * OPEN_MS);
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_goes_by_itself() {
        let pairs = Pairs::default();
        for conversation in 0..10 * LOOPS_MAX as u128 {
            pairs.hit((conversation as u64, 2), conversation + 1, (true, "a"), conversation as u64);
            assert!(pairs.lock().len() <= LOOPS_MAX);
        }
        // The latest ones are there.
        let now_ms = 10 * LOOPS_MAX as u64;
        for conversation in [4_001, 4_002, 4_003] {
            pairs.hit(PAIR, conversation, (true, "a"), now_ms);
        }
        assert_eq!(is_cut(&pairs, 9, now_ms), Some(true));
        // A pair that was open and is asked about no more makes room like any other.
        let later = now_ms + OPEN_MS + PROBATION_MS + CONVERSATION_MS;
        assert!(pairs.lock().iter().all(|(&about, its)| its.is_idle(about, later)));
        pairs.hit((77, 78), 1, (true, "a"), later);
        assert_eq!(pairs.lock().len(), 2, "that conversation and its pair");
        for (pair, conversation) in [((77, 78), 1), (PAIR, 9)] {
            assert!(pairs.ask(pair, conversation, later + CONVERSATION_MS).is_ok());
        }
        assert_eq!(pairs.count.load(Ordering::Relaxed), 0, "nobody asks further any more");
    }

    #[test]
    fn a_chain_feeds_a_pair_that_it_has_passed_before() {
        let chain = |epochs: &[u64]| -> Vec<Link> {
            epochs.iter().map(|&topic_epoch| Link { topic_epoch, topic: "t".into() }).collect()
        };
        for (epochs, topic, expected) in [
            (&[1, 2, 1, 2][..], 2, true),
            (&[5, 5], 5, true),
            (&[3, 2, 1, 3, 2], 1, true),
            (&[3, 2, 1], 4, false),
            (&[1, 2], 2, false),
            (&[1], 1, false),
            (&[], 1, false),
        ] {
            assert_eq!(feeds_itself(&chain(epochs), topic), expected, "{epochs:?}");
        }
    }
}
