//! One attempt at one delivery: renders the message, sends it, decides the outcome, and records it.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::circuit_breaker::{Cause, Change, CircuitBreaker};
use super::lane_state::LaneState;
use super::trial::{Trial, age};
use crate::destination::{Delivered, Failure, Fallback, OutboundMessage, Recipients, Scope};
use crate::engine::clock::Stopwatch;
use crate::engine::events::Event;
use crate::mask::Reason;
use crate::metrics::{ByDestination, OUTCOMES, Outcome};
use crate::model::delivery::{Attempt, Delivery, State, Verdict};
use crate::model::message::{Name, Timestamp};
use crate::plan::{Plan, PlannedDestination};
use crate::retry::Next;
use crate::store::{Claim, Error, Settlement, Store};

/// Runs one claimed delivery until its outcome is recorded. `stop` cancels it until sending has begun.
pub(super) async fn run(
    lane: Arc<LaneState>,
    plan: Arc<Plan>,
    destination: Arc<PlannedDestination>,
    claim: Claim,
    stop: CancellationToken,
) {
    if claim.message.redacted_at.is_some() {
        let settlement = without_content(claim, lane.clock.now());
        return settle(&lane, settlement, vec![Some(CONTENT_REMOVED.into())]).await;
    }
    let permit = tokio::select! {
        permit = destination.destination.permit() => permit,
        () = stop.cancelled() => return lane.store.release(claim).await,
    };
    let Ok(held) = held(&lane, &destination, &claim).await else {
        return lane.store.release(claim).await;
    };
    // A fallback names the delivery that it replaces. If that cannot be read, the message is sent without the name.
    let origin = match claim.delivery.origin {
        Some(_) => lane.store.find(claim.delivery.id.message).await.ok().flatten(),
        None => None,
    };
    let others = origin.map(|found| found.deliveries).unwrap_or_default();
    // Another process may serve the destination by now, and send the message.
    if !lane.store.holds(&claim) {
        return lane.store.release(claim).await;
    }
    let epoch = lane.breaker().epoch();
    let started = lane.clock.now();
    let stopwatch = Stopwatch::start();
    let attempting = lane.attempt(claim.token);
    let outcome = match &permit {
        Ok(_permit) => send(&plan, &destination, &claim, &held, &others).await,
        Err(failure) => Err(failure.clone()),
    };
    let took = stopwatch.elapsed();
    drop((permit, attempting));
    lane.attempted(ended(&outcome, started, took));
    let by = ByDestination {
        destination: destination.name.to_string(),
    };
    lane.metrics
        .delivery_duration
        .get_or_create(&by)
        .observe(took.as_secs_f64());
    let (settlement, why) = match outcome {
        Ok(delivered) => (
            succeeded(&lane, claim, delivered, started, took).await,
            vec![Some(Reason::default())],
        ),
        Err(failure) => failed(&lane, &destination, epoch, claim, &failure, started, took).await,
    };
    settle(&lane, settlement, why).await;
}

/// The record of an attempt for its destination.
fn ended(outcome: &Result<Delivered, Failure>, started: Timestamp, took: Duration) -> Attempt {
    let (verdict, detail) = match outcome {
        Ok(delivered) => (Verdict::Delivered, delivered.detail.as_str()),
        Err(failure) => (failure.verdict(), failure.reason().shown()),
    };
    Attempt::new(started, took, verdict, detail)
}

/// The recipients that must wait for an earlier message of the conversation. The claim blocks the conversation, so
/// the list does not grow meanwhile.
async fn held(
    lane: &LaneState,
    destination: &PlannedDestination,
    claim: &Claim,
) -> Result<Vec<String>, Error> {
    let recipients = destination.destination.recipients();
    if recipients.is_empty() || claim.delivery.recipient.is_some() {
        return Ok(Vec::new());
    }
    let conversation = claim.message.conversation();
    lane.store.held(&lane.name, conversation, recipients).await
}

/// An attempt that takes longer than this is logged: otherwise nothing would be logged before its end.
const SLOW: Duration = Duration::from_secs(60);

