//! Messages in the hands of a program: one by one, or as a batch.
#![allow(unsafe_code)]

use super::{Delivery, Membership, Subscriber};
use crate::error::ReceiveError;
use crate::payload::{Message, Speak, access, access_unchecked};
use bus_core::header::producer_entry;
use bus_core::lane::Lane;
use bus_core::limits::LANES_MAX;
use std::time::{Duration, Instant};

/// A message, borrowed from its subscriber. Acknowledge it with [`Received::ack`] when its work is done; dropped without, it
/// is given back and comes again, marked as redelivered.
pub struct Received<'s, T> {
    pub(super) subscriber: &'s mut Subscriber<T>,
    pub(super) settled: bool,
}

impl<T> std::fmt::Debug for Received<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("lane", &self.delivery().lane)
            .field("sequence", &self.delivery().found.sequence)
            .field("len_bytes", &self.delivery().found.header.len_bytes)
            .finish_non_exhaustive()
    }
}

impl<T> Received<'_, T> {
    /// Stays as it is while this borrow of the subscriber lasts.
    #[inline]
    fn delivery(&self) -> &Delivery {
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

    /// Has it been handed out before?
    #[inline]
    pub fn is_redelivered(&self) -> bool {
        self.delivery().found.times > 1
    }

    /// How often it has been handed out, this time included; saturates.
    #[inline]
    pub fn attempts(&self) -> u8 {
        self.delivery().found.times
    }

    /// The payload as it lies in memory.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        // SAFETY: the reader has checked that this many bytes are inside of the mapping (or of the copy); the gate keeps
        // them from being overwritten until the message is settled, which needs this borrow to end.
        unsafe {
            core::slice::from_raw_parts(
                self.delivery().found.payload,
                self.delivery().found.header.len_bytes as usize,
            )
        }
    }

    /// Its work is done. False if the group had given it to another member meanwhile.
    #[inline]
    pub fn ack(mut self) -> bool {
        self.settled = true;
        self.subscriber.raw.acknowledge_current()
    }
}

impl<T: Message> Received<'_, T> {
    /// The value, read in place after its archive has been checked.
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`]. The message stays unacknowledged; acknowledge it to pass over it.
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
    access::<T>(payload).ok_or_else(|| ReceiveError::Invalid {
        topic: subscriber.raw.core.name().to_owned(),
        lane: delivery.lane as u8,
        sequence: delivery.found.sequence,
        len: delivery.found.header.len_bytes,
        kind: T::NAME,
        producer: producer_entry(delivery.found.header.producer),
    })
}

impl<T> Drop for Received<'_, T> {
    fn drop(&mut self) {
        if !self.settled {
            let delivery = *self.delivery();
            self.subscriber.raw.release(&delivery);
        }
    }
}

/// Messages that are handed out one by one, urgent lanes first, and acknowledged together. Dropped without
/// [`Batch::ack`], all of them come again, marked.
pub struct Batch<'s, T> {
    pub(super) subscriber: &'s mut Subscriber<T>,
    pub(super) left: usize,
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
        self.subscriber.raw.batch.iter().filter(|delivery| delivery.found.times > 0).count()
    }

    /// Has none been handed out?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages that were handed out are done. Returns how many were still this member's.
    pub fn ack(mut self) -> usize {
        self.settled = true;
        let raw = &mut self.subscriber.raw;
        let mut batch = std::mem::take(&mut raw.batch);
        let kept = if matches!(raw.membership, Membership::Shared(..)) {
            batch.iter().filter(|delivery| raw.acknowledge(delivery)).count()
        } else {
            // One store a lane.
            let mut last: [Option<&Delivery>; LANES_MAX] = [None; LANES_MAX];
            for delivery in &batch {
                last[delivery.lane] = Some(delivery);
            }
            for delivery in last.into_iter().flatten() {
                raw.acknowledge(delivery);
            }
            batch.iter().filter(|delivery| delivery.found.times > 0).count()
        };
        batch.clear();
        raw.batch = batch;
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
        if self.left == 0 {
            return Ok(None);
        }
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
        if self.left == 0 || !self.subscriber.raw.wait(Instant::now().checked_add(timeout))? {
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(self.keep()))
    }

    /// The message that was just handed out is part of the batch.
    #[inline]
    fn keep(&mut self) -> BatchItem<'_, T> {
        let delivery = self.subscriber.raw.current;
        self.subscriber.raw.batch.push(delivery);
        BatchItem { subscriber: self.subscriber, delivery }
    }
}

impl<T> Drop for Batch<'_, T> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let raw = &mut self.subscriber.raw;
        let mut batch = std::mem::take(&mut raw.batch);
        for delivery in batch.iter().rev() {
            raw.release(delivery);
        }
        batch.clear();
        raw.batch = batch;
    }
}

/// A message of a [`Batch`].
pub struct BatchItem<'b, T> {
    subscriber: &'b Subscriber<T>,
    delivery: Delivery,
}

impl<T> std::fmt::Debug for BatchItem<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchItem").field("sequence", &self.delivery.found.sequence).finish_non_exhaustive()
    }
}

impl<T> BatchItem<'_, T> {
    /// Its number in its lane.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.delivery.found.sequence
    }

    /// Its lane.
    #[inline]
    pub fn lane(&self) -> Lane {
        Lane(self.delivery.lane as u8)
    }

    /// CLOCK_MONOTONIC nanoseconds when its publication began; 0 on topics without stamps.
    #[inline]
    pub fn stamp_ns(&self) -> u64 {
        self.delivery.found.header.stamp_ns
    }

    /// Its publisher's number in the topic.
    #[inline]
    pub fn producer(&self) -> u16 {
        producer_entry(self.delivery.found.header.producer)
    }

    /// Number of its payload type in the topic; 255 is plain bytes.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.delivery.found.header.kind
    }

    /// Has it been handed out before?
    #[inline]
    pub fn is_redelivered(&self) -> bool {
        self.delivery.found.times > 1
    }

    /// The payload as it lies in memory.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        // SAFETY: as in `Received::payload`; the batch, which is borrowed, is settled only later.
        unsafe {
            core::slice::from_raw_parts(
                self.delivery.found.payload,
                self.delivery.found.header.len_bytes as usize,
            )
        }
    }
}

impl<T: Message> BatchItem<'_, T> {
    /// The value, read in place after its archive has been checked.
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`].
    #[inline]
    pub fn value(&self) -> Result<&T::Archived, ReceiveError> {
        read::<T>(self.subscriber, &self.delivery, self.payload())
    }
}
