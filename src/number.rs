//! Phone numbers, short codes and alphanumeric senders, and the patterns that match them.
//!
//! A number is kept as the carrier wrote it and compared in a normal form:
//!
//! | as received | normal form | what it is |
//! |---|---|---|
//! | `+13038675309`, `+1 (303) 867-5309` | `+13038675309` | E.164 |
//! | `13038675309`, `3038675309` | `+13038675309` | E.164 without its plus; ten bare digits are North American |
//! | `+7708675309` | `+7708675309` | kept as sent, though no such E.164 number exists |
//! | `1-1234` | `1-1234` | short code of a country |
//! | `57-MyCompany` | `57-mycompany` | alphanumeric sender of a country, compared without case |
//! | `1234` | `1234` | short code without its country |

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest number text that is looked at, in bytes.
const LENGTH_MAX: usize = 64;

/// A sender or receiver: what was received, and the form that is compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Number {
    raw: String,
    normal: String,
}

/// The text is in no known number format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a number in a known format: E.164 (`+13038675309`), `COUNTRYCODE-SHORTCODE` (`1-1234`) or `COUNTRYCODE-SENDER` (`57-MyCompany`)"
)]
pub struct NumberError;

impl Number {
    /// Reads a number leniently.
    ///
    /// # Errors
    /// When the text is in no known format.
    pub fn parse(raw: &str) -> Result<Self, NumberError> {
        if raw.len() > LENGTH_MAX {
            return Err(NumberError);
        }
        let normal = normalise(raw).ok_or(NumberError)?;
        Ok(Self {
            raw: raw.to_owned(),
            normal,
        })
    }

    /// As the carrier sent it.
    #[must_use]
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The form that is compared and shown.
    #[must_use]
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// Enough to recognise, not enough to call: the first and the last two characters.
    #[must_use]
    pub fn masked(&self) -> String {
        mask(&self.normal)
    }

    /// The number with all that identifies it gone, for redacted messages.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let masked = self.masked();
        Self {
            raw: masked.clone(),
            normal: masked,
        }
    }
}

/// The normal form in full: for the people the text is for. Logs use [`Number::masked`].
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.normal)
    }
}

/// Masked, so that a stray `{:?}` never puts a full number into a log.
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

fn normalise(raw: &str) -> Option<String> {
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
        (false, 10) => Some(format!("+1{digits}")),
        (false, 3..=6) => Some(digits),
        (false, 7..=15) => Some(format!("+{digits}")),
        _ => None,
    }
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

/// The digits of a number written with the usual separators; nothing when it has anything else.
fn digits(text: &str) -> Option<String> {
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || " (".contains(c));
    let usual = begins
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || " ().-/\u{a0}".contains(c));
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    (usual && !digits.is_empty()).then_some(digits)
}

/// What a route compares a number with: exact, or with one `*` at the start or the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Every number (`*`).
    Any,
    /// This normal form.
    Exact(String),
    /// Numbers whose normal form starts so (`+1303*`).
    Prefix(String),
    /// Numbers whose normal form ends so (`*5309`).
    Suffix(String),
}

/// Why a text is not a number pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No wildcard, and no number either.
    #[error("`{0}` is {NumberError}")]
    Number(String),
    /// A wildcard in the middle, or two of them.
    #[error("`{0}`: a `*` may stand only at the start or at the end")]
    Wildcard(String),
    /// Digits that no normal form begins with.
    #[error("`{0}` begins with neither `+` nor a country code and a hyphen: write `+1303*` or `1-12*`")]
    Start(String),
    /// Something beside the wildcard that no number contains.
    #[error("`{0}`: beside the `*` only what numbers are made of may stand")]
    Characters(String),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it could never match a number.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let trimmed = text.trim();
        if trimmed == "*" {
            return Ok(Self::Any);
        }
        let (kind, part): (fn(String) -> Self, &str) =
            match (trimmed.strip_suffix('*'), trimmed.strip_prefix('*')) {
                (None, None) if trimmed.contains('*') => return Err(PatternError::Wildcard(text.to_owned())),
                (None, None) => {
                    let number = Number::parse(trimmed).map_err(|_| PatternError::Number(text.to_owned()))?;
                    return Ok(Self::Exact(number.normal));
                }
                (Some(_), Some(_)) => return Err(PatternError::Wildcard(text.to_owned())),
                (Some(part), None) => (Self::Prefix, part),
                (None, Some(part)) => (Self::Suffix, part),
            };
        if part.contains('*') {
            return Err(PatternError::Wildcard(text.to_owned()));
        }
        let part = partial(part).ok_or_else(|| PatternError::Characters(text.to_owned()))?;
        // With the separators gone: `31/07*` begins with as little as `3107*`.
        if trimmed.ends_with('*') && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PatternError::Start(text.to_owned()));
        }
        Ok(kind(part))
    }

    /// Whether the number fits.
    #[must_use]
    pub fn matches(&self, number: &Number) -> bool {
        self.matches_normal(&number.normal)
    }

    /// Whether the number with this normal form fits.
    #[must_use]
    pub fn matches_normal(&self, normal: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => normal == exact,
            Self::Prefix(start) => normal.starts_with(start.as_str()),
            Self::Suffix(end) => normal.ends_with(end.as_str()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(normal) => f.write_str(normal),
            Self::Prefix(start) => write!(f, "{start}*"),
            Self::Suffix(end) => write!(f, "*{end}"),
        }
    }
}

/// Part of a normal form: separators go, except the hyphen of `1-12*` and what sender names contain.
fn partial(part: &str) -> Option<String> {
    let short = part.split_once('-').is_some_and(|(country, _)| {
        (1..=3).contains(&country.len()) && country.bytes().all(|byte| byte.is_ascii_digit())
    });
    let alphabetic = part.chars().any(|c| c.is_ascii_alphabetic());
    if short || alphabetic {
        let usual = part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " _.&+-".contains(c));
        return usual.then(|| part.to_ascii_lowercase());
    }
    let plus = if part.starts_with('+') { "+" } else { "" };
    digits(part.strip_prefix('+').unwrap_or(part))
        .map(|digits| format!("{plus}{digits}"))
        .or_else(|| (part == "+").then(|| "+".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normalised_as_the_table_says() {
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
    fn what_is_no_number_is_refused() {
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

    #[test]
    fn debug_and_mask_never_show_a_full_number() {
        let number = Number::parse("+13038675309").unwrap();
        assert_eq!(number.masked(), "+1***09");
        assert_eq!(format!("{number:?}"), "\"+1***09\"");
        assert_eq!(Number::parse("1-1234").unwrap().masked(), "1***4");
    }

    #[test]
    fn patterns_match_normal_forms() {
        for (pattern, number, expected) in [
            ("*", "1-1234", true),
            ("+13038675309", "(303) 867-5309", true),
            ("303-867-5309", "+13038675309", true),
            ("+1303*", "+13038675309", true),
            ("+1 (303)*", "+13038675309", true),
            ("+1304*", "+13038675309", false),
            ("*5309", "+13038675309", true),
            ("1-12*", "1-1234", true),
            ("1-12*", "+11234567", false),
            ("57-MY*", "57-MyCompany", true),
            ("1-1234", "1-1234", true),
            ("+*", "1-1234", false),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.matches(&Number::parse(number).unwrap()),
                expected,
                "{pattern} on {number}"
            );
        }
        for wrong in ["", "abc", "720555*", "31/07*", "+1*2", "**", "+1#*", "*1*"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