/// Gives up a delivery whose message was redacted: it would arrive as an empty message from a masked number. Retry
/// and resend reject such messages, so this one comes from an earlier version or from a backup.
fn without_content(claim: Claim, now: Timestamp) -> Settlement {
    pending(claim.token, claim.delivery.dead(None, now, CONTENT_REMOVED))
}

const CONTENT_REMOVED: &str =
    "the content of the message was removed (store.redact_after) before it was delivered";

/// Sends the message with a time limit. A panic in the destination is reported as a failure of this message.
async fn send(
    plan: &Plan,
    destination: &PlannedDestination,
    claim: &Claim,
    held: &[String],
    others: &[Delivery],
) -> Result<Delivered, Failure> {
    let outbound = outbound(plan, claim, held, others);
    let mut sending = pin!(AssertUnwindSafe(destination.destination.deliver(&outbound)).catch_unwind());
    let limit = destination.attempt_max();
    let mut outcome = tokio::time::timeout(limit.min(SLOW), &mut sending).await;
    if outcome.is_err() && limit > SLOW {
        let name = &destination.name;
        tracing::warn!(delivery.id = %claim.delivery.id, destination = %name, "destination {name} has not answered for {}; the attempt times out after {}", age(SLOW), age(limit));
        outcome = tokio::time::timeout(limit - SLOW, sending).await;
    }
    match outcome {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(Failure::Transient {
            reason: "the code of this destination kind panicked on this message; please report it".into(),
            retry_after: None,
            scope: Scope::Message,
        }),
        Err(_elapsed) => Err(Failure::unreachable(format!(
            "no answer within {}",
            humantime::format_duration(limit)
        ))),
    }
}

/// Contacts, template and groups come from the current plan, so that a corrected template also applies to messages
/// accepted earlier.
fn outbound<'a>(
    plan: &'a Plan,
    claim: &'a Claim,
    held: &'a [String],
    others: &'a [Delivery],
) -> OutboundMessage<'a> {
    let message = &*claim.message;
    let route = claim
        .delivery
        .route
        .as_ref()
        .and_then(|name| plan.routes.get(name));
    OutboundMessage {
        id: claim.delivery.key(),
        message,
        from_name: plan.contact(message.from.normal()),
        to_name: plan.contact(message.to.normal()),
        route: claim.delivery.route.as_ref(),
        template: route.and_then(|route| route.template.as_ref()),
        groups: route.map(|route| route.groups(&message.text)).unwrap_or_default(),
        recipients: Recipients {
            only: claim.delivery.recipient.as_deref(),
            done: &claim.delivery.progress,
            held,
        },
        thread: claim.thread.as_deref(),
        fallback: claim
            .delivery
            .stands_in_for(others)
            .map(|(destination, reason)| Fallback { destination, reason }),
    }
}

async fn succeeded(
    lane: &LaneState,
    claim: Claim,
    delivered: Delivered,
    started: Timestamp,
    took: Duration,
) -> Settlement {
    let change = lane.breaker().works();
    breaker_changed(lane, change).await;
    lane.delivered_now();
    // The next message of the conversation does not wait until this outcome is on disk, unless it is a reply to this
    // message. Until then this delivery counts towards `concurrency`, which limits how many messages a crash can
    // repeat.
    if delivered.thread.is_none() && lane.store.answered(&claim).await {
        lane.wake();
    }
    let attempt = Attempt::new(started, took, Verdict::Delivered, &delivered.detail);
    Settlement {
        token: claim.token,
        delivery: claim.delivery.delivered(attempt),
        follow_ups: Vec::new(),
        thread: delivered.thread,
    }
}

