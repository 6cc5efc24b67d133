//! Reading one lane: finding the message of a sequence, checking everything that it says of itself, and the group's
//! cursor in the lane.
#![allow(unsafe_code)]

use crate::arena::ArenaView;
use crate::error::{ReceiveError, RegionError};
use crate::finding::Finding;
use crate::group::{Joined, LaneStand};
use crate::repair;
use crate::subscriber::Failure;
use crate::sys::load::copy_words;
use crate::sys::prefetch::{self, LINE_WORDS, SLOTS_AHEAD};
use crate::topic::{LaneRing, TopicCore};
use bus_core::extension::Extension;
use bus_core::group::{self, Handed};
use bus_core::header::{HEADER_BYTES, HEADER_WORDS, Header, flags, producer_entry, producer_tag, tag_names};
use bus_core::holder::HolderWord;
use bus_core::layout::{groups, ring};
use bus_core::owner::{OwnerWord, Owners, state};
use bus_core::ring::{Poll, ReadAhead, Slot};
use bus_core::seq::{distance, earlier, later};
use bus_core::sync::{AtomicU64, Ordering, fence};
use std::sync::Arc;

mod direct;
mod early;

use direct::InCell;

/// What stands at the reader's position.
pub(crate) enum Found {
    /// A message; it is in the [`Finding`].
    Message,
    /// From `at` on, messages were overwritten before they were read, up to the new position. Those before `from` have been told
    /// as missed before.
    Missed { at: u64, from: u64 },
}

/// How a lane is looked at.
pub(crate) enum Look<U> {
    /// While a stream is awaited, something more urgent may end that.
    InTurn(U),
    /// It has been passed over for long: what is there is taken, and no stream awaited.
    AtOnce,
}

/// What a look at a message that nobody has claimed shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    /// It is not published yet.
    Empty,
    /// Its group has finished it.
    Gone,
    /// The system refused a mapping that it takes to see it: perhaps not the next time.
    Refused,
    /// The hash of its key; 0 for none, or where the message is damaged.
    Key(u64),
}

