//! Numbers of messages and deliveries.

use crate::model::message::Timestamp;

/// Counters since the store was created. `accepted` counts messages, the others count deliveries. `created = delivered +
/// dead + pending + purged` holds at every commit: a delivery that is removed with its message moves from `delivered`
/// or `dead` to `purged`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Accepted messages.
    pub accepted: u64,
    /// Messages removed after `retain`.
    pub messages_purged: u64,
    /// Deliveries created.
    pub created: u64,
    /// Delivered and still stored.
    pub delivered: u64,
    /// Dead and still stored.
    pub dead: u64,
    /// Pending.
    pub pending: u64,
    /// Ended, and removed with their messages.
    pub purged: u64,
}

/// The numbers of deliveries of one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Pending deliveries.
    pub pending: u64,
    /// Dead deliveries that need attention.
    pub dead: u64,
    /// Dead deliveries that need none: they were acknowledged, or another delivery delivered the message instead.
    pub acknowledged: u64,
    /// Since when the oldest pending delivery has been pending.
    pub oldest: Option<Timestamp>,
}

/// Stored messages that have no delivery, because no destination was to receive them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Messages whose routes have no destination.
    pub kept: u64,
    /// Messages that matched no route.
    pub unrouted: u64,
}

/// Messages whose last pending delivery has ended. Each is counted once per result: one that was dead and is delivered
/// after a retry is counted in both, one that is sent again after it was delivered is not counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Delivered to all destinations, or by their fallbacks.
    pub delivered: u64,
    /// With a dead delivery.
    pub dead: u64,
}
