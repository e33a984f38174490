//! The single writer, which makes commits durable.
//!
//! One thread makes all changes. It takes the requests from a bounded channel, lets each add its changes to one
//! batch, appends the batch to the log as one frame, waits until that is on disk, and only then answers all callers.
//! So sixty-four messages that arrive together cost one sync. Committed changes are visible at once (`overlay`), and
//! are written to the database later (`checkpoint`).
//!
//! The first error of a write or a sync is final. After a failed `fdatasync`, the kernel may have dropped the data
//! and report success for the next sync. So nothing is retried, no caller gets a success, and the next start reads
//! what is on disk.
//!
//! A second thread only watches how long the current commit or checkpoint takes. A hanging disk blocks the threads of
//! the process, so it aborts the process, and the service manager restarts it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::error;

use super::changes::Changes;
use super::disk_space::DiskSpace;
use super::index::IndexUpdate;
use super::index::dedup_index::DedupIndex;
use super::keys;
use super::log::Log;
use super::record;
use super::status::Status;
use super::write_batch::{Sweep, WriteBatch};
use super::{Shared, lock};
use crate::store::Error;

/// The maximum number of requests in one commit.
const BATCH_MAX: usize = 1024;

/// The size in bytes at which a batch ends, because a frame is held in memory as a whole.
const BATCH_BYTES: usize = 2 << 20;

/// A batch of this many requests indicates that requests arrive faster than commits.
const BUSY_MIN: usize = 8;

/// How long the next batch then waits for requests. Each commit costs two waits for the disk and a dozen context
/// switches, however small it is, so fewer and larger commits leave more of the processor to other work. At a low
/// rate, no batch waits.
const GATHER_TIME: Duration = Duration::from_micros(500);

/// Adds changes to the batch, and returns the function that answers the caller after the commit.
pub(super) type Request = Box<dyn FnOnce(&mut WriteBatch<'_>) -> Decided + Send>;

/// The function that answers the caller, and an error if the whole batch must not be written.
pub(super) type Decided = (Option<String>, Answer);

/// Answers the caller with the result of the commit.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The state of the thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) log: Log,
    pub(super) space: DiskSpace,
    pub(super) sweep: Sweep,
    pub(super) dedup_index: DedupIndex,
    /// The number of requests in the last batch.
    pub(super) last_size: usize,
}

impl Writer {
    /// Runs until the channel is closed.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ending = Ending(&shared.status);
        let mut requests = Vec::with_capacity(BATCH_MAX);
        while self.wait(&mut requests) {
            let mut waiting = requests.drain(..).peekable();
            while waiting.peek().is_some() {
                self.work(&mut waiting);
            }
        }
    }

    /// Takes the queued requests. Returns false if the channel is closed.
    fn wait(&mut self, requests: &mut Vec<Request>) -> bool {
        if self.last_size >= BUSY_MIN {
            std::thread::sleep(GATHER_TIME);
        }
        self.last_size = self.requests.blocking_recv_many(requests, BATCH_MAX);
        self.last_size > 0
    }

    /// Commits one batch of limited size. After a failure nothing is attempted; a dropped request returns the failure
    /// to its caller.
    fn work(&mut self, requests: &mut impl Iterator<Item = Request>) {
        let Self {
            shared,
            log,
            space,
            sweep,
            dedup_index,
            ..
        } = self;
        if shared.status.check().is_err() {
            return requests.for_each(drop);
        }
        shared.status.begin();
        shared.wait_for_room();
        space.refresh(shared.overlay.bytes().1);
        shared.status.measured(space, log.segments().bytes());

        let mut batch = WriteBatch::new(shared, log.next(), space, sweep, dedup_index);
        let (mut fatal, mut answers) = (None, Vec::new());
        while batch.view.bytes() < BATCH_BYTES
            && let Some(request) = requests.next()
        {
            let (reason, answer) = request(&mut batch);
            fatal = fatal.or(reason);
            answers.push(answer);
        }
        let WriteBatch {
            mut view,
            mut counters,
            updates,
            reserved,
            settled,
            carried,
            is_new_segment,
            ..
        } = batch;
        let changed = view.len() > 0 || !carried.is_empty() || is_new_segment;
        counters.ledger.commits += u64::from(changed);
        {
            let mut weight = lock(&shared.weight);
            weight.texts += arrived(&updates);
            weight.bytes += view.bytes() as u64;
        }
        view.create(keys::LEDGER, &record::encode(&counters.ledger));
        let changes = view.into_changes();
        let result = match fatal {
            Some(reason) => Err(reason),
            None if changed => commit(log, &carried, &changes, is_new_segment, space.free),
            None => Ok(()),
        };
        let result = result.map_err(|reason| shared.status.fail(&reason));
        if result.is_ok() {
            if changed {
                shared.overlay.add(changes, log.next() - 1);
            }
            lock(&shared.counters).commit(counters);
            shared.index.apply(updates);
        }
        shared.leases.finish(&reserved, &settled);
        shared.index.free(&settled);
        shared.status.end(changed && result.is_ok());
        for answer in answers {
            answer(result.clone());
        }
        if log.is_filling() {
            shared.progress.want_segment();
        }
    }
}

/// Appends the batch to the log and waits until it is on disk.
fn commit(
    log: &mut Log,
    carried: &Changes,
    changes: &Changes,
    is_new_segment: bool,
    free: u64,
) -> Result<(), String> {
    if is_new_segment {
        log.rotate(0, free)
            .map_err(|error| format!("the log cannot begin a new segment: {error}"))?;
    }
    log.append(&[carried, changes], free)
        .map_err(|error| format!("a write to the log failed: {error}"))
}

/// The number of new messages in a batch.
fn arrived(updates: &[IndexUpdate]) -> u64 {
    let arrived = updates
        .iter()
        .filter(|update| matches!(update, IndexUpdate::Message { .. }));
    arrived.count() as u64
}

/// Reports a panic of the writer as a failure of the store.
struct Ending<'a>(&'a Status);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer panicked");
            self.0.end(false);
        }
    }
}

/// The time for the log to write the reason before the process ends.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// Aborts the process when a commit or a checkpoint takes longer than `abort_after`. Returns when the other end is
/// dropped.
pub(super) fn watch(shared: &Shared, stop: &Receiver<()>, abort_after: Duration) {
    let interval = (abort_after / 10).min(Duration::from_secs(1));
    while stop.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let running = shared.status.running().max(shared.status.checkpoint_running());
        let Some(running) = running.filter(|running| *running > interval) else {
            continue;
        };
        if running > abort_after {
            error!(
                "a commit has not ended after {running:?}: the disk hangs; ending the process to be restarted"
            );
            // The log lines are written by another thread.
            std::thread::sleep(FLUSH_TIME);
            std::process::abort();
        }
    }
}
