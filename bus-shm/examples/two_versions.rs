//! Two versions of a payload type in one topic, while programs of both are in use. Every message names its type; a reader
//! gets those of the type that it reads, and the rest is passed over and counted.

use bus_shm::{Bus, inspect::BusView};

/// As the programs in use know it.
mod old {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) struct Position {
        pub(super) x: f32,
        pub(super) y: f32,
    }
    bus_shm::message!(Position, version 1, { x, y });
}

/// The same type in the next release: the name stays, the version goes up.
mod new {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) struct Position {
        pub(super) x: f32,
        pub(super) y: f32,
        pub(super) z: f32,
    }
    bus_shm::message!(Position, version 2, { x, y, z });
}

/// Something else altogether.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Battery {
    volts: f32,
}
bus_shm::message!(Battery, version 1, { volts });

const TOPIC: &str = "robot.position";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-two-versions").temporary(true).open()?;

    // A program of the old release creates the topic: it carries version 1.
    let old = bus.topic::<old::Position>(TOPIC)?;
    let mut old_reader = old.group("old-reader").join()?;

    // One of the new release speaks version 2 and accepts version 1 as well. What it has in common with the topic lets it
    // in, and its own version is added.
    let new = bus.topic_builder::<new::Position>(TOPIC).accepts::<old::Position>().open()?;
    let mut new_reader = new.group("new-reader").join()?;

    old.publisher()?.publish(&old::Position { x: 1.0, y: 2.0 })?;
    new.publisher()?.publish(&new::Position { x: 1.0, y: 2.0, z: 3.0 })?;

    let message = old_reader.receive()?;
    let value = message.value()?;
    println!("old reader: x {} y {}", value.x, value.y);
    message.ack()?;
    assert!(old_reader.try_receive()?.is_none());

    let message = new_reader.receive()?;
    let value = message.value()?;
    println!("new reader: x {} y {} z {}", value.x, value.y, value.z);
    message.ack()?;

    // A new program that has to read both joins twice, once through a handle of each version.
    let both = bus.topic_builder::<old::Position>(TOPIC).accepts::<new::Position>().open()?;
    assert!(both.group("new-reader-of-old").join().is_ok());

    for group in BusView::open(bus.name(), None)?.topic(TOPIC)?.sample().groups {
        println!("{}: {} of another type passed over", group.name, group.skipped_count);
    }

    // A program with nothing in common finds out when it opens the topic, not when it reads garbage.
    let error = bus.topic::<Battery>(TOPIC).expect_err("a battery is no position");
    println!("refused: {error}");
    Ok(())
}
