//! The store as it will be after the commit of the batch being built.
//!
//! There are three layers: the changes of the current batch, the changes that are in the log and not yet in the
//! database (see `overlay`), and the database. All decisions read through this view, so that a duplicate is detected
//! even if the first message is in the same batch.

use std::ops::Bound::{Excluded, Included};

use ::sled::IVec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::changes::{Changes, cloned, earlier, later};
use super::keys;
use super::overlay::Overlay;
use super::record::{self, Lookup, OLDEST, Trouble};

/// The committed entries, and the changes of the batch.
pub(super) struct View<'a> {
    base: &'a Overlay,
    /// The generation of the records that are written.
    generation: u64,
    changes: Changes,
    bytes: usize,
}

impl Lookup for View<'_> {
    fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.lookup(key),
        }
    }
}

impl<'a> View<'a> {
    /// A view for reading.
    pub(super) fn new(base: &'a Overlay) -> Self {
        Self::of(base, OLDEST)
    }

    /// A view that writes records of this generation.
    pub(super) fn of(base: &'a Overlay, generation: u64) -> Self {
        Self {
            base,
            generation,
            changes: Changes::new(),
            bytes: 0,
        }
    }

    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    /// The approximate size of the changes in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Returns true if a key was changed and the database does not have the change yet.
    pub(super) fn is_recent(&self, key: &[u8]) -> bool {
        self.changes.contains_key(key) || self.base.is_recent(key)
    }

    pub(super) fn has(&self, key: &[u8]) -> Result<bool, ::sled::Error> {
        Ok(self.lookup(key)?.is_some())
    }

    pub(super) fn load<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Trouble> {
        record::load(self, key)
    }

    /// Sets an entry without record framing.
    pub(super) fn put(&mut self, key: impl Into<IVec>, value: impl Into<IVec>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.changes.insert(key, Some(value));
    }

    /// Removes one entry.
    pub(super) fn remove(&mut self, key: impl Into<IVec>) {
        let key = key.into();
        self.bytes += key.len();
        self.changes.insert(key, None);
    }

    /// Writes a record under a new key.
    pub(super) fn create(&mut self, key: &[u8], payload: &[u8]) {
        for (key, value) in record::entries(key, payload, self.generation) {
            self.put(key, value);
        }
    }

    /// Replaces a record.
    pub(super) fn store<T: Serialize>(&mut self, key: &[u8], record: &T) -> Result<(), ::sled::Error> {
        self.drop_record(key)?;
        self.create(key, &record::encode(record));
        Ok(())
    }

    /// Like `store`, for an encoded record that replaces one whose number of further entries is known.
    pub(super) fn replace(&mut self, key: &[u8], parts: u16, payload: &[u8]) {
        (1..=parts).for_each(|number| self.remove(keys::part(key, number)));
        self.create(key, payload);
    }

    /// Removes a record with all its parts.
    pub(super) fn drop_record(&mut self, key: &[u8]) -> Result<(), ::sled::Error> {
        if let Some(value) = self.lookup(key)? {
            for number in 1..=record::more_parts(&value) {
                self.remove(keys::part(key, number));
            }
            self.remove(key);
        }
        Ok(())
    }

    /// The first entry at or after `from` and before `end`.
    pub(super) fn first(&self, from: &[u8], end: &[u8]) -> Result<Option<(IVec, IVec)>, ::sled::Error> {
        let mut from = IVec::from(from);
        while &*from < end {
            let changed = self
                .changes
                .range::<[u8], _>((Included(&*from), Excluded(end)))
                .next();
            let below = self.base.first(&from, end)?;
            let Some((key, value)) = earlier(changed.map(cloned), below) else {
                break;
            };
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
            from = next_key(&key);
        }
        Ok(None)
    }

