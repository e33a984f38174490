//! Makes parts of a message harmless in each medium.
//!
//! A message comes from a stranger. Printed unchanged, it could control a terminal, change the reading
//! direction, ping a channel or disguise a link. These functions change as little as possible: ordinary
//! letters, emoji and line breaks are kept.

use std::fmt::Write as _;

use crate::model::unseen::acts_unseen;

/// Replaces characters that are invisible or change their context by `[U+202E]` and the like; line
/// breaks become `\n`.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                characters.next_if_eq(&'\n');
                shown.push('\n');
            }
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

/// Like [`visible`], on one line: line breaks and tabs become spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

/// The first `characters` of a string, with an ellipsis if there are more.
#[must_use]
pub fn shorten(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Like [`visible`], and escaped so that nothing in it is markup, neither between tags nor inside a quoted
/// attribute.
#[must_use]
pub fn html(text: &str) -> String {
    replace(&visible(text), |character| match character {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        _ => None,
    })
}

/// The exact content of a JSON string, without the quotes.
#[must_use]
pub fn json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Replaces characters of a string that has already passed [`visible`].
pub fn replace(text: &str, substitute: impl Fn(char) -> Option<&'static str>) -> String {
    let mut replaced = String::with_capacity(text.len() + text.len() / 8);
    for character in text.chars() {
        match substitute(character) {
            Some(substitute) => replaced.push_str(substitute),
            None => replaced.push(character),
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invisible_characters_are_shown() {
        for (text, shown) in [
            ("a\u{202e}b", "a[U+202E]b"),
            ("\u{1b}[31m", "[U+001B][31m"),
            ("\0\u{7}\u{9b}", "[U+0000][U+0007][U+009B]"),
            ("a\r\nb\rc\nd\te", "a\nb\nc\nd\te"),
            (
                "\u{2028}\u{2066}\u{feff}\u{e0041}",
                "[U+2028][U+2066][U+FEFF][U+E0041]",
            ),
            ("שלום\u{200f} 👩\u{200d}🚀 ü", "שלום\u{200f} 👩\u{200d}🚀 ü"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
        assert_eq!(one_line("a\r\n\r\nb\tc"), "a  b c");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(shorten("äöü", 2), "äö…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }

    proptest! {
        #[test]
        fn no_text_escapes_its_medium(text in any::<String>()) {
            prop_assert!(!visible(&text).contains(|c| c != '\n' && c != '\t' && acts_unseen(c)));
            prop_assert!(!one_line(&text).contains(['\n', '\r', '\t']));
            prop_assert!(!html(&text).contains(['<', '>', '"', '\'']));
            let quoted = format!("\"{}\"", json(&text));
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
