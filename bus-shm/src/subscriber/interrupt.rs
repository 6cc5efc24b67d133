//! Ending a wait from another thread.

use super::Subscriber;
use crate::listeners::wake_readers_after_repair;
use crate::payload::Speak;
use crate::sys::process::ForkMark;
use crate::topic::TopicCore;
use bus_core::doorbell::Barrier;
use bus_core::sync::Ordering;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Ends the waits of one subscriber, from any thread and for good: see [`Subscriber::interrupter`].
#[derive(Clone, Debug)]
pub struct Interrupter {
    flag: Arc<AtomicBool>,
    core: Arc<TopicCore>,
}

impl Interrupter {
    /// From now on the subscriber waits for nothing: it hands out what is there, and then says that there is nothing.
    /// [`Subscriber::receive`] returns [`crate::ReceiveError::Interrupted`] then.
    pub fn interrupt(&self) {
        if ForkMark::global().is_child() {
            return;
        }
        self.flag.store(true, Ordering::Relaxed);
        // PARK-WAKE, with the flag in the place of a slot: the sleeper arms the bell, runs a full fence in either mode of the bus,
        // and looks at the flag. Whoever else sleeps on this bell looks, and sleeps again.
        // Those who wait on many topics are told as well: it disarms the bell that they have armed.
        self.core.message_bell().ring(Barrier::Fence, || wake_readers_after_repair(&self.core));
    }
}

impl<T: Speak> Subscriber<T> {
    /// What ends a wait of this subscriber from another thread, for an orderly end.
    pub fn interrupter(&mut self) -> Interrupter {
        let flag = self.raw.interrupted.get_or_insert_with(Arc::default).clone();
        Interrupter { flag, core: self.raw.core.clone() }
    }
}
