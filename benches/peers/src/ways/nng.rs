//! nng over a Unix socket: a pair with queues on both sides (best), push and pull as they come.

use std::ffi::{CString, c_int};
use std::ptr::null_mut;

use bus_bench::guest::Part;

use super::library::{Nng, with_free_threads};
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed, retry, seen};

/// Messages that wait on each side, at the best settings.
const QUEUE: c_int = 1_024;

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let nng = Nng::load(&cell.server)?;
    let address = |way: &str| CString::new(format!("ipc://{}", cell.path(way).display())).unwrap_or_default();
    let opened = |default: unsafe extern "C" fn(*mut u32) -> c_int| -> Result<End> {
        let mut socket = 0;
        // SAFETY: there is room for the socket's number.
        checked("opening a socket", unsafe { (if cell.tuned { nng.pair } else { default })(&mut socket) })?;
        for name in [c"send-buffer", c"recv-buffer"].into_iter().filter(|_| cell.tuned) {
            // SAFETY: the socket is open, the name ends in a zero byte.
            checked("nng_socket_set_int", unsafe { (nng.set_int)(socket, name.as_ptr(), QUEUE) })?;
        }
        Ok(End { nng, socket })
    };
    let outbox = |way: &str| {
        let end = opened(nng.push)?;
        let address = address(way);
        retry("nng_dial", || {
            // SAFETY: the socket is open, the address ends in a zero byte.
            checked("nng_dial", unsafe { (nng.dial)(end.socket, address.as_ptr(), null_mut(), 0) })
        })?;
        Ok(Out(end))
    };
    let inbox = |way: &str| {
        let end = opened(nng.pull)?;
        // SAFETY: the socket is open, the address ends in a zero byte.
        checked("nng_listen", unsafe { (nng.listen)(end.socket, address(way).as_ptr(), null_mut(), 0) })?;
        Ok(In(end))
    };
    with_free_threads(|| parts::open::<W, _, _>(cell, role, outbox, inbox))?
}

fn checked(call: &str, result: c_int) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(failed(call, format!("error {result}"))) }
}

struct End {
    nng: Nng,
    socket: u32,
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: the socket is open and closed once.
        unsafe { (self.nng.close)(self.socket) };
    }
}

struct Out(End);

impl<const W: usize> Outbox<W> for Out {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        let bytes = bytes_of(&words);
        // SAFETY: the socket is open, the bytes live until the call returns.
        checked("nng_send", unsafe {
            (self.0.nng.send)(self.0.socket, bytes.as_ptr().cast(), bytes.len(), 0)
        })
    }
}

struct In(End);

impl<const W: usize> Inbox<W> for In {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut words = [0_u64; W];
        let mut bytes = W * 8;
        // SAFETY: the socket is open, there is room for as many bytes as we say.
        let result = unsafe { (self.0.nng.receive)(self.0.socket, words.as_mut_ptr().cast(), &mut bytes, 0) };
        checked("nng_recv", result)?;
        see(if bytes == W * 8 { seen(&words) } else { None });
        Ok(())
    }
}
