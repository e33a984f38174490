//! The source for [SMS Gateway for Android](https://docs.sms-gate.app/features/webhooks/): a phone that posts the
//! messages of its SIM cards.
//!
//! The app repeats a request for about two days, and signs every attempt again. It may report one message in several
//! events, and its message id is a 32-bit hash, so a message is identified by device, sender and time as well.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use super::verify::{Hmac, Window};
use super::{
    Composed, Context, Defaults, Events, Incoming, Kind, Refusal, Request, Sample, Settings, Source, fields,
};
use crate::model::lint::{self, Lint};
use crate::model::number::BareDigits;
use crate::model::secret::Secrets;

const SIGNATURE: &str = "x-signature";
const TIMESTAMP: &str = "x-timestamp";

/// The largest `max_body` of the configuration: the app posts attachments within the body.
const MAX_BODY: usize = 1 << 20;

/// `[source.NAME]` with `kind = "android-sms-gateway"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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
        if self.is_signed(request) {
            Ok(read(request.body))
        } else {
            Err(Refusal::forbidden())
        }
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
        let key = self.0.all().first().ok_or("no key to sign with")?;
        let signature = Hmac::SHA256_HEX.sign(key, &[body.as_bytes(), time.as_bytes()]);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in [
            (SIGNATURE, signature.ok_or("no key to sign with")?),
            (TIMESTAMP, time),
        ] {
            let value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(Composed {
            method: Method::POST,
            query: None,
            headers,
            body: body.into(),
        })
    }
}

impl Gateway {
    fn is_signed(&self, request: &Request<'_>) -> bool {
        let (Some(time), Some(signature)) = (request.header(TIMESTAMP), request.header(SIGNATURE)) else {
            return false;
        };
        let parts: [&[u8]; 2] = [request.body, time.as_bytes()];
        Hmac::SHA256_HEX.verify(self.0.all(), &parts, signature) && Window::default().holds(time, request.now)
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
        event if event.starts_with("sms:") => Events::status(),
        _ => Events::ignored(),
    }
}

fn message(webhook: Webhook) -> Incoming {
    let Webhook {
        event,
        id,
        device,
        mut payload,
    } = webhook;
    let mut first = |names: &[&str]| {
        let found = names
            .iter()
            .find_map(|name| payload.remove(*name).filter(|value| !value.is_null()));
        found.map(fields::text)
    };
    let from = first(&["sender", "phoneNumber"]);
    let (recipient, time) = (first(&["recipient"]), first(&["receivedAt"]));
    let text = first(&["message", "body", "data"]);
    let sim = first(&["simNumber"]);
    let older = payload.remove("textMessage").unwrap_or_default();
    let text = text.or_else(|| older.get("text").cloned().map(fields::text));
    // A picture message that the phone has not downloaded has at most a subject.
    let text = text.or_else(|| payload.remove("subject").map(fields::text));
    let device = fields::text(device);
    let to = recipient.unwrap_or_else(|| match &sim {
        Some(sim) => format!("{device}/{sim}"),
        None => device.clone(),
    });
    let attachments = payload.remove("attachments").unwrap_or_default();
    let lost: Vec<String> = attachments
        .as_array()
        .into_iter()
        .flatten()
        .map(not_passed_on)
        .collect();
    let lines = text
        .clone()
        .into_iter()
        .filter(|text| !text.is_empty())
        .chain(lost.iter().cloned());
    let lines: Vec<String> = lines.collect();
    let from = from.unwrap_or_default();
    let message_id = payload
        .get("messageId")
        .cloned()
        .map(fields::text)
        .unwrap_or_default();
    let id = match &time {
        Some(time) if !message_id.is_empty() => digest(&[&event, &device, &message_id, time, &from]),
        _ => fields::text(id),
    };
    let mut incoming = Incoming::new(id, &from, &to, lines.join("\n"));
    incoming.sent_at = time.and_then(|time| time.parse().ok());
    for (name, absent) in [
        ("messageId", message_id.is_empty()),
        ("sender", from.is_empty()),
        ("message", text.is_none() && lost.is_empty()),
    ] {
        if absent {
            incoming.odd.push(format!("no `{name}`"));
        }
    }
    if !lost.is_empty() {
        incoming
            .odd
            .push(format!("{} attachments were not kept", lost.len()));
    }
    let device = (!device.is_empty()).then(|| ("deviceId".to_owned(), Value::from(device)));
    let sim = sim.map(|sim| ("simNumber".to_owned(), Value::from(sim)));
    let event = (event != "sms:received").then(|| ("event".to_owned(), Value::from(event)));
    let rest = payload.into_iter().filter(|(_, value)| !value.is_null());
    let rest = device.into_iter().chain(sim).chain(event).chain(rest);
    incoming.extra = fields::extra(rest.map(|(name, value)| (name, value.to_string())));
    incoming
}

/// The line for an attachment. Its content is in the webhook, and there is no link to pass on.
fn not_passed_on(attachment: &Value) -> String {
    let text = |name: &str| attachment.get(name).cloned().map(fields::text);
    let name = text("name").filter(|name| !name.is_empty());
    let kind = text("contentType").filter(|kind| !kind.is_empty());
    let size = text("size").filter(|size| !size.is_empty());
    let known = [name, kind, size.map(|size| format!("{size} bytes"))];
    let known: Vec<String> = known.into_iter().flatten().collect();
    format!("[attachment on the phone: {}]", known.join(", "))
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
