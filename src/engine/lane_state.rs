//! What a lane, its attempts and those who ask about it have in common.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use super::circuit_breaker::{Cause, Closed, Gate};
use super::in_flight::Room;
use crate::clock::Clock;
use crate::events::{Event, Events};
use crate::message::{Name, Timestamp};
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::store::{Standing, Standings, Store};

/// What lanes work with.
#[derive(Clone)]
pub struct Around {
    /// Where messages are kept.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Receives what changes.
    pub events: Events,
}

/// How many destinations without a lane are remembered.
const LEFT_MAX: usize = 1_000;

/// The lanes that exist, by destination.
#[derive(Default)]
pub(super) struct Directory {
    lanes: Mutex<BTreeMap<Name, Arc<Shared>>>,
    /// How destinations stood that have no lane: those of the last run that have none yet, and those that were removed
    /// from the configuration since.
    left: Mutex<Standings>,
}

impl Directory {
    /// Short, and never held across an await.
    pub(super) fn lanes(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Shared>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Short, and locked after the lanes if both are.
    pub(super) fn left(&self) -> MutexGuard<'_, Standings> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the lane of a destination, if it has one.
    pub(super) fn wake(&self, name: &Name) {
        if let Some(lane) = self.lanes().get(name) {
            lane.wake();
        }
    }

    /// Removes a lane that has nothing under way, and remembers how its destination stood; false if that is in the newest
    /// plan again.
    fn end(&self, name: &Name, plan: &watch::Receiver<Arc<Plan>>) -> bool {
        // Checked under the lock that `Lanes::follow` holds: either the destination is seen here, or the lane is gone there.
        let mut lanes = self.lanes();
        let is_back = plan.borrow().destinations.contains_key(name);
        if !is_back && let Some(lane) = lanes.remove(name) {
            let mut left = self.left();
            if left.len() < LEFT_MAX {
                // It comes back with a configuration that was not tried yet.
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

/// One lane's common ground.
pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Events,
    pub(super) notify: Notify,
    pub(super) room: Arc<Room>,
    lanes: Weak<Directory>,
    inner: Mutex<Inner>,
    gate: Mutex<Gate>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) paused: bool,
    /// Whether an attempt has ended since the destination was configured as it is, in this run or one before.
    is_tested: bool,
    delivered_at: Option<Timestamp>,
    pub(super) running: usize,
    /// When each attempt under way began, by the token of its claim.
    attempts: BTreeMap<u64, Timestamp>,
    /// When `rate` lets the next delivery start.
    pub(super) paced_until: Option<Timestamp>,
    /// Whether something due was left in the store for lack of room in memory.
    pub(super) is_crowded: bool,
}

/// What decides at the moment when a lane starts its next delivery.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Whether the operator paused the destination.
    pub paused: bool,
    /// Why no more than single probes go, if so.
    pub closed: Option<Closed>,
    /// Deliveries under way.
    pub running: usize,
    /// When each attempt under way began, by the token of its claim.
    pub attempts: BTreeMap<u64, Timestamp>,
    /// When `rate` lets the next delivery start.
    pub paced_until: Option<Timestamp>,
    /// Whether the messages under way at all destinations take all the memory that is meant for them.
    pub is_crowded: bool,
}

/// How a lane fares.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// `up`, `untested`, `limited`, `down`, `parked` or `paused`.
    pub state: &'static str,
    /// Since when it is not up.
    pub since: Option<Timestamp>,
    /// When the next attempt may be made.
    pub until: Option<Timestamp>,
    /// When a pause ends that the other side asked for, unless it is over.
    pub pause_until: Option<Timestamp>,
    /// What the other side said.
    pub reason: Option<String>,
    /// When it last took a message.
    pub delivered_at: Option<Timestamp>,
    /// Deliveries under way.
    pub running: usize,
    /// When the oldest attempt under way began.
    pub attempting_since: Option<Timestamp>,
}

impl Shared {
    pub(super) fn new(
        name: Name,
        around: &Around,
        lanes: Weak<Directory>,
        room: Arc<Room>,
        paused: bool,
        standing: Standing,
    ) -> Self {
        let now = around.clock.now();
        let inner = Inner {
            paused,
            is_tested: standing.is_tested,
            delivered_at: standing.delivered_at,
            ..Inner::default()
        };
        let gate = standing.fault.map(|mut fault| {
            if let Some(pause) = &mut fault.pause {
                pause.until = pause.until.map(|until| around.clock.steady(until));
            }
            Gate::restored(fault, now)
        });
        Self {
            name,
            store: around.store.clone(),
            clock: around.clock.clone(),
            metrics: around.metrics.clone(),
            events: around.events.clone(),
            notify: Notify::new(),
            room,
            lanes,
            inner: Mutex::new(inner),
            gate: Mutex::new(gate.unwrap_or_default()),
        }
    }

