//! `request_reply ask NUMBER...`, or `request_reply answer` in another terminal: squares, by request and reply.

use bus_shm::{Ask, Bus, Pending};
use std::time::Duration;

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Question {
    number: u64,
}
bus_shm::message!(Question, version 1, { number });

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Square {
    number: u64,
    square: u64,
}
bus_shm::message!(Square, version 1, { number, square });

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::open("demo")?;
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("answer") { answer(&bus) } else { ask(&bus, words) }
}

/// A member of the group `calculators`: each request goes to one of them.
fn answer(bus: &Bus) -> Result<(), Box<dyn std::error::Error>> {
    let mut subscriber = bus.topic::<Question>("squares")?.group("calculators").shared().join()?;
    println!("answering");
    loop {
        let message = subscriber.receive()?;
        let number = message.value()?.number.to_native();
        let sent = match number.checked_mul(number) {
            Some(square) => message.reply(&Square { number, square }),
            None => message.reply_error("the square is too large"),
        };
        // Whoever asked may be gone: its request is done all the same.
        if let Err(error) = sent {
            eprintln!("{error}");
        }
        message.ack()?;
    }
}

/// All questions are on their way before the first is answered; answers come in any order.
fn ask(bus: &Bus, numbers: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let client = bus.requester()?;
    let mut gather = client.gather::<Square>();
    for (index, number) in numbers.enumerate() {
        let question = Question { number: number.parse()? };
        let pending: Pending<Square> =
            client.send("squares", &question, &Ask::within(Duration::from_secs(5)))?;
        gather.add(index as u64, pending)?;
    }
    while let Some((index, answer)) = gather.next(Duration::from_secs(5)) {
        match answer {
            Ok(answer) => {
                let value = answer.value()?;
                println!("question {index}: the square of {} is {}", value.number, value.square);
            }
            Err(error) => println!("question {index}: {error}"),
        }
    }
    Ok(())
}
