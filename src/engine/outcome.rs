//! Records the outcome of an attempt, and reports it: to the log, the metrics and the subscribers of events.

use std::time::Duration;

use super::circuit_breaker::{Cause, Change};
use super::lane_state::LaneState;
use super::trial::age;
use crate::engine::events::Event;
use crate::mask::Reason;
use crate::metrics::{ByDestination, OUTCOMES, Outcome};
use crate::model::delivery::{Delivery, State};
use crate::model::message::Name;
use crate::store::{Error, Settlement, Store};

/// Records the outcome. A busy or full store is retried without limit: the lease holds until the process ends, and a
/// delivery that was sent but not recorded would be sent again after a restart. `why` contains the reason to log for
/// the delivery, and for each recipient that got its own delivery; `None` if no attempt was made.
pub(super) async fn settle(lane: &LaneState, settlement: Settlement, why: Vec<Option<Reason>>) {
    let (id, name) = (settlement.delivery.id, &lane.name);
    let ids = loop {
        match lane.store.settle(&settlement).await {
            Ok(ids) => break Some(ids),
            Err(Error::LostClaim) if is_recorded(&*lane.store, &settlement.delivery).await => break None,
            Err(Error::LostClaim) => {
                tracing::warn!(delivery.id = %id, destination = %name, "the outcome of a delivery to {name} was not recorded: the claim was lost meanwhile");
                return;
            }
            Err(Error::Busy | Error::Slow | Error::Full(_) | Error::Unavailable(_)) => {
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
            Err(error @ (Error::Failed(_) | Error::NotFound)) => {
                tracing::error!(delivery.id = %id, destination = %name, "the outcome of a delivery could not be written: {error}");
                return;
            }
        }
    };
    let Settlement {
        delivery, follow_ups, ..
    } = settlement;
    let (own, fallback): (Vec<_>, Vec<_>) = follow_ups
        .into_iter()
        .partition(|delivery| delivery.recipient.is_some());
    // A fallback is the last one. It is not created if the message already has a delivery for that destination.
    let is_there = ids.as_ref().is_some_and(|ids| ids.len() <= own.len());
    let fallback = fallback.first().filter(|_| !is_there);
    let fallback = fallback.map(|fallback| &fallback.destination);
    let numbered = own.into_iter().enumerate().map(|(index, own)| Delivery {
        id: ids
            .as_ref()
            .and_then(|ids| ids.get(index).copied())
            .unwrap_or(own.id),
        ..own
    });
    for (delivery, why) in std::iter::once(delivery).chain(numbered).zip(&why) {
        announce(lane, &delivery, fallback, why.as_ref());
    }
    if let Some(fallback) = fallback {
        lane.wake_other(fallback);
    }
}

/// Returns true if the store contains this outcome: a commit that was reported as late had recorded it and ended the
/// lease.
async fn is_recorded(store: &dyn Store, delivery: &Delivery) -> bool {
    let found = store.find(delivery.id.message).await;
    matches!(found, Ok(Some(found)) if found.deliveries.contains(delivery))
}

/// Counts and logs a recorded outcome, and publishes an event.
fn announce(lane: &LaneState, delivery: &Delivery, fallback: Option<&Name>, why: Option<&Reason>) {
    let (id, name, attempts) = (delivery.id, &lane.name, delivery.attempts_made);
    let is_tried = why.is_some();
    let why = why.map(Reason::logged).unwrap_or_default();
    match &delivery.state {
        State::Waiting { due } if is_tried => {
            count(lane, "retried");
            let due = age(due.since(lane.clock.now()));
            tracing::debug!(delivery.id = %id, destination = %name, attempts, "attempt at {name} failed: {why}; next attempt in {due}");
        }
        State::Waiting { .. } => {}
        State::Delivered { .. } => {
            count(lane, "delivered");
            let now = lane.clock.now();
            lane.metrics.rates.delivered.count(now);
            lane.metrics
                .end_to_end
                .get_or_create(&ByDestination {
                    destination: name.to_string(),
                })
                .observe(now.since(delivery.created_at).as_secs_f64());
            tracing::info!(delivery.id = %id, destination = %name, attempts, "delivered to {name}");
        }
        State::Dead { .. } => {
            count(lane, "dead");
            tracing::error!(delivery.id = %id, destination = %name, attempts, fallback = fallback.map(tracing::field::display), "delivery to {name} failed permanently: {why}; dead letter {id}");
        }
    }
    lane.events.publish(|| Event::delivery(delivery));
}

fn count(lane: &LaneState, outcome: &'static str) {
    debug_assert!(
        OUTCOMES.contains(&outcome),
        "{outcome} has no series from the start"
    );
    lane.metrics
        .deliveries
        .get_or_create(&Outcome {
            destination: lane.name.to_string(),
            outcome,
        })
        .inc();
}

/// The pause between two attempts to record an outcome. They end when the daemon stops or the store fails.
const SETTLE_PAUSE: Duration = Duration::from_millis(250);

/// Reports a change of the circuit breaker. After an outage, deliveries that failed during it are due at once.
pub(super) async fn breaker_changed(lane: &LaneState, change: Option<Change>) {
    let Some(change) = change else { return };
    lane.announce();
    let has_recovered = matches!(change, Change::Closed(_));
    log_change(lane, change).await;
    if has_recovered {
        let name = &lane.name;
        if let Err(error) = lane.store.retry_now(name, lane.clock.now()).await {
            tracing::warn!(destination = %name, "deliveries to {name} that failed during the outage keep their next attempt: {error}");
        }
        lane.wake();
    }
}

/// Logs one line per change, not per attempt.
async fn log_change(lane: &LaneState, change: Change) {
    let name = &lane.name;
    let waiting = lane
        .store
        .backlog(name)
        .await
        .map(|backlog| backlog.pending)
        .unwrap_or_default();
    let (cause, again) = match change {
        Change::Closed(since) => {
            let out = age(lane.clock.now().since(since));
            tracing::info!(destination = %name, waiting, "destination {name} recovered after {out}; {waiting} pending");
            return;
        }
        Change::Opened(cause) => (cause, ""),
        Change::StillOpen(cause) => (cause, "still "),
    };
    let Some(open) = lane.breaker().open().cloned() else {
        return;
    };
    let next = age(open.until.since(lane.clock.now()));
    let reason = open.reason.logged();
    match cause {
        Cause::Limited => {
            tracing::info!(destination = %name, waiting, "destination {name} is {again}rate limiting: {reason}; {waiting} pending, next attempt in {next}");
        }
        Cause::Down => {
            tracing::warn!(destination = %name, waiting, "destination {name} is {again}unreachable: {reason}; {waiting} pending, next attempt in {next}");
        }
        Cause::Parked => {
            tracing::error!(destination = %name, waiting, "destination {name} is {again}parked, configuration needs fixing: {reason}; {waiting} pending, next check in {next}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::engine::attempt::pending;
    use crate::engine::clock::Clock;
    use crate::engine::events::Events;
    use crate::engine::lane_state::LaneContext;
    use crate::model::delivery::{Attempt, DeliveryId, Verdict};
    use crate::model::message::{Message, MessageId, Timestamp};
    use crate::model::number::Number;
    use crate::store::memory::Memory;
    use crate::store::{Arrival, Claim};

    /// A store with one delivery, which is claimed.
    async fn claimed() -> (Arc<Memory>, Claim) {
        let (id, desk) = (MessageId(uuid::Uuid::from_u128(1)), "desk".parse().unwrap());
        let delivery = Delivery::new(
            DeliveryId {
                message: id,
                ordinal: 1,
            },
            desk,
            None,
            Timestamp(1),
        );
        let message = Message {
            id,
            source: "carrier".parse().unwrap(),
            provider_id: String::new(),
            from: Number::parse("+13035550100").unwrap(),
            to: Number::parse("+13038675309").unwrap(),
            text: "hello".to_owned(),
            media: Vec::new(),
            extra: std::collections::BTreeMap::new(),
            received_at: Timestamp(1),
            routes: Vec::new(),
            redacted_at: None,
        };
        let store = Arc::new(Memory::new());
        let arrival = Arrival {
            message,
            deliveries: vec![delivery.clone()],
            dedup_since: Timestamp(0),
        };
        store.accept(arrival).await.unwrap();
        let claim = store
            .claim(&delivery.destination, Timestamp(1), 1)
            .await
            .unwrap()
            .remove(0);
        (store, claim)
    }

    fn delivered(claim: Claim) -> Settlement {
        let attempt = Attempt::new(Timestamp(2), Duration::ZERO, Verdict::Delivered, "ok");
        pending(claim.token, claim.delivery.delivered(attempt))
    }

    #[tokio::test]
    async fn an_outcome_that_was_recorded_late_is_recognized() {
        let (store, claim) = claimed().await;
        let settlement = delivered(claim);
        assert!(!is_recorded(&*store, &settlement.delivery).await);
        store.settle(&settlement).await.unwrap();
        assert_eq!(store.settle(&settlement).await, Err(Error::LostClaim));
        assert!(is_recorded(&*store, &settlement.delivery).await);
    }

    #[tokio::test]
    async fn a_delivery_whose_claim_was_lost_is_not_counted_as_delivered() {
        let (store, claim) = claimed().await;
        let context = LaneContext {
            store: store.clone(),
            clock: Clock::of(|| Timestamp(3)),
            metrics: Arc::default(),
            events: Events::default(),
        };
        let name = claim.delivery.destination.clone();
        let standing = crate::store::Standing::default();
        let lane = LaneState::new(name, &context, Weak::new(), Arc::default(), false, standing);
        let mut events = context.events.subscribe();
        let counted = |outcome| {
            let destination = lane.name.to_string();
            let outcome = Outcome { destination, outcome };
            context.metrics.deliveries.get_or_create(&outcome).get()
        };
        let other = pending(
            claim.token,
            claim.delivery.clone().dead(None, Timestamp(2), "other"),
        );
        store.settle(&other).await.unwrap();
        settle(&lane, delivered(claim), vec![Some(Reason::default())]).await;
        assert_eq!(counted("delivered"), 0);
        assert_eq!(
            context.metrics.rates.delivered.per_minute(Timestamp(3)).last_1m,
            0.0
        );
        assert!(events.try_recv().is_err(), "no event either");
        let kept = store.find(other.delivery.id.message).await.unwrap().unwrap();
        let outcome_of_other = std::slice::from_ref(&other.delivery);
        assert_eq!(kept.deliveries, outcome_of_other);
        // One that was recorded, although it was reported late, is counted.
        settle(&lane, other, vec![None]).await;
        assert_eq!(counted("dead"), 1);
    }
}
