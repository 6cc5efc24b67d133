//! Many small messages for a reader that sleeps between them: the publisher rings once for several, the reader takes them as a batch.
//! Each message is published at once all the same, and urgent lanes ring at once.

use bus_shm::{Bus, Bytes, Lane, Wait};
use std::time::Duration;

const MESSAGES: u64 = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let bus = Bus::builder("example-linger").temporary(true).open()?;
    let topic = bus.topic_builder::<Bytes>("log.line").with_group("writer").open()?;
    let reader_topic = topic.clone();
    let reader =
        std::thread::spawn(move || -> Result<(u64, u64), Box<dyn std::error::Error + Send + Sync>> {
            let mut writer = reader_topic.group("writer").wait(Wait::Park).join()?;
            let (mut messages, mut batches) = (0, 0);
            while messages < MESSAGES {
                // The window: at most 100 in hand, and those there are after 5 ms at the latest.
                let mut batch = writer.receive_batch(100, 100, Duration::from_millis(5))?;
                while batch.next_message()?.is_some() {}
                batches += u64::from(!batch.is_empty());
                messages += batch.ack() as u64;
            }
            Ok((messages, batches))
        });
    let mut publisher = topic.publisher()?;
    let mut lingering = publisher.lingering(100, Duration::from_millis(1));
    for number in 0..MESSAGES {
        lingering.publish_bytes(Lane::NORMAL, &number.to_le_bytes())?;
    }
    drop(lingering);
    let (messages, batches) = reader.join().expect("the reader does not panic")?;
    println!("{messages} messages in fewer batches: {}", batches < messages / 5);
    Ok(())
}
