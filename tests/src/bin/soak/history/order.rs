//! What is known of each producer in a lane: its messages are in its order, none is there twice, and what it was told that it
//! has published is there. `publish_batch` does not say where, so such a message is looked for by its number.

use super::{Findings, Lane};
use crate::plan;
use std::collections::VecDeque;

/// What one producer said, and what was found.
#[derive(Default)]
pub(super) struct Told {
    /// The last of its numbers that was found in the order of the lane.
    last: u64,
    /// Numbers that it knows to be published, behind what was found.
    owed: VecDeque<u64>,
    /// Numbers that were found, of which it has not said so yet.
    found: VecDeque<u64>,
}

impl Lane {
    /// A producer was told that this message is published. False: the lane has been looked at beyond the place at which it
    /// would have to be.
    pub(super) fn told(&mut self, id: u64, is_placed: bool) -> bool {
        let (producer, count) = plan::parts_of(id);
        let told = self.producers.entry(producer).or_default();
        // It says so in its order: of what comes before it will not speak any more.
        while told.found.front().is_some_and(|&found| found < count) {
            told.found.pop_front();
        }
        if told.found.front() == Some(&count) {
            told.found.pop_front();
            return true;
        }
        if is_placed {
            return true;
        }
        if count <= told.last {
            return false;
        }
        told.owed.push_back(count);
        true
    }

    /// Looks at what is known in the order of the lane.
    pub(super) fn walk(&mut self, topic: &str, number: usize, findings: &mut Findings) {
        while self.walked < self.end {
            let id = self.id(self.walked);
            if id == 0 {
                return;
            }
            let (producer, count) = plan::parts_of(id);
            let (at, told) = (self.walked, self.producers.entry(producer).or_default());
            let whence = || format!("{topic} lane {number} message {at}: {count} of {producer}");
            self.walked += 1;
            if count <= told.last {
                findings.out_of_order += 1;
                findings.text(format!("{} after {}", whence(), told.last));
                continue;
            }
            if let Some(block) = plan::block_of(producer, count) {
                let before = told.last.max(block.start() - 1) + 1..count;
                let is_here =
                    |&before: &u64| usize::from(plan::lane_of(plan::id_of(producer, before)).0) == number;
                if let Some(hole) = before.into_iter().find(is_here) {
                    findings
                        .note(format!("{}, and not {hole}, which comes before it in its batch", whence()));
                }
            }
            while told.owed.front().is_some_and(|&owed| owed < count) {
                let owed = told.owed.pop_front().unwrap_or_default();
                findings.lost += 1;
                findings.text(format!("{}, and {owed} of the batch before it is lost", whence()));
            }
            if told.owed.front() == Some(&count) {
                told.owed.pop_front();
            } else {
                told.found.push_back(count);
            }
            told.last = count;
        }
    }

    /// Nothing comes any more: what was published and is nowhere is lost.
    pub(super) fn nothing_is_owed(&self, topic: &str, number: usize, findings: &mut Findings) {
        for (producer, told) in &self.producers {
            for owed in &told.owed {
                findings.lost += 1;
                findings.text(format!("{topic} lane {number}: {owed} of {producer}, of a batch, is lost"));
            }
        }
    }
}
