//! Dispatch: one lane per destination takes what is due from the store, sends it, and writes how it ended.
//!
//! Lanes share nothing but the store, so a dead or slow destination delays no other. What a lane holds in
//! memory is what it is sending at the moment; the backlog stays in the store, however long it is.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempt;
use super::in_flight::Room;
use super::lane::Lane;
pub use super::lane_state::{Around, Outlook, Status};
use super::lane_state::{Directory, Shared};
use crate::destination::Failure;
use crate::events::Events;
use crate::message::Name;
use crate::plan::{Plan, PlannedDestination};
use crate::store::Standings;

/// All lanes.
pub struct Lanes {
    around: Around,
    tracker: TaskTracker,
    stop: CancellationToken,
    room: Arc<Room>,
    directory: Arc<Directory>,
}

impl Lanes {
    /// No lanes yet; [`Lanes::follow`] makes them.
    #[must_use]
    pub fn new(around: Around) -> Arc<Self> {
        Arc::new(Self {
            around,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            room: Arc::default(),
            directory: Arc::default(),
        })
    }

    /// Goes on from how the destinations stood in the last run. To be called before there are lanes.
    pub fn resume(&self, standings: Standings) {
        *self.directory.left() = standings;
    }

    /// How the destinations stand, for the next run; also those that are not configured any more, which may come back.
    /// Those of which nothing is known are left out.
    #[must_use]
    pub fn standings(&self) -> Standings {
        let lanes = self.lanes();
        let mut all = self.directory.left().clone();
        all.extend(lanes.iter().map(|(name, lane)| (name.clone(), lane.standing())));
        all.into_iter()
            .filter(|(_, standing)| !standing.is_empty())
            .collect()
    }

    /// Starts a lane for each destination of the newest plan that has none. Lanes that exist take the plan up by
    /// themselves: they end when their destination is no longer in it, and go on when it is back before they ended. So
    /// there is never more than one lane of a destination.
    ///
    /// `paused` names the destinations the operator paused.
    pub fn follow(&self, plan: &watch::Receiver<Arc<Plan>>, paused: &[Name]) {
        let mut lanes = self.lanes();
        // What lanes take for seen is exactly the plan they are started with.
        let mut plan = plan.clone();
        let current = plan.borrow_and_update().clone();
        for (name, destination) in &current.destinations {
            if lanes.contains_key(name) {
                continue;
            }
            let shared = Shared::new(
                name.clone(),
                &self.around,
                Arc::downgrade(&self.directory),
                self.room.clone(),
                paused.contains(name),
                self.directory.left().remove(name).unwrap_or_default(),
            );
            let shared = Arc::new(shared);
            lanes.insert(name.clone(), shared.clone());
            let lane = Lane::new(shared, plan.clone(), destination.clone(), self.stop.clone());
            self.tracker.spawn(lane.run());
        }
    }

    /// Tells a lane that there is something to do. Does nothing for a destination that is not configured.
    pub fn wake(&self, name: &Name) {
        self.directory.wake(name);
    }

    /// Who is told what is new.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.around.events
    }

    /// How a destination's lane fares; nothing when it has none.
    #[must_use]
    pub fn status(&self, name: &Name) -> Option<Status> {
        self.lanes().get(name).map(|lane| lane.status())
    }

    /// Stops or lets go a lane, at the operator's word. To be written to the store first.
    pub fn set_paused(&self, name: &Name, paused: bool) {
        if let Some(lane) = self.lanes().get(name) {
            lane.set_paused(paused);
        }
    }

    /// Tells who watches how a destination fares now, or that its backlog changed.
    pub fn announce(&self, name: &Name) {
        if let Some(lane) = self.lanes().get(name) {
            lane.announce();
        }
    }

    /// Opens a lane's gate and wakes it, because a test message was delivered.
    pub async fn works(&self, name: &Name) {
        let lane = self.lanes().get(name).cloned();
        if let Some(lane) = lane {
            lane.set_tested(true);
            let change = lane.gate().works();
            attempt::tell(&lane, change).await;
            lane.announce();
            lane.wake();
        }
    }

    /// To be taken before a test message is sent, and given back to [`Lanes::asked`].
    #[must_use]
    pub fn epoch(&self, name: &Name) -> u64 {
        self.lanes().get(name).map_or(0, |lane| lane.gate().epoch())
    }

    /// Closes a lane's gate as after a delivery, if the destination answered a test message with a request for a pause.
    pub async fn asked(&self, destination: &PlannedDestination, failure: &Failure, epoch: u64) {
        let is_asked = matches!(
            failure,
            Failure::Transient {
                retry_after: Some(_),
                ..
            }
        );
        let lane = self.lanes().get(&destination.name).cloned();
        if let Some(lane) = lane.filter(|_| is_asked) {
            lane.set_tested(true);
            let (policy, now) = (&destination.policy, lane.clock.now());
            let change = lane.gate().failed(failure, epoch, policy, now, rand::random());
            attempt::tell(&lane, change).await;
            lane.announce();
            lane.wake();
        }
    }

    /// What decides when a destination's next delivery starts; nothing when it has no lane.
    #[must_use]
    pub fn outlook(&self, name: &Name) -> Option<Outlook> {
        self.lanes().get(name).map(|lane| lane.outlook())
    }

    /// Lets a lane make an attempt now, or at the end of a pause that its destination asked for; not while the operator
    /// has paused it.
    pub fn probe(&self, name: &Name) {
        if let Some(lane) = self.lanes().get(name) {
            lane.probe();
        }
    }

    /// How many deliveries are under way, for each destination that has any.
    #[must_use]
    pub fn in_flight(&self) -> Vec<(Name, usize)> {
        let lanes = self.lanes();
        let running = lanes
            .iter()
            .map(|(name, lane)| (name.clone(), lane.inner().running));
        running.filter(|(_, count)| *count > 0).collect()
    }

    /// Starts nothing more, and waits until what is under way has ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Shared>>> {
        self.directory.lanes()
    }
}
