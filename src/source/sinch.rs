//! The Sinch source: callbacks of the SMS API and of the Conversation API, on the same path.
//!
//! Follows [SMS callbacks] and [Conversation callbacks]. Sinch repeats a request that is answered with 5xx for almost
//! 23 hours, and never one that is answered with another 4xx than 429. Whether a repeated request is signed again is
//! not documented, so the signed time may be as old as the last repetition.
//!
//! [SMS callbacks]: https://developers.sinch.com/docs/sms/api-reference/sms/tag/Webhooks/
//! [Conversation callbacks]: https://developers.sinch.com/docs/conversation/callbacks/

use std::time::Duration;

use deserr::Deserr;
use serde_json::{Map, Value, json};

use super::fields::{JSON, medium};
use super::verify::window::REPEATED;
use super::verify::{Hmac, Window};
use super::{
    Composed, Context, Defaults, Events, Incoming, Kind, Refusal, Request, Sample, Settings, Source, fields,
};
use crate::model::lint::{self, Lint};
use crate::model::message::Media;
use crate::model::secret::Secrets;
use crate::model::setting::Errors;

const SIGNATURE: &str = "x-sinch-webhook-signature";
const NONCE: &str = "x-sinch-webhook-signature-nonce";
const TIMESTAMP: &str = "x-sinch-webhook-signature-timestamp";
const ALGORITHM: &str = "x-sinch-webhook-signature-algorithm";

/// `[source.NAME]` with `kind = "sinch"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The secret of the webhook, if its requests are signed.
    #[deserr(default)]
    pub secret: Option<Secrets>,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn lints(&self, _: &Settings, exposed: bool) -> Vec<Lint> {
        let secret = self.secret.as_ref().filter(|_| exposed);
        let weak = secret.and_then(|secrets| secrets.find(lint::weak_secret));
        let lint = weak.map(|message| Lint::new("secret", message));
        lint.into_iter().collect()
    }

    fn replay_window(&self) -> Option<Duration> {
        self.secret.as_ref().map(|_| REPEATED)
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        if self.secret.is_none() && context.settings.access.basic_auth.is_none() {
            return Err(
                "`secret` is missing: the secret of the webhook (or `basic_auth`, if Sinch does not sign)"
                    .to_owned(),
            );
        }
        Ok(Box::new(Sinch(self.secret.clone())))
    }
}

/// The callbacks of one service plan or app; with the secrets, if they are signed.
struct Sinch(Option<Secrets>);

impl Source for Sinch {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        if let Some(keys) = &self.0 {
            verify(keys, request)?;
        }
        Ok(read(request.body))
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let (from, to) = sample.bare_numbers();
        let body = json!({
            "id": sample.provider_id,
            "from": from,
            "to": to,
            "type": "mo_text",
            "body": sample.text,
            "received_at": sample.now.to_string(),
        })
        .to_string();
        let Some(keys) = &self.0 else {
            return Ok(Composed::post(JSON, body));
        };
        let (nonce, time) = (sample.provider_id, (sample.now.0 / 1000).to_string());
        let parts: [&[u8]; 5] = [body.as_bytes(), b".", nonce.as_bytes(), b".", time.as_bytes()];
        let signature = Hmac::SHA256_BASE64.simulate(keys, &parts)?;
        Composed::post(JSON, body).with([
            (SIGNATURE, signature.as_str()),
            (NONCE, nonce),
            (TIMESTAMP, &time),
            (ALGORITHM, "HmacSHA256"),
        ])
    }
}

