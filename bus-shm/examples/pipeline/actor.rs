//! Actor: carries out what was approved, as a call to a bank would, and passes on at once what was vetoed.

use super::messages::{Action, actions, verdicts};
use super::report::{Report, Tally};
use super::{Options, Outcome};
use bus_shm::{Bus, Lane};
use std::time::Duration;

pub(crate) fn run(bus: &Bus, options: &Options) -> Outcome<Report> {
    let mut verdicts = verdicts(bus)?.group("actor").join()?;
    let mut actions = actions(bus)?.publisher()?;
    let mut tally = Tally::default();
    let mut under_way: Vec<Action> = Vec::new();
    let mut handled = 0;
    loop {
        let mut batch = verdicts.receive_batch(1, options.batch(), Duration::MAX)?;
        let mut closing = false;
        // Urgent lanes come first here too: a veto overtakes what was approved before it.
        while let Some(verdict) = batch.next_message()? {
            tally.count(verdict.lane(), verdict.sequence(), verdict.is_redelivered());
            let value = verdict.value()?;
            let action = Action { ticket: value.ticket.read(), carried_out: value.approved };
            closing |= action.ticket.closing;
            handled += u64::from(!action.ticket.closing);
            if action.carried_out {
                under_way.push(action);
            } else {
                actions.publish_to(Lane::CRITICAL, &action)?;
            }
        }
        if under_way.iter().any(|action| !action.ticket.closing) {
            std::thread::sleep(options.work);
        }
        for action in under_way.drain(..) {
            actions.publish(&action)?;
        }
        batch.ack();
        if closing {
            return Ok(Report::new(handled, tally));
        }
    }
}
