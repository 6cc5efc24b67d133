//! Ending a wait on many topics from another thread.

use super::{ManyError, ManySubscriber};
use crate::bus::BusInner;
use crate::error::ReceiveError;
use crate::payload::Speak;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends the waits of one subscription, from any thread and for good: see [`ManySubscriber::interrupter`].
#[derive(Clone, Debug)]
pub struct ManyInterrupter {
    flag: Arc<AtomicBool>,
    entry: u16,
    tag: u32,
    bus: Arc<BusInner>,
}

impl ManyInterrupter {
    /// From now on the subscription waits for nothing: it hands out what is there, and then says that there is nothing.
    /// [`ManySubscriber::receive`] returns [`ReceiveError::Interrupted`] then.
    pub fn interrupt(&self) {
        if self.bus.is_forked() {
            return;
        }
        self.flag.store(true, Ordering::Relaxed);
        // PARK-WAKE, with the flag in the place of a slot: the sleeper arms its bell, runs a full fence, and looks at the flag.
        if let Some(listeners) = self.bus.listeners() {
            listeners.wake(self.entry, self.tag);
        }
    }
}

impl<T: Speak> ManySubscriber<T> {
    /// What ends a wait of this subscription from another thread, for an orderly end.
    pub fn interrupter(&mut self) -> ManyInterrupter {
        let flag = self.interrupted.get_or_insert_with(Arc::default).clone();
        ManyInterrupter { flag, entry: self.entry, tag: self.held.tag, bus: self.bus.clone() }
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    pub(super) fn interrupted(&self) -> ManyError {
        ReceiveError::Interrupted { topic: self.topics.names() }.into()
    }
}
