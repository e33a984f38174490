//! What operators are shown: the JSON of the admin API, and what the commands read back from it.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::delivery::{AcknowledgedBy, Attempt, Delivery, DeliveryId, State};
use crate::message::{Media, Message, MessageId, Name, Timestamp};
use crate::metrics::rates::PerMinute;
use crate::metrics::series::Minute;
use crate::number::Pattern;
use crate::plan::Severity;
use crate::route::{Conditions, Route, Routes};
use crate::store::MessageState;

/// A page of a long list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// What was found, newest first.
    pub items: Vec<T>,
    /// To be given as `cursor` for the next page; absent on the last one.
    pub next: Option<String>,
}

/// A message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageView {
    /// The bridge's id.
    pub id: MessageId,
    /// The carrier's id.
    pub provider_id: String,
    /// Source.
    pub source: Name,
    /// Sender: a number in normal form, or a name as it was written.
    pub from: String,
    /// The contact's name.
    pub from_name: Option<String>,
    /// Receiver, likewise.
    pub to: String,
    /// The contact's name.
    pub to_name: Option<String>,
    /// The text.
    pub text: String,
    /// Attachments.
    pub media: Vec<Media>,
    /// Fields of the webhook that the source does not know, as JSON text by name.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
    /// When it was received.
    pub received_at: Timestamp,
    /// Routes that matched.
    pub routes: Vec<Name>,
    /// `pending`, `delivered` (also by a fallback) or `dead`; without any delivery `kept`, or `unrouted` when no route
    /// matched.
    pub state: MessageState,
    /// When text and numbers were forgotten.
    pub redacted_at: Option<Timestamp>,
    /// What is or was owed.
    pub deliveries: Vec<DeliveryView>,
}

/// A delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliveryView {
    /// Its id.
    pub id: DeliveryId,
    /// Whom it is owed to.
    pub destination: Name,
    /// The one of the destination's recipients it is for; null when it is for all of them.
    pub recipient: Option<String>,
    /// The route that asked for it.
    pub route: Option<Name>,
    /// `pending`, `delivered` or `dead`.
    pub state: MessageState,
    /// When it came to be owed.
    pub created_at: Timestamp,
    /// When an operator last retried it after it was dead.
    #[serde(default)]
    pub retried_at: Option<Timestamp>,
    /// When it is due by its own retry delay, while pending. What else it waits for is in `pending`.
    pub due: Option<Timestamp>,
    /// What it waits for, while pending.
    #[serde(default)]
    pub pending: Option<PendingView>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it was acknowledged, while dead: it needs no attention.
    #[serde(default)]
    pub acknowledged_at: Option<Timestamp>,
    /// Who acknowledged it: `operator`, or `fallback` when that delivered the message.
    #[serde(default)]
    pub acknowledged_by: Option<AcknowledgedBy>,
    /// The fallback that delivered the message; null in lists of deliveries.
    #[serde(default)]
    pub delivered_by: Option<Name>,
    /// Why it is dead, or what the last attempt said.
    pub reason: Option<String>,
    /// How often it was tried.
    pub attempts_made: u32,
    /// The first and the latest attempts.
    pub attempts: Vec<Attempt>,
}

/// What a pending delivery waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    /// The kind of cause.
    pub cause: PendingCause,
    /// The cause in words.
    pub why: String,
    /// When its next attempt starts: exactly if nothing is ahead of it, otherwise the earliest time. Null when that
    /// depends on an operator, on an attempt under way, or only on those ahead.
    pub next_attempt: Option<Timestamp>,
    /// When the pause ends that the destination asked for; null if none is running.
    #[serde(default)]
    pub pause_until: Option<Timestamp>,
    /// When the attempt under way began.
    pub attempting_since: Option<Timestamp>,
    /// How many pending deliveries of the destination come before it, those under way included; null in lists.
    pub ahead: Option<u64>,
    /// The delivery of the same conversation that has to end first.
    pub behind: Option<DeliveryId>,
}

