//! Messages in the hands of a program: one by one, or as a batch.
#![allow(unsafe_code)]

use super::late::Verdict;
use super::settle::InHand;
use super::{Delivery, Membership, Proof, Subscriber};
use crate::error::{NotOwner, ReceiveError};
use crate::metadata::Metadata;
use crate::payload::{Message, Speak, access, access_unchecked};
use bus_core::extension::Extension;
use bus_core::header::producer_entry;
use bus_core::lane::Lane;
use bus_core::layout::groups;
use bus_core::limits::LANES_MAX;
use std::time::{Duration, Instant};

/// A message, borrowed from its subscriber. Acknowledge it with [`Received::ack`] when its work is done. If it failed,
/// [`Received::retry`] has it come again later and [`Received::reject`] makes it a dead letter. Dropped without any of the
/// three, it is given back and comes again at once, marked as redelivered; if its archive was found invalid, it
/// becomes a dead letter.
pub struct Received<'s, T> {
    pub(super) subscriber: &'s mut Subscriber<T>,
    pub(super) settled: bool,
}

/// The error text of messages whose archive does not validate.
const INVALID: &str = "its archive does not validate";

impl<T> std::fmt::Debug for Received<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("lane", &self.delivery().lane)
            .field("sequence", &self.delivery().found.sequence)
            .field("len_bytes", &self.delivery().found.header.len_bytes)
            .finish_non_exhaustive()
    }
}

fn metadata<'m>(raw: &'m super::RawSubscriber, delivery: &'m Delivery) -> Metadata<'m> {
    Metadata {
        core: &raw.core,
        bus: &raw.bus,
        lane: delivery.lane,
        sequence: delivery.found.sequence,
        header: &delivery.found.header,
        is_in_ring: !matches!(delivery.proof, Proof::Entry(_)),
        extension: delivery.found.extension(),
    }
}

impl<T> Received<'_, T> {
    /// The extension block before its payload.
    pub(crate) fn extension(&self) -> Option<Extension> {
        self.delivery().found.extension()
    }

    /// What was handed out. Stays as it is while this borrow of the subscriber lasts.
    #[inline]
    pub(super) fn delivery(&self) -> &Delivery {
        &self.subscriber.raw.current
    }

    /// Its number in its lane.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.delivery().found.sequence
    }

    /// Its lane.
    #[inline]
    pub fn lane(&self) -> Lane {
        Lane(self.delivery().lane as u8)
    }

    /// CLOCK_MONOTONIC nanoseconds when its publication began; 0 on topics without stamps.
    #[inline]
    pub fn stamp_ns(&self) -> u64 {
        self.delivery().found.header.stamp_ns
    }

    /// Its publisher's number in the topic.
    #[inline]
    pub fn producer(&self) -> u16 {
        producer_entry(self.delivery().found.header.producer)
    }

    /// Number of its payload type in the topic; 255 is plain bytes.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.delivery().found.header.kind
    }

    /// What it says of itself besides its payload: identity, cause, key, origin.
    pub fn metadata(&self) -> Metadata<'_> {
        metadata(&self.subscriber.raw, self.delivery())
    }

    /// Has it been handed out before?
    #[inline]
    pub fn is_redelivered(&self) -> bool {
        self.delivery().found.times > 1
    }

    /// How often it has been handed out, this time included; saturates. A lower bound in a group of one member: that counts
    /// only hand-outs of the same message in a row, and knows of others that there were some.
    #[inline]
    pub fn attempts(&self) -> u8 {
        self.delivery().found.times
    }

    /// The payload as it lies in memory.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.delivery().found.payload()
    }

    /// Its work is done. In a group of one member that goes for every message before it in its lane too.
    ///
    /// # Errors
    /// [`NotOwner`] if the group had given it to another member meanwhile.
    #[inline]
    pub fn ack(mut self) -> Result<(), NotOwner> {
        self.settled = true;
        let raw = &mut self.subscriber.raw;
        if raw.acknowledge_current() { Ok(()) } else { Err(raw.not_owner(&raw.current)) }
    }

    /// Its work failed: it comes again, marked, after a delay that grows with its attempts, and later messages go on meanwhile.
    /// After the last attempt it becomes a dead letter. `error` is kept with it, the first 96 bytes.
    ///
    /// # Errors
    /// [`ReceiveError::NotOwner`], or the group's store could not be made; then the message comes again all the same.
    pub fn retry(self, error: &str) -> Result<(), ReceiveError> {
        self.put_aside(Verdict::Retry(None), error)
    }

    /// The same, after `delay`.
    ///
    /// # Errors
    /// As [`Received::retry`].
    pub fn retry_after(self, delay: Duration, error: &str) -> Result<(), ReceiveError> {
        self.put_aside(Verdict::Retry(Some(delay)), error)
    }

    /// It can never be handled: it becomes a dead letter.
    ///
    /// # Errors
    /// As [`Received::retry`].
    pub fn reject(self, error: &str) -> Result<(), ReceiveError> {
        self.put_aside(Verdict::Dead, error)
    }

    /// Was its archive found invalid?
    pub(crate) fn is_invalid(&self) -> bool {
        self.subscriber.raw.was_invalid(self.delivery().lane, self.sequence())
    }

    fn put_aside(mut self, verdict: Verdict, error: &str) -> Result<(), ReceiveError> {
        self.settled = true;
        let raw = &mut self.subscriber.raw;
        raw.check()?;
        let delivery = raw.current;
        raw.put_aside(&delivery, verdict, error)
    }

    /// Does it become a dead letter if it fails this time?
    pub fn is_last_attempt(&self) -> bool {
        self.subscriber.raw.late.as_ref().is_some_and(|late| self.attempts() >= late.attempts_max())
    }

    /// After how long another member gets it if this one is silent, as the group says at the moment; `None` where no other does.
    pub fn ack_wait(&self) -> Option<Duration> {
        let raw = &self.subscriber.raw;
        let bits = raw.core.group_number(raw.membership.entry()?, groups::in_entry::KIND);
        let wait_ms = groups::kind::ack_wait_ms(bits);
        (wait_ms != 0).then(|| Duration::from_millis(u64::from(wait_ms)))
    }

    /// Its work goes on: the group's `ack_wait` begins anew.
    ///
    /// # Errors
    /// [`NotOwner`] if it is too late.
    pub fn extend(&mut self) -> Result<(), NotOwner> {
        self.subscriber.raw.extend_current()
    }
}

