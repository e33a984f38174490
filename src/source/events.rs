//! The messages and other events that a source reads from a request.

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;

use super::fields;
use crate::model::message::{Keyword, Media, Timestamp};
use crate::model::number::Number;

/// The content of a verified request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The messages. All of them must be stored before the request is answered.
    pub messages: Vec<Incoming>,
    /// The number of delivery statuses of messages sent through the carrier.
    pub statuses: usize,
    /// The number of other events.
    pub ignored: usize,
    /// URL to fetch before the request is acknowledged.
    pub confirm: Option<Url>,
}

impl Events {
    /// A single message.
    #[must_use]
    pub fn message(message: Incoming) -> Self {
        Self {
            messages: vec![message],
            ..Self::default()
        }
    }

    /// A single delivery status.
    #[must_use]
    pub fn status() -> Self {
        Self {
            statuses: 1,
            ..Self::default()
        }
    }

    /// A single event that is not a message.
    #[must_use]
    pub fn ignored() -> Self {
        Self {
            ignored: 1,
            ..Self::default()
        }
    }
}

/// A message as the carrier sent it, before it has an id of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The carrier's id of the message.
    pub provider_id: String,
    /// Sender: a number or a name.
    pub from: Number,
    /// Recipient.
    pub to: Number,
    /// The message body; may be empty.
    pub text: String,
    /// Attachments.
    pub media: Vec<Media>,
    /// Unknown fields, as JSON text by name.
    pub extra: BTreeMap<String, String>,
    /// The opt-out keyword that the carrier recognised. If the carrier reports none, [`Endpoint`](super::Endpoint) checks the body.
    pub keyword: Option<Keyword>,
    /// The number of SMS parts, if the carrier reports it.
    pub segments: Option<u32>,
    /// The time of sending, if the carrier reports it.
    pub sent_at: Option<Timestamp>,
    /// Its place in a long message, if the carrier sends the parts of those one by one.
    pub part: Option<Part>,
    /// Unusual properties of the request, for the log. Contains no message content.
    pub odd: Vec<String>,
}

/// The place of a part in a long message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The carrier's reference, the same for all parts.
    pub reference: String,
    /// From 1 to the total.
    pub number: u8,
    /// The number of parts.
    pub total: u8,
}

impl Part {
    /// `None` if this cannot be a part of several.
    #[must_use]
    pub fn new(reference: String, number: u8, total: u8) -> Option<Self> {
        let is_valid = total >= 2 && (1..=total).contains(&number) && (1..=64).contains(&reference.len());
        is_valid.then_some(Self {
            reference,
            number,
            total,
        })
    }
}

impl Incoming {
    /// A message without optional fields.
    #[must_use]
    pub fn new(provider_id: impl Into<String>, from: &str, to: &str, text: impl Into<String>) -> Self {
        Self {
            provider_id: fields::provider_id(provider_id.into()),
            from: Number::received(from),
            to: Number::received(to),
            text: text.into(),
            media: Vec::new(),
            extra: BTreeMap::new(),
            keyword: None,
            segments: None,
            sent_at: None,
            part: None,
            odd: Vec::new(),
        }
    }

    /// Notes the names of the fields that are absent.
    pub fn note_missing(&mut self, fields: &[(&str, bool)]) {
        let absent = fields.iter().filter(|(_, is_absent)| *is_absent);
        self.odd.extend(absent.map(|(name, _)| format!("no `{name}`")));
    }

    /// Keeps unknown fields up to a limit, and notes how many are beyond it: one of them may be the only content.
    pub fn set_extra(&mut self, unknown: impl IntoIterator<Item = (String, Value)>) {
        let unknown = unknown.into_iter();
        self.set_extra_json(unknown.map(|(name, value)| (name, value.to_string())));
    }

    /// Like the previous method, for fields that are already JSON text.
    pub fn set_extra_json(&mut self, unknown: impl Iterator<Item = (String, String)>) {
        let (kept, dropped) = fields::limited(unknown);
        self.extra = kept;
        if dropped > 0 {
            self.odd
                .push(format!("fields not kept, too long or too many: {dropped}"));
        }
    }

    /// A verified body in which no field could be parsed, stored as the body of a message so that people can read it.
    /// Its id is the digest of the body, so that retries are detected as duplicates.
    #[must_use]
    pub fn unreadable(body: &[u8]) -> Self {
        use sha2::Digest as _;
        let id = format!("sha256:{}", hex::encode(sha2::Sha256::digest(body)));
        Self {
            odd: vec!["no field could be read".to_owned()],
            ..Self::new(id, "", "", String::from_utf8_lossy(body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_too_long_is_noted() {
        let mut incoming = Incoming::new("1", "", "", "");
        let long = ("card".to_owned(), Value::from("x".repeat(5000)));
        incoming.set_extra([("type".to_owned(), Value::from("card")), long]);
        assert_eq!(incoming.extra.len(), 1);
        assert_eq!(incoming.odd, ["fields not kept, too long or too many: 1"]);
        incoming.set_extra([]);
        assert_eq!(incoming.odd.len(), 1);
    }
}
