//! Dead letters: messages that were handed out too often, rejected, or could not be read.
//!
//! A dead letter is an entry of its group's aside store; there is no second copy to lose or to double.

use crate::aside::AsideFile;
use crate::bus::BusInner;
use crate::error::{AttachError, TopicError};
use crate::group;
use crate::publisher::Publisher;
use crate::region::Access;
use crate::topic::{Topic, TopicBuilder, TopicCore};
use bus_core::aside::{Contents, Store};
use bus_core::layout::aside::state;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What becomes of a dead letter that finds the store full of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Full {
    /// It is kept where it is: in the ring, which it holds, or among the messages that wait.
    #[default]
    Hold,
    /// The oldest makes room for it, and is counted.
    DropOldest,
}

/// What is published on `_bus.dlq.<topic>` for each dead letter, at least once.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize)]
pub struct DeadLetterNotice {
    /// The topic.
    pub topic: String,
    /// The group that could not handle it.
    pub group: String,
    /// Its lane.
    pub lane: u8,
    /// Its number in the lane.
    pub sequence: u64,
    /// How often it was handed out.
    pub attempts: u8,
    /// Bytes of its payload.
    pub len_bytes: u32,
    /// Service that failed last.
    pub service: String,
    /// Handler that failed last.
    pub handler: String,
    /// Why.
    pub error: String,
    /// CLOCK_REALTIME ns of the first failure.
    pub first_ns: u64,
    /// CLOCK_REALTIME ns of the last.
    pub last_ns: u64,
}
crate::message!(
    DeadLetterNotice,
    version 1,
    { topic, group, lane, sequence, attempts, len_bytes, service, handler, error, first_ns, last_ns }
);

/// First part of the names of topics that announce dead letters.
const PREFIX: &str = "_bus.dlq.";
/// Slots of such a topic.
const CAPACITY: u32 = 256;
/// Longest an announcement waits for room.
const ANNOUNCE_DEADLINE: Duration = Duration::from_millis(200);

/// The topic on which the dead letters of `topic` are announced, made if need be.
pub(crate) fn notices(bus: Arc<BusInner>, topic: &str) -> Result<Topic<DeadLetterNotice>, TopicError> {
    TopicBuilder::new(bus, &format!("{PREFIX}{topic}")).capacity(CAPACITY).lanes(1).for_the_bus().open()
}

/// Announces the dead letters of one group, from a thread of its own: the topic may have to be made, which is a request to
/// the supervisor, and no consumer waits for that.
pub(crate) struct Announcer {
    bus: Arc<BusInner>,
    core: Arc<TopicCore>,
    entry: usize,
    running: Arc<AtomicBool>,
    again: Arc<AtomicBool>,
}

impl Announcer {
    pub(crate) fn new(bus: Arc<BusInner>, core: Arc<TopicCore>, entry: usize) -> Self {
        Self { bus, core, entry, running: Arc::default(), again: Arc::default() }
    }

    /// Announces whatever has not been. Returns at once.
    pub(crate) fn announce(&self) {
        // Dead letters of announcements are not announced.
        if self.core.name().starts_with('_') {
            return;
        }
        self.again.store(true, Ordering::SeqCst);
        if self.running.swap(true, Ordering::SeqCst) {
            return;
        }
        let (bus, core, entry) = (self.bus.clone(), self.core.clone(), self.entry);
        let (running, again) = (self.running.clone(), self.again.clone());
        let work = move || {
            loop {
                while again.swap(false, Ordering::SeqCst) {
                    // What cannot be announced now is found again by the next count of the entries.
                    let _ = announce_all(&bus, &core, entry);
                }
                running.store(false, Ordering::SeqCst);
                // Whoever asked between the two found this thread running.
                if !again.load(Ordering::SeqCst) || running.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        };
        if std::thread::Builder::new().name("shmbus-announce".into()).spawn(work).is_err() {
            self.running.store(false, Ordering::SeqCst);
        }
    }
}

fn announce_all(bus: &Arc<BusInner>, core: &TopicCore, entry: usize) -> Result<(), AttachError> {
    let Some(file) = AsideFile::attach(core.dir(), entry, core.epoch(), Access::Write)? else {
        return Ok(());
    };
    let Some(store) = file.store(core, entry) else { return Ok(()) };
    let mut publisher: Option<Publisher<DeadLetterNotice>> = None;
    for index in 0..store.len() {
        let Some((word, contents)) = store.read(index).filter(|(word, _)| word.state == state::DEAD) else {
            continue;
        };
        let notice = notice(core, entry, &file, store, index, (word.attempts, &contents));
        let publisher = match &mut publisher {
            Some(publisher) => publisher,
            none => {
                let mut made = notices(bus.clone(), core.name())?.publisher()?;
                made.set_deadline(ANNOUNCE_DEADLINE);
                none.insert(made)
            }
        };
        if publisher.publish(&notice).is_err() {
            break;
        }
        store.announce(index, word);
    }
    Ok(())
}

fn notice(
    core: &TopicCore,
    entry: usize,
    file: &AsideFile,
    _store: Store<'_, AsideFile>,
    index: usize,
    (attempts, contents): (u8, &Contents),
) -> DeadLetterNotice {
    let note = file.read_note(index);
    DeadLetterNotice {
        topic: core.name().to_owned(),
        group: group::display_name(core, entry),
        lane: contents.lane,
        sequence: contents.sequence,
        attempts,
        len_bytes: contents.len_bytes,
        service: note.service,
        handler: note.handler,
        error: note.error,
        first_ns: contents.first_ns,
        last_ns: contents.last_ns,
    }
}
