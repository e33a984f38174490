//! The Bandwidth source: messaging callbacks, one or several events in a list.
//!
//! Follows [Messaging webhooks]. `basic_auth` is required: Bandwidth does not sign requests, so these credentials are the
//! only proof of origin. It repeats an event for 24 hours unless the answer is a success, so every event that is read is
//! answered with one.
//!
//! [Messaging webhooks]: https://dev.bandwidth.com/docs/messaging/webhooks

use deserr::Deserr;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Composed, Context, Defaults, Events, Incoming, Kind, Refusal, Request, Sample, Settings, Source, fields,
};
use crate::model::lint::{self, Lint};
use crate::model::message::Media;
use crate::model::setting::Errors;

/// `[source.NAME]` with `kind = "bandwidth"`. `basic_auth` is one of the common keys.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn lints(&self, settings: &Settings, _: bool) -> Vec<Lint> {
        let auth = settings.access.basic_auth.as_ref();
        let example = auth.and_then(|auth| auth.password.find(lint::example_secret));
        let lint = example.map(|message| Lint::new("basic_auth.password", message));
        lint.into_iter().collect()
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        if context.settings.access.basic_auth.is_none() {
            return Err(
                "`basic_auth` is missing: Bandwidth does not sign requests, so these credentials are the only proof of origin"
                    .to_owned(),
            );
        }
        Ok(Box::new(Bandwidth))
    }
}

/// The callbacks of one application.
struct Bandwidth;

impl Source for Bandwidth {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        let mut events = Events::default();
        let list = match serde_json::from_slice(request.body) {
            Ok(Value::Array(list)) => list,
            Ok(one @ Value::Object(_)) => vec![one],
            _ => return Ok(Events::message(Incoming::unreadable(request.body))),
        };
        for event in list {
            match serde_json::from_value(event.clone()) {
                Ok(event) => classify(event, &mut events),
                Err(_) => events
                    .messages
                    .push(Incoming::unreadable(event.to_string().as_bytes())),
            }
        }
        Ok(events)
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let body = json!([{
            "type": "message-received",
            "time": sample.now.to_string(),
            "description": "Incoming message received",
            "to": sample.to,
            "message": {
                "id": sample.provider_id,
                "time": sample.now.to_string(),
                "to": [sample.to],
                "from": sample.from,
                "text": sample.text,
                "owner": sample.to,
                "direction": "in",
                "segmentCount": sample.segments().len(),
            },
        }]);
        Ok(Composed::post(
            "application/json; charset=utf-8",
            body.to_string(),
        ))
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    to: Value,
    #[serde(default)]
    time: Value,
    message: Option<Map<String, Value>>,
}

/// Adds an event to those of the request. An incoming message of an unknown type is a message, too.
fn classify(event: Event, events: &mut Events) {
    let outgoing = |message: &Map<String, Value>| {
        matches!(message.get("direction").and_then(Value::as_str), Some("out"))
    };
    let is_incoming =
        |message: &Map<String, Value>| message.contains_key("text") || message.contains_key("media");
    match (event.kind.as_str(), event.message) {
        ("message-sending" | "message-sent" | "message-delivered" | "message-failed" | "message-read", _) => {
            events.statuses += 1;
        }
        (_, Some(message)) if outgoing(&message) => events.statuses += 1,
        ("message-received" | "suggestion-response" | "requested-location-response", message) => {
            let message = message.unwrap_or_default();
            events
                .messages
                .push(read(&event.kind, &event.to, event.time, message));
        }
        (_, Some(message)) if is_incoming(&message) => {
            events
                .messages
                .push(read(&event.kind, &event.to, event.time, message));
        }
        _ => events.ignored += 1,
    }
}

/// Parses an incoming message. In a group, every number of the operator gets an event of its own, and `owner` is that
/// number.
fn read(kind: &str, event_to: &Value, event_time: Value, mut message: Map<String, Value>) -> Incoming {
    let mut take = |name: &str| message.remove(name).unwrap_or_default();
    let (id, from, owner, text) = (take("id"), take("from"), take("owner"), take("text"));
    let (media, segments, time) = (take("media"), take("segmentCount"), take("time"));
    let all_to = take("to");
    let to = [&owner, event_to]
        .into_iter()
        .chain(all_to.as_array().into_iter().flatten())
        .find_map(|number| number.as_str().filter(|number| !number.is_empty()))
        .unwrap_or_default();
    let media: Vec<Media> = media
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(medium)
        .collect();
    let content = ["suggestionResponse", "locationResponse", "content"];
    let has_content =
        !text.is_null() || !media.is_empty() || content.iter().any(|name| message.contains_key(*name));
    let text = match text {
        Value::Null => message
            .get("suggestionResponse")
            .and_then(|response| response.get("text"))
            .cloned()
            .map(fields::text)
            .unwrap_or_default(),
        text => fields::text(text),
    };
    let mut incoming = Incoming::new(fields::text(id), &fields::text(from), to, text);
    incoming.note_missing(&[
        ("id", incoming.provider_id.is_empty()),
        ("from", incoming.from.raw().is_empty()),
        ("owner", to.is_empty()),
        ("text", !has_content),
    ]);
    incoming.media = media;
    incoming.segments = segments.as_u64().and_then(|count| count.try_into().ok());
    let time = if time.is_null() { event_time } else { time };
    incoming.sent_at = time.as_str().and_then(|time| time.parse().ok());
    let is_group = all_to.as_array().is_some_and(|all| all.len() > 1);
    let group = is_group.then(|| ("to".to_owned(), all_to));
    let unusual = (kind != "message-received").then(|| ("type".to_owned(), Value::from(kind)));
    let rest = message.into_iter().filter(|(_, value)| !value.is_null());
    incoming.set_extra(group.into_iter().chain(unusual).chain(rest));
    incoming
}

/// A link, or an object with a link.
fn medium(entry: &Value) -> Option<Media> {
    let link = entry.get("url").or_else(|| entry.get("fileUrl")).unwrap_or(entry);
    Some(Media {
        link: link.as_str().filter(|link| !link.is_empty())?.to_owned(),
        content_type: None,
        filename: None,
    })
}
