//! A request on its way, and its answer.

use super::desk::{Basket, Desk, Letter};
use super::target::Target;
use super::{Ask, RequestError};
use crate::arena::Source;
use crate::bus::BusInner;
use crate::metadata::Origin;
use crate::payload::{Message, Speak, access};
use crate::publisher::DEADLINE_DEFAULT;
use crate::sys::clock::monotonic_ns_at;
use crate::wait::Wait;
use bus_core::extension::{MessageId, Reply};
use bus_core::lane::Lane;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Weak};
use std::time::{Duration, Instant};

/// `timeout` from now, or so far off that nobody waits until then.
fn far(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)))
}

/// A request that was sent. Dropped, its answers are late ones.
pub struct Pending<A> {
    desk: Arc<Desk>,
    target: Arc<Target>,
    serial: u32,
    lane: Lane,
    sequence: u64,
    asked: Instant,
    timeout: Duration,
    most: u32,
    taken: u32,
    wait: Wait,
    /// Fingerprint of the type of answer.
    kind: u64,
    seat: Option<Arc<Condvar>>,
    speaks: PhantomData<fn() -> A>,
}

impl<A> std::fmt::Debug for Pending<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("topic", &self.target.core().name())
            .field("sequence", &self.sequence)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl<A> Drop for Pending<A> {
    fn drop(&mut self) {
        self.desk.close_slot(self.serial);
    }
}

impl<A: Speak> Pending<A> {
    pub(super) fn send<Q: Speak, S: Source>(
        desk: &Arc<Desk>,
        wait: Wait,
        topic: &str,
        source: &S,
        ask: &Ask,
    ) -> Result<Self, RequestError> {
        desk.bus().check_usable()?;
        let asked = Instant::now();
        let target = desk.target::<Q>(topic, ask.create_mailbox)?;
        target.check_replier(ask, asked)?;
        let Some(serial) = desk.open_slot(ask.most) else {
            return Err(RequestError::TooMany { topic: target.name(), max: bus_core::limits::REQUESTS_MAX });
        };
        let kind = target.answer_kind::<A>();
        // From here on its place is given back whatever happens.
        let mut this = Self {
            desk: desk.clone(),
            target,
            serial,
            lane: Lane(0),
            sequence: 0,
            asked,
            timeout: ask.timeout,
            most: ask.most,
            taken: 0,
            wait,
            kind,
            seat: None,
            speaks: PhantomData,
        };
        let mut publisher = this.target.publisher()?;
        this.lane = ask.lane.unwrap_or_else(|| publisher.default_lane());
        let timeout_ns = ask.timeout.as_nanos().min(u128::from(u64::MAX / 2)) as u64;
        let mut extension = ask.meta.extension.with_expiry_ns(monotonic_ns_at(asked) + timeout_ns);
        extension.set_reply(Reply { process: desk.bus().me(), flags: Reply::WANTED, serial });
        let deadline = ask.timeout.min(DEADLINE_DEFAULT);
        let published = publisher.publish(this.lane, source, ask.meta.key, extension, deadline);
        this.target.keep(publisher);
        this.sequence = published?;
        desk.published(serial, this.id());
        Ok(this)
    }

    /// The request's identity.
    pub fn id(&self) -> MessageId {
        MessageId { topic_epoch: self.target.core().epoch(), lane: self.lane.0, sequence: self.sequence }
    }

    /// Can no answer come any more, since its time is over or as many have come as were asked for?
    pub fn is_over(&self) -> bool {
        self.taken >= self.most || Instant::now() >= self.deadline()
    }

    fn deadline(&self) -> Instant {
        // A century, which `Instant` has room for.
        let most = Duration::from_secs(100 * 365 * 86_400);
        self.asked + self.timeout.min(most)
    }

    /// The answer, or the first of several, however long it takes within the request's time.
    ///
    /// # Errors
    /// [`RequestError::Timeout`]; [`RequestError::DeadLetter`] as soon as that is known; [`RequestError::Replied`], and an answer of another
    /// type.
    pub fn wait(mut self) -> Result<Answer<A>, RequestError> {
        match self.next()? {
            Some(answer) => Ok(answer),
            None => Err(self.timed_out()),
        }
    }

