//! Recovers the history of a database that was set aside, while the store is in use.
//!
//! All pending messages were recovered from the log already, so this is about ended ones. The files of the database
//! are searched for valid entries (see `record`), whatever the state of the pages around them. Records that the store
//! already has are not changed. A delivery that appears to be pending has lost its end: it becomes dead for the
//! operator to decide, and is not sent automatically.
//!
//! A file `recovering` names the databases that are still to be searched, so that recovery continues after a restart.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ::sled::IVec;
use tracing::info;

use super::super::Shared;
use super::super::index::IndexUpdate;
use super::super::keys::{self, Place};
use super::super::lock;
use super::super::record::{self, Entry, Kept, Lookup, MAGIC, Trouble};
use super::super::requests::Requests;
use super::super::stored::queue;
use super::super::write_batch::WriteBatch;
use super::folders::replace;
use crate::model::delivery::Delivery;
use crate::store::{Error, backup};

/// The reason of a dead delivery whose end was lost.
pub(in crate::store::sled) const LOST_END: &str =
    "its record was damaged: it may or may not have been delivered";

/// How much of a file is read at once, and how much of it overlaps with the next part; no entry is longer.
const CHUNK: usize = 1 << 20;
const OVERLAP: usize = 8 << 10;

/// The approximate number of bytes of entries that are collected before they are imported.
const GATHERED: u64 = 12 << 20;

/// The number of messages that are imported by one change.
const STEP: usize = 64;

/// The databases to search.
#[derive(Debug)]
pub(in crate::store::sled) struct History {
    store: PathBuf,
    folders: Vec<String>,
}

/// The newest entries under some keys, with their generations.
type Entries = HashMap<IVec, (u64, IVec)>;

impl History {
    /// The databases named in the file.
    pub(in crate::store::sled) fn load(store: &Path) -> io::Result<Option<Self>> {
        let named = match std::fs::read_to_string(store.join("recovering")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            named => named.unwrap_or_default(),
        };
        let folders: Vec<String> = named
            .lines()
            .map(str::to_owned)
            .filter(|name| store.join(name).exists())
            .collect();
        Ok((!folders.is_empty()).then(|| Self {
            store: store.to_owned(),
            folders,
        }))
    }

    /// Records that a database will be set aside under this name and must be searched.
    pub(in crate::store::sled) fn begin(store: &Path, name: &str) -> io::Result<()> {
        let mut folders = Self::load(store)?.map_or_else(Vec::new, |history| history.folders);
        folders.push(name.to_owned());
        Self {
            store: store.to_owned(),
            folders,
        }
        .write()
    }

    /// Searches all of them.
    pub(in crate::store::sled) fn bring_back(
        mut self,
        shared: &Shared,
        requests: &Requests,
        stopping: impl Fn() -> bool,
    ) -> Result<(), Error> {
        while let Some(name) = self.folders.last().cloned() {
            let file = File::open(self.store.join(&name).join("db"));
            let mut brought = 0;
            if let Ok(file) = file {
                let search = Search {
                    file,
                    shared,
                    requests,
                };
                match search.all(&stopping)? {
                    Some(count) => brought = count,
                    None => return Ok(()),
                }
            }
            shared.report(format!("recovered {brought} messages of the history in {name}"));
            self.folders.pop();
            let written = if self.folders.is_empty() {
                std::fs::remove_file(self.store.join("recovering"))
            } else {
                self.write()
            };
            written.map_err(|error| Error::Failed(error.to_string()))?;
        }
        let mut after = Some(Vec::new());
        while let Some(key) = after {
            after = requests.ask(move |batch| batch.drop_orphans(&key))?;
        }
        info!("recovered all readable history");
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        let lines: String = self.folders.iter().map(|name| format!("{name}\n")).collect();
        replace(&self.store.join("recovering"), &lines)
    }
}

struct Search<'a> {
    file: File,
    shared: &'a Shared,
    requests: &'a Requests,
}

