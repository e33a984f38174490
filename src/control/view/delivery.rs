//! A delivery, and what it waits for.

use serde::{Deserialize, Serialize};

use crate::engine::clock::Clock;
use crate::model::delivery::{AcknowledgedBy, Attempt, Delivery, DeliveryId, State};
use crate::model::message::{Name, Timestamp};
use crate::store::MessageState;

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
    /// The destination of the delivery whose fallback it is; null in lists of deliveries.
    #[serde(default)]
    pub fallback_of: Option<Name>,
    /// If it was created while the delivery whose fallback it is was still pending (`fallback_after`): why. Otherwise null.
    #[serde(default)]
    pub handed_over: Option<String>,
    /// `pending`, `delivered` or `dead`.
    pub state: MessageState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When an operator last retried it after it was dead.
    #[serde(default)]
    pub retried_at: Option<Timestamp>,
    /// When its own retry delay ends, while pending. Other causes are in `pending`.
    pub due: Option<Timestamp>,
    /// The reason why it is pending; null otherwise.
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
            handed_over: delivery.handed_over.clone(),
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

/// The reason why a delivery is pending.
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
    /// The end of a time interval of `hold_during`.
    Held,
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
