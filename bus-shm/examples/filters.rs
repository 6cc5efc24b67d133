//! Filters and samples: a subscriber is handed only what it wants. What the header says is looked at first; a payload is touched
//! only by a predicate, and only where everything else has let the message pass.

use bus_shm::{Bus, Lane, Meta};

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Reading {
    sensor: u32,
    celsius: f32,
}
bus_shm::message!(Reading, version 1, { sensor, celsius });

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-filters").temporary(true).open()?;
    let topic = bus.topic::<Reading>("plant.temperature")?;
    // A tenth of all, the same tenth for everybody who asks for it, and of that what is too hot.
    let mut spot_check = topic.group("spot-check").sample(0.1).join()?;
    let mut too_hot =
        topic.group("too-hot").sample(0.1).filter(|reading| reading.celsius.to_native() > 90.0).join()?;
    let mut boiler = topic.group("boiler").only_key("boiler").join()?;

    let mut publisher = topic.publisher()?;
    for number in 0..500_u32 {
        let meta = if number % 5 == 0 { Meta::new().key("boiler") } else { Meta::new() };
        let reading = Reading { sensor: number % 5, celsius: (number % 100) as f32 };
        publisher.publish_with(Lane::NORMAL, &reading, &meta)?;
    }
    for (name, subscriber) in
        [("spot check", &mut spot_check), ("too hot", &mut too_hot), ("boiler", &mut boiler)]
    {
        let mut count = 0;
        while let Some(message) = subscriber.try_receive()? {
            count += 1;
            message.ack()?;
        }
        println!("{name}: {count} handed out, {} left out", subscriber.filtered_count());
    }
    Ok(())
}
