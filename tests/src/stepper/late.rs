//! What a group's member was handed, what became of messages that failed, and what lies in the group's store.

use super::survivors::{Verdict, ensure, say};
use bus_core::aside::AsideWord;
use bus_core::layout::aside::{Shape, at, state, word};
use bus_core::layout::owners;
use bus_core::owner::OwnerWord;
use bus_shm::{Bytes, NotOwner, ReceiveError, Received};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use stepped::body::{Stream, number_of, parts};
use stepped::scene::{BUS, Late, Scene, TOPIC};
use stepped::told::{Facts, Letters};

/// The group's entry in the table; the witness has the one before.
const GROUP_ENTRY: usize = 1;

/// What the member did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Acknowledged,
    Retried,
    Rejected,
    /// It was taken back before.
    Lost,
}

/// A message in the member's hand.
#[derive(Clone, Copy, Debug)]
struct Handling {
    attempts: u8,
    number: u64,
    end: End,
}

/// What the member was handed, by sequence.
#[derive(Debug, Default)]
pub struct Handed(BTreeMap<u64, Vec<Handling>>);

/// What a member that survives does with a message that it is handed for the first time.
fn plan(number: u64) -> End {
    match parts(number) {
        (stream, count) if stream == Stream::Survivor as usize => match count % 8 {
            1 => End::Retried,
            2 => End::Rejected,
            _ => End::Acknowledged,
        },
        _ => End::Acknowledged,
    }
}

/// Sequences of the scene's lane that nobody in the group has ever claimed.
pub fn untouched(dir: &Path, scene: &Scene) -> Verdict<BTreeSet<u64>> {
    let home = bus_shm::directory::base_dir(Some(dir)).join(BUS).join("topics").join(TOPIC);
    let bytes = std::fs::read(home.join(format!("owners-{GROUP_ENTRY}"))).map_err(say("the owner words"))?;
    let words = bytes[owners::words(0, scene.capacity)..]
        .chunks_exact(8)
        .map(|chunk| OwnerWord::unpack(u64::from_le_bytes(chunk.try_into().unwrap_or_default())));
    // Of the first lap only: later ones are of survivors, and come in order.
    let first = words.take(scene.capacity as usize).enumerate();
    Ok(first.filter(|(_, word)| word.lap == 0).map(|(sequence, _)| sequence as u64).collect())
}

impl Handed {
    /// Was it handed out, and marked?
    pub fn marked(&self, sequence: u64) -> Option<bool> {
        self.0.get(&sequence)?.last().map(|handling| handling.attempts > 1)
    }

