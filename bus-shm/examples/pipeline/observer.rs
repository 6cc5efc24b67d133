//! Observer: sends requests, so many at a time.

use super::messages::{Request, notes, requests};
use super::report::{Report, Tally};
use super::{Options, Outcome};
use bus_shm::Bus;

pub(crate) fn run(bus: &Bus, options: &Options) -> Outcome<Report> {
    let mut requests = requests(bus)?.publisher()?;
    let mut notes = notes(bus)?.group("observer").join()?;
    let mut tally = Tally::default();
    let (mut sent, mut learned) = (0, 0);
    while learned < options.requests {
        while sent < options.requests && sent - learned < options.window {
            requests.publish(&observe(sent))?;
            sent += 1;
        }
        let note = notes.receive()?;
        learned = learned.max(note.value()?.learned_count.to_native());
        tally.count(note.lane(), note.sequence(), note.is_redelivered());
        note.ack()?;
    }
    requests.publish(&Request { number: sent, closing: true, text: String::new() })?;
    Ok(Report::new(sent, tally))
}

/// A customer wants money back, between 0 and 100 euros, evenly spread.
fn observe(number: u64) -> Request {
    let cents = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Request { number, closing: false, text: format!("please refund {} cents", cents % 10_001) }
}
