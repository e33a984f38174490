//! How sled's database is written to, and when that is on disk.
//!
//! On disk means `fdatasync` on a descriptor of our own: sled's `flush` hands its log to the kernel and asks for
//! write-back with `sync_file_range`, which on Linux waits neither for the disk's own cache nor for the metadata of a
//! file that has grown. An error here is as final as one of a commit.

use std::fs::File;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use ::sled::IVec;

use super::changes::Changes;
use super::keys;
use super::record::{self, Mark};

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
