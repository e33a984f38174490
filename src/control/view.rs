//! The JSON of the admin API, which the commands read as well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::series::Minute;
use crate::model::delivery::AcknowledgedBy;
use crate::model::message::{Media, Message, MessageId, Name, Timestamp};
use crate::store::MessageState;

mod delivery;
mod nodes;
mod results;
mod routes;
mod status;

pub use delivery::{DeliveryView, PendingCause, PendingView};
pub use nodes::{LaneView, NodeState, NodeView, NodesView};
pub use results::{Noticed, Retried, RetryOutcome, RetryView, Tested, Touched};
pub use routes::{ConditionsView, RouteView, RoutesView};
pub use status::{CountsView, DestinationView, ProblemKind, ProblemView, RatesView, StatusView, StoreView};

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
    /// Its body.
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
    /// When its body and numbers were removed.
    pub redacted_at: Option<Timestamp>,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryView>,
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
