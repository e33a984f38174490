//! The changes by commands of operators, and of many deliveries at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::index::IndexUpdate;
use super::index::line::Times;
use super::keys::{Place, Queue};
use super::stored;
use super::write_batch::WriteBatch;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{MessageId, Timestamp};
use crate::store::acknowledge::{acknowledged_by, is_meant};
use crate::store::{Error, Found, Selector};

/// The deliveries that a retry or a discard does not change, by reason.
#[derive(Default)]
pub(super) struct Left {
    pub(super) due: AtomicU64,
    pub(super) claimed: AtomicU64,
    pub(super) redacted: AtomicU64,
}

impl WriteBatch<'_> {
    /// Makes dead deliveries due, and pending ones due earlier. Counts those that are not changed.
    pub(super) fn requeue(
        &mut self,
        places: &[Place],
        selector: &Selector,
        now: Timestamp,
        left: &Left,
    ) -> Result<u64, Error> {
        self.each(places, |batch, place| {
            batch.requeue_one(place, selector, now, left)
        })
    }

    /// Makes pending deliveries that are due later due at `now`, unless they are claimed.
    pub(super) fn retry_now(&mut self, places: &[Place], now: Timestamp) -> Result<u64, Error> {
        self.each(places, |batch, place| {
            match batch.shared.sound(batch.view.with_message(place))? {
                Some((delivery, message)) if message.redacted_at.is_none() => batch.bring_forward(
                    place,
                    stored::queue(&message, &delivery),
                    &delivery,
                    now,
                    Delivery::due_at,
                ),
                _ => Ok(false),
            }
        })
    }

    /// Makes pending deliveries that are due after `beyond` due at `now`, unless they are claimed.
    pub(super) fn advance(
        &mut self,
        places: &[Place],
        beyond: Timestamp,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.each(places, |batch, place| batch.advance_one(place, beyond, now))
    }

    /// Acknowledges dead deliveries that were given up at or after `since`.
    pub(super) fn acknowledge(
        &mut self,
        places: &[Place],
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.each(places, |batch, place| batch.acknowledge_one(place, since, now))
    }

    /// Makes pending deliveries dead and acknowledges them, unless they are claimed, and counts those.
    pub(super) fn discard(
        &mut self,
        places: &[Place],
        now: Timestamp,
        reason: &str,
        left: &Left,
    ) -> Result<u64, Error> {
        self.each(places, |batch, place| batch.discard_one(place, now, reason, left))
    }

    /// The places of the deliveries whose messages are stored.
    pub(super) fn places(&self, ids: &[DeliveryId]) -> Result<Vec<Place>, Error> {
        let mut seqs: HashMap<MessageId, Option<u64>> = HashMap::new();
        let mut places = Vec::new();
        for &DeliveryId { message, ordinal } in ids {
            let seq = match seqs.get(&message) {
                Some(&seq) => seq,
                None => {
                    let seq = self.by_id(message)?.map(|(seq, _)| seq);
                    seqs.insert(message, seq);
                    seq
                }
            };
            places.extend(seq.map(|seq| Place { seq, ordinal }));
        }
        Ok(places)
    }

    fn each(
        &mut self,
        places: &[Place],
        change: impl Fn(&mut Self, Place) -> Result<bool, Error>,
    ) -> Result<u64, Error> {
        self.space.for_anything()?;
        let mut touched = 0;
        for &place in places {
            touched += u64::from(change(self, place)?);
        }
        Ok(touched)
    }

    fn requeue_one(
        &mut self,
        place: Place,
        selector: &Selector,
        now: Timestamp,
        left: &Left,
    ) -> Result<bool, Error> {
        let found = self.shared.sound(self.view.with_message(place))?;
        let Some((delivery, message)) = found.filter(|(delivery, _)| selector.includes(delivery)) else {
            return Ok(false);
        };
        let queue = stored::queue(&message, &delivery);
        match delivery.state {
            State::Dead { .. } | State::Waiting { .. } if message.redacted_at.is_some() => {
                left.redacted.fetch_add(1, Ordering::Relaxed);
                return Ok(false);
            }
            State::Dead { .. } => {
                self.carry(place.seq)?;
                let again = delivery.clone().requeued(now);
                let destination = queue.destination.clone();
                self.updates.push(IndexUpdate::Revived {
                    destination,
                    place,
                    is_covered: delivery.is_delivered_otherwise(),
                });
                self.updates.push(IndexUpdate::delivery(queue, place, &again));
                self.replace(place, &delivery, &again)?;
            }
            State::Waiting { .. }
                if self.bring_forward(place, queue.clone(), &delivery, now, Delivery::brought_forward)? => {}
            State::Waiting { .. } => {
                let count = match self.shared.leases.is_claimed(&queue, place) {
                    true => &left.claimed,
                    false => &left.due,
                };
                count.fetch_add(1, Ordering::Relaxed);
                return Ok(false);
            }
            State::Delivered { .. } => return Ok(false),
        }
        Ok(true)
    }

    /// Returns false if it is not pending, due already, or claimed.
    fn bring_forward(
        &mut self,
        place: Place,
        queue: Queue,
        delivery: &Delivery,
        now: Timestamp,
        sooner: fn(Delivery, Timestamp) -> Delivery,
    ) -> Result<bool, Error> {
        let is_later = matches!(delivery.state, State::Waiting { due } if due > now);
        if !is_later || !self.reserve(&queue, place) {
            return Ok(false);
        }
        let sooner = sooner(delivery.clone(), now);
        self.updates.push(IndexUpdate::Due {
            queue,
            place,
            times: Times::new(now, &sooner),
        });
        self.replace(place, delivery, &sooner)?;
        Ok(true)
    }

    fn advance_one(&mut self, place: Place, beyond: Timestamp, now: Timestamp) -> Result<bool, Error> {
        let Some((delivery, message)) = self.shared.sound(self.view.with_message(place))? else {
            return Ok(false);
        };
        let queue = stored::queue(&message, &delivery);
        let is_late = matches!(delivery.state, State::Waiting { due } if due > beyond);
        if !is_late || !self.reserve(&queue, place) {
            return Ok(false);
        }
        let advanced = delivery.clone().advanced(now);
        self.updates.push(IndexUpdate::Due {
            queue,
            place,
            times: Times::new(now, &advanced),
        });
        self.replace(place, &delivery, &advanced)?;
        Ok(true)
    }

    fn acknowledge_one(
        &mut self,
        place: Place,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let Some((delivery, found)) = self.with_others(place)? else {
            return Ok(false);
        };
        if !is_meant(&delivery, since) {
            return Ok(false);
        }
        let by = acknowledged_by(&delivery, &found.deliveries);
        let acknowledged = delivery.clone().acknowledged(now, by);
        if acknowledged.is_delivered_otherwise() {
            self.updates.push(IndexUpdate::Covered { place });
        }
        self.replace(place, &delivery, &acknowledged)?;
        Ok(true)
    }

    fn discard_one(
        &mut self,
        place: Place,
        now: Timestamp,
        reason: &str,
        left: &Left,
    ) -> Result<bool, Error> {
        let Some((delivery, found)) = self.with_others(place)? else {
            return Ok(false);
        };
        if !delivery.is_waiting() {
            return Ok(false);
        }
        let queue = stored::queue(&found.message, &delivery);
        if !self.reserve(&queue, place) {
            left.claimed.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        let dead = delivery.clone().dead(None, now, reason);
        let by = acknowledged_by(&dead, &found.deliveries);
        let dead = dead.acknowledged(now, by);
        let ended = queue.clone();
        self.updates.push(IndexUpdate::Ended { queue: ended, place });
        self.list(queue, place, &dead);
        self.replace(place, &delivery, &dead)?;
        Ok(true)
    }

    /// A delivery, and its message with all deliveries.
    fn with_others(&self, place: Place) -> Result<Option<(Delivery, Found)>, Error> {
        let Some(found) = self.shared.sound(self.view.found(place.seq))? else {
            return Ok(None);
        };
        let mut all = found.deliveries.iter();
        let delivery = all.find(|delivery| delivery.id.ordinal == place.ordinal).cloned();
        Ok(delivery.map(|delivery| (delivery, found)))
    }

    fn reserve(&mut self, queue: &Queue, place: Place) -> bool {
        let free = self.shared.leases.reserve(queue, place);
        if free {
            self.reserved.push(queue.clone());
        }
        free
    }
}
