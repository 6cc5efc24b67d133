//! Reads what a topic still holds from a moment on, and publishes that window once more in another topic.

use bus_shm::replay::{Window, replay};
use bus_shm::{Bus, Bytes, Start};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-replay-window").temporary(true).open()?;
    let topic = bus.topic::<Bytes>("observation.email")?;
    let mut publisher = topic.publisher()?;
    publisher.publish(b"before")?;
    std::thread::sleep(Duration::from_millis(20));
    let moment = bus.now_ns();
    for text in ["first", "second"] {
        publisher.publish(text.as_bytes())?;
    }

    // From a moment, or as long ago as five minutes; where not all of it is there any more, with the oldest that is.
    let mut late = topic.subscriber().tap().from(Start::Time(moment)).join()?;
    while let Some(message) = late.try_receive()? {
        println!("since then: {}", String::from_utf8_lossy(message.payload()));
    }
    let ago = Start::Ago(Duration::from_secs(300));
    let mut all = topic.subscriber().tap().from_or_oldest(ago).join()?;
    let mut count = 0;
    while all.try_receive()?.is_some() {
        count += 1;
    }
    println!("in the last five minutes: {count}");

    let again = bus.topic::<Bytes>("debug.email")?;
    let mut debugger = again.subscribe()?;
    let window = Window { from: Start::Time(moment), ..Window::default() };
    let done = replay(&bus, "observation.email", "debug.email", &window, &mut |_| true)?;
    println!("replayed {}, gone meanwhile {}", done.count, done.missed);
    while let Some(message) = debugger.try_receive()? {
        println!("again: {}", String::from_utf8_lossy(message.payload()));
        message.ack()?;
    }
    Ok(())
}
