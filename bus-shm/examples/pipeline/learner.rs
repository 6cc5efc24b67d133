//! Learner: looks at what came of each request and how long it took, and tells the observer how far it has come.

use super::messages::{Note, actions, notes};
use super::report::{Learned, Report, Tally};
use super::{Options, Outcome};
use bus_shm::Bus;
use std::time::Duration;

pub(crate) fn run(bus: &Bus, options: &Options) -> Outcome<Report> {
    let mut actions = actions(bus)?.group("learner").join()?;
    let mut notes = notes(bus)?.publisher()?;
    let mut tally = Tally::default();
    let mut learned = Learned::new(options.requests);
    loop {
        let mut batch = actions.receive_batch(1, options.batch(), Duration::MAX)?;
        let mut closing = false;
        while let Some(action) = batch.next_message()? {
            // The clock of message stamps.
            let now_ns = bus_shm::sys::clock::monotonic_ns();
            tally.count(action.lane(), action.sequence(), action.is_redelivered());
            let value = action.value()?;
            let ticket = value.ticket.read();
            closing |= ticket.closing;
            if !ticket.closing {
                learned.add(ticket, value.carried_out, now_ns);
            }
        }
        // The observer lets so many more requests go.
        notes.publish(&Note { learned_count: learned.count })?;
        batch.ack();
        if closing {
            return Ok(Report::of_learner(learned, tally));
        }
    }
}
