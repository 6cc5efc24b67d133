//! Rates, from one look at the bus to the next.

use super::verdict::{Facts, Verdict};
use crate::units;
use crate::watch::{Sample, is_present};
use bus_shm::inspect::{GroupLane, GroupState, TopicState};
use bus_shm::mailbox;
use std::collections::{HashMap, VecDeque};

/// Verdicts are about the last few intervals, so that one burst does not turn them.
const WINDOW: usize = 5;

/// Counters of a place at some moments, the newest last.
#[derive(Debug, Default)]
struct History(VecDeque<(u64, u64)>);

impl History {
    fn push(&mut self, at_ns: u64, count: u64) {
        // A topic or group that was made anew under its name begins again.
        if self.0.back().is_some_and(|&(_, last)| count < last) {
            self.0.clear();
        }
        self.0.push_back((at_ns, count));
        while self.0.len() > WINDOW + 1 {
            self.0.pop_front();
        }
    }

    /// Per second, over the last `intervals`.
    fn rate(&self, intervals: usize) -> f64 {
        let Some(&(now_ns, now)) = self.0.back() else { return 0.0 };
        let first = self.0.len().saturating_sub(intervals + 1);
        let (then_ns, then) = self.0[first];
        if now_ns == then_ns { 0.0 } else { (now - then) as f64 * 1e9 / (now_ns - then_ns) as f64 }
    }
}

/// One line of the table: a group in a lane of a topic, or a lane that no group reads.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) topic: String,
    pub(super) lane: &'static str,
    lane_index: usize,
    /// The lane has carried messages.
    pub(super) is_used: bool,
    pub(super) publishers: usize,
    pub(super) rate_in: f64,
    /// Publications a second that found the lane full.
    pub(super) rate_refused: f64,
    pub(super) fill_count: u64,
    pub(super) capacity: u64,
    /// What the breakers do in this lane, where they do something.
    pub(super) breaker: Option<String>,
    pub(super) group: Option<GroupRow>,
}

/// A group's part of a line.
#[derive(Debug)]
pub(super) struct GroupRow {
    pub(super) state: GroupState,
    pub(super) position: GroupLane,
    pub(super) rate_out: f64,
    pub(super) verdict: Verdict,
}

impl Row {
    pub(super) fn lag_count(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.position.lag_count)
    }

    pub(super) fn lag_bytes(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.position.lag_bytes)
    }

    pub(super) fn lag_ns(&self) -> u64 {
        self.group.as_ref().and_then(|group| group.position.age).map_or(0, |age| age.ns)
    }

    pub(super) fn rate_out(&self) -> f64 {
        self.group.as_ref().map_or(0.0, |group| group.rate_out)
    }

    /// The order in which rows stand unless another is asked for.
    pub(super) fn place(&self) -> (&str, usize, Option<&str>) {
        (&self.topic, self.lane_index, self.group.as_ref().map(|group| group.state.name.as_str()))
    }
}

/// `loop cut open from talk.answer, 3 s to the next trial`, for the cut that has most of its time before it.
fn loop_cut_text(state: &TopicState) -> Option<String> {
    let cuts = state.publishers.iter().filter_map(|publisher| publisher.loop_cut.as_ref());
    let cut = cuts.max_by_key(|cut| (cut.left, cut.whole_pair))?;
    let from = mailbox::display(&cut.cause);
    Some(match cut.left.is_zero() {
        true => format!("loop cut {} from {from}", cut.state),
        false => {
            format!("loop cut {} from {from}, {} to the next trial", cut.state, units::duration(cut.left))
        }
    })
}