/// The kinds of what a pending delivery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PendingCause {
    /// The end of the attempt under way.
    Attempting,
    /// Nothing: its attempt starts now.
    Due,
    /// Its retry delay.
    Retry,
    /// An earlier message of its conversation.
    Conversation,
    /// The destination's `rate`.
    Rate,
    /// The end of other attempts.
    Queue,
    /// The end of a pause that the destination asked for, or the retry delay after it.
    Limited,
    /// The destination's recovery.
    Down,
    /// A fixed configuration of the destination.
    Parked,
    /// The operator, who paused the destination.
    Paused,
    /// The operator: the destination is not configured.
    Removed,
}

/// A destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DestinationView {
    /// Its name.
    pub name: Name,
    /// Its kind; absent when it is no longer configured.
    pub kind: Option<String>,
    /// The host and port that it connects to.
    pub address: Option<String>,
    /// `up`, `untested`, `limited`, `down`, `parked`, `paused` or `removed`.
    pub state: String,
    /// Since when it is not up.
    pub since: Option<Timestamp>,
    /// When it is tried again.
    pub until: Option<Timestamp>,
    /// When the pause ends that it asked for; null if none is running.
    #[serde(default)]
    pub pause_until: Option<Timestamp>,
    /// What its other side said.
    pub reason: Option<String>,
    /// Deliveries waiting.
    pub pending: u64,
    /// Dead deliveries that need attention.
    pub dead: u64,
    /// Dead deliveries that need none: they were acknowledged, or their fallback delivered the message.
    #[serde(default)]
    pub acknowledged: u64,
    /// Since when the oldest pending one has been pending: when it was created, or retried after it was dead.
    pub oldest: Option<Timestamp>,
    /// When the oldest attempt under way began.
    pub attempting_since: Option<Timestamp>,
    /// When it last took a message.
    pub delivered_at: Option<Timestamp>,
    /// Who gets what dies here.
    pub fallback: Option<Name>,
}

/// The daemon at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// The binary's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Its time.
    pub now: Timestamp,
    /// Whether texts are taken.
    pub ready: bool,
    /// What it still waits for, if it is stopping.
    #[serde(default)]
    pub stopping: Option<String>,
    /// What is wrong now, errors first; empty when nothing is.
    pub problems: Vec<ProblemView>,
    /// The store.
    pub store: StoreView,
    /// Messages by what became of them.
    pub messages: CountsView,
    /// How much goes through.
    pub rates: RatesView,
    /// Every destination.
    pub destinations: Vec<DestinationView>,
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    /// `error`: an operator has to act, or messages are lost or not delivered. `warning`: it may become that.
    pub severity: Severity,
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// The destination it is about, if it is about one.
    pub destination: Option<Name>,
    /// The whole in words: what is wrong, the cause, the next step.
    pub message: String,
    /// The cause alone, as far as it is known.
    pub cause: Option<String>,
    /// Host and port of the destination.
    pub address: Option<String>,
    /// Since when, as far as it is known.
    pub since: Option<Timestamp>,
    /// Pending deliveries of the destination.
    pub pending: u64,
    /// Its dead deliveries.
    pub dead: u64,
    /// Since when its oldest pending delivery has been pending.
    pub oldest: Option<Timestamp>,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProblemKind {
    /// A destination is misconfigured.
    Parked,
    /// A destination is unreachable or reports errors.
    Down,
    /// A destination is rate limiting, and deliveries are pending.
    Limited,
    /// Deliveries are pending for longer than `late_after`.
    Late,
    /// An attempt has been running for more than a minute.
    Slow,
    /// The operator paused a destination.
    Paused,
    /// Deliveries are pending for a destination that is no longer configured.
    Removed,
    /// A destination has dead deliveries.
    Dead,
    /// The last reload failed.
    Reload,
    /// The store refuses messages, or its audit found something.
    Store,
    /// The machine's clock is in doubt.
    Clock,
    /// The certificate of `server.tls` expires or has expired.
    Certificate,
    /// Numbers do not point here.
    Numbers,
    /// Log lines are dropped.
    Log,
}

/// The store at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreView {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// How long the last commit took, in milliseconds.
    pub commit_ms: Option<f64>,
    /// Commits since the start.
    pub commits: u64,
    /// What the audit at start found.
    pub findings: Vec<String>,
}

