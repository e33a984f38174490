//! The checkpoint: about once a second, or sooner when much has gathered, what the log has and the database does not
//! goes into the database, in large batches.
//!
//! A thread of its own is the only one that writes to sled. It freezes what has gathered (see `overlay`), applies it,
//! flushes and syncs, and then notes in the database itself how far of the log it has come. The note is a step of
//! its own, synced as well: should anything end in between, the frames are simply applied again at the next start.
//! Only behind a synced note may segments of the log go.
//!
//! On disk means `fdatasync` on a descriptor of our own: sled's `flush` hands its log to the kernel and asks for
//! write-back with `sync_file_range`, which on Linux waits neither for the disk's own cache nor for the metadata of a
//! file that has grown. An error here is as final as one of a commit.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ::sled::IVec;

use super::compact::Compaction;
use super::log::Segments;
use super::overlay::Layer;
use super::record::{self, Mark};
use super::view::Changes;
use super::{Shared, keys, lock, space};

/// How long changes gather at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much of them calls for a checkpoint at once.
const MANY_BYTES: usize = 8 << 20;

/// How much may be there before commits wait for the checkpoint.
const FULL_BYTES: usize = 24 << 20;

/// How long a flush is waited for before a look whether it has failed.
const LOOK: Duration = Duration::from_millis(200);

/// One of sled's databases as it is written to.
pub(super) struct Disk {
    pub(super) file: File,
    /// What sled was opened with: it knows first when a write has failed.
    pub(super) config: ::sled::Config,
    /// Leaves out the sync: only to show that a test of durability would notice.
    pub(super) skip_sync: bool,
}

impl Disk {
    /// Applies changes. They are on disk after [`sync`](Self::sync).
    ///
    /// Not as a batch: that holds a lock over all of sled while it waits for the disk, and everybody who reads would
    /// wait with it. Nothing needs these changes to appear together, since readers look into the overlay first, and a
    /// start applies them again.
    pub(super) fn apply<'a>(
        &self,
        db: &::sled::Db,
        changes: impl IntoIterator<Item = (&'a IVec, &'a Option<IVec>)>,
    ) -> Result<(), ::sled::Error> {
        for (key, value) in changes {
            match value {
                Some(value) => db.insert(key, value)?,
                None => db.remove(key)?,
            };
        }
        Ok(())
    }

    pub(super) fn sync(&self, db: &::sled::Db) -> Result<(), ::sled::Error> {
        self.flush(db)?;
        if !self.skip_sync {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// sled writes its log on threads of its own. When such a write fails it keeps the error, but does not always wake
    /// the flush that waits for the write, which then waits for ever: so the error is looked for meanwhile.
    pub(super) fn flush(&self, db: &::sled::Db) -> Result<(), ::sled::Error> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut flushing = std::pin::pin!(db.flush_async());
        loop {
            if let Poll::Ready(flushed) = flushing.as_mut().poll(&mut Context::from_waker(&waker)) {
                return flushed.map(drop);
            }
            self.config.global_error()?;
            std::thread::park_timeout(LOOK);
        }
    }

    /// Notes how far the database has come, durably. What it says must be on disk.
    pub(super) fn mark(&self, db: &::sled::Db, mark: Mark) -> Result<(), ::sled::Error> {
        self.apply(db, &marked(mark))?;
        self.sync(db)
    }
}

/// Wakes a thread that waits for a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The entries of a mark.
pub(super) fn marked(mark: Mark) -> Changes {
    let entries = record::entries(keys::MARK, &record::encode(&mark), record::OLDEST);
    entries
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect()
}

/// How far the database and the log have come, and what the threads want of each other.
#[derive(Default)]
pub(super) struct Progress {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    done: Condvar,
    /// The database has all frames up to this one, on disk.
    applied: AtomicU64,
    /// From this frame on every pending message is in the log.
    renewed: AtomicU64,
    /// Whether every pending message is in the log.
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

    /// Every pending message is in the log, from this frame on.
    pub(super) fn renewed(&self, first: u64) {
        self.renewed.store(first, Ordering::Release);
        self.is_covered.store(true, Ordering::Release);
        self.want(|wanted| wanted.checkpoint = true);
    }

    /// From which frame on the log was last renewed.
    pub(super) fn renewed_from(&self) -> u64 {
        self.renewed.load(Ordering::Acquire)
    }

    /// The next segment of the log will soon be needed.
    pub(super) fn want_segment(&self) {
        self.want(|wanted| wanted.segment = true);
    }

    /// Has everything applied, and ends the thread.
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
    /// Waits while so much has gathered that memory would run out. A failed store is not waited for, nor is a full
    /// disk: nothing can be added then.
    pub(super) fn wait_for_room(&self) {
        loop {
            let (active, all) = self.overlay.bytes();
            if active > MANY_BYTES {
                self.progress.want(|wanted| wanted.checkpoint = true);
            }
            let is_stuck = self.status.check().is_err() || self.status.room() < space::RESERVE_BYTES;
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

/// The thread's belongings.
pub(super) struct Checkpointer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Disk,
    pub(super) segments: Segments,
    pub(super) compaction: Compaction,
    pub(super) mark: Mark,
    pub(super) last: Instant,
}

impl Checkpointer {
    /// Works until it is told to close, or fails.
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
        // What does not fit stays in the log; the writer takes nothing more meanwhile.
        if due && free >= space::RESERVE_BYTES {
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

    /// Gives space back that the database does not need any more, a little at a time.
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

/// A checkpoint that panics leaves word of it.
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
