//! Sources: verifies what a carrier posts and reads the messages in it.
//!
//! A source is synchronous and pure: it gets our own [`Request`], so it is tested without a server. A new carrier is
//! one new file with a `Config` that is a [`Kind`], and one line in [`KINDS`]. What all of them share is around it:
//! [`Endpoint`] checks the caller and applies the keys that every source has, and [`verify`] checks signatures.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;
use toml::de::ValueDeserializer;
use url::Url;

use crate::mask::Reason;
use crate::message::{Keyword, Media, MessageId, Name, Timestamp};
use crate::model::lint::Lint;
use crate::number::{BareDigits, Number};
use crate::resolver::Resolver;

pub use access::{Access, BasicAuth, networks};
pub use endpoint::{Endpoint, Settings};

mod access;
mod endpoint;
pub mod fields;
pub mod generic;
pub mod intelepeer;
mod signalwire;
mod telnyx;
mod twilio;
mod twilio_form;
pub mod verify;

/// The kinds of sources, each with what reads its part of the configuration.
pub const KINDS: &[Registered] = &[
    Registered::new::<generic::Config>("generic"),
    Registered::new::<intelepeer::Config>("intelepeer"),
    Registered::new::<signalwire::Config>("signalwire"),
    Registered::new::<telnyx::Config>("telnyx"),
    Registered::new::<twilio::Config>("twilio"),
];

/// One kind of source.
pub struct Registered {
    /// `kind` in the configuration.
    pub name: &'static str,
    /// Reads what the kind adds to the keys of every source.
    pub read: fn(ValueDeserializer<'_>) -> Result<Box<dyn Kind>, toml::de::Error>,
}

impl Registered {
    const fn new<K: Kind + DeserializeOwned>(name: &'static str) -> Self {
        Self {
            name,
            read: |section| Ok(Box::new(K::deserialize(section)?)),
        }
    }
}

/// The part of `[source.NAME]` that only one kind has.
pub trait Kind: Any + fmt::Debug + Send + Sync {
    /// What applies where the operator sets nothing.
    fn defaults(&self) -> Defaults {
        Defaults::default()
    }

    /// What is legal and probably a mistake. `exposed` says that other machines can post to the source.
    fn lints(&self, settings: &Settings, exposed: bool) -> Vec<Lint> {
        let _ = (settings, exposed);
        Vec::new()
    }

    /// Returns true if the carrier always sends a short code with its country: `1-1234`.
    fn names_countries(&self) -> bool {
        false
    }

    /// The carrier's side of the numbers, if the configuration names them and `server.public_url`.
    ///
    /// # Errors
    /// A sentence for the operator, without the source's name.
    fn upstream(&self, context: &Context<'_>) -> Result<Option<Box<dyn Upstream>>, String> {
        let _ = context;
        Ok(None)
    }

    /// Makes the source ready to run.
    ///
    /// # Errors
    /// A sentence for the operator, without the source's name.
    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String>;
}

/// What a kind of source sets for the keys that every source has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults {
    /// Bytes of one body; `server.max_body` otherwise.
    pub max_body: Option<usize>,
    /// How long a message id is remembered; `store.dedup_window` otherwise. Longer than the carrier retries.
    pub dedup_window: Option<Duration>,
    /// What digits without a plus mean.
    pub bare_digits: BareDigits,
}

/// What a kind of source needs from the rest of the configuration when it is built.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The source's name.
    pub name: &'a Name,
    /// Its path on `server.listen`.
    pub path: &'a str,
    /// `server.public_url`.
    pub public_url: Option<&'a Url>,
    /// The keys that every source has.
    pub settings: &'a Settings,
    /// Looks up the carrier's hosts.
    pub resolver: &'a Resolver,
}

impl Context<'_> {
    /// `server.public_url`, for a carrier that signs the URL it calls.
    ///
    /// # Errors
    /// A sentence for the operator when it is not set.
    pub fn signed_url(&self) -> Result<&Url, String> {
        self.public_url.ok_or_else(|| {
            "`server.public_url` is not set: the carrier signs the URL that it calls, so it must be known exactly"
                .to_owned()
        })
    }
}

/// A webhook request as a source sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The peer, or the client that a trusted proxy names.
    pub client: IpAddr,
    /// One of the source's [`Source::methods`].
    pub method: &'a Method,
    /// What was called.
    pub target: Target<'a>,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The whole body, already limited in size.
    pub body: &'a Bytes,
    /// The date and time.
    pub now: Timestamp,
    /// Whether `basic_auth` or `allow_from` has admitted the caller.
    pub admitted: bool,
}

