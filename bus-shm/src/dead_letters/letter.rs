//! Looking at dead letters, and taking them away.

use crate::aside::{AsideFile, Note};
use crate::bus::Bus;
use crate::directory::BusDir;
use crate::error::TopicError;
use crate::group;
use crate::inspect::BusView;
use crate::outcomes::of_letters;
use crate::payload::TypeIdentity;
use crate::region::Access;
use crate::topic::{Role, TopicCore};
use bus_core::aside::{AsideWord, Contents, Held};
use bus_core::extension::Extension;
use bus_core::header::TYPE_BYTES;
use bus_core::lane::Lane;
use bus_core::layout::aside::state;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// Looks at a payload whose letter is announced, or taken in hand, meanwhile.
const PAYLOAD_READS: usize = 8;

/// Which dead letter: its topic's mark, and the group, the entry of that group's store, and how often the entry has been used. As
/// text, `a3f1c2-1-17-5`. It is never another letter's: not after this one has gone, and not in a topic made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    /// 24 bits of the topic's epoch.
    mark: u32,
    entry: u16,
    index: u16,
    tag: u32,
}

impl LetterId {
    fn mark_of(core: &TopicCore) -> u32 {
        (core.epoch() ^ core.epoch() >> 24 ^ core.epoch() >> 48) as u32 & 0xff_ffff
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mark, entry, index, tag } = self;
        write!(f, "{mark:06x}-{entry}-{index}-{tag}")
    }
}

/// A text that names no dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no dead letter's ID; those look like a3f1c2-1-17-5, and `shmbus dlq ls` shows them")]
pub struct LetterIdError(String);

impl FromStr for LetterId {
    type Err = LetterIdError;

    fn from_str(text: &str) -> Result<Self, LetterIdError> {
        let parse = || {
            let mut parts = text.trim().split('-');
            let mark = parts.next().filter(|mark| mark.len() == 6)?;
            let id = Self {
                mark: u32::from_str_radix(mark, 16).ok()?,
                entry: parts.next()?.parse().ok()?,
                index: parts.next()?.parse().ok()?,
                tag: parts.next()?.parse().ok()?,
            };
            // One way to write it.
            (parts.next().is_none() && id.to_string() == text.trim()).then_some(id)
        };
        parse().ok_or_else(|| LetterIdError(text.to_owned()))
    }
}

/// Which dead letters are meant: all that fit whatever is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this topic.
    pub topic: Option<String>,
    /// Those of groups of this name.
    pub group: Option<String>,
    /// Those whose error has this text in it, in small or capital letters.
    pub error: Option<String>,
    /// Only these, unless it is empty.
    pub ids: Vec<LetterId>,
}

impl Filter {
    /// Those of one topic.
    pub fn topic(name: &str) -> Self {
        Self { topic: Some(name.to_owned()), ..Self::default() }
    }

