//! Receives one message, reads it where it lies in shared memory, and acknowledges it when its work is done.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Email {
    subject: String,
}
bus_shm::message!(Email, version 1, { subject });
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut inbox = bus_shm::Bus::open("demo")?.topic::<Email>("email.received")?.group("reasoner").join()?;
    let message = inbox.receive()?;
    println!("received {:?}", message.value()?.subject.as_str());
    message.ack()?;
    Ok(())
}
