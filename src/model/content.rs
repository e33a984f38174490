//! How much of a message a destination may show. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use deserr::Deserr;

use super::message::Message;
use super::setting::Errors;

/// `content` of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Content {
    /// Everything.
    #[default]
    Full,
    /// The text without links, and without digits that may be a one-time code; attachments are only counted.
    Masked,
    /// Only the numbers, the time, and where the text can be read.
    None,
}

/// Shown in place of digits.
const DIGITS: &str = "••••••";

/// Shown in place of a link.
const LINK: &str = "[link]";

/// The least number of digits that may be a one-time code.
const CODE_MIN: usize = 4;

/// The greatest number of digits in a row that may be one. More are a telephone number or the like.
const CODE_MAX: usize = 10;

/// How many characters may separate the digits of a code: `12 34`, `123 - 456`.
const SEPARATORS_MAX: usize = 3;

impl Content {
    /// The message as a destination may show it; `received_at` is its time in words.
    #[must_use]
    pub fn of<'m>(self, message: &'m Message, received_at: &str) -> Cow<'m, Message> {
        let text = match self {
            Self::Full => return Cow::Borrowed(message),
            Self::Masked => match message.media.len() {
                0 => masked(&message.text),
                1 => format!("{}\n[1 attachment]", masked(&message.text)),
                more => format!("{}\n[{more} attachments]", masked(&message.text)),
            },
            Self::None => format!(
                "Received {received_at}. The content is not shown here. To read it: smsbridge message show {}",
                message.id
            ),
        };
        let keyword = message.extra.get_key_value(Message::KEYWORD);
        Cow::Owned(Message {
            text,
            media: Vec::new(),
            extra: BTreeMap::from_iter(keyword.map(|(name, value)| (name.clone(), value.clone()))),
            ..message.clone()
        })
    }
}

/// The text with links and codes replaced.
fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        if is_link(bare) {
            shown.push_str(LINK);
            shown.push_str(&word[bare.len()..]);
        } else {
            shown.push_str(word);
        }
    }
    without_codes(&shown)
}

/// Whether a word is or contains a link, also one without a scheme: `www.example.com`, `example.com/a`.
fn is_link(word: &str) -> bool {
    let lower = word.to_lowercase();
    if lower.contains("://") || lower.contains("www.") {
        return true;
    }
    let Some((host, _)) = lower.split_once(['/', '?']) else {
        return false;
    };
    let last = host
        .rsplit_once('.')
        .map_or("", |(_, last)| last.split(':').next().unwrap_or(last));
    last.chars().count() >= 2 && last.chars().all(char::is_alphanumeric)
}

/// Replaces digits that may be a code: at least four, also in groups with spaces or hyphens between them.
fn without_codes(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut run = Run::default();
    for character in text.chars() {
        if !run.take(character) {
            run.end(&mut shown);
            shown.push(character);
        }
    }
    run.end(&mut shown);
    shown
}

/// Groups of digits, and what separates them.
#[derive(Default)]
struct Run {
    /// Each group with the separators after it.
    groups: Vec<(String, String)>,
}

impl Run {
    /// Adds the next character, if it belongs to the run.
    fn take(&mut self, character: char) -> bool {
        match self.groups.last_mut() {
            _ if character.is_numeric() => match self.groups.last_mut() {
                Some((digits, separators)) if separators.is_empty() => digits.push(character),
                _ => self.groups.push((character.to_string(), String::new())),
            },
            Some((_, separators))
                if is_separator(character) && separators.chars().count() < SEPARATORS_MAX =>
            {
                separators.push(character);
            }
            _ => return false,
        }
        true
    }

