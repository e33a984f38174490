//! Builds a message from the fields of a verified body. A verified body is never rejected because of unexpected
//! fields: the carrier would retry it a few times, and then the message would be lost.

use serde_json::value::RawValue;

use crate::model::message::Media;
use crate::source::Incoming;

use super::Refusal;
use super::body::{Fields, Value};

/// Fails unless the fields exist that every webhook of the provider has. For requests that are not verified; a
/// verified one is kept whatever fields it has.
pub(super) fn require(fields: &Fields) -> Result<(), Refusal> {
    let text = if fields.has("media") { "media" } else { "message" };
    let missing = ["refid", "from", "to", text]
        .into_iter()
        .find(|name| !fields.has(name));
    missing.map_or(Ok(()), |name| {
        Err(Refusal::malformed(format!("`{name}` is missing")))
    })
}

/// Returns true if there is a field that only a message has.
pub(super) fn is_message(fields: &Fields) -> bool {
    ["from", "to", "message", "media"]
        .iter()
        .any(|name| fields.has(name))
}

/// Parses a message. Fields that are not understood are kept as unknown fields.
pub(super) fn read(mut fields: Fields) -> Result<Incoming, Refusal> {
    // It may be the secret itself, so it must not be stored.
    fields.forget("signature");
    let mut odd = Vec::new();
    let mut take = |fields: &mut Fields, name: &str| {
        let text = fields.take_text(name);
        if text.is_none() {
            odd.push(format!("no `{name}`"));
        }
        text
    };
    let refid = take(&mut fields, "refid");
    let from = take(&mut fields, "from");
    let to = take(&mut fields, "to");
    let attached = Attached::read(fields.take("media"));
    let text = match attached.any {
        true => fields.take_text("message"),
        false => take(&mut fields, "message"),
    };
    let is_empty = [&refid, &from, &to, &text].iter().all(|field| field.is_none()) && !attached.any;
    let media = attached.odd.map(|value| ("media".to_owned(), value));
    let unknown = media.into_iter().chain(fields.rest());
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
    let mut incoming = Incoming {
        media: attached.media,
        odd,
        ..Incoming::new(refid.unwrap_or_default(), &from, &to, text.unwrap_or_default())
    };
    incoming.set_extra_json(unknown.map(|(name, value)| (name, value.into_json())));
    if is_empty && incoming.extra.is_empty() {
        return Err(Refusal::malformed("the body has no field of a message"));
    }
    Ok(incoming)
}

/// Stores a verified body from which no field could be parsed, so that people can still read it.
pub(super) fn unreadable(body: &str) -> Result<Incoming, Refusal> {
    if body.trim().is_empty() {
        return Err(Refusal::malformed("the body is empty"));
    }
    Ok(Incoming {
        odd: vec!["no field could be read".to_owned()],
        ..Incoming::new("", "", "", without_signature(body))
    })
}

/// The body without the values of `signature`, which may be the secret itself.
fn without_signature(body: &str) -> String {
    let lower = body.to_ascii_lowercase();
    let (mut kept, mut end) = (String::new(), 0);
    for (at, name) in lower.match_indices("signature") {
        if at < end {
            continue;
        }
        let (before, found) = body.split_at(at + name.len());
        kept.push_str(&before[end..]);
        let value = found.trim_start_matches(|c: char| c.is_whitespace() || "\":=>".contains(c));
        let ends: &[char] = match found[..found.len() - value.len()].chars().last() {
            Some('"') => &['"'],
            _ => &['&', ',', '}', '<', '"', '\n'],
        };
        kept.push_str("=***");
        end = body.len() - value.len() + value.find(ends).unwrap_or(value.len());
    }
    kept + &body[end..]
}

/// The field `media`, in the format that the provider documents for outbound messages. Nothing is documented for
/// inbound.
#[derive(Default)]
struct Attached {
    media: Vec<Media>,
    /// Whether there are attachments, including those that could not be parsed.
    any: bool,
    /// The field as received, if an entry contains more than was parsed.
    odd: Option<Value>,
}

impl Attached {
    fn read(value: Option<Value>) -> Self {
        let Some(value) = value else {
            return Self::default();
        };
        let entries: Option<Vec<Box<RawValue>>> = match &value {
            Value::Json(raw) => serde_json::from_str(raw.get()).ok(),
            Value::Text(_) => None,
        };
        let Some(entries) = entries else {
            return Self {
                odd: Some(value),
                ..Self::default()
            };
        };
        let read: Vec<_> = entries.iter().map(|entry| medium(entry)).collect();
        let all = read.iter().all(|entry| matches!(entry, Some((_, true))));
        let media = read.into_iter().flatten().map(|(medium, _)| medium).collect();
        Self {
            media,
            any: !entries.is_empty(),
            odd: (!all).then_some(value),
        }
    }
}

/// Parses one attachment. Returns true as well if the entry contains nothing else.
fn medium(entry: &RawValue) -> Option<(Media, bool)> {
    let entry: serde_json::Map<String, serde_json::Value> = serde_json::from_str(entry.get()).ok()?;
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned)
    };
    let link = text("link")?;
    let (content_type, filename) = (
        text("content-type").or_else(|| text("content_type")),
        text("filename"),
    );
    let understood = 1 + usize::from(content_type.is_some()) + usize::from(filename.is_some());
    Some((
        Media {
            link,
            content_type,
            filename,
        },
        understood == entry.len(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_signature_is_removed_from_a_body() {
        for (body, kept) in [
            (r#"{"signature": "a,b}", "x": 1"#, r#"{"signature=***", "x": 1"#),
            (r#"{"Signature":canary,"x":1"#, r#"{"Signature=***,"x":1"#),
            (
                "from=1&signature=canary&to=2&signature=canary",
                "from=1&signature=***&to=2&signature=***",
            ),
            (
                "name=\"signature\"\r\n\r\ncanary\r\n--x",
                "name=\"signature=***\n--x",
            ),
            ("<signature>canary</signature>", "<signature=***</signature=***"),
            ("signature", "signature=***"),
            ("signaturesignature=canary", "signature=***"),
            ("ÄÖÜ no such word", "ÄÖÜ no such word"),
        ] {
            assert_eq!(without_signature(body), kept, "{body}");
        }
    }
}
