//! Who is at work on what. Leases are never written: after a crash the claimed deliveries are due again.
//!
//! A claim holds its whole queue, not only its delivery: while one text of a conversation is on its way, no
//! other of the same conversation may set out. The writer reserves a queue in the same place while a change
//! it decided on is being committed, so that no claim begins on what is about to change.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::keys::{Place, Queue};
use super::lock;
use crate::delivery::DeliveryId;
use crate::message::Timestamp;

/// What a claim stands for, so that settling it needs to look up nothing.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) id: DeliveryId,
    pub(super) place: Place,
    pub(super) queue: Queue,
    pub(super) pending_since: Timestamp,
    /// How many further entries its record has.
    pub(super) parts: u16,
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

impl Leases {
    /// Holds a queue for one of its deliveries, unless somebody is at work on it.
    pub(super) fn hold(&self, queue: &Queue, place: Place) -> bool {
        let mut inner = lock(&self.0);
        if inner.reserved.contains(queue) || inner.held.contains_key(queue) {
            return false;
        }
        inner.held.insert(queue.clone(), place);
        true
    }

    /// Gives a held queue to whoever claimed it.
    pub(super) fn grant(&self, lease: Lease) -> u64 {
        let mut inner = lock(&self.0);
        inner.last_token += 1;
        let token = inner.last_token;
        inner.by_token.insert(token, lease);
        token
    }

    /// Whether somebody is at work on a queue.
    pub(super) fn is_busy(&self, queue: &Queue) -> bool {
        let inner = lock(&self.0);
        inner.reserved.contains(queue) || inner.held.contains_key(queue)
    }

    /// Which delivery a lease is for, while it holds.
    pub(super) fn place(&self, token: u64, id: DeliveryId) -> Option<Place> {
        let inner = lock(&self.0);
        let lease = inner.by_token.get(&token).filter(|lease| lease.id == id)?;
        Some(lease.place)
    }

    /// The token under which a delivery is claimed.
    pub(super) fn token(&self, place: Place) -> Option<u64> {
        let inner = lock(&self.0);
        let mut leases = inner.by_token.iter();
        leases
            .find(|(_, lease)| lease.place == place)
            .map(|(token, _)| *token)
    }

    /// Ends a lease; its queue stays held until it is let go. The second to try gets nothing.
    pub(super) fn end(&self, token: u64, id: DeliveryId) -> Option<Lease> {
        let mut inner = lock(&self.0);
        if inner.by_token.get(&token)?.id != id {
            return None;
        }
        inner.by_token.remove(&token)
    }

    /// Lets a held queue go.
    pub(super) fn free(&self, queue: &Queue) {
        lock(&self.0).held.remove(queue);
    }

    /// Keeps claims away from a queue while a change to this delivery is committed, unless it is claimed.
    pub(super) fn reserve(&self, queue: &Queue, place: Place) -> bool {
        let mut inner = lock(&self.0);
        if inner.held.get(queue) == Some(&place) {
            return false;
        }
        inner.reserved.insert(queue.clone());
        true
    }

    /// A group was committed: its reservations end, and so do the claims it settled.
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
