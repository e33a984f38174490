//! Incoming messages of the Messages API: JSON, with a token whose claims contain the digest of the body.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use super::bare;
use crate::model::message::Media;
use crate::model::secret::Secrets;
use crate::source::verify::jwt::Claims;
use crate::source::verify::window::REPEATED;
use crate::source::verify::{Algorithm, Window};
use crate::source::{Composed, Events, Incoming, Refusal, Request, Sample, fields};

/// The webhook of one application, with the signature secrets of its account.
pub(super) struct Messages(pub(super) Secrets);

/// The types whose content has a link.
const LINKED: &[&str] = &["image", "audio", "video", "file", "vcard", "sticker"];

impl Messages {
    /// Checks the token and the digest of the body in it. The libraries of Vonage leave the digest to the caller.
    ///
    /// # Errors
    /// 403, or 503 for a request without a token: Vonage documents that it may send one in rare cases, and that it
    /// signs the next attempt.
    pub(super) fn verify(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let Some(authorization) = request.header(AUTHORIZATION.as_str()) else {
            let words = "not signed, send it again";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "forbidden", words));
        };
        let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
        let claims = Claims::verified(token, self.0.all(), request.now);
        let is_valid = claims.is_some_and(|claims| {
            let issued = claims.time("iat").map(|seconds| seconds.to_string());
            claims.has_digest("payload_hash", request.body)
                && issued.is_none_or(|seconds| Window(REPEATED).holds(&seconds, request.now))
        });
        if is_valid {
            Ok(())
        } else {
            Err(Refusal::forbidden())
        }
    }

    /// Simulates Vonage.
    pub(super) fn simulate(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let body = json!({
            "channel": "sms",
            "message_uuid": sample.provider_id,
            "to": bare(sample.to),
            "from": bare(sample.from),
            "timestamp": sample.now.to_string(),
            "message_type": "text",
            "text": sample.text,
            "sms": { "num_messages": "1" },
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
        let key = self.0.all().first().ok_or("no key to sign with")?;
        let mac = Algorithm::Sha256.mac(key.reveal().as_bytes(), &[signed.as_bytes()]);
        let token = format!(
            "Bearer {signed}.{}",
            URL_SAFE_NO_PAD.encode(mac.unwrap_or_default())
        );
        let token = HeaderValue::from_str(&token).map_err(|error| error.to_string())?;
        let media_type = HeaderValue::from_static("application/json");
        Ok(Composed {
            method: Method::POST,
            query: None,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, media_type), (AUTHORIZATION, token)]),
            body: body.into(),
        })
    }
}

/// Parses a verified body. Delivery statuses have a URL of their own at Vonage, but may be sent to this one.
pub(super) fn read(body: &[u8]) -> Events {
    let Ok(mut document) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return Events::message(Incoming::unreadable(body));
    };
    if !document.contains_key("message_type") && document.contains_key("status") {
        return Events::status();
    }
    if !document.contains_key("message_type") && !document.contains_key("text") {
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
    for (name, absent) in [
        ("message_uuid", incoming.provider_id.is_empty()),
        ("from", incoming.from.raw().is_empty()),
        ("to", incoming.to.raw().is_empty()),
        ("text", !has_text),
    ] {
        if absent {
            incoming.odd.push(format!("no `{name}`"));
        }
    }
    if medium.is_some() {
        document.remove(kind);
    }
    incoming.media.extend(medium);
    let kind = (!matches!(kind, "" | "text")).then(|| ("message_type".to_owned(), Value::from(kind)));
    let rest = document.into_iter().filter(|(_, value)| !value.is_null());
    let rest = kind.into_iter().chain(rest);
    incoming.extra = fields::extra(rest.map(|(name, value)| (name, value.to_string())));
    Events::message(incoming)
}

/// A number or an id, or an object with one.
fn party(mut party: Value) -> String {
    let inner = ["number", "id"]
        .into_iter()
        .find_map(|name| party.get_mut(name).map(Value::take));
    fields::text(inner.unwrap_or(party))
}

fn medium(content: &Value) -> Option<Media> {
    let text = |name: &str| content.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Media {
        link: text("url").filter(|link| !link.is_empty())?,
        content_type: None,
        filename: text("name"),
    })
}
