//! Where a process is answered: its reply lane, the requests that wait, and the threads that wait for them.

use super::RequestError;
use super::target::Target;
use crate::bus::BusInner;
use crate::error::{AttachError, ReceiveError};
use crate::payload::{Bytes, Speak};
use crate::subscriber::{Received, Stall, StallPolicy, Subscriber};
use crate::topic::TopicBuilder;
use crate::wait::Wait;
use bus_core::extension::{MessageId, Reply};
use bus_core::holder::Holder;
use bus_core::limits::{REPLY_PRODUCERS_MAX, REQUESTS_MAX};
use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The group that keeps answers until they are read.
const GROUP: &str = "requester";
/// After so long in vain a waiting thread looks whether an answer can still come.
const LOOK: Duration = Duration::from_millis(100);
/// How long a desk that is being closed by another thread is waited for.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
/// Between so many requests somebody who only sends takes out what has come.
const DRAIN_EVERY: u32 = 256;
/// Bits of a serial that name the request's place.
const PLACE_BITS: u32 = REQUESTS_MAX.trailing_zeros();

const _: () = assert!(REQUESTS_MAX.is_power_of_two());

/// An answer as it came, in memory of its own.
#[derive(Debug)]
pub(super) struct Letter {
    words: Vec<u128>,
    len_bytes: usize,
    /// Fingerprint of its type; 0 for bytes.
    pub(super) kind: u64,
    pub(super) is_error: bool,
    /// Who answers.
    pub(super) from: Holder,
    cause: Option<MessageId>,
}

impl Letter {
    fn of(message: &Received<'_, Bytes>, reply: Reply) -> Self {
        let payload = message.payload();
        let mut words = vec![0_u128; payload.len().div_ceil(16)];
        bytemuck::cast_slice_mut::<u128, u8>(&mut words)[..payload.len()].copy_from_slice(payload);
        Self {
            words,
            len_bytes: payload.len(),
            kind: message.metadata().key_hash().unwrap_or(0),
            is_error: reply.flags & Reply::ERROR != 0,
            from: reply.process,
            cause: message.metadata().cause(),
        }
    }

    /// Its payload, aligned for archives.
    pub(super) fn payload(&self) -> &[u8] {
        &bytemuck::cast_slice::<u128, u8>(&self.words)[..self.len_bytes]
    }
}

/// Serials of requests that have answers, for one that waits for several.
#[derive(Debug, Default)]
pub(super) struct Basket {
    pub(super) ready: Mutex<VecDeque<u32>>,
    pub(super) seat: Arc<Condvar>,
}

impl Basket {
    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<u32>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits.
#[derive(Debug, Default)]
struct Slot {
    /// The upper bits of its serial; the next request in this place has others.
    generation: u32,
    is_open: bool,
    most: u32,
    got: u32,
    /// The request's identity, once it is published.
    id: Option<MessageId>,
    letters: VecDeque<Letter>,
    /// Who sleeps for it.
    seat: Option<Arc<Condvar>>,
    basket: Option<Arc<Basket>>,
}

#[derive(Default)]
pub(super) struct State {
    /// `None` while a thread reads.
    reader: Option<Box<Subscriber<Bytes>>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// What the generations of places begin with.
    first_generation: u32,
    /// Counts requests.
    sent: u32,
    /// Threads that sleep, the one that sleeps longest first.
    parked: VecDeque<Arc<Condvar>>,
}

/// The request that has this serial, if it still waits.
fn slot_of(slots: &mut [Slot], serial: u32) -> Option<&mut Slot> {
    let slot = slots.get_mut((serial % REQUESTS_MAX) as usize)?;
    (slot.is_open && slot.generation == serial >> PLACE_BITS).then_some(slot)
}

impl State {
    fn slot(&mut self, serial: u32) -> Option<&mut Slot> {
        slot_of(&mut self.slots, serial)
    }

    fn open(&mut self, most: u32) -> Option<u32> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.slots.len() < REQUESTS_MAX as usize => {
                self.slots.push(Slot { generation: self.first_generation, ..Slot::default() });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let slot = &mut self.slots[place as usize];
        slot.generation = (slot.generation + 1) & (u32::MAX >> PLACE_BITS);
        (slot.is_open, slot.most, slot.got) = (true, most, 0);
        Some(slot.generation << PLACE_BITS | place)
    }

    /// Frees the place of a request. How many of its answers nobody has taken.
    fn close(&mut self, serial: u32) -> usize {
        let Some(slot) = self.slot(serial) else { return 0 };
        let untaken = slot.letters.len();
        *slot = Slot { generation: slot.generation, ..Slot::default() };
        self.free.push(serial % REQUESTS_MAX);
        untaken
    }