/// A reader's state in one lane.
pub(crate) struct LaneReader {
    lane: usize,
    ring: LaneRing<'static>,
    ahead: ReadAhead,
    /// While the lane is empty: the word that will change when it is no longer, and what it held then. Looking at lanes that
    /// carry nothing is what most looks are.
    quiet: Option<(&'static AtomicU64, u64)>,
    hint: &'static AtomicU64,
    max_bytes: u32,
    /// Views of producers' arenas, by entry, with the incarnation that they belong to.
    arenas: Vec<Option<(u32, ArenaView)>>,
    /// Nothing is kept for this reader: it copies each message, and checks afterwards that it was whole.
    copies: bool,
    /// Messages before it are not kept for this reader either; those are copied too.
    reliable_from: u64,
    /// One member: everything before it is finished, or was told to be missed and asked for. The cursor of the backlog before
    /// `reliable_from`, where the group has none.
    finished: u64,
    /// The last run that was found to be missed: it may be met again before the cursor has passed it.
    told: (u64, u64),
    /// What was handed out last.
    now: Handed,
    /// Messages before it have been handed out before.
    marked: u64,
    /// One member: where each hand-out is recorded, while what is at the position and after it is kept for it and new to the group. Whether
    /// such a message is copied, and whether it came before, need not be asked.
    direct: Option<&'static AtomicU64>,
    /// One member: the group's state word, and what it says while this member holds it.
    holds: Option<(&'static AtomicU64, u64)>,
    low_water: Option<&'static AtomicU64>,
    handed: Option<&'static AtomicU64>,
    marks: Option<&'static AtomicU64>,
    /// One member: how many messages before its reliable start are to be told of.
    backlog: Option<&'static AtomicU64>,
    released: Option<&'static AtomicU64>,
    releases_seen: u64,
    copy: Vec<u128>,
    core: Arc<TopicCore>,
}

impl LaneReader {
    pub(crate) fn attach(core: Arc<TopicCore>, lane: usize) -> Result<Self, RegionError> {
        let config = *core.config();
        let ring = core.lane_ring(lane)?;
        let line_slots = match &ring {
            LaneRing::Mpmc(_) => LINE_WORDS,
            LaneRing::Spsc(_) => 1,
        };
        Ok(Self {
            lane,
            ring,
            ahead: ReadAhead::new(0, u64::from(config.capacity), line_slots),
            quiet: None,
            hint: core.held_ring_word(ring::hint(lane))?,
            max_bytes: config.message_bytes as u32,
            arenas: (0..config.producers).map(|_| None).collect(),
            copies: false,
            reliable_from: 0,
            finished: 0,
            told: (0, 0),
            now: Handed::unpack(0),
            marked: 0,
            direct: None,
            holds: None,
            low_water: None,
            handed: None,
            marks: None,
            backlog: None,
            released: None,
            releases_seen: 0,
            copy: Vec::new(),
            core,
        })
    }

    /// Which lane it reads.
    pub(crate) fn index(&self) -> usize {
        self.lane
    }

    /// Sets where to begin, and where the reader's group stands.
    pub(crate) fn begin(&mut self, next: u64, stand: LaneStand) {
        self.seek(next);
        self.finished = next;
        self.reliable_from = stand.kept_from;
        self.now = stand.handed;
        self.marked = stand.marked;
    }

    /// The reader is a member of a group that it has joined; of a shared one, where owner words say who has what in hand.
    pub(crate) fn hold(&mut self, joined: &Joined, shared: bool) -> Result<(), RegionError> {
        let entry = joined.entry;
        let at = groups::lane(entry, self.lane);
        self.low_water = Some(self.core.held_group_word(at + groups::in_lane::LOW_WATER)?);
        if !shared {
            let state = self.core.held_group_word(groups::entry(entry) + groups::in_entry::STATE)?;
            self.holds = Some((state, joined.word.pack()));
            self.handed = Some(self.core.held_group_word(at + groups::in_lane::HANDED)?);
            self.marks = Some(self.core.held_group_word(at + groups::in_lane::MARKED)?);
            self.backlog = Some(self.core.held_group_word(at + groups::in_lane::MISSED)?);
        }
        if shared {
            self.released = Some(self.core.held_group_word(at + groups::in_lane::RELEASES)?);
        }
        Ok(())
    }

    /// Nothing is kept for this reader: it copies.
    pub(crate) fn always_copy(&mut self) {
        self.copies = true;
        self.direct = None;
    }

    /// The reader's group has been let go.
    pub(crate) fn let_go(&mut self) {
        self.direct = None;
        self.holds = None;
        self.low_water = None;
        self.handed = None;
        self.marks = None;
        self.backlog = None;
        self.released = None;
    }

    pub(crate) fn end(&self) -> u64 {
        self.ring.end(self.hint)
    }

    pub(crate) fn next(&self) -> u64 {
        self.ahead.next()
    }

    pub(crate) fn low_water(&self) -> Option<&'static AtomicU64> {
        self.low_water
    }

    pub(crate) fn reliable_from(&self) -> u64 {
        self.reliable_from
    }

    pub(crate) fn lag_count(&self) -> u64 {
        let from = self.low_water.map_or(self.ahead.next(), |low_water| low_water.load(Ordering::Relaxed));
        distance(self.end(), from).max(0) as u64
    }

    /// Moves the reader's position.
    pub(crate) fn seek(&mut self, next: u64) {
        self.ahead.seek(next);
        self.quiet = None;
        self.direct = None;
    }

    /// Were all of these empty at the last look, and has nothing changed since?
    #[inline(always)]
    pub(crate) fn are_quiet(lanes: &[LaneReader]) -> bool {
        // As many as there mostly are, without a loop.
        if let [first, second] = lanes {
            return first.is_quiet() && second.is_quiet();
        }
        lanes.iter().all(LaneReader::is_quiet)
    }

    /// Was it empty at the last look, and has nothing changed since?
    #[inline(always)]
    pub(crate) fn is_quiet(&self) -> bool {
        // Relaxed: whoever sees a change looks again, with Acquire.
        self.quiet.is_some_and(|(word, seen)| word.load(Ordering::Relaxed) == seen)
    }

    /// Are there messages that need no look?
    #[inline(always)]
    pub(crate) fn has_known(&self) -> bool {
        self.known_count() != 0
    }

    /// How many those are.
    #[inline(always)]
    pub(crate) fn known_count(&self) -> u64 {
        self.ahead.known_count()
    }

    #[inline]
    pub(crate) fn poll(&mut self, look: Look<impl Fn() -> bool>) -> Poll {
        if self.is_quiet() {
            self.ahead.note_missed();
            return Poll::Empty;
        }
        if self.ahead.known_count() != 0 {
            return Poll::Ready;
        }
        self.poll_slots(look)
    }

    /// The reader has waited for longer than a message of a stream takes.
    pub(crate) fn note_gap(&mut self) {
        self.ahead.note_gap();
    }

    fn poll_slots(&mut self, look: Look<impl Fn() -> bool>) -> Poll {
        // Before the look, so that a change after it is one.
        let next = self.ahead.next();
        let word = match &self.ring {
            LaneRing::Mpmc(ring) => ring.word(next),
            LaneRing::Spsc(ring) => &ring.slot_words(next)[0],
        };
        let seen = word.load(Ordering::Relaxed);
        let poll = match (&self.ring, look) {
            (LaneRing::Mpmc(ring), Look::InTurn(urgent)) => self.ahead.poll(|s| ring.slot(s), urgent),
            (LaneRing::Spsc(ring), Look::InTurn(urgent)) => self.ahead.poll(|s| ring.slot(s), urgent),
            (LaneRing::Mpmc(ring), Look::AtOnce) => self.ahead.poll_at_once(|s| ring.slot(s)),
            (LaneRing::Spsc(ring), Look::AtOnce) => self.ahead.poll_at_once(|s| ring.slot(s)),
        };
        self.quiet = (poll == Poll::Empty).then_some((word, seen));
        if self.ahead.known_count() > SLOTS_AHEAD
            && let LaneRing::Spsc(ring) = &self.ring
        {
            // For the first ones of a run nobody has done what `ask_ahead` does for the others.
            for index in 0..SLOTS_AHEAD {
                prefetch::for_reading(ring.slot_address(next.wrapping_add(index)));
            }
        }
        // Once true of a position it is true of all after it, until the reader goes elsewhere.
        let is_kept_and_new = !self.copies_at(next) && distance(next, self.marked) >= 0;
        self.direct = self.handed.filter(|_| is_kept_and_new);
        poll
    }

    /// How many messages are there to be taken without another look.
    pub(crate) fn ready_count(&mut self) -> u64 {
        distance(self.end(), self.ahead.next()).max(0) as u64
    }

    /// Forgets what is known about the lane, after a wait that found nothing.
    pub(crate) fn distrust(&mut self) {
        self.releases_seen = self.releases_seen.wrapping_sub(1);
    }

    #[cold]
    fn corrupt(&self, why: &'static str) -> Failure {
        Failure::from(ReceiveError::Corrupt {
            topic: self.core.name().to_owned(),
            lane: self.lane as u8,
            sequence: self.ahead.next(),
            why,
        })
    }

    /// Records, before it happens, that a message is handed out. Returns how often that has happened, as far as is known.
    #[inline]
    fn hand_out(&mut self, sequence: u64) -> u8 {
        let Some(handed) = self.handed else { return 1 };
        self.now = self.now.next(sequence);
        if !bus_core::is_broken("hand_out_late") {
            group::hand_out(handed, self.now);
        }
        self.now.times.max(1 + u8::from(distance(sequence, self.marked) < 0))
    }

    /// Is a message copied because it may be overwritten while it is read?
    #[inline]
    pub(crate) fn copies_at(&self, sequence: u64) -> bool {
        self.copies || distance(sequence, self.reliable_from) < 0
    }

    /// Takes the message at the reader's position, which `poll` has found there, and records that it is handed out.
    #[inline]
    pub(crate) fn take(&mut self, finding: &mut Finding) -> Result<Found, Failure> {
        let sequence = self.ahead.next();
        if self.copies_at(sequence) {
            return self.take_copy(sequence, finding);
        }
        if let LaneRing::Spsc(ring) = self.ring {
            self.ask_ahead(ring, sequence);
        }
        finding.sequence = sequence;
        finding.times = self.hand_out(sequence);
        if bus_core::is_broken("acknowledge_early") {
            self.acknowledge(sequence);
        }
        self.locate(sequence, finding)?;
        self.ahead.advance();
        Ok(Found::Message)
    }

    /// Where a message lies that is kept for this reader, everything that it says of itself checked.
    #[inline(always)]
    fn locate(&mut self, sequence: u64, finding: &mut Finding) -> Result<(), Failure> {
        match self.ring {
            LaneRing::Mpmc(ring) => {
                if let Slot::Filled(name) = ring.slot(sequence) {
                    return self.cell(sequence, name.producer, None, name.cell, finding);
                }
            }
            LaneRing::Spsc(ring) => {
                if let Slot::Filled(words) = ring.slot(sequence) {
                    let header = Header::load(words);
                    if header.flags & flags::ARENA != 0 {
                        let (mark, cell) = (header.producer, header.reference as u32);
                        return self.cell(sequence, producer_entry(mark), Some(mark), cell, finding);
                    }
                    let body_bytes = header.len_bytes as usize + header.extension_bytes();
                    if body_bytes > ring.inline_bytes() {
                        return Err(self.corrupt("a length that leaves its slot"));
                    }
                    finding.header = header;
                    finding.payload =
                        words[HEADER_WORDS + header.extension_bytes() / 8..].as_ptr().cast::<u8>();
                    return Ok(());
                }
            }
        }
        Err(self.corrupt("a reliable reader was overtaken"))
    }

    /// Shared: the key of a message, which others may finish meanwhile.
    pub(crate) fn peek(&mut self, sequence: u64) -> Peek {
        let is_empty = match &self.ring {
            LaneRing::Mpmc(ring) => matches!(ring.slot(sequence), Slot::Empty),
            LaneRing::Spsc(ring) => matches!(ring.slot(sequence), Slot::Empty),
        };
        if is_empty {
            return Peek::Empty;
        }
        let mut finding = Finding::NONE;
        let located = self.locate(sequence, &mut finding);
        // CLAIM-COPY: the look at the message comes before this one at the cursor. Pairs with the Release that every publisher puts
        // between seeing the gate and overwriting: who saw a byte of that sees the cursor that let the gate pass.
        fence(Ordering::Acquire);
        let low_water = self.low_water.map_or(sequence, |low_water| low_water.load(Ordering::Relaxed));
        match located {
            _ if distance(low_water, sequence) > 0 => Peek::Gone,
            Ok(()) => Peek::Key(finding.header.reference),
            Err(failure) if failure.is_refusal() => Peek::Refused,
            Err(_) => Peek::Key(0),
        }
    }

    /// Shared: has the cursor passed a message? Asked after a look at its owner word, which may be that of a later one.
    pub(crate) fn is_finished(&self, sequence: u64) -> bool {
        // Acquire: pairs with the walk, and not before the look at the word, which is an Acquire.
        self.low_water.is_some_and(|low_water| distance(low_water.load(Ordering::Acquire), sequence) > 0)
    }

    /// Shared: finds a message that was claimed, wherever the reader's position is.
    pub(crate) fn take_at(&mut self, sequence: u64, finding: &mut Finding) -> Result<(), Failure> {
        finding.sequence = sequence;
        self.locate(sequence, finding)
    }

    /// Copies a message that was found in place, and checks that it was this message all the while: for readers who do not
    /// trust that its publisher leaves it alone.
    #[inline(never)]
    pub(crate) fn copy(&mut self, finding: &mut Finding) -> Result<(), Failure> {
        let found = *finding;
        self.copy_claimed(finding);
        // RECHECK: the copy comes before the second look, as in `spsc::Ring::still`.
        fence(Ordering::Acquire);
        let mut again = found;
        self.locate(found.sequence, &mut again)?;
        if again.header != found.header || again.payload != found.payload {
            return Err(self.corrupt("a message that changed while it was copied"));
        }
        Ok(())
    }

    /// Copies a message that was found in place. That it was whole, its claim tells.
    #[inline]
    pub(crate) fn copy_claimed(&mut self, finding: &mut Finding) {
        let extension_bytes = finding.header.extension_bytes();
        let body_bytes = extension_bytes + finding.header.len_bytes as usize;
        // SAFETY: the reader has checked that the payload, and the extension before it, are inside of the mapping; slots and cells
        // are whole lines, so rounding up to words stays inside as well. Others may store here: the loads are atomic.
        let words = unsafe {
            let body = finding.payload.sub(extension_bytes).cast::<AtomicU64>();
            core::slice::from_raw_parts(body, body_bytes.div_ceil(8))
        };
        copy_words(words, body_bytes, &mut self.copy);
        finding.payload = self.copied_payload(extension_bytes);
    }

    /// Where the payload of the copied message begins.
    #[inline]
    fn copied_payload(&self, extension_bytes: usize) -> *const u8 {
        bytemuck::cast_slice::<u128, u8>(&self.copy)[extension_bytes..].as_ptr()
    }

    /// Header and payload of a cell, everything that they say of themselves checked.
    #[inline(always)]
    fn cell(
        &mut self,
        sequence: u64,
        producer: u16,
        mark: Option<u16>,
        cell: u32,
        finding: &mut Finding,
    ) -> Result<(), Failure> {
        let found = match self.try_cell(sequence, producer, mark, cell) {
            Some(found) => found,
            None => self.cell_slow(sequence, producer, mark, cell)?,
        };
        finding.header = found.header();
        finding.payload = found.payload();
        Ok(())
    }

    /// The arena is not mapped yet, or the producer entry has changed hands: maps the one that is meant.
    #[cold]
    fn cell_slow(
        &mut self,
        sequence: u64,
        producer: u16,
        mark: Option<u16>,
        cell: u32,
    ) -> Result<InCell, Failure> {
        let index = usize::from(producer);
        if index >= self.arenas.len() {
            return Err(self.corrupt("a slot that names no producer"));
        }
        let word =
            self.core.ring_word(ring::producer_state(index)).map_or(0, |word| word.load(Ordering::Acquire));
        let current = HolderWord::unpack(word).tag;
        let tag = mark.map_or(current, |mark| producer_tag(mark, current));
        let mut attached = self.attach_arena(index, tag);
        if attached.is_ok()
            && let Some(found) = self.try_cell(sequence, producer, mark, cell)
        {
            return Ok(found);
        }
        // The message may be of a predecessor under this entry. A slot of one producer tells six bits of the incarnation; a
        // word of many tells none, but the cell itself says of which sequence it is.
        for earlier in repair::arenas(&self.core, index, self.lane) {
            if tag.wrapping_sub(earlier).cast_signed() > 0
                && (mark.is_none() || tag.wrapping_sub(earlier) & 0x3f == 0)
            {
                if let Err(error) = self.attach_arena(index, earlier) {
                    // One that is gone is not meant; one that could not be mapped may be.
                    if is_refusal(&error) {
                        attached = Err(error);
                    }
                    continue;
                }
                if let Some(found) = self.try_cell(sequence, producer, mark, cell)
                    && producer_tag(found.described().producer, earlier) == earlier
                {
                    return Ok(found);
                }
            }
        }
        attached?;
        Err(self.corrupt("a cell that does not hold the message that its slot names"))
    }

    fn attach_arena(&mut self, index: usize, tag: u32) -> Result<(), RegionError> {
        let geometry = self.core.config().arena();
        let mut view =
            ArenaView::attach(self.core.dir(), (index, tag), self.lane, geometry, self.core.epoch())?;
        if self.core.is_frugal() {
            view.close_file();
        }
        self.arenas[index] = Some((tag, view));
        Ok(())
    }

    /// Copies the message at the reader's position, and checks that it was whole all the while.
    #[cold]
    fn take_copy(&mut self, sequence: u64, finding: &mut Finding) -> Result<Found, Failure> {
        let copied = match self.ring {
            LaneRing::Spsc(ring) => match ring.slot(sequence) {
                Slot::Filled(words) => {
                    let header = Header::load(words);
                    if header.flags & flags::ARENA != 0 {
                        let (mark, cell) = (header.producer, header.reference as u32);
                        match ring.still(sequence) {
                            true => {
                                let who = (producer_entry(mark), Some(mark));
                                self.copy_cell(sequence, who, cell, usize::MAX)?
                            }
                            false => None,
                        }
                    } else {
                        let len = header.len_bytes as usize + header.extension_bytes();
                        copy_words(&words[HEADER_WORDS..], len.min(ring.inline_bytes()), &mut self.copy);
                        let is_whole = ring.still(sequence);
                        if is_whole && len > ring.inline_bytes() {
                            return Err(self.corrupt("a length that leaves its slot"));
                        }
                        is_whole.then_some(header)
                    }
                }
                _ => None,
            },
            LaneRing::Mpmc(ring) => match ring.slot(sequence) {
                Slot::Filled(name) => {
                    self.copy_cell(sequence, (name.producer, None), name.cell, usize::MAX)?
                }
                _ => None,
            },
        };
        if let Some(header) = copied {
            self.ahead.advance();
            let payload = self.copied_payload(header.extension_bytes());
            // What others may overwrite is recorded like what is kept: a message that kills its consumer is one whoever keeps it.
            // In the backlog that may go back, but not the mark of what was handed out before: see `group::mark`.
            let times = self.hand_out(sequence);
            *finding = Finding { sequence, header, payload, times };
            return Ok(Found::Message);
        }
        // Overtaken. Go on where messages are likely to stay for a moment, but never past what is kept for this reader.
        let capacity = u64::from(self.core.config().capacity);
        let oldest = self.end().saturating_sub(capacity - capacity / 8);
        let is_backlog = distance(sequence, self.reliable_from) < 0;
        let most = if self.copies && !is_backlog { oldest } else { earlier(oldest, self.reliable_from) };
        let until = later(sequence.wrapping_add(1), most);
        self.seek(until);
        // The group's cursor passes them with the next acknowledgement and not here: after a death before they were told, a
        // successor is told.
        let (told_from, told_until) = self.told;
        let is_again = distance(sequence, told_from) >= 0 && distance(sequence, told_until) < 0;
        let from = if is_again { earlier(told_until, until) } else { sequence };
        self.told = if is_again { (told_from, later(told_until, until)) } else { (sequence, until) };
        Ok(Found::Missed { at: sequence, from })
    }

    /// A run that was found to be missed is not told of yet: it is found again, and is news then.
    pub(crate) fn untell(&mut self, at: u64, from: u64) {
        if distance(self.ahead.next(), from) > 0 {
            self.told.1 = from;
        }
        self.seek(at);
    }

    /// The payload of a message that was copied when it was taken.
    pub(crate) fn copied(&self, finding: &Finding) -> Vec<u8> {
        let bytes = &bytemuck::cast_slice::<u128, u8>(&self.copy)[finding.header.extension_bytes()..];
        bytes[..(finding.header.len_bytes as usize).min(bytes.len())].to_vec()
    }

    /// Copies what a slot names, at most so many bytes of it. `None`: it has been overwritten, which is no error unless it was kept for
    /// this reader.
    fn copy_cell(
        &mut self,
        sequence: u64,
        (producer, mark): (u16, Option<u16>),
        cell: u32,
        most_bytes: usize,
    ) -> Result<Option<Header>, Failure> {
        let mut found = Finding::NONE;
        if let Err(failure) = self.cell(sequence, producer, mark, cell, &mut found) {
            // That there is no descriptor or memory for the arena says nothing of the message.
            return if failure.is_refusal() || self.is_kept(sequence) { Err(failure) } else { Ok(None) };
        }
        let Finding { header, payload, .. } = found;
        let Some((_, view)) = self.arenas.get(usize::from(producer)).and_then(Option::as_ref) else {
            return Ok(None);
        };
        let body_bytes = (header.extension_bytes() + header.len_bytes as usize).min(most_bytes);
        // SAFETY: the view has checked that the body is inside of the file; blocks are whole granules, so rounding
        // up to words stays inside as well. Other processes may store here meanwhile: the loads are atomic.
        let (words, tag) = unsafe {
            let body = payload.sub(header.extension_bytes());
            (
                core::slice::from_raw_parts(body.cast::<AtomicU64>(), body_bytes.div_ceil(8)),
                &*body.sub(HEADER_BYTES).cast::<AtomicU64>(),
            )
        };
        let tag = tag.load(Ordering::Relaxed);
        copy_words(words, body_bytes, &mut self.copy);
        let is_whole = tag_names(tag, sequence) && view.intact(cell, tag);
        Ok(is_whole.then_some(header))
    }

    /// Is a message kept for this reader, whose group may be let go at any time? Asked after a look at the message.
    fn is_kept(&self, sequence: u64) -> bool {
        // RECHECK: the look came before, as in `spsc::Ring::still`. Acquire: the word changes before anything is overwritten.
        fence(Ordering::Acquire);
        self.holds.is_some_and(|(word, held)| word.load(Ordering::Acquire) == held)
            && distance(sequence, self.reliable_from) >= 0
            && self.cursor().is_some_and(|cursor| distance(sequence, cursor) >= 0)
    }

    /// One member: everything up to `sequence` is done. Without a group it means nothing.
    #[inline]
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        let next = sequence.wrapping_add(1);
        if bus_core::is_broken("hand_out_late") || bus_core::is_broken("known_hand_out_late") {
            self.handed.inspect(|handed| group::hand_out(handed, self.now));
        }
        if let Some(low_water) = self.low_water {
            if distance(next, self.reliable_from) > 0 {
                group::acknowledge(low_water, next);
            } else {
                self.finish_backlog(next);
            }
        }
    }

