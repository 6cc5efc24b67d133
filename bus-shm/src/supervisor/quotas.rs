//! Quotas in the ring file, which the holder of the role changes and every publisher reads.

use crate::error::TopicError;
use crate::topic::TopicCore;
use bus_core::layout::ring::{QUOTA_SERVICES, at, quota, service_quota};
use bus_core::layout::wake::{self, state};
use bus_core::name::key;
use bus_core::sync::{AtomicU64, Ordering};

/// Sets the words of a topic, or of one of its services; zeros take them away. Why not, if it cannot be done.
pub(super) fn set(
    topic: &TopicCore,
    service: Option<&str>,
    words: [u64; 2],
) -> Result<Option<String>, TopicError> {
    let (offset, mark) = match service {
        None => (at::QUOTA, 0),
        Some(service) => {
            let key = key(service);
            match entry_of(topic, key, words == [0, 0]) {
                Entry::At(index) => (service_quota(index) + 8, quota::mark(key)),
                Entry::None => return Ok(None),
                Entry::Full => {
                    return Ok(Some(format!(
                        "topic {:?} has quotas for {QUOTA_SERVICES} services already; take one away with \
                         `shmbus quota {} --service NAME --off`",
                        topic.name(),
                        topic.name()
                    )));
                }
            }
        }
    };
    for (index, word) in words.into_iter().enumerate() {
        let word = if word == 0 { 0 } else { word | u64::from(mark) << 56 };
        if let Some(place) = topic.ring_word(offset + 8 * index) {
            replace(place, word);
        }
    }
    raise_generation(topic);
    Ok(None)
}

/// Tells publishers that something has changed: the next publication of each reads it again.
pub(super) fn raise_generation(topic: &TopicCore) {
    if let Some(word) = topic.wake_half(wake::at::STATE) {
        // Release: pairs with the Acquire in the publisher's `admit`; what it is to read is stored before.
        word.fetch_add(state::GENERATION, Ordering::Release);
    }
}

/// By compare-and-swap on the value seen: a late holder of the role may do the same.
fn replace(place: &AtomicU64, word: u64) {
    let mut seen = place.load(Ordering::Relaxed);
    // Relaxed: the word says all by itself, and the generation is raised after it.
    while let Err(now) = place.compare_exchange(seen, word, Ordering::Relaxed, Ordering::Relaxed) {
        seen = now;
    }
}

enum Entry {
    At(usize),
    /// There is nothing to take away.
    None,
    Full,
}

/// The entry of a service, claimed if it has none. One whose words say nothing is free; a store into it that comes late from
/// another holder of the role carries the former service's mark, and says nothing either.
fn entry_of(topic: &TopicCore, key: u64, takes_away: bool) -> Entry {
    let load = |offset| topic.ring_word(offset).map_or(0, |word| word.load(Ordering::Relaxed));
    if let Some(index) = (0..QUOTA_SERVICES).find(|&index| load(service_quota(index)) == key) {
        return Entry::At(index);
    }
    if takes_away {
        return Entry::None;
    }
    for index in 0..QUOTA_SERVICES {
        let Some(word) = topic.ring_word(service_quota(index)) else { break };
        let seen = word.load(Ordering::Relaxed);
        let says = |offset: usize| {
            let (rate, _, mark) = quota::unpack(load(service_quota(index) + offset));
            rate > 0 && mark == quota::mark(seen)
        };
        if !says(8)
            && !says(16)
            && word.compare_exchange(seen, key, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return Entry::At(index);
        }
    }
    Entry::Full
}
