//! Where a reader begins, lane by lane.

use super::Start;
use crate::error::AttachError;
use crate::reader::LaneReader;
use crate::sys::clock::monotonic_ns;
use crate::topic::TopicCore;
use bus_core::layout::ring;
use std::time::Duration;

/// Puts into `wished` where each lane begins for `start`; it holds their ends before. What is no longer there is an error, or the
/// oldest message instead.
pub(crate) fn begin_at(
    core: &TopicCore,
    start: Start,
    or_oldest: bool,
    lanes: &mut [LaneReader],
    wished: &mut [u64],
) -> Result<(), AttachError> {
    let capacity = u64::from(core.config().capacity);
    let now_ns = monotonic_ns();
    match start {
        Start::Latest => {}
        Start::Oldest => {
            for at in wished.iter_mut() {
                *at = at.saturating_sub(capacity);
            }
        }
        Start::Sequence(lane, sequence) => {
            let Some(at) = wished.get_mut(lane.index()) else {
                let (topic, lane) = (core.name().to_owned(), lane.0);
                return Err(AttachError::Lane { topic, lane, lanes: core.config().lanes });
            };
            let (oldest, end) = (at.saturating_sub(capacity), *at);
            if sequence > end || sequence < oldest && !or_oldest {
                let (topic, lane) = (core.name().to_owned(), lane.0);
                return Err(AttachError::Start { topic, lane, wished: sequence, oldest, end });
            }
            *at = sequence.max(oldest);
        }
        Start::Time(from_ns) => begin_at_time(core, (from_ns, now_ns), or_oldest, lanes, wished)?,
        Start::Ago(ago) => {
            let ago_ns = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
            // Before the clock began there was no bus either.
            let from_ns = now_ns.saturating_sub(ago_ns);
            begin_at_time(core, (from_ns, now_ns), or_oldest, lanes, wished)?;
        }
    }
    Ok(())
}

fn begin_at_time(
    core: &TopicCore,
    (from_ns, now_ns): (u64, u64),
    or_oldest: bool,
    lanes: &mut [LaneReader],
    wished: &mut [u64],
) -> Result<(), AttachError> {
    let topic = || core.name().to_owned();
    if from_ns > now_ns {
        return Err(AttachError::StartFuture { topic: topic(), what: "in the future" });
    }
    let wished_ago = Duration::from_nanos(now_ns - from_ns);
    let capacity = u64::from(core.config().capacity);
    let has_stamps = core.config().flags & ring::FLAG_STAMPS != 0;
    for (lane, at) in lanes.iter_mut().zip(wished.iter_mut()) {
        let (end, index) = (*at, lane.index());
        let oldest = end.saturating_sub(capacity);
        let (from, is_complete) = if has_stamps {
            let from = lane.first_at_or_after(from_ns, oldest, end);
            // What came before the first that is there may have been younger than asked for.
            (from, from > oldest || oldest == 0)
        } else {
            match crate::inspect::end_before(core, index, from_ns) {
                Some(from) => (from.clamp(oldest, end), from >= oldest),
                None if end == 0 => (0, true),
                None if or_oldest => (oldest, true),
                None => {
                    return Err(AttachError::StartUnknown { topic: topic(), lane: index as u8, wished_ago });
                }
            }
        };
        if !is_complete && !or_oldest {
            let stamp_ns = lane.header_at(oldest).map_or(0, |header| header.stamp_ns);
            let age = (stamp_ns != 0).then(|| Duration::from_nanos(now_ns.saturating_sub(stamp_ns)));
            let age = age.or_else(|| crate::inspect::sampled_age(core, index, oldest));
            return Err(AttachError::StartTime {
                topic: topic(),
                lane: index as u8,
                wished_ago,
                oldest,
                age,
            });
        }
        *at = from;
    }
    Ok(())
}