    /// Short, and never held across an await.
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// An attempt begins; it ends when what this gives is dropped.
    pub(super) fn attempt(self: &Arc<Self>, token: u64) -> Attempting {
        self.inner().attempts.insert(token, self.clock.now());
        Attempting(self.clone(), token)
    }

    /// Forgets the lane; false if its destination is in the newest plan again.
    pub(super) fn end(&self, plan: &watch::Receiver<Arc<Plan>>) -> bool {
        self.lanes
            .upgrade()
            .is_none_or(|lanes| lanes.end(&self.name, plan))
    }

    pub(super) fn delivered_now(&self) {
        self.inner().delivered_at = Some(self.clock.wall());
    }

    /// Notes whether the destination, configured as it is, was tried.
    pub(super) fn set_tested(&self, is_tested: bool) {
        self.inner().is_tested = is_tested;
    }

    /// What the next run is to know.
    pub(super) fn standing(&self) -> Standing {
        let mut fault = self.gate().fault(self.clock.now());
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

    /// A destination that is resumed is tried at once, or at the end of a pause that it asked for itself.
    pub(super) fn set_paused(&self, paused: bool) {
        if !paused {
            self.gate().resume(self.clock.now());
        }
        self.inner().paused = paused;
        self.announce();
        self.wake();
    }

    /// The operator asks for an attempt now. If the destination asked for a pause, it is made at the end of that.
    pub(super) fn probe(&self) {
        self.gate().probe(self.clock.now());
        self.announce();
        self.wake();
    }

    /// Tells who watches how this destination fares now.
    pub(super) fn announce(&self) {
        self.events.tell(|| Event::Destination {
            name: self.name.clone(),
            state: self.status().state,
        });
    }

    pub(super) fn outlook(&self) -> Outlook {
        let inner = self.inner();
        Outlook {
            paused: inner.paused,
            closed: self.gate().closed().cloned(),
            running: inner.running,
            attempts: inner.attempts.clone(),
            paced_until: inner.paced_until,
            is_crowded: inner.is_crowded,
        }
    }

    pub(super) fn status(&self) -> Status {
        let inner = self.inner();
        let gate = self.gate();
        let closed = gate.closed();
        let state = match closed.map(|closed| closed.cause) {
            _ if inner.paused => "paused",
            None if !inner.is_tested => "untested",
            None => "up",
            Some(Cause::Limited) => "limited",
            Some(Cause::Down) => "down",
            Some(Cause::Parked) => "parked",
        };
        Status {
            state,
            since: closed.map(|closed| closed.since),
            until: closed.map(|closed| closed.until),
            pause_until: closed.and_then(|closed| closed.pause_until(self.clock.now())),
            reason: closed.map(|closed| closed.reason.shown().to_owned()),
            delivered_at: inner.delivered_at,
            running: inner.running,
            attempting_since: inner.attempts.values().min().copied(),
        }
    }
}

/// An attempt under way.
pub(super) struct Attempting(Arc<Shared>, u64);

impl Drop for Attempting {
    fn drop(&mut self) {
        self.0.inner().attempts.remove(&self.1);
    }
}