    /// False if nobody waits for it.
    fn deliver(&mut self, serial: u32, letter: Letter) -> bool {
        let Self { slots, parked, .. } = self;
        let Some(slot) = slot_of(slots, serial) else { return false };
        if slot.got >= slot.most || slot.id.is_some_and(|id| letter.cause != Some(id)) {
            return false;
        }
        slot.got += 1;
        slot.letters.push_back(letter);
        // `notify_one` asks the kernel even if nobody sleeps.
        let wake = |seat: &Arc<Condvar>| {
            if parked.iter().any(|other| Arc::ptr_eq(other, seat)) {
                seat.notify_one();
            }
        };
        if let Some(basket) = &slot.basket {
            basket.lock().push_back(serial);
            wake(&basket.seat);
        }
        slot.seat.iter().for_each(wake);
        true
    }

    /// The next answer to a request.
    pub(super) fn take(&mut self, serial: u32) -> Option<Letter> {
        self.slot(serial)?.letters.pop_front()
    }

    /// Who sleeps for a request from now on.
    pub(super) fn sit(&mut self, serial: u32, seat: &Arc<Condvar>) {
        if let Some(slot) = self.slot(serial)
            && slot.seat.is_none()
        {
            slot.seat = Some(seat.clone());
        }
    }

    /// Where the answers to a request are announced besides. Those that have come already are.
    pub(super) fn put_into(&mut self, serial: u32, basket: &Arc<Basket>) {
        if let Some(slot) = self.slot(serial) {
            basket.lock().extend(std::iter::repeat_n(serial, slot.letters.len()));
            slot.basket = Some(basket.clone());
        }
    }

    /// Somebody leaves: if nobody reads, the one that sleeps longest is to.
    fn pass_on(&self) {
        if self.reader.is_some()
            && let Some(seat) = self.parked.front()
        {
            seat.notify_one();
        }
    }
}

/// Topics and types that a process keeps to ask in; the one that was not asked in for longest makes room.
const TARGETS_MAX: usize = 64;

/// A target, the type of its requests, and when it was last asked for.
struct Known {
    kind: TypeId,
    target: Arc<Target>,
    used: u64,
}

/// Topics that were asked in, each once a type.
#[derive(Default)]
struct Targets {
    by_topic: HashMap<String, Vec<Known>>,
    used: u64,
}

impl Targets {
    fn find(&mut self, topic: &str, kind: TypeId) -> Option<Arc<Target>> {
        self.used += 1;
        let known = self.by_topic.get_mut(topic)?.iter_mut().find(|known| known.kind == kind)?;
        known.used = self.used;
        Some(known.target.clone())
    }

    /// Keeps one, and returns the one that makes room for it. Requests that wait for answers there go on having it.
    fn keep(&mut self, topic: &str, kind: TypeId, target: Arc<Target>) -> Option<Arc<Target>> {
        let all =
            || self.by_topic.iter().flat_map(|(topic, all)| all.iter().map(move |known| (topic, known)));
        let oldest = match all().count() >= TARGETS_MAX {
            true => {
                all().min_by_key(|(_, known)| known.used).map(|(topic, known)| (topic.clone(), known.kind))
            }
            false => None,
        };
        let gone = oldest.and_then(|(topic, kind)| {
            let of_topic = self.by_topic.get_mut(&topic)?;
            let at = of_topic.iter().position(|known| known.kind == kind)?;
            let gone = of_topic.swap_remove(at).target;
            if of_topic.is_empty() {
                self.by_topic.remove(&topic);
            }
            Some(gone)
        });
        let used = self.used;
        self.by_topic.entry(topic.to_owned()).or_default().push(Known { kind, target, used });
        gone
    }
}

/// Where a process is answered.
pub(crate) struct Desk {
    bus: Arc<BusInner>,
    state: Mutex<State>,
    late: AtomicU64,
    targets: Mutex<Targets>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("bus", &self.bus.dir().name()).finish_non_exhaustive()
    }
}

/// The reader in the hands of one thread; it goes back whatever happens.
struct Lead<'d> {
    desk: &'d Desk,
    reader: Option<Box<Subscriber<Bytes>>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        state.reader = self.reader.take();
        state.pass_on();
    }
}

impl Desk {
    /// The desk of this process, opened if nobody asks yet.
    pub(crate) fn of(bus: &Arc<BusInner>) -> Result<Arc<Self>, RequestError> {
        bus.check_usable()?;
        let mut known = bus.lock_desk();
        if let Some(desk) = known.upgrade() {
            return Ok(desk);
        }
        let desk = Arc::new(Self::open(bus)?);
        *known = Arc::downgrade(&desk);
        Ok(desk)
    }

