//! Says what a pending delivery waits for. Pure; the caller passes the time.

use std::time::Duration;

use super::view::{PendingCause, PendingView, RetryOutcome};
use crate::engine::circuit_breaker::{Cause, Open};
use crate::engine::clock::Clock;
use crate::engine::lanes::Outlook;
use crate::model::delivery::{Delivery, State};
use crate::model::message::{Name, Timestamp};
use crate::plan::PlannedDestination;
use crate::store::Queued;

/// The position of a delivery in the queues of its destination.
pub(super) struct Place {
    pub(super) queued: Queued,
    /// The number of deliveries of the destination ahead of it, if they were counted.
    pub(super) ahead: Option<u64>,
}

/// A configured destination and the current state of its lane.
pub(super) struct Lane<'a> {
    pub(super) planned: &'a PlannedDestination,
    pub(super) outlook: Outlook,
}

/// The reason why a delivery is pending, in times of the wall clock. If `place` is unknown, it may also be in progress, or
/// behind another delivery of its conversation.
pub(super) fn view(
    delivery: &Delivery,
    place: Option<&Place>,
    lane: Option<&Lane<'_>>,
    clock: &Clock,
) -> Option<PendingView> {
    let State::Waiting { due } = delivery.state else {
        return None;
    };
    let mut pending = cause(&delivery.destination, due, place, lane, clock.now());
    if delivery.hold().is_some() && pending.cause == PendingCause::Retry {
        pending.cause = PendingCause::Held;
        "a time interval of `hold_during` holds it".clone_into(&mut pending.why);
    }
    Some(shown(pending, clock))
}

/// The reason why all due deliveries of a destination wait; `None` if nothing delays them.
pub(super) fn of_destination(name: &Name, lane: Option<&Lane<'_>>, clock: &Clock) -> Option<PendingView> {
    Some(shown(held_up(name, clock.now(), lane, clock.now())?, clock))
}

impl PendingView {
    fn new(cause: PendingCause, why: String) -> Self {
        Self {
            cause,
            why,
            next_attempt: None,
            pause_until: None,
            attempting_since: None,
            ahead: None,
            behind: None,
        }
    }

    /// The result of retrying a delivery that waits for this.
    pub(super) fn retried(&self) -> RetryOutcome {
        match self.cause {
            PendingCause::Attempting => RetryOutcome::Attempting,
            PendingCause::Due => RetryOutcome::Tried,
            _ if self.pause_until.is_some() => RetryOutcome::Waiting,
            PendingCause::Limited | PendingCause::Down | PendingCause::Parked => match self.ahead {
                Some(0) => RetryOutcome::Tried,
                _ => RetryOutcome::Probed,
            },
            _ => RetryOutcome::Waiting,
        }
    }
}

fn shown(pending: PendingView, clock: &Clock) -> PendingView {
    let shown = |moment: Option<Timestamp>| moment.map(|moment| clock.ago(moment));
    PendingView {
        next_attempt: shown(pending.next_attempt),
        pause_until: shown(pending.pause_until),
        attempting_since: shown(pending.attempting_since),
        ..pending
    }
}

fn cause(
    name: &Name,
    due: Timestamp,
    place: Option<&Place>,
    lane: Option<&Lane<'_>>,
    now: Timestamp,
) -> PendingView {
    let claim = place.and_then(|place| place.queued.claim);
    if let Some(token) = claim {
        let since = lane.and_then(|lane| lane.outlook.attempts.get(&token).copied());
        let why = match since {
            Some(_) => "an attempt is in progress",
            None => "it is about to be sent",
        };
        return PendingView {
            attempting_since: since,
            ..PendingView::new(PendingCause::Attempting, why.to_owned())
        };
    }
    let turn = place.map_or(due, |place| place.queued.turn.due);
    let ahead = place.and_then(|place| place.ahead);
    let pending = held_up(name, turn, lane, now).unwrap_or_else(|| in_turn(name, turn, place, lane, now));
    // Only the time of the first attempt is certain.
    let next_attempt = pending
        .next_attempt
        .filter(|next| *next > now || ahead == Some(0));
    PendingView {
        ahead,
        next_attempt,
        ..pending
    }
}

