//! The source for [SMS Gateway for Android](https://docs.sms-gate.app/features/webhooks/): a phone that posts the
//! messages of its SIM cards.
//!
//! The app repeats a request for about two days, and signs every attempt again. It may report one message in several
//! events, and its message id is a 32-bit hash, so a message is identified by device, sender and time as well.

use deserr::Deserr;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use super::fields::JSON;
use super::verify::{Hmac, Window};
use super::{
    Composed, Context, Defaults, Events, Incoming, Kind, Refusal, Request, Sample, Settings, Source, fields,
};
use crate::model::lint::{self, Lint};
use crate::model::number::BareDigits;
use crate::model::secret::Secrets;
use crate::model::setting::Errors;

const SIGNATURE: &str = "x-signature";
const TIMESTAMP: &str = "x-timestamp";

/// The default of `max_body`: the app posts attachments within the body, and carriers allow a few MiB.
const MAX_BODY: usize = 8 << 20;

/// Events of messages that were sent.
const STATUSES: &[&str] = &["sms:sent", "sms:delivered", "sms:failed", "sms:cancelled"];

/// `[source.NAME]` with `kind = "android-sms-gateway"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The signing key from the app's settings.
    pub signing_key: Secrets,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults {
            max_body: Some(MAX_BODY),
            bare_digits: BareDigits::AsReceived,
            ..Defaults::default()
        }
    }

    fn lints(&self, _: &Settings, _: bool) -> Vec<Lint> {
        let example = self.signing_key.find(lint::example_secret);
        let lint = example.map(|message| Lint::new("signing_key", message));
        lint.into_iter().collect()
    }

    fn build(&self, _: &Context<'_>) -> Result<Box<dyn Source>, String> {
        Ok(Box::new(Gateway(self.signing_key.clone())))
    }
}

/// The webhooks of phones that share a signing key.
struct Gateway(Secrets);

impl Source for Gateway {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        self.verify(request)?;
        Ok(read(request.body))
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let body = json!({
            "deviceId": "simulated",
            "event": "sms:received",
            "id": sample.provider_id,
            "payload": {
                "messageId": sample.provider_id,
                "message": sample.text,
                "sender": sample.from,
                "recipient": sample.to,
                "simNumber": 1,
                "receivedAt": sample.now.to_string(),
            },
            "webhookId": "simulated",
        })
        .to_string();
        let time = (sample.now.0 / 1000).to_string();
        let signature = Hmac::SHA256_HEX.simulate(&self.0, &[body.as_bytes(), time.as_bytes()])?;
        Composed::post(JSON, body).with([(SIGNATURE, signature), (TIMESTAMP, time)])
    }
}

impl Gateway {
    /// # Errors
    /// 403, or 503 if only the signed time is wrong.
    fn verify(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let (Some(time), Some(signature)) = (request.header(TIMESTAMP), request.header(SIGNATURE)) else {
            return Err(Refusal::forbidden());
        };
        let parts: [&[u8]; 2] = [request.body, time.as_bytes()];
        if !Hmac::SHA256_HEX.verify(self.0.all(), &parts, signature) {
            return Err(Refusal::forbidden());
        }
        Window::default().check_seconds(time, request.now)
    }
}

#[derive(Deserialize)]
struct Webhook {
    event: String,
    #[serde(default)]
    id: Value,
    #[serde(rename = "deviceId", default)]
    device: Value,
    #[serde(default)]
    payload: Map<String, Value>,
}

/// Parses a verified body.
fn read(body: &[u8]) -> Events {
    let Ok(webhook) = serde_json::from_slice::<Webhook>(body) else {
        return Events::message(Incoming::unreadable(body));
    };
    match webhook.event.as_str() {
        "sms:received" | "sms:data-received" | "mms:received" | "mms:downloaded" => {
            Events::message(message(webhook))
        }
        event if STATUSES.contains(&event) => Events::status(),
        _ if has_message(&webhook.payload) => Events::message(message(webhook)),
        _ => Events::ignored(),
    }
}

