//! Guardian: lets a plan pass or vetoes it. It takes one message at a time; what it does takes no time.

use super::messages::{Verdict, plans, verdicts};
use super::report::{Report, Tally};
use super::{Options, Outcome};
use bus_shm::{Bus, Lane};

/// What may be paid back without asking a human.
const REFUND_CENTS_MAX: u64 = 9_700;

pub(crate) fn run(bus: &Bus, _: &Options) -> Outcome<Report> {
    let mut plans = plans(bus)?.group("guardian").join()?;
    let mut verdicts = verdicts(bus)?.publisher()?;
    let mut tally = Tally::default();
    let mut handled = 0;
    loop {
        let plan = plans.receive()?;
        let value = plan.value()?;
        let (ticket, refund_cents) = (value.ticket.read(), value.refund_cents.to_native());
        let approved = refund_cents <= REFUND_CENTS_MAX;
        // A veto must not wait behind what was approved before it.
        let lane = if approved { Lane::NORMAL } else { Lane::CRITICAL };
        verdicts.publish_to(lane, &Verdict { ticket, approved, refund_cents })?;
        tally.count(plan.lane(), plan.sequence(), plan.is_redelivered());
        plan.ack()?;
        if ticket.closing {
            return Ok(Report::new(handled, tally));
        }
        handled += 1;
    }
}
