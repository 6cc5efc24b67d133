//! A topic that keeps the newest: publishing never waits, and nobody can hold messages back. For positions, prices and
//! states, of which only the last one counts. Taps read it; groups, which would have to be waited for, are refused.

use bus_shm::{AttachError, Bus, Bytes, Overflow};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-newest").temporary(true).open()?;
    let topic =
        bus.topic_builder::<Bytes>("robot.pose").capacity(64).overflow(Overflow::KeepNewest).open()?;
    match topic.group("planner").join() {
        Err(error @ AttachError::KeepsNewest { .. }) => println!("{error}"),
        other => panic!("a group was not refused: {:?}", other.map(|_| ())),
    }
    let mut display = topic.tap()?;
    let mut publisher = topic.publisher()?;
    for pose in 0..100_000_u32 {
        publisher.publish(&pose.to_le_bytes())?;
    }
    println!("published 100000 and waited for nobody");

    let mut last = None;
    let mut shown = 0;
    while let Some(message) = display.try_receive()? {
        last = Some(message.payload().to_vec());
        message.ack()?;
        shown += 1;
    }
    assert_eq!(shown + display.missed_count(), 100_000);
    assert_eq!(last, Some(99_999_u32.to_le_bytes().to_vec()));
    println!("the display saw the last of them");
    Ok(())
}
