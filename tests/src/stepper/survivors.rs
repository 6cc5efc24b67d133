//! Those who go on while a process is dead or stands still, and what they find.

use super::late::{self, Handed, Store};
use bus_shm::directory::BusDir;
use bus_shm::fsck;
use bus_shm::inspect::BusView;
use bus_shm::supervisor::{StopHandle, Supervisor};
use bus_shm::{AttachError, Bus, Bytes, PublishError, Publisher, Received, Subscriber, Topic};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stepped::body::{Stream, number_of, parts};
use stepped::operations::{Part, survivor_body};
use stepped::scene::{BUS, ELSEWHERE, GROUP, Group, Scene, TOPIC, WITNESS};
use stepped::told::{Facts, Letters, Told};

/// What is wrong, if anything.
pub type Verdict<T = ()> = Result<T, String>;

/// How long anything may take: repair, or a message that was accepted. Much on a machine with other work, and less than the half minute
/// after which members of a shared group take from the living what proof of death is to give them.
static DEADLINE: LazyLock<Duration> = LazyLock::new(|| {
    // A bus that is broken on purpose lets many points wait until then.
    let is_broken = std::env::var_os("SHMBUS_BREAK").is_some();
    Duration::from_secs(if is_broken { 5 } else { 20 })
});

/// How long a member that stands still may take to lose its keys; there are points where it does not.
const FENCE_WAIT: Duration = Duration::from_millis(400);
/// And how long it is watched when it goes on, if it says nothing.
const FENCE_LOOK: Duration = Duration::from_millis(200);

macro_rules! ensure {
    ($condition:expr, $($what:tt)*) => {
        if !$condition {
            return Err(format!($($what)*));
        }
    };
}

pub(super) fn say<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

pub(super) use ensure;

/// Tries until it works, or too long.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Verdict<T>) -> Verdict<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(_) if begun.elapsed() < *DEADLINE => std::thread::sleep(Duration::from_micros(300)),
            other => return other.map_err(|why| format!("{what}, not within {:?}: {why}", *DEADLINE)),
        }
    }
}

/// A supervisor in a thread of this process that can be told to stop.
#[derive(Debug)]
pub struct Serving {
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
    task: PathBuf,
}