    /// One member: what there was up to `next`, before its reliable start, is through; a successor need not go back to it.
    #[cold]
    fn finish_backlog(&mut self, next: u64) {
        self.finished = later(self.finished, next);
        if let Some(missed) = self.backlog {
            // Release, OUTCOME: a follower that sees the message passed sees what was recorded of it. Whoever takes the group over reads it
            // after a change of the group's state.
            missed.store(distance(self.reliable_from, self.finished).max(0) as u64, Ordering::Release);
        }
    }

    /// One member: the program has asked for the runs that it missed. In the backlog nothing else may come that would say so to a
    /// successor; a run behind something unfinished is passed with that.
    pub(crate) fn finish_told(&mut self) {
        let (from, until) = self.told;
        if self.low_water.is_some()
            && distance(until, self.reliable_from) <= 0
            && distance(from, self.finished) <= 0
            && distance(until, self.finished) > 0
        {
            self.finish_backlog(until);
        }
    }

    /// One member: everything before it is finished.
    fn cursor(&self) -> Option<u64> {
        let low_water = self.low_water?.load(Ordering::Relaxed);
        // Up to the reliable start the group's cursor stands there, wherever its member is.
        let is_backlog = distance(low_water, self.reliable_from) <= 0;
        Some(if is_backlog { self.finished } else { low_water })
    }

