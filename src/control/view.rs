//! The JSON of the admin API, which the commands read as well.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::engine::clock::Clock;
use crate::metrics::rates::PerMinute;
use crate::metrics::series::Minute;
use crate::model::delivery::{AcknowledgedBy, Attempt, Delivery, DeliveryId, State};
use crate::model::message::{Keyword, Media, Message, MessageId, Name, Timestamp};
use crate::model::number::Pattern;
use crate::plan::Severity;
use crate::routing::{Conditions, Route, Routes};
use crate::store::MessageState;

/// A page of a long list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last one.
    pub next: Option<String>,
}

/// A message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageView {
    /// Its id.
    pub id: MessageId,
    /// The carrier's id.
    pub provider_id: String,
    /// Its source.
    pub source: Name,
    /// The sender: a number in normal form, or a name as received.
    pub from: String,
    /// The contact's name of the sender.
    pub from_name: Option<String>,
    /// The receiver: a number in normal form, or a name as received.
    pub to: String,
    /// The contact's name of the receiver.
    pub to_name: Option<String>,
    /// Its text.
    pub text: String,
    /// Its attachments.
    pub media: Vec<Media>,
    /// Fields of the webhook that the source does not know, by name, as JSON text.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
    /// When it was received.
    pub received_at: Timestamp,
    /// Routes that matched.
    pub routes: Vec<Name>,
    /// `pending`, `delivered` (also by a fallback) or `dead`; without any delivery `kept`, or `unrouted` when no route
    /// matched.
    pub state: MessageState,
    /// When its text and numbers were removed.
    pub redacted_at: Option<Timestamp>,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryView>,
}

/// A delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliveryView {
    /// Its id.
    pub id: DeliveryId,
    /// Its destination.
    pub destination: Name,
    /// The only recipient of the destination that it is for; null when it is for all of them.
    pub recipient: Option<String>,
    /// The route that created it, or whose template it uses if it was resent or is a fallback.
    pub route: Option<Name>,
    /// Whether an operator created it by resending the message.
    #[serde(default)]
    pub resent: bool,
    /// The destination whose dead delivery it is the fallback of; null in lists of deliveries.
    #[serde(default)]
    pub fallback_of: Option<Name>,
    /// `pending`, `delivered` or `dead`.
    pub state: MessageState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When an operator last retried it after it was dead.
    #[serde(default)]
    pub retried_at: Option<Timestamp>,
    /// When its own retry delay ends, while pending. Other causes are in `pending`.
    pub due: Option<Timestamp>,
    /// What it waits for, while pending.
    #[serde(default)]
    pub pending: Option<PendingView>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it was acknowledged, while dead; it then needs no attention.
    #[serde(default)]
    pub acknowledged_at: Option<Timestamp>,
    /// Who acknowledged it: `operator`; `fallback` when that delivered the message; `delivery` when another delivery to
    /// the same destination delivered it.
    #[serde(default)]
    pub acknowledged_by: Option<AcknowledgedBy>,
    /// The fallback that delivered the message; null in lists of deliveries.
    #[serde(default)]
    pub delivered_by: Option<Name>,
    /// Why it is dead, or the result of the last attempt.
    pub reason: Option<String>,
    /// The number of attempts.
    pub attempts_made: u32,
    /// The first and the latest attempts.
    pub attempts: Vec<Attempt>,
}

/// What a pending delivery waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    /// The kind of cause.
    pub cause: PendingCause,
    /// The cause as a sentence.
    pub why: String,
    /// When its next attempt starts: exact if no delivery is ahead of it, otherwise the earliest time. Null when that
    /// depends on an operator, on an attempt in progress, or only on the deliveries ahead.
    pub next_attempt: Option<Timestamp>,
    /// When the pause ends that the destination requested; null if there is none.
    #[serde(default)]
    pub pause_until: Option<Timestamp>,
    /// When the attempt in progress began.
    pub attempting_since: Option<Timestamp>,
    /// The number of pending deliveries of the destination ahead of it, including those in progress; null in lists.
    pub ahead: Option<u64>,
    /// The delivery of the same conversation that has to end first.
    pub behind: Option<DeliveryId>,
}

/// The kinds of causes that a pending delivery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PendingCause {
    /// The end of its attempt in progress.
    Attempting,
    /// Nothing: its attempt starts now.
    Due,
    /// Its retry delay.
    Retry,
    /// An earlier message of its conversation.
    Conversation,
    /// The destination's `rate`.
    Rate,
    /// The end of other attempts, because of a limit on attempts or memory.
    Queue,
    /// The end of a pause that the destination requested, or of the retry delay after it.
    Limited,
    /// The recovery of the destination.
    Down,
    /// A corrected configuration of the destination.
    Parked,
    /// An operator, to resume the paused destination.
    Paused,
    /// An operator, to configure the destination again.
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
    /// Since when it has not been up.
    pub since: Option<Timestamp>,
    /// When the next attempt starts.
    pub until: Option<Timestamp>,
    /// When the pause ends that it requested; null if there is none.
    #[serde(default)]
    pub pause_until: Option<Timestamp>,
    /// Its last failure.
    pub reason: Option<String>,
    /// The number of pending deliveries.
    pub pending: u64,
    /// Dead deliveries that need attention.
    pub dead: u64,
    /// Dead deliveries that need none: they were acknowledged, or another delivery delivered the message instead.
    #[serde(default)]
    pub acknowledged: u64,
    /// Since when the oldest pending delivery has been pending: when it was created, or retried after it was dead.
    pub oldest: Option<Timestamp>,
    /// When the oldest attempt in progress began.
    pub attempting_since: Option<Timestamp>,
    /// When it last accepted a message.
    pub delivered_at: Option<Timestamp>,
    /// The last attempt at a message that has ended; null if there was none since the daemon started or the
    /// destination's configuration changed. A destination can be `up` and refuse every message.
    #[serde(default)]
    pub last_attempt: Option<Attempt>,
    /// The destination that gets its dead deliveries.
    pub fallback: Option<Name>,
}