impl Serving {
    /// Takes the role, making the bus if there is none.
    pub fn start(dir: &Path) -> Verdict<Self> {
        let dir = BusDir::new(BUS, Some(dir)).map_err(say("the bus's directory"))?;
        let supervisor = Supervisor::take(&dir, true).map_err(say("the role"))?;
        let stop = supervisor.stop_handle();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _ = tell.send(rustix::thread::gettid().as_raw_nonzero());
            let _ = supervisor.serve();
        });
        let id = told.recv().map_err(say("its thread"))?;
        Ok(Self { stop, thread: Some(thread), task: format!("/proc/self/task/{id}/stat").into() })
    }

    /// Waits until it sleeps: it has done everything that it was asked.
    pub fn wait_until_idle(&self) {
        let is_idle = || {
            let stat = std::fs::read_to_string(&self.task).unwrap_or_default();
            stat.rsplit(')')
                .next()
                .is_none_or(|rest| rest.trim_start().starts_with(['S', 'Z', 'X']) || rest.is_empty())
        };
        let begun = Instant::now();
        while !is_idle() && begun.elapsed() < *DEADLINE {
            std::thread::yield_now();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What one reader has seen of each stream, in order.
#[derive(Clone, Debug, Default)]
struct Ledger {
    streams: [u64; Stream::COUNT],
    next: Option<u64>,
    /// How often each message has come again under another sequence.
    again: BTreeMap<u64, u64>,
    /// Number of each message that it has read, by sequence.
    numbers: BTreeMap<u64, u64>,
}

impl Ledger {
    fn note(&mut self, message: &Received<'_, Bytes>, scene: &Scene) -> Verdict {
        let sequence = message.sequence();
        let payload = message.payload();
        ensure!(payload.len() == scene.body_bytes, "message {sequence} has {} bytes", payload.len());
        let Some(number) = number_of(payload) else {
            return Err(format!("message {sequence} was never published, or is torn: {:x?}", &payload[..16]));
        };
        if let Some(next) = self.next {
            ensure!(sequence == next, "message {sequence} where {next} is due");
        }
        self.next = Some(sequence + 1);
        self.numbers.insert(sequence, number);
        let (stream, count) = parts(number);
        let Some(next) = self.streams.get_mut(stream) else {
            return Err(format!("message {sequence} is of stream {stream}"));
        };
        if count < *next {
            // Published again: whether it may be, whoever counts the dead letters says.
            *self.again.entry(number).or_default() += 1;
            return Ok(());
        }
        ensure!(
            count == *next,
            "message {sequence} is number {count} of stream {stream}, where {next} is due"
        );
        *next += 1;
        Ok(())
    }
}

/// A publisher, the witness, and a member of the scene's group, in this process.
pub struct Survivors {
    scene: Scene,
    dir: PathBuf,
    bus: Bus,
    topic: Topic<Bytes>,
    publisher: Option<Publisher<Bytes>>,
    witness: Subscriber<Bytes>,
    member: Option<Subscriber<Bytes>>,
    ledger: Ledger,
    published: u64,
    handed: Handed,
    /// There is no supervisor, nor will there be.
    is_alone: bool,
    elsewhere: Option<Subscriber<Bytes>>,
    /// Messages that have come in the other topic.
    elsewhere_seen: BTreeMap<u64, u64>,
}

impl std::fmt::Debug for Survivors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survivors").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Survivors {
    /// Opens bus and topic, and takes the place of the witness. With `host`, this process may take the supervisor's role.
    pub fn attach(dir: &Path, scene: Scene, host: bool) -> Verdict<Self> {
        let bus = Bus::builder(BUS).dir(dir).service("survivor").host(host).open().map_err(say("the bus"))?;
        let topic = scene.topic(&bus).map_err(say("the topic"))?;
        let witness = topic.group(WITNESS).join().map_err(say("the witness's place"))?;
        Ok(Self {
            scene,
            dir: dir.to_owned(),
            bus,
            topic,
            publisher: None,
            witness,
            member: None,
            ledger: Ledger::default(),
            published: 0,
            handed: Handed::default(),
            is_alone: false,
            elsewhere: None,
            elsewhere_seen: BTreeMap::new(),
        })
    }

    /// Attaches a publisher, and a member where the child's place is not the only one.
    pub fn take_part(&mut self, part: Part) -> Verdict {
        if self.scene.producers > 1 || part != Part::Publisher {
            self.publisher = Some(self.topic.publisher().map_err(say("a publisher"))?);
        }
        // A guest was a member and has left: it may not keep the group from anything, and somebody reads for it.
        let is_member = match part {
            Part::Member => self.scene.group.has_room(),
            Part::Guest => self.scene.group == Group::One || self.scene.group.has_room(),
            Part::Publisher | Part::Supervisor => false,
        };
        if is_member {
            self.member = Some(self.join().map_err(say("a member"))?);
        }
        Ok(())
    }

    fn join(&self) -> Result<Subscriber<Bytes>, AttachError> {
        self.scene.group_of(&self.topic).join()
    }

    /// From here on there is no supervisor.
    pub fn stay_alone(&mut self) {
        self.is_alone = true;
    }

    /// Waits until the supervisor has noticed every death.
    pub fn wait_until_buried(&self) -> Verdict {
        eventually("the dead are buried", || {
            let strangers: Vec<_> =
                self.bus.participants().into_iter().filter(|info| info.service != "survivor").collect();
            ensure!(strangers.is_empty(), "{strangers:?}");
            Ok(())
        })
    }

    /// The witness reads what there is.
    fn read(&mut self, facts: &Facts) -> Verdict {
        if self.ledger.next.is_none() {
            // What the child read for the witness was its own, before anybody else had published.
            self.ledger.next = Some(facts.witnessed);
            self.ledger.streams[Stream::Child as usize] = facts.witnessed;
        }
        while let Some(message) = self.witness.try_receive().map_err(say("the witness"))? {
            self.ledger.note(&message, &self.scene)?;
            let _ = message.ack();
        }
        Ok(())
    }

    /// The member reads what there is.
    fn consume(&mut self) -> Verdict {
        let Some(member) = &mut self.member else { return Ok(()) };
        while let Some(message) = member.try_receive().map_err(say("the member"))? {
            self.handed.handle(message, &self.scene)?;
        }
        Ok(())
    }

    fn publish(&mut self, deadline: Duration) -> Verdict<bool> {
        let Some(publisher) = &mut self.publisher else { return Ok(false) };
        publisher.set_deadline(deadline);
        match self.scene.publish(publisher, &survivor_body(&self.scene, self.published)) {
            Ok(_) => {
                self.published += 1;
                Ok(true)
            }
            Err(PublishError::Full(_)) if deadline.is_zero() => Ok(false),
            Err(error) => Err(format!("a survivor's publication: {error}")),
        }
    }

    /// More than the ring holds.
    fn revolution(&self) -> u64 {
        u64::from(2 * self.scene.capacity + 3)
    }

    /// While the child stands still: reads, and publishes as far as there is room.
    pub fn work_beside(&mut self, facts: &Facts) -> Verdict {
        self.read(facts)?;
        self.consume()?;
        let mut count = 0;
        while count < self.revolution() && self.publish(Duration::ZERO)? {
            self.read(facts)?;
            self.consume()?;
            count += 1;
        }
        self.count_child(facts)
    }

    /// While the child stands still it loses its keys. The first message that comes from its hand is kept while the child goes on: that
    /// must not be handed a message meanwhile that it had not claimed before. All of them have one key.
    pub fn hold_beside(&mut self, told: Told, go_on: &mut dyn FnMut() -> Verdict) -> Verdict {
        let Some(member) = &mut self.member else { return go_on() };
        let begun = Instant::now();
        while begun.elapsed() < FENCE_WAIT {
            let message = member.receive_timeout(Duration::from_millis(5)).map_err(say("the member"))?;
            let Some(message) = message else { continue };
            if message.attempts() < 2 {
                self.handed.handle(message, &self.scene)?;
                continue;
            }
            let held = message.sequence();
            let untouched = late::untouched(&self.dir, &self.scene)?;
            let before = told.facts();
            go_on()?;
            let begun = Instant::now();
            let has_gone_on = |now: &Facts| {
                now.received.len() > before.received.len() || now.acks_begun.len() > before.acks_begun.len()
            };
            while !has_gone_on(&told.facts()) && begun.elapsed() < FENCE_LOOK {
                std::thread::sleep(Duration::from_micros(300));
            }
            // Whoever was handed the held one again has the key by right: this member was the slower one.
            let received = told.facts().received;
            let new = &received[before.received.len()..];
            let mut new = new.iter().take_while(|(sequence, _)| *sequence != held);
            let wrong = new.find(|(later, _)| *later > held && untouched.contains(later));
            ensure!(wrong.is_none(), "the child was handed {wrong:?} while {held} was in another hand");
            return self.handed.handle(message, &self.scene);
        }
        go_on()
    }

    /// Nothing was handed out after the child's death that stands before what it had acknowledged of the same key.
    pub fn ensure_in_order(&self, facts: &Facts) -> Verdict {
        let key = |sequence: &u64| self.ledger.numbers.get(sequence).and_then(|n| self.scene.key_of(*n));
        for done in facts.done().iter().filter(|done| key(done).is_some()) {
            let before = self.handed.sequences().find(|other| other < done && key(other) == key(done));
            ensure!(before.is_none(), "{before:?} came after {done} of its key was acknowledged");
        }
        Ok(())
    }

    /// Nobody had to wait for the child.
    pub fn ensure_unhindered(&self) -> Verdict {
        ensure!(
            self.publisher.is_none() || self.published >= self.revolution(),
            "publishers had to wait for it after {} messages",
            self.published
        );
        Ok(())
    }

    /// Reads along while the child goes on, publishing a revolution in all. True while there is more to do.
    pub fn work_along(&mut self, facts: &Facts) -> Verdict<bool> {
        let is_behind = self.publisher.is_some() && self.published < 2 * self.revolution();
        if is_behind {
            self.publish(Duration::ZERO)?;
        }
        self.read(facts)?;
        self.consume()?;
        Ok(is_behind)
    }

    /// What the witness has read of the child's is what was accepted, and at most what was meant to be published.
    fn count_child(&self, facts: &Facts) -> Verdict {
        let count = self.ledger.streams[Stream::Child as usize];
        ensure!(count >= facts.accepted, "{count} of {} accepted messages were delivered", facts.accepted);
        ensure!(
            count <= facts.intended,
            "{count} messages were delivered, {} were meant to be",
            facts.intended
        );
        Ok(())
    }

    /// After the child's death: takes over what it held, reads what it left, publishes on beyond a revolution.
    pub fn settle(&mut self, facts: &Facts, setup: (u64, u64)) -> Verdict {
        self.read(facts)?;
        self.count_child(facts)?;
        if facts.letters == Letters::Elsewhere {
            self.read_elsewhere()?;
        }
        if self.publisher.is_none() {
            let publisher =
                eventually("a publisher", || self.topic.publisher().map_err(|error| error.to_string()))?;
            self.publisher = Some(publisher);
        }
        let is_new = matches!(self.scene.group, Group::New | Group::NewShared);
        if self.scene.group != Group::None {
            if self.member.is_none() {
                let member = eventually("a member", || self.join().map_err(|error| error.to_string()))?;
                self.member = Some(member);
            }
            let end = self.ledger.next.unwrap_or(0);
            let begun = Instant::now();
            loop {
                self.consume()?;
                match self.count_group(facts, end, is_new) {
                    Ok(()) => break,
                    Err(why) if begun.elapsed() > *DEADLINE => return Err(why),
                    Err(_) => self.wait_for_member()?,
                }
            }
        }
        for _ in 0..self.revolution() {
            let begun = Instant::now();
            while !self.publish(Duration::ZERO)? {
                ensure!(begun.elapsed() < *DEADLINE, "no room for a survivor's message {}", self.published);
                self.wait_for_member()?;
            }
            self.read(facts)?;
            self.consume()?;
        }
        self.finish(facts, setup, is_new)
    }

    /// Reads what has come in the other topic.
    fn read_elsewhere(&mut self) -> Verdict {
        let reader = match &mut self.elsewhere {
            Some(reader) => reader,
            none => {
                let builder = self.bus.topic_builder::<Bytes>(ELSEWHERE).create(false);
                let topic = builder.open().map_err(say("the other topic"))?;
                none.insert(topic.group(WITNESS).join().map_err(say("a reader elsewhere"))?)
            }
        };
        while let Some(message) = reader.try_receive().map_err(say("the reader elsewhere"))? {
            let number = number_of(message.payload());
            let Some(number) = number.filter(|_| message.payload().len() == self.scene.body_bytes) else {
                return Err(format!("message {} elsewhere is torn", message.sequence()));
            };
            *self.elsewhere_seen.entry(number).or_default() += 1;
            let _ = message.ack();
        }
        Ok(())
    }

    /// Waits for a moment as a member does that has nothing to read, which is when it asks whether others live.
    fn wait_for_member(&mut self) -> Verdict {
        let Some(member) = &mut self.member else { return Ok(()) };
        let Some(message) = member.receive_timeout(Duration::from_millis(10)).map_err(say("the member"))?
        else {
            return Ok(());
        };
        self.handed.handle(message, &self.scene)
    }

    /// Is every message before `end` finished, and is what comes again marked?
    fn count_group(&self, facts: &Facts, end: u64, is_new: bool) -> Verdict {
        if self.scene.late.is_some() {
            let files = Store::read(&self.dir)?;
            let again =
                if facts.letters == Letters::Elsewhere { &self.elsewhere_seen } else { &self.ledger.again };
            return self.handed.count_late(facts, end, &self.scene, &files, (&self.ledger.numbers, again));
        }
        let done: BTreeSet<u64> = facts.done().iter().copied().collect();
        let begun: BTreeSet<u64> = facts.acks_begun.iter().copied().collect();
        let was_handed: BTreeSet<u64> = facts.received.iter().map(|(sequence, _)| *sequence).collect();
        let first = if is_new { self.handed.first().unwrap_or(end) } else { 0 };
        for sequence in first..end {
            let again = self.handed.marked(sequence);
            ensure!(
                again.is_some() || begun.contains(&sequence),
                "message {sequence} of {end} is lost to the group: {:?} {facts:?}",
                self.handed
            );
            if let Some(marked) = again {
                ensure!(!done.contains(&sequence), "message {sequence} was acknowledged and comes again");
                ensure!(marked || !was_handed.contains(&sequence), "message {sequence} comes again unmarked");
                // Whoever asked and was not told may have been handed one message more, for each time it asked.
                let most = was_handed.last().map_or(0, |last| last + 1) + self.scene.unknown(facts);
                ensure!(!marked || sequence < most, "message {sequence} is marked and was never handed out");
            }
        }
        Ok(())
    }

    /// At the end of everything: nobody lags, nothing of the dead is left, the counters say what happened.
    fn finish(&mut self, facts: &Facts, setup: (u64, u64), is_new: bool) -> Verdict {
        self.read(facts)?;
        self.consume()?;
        self.count_child(facts)?;
        let count = self.ledger.streams[Stream::Setup as usize];
        ensure!((setup.0..=setup.1).contains(&count), "{count} messages of the setup, not {setup:?}");
        let count = self.ledger.streams[Stream::Survivor as usize];
        ensure!(
            count == self.published,
            "{count} of {} messages of survivors were delivered",
            self.published
        );
        let end = self.ledger.next.unwrap_or(0);
        let again = self.ledger.again.values().sum::<u64>();
        ensure!(
            again == 0 || facts.letters == Letters::Replayed,
            "messages were published twice: {:?}",
            self.ledger
        );
        ensure!(
            end == again + self.ledger.streams.iter().sum::<u64>(),
            "{end} sequences, {:?} messages",
            self.ledger
        );
        if self.member.is_none() {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            self.consume()?;
            match self.count_group(facts, end, is_new).and_then(|()| self.ensure_tidy()) {
                Err(_) if self.scene.late.is_some() && begun.elapsed() < *DEADLINE => {
                    self.wait_for_member()?
                }
                verdict => return verdict,
            }
        }
    }

    /// Nobody but dead letters is left in the group's store.
    fn ensure_tidy(&self) -> Verdict {
        if self.scene.late.is_none() {
            return Ok(());
        }
        let store = Store::read(&self.dir)?;
        // Members of a shared group look after each other's entries. Whatever one who was no member had in hand of a group of
        // one is there until a supervisor comes.
        let is_left = self.is_alone && !self.scene.group.is_shared();
        if is_left { store.ensure_nothing_waits() } else { store.ensure_tidy() }
    }

    /// The bus as a bystander sees it, after everybody has done his work. Without a supervisor the dead are still in the tables
    /// until somebody needs their places.
    pub fn inspect(&mut self, is_swept: bool) -> Verdict {
        let end = self.ledger.next.unwrap_or(0);
        let view = BusView::open(BUS, Some(&self.dir)).map_err(say("the view"))?;
        eventually("nobody but survivors takes part", || {
            let strangers: Vec<_> =
                view.participants().into_iter().filter(|info| info.service != "survivor").collect();
            ensure!(strangers.is_empty(), "{strangers:?}");
            Ok(())
        })?;
        if is_swept {
            // Their numbers are gone before what they held is.
            eventually("nothing in the hands of the dead", || self.ensure_tidy())?;
        }
        let mut topic = view.topic(TOPIC).map_err(say("the topic's view"))?;
        eventually("all groups are where they should be", || {
            let state = topic.sample();
            let lane = &state.lanes[0];
            ensure!(lane.end == end, "the lane's end is {}, {end} messages were read", lane.end);
            ensure!(lane.gate <= end, "the gate is {} of {end}", lane.gate);
            for group in &state.groups {
                // A half-joined entry holds nobody up; without a supervisor it waits for the next joiner.
                if group.state == "joining" && !is_swept {
                    continue;
                }
                ensure!(
                    group.name == WITNESS || group.name == GROUP,
                    "a group {} in state {}",
                    group.name,
                    group.state
                );
                let lag = group.lanes[0].lag_count;
                ensure!(lag == 0, "group {} lags by {lag}", group.name);
                let expected = if group.name == GROUP && self.member.is_none() { "held" } else { "active" };
                ensure!(group.state == expected || group.shared, "group {} is {}", group.name, group.state);
                // The count of a shared group still has the dead in it.
                let expected = u64::from(expected == "active");
                ensure!(
                    group.members == expected || group.shared,
                    "group {} has {} members",
                    group.name,
                    group.members
                );
            }
            let producers: Vec<_> = state.producers.iter().filter(|who| who.service != "survivor").collect();
            ensure!(producers.is_empty() || !is_swept, "producers {producers:?}");
            Ok(())
        })?;
        let dir = BusDir::new(BUS, Some(&self.dir)).map_err(say("the bus's directory"))?;
        let report = fsck::check(&dir).map_err(say("the check of the bus"))?;
        ensure!(report.problems.is_empty(), "{}", report.problems[0]);
        Ok(())
    }

    /// Everybody leaves; nothing of the child may be left but what the ring still keeps for late readers.
    pub fn leave(mut self, is_swept: bool, is_recovered: bool) -> Verdict {
        let own = self.publisher.as_ref().map(|publisher| format!("arena-{}.", publisher.producer()));
        drop(self.publisher.take());
        let home = self.dir.join(format!("shmbus-{}", rustix::process::geteuid().as_raw())).join(BUS);
        for entry in
            std::fs::read_dir(home.join("topics").join(TOPIC)).map_err(say("the topic's files"))?.flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_own = own.as_ref().is_some_and(|own| name.starts_with(own));
            ensure!(!name.starts_with("arena-") || is_own || !is_swept, "{name} is left");
            ensure!(!name.starts_with('.') || !is_swept, "{name} is left");
        }
        // Temporary names of those who were never registered go when the role changes hands.
        for part in ["leases", "topics"].into_iter().filter(|_| is_recovered) {
            // Survivors may be having a topic made, to announce a dead letter on.
            eventually("nothing half-made", || {
                for entry in std::fs::read_dir(home.join(part)).map_err(say("the bus's files"))?.flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    ensure!(!name.starts_with('.'), "{part}/{name} is left");
                }
                Ok(())
            })?;
        }
        drop(self.elsewhere.take());
        drop((self.member.take(), self.witness, self.topic, self.bus));
        Ok(())
    }
}

