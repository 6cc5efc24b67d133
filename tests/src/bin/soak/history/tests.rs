//! A checker that cannot fail is worth nothing: for each rule a history that keeps it, and one that does not.

use super::*;
use crate::plan::{BLOCK, block_of, id_of, lane_of};

const MANY: usize = 1;
const SINGLE: usize = 0;
/// Places: a producer, two members of a shared group that does not wait long, a group of one member with a small store, and one
/// with a large one; a reader.
const PRODUCER: usize = 0;
const CREW: [usize; 2] = [1, 2];
const LEDGER: usize = 3;
const SOLO: usize = 4;
const READER: usize = 5;
const MS: u64 = 1_000_000;

struct Story {
    history: History,
    at_ns: u64,
}

impl Story {
    fn new() -> Self {
        let members = [None, Some((MANY, 1)), Some((MANY, 1)), Some((MANY, 0)), Some((SINGLE, 0)), None];
        Self { history: History::new(members), at_ns: 1_000 * MS }
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.at_ns += ms * MS;
        self
    }

    fn says(
        &mut self,
        place: usize,
        kind: Kind,
        lane: u8,
        sequence: u64,
        attempts: u8,
        id: u64,
    ) -> &mut Self {
        let topic = if place == SOLO { SINGLE } else { MANY };
        let record = Record { kind, lane, attempts, sequence, id, at_ns: self.at_ns };
        self.history.record(place, topic, record, |_| u64::MAX);
        self
    }

    /// Says so of the message of this sequence in lane 2.
    fn of(&mut self, place: usize, kind: Kind, sequence: u64, attempts: u8) -> &mut Self {
        let id = nth(sequence);
        self.says(place, kind, 2, sequence, attempts, id)
    }

    fn batched(&mut self, ids: &[u64]) -> &mut Self {
        ids.iter().for_each(|&id| _ = self.says(PRODUCER, Kind::Batched, 2, 0, 0, id));
        self
    }

    /// These lie in lane 2, in this order; a reader that is no member has got them.
    fn lie(&mut self, ids: &[u64]) -> &mut Self {
        for (sequence, &id) in (0..).zip(ids) {
            self.says(READER, Kind::Handed, 2, sequence, 1, id);
        }
        self
    }

    fn clean(&self) {
        assert!(self.history.findings.is_clean(), "{:?}", self.history.findings.texts);
    }

    fn wrong(&self, text: &str) {
        let texts = &self.history.findings.texts;
        assert!(texts.iter().any(|wrong| wrong.contains(text)), "{texts:?}");
        assert!(!self.history.findings.is_clean());
    }

    fn walk(&mut self) -> &mut Self {
        self.history.next_period(self.at_ns);
        self
    }
}

/// The message of producer 0 that has this sequence in lane 2, if none is left out.
fn nth(sequence: u64) -> u64 {
    in_lane_2(1).nth(sequence as usize).expect("there are more")
}

fn in_lane_2(from: u64) -> impl Iterator<Item = u64> {
    (from..).map(|count| id_of(0, count)).filter(|&id| lane_of(id).0 == 2)
}

/// Those of the first block that is published in batches which lie in lane 2, and the one after them.
fn batch() -> (Vec<u64>, u64) {
    let block = (1..).find_map(|count| block_of(0, count)).expect("there is one");
    let all = in_lane_2(*block.start()).take_while(|&id| id <= id_of(0, *block.end()));
    (all.collect(), in_lane_2(*block.end() + 1).next().expect("there are more"))
}

#[test]
fn blocks_do_not_overlap_and_some_are_batches() {
    let first: Vec<u64> = (0..400).map(|block| block * BLOCK + 1).collect();
    let batches = first.iter().filter(|&&first| block_of(3, first).is_some()).count();
    assert!((20..100).contains(&batches), "{batches}");
    for first in first {
        let blocks: Vec<_> = (first..first + BLOCK).map(|count| block_of(3, count)).collect();
        assert!(blocks.iter().all(|block| *block == blocks[0]));
        assert!(blocks[0].as_ref().is_none_or(|block| *block == (first..=first + BLOCK - 1)));
    }
}

