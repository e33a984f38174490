//! The claimed deliveries of this daemon. Leases are not stored: the lane protects a delivery from other daemons.
//!
//! A claim blocks its whole queue. Once the destination has answered, the next delivery of the queue may be claimed,
//! although the first one is still pending in the database until its outcome is written.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::rows::ordinal;
use crate::model::delivery::DeliveryId;
use crate::model::message::{Conversation, Name};

/// A queue of a destination.
pub(super) type Queue = (Name, Conversation);

/// One claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: DeliveryId,
    pub(super) queue: Queue,
    /// The conversation of its message, which has a queue for each recipient.
    pub(super) conversation: Conversation,
    /// The epoch of the lane at the time of the claim.
    pub(super) epoch: i64,
    pub(super) is_answered: bool,
}

/// All claims.
#[derive(Default)]
pub(super) struct Leases {
    last_token: u64,
    by_token: HashMap<u64, Lease>,
    by_delivery: HashMap<DeliveryId, u64>,
    /// Blocked queues.
    held: HashSet<Queue>,
    /// Queues in which a delivery was found to be behind a claimed one.
    followed: HashSet<Queue>,
}

/// Deliveries as columns.
pub(super) type Columns = (Vec<Uuid>, Vec<i16>);

impl Leases {
    /// Claims a delivery and blocks its queue. Returns `None` if the queue is blocked, or the delivery claimed.
    pub(super) fn grant(&mut self, lease: Lease) -> Option<u64> {
        if self.by_delivery.contains_key(&lease.id) || !self.held.insert(lease.queue.clone()) {
            return None;
        }
        self.last_token += 1;
        self.by_delivery.insert(lease.id, self.last_token);
        self.by_token.insert(self.last_token, lease);
        Some(self.last_token)
    }

    /// Claims a delivery behind a claimed one, which blocks their queue. Returns `None` if it is claimed.
    pub(super) fn grant_following(&mut self, lease: Lease) -> Option<u64> {
        if self.by_delivery.contains_key(&lease.id) {
            return None;
        }
        self.last_token += 1;
        self.by_delivery.insert(lease.id, self.last_token);
        self.by_token.insert(self.last_token, lease);
        Some(self.last_token)
    }

    /// Returns true if nothing may be claimed from a queue.
    pub(super) fn is_held(&self, queue: &Queue) -> bool {
        self.held.contains(queue)
    }

    pub(super) fn get(&self, token: u64) -> Option<&Lease> {
        self.by_token.get(&token)
    }

    /// The token of the claim of a delivery.
    pub(super) fn token(&self, id: DeliveryId) -> Option<u64> {
        self.by_delivery.get(&id).copied()
    }

    /// Records that a delivery is behind another one. Only queues with a claim matter.
    pub(super) fn follow(&mut self, queue: Queue) {
        if self.by_token.values().any(|lease| lease.queue == queue) {
            self.followed.insert(queue);
        }
    }

    pub(super) fn is_followed(&self, queue: &Queue) -> bool {
        self.followed.contains(queue)
    }

    /// Nothing is behind the claimed deliveries of a queue.
    pub(super) fn unfollow(&mut self, queue: &Queue) {
        self.followed.remove(queue);
    }

    /// Lets the next delivery of the queue be claimed. Returns false if the claim has ended.
    pub(super) fn answer(&mut self, token: u64) -> bool {
        let Some(lease) = self.by_token.get_mut(&token) else {
            return false;
        };
        if !std::mem::replace(&mut lease.is_answered, true) {
            self.held.remove(&lease.queue);
        }
        true
    }

    /// Ends a claim.
    pub(super) fn end(&mut self, token: u64) -> Option<Lease> {
        let lease = self.by_token.remove(&token)?;
        self.by_delivery.remove(&lease.id);
        if !lease.is_answered {
            self.held.remove(&lease.queue);
        }
        if self.by_token.values().all(|other| other.queue != lease.queue) {
            self.followed.remove(&lease.queue);
        }
        Some(lease)
    }

