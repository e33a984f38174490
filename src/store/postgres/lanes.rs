//! Which lanes belong to this daemon. A lane is a row with an owner, an epoch and the end of its lease; time is that of
//! the database. This daemon counts from when it sent its last renewal, so it stops before the database lets another one
//! take over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::Digest as _;
use tokio::sync::{mpsc, oneshot};

use super::ahead::Ahead;
use super::moment::Moment;
use crate::model::message::Name;

/// How long the first claim of a destination waits for its lane.
const FIRST: Duration = Duration::from_secs(3);

/// Upper bound of the requests that the keeper has not seen yet.
pub(super) const REQUESTS: usize = 256;

/// A request to the keeper for its attention; it answers when it has tried to acquire the wanted lanes.
pub(super) type Request = oneshot::Sender<()>;

/// The lanes that this daemon wants or owns.
pub(super) struct Lanes {
    lanes: Mutex<HashMap<Name, Lane>>,
    requests: mpsc::Sender<Request>,
}

#[derive(Default)]
struct Lane {
    owned: Option<Owned>,
    /// The destination is not served any more: the lane is released when its claims have ended.
    is_unwanted: bool,
    /// One claim at a time.
    turn: Arc<tokio::sync::Mutex<Ahead>>,
    /// Grows when deliveries that were read ahead may have changed.
    version: u64,
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    epoch: i64,
    /// The end of the lease.
    until: Moment,
    /// Another daemon is to serve it: nothing more is claimed.
    is_leaving: bool,
}

/// A lane that belongs to this daemon.
pub(super) struct Turn {
    pub(super) epoch: i64,
    pub(super) turn: Arc<tokio::sync::Mutex<Ahead>>,
}

