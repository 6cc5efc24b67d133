//! Two agents that answer each other for ever: the bus refuses the hop that is one too many, keeps it with its chain, and cuts the pair.

use bus_shm::dead_letters::{self, Filter};
use bus_shm::inspect::BusView;
use bus_shm::{Bus, Bytes, Lane, Meta, PublishError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-loop-cut").service("talker").temporary(true).open()?;
    let topics = [bus.topic::<Bytes>("talk.question")?, bus.topic::<Bytes>("talk.answer")?];
    let mut agents = [topics[0].group("agent").join()?, topics[1].group("agent").join()?];
    let mut publishers = [topics[0].publisher()?, topics[1].publisher()?];

    for round in 1.. {
        publishers[0].publish(b"and why is that?")?;
        let mut turn = 0;
        let refused = loop {
            let message = agents[turn].receive()?;
            let meta = Meta::new().caused_by(&message.metadata());
            turn = 1 - turn;
            let answered =
                publishers[turn].publish_bytes_with(Lane::NORMAL, b"and why is that?", &meta).err();
            message.ack()?;
            if let Some(error) = answered {
                break error;
            }
        };
        match refused {
            PublishError::Loop(looped) => {
                println!("round {round}: refused at {} hops, cut: {}", looped.hops, looped.cut.is_some());
            }
            PublishError::PairCut(cut) => {
                println!("round {round}: {} causes nothing in {} for a while", cut.cause, cut.topic);
                break;
            }
            other => return Err(other.into()),
        }
    }
    for letter in dead_letters::list(&BusView::open(bus.name(), None)?, &Filter::topic("talk.answer"))? {
        println!("dead letter of {}: {}", letter.group, letter.error);
    }
    Ok(())
}
