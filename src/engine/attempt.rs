//! One attempt at one delivery: renders the message, sends it, decides the outcome, and records it.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::circuit_breaker::CircuitBreaker;
use super::lane_state::LaneState;
use super::outcome::{breaker_changed, settle};
use super::repeat;
use super::trial::{Trial, age};
use crate::destination::{Delivered, Failure, Fallback, OutboundMessage, Recipients, Scope};
use crate::engine::clock::Stopwatch;
use crate::mask::Reason;
use crate::metrics::ByDestination;
use crate::model::delivery::{Attempt, Delivery, Verdict};
use crate::model::message::{Message, Name, Timestamp};
use crate::plan::{Plan, PlannedDestination};
use crate::retry::Next;
use crate::store::{Claim, Error, Settlement};

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
    let others = others(&lane, &destination, &claim).await;
    // Another process may serve the destination by now, and send the message.
    if !lane.store.holds(&claim) {
        return lane.store.release(claim).await;
    }
    let epoch = lane.breaker().epoch();
    let started = lane.clock.now();
    let stopwatch = Stopwatch::start();
    let attempting = lane.attempt(claim.token);
    let outcome = match &permit {
        Ok(_permit) => {
            let prepared = Prepared::new(&plan, &destination, &claim, &held, &others);
            let outbound = prepared.outbound();
            let sending = destination.destination.deliver(&outbound);
            limited(&destination, std::slice::from_ref(&claim), sending).await
        }
        Err(failure) => Err(failure.clone()),
    };
    let took = stopwatch.elapsed();
    drop((permit, attempting));
    let ended = Ended::new(&lane, outcome, epoch, started, took);
    lane.attempted(ended.record());
    observe(&lane, took);
    let breaker = breaker_ended(&lane, &destination, &ended).await;
    let (settlement, why) = match &ended.outcome {
        Ok(outcome) => {
            // The next message of the conversation does not wait until this outcome is on disk, unless it is a reply to
            // this message. Until then this delivery counts towards `concurrency`, which limits how many messages a crash
            // can repeat.
            if outcome.thread.is_none() && lane.store.answered(&claim).await {
                lane.wake();
            }
            delivered(claim, outcome.clone(), &ended)
        }
        Err(failure) => undelivered(&lane, &destination, &breaker, claim, failure, &ended),
    };
    settle(&lane, settlement, why).await;
}

/// The end of an attempt.
pub(super) struct Ended {
    pub(super) outcome: Result<Delivered, Failure>,
    /// The epoch of the circuit breaker when it started.
    pub(super) epoch: u64,
    pub(super) started: Timestamp,
    pub(super) took: Duration,
    /// When it ended, and the jitter of the next one: the circuit breaker and the delivery wait until the same time.
    now: Timestamp,
    jitter: f64,
}

impl Ended {
    pub(super) fn new(
        lane: &LaneState,
        outcome: Result<Delivered, Failure>,
        epoch: u64,
        started: Timestamp,
        took: Duration,
    ) -> Self {
        Self {
            outcome,
            epoch,
            started,
            took,
            now: lane.clock.now(),
            jitter: rand::random(),
        }
    }

    /// An attempt that ended before anything was sent.
    pub(super) fn now(lane: &LaneState, outcome: Result<Delivered, Failure>) -> Self {
        let (epoch, started) = (lane.breaker().epoch(), lane.clock.now());
        Self::new(lane, outcome, epoch, started, Duration::ZERO)
    }

    /// The record of the attempt for its destination.
    pub(super) fn record(&self) -> Attempt {
        let (verdict, detail) = match &self.outcome {
            Ok(delivered) => (Verdict::Delivered, delivered.detail.as_str()),
            Err(failure) => (failure.verdict(), failure.reason().shown()),
        };
        Attempt::new(self.started, self.took, verdict, detail)
    }
}

/// Observes the duration of an attempt.
pub(super) fn observe(lane: &LaneState, took: Duration) {
    let by = ByDestination {
        destination: lane.name.to_string(),
    };
    lane.metrics
        .delivery_duration
        .get_or_create(&by)
        .observe(took.as_secs_f64());
}

/// The deliveries of the message, if this one is a fallback, or is old enough to have one although it is pending. If they
/// cannot be read, the message is sent without the note of a fallback, and to all recipients.
pub(super) async fn others(
    lane: &LaneState,
    destination: &PlannedDestination,
    claim: &Claim,
) -> Vec<Delivery> {
    let since = lane.clock.give_up_start(claim.delivery.pending_since());
    let after = destination.fallback_after;
    let is_late = after.is_some_and(|after| since.after(after) <= lane.clock.now());
    if claim.delivery.origin.is_none() && !is_late {
        return Vec::new();
    }
    let found = lane.store.find(claim.delivery.id.message).await.ok().flatten();
    found.map(|found| found.deliveries).unwrap_or_default()
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
    let conversation = claim.delivery.shared_queue(claim.message.conversation());
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

/// A message with what the destination needs to render it.
pub(super) struct Prepared<'a> {
    plan: &'a Plan,
    destination: &'a PlannedDestination,
    claim: &'a Claim,
    shown: Cow<'a, Message>,
    held: &'a [String],
    done: Vec<String>,
    stands_in_for: Option<(&'a Name, Cow<'a, str>)>,
}

