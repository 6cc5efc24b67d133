//! The bus as the scenarios use it: the safe, typed API of `bus-shm` with a user's defaults, and nothing else. What a
//! row changes from the defaults is in its [`Settings`].

use std::path::Path;
use std::time::{Duration, Instant};

use bus_shm::inspect::BusView;
use bus_shm::{Ask, Bus, Lane, PublishError, RequestError, Wait};

use crate::block::{ArchivedBlock, Block};
use crate::content::{check, fill_bytes};
use crate::error::{BenchError, Result};
use crate::spec::{Spec, WaitMode};

/// Longest wait for a batch; longer than any pause inside a slice.
const BATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// What a row changes from a topic's defaults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) one_producer: bool,
    pub(crate) no_stamps: bool,
    pub(crate) capacity: u32,
}

impl Settings {
    pub(crate) fn of(spec: &Spec) -> Self {
        Self { one_producer: spec.one_producer, no_stamps: spec.no_stamps, capacity: spec.capacity }
    }
}

/// This process's part in a bus of the run.
#[derive(Debug)]
pub(crate) struct Connection {
    bus: Bus,
}

impl Connection {
    /// Opens a bus below the run's directory. Only the process that is not measured hosts the supervisor.
    pub(crate) fn open(directory: &Path, bus: &str, service: &str, host: bool) -> Result<Self> {
        let bus = Bus::builder(bus)
            .dir(directory)
            .service(service)
            .temporary(true)
            .host(host)
            .open()
            .map_err(|error| refused("opening the bus", &error))?;
        Ok(Self { bus })
    }

    /// Asks in a topic.
    pub(crate) fn requester<const WORDS: usize>(
        &self,
        topic: &str,
        wait: WaitMode,
    ) -> Result<Requester<WORDS>> {
        let mut client = self.bus.requester().map_err(|error| refused("opening a requester", &error))?;
        client.set_wait(wait_of(wait));
        Ok(Requester { client, topic: topic.to_owned(), ask: Ask::within(DEADLINE) })
    }

    /// Opens a topic, creating it if it is not there.
    pub(crate) fn topic<const WORDS: usize>(&self, name: &str, settings: &Settings) -> Result<Topic<WORDS>> {
        let mut builder = self.bus.topic_builder::<Block<WORDS>>(name);
        if settings.one_producer {
            builder = builder.producers(1);
        }
        if settings.capacity > 0 {
            builder = builder.capacity(settings.capacity);
        }
        if settings.no_stamps {
            builder = builder.stamps(false);
        }
        Ok(Topic(builder.open().map_err(|error| refused("opening a topic", &error))?))
    }
}

/// Memory that all files of a row's topic take, in bytes.
pub(crate) fn topic_bytes(spec: &Spec, topic: &str) -> Result<u64> {
    let bus = BusView::open(&spec.bus, Some(&spec.directory))
        .map_err(|error| refused("looking at the bus", &error))?;
    let mut topic = bus.topic(topic).map_err(|error| refused("looking at a topic", &error))?;
    Ok(topic.sample().memory_bytes)
}

/// How long a publisher waits for room.
const DEADLINE: Duration = Duration::from_secs(10);

/// A topic.
#[derive(Debug)]
pub(crate) struct Topic<const WORDS: usize>(bus_shm::Topic<Block<WORDS>>);

impl<const WORDS: usize> Topic<WORDS> {
    pub(crate) fn publisher(&self) -> Result<Publisher<WORDS>> {
        let mut publisher = self.0.publisher().map_err(|error| refused("attaching a publisher", &error))?;
        // On a machine with other work a reader may be away for longer than a program would wait.
        publisher.set_deadline(DEADLINE);
        Ok(Publisher(publisher))
    }

    /// A group of its own.
    pub(crate) fn subscriber(&self, wait: WaitMode) -> Result<Subscriber<WORDS>> {
        let builder = self.0.subscriber().wait(wait_of(wait));
        Ok(Subscriber(builder.join().map_err(|error| refused("subscribing", &error))?))
    }

