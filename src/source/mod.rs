//! Sources: verify the requests of a carrier and parse the messages in them.
//!
//! A source is synchronous and pure: it reads our own [`Request`], so it is tested without a server. A new carrier is
//! one new file with a `Config` that implements [`Kind`], and one line in [`KINDS`]. Everything common is done
//! elsewhere: [`Endpoint`] checks the caller and applies the common keys, and [`verify`] checks signatures.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deserr::Deserr;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use crate::mask::Reason;
use crate::model::lint::Lint;
use crate::model::message::{Name, Timestamp};
use crate::model::number::{BareDigits, Number};
use crate::model::registry::Registered;
use crate::model::setting::{self, Errors};
use crate::resolver::Resolver;

pub use access::{Access, BasicAuth};
pub use endpoint::{Endpoint, Settings};
pub use events::{Events, Incoming, Part};
pub use reply::{Outcome, Receipt, Refusal, Reply};
pub use request::{Request, Target};

mod access;
mod android_sms_gateway;
mod aws_sns;
mod bandwidth;
mod endpoint;
mod events;
pub mod fields;
pub mod generic;
pub mod intelepeer;
mod plivo;
mod reply;
mod request;
mod segments;
mod signalwire;
mod sinch;
mod telnyx;
mod twilio;
mod twilio_form;
mod twilio_list;
pub mod verify;
mod vonage;

/// The registered kinds of sources.
pub const KINDS: &[Registered<dyn Kind>] = &[
    register::<android_sms_gateway::Config>("android-sms-gateway"),
    register::<aws_sns::Config>("aws-sns"),
    register::<bandwidth::Config>("bandwidth"),
    register::<generic::Config>("generic"),
    register::<intelepeer::Config>("intelepeer"),
    register::<plivo::Config>("plivo"),
    register::<signalwire::Config>("signalwire"),
    register::<sinch::Config>("sinch"),
    register::<telnyx::Config>("telnyx"),
    register::<twilio::Config>("twilio"),
    register::<vonage::Config>("vonage"),
];

/// Registers a kind of source by its name in the configuration.
const fn register<K: Kind + Deserr<Errors>>(name: &'static str) -> Registered<dyn Kind> {
    Registered {
        name,
        read: |section| Ok(Box::new(setting::read::<K>(section)?)),
    }
}

/// The part of `[source.NAME]` that belongs to one kind.
pub trait Kind: Any + fmt::Debug + Send + Sync {
    /// The defaults for keys that the operator leaves out.
    fn defaults(&self) -> Defaults {
        Defaults::default()
    }

    /// Settings that are legal but probably a mistake. `exposed` means that other machines can post to the source.
    fn lints(&self, settings: &Settings, exposed: bool) -> Vec<Lint> {
        let _ = (settings, exposed);
        Vec::new()
    }

    /// How long a recorded request is accepted again, if its carrier repeats requests without signing them again. Within
    /// this time only the deduplication prevents a replay.
    fn replay_window(&self) -> Option<Duration> {
        None
    }

    /// Returns true if the carrier always prefixes a short code with its country: `1-1234`.
    fn names_countries(&self) -> bool {
        false
    }

    /// The carrier's configuration of the numbers, if the source names numbers and `server.public_url` is set.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the source.
    fn upstream(&self, context: &Context<'_>) -> Result<Option<Box<dyn Upstream>>, String> {
        let _ = context;
        Ok(None)
    }

    /// The carrier's list of received messages, if `catch_up` is configured.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the source.
    fn catch_up(&self, context: &Context<'_>) -> Result<Option<Box<dyn CatchUp>>, String> {
        let _ = context;
        Ok(None)
    }

    /// Builds the source.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the source.
    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String>;
}

/// The defaults of one kind for the common keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults {
    /// Upper bound of a body, in bytes; otherwise `server.max_body`.
    pub max_body: Option<usize>,
    /// How long a message id is kept; otherwise `store.dedup_window`. Must be longer than the carrier retries.
    pub dedup_window: Option<Duration>,
    /// How digits without a plus are interpreted.
    pub bare_digits: BareDigits,
}

impl Defaults {
    /// The defaults for a carrier that writes numbers in E.164, possibly without the plus.
    #[must_use]
    pub fn international() -> Self {
        Self {
            bare_digits: BareDigits::International,
            ..Self::default()
        }
    }
}

/// The other parts of the configuration that a kind needs to build a source.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The name of the source.
    pub name: &'a Name,
    /// Its path on `server.listen`.
    pub path: &'a str,
    /// `server.public_url`.
    pub public_url: Option<&'a Url>,
    /// The common keys.
    pub settings: &'a Settings,
    /// Resolves the host names of the carrier.
    pub resolver: &'a Resolver,
}

impl Context<'_> {
    /// `server.public_url`, for a carrier that signs the URL that it calls.
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

/// A message to send to the source as the carrier would, for testing a setup.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The carrier's id of the message.
    pub provider_id: &'a str,
    /// Sender.
    pub from: &'a str,
    /// Recipient.
    pub to: &'a str,
    /// The message body.
    pub text: &'a str,
    /// The current time.
    pub now: Timestamp,
    /// Its place in a long message, for a carrier that sends the parts of those one by one.
    pub part: Option<&'a Part>,
}

