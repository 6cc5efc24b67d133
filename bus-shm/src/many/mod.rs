//! One subscription over many topics, by pattern or by name.
//!
//! Each topic has a subscriber of its own. A topic is *active* while it is read: it is polled, and its publishers do nothing for
//! that. One with nothing to read is let *rest*: its bell is armed, and whoever rings it sets a bit and rings the
//! subscription's own bell ([`bus_core::listener`]). So a message costs one look at one word beside what it costs with a single
//! topic, and sleeping costs nothing, however many topics there are.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod asynchronous;
mod error;
mod interrupt;
mod options;
mod topics;

#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncSubscriber, Messages, OwnedMessage};
pub use error::ManyError;
pub use interrupt::ManyInterrupter;
pub use options::ManyBuilder;

use crate::bus::BusInner;
use crate::error::{AttachError, BusError, NotOwner, ReceiveError};
use crate::payload::Speak;
use crate::subscriber::{Received, Subscriber};
use crate::sys::pipe;
use crate::wait::{self, PARK_CEILING, Wait, Waiter};
use bus_core::holder::HolderWord;
use bus_core::lane::Picker;
use bus_core::limits::{LANES_MAX, LISTENERS_MAX};
use bus_core::listener::Listener;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use topics::Topics;

/// Active topics that are looked at for a message.
const WINDOW: usize = 32;
/// After so many messages it is looked which active topics have had none for as long, and what time it is.
const TURNS: u64 = 256;
/// The same for the time alone, which slow consumers need sooner.
const TURNS_FOR_TIME: u64 = 16;
/// Lets all topics rest.
const ALL: u64 = u64::MAX;
/// Topics that are looked after by system calls whenever a sleep was in vain.
const LOOKED_AFTER: usize = 64;

/// A topic and its subscriber.
struct Slot<T> {
    /// `None` once the topic has failed for good.
    subscriber: Option<Subscriber<T>>,
    name: Arc<str>,
    is_active: bool,
    is_timed: bool,
    /// The turn at which it gave its last message, or became active.
    served: u64,
    /// Its place in the topic's table of listeners.
    place: usize,
}

/// What came of a look at the topic whose turn it is.
enum Step {
    /// A message of this one is in hand.
    Took(usize),
    /// Nothing was handed out, and there may be more.
    LeftOut,
    /// There is nothing.
    Nothing,
}

/// Reads many topics. Belongs to one thread at a time.
pub struct ManySubscriber<T> {
    slots: Vec<Slot<T>>,
    /// Slots that have no topic any more.
    vacant: Vec<usize>,
    active: Vec<usize>,
    /// Topics that rest, and where something is due at some time.
    timed: Vec<usize>,
    topics: Topics<T>,
    reports: VecDeque<ManyError>,
    picker: Picker,
    waiter: Waiter,
    turn: u64,
    /// Where the next window of active topics begins.
    window: usize,
    /// The turn of the last message before it last went to sleep.
    rested_at: u64,
    /// When all topics were last looked at, and which is looked after next.
    scanned: Instant,
    look_at: usize,
    /// Is it a member of a shared group whose members may not be silent for ever?
    is_watching: bool,
    /// The topic of a message that was taken and is not settled.
    in_hand: Option<usize>,
    pipe: Option<Arc<OwnedFd>>,
    /// Set from another thread, for good: wait for nothing. Made when somebody asks for it.
    interrupted: Option<Arc<AtomicBool>>,
    entry: u16,
    held: HolderWord,
    listener: Listener<'static>,
    /// Owns the mapping of `listener`.
    bus: Arc<BusInner>,
}

/// A message and the topic that it came from. What [`Received`] tells of a message can be asked of it.
#[derive(Debug)]
pub struct Incoming<'m, T> {
    topic: &'m str,
    message: Received<'m, T>,
}

impl<'m, T> Incoming<'m, T> {
    pub(crate) fn new(topic: &'m str, message: Received<'m, T>) -> Self {
        Self { topic, message }
    }

    /// Name of its topic.
    pub fn topic(&self) -> &str {
        self.topic
    }

