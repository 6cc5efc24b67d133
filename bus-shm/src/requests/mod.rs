//! Requests and their answers.
//!
//! A request is an ordinary message whose extension says where to answer ([`bus_core::extension::Reply`]); whoever has it in hand may call
//! [`Received::reply`](crate::Received::reply). Each process that asks has one topic on which it is answered, made when it first asks:
//! `_reply.<participant>.<incarnation>`. Its life:
//!
//! | state | who brings it about | what holds |
//! |---|---|---|
//! | absent | | nobody can have been asked by this incarnation |
//! | being made | the holder of the role, asked by the process itself, whose entry it has seen LIVE | a temporary name, which the next holder moves away before it buries anybody |
//! | there | the same, by one rename | the group `requester` keeps each answer until it is read |
//! | going | whoever sweeps the process, before its number is free | the name is gone; then the topic is marked closed |
//! | gone | the same | no other registration ever has this name |
//!
//! Inside of the process any thread may wait. The one that finds the reader of the topic free takes it, reads for all, and gives it
//! back when it has what it waits for; the others sleep until they have theirs, or are to read. While nobody waits nobody reads.

mod desk;
mod error;
mod pending;
mod reply;
mod target;

pub(crate) use desk::Desk;
pub use error::{Nobody, ReplyError, RequestError};
pub use pending::{Answer, Gather, Pending};
pub(crate) use reply::{Asked, Replies};

use crate::arena::Source;
use crate::bus::BusInner;
use crate::metadata::Meta;
use crate::payload::{Message, Speak};
use crate::wait::Wait;
use bus_core::lane::Lane;
use std::sync::Arc;
use std::time::Duration;

/// How a request is asked.
#[derive(Clone, Debug)]
#[must_use = "it says nothing until something is sent with it"]
pub struct Ask {
    timeout: Duration,
    most: u32,
    lane: Option<Lane>,
    meta: Meta,
    even_if_away: bool,
    create_mailbox: bool,
}

impl Ask {
    /// One answer, within this time. Nobody is handed the request after that.
    pub fn within(timeout: Duration) -> Self {
        Self { timeout, most: 1, lane: None, meta: Meta::new(), even_if_away: false, create_mailbox: false }
    }

    /// Up to so many answers: of several groups, or several of one replier. Default: one.
    pub fn replies(mut self, most: u32) -> Self {
        self.most = most.max(1);
        self
    }

    /// The lane. Default: normal.
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = Some(lane);
        self
    }

    /// What else it says of itself. Its time to live is that of the request.
    pub fn meta(mut self, meta: &Meta) -> Self {
        self.meta = *meta;
        self
    }

    /// Where no member of a group is alive, the request waits in a group that keeps its messages, for the time that it has. Default:
    /// that is an error at once.
    pub fn even_if_away(mut self) -> Self {
        self.even_if_away = true;
        self
    }

    /// A mailbox that nobody has made is made, and the request kept there for an owner that has yet to come. Default: a mailbox that is
    /// missing is an error at once, since its name may be wrong.
    pub fn create_mailbox(mut self) -> Self {
        self.create_mailbox = true;
        self.even_if_away()
    }
}

/// Asks questions: see [`crate::Bus::requester`]. Cheap to clone, and for any thread. It keeps publishers for the last 64 topics that
/// it has asked in, for each as many as threads ask there at the same time.
#[derive(Clone, Debug)]
pub struct Requester {
    desk: Arc<Desk>,
    wait: Wait,
}

impl Requester {
    pub(crate) fn open(bus: &Arc<BusInner>) -> Result<Self, RequestError> {
        Ok(Self { desk: Desk::of(bus)?, wait: Wait::default() })
    }

    /// What the thread that reads does while no answer comes. Default: adaptive. One that spins reads by itself, and so has its answer
    /// soonest.
    pub fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Asks `value` in a topic, or of a mailbox (`@name`). Returns as soon as it is published.
    ///
    /// # Errors
    /// [`RequestError::NoReplier`] at once; what publishing refuses; [`RequestError::TooMany`].
    pub fn send<Q: Message, A: Speak>(
        &self,
        topic: &str,
        value: &Q,
        ask: &Ask,
    ) -> Result<Pending<A>, RequestError> {
        self.send_source::<Q, A, _>(topic, &value, ask)
    }

    /// The same with payload bytes, under the type `Q` or, for [`crate::Bytes`], as they are.
    ///
    /// # Errors
    /// As [`Requester::send`].
    pub fn send_bytes<Q: Speak, A: Speak>(
        &self,
        topic: &str,
        payload: &[u8],
        ask: &Ask,
    ) -> Result<Pending<A>, RequestError> {
        self.send_source::<Q, A, _>(topic, &payload, ask)
    }

    fn send_source<Q: Speak, A: Speak, S: Source>(
        &self,
        topic: &str,
        source: &S,
        ask: &Ask,
    ) -> Result<Pending<A>, RequestError> {
        Pending::send::<Q, S>(&self.desk, self.wait, topic, source, ask)
    }

    /// Several requests, of which the one that is answered first comes first.
    pub fn gather<A: Speak>(&self) -> Gather<A> {
        Gather::new(self.desk.clone(), self.wait)
    }

    /// Answers of this process that nobody waited for: they came after the deadline, or were more than were asked for, or their request
    /// was dropped. They are counted when somebody reads the lane.
    pub fn late_count(&self) -> u64 {
        self.desk.late_count()
    }

    /// Requests of this process that wait for answers.
    pub fn in_flight(&self) -> usize {
        self.desk.in_flight()
    }
}
