//! nng over a Unix socket: push and pull, with longer queues (best) or as they come.

use std::ffi::CString;
use std::ptr::null_mut;

use bus_bench::guest::Part;

use super::library::Nng;
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed, retry, seen};

/// Messages that wait on each side, at the best settings: as many as the library takes.
const QUEUE: i32 = 8_192;

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let nng = Nng::load(&cell.server)?;
    let address = |way: &str| CString::new(format!("ipc://{}", cell.path(way).display())).unwrap_or_default();
    let outbox = |way: &str| {
        let mut socket = 0;
        // SAFETY: there is room for the socket's number.
        checked("nng_push0_open", unsafe { (nng.push)(&mut socket) })?;
        let end = End { nng, socket };
        if cell.tuned {
            // SAFETY: the socket is open, the name ends in a zero byte.
            checked("send-buffer", unsafe { (nng.set_int)(socket, c"send-buffer".as_ptr(), QUEUE) })?;
        }
        // SAFETY: the socket is open, the address ends in a zero byte.
        retry("nng_dial", || {
            checked("nng_dial", unsafe { (nng.dial)(socket, address(way).as_ptr(), null_mut(), 0) })
        })?;
        Ok(Out(end))
    };
    let inbox = |way: &str| {
        let mut socket = 0;
        // SAFETY: there is room for the socket's number.
        checked("nng_pull0_open", unsafe { (nng.pull)(&mut socket) })?;
        let end = End { nng, socket };
        // SAFETY: the socket is open, the address ends in a zero byte.
        checked("nng_listen", unsafe { (nng.listen)(socket, address(way).as_ptr(), null_mut(), 0) })?;
        Ok(In(end))
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

fn checked(call: &str, result: i32) -> Result<()> {
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
