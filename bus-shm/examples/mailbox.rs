//! `mailbox NAME TEXT...` writes to the mailbox `@NAME`; `mailbox NAME` owns it and prints what has come, also while nobody did.

use bus_shm::{Bus, Bytes, Mailbox};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let name = words.next().ok_or("whose mailbox?")?;
    let bus = Bus::open("demo")?;
    let mailbox: Mailbox<Bytes> = bus.mailbox(&name)?;
    let texts: Vec<String> = words.collect();
    if !texts.is_empty() {
        let mut publisher = mailbox.publisher()?;
        for text in texts {
            // Kept for the owner, in order, whether it is there or not.
            publisher.publish(text.as_bytes())?;
        }
        return Ok(());
    }
    // One process at a time: another gets an error that names this one.
    let mut owner = mailbox.own()?;
    println!("owning @{name}");
    loop {
        let message = owner.receive()?;
        let again = if message.is_redelivered() { " (again)" } else { "" };
        println!("{}{again}", String::from_utf8_lossy(message.payload()));
        message.ack()?;
    }
}
