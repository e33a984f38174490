//! What is in the log and not yet in the database, in memory, and what lies below it.
//!
//! Two layers: the active one, to which the writer adds every group it has committed, and the frozen one, which the
//! checkpoint is putting into the database. A frozen layer is let go only when the database has all of it, so that
//! whoever looks into the layers first and then into the database misses nothing.

use std::ops::Bound::{Excluded, Included};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ::sled::{Db, IVec};

use super::changes::{Change, Changes, cloned, earlier, later};
use super::record::Lookup;

/// What an entry takes in memory beside its bytes, about.
const ENTRY_BYTES: usize = 120;

/// Everything that is committed: the layers over the database.
pub(super) struct Overlay(RwLock<Layers>);

struct Layers {
    active: Layer,
    frozen: Arc<Layer>,
    /// Taken under the same lock as a look into the layers: a compaction puts another one in its place.
    db: Arc<Db>,
}

/// Some changes, and the number of the last frame of the log that is in them.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) changes: Changes,
    pub(super) reached: u64,
    bytes: usize,
}

impl Overlay {
    /// A database with nothing over it yet.
    pub(super) fn over(db: Db) -> Self {
        Self(RwLock::new(Layers {
            active: Layer::default(),
            frozen: Arc::default(),
            db: Arc::new(db),
        }))
    }

    /// The database as it is now.
    pub(super) fn db(&self) -> Arc<Db> {
        Arc::clone(&self.read().db)
    }

    /// Puts another database with the same entries in its place.
    pub(super) fn replace_db(&self, db: Db) {
        let former = std::mem::replace(&mut self.write().db, Arc::new(db));
        // The last who holds it closes it, and not under the lock.
        drop(former);
    }

    /// Adds what a frame of the log has.
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

    /// Whether a key was changed so lately that the database does not have it yet.
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

    fn look<T>(&self, look: impl FnOnce(&Layers) -> T) -> (T, Arc<Db>) {
        let layers = self.read();
        (look(&layers), Arc::clone(&layers.db))
    }

    /// Begins a new active layer. The one before is frozen and is put into the database by whoever calls this.
    pub(super) fn freeze(&self) -> Arc<Layer> {
        let mut layers = self.write();
        let active = std::mem::take(&mut layers.active);
        layers.active.reached = active.reached;
        layers.frozen = Arc::new(active);
        Arc::clone(&layers.frozen)
    }

    /// Lets the frozen layer go: the database has it.
    pub(super) fn thaw(&self) {
        let frozen = std::mem::take(&mut self.write().frozen);
        // The last who holds it frees what may be many entries, and not under the lock.
        drop(frozen);
    }

    /// How many bytes of memory the active layer takes, and both together.
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
    /// The value of a key, or that it is removed; nothing when the database has it as it is.
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
