//! A shared group: its members divide the messages among themselves, each message goes to one of them. Members join and
//! leave while messages flow; here they are threads, more often they are processes.

use bus_shm::{Bus, Bytes, Topic};
use std::time::Duration;

const MESSAGES: u64 = 400;

/// Works until nothing has come for a while; returns the numbers of the messages that it did.
fn work(topic: &Topic<Bytes>, most: usize) -> Result<Vec<u64>, Box<dyn std::error::Error + Send + Sync>> {
    let mut member = topic.group("workers").shared().join()?;
    let mut done = Vec::new();
    while done.len() < most {
        let Some(message) = member.receive_timeout(Duration::from_millis(200))? else { break };
        std::thread::sleep(Duration::from_micros(300));
        done.push(u64::from_le_bytes(message.payload().try_into()?));
        // False would mean that this member was thought dead meanwhile, and the message has been given to another.
        message.ack()?;
    }
    Ok(done)
    // Dropped here, the member leaves. What it had received and not acknowledged would go to the others.
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let bus = Bus::builder("example-shared-group").temporary(true).open()?;
    // The group is there from the start, so no message is missed however late its members join.
    let topic = bus.topic_builder::<Bytes>("work.item").with_shared_group("workers").open()?;

    let done = std::thread::scope(|scope| {
        let start = |most: usize| {
            let topic = topic.clone();
            scope.spawn(move || work(&topic, most))
        };
        let first = start(usize::MAX);
        let leaves_early = start(20);
        let mut publisher = topic.publisher()?;
        let mut publish = |numbers: std::ops::Range<u64>| {
            numbers.into_iter().try_for_each(|number| publisher.publish(&number.to_le_bytes()).map(drop))
        };
        publish(0..MESSAGES / 2)?;

        // A member that received a message and gives it back, as one does that cannot do it after all.
        let mut hesitant = topic.group("workers").shared().join()?;
        if let Some(message) = hesitant.receive_timeout(Duration::from_millis(50))? {
            println!("message {} is given back and goes to another member", message.sequence());
            drop(message);
        }
        hesitant.close();

        let joins_late = start(usize::MAX);
        publish(MESSAGES / 2..MESSAGES)?;
        [first, leaves_early, joins_late]
            .into_iter()
            .map(|thread| thread.join().expect("no worker panics"))
            .collect::<Result<Vec<_>, _>>()
    })?;

    for (member, done) in done.iter().enumerate() {
        println!("member {member} did {} messages", done.len());
    }
    let mut all: Vec<u64> = done.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..MESSAGES).collect::<Vec<_>>());
    println!("together they did all {MESSAGES}, each once");
    Ok(())
}