    /// All of them.
    pub fn sequences(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// The first.
    pub fn first(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// Deals with a message, which may have come more than once only if messages of the scene fail.
    pub fn handle(&mut self, message: Received<'_, Bytes>, scene: &Scene) -> Verdict {
        let (sequence, attempts) = (message.sequence(), message.attempts());
        let number = number_of(message.payload());
        let Some(number) = number.filter(|_| message.payload().len() == scene.body_bytes) else {
            return Err(format!("the member was handed {sequence}, torn"));
        };
        let is_new = attempts == 1 || scene.late.is_none();
        if is_new && !scene.group.is_shared() {
            let last = self.0.iter().rev().find(|(_, all)| scene.late.is_none() || all[0].attempts == 1);
            if let Some((&last, _)) = last {
                let follows = if scene.late.is_none() { sequence == last + 1 } else { sequence > last };
                ensure!(follows, "the member was handed {sequence} after {last}");
            }
        }
        let all = self.0.entry(sequence).or_default();
        let Some(late) = scene.late else {
            ensure!(all.is_empty(), "the member was handed {sequence} twice");
            all.push(Handling { attempts, number, end: End::Acknowledged });
            ensure!(message.ack().is_ok(), "the member's acknowledgement of {sequence} came to nothing");
            return Ok(());
        };
        if let Some(before) = all.last() {
            ensure!(
                matches!(before.end, End::Retried | End::Lost),
                "the member was handed {sequence} again, {all:?}"
            );
            ensure!(attempts > before.attempts, "attempt {attempts} of {sequence} after {before:?}");
        }
        ensure!(attempts <= late.attempts, "attempt {attempts} of {sequence}");
        let mut end = if attempts == 1 { plan(number) } else { End::Acknowledged };
        let lost = |error: NotOwner| {
            let may_be = late.ack_wait.is_some();
            if may_be { Ok(()) } else { Err(format!("it was taken back: {error}")) }
        };
        let settled = match end {
            End::Retried => message.retry("survived").map(|()| false),
            End::Rejected => message.reject("survived").map(|()| false),
            _ => message.ack().map(|()| false).map_err(ReceiveError::NotOwner),
        };
        match settled {
            Ok(_) => {}
            Err(ReceiveError::NotOwner(error)) => {
                lost(error)?;
                end = End::Lost;
            }
            Err(error) => return Err(format!("the member's {end:?} of {sequence}: {error}")),
        }
        all.push(Handling { attempts, number, end });
        Ok(())
    }

    /// Is every message before `end` finished exactly once: acknowledged, or a dead letter? Did those that failed come again,
    /// with one attempt more?
    pub fn count_late(
        &self,
        facts: &Facts,
        end: u64,
        scene: &Scene,
        store: &Store,
        (numbers, again): (&BTreeMap<u64, u64>, &BTreeMap<u64, u64>),
    ) -> Verdict {
        count_letters(facts, store, numbers, again)?;
        let late = scene.late.unwrap_or(Late::PLAIN);
        let done: BTreeSet<u64> = facts.done().iter().copied().collect();
        let begun: BTreeSet<u64> = facts.acks_begun.iter().copied().collect();
        let unknown = facts.asked.saturating_sub(facts.received.len() as u64);
        let last = facts.received.iter().map(|(sequence, _)| sequence + 1).max().unwrap_or(0);
        let most = last + scene.unknown(facts);
        let mut missing = 0;
        for sequence in 0..end {
            let all = self.0.get(&sequence).map_or(&[][..], Vec::as_slice);
            let kept = store.valid(sequence);
            let told = || facts.received.iter().filter(|known| known.0 == sequence).map(|known| known.1);
            let before = told().max().unwrap_or(0);
            let verdicts = || facts.verdicts_begun.iter().filter(|failed| failed.sequence == sequence);
            let said = || facts.failed_for_good().iter().filter(|failed| failed.sequence == sequence);
            let is_dead_letter =
                |failed: &stepped::told::Failed| failed.dead || failed.attempts >= late.attempts;
            let what = || format!("{sequence} of {end}: {all:?}, {kept:?}, {facts:?}");
            ensure!(kept.len() <= 1, "two entries of message {}", what());
            let kept = kept.first();
            if let Some(kept) = kept {
                let number = numbers.get(&sequence);
                ensure!(
                    kept.number.is_some() && kept.number.as_ref() == number,
                    "not the message {}",
                    what()
                );
            }
            ensure!(
                all.iter().all(|handling| Some(&handling.number) == numbers.get(&sequence)),
                "another message {}",
                what()
            );
            // Counted before each hand-out: no two have the same number, and none is too high.
            ensure!(
                all.iter().all(|handling| told().all(|attempts| attempts != handling.attempts)),
                "attempts of {}",
                what()
            );
            let last = all.last();
            let attempts = last.map_or(0, |handling| handling.attempts);
            let known = told().count().max(usize::from(sequence < most)) + all.len();
            ensure!(
                u64::from(attempts) <= known as u64 + unknown,
                "more attempts than there were: {}",
                what()
            );
            // What the child said in the end, if it had it last.
            let gave_up = all.iter().all(|handling| {
                handling.attempts < before && matches!(handling.end, End::Retried | End::Lost)
            });
            if done.contains(&sequence) {
                ensure!(gave_up && kept.is_none(), "acknowledged, and there is more of {}", what());
                continue;
            }
            if let Some(dead) = said().find(|failed| is_dead_letter(failed)) {
                ensure!(gave_up, "rejected, and comes again: {}", what());
                match kept {
                    Some(kept) => ensure!(
                        state::is_dead(kept.word.state) && kept.word.attempts == dead.attempts,
                        "rejected, and no dead letter: {}",
                        what()
                    ),
                    None if late.drops => missing += 1,
                    // Counted above.
                    None if facts.letters != Letters::Kept => {}
                    None => return Err(format!("a dead letter is lost: {}", what())),
                }
                continue;
            }
            ensure!(attempts == 0 || attempts > before, "attempts of {}", what());
            match (last.map(|handling| handling.end), kept) {
                (Some(End::Acknowledged), None) => {}
                (Some(End::Rejected), Some(kept)) if state::is_dead(kept.word.state) => {
                    ensure!(kept.word.attempts == attempts, "attempts of a dead letter: {}", what());
                }
                (Some(End::Rejected), None) if late.drops => missing += 1,
                // Worn out.
                (None | Some(End::Retried | End::Lost), Some(kept))
                    if state::is_dead(kept.word.state) && kept.word.attempts >= late.attempts => {}
                // It was about to say so.
                (None, Some(kept)) if state::is_dead(kept.word.state) && verdicts().any(is_dead_letter) => {}
                (None, None) if begun.contains(&sequence) => {}
                (None, None) if late.drops && verdicts().any(is_dead_letter) => missing += 1,
                (None | Some(End::Lost), _) => return Err(format!("lost to the group: {}", what())),
                _ => return Err(format!("not finished: {}", what())),
            }
        }
        // Whoever dies after it has made room and before it has counted that leaves one uncounted.
        ensure!(
            missing <= store.dropped + 1,
            "{missing} dead letters are missing, {} made room",
            store.dropped
        );
        Ok(())
    }
}

/// What became of the child's dead letters, and of nobody else's: kept or published if it was about to publish them again, kept or
/// gone if it was about to purge them.
fn count_letters(
    facts: &Facts,
    store: &Store,
    numbers: &BTreeMap<u64, u64>,
    again: &BTreeMap<u64, u64>,
) -> Verdict {
    let letters = facts.failed_for_good().iter().filter(|failed| failed.dead);
    let mut own = BTreeSet::new();
    let (mut gone, mut both) = (0, 0);
    for failed in letters {
        let Some(number) = numbers.get(&failed.sequence) else { continue };
        own.insert(*number);
        let is_kept = !store.valid(failed.sequence).is_empty();
        let published = again.get(number).copied().unwrap_or(0);
        let what = || format!("dead letter {}, {published} times published: {facts:?}", failed.sequence);
        match facts.letters {
            Letters::Kept => continue,
            Letters::Purged => ensure!(published == 0, "purged, not replayed: {}", what()),
            Letters::Replayed | Letters::Elsewhere => {
                ensure!(published <= 1, "one replayed it, once: {}", what());
                ensure!(is_kept || published == 1, "neither kept nor published: {}", what());
            }
        }
        gone += u64::from(!is_kept);
        both += u64::from(is_kept && published > 0);
    }
    if let Some(stranger) = again.keys().find(|number| !own.contains(number)) {
        return Err(format!("{stranger} was no dead letter, and was published again"));
    }
    // One was in hand when it died.
    ensure!(both <= 1, "{both} dead letters are published and kept: {facts:?}");
    if let Some(done) = facts.letters_done {
        ensure!(gone == done && both == 0, "{gone} are gone, {both} are published and kept: {facts:?}");
    }
    Ok(())
}

/// An entry of a store.
#[derive(Clone, Debug)]
pub struct Kept {
    index: usize,
    word: AsideWord,
    sequence: u64,
    /// Of the message, if its payload is whole.
    number: Option<u64>,
}

/// The file of the group's store, as it is.
#[derive(Debug, Default)]
pub struct Store {
    kept: Vec<Kept>,
    dropped: u64,
}

impl Store {
    /// Reads it, if it is there.
    pub fn read(dir: &Path) -> Verdict<Self> {
        let bus = bus_shm::directory::base_dir(Some(dir)).join(BUS);
        let path = bus.join("topics").join(TOPIC).join(format!("aside-{GROUP_ENTRY}"));
        let Ok(bytes) = std::fs::read(path) else { return Ok(Self::default()) };
        let load = |offset: usize| {
            let word = bytes.get(offset..offset + 8).and_then(|word| word.try_into().ok());
            word.map(u64::from_ne_bytes).unwrap_or(0)
        };
        let shape = Shape::check(load(at::BOUND), load(at::INLINE_BYTES), load(at::SPILL_BYTES))
            .map_err(say("the store"))?;
        let reserved = load(at::RESERVED) as usize;
        ensure!(reserved <= shape.bound, "{reserved} entries of {}", shape.bound);
        let entry = |index: usize| {
            let at = shape.entry(index);
            let len_bytes = (load(at + 8 * word::DESCRIPTION) >> 32) as usize;
            let payload = match shape.is_inline(len_bytes as u64) {
                true => shape.payload(index),
                false => shape.spill(index) as usize,
            };
            Kept {
                index,
                word: AsideWord::unpack(load(at)),
                sequence: load(at + 8 * word::SEQUENCE),
                number: bytes.get(payload..payload + len_bytes).and_then(number_of),
            }
        };
        Ok(Self { kept: (0..reserved).map(entry).collect(), dropped: load(at::DROPPED_COUNT) })
    }

    /// Entries that stand for this message.
    fn valid(&self, sequence: u64) -> Vec<&Kept> {
        let is_its = |kept: &&Kept| state::is_valid(kept.word.state) && kept.sequence == sequence;
        self.kept.iter().filter(is_its).collect()
    }

    /// Nothing is in anybody's hand, and nothing waits.
    pub fn ensure_tidy(&self) -> Verdict {
        self.ensure_none(|kept| kept != state::FREE && !state::is_dead_and_free(kept))
    }

    /// The same, but for dead letters that somebody had in hand, and one that was being cleared away.
    pub fn ensure_nothing_waits(&self) -> Verdict {
        self.ensure_none(|kept| !matches!(kept, state::FREE | state::FILLING) && !state::is_dead(kept))
    }

    fn ensure_none(&self, is_untidy: impl Fn(u8) -> bool) -> Verdict {
        let is_untidy = |kept: &&Kept| is_untidy(kept.word.state);
        match self.kept.iter().find(is_untidy) {
            None => Ok(()),
            Some(kept) => Err(format!("entry {} is left: {kept:?}", kept.index)),
        }
    }
}