    /// Ends the claims of a lane that belongs to another daemon now.
    pub(super) fn lose(&mut self, destination: &Name) {
        let lost = self
            .by_token
            .iter()
            .filter(|(_, lease)| lease.queue.0 == *destination);
        let lost: Vec<u64> = lost.map(|(token, _)| *token).collect();
        lost.into_iter().for_each(|token| drop(self.end(token)));
    }

    /// The number of claims of a destination.
    pub(super) fn count(&self, destination: &Name) -> usize {
        let all = self.by_token.values();
        all.filter(|lease| lease.queue.0 == *destination).count()
    }

    /// The claimed deliveries of a destination.
    pub(super) fn claimed(&self, destination: &Name) -> Columns {
        self.columns(|lease| lease.queue.0 == *destination)
    }

    /// Those whose destination has answered.
    pub(super) fn answered(&self, destination: &Name) -> Columns {
        self.columns(|lease| lease.is_answered && lease.queue.0 == *destination)
    }

    /// All claimed deliveries.
    pub(super) fn all(&self) -> Columns {
        self.columns(|_| true)
    }

    /// The queues of a destination whose next delivery may be claimed because those before it were answered.
    pub(super) fn open_queues(&self, destination: &Name) -> Vec<Vec<u8>> {
        let answered = self.by_token.values().filter(|lease| lease.is_answered);
        let queues: HashSet<&Queue> = answered.map(|lease| &lease.queue).collect();
        let own = queues.into_iter().filter(|(name, _)| name == destination);
        own.map(|(_, queue)| queue.0.to_vec()).collect()
    }

    fn columns(&self, wanted: impl Fn(&Lease) -> bool) -> Columns {
        let leases = self.by_token.values().filter(|lease| wanted(lease));
        leases
            .map(|lease| (lease.id.message.0, ordinal(lease.id)))
            .unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::message::MessageId;

    fn lease(n: u128, queue: u8) -> Lease {
        Lease {
            id: DeliveryId {
                message: MessageId(Uuid::from_u128(n)),
                ordinal: 1,
            },
            queue: ("desk".parse().unwrap(), Conversation([queue; 8])),
            conversation: Conversation([queue; 8]),
            epoch: 1,
            is_answered: false,
        }
    }

    #[test]
    fn a_queue_is_blocked_until_its_claim_is_answered_or_ended() {
        let mut leases = Leases::default();
        let first = leases.grant(lease(1, 1)).unwrap();
        assert_eq!(leases.grant(lease(1, 2)), None, "claimed already");
        assert_eq!(leases.grant(lease(2, 1)), None, "the queue is blocked");
        assert!(leases.grant(lease(3, 3)).is_some());
        assert!(leases.answer(first) && leases.answer(first));
        assert_eq!(leases.open_queues(&"desk".parse().unwrap()), [vec![1; 8]]);
        let second = leases.grant(lease(2, 1)).unwrap();
        leases.end(first).unwrap();
        assert_eq!(leases.grant(lease(4, 1)), None, "the second one blocks it");
        leases.end(second).unwrap();
        assert_eq!((leases.end(second), leases.answer(second)), (None, false));
        leases.lose(&"desk".parse().unwrap());
        assert_eq!(leases.all(), (Vec::new(), Vec::new()));
        assert!(leases.grant(lease(4, 1)).is_some());
    }

    #[test]
    fn only_queues_with_claims_are_followed() {
        let mut leases = Leases::default();
        let queue = lease(1, 1).queue;
        leases.follow(queue.clone());
        assert!(!leases.is_followed(&queue));
        let token = leases.grant(lease(1, 1)).unwrap();
        leases.follow(queue.clone());
        assert!(leases.is_followed(&queue));
        leases.end(token);
        assert!(!leases.is_followed(&queue));
    }
}
