//! Several handlers of one event: each has a group and a thread of its own, so that one that fails or panics harms nobody.

use bus_shm::handlers::Handlers;
use bus_shm::{Bus, Bytes};
use std::sync::mpsc::channel;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-handlers").temporary(true).open()?;
    let topic = bus.topic::<Bytes>("order.placed")?;
    let (done, finished) = channel();

    let mut handlers = Handlers::new();
    handlers.on("invoice", topic.group("invoice"), move |message| {
        let order: u32 = std::str::from_utf8(message.payload())?.parse()?;
        done.send(order)?;
        Ok(())
    })?;
    let careless = topic.group("careless").attempts(2).retry_delays(Duration::ZERO, Duration::ZERO);
    let (tried, tries) = channel();
    handlers.on("careless", careless, move |message| {
        tried.send(())?;
        assert!(message.payload() != b"3", "order 3 is more than this handler can bear");
        Ok(())
    })?;

    let mut publisher = topic.publisher()?;
    for order in 1..=5 {
        publisher.publish(order.to_string().as_bytes())?;
    }
    let invoiced: u32 = finished.iter().take(5).sum();
    println!("invoices for orders that add up to {invoiced}");
    // Five, and the third once more. Each handler finishes what it has in hand.
    tries.iter().take(6).for_each(drop);
    for handled in handlers.stop() {
        println!("{}: handled {}, panicked {}", handled.name, handled.handled_count, handled.panicked_count);
    }
    Ok(())
}
