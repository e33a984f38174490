//! Standard output, which may be a pipe that nobody reads to the end, and standard error. Nothing that a stranger wrote
//! reaches a terminal so that it could act on it.
//!
//! Whoever writes a line makes what is in it harmless, with [`crate::template::one_line`] mostly. What gets here
//! nevertheless is made harmless here.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::{Stop, paint};
use crate::unseen::acts_unseen;

/// Writes a whole text. `smsbridge message list | head` closes the pipe early, and that is no error.
pub(super) fn text(text: &str) -> Result<(), Stop> {
    bytes(harmless(text).as_bytes())
}

/// The same for what is our own and need not be text.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Stop::failed(format!(
            "standard output cannot be written: {error}"
        ))),
        _ => Ok(()),
    }
}

/// A value as JSON, for scripts.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Stop> {
    let shown = serde_json::to_string_pretty(value)
        .map_err(|error| Stop::failed(format!("the answer is not JSON: {error}")))?;
    document(&shown)
}

/// A JSON document as it was received.
pub(super) fn document(json: &str) -> Result<(), Stop> {
    bytes((harmless_json(json.trim_end()) + "\n").as_bytes())
}

/// A line on standard error, after the name of the program.
pub(super) fn remark(words: &str) {
    eprintln!("smsbridge: {}", harmless(words));
}

/// Text in which only our own colours act. Anything else that would is shown as `[U+202E]`.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(sequence) = paint::sequence(rest) {
            shown.push_str(sequence);
            rest = &rest[sequence.len()..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\n' | '\t' => shown.push(character),
            hidden if acts_unseen(hidden) => {
                // Writing into a string cannot fail.
                let _ = write!(shown, "[U+{:04X}]", u32::from(hidden));
            }
            plain => shown.push(plain),
        }
    }
    shown
}

/// The same document: outside of strings JSON has nothing that acts, and inside of them everything may be escaped.
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
    fn only_our_own_colours_act() {
        let painted = format!("{0}dead{0:#} \u{1b}[2J\u{9b}31m\u{202e}\r\u{1b}[1", paint::BAD);
        let shown = harmless(&painted);
        assert_eq!(
            shown,
            format!(
                "{0}dead{0:#} [U+001B][2J[U+009B]31m[U+202E][U+000D][U+001B][1",
                paint::BAD
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
