//! Standard output, which may be a closed pipe, and standard error. Control characters from messages or other servers
//! never reach a terminal.
//!
//! The code that formats a line escapes the values in it, mostly with [`crate::template::one_line`]. The functions
//! here escape whatever is left.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::{CommandError, style};
use crate::model::unseen::{acts_unseen, looks_empty};

/// Writes a string. `smsbridge message list | head` closes the pipe early, which is not an error.
pub(super) fn text(text: &str) -> Result<(), CommandError> {
    bytes(harmless(text).as_bytes())
}

/// Like [`text`], for our own output, which need not be UTF-8.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::failed(format!(
            "standard output cannot be written: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Prints a value as JSON, for scripts.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let shown = serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::failed(format!("the answer is not JSON: {error}")))?;
    document(&shown)
}

/// Prints a JSON document as received.
pub(super) fn document(json: &str) -> Result<(), CommandError> {
    bytes((harmless_json(json.trim_end()) + "\n").as_bytes())
}

/// Prints a line on standard error, prefixed with the name of the program.
pub(super) fn remark(words: &str) {
    eprintln!("smsbridge: {}", harmless(words));
}

/// Escapes everything that a terminal would interpret, such as `[U+202E]`, except our own colours.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(sequence) = style::sequence(rest) {
            shown.push_str(sequence);
            rest = &rest[sequence.len()..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\n' | '\t' => shown.push(character),
            hidden if acts_unseen(hidden) || looks_empty(hidden) => {
                // Writing to a string cannot fail.
                let _ = write!(shown, "[U+{:04X}]", u32::from(hidden));
            }
            plain => shown.push(plain),
        }
    }
    shown
}

/// Escapes a JSON document without changing its value: control characters can occur only in strings, where every
/// character may be escaped.
fn harmless_json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for character in document.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            '\r' => shown.push(' '),
            hidden if acts_unseen(hidden) => {
                for unit in hidden.encode_utf16(&mut [0; 2]) {
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
            plain => shown.push(plain),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_own_colours_are_not_escaped() {
        let painted = format!(
            "{0}dead{0:#} \u{1b}[2J\u{9b}31m\u{202e}\r\u{2800}\u{1b}[1",
            style::ERROR
        );
        let shown = harmless(&painted);
        assert_eq!(
            shown,
            format!(
                "{0}dead{0:#} [U+001B][2J[U+009B]31m[U+202E][U+000D][U+2800][U+001B][1",
                style::ERROR
            )
        );
    }

    proptest! {
        #[test]
        fn a_json_document_stays_the_same(text in any::<String>(), pretty in any::<bool>()) {
            let value = serde_json::json!({ text.as_str(): [text.as_str()] });
            let document = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let shown = harmless_json(&document.unwrap());
            prop_assert!(!shown.contains(|c| c != '\n' && acts_unseen(c)));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
            let acts = |c| !['\n', '\t', '\x1b'].contains(&c) && acts_unseen(c);
            prop_assert!(!harmless(&text).contains(acts));
        }
    }
}