    /// One letter.
    pub fn id(id: LetterId) -> Self {
        Self { ids: vec![id], ..Self::default() }
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// By what it is named.
    pub id: LetterId,
    /// Its topic.
    pub topic: String,
    /// The group that could not handle it; `~` and a number for one without a name.
    pub group: String,
    /// Its lane.
    pub lane: Lane,
    /// How the lane is called.
    pub lane_name: &'static str,
    /// Its number in the lane.
    pub sequence: u64,
    /// Its type; `None` for plain bytes, and for a type that the topic does not know.
    pub kind: Option<TypeIdentity>,
    /// The type in words: `Email v1`, `bytes`, `unknown type 3`.
    pub type_name: String,
    /// Bytes of its payload.
    pub len_bytes: u32,
    /// How often it was handed out.
    pub attempts: u8,
    /// Service that failed last.
    pub service: String,
    /// Handler that failed last.
    pub handler: String,
    /// Why.
    pub error: String,
    /// CLOCK_REALTIME ns of the first failure.
    pub first_ns: u64,
    /// CLOCK_REALTIME ns of the last.
    pub last_ns: u64,
    /// CLOCK_MONOTONIC ns of its publication; 0 on topics without stamps.
    pub stamp_ns: u64,
    /// Has it been announced on `_bus.dlq.<topic>`?
    pub announced: bool,
    /// Somebody is publishing it again at this moment.
    pub replaying: bool,
}

/// The dead letters of one group of one topic.
pub(super) struct Letters {
    pub(super) core: TopicCore,
    pub(super) entry: usize,
    pub(super) file: AsideFile,
    /// By lane and sequence.
    pub(super) found: Vec<Letter>,
}

/// A dead letter as it was seen in its store.
pub(super) struct Letter {
    pub(super) held: Held,
    pub(super) contents: Contents,
    pub(super) note: Note,
}

impl Letters {
    pub(super) fn id(&self, held: Held) -> LetterId {
        id(&self.core, self.entry, held.index, held.word)
    }
}

pub(crate) fn id(core: &TopicCore, entry: usize, index: usize, word: AsideWord) -> LetterId {
    LetterId { mark: LetterId::mark_of(core), entry: entry as u16, index: index as u16, tag: word.tag }
}

/// The type of a message in words, and its identity if it has one.
pub(super) fn type_of(types: &[TypeIdentity], kind: u8) -> (Option<TypeIdentity>, String) {
    let known = types.get(usize::from(kind)).filter(|known| !known.name.is_empty());
    match known {
        Some(known) => (Some(known.clone()), format!("{} v{}", known.name, known.version)),
        None if kind == TYPE_BYTES => (None, "bytes".into()),
        None => (None, format!("unknown type {kind}")),
    }
}

/// The type of a message in words.
pub(crate) fn type_name(types: &[TypeIdentity], kind: u8) -> String {
    type_of(types, kind).1
}

/// The letters that a filter means, group by group.
pub(super) fn find(
    dir: &BusDir,
    filter: &Filter,
    (role, access): (Role, Access),
) -> Result<Vec<Letters>, TopicError> {
    let names = match &filter.topic {
        Some(name) => {
            bus_core::name::check_dotted(name, bus_core::limits::TOPIC_NAME_BYTES_MAX)
                .map_err(|why| TopicError::Name { name: name.clone(), why })?;
            vec![name.clone()]
        }
        None => dir.topic_names(),
    };
    let ids: HashSet<LetterId> = filter.ids.iter().copied().collect();
    let error_text = filter.error.as_ref().map(|text| text.to_lowercase());
    let mut all = Vec::new();
    for name in names {
        let attach = || TopicCore::attach(dir, &name, role);
        let mut core = match attach() {
            // It went after the directory was read.
            Err(TopicError::NotFound { .. }) if filter.topic.is_none() => continue,
            other => other?,
        };
        let mark = LetterId::mark_of(&core);
        if !filter.ids.is_empty() && filter.ids.iter().all(|id| id.mark != mark) {
            continue;
        }
        for entry in 0..core.groups_used() {
            let group = group::display_name(&core, entry);
            if filter.group.as_ref().is_some_and(|wanted| *wanted != group) {
                continue;
            }
            let Some(file) = AsideFile::attach(core.dir(), entry, core.epoch(), access)? else { continue };
            let Some(store) = file.store(&core, entry) else { continue };
            let mut found: Vec<Letter> = (0..store.len())
                .filter_map(|index| {
                    let (word, contents, note) = file.read_letter(store, index)?;
                    let id = id(&core, entry, index, word);
                    let is_wanted = (ids.is_empty() || ids.contains(&id))
                        && error_text.as_ref().is_none_or(|text| note.error.to_lowercase().contains(text));
                    is_wanted.then_some(Letter { held: Held { index, word }, contents, note })
                })
                .collect();
            if found.is_empty() {
                continue;
            }
            found.sort_by_key(|letter| (letter.contents.lane, letter.contents.sequence));
            all.push(Letters { core, entry, file, found });
            core = attach()?;
        }
    }
    Ok(all)
}

fn describe(letters: &Letters, types: &[TypeIdentity], letter: &Letter) -> DeadLetter {
    let (core, contents, word) = (&letters.core, &letter.contents, letter.held.word);
    let (kind, type_name) = type_of(types, contents.kind);
    DeadLetter {
        id: letters.id(letter.held),
        topic: core.name().to_owned(),
        group: group::display_name(core, letters.entry),
        lane: Lane(contents.lane),
        lane_name: Lane(contents.lane).name(core.lanes()),
        sequence: contents.sequence,
        kind,
        type_name,
        len_bytes: contents.len_bytes,
        attempts: word.attempts,
        service: letter.note.service.clone(),
        handler: letter.note.handler.clone(),
        error: letter.note.error.clone(),
        first_ns: contents.first_ns,
        last_ns: contents.last_ns,
        stamp_ns: contents.stamp_ns,
        announced: word.state == state::ANNOUNCED,
        replaying: word.state == state::REPLAYING,
    }
}

/// The dead letters that a filter means, by topic, group, lane and sequence. Takes no part in the bus.
///
/// # Errors
/// No topic of that name, or a region that cannot be read.
pub fn list(bus: &BusView, filter: &Filter) -> Result<Vec<DeadLetter>, TopicError> {
    let mut list = Vec::new();
    for letters in find(bus.dir(), filter, (Role::Observer, Access::Read))? {
        let types = letters.core.types()?;
        list.extend(letters.found.iter().map(|letter| describe(&letters, &types, letter)));
    }
    Ok(list)
}

/// A dead letter with its payload, which is empty if it cannot be read. `None`: there is none of that name any more. Takes no
/// part in the bus.
///
/// # Errors
/// A region that cannot be read.
pub fn payload(bus: &BusView, id: LetterId) -> Result<Option<(DeadLetter, Vec<u8>)>, TopicError> {
    for letters in find(bus.dir(), &Filter::id(id), (Role::Observer, Access::Read))? {
        let types = letters.core.types()?;
        let Some(store) = letters.file.store(&letters.core, letters.entry) else { continue };
        let mut copy = Vec::new();
        for _ in 0..PAYLOAD_READS {
            let index = usize::from(id.index);
            let Some((word, contents, note)) = letters.file.read_letter(store, index) else { break };
            let letter = Letter { held: Held { index, word }, contents, note };
            if letters.id(letter.held) != id {
                break;
            }
            let copied = letters.file.copy_payload(index, &contents, &mut copy);
            if store.is_mine(letter.held) {
                let payload = if copied { payload_in(&contents, &copy) } else { &[] };
                return Ok(Some((describe(&letters, &types, &letter), payload.to_vec())));
            }
        }
    }
    Ok(None)
}

/// The payload in what was copied out of the store.
pub(super) fn payload_in<'c>(contents: &Contents, copy: &'c [u128]) -> &'c [u8] {
    let stored_bytes = contents.stored_bytes() as usize;
    &bytemuck::cast_slice::<u128, u8>(copy)[stored_bytes - contents.len_bytes as usize..stored_bytes]
}

