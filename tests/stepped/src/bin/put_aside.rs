//! `put_aside COUNT`: a keyed group of which all messages fail once, each of a key of its own, before the first comes again. For callgrind:
//! what a member spends on messages that wait.

use bus_shm::{Bus, Lane, Meta};
use std::process::ExitCode;
use std::time::Duration;

#[derive(rkyv::Archive, rkyv::Serialize, Clone, Copy)]
#[rkyv(derive(Clone, Copy))]
struct Reading {
    words: [u64; 8],
}
bus_shm::message!(Reading, version 1, { words });

/// The time after which failed messages come again: all have failed by then.
const LATER: Duration = Duration::from_secs(20);

fn retries(count: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let bus = Bus::builder(&format!("put-aside-{}", std::process::id())).temporary(true).open()?;
    let capacity = count.next_power_of_two().max(64) as u32;
    let topic = bus.topic_builder::<Reading>("readings").capacity(capacity).open()?;
    let group = topic.group("reader").keyed().ack_wait(Duration::ZERO);
    let mut subscriber = group.aside_entries(capacity).join()?;
    let mut publisher = topic.publisher()?;
    for index in 0..count {
        let meta = Meta::new().key(&format!("key-{index}"));
        publisher.publish_with(Lane::NORMAL, &Reading { words: [index; 8] }, &meta)?;
    }
    for _ in 0..count {
        subscriber.receive()?.retry_after(LATER, "once")?;
    }
    // One wait, so that as many looks are made as there are messages.
    std::thread::sleep(LATER);
    let mut sum = 0;
    for _ in 0..count {
        let message = subscriber.receive()?;
        sum += message.value()?.words[0].to_native();
        message.ack()?;
    }
    Ok(sum)
}

fn main() -> ExitCode {
    let Some(count) = std::env::args().nth(1).and_then(|count| count.parse().ok()) else {
        eprintln!("put_aside COUNT");
        return ExitCode::from(2);
    };
    match retries(count) {
        Ok(sum) => {
            println!("{sum}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("put_aside: {error}");
            ExitCode::FAILURE
        }
    }
}