    /// One member: has it messages before this one that it has not finished?
    pub(crate) fn has_unfinished(&self, sequence: u64) -> bool {
        self.copies && self.cursor().is_some_and(|cursor| distance(cursor, sequence) < 0)
    }

    /// One member: the message that was taken last has not been shown to anybody, so that does not count as an attempt.
    pub(crate) fn take_back_hand_out(&mut self, sequence: u64) {
        if let Some(handed) = self.handed
            && self.now.end == self.now.next(sequence).end
        {
            self.now.times = self.now.times.saturating_sub(1);
            group::hand_out(handed, self.now);
        }
    }

    /// One member: what was handed out and not acknowledged comes again.
    pub(crate) fn rewind(&mut self) {
        if let Some(cursor) = self.cursor()
            && distance(cursor, self.ahead.next()) < 0
        {
            // Before the position goes back: a successor must know that these were handed out.
            self.marked = later(self.marked, self.now.end);
            if let Some(marks) = self.marks {
                group::mark(marks, self.marked);
            }
            self.seek(cursor);
        }
    }

    /// Shared: another member has the message at the reader's position, or the whole group is beyond it.
    pub(crate) fn pass_over(&mut self) {
        if self.ahead.known_count() > 1 {
            self.ahead.advance();
            return;
        }
        let low_water = self.low_water.map_or(0, |low_water| low_water.load(Ordering::Acquire));
        self.seek(later(self.ahead.next().wrapping_add(1), low_water));
    }