/// Checks the signature over the body, the nonce and the time.
///
/// # Errors
/// 403, or 503 if only the time is wrong: Sinch never repeats what is answered with 403.
fn verify(keys: &Secrets, request: &Request<'_>) -> Result<(), Refusal> {
    let (Some(signature), Some(nonce), Some(time)) = (
        request.header(SIGNATURE),
        request.header(NONCE),
        request.header(TIMESTAMP),
    ) else {
        return Err(Refusal::forbidden());
    };
    let parts: [&[u8]; 5] = [request.body, b".", nonce.as_bytes(), b".", time.as_bytes()];
    if !Hmac::SHA256_BASE64.verify(keys.all(), &parts, signature) {
        return Err(Refusal::forbidden());
    }
    Window(REPEATED).check_seconds(time, request.now)
}

/// Parses a verified body.
fn read(body: &[u8]) -> Events {
    let Ok(mut document) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return Events::message(Incoming::unreadable(body));
    };
    if let Some(Value::Object(message)) = document.get_mut("message").map(Value::take) {
        return conversation(message, document);
    }
    let kind = document.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_report = |name: &str| document.contains_key(name);
    if kind.contains("delivery_report") || is_report("message_delivery_report") {
        return Events::status();
    }
    if kind.starts_with("mo_") || (document.contains_key("body") && document.contains_key("from")) {
        return Events::message(sms(document));
    }
    Events::ignored()
}

/// A message of the SMS API. `body` is a string, or an object for a message with attachments.
fn sms(mut rest: Map<String, Value>) -> Incoming {
    let mut take = |name: &str| rest.remove(name).unwrap_or_default();
    let (id, from, to, body) = (take("id"), take("from"), take("to"), take("body"));
    let (received_at, sent_at) = (take("received_at"), take("sent_at"));
    if rest.get("type").and_then(Value::as_str) == Some("mo_text") {
        rest.remove("type");
    }
    let has_body = !body.is_null();
    let (text, media) = match body {
        Value::Object(mut parts) => {
            let (text, list) = (parts.remove("message"), parts.remove("media"));
            rest.extend(parts);
            (
                text.map(fields::text).unwrap_or_default(),
                list.unwrap_or_default(),
            )
        }
        other => (fields::text(other), Value::Null),
    };
    let mut incoming = Incoming::new(fields::text(id), &fields::text(from), &fields::text(to), text);
    let entries = media.as_array().cloned().unwrap_or_default();
    incoming.media = entries.iter().filter_map(medium).collect();
    // An attachment that Sinch could not store has no link: its entry is kept as it is.
    let failed: Vec<Value> = entries
        .into_iter()
        .filter(|entry| medium(entry).is_none())
        .collect();
    if !failed.is_empty() {
        incoming
            .odd
            .push(format!("attachments without a link: {}", failed.len()));
        rest.insert("media".to_owned(), Value::Array(failed));
    }
    let time = if sent_at.is_null() { received_at } else { sent_at };
    finish(incoming, &time, has_body, rest)
}

/// A message of the Conversation API. `document` is the event around it.
fn conversation(mut message: Map<String, Value>, mut document: Map<String, Value>) -> Events {
    if message.get("direction").and_then(Value::as_str) == Some("TO_CONTACT") {
        return Events::status();
    }
    let mut take = |name: &str| message.remove(name).unwrap_or_default();
    let (id, ours, mut content) = (take("id"), take("sender_id"), take("contact_message"));
    let (mut identity, accepted) = (take("channel_identity"), take("accept_time"));
    let mut part = |kind: &str, name: &str| {
        let fields = content.get_mut(kind).and_then(Value::as_object_mut);
        fields.and_then(|fields| fields.remove(name)).unwrap_or_default()
    };
    let (plain, caption) = (part("text_message", "text"), part("media_message", "text"));
    let (link, thumbnail) = (
        part("media_message", "url"),
        part("media_message", "thumbnail_url"),
    );
    let text = [plain, caption].into_iter().find(|text| !text.is_null());
    let from = identity.get_mut("identity").map(Value::take).unwrap_or_default();
    let mut incoming = Incoming::new(
        fields::text(id),
        &fields::text(from),
        &fields::text(ours),
        text.clone().map(fields::text).unwrap_or_default(),
    );
    let link = Some(fields::text(link)).filter(|link| !link.is_empty());
    incoming.media.extend(link.map(|link| Media {
        link,
        content_type: None,
        filename: None,
    }));
    let has_content = text.is_some() || !incoming.media.is_empty();
    if let Some(channel) = identity.get_mut("channel").map(Value::take) {
        message.insert("channel".to_owned(), channel);
    }
    if !thumbnail.is_null() {
        message.insert("thumbnail_url".to_owned(), thumbnail);
    }
    if let Some(fields) = content.as_object_mut() {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        fields.retain(|_, value| !is_empty(value));
    }
    if content.as_object().is_none_or(|fields| !fields.is_empty()) {
        message.insert("contact_message".to_owned(), content);
    }
    for name in ["message_metadata", "correlation_id"] {
        let value = document.remove(name);
        message.extend(value.map(|value| (name.to_owned(), value)));
    }
    message.remove("direction");
    let event_time = document.remove("event_time").unwrap_or_default();
    let time = if event_time.is_null() {
        accepted
    } else {
        event_time
    };
    Events::message(finish(incoming, &time, has_content, message))
}

