//! Incoming messages of the SMS API: parameters in a query, a form or JSON.

use std::collections::BTreeMap;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value};

use super::bare;
use super::signature::{self, Signature};
use crate::model::message::Timestamp;
use crate::source::fields::{self, Form};
use crate::source::verify::Window;
use crate::source::verify::window::REPEATED;
use crate::source::{Composed, Events, Incoming, Refusal, Request, Sample};

/// The webhook of one account; with the signature, if the account signs.
pub(super) struct Sms(pub(super) Option<Signature>);

/// The parameters of a request by name.
pub(super) type Parameters = BTreeMap<String, String>;

/// Parameters that are parsed, that repeat a parsed one, or that prove the request. Other ones are kept as unknown
/// fields.
const KNOWN: &[&str] = &[
    "data",
    "keyword",
    "message-timestamp",
    "messageId",
    "msisdn",
    "nonce",
    "sig",
    "text",
    "timestamp",
    "to",
];

/// Reads the parameters; `None` if the body is neither JSON nor a form.
pub(super) fn parameters(request: &Request<'_>) -> Option<Parameters> {
    if request.method != Method::GET && fields::is_json(request.headers, request.body) {
        let object: Map<String, Value> = serde_json::from_slice(request.body).ok()?;
        return Some(
            object
                .into_iter()
                .map(|(name, value)| (name, fields::text(value)))
                .collect(),
        );
    }
    let is_get = request.method == Method::GET;
    let encoded = if is_get {
        request.target.query().as_bytes()
    } else {
        request.body
    };
    let form = Form::read(encoded);
    let pairs = form.pairs().iter();
    Some(
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    )
}

impl Sms {
    /// Checks the signature, and that its time is not older than the last repetition of a request.
    ///
    /// # Errors
    /// 403
    pub(super) fn verify(&self, parameters: &Parameters, now: Timestamp) -> Result<(), Refusal> {
        let Some(signature) = &self.0 else {
            return Ok(());
        };
        let time = parameters
            .get("timestamp")
            .filter(|time| time.parse::<i64>().is_ok());
        let in_time = time.is_none_or(|time| Window(REPEATED).holds(time, now));
        let pairs = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        if signature.verify(pairs) && in_time {
            Ok(())
        } else {
            Err(Refusal::forbidden())
        }
    }

    /// Keeps a body without parameters if something else shows that it is Vonage's.
    ///
    /// # Errors
    /// 403, if it had to be signed.
    pub(super) fn unreadable(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        match &self.0 {
            None => Ok(Events::message(Incoming::unreadable(request.body))),
            Some(_) => Err(Refusal::forbidden()),
        }
    }

    /// Simulates Vonage: a form.
    pub(super) fn simulate(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let seconds = (sample.now.0 / 1000).to_string();
        let mut pairs = vec![
            ("msisdn", bare(sample.from)),
            ("to", bare(sample.to)),
            ("messageId", sample.provider_id),
            ("text", sample.text),
            ("type", "text"),
            ("timestamp", &seconds),
            ("nonce", sample.provider_id),
        ];
        let sig = match &self.0 {
            Some(signature) => Some(
                signature
                    .sign(pairs.iter().copied())
                    .ok_or("no key to sign with")?,
            ),
            None => None,
        };
        pairs.extend(sig.as_deref().map(|sig| (signature::NAME, sig)));
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        Ok(Composed {
            method: Method::POST,
            query: None,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, media_type)]),
            body: form.extend_pairs(pairs).finish().into(),
        })
    }
}

/// Parses verified parameters. Delivery receipts at the same URL are not messages; everything else with content or an
/// id is one, even with missing parameters.
pub(super) fn read(mut parameters: Parameters) -> Events {
    let content = ["text", "data"]
        .into_iter()
        .find(|name| parameters.contains_key(*name));
    let is_receipt = ["status", "err-code"]
        .iter()
        .any(|name| parameters.contains_key(*name));
    if content.is_none() && is_receipt {
        return Events::status();
    }
    if content.is_none() && !parameters.contains_key("messageId") {
        return Events::ignored();
    }
    let field = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    // The content of a binary message stays in hexadecimal digits.
    let text = content.map(field).unwrap_or_default();
    let text = match part(&parameters) {
        Some(mark) => format!("{mark} {text}"),
        None => text.to_owned(),
    };
    let mut message = Incoming::new(field("messageId"), field("msisdn"), field("to"), text);
    message.sent_at = sent_at(field("message-timestamp"));
    for name in ["messageId", "msisdn", "to", "text"] {
        let is_missing = if name == "text" {
            content.is_none()
        } else {
            field(name).is_empty()
        };
        if is_missing {
            message.odd.push(format!("no `{name}`"));
        }
    }
    if field("type") == "text" {
        parameters.remove("type");
    }
    let rest = parameters
        .into_iter()
        .filter(|(name, value)| !value.is_empty() && !KNOWN.contains(&name.as_str()));
    message.extra = fields::extra(rest.map(|(name, value)| (name, Value::from(value).to_string())));
    Events::message(message)
}

/// The mark of one part of a long message. Vonage sends each part as a request of its own.
fn part(parameters: &Parameters) -> Option<String> {
    let number = |name: &str| parameters.get(name)?.parse::<u32>().ok();
    let (part, total) = (number("concat-part")?, number("concat-total")?);
    let reference: String = parameters
        .get("concat-ref")?
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(16)
        .collect();
    let is_part = parameters.get("concat").is_some_and(|concat| concat == "true");
    is_part.then(|| format!("(part {part} of {total}, reference {reference})"))
}

/// `2026-01-01 12:00:00`, in UTC.
fn sent_at(text: &str) -> Option<Timestamp> {
    let local: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp(zoned.timestamp().as_millisecond()))
}
