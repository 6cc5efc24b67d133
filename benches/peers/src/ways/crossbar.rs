//! crossbar: the bounded bus of plain values, which loses nothing (best), and the pool of blocks (as it comes).

use bus_bench::guest::Part;
use crossbar::{BusSubscriber, Config, PodBus, Publisher, Stream, Subscriber, Topic};

use super::SLOTS;
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, bytes_of, failed, retry, seen, seen_bytes};

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let name = |way: &str| format!("{}-{way}", cell.name);
    if cell.tuned {
        let outbox = |way: &str| {
            let bus = if cell.as_its_own {
                PodBus::create(&name(way), 4_096)
            } else {
                PodBus::create_bounded(&name(way), SLOTS as usize, 0)
            };
            Ok(BusOut(bus.map_err(|error| failed("creating a bus", error))?))
        };
        let inbox = |way: &str| {
            let from = retry("connecting to a bus", || BusSubscriber::connect(&name(way)))?;
            Ok(BusIn::<W>(from))
        };
        return parts::open::<W, _, _>(cell, role, outbox, inbox);
    }
    let outbox = |way: &str| {
        let mut to = Publisher::create(&name(way), Config::default())
            .map_err(|error| failed("creating a publisher", error))?;
        let topic = to.register("/messages").map_err(|error| failed("registering a topic", error))?;
        Ok(PoolOut { to, topic })
    };
    let inbox = |way: &str| {
        let subscriber = retry("connecting to a pool", || Subscriber::connect(&name(way)))?;
        let from = retry("subscribing", || subscriber.subscribe("/messages"))?;
        Ok(PoolIn { from, _subscriber: subscriber })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct BusOut<const W: usize>(PodBus<[u64; W]>);

impl<const W: usize> Outbox<W> for BusOut<W> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut words = [0; W];
        write(&mut words);
        while self.0.try_publish(words).is_err() {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

struct BusIn<const W: usize>(BusSubscriber<[u64; W]>);

impl<const W: usize> Inbox<W> for BusIn<W> {
    #[inline(always)]
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        loop {
            if let Some(words) = self.0.try_recv() {
                see(seen(&words));
                return Ok(());
            }
        }
    }
}

struct PoolOut {
    to: Publisher,
    topic: Topic,
}

impl<const W: usize> Outbox<W> for PoolOut {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut loan = self.to.loan(&self.topic).map_err(|error| failed("borrowing a block", error))?;
        let mut words = [0; W];
        write(&mut words);
        loan.set_data(bytes_of(&words)).map_err(|error| failed("filling a block", error))?;
        loan.publish();
        Ok(())
    }
}

/// The stream reads what the subscriber has mapped, and does not keep it mapped.
struct PoolIn {
    from: Stream,
    _subscriber: Subscriber,
}

impl<const W: usize> Inbox<W> for PoolIn {
    #[inline(always)]
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        let sample = self.from.recv().map_err(|error| failed("receiving a block", error))?;
        see(seen_bytes::<W>(&sample));
        Ok(())
    }
}
