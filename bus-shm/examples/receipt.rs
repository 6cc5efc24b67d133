//! A publisher that wants to know: what became of its orders, in a group of one and in a group of many.

use bus_shm::{Bus, Bytes, Lane, Outcome};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-receipt").service("shop").temporary(true).open()?;
    let orders = bus.topic::<Bytes>("shop.order")?;
    let mut billing = orders.group("billing").handler("charge").join()?;
    let mut shipping = orders.group("shipping").shared().join()?;

    let receipts = orders.receipts("billing")?;
    let mut publisher = orders.publisher()?;
    let good = publisher.publish(b"2 books")?;
    let bad = publisher.publish(b"1 elephant")?;
    println!("before anybody has looked: {}", receipts.look(Lane::NORMAL, good).name());

    // The other side, in another process as a rule.
    let worker = std::thread::spawn(move || -> Result<(), bus_shm::ReceiveError> {
        billing.receive()?.ack()?;
        billing.receive()?.reject("no price for elephants")
    });
    match receipts.receipt(Lane::NORMAL, good).wait(Duration::from_secs(5))? {
        Outcome::Handled => println!("the books are paid for"),
        other => println!("the books: {}", other.name()),
    }
    if let Outcome::DeadLettered(Some(failed)) =
        receipts.receipt(Lane::NORMAL, bad).wait(Duration::from_secs(5))?
    {
        println!("the elephant: {} (handler {}, {} attempt)", failed.error, failed.handler, failed.attempts);
    }
    worker.join().expect("the worker")?;

    // Several groups, and all messages up to one of them.
    shipping.receive()?.ack()?;
    for (group, outcome) in orders.receipts_of(&["billing", "shipping"])?.look(Lane::NORMAL, good) {
        println!("{group}: {}", outcome.name());
    }
    let billed = receipts.wait_past(Lane::NORMAL, bad, Duration::ZERO)?;
    println!("billing is through: {billed}");
    Ok(())
}
