//! Payload bytes as text that fits on one line.

use bus_shm::text::Escaped;
use std::io::Write;

/// Appends bytes as text. What a terminal would act upon, and what is not UTF-8, is written as an escape.
pub(crate) fn push_escaped(line: &mut Vec<u8>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let (valid, broken) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, 0),
            Err(error) => {
                let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
                (valid, error.error_len().unwrap_or(bytes.len() - error.valid_up_to()))
            }
        };
        // Writing to memory cannot fail.
        let _ = write!(line, "{}", Escaped(valid));
        for byte in &bytes[valid.len()..valid.len() + broken] {
            let _ = write!(line, "\\x{byte:02x}");
        }
        bytes = &bytes[valid.len() + broken..];
    }
}

/// Text that came from a program, fit for a terminal.
pub(crate) fn escaped(text: &str) -> String {
    Escaped(text).to_string()
}

/// The same in a table, whose columns a tab would spoil.
pub(crate) fn escaped_cell(text: &str) -> String {
    escaped(text).replace('\t', "\\t")
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut line = Vec::new();
        push_escaped(&mut line, bytes);
        String::from_utf8(line).expect("escapes are text")
    }

    #[test]
    fn text_stays_and_everything_else_is_escaped() {
        assert_eq!(escaped("gr\u{fc}n \\ \"q\" a\tb".as_bytes()), "gr\u{fc}n \\ \"q\" a\tb");
        assert_eq!(escaped(b"two\nlines\r\0\x1b[31m"), "two\\nlines\\r\\x00\\x1b[31m");
        assert_eq!(escaped(b"a\xff\xfe\xc3"), "a\\xff\\xfe\\xc3");
        assert_eq!(escaped(b"\xc2\x85"), "\\u{85}");
        assert_eq!(escaped(b""), "");
    }

    #[test]
    fn base64_of_every_length() {
        let known =
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foobar", "Zm9vYmFy")];
        for (bytes, text) in known {
            assert_eq!(base64(bytes), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
