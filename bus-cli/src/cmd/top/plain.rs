//! The table as text and as JSON, for pipes and programs.

use super::Look;
use super::meter::Row;
use crate::place::Place;
use crate::report;
use crate::table::columns;
use crate::units;
use crate::watch::{balance_text, members_text};
use bus_shm::mailbox;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a row says, column by column, in the order of the headings.
pub(super) struct Cells {
    pub(super) topic: String,
    pub(super) lane: String,
    pub(super) group: String,
    pub(super) rate_in: String,
    pub(super) rate_out: String,
    pub(super) lag: String,
    pub(super) bytes: String,
    pub(super) age: String,
    pub(super) fill: String,
    pub(super) publishers: String,
    pub(super) readers: String,
    pub(super) read_by: String,
    pub(super) verdict: String,
}

impl Cells {
    pub(super) fn of(row: &Row) -> Self {
        let group = row.group.as_ref();
        let of_group =
            |text: &dyn Fn(&super::meter::GroupRow) -> String| group.map_or_else(|| "-".to_owned(), text);
        let verdict = match (&row.breaker, group) {
            (Some(breakers), _) => breakers.clone(),
            (None, Some(group)) => match group.state.stalled_ns {
                Some(ns) => format!("stalled for {}", units::nanoseconds(ns)),
                None => group.verdict.to_string(),
            },
            (None, None) => "no groups".into(),
        };
        let refused = match row.rate_refused {
            none if none < 0.05 => String::new(),
            some => format!(" ({}/s refused)", units::rate(some)),
        };
        let dead = match group.map_or(0, |group| group.position.dead_count) {
            0 => String::new(),
            count => format!(", {} dead", units::count(count)),
        };
        let keyed = group.and_then(|group| balance_text(group.state.keyed.as_ref()?));
        let keyed = keyed.map(|balance| format!("; {balance}")).unwrap_or_default();
        Self {
            topic: mailbox::display(&row.topic).into_owned(),
            lane: row.lane.to_owned(),
            group: of_group(&|group| group.state.name.clone()),
            rate_in: units::rate(row.rate_in),
            rate_out: of_group(&|group| units::rate(group.rate_out)),
            lag: of_group(&|group| units::count(group.position.lag_count)),
            bytes: of_group(&|group| units::bytes(group.position.lag_bytes)),
            age: of_group(&|group| units::age(group.position.age)),
            fill: units::percent(row.fill_count, row.capacity),
            publishers: row.publishers.to_string(),
            readers: of_group(&|group| group.state.members.to_string()),
            read_by: of_group(&|group| members_text(&group.state)),
            verdict: verdict + &dead + &refused + &keyed,
        }
    }
}

/// All rows as a table.
pub(super) fn table(rows: &[&Row]) -> String {
    let mut table = columns(&[
        "TOPIC", "LANE", "GROUP", ">IN/S", ">OUT/S", ">LAG", ">BYTES", ">OLDEST", ">FILL", ">PUBS",
        "READ BY", "VERDICT",
    ]);
    for row in rows {
        let cells = Cells::of(row);
        table.row([
            cells.topic,
            cells.lane,
            cells.group,
            cells.rate_in,
            cells.rate_out,
            cells.lag,
            cells.bytes,
            cells.age,
            cells.fill,
            cells.publishers,
            cells.read_by,
            cells.verdict,
        ]);
    }
    table.render()
}

/// To three places: more is noise.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// Everything that was seen in one look, topics with their lanes and groups.
pub(super) fn json(place: &Place, look: &Look, interval: Duration) -> Value {
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let topics: Vec<Value> = look
        .samples
        .iter()
        .map(|sample| {
            let state = &sample.state;
            let rows: Vec<&Row> = look.rows.iter().filter(|row| row.topic == state.name).collect();
            let lanes: Vec<Value> = state
                .lanes
                .iter()
                .map(|lane| {
                    let mut value = report::lane(lane, &sample.settings);
                    if let Some(row) = rows.iter().find(|row| row.lane == lane.name) {
                        value["rate_in"] = json!(rounded(row.rate_in));
                        value["rate_refused"] = json!(rounded(row.rate_refused));
                    }
                    value
                })
                .collect();
            let groups: Vec<Value> = state
                .groups
                .iter()
                .map(|group| {
                    let lanes = rows.iter().filter_map(|row| {
                        let here = row.group.as_ref().filter(|here| here.state.name == group.name)?;
                        let mut value = report::group_lane(&here.position, state.lanes.len());
                        value["rate_out"] = json!(rounded(here.rate_out));
                        value["verdict"] = json!(here.verdict.key());
                        value["sustainable"] = json!(here.verdict.is_sustainable());
                        value["drain_s"] = json!(here.verdict.drain_s().map(rounded));
                        Some(value)
                    });
                    report::group(group, lanes.collect())
                })
                .collect();
            json!({
                "topic": state.name,
                "memory_bytes": state.memory_bytes,
                "breaker": state.breaker.state,
                "publishers": state.publishers.iter().map(report::publisher).collect::<Vec<_>>(),
                "lanes": lanes,
                "groups": groups,
            })
        })
        .collect();
    json!({
        "schema": 1,
        "bus": place.bus,
        "time": units::rfc3339(now_ns),
        "interval_s": interval.as_secs_f64(),
        "topics": topics,
    })
}
