//! What the agents say to each other, and the topics on which they say it.

use super::Outcome;
use bus_shm::{Bus, Topic};
use rkyv::{Archive, Serialize};

/// Names of the topics, in the order in which a request goes through them.
pub(crate) const TOPICS: [&str; 5] =
    ["observation.request", "reasoning.plan", "guard.approved", "action.done", "learning.noted"];

/// Something that the observer has seen and that asks for a reaction.
#[derive(Archive, Serialize)]
pub(crate) struct Request {
    /// Counts from 0.
    pub(crate) number: u64,
    /// All requests before it are through; there are no more.
    pub(crate) closing: bool,
    /// What was asked, in words.
    pub(crate) text: String,
}
bus_shm::message!(Request, version 1, { number, closing, text });

/// Which request a message belongs to; every message after the first carries it on.
#[derive(Archive, Serialize, Clone, Copy)]
pub(crate) struct Ticket {
    /// The request's number.
    pub(crate) number: u64,
    /// When the request was published, by the clock of message stamps.
    pub(crate) observed_ns: u64,
    /// It belongs to the closing request.
    pub(crate) closing: bool,
}

impl ArchivedTicket {
    /// The ticket out of shared memory, to be carried on.
    pub(crate) fn read(&self) -> Ticket {
        Ticket {
            number: self.number.to_native(),
            observed_ns: self.observed_ns.to_native(),
            closing: self.closing,
        }
    }
}

/// What the reasoner proposes to do.
#[derive(Archive, Serialize)]
pub(crate) struct Plan {
    /// For which request.
    pub(crate) ticket: Ticket,
    /// How much to pay back.
    pub(crate) refund_cents: u64,
}
bus_shm::message!(Plan, version 1, { ticket, refund_cents });

/// What the guardian thinks of a plan.
#[derive(Archive, Serialize)]
pub(crate) struct Verdict {
    /// For which request.
    pub(crate) ticket: Ticket,
    /// May it be done?
    pub(crate) approved: bool,
    /// How much to pay back.
    pub(crate) refund_cents: u64,
}
bus_shm::message!(Verdict, version 1, { ticket, approved, refund_cents });

/// What came of a request.
#[derive(Archive, Serialize)]
pub(crate) struct Action {
    /// For which request.
    pub(crate) ticket: Ticket,
    /// Was it carried out? Otherwise it was vetoed.
    pub(crate) carried_out: bool,
}
bus_shm::message!(Action, version 1, { ticket, carried_out });

/// How far the learner has come.
#[derive(Archive, Serialize)]
pub(crate) struct Note {
    /// Requests of which it knows what came of them.
    pub(crate) learned_count: u64,
}
bus_shm::message!(Note, version 1, { learned_count });

/// Observer to reasoner.
pub(crate) fn requests(bus: &Bus) -> Outcome<Topic<Request>> {
    Ok(bus.topic_builder(TOPICS[0]).with_group("reasoner").open()?)
}

/// Reasoner to guardian.
pub(crate) fn plans(bus: &Bus) -> Outcome<Topic<Plan>> {
    Ok(bus.topic_builder(TOPICS[1]).with_group("guardian").open()?)
}

/// Guardian to actor. Vetoes go in the critical lane.
pub(crate) fn verdicts(bus: &Bus) -> Outcome<Topic<Verdict>> {
    Ok(bus.topic_builder(TOPICS[2]).with_group("actor").open()?)
}

/// Actor to learner. What was vetoed goes in the critical lane.
pub(crate) fn actions(bus: &Bus) -> Outcome<Topic<Action>> {
    Ok(bus.topic_builder(TOPICS[3]).with_group("learner").open()?)
}

/// Learner to observer.
pub(crate) fn notes(bus: &Bus) -> Outcome<Topic<Note>> {
    Ok(bus.topic_builder(TOPICS[4]).with_group("observer").open()?)
}
