//! The Telnyx source: messaging webhooks signed with Ed25519.
//!
//! Follows [Receiving webhooks]. Telnyx waits two seconds for a response and tries three times. After a longer
//! outage, failed webhooks are listed in Telnyx' portal.
//!
//! [Receiving webhooks]: https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks

use deserr::Deserr;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::verify::{Ed25519, Window};
use super::{Composed, Context, Defaults, Events, Incoming, Kind, Refusal, Request, Sample, Source, fields};
use crate::model::message::Keyword;
use crate::model::setting::Errors;

/// `[source.NAME]` with `kind = "telnyx"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The account's public key, in base64.
    pub public_key: String,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn build(&self, _: &Context<'_>) -> Result<Box<dyn Source>, String> {
        let key = Ed25519::read(&self.public_key).map_err(|error| format!("`public_key` {error}"))?;
        Ok(Box::new(Telnyx(key)))
    }
}

/// The webhook of one Telnyx account.
struct Telnyx(Ed25519);

impl Source for Telnyx {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        self.verify(request)?;
        Ok(read(request.body))
    }

    fn compose(&self, _: &Sample<'_>) -> Result<Composed, String> {
        Err(
            "Telnyx signs with a private key that only Telnyx has: send a message to the number instead"
                .to_owned(),
        )
    }
}

impl Telnyx {
    /// # Errors
    /// 403, or 503 if only the signed time is wrong.
    fn verify(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let (Some(time), Some(signature)) = (
            request.header("telnyx-timestamp"),
            request.header("telnyx-signature-ed25519"),
        ) else {
            return Err(Refusal::forbidden());
        };
        let signed = [time.as_bytes(), b"|", request.body].concat();
        if !self.0.verify(&signed, signature) {
            return Err(Refusal::forbidden());
        }
        Window::default().check_seconds(time, request.now)
    }
}

#[derive(Deserialize)]
struct Webhook {
    data: Event,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    event_type: String,
    #[serde(default)]
    payload: Map<String, Value>,
}

/// Parses a verified body.
fn read(body: &[u8]) -> Events {
    let Ok(Webhook { data: event }) = serde_json::from_slice(body) else {
        return Events::message(Incoming::unreadable(body));
    };
    match event.event_type.as_str() {
        "message.received" => Events::message(message(event.payload)),
        kind if kind.starts_with("message.") => Events::status(),
        _ => Events::ignored(),
    }
}

fn message(mut payload: Map<String, Value>) -> Incoming {
    let mut take = |name: &str| payload.remove(name).unwrap_or_default();
    let (id, from, to, text, body) = (take("id"), take("from"), take("to"), take("text"), take("body"));
    let (media, parts, received_at) = (take("media"), take("parts"), take("received_at"));
    let keyword = take("autoresponse_type");
    let text = match text {
        Value::Null => body.get("text").cloned().map(fields::text),
        text => Some(fields::text(text)),
    };
    let (from, to) = (number(&from), receiver(&to));
    let mut incoming = Incoming::new(fields::text(id), from, to, text.clone().unwrap_or_default());
    let has_media = media.as_array().is_some_and(|media| !media.is_empty());
    incoming.note_missing(&[
        ("id", incoming.provider_id.is_empty()),
        ("from", from.is_empty()),
        ("to", to.is_empty()),
        ("text", text.is_none() && !has_media),
    ]);
    incoming.media = media
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(fields::medium)
        .collect();
    incoming.segments = parts.as_u64().and_then(|parts| parts.try_into().ok());
    incoming.sent_at = received_at.as_str().and_then(|time| time.parse().ok());
    incoming.keyword = match keyword.as_str() {
        Some("STOP") => Some(Keyword::Stop),
        Some("START") => Some(Keyword::Start),
        Some("HELP") => Some(Keyword::Help),
        _ => None,
    };
    let rest = payload.into_iter().filter(|(_, value)| !is_empty(value));
    incoming.set_extra(rest);
    incoming
}

/// `{"phone_number": …}`, or the number itself.
fn number(party: &Value) -> &str {
    let number = party.get("phone_number").unwrap_or(party);
    number.as_str().unwrap_or_default()
}

/// The recipient that is the operator's number: in a group, the one to which this webhook was delivered.
fn receiver(to: &Value) -> &str {
    let Some(all) = to.as_array() else {
        return number(to);
    };
    let ours = all.iter().find(|one| {
        let status = one.get("status").and_then(Value::as_str);
        status == Some("webhook_delivered")
    });
    ours.or_else(|| all.first()).map_or("", number)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}