    /// A member of a group that shares its messages out.
    pub(crate) fn member(&self, group: &str, wait: WaitMode) -> Result<Subscriber<WORDS>> {
        let builder = self.0.group(group).shared().wait(wait_of(wait));
        Ok(Subscriber(builder.join().map_err(|error| refused("joining a group", &error))?))
    }
}

fn wait_of(wait: WaitMode) -> Wait {
    match wait {
        WaitMode::Spin => Wait::Spin,
        WaitMode::Adaptive => Wait::Adaptive,
        WaitMode::Park => Wait::Park,
    }
}

/// Writes messages.
#[derive(Debug)]
pub(crate) struct Publisher<const WORDS: usize>(bus_shm::Publisher<Block<WORDS>>);

impl<const WORDS: usize> Publisher<WORDS> {
    /// In the normal lane; waits for room.
    #[inline(always)]
    pub(crate) fn publish(&mut self, block: &Block<WORDS>) -> Result<()> {
        match self.0.publish(block) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused("publishing", &error)),
        }
    }

    /// All of them in the normal lane, in one call; waits for room.
    #[inline(always)]
    pub(crate) fn publish_batch(&mut self, blocks: &[Block<WORDS>]) -> Result<()> {
        match self.0.publish_batch(self.0.default_lane(), blocks) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused("publishing a batch", &error)),
        }
    }

    /// In the normal lane, written where it will be read; waits for room.
    #[inline(always)]
    pub(crate) fn publish_in_place(&mut self, identity: u64, stamp: u64) -> Result<()> {
        self.publish_lent(|memory| fill_bytes(memory, identity, stamp))
    }

    /// The same with whatever `write` leaves there.
    #[inline(always)]
    pub(crate) fn publish_lent(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let lane = self.0.default_lane();
        // Words of a block are its archive.
        let mut loan = match self.0.loan(lane, size_of::<Block<WORDS>>()) {
            Ok(loan) => loan,
            Err(error) => return Err(refused("borrowing memory for a message", &error)),
        };
        write(&mut loan);
        match loan.publish() {
            Ok(_) => Ok(()),
            Err(error) => Err(refused("publishing what was written in place", &error)),
        }
    }

    /// In the critical lane.
    #[inline(always)]
    pub(crate) fn publish_critical(&mut self, block: &Block<WORDS>) -> Result<()> {
        match self.0.publish_to(Lane::CRITICAL, block) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused("publishing in the critical lane", &error)),
        }
    }

    /// In the normal lane, if there is room; whether there was.
    #[inline(always)]
    pub(crate) fn try_publish(&mut self, block: &Block<WORDS>) -> Result<bool> {
        match self.0.try_publish_to(self.0.default_lane(), block) {
            Ok(_) => Ok(true),
            Err(PublishError::Full(_)) => Ok(false),
            Err(error) => Err(refused("publishing", &error)),
        }
    }
}

/// Asks, and waits for the answer.
#[derive(Debug)]
pub(crate) struct Requester<const WORDS: usize> {
    client: bus_shm::Requester,
    topic: String,
    ask: Ask,
}

impl<const WORDS: usize> Requester<WORDS> {
    /// The content of the answer.
    #[inline(always)]
    pub(crate) fn ask(&mut self, block: &Block<WORDS>) -> Result<Option<(u64, u64)>> {
        // The replier may not have joined yet, as a subscriber of the ping-pong may not have.
        let mut begun = None;
        let pending = loop {
            match self.client.send::<_, Block<WORDS>>(&self.topic, block, &self.ask) {
                Err(RequestError::NoReplier { .. })
                    if begun.get_or_insert_with(Instant::now).elapsed() < DEADLINE =>
                {
                    std::thread::yield_now();
                }
                sent => break sent.map_err(|error| refused("asking", &error))?,
            }
        };
        let answer = pending.wait().map_err(|error| refused("waiting for an answer", &error))?;
        Ok(answer.value().ok().and_then(content))
    }
}

