//! The changes that are in the log and not yet in the database, kept in memory over the database.
//!
//! There are two layers: the writer adds every committed batch to the active one, while the checkpoint writes the
//! frozen one to the database. A frozen layer is dropped only when the database has all of it, so a reader that
//! checks the layers first and then the database misses nothing.

use std::ops::Bound::{Excluded, Included};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ::sled::IVec;

use super::changes::{Change, Changes, cloned, earlier, later};
use super::database::Database;
use super::record::Lookup;

/// The approximate memory of an entry in addition to its bytes.
const ENTRY_BYTES: usize = 120;

/// Everything committed: the layers over the database.
pub(super) struct Overlay(RwLock<Layers>);

struct Layers {
    active: Layer,
    frozen: Arc<Layer>,
    /// Read under the same lock as the layers, because a compaction replaces it.
    db: Arc<Database>,
}

/// Changes, and the last frame of the log among them.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) changes: Changes,
    pub(super) reached: u64,
    bytes: usize,
}

impl Overlay {
    /// A database without changes over it.
    pub(super) fn over(db: Database) -> Self {
        Self(RwLock::new(Layers {
            active: Layer::default(),
            frozen: Arc::default(),
            db: Arc::new(db),
        }))
    }

    /// The current database.
    pub(super) fn db(&self) -> Arc<Database> {
        Arc::clone(&self.read().db)
    }

    /// Replaces the database by another one with the same entries.
    pub(super) fn replace_db(&self, db: Database) {
        let former = std::mem::replace(&mut self.write().db, Arc::new(db));
        // The last holder closes the old one, which should not happen under the lock.
        drop(former);
    }

    /// Adds the changes of a frame.
    pub(super) fn add(&self, changes: Changes, reached: u64) {
        let mut layers = self.write();
        let active = &mut layers.active;
        for (key, value) in changes {
            let own = key.len() + ENTRY_BYTES;
            let length = |value: &Option<IVec>| own + value.as_ref().map_or(0, |value| value.len());
            active.bytes += length(&value);
            if let Some(before) = active.changes.insert(key, value) {
                active.bytes -= length(&before);
            }
        }
        active.reached = reached;
    }

    /// Returns true if a key was changed and the database does not have the change yet.
    pub(super) fn is_recent(&self, key: &[u8]) -> bool {
        self.read().get(key).is_some()
    }

    /// The first change or entry at or after `from` and before `end`.
    pub(super) fn first(&self, from: &[u8], end: &[u8]) -> Result<Option<Change>, ::sled::Error> {
        let range = (Included(from), Excluded(end));
        let of = |layer: &Layer| layer.changes.range::<[u8], _>(range).next().map(cloned);
        let (above, db) = self.look(|layers| earlier(of(&layers.active), of(&layers.frozen)));
        let below = db.range(from..end).next().transpose()?;
        Ok(earlier(above, below.map(|(key, value)| (key, Some(value)))))
    }

    /// The last change or entry at or after `from` and before `end`.
    pub(super) fn last(&self, from: &[u8], end: &[u8]) -> Result<Option<Change>, ::sled::Error> {
        let range = (Included(from), Excluded(end));
        let of = |layer: &Layer| layer.changes.range::<[u8], _>(range).next_back().map(cloned);
        let (above, db) = self.look(|layers| later(of(&layers.active), of(&layers.frozen)));
        let below = db.range(from..end).next_back().transpose()?;
        Ok(later(above, below.map(|(key, value)| (key, Some(value)))))
    }

    fn look<T>(&self, look: impl FnOnce(&Layers) -> T) -> (T, Arc<Database>) {
        let layers = self.read();
        (look(&layers), Arc::clone(&layers.db))
    }

    /// Starts a new active layer. The previous one is frozen, and the caller writes it to the database.
    pub(super) fn freeze(&self) -> Arc<Layer> {
        let mut layers = self.write();
        let active = std::mem::take(&mut layers.active);
        layers.active.reached = active.reached;
        layers.frozen = Arc::new(active);
        Arc::clone(&layers.frozen)
    }

    /// Drops the frozen layer, because the database has it.
    pub(super) fn thaw(&self) {
        let frozen = std::mem::take(&mut self.write().frozen);
        // The last holder frees what may be many entries, which should not happen under the lock.
        drop(frozen);
    }

    /// The memory of the active layer and of both layers together, in bytes.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let layers = self.read();
        (layers.active.bytes, layers.active.bytes + layers.frozen.bytes)
    }

    fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layers {
    /// The changed value of a key, or `Some(None)` if it is removed; `None` if the database has the current value.
    fn get(&self, key: &[u8]) -> Option<&Option<IVec>> {
        let changed = self.active.changes.get(key);
        changed.or_else(|| self.frozen.changes.get(key))
    }
}

impl Lookup for Overlay {
    fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
        let (changed, db) = self.look(|layers| layers.get(key).cloned());
        match changed {
            Some(changed) => Ok(changed),
            None => db.get(key),
        }
    }
}
