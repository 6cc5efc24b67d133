//! iceoryx2: publish and subscribe over loaned samples in shared memory.

use bus_bench::guest::Part;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use super::SLOTS;
use crate::parts;
use crate::way::{Cell, Inbox, Outbox, Result, Seen, failed, retry, seen};

type Port<const W: usize> = PortFactory<ipc::Service, [u64; W], ()>;

/// Two ends may create the same service at the same time; both need it in the same shape.
fn service<const W: usize>(node: &Node<ipc::Service>, cell: &Cell, way: &str) -> Result<Port<W>> {
    let name = ServiceName::new(&format!("{}/{way}", cell.name)).map_err(|error| failed("a name", error))?;
    retry("opening a service", || {
        let mut builder = node.service_builder(&name).publish_subscribe::<[u64; W]>();
        if cell.tuned {
            builder = builder
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(SLOTS as usize)
                .history_size(0)
                .max_publishers(1)
                .max_subscribers(cell.readers);
        }
        builder.open_or_create()
    })
}

pub(crate) fn open<const W: usize>(cell: &Cell, role: usize) -> Result<Box<dyn Part>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    let root = Path::new(cell.directory.join("iceoryx2").to_string_lossy().as_bytes())
        .map_err(|error| failed("the root path", format!("{error:?}")))?;
    config.global.set_root_path(&root);
    config.global.prefix = FileName::new(format!("{}-", cell.name).as_bytes())
        .map_err(|error| failed("the prefix", format!("{error:?}")))?;
    // Both ends of this process belong to one node, and keep it.
    let node = std::rc::Rc::new(
        NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<ipc::Service>()
            .map_err(|error| failed("creating a node", error))?,
    );
    let outbox = |way: &str| {
        let service = service::<W>(&node, cell, way)?;
        let mut builder = service.publisher_builder();
        if cell.tuned {
            builder = builder.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
        }
        let to = builder.create().map_err(|error| failed("creating a publisher", error))?;
        Ok(Out { to, _service: service, _node: node.clone() })
    };
    let inbox = |way: &str| {
        let service = service::<W>(&node, cell, way)?;
        let mut builder = service.subscriber_builder();
        if cell.tuned {
            builder = builder.buffer_size(SLOTS as usize);
        }
        let from = builder.create().map_err(|error| failed("creating a subscriber", error))?;
        Ok(In { from, _service: service, _node: node.clone() })
    };
    parts::open::<W, _, _>(cell, role, outbox, inbox)
}

struct Out<const W: usize> {
    to: Publisher<ipc::Service, [u64; W], ()>,
    _service: Port<W>,
    _node: std::rc::Rc<Node<ipc::Service>>,
}

impl<const W: usize> Outbox<W> for Out<W> {
    #[inline(always)]
    fn send(&mut self, write: impl FnOnce(&mut [u64; W])) -> Result<()> {
        let mut sample = self.to.loan_uninit().map_err(|error| failed("borrowing a sample", error))?;
        // SAFETY: the sample is mapped memory of this size, for which every bit pattern is valid, and ours alone.
        write(unsafe { &mut *sample.payload_mut().as_mut_ptr() });
        // SAFETY: all words have been written.
        let sample = unsafe { sample.assume_init() };
        sample.send().map_err(|error| failed("sending a sample", error))?;
        Ok(())
    }
}

struct In<const W: usize> {
    from: Subscriber<ipc::Service, [u64; W], ()>,
    _service: Port<W>,
    _node: std::rc::Rc<Node<ipc::Service>>,
}

impl<const W: usize> Inbox<W> for In<W> {
    #[inline(always)]
    fn receive(&mut self, _max: usize, mut see: impl FnMut(Seen)) -> Result<()> {
        loop {
            if let Some(sample) = self.from.receive().map_err(|error| failed("receiving a sample", error))? {
                see(seen(sample.payload()));
                return Ok(());
            }
        }
    }
}
