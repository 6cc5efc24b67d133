//! Announcements of dead letters on `_bus.dlq.<topic>`.

use super::{DeadLetterNotice, notices};
use crate::aside::AsideFile;
use crate::bus::BusInner;
use crate::error::AttachError;
use crate::group;
use crate::publisher::Publisher;
use crate::region::Access;
use crate::topic::TopicCore;
use bus_core::layout::aside::state;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest an announcement waits for room.
const DEADLINE: Duration = Duration::from_millis(200);

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
