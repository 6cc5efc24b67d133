//! A circuit breaker: who meets a full lane until its deadline is refused at once for a second, so that it does not spend its
//! time waiting. The error says when to come again. Other lanes are not touched: what is critical passes.

use bus_shm::{Bus, Bytes, Lane, PublishError};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-breaker").temporary(true).open()?;
    // A small ring, and a worker that does not keep up.
    let topic = bus.topic_builder::<Bytes>("task.heavy").capacity(16).open()?;
    let mut worker = topic.group("worker").join()?;
    let mut publisher = topic.publisher()?;
    publisher.set_deadline(Duration::from_millis(50));

    let mut accepted = 0;
    let retry_after = loop {
        match publisher.publish(b"task") {
            Ok(_) => accepted += 1,
            Err(PublishError::Full(full)) => {
                println!("full after {accepted} tasks, {} held by the worker", full.lag_count)
            }
            Err(PublishError::CircuitOpen { reason, retry_after, .. }) => {
                println!("then refused at once: {}", reason.name());
                break retry_after;
            }
            Err(error) => return Err(error.into()),
        }
    };
    publisher.publish_bytes(Lane::CRITICAL, b"stop")?;
    println!("what is critical passes");

    // The worker catches up; after the time that was told, publications are let through, and the breaker closes by itself.
    while let Some(message) = worker.try_receive()? {
        message.ack()?;
    }
    let told = Instant::now();
    std::thread::sleep(retry_after);
    for _ in 0..3 {
        publisher.publish(b"task")?;
    }
    println!("published again within {} s", told.elapsed().as_secs_f64().ceil() + 1.0);
    Ok(())
}