    /// The message without its topic.
    pub fn into_message(self) -> Received<'m, T> {
        self.message
    }

    /// See [`Received::ack`].
    ///
    /// # Errors
    /// As there.
    pub fn ack(self) -> Result<(), NotOwner> {
        self.message.ack()
    }

    /// See [`Received::retry`].
    ///
    /// # Errors
    /// As there.
    pub fn retry(self, error: &str) -> Result<(), ReceiveError> {
        self.message.retry(error)
    }

    /// See [`Received::reject`].
    ///
    /// # Errors
    /// As there.
    pub fn reject(self, error: &str) -> Result<(), ReceiveError> {
        self.message.reject(error)
    }
}

impl<'m, T> std::ops::Deref for Incoming<'m, T> {
    type Target = Received<'m, T>;

    fn deref(&self) -> &Self::Target {
        &self.message
    }
}

impl<T> std::ops::DerefMut for Incoming<'_, T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.message
    }
}

impl<T> std::fmt::Debug for ManySubscriber<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManySubscriber")
            .field("topics", &self.slots.len())
            .field("active", &self.active.len())
            .finish_non_exhaustive()
    }
}

impl<T: Speak> ManySubscriber<T> {
    fn new(bus: Arc<BusInner>, options: ManyBuilder<T>) -> Result<Self, ManyError> {
        bus.check_usable()?;
        let listeners = match bus.listeners() {
            Some(listeners) => listeners,
            // Again, for the error.
            None => {
                return Err(bus
                    .attach_listeners()
                    .map(|_| BusError::Closed { bus: bus.dir().name().into() })?
                    .into());
            }
        };
        let limit = || ManyError::ListenerLimit { bus: bus.dir().name().into(), max: LISTENERS_MAX };
        let (entry, held) = listeners.claim(bus.me())?.ok_or_else(limit)?;
        // SAFETY: the mapping belongs to `bus`, which is kept beside the view.
        let Some(listener) = (unsafe { listeners.held(entry) }) else { return Err(limit()) };
        let mut this = Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            active: Vec::new(),
            timed: Vec::new(),
            reports: VecDeque::new(),
            picker: Picker::new(LANES_MAX, options.guard),
            waiter: Waiter::new(options.wait, bus.barrier(), bus.me().participant).with_long_looks(),
            topics: Topics::new(options),
            turn: 0,
            window: 0,
            rested_at: 0,
            scanned: Instant::now(),
            look_at: 0,
            is_watching: false,
            in_hand: None,
            pipe: None,
            interrupted: None,
            entry,
            held,
            listener,
            bus,
        };
        this.look_for_topics(false);
        Ok(this)
    }

    /// The next message of any topic, however long it takes: urgent lanes first, whatever the topic, and topics in turn within a
    /// lane.
    ///
    /// # Errors
    /// A topic could not be joined, which is told once, or one failed; the others go on at the next call.
    pub fn receive(&mut self) -> Result<Incoming<'_, T>, ManyError> {
        loop {
            if let Some(index) = self.next(None)? {
                return Ok(self.incoming(index));
            }
            if self.is_interrupted() {
                return Err(self.interrupted());
            }
        }
    }

    /// The next message, if one comes within `timeout`.
    ///
    /// # Errors
    /// See [`ManySubscriber::receive`].
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Incoming<'_, T>>, ManyError> {
        let deadline = Instant::now().checked_add(timeout);
        Ok(self.next(deadline)?.map(|index| self.incoming(index)))
    }

    /// The next message, without waiting.
    ///
    /// # Errors
    /// See [`ManySubscriber::receive`].
    pub fn try_receive(&mut self) -> Result<Option<Incoming<'_, T>>, ManyError> {
        Ok(self.poll()?.map(|index| self.incoming(index)))
    }

    /// The subscriber of the topic whose turn it is, once something may have come there, within `timeout`; nothing has been taken yet.
    /// For batches of one topic.
    ///
    /// # Errors
    /// See [`ManySubscriber::receive`].
    pub fn ready(&mut self, timeout: Duration) -> Result<Option<&mut Subscriber<T>>, ManyError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(index) = self.find()? {
                return Ok(self.slots[index].subscriber.as_mut());
            }
            if self.is_interrupted() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
            self.wait(deadline)?;
        }
    }

    /// The first report about a topic that `is_meant`, or whose group this process has already; taken out of those that are to come.
    pub(crate) fn take_report(&mut self, is_meant: impl Fn(&str) -> bool) -> Option<ManyError> {
        let of_topic = |report: &ManyError| match report {
            ManyError::Join { source: AttachError::GroupBusy { pid, .. }, .. }
                if *pid == std::process::id() =>
            {
                true
            }
            ManyError::Join { topic, .. }
            | ManyError::TopicLimit { topic, .. }
            | ManyError::TopicListeners { topic, .. } => is_meant(topic),
            _ => false,
        };
        let at = self.reports.iter().position(of_topic)?;
        self.reports.remove(at)
    }

    /// How many topics it reads.
    pub fn topic_count(&self) -> usize {
        self.slots.iter().filter(|slot| slot.subscriber.is_some()).count()
    }

    /// Names of the topics that it reads.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().filter(|slot| slot.subscriber.is_some()).map(|slot| &*slot.name)
    }

    /// How many topics are polled at the moment, since something has come there lately.
    pub fn active_count(&self) -> usize {
        self.active.len()
    }

    /// A run of messages that a topic lost, and that has not been asked for yet: see [`Subscriber::take_missed`].
    pub fn take_missed(&mut self) -> Option<(Arc<str>, crate::Lane, u64, u64)> {
        self.slots.iter_mut().find_map(|slot| {
            let (lane, from, until) = slot.subscriber.as_mut()?.take_missed()?;
            Some((slot.name.clone(), lane, from, until))
        })
    }

    /// The subscriber of one topic, for what concerns that topic alone. Messages may be received through it as well.
    pub fn subscriber(&mut self, topic: &str) -> Option<&mut Subscriber<T>> {
        let slot = self.slots.iter_mut().find(|slot| &*slot.name == topic && slot.subscriber.is_some());
        slot?.subscriber.as_mut()
    }

    /// A descriptor that becomes readable when something may have come: for `poll`, epoll and the loops made of them. Before each
    /// wait comes [`ManySubscriber::prepare_to_wait`], after it [`ManySubscriber::drain_wakeups`] and then
    /// [`ManySubscriber::try_receive`] until there is nothing. Who waits without limit relies on the supervisor to tell of a
    /// publisher that died just before it rang; [`ManySubscriber::wait_at_most`] says when to look at the latest.
    ///
    /// # Errors
    /// The pipe behind it could not be made.
    pub fn descriptor(&mut self) -> Result<BorrowedFd<'_>, ManyError> {
        self.open_pipe()?;
        match &self.pipe {
            Some(pipe) => Ok(pipe.as_fd()),
            None => unreachable!("it was opened above"),
        }
    }

    fn open_pipe(&mut self) -> Result<Arc<OwnedFd>, ManyError> {
        if let Some(pipe) = &self.pipe {
            return Ok(pipe.clone());
        }
        self.check()?;
        let Some(listeners) = self.bus.listeners() else { unreachable!("the entry is in it") };
        let path = listeners.pipe(self.entry, self.held.tag);
        pipe::create(&path)?;
        // One that cannot be opened now, for lack of descriptors, is made anew later.
        let opened = pipe::open(&path).inspect_err(|_| _ = std::fs::remove_file(&path))?;
        let opened = Arc::new(opened);
        listeners.set_pipe(self.entry);
        self.pipe = Some(opened.clone());
        Ok(opened)
    }

    /// Makes sure that the descriptor becomes readable when something comes. False, and no need to wait, if something is there
    /// already.
    pub fn prepare_to_wait(&mut self) -> bool {
        if self.bus.is_forked() || !self.reports.is_empty() {
            return false;
        }
        if let Err(error) = self.keep_house() {
            self.reports.push_back(error);
            return false;
        }
        self.listener.bell().arm();
        self.let_rest(ALL);
        if self.is_ready() {
            return false;
        }
        // After the fence of the step above: a bus that is closed later rings. Whoever has been told so before is told again.
        if let Err(error) = self.check() {
            self.reports.push_back(error.into());
            return false;
        }
        let is_due = self.is_due();
        if is_due {
            self.activate_due();
        }
        !is_due
    }

    /// Takes out of the descriptor what made it readable.
    pub fn drain_wakeups(&mut self) {
        if let Some(pipe) = &self.pipe {
            pipe::drain(pipe);
        }
    }

    /// How long to wait on the descriptor at most: until a message is to be tried again, or for a second.
    pub fn wait_at_most(&mut self) -> Duration {
        if self.bus.is_forked() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        self.due().map_or(PARK_CEILING, |due| due.saturating_duration_since(now).min(PARK_CEILING))
    }

    fn check(&self) -> Result<(), BusError> {
        self.bus.check_usable()
    }

    fn incoming(&mut self, index: usize) -> Incoming<'_, T> {
        let Slot { subscriber: Some(subscriber), name, .. } = &mut self.slots[index] else {
            unreachable!("a message was just taken there")
        };
        Incoming { topic: name, message: subscriber.in_hand() }
    }

    /// What is made of the message that was taken last, which stays in hand.
    #[cfg(feature = "tokio")]
    fn copy_in_hand<R>(&mut self, index: usize, copy: impl FnOnce(Arc<str>, &Received<'_, T>) -> R) -> R {
        let Slot { subscriber: Some(subscriber), name, .. } = &mut self.slots[index] else {
            unreachable!("a message was just taken there")
        };
        subscriber.look_in_hand(|message| copy(name.clone(), message))
    }

    /// Takes the next message, waiting until `deadline`; which topic it is of.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Option<usize>, ManyError> {
        loop {
            if let Some(index) = self.poll()? {
                return Ok(Some(index));
            }
            if self.is_interrupted() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
            self.wait(deadline)?;
        }
    }

    /// The topic whose turn it is, if something may have come in any.
    fn find(&mut self) -> Result<Option<usize>, ManyError> {
        if self.bus.is_forked() {
            self.check()?;
        }
        if self.listener.has_news() {
            self.take_news()?;
        }
        if self.topics.is_list_due() {
            self.look_for_topics(true);
        }
        self.turn += 1;
        if self.turn.is_multiple_of(TURNS_FOR_TIME) {
            self.keep_house()?;
        }
        if let Some(report) = self.reports.pop_front() {
            return Err(report);
        }
        let found = self.pick();
        if let Some(index) = found {
            self.slots[index].served = self.turn;
        }
        Ok(found)
    }

    /// Takes the next message, if one is there; which topic it is of.
    fn poll(&mut self) -> Result<Option<usize>, ManyError> {
        loop {
            match self.step()? {
                Step::Took(index) => return Ok(Some(index)),
                Step::LeftOut => {}
                Step::Nothing => return Ok(None),
            }
        }
    }

    /// Tries to take the next message, from one topic.
    fn step(&mut self) -> Result<Step, ManyError> {
        let Some(index) = self.find()? else { return Ok(Step::Nothing) };
        let Some(subscriber) = &mut self.slots[index].subscriber else { return Ok(Step::LeftOut) };
        match subscriber.take_in_hand() {
            Ok(true) => Ok(Step::Took(index)),
            Ok(false) => Ok(Step::LeftOut),
            Err(error) => Err(self.failed(index, error)),
        }
    }

    /// A topic failed. One that is another process's now is given up, and tried again later.
    #[cold]
    fn failed(&mut self, index: usize, error: ReceiveError) -> ManyError {
        if matches!(error, ReceiveError::Fenced { .. }) {
            let slot = &mut self.slots[index];
            if let Some(subscriber) = slot.subscriber.take()
                && let Some(table) = subscriber.core().listener_table()
            {
                table.leave(slot.place, topics::ticket(self.entry, self.held, index));
            }
            slot.is_active = false;
            self.active.retain(|&active| active != index);
            self.timed.retain(|&timed| timed != index);
            self.vacant.push(index);
            self.topics.give_up(self.slots[index].name.to_string());
        }
        error.into()
    }

    /// The topic of the next message: of those looked at, the most urgent, and among equals the one that has waited longest.
    #[inline]
    fn pick(&mut self) -> Option<usize> {
        let Self { slots, active, picker, window, .. } = self;
        let mut looked = 0;
        while looked < active.len() {
            let count = WINDOW.min(active.len() - looked);
            let mut best: [Option<(u64, usize)>; LANES_MAX] = [None; LANES_MAX];
            for step in 0..count {
                let index = active[(*window + step) % active.len()];
                let Slot { subscriber: Some(subscriber), served, .. } = &mut slots[index] else { continue };
                if let Some(urgency) = subscriber.urgency() {
                    let best = &mut best[urgency.min(LANES_MAX - 1)];
                    if best.is_none_or(|(since, _)| *served < since) {
                        *best = Some((*served, index));
                    }
                }
            }
            looked += count;
            if active.len() > WINDOW {
                *window = (*window + count) % active.len();
            }
            let waiting =
                (0..LANES_MAX).fold(0, |bits, urgency| bits | u32::from(best[urgency].is_some()) << urgency);
            if let Some(urgency) = picker.pick_of(waiting) {
                return best[urgency].map(|(_, index)| index);
            }
        }
        None
    }

    fn is_ready(&mut self) -> bool {
        self.listener.has_news() || self.is_interrupted() || self.has_message()
    }

    fn has_message(&mut self) -> bool {
        let Self { slots, active, .. } = self;
        active.iter().any(|&index| {
            slots[index].subscriber.as_mut().is_some_and(|subscriber| subscriber.urgency().is_some())
        })
    }

    fn activate(&mut self, index: usize) {
        // A bit may be one of a topic that is read already, or of a former holder of the entry.
        if let Some(slot) =
            self.slots.get_mut(index).filter(|slot| !slot.is_active && slot.subscriber.is_some())
        {
            slot.is_active = true;
            slot.served = self.turn;
            self.active.push(index);
        }
    }

    /// Moves the topics that were rung from resting to active.
    #[cold]
    fn take_news(&mut self) -> Result<(), ManyError> {
        let mut found = Vec::new();
        let has_topics = self.listener.take(|index| found.push(index));
        for index in found {
            self.activate(index);
        }
        if has_topics {
            self.check()?;
            self.topics.expect_topics();
        }
        Ok(())
    }

    /// Lets those active topics rest that have nothing, and had their last message before this turn.
    #[cold]
    fn let_rest(&mut self, before: u64) {
        let Self { slots, active, timed, .. } = self;
        let mut needs_fence = before == ALL;
        for &index in active.iter() {
            let slot = &mut slots[index];
            let Some(subscriber) = &mut slot.subscriber else { continue };
            if slot.served < before && subscriber.urgency().is_none() {
                subscriber.arm();
                slot.is_active = false;
                needs_fence = true;
            }
        }
        // One for all of them, and for the own bell.
        if needs_fence {
            wait::sleeper_fence(self.bus.barrier());
        }
        active.retain(|&index| {
            let slot = &mut slots[index];
            let Some(subscriber) = &mut slot.subscriber else { return false };
            slot.is_active |= subscriber.urgency().is_some();
            if !slot.is_active && !slot.is_timed && subscriber.due().is_some() {
                slot.is_timed = true;
                timed.push(index);
            }
            slot.is_active
        });
    }

    /// When all topics are to be looked at although nobody rings: while members of shared groups have to be watched, or topics
    /// could not be joined. Otherwise nothing needs it as long as there is a supervisor.
    fn scan_at(&self) -> Option<Instant> {
        (self.is_watching || self.topics.has_failed()).then(|| self.scanned + PARK_CEILING)
    }

    /// When something is due in a topic that rests, or all are to be looked at.
    fn due(&mut self) -> Option<Instant> {
        let scan_at = self.scan_at();
        let Self { slots, timed, topics, .. } = self;
        let mut first = [topics.list_at(), scan_at].into_iter().flatten().min();
        timed.retain(|&index| {
            let slot = &mut slots[index];
            let due = slot.subscriber.as_ref().and_then(Subscriber::due);
            first = [first, due].into_iter().flatten().min();
            slot.is_timed = due.is_some();
            slot.is_timed
        });
        first
    }

    /// Has that moment come?
    fn is_due(&self) -> bool {
        self.topics.is_list_due()
            || self.scan_at().is_some_and(|at| at <= Instant::now())
            || self.timed.iter().any(|&index| is_topic_due(&self.slots[index]))
    }

    /// Looks at the topics where something is due, which are read from now on. Each look moves that moment.
    fn activate_due(&mut self) {
        for at in 0..self.timed.len() {
            let index = self.timed[at];
            if self.observe_due(index) {
                self.activate(index);
            }
        }
    }

    /// Is something due in this topic? Then claims of others that have expired are taken back.
    fn observe_due(&mut self, index: usize) -> bool {
        let is_due = is_topic_due(&self.slots[index]);
        if is_due && let Some(subscriber) = &mut self.slots[index].subscriber {
            subscriber.observe();
        }
        is_due
    }

    /// Now and then between messages, and after each sleep.
    #[cold]
    fn keep_house(&mut self) -> Result<(), ManyError> {
        let now = Instant::now();
        self.activate_due();
        if self.turn.is_multiple_of(TURNS) && self.active.len() > 1 {
            self.let_rest(self.turn.saturating_sub(TURNS));
        }
        if now.duration_since(self.scanned) >= PARK_CEILING {
            self.scanned = now;
            self.scan()?;
        }
        Ok(())
    }

    /// Looks at all topics: a publisher may have died between its publication and its ring, and the supervisor too. System calls
    /// are made for some topics only, in turn.
    fn scan(&mut self) -> Result<(), ManyError> {
        self.check()?;
        for _ in 0..LOOKED_AFTER.min(self.slots.len()) {
            self.look_at = (self.look_at + 1) % self.slots.len();
            let index = self.look_at;
            if let Some(subscriber) = &mut self.slots[index].subscriber
                && let Err(error) = subscriber.look_around()
            {
                let report = self.failed(index, error);
                self.reports.push_back(report);
            }
        }
        // After that: where a claim of another member was seen, it is known now when that expires.
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if !slot.is_active
                && let Some(subscriber) = &mut slot.subscriber
                && (subscriber.urgency().is_some() || subscriber.due().is_some())
            {
                self.activate(index);
            }
        }
        self.retry_topics();
        self.topics.expect_topics();
        Ok(())
    }

    /// Waits until something may have come, for a second at most.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), ManyError> {
        if self.waiter.mode == Wait::Spin || self.active.len() <= WINDOW {
            let Self { waiter, listener, slots, active, timed, bus, interrupted, .. } = self;
            // One that never sleeps lets few topics rest: claims that expire are looked for in those that are read, too.
            let is_spinning = waiter.mode == Wait::Spin;
            let ready = || {
                listener.has_news()
                    || interrupted.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
                    || active.iter().any(|&index| {
                        let is_urgent = |one: &mut Subscriber<T>| one.urgency().is_some();
                        slots[index].subscriber.as_mut().is_some_and(is_urgent)
                            || is_spinning && is_topic_due(&slots[index])
                    })
                    || is_spinning && timed.iter().any(|&index| is_topic_due(&slots[index]))
            };
            if waiter.spin(bus.spin(), deadline, ready) {
                if is_spinning {
                    self.activate_due();
                    for at in 0..self.active.len() {
                        self.observe_due(self.active[at]);
                    }
                }
                return Ok(());
            }
        }
        if self.waiter.mode != Wait::Spin {
            let bell = self.listener.bell();
            // Those that were served since the last sleep are active still, unless they were let rest for others that were.
            let served = self.active.iter().map(|&index| self.slots[index].served).max();
            let slept_on = bell.arm();
            self.let_rest(ALL);
            if self.is_ready() {
                return Ok(());
            }
            if let Some(served) = served
                && std::mem::replace(&mut self.rested_at, served) != served
            {
                self.bus.beat();
            }
            let now = Instant::now();
            let until = [deadline, self.due(), self.scanned.checked_add(PARK_CEILING)];
            let most = until
                .into_iter()
                .flatten()
                .min()
                .map_or(PARK_CEILING, |until| until.saturating_duration_since(now));
            if !most.is_zero() {
                wait::sleep_on(bell, slept_on, most.min(PARK_CEILING));
                self.waiter.slept(now);
            }
        }
        self.keep_house()
    }
}

/// Has the moment come at which something is to be done in this topic although nobody publishes there?
fn is_topic_due<T>(slot: &Slot<T>) -> bool {
    slot.subscriber.as_ref().is_some_and(Subscriber::is_due)
}

impl<T> Drop for ManySubscriber<T> {
    fn drop(&mut self) {
        if self.bus.is_forked() {
            return;
        }
        if let Some(subscriber) = self.in_hand.and_then(|index| self.slots[index].subscriber.as_mut()) {
            subscriber.release_in_hand();
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(table) = slot.subscriber.as_ref().and_then(|one| one.core().listener_table()) {
                table.leave(slot.place, topics::ticket(self.entry, self.held, index));
            }
        }
        if let Some(listeners) = self.bus.listeners() {
            listeners.release(self.entry, self.held);
        }
    }
}
