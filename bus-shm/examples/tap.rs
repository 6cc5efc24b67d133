//! A tap: a reader that never holds anybody back. A group that reads slowly makes publishers wait, since nothing that it has
//! not finished is overwritten; a tap is overtaken instead, notices, and counts what it missed. For displays and logs.

use bus_shm::{Bus, Bytes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-tap").temporary(true).open()?;
    // A small ring, so that something is overwritten soon.
    let topic = bus.topic_builder::<Bytes>("market.tick").capacity(64).open()?;
    let mut trader = topic.group("trader").join()?;
    let mut display = topic.tap()?;
    let mut publisher = topic.publisher()?;

    let mut traded = 0_u64;
    for tick in 0..1_000_u64 {
        publisher.publish(&tick.to_le_bytes())?;
        let message = trader.receive()?;
        assert_eq!(message.payload(), tick.to_le_bytes());
        message.ack()?;
        traded += 1;
    }

    // The display looks only now, long after most has been overwritten. What it reads is whole all the same.
    let mut shown = 0;
    while let Some(message) = display.try_receive()? {
        assert_eq!(message.payload(), message.sequence().to_le_bytes());
        message.ack()?;
        shown += 1;
    }
    println!("the trader received all {traded}");
    println!("the display received {shown} and missed {}", display.missed_count());
    if let Some((lane, from, until)) = display.take_missed() {
        println!("the last gap was {from}..{until} in lane {}", lane.name(topic.lanes()));
    }
    assert_eq!(shown + display.missed_count(), traded);
    Ok(())
}
