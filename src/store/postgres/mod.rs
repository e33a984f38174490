//! The store in a PostgreSQL database, which several daemons share.
//!
//! * **Accepting**: any daemon stores any message. Arrivals that gather while a transaction is committed become the next
//!   one (`gather`, `accept`).
//! * **Delivering**: the lane of a destination belongs to one daemon at a time (`lanes`, `keeper`). It claims (`claim`,
//!   `leases`) and writes outcomes (`settle`) in transactions that fail when the lane belongs to another one.
//! * **Late** deliveries are handed over to the fallback by the owner of the lane (`hand_over`).
//! * **Commands** of operators change deliveries from any daemon (`commands`); a notice tells the owner of the lane
//!   (`wake`).

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{RwLock, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::accept::{Accepting, Prepared};
use self::gather::Gather;
use self::keeper::Keeper;
use self::lanes::Lanes;
use self::monitor::Monitor;
use self::phase::Retention;
use self::settle::Settling;
use self::shared::{Commits, Shared, Totals};
use self::wake::Notice;
use super::backup::{Part, Position};
use super::{
    Acceptance, Arrival, Backlog, Change, Claim, Counts, DeliveryQuery, Discarded, Ended, Error, Found,
    HandOver, HandedOver, Health, Nodes, Overdue, Page, Query, Queued, Requeued, RetentionCutoffs, Selector,
    Settlement, Standings, Store, Turn, Undelivered,
};
use crate::metrics::series::Saved;
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::model::notices::Notices;
use crate::timeline::Timeline;

mod accept;
mod address;
mod ahead;
mod aside;
mod by_state;
mod claim;
mod commands;
mod counters;
mod export;
mod following;
mod gather;
mod hand_over;
mod health;
mod import;
mod keeper;
mod lanes;
mod leases;
mod migrate;
mod moment;
mod monitor;
mod nodes;
mod overview;
mod phase;
mod pool;
mod positions;
mod reading;
mod record;
mod resend;
mod retention;
mod rows;
mod search;
mod session;
mod settle;
mod shared;
mod states;
mod tls;
mod trouble;
mod wake;

pub use address::Address;
pub use import::{Import, ImportError};
pub use migrate::{Migrated, SchemaError, VERSION, index_words, migrate, version};
pub use overview::{Lane, Node, Overview};
pub use pool::{Connection, Dedicated, Pool};
pub use session::{ConnectError, SynchronousCommit};

#[cfg(test)]
#[path = "../../../tests/common/postgres.rs"]
mod cluster;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// Upper bound of the changes and notices that wait to be read.
const WAITING: usize = 1_024;

/// How the store is opened.
pub struct Options {
    /// The connections.
    pub pool: Pool,
    /// The unique name of this daemon.
    pub node: String,
    /// How long a lane stays with a daemon that does not renew it.
    pub lease: Duration,
    /// A digest of the configuration, which should be the same for all daemons.
    pub fingerprint: String,
    /// How long an arrival may take, at most ten seconds: the carrier must get its 503 before its request times out.
    pub answer_within: Duration,
    /// Receives the durations of the commits.
    pub commits: Option<Histogram>,
}

/// The store.
pub struct Postgres {
    shared: Arc<Shared>,
    accepting: Gather<Accepting>,
    settling: Gather<Settling>,
    writers: TaskTracker,
    keepers: TaskTracker,
    stop: CancellationToken,
}

impl Postgres {
    /// Opens the store in a database whose schema is current, and starts its tasks.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let (requests, incoming_requests) = mpsc::channel(lanes::REQUESTS);
        let (notices, outgoing_notices) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared {
            pool: options.pool,
            node: options.node,
            fingerprint: std::sync::Mutex::new(options.fingerprint),
            instance: Uuid::new_v4(),
            lease: options.lease,
            totals: Totals::default(),
            commits: Commits::new(options.commits),
            lanes: Lanes::new(requests),
            leases: std::sync::Mutex::default(),
            claiming: RwLock::new(()),
            changes: broadcast::channel(WAITING).0,
            notices,
            retention: Retention::default(),
            monitor: Monitor::default(),
        });
        shared.ask(true).await?;
        let (writers, keepers, stop) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let keeper = Keeper {
            shared: shared.clone(),
            requests: incoming_requests,
            notices: outgoing_notices,
            stop: stop.clone(),
        };
        keepers.spawn(keeper.run());
        keepers.spawn(shared.clone().monitor(stop.clone()));
        Ok(Self {
            accepting: Gather::start(
                &Arc::new(Accepting(shared.clone())),
                &accept::WRITERS,
                options.answer_within,
                &writers,
            ),
            settling: Gather::start(
                &Arc::new(Settling(shared.clone())),
                &settle::WRITERS,
                gather::WAIT,
                &writers,
            ),
            shared,
            writers,
            keepers,
            stop,
        })
    }
}

impl Drop for Postgres {
    /// Ends the tasks of a store that was not closed.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Store for Postgres {
    async fn accept(&self, arrival: Arrival) -> Result<Acceptance, Error> {
        // Carriers wait for the answer, so they get it at once.
        if let Some(reason) = self.shared.monitor.unavailable() {
            return Err(Error::Unavailable(reason));
        }
        let prepared = Prepared::new(arrival)?;
        self.accepting.put(prepared.key(), prepared).await
    }

