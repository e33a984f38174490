//! The body of a webhook as fields: JSON as documented, or a form.
//!
//! Nothing of a body is ever put into an error: errors go to the log and to whoever sent the request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, StatusCode, header};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;

use super::{Refusal, malformed};

/// Names that an error may repeat; any other is the sender's own words.
const KNOWN: [&str; 6] = ["refid", "from", "to", "message", "signature", "media"];

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Form,
}

impl Format {
    /// From `Content-Type`; without one, from the body's first character.
    pub(super) fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, Refusal> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            let json = without_mark(body).trim_ascii_start().starts_with(b"{");
            return Ok(if json { Self::Json } else { Self::Form });
        };
        let essence = value
            .as_bytes()
            .split(|&byte| byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Ok(Self::Json)
        } else if essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            Ok(Self::Form)
        } else {
            Err(Refusal {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                reason: "media_type",
                error: "Content-Type must be application/json or application/x-www-form-urlencoded"
                    .to_owned(),
            })
        }
    }

    pub(super) fn parse(self, body: &[u8]) -> Result<Fields, Refusal> {
        match self {
            Self::Json => json(without_mark(body)),
            Self::Form => form(body),
        }
    }
}

/// One field's value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A string.
    Text(String),
    /// Any other JSON, exactly as received.
    Json(Box<RawValue>),
}

impl Value {
    /// As JSON.
    pub(super) fn into_json(self) -> String {
        match self {
            Self::Text(text) => serde_json::Value::String(text).to_string(),
            Self::Json(json) => json.get().to_owned(),
        }
    }
}

/// The fields of one body, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// A string that must be there.
    pub(super) fn required_text(&self, name: &str) -> Result<&str, Refusal> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Ok(text),
            Some(Value::Json(_)) => Err(malformed(format!("`{name}` must be a string"))),
            None => Err(malformed(format!("`{name}` is missing"))),
        }
    }

    /// A string, or an empty one where there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.required_text(name).unwrap_or_default()
    }

    /// The same, and it is gone from the rest.
    pub(super) fn take_text(&mut self, name: &str) -> Result<String, Refusal> {
        let text = self.required_text(name)?.to_owned();
        self.take(name);
        Ok(text)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// What nobody took, in the order of the names.
    pub(super) fn rest(self) -> impl Iterator<Item = (String, Value)> {
        self.0.into_iter()
    }

    /// Refuses a second value: one reader would verify the first and another use the last.
    fn insert(&mut self, name: String, value: Value) -> Result<(), Refusal> {
        if self.0.contains_key(&name) {
            let shown = KNOWN.iter().find(|known| **known == name);
            let shown = shown.map_or(Cow::Borrowed("an unknown field"), |name| {
                Cow::Owned(format!("`{name}`"))
            });
            return Err(malformed(format!("{shown} appears more than once")));
        }
        self.0.insert(name, value);
        Ok(())
    }
}

fn json(body: &[u8]) -> Result<Fields, Refusal> {
    let Pairs(pairs) = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            malformed("the body must be a JSON object")
        } else {
            malformed(format!(
                "the body is not valid JSON: line {} column {}",
                error.line(),
                error.column()
            ))
        }
    })?;
    let mut fields = Fields::default();
    for (name, raw) in pairs {
        let value = text(&raw).map_or(Value::Json(raw), Value::Text);
        fields.insert(name, value)?;
    }
    Ok(fields)
}

/// The text of a JSON string. An unpaired surrogate is replaced: carriers cut long texts between the two
/// halves of an emoji, and such a text must not be lost for it.
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

fn form(body: &[u8]) -> Result<Fields, Refusal> {
    let mut fields = Fields::default();
    for pair in body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at(equals);
        fields.insert(
            decode(name)?,
            Value::Text(decode(value.strip_prefix(b"=").unwrap_or_default())?),
        )?;
    }
    Ok(fields)
}

fn decode(encoded: &[u8]) -> Result<String, Refusal> {
    let spaced: Vec<u8> = encoded
        .iter()
        .map(|&byte| if byte == b'+' { b' ' } else { byte })
        .collect();
    let decoded = percent_encoding::percent_decode(&spaced).collect();
    String::from_utf8(decoded).map_err(|_| malformed("the body is not a valid form: it is not UTF-8"))
}

/// The body without a byte order mark, which some .NET clients put before their JSON.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// A JSON object as it was written, with repeated names. Values stay raw: a deep or huge one that nobody
/// reads must not cost a text.
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
