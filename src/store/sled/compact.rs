//! Compaction: copies a database file that is mostly empty into a new one while the store is in use.
//!
//! sled reuses the space of removed entries but never returns it: after a peak of a million messages the file keeps
//! its size. So the checkpoint's thread copies the tree in key order, in small steps, to a second database. A change
//! to a key that was already copied is written to both. When everything is copied and synced, the new folder replaces
//! the old one, between two checkpoints. Until then only the old database is used: after a crash or an error, nothing
//! has changed. An error during the replacement is as final as that of a commit (see `folders`).

use std::io;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::Path;
use std::time::{Duration, Instant};

use ::sled::Db;
use tracing::{info, warn};

use super::Options;
use super::changes::Changes;
use super::database::{self, Database};
use super::disk::Disk;
use super::recovery::folders::{self, COMPACTING, Step, Unfinished};
use super::scan::Scan;

/// Smaller files are not compacted.
const WORTHWHILE: u64 = 48 << 20;

/// The ratio of file size to live data above which a file is compacted.
const RATIO: u64 = 3;

/// The size of sled's file for an empty tree and for sparsely filled pages.
const BASE: u64 = 4 << 20;

/// Entries copied after each batch.
const STEP: usize = 400;

/// Delay after a compaction or a failed one.
const PAUSE: Duration = Duration::from_secs(60);

/// The compaction: idle, or in progress.
pub(super) struct Compaction {
    options: Options,
    worthwhile: u64,
    /// The function that performs each step of the replacement; tests inject failures.
    carry_out: fn(&Path, Step) -> io::Result<()>,
    copying: Option<Copying>,
    /// The size of the file after the last compaction. Estimates may be wrong and must not cause repeated
    /// compactions.
    left: u64,
    not_before: Option<Instant>,
}

struct Copying {
    db: Database,
    disk: Disk,
    /// The last copied key.
    reached: Vec<u8>,
    began: Instant,
}

impl Compaction {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            worthwhile: WORTHWHILE,
            carry_out: |folder, step| step.carry_out(folder),
            copying: None,
            left: 0,
            not_before: None,
        }
    }

    pub(super) fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Starts a compaction if it is worthwhile; `live` is the estimated size of the live data.
    pub(super) fn consider(&mut self, bytes: u64, free: u64, live: u64) {
        let large = bytes > self.worthwhile.max(2 * self.left) && bytes > RATIO * live + BASE;
        let room = free > 2 * live + 4 * BASE;
        let time = self.not_before.is_none_or(|moment| moment <= Instant::now());
        if self.is_copying() || !large || !room || !time {
            return;
        }
        match database::begin(&self.options, COMPACTING) {
            Ok((db, disk)) => {
                info!(
                    "compacting the store: {} MiB on disk, about {} MiB needed",
                    bytes >> 20,
                    (live + BASE) >> 20
                );
                let (reached, began) = (Vec::new(), Instant::now());
                self.copying = Some(Copying {
                    db,
                    disk,
                    reached,
                    began,
                });
            }
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    /// Applies the changes of a batch to the keys that were already copied.
    pub(super) fn follow(&mut self, changes: &Changes) {
        if let Some(copying) = &self.copying
            && let Err(error) = copying.follow(changes)
        {
            self.give_up(&error);
        }
    }

    /// Copies a few more entries. Returns the new database once it has replaced the old one.
    ///
    /// # Errors
    /// When neither database may be written to any more.
    pub(super) fn step(&mut self, db: &Db) -> Result<Option<(Database, Disk)>, String> {
        let Some(copying) = self.copying.as_mut() else {
            return Ok(None);
        };
        match copying.step(db) {
            Ok(false) => Ok(None),
            Ok(true) => self.finish(),
            Err(error) => {
                self.give_up(&error);
                Ok(None)
            }
        }
    }

    fn finish(&mut self) -> Result<Option<(Database, Disk)>, String> {
        let Some(Copying { db, disk, began, .. }) = self.copying.take() else {
            return Ok(None);
        };
        let flushed = disk
            .sync(&db)
            .map_err(|error| Unfinished::Unchanged(error.into()));
        match flushed.and_then(|()| folders::finish_compaction(&self.options.path, self.carry_out)) {
            Ok(bytes) => {
                info!(
                    "the store was compacted to {} MiB in {:.1} s",
                    bytes >> 20,
                    began.elapsed().as_secs_f64()
                );
                self.left = bytes;
                self.not_before = Some(Instant::now() + PAUSE);
                Ok(Some((db, disk)))
            }
            Err(Unfinished::Unchanged(error)) => {
                drop((db, disk));
                self.give_up(&error.to_string());
                Ok(None)
            }
            Err(Unfinished::Midway(error)) => Err(format!(
                "the compacted log may not have taken the old one's place on disk: {error}"
            )),
        }
    }

    fn give_up(&mut self, error: &str) {
        warn!("the store was not compacted and stays in use: {error}");
        self.copying = None;
        self.not_before = Some(Instant::now() + 10 * PAUSE);
        folders::drop_compaction(&self.options.path);
    }
}

impl Copying {
    fn follow(&self, changes: &Changes) -> Result<(), String> {
        let copied = changes.range::<[u8], _>((Unbounded, Included(&*self.reached)));
        self.disk
            .apply(&self.db, copied)
            .map_err(|error| error.to_string())
    }

    /// Returns true if everything is copied.
    fn step(&mut self, from: &Db) -> Result<bool, String> {
        let mut changes = Changes::new();
        let rest = from.range::<Vec<u8>, _>((Excluded(self.reached.clone()), Unbounded));
        for entry in Scan::of(from, rest).take(STEP) {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            self.reached = key.to_vec();
            changes.insert(key, Some(value));
        }
        self.disk
            .apply(&self.db, &changes)
            .and_then(|()| self.disk.flush(&self.db))
            .map_err(|error| error.to_string())?;
        Ok(changes.len() < STEP)
    }
}

/// The estimated size of the live data: bytes written per message, times the number of messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    pub(super) texts: u64,
    pub(super) bytes: u64,
}

