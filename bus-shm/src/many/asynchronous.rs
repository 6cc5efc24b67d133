//! Subscriptions in tasks of tokio. Nothing is polled while nothing comes: the runtime watches the subscription's descriptor, and a
//! timer runs only where a message is to be tried again, or something is to be looked after each second.
#![allow(unsafe_code)]

use super::{ManyBuilder, ManyError, ManySubscriber, Step};
use crate::error::ReceiveError;
use crate::payload::{Message, Speak, access};
use crate::sys::error::SysError;
use crate::{Incoming, Lane};
use futures_core::Stream;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep_until};

/// After so many messages in a row other tasks of the thread get a turn.
const RUN_MAX: u32 = 128;
/// The same after so many looks that found no message and no reason to wait.
const ROUNDS_MAX: u32 = 32;

/// The subscription's pipe, as the runtime watches it.
#[derive(Debug)]
struct Pipe(Arc<OwnedFd>);

impl AsRawFd for Pipe {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn failed(call: &'static str, error: &std::io::Error) -> ManyError {
    SysError::from_io(call, "a subscription's pipe", error).into()
}

/// Reads many topics, or one, in a task. Belongs to one task at a time.
pub struct AsyncSubscriber<T> {
    many: ManySubscriber<T>,
    pipe: AsyncFd<Pipe>,
    /// Runs where something is due at some time.
    timer: Option<Pin<Box<Sleep>>>,
    /// Messages since this task last waited.
    run: u32,
}

impl<T> std::fmt::Debug for AsyncSubscriber<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncSubscriber").field("many", &self.many).finish_non_exhaustive()
    }
}

impl<T: Speak> ManyBuilder<T> {
    /// Joins like [`ManyBuilder::join`], to be read by a task of the tokio runtime that this is called in.
    ///
    /// # Errors
    /// As [`ManyBuilder::join`]; [`ManyError::NoRuntime`].
    ///
    /// # Panics
    /// In tokio, where the runtime was made without input and output (`enable_io`); without time (`enable_time`), as soon as
    /// something has to be waited for by the clock.
    pub fn join_async(self) -> Result<AsyncSubscriber<T>, ManyError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ManyError::NoRuntime);
        }
        let mut many = self.join()?;
        let inner = Pipe(many.open_pipe()?);
        // SAFETY: the pipe is shared, so it stays open, under one number, for as long as the runtime watches it.
        let pipe = unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }
            .map_err(|error| failed("epoll_ctl", &error.into()))?;
        Ok(AsyncSubscriber { many, pipe, timer: None, run: 0 })
    }
}

