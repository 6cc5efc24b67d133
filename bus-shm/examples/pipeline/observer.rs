//! Observer: sends requests, so many at a time.

use super::messages::{Note, Request, notes, requests};
use super::report::{Book, enter};
use super::{Options, Outcome};
use bus_shm::{Bus, Handlers};

pub(crate) fn start(bus: &Bus, options: &Options, handlers: &mut Handlers, book: Book) -> Outcome<()> {
    let (total, window, mut sent, mut learned) = (options.requests, options.window, 0, 0);
    let (mut requests, _) = (requests(bus)?.publisher()?, notes(bus)?);
    // True when all of them are through.
    let mut send = move |learned: u64| -> Outcome<bool> {
        while sent < total && sent - learned < window {
            requests.publish(&observe(sent))?;
            sent += 1;
        }
        if learned >= total {
            requests.publish(&Request { number: sent, closing: true, text: String::new() })?;
        }
        Ok(learned >= total)
    };
    if send(0)? {
        handlers.stopper().stop();
    }
    book.lock().expect("no panic").handled = total;
    Ok(handlers.add(bus.on::<Note, _>("learning.noted", move |note, context| {
        learned = learned.max(note.value()?.learned_count.to_native());
        enter(&book, note, true);
        context.stop_if(send(learned)?);
        Ok(())
    }))?)
}

/// A customer wants money back, between 0 and 100 euros, evenly spread.
fn observe(number: u64) -> Request {
    let cents = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Request { number, closing: false, text: format!("please refund {} cents", cents % 10_001) }
}
