//! Reasoner: turns requests into plans, as a language model would that is asked over a network.

use super::messages::{ArchivedRequest, Plan, Ticket, plans, requests};
use super::report::{Report, Tally};
use super::{Options, Outcome};
use bus_shm::Bus;
use std::time::Duration;

pub(crate) fn run(bus: &Bus, options: &Options) -> Outcome<Report> {
    let mut requests = requests(bus)?.group("reasoner").join()?;
    let mut plans = plans(bus)?.publisher()?;
    let mut tally = Tally::default();
    let mut ready: Vec<Plan> = Vec::new();
    let mut handled = 0;
    loop {
        // At least one request, however long it takes, and whatever else has come until then.
        let mut batch = requests.receive_batch(1, options.batch(), Duration::MAX)?;
        while let Some(request) = batch.next_message()? {
            tally.count(request.lane(), request.sequence(), request.is_redelivered());
            ready.push(think(request.value()?, request.stamp_ns())?);
        }
        // All of them are asked side by side, and answered after the same time.
        let closing = ready.iter().any(|plan| plan.ticket.closing);
        if ready.iter().any(|plan| !plan.ticket.closing) {
            std::thread::sleep(options.work);
        }
        for plan in ready.drain(..) {
            plans.publish(&plan)?;
            handled += u64::from(!plan.ticket.closing);
        }
        // Only now: had this process died before, the requests would come again.
        batch.ack();
        if closing {
            return Ok(Report::new(handled, tally));
        }
    }
}

fn think(request: &ArchivedRequest, observed_ns: u64) -> Outcome<Plan> {
    let (number, closing) = (request.number.to_native(), request.closing);
    let ticket = Ticket { number, observed_ns, closing };
    let amount = request.text.split(' ').find_map(|word| word.parse().ok());
    match amount {
        Some(refund_cents) => Ok(Plan { ticket, refund_cents }),
        None if closing => Ok(Plan { ticket, refund_cents: 0 }),
        None => Err(format!("request {number} names no amount: {:?}", request.text.as_str()).into()),
    }
}