#[test]
fn what_a_batch_was_told_to_be_published_is_there() {
    let (batch, after) = batch();
    let whole: Vec<u64> = batch.iter().copied().chain([after]).collect();
    // In whichever order it is heard of.
    Story::new().batched(&batch).lie(&whole).walk().clean();
    Story::new().lie(&whole).walk().batched(&batch).walk().clean();
    // Nobody has had the end of it yet.
    let mut story = Story::new();
    story.batched(&batch).lie(&batch[..2]).walk().clean();
    story.history.finish();
    story.wrong("of a batch, is lost");
    assert!(story.history.findings.lost > 0);
    // Something later is there in its place, heard of before or after.
    let short: Vec<u64> = batch[..batch.len() - 1].iter().copied().chain([after]).collect();
    let mut story = Story::new();
    story.batched(&batch).lie(&short).walk().wrong("of the batch before it is lost");
    assert_eq!(story.history.findings.lost, 1);
    let mut story = Story::new();
    story.lie(&short).walk().batched(&batch).wrong("of a batch is lost");
    assert_eq!(story.history.findings.lost, 1);
}

#[test]
fn of_a_batch_that_was_interrupted_the_beginning_is_there() {
    let (batch, after) = batch();
    let part =
        |from: usize, to: usize| -> Vec<u64> { batch[from..to].iter().copied().chain([after]).collect() };
    Story::new().lie(&part(0, 0)).walk().clean();
    Story::new().lie(&part(0, 2)).walk().clean();
    Story::new().lie(&part(1, batch.len())).walk().wrong("which comes before it in its batch");
    let hole: Vec<u64> =
        batch.iter().copied().enumerate().filter(|(at, _)| *at != 1).map(|(_, id)| id).collect();
    Story::new().lie(&hole).walk().wrong("which comes before it in its batch");
}

#[test]
fn more_time_that_was_granted_is_the_holders() {
    let [one, other] = CREW;
    let wait_ms = TOPICS[MANY].groups[1].ack_wait.as_millis() as u64;
    let held = |pauses: &[u64]| {
        let mut story = Story::new();
        story.of(one, Kind::Handed, 0, 1);
        for &pause in pauses {
            story.of(one, Kind::Extended, 0, 1).wait(pause);
        }
        story
    };
    let mut story = held(&[wait_ms / 2, wait_ms / 2, wait_ms / 2]);
    story.of(one, Kind::Acked, 0, 1).clean();
    assert_eq!((story.history.tally.extended, story.history.tally.outlived), (3, 1));
    // Too late, with or without a word.
    held(&[wait_ms / 2, wait_ms + 1]).of(one, Kind::Refused, 0, 1).clean();
    held(&[]).wait(1).of(one, Kind::Refused, 0, 1).clean();
    held(&[wait_ms / 2, wait_ms / 2]).of(one, Kind::Refused, 0, 1).wrong("after more time was granted");
    let mut story = held(&[wait_ms / 2]);
    story.of(other, Kind::Handed, 0, 2).of(one, Kind::Acked, 0, 1).wrong("had been given to another");
}

#[test]
fn what_was_rejected_comes_again_only_for_want_of_room() {
    let rejected = |place: usize| {
        let mut story = Story::new();
        story.of(place, Kind::Handed, 0, 1).of(place, Kind::Ending, 0, 1).of(place, Kind::Rejected, 0, 1);
        story
    };
    rejected(SOLO).clean();
    rejected(SOLO).of(SOLO, Kind::Handed, 0, 2).wrong("was rejected, and was handed out again");
    let mut story = rejected(LEDGER);
    assert_eq!(story.history.group(MANY, 0).rejected_pending, 1);
    story.of(LEDGER, Kind::Handed, 0, 2).of(LEDGER, Kind::Acked, 0, 2).clean();
    assert_eq!(story.history.group(MANY, 0).rejected_pending, 0);
    assert_eq!(story.history.tally.came_again, 1);
    // A member's word may come late: another has had it since.
    let mut story = Story::new();
    let [one, other] = CREW;
    story.of(one, Kind::Handed, 0, 1).of(other, Kind::Handed, 0, 2).of(one, Kind::Rejected, 0, 1).clean();
    assert_eq!(story.history.group(MANY, 1).rejected_pending, 0);
    // And where there was room that must not be.
    let mut story = Story::new();
    story.of(SOLO, Kind::Handed, 0, 1).of(SOLO, Kind::Handed, 0, 2);
    story.of(SOLO, Kind::Rejected, 0, 1).wrong("was rejected (1), and was handed out again");
}

