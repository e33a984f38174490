//! Claims and their outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Inner, Place};
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{Conversation, Name, Timestamp};
use crate::store::acknowledge::covered;
use crate::store::{
    CLAIM_BYTES, Claim, Error, HandOver, HandedOver, LatePosition, Overdue, Settlement, changed_at, is_new,
};

/// The first delivery of a conversation, which can be claimed once it is due.
pub(super) struct Head {
    pub(super) due: Timestamp,
    pub(super) pending_since: Timestamp,
    pub(super) place: Place,
}

impl Inner {
    pub(super) fn claim(
        &mut self,
        destination: &Name,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        let due = self
            .heads(destination)
            .into_iter()
            .filter(|head| head.due <= now)
            .take(limit);
        let (mut claims, mut size) = (Vec::new(), 0);
        for Head { place, .. } in due {
            if size >= CLAIM_BYTES {
                break;
            }
            let claim = self.grant(place);
            size += claim.as_ref().map_or(0, |claim| claim.message.size());
            claims.extend(claim);
        }
        Ok(claims)
    }

    pub(super) fn claim_overdue(
        &mut self,
        destination: &Name,
        pending_since: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error> {
        let heads = self.heads(destination).into_iter();
        let overdue = heads.filter(|head| pending_since.contains(&head.pending_since));
        let claims = overdue.take(limit).filter_map(|head| self.grant(head.place));
        let overdue = claims.map(|Claim { delivery, token, .. }| Overdue { delivery, token });
        Ok(overdue.collect())
    }

    pub(super) fn claim_following(&mut self, claim: &Claim, now: Timestamp, limit: usize) -> Vec<Claim> {
        let Some(&place) = self.leases.get(&claim.token) else {
            return Vec::new();
        };
        let queue = claim.delivery.queue(claim.message.conversation());
        let leased: BTreeSet<Place> = self.leases.values().copied().collect();
        let after = self.deliveries().filter(|(other, found, delivery)| {
            *other > place
                && delivery.is_waiting()
                && delivery.destination == claim.delivery.destination
                && delivery.queue(found.message.conversation()) == queue
        });
        let is_due = |delivery: &Delivery| matches!(delivery.state, State::Waiting { due } if due <= now);
        let free = after.take_while(|(other, _, delivery)| !leased.contains(other) && is_due(delivery));
        let places: Vec<Place> = free.take(limit).map(|(place, ..)| place).collect();
        let (mut claims, mut size) = (Vec::new(), 0);
        for place in places {
            if size >= CLAIM_BYTES {
                break;
            }
            let claim = self.grant(place);
            size += claim.as_ref().map_or(0, |claim| claim.message.size());
            claims.extend(claim);
        }
        claims
    }

    pub(super) fn hand_over(&mut self, request: &HandOver) -> HandedOver {
        let pending = self.deliveries().filter_map(|((seq, ordinal), _, delivery)| {
            let since = delivery.pending_since();
            let is_own = delivery.is_waiting() && delivery.destination == request.destination;
            is_own.then_some(LatePosition { since, seq, ordinal })
        });
        let mut ahead: Vec<LatePosition> = pending.filter(|one| request.is_ahead(*one)).collect();
        ahead.sort_unstable();
        let late = ahead.iter().filter(|one| one.since <= request.until);
        let looked_at = late.count().min(request.limit);
        let mut handed = HandedOver {
            next: ahead.get(looked_at).map(|next| next.since),
            ..HandedOver::default()
        };
        for position in ahead.into_iter().take(looked_at) {
            handed.last = Some(position);
            let found = self.messages.get(&position.seq);
            let Some(found) = found.filter(|found| found.message.redacted_at.is_none()) else {
                continue;
            };
            let mut all = found.deliveries.iter();
            let delivery = all.find(|delivery| delivery.id.ordinal == position.ordinal);
            let new = delivery.and_then(|one| Some((one.id, request.of(one, &found.deliveries)?)));
            if let Some((id, follow_up)) = new {
                let added = self.add(position.seq, follow_up);
                handed.deliveries.extend(added.map(|added| (id, added)));
            }
        }
        handed
    }

    pub(super) fn answered(&mut self, claim: &Claim) -> bool {
        let Some(&place) = self.leases.get(&claim.token) else {
            return false;
        };
        let queue = claim.delivery.queue(claim.message.conversation());
        let mut after = self.deliveries().filter(|(other, found, delivery)| {
            *other > place
                && delivery.is_waiting()
                && delivery.destination == claim.delivery.destination
                && delivery.queue(found.message.conversation()) == queue
        });
        let is_followed = after.next().is_some();
        drop(after);
        if is_followed {
            self.answered.insert(place);
        }
        is_followed
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<Vec<DeliveryId>, Error> {
        let Settlement {
            token,
            delivery,
            follow_ups,
            thread,
        } = settlement.clone();
        let place = *self.leases.get(&token).ok_or(Error::LostClaim)?;
        let conversation = self
            .messages
            .get(&place.0)
            .ok_or(Error::LostClaim)?
            .message
            .conversation();
        let old = self
            .delivery(place)
            .filter(|old| old.id == delivery.id)
            .ok_or(Error::LostClaim)?;
        *old = delivery.clone();
        self.leases.remove(&token);
        self.answered.remove(&place);
        if let Some(thread) = thread {
            self.threads.insert(
                (delivery.destination.clone(), conversation),
                (thread, changed_at(&delivery)),
            );
        }
        let mut ids = Vec::new();
        for follow_up in follow_ups {
            let there = self.messages.get(&place.0).map(|found| &*found.deliveries);
            if is_new(&follow_up, there.unwrap_or_default()) {
                ids.extend(self.add(place.0, follow_up));
            }
        }
        if let Some(found) = self.messages.get_mut(&place.0) {
            for covered in covered(&found.deliveries, changed_at(&delivery)) {
                let mut all = found.deliveries.iter_mut();
                all.find(|dead| dead.id == covered.id)
                    .into_iter()
                    .for_each(|dead| *dead = covered.clone());
            }
        }
        if !delivery.is_waiting() {
            self.count_ended(place.0);
        }
        Ok(ids)
    }

    pub(super) fn held(
        &mut self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error> {
        let waiting = self.deliveries().filter(|(place, found, delivery)| {
            delivery.is_waiting()
                && !self.answered.contains(place)
                && delivery.destination == *destination
                && found.message.conversation() == conversation
        });
        let held: BTreeSet<&String> = waiting
            .filter_map(|(.., delivery)| delivery.recipient.as_ref())
            .collect();
        let held = recipients.iter().filter(|recipient| held.contains(recipient));
        Ok(held.cloned().collect())
    }

    /// The first pending delivery of every conversation without a claim, in the order of acceptance.
    pub(super) fn heads(&self, destination: &Name) -> Vec<Head> {
        let leased: BTreeSet<Place> = self.leases.values().copied().collect();
        let mut heads = BTreeMap::new();
        let mut busy = BTreeSet::new();
        for (place, found, delivery) in self
            .deliveries()
            .filter(|(.., delivery)| delivery.destination == *destination)
        {
            if self.answered.contains(&place) {
                continue;
            }
            let queue = delivery.queue(found.message.conversation());
            if leased.contains(&place) {
                busy.insert(queue);
            }
            if let State::Waiting { due } = delivery.state {
                heads.entry(queue).or_insert(Head {
                    due,
                    pending_since: delivery.pending_since(),
                    place,
                });
            }
        }
        let mut heads: Vec<_> = heads
            .into_iter()
            .filter(|(queue, _)| !busy.contains(queue))
            .map(|(_, head)| head)
            .collect();
        heads.sort_by_key(|head| head.place);
        heads
    }

    fn grant(&mut self, place: Place) -> Option<Claim> {
        let found = self.messages.get(&place.0)?;
        let delivery = found
            .deliveries
            .iter()
            .find(|delivery| delivery.id.ordinal == place.1)?
            .clone();
        let message = Arc::new(found.message.clone());
        let thread = self
            .threads
            .get(&(delivery.destination.clone(), message.conversation()));
        let thread = thread.map(|(thread, _)| thread.clone());
        self.last_token += 1;
        self.leases.insert(self.last_token, place);
        Some(Claim {
            delivery,
            message,
            thread,
            token: self.last_token,
        })
    }
}
