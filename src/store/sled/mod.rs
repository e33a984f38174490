//! The store on the local disk, in one sled tree.
//!
//! sled is fast and small, but does not meet the contract by itself: a part of this module compensates for each of
//! its known weaknesses. No other module depends on sled.
//!
//! * `writer`: the thread that commits batches. `requests`, `threads`: how callers send changes to it and wait.
//! * `log`: every commit is appended here first. `overlay`: the changes that only the log has. `checkpoint`: writes them
//!   to the database. `renew`, `keeper`: keep the log small and complete for pending messages.
//! * `keys`, `record`: the format of keys and records, and the detection of damage.
//! * `view`, `stored`: the store as it will be after the current batch, and its content.
//! * `index`: the indexes in memory: `queues` (`line`: those of one destination), the `table` of `row`s for searches,
//!   `dedup_index` (provider ids), `seq_index` (from a key to messages) and `counters`.
//! * `write_batch`, `commands`, `hand_over`, `prune`: changes. `read`, `leases`: claims and searches.
//! * `export`, `import`: backups. `compact`: replaces a database that is mostly empty.
//! * `open` (with `options`): opens the store. `recovery`: brings a database in any state up to date and verifies all of it
//!   (`audit`). Its `history` recovers records from a damaged database, `migrate` and `format` handle earlier formats,
//!   `intact` checks the files before sled opens them, `folders` selects the current database after any interruption, and
//!   `findings` are the problems found. `database`: a database of sled.
//! * `disk_space`: handles a full disk. `status`: the health of the store. `access`: the permissions of its files. `scan`:
//!   reads all of it in little memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use self::checkpoint::Progress;
use self::commands::Left;
use self::compact::Weight;
use self::index::Index;
use self::index::counters::Counters;
use self::index::queues;
use self::index::table::Draft;
use self::keys::Place;
use self::leases::Leases;
use self::overlay::Overlay;
use self::record::Kept;
use self::recovery::findings::Findings;
use self::status::Status;
use self::threads::Threads;
use self::write_batch::{Incoming, STEP, WriteBatch};
use super::backup::{self, Part, Position};
use super::{
    Acceptance, Arrival, Backlog, Claim, Counts, DeliveryQuery, Discarded, Ended, Error, Found, HandOver,
    HandedOver, Health, Overdue, Page, Query, Queued, Requeued, RetentionCutoffs, Selector, Settlement,
    Standings, Store, Turn, Undelivered,
};
use crate::metrics::series::Saved;
use crate::model::delivery::{Delivery, DeliveryId};
use crate::model::message::{Conversation, MessageId, Name, Timestamp};
use crate::model::notices::Notices;
use crate::timeline::Timeline;

mod access;
mod changes;
mod checkpoint;
mod commands;
mod compact;
mod database;
mod disk;
mod disk_space;
mod export;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hand_over;
mod import;
mod index;
mod keeper;
mod keys;
mod leases;
mod log;
mod open;
mod options;
mod overlay;
mod prune;
mod read;
mod record;
mod recovery;
mod renew;
mod requests;
mod scan;
mod status;
mod stored;
#[cfg(test)]
mod tests;
mod threads;
mod view;
mod write_batch;
mod writer;

pub use self::import::{Import, ImportError};
pub use self::options::{OpenError, Options};
pub use self::recovery::is_in_use;

/// The store. Dropping it waits for the current commit and closes it.
pub struct Sled {
    threads: Threads,
    shared: Arc<Shared>,
}

/// The state shared by the writer and the readers.
struct Shared {
    overlay: Overlay,
    /// The destinations at which a conversation has ever had a thread. At others, a claim does not look for one.
    threaded: Mutex<BTreeSet<Name>>,
    progress: Progress,
    weight: Mutex<Weight>,
    findings: Findings,
    index: Index,
    counters: Mutex<Counters>,
    leases: Leases,
    paused: Mutex<BTreeSet<Name>>,
    status: Arc<Status>,
    /// Held as long as the database is in use. The last field, so that it is dropped last.
    _lock: File,
}

