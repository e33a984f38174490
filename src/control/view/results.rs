//! The results of actions.

use serde::{Deserialize, Serialize};

use crate::model::delivery::DeliveryId;
use crate::model::message::Name;

use super::PendingView;

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
    /// The reason why it is pending, unless an attempt starts now.
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
    pub(in crate::control) fn of(
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
    pub(in crate::control) fn unknown(id: DeliveryId) -> Self {
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
    /// The node that sent it, which need not be the one that serves the destination; null if the store is not shared.
    #[serde(default)]
    pub node: Option<String>,
}

/// The result of a test notice to one destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Noticed {
    /// The destination.
    pub destination: Name,
    /// The result.
    #[serde(flatten)]
    pub tested: Tested,
}
