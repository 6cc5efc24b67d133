//! Where requests go: a topic, the publishers that this process has there, and whether somebody is there who could answer.

use super::{Ask, Nobody, RequestError};
use crate::aside::AsideFile;
use crate::bus::BusInner;
use crate::error::{AttachError, TopicError};
use crate::group;
use crate::mailbox::{self, Mailbox};
use crate::payload::Speak;
use crate::publisher::Addressed;
use crate::region::{Access, Region};
use crate::topic::{Topic, TopicBuilder, TopicCore};
use bus_core::aside::{Counter, Table};
use bus_core::holder::{Holder, HolderWord};
use bus_core::layout::{groups, owners};
use bus_core::owner;
use bus_core::seq::distance;
use bus_core::sync::Ordering;
use std::any::TypeId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A replier is asked for proof that it lives this often; between, its registration counts.
const PROOF_PERIOD: Duration = Duration::from_millis(100);

/// A group's member that was found alive.
struct Known {
    entry: usize,
    member: Holder,
    /// Of a shared group, where its members are counted.
    owners: Option<Region>,
    proven: Instant,
}

#[derive(Default)]
struct Remembered {
    known: Option<Known>,
    /// The type of answer that was asked for last, and its fingerprint, which takes a while to compute.
    answer: Option<(TypeId, u64)>,
}

/// What has become of a request.
pub(super) struct Fate {
    /// Groups that it was for.
    pub(super) groups: usize,
    /// Those that have it in hand, or are done with it.
    pub(super) got: usize,
    /// Those of which it is a dead letter, and one of them: its name, and why.
    dead: usize,
    letter: Option<(String, String)>,
}

impl Fate {
    /// Group and reason, if no answer can come any more.
    pub(super) fn into_dead(self) -> Option<(String, String)> {
        self.letter.filter(|_| self.dead == self.groups)
    }
}

/// Where requests of one type in one topic go.
pub(super) struct Target {
    shown: Arc<str>,
    core: Arc<TopicCore>,
    bus: Arc<BusInner>,
    attach: Box<dyn Fn() -> Result<Addressed, AttachError> + Send + Sync>,
    /// Publishers that no thread has at the moment.
    idle: Mutex<Vec<Addressed>>,
    remembered: Mutex<Remembered>,
}

impl Target {
    pub(super) fn open<Q: Speak>(
        bus: &Arc<BusInner>,
        name: &str,
        create: bool,
    ) -> Result<Self, RequestError> {
        let topic: Topic<Q> = match name.strip_prefix('@') {
            Some(mailbox) if create => Mailbox::open(bus, mailbox)?.into_topic(),
            Some(mailbox) => match Mailbox::find(bus, mailbox)? {
                Some(mailbox) => mailbox.into_topic(),
                None => {
                    return Err(RequestError::NoReplier { topic: name.to_owned(), why: Nobody::NoMailbox });
                }
            },
            None => match TopicBuilder::new(bus.clone(), name).create(false).open() {
                Err(TopicError::NotFound { topic, .. }) => {
                    return Err(RequestError::NoReplier { topic, why: Nobody::NoTopic });
                }
                opened => opened?,
            },
        };
        let core = topic.core.clone();
        let attach = Box::new(move || Addressed::attach(&topic));
        Ok(Self {
            shown: mailbox::display(core.name()).into(),
            core,
            bus: bus.clone(),
            attach,
            idle: Mutex::default(),
            remembered: Mutex::default(),
        })
    }

    pub(super) fn core(&self) -> &TopicCore {
        &self.core
    }

    /// As it is shown: a mailbox with its `@`.
    pub(super) fn name(&self) -> String {
        self.shown.to_string()
    }

