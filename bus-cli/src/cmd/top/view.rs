//! Which rows are shown, and in which order.

use super::meter::Row;
use std::cmp::Ordering;

/// What rows can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Key {
    /// Topic, lane and group by name
    Topic,
    /// Messages per second that come in
    In,
    /// Messages per second that are finished
    Out,
    /// Messages behind
    Lag,
    /// Bytes behind
    Bytes,
    /// Age of the oldest unread message
    Age,
    /// Fill of the lane
    Fill,
}

impl Key {
    pub(super) const ALL: [Key; 7] =
        [Key::Topic, Key::In, Key::Out, Key::Lag, Key::Bytes, Key::Age, Key::Fill];

    /// The key to press.
    pub(super) fn letter(self) -> char {
        match self {
            Key::Topic => 't',
            Key::In => 'i',
            Key::Out => 'o',
            Key::Lag => 'l',
            Key::Bytes => 'b',
            Key::Age => 'g',
            Key::Fill => 'f',
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Key::Topic => "topic",
            Key::In => "in",
            Key::Out => "out",
            Key::Lag => "lag",
            Key::Bytes => "bytes",
            Key::Age => "age",
            Key::Fill => "fill",
        }
    }

    /// Largest first, but names from A on.
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        match self {
            Key::Topic => a.place().cmp(&b.place()),
            Key::In => b.rate_in.total_cmp(&a.rate_in),
            Key::Out => b.rate_out().total_cmp(&a.rate_out()),
            Key::Lag => b.lag_count().cmp(&a.lag_count()),
            Key::Bytes => b.lag_bytes().cmp(&a.lag_bytes()),
            Key::Age => b.lag_ns().cmp(&a.lag_ns()),
            Key::Fill => {
                let share = |row: &Row| row.fill_count as f64 / row.capacity as f64;
                share(b).total_cmp(&share(a))
            }
        }
    }
}

/// What the user wants to see.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) sort: Key,
    pub(super) filter: String,
    /// Lanes that have never carried a message too.
    pub(super) all: bool,
}

impl View {
    pub(super) fn new(sort: Key, filter: String, all: bool) -> Self {
        Self { sort, filter, all }
    }

    /// The rows that are wanted, sorted.
    pub(super) fn choose<'r>(&self, rows: &'r [Row]) -> Vec<&'r Row> {
        let mut chosen: Vec<&Row> = rows
            .iter()
            .filter(|row| self.is_wanted(row) && (self.all || self.says_something(row, rows)))
            .collect();
        chosen.sort_by(|a, b| self.sort.compare(a, b).then_with(|| a.place().cmp(&b.place())));
        chosen
    }

    fn is_wanted(&self, row: &Row) -> bool {
        let filter = self.filter.to_lowercase();
        let matches = |text: &str| text.to_lowercase().contains(&filter);
        matches(&row.topic)
            || row.group.as_ref().is_some_and(|group| {
                matches(&group.state.name)
                    || group.state.holder.as_ref().is_some_and(|holder| matches(&holder.service))
            })
    }

    /// A lane that was never used is worth a row only if its topic has no other: then the last one stands for all.
    fn says_something(&self, row: &Row, rows: &[Row]) -> bool {
        row.is_used
            || row.lane == "normal" && rows.iter().all(|other| other.topic != row.topic || !other.is_used)
    }
}
