//! Which names are allowed, and the fingerprints that stand for them in words.

use core::fmt;

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It has no characters, or a part between two dots has none.
    Empty,
    /// It is longer than allowed.
    TooLong {
        /// Its length.
        len_bytes: usize,
        /// What is allowed.
        max_bytes: usize,
    },
    /// A character that is not allowed.
    Character {
        /// The character.
        found: char,
        /// Where it stands, in bytes from the start.
        at_byte: usize,
    },
    /// It begins with `_`, which is kept for the bus itself.
    Reserved,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty, or has nothing between two dots"),
            Self::TooLong { len_bytes, max_bytes } => {
                write!(f, "it has {len_bytes} bytes, at most {max_bytes} are allowed")
            }
            Self::Character { found, at_byte } => write!(
                f,
                "{found:?} at byte {at_byte} is not allowed; use letters, digits, '_', '-', and dots between parts"
            ),
            Self::Reserved => write!(f, "names that begin with '_' belong to the bus itself"),
        }
    }
}

/// Checks a name made of parts with dots between, such as a topic's.
pub fn check_dotted(name: &str, max_bytes: usize) -> Result<(), NameError> {
    if name.len() > max_bytes {
        return Err(NameError::TooLong { len_bytes: name.len(), max_bytes });
    }
    let mut part_bytes = 0_usize;
    for (at_byte, found) in name.char_indices() {
        match found {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => part_bytes += 1,
            '.' if part_bytes > 0 => part_bytes = 0,
            '.' => return Err(NameError::Empty),
            _ => return Err(NameError::Character { found, at_byte }),
        }
    }
    if part_bytes == 0 { Err(NameError::Empty) } else { Ok(()) }
}

/// Checks the name of a topic that a user asks for.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    check_dotted(name, crate::limits::TOPIC_NAME_BYTES_MAX)?;
    if name.starts_with('_') { Err(NameError::Reserved) } else { Ok(()) }
}

/// What the names of the topics begin with that libraries ask for on their own account, each kind with a rule of its own.
pub const BUS_TOPICS: &str = "_bus.";
/// What the names of reply topics begin with: then come participant number, a dot, and its incarnation.
pub const REPLY_TOPICS: &str = "_reply.";
/// What the names of mailboxes' topics begin with: then comes the mailbox's name.
pub const MAIL_TOPICS: &str = "_mail.";
/// What the names of the topics begin with on which dead letters are announced: then comes the topic's name.
pub const LETTER_TOPICS: &str = "_bus.dlq.";
/// Bytes of a mailbox's name: its dead letters are announced under a name that is longer by two prefixes.
pub const MAILBOX_NAME_BYTES_MAX: usize =
    crate::limits::TOPIC_NAME_BYTES_MAX - MAIL_TOPICS.len() - LETTER_TOPICS.len();

/// The participant and its incarnation that the name of a reply topic names. `None` if it is not written as the bus writes it.
pub fn reply_topic_of(name: &str) -> Option<(u16, u32)> {
    let (participant, incarnation) = name.strip_prefix(REPLY_TOPICS)?.split_once('.')?;
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
    };
    if !is_plain(participant) || !is_plain(incarnation) {
        return None;
    }
    Some((participant.parse().ok()?, incarnation.parse().ok()?))
}

/// FNV-1a over bytes, continued from `state`. Stands for names in words and makes type fingerprints; it
/// recognises accidents, it does not resist an attacker.
pub const fn fnv1a(bytes: &[u8], mut state: u64) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        state = (state ^ bytes[index] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    state
}

/// Where [`fnv1a`] starts.
pub const FNV1A_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The key of a name; never 0 ("no name yet") nor 1 ("never a name", see [`crate::layout::groups`]).
pub const fn key(name: &str) -> u64 {
    let hash = fnv1a(name.as_bytes(), FNV1A_START);
    if hash < 2 { hash + 2 } else { hash }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["a", "observation.email.received", "A-b_c.9", "x._y"] {
            assert_eq!(check_topic(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn hostile_names() {
        assert_eq!(check_topic(""), Err(NameError::Empty));
        assert_eq!(check_topic("a..b"), Err(NameError::Empty));
        assert_eq!(check_topic(".a"), Err(NameError::Empty));
        assert_eq!(check_topic("a."), Err(NameError::Empty));
        assert_eq!(check_topic(".."), Err(NameError::Empty));
        assert_eq!(check_topic("_bus.events"), Err(NameError::Reserved));
        assert_eq!(check_topic("a/../b"), Err(NameError::Character { found: '/', at_byte: 1 }));
        assert_eq!(check_topic("a b"), Err(NameError::Character { found: ' ', at_byte: 1 }));
        assert_eq!(check_topic("a\0"), Err(NameError::Character { found: '\0', at_byte: 1 }));
        assert_eq!(check_topic("caf\u{e9}"), Err(NameError::Character { found: '\u{e9}', at_byte: 3 }));
        let long = "x".repeat(201);
        assert_eq!(check_topic(&long), Err(NameError::TooLong { len_bytes: 201, max_bytes: 200 }));
        assert!(check_topic(&long[1..]).is_ok());
    }

    #[test]
    fn a_reply_topic_has_one_name() {
        assert_eq!(reply_topic_of("_reply.7.12"), Some((7, 12)));
        assert_eq!(reply_topic_of("_reply.0.4294967295"), Some((0, u32::MAX)));
        for name in
            ["_reply", "_reply.7", "_reply.07.1", "_reply.7.1.2", "_reply.+7.1", "_reply.x.1", "reply.7.1"]
        {
            assert_eq!(reply_topic_of(name), None, "{name}");
        }
        assert_eq!(reply_topic_of("_reply.70000.1"), None);
    }

    #[test]
    fn keys_differ_and_are_never_zero() {
        assert_ne!(key("a"), key("b"));
        assert_ne!(key(""), 0);
    }
}
