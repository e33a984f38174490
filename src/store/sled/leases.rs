//! The claimed deliveries. Leases are never written to disk: after a crash, the claimed deliveries are due again.
//!
//! A claim blocks its whole queue, not only its delivery: the next message of a conversation is not sent until the
//! destination has answered the previous one. Then the queue is released, and the lease lasts until the outcome is on
//! disk. The writer reserves a queue while it commits a change to one of its deliveries, so that the queue cannot be
//! claimed before the change is committed.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::keys::{Place, Queue};
use super::lock;
use crate::model::delivery::DeliveryId;
use crate::model::message::Timestamp;

/// The data of a claim, so that settling it needs no lookup.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) id: DeliveryId,
    pub(super) place: Place,
    pub(super) queue: Queue,
    pub(super) pending_since: Timestamp,
    /// The number of further entries of its record.
    pub(super) parts: u16,
    /// This lease does not block its queue: the destination has answered, or the lease of an earlier delivery of a batch
    /// does.
    pub(super) is_answered: bool,
}

/// All leases and reservations.
#[derive(Default)]
pub(super) struct Leases(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    last_token: u64,
    by_token: HashMap<u64, Lease>,
    held: HashMap<Queue, Place>,
    reserved: HashSet<Queue>,
}

impl Inner {
    fn is_claimed(&self, queue: &Queue, place: Place) -> bool {
        let mut leases = self.by_token.values();
        self.held.get(queue) == Some(&place) || leases.any(|lease| lease.is_answered && lease.place == place)
    }
}

impl Leases {
    /// Blocks a queue for one of its deliveries, unless it is blocked or reserved.
    pub(super) fn hold(&self, queue: &Queue, place: Place) -> bool {
        let mut inner = lock(&self.0);
        if inner.reserved.contains(queue) || inner.held.contains_key(queue) {
            return false;
        }
        inner.held.insert(queue.clone(), place);
        true
    }

    /// Creates the lease of a blocked queue. Returns its token.
    pub(super) fn grant(&self, lease: Lease) -> u64 {
        let mut inner = lock(&self.0);
        inner.last_token += 1;
        let token = inner.last_token;
        inner.by_token.insert(token, lease);
        token
    }

    /// Returns true if a queue is blocked or reserved.
    pub(super) fn is_busy(&self, queue: &Queue) -> bool {
        let inner = lock(&self.0);
        inner.reserved.contains(queue) || inner.held.contains_key(queue)
    }

    /// The lease of a delivery, if it is valid.
    pub(super) fn get(&self, token: u64, id: DeliveryId) -> Option<Lease> {
        let inner = lock(&self.0);
        inner.by_token.get(&token).filter(|lease| lease.id == id).cloned()
    }

    /// Releases the queue of a lease, because the destination has answered.
    pub(super) fn answered(&self, token: u64) {
        let mut inner = lock(&self.0);
        let Inner { by_token, held, .. } = &mut *inner;
        if let Some(lease) = by_token.get_mut(&token)
            && !std::mem::replace(&mut lease.is_answered, true)
        {
            held.remove(&lease.queue);
        }
    }

    /// The token of the claim of a delivery.
    pub(super) fn token(&self, place: Place) -> Option<u64> {
        let inner = lock(&self.0);
        let mut leases = inner.by_token.iter();
        leases
            .find(|(_, lease)| lease.place == place)
            .map(|(token, _)| *token)
    }

    /// Ends a lease. Its queue stays blocked until it is freed, unless the destination has answered. Returns `None`
    /// if the lease has ended already.
    pub(super) fn end(&self, token: u64, id: DeliveryId) -> Option<Lease> {
        let mut inner = lock(&self.0);
        if inner.by_token.get(&token)?.id != id {
            return None;
        }
        inner.by_token.remove(&token)
    }

    /// Releases a blocked queue.
    pub(super) fn free(&self, queue: &Queue) {
        lock(&self.0).held.remove(queue);
    }

    /// Returns true if this delivery is claimed.
    pub(super) fn is_claimed(&self, queue: &Queue, place: Place) -> bool {
        lock(&self.0).is_claimed(queue, place)
    }

    /// Prevents claims from a queue while a change to this delivery is committed. Returns false if it is claimed.
    pub(super) fn reserve(&self, queue: &Queue, place: Place) -> bool {
        let mut inner = lock(&self.0);
        if inner.is_claimed(queue, place) {
            return false;
        }
        inner.reserved.insert(queue.clone());
        true
    }

    /// Called after a commit: ends its reservations and releases the queues of the claims that it settled.
    pub(super) fn finish(&self, reserved: &[Queue], settled: &[Queue]) {
        let mut inner = lock(&self.0);
        for queue in reserved {
            inner.reserved.remove(queue);
        }
        for queue in settled {
            inner.held.remove(queue);
        }
    }
}