/// `topic's breaker open (full)`, or `breaker half-open (full)`, or `breakers: 2 open, 1 half-open of 10`, or a loop that was cut.
fn breakers_text(state: &TopicState, lane: &str) -> Option<String> {
    if state.breaker.lanes.contains(&lane) {
        return Some(format!("topic's breaker open ({})", state.breaker.reason.unwrap_or("")));
    }
    let here: Vec<_> = state
        .publishers
        .iter()
        .map(|publisher| &publisher.breaker)
        .filter(|breaker| breaker.lanes.contains(&lane))
        .collect();
    let count = |name| here.iter().filter(|breaker| breaker.state == name).count();
    match here.as_slice() {
        [] => loop_cut_text(state),
        [one] if state.publishers.len() == 1 => {
            Some(format!("breaker {} ({})", one.state, one.reason.unwrap_or("")))
        }
        _ => {
            let (open, half) = (count("open"), count("half-open"));
            Some(format!("breakers: {open} open, {half} half-open of {}", state.publishers.len()))
        }
    }
}

/// What was seen before.
#[derive(Debug, Default)]
pub(super) struct Meter {
    lanes: HashMap<(String, usize), (History, History)>,
    groups: HashMap<(String, String, usize), History>,
}

impl Meter {
    /// Takes a look in, and returns its rows by topic, lane and group.
    pub(super) fn update(&mut self, samples: &[Sample]) -> Vec<Row> {
        let mut rows = Vec::new();
        for Sample { settings, state } in samples {
            let present: Vec<_> = state.groups.iter().filter(|group| is_present(group)).collect();
            for lane in &state.lanes {
                let index = lane.lane.index();
                let (published, refused) = self.lanes.entry((state.name.clone(), index)).or_default();
                published.push(state.at_ns, lane.end);
                refused.push(state.at_ns, lane.refused_count);
                let window_in = published.rate(WINDOW);
                let row = |group| Row {
                    topic: state.name.clone(),
                    lane: lane.name,
                    lane_index: index,
                    is_used: lane.end > 0,
                    publishers: state.producers.len(),
                    rate_in: published.rate(1),
                    rate_refused: refused.rate(1),
                    fill_count: lane.fill_count,
                    capacity: u64::from(settings.capacity),
                    breaker: breakers_text(state, lane.name),
                    group,
                };
                if present.is_empty() {
                    rows.push(row(None));
                }
                for group in &present {
                    let position = group.lanes[index].clone();
                    let key = (state.name.clone(), group.name.clone(), index);
                    let finished = self.groups.entry(key).or_default();
                    finished.push(state.at_ns, position.low_water);
                    let window_out = finished.rate(WINDOW);
                    let verdict = Verdict::of(&Facts {
                        rate_in: window_in,
                        rate_out: window_out,
                        lag_count: position.lag_count,
                        lag_s: position.age.map(|age| age.ns as f64 / 1e9),
                        capacity: u64::from(settings.capacity),
                        // Members of a shared group may come and go between two looks.
                        has_reader: group.members > 0 || window_out > 0.0,
                    });
                    let rate_out = finished.rate(1);
                    rows.push(row(Some(GroupRow { state: (*group).clone(), position, rate_out, verdict })));
                }
            }
        }
        self.forget(samples);
        rows
    }

    /// Drops what is known of topics and groups that have gone.
    fn forget(&mut self, samples: &[Sample]) {
        let find = |topic: &str| samples.iter().find(|sample| sample.state.name == topic);
        self.lanes.retain(|(topic, _), _| find(topic).is_some());
        self.groups.retain(|(topic, name, _), _| {
            find(topic).is_some_and(|sample| sample.state.groups.iter().any(|group| group.name == *name))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_over_one_interval_and_over_the_window() {
        let mut history = History::default();
        assert_eq!(history.rate(1), 0.0);
        for (second, count) in [(0, 0), (1, 100), (2, 400), (3, 400), (4, 500)] {
            history.push(second * 1_000_000_000, count);
        }
        assert_eq!((history.rate(1), history.rate(WINDOW)), (100.0, 125.0));
        for second in 5..20 {
            history.push(second * 1_000_000_000, 500 + second);
        }
        assert_eq!(history.0.len(), WINDOW + 1);
        assert_eq!(history.rate(WINDOW), 1.0);
        history.push(20_000_000_000, 3);
        assert_eq!(history.rate(WINDOW), 0.0, "counters that went back belong to something new");
    }
}
