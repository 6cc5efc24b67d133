//! ringfire: a ring in shared memory, payloads copied in and out.

use bus_bench::guest::Part;
use ringfire::{
    BusySpin, FlowControl, FutexWait, RingConsumer, RingProducer, RingProducerBuilder, WaitStrategy,
};

use super::SLOTS;
use crate::parts;
use crate::way::{Cell, Inbox, Kind, Outbox, Result, Seen, failed, retry, seen};

/// Messages of one call.
const BATCH: usize = 64;

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let (lossless, lossy) = (FlowControl::LosslessBackpressure, FlowControl::LossyLatestWins);
    let (slots, flow, batch) = match (cell.as_its_own, cell.kind) {
        (false, _) if cell.tuned => (SLOTS, lossless, BATCH),
        (false, _) => (SLOTS, lossy, 1),
        (true, Kind::Latency) => (4_096, lossy, 1),
        (true, _) => (65_536, lossless, 1),
    };
    let outbox = |way: &str| {
        let mut builder = RingProducerBuilder::new(slots).flow_control(flow);
        if cell.as_its_own && cell.kind != Kind::Latency {
            builder = builder.max_readers(4);
        }
        let to = builder.build(cell.path(way)).map_err(|error| failed("creating a ring", error))?;
        Ok(Out { to, messages: vec![[0; W]; batch], used: 0 })
    };
    let inbox = |way: &str| {
        let from = retry("attaching to a ring", || {
            RingConsumer::builder().start_from_head().attach(cell.path(way))
        })?;
        Ok(In { from, batch: vec![[0; W]; BATCH], tuned: cell.tuned })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct Out<const W: usize> {
    to: RingProducer<[u64; W]>,
    messages: Vec<[u64; W]>,
    used: usize,
}

impl<const W: usize> Outbox<W> for Out<W> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        write(&mut self.messages[self.used]);
        self.used += 1;
        if self.used == self.messages.len() { self.flush() } else { Ok(()) }
    }

    #[inline(always)]
    fn flush(&mut self) -> Result<()> {
        self.to.push_batch(&self.messages[..self.used]);
        self.used = 0;
        Ok(())
    }
}

struct In<const W: usize> {
    from: RingConsumer<[u64; W]>,
    batch: Vec<[u64; W]>,
    tuned: bool,
}

impl<const W: usize> In<W> {
    #[inline(always)]
    fn one(&mut self, mut wait: impl WaitStrategy, mut see: impl FnMut(Seen)) {
        see(seen(&self.from.recv_blocking(&mut wait)));
    }
}

impl<const W: usize> Inbox<W> for In<W> {
    #[inline(always)]
    fn receive(&mut self, max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        if !self.tuned {
            self.one(FutexWait::default(), see);
        } else if max == 1 {
            self.one(BusySpin, see);
        } else {
            let mut count = 0;
            while count == 0 {
                count = self.from.recv_batch(&mut self.batch);
            }
            self.batch[..count].iter().for_each(|words| see(seen(words)));
        }
        Ok(())
    }
}