    /// The next answer. `None` when as many have come as were asked for, or when the request's time is over and one has come.
    ///
    /// # Errors
    /// As [`Pending::wait`]; after an answer that is an error more may come.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Answer<A>>, RequestError> {
        if self.taken >= self.most {
            return Ok(None);
        }
        match self.take_until(self.deadline())? {
            Some(letter) => self.open(letter).map(Some),
            None if self.taken > 0 => Ok(None),
            None => Err(self.timed_out()),
        }
    }

    /// The next answer, if it comes within `timeout`, or is there after it.
    ///
    /// # Errors
    /// As [`Pending::next`].
    pub fn wait_at_most(&mut self, timeout: Duration) -> Result<Option<Answer<A>>, RequestError> {
        if self.taken >= self.most {
            return Ok(None);
        }
        let now = Instant::now();
        let deadline = self.deadline();
        match self.take_until(deadline.min(now.checked_add(timeout).unwrap_or(deadline)))? {
            Some(letter) => self.open(letter).map(Some),
            None if self.taken == 0 && Instant::now() >= deadline => Err(self.timed_out()),
            None => Ok(None),
        }
    }

    /// The next answer, without waiting.
    ///
    /// # Errors
    /// As [`Pending::next`].
    pub fn try_next(&mut self) -> Result<Option<Answer<A>>, RequestError> {
        self.wait_at_most(Duration::ZERO)
    }

    fn take_until(&mut self, deadline: Instant) -> Result<Option<Letter>, RequestError> {
        let Self { desk, target, serial, lane, sequence, wait, seat, .. } = self;
        let serial = *serial;
        desk.bus().check_forked()?;
        if let Some(letter) = desk.lock().take(serial) {
            return Ok(Some(letter));
        }
        let seat = &*seat.get_or_insert_with(Arc::default);
        let done = |state: &mut super::desk::State| {
            let letter = state.take(serial);
            if letter.is_none() {
                state.sit(serial, seat);
            }
            letter
        };
        desk.wait(*wait, deadline, seat, done, || check_fate(target, *lane, *sequence))
    }

    fn open(&mut self, letter: Letter) -> Result<Answer<A>, RequestError> {
        self.taken += 1;
        if letter.is_error {
            let text = String::from_utf8_lossy(letter.payload()).into_owned();
            return Err(RequestError::Replied { topic: self.target.name(), text });
        }
        if self.kind != 0 && letter.kind != self.kind {
            return Err(RequestError::OtherType { topic: self.target.name(), expected: type_name::<A>() });
        }
        Ok(Answer {
            letter,
            topic: self.target.shown().clone(),
            bus: Arc::downgrade(self.desk.bus()),
            speaks: PhantomData,
        })
    }

    fn timed_out(&self) -> RequestError {
        let fate = self.target.fate(self.lane.index(), self.sequence);
        let (groups, got) = (fate.groups, fate.got);
        match fate.into_dead() {
            Some((group, error)) => RequestError::DeadLetter { topic: self.target.name(), group, error },
            None => RequestError::Timeout { topic: self.target.name(), waited: self.timeout, groups, got },
        }
    }
}

fn check_fate(target: &Target, lane: Lane, sequence: u64) -> Result<(), RequestError> {
    match target.fate(lane.index(), sequence).into_dead() {
        Some((group, error)) => Err(RequestError::DeadLetter { topic: target.name(), group, error }),
        None => Ok(()),
    }
}

fn type_name<A: Speak>() -> String {
    A::identity().map_or_else(|| "bytes".into(), |identity| identity.to_string())
}

/// An answer, in memory of its own.
pub struct Answer<A> {
    letter: Letter,
    /// Name of the topic that it was asked in.
    topic: Arc<str>,
    /// An answer that is kept keeps nobody on the bus.
    bus: Weak<BusInner>,
    speaks: PhantomData<fn() -> A>,
}

impl<A> std::fmt::Debug for Answer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("len_bytes", &self.letter.payload().len()).finish_non_exhaustive()
    }
}

impl<A> Answer<A> {
    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.letter.payload()
    }

    /// Who answered, as long as nobody else has got its number and this process takes part.
    pub fn origin(&self) -> Option<Origin> {
        let from = self.letter.from;
        let (pid, service) = self.bus.upgrade()?.participants().describe_last(from)?;
        Some(Origin { participant: from.participant, pid, service })
    }
}

