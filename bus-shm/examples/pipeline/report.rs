//! What an agent has to say when it ends.

use super::messages::Ticket;
use super::{Options, Outcome};
use bus_shm::{BatchItem, Lane, Received};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Sees to it that the messages of each lane come one after the other.
#[derive(Default)]
pub(crate) struct Tally {
    next: [Option<u64>; 4],
    out_of_order: u64,
    redelivered: u64,
}

impl Tally {
    /// A message that was handed out.
    pub(crate) fn count(&mut self, lane: Lane, sequence: u64, is_redelivered: bool) {
        let next = &mut self.next[lane.index()];
        self.redelivered += u64::from(is_redelivered);
        self.out_of_order += u64::from(next.is_some_and(|next| next != sequence) && !is_redelivered);
        *next = Some(sequence + 1);
    }
}

/// What the learner has measured.
pub(crate) struct Learned {
    /// Requests, each counted once.
    pub(crate) count: u64,
    vetoed: u64,
    repeated: u64,
    first_observed_ns: u64,
    last_learned_ns: u64,
    seen: Vec<bool>,
    /// From the publication of a request to its arrival here; only what was carried out.
    end_to_end_ns: Vec<u64>,
}

impl Learned {
    pub(crate) fn new(requests: u64) -> Self {
        let room = usize::try_from(requests).unwrap_or(0);
        Self {
            count: 0,
            vetoed: 0,
            repeated: 0,
            first_observed_ns: u64::MAX,
            last_learned_ns: 0,
            seen: vec![false; room],
            end_to_end_ns: Vec::with_capacity(room),
        }
    }

    /// What came of a request.
    pub(crate) fn add(&mut self, ticket: Ticket, carried_out: bool, now_ns: u64) {
        let seen = usize::try_from(ticket.number).ok().and_then(|index| self.seen.get_mut(index));
        if seen.is_none_or(|seen| std::mem::replace(seen, true)) {
            // An agent before this one died after it had published, and before it had acknowledged.
            self.repeated += 1;
            return;
        }
        self.count += 1;
        self.first_observed_ns = self.first_observed_ns.min(ticket.observed_ns);
        self.last_learned_ns = self.last_learned_ns.max(now_ns);
        if carried_out {
            self.end_to_end_ns.push(now_ns.saturating_sub(ticket.observed_ns));
        } else {
            self.vetoed += 1;
        }
    }

    fn seconds(&self) -> f64 {
        self.last_learned_ns.saturating_sub(self.first_observed_ns) as f64 / 1e9
    }

    fn to_json(&self) -> Value {
        let mut sorted = self.end_to_end_ns.clone();
        sorted.sort_unstable();
        let seconds = self.seconds();
        json!({
            "requests": self.count,
            "vetoed": self.vetoed,
            "repeated": self.repeated,
            "seconds": seconds,
            "requests_per_s": if seconds > 0.0 { (self.count as f64 / seconds).round() } else { 0.0 },
            "end_to_end_ns": {
                "p50": percentile(&sorted, 0.5),
                "p99": percentile(&sorted, 0.99),
                "p999": percentile(&sorted, 0.999),
                "max": percentile(&sorted, 1.0),
            },
        })
    }
}

/// The smallest value that this share of all values does not exceed; 0 without values.
fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

/// An agent's account of itself.
#[derive(Default)]
pub(crate) struct Report {
    /// Requests, each counted once if its agent was not killed.
    pub(crate) handled: u64,
    tally: Tally,
    /// What only the learner has.
    pub(crate) learned: Option<Learned>,
}

/// Where an agent keeps it while it works.
pub(crate) type Book = Arc<Mutex<Report>>;

/// A message that was handed out. One that is `apart` is about no request of its own.
pub(crate) fn enter<T>(book: &Book, message: &Received<'_, T>, apart: bool) {
    add(book, (message.lane(), message.sequence(), message.is_redelivered()), apart);
}

/// The same for one of a batch.
pub(crate) fn enter_item<T>(book: &Book, message: &BatchItem<'_, T>, apart: bool) {
    add(book, (message.lane(), message.sequence(), message.is_redelivered()), apart);
}

fn add(book: &Book, (lane, sequence, is_redelivered): (Lane, u64, bool), apart: bool) {
    let mut report = book.lock().expect("no panic");
    report.tally.count(lane, sequence, is_redelivered);
    report.handled += u64::from(!apart);
}

impl Report {
    fn to_json(&self, role: &str) -> Value {
        let mut object = json!({
            "role": role,
            "handled": self.learned.as_ref().map_or(self.handled, |learned| learned.count),
            "out_of_order": self.tally.out_of_order,
            "redelivered": self.tally.redelivered,
        });
        if let Some(learned) = &self.learned {
            object["learned"] = learned.to_json();
        }
        object
    }
}

/// The learner's measurements in words.
pub(crate) fn describe(learned: &Value, options: &Options) -> String {
    let ms = |name: &str| learned["end_to_end_ns"][name].as_f64().unwrap_or(0.0) / 1e6;
    format!(
        "{} requests ({} vetoed) in {:.2} s: {} requests/s; end to end p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, \
         {:.2} ms of it simulated work",
        learned["requests"],
        learned["vetoed"],
        learned["seconds"].as_f64().unwrap_or(0.0),
        learned["requests_per_s"].as_f64().unwrap_or(0.0),
        ms("p50"),
        ms("p99"),
        ms("p999"),
        2.0 * options.work.as_secs_f64() * 1e3,
    )
}

/// Says how it went. With `--json` that includes what went wrong.
pub(crate) fn print(role: &str, outcome: Outcome<Report>, options: &Options) {
    let text = match outcome {
        Ok(report) if options.json => report.to_json(role).to_string(),
        Ok(report) => match &report.learned {
            Some(learned) => format!("{role}: {}", describe(&learned.to_json(), options)),
            None => format!(
                "{role}: {} requests, {} messages out of order, {} redelivered",
                report.handled, report.tally.out_of_order, report.tally.redelivered
            ),
        },
        Err(error) if options.json => json!({ "role": role, "error": error.to_string() }).to_string(),
        Err(error) => {
            eprintln!("{role}: {error}");
            return;
        }
    };
    // Nobody may be there to read it any more.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes());
}
