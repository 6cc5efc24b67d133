//! Batches: many messages are published with one look at sleeping readers, and many are acknowledged with one step. A
//! reader can also ask for at least so many, and wait for them no longer than so long.

use bus_shm::{Bus, Lane};
use std::time::Duration;

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Sample {
    sensor: u32,
    celsius: f32,
}
bus_shm::message!(Sample, version 1, { sensor, celsius });

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-batch").temporary(true).open()?;
    let topic = bus.topic::<Sample>("sensor.temperature")?;
    let mut recorder = topic.group("recorder").join()?;
    let mut publisher = topic.publisher()?;

    let samples: Vec<_> = (0..100).map(|sensor| Sample { sensor, celsius: 20.5 }).collect();
    println!("published {} at once", publisher.publish_batch(Lane::NORMAL, &samples)?);

    // At least 10 of them, at most 64, and after a second whatever there is then.
    let mut batch = recorder.receive_batch(10, 64, Duration::from_secs(1))?;
    let mut sum = 0.0;
    while let Some(sample) = batch.next_message()? {
        let value = sample.value()?;
        assert_eq!(u64::from(value.sensor.to_native()), sample.sequence());
        sum += value.celsius.to_native();
    }
    println!("received {}, on average {:.1} degrees", batch.len(), sum / batch.len() as f32);
    // The work on all of them is done: they are acknowledged together.
    batch.ack();

    // A batch that is dropped without comes again, every message marked, and each in a batch of its own: if one of them
    // kills its consumer, it is to be known which.
    let mut batch = recorder.receive_batch(1, 64, Duration::from_secs(1))?;
    while batch.next_message()?.is_some() {}
    let dropped = batch.len();
    println!("received {dropped} and dropped them");
    drop(batch);
    let mut redelivered = 0;
    for _ in 0..dropped {
        let mut batch = recorder.receive_batch(1, 64, Duration::from_secs(1))?;
        while let Some(sample) = batch.next_message()? {
            redelivered += u32::from(sample.is_redelivered());
        }
        assert_eq!(batch.ack(), 1);
    }
    println!("received {dropped} again, {redelivered} of them marked as redelivered");

    // Nothing more comes: the call returns when its time is up, with an empty batch.
    let batch = recorder.receive_batch(1, 64, Duration::from_millis(10))?;
    assert!(batch.is_empty());
    println!("then nothing");
    Ok(())
}
