//! Reasoner: turns requests into plans, as a language model would that is asked over a network.

use super::messages::{ArchivedRequest, Plan, Request, Ticket, plans, requests};
use super::report::{Book, enter_item};
use super::{Options, Outcome};
use bus_shm::handlers::reject;
use bus_shm::{Bus, Handlers, Lane, Meta};

pub(crate) fn start(bus: &Bus, options: &Options, handlers: &mut Handlers, book: Book) -> Outcome<()> {
    let (work, most) = (options.work, options.batch());
    requests(bus)?;
    plans(bus)?;
    Ok(handlers.add(bus.on_batch::<Request, _>("observation.request", most, move |batch, context| {
        let mut ready = Vec::new();
        while let Some(request) = batch.next_message()? {
            let plan = think(request.value()?, request.stamp_ns())?;
            enter_item(&book, &request, plan.ticket.closing);
            ready.push((plan, Meta::new().caused_by(&request.metadata())));
        }
        // All of them are asked side by side, and answered after the same time.
        if ready.iter().any(|(plan, _)| !plan.ticket.closing) {
            std::thread::sleep(work);
        }
        for (plan, meta) in &ready {
            context.publish_with("reasoning.plan", Lane::NORMAL, plan, meta)?;
            context.stop_if(plan.ticket.closing);
        }
        Ok(())
    }))?)
}

fn think(request: &ArchivedRequest, observed_ns: u64) -> Outcome<Plan> {
    let ticket = Ticket { number: request.number.to_native(), observed_ns, closing: request.closing };
    let amount = request.text.split(' ').find_map(|word| word.parse().ok());
    let refund_cents = amount.or(ticket.closing.then_some(0)).ok_or_else(|| reject("it names no amount"))?;
    Ok(Plan { ticket, refund_cents })
}
