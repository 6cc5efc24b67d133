//! A group that stands still: what it may do, and how its member comes back after it was let go.

use super::{Membership, RawSubscriber};
use crate::error::{AttachError, ReceiveError};
use crate::group::{self, Seat, Wanted};
use crate::reader::LaneReader;
use crate::subscriber::Failure;
use crate::topic::TopicCore;
use bus_core::layout::groups::{KEY_EPHEMERAL, in_entry, kind, stall};
use bus_core::seq::later;
use bus_core::sync::Ordering;
use std::time::Duration;

/// What becomes of a group that stands still for too long, or is too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StallPolicy {
    /// It is marked and reported, and goes on holding its messages.
    #[default]
    Report,
    /// It lets go of them besides, so that the others live. Its member reads copies. When it goes on, a named group comes back by
    /// itself: it is told which messages it has missed, and is reliable again from there. One without a name goes on like a tap.
    LetGo,
}

/// When a group is stalled, and what becomes of it then. A setting of the group.
///
/// A group stands still while it has messages to read and finishes none, in any lane. The supervisor notices that, about 100 ms
/// late; a publisher that waits for room does as well, where it is a matter of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Standing still for longer than this; `None`: however long.
    pub after: Option<Duration>,
    /// Being more than so many messages behind in a lane; `None`: however many.
    pub lag: Option<u64>,
    /// What is done about it.
    pub policy: StallPolicy,
}

impl Default for Stall {
    /// Reported after 10 s.
    fn default() -> Self {
        Self {
            after: Some(Duration::from_millis(stall::AFTER_DEFAULT_MS)),
            lag: None,
            policy: StallPolicy::Report,
        }
    }
}

impl Stall {
    /// Does it say what can be done, for a subscriber like this?
    pub(super) fn check(
        &self,
        topic: &str,
        (tap, shared, yields): (bool, bool, bool),
    ) -> Result<(), AttachError> {
        let lets_go = self.policy == StallPolicy::LetGo;
        let why = match self {
            _ if tap => "a tap holds nobody, so that it cannot stall",
            Stall { after: Some(Duration::ZERO), .. } => {
                "`after` of 0 would let no message be read; give it time"
            }
            Stall { lag: Some(0), .. } => "`lag` of 0 would let no message be unread; allow some",
            Stall { after: None, lag: None, .. } if lets_go => "`LetGo` needs a limit, `after` or `lag`",
            _ if lets_go && shared => {
                "a shared group is not let go: a silent member's messages go to the others after `ack_wait`"
            }
            _ if lets_go && yields => {
                "`yield_after` and `LetGo` are two limits for one thing; say one of them"
            }
            _ => return Ok(()),
        };
        Err(AttachError::Stall { topic: topic.to_owned(), why })
    }
}

/// Makes a wish about stalls the group's setting. True if the group may be let go, or could be until now: then its member
/// copies what it reads.
pub(super) fn settle(core: &TopicCore, entry: usize, wish: Option<Stall>) -> bool {
    let Some(word) = core.group_word(entry, in_entry::KIND) else { return false };
    let mut seen = word.load(Ordering::Acquire);
    let was = seen & kind::LETS_GO != 0;
    let Some(wish) = wish else { return was };
    let after = match wish.after {
        None => stall::NEVER,
        Some(after) => u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(stall::NEVER).max(1),
    };
    let groups = core.groups_region();
    for (offset, value) in [(stall::after(entry), after), (stall::lag(entry), wish.lag.unwrap_or(0))] {
        if let Some(word) = groups.look(offset) {
            // Release: who finds the group to be one that lets go finds its limits.
            word.store(value, Ordering::Release);
        }
    }
    let lets_go = wish.policy == StallPolicy::LetGo;
    loop {
        let to = if lets_go { seen | kind::LETS_GO } else { seen & !kind::LETS_GO };
        match word.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return was || lets_go,
            Err(now) => seen = now,
        }
    }
}

impl RawSubscriber {
    /// Has the group been let go?
    #[inline]
    pub(super) fn notice_eviction(&mut self) -> Result<(), Failure> {
        if let Membership::Yielding(seat) = &self.membership
            && !self.fork.is_child()
        {
            self.is_cut = false;
            if self.core.group_number(seat.joined.entry, in_entry::STATE) != seat.joined.word.pack() {
                self.was_let_go()?;
            }
        }
        Ok(())
    }

    /// The group has been let go: one without a name goes on as a tap, a named one comes back.
    #[cold]
    pub(super) fn was_let_go(&mut self) -> Result<(), ReceiveError> {
        let Membership::Yielding(seat) = &self.membership else { return Ok(()) };
        let entry = seat.joined.entry;
        if self.core.group_number(entry, in_entry::KEY) == KEY_EPHEMERAL {
            self.let_go();
            return Ok(());
        }
        if !self.batch.is_empty() {
            // Once what is in hand is settled.
            return Ok(());
        }
        // Before the entry is given back: nothing of this member may be stored to a cursor that may be another's.
        // Nothing is in hand: all before has been finished, or told to be missed, which no cursor need say.
        let told: Vec<u64> = self.lanes.iter().map(LaneReader::next).collect();
        self.lanes.iter_mut().for_each(LaneReader::let_go);
        group::detach(&self.core, &seat.joined);
        let name = self.core.group_name(entry);
        let wished = self.lanes.iter().map(LaneReader::end).collect();
        let wanted = Wanted {
            name: Some(&name),
            shared: false,
            keyed: false,
            yields: None,
            ack_wait: None,
            wished,
            goes_on: true,
        };
        let lost = || ReceiveError::Fenced { topic: self.core.name().to_owned() };
        let seat = Seat::join(&self.bus, &self.core, &wanted).map_err(|error| match error {
            AttachError::Topic(crate::error::TopicError::Region(error)) => error.into(),
            // Somebody else has the group now. This one tries again with the next call.
            _ => lost(),
        })?;
        if seat.joined.entry != entry {
            return Err(lost());
        }
        for ((lane, &stand), told) in self.lanes.iter_mut().zip(&seat.joined.lanes).zip(told) {
            lane.begin(later(stand.begin, told), stand);
            lane.hold(&seat.joined, false)?;
        }
        self.membership = Membership::Yielding(seat);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_that_contradict_each_other_are_refused() {
        let let_go = Stall { policy: StallPolicy::LetGo, ..Stall::default() };
        let plain = (false, false, false);
        for (stall, what, why) in [
            (Stall::default(), (true, false, false), "a tap"),
            (Stall { after: Some(Duration::ZERO), ..Stall::default() }, plain, "`after` of 0"),
            (Stall { lag: Some(0), ..Stall::default() }, plain, "`lag` of 0"),
            (Stall { after: None, ..let_go }, plain, "needs a limit"),
            (let_go, (false, true, false), "shared"),
            (let_go, (false, false, true), "`yield_after`"),
        ] {
            let error = stall.check("t", what).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("\"t\""), "{error}");
        }
        for what in [plain, (false, true, false), (false, false, true)] {
            Stall::default().check("t", what).unwrap();
        }
        Stall { after: None, lag: Some(9), ..let_go }.check("t", plain).unwrap();
        Stall { after: None, ..Stall::default() }.check("t", plain).unwrap();
    }
}
