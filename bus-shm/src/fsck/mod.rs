//! Is everything in a bus as it must be? Looks at every word that has a rule, of a bus at rest or in full use, and takes
//! no part in it: files are opened for reading, nothing is locked, stored or created.
//!
//! In a live bus words change while they are looked at. Three things keep that from being mistaken for damage.
//!
//! - **Order.** Two words are loaded in the order in which the rule between them survives a change: what only grows and
//!   bounds from above is loaded last, what bounds from below first. Each check says which.
//! - **Looking again at once.** What is only true while somebody holds an entry is believed if the entry's word is the
//!   same before and after; its tag grows whenever it changes hands.
//! - **Looking again later.** Whatever still looks wrong is loaded again after 50 ms and once more after another 100 ms, and
//!   is reported if the wrong words are there unchanged each time.
//!
//! A process may be stopped or killed between any two of its steps, so a state that such a process leaves is no problem:
//! a dead process that nobody has noticed yet holds what it held. Rows of docs/fsck.md say what is excused and why.

mod arenas;
mod aside;
mod files;
mod groups;
mod keys;
mod listeners;
mod outcomes;
mod owners;
mod participants;
mod problem;
mod ring;
mod wake;

pub use problem::{Invariant, Place, Problem};

use crate::directory::BusDir;
use crate::error::{BusError, TopicError};
use crate::topic::{Role, TopicCore};
use bus_core::layout::superblock::at;
use bus_core::sync::Ordering;
use participants::Roll;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before looking again, and again.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(100)];
/// Problems of one kind in one place that are told; a wrong file has thousands.
const TOLD_MAX: usize = 16;

/// What a check came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// What does not hold.
    pub problems: Vec<Problem>,
    /// Topics that were looked at.
    pub topics: usize,
    /// Their lanes.
    pub lanes: usize,
    /// Their groups.
    pub groups: usize,
}

/// Something that looks wrong, with the words by which it is recognised at the next look.
struct Suspicion {
    problem: Problem,
    witness: [u64; 2],
    /// It was seen to happen; there is nothing to look at again.
    certain: bool,
}

impl Suspicion {
    fn is_same(&self, other: &Suspicion) -> bool {
        self.problem.invariant == other.problem.invariant
            && self.problem.place == other.problem.place
            && self.witness == other.witness
    }
}

/// One look at a bus.
struct Look<'a> {
    dir: &'a BusDir,
    roll: Roll,
    found: Vec<Suspicion>,
    topics: usize,
    lanes: usize,
    groups: usize,
}

impl<'a> Look<'a> {
    fn new(dir: &'a BusDir) -> Self {
        Self { dir, roll: Roll::open(dir), found: Vec::new(), topics: 0, lanes: 0, groups: 0 }
    }

    /// Something looks wrong. `witness` is what must be there unchanged at the next look.
    fn suspect(
        &mut self,
        invariant: Invariant,
        place: Place,
        witness: [u64; 2],
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let is_alike = |known: &&Suspicion| {
            let known = &known.problem;
            known.invariant == invariant
                && known.place.topic == place.topic
                && known.place.lane == place.lane
                && known.place.group == place.group
        };
        if self.found.iter().filter(is_alike).count() < TOLD_MAX {
            let (bus, found, expected) = (self.dir.name().to_owned(), found.into(), expected.into());
            let problem = Problem { bus, place, invariant, found, expected };
            self.found.push(Suspicion { problem, witness, certain: false });
        }
    }

    /// Something went wrong while it was watched.
    fn saw(&mut self, invariant: Invariant, place: Place, found: String, expected: String) {
        let bus = self.dir.name().to_owned();
        let problem = Problem { bus, place, invariant, found, expected };
        self.found.push(Suspicion { problem, witness: [0; 2], certain: true });
    }

    fn at_bus(&mut self) {
        participants::check(self);
        wake::check_spin(self);
        files::check_bus(self);
    }

    fn at_topic(&mut self, name: &str) {
        let core = match TopicCore::attach(self.dir, name, Role::Observer) {
            Ok(core) => core,
            // Not a directory, or taken down meanwhile.
            Err(TopicError::NotFound { .. }) => return,
            Err(error) => return files::unreadable(self, Place::topic(name), name.len() as u64, &error),
        };
        let core = Arc::new(core);
        self.topics += 1;
        self.lanes += core.lanes();
        files::check_topic(self, &core);
        wake::check_topic(self, &core);
        arenas::check_producers(self, &core);
        groups::check(self, &core);
        let ends: Vec<Option<u64>> = (0..core.lanes()).map(|lane| ring::check(self, &core, lane)).collect();
        owners::check(self, &core, &ends);
        keys::check(self, &core);
        aside::check(self, &core, &ends);
        outcomes::check(self, &core, &ends);
    }
}

/// Checks a bus. At rest or without anything suspicious it takes one look; else about 150 ms more.
///
/// # Errors
/// There is no such bus, it is another user's, or it was taken down meanwhile. What cannot be read in an existing bus is a
/// problem, not an error.
pub fn check(dir: &BusDir) -> Result<Report, BusError> {
    dir.check_base()?;
    if !dir.superblock().exists() {
        return Err(BusError::NotFound { bus: dir.name().into(), dir: dir.base().into() });
    }
    let mut last = Look::new(dir);
    last.at_bus();
    for name in dir.topic_names() {
        last.at_topic(&name);
    }
    let (topics, lanes, groups) = (last.topics, last.lanes, last.groups);
    let mut problems: Vec<Problem> = Vec::new();
    for pause in PAUSES {
        let (certain, open): (Vec<_>, Vec<_>) = last.found.into_iter().partition(|known| known.certain);
        problems.extend(certain.into_iter().map(|known| known.problem));
        last = Look::new(dir);
        if open.is_empty() {
            break;
        }
        std::thread::sleep(pause);
        if open.iter().any(|known| known.problem.place.topic.is_none()) {
            last.at_bus();
        }
        for name in dir.topic_names() {
            if open.iter().any(|known| known.problem.place.topic.as_ref() == Some(&name)) {
                last.at_topic(&name);
            }
        }
        last.found.retain(|found| found.certain || open.iter().any(|known| known.is_same(found)));
    }
    for known in last.found {
        let is_told =
            |told: &Problem| told.invariant == known.problem.invariant && told.place == known.problem.place;
        // What was seen for certain may be there at the next look as well.
        if !problems.iter().any(is_told) {
            problems.push(known.problem);
        }
    }
    // Half of a bus that is being removed is no damage.
    if !problems.is_empty() && is_closed(dir, &last.roll) {
        return Err(BusError::Closed { bus: dir.name().into() });
    }
    Ok(Report { problems, topics, lanes, groups })
}

/// Has the bus been taken down while it was looked at?
fn is_closed(dir: &BusDir, roll: &Roll) -> bool {
    !dir.superblock().exists() || roll.word(at::STATE).is_some_and(|state| state.load(Ordering::Acquire) == 1)
}