impl Search<'_> {
    /// Imports everything that is found, in batches to limit memory. Returns the number of messages; `None` if it was
    /// stopped.
    fn all(&self, stopping: &impl Fn() -> bool) -> Result<Option<u64>, Error> {
        let length = self.file.metadata().map_or(0, |file| file.len());
        let last = lock(&self.shared.counters).ledger.counts.accepted;
        let step = last / (length / GATHERED + 1) + 1;
        let mut brought = 0;
        for first in (0..=last).step_by(step as usize) {
            let wanted = first..first + step;
            let found = self.gather(|entry| match keys::owner_of(entry.key) {
                Some(seq) => wanted.contains(&seq) && self.shared.index.table().get(seq).is_none(),
                None => first == 0 && matches!(entry.key.first(), Some(&(keys::SEEN | keys::THREAD))),
            });
            let mut messages: BTreeMap<Option<u64>, Entries> = BTreeMap::new();
            for (key, entry) in found {
                messages
                    .entry(keys::owner_of(&key))
                    .or_default()
                    .insert(key, entry);
            }
            let rest = messages.remove(&None).unwrap_or_default();
            self.requests.ask(move |batch| batch.bring_back_rest(rest))?;
            let mut messages = messages
                .into_iter()
                .filter_map(|(seq, entries)| Some((seq?, entries)))
                .peekable();
            while messages.peek().is_some() {
                if stopping() {
                    return Ok(None);
                }
                let some: Vec<(u64, Entries)> = messages.by_ref().take(STEP).collect();
                brought += self.requests.ask(move |batch| {
                    some.into_iter().try_fold(0, |count, (seq, entries)| {
                        Ok(count + u64::from(batch.bring_back(seq, entries)?))
                    })
                })?;
            }
        }
        Ok(Some(brought))
    }

    /// Finds the newest version of the wanted entries in the complete file. Unreadable parts are skipped.
    fn gather(&self, wanted: impl Fn(&Entry<'_>) -> bool) -> Entries {
        let mut found = Entries::new();
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        loop {
            let length = match self.file.read_at(&mut chunk, at) {
                Ok(0) => return found,
                Ok(length) => length,
                Err(_) if at > self.file.metadata().map_or(0, |file| file.len()) => return found,
                Err(_) => {
                    at += 4096;
                    continue;
                }
            };
            for offset in memchr::memmem::find_iter(&chunk[..length], &MAGIC) {
                let Some(entry) = Entry::find(&chunk[offset..length]).filter(&wanted) else {
                    continue;
                };
                let value = &chunk[offset..offset + entry.length()];
                let newest = found
                    .get(entry.key)
                    .is_none_or(|(generation, _)| *generation <= entry.generation);
                if newest {
                    found.insert(entry.key.into(), (entry.generation, value.into()));
                }
            }
            at += length.saturating_sub(OVERLAP).max(1) as u64;
            if length <= OVERLAP {
                return found;
            }
        }
    }
}

impl Lookup for Entries {
    fn lookup(&self, key: &[u8]) -> Result<Option<IVec>, ::sled::Error> {
        Ok(self.get(key).map(|(_, value)| value.clone()))
    }
}

impl WriteBatch<'_> {
    /// Imports one message with its deliveries. Returns true if it was readable and missing.
    fn bring_back(&mut self, seq: u64, entries: Entries) -> Result<bool, Error> {
        self.space.for_anything()?;
        let key = keys::message(seq);
        if self.view.has(&key).map_err(Trouble::from)? {
            return Ok(false);
        }
        let Ok(Some(Kept {
            message,
            mut deliveries,
        })) = record::load::<Kept>(&entries, &key)
        else {
            return Ok(false);
        };
        let found = entries
            .iter()
            .filter(|(key, _)| key.first() == Some(&keys::DELIVERY));
        let found =
            found.filter_map(|(key, (_, value))| record::decode::<Delivery>(&entries, key, value).ok());
        let mut later: Vec<Delivery> = found.collect();
        for (key, value) in self
            .view
            .page(&keys::deliveries(seq), None, usize::from(u16::MAX))
            .map_err(Trouble::from)?
        {
            later.extend(record::decode::<Delivery>(&self.view, &key, &value).ok());
            self.view.drop_record(&key).map_err(Trouble::from)?;
        }
        for delivery in later {
            deliveries.retain(|first| first.id.ordinal != delivery.id.ordinal);
            deliveries.push(delivery);
        }
        deliveries.sort_unstable_by_key(|delivery| delivery.id.ordinal);
        for delivery in &mut deliveries {
            if delivery.is_waiting() {
                let at = delivery.pending_since();
                *delivery = delivery.clone().dead(None, at, LOST_END);
            }
        }
        self.updates.push(IndexUpdate::message(seq, &message));
        for delivery in &deliveries {
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            self.updates
                .push(IndexUpdate::delivery(queue(&message, delivery), place, delivery));
        }
        if !message.provider_id.is_empty() {
            self.dedup_index
                .add(backup::digest(&message.source, &message.provider_id), seq);
        }
        let counts = &mut self.counters.ledger.counts;
        let count = deliveries.len() as u64;
        counts.messages_purged = counts.messages_purged.saturating_sub(1);
        counts.created += count.saturating_sub(counts.purged);
        counts.purged = counts.purged.saturating_sub(count);
        deliveries
            .iter()
            .for_each(|delivery| self.counters.enter(delivery));
        self.view
            .create(&key, &record::encode(&Kept { message, deliveries }));
        Ok(true)
    }

    /// Imports the records that belong to no message, unless the store has newer ones.
    fn bring_back_rest(&mut self, entries: Entries) -> Result<(), Error> {
        for (key, (_, value)) in entries {
            if !self.view.has(&key).map_err(Trouble::from)? {
                self.dedup_index.on_disk += u64::from(key.first() == Some(&keys::SEEN));
                if key.first() == Some(&keys::THREAD) {
                    let thread = keys::queue_of(&key);
                    lock(&self.shared.threaded).extend(thread.map(|thread| thread.destination));
                }
                self.view.put(key, value);
            }
        }
        Ok(())
    }

    /// Removes some deliveries whose messages are missing, after this key. Returns the last key; `None` if there are
    /// no more.
    fn drop_orphans(&mut self, after: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let entries = self
            .view
            .page(&[keys::DELIVERY], Some(after), 500)
            .map_err(Trouble::from)?;
        for (key, _) in &entries {
            let seq = keys::seq_of(key).unwrap_or_default();
            if !self.view.has(&keys::message(seq)).map_err(Trouble::from)? {
                self.view.drop_record(key).map_err(Trouble::from)?;
            }
        }
        Ok(entries
            .last()
            .filter(|_| entries.len() == 500)
            .map(|(key, _)| key.to_vec()))
    }
}