/// The books.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CountsView {
    /// Messages ever accepted.
    pub accepted: u64,
    /// Messages forgotten after `retain`.
    pub purged: u64,
    /// Deliveries waiting.
    pub pending: u64,
    /// Deliveries done and remembered.
    pub delivered: u64,
    /// Dead deliveries that need attention.
    pub dead: u64,
    /// Dead deliveries that need none: they were acknowledged, or their fallback delivered the message.
    #[serde(default)]
    pub acknowledged: u64,
}

/// How much goes through, counted since the start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RatesView {
    /// Texts accepted.
    pub accepted: PerMinute,
    /// Deliveries done.
    pub delivered: PerMinute,
}

/// The last hour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeriesView {
    /// The last sixty minutes, oldest first; the last one is not over.
    pub minutes: Vec<MinuteView>,
}

/// One minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MinuteView {
    /// When it began.
    pub at: Timestamp,
    /// What happened in it.
    #[serde(flatten)]
    pub minute: Minute,
}

/// All routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoutesView {
    /// In the order they are tried.
    pub routes: Vec<RouteView>,
    /// Who gets what none of them takes.
    pub unmatched: Vec<Name>,
}

/// A route, under the keys it has in the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: Name,
    /// When it matches.
    #[serde(flatten)]
    pub when: ConditionsView,
    /// When it does not match nevertheless.
    pub unless: Option<ConditionsView>,
    /// Whom it tells.
    pub deliver: Vec<Name>,
    /// Whether later routes are tried after it matched.
    #[serde(rename = "continue")]
    pub proceed: bool,
    /// Whether it has a template of its own.
    pub template: bool,
}

/// Conditions that must all hold; what is absent is no condition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConditionsView {
    /// Senders, normalised.
    pub from: Option<Vec<String>>,
    /// Receivers, normalised.
    pub to: Option<Vec<String>>,
    /// Sources.
    pub source: Option<Vec<Name>>,
    /// The regular expression for the text.
    pub message: Option<String>,
}

/// What an action touched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Touched {
    /// How many deliveries.
    pub deliveries: u64,
    /// How many were skipped because the content of their messages was removed.
    #[serde(default)]
    pub redacted: u64,
    /// Their ids, when they are new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<DeliveryId>,
}

/// What a retry did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retried {
    /// How many deliveries are due now that were dead, or due later.
    pub deliveries: u64,
    /// How many pending ones were due already.
    #[serde(default)]
    pub already_due: u64,
    /// How many pending ones had an attempt in progress.
    #[serde(default)]
    pub attempting: u64,
    /// How many were skipped because the content of their messages was removed.
    #[serde(default)]
    pub redacted: u64,
    /// What it did for each delivery that was named, or for all of the destination.
    #[serde(default)]
    pub results: Vec<RetryView>,
}

/// What a retry did for one delivery, or for all that were selected of a destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetryView {
    /// The delivery; null for all of a destination.
    pub id: Option<DeliveryId>,
    /// Its destination; null when there is no such delivery.
    pub destination: Option<Name>,
    /// What was done.
    pub outcome: RetryOutcome,
    /// What it waits for, unless it is tried now.
    pub pending: Option<PendingView>,
}

/// The kinds of what a retry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetryOutcome {
    /// It is tried now.
    Tried,
    /// Its destination, which is parked or down, is tried now with another delivery.
    Probed,
    /// It is due, and nothing was sent: `pending` says what it waits for.
    Waiting,
    /// An attempt was under way already.
    Attempting,
    /// Nothing: it is delivered already.
    Delivered,
    /// Nothing: there is no such delivery.
    Unknown,
}

impl RetryView {
    /// What was done. When a destination is probed, the time of its next probe says nothing any more.
    pub(super) fn of(
        id: Option<DeliveryId>,
        destination: &Name,
        outcome: RetryOutcome,
        pending: Option<PendingView>,
    ) -> Self {
        let pending = pending.filter(|_| outcome != RetryOutcome::Tried);
        let is_probed = outcome == RetryOutcome::Probed;
        let next_attempt = |pending: &PendingView| match is_probed {
            true => None,
            // The retry brings the next attempt forward, to the end of the pause.
            false => pending.pause_until.or(pending.next_attempt),
        };
        Self {
            id,
            destination: Some(destination.clone()),
            outcome,
            pending: pending.map(|pending| PendingView {
                next_attempt: next_attempt(&pending),
                ..pending
            }),
        }
    }

