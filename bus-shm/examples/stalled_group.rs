//! A group that lets go when it stands still: the others live, and it learns exactly what it has missed.

use bus_shm::{Bus, Bytes, Stall, StallPolicy};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-stalled-group").temporary(true).open()?;
    let topic = bus.topic_builder::<Bytes>("market.tick").lanes(1).capacity(64).open()?;
    let stall = Stall { after: Some(Duration::from_millis(100)), lag: None, policy: StallPolicy::LetGo };
    let mut slow = topic.group("slow").stall(stall).join()?;
    let mut quick = topic.group("quick").join()?;
    let mut publisher = topic.publisher()?;

    // The slow one reads nothing. The ring is full after 64 messages; 100 ms later it is let go, and the quick one gets all.
    let mut received = 0_u64;
    for tick in 0..1_000_u64 {
        publisher.publish(&tick.to_le_bytes())?;
        quick.receive()?.ack()?;
        received += 1;
    }
    println!("the quick group received all {received}");

    // Now it comes back: told what is gone, and reliable from there.
    let mut count = 0;
    while let Some(message) = slow.try_receive()? {
        message.ack()?;
        count += 1;
    }
    println!("the slow group received {count} and missed {}", slow.missed_count());
    if let Some((_, from, until)) = slow.take_missed() {
        println!("it missed {from}..{until}");
    }
    assert_eq!(count + slow.missed_count(), received);
    Ok(())
}
