//! The parts that Twilio and its compatible API at SignalWire have in common: the form of a message, the response,
//! the simulated request, and the check of a signature against each possible URL.

use http::Method;
use url::Url;

use super::fields::{FORM, Form};
use super::verify::url_form::{self, Repeated};
use super::verify::{Hmac, other_url};
use super::{
    BasicAuth, Composed, Context, Events, Incoming, Outcome, Refusal, Reply, Request, Sample, Target,
};
use crate::model::message::{Keyword, Media};
use crate::model::secret::Secret;

/// The methods that both carriers can be configured to use.
pub(super) const METHODS: &[Method] = &[Method::POST, Method::GET];

/// Upper bound of the attachments; both carriers allow far fewer.
const MEDIA_MAX: usize = 50;

/// Fields that are parsed or that repeat a parsed one. Other fields are kept as unknown fields.
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

/// The webhook of one account: its URL and how the carrier signs its fields.
pub(super) struct Webhook {
    public_url: Url,
    path: String,
    basic_auth: Option<BasicAuth>,
    repeated: Repeated,
}

impl Webhook {
    /// A webhook whose carrier signs repeated fields in this way.
    ///
    /// # Errors
    /// A sentence for the operator when `server.public_url` is not set.
    pub(super) fn new(context: &Context<'_>, repeated: Repeated) -> Result<Self, String> {
        Ok(Self {
            public_url: context.signed_url()?.clone(),
            path: context.path.to_owned(),
            basic_auth: context.settings.access.basic_auth.clone(),
            repeated,
        })
    }

    /// The part of the signed text that comes from the fields of a form.
    pub(super) fn signed_fields(&self, form: &Form<'_>) -> String {
        url_form::fields(form, self.repeated)
    }

    /// Checks a signature over the URL of the request, followed by `signed`, under any of the keys.
    ///
    /// # Errors
    /// 403 when it is invalid, or valid for another URL.
    pub(super) fn verify(
        &self,
        request: &Request<'_>,
        (hmac, keys): (Hmac, &[Secret]),
        signed: &[u8],
        signature: &str,
    ) -> Result<(), Refusal> {
        let urls = url_form::urls(&request.target, self.basic_auth.as_ref());
        // All URLs are tried, so that the time does not depend on which one matches.
        let is_signed = |url: &str| hmac.verify(keys, &[url.as_bytes(), signed], signature);
        if urls.iter().fold(false, |found, url| is_signed(url) | found) {
            Ok(())
        } else {
            Err(other_url::refusal(request, self.basic_auth.as_ref(), is_signed))
        }
    }

    /// Simulates the carrier. `sign` gets the parts to sign and returns the header fields of the signature.
    ///
    /// # Errors
    /// When there is no key, or a value that cannot be in a header field.
    pub(super) fn compose(
        &self,
        sample: &Sample<'_>,
        sign: impl FnOnce(&[&[u8]]) -> Option<Vec<(&'static str, String)>>,
    ) -> Result<Composed, String> {
        let body = compose(sample);
        let signed = self.signed_fields(&Form::read(body.as_bytes()));
        let target = Target {
            public_url: Some(&self.public_url),
            path_and_query: &self.path,
        };
        let url = url_form::urls(&target, None)
            .into_iter()
            .next()
            .unwrap_or_default();
        let signature = sign(&[url.as_bytes(), signed.as_bytes()]).ok_or("no key to sign with")?;
        Composed::post(FORM, body).with(signature)
    }
}

/// Parses a verified form. Calls and delivery statuses that are sent to the same URL are not messages; everything
/// else is one, even with missing fields.
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
    let channel = channel.map(|channel| ("channel".to_owned(), channel.into()));
    let unknown = form.unknown(|name| KNOWN.contains(&name) || name.starts_with("Media"));
    message.set_extra(channel.into_iter().chain(unknown));
    message.note_missing(&[
        ("MessageSid", id.is_none()),
        ("From", form.filled("From").is_none()),
        ("To", form.filled("To").is_none()),
    ]);
    Events::message(message)
}

/// Splits the channel from an address such as `whatsapp:+13035550100`.
pub(super) fn without_channel(address: &str) -> (Option<&str>, &str) {
    match address.split_once(':') {
        Some((channel, number)) if number.starts_with('+') => (Some(channel), number),
        _ => (None, address),
    }
}

/// The opt-out keyword that the carrier recognised.
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

/// The response that triggers no action. The carrier could send any other text back to the sender as a message.
pub(super) fn reply(outcome: &Outcome<'_>) -> Reply {
    let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>";
    Reply::fixed(outcome, "text/xml", body)
}

/// The form of a message, for a simulated request.
fn compose(sample: &Sample<'_>) -> String {
    let segments = sample.segments().len().to_string();
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("MessageSid", sample.provider_id),
            ("SmsSid", sample.provider_id),
            ("SmsStatus", "received"),
            ("From", sample.from),
            ("To", sample.to),
            ("Body", sample.text),
            ("NumMedia", "0"),
            ("NumSegments", &segments),
        ])
        .finish()
}
