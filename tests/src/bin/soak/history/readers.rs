//! Readers that may be overtaken: each reads, or counts as missed, what comes next, and nothing else.

use super::{History, LANES, TOPICS};
use crate::page::{Kind, Record};

/// What taps, or readers that yield, did.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReaderCount {
    pub(crate) delivered: u64,
    pub(crate) missed: u64,
}

/// What is known of a reader.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    topic: Option<usize>,
    /// Where it must go on.
    next: [Option<u64>; LANES],
    missed: u64,
    yields: Option<Yields>,
}

/// One that has agreed to be let go, but only when it has stood still for long enough.
#[derive(Clone, Debug)]
struct Yields {
    limit_ns: u64,
    /// Publishers are held back from there on.
    from: [u64; LANES],
    /// Since when it has not gone on in a lane.
    since_ns: [u64; LANES],
    /// The lane in which it went on last, and since when it had not before. That it has gone on is sure only when it says
    /// something more.
    before: Option<u64>,
    longest_ns: u64,
}

impl Yields {
    /// It says something at this time.
    fn speaks(&mut self, at_ns: u64) {
        if let Some(since_ns) = self.before.take() {
            self.longest_ns = self.longest_ns.max(at_ns.saturating_sub(since_ns));
        }
    }

    fn goes_on(&mut self, lane: usize, at_ns: u64) {
        self.speaks(at_ns);
        self.before = Some(self.since_ns[lane]);
        self.since_ns[lane] = at_ns;
    }

    /// The longest time for which it has stood still, as far as can be said at this time.
    fn stood_ns(&mut self, at_ns: u64) -> u64 {
        self.speaks(at_ns);
        let standing = self.since_ns.iter().map(|since_ns| at_ns.saturating_sub(*since_ns)).max();
        self.longest_ns.max(standing.unwrap_or(0))
    }
}

impl History {
    pub(super) fn reader_says(&mut self, place: usize, topic: usize, record: Record) {
        let Record { kind, lane, attempts, sequence, id, at_ns } = record;
        let name = TOPICS[topic].name;
        let reader = &mut self.places[place].reader;
        match kind {
            Kind::Begins => {
                let at = usize::from(lane).min(LANES - 1);
                if at == 0 {
                    *reader = Reader { topic: Some(topic), ..Reader::default() };
                }
                let yields = reader.yields.get_or_insert(Yields {
                    limit_ns: id,
                    from: [0; LANES],
                    since_ns: [at_ns; LANES],
                    before: None,
                    longest_ns: 0,
                });
                yields.from[at] = sequence;
            }
            Kind::Counted => {
                if reader.missed != id {
                    let text =
                        format!("a reader of {name} counts {id} missed, and was told of {}", reader.missed);
                    self.findings.note(text);
                }
            }
            Kind::Missed => {
                let at = usize::from(lane).min(LANES - 1);
                reader.missed += id.saturating_sub(sequence);
                if let Some(yields) = &mut reader.yields {
                    let (stood_ns, limit_ns) = (yields.stood_ns(at_ns), yields.limit_ns);
                    // What was there before it joined may be gone.
                    if id > yields.from[at] && stood_ns < limit_ns {
                        let text = format!(
                            "a reader of {name} lane {lane} missed {sequence}..{id}, let go after {} ms",
                            stood_ns / 1_000_000
                        );
                        self.findings.note(text);
                    }
                }
                self.reader_moves(place, topic, lane, sequence, id, true);
            }
            _ => {
                if let Some(yields) = &mut reader.yields {
                    yields.goes_on(usize::from(lane).min(LANES - 1), at_ns);
                }
                if attempts > 1 {
                    let text = format!("a reader of {name} lane {lane} got {sequence} again ({attempts})");
                    self.findings.note(text);
                }
                self.reader_moves(place, topic, lane, sequence, sequence + 1, false);
            }
        }
    }

    fn reader_moves(&mut self, place: usize, topic: usize, lane: u8, from: u64, until: u64, is_missed: bool) {
        let reader = &mut self.places[place].reader;
        reader.topic = Some(topic);
        let Some(next) = reader.next.get_mut(usize::from(lane)) else { return };
        let begins = reader.yields.as_ref().map(|yields| yields.from[usize::from(lane)]);
        let is_wrong = match (*next, begins) {
            (Some(next), _) => from != next,
            // From there on nothing is passed over.
            (None, Some(begins)) => from > begins,
            (None, None) => false,
        };
        if is_wrong || until <= from {
            self.findings.out_of_order += 1;
            let next = next.or(begins);
            let text = format!("reader of {} lane {lane}: {from} after {next:?}", TOPICS[topic].name);
            self.findings.text(text);
        }
        *next = Some(until);
        let count = if begins.is_some() { &mut self.yielders[topic] } else { &mut self.taps[topic] };
        if is_missed { count.missed += until - from.min(until) } else { count.delivered += 1 }
    }

    /// The bus is at rest: every reader has come to the end of each lane, reading or missing.
    pub(crate) fn readers_are_at_the_end(&mut self) {
        for reader in self.places.iter().map(|place| &place.reader) {
            let Some(topic) = reader.topic else { continue };
            for lane in 0..LANES {
                let end = self.topics[topic].lanes[lane].end;
                let from = reader.yields.as_ref().map(|yields| yields.from[lane]);
                if let Some(at) = reader.next[lane].or(from)
                    && at != end
                {
                    let name = TOPICS[topic].name;
                    let text = format!("a reader of {name} lane {lane} is at {at}, the lane's end at {end}");
                    self.findings.note(text);
                }
            }
        }
    }
}
