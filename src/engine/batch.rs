//! One attempt at several deliveries that go to the destination as one post.
//!
//! Each delivery keeps its own state, attempts and history. If the destination rejects a post permanently, it is halved
//! until the messages that it rejects are found. After any other failure all wait.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Ended, Prepared};
use super::lane_state::LaneState;
use super::outcome::settle;
use crate::destination::{Delivered, Failure, OutboundMessage};
use crate::engine::clock::Stopwatch;
use crate::mask::Reason;
use crate::model::delivery::Delivery;
use crate::model::message::Conversation;
use crate::plan::{Plan, PlannedDestination};
use crate::store::{Claim, Settlement};

/// How many outcomes are recorded concurrently, to share commits.
const SETTLE_AT_ONCE: usize = 64;

/// The claims of one post: those of a conversation follow each other.
pub(super) struct BatchAttempt {
    pub(super) lane: Arc<LaneState>,
    pub(super) plan: Arc<Plan>,
    pub(super) destination: Arc<PlannedDestination>,
    pub(super) claims: Vec<Claim>,
}

/// The outcome of one claim, with the reason to log.
struct Settled {
    settlement: Settlement,
    why: Option<Reason>,
    /// Whether its claim blocks its conversation.
    is_head: bool,
}

impl BatchAttempt {
    /// Sends them and records the outcomes. `stop` cancels it until sending has begun.
    pub(super) async fn run(self, stop: CancellationToken) {
        let permit = tokio::select! {
            permit = self.destination.destination.permit() => permit,
            () = stop.cancelled() => return self.release(0).await,
        };
        let mut others = Vec::with_capacity(self.claims.len());
        for claim in &self.claims {
            others.push(attempt::others(&self.lane, &self.destination, claim).await);
        }
        // Another process may serve the destination by now, and send the messages.
        if !self.claims.iter().all(|claim| self.lane.store.holds(claim)) {
            return self.release(0).await;
        }
        let ended = match &permit {
            Ok(_permit) => self.send(&others).await,
            Err(failure) => {
                let ended = Ended::now(&self.lane, Err(failure.clone()));
                vec![(0..self.claims.len(), ended)]
            }
        };
        drop(permit);
        self.record(ended).await;
    }

    /// Releases the claims from the `from`th on, those that block a conversation last.
    async fn release(&self, from: usize) {
        for claim in self.claims.iter().skip(from).rev() {
            self.lane.store.release(claim.clone()).await;
        }
    }

    /// Sends as many as fit into one post, and the halves of a post that was rejected permanently. Returns the outcomes,
    /// with the claims that each is for.
    async fn send(&self, others: &[Vec<Delivery>]) -> Vec<(Range<usize>, Ended)> {
        let prepared: Vec<_> = self
            .claims
            .iter()
            .zip(others)
            .map(|(claim, others)| Prepared::new(&self.plan, &self.destination, claim, &[], others))
            .collect();
        let outbound: Vec<OutboundMessage<'_>> = prepared.iter().map(|one| one.outbound()).collect();
        let fitting = self.destination.destination.fitting(&outbound);
        let first = 0..fitting.clamp(1, outbound.len());
        let (mut left, mut ended): (Vec<_>, _) = (std::iter::once(first).collect(), Vec::new());
        while let Some(range) = left.pop() {
            if !ended.is_empty() || range.start > 0 {
                tokio::time::sleep(self.interval()).await;
            }
            let part = outbound.get(range.clone()).unwrap_or_default();
            let one = self.post(part, &range).await;
            match &one.outcome {
                Err(Failure::Permanent { .. }) if range.len() > 1 => {
                    self.lane.attempted(one.record());
                    let middle = range.start + range.len() / 2;
                    left.extend([middle..range.end, range.start..middle]);
                }
                // The others would fail, too.
                Err(Failure::Transient { .. } | Failure::Parked { .. }) => {
                    ended.push((range, one));
                    break;
                }
                _ => ended.push((range, one)),
            }
        }
        ended
    }

