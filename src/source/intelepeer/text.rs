//! From the fields of a verified body to a text.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::message::Media;
use crate::number::Number;
use crate::source::Incoming;

use super::body::{Fields, Value};
use super::{Refusal, malformed};

/// The longest `refid`, in bytes: four times what the provider documents.
const REFID_MAX: usize = 128;

/// Bounds of what is kept of unknown fields: of one, in bytes with its name; of all; and their number.
const EXTRA_EACH_MAX: usize = 4 * 1024;
const EXTRA_ALL_MAX: usize = 16 * 1024;
const EXTRA_COUNT_MAX: usize = 64;

/// Reads a text; whatever is not understood is kept beside it.
pub(super) fn read(mut fields: Fields) -> Result<Incoming, Refusal> {
    // The secret itself, perhaps: it must not be kept.
    fields.take("signature");
    let provider_id = refid(&mut fields)?;
    let from = number(&mut fields, "from")?;
    let to = number(&mut fields, "to")?;
    let attached = Attached::read(fields.take("media"));
    let text = message(fields.take("message"), attached.any)?;
    let extra = extra(fields, attached.odd);
    Ok(Incoming {
        provider_id,
        from,
        to,
        text,
        media: attached.media,
        extra,
    })
}

fn refid(fields: &mut Fields) -> Result<String, Refusal> {
    let refid = fields.take_text("refid")?;
    match refid.len() {
        0 => Err(malformed("`refid` is empty")),
        1..=REFID_MAX => Ok(refid),
        _ => Err(malformed(format!("`refid` is longer than {REFID_MAX} bytes"))),
    }
}

fn number(fields: &mut Fields, name: &str) -> Result<Number, Refusal> {
    Number::parse(&fields.take_text(name)?).map_err(|error| malformed(format!("`{name}` is {error}")))
}

/// A text may be empty, and absent only where there is something else to deliver.
fn message(value: Option<Value>, media: bool) -> Result<String, Refusal> {
    match value {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Json(raw)) if media && raw.get() == "null" => Ok(String::new()),
        Some(Value::Json(_)) => Err(malformed("`message` must be a string")),
        None if media => Ok(String::new()),
        None => Err(malformed("`message` is missing")),
    }
}

/// `media`, in the shape the provider documents for outbound messages; for inbound it documents none.
#[derive(Default)]
struct Attached {
    media: Vec<Media>,
    /// Whether anything is attached, understood or not.
    any: bool,
    /// The field as received, when an entry says more than is understood.
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

/// One attachment, and whether that is all its entry says.
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

/// Unknown fields, within bounds: nobody must be able to fill the store with what no reader wants.
fn extra(fields: Fields, media: Option<Value>) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    let (mut size, mut dropped) = (0, 0_usize);
    let media = media.map(|value| ("media".to_owned(), value));
    for (name, value) in media.into_iter().chain(fields.rest()) {
        let json = value.into_json();
        let this = name.len() + json.len();
        if this > EXTRA_EACH_MAX || size + this > EXTRA_ALL_MAX || kept.len() == EXTRA_COUNT_MAX {
            dropped += 1;
            continue;
        }
        size += this;
        kept.insert(name, json);
    }
    if dropped > 0 {
        tracing::debug!(
            dropped,
            "unknown fields of a webhook were too many or too long to keep"
        );
    }
    kept
}
