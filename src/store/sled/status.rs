//! The state of the store, readable without waiting for anything that may hang.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use tracing::{error, info};

use super::disk_space::DiskSpace;
use super::lock;
use super::recovery::findings;
use crate::store::{Error, Health};

/// The state of the store.
#[derive(Default)]
pub(super) struct Status {
    health: Mutex<Health>,
    commit: Mutex<Option<Instant>>,
    checkpoint: Mutex<Option<Instant>>,
    measured: Mutex<Option<Instant>>,
    room: AtomicU64,
    told: Mutex<Told>,
    commits: Option<Histogram>,
}

/// The state of the free space that was last logged.
#[derive(Default)]
struct Told {
    /// The initial state, before anything was logged: the daemon logs the state at start itself.
    full: Option<bool>,
    at: Option<Instant>,
}

/// Minimum interval between two log lines about free space near the limit.
const TOLD_APART: Duration = Duration::from_secs(10);

impl Told {
    fn tell(&mut self, health: &Health) {
        let was = self.full.get_or_insert(health.full);
        if *was == health.full || self.at.is_some_and(|at| at.elapsed() < TOLD_APART) {
            return;
        }
        *was = health.full;
        self.at = Some(Instant::now());
        let space = health.space();
        match health.full {
            true => error!("{space}; new messages are answered 503 until then"),
            false => info!("the store accepts messages again: {space}"),
        }
    }
}

impl Status {
    pub(super) fn new(commits: Option<Histogram>) -> Self {
        Self {
            commits,
            ..Self::default()
        }
    }

    pub(super) fn health(&self) -> Health {
        Health {
            commit_running: self.running(),
            ..lock(&self.health).clone()
        }
    }

    /// How long the current commit has been running.
    pub(super) fn running(&self) -> Option<Duration> {
        lock(&self.commit).map(|since| since.elapsed())
    }

    /// How long the current checkpoint has been running.
    pub(super) fn checkpoint_running(&self) -> Option<Duration> {
        lock(&self.checkpoint).map(|since| since.elapsed())
    }

    pub(super) fn begin_checkpoint(&self) {
        *lock(&self.checkpoint) = Some(Instant::now());
    }

    pub(super) fn end_checkpoint(&self) {
        *lock(&self.checkpoint) = None;
    }

    /// The free bytes at the last measurement.
    pub(super) fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// Returns true if the last measurement is old.
    pub(super) fn is_stale(&self) -> bool {
        lock(&self.measured).is_none_or(|at| at.elapsed() > Duration::from_secs(1))
    }

    /// Records that the writer begins a batch.
    pub(super) fn begin(&self) {
        *lock(&self.commit) = Some(Instant::now());
    }

    /// Records that the writer has finished a batch; `committed` is true if anything was written.
    pub(super) fn end(&self, committed: bool) {
        let began = lock(&self.commit).take();
        let took = began.filter(|_| committed).map(|began| began.elapsed());
        let Some(took) = took else { return };
        if let Some(commits) = &self.commits {
            commits.observe(took.as_secs_f64());
        }
        let mut health = lock(&self.health);
        health.commits += 1;
        health.commit_last = Some(took);
    }

    /// Updates the free space and the size of the log.
    pub(super) fn measured(&self, space: &DiskSpace, log: u64) {
        *lock(&self.measured) = Some(Instant::now());
        self.room.store(space.room, Ordering::Relaxed);
        let mut health = lock(&self.health);
        health.free = Some(space.free);
        health.bytes = space.bytes + log;
        health.needed = space.needed();
        health.full = space.is_full();
        health.file_limit = space.file_limit;
        health.no_inodes = space.no_inodes;
        lock(&self.told).tell(&health);
    }

    /// Marks the store as failed: nothing is written from now on. Only the first reason is kept.
    pub(super) fn fail(&self, reason: &str) -> Error {
        let mut health = lock(&self.health);
        if health.failed.is_none() {
            error!("the store failed and writes nothing any more; restart to recover: {reason}");
        }
        Error::Failed(health.failed.get_or_insert_with(|| reason.to_owned()).clone())
    }

    /// Returns an error if the store has failed.
    pub(super) fn check(&self) -> Result<(), Error> {
        lock(&self.health)
            .failed
            .clone()
            .map_or(Ok(()), |reason| Err(Error::Failed(reason)))
    }

    /// Adds a finding. Returns true if it is new.
    pub(super) fn find(&self, finding: &str) -> bool {
        let is_new = findings::add(&mut lock(&self.health).findings, finding);
        if is_new {
            error!("{finding}");
        }
        is_new
    }

    /// Removes all findings. Returns their number.
    pub(super) fn acknowledge(&self) -> u64 {
        std::mem::take(&mut lock(&self.health).findings).len() as u64
    }
}