    pub(super) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A publisher for this thread alone.
    pub(super) fn publisher(&self) -> Result<Addressed, AttachError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| (self.attach)(), Ok)
    }

    /// Gives it back.
    pub(super) fn keep(&self, publisher: Addressed) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(publisher);
    }

    /// Fingerprint of the type of answer.
    pub(super) fn answer_kind<A: Speak>(&self) -> u64 {
        let mut remembered = self.remembered();
        match remembered.answer {
            Some((kind, fingerprint)) if kind == TypeId::of::<A>() => fingerprint,
            _ => {
                let fingerprint = A::identity().map_or(0, |identity| identity.fingerprint);
                remembered.answer = Some((TypeId::of::<A>(), fingerprint));
                fingerprint
            }
        }
    }

    /// Fails if nobody is there who could answer.
    pub(super) fn check_replier(&self, ask: &Ask, now: Instant) -> Result<(), RequestError> {
        let mut remembered = self.remembered();
        if let Some(known) = &remembered.known
            && self.is_member(known)
            && now.saturating_duration_since(known.proven) < PROOF_PERIOD
        {
            return Ok(());
        }
        let (known, why) = self.find_member(now);
        remembered.known = known;
        let is_kept = ask.even_if_away && why == Nobody::NoMember;
        if remembered.known.is_some() || is_kept {
            return Ok(());
        }
        Err(RequestError::NoReplier { topic: self.name(), why })
    }

    /// Is it still a member, by what the words say?
    fn is_member(&self, known: &Known) -> bool {
        let is_in = match &known.owners {
            Some(region) => count_in(region, known.member.participant) > 0,
            None => {
                let word = HolderWord::unpack(self.core.group_number(known.entry, groups::in_entry::STATE));
                word.state == groups::state::ACTIVE && word.holder == known.member
            }
        };
        is_in && self.bus.participants().is_registered(known.member)
    }

    /// A member of some group that is alive; or why there is none.
    fn find_member(&self, proven: Instant) -> (Option<Known>, Nobody) {
        let participants = self.bus.participants();
        let mut why = Nobody::NoGroup;
        for entry in 0..self.core.groups_used() {
            let word = HolderWord::unpack(self.core.group_number(entry, groups::in_entry::STATE));
            let kind = self.core.group_number(entry, groups::in_entry::KIND);
            let is_shared = kind & groups::kind::SHARED != 0;
            match word.state {
                groups::state::FREE => continue,
                groups::state::ACTIVE if !is_shared => {
                    why = Nobody::NoMember;
                    if !participants.is_dead(word.holder) {
                        let known = Known { entry, member: word.holder, owners: None, proven };
                        return (Some(known), why);
                    }
                }
                groups::state::ACTIVE | groups::state::HELD => {
                    why = Nobody::NoMember;
                    let Some(region) = is_shared.then(|| self.core.attach_owners(entry).ok()).flatten()
                    else {
                        continue;
                    };
                    let alive = (0..participants.reserved())
                        .filter(|&number| count_in(&region, number) > 0)
                        .find_map(|number| {
                            participants.live(number).filter(|info| !participants.is_gone(info))
                        });
                    if let Some(info) = alive {
                        let member = info.holder();
                        return (Some(Known { entry, member, owners: Some(region), proven }), why);
                    }
                }
                _ => {}
            }
        }
        (None, why)
    }

    /// What the groups have done with the request so far.
    pub(super) fn fate(&self, lane: usize, sequence: u64) -> Fate {
        let mut fate = Fate { groups: 0, got: 0, dead: 0, letter: None };
        for entry in 0..self.core.groups_used() {
            let word = HolderWord::unpack(self.core.group_number(entry, groups::in_entry::STATE));
            let start = self.core.group_lane_number(entry, lane, groups::in_lane::START);
            if !groups::state::holds_gate(word.state) || distance(start, sequence) > 0 {
                continue;
            }
            fate.groups += 1;
            fate.got += usize::from(self.has_got(entry, lane, sequence));
            if let Some(error) = self.dead_letter(entry, lane, sequence) {
                fate.dead += 1;
                fate.letter = Some((group::display_name(&self.core, entry), error));
            }
        }
        fate
    }

    fn has_got(&self, entry: usize, lane: usize, sequence: u64) -> bool {
        let number = |offset| self.core.group_lane_number(entry, lane, offset);
        if distance(number(groups::in_lane::LOW_WATER), sequence) > 0 {
            return true;
        }
        if self.core.group_number(entry, groups::in_entry::KIND) & groups::kind::SHARED == 0 {
            let handed = bus_core::group::Handed::unpack(number(groups::in_lane::HANDED));
            return distance(handed.end, sequence) > 0;
        }
        let Ok(region) = self.core.attach_owners(entry) else { return false };
        group::owners_of(&self.core, &region, lane)
            .is_some_and(|owners| owners.look(sequence).state != owner::state::FREE)
    }

    fn dead_letter(&self, entry: usize, lane: usize, sequence: u64) -> Option<String> {
        let file = AsideFile::attach(self.core.dir(), entry, self.core.epoch(), Access::Read).ok()??;
        if file.counter(Counter::Dead).load(Ordering::Relaxed) == 0 {
            return None;
        }
        let store = file.store(&self.core, entry)?;
        (0..store.len()).find_map(|index| {
            let (_, contents) = store.read(index)?;
            if (usize::from(contents.lane), contents.sequence) != (lane, sequence) {
                return None;
            }
            file.read_letter(store, index).map(|(_, _, note)| note.error)
        })
    }
}

/// Subscribers that a participant has in a shared group.
fn count_in(region: &Region, participant: u16) -> u64 {
    let (word, _) = owners::member(participant);
    region
        .look(owners::MEMBERS + word * 8)
        .map_or(0, |word| owners::member_count(word.load(Ordering::Relaxed), participant))
}