/// Returns true if the payload of an unknown event has a sender or a message body.
fn has_message(payload: &Map<String, Value>) -> bool {
    let names = ["sender", "message", "body", "data", "textMessage"];
    let mut values = names.iter().filter_map(|name| payload.get(*name));
    values.any(|value| !value.is_null())
}

fn message(mut webhook: Webhook) -> Incoming {
    let payload = &mut webhook.payload;
    let (text, attachments) = (text(payload), attachments(payload));
    let from = take(payload, &["sender", "phoneNumber"]).unwrap_or_default();
    let (recipient, time) = (take(payload, &["recipient"]), take(payload, &["receivedAt"]));
    let sim = take(payload, &["simNumber"]);
    let device = fields::text(webhook.device.take());
    let to = recipient.unwrap_or_else(|| match &sim {
        Some(sim) => format!("{device}/{sim}"),
        None => device.clone(),
    });
    let message_id = payload.get("messageId").cloned().map(fields::text);
    let message_id = message_id.unwrap_or_default();
    let id = match &time {
        Some(time) if !message_id.is_empty() => digest(&[&webhook.event, &device, &message_id, time, &from]),
        _ => fields::text(webhook.id.take()),
    };
    let lines = text.iter().filter(|text| !text.is_empty()).chain(&attachments);
    let lines: Vec<&str> = lines.map(String::as_str).collect();
    let mut incoming = Incoming::new(id, &from, &to, lines.join("\n"));
    incoming.sent_at = time.and_then(|time| time.parse().ok());
    incoming.note_missing(&[
        ("messageId", message_id.is_empty()),
        ("sender", from.is_empty()),
        ("message", text.is_none() && attachments.is_empty()),
    ]);
    if !attachments.is_empty() {
        incoming
            .odd
            .push(format!("attachments not kept: {}", attachments.len()));
    }
    incoming.set_extra(unused(webhook, device, sim));
    incoming
}

/// Takes the first of these fields that is not null.
fn take(payload: &mut Map<String, Value>, names: &[&str]) -> Option<String> {
    let found = names
        .iter()
        .find_map(|name| payload.remove(*name).filter(|value| !value.is_null()));
    found.map(fields::text)
}

/// The message body, in the field of the event or of older versions. A picture message that the phone has not downloaded has at
/// most a subject.
fn text(payload: &mut Map<String, Value>) -> Option<String> {
    let older = payload.remove("textMessage").unwrap_or_default();
    let older = older.get("text").cloned().map(fields::text);
    let text = take(payload, &["message", "body", "data"]).or(older);
    text.or_else(|| payload.remove("subject").map(fields::text))
}

/// A line for each attachment.
fn attachments(payload: &mut Map<String, Value>) -> Vec<String> {
    let attachments = payload.remove("attachments").unwrap_or_default();
    let attachments = attachments.as_array().into_iter().flatten();
    attachments.map(attachment_note).collect()
}

/// The line for an attachment. Its content is in the webhook, and there is no link to pass on.
fn attachment_note(attachment: &Value) -> String {
    let text = |name: &str| attachment.get(name).cloned().map(fields::text);
    let name = text("name").filter(|name| !name.is_empty());
    let kind = text("contentType").filter(|kind| !kind.is_empty());
    let size = text("size").filter(|size| !size.is_empty());
    let known = [name, kind, size.map(|size| format!("{size} bytes"))];
    let known: Vec<String> = known.into_iter().flatten().collect();
    format!("[attachment on the phone: {}]", known.join(", "))
}

/// The fields to keep in addition to those of a message.
fn unused(webhook: Webhook, device: String, sim: Option<String>) -> impl Iterator<Item = (String, Value)> {
    let device = (!device.is_empty()).then(|| ("deviceId".to_owned(), Value::from(device)));
    let sim = sim.map(|sim| ("simNumber".to_owned(), Value::from(sim)));
    let event = webhook.event;
    let event = (event != "sms:received").then(|| ("event".to_owned(), Value::from(event)));
    let rest = webhook.payload.into_iter().filter(|(_, value)| !value.is_null());
    device.into_iter().chain(sim).chain(event).chain(rest)
}

/// The id of a message: the same for every report of it.
fn digest(parts: &[&str]) -> String {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    format!("sha256:{}", hex::encode(hasher.finalize()))
}