impl Weight {
    pub(super) fn of(self, present: u64) -> u64 {
        self.bytes / self.texts.max(1) * present
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::message::Timestamp;
    use crate::store::conformance::{arrival, assert_adds_up};
    use crate::store::sled::Sled;
    use crate::store::sled::tests::Folder;
    use crate::store::{Error, RetentionCutoffs, Store};

    const WAITING: u64 = 20;

    /// A store with pending messages and a mostly empty file that will be compacted with this disk.
    async fn about_to_be_compacted(folder: &Folder, carry_out: fn(&Path, Step) -> io::Result<()>) -> Sled {
        let compaction = Compaction {
            worthwhile: 2 * BASE,
            carry_out,
            ..Compaction::new(&folder.options())
        };
        let store = Sled::open_with(&folder.options(), compaction).unwrap();
        for n in 1..=200 {
            let mut large = arrival(n, n, &[]);
            large.message.text = "x".repeat(60_000);
            store.accept(large).await.unwrap();
        }
        for n in 1_001..=1_000 + WAITING {
            store.accept(arrival(n, n % 100, &["desk"])).await.unwrap();
        }
        let cutoffs = RetentionCutoffs {
            purge_before: Some(Timestamp(201)),
            redact_before: None,
            dedup_before: Timestamp(201),
        };
        while let Ok(true) = store.prune(&cutoffs, Timestamp(2_000)).await {}
        store.checkpoint();
        store
    }

    /// Accepts messages until `done` returns true. Returns the number of acknowledged ones.
    async fn accept_until(store: &Sled, done: impl Fn(&Result<(), Error>) -> bool) -> u64 {
        for n in 1..100_000 {
            let accepted = store.accept(arrival(2_000 + n, n % 100, &["desk"])).await;
            let accepted = accepted.map(drop);
            if done(&accepted) {
                return n - u64::from(accepted.is_err());
            }
        }
        panic!("the compaction does not end");
    }

    async fn assert_waiting(store: &Sled, expected: u64) {
        assert_eq!(store.health().findings, [""; 0]);
        assert_eq!(assert_adds_up(store).await.pending, expected);
    }

    /// Simulates a disk failure while the new database replaces the old one.
    async fn assert_nothing_is_lost(carry_out: fn(&Path, Step) -> io::Result<()>) {
        let folder = Folder::new();
        let store = about_to_be_compacted(&folder, carry_out).await;
        let acknowledged = accept_until(&store, Result::is_err).await;
        let failed = store.health().failed.unwrap();
        assert!(failed.contains("the disk is gone"), "{failed}");
        drop(store);
        assert_waiting(&folder.open(), WAITING + acknowledged).await;
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_after_a_compaction_failed_half_way() {
        assert_nothing_is_lost(|folder, step| match step {
            Step::Rename(_, "sled") => Err(io::Error::other("the disk is gone")),
            step => step.carry_out(folder),
        })
        .await;
        assert_nothing_is_lost(|folder, step| match step {
            Step::SyncFolder if folder.join("sled.former").exists() => {
                Err(io::Error::other("the disk is gone"))
            }
            step => step.carry_out(folder),
        })
        .await;
    }

    #[tokio::test]
    async fn a_store_continues_after_a_compaction_that_changed_nothing() {
        static FAILED: AtomicBool = AtomicBool::new(false);
        let folder = Folder::new();
        let store = about_to_be_compacted(&folder, |folder, step| match step {
            Step::Rename("sled", _) => {
                FAILED.store(true, Ordering::SeqCst);
                Err(io::Error::other("not now"))
            }
            step => step.carry_out(folder),
        })
        .await;
        let left = || folder.options().path.join("sled.salvaged").exists();
        let acknowledged = accept_until(&store, |_| FAILED.load(Ordering::SeqCst) && !left()).await;
        assert_eq!(store.health().failed, None);
        drop(store);
        assert_waiting(&folder.open(), WAITING + acknowledged).await;
    }
}