impl<'a> Sample<'a> {
    /// Sender and recipient without their plus, as some carriers write them.
    #[must_use]
    pub fn bare_numbers(&self) -> (&'a str, &'a str) {
        let bare = |number: &'a str| number.strip_prefix('+').unwrap_or(number);
        (bare(self.from), bare(self.to))
    }

    /// The segments in which an SMS with this body is sent.
    #[must_use]
    pub fn segments(&self) -> Vec<&'a str> {
        segments::split(self.text)
    }
}

/// A webhook request ready to be sent.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The method.
    pub method: Method,
    /// The query to add to the URL, without `?`.
    pub query: Option<String>,
    /// Header fields, including credentials.
    pub headers: HeaderMap,
    /// The signed body.
    pub body: Bytes,
}

impl Composed {
    /// A POST without a signature.
    #[must_use]
    pub fn post(media_type: &'static str, body: impl Into<Bytes>) -> Self {
        let media_type = HeaderValue::from_static(media_type);
        Self {
            method: Method::POST,
            query: None,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, media_type)]),
            body: body.into(),
        }
    }

    /// Adds header fields, such as a signature. The names are in lower case.
    ///
    /// # Errors
    /// A sentence for the operator when a value cannot be in a header field.
    pub fn with<V: AsRef<str>>(
        mut self,
        fields: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Result<Self, String> {
        for (name, value) in fields {
            let value = HeaderValue::from_str(value.as_ref()).map_err(|error| error.to_string())?;
            self.headers.insert(HeaderName::from_static(name), value);
        }
        Ok(self)
    }
}

/// One configured carrier.
///
/// `receive` must not store, log or return anything from an unverified request. It must return every verified
/// message, even with missing or unexpected fields.
pub trait Source: Send + Sync {
    /// The methods that the carrier uses.
    fn methods(&self) -> &'static [Method] {
        const POST: &[Method] = &[Method::POST];
        POST
    }

    /// Returns true if messages may have a [`Part`]: they are joined, and stored parts keep their content until then.
    fn sends_parts(&self) -> bool {
        false
    }

    /// Verifies and parses one request.
    ///
    /// # Errors
    /// Why the request is rejected.
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal>;

    /// The calls to the carrier that requests need, if any.
    fn exchange(&self) -> Option<&dyn Exchange> {
        None
    }

    /// The reason why no messages arrive, with the next step, and its start, if the carrier reported one.
    fn problem(&self) -> Option<(String, Timestamp)> {
        None
    }

    /// The response that the carrier expects.
    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        Reply::plain(outcome)
    }

    /// Simulates the carrier: builds the request that [`Source::receive`] would accept for this message, without
    /// `basic_auth`.
    ///
    /// # Errors
    /// A sentence for the operator when only the carrier can sign.
    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String>;
}

/// Calls to the carrier around a request, for a source that cannot verify a request by itself, or whose carrier
/// expects a call in return. [`Source::receive`] stays synchronous and does no I/O.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Fetches what [`Source::receive`] needs to verify this request, if it is not known yet. The request is not
    /// verified, so only the configured carrier may be called, and not more often than is useful.
    ///
    /// # Errors
    /// The reason. The carrier must send the request again.
    async fn prepare(&self, request: &Request<'_>) -> Result<(), String>;

    /// Fetches the URL that a verified request contains: [`Events::confirm`].
    ///
    /// # Errors
    /// The reason. The carrier must send the request again.
    async fn confirm(&self, link: &Url) -> Result<(), String>;
}

/// The configuration of one number at the carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberPoints {
    /// The number.
    pub number: Number,
    /// The problem and its fix; `None` if the messages of the number are sent here.
    pub problem: Option<Reason>,
    /// Whether the carrier answered; false if it could not be queried.
    pub known: bool,
}

/// Queries the carrier whether the messages of the operator's numbers are still sent here.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Queries every number.
    async fn check(&self) -> Vec<NumberPoints>;
}

/// A page of a carrier's list of received messages.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The received messages of the page.
    pub messages: Vec<Incoming>,
    /// The next page, if there is one.
    pub next: Option<String>,
}

/// Why a page could not be read.
#[derive(Clone, Debug)]
pub struct ListError {
    /// The reason, without secrets and without text of the carrier.
    pub reason: String,
    /// The delay that the carrier asked for.
    pub retry_after: Option<Duration>,
}

impl ListError {
    /// An error after which the caller chooses the delay.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
        }
    }
}

/// Lists what a carrier has received, for the messages whose webhooks did not arrive.
#[async_trait]
pub trait CatchUp: Send + Sync {
    /// The first pages of all lists.
    fn first_pages(&self, since: Timestamp) -> Vec<String>;

    /// One page, with the messages sent at or after `since`. Their ids are those of their webhooks.
    async fn page(&self, page: &str, since: Timestamp) -> Result<Listed, ListError>;
}
