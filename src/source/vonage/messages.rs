//! Incoming messages of the Messages API: JSON, with a token whose claims contain the digest of the body.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::model::secret::Secrets;
use crate::source::fields::{JSON, medium};
use crate::source::verify::jwt::{self, Claims};
use crate::source::verify::window::REPEATED;
use crate::source::verify::{Algorithm, Window, signing_key};
use crate::source::{Composed, Events, Incoming, Refusal, Request, Sample, fields};

/// The webhook of one application, with the signature secrets of its account.
pub(super) struct Messages(pub(super) Secrets);

/// The types whose content has a link.
const LINKED: &[&str] = &["image", "audio", "video", "file", "vcard", "sticker"];

impl Messages {
    /// Checks the token and the digest of the body in it. The libraries of Vonage leave the digest to the caller.
    ///
    /// # Errors
    /// 403; 503 if only the time is wrong, and for a request without a token: Vonage documents that it may send one in
    /// rare cases, and that it signs the next attempt.
    pub(super) fn verify(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let Some(authorization) = request.header(AUTHORIZATION.as_str()) else {
            let cause = "it has no token; Vonage repeats such a request with one";
            return Err(Refusal::retry("unsigned", cause));
        };
        let token = jwt::bearer(authorization).unwrap_or_default();
        let claims = Claims::verified(token, self.0.all());
        let claims = claims.filter(|claims| claims.has_digest("payload_hash", request.body));
        let claims = claims.ok_or_else(Refusal::forbidden)?;
        claims.check_time(request.now)?;
        let issued = claims.time("iat")?.ok_or_else(Refusal::forbidden)?;
        Window(REPEATED).check(issued, request.now)
    }

    /// Simulates Vonage.
    pub(super) fn simulate(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let (from, to) = sample.bare_numbers();
        let body = json!({
            "channel": "sms",
            "message_uuid": sample.provider_id,
            "to": to,
            "from": from,
            "timestamp": sample.now.to_string(),
            "message_type": "text",
            "text": sample.text,
            "sms": { "num_messages": sample.segments().len().to_string() },
        })
        .to_string();
        let claims = json!({
            "iat": sample.now.0 / 1000,
            "jti": sample.provider_id,
            "iss": "Vonage",
            "payload_hash": hex::encode(sha2::Sha256::digest(&body)),
        });
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            encode(json!({ "alg": "HS256", "typ": "JWT" })),
            encode(claims)
        );
        let key = signing_key(&self.0)?;
        let mac = Algorithm::Sha256.mac(key.reveal().as_bytes(), &[signed.as_bytes()]);
        let token = format!(
            "Bearer {signed}.{}",
            URL_SAFE_NO_PAD.encode(mac.unwrap_or_default())
        );
        Composed::post(JSON, body).with([("authorization", token)])
    }
}

/// Parses a verified body. Delivery statuses have a URL of their own at Vonage, but may be sent to this one. Anything else
/// with the id of a message is one.
pub(super) fn read(body: &[u8]) -> Events {
    let Ok(mut document) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return Events::message(Incoming::unreadable(body));
    };
    lift_content(&mut document);
    let has = |name: &str| document.contains_key(name);
    if !has("message_type") && has("status") {
        return Events::status();
    }
    if !has("message_type") && !has("text") && !has("message_uuid") {
        return Events::ignored();
    }
    let mut take = |name: &str| document.remove(name).unwrap_or_default();
    let (id, from, to, text) = (take("message_uuid"), take("from"), take("to"), take("text"));
    let (time, kind, sms) = (take("timestamp"), take("message_type"), take("sms"));
    let kind = kind.as_str().unwrap_or_default();
    let content = document.get(kind);
    let medium = content.filter(|_| LINKED.contains(&kind)).and_then(medium);
    let caption = content
        .and_then(|content| content.get("caption"))
        .and_then(Value::as_str);
    let has_text = !text.is_null() || medium.is_some() || content.is_some();
    let text = match text {
        Value::Null => caption.unwrap_or_default().to_owned(),
        text => fields::text(text),
    };
    let mut incoming = Incoming::new(fields::text(id), &party(from), &party(to), text);
    let segments = sms.get("num_messages").cloned().map(fields::text);
    incoming.segments = segments.and_then(|count| count.parse().ok());
    incoming.sent_at = time.as_str().and_then(|time| time.parse().ok());
    incoming.note_missing(&[
        ("message_uuid", incoming.provider_id.is_empty()),
        ("from", incoming.from.raw().is_empty()),
        ("to", incoming.to.raw().is_empty()),
        ("text", !has_text),
    ]);
    if medium.is_some() {
        document.remove(kind);
    }
    incoming.media.extend(medium);
    let kind = (!matches!(kind, "" | "text")).then(|| ("message_type".to_owned(), Value::from(kind)));
    let rest = document.into_iter().filter(|(_, value)| !value.is_null());
    incoming.set_extra(kind.into_iter().chain(rest));
    Events::message(incoming)
}

/// Converts a body of version 0.1 to the form of version 1: `message.content` has the type and what belongs to it.
fn lift_content(document: &mut Map<String, Value>) {
    let message = document.get_mut("message").and_then(Value::as_object_mut);
    let Some(Value::Object(mut content)) = message.and_then(|message| message.remove("content")) else {
        return;
    };
    if let Some(kind) = content.remove("type") {
        content.insert("message_type".to_owned(), kind);
    }
    if document
        .get("message")
        .and_then(Value::as_object)
        .is_some_and(Map::is_empty)
    {
        document.remove("message");
    }
    for (name, value) in content {
        document.entry(name).or_insert(value);
    }
}

/// A number or an id, or an object with one.
fn party(mut party: Value) -> String {
    let inner = ["number", "id"]
        .into_iter()
        .find_map(|name| party.get_mut(name).map(Value::take));
    fields::text(inner.unwrap_or(party))
}
