//! Publishing in tasks of tokio. A full lane is waited for by short sleeps of the task; nothing runs while there is nothing to send.

use super::{Patience, Publisher, RawPublisher, Target};
use crate::error::PublishError;
use crate::payload::{Bytes, Message, Speak};
use bus_core::lane::Lane;
use bus_core::seq::{distance, later};
use futures_sink::Sink;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// First sleep of a task that found its lane full; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// Longest such sleep.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// After so many sleeps it is tried whether there seems to be room or not: whoever holds the lane may be dead.
const TRY_EVERY: u32 = 8;

impl RawPublisher {
    /// Is there room in the lane, or something that publishing would say? Refusals are not counted.
    fn has_room_now(&mut self, lane: usize) -> bool {
        if self.fork.is_child() {
            return true;
        }
        let Some(this) = self.lanes.get_mut(lane) else { return true };
        let (end, capacity) = (this.ring.end(this.hint), i64::from(self.core.config().capacity));
        if distance(end, this.cached_gate) >= capacity {
            this.cached_gate = later(self.core.recompute_gate_at(lane, end), this.cached_gate);
        }
        distance(end, this.cached_gate) < capacity
    }
}

/// What can be published to a topic of this type.
pub trait Payload<T>: Unpin {
    /// Publishes it, or fails at once if there is no room.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`].
    fn try_publish(&self, publisher: &mut Publisher<T>, lane: Lane) -> Result<u64, PublishError>;
}

impl<T: Message + Unpin> Payload<T> for T {
    fn try_publish(&self, publisher: &mut Publisher<T>, lane: Lane) -> Result<u64, PublishError> {
        publisher.try_publish_to(lane, self)
    }
}

impl Payload<Bytes> for Vec<u8> {
    fn try_publish(&self, publisher: &mut Publisher<Bytes>, lane: Lane) -> Result<u64, PublishError> {
        Ok(publisher.raw.publish(Target::Lane(lane.index()), self.as_slice(), Patience::None, true)?)
    }
}

/// Publishes in tasks, and is a [`Sink`]: of values, or of `Vec<u8>` on a topic of plain bytes.
pub struct AsyncPublisher<T, I = T> {
    publisher: Publisher<T>,
    lane: Lane,
    /// What the sink has taken and not published yet.
    pending: Option<I>,
    pause: Pause,
}

impl<T, I> std::fmt::Debug for AsyncPublisher<T, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncPublisher").field("publisher", &self.publisher).finish_non_exhaustive()
    }
}

/// The sleeps of one wait for room.
#[derive(Default)]
struct Pause {
    sleep: Option<Pin<Box<Sleep>>>,
    count: u32,
}

impl Pause {
    /// Sleeps once more, longer than the last time.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let length = PAUSE_MAX.min(PAUSE_FIRST * (1 << self.count.min(5)));
        let asleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(length)));
        ready!(asleep.as_mut().poll(context));
        self.sleep = None;
        self.count += 1;
        Poll::Ready(())
    }
}

impl<T: Speak> Publisher<T> {
    /// For tasks of tokio, in the lane that `publish` uses.
    pub fn into_async<I: Payload<T>>(self) -> AsyncPublisher<T, I> {
        let lane = self.default_lane();
        self.into_async_to(lane)
    }

    /// For tasks of tokio, in a lane.
    pub fn into_async_to<I: Payload<T>>(self, lane: Lane) -> AsyncPublisher<T, I> {
        AsyncPublisher { publisher: self, lane, pending: None, pause: Pause::default() }
    }
}

impl<T: Speak, I: Payload<T>> AsyncPublisher<T, I> {
    /// Publishes, sleeping while the lane is full; its sequence. Cancelled before it returns, nothing was published. What the sink
    /// has taken before is published first.
    ///
    /// # Errors
    /// See [`Publisher::publish_to`]; a full lane is none.
    pub async fn publish(&mut self, item: &I) -> Result<u64, PublishError> {
        poll_fn(|context| self.poll_pending(context)).await?;
        self.pause = Pause::default();
        poll_fn(|context| self.poll_publish(item, context)).await
    }

    /// The publisher itself, for what needs no waiting. What the sink has taken and not published is dropped.
    pub fn into_inner(self) -> Publisher<T> {
        self.publisher
    }

    fn poll_publish(&mut self, item: &I, context: &mut Context<'_>) -> Poll<Result<u64, PublishError>> {
        loop {
            let Self { publisher, lane, pause, .. } = self;
            if pause.sleep.is_none()
                && (pause.count.is_multiple_of(TRY_EVERY) || publisher.raw.has_room_now(lane.index()))
            {
                match item.try_publish(publisher, *lane) {
                    Err(PublishError::Full(_)) => {}
                    other => return Poll::Ready(other),
                }
            }
            ready!(pause.poll(context));
        }
    }

    /// Publishes what the sink has taken.
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        let Some(item) = self.pending.take() else { return Poll::Ready(Ok(())) };
        match self.poll_publish(&item, context) {
            Poll::Pending => {
                self.pending = Some(item);
                Poll::Pending
            }
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|_| ())),
        }
    }
}

impl<T: Speak, I: Payload<T>> Sink<I> for AsyncPublisher<T, I> {
    type Error = PublishError;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        self.poll_pending(context)
    }

    fn start_send(mut self: Pin<&mut Self>, item: I) -> Result<(), PublishError> {
        self.pause = Pause::default();
        let Self { publisher, lane, .. } = &mut *self;
        match item.try_publish(publisher, *lane) {
            Err(PublishError::Full(_)) => {
                self.pending = Some(item);
                self.pause.count = 1;
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        self.poll_pending(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), PublishError>> {
        self.poll_flush(context)
    }
}
