//! A Unix socket that keeps messages apart (SOCK_SEQPACKET), one call a message or many messages a call.

use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};

use bus_bench::guest::Part;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, connect, listen, socket};

use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, failed, failed_call, retry, seen};

/// Messages a call, and bytes that the kernel is asked to buffer, at the best settings.
const BATCH: usize = 64;
const KERNEL_BYTES: usize = 1 << 20;

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let batch = if cell.tuned { BATCH } else { 1 };
    let new =
        || socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).map_err(|error| failed("socket", error));
    let address = |way: &str| {
        SocketAddrUnix::new(cell.path(way)).map_err(|error| failed("the address of a socket", error))
    };
    let outbox = |way: &str| {
        let (socket, address) = (new()?, address(way)?);
        retry("connecting", || connect(&socket, &address))?;
        if cell.tuned {
            let _ = set_socket_send_buffer_size(&socket, KERNEL_BYTES);
        }
        Ok(Out { socket, messages: vec![[0; W]; batch], used: 0 })
    };
    let inbox = |way: &str| {
        let listener = new()?;
        bind(&listener, &address(way)?).map_err(|error| failed("bind", error))?;
        listen(&listener, 1).map_err(|error| failed("listen", error))?;
        let socket = accept(&listener).map_err(|error| failed("accept", error))?;
        if cell.tuned {
            let _ = set_socket_recv_buffer_size(&socket, KERNEL_BYTES);
        }
        Ok(In { socket, messages: vec![[0; W]; batch] })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

/// One entry for each message, each of a single piece.
fn headers<const W: usize>(
    messages: &mut [[u64; W]],
    pieces: &mut [libc::iovec; BATCH],
    headers: &mut [libc::mmsghdr; BATCH],
) {
    for ((message, piece), header) in messages.iter_mut().zip(pieces).zip(headers) {
        *piece = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: W * 8 };
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
    }
}

struct Out<const W: usize> {
    socket: OwnedFd,
    messages: Vec<[u64; W]>,
    used: usize,
}

impl<const W: usize> Outbox<W> for Out<W> {
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        write(&mut self.messages[self.used]);
        self.used += 1;
        if self.used == self.messages.len() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.used {
            let messages = &mut self.messages[sent..self.used];
            // SAFETY: all zeros are valid for both, plain C structures.
            let (mut pieces, mut list) = unsafe { (zeroed(), zeroed()) };
            headers(messages, &mut pieces, &mut list);
            // SAFETY: the entries name messages that live until the call returns, and there are as many as we say.
            let count = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    list.as_mut_ptr(),
                    messages.len() as u32,
                    libc::MSG_NOSIGNAL,
                )
            };
            if count < 0 {
                return Err(failed_call("sendmmsg"));
            }
            sent += count as usize;
        }
        self.used = 0;
        Ok(())
    }
}

struct In<const W: usize> {
    socket: OwnedFd,
    messages: Vec<[u64; W]>,
}

impl<const W: usize> Inbox<W> for In<W> {
    fn receive(&mut self, max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let most = max.min(self.messages.len());
        // SAFETY: all zeros are valid for both, plain C structures.
        let (mut pieces, mut list) = unsafe { (zeroed(), zeroed::<[libc::mmsghdr; BATCH]>()) };
        headers(&mut self.messages[..most], &mut pieces, &mut list);
        // SAFETY: the entries name messages that live until the call returns, and there are as many as we say.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                list.as_mut_ptr(),
                most as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(failed_call("recvmmsg"));
        }
        for (message, header) in self.messages.iter().zip(&list).take(count as usize) {
            if header.msg_len == 0 {
                return Err(failed("recvmmsg", "the other side has gone"));
            }
            see(if header.msg_len as usize == W * 8 { seen(message) } else { None });
        }
        Ok(())
    }
}
