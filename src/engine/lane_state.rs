//! The state that a lane shares with its attempts and with control.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use super::circuit_breaker::{Cause, CircuitBreaker, Open};
use super::in_flight::MemoryBudget;
use crate::engine::clock::Clock;
use crate::engine::events::{Event, Events};
use crate::metrics::Metrics;
use crate::model::delivery::Attempt;
use crate::model::destination_state::DestinationState;
use crate::model::message::{Name, Timestamp};
use crate::plan::Plan;
use crate::store::{Standing, Standings, Store};

/// The environment of all lanes.
#[derive(Clone)]
pub struct LaneContext {
    /// Stores the messages.
    pub store: Arc<dyn Store>,
    /// The current time.
    pub clock: Clock,
    /// Counts deliveries.
    pub metrics: Arc<Metrics>,
    /// Publishes changes.
    pub events: Events,
}

/// Upper bound of the destinations without a lane whose state is kept.
const LEFT_MAX: usize = 1_000;

/// The existing lanes, by destination.
#[derive(Default)]
pub(super) struct LaneDirectory {
    lanes: Mutex<BTreeMap<Name, Arc<LaneState>>>,
    /// The states of destinations without a lane: those of the previous run that have no lane yet, and those removed
    /// from the configuration since.
    left: Mutex<Standings>,
}

impl LaneDirectory {
    /// Held briefly, and never across an await.
    pub(super) fn lanes(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<LaneState>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held briefly. If both are locked, this is locked after `lanes`.
    pub(super) fn left(&self) -> MutexGuard<'_, Standings> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the lane of a destination, if it has one.
    pub(super) fn wake(&self, name: &Name) {
        if let Some(lane) = self.lanes().get(name) {
            lane.wake();
        }
    }

    /// Removes a lane without attempts in progress, and keeps the state of its destination. Returns false if the
    /// destination is in the newest plan again.
    fn end(&self, name: &Name, plan: &watch::Receiver<Arc<Plan>>) -> bool {
        // Checked under the lock that `Lanes::reconcile` holds: either the destination is seen here, or the lane is
        // removed before.
        let mut lanes = self.lanes();
        let is_back = plan.borrow().destinations.contains_key(name);
        if !is_back && let Some(lane) = lanes.remove(name) {
            let mut left = self.left();
            if left.len() < LEFT_MAX {
                // It returns with a configuration that has not been tested.
                let standing = Standing {
                    is_tested: false,
                    ..lane.standing()
                };
                left.insert(name.clone(), standing);
            }
        }
        !is_back
    }
}

/// The state of one lane.
pub(super) struct LaneState {
    pub(super) name: Name,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Events,
    pub(super) notify: Notify,
    pub(super) memory: Arc<MemoryBudget>,
    lanes: Weak<LaneDirectory>,
    inner: Mutex<Inner>,
    breaker: Mutex<CircuitBreaker>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) paused: bool,
    /// Whether an attempt has ended since the configuration of the destination last changed, in this run or an earlier
    /// one.
    is_tested: bool,
    delivered_at: Option<Timestamp>,
    /// The last attempt that ended in this run, with the current configuration.
    last_attempt: Option<Attempt>,
    pub(super) running: usize,
    /// The start of each attempt in progress, by the token of its claim.
    attempts: BTreeMap<u64, Timestamp>,
    /// When `rate` allows the next delivery.
    pub(super) rate_limited_until: Option<Timestamp>,
    /// A due delivery was left in the store because the memory for messages is in use.
    pub(super) is_memory_full: bool,
}

/// The state that decides when a lane starts its next delivery.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Whether the operator paused the destination.
    pub paused: bool,
    /// The open circuit breaker, which allows at most single probes.
    pub open: Option<Open>,
    /// The number of deliveries in progress.
    pub running: usize,
    /// The start of each attempt in progress, by the token of its claim.
    pub attempts: BTreeMap<u64, Timestamp>,
    /// When `rate` allows the next delivery.
    pub rate_limited_until: Option<Timestamp>,
    /// Whether the messages in flight of all destinations use the memory that is reserved for them.
    pub is_memory_full: bool,
}

/// The state of a lane, for display.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// `up`, `untested`, `limited`, `down`, `parked` or `paused`.
    pub state: DestinationState,
    /// Since when it has not been up.
    pub since: Option<Timestamp>,
    /// When the next attempt may start.
    pub until: Option<Timestamp>,
    /// When the pause ends that the destination asked for; `None` if there is none.
    pub pause_until: Option<Timestamp>,
    /// The last failure.
    pub reason: Option<String>,
    /// When it last accepted a message.
    pub delivered_at: Option<Timestamp>,
    /// The last attempt that ended in this run, with the current configuration.
    pub last_attempt: Option<Attempt>,
    /// The number of deliveries in progress.
    pub running: usize,
    /// When the oldest attempt in progress began.
    pub attempting_since: Option<Timestamp>,
}

