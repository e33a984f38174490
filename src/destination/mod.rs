//! Destinations: where texts go.
//!
//! A destination renders and sends one text; retrying, counting and logging go around it, in `dispatch`. A
//! new kind is one new file with a `Config`, and three lines here.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;

use crate::delivery::DeliveryId;
use crate::mask::Reason;
use crate::message::{Conversation, Message, Name};
use crate::model::lint::Lint;
use crate::model::registry::Registered;
use crate::template::{Template, Values, one_line};

pub mod console;
pub mod email;
pub mod http;
pub mod matrix;
pub mod slack;
pub mod webhook;

/// The kinds of destinations, each with what reads its part of the configuration.
pub const KINDS: &[Registered<dyn Kind>] = &[
    register::<console::Config>("console"),
    register::<email::Config>("email"),
    register::<matrix::Config>("matrix"),
    register::<slack::Config>("slack"),
    register::<webhook::Config>("webhook"),
];

/// Registers a kind of destination by its name in the configuration.
const fn register<K: Kind + DeserializeOwned>(name: &'static str) -> Registered<dyn Kind> {
    Registered {
        name,
        read: |section| Ok(Box::new(K::deserialize(section)?)),
    }
}

/// All that one delivery is made of.
#[derive(Clone)]
pub struct OutboundMessage<'a> {
    /// The idempotency key: the same at every attempt, and for all recipients.
    pub id: DeliveryId,
    /// The text.
    pub message: &'a Message,
    /// The contact's name for the sender, if there is one.
    pub from_name: Option<&'a str>,
    /// The contact's name for the company's number, if there is one.
    pub to_name: Option<&'a str>,
    /// The route that asked for it.
    pub route: Option<&'a Name>,
    /// The route's own template; the destination's, or its kind's, otherwise.
    pub template: Option<&'a Template>,
    /// Named groups of the route's regular expression.
    pub groups: BTreeMap<String, String>,
    /// Which of the destination's recipients it is for.
    pub recipients: Recipients<'a>,
    /// The root of this conversation's thread at this destination, if one was kept.
    pub thread: Option<&'a str>,
    /// The destination that this one stands in for, if it does.
    pub fallback: Option<Fallback<'a>>,
}

/// The delivery that is dead and has brought this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback<'a> {
    /// Where it was to be delivered.
    pub destination: &'a Name,
    /// Why it is dead.
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

/// Which of a destination's recipients a message is for: all of them by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recipients<'a> {
    /// Only this one.
    pub only: Option<&'a str>,
    /// Not these: they have it.
    pub done: &'a [String],
    /// Not these yet: an earlier message of the conversation is pending for them.
    pub held: &'a [String],
}

/// Without the groups: they are parts of the text.
impl fmt::Debug for OutboundMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundMessage")
            .field("id", &self.id)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

impl OutboundMessage<'_> {
    /// The conversation, for threads.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        self.message.conversation()
    }

    /// What a template can name.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        Values {
            message: self.message,
            from_name: self.from_name,
            to_name: self.to_name,
            route: self.route.map(Name::as_str),
            groups: &self.groups,
        }
    }
}

/// What a successful delivery brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The other side's answer in a few words, for the operator (`250 2.0.0 Ok: queued as 4F1…`).
    pub detail: String,
    /// The root of the conversation's thread, to be kept when this message began one.
    pub thread: Option<String>,
}

/// What a failure concerns: the whole destination, or just this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Others may fare better (a greylisted recipient): only this message waits.
    Message,
    /// Nothing will go through (connection refused, 429, 5xx of a gateway): the destination waits as a whole.
    Destination,
}

/// Why a delivery did not succeed, and what the other side said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Try again later. Whatever is not known to be something else is this.
    Transient {
        /// What happened.
        reason: Reason,
        /// When the other side asked to be tried again.
        retry_after: Option<Duration>,
        /// Whom it concerns.
        scope: Scope,
    },
    /// This message will never be taken; trying again is pointless.
    Permanent {
        /// Why the message was refused.
        reason: Reason,
    },
    /// The destination is misconfigured (bad token, archived channel): every message would fail, none is at
    /// fault. The operator must act.
    Parked {
        /// What is wrong and what to do.
        reason: Reason,
    },
    /// The destination works, but at least one of its recipients did not take the message.
    Divided {
        /// What the other side said, about all of them.
        reason: Reason,
        /// Whether any recipient took it.
        accepted: bool,
        /// The recipients that did not.
        others: Vec<Other>,
    },
}