/// Why a destination gets no messages at the moment; `None` if it does.
fn held_up(name: &Name, turn: Timestamp, lane: Option<&Lane<'_>>, now: Timestamp) -> Option<PendingView> {
    let Some(lane) = lane else {
        let why = format!("destination {name} is not configured");
        return Some(PendingView::new(PendingCause::Removed, why));
    };
    if lane.outlook.paused {
        let why = format!("destination {name} is paused by the operator");
        return Some(PendingView::new(PendingCause::Paused, why));
    }
    let open = lane.outlook.open.as_ref()?;
    let (cause, what) = match open.cause {
        Cause::Limited => (PendingCause::Limited, "is rate limiting"),
        Cause::Down => (PendingCause::Down, "is down"),
        Cause::Parked => (PendingCause::Parked, "is parked and needs fixing"),
    };
    Some(PendingView {
        next_attempt: probe_at(open, lane.outlook.running, now).map(|probe| probe.max(turn)),
        pause_until: open.pause_until(now),
        ..PendingView::new(
            cause,
            format!("destination {name} {what}: {}", open.reason.shown()),
        )
    })
}

/// When the next probe starts; `None` while one is in progress.
fn probe_at(open: &Open, running: usize, now: Timestamp) -> Option<Timestamp> {
    (open.until > now || running == 0).then(|| open.until.max(now))
}

/// The reason why a delivery waits if its destination works.
fn in_turn(
    name: &Name,
    turn: Timestamp,
    place: Option<&Place>,
    lane: Option<&Lane<'_>>,
    now: Timestamp,
) -> PendingView {
    let later = (turn > now).then_some(turn);
    if let Some(first) = place.and_then(|place| place.queued.behind) {
        return PendingView {
            behind: Some(first),
            next_attempt: later,
            ..PendingView::new(
                PendingCause::Conversation,
                format!("an earlier message of the conversation comes first ({first})"),
            )
        };
    }
    if later.is_some() {
        return PendingView {
            next_attempt: later,
            ..PendingView::new(PendingCause::Retry, "it is retried after a failure".to_owned())
        };
    }
    let ahead = place.and_then(|place| place.ahead).unwrap_or_default();
    let Some(lane) = lane else {
        return PendingView::new(PendingCause::Due, "it is due".to_owned());
    };
    if let Some(next) = allowed_by_rate(lane, ahead).filter(|next| *next > now) {
        return PendingView {
            next_attempt: Some(next),
            ..PendingView::new(
                PendingCause::Rate,
                format!("`rate` of destination {name} delays it"),
            )
        };
    }
    let concurrency = lane.planned.concurrency;
    if lane.outlook.running >= concurrency || lane.outlook.is_memory_full {
        let why = match lane.outlook.is_memory_full {
            true => "the deliveries in progress use all memory reserved for them".to_owned(),
            false => {
                let attempts = if concurrency == 1 { "attempt" } else { "attempts" };
                format!(
                    "{concurrency} {attempts} to destination {name} in progress, the maximum of `concurrency = {concurrency}`"
                )
            }
        };
        return PendingView::new(PendingCause::Queue, why);
    }
    match place {
        Some(_) => PendingView::new(PendingCause::Due, "it is due".to_owned()),
        None => PendingView::new(PendingCause::Queue, "it is queued or in progress".to_owned()),
    }
}

/// When `rate` allows it, after those ahead of it.
fn allowed_by_rate(lane: &Lane<'_>, ahead: u64) -> Option<Timestamp> {
    let (first, rate) = (lane.outlook.rate_limited_until?, lane.planned.rate?);
    let running = u64::try_from(lane.outlook.running).unwrap_or(u64::MAX);
    let before = ahead.saturating_sub(running);
    let wait = Duration::try_from_secs_f64(before as f64 / rate).unwrap_or_default();
    Some(first.after(wait))
}
