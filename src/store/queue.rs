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

/// The order in which the deliveries of a destination come: by the time at which they are due, and then by acceptance.
/// No delivery is due before those that come first in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The earliest time.
    pub due: Timestamp,
    /// The place in the order of acceptance.
    pub place: u64,
}
