//! A store in memory: the simplest implementation of the contract, which the tests compare the others with. It reads
//! everything for every query, and stores nothing on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::backup::{Part, Position};
use super::{
    Acceptance, Arrival, Backlog, Claim, Counts, DeliveryQuery, Discarded, Ended, Error, Found, HandOver,
    HandedOver, Health, MessageState, Overdue, PAGE_BYTES, Page, Query, Queued, Requeued, RetentionCutoffs,
    Selector, Settlement, Standings, Store, Turn, Undelivered, redacted,
};
use crate::metrics::series::Saved;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::model::notices::Notices;
use crate::timeline::Timeline;

mod claims;
mod commands;
mod export;
mod turns;

/// The store.
#[derive(Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    messages: BTreeMap<u64, Found>,
    seen: HashMap<(Name, String), Seen>,
    threads: HashMap<(Name, Conversation), (String, Timestamp)>,
    paused: BTreeSet<Name>,
    leases: HashMap<u64, Place>,
    /// The leased deliveries whose destination has answered.
    answered: BTreeSet<Place>,
    last_token: u64,
    accepted: u64,
    messages_purged: u64,
    created: u64,
    purged: u64,
    timeline: Option<Timeline>,
    standings: Standings,
    series: Option<Saved>,
    notices: Option<Notices>,
    /// The messages counted as ended, with the result.
    ended: BTreeSet<(u64, bool)>,
}

/// The message that a provider id belongs to.
struct Seen {
    id: MessageId,
    seq: u64,
    received_at: Timestamp,
}

/// The position of a delivery in the order of acceptance.
type Place = (u64, u16);

fn position((seq, ordinal): Place) -> u64 {
    seq << 16 | u64::from(ordinal)
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn deliveries(&self) -> impl DoubleEndedIterator<Item = (Place, &Found, &Delivery)> {
        self.messages.iter().flat_map(|(&seq, found)| {
            found
                .deliveries
                .iter()
                .map(move |delivery| ((seq, delivery.id.ordinal), found, delivery))
        })
    }

    fn seq(&self, id: MessageId) -> Option<u64> {
        self.messages
            .iter()
            .find(|(_, found)| found.message.id == id)
            .map(|(&seq, _)| seq)
    }

    fn delivery(&mut self, (seq, ordinal): Place) -> Option<&mut Delivery> {
        self.messages
            .get_mut(&seq)?
            .deliveries
            .iter_mut()
            .find(|delivery| delivery.id.ordinal == ordinal)
    }

    /// Adds a delivery to a stored message.
    fn add(&mut self, seq: u64, mut delivery: Delivery) -> Option<DeliveryId> {
        let found = self.messages.get_mut(&seq)?;
        let last = found.deliveries.last().map_or(0, |delivery| delivery.id.ordinal);
        delivery.id = DeliveryId {
            message: found.message.id,
            ordinal: last + 1,
        };
        let id = delivery.id;
        found.deliveries.push(delivery);
        self.created += 1;
        Some(id)
    }

    fn count(&self, wanted: impl Fn(&Delivery) -> bool) -> u64 {
        self.deliveries()
            .filter(|(.., delivery)| wanted(delivery))
            .count() as u64
    }

    fn counts(&self) -> Counts {
        Counts {
            accepted: self.accepted,
            messages_purged: self.messages_purged,
            created: self.created,
            delivered: self.count(|delivery| matches!(delivery.state, State::Delivered { .. })),
            dead: self.count(Delivery::is_dead),
            pending: self.count(Delivery::is_waiting),
            purged: self.purged,
        }
    }

    /// Called when a delivery of a message has ended: counts the message if none of its deliveries is pending.
    fn count_ended(&mut self, seq: u64) {
        let Some(found) = self.messages.get(&seq) else {
            return;
        };
        match found.state() {
            MessageState::Delivered => self.ended.insert((seq, true)),
            MessageState::Dead => self.ended.insert((seq, false)),
            MessageState::Pending | MessageState::Kept | MessageState::Unrouted => false,
        };
    }

    fn purge(&mut self, seq: u64) {
        if let Some(found) = self.messages.remove(&seq) {
            self.messages_purged += 1;
            self.purged += found.deliveries.len() as u64;
        }
    }
}

