//! Helpers to parse a carrier's fields within limits, for the two formats that most carriers use: forms and JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::model::message::Media;

/// Maximum length of a message id that is stored unchanged, in bytes.
const PROVIDER_ID_MAX: usize = 128;

/// Limits for unknown fields that are stored: bytes of one with its name, bytes of all, and their number.
const EXTRA_EACH_MAX: usize = 4 * 1024;
const EXTRA_ALL_MAX: usize = 16 * 1024;
const EXTRA_COUNT_MAX: usize = 64;

/// The media type of a form.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// Replaces an id that is longer than any carrier's by its digest, so that ids with the same beginning stay distinct.
#[must_use]
pub fn provider_id(id: String) -> String {
    use sha2::Digest as _;
    match id.len() {
        0..=PROVIDER_ID_MAX => id,
        _ => format!("sha256:{}", hex::encode(sha2::Sha256::digest(id))),
    }
}

/// Keeps unknown fields, given as JSON text by name, up to a limit, so that a carrier cannot fill the store with them. Also
/// returns the number of those beyond it.
#[must_use]
pub(super) fn limited(fields: impl Iterator<Item = (String, String)>) -> (BTreeMap<String, String>, usize) {
    let mut kept = BTreeMap::new();
    let (mut size, mut dropped) = (0, 0_usize);
    for (name, json) in fields {
        let this = name.len() + json.len();
        if this > EXTRA_EACH_MAX || size + this > EXTRA_ALL_MAX || kept.len() == EXTRA_COUNT_MAX {
            dropped += 1;
            continue;
        }
        size += this;
        kept.insert(name, json);
    }
    (kept, dropped)
}

/// An attachment `{"url": …}`; `None` without a link.
#[must_use]
pub(super) fn medium(entry: &Value) -> Option<Media> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Media {
        link: text("url").filter(|link| !link.is_empty())?,
        content_type: text("content_type"),
        filename: text("name"),
    })
}

/// Returns true if the body is JSON according to `Content-Type`, or, without a media type, if it begins like JSON.
#[must_use]
pub fn is_json(headers: &HeaderMap, body: &[u8]) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = media_type.and_then(|value| value.split(|&byte| byte == b';').next());
    match essence.map(<[u8]>::trim_ascii) {
        Some(essence) if essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") => false,
        Some(essence) if essence.to_ascii_lowercase().ends_with(b"json") => true,
        _ => matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')),
    }
}

/// A JSON value as text: strings unchanged, `null` as an empty string, anything else as JSON.
#[must_use]
pub fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The decoded pairs of a form or a query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Form<'a> {
    /// Parses `a=1&b=2`. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn read(encoded: &'a [u8]) -> Self {
        Self(url::form_urlencoded::parse(encoded).collect())
    }

    /// All pairs, in order.
    #[must_use]
    pub fn pairs(&self) -> &[(Cow<'a, str>, Cow<'a, str>)] {
        &self.0
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        pairs
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_ref())
    }

    /// Like `get`, but `None` if the value is empty.
    #[must_use]
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The fields that are not in `known`, without empty ones.
    pub fn unknown(&self, known: impl Fn(&str) -> bool) -> impl Iterator<Item = (String, Value)> {
        let pairs = self.0.iter();
        pairs
            .filter(move |(name, value)| !value.is_empty() && !known(name))
            .map(|(name, value)| (name.to_string(), Value::from(&**value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_is_replaced_by_its_digest() {
        assert_eq!(provider_id("x".repeat(128)), "x".repeat(128));
        let (one, other) = (provider_id("x".repeat(129)), provider_id("x".repeat(130)));
        assert!(one.starts_with("sha256:") && one != other);
    }

    #[test]
    fn a_form_is_read_in_order() {
        let form = Form::read(b"b=1&a=x+y&b=%2B2&c=&%ff=1");
        assert_eq!(form.get("b"), Some("1"));
        assert_eq!(form.filled("c"), None);
        assert_eq!(form.pairs().len(), 5);
        let unknown: BTreeMap<_, _> = form.unknown(|name| name == "b").collect();
        assert_eq!(unknown.get("a"), Some(&Value::from("x y")));
        assert_eq!(unknown.len(), 2);
    }

    #[test]
    fn json_is_distinguished_from_a_form() {
        for (media_type, body, json) in [
            ("application/json; charset=utf-8", "a=b", true),
            ("application/cloudevents+json", "", true),
            ("Application/X-WWW-Form-Urlencoded", "{}", false),
            ("text/plain", " [1]", true),
            ("text/plain", "a=b", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type.parse().unwrap())]);
            assert_eq!(is_json(&headers, body.as_bytes()), json, "{media_type} {body}");
        }
        assert!(is_json(&HeaderMap::new(), b"{}"));
    }
}