/// A recipient that did not take a message, while others took it or did not take it for another reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// As the destination names it.
    pub recipient: String,
    /// What it needs.
    pub fate: Fate,
}

/// What is to be done for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was not asked: an earlier message of the conversation is still pending for it.
    Behind,
    /// It may take the message later.
    Later {
        /// What the other side said.
        reason: Reason,
        /// When the other side asked to be tried again.
        retry_after: Option<Duration>,
    },
    /// It will never take the message.
    Never {
        /// What the other side said.
        reason: Reason,
    },
}

impl Failure {
    /// A transient failure of the whole destination, with nothing more known.
    pub fn unreachable(reason: impl Into<Reason>) -> Self {
        Self::Transient {
            reason: reason.into(),
            retry_after: None,
            scope: Scope::Destination,
        }
    }

    /// The message's own fault.
    pub fn permanent(reason: impl Into<Reason>) -> Self {
        Self::Permanent {
            reason: reason.into(),
        }
    }

    /// The destination's misconfiguration.
    pub fn parked(reason: impl Into<Reason>) -> Self {
        Self::Parked {
            reason: reason.into(),
        }
    }

    /// Why, for the log and for the operator.
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

/// The right to call `deliver`, for as long as it is held. `None` where nothing limits it.
pub type Permit = Option<tokio::sync::OwnedSemaphorePermit>;

/// A place texts go to.
///
/// `deliver` may be called again with the same message after a crash or a lost answer, and must then use the
/// same idempotency key wherever the other side has a place for one. It keeps no queue and does not retry.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Sends one message, and returns when the other side has answered. The caller holds a [`Permit`].
    ///
    /// # Errors
    /// How it failed, in the terms that decide what happens next.
    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure>;

    /// The recipients of one message, where the other side answers for each of them. A recipient that has to wait gets
    /// a delivery of its own.
    fn recipients(&self) -> &[String] {
        &[]
    }

    /// The host and port that it connects to, if it connects to one.
    fn address(&self) -> Option<String> {
        None
    }

    /// Waits for what `deliver` needs on this side (a free connection) and is not the other side's slowness. It
    /// is held while `deliver` runs. Nothing was sent yet, so the wait may be broken off at any time.
    ///
    /// # Errors
    /// When it took too long.
    async fn permit(&self) -> Result<Permit, Failure> {
        Ok(None)
    }

    /// The longest time that `deliver` takes with this `timeout`.
    fn attempt_max(&self, timeout: Duration) -> Duration {
        timeout
    }

    /// What `deliver` would send, as text for the operator, with secrets left out.
    ///
    /// # Errors
    /// The template's error.
    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure>;
}

/// The part of `[destination.NAME]` that only one kind has.
pub trait Kind: Any + fmt::Debug + Send + Sync {
    /// The `rate` that applies when the operator gives none, in messages per second.
    fn rate_default(&self) -> Option<f64> {
        None
    }

    /// What is legal and probably a mistake.
    fn lints(&self) -> Vec<Lint> {
        Vec::new()
    }

    /// The `[smtp.NAME]` that it sends with, if it does.
    fn smtp(&self) -> Option<&str> {
        None
    }

    /// Makes the destination ready to run; opens no connection.
    ///
    /// # Errors
    /// A sentence for the operator, without the destination's name.
    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String>;
}

/// What a kind needs from the rest of the configuration when it is built.
pub struct BuildContext<'a> {
    /// The destination's own name.
    pub name: &'a Name,
    /// The destination's own `template`, compiled.
    pub template: Option<Template>,
    /// How long one delivery may take.
    pub timeout: Duration,
    /// The `[smtp.NAME]` tables.
    pub smtp: &'a BTreeMap<Name, email::SmtpConfig>,
    /// The client for everything that speaks HTTP.
    pub http: &'a http::Client,
}
