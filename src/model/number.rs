//! Phone numbers, short codes and sender names, and the patterns that match them.
//!
//! A sender or receiver is stored as the carrier wrote it, and compared in a normal form:
//!
//! | as received | normal form | what it is |
//! |---|---|---|
//! | `+13038675309`, `+1 (303) 867-5309` | `+13038675309` | E.164 |
//! | `13038675309`, `3038675309` | `+13038675309` | E.164 without its plus; ten bare digits are North American |
//! | `+7708675309` | `+7708675309` | kept as sent, though no such E.164 number exists |
//! | `1-1234` | `1-1234` | short code of a country |
//! | `57-MyCompany` | `57-mycompany` | alphanumeric sender of a country, compared without case |
//! | `1234` | `1234` | short code without its country |
//! | `Google`, `AT&T` | `google`, `at&t` | name: compared without case, and shown as it was written |
//! | `+12`, `1;2` | `+12`, `1;2` | in no known format: kept, and compared as it was written |
//! | nothing | `unknown` | the carrier named none |
//!
//! [`BareDigits`] decides what digits without a plus mean; the table shows the default.

use std::borrow::Cow;
use std::fmt;

use deserr::Deserr;
use serde::{Deserialize, Serialize};

use crate::model::setting::Errors;
use crate::model::unseen::acts_unseen;

mod pattern;

pub use pattern::{Pattern, PatternError};

/// Maximum length of a string that is parsed as a number, in bytes.
const LENGTH_MAX: usize = 64;

/// Maximum number of characters of a name that are compared and shown; the rest of a longer name is only
/// stored.
const NAME_MAX: usize = 64;

/// Normal form of a sender or receiver that the carrier omitted or left empty.
const UNKNOWN: &str = "unknown";

/// A sender or receiver, a number or a name: the received form, and the form that is compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Number {
    raw: String,
    normal: String,
}

/// The meaning of a carrier's digits without a plus. Up to six digits are always a short code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum BareDigits {
    /// Ten digits are a North American number; others are E.164 without the plus.
    #[default]
    #[deserr(rename = "national:US")]
    NationalUs,
    /// Always E.164 without the plus.
    #[deserr(rename = "international")]
    International,
    /// Unknown: they are compared as received.
    #[deserr(rename = "as-received")]
    AsReceived,
}

/// The string has no known number format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a number in a known format: E.164 (`+13038675309`), `COUNTRYCODE-SHORTCODE` (`1-1234`) or `COUNTRYCODE-SENDER` (`57-MyCompany`)"
)]
pub struct NumberError;

impl Number {
    /// Parses a number leniently.
    ///
    /// # Errors
    /// The string has no known format.
    pub fn parse(raw: &str) -> Result<Self, NumberError> {
        Self::parse_as(raw, BareDigits::default())
    }

    fn parse_as(raw: &str, bare_digits: BareDigits) -> Result<Self, NumberError> {
        if raw.len() > LENGTH_MAX {
            return Err(NumberError);
        }
        let normal = normalise(raw, bare_digits).ok_or(NumberError)?;
        Ok(Self {
            raw: raw.to_owned(),
            normal,
        })
    }

    /// Accepts anything that a carrier gives as sender or receiver: a number in a known format, otherwise a
    /// name.
    #[must_use]
    pub fn received(raw: &str) -> Self {
        Self::received_as(raw, BareDigits::default())
    }

    /// Like [`Number::received`], with the carrier's meaning of digits without a plus.
    #[must_use]
    pub fn received_as(raw: &str, bare_digits: BareDigits) -> Self {
        Self::parse_as(raw, bare_digits).unwrap_or_else(|_| {
            let name = name(raw);
            let normal = if name.is_empty() {
                UNKNOWN.to_owned()
            } else {
                without_case(&name)
            };
            Self {
                raw: raw.to_owned(),
                normal,
            }
        })
    }

    /// Parses what an operator typed: a number in a known format, or a name.
    ///
    /// # Errors
    /// The string is neither, such as a misspelt number.
    pub fn typed(text: &str) -> Result<Self, NumberError> {
        match Self::parse(text) {
            Err(_) if is_like_a_name(text) => Ok(Self::received(text)),
            parsed => parsed,
        }
    }

    /// As the carrier sent it.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The form that is compared.
    #[must_use]
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// The form for people and programs: the normal form of a number, or a name as it was written, with at
    /// most 64 characters and no invisible ones.
    #[must_use]
    pub fn shown(&self) -> Cow<'_, str> {
        let is_number = self.normal.bytes().all(|byte| b"+-*0123456789".contains(&byte));
        let name = if is_number { String::new() } else { name(&self.raw) };
        if name.is_empty() {
            Cow::Borrowed(&self.normal)
        } else {
            Cow::Owned(name)
        }
    }

    /// A form that identifies the number to its owner but cannot be called: the first and the last two
    /// characters.
    #[must_use]
    pub fn masked(&self) -> String {
        if self.normal == UNKNOWN {
            return UNKNOWN.to_owned();
        }
        mask(&self.normal)
    }

    /// The number of a redacted message, with everything that identifies it removed.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let masked = self.masked();
        Self {
            raw: masked.clone(),
            normal: masked,
        }
    }
}

