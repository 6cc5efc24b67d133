//! Boost.Interprocess's message_queue: a mutex and condition variables in shared memory.

use std::ffi::{CString, c_void};

use bus_bench::guest::Part;

use super::library::BoostQueue;
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed, retry, seen};

/// Messages that the queue holds: it has no default.
const MESSAGES: usize = super::SLOTS as usize;

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let boost = BoostQueue::load(&cell.server)?;
    let name = |way: &str| CString::new(format!("{}-{way}", cell.name)).unwrap_or_default();
    let outbox = |way: &str| {
        let queue = retry("attaching to a queue", || {
            // SAFETY: the name ends in a zero byte.
            let queue = unsafe { (boost.attach)(name(way).as_ptr()) };
            if queue.is_null() { Err("it is not there") } else { Ok(queue) }
        })?;
        // Both ends are open: nothing is left behind whoever dies.
        // SAFETY: the name ends in a zero byte.
        unsafe { (boost.remove)(name(way).as_ptr()) };
        Ok(Out(End { boost, queue }))
    };
    let inbox = |way: &str| {
        // SAFETY: the name ends in a zero byte.
        let queue = unsafe { (boost.create)(name(way).as_ptr(), MESSAGES, W * 8) };
        if queue.is_null() {
            Err(failed("creating a queue", "refused"))
        } else {
            Ok(In(End { boost, queue }))
        }
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct End {
    boost: BoostQueue,
    queue: *mut c_void,
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: the queue is open and closed once.
        unsafe { (self.boost.close)(self.queue) };
    }
}

struct Out(End);

impl<const W: usize> Outbox<W> for Out {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        let bytes = bytes_of(&words);
        // SAFETY: the queue is open, the bytes live until the call returns.
        match unsafe { (self.0.boost.send)(self.0.queue, bytes.as_ptr().cast(), bytes.len()) } {
            0 => Ok(()),
            _ => Err(failed("sending", "refused")),
        }
    }
}

struct In(End);

impl<const W: usize> Inbox<W> for In {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut words = [0_u64; W];
        // SAFETY: the queue is open, there is room for W * 8 bytes.
        let bytes = unsafe { (self.0.boost.receive)(self.0.queue, words.as_mut_ptr().cast(), W * 8) };
        match usize::try_from(bytes) {
            Ok(bytes) => see(if bytes == W * 8 { seen(&words) } else { None }),
            Err(_) => return Err(failed("receiving", "refused")),
        }
        Ok(())
    }
}
