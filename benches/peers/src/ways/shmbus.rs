//! The bus itself, through its public interface.

use std::rc::Rc;
use std::time::Duration;

use bus_bench::content::check;
use bus_bench::guest::{ArchivedBlock, Block, Part};
use bus_shm::{Bus, Publisher, Subscriber, Topic, Wait};

use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, failed};

/// How long a publisher waits for room, and a reader for a batch.
const DEADLINE: Duration = Duration::from_secs(10);

/// The bus of a cell; `host` for the process that is not measured.
pub(crate) fn bus(cell: &Cell, service: &str, host: bool) -> Result<Bus> {
    Bus::builder(&cell.name)
        .dir(&cell.directory)
        .service(service)
        .temporary(true)
        .host(host)
        .open()
        .map_err(|error| failed("opening the bus", error))
}

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    let bus = Rc::new(bus(cell, if role == 0 { "first" } else { "second" }, false)?);
    let topic = |way: &str| -> Result<Topic<Block<W>>> {
        let mut builder = bus.topic_builder::<Block<W>>(way);
        if cell.ours.one_producer {
            builder = builder.producers(1);
            if cell.ours.tuned {
                // The whole message in its slot.
                builder = builder.inline_bytes((W * 8) as u32);
            }
        }
        if cell.ours.tuned {
            builder = builder.stamps(false);
        }
        builder.open().map_err(|error| failed("opening a topic", error))
    };
    let outbox = |way: &str| {
        let mut to = topic(way)?.publisher().map_err(|error| failed("attaching a publisher", error))?;
        to.set_deadline(DEADLINE);
        Ok(Out { to, block: Block::new(), _bus: Rc::clone(&bus) })
    };
    let inbox = |way: &str| {
        let mut builder = topic(way)?.subscriber();
        if cell.ours.tap {
            builder = builder.tap();
        }
        let wait = if cell.ours.spin { Wait::Spin } else { Wait::Adaptive };
        let from = builder.wait(wait).join().map_err(|error| failed("subscribing", error))?;
        Ok(In { from, batches: cell.ours.tuned, _bus: Rc::clone(&bus) })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct Out<const W: usize> {
    to: Publisher<Block<W>>,
    block: Block<W>,
    _bus: Rc<Bus>,
}

impl<const W: usize> Outbox<W> for Out<W> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        write(&mut self.block.words);
        match self.to.publish(&self.block) {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("publishing", error)),
        }
    }
}

struct In<const W: usize> {
    from: Subscriber<Block<W>>,
    batches: bool,
    _bus: Rc<Bus>,
}

#[inline(always)]
fn content<const W: usize>(block: &ArchivedBlock<W>) -> Seen {
    check(W, |index| block.words[index].to_native())
}

impl<const W: usize> Inbox<W> for In<W> {
    #[inline(always)]
    fn receive(&mut self, max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        if max == 1 || !self.batches {
            let message = self.from.receive().map_err(|error| failed("receiving", error))?;
            see(message.value().ok().and_then(content));
            // The group has one member: it is nobody else's.
            let _ = message.ack();
            return Ok(());
        }
        let mut batch =
            self.from.receive_batch(1, max, DEADLINE).map_err(|error| failed("receiving a batch", error))?;
        while let Some(message) =
            batch.next_message().map_err(|error| failed("receiving in a batch", error))?
        {
            see(message.value().ok().and_then(content));
        }
        batch.ack();
        Ok(())
    }
}