impl<T: Speak> AsyncSubscriber<T> {
    /// The next message. Cancelled before it is there, nothing is lost: a message is taken only when this returns it.
    ///
    /// # Errors
    /// See [`ManySubscriber::receive`].
    pub async fn next(&mut self) -> Result<Incoming<'_, T>, ManyError> {
        let index = poll_fn(|context| self.poll_index(context)).await?;
        Ok(self.many.incoming(index))
    }

    /// The next message, if one is there.
    ///
    /// # Errors
    /// See [`ManySubscriber::receive`].
    pub fn try_next(&mut self) -> Result<Option<Incoming<'_, T>>, ManyError> {
        self.many.try_receive()
    }

    /// The subscription itself, for what needs no waiting.
    pub fn get_mut(&mut self) -> &mut ManySubscriber<T> {
        &mut self.many
    }

    /// A stream of messages of their own memory. Each is acknowledged when the next one is asked for, and given back if the stream is
    /// dropped before that.
    pub fn into_stream(self) -> Messages<T> {
        Messages { subscriber: self }
    }

    fn poll_index(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, ManyError>> {
        if self.run >= RUN_MAX {
            self.run = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        for _ in 0..ROUNDS_MAX {
            match self.many.step()? {
                Step::Took(index) => {
                    self.run += 1;
                    return Poll::Ready(Ok(index));
                }
                Step::LeftOut => continue,
                Step::Nothing => {}
            }
            if !self.many.prepare_to_wait() {
                continue;
            }
            if self.poll_timer(context).is_ready() {
                continue;
            }
            match self.pipe.poll_read_ready(context) {
                Poll::Pending => {
                    self.run = 0;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failed("epoll_wait", &error))),
                Poll::Ready(Ok(mut guard)) => {
                    crate::sys::pipe::drain(&guard.get_inner().0);
                    // What comes after the drain is a new event, which this does not clear.
                    guard.clear_ready();
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when something is due; never where nothing is.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.many.due() else {
            self.timer = None;
            return Poll::Pending;
        };
        let due = Instant::from_std(due);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(context));
        self.timer = None;
        Poll::Ready(())
    }
}

/// A message in memory of its own.
#[derive(Debug)]
pub struct OwnedMessage<T> {
    topic: Arc<str>,
    lane: Lane,
    sequence: u64,
    stamp_ns: u64,
    producer: u16,
    kind: u8,
    attempts: u8,
    len_bytes: usize,
    /// Aligned as archives are.
    payload: Vec<u128>,
    speaks: PhantomData<fn() -> T>,
}

impl<T> OwnedMessage<T> {
    fn copy(topic: Arc<str>, message: &crate::Received<'_, T>) -> Self {
        let bytes = message.payload();
        let mut payload = vec![0_u128; bytes.len().div_ceil(size_of::<u128>())];
        bytemuck::cast_slice_mut::<u128, u8>(&mut payload)[..bytes.len()].copy_from_slice(bytes);
        Self {
            topic,
            lane: message.lane(),
            sequence: message.sequence(),
            stamp_ns: message.stamp_ns(),
            producer: message.producer(),
            kind: message.kind(),
            attempts: message.attempts(),
            len_bytes: bytes.len(),
            payload,
            speaks: PhantomData,
        }
    }

    /// Name of its topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Its number in its lane.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// CLOCK_MONOTONIC nanoseconds when its publication began; 0 on topics without stamps.
    pub fn stamp_ns(&self) -> u64 {
        self.stamp_ns
    }

    /// Its publisher's number in the topic.
    pub fn producer(&self) -> u16 {
        self.producer
    }

    /// Number of its payload type in the topic; 255 is plain bytes.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// See [`crate::Received::attempts`].
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &bytemuck::cast_slice::<u128, u8>(&self.payload)[..self.len_bytes]
    }
}

impl<T: Message> OwnedMessage<T> {
    /// The value, after its archive has been checked.
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`]. The stream takes the message for handled all the same; [`Messages::reject`] makes it a dead
    /// letter.
    pub fn value(&self) -> Result<&T::Archived, ReceiveError> {
        access::<T>(self.payload()).ok_or_else(|| ReceiveError::Invalid {
            topic: self.topic.to_string(),
            lane: self.lane.0,
            sequence: self.sequence,
            len: self.len_bytes as u32,
            kind: T::NAME,
            producer: self.producer,
        })
    }
}

/// A stream of messages of their own memory. See [`AsyncSubscriber::into_stream`].
#[derive(Debug)]
pub struct Messages<T> {
    subscriber: AsyncSubscriber<T>,
}

impl<T: Speak> Messages<T> {
    /// The message that the stream gave last failed: it comes again later. See [`crate::Received::retry`].
    ///
    /// # Errors
    /// As there.
    pub fn retry(&mut self, error: &str) -> Result<(), ReceiveError> {
        self.take_last().map_or(Ok(()), |message| message.retry(error))
    }

    /// The message that the stream gave last can never be handled: it becomes a dead letter.
    ///
    /// # Errors
    /// As [`crate::Received::reject`].
    pub fn reject(&mut self, error: &str) -> Result<(), ReceiveError> {
        self.take_last().map_or(Ok(()), |message| message.reject(error))
    }

    /// The message that the stream gave last is done, before the next one is asked for.
    ///
    /// # Errors
    /// As [`crate::Received::ack`].
    pub fn ack(&mut self) -> Result<(), ReceiveError> {
        self.take_last().map_or(Ok(()), |message| Ok(message.ack()?))
    }

    fn take_last(&mut self) -> Option<Incoming<'_, T>> {
        let many = &mut self.subscriber.many;
        many.in_hand.take().map(|index| many.incoming(index))
    }
}

impl<T: Speak> Stream for Messages<T> {
    type Item = Result<OwnedMessage<T>, ManyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(error) = self.ack() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let subscriber = &mut self.subscriber;
        let index = match ready!(subscriber.poll_index(context)) {
            Ok(index) => index,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        subscriber.many.in_hand = Some(index);
        Poll::Ready(Some(Ok(subscriber.many.copy_in_hand(index, OwnedMessage::copy))))
    }
}
