//! The position of a pending delivery in the queues of its destination.

use crate::model::delivery::DeliveryId;
use crate::model::message::Timestamp;

/// The position of a pending delivery among those of its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its id.
    pub id: DeliveryId,
    /// The token of its claim, if it is claimed.
    pub claim: Option<u64>,
    /// The first delivery of its queue, which must end before this one can be claimed; `None` if this is the first.
    pub behind: Option<DeliveryId>,
    /// Its place in the order of claims.
    pub turn: Turn,
}

/// When a delivery's turn comes: when it and all deliveries before it in its queue are due. Among due deliveries, the
/// one whose message was accepted first is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The earliest time.
    pub due: Timestamp,
    /// The place in the order of acceptance.
    pub place: u64,
}

impl Turn {
    /// This turn in the order at `now`.
    #[must_use]
    pub fn seen_at(self, now: Timestamp) -> Self {
        Self {
            due: self.due.max(now),
            ..self
        }
    }
}
