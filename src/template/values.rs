//! The values that a template can use.

use std::collections::BTreeMap;

use minijinja::value::Value;

use super::{LIMIT, MEDIUM, Medium, OUTPUT_FACTOR, OUTPUT_MAX, safe_link};
use crate::model::message::{Media, Message};
use crate::model::zone::{self, Zone};

/// The values that a template can use.
#[derive(Clone)]
pub struct Values<'a> {
    /// `message.id`, `provider_id`, `source`, `from`, `to`, `text`, `keyword`, `received_at`,
    /// `media`.
    pub message: &'a Message,
    /// `from_name`; empty if there is none, so that `{{ from_name or from }}` works.
    pub from_name: Option<&'a str>,
    /// `to_name`; empty if there is none.
    pub to_name: Option<&'a str>,
    /// `route`; empty if no route matched.
    pub route: Option<&'a str>,
    /// `fallback`: which destination this delivery replaces, and why; empty if it is no fallback.
    pub fallback: String,
    /// The time zone of `received_at`.
    pub zone: Option<&'a Zone>,
    /// `match.*`; a group that does not exist or took no part in the match prints nothing.
    pub groups: &'a BTreeMap<String, String>,
}

pub(super) fn context(medium: Medium, values: &Values<'_>) -> Value {
    let message = values.message;
    let limit = message
        .text
        .len()
        .saturating_mul(OUTPUT_FACTOR)
        .saturating_add(OUTPUT_MAX);
    map([
        (MEDIUM, Value::from_object(medium)),
        (LIMIT, Value::from(limit)),
        ("message", map([("id", message.id.to_string())])),
        ("provider_id", Value::from(message.provider_id.as_str())),
        ("source", Value::from(message.source.as_str())),
        ("from", Value::from(message.from.to_string())),
        ("from_name", Value::from(values.from_name.unwrap_or_default())),
        ("to", Value::from(message.to.to_string())),
        ("to_name", Value::from(values.to_name.unwrap_or_default())),
        ("text", Value::from(message.text.as_str())),
        ("keyword", Value::from(message.keyword())),
        ("received_at", Value::from(received_at(medium, values))),
        ("route", Value::from(values.route.unwrap_or_default())),
        ("fallback", Value::from(values.fallback.as_str())),
        (
            "media",
            message
                .media
                .iter()
                .map(|media| attachment(medium, media))
                .collect(),
        ),
        (
            "match",
            map(values
                .groups
                .iter()
                .map(|(group, found)| (group.as_str(), found.as_str()))),
        ),
    ])
}

/// A program gets the time as RFC 3339.
fn received_at(medium: Medium, values: &Values<'_>) -> String {
    let at = values.message.received_at;
    match medium {
        Medium::Json => zone::exact(at, values.zone),
        _ => zone::shown(at, values.zone),
    }
}

pub(super) fn map<'a, V: Into<Value>>(entries: impl IntoIterator<Item = (&'a str, V)>) -> Value {
    let map: BTreeMap<String, Value> = entries
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Value::from(map)
}

/// A program gets the link as received; people get it only if it may be clickable.
fn attachment(medium: Medium, media: &Media) -> Value {
    let link = match medium {
        Medium::Json => media.link.as_str(),
        _ => safe_link(&media.link).unwrap_or_default(),
    };
    map([
        ("link", link),
        ("content_type", media.content_type.as_deref().unwrap_or_default()),
        ("filename", media.filename.as_deref().unwrap_or_default()),
    ])
}
