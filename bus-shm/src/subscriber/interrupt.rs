//! Ending a wait from another thread.

use super::Subscriber;
use crate::payload::Speak;
use crate::sys::futex;
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
        // and looks at the flag. Whoever else sleeps on this bell looks, and sleeps again. It stays armed: subscriptions over many
        // topics are not told of this, and do not arm it again.
        let bell = self.core.message_bell();
        bell.ring_if(Barrier::Fence, || {
            futex::wake_all(bell.word());
            false
        });
    }
}

impl<T: Speak> Subscriber<T> {
    /// What ends a wait of this subscriber from another thread, for an orderly end.
    pub fn interrupter(&mut self) -> Interrupter {
        let flag = self.raw.interrupted.get_or_insert_with(Arc::default).clone();
        Interrupter { flag, core: self.raw.core.clone() }
    }
}
