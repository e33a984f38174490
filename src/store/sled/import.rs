//! Restores a backup into an empty store.
//!
//! Everything is written to a separate database beside that of the store, which replaces it when it is complete and
//! on disk. Until then the store stays empty, so an interrupted restore can be repeated.

use std::fs::File;

use super::changes::Changes;
use super::database::{self, Database};
use super::disk::Disk;
use super::index::counters::Counters;
use super::keys::{self, Queue};
use super::record::{self, Kept, Ledger, Mark, OLDEST, Root, Seen};
use super::recovery::folders::{self, RESTORING};
use super::recovery::{self, format};
use super::{OpenError, Options};
use crate::model::message::Conversation;
use crate::store::Counts;
use crate::store::backup::Record;

/// Entries committed together.
const COMMIT: usize = 2_000;

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store is not empty. Existing messages are never overwritten.
    #[error(
        "the store already has messages ({0} were accepted): set `store.path` to an empty folder, or move this one away"
    )]
    NotEmpty(u64),
    /// The store could not be written.
    #[error("the store could not be written: {0}")]
    Failed(String),
}

/// A restore in progress.
pub struct Import {
    options: Options,
    db: Database,
    disk: Disk,
    /// The last frame of the empty store's log. Its frames must not be applied to the restored database.
    reached: u64,
    counters: Counters,
    sums: Counts,
    messages: u64,
    changes: Changes,
    /// The lock of the store, held until the restored database is in place.
    _lock: File,
}

impl Import {
    /// Opens the store, which must be empty and not in use.
    ///
    /// # Errors
    /// When it is not empty or in use.
    pub fn begin(options: &Options) -> Result<Self, ImportError> {
        let lock = recovery::enter(&options.path)?;
        let opened = recovery::open(options)?;
        let accepted = opened.audited.counters.ledger.counts.accepted;
        if accepted > 0 {
            return Err(ImportError::NotEmpty(accepted));
        }
        let reached = opened.log.next() - 1;
        drop(opened);
        let (db, disk) = database::begin(options, RESTORING)?;
        Ok(Self {
            options: options.clone(),
            db,
            disk,
            reached,
            counters: Counters::default(),
            sums: Counts::default(),
            messages: 0,
            changes: Changes::new(),
            _lock: lock,
        })
    }