/// A summary of the daemon's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// The binary's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// The current time.
    pub now: Timestamp,
    /// Whether messages are accepted.
    pub ready: bool,
    /// What the daemon still waits for, while it is stopping.
    #[serde(default)]
    pub stopping: Option<String>,
    /// The current problems, errors first.
    pub problems: Vec<ProblemView>,
    /// The state of the store.
    pub store: StoreView,
    /// Counters of messages and deliveries.
    pub messages: CountsView,
    /// The current throughput.
    pub rates: RatesView,
    /// All destinations.
    pub destinations: Vec<DestinationView>,
}

/// A current problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    /// `error`: an operator has to act, or messages are lost or not delivered. `warning`: it may become an error.
    pub severity: Severity,
    /// The kind of problem.
    pub kind: ProblemKind,
    /// The destination concerned, if any.
    pub destination: Option<Name>,
    /// A complete sentence: the problem, the cause, the next step.
    pub message: String,
    /// The cause alone, if known.
    pub cause: Option<String>,
    /// The host and port of the destination.
    pub address: Option<String>,
    /// Since when, if known.
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
    /// The machine's clock is not trusted.
    Clock,
    /// The certificate of `server.tls` expires or has expired.
    Certificate,
    /// Numbers whose webhook is not this server.
    Numbers,
    /// Requests are signed for another URL than `server.public_url`, and rejected.
    #[serde(rename = "public_url")]
    PublicUrl,
    /// The carrier reported that it sends a source no messages any more.
    Subscription,
    /// Messages that a source missed cannot be listed at its carrier.
    #[serde(rename = "catch_up")]
    CatchUp,
    /// Log lines are dropped.
    Log,
    /// The daemon is stopping.
    Stopping,
}

/// A summary of the store's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreView {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// The duration of the last commit, in milliseconds.
    pub commit_ms: Option<f64>,
    /// The number of commits since the start.
    pub commits: u64,
    /// The findings of the audit at the start.
    pub findings: Vec<String>,
}

/// Counters of messages and deliveries.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CountsView {
    /// Messages accepted since the store was created.
    pub accepted: u64,
    /// Messages removed after `retain`.
    pub purged: u64,
    /// Stored messages that have no delivery, because their routes have no destination.
    #[serde(default)]
    pub kept: u64,
    /// Stored messages that have no delivery, because they matched no route.
    #[serde(default)]
    pub unrouted: u64,
    /// Pending deliveries.
    pub pending: u64,
    /// Stored deliveries that were delivered.
    pub delivered: u64,
    /// Dead deliveries that need attention.
    pub dead: u64,
    /// Dead deliveries that need none: they were acknowledged, or another delivery delivered the message instead.
    #[serde(default)]
    pub acknowledged: u64,
}

/// The current throughput, in messages per minute.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RatesView {
    /// Accepted messages.
    pub accepted: PerMinute,
    /// Successful deliveries.
    pub delivered: PerMinute,
}

/// The messages of the last hour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeriesView {
    /// The last sixty minutes, oldest first; the last one is not complete.
    pub minutes: Vec<MinuteView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
/// One minute of the series.
pub struct MinuteView {
    /// When it began.
    pub at: Timestamp,
    /// Messages accepted; like the other numbers null if the daemon did not run, or did not save the minute.
    pub accepted: Option<u64>,
    /// Messages that were delivered to all destinations or by other deliveries instead, each counted once.
    pub delivered: Option<u64>,
    /// Messages that ended with a dead delivery, each counted once.
    pub dead: Option<u64>,
    /// The highest number of pending deliveries.
    pub pending: Option<u64>,
}

impl MinuteView {
    /// Converts a minute.
    #[must_use]
    pub fn of(at: Timestamp, minute: Minute) -> Self {
        let seen = |count| minute.pending.map(|_| count);
        Self {
            at,
            accepted: seen(minute.accepted),
            delivered: seen(minute.delivered),
            dead: seen(minute.dead),
            pending: minute.pending,
        }
    }
}

/// All routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoutesView {
    /// The routes in the order in which they are tried.
    pub routes: Vec<RouteView>,
    /// The destinations of unmatched messages.
    pub unmatched: Vec<Name>,
}