    /// There is no such delivery.
    pub(super) fn unknown(id: DeliveryId) -> Self {
        Self {
            id: Some(id),
            destination: None,
            outcome: RetryOutcome::Unknown,
            pending: None,
        }
    }
}

/// How a test text fared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tested {
    /// Whether the other side took it.
    pub delivered: bool,
    /// `transient`, `permanent` or `parked` when it did not.
    pub failure: Option<String>,
    /// What it said.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl RoutesView {
    /// Shows all routes.
    #[must_use]
    pub fn of(routes: &Routes) -> Self {
        Self {
            routes: routes.all().iter().map(RouteView::of).collect(),
            unmatched: routes.unmatched().to_vec(),
        }
    }
}

impl RouteView {
    fn of(route: &Route) -> Self {
        Self {
            name: route.name.clone(),
            when: ConditionsView::of(&route.when),
            unless: route.unless.as_ref().map(ConditionsView::of),
            deliver: route.deliver.clone(),
            proceed: route.proceed,
            template: route.template.is_some(),
        }
    }
}

impl ConditionsView {
    fn of(conditions: &Conditions) -> Self {
        let numbers = |list: &Option<Vec<Pattern>>| {
            let list = list.as_ref()?;
            Some(list.iter().map(Pattern::to_string).collect())
        };
        Self {
            from: numbers(&conditions.from),
            to: numbers(&conditions.to),
            source: conditions.source.clone(),
            message: conditions.message.as_ref().map(Regex::to_string),
        }
    }
}

impl DeliveryView {
    /// Shows a delivery, in times of the wall clock.
    #[must_use]
    pub fn of(delivery: &Delivery, clock: &Clock, pending: Option<PendingView>) -> Self {
        let last = || delivery.attempts.last().map(|attempt| attempt.detail.clone());
        let (state, due, ended_at, reason) = match &delivery.state {
            State::Waiting { due } => (MessageState::Pending, Some(*due), None, last()),
            State::Delivered { at } => (MessageState::Delivered, None, Some(*at), None),
            State::Dead { at, reason } => (MessageState::Dead, None, Some(*at), Some(reason.clone())),
        };
        let shown = |moment: Option<Timestamp>| moment.map(|moment| clock.shown(moment));
        let attempts = delivery.attempts.iter().map(|attempt| Attempt {
            at: clock.shown(attempt.at),
            ..attempt.clone()
        });
        Self {
            id: delivery.id,
            destination: delivery.destination.clone(),
            recipient: delivery.recipient.clone(),
            route: delivery.route.clone(),
            state,
            created_at: clock.shown(delivery.created_at),
            retried_at: delivery.retried_at.map(|at| clock.shown(at)),
            due: shown(due),
            pending,
            ended_at: shown(ended_at),
            acknowledged_at: shown(delivery.acknowledged.map(|by| by.at)),
            acknowledged_by: delivery.acknowledged.map(|by| by.by),
            delivered_by: None,
            reason,
            attempts_made: delivery.attempts_made,
            attempts: attempts.collect(),
        }
    }
}

impl MessageView {
    /// Returns true if it is delivered, and a fallback delivered it for a destination.
    #[must_use]
    pub fn is_delivered_by_fallback(&self) -> bool {
        let is_dead = |delivery: &DeliveryView| delivery.state == MessageState::Dead;
        self.state == MessageState::Delivered && self.deliveries.iter().any(is_dead)
    }

    /// Shows a message; `name` looks a contact up.
    #[must_use]
    pub fn of(
        message: &Message,
        state: MessageState,
        deliveries: Vec<DeliveryView>,
        name: impl Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            id: message.id,
            provider_id: message.provider_id.clone(),
            source: message.source.clone(),
            from: message.from.to_string(),
            from_name: name(message.from.normal()),
            to: message.to.to_string(),
            to_name: name(message.to.normal()),
            text: message.text.clone(),
            media: message.media.clone(),
            extra: message.extra.clone(),
            received_at: message.received_at,
            routes: message.routes.clone(),
            state,
            redacted_at: message.redacted_at,
            deliveries,
        }
    }
}
