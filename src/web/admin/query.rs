//! Query parameters of the admin API. Unknown parameters and invalid values are errors that name them.

use std::fmt::Display;
use std::str::FromStr;

use crate::model::message::{Name, Timestamp};
use crate::model::number::Pattern;
use crate::store::{DeliveryQuery, MessageState, Query};

/// The default number of items per page.
const LIMIT_DEFAULT: usize = 50;

/// The maximum number of items per page.
const LIMIT_MAX: usize = 500;

/// The parameters of a request. Each is removed when it is used; remaining ones are unknown.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(query: &str) -> Self {
        Self(
            url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn take<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let Some(at) = self.0.iter().position(|(key, _)| key == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(at);
        if value.is_empty() {
            return Ok(None);
        }
        read(&value)
            .map(Some)
            .map_err(|error| format!("`{name}`: {error}"))
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            Some((name, _)) => Err(format!("unknown parameter `{name}`, or given twice")),
            None => Ok(()),
        }
    }
}

/// The filters of `GET /messages`.
pub(super) fn messages(query: &str) -> Result<Query, String> {
    let mut given = Parameters::read(query);
    let found = Query {
        from: given.take("from", pattern)?,
        to: given.take("to", pattern)?,
        text: given.take("text", |text| Ok(text.to_owned()))?,
        source: given.take("source", parse::<Name>)?,
        state: given.take("state", |text| {
            state(text, &["pending", "delivered", "dead", "kept", "unrouted"])
        })?,
        since: given.take("since", parse::<Timestamp>)?,
        until: given.take("until", parse::<Timestamp>)?,
        limit: given.take("limit", limit)?.unwrap_or(LIMIT_DEFAULT),
        cursor: given.take("cursor", parse::<u64>)?,
    };
    given.end()?;
    Ok(found)
}

/// The filters of `GET /deliveries`.
pub(super) fn deliveries(query: &str) -> Result<DeliveryQuery, String> {
    let mut given = Parameters::read(query);
    let found = DeliveryQuery {
        destination: given.take("destination", parse::<Name>)?,
        state: given.take("state", |text| state(text, &["pending", "delivered", "dead"]))?,
        limit: given.take("limit", limit)?.unwrap_or(LIMIT_DEFAULT),
        cursor: given.take("cursor", parse::<u64>)?,
    };
    given.end()?;
    Ok(found)
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// An unencoded `+` in a query arrives as a space.
fn pattern(text: &str) -> Result<Pattern, String> {
    let text = text
        .strip_prefix(' ')
        .map_or_else(|| text.to_owned(), |rest| format!("+{rest}"));
    Pattern::search(&text).map_err(|error| error.to_string())
}

fn state(text: &str, known: &[&str]) -> Result<MessageState, String> {
    let state = match text {
        "pending" => MessageState::Pending,
        "delivered" => MessageState::Delivered,
        "dead" => MessageState::Dead,
        "kept" => MessageState::Kept,
        "unrouted" => MessageState::Unrouted,
        _ => return Err(format!("must be one of {}", known.join(", "))),
    };
    if known.contains(&text) {
        Ok(state)
    } else {
        Err(format!("must be one of {}", known.join(", ")))
    }
}

fn limit(text: &str) -> Result<usize, String> {
    let limit: usize = parse(text)?;
    if (1..=LIMIT_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(format!("must be from 1 to {LIMIT_MAX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parsed_and_invalid_ones_are_named() {
        let query = messages("from=%2B1303*&state=dead&since=2026-11-22T00:00:00Z&limit=7").unwrap();
        assert_eq!((query.limit, query.state), (7, Some(MessageState::Dead)));
        assert_eq!(query.from, Some(Pattern::Prefix("+1303".to_owned())));
        assert_eq!(
            messages("from=+13038675309").unwrap().from,
            Some(Pattern::Exact("+13038675309".to_owned()))
        );
        for name in ["Google", "AT%26T", "+1303x", "12"] {
            let query = messages(&format!("from={name}")).unwrap();
            assert!(matches!(query.from, Some(Pattern::Exact(_))), "{name}");
        }
        for (wrong, words) in [
            ("limit=0", "`limit`: must be from 1 to 500"),
            ("since=yesterday", "`since`: "),
            ("state=lost", "`state`: must be one of pending"),
            ("colour=red", "unknown parameter `colour`"),
            ("limit=1&limit=2", "given twice"),
        ] {
            let error = messages(wrong).unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
        assert!(deliveries("state=unrouted").is_err() && deliveries("state=kept").is_err());
    }
}