impl<A: Message> Answer<A> {
    /// The value, after its archive has been checked.
    ///
    /// # Errors
    /// [`RequestError::Invalid`].
    pub fn value(&self) -> Result<&A::Archived, RequestError> {
        access::<A>(self.payload()).ok_or_else(|| RequestError::Invalid {
            topic: self.topic.to_string(),
            expected: type_name::<A>(),
            len: self.payload().len(),
        })
    }
}

/// Several requests, of which whichever is answered first comes first: see [`super::Requester::gather`].
pub struct Gather<A> {
    desk: Arc<Desk>,
    wait: Wait,
    basket: Arc<Basket>,
    pending: HashMap<u32, (u64, Pending<A>)>,
    /// When to look for those whose time is over.
    next_deadline: Option<Instant>,
}

impl<A> std::fmt::Debug for Gather<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl<A: Speak> Gather<A> {
    pub(super) fn new(desk: Arc<Desk>, wait: Wait) -> Self {
        Self { desk, wait, basket: Arc::default(), pending: HashMap::new(), next_deadline: None }
    }

    /// Adds a request under a number that comes back with its answers.
    ///
    /// # Errors
    /// It is another bus's, or was asked through another opening of this bus.
    pub fn add(&mut self, number: u64, pending: Pending<A>) -> Result<(), RequestError> {
        if !Arc::ptr_eq(&self.desk, &pending.desk) {
            let why = "it was sent by a requester of another bus; gather it with that one";
            return Err(RequestError::Usage { topic: pending.target.name(), why });
        }
        self.desk.bus().check_forked()?;
        let deadline = pending.deadline();
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |before| before.min(deadline)));
        self.desk.lock().put_into(pending.serial, &self.basket);
        self.pending.insert(pending.serial, (number, pending));
        Ok(())
    }

    /// How many requests still wait for answers.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Does none wait any more?
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next answer to any of them, or the end of one without an answer, with its number; `None` when `timeout` has passed, or none
    /// waits any more.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self, timeout: Duration) -> Option<(u64, Result<Answer<A>, RequestError>)> {
        let until = far(Instant::now(), timeout);
        while let Some(deadline) = self.next_deadline.filter(|_| !self.pending.is_empty()) {
            let basket = &self.basket;
            let seat = basket.seat.clone();
            // Looks at each that waits would cost more than they are worth: the deadline settles those.
            let done = |_: &mut super::desk::State| basket.lock().pop_front();
            let found = self.desk.wait(self.wait, until.min(deadline), &seat, done, || Ok(()));
            match found {
                Ok(Some(serial)) => {
                    if let Some(answered) = self.take(serial) {
                        return Some(answered);
                    }
                }
                Ok(None) => {
                    if let Some(over) = self.take_over() {
                        return Some(over);
                    }
                    if Instant::now() >= until {
                        return None;
                    }
                }
                Err(error) => {
                    // The bus is gone: that is the end of each, one after the other.
                    let serial = *self.pending.keys().next()?;
                    let (number, _) = self.pending.remove(&serial)?;
                    return Some((number, Err(error)));
                }
            }
        }
        None
    }

    /// The next answer to any of them, without waiting.
    pub fn try_next(&mut self) -> Option<(u64, Result<Answer<A>, RequestError>)> {
        self.next(Duration::ZERO)
    }

    fn take(&mut self, serial: u32) -> Option<(u64, Result<Answer<A>, RequestError>)> {
        let (number, pending) = self.pending.get_mut(&serial)?;
        let number = *number;
        let letter = self.desk.lock().take(serial)?;
        let answer = pending.open(letter);
        if pending.taken >= pending.most {
            self.pending.remove(&serial);
        }
        Some((number, answer))
    }

    /// One whose time is over. Those that have been answered end without a word.
    fn take_over(&mut self) -> Option<(u64, Result<Answer<A>, RequestError>)> {
        let now = Instant::now();
        self.pending.retain(|_, (_, pending)| pending.taken == 0 || pending.deadline() > now);
        let over = self.pending.iter().find(|(_, (_, pending))| pending.deadline() <= now);
        let over = over.map(|(serial, _)| *serial);
        if let Some(serial) = over {
            // Its answer may have come in time and lie in the lane.
            self.desk.drain();
            if let Some(answer) = self.take(serial) {
                return Some(answer);
            }
        }
        let over = over.and_then(|serial| self.pending.remove(&serial));
        self.next_deadline = self.pending.values().map(|(_, pending)| pending.deadline()).min();
        let (number, pending) = over?;
        Some((number, Err(pending.timed_out())))
    }
}