impl Sled {
    /// Runs a read that may need the disk on a thread where blocking is allowed.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.shared.status.check()?;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || read(&shared)).await;
        read.unwrap_or_else(|_| Err(Error::Failed("a read panicked".to_owned())))
    }

    /// Applies a change to all selected deliveries, in steps of limited size.
    async fn on_selected(
        &self,
        selector: &Selector,
        change: impl Fn(Vec<Place>) -> Change,
    ) -> Result<u64, Error> {
        if let Selector::Ids(ids) = selector {
            return self.on_ids(ids, change).await;
        }
        let (mut touched, mut after) = (0, None);
        loop {
            let (places, next) = self.shared.selected(selector, after);
            touched += self.threads.write(change(places)).await?;
            if next.is_none() {
                return Ok(touched);
            }
            after = next;
        }
    }

    async fn on_ids(&self, ids: &[DeliveryId], change: impl Fn(Vec<Place>) -> Change) -> Result<u64, Error> {
        let mut touched = 0;
        // Each is changed and counted once, however often it is named.
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(STEP) {
            let ids = ids.to_vec();
            let places = self.threads.write(move |batch| batch.places(&ids)).await?;
            touched += self.threads.write(change(places)).await?;
        }
        Ok(touched)
    }
}

impl Shared {
    /// One step of the selected deliveries.
    fn selected(&self, selector: &Selector, after: Option<queues::Cursor>) -> queues::Listed {
        let queues = self.index.queues();
        match selector {
            Selector::Dead(destination) => queues.dead_after(destination, after, STEP),
            Selector::Pending(destination) => queues.waiting_after(destination, after, STEP),
            Selector::Ids(_) => (Vec::new(), None),
        }
    }
}

