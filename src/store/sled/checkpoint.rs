//! The checkpoint: about once a second, or earlier if many changes have accumulated, writes the changes that are only
//! in the log to the database, many batches at a time.
//!
//! Its thread is the only one that writes to sled. It freezes the accumulated changes (see `overlay`), applies them,
//! flushes and syncs, and then records in the database the last frame applied. That record is a separate step and
//! synced as well: after a crash in between, the frames are applied again at the next start. Segments of the log are
//! only removed after the record is synced.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::compact::Compaction;
use super::disk::{Disk, marked};
use super::log::Segments;
use super::overlay::Layer;
use super::record::Mark;
use super::{Shared, disk_space, lock};

/// Upper bound of the interval between checkpoints.
const INTERVAL: Duration = Duration::from_secs(1);

/// The amount of changes, in bytes, that triggers a checkpoint immediately.
const MANY_BYTES: usize = 8 << 20;

/// The amount of changes, in bytes, at which commits wait for the checkpoint.
const FULL_BYTES: usize = 24 << 20;

/// The positions of database and log, and the requests between their threads.
#[derive(Default)]
pub(super) struct Progress {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    done: Condvar,
    /// The last frame that the database contains on disk.
    applied: AtomicU64,
    /// The first frame such that all later frames contain every pending message.
    renewed: AtomicU64,
    /// Whether the log contains every pending message.
    is_covered: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    checkpoint: bool,
    segment: bool,
    closing: bool,
}

impl Progress {
    pub(super) fn new(mark: Mark) -> Self {
        let progress = Self::default();
        progress.applied.store(mark.applied, Ordering::Release);
        progress.is_covered.store(mark.is_covered, Ordering::Release);
        progress
    }

    /// Records that the log contains every pending message from this frame on.
    pub(super) fn renewed(&self, first: u64) {
        self.renewed.store(first, Ordering::Release);
        self.is_covered.store(true, Ordering::Release);
        self.want(|wanted| wanted.checkpoint = true);
    }

    /// The first frame of the last renewal of the log.
    pub(super) fn renewed_from(&self) -> u64 {
        self.renewed.load(Ordering::Acquire)
    }

    /// Requests preparation of the next segment.
    pub(super) fn want_segment(&self) {
        self.want(|wanted| wanted.segment = true);
    }

    /// Applies everything, and ends the thread.
    pub(super) fn close(&self) {
        self.want(|wanted| wanted.closing = true);
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut lock(&self.wanted));
        self.wake.notify_all();
    }

    fn wait(&self, limit: Duration) -> Wanted {
        let wanted = lock(&self.wanted);
        let idle = |wanted: &mut Wanted| !(wanted.checkpoint || wanted.segment || wanted.closing);
        let (mut wanted, _) = self
            .wake
            .wait_timeout_while(wanted, limit, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let closing = wanted.closing;
        std::mem::replace(
            &mut *wanted,
            Wanted {
                closing,
                ..Wanted::default()
            },
        )
    }
}

impl Shared {
    /// Waits while the changes in memory are above the limit. Does not wait after a failure of the store or while the
    /// disk is full: no changes are added then.
    pub(super) fn wait_for_room(&self) {
        loop {
            let (active, all) = self.overlay.bytes();
            if active > MANY_BYTES {
                self.progress.want(|wanted| wanted.checkpoint = true);
            }
            let is_stuck = self.status.check().is_err() || self.status.room() < disk_space::RESERVE_BYTES;
            if all < FULL_BYTES || is_stuck {
                return;
            }
            let wanted = lock(&self.progress.wanted);
            let waited = self
                .progress
                .done
                .wait_timeout(wanted, Duration::from_millis(100));
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// The state of the thread.
pub(super) struct Checkpointer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Disk,
    pub(super) segments: Segments,
    pub(super) compaction: Compaction,
    pub(super) mark: Mark,
    pub(super) last: Instant,
}

impl Checkpointer {
    /// Runs until the store is closed or fails.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ending = Ending(&shared);
        loop {
            let wanted = shared.progress.wait(if self.compaction.is_copying() {
                Duration::ZERO
            } else {
                INTERVAL
            });
            if shared.status.check().is_err() {
                return;
            }
            shared.status.begin_checkpoint();
            let result = self.round(&wanted);
            shared.status.end_checkpoint();
            shared.progress.done.notify_all();
            if let Err(reason) = result {
                shared.status.fail(&reason);
                return;
            }
            if wanted.closing {
                return;
            }
        }
    }

    fn round(&mut self, wanted: &Wanted) -> Result<(), String> {
        let free = self.shared.status.room();
        let due = self.last.elapsed() >= INTERVAL || wanted.checkpoint || wanted.closing;
        // Changes for which the disk has no space stay in the log; the writer accepts no further ones meanwhile.
        if due && free >= disk_space::RESERVE_BYTES {
            self.checkpoint()
                .map_err(|error| format!("a checkpoint failed: {error}"))?;
            self.last = Instant::now();
        }
        let below = self.shared.progress.renewed_from().min(self.mark.applied + 1);
        self.segments
            .retire_before(below, free)
            .and_then(|()| {
                if wanted.segment {
                    self.segments.prepare(free)
                } else {
                    Ok(())
                }
            })
            .map_err(|error| format!("the log cannot change its segments: {error}"))?;
        if wanted.closing {
            return Ok(());
        }
        self.compact()
    }

    fn checkpoint(&mut self) -> Result<(), ::sled::Error> {
        let shared = Arc::clone(&self.shared);
        let layer = shared.overlay.freeze();
        let mark = Mark {
            applied: layer.reached.max(self.mark.applied),
            is_covered: shared.progress.is_covered.load(Ordering::Acquire),
        };
        if mark != self.mark {
            self.apply(&layer, mark)?;
        }
        drop(layer);
        shared.overlay.thaw();
        Ok(())
    }

    fn apply(&mut self, layer: &Layer, mark: Mark) -> Result<(), ::sled::Error> {
        let db = self.shared.overlay.db();
        self.disk.apply(&db, &layer.changes)?;
        self.disk.sync(&db)?;
        self.disk.mark(&db, mark)?;
        self.compaction.follow(&layer.changes);
        self.compaction.follow(&marked(mark));
        self.mark = mark;
        self.shared
            .progress
            .applied
            .store(mark.applied, Ordering::Release);
        Ok(())
    }

    /// Returns unneeded disk space, a little at a time.
    fn compact(&mut self) -> Result<(), String> {
        let shared = &self.shared;
        let live = lock(&shared.weight).of(shared.index.table().len());
        let bytes = self.disk.file.metadata().map_or(0, |file| file.len());
        self.compaction.consider(bytes, shared.status.room(), live);
        if !self.compaction.is_copying() {
            return Ok(());
        }
        if let Some((db, disk)) = self.compaction.step(&shared.overlay.db())? {
            shared.overlay.replace_db(db);
            self.disk = disk;
        }
        Ok(())
    }
}

/// Reports a panic of the checkpoint as a failure of the store.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.status.fail("the checkpoint panicked");
            self.0.status.end_checkpoint();
        }
        self.0.progress.done.notify_all();
    }
}