    pub(crate) fn releases(&self) -> u64 {
        self.released.map_or(self.releases_seen, |released| released.load(Ordering::Acquire))
    }

    /// Shared: a message is done. `finish` gets the walk past parked ones.
    #[inline]
    pub(crate) fn acknowledge_claim(
        &mut self,
        owners: &Owners<'_>,
        sequence: u64,
        claim: OwnerWord,
        finish: impl FnMut(u64, OwnerWord) -> bool,
    ) -> bool {
        let Some(low_water) = self.low_water else { return false };
        owners.acknowledge_with(sequence, claim, low_water, self.walks_to(sequence), finish)
    }

    /// Shared: messages up to `sequence` are done, which were finished one by one. Moves the group's cursor as an acknowledgement does.
    pub(crate) fn walk_behind(
        &self,
        owners: &Owners<'_>,
        sequence: u64,
        finish: impl FnMut(u64, OwnerWord) -> bool,
    ) {
        if let Some(low_water) = self.low_water {
            owners.walk_with(low_water, self.walks_to(sequence), finish);
        }
    }

    /// The walk stops at the first message that nobody has finished, so the bound only has to be late enough: others may
    /// have finished messages that this member has not come to.
    fn walks_to(&self, sequence: u64) -> u64 {
        sequence.wrapping_add(u64::from(self.core.config().capacity))
    }