    /// Writes the run. A group that is longer than any code stays, and divides the groups before and after it.
    fn end(&mut self, shown: &mut String) {
        let is_long = |group: &(String, String)| group.0.chars().count() > CODE_MAX;
        for part in self.groups.chunk_by(|one, other| is_long(one) == is_long(other)) {
            let digits: usize = part.iter().map(|(digits, _)| digits.chars().count()).sum();
            if part.first().is_some_and(is_long) || digits < CODE_MIN {
                part.iter().for_each(|(digits, separators)| {
                    shown.push_str(digits);
                    shown.push_str(separators);
                });
            } else {
                shown.push_str(DIGITS);
                shown.push_str(part.last().map_or("", |(_, separators)| separators));
            }
        }
        self.groups.clear();
    }
}

fn is_separator(character: char) -> bool {
    matches!(
        character,
        ' ' | '-' | '\u{a0}' | '\u{2010}'..='\u{2015}' | '\u{202f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::message::{Media, MessageId, Timestamp};
    use crate::model::number::Number;

    #[test]
    fn codes_and_links_are_masked() {
        for (text, shown) in [
            ("Your code is 123456.", "Your code is ••••••."),
            ("G-1234 is", "G-•••••• is"),
            ("123 456 or 12-34-56", "•••••• or ••••••"),
            ("code 123456 2026-11-28", "code ••••••"),
            ("123 - 456", "••••••"),
            ("at 10:30, 3 left", "at 10:30, 3 left"),
            ("room 101", "room 101"),
            ("call +13035550100", "call +13035550100"),
            ("+13035550100 123456", "+13035550100 ••••••"),
            ("١٢٣٤٥٦", "••••••"),
            ("see https://a.example/x?y=1, ok", "see [link] ok"),
            ("www.a.example\nt.co/abc", "[link]\n[link]"),
            ("HTTPS://A.example", "[link]"),
            ("and/or 1/2 a.b", "and/or 1/2 a.b"),
            ("", ""),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    fn message(text: &str) -> Message {
        Message {
            id: MessageId(uuid::Uuid::from_u128(7)),
            source: "carrier".parse().unwrap(),
            provider_id: "P1".to_owned(),
            from: Number::parse("+13035550100").unwrap(),
            to: Number::parse("1-1234").unwrap(),
            text: text.to_owned(),
            media: vec![Media {
                link: "https://a.example/x.jpg".to_owned(),
                content_type: Some("image/jpeg".to_owned()),
                filename: Some("123456.jpg".to_owned()),
            }],
            extra: BTreeMap::from([
                (Message::KEYWORD.to_owned(), "\"stop\"".to_owned()),
                ("other".to_owned(), "123456".to_owned()),
            ]),
            received_at: Timestamp(0),
            routes: Vec::new(),
            redacted_at: None,
        }
    }

    #[test]
    fn each_choice_shows_what_it_says() {
        let message = message("code 123456 https://a.example/");
        assert_eq!(*Content::Full.of(&message, "now"), message);
        let masked = Content::Masked.of(&message, "now");
        assert_eq!(masked.text, "code •••••• [link]\n[1 attachment]");
        assert!(masked.media.is_empty());
        assert_eq!(masked.keyword(), "stop");
        assert_eq!(masked.extra.len(), 1);
        let none = Content::None.of(&message, "now");
        assert!(none.text.starts_with("Received now. ") && none.text.contains("smsbridge message show 0000"));
        assert!(none.media.is_empty() && none.extra.len() == 1);
    }

    proptest! {
        #[test]
        fn no_code_survives(
            before in "[a-zA-Z.,:;!? \n-]{0,20}", code in "[0-9]{4,10}", after in "[a-zA-Z.,:;!? \n-]{0,20}",
        ) {
            let shown = masked(&format!("{before}{code}{after}"));
            prop_assert!(!shown.contains(&code[..4]), "{shown}");
        }

        #[test]
        fn a_text_without_digits_and_links_stays(text in "[a-zA-Zäöü ,;!\n]{0,60}") {
            prop_assert_eq!(masked(&text), text);
        }

        #[test]
        fn nothing_makes_it_panic(text in any::<String>()) {
            masked(&text);
        }
    }
}
