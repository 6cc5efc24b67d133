//! Guardian: lets a plan pass or vetoes it. It takes one message at a time; what it does takes no time.

use super::messages::{Plan, Verdict, plans, verdicts};
use super::report::{Book, enter};
use super::{Options, Outcome};
use bus_shm::{Bus, Handlers, Lane};

/// What may be paid back without asking a human.
const REFUND_CENTS_MAX: u64 = 9_700;

pub(crate) fn start(bus: &Bus, _: &Options, handlers: &mut Handlers, book: Book) -> Outcome<()> {
    plans(bus)?;
    verdicts(bus)?;
    Ok(handlers.add(bus.on::<Plan, _>("reasoning.plan", move |plan, context| {
        let value = plan.value()?;
        let (ticket, refund_cents) = (value.ticket.read(), value.refund_cents.to_native());
        let approved = refund_cents <= REFUND_CENTS_MAX;
        // A veto must not wait behind what was approved before it.
        let lane = if approved { Lane::NORMAL } else { Lane::CRITICAL };
        context.publish_to("guard.approved", lane, &Verdict { ticket, approved, refund_cents })?;
        enter(&book, plan, ticket.closing);
        context.stop_if(ticket.closing);
        Ok(())
    }))?)
}