    pub(crate) fn release_claim(&self, owners: &Owners<'_>, sequence: u64, claim: OwnerWord) -> bool {
        let released = owners.release(sequence, claim);
        if released && let Some(word) = self.released {
            // Release: whoever sees the count sees the word RELEASED.
            word.fetch_add(1, Ordering::Release);
        }
        released
    }

    /// Shared: messages that are in some member's hands, with the words that say so.
    pub(crate) fn claims(&self, owners: &Owners<'_>) -> impl Iterator<Item = (u64, OwnerWord)> {
        let from = self.low_water.map_or(0, |low_water| low_water.load(Ordering::Acquire));
        let count = distance(self.ring.end(self.hint), from).clamp(0, self.core.config().capacity.into());
        (0..count as u64).filter_map(move |index| {
            let sequence = from.wrapping_add(index);
            let word = owners.look(sequence);
            (word.state == state::CLAIMED).then_some((sequence, word))
        })
    }

    /// Shared: was something given back since the last look?
    #[inline]
    pub(crate) fn has_releases(&self) -> bool {
        self.releases() != self.releases_seen
    }

    /// Shared: goes back to messages that were given back since the last look. True if there is one.
    pub(crate) fn look_back(&mut self, owners: &Owners<'_>) -> bool {
        let releases = self.releases();
        if releases == self.releases_seen {
            return false;
        }
        self.releases_seen = releases;
        let Some(low_water) = self.low_water else { return false };
        let mut sequence = low_water.load(Ordering::Acquire);
        while distance(sequence, self.ahead.next()) < 0 {
            let word = owners.look(sequence);
            if matches!(word.state, state::FREE | state::RELEASED) {
                self.seek(sequence);
                return true;
            }
            sequence = sequence.wrapping_add(1);
        }
        false
    }

