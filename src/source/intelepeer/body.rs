//! Parses the body of a webhook into fields: JSON as documented, or a form.
//!
//! Errors never quote the body, because they are logged and sent to the caller.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use http::{HeaderMap, StatusCode, header};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;

use super::Refusal;
use super::encoding::Charset;
use super::repair::repair;

/// Upper bound of the values that are kept of repeated fields.
const REPEATED_MAX: usize = 64;

/// The parsed body, possibly with an error.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) fields: Fields,
    /// The error, if the body is invalid. `fields` then contains what could be parsed.
    pub(super) broken: Option<Refusal>,
}

impl Body {
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
        let charset = Charset::named(content_type.unwrap_or_default());
        let text = charset.decode_body(body);
        let format = Format::named(content_type.unwrap_or_default());
        let (fields, wrong) = match format.unwrap_or_else(|| Format::guessed(&text)) {
            Format::Json => json(&text),
            Format::Form => (form(&text, charset), None),
        };
        let unnamed = (content_type.is_some() && format.is_none()).then(media_type);
        Self {
            fields,
            broken: unnamed.or(wrong),
        }
    }
}

/// The body as text, for a body from which no field could be parsed.
pub(super) fn as_text<'b>(headers: &HeaderMap, body: &'b [u8]) -> Cow<'b, str> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    Charset::named(content_type.unwrap_or_default()).decode_body(body)
}

fn media_type() -> Refusal {
    Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "media_type",
        "Content-Type must be application/json or application/x-www-form-urlencoded",
    )
}

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Form,
}

impl Format {
    fn named(content_type: &[u8]) -> Option<Self> {
        let essence = content_type.split(|&byte| byte == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Some(Self::Json)
        } else if essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            Some(Self::Form)
        } else {
            None
        }
    }

    fn guessed(text: &str) -> Self {
        if text.trim_ascii_start().starts_with('{') {
            Self::Json
        } else {
            Self::Form
        }
    }
}

/// The value of one field.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A string.
    Text(String),
    /// Any other JSON value, exactly as received.
    Json(Box<RawValue>),
}

impl Value {
    /// The value as JSON.
    pub(super) fn into_json(self) -> String {
        match self {
            Self::Text(text) => serde_json::Value::String(text).to_string(),
            Self::Json(json) => json.get().to_owned(),
        }
    }

    fn of(raw: Box<RawValue>) -> Self {
        text(&raw).map_or(Self::Json(raw), Self::Text)
    }

    /// The value as text: a number as written, the only element of a list, empty for `null`.
    fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Json(raw) if raw.get() == "null" => None,
            Self::Json(raw) => Some(match only_element(raw) {
                Some(Self::Text(text)) => Cow::Owned(text),
                _ => Cow::Borrowed(raw.get()),
            }),
        }
    }
}

fn only_element(list: &RawValue) -> Option<Value> {
    let [element]: [Box<RawValue>; 1] = serde_json::from_str(list.get()).ok()?;
    Some(Value::of(element))
}

/// The fields of one body by name. Of a repeated field, the first value is verified and delivered.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    first: BTreeMap<String, Value>,
    repeated: Vec<(String, Value)>,
}

impl Fields {
    /// The value of a field that must occur exactly once and be a string.
    pub(super) fn required_text(&self, name: &str) -> Result<&str, Refusal> {
        if self.repeated.iter().any(|(repeated, _)| repeated == name) {
            return Err(Refusal::malformed(format!("`{name}` appears more than once")));
        }
        match self.first.get(name) {
            Some(Value::Text(text)) => Ok(text),
            Some(Value::Json(_)) => Err(Refusal::malformed(format!("`{name}` must be a string"))),
            None => Err(Refusal::malformed(format!("`{name}` is missing"))),
        }
    }

    /// The value of a field as text; empty if the field is missing.
    pub(super) fn text(&self, name: &str) -> Cow<'_, str> {
        let text = self.first.get(name).and_then(Value::as_text);
        text.unwrap_or_default()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.first.contains_key(name)
    }

    /// Removes a field and returns its value as text; empty if the field is missing.
    pub(super) fn take_text(&mut self, name: &str) -> Option<String> {
        self.take(name)?.as_text().map(Cow::into_owned)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.first.remove(name)
    }

    /// Removes all occurrences of a field.
    pub(super) fn forget(&mut self, name: &str) {
        self.first.remove(name);
        self.repeated.retain(|(repeated, _)| repeated != name);
    }

    /// The remaining fields, ordered by name; repeated ones last, as `name (2)`.
    pub(super) fn rest(self) -> impl Iterator<Item = (String, Value)> {
        let mut count: BTreeMap<String, u32> = BTreeMap::new();
        let repeated = self.repeated.into_iter().map(move |(name, value)| {
            let times = count.entry(name.clone()).or_insert(1);
            *times += 1;
            (format!("{name} ({times})"), value)
        });
        self.first.into_iter().chain(repeated)
    }

    fn insert(&mut self, name: String, value: Value) {
        match self.first.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(entry) if self.repeated.len() < REPEATED_MAX => {
                self.repeated.push((entry.key().clone(), value));
            }
            Entry::Occupied(_) => {}
        }
    }
}

/// Parses the fields of a JSON object, repairing invalid JSON if possible, and returns the error.
fn json(text: &str) -> (Fields, Option<Refusal>) {
    match object(text) {
        Ok(fields) => (fields, None),
        Err(error) => (object(&repair(text)).unwrap_or_default(), Some(not_json(&error))),
    }
}

fn not_json(error: &serde_json::Error) -> Refusal {
    if error.is_data() {
        return Refusal::malformed("the body must be a JSON object");
    }
    Refusal::malformed(format!(
        "the body is not valid JSON: line {} column {}",
        error.line(),
        error.column()
    ))
}

fn object(text: &str) -> Result<Fields, serde_json::Error> {
    let Pairs(pairs) = serde_json::from_str(text)?;
    let mut fields = Fields::default();
    for (name, raw) in pairs {
        fields.insert(name, Value::of(raw));
    }
    Ok(fields)
}

/// The content of a JSON string. An unpaired surrogate is replaced: carriers cut long messages between the two halves
/// of an emoji, and such a message must not be lost.
fn text(raw: &RawValue) -> Option<String> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
    if !raw.get().starts_with('"') {
        return None;
    }
    serde_json::Deserializer::from_str(raw.get())
        .deserialize_bytes(Bytes)
        .ok()
}

fn form(text: &str, charset: Charset) -> Fields {
    let mut fields = Fields::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.insert(decode(name, charset), Value::Text(decode(value, charset)));
    }
    fields
}

fn decode(encoded: &str, charset: Charset) -> String {
    let spaced = encoded.replace('+', " ");
    let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(&spaced).into();
    charset.decode(&decoded).into_owned()
}

/// A JSON object as written, with repeated names. Values stay unparsed, so that a deeply nested or invalid value in
/// an unused field does not fail the message.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
