//! Writes to sled's database, and syncs it to disk.
//!
//! Syncing means `fdatasync` on our own file descriptor: sled's `flush` passes its log to the kernel and requests
//! write-back with `sync_file_range`, which on Linux waits neither for the disk's cache nor for the metadata of a
//! file that has grown. An error here is as final as that of a commit.

use std::fs::File;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use ::sled::IVec;

use super::changes::Changes;
use super::keys;
use super::record::{self, Mark};

/// Interval of checks for a write error while a flush is in progress.
const LOOK: Duration = Duration::from_millis(200);

/// A sled database for writing.
pub(super) struct Disk {
    pub(super) file: File,
    /// sled's context, which is the first to know about a failed write.
    pub(super) config: ::sled::Config,
    /// Skips the sync: see [`Options::skip_sync`](super::Options::skip_sync).
    pub(super) skip_sync: bool,
}

impl Disk {
    /// Applies changes. They are on disk after [`sync`](Self::sync).
    /// Not as a sled batch: a batch holds a lock over all of sled while it waits for the disk, and would block all
    /// readers. The changes need not become visible together, because readers check the overlay first, and a start
    /// applies them again.
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

    /// sled writes its log on its own threads. When such a write fails it stores the error, but does not always wake
    /// the flush that waits for it, which would then wait for ever. So the error is checked periodically.
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

    /// Records durably the last frame that the database contains. The frames must be on disk already.
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
