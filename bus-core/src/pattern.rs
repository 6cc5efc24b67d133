//! Patterns of topic names: which topics one subscription is for.
//!
//! A pattern is tokens with dots between. `+` stands for exactly one token. `*` stands for exactly one token inside, and for one or
//! more at the end, so that `observation.*` is everything below `observation` and `*` is every topic. A last `>` is the same
//! as a last `*`. A wildcard in the first place leaves out what begins with `_`: those topics are the bus's own, and whoever
//! wants them names them.

use crate::limits::TOPIC_NAME_BYTES_MAX;
use crate::name::{MAIL_TOPICS, REPLY_TOPICS};
use core::fmt;

/// A pattern that was found good. Borrows its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern<'t> {
    text: &'t str,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It has no characters.
    Empty,
    /// There is nothing between two dots, before the first or behind the last.
    EmptyToken {
        /// Where, in bytes from the start.
        at_byte: usize,
    },
    /// It is longer than the name of any topic.
    TooLong {
        /// Its length.
        len_bytes: usize,
        /// What is allowed.
        max_bytes: usize,
    },
    /// `>` somewhere else than as the last token.
    RestInside {
        /// Where, in bytes from the start.
        at_byte: usize,
    },
    /// A token with a wildcard and something else.
    Mixed {
        /// Where the token begins, in bytes from the start.
        at_byte: usize,
    },
    /// A character that no topic's name has.
    Character {
        /// The character.
        found: char,
        /// Where it stands, in bytes from the start.
        at_byte: usize,
    },
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty; `*` is every topic"),
            Self::EmptyToken { at_byte } => {
                write!(f, "there is no token at byte {at_byte}, between two dots or at an end")
            }
            Self::TooLong { len_bytes, max_bytes } => {
                write!(f, "it has {len_bytes} bytes, and no topic's name has more than {max_bytes}")
            }
            Self::RestInside { at_byte } => {
                write!(
                    f,
                    "`>` at byte {at_byte} is not the last token; inside, `+` or `*` stands for one token"
                )
            }
            Self::Mixed { at_byte } => {
                write!(
                    f,
                    "the token at byte {at_byte} mixes a wildcard with something else; `+`, `*` and `>` stand alone"
                )
            }
            Self::Character { found, at_byte } => write!(
                f,
                "{found:?} at byte {at_byte} is not allowed; use letters, digits, '_', '-', dots between tokens, and `+`, `*`, `>`"
            ),
        }
    }
}

impl core::error::Error for PatternError {}

fn is_wildcard(token: &str) -> bool {
    matches!(token, "+" | "*" | ">")
}

impl<'t> Pattern<'t> {
    /// Reads a pattern.
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn parse(text: &'t str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let (len_bytes, max_bytes) = (text.len(), TOPIC_NAME_BYTES_MAX);
        if len_bytes > max_bytes {
            return Err(PatternError::TooLong { len_bytes, max_bytes });
        }
        let mut begin = 0;
        for token in text.split('.') {
            let at_byte = begin;
            begin += token.len() + 1;
            if token.is_empty() {
                return Err(PatternError::EmptyToken { at_byte });
            }
            if is_wildcard(token) {
                if token == ">" && begin < len_bytes {
                    return Err(PatternError::RestInside { at_byte });
                }
                continue;
            }
            for (offset, found) in token.char_indices() {
                match found {
                    'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => {}
                    '+' | '*' | '>' => return Err(PatternError::Mixed { at_byte }),
                    _ => return Err(PatternError::Character { found, at_byte: at_byte + offset }),
                }
            }
        }
        Ok(Self { text })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &'t str {
        self.text
    }

    /// Does it name a single topic?
    pub fn is_literal(&self) -> bool {
        !self.text.split('.').any(is_wildcard)
    }