    /// Adds one record. Records must have the order of the backup.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, record: Record) -> Result<(), ImportError> {
        match record {
            Record::Sums(counts) => self.sums = counts,
            Record::Paused(destination) => {
                self.changes
                    .insert(keys::paused(&destination).into(), Some((&[]).into()));
            }
            Record::Message {
                seq,
                message,
                deliveries,
            } => {
                self.messages += 1;
                self.sums.accepted = self.sums.accepted.max(seq);
                let kept = Kept { message, deliveries };
                self.create(&keys::message(seq), &record::encode(&kept));
                kept.deliveries
                    .iter()
                    .for_each(|delivery| self.counters.enter(delivery));
            }
            Record::Seen {
                digest,
                id,
                seq,
                received_at,
            } => {
                self.create(
                    &keys::seen(digest),
                    &record::encode(&Seen { seq, id, received_at }),
                );
            }
            Record::Thread {
                destination,
                conversation,
                thread,
                at,
            } => {
                let conversation = Conversation(conversation);
                let key = keys::thread(&Queue {
                    destination,
                    conversation,
                });
                self.create(&key, &record::encode(&Root { thread, at }));
            }
        }
        if self.changes.len() >= COMMIT {
            self.commit()?;
        }
        Ok(())
    }

    /// Replaces the store by the restored database. Returns the number of messages and deliveries.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(u64, u64), ImportError> {
        let ledger = self.ledger();
        self.create(keys::LEDGER, &record::encode(&ledger));
        self.commit()?;
        let Self {
            options,
            db,
            disk,
            reached,
            messages,
            _lock,
            ..
        } = self;
        // Pending messages are not in the log yet.
        disk.sync(&db)
            .and_then(|()| {
                disk.mark(
                    &db,
                    Mark {
                        applied: reached,
                        is_covered: false,
                    },
                )
            })
            .map_err(|error| ImportError::Failed(error.to_string()))?;
        format::write(&options.path)?;
        drop(disk);
        db.close()
            .map_err(|error| ImportError::Failed(error.to_string()))?;
        folders::finish_restore(&options.path)?;
        let Counts { created, purged, .. } = ledger.counts;
        Ok((messages, created - purged))
    }

    /// The counters after the restore: messages that were removed before the backup stay counted.
    fn ledger(&self) -> Ledger {
        let Counts {
            delivered,
            dead,
            pending,
            ..
        } = self.counters.ledger.counts;
        let there = delivered + dead + pending;
        let counts = Counts {
            accepted: self.sums.accepted,
            messages_purged: self.sums.accepted.saturating_sub(self.messages),
            created: self.sums.purged + there,
            delivered,
            dead,
            pending,
            purged: self.sums.purged,
        };
        Ledger { commits: 1, counts }
    }

    fn create(&mut self, key: &[u8], payload: &[u8]) {
        let entries = record::entries(key, payload, OLDEST);
        self.changes
            .extend(entries.into_iter().map(|(key, value)| (key, Some(value))));
    }

    fn commit(&mut self) -> Result<(), ImportError> {
        let changes = std::mem::take(&mut self.changes);
        let applied = self.disk.apply(&self.db, &changes);
        applied.map_err(|error| ImportError::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::message::Timestamp;
    use crate::store::Store as _;
    use crate::store::conformance::{arrival, name};
    use crate::store::sled::tests::Folder;

    /// A restore of this many messages that has read its backup.
    fn restore(folder: &Folder, texts: u64) -> Result<Import, ImportError> {
        let mut import = Import::begin(&folder.options())?;
        for seq in 1..=texts {
            let arrival = arrival(seq, seq, &["desk"]);
            import.add(Record::Message {
                seq,
                message: arrival.message,
                deliveries: arrival.deliveries,
            })?;
        }
        Ok(import)
    }

    /// A store without messages that has some commits, and a restore that ends just before its database replaces that
    /// of the store.
    async fn interrupted() -> Folder {
        let folder = Folder::new();
        let store = folder.open();
        for paused in [true, false, true, false] {
            store.set_paused(&name("desk"), paused).await.unwrap();
        }
        drop(store);
        let former = folder.options().path.join(folders::FORMER);
        let import = restore(&folder, 3).unwrap();
        // A file with that name, which is not removed because it is not a folder.
        std::fs::write(&former, "").unwrap();
        assert!(matches!(import.finish(), Err(ImportError::Open(_))));
        std::fs::remove_file(&former).unwrap();
        folder
    }

    #[tokio::test]
    async fn a_restore_interrupted_before_the_replacement_can_be_repeated() {
        let folder = interrupted().await;
        assert_eq!(restore(&folder, 3).unwrap().finish().unwrap(), (3, 3));
        let store = folder.open();
        assert_eq!(store.health().findings, [""; 0]);
        assert_eq!(store.counts().await.unwrap().accepted, 3);
        drop(store);
        assert!(matches!(restore(&folder, 3), Err(ImportError::NotEmpty(3))));
    }

    #[tokio::test]
    async fn a_restore_interrupted_after_the_replacement_is_complete() {
        let folder = interrupted().await;
        let path = folder.options().path;
        std::fs::rename(folders::database(&path), path.join(folders::FORMER)).unwrap();
        let store = folder.open();
        assert_eq!(store.health().findings, [""; 0]);
        assert_eq!(store.counts().await.unwrap().accepted, 3);
    }

    #[tokio::test]
    async fn a_recipient_with_its_own_delivery_keeps_it_after_a_restore() {
        let folder = Folder::new();
        let mut import = Import::begin(&folder.options()).unwrap();
        let arrival = arrival(1, 1, &["desk"]);
        let whole = arrival.deliveries[0].clone();
        let mut own = whole.split("night@example.com");
        own.id.ordinal = 2;
        let done = crate::store::conformance::attempt(crate::model::delivery::Verdict::Delivered);
        let conversation = arrival.message.conversation();
        import
            .add(Record::Message {
                seq: 1,
                message: arrival.message,
                deliveries: vec![whole.delivered(done), own.clone()],
            })
            .unwrap();
        import.finish().unwrap();
        let store = folder.open();
        let recipients = ["desk@example.com", "night@example.com"].map(str::to_owned);
        let held = store.held(&name("desk"), conversation, &recipients).await;
        assert_eq!(held.unwrap(), recipients[1..]);
        let claims = store.claim(&name("desk"), Timestamp(9_999), 9).await.unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].delivery, own);
    }
}
