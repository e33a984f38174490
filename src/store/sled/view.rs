//! The tree as it will be once the group being built is committed.
//!
//! The changes of a group are kept beside the tree until they go into it as one batch. Everything that decides
//! on a change reads through here, so that the fiftieth copy of a text finds the first one although neither
//! is in the tree yet.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

use ::sled::{Batch, IVec, Tree};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys;
use super::record::{self, Lookup, Trouble};

/// The new value by key; none removes it.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<IVec>>;

/// A tree and what is to be changed in it.
pub(super) struct View<'a> {
    tree: &'a Tree,
    changes: Changes,
}

impl Lookup for View<'_> {
    fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.tree.get(key),
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            changes: Changes::new(),
        }
    }

    /// A view that goes on where another one ended.
    pub(super) fn with(tree: &'a Tree, changes: Changes) -> Self {
        Self { tree, changes }
    }

    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// How many bytes the changes write.
    pub(super) fn bytes(&self) -> u64 {
        let written = |(key, value): (&Vec<u8>, &Option<IVec>)| {
            value.as_ref().map_or(0, |value| key.len() + value.len())
        };
        self.changes.iter().map(written).sum::<usize>() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// All changes in one piece.
    pub(super) fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in self.changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }

    pub(super) fn has(&self, key: &[u8]) -> Result<bool, ::sled::Error> {
        Ok(self.lookup(key)?.is_some())
    }

    pub(super) fn load<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Trouble> {
        record::load(self, key)
    }

    /// Sets an entry that is not a record: a mark in an index, or raw bytes set aside.
    pub(super) fn put(&mut self, key: Vec<u8>, value: impl Into<IVec>) {
        self.changes.insert(key, Some(value.into()));
    }

    /// Removes one entry.
    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Writes a record under a key that has none yet.
    pub(super) fn create(&mut self, key: &[u8], payload: &[u8]) {
        for (key, value) in record::entries(key, payload) {
            self.put(key, value);
        }
    }

    /// Writes a record over what is there.
    pub(super) fn store<T: Serialize>(&mut self, key: &[u8], record: &T) -> Result<(), ::sled::Error> {
        self.drop_record(key)?;
        self.create(key, &record::encode(record));
        Ok(())
    }

    /// Removes a record with all its parts.
    pub(super) fn drop_record(&mut self, key: &[u8]) -> Result<(), ::sled::Error> {
        if let Some(value) = self.lookup(key)? {
            for number in 1..=record::more_parts(&value) {
                self.remove(keys::part(key, number));
            }
            self.remove(key.to_vec());
        }
        Ok(())
    }

    /// The first entry at or after `from` and before `end`.
    pub(super) fn first(&self, from: &[u8], end: &[u8]) -> Result<Option<(IVec, IVec)>, ::sled::Error> {
        let changed = self.changes.range::<[u8], _>((Included(from), Excluded(end)));
        let changed = changed.into_iter().find_map(present);
        for entry in self.tree.range(from..end) {
            let (key, value) = entry?;
            if changed.as_ref().is_some_and(|(first, _)| *first <= key) {
                break;
            }
            if !self.changes.contains_key(&*key) {
                return Ok(Some((key, value)));
            }
        }
        Ok(changed)
    }

    /// The last entry at or after `from` and before `end`.
    pub(super) fn last(&self, from: &[u8], end: &[u8]) -> Result<Option<(IVec, IVec)>, ::sled::Error> {
        let changed = self.changes.range::<[u8], _>((Included(from), Excluded(end)));
        let changed = changed.rev().find_map(present);
        for entry in self.tree.range(from..end).rev() {
            let (key, value) = entry?;
            if changed.as_ref().is_some_and(|(last, _)| *last >= key) {
                break;
            }
            if !self.changes.contains_key(&*key) {
                return Ok(Some((key, value)));
            }
        }
        Ok(changed)
    }

    /// Up to `limit` entries with this beginning, after the key `after` if one is given.
    pub(super) fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(IVec, IVec)>, ::sled::Error> {
        let end = keys::end(prefix);
        let mut from = after
            .filter(|after| *after >= prefix)
            .map_or_else(|| prefix.to_vec(), next_key);
        let mut entries = Vec::new();
        while entries.len() < limit && from < end {
            let Some(entry) = self.first(&from, &end)? else {
                break;
            };
            from = next_key(&entry.0);
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn present((key, value): (&Vec<u8>, &Option<IVec>)) -> Option<(IVec, IVec)> {
    Some((IVec::from(key.as_slice()), value.clone()?))
}

/// The smallest key after this one.
fn next_key(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(view: &View<'_>, prefix: &[u8]) -> Vec<Vec<u8>> {
        view.page(prefix, None, 100)
            .unwrap()
            .into_iter()
            .map(|(key, _)| key.to_vec())
            .collect()
    }

    #[test]
    fn a_view_shows_the_tree_with_its_changes() {
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        for key in ["a1", "a3", "a5", "b1"] {
            db.insert(key, "old").unwrap();
        }
        let mut view = View::new(&db);
        view.remove(b"a1".to_vec());
        view.put(b"a2".to_vec(), "new");
        view.put(b"a3".to_vec(), "new");
        view.remove(b"a5".to_vec());
        assert_eq!(keys_of(&view, b"a"), [b"a2", b"a3"]);
        assert_eq!(&*view.first(b"a3", b"b").unwrap().unwrap().1, b"new");
        assert_eq!(&*view.last(b"a", b"b").unwrap().unwrap().0, b"a3");
        assert_eq!(view.page(b"a", Some(b"a2"), 1).unwrap()[0].0, "a3");
        db.apply_batch(view.into_batch()).unwrap();
        assert_eq!(
            keys_of(&View::new(&db), b""),
            Vec::<Vec<u8>>::new(),
            "nothing lies before the end of nothing"
        );
        assert_eq!(keys_of(&View::new(&db), b"a"), [b"a2", b"a3"]);
    }

    #[test]
    fn a_shorter_record_leaves_nothing_of_a_longer_one_behind() {
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        let mut view = View::new(&db);
        view.store(b"m1", &"x".repeat(20_000)).unwrap();
        view.store(b"m1", &"short").unwrap();
        db.apply_batch(view.into_batch()).unwrap();
        assert_eq!(db.len(), 1);
        assert_eq!(record::load::<String>(&*db, b"m1").unwrap().unwrap(), "short");
    }
}
