//! Where a pending delivery stands in the queues of its destination.

use crate::delivery::DeliveryId;
use crate::message::Timestamp;

/// Where a pending delivery stands among those of its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The delivery.
    pub id: DeliveryId,
    /// The token of its claim, while it is claimed.
    pub claim: Option<u64>,
    /// The first delivery of its queue, which has to end before this one can be claimed; none when it is the first.
    pub behind: Option<DeliveryId>,
    /// When its turn comes.
    pub turn: Turn,
}

/// When a delivery's turn comes: at the time at which it and all before it in its queue are due. Of those that are due,
/// the one comes first whose message was accepted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The earliest time.
    pub due: Timestamp,
    /// The place in the order of acceptance.
    pub place: u64,
}

impl Turn {
    /// The same turn in the order that holds at `now`.
    #[must_use]
    pub fn seen_at(self, now: Timestamp) -> Self {
        Self {
            due: self.due.max(now),
            ..self
        }
    }
}