/// The outcome of a failed attempt: the settlement, and the reasons to log for the delivery and for each recipient
/// that gets its own delivery.
async fn failed(
    lane: &LaneState,
    destination: &PlannedDestination,
    epoch: u64,
    claim: Claim,
    failure: &Failure,
    started: Timestamp,
    took: Duration,
) -> (Settlement, Vec<Option<Reason>>) {
    let now = lane.clock.now();
    let jitter = rand::random();
    let (change, breaker) = {
        let mut breaker = lane.breaker();
        let change = breaker.failed(failure, epoch, &destination.policy, now, jitter);
        (change, breaker.clone())
    };
    breaker_changed(lane, change).await;
    let Claim { delivery, token, .. } = claim;
    let trial = Trial {
        policy: &destination.policy,
        started,
        took,
        now,
        since: lane.clock.give_up_start(delivery.pending_since()),
    };
    let reason = failure.reason().clone();
    let attempt = |verdict| trial.attempt(verdict, &reason);
    let (settlement, reason) = match failure {
        Failure::Permanent { .. } => {
            let dead = delivery.dead(Some(attempt(Verdict::Permanent)), now, reason.shown());
            (mark_dead(lane, destination, token, dead), reason)
        }
        Failure::Parked { .. } => {
            let due = breaker.open().map_or(now, |open| open.until);
            (
                pending(token, delivery.retry(attempt(Verdict::Parked), due)),
                reason,
            )
        }
        Failure::Transient { retry_after, .. } => match trial.next(&delivery, *retry_after, jitter) {
            Next::GiveUp => {
                let (dead, reason) = trial.give_up(delivery, &reason);
                (mark_dead(lane, destination, token, dead), reason)
            }
            Next::At(due) => {
                let due = due_in_outage(&breaker, due);
                (
                    pending(token, delivery.retry(attempt(Verdict::Transient), due)),
                    reason,
                )
            }
        },
        Failure::Divided { accepted, others, .. } => {
            if *accepted {
                lane.delivered_now();
            }
            let (all, why): (Vec<_>, Vec<_>) = trial
                .divide(delivery, &reason, *accepted, others)
                .into_iter()
                .unzip();
            return (divided(destination, token, all, now), why);
        }
    };
    (settlement, vec![Some(reason)])
}

/// The settlement of a divided delivery: the delivery itself first, then those of single recipients, and the fallback
/// of dead ones last.
fn divided(
    destination: &PlannedDestination,
    token: u64,
    mut all: Vec<Delivery>,
    now: Timestamp,
) -> Settlement {
    if let Some(dead) = all.iter().find(|delivery| delivery.is_dead()) {
        all.extend(fallback(destination, dead, now));
    }
    let follow_ups = all.split_off(1);
    let delivery = all.remove(0);
    Settlement {
        token,
        delivery,
        follow_ups,
        thread: None,
    }
}

/// After a second failure in a row has shown that the destination as a whole is failing, only the circuit breaker
/// decides about the next attempt: a delivery that was attempted during an outage must not wait for an hour after its
/// end.
fn due_in_outage(breaker: &CircuitBreaker, due: Timestamp) -> Timestamp {
    match breaker.open() {
        Some(open) if open.failures >= 2 => due.min(open.until),
        _ => due,
    }
}

fn pending(token: u64, delivery: Delivery) -> Settlement {
    Settlement {
        token,
        delivery,
        follow_ups: Vec::new(),
        thread: None,
    }
}

/// A dead delivery, together with its fallback if the destination has one.
pub(super) fn mark_dead(
    lane: &LaneState,
    destination: &PlannedDestination,
    token: u64,
    delivery: Delivery,
) -> Settlement {
    let fallback = fallback(destination, &delivery, lane.clock.now());
    Settlement {
        token,
        delivery,
        follow_ups: fallback.into_iter().collect(),
        thread: None,
    }
}

fn fallback(destination: &PlannedDestination, delivery: &Delivery, now: Timestamp) -> Option<Delivery> {
    let fallback = destination.fallback.clone()?;
    Some(delivery.fallback(fallback, now))
}

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
            Err(Error::Busy | Error::Slow | Error::Full { .. } | Error::Unavailable(_)) => {
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
    use std::sync::Weak;

    use super::*;
    use crate::engine::clock::Clock;
    use crate::engine::events::Events;
    use crate::engine::lane_state::LaneContext;
    use crate::model::delivery::DeliveryId;
    use crate::model::message::{Message, MessageId};
    use crate::model::number::Number;
    use crate::store::Arrival;
    use crate::store::memory::Memory;

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
