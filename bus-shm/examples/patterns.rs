//! One subscription over many topics: by pattern, those that are created later included. It waits on all of them at once, and
//! takes urgent messages of any topic before ordinary ones of another.

use bus_shm::{Bus, Bytes, Lane};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-patterns").temporary(true).open()?;
    let mut email = bus.topic::<Bytes>("observation.email")?.publisher()?;

    // Everything below `observation`; `+` would be exactly one token.
    let mut observations = bus.subscribe_pattern::<Bytes>("observation.*").group("reasoner").join()?;

    email.publish(b"hello")?;
    email.publish_bytes(Lane::CRITICAL, b"fire")?;
    // This topic joins by itself, from its first message on.
    bus.topic::<Bytes>("observation.voice.call")?.publisher()?.publish(b"ring")?;

    for _ in 0..3 {
        let incoming = observations.receive_timeout(Duration::from_secs(5))?.ok_or("nothing came")?;
        println!("{}: {}", incoming.topic(), String::from_utf8_lossy(incoming.payload()));
        incoming.ack()?;
    }
    println!("{} topics", observations.topic_count());
    Ok(())
}
