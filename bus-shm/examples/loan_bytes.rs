//! Loans: payload memory is borrowed from the bus, filled in place and published, so that not even the publisher copies.
//! For payloads that bring their own format: pictures, tensors, archives made elsewhere.

use bus_shm::{Bus, Bytes};

const WIDTH: usize = 320;
const HEIGHT: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-loan-bytes").temporary(true).open()?;
    // A topic of plain bytes accepts any payload up to its largest message, 1 MiB unless set.
    let topic = bus.topic::<Bytes>("camera.frame")?;
    let mut viewer = topic.subscribe()?;
    let mut camera = topic.publisher()?;
    let lane = camera.default_lane();

    for frame in 1..=3_u8 {
        let mut loan = camera.loan(lane, WIDTH * HEIGHT)?;
        // The memory holds what it held before, so all of it is written: here a gradient that gets brighter.
        for (y, row) in loan.chunks_exact_mut(WIDTH).enumerate() {
            row.fill((y as u8 / 2).saturating_add(frame * 10));
        }
        let sequence = loan.publish()?;

        let message = viewer.receive()?;
        // These bytes lie where the camera wrote them; the mapping is read-only here.
        let picture = message.payload();
        println!(
            "frame {sequence}: {} bytes, from {} at the top to {} at the bottom",
            picture.len(),
            picture[0],
            picture[picture.len() - 1]
        );
        // From now on the memory may be used again.
        message.ack()?;
    }

    // A loan that is dropped was never there.
    drop(camera.loan(lane, WIDTH * HEIGHT)?);
    assert!(viewer.try_receive()?.is_none());
    println!("a loan that was given up leaves no message");
    Ok(())
}
