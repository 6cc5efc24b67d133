//! Actor: carries out what was approved, as a call to a bank would, and passes on at once what was vetoed.

use super::messages::{Action, Verdict, actions, verdicts};
use super::report::{Book, enter_item};
use super::{Options, Outcome};
use bus_shm::{Bus, Handlers, Lane, Meta};

pub(crate) fn start(bus: &Bus, options: &Options, handlers: &mut Handlers, book: Book) -> Outcome<()> {
    let (work, most) = (options.work, options.batch());
    verdicts(bus)?;
    actions(bus)?;
    Ok(handlers.add(bus.on_batch::<Verdict, _>("guard.approved", most, move |batch, context| {
        let mut under_way = Vec::new();
        // Urgent lanes come first here too: a veto overtakes what was approved before it.
        while let Some(verdict) = batch.next_message()? {
            let value = verdict.value()?;
            let action = Action { ticket: value.ticket.read(), carried_out: value.approved };
            enter_item(&book, &verdict, action.ticket.closing);
            let meta = Meta::new().caused_by(&verdict.metadata());
            if action.carried_out {
                under_way.push((action, meta));
            } else {
                context.publish_with("action.done", Lane::CRITICAL, &action, &meta)?;
            }
        }
        if under_way.iter().any(|(action, _)| !action.ticket.closing) {
            std::thread::sleep(work);
        }
        for (action, meta) in &under_way {
            context.publish_with("action.done", Lane::NORMAL, action, meta)?;
            context.stop_if(action.ticket.closing);
        }
        Ok(())
    }))?)
}
