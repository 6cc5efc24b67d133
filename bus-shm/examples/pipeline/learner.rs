//! Learner: looks at what came of each request and how long it took, and tells the observer how far it has come.

use super::messages::{Action, Note, actions, notes};
use super::report::{Book, Learned, enter_item};
use super::{Options, Outcome};
use bus_shm::{Bus, Handlers};

pub(crate) fn start(bus: &Bus, options: &Options, handlers: &mut Handlers, book: Book) -> Outcome<()> {
    let most = options.batch();
    actions(bus)?;
    notes(bus)?;
    book.lock().expect("no panic").learned = Some(Learned::new(options.requests));
    Ok(handlers.add(bus.on_batch::<Action, _>("action.done", most, move |batch, context| {
        let mut closing = false;
        while let Some(action) = batch.next_message()? {
            let value = action.value()?;
            let ticket = value.ticket.read();
            closing |= ticket.closing;
            enter_item(&book, &action, ticket.closing);
            if let Some(learned) = book.lock().expect("no panic").learned.as_mut().filter(|_| !ticket.closing)
            {
                learned.add(ticket, value.carried_out, context.bus().now_ns());
            }
        }
        // The observer lets so many more requests go.
        let learned_count =
            book.lock().expect("no panic").learned.as_ref().map_or(0, |learned| learned.count);
        context.publish("learning.noted", &Note { learned_count })?;
        context.stop_if(closing);
        Ok(())
    }))?)
}
