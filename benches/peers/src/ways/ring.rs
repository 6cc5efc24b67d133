//! What one would write oneself: a ring in shared memory, and an eventfd for a reader that sleeps. One producer, one
//! reader; nothing survives a death, nothing is checked.

use std::fs::OpenOptions;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use bus_bench::guest::Part;
use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::SLOTS;
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, failed, retry, seen};

/// How long the reader looks before it sleeps, at the best settings: as long as ours.
const SPIN: Duration = Duration::from_micros(25);

#[repr(C, align(128))]
struct Padded<T>(T);

/// Start of the mapping; the slots follow at `SLOTS_AT`.
#[repr(C)]
struct Header {
    head: Padded<AtomicU64>,
    tail: Padded<AtomicU64>,
    asleep: Padded<AtomicBool>,
}

const SLOTS_AT: usize = 512;
const _: () = assert!(size_of::<Header>() <= SLOTS_AT);

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let outbox = |way: &str| {
        let socket = retry("connecting", || UnixStream::connect(cell.path(&format!("{way}.socket"))))?;
        let bell = take_descriptor(&socket)?;
        let ring = Ring::<W>::map(cell, way)?;
        Ok(Out { ring, bell, number: 0, freed: 0 })
    };
    let inbox = |way: &str| {
        let ring = Ring::<W>::map(cell, way)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed("eventfd", error))?;
        let path = cell.path(&format!("{way}.socket"));
        let listener = UnixListener::bind(path).map_err(|error| failed("listening", error))?;
        let (socket, _) = listener.accept().map_err(|error| failed("accepting", error))?;
        give_descriptor(&socket, &bell)?;
        Ok(In { ring, bell, number: 0, spin: cell.tuned })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

fn give_descriptor(socket: &UnixStream, descriptor: &OwnedFd) -> Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(b"e")], &mut control, SendFlags::empty())
        .map_err(|error| failed("sending a descriptor", error))?;
    Ok(())
}

fn take_descriptor(socket: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| failed("receiving a descriptor", error))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(failed("receiving a descriptor", "none came"))
}

struct Ring<const W: usize>(MmapRaw);

impl<const W: usize> Ring<W> {
    fn map(cell: &Cell, way: &str) -> Result<Self> {
        let bytes = SLOTS_AT + SLOTS as usize * W * 8;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(cell.path(way))
            .map_err(|error| failed("opening the ring", error))?;
        file.set_len(bytes as u64).map_err(|error| failed("sizing the ring", error))?;
        let map = MmapOptions::new().len(bytes).populate().map_raw(&file);
        map.map(Self).map_err(|error| failed("mapping the ring", error))
    }

    #[inline(always)]
    fn header(&self) -> &Header {
        // SAFETY: the mapping is long enough and page-aligned; the header consists of atomics, for which every bit
        // pattern of a new file is valid.
        unsafe { &*self.0.as_mut_ptr().cast() }
    }

    #[inline(always)]
    fn slot(&self, number: u64) -> *mut [u64; W] {
        // SAFETY: SLOTS slots follow the header.
        unsafe { self.0.as_mut_ptr().add(SLOTS_AT).cast::<[u64; W]>().add((number % SLOTS) as usize) }
    }
}

struct Out<const W: usize> {
    ring: Ring<W>,
    bell: OwnedFd,
    number: u64,
    /// The reader is known to be past this.
    freed: u64,
}

impl<const W: usize> Outbox<W> for Out<W> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let header = self.ring.header();
        while self.number - self.freed >= SLOTS {
            // Acquire: pairs with the reader's store; it has read what was there.
            self.freed = header.tail.0.load(Ordering::Acquire);
            std::hint::spin_loop();
        }
        // SAFETY: the reader is past this slot and does not look at it before `head` is.
        write(unsafe { &mut *self.ring.slot(self.number) });
        self.number += 1;
        // Release: the message is visible before its number.
        header.head.0.store(self.number, Ordering::Release);
        // SeqCst: with the reader's fence, either it sees the message or we see it asleep.
        fence(Ordering::SeqCst);
        if header.asleep.0.load(Ordering::Relaxed) && header.asleep.0.swap(false, Ordering::Relaxed) {
            rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).map_err(|error| failed("ringing", error))?;
        }
        Ok(())
    }
}

struct In<const W: usize> {
    ring: Ring<W>,
    bell: OwnedFd,
    number: u64,
    spin: bool,
}

impl<const W: usize> In<W> {
    #[inline(always)]
    fn head(&self) -> u64 {
        // Acquire: pairs with the producer's Release.
        self.ring.header().head.0.load(Ordering::Acquire)
    }

    #[cold]
    fn wait(&self) -> Result<u64> {
        let begun = Instant::now();
        while self.spin && begun.elapsed() < SPIN {
            for _ in 0..32 {
                let head = self.head();
                if head != self.number {
                    return Ok(head);
                }
                std::hint::spin_loop();
            }
        }
        loop {
            self.ring.header().asleep.0.store(true, Ordering::Relaxed);
            // SeqCst: see the producer's.
            fence(Ordering::SeqCst);
            let head = self.head();
            if head != self.number {
                self.ring.header().asleep.0.store(false, Ordering::Relaxed);
                return Ok(head);
            }
            rustix::io::read(&self.bell, &mut [0; 8]).map_err(|error| failed("sleeping", error))?;
        }
    }
}

impl<const W: usize> Inbox<W> for In<W> {
    #[inline(always)]
    fn receive(&mut self, max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut head = self.head();
        if head == self.number {
            head = self.wait()?;
        }
        let end = head.min(self.number + max as u64);
        while self.number < end {
            // SAFETY: the message is there, and the producer leaves it alone until `tail` is past it.
            see(seen(unsafe { &*self.ring.slot(self.number) }));
            self.number += 1;
        }
        // Release: read before the slot is free.
        self.ring.header().tail.0.store(self.number, Ordering::Release);
        Ok(())
    }
}