impl<'a> Prepared<'a> {
    /// `others` are the deliveries of the message, if there may be a fallback among them.
    pub(super) fn new(
        plan: &'a Plan,
        destination: &'a PlannedDestination,
        claim: &'a Claim,
        held: &'a [String],
        others: &'a [Delivery],
    ) -> Self {
        let own = destination.destination.recipients();
        let reached = repeat::reached(plan, &claim.delivery, others, own);
        let done = reached.into_iter().chain(claim.delivery.progress.clone());
        Self {
            plan,
            destination,
            claim,
            shown: destination.shown(&claim.message),
            held,
            done: done.collect(),
            stands_in_for: claim.delivery.stands_in_for(others),
        }
    }

    /// Contacts, template and groups come from the current plan, so that a corrected template also applies to messages
    /// accepted earlier.
    pub(super) fn outbound(&self) -> OutboundMessage<'_> {
        let (plan, delivery, message) = (self.plan, &self.claim.delivery, &*self.shown);
        let route = delivery.route.as_ref().and_then(|name| plan.routes.get(name));
        let stands_in_for = self.stands_in_for.as_ref();
        OutboundMessage {
            id: delivery.key(),
            message,
            from_name: plan.contact(message.from.normal()),
            to_name: plan.contact(message.to.normal()),
            route: delivery.route.as_ref(),
            template: route.and_then(|route| route.template.as_ref()),
            groups: route.map(|route| route.groups(&message.text)).unwrap_or_default(),
            recipients: Recipients {
                only: delivery.recipient.as_deref(),
                done: &self.done,
                held: self.held,
            },
            thread: self.claim.thread.as_deref(),
            fallback: stands_in_for.map(|(destination, reason)| Fallback { destination, reason }),
            zone: self.destination.zone.as_ref(),
        }
    }
}

/// Waits for the answer with a time limit. A panic in the destination is reported as a failure of these messages.
pub(super) async fn limited(
    destination: &PlannedDestination,
    claims: &[Claim],
    sending: impl Future<Output = Result<Delivered, Failure>>,
) -> Result<Delivered, Failure> {
    let mut sending = pin!(AssertUnwindSafe(sending).catch_unwind());
    let limit = destination.attempt_max();
    let mut outcome = tokio::time::timeout(limit.min(SLOW), &mut sending).await;
    if outcome.is_err() && limit > SLOW {
        let (name, id) = (&destination.name, claims.first().map(|claim| claim.delivery.id));
        tracing::warn!(delivery.id = id.map(tracing::field::display), destination = %name, "destination {name} has not answered for {}; the attempt times out after {}", age(SLOW), age(limit));
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

/// Tells the circuit breaker how an attempt ended. Returns its state after that.
pub(super) async fn breaker_ended(
    lane: &LaneState,
    destination: &PlannedDestination,
    ended: &Ended,
) -> CircuitBreaker {
    let (change, breaker) = {
        let mut breaker = lane.breaker();
        let change = match &ended.outcome {
            Ok(_) => breaker.works(),
            Err(failure) => {
                let Ended {
                    epoch, now, jitter, ..
                } = *ended;
                breaker.failed(failure, epoch, &destination.policy, now, jitter)
            }
        };
        (change, breaker.clone())
    };
    breaker_changed(lane, change).await;
    if ended.outcome.is_ok() {
        lane.delivered_now();
    }
    breaker
}

/// The settlement of a successful attempt, and the reason to log.
pub(super) fn delivered(
    claim: Claim,
    delivered: Delivered,
    ended: &Ended,
) -> (Settlement, Vec<Option<Reason>>) {
    let attempt = Attempt::new(ended.started, ended.took, Verdict::Delivered, &delivered.detail);
    let settlement = Settlement {
        token: claim.token,
        delivery: claim.delivery.delivered(attempt),
        follow_ups: Vec::new(),
        thread: delivered.thread,
    };
    (settlement, vec![Some(Reason::default())])
}

/// The settlement of a failed attempt, and the reasons to log for the delivery and for each recipient that gets its own
/// delivery.
pub(super) fn undelivered(
    lane: &LaneState,
    destination: &PlannedDestination,
    breaker: &CircuitBreaker,
    claim: Claim,
    failure: &Failure,
    ended: &Ended,
) -> (Settlement, Vec<Option<Reason>>) {
    let (now, jitter) = (ended.now, ended.jitter);
    let Claim { delivery, token, .. } = claim;
    let trial = Trial {
        policy: &destination.policy,
        started: ended.started,
        took: ended.took,
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
                let due = due_in_outage(breaker, due);
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

pub(super) fn pending(token: u64, delivery: Delivery) -> Settlement {
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