    /// Is this topic meant?
    ///
    /// A wildcard stands for no mailbox and no lane of answers, whose messages are for one process: those go by their names.
    pub fn matches(&self, topic: &str) -> bool {
        let is_private = topic.starts_with(MAIL_TOPICS) || topic.starts_with(REPLY_TOPICS);
        if is_private && !self.is_literal() {
            return false;
        }
        let mut tokens = self.text.split('.');
        let mut names = topic.split('.');
        let mut first = true;
        let mut token = tokens.next();
        while let Some(this) = token {
            let next = tokens.next();
            let Some(name) = names.next() else { return false };
            if is_wildcard(this) {
                if name.is_empty() || first && name.starts_with('_') {
                    return false;
                }
                if next.is_none() && this != "+" {
                    return true;
                }
            } else if this != name {
                return false;
            }
            (first, token) = (false, next);
        }
        names.next().is_none()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    #[test]
    fn what_is_meant() {
        for (pattern, topic, is_meant) in [
            ("a.b", "a.b", true),
            ("a.b", "a", false),
            ("a.b", "a.b.c", false),
            ("observation.*", "observation.email", true),
            ("observation.*", "observation.email.received", true),
            ("observation.*", "observation", false),
            ("observation.*", "observations.email", false),
            ("observation.>", "observation.email.received", true),
            ("observation.+", "observation.email", true),
            ("observation.+", "observation.email.received", false),
            ("*.received", "email.received", true),
            ("*.received", "a.email.received", false),
            ("+.*.c", "a.b.c", true),
            ("+.*.c", "a.b.b.c", false),
            ("*", "a", true),
            ("*", "a.b.c", true),
            (">", "a.b.c", true),
            ("+", "a", true),
            ("+", "a.b", false),
            ("*", "_bus.events", false),
            (">", "_bus", false),
            ("+.events", "_bus.events", false),
            ("_bus.*", "_bus.events", true),
            ("_bus.events", "_bus.events", true),
            ("a.*", "a._b", true),
            ("_mail.*", "_mail.reasoner", false),
            ("_mail.reasoner", "_mail.reasoner", true),
            ("_reply.>", "_reply.1.2", false),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(topic), is_meant, "{pattern} {topic}");
        }
    }

    #[test]
    fn what_is_wrong() {
        let long = "x".repeat(TOPIC_NAME_BYTES_MAX + 1);
        for (pattern, why) in [
            ("", PatternError::Empty),
            (".", PatternError::EmptyToken { at_byte: 0 }),
            ("a..b", PatternError::EmptyToken { at_byte: 2 }),
            ("a.", PatternError::EmptyToken { at_byte: 2 }),
            (".a", PatternError::EmptyToken { at_byte: 0 }),
            ("a.>.b", PatternError::RestInside { at_byte: 2 }),
            (">.a", PatternError::RestInside { at_byte: 0 }),
            ("foo*", PatternError::Mixed { at_byte: 0 }),
            ("a.**", PatternError::Mixed { at_byte: 2 }),
            ("a.b+c", PatternError::Mixed { at_byte: 2 }),
            ("a.>>", PatternError::Mixed { at_byte: 2 }),
            ("a b", PatternError::Character { found: ' ', at_byte: 1 }),
            ("a/b", PatternError::Character { found: '/', at_byte: 1 }),
            ("a.caf\u{e9}", PatternError::Character { found: '\u{e9}', at_byte: 5 }),
            (&long, PatternError::TooLong { len_bytes: 201, max_bytes: 200 }),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(why), "{pattern:?}");
            assert!(!why.to_string().is_empty());
        }
        assert!(Pattern::parse("a.b").unwrap().is_literal());
        assert!(!Pattern::parse("a.+").unwrap().is_literal());
    }

    /// The definition, written down once more and slowly.
    fn naive(pattern: &[&str], topic: &[&str], first: bool) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            ([], _) | (_, []) => false,
            ([token, rest @ ..], [name, names @ ..]) => {
                let is_wild = ["+", "*", ">"].contains(token);
                if is_wild && first && name.starts_with('_') || !is_wild && token != name {
                    return false;
                }
                let takes_more = rest.is_empty() && ["*", ">"].contains(token);
                naive(rest, names, false) || takes_more && (names.is_empty() || naive(pattern, names, false))
            }
        }
    }

    proptest! {
        #[test]
        fn as_the_definition_has_it(
            pattern in proptest::collection::vec("[ab]|_a|\\+|\\*", 1..6),
            rest in any::<bool>(),
            topic in proptest::collection::vec("[ab]|_a", 1..6),
        ) {
            let mut tokens: Vec<&str> = pattern.iter().map(String::as_str).collect();
            if rest {
                tokens.push(">");
            }
            let names: Vec<&str> = topic.iter().map(String::as_str).collect();
            let text = tokens.join(".");
            let parsed = Pattern::parse(&text).unwrap();
            prop_assert_eq!(parsed.matches(&names.join(".")), naive(&tokens, &names, true));
        }

        #[test]
        fn any_text_is_a_pattern_or_an_error(text in ".{0,40}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                let _ = pattern.matches("a.b");
            }
        }
    }
}
