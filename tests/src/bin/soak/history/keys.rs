//! Keyed groups: of a key and lane a message is handed out when all before it are finished, or in the same hand.
//!
//! Workers are heard one after the other, so what is known of two of them comes in any order. But a member writes down that it is
//! about to finish a message before it does, and that it was handed one after it was: the one time must not be later than the other.

use super::{Findings, name};
use std::collections::{BTreeMap, HashMap};

/// A message of a key.
#[derive(Default)]
struct Fate {
    /// When it was handed out, and which earlier ones of its key were in the same hand then.
    handed: Vec<(u64, Vec<u64>)>,
    /// When its member was about to finish it.
    finishing_ns: Option<u64>,
}

impl Fate {
    /// Was it handed out before an earlier one was about to be finished, which was not in the same hand?
    fn overtook(&self, earlier: u64, finishing_ns: u64) -> bool {
        self.handed.iter().any(|(at_ns, held)| *at_ns < finishing_ns && !held.contains(&earlier))
    }
}

/// What is known of the keys of a keyed group in one lane.
#[derive(Default)]
pub(super) struct Keys(HashMap<u64, BTreeMap<u64, Fate>>);

/// Where something is wrong.
pub(super) type Whence = (usize, usize, u8);

impl Keys {
    /// A message was handed out, while its member had these of its key in hand.
    pub(super) fn handed(
        &mut self,
        (key, sequence): (u64, u64),
        at_ns: u64,
        held: Vec<u64>,
        whence: Whence,
        findings: &mut Findings,
    ) {
        let fates = self.0.entry(key).or_default();
        fates.entry(sequence).or_default().handed.push((at_ns, held));
        for (&earlier, fate) in fates.range(..sequence) {
            if fate.finishing_ns.is_some_and(|at_ns| fates[&sequence].overtook(earlier, at_ns)) {
                complain(key, (earlier, sequence), whence, findings);
            }
        }
    }

    /// A message was acknowledged, or rejected; its member was about to do that at this time.
    pub(super) fn finished(
        &mut self,
        (key, sequence): (u64, u64),
        at_ns: u64,
        whence: Whence,
        findings: &mut Findings,
    ) {
        let fates = self.0.entry(key).or_default();
        fates.entry(sequence).or_default().finishing_ns = Some(at_ns);
        for (&later, fate) in fates.range(sequence + 1..) {
            if fate.overtook(sequence, at_ns) {
                complain(key, (sequence, later), whence, findings);
            }
        }
    }

    /// Nothing is heard any more of messages before this one.
    pub(super) fn forget(&mut self, floor: u64) {
        for fates in self.0.values_mut() {
            *fates = fates.split_off(&floor);
        }
    }
}

fn complain(key: u64, (earlier, later): (u64, u64), (topic, group, lane): Whence, findings: &mut Findings) {
    findings.out_of_order += 1;
    let who = name(topic, group);
    findings.text(format!(
        "{who} lane {lane}: {later} of key {key} was handed out before {earlier} was finished"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Handed out at a time, with these in the same hand; or about to be finished.
    enum Event {
        Handed(u64, u64, &'static [u64]),
        Finished(u64, u64),
    }
    use Event::{Finished, Handed};

    fn wrong(events: &[Event]) -> u64 {
        let (mut keys, mut findings) = (Keys::default(), Findings::default());
        for event in events {
            match *event {
                Handed(sequence, at_ns, held) => {
                    keys.handed((7, sequence), at_ns, held.to_vec(), (3, 0, 2), &mut findings);
                }
                Finished(sequence, at_ns) => keys.finished((7, sequence), at_ns, (3, 0, 2), &mut findings),
            }
        }
        findings.out_of_order
    }

    #[test]
    fn one_after_the_other_or_in_one_hand() {
        assert_eq!(wrong(&[Handed(1, 10, &[]), Handed(4, 30, &[]), Finished(1, 20), Finished(4, 40)]), 0);
        assert_eq!(wrong(&[Handed(1, 10, &[]), Handed(4, 11, &[1]), Finished(1, 20), Finished(4, 21)]), 0);
        // Killed with both; they come again one by one.
        let again = [Handed(1, 10, &[]), Handed(4, 11, &[1]), Handed(1, 20, &[]), Finished(1, 30)];
        assert_eq!(wrong(&again), 0);
        assert_eq!(wrong(&[Handed(4, 40, &[]), Finished(4, 41), Handed(1, 10, &[]), Finished(1, 20)]), 0);
    }

    #[test]
    fn overtaken_in_whatever_order_it_is_heard() {
        let (first, second) = (Finished(1, 20), Handed(4, 15, &[]));
        assert_eq!(wrong(&[Handed(1, 10, &[]), first, second]), 1);
        assert_eq!(wrong(&[Handed(4, 15, &[]), Handed(1, 10, &[]), Finished(1, 20)]), 1);
        assert_eq!(
            wrong(&[Handed(1, 10, &[]), Handed(4, 15, &[2]), Finished(1, 20)]),
            1,
            "another was in hand"
        );
    }

    #[test]
    fn what_nobody_speaks_of_any_more_is_forgotten() {
        let mut keys = Keys::default();
        let mut findings = Findings::default();
        keys.handed((7, 1), 15, Vec::new(), (3, 0, 2), &mut findings);
        keys.forget(2);
        assert!(keys.0[&7].is_empty());
    }
}
