//! Lists, retries, acknowledges and discards deliveries.

use std::collections::{BTreeMap, BTreeSet};

use super::pending::{self, Lane, Place};
use super::view::{DeliveryView, Page, PendingView, Retried, RetryOutcome, RetryView, Touched};
use super::{Control, Error};
use crate::engine::events::Event;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{MessageId, Name, Timestamp};
use crate::plan::Plan;
use crate::store::{DeliveryQuery, Found, Selector};

/// The deliveries ahead are counted for at most this many deliveries of one request.
const COUNTED_MAX: usize = 50;

/// The positions of pending deliveries in the queues of their destinations.
pub(super) type Places = BTreeMap<DeliveryId, Place>;

impl Control {
    /// Lists deliveries, newest message first.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryView>, Error> {
        let page = self.store.deliveries(query).await?;
        let mut places = Places::new();
        for delivery in page.items.iter().filter(|delivery| delivery.is_waiting()) {
            if !places.contains_key(&delivery.id) {
                let queued = self.store.queued(delivery.id.message).await?.into_iter();
                places.extend(queued.map(|queued| (queued.id, Place { queued, ahead: None })));
            }
        }
        Ok(Page {
            items: self.delivery_views(&self.plan(), &page.items, None, &places),
            next: page.next.map(|cursor| cursor.to_string()),
        })
    }

    /// Returns one delivery.
    ///
    /// # Errors
    /// If no delivery has this id.
    pub async fn delivery(&self, id: DeliveryId) -> Result<DeliveryView, Error> {
        let none = || Error::NotFound(format!("no delivery {id}"));
        let found = self.store.find(id.message).await?.ok_or_else(none)?;
        let places = self
            .places(&found, COUNTED_MAX, |name| self.next_attempt_at(name))
            .await?;
        let views = self.message_deliveries(&self.plan(), &found, &places);
        views.into_iter().find(|view| view.id == id).ok_or_else(none)
    }

    /// Shows deliveries. Without its place in `places`, the cause that a pending delivery waits for is less exact.
    fn delivery_views(
        &self,
        plan: &Plan,
        deliveries: &[Delivery],
        received_at: Option<Timestamp>,
        places: &Places,
    ) -> Vec<DeliveryView> {
        let mut lanes: BTreeMap<&Name, Option<Lane<'_>>> = BTreeMap::new();
        let views = deliveries.iter().map(|delivery| {
            let name = &delivery.destination;
            let lane = lanes.entry(name).or_insert_with(|| self.lane(plan, name));
            let pending = pending::view(delivery, places.get(&delivery.id), lane.as_ref(), &self.clock);
            DeliveryView::of(delivery, &self.clock, received_at, pending)
        });
        views.collect()
    }

    /// Shows all deliveries of a message; dead ones name the fallback that delivered it, and fallbacks the destination
    /// of the dead one.
    pub(super) fn message_deliveries(
        &self,
        plan: &Plan,
        found: &Found,
        places: &Places,
    ) -> Vec<DeliveryView> {
        let all = &found.deliveries;
        let mut views = self.delivery_views(plan, all, Some(found.message.received_at), places);
        for (view, delivery) in views.iter_mut().zip(all) {
            view.delivered_by = delivery.delivered_by(all).cloned();
            view.fallback_of = delivery.fallback_of(all).cloned();
        }
        views
    }

    /// The positions of a message's pending deliveries. For the first `counted` of them, the deliveries ahead are counted
    /// that come before it at the time `at`.
    pub(super) async fn places(
        &self,
        found: &Found,
        counted: usize,
        at: impl Fn(&Name) -> Timestamp,
    ) -> Result<Places, Error> {
        let mut places = Places::new();
        if !found.deliveries.iter().any(Delivery::is_waiting) {
            return Ok(places);
        }
        for queued in self.store.queued(found.message.id).await? {
            let delivery = found.deliveries.iter().find(|delivery| delivery.id == queued.id);
            let ahead = match delivery.filter(|_| places.len() < counted) {
                Some(delivery) => {
                    let name = &delivery.destination;
                    Some(self.store.ahead(name, queued.turn, at(name)).await?)
                }
                None => None,
            };
            places.insert(queued.id, Place { queued, ahead });
        }
        Ok(places)
    }

    /// When the next attempt at a destination may start. Which delivery it takes depends on what is due then.
    pub(super) fn next_attempt_at(&self, name: &Name) -> Timestamp {
        let now = self.clock.now();
        let open = self.lanes.outlook(name).and_then(|outlook| outlook.open);
        open.map_or(now, |open| open.until.max(now))
    }

    /// The configuration and current state of a destination; `None` if it is not configured.
    fn lane<'a>(&self, plan: &'a Plan, name: &Name) -> Option<Lane<'a>> {
        let planned = plan.destinations.get(name)?;
        // A destination that was configured a moment ago has no lane yet, and nothing delays its deliveries.
        let outlook = self.lanes.outlook(name).unwrap_or_default();
        Some(Lane { planned, outlook })
    }

    /// Makes deliveries due now and starts attempts as far as their destinations allow: a destination that is paused
    /// or has requested a pause gets no message, and one that is parked or down is probed. When a destination is
    /// selected, deliveries of redacted messages are skipped and counted.
    ///
    /// # Errors
    /// If one of the given deliveries belongs to a redacted message, in which case none is retried. Errors of the
    /// store.
    pub async fn retry(&self, selector: &Selector) -> Result<Retried, Error> {
        if let Some(what) = self.stopping() {
            return Err(Error::Unavailable(format!(
                "smsbridge is stopping ({what}): nothing is sent until it is started again"
            )));
        }
        if let Selector::Ids(ids) = selector {
            self.refuse_redacted(ids).await?;
        }
        let requeued = self.store.requeue(selector, self.clock.now()).await?;
        // Read the state before the retry starts attempts, because those would be reported as already in progress.
        let results = match selector {
            Selector::Ids(ids) => self.retried(ids).await?,
            Selector::Dead(name) | Selector::Pending(name) => self
                .retried_all(name, requeued.touched + requeued.due)
                .into_iter()
                .collect(),
        };
        for name in self.concerned(selector).await? {
            self.lanes.probe(&name);
        }
        Ok(Retried {
            deliveries: requeued.touched,
            already_due: requeued.due,
            attempting: requeued.claimed,
            redacted: requeued.redacted,
            results,
        })
    }

    async fn retried(&self, ids: &[DeliveryId]) -> Result<Vec<RetryView>, Error> {
        let plan = self.plan();
        let mut messages: BTreeMap<MessageId, Option<(Found, Places)>> = BTreeMap::new();
        let mut results = Vec::with_capacity(ids.len());
        // The attempt that the retry starts takes what is due now.
        let now = self.clock.now();
        for &id in ids {
            if let std::collections::btree_map::Entry::Vacant(entry) = messages.entry(id.message) {
                let counted = COUNTED_MAX.saturating_sub(results.len());
                let found = match self.store.find(id.message).await? {
                    Some(found) => Some((self.places(&found, counted, |_| now).await?, found)),
                    None => None,
                };
                entry.insert(found.map(|(places, found)| (found, places)));
            }
            let message = messages.get(&id.message).and_then(Option::as_ref);
            let delivery = message.and_then(|(found, places)| {
                let delivery = found.deliveries.iter().find(|delivery| delivery.id == id)?;
                Some((delivery, places.get(&id)))
            });
            results.push(match delivery {
                Some((delivery, place)) => self.retried_one(&plan, delivery, place),
                None => RetryView::unknown(id),
            });
        }
        Ok(results)
    }

    fn retried_one(&self, plan: &Plan, delivery: &Delivery, place: Option<&Place>) -> RetryView {
        let lane = self.lane(plan, &delivery.destination);
        let pending = pending::view(delivery, place, lane.as_ref(), &self.clock);
        let outcome = match (&delivery.state, &pending) {
            (State::Delivered { .. }, _) => RetryOutcome::Delivered,
            (_, Some(pending)) => pending.retried(),
            // It ended a moment ago.
            _ => RetryOutcome::Attempting,
        };
        RetryView::of(Some(delivery.id), &delivery.destination, outcome, pending)
    }

    /// The effect of a retry on all selected deliveries of a destination; `None` if there are none.
    fn retried_all(&self, name: &Name, due: u64) -> Option<RetryView> {
        let pending = pending::of_destination(name, self.lane(&self.plan(), name).as_ref(), &self.clock);
        let outcome = pending.as_ref().map(PendingView::retried);
        let outcome = outcome.or((due > 0).then_some(RetryOutcome::Tried))?;
        Some(RetryView::of(None, name, outcome, pending))
    }

    async fn refuse_redacted(&self, ids: &[DeliveryId]) -> Result<(), Error> {
        for id in ids {
            let found = self.store.find(id.message).await?;
            if found.is_some_and(|found| found.message.redacted_at.is_some()) {
                return Err(Error::Wrong(format!(
                    "delivery {id} cannot be retried: the content of its message was removed (store.redact_after)"
                )));
            }
        }
        Ok(())
    }

    /// Acknowledges dead deliveries, which then need no attention. `since` limits this to those given up at or after
    /// it.
    ///
    /// # Errors
    /// If the selector asks for pending deliveries. Errors of the store.
    pub async fn acknowledge_dead(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
    ) -> Result<Touched, Error> {
        if let Selector::Pending(_) = selector {
            return Err(Error::Wrong(
                "`state`: only `dead` deliveries can be acknowledged".to_owned(),
            ));
        }
        let deliveries = self
            .store
            .acknowledge_dead(selector, since, self.clock.now())
            .await?;
        for name in self.concerned(selector).await? {
            self.lanes.announce(&name);
        }
        Ok(Touched {
            deliveries,
            ..Touched::default()
        })
    }

    /// Gives up pending deliveries.
    ///
    /// # Errors
    /// If the selector asks for dead deliveries: operators of mail queues expect this command to remove them, but it
    /// would do nothing. Errors of the store.
    pub async fn discard(&self, selector: &Selector) -> Result<Touched, Error> {
        if let Selector::Dead(_) = selector {
            return Err(Error::Wrong(DEAD_ALREADY.to_owned()));
        }
        let discarded = self.store.discard(selector, self.clock.now(), DISCARDED).await?;
        for name in self.concerned(selector).await? {
            self.lanes.wake(&name);
            self.lanes.announce(&name);
        }
        Ok(Touched {
            deliveries: discarded.touched,
            attempting: discarded.claimed,
            ..Touched::default()
        })
    }

    /// The destinations of the selected deliveries. Publishes an event for each delivery that is given by its id.
    async fn concerned(&self, selector: &Selector) -> Result<Vec<Name>, Error> {
        let ids = match selector {
            Selector::Dead(name) | Selector::Pending(name) => return Ok(vec![name.clone()]),
            Selector::Ids(ids) => ids,
        };
        let mut names = BTreeSet::new();
        for id in ids {
            let found = self.store.find(id.message).await?;
            let deliveries = found.iter().flat_map(|found| &found.deliveries);
            for delivery in deliveries.filter(|delivery| delivery.id == *id) {
                self.lanes.events().publish(|| Event::delivery(delivery));
                names.insert(delivery.destination.clone());
            }
        }
        Ok(names.into_iter().collect())
    }
}

/// The reason of a dead delivery that an operator discarded.
pub const DISCARDED: &str = "discarded by the operator";

/// Error for an attempt to discard dead deliveries; says what can be done instead.
pub const DEAD_ALREADY: &str = "`state`: dead deliveries were given up already. They can be retried (`smsbridge delivery retry`) or \
     acknowledged (`smsbridge delivery acknowledge`), and are removed with their messages after `store.retain`; only \
     `pending` deliveries can be discarded";
