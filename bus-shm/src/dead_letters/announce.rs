//! Announcements of dead letters on `_bus.dlq.<topic>`.

use super::{DeadLetterNotice, notices};
use crate::aside::AsideFile;
use crate::bus::{Bus, BusInner};
use crate::directory::BusDir;
use crate::error::AttachError;
use crate::group;
use crate::publisher::Publisher;
use crate::region::Access;
use crate::repair;
use crate::topic::{Role, TopicCore};
use bus_core::layout::aside::state;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Who announces where no member does.
const SERVICE: &str = "shmbus-announcer";
/// Longest an announcement waits for room.
const DEADLINE: Duration = Duration::from_millis(200);
/// Longest that a subscriber which leaves waits for its announcements. The supervisor finds what is not announced then.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// Announces the dead letters of one group, from a thread of its own: the topic may have to be made, which is a request to
/// the supervisor, and no consumer waits for that.
pub(crate) struct Announcer {
    bus: Arc<BusInner>,
    core: Arc<TopicCore>,
    entry: usize,
    running: Arc<AtomicBool>,
    again: Arc<AtomicBool>,
    /// The thread that was started last.
    thread: Cell<Option<JoinHandle<()>>>,
}

impl Announcer {
    pub(crate) fn new(bus: Arc<BusInner>, core: Arc<TopicCore>, entry: usize) -> Self {
        Self { bus, core, entry, running: Arc::default(), again: Arc::default(), thread: Cell::default() }
    }

    /// Announces whatever has not been. Returns at once.
    pub(crate) fn announce(&self) {
        // Dead letters of announcements are not announced.
        if !super::are_announced(self.core.name()) {
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
        match std::thread::Builder::new().name("shmbus-announce".into()).spawn(work) {
            Ok(thread) => self.thread.set(Some(thread)),
            Err(_) => self.running.store(false, Ordering::SeqCst),
        }
    }
}

impl Drop for Announcer {
    /// A process that ends next would take the thread with it, in the middle of what it does, and leave a temporary bus behind.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take().filter(|_| !self.bus.is_forked()) else { return };
        let begun = Instant::now();
        while !thread.is_finished() {
            if begun.elapsed() > LEAVE_PATIENCE {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join();
    }
}

/// Announces what nobody else has, in all topics of a bus: members do it for what they make, unless they end first.
pub(crate) fn announce_left_over(dir: &BusDir) {
    let parent = dir.base().parent().map(std::path::Path::to_owned);
    let mut builder = Bus::builder(dir.name()).service(SERVICE).host(false).create(false);
    if let Some(parent) = parent {
        builder = builder.dir(parent);
    }
    // Nobody is there to be told, or the bus is going down; whoever takes part next finds what is left.
    let Ok(bus) = builder.open() else { return };
    for name in dir.topic_names() {
        let Ok(core) = TopicCore::attach(dir, &name, Role::Publisher) else { continue };
        if repair::has_unannounced(&core) {
            for entry in 0..core.groups_used() {
                let _ = announce_all(bus.inner(), &core, entry);
            }
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
        if store.look(index).is_none_or(|word| word.state != state::DEAD) {
            continue;
        }
        let Some((word, contents, note)) = file.read_letter(store, index) else { continue };
        let notice = DeadLetterNotice {
            topic: core.name().to_owned(),
            group: group::display_name(core, entry),
            lane: contents.lane,
            sequence: contents.sequence,
            attempts: word.attempts,
            len_bytes: contents.len_bytes,
            service: note.service,
            handler: note.handler,
            error: note.error,
            first_ns: contents.first_ns,
            last_ns: contents.last_ns,
        };
        let publisher = match &mut publisher {
            Some(publisher) => publisher,
            none => {
                let mut made = notices(bus.clone(), core.name())?.publisher()?;
                made.set_deadline(DEADLINE);
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