/// The extension block in front of it, if the letter has one.
pub(crate) fn extension_in(contents: &Contents, copy: &[u128]) -> Option<Extension> {
    let has_one = contents.stored_bytes() > u64::from(contents.len_bytes);
    let bytes = bytemuck::cast_slice::<u128, u8>(copy).get(..size_of::<Extension>())?;
    has_one.then(|| bytemuck::pod_read_unaligned(bytes))
}

/// Removes the dead letters that a filter means. Those that somebody publishes again at this moment are left to that one.
/// Returns how many have gone by this call.
///
/// # Errors
/// No topic of that name, or a region that cannot be used.
pub fn purge(bus: &Bus, filter: &Filter) -> Result<u64, TopicError> {
    let bus = bus.inner();
    bus.check_usable()?;
    let mut count = 0;
    for letters in find(bus.dir(), filter, (Role::Subscriber, Access::Write))? {
        bus.note_topic(letters.core.name())?;
        let Some(store) = letters.file.store(&letters.core, letters.entry) else { continue };
        let outcomes = of_letters(&letters.core, letters.entry, bus.me());
        for letter in &letters.found {
            let mut held = letter.held;
            // First: whoever follows the message finds either the letter or this.
            if let Some(outcomes) = &outcomes {
                outcomes.note_gone(&letters.core, letters.entry, &letter.contents);
            }
            // Announced meanwhile it is the same letter.
            for _ in 0..2 {
                if state::is_dead_and_free(held.word.state) && letters.file.clear(store, held, bus.me()) {
                    count += 1;
                    break;
                }
                let Some(word) = store.look(held.index).filter(|word| word.tag == held.word.tag) else {
                    break;
                };
                held.word = word;
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = LetterId { mark: 0xa3f1, entry: 255, index: 65_535, tag: (1 << 24) - 1 };
        assert_eq!(id.to_string(), "00a3f1-255-65535-16777215");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "a", "00a3f1-1-2", "00a3f1-1-2-3-4", "00A3F1-1-2-3", "00a3f1-01-2-3", "a3f1-1-2-3"]
        {
            assert!(wrong.parse::<LetterId>().is_err(), "{wrong}");
        }
        assert!("x".parse::<LetterId>().unwrap_err().to_string().contains("dlq ls"));
    }

    #[test]
    fn types_are_named_and_what_the_topic_does_not_know_too() {
        let types = [TypeIdentity { name: "Email".into(), version: 2, fingerprint: 7 }];
        assert_eq!(type_of(&types, 0), (Some(types[0].clone()), "Email v2".into()));
        assert_eq!(type_of(&types, 255), (None, "bytes".into()));
        assert_eq!(type_of(&types, 3), (None, "unknown type 3".into()));
    }
}
