//! An agent on the handler runner: one function for each message of a pattern, until SIGTERM or Ctrl-C.
//!
//! Messages come from elsewhere, from a shell for example: `shmbus -b example-runner pub question.sum '2 3 4'`.

use bus_shm::handlers::reject;
use bus_shm::{Bus, Bytes};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let bus = Bus::builder("example-runner").service("adder").temporary(true).open()?;
    let adder = bus.on::<Bytes, _>("question.*", |question, context| {
        let text = std::str::from_utf8(question.payload()).map_err(|_| reject("that is no text"))?;
        let sum: i64 = text.split_whitespace().map(str::parse::<i64>).sum::<Result<_, _>>()?;
        // The answer says what it answers, so that whoever asked finds it.
        context.publish_bytes("answer", format!("{}: {sum}", question.topic()).as_bytes())?;
        Ok(())
    });
    // What cannot be parsed is tried again, in vain, and is a dead letter then.
    let handled = adder.attempts(3).retry_delays(Duration::from_millis(1), Duration::from_secs(1)).run()?;
    println!(
        "handled {}, failed {} times, rejected {}",
        handled.handled_count, handled.failed_count, handled.rejected_count
    );
    Ok(())
}