impl Lanes {
    pub(super) fn new(requests: mpsc::Sender<Request>) -> Self {
        Self {
            lanes: Mutex::default(),
            requests,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Name, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the destinations that this daemon serves.
    pub(super) fn serve(&self, destinations: &[Name]) {
        let mut lanes = self.lanes();
        lanes.retain(|name, lane| {
            lane.is_unwanted = !destinations.contains(name);
            lane.owned.is_some() || !lane.is_unwanted
        });
        for name in destinations {
            lanes.entry(name.clone()).or_default();
        }
        drop(lanes);
        let (reply, _) = oneshot::channel();
        drop(self.requests.try_send(reply));
    }

    /// The lane of a destination, if something may be claimed from it now. The first request for a destination waits
    /// until the keeper has tried to acquire it.
    pub(super) async fn claimable(&self, destination: &Name) -> Option<Turn> {
        let is_known = self.lanes().contains_key(destination);
        if !is_known {
            self.lanes().entry(destination.clone()).or_default();
            let (reply, done) = oneshot::channel();
            if self.requests.send(reply).await.is_ok() {
                drop(tokio::time::timeout(FIRST, done).await);
            }
        }
        let lanes = self.lanes();
        let lane = lanes.get(destination)?;
        let owned = lane.owned.filter(|owned| owned.is_valid() && !owned.is_leaving)?;
        Some(Turn {
            epoch: owned.epoch,
            turn: lane.turn.clone(),
        })
    }

    /// Deliveries of the destination have changed: those that were read ahead must be read again.
    pub(super) fn look_again(&self, destination: &Name) {
        if let Some(lane) = self.lanes().get_mut(destination) {
            lane.version += 1;
        }
    }

    /// The version of what is read ahead from now on.
    pub(super) fn version(&self, destination: &Name) -> u64 {
        self.lanes().get(destination).map_or(0, |lane| lane.version)
    }

    /// Returns true if the lane belonged to this daemon in this epoch, and certainly still does.
    pub(super) fn holds(&self, destination: &Name, epoch: i64) -> bool {
        let lanes = self.lanes();
        let owned = lanes.get(destination).and_then(|lane| lane.owned);
        owned.is_some_and(|owned| owned.epoch == epoch && owned.is_valid())
    }

    /// Returns true if the lane belongs to this daemon.
    pub(super) fn is_owned(&self, destination: &Name) -> bool {
        let lanes = self.lanes();
        let owned = lanes.get(destination).and_then(|lane| lane.owned);
        owned.is_some_and(|owned| owned.is_valid())
    }

    /// The destinations that this daemon serves, sorted.
    pub(super) fn wanted(&self) -> Vec<Name> {
        self.names(|lane| !lane.is_unwanted)
    }

    /// The destinations to serve whose lanes this daemon does not own.
    pub(super) fn missing(&self) -> Vec<Name> {
        self.names(|lane| !lane.is_unwanted && lane.owned.is_none())
    }

    /// The lanes that this daemon releases once their claims have ended.
    pub(super) fn leaving(&self) -> Vec<Name> {
        self.names(|lane| {
            lane.owned
                .is_some_and(|owned| owned.is_leaving || lane.is_unwanted)
        })
    }

    /// The lanes that it owns, with their epochs.
    pub(super) fn owned(&self) -> Vec<(Name, i64)> {
        let lanes = self.lanes();
        let owned = lanes
            .iter()
            .filter_map(|(name, lane)| Some((name.clone(), lane.owned?.epoch)));
        let mut owned: Vec<_> = owned.collect();
        owned.sort();
        owned
    }

    fn names(&self, wanted: impl Fn(&Lane) -> bool) -> Vec<Name> {
        let lanes = self.lanes();
        let names = lanes.iter().filter(|(_, lane)| wanted(lane));
        let mut names: Vec<Name> = names.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// The lane was acquired, or renewed in the same epoch, by a request sent when its lease began.
    pub(super) fn hold(&self, destination: &Name, epoch: i64, until: Moment) {
        let mut lanes = self.lanes();
        let lane = lanes.entry(destination.clone()).or_default();
        let is_leaving = lane
            .owned
            .is_some_and(|owned| owned.epoch == epoch && owned.is_leaving);
        lane.owned = Some(Owned {
            epoch,
            until,
            is_leaving,
        });
    }

    /// Nothing more is claimed from the lane, because another daemon is to serve it.
    pub(super) fn leave(&self, destination: &Name) {
        if let Some(owned) = self
            .lanes()
            .get_mut(destination)
            .and_then(|lane| lane.owned.as_mut())
        {
            owned.is_leaving = true;
        }
    }

    /// The lane was released or lost.
    pub(super) fn forget(&self, destination: &Name) {
        let mut lanes = self.lanes();
        if lanes.get(destination).is_some_and(|lane| lane.is_unwanted) {
            lanes.remove(destination);
        } else if let Some(lane) = lanes.get_mut(destination) {
            lane.owned = None;
        }
    }
}

impl Owned {
    fn is_valid(&self) -> bool {
        self.is_valid_at(Moment::now())
    }

    fn is_valid_at(&self, now: Moment) -> bool {
        now < self.until
    }
}

/// The daemon that is to serve a destination: rendezvous hashing, so that a daemon that comes or goes moves only its own
/// share. `own` is always among the candidates.
pub(super) fn first<'a>(destination: &Name, own: &'a str, others: &'a [String]) -> &'a str {
    let weight = |node: &str| {
        sha2::Sha256::new()
            .chain_update(node)
            .chain_update([0])
            .chain_update(destination.as_str())
            .finalize()
    };
    let nodes = others.iter().map(String::as_str).chain([own]);
    nodes.max_by_key(|node| weight(node)).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn all_daemons_agree_on_the_owner_and_only_the_share_of_a_missing_one_moves() {
        let nodes = ["a", "b", "c"].map(str::to_owned);
        let destinations: Vec<Name> = (0..60).map(|n| name(&format!("d{n}"))).collect();
        let mut shares = HashMap::new();
        for destination in &destinations {
            let owner = first(destination, "a", &nodes);
            assert_eq!(owner, first(destination, "c", &nodes));
            *shares.entry(owner).or_insert(0) += 1;
            let without = [nodes[0].clone(), nodes[1].clone()];
            let next = first(destination, "a", &without);
            assert!(
                owner == next || owner == "c",
                "{destination} moved from {owner} to {next}"
            );
        }
        assert!(
            shares.len() == 3 && shares.values().all(|count| *count > 8),
            "{shares:?}"
        );
    }

    #[test]
    fn a_lease_ends_by_the_clock_that_also_runs_during_a_suspension() {
        let (sent, lease) = (Moment::now(), Duration::from_secs(10));
        let owned = Owned {
            epoch: 1,
            until: sent + lease,
            is_leaving: false,
        };
        let nanosecond = Duration::from_nanos(1);
        assert!(owned.is_valid_at(sent + (lease - nanosecond)));
        assert!(
            !owned.is_valid_at(sent + lease),
            "the database may give the lane away"
        );
        // The machine was suspended for an hour after the renewal was sent.
        assert!(!owned.is_valid_at(sent + Duration::from_secs(3_600)));
    }

    #[tokio::test]
    async fn nothing_is_claimed_after_the_lease_or_while_leaving() {
        let (requests, mut keeper) = mpsc::channel(REQUESTS);
        let lanes = Arc::new(Lanes::new(requests));
        let desk = name("desk");
        tokio::spawn(async move {
            while let Some(request) = keeper.recv().await {
                let _ = request.send(());
            }
        });
        assert!(lanes.claimable(&desk).await.is_none());
        assert_eq!(lanes.missing(), std::slice::from_ref(&desk));
        lanes.hold(&desk, 3, Moment::now() + Duration::from_secs(60));
        assert_eq!(lanes.claimable(&desk).await.map(|turn| turn.epoch), Some(3));
        assert!(lanes.holds(&desk, 3) && !lanes.holds(&desk, 2));
        lanes.leave(&desk);
        lanes.hold(&desk, 3, Moment::now() + Duration::from_secs(60));
        assert!(
            lanes.claimable(&desk).await.is_none(),
            "a renewal does not end the hand-over"
        );
        assert!(lanes.holds(&desk, 3), "claims in progress end normally");
        assert_eq!(lanes.leaving(), std::slice::from_ref(&desk));
        lanes.hold(&desk, 4, Moment::now());
        assert!(!lanes.holds(&desk, 4), "the lease is over");
        lanes.serve(&[]);
        lanes.forget(&desk);
        assert!(lanes.wanted().is_empty() && lanes.owned().is_empty());
    }
}
