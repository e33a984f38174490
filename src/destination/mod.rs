//! Destinations: send messages to e-mail, chats, push services and HTTP APIs.
//!
//! A destination renders and sends one message; the engine does the retrying, counting and logging. A new kind is one
//! new file with a `Config` that implements [`Kind`], and one line in [`KINDS`].

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use deserr::Deserr;

use crate::mask::Reason;
use crate::model::delivery::{DeliveryId, Verdict};
use crate::model::lint::Lint;
use crate::model::message::{Conversation, Message, Name};
use crate::model::registry::Registered;
use crate::model::setting::{self, Errors};
use crate::model::zone::Zone;
use crate::template::{Template, Values, one_line};

mod batch;
pub mod console;
pub mod discord;
pub mod email;
pub mod google_chat;
pub mod gotify;
pub mod http;
pub mod matrix;
pub mod mattermost;
pub mod ntfy;
pub mod pagerduty;
pub mod pushover;
mod service;
pub mod slack;
pub mod teams;
pub mod telegram;
pub mod webhook;
mod wording;

pub use batch::{Batching, Joins};

/// The registered kinds of destinations.
pub const KINDS: &[Registered<dyn Kind>] = &[
    register::<console::Config>("console"),
    register::<discord::Config>("discord"),
    register::<email::Config>("email"),
    register::<google_chat::Config>("google-chat"),
    register::<gotify::Config>("gotify"),
    register::<matrix::Config>("matrix"),
    register::<mattermost::Config>("mattermost"),
    register::<ntfy::Config>("ntfy"),
    register::<pagerduty::Config>("pagerduty"),
    register::<pushover::Config>("pushover"),
    register::<slack::Config>("slack"),
    register::<teams::Config>("teams"),
    register::<telegram::Config>("telegram"),
    register::<webhook::Config>("webhook"),
];

/// Registers a kind of destination by its name in the configuration.
const fn register<K: Kind + Deserr<Errors>>(name: &'static str) -> Registered<dyn Kind> {
    Registered {
        name,
        read: |section| Ok(Box::new(setting::read::<K>(section)?)),
    }
}

/// A message as one delivery sends it, with everything that a destination needs to render it.
#[derive(Clone)]
pub struct OutboundMessage<'a> {
    /// The idempotency key: the same for every attempt and for all recipients.
    pub id: DeliveryId,
    /// The message.
    pub message: &'a Message,
    /// The contact's name for the sender.
    pub from_name: Option<&'a str>,
    /// The contact's name for the recipient, one of the operator's numbers.
    pub to_name: Option<&'a str>,
    /// The route that matched; `None` for `unmatched`.
    pub route: Option<&'a Name>,
    /// The template of the route. Without it, the template of the destination or the default of its kind is used.
    pub template: Option<&'a Template>,
    /// The named groups of the route's regular expression.
    pub groups: BTreeMap<String, String>,
    /// The recipients of this delivery.
    pub recipients: Recipients<'a>,
    /// The root of the conversation's thread at this destination, if there is one.
    pub thread: Option<&'a str>,
    /// Why this delivery is a fallback, if it is one.
    pub fallback: Option<Fallback<'a>>,
    /// The time zone of the people who read it; UTC without one.
    pub zone: Option<&'a Zone>,
}

/// The delivery that caused a fallback delivery: a dead letter, or one that has been pending for `fallback_after`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fallback<'a> {
    /// Its destination.
    pub destination: &'a Name,
    /// Why it failed, or why it is still pending.
    pub reason: &'a str,
}

impl Fallback<'_> {
    /// `Fallback for destination crm: HTTP 400 Bad Request`, on one line.
    #[must_use]
    pub fn note(&self) -> String {
        let Self { destination, reason } = self;
        one_line(&format!("Fallback for destination {destination}: {reason}"))
    }
}

/// The recipients of a delivery: by default all recipients of the destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recipients<'a> {
    /// Only this recipient.
    pub only: Option<&'a str>,
    /// Not these, because they have received the message.
    pub done: &'a [String],
    /// Not these yet: an earlier message of the conversation is pending for them.
    pub held: &'a [String],
}

/// Omits the groups, because they are parts of the message body.
impl fmt::Debug for OutboundMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundMessage")
            .field("id", &self.id)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

impl OutboundMessage<'_> {
    /// The conversation, which decides the thread.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        self.message.conversation()
    }

    /// The values for templates.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        Values {
            message: self.message,
            from_name: self.from_name,
            to_name: self.to_name,
            route: self.route.map(Name::as_str),
            fallback: self.fallback.as_ref().map(Fallback::note).unwrap_or_default(),
            groups: &self.groups,
            zone: self.zone,
        }
    }
}

/// The result of a successful delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// A short description of the response for the operator (`250 2.0.0 Ok: queued as 4F1…`).
    pub detail: String,
    /// The root of the conversation's thread, if this message started one.
    pub thread: Option<String>,
}

/// Whether a failure concerns the whole destination or only this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only this message waits; others may succeed (example: a greylisted recipient).
    Message,
    /// The whole destination waits; every message would fail (connection refused, 429, 5xx of a gateway).
    Destination,
}

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The delivery should be retried. Unknown failures belong here.
    Transient {
        /// The reason.
        reason: Reason,
        /// The delay that the server asked for.
        retry_after: Option<Duration>,
        /// Whether the failure concerns other messages.
        scope: Scope,
    },
    /// The message will never be accepted; retrying is pointless.
    Permanent {
        /// Why the message was rejected.
        reason: Reason,
    },
    /// The destination is misconfigured (invalid token, archived channel), so every message would fail. The operator
    /// must act.
    Parked {
        /// The problem and its fix.
        reason: Reason,
    },
    /// The destination works, but at least one recipient did not accept the message.
    Divided {
        /// The responses for all recipients.
        reason: Reason,
        /// Whether at least one recipient accepted it.
        accepted: bool,
        /// The recipients that did not accept it.
        others: Vec<Other>,
    },
}

