//! The form in which Twilio posts messages, and SignalWire after it: its fields, the answer it wants, and how it is
//! composed.

use http::StatusCode;

use super::fields::Form;
use super::{Events, Incoming, Outcome, Reply, Sample};
use crate::message::{Keyword, Media};

/// Far more attachments than either carrier allows.
const MEDIA_MAX: usize = 50;

/// Fields that are read, or that repeat what is read. Others are kept.
const KNOWN: &[&str] = &[
    "ApiVersion",
    "Body",
    "From",
    "MessageSid",
    "MessageStatus",
    "NumMedia",
    "NumSegments",
    "OptOutType",
    "SmsMessageSid",
    "SmsSid",
    "SmsStatus",
    "To",
];

/// Reads a verified form. Calls and delivery statuses that come to the same URL are no messages; anything else is one,
/// however odd.
pub(super) fn read(form: &Form<'_>) -> Events {
    let id = ["MessageSid", "SmsSid", "SmsMessageSid"]
        .into_iter()
        .find_map(|name| form.filled(name));
    let media = media(form);
    let has_content = form.get("Body").is_some() || !media.is_empty();
    let status = form.filled("MessageStatus").or_else(|| form.filled("SmsStatus"));
    if !has_content && status.is_some_and(|status| !matches!(status, "received" | "receiving")) {
        return Events::status();
    }
    if !has_content && id.is_none() {
        return Events::ignored();
    }
    let (channel, from) = without_channel(form.get("From").unwrap_or_default());
    let (_, to) = without_channel(form.get("To").unwrap_or_default());
    let mut message = Incoming::new(
        id.unwrap_or_default(),
        from,
        to,
        form.get("Body").unwrap_or_default(),
    );
    message.media = media;
    message.segments = form.get("NumSegments").and_then(|count| count.parse().ok());
    message.keyword = form.get("OptOutType").and_then(keyword);
    message.extra = form.extra(|name| KNOWN.contains(&name) || name.starts_with("Media"));
    if let Some(channel) = channel {
        let json = serde_json::Value::from(channel).to_string();
        message.extra.insert("channel".to_owned(), json);
    }
    for name in ["MessageSid", "From", "To"] {
        if form.filled(name).is_none() && !(name == "MessageSid" && id.is_some()) {
            message.odd.push(format!("no `{name}`"));
        }
    }
    Events::message(message)
}

/// `whatsapp:+13035550100` is a number on another channel than SMS.
pub(super) fn without_channel(address: &str) -> (Option<&str>, &str) {
    match address.split_once(':') {
        Some((channel, number)) if number.starts_with('+') => (Some(channel), number),
        _ => (None, address),
    }
}

/// What the carrier recognised as an opt-out word.
fn keyword(word: &str) -> Option<Keyword> {
    match word {
        "STOP" => Some(Keyword::Stop),
        "START" => Some(Keyword::Start),
        "HELP" => Some(Keyword::Help),
        _ => None,
    }
}

fn media(form: &Form<'_>) -> Vec<Media> {
    let count = form.get("NumMedia").and_then(|count| count.parse().ok());
    let indices = 0..count.unwrap_or(0).min(MEDIA_MAX);
    let one = |index| {
        Some(Media {
            link: form.filled(&format!("MediaUrl{index}"))?.to_owned(),
            content_type: form
                .filled(&format!("MediaContentType{index}"))
                .map(str::to_owned),
            filename: None,
        })
    };
    indices.filter_map(one).collect()
}

/// The document that makes the carrier do nothing. Any other text in an answer could be sent to the sender as a message.
pub(super) fn reply(outcome: &Outcome<'_>) -> Reply {
    match outcome {
        Outcome::Stored(_) => Reply {
            status: StatusCode::OK,
            content_type: Some("text/xml"),
            body: "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>".into(),
        },
        Outcome::Refused(_) | Outcome::Failing(_) => Reply::plain(outcome),
    }
}

/// The form of a message.
pub(super) fn compose(sample: &Sample<'_>) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("MessageSid", sample.provider_id),
            ("SmsSid", sample.provider_id),
            ("SmsStatus", "received"),
            ("From", sample.from),
            ("To", sample.to),
            ("Body", sample.text),
            ("NumMedia", "0"),
            ("NumSegments", "1"),
        ])
        .finish()
}