#[async_trait]
impl Store for Memory {
    async fn accept(&self, arrival: Arrival) -> Result<Acceptance, Error> {
        let Arrival {
            message,
            deliveries,
            dedup_since,
        } = arrival;
        let mut inner = self.inner();
        let key = (message.source.clone(), message.provider_id.clone());
        if !message.provider_id.is_empty() {
            if let Some(seen) = inner
                .seen
                .get(&key)
                .filter(|seen| seen.received_at >= dedup_since)
            {
                return Ok(Acceptance::Duplicate(seen.id));
            }
            let seen = Seen {
                id: message.id,
                seq: inner.accepted + 1,
                received_at: message.received_at,
            };
            inner.seen.insert(key, seen);
        }
        inner.accepted += 1;
        inner.created += deliveries.len() as u64;
        let seq = inner.accepted;
        inner.messages.insert(seq, Found { message, deliveries });
        Ok(Acceptance::New)
    }

    async fn claim(&self, destination: &Name, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error> {
        self.inner().claim(destination, now, limit)
    }

    async fn claim_overdue(
        &self,
        destination: &Name,
        pending_since: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error> {
        self.inner().claim_overdue(destination, pending_since, limit)
    }

    async fn claim_following(
        &self,
        claim: &Claim,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        Ok(self.inner().claim_following(claim, now, limit))
    }

    async fn hand_over(&self, request: &HandOver) -> Result<Option<HandedOver>, Error> {
        Ok(Some(self.inner().hand_over(request)))
    }

    async fn answered(&self, claim: &Claim) -> bool {
        self.inner().answered(claim)
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Vec<DeliveryId>, Error> {
        self.inner().settle(settlement)
    }

    async fn held(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error> {
        self.inner().held(destination, conversation, recipients)
    }

    async fn release(&self, claim: Claim) {
        let mut inner = self.inner();
        if let Some(place) = inner.leases.remove(&claim.token) {
            inner.answered.remove(&place);
        }
    }

    async fn next_due(&self, destination: &Name, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let heads = self.inner().heads(destination);
        Ok(heads.into_iter().map(|head| head.due.max(now)).min())
    }

    async fn queued(&self, id: MessageId) -> Result<Vec<Queued>, Error> {
        Ok(self.inner().queued(id))
    }

    async fn ahead(&self, destination: &Name, turn: Turn, now: Timestamp) -> Result<u64, Error> {
        let inner = self.inner();
        let turns = inner.turns(destination).into_keys();
        Ok(turns
            .filter(|other| other.seen_at(now) < turn.seen_at(now))
            .count() as u64)
    }

    async fn find(&self, id: MessageId) -> Result<Option<Found>, Error> {
        let inner = self.inner();
        Ok(inner.seq(id).and_then(|seq| inner.messages.get(&seq).cloned()))
    }

    async fn messages(&self, query: &Query) -> Result<Page<Found>, Error> {
        let inner = self.inner();
        let below = inner.messages.range(..query.cursor.unwrap_or(u64::MAX)).rev();
        let mut matching = below.filter(|(_, found)| {
            query.matches(&found.message) && query.state.is_none_or(|state| found.is(state))
        });
        let (mut items, mut size) = (Vec::new(), 0);
        let next = matching.find_map(|(seq, found)| {
            if items.len() >= query.limit || size >= PAGE_BYTES {
                return Some(seq + 1);
            }
            size += found.size();
            items.push(found.clone());
            None
        });
        Ok(Page { items, next })
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let inner = self.inner();
        let below = inner
            .deliveries()
            .rev()
            .filter(|(place, ..)| query.cursor.is_none_or(|at| position(*place) < at));
        let mut matching = below.filter(|(.., delivery)| query.matches(delivery));
        let items = matching
            .by_ref()
            .take(query.limit)
            .map(|(.., delivery)| delivery.clone())
            .collect();
        Ok(Page {
            items,
            next: matching.next().map(|(place, ..)| position(place) + 1),
        })
    }

    async fn oldest_pending(&self, destination: &Name) -> Result<Option<Delivery>, Error> {
        let inner = self.inner();
        let mut deliveries = inner.deliveries().map(|(.., delivery)| delivery);
        let oldest =
            deliveries.find(|delivery| delivery.destination == *destination && delivery.is_waiting());
        Ok(oldest.cloned())
    }

    async fn requeue(&self, selector: &Selector, now: Timestamp) -> Result<Requeued, Error> {
        self.inner().requeue(selector, now)
    }

    async fn retry_now(&self, destination: &Name, now: Timestamp) -> Result<u64, Error> {
        self.inner().retry_now(destination, now)
    }

    async fn advance(&self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error> {
        self.inner().advance(beyond, now)
    }

    async fn acknowledge_dead(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.inner().acknowledge_dead(selector, since, now)
    }

    async fn discard(&self, selector: &Selector, now: Timestamp, reason: &str) -> Result<Discarded, Error> {
        self.inner().discard(selector, now, reason)
    }

    async fn add_deliveries(
        &self,
        id: MessageId,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeliveryId>, Error> {
        self.inner().add_deliveries(id, deliveries)
    }

    async fn backlog(&self, destination: &Name) -> Result<Backlog, Error> {
        let inner = self.inner();
        let own = |delivery: &&Delivery| delivery.destination == *destination;
        let waiting = |delivery: &&Delivery| delivery.is_waiting();
        let all = inner.deliveries().map(|(.., delivery)| delivery);
        Ok(Backlog {
            pending: inner.count(|delivery| own(&delivery) && delivery.is_waiting()),
            dead: inner.count(|delivery| own(&delivery) && delivery.needs_attention()),
            acknowledged: inner.count(|delivery| own(&delivery) && delivery.acknowledged.is_some()),
            oldest: all.filter(own).filter(waiting).map(Delivery::pending_since).min(),
        })
    }

    async fn destinations(&self) -> Result<Vec<Name>, Error> {
        let inner = self.inner();
        let created = inner
            .deliveries()
            .map(|(.., delivery)| delivery.destination.clone());
        let all: BTreeSet<Name> = created.chain(inner.paused.iter().cloned()).collect();
        Ok(all.into_iter().collect())
    }

    async fn set_paused(&self, destination: &Name, paused: bool) -> Result<(), Error> {
        let mut inner = self.inner();
        if paused {
            inner.paused.insert(destination.clone());
        } else {
            inner.paused.remove(destination);
        }
        Ok(())
    }

    async fn paused(&self) -> Result<Vec<Name>, Error> {
        Ok(self.inner().paused.iter().cloned().collect())
    }

    async fn set_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        self.inner().timeline = Some(timeline.clone());
        Ok(())
    }

    async fn timeline(&self) -> Result<Option<Timeline>, Error> {
        Ok(self.inner().timeline.clone())
    }

    async fn set_series(&self, series: &Saved) -> Result<(), Error> {
        self.inner().series = Some(series.clone());
        Ok(())
    }

    async fn series(&self) -> Result<Option<Saved>, Error> {
        Ok(self.inner().series.clone())
    }

    async fn set_notices(&self, notices: &Notices) -> Result<(), Error> {
        self.inner().notices = Some(notices.clone());
        Ok(())
    }

    async fn notices(&self) -> Result<Option<Notices>, Error> {
        Ok(self.inner().notices.clone())
    }

    fn ended(&self) -> Ended {
        let inner = self.inner();
        let delivered = inner
            .ended
            .iter()
            .filter(|(_, is_delivered)| *is_delivered)
            .count() as u64;
        Ended {
            delivered,
            dead: inner.ended.len() as u64 - delivered,
        }
    }

    fn undelivered(&self) -> Undelivered {
        let inner = self.inner();
        let count = |state| {
            let found = inner.messages.values();
            found.filter(|found| found.state() == state).count() as u64
        };
        Undelivered {
            kept: count(MessageState::Kept),
            unrouted: count(MessageState::Unrouted),
        }
    }

    async fn set_standings(&self, standings: &Standings) -> Result<(), Error> {
        self.inner().standings = standings.clone();
        Ok(())
    }

    async fn standings(&self) -> Result<Standings, Error> {
        Ok(self.inner().standings.clone())
    }

    async fn prune(&self, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<bool, Error> {
        let mut inner = self.inner();
        let ended: Vec<(u64, Timestamp)> = inner
            .messages
            .iter()
            .filter(|(_, found)| !found.deliveries.iter().any(Delivery::is_waiting))
            .map(|(&seq, found)| (seq, found.message.received_at))
            .collect();
        for (seq, received_at) in ended {
            if cutoffs.purge_before.is_some_and(|before| received_at < before) {
                inner.purge(seq);
            } else if cutoffs.redact_before.is_some_and(|before| received_at < before)
                && let Some(found) = inner.messages.get_mut(&seq)
                && found.message.redacted_at.is_none()
            {
                found.message = redacted(found.message.clone(), now);
            }
        }
        inner
            .seen
            .retain(|_, seen| seen.received_at >= cutoffs.dedup_before);
        inner
            .threads
            .retain(|_, (_, at)| cutoffs.purge_before.is_none_or(|before| *at >= before));
        Ok(false)
    }

    async fn counts(&self) -> Result<Counts, Error> {
        Ok(self.inner().counts())
    }

    async fn export(&self, from: Position) -> Result<Part, Error> {
        Ok(self.inner().export(&from))
    }

    fn health(&self) -> Health {
        Health::default()
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