impl<T: Message> Received<'_, T> {
    /// The value, read in place after its archive has been checked.
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`]. Dropped after that, the message becomes a dead letter.
    #[inline]
    pub fn value(&self) -> Result<&T::Archived, ReceiveError> {
        read::<T>(self.subscriber, self.delivery(), self.payload())
    }
}

#[inline]
fn read<'m, T: Message>(
    subscriber: &Subscriber<T>,
    delivery: &Delivery,
    payload: &'m [u8],
) -> Result<&'m T::Archived, ReceiveError> {
    if subscriber.trusted {
        // SAFETY: `SubscriberBuilder::trusted` is unsafe, and its caller has promised it.
        return Ok(unsafe { access_unchecked::<T>(payload) });
    }
    access::<T>(payload).ok_or_else(|| {
        // Settled without a word, it is a dead letter.
        subscriber.raw.invalid.set(Some((delivery.lane, delivery.found.sequence)));
        ReceiveError::Invalid {
            topic: subscriber.raw.core.name().to_owned(),
            lane: delivery.lane as u8,
            sequence: delivery.found.sequence,
            len: delivery.found.header.len_bytes,
            kind: T::NAME,
            producer: producer_entry(delivery.found.header.producer),
        }
    })
}

impl<T> Drop for Received<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if !self.settled {
            self.give_back();
        }
    }
}

impl<T> Received<'_, T> {
    /// Dropped without a word.
    #[inline(never)]
    fn give_back(&mut self) {
        let delivery = *self.delivery();
        let raw = &mut self.subscriber.raw;
        if raw.was_invalid(delivery.lane, delivery.found.sequence) && !raw.bus.is_forked() {
            // Not this member's any more, or no room: then it comes again.
            let _ = raw.put_aside(&delivery, Verdict::Dead, INVALID);
        } else {
            raw.release(&delivery.in_hand());
        }
    }
}

/// Messages that are handed out one by one, urgent lanes first, and acknowledged together. Dropped without
/// [`Batch::ack`], all of them come again, marked.
pub struct Batch<'s, T> {
    pub(super) subscriber: &'s mut Subscriber<T>,
    pub(super) left: usize,
    /// There are messages that were handed out before, and come one at a time.
    pub(super) in_doubt: bool,
    /// Others have been looked for since the last one was handed out.
    pub(super) looked_on: bool,
    pub(super) settled: bool,
}

impl<T> std::fmt::Debug for Batch<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("handed_out", &self.len())
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl<T> Batch<'_, T> {
    /// How many messages have been handed out.
    pub fn len(&self) -> usize {
        self.subscriber
            .raw
            .batch
            .iter()
            .filter(|message| message.is_shown)
            .map(|message| message.count as usize)
            .sum()
    }

    /// Has none been handed out?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages that were handed out are done. Returns how many were still this member's.
    pub fn ack(mut self) -> usize {
        self.settled = true;
        self.bury_last();
        let batch = std::mem::take(&mut self.subscriber.raw.batch);
        self.settle(batch)
    }

    /// The one message of the batch that was handed out has failed, unless its reader has said already what becomes of it. False: it is not
    /// in hand any more, since the reader has looked for others, and all of the batch is given back.
    pub(crate) fn settle_failed(mut self, error: &str, is_rejected: bool) -> Result<bool, ReceiveError> {
        self.bury_last();
        let raw = &mut self.subscriber.raw;
        let Some(shown) = raw.batch.iter().find(|message| message.is_shown) else { return Ok(false) };
        if !matches!(shown.proof, Proof::Staged(_) | Proof::Settled) {
            if !raw.has_last_in_hand(self.looked_on) {
                return Ok(false);
            }
            // Where it cannot be put aside it stays in the batch, and comes again with it.
            raw.put_item_aside(if is_rejected { Verdict::Dead } else { Verdict::Retry(None) }, error)?;
        }
        self.ack();
        Ok(true)
    }

    /// Those of one lane up to `sequence` are done, the others stay part of the batch. Returns how many were still this
    /// member's.
    pub fn ack_up_to(&mut self, lane: Lane, sequence: u64) -> usize {
        self.bury_last();
        let batch = std::mem::take(&mut self.subscriber.raw.batch);
        let (mut done, mut rest) = (Vec::new(), Vec::new());
        for (meant, other) in batch.into_iter().map(|message| message.split(lane.index(), sequence)) {
            done.extend(meant);
            rest.extend(other);
        }
        self.subscriber.raw.batch = rest;
        self.settle(done)
    }

    /// The last message turned out to be invalid, and nothing was said about it: a dead letter, if there is room; else it counts
    /// as done like the others, and its reader has had the error.
    #[inline]
    fn bury_last(&mut self) {
        if self.subscriber.raw.invalid.get().is_some() {
            self.bury_invalid();
        }
    }

    #[cold]
    fn bury_invalid(&mut self) {
        let raw = &mut self.subscriber.raw;
        if let Some(last) = raw.batch.last()
            && raw.was_invalid(last.lane, last.sequence)
            && !matches!(last.proof, Proof::Staged(_) | Proof::Settled)
        {
            // Once: what it points to may be gone later.
            raw.invalid.set(None);
            let _ = raw.put_item_aside(Verdict::Dead, INVALID);
        }
    }

    /// Acknowledges these, and gives their memory back to the subscriber.
    fn settle(&mut self, mut batch: Vec<InHand>) -> usize {
        let raw = &mut self.subscriber.raw;
        let kept = if raw.fork.is_child() {
            0
        } else if raw.keyed.is_some() {
            raw.acknowledge_keyed(&batch)
        } else if matches!(raw.membership, Membership::Shared(..)) {
            raw.acknowledge_batch(&batch)
        } else {
            // One store a lane; then what was put aside counts.
            let mut last: [Option<u64>; LANES_MAX] = [None; LANES_MAX];
            let (mut shown_count, mut has_staged) = (0, false);
            for message in &batch {
                shown_count += if message.is_shown { message.count as usize } else { 0 };
                match message.proof {
                    Proof::Position => last[message.lane] = Some(message.sequence),
                    Proof::Staged(_) => {
                        last[message.lane] = Some(message.sequence);
                        has_staged = true;
                    }
                    _ => _ = raw.acknowledge(message),
                }
            }
            for (lane, sequence) in last.into_iter().enumerate() {
                if let Some(sequence) = sequence {
                    raw.lanes[lane].acknowledge(sequence);
                }
            }
            raw.ring_space_bell();
            for message in batch.iter().filter(|_| has_staged) {
                if let Proof::Staged(held) = message.proof {
                    raw.finish_staged(held);
                }
            }
            shown_count
        };
        batch.clear();
        if raw.batch.is_empty() {
            raw.batch = batch;
        }
        kept
    }
}

impl<T: Speak> Batch<'_, T> {
    /// As [`Subscriber::take_missed`], while the batch is in hand.
    pub fn take_missed(&mut self) -> Option<(Lane, u64, u64)> {
        self.subscriber.raw.take_missed()
    }

    /// The next message of the batch, or `None` when there is none or the batch is full.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    #[inline]
    pub fn next_message(&mut self) -> Result<Option<BatchItem<'_, T>>, ReceiveError> {
        if self.is_full()? {
            return Ok(None);
        }
        self.looked_on = true;
        if !self.subscriber.raw.poll()? {
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(self.keep()))
    }

    /// The same, waiting for a message for at most `timeout`: for agents that collect work while they hold some.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    pub fn next_message_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<BatchItem<'_, T>>, ReceiveError> {
        if self.is_full()? {
            return Ok(None);
        }
        self.looked_on = true;
        let raw = &mut self.subscriber.raw;
        if !raw.poll()? && !raw.wait(Instant::now().checked_add(timeout))? {
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(self.keep()))
    }

    /// What the last message was said to be is done first. True: no more may be added, it has as many as were asked for, or the one that it
    /// has was handed out before.
    #[inline]
    fn is_full(&mut self) -> Result<bool, ReceiveError> {
        if self.subscriber.raw.fork.is_child() {
            self.subscriber.raw.check()?;
        }
        self.bury_last();
        let raw = &self.subscriber.raw;
        // While it holds something, cursors only go on: what is out of doubt once stays so.
        self.in_doubt = self.in_doubt && (raw.batch.is_empty() || raw.is_in_doubt());
        Ok(self.left == 0 || self.in_doubt && !raw.batch.is_empty())
    }

    /// The message that was just handed out is part of the batch.
    #[inline]
    fn keep(&mut self) -> BatchItem<'_, T> {
        let raw = &mut self.subscriber.raw;
        if raw.batch.is_empty() {
            self.in_doubt = raw.is_in_doubt();
        }
        self.looked_on = false;
        raw.add_to_batch();
        BatchItem { subscriber: self.subscriber }
    }
}

impl<T> Drop for Batch<'_, T> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.subscriber.raw.give_back_batch();
    }
}

/// A message of a [`Batch`].
pub struct BatchItem<'b, T> {
    pub(super) subscriber: &'b mut Subscriber<T>,
}

impl<T> std::fmt::Debug for BatchItem<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchItem").field("sequence", &self.delivery().found.sequence).finish_non_exhaustive()
    }
}

impl<T> BatchItem<'_, T> {
    /// What was handed out. Stays as it is while this borrow of the subscriber lasts.
    #[inline]
    pub(super) fn delivery(&self) -> &Delivery {
        &self.subscriber.raw.current
    }

    /// Its number in its lane.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.delivery().found.sequence
    }

    /// Its lane.
    #[inline]
    pub fn lane(&self) -> Lane {
        Lane(self.delivery().lane as u8)
    }

    /// CLOCK_MONOTONIC nanoseconds when its publication began; 0 on topics without stamps.
    #[inline]
    pub fn stamp_ns(&self) -> u64 {
        self.delivery().found.header.stamp_ns
    }

    /// Its publisher's number in the topic.
    #[inline]
    pub fn producer(&self) -> u16 {
        producer_entry(self.delivery().found.header.producer)
    }

    /// Number of its payload type in the topic; 255 is plain bytes.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.delivery().found.header.kind
    }

    /// As [`Received::metadata`].
    pub fn metadata(&self) -> Metadata<'_> {
        metadata(&self.subscriber.raw, self.delivery())
    }

    /// Has it been handed out before?
    #[inline]
    pub fn is_redelivered(&self) -> bool {
        self.delivery().found.times > 1
    }

    /// How often it has been handed out, this time included; saturates. A lower bound in a group of one member: that counts
    /// only hand-outs of the same message in a row, and knows of others that there were some.
    #[inline]
    pub fn attempts(&self) -> u8 {
        self.delivery().found.times
    }

    /// The payload as it lies in memory.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.delivery().found.payload()
    }

    /// Its work failed: it comes again later, as with [`Received::retry`]. In a group of one member that counts once the batch
    /// is acknowledged; given back with the batch, the message comes again as if nothing had been said.
    ///
    /// # Errors
    /// [`ReceiveError::NotOwner`]; [`ReceiveError::AsideFull`] in a group of one member, and the message stays in the
    /// batch.
    pub fn retry(self, error: &str) -> Result<(), ReceiveError> {
        self.put_aside(Verdict::Retry(None), error)
    }

    /// It can never be handled: it becomes a dead letter.
    ///
    /// # Errors
    /// As [`BatchItem::retry`].
    pub fn reject(self, error: &str) -> Result<(), ReceiveError> {
        self.put_aside(Verdict::Dead, error)
    }

    fn put_aside(self, verdict: Verdict, error: &str) -> Result<(), ReceiveError> {
        self.subscriber.raw.put_item_aside(verdict, error)
    }
}

impl<T: Message> BatchItem<'_, T> {
    /// The value, read in place after its archive has been checked.
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`]. When the batch goes on or is acknowledged, the message becomes a dead letter.
    #[inline]
    pub fn value(&self) -> Result<&T::Archived, ReceiveError> {
        read::<T>(self.subscriber, self.delivery(), self.payload())
    }
}