/// Writes [`Number::shown`] in full, for the readers of the message. Logs use [`Number::masked`].
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown())
    }
}

/// Writes the masked form, so that `{:?}` never puts a full number into a log.
impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.masked())
    }
}

fn mask(normal: &str) -> String {
    let characters: Vec<char> = normal.chars().collect();
    match characters.as_slice() {
        [first, second, .., before, last] if characters.len() >= 7 => {
            format!("{first}{second}***{before}{last}")
        }
        [first, .., last] if characters.len() >= 4 => format!("{first}***{last}"),
        _ => "***".to_owned(),
    }
}

fn normalise(raw: &str, bare_digits: BareDigits) -> Option<String> {
    let text = raw.trim();
    if let Some(normal) = country_and_code(text) {
        return Some(normal);
    }
    let (plus, rest) = match text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let digits = digits(rest)?;
    match (plus, digits.len()) {
        (true, 7..=15) => Some(format!("+{digits}")),
        (false, 3..=6) => Some(digits),
        (false, 7..=15) if bare_digits == BareDigits::AsReceived => Some(digits),
        (false, 10) if bare_digits == BareDigits::NationalUs => Some(format!("+1{digits}")),
        (false, 7..=15) => Some(format!("+{digits}")),
        _ => None,
    }
}

/// A name on one line, without invisible characters, and cut.
fn name(raw: &str) -> String {
    let visible = raw
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| !acts_unseen(*c));
    let mut name = String::new();
    let mut length = 0;
    for character in visible {
        if character == ' ' && (name.is_empty() || name.ends_with(' ')) {
            continue;
        }
        if length == NAME_MAX {
            break;
        }
        name.push(character);
        length += 1;
    }
    name.truncate(name.trim_end().len());
    name
}

/// Lower case letter by letter, so that a part of a name has the same case as in the whole; cut to the length
/// of a name.
fn without_case(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).take(NAME_MAX).collect()
}

/// Distinguishes a name from a misspelt number: it has a letter, or a character of another script, and no
/// leading plus.
fn is_like_a_name(text: &str) -> bool {
    let telling = |c: char| c.is_alphabetic() || !(c.is_ascii() || c.is_whitespace() || c.is_numeric());
    !text.trim().starts_with('+') && text.chars().any(|c| telling(c) && !acts_unseen(c))
}

/// `1-1234` and `57-MyCompany`: a country code without a plus, a hyphen, and a code or name.
fn country_and_code(text: &str) -> Option<String> {
    let (country, code) = text.split_once('-')?;
    let country_ok = (1..=3).contains(&country.len()) && country.bytes().all(|byte| byte.is_ascii_digit());
    let short_code = (3..=8).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_digit());
    let sender = (1..=11).contains(&code.chars().count())
        && code.chars().any(|c| c.is_ascii_alphabetic())
        && code
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " _.&+-".contains(c));
    (country_ok && (short_code || sender)).then(|| format!("{country}-{}", code.to_ascii_lowercase()))
}

