//! Topics, lanes and groups as JSON. `ls`, `info`, `lag` and `top` use the same names for the same things.

use crate::units;
use crate::watch::{Sample, total_lag};
use bus_shm::Quota;
use bus_shm::inspect::{
    Age, BreakerState, GroupLane, GroupState, LaneState, LoopCut, Precision, ProcessInfo, PublisherState,
    TopicSettings, TopicState,
};
use bus_shm::keys::KeyedState;
use serde_json::{Value, json};

pub(crate) fn process(info: &ProcessInfo) -> Value {
    json!({ "pid": info.pid, "service": info.service })
}

pub(crate) fn breaker(breaker: &BreakerState) -> Value {
    json!({
        "state": breaker.state,
        "reason": breaker.reason,
        "lanes": breaker.lanes,
        "left_ms": breaker.left.as_millis() as u64,
    })
}

fn quota(quota: &Quota) -> Value {
    json!({
        "messages_per_s": quota.messages_per_s(),
        "bytes_per_s": quota.bytes_per_s(),
        "burst_ms": quota.burst_time().as_millis() as u64,
    })
}

/// A process with what keeps it from publishing.
pub(crate) fn publisher(publisher: &PublisherState) -> Value {
    json!({
        "pid": publisher.process.pid,
        "service": publisher.process.service,
        "producer": publisher.producer,
        "breaker": breaker(&publisher.breaker),
        "refused_count": publisher.refused_count,
        "quota": publisher.quota.as_ref().map(quota),
        "loop_cut": publisher.loop_cut.as_ref().map(loop_cut),
    })
}

fn loop_cut(cut: &LoopCut) -> Value {
    json!({
        "cause": cut.cause,
        "whole_pair": cut.whole_pair,
        "state": cut.state,
        "reason": "loop",
        "left_ms": cut.left.as_millis() as u64,
    })
}

/// The topic's quota, and those of services.
pub(crate) fn quotas(state: &TopicState) -> Value {
    let services: serde_json::Map<_, _> =
        state.service_quotas.iter().map(|(service, of)| (service.clone(), quota(of))).collect();
    json!({ "any": state.quota.as_ref().map(quota), "services": services })
}

pub(crate) fn settings(settings: &TopicSettings) -> Value {
    let types: Vec<Value> = settings
        .types
        .iter()
        .map(|identity| {
            json!({
                "name": identity.name,
                "version": identity.version,
                "fingerprint": format!("{:016x}", identity.fingerprint),
            })
        })
        .collect();
    json!({
        "capacity": settings.capacity,
        "lanes": settings.lanes,
        "producers": settings.producers,
        "message_bytes_max": settings.message_bytes_max,
        "arena_bytes_max": settings.arena_bytes_max,
        "stamps": settings.stamps,
        "ttl_ns": settings.ttl_ns,
        "overflow": settings.overflow.name(),
        "breakers": settings.breakers,
        "hops_max": settings.hops_max,
        "types": types,
        "creator": settings.creator,
        "created": units::rfc3339(settings.created_ns),
    })
}

pub(crate) fn lane(lane: &LaneState, settings: &TopicSettings) -> Value {
    json!({
        "lane": lane.name,
        "published_count": lane.end,
        "oldest": lane.end.saturating_sub(u64::from(settings.capacity)),
        "end": lane.end,
        "gate": lane.gate,
        "fill_count": lane.fill_count,
        "capacity": settings.capacity,
        "refused_count": lane.refused_count,
    })
}

/// What the number beside it is worth.
fn precision(age: Age) -> &'static str {
    match age.precision {
        Precision::Exact => "exact",
        Precision::Sampled => "sampled",
        Precision::AtLeast => "at-least",
    }
}

pub(crate) fn group_lane(position: &GroupLane, lanes: usize) -> Value {
    json!({
        "lane": position.lane.name(lanes),
        "low_water": position.low_water,
        "lag_count": position.lag_count,
        "lag_bytes": position.lag_bytes,
        "lag_ns": position.age.map(|age| age.ns),
        "lag_ns_is": position.age.map(precision),
        "waiting_count": position.waiting_count,
        "dead_count": position.dead_count,
    })
}

/// Who has which keys of a keyed group; shares are of all messages that were handed out.
pub(crate) fn keyed(keyed: &KeyedState) -> Value {
    let share = |count: u64| (keyed.handed_count > 0).then(|| count as f64 / keyed.handed_count as f64);
    let members: Vec<Value> = keyed
        .members
        .iter()
        .map(|member| {
            json!({
                "pid": member.process.pid,
                "service": member.process.service,
                "seat": member.seat,
                "partition_count": member.partition_count,
                "handed_count": member.handed_count,
                "failed_count": member.failed_count,
            })
        })
        .collect();
    let hottest: Vec<Value> = keyed
        .hottest
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition,
                "seat": partition.seat,
                "handed_count": partition.handed_count,
                "share": share(partition.handed_count),
            })
        })
        .collect();
    json!({
        "partitions": keyed.partitions,
        "vacant_count": keyed.vacant_count,
        "handed_count": keyed.handed_count,
        "members": members,
        "hottest": hottest,
    })
}

/// A group with its lag over all lanes; what it has in each lane comes from `group_lane`.
pub(crate) fn group(group: &GroupState, lanes: Vec<Value>) -> Value {
    let (lag_count, lag_bytes, age) = total_lag(group);
    json!({
        "group": group.name,
        "state": group.state,
        "shared": group.shared,
        "keyed": group.keyed.as_ref().map(keyed),
        "ephemeral": group.ephemeral,
        "members": group.members,
        "holder": group.holder.as_ref().map(process),
        "lag_count": lag_count,
        "lag_bytes": lag_bytes,
        "lag_ns": age.map(|age| age.ns),
        "lag_ns_is": age.map(precision),
        "redelivered_count": group.redelivered_count,
        "skipped_count": group.skipped_count,
        "let_go_count": group.let_go_count,
        "stalled_ns": group.stalled_ns,
        "lets_go": group.lets_go,
        "waiting_count": group.waiting_count,
        "dead_count": group.dead_count,
        "full_count": group.full_count,
        "dropped_count": group.dropped_count,
        "lanes": lanes,
    })
}

/// [`group`] with its lanes as they are at one moment.
pub(crate) fn group_now(sample: &Sample, state: &GroupState) -> Value {
    let lanes = state.lanes.iter().map(|lane| group_lane(lane, sample.state.lanes.len())).collect();
    group(state, lanes)
}
