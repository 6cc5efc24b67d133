//! Writing to the two streams. Nothing here panics when a reader goes away.

use crate::exit::{Failure, Outcome};
use crate::text;
use std::fmt::Display;
use std::io::{self, Write};

/// Writes a whole listing to standard output.
pub(crate) fn print(text: &str) -> Outcome {
    print_bytes(text.as_bytes())
}

/// Writes bytes as they are to standard output.
pub(crate) fn print_bytes(bytes: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Writes a value as indented JSON to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Outcome {
    let mut text = json(serde_json::to_string_pretty(value))?;
    text.push('\n');
    print(&text)
}

/// Writes a value as one line of JSON to standard output.
pub(crate) fn print_json_line(value: &impl serde::Serialize) -> Outcome {
    let mut text = json(serde_json::to_string(value))?;
    text.push('\n');
    print(&text)
}

fn json(made: serde_json::Result<String>) -> Result<String, Failure> {
    made.map_err(|error| {
        Failure::new(crate::exit::Code::Error, format_args!("cannot write this as JSON: {error}"))
    })
}

/// Writes an error to standard error.
pub(crate) fn complain(message: &str) {
    remark(format_args!("shmbus: {message}"));
}

/// Writes a line to standard error that is no error. Whatever words of others are in it, a terminal acts upon none.
pub(crate) fn remark(message: impl Display) {
    let message = message.to_string();
    let lines: Vec<_> = message.split('\n').map(text::escaped).collect();
    let _ = writeln!(io::stderr().lock(), "{}", lines.join("\n"));
}
