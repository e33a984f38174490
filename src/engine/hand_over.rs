//! Hands deliveries over to the fallback once they have been pending for `fallback_after`, while the lane goes on with
//! them.

use std::time::Duration;

use tokio::time::Instant;

use super::circuit_breaker::Cause;
use super::lane_state::LaneState;
use super::trial::age;
use crate::model::message::{Name, Timestamp};
use crate::model::time_interval;
use crate::plan::PlannedDestination;
use crate::store::{Error, HandOver, HandedOver, LatePosition};

/// The number of deliveries to look at in one step, which is one commit.
const STEP: usize = 128;

/// The minimum pause between two steps that found nothing more to do, so that deliveries share commits.
const PAUSE: Duration = Duration::from_millis(250);

/// The pause after an error, or while another process serves the destination.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The interval at which all pending deliveries are looked at again. One can appear behind the position that was reached:
/// the commit that stored it took long, or the clock of the daemon that accepted it is behind.
const FROM_START: Duration = Duration::from_secs(600);

/// The progress of a lane. After a start it begins with the oldest delivery: the store knows which ones were handed over.
#[derive(Default)]
pub(super) struct HandOvers {
    after: Option<LatePosition>,
    began: Option<Instant>,
    next: Option<Instant>,
    /// Until then only deliveries that pass holds are handed over: a time interval holds the others, or has held them, and
    /// the time counts from its end.
    held_until: Option<Instant>,
}

impl HandOvers {
    /// Hands over up to [`STEP`] deliveries. Returns how long nothing more has to be done.
    pub(super) async fn step(&mut self, lane: &LaneState, destination: &PlannedDestination) -> Duration {
        let (Some(fallback), Some(after)) = (&destination.fallback, destination.fallback_after) else {
            return Duration::MAX;
        };
        let now = Instant::now();
        if let Some(end) = hold_end(lane, destination) {
            self.held_until = Some(now + end + after);
        }
        if self.held_until.is_some_and(|until| until <= now) {
            *self = Self::default();
        }
        let left = self.next.map(|next| next.saturating_duration_since(now));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return left;
        }
        if self
            .began
            .is_none_or(|began| now.duration_since(began) > FROM_START)
        {
            (self.began, self.after) = (Some(now), None);
        }
        let wait = match self.hand_over(lane, fallback, after).await {
            Ok(Some(handed)) => {
                self.after = handed.last.or(self.after);
                announce(lane, fallback, after, &handed);
                until(lane, after, handed.next)
            }
            Ok(None) => {
                *self = Self::default();
                LOOK_AGAIN
            }
            Err(error) => {
                tracing::debug!(destination = %lane.name, "late deliveries could not be handed over: {error}");
                LOOK_AGAIN
            }
        };
        self.next = Some(Instant::now() + wait);
        wait
    }

    async fn hand_over(
        &self,
        lane: &LaneState,
        fallback: &Name,
        after: Duration,
    ) -> Result<Option<HandedOver>, Error> {
        let now = lane.clock.now();
        let starts = Timestamp(i64::MIN)..=now.before(after);
        let request = HandOver {
            destination: lane.name.clone(),
            fallback: fallback.clone(),
            until: *lane.clock.pending_since(starts).end(),
            after: self.after,
            limit: STEP,
            late: format!("not delivered within {}", age(after)),
            outage: outage(lane),
            is_hold: self.held_until.is_some(),
            now,
        };
        lane.store.hand_over(&request).await
    }
}

/// How long time intervals still hold deliveries, if they do.
fn hold_end(lane: &LaneState, destination: &PlannedDestination) -> Option<Duration> {
    let date = lane.clock.date();
    let end = time_interval::end_of(&destination.hold_during, date)?;
    Some(end.since(date))
}

/// How long until the next delivery, pending since `next`, is late. Later ones are not late before `after` has passed.
fn until(lane: &LaneState, after: Duration, next: Option<Timestamp>) -> Duration {
    let now = lane.clock.now();
    match next.map(|since| lane.clock.give_up_start(since).after(after)) {
        Some(late) if late <= now => Duration::ZERO,
        Some(late) => late.since(now).max(PAUSE),
        None => after.max(PAUSE),
    }
}

/// Why the destination takes no message at the moment.
fn outage(lane: &LaneState) -> Option<String> {
    if lane.inner().paused {
        return Some("paused by an operator".to_owned());
    }
    let breaker = lane.breaker();
    let open = breaker.open()?;
    let what = match open.cause {
        Cause::Limited => "rate limiting",
        Cause::Down => "unreachable",
        Cause::Parked => "parked, configuration needs fixing",
    };
    Some(format!("{what}: {}", open.reason.shown()))
}

fn announce(lane: &LaneState, fallback: &Name, after: Duration, handed: &HandedOver) {
    let (name, after) = (&lane.name, age(after));
    for (id, added) in &handed.deliveries {
        tracing::warn!(delivery.id = %id, destination = %name, fallback = %fallback, "delivery to {name} is pending for more than {after}; its fallback {fallback} gets the message too: {added}");
    }
    if !handed.deliveries.is_empty() {
        lane.wake_other(fallback);
    }
}
