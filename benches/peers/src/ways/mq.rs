//! A POSIX message queue.

use std::ffi::CString;
use std::mem::{MaybeUninit, zeroed};

use bus_bench::guest::Part;

use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed_call, retry, seen};

/// Lengths that are tried, the longest first: what goes depends on privileges and limits.
const LENGTHS: [i64; 4] = [4_096, 1_024, 256, 10];

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let name = |way: &str| CString::new(format!("/{}-{way}", cell.name)).unwrap_or_default();
    let outbox = |way: &str| {
        let queue = retry("mq_open", || Queue::attach(name(way)))?;
        Ok(Out(queue))
    };
    let inbox = |way: &str| Queue::create(name(way), W * 8, cell.tuned).map(In);
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct Queue {
    id: libc::mqd_t,
    /// Set by the side that made it.
    name: Option<CString>,
}

impl Queue {
    fn create(name: CString, bytes: usize, tuned: bool) -> Result<Self> {
        for &length in if tuned { &LENGTHS[..] } else { &LENGTHS[3..] } {
            // SAFETY: all zeros are valid for this plain C structure.
            let mut attributes: libc::mq_attr = unsafe { zeroed() };
            attributes.mq_maxmsg = length;
            attributes.mq_msgsize = bytes as i64;
            // SAFETY: the name ends in a zero byte, the attributes live until the call returns.
            let id = unsafe {
                libc::mq_open(
                    name.as_ptr(),
                    libc::O_CREAT | libc::O_RDONLY | libc::O_CLOEXEC,
                    0o600,
                    &attributes,
                )
            };
            if id >= 0 {
                return Ok(Self { id, name: Some(name) });
            }
        }
        Err(failed_call("mq_open"))
    }

    fn attach(name: CString) -> Result<Self> {
        // SAFETY: the name ends in a zero byte.
        let id = unsafe { libc::mq_open(name.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
        if id < 0 {
            return Err(failed_call("mq_open"));
        }
        // Both ends are open: the name has done its work, and nothing is left behind whoever dies.
        // SAFETY: the name ends in a zero byte.
        unsafe { libc::mq_unlink(name.as_ptr()) };
        Ok(Self { id, name: None })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and closed once.
        unsafe { libc::mq_close(self.id) };
        if let Some(name) = &self.name {
            // SAFETY: the name ends in a zero byte.
            unsafe { libc::mq_unlink(name.as_ptr()) };
        }
    }
}

struct Out(Queue);

impl<const W: usize> Outbox<W> for Out {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        let bytes = bytes_of(&words);
        // SAFETY: the bytes live until the call returns.
        if unsafe { libc::mq_send(self.0.id, bytes.as_ptr().cast(), bytes.len(), 0) } < 0 {
            return Err(failed_call("mq_send"));
        }
        Ok(())
    }
}

struct In(Queue);

impl<const W: usize> Inbox<W> for In {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut words = MaybeUninit::<[u64; W]>::zeroed();
        // SAFETY: there is room for W * 8 bytes, and messages of this queue are not longer.
        let bytes =
            unsafe { libc::mq_receive(self.0.id, words.as_mut_ptr().cast(), W * 8, std::ptr::null_mut()) };
        if bytes < 0 {
            return Err(failed_call("mq_receive"));
        }
        // SAFETY: zeroed before, and all bit patterns are numbers.
        let words = unsafe { words.assume_init() };
        see(if bytes as usize == W * 8 { seen(&words) } else { None });
        Ok(())
    }
}