impl LaneState {
    pub(super) fn new(
        name: Name,
        context: &LaneContext,
        lanes: Weak<LaneDirectory>,
        memory: Arc<MemoryBudget>,
        paused: bool,
        standing: Standing,
    ) -> Self {
        let now = context.clock.now();
        let inner = Inner {
            paused,
            is_tested: standing.is_tested,
            delivered_at: standing.delivered_at,
            ..Inner::default()
        };
        let breaker = standing.fault.map(|mut fault| {
            if let Some(pause) = &mut fault.pause {
                pause.until = pause.until.map(|until| context.clock.steady(until));
            }
            CircuitBreaker::restored(fault, now)
        });
        Self {
            name,
            store: context.store.clone(),
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            events: context.events.clone(),
            notify: Notify::new(),
            memory,
            lanes,
            inner: Mutex::new(inner),
            breaker: Mutex::new(breaker.unwrap_or_default()),
        }
    }

    /// Held briefly, and never across an await.
    pub(super) fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }

    pub(super) fn wake_other(&self, name: &Name) {
        if let Some(lanes) = self.lanes.upgrade() {
            lanes.wake(name);
        }
    }

    /// Registers an attempt until the returned guard is dropped.
    pub(super) fn attempt(self: &Arc<Self>, token: u64) -> Attempting {
        self.inner().attempts.insert(token, self.clock.now());
        Attempting(self.clone(), token)
    }

    /// Removes the lane. Returns false if its destination is in the newest plan again.
    pub(super) fn end(&self, plan: &watch::Receiver<Arc<Plan>>) -> bool {
        self.lanes
            .upgrade()
            .is_none_or(|lanes| lanes.end(&self.name, plan))
    }

    pub(super) fn delivered_now(&self) {
        self.inner().delivered_at = Some(self.clock.wall());
    }

    /// Records whether the current configuration of the destination has been tested.
    pub(super) fn set_tested(&self, is_tested: bool) {
        let mut inner = self.inner();
        inner.is_tested = is_tested;
        if !is_tested {
            inner.last_attempt = None;
        }
    }

    /// Records the end of an attempt at a message.
    pub(super) fn attempted(&self, attempt: Attempt) {
        let mut inner = self.inner();
        inner.is_tested = true;
        inner.last_attempt = Some(attempt);
    }

    /// The state to store for the next run.
    pub(super) fn standing(&self) -> Standing {
        let mut fault = self.breaker().fault(self.clock.now());
        if let Some(fault) = &mut fault {
            fault.since = self.clock.shown(fault.since);
            if let Some(pause) = &mut fault.pause {
                pause.until = pause.until.map(|until| self.clock.ago(until));
            }
        }
        let inner = self.inner();
        Standing {
            is_tested: inner.is_tested,
            delivered_at: inner.delivered_at,
            fault,
        }
    }

    /// A resumed destination is attempted at once, or at the end of a pause that it asked for itself.
    pub(super) fn set_paused(&self, paused: bool) {
        if !paused {
            self.breaker().resume(self.clock.now());
        }
        self.inner().paused = paused;
        self.announce();
        self.wake();
    }

    /// An operator requests an attempt now. If the destination asked for a pause, the attempt starts at its end.
    pub(super) fn probe(&self) {
        self.breaker().probe(self.clock.now());
        self.announce();
        self.wake();
    }

    /// Publishes the state of this destination.
    pub(super) fn announce(&self) {
        self.events.publish(|| Event::Destination {
            name: self.name.clone(),
            state: self.status().state,
        });
    }

    pub(super) fn outlook(&self) -> Outlook {
        let inner = self.inner();
        Outlook {
            paused: inner.paused,
            open: self.breaker().open().cloned(),
            running: inner.running,
            attempts: inner.attempts.clone(),
            rate_limited_until: inner.rate_limited_until,
            is_memory_full: inner.is_memory_full,
        }
    }

    pub(super) fn status(&self) -> Status {
        let inner = self.inner();
        let breaker = self.breaker();
        let open = breaker.open();
        let state = match open.map(|open| open.cause) {
            _ if inner.paused => DestinationState::Paused,
            None if !inner.is_tested => DestinationState::Untested,
            None => DestinationState::Up,
            Some(Cause::Limited) => DestinationState::Limited,
            Some(Cause::Down) => DestinationState::Down,
            Some(Cause::Parked) => DestinationState::Parked,
        };
        Status {
            state,
            since: open.map(|open| open.since),
            until: open.map(|open| open.until),
            pause_until: open.and_then(|open| open.pause_until(self.clock.now())),
            reason: open.map(|open| open.reason.shown().to_owned()),
            delivered_at: inner.delivered_at,
            last_attempt: inner.last_attempt.clone(),
            running: inner.running,
            attempting_since: inner.attempts.values().min().copied(),
        }
    }
}

/// Guard of an attempt in progress.
pub(super) struct Attempting(Arc<LaneState>, u64);

impl Drop for Attempting {
    fn drop(&mut self) {
        self.0.inner().attempts.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn a_resumed_lane_is_woken_once() {
        let context = LaneContext {
            store: Arc::new(Memory::new()),
            clock: Clock::of(|| Timestamp(1)),
            metrics: Arc::default(),
            events: Events::default(),
        };
        let (name, standing) = ("desk".parse().unwrap(), Standing::default());
        let lane = LaneState::new(name, &context, Weak::new(), Arc::default(), true, standing);
        let mut waiting = pin!(lane.notify.notified());
        waiting.as_mut().enable();
        lane.set_paused(false);
        assert!(!lane.inner().paused);
        assert!(waiting.now_or_never().is_some());
        assert!(
            lane.notify.notified().now_or_never().is_none(),
            "no second wake-up is stored"
        );
    }
}