/// Adds the time and the fields that were not used, and names those that are missing.
fn finish(mut incoming: Incoming, time: &Value, has_text: bool, rest: Map<String, Value>) -> Incoming {
    incoming.note_missing(&[
        ("id", incoming.provider_id.is_empty()),
        ("from", incoming.from.raw().is_empty()),
        ("to", incoming.to.raw().is_empty()),
        ("text", !has_text),
    ]);
    incoming.sent_at = time.as_str().and_then(|time| time.parse().ok());
    let is_filled = |value: &Value| !value.is_null() && value.as_str() != Some("");
    incoming.set_extra(rest.into_iter().filter(|(_, value)| is_filled(value)));
    incoming
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName};

    use super::*;
    use crate::model::message::Timestamp;

    const NOW: i64 = 1_767_268_800;
    const SMS: &str = r#"{"body":"Hello Sinch","from":"16051234567","id":"01XXXXX21XXXXX119Z8P1XXXXX","operator_id":"310260","received_at":"2026-01-01T12:00:00.000Z","to":"13185551234","type":"mo_text"}"#;

    /// The status of the refusal; 0 without one.
    fn status(key: &str, signature: &str, seconds: i64, body: &'static str) -> u16 {
        let headers: HeaderMap = [
            (SIGNATURE, signature),
            (NONCE, "01FJA8B4A7BM43YGWSG9GBV067"),
            (TIMESTAMP, "1767268800"),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
        let body = Bytes::from_static(body.as_bytes());
        let keys = Secrets::from(["another", key]);
        let request = Request {
            now: Timestamp(seconds * 1000),
            ..Request::post([192, 0, 2, 1].into(), &headers, &body)
        };
        let refusal = verify(&keys, &request).err();
        refusal.map_or(0, |refusal| refusal.status.as_u16())
    }

    /// Created by Sinch's own library.
    #[test]
    fn a_signature_is_valid_while_sinch_repeats_the_request() {
        let (key, right) = ("sinch_app_secret", "nyiJ/JoSsi6Wa0DyPFds+bbqZUKBmh+ZEJq6VUUSI0w=");
        assert_eq!(status(key, right, NOW, SMS), 0);
        assert_eq!(status(key, right, NOW + 23 * 3600, SMS), 0);
        assert_eq!(status(key, right, NOW + 3 * 86400, SMS), 503);
        assert_eq!(status(key, right, NOW - 3 * 86400, SMS), 503);
        assert_eq!(status("sinch_app_secre", right, NOW, SMS), 403);
        assert_eq!(status(key, right, NOW + 3 * 86400, "{}"), 403);
        assert_eq!(status(key, "AAAA", NOW, SMS), 403);
        assert_eq!(status(key, "", NOW, SMS), 403);
    }
}
