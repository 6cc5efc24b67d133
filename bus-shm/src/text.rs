//! Words of other processes, on their way to people.

use std::fmt;

/// Text that another process has written, shown so that a terminal acts upon nothing of it: control characters, but for tabs, are written
/// as escapes.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'t>(pub &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
            f.write_str(&rest[..at])?;
            let Some(found) = rest[at..].chars().next() else { break };
            match found {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                found if found.is_ascii() => write!(f, "\\x{:02x}", u32::from(found))?,
                found => write!(f, "{}", found.escape_unicode())?,
            }
            rest = &rest[at + found.len_utf8()..];
        }
        f.write_str(rest)
    }
}