/// Reads messages.
#[derive(Debug)]
pub(crate) struct Subscriber<const WORDS: usize>(bus_shm::Subscriber<Block<WORDS>>);

impl<const WORDS: usize> Subscriber<WORDS> {
    /// The next message, however long it takes.
    #[inline(always)]
    pub(crate) fn receive(&mut self) -> Result<Message<'_, WORDS>> {
        match self.0.receive() {
            Ok(message) => Ok(Message(message)),
            Err(error) => Err(refused("receiving", &error)),
        }
    }

    /// The next message, if there is one.
    #[inline(always)]
    pub(crate) fn try_receive(&mut self) -> Result<Option<Message<'_, WORDS>>> {
        match self.0.try_receive() {
            Ok(message) => Ok(message.map(Message)),
            Err(error) => Err(refused("receiving", &error)),
        }
    }

    /// The next message, if one comes in time.
    pub(crate) fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message<'_, WORDS>>> {
        let message = self.0.receive_timeout(timeout).map_err(|error| refused("receiving", &error))?;
        Ok(message.map(Message))
    }

    /// Takes what is there, up to `max` messages, and acknowledges it in one go. Each is shown with its content.
    #[inline(always)]
    pub(crate) fn receive_batch(&mut self, max: usize, each: impl FnMut(Option<(u64, u64)>)) -> Result<()> {
        self.receive_batch_timeout(max, BATCH_TIMEOUT, each)
    }

    /// The same, but nothing if nothing comes in time.
    #[inline(always)]
    pub(crate) fn receive_batch_timeout(
        &mut self,
        max: usize,
        timeout: Duration,
        mut each: impl FnMut(Option<(u64, u64)>),
    ) -> Result<()> {
        let mut batch =
            self.0.receive_batch(1, max, timeout).map_err(|error| refused("receiving a batch", &error))?;
        while let Some(message) =
            batch.next_message().map_err(|error| refused("receiving in a batch", &error))?
        {
            each(message.value().ok().and_then(content));
        }
        batch.ack();
        Ok(())
    }

    /// Takes what is there, up to `max` messages, and acknowledges it in one go without a look at it. How many there were.
    pub(crate) fn take_batch(&mut self, max: usize) -> Result<usize> {
        let mut batch = self
            .0
            .receive_batch(1, max, BATCH_TIMEOUT)
            .map_err(|error| refused("receiving a batch", &error))?;
        while batch.next_message().map_err(|error| refused("receiving in a batch", &error))?.is_some() {}
        let count = batch.len();
        batch.ack();
        Ok(count)
    }
}

/// A message that was received and not yet acknowledged.
#[derive(Debug)]
pub(crate) struct Message<'s, const WORDS: usize>(bus_shm::Received<'s, Block<WORDS>>);

impl<const WORDS: usize> Message<'_, WORDS> {
    /// Reads the whole payload: its identity and stamp, or `None` if it is not what a producer wrote.
    #[inline(always)]
    pub(crate) fn content(&self) -> Option<(u64, u64)> {
        self.0.value().ok().and_then(content)
    }

    /// Answers it.
    #[inline(always)]
    pub(crate) fn reply(&self, block: &Block<WORDS>) -> Result<()> {
        self.0.reply(block).map_err(|error| refused("answering", &error))
    }

    pub(crate) fn is_critical(&self) -> bool {
        self.0.lane() == Lane::CRITICAL
    }

    #[inline(always)]
    pub(crate) fn ack(self) {
        // A member that is not late keeps what it was handed.
        let _ = self.0.ack();
    }
}

#[inline(always)]
pub(crate) fn content<const WORDS: usize>(block: &ArchivedBlock<WORDS>) -> Option<(u64, u64)> {
    check(WORDS, |index| block.words[index].to_native())
}

#[cold]
fn refused(call: &'static str, error: &dyn std::error::Error) -> BenchError {
    BenchError::Bus { call, text: error.to_string() }
}
