//! Patterns that match numbers and sender names.

use std::fmt;

use super::{Number, NumberError, digits, is_like_a_name, without_case};
use crate::model::unseen::acts_unseen;

/// A pattern for a number or name in a route: exact, or with one `*` at the start or the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Every number and name (`*`).
    Any,
    /// This normal form.
    Exact(String),
    /// Numbers whose normal form starts with this (`+1303*`).
    Prefix(String),
    /// Numbers whose normal form ends with this (`*5309`).
    Suffix(String),
}

/// The reason why a string is not a valid pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No wildcard, and neither a number nor a name.
    #[error("`{0}` is {NumberError}, nor a sender's name (`Google`)")]
    Number(String),
    /// A wildcard in the middle, or two of them.
    #[error("`{0}`: `*` is allowed only at the start or the end")]
    Wildcard(String),
    /// Digits that no normal form starts with.
    #[error("`{0}` begins with neither `+` nor a country code and a hyphen: write `+1303*` or `1-12*`")]
    Start(String),
    /// Something next to the wildcard that is part of neither a number nor a name.
    #[error("`{0}`: the characters beside the `*` belong to neither a number nor a name")]
    Characters(String),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// The pattern could never match a number.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let trimmed = text.trim();
        if trimmed == "*" {
            return Ok(Self::Any);
        }
        let (kind, part): (fn(String) -> Self, &str) =
            match (trimmed.strip_suffix('*'), trimmed.strip_prefix('*')) {
                (None, None) if trimmed.contains('*') => return Err(PatternError::Wildcard(text.to_owned())),
                (None, None) => {
                    let number = Number::typed(trimmed).map_err(|_| PatternError::Number(text.to_owned()))?;
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
        // Separators are removed: `31/07*` can match as little as `3107*`.
        if trimmed.ends_with('*') && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PatternError::Start(text.to_owned()));
        }
        Ok(kind(part))
    }

    /// The pattern of a search: a pattern, or exactly this string, because any string may be the name of a
    /// sender.
    ///
    /// # Errors
    /// A `*` is at a place where it could never match.
    pub fn search(text: &str) -> Result<Self, PatternError> {
        Self::parse(text).or_else(|error| match error {
            PatternError::Number(text) => Ok(Self::Exact(Number::received(&text).normal)),
            error => Err(error),
        })
    }

    /// Returns true if the number matches.
    #[must_use]
    pub fn matches(&self, number: &Number) -> bool {
        self.matches_normal(&number.normal)
    }

    /// Returns true if a number with this normal form matches.
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

/// A part of a normal form: separators are removed, except the hyphen of `1-12*` and the characters that
/// names contain.
fn partial(part: &str) -> Option<String> {
    let short = part.split_once('-').is_some_and(|(country, _)| {
        (1..=3).contains(&country.len()) && country.bytes().all(|byte| byte.is_ascii_digit())
    });
    if is_like_a_name(part) {
        let usual = !part.contains(|c: char| acts_unseen(c) || (c.is_whitespace() && c != ' '));
        return usual.then(|| without_case(part));
    }
    if short {
        let usual = part.chars().all(|c| c.is_ascii_digit() || " _.&+-".contains(c));
        return usual.then(|| part.to_owned());
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
            ("Google", "GOOGLE", true),
            ("google", "Google Pay", false),
            ("Goo*", "Google", true),
            ("* Pay", "Google  Pay", true),
            ("Bank of *", "Bank of X", true),
            ("ПРИВАТ*", "Приват Банк", true),
            ("*&t", "AT&T", true),
            ("7-E*", "7-Eleven", true),
            ("*", "", true),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.matches(&Number::received(number)),
                expected,
                "{pattern} on {number}"
            );
        }
        for wrong in [
            "",
            "+1303x",
            "720555*",
            "31/07*",
            "+1*2",
            "**",
            "+1#*",
            "*1*",
            "a\u{202e}*",
            "a*b",
        ] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
