//! The SNS envelope, and the message in it.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::message::Timestamp;
use crate::source::verify::{CertifiedKey, RsaHash};
use crate::source::{Events, Incoming, fields};

/// The body of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope {
    #[serde(rename = "Type")]
    pub(super) kind: String,
    pub(super) topic_arn: String,
    message_id: String,
    message: String,
    subject: Option<String>,
    timestamp: String,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    pub(super) subscribe_url: Option<String>,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    pub(super) signing_cert_url: String,
}

impl Envelope {
    /// Parses the body; `None` if it is not an SNS envelope.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Returns true if the signature over the fields is valid.
    pub(super) fn is_signed(&self, key: &CertifiedKey) -> bool {
        let hash = match self.signature_version.as_str() {
            "1" => RsaHash::Sha1,
            "2" => RsaHash::Sha256,
            _ => return false,
        };
        key.verify(hash, self.signed().as_bytes(), &self.signature)
    }

    /// The signed text: names and values of the fields on lines of their own, in this order.
    fn signed(&self) -> String {
        let is_notification = self.kind == "Notification";
        let of_subscription = |field: &'_ Option<String>| field.clone().filter(|_| !is_notification);
        let fields = [
            ("Message", Some(self.message.clone())),
            ("MessageId", Some(self.message_id.clone())),
            ("Subject", self.subject.clone().filter(|_| is_notification)),
            ("SubscribeURL", of_subscription(&self.subscribe_url)),
            ("Timestamp", Some(self.timestamp.clone())),
            ("Token", of_subscription(&self.token)),
            ("TopicArn", Some(self.topic_arn.clone())),
            ("Type", Some(self.kind.clone())),
        ];
        let lines = fields
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}\n{}\n", value?)));
        lines.collect()
    }

    /// When it was published; `None` if the time cannot be read.
    pub(super) fn time(&self) -> Option<Timestamp> {
        self.timestamp.parse().ok()
    }

    /// The message in a notification. Other publications to the topic are messages, too, with their whole content, except
    /// the statuses of messages that were sent.
    pub(super) fn events(self) -> Events {
        let sent_at = self.time();
        let Ok(mut inner) = serde_json::from_str::<Map<String, Value>>(&self.message) else {
            return Events::message(self.unknown(sent_at));
        };
        if !inner.contains_key("originationNumber") && !inner.contains_key("messageBody") {
            return match inner.get("eventType") {
                Some(Value::String(event)) if is_status(event) => Events::status(),
                _ => Events::message(self.unknown(sent_at)),
            };
        }
        let mut odd = Vec::new();
        let mut take = |name: &str| {
            let value = inner.remove(name).filter(|value| !value.is_null());
            if value.is_none() {
                odd.push(format!("no `{name}`"));
            }
            value.map(fields::text)
        };
        let id = take("inboundMessageId").filter(|id| !id.is_empty());
        let id = id.unwrap_or(self.message_id);
        let (from, to) = (take("originationNumber"), take("destinationNumber"));
        let text = take("messageBody");
        let mut incoming = Incoming::new(
            id,
            &from.unwrap_or_default(),
            &to.unwrap_or_default(),
            text.unwrap_or_default(),
        );
        incoming.odd = odd;
        incoming.sent_at = sent_at;
        let rest = inner.into_iter().filter(|(_, value)| !value.is_null());
        incoming.set_extra(rest);
        Events::message(incoming)
    }

    fn unknown(self, sent_at: Option<Timestamp>) -> Incoming {
        let mut incoming = Incoming::new(self.message_id, "", "", self.message);
        incoming
            .odd
            .push("not a message of AWS End User Messaging".to_owned());
        incoming.sent_at = sent_at;
        let subject = self
            .subject
            .map(|subject| ("Subject".to_owned(), Value::from(subject)));
        incoming.set_extra(subject);
        incoming
    }
}

/// Returns true for an [event of a sent message].
///
/// [event of a sent message]: https://docs.aws.amazon.com/sms-voice/latest/userguide/configuration-sets-event-types.html
fn is_status(event: &str) -> bool {
    ["TEXT_", "MEDIA_", "VOICE_"]
        .iter()
        .any(|prefix| event.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(message: &str) -> Events {
        let fields = [
            "Type",
            "TopicArn",
            "Timestamp",
            "SignatureVersion",
            "Signature",
            "SigningCertURL",
        ];
        let fields = fields.map(|name| (name.to_owned(), Value::from("x")));
        let mut body = Map::from_iter(fields);
        body.insert("MessageId".to_owned(), "22b80b92".into());
        body.insert("Message".to_owned(), message.into());
        Envelope::read(Value::from(body).to_string().as_bytes())
            .unwrap()
            .events()
    }

    #[test]
    fn only_a_known_event_without_content_is_a_status() {
        for status in ["TEXT_DELIVERED", "MEDIA_SENT", "VOICE_RINGING"] {
            let message = format!(r#"{{"eventType":"{status}","isFinal":true}}"#);
            assert_eq!(events(&message), Events::status(), "{status}");
        }
        for (message, text) in [
            (r#"{"eventType":"TEXT_DELIVERED","messageBody":"Hi"}"#, "Hi"),
            (r#"{"eventType":"ALARM"}"#, r#"{"eventType":"ALARM"}"#),
            (r#"{"eventType":1}"#, r#"{"eventType":1}"#),
        ] {
            let events = events(message);
            assert_eq!((events.statuses, events.messages.len()), (0, 1), "{message}");
            assert_eq!(events.messages[0].text, text);
        }
    }

    #[test]
    fn an_empty_id_is_replaced_by_the_id_of_the_publication() {
        let events = events(r#"{"messageBody":"Hi","inboundMessageId":""}"#);
        assert_eq!(events.messages[0].provider_id, "22b80b92");
    }
}
