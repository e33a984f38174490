//! The state that all parts of the store share: the connections, the lanes and leases, and counters in memory.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{RwLock, broadcast, mpsc};
use uuid::Uuid;

use super::lanes::Lanes;
use super::leases::Leases;
use super::monitor::Monitor;
use super::phase::Retention;
use super::pool::{Connection, Pool};
use super::record::{KEPT, UNROUTED};
use super::trouble::Trouble;
use super::wake::Notice;
use crate::store::{Change, Ended, Error, Undelivered};

const UNDELIVERED: &str = "
    SELECT COALESCE(sum(kept), 0)::bigint, COALESCE(sum(unrouted), 0)::bigint FROM counter WHERE destination = ''";

/// The pause before a transaction is repeated after the connection was lost.
const REPEAT: Duration = Duration::from_millis(200);

/// Upper bound of the pause before a transaction is repeated because another one was in its way.
const CONFLICT_MS: u64 = 50;

/// The parts that the store's tasks and requests share.
pub(super) struct Shared {
    pub(super) pool: Pool,
    /// The name of this daemon.
    pub(super) node: String,
    /// A digest of its configuration, for the others.
    pub(super) fingerprint: Mutex<String>,
    /// This run of it.
    pub(super) instance: Uuid,
    /// How long a lane belongs to this daemon after its last renewal.
    pub(super) lease: Duration,
    pub(super) totals: Totals,
    pub(super) commits: Commits,
    pub(super) lanes: Lanes,
    pub(super) leases: Mutex<Leases>,
    /// Held for writing while an operator's command changes deliveries, so that none of them is claimed meanwhile.
    pub(super) claiming: RwLock<()>,
    /// Notifications for the lanes of this daemon.
    pub(super) changes: broadcast::Sender<Change>,
    /// Notifications for other daemons. A full queue loses notices, which their polls make up for.
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) retention: Retention,
    pub(super) monitor: Monitor,
}

/// A transaction that can be repeated.
pub(super) trait Work: Sync {
    /// Its result.
    type Output: Send;

    /// Runs it on a connection that is in no transaction.
    fn run(&self, connection: &Connection) -> impl Future<Output = Result<Self::Output, Trouble>> + Send;
}