/// A route, under the keys it has in the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: Name,
    /// The conditions under which it matches.
    #[serde(flatten)]
    pub when: ConditionsView,
    /// The exceptions in which it does not match.
    pub unless: Option<ConditionsView>,
    /// Its destinations.
    pub deliver: Vec<Name>,
    /// Whether later routes are tried after it has matched.
    #[serde(rename = "continue")]
    pub proceed: bool,
    /// Whether it has its own template.
    pub template: bool,
}

/// Conditions that must all hold; an absent key is not a condition.
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
    /// Opt-out words.
    pub keyword: Option<Vec<Keyword>>,
}

/// The result of an action.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Touched {
    /// The number of deliveries affected.
    pub deliveries: u64,
    /// How many were not discarded because they had an attempt in progress.
    #[serde(default)]
    pub attempting: u64,
    /// How many were skipped because the content of their messages was removed.
    #[serde(default)]
    pub redacted: u64,
    /// The ids of new deliveries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<DeliveryId>,
}

/// The result of a retry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retried {
    /// The number of deliveries that are due now and were dead or due later.
    pub deliveries: u64,
    /// The number of pending deliveries that were due already.
    #[serde(default)]
    pub already_due: u64,
    /// The number of pending deliveries with an attempt in progress.
    #[serde(default)]
    pub attempting: u64,
    /// The number of deliveries skipped because the content of their messages was removed.
    #[serde(default)]
    pub redacted: u64,
    /// The result for each delivery given by its id, or for all deliveries of the destination.
    #[serde(default)]
    pub results: Vec<RetryView>,
}

/// The result of a retry for one delivery, or for all selected deliveries of a destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetryView {
    /// The delivery; null for all deliveries of a destination.
    pub id: Option<DeliveryId>,
    /// Its destination; null when there is no such delivery.
    pub destination: Option<Name>,
    /// The result.
    pub outcome: RetryOutcome,
    /// What it waits for, unless an attempt starts now.
    pub pending: Option<PendingView>,
}

/// The kinds of results of a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetryOutcome {
    /// An attempt starts now.
    Tried,
    /// Its destination, which is parked or down, is probed now with another delivery.
    Probed,
    /// It is due, but no attempt was started: `pending` says what it waits for.
    Waiting,
    /// An attempt was already in progress.
    Attempting,
    /// No change: it is already delivered.
    Delivered,
    /// No change: there is no such delivery.
    Unknown,
}

impl RetryView {
    /// The result for one delivery. When a destination is probed, the time of its next probe is omitted.
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
            // The retry advances the next attempt to the end of the pause.
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

    /// The result for an id without a delivery.
    pub(super) fn unknown(id: DeliveryId) -> Self {
        Self {
            id: Some(id),
            destination: None,
            outcome: RetryOutcome::Unknown,
            pending: None,
        }
    }
}

/// The result of a test message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tested {
    /// Whether the destination accepted it.
    pub delivered: bool,
    /// The kind of failure: `transient`, `permanent` or `parked`.
    pub failure: Option<String>,
    /// The destination's reply, or the failure.
    pub detail: String,
    /// The duration in milliseconds.
    pub took_ms: u64,
}

impl RoutesView {
    /// Converts all routes.
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
            keyword: conditions.keyword.clone(),
        }
    }
}

impl DeliveryView {
    /// Converts a delivery; all times are those of the wall clock, and none is just before its message was received, if
    /// that is known.
    #[must_use]
    pub fn of(
        delivery: &Delivery,
        clock: &Clock,
        received_at: Option<Timestamp>,
        pending: Option<PendingView>,
    ) -> Self {
        let last = || delivery.attempts.last().map(|attempt| attempt.detail.clone());
        let (state, due, ended_at, reason) = match &delivery.state {
            State::Waiting { due } => (MessageState::Pending, Some(*due), None, last()),
            State::Delivered { at } => (MessageState::Delivered, None, Some(*at), None),
            State::Dead { at, reason } => (MessageState::Dead, None, Some(*at), Some(reason.clone())),
        };
        let show = |moment| match received_at {
            Some(received_at) => clock.shown_after(received_at, moment),
            None => clock.shown(moment),
        };
        let shown = |moment: Option<Timestamp>| moment.map(show);
        let attempts = delivery.attempts.iter().map(|attempt| Attempt {
            at: show(attempt.at),
            ..attempt.clone()
        });
        Self {
            id: delivery.id,
            destination: delivery.destination.clone(),
            recipient: delivery.recipient.clone(),
            route: delivery.route.clone(),
            resent: delivery.is_resent,
            fallback_of: None,
            state,
            created_at: show(delivery.created_at),
            retried_at: shown(delivery.retried_at),
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
    /// Returns true if it is delivered, and by a fallback instead of one of its destinations.
    #[must_use]
    pub fn is_delivered_by_fallback(&self) -> bool {
        let is_replaced =
            |delivery: &DeliveryView| delivery.acknowledged_by == Some(AcknowledgedBy::Fallback);
        self.state == MessageState::Delivered && self.deliveries.iter().any(is_replaced)
    }

    /// Converts a message; `name` looks up a contact.
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