    /// Shared: moves the group's cursor over what is finished.
    pub(crate) fn walk(&self, owners: &Owners<'_>, finish: impl FnMut(u64, OwnerWord) -> bool) {
        if let Some(low_water) = self.low_water {
            owners.walk_with(low_water, self.ring.end(self.hint), finish);
        }
    }

    /// One member: is it among messages that were handed out before? Then one at a time is handed out and settled, so
    /// that a death is counted for the message that caused it.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.marks.is_some() && self.cursor().is_some_and(|cursor| distance(cursor, self.marked) < 0)
    }

    /// Header of a message, if it is still there. Moves the reader's position.
    pub(crate) fn header_at(&mut self, sequence: u64) -> Option<Header> {
        self.seek(sequence);
        let header = match self.ring {
            LaneRing::Spsc(ring) => match ring.slot(sequence) {
                Slot::Filled(words) => {
                    let header = Header::load(words);
                    ring.still(sequence).then_some(header)
                }
                _ => None,
            },
            LaneRing::Mpmc(ring) => match ring.slot(sequence) {
                Slot::Filled(name) => {
                    let mut found = Finding::NONE;
                    self.cell(sequence, name.producer, None, name.cell, &mut found)
                        .ok()
                        .map(|()| found.header)
                }
                _ => None,
            },
        };
        header.filter(|header| header.len_bytes <= self.max_bytes)
    }

    /// What a message says of itself, if it is still there: its header, and its extension. Its payload is not read. Moves the reader's
    /// position.
    pub(crate) fn glance(&mut self, sequence: u64) -> Option<(Header, Option<Extension>)> {
        self.seek(sequence);
        let header = match self.ring {
            LaneRing::Spsc(ring) => {
                let Slot::Filled(words) = ring.slot(sequence) else { return None };
                let header = Header::load(words);
                if header.flags & flags::ARENA != 0 {
                    let (mark, cell) = (header.producer, header.reference as u32);
                    let who = (producer_entry(mark), Some(mark));
                    ring.still(sequence).then_some(())?;
                    self.copy_cell(sequence, who, cell, size_of::<Extension>()).ok()??
                } else {
                    let most = header.extension_bytes().min(ring.inline_bytes());
                    copy_words(&words[HEADER_WORDS..], most, &mut self.copy);
                    ring.still(sequence).then_some(header)?
                }
            }
            LaneRing::Mpmc(ring) => {
                let Slot::Filled(name) = ring.slot(sequence) else { return None };
                let who = (name.producer, None);
                self.copy_cell(sequence, who, name.cell, size_of::<Extension>()).ok()??
            }
        };
        let extension = (header.flags & flags::EXTENSION != 0)
            .then(|| bytemuck::cast_slice::<u128, u8>(&self.copy).get(..size_of::<Extension>()))
            .flatten()
            .map(bytemuck::pod_read_unaligned);
        (header.len_bytes <= self.max_bytes).then_some((header, extension))
    }

    /// First sequence in `oldest..end` that was published at or after `from_ns`. Stamps of several producers are only nearly in
    /// order, so the answer may be off by the messages that were published at the same moment.
    pub(crate) fn first_at_or_after(&mut self, from_ns: u64, oldest: u64, end: u64) -> u64 {
        let (mut low, mut high) = (oldest, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.header_at(middle) {
                Some(header) if header.stamp_ns >= from_ns => high = middle,
                _ => low = middle + 1,
            }
        }
        low
    }
}

/// Has the operating system refused what is there? Files that are gone, or not what they should be, are none of that.
pub(crate) fn is_refusal(error: &RegionError) -> bool {
    matches!(error, RegionError::System(error) if !error.is(rustix::io::Errno::NOENT))
}