/// A change to some deliveries. Returns the number of changed ones.
type Change = Box<dyn FnOnce(&mut WriteBatch<'_>) -> Result<u64, Error> + Send>;

#[async_trait]
impl Store for Sled {
    async fn accept(&self, arrival: Arrival) -> Result<Acceptance, Error> {
        let permit = self.threads.room()?;
        let incoming = incoming(arrival);
        let room = self.threads.room_for(incoming.payload.len())?;
        // The permit is released with the response, even if the caller does not wait for it any more.
        let accepted = move |batch: &mut WriteBatch<'_>| Ok((batch.accept(incoming)?, room));
        let (accepted, _room) = self.threads.committed(permit, accepted).await?;
        Ok(accepted)
    }

    async fn claim(&self, destination: &Name, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error> {
        self.shared.status.check()?;
        let slots = self.shared.hold_due(destination, now, limit);
        // Messages that were just accepted are in memory. Changing the thread for them would delay every delivery.
        if self.shared.are_recent(&slots) {
            return self.shared.lease(slots);
        }
        self.read(move |shared| shared.lease(slots)).await
    }

    async fn claim_overdue(
        &self,
        destination: &Name,
        pending_since: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error> {
        let destination = destination.clone();
        self.read(move |shared| shared.claim_overdue(&destination, &pending_since, limit))
            .await
    }

    async fn claim_following(
        &self,
        claim: &Claim,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Claim>, Error> {
        let claim = claim.clone();
        self.read(move |shared| shared.claim_following(&claim, now, limit))
            .await
    }

    async fn hand_over(&self, request: &HandOver) -> Result<Option<HandedOver>, Error> {
        self.shared.status.check()?;
        self.hand_over_late(request).await.map(Some)
    }

    async fn answered(&self, claim: &Claim) -> bool {
        self.shared.answered(claim)
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Vec<DeliveryId>, Error> {
        let record = record::encode(&settlement.delivery);
        let settlement = settlement.clone();
        self.threads
            .write(move |batch| batch.settle(settlement, &record))
            .await
    }

    async fn held(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error> {
        self.shared.status.check()?;
        Ok(self.shared.held(destination, conversation, recipients))
    }

    async fn release(&self, claim: Claim) {
        let ended = self.shared.leases.end(claim.token, claim.delivery.id);
        if let Some(lease) = ended.filter(|lease| !lease.is_answered) {
            self.shared.leases.free(&lease.queue);
            self.shared.index.free(&[lease.queue]);
        }
    }

    async fn next_due(&self, destination: &Name, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.shared.status.check()?;
        Ok(self.shared.next_due(destination, now))
    }

    async fn queued(&self, id: MessageId) -> Result<Vec<Queued>, Error> {
        self.read(move |shared| shared.queued(id)).await
    }

    async fn ahead(&self, destination: &Name, turn: Turn, now: Timestamp) -> Result<u64, Error> {
        self.shared.status.check()?;
        Ok(self.shared.index.queues().ahead(destination, turn, now))
    }

    async fn find(&self, id: MessageId) -> Result<Option<Found>, Error> {
        self.read(move |shared| shared.find(id)).await
    }

    async fn messages(&self, query: &Query) -> Result<Page<Found>, Error> {
        let query = query.clone();
        self.read(move |shared| shared.messages(&query)).await
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        let query = query.clone();
        self.read(move |shared| shared.deliveries(&query)).await
    }

    async fn requeue(&self, selector: &Selector, now: Timestamp) -> Result<Requeued, Error> {
        let left = Arc::new(Left::default());
        let requeue = |places: Vec<Place>| -> Change {
            let (left, selector) = (left.clone(), selector.clone());
            Box::new(move |batch| batch.requeue(&places, &selector, now, &left))
        };
        let touched = self.on_selected(selector, requeue).await?;
        Ok(Requeued {
            touched,
            due: left.due.load(Ordering::Relaxed),
            claimed: left.claimed.load(Ordering::Relaxed),
            redacted: left.redacted.load(Ordering::Relaxed),
        })
    }

    async fn retry_now(&self, destination: &Name, now: Timestamp) -> Result<u64, Error> {
        let (mut touched, mut after) = (0, None);
        loop {
            let (places, next) = self
                .shared
                .index
                .queues()
                .later_after(destination, now, after, STEP);
            if !places.is_empty() {
                let retry = move |batch: &mut WriteBatch<'_>| batch.retry_now(&places, now);
                touched += self.threads.write(retry).await?;
            }
            if next.is_none() {
                return Ok(touched);
            }
            after = next;
        }
    }

    async fn advance(&self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error> {
        let mut touched = 0;
        for destination in self.destinations().await? {
            let mut after = None;
            loop {
                let (places, next) = self
                    .shared
                    .index
                    .queues()
                    .due_after(&destination, beyond, after, STEP);
                if !places.is_empty() {
                    let change = move |batch: &mut WriteBatch<'_>| batch.advance(&places, beyond, now);
                    touched += self.threads.write(change).await?;
                }
                if next.is_none() {
                    break;
                }
                after = next;
            }
        }
        Ok(touched)
    }

    async fn oldest_pending(&self, destination: &Name) -> Result<Option<Delivery>, Error> {
        let destination = destination.clone();
        self.read(move |shared| shared.oldest_pending(&destination)).await
    }

    async fn acknowledge_dead(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let acknowledge =
            |places: Vec<Place>| -> Change { Box::new(move |batch| batch.acknowledge(&places, since, now)) };
        self.on_selected(selector, acknowledge).await
    }

    async fn discard(&self, selector: &Selector, now: Timestamp, reason: &str) -> Result<Discarded, Error> {
        let left = Arc::new(Left::default());
        let discard = |places: Vec<Place>| -> Change {
            let (left, reason) = (left.clone(), reason.to_owned());
            Box::new(move |batch| batch.discard(&places, now, &reason, &left))
        };
        let touched = self.on_selected(selector, discard).await?;
        Ok(Discarded {
            touched,
            claimed: left.claimed.load(Ordering::Relaxed),
        })
    }

    async fn add_deliveries(
        &self,
        id: MessageId,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeliveryId>, Error> {
        self.threads
            .write(move |batch| batch.add_deliveries(id, deliveries))
            .await
    }

    async fn backlog(&self, destination: &Name) -> Result<Backlog, Error> {
        Ok(lock(&self.shared.counters).backlog(destination))
    }

    async fn destinations(&self) -> Result<Vec<Name>, Error> {
        let mut names: BTreeSet<Name> = lock(&self.shared.counters).destinations().cloned().collect();
        names.extend(lock(&self.shared.paused).iter().cloned());
        Ok(names.into_iter().collect())
    }

    async fn set_paused(&self, destination: &Name, paused: bool) -> Result<(), Error> {
        let destination = destination.clone();
        self.threads
            .write(move |batch| batch.set_paused(destination, paused))
            .await
    }

    async fn paused(&self) -> Result<Vec<Name>, Error> {
        Ok(lock(&self.shared.paused).iter().cloned().collect())
    }

    async fn set_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        let timeline = timeline.clone();
        self.threads
            .write(move |batch| batch.set_timeline(&timeline))
            .await
    }

    async fn timeline(&self) -> Result<Option<Timeline>, Error> {
        self.read(|shared| shared.state(keys::TIMELINE)).await
    }

    async fn set_series(&self, series: &Saved) -> Result<(), Error> {
        let series = series.clone();
        self.threads.write(move |batch| batch.set_series(&series)).await
    }

    async fn series(&self) -> Result<Option<Saved>, Error> {
        self.read(|shared| shared.state(keys::SERIES)).await
    }

    async fn set_notices(&self, notices: &Notices) -> Result<(), Error> {
        let notices = notices.clone();
        self.threads.write(move |batch| batch.set_notices(&notices)).await
    }

    async fn notices(&self) -> Result<Option<Notices>, Error> {
        self.read(|shared| shared.state(keys::NOTICES)).await
    }

    fn ended(&self) -> Ended {
        self.shared.index.ended()
    }

    fn undelivered(&self) -> Undelivered {
        self.shared.index.table().undelivered()
    }

    async fn set_standings(&self, standings: &Standings) -> Result<(), Error> {
        let standings = standings.clone();
        self.threads
            .write(move |batch| batch.set_standings(&standings))
            .await
    }

    async fn standings(&self) -> Result<Standings, Error> {
        let standings = self.read(|shared| shared.state(keys::STANDINGS)).await?;
        Ok(standings.unwrap_or_default())
    }

    async fn prune(&self, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<bool, Error> {
        let cutoffs = *cutoffs;
        self.threads.write(move |batch| batch.prune(&cutoffs, now)).await
    }

    async fn counts(&self) -> Result<Counts, Error> {
        Ok(lock(&self.shared.counters).ledger.counts)
    }

    async fn export(&self, from: Position) -> Result<Part, Error> {
        self.threads.write(move |batch| batch.export(from)).await
    }

    async fn acknowledge(&self) -> Result<u64, Error> {
        let shared = Arc::clone(&self.shared);
        let acknowledged = tokio::task::spawn_blocking(move || shared.acknowledge()).await;
        acknowledged.map_err(|_| Error::Failed("acknowledging panicked".to_owned()))
    }

    fn health(&self) -> Health {
        self.threads.measure();
        self.shared.status.health()
    }

    async fn close(&self) -> Result<(), Error> {
        let flushed = self.threads.write(|_| Ok(())).await;
        self.threads.close().await;
        flushed?;
        self.shared.status.check()
    }
}

fn incoming(arrival: Arrival) -> Incoming {
    let Arrival {
        message,
        deliveries,
        dedup_since,
    } = arrival;
    let told = !message.provider_id.is_empty();
    let kept = Kept { message, deliveries };
    Incoming {
        conversation: kept.message.conversation(),
        digest: told.then(|| backup::digest(&kept.message.source, &kept.message.provider_id)),
        dedup_since,
        payload: record::encode(&kept),
        draft: Box::new(Draft::of(&kept.message)),
        deliveries: kept.deliveries,
    }
}

/// A panic under one of these locks leaves no partial change, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
