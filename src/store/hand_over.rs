//! Hands deliveries that have been pending for too long over to the fallback. The decision is pure; every store uses it.

use super::is_new;
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{Name, Timestamp};

/// The deliveries to hand over in one step.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// The destination that they are pending at.
    pub destination: Name,
    /// Its fallback.
    pub fallback: Name,
    /// They have been pending since this time or an earlier one.
    pub until: Timestamp,
    /// Where the previous step ended.
    pub after: Option<LatePosition>,
    /// Upper bound of the deliveries to look at.
    pub limit: usize,
    /// Says that a delivery is late: `not delivered within 5m`.
    pub late: String,
    /// Why the destination takes no message at the moment, if it takes none.
    pub outage: Option<String>,
    /// Only deliveries that time intervals do not hold.
    pub is_hold: bool,
    /// When the deliveries to the fallback are created.
    pub now: Timestamp,
}

/// The position of a pending delivery in the order in which they are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LatePosition {
    /// Since when it has been pending.
    pub since: Timestamp,
    /// The position of its message in the order of acceptance.
    pub seq: u64,
    /// Its ordinal.
    pub ordinal: u16,
}

/// The result of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The deliveries handed over, each with its new delivery to the fallback.
    pub deliveries: Vec<(DeliveryId, DeliveryId)>,
    /// Where this step ended; `None` if it looked at no delivery.
    pub last: Option<LatePosition>,
    /// Since when the next delivery has been pending, if there is one. It may have to be handed over already.
    pub next: Option<Timestamp>,
}

impl HandOver {
    /// The delivery to the fallback, if this one must be handed over. `all` are the deliveries of its message.
    #[must_use]
    pub fn of(&self, delivery: &Delivery, all: &[Delivery]) -> Option<Delivery> {
        let is_late = delivery.is_waiting() && delivery.pending_since() <= self.until;
        let is_held = self.is_hold && !delivery.passes_holds();
        if !is_late || is_held || delivery.destination != self.destination || delivery.has_fallback(all) {
            return None;
        }
        let (fallback, outage) = (self.fallback.clone(), self.outage.as_deref());
        let follow_up = delivery.hand_over(fallback, self.now, &self.late, outage);
        is_new(&follow_up, all).then_some(follow_up)
    }

    /// Returns true if this position is still to be looked at.
    #[must_use]
    pub(super) fn is_ahead(&self, position: LatePosition) -> bool {
        self.after.is_none_or(|after| position > after)
    }
}
