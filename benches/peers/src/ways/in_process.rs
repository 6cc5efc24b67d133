//! Rings that cannot leave their process, as references: what the same work costs between two threads.

use bus_bench::guest::Part;
use crossbeam_channel::{Receiver, Sender, bounded};
use disruptor::{
    BusySpin, EventPoller, Producer, SingleConsumerBarrier, SingleProducer, SingleProducerBarrier,
    build_single_producer,
};

use super::SLOTS;
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, failed, seen};

pub(crate) fn open_rtrb<const W: usize>(cell: &Cell) -> Result<Box<dyn Part>> {
    parts::open_together::<W, _, _>(cell, || Ok(rtrb::RingBuffer::<[u64; W]>::new(SLOTS as usize)))
}

impl<const W: usize> Outbox<W> for rtrb::Producer<[u64; W]> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        while let Err(rtrb::PushError::Full(back)) = self.push(words) {
            words = back;
            std::hint::spin_loop();
        }
        Ok(())
    }
}

impl<const W: usize> Inbox<W> for rtrb::Consumer<[u64; W]> {
    #[inline(always)]
    fn receive(&mut self, max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let mut ready = 0;
        while ready == 0 {
            ready = self.slots().min(max);
        }
        let chunk = self.read_chunk(ready).map_err(|error| failed("reading a chunk", error))?;
        let (first, second) = chunk.as_slices();
        first.iter().chain(second).for_each(|words| see(seen(words)));
        chunk.commit_all();
        Ok(())
    }
}

pub(crate) fn open_crossbeam<const W: usize>(cell: &Cell) -> Result<Box<dyn Part>> {
    parts::open_together::<W, _, _>(cell, || Ok(bounded::<[u64; W]>(SLOTS as usize)))
}

impl<const W: usize> Outbox<W> for Sender<[u64; W]> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        Self::send(self, words).map_err(|_| failed("sending", "the other side has gone"))
    }
}

impl<const W: usize> Inbox<W> for Receiver<[u64; W]> {
    #[inline(always)]
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        see(seen(&self.recv().map_err(|error| failed("receiving", error))?));
        Ok(())
    }
}

pub(crate) fn open_disruptor<const W: usize>(cell: &Cell) -> Result<Box<dyn Part>> {
    parts::open_together::<W, _, _>(cell, || {
        let builder = build_single_producer(SLOTS as usize, || [0_u64; W], BusySpin);
        let (poller, builder) = builder.new_event_poller();
        Ok((builder.build(), poller))
    })
}

impl<const W: usize> Outbox<W> for SingleProducer<[u64; W], SingleConsumerBarrier> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        self.publish(write);
        Ok(())
    }
}

impl<const W: usize> Inbox<W> for EventPoller<[u64; W], SingleProducerBarrier> {
    #[inline(always)]
    fn receive(&mut self, max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        loop {
            if let Ok(mut events) = self.take(max as u64) {
                (&mut events).for_each(|words| see(seen(words)));
                return Ok(());
            }
        }
    }
}