impl<'a> Request<'a> {
    /// A POST without a URL and time of its own, for sources that look at neither.
    #[must_use]
    pub fn post(client: IpAddr, headers: &'a HeaderMap, body: &'a Bytes) -> Self {
        Self {
            client,
            method: &Method::POST,
            target: Target::default(),
            headers,
            body,
            now: Timestamp(0),
            admitted: false,
        }
    }

    /// A header field as text; nothing when it is absent or not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The URL of a request as the carrier called it: `server.public_url`, and the path and query as received, byte by byte.
/// Never the `Host` header, which anybody can choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// `server.public_url`.
    pub public_url: Option<&'a Url>,
    /// `/inbound/x?a=b`
    pub path_and_query: &'a str,
}

impl<'a> Target<'a> {
    /// What stands behind the `?`; empty where nothing does.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }
}

/// What a verified request brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Messages, all to be on disk before anything is answered.
    pub messages: Vec<Incoming>,
    /// Delivery statuses of messages that were sent through the carrier.
    pub statuses: usize,
    /// Other events.
    pub ignored: usize,
}

impl Events {
    /// One message.
    #[must_use]
    pub fn message(message: Incoming) -> Self {
        Self {
            messages: vec![message],
            ..Self::default()
        }
    }

    /// One delivery status.
    #[must_use]
    pub fn status() -> Self {
        Self {
            statuses: 1,
            ..Self::default()
        }
    }

    /// One event that is no message.
    #[must_use]
    pub fn ignored() -> Self {
        Self {
            ignored: 1,
            ..Self::default()
        }
    }
}

/// A message as its carrier sent it, before the bridge gives it an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The carrier's id.
    pub provider_id: String,
    /// Sender: a number or a name.
    pub from: Number,
    /// Receiver.
    pub to: Number,
    /// The text; may be empty.
    pub text: String,
    /// Attachments.
    pub media: Vec<Media>,
    /// Unknown fields, as JSON text by name.
    pub extra: BTreeMap<String, String>,
    /// The opt-out word that the carrier recognised. Where it says nothing, [`Endpoint`] looks at the text.
    pub keyword: Option<Keyword>,
    /// The number of SMS parts, where the carrier says it.
    pub segments: Option<u32>,
    /// When it was sent, where the carrier says it.
    pub sent_at: Option<Timestamp>,
    /// What was unusual about the request, for the log: nothing of its content.
    pub odd: Vec<String>,
}

impl Incoming {
    /// A message without anything optional.
    #[must_use]
    pub fn new(provider_id: impl Into<String>, from: &str, to: &str, text: impl Into<String>) -> Self {
        Self {
            provider_id: fields::provider_id(provider_id.into()),
            from: Number::received(from),
            to: Number::received(to),
            text: text.into(),
            media: Vec::new(),
            extra: BTreeMap::new(),
            keyword: None,
            segments: None,
            sent_at: None,
            odd: Vec::new(),
        }
    }

    /// A verified body that no field could be read of, kept as the text: people may still read it. Its id is its digest,
    /// so that it is stored once however often it comes.
    #[must_use]
    pub fn unreadable(body: &[u8]) -> Self {
        use sha2::Digest as _;
        let id = format!("sha256:{}", hex::encode(sha2::Sha256::digest(body)));
        Self {
            odd: vec!["no field could be read".to_owned()],
            ..Self::new(id, "", "", String::from_utf8_lossy(body))
        }
    }
}

/// Why a request was refused. The words go to the carrier; none tells how close a guess was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx
    pub status: StatusCode,
    /// One word for metrics, of [`crate::metrics::REASONS`].
    pub reason: &'static str,
    /// For the JSON error.
    pub error: String,
}

impl Refusal {
    /// 400, in words that repeat nothing of the request.
    #[must_use]
    pub fn malformed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", error)
    }

    /// 401: missing or wrong credentials.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", REFUSED)
    }

    /// 403: wrong signature or address.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", REFUSED)
    }

    /// Any other.
    #[must_use]
    pub fn new(status: StatusCode, reason: &'static str, error: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            error: error.into(),
        }
    }
}