/// What the members of the group did together, the child having left in good order.
pub fn ensure_all_acknowledged(survivors: &Survivors, facts: &Facts) -> Verdict {
    if survivors.scene.group == Group::None || matches!(survivors.scene.group, Group::New | Group::NewShared)
    {
        return Ok(());
    }
    let end = survivors.ledger.next.unwrap_or(0);
    if survivors.scene.late.is_some() {
        // What was counted before says as much, if nothing that the child said was cut short.
        ensure!(facts.done().len() == facts.acks_begun.len(), "an acknowledgement was cut short");
        return Ok(());
    }
    let done: BTreeSet<u64> = facts.done().iter().copied().collect();
    for sequence in 0..end {
        let (by_child, by_member) = (done.contains(&sequence), survivors.handed.marked(sequence).is_some());
        ensure!(by_child || by_member, "message {sequence} of {end} was acknowledged by nobody");
        ensure!(!(by_child && by_member), "message {sequence} was acknowledged twice");
    }
    let mut handed = BTreeSet::new();
    for &(sequence, attempts) in &facts.received {
        let marked = attempts > 1;
        ensure!(marked || handed.insert(sequence), "message {sequence} came to the child again, unmarked");
    }
    Ok(())
}

impl Survivors {
    /// After the child has left in good order.
    pub fn settle_with_child_gone(&mut self, facts: &Facts, setup: (u64, u64)) -> Verdict {
        if let Some(why) = &facts.failed {
            return Err(format!("the child's operation failed: {why}"));
        }
        ensure!(facts.accepted == facts.intended, "the child's publications failed: {facts:?}");
        self.settle(facts, setup)?;
        ensure_all_acknowledged(self, facts)
    }
}
