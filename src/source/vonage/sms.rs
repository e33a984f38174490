//! Incoming messages of the SMS API: parameters in a query, a form or JSON.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value};

use super::signature::{self, Signature};
use crate::model::message::Timestamp;
use crate::source::fields::{self, FORM};
use crate::source::verify::Window;
use crate::source::verify::window::REPEATED;
use crate::source::{Composed, Events, Incoming, Part, Refusal, Request, Sample};

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

/// The parameters of a part.
const PART: [&str; 4] = ["concat", "concat-ref", "concat-total", "concat-part"];

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
    let form = request.form();
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
    /// 403, or 503 if only the time is wrong.
    pub(super) fn verify(&self, parameters: &Parameters, now: Timestamp) -> Result<(), Refusal> {
        let Some(signature) = &self.0 else {
            return Ok(());
        };
        let pairs = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        if !signature.verify(pairs) {
            return Err(Refusal::forbidden());
        }
        let time = parameters.get("timestamp");
        match time.filter(|time| time.parse::<i64>().is_ok()) {
            Some(time) => Window(REPEATED).check_seconds(time, now),
            None => Ok(()),
        }
    }

    /// Stores a body that cannot be parsed, if `basic_auth` or `allow_from` authenticated the caller.
    ///
    /// # Errors
    /// 403, if it had to be signed.
    pub(super) fn unreadable(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        match &self.0 {
            None => Ok(Events::message(Incoming::unreadable(request.body))),
            Some(_) => Err(Refusal::forbidden()),
        }
    }

    /// Simulates Vonage: a form, with the place of a part in its message.
    pub(super) fn simulate(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let seconds = (sample.now.0 / 1000).to_string();
        let (from, to) = sample.bare_numbers();
        let mut pairs = vec![
            ("msisdn", from),
            ("to", to),
            ("messageId", sample.provider_id),
            ("text", sample.text),
            ("type", "text"),
            ("timestamp", &seconds),
            ("nonce", sample.provider_id),
        ];
        let numbers = sample
            .part
            .map(|part| (part.number.to_string(), part.total.to_string()));
        if let (Some(part), Some((number, total))) = (sample.part, &numbers) {
            pairs.extend(PART.into_iter().zip(["true", &part.reference, total, number]));
        }
        let sign = |signature: &Signature| signature.sign(pairs.iter().copied());
        let sig = self.0.as_ref().map(sign).transpose()?;
        pairs.extend(sig.as_deref().map(|sig| (signature::NAME, sig)));
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        Ok(Composed::post(FORM, form.extend_pairs(pairs).finish()))
    }
}

/// Parses verified parameters. Delivery receipts at the same URL are not messages; everything else with content or an
/// id is one, even with missing parameters. Vonage sends each part of a long message as a request of its own.
pub(super) fn read(mut parameters: Parameters) -> Events {
    let field = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let has_content = ["text", "data"].iter().any(|name| parameters.contains_key(*name));
    let is_receipt = ["status", "err-code"]
        .iter()
        .any(|name| parameters.contains_key(*name));
    if !has_content && is_receipt {
        return Events::status();
    }
    if !has_content && !parameters.contains_key("messageId") {
        return Events::ignored();
    }
    // The content of a binary message stays in hexadecimal digits.
    let text = ["text", "data"]
        .into_iter()
        .map(field)
        .find(|text| !text.is_empty());
    let text = text.unwrap_or_default();
    let mut message = Incoming::new(field("messageId"), field("msisdn"), field("to"), text);
    message.sent_at = sent_at(field("message-timestamp"));
    message.note_missing(&[
        ("messageId", field("messageId").is_empty()),
        ("msisdn", field("msisdn").is_empty()),
        ("to", field("to").is_empty()),
        ("text", !has_content),
    ]);
    message.part = part(field);
    if message.part.is_some() {
        parameters.retain(|name, _| !PART.contains(&name.as_str()));
    }
    if parameters.get("type").is_some_and(|kind| kind == "text") {
        parameters.remove("type");
    }
    let rest = parameters
        .into_iter()
        .filter(|(name, value)| !value.is_empty() && !KNOWN.contains(&name.as_str()));
    message.set_extra(rest.map(|(name, value)| (name, Value::from(value))));
    Events::message(message)
}

/// The place in a long message. Parameters that make no sense stay unknown fields of a message of its own.
fn part<'a>(field: impl Fn(&str) -> &'a str) -> Option<Part> {
    let [is_part, reference, total, number] = PART.map(field);
    let (number, total) = (number.parse().ok()?, total.parse().ok()?);
    (is_part == "true").then(|| Part::new(reference.to_owned(), number, total))?
}

/// `2026-01-01 12:00:00`, in UTC.
fn sent_at(text: &str) -> Option<Timestamp> {
    let local: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp(zoned.timestamp().as_millisecond()))
}
