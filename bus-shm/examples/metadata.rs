//! What a message says besides its payload: an answer names its question, everything that belongs to one task carries one number,
//! and an offer that nobody wants any more is never handed out.

use bus_shm::{Bus, Bytes, Lane, Meta};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-metadata").service("clerk").temporary(true).open()?;
    let questions = bus.topic::<Bytes>("desk.question")?;
    let answers = bus.topic::<Bytes>("desk.answer")?;
    let mut desk = questions.group("desk").join()?;
    let mut customer = answers.group("customer").join()?;

    let about = Meta::new().key("customer-7").correlation(0xbeef);
    questions.publisher()?.publish_bytes_with(Lane::NORMAL, b"where is my parcel?", &about)?;

    let question = desk.receive()?;
    let origin = question.metadata().origin().expect("its publisher lives");
    println!(
        "a question from {} about customer-7: {}",
        origin.service,
        question.metadata().has_key("customer-7")
    );
    let mut publisher = answers.publisher()?;
    let follows = Meta::new().caused_by(&question.metadata());
    publisher.publish_bytes_with(Lane::NORMAL, b"on its way", &follows)?;
    // Nobody will want this one a moment later.
    let offer = Meta::new().ttl(Duration::ZERO);
    publisher.publish_bytes_with(Lane::NORMAL, b"only now: half the price", &offer)?;
    let asked = question.metadata().id();
    question.ack()?;

    let answer = customer.receive()?;
    let said = answer.metadata();
    println!("the answer names the question: {}", said.cause() == Some(asked));
    println!(
        "and carries its correlation {:x}, {} hop behind it",
        said.correlation().unwrap_or(0),
        said.hops()
    );
    answer.ack()?;
    let nothing = customer.try_receive()?.is_none();
    println!("the offer has expired: {}", nothing && customer.expired_count() == 1);
    Ok(())
}
