//! The commands of operators.

use super::{Inner, Place};
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{MessageId, Name, Timestamp};
use crate::store::acknowledge::{acknowledged_by, is_meant};
use crate::store::{Discarded, Error, Requeued, Selector};

impl Inner {
    pub(super) fn requeue(&mut self, selector: &Selector, now: Timestamp) -> Result<Requeued, Error> {
        let mut requeued = Requeued::default();
        for place in self.selected(selector) {
            let leased = self.is_leased(place);
            let redacted = self
                .messages
                .get(&place.0)
                .is_some_and(|found| found.message.redacted_at.is_some());
            let Some(delivery) = self.delivery(place) else {
                continue;
            };
            match delivery.state {
                State::Dead { .. } | State::Waiting { .. } if redacted => {
                    requeued.redacted += 1;
                    continue;
                }
                State::Dead { .. } => *delivery = delivery.clone().requeued(now),
                State::Waiting { due } if due > now && !leased => {
                    *delivery = delivery.clone().brought_forward(now);
                }
                State::Waiting { .. } => {
                    match leased {
                        true => requeued.claimed += 1,
                        false => requeued.due += 1,
                    }
                    continue;
                }
                State::Delivered { .. } => continue,
            }
            requeued.touched += 1;
        }
        Ok(requeued)
    }

    pub(super) fn retry_now(&mut self, destination: &Name, now: Timestamp) -> Result<u64, Error> {
        let heads = self.heads(destination).into_iter();
        let later: Vec<Place> = heads
            .filter(|head| head.due > now)
            .map(|head| head.place)
            .collect();
        let mut touched = 0;
        for place in later {
            let found = self.messages.get(&place.0);
            let is_redacted = found.is_some_and(|found| found.message.redacted_at.is_some());
            if let Some(delivery) = self.delivery(place).filter(|_| !is_redacted) {
                delivery.state = State::Waiting { due: now };
                touched += 1;
            }
        }
        Ok(touched)
    }

    pub(super) fn advance(&mut self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error> {
        let is_late = |delivery: &Delivery| matches!(delivery.state, State::Waiting { due } if due > beyond);
        let late = self.deliveries().filter(|(.., delivery)| is_late(delivery));
        let places: Vec<Place> = late.map(|(place, ..)| place).collect();
        let mut touched = 0;
        for place in places {
            let leased = self.is_leased(place);
            if let Some(delivery) = self.delivery(place).filter(|_| !leased) {
                *delivery = delivery.clone().advanced(now);
                touched += 1;
            }
        }
        Ok(touched)
    }

    pub(super) fn acknowledge_dead(
        &mut self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let mut touched = 0;
        for place in self.selected(selector) {
            let dead = self.delivery(place).filter(|dead| is_meant(dead, since));
            if dead.is_some() {
                self.acknowledge(place, now);
                touched += 1;
            }
        }
        Ok(touched)
    }

    pub(super) fn discard(
        &mut self,
        selector: &Selector,
        now: Timestamp,
        reason: &str,
    ) -> Result<Discarded, Error> {
        let mut discarded = Discarded::default();
        for place in self.selected(selector) {
            let leased = self.is_leased(place);
            let Some(delivery) = self.delivery(place).filter(|delivery| delivery.is_waiting()) else {
                continue;
            };
            if leased {
                discarded.claimed += 1;
                continue;
            }
            *delivery = delivery.clone().dead(None, now, reason);
            self.acknowledge(place, now);
            self.count_ended(place.0);
            discarded.touched += 1;
        }
        Ok(discarded)
    }

    pub(super) fn add_deliveries(
        &mut self,
        id: MessageId,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeliveryId>, Error> {
        let seq = self.seq(id).ok_or(Error::NotFound)?;
        Ok(deliveries
            .into_iter()
            .filter_map(|delivery| self.add(seq, delivery))
            .collect())
    }

    fn selected(&self, selector: &Selector) -> Vec<Place> {
        let wanted = |delivery: &Delivery| {
            let is_named = match selector {
                Selector::Ids(ids) => ids.contains(&delivery.id),
                Selector::Dead(name) | Selector::Pending(name) => delivery.destination == *name,
            };
            is_named && selector.includes(delivery)
        };
        self.deliveries()
            .filter(|(.., delivery)| wanted(delivery))
            .map(|(place, ..)| place)
            .collect()
    }

    fn is_leased(&self, place: Place) -> bool {
        self.leases.values().any(|leased| *leased == place)
    }

    /// Acknowledges a dead delivery for an operator.
    fn acknowledge(&mut self, place: Place, now: Timestamp) {
        let found = self.messages.get(&place.0).cloned();
        if let (Some(found), Some(delivery)) = (found, self.delivery(place)) {
            let by = acknowledged_by(delivery, &found.deliveries);
            *delivery = delivery.clone().acknowledged(now, by);
        }
    }
}