/// A recipient that did not accept a message, while the results of other recipients differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// The recipient as the destination names it.
    pub recipient: String,
    /// The next step for it.
    pub fate: Fate,
}

/// The next step for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was not sent to this recipient: an earlier message of the conversation is still pending for it.
    Behind,
    /// The recipient may accept the message later.
    Later {
        /// The response of the server.
        reason: Reason,
        /// The delay that the server asked for.
        retry_after: Option<Duration>,
    },
    /// The recipient will never accept the message.
    Never {
        /// The response of the server.
        reason: Reason,
    },
}

impl Failure {
    /// A transient failure of the whole destination without further information.
    pub fn unreachable(reason: impl Into<Reason>) -> Self {
        Self::Transient {
            reason: reason.into(),
            retry_after: None,
            scope: Scope::Destination,
        }
    }

    /// A permanent failure of this message.
    pub fn permanent(reason: impl Into<Reason>) -> Self {
        Self::Permanent {
            reason: reason.into(),
        }
    }

    /// A failure due to a misconfigured destination.
    pub fn parked(reason: impl Into<Reason>) -> Self {
        Self::Parked {
            reason: reason.into(),
        }
    }

    /// The result of the attempt. If recipients differ, one that accepted the message or still may is what counts.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Transient { .. } => Verdict::Transient,
            Self::Permanent { .. } => Verdict::Permanent,
            Self::Parked { .. } => Verdict::Parked,
            Self::Divided { accepted: true, .. } => Verdict::Delivered,
            Self::Divided { others, .. } => {
                let is_over = |other: &Other| matches!(other.fate, Fate::Never { .. });
                match others.iter().all(is_over) {
                    true => Verdict::Permanent,
                    false => Verdict::Transient,
                }
            }
        }
    }

    /// The reason for the log and the operator.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Transient { reason, .. }
            | Self::Permanent { reason }
            | Self::Parked { reason }
            | Self::Divided { reason, .. } => reason,
        }
    }
}

/// The right to call `deliver` while it is held. `None` if the destination has no limit.
pub type Permit = Option<tokio::sync::OwnedSemaphorePermit>;

/// A place that messages are sent to.
///
/// `deliver` may be called again with the same message after a crash or a lost response, and must then use the same
/// idempotency key if the server supports one. A destination has no queue and does not retry.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Sends one message and returns when the server has responded. The caller holds a [`Permit`].
    ///
    /// # Errors
    /// The kind of failure, which decides what happens next.
    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure>;

    /// Which messages [`Destination::deliver_joined`] can send as one post; `None` if each needs its own.
    fn joins(&self) -> Option<Joins> {
        None
    }

    /// How many of these messages, from the first on, fit into one post.
    fn fitting(&self, _outbound: &[OutboundMessage<'_>]) -> usize {
        1
    }

    /// Sends several messages as one post, all of which it may join. The caller holds a [`Permit`].
    ///
    /// # Errors
    /// As for `deliver`. After a permanent failure the caller sends fewer messages together.
    async fn deliver_joined(&self, _outbound: &[OutboundMessage<'_>]) -> Result<Delivered, Failure> {
        Err(Failure::permanent("this kind of destination joins no messages"))
    }

    /// The recipients of one message, if the server responds for each of them. A recipient that has to wait gets its
    /// own delivery.
    fn recipients(&self) -> &[String] {
        &[]
    }

    /// The default of `concurrency`. The messages of one conversation keep their order with any number.
    fn concurrency_default(&self) -> usize {
        1
    }

    /// The host and port that it connects to, if any.
    fn address(&self) -> Option<String> {
        None
    }

    /// Waits for local resources that `deliver` needs (a free connection). The permit is held while `deliver` runs.
    /// Nothing has been sent yet, so the wait can be cancelled at any time.
    ///
    /// # Errors
    /// When the wait took too long.
    async fn permit(&self) -> Result<Permit, Failure> {
        Ok(None)
    }

    /// The maximum duration of `deliver` with this `timeout`.
    fn attempt_max(&self, timeout: Duration) -> Duration {
        timeout
    }

    /// The payload that `deliver` would send, as text for the operator, without secrets.
    ///
    /// # Errors
    /// The template's error.
    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure>;
}

/// The part of `[destination.NAME]` that belongs to one kind.
pub trait Kind: Any + fmt::Debug + Send + Sync {
    /// The default of `rate`, in messages per second.
    fn rate_default(&self) -> Option<f64> {
        None
    }

    /// Settings that are legal but probably a mistake.
    fn lints(&self) -> Vec<Lint> {
        Vec::new()
    }

    /// The `[smtp.NAME]` that it uses, if any.
    fn smtp(&self) -> Option<&str> {
        None
    }

    /// Builds the destination without opening a connection.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the destination.
    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String>;
}

/// The other parts of the configuration that a kind needs to build a destination.
pub struct BuildContext<'a> {
    /// The name of the destination.
    pub name: &'a Name,
    /// The compiled `template` of the destination.
    pub template: Option<Template>,
    /// Time limit of one delivery.
    pub timeout: Duration,
    /// The `[smtp.NAME]` tables.
    pub smtp: &'a BTreeMap<Name, email::SmtpConfig>,
    /// The HTTP client.
    pub http: &'a http::Client,
}