#[test]
fn part_of_a_batch_is_done_and_the_rest_comes_again() {
    let handed = || {
        let mut story = Story::new();
        (0..3).for_each(|sequence| _ = story.of(LEDGER, Kind::Handed, sequence, 1));
        story.of(LEDGER, Kind::Acked, 0, 1).of(LEDGER, Kind::Returned, 1, 1).of(LEDGER, Kind::Returned, 2, 1);
        story
    };
    handed().of(LEDGER, Kind::Handed, 1, 2).of(LEDGER, Kind::Handed, 2, 2).clean();
    handed().of(LEDGER, Kind::Handed, 1, 1).wrong("came again without being marked");
    handed().of(LEDGER, Kind::Handed, 0, 2).wrong("was finished, and was handed out again");
    let mut story = handed();
    story.of(LEDGER, Kind::Acked, 1, 1);
    story.history.finish();
    story.wrong("many/ledger lane 2 message 2 is lost");
}

const LIMIT_MS: u64 = 40;

/// A reader that yields has joined, and gets the messages from 5 to 9, one each millisecond.
fn yielding() -> Story {
    let mut story = Story::new();
    for lane in 0..3 {
        story.says(READER, Kind::Begins, lane, if lane == 2 { 5 } else { 0 }, 0, LIMIT_MS * MS);
    }
    (5..10).for_each(|sequence| _ = story.wait(1).of(READER, Kind::Handed, sequence, 1));
    story
}

#[test]
fn a_reader_that_yields_gets_or_misses_everything_once() {
    let missed = |from: u64, until: u64| {
        let mut story = yielding();
        story.wait(LIMIT_MS + 1).says(READER, Kind::Missed, 2, from, 0, until);
        story
    };
    missed(10, 20).of(READER, Kind::Handed, 20, 1).says(READER, Kind::Counted, 0, 0, 0, 10).clean();
    // What was read is counted as missed; something is neither; one comes twice, or again.
    missed(9, 20).wrong("9 after Some(10)");
    missed(11, 20).wrong("11 after Some(10)");
    missed(10, 20).of(READER, Kind::Handed, 21, 1).wrong("21 after Some(20)");
    missed(10, 20).of(READER, Kind::Handed, 19, 1).wrong("19 after Some(20)");
    missed(10, 10).wrong("10 after Some(10)");
    missed(10, 20).of(READER, Kind::Handed, 20, 2).wrong("got 20 again");
    for count in [0, 9, 11] {
        missed(10, 20).says(READER, Kind::Counted, 0, 0, 0, count).wrong("and was told of 10");
    }
    yielding().says(READER, Kind::Counted, 0, 0, 0, 0).clean();
    // From where it is held for, nothing is passed over.
    let mut story = Story::new();
    (0..3).for_each(|lane| _ = story.says(READER, Kind::Begins, lane, 5, 0, LIMIT_MS * MS));
    story.of(READER, Kind::Handed, 6, 1).wrong("6 after Some(5)");
}

#[test]
fn a_reader_that_yields_is_let_go_only_if_it_stood_still() {
    // In the other lanes nothing comes to it, so that it may have stood still there for as long as it is there.
    yielding().wait(LIMIT_MS - 10).says(READER, Kind::Missed, 2, 10, 0, 20).wrong("let go after");
    yielding().wait(LIMIT_MS).says(READER, Kind::Missed, 2, 10, 0, 20).clean();
    // It stood still earlier, and has gone on since.
    let mut story = yielding();
    story.wait(LIMIT_MS).of(READER, Kind::Handed, 10, 1);
    for lane in 0..2 {
        let id = (1..).map(|count| id_of(0, count)).find(|&id| lane_of(id).0 == lane).expect("one");
        story.says(READER, Kind::Handed, lane, 0, 1, id);
    }
    story.wait(1).says(READER, Kind::Missed, 2, 11, 0, 20).clean();
    // Before it joined there may be less.
    let mut story = Story::new();
    (0..3).for_each(|lane| _ = story.says(READER, Kind::Begins, lane, 5, 0, LIMIT_MS * MS));
    story.says(READER, Kind::Missed, 2, 3, 0, 5).of(READER, Kind::Handed, 5, 1).clean();
}

#[test]
fn at_rest_every_reader_is_at_the_end() {
    let mut story = yielding();
    story.history.readers_are_at_the_end();
    story.clean();
    story.of(LEDGER, Kind::Handed, 10, 1);
    story.history.readers_are_at_the_end();
    story.wrong("lane 2 is at 10, the lane's end at 11");
}
