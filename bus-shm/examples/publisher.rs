//! Publishes one typed message for a group that need not be there yet. Run `subscriber` before or after it.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Email {
    subject: String,
}
bus_shm::message!(Email, version 1, { subject });
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = bus_shm::Bus::open("demo")?;
    let topic = bus.topic_builder::<Email>("email.received").with_group("reasoner").open()?;
    let sequence = topic.publisher()?.publish(&Email { subject: "An invoice".into() })?;
    println!("published message {sequence}");
    Ok(())
}
