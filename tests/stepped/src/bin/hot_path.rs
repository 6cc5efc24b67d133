//! Publishes and receives as many messages as asked for, in one process, with nothing else in use: what `ci/instructions` counts.
//!
//! `hot_path many|one|shared|keyed COUNT RUN`: a topic of many producers, of one, or a shared or keyed group; so many messages, published by
//! so many, no more than the ring has slots, before they are received.
//!
//! Nothing else may publish or receive in this program: a second place that calls them changes what the compiler puts where, and so
//! the count (by 60 instructions a message where it was tried).

use bus_shm::{Bus, Subscriber};
use std::process::ExitCode;
use std::time::Duration;

#[derive(rkyv::Archive, rkyv::Serialize, Clone, Copy)]
#[rkyv(derive(Clone, Copy))]
struct Reading {
    words: [u64; 8],
}
bus_shm::message!(Reading, version 1, { words });

fn receive(subscriber: &mut Subscriber<Reading>) -> Result<u64, Box<dyn std::error::Error>> {
    let message = subscriber.receive()?;
    let first = message.value()?.words[0].to_native();
    message.ack()?;
    Ok(first)
}

fn run(kind: &str, count: u64, each: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let bus = Bus::builder(&format!("hot-path-{}", std::process::id())).temporary(true).open()?;
    let topic =
        bus.topic_builder::<Reading>("readings").producers(if kind == "one" { 1 } else { 64 }).open()?;
    let group = topic.group("reader");
    let group = match kind {
        "shared" => group.shared().ack_wait(Duration::ZERO),
        "keyed" => group.keyed().ack_wait(Duration::ZERO),
        _ => group,
    };
    let mut subscriber = group.join()?;
    let mut publisher = topic.publisher()?;
    let mut sum = 0;
    for run in 0..count / each {
        for index in 0..each {
            publisher.publish(&Reading { words: [run * each + index; 8] })?;
        }
        for _ in 0..each {
            sum += receive(&mut subscriber)?;
        }
    }
    Ok(sum)
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let numbers = |index: usize| arguments.get(index).and_then(|number| number.parse().ok());
    let (Some(kind), Some(count), Some(each @ 1..)) = (arguments.first(), numbers(1), numbers(2)) else {
        eprintln!("hot_path many|one|shared|keyed COUNT RUN");
        return ExitCode::from(2);
    };
    match run(kind, count, each) {
        Ok(sum) => {
            println!("{sum}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hot_path: {error}");
            ExitCode::FAILURE
        }
    }
}
