//! The state of the daemon and its destinations.

use serde::{Deserialize, Serialize};

use crate::metrics::rates::PerMinute;
use crate::model::delivery::Attempt;
use crate::model::destination_state::DestinationState;
use crate::model::message::{Name, Timestamp};
use crate::plan::Severity;

use super::NodesView;

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
    pub state: DestinationState,
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
    /// The node that serves it; null if none does at the moment, or if the store is not shared.
    #[serde(default)]
    pub node: Option<String>,
    /// Since when that node has been serving it.
    #[serde(default)]
    pub node_since: Option<Timestamp>,
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
    /// The work that the daemon still waits for, while it is stopping.
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
    /// The nodes that share the store; null if it is not shared.
    #[serde(default)]
    pub nodes: Option<NodesView>,
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
    /// A node that shares the store does not report, or has another configuration.
    Nodes,
    /// The daemon is stopping.
    Stopping,
}

/// A summary of the store's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreView {
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes free on its file system; null if the store is not on this machine.
    pub free_bytes: Option<u64>,
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