    /// The last entry at or after `from` and before `end`.
    pub(super) fn last(&self, from: &[u8], end: &[u8]) -> Result<Option<(IVec, IVec)>, ::sled::Error> {
        let mut end = IVec::from(end);
        while from < &*end {
            let changed = self
                .changes
                .range::<[u8], _>((Included(from), Excluded(&*end)))
                .next_back();
            let below = self.base.last(from, &end)?;
            let Some((key, value)) = later(changed.map(cloned), below) else {
                break;
            };
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
            end = key;
        }
        Ok(None)
    }

    /// Up to `limit` entries with this prefix, after the key `after` if given.
    pub(super) fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(IVec, IVec)>, ::sled::Error> {
        let end = keys::end(prefix);
        let mut from = after
            .filter(|after| *after >= prefix)
            .map_or_else(|| IVec::from(prefix), next_key);
        let mut entries = Vec::new();
        while entries.len() < limit && *from < *end {
            let Some(entry) = self.first(&from, &end)? else {
                break;
            };
            from = next_key(&entry.0);
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// The smallest key after this one.
fn next_key(key: &[u8]) -> IVec {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> ::sled::Db {
        ::sled::Config::new().temporary(true).open().unwrap()
    }

    fn keys_of(view: &View<'_>, prefix: &[u8]) -> Vec<Vec<u8>> {
        view.page(prefix, None, 100)
            .unwrap()
            .into_iter()
            .map(|(key, _)| key.to_vec())
            .collect()
    }

    #[test]
    fn a_view_shows_every_layer_with_the_changes_above_it() {
        let base = Overlay::over(database().into());
        for key in ["a1", "a3", "a5", "a7", "b1"] {
            base.db().insert(key, "old").unwrap();
        }
        let changes = |words: &[(&str, Option<&str>)]| {
            let change = |(key, value): &(&str, Option<&str>)| (IVec::from(*key), value.map(IVec::from));
            words.iter().map(change).collect::<Changes>()
        };
        base.add(
            changes(&[("a5", Some("frozen")), ("a6", Some("frozen")), ("a7", None)]),
            1,
        );
        base.freeze();
        base.add(changes(&[("a6", None), ("a7", Some("active"))]), 2);
        let mut view = View::new(&base);
        view.remove(b"a1");
        view.put(b"a2", "new");
        view.put(b"a3", "new");
        let value = |key: &str| {
            view.lookup(key.as_bytes())
                .unwrap()
                .map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        let seen = ["a1", "a2", "a3", "a5", "a6", "a7", "b1"].map(value);
        let seen = seen.map(|value| value.unwrap_or_default());
        assert_eq!(seen, ["", "new", "new", "frozen", "", "active", "old"]);
        assert_eq!(keys_of(&view, b"a"), [b"a2", b"a3", b"a5", b"a7"]);
        assert_eq!(&*view.first(b"a3", b"b").unwrap().unwrap().1, b"new");
        assert_eq!(&*view.last(b"a", b"b").unwrap().unwrap().1, b"active");
        assert_eq!(&*view.last(b"a", b"a7").unwrap().unwrap().0, b"a5");
        assert_eq!(view.page(b"a", Some(b"a2"), 1).unwrap()[0].0, "a3");
        assert!(
            view.page(b"", None, 9).unwrap().is_empty(),
            "an empty range has no last entry"
        );
        assert!(view.is_recent(b"a2") && view.is_recent(b"a6") && !view.is_recent(b"b1"));
    }

    #[test]
    fn a_shorter_record_replaces_all_parts_of_a_longer_one() {
        let base = Overlay::over(database().into());
        let mut view = View::new(&base);
        view.store(b"m1", &"x".repeat(20_000)).unwrap();
        view.store(b"m1", &"short").unwrap();
        for (key, value) in view.into_changes() {
            match value {
                Some(value) => base.db().insert(key, value).unwrap(),
                None => base.db().remove(key).unwrap(),
            };
        }
        assert_eq!(base.db().len(), 1);
        assert_eq!(record::load::<String>(&base, b"m1").unwrap().unwrap(), "short");
    }
}