/// The digits of a number written with the usual separators; `None` if it contains anything else.
fn digits(text: &str) -> Option<String> {
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || " (".contains(c));
    let usual = begins
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || " ().-/\u{a0}".contains(c));
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    (usual && !digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normalised_as_in_the_table() {
        for (raw, normal) in [
            ("+13038675309", "+13038675309"),
            ("+1 (303) 867-5309", "+13038675309"),
            (" 13038675309", "+13038675309"),
            ("3038675309", "+13038675309"),
            ("303-867-5309", "+13038675309"),
            ("+7708675309", "+7708675309"),
            ("1-1234", "1-1234"),
            ("44-60777", "44-60777"),
            ("57-MyCompany", "57-mycompany"),
            ("1234", "1234"),
        ] {
            let number = Number::parse(raw).unwrap_or_else(|_| panic!("{raw} was refused"));
            assert_eq!(number.normal(), normal, "{raw}");
            assert_eq!(number.raw(), raw);
        }
    }

    #[test]
    fn bare_digits_are_interpreted_as_configured() {
        for (raw, us, international, as_received) in [
            ("4759440448", "+14759440448", "+4759440448", "4759440448"),
            ("447700900001", "+447700900001", "+447700900001", "447700900001"),
            ("0171 234567", "+10171234567", "+0171234567", "0171234567"),
            ("+4759440448", "+4759440448", "+4759440448", "+4759440448"),
            ("12345", "12345", "12345", "12345"),
            ("1-1234", "1-1234", "1-1234", "1-1234"),
            ("Google", "google", "google", "google"),
        ] {
            let normal = |bare_digits| Number::received_as(raw, bare_digits).normal;
            assert_eq!(normal(BareDigits::NationalUs), us);
            assert_eq!(normal(BareDigits::International), international);
            assert_eq!(normal(BareDigits::AsReceived), as_received);
        }
        let number = Number::received_as("0171 234567", BareDigits::AsReceived);
        assert_eq!(number.shown(), "0171234567");
        assert!(Pattern::parse("*0171234567").unwrap().matches(&number));
    }

    #[test]
    fn a_text_that_is_not_a_number_is_refused() {
        for raw in [
            "",
            " ",
            "+",
            "abc",
            "not-a-number",
            "+12",
            "+1303867530912345",
            "1-",
            "-1234",
            "+1303x",
            "١٢٣٤٥٦٧",
            "1;2",
        ] {
            assert_eq!(Number::parse(raw), Err(NumberError), "{raw:?}");
        }
        assert_eq!(Number::parse(&"1".repeat(65)), Err(NumberError));
    }

    /// As received, in normal form, and as shown to people.
    #[test]
    fn a_carrier_may_name_a_sender_in_any_way() {
        let long = "N".repeat(5_000);
        for (raw, normal, shown) in [
            ("+1 (303) 867-5309", "+13038675309", "+13038675309"),
            ("57-MyCompany", "57-mycompany", "57-MyCompany"),
            ("Google", "google", "Google"),
            ("AT&T", "at&t", "AT&T"),
            ("3M", "3m", "3M"),
            ("Приват Банк", "приват банк", "Приват Банк"),
            (" Goo\u{7}gle\u{202e}\t\n Pay\u{9b} ", "google pay", "Google Pay"),
            (&long, &long[..64].to_lowercase(), &long[..64]),
            ("\u{130}\u{130}", "i\u{307}i\u{307}", "\u{130}\u{130}"),
            ("+12", "+12", "+12"),
            ("+1303x", "+1303x", "+1303x"),
            ("🏦", "🏦", "🏦"),
            ("", "unknown", "unknown"),
            (" \u{202e}\0", "unknown", "unknown"),
        ] {
            let number = Number::received(raw);
            assert_eq!((number.normal(), &*number.shown()), (normal, shown), "{raw:?}");
            assert_eq!(number.raw(), raw);
            assert!(Pattern::search(shown).unwrap().matches(&number), "{raw:?}");
            let other_way = Number::received(&number.shown());
            assert_eq!(other_way.normal(), normal, "{raw:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_received_number_is_found_by_its_shown_form(raw in ".{0,80}") {
            let number = Number::received(&raw);
            let shown = number.shown().into_owned();
            let again = Number::received(&shown);
            proptest::prop_assert_eq!(again.normal(), number.normal());
            proptest::prop_assert!(!shown.contains(acts_unseen) && !shown.is_empty());
            proptest::prop_assert!(number.normal().chars().count() <= NAME_MAX);
            for text in [&raw, &shown] {
                if let Ok(pattern) = Pattern::search(text) {
                    proptest::prop_assert!(pattern.matches(&number) || text.contains('*'), "{}", pattern);
                }
            }
        }
    }

    #[test]
    fn a_typed_number_or_name_is_accepted_but_not_a_misspelt_number() {
        for name in ["Google", "abc", "7-Eleven", "Приват Банк", "🏦", "57-MyCompany"] {
            assert!(Number::typed(name).is_ok(), "{name}");
        }
        for wrong in ["", " ", "+1303x", "+12", "12", "1;2", "١٢٣٤٥٦٧", "\u{202e}"] {
            assert_eq!(Number::typed(wrong), Err(NumberError), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_masked_as_numbers_are() {
        for (raw, masked) in [("Google", "g***e"), ("Приват Банк", "пр***нк"), ("BBC", "***")] {
            let number = Number::received(raw);
            assert_eq!(number.masked(), masked);
            assert_eq!(format!("{number:?}"), format!("\"{masked}\""));
            let redacted = number.redacted();
            assert_eq!((redacted.raw(), &*redacted.shown()), (masked, masked));
        }
    }

    #[test]
    fn debug_and_mask_never_show_a_full_number() {
        let number = Number::parse("+13038675309").unwrap();
        assert_eq!(number.masked(), "+1***09");
        assert_eq!(format!("{number:?}"), "\"+1***09\"");
        assert_eq!(Number::parse("1-1234").unwrap().masked(), "1***4");
    }
}