    async fn claim(&self, destination: &Name, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error> {
        self.claim_due(destination, now, limit).await
    }

    async fn claim_overdue(
        &self,
        destination: &Name,
        pending_since: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error> {
        self.claim_old(destination, pending_since, limit).await
    }

    async fn claim_following(
        &self,
        claim: &Claim,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        self.claim_after(claim, now, limit).await
    }

    async fn hand_over(&self, request: &HandOver) -> Result<Option<HandedOver>, Error> {
        self.hand_over_late(request).await
    }

    async fn answered(&self, claim: &Claim) -> bool {
        self.answered_by(claim).await.unwrap_or_default()
    }

    fn holds(&self, claim: &Claim) -> bool {
        let lease = self.shared.leases().get(claim.token).cloned();
        lease.is_some_and(|lease| self.shared.lanes.holds(&lease.queue.0, lease.epoch))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Vec<DeliveryId>, Error> {
        self.write_outcome(settlement).await
    }

    async fn held(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error> {
        self.held_among(destination, conversation, recipients).await
    }

    async fn release(&self, claim: Claim) {
        self.shared.leases().end(claim.token);
        self.shared.lanes.look_again(&claim.delivery.destination);
    }

    async fn next_due(&self, destination: &Name, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.next_due_at(destination, now).await
    }

    async fn queued(&self, id: MessageId) -> Result<Vec<Queued>, Error> {
        self.queued_of(id).await
    }

    async fn ahead(&self, destination: &Name, turn: Turn, now: Timestamp) -> Result<u64, Error> {
        self.ahead_of(destination, turn, now).await
    }

    async fn oldest_pending(&self, destination: &Name) -> Result<Option<Delivery>, Error> {
        self.oldest_of(destination).await
    }

    async fn find(&self, id: MessageId) -> Result<Option<Found>, Error> {
        self.shared.find(id).await
    }

    async fn messages(&self, query: &Query) -> Result<Page<Found>, Error> {
        self.shared.messages(query).await
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        self.shared.deliveries(query).await
    }

    async fn requeue(&self, selector: &Selector, now: Timestamp) -> Result<Requeued, Error> {
        self.requeue_selected(selector, now).await
    }

    async fn retry_now(&self, destination: &Name, now: Timestamp) -> Result<u64, Error> {
        self.retry_delayed(destination, now).await
    }

    async fn advance(&self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error> {
        self.advance_late(beyond, now).await
    }

    async fn acknowledge_dead(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.acknowledge_selected(selector, since, now).await
    }

    async fn discard(&self, selector: &Selector, now: Timestamp, reason: &str) -> Result<Discarded, Error> {
        self.discard_selected(selector, now, reason).await
    }

    async fn add_deliveries(
        &self,
        id: MessageId,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeliveryId>, Error> {
        self.add_to(id, &deliveries).await
    }

    async fn backlog(&self, destination: &Name) -> Result<Backlog, Error> {
        self.shared.backlog(destination).await
    }

    async fn destinations(&self) -> Result<Vec<Name>, Error> {
        self.shared.destinations().await
    }

    async fn set_paused(&self, destination: &Name, paused: bool) -> Result<(), Error> {
        self.shared.set_paused(destination, paused).await?;
        self.shared.announce(Notice::Paused);
        Ok(())
    }

    async fn paused(&self) -> Result<Vec<Name>, Error> {
        self.shared.paused().await
    }

    async fn set_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        self.shared.set_timeline(timeline).await
    }

    async fn timeline(&self) -> Result<Option<Timeline>, Error> {
        self.shared.timeline().await
    }

    async fn set_standings(&self, standings: &Standings) -> Result<(), Error> {
        self.shared.set_standings(standings).await
    }

    async fn standings(&self) -> Result<Standings, Error> {
        self.shared.standings().await
    }

    async fn set_series(&self, series: &Saved) -> Result<(), Error> {
        self.shared.set_series(series).await
    }

    async fn series(&self) -> Result<Option<Saved>, Error> {
        self.shared.series().await
    }

    async fn set_notices(&self, notices: &Notices) -> Result<(), Error> {
        self.shared.set_notices(notices).await
    }

    async fn notices(&self) -> Result<Option<Notices>, Error> {
        self.shared.notices().await
    }

    fn ended(&self) -> Ended {
        self.shared.totals.ended()
    }

    fn undelivered(&self) -> Undelivered {
        self.shared.totals.undelivered()
    }

    async fn prune(&self, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<bool, Error> {
        self.shared.prune(cutoffs, now).await
    }

    async fn counts(&self) -> Result<Counts, Error> {
        self.shared.counts().await
    }

    async fn export(&self, from: Position) -> Result<Part, Error> {
        self.shared.export(from).await
    }

    async fn acknowledge(&self) -> Result<u64, Error> {
        self.shared.acknowledge_findings().await
    }

    fn clock(&self) -> Option<Timestamp> {
        self.shared.monitor.clock()
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn serve(&self, destinations: &[Name]) {
        self.shared.lanes.serve(destinations);
    }

    fn configured(&self, fingerprint: &str) {
        self.shared.set_fingerprint(fingerprint);
    }

    async fn nodes(&self) -> Result<Option<Nodes>, Error> {
        Ok(Some(self.shared.nodes().await?))
    }

    fn changes(&self) -> Option<broadcast::Receiver<Change>> {
        Some(self.shared.changes.subscribe())
    }

    async fn close(&self) -> Result<(), Error> {
        self.accepting.close();
        self.settling.close();
        self.writers.close();
        self.writers.wait().await;
        self.stop.cancel();
        self.keepers.close();
        self.keepers.wait().await;
        self.shared.pool.close();
        Ok(())
    }
}