/// The same words for every cause, so that no answer tells how close a guess was.
const REFUSED: &str = "refused";

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id at the bridge.
    pub id: MessageId,
    /// Whether it was stored before.
    pub duplicate: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// It was verified and its messages are on disk; without a message it was ignored.
    Stored(&'a [Receipt]),
    /// Nothing of it was stored, and it should not come again.
    Refused(&'a Refusal),
    /// It could not be stored at the moment: the carrier should send it again. In words.
    Failing(&'a str),
}

/// What a carrier is answered. Some carriers act on the body, so a source decides every byte of it, for errors, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its `Content-Type`; none for an empty body.
    pub content_type: Option<&'static str>,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// A JSON document on a line.
    #[must_use]
    pub fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        Self {
            status,
            content_type: Some("application/json"),
            body: format!("{body}\n").into(),
        }
    }

    /// The answer for carriers that look only at the status; the body helps people who debug with curl.
    #[must_use]
    pub fn plain(outcome: &Outcome<'_>) -> Self {
        match *outcome {
            Outcome::Stored(receipts) => Self::json(StatusCode::OK, &stored(receipts)),
            Outcome::Refused(refusal) => Self::json(refusal.status, &json!({ "error": refusal.error })),
            Outcome::Failing(why) => Self::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": why })),
        }
    }
}

fn stored(receipts: &[Receipt]) -> serde_json::Value {
    match receipts.first() {
        Some(Receipt { id, duplicate: false }) => json!({ "status": "accepted", "id": id }),
        Some(Receipt { id, duplicate: true }) => json!({ "status": "duplicate", "id": id }),
        None => json!({ "status": "ignored" }),
    }
}

/// A message to be posted as the carrier would, to try a setup out.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The carrier's id.
    pub provider_id: &'a str,
    /// Sender.
    pub from: &'a str,
    /// Receiver.
    pub to: &'a str,
    /// The text.
    pub text: &'a str,
    /// The date and time.
    pub now: Timestamp,
}

/// A webhook ready to be sent.
#[derive(Clone, Debug)]
pub struct Composed {
    /// Its method.
    pub method: Method,
    /// What is added to the URL behind a `?`, if anything.
    pub query: Option<String>,
    /// Header fields, with credentials.
    pub headers: HeaderMap,
    /// The body, signed.
    pub body: Bytes,
}

/// One configured carrier.
///
/// `receive` must not keep, log or answer anything of an unverified request, and must return every verified
/// message, however odd.
pub trait Source: Send + Sync {
    /// The methods that the carrier calls with.
    fn methods(&self) -> &'static [Method] {
        const POST: &[Method] = &[Method::POST];
        POST
    }

    /// Verifies and reads one request.
    ///
    /// # Errors
    /// Why it is not believed or cannot be read.
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal>;

    /// The answer that the carrier wants.
    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        Reply::plain(outcome)
    }

    /// Plays the carrier: the request that [`Source::receive`] would accept for this message, without `basic_auth`.
    ///
    /// # Errors
    /// A sentence for the operator when only the carrier itself can sign.
    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String>;
}

/// How one number is at the carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberPoints {
    /// The number.
    pub number: Number,
    /// What is wrong and what to do; nothing when its messages come here.
    pub problem: Option<Reason>,
    /// Whether the carrier said so, or could not be asked.
    pub known: bool,
}

/// The carrier's side of the company's numbers: whether their messages still come here.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Asks the carrier about every number.
    async fn look(&self) -> Vec<NumberPoints>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_reply_tells_new_from_repeated() {
        let id: MessageId = "00000000000000000000000000000007".parse().unwrap();
        let refusal = Refusal::malformed("`from` is missing");
        let receipt = |duplicate| [Receipt { id, duplicate }];
        for (outcome, status, body) in [
            (
                Outcome::Stored(&receipt(false)),
                200,
                "{\"id\":\"00000000000000000000000000000007\",\"status\":\"accepted\"}\n",
            ),
            (
                Outcome::Stored(&receipt(true)),
                200,
                "{\"id\":\"00000000000000000000000000000007\",\"status\":\"duplicate\"}\n",
            ),
            (Outcome::Stored(&[]), 200, "{\"status\":\"ignored\"}\n"),
            (
                Outcome::Refused(&refusal),
                400,
                "{\"error\":\"`from` is missing\"}\n",
            ),
            (Outcome::Failing("again"), 503, "{\"error\":\"again\"}\n"),
        ] {
            let reply = Reply::plain(&outcome);
            assert_eq!(reply.status.as_u16(), status);
            assert_eq!(reply.body, body);
            assert_eq!(reply.content_type, Some("application/json"));
        }
    }
}