    fn open(bus: &Arc<BusInner>) -> Result<Self, RequestError> {
        let topic = TopicBuilder::<Bytes>::new(bus.clone(), &bus.reply_topic())
            .capacity(REQUESTS_MAX)
            .lanes(1)
            .producers(REPLY_PRODUCERS_MAX)
            .breakers(false)
            .with_group(GROUP)
            .small_arenas()
            .for_the_bus()
            .open()?;
        let begun = Instant::now();
        let reader = loop {
            // A requester that does not read is its own business.
            let never = Stall { after: None, lag: None, policy: StallPolicy::Report };
            match topic.group(GROUP).stall(never).join() {
                // The last one who asked is about to leave.
                Err(AttachError::GroupBusy { .. }) if begun.elapsed() < OPEN_PATIENCE => {
                    std::thread::yield_now();
                }
                joined => break joined?,
            }
        };
        // Serials of another desk than those of the one before, whose late answers may still come.
        static DESKS: AtomicU32 = AtomicU32::new(0);
        let number = DESKS.fetch_add(1, Ordering::Relaxed);
        let first_generation = number.wrapping_mul(0x9e37_79b1) >> PLACE_BITS;
        let state = State { reader: Some(Box::new(reader)), first_generation, ..State::default() };
        Ok(Self {
            bus: bus.clone(),
            state: Mutex::new(state),
            late: AtomicU64::new(0),
            targets: Mutex::default(),
        })
    }

