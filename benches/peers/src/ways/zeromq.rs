//! ZeroMQ over a Unix socket: PUSH and PULL with a longer queue (best), PUB and SUB as they come; to several readers PUB and
//! SUB in both cases, and a PUB that waits instead of dropping messages as the best.

use std::ffi::{CString, c_int};

use bus_bench::guest::Part;

use super::library::{Socket, Zmq, with_free_threads};
use crate::parts;
use crate::way::{Cell, Inbox, Kind, Outbox, Result, Seen, bytes_of, failed_call, seen};

// Numbers of zmq.h.
const SUB: c_int = 2;
const PULL: c_int = 7;
const PUSH: c_int = 8;
const XPUB: c_int = 9;
const SUBSCRIBE: c_int = 6;
const LINGER: c_int = 17;
const SNDHWM: c_int = 23;
const RCVHWM: c_int = 24;
const XPUB_VERBOSE: c_int = 40;
const XPUB_NODROP: c_int = 69;

/// Messages that wait on each side, at the best settings; 1,000 is what one gets.
const QUEUE: c_int = 10_000;

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let zmq = Zmq::load(&cell.server)?;
    // SAFETY: no argument; the context lives as long as the process.
    let context = unsafe { (zmq.context)() };
    let address = |way: &str| CString::new(format!("ipc://{}", cell.path(way).display())).unwrap_or_default();
    let socket = |kind: c_int| -> Result<End> {
        // SAFETY: the context was made above.
        let socket = unsafe { (zmq.socket)(context, kind) };
        if socket.is_null() {
            return Err(failed_call("zmq_socket"));
        }
        let end = End { zmq, socket };
        end.set(LINGER, 0)?;
        if cell.tuned {
            end.set(SNDHWM, QUEUE)?;
            end.set(RCVHWM, QUEUE)?;
        }
        Ok(end)
    };
    let publishes = !cell.tuned || cell.kind == Kind::FanOut;
    let outbox = |way: &str| {
        let end = socket(if publishes { XPUB } else { PUSH })?;
        if publishes {
            end.set(XPUB_VERBOSE, 1)?;
            end.set(XPUB_NODROP, c_int::from(cell.tuned))?;
        }
        // SAFETY: the socket is open, the address ends in a zero byte.
        if unsafe { (zmq.bind)(end.socket, address(way).as_ptr()) } != 0 {
            return Err(failed_call("zmq_bind"));
        }
        for _ in 0..if publishes { cell.readers } else { 0 } {
            // An XPUB hears of each subscriber, a PUB would throw away what it sends before that.
            let mut byte = [0_u8; 8];
            // SAFETY: there is room for eight bytes.
            unsafe { (zmq.receive)(end.socket, byte.as_mut_ptr().cast(), byte.len(), 0) };
        }
        Ok(Out(end))
    };
    let inbox = |way: &str| {
        let end = socket(if publishes { SUB } else { PULL })?;
        // SAFETY: the socket is open, the address ends in a zero byte; the option's value has no bytes.
        let bad = unsafe {
            (publishes && (zmq.set)(end.socket, SUBSCRIBE, std::ptr::null(), 0) != 0)
                || (zmq.connect)(end.socket, address(way).as_ptr()) != 0
        };
        if bad { Err(failed_call("zmq_connect")) } else { Ok(In(end)) }
    };
    with_free_threads(|| parts::open::<W, _, _>(cell, role, outbox, inbox))?
}

struct End {
    zmq: Zmq,
    socket: Socket,
}

impl End {
    fn set(&self, option: c_int, value: c_int) -> Result<()> {
        // SAFETY: the socket is open; these options take an int.
        let result =
            unsafe { (self.zmq.set)(self.socket, option, (&raw const value).cast(), size_of::<c_int>()) };
        if result == 0 { Ok(()) } else { Err(failed_call("zmq_setsockopt")) }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: the socket is open and closed once.
        unsafe { (self.zmq.close)(self.socket) };
    }
}

struct Out(End);

impl<const W: usize> Outbox<W> for Out {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        let bytes = bytes_of(&words);
        // SAFETY: the socket is open, the bytes live until the call returns.
        if unsafe { (self.0.zmq.send)(self.0.socket, bytes.as_ptr().cast(), bytes.len(), 0) } < 0 {
            return Err(failed_call("zmq_send"));
        }
        Ok(())
    }
}

struct In(End);

impl<const W: usize> Inbox<W> for In {
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut words = [0_u64; W];
        // SAFETY: the socket is open, there is room for W * 8 bytes.
        let bytes = unsafe { (self.0.zmq.receive)(self.0.socket, words.as_mut_ptr().cast(), W * 8, 0) };
        if bytes < 0 {
            return Err(failed_call("zmq_recv"));
        }
        see(if bytes as usize == W * 8 { seen(&words) } else { None });
        Ok(())
    }
}