    async fn post(&self, part: &[OutboundMessage<'_>], range: &Range<usize>) -> Ended {
        let epoch = self.lane.breaker().epoch();
        let (started, stopwatch) = (self.lane.clock.now(), Stopwatch::start());
        let claims = self.claims.get(range.clone()).unwrap_or_default();
        let attempting: Vec<_> = claims
            .iter()
            .map(|claim| self.lane.attempt(claim.token))
            .collect();
        let sending = async {
            match part {
                [alone] => self.destination.destination.deliver(alone).await,
                _ => self.destination.destination.deliver_joined(part).await,
            }
        };
        let outcome = attempt::limited(&self.destination, claims, sending).await;
        drop(attempting);
        let took = stopwatch.elapsed();
        attempt::observe(&self.lane, took);
        Ended::new(&self.lane, outcome, epoch, started, took)
    }

    /// The pause between two posts at the configured rate.
    fn interval(&self) -> Duration {
        let rate = self.destination.rate;
        rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate))
    }

    /// Records the outcomes, and releases the claims without one. The claims that block a conversation come last: until
    /// then none of its messages is claimed again.
    async fn record(self, ended: Vec<(Range<usize>, Ended)>) {
        let mut settled = Vec::new();
        for (range, ended) in ended {
            self.lane.attempted(ended.record());
            let breaker = attempt::breaker_ended(&self.lane, &self.destination, &ended).await;
            let count = range.len();
            for index in range {
                let Some(claim) = self.claims.get(index) else {
                    continue;
                };
                let is_head = self.is_head(index);
                let outcome = match &ended.outcome {
                    Ok(delivered) => Ok(joined(delivered, count, is_head)),
                    Err(failure) => Err(failure),
                };
                let (settlement, why) = match outcome {
                    Ok(delivered) => attempt::delivered(claim.clone(), delivered, &ended),
                    Err(failure) => attempt::undelivered(
                        &self.lane,
                        &self.destination,
                        &breaker,
                        claim.clone(),
                        failure,
                        &ended,
                    ),
                };
                let why = why.into_iter().next().flatten();
                settled.push((
                    index,
                    Settled {
                        settlement,
                        why,
                        is_head,
                    },
                ));
            }
        }
        let is_settled = |index: usize| settled.iter().any(|(of, _)| *of == index);
        let left: Vec<usize> = (0..self.claims.len())
            .filter(|index| !is_settled(*index))
            .collect();
        for index in left.iter().rev().filter(|index| !self.is_head(**index)) {
            self.release_one(*index).await;
        }
        for is_head in [false, true] {
            let part = settled.iter().filter(|(_, one)| one.is_head == is_head);
            stream::iter(part)
                .for_each_concurrent(SETTLE_AT_ONCE, |(_, one)| {
                    settle(&self.lane, one.settlement.clone(), vec![one.why.clone()])
                })
                .await;
        }
        for index in left.into_iter().filter(|index| self.is_head(*index)) {
            self.release_one(index).await;
        }
        self.lane.wake();
    }

    async fn release_one(&self, index: usize) {
        if let Some(claim) = self.claims.get(index) {
            self.lane.store.release(claim.clone()).await;
        }
    }

    /// Returns true if the claim is the first one of its conversation here.
    fn is_head(&self, index: usize) -> bool {
        let queue = |claim: &Claim| -> Conversation { claim.delivery.queue(claim.message.conversation()) };
        let before = index.checked_sub(1).and_then(|before| self.claims.get(before));
        match (before, self.claims.get(index)) {
            (Some(before), Some(claim)) => queue(before) != queue(claim),
            _ => true,
        }
    }
}

/// The result for one of `count` messages of a post. The thread belongs to the conversation, so that only one outcome
/// records it.
fn joined(delivered: &Delivered, count: usize, is_head: bool) -> Delivered {
    let detail = match count {
        1 => delivered.detail.clone(),
        _ => format!("{} (one post with {count} messages)", delivered.detail),
    };
    Delivered {
        detail,
        thread: delivered.thread.clone().filter(|_| is_head),
    }
}
