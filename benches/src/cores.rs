//! Which cores the worker processes run on.

use std::collections::BTreeSet;
use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{BenchError, Result};

/// How the workers are pinned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Pinning {
    /// One core a worker, chosen from those that this process may use.
    #[default]
    Chosen,
    /// These cores, in the order of the workers.
    Given(Vec<usize>),
    /// Not pinned: the scheduler moves the workers as it likes.
    Off,
}

/// The cores that workers take, in turn.
#[derive(Debug, Clone)]
pub(crate) struct Cores {
    /// In the order of use; neighbours in the list are on different physical cores where that is possible.
    pub(crate) list: Vec<usize>,
    /// Whether workers are pinned to them.
    pub(crate) pinned: bool,
    /// Whether the first two are different physical cores.
    pub(crate) physical: bool,
}

/// What the kernel says about the place of one core.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    core: usize,
    package: usize,
    /// The cores that share this one's last cache, as the kernel writes it.
    cache: String,
    /// The hardware threads of the same physical core.
    siblings: BTreeSet<usize>,
}

impl Cores {
    /// Chooses the cores, or checks those that were given.
    pub(crate) fn plan(pinning: &Pinning) -> Result<Self> {
        let allowed = allowed()?;
        let list = match pinning {
            Pinning::Given(cores) if !cores.is_empty() => {
                if let Some(core) = cores.iter().find(|core| !allowed.contains(core)) {
                    return Err(BenchError::Core { core: *core, allowed });
                }
                cores.clone()
            }
            _ => spread(&allowed.iter().map(|core| place(*core)).collect::<Vec<_>>()),
        };
        let physical = list.len() >= 2 && !place(list[0]).siblings.contains(&list[1]);
        Ok(Self { list, pinned: *pinning != Pinning::Off, physical })
    }

    /// The core of a worker; workers beyond the list start over.
    pub(crate) fn of(&self, part: usize) -> usize {
        self.list[part % self.list.len()]
    }

    /// Whether so many processes that never sleep have to share a core.
    pub(crate) fn oversubscribed(&self, spinning: usize) -> bool {
        let distinct: BTreeSet<_> = self.list.iter().collect();
        spinning > distinct.len()
    }
}

/// Pins the calling thread, and whatever it starts later, to one core.
///
/// # Errors
/// The operating system refuses.
pub fn pin(core: usize) -> std::result::Result<(), BenchError> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)
        .map_err(|error| BenchError::os(format!("sched_setaffinity to core {core}"), error))
}

fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).map_err(|error| BenchError::os("sched_getaffinity", error))?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Orders cores for use: one hardware thread of each physical core first, near ones (same cache, then same package)
/// together, and core 0, which most interrupts go to, at the end of its kind; then the second hardware threads.
fn spread(places: &[Place]) -> Vec<usize> {
    let mut firsts: Vec<&Place> = Vec::new();
    let mut seconds: Vec<&Place> = Vec::new();
    for place in places {
        let taken = firsts.iter().any(|other| place.siblings.contains(&other.core));
        if taken { seconds.push(place) } else { firsts.push(place) }
    }
    // The cache with the most cores goes first, so that a pair of workers shares one if any pair can.
    let sharing = |place: &Place| firsts.iter().filter(|other| other.cache == place.cache).count();
    let mut ordered: Vec<&Place> = firsts.clone();
    let spare = firsts.len() > 2;
    ordered.sort_by_key(|place| {
        let zero_last = spare && place.core == 0;
        (std::cmp::Reverse(sharing(place)), place.package, place.cache.clone(), zero_last, place.core)
    });
    ordered.iter().chain(seconds.iter()).map(|place| place.core).collect()
}

fn place(core: usize) -> Place {
    let base = format!("/sys/devices/system/cpu/cpu{core}");
    let read =
        |file: &str| fs::read_to_string(format!("{base}/{file}")).map(|text| text.trim().to_owned()).ok();
    Place {
        core,
        package: read("topology/physical_package_id").and_then(|id| id.parse().ok()).unwrap_or(0),
        cache: read("cache/index3/shared_cpu_list").unwrap_or_default(),
        siblings: read("topology/thread_siblings_list")
            .map_or_else(|| BTreeSet::from([core]), |list| parse_list(&list)),
    }
}

/// Parses a list such as `0-3,8`; parts that are not numbers are left out.
pub(crate) fn parse_list(text: &str) -> BTreeSet<usize> {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(core: usize, package: usize, cache: &str, siblings: &[usize]) -> Place {
        Place { core, package, cache: cache.into(), siblings: siblings.iter().copied().collect() }
    }

    #[test]
    fn physical_cores_come_before_their_second_threads() {
        let places: Vec<_> = (0..8).map(|core| place_of(core, 0, "0-7", &[core % 4, core % 4 + 4])).collect();
        assert_eq!(spread(&places), vec![1, 2, 3, 0, 4, 5, 6, 7]);
    }

    #[test]
    fn the_first_two_share_a_cache_where_they_can() {
        let places = [
            place_of(0, 0, "0", &[0]),
            place_of(1, 0, "1-2", &[1]),
            place_of(2, 0, "1-2", &[2]),
            place_of(3, 1, "3", &[3]),
        ];
        assert_eq!(&spread(&places)[..2], &[1, 2]);
    }

    #[test]
    fn two_cores_are_taken_as_they_come() {
        let places = [place_of(0, 0, "0-1", &[0]), place_of(1, 0, "0-1", &[1])];
        assert_eq!(spread(&places), vec![0, 1]);
    }

    #[test]
    fn lists_of_the_kernel_are_understood() {
        assert_eq!(parse_list("0-2,5"), BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(parse_list("7"), BTreeSet::from([7]));
        assert!(parse_list("").is_empty());
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        let error = Cores::plan(&Pinning::Given(vec![100_000])).unwrap_err();
        assert!(error.to_string().contains("100000"), "{error}");
    }

    #[test]
    fn workers_beyond_the_list_share() {
        let cores = Cores { list: vec![4, 6], pinned: true, physical: true };
        assert_eq!((cores.of(0), cores.of(1), cores.of(2)), (4, 6, 4));
        assert!(!cores.oversubscribed(2));
        assert!(cores.oversubscribed(3));
    }
}