    pub(super) fn bus(&self) -> &Arc<BusInner> {
        &self.bus
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn late_count(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        let state = self.lock();
        state.slots.len() - state.free.len()
    }

    /// Where requests of type `Q` in `topic` go. A mailbox that is missing is made if `create`.
    pub(super) fn target<Q: Speak>(&self, topic: &str, create: bool) -> Result<Arc<Target>, RequestError> {
        let lock = || self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = TypeId::of::<Q>();
        if let Some(target) = lock().find(topic, kind) {
            return Ok(target);
        }
        // Not under the lock: it may have to ask the supervisor. Two threads that do this make one too many. What makes room goes
        // behind it too, since its publishers leave their places.
        let target = Arc::new(Target::open::<Q>(&self.bus, topic, create)?);
        let gone = lock().keep(topic, kind, target.clone());
        drop(gone);
        Ok(target)
    }

    /// A place for a request. Its serial is never that of another request of this process that could still be answered.
    pub(super) fn open_slot(&self, most: u32) -> Option<u32> {
        let mut state = self.lock();
        state.sent = state.sent.wrapping_add(1);
        let is_due = state.sent.is_multiple_of(DRAIN_EVERY);
        let opened = state.open(most);
        drop(state);
        if is_due {
            self.drain();
        }
        opened
    }

    /// The request has been published: answers to any other are not its answers.
    pub(super) fn published(&self, serial: u32, id: MessageId) {
        let mut state = self.lock();
        let Some(slot) = state.slot(serial) else { return };
        slot.id = Some(id);
        if !slot.letters.is_empty() {
            let before = slot.letters.len();
            slot.letters.retain(|letter| letter.cause == Some(id));
            let strays = before - slot.letters.len();
            slot.got -= strays as u32;
            self.late.fetch_add(strays as u64, Ordering::Relaxed);
        }
    }

    /// Nobody waits for this request any more.
    pub(super) fn close_slot(&self, serial: u32) {
        if self.bus.is_forked() {
            return;
        }
        let untaken = self.lock().close(serial);
        if untaken > 0 {
            self.late.fetch_add(untaken as u64, Ordering::Relaxed);
        }
    }

    /// Takes the answers out of the lane that are there, unless a thread does so anyway. Never waits.
    pub(super) fn drain(&self) {
        let Some(reader) = self.lock().reader.take() else { return };
        let mut lead = Lead { desk: self, reader: Some(reader) };
        while let Some(reader) = &mut lead.reader {
            match reader.try_receive() {
                Ok(Some(message)) => self.sort(message, &mut |_| None::<()>),
                _ => return,
            };
        }
    }

    /// Gives an answer to who waits for it, and asks `done` whether that was enough.
    fn sort<R>(
        &self,
        message: Received<'_, Bytes>,
        done: &mut impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        let reply = message.extension().and_then(|extension| extension.reply());
        let letter = reply
            .filter(|reply| !reply.is_request())
            .map(|reply| (reply.serial, Letter::of(&message, reply)));
        // It lies in memory of this process now. A copy more after a death would be nobody's.
        let _ = message.ack();
        let mut state = self.lock();
        if !letter.is_some_and(|(serial, letter)| state.deliver(serial, letter)) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        done(&mut state)
    }

    /// Waits until `done` has found something, at most until `deadline`. `look` is called whenever a while has passed in vain, and may end
    /// the wait with an error.
    pub(super) fn wait<R>(
        &self,
        mode: Wait,
        deadline: Instant,
        seat: &Arc<Condvar>,
        mut done: impl FnMut(&mut State) -> Option<R>,
        mut look: impl FnMut() -> Result<(), RequestError>,
    ) -> Result<Option<R>, RequestError> {
        // First of all: a forked child may have the lock in a state that nobody ends.
        self.bus.check_forked()?;
        let mut state = self.lock();
        loop {
            if let Some(found) = done(&mut state) {
                state.pass_on();
                return Ok(Some(found));
            }
            if let Some(reader) = state.reader.take() {
                drop(state);
                return self.read(reader, mode, deadline, &mut done, &mut look);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state.parked.push_back(seat.clone());
            let (woken, timeout) =
                seat.wait_timeout(state, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if let Some(at) = state.parked.iter().position(|other| Arc::ptr_eq(other, seat)) {
                state.parked.remove(at);
            }
            if timeout.timed_out() {
                drop(state);
                let looked = look();
                state = self.lock();
                if looked.is_err() {
                    state.pass_on();
                    looked?;
                }
            }
        }
    }

    /// Reads for all threads until this one has what it waits for.
    fn read<R>(
        &self,
        reader: Box<Subscriber<Bytes>>,
        mode: Wait,
        deadline: Instant,
        done: &mut impl FnMut(&mut State) -> Option<R>,
        look: &mut impl FnMut() -> Result<(), RequestError>,
    ) -> Result<Option<R>, RequestError> {
        let mut lead = Lead { desk: self, reader: Some(reader) };
        let Some(reader) = &mut lead.reader else { unreachable!("it was put there") };
        reader.set_wait(mode);
        let mut now = Instant::now();
        let mut look_at = now + LOOK;
        // What was there in time counts: the lane is emptied before the deadline is said to have passed.
        let mut late_reads = 0;
        loop {
            let until = deadline.min(look_at);
            let mut is_empty = false;
            match reader.receive_timeout(until.saturating_duration_since(now)) {
                Ok(Some(message)) => {
                    if let Some(found) = self.sort(message, done) {
                        return Ok(Some(found));
                    }
                }
                Ok(None) => is_empty = true,
                // Said once; it can be read as before.
                Err(ReceiveError::BusUnlinked { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            now = Instant::now();
            if now >= deadline {
                late_reads += 1;
                if is_empty || late_reads > REQUESTS_MAX {
                    return Ok(None);
                }
            }
            if now >= look_at {
                look()?;
                now = Instant::now();
                look_at = now + LOOK;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId { topic_epoch: 7, lane: 0, sequence }
    }

    fn letter(cause: Option<MessageId>) -> Letter {
        let from = Holder { participant: 1, incarnation: 1 };
        Letter { words: Vec::new(), len_bytes: 0, kind: 0, is_error: false, from, cause }
    }

    #[test]
    fn an_answer_reaches_its_request_and_no_later_one_in_its_place() {
        let mut state = State::default();
        let first = state.open(1).unwrap();
        assert!(state.deliver(first, letter(Some(id(1)))));
        assert!(!state.deliver(first, letter(Some(id(1)))), "one was asked for");
        assert_eq!(state.close(first), 1, "nobody took it");
        let second = state.open(1).unwrap();
        assert_eq!(second % REQUESTS_MAX, first % REQUESTS_MAX, "the same place");
        assert!(!state.deliver(first, letter(Some(id(1)))));
        assert_eq!(state.close(first), 0, "it is closed already");
        assert!(state.deliver(second, letter(Some(id(2)))));
        assert!(state.take(second).is_some() && state.take(second).is_none());
    }

    #[test]
    fn an_answer_to_another_message_is_none_whatever_its_serial() {
        let mut state = State::default();
        let serial = state.open(2).unwrap();
        state.slot(serial).unwrap().id = Some(id(5));
        for cause in [None, Some(id(6)), Some(MessageId { topic_epoch: 8, ..id(5) })] {
            assert!(!state.deliver(serial, letter(cause)));
        }
        assert!(state.deliver(serial, letter(Some(id(5)))));
        for stranger in [serial ^ 1, serial.wrapping_add(1 << PLACE_BITS), u32::MAX, 0] {
            assert!(!state.deliver(stranger, letter(Some(id(5)))));
        }
    }

    #[test]
    fn there_are_as_many_places_as_slots_in_the_lane() {
        let mut state = State::default();
        let serials: Vec<u32> = (0..REQUESTS_MAX).map(|_| state.open(1).unwrap()).collect();
        assert!(state.open(1).is_none());
        state.close(serials[17]);
        let again = state.open(1).unwrap();
        assert!(!serials.contains(&again));
    }
}
