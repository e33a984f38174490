//! The lanes: one per destination claims due deliveries from the store, sends them, and records the outcomes.
//!
//! Lanes share only the store, so a failing or slow destination does not delay others. A lane keeps only messages in
//! flight in memory; the backlog stays in the store, however long it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::in_flight::MemoryBudget;
use super::lane::Lane;
pub use super::lane_state::{LaneContext, Outlook, Status};
use super::lane_state::{LaneDirectory, LaneState};
use super::outcome;
use crate::destination::Failure;
use crate::engine::events::Events;
use crate::model::delivery::Attempt;
use crate::model::message::Name;
use crate::plan::{Plan, PlannedDestination};
use crate::store::Standings;

/// All lanes.
pub struct Lanes {
    context: LaneContext,
    tracker: TaskTracker,
    stop: CancellationToken,
    memory: Arc<MemoryBudget>,
    directory: Arc<LaneDirectory>,
    /// The paused destinations, as far as they are known.
    paused: Mutex<BTreeSet<Name>>,
}

impl Lanes {
    /// Creates an empty set; [`Lanes::reconcile`] starts lanes.
    #[must_use]
    pub fn new(context: LaneContext) -> Arc<Self> {
        Arc::new(Self {
            context,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            memory: Arc::default(),
            directory: Arc::default(),
            paused: Mutex::default(),
        })
    }

    /// Restores the states of destinations from the previous run. Must be called before lanes are started.
    pub fn resume(&self, standings: Standings) {
        *self.directory.left() = standings;
    }

    /// The states of destinations to store for the next run, including removed destinations, which may come back.
    /// Empty states are omitted.
    #[must_use]
    pub fn standings(&self) -> Standings {
        let lanes = self.lanes();
        let mut all = self.directory.left().clone();
        all.extend(lanes.iter().map(|(name, lane)| (name.clone(), lane.standing())));
        all.into_iter()
            .filter(|(_, standing)| !standing.is_empty())
            .collect()
    }

    /// Starts a lane for each destination of the newest plan that has none. Existing lanes apply the plan themselves:
    /// they end if their destination is not in it, and continue if it is back before they have ended. So a
    /// destination never has more than one lane.
    ///
    /// `paused` lists the destinations that an operator paused; `None` if the store could not be read, so that those
    /// known before apply.
    pub fn reconcile(&self, plan: &watch::Receiver<Arc<Plan>>, paused: Option<&[Name]>) {
        if let Some(paused) = paused {
            *self.paused() = paused.iter().cloned().collect();
        }
        let paused = self.paused().clone();
        let mut lanes = self.lanes();
        // A lane is started with the plan that it has already applied.
        let mut plan = plan.clone();
        let current = plan.borrow_and_update().clone();
        let names: Vec<Name> = current.destinations.keys().cloned().collect();
        self.context.store.configured(&current.fingerprint());
        self.context.store.serve(&names);
        for (name, destination) in &current.destinations {
            if lanes.contains_key(name) {
                continue;
            }
            let state = LaneState::new(
                name.clone(),
                &self.context,
                Arc::downgrade(&self.directory),
                self.memory.clone(),
                paused.contains(name),
                self.directory.left().remove(name).unwrap_or_default(),
            );
            let state = Arc::new(state);
            lanes.insert(name.clone(), state.clone());
            let lane = Lane::new(state, plan.clone(), destination.clone(), self.stop.clone());
            self.tracker.spawn(lane.run());
        }
    }

    /// Wakes a lane because it may have work. Does nothing if the destination is not configured.
    pub fn wake(&self, name: &Name) {
        self.directory.wake(name);
    }

    /// Wakes all lanes.
    pub fn wake_all(&self) {
        self.lanes().values().for_each(|lane| lane.wake());
    }

    /// The publisher of events.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// The state of a destination's lane; `None` if it has none.
    #[must_use]
    pub fn status(&self, name: &Name) -> Option<Status> {
        self.lanes().get(name).map(|lane| lane.status())
    }

    /// Pauses or resumes a lane for an operator. The caller stores the change first.
    pub fn set_paused(&self, name: &Name, paused: bool) {
        match paused {
            true => self.paused().insert(name.clone()),
            false => self.paused().remove(name),
        };
        if let Some(lane) = self.lanes().get(name) {
            lane.set_paused(paused);
        }
    }

    /// Applies the pauses of operators that another process has stored. `paused` lists all paused destinations.
    pub fn apply_pauses(&self, paused: &[Name]) {
        *self.paused() = paused.iter().cloned().collect();
        for (name, lane) in &*self.lanes() {
            let is_paused = paused.contains(name);
            if lane.inner().paused != is_paused {
                lane.set_paused(is_paused);
            }
        }
    }

    /// Publishes the state of a destination, or that its backlog changed.
    pub fn announce(&self, name: &Name) {
        if let Some(lane) = self.lanes().get(name) {
            lane.announce();
        }
    }

    /// Closes a lane's circuit breaker and wakes the lane, because this attempt delivered a test message.
    pub async fn works(&self, name: &Name, attempt: Attempt) {
        let lane = self.lanes().get(name).cloned();
        if let Some(lane) = lane {
            lane.attempted(attempt);
            let change = lane.breaker().works();
            outcome::breaker_changed(&lane, change).await;
            lane.announce();
            lane.wake();
        }
    }

    /// The epoch before a test message is sent, to be passed to [`Lanes::pause_requested`].
    #[must_use]
    pub fn epoch(&self, name: &Name) -> u64 {
        self.lanes().get(name).map_or(0, |lane| lane.breaker().epoch())
    }

    /// Opens a lane's circuit breaker as after a delivery, if the destination replied to a test message by asking for
    /// a pause.
    pub async fn pause_requested(
        &self,
        destination: &PlannedDestination,
        failure: &Failure,
        attempt: Attempt,
        epoch: u64,
    ) {
        let is_asked = matches!(
            failure,
            Failure::Transient {
                retry_after: Some(_),
                ..
            }
        );
        let lane = self.lanes().get(&destination.name).cloned();
        if let Some(lane) = lane.filter(|_| is_asked) {
            lane.attempted(attempt);
            let (policy, now) = (&destination.policy, lane.clock.now());
            let change = lane.breaker().failed(failure, epoch, policy, now, rand::random());
            outcome::breaker_changed(&lane, change).await;
            lane.announce();
            lane.wake();
        }
    }

    /// The state that decides when a destination's next delivery starts; `None` if it has no lane.
    #[must_use]
    pub fn outlook(&self, name: &Name) -> Option<Outlook> {
        self.lanes().get(name).map(|lane| lane.outlook())
    }

    /// Makes a lane start an attempt now, or at the end of a pause that its destination asked for; not while an
    /// operator has paused it.
    pub fn probe(&self, name: &Name) {
        if let Some(lane) = self.lanes().get(name) {
            lane.probe();
        }
    }

    /// The number of deliveries in progress per destination, without zeros.
    #[must_use]
    pub fn in_flight(&self) -> Vec<(Name, usize)> {
        let lanes = self.lanes();
        let running = lanes
            .iter()
            .map(|(name, lane)| (name.clone(), lane.inner().running));
        running.filter(|(_, count)| *count > 0).collect()
    }

    /// Starts no more attempts, and waits until those in progress have ended. Another process may serve a destination as
    /// soon as its own have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.context.store.serve(&[]);
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn paused(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<LaneState>>> {
        self.directory.lanes()
    }
}
