//! `pub --wait-for`: what became of a message in the groups that are waited for.

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::signals::Signals;
use crate::text;
use crate::units;
use bus_shm::{Lane, Outcome as Fate, ReceiptSet, Receipts};
use serde_json::json;
use std::time::{Duration, Instant};

/// A signal is noticed after at most this long.
const SLICE: Duration = Duration::from_millis(200);

/// The groups, and how long to wait for them.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) receipts: ReceiptSet,
    pub(super) lanes: usize,
    pub(super) timeout: Duration,
    pub(super) json: bool,
    pub(super) quiet: bool,
}

impl Follow {
    /// Waits until all groups are done with the message. An error for the worst that became of it in any.
    pub(super) fn wait(&self, lane: Lane, sequence: u64, signals: &Signals) -> Outcome {
        let begun = Instant::now();
        let fates = loop {
            let left = self.timeout.saturating_sub(begun.elapsed());
            let fates = self.receipts.wait(lane, sequence, left.min(SLICE))?;
            if left <= SLICE || fates.iter().all(|(_, fate)| fate.is_settled()) {
                break fates;
            }
            if signals.raised() {
                return Err(signals.interrupted());
            }
        };
        let waited = begun.elapsed();
        if self.json {
            let outcomes: Vec<_> = fates.iter().map(|(group, fate)| as_json(group, fate)).collect();
            output::print_json_line(&json!({
                "topic": self.receipts.groups()[0].topic(), "lane": lane.name(self.lanes), "sequence": sequence,
                "waited_ns": waited.as_nanos() as u64, "outcomes": outcomes,
            }))?;
        }
        let worst = fates.iter().zip(self.receipts.groups()).max_by_key(|((_, fate), _)| loudness(fate));
        match worst.and_then(|((_, fate), group)| Some((code_of(fate)?, fate, group))) {
            Some((code, fate, group)) => {
                let of = format!(
                    "topic {:?}, message {sequence} of lane {}, group {:?}",
                    group.topic(),
                    lane.name(self.lanes),
                    group.group()
                );
                Err(Failure::new(code, format_args!("{of}: {}", self.told(fate, group))))
            }
            _ if self.json || self.quiet => Ok(()),
            _ => {
                let groups: Vec<_> = fates.iter().map(|(group, _)| *group).collect();
                output::remark(format_args!(
                    "note: message {sequence} handled by {} after {}",
                    groups.join(", "),
                    units::duration(waited)
                ));
                Ok(())
            }
        }
    }

    /// What is to be said of a message that was not handled, and where to look.
    fn told(&self, fate: &Fate, group: &Receipts) -> String {
        let waited = units::duration(self.timeout);
        match fate {
            Fate::Retrying(failed) => format!(
                "not handled within {waited}: it failed after {} ({}), and comes again; `shmbus info {}` shows how many wait",
                units::counted(failed.attempts.into(), "attempt"),
                text::escaped(&failed.error),
                group.topic()
            ),
            Fate::DeadLettered(Some(failed)) => format!(
                "a dead letter after {}, by {}{}: {}; {}",
                units::counted(failed.attempts.into(), "attempt"),
                text::escaped(&failed.service),
                if failed.handler.is_empty() {
                    String::new()
                } else {
                    format!(", handler {}", text::escaped(&failed.handler))
                },
                text::escaped(&failed.error),
                match failed.letter {
                    Some(letter) => format!("`shmbus dlq show {letter}` shows everything about it"),
                    None => "`shmbus dlq ls` shows it".into(),
                }
            ),
            Fate::DeadLettered(None) => {
                "it was a dead letter, which has been purged, replayed, or has made room for another".into()
            }
            Fate::Expired => "its time to live was over before it was handed out".into(),
            Fate::Skipped => "the group passed it over: its filter, its sample, or another type".into(),
            Fate::Missed => "it was overwritten before the group came to it".into(),
            Fate::LetGo => format!(
                "the group has let go of it, and nothing keeps the message; `shmbus lag {}` shows its state",
                group.topic()
            ),
            Fate::Unknown => "the group is past it, and what became of it is no longer known".into(),
            _ if !group.is_attended() => format!(
                "not handled within {waited}: nobody reads for the group. It is kept, and whoever joins gets it"
            ),
            _ => format!(
                "not handled within {waited}: the group has it still before it; `shmbus lag {}` shows how far it is",
                group.topic()
            ),
        }
    }
}

/// Which of several groups is spoken of: the one in which most is lost.
fn loudness(fate: &Fate) -> u8 {
    match fate {
        Fate::Handled => 0,
        Fate::Skipped => 1,
        Fate::Expired => 2,
        Fate::Pending | Fate::Retrying(_) => 3,
        Fate::LetGo | Fate::Missed => 5,
        Fate::DeadLettered(_) => 6,
        // Any of these may have become of it, for all that is known.
        _ => 4,
    }
}

fn code_of(fate: &Fate) -> Option<Code> {
    match fate {
        Fate::Handled => None,
        Fate::Pending | Fate::Retrying(_) => Some(Code::TimedOut),
        Fate::DeadLettered(_) => Some(Code::DeadLettered),
        Fate::Expired => Some(Code::Expired),
        Fate::Skipped | Fate::Missed | Fate::LetGo => Some(Code::NotTaken),
        _ => Some(Code::Error),
    }
}

fn as_json(group: &str, fate: &Fate) -> serde_json::Value {
    let failed = fate.failed();
    json!({
        "group": group, "outcome": fate.name(),
        "error": failed.map(|failed| &failed.error),
        "attempts": failed.map(|failed| failed.attempts),
        "service": failed.map(|failed| &failed.service),
        "handler": failed.map(|failed| &failed.handler),
        "letter": failed.and_then(|failed| failed.letter).map(|letter| letter.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_told_before_what_nobody_wanted() {
        let quiet_first = [
            Fate::Handled,
            Fate::Skipped,
            Fate::Expired,
            Fate::Pending,
            Fate::Unknown,
            Fate::Missed,
            Fate::DeadLettered(None),
        ];
        assert!(quiet_first.is_sorted_by_key(loudness));
        assert_ne!(loudness(&Fate::Skipped), loudness(&Fate::Handled), "else it would be told as handled");
    }
}
