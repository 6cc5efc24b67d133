//! A quota: so many messages a second for each publisher. Who is over it is told at once when to come again; who does come
//! then gets through. It is changed while publishers run, here from the program, or by `shmbus quota`.

use bus_shm::{Bus, Bytes, Overflow, PublishError, Quota};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-quota").temporary(true).open()?;
    let quota = Quota::messages(200).burst(Duration::from_millis(100));
    let topic = bus.topic_builder::<Bytes>("log.line").overflow(Overflow::KeepNewest).quota(quota).open()?;
    let mut publisher = topic.publisher()?;

    let begun = Instant::now();
    let (mut published, mut throttled) = (0, 0);
    while published < 100 {
        match publisher.publish(b"a line") {
            Ok(_) => published += 1,
            Err(PublishError::Throttled { retry_after, limit, .. }) => {
                if throttled == 0 {
                    println!("the first {published} at once, then: over the quota of {limit}");
                }
                throttled += 1;
                std::thread::sleep(retry_after);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // 20 at once, 80 at 200 a second.
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    println!("100 lines kept to the quota");

    topic.set_quota(None, None)?;
    for _ in 0..10_000 {
        publisher.publish(b"a line")?;
    }
    println!("10000 more without one");
    Ok(())
}