impl Shared {
    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fingerprint(&self) -> String {
        let fingerprint = self.fingerprint.lock();
        fingerprint.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_fingerprint(&self, fingerprint: &str) {
        let mut own = self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        fingerprint.clone_into(&mut own);
    }

    /// Tells the other daemons.
    pub(super) fn announce(&self, notice: Notice) {
        drop(self.notices.try_send(notice));
    }

    /// Reads the numbers of messages without a delivery, which other daemons change too.
    pub(super) async fn load_totals(&self) -> Result<(), Error> {
        let version = self.totals.version();
        let connection = self.pool.get().await?;
        let read = async || -> Result<(i64, i64), Trouble> {
            let statement = connection.prepare_cached(UNDELIVERED).await?;
            let row = connection.query_one(&statement, &[]).await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        };
        let (kept, unrouted) = self.within(&connection, read()).await?;
        self.totals.refresh(kept, unrouted, version);
        Ok(())
    }

    /// Runs a transaction. Repeats it until the deadline if another transaction was in its way or the connection was
    /// lost.
    pub(super) async fn repeat<W: Work>(&self, work: &W, deadline: Instant) -> Result<W::Output, Error> {
        loop {
            let error = match tokio::time::timeout_at(deadline.into(), self.attempt(work)).await {
                Ok(Ok(output)) => return Ok(output),
                Ok(Err(trouble)) if trouble.is_conflict() => {
                    let pause = Duration::from_millis(rand::random_range(1..=CONFLICT_MS));
                    tokio::time::sleep(pause).await;
                    trouble.into()
                }
                Ok(Err(trouble)) => match trouble.into() {
                    error @ Error::Unavailable(_) => {
                        tokio::time::sleep(REPEAT).await;
                        error
                    }
                    error => return Err(error),
                },
                Err(_) => Error::Unavailable("no answer within 10 s".to_owned()),
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    /// Runs a transaction once.
    pub(super) async fn once<W: Work>(&self, work: &W) -> Result<W::Output, Error> {
        let deadline = Instant::now() + super::gather::WAIT;
        match tokio::time::timeout_at(deadline.into(), self.attempt(work)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::Unavailable("no answer within 10 s".to_owned())),
        }
    }

    /// Runs a transaction once, without a time limit.
    pub(super) async fn attempt<W: Work>(&self, work: &W) -> Result<W::Output, Trouble> {
        let connection = self.pool.get().await.map_err(Error::from)?;
        let attempt = Attempt {
            connection,
            is_over: false,
        };
        let began = Instant::now();
        let result = work.run(&attempt.connection).await;
        match &result {
            Ok(_) => {
                attempt.succeeded();
                self.commits.observe(began.elapsed());
            }
            Err(trouble) => self.noticed(trouble),
        }
        result
    }

    /// Notes what an error says about the server.
    fn noticed(&self, trouble: &Trouble) {
        trouble.tell(&self.pool);
        if let Some(reason) = trouble.full() {
            self.monitor.is_full(reason);
        }
    }

    /// The error for the caller, after it was noted what it says about the server.
    pub(super) fn failed(&self, trouble: Trouble) -> Error {
        self.noticed(&trouble);
        trouble.into()
    }
}

/// A connection whose transaction has not ended. Unless it succeeded, also if it was cancelled, its state is unknown, and
/// the connection is closed.
struct Attempt {
    connection: Connection,
    is_over: bool,
}

impl Attempt {
    fn succeeded(mut self) {
        self.is_over = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.discard();
        }
    }
}

/// Counters that are read without waiting for the database.
#[derive(Default)]
pub(super) struct Totals(Mutex<Counted>);

#[derive(Clone, Copy, Default)]
struct Counted {
    ended: Ended,
    kept: i64,
    unrouted: i64,
    /// Grows with every own change of the last two.
    version: u64,
}

impl Totals {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended(&self) -> Ended {
        self.counted().ended
    }

    pub(super) fn undelivered(&self) -> Undelivered {
        let counted = self.counted();
        Undelivered {
            kept: counted.kept.try_into().unwrap_or_default(),
            unrouted: counted.unrouted.try_into().unwrap_or_default(),
        }
    }

    /// Counts messages whose last pending delivery has ended.
    pub(super) fn add_ended(&self, more: Ended) {
        let mut counted = self.counted();
        counted.ended.delivered += more.delivered;
        counted.ended.dead += more.dead;
    }

    /// Counts stored messages by their dispositions.
    pub(super) fn accepted(&self, dispositions: impl Iterator<Item = i16>) {
        let (mut kept, mut unrouted) = (0, 0);
        for disposition in dispositions {
            kept += i64::from(disposition == KEPT);
            unrouted += i64::from(disposition == UNROUTED);
        }
        self.add_undelivered(kept, unrouted);
    }

    /// Counts changes of the stored messages that have no delivery.
    pub(super) fn add_undelivered(&self, kept: i64, unrouted: i64) {
        if (kept, unrouted) != (0, 0) {
            let mut counted = self.counted();
            counted.kept += kept;
            counted.unrouted += unrouted;
            counted.version += 1;
        }
    }

    /// The version before the numbers are read from the database.
    pub(super) fn version(&self) -> u64 {
        self.counted().version
    }

    /// Takes over the numbers of the database, unless this daemon has changed them meanwhile.
    pub(super) fn refresh(&self, kept: i64, unrouted: i64, version: u64) {
        let mut counted = self.counted();
        if counted.version == version {
            counted.kept = kept;
            counted.unrouted = unrouted;
        }
    }
}

/// The durations of commits.
#[derive(Default)]
pub(super) struct Commits {
    histogram: Option<Histogram>,
    count: AtomicU64,
    last_micros: AtomicU64,
}

impl Commits {
    pub(super) fn new(histogram: Option<Histogram>) -> Self {
        Self {
            histogram,
            ..Self::default()
        }
    }

    fn observe(&self, took: Duration) {
        if let Some(histogram) = &self.histogram {
            histogram.observe(took.as_secs_f64());
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.last_micros.store(micros, Ordering::Relaxed);
    }

    /// The number of commits since the start.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The duration of the last one, if there was one.
    pub(super) fn last(&self) -> Option<Duration> {
        (self.count() > 0).then(|| Duration::from_micros(self.last_micros.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_database_do_not_replace_later_ones() {
        let totals = Totals::default();
        let version = totals.version();
        totals.accepted([KEPT, UNROUTED, UNROUTED, 0].into_iter());
        totals.refresh(0, 0, version);
        let expected = Undelivered { kept: 1, unrouted: 2 };
        assert_eq!(totals.undelivered(), expected);
        totals.refresh(5, 6, totals.version());
        let expected = Undelivered { kept: 5, unrouted: 6 };
        assert_eq!(totals.undelivered(), expected);
    }
}
